//! Counters that many add to and few read.

use super::ends::{EndCounts, Ends, Strategy};
use super::histogram::{Histogram, MESSAGE_BYTES, Seen};
use std::ops::{AddAssign, Index};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What of messages is counted, by RabbitMQ's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Stat {
    /// Taken from publishers; into a queue, if it is a queue's.
    Publish,
    /// Into an exchange.
    PublishIn,
    /// Out of an exchange, once for each queue.
    PublishOut,
    Confirm,
    ReturnUnroutable,
    DropUnroutable,
    /// Sent to consumers that acknowledge.
    Deliver,
    /// Sent to consumers that do not.
    DeliverNoAck,
    /// Sent for a basic.get that is to be acknowledged.
    Get,
    GetNoAck,
    GetEmpty,
    /// Of all that was sent, what had been sent before.
    Redeliver,
    /// Acknowledged by basic.ack.
    Ack,
    /// Messages read back from disk, and written there.
    DiskReads,
    DiskWrites,
}

/// How many there are.
pub const STATS: usize = 15;

impl Stat {
    pub const ALL: [Self; STATS] = [
        Self::Publish,
        Self::PublishIn,
        Self::PublishOut,
        Self::Confirm,
        Self::ReturnUnroutable,
        Self::DropUnroutable,
        Self::Deliver,
        Self::DeliverNoAck,
        Self::Get,
        Self::GetNoAck,
        Self::GetEmpty,
        Self::Redeliver,
        Self::Ack,
        Self::DiskReads,
        Self::DiskWrites,
    ];

    /// As `message_stats` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::PublishIn => "publish_in",
            Self::PublishOut => "publish_out",
            Self::Confirm => "confirm",
            Self::ReturnUnroutable => "return_unroutable",
            Self::DropUnroutable => "drop_unroutable",
            Self::Deliver => "deliver",
            Self::DeliverNoAck => "deliver_no_ack",
            Self::Get => "get",
            Self::GetNoAck => "get_no_ack",
            Self::GetEmpty => "get_empty",
            Self::Redeliver => "redeliver",
            Self::Ack => "ack",
            Self::DiskReads => "disk_reads",
            Self::DiskWrites => "disk_writes",
        }
    }
}

/// A counter of each kind.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; STATS]);

impl Counts {
    pub fn add(&self, stat: Stat, count: u64) {
        self.0[stat as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot(std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed)))
    }
}

/// What counters showed at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot(pub [u64; STATS]);

impl Snapshot {
    /// Everything that was sent.
    pub fn deliver_get(&self) -> u64 {
        [Stat::Deliver, Stat::DeliverNoAck, Stat::Get, Stat::GetNoAck].into_iter().map(|stat| self[stat]).sum()
    }
}

impl Index<Stat> for Snapshot {
    type Output = u64;

    fn index(&self, stat: Stat) -> &u64 {
        &self.0[stat as usize]
    }
}

impl AddAssign<&Self> for Snapshot {
    fn add_assign(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, other)| *sum += other);
    }
}

/// Copies of counters: each thread adds to one of its own, or shares it with few.
#[derive(Debug)]
pub struct Striped<T>(Box<[Apart<T>]>);

/// On cache lines of its own; processors fetch two at a time.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// With more processors than this, some share a copy.
const STRIPES_MAX: usize = 16;

impl<T: Default> Default for Striped<T> {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self((0..processors.clamp(1, STRIPES_MAX)).map(|_| Apart::default()).collect())
    }
}

impl<T> Striped<T> {
    /// The copy to add to.
    pub fn own(&self) -> &T {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static PLACE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        // A thread that is ending may take any.
        let place = PLACE.try_with(|place| *place).unwrap_or(0);
        &self.0[place % self.0.len()].0
    }

    pub fn each(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|apart| &apart.0)
    }
}

/// The kinds of queues that deliveries are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Classic,
    Quorum,
    /// For direct answers.
    Volatile,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Classic, Self::Quorum, Self::Volatile];

    /// The module that makes such queues in RabbitMQ, by which its metrics name them.
    pub fn module(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
            Self::Volatile => "rabbit_volatile_queue",
        }
    }
}

/// What is done in a virtual host, with what was deleted since.
#[derive(Debug, Default)]
pub struct Totals(Striped<Stripe>);

#[derive(Debug, Default)]
struct Stripe {
    /// Publishing.
    published: Counts,
    /// The rest, by the kind of queue.
    by_kind: [Counts; 3],
    /// Of the published ones, those on channels that confirm.
    received_confirm: AtomicU64,
    sizes: [AtomicU64; MESSAGE_BYTES.len() + 1],
    body_bytes: AtomicU64,
    confirmed_after: Histogram,
    /// By the kind of queue and what becomes of its dead.
    ends: [[EndCounts; 3]; 3],
}

/// What [`Totals`] showed at a time.
#[derive(Debug, Clone, Copy, Default)]
pub struct TotalsSnapshot {
    pub published: Snapshot,
    pub by_kind: [Snapshot; 3],
    pub received_confirm: u64,
    /// Published messages by the size of their bodies, as [`MESSAGE_BYTES`] divides them.
    pub sizes: [u64; MESSAGE_BYTES.len() + 1],
    pub body_bytes: u64,
    /// How long publishers waited until their messages were safe.
    pub confirmed_after: Seen,
    pub ends: [[Ends; 3]; 3],
}

impl Totals {
    /// Something that a queue of this kind did.
    pub fn add(&self, kind: Kind, stat: Stat, count: u64) {
        self.0.own().by_kind[kind as usize].add(stat, count);
    }

    /// Something that no queue did.
    pub fn add_published(&self, stat: Stat, count: u64) {
        self.0.own().published.add(stat, count);
    }

    /// One message that no channel published, of this size, to so many queues.
    pub fn count_one(&self, body_bytes: usize, targets: usize) {
        let mut gathered = Gathered::default();
        gathered.add(body_bytes);
        gathered.tell(1, targets as u64, &Counts::default(), self, true);
    }

    /// How messages of such a queue ended.
    pub fn add_ends(&self, kind: Kind, strategy: Strategy, ends: &Ends) {
        self.0.own().ends[kind as usize][strategy as usize].add(ends);
    }

    /// So many messages were safe after so long.
    pub fn add_confirmed(&self, took: Duration, count: u64) {
        self.0.own().confirmed_after.add(took, count);
    }

    pub fn snapshot(&self) -> TotalsSnapshot {
        let mut sum = TotalsSnapshot::default();
        for stripe in self.0.each() {
            sum.published += &stripe.published.snapshot();
            sum.by_kind.iter_mut().zip(&stripe.by_kind).for_each(|(sum, own)| *sum += &own.snapshot());
            sum.received_confirm += stripe.received_confirm.load(Ordering::Relaxed);
            sum.sizes.iter_mut().zip(&stripe.sizes).for_each(|(sum, own)| *sum += own.load(Ordering::Relaxed));
            sum.body_bytes += stripe.body_bytes.load(Ordering::Relaxed);
            sum.confirmed_after += stripe.confirmed_after.seen();
            let own = stripe.ends.iter().flatten().map(EndCounts::snapshot);
            sum.ends.iter_mut().flatten().zip(own).for_each(|(sum, own)| *sum += &own);
        }
        sum
    }
}

impl TotalsSnapshot {
    /// All together, as `message_stats` shows it.
    pub fn all(&self) -> Snapshot {
        let mut all = self.published;
        self.by_kind.iter().for_each(|own| all += own);
        all
    }
}

impl AddAssign<&Self> for TotalsSnapshot {
    fn add_assign(&mut self, other: &Self) {
        self.published += &other.published;
        self.by_kind.iter_mut().zip(&other.by_kind).for_each(|(sum, other)| *sum += other);
        self.received_confirm += other.received_confirm;
        self.sizes.iter_mut().zip(other.sizes).for_each(|(sum, other)| *sum += other);
        self.body_bytes += other.body_bytes;
        self.confirmed_after += other.confirmed_after;
        let ends = other.ends.iter().flatten();
        self.ends.iter_mut().flatten().zip(ends).for_each(|(sum, other)| *sum += other);
    }
}

/// How large the messages were that a channel has published since it last told the counters: plain numbers of its own.
#[derive(Debug, Default)]
pub struct Gathered {
    sizes: [u32; MESSAGE_BYTES.len() + 1],
    body_bytes: u64,
}

impl Gathered {
    /// A message of this size.
    #[inline(always)]
    pub fn add(&mut self, body_bytes: usize) {
        let bytes = body_bytes as u64;
        let size = if bytes <= MESSAGE_BYTES[0] { 0 } else { bucket_of(bytes) };
        self.sizes[size] += 1;
        self.body_bytes += bytes;
    }

    /// Adds so many messages to the counters, as often as they were routed to a queue, and begins anew.
    pub fn tell(&mut self, published: u64, routed: u64, own: &Counts, totals: &Totals, confirms: bool) {
        let stripe = totals.0.own();
        own.add(Stat::Publish, published);
        stripe.published.add(Stat::Publish, published);
        stripe.published.add(Stat::PublishOut, routed);
        stripe.body_bytes.fetch_add(self.body_bytes, Ordering::Relaxed);
        if confirms {
            stripe.received_confirm.fetch_add(published, Ordering::Relaxed);
        }
        for (counter, count) in stripe.sizes.iter().zip(self.sizes).filter(|(_, count)| *count > 0) {
            counter.fetch_add(count.into(), Ordering::Relaxed);
        }
        *self = Self::default();
    }
}

/// The bucket of a size that is not in the first.
fn bucket_of(bytes: u64) -> usize {
    MESSAGE_BYTES.iter().position(|limit| bytes <= *limit).unwrap_or(MESSAGE_BYTES.len())
}

/// What came and went: connections that were opened, channels, queues.
#[derive(Debug, Default)]
pub struct Churn {
    pub connection_created: AtomicU64,
    pub connection_closed: AtomicU64,
    pub channel_created: AtomicU64,
    pub channel_closed: AtomicU64,
    pub queue_declared: AtomicU64,
    pub queue_created: AtomicU64,
    pub queue_deleted: AtomicU64,
}

/// The names of what [`Churn`] counts, as RabbitMQ has them.
pub const CHURN: [&str; 7] = [
    "connection_created",
    "connection_closed",
    "channel_created",
    "channel_closed",
    "queue_declared",
    "queue_created",
    "queue_deleted",
];

impl Churn {
    pub fn count(of: &AtomicU64) {
        of.fetch_add(1, Ordering::Relaxed);
    }

    /// In the order of [`CHURN`].
    pub fn snapshot(&self) -> [u64; CHURN.len()] {
        [
            &self.connection_created,
            &self.connection_closed,
            &self.channel_created,
            &self.channel_closed,
            &self.queue_declared,
            &self.queue_created,
            &self.queue_deleted,
        ]
        .map(|of| of.load(Ordering::Relaxed))
    }
}

/// Octets of a connection, and how often it read and wrote some.
#[derive(Debug, Default)]
pub struct Traffic {
    pub received: AtomicU64,
    pub reads: AtomicU64,
    pub sent: AtomicU64,
    pub writes: AtomicU64,
}

impl Traffic {
    pub fn read(&self, octets: usize) {
        self.received.fetch_add(octets as u64, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub fn wrote(&self, octets: usize) {
        self.sent.fetch_add(octets as u64, Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    /// Received, in how many reads; sent, in how many writes.
    pub fn snapshot(&self) -> [u64; 4] {
        [&self.received, &self.reads, &self.sent, &self.writes].map(|of| of.load(Ordering::Relaxed))
    }

    /// Adds what another counted.
    pub fn absorb(&self, other: &Self) {
        let pairs = [
            (&self.received, &other.received),
            (&self.reads, &other.reads),
            (&self.sent, &other.sent),
            (&self.writes, &other.writes),
        ];
        for (sum, other) in pairs {
            sum.fetch_add(other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_add_is_all_there() {
        let totals = Totals::default();
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    (0..1000).for_each(|_| totals.add(Kind::Quorum, Stat::Deliver, 2));
                    totals.add_published(Stat::DropUnroutable, 1);
                });
            }
        });
        let seen = totals.snapshot();
        assert_eq!(seen.by_kind[Kind::Quorum as usize][Stat::Deliver], 80_000);
        assert_eq!(seen.by_kind[Kind::Classic as usize], Snapshot::default());
        assert_eq!(seen.all()[Stat::DropUnroutable], 40);
        assert_eq!(seen.all().deliver_get(), 80_000);
    }

    #[test]
    fn gathered_messages_are_told_once_with_their_sizes() {
        let (totals, own) = (Totals::default(), Counts::default());
        let mut gathered = Gathered::default();
        for bytes in [0, 100, 101, 200_000_000] {
            gathered.add(bytes);
        }
        gathered.tell(4, 5, &own, &totals, true);
        gathered.tell(0, 0, &own, &totals, true);
        let seen = totals.snapshot();
        assert_eq!((own.snapshot()[Stat::Publish], seen.received_confirm, seen.body_bytes), (4, 4, 200_000_201));
        assert_eq!(seen.published[Stat::PublishOut], 5);
        assert_eq!((seen.sizes[0], seen.sizes[1], seen.sizes[MESSAGE_BYTES.len()]), (2, 1, 1));
    }
}
