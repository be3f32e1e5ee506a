//! The machine against a naive queue and a disk that forgets what was not synced.

use super::*;
use crate::message::{Marks, Message, Packer, Traits};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What is on disk: blocks by first position, apart for what need not survive; the mark; settled positions.
#[derive(Debug, Default, Clone)]
struct Disk {
    durable: BTreeMap<u64, Arc<Run>>,
    spilled: BTreeMap<u64, Arc<Run>>,
    mark: Mark,
    settled: Ranges,
}

impl Disk {
    fn write(&mut self, writes: Writes) {
        for (first, run) in writes.blocks {
            let blocks = if run.persistent() { &mut self.durable } else { &mut self.spilled };
            assert!(blocks.insert(first, run).is_none(), "a block is written once");
        }
        for (first, persistent) in writes.deleted {
            let blocks = if persistent { &mut self.durable } else { &mut self.spilled };
            assert!(blocks.remove(&first).is_some(), "only what is there is deleted");
        }
        for (range, persistent) in writes.purged {
            let blocks = if persistent { &mut self.durable } else { &mut self.spilled };
            blocks.retain(|first, _| !range.contains(first));
        }
        if let Some(mark) = writes.mark {
            self.mark = mark;
        }
        if let Some(all) = writes.settled_all {
            self.settled = all.into_iter().collect();
        }
        writes.settled.into_iter().for_each(|range| self.settled.insert(range));
    }

    fn read(&self, load: Load) -> Option<(u64, Arc<Run>)> {
        let blocks = if load.persistent { &self.durable } else { &self.spilled };
        blocks.range(load.position..load.end).next().map(|(first, run)| (*first, Arc::clone(run)))
    }

    fn recover(&self, rules: Rules) -> State<u64> {
        let mut mark = self.mark.clone();
        if let Some((first, run)) = self.durable.last_key_value() {
            mark.next = mark.next.max(first + u64::from(run.count()));
        }
        let low = mark.low_water;
        mark.next = mark.next.max(self.settled.iter().last().map_or(0, |range| range.end)).max(low);
        let settled = self.settled.iter().map(|range| range.start.max(low)..range.end.max(low)).collect();
        let block = self.durable.range(..=low).next_back().filter(|(first, run)| *first + u64::from(run.count()) > low);
        let first = block.or_else(|| self.durable.range(low..).next()).map_or(low, |(first, _)| *first);
        State::recovered(rules, mark, settled, first)
    }
}

/// A message as the model knows it; its number is in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ready,
    Held,
    Settled,
}

#[derive(Debug, Clone)]
struct Known {
    persistent: bool,
    fate: Fate,
    delivered: bool,
    confirmed: bool,
}

#[derive(Debug)]
struct Harness {
    rules: Rules,
    state: State<u64>,
    disk: Disk,
    /// The disk without the commit under way.
    synced: Disk,
    committing: bool,
    messages: BTreeMap<u64, Known>,
    /// Delivered and unsettled: number, consumer, position.
    held: Vec<(u64, ConsumerKey, u64)>,
    tickets: BTreeMap<u64, Vec<u64>>,
    consumers: BTreeMap<ConsumerKey, Terms>,
    next_consumer: u64,
    next_ticket: u64,
    pending_load: Option<Load>,
}

#[derive(Debug, Clone)]
enum Step {
    Publish { count: u64, persistent: bool, bytes: usize },
    Consume { prefetch: u32, no_ack: bool },
    Cancel(usize),
    Settle { at: usize, requeue: bool },
    SettleAll { requeue: bool },
    Written,
    Get { no_ack: bool },
    Purge,
    Take,
    Stored,
    Load,
    Crash { synced: bool },
}

fn run(first: u64, count: u64, persistent: bool, bytes: usize) -> Arc<Run> {
    let mut packer = Packer::default();
    for number in first..first + count {
        let mut body = number.to_be_bytes().to_vec();
        body.resize(8 + bytes, 0);
        let message = Message {
            address: &[0, 0],
            exchange: b"",
            routing_key: b"",
            marks: Marks::NONE,
            properties: &[0, 0],
            body: &body,
        };
        packer.push(&message, Traits { persistent, ..Traits::default() });
    }
    Arc::new(packer.finish())
}

fn number(run: &Run, index: u32) -> u64 {
    u64::from_be_bytes(*run.message(index).body.first_chunk().unwrap())
}

impl Harness {
    fn new(memory_bytes: usize, single_active_consumer: bool) -> Self {
        let rules = Rules { durable: true, memory_bytes, single_active_consumer };
        Self {
            rules,
            state: State::new(rules),
            disk: Disk::default(),
            synced: Disk::default(),
            committing: false,
            messages: BTreeMap::new(),
            held: Vec::new(),
            tickets: BTreeMap::new(),
            consumers: BTreeMap::new(),
            next_consumer: 0,
            next_ticket: 0,
            pending_load: None,
        }
    }

    fn effects(&mut self, effects: Effects<u64>) {
        for delivery in effects.deliveries {
            let terms = self.consumers[&delivery.consumer];
            for offset in 0..delivery.count {
                let position = delivery.first + u64::from(offset);
                self.delivered(number(&delivery.run, delivery.index + offset), delivery.redelivered, terms.no_ack);
                if !terms.no_ack {
                    let entry = (number(&delivery.run, delivery.index + offset), delivery.consumer, position);
                    self.held.push(entry);
                }
            }
            if terms.prefetch > 0 && !terms.no_ack {
                let held = self.held.iter().filter(|(_, consumer, _)| *consumer == delivery.consumer).count();
                assert!(held <= terms.prefetch as usize, "more than the prefetch limit");
            }
        }
        for ticket in effects.tickets {
            for number in self.tickets.remove(&ticket).expect("a ticket comes back once") {
                let message = self.messages.get_mut(&number).unwrap();
                message.confirmed = true;
            }
        }
        if let Some(load) = effects.load {
            assert!(self.pending_load.replace(load).is_none(), "one load at a time");
        }
    }

    /// Checks a delivery: the first that is ready, flagged if it was out before.
    fn delivered(&mut self, number: u64, redelivered: bool, no_ack: bool) {
        let first = self.messages.iter().find(|(_, message)| message.fate == Fate::Ready).map(|(first, _)| *first);
        assert_eq!(first, Some(number), "messages come in order");
        let message = self.messages.get_mut(&number).unwrap();
        assert!(redelivered || !message.delivered, "message {number} was out before and is not flagged");
        message.delivered = true;
        message.fate = if no_ack { Fate::Settled } else { Fate::Held };
    }

    fn step(&mut self, step: Step) {
        let mut effects = Effects::default();
        match step {
            Step::Publish { count, persistent, bytes } => {
                let first = self.messages.last_key_value().map_or(0, |(last, _)| last + 1);
                let known = Known { persistent, fate: Fate::Ready, delivered: false, confirmed: false };
                self.messages.extend((first..first + count).map(|number| (number, known.clone())));
                self.next_ticket += 1;
                self.tickets.insert(self.next_ticket, (first..first + count).collect());
                self.state.publish(run(first, count, persistent, bytes), Some(self.next_ticket), &mut effects);
            }
            Step::Consume { prefetch, no_ack } => {
                self.next_consumer += 1;
                let key = ConsumerKey(self.next_consumer);
                let terms = Terms { no_ack, exclusive: false, prefetch, priority: 0 };
                self.state.add_consumer(key, terms).unwrap();
                self.consumers.insert(key, terms);
                self.state.activate(key, &mut effects);
            }
            Step::Cancel(at) => {
                let keys: Vec<_> = self.consumers.keys().copied().collect();
                if let Some(key) = keys.get(at % keys.len().max(1)) {
                    self.state.remove_consumer(*key, &mut effects);
                }
                // Its terms stay, for what is on its way.
            }
            Step::Settle { at, requeue } if !self.held.is_empty() => {
                let (number, consumer, position) = self.held.remove(at % self.held.len());
                self.messages.get_mut(&number).unwrap().fate = if requeue { Fate::Ready } else { Fate::Settled };
                if requeue {
                    self.state.requeue(Some(consumer), position..position + 1, &mut effects);
                } else {
                    self.state.settle(Some(consumer), position..position + 1, &mut effects);
                }
            }
            Step::SettleAll { requeue } => {
                for (number, consumer, position) in std::mem::take(&mut self.held) {
                    self.messages.get_mut(&number).unwrap().fate = if requeue { Fate::Ready } else { Fate::Settled };
                    let mut effects = Effects::default();
                    if requeue {
                        self.state.requeue(Some(consumer), position..position + 1, &mut effects);
                    } else {
                        self.state.settle(Some(consumer), position..position + 1, &mut effects);
                    }
                    self.effects(effects);
                }
            }
            Step::Written => {
                for key in self.consumers.keys().copied().collect::<Vec<_>>() {
                    let mut effects = Effects::default();
                    self.state.written(key, WINDOW_MESSAGES, WINDOW_BYTES * 2, &mut effects);
                    self.effects(effects);
                }
            }
            Step::Get { no_ack } => match self.state.get(no_ack, &mut effects) {
                Got::Empty => assert!(self.messages.values().all(|message| message.fate != Fate::Ready)),
                Got::Wait => {}
                Got::Message { delivery, ready } => {
                    let number = number(&delivery.run, delivery.index);
                    self.delivered(number, delivery.redelivered, no_ack);
                    if !no_ack {
                        self.held.push((number, ConsumerKey::NONE, delivery.first));
                    }
                    assert_eq!(ready, self.count(Fate::Ready));
                }
            },
            Step::Purge => {
                assert_eq!(self.state.purge(), self.count(Fate::Ready));
                for message in self.messages.values_mut().filter(|message| message.fate == Fate::Ready) {
                    message.fate = Fate::Settled;
                }
            }
            Step::Take if !self.committing && self.state.dirty() => {
                self.synced = self.disk.clone();
                self.disk.write(self.state.take());
                self.committing = true;
            }
            Step::Stored if self.committing => {
                self.committing = false;
                self.synced = self.disk.clone();
                self.state.stored(&mut effects);
            }
            Step::Load => {
                if let Some(load) = self.pending_load.take() {
                    let block = self.disk.read(load);
                    assert_eq!(self.state.loaded(load, block, &mut effects), 0, "nothing is lost");
                }
            }
            Step::Crash { synced } => return self.crash(synced),
            _ => {}
        }
        self.effects(effects);
        assert_eq!(self.state.ready(), self.count(Fate::Ready));
        assert_eq!(self.state.unacked(), self.held.len() as u64);
    }

    fn count(&self, fate: Fate) -> u64 {
        self.messages.values().filter(|message| message.fate == fate).count() as u64
    }

    /// The broker dies; the commit under way is on disk or is not.
    fn crash(&mut self, synced: bool) {
        if self.committing && !synced {
            self.disk = self.synced.clone();
        }
        self.disk.spilled.clear();
        self.committing = false;
        self.pending_load = None;
        self.consumers.clear();
        self.held.clear();
        self.tickets.clear();
        self.state = self.disk.recover(self.rules);
        let back = self.drain_all(true);
        for (number, message) in &mut self.messages {
            let is_back = back.contains(number);
            let owed = message.persistent && message.confirmed && message.fate != Fate::Settled;
            assert!(is_back || !owed, "message {number} was confirmed and is lost");
            assert!(!is_back || message.persistent, "message {number} is transient and came back");
            message.fate = if is_back { Fate::Ready } else { Fate::Settled };
        }
    }

    /// Takes everything ready by basic.get; with `peek` from a copy, so that nothing changes.
    fn drain_all(&mut self, peek: bool) -> BTreeSet<u64> {
        let (mut state, mut disk) = if peek {
            (self.disk.recover(self.rules), self.disk.clone())
        } else {
            (std::mem::replace(&mut self.state, State::new(self.rules)), self.disk.clone())
        };
        let mut numbers = BTreeSet::new();
        let mut load = self.pending_load.take().filter(|_| !peek);
        let mut committing = self.committing && !peek;
        for _ in 0..100_000 {
            let mut effects: Effects<u64> = Effects::default();
            if committing {
                state.stored(&mut effects);
                committing = false;
            }
            if let Some(load) = load.take().or_else(|| effects.load.take()) {
                let block = disk.read(load);
                assert_eq!(state.loaded(load, block, &mut effects), 0, "nothing is lost");
            }
            let got = state.get(true, &mut effects);
            load = effects.load.take();
            match got {
                Got::Empty => return numbers,
                Got::Wait => {
                    if state.dirty() {
                        disk.write(state.take());
                        committing = true;
                    }
                }
                Got::Message { delivery, .. } => {
                    let number = number(&delivery.run, delivery.index);
                    assert!(numbers.last().is_none_or(|last| *last < number), "messages come in order");
                    let known = &self.messages[&number];
                    assert!(delivery.redelivered || !known.delivered, "message {number} was out and is not flagged");
                    numbers.insert(number);
                }
            }
        }
        panic!("the queue does not come to an end");
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u64..6, prop::bool::weighted(0.7), prop_oneof![Just(0usize), 0usize..600])
            .prop_map(|(count, persistent, bytes)| Step::Publish { count, persistent, bytes }),
        2 => (0u32..5, any::<bool>()).prop_map(|(prefetch, no_ack)| Step::Consume { prefetch, no_ack }),
        1 => any::<usize>().prop_map(Step::Cancel),
        6 => (any::<usize>(), prop::bool::weighted(0.3)).prop_map(|(at, requeue)| Step::Settle { at, requeue }),
        1 => any::<bool>().prop_map(|requeue| Step::SettleAll { requeue }),
        2 => Just(Step::Written),
        4 => any::<bool>().prop_map(|no_ack| Step::Get { no_ack }),
        1 => Just(Step::Purge),
        6 => Just(Step::Take),
        6 => Just(Step::Stored),
        6 => Just(Step::Load),
        1 => any::<bool>().prop_map(|synced| Step::Crash { synced }),
    ]
}

/// Histories a run; PROPTEST_CASES asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn no_history_loses_doubles_or_disorders_messages(
        memory_bytes in prop_oneof![Just(1usize), Just(2_000), Just(1 << 20)],
        single_active in prop::bool::weighted(0.2),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut harness = Harness::new(memory_bytes, single_active);
        for step in steps {
            harness.step(step);
        }
        let expected: BTreeSet<u64> =
            harness.messages.iter().filter(|(_, message)| message.fate == Fate::Ready).map(|(number, _)| *number).collect();
        // Without consumers everything that is ready comes by basic.get.
        for key in harness.consumers.keys().copied().collect::<Vec<_>>() {
            let mut effects = Effects::default();
            harness.state.remove_consumer(key, &mut effects);
            assert!(effects.deliveries.is_empty() || !expected.is_empty());
            harness.effects(effects);
        }
        let expected: BTreeSet<u64> =
            harness.messages.iter().filter(|(_, message)| message.fate == Fate::Ready).map(|(number, _)| *number).collect();
        prop_assert_eq!(harness.drain_all(false), expected);
    }
}

#[test]
fn acknowledgements_in_any_order_reach_messages_that_left_memory() {
    let mut harness = Harness::new(100_000, false);
    for _ in 0..100 {
        harness.step(Step::Publish { count: 200, persistent: true, bytes: 40 });
        harness.step(Step::Take);
        harness.step(Step::Stored);
    }
    while harness.held.len() < 3000 {
        harness.step(Step::Get { no_ack: false });
        harness.step(Step::Load);
        harness.step(Step::Take);
        harness.step(Step::Stored);
    }
    for at in (0..3000).rev() {
        harness.step(Step::Settle { at, requeue: at % 3 == 0 });
        harness.step(Step::Take);
        harness.step(Step::Stored);
    }
    harness.step(Step::Consume { prefetch: 0, no_ack: true });
    for _ in 0..2000 {
        harness.step(Step::Written);
        harness.step(Step::Load);
        harness.step(Step::Take);
        harness.step(Step::Stored);
    }
    assert_eq!(harness.count(Fate::Ready), 0);
}
