//! Room on the disk: what is left of it, a ballast to throw off when it runs out, and no write that would not fit.
//!
//! RocksDB takes a write that did not fit for the end: nothing can be written any more until it is opened again. So the
//! commit thread looks before it writes, and waits for room instead.

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Octets that may still be written.
    pub free: u64,
    /// Octets in all.
    pub total: u64,
}

/// The file system of a folder.
pub fn disk(folder: &Path) -> io::Result<Disk> {
    let found = statvfs(folder)?;
    let octets = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Disk { free: octets(found.f_bavail), total: octets(found.f_blocks) })
}

/// So much stays free whatever is written: for the files that RocksDB writes on its own account, at the next start too.
const RESERVE_BYTES: u64 = 32 << 20;
/// Little of it is open to small writes: acknowledgements and deletions, which make room.
const SMALL_RESERVE_BYTES: u64 = 20 << 20;
const SMALL_BYTES: usize = 64 << 10;
/// The ballast takes no more than such a part of the file system.
const BALLAST_PART: u64 = 16;
/// The ballast goes when so small a part of what is to be free is left.
const THROW_OFF_PART: u64 = 4;

/// The room in a store's folder.
#[derive(Debug)]
pub struct Room {
    folder: PathBuf,
    ballast_bytes: u64,
    /// The file system can't set octets aside, which is told once.
    without: AtomicBool,
}

/// What to do with the ballast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Keep,
    ThrowOff,
    TakeOn,
}

/// `wanted`: octets that are to be free; below that nobody publishes.
fn step(is_there: bool, ballast: u64, free: u64, wanted: u64) -> Step {
    // As much as ends an alarm, so that the ballast never is the cause of one.
    let plenty = wanted.saturating_add(wanted / 5).saturating_add(ballast).saturating_add(RESERVE_BYTES);
    match is_there {
        true if free < wanted / THROW_OFF_PART => Step::ThrowOff,
        false if ballast > 0 && free >= plenty => Step::TakeOn,
        _ => Step::Keep,
    }
}

impl Room {
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn new(folder: &Path, ballast_bytes: u64) -> Self {
        Self { folder: folder.to_owned(), ballast_bytes, without: AtomicBool::new(false) }
    }

    /// Whether so many octets may be written now. Where nobody can say, they may.
    pub fn fits(&self, bytes: usize) -> bool {
        let needed = match bytes {
            ..=SMALL_BYTES => SMALL_RESERVE_BYTES,
            // Once in the log, and once more in the files that are made of it.
            _ => RESERVE_BYTES.saturating_add((bytes as u64).saturating_mul(2)),
        };
        let has_room = || disk(&self.folder).map_or(true, |disk| disk.free >= needed);
        has_room() || self.throw_off() && has_room()
    }

    /// Throws the ballast off or takes it on again, whichever suits what is free. Octets.
    pub fn balance(&self, disk: Disk, wanted: u64) {
        let ballast = self.ballast_bytes.min(disk.total / BALLAST_PART);
        match step(self.file().exists(), ballast, disk.free, wanted) {
            Step::Keep => {}
            Step::ThrowOff => drop(self.throw_off()),
            Step::TakeOn if self.without.load(Ordering::Relaxed) => {}
            Step::TakeOn => {
                if let Err(error) = self.take_on(ballast) {
                    let _ = fs::remove_file(self.file());
                    self.without.store(true, Ordering::Relaxed);
                    tracing::warn!("no ballast file: {error}; a full disk will be harder to drain");
                }
            }
        }
    }

    /// Makes room; says whether there was a ballast.
    pub fn throw_off(&self) -> bool {
        let thrown = fs::remove_file(self.file()).is_ok();
        if thrown {
            // Some file systems give the room back only once that is on disk.
            let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
            tracing::warn!("the disk is nearly full: the ballast file was deleted, so that queues can be drained");
        }
        thrown
    }

    fn take_on(&self, bytes: u64) -> io::Result<()> {
        let file = File::create(self.file())?;
        Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
    }

    fn file(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_goes_when_little_is_left_and_comes_back_when_there_is_plenty() {
        const MIB: u64 = 1 << 20;
        let step = |is_there, free| step(is_there, 64 * MIB, free * MIB, 500 * MIB);
        assert_eq!(step(true, 125), Step::Keep);
        assert_eq!(step(true, 124), Step::ThrowOff);
        assert_eq!(step(false, 124), Step::Keep);
        assert_eq!(step(false, 695), Step::Keep);
        assert_eq!(step(false, 696), Step::TakeOn);
        assert_eq!(step(true, 10_000), Step::Keep);
        assert_eq!(super::step(false, 0, 10_000 * MIB, 500 * MIB), Step::Keep);
    }

    #[test]
    fn the_ballast_is_a_file_that_takes_room() {
        let folder = tempfile::tempdir().unwrap();
        let room = Room::new(folder.path(), 1 << 20);
        let plenty = Disk { free: 1 << 30, total: 1 << 40 };
        room.balance(plenty, 0);
        let file = folder.path().join("ballast");
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        room.balance(Disk { free: 1, ..plenty }, 100);
        assert!(!file.exists() && !room.throw_off());
    }

    #[test]
    fn a_folder_has_a_disk() {
        let found = disk(Path::new("/")).unwrap();
        assert!(found.total > 0 && found.free <= found.total);
        assert!(disk(Path::new("/does/not/exist")).is_err());
    }
}
