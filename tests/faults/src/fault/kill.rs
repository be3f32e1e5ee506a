//! kill -9 under load, and again while the broker recovers.

use crate::stage::Stage;
use leveret_checker::Crash;
use std::io;
use std::time::Duration;

/// Crashes between two drains.
const CRASHES_MAX: u64 = 4;

pub fn run(stage: &mut Stage) -> io::Result<()> {
    stage.start()?;
    while stage.cycles < stage.orders.cycles {
        stage.declare()?;
        let crashes = stage.random.within(1..=CRASHES_MAX).min(stage.orders.cycles - stage.cycles);
        for _ in 0..crashes {
            let load = stage.load();
            let moment = stage.random.within(50..=stage.orders.moment_ms_max);
            std::thread::sleep(Duration::from_millis(moment));
            let at_us = stage.broker.kill()?;
            load.join();
            stage.recorder.crash(Crash::Kill, at_us);
            if stage.broker.is_leveret() && stage.random.chance(20) {
                kill_while_it_recovers(stage)?;
            }
            stage.recover()?;
            stage.cycles += 1;
        }
        stage.settle()?;
        stage.progress();
    }
    Ok(())
}

fn kill_while_it_recovers(stage: &mut Stage) -> io::Result<()> {
    for _ in 0..stage.random.within(1..=4) {
        stage.broker.launch()?;
        std::thread::sleep(Duration::from_micros(stage.random.below(80_000)));
        let at_us = stage.broker.kill()?;
        stage.recorder.crash(Crash::Kill, at_us);
        stage.count("killed while recovering", 1);
    }
    Ok(())
}
