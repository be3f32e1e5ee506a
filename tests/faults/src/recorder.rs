//! Where all clients of a run write down what they do.

use leveret_checker::{Crash, Event, History, Id, Record};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Shared by all clients of a run.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    records: Mutex<Vec<Record>>,
    ids: AtomicU64,
    /// Of publishers, consumers and transactions.
    numbers: AtomicU32,
}

/// The system's monotonic clock, which other processes read as well.
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    seconds.unwrap_or_default() * 1_000_000 + nanos.unwrap_or_default() / 1000
}

impl Recorder {
    /// Ids begin behind `first`, so that histories on one data folder share none.
    pub fn new(first: Id) -> Self {
        Self(Arc::new(Shared {
            records: Mutex::new(Vec::new()),
            ids: AtomicU64::new(first),
            numbers: AtomicU32::new(1),
        }))
    }

    /// One that goes on from what this one has, and leaves this one as it is.
    pub fn fork(&self) -> Self {
        let shared = Shared {
            records: Mutex::new(self.lock().clone()),
            ids: AtomicU64::new(self.0.ids.load(Ordering::Relaxed)),
            numbers: AtomicU32::new(self.0.numbers.load(Ordering::Relaxed)),
        };
        Self(Arc::new(shared))
    }

    pub fn id(&self) -> Id {
        self.0.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub fn number(&self) -> u32 {
        self.0.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub fn note(&self, event: Event) {
        self.notes([event]);
    }

    /// Several at once, in this order.
    pub fn notes(&self, events: impl IntoIterator<Item = Event>) {
        let mut records = self.lock();
        let at_us = now_us();
        records.extend(events.into_iter().map(|event| Record { at_us, event }));
    }

    /// The first of so many ids and numbers, for another process.
    pub fn reserve(&self, many: u32) -> (Id, u32) {
        (self.0.ids.fetch_add(many.into(), Ordering::Relaxed), self.0.numbers.fetch_add(many, Ordering::Relaxed))
    }

    /// Of another process.
    pub fn take(&self, record: Record) {
        self.lock().push(record);
    }

    /// The broker ended at that time; only now that no client is left that could still write something down.
    pub fn crash(&self, kind: Crash, at_us: u64) {
        let mut records = self.lock();
        sort(&mut records);
        records.push(Record { at_us, event: Event::Crash { kind } });
    }

    pub fn history(&self) -> History {
        let mut history = History::default();
        let mut records = self.lock();
        sort(&mut records);
        for record in records.iter() {
            history.push(record.at_us, record.event.clone());
        }
        history
    }

    /// How many publishes were confirmed so far.
    pub fn confirms(&self) -> usize {
        self.lock().iter().filter(|record| matches!(record.event, Event::Confirm { .. })).count()
    }

    /// All queues that anybody declared, with what the last declaration said, in the order of their first.
    pub fn queues(&self) -> Vec<Event> {
        let mut found: Vec<Event> = Vec::new();
        for record in self.lock().iter() {
            let Event::Declare { queue, .. } = &record.event else { continue };
            let same =
                found.iter_mut().find(|known| matches!(known, Event::Declare { queue: name, .. } if name == queue));
            match same {
                Some(known) => *known = record.event.clone(),
                None => found.push(record.event.clone()),
            }
        }
        found
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        self.0.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By time, but not over a crash: what was written down before it stays before it.
fn sort(records: &mut [Record]) {
    let last = records.iter().rposition(|record| matches!(record.event, Event::Crash { .. }));
    let since = last.map_or(0, |at| at + 1);
    records[since..].sort_by_key(|record| record.at_us);
}
