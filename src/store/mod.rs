//! The only place that names RocksDB.
//!
//! Messages rest in blocks, many to a row; one thread commits what all queues have waiting with one write and one sync
//! ([`commit`]); another reads blocks back ([`Store::load`]). Nothing here knows what a queue is: it knows sources of
//! writes, numbered.
//!
//! Column families: `messages` (blocks of durable queues, see [`keys`]), `marks` (what is settled and delivered of them;
//! apart, since rows that change with every commit would tie all files of blocks together and make RocksDB rewrite
//! them), `spill` (blocks of messages that
//! need not survive, written without a log and thrown away at start), `definitions`, `meta`.

pub mod commit;
pub mod keys;
mod options;
mod read;
mod room;
mod rows;
#[cfg(test)]
pub mod simulated;

pub use commit::{Batch, Change, Committed, Source};
pub use read::{Block, Recovered};
pub use room::{Disk, disk};

use crate::metrics::Histogram;
#[cfg(test)]
use crate::simulation::bugs::{Bug, planted};
use crossbeam_queue::SegQueue;
use parking_lot::{Condvar, Mutex, RwLock, RwLockReadGuard};
use rows::Rows;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

/// When a message counts as safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Once the disk says it has it: survives power loss.
    Fsync,
    /// Once the operating system has it: survives the broker's end, not the machine's.
    Os,
    /// At once: no message survives the broker's end.
    Memory,
}

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    pub folder: PathBuf,
    pub durability: Durability,
    /// Octets RocksDB gathers in memory before it writes a file; it may hold three such buffers.
    pub write_buffer_bytes: usize,
    /// Octets of messages that may wait for the disk before their publishers wait too.
    pub backlog_bytes_max: usize,
    /// Octets set aside in a file that is deleted when the disk is full; 0 for none.
    pub ballast_bytes: u64,
}

/// Why a folder can't be opened. Each has an exit code of its own.
#[derive(Debug)]
pub enum OpenError {
    /// Another broker has it.
    Locked(PathBuf),
    /// Written by another version of the broker.
    Version { found: String, folder: PathBuf },
    /// Its files are damaged, and going on would lose messages silently.
    Damaged { folder: PathBuf, text: String },
    /// It can't be read or written.
    Io { folder: PathBuf, text: String },
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Locked(folder) => {
                write!(
                    out,
                    "another broker uses the data folder {}: stop it, or choose another folder with --data-dir",
                    folder.display()
                )
            }
            Self::Version { found, folder } => {
                write!(
                    out,
                    "the data folder {} has format {found}, this broker writes format {FORMAT}: start the version that wrote it",
                    folder.display()
                )
            }
            Self::Damaged { folder, text } => {
                write!(
                    out,
                    "the data folder {} is damaged ({text}): nothing was changed; restore it from a backup, or move it away to start empty",
                    folder.display()
                )
            }
            Self::Io { folder, text } => write!(out, "can't open the data folder {}: {text}", folder.display()),
        }
    }
}

impl std::error::Error for OpenError {}

/// Why rows can't be read or written.
#[derive(Debug)]
pub struct Failure {
    /// In RocksDB's words.
    text: String,
    /// What is on disk is not what was written; anything else is the disk's, and may be over at the next start.
    is_damage: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<rocksdb::Error> for Failure {
    fn from(error: rocksdb::Error) -> Self {
        Self { is_damage: error.kind() == rocksdb::ErrorKind::Corruption, text: error.into_string() }
    }
}

/// The part of the backlog that one publisher may be while the disk is behind.
const SHARE_PART: usize = 16;

/// The format of the folder. A change of format comes with a migration.
pub const FORMAT: &str = "1";

/// The broker's disk. Dropped only after [`Store::close`], or the last writes are lost.
#[derive(Debug)]
pub struct Store {
    rows: Rows,
    room: room::Room,
    durability: Durability,
    backlog_bytes_max: usize,
    /// Octets of messages that wait to be written, of all queues together.
    backlog_bytes: AtomicUsize,
    /// Told after each commit; publishers that were asked to wait look again.
    relief: tokio::sync::Notify,
    /// Sources with something to write. Each is in it at most once, so the number of queues bounds it.
    dirty: SegQueue<Arc<dyn Source>>,
    /// Changes of definitions, in order. Bounded by the connections, each of which waits for its own.
    changes: Mutex<Vec<commit::Pending>>,
    /// How many were asked for that are not safe yet.
    changes_unsafe: AtomicUsize,
    /// How many commits there were that left nobody for a later one.
    commits: AtomicU64,
    /// Held for reading while one thing changes several sources that must reach the disk together.
    together: RwLock<Together>,
    wake: (Mutex<Wake>, Condvar),
    loads: Mutex<Option<mpsc::Sender<read::Request>>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// How long its commits took.
    pub times: Times,
}

/// What commits cost.
#[derive(Debug, Default)]
pub struct Times {
    /// From when everything was asked for what it has to write until all were told that it is safe.
    pub commit: Histogram,
    /// Of that, writing and syncing.
    pub sync: Histogram,
    /// Octets written to the log, and blocks read back.
    pub written_bytes: AtomicU64,
    pub reads: AtomicU64,
}

/// What must be in one write.
#[derive(Debug, Default)]
pub struct Together {
    /// Since the last commit something has changed several sources: none of them may be left for a later one.
    is_joined: AtomicBool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Wake {
    work: bool,
    stop: bool,
}

impl std::fmt::Debug for dyn Source {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("source")
    }
}

impl Store {
    /// Opens or creates the folder and starts the two threads.
    pub fn open(options: &Options) -> Result<Arc<Self>, OpenError> {
        let room = room::Room::new(&options.folder, options.ballast_bytes);
        if exists(&options.folder) {
            // Opening writes files.
            room.fits(0);
        }
        let rows = Rows::Rocks(options::open(options)?);
        let (loads, requests) = mpsc::channel();
        let store = Arc::new(Self::over(rows, room, options, loads));
        let io = |error: std::io::Error| OpenError::Io { folder: options.folder.clone(), text: error.to_string() };
        let commit = Arc::clone(&store);
        let read = Arc::clone(&store);
        let threads = [
            std::thread::Builder::new()
                .name("commit".into())
                .spawn(move || guarded(|| commit.commit_loop()))
                .map_err(io)?,
            std::thread::Builder::new()
                .name("read".into())
                .spawn(move || guarded(|| read.read_loop(&requests)))
                .map_err(io)?,
        ];
        store.threads.lock().extend(threads);
        Ok(store)
    }

    fn over(rows: Rows, room: room::Room, options: &Options, loads: mpsc::Sender<read::Request>) -> Self {
        Self {
            rows,
            room,
            durability: options.durability,
            backlog_bytes_max: options.backlog_bytes_max,
            backlog_bytes: AtomicUsize::new(0),
            relief: tokio::sync::Notify::new(),
            dirty: SegQueue::new(),
            changes: Mutex::new(Vec::new()),
            changes_unsafe: AtomicUsize::new(0),
            commits: AtomicU64::new(0),
            together: RwLock::default(),
            wake: (Mutex::new(Wake::default()), Condvar::new()),
            loads: Mutex::new(Some(loads)),
            threads: Mutex::new(Vec::new()),
            times: Times::default(),
        }
    }

    /// Octets that it keeps in memory: what was written and is not in files yet, and what is known of files.
    pub fn memory_bytes(&self) -> u64 {
        self.rows.memory_bytes()
    }

    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Throws ballast off or takes it on again. `disk` is the folder's, and `wanted` octets of it are to be free.
    pub fn balance(&self, disk: Disk, wanted: u64) {
        self.room.balance(disk, wanted);
    }

    /// Notes that a source has something to write. It must see to it that it is noted only once until it is asked.
    /// May be called under the source's lock; [`Store::wake`] then follows without it.
    pub fn note(&self, source: Arc<dyn Source>) {
        self.dirty.push(source);
    }

    /// Starts the next commit, unless one is under way: then what was noted goes with the one after it.
    pub fn wake(&self) {
        let mut wake = self.wake.0.lock();
        if !wake.work {
            wake.work = true;
            self.wake.1.notify_one();
        }
    }

    /// Counts octets that wait to be written.
    pub fn backlog(&self, before: usize, now: usize) {
        if now > before {
            self.backlog_bytes.fetch_add(now - before, Ordering::Relaxed);
        } else if before > now {
            self.backlog_bytes.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Whether publishers should wait until the disk has caught up.
    pub fn behind(&self) -> bool {
        self.backlog_bytes.load(Ordering::Relaxed) > self.backlog_bytes_max
    }

    /// Whether those should wait, too, of which but little waits.
    pub fn far_behind(&self) -> bool {
        self.backlog_bytes.load(Ordering::Relaxed) / 2 > self.backlog_bytes_max
    }

    /// What one publisher may have waiting while the disk is behind.
    pub fn share_bytes(&self) -> usize {
        self.backlog_bytes_max / SHARE_PART
    }

    /// How many commits there were that left nobody for a later one. What was handed over two of them ago does not wait any
    /// more.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Waits until the disk has caught up.
    pub async fn caught_up(&self) {
        loop {
            let relief = self.relief.notified();
            if !self.behind() {
                return;
            }
            relief.await;
        }
    }

    /// While the guard lives, no commit begins: what is done to several sources goes to disk in one write.
    pub fn together(&self) -> RwLockReadGuard<'_, Together> {
        let together = self.together.read();
        #[cfg(test)]
        if planted(Bug::SplitTransaction) {
            return together;
        }
        together.is_joined.store(true, Ordering::Relaxed);
        together
    }

    /// A write, a sync or a read failed. It is not tried again: what the disk then holds is unknown, and a second sync may
    /// succeed without the data. So the process ends, and says how to go on; the next start finds everything that was
    /// confirmed.
    fn fail(&self, failure: &Failure) -> ! {
        let text = failure.to_string();
        if failure.is_damage {
            // It was met when files were merged, and no write is taken any more.
            options::note_damage(self.room.folder(), &text);
            tracing::error!(
                error = text,
                "what is on disk is damaged: the broker stops; start it again, and it leaves those files alone and serves \
                 what can be read"
            );
            end(exit::DATA);
        }
        tracing::error!(
            error = text,
            "the disk failed: the broker stops, nothing confirmed is lost; make room or replace the disk, and start again"
        );
        end(exit::IO);
    }

    /// Writes everything that is noted and ends the threads. Nothing may be noted any more.
    pub fn close(&self) {
        {
            let mut wake = self.wake.0.lock();
            (wake.work, wake.stop) = (true, true);
            self.wake.1.notify_one();
        }
        self.loads.lock().take();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store had panicked");
            }
        }
    }
}

/// Runs a thread that the broker can't do without: if it panics, the process ends. Going on would leave everybody
/// waiting for ever; what was confirmed is on disk.
fn guarded(work: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        tracing::error!("a broken invariant ended a thread of the store; the broker stops, nothing confirmed is lost");
        end(exit::BROKEN);
    }
}

/// Ends the process at once. What ends it otherwise waits for destructors, and meanwhile RocksDB's threads go on: they try a
/// sync again that failed, or wait for ever for each other.
fn end(code: u8) -> ! {
    signal_hook::low_level::exit(code.into())
}

/// What the process ends with because of its data, as sysexits.h has it.
pub mod exit {
    /// EX_DATAERR: the data folder is damaged, or of another version.
    pub const DATA: u8 = 65;
    /// EX_SOFTWARE: an invariant is broken.
    pub const BROKEN: u8 = 70;
    /// EX_IOERR: the data folder can't be read or written.
    pub const IO: u8 = 74;
}

/// Whether a folder holds a broker's data.
pub fn exists(folder: &Path) -> bool {
    folder.join("CURRENT").exists()
}
