//! What a queue knows of those who take messages from it.

use super::tallies::Tally;
use crate::message::Run;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A consumer of one queue. The broker counts them; a number is never used again, and a later consumer's is higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerKey(pub u64);

impl ConsumerKey {
    /// Nobody's: a basic.get.
    pub const NONE: Self = Self(0);
}

/// A consumer as a channel asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Deliveries count as acknowledged once they are written.
    pub no_ack: bool,
    /// No other consumer beside this one.
    pub exclusive: bool,
    /// How many deliveries may be unacknowledged; 0: any number.
    pub prefetch: u32,
    /// `x-priority`: higher ones are served first.
    pub priority: i64,
}

/// Messages of one run for one consumer: positions `first..first + count`, the run's messages from `index` on.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub consumer: ConsumerKey,
    pub run: Arc<Run>,
    pub index: u32,
    pub first: u64,
    pub count: u32,
    /// Octets of these messages.
    pub bytes: usize,
    pub redelivered: bool,
    /// What a quorum queue tells of how often they came back; the same for all of them.
    pub tally: Tally,
}

/// Where a consumer's deliveries go: its connection's outbox.
pub trait Outlet: Send + Sync {
    /// Adds deliveries for a consumer of the channel. Called under the queue's lock: it must not lock anything nor wait.
    /// What it holds is bounded by the consumer's window ([`super::state::WINDOW_MESSAGES`]), and by the client's way.
    fn push(&self, channel: ChannelKey, delivery: Delivery);
    /// What is on its way to all consumers of the client: counted when it is handed out, and taken off when it has left.
    fn way(&self) -> Arc<Way>;
    /// A consumer gets nothing more, since the way is full: it is to be [resumed](super::classic::Queue::resume) once most of
    /// that has left. Called under the queue's lock, and a pump follows.
    fn hold(&self, queue: Arc<super::Queue>, consumer: ConsumerKey);
    /// The queue is gone: the consumer gets a cancel notification if its client understands them.
    fn cancelled(&self, channel: ChannelKey, consumer: ConsumerKey);
    /// Writes what was pushed, as far as the socket takes it. Called without any lock.
    fn pump(&self);
    /// Lets another task write it, for those who are in the middle of writing themselves.
    fn wake(&self);
}

/// A channel of one connection, as the connection knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelKey(pub u16);

/// Octets of messages on their way to a client, of all its consumers together.
#[derive(Debug, Default)]
pub struct Way(AtomicUsize);

impl Way {
    /// With so many its consumers get nothing more.
    pub const BYTES_MAX: usize = 4 << 20;

    pub fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= Self::BYTES_MAX
    }

    /// Whether so much has left that those who had to wait may go on.
    pub fn has_room(&self) -> bool {
        self.0.load(Ordering::Relaxed) < Self::BYTES_MAX / 2
    }

    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn left(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}
