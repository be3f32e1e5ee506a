//! Bits flip, pages are empty, files end early: a start either refuses and says so, or serves the rest and says so. Never a
//! wrong body, never a panic, and nothing is lost silently. What meets damage while it runs ends, and serves the rest from its next
//! start on.

use crate::broker::End;
use crate::drain;
use crate::recorder::{Recorder, now_us};
use crate::stage::{Stage, tail};
use leveret_checker::{Crash, Event, Rule, judge};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Damages to one load.
const DAMAGES_MAX: u64 = 20;
const DATA: i32 = 65;
const IO: i32 = 74;
const PAGE_BYTES: u64 = 4096;
/// The file that says so of a folder.
const DAMAGED: &str = "damaged";
/// A broker that ends has its clients gone a moment before.
const ENDS_WITHIN: Duration = Duration::from_millis(50);
const FLAGS: &[&str] = &["--store-write-buffer", "64KiB", "--messages-memory", "1MiB", "--queue-memory", "64KiB"];

pub fn run(stage: &mut Stage) -> io::Result<()> {
    stage.broker.flags.extend(FLAGS.iter().map(|flag| (*flag).to_owned()));
    let sound = stage.broker.folder.clone();
    let rotten = stage.folder.path().join("rotten");
    while stage.cycles < stage.orders.cycles {
        fill(stage)?;
        for _ in 0..DAMAGES_MAX.min(stage.orders.cycles - stage.cycles) {
            copy(&sound, &rotten)?;
            let said = damage(stage, &rotten)?;
            let whole = stage.recorder.clone();
            stage.recorder = whole.fork();
            stage.broker.folder.clone_from(&rotten);
            let held = look(stage, &said);
            // It may still run.
            stage.broker.kill()?;
            stage.broker.folder.clone_from(&sound);
            stage.recorder = whole;
            held?;
            stage.cycles += 1;
        }
        // The sound one is judged like any other.
        stage.recover()?;
        stage.settle()?;
        stage.progress();
        let at_us = stage.broker.kill()?;
        stage.recorder.crash(Crash::Kill, at_us);
    }
    Ok(())
}

/// Some messages in all queues, on disk in all kinds of files, and nobody there.
fn fill(stage: &mut Stage) -> io::Result<()> {
    stage.start()?;
    stage.declare()?;
    let load = stage.load();
    std::thread::sleep(Duration::from_millis(stage.random.within(200..=800)));
    let clean = stage.random.chance(50);
    let at_us = now_us();
    if clean {
        stage.foresee_stop();
        stage.broker.stop()?;
    } else {
        stage.broker.kill()?;
    }
    load.join();
    stage.recorder.crash(if clean { Crash::Stop } else { Crash::Kill }, at_us);
    Ok(())
}

/// What was damaged, in words.
fn damage(stage: &mut Stage, folder: &Path) -> io::Result<String> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // The store's own diary, the lock and the ballast hold nothing.
        let nothing = name.starts_with("LOG") || name == "LOCK" || name == "ballast";
        if !nothing && path.metadata()?.len() > 0 {
            files.push(path);
        }
    }
    files.sort();
    let path = stage.random.pick(&files).clone();
    let mut octets = std::fs::read(&path)?;
    let length = octets.len() as u64;
    let at = stage.random.below(length);
    let index = usize::try_from(at).unwrap_or(0);
    let how = match stage.random.below(10) {
        0..6 => {
            octets[index] ^= 1 << stage.random.below(8);
            "a bit flipped"
        }
        6..8 => {
            let from = usize::try_from(at / PAGE_BYTES * PAGE_BYTES).unwrap_or(0);
            let to = octets.len().min(from + 4096);
            octets[from..to].fill(0);
            "a page of zeros"
        }
        _ => {
            octets.truncate(index);
            "cut off"
        }
    };
    std::fs::write(&path, octets)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map_or(name.clone(), |extension| extension.to_string_lossy().into_owned());
    let kind = if extension.starts_with("MANIFEST") || extension.starts_with("OPTIONS") {
        extension[..7].to_owned()
    } else {
        extension
    };
    stage.count(&format!("damaged: {kind}"), 1);
    Ok(format!("{name} of {length} octets, {how} at {at}"))
}

fn look(stage: &mut Stage, damaged: &str) -> io::Result<()> {
    let mark = stage.broker.log_mark();
    let mut served = serve(stage)?;
    if matches!(served, Served::Ended(End::Code(DATA))) && stage.broker.folder.join(DAMAGED).exists() {
        stage.count("met when files were merged", 1);
        stage.recorder.crash(Crash::Kill, now_us());
        served = serve(stage)?;
    }
    let said = stage.broker.log_since(mark);
    let drained = match served {
        Served::All => Ok(()),
        Served::Part(error) => Err(error),
        Served::Ended(End::Code(code @ (DATA | IO))) => {
            stage.count(&format!("refused with {code}"), 1);
            if !said.contains("leveret: ") {
                stage.problems.push(format!("{damaged}: refused without a word: {}", tail(&said)));
            }
            return Ok(());
        }
        Served::Ended(end) => {
            stage.problems.push(format!("{damaged}: the broker ended with {end:?}: {}", tail(&said)));
            return Ok(());
        }
    };
    // A log that ends early is what a crash leaves, and can't be told from one.
    let torn = damaged.contains(".log ") && damaged.contains("cut off");
    let loud = torn || said.contains("[error]") || said.contains("ERROR") || said.contains("damaged");
    stage.count(if loud { "served the rest and said so" } else { "served all" }, 1);
    if let Err(error) = drained
        && !loud
    {
        stage.problems.push(format!("{damaged}: not served, and nothing was said: {error}"));
    }
    judge_rest(stage, &stage.recorder.clone(), damaged, loud);
    Ok(())
}

/// What came of a start on damaged files.
enum Served {
    All,
    /// Some of it could not be had.
    Part(io::Error),
    Ended(End),
}

fn serve(stage: &mut Stage) -> io::Result<Served> {
    if let Err(end) = stage.broker.start()? {
        return Ok(Served::Ended(end));
    }
    stage.recorder.note(Event::Recovered);
    let drained = drain::look(stage.broker.port, &stage.recorder)
        .and_then(|()| drain::drain(stage.broker.port, &stage.plan, &stage.recorder));
    Ok(match (stage.broker.await_end(ENDS_WITHIN)?, drained) {
        (Some(end), _) => Served::Ended(end),
        (None, Err(error)) => Served::Part(error),
        (None, Ok(())) => Served::All,
    })
}

fn judge_rest(stage: &mut Stage, recorder: &Recorder, damaged: &str, loud: bool) {
    let verdict = judge(recorder.history().records(), &stage.orders.promises);
    let broken: Vec<String> = verdict
        .violations
        .iter()
        // Whoever is told that something is missing is not told what.
        .filter(|violation| !loud || matches!(violation.rule, Rule::Damaged | Rule::Unexpected))
        .map(ToString::to_string)
        .collect();
    if !broken.is_empty() {
        let kept =
            std::env::temp_dir().join(format!("leveret-faults-rot-{}-{}.jsonl", stage.orders.seed, stage.cycles));
        let _ = std::fs::write(&kept, recorder.history().to_lines());
        stage.problems.push(format!(
            "{damaged}: {} broken promises, such as: {} (history in {})",
            broken.len(),
            broken[0],
            kept.display()
        ));
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if path.is_file() && path.file_name().is_some_and(|name| name != "ballast" && name != "LOCK") {
            std::fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}
