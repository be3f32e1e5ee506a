//! Group commit: one thread, one write, one sync for all queues. While it syncs, the next batch gathers.

use super::keys::{Definition, Row};
use super::rows::{Family, Writes};
use super::{Durability, Failure, Store};
use crate::message::Run;
#[cfg(test)]
use crate::simulation::bugs::{Bug, planted};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

/// Something that has writes waiting: a queue.
pub trait Source: Send + Sync {
    /// Adds what must be written now. Called by the commit thread only.
    fn take(&self, batch: &mut Batch<'_>);
    /// What was taken is safe.
    fn stored(&self);
    /// Octets of messages that wait, about.
    fn waiting_bytes(&self) -> usize {
        0
    }
}

/// A change of a definition.
#[derive(Debug)]
pub enum Change {
    Put(Definition, Vec<u8>),
    Delete(Definition),
    /// A queue is gone, with all its rows.
    DropQueue(u64),
    /// A number or text kept for the broker itself.
    Meta(&'static str, Vec<u8>),
}

/// Told when a change is safe; an error if it never will be.
pub type Committed = oneshot::Receiver<()>;

#[derive(Debug)]
pub(super) struct Pending {
    changes: Vec<Change>,
    done: oneshot::Sender<()>,
}

/// A source with more than this waiting is heavy.
const HEAVY_BYTES: usize = 64 << 10;
/// So long after there was a light one the heavy ones make room for it.
const LIGHT_MEMORY: Duration = Duration::from_millis(100);
/// But not for longer than this at a time, however long a write took.
const HEAVY_PAUSE_MAX: Duration = Duration::from_millis(50);

/// Whose turn it is at the disk: while there are sources that want little from it, those that want much let them pass, and
/// get half of its time. So whoever wants little waits for little.
#[derive(Debug, Default)]
struct Turns {
    /// When there last was a light source.
    light: Option<Instant>,
    /// Heavy ones wait until then.
    until: Option<Instant>,
    /// The next write is theirs.
    heavy_next: bool,
    /// This write has some of theirs.
    heavy_now: bool,
}

impl Turns {
    /// Leaves in `sources` what is to be written now; gives back what has to wait. `joined`: nothing may be parted.
    fn divide(&mut self, sources: &mut Vec<Arc<dyn Source>>, joined: bool, now: Instant) -> Vec<Arc<dyn Source>> {
        let until = self.until.take();
        let is_heavy = |source: &Arc<dyn Source>| source.waiting_bytes() > HEAVY_BYTES;
        let (heavy, light): (Vec<_>, Vec<_>) = sources.drain(..).partition(is_heavy);
        if !light.is_empty() {
            self.light = Some(now);
        }
        let contested = self.light.is_some_and(|seen| now < seen + LIGHT_MEMORY);
        let must_pause = until.filter(|until| now < *until);
        let waits = !heavy.is_empty()
            && !joined
            && contested
            && (must_pause.is_some() || !light.is_empty() && !self.heavy_next);
        self.heavy_next = waits && must_pause.is_none();
        self.heavy_now = !waits && !heavy.is_empty();
        *sources = light;
        if waits {
            // At once, if they only let the others pass.
            self.until = Some(must_pause.unwrap_or(now));
            return heavy;
        }
        self.until = must_pause.filter(|_| heavy.is_empty());
        sources.splice(0..0, heavy);
        Vec::new()
    }

    /// A write took so long.
    fn wrote(&mut self, began: Instant, ended: Instant) {
        if std::mem::take(&mut self.heavy_now) {
            self.until = Some(ended + (ended - began).min(HEAVY_PAUSE_MAX));
        }
    }
}

/// Between two looks for room on a full disk.
const ROOM_LOOKS: Duration = Duration::from_millis(100);

/// After so many deleted blocks of a queue the files that held nothing else are given back.
const RECLAIM_BLOCKS: u32 = 64;

/// Per queue and kind: blocks deleted since files were last given back, and the position below which none is left.
type Reclaim = FxHashMap<(u64, bool), (u32, u64)>;

/// What commits know of those before them.
#[derive(Debug, Default)]
pub(super) struct Commits {
    reclaim: Reclaim,
    turns: Turns,
}

/// What a commit has taken and is to write.
pub(super) struct Taken<'a> {
    durable: Writes<'a>,
    spill: Writes<'a>,
    /// It is synced, whatever the durability.
    sync: bool,
    waiting: Waiting,
}

impl Taken<'_> {
    pub fn bytes(&self) -> usize {
        self.durable.bytes() + self.spill.bytes()
    }
}

/// Who waits for a commit.
pub(super) struct Waiting {
    sources: Vec<Arc<dyn Source>>,
    pending: Vec<Pending>,
    /// Nobody was left for a later one.
    is_whole: bool,
    begun: Instant,
}

#[cfg(test)]
impl Waiting {
    fn told_too_early(mut self) -> Self {
        if planted(Bug::ConfirmBeforeSync) {
            self.sources.drain(..).for_each(|source| source.stored());
        }
        self
    }
}

impl super::Wake {
    /// Whether a commit is to begin now: somebody asked for one, or those who let others pass have waited long enough.
    pub(super) fn begins(&mut self, commits: &Commits, now: Instant) -> Option<Self> {
        let begins = self.work || commits.turns.until.is_some_and(|until| until <= now);
        let wake = *self;
        if begins {
            self.work = self.stop;
        }
        begins.then_some(wake)
    }
}

/// One commit in the making.
pub struct Batch<'a> {
    durable: Writes<'a>,
    spill: Writes<'a>,
    reclaim: Reclaim,
    buffer: Vec<u8>,
    /// Somebody must have it on disk, whatever the durability.
    sync: bool,
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "batch of {} + {} octets", self.durable.bytes(), self.spill.bytes())
    }
}

impl Batch<'_> {
    /// A block of messages, to survive or just to leave memory.
    pub fn put_block(&mut self, queue: u64, first: u64, run: &Run, durable: bool) {
        self.buffer.clear();
        run.encode(&mut self.buffer);
        let key = Row::Block.key(queue, first);
        if durable {
            self.durable.put(Family::Messages, key, &self.buffer);
        } else {
            self.spill.put(Family::Spill, key, &self.buffer);
        }
    }

    /// What is known of a block, to be read at recovery.
    pub fn put_facts(&mut self, queue: u64, first: u64, facts: &[u8]) {
        self.durable.put(Family::Marks, Row::Facts.key(queue, first), facts);
    }

    /// `facts`: there may be some of the block.
    pub fn delete_block(&mut self, queue: u64, first: u64, durable: bool, facts: bool) {
        let key = Row::Block.key(queue, first);
        if durable {
            self.durable.delete(Family::Messages, key);
            if facts {
                self.durable.delete(Family::Marks, Row::Facts.key(queue, first));
            }
        } else {
            self.spill.delete(Family::Spill, key);
        }
        self.reclaim.entry((queue, durable)).or_default().0 += 1;
    }

    /// All blocks that begin in a range of positions.
    pub fn delete_blocks(&mut self, queue: u64, positions: std::ops::Range<u64>, durable: bool, facts: bool) {
        let keys = |row: Row| (row.key(queue, positions.start), row.key(queue, positions.end));
        let (start, end) = keys(Row::Block);
        if durable {
            self.durable.delete_range(Family::Messages, start, end);
            if facts {
                let (start, end) = keys(Row::Facts);
                self.durable.delete_range(Family::Marks, start, end);
            }
        } else {
            self.spill.delete_range(Family::Spill, start, end);
        }
        self.reclaim.entry((queue, durable)).or_default().0 += RECLAIM_BLOCKS;
    }

    /// The commit is synced even where messages need not be.
    pub fn sync(&mut self) {
        self.sync = true;
    }

    /// No block of the queue begins below `position` any more.
    pub fn none_below(&mut self, queue: u64, position: u64) {
        for durable in [true, false] {
            if let Some((_, below)) = self.reclaim.get_mut(&(queue, durable)) {
                *below = position;
            }
        }
    }

    pub fn put_mark(&mut self, queue: u64, number: u64, mark: &[u8]) {
        self.durable.put(Family::Marks, Row::Mark.key(queue, number), mark);
    }

    /// A row of how often messages came back.
    pub fn put_tallies(&mut self, queue: u64, row: u64, tallies: &[u8]) {
        self.durable.put(Family::Marks, Row::Tallies.key(queue, row), tallies);
    }

    pub fn delete_tallies(&mut self, queue: u64, row: u64) {
        self.durable.delete(Family::Marks, Row::Tallies.key(queue, row));
    }

    /// A row of settled positions.
    pub fn put_settled(&mut self, queue: u64, row: u64, settled: &[u8]) {
        self.durable.put(Family::Marks, Row::Settled.key(queue, row), settled);
    }

    pub fn delete_settled(&mut self, queue: u64, row: u64) {
        self.durable.delete(Family::Marks, Row::Settled.key(queue, row));
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Put(key, value) => self.durable.put(Family::Definitions, &key.0, value),
            Change::Delete(key) => self.durable.delete(Family::Definitions, &key.0),
            Change::Meta(name, value) => self.durable.put(Family::Meta, name, value),
            Change::DropQueue(queue) => {
                let (start, end) = (queue.to_be_bytes(), (queue + 1).to_be_bytes());
                self.durable.delete_range(Family::Messages, start, end);
                self.durable.delete_range(Family::Marks, start, end);
                self.spill.delete_range(Family::Spill, start, end);
                self.reclaim.remove(&(*queue, true));
                self.reclaim.remove(&(*queue, false));
            }
        }
    }
}

impl Store {
    /// Writes changes of definitions, in the order they were asked for, all or none. Wait for the answer before
    /// telling anyone.
    pub fn change(&self, changes: Vec<Change>) -> Committed {
        let (done, committed) = oneshot::channel();
        self.changes_unsafe.fetch_add(usize::from(!changes.is_empty()), Ordering::Relaxed);
        self.changes.lock().push(Pending { changes, done });
        self.wake();
        committed
    }

    /// Until the changes asked for so far are safe; `None` if they are. For whoever is told what somebody else has changed: a
    /// crash must not undo it after that. Call it with the lock under which that change was asked for, or after it.
    pub fn changes_so_far(&self) -> Option<Committed> {
        (self.changes_unsafe.load(Ordering::Relaxed) > 0).then(|| self.change(Vec::new()))
    }

    pub(super) fn commit_loop(&self) {
        let mut commits = Commits::default();
        loop {
            let wake = {
                let mut wake = self.wake.0.lock();
                loop {
                    if let Some(begins) = wake.begins(&commits, Instant::now()) {
                        break begins;
                    }
                    match commits.turns.until {
                        None => self.wake.1.wait(&mut wake),
                        Some(until) => drop(self.wake.1.wait_until(&mut wake, until.into_std())),
                    }
                }
            };
            if wake.stop {
                commits.turns = Turns::default();
            }
            let taken = self.take(&mut commits);
            if !self.await_room(taken.bytes()) {
                // Nobody is told that it is safe. Nothing may be written behind what is missing, or the disk would tell of
                // messages that it has not; and nobody needs to wait any longer.
                self.changes.lock().clear();
                return;
            }
            let written = self.write(taken, &mut commits).unwrap_or_else(|failure| self.fail(&failure));
            let more = self.tell(written, &mut commits);
            if wake.stop && !more {
                return;
            }
        }
    }

    /// Begins a commit: asks everybody who was noted for what there is to write.
    pub(super) fn take<'a>(&'a self, commits: &mut Commits) -> Taken<'a> {
        let mut batch = Batch {
            durable: self.rows.writes(),
            spill: self.rows.writes(),
            reclaim: std::mem::take(&mut commits.reclaim),
            buffer: Vec::new(),
            sync: false,
        };
        let begun = Instant::now();
        let mut sources = Vec::new();
        let (pending, is_whole);
        {
            // What was done together is taken together.
            let mut together = self.together.write();
            pending = std::mem::take(&mut *self.changes.lock());
            for change in pending.iter().flat_map(|pending| &pending.changes) {
                batch.change(change);
            }
            // No more than there are now: busy queues are noted again while others are asked.
            for _ in 0..self.dirty.len() {
                let Some(source) = self.dirty.pop() else { break };
                sources.push(source);
            }
            let is_joined = std::mem::take(together.is_joined.get_mut());
            let heavy = commits.turns.divide(&mut sources, is_joined, Instant::now());
            is_whole = heavy.is_empty();
            heavy.into_iter().for_each(|source| self.dirty.push(source));
            for source in &sources {
                source.take(&mut batch);
            }
        }
        let Batch { durable, spill, sync, reclaim, .. } = batch;
        commits.reclaim = reclaim;
        Taken { durable, spill, sync, waiting: Waiting { sources, pending, is_whole, begun } }
    }

    /// Writes and syncs. What fails is not tried again.
    pub(super) fn write(&self, taken: Taken<'_>, commits: &mut Commits) -> Result<Waiting, Failure> {
        let Taken { durable, spill, sync, waiting } = taken;
        #[cfg(test)]
        let waiting = waiting.told_too_early();
        let begun = Instant::now();
        if !spill.is_empty() {
            self.rows.write_unlogged(spill)?;
        }
        if !durable.is_empty() {
            let (begun, bytes) = (Instant::now(), durable.bytes() as u64);
            self.rows.write(durable, self.is_synced(sync))?;
            self.times.sync.add(begun.elapsed(), 1);
            self.times.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        commits.turns.wrote(begun, Instant::now());
        Ok(waiting)
    }

    /// Whether a write is on disk when it returns.
    fn is_synced(&self, wanted: bool) -> bool {
        #[cfg(test)]
        if planted(Bug::LostSuffix) {
            return false;
        }
        wanted || self.durability == Durability::Fsync
    }

    /// Tells everybody that what was taken is safe; says whether there was anything.
    pub(super) fn tell(&self, written: Waiting, commits: &mut Commits) -> bool {
        let Waiting { sources, pending, is_whole, begun } = written;
        let more = !sources.is_empty() || !pending.is_empty();
        for source in sources {
            source.stored();
        }
        let changed = pending.iter().filter(|pending| !pending.changes.is_empty()).count();
        self.changes_unsafe.fetch_sub(changed, Ordering::Relaxed);
        for pending in pending {
            // Whoever asked may be gone.
            let _ = pending.done.send(());
        }
        if more {
            self.times.commit.add(begun.elapsed(), 1);
        }
        if is_whole {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        self.relief.notify_waiters();
        #[cfg(test)]
        if planted(Bug::MissedWakeUp) {
            self.wake.0.lock().work = false;
        }
        self.reclaim(&mut commits.reclaim);
        more
    }

    /// Waits until so many octets fit on the disk, with room for what RocksDB writes besides: what does not fit would end
    /// it. False if the broker is told to stop meanwhile.
    fn await_room(&self, bytes: usize) -> bool {
        let mut is_told = false;
        while !self.room.fits(bytes) {
            if !is_told {
                tracing::error!("the disk is full: nothing is stored or confirmed until there is room");
                is_told = true;
            }
            let mut wake = self.wake.0.lock();
            if wake.stop {
                tracing::error!("stopped while the disk is full: what was not confirmed is not stored");
                return false;
            }
            self.wake.1.wait_for(&mut wake, ROOM_LOOKS);
        }
        if is_told {
            tracing::info!("there is room on the disk again");
        }
        true
    }

    /// Gives files back that hold nothing but what was deleted: RocksDB alone would keep them.
    fn reclaim(&self, reclaim: &mut Reclaim) {
        reclaim.retain(|&(queue, durable), &mut (blocks, below)| {
            if blocks < RECLAIM_BLOCKS {
                return true;
            }
            let family = if durable { Family::Messages } else { Family::Spill };
            let start = Row::Block.key(queue, 0);
            if let Some(last) = below.checked_sub(1)
                && let Err(failure) = self.rows.give_back(family, &start, &Row::Block.key(queue, last))
            {
                tracing::warn!(error = failure.to_string(), "can't give back disk space");
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Durability, Options};
    use super::*;
    use parking_lot::Mutex;
    use std::sync::mpsc;

    /// Says when it is taken and when that is stored.
    struct Probe {
        name: &'static str,
        bytes: usize,
        said: Mutex<mpsc::Sender<String>>,
    }

    impl Source for Probe {
        fn take(&self, _: &mut Batch<'_>) {
            self.said.lock().send(format!("{} taken", self.name)).unwrap();
        }

        fn stored(&self) {
            self.said.lock().send(format!("{} stored", self.name)).unwrap();
        }

        fn waiting_bytes(&self) -> usize {
            self.bytes
        }
    }

    #[test]
    fn heavy_ones_leave_half_of_the_time_to_light_ones() {
        let (said, _heard) = mpsc::channel();
        let probe = |name, bytes| Arc::new(Probe { name, bytes, said: Mutex::new(said.clone()) }) as Arc<dyn Source>;
        let (heavy, light) = (probe("heavy", HEAVY_BYTES + 1), probe("light", 0));
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut turns = Turns::default();
        // How many are written, and how many wait.
        let divide = |turns: &mut Turns, sources: &[&Arc<dyn Source>], joined, at| {
            let mut sources = sources.iter().map(|source| Arc::clone(source)).collect();
            let waiting = turns.divide(&mut sources, joined, ms(at)).len();
            (sources.len(), waiting)
        };
        // Alone they need not wait.
        assert_eq!(divide(&mut turns, &[&heavy], false, 0), (1, 0));
        turns.wrote(ms(0), ms(8));
        assert_eq!(divide(&mut turns, &[&heavy], false, 8), (1, 0));
        turns.wrote(ms(8), ms(16));
        // A light one goes first, and again for as long as the heavy one has taken.
        assert_eq!(divide(&mut turns, &[&heavy, &light], false, 17), (1, 1));
        assert_eq!(turns.until, Some(ms(24)));
        assert_eq!(divide(&mut turns, &[&heavy, &light], false, 20), (1, 1));
        assert_eq!(divide(&mut turns, &[&heavy], false, 23), (0, 1));
        assert_eq!(divide(&mut turns, &[&heavy], true, 23), (1, 0), "joined");
        turns.wrote(ms(23), ms(1000));
        assert_eq!(turns.until, Some(ms(1050)));
        assert_eq!(divide(&mut turns, &[&light], false, 1001), (1, 0));
        assert_eq!(divide(&mut turns, &[&heavy], false, 1002), (0, 1));
        assert_eq!(divide(&mut turns, &[&heavy, &light], false, 1050), (1, 1), "the light one passes");
        assert_eq!(divide(&mut turns, &[&heavy, &light], false, 1050), (2, 0), "once");
        turns.wrote(ms(1050), ms(1090));
        // Long after the last light one nobody makes room.
        assert_eq!(divide(&mut turns, &[&heavy], false, 1150), (1, 0));
    }

    /// What is said when both are noted before a commit begins.
    fn order(joined: bool) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            folder: folder.path().to_owned(),
            durability: Durability::Memory,
            write_buffer_bytes: 1 << 20,
            backlog_bytes_max: 1 << 20,
            ballast_bytes: 0,
        };
        let store = Store::open(&options).unwrap();
        let (said, heard) = mpsc::channel();
        let probe = |name, bytes| Arc::new(Probe { name, bytes, said: Mutex::new(said.clone()) });
        let (heavy, light) = (probe("heavy", HEAVY_BYTES + 1), probe("light", HEAVY_BYTES));
        let none_begins = store.together.read();
        let together = joined.then(|| store.together());
        store.note(heavy);
        store.note(light);
        store.wake();
        drop((together, none_begins));
        store.close();
        drop(said);
        heard.try_iter().collect()
    }

    #[test]
    fn who_wants_little_does_not_wait_for_who_wants_much() {
        assert_eq!(order(false), ["light taken", "light stored", "heavy taken", "heavy stored"]);
    }

    #[test]
    fn what_was_done_together_is_written_together() {
        assert_eq!(order(true), ["heavy taken", "light taken", "heavy stored", "light stored"]);
    }
}
