//! Somebody else takes all that is left of the disk, under load.

use crate::amqp::Client;
use crate::broker::End;
use crate::disk::Disk;
use crate::recorder::now_us;
use crate::stage::{Stage, tail};
use leveret_checker::{Crash, Event};
use std::io;
use std::time::{Duration, Instant};

const DISK_BYTES: u64 = 192 << 20;
const IO: i32 = 74;
/// Longer than the disk is full.
const STILL_MS: u64 = 10_000;
/// How long confirms may take once there is room again.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn run(stage: &mut Stage) -> io::Result<()> {
    let mount = stage.orders.data.clone().unwrap_or_else(|| stage.folder.path().join("disk"));
    let disk = Disk::small(mount.clone(), DISK_BYTES)?;
    if stage.broker.is_leveret() {
        stage.broker.folder = mount.join("data");
        // Without an alarm, so that the disk fills to the end.
        stage.broker.flags.extend(["--disk-free-limit-absolute", "0"].map(str::to_owned));
    }
    // While nothing can be written, acknowledgements are not either.
    stage.orders.promises.settled_within_ms = STILL_MS;
    let ran = cycles(stage, &disk);
    let _ = stage.broker.kill();
    ran
}

fn cycles(stage: &mut Stage, disk: &Disk) -> io::Result<()> {
    stage.start()?;
    while stage.cycles < stage.orders.cycles {
        stage.declare()?;
        let load = stage.load();
        std::thread::sleep(Duration::from_millis(stage.random.within(100..=1000)));
        // In one go, or nearly; sometimes there is room for a few writes.
        disk.fill_but(stage.random.within(0..=3) << 20)?;
        std::thread::sleep(Duration::from_millis(stage.random.within(200..=1500)));
        let ended = stage.broker.ended()?;
        match ended {
            Some(End::Code(IO)) => stage.count("ended by itself", 1),
            Some(end) => stage.problems.push(format!("on a full disk the broker ended with {end:?}")),
            None => {}
        }
        let killed = ended.is_none() && (stage.random.chance(33) || !stage.broker.is_leveret());
        if killed || ended.is_some() {
            let at_us = if killed { stage.broker.kill()? } else { now_us() };
            load.join();
            stage.recorder.crash(Crash::Kill, at_us);
            if killed && stage.broker.is_leveret() && start_while_full(stage)? {
                stage.count("started while full", 1);
                let at_us = stage.broker.kill()?;
                stage.recorder.crash(Crash::Kill, at_us);
            }
            disk.relieve();
            stage.recover()?;
        } else {
            disk.relieve();
            goes_on(stage)?;
            for error in load.finish() {
                stage.problems.push(format!("with room again, {error}"));
            }
        }
        stage.cycles += 1;
        stage.settle()?;
        stage.progress();
    }
    Ok(())
}

/// It starts, or says that there is no room.
fn start_while_full(stage: &mut Stage) -> io::Result<bool> {
    let mark = stage.broker.log_mark();
    match stage.broker.start()? {
        Ok(()) => {
            stage.recorder.note(Event::Recovered);
            Ok(true)
        }
        Err(End::Code(IO)) => {
            stage.count("refused to start while full", 1);
            Ok(false)
        }
        Err(end) => {
            let said = stage.broker.log_since(mark);
            stage.problems.push(format!("the start on a full disk ended with {end:?}: {}", tail(&said)));
            Ok(false)
        }
    }
}

/// New publishes are confirmed.
fn goes_on(stage: &mut Stage) -> io::Result<()> {
    let began = Instant::now();
    let before = stage.recorder.confirms();
    while stage.recorder.confirms() < before + 100 {
        if let Some(end) = stage.broker.ended()? {
            stage.problems.push(format!("with room again the broker ended with {end:?}"));
            return Err(io::Error::other("the broker ended"));
        }
        if began.elapsed() > PATIENCE {
            stage.problems.push("with room again nothing is confirmed".into());
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Client::connect(stage.broker.port)?.close()?;
    stage.count("went on", 1);
    Ok(())
}
