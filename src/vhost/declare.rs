//! The only place of the rules about names, rights, equivalence and life cycle.
//! Texts and order of checks are RabbitMQ's (`rabbit_channel.erl`, `rabbit_amqqueue.erl`, `rabbit_exchange.erl`).

use super::delayed;
use super::events::HOUSE;
use super::records;
use super::reply_to;
use super::topology::{Exchange, Removed, Topology};
use super::{Actor, Vhost};
use crate::amqp::Table;
use crate::auth::Access;
use crate::declaration::check_equivalent;
use crate::exchange::{self, Binding, Bound, Destination, Router, Type};
use crate::metrics::Churn;
use crate::queue::classic::{Acts, Counts, Identity};
use crate::queue::settings::{self, QueueType, Settings};
use crate::queue::{Queue, settings::Declared};
use crate::refusal::{Reason, Refusal};
use crate::store::{Change, Committed, Durability};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How a queue is asked for.
#[derive(Debug, Clone)]
pub struct QueueWish {
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: Table,
}

impl QueueWish {
    fn declared(&self) -> Declared<'_> {
        Declared {
            durable: self.durable,
            exclusive: self.exclusive,
            auto_delete: self.auto_delete,
            arguments: &self.arguments,
        }
    }

    /// Whether a queue of this name could be declared so where none is, and what its settings would be. Nothing is asked
    /// of rights and limits. `default`: the type if the arguments don't say one.
    pub fn check(&self, vhost: &str, name: &str, default: QueueType) -> Result<Settings, Refusal> {
        let arguments = settings::with_type(&self.declared(), default);
        Settings::parse(&queue_resource(vhost, name), &Declared { arguments: &arguments, ..self.declared() })
    }
}

/// What a declaration tells of.
#[derive(Debug)]
pub struct Found {
    pub name: Arc<str>,
    pub counts: Counts,
    /// `None`: somebody's queue for direct answers.
    pub queue: Option<Arc<Queue>>,
}

impl Found {
    fn new(queue: Arc<Queue>) -> Self {
        Self { name: Arc::clone(&queue.identity.name), counts: queue.counts(), queue: Some(queue) }
    }

    fn replies(name: &str) -> Self {
        Self { name: name.into(), counts: Counts { consumers: 1, ..Counts::default() }, queue: None }
    }
}

/// How an exchange is asked for.
#[derive(Debug, Clone)]
pub struct ExchangeWish {
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
}

impl ExchangeWish {
    /// Whether an exchange of this name could be declared so where none is; says its type. Nothing is asked of rights and
    /// limits.
    pub fn check(&self, vhost: &str, name: &str) -> Result<Type, Refusal> {
        let kind = Type::check(&self.kind)?;
        exchange::check_arguments(&exchange_resource(vhost, name), &self.arguments)?;
        exchange::check_type_arguments(kind, &self.arguments)?;
        Ok(kind)
    }
}

/// The answer, and what to wait for before it is given.
pub type Answer<T> = Result<(T, Option<Committed>), Refusal>;

/// The default exchange in permissions.
const DEFAULT_EXCHANGE: &str = "amq.default";

impl Actor {
    /// Refuses what the user may not do (RabbitMQ: "Access Control").
    pub fn check(&self, access: Access, kind: &str, vhost: &str, name: &str) -> Result<(), Refusal> {
        if self.rights.allows(access, name) {
            return Ok(());
        }
        let user = &self.user;
        let access = access.name();
        Err(Refusal::access(format!("{access} access to {kind} '{name}' in vhost '{vhost}' refused for user '{user}'")))
    }

    fn check_any(&self, kind: &str, vhost: &str, name: &str) -> Result<(), Refusal> {
        let allowed = [Access::Configure, Access::Write, Access::Read];
        if allowed.iter().any(|&access| self.rights.allows(access, name)) {
            return Ok(());
        }
        self.check(Access::Configure, kind, vhost, name)
    }
}

impl Vhost {
    // ── Queues ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// queue.declare. An empty name asks for one from the server. Says whether the queue is new.
    pub fn declare_queue(&self, actor: &Actor, name: &str, wish: QueueWish) -> Answer<(Found, bool)> {
        let stripped = strip(name);
        if stripped.starts_with(reply_to::QUEUE) {
            return Ok(((self.find_reply_queue(&stripped)?, false), None));
        }
        let asked = wish.arguments.clone();
        let wish = QueueWish { arguments: settings::with_type(&wish.declared(), self.default_queue_type()), ..wish };
        let name = if stripped.is_empty() {
            settings::check_server_named(&wish.arguments)?;
            generated("amq.gen-")
        } else {
            if stripped.starts_with("amq.") {
                return Err(Refusal::access(format!("queue name '{stripped}' contains reserved prefix 'amq.*'")));
            }
            stripped
        };
        actor.check(Access::Configure, "queue", &self.name, &name)?;
        let resource = queue_resource(&self.name, &name);
        // An exclusive queue never outlives its connection, whatever was asked.
        let durable = wish.durable && !wish.exclusive;
        loop {
            let found = self.topology.read().queues.get(&*name).cloned();
            let Some(queue) = found else { break };
            if !queue.alive() {
                self.forget_queue(&queue, HOUSE);
                continue;
            }
            check_exclusive(&queue, actor)?;
            if wish.exclusive != queue.identity.exclusive.is_some() {
                return Err(locked(&queue));
            }
            let identity = &queue.identity;
            let current = Declared {
                durable: identity.durable,
                exclusive: identity.exclusive.is_some(),
                auto_delete: identity.auto_delete,
                arguments: &identity.arguments,
            };
            let received = Declared {
                durable,
                // An empty type stands for none only when the queue is new.
                arguments: if asked.contains_key("x-queue-type") { &asked } else { &wish.arguments },
                ..wish.declared()
            };
            check_equivalent(&resource, settings::differences(&current, &received))?;
            touch(&queue);
            Churn::count(&self.house.churn.queue_declared);
            return Ok(((Found::new(queue), false), self.changed_by_others(durable)));
        }
        let settings = Settings::parse(&resource, &wish.declared())?;
        for (given, likely) in settings::misspelt(&wish.arguments) {
            tracing::warn!("{resource}: unknown argument '{given}' has no effect; did you mean '{likely}'?");
        }
        if let Some(exchange) = &settings.dead_letter_exchange {
            actor.check(Access::Read, "queue", &self.name, &name)?;
            actor.check(Access::Write, "exchange", &self.name, permission_name(exchange))?;
        }
        let identity = Identity {
            id: self.house.next_queue.fetch_add(1, Ordering::Relaxed),
            vhost: Arc::clone(&self.name),
            name: name.as_str().into(),
            durable,
            auto_delete: wish.auto_delete,
            exclusive: wish.exclusive.then_some(actor.connection),
            arguments: wish.arguments.clone(),
            user: Arc::clone(&actor.user),
        };
        self.check_queue_limit(&name)?;
        let mut topology = self.topology.write();
        if topology.queues.contains_key(&*name) {
            // Somebody was faster: what is there decides.
            drop(topology);
            return self.declare_queue(actor, &name, wish);
        }
        topology.check_open(&self.name)?;
        if let Some(limit) = self.limits().max_queues.filter(|limit| topology.queues.len() >= *limit as usize) {
            let text =
                format!("cannot declare queue '{name}': queue limit in vhost '{}' ({limit}) is reached", self.name);
            return Err(Refusal::precondition(text));
        }
        let applied = topology.policies.for_queue(&name, settings.queue_type);
        let settings = Settings::with_policy(&identity.arguments, applied);
        let queue = Queue::new(identity, settings, &self.around);
        topology.queues.insert(Arc::clone(&queue.identity.name), Arc::clone(&queue));
        let committed =
            durable.then(|| self.house.store.change(vec![self.counter(), records::put_queue(&queue.identity)]));
        drop(topology);
        self.changed();
        self.events().queue_created(&queue, &actor.user);
        Churn::count(&self.house.churn.queue_declared);
        Churn::count(&self.house.churn.queue_created);
        Ok(((Found::new(queue), true), committed))
    }

    /// Writes how many numbers were given to queues.
    fn counter(&self) -> Change {
        let next = self.house.next_queue.load(Ordering::Relaxed);
        Change::Meta("next_queue", next.to_be_bytes().to_vec())
    }

    /// queue.declare with `passive`: whether it is there.
    pub fn find_queue(&self, actor: &Actor, name: &str) -> Answer<Found> {
        let name = &*strip(name);
        if name.starts_with(reply_to::QUEUE) {
            return Ok((self.find_reply_queue(name)?, None));
        }
        actor.check_any("queue", &self.name, name)?;
        if let Some(queue) = self.delay_queue(name) {
            let committed = self.changed_by_others(queue.identity.durable);
            return Ok((Found::new(queue), committed));
        }
        let queue = self.queue(actor, name)?;
        touch(&queue);
        let committed = self.changed_by_others(queue.identity.durable);
        Ok((Found::new(queue), committed))
    }

    /// Who is told of a durable thing that somebody else has declared or deleted may rely on it: that change is to be safe
    /// before.
    fn changed_by_others(&self, durable: bool) -> Option<Committed> {
        durable.then(|| self.house.store.changes_so_far()).flatten()
    }

    /// Declaring the name for direct answers changes nothing: it tells whether somebody waits for them
    /// (`rabbit_volatile_queue`).
    fn find_reply_queue(&self, name: &str) -> Result<Found, Refusal> {
        if name == reply_to::QUEUE {
            return Ok(Found::replies(name));
        }
        let waiting = self.topology.read().replies.contains_key(name);
        if waiting { Ok(Found::replies(name)) } else { Err(self.no_queue(name)) }
    }

    /// A queue that the actor's connection may use.
    fn queue(&self, actor: &Actor, name: &str) -> Result<Arc<Queue>, Refusal> {
        let found = self.topology.read().queues.get(name).cloned();
        let found = found.filter(|queue| queue.alive());
        let queue = found.ok_or_else(|| self.no_queue_of_clients(&self.topology.read(), name))?;
        check_exclusive(&queue, actor)?;
        Ok(queue)
    }

    /// What is no queue of clients' may be one of an exchange's.
    fn no_queue_of_clients(&self, topology: &Topology, name: &str) -> Refusal {
        topology.delay_queue(name).map_or_else(|| self.no_queue(name), |queue| delayed::untouchable(queue))
    }

    /// queue.purge
    pub fn purge_queue(&self, actor: &Actor, name: &str, acts: &mut Acts) -> Answer<u64> {
        actor.check(Access::Read, "queue", &self.name, name)?;
        match self.delay_queue(name) {
            // Whoever cancels wants no crash to undo it: the next commit has it in it.
            Some(queue) => Ok((queue.purge(acts), Some(self.house.store.change(Vec::new())))),
            None => Ok((self.queue(actor, name)?.purge(acts), None)),
        }
    }

    /// A queue to consume or get from.
    pub fn queue_to_read(&self, actor: &Actor, name: &str) -> Result<Arc<Queue>, Refusal> {
        actor.check(Access::Read, "queue", &self.name, name)?;
        self.queue(actor, name)
    }

    /// queue.delete. A missing queue counts as deleted.
    pub fn delete_queue(&self, actor: &Actor, name: &str, if_unused: bool, if_empty: bool) -> Answer<u64> {
        let name = &*strip(name);
        actor.check(Access::Configure, "queue", &self.name, name)?;
        let queue = match self.queue(actor, name) {
            Ok(queue) => queue,
            Err(refusal) if refusal.reason == Reason::NotFound => return Ok((0, self.changed_by_others(true))),
            Err(refusal) => return Err(refusal),
        };
        if queue.settings().queue_type == QueueType::Quorum {
            let unsupported = [(if_unused, "if-unused"), (if_empty, "if-empty")];
            if let Some((_, flag)) = unsupported.iter().find(|(given, _)| *given) {
                return Err(Refusal::not_implemented(format!(
                    "cannot delete {queue:?}. queue.delete operations with {flag} flag set are not supported by quorum \
                     queues"
                )));
            }
        }
        let allowed = |counts: Counts| match counts {
            Counts { consumers: 1.., .. } if if_unused => Err(Refusal::precondition(format!("{queue:?} in use"))),
            Counts { ready: 1.., .. } if if_empty => Err(Refusal::precondition(format!("{queue:?} not empty"))),
            _ => Ok(()),
        };
        let mut acts = Acts::default();
        let deleted = queue.delete(allowed, &mut acts);
        let answer = match deleted {
            None => Ok((0, self.changed_by_others(true))),
            Some(Err(refusal)) => Err(refusal),
            Some(Ok(count)) => Ok((count, self.forget_queue(&queue, &actor.user))),
        };
        acts.run();
        answer
    }

    /// A queue ends by the rules: its owner went, or its last consumer did.
    pub fn end_queue(&self, queue: &Arc<Queue>) -> Option<Committed> {
        let mut acts = Acts::default();
        let ended = queue.delete(|_| Ok::<(), ()>(()), &mut acts);
        let committed = ended.and_then(|_| self.forget_queue(queue, HOUSE));
        acts.run();
        committed
    }

    /// As [`Vhost::end_queue`], unless a consumer has come meanwhile.
    pub fn end_unused_queue(&self, queue: &Arc<Queue>) -> Option<Committed> {
        let mut acts = Acts::default();
        let unused = |counts: Counts| if counts.consumers == 0 { Ok(()) } else { Err(()) };
        let committed = match queue.delete(unused, &mut acts) {
            Some(Ok(_)) => self.forget_queue(queue, HOUSE),
            _ => None,
        };
        acts.run();
        committed
    }

    /// Takes a deleted queue and its bindings out of the books. `user`: who deleted it.
    fn forget_queue(&self, queue: &Arc<Queue>, user: &str) -> Option<Committed> {
        let change = |changes: Vec<Change>| (!changes.is_empty()).then(|| self.house.store.change(changes));
        // What is not durable needs no waiting for.
        self.unbook_queue(queue, user, change)?.filter(|_| queue.identity.durable)
    }

    /// The same. `change` is given the changes for the store while the topology is locked: a queue that takes the name is
    /// written after them. `None` if the queue was not in the books.
    pub(super) fn unbook_queue<T>(
        &self,
        queue: &Arc<Queue>,
        user: &str,
        change: impl FnOnce(Vec<Change>) -> T,
    ) -> Option<T> {
        let name = &queue.identity.name;
        let (mut removed, mut acts) = (Removed::default(), Acts::default());
        let changed = {
            let mut topology = self.topology.write();
            if topology.queues.get(name).is_none_or(|known| !Arc::ptr_eq(known, queue)) {
                return None;
            }
            topology.queues.remove(name);
            topology.remove_destination(&Destination::Queue(Arc::clone(name)), &mut removed);
            let mut changes = self.removal(&removed, queue.identity.durable, &mut acts);
            if queue.identity.durable {
                changes.push(Change::Delete(records::queue_key(&self.name, name)));
            }
            if queue.identity.durable || queue.has_rows() {
                changes.push(Change::DropQueue(queue.identity.id));
            }
            change(changes)
        };
        // Whoever deletes it may have replies unsent.
        acts.run_aside();
        self.changed();
        self.events().removed(&self.name, &removed, HOUSE);
        self.events().queue_deleted(queue, user);
        Churn::count(&self.house.churn.queue_deleted);
        Some(changed)
    }

    /// The durable part of what vanished, for the store. `destination_durable`: of the thing that was removed first. `acts`
    /// are to be run aside once nothing is locked.
    pub(super) fn removal(&self, removed: &Removed, destination_durable: bool, acts: &mut Acts) -> Vec<Change> {
        let delayed = removed.exchanges.iter().filter_map(|exchange| exchange.delay.as_ref());
        let mut changes: Vec<_> = delayed.filter_map(|queue| self.drop_delayed(queue, acts)).collect();
        for exchange in removed.exchanges.iter().filter(|exchange| exchange.durable) {
            changes.push(Change::Delete(records::exchange_key(&self.name, &exchange.name)));
        }
        if destination_durable || removed.exchanges.iter().any(|exchange| exchange.durable) {
            for (source, binding) in &removed.bindings {
                changes.push(Change::Delete(records::binding_key(&self.name, source, binding)));
            }
        }
        changes
    }

    // ── Exchanges ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// exchange.declare. Says whether the exchange is new.
    pub fn declare_exchange(&self, actor: &Actor, name: &str, wish: &ExchangeWish) -> Answer<bool> {
        let name = strip(name);
        let kind = Type::check(&wish.kind)?;
        not_default(&name)?;
        actor.check(Access::Configure, "exchange", &self.name, &name)?;
        let resource = exchange_resource(&self.name, &name);
        let received = exchange::Declared {
            kind,
            durable: wish.durable,
            auto_delete: wish.auto_delete,
            internal: wish.internal,
            arguments: &wish.arguments,
        };
        let full = self.check_exchange_limit(&resource);
        let mut topology = self.topology.write();
        if let Some(found) = topology.exchanges.get(&*name) {
            check_equivalent(&resource, exchange::differences(&found.declared(), &received))?;
            return Ok((false, self.changed_by_others(wish.durable)));
        }
        if name.starts_with("amq.") {
            return Err(Refusal::access(format!("exchange name '{name}' contains reserved prefix 'amq.*'")));
        }
        exchange::check_arguments(&resource, &wish.arguments)?;
        // A policy's alternate exchange asks nobody's permission.
        if let Some(alternate) = &Exchange::own_alternate(&wish.arguments) {
            actor.check(Access::Read, "exchange", &self.name, &name)?;
            actor.check(Access::Write, "exchange", &self.name, permission_name(alternate))?;
        }
        exchange::check_type_arguments(kind, &wish.arguments)?;
        full?;
        topology.check_open(&self.name)?;
        let mut exchange = Exchange {
            delay: (kind == Type::Delayed).then(|| self.new_delay_queue(&name, wish.durable)),
            auto_delete: wish.auto_delete,
            internal: wish.internal,
            user: Arc::clone(&actor.user),
            ..Exchange::new(&name, kind, wish.durable, wish.arguments.clone())
        };
        exchange.apply(topology.policies.for_exchange(&name));
        let policy = exchange.applied.policy.as_ref().map(|policy| Arc::clone(&policy.name));
        let committed = wish.durable.then(|| {
            let counter = exchange.delay.is_some().then(|| self.counter());
            let put = records::put_exchange(&self.name, &exchange);
            self.house.store.change(counter.into_iter().chain([put]).collect())
        });
        topology.exchanges.insert(Arc::clone(&exchange.name), exchange);
        drop(topology);
        self.changed();
        self.events().exchange_created(&self.name, &name, &received, policy.as_deref(), &actor.user);
        Ok((true, committed))
    }

    /// exchange.declare with `passive`: whether it is there.
    pub fn find_exchange(&self, actor: &Actor, name: &str) -> Answer<()> {
        let name = &*strip(name);
        not_default(name)?;
        actor.check_any("exchange", &self.name, name)?;
        let durable = self.topology.read().exchanges.get(name).map(|exchange| exchange.durable);
        Ok(((), self.changed_by_others(durable.ok_or_else(|| self.no_exchange(name))?)))
    }

    /// exchange.delete. A missing exchange counts as deleted.
    pub fn delete_exchange(&self, actor: &Actor, name: &str, if_unused: bool) -> Answer<()> {
        let name = strip(name);
        not_default(&name)?;
        if name.starts_with("amq.") {
            return Err(Refusal::access(format!(
                "deletion of system exchange '{name}' in vhost '{}' not allowed",
                self.name
            )));
        }
        actor.check(Access::Configure, "exchange", &self.name, &name)?;
        let (mut removed, mut acts) = (Removed::default(), Acts::default());
        let committed = {
            let mut topology = self.topology.write();
            let Some(exchange) = topology.exchanges.get(&*name) else { return Ok(((), self.changed_by_others(true))) };
            if if_unused && !exchange.router.is_empty() {
                return Err(Refusal::precondition(format!("exchange '{name}' in vhost '{}' in use", self.name)));
            }
            let key = Arc::clone(&exchange.name);
            topology.remove_exchange(&key, &mut removed);
            // With the lock held, so that changes reach the disk in their order.
            let changes = self.removal(&removed, false, &mut acts);
            (!changes.is_empty()).then(|| self.house.store.change(changes))
        };
        acts.run_aside();
        self.changed();
        self.events().removed(&self.name, &removed, &actor.user);
        Ok(((), committed))
    }

    // ── Bindings ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// queue.bind and exchange.bind.
    pub fn bind(&self, actor: &Actor, source: &str, binding: Binding) -> Answer<()> {
        let binding = stripped(binding);
        let source = self.check_binding(actor, source, &binding)?;
        let mut topology = self.topology.write();
        let exchange = topology.exchanges.get(&*source).ok_or_else(|| self.no_exchange(&source))?;
        let (kind, history) = (exchange.router.kind(), exchange.history.clone());
        match &binding.destination {
            Destination::Queue(name) => {
                let queue = topology.queues.get(name).ok_or_else(|| self.no_queue_of_clients(&topology, name))?;
                // Before the queue's owner is looked at (`rabbit_binding:binding_checks`).
                Router::check(kind, &binding, Bound::Queue(queue.settings().queue_type.module()))?;
                check_exclusive(queue, actor)?;
            }
            Destination::Exchange(name) if !topology.exchanges.contains_key(name) => {
                return Err(self.no_exchange(name));
            }
            Destination::Exchange(_) => Router::check(kind, &binding, Bound::Exchange)?,
        }
        let durable = exchange.durable && topology.durable(&binding.destination);
        if !topology.bind(&source, binding.clone()) {
            drop(topology);
            self.events().binding_created(&self.name, &source, &binding, &actor.user);
            return Ok(((), self.changed_by_others(durable)));
        }
        let committed = durable.then(|| {
            let place = topology.exchanges.get(&*source).and_then(|exchange| exchange.router.place(&binding));
            self.house.store.change(vec![records::put_binding(&self.name, &source, &binding, place)])
        });
        drop(topology);
        self.changed();
        self.events().binding_created(&self.name, &source, &binding, &actor.user);
        if let Some(history) = history {
            self.replay(&history, &binding.destination);
        }
        Ok(((), committed))
    }

    /// queue.unbind and exchange.unbind. What is not there counts as unbound.
    pub fn unbind(&self, actor: &Actor, source: &str, binding: &Binding) -> Answer<()> {
        let binding = &stripped(binding.clone());
        let source = self.check_binding(actor, source, binding)?;
        let mut acts = Acts::default();
        let (removed, committed) = {
            let mut topology = self.topology.write();
            let durable = topology.exchanges.get(&*source).is_some_and(|exchange| exchange.durable)
                && topology.durable(&binding.destination);
            let Some(removed) = topology.unbind(&source, binding) else {
                return Ok(((), self.changed_by_others(true)));
            };
            // With the lock held, so that changes reach the disk in their order.
            let changes = self.removal(&removed, durable, &mut acts);
            (removed, (!changes.is_empty()).then(|| self.house.store.change(changes)))
        };
        acts.run_aside();
        self.changed();
        self.events().removed(&self.name, &removed, &actor.user);
        Ok(((), committed))
    }

    /// The source's name, once names and rights are checked.
    fn check_binding(&self, actor: &Actor, source: &str, binding: &Binding) -> Result<String, Refusal> {
        let source = strip(source);
        let (kind, destination) = match &binding.destination {
            Destination::Queue(name) => ("queue", name),
            Destination::Exchange(name) => ("exchange", name),
        };
        if kind == "exchange" {
            not_default(destination)?;
        } else if destination.starts_with(reply_to::PREFIX) {
            return Err(Refusal::access("cannot bind or unbind to a volatile (direct reply-to) queue"));
        }
        not_default(&source)?;
        actor.check(Access::Write, kind, &self.name, destination)?;
        actor.check(Access::Read, "exchange", &self.name, &source)?;
        self.check_topics(actor, Access::Read, &source, &[&*binding.routing_key])?;
        Ok(source)
    }

    /// Whether the user may use these keys of an exchange, if it is a topic exchange (RabbitMQ: "Topic Authorisation").
    pub fn check_topics(&self, actor: &Actor, access: Access, exchange: &str, keys: &[&str]) -> Result<(), Refusal> {
        if exchange.is_empty() || !actor.rights.limits_topics(exchange) {
            return Ok(());
        }
        let kind = self.topology.read().exchanges.get(exchange).map(|exchange| exchange.kind);
        if kind != Some(Type::Topic) {
            return Ok(());
        }
        match keys.iter().find(|key| !actor.rights.allows_topic(access, exchange, key)) {
            None => Ok(()),
            Some(key) => Err(Refusal::access(format!(
                "{} access to topic '{key}' in exchange '{exchange}' in vhost '{}' refused for user '{}'",
                access.name(),
                self.name,
                actor.user
            ))),
        }
    }

    /// Refuses one queue more than all virtual hosts together may have.
    fn check_queue_limit(&self, name: &str) -> Result<(), Refusal> {
        let limit = self.house.queues_max.filter(|limit| self.house.count_queues() >= *limit as usize);
        limit.map_or(Ok(()), |limit| {
            let text = format!("cannot declare queue '{name}': queue limit in cluster ({limit}) is reached");
            Err(Refusal::precondition(text))
        })
    }

    /// The same for exchanges.
    fn check_exchange_limit(&self, resource: &str) -> Result<(), Refusal> {
        let limit = self.house.exchanges_max.filter(|limit| self.house.count_exchanges() >= *limit as usize);
        limit.map_or(Ok(()), |limit| {
            Err(Refusal::precondition(format!("cannot declare {resource}: exchange limit of {limit} is reached")))
        })
    }

    /// Whether the user may publish to an exchange at all.
    pub fn check_publish(&self, actor: &Actor, exchange: &str) -> Result<(), Refusal> {
        actor.check(Access::Write, "exchange", &self.name, permission_name(exchange))
    }

    /// Whether messages of a durable queue are written at all.
    pub fn keeps_messages(&self) -> bool {
        self.house.store.durability() != Durability::Memory
    }
}

fn queue_resource(vhost: &str, name: &str) -> String {
    format!("queue '{name}' in vhost '{vhost}'")
}

fn exchange_resource(vhost: &str, name: &str) -> String {
    format!("exchange '{name}' in vhost '{vhost}'")
}

fn permission_name(exchange: &str) -> &str {
    if exchange.is_empty() { DEFAULT_EXCHANGE } else { exchange }
}

fn not_default(exchange: &str) -> Result<(), Refusal> {
    if exchange.is_empty() {
        return Err(Refusal::access("operation not permitted on the default exchange"));
    }
    Ok(())
}

fn check_exclusive(queue: &Queue, actor: &Actor) -> Result<(), Refusal> {
    match queue.identity.exclusive {
        Some(owner) if owner != actor.connection => Err(locked(queue)),
        _ => Ok(()),
    }
}

fn locked(queue: &Queue) -> Refusal {
    Refusal::new(
        Reason::Locked,
        format!(
            "cannot obtain exclusive access to locked {queue:?}. It could be originally declared on another connection \
             or the exclusive property value does not match that of the original declaration."
        ),
    )
}

/// A declaration renews a classic queue's lease (`x-expires`), even a passive one; a quorum queue's it does not.
fn touch(queue: &Queue) {
    if queue.settings().queue_type == QueueType::Classic {
        let mut acts = Acts::default();
        queue.touch(&mut acts);
        acts.run();
    }
}

/// A binding whose destination has no line breaks in its name.
fn stripped(binding: Binding) -> Binding {
    let destination = match &binding.destination {
        Destination::Queue(name) if name.contains(['\r', '\n']) => Destination::Queue(strip(name).into()),
        Destination::Exchange(name) if name.contains(['\r', '\n']) => Destination::Exchange(strip(name).into()),
        _ => return binding,
    };
    Binding { destination, ..binding }
}

/// RabbitMQ takes line breaks out of names.
fn strip(name: &str) -> String {
    name.replace(['\r', '\n'], "")
}

/// A name from the server: the prefix and 16 random octets in URL-safe base64.
pub fn generated(prefix: &str) -> String {
    use base64::Engine as _;
    let mut octets = [0; 16];
    // The system's random source fails only before it is seeded, long before a broker runs.
    getrandom::fill(&mut octets).expect("the operating system has random octets");
    format!("{prefix}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(octets))
}
