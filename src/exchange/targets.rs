//! Destinations in one place of an index: of a key, of a pattern, of a whole fanout exchange.

use super::Destination;
use std::collections::BTreeMap;

/// Destinations, each with the number of bindings that lead to it from here (they differ in their arguments or, in a
/// fanout, in their keys). Most places hold one.
#[derive(Debug, Default)]
pub(super) enum Targets {
    #[default]
    None,
    One(Destination, usize),
    /// Two or more.
    Many(BTreeMap<Destination, usize>),
}

impl Targets {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn add(&mut self, destination: &Destination) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(destination.clone(), 1),
            Self::One(only, count) if only == *destination => Self::One(only, count + 1),
            Self::One(only, count) => Self::Many(BTreeMap::from([(only, count), (destination.clone(), 1)])),
            Self::Many(mut counts) => {
                *counts.entry(destination.clone()).or_insert(0) += 1;
                Self::Many(counts)
            }
        };
    }

    /// Takes back one [`Targets::add`] of this destination.
    pub(super) fn remove(&mut self, destination: &Destination) {
        *self = match std::mem::take(self) {
            Self::One(only, count) if only == *destination => {
                if count > 1 {
                    Self::One(only, count - 1)
                } else {
                    Self::None
                }
            }
            Self::Many(mut counts) => {
                match counts.get_mut(destination) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => drop(counts.remove(destination)),
                }
                match counts.len() {
                    1 => counts.pop_first().map_or(Self::None, |(only, count)| Self::One(only, count)),
                    _ => Self::Many(counts),
                }
            }
            unchanged => unchanged,
        };
    }

    pub(super) fn each(&self, found: &mut dyn FnMut(&Destination)) {
        match self {
            Self::None => {}
            Self::One(only, _) => found(only),
            Self::Many(counts) => counts.keys().for_each(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_stays_until_its_last_binding_goes() {
        let queue = |name: &str| Destination::Queue(name.into());
        let listed = |targets: &Targets| {
            let mut all = Vec::new();
            targets.each(&mut |destination| all.push(destination.clone()));
            all
        };
        let mut targets = Targets::default();
        for name in ["b", "a", "b"] {
            targets.add(&queue(name));
        }
        assert_eq!(listed(&targets), [queue("a"), queue("b")]);
        targets.remove(&queue("b"));
        assert_eq!(listed(&targets), [queue("a"), queue("b")]);
        targets.remove(&queue("b"));
        assert_eq!(listed(&targets), [queue("a")]);
        targets.remove(&queue("other"));
        assert!(!targets.is_empty());
        targets.remove(&queue("a"));
        assert!(targets.is_empty());
    }
}
