//! Few descriptors, and little memory.

use crate::amqp::Client;
use crate::stage::Stage;
use leveret_checker::Crash;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DESCRIPTORS: u64 = 400;
/// More than there are descriptors.
const CONNECTIONS: usize = 600;
const MEMORY_BYTES: u64 = 128 << 20;

/// More clients come than there are descriptors; those who are in are served.
pub fn descriptors(stage: &mut Stage) -> io::Result<()> {
    stage.broker.wrapper = vec!["prlimit".into(), format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}")];
    stage.start()?;
    while stage.cycles < stage.orders.cycles {
        stage.declare()?;
        let load = stage.load();
        // Those of the load are in.
        std::thread::sleep(Duration::from_millis(500));
        let mut others = Vec::new();
        for _ in 0..CONNECTIONS {
            match std::net::TcpStream::connect(("127.0.0.1", stage.broker.port)) {
                Ok(socket) => others.push(socket),
                Err(_) => break,
            }
        }
        std::thread::sleep(Duration::from_millis(stage.random.within(200..=1000)));
        stage.count("sockets besides", others.len() as u64);
        drop(others);
        for error in load.finish() {
            stage.problems.push(format!("a client that was in: {error}"));
        }
        if let Some(end) = stage.broker.ended()? {
            stage.problems.push(format!("without descriptors the broker ended with {end:?}"));
        }
        Client::connect(stage.broker.port)?.close()?;
        stage.cycles += 1;
        stage.settle()?;
        stage.progress();
    }
    stage.stop()
}

/// A control group with less memory than the load could fill.
pub fn memory(stage: &mut Stage) -> io::Result<()> {
    let Some(group) = Group::new(MEMORY_BYTES) else {
        eprintln!("memory: SKIPPED: no control group for memory can be made here");
        return Ok(());
    };
    let door = group.folder.join("cgroup.procs");
    let enter = format!("echo $$ >{} && exec \"$0\" \"$@\"", door.display());
    stage.broker.wrapper = vec!["sh".into(), "-c".into(), enter];
    stage.orders.intensity.body_bytes_max = 1 << 20;
    stage.start()?;
    while stage.cycles < stage.orders.cycles {
        stage.declare()?;
        let load = stage.load();
        std::thread::sleep(Duration::from_millis(stage.random.within(1000..=3000)));
        if let Some(end) = stage.broker.ended()? {
            stage.problems.push(format!("with little memory the broker ended with {end:?}"));
        }
        let at_us = stage.broker.kill()?;
        load.join();
        stage.recorder.crash(Crash::Kill, at_us);
        stage.recover()?;
        stage.cycles += 1;
        stage.settle()?;
        stage.progress();
    }
    stage.stop()
}

struct Group {
    folder: PathBuf,
}

impl Group {
    /// Of either version of control groups.
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("leveret-faults-{}", std::process::id());
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = groups.lines().find_map(|line| line.split_once(":memory:").map(|(_, path)| path.to_owned()));
        let (folder, limit) = match own {
            Some(own) => {
                let parent = Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/'));
                (parent.join(name), "memory.limit_in_bytes")
            }
            None => (Path::new("/sys/fs/cgroup").join(name), "memory.max"),
        };
        fs::create_dir(&folder).ok()?;
        let group = Self { folder };
        fs::write(group.folder.join(limit), bytes.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
