//! The shell of a classic queue: lock, apply, hand over, let go, act.
//!
//! Whoever brings something (a publisher's read, a batch of acknowledgements, the commit thread) takes the short lock,
//! lets [`State`] decide, and leaves deliveries in outboxes and itself in the store's list. Only after the lock is gone
//! does it act, through [`Acts::run`]: sockets, wake-ups, tickets.

use super::consumer::{ChannelKey, ConsumerKey, Delivery, Outlet, Terms};
use super::log;
use super::rows::{self, Read, Rows};
use super::settings::{DELIVERY_LIMIT_DEFAULT, QueueType, Settings};
use super::state::browse::Seen;
use super::state::{Commit, Dead, Effects, Got, InUse, Load, Look, Priorities, Rules, State, Writes};
use super::tallies;
use super::timer::Timer;
use crate::amqp::Table;
use crate::clock::Clock;
use crate::message::Run;
use crate::metrics::{self, Kind, STATS, Sample, Stat, Strategy, Totals, Watch};
use crate::store::{self, Batch, Durability, Source, Store};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Waits until what it was handed in with is safe.
pub trait Waiter: Send + Sync {
    /// It is safe. Called without any lock; the outlet that is given back wants to be pumped.
    fn safe(&self) -> Option<Arc<dyn Outlet>>;
    /// Some messages of the run that it was handed in with were refused. Comes before [`Waiter::safe`], under the
    /// queue's lock: it must do no more than note it.
    fn refused(&self, messages: Range<u32>);
}

/// What a queue asks of its virtual host. Called without any lock.
pub trait Host: Send + Sync + std::fmt::Debug {
    /// Hands dead letters on, in order; each is to be buried ([`Queue::buried`]) in the same write, or kept
    /// ([`Queue::keep_dead`]) with all that follow it.
    fn hand_on(&self, queue: &Arc<Queue>, dead: Vec<Dead>, acts: &mut Acts);
    /// Nobody used the queue for as long as it may be unused.
    fn unused(&self, queue: &Arc<Queue>);
}

/// What all queues of a virtual host work with.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub store: Arc<Store>,
    pub memory: Arc<Memory>,
    pub clock: Clock,
    pub timer: Arc<Timer>,
    pub host: Weak<dyn Host>,
    /// Messages expire when they reach the head, as in RabbitMQ, even if somebody waits for them as dead letters.
    pub expire_at_head: bool,
    /// What is counted of all of them.
    pub totals: Arc<Totals>,
    /// Queues for direct answers, which are counted apart.
    pub volatile: bool,
}

pub type Ticket = Arc<dyn Waiter>;

/// Octets of messages in memory, of all queues together.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    /// For all queues together.
    bytes_max: usize,
    /// For each queue while there is enough for all.
    queue_bytes_max: usize,
}

/// What each queue keeps in memory when all together hold too much.
const QUEUE_BYTES_MIN: usize = 64 << 10;

impl Memory {
    pub fn new(bytes_max: usize, queue_bytes_max: usize) -> Self {
        Self { used: AtomicUsize::new(0), bytes_max, queue_bytes_max }
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How much a queue may keep now.
    fn share(&self) -> usize {
        if self.used() > self.bytes_max { QUEUE_BYTES_MIN.min(self.queue_bytes_max) } else { self.queue_bytes_max }
    }

    fn changed(&self, before: usize, now: usize) {
        if now >= before {
            self.used.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - now, Ordering::Relaxed);
        }
    }
}

/// What a queue was declared as.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its number on disk, never used again.
    pub id: u64,
    pub vhost: Arc<str>,
    pub name: Arc<str>,
    pub durable: bool,
    pub auto_delete: bool,
    /// The connection it belongs to.
    pub exclusive: Option<u64>,
    pub arguments: Table,
    /// Who declared it.
    pub user: Arc<str>,
}

pub struct Queue {
    pub identity: Identity,
    /// What its arguments and policies say; a policy changes it.
    settings: ArcSwap<Settings>,
    /// Told when a basic.get that had to wait may be tried again.
    pub changed: tokio::sync::Notify,
    inner: Mutex<Inner>,
    around: Surroundings,
    this: Weak<Self>,
    kind: Kind,
    /// What was done with its messages.
    pub counted: metrics::Counts,
    /// The same and its lengths, as they were.
    pub watch: Watch<NUMBERS>,
    /// See [`Queue::capacity`]; the bits of it.
    capacity: AtomicU64,
}

/// How much the last look counts in [`Queue::capacity`].
const CAPACITY_SHARE: f64 = 0.3;

/// What is sampled of a queue: its counters, and behind them how many messages are ready, and out.
pub const NUMBERS: usize = STATS + 2;

struct Inner {
    state: State<Ticket>,
    effects: Effects<Ticket>,
    links: FxHashMap<ConsumerKey, Link>,
    /// In the store's list.
    noted: bool,
    deleted: bool,
    had_consumer: bool,
    /// Somebody is handing on its dead letters: one at a time, so that they stay in order.
    handing_on: bool,
    /// When the timer wakes it.
    alarm_ms: Option<u64>,
    rows: Rows,
    memory_bytes: usize,
    backlog_bytes: usize,
}

#[derive(Clone)]
struct Link {
    outlet: Arc<dyn Outlet>,
    channel: ChannelKey,
}

/// What remains to be done once no lock is held. Collect it over as many queues as one read concerns, then run it.
#[derive(Default)]
#[must_use]
pub struct Acts {
    outlets: SmallVec<[Arc<dyn Outlet>; 2]>,
    /// Where these are, as soon as they are many.
    touched: FxHashSet<usize>,
    tickets: Vec<Ticket>,
    loads: SmallVec<[(Arc<Queue>, Load); 1]>,
    wake: Option<Arc<Store>>,
    /// Queues with dead letters, with times to be woken at, and those that nobody used.
    dead: SmallVec<[Arc<Queue>; 1]>,
    alarms: SmallVec<[(Arc<Queue>, u64); 1]>,
    unused: SmallVec<[Arc<Queue>; 1]>,
}

/// So many outlets are looked through; more are told apart by a set.
const LOOKED_THROUGH_MAX: usize = 16;

impl Acts {
    fn touch(&mut self, outlet: &Arc<dyn Outlet>) {
        let address = |outlet: &Arc<dyn Outlet>| Arc::as_ptr(outlet).addr();
        let is_known = match self.outlets.len() {
            0..LOOKED_THROUGH_MAX => self.outlets.iter().any(|known| Arc::ptr_eq(known, outlet)),
            LOOKED_THROUGH_MAX => {
                self.touched.extend(self.outlets.iter().map(address));
                !self.touched.insert(address(outlet))
            }
            _ => !self.touched.insert(address(outlet)),
        };
        if !is_known {
            self.outlets.push(Arc::clone(outlet));
        }
    }

    /// Tells a ticket's owner that it is safe, at the end of the acts.
    pub fn safe(&mut self, ticket: Ticket) {
        self.tickets.push(ticket);
    }

    /// Does it. No lock may be held.
    pub fn run(self) {
        for outlet in self.begin() {
            outlet.pump();
        }
    }

    /// The same for a task that is itself in the middle of writing a socket: others write theirs.
    pub fn run_aside(self) {
        for outlet in self.begin() {
            outlet.wake();
        }
    }

    fn begin(mut self) -> SmallVec<[Arc<dyn Outlet>; 2]> {
        // Dead letters reach other queues, which may have more of them.
        while !self.dead.is_empty() {
            for queue in std::mem::take(&mut self.dead) {
                queue.hand_on(&mut self);
            }
        }
        if let Some(store) = self.wake.take() {
            store.wake();
        }
        for (queue, load) in std::mem::take(&mut self.loads) {
            queue.read(load);
        }
        for (queue, at_ms) in std::mem::take(&mut self.alarms) {
            queue.around.timer.wake_at(at_ms, queue.this.clone());
        }
        for queue in std::mem::take(&mut self.unused) {
            if let Some(host) = queue.around.host.upgrade() {
                host.unused(&queue);
            }
        }
        for ticket in std::mem::take(&mut self.tickets) {
            if let Some(outlet) = ticket.safe() {
                self.touch(&outlet);
            }
        }
        self.outlets
    }
}

/// So many batches of dead letters are handed on by whoever brought the death; the timer goes on with the rest.
const HAND_ON_BATCHES: usize = 4;

/// How a basic.get ended.
#[derive(Debug)]
pub enum Fetched {
    Message {
        delivery: Delivery,
        ready: u64,
    },
    Empty,
    /// Wait for [`Queue::changed`] and ask again.
    Wait,
    /// The queue was deleted meanwhile.
    Gone,
}

/// What basic.consume was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    Consumer,
    /// An exclusive consumer is there, or an exclusive one was wanted and others are there.
    InUse,
    Gone,
}

/// The numbers that declare-ok and listings show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub ready: u64,
    pub unacked: u64,
    pub consumers: usize,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "queue '{}' in vhost '{}'", self.identity.name, self.identity.vhost)
    }
}

impl Queue {
    /// A new, empty queue.
    pub fn new(identity: Identity, settings: Settings, around: &Surroundings) -> Arc<Self> {
        let state = State::new(rules(&identity, &settings, around), around.clock.now_ms());
        let queue = Self::with_state(identity, settings, state, Rows::default(), around);
        queue.arm();
        queue
    }

    /// A durable queue as the disk knows it.
    pub fn recover(identity: Identity, settings: Settings, around: &Surroundings) -> Result<Arc<Self>, String> {
        let id = identity.id;
        let found = around.store.recover(id).map_err(|error| error.to_string())?;
        let first_block = |low_water| around.store.block_at(id, low_water).map_err(|error| error.to_string());
        let Read { levels, tallies, rows } = rows::read(&found, first_block)?;
        let rules = rules(&identity, &settings, around);
        let state = State::recovered(rules, levels, tallies, around.clock.now_ms());
        let queue = Self::with_state(identity, settings, state, rows, around);
        queue.arm();
        Ok(queue)
    }

    /// Has the timer wake it for the first time.
    fn arm(&self) {
        let mut inner = self.inner.lock();
        let now_ms = self.around.clock.now_ms();
        // Its dead letters can go on only when the other queues are there too.
        inner.alarm_ms = if inner.state.has_dead() { Some(now_ms) } else { inner.state.next_time_ms() };
        if let Some(at_ms) = inner.alarm_ms {
            drop(inner);
            self.around.timer.wake_at(at_ms, self.this.clone());
        }
    }

    fn with_state(
        identity: Identity,
        settings: Settings,
        state: State<Ticket>,
        rows: Rows,
        around: &Surroundings,
    ) -> Arc<Self> {
        let kind = match settings.queue_type {
            _ if around.volatile => Kind::Volatile,
            QueueType::Quorum => Kind::Quorum,
            _ => Kind::Classic,
        };
        Arc::new_cyclic(|this| Self {
            identity,
            settings: ArcSwap::from_pointee(settings),
            changed: tokio::sync::Notify::new(),
            inner: Mutex::new(Inner {
                state,
                effects: Effects::default(),
                links: FxHashMap::default(),
                noted: false,
                deleted: false,
                had_consumer: false,
                handing_on: false,
                alarm_ms: None,
                rows,
                memory_bytes: 0,
                backlog_bytes: 0,
            }),
            around: around.clone(),
            this: this.clone(),
            kind,
            counted: metrics::Counts::default(),
            watch: Watch::default(),
            capacity: AtomicU64::new(0),
        })
    }

    /// Counts something that was done with its messages, for it and for its virtual host.
    pub fn count(&self, stat: Stat, count: u64) {
        self.counted.add(stat, count);
        // A publish counts once, however many queues it reaches.
        if stat != Stat::Publish {
            self.around.totals.add(self.kind, stat, count);
        }
    }

    /// Takes a sample of its numbers; says how long it is.
    pub fn sample(&self, at_ms: u64) -> Counts {
        let (ready, unacked, consumers, is_blocked) = {
            let state = &self.inner.lock().state;
            (state.ready(), state.unacked(), state.consumer_count(), state.is_blocked())
        };
        let mut values = [0; NUMBERS];
        values[..STATS].copy_from_slice(&self.counted.snapshot().0);
        [values[STATS], values[STATS + 1]] = [ready, unacked];
        self.watch.push(Sample { at_ms, values });
        let seen = if consumers > 0 && !is_blocked { 1.0 } else { 0.0 };
        let capacity = match consumers {
            0 => 0.0,
            _ => self.capacity() + CAPACITY_SHARE * (seen - self.capacity()),
        };
        self.capacity.store(capacity.to_bits(), Ordering::Relaxed);
        Counts { ready, unacked, consumers }
    }

    /// In what part of the recent looks its consumers took whatever there was, from 0 to 1.
    pub fn capacity(&self) -> f64 {
        f64::from_bits(self.capacity.load(Ordering::Relaxed))
    }

    /// All that it shows of its messages.
    pub fn look(&self) -> Look {
        self.inner.lock().state.look()
    }

    /// Octets of it in memory, but for what the allocator adds.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.inner.lock().state.memory_bytes()
    }

    /// What it does now: its arguments, and its policies.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Takes other settings while it works.
    pub fn change(&self, settings: Settings, acts: &mut Acts) {
        let rules = rules(&self.identity, &settings, &self.around);
        self.settings.store(Arc::new(settings));
        let _ = self.apply(acts, (), |state, (), now_ms, effects| state.change(rules, now_ms, effects));
    }

    /// `queue 'q' in vhost '/'`, as RabbitMQ's texts name it.
    pub fn resource(&self) -> String {
        format!("{self:?}")
    }

    /// Whether it was not deleted.
    pub fn alive(&self) -> bool {
        !self.inner.lock().deleted
    }

    pub fn counts(&self) -> Counts {
        let inner = self.inner.lock();
        Counts { ready: inner.state.ready(), unacked: inner.state.unacked(), consumers: inner.state.consumer_count() }
    }

    /// The consumer that gets everything, if only one may.
    pub fn active_consumer(&self) -> Option<ConsumerKey> {
        self.inner.lock().state.active_consumer()
    }

    /// Adds messages. The ticket is told when they are safe, or the queue is gone; and before that which were refused.
    pub fn publish(&self, run: &Arc<Run>, ticket: Option<Ticket>, acts: &mut Acts) {
        self.add(run, ticket, 0, acts);
    }

    /// Adds dead letters that have failed so often.
    pub fn publish_dead(&self, run: &Arc<Run>, failed: u32, acts: &mut Acts) {
        self.add(run, None, failed, acts);
    }

    /// Adds messages that have failed so often, if all of them are taken; otherwise none. Between a question and a publish
    /// others may have filled the queue.
    pub fn offer(&self, run: &Arc<Run>, failed: u32, acts: &mut Acts) -> bool {
        let taken = self.apply(acts, (), |state, (), now_ms, effects| {
            let accepts = state.accepts(run);
            if accepts {
                state.publish(run, None, failed, now_ms, effects);
            }
            accepts
        });
        taken.unwrap_or(false)
    }

    fn add(&self, run: &Arc<Run>, ticket: Option<Ticket>, failed: u32, acts: &mut Acts) {
        let gone = self.apply(acts, ticket, |state, ticket, now_ms, effects| {
            let waiter = ticket.clone();
            for range in state.publish(run, ticket, failed, now_ms, effects) {
                if let Some(waiter) = &waiter {
                    waiter.refused(range);
                }
            }
        });
        if let Err(Some(ticket)) = gone {
            acts.safe(ticket);
        }
    }

    /// Whether all messages of a run would be taken now.
    pub fn accepts(&self, run: &Run) -> bool {
        let inner = self.inner.lock();
        !inner.deleted && inner.state.accepts(run)
    }

    /// Somebody used the queue, for `x-expires`.
    pub fn touch(&self, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), now_ms, _| state.touch(now_ms));
    }

    /// The first of the dead letters that were handed out to [`Host::hand_on`] is settled.
    pub fn buried(&self, positions: Range<u64>, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), _, _| state.buried(positions));
    }

    /// Nobody takes the next dead letters, and they must not be lost.
    pub fn keep_dead(&self, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), now_ms, _| state.keep_dead(now_ms));
    }

    /// Time has gone on.
    pub(super) fn tick(&self) {
        self.inner.lock().alarm_ms = None;
        let mut acts = Acts::default();
        let _ = self.apply(&mut acts, (), |state, (), now_ms, effects| state.tick(now_ms, effects));
        self.changed.notify_waiters();
        acts.run();
    }

    /// Hands dead letters on, one caller at a time, so that they stay in order.
    fn hand_on(self: &Arc<Self>, acts: &mut Acts) {
        let Some(host) = self.around.host.upgrade() else { return };
        for _ in 0..HAND_ON_BATCHES {
            let dead = {
                let mut guard = self.inner.lock();
                let inner = &mut *guard;
                if inner.deleted || inner.handing_on || !inner.state.has_dead() {
                    return;
                }
                let dead = inner.state.take_dead(&mut inner.effects);
                if let Some(load) = inner.effects.load.take() {
                    acts.loads.push((Arc::clone(self), load));
                }
                if dead.is_empty() {
                    return;
                }
                inner.handing_on = true;
                dead
            };
            host.hand_on(self, dead, acts);
            self.inner.lock().handing_on = false;
        }
        acts.alarms.push((Arc::clone(self), self.around.clock.now_ms()));
    }

    /// The ticket is told when everything asked of the queue so far is on disk.
    pub fn wait(&self, ticket: Ticket, acts: &mut Acts) {
        if let Err(ticket) = self.apply(acts, ticket, |state, ticket, _, _| state.wait(ticket)) {
            acts.safe(ticket);
        }
    }

    /// Adds a consumer; [`Queue::activate`] it once its consume-ok is on its way.
    pub fn consume(&self, key: ConsumerKey, terms: Terms, outlet: Arc<dyn Outlet>, channel: ChannelKey) -> Joined {
        let mut inner = self.inner.lock();
        if inner.deleted {
            return Joined::Gone;
        }
        match inner.state.add_consumer(key, terms, outlet.way()) {
            Err(InUse) => Joined::InUse,
            Ok(()) => {
                inner.links.insert(key, Link { outlet, channel });
                inner.had_consumer = true;
                Joined::Consumer
            }
        }
    }

    pub fn activate(&self, key: ConsumerKey, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), now_ms, effects| state.activate(key, now_ms, effects));
    }

    /// Most of what was on its way to the consumer's client has left.
    pub fn resume(&self, key: ConsumerKey, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), now_ms, effects| state.resume(key, now_ms, effects));
    }

    /// Takes a consumer away. True if the queue is to be deleted, since that was the last one.
    pub fn cancel(&self, key: ConsumerKey, acts: &mut Acts) -> bool {
        let removed = self.apply(acts, (), |state, (), now_ms, effects| state.remove_consumer(key, now_ms, effects));
        let mut inner = self.inner.lock();
        inner.links.remove(&key);
        removed == Ok(true)
            && self.identity.auto_delete
            && inner.had_consumer
            && inner.state.consumer_count() == 0
            && !inner.deleted
    }

    /// Deliveries have been written to the consumer's socket.
    pub fn written(&self, key: ConsumerKey, messages: u32, bytes: usize, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), now_ms, effects| state.written(key, messages, bytes, now_ms, effects));
    }

    /// Settles deliveries.
    pub fn settle(&self, key: ConsumerKey, positions: Range<u64>, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), now_ms, effects| state.settle(Some(key), positions, now_ms, effects));
    }

    /// Rejects deliveries for good; `failed`: that counts as a failed delivery.
    pub fn reject(&self, key: ConsumerKey, positions: Range<u64>, failed: bool, acts: &mut Acts) {
        let _ =
            self.apply(acts, (), |state, (), now_ms, effects| state.reject(key, positions, failed, now_ms, effects));
    }

    /// Puts deliveries back where they were; `failed`: that counts as a failed delivery.
    pub fn requeue(&self, key: ConsumerKey, positions: Range<u64>, failed: bool, acts: &mut Acts) {
        let _ =
            self.apply(acts, (), |state, (), now_ms, effects| state.requeue(key, positions, failed, now_ms, effects));
    }

    pub fn get(&self, no_ack: bool, acts: &mut Acts) -> Fetched {
        match self.apply(acts, (), |state, (), now_ms, effects| state.get(no_ack, now_ms, effects)) {
            Ok(Got::Message { delivery, ready }) => Fetched::Message { delivery, ready },
            Ok(Got::Empty) => Fetched::Empty,
            Ok(Got::Wait) => Fetched::Wait,
            Err(()) => Fetched::Gone,
        }
    }

    /// Looks at messages without touching them (see [`State::browse`]).
    pub fn browse(&self, from: Option<u64>, count: usize) -> Vec<Seen> {
        self.inner.lock().state.browse(from, count)
    }

    /// Takes a ready message out, wherever it stands, until it is put back or is [`Queue::taken_out`]; false if it is not
    /// ready.
    pub fn take_out(&self, position: u64, acts: &mut Acts) -> bool {
        self.apply(acts, (), |state, (), _, _| state.take_out(position)).unwrap_or(false)
    }

    pub fn put_back(&self, position: u64, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), now_ms, effects| state.put_in(position, now_ms, effects));
    }

    pub fn taken_out(&self, position: u64, acts: &mut Acts) {
        let range = position..position + 1;
        let _ = self.apply(acts, (), |state, (), now_ms, effects| state.settle(None, range, now_ms, effects));
    }

    /// Reads the block of the queue that holds a position; `None` if it has gone meanwhile. Whoever asks waits for the
    /// answer, and so bounds how many ask.
    pub async fn block(&self, position: u64, persistent: bool) -> Option<store::Block> {
        let (told, block) = tokio::sync::oneshot::channel();
        self.around.store.load(self.identity.id, position..position + 1, persistent, move |block| {
            // Nobody waits any more.
            let _ = told.send(block);
        });
        block.await.ok().flatten()
    }

    /// Drops the ready messages; says how many.
    pub fn purge(&self, acts: &mut Acts) -> u64 {
        self.apply(acts, (), |state, (), _, _| state.purge()).unwrap_or(0)
    }

    /// Ends the queue, once: `None` if it had ended before. `allowed` may refuse after a look at the numbers.
    /// Its definition and its rows are the caller's.
    pub fn delete<E>(&self, allowed: impl FnOnce(Counts) -> Result<(), E>, acts: &mut Acts) -> Option<Result<u64, E>> {
        let mut inner = self.inner.lock();
        if inner.deleted {
            return None;
        }
        let counts = Counts {
            ready: inner.state.ready(),
            unacked: inner.state.unacked(),
            consumers: inner.state.consumer_count(),
        };
        if let Err(refusal) = allowed(counts) {
            return Some(Err(refusal));
        }
        let inner = &mut *inner;
        inner.deleted = true;
        let count = inner.state.delete(&mut inner.effects);
        for key in inner.effects.cancelled.drain(..) {
            if let Some(link) = inner.links.remove(&key) {
                link.outlet.cancelled(link.channel, key);
                acts.touch(&link.outlet);
            }
        }
        acts.tickets.append(&mut inner.effects.tickets);
        self.account(inner);
        self.changed.notify_waiters();
        Some(Ok(count))
    }

    /// Whether the queue has rows in the store beside its definition.
    pub fn has_rows(&self) -> bool {
        self.inner.lock().state.has_rows()
    }

    /// Lets the state decide and hands over what it decided. Gives `input` back if the queue is gone.
    fn apply<I, R>(
        &self,
        acts: &mut Acts,
        input: I,
        decide: impl FnOnce(&mut State<Ticket>, I, u64, &mut Effects<Ticket>) -> R,
    ) -> Result<R, I> {
        let now_ms = self.around.clock.now_ms();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.deleted {
            return Err(input);
        }
        inner.state.set_memory_limit(self.around.memory.share());
        let answer = decide(&mut inner.state, input, now_ms, &mut inner.effects);
        self.hand_out(inner, acts);
        acts.tickets.append(&mut inner.effects.tickets);
        if let Some(load) = inner.effects.load.take()
            && let Some(this) = self.this.upgrade()
        {
            acts.loads.push((this, load));
        }
        if !inner.noted
            && inner.state.dirty()
            && let Some(this) = self.this.upgrade()
        {
            inner.noted = true;
            self.around.store.note(this);
            acts.wake = Some(Arc::clone(&self.around.store));
        }
        self.follow_up(inner, acts);
        self.account(inner);
        Ok(answer)
    }

    /// Leaves deliveries with their clients, and asks these to tell when there is room for more.
    fn hand_out(&self, inner: &mut Inner, acts: &mut Acts) {
        for delivery in inner.effects.deliveries.drain(..) {
            if let Some(link) = inner.links.get(&delivery.consumer) {
                link.outlet.push(link.channel, delivery);
                acts.touch(&link.outlet);
            }
        }
        for key in inner.effects.held.drain(..) {
            if let (Some(link), Some(this)) = (inner.links.get(&key), self.this.upgrade()) {
                link.outlet.hold(this, key);
                acts.touch(&link.outlet);
            }
        }
    }

    /// What is to be done later, or elsewhere.
    fn follow_up(&self, inner: &mut Inner, acts: &mut Acts) {
        let unused = std::mem::take(&mut inner.effects.unused);
        let dead = inner.state.has_dead() && !inner.handing_on;
        let alarm = inner.state.next_time_ms().filter(|at_ms| inner.alarm_ms.is_none_or(|known| *at_ms < known));
        if !unused && !dead && alarm.is_none() {
            return;
        }
        let Some(this) = self.this.upgrade() else { return };
        if unused {
            acts.unused.push(Arc::clone(&this));
        }
        if dead {
            acts.dead.push(Arc::clone(&this));
        }
        if let Some(at_ms) = alarm {
            inner.alarm_ms = Some(at_ms);
            acts.alarms.push((this, at_ms));
        }
    }

    fn account(&self, inner: &mut Inner) {
        if let Some(ends) = inner.state.take_ends() {
            let settings = self.settings.load();
            let strategy = match settings.dead_letter_exchange {
                None => Strategy::Disabled,
                Some(_) if settings.keeps_dead() => Strategy::AtLeastOnce,
                Some(_) => Strategy::AtMostOnce,
            };
            self.around.totals.add_ends(self.kind, strategy, &ends);
        }
        let memory_bytes = inner.state.memory_bytes();
        if memory_bytes != inner.memory_bytes {
            self.around.memory.changed(inner.memory_bytes, memory_bytes);
            inner.memory_bytes = memory_bytes;
        }
        let backlog_bytes = inner.state.unstored_bytes();
        if backlog_bytes != inner.backlog_bytes {
            self.around.store.backlog(inner.backlog_bytes, backlog_bytes);
            inner.backlog_bytes = backlog_bytes;
        }
    }

    fn read(self: Arc<Self>, load: Load) {
        let store = Arc::clone(&self.around.store);
        store.load(self.identity.id, load.position..load.end, load.persistent, move |block| self.loaded(load, block));
    }

    fn loaded(&self, load: Load, block: Option<store::Block>) {
        let mut acts = Acts::default();
        if let Some((_, run)) = &block {
            self.count(Stat::DiskReads, run.count().into());
        }
        let lost = self
            .apply(&mut acts, (), |state, (), now_ms, effects| state.loaded(load, block, now_ms, effects))
            .unwrap_or(0);
        if lost > 0 {
            tracing::error!(queue = &*self.identity.name, lost, "messages are missing on disk");
        }
        self.changed.notify_waiters();
        acts.run();
    }

    /// Writes the exact marks at a graceful end.
    pub fn rest(&self) {
        let mut inner = self.inner.lock();
        if !inner.deleted
            && !inner.state.final_marks().is_empty()
            && let Some(this) = self.this.upgrade()
        {
            self.around.store.note(Arc::new(Rest(this)));
            inner.noted = true;
        }
    }

    fn write(&self, writes: &Writes, rows: &mut FxHashMap<u8, Range<u64>>, batch: &mut Batch<'_>) {
        let id = self.identity.id;
        let written: u64 = writes.blocks.iter().map(|block| u64::from(block.run.count())).sum();
        if written > 0 {
            self.count(Stat::DiskWrites, written);
        }
        for block in &writes.blocks {
            batch.put_block(id, block.first, &block.run, block.persistent);
            if let Some(facts) = &block.facts {
                batch.put_facts(id, block.first, &rows::encode_facts(facts));
            }
        }
        for &(first, persistent) in &writes.deleted {
            batch.delete_block(id, first, persistent, writes.facts);
        }
        for (range, persistent) in &writes.purged {
            batch.delete_blocks(id, range.clone(), *persistent, writes.facts);
        }
        if let Some(mark) = &writes.mark {
            batch.put_mark(id, log::base(writes.level), &rows::encode_mark(mark));
        }
        let rows = rows.entry(writes.level).or_insert(log::base(writes.level)..log::base(writes.level));
        if let Some(all) = &writes.settled_all {
            for row in rows.clone() {
                batch.delete_settled(id, row);
            }
            rows.start = rows.end;
            if !all.is_empty() {
                batch.put_settled(id, rows.end, &rows::encode_ranges(all));
                rows.end += 1;
            }
        } else if !writes.settled.is_empty() {
            batch.put_settled(id, rows.end, &rows::encode_ranges(&writes.settled));
            rows.end += 1;
        }
    }
}

/// The last writes of a queue.
struct Rest(Arc<Queue>);

impl Source for Rest {
    fn take(&self, batch: &mut Batch<'_>) {
        self.0.take(batch);
        for (level, mark) in self.0.inner.lock().state.final_marks() {
            batch.put_mark(self.0.identity.id, log::base(level), &rows::encode_mark(&mark));
        }
    }

    fn stored(&self) {
        self.0.stored();
    }
}

impl Source for Queue {
    fn take(&self, batch: &mut Batch<'_>) {
        let id = self.identity.id;
        let (commit, mut rows) = {
            let mut inner = self.inner.lock();
            inner.noted = false;
            if inner.deleted {
                return;
            }
            let commit = inner.state.take();
            self.account(&mut inner);
            // Only the commit thread uses them.
            (commit, std::mem::take(&mut inner.rows))
        };
        let Commit { levels, tallies, tallies_all } = commit;
        if self.settings().queue_type == QueueType::Quorum && levels.iter().any(|writes| !writes.blocks.is_empty()) {
            batch.sync();
        }
        for writes in &levels {
            self.write(writes, &mut rows.settled, batch);
        }
        if let Some(lowest) = levels.last() {
            batch.none_below(id, lowest.first_kept);
        }
        if tallies_all.is_some() {
            for row in rows.tallies.clone() {
                batch.delete_tallies(id, row);
            }
            rows.tallies.start = rows.tallies.end;
        }
        let tallies = tallies_all.unwrap_or(tallies);
        if !tallies.is_empty() {
            batch.put_tallies(id, rows.tallies.end, &tallies::encode(&tallies));
            rows.tallies.end += 1;
        }
        self.inner.lock().rows = rows;
    }

    fn waiting_bytes(&self) -> usize {
        self.inner.lock().backlog_bytes
    }

    fn stored(&self) {
        let mut acts = Acts::default();
        let _ = self.apply(&mut acts, (), |state, (), now_ms, effects| state.stored(now_ms, effects));
        self.changed.notify_waiters();
        acts.run();
    }
}

/// A queue's settings as its state's rules.
fn rules(identity: &Identity, settings: &Settings, around: &Surroundings) -> Rules {
    let quorum = settings.queue_type == QueueType::Quorum;
    let limit = settings.delivery_limit.unwrap_or(DELIVERY_LIMIT_DEFAULT);
    Rules {
        durable: identity.durable && around.store.durability() != Durability::Memory,
        quorum,
        priorities: match (quorum, settings.max_priority) {
            (true, _) => Priorities::Quorum,
            (false, Some(max)) => Priorities::UpTo(max),
            (false, None) => Priorities::None,
        },
        memory_bytes: around.memory.share(),
        single_active_consumer: settings.single_active_consumer,
        message_ttl_ms: settings.message_ttl_ms,
        // What was held back goes on as soon as its time has come.
        expire_at_head: around.expire_at_head && !settings.delays,
        expires_ms: settings.expires_ms,
        max_length: settings.max_length,
        max_length_bytes: settings.max_length_bytes,
        overflow: settings.overflow,
        dead_letters: settings.dead_letter_exchange.is_some() || settings.delays,
        // A negative limit is none.
        delivery_limit: u32::try_from(limit.min(u32::MAX.into())).ok().filter(|_| quorum),
        delayed_retry: settings.delayed_retry.filter(|_| quorum),
        delays: settings.delays,
    }
}
