//! Fuzzing on stable Rust, as a test: every target of `targets/` is given its corpus, and then octets that are made of it by
//! chance, for as long as `FUZZ_SECONDS` says. README.md has the variables.
//!
//! ```text
//!   this process ──▶ a process for each target, two at once
//!                      corpus, then input 0, 1, 2 … : each made of the seed and its number alone
//!                    ◀── executions, or the input that failed
//! ```
//!
//! A target has a process of its own, so that one that ends its process (by using up the stack, or asking for more memory
//! than there is) is found out as well: what was put in last is found by doing the last of it once more, carefully.

// A test that finds something else than it expects ends there; and its numbers are small.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod mutation;
mod targets;

use leveret_checker::ledger::{Fuzzed, append};
use mutation::{Dictionary, Mutator};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use targets::{ALL, INPUT_BYTES_MAX, Target};
use tempfile::TempDir;

/// Where corpus and dictionary are.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz");
/// Where inputs that fail are left.
const FAILURES: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/fuzz");

/// What a target may take of memory beyond what it has when it begins. Of those without a broker, whatever is asked for
/// counts; of the others what is used.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// An input may take so long.
const INPUT_TIME_MAX: Duration = Duration::from_secs(2);
/// How often to look at the clock for the end, and to see how much memory is used.
const LOOKS: u64 = 256;
/// How often to leave word of how far it got.
const NOTES: Duration = Duration::from_millis(250);
/// What a process may take to start, to go through its corpus and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a process for one target ends with.
mod exit {
    pub const FAILED: u8 = 1;
}

fn main() -> ExitCode {
    let options = Options::read();
    if let Some(work) = Work::read() {
        return work.run();
    }
    if let Some(path) = std::env::var_os("FUZZ_REPLAY") {
        return replay(Path::new(&path));
    }
    if options.list {
        ALL.iter().for_each(|target| println!("{}: test", target.name));
        return ExitCode::SUCCESS;
    }
    options.run()
}

/// A number from the environment.
fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => otherwise,
    }
}

/// What is to be done.
struct Options {
    targets: Vec<Target>,
    list: bool,
    seconds: u64,
    seed: u64,
    jobs: u64,
}

impl Options {
    /// From the environment and, as `cargo test` has them, the command line: a word that names must have in them.
    fn read() -> Self {
        let (mut words, mut list) = (Vec::new(), false);
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => list = true,
                "--test-threads" | "--skip" | "--format" | "--color" | "--logfile" | "-Z" => drop(arguments.next()),
                flag if flag.starts_with('-') => {}
                word => words.push(word.to_owned()),
            }
        }
        let wanted = std::env::var("FUZZ_TARGETS").unwrap_or_default();
        let wanted: Vec<&str> = wanted.split(',').filter(|name| !name.is_empty()).collect();
        for name in &wanted {
            assert!(ALL.iter().any(|target| target.name == *name), "there is no target '{name}'");
        }
        let is_wanted = |target: &&Target| {
            (wanted.is_empty() || wanted.contains(&target.name))
                && (words.is_empty() || words.iter().any(|word| target.name.contains(word.as_str())))
        };
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        Self {
            targets: ALL.iter().filter(is_wanted).copied().collect(),
            list,
            seconds: number("FUZZ_SECONDS", 1),
            seed: number("FUZZ_SEED", now),
            jobs: number("FUZZ_JOBS", processors.min(2)),
        }
    }

    fn run(&self) -> ExitCode {
        println!("FUZZ_SEED={}", self.seed);
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while let Some(target) = self.targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.fuzz(target);
                        outcome.tell(target);
                        self.note(target, &outcome);
                        outcomes.lock().unwrap().push(outcome);
                    }
                });
            }
        });
        let outcomes = outcomes.into_inner().unwrap();
        let executions: u64 = outcomes.iter().map(|outcome| outcome.executions).sum();
        let failed = outcomes.iter().filter(|outcome| outcome.failed.is_some()).count();
        println!("{} targets, {executions} executions, {failed} failed", outcomes.len());
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
    }

    /// Runs a target in a process of its own.
    fn fuzz(&self, target: &Target) -> Outcome {
        let folder = TempDir::new().unwrap();
        let work = Work {
            target: *target,
            seed: self.seed,
            from: 0,
            time: Duration::from_secs(self.seconds),
            careful: false,
            note: folder.path().join("note"),
        };
        let ended = work.start(folder.path());
        let Some(failed) = ended.failed else { return ended };
        if failed.is_some() {
            return Outcome { failed: Some(failed), ..ended };
        }
        // It ended without a word: once more from where it last left one.
        let from = fs::read_to_string(&work.note).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let careful = Work { from, careful: true, time: PATIENCE / 2, ..work };
        let again = careful.start(folder.path());
        let input = fs::read(&careful.note).ok().filter(|_| again.failed == Some(None));
        let kept = input.map(|input| keep(target, &input));
        Outcome { failed: Some(again.failed.flatten().or(kept)), ..ended }
    }

    /// A line for the ledger, if one is kept.
    fn note(&self, target: &Target, outcome: &Outcome) {
        let Some(path) = std::env::var_os("FUZZ_LEDGER") else { return };
        let fuzzed = Fuzzed {
            seed: Some(self.seed),
            executions: outcome.executions,
            seconds: outcome.time.as_secs(),
            failures: u64::from(outcome.failed.is_some()),
            ..Fuzzed::new(target.name)
        };
        append(&fuzzed, path.as_ref()).unwrap();
    }
}

/// How a target's process ended.
struct Outcome {
    executions: u64,
    time: Duration,
    /// It failed, and perhaps where the input is with which it did.
    failed: Option<Option<PathBuf>>,
}

impl Outcome {
    fn tell(&self, target: &Target) {
        let Self { executions, time, failed } = self;
        let rate = *executions as f64 / time.as_secs_f64().max(0.001);
        let name = target.name;
        println!("{name:<12} {executions:>12} executions {rate:>9.0}/s {:>6.1} s", time.as_secs_f64());
        match failed {
            None => {}
            Some(None) => println!("{name:<12} FAILED, and not a second time with the same inputs"),
            Some(Some(path)) => {
                println!("{name:<12} FAILED: FUZZ_REPLAY={} cargo test --release --test fuzz", path.display())
            }
        }
    }
}

/// What a process for one target is told, in variables.
struct Work {
    target: Target,
    seed: u64,
    /// The number of the first input; the corpus comes before number 0.
    from: u64,
    time: Duration,
    /// Leave each input where it can be found before it is used.
    careful: bool,
    /// Where: the number of an input, or when careful the input itself.
    note: PathBuf,
}

impl Work {
    fn read() -> Option<Self> {
        let name = std::env::var("FUZZ_WORK").ok()?;
        Some(Self {
            target: *ALL.iter().find(|target| target.name == name)?,
            seed: number("FUZZ_WORK_SEED", 0),
            from: number("FUZZ_WORK_FROM", 0),
            time: Duration::from_millis(number("FUZZ_WORK_MS", 0)),
            careful: number("FUZZ_WORK_CAREFUL", 0) == 1,
            note: std::env::var_os("FUZZ_WORK_NOTE")?.into(),
        })
    }

    /// Has it done by another process, and waits for that.
    fn start(&self, folder: &Path) -> Outcome {
        let began = Instant::now();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .env("FUZZ_WORK", self.target.name)
            .env("FUZZ_WORK_SEED", self.seed.to_string())
            .env("FUZZ_WORK_FROM", self.from.to_string())
            .env("FUZZ_WORK_MS", self.time.as_millis().to_string())
            .env("FUZZ_WORK_CAREFUL", u8::from(self.careful).to_string())
            .env("FUZZ_WORK_NOTE", &self.note)
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = process.stdout.take().unwrap();
        let end = began + self.time + PATIENCE;
        let status = loop {
            if let Some(status) = process.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > end {
                process.kill().unwrap();
                process.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut text = String::new();
        said.read_to_string(&mut text).unwrap();
        let word = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let executions = word("executions ").and_then(|count| count.parse().ok()).unwrap_or(0);
        let failed = match status {
            Some(status) if status.success() => None,
            _ => Some(word("failed ").map(PathBuf::from)),
        };
        Outcome { executions, time: began.elapsed(), failed }
    }

    fn run(&self) -> ExitCode {
        let corpus = corpus(self.target.name);
        let dictionary = Dictionary::read(&fs::read_to_string(format!("{FOLDER}/amqp.dict")).unwrap());
        let mutator = Mutator::new(&corpus, &dictionary, self.target.frames_at, self.seed);
        let end = Instant::now() + self.time;
        let mut trial = Trial::new(self);
        if self.from == 0 {
            for input in &corpus {
                if !trial.passes(input) {
                    return trial.end();
                }
            }
        }
        let looks = if self.target.is_live { 1 } else { LOOKS };
        let (mut input, mut noted) = (Vec::new(), Instant::now());
        for index in self.from.. {
            if index.is_multiple_of(looks) {
                let now = Instant::now();
                if now >= end {
                    break;
                }
                if !self.careful && now >= noted + NOTES {
                    fs::write(&self.note, index.to_string()).unwrap();
                    noted = now;
                }
            }
            mutator.make(index, &mut input);
            if !trial.passes(&input) {
                break;
            }
        }
        trial.end()
    }
}

/// A target under test.
struct Trial<'a> {
    work: &'a Work,
    executions: u64,
    failed: Option<PathBuf>,
    resident_max: u64,
}

impl<'a> Trial<'a> {
    fn new(work: &'a Work) -> Self {
        if !work.target.is_live {
            // What has no threads asks for no more address space than it uses.
            let maximum = getrlimit(Resource::As).maximum;
            setrlimit(Resource::As, Rlimit { current: Some(memory(0) + MEMORY_BYTES_MAX), maximum }).unwrap();
        }
        Self { work, executions: 0, failed: None, resident_max: memory(1) + MEMORY_BYTES_MAX }
    }

    /// Gives it an input; whether all that it promises was kept.
    fn passes(&mut self, input: &[u8]) -> bool {
        if self.work.careful {
            fs::write(&self.work.note, input).unwrap();
        }
        self.executions += 1;
        let began = Instant::now();
        let mut passed = catch_unwind(AssertUnwindSafe(|| (self.work.target.run)(input))).is_ok();
        if passed && began.elapsed() > INPUT_TIME_MAX {
            // Others may have had the processor.
            let times = (0..3).map(|_| {
                let began = Instant::now();
                (self.work.target.run)(input);
                began.elapsed()
            });
            let shortest = times.min().unwrap_or_default();
            passed = shortest <= INPUT_TIME_MAX;
            if !passed {
                eprintln!("{} took {shortest:?} for one input", self.work.target.name);
            }
        }
        if passed && self.executions.is_multiple_of(LOOKS) && memory(1) > self.resident_max {
            eprintln!("{} has taken {} MiB of memory", self.work.target.name, memory(1) >> 20);
            passed = false;
        }
        if !passed {
            self.failed = Some(keep(&self.work.target, input));
        }
        passed
    }

    fn end(self) -> ExitCode {
        println!("executions {}", self.executions);
        match self.failed {
            None => ExitCode::SUCCESS,
            Some(path) => {
                println!("failed {}", path.display());
                ExitCode::from(exit::FAILED)
            }
        }
    }
}

/// Octets of this process's memory: what it has reserved (0), what is in use (1).
fn memory(which: usize) -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(which).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// Inputs that are worth keeping, by name, so that their order is always the same.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(format!("{FOLDER}/corpus/{target}")) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let inputs = paths.iter().map(|path| fs::read(path).unwrap());
    inputs.filter(|input| input.len() <= INPUT_BYTES_MAX).collect()
}

/// Leaves an input where it can be looked at.
fn keep(target: &Target, input: &[u8]) -> PathBuf {
    fs::create_dir_all(FAILURES).unwrap();
    let path = Path::new(FAILURES).join(format!("{}-{:08x}", target.name, crc32fast::hash(input)));
    fs::write(&path, input).unwrap();
    path
}

/// Gives one input to the target that the file or its folder is named after.
fn replay(path: &Path) -> ExitCode {
    let names = [path.file_name(), path.parent().and_then(Path::file_name)];
    let names: Vec<_> = names.into_iter().flatten().map(|name| name.to_string_lossy().into_owned()).collect();
    let is_named = |target: &&Target| names.iter().any(|name| name.split('-').next() == Some(target.name));
    let target = ALL.iter().find(is_named).unwrap_or_else(|| panic!("{} names no target", path.display()));
    let input = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    println!("{}: {} octets", target.name, input.len());
    let began = Instant::now();
    (target.run)(&input);
    println!("passed in {:?}, with {} MiB of memory", began.elapsed(), memory(1) >> 20);
    ExitCode::SUCCESS
}
