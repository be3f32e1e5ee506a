//! A disk for simulations: rows in memory, of which a crash leaves what a real disk would.
//!
//! What was written goes through a log, as in RocksDB: a crash of the machine keeps what was synced and any number of the
//! writes behind it, in order and each whole, since a torn one has no checksum. A crash of the process alone keeps all of
//! them. What was written without a log is gone in either case.

use super::commit::Commits;
use super::read::Request;
use super::room::Room;
use super::rows::{Family, Row, Rows};
use super::{Failure, Options, Store};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, mpsc};
use tokio::time::{Duration, Instant, sleep};

#[derive(Debug, Clone)]
pub enum Write {
    Put(Family, Box<[u8]>, Box<[u8]>),
    Delete(Family, Box<[u8]>),
    DeleteRange(Family, Box<[u8]>, Box<[u8]>),
}

impl Write {
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put(_, key, value) => key.len() + value.len(),
            Self::Delete(_, key) => key.len(),
            Self::DeleteRange(_, start, end) => start.len() + end.len(),
        }
    }
}

type Families = BTreeMap<Family, BTreeMap<Box<[u8]>, Box<[u8]>>>;

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Before anything has reached the disk.
    Unwritten,
    /// It was written, and the sync failed: what a crash then leaves of it is unknown.
    Unsynced,
}

#[derive(Debug, Default)]
pub struct SimulatedDisk(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What reading finds.
    now: Families,
    /// What survives whatever happens.
    safe: Families,
    /// What was written since.
    unsynced: Vec<Vec<Write>>,
    /// The last write is to be synced, and is not yet.
    syncing: bool,
    /// How the next write but so many fails.
    fault: Option<(u32, Fault)>,
    /// It failed once: nothing is taken any more.
    failed: bool,
    /// Octets that fit on it, if that is bounded.
    room: Option<usize>,
    /// Writes of this and all former lives.
    writes: u64,
}

impl SimulatedDisk {
    /// Takes a write into the log. It is on disk after [`SimulatedDisk::sync`] only.
    pub fn write(&self, writes: Vec<Write>, synced: bool) -> Result<(), Failure> {
        let mut state = self.0.lock();
        if state.failed {
            return Err(failed("the disk has failed before".into()));
        }
        state.writes += 1;
        let fault = match &mut state.fault {
            Some((0, fault)) => Some(*fault),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if let Some(fault) = fault {
            (state.failed, state.fault) = (true, None);
            if fault == Fault::Unsynced {
                state.unsynced.push(writes);
            }
            return Err(failed(format!("simulated: {fault:?}")));
        }
        apply(&mut state.now, &writes);
        state.unsynced.push(writes);
        state.syncing |= synced;
        Ok(())
    }

    /// Ends the sync of what was written to be synced.
    pub fn sync(&self) {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.syncing) {
            let unsynced = std::mem::take(&mut state.unsynced);
            for writes in &unsynced {
                apply(&mut state.safe, writes);
            }
        }
    }

    pub fn write_unlogged(&self, writes: &[Write]) -> Result<(), Failure> {
        apply(&mut self.0.lock().now, writes);
        Ok(())
    }

    /// Has the next write but so many fail.
    pub fn fail_after(&self, writes: u32, fault: Fault) {
        self.0.lock().fault = Some((writes, fault));
    }

    pub fn has_failed(&self) -> bool {
        self.0.lock().failed
    }

    /// So much fits on it from now on; `None`: everything.
    pub fn set_room(&self, bytes: Option<usize>) {
        self.0.lock().room = bytes;
    }

    pub fn fits(&self, bytes: usize) -> bool {
        self.0.lock().room.is_none_or(|room| bytes <= room)
    }

    /// What a crash leaves: of the writes that were not synced the first `kept`.
    pub fn crash(&self, kept: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock();
        let mut unsynced = std::mem::take(&mut state.unsynced);
        unsynced.truncate(kept(unsynced.len()));
        for writes in &unsynced {
            apply(&mut state.safe, writes);
        }
        state.safe.remove(&Family::Spill);
        state.now = state.safe.clone();
        (state.syncing, state.fault, state.failed, state.room) = (false, None, false, None);
    }

    /// A number that two disks share with the same messages and as many writes. (Definitions have passwords with salt.)
    pub fn digest(&self) -> u64 {
        use std::hash::{Hash as _, Hasher as _};
        let state = self.0.lock();
        let mut hasher = rustc_hash::FxHasher::default();
        let rows = [Family::Messages, Family::Marks, Family::Spill].map(|family| state.now.get(&family));
        (rows, state.writes).hash(&mut hasher);
        hasher.finish()
    }

    pub fn get(&self, family: Family, key: &[u8]) -> Option<Vec<u8>> {
        self.0.lock().now.get(&family)?.get(key).map(|value| value.to_vec())
    }

    pub fn up_to(&self, family: Family, key: &[u8]) -> Option<Row> {
        let state = self.0.lock();
        let rows = state.now.get(&family)?;
        rows.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .map(|(key, value)| (key.clone(), value.clone()))
    }

    pub fn from(&self, family: Family, start: &[u8], end: Option<&[u8]>) -> Vec<Row> {
        let state = self.0.lock();
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = state.now.get(&family).into_iter();
        rows.flat_map(|rows| rows.range::<[u8], _>((Bound::Included(start), end)))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    pub fn give_back(&self, family: Family, start: &[u8], last: &[u8]) -> Result<(), Failure> {
        let mut state = self.0.lock();
        let State { now, safe, .. } = &mut *state;
        // No log tells of it, and nothing brings a file back.
        for families in [now, safe] {
            families.entry(family).or_default().retain(|key, _| !(start <= &**key && &**key <= last));
        }
        Ok(())
    }
}

fn failed(text: String) -> Failure {
    Failure { text, is_damage: false }
}

/// Between two looks whether there is something to do.
const LOOKS: Duration = Duration::from_millis(1);

/// What the reading thread would have to do.
pub struct Reads(mpsc::Receiver<Request>);

impl Store {
    /// A store without threads: [`Store::simulate_commits`] and [`Store::simulate_reads`] are to do their work.
    pub fn simulated(disk: &Arc<SimulatedDisk>, options: &Options) -> (Arc<Self>, Reads) {
        let (loads, requests) = mpsc::channel();
        let rows = Rows::Simulated(Arc::clone(disk));
        (Arc::new(Self::over(rows, Room::new(&options.folder, 0), options, loads)), Reads(requests))
    }

    /// Commits as the thread does, but that time passes between all of its steps. Ends when the store is closed; with an
    /// error when the disk fails, which ends a process.
    pub async fn simulate_commits(
        &self,
        disk: &SimulatedDisk,
        mut pause: impl FnMut() -> Duration,
    ) -> Result<(), Failure> {
        let mut commits = Commits::default();
        loop {
            let begins = self.wake.0.lock().begins(&commits, Instant::now());
            let Some(wake) = begins else {
                sleep(LOOKS).await;
                continue;
            };
            let taken = self.take(&mut commits);
            sleep(pause()).await;
            while !disk.fits(taken.bytes()) {
                sleep(LOOKS).await;
            }
            let written = match self.write(taken, &mut commits) {
                Ok(written) => written,
                Err(failure) => {
                    // Until the process ends, its other threads go on.
                    sleep(pause()).await;
                    return Err(failure);
                }
            };
            sleep(pause()).await;
            disk.sync();
            sleep(pause()).await;
            if !self.tell(written, &mut commits) && wake.stop {
                return Ok(());
            }
        }
    }

    /// One commit, which takes no time.
    pub fn commit_now(&self, disk: &SimulatedDisk) {
        let mut commits = Commits::default();
        let taken = self.take(&mut commits);
        let written = self.write(taken, &mut commits).expect("nobody has told the disk to fail");
        disk.sync();
        self.tell(written, &mut commits);
    }

    /// Reads as the thread does, taking its time.
    pub async fn simulate_reads(&self, reads: Reads, mut pause: impl FnMut() -> Duration) {
        loop {
            match reads.0.try_recv() {
                Ok(request) => {
                    sleep(pause()).await;
                    self.answer(request);
                }
                Err(mpsc::TryRecvError::Empty) => sleep(LOOKS).await,
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
    }
}

fn apply(families: &mut Families, writes: &[Write]) {
    for write in writes {
        match write {
            Write::Put(family, key, value) => {
                families.entry(*family).or_default().insert(key.clone(), value.clone());
            }
            Write::Delete(family, key) => {
                families.entry(*family).or_default().remove(key);
            }
            Write::DeleteRange(family, start, end) => {
                families.entry(*family).or_default().retain(|key, _| !(start <= key && key < end));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str) -> Vec<Write> {
        vec![Write::Put(Family::Messages, name.as_bytes().into(), Box::default())]
    }

    fn names(disk: &SimulatedDisk) -> String {
        disk.from(Family::Messages, &[], None)
            .into_iter()
            .map(|(key, _)| String::from_utf8_lossy(&key).into_owned())
            .collect()
    }

    #[test]
    fn a_crash_leaves_what_was_synced_and_a_part_of_the_rest() {
        let disk = SimulatedDisk::default();
        disk.write(put("a"), true).unwrap();
        disk.sync();
        for name in ["b", "c", "d"] {
            disk.write(put(name), false).unwrap();
        }
        disk.write_unlogged(&put("e")).unwrap();
        assert_eq!(names(&disk), "abcde");
        disk.crash(|unsynced| unsynced - 1);
        assert_eq!(names(&disk), "abc");
        disk.crash(|unsynced| unsynced);
        assert_eq!(names(&disk), "abc");
    }

    #[test]
    fn a_disk_that_failed_takes_nothing_until_it_is_opened_again() {
        let disk = SimulatedDisk::default();
        disk.fail_after(1, Fault::Unsynced);
        disk.write(put("a"), true).unwrap();
        disk.sync();
        assert!(disk.write(put("b"), true).is_err() && disk.write(put("c"), true).is_err());
        disk.sync();
        assert_eq!(names(&disk), "a");
        disk.crash(|unsynced| unsynced);
        assert_eq!(names(&disk), "ab");
        disk.write(put("c"), true).unwrap();
    }
}
