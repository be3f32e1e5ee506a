//! The queue's rules, pure: commands in, effects out. No lock, no store, no clock, no socket.
//!
//! `T` is a ticket: whoever waits until something is on disk hands one in and gets it back when it is.

use super::consumer::{ConsumerKey, Delivery, Terms};
use super::ranges::Ranges;
use crate::message::{RUN_BYTES_MAX, Run};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// How many messages may be on their way to a consumer's socket.
pub const WINDOW_MESSAGES: u32 = 4096;
/// How many octets of messages may be on their way to a consumer's socket before no more follow.
pub const WINDOW_BYTES: usize = 1 << 20;
/// How many messages past the last delivered one are marked "perhaps delivered" on disk, at least and at most, so that
/// not every delivery needs a write: after a crash at most so many are marked redelivered though they were not.
const RESERVE_MESSAGES: Range<u64> = 64..16_384;
/// Octets of messages that are fetched from disk ahead of the consumers.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Runs are joined on their way to disk until a block has this many octets.
const BLOCK_BYTES: usize = RUN_BYTES_MAX;

/// What the machine decided, for the shell to carry out.
#[derive(Debug)]
pub struct Effects<T> {
    pub deliveries: Vec<Delivery>,
    /// Tickets whose wait is over.
    pub tickets: Vec<T>,
    /// Consumers that were removed because the queue is gone.
    pub cancelled: Vec<ConsumerKey>,
    /// A block to read from disk; answered by [`State::loaded`].
    pub load: Option<Load>,
}

impl<T> Default for Effects<T> {
    fn default() -> Self {
        Self { deliveries: Vec::new(), tickets: Vec::new(), cancelled: Vec::new(), load: None }
    }
}

/// Asks for the first block at or behind a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub position: u64,
    /// Look no further than this.
    pub end: u64,
    pub persistent: bool,
}

/// Messages next to each other in the log.
#[derive(Debug)]
struct Segment {
    first: u64,
    count: u64,
    /// How many of them are not settled.
    live: u64,
    persistent: bool,
    /// To be stored: it is persistent, or memory was short when it came.
    due: bool,
    body: Body,
    stored: Stored,
}

#[derive(Debug)]
enum Body {
    Memory(Arc<Run>),
    /// On disk, one block or (if nothing of them is in memory) many.
    Disk,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Stored {
    /// Not on disk.
    No,
    /// Handed to the store, not yet known to be there.
    Taken,
    /// On disk, under its first position.
    Yes,
}

impl Segment {
    fn end(&self) -> u64 {
        self.first + self.count
    }

    fn memory_bytes(&self) -> usize {
        match &self.body {
            Body::Memory(run) => run.bytes(),
            Body::Disk => 0,
        }
    }
}

#[derive(Debug)]
struct Consumer {
    key: ConsumerKey,
    terms: Terms,
    /// Not yet told that it consumes: nothing goes to it before its consume-ok.
    active: bool,
    unacked: u32,
    /// On the way to the socket.
    window_messages: u32,
    window_bytes: usize,
}

impl Consumer {
    fn credit(&self) -> u32 {
        if !self.active || self.window_bytes >= WINDOW_BYTES {
            return 0;
        }
        let window = WINDOW_MESSAGES.saturating_sub(self.window_messages);
        match self.terms.prefetch {
            0 => window,
            _ if self.terms.no_ack => window,
            prefetch => window.min(prefetch.saturating_sub(self.unacked)),
        }
    }
}

/// What the store must know to bring the queue back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// Everything below is settled.
    pub low_water: u64,
    /// Everything below may have been delivered.
    pub delivered_below: u64,
    /// No position at or above was given to a message on disk.
    pub next: u64,
}

/// What goes to disk in one commit.
#[derive(Debug, Default)]
pub struct Writes {
    /// Blocks by first position, persistent or not.
    pub blocks: Vec<(u64, Arc<Run>)>,
    /// Blocks to delete, by first position and persistence.
    pub deleted: Vec<(u64, bool)>,
    /// Ranges of positions whose blocks are to be deleted, whatever blocks they are.
    pub purged: Vec<(Range<u64>, bool)>,
    pub mark: Option<Mark>,
    /// Positions above the low-water mark settled since the last commit.
    pub settled: Vec<Range<u64>>,
    /// All of them, instead, now and then.
    pub settled_all: Option<Vec<Range<u64>>>,
}

/// How a basic.get ended.
#[derive(Debug)]
pub enum Got {
    Message {
        delivery: Delivery,
        ready: u64,
    },
    Empty,
    /// The message is on disk, or must be marked there first. Ask again when it is.
    Wait,
}

/// How a queue treats its messages, besides its consumers.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Persistent messages are written and recovered.
    pub durable: bool,
    /// Octets of messages kept in memory.
    pub memory_bytes: usize,
    /// One consumer at a time gets messages (`x-single-active-consumer`).
    pub single_active_consumer: bool,
}

#[derive(Debug)]
pub struct State<T> {
    rules: Rules,
    log: VecDeque<Segment>,
    next: u64,
    low_water: u64,
    /// Settled positions above the low-water mark.
    settled: Ranges,
    ready: Ranges,
    unacked: u64,
    /// Everything below was delivered before.
    delivered_below: u64,
    /// What the disk says of it, for persistent messages.
    delivered_below_stored: u64,
    /// The same once the commit under way is done.
    delivered_below_taken: u64,
    /// Wanted by a delivery that waits for it.
    reserve_wanted: bool,
    consumers: Vec<Consumer>,
    /// Index of the consumer whose turn is next.
    turn: usize,
    memory_bytes: usize,
    /// Segments in the log that are settled.
    dead: usize,
    unstored_bytes: usize,
    unstored_messages: u64,
    loading: bool,
    // What the next commit takes.
    waiting: Vec<T>,
    taken: Vec<T>,
    deleted: Vec<(u64, bool)>,
    purged: Vec<(Range<u64>, bool)>,
    settled_since: Ranges,
    /// Rows of settled positions on disk since they were last folded into one, and the end of the last position in any.
    settled_rows: u32,
    settled_rows_end: u64,
    stored_next: u64,
    mark: Mark,
}

impl<T> State<T> {
    pub fn new(rules: Rules) -> Self {
        Self::recovered(rules, Mark::default(), Ranges::default(), 0)
    }

    /// A queue as it was: its mark, what is settled above it, and where its first block begins.
    pub fn recovered(rules: Rules, mark: Mark, settled: Ranges, first_block: u64) -> Self {
        let next = mark.next.max(mark.delivered_below);
        let mut ready: Ranges = std::iter::once(mark.low_water..mark.next).collect();
        for range in settled.iter() {
            ready.remove(range);
        }
        let settled_rows_end = settled.iter().last().map_or(0, |range| range.end);
        let mut log = VecDeque::new();
        if !ready.is_empty() {
            let first = first_block.min(mark.low_water);
            log.push_back(Segment {
                first,
                count: mark.next - first,
                live: ready.count(),
                persistent: true,
                due: false,
                body: Body::Disk,
                stored: Stored::Yes,
            });
        }
        // Positions that were promised as "perhaps delivered" but never given to a message stay unused.
        let mut state = Self {
            rules,
            log,
            next,
            low_water: mark.low_water,
            settled,
            ready,
            unacked: 0,
            delivered_below: mark.delivered_below,
            delivered_below_stored: mark.delivered_below,
            delivered_below_taken: mark.delivered_below,
            reserve_wanted: false,
            consumers: Vec::new(),
            turn: 0,
            memory_bytes: 0,
            dead: 0,
            unstored_bytes: 0,
            unstored_messages: 0,
            loading: false,
            waiting: Vec::new(),
            taken: Vec::new(),
            deleted: Vec::new(),
            purged: Vec::new(),
            settled_since: Ranges::default(),
            settled_rows: u32::from(settled_rows_end > 0),
            settled_rows_end,
            stored_next: mark.next,
            mark,
        };
        state.settle_positions(state.stored_next..next);
        state
    }

    /// Ready messages.
    pub fn ready(&self) -> u64 {
        self.ready.count()
    }

    /// Delivered and not settled.
    pub fn unacked(&self) -> u64 {
        self.unacked
    }

    pub fn consumer_count(&self) -> usize {
        self.consumers.len()
    }

    /// Octets of messages in memory.
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Octets of messages that wait for the store.
    pub fn unstored_bytes(&self) -> usize {
        self.unstored_bytes
    }

    pub fn set_memory_limit(&mut self, bytes: usize) {
        self.rules.memory_bytes = bytes;
    }

    fn durable(&self, persistent: bool) -> bool {
        self.rules.durable && persistent
    }

    /// Adds messages at the end and hands them out. The ticket comes back once they are safe: at once if they need not
    /// be on disk.
    pub fn publish(&mut self, run: Arc<Run>, ticket: Option<T>, effects: &mut Effects<T>) {
        let persistent = self.durable(run.persistent());
        let (first, count) = (self.next, u64::from(run.count()));
        self.next += count;
        self.memory_bytes += run.bytes();
        let due = persistent || self.memory_bytes > self.rules.memory_bytes;
        if due {
            self.unstored_bytes += run.bytes();
            self.unstored_messages += count;
        }
        self.log.push_back(Segment {
            first,
            count,
            live: count,
            persistent,
            due,
            body: Body::Memory(run),
            stored: Stored::No,
        });
        self.ready.insert(first..first + count);
        match ticket {
            Some(ticket) if persistent => self.waiting.push(ticket),
            Some(ticket) => effects.tickets.push(ticket),
            None => {}
        }
        self.dispatch(effects);
    }

    /// Gives the ticket back once everything that was asked of the queue before is on disk.
    pub fn wait(&mut self, ticket: T) {
        self.waiting.push(ticket);
    }

    /// Adds a consumer that gets nothing before [`State::activate`].
    pub fn add_consumer(&mut self, key: ConsumerKey, terms: Terms) -> Result<(), InUse> {
        let taken = self.consumers.iter().any(|consumer| consumer.terms.exclusive);
        if taken || terms.exclusive && !self.consumers.is_empty() {
            return Err(InUse);
        }
        // Sorted by priority, in order of arrival among equals.
        let at = self.consumers.partition_point(|other| other.terms.priority >= terms.priority);
        self.consumers
            .insert(at, Consumer { key, terms, active: false, unacked: 0, window_messages: 0, window_bytes: 0 });
        if self.turn > at {
            self.turn += 1;
        }
        Ok(())
    }

    /// The consumer knows that it is one: deliveries may go to it.
    pub fn activate(&mut self, key: ConsumerKey, effects: &mut Effects<T>) {
        if let Some(consumer) = self.consumer(key) {
            consumer.active = true;
        }
        self.dispatch(effects);
    }

    /// Takes a consumer away; its unacknowledged messages stay with its channel. Says whether it was there.
    pub fn remove_consumer(&mut self, key: ConsumerKey, effects: &mut Effects<T>) -> bool {
        let Some(at) = self.consumers.iter().position(|consumer| consumer.key == key) else { return false };
        self.consumers.remove(at);
        if self.turn > at {
            self.turn -= 1;
        }
        self.dispatch(effects);
        true
    }

    fn consumer(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|consumer| consumer.key == key)
    }

    /// Deliveries have left for the socket; with automatic acknowledgement that settles them.
    pub fn written(&mut self, key: ConsumerKey, messages: u32, bytes: usize, effects: &mut Effects<T>) {
        if let Some(consumer) = self.consumer(key) {
            consumer.window_messages = consumer.window_messages.saturating_sub(messages);
            consumer.window_bytes = consumer.window_bytes.saturating_sub(bytes);
        }
        self.dispatch(effects);
    }

    /// Settles deliveries: they are done.
    pub fn settle(&mut self, key: Option<ConsumerKey>, range: Range<u64>, effects: &mut Effects<T>) {
        self.release(key, &range);
        self.settle_positions(range);
        self.dispatch(effects);
    }

    /// Puts deliveries back to where they were.
    pub fn requeue(&mut self, key: Option<ConsumerKey>, range: Range<u64>, effects: &mut Effects<T>) {
        self.release(key, &range);
        self.ready.insert(range);
        self.dispatch(effects);
    }

    fn release(&mut self, key: Option<ConsumerKey>, range: &Range<u64>) {
        let count = range.end - range.start;
        self.unacked = self.unacked.saturating_sub(count);
        if let Some(consumer) = key.and_then(|key| self.consumer(key)) {
            consumer.unacked = consumer.unacked.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    /// Takes the first ready message for a basic.get.
    pub fn get(&mut self, no_ack: bool, effects: &mut Effects<T>) -> Got {
        let Some(first) = self.ready.first() else { return Got::Empty };
        match self.deliverable(first.start..first.start + 1, effects) {
            None => Got::Wait,
            Some((run, index, _, redelivered)) => {
                let position = first.start;
                self.hand_out(position..position + 1, no_ack);
                let delivery =
                    Delivery { consumer: ConsumerKey::NONE, run, index, first: position, count: 1, redelivered };
                Got::Message { delivery, ready: self.ready.count() }
            }
        }
    }

    /// Drops all ready messages; says how many.
    pub fn purge(&mut self) -> u64 {
        let count = self.ready.count();
        while let Some(range) = self.ready.pop_front(u64::MAX) {
            self.settle_positions(range);
        }
        count
    }

    /// The queue is deleted: its consumers are cancelled, its tickets come back, its messages are forgotten.
    pub fn delete(&mut self, effects: &mut Effects<T>) -> u64 {
        let count = self.ready.count();
        effects.cancelled.extend(self.consumers.drain(..).map(|consumer| consumer.key));
        effects.tickets.append(&mut self.waiting);
        effects.tickets.append(&mut self.taken);
        self.ready.clear();
        self.log.clear();
        self.memory_bytes = 0;
        self.unstored_bytes = 0;
        self.unstored_messages = 0;
        count
    }

    // ── Handing out ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives ready messages to consumers with credit, in turn among those of the same priority.
    fn dispatch(&mut self, effects: &mut Effects<T>) {
        while !self.consumers.is_empty() {
            let Some(first) = self.ready.first() else { break };
            let Some((at, share)) = self.next_consumer(first.end - first.start) else { break };
            let wanted = first.start..first.end.min(first.start + u64::from(share));
            let Some((run, index, count, redelivered)) = self.deliverable(wanted, effects) else { break };
            let range = first.start..first.start + u64::from(count);
            let consumer = &mut self.consumers[at];
            let (key, no_ack) = (consumer.key, consumer.terms.no_ack);
            consumer.window_messages += count;
            consumer.window_bytes += (index..index + count).map(|index| run.message_bytes(index)).sum::<usize>();
            if !no_ack {
                consumer.unacked += count;
            }
            self.turn = at + 1;
            effects.deliveries.push(Delivery { consumer: key, run, index, first: range.start, count, redelivered });
            self.hand_out(range, no_ack);
        }
        self.read_ahead(effects);
    }

    /// Whose turn it is, and how many messages it may have at most when so many are `available`.
    fn next_consumer(&self, available: u64) -> Option<(usize, u32)> {
        if self.rules.single_active_consumer {
            // The one that came first, until it goes.
            let (at, active) = self.consumers.iter().enumerate().min_by_key(|(_, consumer)| consumer.key)?;
            return Some((at, active.credit())).filter(|&(_, credit)| credit > 0);
        }
        let priority = self.consumers.iter().find(|consumer| consumer.credit() > 0)?.terms.priority;
        let start = self.consumers.partition_point(|consumer| consumer.terms.priority > priority);
        let end = self.consumers.partition_point(|consumer| consumer.terms.priority >= priority);
        let able = self.consumers[start..end].iter().filter(|consumer| consumer.credit() > 0).count() as u64;
        let turn = if (start..end).contains(&self.turn) { self.turn } else { start };
        let at = (turn..end).chain(start..turn).find(|&at| self.consumers[at].credit() > 0)?;
        // One each as long as there are few, so that turns are seen as such; more at once in a long queue.
        let share = if able == 1 { u64::MAX } else { (available / (able * 16)).clamp(1, 64) };
        Some((at, u32::try_from(share).unwrap_or(u32::MAX).min(self.consumers[at].credit())))
    }

    /// The longest part of the ready range `wanted` from its start that can be delivered now: its run, the index of
    /// the first message in it, the count, and whether it was delivered before. Otherwise asks for what is missing.
    fn deliverable(&mut self, wanted: Range<u64>, effects: &mut Effects<T>) -> Option<(Arc<Run>, u32, u32, bool)> {
        let position = wanted.start;
        let at = self.segment_at(position)?;
        let segment = &self.log[at];
        let Body::Memory(run) = &segment.body else {
            self.load(at, effects);
            return None;
        };
        let run = Arc::clone(run);
        let mut end = wanted.end.min(segment.end());
        let index = u32::try_from(position - segment.first).ok()?;
        // What is on disk must be known there as delivered before it goes out, or a crash would forget it.
        if segment.persistent && segment.stored != Stored::No && position >= self.delivered_below {
            if position >= self.delivered_below_stored {
                self.reserve_wanted = true;
                return None;
            }
            end = end.min(self.delivered_below_stored);
        }
        let redelivered = position < self.delivered_below;
        if redelivered {
            end = end.min(self.delivered_below);
        }
        Some((run, index, u32::try_from(end - position).ok()?, redelivered))
    }

    /// Moves positions from ready to unacknowledged, or to settled.
    fn hand_out(&mut self, range: Range<u64>, no_ack: bool) {
        self.ready.remove(range.clone());
        self.delivered_below = self.delivered_below.max(range.end);
        if no_ack {
            self.settle_positions(range);
        } else {
            self.unacked += range.end - range.start;
        }
    }

    // ── The log ───────────────────────────────────────────────────────────────────────────────────────────────────

    fn segment_at(&self, position: u64) -> Option<usize> {
        let at = self.log.partition_point(|segment| segment.end() <= position);
        (self.log.get(at)?.first <= position).then_some(at)
    }

    fn settle_positions(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut at = self.log.partition_point(|segment| segment.end() <= range.start);
        while let Some(segment) = self.log.get_mut(at) {
            let (start, end) = (segment.first.max(range.start), segment.end().min(range.end));
            if start >= end {
                break;
            }
            segment.live -= end - start;
            if segment.live == 0 {
                self.finish(at);
            }
            at += 1;
        }
        self.drop_dead();
        if range.start <= self.low_water && self.settled.is_empty() {
            self.low_water = range.end;
        } else {
            self.settled.insert(range.clone());
            self.settled_since.insert(range);
            if let Some(first) = self.settled.first()
                && first.start <= self.low_water
            {
                self.low_water = first.end;
                self.settled.pop_front(u64::MAX);
            }
        }
    }

    /// Lets go of segments of which nothing is left.
    fn drop_dead(&mut self) {
        let dead = |segment: &Segment| segment.live == 0 && segment.stored != Stored::Taken;
        while self.log.front().is_some_and(dead) {
            self.log.pop_front();
            self.dead = self.dead.saturating_sub(1);
        }
        // One old message that stays must not keep the traces of all that came and went behind it.
        if self.dead > 256 && self.dead > self.log.len() / 2 {
            self.log.retain(|segment| !dead(segment));
            self.dead = 0;
        }
    }

    /// Everything in a segment is settled: memory and disk forget it.
    fn finish(&mut self, at: usize) {
        self.dead += 1;
        let segment = &mut self.log[at];
        self.memory_bytes -= segment.memory_bytes();
        match segment.stored {
            Stored::No if segment.due => {
                self.unstored_bytes -= segment.memory_bytes();
                self.unstored_messages -= segment.count;
            }
            Stored::No => {}
            Stored::Yes => match segment.body {
                Body::Memory(_) => self.deleted.push((segment.first, segment.persistent)),
                Body::Disk => self.purged.push((segment.first..segment.end(), segment.persistent)),
            },
            // Deleted when the commit is done.
            Stored::Taken => {}
        }
        segment.body = Body::Disk;
    }

    fn load(&mut self, at: usize, effects: &mut Effects<T>) {
        if !self.loading && self.log[at].stored == Stored::Yes {
            self.loading = true;
            // A segment of many blocks is read from its start, a block at a time.
            let segment = &self.log[at];
            effects.load = Some(Load { position: segment.first, end: segment.end(), persistent: segment.persistent });
        }
    }

    /// Asks for the next block before a consumer has to wait for it.
    fn read_ahead(&mut self, effects: &mut Effects<T>) {
        if self.loading || self.consumers.is_empty() || effects.load.is_some() {
            return;
        }
        let Some(first) = self.ready.first() else { return };
        let Some(mut at) = self.segment_at(first.start) else { return };
        let mut ahead = 0;
        while ahead < READ_AHEAD_BYTES.min(self.rules.memory_bytes) {
            let Some(segment) = self.log.get(at) else { return };
            match &segment.body {
                Body::Memory(run) => ahead += run.bytes(),
                Body::Disk if segment.live > 0 => return self.load(at, effects),
                Body::Disk => {}
            }
            at += 1;
        }
    }

    /// The block that was asked for: its first position and its messages; `None` if there is none (any more).
    /// Says how many messages were lost: they should have been there and were not.
    pub fn loaded(&mut self, load: Load, block: Option<(u64, Arc<Run>)>, effects: &mut Effects<T>) -> u64 {
        self.loading = false;
        let Some(at) = self.log.partition_point(|segment| segment.end() <= load.position).into() else { return 0 };
        let mut lost = 0;
        match self.log.get_mut(at) {
            Some(segment)
                if segment.first == load.position && matches!(segment.body, Body::Disk) && segment.live > 0 =>
            {
                let end = segment.end();
                let (start, run) = match block {
                    Some((start, run)) if start < end => (start, Some(run)),
                    _ => (end, None),
                };
                // Positions without a block: settled long ago, or lost.
                let gap = segment.first..start;
                let block_end = run.as_ref().map_or(end, |run| (start + u64::from(run.count())).min(end));
                let (persistent, live) = (segment.persistent, segment.live);
                let gap_live = self.live_in(gap.clone());
                let block_live = self.live_in(start..block_end);
                let rest_live = live - gap_live - block_live;
                self.log.remove(at);
                if rest_live > 0 {
                    self.log.insert(
                        at,
                        Segment {
                            first: block_end,
                            count: end - block_end,
                            live: rest_live,
                            persistent,
                            due: false,
                            body: Body::Disk,
                            stored: Stored::Yes,
                        },
                    );
                }
                if let Some(run) = run {
                    if block_live > 0 {
                        self.memory_bytes += run.bytes();
                        self.log.insert(
                            at,
                            Segment {
                                first: start,
                                count: u64::from(run.count()),
                                live: block_live,
                                persistent,
                                due: false,
                                body: Body::Memory(run),
                                stored: Stored::Yes,
                            },
                        );
                    } else {
                        self.deleted.push((start, persistent));
                    }
                }
                if gap_live > 0 {
                    lost = self.ready.remove(gap.clone());
                    self.settle_positions(gap);
                }
            }
            _ => {}
        }
        self.dispatch(effects);
        if self.memory_bytes > self.rules.memory_bytes {
            self.evict_delivered();
        }
        lost
    }

    /// Not settled positions in a range.
    fn live_in(&self, range: Range<u64>) -> u64 {
        let range = range.start.max(self.low_water)..range.end.max(self.low_water);
        (range.end - range.start) - self.settled.count_in(range)
    }

    // ── The store ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether [`State::take`] has something to hand over.
    pub fn dirty(&self) -> bool {
        !self.waiting.is_empty()
            || self.unstored_messages > 0
            || !self.deleted.is_empty()
            || !self.purged.is_empty()
            || self.rules.durable && (self.mark_due() || !self.settled_since.is_empty())
    }

    fn mark_due(&self) -> bool {
        self.reserve_wanted || self.stored_next > 0 && self.mark.low_water != self.low_water.min(self.stored_next)
    }

    /// What must be written now. [`State::stored`] tells that it was.
    pub fn take(&mut self) -> Writes {
        let mut writes = Writes::default();
        self.taken.append(&mut self.waiting);
        self.take_blocks(&mut writes);
        writes.deleted = std::mem::take(&mut self.deleted);
        writes.purged = std::mem::take(&mut self.purged);
        if self.rules.durable {
            self.take_mark(&mut writes);
        } else {
            self.settled_since.clear();
            self.reserve_wanted = false;
        }
        writes
    }

    fn take_blocks(&mut self, writes: &mut Writes) {
        if self.unstored_messages == 0 {
            return;
        }
        let mut at = self.log.len();
        while at > 0 && self.log[at - 1].stored == Stored::No {
            at -= 1;
        }
        while at < self.log.len() {
            let segment = &self.log[at];
            if !segment.due || segment.live == 0 {
                at += 1;
                continue;
            }
            // Join the small runs behind it.
            let persistent = segment.persistent;
            let (mut end, mut bytes) = (at, 0);
            while let Some(next) = self.log.get(end)
                && next.live > 0
                && next.due
                && next.persistent == persistent
                && (end == at || bytes + next.memory_bytes() <= BLOCK_BYTES)
                && (end == at || self.log[end - 1].end() == next.first)
            {
                bytes += next.memory_bytes();
                end += 1;
            }
            if end > at + 1 {
                self.join(at, end);
            }
            let segment = &mut self.log[at];
            (segment.stored, segment.due) = (Stored::Taken, false);
            if let Body::Memory(run) = &segment.body {
                writes.blocks.push((segment.first, Arc::clone(run)));
            }
            if persistent {
                // Positions in between that never get to disk (transient messages) must not be missed after a crash.
                if self.stored_next < segment.first {
                    self.settled_since.insert(self.stored_next..segment.first);
                }
                self.stored_next = segment.end();
            }
            at += 1;
        }
        self.unstored_bytes = 0;
        self.unstored_messages = 0;
    }

    /// Makes one segment of several.
    fn join(&mut self, start: usize, end: usize) {
        let runs: Vec<Arc<Run>> = self
            .log
            .range(start..end)
            .filter_map(|segment| match &segment.body {
                Body::Memory(run) => Some(Arc::clone(run)),
                Body::Disk => None,
            })
            .collect();
        let Some(joined) = Run::concat(runs.iter().map(|run| &**run)) else { return };
        let count = self.log.range(start..end).map(|segment| segment.count).sum::<u64>();
        debug_assert_eq!(count, u64::from(joined.count()));
        let live = self.log.range(start..end).map(|segment| segment.live).sum();
        self.memory_bytes -= runs.iter().map(|run| run.bytes()).sum::<usize>();
        self.memory_bytes += joined.bytes();
        let rest = self.log.split_off(end);
        self.log.truncate(start + 1);
        self.log.extend(rest);
        let segment = &mut self.log[start];
        (segment.count, segment.live, segment.body) = (count, live, Body::Memory(Arc::new(joined)));
    }

    fn take_mark(&mut self, writes: &mut Writes) {
        let settled = std::mem::take(&mut self.settled_since);
        if self.stored_next == 0 {
            // Nothing of this queue was ever on disk.
            self.reserve_wanted = false;
            return;
        }
        let low_water = self.low_water.min(self.stored_next);
        let mut delivered_below = self.delivered_below.max(self.delivered_below_stored);
        let backlog = self.stored_next.saturating_sub(self.delivered_below);
        let ahead = (backlog / 4).clamp(RESERVE_MESSAGES.start, RESERVE_MESSAGES.end);
        let near = self.delivered_below + ahead / 2 >= self.delivered_below_stored;
        if backlog > 0 && !self.consumers.is_empty() && near || self.reserve_wanted {
            delivered_below = delivered_below.max(self.delivered_below + ahead);
        }
        self.reserve_wanted = false;
        let mark = Mark { low_water, delivered_below, next: self.stored_next };
        self.delivered_below_taken = delivered_below;
        for range in settled.iter() {
            let range = range.start.max(low_water)..range.end.min(self.stored_next);
            if !range.is_empty() {
                self.settled_rows_end = self.settled_rows_end.max(range.end);
                writes.settled.push(range);
            }
        }
        if !writes.settled.is_empty() {
            self.settled_rows += 1;
            if self.settled_rows >= 64 {
                self.settled_rows = 0;
                writes.settled.clear();
                writes.settled_all = Some(self.settled_on_disk());
            }
        } else if self.settled_rows > 0 && low_water >= self.settled_rows_end {
            // All of them are below the mark.
            self.settled_rows = 0;
            writes.settled_all = Some(Vec::new());
        }
        // Where the queue ends is seen from its last block: a mark for that alone would cost a row a commit.
        if (mark.low_water, mark.delivered_below) != (self.mark.low_water, self.mark.delivered_below) {
            writes.mark = Some(mark.clone());
            self.mark = mark;
        }
    }

    /// What the disk must take for settled above the low-water mark: also what never got there.
    fn settled_on_disk(&self) -> Vec<Range<u64>> {
        let mut all = self.settled.clone();
        for segment in &self.log {
            if !segment.persistent {
                all.insert(segment.first..segment.end().min(self.stored_next));
            }
        }
        all.iter().filter(|range| range.start < self.stored_next).collect()
    }

    /// What [`State::take`] gave out is on disk.
    pub fn stored(&mut self, effects: &mut Effects<T>) {
        effects.tickets.append(&mut self.taken);
        self.delivered_below_stored = self.delivered_below_stored.max(self.delivered_below_taken);
        // The segments taken are near the end, among those that came since.
        let mut start = self.log.len();
        while start > 0 && self.log[start - 1].stored != Stored::Yes {
            start -= 1;
            let segment = &mut self.log[start];
            if segment.stored != Stored::Taken {
                continue;
            }
            segment.stored = Stored::Yes;
            if segment.live == 0 {
                self.deleted.push((segment.first, segment.persistent));
            } else if self.memory_bytes > self.rules.memory_bytes {
                // The last ones first: they are needed last.
                self.memory_bytes -= segment.memory_bytes();
                segment.body = Body::Disk;
            }
        }
        self.merge_disk(start.saturating_sub(1));
        self.drop_dead();
        self.dispatch(effects);
    }

    /// Makes one segment of neighbours of which nothing is in memory, so that a long queue costs nothing.
    fn merge_disk(&mut self, start: usize) {
        let on_disk =
            |segment: &Segment| matches!(segment.body, Body::Disk) && segment.stored == Stored::Yes && segment.live > 0;
        // A segment is read from its start: what is to be delivered next must not vanish behind what was delivered.
        let first_ready = self.ready.first().map_or(self.next, |range| range.start);
        let mut at = start;
        while at + 1 < self.log.len() {
            let (segment, next) = (&self.log[at], &self.log[at + 1]);
            let alike = on_disk(segment)
                && on_disk(next)
                && segment.persistent == next.persistent
                && segment.end() == next.first
                && (next.end() <= first_ready || first_ready <= segment.first);
            if alike {
                let (count, live) = (next.count, next.live);
                self.log.remove(at + 1);
                self.log[at].count += count;
                self.log[at].live += live;
            } else {
                at += 1;
            }
        }
    }

    /// Delivered messages that are on disk leave memory when it is short, whoever hoards them.
    fn evict_delivered(&mut self) {
        let first_ready = self.ready.first().map_or(self.next, |range| range.start);
        for segment in &mut self.log {
            if self.memory_bytes <= self.rules.memory_bytes || segment.end() > first_ready {
                break;
            }
            if segment.stored == Stored::Yes && matches!(segment.body, Body::Memory(_)) {
                self.memory_bytes -= segment.memory_bytes();
                segment.body = Body::Disk;
            }
        }
        self.merge_disk(0);
    }

    /// Nothing below this position is on disk, or needs to be.
    pub fn first_kept(&self) -> u64 {
        self.log.front().map_or(self.next, |segment| segment.first)
    }

    /// The mark of a queue at rest: after it a restart knows exactly what was delivered.
    pub fn final_mark(&mut self) -> Option<Mark> {
        if !self.rules.durable || self.stored_next == 0 {
            return None;
        }
        Some(Mark {
            low_water: self.low_water.min(self.stored_next),
            delivered_below: self.delivered_below,
            next: self.stored_next,
        })
    }
}

/// The queue, or the wish, is exclusive to one consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse;

#[cfg(test)]
mod tests;
