//! The k-th call that changes something on the disk fails, for each k of a scripted run, or those of them that are asked for.

use crate::amqp::{Argument, Client, Incoming, Properties};
use crate::broker::End;
use crate::recorder::now_us;
use crate::shim::Shim;
use crate::stage::{Stage, tail};
use leveret_checker::{Crash, Event, Kind, Random, Settlement, body};
use std::io;
use std::time::Duration;

const IO: i32 = 74;
/// Damage is what a failed call may look like at the next start, never after a failed sync.
const PATIENCE: Duration = Duration::from_secs(10);
/// Small, so that a short script flushes and compacts.
const FLAGS: &[&str] = &["--store-write-buffer", "64KiB", "--messages-memory", "1MiB", "--queue-memory", "64KiB"];
const ROUNDS: u64 = 12;
const BURST: u64 = 8;
const BODY_BYTES: usize = 3000;

pub fn run(stage: &mut Stage) -> io::Result<()> {
    let shim = Shim::build(stage.folder.path())?;
    stage.broker.flags.extend(FLAGS.iter().map(|flag| (*flag).to_owned()));
    let base = stage.broker.folder.clone();
    // Of folders that a start has to read, and of new ones: the script was over before the call came.
    let mut is_over = [false; 2];
    for nth in stage.orders.first..stage.orders.first + stage.orders.cycles {
        // Each k from the same beginning: a folder that is new, or that a start has to read.
        stage.broker.folder = base.join(nth.to_string());
        std::fs::create_dir_all(&stage.broker.folder)?;
        if nth % 2 == 0 {
            prepare(stage)?;
        }
        // The same for each k, wherever a run begins.
        let mut chance = Random::of(stage.orders.seed, &nth.to_string());
        let what = ["eio", "eio", "enospc", "short"][usize::try_from(chance.below(4)).unwrap_or(0)];
        let folder = stage.broker.folder.clone();
        // A short write is no failure: what is left must be written next.
        let call = if what == "short" { "write" } else { "any" };
        stage.broker.variables = shim.variables(&folder, &format!("{call}:any:before:{nth}:{what}"));
        let mark = stage.broker.log_mark();
        let at_us = one_run(stage, nth, mark)?;
        stage.recorder.crash(Crash::Kill, at_us);
        let told = shim.told();
        if told.fired {
            stage.count(&format!("failed calls: {what}"), 1);
        } else {
            stage.count("calls not reached", 1);
            is_over[usize::from(nth % 2 == 1)] |= call == "any";
        }
        for kind in told.synced_again {
            // By the store's threads while the process ends: nothing may be confirmed for it, which the checker sees.
            stage.count(&format!("failed syncs tried again: {kind}"), 1);
        }
        stage.broker.variables.clear();
        stage.cycles += 1;
        let before = stage.problems.len();
        stage.recover()?;
        stage.settle()?;
        stage.broker.kill()?;
        if stage.problems.len() > before {
            eprintln!("call {nth} ({what}): {}", stage.problems[before]);
        }
        std::fs::remove_dir_all(&stage.broker.folder)?;
        if nth % 25 == 0 {
            stage.progress();
        }
        if is_over == [true; 2] {
            // There are no more calls.
            break;
        }
    }
    Ok(())
}

/// Something to recover.
fn prepare(stage: &mut Stage) -> io::Result<()> {
    stage.start()?;
    // Its errors are those of a broker without a fault.
    script(stage, 4)?;
    let at_us = stage.broker.kill()?;
    stage.recorder.crash(Crash::Kill, at_us);
    Ok(())
}

/// When it ended.
fn one_run(stage: &mut Stage, nth: u64, mark: u64) -> io::Result<u64> {
    let end = match stage.broker.start()? {
        Ok(()) => {
            let done = script(stage, ROUNDS).is_ok();
            // A broker that is well is asked to stop; one that is not ends by itself.
            match stage.broker.await_end(if done { Duration::ZERO } else { PATIENCE })? {
                Some(end) => end,
                None => stage.broker.stop()?,
            }
        }
        Err(end) => {
            stage.count("refused to start", 1);
            end
        }
    };
    match end {
        End::Code(0) => stage.count("went on", 1),
        End::Code(IO) => stage.count("ended with 74", 1),
        end => {
            let said = stage.broker.log_since(mark);
            stage.problems.push(format!("call {nth}: the broker ended with {end:?}: {}", tail(&said)));
        }
    }
    Ok(now_us())
}

/// Declares, publishes, consumes, deletes; one thing after the other, so that call k is always the same.
fn script(stage: &mut Stage, rounds: u64) -> io::Result<()> {
    let mut client = Client::connect(stage.broker.port)?;
    let recorder = &stage.recorder;
    client.confirm_select()?;
    for (name, kind) in [("one", Kind::Classic), ("two", Kind::Quorum), ("gone", Kind::Classic)] {
        let queue = || name.to_owned();
        recorder.note(Event::Declare {
            queue: queue(),
            durable: true,
            kind,
            dead_letters_to: None,
            drops: false,
            priorities: false,
        });
        let quorum = [("x-queue-type".to_owned(), Argument::Text("quorum".into()))];
        client.declare(name, true, if kind == Kind::Quorum { &quorum } else { &[] })?;
        recorder.note(Event::DeclareOk { queue: queue() });
    }
    let (publisher, consumer) = (recorder.number(), recorder.number());
    let mut sequence = 0;
    for round in 0..rounds {
        let mut pending = std::collections::VecDeque::new();
        for number in 0..BURST {
            let name = if number % 2 == 0 { "one" } else { "two" };
            let (id, queues, persistent) = (recorder.id(), vec![name.to_owned()], true);
            recorder.note(Event::Publish { publisher, id, queues, persistent, priority: 0, expires: false, tx: None });
            client.publish("", name, Properties { persistent, ..Properties::default() }, &body::body(id, BODY_BYTES));
            sequence += 1;
            pending.push_back((sequence, id));
        }
        client.flush()?;
        while !pending.is_empty() {
            match client.next(PATIENCE)? {
                Some(Incoming::Ack { tag, multiple }) => {
                    crate::load::answered(&mut pending, tag, multiple, |id| recorder.note(Event::Confirm { id }));
                }
                Some(Incoming::Nack { tag, multiple }) => {
                    crate::load::answered(&mut pending, tag, multiple, |id| recorder.note(Event::Nack { id }));
                }
                Some(_) => {}
                None => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        for _ in 0..2 {
            client.get("one");
            client.flush()?;
            let Some(Incoming::Message(message)) = client.next(PATIENCE)? else { continue };
            let queue = || "one".to_owned();
            let (tag, redelivered, id) = (message.tag, message.redelivered, body::check(&message.body));
            recorder.note(Event::Deliver { queue: queue(), consumer, tag, id, redelivered });
            if let Some(id) = id {
                recorder.note(Event::Settle { queue: queue(), consumer, id, how: Settlement::Ack, tx: None });
                client.ack(tag, false);
            }
        }
        client.flush()?;
        if round == rounds / 2 {
            let queue = || "gone".to_owned();
            recorder.note(Event::Delete { queue: queue() });
            client.delete("gone")?;
            recorder.note(Event::DeleteOk { queue: queue() });
        }
    }
    client.close()
}
