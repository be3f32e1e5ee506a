//! How values spread: counts of buckets with fixed limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The limits of buckets for the octets of messages, as RabbitMQ has them.
pub const MESSAGE_BYTES: [u64; 8] = [100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 50_000_000, 100_000_000];

/// Of buckets for times.
pub const SECONDS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// One more than there are limits: the last has none.
pub type Buckets = [u64; SECONDS.len() + 1];

/// How long something took, how often.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; SECONDS.len() + 1],
    sum_ns: AtomicU64,
}

/// What a histogram showed at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    pub buckets: Buckets,
    pub sum_s: f64,
}

impl Histogram {
    /// So many took so long.
    pub fn add(&self, took: Duration, count: u64) {
        let seconds = took.as_secs_f64();
        let at = SECONDS.iter().position(|limit| seconds <= *limit).unwrap_or(SECONDS.len());
        self.buckets[at].fetch_add(count, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).saturating_mul(count);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub fn seen(&self) -> Seen {
        let sum_s = Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)).as_secs_f64();
        Seen { buckets: std::array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed)), sum_s }
    }
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, other)| *sum += other);
        self.sum_s += other.sum_s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        histogram.add(Duration::from_micros(100), 3);
        histogram.add(Duration::from_micros(101), 1);
        histogram.add(Duration::from_secs(60), 2);
        let seen = histogram.seen();
        assert_eq!((seen.buckets[0], seen.buckets[1], seen.buckets[SECONDS.len()]), (3, 1, 2));
        assert!((seen.sum_s - 120.000_401).abs() < 1e-9, "{}", seen.sum_s);
    }
}
