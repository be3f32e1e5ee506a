//! A small file system of one's own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A tmpfs that holds so many octets; unmounted when dropped.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None`, and a line that says so, where nothing may be mounted.
    pub fn mount(bytes: u64) -> Option<Self> {
        let disk = Self { folder: TempDir::new().unwrap() };
        let options = format!("size={bytes},mode=700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "leveret-test"])
            .arg(disk.path())
            .stderr(Stdio::null())
            .status();
        if !mount.is_ok_and(|status| status.success()) {
            eprintln!("skipped: nothing can be mounted here, which needs root");
            return None;
        }
        Some(disk)
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A folder for a broker.
    pub fn data_dir(&self) -> String {
        self.path().join("data").to_str().unwrap().to_owned()
    }

    /// Octets that may still be written.
    pub fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.path()).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Takes what is free, but for so many octets. Given back by [`SmallDisk::relieve`].
    pub fn fill_but(&self, left: u64) {
        let file = File::options().create(true).append(true).open(self.filler()).unwrap();
        let taken = file.metadata().unwrap().len();
        let bytes = (taken + self.free()).checked_sub(left).expect("less is free already");
        // There must be no moment at which more is free than before and after.
        if bytes > taken {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        } else {
            file.set_len(bytes).unwrap();
        }
    }

    pub fn relieve(&self) {
        // There may be none.
        let _ = std::fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Even if a broker that is about to be killed still uses it.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
