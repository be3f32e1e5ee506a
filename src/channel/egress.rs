//! What leaves a connection: replies, deliveries, confirms, in one order.
//!
//! Everything is put into an inbox without a lock, by the connection itself, by queues and by the commit thread. Who
//! put something in also writes it ([`Egress::pump`]): it takes the socket's writing half if nobody has it, cuts frames
//! out of the runs and writes until the socket is full; the connection's writing task goes on from there. Delivery tags
//! are given when frames are cut, so tags, unacknowledged deliveries and confirms have one owner: [`Sent`], behind one
//! short lock.

use super::owed::{Owed, Unacked, UnknownTag};
use crate::amqp::properties::{self, ContentHeader};
use crate::amqp::{ReplyCode, frame, method};
use crate::message::{Marks, Message};
use crate::metrics::{Counted, Counts, Stat, Traffic};
use crate::queue::Queue;
use crate::queue::classic::Acts;
use crate::queue::consumer::{ChannelKey, ConsumerKey, Delivery, Outlet, Way};
use crate::queue::ranges::Ranges;
use crate::queue::state::{WINDOW_BYTES, WINDOW_MESSAGES};
use crate::queue::tallies::Tally;
use crate::transport;
use crate::vhost::clients::{self, Gauges, Inside};
use crate::vhost::events;
use crate::vhost::trace::Party;
use crate::vhost::{Vhost, reply_to};
use crossbeam_queue::SegQueue;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

/// A write is begun with at most about so many octets.
const WRITE_BYTES: usize = 128 << 10;
/// Replies that a client does not fetch, answers to basic.get among them: with more than this its requests are no longer read.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// Something to send.
#[derive(Debug)]
enum Item {
    /// Frames as they are.
    Frames(Vec<u8>),
    Deliver {
        channel: u16,
        delivery: Delivery,
    },
    /// The answer to a basic.get.
    Got {
        channel: u16,
        queue: Arc<Queue>,
        delivery: Delivery,
        no_ack: bool,
        ready: u32,
    },
    /// The queue of a consumer is gone.
    Cancelled {
        channel: u16,
        consumer: ConsumerKey,
    },
    /// What comes for a channel from now on is held back.
    Hold {
        channel: u16,
    },
    /// It may go.
    Release {
        channel: u16,
    },
    /// No more deliveries for a consumer.
    Forget {
        channel: u16,
        consumer: ConsumerKey,
    },
    /// Publishes are safe.
    Confirmed {
        channel: u16,
        epoch: u64,
        sequence: Vec<Range<u64>>,
        refused: bool,
    },
}

#[derive(Debug)]
pub struct Egress {
    inbox: SegQueue<Item>,
    sent: Mutex<Sent>,
    /// The writing half and what did not fit; `None` while somebody writes.
    writer: Mutex<Option<Writer>>,
    /// Something was put in since the last look.
    dirty: AtomicBool,
    /// The socket is full, or somebody asks the writing task to write.
    wake: Notify,
    /// Octets of replies in the inbox.
    reply_bytes: AtomicUsize,
    drained: Notify,
    /// Deliveries that were handed out and have not left for the socket.
    way: Arc<Way>,
    /// Consumers that get nothing more until most of that has left. Each is in it at most once while it is a consumer.
    held: SegQueue<(Arc<Queue>, ConsumerKey)>,
    broken: AtomicBool,
    /// Begun when it is first needed: most connections never fill their socket.
    writing_task: Mutex<Option<JoinHandle<()>>>,
    runtime: tokio::runtime::Handle,
    this: Weak<Self>,
    /// What was written.
    traffic: Arc<Traffic>,
    /// The socket takes no more for now.
    pub stalled: AtomicBool,
    /// The client wants to know when a consumer is cancelled.
    pub cancel_notify: AtomicBool,
    opener: OnceLock<Opener>,
}

/// Whose connection it is, once it is open: for the firehose and for events.
#[derive(Debug)]
pub struct Opener {
    pub vhost: Arc<Vhost>,
    pub connection: u64,
    pub connection_name: Arc<str>,
    pub user: Arc<str>,
}

#[derive(Debug)]
struct Writer {
    half: transport::Writer,
    buffer: Vec<u8>,
    at: usize,
}

/// What was sent and is still owed an answer, by channel.
#[derive(Debug, Default)]
struct Sent {
    /// Items taken from the inbox and not yet sent.
    items: VecDeque<Item>,
    channels: FxHashMap<u16, Channel>,
    frame_max: u32,
}

#[derive(Debug, Default)]
struct Channel {
    epoch: u64,
    gauges: Arc<Gauges>,
    last_tag: u64,
    unacked: Owed,
    consumers: FxHashMap<ConsumerKey, Consumer>,
    confirms: Confirms,
    /// Deliveries that wait for an answer to go before them. Bounded by the consumers' windows.
    held: Option<Vec<Item>>,
}

#[derive(Debug)]
struct Consumer {
    known: clients::Consumer,
    /// What the channel does with its queue.
    counts: Arc<Counts>,
    /// Written since the queue was last told.
    messages: u32,
    bytes: usize,
}

/// Deliveries that have left for the socket, to tell their queue of.
struct Written {
    queue: Arc<Queue>,
    consumer: ConsumerKey,
    messages: u32,
    bytes: usize,
}

/// Deliveries that have left for the socket, to be copied to the firehose.
struct Traced {
    channel: u16,
    queue: Arc<Queue>,
    delivery: Delivery,
}

/// A consumer that ended with its queue.
struct Ended {
    channel: u16,
    epoch: u64,
    tag: Arc<str>,
    queue: Arc<Queue>,
}

/// A consumer that took too long for a delivery.
#[derive(Debug)]
pub struct Late {
    pub channel: u16,
    pub consumer: ConsumerKey,
    pub tag: Arc<str>,
    pub queue: Arc<Queue>,
    pub timeout: Duration,
}

/// Publishes of a channel that are safe, waiting for those before them.
#[derive(Debug, Default)]
struct Confirms {
    /// The highest sequence number that was confirmed, with all below.
    confirmed: u64,
    safe: Ranges,
    refused: Ranges,
}

impl Egress {
    /// Owns the writing half. To be called from a task; [`Egress::finish`] ends what it began.
    pub fn new(half: transport::Writer, frame_max: u32, traffic: Arc<Traffic>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            inbox: SegQueue::new(),
            sent: Mutex::new(Sent { frame_max, ..Sent::default() }),
            writer: Mutex::new(Some(Writer { half, buffer: Vec::new(), at: 0 })),
            dirty: AtomicBool::new(false),
            wake: Notify::new(),
            reply_bytes: AtomicUsize::new(0),
            drained: Notify::new(),
            way: Arc::default(),
            held: SegQueue::new(),
            broken: AtomicBool::new(false),
            writing_task: Mutex::new(None),
            runtime: tokio::runtime::Handle::current(),
            this: this.clone(),
            traffic,
            stalled: AtomicBool::new(false),
            cancel_notify: AtomicBool::new(false),
            opener: OnceLock::new(),
        })
    }

    /// The connection is open. Told once.
    pub fn opened(&self, opener: Opener) {
        let _ = self.opener.set(opener);
    }

    /// What the client agreed to.
    pub fn set_frame_max(&self, frame_max: u32) {
        self.sent.lock().frame_max = frame_max;
    }

    /// Sends frames. [`Outlet::pump`] follows.
    pub fn send(&self, frames: Vec<u8>) {
        if !frames.is_empty() {
            self.reply_bytes.fetch_add(frames.len(), Ordering::Relaxed);
            self.inbox.push(Item::Frames(frames));
        }
    }

    /// Sends the answer to a basic.get.
    pub fn got(&self, channel: u16, queue: Arc<Queue>, delivery: Delivery, no_ack: bool, ready: u64) {
        let ready = u32::try_from(ready).unwrap_or(u32::MAX);
        self.reply_bytes.fetch_add(got_bytes(&delivery), Ordering::Relaxed);
        self.inbox.push(Item::Got { channel, queue, delivery, no_ack, ready });
    }

    /// Publishes are safe, or were refused.
    pub fn confirmed(&self, channel: u16, epoch: u64, sequence: Vec<Range<u64>>, refused: bool) {
        self.inbox.push(Item::Confirmed { channel, epoch, sequence, refused });
    }

    /// So many publishes were safe after so long.
    pub fn count_confirmed(&self, took: std::time::Duration, count: u64) {
        if let Some(opener) = self.opener.get() {
            opener.vhost.totals().add_confirmed(took, count);
        }
    }

    /// Whether the socket is no more.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Whether the client leaves too many replies unread.
    pub fn is_full(&self) -> bool {
        self.reply_bytes.load(Ordering::Relaxed) > REPLY_BYTES_MAX && !self.broken()
    }

    /// A reply is no longer in the inbox.
    fn reply_left(&self, bytes: usize) {
        let before = self.reply_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before > REPLY_BYTES_MAX {
            self.drained.notify_waiters();
        }
    }

    /// Waits until it does not.
    pub async fn fetched(&self) {
        loop {
            let drained = self.drained.notified();
            if !self.is_full() {
                return;
            }
            drained.await;
        }
    }

    // ── Channels ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// A new channel; what it tells of itself goes into what is given back.
    pub fn open_channel(&self, channel: u16, epoch: u64) -> Arc<Gauges> {
        let gauges = Arc::new(Gauges::default());
        let opened = Channel { epoch, gauges: Arc::clone(&gauges), ..Channel::default() };
        self.sent.lock().channels.insert(channel, opened);
        gauges
    }

    /// Forgets a channel; what was on its way or unacknowledged is given back, in no order.
    pub fn close_channel(&self, channel: u16) -> Vec<Unacked> {
        let now = Instant::now();
        let mut sent = self.sent.lock();
        let Some(mut closed) = sent.channels.remove(&channel) else { return Vec::new() };
        while let Some(item) = self.inbox.pop() {
            sent.items.push_back(item);
        }
        let mut back = closed.unacked.take_all();
        sent.items.extend(closed.held.into_iter().flatten());
        sent.items.retain(|item| match item {
            Item::Deliver { channel: of, delivery } if *of == channel => {
                self.way.left(delivery.bytes);
                let consumer = closed.consumers.get(&delivery.consumer);
                if let Some(consumer) = consumer.filter(|consumer| !consumer.known.terms.no_ack) {
                    back.push(unacked(0, &consumer.known.queue, delivery, now));
                }
                false
            }
            Item::Got { channel: of, queue, delivery, no_ack, .. } if *of == channel => {
                self.reply_left(got_bytes(delivery));
                if !no_ack {
                    back.push(unacked(0, queue, delivery, now));
                }
                false
            }
            _ => true,
        });
        back
    }

    pub fn add_consumer(&self, channel: u16, known: clients::Consumer) {
        if let Some(channel) = self.sent.lock().channels.get_mut(&channel) {
            let counts = channel.gauges.by_queue.with(&known.queue);
            channel.consumers.insert(known.key, Consumer { known, counts, messages: 0, bytes: 0 });
        }
    }

    /// Consumers with a delivery that should have been acknowledged by now.
    pub fn late(&self, now: Instant) -> Vec<Late> {
        let sent = self.sent.lock();
        let mut late: Vec<Late> = Vec::new();
        for (&number, channel) in &sent.channels {
            for unacked in channel.unacked.iter().filter(|unacked| unacked.due.is_some_and(|due| due <= now)) {
                if late.iter().any(|known| known.consumer == unacked.consumer) {
                    continue;
                }
                // One that was cancelled meanwhile has nothing to lose but its messages, which end with the channel.
                let Some(consumer) = channel.consumers.get(&unacked.consumer) else { continue };
                late.extend(consumer.known.timeout.map(|timeout| Late {
                    channel: number,
                    consumer: unacked.consumer,
                    tag: Arc::clone(&consumer.known.tag),
                    queue: Arc::clone(&consumer.known.queue),
                    timeout,
                }));
            }
        }
        late
    }

    /// Takes everything that a consumer has not acknowledged.
    pub fn take_unacked(&self, channel: u16, consumer: ConsumerKey) -> Vec<Unacked> {
        let mut sent = self.sent.lock();
        sent.channels.get_mut(&channel).map(|channel| channel.unacked.take_of(consumer)).unwrap_or_default()
    }

    /// The consumer was cancelled: after what is on its way nothing more comes.
    pub fn remove_consumer(&self, channel: u16, consumer: ConsumerKey) {
        self.inbox.push(Item::Forget { channel, consumer });
    }

    /// Takes the deliveries with a tag, or all up to it.
    pub fn settle(&self, channel: u16, tag: u64, multiple: bool) -> Result<Vec<Unacked>, UnknownTag> {
        let mut sent = self.sent.lock();
        sent.channels.get_mut(&channel).ok_or(UnknownTag(tag))?.unacked.settle(tag, multiple)
    }

    /// All of them, for basic.recover.
    pub fn recover(&self, channel: u16) -> Vec<Unacked> {
        self.settle(channel, 0, true).unwrap_or_default()
    }

    /// Holds a channel's deliveries back until [`Egress::release`]: an answer is to go before them.
    pub fn hold(&self, channel: u16) {
        self.inbox.push(Item::Hold { channel });
    }

    /// Sends what was held back, after what was sent before.
    pub fn release(&self, channel: u16) {
        self.inbox.push(Item::Release { channel });
    }

    /// Puts back what a transaction had taken.
    pub fn unsettle(&self, channel: u16, taken: Vec<Unacked>) {
        if let Some(channel) = self.sent.lock().channels.get_mut(&channel) {
            channel.unacked.put_back(taken);
        }
    }

    // ── Writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes the writing half, writes, puts it back. Says whether the socket is full.
    fn flush(&self) -> bool {
        loop {
            let Some(mut writer) = self.writer.lock().take() else { return false };
            let full = self.write(&mut writer);
            *self.writer.lock() = Some(writer);
            if full {
                return true;
            }
            // Who came while the half was taken left it to us.
            if !self.dirty.load(Ordering::Acquire) {
                return false;
            }
        }
    }

    fn write(&self, writer: &mut Writer) -> bool {
        loop {
            while writer.at < writer.buffer.len() || writer.half.is_behind() {
                if self.broken() {
                    break;
                }
                match writer.half.try_write(&writer.buffer[writer.at..]) {
                    Ok(count) => {
                        writer.at += count;
                        self.traffic.wrote(count);
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        self.stalled.store(true, Ordering::Relaxed);
                        return true;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => {
                        self.broken.store(true, Ordering::Release);
                        self.drained.notify_waiters();
                    }
                }
            }
            if self.stalled.load(Ordering::Relaxed) {
                self.stalled.store(false, Ordering::Relaxed);
            }
            writer.buffer.clear();
            writer.buffer.shrink_to(2 * WRITE_BYTES);
            writer.at = 0;
            self.dirty.store(false, Ordering::Release);
            self.cut(&mut writer.buffer);
            if writer.buffer.is_empty() {
                writer.buffer.shrink_to(4096);
                return false;
            }
        }
    }

    /// Cuts frames for what is in the inbox, up to about [`WRITE_BYTES`].
    fn cut(&self, out: &mut Vec<u8>) {
        let mut written = Vec::new();
        let mut confirming: Vec<u16> = Vec::new();
        let mut traced = Vec::new();
        let mut ended = Vec::new();
        let opener = self.opener.get();
        let is_traced = opener.is_some_and(|opener| opener.vhost.is_traced());
        let mut sent = self.sent.lock();
        let frame_max = sent.frame_max;
        let now = Instant::now();
        while out.len() < WRITE_BYTES {
            let Some(item) = sent.items.pop_front().or_else(|| self.inbox.pop()) else { break };
            match item {
                Item::Frames(frames) => {
                    self.reply_left(frames.len());
                    if out.is_empty() { *out = frames } else { out.extend_from_slice(&frames) }
                }
                Item::Deliver { channel, mut delivery } => {
                    let Some(state) = sent.channels.get_mut(&channel) else {
                        self.way.left(delivery.bytes);
                        continue;
                    };
                    if let Some(held) = &mut state.held {
                        held.push(Item::Deliver { channel, delivery });
                        continue;
                    }
                    let (done, bytes) = state.deliver(out, channel, &delivery, frame_max, now, &mut written);
                    self.way.left(bytes);
                    if is_traced && let Some(consumer) = state.consumers.get(&delivery.consumer) {
                        let queue = Arc::clone(&consumer.known.queue);
                        traced.push(Traced { channel, queue, delivery: Delivery { count: done, ..delivery.clone() } });
                    }
                    if done < delivery.count {
                        delivery.index += done;
                        delivery.first += u64::from(done);
                        delivery.count -= done;
                        delivery.bytes -= bytes;
                        sent.items.push_front(Item::Deliver { channel, delivery });
                    }
                }
                Item::Got { channel, queue, delivery, no_ack, ready } => {
                    self.reply_left(got_bytes(&delivery));
                    let Some(state) = sent.channels.get_mut(&channel) else { continue };
                    state.last_tag += 1;
                    let message = delivery.run.message(delivery.index);
                    method::write_get_ok(out, channel, state.last_tag, delivery.redelivered, message.address, ready);
                    write_delivered(out, channel, &message, delivery.tally, frame_max);
                    let stat = if no_ack { Stat::GetNoAck } else { Stat::Get };
                    let own = state.gauges.by_queue.with(&queue);
                    count_sent(&state.gauges.counted, &own, stat, &queue, 1, delivery.redelivered);
                    if !no_ack {
                        state.unacked.push(unacked(state.last_tag, &queue, &delivery, Instant::now()));
                    }
                    if is_traced {
                        traced.push(Traced { channel, queue, delivery });
                    }
                }
                Item::Cancelled { channel, consumer } => {
                    let Some(state) = sent.channels.get_mut(&channel) else { continue };
                    if let Some(Consumer { known: clients::Consumer { tag, queue, .. }, .. }) =
                        state.consumers.remove(&consumer)
                    {
                        if self.cancel_notify.load(Ordering::Relaxed) {
                            write_cancel(out, channel, &tag);
                        }
                        ended.push(Ended { channel, epoch: state.epoch, tag, queue });
                    }
                }
                Item::Hold { channel } => {
                    if let Some(state) = sent.channels.get_mut(&channel) {
                        state.held.get_or_insert_default();
                    }
                }
                Item::Release { channel } => {
                    let held = sent.channels.get_mut(&channel).and_then(|state| state.held.take());
                    for item in held.into_iter().flatten().rev() {
                        sent.items.push_front(item);
                    }
                }
                Item::Forget { channel, consumer } => {
                    if let Some(state) = sent.channels.get_mut(&channel) {
                        state.consumers.remove(&consumer);
                    }
                }
                Item::Confirmed { channel, epoch, sequence, refused } => {
                    let Some(state) = sent.channels.get_mut(&channel) else { continue };
                    if state.epoch != epoch {
                        continue;
                    }
                    let set = if refused { &mut state.confirms.refused } else { &mut state.confirms.safe };
                    sequence.into_iter().for_each(|range| set.insert(range));
                    if !confirming.contains(&channel) {
                        confirming.push(channel);
                    }
                }
            }
        }
        for channel in confirming {
            if let Some(state) = sent.channels.get_mut(&channel) {
                let confirmed = state.confirms.write(out, channel);
                state.gauges.counted.counts.add(Stat::Confirm, confirmed);
                if let Some(opener) = opener {
                    opener.vhost.totals().add_published(Stat::Confirm, confirmed);
                }
            }
        }
        drop(sent);
        let mut acts = Acts::default();
        if let Some(opener) = opener {
            traced.iter().for_each(|traced| opener.trace(traced, &mut acts));
            ended.iter().for_each(|ended| opener.tell(ended));
        }
        for Written { queue, consumer, messages, bytes } in written {
            queue.written(consumer, messages, bytes, &mut acts);
        }
        while self.way.has_room()
            && let Some((queue, consumer)) = self.held.pop()
        {
            queue.resume(consumer, &mut acts);
        }
        acts.run_aside();
    }

    /// Has somebody write when the socket takes more again.
    fn write_later(&self) {
        self.wake.notify_one();
        let mut task = self.writing_task.lock();
        if task.is_none()
            && !self.broken()
            && let Some(this) = self.this.upgrade()
        {
            *task = Some(self.runtime.spawn(this.write_when_writable()));
        }
    }

    /// Writes what others could not, until the connection ends.
    async fn write_when_writable(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            while self.flush() && !self.broken() {
                self.writable().await;
            }
        }
    }

    /// Waits until the socket takes octets. Meanwhile the half is taken: whoever else wants to write leaves it to us.
    async fn writable(&self) {
        let Some(writer) = self.writer.lock().take() else { return };
        let ready = writer.half.writable().await;
        if ready.is_err() {
            self.broken.store(true, Ordering::Release);
        }
        *self.writer.lock() = Some(writer);
    }

    /// Says good-bye: everything is written, as far as the peer takes it within the time, and the half is closed.
    pub async fn finish(&self, patience: std::time::Duration) {
        self.write_all(patience).await;
        self.broken.store(true, Ordering::Release);
        if let Some(task) = self.writing_task.lock().take() {
            task.abort();
        }
    }

    async fn write_all(&self, patience: std::time::Duration) {
        let end = tokio::time::Instant::now() + patience;
        let mut writer = loop {
            let taken = self.writer.lock().take();
            match taken {
                Some(writer) => break writer,
                None if tokio::time::Instant::now() >= end => return,
                // The commit thread or another connection's task is writing, for a moment.
                None => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
            }
        };
        while self.write(&mut writer) && !self.broken() {
            if tokio::time::timeout_at(end, writer.half.writable()).await.is_err() {
                break;
            }
        }
        // From here on nobody writes: the half is not put back.
        self.broken.store(true, Ordering::Release);
        // The peer may be gone already.
        let _ = writer.half.shutdown().await;
    }
}

impl Opener {
    fn trace(&self, traced: &Traced, acts: &mut Acts) {
        let Traced { channel, queue, delivery } = traced;
        let party = Party { connection: &self.connection_name, channel: *channel, user: &self.user };
        for index in delivery.index..delivery.index + delivery.count {
            let message = delivery.run.message(index);
            let counted = properties::with_counts(message.properties, delivery.tally.acquired, delivery.tally.failed);
            let message = Message { properties: &counted, ..message };
            self.vhost.trace_delivery(&message, queue, delivery.redelivered, &party, acts);
        }
    }

    /// Nobody is named who ended it: that is told with the queue.
    fn tell(&self, ended: &Ended) {
        let channel = events::Channel {
            connection: self.connection,
            connection_name: &self.connection_name,
            number: ended.channel,
            epoch: ended.epoch,
            user: &self.user,
        };
        self.vhost.events().consumer_deleted(&channel, &ended.tag, &ended.queue, None);
    }
}

impl Outlet for Egress {
    fn push(&self, channel: ChannelKey, delivery: Delivery) {
        self.inbox.push(Item::Deliver { channel: channel.0, delivery });
    }

    fn way(&self) -> Arc<Way> {
        Arc::clone(&self.way)
    }

    fn hold(&self, queue: Arc<Queue>, consumer: ConsumerKey) {
        self.held.push((queue, consumer));
    }

    fn cancelled(&self, channel: ChannelKey, consumer: ConsumerKey) {
        self.inbox.push(Item::Cancelled { channel: channel.0, consumer });
    }

    fn pump(&self) {
        self.dirty.store(true, Ordering::Release);
        if self.flush() {
            self.write_later();
        }
    }

    fn wake(&self) {
        self.dirty.store(true, Ordering::Release);
        self.write_later();
    }
}

impl Inside for Egress {
    fn channels(&self) -> Vec<clients::Channel> {
        let sent = self.sent.lock();
        let mut channels: Vec<_> = sent.channels.iter().map(|(number, channel)| channel.seen(*number)).collect();
        drop(sent);
        channels.sort_unstable_by_key(|channel| channel.number);
        channels
    }

    fn unacked(&self, queue: &Queue) -> Vec<clients::Unacked> {
        let sent = self.sent.lock();
        let of_channel = |(number, channel): (&u16, &Channel)| -> Vec<_> {
            let own = channel.unacked.iter().filter(|unacked| std::ptr::eq(&*unacked.queue, queue));
            let shown = own.map(|unacked| clients::Unacked {
                channel: *number,
                tags: unacked.first_tag..unacked.first_tag + unacked.count,
                consumer: channel.consumers.get(&unacked.consumer).map(|consumer| Arc::clone(&consumer.known.tag)),
                sent_before: unacked.sent.elapsed(),
            });
            shown.collect()
        };
        let mut found: Vec<_> = sent.channels.iter().flat_map(of_channel).collect();
        drop(sent);
        found.sort_unstable_by_key(|unacked| (unacked.channel, unacked.tags.start));
        found
    }
}

impl Channel {
    /// How others see it.
    fn seen(&self, number: u16) -> clients::Channel {
        let Gauges {
            confirms,
            transactional,
            prefetch,
            published,
            uncommitted,
            acks_uncommitted,
            counted,
            by_queue,
            by_exchange,
        } = &*self.gauges;
        let is_listed = |known: &clients::Consumer| !known.queue.identity.name.starts_with(reply_to::PREFIX);
        let consumers = self.consumers.values().map(|consumer| &consumer.known);
        let mut consumers: Vec<_> = consumers.filter(|known| is_listed(known)).cloned().collect();
        consumers.sort_unstable_by_key(|known| known.key);
        clients::Channel {
            number,
            confirms: confirms.load(Ordering::Relaxed),
            transactional: transactional.load(Ordering::Relaxed),
            prefetch: prefetch.load(Ordering::Relaxed),
            unacked: self.unacked.iter().map(|range| range.count).sum(),
            unconfirmed: published.load(Ordering::Relaxed).saturating_sub(self.confirms.count()),
            uncommitted: uncommitted.load(Ordering::Relaxed),
            acks_uncommitted: acks_uncommitted.load(Ordering::Relaxed),
            counted: Arc::clone(counted),
            by_queue: Arc::clone(by_queue),
            by_exchange: Arc::clone(by_exchange),
            consumers,
        }
    }

    /// Cuts the frames of deliveries until `out` is full; says of how many messages and octets of messages.
    fn deliver(
        &mut self,
        out: &mut Vec<u8>,
        channel: u16,
        delivery: &Delivery,
        frame_max: u32,
        now: Instant,
        written: &mut Vec<Written>,
    ) -> (u32, usize) {
        let Some(consumer) = self.consumers.get_mut(&delivery.consumer) else {
            return (delivery.count, delivery.bytes);
        };
        let mut count = 0;
        let mut bytes = 0;
        while count < delivery.count && out.len() < WRITE_BYTES {
            let message = delivery.run.message(delivery.index + count);
            count += 1;
            let tag = self.last_tag + u64::from(count);
            method::write_deliver(out, channel, &consumer.known.tag, tag, delivery.redelivered, message.address);
            write_delivered(out, channel, &message, delivery.tally, frame_max);
            bytes += delivery.run.message_bytes(delivery.index + count - 1);
        }
        let first_tag = self.last_tag + 1;
        self.last_tag += u64::from(count);
        let stat = if consumer.known.terms.no_ack { Stat::DeliverNoAck } else { Stat::Deliver };
        let (all, own) = (&self.gauges.counted, &consumer.counts);
        count_sent(all, own, stat, &consumer.known.queue, count.into(), delivery.redelivered);
        if !consumer.known.terms.no_ack {
            let due = consumer.known.timeout.map(|timeout| now + timeout);
            let unacked = unacked(first_tag, &consumer.known.queue, delivery, now);
            self.unacked.push(Unacked { count: u64::from(count), due, ..unacked });
        }
        consumer.messages += count;
        consumer.bytes += bytes;
        // The queue is told now and then: well before the window is used up.
        if consumer.messages >= WINDOW_MESSAGES / 4 || consumer.bytes >= WINDOW_BYTES / 4 {
            written.push(Written {
                queue: Arc::clone(&consumer.known.queue),
                consumer: delivery.consumer,
                messages: std::mem::take(&mut consumer.messages),
                bytes: std::mem::take(&mut consumer.bytes),
            });
        }
        (count, bytes)
    }
}

impl Confirms {
    /// Those that need no more waiting for.
    fn count(&self) -> u64 {
        self.confirmed + self.safe.count() + self.refused.count()
    }

    /// Writes what can be confirmed in order, gathered; says how many were not refused.
    fn write(&mut self, out: &mut Vec<u8>, channel: u16) -> u64 {
        let mut count = 0;
        loop {
            let next = self.confirmed + 1;
            let (range, refused) = match (self.safe.first(), self.refused.first()) {
                (Some(range), _) if range.start == next => (range, false),
                (_, Some(range)) if range.start == next => (range, true),
                _ => return count,
            };
            let last = range.end - 1;
            let multiple = last > next;
            if refused {
                self.refused.pop_front(u64::MAX);
                method::write_nack(out, channel, last, multiple, false);
            } else {
                self.safe.pop_front(u64::MAX);
                count += range.end - range.start;
                method::write_ack(out, channel, last, multiple);
            }
            self.confirmed = last;
        }
    }
}

/// What the answer to a basic.get keeps in memory, about.
fn got_bytes(delivery: &Delivery) -> usize {
    delivery.run.message_bytes(delivery.index)
}

/// Counts what was sent, for the channel, for the queue that it came from, and for both together.
fn count_sent(channel: &Counted, both: &Counts, stat: Stat, queue: &Queue, count: u64, redelivered: bool) {
    for stat in std::iter::once(stat).chain(redelivered.then_some(Stat::Redeliver)) {
        channel.counts.add(stat, count);
        both.add(stat, count);
        queue.count(stat, count);
    }
}

fn unacked(tag: u64, queue: &Arc<Queue>, delivery: &Delivery, sent: Instant) -> Unacked {
    Unacked {
        first_tag: tag,
        count: u64::from(delivery.count),
        queue: Arc::clone(queue),
        consumer: delivery.consumer,
        first: delivery.first,
        sent,
        due: None,
    }
}

/// Writes a message's content, and how often it came back to a queue that counts that.
fn write_delivered(out: &mut Vec<u8>, channel: u16, message: &Message<'_>, tally: Tally, frame_max: u32) {
    if tally == Tally::default() {
        return write_content(out, channel, message, frame_max);
    }
    let properties = properties::with_counts(message.properties, tally.acquired, tally.failed);
    write_content(out, channel, &Message { properties: &properties, ..*message }, frame_max);
}

/// Writes a message's content header and body, without its `BCC`.
pub fn write_content(out: &mut Vec<u8>, channel: u16, message: &Message<'_>, frame_max: u32) {
    let body_bytes = message.body.len() as u64;
    frame::write(out, frame::HEADER, channel, |out| {
        if message.marks.contain(Marks::BCC) {
            ContentHeader::write(out, body_bytes, &properties::without_bcc(message.properties));
        } else {
            ContentHeader::write(out, body_bytes, message.properties);
        }
    });
    frame::write_body(out, channel, message.body, frame_max);
}

/// Writes basic.cancel with no-wait, as a server tells of a consumer's end.
fn write_cancel(out: &mut Vec<u8>, channel: u16, tag: &str) {
    frame::write(out, frame::METHOD, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 30]);
        method::short_string(out, tag);
        out.push(1);
    });
}

/// Writes a message back to its publisher.
pub fn write_returned(out: &mut Vec<u8>, channel: u16, message: &Message<'_>, frame_max: u32) {
    method::write_return(out, channel, ReplyCode::NoRoute, message.address);
    write_content(out, channel, message, frame_max);
}
