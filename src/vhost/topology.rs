//! Names and what they stand for: exchanges, queues, and the bindings between them.

use super::{events, trace};
use crate::amqp::Table;
use crate::amqp::table::as_str;
use crate::exchange::recent_history::History;
use crate::exchange::{Binding, Declared, Destination, Router, Type};
use crate::metrics::Counted;
use crate::policy::{Applied, Policies};
use crate::queue::Queue;
use crate::refusal::Refusal;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

#[derive(Debug)]
pub struct Exchange {
    pub name: Arc<str>,
    pub kind: Type,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
    /// Who declared it.
    pub user: Arc<str>,
    /// Its policies, for listings and for `alternate`.
    pub applied: Applied,
    /// Where messages go that no binding takes, by argument or policy.
    pub alternate: Option<Arc<str>>,
    pub router: Router,
    /// Holds back what is to be routed later, if its type does so. Not among [`Topology::queues`]: it is nobody's to bind,
    /// to consume, or to set policies for.
    pub delay: Option<Arc<Queue>>,
    /// What it remembers, if its type does. Its lock is taken with no other held.
    pub history: Option<Arc<Mutex<History>>>,
    /// What came into it, and out of it.
    pub counted: Arc<Counted>,
}

impl Exchange {
    /// The arguments were checked.
    pub fn new(name: &str, kind: Type, durable: bool, arguments: Table) -> Self {
        let router = Router::new(kind, &arguments);
        Self {
            name: name.into(),
            kind,
            durable,
            auto_delete: false,
            internal: false,
            user: events::HOUSE.into(),
            applied: Applied::default(),
            alternate: None,
            delay: None,
            history: (router.kind() == Type::RecentHistory).then(|| Arc::new(Mutex::new(History::new(&arguments)))),
            router,
            arguments,
            counted: Arc::default(),
        }
    }

    /// What it was declared as.
    pub fn declared(&self) -> Declared<'_> {
        Declared {
            kind: self.kind,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: &self.arguments,
        }
    }

    /// The alternate exchange that its own arguments name.
    pub fn own_alternate(arguments: &Table) -> Option<Arc<str>> {
        arguments.inner().get("alternate-exchange").and_then(as_str).map(Arc::from)
    }

    /// Takes its policies; the argument wins against them (`rabbit_policy:get_arg`). Says whether messages may go
    /// another way now.
    pub fn apply(&mut self, applied: Applied) -> bool {
        let alternate = Self::own_alternate(&self.arguments).or_else(|| applied.terms().alternate_exchange);
        let moved = alternate != self.alternate;
        self.alternate = alternate;
        self.applied = applied;
        moved
    }
}

/// Not the default exchange: that one is the map of queues itself.
#[derive(Debug, Default)]
pub struct Topology {
    pub exchanges: FxHashMap<Arc<str>, Exchange>,
    pub queues: FxHashMap<Arc<str>, Arc<Queue>>,
    /// Those for direct answers, by their secret names.
    pub replies: FxHashMap<Arc<str>, Arc<Queue>>,
    /// What queues and exchanges get as they are declared. Under the same lock, so that none is declared between a
    /// policy's change and the search for those that it concerns.
    pub policies: Policies,
    /// Nothing is declared any more: the virtual host is deleted.
    pub ended: bool,
    /// The exchanges with bindings to a destination, so that its end needs no search.
    sources: FxHashMap<Destination, FxHashSet<Arc<str>>>,
}

/// Where RabbitMQ publishes its log if it is told to. It is there, and nothing goes to it, as without `log.exchange`.
const LOG_EXCHANGE: &str = "amq.rabbitmq.log";

/// What vanished with something else.
#[derive(Debug, Default)]
pub struct Removed {
    pub bindings: Vec<(Arc<str>, Binding)>,
    pub exchanges: Vec<Exchange>,
}

impl Topology {
    /// The exchanges that every virtual host has from the start, and those of the default one if this is to have them.
    pub fn predeclared(with_events: bool) -> Self {
        let mut topology = Self::default();
        for (name, kind) in [
            ("amq.direct", Type::Direct),
            ("amq.fanout", Type::Fanout),
            ("amq.topic", Type::Topic),
            ("amq.headers", Type::Headers),
            ("amq.match", Type::Headers),
            (trace::EXCHANGE, Type::Topic),
            (events::EXCHANGE, Type::Topic),
            (LOG_EXCHANGE, Type::Topic),
        ] {
            if [events::EXCHANGE, LOG_EXCHANGE].contains(&name) && !with_events {
                continue;
            }
            let mut exchange = Exchange::new(name, kind, true, Table::default());
            exchange.internal = [trace::EXCHANGE, events::EXCHANGE, LOG_EXCHANGE].contains(&name);
            topology.exchanges.insert(Arc::clone(&exchange.name), exchange);
        }
        topology
    }

    /// Refuses what would be new in a virtual host that is deleted.
    pub fn check_open(&self, vhost: &str) -> Result<(), Refusal> {
        if self.ended { Err(Refusal::not_found(format!("vhost '{vhost}' is deleted"))) } else { Ok(()) }
    }

    /// Whether anything is bound to the exchange for events.
    pub fn hears_events(&self) -> bool {
        self.exchanges.get(events::EXCHANGE).is_some_and(|exchange| !exchange.router.is_empty())
    }

    /// Adds a binding to an exchange that is there; false if it was there.
    pub fn bind(&mut self, source: &str, binding: Binding) -> bool {
        self.bind_at(source, binding, None)
    }

    /// The same for a binding that comes back with its place ([`Router::bind_at`]).
    pub fn bind_at(&mut self, source: &str, binding: Binding, place: Option<u64>) -> bool {
        let Some(exchange) = self.exchanges.get_mut(source) else { return false };
        let (name, destination) = (Arc::clone(&exchange.name), binding.destination.clone());
        let new = exchange.router.bind_at(binding, place);
        if new {
            self.sources.entry(destination).or_default().insert(name);
        }
        new
    }

    /// Removes a binding; `None` if it was not there. An auto-delete source goes with its last binding.
    pub fn unbind(&mut self, source: &str, binding: &Binding) -> Option<Removed> {
        let exchange = self.exchanges.get_mut(source)?;
        if !exchange.router.unbind(binding) {
            return None;
        }
        let name = Arc::clone(&exchange.name);
        if !exchange.router.binds(&binding.destination) {
            self.forget_source(&binding.destination, &name);
        }
        let mut removed = Removed { bindings: vec![(Arc::clone(&name), binding.clone())], ..Removed::default() };
        self.end_if_unused(&name, &mut removed);
        Some(removed)
    }

    fn forget_source(&mut self, destination: &Destination, source: &Arc<str>) {
        if let Some(sources) = self.sources.get_mut(destination) {
            sources.remove(source);
            if sources.is_empty() {
                self.sources.remove(destination);
            }
        }
    }

    fn end_if_unused(&mut self, name: &Arc<str>, removed: &mut Removed) {
        let unused =
            self.exchanges.get(name).is_some_and(|exchange| exchange.auto_delete && exchange.router.is_empty());
        if unused {
            self.remove_exchange(name, removed);
        }
    }

    /// Removes an exchange with all bindings from and to it.
    pub fn remove_exchange(&mut self, name: &Arc<str>, removed: &mut Removed) {
        let Some(exchange) = self.exchanges.remove(name) else { return };
        for binding in exchange.router.bindings() {
            self.forget_source(&binding.destination, name);
            removed.bindings.push((Arc::clone(name), binding.clone()));
        }
        removed.exchanges.push(exchange);
        self.remove_destination(&Destination::Exchange(Arc::clone(name)), removed);
    }

    /// Removes all bindings to a destination that is gone.
    pub fn remove_destination(&mut self, destination: &Destination, removed: &mut Removed) {
        for source in self.sources.remove(destination).unwrap_or_default() {
            let Some(exchange) = self.exchanges.get_mut(&source) else { continue };
            let bindings = exchange.router.remove_destination(destination);
            removed.bindings.extend(bindings.into_iter().map(|binding| (Arc::clone(&source), binding)));
            self.end_if_unused(&source, removed);
        }
    }

    /// Whether a binding's destination outlives a restart.
    pub fn durable(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Queue(name) => self.queues.get(name).is_some_and(|queue| queue.identity.durable),
            Destination::Exchange(name) => self.exchanges.get(name).is_some_and(|exchange| exchange.durable),
        }
    }
}
