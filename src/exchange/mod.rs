//! Exchanges: which destinations does a message reach?
//!
//! A [`Router`] holds the bindings of one exchange as their source. The bindings themselves stand in one sorted set,
//! whatever the exchange's type; beside it, each type has the index that finds the matching ones:
//!
//! ```text
//! direct    a map from routing keys to destinations
//! fanout    the destinations
//! topic     a trie of patterns' words
//! headers   nothing: every binding is looked at, as its arguments were prepared when it was made
//! ```
//!
//! Nothing here knows of stores, clocks or tasks. Following bindings from exchange to exchange, the alternate exchange,
//! and removing a queue's second copy are the vhost's.

mod binding;
mod direct;
mod headers;
mod targets;
#[cfg(test)]
mod tests;
mod topic;

pub use binding::{Binding, Destination};

use crate::amqp::table::{Fields, Table};
use crate::declaration;
use crate::refusal::Refusal;
use headers::{Headers, Matcher};
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
}

impl Type {
    /// The type of this name, as `exchange.declare` has it.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Direct, Self::Fanout, Self::Topic, Self::Headers].into_iter().find(|kind| kind.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
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

/// Whether a declaration fits the exchange that is there (`rabbit_exchange:assert_equivalence`). Of the arguments only
/// the alternate exchange counts.
pub fn equivalent(resource: &str, current: &Declared<'_>, received: &Declared<'_>) -> Result<(), Refusal> {
    declaration::equivalent_field(resource, "type", current.kind.name(), received.kind.name())?;
    declaration::equivalent_field(resource, "durable", current.durable, received.durable)?;
    declaration::equivalent_field(resource, "auto_delete", current.auto_delete, received.auto_delete)?;
    declaration::equivalent_field(resource, "internal", current.internal, received.internal)?;
    let key = ALTERNATE_EXCHANGE;
    let (current, received) = (current.arguments.inner().get(key), received.arguments.inner().get(key));
    declaration::equivalent_argument(resource, key, current, received)
}

/// The bindings of one exchange as their source.
pub struct Router {
    kind: Type,
    /// Sorted, so that all bindings to one destination are neighbours. What matches headers, for that type alone.
    bindings: BTreeMap<Binding, Option<Box<Matcher>>>,
    index: Index,
}

/// What finds the bindings that match; kept in step with [`Router::bindings`].
enum Index {
    Direct(direct::Keys),
    Fanout(Targets),
    Topic(topic::Trie),
    Headers,
}

impl Router {
    pub fn new(kind: Type) -> Self {
        let index = match kind {
            Type::Direct => Index::Direct(direct::Keys::default()),
            Type::Fanout => Index::Fanout(Targets::default()),
            Type::Topic => Index::Topic(topic::Trie::default()),
            Type::Headers => Index::Headers,
        };
        Self { kind, bindings: BTreeMap::new(), index }
    }

    /// What an exchange of this type refuses to bind: a topic pattern with more than two `#`, a wrong `x-match`.
    pub fn check(kind: Type, routing_key: &str, arguments: &Table) -> Result<(), Refusal> {
        match kind {
            Type::Direct | Type::Fanout => Ok(()),
            Type::Topic => match topic::hashes(routing_key) {
                0..=topic::HASHES_MAX => Ok(()),
                count => Err(Refusal::precondition(format!(
                    "Topic binding key '{routing_key}' uses {count} '#' wildcards, at most {} are allowed",
                    topic::HASHES_MAX
                ))),
            },
            Type::Headers => Matcher::check(arguments),
        }
    }

    pub fn kind(&self) -> Type {
        self.kind
    }

    /// Adds a binding; `false` if it was there. What [`Router::check`] refuses is not refused here again: it may come
    /// from a store that an older version wrote, and costs no more than others.
    pub fn bind(&mut self, binding: Binding) -> bool {
        if self.bindings.contains_key(&binding) {
            return false;
        }
        let mut matcher = None;
        match &mut self.index {
            Index::Direct(keys) => keys.add(&binding),
            Index::Fanout(targets) => targets.add(&binding.destination),
            Index::Topic(trie) => trie.add(&binding),
            Index::Headers => matcher = Some(Box::new(Matcher::new(&binding.arguments))),
        }
        self.bindings.insert(binding, matcher);
        true
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
    pub fn route(&self, routing_key: &str, headers: Option<Fields<'_>>, found: &mut dyn FnMut(&Destination)) {
        match &self.index {
            Index::Direct(keys) => keys.route(routing_key, found),
            Index::Fanout(targets) => targets.each(found),
            Index::Topic(trie) => trie.route(routing_key, found),
            Index::Headers => {
                let headers = Headers::new(headers);
                for (binding, matcher) in &self.bindings {
                    if matcher.as_ref().is_some_and(|matcher| matcher.matches(&headers)) {
                        found(&binding.destination);
                    }
                }
            }
        }
    }

    /// Whether the same key may take two messages to different destinations, so that a route can't be remembered by it.
    pub fn depends_on_headers(&self) -> bool {
        self.kind == Type::Headers
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
