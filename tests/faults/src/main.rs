//! Breaks what a broker stands on, and looks whether it kept its promises. See `--help`.

mod amqp;
mod beside;
mod broker;
mod disk;
mod drain;
mod fault;
mod ledger;
mod load;
mod plan;
mod recorder;
mod shim;
mod stage;
mod with_lapin;

use broker::Make;
use clap::{Args, Parser, Subcommand};
use leveret_checker::{History, Promises, Random, judge};
use load::Intensity;
use plan::Style;
use stage::{Orders, Stage};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Breaks what a broker stands on, and looks whether it kept its promises")]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// kill -9 at random moments under load, and while it recovers
    Kill(Run),
    /// kill -9 right before or after calls that matter, each point once a cycle
    Points(Run),
    /// Power loss: what was not synced is gone
    Power(Run),
    /// Somebody else takes all that is left of the disk
    FullDisk(Run),
    /// The k-th call that changes the disk fails, k = 1 to the number of cycles, or as far as there are calls
    Eio(Run),
    /// Damaged files, one a cycle
    Rot(Run),
    /// More clients than descriptors
    Descriptors(Run),
    /// Little memory
    Memory(Run),
    /// The time of day jumps
    Clock(Run),
    /// SIGTERM at any time
    Term(Run),
    /// Clients that vanish half-way
    Vanish(Run),
    /// What the gate runs: some of each
    Ci(Run),
    /// Judges histories, as lines of JSON
    Judge {
        /// The durability class whose promises count
        #[arg(long, default_value = "leveret fsync")]
        class: String,
        files: Vec<PathBuf>,
    },
    /// Prints the sums of ledgers as tables in Markdown
    Ledger { files: Vec<PathBuf> },
}

#[derive(Args, Clone)]
struct Run {
    /// Repeats a run; without it the seed is printed
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 10)]
    cycles: u64,
    /// The first call that fails, of `eio`
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Leveret's binary
    #[arg(long, env = "LEVERET", default_value = "target/release/leveret")]
    leveret: PathBuf,
    /// Instead of Leveret: a shell command that starts a broker on $FAULTS_PORT and returns when it listens
    #[arg(long, requires = "pid", requires = "stop")]
    start: Option<String>,
    /// A shell command that prints that broker's process
    #[arg(long)]
    pid: Option<String>,
    /// A shell command that stops it
    #[arg(long)]
    stop: Option<String>,
    /// Where that broker's data lies
    #[arg(long)]
    data: Option<PathBuf>,
    /// Which queues are used
    #[arg(long, value_enum, default_value = "full")]
    style: Style,
    /// The durability class whose promises count: "leveret fsync", "leveret os", "leveret memory", "rabbitmq classic",
    /// "rabbitmq quorum"
    #[arg(long, default_value = "leveret fsync")]
    class: String,
    /// Losses are expected, and their absence is a failure
    #[arg(long)]
    control: bool,
    /// The longest time until something breaks, ms
    #[arg(long, default_value_t = 3000)]
    moment_ms_max: u64,
    /// The longest bodies, octets
    #[arg(long, default_value_t = 64 << 10)]
    body_bytes_max: u64,
    /// A client in another language to run beside: a command that prints events, as interop/python/history_with_pika.py does
    #[arg(long)]
    beside: Option<String>,
    /// Adds a line about this run to a file
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// What that line names as tested, if not what is checked out here
    #[arg(long)]
    commit: Option<String>,
    /// Flags of Leveret
    #[arg(last = true)]
    flags: Vec<String>,
}

impl Run {
    fn orders(&self) -> io::Result<Orders> {
        let make = match (&self.start, &self.pid, &self.stop) {
            (Some(start), Some(pid), Some(stop)) => {
                Make::Commands { start: start.clone(), pid: pid.clone(), stop: stop.clone() }
            }
            _ => Make::Leveret {
                binary: self
                    .leveret
                    .canonicalize()
                    .map_err(|error| io::Error::other(format!("no broker at {}: {error}", self.leveret.display())))?,
            },
        };
        Ok(Orders {
            make,
            style: self.style,
            promises: promises(&self.class)?,
            seed: self.seed.unwrap_or_else(fresh_seed),
            cycles: self.cycles,
            first: self.first,
            moment_ms_max: self.moment_ms_max,
            control: self.control,
            ledger: self.ledger.clone(),
            commit: self.commit.clone(),
            data: self.data.clone(),
            flags: self.flags.clone(),
            intensity: Intensity {
                body_bytes_max: self.body_bytes_max,
                beside: self.beside.clone(),
                ..Intensity::default()
            },
        })
    }
}

fn promises(class: &str) -> io::Result<Promises> {
    Promises::of(class).ok_or_else(|| io::Error::other(format!("there is no class {class:?}")))
}

/// A seed that nobody chose.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20));
    // Short enough to be typed.
    Random::new(nanos ^ u64::from(std::process::id())).bits() >> 32
}

fn main() -> ExitCode {
    match act(Command::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("leveret-faults: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all promises were kept.
fn act(verb: Verb) -> io::Result<bool> {
    match verb {
        Verb::Kill(run) => break_it("kill", &run.orders()?),
        Verb::Points(run) => break_it("points", &run.orders()?),
        Verb::Power(run) => break_it("power", &run.orders()?),
        Verb::FullDisk(run) => break_it("full disk", &run.orders()?),
        Verb::Eio(run) => break_it("eio", &run.orders()?),
        Verb::Rot(run) => break_it("rot", &run.orders()?),
        Verb::Descriptors(run) => break_it("descriptors", &run.orders()?),
        Verb::Memory(run) => break_it("memory", &run.orders()?),
        Verb::Clock(run) => break_it("clock", &run.orders()?),
        Verb::Term(run) => break_it("term", &run.orders()?),
        Verb::Vanish(run) => break_it("vanish", &run.orders()?),
        Verb::Ci(run) => gate(&run.orders()?),
        Verb::Judge { class, files } => judge_files(&promises(&class)?, &files),
        Verb::Ledger { files } => {
            print!("{}", ledger::table(&files)?);
            Ok(true)
        }
    }
}

/// What the gate runs, and how often. The lanes run side by side, since each waits for a disk or a clock most of the time.
const GATE: [&[(&str, u64)]; 3] = [
    &[("kill", 40), ("term", 5), ("vanish", 3), ("descriptors", 1), ("clock", 3)],
    &[("eio", 200), ("memory", 2), ("full disk", 5)],
    &[("points", 1), ("power", 5), ("rot", 40)],
];
/// The longest time until something breaks there, ms.
const GATE_MOMENT_MS_MAX: u64 = 700;

fn gate(orders: &Orders) -> io::Result<bool> {
    let run = |lane: &[(&str, u64)]| -> io::Result<bool> {
        let mut passed = true;
        for (fault, cycles) in lane {
            let mut orders = Orders { cycles: *cycles, moment_ms_max: GATE_MOMENT_MS_MAX, ..orders.clone() };
            if *fault != "term" {
                // To start another program costs more than all else that a short cycle does.
                orders.intensity.beside = None;
            }
            passed &= break_it(fault, &orders)?;
        }
        Ok(passed)
    };
    std::thread::scope(|scope| {
        let lanes = GATE.map(|lane| scope.spawn(move || run(lane)));
        let ended = lanes.map(|lane| lane.join().unwrap_or_else(|_| Err(io::Error::other("a lane panicked"))));
        ended.into_iter().try_fold(true, |passed, lane| Ok(passed & lane?))
    })
}

fn break_it(fault: &str, orders: &Orders) -> io::Result<bool> {
    let run = match fault {
        "kill" => fault::kill::run,
        "points" => fault::points::run,
        "power" => fault::power::run,
        "full disk" => fault::full_disk::run,
        "eio" => fault::eio::run,
        "rot" => fault::rot::run,
        "descriptors" => fault::scarce::descriptors,
        "memory" => fault::scarce::memory,
        "clock" => fault::clock::run,
        "term" => fault::term::run,
        "vanish" => fault::vanish::run,
        _ => return Err(io::Error::other(format!("there is no fault {fault:?}"))),
    };
    if matches!(fault, "power" | "full disk") && !disk::may_mount() {
        eprintln!("{fault}: SKIPPED: nothing may be mounted here, which needs root and loop devices");
        return Ok(true);
    }
    eprintln!("{fault}: seed {}", orders.seed);
    let mut stage = Stage::new(fault, orders)?;
    let ran = run(&mut stage);
    Ok(stage.end(ran))
}

fn judge_files(promises: &Promises, files: &[PathBuf]) -> io::Result<bool> {
    let mut text = String::new();
    for file in files {
        text.push_str(&std::fs::read_to_string(file)?);
    }
    let history = History::from_lines(&text).map_err(io::Error::other)?;
    let verdict = judge(history.records(), promises);
    println!("{}", serde_json::to_string_pretty(&verdict)?);
    Ok(verdict.passed())
}
