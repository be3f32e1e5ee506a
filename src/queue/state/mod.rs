//! The queue's rules, pure: commands in, effects out. No lock, no store, no clock, no socket; time is an argument, in
//! milliseconds since 1970.
//!
//! `T` is a ticket: whoever waits until something is on disk hands one in and gets it back when it is.
//!
//! A message's life, by where its position is:
//!
//! ```text
//!               dispatch, get               settle
//!   ready ────────────────────▶ unacked ──────────────▶ settled
//!     │ ▲        requeue           │                       ▲
//!     │ └──────────────────────────┤ reject, limit         │ handed on, in the same write as the copy
//!     │ expiry, overflow           ▼                       │
//!     └────────────────────────▶ dying ────────────────────┘          (without dead letters: settled at once)
//! ```

pub mod browse;
mod consumers;
mod death;
mod expiry;
mod handing;
mod look;
mod returns;

pub use death::Dead;

use super::consumer::{ConsumerKey, Delivery};
use super::dead_letter::Reason;
use super::log::{self, Log, Shared};
pub use super::log::{Block, Facts, Load, Mark, Recovered, Writes};
use super::ranges::Ranges;
use super::settings::{DelayedRetry, Overflow};
use super::tallies::{Tallies, Tally};
use crate::amqp::properties::Properties;
use crate::message::{Packer, Run, Traits};
use crate::metrics::Ends;
#[cfg(test)]
use crate::simulation::bugs::{Bug, planted};
use consumers::Consumers;
use death::Dying;
pub use handing::{WINDOW_BYTES, WINDOW_MESSAGES};
pub use look::Look;
use returns::Returns;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Octets of messages that are fetched from disk ahead of the consumers.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Rows of tallies on disk before they are folded into one; few in tests, so that their histories get there.
const TALLY_ROWS_MAX: u32 = if cfg!(test) { 3 } else { 64 };

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
    /// Nobody used the queue for as long as it may be unused: it is to be deleted.
    pub unused: bool,
    /// Consumers that get nothing more since so much is on its way to their clients; they go on with [`State::resume`].
    pub held: Vec<ConsumerKey>,
}

impl<T> Default for Effects<T> {
    fn default() -> Self {
        Self {
            deliveries: Vec::new(),
            tickets: Vec::new(),
            cancelled: Vec::new(),
            load: None,
            unused: false,
            held: Vec::new(),
        }
    }
}

/// Which messages go before others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priorities {
    /// All are alike.
    #[default]
    None,
    /// A classic queue's levels 0 to `x-max-priority`; without the property a message is of level 0.
    UpTo(u8),
    /// A quorum queue's levels 0 to 31; without the property a message is of level 4.
    Quorum,
}

/// A quorum queue's highest level, and that of messages without a priority.
const QUORUM_LEVEL_MAX: u8 = 31;
const QUORUM_LEVEL_DEFAULT: u8 = 4;

impl Priorities {
    /// The level of a message.
    fn level(self, priority: Option<u8>) -> u8 {
        match self {
            Self::None => 0,
            Self::UpTo(max) => priority.unwrap_or(0).min(max),
            Self::Quorum => priority.unwrap_or(QUORUM_LEVEL_DEFAULT).min(QUORUM_LEVEL_MAX),
        }
    }
}

/// How a queue treats its messages and consumers. All but the first three may change while it works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// Persistent messages are written and recovered.
    pub durable: bool,
    /// A quorum queue: every message is persistent, what comes back is counted and goes out again first.
    pub quorum: bool,
    pub priorities: Priorities,
    /// Octets of messages kept in memory.
    pub memory_bytes: usize,
    /// One consumer at a time gets messages (`x-single-active-consumer`).
    pub single_active_consumer: bool,
    /// Messages that come from now on live no longer than this.
    pub message_ttl_ms: Option<u64>,
    /// Messages that can't be delivered any more leave only when they reach the head, as in RabbitMQ.
    pub expire_at_head: bool,
    /// The queue ends when it was not used for so long.
    pub expires_ms: Option<u64>,
    /// Ready messages, at most.
    pub max_length: Option<u64>,
    /// Octets of ready messages' bodies, at most.
    pub max_length_bytes: Option<u64>,
    pub overflow: Overflow,
    /// Dead messages are handed on, not just settled.
    pub dead_letters: bool,
    /// How often a message may come back as a failure.
    pub delivery_limit: Option<u32>,
    pub delayed_retry: Option<DelayedRetry>,
    /// Messages are held back for as long as they say and then die, to be handed on. All are kept as if persistent.
    pub delays: bool,
}

impl Rules {
    fn rejects(&self) -> bool {
        self.overflow != Overflow::DropHead && (self.max_length.is_some() || self.max_length_bytes.is_some())
    }
}

/// What goes to disk in one commit.
#[derive(Debug, Default)]
pub struct Commit {
    pub levels: Vec<Writes>,
    /// Tallies that changed since the last commit.
    pub tallies: Vec<(Range<u64>, Tally)>,
    /// All of them, instead, now and then.
    pub tallies_all: Option<Vec<(Range<u64>, Tally)>>,
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

/// See the module's text.
#[derive(Debug)]
pub struct State<T> {
    rules: Rules,
    shared: Shared,
    /// By priority, the highest first.
    levels: SmallVec<[Log; 1]>,
    unacked: u64,
    returns: Returns,
    /// Messages that came back and wait before they are delivered again, by the time that ends and their first
    /// position; up to a position.
    resting: BTreeMap<(u64, u64), u64>,
    /// Those that came back, where it is counted.
    tallies: Tallies,
    tallies_since: Ranges,
    tally_rows: u32,
    /// Dead, and not yet handed on.
    dying: VecDeque<Dying>,
    /// Refused at the door, to be handed on as dead letters.
    turned_away: VecDeque<Dead>,
    /// When to hand on again what nobody would take.
    dying_retry_ms: Option<u64>,
    /// How messages ended since it was last asked.
    ends: Ends,
    /// Deadlines and positions: for each block that has any, one not later than its next. A set, since runs that were
    /// joined on their way to disk bring an alarm each and all go on to the same.
    alarms: BTreeSet<(u64, u64)>,
    /// With more of them those in vain are looked for.
    alarms_max: usize,
    /// More deadlines have passed than one call carries out: nothing is delivered before the rest is.
    expiring: bool,
    /// Of the ready messages' bodies, where that is limited.
    ready_bytes: u64,
    consumers: Consumers,
    /// Consumers of a quorum queue that were cancelled and have not settled everything: they still count.
    leaving: FxHashMap<ConsumerKey, u32>,
    /// A full quorum queue refused messages, and is not yet well below its limit.
    refusing: bool,
    /// The single active consumer.
    active: Option<ConsumerKey>,
    /// When the queue was last used.
    used_at_ms: u64,
    loading: bool,
    // What the next commit takes.
    waiting: Vec<T>,
    taken: Vec<T>,
}

impl<T> State<T> {
    pub fn new(rules: Rules, now_ms: u64) -> Self {
        Self::recovered(rules, Vec::new(), Tallies::default(), now_ms)
    }

    /// A queue as it was: its levels, and which of their messages had come back.
    pub fn recovered(rules: Rules, levels: Vec<(u8, Recovered)>, mut tallies: Tallies, now_ms: u64) -> Self {
        let mut state = Self {
            shared: Shared {
                durable: rules.durable,
                all_persistent: rules.quorum || rules.delays,
                any_order: rules.delays,
                count_bodies: rules.max_length_bytes.is_some(),
                memory_max: rules.memory_bytes,
                memory_bytes: 0,
                unstored_bytes: 0,
                unstored_messages: 0,
                pinned: [None; 2],
                averaged: true,
                now_ms,
            },
            rules,
            levels: SmallVec::new(),
            unacked: 0,
            returns: Returns::default(),
            resting: BTreeMap::new(),
            tallies: Tallies::default(),
            tallies_since: Ranges::default(),
            tally_rows: u32::from(!tallies.is_empty()),
            dying: VecDeque::new(),
            turned_away: VecDeque::new(),
            dying_retry_ms: None,
            ends: Ends::default(),
            alarms: BTreeSet::new(),
            alarms_max: 0,
            expiring: false,
            ready_bytes: 0,
            consumers: Consumers::default(),
            leaving: FxHashMap::default(),
            refusing: false,
            active: None,
            used_at_ms: now_ms,
            loading: false,
            waiting: Vec::new(),
            taken: Vec::new(),
        };
        state.levels.extend(levels.into_iter().map(|(level, found)| Log::recovered(level, found, now_ms)));
        state.levels.sort_by_key(|log| Reverse(log.level()));
        if state.levels.is_empty() {
            state.levels.push(Log::new(rules.priorities.level(None)));
        }
        // What was settled since need not be remembered.
        for (range, tally) in std::mem::take(&mut tallies).iter() {
            for part in state.log(range.start).map_or(Vec::new(), |log| log.ready().intersection(range)) {
                state.tallies.set(part, tally);
            }
        }
        state.count_ready_bytes();
        state.set_alarms();
        if state.drops_head() {
            // What was out counts again.
            state.expire(now_ms);
            state.drop_head();
        }
        state
    }

    /// Ready messages.
    pub fn ready(&self) -> u64 {
        self.returns.members().count() + self.levels.iter().map(|log| log.ready().count()).sum::<u64>()
    }

    /// Delivered and not settled.
    pub fn unacked(&self) -> u64 {
        self.unacked
    }

    pub fn consumer_count(&self) -> usize {
        self.consumers.len() + self.leaving.len()
    }

    /// Octets of messages in memory.
    pub fn memory_bytes(&self) -> usize {
        self.shared.memory_bytes
    }

    /// Octets of messages that wait for the store.
    pub fn unstored_bytes(&self) -> usize {
        self.shared.unstored_bytes
    }

    pub fn set_memory_limit(&mut self, bytes: usize) {
        self.shared.memory_max = bytes;
    }

    fn log(&self, position: u64) -> Option<&Log> {
        let level = log::level(position);
        self.levels.iter().find(|log| log.level() == level)
    }

    fn log_mut(&mut self, position: u64) -> Option<&mut Log> {
        let level = log::level(position);
        self.levels.iter_mut().find(|log| log.level() == level)
    }

    /// The log of a level, new if need be.
    fn level(&mut self, level: u8) -> usize {
        let at = self.levels.partition_point(|log| log.level() > level);
        if self.levels.get(at).is_none_or(|log| log.level() != level) {
            self.levels.insert(at, Log::new(level));
        }
        at
    }

    // ── Publishing ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Adds messages at the end and hands them out. The ticket comes back once they are safe: at once if they need not
    /// be on disk. `failed`: how often they failed elsewhere, if they are dead letters. Says which messages of the run
    /// were refused, since the queue is full.
    pub fn publish(
        &mut self,
        run: &Arc<Run>,
        ticket: Option<T>,
        failed: u32,
        now_ms: u64,
        effects: &mut Effects<T>,
    ) -> Vec<Range<u32>> {
        self.expire(now_ms);
        let mut refused = Vec::new();
        if self.rules.rejects() {
            refused = self.add_what_fits(run, failed, now_ms, effects);
        } else {
            self.add(Arc::clone(run), failed, now_ms, effects);
        }
        let persistent = self.rules.durable && (run.persistent() || self.shared.all_persistent);
        match ticket {
            Some(ticket) if persistent => self.waiting.push(ticket),
            Some(ticket) => effects.tickets.push(ticket),
            None => {}
        }
        self.drop_head();
        // A time to live of 0 ends now, if no consumer took the message at once.
        self.expire(now_ms);
        self.drop_spoiled();
        refused
    }

    /// Adds a run, each message to its level, and hands out.
    fn add(&mut self, run: Arc<Run>, failed: u32, now_ms: u64, effects: &mut Effects<T>) {
        let Some(levels) = self.levels_of(&run) else {
            let range = self.append(self.rules.priorities.level(None), run, failed, now_ms);
            self.dispatch(effects);
            return self.note_failures_of_ready(range, failed);
        };
        let mut index = 0;
        // A consumer that waits takes messages as they come, whatever follows them.
        while let Some(&level) = levels.get(index)
            && self.consumers.any_credit(&mut effects.held)
        {
            let count = levels[index..].iter().take_while(|other| **other == level).count();
            let range = self.append(level, slice(&run, index..index + count), failed, now_ms);
            self.dispatch(effects);
            self.note_failures_of_ready(range, failed);
            index += count;
        }
        for (level, part) in sorted(&run, &levels, index) {
            let range = self.append(level, part, failed, now_ms);
            self.note_failures_of_ready(range, failed);
        }
        self.dispatch(effects);
    }

    /// The level of each message; `None` if none says a priority, or all count as alike.
    fn levels_of(&self, run: &Run) -> Option<Vec<u8>> {
        if !run.prioritised() || self.rules.priorities == Priorities::None {
            return None;
        }
        let priority = |index| Properties::parse(run.message(index).properties).ok()?.priority;
        Some((0..run.count()).map(|index| self.rules.priorities.level(priority(index))).collect())
    }

    /// Adds those messages that the limits leave room for, as if they came one by one. Says which were refused.
    fn add_what_fits(&mut self, run: &Arc<Run>, failed: u32, now_ms: u64, effects: &mut Effects<T>) -> Vec<Range<u32>> {
        let mut refused: Vec<Range<u32>> = Vec::new();
        let mut index = 0;
        while index < run.count() {
            self.refusing = self.rules.quorum && self.refuses();
            let fits = self.fitting(run, index);
            if fits == 0 {
                // Nothing more fits but, with a limit in octets, perhaps a smaller message.
                let full = self.rules.quorum || self.rules.max_length.is_some_and(|max| self.ready() >= max);
                let end = if full { run.count() } else { index + 1 };
                match refused.last_mut() {
                    Some(last) if last.end == index => last.end = end,
                    _ => refused.push(index..end),
                }
                index = end;
                continue;
            }
            // Which of several levels' messages is at the head, and so expires at once, is seen one by one.
            let alone =
                self.rules.priorities != Priorities::None && (run.expires() || self.rules.message_ttl_ms == Some(0));
            let fits = if alone { 1 } else { fits };
            let part = if fits == run.count() { Arc::clone(run) } else { Arc::new(run.slice(index..index + fits)) };
            self.add(part, failed, now_ms, effects);
            index += fits;
            // What has no time to live makes room for the next.
            self.expire(now_ms);
        }
        if self.rules.overflow == Overflow::RejectPublishDlx {
            self.ends.died[Reason::MaxLen as usize] +=
                refused.iter().map(|range| u64::from(range.end - range.start)).sum::<u64>();
        }
        if self.rules.overflow == Overflow::RejectPublishDlx && self.rules.dead_letters {
            let away = refused.iter().map(|range| Dead::turned_away(run, range, failed));
            self.turned_away.extend(away);
        }
        refused
    }

    /// Whether there is room for all messages of a run.
    pub fn accepts(&self, run: &Run) -> bool {
        if self.rules.rejects() && self.rules.quorum {
            let (before, last) = (run.count() - 1, run.body_bytes() - run.body_bytes_of(run.count() - 1..run.count()));
            let over = |max: Option<u64>, then: u64| max.is_some_and(|max| then > max);
            return !self.refuses()
                && !over(self.rules.max_length, self.ready() + u64::from(before))
                && !over(self.rules.max_length_bytes, self.ready_bytes + last);
        }
        !self.rules.rejects() || self.fitting(run, 0) == run.count()
    }

    /// Whether a quorum queue takes nothing now. It goes one message over its limit before it refuses, and takes
    /// messages again once it is well below (`rabbit_fifo:evaluate_limit`, `is_below_soft_limit`).
    fn refuses(&self) -> bool {
        // Four fifths, without overflow.
        let low = |max: u64| max / 5 * 4 + max % 5 * 4 / 5;
        let over = |max: Option<u64>, now: u64| max.is_some_and(|max| now > if self.refusing { low(max) } else { max });
        over(self.rules.max_length, self.ready()) || over(self.rules.max_length_bytes, self.ready_bytes)
    }

    /// How many messages from `index` on there is room for.
    fn fitting(&self, run: &Run, index: u32) -> u32 {
        let left = run.count() - index;
        if self.rules.quorum {
            let room = self.rules.max_length.map_or(u64::MAX, |max| max.saturating_sub(self.ready()).saturating_add(1));
            let room = if self.rules.max_length_bytes.is_some() { 1 } else { u32::try_from(room).unwrap_or(u32::MAX) };
            return if self.refuses() { 0 } else { left.min(room) };
        }
        let room = self.rules.max_length.map_or(u64::MAX, |max| max.saturating_sub(self.ready()));
        let count = u32::try_from(room).unwrap_or(u32::MAX).min(left);
        let Some(bytes_max) = self.rules.max_length_bytes else { return count };
        let mut bytes = self.ready_bytes;
        let fits = (index..index + count).take_while(|&index| {
            bytes += run.body_bytes_of(index..index + 1);
            bytes <= bytes_max
        });
        u32::try_from(fits.count()).unwrap_or(count)
    }

    fn append(&mut self, level: u8, run: Arc<Run>, failed: u32, now_ms: u64) -> Range<u64> {
        let deadlines = self.deadlines(&run, now_ms);
        let next = deadlines.as_ref().and_then(|deadlines| deadlines.next());
        let bytes = run.body_bytes();
        let at = if self.levels.len() == 1 && self.levels[0].level() == level { 0 } else { self.level(level) };
        self.shared.now_ms = now_ms;
        let range = self.levels[at].append(run, deadlines, &mut self.shared);
        if self.shared.count_bodies {
            self.ready_bytes += bytes;
        }
        if let Some(next) = next {
            self.set_alarm(next, range.start);
        }
        if failed > 0 && self.rules.quorum {
            self.note_failures(&range, failed);
        }
        range
    }

    /// Dead letters that failed elsewhere have done so here.
    fn note_failures(&mut self, range: &Range<u64>, failed: u32) {
        self.tallies_since.insert(range.clone());
        self.tallies.set(range.clone(), Tally { acquired: 0, failed });
    }

    /// As [`State::note_failures`], for what is still ready of a range. What a consumer of a classic queue takes at once
    /// goes out as new (`rabbit_amqqueue_process:attempt_delivery`).
    fn note_failures_of_ready(&mut self, range: Range<u64>, failed: u32) {
        if failed > 0 && !self.rules.quorum {
            for part in self.log(range.start).map_or(Vec::new(), |log| log.ready().intersection(range)) {
                self.note_failures(&part, failed);
            }
        }
    }

    /// Whether the oldest ready messages make room for new ones.
    fn drops_head(&self) -> bool {
        self.rules.overflow == Overflow::DropHead && self.rules.max_length.or(self.rules.max_length_bytes).is_some()
    }

    /// Drops the oldest ready messages while there are too many.
    fn drop_head(&mut self) {
        if !self.drops_head() {
            return;
        }
        if let Some(max) = self.rules.max_length {
            while let Some(excess) = self.ready().checked_sub(max).filter(|excess| *excess > 0) {
                let Some(head) = self.head() else { break };
                let end = head.end.min(head.start.saturating_add(excess));
                self.drop_ready(head.start..end, Reason::MaxLen);
            }
        }
        if let Some(max) = self.rules.max_length_bytes {
            while self.ready_bytes > max
                && let Some(head) = self.head()
            {
                self.drop_ready(head.start..head.start + 1, Reason::MaxLen);
            }
        }
        self.drop_spoiled();
    }

    /// The ready messages that go out next, whether or not their time has passed.
    fn head(&self) -> Option<Range<u64>> {
        self.returns.first().or_else(|| self.levels.iter().find_map(|log| log.ready().first()))
    }

    /// Takes messages at the head out of the ready ones.
    fn withdraw(&mut self, range: &Range<u64>) {
        self.discount(range);
        if !self.returns.pop(range)
            && let Some(log) = self.log_mut(range.start)
        {
            log.withdraw(range.clone());
        }
    }

    /// Takes one ready message out, wherever it stands, as if it were delivered; false if it is not ready.
    pub fn take_out(&mut self, position: u64) -> bool {
        let range = position..position + 1;
        let returned = self.returns.members().contains(position);
        let Some(log) = self.log(position).filter(|log| returned || log.ready().contains(position)) else {
            return false;
        };
        // The disk may have lost it, and what has expired only waits to be at the head: it goes nowhere else.
        if !log.lost(range.clone()).is_empty() || log.is_spoiled(position) {
            return false;
        }
        self.discount(&range);
        if returned {
            self.returns.remove(&std::iter::once(range).collect());
        } else if let Some(log) = self.log_mut(position) {
            log.withdraw(range);
        }
        self.unacked += 1;
        // What stood behind it may have waited to be at the head.
        self.drop_spoiled();
        true
    }

    /// Puts back what was taken out, as if it had stayed: it counts as no delivery, and is among the others again.
    pub fn put_in(&mut self, position: u64, now_ms: u64, effects: &mut Effects<T>) {
        let range = position..position + 1;
        self.release(None, &range);
        self.expire(now_ms);
        self.make_ready(range, false);
        self.drop_head();
        self.dispatch(effects);
    }

    /// Messages are no longer among the ready ones' octets.
    fn discount(&mut self, range: &Range<u64>) {
        if self.shared.count_bodies {
            let bytes = self.log(range.start).map_or(0, |log| log.body_bytes(range.clone()));
            self.ready_bytes = self.ready_bytes.saturating_sub(bytes);
        }
    }

    fn drop_ready(&mut self, range: Range<u64>, reason: Reason) {
        self.withdraw(&range);
        self.die(range, reason);
    }

    /// Counts the ready messages' bodies anew.
    fn count_ready_bytes(&mut self) {
        self.ready_bytes = 0;
        if self.shared.count_bodies {
            let levels = self.levels.iter().flat_map(|log| log.ready().iter().map(move |range| (log, range)));
            let returned = self.returns.members().iter().filter_map(|range| Some((self.log(range.start)?, range)));
            self.ready_bytes = levels.chain(returned).map(|(log, range)| log.body_bytes(range)).sum();
        }
        self.shared.averaged = self.shared.averaged && self.ready() > 0;
    }

    /// What left memory counts by averages, which change when blocks come back or become one; so that this adds up to
    /// nothing, all is counted anew with each block read and each commit, but not while all is in memory.
    fn recount_averages(&mut self) {
        if self.shared.count_bodies && self.shared.averaged {
            self.count_ready_bytes();
        }
    }

    // ── Settling ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Gives the ticket back once everything that was asked of the queue before is on disk.
    pub fn wait(&mut self, ticket: T) {
        self.waiting.push(ticket);
    }

    /// Settles deliveries, or what was taken out and has no key: they are done.
    pub fn settle(&mut self, key: Option<ConsumerKey>, range: Range<u64>, now_ms: u64, effects: &mut Effects<T>) {
        self.release(key, &range);
        if self.rules.quorum && key.is_some() {
            self.count_acknowledged(&range);
        }
        self.settle_positions(range);
        self.expire(now_ms);
        self.dispatch(effects);
    }

    /// Only a quorum queue knows how often its messages went out.
    fn count_acknowledged(&mut self, range: &Range<u64>) {
        let mut position = range.start;
        while position < range.end {
            let (tally, until) = self.tallies.at(position, range.end);
            self.ends.acknowledge(until - position, 1 + u64::from(tally.acquired));
            position = until;
        }
    }

    /// How messages ended since this was last asked, if any did.
    pub fn take_ends(&mut self) -> Option<Ends> {
        (!self.ends.is_empty()).then(|| std::mem::take(&mut self.ends))
    }

    /// Rejects deliveries for good: they are dead. `failed`: that counts as a failed delivery.
    pub fn reject(&mut self, key: ConsumerKey, range: Range<u64>, failed: bool, now_ms: u64, effects: &mut Effects<T>) {
        self.release(Some(key), &range);
        if failed && self.rules.dead_letters {
            self.tallies.returned(range.clone(), true);
        }
        self.die(range, Reason::Rejected);
        self.expire(now_ms);
        self.dispatch(effects);
    }

    /// Puts deliveries back: to where they were or, in a quorum queue, behind those that came back before and in front
    /// of all others. `failed`: that counts as a failed delivery.
    pub fn requeue(
        &mut self,
        key: ConsumerKey,
        range: Range<u64>,
        failed: bool,
        now_ms: u64,
        effects: &mut Effects<T>,
    ) {
        self.release(Some(key), &range);
        self.expire(now_ms);
        // A classic queue counts only what its dead letters take with them.
        if self.rules.quorum || failed && self.rules.dead_letters {
            self.tallies.returned(range.clone(), failed);
            self.tallies_since.insert(range.clone());
        }
        #[cfg(test)]
        let again = range.clone();
        for part in self.not_over_the_limit(range, failed) {
            match self.rules.delayed_retry.filter(|retry| retry.applies(failed)) {
                Some(retry) => self.rest(part, retry, now_ms),
                None => self.put_back(part),
            }
        }
        self.drop_head();
        self.dispatch(effects);
        #[cfg(test)]
        if planted(Bug::DoubleRequeue) {
            self.put_back(again);
            self.dispatch(effects);
        }
    }

    /// What of a range may be tried again; the rest dies of too many failures.
    fn not_over_the_limit(&mut self, range: Range<u64>, failed: bool) -> Vec<Range<u64>> {
        let Some(limit) = self.rules.delivery_limit.filter(|_| failed) else { return vec![range] };
        let mut back = Vec::new();
        let mut position = range.start;
        while position < range.end {
            let (tally, until) = self.tallies.at(position, range.end);
            if tally.failed > limit {
                self.die(position..until, Reason::DeliveryLimit);
            } else {
                back.push(position..until);
            }
            position = until;
        }
        back
    }

    /// Makes messages ready that were out, unless their time has passed meanwhile; in a quorum queue before all others.
    fn put_back(&mut self, range: Range<u64>) {
        self.make_ready(range, self.rules.quorum);
    }

    /// `returned`: they go out before all others.
    fn make_ready(&mut self, range: Range<u64>, returned: bool) {
        let lost = self.log(range.start).map_or(Vec::new(), |log| log.lost(range.clone()));
        if !lost.is_empty() {
            // The disk lost them while they were out: they can't go out again.
            let lost: Ranges = lost.into_iter().collect();
            lost.iter().for_each(|part| self.settle_positions(part));
            return lost.difference(range).into_iter().for_each(|part| self.make_ready(part, returned));
        }
        let Some(log) = self.levels.iter_mut().find(|log| log.level() == log::level(range.start)) else { return };
        let late: Ranges = log.take_overdue(range.clone()).into_iter().collect();
        let at_head = !self.rules.quorum && (self.rules.expire_at_head || !self.rules.dead_letters);
        let fresh = if at_head { vec![range.clone()] } else { late.difference(range.clone()) };
        for part in fresh {
            if self.shared.count_bodies {
                self.ready_bytes += log.body_bytes(part.clone());
            }
            match returned {
                true => self.returns.push(part),
                false => log.put_back(part),
            }
        }
        if at_head {
            late.iter().for_each(|part| log.spoil(part));
        }
        if !at_head {
            for part in late.iter() {
                self.die(part, Reason::Expired);
            }
        }
        self.drop_spoiled();
    }

    fn release(&mut self, key: Option<ConsumerKey>, range: &Range<u64>) {
        let count = range.end - range.start;
        self.unacked = self.unacked.saturating_sub(count);
        let Some(key) = key else { return };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.consumers.change(key, |consumer| consumer.unacked = consumer.unacked.saturating_sub(count));
        if let Some(left) = self.leaving.get_mut(&key) {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.leaving.remove(&key);
            }
        }
    }

    fn settle_positions(&mut self, range: Range<u64>) {
        self.tallies.remove(range.clone());
        let level = log::level(range.start);
        if let Some(log) = self.levels.iter_mut().find(|log| log.level() == level) {
            log.settle(range, &mut self.shared);
        }
    }

    /// Drops all ready messages; says how many.
    pub fn purge(&mut self) -> u64 {
        let count = self.ready();
        while let Some(range) = self.head() {
            self.withdraw(&range);
            self.settle_positions(range);
        }
        self.ready_bytes = 0;
        count
    }

    /// The queue is deleted: its consumers are cancelled, its tickets come back, its messages are forgotten.
    pub fn delete(&mut self, effects: &mut Effects<T>) -> u64 {
        let count = self.ready();
        effects.cancelled.extend(self.consumers.clear());
        effects.tickets.append(&mut self.waiting);
        effects.tickets.append(&mut self.taken);
        self.levels.iter_mut().for_each(Log::clear);
        self.returns.clear();
        self.resting.clear();
        self.dying.clear();
        self.turned_away.clear();
        self.alarms.clear();
        (self.shared.memory_bytes, self.shared.unstored_bytes, self.shared.unstored_messages) = (0, 0, 0);
        count
    }

    /// Takes other rules, while it works. Messages that are there keep their deadlines.
    pub fn change(&mut self, rules: Rules, now_ms: u64, effects: &mut Effects<T>) {
        let before = std::mem::replace(&mut self.rules, rules);
        debug_assert_eq!(
            (before.durable, before.quorum, before.priorities),
            (rules.durable, rules.quorum, rules.priorities)
        );
        self.shared.count_bodies = rules.max_length_bytes.is_some();
        self.shared.memory_max = rules.memory_bytes;
        if rules.max_length_bytes.is_some() && before.max_length_bytes.is_none() {
            self.count_ready_bytes();
        }
        if rules.expires_ms != before.expires_ms {
            self.used_at_ms = now_ms;
        }
        if !rules.dead_letters {
            for Dying { range, .. } in std::mem::take(&mut self.dying) {
                self.settle_positions(range);
            }
            self.turned_away.clear();
        }
        self.drop_head();
        self.expire(now_ms);
        self.dispatch(effects);
    }

    // ── The store ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// The block that was asked for: its first position and its messages; `None` if there is none (any more).
    /// Says how many messages were lost: they should have been there and were not.
    pub fn loaded(&mut self, load: Load, block: Option<(u64, Arc<Run>)>, now_ms: u64, effects: &mut Effects<T>) -> u64 {
        self.loading = false;
        let level = log::level(load.position);
        let mut lost = 0;
        if let Some(log) = self.levels.iter_mut().find(|log| log.level() == level) {
            for gap in log.loaded(load, block, &mut self.shared) {
                lost += gap.end - gap.start;
                self.lose(gap);
            }
        }
        self.recount_averages();
        self.expire(now_ms);
        self.drop_head();
        self.dispatch(effects);
        if self.shared.memory_bytes > self.shared.memory_max {
            self.pin();
            for log in &mut self.levels {
                log.evict_delivered(&mut self.shared);
            }
        }
        lost
    }

    /// What is dead or came back goes out next, wherever it stands: it is not to leave memory once it was read.
    fn pin(&mut self) {
        let dying = self.dying.front().map(|dying| dying.range.start);
        self.shared.pinned = [dying, self.returns.first().map(|range| range.start)];
    }

    /// Forgets messages that the disk has lost. Those that are out, or rest, are settled when they come back.
    fn lose(&mut self, gap: Range<u64>) {
        let mut lost: Ranges =
            self.log(gap.start).map_or(Vec::new(), |log| log.ready().intersection(gap.clone())).into_iter().collect();
        self.returns.members().intersection(gap.clone()).into_iter().for_each(|part| lost.insert(part));
        self.returns.remove(&lost);
        let gap: Ranges = std::iter::once(gap).collect();
        for Dying { range, reason } in std::mem::take(&mut self.dying) {
            gap.intersection(range.clone()).into_iter().for_each(|part| lost.insert(part));
            self.dying.extend(gap.difference(range).into_iter().map(|range| Dying { range, reason }));
        }
        for part in lost.iter() {
            if let Some(log) = self.log_mut(part.start) {
                log.withdraw(part.clone());
            }
            self.settle_positions(part);
        }
    }

    /// Whether [`State::take`] has something to hand over.
    pub fn dirty(&self) -> bool {
        !self.waiting.is_empty()
            || self.shared.unstored_messages > 0
            || self.rules.durable && !self.tallies_since.is_empty()
            || self.levels.iter().any(|log| log.dirty(&self.shared))
    }

    /// What must be written now. [`State::stored`] tells that it was.
    pub fn take(&mut self) -> Commit {
        self.taken.append(&mut self.waiting);
        let mut commit = Commit::default();
        let consumed = !self.consumers.is_empty();
        commit.levels.extend(self.levels.iter_mut().map(|log| log.take(consumed, &mut self.shared)));
        (self.shared.unstored_bytes, self.shared.unstored_messages) = (0, 0);
        let since = std::mem::take(&mut self.tallies_since);
        if self.rules.durable && !since.is_empty() {
            self.tally_rows += 1;
            if self.tally_rows > TALLY_ROWS_MAX {
                self.tally_rows = 1;
                commit.tallies_all = Some(self.kept_tallies(self.tallies.iter().map(|(range, _)| range)));
            } else {
                commit.tallies = self.kept_tallies(since.iter());
            }
        }
        commit
    }

    /// The tallies of messages that a restart brings back. Positions of others may be given to new ones then.
    fn kept_tallies(&self, ranges: impl Iterator<Item = Range<u64>>) -> Vec<(Range<u64>, Tally)> {
        let kept = |range: Range<u64>| self.log(range.start).map_or(Vec::new(), |log| log.kept(range));
        ranges.flat_map(kept).flat_map(|range| self.tallies.within(range)).collect()
    }

    /// What [`State::take`] gave out is on disk.
    pub fn stored(&mut self, now_ms: u64, effects: &mut Effects<T>) {
        effects.tickets.append(&mut self.taken);
        self.pin();
        for log in &mut self.levels {
            log.stored(&mut self.shared);
        }
        self.recount_averages();
        self.expire(now_ms);
        self.dispatch(effects);
    }

    /// Whether anything of it may be on disk.
    pub fn has_rows(&self) -> bool {
        self.shared.memory_bytes > 0 || self.levels.iter().any(Log::used)
    }

    /// The marks of a queue at rest: after them a restart knows exactly what was delivered.
    pub fn final_marks(&mut self) -> Vec<(u8, Mark)> {
        if !self.rules.durable {
            return Vec::new();
        }
        self.levels.iter_mut().filter_map(|log| Some((log.level(), log.final_mark()?))).collect()
    }
}

/// A part of a run as one of its own.
fn slice(run: &Arc<Run>, range: Range<usize>) -> Arc<Run> {
    if range.len() == run.count() as usize {
        return Arc::clone(run);
    }
    let index = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    Arc::new(run.slice(index(range.start)..index(range.end)))
}

/// The messages of a run from `start` on, packed by level.
fn sorted(run: &Arc<Run>, levels: &[u8], start: usize) -> Vec<(u8, Arc<Run>)> {
    let Some(&first) = levels.get(start) else { return Vec::new() };
    if levels[start..].iter().all(|level| *level == first) {
        return vec![(first, slice(run, start..levels.len()))];
    }
    let traits = Traits { persistent: run.persistent(), expires: run.expires(), prioritised: true };
    let mut packers: BTreeMap<u8, Packer> = BTreeMap::new();
    for (index, level) in (0..).zip(levels).skip(start) {
        packers.entry(*level).or_default().push(&run.message(index), traits);
    }
    packers.into_iter().map(|(level, mut packer)| (level, Arc::new(packer.finish()))).collect()
}

/// The queue, or the wish, is exclusive to one consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse;

#[cfg(test)]
mod tests;
