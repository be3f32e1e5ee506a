//! The shell of a classic queue: lock, apply, hand over, let go, act.
//!
//! Whoever brings something (a publisher's read, a batch of acknowledgements, the commit thread) takes the short lock,
//! lets [`State`] decide, and leaves deliveries in outboxes and itself in the store's list. Only after the lock is gone
//! does it act, through [`Acts::run`]: sockets, wake-ups, tickets.

use super::consumer::{ChannelKey, ConsumerKey, Delivery, Outlet, Terms};
use super::ranges::Ranges;
use super::settings::Settings;
use super::state::{Effects, Got, InUse, Load, Mark, Rules, State};
use crate::amqp::Table;
use crate::message::Run;
use crate::store::{Batch, Block, Durability, Source, Store};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Waits until what it was handed in with is safe.
pub trait Waiter: Send + Sync {
    /// It is safe. Called without any lock; the outlet that is given back wants to be pumped.
    fn safe(&self) -> Option<Arc<dyn Outlet>>;
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
}

pub struct Queue {
    pub identity: Identity,
    /// What its arguments and policies say; a policy changes it.
    settings: ArcSwap<Settings>,
    /// Told when a basic.get that had to wait may be tried again.
    pub changed: tokio::sync::Notify,
    inner: Mutex<Inner>,
    store: Arc<Store>,
    memory: Arc<Memory>,
    this: Weak<Self>,
}

struct Inner {
    state: State<Ticket>,
    effects: Effects<Ticket>,
    links: FxHashMap<ConsumerKey, Link>,
    /// In the store's list.
    noted: bool,
    deleted: bool,
    had_consumer: bool,
    /// Numbers of the rows of settled positions on disk.
    rows: Range<u64>,
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
    tickets: Vec<Ticket>,
    loads: SmallVec<[(Arc<Queue>, Load); 1]>,
    wake: Option<Arc<Store>>,
}

impl Acts {
    fn touch(&mut self, outlet: &Arc<dyn Outlet>) {
        if !self.outlets.iter().any(|known| Arc::ptr_eq(known, outlet)) {
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
        if let Some(store) = self.wake.take() {
            store.wake();
        }
        for (queue, load) in std::mem::take(&mut self.loads) {
            queue.read(load);
        }
        for ticket in std::mem::take(&mut self.tickets) {
            if let Some(outlet) = ticket.safe() {
                self.touch(&outlet);
            }
        }
        self.outlets
    }
}

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
    pub fn new(identity: Identity, settings: Settings, store: &Arc<Store>, memory: &Arc<Memory>) -> Arc<Self> {
        let state = State::new(rules(&identity, &settings, store, memory));
        Self::with_state(identity, settings, state, 0..0, store, memory)
    }

    /// A durable queue as the disk knows it.
    pub fn recover(
        identity: Identity,
        settings: Settings,
        store: &Arc<Store>,
        memory: &Arc<Memory>,
    ) -> Result<Arc<Self>, String> {
        let id = identity.id;
        let found = store.recover(id).map_err(|error| error.to_string())?;
        let mut mark = match &found.mark {
            Some(octets) => decode_mark(octets).ok_or("a queue's mark on disk can't be read")?,
            None => Mark::default(),
        };
        mark.next = mark.next.max(found.end.unwrap_or(0));
        let mut settled = Ranges::default();
        for (_, row) in &found.settled {
            for range in decode_ranges(row).ok_or("a queue's settled positions on disk can't be read")? {
                settled.insert(range.start.max(mark.low_water)..range.end.max(mark.low_water));
            }
        }
        let settled_end = settled.iter().last().map_or(0, |range| range.end);
        mark.next = mark.next.max(settled_end).max(mark.low_water);
        let first_block = store.block_at(id, mark.low_water).map_err(|error| error.to_string())?;
        let rows = match (found.settled.first(), found.settled.last()) {
            (Some((first, _)), Some((last, _))) => *first..last + 1,
            _ => 0..0,
        };
        let rules = rules(&identity, &settings, store, memory);
        let state = State::recovered(rules, mark.clone(), settled, first_block.unwrap_or(mark.low_water));
        Ok(Self::with_state(identity, settings, state, rows, store, memory))
    }

    fn with_state(
        identity: Identity,
        settings: Settings,
        state: State<Ticket>,
        rows: Range<u64>,
        store: &Arc<Store>,
        memory: &Arc<Memory>,
    ) -> Arc<Self> {
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
                rows,
                memory_bytes: 0,
                backlog_bytes: 0,
            }),
            store: Arc::clone(store),
            memory: Arc::clone(memory),
            this: this.clone(),
        })
    }

    /// `queue 'q' in vhost '/'`, as RabbitMQ's texts name it.
    pub fn resource(&self) -> String {
        format!("{self:?}")
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Takes new settings, since a policy came, went or changed.
    pub fn change(&self, settings: Settings, _acts: &mut Acts) {
        self.settings.store(Arc::new(settings));
    }

    /// Whether it was not deleted.
    pub fn alive(&self) -> bool {
        !self.inner.lock().deleted
    }

    pub fn counts(&self) -> Counts {
        let inner = self.inner.lock();
        Counts { ready: inner.state.ready(), unacked: inner.state.unacked(), consumers: inner.state.consumer_count() }
    }

    /// Adds messages. The ticket is told when they are safe, or the queue is gone.
    pub fn publish(&self, run: Arc<Run>, ticket: Option<Ticket>, acts: &mut Acts) {
        let refused = self.apply(acts, ticket, |state, ticket, effects| state.publish(run, ticket, effects));
        if let Err(Some(ticket)) = refused {
            acts.safe(ticket);
        }
    }

    /// The ticket is told when everything asked of the queue so far is on disk.
    pub fn wait(&self, ticket: Ticket, acts: &mut Acts) {
        if let Err(ticket) = self.apply(acts, ticket, |state, ticket, _| state.wait(ticket)) {
            acts.safe(ticket);
        }
    }

    /// Adds a consumer; [`Queue::activate`] it once its consume-ok is on its way.
    pub fn consume(&self, key: ConsumerKey, terms: Terms, outlet: Arc<dyn Outlet>, channel: ChannelKey) -> Joined {
        let mut inner = self.inner.lock();
        if inner.deleted {
            return Joined::Gone;
        }
        match inner.state.add_consumer(key, terms) {
            Err(InUse) => Joined::InUse,
            Ok(()) => {
                inner.links.insert(key, Link { outlet, channel });
                inner.had_consumer = true;
                Joined::Consumer
            }
        }
    }

    pub fn activate(&self, key: ConsumerKey, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), effects| state.activate(key, effects));
    }

    /// Takes a consumer away. True if the queue is to be deleted, since that was the last one.
    pub fn cancel(&self, key: ConsumerKey, acts: &mut Acts) -> bool {
        let removed = self.apply(acts, (), |state, (), effects| state.remove_consumer(key, effects));
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
        let _ = self.apply(acts, (), |state, (), effects| state.written(key, messages, bytes, effects));
    }

    /// Settles deliveries.
    pub fn settle(&self, key: ConsumerKey, positions: Range<u64>, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), effects| state.settle(Some(key), positions, effects));
    }

    /// Puts deliveries back where they were.
    pub fn requeue(&self, key: ConsumerKey, positions: Range<u64>, acts: &mut Acts) {
        let _ = self.apply(acts, (), |state, (), effects| state.requeue(Some(key), positions, effects));
    }

    pub fn get(&self, no_ack: bool, acts: &mut Acts) -> Fetched {
        match self.apply(acts, (), |state, (), effects| state.get(no_ack, effects)) {
            Ok(Got::Message { delivery, ready }) => Fetched::Message { delivery, ready },
            Ok(Got::Empty) => Fetched::Empty,
            Ok(Got::Wait) => Fetched::Wait,
            Err(()) => Fetched::Gone,
        }
    }

    /// Drops the ready messages; says how many.
    pub fn purge(&self, acts: &mut Acts) -> u64 {
        self.apply(acts, (), |state, (), _| state.purge()).unwrap_or(0)
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
        let inner = self.inner.lock();
        inner.state.memory_bytes() > 0 || inner.state.first_kept() > 0
    }

    /// Lets the state decide and hands over what it decided. Gives `input` back if the queue is gone.
    fn apply<I, R>(
        &self,
        acts: &mut Acts,
        input: I,
        decide: impl FnOnce(&mut State<Ticket>, I, &mut Effects<Ticket>) -> R,
    ) -> Result<R, I> {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.deleted {
            return Err(input);
        }
        inner.state.set_memory_limit(self.memory.share());
        let answer = decide(&mut inner.state, input, &mut inner.effects);
        for delivery in inner.effects.deliveries.drain(..) {
            if let Some(link) = inner.links.get(&delivery.consumer) {
                link.outlet.push(link.channel, delivery);
                acts.touch(&link.outlet);
            }
        }
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
            self.store.note(this);
            acts.wake = Some(Arc::clone(&self.store));
        }
        self.account(inner);
        Ok(answer)
    }

    fn account(&self, inner: &mut Inner) {
        let memory_bytes = inner.state.memory_bytes();
        if memory_bytes != inner.memory_bytes {
            self.memory.changed(inner.memory_bytes, memory_bytes);
            inner.memory_bytes = memory_bytes;
        }
        let backlog_bytes = inner.state.unstored_bytes();
        if backlog_bytes != inner.backlog_bytes {
            self.store.backlog(inner.backlog_bytes, backlog_bytes);
            inner.backlog_bytes = backlog_bytes;
        }
    }

    fn read(self: Arc<Self>, load: Load) {
        let store = Arc::clone(&self.store);
        store.load(self.identity.id, load.position..load.end, load.persistent, move |block| self.loaded(load, block));
    }

    fn loaded(&self, load: Load, block: Option<Block>) {
        let mut acts = Acts::default();
        let lost = self.apply(&mut acts, (), |state, (), effects| state.loaded(load, block, effects)).unwrap_or(0);
        if lost > 0 {
            tracing::error!(queue = &*self.identity.name, lost, "messages are missing on disk");
        }
        self.changed.notify_waiters();
        acts.run();
    }

    /// Writes the exact mark at a graceful end.
    pub fn rest(&self) {
        let mut inner = self.inner.lock();
        if let (Some(_), Some(this)) = (inner.state.final_mark(), self.this.upgrade())
            && !inner.deleted
        {
            self.store.note(Arc::new(Rest(this)));
            inner.noted = true;
        }
    }
}

/// The last writes of a queue.
struct Rest(Arc<Queue>);

impl Source for Rest {
    fn take(&self, batch: &mut Batch<'_>) {
        self.0.take(batch);
        if let Some(mark) = self.0.inner.lock().state.final_mark() {
            batch.put_mark(self.0.identity.id, &encode_mark(&mark));
        }
    }

    fn stored(&self) {
        self.0.stored();
    }
}

impl Source for Queue {
    fn take(&self, batch: &mut Batch<'_>) {
        let id = self.identity.id;
        let (writes, rows, first_kept) = {
            let mut inner = self.inner.lock();
            inner.noted = false;
            if inner.deleted {
                return;
            }
            let writes = inner.state.take();
            self.account(&mut inner);
            let rows = inner.rows.clone();
            if let Some(all) = &writes.settled_all {
                inner.rows = rows.end..rows.end + u64::from(!all.is_empty());
            } else if !writes.settled.is_empty() {
                inner.rows.end += 1;
            }
            (writes, rows, inner.state.first_kept())
        };
        let durable = self.identity.durable && self.store.durability() != Durability::Memory;
        for (first, run) in &writes.blocks {
            batch.put_block(id, *first, run, durable && run.persistent());
        }
        for (first, persistent) in writes.deleted {
            batch.delete_block(id, first, persistent);
        }
        for (range, persistent) in writes.purged {
            batch.delete_blocks(id, range, persistent);
        }
        batch.none_below(id, first_kept);
        if let Some(mark) = &writes.mark {
            batch.put_mark(id, &encode_mark(mark));
        }
        if let Some(all) = &writes.settled_all {
            for row in rows.clone() {
                batch.delete_settled(id, row);
            }
            if !all.is_empty() {
                batch.put_settled(id, rows.end, &encode_ranges(all));
            }
        } else if !writes.settled.is_empty() {
            batch.put_settled(id, rows.end, &encode_ranges(&writes.settled));
        }
    }

    fn stored(&self) {
        let mut acts = Acts::default();
        let _ = self.apply(&mut acts, (), |state, (), effects| state.stored(effects));
        self.changed.notify_waiters();
        acts.run();
    }
}

fn rules(identity: &Identity, settings: &Settings, store: &Store, memory: &Memory) -> Rules {
    Rules {
        durable: identity.durable && store.durability() != Durability::Memory,
        memory_bytes: memory.share(),
        single_active_consumer: settings.single_active_consumer,
    }
}

/// The format of a mark; a number once given is never used for anything else.
const MARK_VERSION: u8 = 1;

fn encode_mark(mark: &Mark) -> Vec<u8> {
    let mut octets = vec![MARK_VERSION];
    for number in [mark.low_water, mark.delivered_below, mark.next] {
        octets.extend_from_slice(&number.to_be_bytes());
    }
    octets
}

fn decode_mark(octets: &[u8]) -> Option<Mark> {
    let (&MARK_VERSION, numbers) = octets.split_first()? else { return None };
    let mut numbers = numbers.chunks_exact(8).map(number);
    Some(Mark { low_water: numbers.next()??, delivered_below: numbers.next()??, next: numbers.next()?? })
}

fn encode_ranges(ranges: &[Range<u64>]) -> Vec<u8> {
    ranges.iter().flat_map(|range| [range.start, range.end]).flat_map(u64::to_be_bytes).collect()
}

fn decode_ranges(octets: &[u8]) -> Option<Vec<Range<u64>>> {
    let (pairs, []) = octets.as_chunks::<16>() else { return None };
    pairs.iter().map(|pair| Some(number(&pair[..8])?..number(&pair[8..])?)).collect()
}

fn number(octets: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(octets.try_into().ok()?))
}
