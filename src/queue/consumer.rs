//! What a queue knows of those who take messages from it.

use super::tallies::Tally;
use crate::message::Run;
use std::sync::Arc;

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
    pub redelivered: bool,
    /// What a quorum queue tells of how often they came back; the same for all of them.
    pub tally: Tally,
}

/// Where a consumer's deliveries go: its connection's outbox.
pub trait Outlet: Send + Sync {
    /// Adds deliveries for a consumer of the channel. Called under the queue's lock: it must not lock anything nor wait.
    /// What it holds is bounded by the consumer's window ([`super::state::WINDOW_MESSAGES`]).
    fn push(&self, channel: ChannelKey, delivery: Delivery);
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
