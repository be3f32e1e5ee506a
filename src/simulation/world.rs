//! What outlives a broker: its disk, the time, and what its clients remember.

use crate::store::simulated::SimulatedDisk;
use leveret_checker::{Event, History, Id, Kind, Random};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tokio::time::Duration;

/// Messages that are rejected go there.
pub const DEAD: &str = "dead";
/// An exchange of type fanout, bound to the first two queues.
pub const BOTH: &str = "both";

#[derive(Debug)]
pub struct Queue {
    pub name: String,
    pub kind: Kind,
    pub has_priorities: bool,
    pub dead_letters: bool,
    /// Milliseconds after which its messages are dead.
    pub ttl_ms: Option<u32>,
    /// Messages that may be ready; what is more is dead.
    pub length: Option<u32>,
}

#[derive(Debug)]
pub struct World {
    pub disk: Arc<SimulatedDisk>,
    pub queues: Vec<Queue>,
    /// What was declared, and acknowledged.
    pub declared: Mutex<BTreeSet<String>>,
    history: Mutex<History>,
    now_us: AtomicU64,
    ids: AtomicU64,
    numbers: AtomicU32,
}

impl World {
    pub fn new(random: &mut Random) -> Self {
        let mut queues: Vec<_> = (0..random.within(2..=4))
            .map(|number| {
                let kind = if random.chance(30) { Kind::Quorum } else { Kind::Classic };
                // Of the first two one at most, or nobody could tell whose copy a dead letter is.
                let dead_letters = number != 1 && random.chance(50);
                let mut rarely = |range: std::ops::RangeInclusive<u64>| {
                    let number = u32::try_from(random.within(range)).unwrap_or(0);
                    (dead_letters && random.chance(30)).then_some(number)
                };
                let (ttl_ms, length) = (rarely(0..=79), rarely(1..=19));
                Queue {
                    name: format!("q{number}"),
                    kind,
                    has_priorities: kind == Kind::Classic && random.chance(25),
                    dead_letters,
                    ttl_ms,
                    length,
                }
            })
            .collect();
        queues.push(Queue {
            name: DEAD.to_owned(),
            kind: Kind::Classic,
            has_priorities: false,
            dead_letters: false,
            ttl_ms: None,
            length: None,
        });
        Self {
            disk: Arc::default(),
            queues,
            declared: Mutex::default(),
            history: Mutex::default(),
            // 2025, in the days of which nothing is special.
            now_us: AtomicU64::new(1_750_000_000_000_000),
            ids: AtomicU64::new(1),
            numbers: AtomicU32::new(1),
        }
    }

    pub fn note(&self, at_us: u64, event: Event) {
        self.history.lock().push(at_us, event);
    }

    pub fn history(&self) -> History {
        self.history.lock().clone()
    }

    pub fn has_crashed(&self) -> bool {
        self.history.lock().records().iter().any(|record| matches!(record.event, Event::Crash { .. }))
    }

    pub fn now_us(&self) -> u64 {
        self.now_us.load(Ordering::Relaxed)
    }

    pub fn pass(&self, time: Duration) {
        self.now_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(0), Ordering::Relaxed);
    }

    /// A message's name.
    pub fn id(&self) -> Id {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of a publisher, a consumer or a transaction.
    pub fn number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}
