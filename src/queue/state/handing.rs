//! Who gets what: consumers, their turns and their credit; basic.get.

use super::consumers::Consumer;
use super::{Effects, Got, InUse, READ_AHEAD_BYTES, State};
use crate::queue::consumer::{ConsumerKey, Delivery, Terms, Way};
use crate::queue::log::{Missing, Piece};
use crate::queue::tallies::Tally;
use std::ops::Range;
use std::sync::Arc;

/// How many messages may be on their way to a consumer's socket.
pub const WINDOW_MESSAGES: u32 = 4096;
/// How many octets of messages may be on their way to a consumer's socket before no more follow.
pub const WINDOW_BYTES: usize = 1 << 20;

impl<T> State<T> {
    /// Adds a consumer that gets nothing before [`State::activate`]. A quorum queue has no exclusive consumers: it takes
    /// the wish and does nothing about it, as RabbitMQ's do.
    /// `way`: what is on its way to the consumer's client.
    pub fn add_consumer(&mut self, key: ConsumerKey, terms: Terms, way: Arc<Way>) -> Result<(), InUse> {
        let lonely = !self.consumers.is_empty() || self.rules.single_active_consumer;
        if !self.rules.quorum && (self.consumers.has_exclusive() || terms.exclusive && lonely) {
            return Err(InUse);
        }
        self.consumers.add(key, terms, way);
        Ok(())
    }

    /// The consumer knows that it is one: deliveries may go to it.
    pub fn activate(&mut self, key: ConsumerKey, now_ms: u64, effects: &mut Effects<T>) {
        self.consumers.change(key, Consumer::activate);
        self.expire(now_ms);
        self.dispatch(effects);
    }

    /// Most of what was on its way to the consumer's client has left ([`Effects::held`]).
    pub fn resume(&mut self, key: ConsumerKey, now_ms: u64, effects: &mut Effects<T>) {
        self.consumers.change(key, Consumer::resume);
        self.expire(now_ms);
        self.dispatch(effects);
    }

    /// Takes a consumer away; its unacknowledged messages stay with its channel. Says whether it was there.
    pub fn remove_consumer(&mut self, key: ConsumerKey, now_ms: u64, effects: &mut Effects<T>) -> bool {
        let Some(gone) = self.consumers.remove(key) else { return false };
        if self.rules.quorum && gone.unacked > 0 {
            self.leaving.insert(key, gone.unacked);
        }
        self.touch(now_ms);
        self.expire(now_ms);
        self.dispatch(effects);
        true
    }

    /// The consumer that gets everything, if only one may.
    pub fn active_consumer(&self) -> Option<ConsumerKey> {
        self.rules.single_active_consumer.then_some(self.active).flatten()
    }

    /// Deliveries have left for the socket; with automatic acknowledgement that settles them.
    pub fn written(&mut self, key: ConsumerKey, messages: u32, bytes: usize, now_ms: u64, effects: &mut Effects<T>) {
        self.consumers.change(key, |consumer| consumer.written(messages, bytes));
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
        let bytes = piece.run.message_bytes(piece.index);
        let delivery = delivery(ConsumerKey::NONE, piece, position, bytes, tally);
        self.drop_spoiled();
        Got::Message { delivery, ready: self.ready() }
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
            let Some((key, share)) = self.next_consumer(head.end - head.start, effects) else { break };
            let wanted = head.start..head.end.min(head.start + u64::from(share));
            let Some((piece, tally)) = self.deliverable(wanted, effects) else { break };
            let range = head.start..head.start + u64::from(piece.count);
            let bytes =
                (piece.index..piece.index + piece.count).map(|index| piece.run.message_bytes(index)).sum::<usize>();
            let no_ack = self.consumers.served(key, piece.count, bytes);
            effects.deliveries.push(delivery(key, piece, range.start, bytes, tally));
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
    fn next_consumer(&mut self, available: u64, effects: &mut Effects<T>) -> Option<(ConsumerKey, u32)> {
        if self.rules.single_active_consumer {
            let key = self.single_active()?;
            let credit = self.consumers.credit_of(key, &mut effects.held);
            return Some((key, credit)).filter(|&(_, credit)| credit > 0);
        }
        self.consumers.next(available, &mut effects.held)
    }

    /// The single active consumer: the one that came first, until it goes. In a quorum queue one of a higher priority
    /// takes over, once the other has nothing unacknowledged (`rabbit_fifo`).
    fn single_active(&mut self) -> Option<ConsumerKey> {
        let first = if self.rules.quorum { self.consumers.first_ranked() } else { self.consumers.eldest() }?;
        let current = self.active.and_then(|key| Some((key, self.consumers.get(key)?)));
        if let Some((key, consumer)) = current {
            let priority = self.consumers.get(first)?.priority();
            let outranked = self.rules.quorum && priority > consumer.priority();
            if !outranked {
                return Some(key);
            }
            if consumer.unacked > 0 {
                return None;
            }
        }
        self.active = Some(first);
        Some(first)
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

fn delivery(consumer: ConsumerKey, piece: Piece, first: u64, bytes: usize, tally: Tally) -> Delivery {
    let Piece { run, index, count, redelivered } = piece;
    Delivery { consumer, run, index, first, count, bytes, redelivered, tally }
}
