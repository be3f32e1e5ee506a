//! The time of day jumps back and forth while messages wait for their end: they die when their time has passed, neither
//! earlier nor later.

use crate::amqp::{Argument, Client, Properties};
use crate::shim::Shim;
use crate::stage::Stage;
use leveret_checker::body;
use std::io;
use std::time::{Duration, Instant};

const LIFE: Duration = Duration::from_millis(900);
/// A busy machine may be that late.
const LATE: Duration = Duration::from_millis(1500);
const MESSAGES: u64 = 20;
const HOUR_MS: i64 = 3_600_000;

pub fn run(stage: &mut Stage) -> io::Result<()> {
    let shim = Shim::build(stage.folder.path())?;
    let step = stage.folder.path().join("clock");
    set(&step, 0)?;
    stage.broker.variables = shim.clock_variables(&step);
    stage.start()?;
    let mut client = Client::connect(stage.broker.port)?;
    let life = i32::try_from(LIFE.as_millis()).unwrap_or(i32::MAX);
    client.declare("mortal", true, &[("x-message-ttl".to_owned(), Argument::Number(life))])?;
    client.confirm_select()?;
    while stage.cycles < stage.orders.cycles {
        let began = Instant::now();
        for _ in 0..MESSAGES {
            let id = stage.recorder.id();
            client.publish(
                "",
                "mortal",
                Properties { persistent: true, ..Properties::default() },
                &body::body(id, 100),
            );
        }
        client.flush()?;
        let published = Instant::now();
        // Forward and back, by seconds and by hours.
        for _ in 0..4 {
            let far = if stage.random.chance(50) { HOUR_MS } else { 3_000 };
            let distance = i64::try_from(stage.random.below(far.unsigned_abs())).unwrap_or(0);
            set(&step, if stage.random.chance(50) { distance } else { -distance })?;
            std::thread::sleep(LIFE / 8);
            let count = client.count("mortal")?;
            if began.elapsed() < LIFE * 9 / 10 && count != Some(MESSAGES) {
                stage.problems.push(format!("after {:?} of {LIFE:?} {count:?} messages are left", began.elapsed()));
            }
            stage.count("steps", 1);
        }
        while client.count("mortal")? != Some(0) {
            if published.elapsed() > LIFE + LATE {
                let count = client.purge("mortal").map(|()| "purged");
                stage
                    .problems
                    .push(format!("after {:?} messages of {LIFE:?} are still there ({count:?})", published.elapsed()));
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        stage.verdict.counts.attempted += MESSAGES;
        stage.cycles += 1;
    }
    stage.progress();
    client.close()?;
    stage.stop()
}

fn set(file: &std::path::Path, ms: i64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    // The same file: the broker has it in its memory.
    let file = std::fs::File::options().create(true).truncate(false).write(true).open(file)?;
    file.write_all_at(&ms.to_ne_bytes(), 0)
}
