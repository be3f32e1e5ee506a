//! One alarm clock for all queues: a task that wakes them when they asked for it.

use super::classic::Queue;
use crate::clock::Clock;
use parking_lot::Mutex;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Longer than this nobody sleeps at once, since instants have a latest one.
const SLEEP_MAX: Duration = Duration::from_secs(24 * 3600);
/// So many queues are woken before other tasks have their turn.
const WAKES_MAX: usize = 16;

#[derive(Debug, Default)]
pub struct Timer {
    /// A queue is in it once for each time that it asked for and that has not come; it asks again only for an earlier
    /// time, so that there are few in vain.
    alarms: Mutex<BinaryHeap<Reverse<Alarm>>>,
    earlier: tokio::sync::Notify,
}

#[derive(Debug)]
struct Alarm {
    at_ms: u64,
    queue: Weak<Queue>,
}

impl Ord for Alarm {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at_ms.cmp(&other.at_ms)
    }
}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at_ms == other.at_ms
    }
}

impl Eq for Alarm {}

impl Timer {
    /// Has a queue woken at a time, in milliseconds since 1970. No lock may be held.
    pub(super) fn wake_at(&self, at_ms: u64, queue: Weak<Queue>) {
        let mut alarms = self.alarms.lock();
        let first = alarms.peek().is_none_or(|Reverse(first)| at_ms < first.at_ms);
        alarms.push(Reverse(Alarm { at_ms, queue }));
        drop(alarms);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Wakes queues for ever.
    pub async fn run(self: Arc<Self>, clock: Clock) {
        loop {
            let mut woken = 0;
            while let Some(queue) = self.due(clock.now_ms()) {
                queue.tick();
                woken += 1;
                if woken % WAKES_MAX == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let next = self.alarms.lock().peek().map(|Reverse(alarm)| alarm.at_ms);
            let until = next.map_or(SLEEP_MAX, |at_ms| clock.until(at_ms).min(SLEEP_MAX));
            tokio::select! {
                biased;
                () = tokio::time::sleep(until) => {}
                () = self.earlier.notified() => {}
            }
        }
    }

    /// The next queue whose time has come.
    fn due(&self, now_ms: u64) -> Option<Arc<Queue>> {
        let mut alarms = self.alarms.lock();
        while alarms.peek().is_some_and(|Reverse(alarm)| alarm.at_ms <= now_ms) {
            // A queue that is gone needs no waking.
            if let Some(queue) = alarms.pop().and_then(|Reverse(alarm)| alarm.queue.upgrade()) {
                return Some(queue);
            }
        }
        None
    }
}
