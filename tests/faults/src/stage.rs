//! One run of a fault: its broker, its queues, its chance, and what is known so far.

use crate::amqp::Client;
use crate::broker::{Broker, End, Make};
use crate::drain;
use crate::load::{Intensity, Load};
use crate::plan::{Plan, Style};
use crate::recorder::Recorder;
use leveret_checker::ledger::{Run, append};
use leveret_checker::{Crash, Event, Promises, Random, Verdict, judge};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;

/// What a run is told on the command line.
#[derive(Debug, Clone)]
pub struct Orders {
    pub make: Make,
    pub style: Style,
    pub promises: Promises,
    pub seed: u64,
    pub cycles: u64,
    /// The first call that fails.
    pub first: u64,
    /// The longest time until something breaks, ms.
    pub moment_ms_max: u64,
    /// Losses are expected, and their absence is a failure: for brokers that do not sync.
    pub control: bool,
    pub ledger: Option<PathBuf>,
    /// What was tested, if not what is checked out here.
    pub commit: Option<String>,
    /// Where the data folder is, if it can't be chosen.
    pub data: Option<PathBuf>,
    /// Flags of Leveret.
    pub flags: Vec<String>,
    pub intensity: Intensity,
}

pub struct Stage {
    pub orders: Orders,
    pub broker: Broker,
    pub plan: Arc<Plan>,
    pub random: Random,
    pub recorder: Recorder,
    pub verdict: Verdict,
    /// What the checker does not see: wrong exit codes, panics, starts that fail.
    pub problems: Vec<String>,
    pub more: BTreeMap<String, u64>,
    pub cycles: u64,
    pub fault: String,
    began: Instant,
    /// Everything of this run, removed at its end.
    pub folder: TempDir,
}

impl Stage {
    pub fn new(fault: &str, orders: &Orders) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("leveret-faults-").tempdir()?;
        let mut random = Random::of(orders.seed, fault);
        // Below the ports that the system gives to clients.
        let port = if matches!(orders.make, Make::Leveret { .. }) { free_port(&mut random) } else { 5682 };
        let data = orders.data.clone().unwrap_or_else(|| folder.path().join("data"));
        let mut broker = Broker::new(orders.make.clone(), port, data, folder.path().join("broker.log"));
        broker.flags.clone_from(&orders.flags);
        let mut plan = Plan::of(orders.style);
        // Whatever is declared is synced, and all else with it.
        plan.company &= !orders.control;
        let first = random.bits() >> 25 << 24;
        Ok(Self {
            orders: orders.clone(),
            broker,
            plan: Arc::new(plan),
            recorder: Recorder::new(first),
            random,
            verdict: Verdict::default(),
            problems: Vec::new(),
            more: BTreeMap::new(),
            cycles: 0,
            fault: fault.to_owned(),
            began: Instant::now(),
            folder,
        })
    }

    pub fn count(&mut self, what: &str, more: u64) {
        *self.more.entry(what.to_owned()).or_default() += more;
    }

    pub fn load(&mut self) -> Load {
        Load::start(self.broker.port, &self.plan, &self.recorder, &mut self.random, &self.orders.intensity)
    }

    pub fn churn(&mut self) -> Load {
        Load::churning(self.broker.port, &self.plan, &self.recorder, &mut self.random, &self.orders.intensity)
    }

    pub fn declare(&self) -> io::Result<()> {
        let mut client = Client::connect(self.broker.port)?;
        self.plan.declare(&mut client, &self.recorder)?;
        client.close()
    }

    /// A broker that does not start is the end of a run.
    pub fn start(&mut self) -> io::Result<()> {
        let mark = self.broker.log_mark();
        match self.broker.start()? {
            Ok(()) => Ok(()),
            Err(end) => {
                let said = self.broker.log_since(mark);
                self.problems.push(format!("the broker does not start: {end:?}: {}", tail(&said)));
                Err(io::Error::other("the broker does not start"))
            }
        }
    }

    /// After a crash: starts it again and looks which queues are there.
    pub fn recover(&mut self) -> io::Result<()> {
        self.start()?;
        self.recorder.note(Event::Recovered);
        drain::look(self.broker.port, &self.recorder)
    }

    /// A broker that stops closes one client after the other: what one of them did not read goes to those still there.
    pub fn foresee_stop(&self) {
        for queue in self.plan.consumed.iter().copied().chain(["lapin", "pika", "tx-in"]) {
            // Nobody has the number 0.
            self.recorder.note(Event::Gone { consumer: 0, queue: queue.to_owned(), unread: true });
        }
    }

    /// Asks it to stop; it must do so with 0.
    pub fn stop(&mut self) -> io::Result<()> {
        let at_us = crate::recorder::now_us();
        let end = self.broker.stop()?;
        if end != End::Code(0) {
            self.problems.push(format!("the broker was asked to stop and ended with {end:?}"));
        }
        self.recorder.crash(Crash::Stop, at_us);
        Ok(())
    }

    /// Empties all queues, has the history judged, and begins a new one.
    pub fn settle(&mut self) -> io::Result<()> {
        drain::drain(self.broker.port, &self.plan, &self.recorder)?;
        self.judge()?;
        // Queues that come and go are nobody's in the next history.
        let mut client = Client::connect(self.broker.port)?;
        for declared in self.recorder.queues() {
            let Event::Declare { queue, .. } = declared else { continue };
            if queue.starts_with("churn-") && client.count(&queue)?.is_some() {
                client.delete(&queue)?;
            }
        }
        client.close()?;
        self.recorder = Recorder::new(((self.recorder.id() >> 24) + 1) << 24);
        Ok(())
    }

    pub fn judge(&mut self) -> io::Result<()> {
        let history = self.recorder.history();
        let verdict = judge(history.records(), &self.orders.promises);
        if !verdict.passed() {
            let name = format!("{}-{}-{}.jsonl", self.fault.replace(' ', "-"), self.orders.seed, self.cycles);
            let kept = std::env::temp_dir().join(format!("leveret-faults-{name}"));
            std::fs::write(&kept, history.to_lines())?;
            std::fs::copy(&self.broker.log, kept.with_extension("log")).ok();
            eprintln!("{} violations; the history is kept in {}", verdict.violations.len(), kept.display());
            for violation in verdict.violations.iter().take(20) {
                eprintln!("  {violation}");
            }
        }
        self.verdict.add(&verdict);
        Ok(())
    }

    /// Says how far it is.
    pub fn progress(&self) {
        let verdict = &self.verdict;
        eprintln!(
            "{} {}/{}: {} confirmed, {} lost, {} violations ({} s)",
            self.fault,
            self.cycles,
            self.orders.cycles,
            verdict.counts.confirmed,
            verdict.counts.lost,
            verdict.violations.len(),
            self.began.elapsed().as_secs(),
        );
    }

    /// The last word. Whether all promises were kept.
    pub fn end(mut self, ran: io::Result<()>) -> bool {
        if let Err(error) = ran {
            self.problems.push(format!("the run ended early: {error}"));
        }
        let said = self.broker.log_since(0);
        if self.broker.is_leveret() && said.contains("panicked at") {
            let at = said.lines().position(|line| line.contains("panicked at")).unwrap_or(0);
            let lines: Vec<&str> = said.lines().skip(at).take(4).collect();
            self.problems.push(format!("the broker panicked: {}", lines.join(" / ")));
        }
        if self.orders.control && self.verdict.counts.lost == 0 {
            self.problems.push("a control that loses nothing: the fault does not bite".into());
        }
        for problem in &self.problems {
            eprintln!("{}: {problem}", self.fault);
        }
        let mut run = Run::new(&self.verdict);
        if let Some(commit) = &self.orders.commit {
            run.commit.clone_from(commit);
        }
        run.broker.clone_from(&self.orders.promises.class);
        run.fault.clone_from(&self.fault);
        run.seed = self.orders.seed;
        run.cycles = self.cycles;
        run.seconds = self.began.elapsed().as_secs();
        run.more.clone_from(&self.more);
        run.violations += self.problems.len() as u64;
        let passed = run.violations == 0;
        println!("{}", serde_json::to_string(&run).unwrap_or_default());
        if let Some(ledger) = &self.orders.ledger
            && let Err(error) = append(&run, ledger)
        {
            eprintln!("{}: {error}", ledger.display());
            return false;
        }
        if !passed {
            eprintln!("{}: FAILED with seed {}", self.fault, self.orders.seed);
            let kept = std::env::temp_dir().join(format!(
                "leveret-faults-{}-{}.log",
                self.fault.replace(' ', "-"),
                self.orders.seed
            ));
            std::fs::copy(&self.broker.log, kept).ok();
        }
        passed
    }
}

/// The last lines of a log, in one.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}

fn free_port(random: &mut Random) -> u16 {
    for _ in 0..100 {
        let port = u16::try_from(random.within(20_000..=30_000)).unwrap_or(20_000);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    25_672
}
