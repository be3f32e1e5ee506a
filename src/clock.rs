//! What time it is. Read where loops and locks begin, and handed on as an argument: nothing below asks by itself.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, as the system's clock had it when the broker started and going on evenly since: setting the
/// system's clock makes nothing expire too soon or too late before the next start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_ms: u64,
}

impl Clock {
    pub fn start() -> Self {
        // A clock before 1970 is none.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { started: Instant::now(), started_ms: milliseconds(since) }
    }

    pub fn now_ms(&self) -> u64 {
        self.started_ms.saturating_add(milliseconds(self.started.elapsed()))
    }

    /// How long it is until then; nothing, if that is past.
    pub fn until(&self, at_ms: u64) -> Duration {
        Duration::from_millis(at_ms.saturating_sub(self.now_ms()))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
