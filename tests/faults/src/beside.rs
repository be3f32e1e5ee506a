//! Clients that are programs of their own, in other languages. They are told the port, the first of their messages' ids and
//! the number of their publisher and consumer, print events as lines of JSON, and end with their standard input.

use crate::recorder::Recorder;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const IDS: u32 = 1 << 20;

/// Runs `command` for as long as the load runs.
pub fn run(command: &str, port: u16, recorder: &Recorder, stop: &AtomicBool) -> io::Result<()> {
    let (id, number) = recorder.reserve(IDS);
    let mut child = Command::new("sh")
        .args(["-c", &format!("exec {command} {port} {id} {number}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().ok_or_else(|| io::Error::other("no output"))?).lines();
    let taken = recorder.clone();
    let reader = std::thread::spawn(move || {
        for line in lines {
            taken.take(serde_json::from_str(&line?)?);
        }
        io::Result::Ok(())
    });
    while !stop.load(Ordering::Acquire) && child.try_wait()?.is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Its standard input ends.
    drop(child.stdin.take());
    let read = reader.join().map_err(|_| io::Error::other("the reader panicked"))?;
    if !child.wait()?.success() {
        return Err(io::Error::other("it failed"));
    }
    read
}
