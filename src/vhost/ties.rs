//! What a channel has done with each queue, and through each exchange: counters of their own for each pair.
//!
//! Whoever counts gets a pair's counters once (a consumer, when it comes; a publisher, when its exchange is another than the
//! last) or once a batch, and adds to them as to all others.

use crate::metrics::Counts;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::{Arc, Weak};

/// Of more queues or exchanges than this a channel does not tell, unless others have gone.
const TIES_MAX: usize = 1000;

/// A channel's counters for each `T`, by where that is in memory.
#[derive(Debug)]
pub struct Ties<T>(Mutex<FxHashMap<usize, Tie<T>>>);

#[derive(Debug)]
struct Tie<T> {
    /// Keeps its place in memory from being given to another.
    to: Weak<T>,
    counts: Arc<Counts>,
}

impl<T> Default for Ties<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Ties<T> {
    /// The counters of a pair. When there are too many they belong to nobody.
    pub fn with(&self, to: &Arc<T>) -> Arc<Counts> {
        let place = Arc::as_ptr(to).addr();
        let mut ties = self.0.lock();
        if let Some(tie) = ties.get(&place) {
            return Arc::clone(&tie.counts);
        }
        if ties.len() >= TIES_MAX {
            ties.retain(|_, tie| tie.to.strong_count() > 0);
        }
        let counts = Arc::<Counts>::default();
        if ties.len() < TIES_MAX {
            ties.insert(place, Tie { to: Arc::downgrade(to), counts: Arc::clone(&counts) });
        }
        counts
    }

    /// All pairs whose other end is still there.
    pub fn list(&self) -> Vec<(Arc<T>, Arc<Counts>)> {
        let ties = self.0.lock();
        ties.values().filter_map(|tie| Some((tie.to.upgrade()?, Arc::clone(&tie.counts)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Stat;

    #[test]
    fn each_pair_has_its_own_counters_as_long_as_it_is_there() {
        let ties = Ties::default();
        let (one, other) = (Arc::new(1), Arc::new(1));
        ties.with(&one).add(Stat::Ack, 2);
        ties.with(&other).add(Stat::Ack, 3);
        ties.with(&one).add(Stat::Ack, 5);
        let acks = |number: &Arc<i32>| {
            let listed = ties.list();
            let found = listed.iter().find(|(to, _)| Arc::ptr_eq(to, number));
            found.map(|(_, counts)| counts.snapshot()[Stat::Ack])
        };
        assert_eq!((acks(&one), acks(&other)), (Some(7), Some(3)));
        drop(other);
        assert_eq!(ties.list().len(), 1);
    }

    #[test]
    fn there_are_only_so_many() {
        let ties = Ties::default();
        let many: Vec<_> = (0..=TIES_MAX).map(Arc::new).collect();
        many.iter().for_each(|number| ties.with(number).add(Stat::Ack, 1));
        assert_eq!(ties.list().len(), TIES_MAX);
        let last = many[TIES_MAX].clone();
        drop(many);
        ties.with(&last).add(Stat::Ack, 1);
        let listed = ties.list();
        assert_eq!((listed.len(), listed[0].1.snapshot()[Stat::Ack]), (1, 1));
    }
}
