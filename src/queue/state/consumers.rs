//! The consumers of a queue, and whose turn it is.
//!
//! Consumers of a higher priority go first, equals take turns. Those that may be able to take something stand in line; one
//! that can take nothing when its turn comes leaves the line, and joins it again at its end as soon as it can
//! (`rabbit_queue_consumers:unblock`). So whose turn it is costs the same however many consumers there are.

use super::{WINDOW_BYTES, WINDOW_MESSAGES};
use crate::queue::consumer::{ConsumerKey, Terms, Way};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// So many equals in line are asked whether they can take something; of more it is taken for granted.
const ASKED_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Consumer {
    terms: Terms,
    /// Not yet told that it consumes: nothing goes to it before its consume-ok.
    active: bool,
    /// Its client's way was full when its turn came: it gets nothing until it is told to go on.
    held: bool,
    way: Arc<Way>,
    /// Its place in line: the number of the turn after which it joined.
    turn: Option<u64>,
    pub unacked: u32,
    /// On the way to the socket.
    window_messages: u32,
    window_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Consumers {
    /// In the order in which they came.
    all: BTreeMap<ConsumerKey, Consumer>,
    /// By priority, the highest first, and then as they came.
    ranked: BTreeSet<(Reverse<i64>, ConsumerKey)>,
    /// By priority, the highest first; those of each by their turns.
    line: BTreeMap<Reverse<i64>, BTreeMap<u64, ConsumerKey>>,
    exclusive: usize,
    /// Counts turns.
    turns: u64,
}

impl Consumer {
    pub fn credit(&self) -> u32 {
        if !self.active || self.held || self.window_bytes >= WINDOW_BYTES {
            return 0;
        }
        let window = WINDOW_MESSAGES.saturating_sub(self.window_messages);
        match self.terms.prefetch {
            0 => window,
            _ if self.terms.no_ack => window,
            prefetch => window.min(prefetch.saturating_sub(self.unacked)),
        }
    }

    pub fn activate(&mut self) {
        self.active = true;
    }

    pub fn resume(&mut self) {
        self.held = false;
    }

    /// Deliveries have left for the socket.
    pub fn written(&mut self, messages: u32, bytes: usize) {
        self.window_messages = self.window_messages.saturating_sub(messages);
        self.window_bytes = self.window_bytes.saturating_sub(bytes);
    }

    pub fn priority(&self) -> i64 {
        self.terms.priority
    }
}

impl Consumers {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn has_exclusive(&self) -> bool {
        self.exclusive > 0
    }

    pub fn add(&mut self, key: ConsumerKey, terms: Terms, way: Arc<Way>) {
        let consumer = Consumer {
            terms,
            active: false,
            held: false,
            way,
            turn: None,
            unacked: 0,
            window_messages: 0,
            window_bytes: 0,
        };
        self.all.insert(key, consumer);
        self.ranked.insert((Reverse(terms.priority), key));
        self.exclusive += usize::from(terms.exclusive);
        self.join(key);
    }

    pub fn remove(&mut self, key: ConsumerKey) -> Option<Consumer> {
        self.leave(key);
        let gone = self.all.remove(&key)?;
        self.ranked.remove(&(Reverse(gone.terms.priority), key));
        self.exclusive -= usize::from(gone.terms.exclusive);
        Some(gone)
    }

    /// Takes all of them away, and says who they were, by rank.
    pub fn clear(&mut self) -> impl Iterator<Item = ConsumerKey> {
        std::mem::take(self).ranked.into_iter().map(|(_, key)| key)
    }

    pub fn get(&self, key: ConsumerKey) -> Option<&Consumer> {
        self.all.get(&key)
    }

    /// The one that came first.
    pub fn eldest(&self) -> Option<ConsumerKey> {
        self.all.first_key_value().map(|(key, _)| *key)
    }

    /// The one that came first of those of the highest priority.
    pub fn first_ranked(&self) -> Option<ConsumerKey> {
        self.ranked.first().map(|(_, key)| *key)
    }

    /// Something happened that may let a consumer take more.
    pub fn change(&mut self, key: ConsumerKey, change: impl FnOnce(&mut Consumer)) {
        let Some(consumer) = self.all.get_mut(&key) else { return };
        change(consumer);
        if consumer.turn.is_none() && consumer.credit() > 0 {
            self.join(key);
        }
    }

    /// Whether any consumer can take something. Those whose clients have enough are `held` from then on.
    pub fn any_credit(&mut self, held: &mut Vec<ConsumerKey>) -> bool {
        self.first_able(held).is_some()
    }

    /// Whether any consumer could take something, as far as is known without asking.
    pub fn has_credit(&self) -> bool {
        self.all.values().any(|consumer| consumer.credit() > 0)
    }

    /// Whose turn it is, and how many messages it may have at most when so many are `available`. Those whose clients have
    /// enough are `held` from then on.
    pub fn next(&mut self, available: u64, held: &mut Vec<ConsumerKey>) -> Option<(ConsumerKey, u32)> {
        let (priority, key) = self.first_able(held)?;
        let equals = self.line.get(&priority)?;
        let able = match equals.len() {
            len if len <= ASKED_MAX => equals.values().filter(|key| self.credit(**key) > 0).count(),
            len => len,
        };
        // One each as long as there are few, so that turns are seen as such; more at once in a long queue.
        let share = if able == 1 { u64::MAX } else { (available / (able as u64 * 16)).clamp(1, 64) };
        Some((key, u32::try_from(share).unwrap_or(u32::MAX).min(self.credit(key))))
    }

    /// What a consumer may have now. If its client has enough it is `held` from then on.
    pub fn credit_of(&mut self, key: ConsumerKey, held: &mut Vec<ConsumerKey>) -> u32 {
        let Some(consumer) = self.all.get_mut(&key) else { return 0 };
        let credit = consumer.credit();
        if credit == 0 || !consumer.way.is_full() {
            return credit;
        }
        consumer.held = true;
        held.push(key);
        0
    }

    fn credit(&self, key: ConsumerKey) -> u32 {
        self.all.get(&key).map_or(0, Consumer::credit)
    }

    /// A consumer is given so much: others of its priority are next. Says whether that counts as acknowledged.
    pub fn served(&mut self, key: ConsumerKey, messages: u32, bytes: usize) -> bool {
        let Some(consumer) = self.all.get_mut(&key) else { return false };
        consumer.window_messages += messages;
        consumer.window_bytes += bytes;
        consumer.way.add(bytes);
        let no_ack = consumer.terms.no_ack;
        if !no_ack {
            consumer.unacked += messages;
        }
        let has_equals = self.line.get(&Reverse(consumer.terms.priority)).is_some_and(|equals| equals.len() > 1);
        if has_equals && consumer.turn.is_some() {
            self.leave(key);
            self.join(key);
        }
        no_ack
    }

    /// The first in line that can take something; those before it leave the line.
    fn first_able(&mut self, held: &mut Vec<ConsumerKey>) -> Option<(Reverse<i64>, ConsumerKey)> {
        loop {
            let (&priority, equals) = self.line.first_key_value()?;
            let key = *equals.first_key_value()?.1;
            if self.credit_of(key, held) > 0 {
                return Some((priority, key));
            }
            self.leave(key);
        }
    }

    fn join(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.all.get_mut(&key) else { return };
        self.turns += 1;
        consumer.turn = Some(self.turns);
        self.line.entry(Reverse(consumer.terms.priority)).or_default().insert(self.turns, key);
    }

    fn leave(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.all.get_mut(&key) else { return };
        let Some(turn) = consumer.turn.take() else { return };
        let priority = Reverse(consumer.terms.priority);
        if let Some(equals) = self.line.get_mut(&priority) {
            equals.remove(&turn);
            // No priority is in line without a consumer.
            if equals.is_empty() {
                self.line.remove(&priority);
            }
        }
    }
}
