//! Time: messages that expire, messages that wait, and a queue that nobody uses.

use super::{Effects, State};
use crate::amqp::properties::Properties;
use crate::message::Run;
use crate::queue::dead_letter::Reason;
use crate::queue::deadlines::Deadlines;
use crate::queue::delay::delay_ms;
use crate::queue::log::Log;
use crate::queue::ranges::Ranges;
use crate::queue::settings::DelayedRetry;
use std::ops::Range;

/// How many deadlines pass under one lock; the rest follow at once.
const PASS_MAX: usize = 16_384;

impl<T> State<T> {
    /// When [`State::tick`] is to be called, at the latest; not at all with `None`.
    pub fn next_time_ms(&self) -> Option<u64> {
        let alarm = self.alarms.first().map(|(at_ms, _)| *at_ms);
        let rested = self.resting.first_key_value().map(|((at_ms, _), _)| *at_ms);
        let unused = self.rules.expires_ms.filter(|_| self.consumers.is_empty());
        let unused = unused.map(|expires_ms| self.used_at_ms.saturating_add(expires_ms));
        [alarm, rested, unused, self.dying_retry_ms].into_iter().flatten().min()
    }

    /// Time has gone on.
    pub fn tick(&mut self, now_ms: u64, effects: &mut Effects<T>) {
        self.expire(now_ms);
        self.rise(now_ms);
        if self.dying_retry_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.dying_retry_ms = None;
        }
        let unused = self.rules.expires_ms.filter(|_| self.consumers.is_empty());
        self.drop_head();
        effects.unused = unused.is_some_and(|expires_ms| self.used_at_ms.saturating_add(expires_ms) <= now_ms);
        self.dispatch(effects);
    }

    /// Somebody used the queue, for `x-expires`: a declaration, a basic.get, a consumer that goes.
    pub fn touch(&mut self, now_ms: u64) {
        self.used_at_ms = now_ms;
    }

    /// When the messages of a run expire: the sooner of what they and the queue say. Where they are held back, when that
    /// ends; what else they say counts in the queues that they reach then.
    pub(super) fn deadlines(&self, run: &Run, now_ms: u64) -> Option<Deadlines> {
        if self.rules.delays {
            // Every one: what had none would never leave.
            return Deadlines::of((0..run.count()).map(|index| Some(now_ms.saturating_add(own_delay_ms(run, index)))));
        }
        let queue = self.rules.message_ttl_ms.map(|ttl_ms| now_ms.saturating_add(ttl_ms));
        if !run.expires() {
            return Some(Deadlines::all(queue?, run.count()));
        }
        let time = |index| {
            let own = own_ttl_ms(run, index).map(|ttl_ms| now_ms.saturating_add(ttl_ms));
            [own, queue].into_iter().flatten().min()
        };
        Deadlines::of((0..run.count()).map(time))
    }

    /// Lets deadlines pass. What is ready expires wherever it stands if somebody waits for it as a dead letter, else
    /// when it reaches the head, which is what RabbitMQ does with both.
    pub(super) fn expire(&mut self, now_ms: u64) {
        let at_head = self.rules.expire_at_head || !self.rules.dead_letters;
        let mut passed = 0;
        self.expiring = false;
        let mut late = Ranges::default();
        while let Some(&(at_ms, position)) = self.alarms.first()
            && at_ms <= now_ms
        {
            if passed == PASS_MAX {
                self.expiring = true;
                break;
            }
            passed += 1;
            self.alarms.pop_first();
            let Some(log) = self.log_mut(position) else { continue };
            let expired = log.expire(position, at_ms, at_head);
            self.alarms.extend(expired.next);
            let returned = expired.overdue.into_iter().flat_map(|range| self.returns.members().intersection(range));
            returned.for_each(|part| late.insert(part));
            for range in expired.ready {
                self.expire_ready(range);
            }
        }
        if !late.is_empty() {
            self.expire_returned(&late);
        }
        self.drop_spoiled();
    }

    fn expire_ready(&mut self, range: Range<u64>) {
        self.discount(&range);
        if let Some(log) = self.log_mut(range.start) {
            log.withdraw(range.clone());
        }
        self.die(range, Reason::Expired);
    }

    /// Messages that came back to a quorum queue expire wherever they stand: they are few.
    fn expire_returned(&mut self, late: &Ranges) {
        self.returns.remove(late);
        for range in late.iter() {
            self.discount(&range);
            if let Some(log) = self.log_mut(range.start) {
                log.take_overdue(range.clone());
            }
            self.die(range, Reason::Expired);
        }
    }

    /// Messages at the head whose time has passed expire. A classic queue has one head, whatever its priorities
    /// (`rabbit_priority_queue:dropwhile`).
    pub(super) fn drop_spoiled(&mut self) {
        for at in 0..self.levels.len() {
            while let Some(range) = self.levels[at].spoiled_head() {
                self.expire_ready(range);
            }
            if !self.rules.quorum && !self.levels[at].ready().is_empty() {
                return;
            }
        }
    }

    /// A block has a deadline. Alarms of blocks that were settled long before their time are not kept for ever.
    pub(super) fn set_alarm(&mut self, at_ms: u64, position: u64) {
        self.alarms.insert((at_ms, position));
        if self.alarms.len() > self.alarms_max {
            self.set_alarms();
        }
    }

    pub(super) fn set_alarms(&mut self) {
        /// So many may be in vain.
        const SPARE_ALARMS: usize = 1024;
        self.alarms = self.levels.iter().flat_map(Log::alarms).collect();
        self.alarms_max = 2 * self.alarms.len() + SPARE_ALARMS;
    }

    /// Messages wait before they are delivered again; longer with each failure.
    pub(super) fn rest(&mut self, range: Range<u64>, retry: DelayedRetry, now_ms: u64) {
        let mut position = range.start;
        while position < range.end {
            let (tally, until) = self.tallies.at(position, range.end);
            let delay_ms = retry.min_ms.saturating_mul(tally.failed.max(1).into()).min(retry.max_ms);
            self.resting.insert((now_ms.saturating_add(delay_ms), position), until);
            position = until;
        }
    }

    /// Messages that have waited long enough come back.
    fn rise(&mut self, now_ms: u64) {
        while let Some(entry) = self.resting.first_entry()
            && entry.key().0 <= now_ms
        {
            let ((_, position), until) = entry.remove_entry();
            self.put_back(position..until);
        }
    }
}

fn own_delay_ms(run: &Run, index: u32) -> u64 {
    let properties = Properties::parse(run.message(index).properties);
    properties.ok().and_then(|properties| delay_ms(properties.headers)).unwrap_or(0)
}

/// A message's own time to live. Its publisher was refused if it made no sense.
fn own_ttl_ms(run: &Run, index: u32) -> Option<u64> {
    let expiration = Properties::parse(run.message(index).properties).ok()?.expiration?;
    std::str::from_utf8(expiration).ok()?.trim_start_matches('+').parse().ok()
}
