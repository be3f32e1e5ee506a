//! What is durable, as the store keeps it: JSON, a row each.

use super::events::HOUSE;
use super::topology::Exchange;
use crate::amqp::Table;
use crate::exchange::{Binding, Destination};
use crate::policy::{Kind as PolicyKind, Policy};
use crate::queue::classic::Identity;
use crate::store::Change;
use crate::store::keys::{Definition, Kind};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

#[derive(Debug, Serialize, Deserialize)]
pub struct QueueRecord {
    pub id: u64,
    pub vhost: String,
    pub name: String,
    pub auto_delete: bool,
    pub arguments: Table,
    /// Who declared it; empty for the broker itself, and if an older version did not write it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ExchangeRecord {
    pub vhost: String,
    pub name: String,
    pub kind: String,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
    /// As in [`QueueRecord`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// The number of the queue that holds back its messages, if its type does so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_queue: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct BindingRecord {
    pub vhost: String,
    pub source: String,
    pub destination: String,
    /// The destination is an exchange, not a queue.
    pub to_exchange: bool,
    pub routing_key: String,
    pub arguments: Table,
    /// Where what it brought stands among the others', if that matters to the source's type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<u64>,
}

impl BindingRecord {
    pub fn binding(&self) -> Binding {
        let name = self.destination.as_str().into();
        let destination = if self.to_exchange { Destination::Exchange(name) } else { Destination::Queue(name) };
        Binding { destination, routing_key: self.routing_key.as_str().into(), arguments: self.arguments.clone() }
    }
}

/// A user's policy.
#[derive(Debug, Serialize, Deserialize)]
pub struct PolicyRecord {
    pub vhost: String,
    pub name: String,
    /// What [`Policy::parse`] takes.
    #[serde(flatten)]
    pub fields: Map<String, Json>,
}

/// A runtime parameter, such as a shovel or an operator's policy, in definitions as here. Its value may hold passwords, and
/// doesn't show.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ParameterRecord {
    pub vhost: String,
    pub component: String,
    pub name: String,
    pub value: Json,
}

impl std::fmt::Debug for ParameterRecord {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { vhost, component, name, .. } = self;
        write!(out, "Parameter({component} '{name}' in vhost '{vhost}')")
    }
}

fn written_user(user: &str) -> String {
    if user == HOUSE { String::new() } else { user.to_owned() }
}

/// Who a record says declared it.
pub fn read_user(written: &str) -> Arc<str> {
    if written.is_empty() { HOUSE.into() } else { written.into() }
}

/// A change that writes `record`.
pub fn put(key: Definition, record: &impl Serialize) -> Change {
    Change::Put(key, serde_json::to_vec(record).expect("records have string keys and no failing parts"))
}

pub fn queue_key(vhost: &str, name: &str) -> Definition {
    Definition::new(Kind::Queue, &[vhost.as_bytes(), name.as_bytes()])
}

pub fn put_queue(queue: &Identity) -> Change {
    put(
        queue_key(&queue.vhost, &queue.name),
        &QueueRecord {
            id: queue.id,
            vhost: queue.vhost.to_string(),
            name: queue.name.to_string(),
            auto_delete: queue.auto_delete,
            arguments: queue.arguments.clone(),
            user: written_user(&queue.user),
        },
    )
}

pub fn exchange_key(vhost: &str, name: &str) -> Definition {
    Definition::new(Kind::Exchange, &[vhost.as_bytes(), name.as_bytes()])
}

pub fn put_exchange(vhost: &str, exchange: &Exchange) -> Change {
    put(
        exchange_key(vhost, &exchange.name),
        &ExchangeRecord {
            vhost: vhost.to_owned(),
            name: exchange.name.to_string(),
            kind: exchange.kind.name().to_owned(),
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            arguments: exchange.arguments.clone(),
            user: written_user(&exchange.user),
            delay_queue: exchange.delay.as_ref().map(|queue| queue.identity.id),
        },
    )
}

pub fn binding_key(vhost: &str, source: &str, binding: &Binding) -> Definition {
    let (kind, name) = match &binding.destination {
        Destination::Queue(name) => (b"q", name),
        Destination::Exchange(name) => (b"e", name),
    };
    let arguments = serde_json::to_vec(&binding.arguments).expect("tables have string keys");
    let parts =
        [vhost.as_bytes(), source.as_bytes(), kind, name.as_bytes(), binding.routing_key.as_bytes(), &arguments];
    Definition::new(Kind::Binding, &parts)
}

pub fn put_binding(vhost: &str, source: &str, binding: &Binding, place: Option<u64>) -> Change {
    let (to_exchange, destination) = match &binding.destination {
        Destination::Queue(name) => (false, name),
        Destination::Exchange(name) => (true, name),
    };
    put(
        binding_key(vhost, source, binding),
        &BindingRecord {
            vhost: vhost.to_owned(),
            source: source.to_owned(),
            destination: destination.to_string(),
            to_exchange,
            routing_key: binding.routing_key.to_string(),
            arguments: binding.arguments.clone(),
            place,
        },
    )
}

pub fn policy_key(vhost: &str, kind: PolicyKind, name: &str) -> Definition {
    match kind {
        PolicyKind::User => Definition::new(Kind::Policy, &[vhost.as_bytes(), name.as_bytes()]),
        PolicyKind::Operator => {
            Definition::new(Kind::Parameter, &[kind.component().as_bytes(), vhost.as_bytes(), name.as_bytes()])
        }
    }
}

pub fn put_policy(vhost: &str, policy: &Policy) -> Change {
    let key = policy_key(vhost, policy.kind, &policy.name);
    let (vhost, name, fields) = (vhost.to_owned(), policy.name.to_string(), policy.fields());
    match policy.kind {
        PolicyKind::User => put(key, &PolicyRecord { vhost, name, fields }),
        PolicyKind::Operator => {
            let component = policy.kind.component().to_owned();
            put(key, &ParameterRecord { vhost, component, name, value: Json::Object(fields) })
        }
    }
}
