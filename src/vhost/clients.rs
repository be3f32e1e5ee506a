//! The channels and consumers of connections, as others see them. Nothing here is touched for a single message: a channel
//! tells what it is at when a read is handed over, and what it has sent is asked of its connection's egress.

use super::ties::Ties;
use crate::amqp::Table;
use crate::metrics::Counted;
use crate::queue::Queue;
use crate::queue::consumer::{ConsumerKey, Terms};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

/// A connection that can be looked into.
pub trait Inside: Send + Sync + std::fmt::Debug {
    /// Its channels, in the order of their numbers.
    fn channels(&self) -> Vec<Channel>;
    /// What they have of a queue's messages and not acknowledged, by channel and delivery tag.
    fn unacked(&self, queue: &Queue) -> Vec<Unacked>;
}

/// A channel at one moment.
#[derive(Debug, Clone)]
pub struct Channel {
    pub number: u16,
    pub confirms: bool,
    pub transactional: bool,
    /// What basic.qos said last; 0: unlimited.
    pub prefetch: u32,
    /// Deliveries that the client has not acknowledged.
    pub unacked: u64,
    /// Publishes that were not confirmed yet.
    pub unconfirmed: u64,
    /// Publishes and acknowledgements that wait for tx.commit.
    pub uncommitted: u64,
    pub acks_uncommitted: u64,
    pub counted: Arc<Counted>,
    pub by_queue: Arc<Ties<Queue>>,
    pub by_exchange: Arc<Ties<Counted>>,
    /// In the order in which they came.
    pub consumers: Vec<Consumer>,
}

/// Deliveries next to each other that a client has not acknowledged.
#[derive(Debug, Clone)]
pub struct Unacked {
    pub channel: u16,
    /// Their delivery tags.
    pub tags: Range<u64>,
    /// The consumer's tag; `None` for basic.get, and if the consumer is gone.
    pub consumer: Option<Arc<str>>,
    /// How long ago they were sent, to a second.
    pub sent_before: Duration,
}

/// A consumer as its channel asked for it.
#[derive(Debug, Clone)]
pub struct Consumer {
    pub key: ConsumerKey,
    pub tag: Arc<str>,
    pub queue: Arc<Queue>,
    pub terms: Terms,
    pub arguments: Table,
    /// How long it may take to acknowledge a delivery.
    pub timeout: Option<Duration>,
}

/// What a channel tells of itself.
#[derive(Debug, Default)]
pub struct Gauges {
    pub confirms: AtomicBool,
    pub transactional: AtomicBool,
    pub prefetch: AtomicU32,
    /// Publishes to be confirmed, since the channel was opened.
    pub published: AtomicU64,
    pub uncommitted: AtomicU64,
    pub acks_uncommitted: AtomicU64,
    /// What it has done with messages; with those of each queue; through each exchange, of which that is what is counted.
    pub counted: Arc<Counted>,
    pub by_queue: Arc<Ties<Queue>>,
    pub by_exchange: Arc<Ties<Counted>>,
}
