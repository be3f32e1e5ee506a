//! Exchanges: which destinations does a message reach?
//!
//! A [`Router`] holds the bindings of one exchange as their source. The bindings themselves stand in one sorted set,
//! whatever the exchange's type; beside it, each type has the index that finds the matching ones:
//!
//! ```text
//! direct                         a map from routing keys to destinations
//! fanout, x-recent-history       the destinations
//! topic                          a trie of patterns' words
//! headers                        nothing: every binding is looked at, as its arguments were prepared when it was made
//! x-consistent-hash              a ring of buckets
//! x-modulus-hash, x-random,
//!   x-local-random               the destinations in order, to take one by its number
//! x-delayed-message              that of the type that it delays for
//! ```
//!
//! Nothing here knows of stores, clocks, tasks or dice: a random number comes with the message ([`Subject`]). Following bindings from exchange to exchange, the alternate exchange,
//! and removing a queue's second copy are the vhost's.

mod binding;
mod consistent_hash;
mod delayed;
mod direct;
mod hash;
mod headers;
mod modulus_hash;
mod picks;
mod random;
pub mod recent_history;
mod targets;
#[cfg(test)]
mod tests;
mod topic;

pub use binding::{Binding, Destination};

use crate::amqp::properties::Properties;
use crate::amqp::table::Table;
use crate::declaration::{self, Difference};
use crate::refusal::Refusal;
use consistent_hash::Ring;
use headers::{Headers, Matcher};
use picks::Picks;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use targets::Targets;

/// How an exchange chooses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Type {
    Direct,
    Fanout,
    Topic,
    Headers,
    ConsistentHash,
    ModulusHash,
    Random,
    LocalRandom,
    RecentHistory,
    Delayed,
}

impl Type {
    pub const ALL: [Self; 10] = [
        Self::Direct,
        Self::Fanout,
        Self::Topic,
        Self::Headers,
        Self::ConsistentHash,
        Self::ModulusHash,
        Self::Random,
        Self::LocalRandom,
        Self::RecentHistory,
        Self::Delayed,
    ];

    /// The type of this name, as `exchange.declare` has it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The same for a type that must be there (`rabbit_exchange:check_type`).
    pub fn check(name: &str) -> Result<Self, Refusal> {
        Self::parse(name).ok_or_else(|| {
            // What RabbitMQ has heard of, without a plugin that does it, is called otherwise.
            let heard_of = ["", "system", "x-jms-topic"].contains(&name);
            let what = if heard_of { "invalid" } else { "unknown" };
            Refusal::precondition(format!("{what} exchange type '{name}'"))
        })
    }

    /// The type by which an exchange of this type routes, if its arguments were checked: its own but for
    /// [`Type::Delayed`], which stands for another.
    pub fn routes_as(self, arguments: &Table) -> Self {
        match self {
            Self::Delayed => delayed::inner(arguments).unwrap_or(self),
            kind => kind,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::LocalRandom => "x-local-random",
            Self::RecentHistory => "x-recent-history",
            Self::Delayed => "x-delayed-message",
        }
    }
}

/// What a message's way is chosen by.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The routing key, then those of `CC` and `BCC`.
    pub keys: &'a [&'a str],
    pub properties: Option<&'a Properties<'a>>,
    /// Another for each message and exchange, for those that choose at random.
    pub random: u64,
}

/// What is bound to an exchange, as far as the exchange's type cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound<'a> {
    /// A queue whose type has this name in RabbitMQ's texts, such as `rabbit_classic_queue`.
    Queue(&'a str),
    Exchange,
}

/// An exchange as it is declared.
#[derive(Clone, Copy, Debug)]
pub struct Declared<'a> {
    pub kind: Type,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: &'a Table,
}

/// The argument that names the exchange for what has no destination.
pub const ALTERNATE_EXCHANGE: &str = "alternate-exchange";

/// What a new exchange's arguments say: the name of its alternate exchange. `resource` is "exchange 'x' in vhost '/'".
pub fn check_arguments(resource: &str, arguments: &Table) -> Result<Option<Arc<str>>, Refusal> {
    Ok(declaration::named_exchange(resource, arguments, ALTERNATE_EXCHANGE)?.map(Arc::from))
}

/// What an exchange of this type refuses among its own arguments. RabbitMQ looks at them last.
pub fn check_type_arguments(kind: Type, arguments: &Table) -> Result<(), Refusal> {
    match kind {
        Type::ConsistentHash => consistent_hash::check_arguments(arguments),
        Type::RecentHistory => recent_history::check_arguments(arguments),
        Type::Delayed => check_type_arguments(delayed::inner(arguments)?, arguments),
        _ => Ok(()),
    }
}

/// In what a declaration does not fit the exchange that is there (`rabbit_exchange:assert_equivalence`), in this order. Of
/// the arguments only the alternate exchange counts, whatever the type.
pub fn differences(current: &Declared<'_>, received: &Declared<'_>) -> Vec<Difference> {
    let argument = |declared: &Declared<'_>| declared.arguments.inner().get(ALTERNATE_EXCHANGE).cloned();
    let checks = [
        Difference::of_field("type", atom(current.kind), atom(received.kind)),
        Difference::of_field("durable", current.durable, received.durable),
        Difference::of_field("auto_delete", current.auto_delete, received.auto_delete),
        Difference::of_field("internal", current.internal, received.internal),
        Difference::of_argument(ALTERNATE_EXCHANGE, argument(current).as_ref(), argument(received).as_ref()),
    ];
    checks.into_iter().flatten().collect()
}

/// A type's name as Erlang prints an atom: with quotes of its own if it has more than letters in it.
fn atom(kind: Type) -> String {
    let name = kind.name();
    if name.contains('-') { format!("'{name}'") } else { name.to_owned() }
}

/// The bindings of one exchange as their source.
pub struct Router {
    /// By which it routes: [`Type::routes_as`].
    kind: Type,
    /// Sorted, so that all bindings to one destination are neighbours.
    bindings: BTreeMap<Binding, Note>,
    index: Index,
}

/// What a type knows of each binding.
enum Note {
    None,
    /// Headers: what matches.
    Matcher(Box<Matcher>),
    /// Consistent hash: where its buckets stand.
    Place(u64),
}

/// What finds the bindings that match; kept in step with [`Router::bindings`].
enum Index {
    Direct(direct::Keys),
    Fanout(Targets),
    Topic(topic::Trie),
    Headers,
    Ring(Ring),
    Picks(Picks),
}

impl Router {
    /// `arguments` are the exchange's, and were checked.
    pub fn new(kind: Type, arguments: &Table) -> Self {
        let kind = kind.routes_as(arguments);
        let index = match kind {
            Type::Direct | Type::Delayed => Index::Direct(direct::Keys::default()),
            Type::Fanout | Type::RecentHistory => Index::Fanout(Targets::default()),
            Type::Topic => Index::Topic(topic::Trie::default()),
            Type::Headers => Index::Headers,
            Type::ConsistentHash => Index::Ring(Ring::new(arguments)),
            Type::ModulusHash | Type::Random | Type::LocalRandom => Index::Picks(Picks::default()),
        };
        Self { kind, bindings: BTreeMap::new(), index }
    }

    /// What an exchange that routes by this type refuses to bind: a topic pattern with more than two `#`, a wrong `x-match` or weight,
    /// a queue that it can't choose. `bound` is the binding's destination.
    pub fn check(kind: Type, binding: &Binding, bound: Bound<'_>) -> Result<(), Refusal> {
        let routing_key = &*binding.routing_key;
        match kind {
            Type::Direct | Type::Fanout | Type::ModulusHash | Type::Random | Type::RecentHistory | Type::Delayed => {
                Ok(())
            }
            Type::ConsistentHash => consistent_hash::check_weight(routing_key),
            Type::LocalRandom => random::check_local(routing_key, bound),
            Type::Topic => match topic::hashes(routing_key) {
                0..=topic::HASHES_MAX => Ok(()),
                count => Err(Refusal::precondition(format!(
                    "Topic binding key '{routing_key}' uses {count} '#' wildcards, at most {} are allowed",
                    topic::HASHES_MAX
                ))),
            },
            Type::Headers => Matcher::check(&binding.arguments),
        }
    }

    /// The type by which it routes.
    pub fn kind(&self) -> Type {
        self.kind
    }

    /// Adds a binding; `false` if it was there. What [`Router::check`] refuses is not refused here again: it may come
    /// from a store that an older version wrote, and costs no more than others.
    pub fn bind(&mut self, binding: Binding) -> bool {
        self.bind_at(binding, None)
    }

    /// The same for a binding that comes back from the store with the place it had ([`Router::place`]). Bindings come in
    /// the order of their places, those without one last.
    pub fn bind_at(&mut self, binding: Binding, place: Option<u64>) -> bool {
        if self.bindings.contains_key(&binding) {
            return false;
        }
        let mut note = Note::None;
        match &mut self.index {
            Index::Direct(keys) => keys.add(&binding),
            Index::Fanout(targets) => targets.add(&binding.destination),
            Index::Topic(trie) => trie.add(&binding),
            Index::Headers => note = Note::Matcher(Box::new(Matcher::new(&binding.arguments))),
            Index::Ring(ring) => note = ring.add(&binding, place).map_or(Note::None, Note::Place),
            Index::Picks(picks) => picks.add(&binding.destination),
        }
        self.bindings.insert(binding, note);
        true
    }

    /// Where what a binding brought stands among the others', if that matters to this type: it must be the same after a
    /// restart.
    pub fn place(&self, binding: &Binding) -> Option<u64> {
        match self.bindings.get(binding) {
            Some(Note::Place(place)) => Some(*place),
            _ => None,
        }
    }

    /// Removes a binding; `false` if it was not there.
    pub fn unbind(&mut self, binding: &Binding) -> bool {
        if self.bindings.remove(binding).is_none() {
            return false;
        }
        match &mut self.index {
            Index::Direct(keys) => keys.remove(binding),
            Index::Fanout(targets) => targets.remove(&binding.destination),
            Index::Topic(trie) => trie.remove(binding),
            Index::Headers => {}
            Index::Ring(ring) => ring.remove(&binding.destination),
            Index::Picks(picks) => picks.remove(&binding.destination),
        }
        true
    }

    /// The bindings to a destination, found without looking at the others.
    fn bindings_to(&self, destination: &Destination) -> impl Iterator<Item = &Binding> {
        let first =
            Binding { destination: destination.clone(), routing_key: Arc::default(), arguments: Table::default() };
        let run = self.bindings.range(first..).map(|(binding, _)| binding);
        run.take_while(move |binding| binding.destination == *destination)
    }

    /// Whether anything is bound to a destination.
    pub fn binds(&self, destination: &Destination) -> bool {
        self.bindings_to(destination).next().is_some()
    }

    /// Removes all bindings to a destination.
    pub fn remove_destination(&mut self, destination: &Destination) -> Vec<Binding> {
        let removed: Vec<_> = self.bindings_to(destination).cloned().collect();
        for binding in &removed {
            self.unbind(binding);
        }
        removed
    }

    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// All bindings, sorted by destination, key and arguments.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.keys()
    }

    pub fn has(&self, binding: &Binding) -> bool {
        self.bindings.contains_key(binding)
    }

    /// Calls `found` for every matching destination; a destination may come more than once, the caller removes
    /// duplicates.
    pub fn route(&self, subject: &Subject<'_>, found: &mut dyn FnMut(&Destination)) {
        match &self.index {
            Index::Direct(keys) => subject.keys.iter().for_each(|key| keys.route(key, found)),
            Index::Fanout(targets) => targets.each(found),
            Index::Topic(trie) => subject.keys.iter().for_each(|key| trie.route(key, found)),
            Index::Headers => {
                let headers = Headers::new(subject.properties.and_then(|properties| properties.headers));
                for (binding, note) in &self.bindings {
                    if matches!(note, Note::Matcher(matcher) if matcher.matches(&headers)) {
                        found(&binding.destination);
                    }
                }
            }
            Index::Ring(ring) => ring.route(subject, found),
            Index::Picks(picks) => {
                let number = match self.kind {
                    Type::ModulusHash => modulus_hash::number(subject),
                    _ => subject.random,
                };
                picks.route(number, found);
            }
        }
    }

    /// Whether all messages with the same key take the same way and nothing else is done with them, so that a route can be
    /// remembered by its key.
    pub fn is_by_key(&self) -> bool {
        match (self.kind, &self.index) {
            (Type::Direct | Type::Fanout | Type::Topic | Type::ModulusHash, _) => true,
            (_, Index::Ring(ring)) => ring.is_by_key(),
            // A recent history wants to see every message.
            _ => false,
        }
    }
}

/// Gives memory back once most of a map is empty. A map halves at most as often as it doubled, so that this costs each
/// removal a constant share.
fn shrink<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    const SPARE_MIN: usize = 64;
    if map.capacity() > SPARE_MIN && map.len() < map.capacity() / 4 {
        map.shrink_to(map.len() * 2);
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} bindings of type {}", self.len(), self.kind.name())
    }
}
