//! How messages end: dead, for a reason, or acknowledged after so many deliveries.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

/// The limits of buckets for how often a message was delivered.
pub const DELIVERIES: [u64; 7] = [1, 2, 3, 5, 10, 20, 50];
/// Why messages die, by RabbitMQ's names.
pub const REASONS: [&str; 4] = ["rejected", "expired", "maxlen", "delivery_limit"];

/// What becomes of the dead, by RabbitMQ's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// They are dropped.
    Disabled,
    AtMostOnce,
    AtLeastOnce,
}

impl Strategy {
    pub const ALL: [Self; 3] = [Self::Disabled, Self::AtMostOnce, Self::AtLeastOnce];

    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::AtMostOnce => "at_most_once",
            Self::AtLeastOnce => "at_least_once",
        }
    }
}

/// What a queue gathers of it, or what many showed at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ends {
    /// By reason, in the order of [`REASONS`].
    pub died: [u64; REASONS.len()],
    /// Those of the dead that others have taken.
    pub buried: u64,
    /// Acknowledged, as [`DELIVERIES`] divides them, and the sum of their deliveries.
    pub acknowledged: [u64; DELIVERIES.len() + 1],
    pub deliveries: u64,
}

impl Ends {
    /// So many messages were acknowledged after so many deliveries each.
    pub fn acknowledge(&mut self, count: u64, deliveries: u64) {
        let bucket = DELIVERIES.iter().position(|limit| deliveries <= *limit).unwrap_or(DELIVERIES.len());
        self.acknowledged[bucket] += count;
        self.deliveries = self.deliveries.saturating_add(count.saturating_mul(deliveries));
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn numbers(&self) -> impl Iterator<Item = u64> {
        self.died.into_iter().chain([self.buried]).chain(self.acknowledged).chain([self.deliveries])
    }
}

impl AddAssign<&Self> for Ends {
    fn add_assign(&mut self, other: &Self) {
        self.died.iter_mut().zip(other.died).for_each(|(sum, own)| *sum += own);
        self.buried += other.buried;
        self.acknowledged.iter_mut().zip(other.acknowledged).for_each(|(sum, own)| *sum += own);
        self.deliveries += other.deliveries;
    }
}

/// Counters of it.
#[derive(Debug, Default)]
pub struct EndCounts {
    died: [AtomicU64; REASONS.len()],
    buried: AtomicU64,
    acknowledged: [AtomicU64; DELIVERIES.len() + 1],
    deliveries: AtomicU64,
}

impl EndCounts {
    pub fn add(&self, ends: &Ends) {
        for (counter, count) in self.counters().zip(ends.numbers()).filter(|(_, count)| *count > 0) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub fn snapshot(&self) -> Ends {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ends {
            died: self.died.each_ref().map(read),
            buried: read(&self.buried),
            acknowledged: self.acknowledged.each_ref().map(read),
            deliveries: read(&self.deliveries),
        }
    }

    fn counters(&self) -> impl Iterator<Item = &AtomicU64> {
        self.died.iter().chain([&self.buried]).chain(&self.acknowledged).chain([&self.deliveries])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_queue_gathered_is_what_is_counted() {
        let mut ends = Ends { died: [1, 0, 2, 3], buried: 4, ..Ends::default() };
        ends.acknowledge(10, 1);
        ends.acknowledge(2, 4);
        ends.acknowledge(1, 1000);
        assert_eq!(ends.acknowledged, [10, 0, 0, 2, 0, 0, 0, 1]);
        assert_eq!(ends.deliveries, 1018);
        let counts = EndCounts::default();
        counts.add(&ends);
        assert_eq!(counts.snapshot(), ends);
        counts.add(&ends);
        let mut twice = ends;
        twice += &ends;
        assert_eq!(counts.snapshot(), twice);
    }
}
