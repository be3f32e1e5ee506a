//! Who gets what: consumers, their turns and their credit; basic.get.

use super::{Effects, Got, InUse, READ_AHEAD_BYTES, State};
use crate::queue::consumer::{ConsumerKey, Delivery, Terms};
use crate::queue::log::{Missing, Piece};
use crate::queue::tallies::Tally;
use std::ops::Range;

/// How many messages may be on their way to a consumer's socket.
pub const WINDOW_MESSAGES: u32 = 4096;
/// How many octets of messages may be on their way to a consumer's socket before no more follow.
pub const WINDOW_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Consumer {
    pub key: ConsumerKey,
    terms: Terms,
    /// Not yet told that it consumes: nothing goes to it before its consume-ok.
    active: bool,
    /// When it was last served, or could be served again: among equals the lowest is next.
    turn: u64,
    /// Its turn came when it could take nothing.
    parked: bool,
    pub unacked: u32,
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

impl<T> State<T> {
    /// Adds a consumer that gets nothing before [`State::activate`]. A quorum queue has no exclusive consumers: it takes
    /// the wish and does nothing about it, as RabbitMQ's do.
    pub fn add_consumer(&mut self, key: ConsumerKey, terms: Terms) -> Result<(), InUse> {
        let taken = self.consumers.iter().any(|consumer| consumer.terms.exclusive);
        let lonely = !self.consumers.is_empty() || self.rules.single_active_consumer;
        if !self.rules.quorum && (taken || terms.exclusive && lonely) {
            return Err(InUse);
        }
        // Sorted by priority, in order of arrival among equals.
        let at = self.consumers.partition_point(|other| other.terms.priority >= terms.priority);
        let turn = self.next_turn();
        let consumer = Consumer {
            key,
            terms,
            active: false,
            turn,
            parked: false,
            unacked: 0,
            window_messages: 0,
            window_bytes: 0,
        };
        self.consumers.insert(at, consumer);
        Ok(())
    }

    /// The consumer knows that it is one: deliveries may go to it.
    pub fn activate(&mut self, key: ConsumerKey, now_ms: u64, effects: &mut Effects<T>) {
        self.give_credit(key, |consumer| consumer.active = true);
        self.expire(now_ms);
        self.dispatch(effects);
    }

    /// Takes a consumer away; its unacknowledged messages stay with its channel. Says whether it was there.
    pub fn remove_consumer(&mut self, key: ConsumerKey, now_ms: u64, effects: &mut Effects<T>) -> bool {
        let Some(at) = self.consumers.iter().position(|consumer| consumer.key == key) else { return false };
        let gone = self.consumers.remove(at);
        if self.rules.quorum && gone.unacked > 0 {
            self.leaving.insert(key, gone.unacked);
        }
        self.touch(now_ms);
        self.expire(now_ms);
        self.dispatch(effects);
        true
    }

    pub(super) fn consumer(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|consumer| consumer.key == key)
    }

    /// Something of a consumer's was written or settled. One that could take nothing when its turn came goes behind all
    /// others of its priority, as in RabbitMQ (`rabbit_queue_consumers:unblock`).
    pub(super) fn give_credit(&mut self, key: ConsumerKey, change: impl FnOnce(&mut Consumer)) {
        let turn = self.turns + 1;
        let Some(consumer) = self.consumer(key) else { return };
        change(consumer);
        if consumer.parked && consumer.credit() > 0 {
            (consumer.parked, consumer.turn) = (false, turn);
            self.turns = turn;
        }
    }

    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// The consumer that gets everything, if only one may.
    pub fn active_consumer(&self) -> Option<ConsumerKey> {
        self.rules.single_active_consumer.then_some(self.active).flatten()
    }

    /// Deliveries have left for the socket; with automatic acknowledgement that settles them.
    pub fn written(&mut self, key: ConsumerKey, messages: u32, bytes: usize, now_ms: u64, effects: &mut Effects<T>) {
        self.give_credit(key, |consumer| {
            consumer.window_messages = consumer.window_messages.saturating_sub(messages);
            consumer.window_bytes = consumer.window_bytes.saturating_sub(bytes);
        });
        self.expire(now_ms);
        self.dispatch(effects);
    }

    /// Takes the first ready message for a basic.get.
    pub fn get(&mut self, no_ack: bool, now_ms: u64, effects: &mut Effects<T>) -> Got {
        self.touch(now_ms);
        self.expire(now_ms);
        if self.expiring {
            return Got::Wait;
        }
        let Some(wanted) = self.fresh_head() else { return Got::Empty };
        let position = wanted.start;
        let Some((piece, tally)) = self.deliverable(position..position + 1, effects) else { return Got::Wait };
        self.hand_out(position..position + 1, no_ack);
        let delivery = delivery(ConsumerKey::NONE, piece, position, tally);
        self.drop_spoiled();
        Got::Message { delivery, ready: self.ready() }
    }

    /// Whether any consumer can take messages.
    pub(super) fn any_credit(&self) -> bool {
        self.consumers.iter().any(|consumer| consumer.credit() > 0)
    }

    /// Gives ready messages to consumers with credit, in turn among those of the same priority.
    pub(super) fn dispatch(&mut self, effects: &mut Effects<T>) {
        if self.rules.single_active_consumer {
            // Whether or not there is anything for it: who is active is seen from outside.
            self.single_active();
        }
        // What has expired is not delivered, be there ever so much of it.
        while !self.consumers.is_empty() && !self.expiring {
            let Some(head) = self.fresh_head() else { break };
            let Some((at, share)) = self.next_consumer(head.end - head.start) else { break };
            let wanted = head.start..head.end.min(head.start + u64::from(share));
            let Some((piece, tally)) = self.deliverable(wanted, effects) else { break };
            let range = head.start..head.start + u64::from(piece.count);
            let bytes =
                (piece.index..piece.index + piece.count).map(|index| piece.run.message_bytes(index)).sum::<usize>();
            let consumer = &mut self.consumers[at];
            let (key, no_ack) = (consumer.key, consumer.terms.no_ack);
            consumer.window_messages += piece.count;
            consumer.window_bytes += bytes;
            if !no_ack {
                consumer.unacked += piece.count;
            }
            consumer.turn = self.turns + 1;
            self.turns += 1;
            effects.deliveries.push(delivery(key, piece, range.start, tally));
            self.hand_out(range, no_ack);
            self.drop_spoiled();
        }
        self.read_ahead(effects);
    }

    /// Messages that can go out next: at the head, and not past their time.
    fn fresh_head(&self) -> Option<Range<u64>> {
        self.returns.first().or_else(|| self.levels.iter().find_map(|log| log.head()))
    }

    /// Whose turn it is, and how many messages it may have at most when so many are `available`.
    fn next_consumer(&mut self, available: u64) -> Option<(usize, u32)> {
        if self.rules.single_active_consumer {
            let at = self.single_active()?;
            return Some((at, self.consumers[at].credit())).filter(|&(_, credit)| credit > 0);
        }
        let able = |consumer: &&Consumer| consumer.credit() > 0;
        let Some(first) = self.consumers.iter().find(able) else {
            self.consumers.iter_mut().for_each(|consumer| consumer.parked = true);
            return None;
        };
        let priority = first.terms.priority;
        let start = self.consumers.partition_point(|consumer| consumer.terms.priority > priority);
        let end = self.consumers.partition_point(|consumer| consumer.terms.priority >= priority);
        let at = (start..end).filter(|&at| able(&&self.consumers[at])).min_by_key(|&at| self.consumers[at].turn)?;
        let turn = self.consumers[at].turn;
        let (before, equals) = self.consumers[..end].split_at_mut(start);
        before.iter_mut().for_each(|consumer| consumer.parked = true);
        equals.iter_mut().filter(|consumer| consumer.turn < turn).for_each(|consumer| consumer.parked = true);
        let able = self.consumers[start..end].iter().filter(able).count() as u64;
        // One each as long as there are few, so that turns are seen as such; more at once in a long queue.
        let share = if able == 1 { u64::MAX } else { (available / (able * 16)).clamp(1, 64) };
        Some((at, u32::try_from(share).unwrap_or(u32::MAX).min(self.consumers[at].credit())))
    }

    /// The single active consumer: the one that came first, until it goes. In a quorum queue one of a higher priority
    /// takes over, once the other has nothing unacknowledged (`rabbit_fifo`).
    fn single_active(&mut self) -> Option<usize> {
        let current = self.active.and_then(|key| self.consumers.iter().position(|consumer| consumer.key == key));
        let first = match self.rules.quorum {
            // They are sorted by priority and arrival.
            true => self.consumers.first(),
            false => self.consumers.iter().min_by_key(|consumer| consumer.key),
        }?;
        let (key, priority) = (first.key, first.terms.priority);
        if let Some(at) = current {
            let outranked = self.rules.quorum && priority > self.consumers[at].terms.priority;
            if !outranked {
                return Some(at);
            }
            if self.consumers[at].unacked > 0 {
                return None;
            }
        }
        self.active = Some(key);
        self.consumers.iter().position(|consumer| consumer.key == key)
    }

    /// The longest part of `wanted` from its start that can be delivered now, all of one tally. Otherwise asks for what
    /// is missing.
    fn deliverable(&mut self, wanted: Range<u64>, effects: &mut Effects<T>) -> Option<(Piece, Tally)> {
        let (tally, until) = self.tallies.at(wanted.start, wanted.end);
        match self.log_mut(wanted.start)?.deliverable(wanted.start..until) {
            Ok(mut piece) => {
                piece.redelivered |= tally != Tally::default();
                Some((piece, if self.rules.quorum { tally } else { Tally::default() }))
            }
            Err(Missing::Block(Some(load))) if !self.loading => {
                self.loading = true;
                effects.load = Some(load);
                None
            }
            Err(_) => None,
        }
    }

    /// Moves positions from ready to unacknowledged, or to settled.
    fn hand_out(&mut self, range: Range<u64>, no_ack: bool) {
        self.withdraw(&range);
        if let Some(log) = self.log_mut(range.start) {
            log.delivered(&range);
        }
        if no_ack {
            self.settle_positions(range);
        } else {
            self.unacked += range.end - range.start;
        }
    }

    /// Asks for the next block before a consumer has to wait for it.
    fn read_ahead(&mut self, effects: &mut Effects<T>) {
        if self.loading || self.consumers.is_empty() || effects.load.is_some() {
            return;
        }
        let bytes_max = READ_AHEAD_BYTES.min(self.shared.memory_max);
        let Some(log) = self.levels.iter().find(|log| !log.ready().is_empty()) else { return };
        if let Some(load) = log.read_ahead(bytes_max) {
            self.loading = true;
            effects.load = Some(load);
        }
    }
}

fn delivery(consumer: ConsumerKey, piece: Piece, first: u64, tally: Tally) -> Delivery {
    let Piece { run, index, count, redelivered } = piece;
    Delivery { consumer, run, index, first, count, redelivered, tally }
}
