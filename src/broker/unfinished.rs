//! What clients have sent of messages that are not published yet: bodies that are not whole, transactions that are not
//! committed.
//!
//! No queue has these messages and no disk, so that nothing but this bounds them. Each connection has a little
//! ([`FREE_BYTES`]) without being asked. When all together hold more than the bound, those that have more than that are
//! read one at a time, in the order they came; whose turn it is has to finish in time ([`patience`]), so that nobody who
//! stops half-way keeps the others from theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, Instant};

/// What a connection may hold whatever the others do.
pub const FREE_BYTES: usize = 64 << 10;
/// How long a turn may take, whatever there is to send.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a client must send in a second of its turn beyond that.
const BYTES_PER_SECOND: usize = 1 << 20;
/// At most this part of what memory may be used for publishing at all.
const MEMORY_PART: u64 = 4;

#[derive(Debug)]
pub struct Unfinished {
    bytes: AtomicUsize,
    bytes_max: AtomicUsize,
    /// As it was set; less where there is little memory.
    bytes_wanted: usize,
    /// For the one that is read though there is too much.
    turn: Arc<Semaphore>,
    /// Told when there is not too much any more.
    relief: Notify,
}

/// A connection's part of it.
#[derive(Debug)]
pub struct Share {
    all: Arc<Unfinished>,
    bytes: usize,
    turn: Option<Turn>,
}

/// The right to go on.
#[derive(Debug)]
pub struct Turn {
    began: Instant,
    /// What the connection held then.
    bytes: usize,
    _permit: OwnedSemaphorePermit,
}

impl Unfinished {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicUsize::new(0),
            bytes_max: AtomicUsize::new(bytes_max),
            bytes_wanted: bytes_max,
            turn: Arc::new(Semaphore::new(1)),
            relief: Notify::new(),
        })
    }

    /// Memory that is used above this mark stops publishers; this may only take a part of it.
    pub fn fit(&self, memory_mark: u64) {
        let part = usize::try_from(memory_mark / MEMORY_PART).unwrap_or(usize::MAX);
        self.bytes_max.store(self.bytes_wanted.min(part), Ordering::Relaxed);
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.bytes() > self.bytes_max.load(Ordering::Relaxed)
    }

    /// Waits for the turn of who asks and holds so much; turns are given in the order in which they are asked for. `None` if
    /// nobody needs one any more.
    pub async fn turn(&self, bytes: usize) -> Option<Turn> {
        let relief = self.relief.notified();
        if !self.is_full() {
            return None;
        }
        tokio::select! {
            biased;
            permit = Arc::clone(&self.turn).acquire_owned() => {
                Some(Turn { began: Instant::now(), bytes, _permit: permit.ok()? })
            }
            () = relief => None,
        }
    }
}

impl Share {
    pub fn of(all: &Arc<Unfinished>) -> Self {
        Self { all: Arc::clone(all), bytes: 0, turn: None }
    }

    /// The connection holds so many octets now.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.all.bytes.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            let was_full = self.all.is_full();
            self.all.bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            if was_full && !self.all.is_full() {
                self.all.relief.notify_waiters();
            }
        }
        self.bytes = bytes;
        if bytes <= FREE_BYTES {
            self.turn = None;
        }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whom to ask for a turn, if the client can't be read without one.
    pub fn must_wait(&self) -> Option<Arc<Unfinished>> {
        let must = self.bytes > FREE_BYTES && self.turn.is_none() && self.all.is_full();
        must.then(|| Arc::clone(&self.all))
    }

    pub fn take(&mut self, turn: Turn) {
        self.turn = Some(turn);
    }

    /// When its turn ends, if it has one.
    pub fn turn_ends(&self) -> Option<Instant> {
        self.turn.as_ref().map(|turn| turn.began + patience(self.bytes.saturating_sub(turn.bytes)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// How long a turn may take in which so many octets have come.
fn patience(bytes: usize) -> Duration {
    PATIENCE + Duration::from_secs((bytes / BYTES_PER_SECOND) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(all: &Arc<Unfinished>, bytes: usize) -> Share {
        let mut share = Share::of(all);
        share.set(bytes);
        share
    }

    #[tokio::test]
    async fn beyond_the_bound_one_at_a_time_goes_on() {
        let all = Unfinished::new(1 << 20);
        let mut first = holding(&all, 600 << 10);
        assert!(first.must_wait().is_none());
        let second = holding(&all, 600 << 10);
        let small = holding(&all, FREE_BYTES);
        assert!(first.must_wait().is_some() && second.must_wait().is_some() && small.must_wait().is_none());
        first.take(all.turn(first.bytes()).await.unwrap());
        assert!(first.must_wait().is_none() && second.must_wait().is_some());
        assert!(tokio::time::timeout(Duration::from_millis(10), all.turn(0)).await.is_err());
        // With the end of the first one's message everybody has room again, and the turn is free.
        first.set(0);
        assert!(second.must_wait().is_none() && first.turn_ends().is_none());
        assert!(all.turn(second.bytes()).await.is_none());
        drop((first, second, small));
        assert_eq!(all.bytes(), 0);
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_there_is_room_again() {
        let all = Unfinished::new(1 << 20);
        let (mut one, mut other) = (holding(&all, 600 << 10), holding(&all, 600 << 10));
        one.take(all.turn(one.bytes()).await.unwrap());
        let waits = tokio::spawn({
            let all = Arc::clone(&all);
            async move { all.turn(1).await.is_none() }
        });
        tokio::task::yield_now().await;
        other.set(0);
        assert!(waits.await.unwrap());
        assert!(one.turn_ends().is_some());
    }

    #[tokio::test]
    async fn a_turn_ends_sooner_for_those_who_send_little() {
        let all = Unfinished::new(0);
        let mut share = holding(&all, FREE_BYTES + 1);
        share.take(all.turn(share.bytes()).await.unwrap());
        let before = share.turn_ends().unwrap();
        share.set(FREE_BYTES + 1 + 3 * BYTES_PER_SECOND);
        assert_eq!(share.turn_ends().unwrap() - before, Duration::from_secs(3));
    }

    #[test]
    fn it_takes_a_part_of_little_memory() {
        let all = Unfinished::new(256 << 20);
        all.fit(100 << 20);
        let share = holding(&all, (25 << 20) + 1);
        assert!(share.must_wait().is_some());
        all.fit(u64::MAX);
        assert!(share.must_wait().is_none());
    }
}
