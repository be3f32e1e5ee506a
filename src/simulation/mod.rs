//! The broker under a seed: its connections, virtual host, queues and commits, with a simulated clock, network and disk,
//! and without threads. One seed is one history, which `leveret_checker` judges by the rules that hold for a broker that
//! was killed or lost its power.
//!
//! ```sh
//! cargo test --release --lib simulation                                          # a few hundred seeds
//! SIMULATION_SEEDS=0..100000 cargo test --release --lib simulation::seeds -- --nocapture
//! SIMULATION_LEDGER=docs/reliability/ledger.jsonl                                # with it: a line for the ledger
//! SIMULATION_SEEDS=4711 cargo test --release --lib simulation::seeds -- --nocapture   # one again, with its history
//! ```
//!
//! What is simulated: tokio's clock, which moves when nobody has anything to do; connections that carry octets late and in
//! other pieces ([`life`]); a disk that keeps what was synced and forgets the rest, or fails ([`crate::store::simulated`]);
//! the two threads of the store, whose steps others may come between. All else is the broker as it is.
//!
//! That this finds anything is shown by bugs that are planted ([`bugs`]).

pub mod bugs;
mod client;
mod life;
mod load;
mod world;

use crate::store::simulated::Fault;
use bugs::Bug;
use leveret_checker::ledger::{Run, append};
use leveret_checker::{Crash, History, Promises, Random, Verdict, judge};
use life::{End, From, live};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;
use world::World;

/// What a seed came to.
struct Found {
    /// An error: somebody waited in vain, or a rule was broken.
    outcome: Result<Verdict, String>,
    history: History,
    /// The whole history and what is on disk in the end.
    digest: u64,
}

/// Lives a few lives and judges.
fn simulate(seed: u64) -> Found {
    let mut random = Random::new(seed);
    let world = Arc::new(World::new(&mut random));
    let lived = std::panic::catch_unwind(AssertUnwindSafe(|| lives(&world, &mut random)));
    let lived = lived.unwrap_or_else(|_| Err("it panicked".to_owned()));
    let history = world.history();
    let outcome = lived.and_then(|()| {
        let verdict = judge(history.records(), &promises());
        let violations = verdict.violations.iter().map(ToString::to_string).collect::<Vec<_>>();
        if verdict.passed() { Ok(verdict) } else { Err(violations.join("\n  ")) }
    });
    Found { outcome, digest: digest(&history.to_lines(), world.disk.digest()), history }
}

fn lives(world: &Arc<World>, random: &mut Random) -> Result<(), String> {
    for _ in 0..random.within(1..=3) {
        let crash = *random.pick(&[Crash::Power, Crash::Power, Crash::Kill, Crash::Stop]);
        let end = match random.below(10) {
            0..4 => End::Quiet(crash),
            4 => {
                let fault = *random.pick(&[Fault::Unwritten, Fault::Unsynced]);
                End::Disk(u32::try_from(random.below(30)).unwrap_or(0), fault, crash)
            }
            5 => End::Crash(From::Start, random.within(1..=199), crash),
            _ => End::Crash(From::Work, random.within(1..=199), crash),
        };
        live(world, random, end, false)?;
    }
    live(world, random, End::Quiet(Crash::Stop), true)
}

/// What Leveret promises, with the bounds of so small a broker.
fn promises() -> Promises {
    Promises { settled_within_ms: 200, flagged_max: Some(200), ..Promises::leveret() }
}

fn digest(history: &str, disk: u64) -> u64 {
    use std::hash::{Hash as _, Hasher as _};
    let mut hasher = rustc_hash::FxHasher::default();
    (history, disk).hash(&mut hasher);
    hasher.finish()
}

/// The seeds that were asked for.
fn wanted(default: Range<u64>) -> Range<u64> {
    let Ok(text) = std::env::var("SIMULATION_SEEDS") else { return default };
    let number = |text: &str| text.trim().parse::<u64>().expect("SIMULATION_SEEDS is a seed, or two with .. between");
    match text.split_once("..") {
        Some((start, end)) => number(start)..number(end),
        None => number(&text)..number(&text) + 1,
    }
}

#[test]
fn seeds() {
    let seeds = wanted(0..500);
    if seeds.end - seeds.start == 1 {
        // Whoever looks at one wants to see what the broker says.
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).try_init();
    }
    let (mut total, began) = (Verdict::default(), Instant::now());
    for seed in seeds.clone() {
        let found = simulate(seed);
        match found.outcome {
            Ok(verdict) => total.add(&verdict),
            Err(text) => {
                let file = std::env::temp_dir().join(format!("leveret-simulation-{seed}.jsonl"));
                let kept = std::fs::write(&file, found.history.to_lines());
                panic!(
                    "seed {seed}: {text}\nits history: {} ({kept:?})\nagain: SIMULATION_SEEDS={seed} cargo test --release --lib \
                     simulation::seeds -- --nocapture",
                    file.display()
                );
            }
        }
    }
    println!("{} seeds: {total:?}", seeds.end - seeds.start);
    note(&seeds, &total, began.elapsed().as_secs());
}

/// A line for the ledger, if one is kept.
fn note(seeds: &Range<u64>, total: &Verdict, seconds: u64) {
    let Some(path) = std::env::var_os("SIMULATION_LEDGER") else { return };
    let run = Run {
        broker: promises().class,
        fault: "simulation".into(),
        seed: seeds.start,
        cycles: seeds.end - seeds.start,
        seconds,
        ..Run::new(total)
    };
    append(&run, path.as_ref()).unwrap();
}

#[test]
fn a_seed_repeats_itself() {
    for seed in 0..20 {
        let [one, other] = [(), ()].map(|()| simulate(seed));
        assert_eq!(one.history.to_lines(), other.history.to_lines(), "seed {seed}");
        assert_eq!(one.digest, other.digest, "seed {seed}");
    }
}

/// The first seed that finds a planted bug.
fn finds(bug: Bug) -> u64 {
    let _planted = bugs::plant(bug);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = (0..1000).find(|seed| simulate(*seed).outcome.is_err());
    std::panic::set_hook(hook);
    found.unwrap_or_else(|| panic!("{bug:?} was not found within 1000 seeds"))
}

#[test]
fn planted_bugs_are_found() {
    for bug in [Bug::ConfirmBeforeSync, Bug::LostSuffix, Bug::DoubleRequeue, Bug::MissedWakeUp, Bug::SplitTransaction] {
        println!("{bug:?} is found by seed {}", finds(bug));
    }
}
