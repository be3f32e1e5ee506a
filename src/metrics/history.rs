//! Samples of numbers over time: what they were at the last look and the one before, and for some of them for a day.
//!
//! A [`History`] has a ring for each [`Retention`]: the last minutes finely, the last hours coarsely, so that its size
//! is fixed. Times are milliseconds since 1970 and an argument, as everywhere.

use std::collections::VecDeque;

/// What numbers were at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample<const N: usize> {
    pub at_ms: u64,
    pub values: [u64; N],
}

/// For how long samples are kept, and how far apart; seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub age_s: u64,
    pub interval_s: u64,
}

impl Retention {
    pub const fn of((age_s, interval_s): (u64, u64)) -> Self {
        Self { age_s, interval_s }
    }
}

/// The samples that are asked for: for so long, so far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub age_s: u64,
    pub interval_s: u64,
}

impl Grid {
    /// More samples than this are not given.
    pub const STEPS_MAX: u64 = 500;
}

/// Samples of one number, and what follows from them.
#[derive(Debug, Clone, PartialEq)]
pub struct Details {
    /// By their times, the newest first.
    pub samples: Vec<(u64, u64)>,
    /// Between the last two, a second.
    pub rate: f64,
    pub average_rate: f64,
    pub average: f64,
}

/// The last two looks, a sampling interval apart; of what is new, fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recent<const N: usize> {
    before: Option<Sample<N>>,
    last: Option<Sample<N>>,
    /// When the numbers were last seen to be others than before.
    changed_at_ms: u64,
}

impl<const N: usize> Default for Recent<N> {
    fn default() -> Self {
        Self { before: None, last: None, changed_at_ms: 0 }
    }
}

impl<const N: usize> Recent<N> {
    /// Another look.
    pub fn push(&mut self, sample: Sample<N>) {
        if self.last.is_none_or(|last| last.values != sample.values) {
            self.changed_at_ms = sample.at_ms;
        }
        (self.before, self.last) = (self.last, Some(sample));
    }

    /// How fast a number grew between the two, a second.
    pub fn rate(&self, at: usize) -> f64 {
        self.before.zip(self.last).map_or(0.0, |(before, last)| rate(&before, &last, at))
    }

    /// Since when the numbers are what they were at the last look; `None` if they changed just before it.
    pub fn idle_since_ms(&self) -> Option<u64> {
        self.last.filter(|last| self.changed_at_ms < last.at_ms).map(|_| self.changed_at_ms)
    }

    /// The earlier one first.
    pub fn each(&self) -> impl DoubleEndedIterator<Item = Sample<N>> {
        [self.before, self.last].into_iter().flatten()
    }
}

fn rate<const N: usize>(before: &Sample<N>, last: &Sample<N>, at: usize) -> f64 {
    let passed_ms = last.at_ms.saturating_sub(before.at_ms);
    if passed_ms == 0 { 0.0 } else { difference(before.values[at], last.values[at]) * 1000.0 / passed_ms as f64 }
}

fn difference(before: u64, now: u64) -> f64 {
    if now >= before { (now - before) as f64 } else { -((before - now) as f64) }
}

/// The past of some numbers.
#[derive(Debug)]
pub struct History<const N: usize> {
    rings: Vec<Ring<N>>,
}

#[derive(Debug)]
struct Ring<const N: usize> {
    retention: Retention,
    /// By their times.
    samples: VecDeque<Sample<N>>,
}

impl<const N: usize> History<N> {
    pub fn new(policy: &[Retention]) -> Self {
        let rings = policy.iter().map(|retention| Ring { retention: *retention, samples: VecDeque::new() });
        Self { rings: rings.collect() }
    }

    /// Keeps a sample in every ring in which it is the first of its interval.
    pub fn push(&mut self, sample: Sample<N>) {
        for Ring { retention, samples } in &mut self.rings {
            let interval = |sample: &Sample<N>| sample.at_ms / 1000 / retention.interval_s;
            if samples.back().is_none_or(|last| interval(last) != interval(&sample)) {
                samples.push_back(sample);
            }
            let kept = usize::try_from(retention.age_s / retention.interval_s).unwrap_or(usize::MAX).saturating_add(1);
            while samples.len() > kept {
                samples.pop_front();
            }
        }
    }

    /// The samples of a grid up to now, as far as anything is known of the time: each is what was last seen before it.
    pub fn on_grid(&self, grid: Grid, now_ms: u64) -> Vec<Sample<N>> {
        let interval_ms = grid.interval_s.max(1).saturating_mul(1000);
        let last_ms = now_ms / interval_ms * interval_ms;
        let steps = (grid.age_s / grid.interval_s.max(1)).min(Grid::STEPS_MAX);
        // The finest ring that reaches back so far, or the one that reaches back farthest.
        let ring = self.rings.iter().find(|ring| ring.retention.age_s >= grid.age_s).or(self.rings.last());
        let Some(Ring { samples, .. }) = ring else { return Vec::new() };
        let mut found = Vec::new();
        for step in 0..=steps {
            let at_ms = last_ms.saturating_sub(step * interval_ms);
            let count = samples.partition_point(|sample| sample.at_ms <= at_ms);
            let Some(sample) = count.checked_sub(1).and_then(|at| samples.get(at)) else { break };
            found.push(Sample { at_ms, values: sample.values });
        }
        found
    }
}

/// What samples, the newest first, say of one of their numbers.
pub fn details<const N: usize>(samples: &[Sample<N>], at: usize) -> Details {
    let values = || samples.iter().map(|sample| sample.values[at]);
    let rate = match samples {
        [last, before, ..] => self::rate(before, last, at),
        _ => 0.0,
    };
    let average_rate = match (samples.last(), samples.first()) {
        (Some(first), Some(last)) => self::rate(first, last, at),
        _ => 0.0,
    };
    let average = values().map(|value| value as f64).sum::<f64>() / samples.len().max(1) as f64;
    let samples = samples.iter().map(|sample| (sample.at_ms, sample.values[at])).collect();
    Details { samples, rate, average_rate, average }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: u64, value: u64) -> Sample<1> {
        Sample { at_ms: at_s * 1000, values: [value] }
    }

    #[test]
    fn a_rate_is_what_came_between_two_looks() {
        let mut recent = Recent::default();
        recent.push(sample(5, 10));
        recent.push(sample(10, 60));
        assert!((recent.rate(0) - 10.0).abs() < f64::EPSILON);
        assert_eq!(recent.idle_since_ms(), None);
        recent.push(sample(15, 60));
        assert!(recent.rate(0).abs() < f64::EPSILON);
        assert_eq!(recent.idle_since_ms(), Some(10_000));
        // Gauges go down as well.
        recent.push(sample(20, 10));
        assert!((recent.rate(0) + 10.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_grid_shows_what_was_last_seen_before_each_of_its_times() {
        let mut history = History::new(&[Retention::of((600, 5)), Retention::of((3600, 60))]);
        (0..5).for_each(|step| history.push(sample(101 + 5 * step, 10 * step)));
        let grid = Grid { age_s: 20, interval_s: 5 };
        let samples = history.on_grid(grid, 124_000);
        // Nothing is known of the time before 101 s.
        assert_eq!(samples, [sample(120, 30), sample(115, 20), sample(110, 10), sample(105, 0)]);
        let details = details(&samples, 0);
        assert_eq!(details.samples[0], (120_000, 30));
        assert_eq!((details.rate, details.average_rate, details.average), (2.0, 2.0, 15.0));
    }

    #[test]
    fn a_history_has_a_fixed_size() {
        let policy = [(600, 5), (3600, 60), (28_800, 600), (86_400, 1800)];
        let mut history = History::new(&policy.map(Retention::of));
        for second in (0..200_000).step_by(5) {
            history.push(sample(second, second));
        }
        let kept: Vec<_> = history.rings.iter().map(|ring| ring.samples.len()).collect();
        assert_eq!(kept, [121, 61, 49, 49]);
        let day = history.on_grid(Grid { age_s: 86_400, interval_s: 1800 }, 199_999_000);
        assert!(day.len() >= 48, "{}", day.len());
        assert_eq!(history.on_grid(Grid { age_s: 60, interval_s: 5 }, 199_999_000).len(), 13);
        // However much is asked for.
        assert!(history.on_grid(Grid { age_s: u64::MAX, interval_s: 1 }, 199_999_000).len() <= 501);
        assert!(history.on_grid(Grid { age_s: 60, interval_s: 0 }, 199_999_000).len() <= 61);
    }
}
