//! kill -9 at named points: right before or after a call of the broker that matters.

use crate::broker::End;
use crate::shim::Shim;
use crate::stage::Stage;
use leveret_checker::Crash;
use std::io;
use std::time::Duration;

struct Point {
    name: &'static str,
    /// `call:kind:when` of the shim.
    action: &'static str,
    /// It is one of so many calls, by chance.
    nth_max: u64,
    stage: When,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Load,
    /// With so little memory that everything goes to disk and comes back.
    Paging,
    /// Only queues and bindings come and go.
    Definitions,
    Start,
}

const POINTS: &[Point] = &[
    Point { name: "before a write", action: "write:wal:before", nth_max: 150, stage: When::Load },
    Point { name: "after a write", action: "write:wal:after", nth_max: 150, stage: When::Load },
    Point { name: "before a sync", action: "sync:wal:before", nth_max: 80, stage: When::Load },
    Point { name: "after a sync", action: "sync:wal:after", nth_max: 80, stage: When::Load },
    Point { name: "before a confirm", action: "confirm:any:before", nth_max: 150, stage: When::Load },
    Point { name: "after a confirm", action: "confirm:any:after", nth_max: 150, stage: When::Load },
    Point { name: "before a flush's write", action: "write:sst:before", nth_max: 12, stage: When::Paging },
    Point { name: "after a flush's write", action: "write:sst:after", nth_max: 12, stage: When::Paging },
    Point { name: "before a flush's sync", action: "sync:sst:before", nth_max: 6, stage: When::Paging },
    Point { name: "after a flush's sync", action: "sync:sst:after", nth_max: 6, stage: When::Paging },
    Point { name: "before a manifest's write", action: "write:manifest:before", nth_max: 6, stage: When::Paging },
    Point { name: "after a manifest's sync", action: "sync:manifest:after", nth_max: 6, stage: When::Paging },
    Point { name: "before a file's end", action: "unlink:sst:before", nth_max: 3, stage: When::Paging },
    Point { name: "after a file's end", action: "unlink:sst:after", nth_max: 3, stage: When::Paging },
    Point { name: "after a log's end", action: "unlink:wal:after", nth_max: 2, stage: When::Paging },
    Point { name: "paging", action: "write:wal:before", nth_max: 400, stage: When::Paging },
    Point { name: "before a definition's write", action: "write:wal:before", nth_max: 60, stage: When::Definitions },
    Point { name: "after a definition's write", action: "write:wal:after", nth_max: 60, stage: When::Definitions },
    Point { name: "after a definition's sync", action: "sync:wal:after", nth_max: 60, stage: When::Definitions },
    Point { name: "recovery, before a change", action: "any:any:before", nth_max: 40, stage: When::Start },
    Point { name: "recovery, after a change", action: "any:any:after", nth_max: 40, stage: When::Start },
    Point { name: "recovery, before a rename", action: "rename:any:before", nth_max: 3, stage: When::Start },
    Point { name: "recovery, after a rename", action: "rename:any:after", nth_max: 3, stage: When::Start },
];

/// How long a point may take to be reached.
const PATIENCE: Duration = Duration::from_secs(4);
const LITTLE_MEMORY: &[&str] = &[
    "--messages-memory",
    "1MiB",
    "--queue-memory",
    "64KiB",
    "--store-write-buffer",
    "64KiB",
    "--unsynced-max",
    "1MiB",
];

/// Each point so many times.
pub fn run(stage: &mut Stage) -> io::Result<()> {
    let shim = Shim::build(stage.folder.path())?;
    let flags = stage.broker.flags.clone();
    for _ in 0..stage.orders.cycles {
        for point in POINTS {
            stage.broker.flags.clone_from(&flags);
            if point.stage == When::Paging {
                stage.broker.flags.extend(LITTLE_MEMORY.iter().map(|flag| (*flag).to_owned()));
            }
            let nth = stage.random.within(1..=point.nth_max);
            let action = format!("{}:{nth}:kill", point.action);
            let folder = stage.broker.folder.clone();
            let armed = shim.variables(&folder, &action);
            if point.stage == When::Start {
                at_start(stage, armed)?;
            } else {
                under_load(stage, point.stage, armed)?;
            }
            if shim.told().fired {
                stage.count(&format!("killed at: {}", point.name), 1);
            } else {
                stage.count(&format!("not reached: {}", point.name), 1);
            }
            stage.broker.variables.clear();
            stage.recover()?;
            stage.settle()?;
            let at_us = stage.broker.kill()?;
            stage.recorder.crash(Crash::Kill, at_us);
        }
        stage.cycles += 1;
        stage.progress();
    }
    Ok(())
}

fn under_load(stage: &mut Stage, when: When, armed: Vec<(String, String)>) -> io::Result<()> {
    // The topology is there before, so that the points lie in the load.
    stage.start()?;
    stage.declare()?;
    stage.broker.kill()?;
    stage.recorder.crash(Crash::Kill, crate::recorder::now_us());
    stage.broker.variables = armed;
    let load = match stage.broker.start()? {
        Ok(()) => Some(if when == When::Definitions { stage.churn() } else { stage.load() }),
        Err(_) => None,
    };
    end(stage)?;
    if let Some(load) = load {
        load.join();
    }
    stage.recorder.crash(Crash::Kill, crate::recorder::now_us());
    Ok(())
}

fn at_start(stage: &mut Stage, armed: Vec<(String, String)>) -> io::Result<()> {
    stage.start()?;
    stage.declare()?;
    let load = stage.load();
    std::thread::sleep(Duration::from_millis(stage.random.within(50..=400)));
    let at_us = stage.broker.kill()?;
    load.join();
    stage.recorder.crash(Crash::Kill, at_us);
    stage.broker.variables = armed;
    stage.broker.launch()?;
    // Most points are reached before it listens.
    if stage.broker.await_listener()?.is_ok() {
        std::thread::sleep(Duration::from_millis(20));
        stage.broker.kill()?;
    }
    stage.recorder.crash(Crash::Kill, crate::recorder::now_us());
    Ok(())
}

/// Waits until the shim ends it, and does it otherwise.
fn end(stage: &mut Stage) -> io::Result<()> {
    match stage.broker.await_end(PATIENCE)? {
        Some(End::Signal(9)) => {}
        Some(end) => stage.problems.push(format!("the broker ended with {end:?}")),
        None => drop(stage.broker.kill()?),
    }
    Ok(())
}
