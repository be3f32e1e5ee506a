//! Where does a message go? And what exchanges remember of it.

use super::Vhost;
use super::delayed;
use super::reply_to;
use super::topology::{Exchange, Topology};
use crate::amqp;
use crate::amqp::method::short_string;
use crate::amqp::properties::Properties;
use crate::amqp::table::Field;
use crate::exchange::recent_history::{self, History};
use crate::exchange::{Destination, Subject};
use crate::message::{Marks, Message, Packer, Traits};
use crate::metrics::Counted;
use crate::queue::Queue;
use crate::queue::classic::Acts;
use crate::queue::delay;
use crate::refusal::Refusal;
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use smallvec::{SmallVec, smallvec};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

/// The queues a message reaches, each once.
pub type Targets = SmallVec<[Arc<Queue>; 2]>;

/// An exchange that a message passes, and what it is routed by there; nothing if it waits for its time.
pub(super) struct Passed<'a> {
    pub exchange: &'a Exchange,
    pub subject: Option<Subject<'a>>,
}

/// A route, and whether every message with the same exchange and routing key takes it.
#[derive(Debug, Clone)]
pub struct Route {
    pub targets: Targets,
    pub cacheable: bool,
    /// It reaches no queue and counts as delivered all the same: an answer that comes too late.
    pub swallowed: bool,
    /// What is counted of the exchange that the message was published to.
    pub exchange: Arc<Counted>,
    /// Of the exchanges on the way that remember their last messages. With any of them a route is not cacheable.
    histories: Vec<Arc<Mutex<History>>>,
}

impl Vhost {
    /// Refuses exchanges that are not there and, to clients, internal ones.
    pub fn check_exchange(&self, exchange: &str, by_client: bool) -> Result<(), Refusal> {
        self.first(&self.topology.read(), exchange, by_client).map(|_| ())
    }

    fn first<'t>(&self, topology: &'t Topology, exchange: &str, by_client: bool) -> Result<&'t Exchange, Refusal> {
        let first = topology.exchanges.get(exchange).ok_or_else(|| self.no_exchange(exchange))?;
        if by_client && first.internal {
            let name = &self.name;
            return Err(Refusal::access(format!("cannot publish to internal exchange '{exchange}' in vhost '{name}'")));
        }
        Ok(first)
    }

    /// Routes a message by all its keys (the routing key, then `CC` and `BCC`). `by_client` refuses internal exchanges.
    ///
    /// Exchanges bound to exchanges are followed, each once, so cycles end; an exchange that matches nothing hands on
    /// to its alternate (RabbitMQ: "Alternate Exchanges"). An exchange that delays what is to be delayed does neither before
    /// its time: the message goes to a queue of the exchange's own.
    pub fn route(
        &self,
        exchange: &str,
        keys: &[&str],
        properties: Option<&Properties<'_>>,
        by_client: bool,
    ) -> Result<Route, Refusal> {
        self.walk(exchange, keys, properties, by_client, |_| {})
    }

    /// The same; tells of every exchange on the way.
    pub(super) fn walk(
        &self,
        exchange: &str,
        keys: &[&str],
        properties: Option<&Properties<'_>>,
        by_client: bool,
        mut pass: impl FnMut(Passed<'_>),
    ) -> Result<Route, Refusal> {
        let topology = self.topology.read();
        let mut route = Route {
            targets: Targets::new(),
            cacheable: true,
            swallowed: false,
            exchange: Arc::clone(&self.default_exchange),
            histories: Vec::new(),
        };
        let mut found = Found::default();
        if exchange.is_empty() {
            for key in keys {
                if let Some(queue) = topology.queues.get(*key) {
                    found.add_queue(queue);
                } else if key.starts_with(reply_to::PREFIX) {
                    route.cacheable = false;
                    match topology.replies.get(*key) {
                        Some(queue) => found.add_queue(queue),
                        None => route.swallowed |= self.is_reply_name(key),
                    }
                } else if by_client && let Some(queue) = topology.delay_queue(key) {
                    return Err(delayed::untouchable(queue));
                }
            }
            route.targets = found.queues;
            return Ok(route);
        }
        let first = self.first(&topology, exchange, by_client)?;
        route.exchange = Arc::clone(&first.counted);
        found.add_exchange(&first.name);
        let mut at = 0;
        while let Some(name) = found.exchanges.get(at) {
            at += 1;
            let Some(exchange) = topology.exchanges.get(name) else { continue };
            if let Some(queue) = &exchange.delay {
                route.cacheable = false;
                if delay::delay_ms(properties.and_then(|properties| properties.headers)).is_some() {
                    found.add_queue(queue);
                    pass(Passed { exchange, subject: None });
                    continue;
                }
            }
            route.cacheable &= exchange.router.is_by_key();
            route.histories.extend(exchange.history.clone());
            let mut matched = false;
            let subject = Subject { keys, properties, random: random() };
            exchange.router.route(&subject, &mut |destination| {
                matched = true;
                found.follow(&topology, destination);
            });
            pass(Passed { exchange, subject: Some(subject) });
            if let (false, Some(alternate)) = (matched, &exchange.alternate) {
                found.add_exchange(alternate);
            }
        }
        route.targets = found.queues;
        Ok(route)
    }

    /// Routes a message, and lets the exchanges on its way that remember their last messages remember it. `properties`
    /// are what the message's properties say.
    pub fn route_message(
        &self,
        message: &Message<'_>,
        traits: Traits,
        keys: &[&str],
        properties: &Properties<'_>,
        by_client: bool,
    ) -> Result<Route, Refusal> {
        let exchange = std::str::from_utf8(message.exchange).unwrap_or_default();
        self.route_through(exchange, message, traits, keys, properties, by_client)
    }

    /// The same from another exchange than the one the message was published to.
    pub(super) fn route_through(
        &self,
        exchange: &str,
        message: &Message<'_>,
        traits: Traits,
        keys: &[&str],
        properties: &Properties<'_>,
        by_client: bool,
    ) -> Result<Route, Refusal> {
        let version = self.version();
        let route = self.route(exchange, keys, Some(properties), by_client)?;
        if route.histories.is_empty() || !recent_history::remembers(properties.headers) {
            return Ok(route);
        }
        let mut packer = Packer::default();
        packer.push(message, traits);
        let run = Arc::new(packer.finish());
        for history in &route.histories {
            history.lock().keep(Arc::clone(&run));
        }
        // A queue that was bound meanwhile may have been given what was remembered before this message: then it is on the
        // new route. Or it has been given this one too: RabbitMQ also prefers twice to never here.
        if self.version() == version { Ok(route) } else { self.route(exchange, keys, Some(properties), by_client) }
    }

    /// Publishes what the broker itself has to say, at most once: what no queue takes is gone.
    pub(super) fn publish_own(&self, exchange: &str, key: &str, properties: &[u8], body: &[u8], acts: &mut Acts) {
        // Its headers are ours, but may hold a client's, which may nest too deeply together with them.
        let Ok(read) = Properties::parse(properties) else { return };
        let (exchange, key) = (amqp::short(exchange), amqp::short(key));
        let mut address = Vec::with_capacity(2 + exchange.as_str().len() + key.as_str().len());
        short_string(&mut address, exchange.as_str());
        short_string(&mut address, key.as_str());
        let message = Message {
            address: &address,
            exchange: exchange.as_str().as_bytes(),
            routing_key: key.as_str().as_bytes(),
            marks: Marks::NONE,
            properties,
            body,
        };
        let traits = Traits::of(&read);
        let Ok(route) = self.route_message(&message, traits, &[key.as_str()], &read, false) else { return };
        if route.targets.is_empty() {
            return;
        }
        let mut packer = Packer::default();
        packer.push(&message, traits);
        let run = Arc::new(packer.finish());
        for queue in &route.targets {
            queue.publish(&run, None, acts);
        }
    }

    /// Gives a destination that was just bound to an exchange what that remembers, the oldest first. Where the destination
    /// is an exchange, it routes the messages as if they had just come. (RabbitMQ closes the connection if one of them then
    /// reaches no queue; nothing happens here.)
    pub(super) fn replay(&self, history: &Mutex<History>, destination: &Destination) {
        let runs = history.lock().runs();
        let mut acts = Acts::default();
        for run in runs {
            for queue in self.reached(destination, &run.message(0), run.traits()) {
                queue.publish(&run, None, &mut acts);
            }
        }
        // Whoever binds may have replies unsent.
        acts.run_aside();
    }

    fn reached(&self, destination: &Destination, message: &Message<'_>, traits: Traits) -> Targets {
        match destination {
            Destination::Queue(name) => self.topology.read().queues.get(name).cloned().into_iter().collect(),
            Destination::Exchange(name) => {
                // It was read when it was published.
                let Ok(properties) = Properties::parse(message.properties) else { return Targets::new() };
                let keys = keys(message, &properties);
                let route = self.route_through(name, message, traits, &keys, &properties, false);
                route.map(|route| route.targets).unwrap_or_default()
            }
        }
    }

    pub(super) fn no_exchange(&self, name: &str) -> Refusal {
        Refusal::not_found(format!("no exchange '{name}' in vhost '{}'", self.name))
    }

    pub(super) fn no_queue(&self, name: &str) -> Refusal {
        Refusal::not_found(format!("no queue '{name}' in vhost '{}'", self.name))
    }
}

/// So much is looked through; more is told apart by a set.
const LOOKED_THROUGH_MAX: usize = 16;

/// What was found on the way, each once, in the order it was.
#[derive(Default)]
struct Found {
    queues: Targets,
    exchanges: SmallVec<[Arc<str>; 4]>,
    /// Numbers and names, as soon as they are many.
    numbers: FxHashSet<u64>,
    names: FxHashSet<Arc<str>>,
}

impl Found {
    fn add_queue(&mut self, queue: &Arc<Queue>) {
        let id = |queue: &Arc<Queue>| queue.identity.id;
        if is_new(&self.queues, &mut self.numbers, id(queue), id) {
            self.queues.push(Arc::clone(queue));
        }
    }

    fn add_exchange(&mut self, name: &Arc<str>) {
        if is_new(&self.exchanges, &mut self.names, Arc::clone(name), Arc::clone) {
            self.exchanges.push(Arc::clone(name));
        }
    }

    fn follow(&mut self, topology: &Topology, to: &Destination) {
        match to {
            Destination::Queue(name) => {
                if let Some(queue) = topology.queues.get(name) {
                    self.add_queue(queue);
                }
            }
            // As alternate, the name may be that of the default exchange, or of none.
            Destination::Exchange(name) => self.add_exchange(name),
        }
    }
}

/// Whether `key` is no key of what was found before.
fn is_new<T, K: Hash + Eq>(found: &[T], known: &mut FxHashSet<K>, key: K, key_of: impl Fn(&T) -> K) -> bool {
    match found.len() {
        0..LOOKED_THROUGH_MAX => found.iter().all(|one| key_of(one) != key),
        LOOKED_THROUGH_MAX => {
            known.extend(found.iter().map(key_of));
            known.insert(key)
        }
        _ => known.insert(key),
    }
}

/// The keys of a message that has passed the checks of a publish: its routing key, then those of `CC` and `BCC`.
pub(super) fn keys<'a>(message: &Message<'a>, properties: &Properties<'a>) -> SmallVec<[&'a str; 1]> {
    let mut keys = smallvec![std::str::from_utf8(message.routing_key).unwrap_or_default()];
    if message.marks.contain(Marks::RELAYED) {
        return keys;
    }
    for name in ["CC", "BCC"] {
        if let Some(Field::Array(items)) = properties.headers.and_then(|headers| headers.get(name.as_bytes())) {
            keys.extend(items.iter().filter_map(|item| match item {
                Field::LongStr(key) => std::str::from_utf8(key).ok(),
                _ => None,
            }));
        }
    }
    keys
}

/// Another number at each call. The standard library gives every hasher keys of its own, which costs no state here.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
