//! How much memory there is, and how much of it is used: read from the system, never kept. The disk is the store's.

use std::path::{Path, PathBuf};

/// Octets of the process that are in memory.
pub fn memory_used() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let resident: u64 = pages.split_ascii_whitespace().nth(1)?.parse().ok()?;
    resident.checked_mul(rustix::param::page_size() as u64)
}

/// What the process uses; 0 for what can't be found out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Process {
    /// Octets in memory.
    pub memory: u64,
    /// Open files and sockets.
    pub descriptors: u64,
    pub threads: u64,
    pub context_switches: u64,
}

/// Looks at the process.
pub fn process() -> Process {
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.trim_start_matches(':').trim().parse::<u64>().ok()).unwrap_or(0)
    };
    Process {
        memory: memory_used().unwrap_or(0),
        descriptors,
        threads: number("Threads"),
        context_switches: number("voluntary_ctxt_switches") + number("nonvoluntary_ctxt_switches"),
    }
}

/// How many files and sockets the process may have open.
pub fn descriptors_max() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many threads the system allows.
pub fn threads_max() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/threads-max").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Octets of memory that the process may use: the machine's, or the limit of its control group if that is less.
pub fn memory_total() -> u64 {
    let system = rustix::system::sysinfo();
    let machine = (system.totalram as u64).saturating_mul(system.mem_unit.into());
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    memory_limit(&groups, Path::new("/sys/fs/cgroup")).map_or(machine, |limit| limit.min(machine))
}

/// The least limit on memory of a process's control groups and of those around them, if there is any. `groups` is
/// `/proc/self/cgroup`, `mount` where the groups are mounted. A container often sees its own group as the root of
/// everything, whatever path it is told, so that every part of the path is tried.
fn memory_limit(groups: &str, mount: &Path) -> Option<u64> {
    let mut least = None;
    for file in limit_files(groups, mount) {
        // The second version writes `max` where there is no limit, the first a number larger than any memory.
        let limit = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok());
        least = limit.into_iter().chain(least).min();
    }
    least
}

/// The files that may hold a limit. Lines are `number:controllers:path`, without controllers in the second version.
fn limit_files(groups: &str, mount: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (roots, file) = match controllers {
            "" => (vec![mount.to_owned(), mount.join("unified")], "memory.max"),
            controllers if controllers.split(',').any(|name| name == "memory") => {
                (vec![mount.join("memory")], "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for root in roots {
            let own = root.join(path.trim_start_matches('/'));
            files.extend(own.ancestors().take_while(|folder| folder.starts_with(&root)).map(|group| group.join(file)));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        memory_limit(groups, folder.path())
    }

    #[test]
    fn the_second_versions_limit_is_the_least_on_the_way_up() {
        let groups = "0::/system.slice/leveret.service\n";
        let files = [
            ("system.slice/leveret.service/memory.max", "max\n"),
            ("system.slice/memory.max", "268435456\n"),
            ("memory.max", "1073741824\n"),
        ];
        assert_eq!(limit(groups, &files), Some(256 << 20));
        assert_eq!(limit(groups, &files[..1]), None);
        assert_eq!(limit(groups, &[]), None);
    }

    #[test]
    fn the_first_versions_limit_is_that_of_the_memory_controller() {
        let groups = "9:name=systemd:/\n4:cpu,memory:/docker/abc\n2:cpu:/docker/abc\n0::/\n";
        let files = [
            ("memory/docker/abc/memory.limit_in_bytes", "134217728\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("cpu/docker/abc/memory.limit_in_bytes", "1\n"),
        ];
        assert_eq!(limit(groups, &files), Some(128 << 20));
        // In a container its own group is the root.
        assert_eq!(limit(groups, &[("memory/memory.limit_in_bytes", "134217728\n")]), Some(128 << 20));
    }

    #[test]
    fn this_process_has_memory() {
        let process = process();
        assert!(process.threads > 0 && process.descriptors > 2 && process.memory > 1 << 20, "{process:?}");
        assert!(descriptors_max() > process.descriptors);
        let used = memory_used().unwrap();
        assert!(used > 1 << 20 && used < memory_total());
    }
}
