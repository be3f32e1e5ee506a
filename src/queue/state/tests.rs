//! The machine against a naive queue and a disk that forgets what was not synced.
//!
//! Which consumer gets a message and when is the machine's choice, since a message may have to be read or marked first.
//! So what it delivers drives the model: each delivery must be the one that was to come next.

mod browse;
mod delays;
mod disk;
mod model;

use super::*;
use crate::message::{Marks, Message, Packer, Traits};
use crate::queue::consumer::{Terms, Way};
use crate::queue::settings::Retried;
use disk::Disk;
use model::{Fate, Model, New, Out};
use proptest::prelude::*;

#[derive(Debug)]
struct Harness {
    model: Model,
    state: State<u64>,
    disk: Disk,
    /// The disk without the commit under way.
    synced: Disk,
    committing: bool,
    consumers: BTreeMap<ConsumerKey, Terms>,
    /// Those whose client has enough.
    held: BTreeSet<ConsumerKey>,
    ways: BTreeMap<ConsumerKey, Arc<Way>>,
    /// Terms of all that ever were.
    terms: BTreeMap<ConsumerKey, Terms>,
    tickets: BTreeMap<u64, Vec<u64>>,
    next_key: u64,
    next_ticket: u64,
    load: Option<Load>,
    used_at_ms: u64,
    retry_ms: Option<u64>,
    restarted: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        messages: Vec<New>,
        persistent: bool,
        failed: u32,
    },
    Consume {
        prefetch: u32,
        no_ack: bool,
        priority: i64,
    },
    Cancel(usize),
    /// A consumer's client has enough for now, or has taken most of it.
    Hold(usize),
    Resume(usize),
    Settle {
        at: usize,
        count: u64,
        how: How,
    },
    SettleAll(How),
    Written,
    Get {
        no_ack: bool,
    },
    Purge,
    /// One message, wherever it stands.
    TakeOut(usize),
    /// Time goes on; the machine may be told.
    Wait {
        ms: u64,
        tick: bool,
    },
    Change(Changes),
    /// Dead letters are handed on, as many as are taken; with the others, later.
    Hand {
        taken: usize,
    },
    Take,
    Stored,
    Load,
    Crash {
        synced: bool,
    },
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum How {
    Ack,
    Reject { failed: bool },
    Requeue { failed: bool },
}

/// Rules that may change while a queue works.
#[derive(Debug, Clone, Copy, Default)]
struct Changes {
    memory_bytes: usize,
    message_ttl_ms: Option<u64>,
    expires_ms: Option<u64>,
    max_length: Option<u64>,
    max_length_bytes: u64,
    overflow: Overflow,
    dead_letters: bool,
    delivery_limit: Option<u32>,
    delayed_retry: Option<DelayedRetry>,
}

impl Changes {
    fn apply(self, rules: Rules) -> Rules {
        Rules {
            memory_bytes: self.memory_bytes,
            message_ttl_ms: self.message_ttl_ms,
            expires_ms: self.expires_ms,
            max_length: self.max_length,
            // Bodies are counted always or never, or nobody could say how large they are that were not.
            max_length_bytes: rules.max_length_bytes.map(|_| self.max_length_bytes),
            overflow: self.overflow,
            dead_letters: self.dead_letters,
            delivery_limit: self.delivery_limit.filter(|_| rules.quorum),
            delayed_retry: self.delayed_retry.filter(|_| rules.quorum),
            ..rules
        }
    }
}

/// The properties of a message as they are on the wire.
fn properties(new: &New) -> Vec<u8> {
    let flag = |set: bool, flag: u16| if set { flag } else { 0 };
    let flags = flag(new.priority.is_some(), 1 << 11) | flag(new.ttl_ms.is_some(), 1 << 8);
    let mut octets = flags.to_be_bytes().to_vec();
    octets.extend(new.priority);
    if let Some(ttl_ms) = new.ttl_ms.map(|ttl_ms| ttl_ms.to_string()) {
        octets.push(u8::try_from(ttl_ms.len()).unwrap());
        octets.extend_from_slice(ttl_ms.as_bytes());
    }
    octets
}

fn run(first: u64, messages: &[New], persistent: bool) -> Arc<Run> {
    let mut packer = Packer::default();
    for (number, new) in (first..).zip(messages) {
        let mut body = number.to_be_bytes().to_vec();
        body.resize(8 + new.bytes, 0);
        let message = Message {
            address: &[0, 0],
            exchange: b"",
            routing_key: b"",
            marks: Marks::NONE,
            properties: &properties(new),
            body: &body,
        };
        packer
            .push(&message, Traits { persistent, expires: new.ttl_ms.is_some(), prioritised: new.priority.is_some() });
    }
    Arc::new(packer.finish())
}

fn number(run: &Run, index: u32) -> u64 {
    u64::from_be_bytes(*run.message(index).body.first_chunk().unwrap())
}

fn outs(delivery: &Delivery) -> impl Iterator<Item = Out> {
    (0..delivery.count).map(|offset| Out {
        consumer: delivery.consumer,
        position: delivery.first + u64::from(offset),
        number: number(&delivery.run, delivery.index + offset),
        redelivered: delivery.redelivered,
        tally: delivery.tally,
    })
}

/// Long ago, but not at once.
const START_MS: u64 = 1000;

/// Rules under which nothing is dropped.
fn without_limits(rules: Rules) -> Rules {
    Rules { max_length: None, max_length_bytes: None, ..rules }
}

impl Harness {
    fn new(rules: Rules) -> Self {
        Self {
            model: Model::new(rules, START_MS),
            state: State::new(rules, START_MS),
            disk: Disk::default(),
            synced: Disk::default(),
            committing: false,
            consumers: BTreeMap::new(),
            held: BTreeSet::new(),
            ways: BTreeMap::new(),
            terms: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next_key: 0,
            next_ticket: 0,
            load: None,
            used_at_ms: START_MS,
            retry_ms: None,
            restarted: false,
        }
    }

    /// What the machine decided, but for deliveries, which are given back.
    fn effects(&mut self, effects: Effects<u64>) -> VecDeque<Out> {
        for ticket in effects.tickets {
            for position in self.tickets.remove(&ticket).expect("a ticket comes back once") {
                if let Some(known) = self.model.messages.get_mut(&position) {
                    known.confirmed = true;
                }
            }
        }
        if let Some(load) = effects.load {
            assert!(self.load.replace(load).is_none(), "one load at a time");
        }
        let unused = self.model.rules.expires_ms.filter(|_| self.consumers.is_empty());
        let unused = unused.is_some_and(|expires_ms| self.used_at_ms + expires_ms <= self.model.now_ms);
        assert!(!effects.unused || unused, "the queue is used");
        effects.deliveries.iter().flat_map(outs).collect()
    }

    fn deliver_all(&mut self, outs: impl IntoIterator<Item = Out>) {
        outs.into_iter().for_each(|out| self.deliver(out));
    }

    fn deliver(&mut self, out: Out) {
        let terms = self.terms[&out.consumer];
        assert!(self.credit(out.consumer), "more than the prefetch limit");
        if self.model.rules.single_active_consumer {
            assert_eq!(self.state.active_consumer(), Some(out.consumer), "only the active consumer gets messages");
        } else {
            let better =
                self.consumers.iter().find(|(key, other)| other.priority > terms.priority && self.credit(**key));
            assert!(better.is_none(), "a consumer of higher priority waits");
        }
        self.model.deliver(out, terms.no_ack);
    }

    /// Whether a consumer may have more messages.
    fn credit(&self, key: ConsumerKey) -> bool {
        if self.held.contains(&key) {
            return false;
        }
        let terms = self.terms[&key];
        let held = || self.model.messages.values().filter(|known| known.fate == Fate::Held(key)).count();
        terms.no_ack || terms.prefetch == 0 || held() < terms.prefetch as usize
    }

    fn step(&mut self, step: Step) {
        let mut effects = Effects::default();
        let now_ms = self.model.now_ms;
        match step {
            Step::Publish { messages, persistent, failed } => return self.publish(&messages, persistent, failed),
            Step::Consume { prefetch, no_ack, priority } => {
                self.next_key += 1;
                let key = ConsumerKey(self.next_key);
                let terms = Terms { no_ack, exclusive: false, prefetch, priority };
                let way = self.ways.entry(key).or_default();
                self.state.add_consumer(key, terms, Arc::clone(way)).unwrap();
                self.consumers.insert(key, terms);
                self.terms.insert(key, terms);
                self.state.activate(key, now_ms, &mut effects);
                self.model.expire();
            }
            Step::Cancel(at) => {
                let keys: Vec<_> = self.consumers.keys().copied().collect();
                if let Some(key) = keys.get(at % keys.len().max(1)) {
                    self.consumers.remove(key);
                    self.held.remove(key);
                    assert!(self.state.remove_consumer(*key, now_ms, &mut effects));
                    self.used_at_ms = now_ms;
                    self.model.expire();
                }
            }
            Step::Hold(at) => {
                if let Some(&key) = self.consumers.keys().nth(at % self.consumers.len().max(1))
                    && self.held.insert(key)
                {
                    self.ways[&key].add(Way::BYTES_MAX);
                }
            }
            Step::Resume(at) => {
                if let Some(&key) = self.consumers.keys().nth(at % self.consumers.len().max(1)) {
                    if self.held.remove(&key) {
                        self.ways[&key].left(Way::BYTES_MAX);
                    }
                    self.state.resume(key, now_ms, &mut effects);
                    self.model.expire();
                }
            }
            Step::Settle { at, count, how } => {
                let held = self.model.held();
                if let Some(&(first, consumer)) = held.get(at % held.len().max(1)) {
                    let next = |(position, other): &&(u64, ConsumerKey)| *position >= first && *other == consumer;
                    let run = held.iter().filter(next).zip(first..first + count);
                    let count = run.take_while(|((position, _), expected)| position == expected).count() as u64;
                    self.settle(consumer, first..first + count, how);
                }
            }
            Step::SettleAll(how) => {
                for (position, consumer) in self.model.held() {
                    // What was delivered meanwhile may be held anew.
                    if [Fate::Held(consumer), Fate::TakenOut].contains(&self.model.messages[&position].fate) {
                        self.settle(consumer, position..position + 1, how);
                    }
                }
            }
            Step::Written => {
                for key in self.consumers.keys().copied().collect::<Vec<_>>() {
                    self.model.expire();
                    let mut effects = Effects::default();
                    self.state.written(key, WINDOW_MESSAGES, WINDOW_BYTES * 2, now_ms, &mut effects);
                    let outs = self.effects(effects);
                    self.deliver_all(outs);
                }
            }
            Step::Get { no_ack } => {
                let got = self.state.get(no_ack, now_ms, &mut effects);
                self.used_at_ms = now_ms;
                self.model.expire();
                let waiting = self.committing || self.state.dirty() || self.load.is_some() || effects.load.is_some();
                match got {
                    Got::Empty => assert_eq!(self.model.head(), None),
                    Got::Wait => assert!(waiting, "a wait has an end"),
                    Got::Message { delivery, ready } => {
                        outs(&delivery).for_each(|out| self.model.deliver(out, no_ack));
                        assert_eq!(ready, self.model.ready());
                    }
                }
            }
            Step::Purge => {
                assert_eq!(self.state.purge(), self.model.ready());
                self.model.purge();
            }
            Step::TakeOut(at) => self.take_out(at),
            Step::Wait { ms, tick } => {
                self.model.now_ms += ms;
                if tick {
                    self.tick(&mut effects);
                }
            }
            Step::Change(changes) => {
                let rules = changes.apply(self.model.rules);
                if rules.expires_ms != self.model.rules.expires_ms {
                    self.used_at_ms = now_ms;
                }
                self.state.change(rules, now_ms, &mut effects);
                self.model.change(rules);
            }
            Step::Hand { taken } => self.hand_on(taken, &mut effects),
            Step::Take if !self.committing && self.state.dirty() => {
                self.synced = self.disk.clone();
                self.disk.write(self.state.take());
                self.model.take();
                self.committing = true;
            }
            Step::Stored if self.committing => {
                self.committing = false;
                self.model.expire();
                self.model.stored();
                self.state.stored(now_ms, &mut effects);
            }
            Step::Load => {
                if let Some(load) = self.load.take() {
                    let block = self.disk.read(load);
                    assert_eq!(self.state.loaded(load, block, now_ms, &mut effects), 0, "nothing is lost");
                    self.model.expire();
                    self.model.limit();
                }
            }
            Step::Crash { synced } if self.model.rules.durable => return self.crash(synced, false),
            Step::Restart if self.model.rules.durable => return self.restart(),
            _ => {}
        }
        let outs = self.effects(effects);
        self.deliver_all(outs);
        self.check();
    }

    fn publish(&mut self, messages: &[New], persistent: bool, failed: u32) {
        let now_ms = self.model.now_ms;
        let first = self.model.next_number;
        self.model.next_number += messages.len() as u64;
        let run = run(first, messages, persistent);
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.tickets.insert(ticket, Vec::new());
        let mut effects = Effects::default();
        let promised = self.state.accepts(&run);
        let refused = self.state.publish(&run, Some(ticket), failed, now_ms, &mut effects);
        let mut outs: VecDeque<Out> =
            effects.deliveries.drain(..).flat_map(|delivery| outs(&delivery).collect::<Vec<_>>()).collect();

        self.model.expire();
        let before = self.model.dying.len();
        let mut expected: Vec<u64> = Vec::new();
        let mut together: Vec<u64> = Vec::new();
        for (at, (number, new)) in (first..).zip(messages).enumerate() {
            if !self.model.accepts(new) {
                expected.push(number);
                continue;
            }
            let position = self.model.append(number, new, persistent, failed);
            self.tickets.entry(ticket).or_default().push(position);
            together.push(position);
            // Those of one level that follow each other come at once, unless each is asked about.
            let level = |new: &New| self.model.rules.priorities.level(new.priority);
            let follows = messages.get(at + 1).is_some_and(|next| level(next) == level(new));
            if follows && !self.model.rules.rejects() {
                continue;
            }
            while outs.front().is_some_and(|out| self.model.head() == Some(out.position)) {
                outs.pop_front().into_iter().for_each(|out| self.deliver(out));
            }
            for position in together.drain(..).filter(|_| failed > 0) {
                self.model.note_failures(position, failed);
            }
            if self.model.rules.rejects() {
                self.model.expire();
            }
        }
        assert!(outs.is_empty(), "{outs:?} are not at the head, which is {:?}", self.model.head());
        assert!(!promised || expected.is_empty(), "room was promised");
        let refused: Vec<u64> = refused.into_iter().flatten().map(|index| first + u64::from(index)).collect();
        assert_eq!(refused, expected, "what is too much is refused");
        if self.model.rules.overflow == Overflow::RejectPublishDlx && self.model.rules.dead_letters {
            self.model.turned_away.extend(expected.into_iter().map(|number| (number, failed)));
        }
        self.model.limit();
        self.model.expire();
        if self.model.rules.rejects() {
            // Messages of several levels that die within one publish do so in no particular order.
            let died = self.dying();
            let mut tail = self.model.dying.split_off(before);
            let order = |position: &u64| died.iter().position(|(other, _)| other == position);
            tail.make_contiguous().sort_by_key(order);
            self.model.dying.extend(tail);
        }
        let outs = self.effects(effects);
        self.deliver_all(outs);
        self.check();
    }

    fn settle(&mut self, consumer: ConsumerKey, positions: Range<u64>, how: How) {
        let now_ms = self.model.now_ms;
        let mut effects = Effects::default();
        let is_taken_out = |position| self.model.messages[&position].fate == Fate::TakenOut;
        if positions.clone().any(is_taken_out) {
            if positions.end - positions.start > 1 {
                return positions.for_each(|position| self.settle(consumer, position..position + 1, how));
            }
            // Redriving moves what it took out, or puts it back.
            return self.end_redrive(positions.start, matches!(how, How::Requeue { .. }));
        }
        match how {
            How::Ack => {
                self.state.settle(Some(consumer), positions.clone(), now_ms, &mut effects);
                positions.for_each(|position| self.model.settle(position));
                self.model.expire();
            }
            How::Reject { failed } => {
                self.state.reject(consumer, positions.clone(), failed, now_ms, &mut effects);
                self.model.reject(positions, failed);
                self.model.expire();
            }
            How::Requeue { failed } => {
                self.state.requeue(consumer, positions.clone(), failed, now_ms, &mut effects);
                self.model.expire();
                self.model.requeue(positions, failed);
                self.model.limit();
            }
        }
        let outs = self.effects(effects);
        self.deliver_all(outs);
    }

    fn tick(&mut self, effects: &mut Effects<u64>) {
        let now_ms = self.model.now_ms;
        self.state.tick(now_ms, effects);
        self.retry_ms = self.retry_ms.filter(|at_ms| *at_ms > now_ms);
        self.model.expire();
        self.model.rise();
        self.model.limit();
        let unused = self.model.rules.expires_ms.filter(|_| self.consumers.is_empty());
        let unused = unused.is_some_and(|expires_ms| self.used_at_ms + expires_ms <= now_ms);
        assert_eq!(effects.unused, unused, "a queue ends when nobody used it");
    }

    fn hand_on(&mut self, taken: usize, effects: &mut Effects<u64>) {
        let now_ms = self.model.now_ms;
        let dead = self.state.take_dead(effects);
        if dead.is_empty() && !self.model.dying.is_empty() && self.retry_ms.is_none() {
            assert!(self.load.is_some() || effects.load.is_some(), "the dead are there or are read");
        }
        let (mut at, mut left) = (0, taken);
        for dead in dead {
            for offset in 0..dead.count {
                let number = number(&dead.run, dead.index + offset);
                if dead.positions.is_none() {
                    assert_eq!(self.model.turned_away.pop_front(), Some((number, dead.tally.failed)));
                    assert_eq!(dead.reason, Reason::MaxLen);
                    continue;
                }
                let position = self.model.dying[at];
                let known = &self.model.messages[&position];
                assert_eq!((known.number, known.fate), (number, Fate::Dying(dead.reason)), "the dead come in order");
                assert_eq!(known.tally.failed, dead.tally.failed);
                at += 1;
            }
            let Some(positions) = dead.positions else { continue };
            if left > 0 {
                left -= 1;
                at -= dead.count as usize;
                self.state.buried(positions.clone());
                self.model.bury(positions);
            } else {
                self.state.keep_dead(now_ms);
                self.retry_ms = Some(now_ms + 500);
            }
        }
        assert!(self.model.turned_away.is_empty(), "all that were refused are handed on");
    }

    fn dying(&self) -> Vec<(u64, Reason)> {
        self.state.dying.iter().flat_map(|dying| dying.range.clone().map(|position| (position, dying.reason))).collect()
    }

    /// The machine and the model agree.
    fn check(&self) {
        let Self { model, state, .. } = self;
        assert_eq!(state.ready(), model.ready());
        assert_eq!(state.unacked(), model.held().len() as u64);
        let mut ready: Vec<u64> = state.levels.iter().flat_map(|log| log.ready().iter()).flatten().collect();
        ready.sort_unstable();
        assert_eq!(ready, model.positions(Fate::Ready));
        let returned: BTreeSet<u64> = state.returns.members().iter().flatten().collect();
        assert_eq!(returned, model.returned.iter().copied().collect());
        assert_eq!(state.returns.first().map(|range| range.start), model.returned.front().copied());
        let dying = model.dying.iter().map(|position| (*position, model.messages[position].fate));
        let dying: Vec<_> = dying.collect();
        let really: Vec<_> =
            self.dying().into_iter().map(|(position, reason)| (position, Fate::Dying(reason))).collect();
        assert_eq!(really, dying, "the dead in order");
        if model.rules.max_length_bytes.is_some() {
            assert_eq!(state.ready_bytes, model.ready_bytes(), "octets of bodies");
        }
        for (position, known) in &model.messages {
            assert_eq!(state.tallies.at(*position, position + 1).0, known.tally, "the tally of {}", known.number);
        }
        assert_eq!(
            state.has_dead(),
            !model.turned_away.is_empty() || !model.dying.is_empty() && self.retry_ms.is_none()
        );
        self.check_browse();
        self.check_time();
        self.check_progress();
    }

    /// The machine wants to be woken in time.
    fn check_time(&self) {
        let Self { model, .. } = self;
        let deadlines = model.messages.values().filter(|known| known.fate != Fate::Settled && !known.late);
        let deadlines = deadlines.filter_map(|known| known.deadline);
        let resting = model.resting().into_iter().map(|(until_ms, _)| until_ms);
        let unused = model.rules.expires_ms.filter(|_| self.consumers.is_empty());
        let unused = unused.map(|expires_ms| self.used_at_ms + expires_ms);
        if let Some(first) = deadlines.chain(resting).chain(unused).chain(self.retry_ms).min() {
            let next = self.state.next_time_ms().expect("something is to come");
            assert!(next <= first, "woken at {next}, too late for {first}");
        }
    }

    /// Whoever can have a message has it, or the machine waits for the disk.
    fn check_progress(&self) {
        if self.committing || self.load.is_some() || self.state.dirty() || self.model.head().is_none() {
            return;
        }
        let rules = &self.model.rules;
        let waits = match self.state.active_consumer() {
            _ if !rules.single_active_consumer => self.consumers.keys().any(|key| self.credit(*key)),
            Some(active) if self.consumers.contains_key(&active) => {
                let priority = self.consumers[&active].priority;
                let outranked = rules.quorum && self.consumers.values().any(|terms| terms.priority > priority);
                !outranked && self.credit(active)
            }
            // There is always one, if there are any.
            _ => !self.consumers.is_empty(),
        };
        assert!(!waits, "a consumer waits for what is there");
    }

    /// The broker ends as it should.
    fn restart(&mut self) {
        while let Some(key) = self.consumers.pop_first().map(|(key, _)| key) {
            let mut effects = Effects::default();
            assert!(self.state.remove_consumer(key, self.model.now_ms, &mut effects));
            self.used_at_ms = self.model.now_ms;
            self.model.expire();
            let outs = self.effects(effects);
            self.deliver_all(outs);
        }
        self.step(Step::SettleAll(How::Requeue { failed: false }));
        self.step(Step::Stored);
        self.disk.write(self.state.take());
        self.model.take();
        self.disk.write_marks(self.state.final_marks());
        self.committing = true;
        self.crash(true, true);
    }

    /// The broker dies; the commit under way is on disk or is not.
    fn crash(&mut self, synced: bool, graceful: bool) {
        if self.committing && synced {
            self.model.stored();
        }
        if self.committing && !synced {
            self.disk = self.synced.clone();
        }
        self.restarted = true;
        self.disk.spilled.clear();
        self.committing = false;
        (self.load, self.retry_ms) = (None, None);
        self.consumers.clear();
        self.held.clear();
        self.tickets.clear();

        self.state = self.disk.recover(self.model.rules, self.model.now_ms);
        self.model.refusing = false;
        let mut found = self.look();
        // As it was found, before anything that is too much is dropped.
        let tallies = self.disk.recover(without_limits(self.model.rules), 0).tallies;
        let model = &mut self.model;
        model.messages.retain(|position, known| {
            let back = found.remove(position);
            let settled = known.fate == Fate::Settled;
            let owed = known.persistent && !settled && (known.confirmed || graceful);
            assert!(back.is_some() || !owed, "message {} was confirmed and is lost", known.number);
            let Some(out) = back else { return false };
            assert_eq!(out.number, known.number, "a message keeps its position");
            assert!(known.persistent, "message {} is transient and came back", known.number);
            assert!(!graceful || !settled, "message {} was settled and came back", known.number);
            let flagged = known.out || known.tally != Tally::default();
            assert!(out.redelivered || !flagged, "message {} was out and is not flagged", known.number);
            let dying = matches!(known.fate, Fate::Dying(_));
            known.perhaps_out |= dying || !graceful;
            assert!(!out.redelivered || flagged || known.perhaps_out, "message {} was never out", known.number);
            let tally = tallies.at(*position, position + 1).0;
            let at_least =
                |tally: Tally, least: Tally| tally.acquired >= least.acquired && tally.failed >= least.failed;
            assert!(settled || at_least(tally, known.synced), "message {} lost count", known.number);
            assert!(settled || at_least(known.tally, tally), "message {} counts too much", known.number);
            assert!(!graceful || dying || tally == known.tally, "message {} keeps its tally", known.number);
            (known.tally, known.noted, known.taken, known.synced) = (tally, tally, tally, tally);
            (known.fate, known.late, known.gone) = (Fate::Ready, false, false);
            true
        });
        assert!(found.is_empty(), "{found:?} were settled for good, and came back");
        model.returned.clear();
        model.dying.clear();
        model.turned_away.clear();
        let next = |found: &Recovered| found.mark.next.max(found.mark.delivered_below);
        model.next = self.disk.levels().iter().map(|(level, found)| (*level, next(found))).collect();
        self.used_at_ms = self.model.now_ms;
        let mut effects = Effects::default();
        self.tick(&mut effects);
        let outs = self.effects(effects);
        self.deliver_all(outs);
        self.check();
    }

    /// What a queue that comes back from the disk has, without changing anything: by position.
    fn look(&self) -> BTreeMap<u64, Out> {
        let (mut state, mut disk) = (self.disk.recover(without_limits(self.model.rules), 0), self.disk.clone());
        let mut found = BTreeMap::new();
        let mut last = None;
        let mut effects: Effects<u64> = Effects::default();
        for _ in 0..100_000 {
            // At this time nothing has expired.
            match state.get(true, 0, &mut effects) {
                Got::Empty => return found,
                Got::Wait => {
                    if state.dirty() {
                        disk.write(state.take());
                        state.stored(0, &mut effects);
                    }
                    if let Some(load) = effects.load.take() {
                        assert_eq!(state.loaded(load, disk.read(load), 0, &mut effects), 0, "nothing is lost");
                    }
                }
                Got::Message { delivery, .. } => {
                    let order = Some((Reverse(log::level(delivery.first)), delivery.first));
                    assert!(last < order, "messages come in order");
                    last = order;
                    found.extend(outs(&delivery).map(|out| (out.position, out)));
                }
            }
        }
        panic!("the queue does not come to an end");
    }

    /// Everything that is there comes out, and nothing is left: not in memory, nor on disk.
    fn drain(&mut self) {
        while !self.consumers.is_empty() {
            self.step(Step::Cancel(0));
        }
        for _ in 0..10_000 {
            for step in [
                Step::Get { no_ack: false },
                Step::SettleAll(How::Ack),
                Step::Wait { ms: 1000, tick: true },
                Step::Hand { taken: usize::MAX },
                Step::Load,
                Step::Take,
                Step::Stored,
            ] {
                self.step(step);
            }
            if self.model.messages.values().all(|known| known.fate == Fate::Settled)
                && !self.state.dirty()
                && self.load.is_none()
            {
                let state = &self.state;
                assert_eq!((state.ready(), state.unacked(), state.dying.len(), state.resting.len()), (0, 0, 0, 0));
                assert_eq!((state.memory_bytes(), state.unstored_bytes(), state.ready_bytes), (0, 0, 0));
                assert!(state.tallies.is_empty());
                // A restart may leave blocks below the mark, which go with their files.
                assert!(
                    self.restarted || self.disk.durable.is_empty(),
                    "blocks are left: {:?}",
                    self.disk.durable.keys()
                );
                assert!(self.disk.spilled.is_empty(), "blocks are left: {:?}", self.disk.spilled.keys());
                return;
            }
        }
        panic!("the queue does not come to an end: {self:?}");
    }
}

/// Shown a line for each step.
#[derive(Clone)]
struct History {
    setup: Setup,
    steps: Vec<Step>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let steps = self.steps.iter().map(|step| format!("\n    {step:?}"));
        std::iter::once(format!("{:?}", self.setup)).chain(steps).try_for_each(|line| out.write_str(&line))
    }
}

/// What a queue is, and whether it may be restarted.
#[derive(Debug, Clone)]
struct Setup {
    rules: Rules,
    /// All messages are of this size: where bodies are counted, and some may be known by averages only.
    bytes: Option<usize>,
    restarts: bool,
}

fn some<T: std::fmt::Debug + Clone + 'static>(
    percent: u32,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    prop_oneof![
        percent => strategy.prop_map(Some),
        100 - percent => Just(None),
    ]
    .boxed()
}

fn memory() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(2_000), Just(1 << 20)]
}

fn ttl() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0u64), 4 => 1u64..60]
}

fn changes() -> impl Strategy<Value = Changes> {
    let retried = prop_oneof![Just(Retried::All), Just(Retried::Failed), Just(Retried::Returned)];
    let retry = (retried, 0u64..20, 0u64..60).prop_map(|(of, min_ms, max_ms)| DelayedRetry { of, min_ms, max_ms });
    let overflow = prop_oneof![3 => Just(Overflow::DropHead), 2 => Just(Overflow::RejectPublish), 1 => Just(Overflow::RejectPublishDlx)];
    let limits = (some(40, 0u64..8), 0u64..300, overflow);
    let times = (some(40, ttl()), some(20, 1u64..80));
    (memory(), times, limits, any::<bool>(), some(60, 0u32..4), some(40, retry)).prop_map(
        |(memory_bytes, times, limits, dead_letters, delivery_limit, delayed_retry)| Changes {
            memory_bytes,
            message_ttl_ms: times.0,
            expires_ms: times.1,
            max_length: limits.0,
            max_length_bytes: limits.1,
            overflow: limits.2,
            dead_letters,
            delivery_limit,
            delayed_retry,
        },
    )
}

fn setup() -> impl Strategy<Value = Setup> {
    let priorities = prop_oneof![3 => Just(Priorities::None), 2 => (1u8..4).prop_map(Priorities::UpTo), 3 => Just(Priorities::Quorum)];
    let flags = (prop::bool::weighted(0.9), any::<bool>(), prop::bool::weighted(0.2));
    (changes(), priorities, flags, prop::bool::weighted(0.3), any::<bool>(), 0usize..40).prop_map(
        |(changes, priorities, (durable, expire_at_head, single_active_consumer), counted, alike, bytes)| {
            let quorum = priorities == Priorities::Quorum;
            let rules = Rules {
                durable: durable || quorum,
                quorum,
                priorities,
                single_active_consumer,
                expire_at_head,
                max_length_bytes: counted.then_some(0),
                ..Rules::default()
            };
            let mut rules = changes.apply(rules);
            let differ = counted && !alike;
            if differ {
                rules.memory_bytes = 1 << 20;
            }
            Setup { rules, bytes: (counted && alike).then_some(bytes), restarts: !differ }
        },
    )
}

fn new() -> impl Strategy<Value = New> {
    let priority = prop_oneof![3 => Just(None), 2 => (0u8..6).prop_map(Some), 1 => (28u8..40).prop_map(Some)];
    (priority, some(25, ttl()), prop_oneof![Just(0usize), 0usize..600]).prop_map(|(priority, ttl_ms, bytes)| New {
        priority,
        ttl_ms,
        bytes,
    })
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Ack),
        2 => any::<bool>().prop_map(|failed| How::Reject { failed }),
        3 => any::<bool>().prop_map(|failed| How::Requeue { failed }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let failed = prop_oneof![9 => Just(0u32), 1 => 1u32..4];
    prop_oneof![
        9 => (prop::collection::vec(new(), 1..6), prop::bool::weighted(0.7), failed)
            .prop_map(|(messages, persistent, failed)| Step::Publish { messages, persistent, failed }),
        2 => (0u32..5, prop::bool::weighted(0.3), -1i64..2)
            .prop_map(|(prefetch, no_ack, priority)| Step::Consume { prefetch, no_ack, priority }),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => prop_oneof![1 => any::<usize>().prop_map(Step::Hold), 2 => any::<usize>().prop_map(Step::Resume)],
        6 => (any::<usize>(), 1u64..4, how()).prop_map(|(at, count, how)| Step::Settle { at, count, how }),
        1 => how().prop_map(Step::SettleAll),
        2 => Just(Step::Written),
        4 => prop::bool::weighted(0.3).prop_map(|no_ack| Step::Get { no_ack }),
        1 => prop_oneof![3 => Just(Step::Written), 1 => Just(Step::Purge)],
        2 => any::<usize>().prop_map(Step::TakeOut),
        4 => (prop_oneof![3 => 1u64..30, 1 => 1u64..700], prop::bool::weighted(0.7))
            .prop_map(|(ms, tick)| Step::Wait { ms, tick }),
        1 => changes().prop_map(Step::Change),
        3 => prop_oneof![3 => Just(usize::MAX), 2 => 0usize..3].prop_map(|taken| Step::Hand { taken }),
        6 => Just(Step::Take),
        6 => Just(Step::Stored),
        6 => Just(Step::Load),
        1 => any::<bool>().prop_map(|synced| Step::Crash { synced }),
        1 => prop_oneof![2 => Just(Step::Written), 1 => Just(Step::Restart)],
    ]
}

/// Histories a run; PROPTEST_CASES asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3000)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::with_cases(cases()) })]
    #[test]
    fn no_history_tells_the_machine_from_a_naive_queue(
        history in (setup(), prop::collection::vec(step(), 1..80)).prop_map(|(setup, steps)| History { setup, steps }),
    ) {
        let History { setup, steps } = history;
        let Setup { rules, bytes, restarts } = setup;
        let mut harness = Harness::new(rules);
        for mut step in steps {
            match &mut step {
                Step::Crash { .. } | Step::Restart if !restarts => continue,
                Step::Change(changes) if !restarts => changes.memory_bytes = 1 << 20,
                Step::Publish { messages, .. } => {
                    messages.iter_mut().for_each(|new| new.bytes = bytes.unwrap_or(new.bytes));
                }
                _ => {}
            }
            harness.step(step);
        }
        harness.drain();
    }
}

#[test]
fn many_deadlines_pass_step_by_step_and_nothing_late_goes_out() {
    const COUNT: u64 = 40_000;
    let rules = Rules { durable: true, memory_bytes: usize::MAX, dead_letters: true, ..Rules::default() };
    let mut state: State<u64> = State::new(rules, START_MS);
    let mut effects = Effects::default();
    for number in 0..COUNT {
        let ttl_ms = if number + 1 == COUNT { None } else { Some(1 + number) };
        let run = run(number, &[New { priority: None, ttl_ms, bytes: 0 }], true);
        state.publish(&run, None, 0, START_MS, &mut effects);
        if number % 1000 == 0 {
            // Runs become blocks, whose deadlines must not pass more slowly for it.
            state.take();
            state.stored(START_MS, &mut effects);
        }
    }
    let now_ms = START_MS + COUNT;
    let mut ticks = 0;
    loop {
        ticks += 1;
        state.tick(now_ms, &mut effects);
        if state.next_time_ms().is_none_or(|at_ms| at_ms > now_ms) {
            break;
        }
        assert!(matches!(state.get(true, now_ms, &mut effects), Got::Wait));
    }
    assert!((2..10).contains(&ticks), "{ticks} steps");
    let Got::Message { delivery, .. } = state.get(true, now_ms, &mut effects) else { panic!("one is there") };
    assert_eq!(number(&delivery.run, delivery.index), COUNT - 1);
    let dead: u64 = state.dying.iter().map(|dying| dying.range.end - dying.range.start).sum();
    assert_eq!(dead, COUNT - 1);
}

/// Whoever hands them on does so without the queue's lock; a policy may come in between.
#[test]
fn what_is_given_up_while_it_is_handed_on_is_settled_once() {
    let rules = Rules { memory_bytes: usize::MAX, dead_letters: true, ..Rules::default() };
    let mut state: State<u64> = State::new(rules, START_MS);
    let mut effects = Effects::default();
    let die = |state: &mut State<u64>, effects: &mut Effects<u64>, first: u64, now_ms: u64| {
        let new = New { priority: None, ttl_ms: Some(1), bytes: 0 };
        state.publish(&run(first, &[new.clone(), new], false), None, 0, now_ms, effects);
        state.tick(now_ms + 1, effects);
    };
    die(&mut state, &mut effects, 0, START_MS);
    let handed_on = state.take_dead(&mut effects);
    assert_eq!(handed_on.iter().map(|dead| dead.count).sum::<u32>(), 2);
    for dead_letters in [false, true] {
        state.change(Rules { dead_letters, ..rules }, START_MS + 1, &mut effects);
    }
    die(&mut state, &mut effects, 2, START_MS + 2);
    let bury = |state: &mut State<u64>, dead: Vec<Dead>| {
        dead.into_iter().filter_map(|dead| dead.positions).for_each(|positions| state.buried(positions));
    };
    bury(&mut state, handed_on);
    let next = state.take_dead(&mut effects);
    assert!(next.iter().filter_map(|dead| dead.positions.clone()).flatten().eq(2..4));
    bury(&mut state, next);
    assert!(!state.has_dead());
    assert_eq!((state.ready(), state.dying.len(), state.memory_bytes()), (0, 0, 0));
}

/// Whoever hands them on does not tell them apart.
#[test]
fn neighbours_that_died_for_different_reasons_are_settled_together() {
    let rules = Rules { memory_bytes: usize::MAX, dead_letters: true, ..Rules::default() };
    let mut state: State<u64> = State::new(rules, START_MS);
    let mut effects = Effects::default();
    let new = New { priority: None, ttl_ms: Some(1), bytes: 0 };
    state.publish(&run(0, &[new.clone(), new], false), None, 0, START_MS, &mut effects);
    assert!(matches!(state.get(false, START_MS, &mut effects), Got::Message { .. }));
    state.reject(ConsumerKey::NONE, 0..1, false, START_MS, &mut effects);
    state.tick(START_MS + 1, &mut effects);
    assert_eq!(state.take_dead(&mut effects).len(), 2);
    state.buried(0..2);
    assert!(!state.has_dead());
    assert_eq!((state.ready(), state.dying.len(), state.memory_bytes()), (0, 0, 0));
}

/// Two blocks of two messages, of which the disk loses the first.
fn lossy(rules: Rules) -> Harness {
    let mut harness = Harness::new(Rules { durable: true, memory_bytes: 1, ..rules });
    for _ in 0..2 {
        harness.step(plain(2, 0));
        harness.step(Step::Take);
        harness.step(Step::Stored);
    }
    harness
}

#[test]
fn what_the_disk_lost_stops_nobody() {
    let mut harness = lossy(Rules::default());
    let mut effects = Effects::default();
    assert!(matches!(harness.state.get(true, START_MS, &mut effects), Got::Wait));
    let load = effects.load.take().unwrap();
    let second = harness.disk.durable.pop_last();
    assert_eq!(harness.state.loaded(load, second, START_MS, &mut effects), 2);
    assert_eq!((harness.state.ready(), harness.state.unacked()), (2, 0));
}

#[test]
fn what_the_disk_lost_while_it_was_out_does_not_come_back() {
    for rules in [Rules::default(), Rules { dead_letters: true, ..Rules::default() }] {
        let mut harness = lossy(rules);
        // Both of the first block are out, and it leaves memory, since the second is read.
        for step in [Step::Get { no_ack: false }, Step::Load, Step::Get { no_ack: false }, Step::Take, Step::Stored] {
            harness.step(step);
        }
        harness.step(Step::Get { no_ack: false });
        harness.step(Step::Get { no_ack: false });
        harness.step(Step::Get { no_ack: false });
        harness.step(Step::Load);
        let mut effects = Effects::default();
        harness.state.requeue(ConsumerKey::NONE, 0..1, false, START_MS, &mut effects);
        assert!(matches!(harness.state.get(true, START_MS, &mut effects), Got::Wait));
        let load = effects.load.take().unwrap();
        assert_eq!(
            harness.state.loaded(load, None, START_MS, &mut effects),
            2,
            "both are lost, the one that is out as well"
        );
        harness.state.requeue(ConsumerKey::NONE, 1..2, false, START_MS, &mut effects);
        assert_eq!((harness.state.ready(), harness.state.unacked()), (2, 0));
        assert!(matches!(harness.state.get(true, START_MS, &mut effects), Got::Message { .. }));
    }
}

#[test]
fn what_is_on_its_way_to_a_client_is_bounded_however_many_consumers_it_has() {
    let mut state: State<u64> = State::new(Rules { memory_bytes: usize::MAX, ..Rules::default() }, START_MS);
    let mut effects = Effects::default();
    let (way, other) = (Arc::<Way>::default(), Arc::<Way>::default());
    let terms = Terms { no_ack: true, exclusive: false, prefetch: 0, priority: 0 };
    for key in 1..=100 {
        state.add_consumer(ConsumerKey(key), terms, Arc::clone(if key == 50 { &other } else { &way })).unwrap();
        state.activate(ConsumerKey(key), START_MS, &mut effects);
    }
    for number in 0..200 {
        let new = New { priority: None, ttl_ms: None, bytes: 100_000 };
        state.publish(&run(number, &[new], false), None, 0, START_MS, &mut effects);
    }
    let given: usize =
        effects.deliveries.drain(..).filter(|to| to.consumer != ConsumerKey(50)).map(|to| to.bytes).sum();
    assert!((Way::BYTES_MAX..Way::BYTES_MAX + 100_100).contains(&given), "{given}");
    assert_eq!(effects.held.len(), 99, "all but the other client's are told to wait");
    assert_eq!(state.ready(), 200 - 42 - 11, "the other client's consumer has its own window");
    way.left(given);
    for key in effects.held.drain(..) {
        state.resume(key, START_MS, &mut Effects::default());
    }
    assert!(way.is_full());
}

/// It is put back behind a message that went out without being on disk: the disk must hear of it before it goes out itself.
#[test]
fn what_is_put_back_behind_a_delivery_is_flagged_after_a_crash() {
    let mut harness = Harness::new(Rules { durable: true, memory_bytes: usize::MAX, ..Rules::default() });
    let one = |persistent| {
        let messages = vec![New { priority: None, ttl_ms: None, bytes: 0 }];
        Step::Publish { messages, persistent, failed: 0 }
    };
    for step in [
        one(true),
        Step::Take,
        Step::Stored,
        one(false),
        Step::TakeOut(0),
        Step::Get { no_ack: true },
        Step::Settle { at: 0, count: 1, how: How::Requeue { failed: false } },
        Step::Get { no_ack: false },
        Step::Crash { synced: false },
    ] {
        harness.step(step);
    }
    harness.drain();
}

/// What has expired and only waits to be at the head is there once that is taken out, and dies before what expires later.
#[test]
fn what_has_expired_behind_what_is_taken_out_dies_before_others() {
    let mut harness = Harness::new(Rules { memory_bytes: usize::MAX, ..Rules::default() });
    let late = |ttl_ms| New { priority: None, ttl_ms: Some(ttl_ms), bytes: 0 };
    for step in [
        Step::Publish { messages: vec![late(5), late(0), late(5), late(0)], persistent: false, failed: 0 },
        Step::TakeOut(0),
        Step::Wait { ms: 5, tick: false },
        Step::Change(Changes { memory_bytes: usize::MAX, dead_letters: true, ..Changes::default() }),
    ] {
        harness.step(step);
    }
    harness.drain();
}

fn plain(count: usize, bytes: usize) -> Step {
    let new = New { priority: None, ttl_ms: None, bytes };
    Step::Publish { messages: vec![new; count], persistent: true, failed: 0 }
}

#[test]
fn acknowledgements_in_any_order_reach_messages_that_left_memory() {
    let mut harness = Harness::new(Rules { durable: true, memory_bytes: 100_000, ..Rules::default() });
    let step = |harness: &mut Harness, step| {
        harness.step(step);
        harness.step(Step::Load);
        harness.step(Step::Take);
        harness.step(Step::Stored);
    };
    for _ in 0..20 {
        step(&mut harness, plain(50, 240));
    }
    while harness.state.unacked() < 300 {
        step(&mut harness, Step::Get { no_ack: false });
    }
    for at in (0..300).rev() {
        let how = if at % 3 == 0 { How::Requeue { failed: false } } else { How::Ack };
        step(&mut harness, Step::Settle { at, count: 1, how });
    }
    step(&mut harness, Step::Consume { prefetch: 0, no_ack: true, priority: 0 });
    for _ in 0..200 {
        step(&mut harness, Step::Written);
    }
    assert_eq!(harness.state.ready(), 0);
    harness.drain();
}
