//! Things whose numbers are looked at again and again, one lock each: all have their last two looks, for rates; those
//! that somebody asks the past of have a history from then on, as long as they are asked for it.

use super::counts::{Counts, STATS};
use super::history::{Grid, History, Recent, Retention, Sample};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A history that nobody has asked for in so long is given up.
const FORGOTTEN_AFTER_MS: u64 = 300_000;

/// How many histories of single things there may be: each takes some tens of KiB.
#[derive(Debug)]
pub struct Histories {
    max: usize,
    policy: Vec<Retention>,
    count: AtomicUsize,
}

impl Histories {
    pub fn new(max: usize, policy: Vec<Retention>) -> Arc<Self> {
        Arc::new(Self { max, policy, count: AtomicUsize::new(0) })
    }

    fn place(self: &Arc<Self>) -> Option<Place> {
        let another = |count: usize| (count < self.max).then_some(count + 1);
        let taken = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, another);
        taken.ok().map(|_| Place(Arc::clone(self)))
    }
}

/// One of them.
#[derive(Debug)]
struct Place(Arc<Histories>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Watch<const N: usize>(Mutex<Inner<N>>);

#[derive(Debug, Default)]
struct Inner<const N: usize> {
    recent: Recent<N>,
    past: Option<Past<N>>,
}

#[derive(Debug)]
struct Past<const N: usize> {
    history: Box<History<N>>,
    asked_at_ms: u64,
    _place: Place,
}

impl<const N: usize> Watch<N> {
    /// Another look.
    pub fn push(&self, sample: Sample<N>) {
        let mut inner = self.0.lock();
        inner.recent.push(sample);
        if let Some(past) = inner.past.as_mut() {
            past.history.push(sample);
            if sample.at_ms > past.asked_at_ms.saturating_add(FORGOTTEN_AFTER_MS) {
                inner.past = None;
            }
        }
    }

    pub fn recent(&self) -> Recent<N> {
        self.0.lock().recent
    }

    /// The samples of a grid, the newest first. The first to ask begins a history, if there is a place for one; what was
    /// before that nobody knows any more.
    pub fn samples(&self, grid: Grid, now_ms: u64, histories: &Arc<Histories>) -> Vec<Sample<N>> {
        let mut inner = self.0.lock();
        if inner.past.is_none()
            && let Some(place) = histories.place()
        {
            let mut history = Box::new(History::new(&histories.policy));
            inner.recent.each().for_each(|sample| history.push(sample));
            inner.past = Some(Past { history, asked_at_ms: now_ms, _place: place });
        }
        match &mut inner.past {
            Some(past) => {
                past.asked_at_ms = now_ms;
                past.history.on_grid(grid, now_ms)
            }
            None => inner.recent.each().rev().collect(),
        }
    }
}

/// Counters of messages, and what they were.
#[derive(Debug, Default)]
pub struct Counted {
    pub counts: Counts,
    pub watch: Watch<STATS>,
}

impl Counted {
    /// Takes a sample.
    pub fn look(&self, at_ms: u64) {
        self.watch.push(Sample { at_ms, values: self.counts.snapshot().0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: u64, value: u64) -> Sample<1> {
        Sample { at_ms: at_s * 1000, values: [value] }
    }

    #[test]
    fn a_history_begins_with_the_first_who_asks_and_ends_after_the_last() {
        let (histories, grid) = (Histories::new(1, vec![Retention::of((600, 5))]), Grid { age_s: 60, interval_s: 5 });
        let (watch, other) = (Watch::default(), Watch::default());
        (1..=10).for_each(|step| watch.push(sample(5 * step, step)));
        // The last two looks are known of everything.
        assert_eq!(watch.samples(grid, 50_000, &histories), [sample(50, 10), sample(45, 9)]);
        (11..=20).for_each(|step| watch.push(sample(5 * step, step)));
        assert_eq!(watch.samples(grid, 100_000, &histories).len(), 12);
        // There is no place for a second one.
        other.push(sample(100, 1));
        assert_eq!(other.samples(grid, 100_000, &histories), [sample(100, 1)]);
        watch.push(sample(401, 21));
        other.push(sample(401, 2));
        other.push(sample(406, 3));
        assert_eq!(other.samples(grid, 406_000, &histories).len(), 1);
        assert_eq!(histories.count.load(Ordering::Relaxed), 1);
        drop(other);
        assert_eq!(histories.count.load(Ordering::Relaxed), 0);
    }
}
