//! How often something may happen: so many times a second on the whole, and some at once.

use tokio::time::{Duration, Instant};

/// One who is paced. Pure: time is an argument.
///
/// It keeps a single moment: when all that it took would have been due, had it come evenly. It may run ahead of the
/// clock by what a burst takes (the "generic cell rate algorithm").
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two of them.
    interval: Duration,
    /// How far it may run ahead.
    ahead_max: Duration,
    due: Instant,
}

impl Pace {
    /// `per_second` on the whole, which is not 0, and `burst` at once.
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, ahead_max: interval * burst, due: now }
    }

    /// Takes one, or says how long until there is one to take.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let due = self.due.max(now) + self.interval;
        match due.checked_duration_since(now + self.ahead_max) {
            None | Some(Duration::ZERO) => {
                self.due = due;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// Takes one in any case, and says how long until it would have been its turn.
    pub fn owe(&mut self, now: Instant) -> Option<Duration> {
        self.due = self.due.max(now) + self.interval;
        self.due.checked_duration_since(now + self.ahead_max).filter(|wait| !wait.is_zero())
    }

    /// Nothing it took matters any more: it is as good as new.
    pub fn is_rested(&self, now: Instant) -> bool {
        self.due <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_in_any_case_is_owed() {
        let start = Instant::now();
        let mut pace = Pace::new(10, 5, start);
        let waits: Vec<_> = (0..7).map(|_| pace.owe(start)).collect();
        assert_eq!(waits[..5], [None; 5]);
        assert_eq!(waits[5..], [Some(Duration::from_millis(100)), Some(Duration::from_millis(200))]);
        assert_eq!(pace.owe(start + Duration::from_secs(1)), None);
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_evenly() {
        let start = Instant::now();
        let mut pace = Pace::new(10, 5, start);
        for _ in 0..5 {
            assert_eq!(pace.take(start), Ok(()));
        }
        assert_eq!(pace.take(start), Err(Duration::from_millis(100)));
        let later = start + Duration::from_millis(60);
        assert_eq!(pace.take(later), Err(Duration::from_millis(40)), "who asks too early loses nothing by it");
        let later = start + Duration::from_millis(100);
        assert_eq!(pace.take(later), Ok(()));
        assert_eq!(pace.take(later), Err(Duration::from_millis(100)));
    }

    #[test]
    fn over_a_long_time_it_is_the_rate_and_the_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(200, 2000, start);
        let mut taken = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            while pace.take(now).is_ok() {
                taken += 1;
            }
        }
        assert!((3995..=4000).contains(&taken), "{taken} in ten seconds");
    }

    #[test]
    fn a_rest_gives_the_burst_back_and_no_more() {
        let start = Instant::now();
        let mut pace = Pace::new(100, 3, start);
        assert!(pace.is_rested(start));
        while pace.take(start).is_ok() {}
        assert!(!pace.is_rested(start));
        let later = start + Duration::from_secs(3600);
        assert!(pace.is_rested(later));
        let taken = (0..10).filter(|_| pace.take(later).is_ok()).count();
        assert_eq!(taken, 3);
    }
}
