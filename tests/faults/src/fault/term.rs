//! SIGTERM at random stages: nothing is lost, the code is 0, and only what was on its way is flagged.

use crate::broker::End;
use crate::recorder::now_us;
use crate::stage::Stage;
use leveret_checker::Crash;
use rustix::process::Signal;
use std::io;
use std::time::Duration;

/// What the clients of one queue may have on their way to them, by their prefetch.
const ON_THEIR_WAY: u64 = 3 * 300;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run(stage: &mut Stage) -> io::Result<()> {
    stage.orders.promises.flagged_max = Some(ON_THEIR_WAY);
    stage.start()?;
    while stage.cycles < stage.orders.cycles {
        stage.declare()?;
        let load = stage.load();
        std::thread::sleep(Duration::from_millis(stage.random.within(20..=stage.orders.moment_ms_max)));
        let at_us = now_us();
        stage.foresee_stop();
        stage.broker.signal(Signal::TERM)?;
        expect(stage, "under load", false)?;
        load.join();
        stage.recorder.crash(Crash::Stop, at_us);
        if stage.random.chance(40) {
            stage.broker.launch()?;
            std::thread::sleep(Duration::from_micros(stage.random.below(150_000)));
            stage.broker.signal(Signal::TERM)?;
            expect(stage, "while it started", true)?;
            stage.count("stopped while starting", 1);
        }
        stage.recover()?;
        stage.cycles += 1;
        stage.settle()?;
        stage.progress();
    }
    Ok(())
}

/// `early`: the signal may have come before anything was there that could be stopped.
fn expect(stage: &mut Stage, when: &str, early: bool) -> io::Result<()> {
    match stage.broker.await_end(PATIENCE)? {
        Some(End::Code(0)) => {}
        Some(End::Signal(15)) if early => stage.count("ended before it began", 1),
        Some(end) => stage.problems.push(format!("asked to stop {when} it ended with {end:?}")),
        None => {
            stage.problems.push(format!("asked to stop {when} it did not"));
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
    }
    Ok(())
}
