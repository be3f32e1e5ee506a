//! Topic: keys are words between dots; in a binding's pattern `*` stands for one word, `#` for any number, also none.
//!
//! The patterns form a trie over words. The walk goes through the words of a key once and keeps the set of nodes that
//! patterns have reached so far, as one runs a non-deterministic automaton:
//!
//! ```text
//! patterns  a.*.c   a.#.c            key  a.b.b.c
//!
//! (root)─a─( )─*─( )─c─(1)           a    {a, a.#}
//!           └──#─(#)─c─(2)           b    {a.*, a.#}      a.# takes the word and stays
//!                                    b    {a.#}
//!                                    c    {a.#, a.#.c}    → 2
//! ```
//!
//! A node is entered from its parent alone, and a node of `#` also stays by itself, so keeping each of those from being
//! entered twice is enough to have every node in the set once. A route then costs at most the words of the key times the
//! nodes of the trie, whatever the patterns are. (Trying every length for every `#`, one after the other, is exponential
//! in their number.)

use super::targets::Targets;
use super::{Binding, Destination, shrink};
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::{SmallVec, smallvec};
use std::collections::HashMap;

/// How many `#` a pattern may have, as in RabbitMQ since 4.3.
pub(super) const HASHES_MAX: usize = 2;

/// The words of a key or pattern. The empty key has none; `a.` has two, the second empty.
fn words(key: &str) -> impl Iterator<Item = &str> {
    (!key.is_empty()).then(|| key.split('.')).into_iter().flatten()
}

/// The words of a pattern that are `#`.
pub(super) fn hashes(pattern: &str) -> usize {
    words(pattern).filter(|word| *word == "#").count()
}

/// A node's place in [`Trie::nodes`].
type NodeId = u32;
/// A word's number in [`Words`].
type WordId = u32;

const ROOT: NodeId = 0;
/// No child: the root is nobody's.
const NONE: NodeId = ROOT;

/// The patterns of one exchange. Nodes and words that no pattern needs are given up at once; their numbers are used again.
pub(super) struct Trie {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    /// The children reached by words that are no wildcards.
    edges: FxHashMap<(NodeId, WordId), NodeId>,
    words: Words,
}

#[derive(Default)]
struct Node {
    /// How many entries it has in [`Trie::edges`].
    edges: u32,
    /// The child of `*`.
    one: NodeId,
    /// The child of `#`.
    any: NodeId,
    /// The wildcards `#` on the way here.
    hashes: usize,
    /// Reached by `#` itself, so that any further word leads back here.
    stays: bool,
    targets: Targets,
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], free: Vec::new(), edges: FxHashMap::default(), words: Words::default() }
    }
}

impl Trie {
    pub(super) fn add(&mut self, binding: &Binding) {
        let mut at = ROOT;
        for word in words(&binding.routing_key) {
            at = match self.child(at, word) {
                Some(child) => child,
                None => self.grow(at, word),
            };
        }
        self.node_mut(at).targets.add(&binding.destination);
    }

    pub(super) fn remove(&mut self, binding: &Binding) {
        let mut way: SmallVec<[(NodeId, &str); 8]> = SmallVec::new();
        let mut at = ROOT;
        for word in words(&binding.routing_key) {
            let Some(child) = self.child(at, word) else { return };
            way.push((at, word));
            at = child;
        }
        self.node_mut(at).targets.remove(&binding.destination);
        while let Some((parent, word)) = way.pop()
            && self.node(at).is_unused()
        {
            self.prune(parent, word, at);
            at = parent;
        }
        if self.node(ROOT).is_unused() {
            *self = Self::default();
        }
    }

    pub(super) fn route(&self, routing_key: &str, found: &mut dyn FnMut(&Destination)) {
        let mut walk = Walk { trie: self, reached: SmallVec::new(), nested: FxHashSet::default() };
        walk.enter(ROOT);
        for word in words(routing_key) {
            walk.step(word);
            if walk.reached.is_empty() {
                return;
            }
        }
        for id in walk.reached {
            self.node(id).targets.each(found);
        }
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    fn child(&self, parent: NodeId, word: &str) -> Option<NodeId> {
        let child = match word {
            "*" => self.node(parent).one,
            "#" => self.node(parent).any,
            word => self.words.get(word).and_then(|word| self.edges.get(&(parent, word)).copied()).unwrap_or(NONE),
        };
        (child != NONE).then_some(child)
    }

    fn grow(&mut self, parent: NodeId, word: &str) -> NodeId {
        let stays = word == "#";
        let node = Node { hashes: self.node(parent).hashes + usize::from(stays), stays, ..Node::default() };
        let id = match self.free.pop() {
            Some(id) => {
                *self.node_mut(id) = node;
                id
            }
            None => {
                let id = NodeId::try_from(self.nodes.len()).expect("memory ends before node numbers do");
                self.nodes.push(node);
                id
            }
        };
        match word {
            "*" => self.node_mut(parent).one = id,
            "#" => self.node_mut(parent).any = id,
            word => {
                let word = self.words.take(word);
                self.edges.insert((parent, word), id);
                self.node_mut(parent).edges += 1;
            }
        }
        id
    }

    fn prune(&mut self, parent: NodeId, word: &str, child: NodeId) {
        match word {
            "*" => self.node_mut(parent).one = NONE,
            "#" => self.node_mut(parent).any = NONE,
            word => {
                if let Some(word) = self.words.give_back(word) {
                    self.edges.remove(&(parent, word));
                    shrink(&mut self.edges);
                }
                self.node_mut(parent).edges -= 1;
            }
        }
        self.free.push(child);
    }
}

impl Node {
    fn is_unused(&self) -> bool {
        self.edges == 0 && self.one == NONE && self.any == NONE && self.targets.is_empty()
    }
}

/// A key on its way through the trie.
struct Walk<'a> {
    trie: &'a Trie,
    /// The nodes reached by the words so far, each once.
    reached: SmallVec<[NodeId; 16]>,
    /// The nodes of `#` entered so far that lie below another `#`. Only those can be come upon twice: without a `#` above
    /// it, a node is reached after as many words as it is deep, and at no other time.
    nested: FxHashSet<NodeId>,
}

impl Walk<'_> {
    fn step(&mut self, word: &str) {
        let trie = self.trie;
        let word = trie.words.get(word);
        for id in std::mem::replace(&mut self.reached, smallvec![]) {
            let node = trie.node(id);
            if node.stays {
                self.reached.push(id);
            }
            if node.edges > 0
                && let Some(word) = word
                && let Some(&child) = trie.edges.get(&(id, word))
            {
                self.enter(child);
            }
            if node.one != NONE {
                self.enter(node.one);
            }
        }
    }

    /// Adds a node, and the nodes behind it for which `#` stands for no word.
    fn enter(&mut self, mut id: NodeId) {
        loop {
            self.reached.push(id);
            id = self.trie.node(id).any;
            if id == NONE || (self.trie.node(id).hashes > 1 && !self.nested.insert(id)) {
                return;
            }
        }
    }
}

/// The words of all patterns, numbered, so that the trie compares numbers.
#[derive(Default)]
struct Words {
    known: HashMap<Box<str>, Word>,
    free: Vec<WordId>,
}

struct Word {
    id: WordId,
    /// The edges that have it.
    uses: usize,
}

impl Words {
    fn get(&self, word: &str) -> Option<WordId> {
        self.known.get(word).map(|word| word.id)
    }

    fn take(&mut self, word: &str) -> WordId {
        if let Some(known) = self.known.get_mut(word) {
            known.uses += 1;
            return known.id;
        }
        let id = self
            .free
            .pop()
            .unwrap_or_else(|| WordId::try_from(self.known.len()).expect("memory ends before word numbers do"));
        self.known.insert(word.into(), Word { id, uses: 1 });
        id
    }

    /// The number that the word had.
    fn give_back(&mut self, word: &str) -> Option<WordId> {
        let known = self.known.get_mut(word)?;
        let id = known.id;
        known.uses -= 1;
        if known.uses == 0 {
            self.known.remove(word);
            self.free.push(id);
            shrink(&mut self.known);
        }
        Some(id)
    }
}

/// What a trie holds, for tests.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct Size {
    pub(super) nodes: usize,
    pub(super) edges: usize,
    pub(super) words: usize,
    /// Places for any of these, and numbers kept for later.
    pub(super) reserved: usize,
}

#[cfg(test)]
impl Trie {
    pub(super) fn size(&self) -> Size {
        let words = &self.words;
        Size {
            nodes: self.nodes.len() - self.free.len(),
            edges: self.edges.len(),
            words: words.known.len(),
            reserved: self.nodes.len()
                + self.free.len()
                + self.edges.capacity()
                + words.known.capacity()
                + words.free.len(),
        }
    }
}
