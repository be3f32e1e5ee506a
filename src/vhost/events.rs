//! What happens in the broker, told to the topic exchange [`EXCHANGE`] of the default virtual host (RabbitMQ: "Event
//! Exchange"): an empty message whose routing key says what happened, and whose headers say to what.
//!
//! Doors and rooms hold [`Events`] and tell it; nothing calls back. While nothing is bound to the exchange that is one
//! look at a flag. Otherwise the message joins those that wait, and whoever finds nobody else at it publishes them all:
//! so nobody waits, events keep their order, and an event that comes about while one is published joins the list
//! instead of going deeper. They are published without any lock, and reach queues as any message does; whose consumers
//! are slow is that queue's own concern.
//!
//! Keys, headers and their types are as recorded from RabbitMQ 4.3.6 (`rabbit_exchange_type_event.erl`), which sorts the
//! headers and gives what it can't tell otherwise (arguments, addresses) as Erlang terms. Processes, which RabbitMQ names
//! connections and channels by, have names of the same form here ([`Events::connection_pid`]).

use super::topology::Removed;
use super::{Vhost, VhostLimits};
use crate::amqp::Table;
use crate::amqp::properties;
use crate::amqp::table::{Fields, Writer};
use crate::amqp::term::{field_terms, json_term};
use crate::auth::UserLimits;
use crate::auth::certificate::Shown;
use crate::clock::Clock;
use crate::exchange::{Binding, Declared, Destination};
use crate::policy::{Kind, Policy};
use crate::queue::Queue;
use crate::queue::classic::Acts;
use crate::queue::settings::QueueType;
use crossbeam_queue::SegQueue;
use parking_lot::Mutex;
use serde_json::Value as Json;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

pub const EXCHANGE: &str = "amq.rabbitmq.event";

/// Who does what the broker does by itself.
pub const HOUSE: &str = "rmq-internal";

/// So many events wait to be published; more are dropped. Somebody is publishing them meanwhile.
const WAITING_MAX: usize = 16_384;

#[derive(Debug)]
pub struct Events {
    /// What the broker calls itself.
    node: Arc<str>,
    /// The name of the virtual host that has the exchange.
    vhost: Arc<str>,
    clock: Clock,
    /// Tells names of processes from those of an earlier start.
    started_s: u64,
    /// Something is bound to the exchange.
    heard: AtomicBool,
    home: Mutex<Weak<Vhost>>,
    waiting: SegQueue<Event>,
    waiting_count: AtomicUsize,
    /// Somebody is publishing.
    publishing: AtomicBool,
    /// Dropping was told.
    dropped: AtomicBool,
}

#[derive(Debug)]
struct Event {
    key: &'static str,
    /// Raw properties.
    properties: Vec<u8>,
}

/// A connection as its events show it.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    pub number: u64,
    pub name: &'a str,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The mechanism it logged in with.
    pub mechanism: &'a str,
    pub client_properties: &'a Table,
    pub tls: Option<&'a Tls>,
}

/// What a connection over TLS agreed on, in RabbitMQ's words, and what its client showed.
#[derive(Debug)]
pub struct Tls {
    /// `tlsv1.3`.
    pub protocol: &'static str,
    /// `any`, or `ecdhe_rsa`.
    pub key_exchange: &'static str,
    /// `aes_256_gcm`.
    pub cipher: &'static str,
    /// `aead`.
    pub hash: &'static str,
    pub certificate: Option<Shown>,
}

/// What is known of a connection once it is open.
#[derive(Debug, Clone, Copy)]
pub struct Opened<'a> {
    pub connected_at_ms: u64,
    pub user: &'a str,
    pub vhost: &'a str,
    pub heartbeat_s: u64,
    pub frame_max: u32,
    pub channel_max: u16,
}

/// A channel: its connection's number and name, its own number, and one that no other of its connection has.
#[derive(Debug, Clone, Copy)]
pub struct Channel<'a> {
    pub connection: u64,
    pub connection_name: &'a str,
    pub number: u16,
    pub epoch: u64,
    pub user: &'a str,
}

/// A consumer as it was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Consumer<'a> {
    pub tag: &'a str,
    pub queue: &'a Queue,
    pub no_ack: bool,
    pub exclusive: bool,
    pub prefetch: u32,
    pub arguments: &'a Table,
}

/// Somebody is publishing, until it is dropped.
struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Not just a store: the look at the list that follows must see what was added before somebody found this set.
        self.0.swap(false, Ordering::AcqRel);
    }
}

impl Events {
    /// `node` is what the broker calls itself, `vhost` the virtual host of the exchange.
    pub fn new(node: &str, vhost: &str, clock: Clock) -> Self {
        Self {
            node: node.into(),
            vhost: vhost.into(),
            clock,
            started_s: clock.now_ms() / 1000,
            heard: AtomicBool::new(false),
            home: Mutex::default(),
            waiting: SegQueue::new(),
            waiting_count: AtomicUsize::new(0),
            publishing: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
        }
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    /// Whether the exchange is this virtual host's.
    pub fn live_in(&self, vhost: &str) -> bool {
        *self.vhost == *vhost
    }

    /// The virtual host is there, and has the exchange.
    pub(super) fn move_in(&self, home: Weak<Vhost>) {
        *self.home.lock() = home;
    }

    /// Whether anybody listens. Called under the topology's lock, so that the last call is right.
    pub(super) fn set_heard(&self, heard: bool) {
        self.heard.store(heard, Ordering::Relaxed);
    }

    /// The name of a connection's process, as it were.
    pub fn connection_pid(&self, connection: u64) -> String {
        format!("<{}.{}.{connection}.0>", self.node, self.started_s)
    }

    fn channel_pid(&self, channel: &Channel<'_>) -> String {
        format!("<{}.{}.{}.{}>", self.node, self.started_s, channel.connection, channel.epoch)
    }

    // ── Connections and channels ──────────────────────────────────────────────────────────────────────────────────

    pub fn authenticated(&self, connection: &Connection<'_>, user: &str) {
        self.tell("user.authentication.success", |fields| {
            text(fields, "name", user);
            authentication(fields, connection);
        });
    }

    /// `user` is not known if the response could not be read.
    pub fn not_authenticated(&self, connection: &Connection<'_>, user: Option<&str>, why: &str) {
        self.tell("user.authentication.failure", |fields| {
            if let Some(user) = user {
                text(fields, "name", user);
            }
            // A text that RabbitMQ composed is a list of characters to it.
            fields.key("error").array(|items| why.chars().for_each(|c| items.long(u32::from(c).into())));
            authentication(fields, connection);
        });
    }

    pub fn connection_created(&self, connection: &Connection<'_>, opened: &Opened<'_>) {
        self.tell("connection.created", |fields| {
            self.connection(fields, connection);
            addresses(fields, connection);
            text(fields, "type", "network");
            number(fields, "port", connection.local.port());
            text(fields, "auth_mechanism", connection.mechanism);
            let tls = connection.tls;
            match tls.and_then(|tls| tls.certificate.as_ref()) {
                Some(shown) => certificate(fields, shown),
                None => certificate(fields, &Shown::default()),
            }
            text(fields, "ssl_cipher", tls.map_or("", |tls| tls.cipher));
            text(fields, "ssl_hash", tls.map_or("", |tls| tls.hash));
            text(fields, "ssl_key_exchange", tls.map_or("", |tls| tls.key_exchange));
            text(fields, "ssl_protocol", tls.map_or("", |tls| tls.protocol));
            text(fields, "user", opened.user);
            text(fields, "vhost", opened.vhost);
            number(fields, "timeout", opened.heartbeat_s);
            number(fields, "frame_max", opened.frame_max);
            number(fields, "channel_max", opened.channel_max);
            number(fields, "connected_at", opened.connected_at_ms);
            by(fields, opened.user);
        });
    }

    pub fn connection_closed(&self, connection: &Connection<'_>) {
        self.tell("connection.closed", |fields| self.connection(fields, connection));
    }

    fn connection(&self, fields: &mut Writer, connection: &Connection<'_>) {
        text(fields, "name", connection.name);
        text(fields, "node", &self.node);
        text(fields, "pid", &self.connection_pid(connection.number));
        terms(fields, "client_properties", connection.client_properties);
        let given = connection.client_properties.inner().get("connection_name");
        if let Some(name) = given.and_then(crate::amqp::table::as_str) {
            text(fields, "user_provided_name", name);
        }
    }

    pub fn channel_created(&self, channel: &Channel<'_>, vhost: &str) {
        self.tell("channel.created", |fields| {
            text(fields, "pid", &self.channel_pid(channel));
            text(fields, "name", &format!("{} ({})", channel.connection_name, channel.number));
            text(fields, "connection", &self.connection_pid(channel.connection));
            number(fields, "number", channel.number);
            text(fields, "user", channel.user);
            text(fields, "vhost", vhost);
            by(fields, channel.user);
        });
    }

    pub fn channel_closed(&self, channel: &Channel<'_>, consumer_count: usize) {
        self.tell("channel.closed", |fields| {
            text(fields, "pid", &self.channel_pid(channel));
            number(fields, "consumer_count", u64::try_from(consumer_count).unwrap_or(u64::MAX));
            by(fields, channel.user);
        });
    }

    pub fn consumer_created(&self, channel: &Channel<'_>, consumer: &Consumer<'_>) {
        self.tell("consumer.created", |fields| {
            self.consumer(fields, channel, consumer.tag, consumer.queue);
            flag(fields, "ack_required", !consumer.no_ack);
            flag(fields, "exclusive", consumer.exclusive);
            number(fields, "prefetch_count", consumer.prefetch);
            terms(fields, "arguments", consumer.arguments);
            by(fields, channel.user);
        });
    }

    /// `user`: who ended it. Nobody is named if it ended with its queue.
    pub fn consumer_deleted(&self, channel: &Channel<'_>, tag: &str, queue: &Queue, user: Option<&str>) {
        self.tell("consumer.deleted", |fields| {
            self.consumer(fields, channel, tag, queue);
            if let Some(user) = user {
                by(fields, user);
            }
        });
    }

    fn consumer(&self, fields: &mut Writer, channel: &Channel<'_>, tag: &str, queue: &Queue) {
        text(fields, "channel", &self.channel_pid(channel));
        text(fields, "consumer_tag", tag);
        text(fields, "queue", &queue.identity.name);
        text(fields, "vhost", &queue.identity.vhost);
    }

    // ── Queues, exchanges, bindings ───────────────────────────────────────────────────────────────────────────────

    pub(super) fn queue_created(&self, queue: &Queue, user: &str) {
        self.tell("queue.created", |fields| {
            let queue_type = queue_named(fields, queue);
            let identity = &queue.identity;
            terms(fields, "arguments", &identity.arguments);
            flag(fields, "durable", identity.durable);
            flag(fields, "auto_delete", identity.auto_delete);
            flag(fields, "exclusive", identity.exclusive.is_some());
            if queue_type == QueueType::Classic {
                let owner = identity.exclusive.map(|connection| self.connection_pid(connection));
                text(fields, "owner_pid", &owner.unwrap_or_default());
                text(fields, "leader", &self.node);
                fields.key("members").array(|items| items.long_string(self.node.as_bytes()));
            }
            by(fields, user);
        });
    }

    pub(super) fn queue_deleted(&self, queue: &Queue, user: &str) {
        self.tell("queue.deleted", |fields| {
            queue_named(fields, queue);
            by(fields, user);
        });
    }

    pub(super) fn exchange_created(
        &self,
        vhost: &str,
        name: &str,
        exchange: &Declared<'_>,
        policy: Option<&str>,
        user: &str,
    ) {
        self.tell("exchange.created", |fields| {
            text(fields, "name", name);
            text(fields, "vhost", vhost);
            text(fields, "type", exchange.kind.name());
            flag(fields, "durable", exchange.durable);
            flag(fields, "auto_delete", exchange.auto_delete);
            flag(fields, "internal", exchange.internal);
            terms(fields, "arguments", exchange.arguments);
            text(fields, "policy", policy.unwrap_or_default());
            by(fields, user);
        });
    }

    /// Of a binding that was there already it is told again, as there.
    pub(super) fn binding_created(&self, vhost: &str, source: &str, binding: &Binding, user: &str) {
        self.tell("binding.created", |fields| binding_named(fields, vhost, source, binding, user));
    }

    /// Exchanges first, then bindings.
    pub(super) fn removed(&self, vhost: &str, removed: &Removed, user: &str) {
        for exchange in &removed.exchanges {
            self.tell("exchange.deleted", |fields| {
                text(fields, "name", &exchange.name);
                text(fields, "vhost", vhost);
                by(fields, user);
            });
        }
        for (source, binding) in &removed.bindings {
            self.tell("binding.deleted", |fields| binding_named(fields, vhost, source, binding, user));
        }
    }

    // ── Policies and parameters ───────────────────────────────────────────────────────────────────────────────────

    pub(super) fn queue_policy(&self, queue: &Queue, policy: Option<&Policy>, user: &str) {
        let key = if policy.is_some() { "queue.policy.updated" } else { "queue.policy.cleared" };
        self.tell(key, |fields| {
            queue_named(fields, queue);
            if let Some(policy) = policy {
                policy_said(fields, policy);
            }
            by(fields, user);
        });
    }

    pub(super) fn policy_set(&self, vhost: &str, policy: &Policy, user: &str) {
        self.tell("policy.set", |fields| {
            text(fields, "name", &policy.name);
            text(fields, "vhost", vhost);
            policy_said(fields, policy);
            by(fields, user);
        });
    }

    pub(super) fn policy_cleared(&self, vhost: &str, kind: Kind, name: &str, user: &str) {
        let key = match kind {
            Kind::User => "policy.cleared",
            Kind::Operator => "operator.policy.cleared",
        };
        self.tell(key, |fields| {
            text(fields, "name", name);
            text(fields, "vhost", vhost);
            by(fields, user);
        });
    }

    /// An operator's policy is a parameter as well.
    pub(super) fn operator_policy_set(&self, vhost: &str, policy: &Policy, user: &str) {
        self.parameter(vhost, policy.kind.component(), &policy.name, user, |fields| {
            fields.key("value").table(|fields| {
                text(fields, "apply-to", policy.apply_to.name());
                fields.key("priority").long(policy.priority);
                json(fields.key("definition"), &Json::Object(policy.definition.as_map().clone()));
                text(fields, "pattern", policy.pattern.as_str());
            });
        });
    }

    /// `vhost` is `None` for a parameter of all.
    pub fn parameter_set(&self, vhost: Option<&str>, component: &str, name: &str, value: &Json, user: &str) {
        self.parameter(vhost.unwrap_or_default(), component, name, user, |fields| json(fields.key("value"), value));
    }

    /// An empty `vhost` names none.
    fn parameter(&self, vhost: &str, component: &str, name: &str, user: &str, value: impl FnOnce(&mut Writer)) {
        self.tell("parameter.set", |fields| {
            parameter_named(fields, vhost, component, name, user);
            value(fields);
        });
    }

    pub fn parameter_cleared(&self, vhost: &str, component: &str, name: &str, user: &str) {
        self.tell("parameter.cleared", |fields| parameter_named(fields, vhost, component, name, user));
    }

    // ── Users and virtual hosts ───────────────────────────────────────────────────────────────────────────────────

    /// `memory` or `disk` has run short.
    pub fn alarm_set(&self, source: &str) {
        self.alarm("alarm.set", source);
    }

    /// There is enough of it again.
    pub fn alarm_cleared(&self, source: &str) {
        self.alarm("alarm.cleared", source);
    }

    fn alarm(&self, key: &'static str, source: &str) {
        self.tell(key, |fields| {
            text(fields, "node", &self.node);
            text(fields, "source", source);
        });
    }

    pub fn user_created(&self, name: &str, user: &str) {
        self.of_user("user.created", name, user);
    }

    pub fn password_changed(&self, name: &str, user: &str) {
        self.of_user("user.password.changed", name, user);
    }

    pub fn password_cleared(&self, name: &str, user: &str) {
        self.of_user("user.password.cleared", name, user);
    }

    pub fn user_deleted(&self, name: &str, user: &str) {
        self.of_user("user.deleted", name, user);
    }

    pub fn user_limits_set(&self, name: &str, limits: UserLimits, user: &str) {
        self.tell("user.limits.set", |fields| {
            text(fields, "name", "limits");
            text(fields, "username", name);
            limit(fields, "max-connections", limits.max_connections);
            limit(fields, "max-channels", limits.max_channels);
            by(fields, user);
        });
    }

    pub fn user_limits_cleared(&self, name: &str, user: &str) {
        self.tell("user.limits.cleared", |fields| {
            text(fields, "name", "limits");
            text(fields, "username", name);
            by(fields, user);
        });
    }

    fn of_user(&self, key: &'static str, name: &str, user: &str) {
        self.tell(key, |fields| {
            text(fields, "name", name);
            by(fields, user);
        });
    }

    pub fn tags_set(&self, name: &str, tags: &[String], user: &str) {
        self.tell("user.tags.set", |fields| {
            text(fields, "name", name);
            fields.key("tags").array(|items| tags.iter().for_each(|tag| items.long_string(tag.as_bytes())));
            by(fields, user);
        });
    }

    /// `patterns`: configure, write, read.
    pub fn permission_created(&self, name: &str, vhost: &str, patterns: [&str; 3], user: &str) {
        self.tell("permission.created", |fields| {
            text(fields, "user", name);
            text(fields, "vhost", vhost);
            for (key, pattern) in ["configure", "write", "read"].into_iter().zip(patterns) {
                text(fields, key, pattern);
            }
            by(fields, user);
        });
    }

    pub fn permission_deleted(&self, name: &str, vhost: &str, user: &str) {
        self.of_permission("permission.deleted", name, vhost, user);
    }

    /// RabbitMQ does not say of which exchange.
    pub fn topic_permission_deleted(&self, name: &str, vhost: &str, user: &str) {
        self.of_permission("topic.permission.deleted", name, vhost, user);
    }

    fn of_permission(&self, key: &'static str, name: &str, vhost: &str, user: &str) {
        self.tell(key, |fields| {
            text(fields, "user", name);
            text(fields, "vhost", vhost);
            by(fields, user);
        });
    }

    /// `patterns`: write, read.
    pub fn topic_permission_created(&self, name: &str, vhost: &str, exchange: &str, patterns: [&str; 2], user: &str) {
        self.tell("topic.permission.created", |fields| {
            text(fields, "user", name);
            text(fields, "vhost", vhost);
            text(fields, "exchange", exchange);
            for (key, pattern) in ["write", "read"].into_iter().zip(patterns) {
                text(fields, key, pattern);
            }
            by(fields, user);
        });
    }

    /// A virtual host is new, or was set anew.
    pub(super) fn vhost_set(&self, vhost: &Vhost, is_new: bool, user: &str) {
        let key = if is_new { "vhost.created" } else { "vhost.updated" };
        self.tell(key, |fields| {
            let (metadata, queue_type) = (vhost.metadata(), vhost.default_queue_type().name());
            text(fields, "name", &vhost.name);
            text(fields, "default_queue_type", queue_type);
            text(fields, "description", &metadata.description);
            let description = json_term(&Json::from(metadata.description.as_str()));
            let term = format!(
                "#{{description => {description},tags => [{}],default_queue_type => <<\"{queue_type}\">>}}",
                metadata.tags.join(",")
            );
            text(fields, "metadata", &term);
            let tags = metadata.tags.iter();
            fields.key("tags").array(|items| tags.for_each(|tag| items.long_string(tag.as_bytes())));
            flag(fields, "tracing", vhost.is_traced());
            flag(fields, "protected_from_deletion", metadata.protected_from_deletion);
            if !is_new {
                flag(fields, "deletion_protection", metadata.protected_from_deletion);
            }
            fields.key("cluster_state").table(|nodes| text(nodes, &self.node, "running"));
            by(fields, user);
        });
    }

    pub fn vhost_deleted(&self, name: &str, user: &str) {
        self.of_user("vhost.deleted", name, user);
    }

    pub fn vhost_limits_set(&self, vhost: &str, limits: VhostLimits, user: &str) {
        self.tell("vhost.limits.set", |fields| {
            text(fields, "name", "limits");
            text(fields, "vhost", vhost);
            limit(fields, "max-connections", limits.max_connections);
            limit(fields, "max-queues", limits.max_queues);
            by(fields, user);
        });
    }

    pub fn vhost_limits_cleared(&self, vhost: &str, user: &str) {
        self.tell("vhost.limits.cleared", |fields| {
            text(fields, "name", "limits");
            text(fields, "vhost", vhost);
            by(fields, user);
        });
    }

    // ── Telling ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Nothing is built while nobody listens.
    fn tell(&self, key: &'static str, fill: impl FnOnce(&mut Writer)) {
        if !self.heard.load(Ordering::Relaxed) {
            return;
        }
        if self.waiting_count.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting_count.fetch_sub(1, Ordering::Relaxed);
            if !self.dropped.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "events come faster than they can be published: some are dropped; this is not told again"
                );
            }
            return;
        }
        let now_ms = self.clock.now_ms();
        let mut fields = Writer::default();
        number(&mut fields, "timestamp_in_ms", now_ms);
        fill(&mut fields);
        let headers = Fields::EMPTY.merged(fields.fields());
        self.waiting.push(Event { key, properties: properties::persistent_at(&headers, now_ms / 1000) });
        self.publish();
    }

    fn publish(&self) {
        while !self.waiting.is_empty() {
            if self.publishing.swap(true, Ordering::AcqRel) {
                // Whoever is at it looks again before it goes.
                return;
            }
            let turn = Turn(&self.publishing);
            let home = self.home.lock().upgrade();
            let mut acts = Acts::default();
            while let Some(event) = self.waiting.pop() {
                self.waiting_count.fetch_sub(1, Ordering::Relaxed);
                if let Some(home) = &home {
                    home.publish_own(EXCHANGE, event.key, &event.properties, b"", &mut acts);
                }
            }
            // Whoever tells may be about to write replies that come first.
            acts.run_aside();
            drop(turn);
        }
    }
}

fn text(fields: &mut Writer, key: &str, text: &str) {
    fields.key(key).long_string(text.as_bytes());
}

fn flag(fields: &mut Writer, key: &str, truth: bool) {
    fields.key(key).boolean(truth);
}

fn number(fields: &mut Writer, key: &str, number: impl Into<u64>) {
    fields.key(key).long(i64::try_from(number.into()).unwrap_or(i64::MAX));
}

fn limit(fields: &mut Writer, key: &str, limit: Option<u32>) {
    if let Some(limit) = limit {
        number(fields, key, limit);
    }
}

fn by(fields: &mut Writer, user: &str) {
    text(fields, "user_who_performed_action", user);
}

fn terms(fields: &mut Writer, key: &str, table: &Table) {
    fields.key(key).array(|items| field_terms(table).for_each(|term| items.long_string(term.as_bytes())));
}

fn authentication(fields: &mut Writer, connection: &Connection<'_>) {
    addresses(fields, connection);
    text(fields, "connection_type", "network");
    text(fields, "connection_name", connection.name);
    text(fields, "auth_mechanism", connection.mechanism);
    if let Some(tls) = connection.tls {
        if let Some(shown) = &tls.certificate {
            certificate(fields, shown);
        }
        text(fields, "ssl_cipher", tls.cipher);
        text(fields, "ssl_protocol", tls.protocol);
    }
}

fn certificate(fields: &mut Writer, shown: &Shown) {
    text(fields, "peer_cert_issuer", &shown.issuer);
    text(fields, "peer_cert_serial_number", &shown.serial_number);
    text(fields, "peer_cert_subject", &shown.subject);
    text(fields, "peer_cert_validity", &shown.validity);
}

fn addresses(fields: &mut Writer, connection: &Connection<'_>) {
    text(fields, "host", &address(connection.local.ip()));
    text(fields, "peer_host", &address(connection.peer.ip()));
    number(fields, "peer_port", connection.peer.port());
    text(fields, "protocol", "{0,9,1}");
    flag(fields, "ssl", connection.tls.is_some());
}

/// An address as Erlang has it: a tuple of numbers.
fn address(address: IpAddr) -> String {
    let numbers: Vec<String> = match address {
        IpAddr::V4(address) => address.octets().iter().map(u8::to_string).collect(),
        IpAddr::V6(address) => address.segments().iter().map(u16::to_string).collect(),
    };
    format!("{{{}}}", numbers.join(","))
}

fn queue_named(fields: &mut Writer, queue: &Queue) -> QueueType {
    let queue_type = queue.settings().queue_type;
    text(fields, "name", &queue.identity.name);
    text(fields, "vhost", &queue.identity.vhost);
    text(fields, "type", queue_type.module());
    queue_type
}

fn binding_named(fields: &mut Writer, vhost: &str, source: &str, binding: &Binding, user: &str) {
    let (kind, destination) = match &binding.destination {
        Destination::Queue(name) => ("queue", name),
        Destination::Exchange(name) => ("exchange", name),
    };
    text(fields, "vhost", vhost);
    text(fields, "source_name", source);
    text(fields, "source_kind", "exchange");
    text(fields, "destination_name", destination);
    text(fields, "destination_kind", kind);
    text(fields, "routing_key", &binding.routing_key);
    terms(fields, "arguments", &binding.arguments);
    by(fields, user);
}

fn policy_said(fields: &mut Writer, policy: &Policy) {
    text(fields, "pattern", policy.pattern.as_str());
    text(fields, "apply-to", policy.apply_to.name());
    fields.key("priority").long(policy.priority);
    json(fields.key("definition"), &Json::Object(policy.definition.as_map().clone()));
}

fn parameter_named(fields: &mut Writer, vhost: &str, component: &str, name: &str, user: &str) {
    if !vhost.is_empty() {
        text(fields, "vhost", vhost);
    }
    text(fields, "component", component);
    text(fields, "name", name);
    by(fields, user);
}

/// A value. A map's keys come from the last to the first, as RabbitMQ's folding leaves them; an empty map and a list are
/// the same to it. A fraction is told as text.
fn json(out: &mut Writer, value: &Json) {
    match value {
        Json::Bool(truth) => out.boolean(*truth),
        Json::String(text) => out.long_string(text.as_bytes()),
        Json::Array(items) => out.array(|out| items.iter().for_each(|item| json(out, item))),
        Json::Object(map) if map.is_empty() => out.array(|_| {}),
        Json::Object(map) => out.table(|fields| {
            let mut sorted: Vec<_> = map.iter().collect();
            sorted.sort_by(|a, b| b.0.cmp(a.0));
            sorted.into_iter().for_each(|(key, value)| json(fields.key(key), value));
        }),
        Json::Number(number) => match number.as_i64() {
            Some(number) => out.long(number),
            None => out.long_string(json_term(value).as_bytes()),
        },
        Json::Null => out.long_string(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::table::Field;
    use serde_json::json;

    #[test]
    fn addresses_are_tuples() {
        assert_eq!(address("127.0.0.1".parse().unwrap()), "{127,0,0,1}");
        assert_eq!(address("2001:db8::1".parse().unwrap()), "{8193,3512,0,0,0,0,0,1}");
    }

    #[test]
    fn values_of_parameters_become_fields() {
        let mut out = Writer::default();
        json(out.key("v"), &json!({"a": 1, "b": ["x", true, null, 1.5], "c": {}, "d": {"e": -2}}));
        let fields = Fields::check(out.octets()).unwrap();
        let Some(Field::Table(table)) = fields.get(b"v") else { panic!() };
        let keys: Vec<_> = table.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [b"d", b"c", b"b", b"a"]);
        assert_eq!(table.get(b"a"), Some(Field::I64(1)));
        let Some(Field::Array(items)) = table.get(b"b") else { panic!() };
        let items: Vec<_> = items.iter().collect();
        let texts = [Field::LongStr(b"x"), Field::Bool(true), Field::LongStr(b"null"), Field::LongStr(b"1.5")];
        assert_eq!(items, texts);
        assert!(matches!(table.get(b"c"), Some(Field::Array(_))));
    }

    #[test]
    fn nothing_is_built_while_nobody_listens() {
        let events = Events::new("rabbit@host", "/", Clock::start());
        events.tell("k", |_| panic!("built"));
        events.set_heard(true);
        // There is no such virtual host: the event is gone, and nothing waits.
        events.tell("k", |_| {});
        assert!(events.waiting.is_empty());
        assert_eq!(events.waiting_count.load(Ordering::Relaxed), 0);
    }
}
