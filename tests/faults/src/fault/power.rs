//! Power loss: the broker stands still, the disk is copied as it is, and another broker starts on the copy. What was not
//! synced is in the system's memory and not on the disk.

use crate::disk::Disk;
use crate::recorder::now_us;
use crate::stage::Stage;
use leveret_checker::Crash;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DISK_BYTES: u64 = 1 << 30;
const SECTOR_BYTES: u64 = 512;

pub fn run(stage: &mut Stage) -> io::Result<()> {
    let image = stage.folder.path().join("image");
    let mount = stage.orders.data.clone().unwrap_or_else(|| stage.folder.path().join("disk"));
    let mut disk = Disk::image(image, mount.clone(), DISK_BYTES)?;
    if stage.broker.is_leveret() {
        stage.broker.folder = mount.join("data");
    }
    let ran = cycles(stage, &mut disk);
    // Before the file system goes.
    let _ = stage.broker.kill();
    ran
}

fn cycles(stage: &mut Stage, disk: &mut Disk) -> io::Result<()> {
    let copy = stage.folder.path().join("copy");
    stage.start()?;
    while stage.cycles < stage.orders.cycles {
        stage.declare()?;
        let load = stage.load();
        let moment = stage.random.between(50, stage.orders.moment_ms_max);
        std::thread::sleep(Duration::from_millis(moment));
        stage.broker.freeze()?;
        let at_us = now_us();
        let tries = disk.copy(&copy)?;
        stage.count("copies", tries);
        stage.broker.kill()?;
        load.join();
        stage.recorder.crash(Crash::Power, at_us);
        let tails = if stage.broker.is_leveret() && stage.random.chance(50) {
            logs(&stage.broker.folder)?
        } else {
            BTreeMap::new()
        };
        disk.replace(&copy)?;
        for (log, whole) in &tails {
            tear(stage, log, whole)?;
        }
        stage.recover()?;
        stage.cycles += 1;
        stage.settle()?;
        stage.progress();
    }
    Ok(())
}

/// The logs as the system's memory has them.
fn logs(folder: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            found.insert(path.clone(), std::fs::read(path)?);
        }
    }
    Ok(found)
}

/// Of what was not synced, a beginning reached the disk all the same; its last sector perhaps in part.
fn tear(stage: &mut Stage, log: &Path, whole: &[u8]) -> io::Result<()> {
    let Ok(mut kept) = std::fs::read(log) else { return Ok(()) };
    let (from, to) = (kept.len(), whole.len());
    if from >= to || !whole.starts_with(&kept) {
        return Ok(());
    }
    let more = stage.random.between(1, (to - from) as u64);
    let mut end = from as u64 + more;
    if stage.random.chance(70) {
        end = end / SECTOR_BYTES * SECTOR_BYTES;
    }
    let end = usize::try_from(end).unwrap_or(to).max(from);
    kept.extend_from_slice(&whole[from..end]);
    stage.count("torn tails", 1);
    std::fs::write(log, kept)
}
