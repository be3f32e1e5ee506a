//! A control group of one's own, to run a broker in.

use std::fs;
use std::path::{Path, PathBuf};

/// A control group with a limit on memory; removed when dropped, after its processes.
pub struct Group {
    folder: PathBuf,
    /// Of control groups.
    version: u8,
}

impl Group {
    /// `None`, and a line that says so, where none can be made.
    pub fn with_memory(name: &str, bytes: u64) -> Option<Self> {
        let name = format!("leveret-{name}-{}", std::process::id());
        let made = Self::first(&name, bytes).or_else(|| Self::second(&name, bytes));
        if made.is_none() {
            eprintln!("skipped: no control group for memory can be made here, which needs root");
        }
        made
    }

    fn first(name: &str, bytes: u64) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = groups.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path.to_owned()))?;
        let parent = Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/'));
        let group = Self { folder: parent.join(name), version: 1 };
        fs::create_dir(&group.folder).ok()?;
        fs::write(group.folder.join("memory.limit_in_bytes"), bytes.to_string()).ok()?;
        Some(group)
    }

    fn second(name: &str, bytes: u64) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        // It may be on already.
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        let group = Self { folder: root.join(name), version: 2 };
        fs::create_dir(&group.folder).ok()?;
        fs::write(group.folder.join("memory.max"), bytes.to_string()).ok()?;
        Some(group)
    }

    /// The file to which a process writes its number to belong to it.
    pub fn door(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The most that was ever charged to it, the page cache included.
    pub fn bytes_max(&self) -> u64 {
        let file = if self.version == 1 { "memory.max_usage_in_bytes" } else { "memory.peak" };
        fs::read_to_string(self.folder.join(file)).unwrap().trim().parse().unwrap()
    }

    /// How many of its processes were killed for want of memory.
    pub fn kills(&self) -> u64 {
        let file = if self.version == 1 { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
