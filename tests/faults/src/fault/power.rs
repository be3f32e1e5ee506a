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
/// RocksDB's log is made of blocks, and no record of one goes over its end.
const BLOCK_BYTES: usize = 32 << 10;
const RECORD_HEAD_BYTES: usize = 7;

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
        let moment = stage.random.within(50..=stage.orders.moment_ms_max);
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

/// Of what was not synced, a beginning reached the disk all the same. If all was synced at that moment, a record that was
/// about to be written is made up.
fn tear(stage: &mut Stage, log: &Path, whole: &[u8]) -> io::Result<()> {
    let Ok(mut kept) = std::fs::read(log) else { return Ok(()) };
    let (from, to) = (kept.len(), whole.len());
    if from < to && whole.starts_with(&kept) {
        let more = stage.random.within(1..=(to - from) as u64);
        let mut end = from as u64 + more;
        if stage.random.chance(70) {
            end = end / SECTOR_BYTES * SECTOR_BYTES;
        }
        let end = usize::try_from(end).unwrap_or(to).max(from);
        kept.extend_from_slice(&whole[from..end]);
        stage.count("torn tails", 1);
    } else if let Some(record) = part_of_a_record(stage, &kept) {
        kept.extend_from_slice(&record);
        stage.count("torn tails, made up", 1);
    }
    std::fs::write(log, kept)
}

/// The beginning of a log's first record, without its end: checksum (4), length (2), type (1), then what it holds. It must fit
/// into the block that the log ends in.
fn part_of_a_record(stage: &mut Stage, log: &[u8]) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_le_bytes([*log.get(4)?, *log.get(5)?]));
    let room = BLOCK_BYTES - log.len() % BLOCK_BYTES;
    let most = (RECORD_HEAD_BYTES + length - 1).min(log.len());
    let part = usize::try_from(stage.random.within(1..=most as u64)).ok()?;
    (RECORD_HEAD_BYTES + length <= room).then(|| log[..part].to_vec())
}
