//! What is there after a crash: which queues, and everything in them.

use crate::amqp::{Client, Incoming};
use crate::plan::Plan;
use crate::recorder::Recorder;
use leveret_checker::{Event, Settlement, body};
use std::io;
use std::time::Duration;

/// Requests under way at a time.
const GETS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);
/// How long dead letters may take from one queue to the next.
const DEATH: Duration = Duration::from_millis(250);

/// Asks for every queue that was ever declared.
pub fn look(port: u16, recorder: &Recorder) -> io::Result<()> {
    let mut client = Client::connect(port)?;
    for declared in recorder.queues() {
        let Event::Declare { queue, .. } = declared else { continue };
        let exists = client.count(&queue)?.is_some();
        recorder.note(Event::Found { queue, exists });
    }
    client.close()
}

/// Takes and acknowledges everything in every queue, those last that dead letters get to.
pub fn drain(port: u16, plan: &Plan, recorder: &Recorder) -> io::Result<()> {
    let declared = recorder.queues();
    let targets: Vec<&String> = declared.iter().filter_map(dead_letters_to).collect();
    let names = declared.iter().filter_map(|event| match event {
        Event::Declare { queue, .. } => Some(queue),
        _ => None,
    });
    let (last, first): (Vec<&String>, Vec<&String>) = names.partition(|name| targets.contains(name));
    for name in first {
        drain_queue(port, name, plan.is_quiet(name), false, recorder)?;
    }
    if !last.is_empty() {
        std::thread::sleep(DEATH);
    }
    for name in last {
        drain_queue(port, name, false, true, recorder)?;
    }
    Ok(())
}

fn dead_letters_to(event: &Event) -> Option<&String> {
    match event {
        Event::Declare { dead_letters_to, .. } => dead_letters_to.as_ref(),
        _ => None,
    }
}

/// `quiet`: its count can be told before. `fed`: something may still come from elsewhere.
fn drain_queue(port: u16, name: &str, quiet: bool, fed: bool, recorder: &Recorder) -> io::Result<()> {
    let mut client = Client::connect(port)?;
    let consumer = recorder.number();
    let queue = || name.to_owned();
    let Some(ready) = client.count(name)? else {
        // A queue that is not there holds nothing.
        recorder.note(Event::Drained { queue: queue(), consumer });
        return client.close();
    };
    if quiet {
        recorder.note(Event::Counted { queue: queue(), ready });
    }
    let mut idle = 0;
    while idle < if fed { 2 } else { 1 } {
        for _ in 0..GETS {
            client.get(name);
        }
        client.flush()?;
        let (mut last, mut events) = (None, Vec::new());
        for _ in 0..GETS {
            match client.next(PATIENCE)? {
                Some(Incoming::Message(message)) => {
                    let id = body::check(&message.body);
                    let (tag, redelivered) = (message.tag, message.redelivered);
                    events.push(Event::Deliver { queue: queue(), consumer, tag, id, redelivered });
                    if let Some(id) = id {
                        let how = Settlement::Ack;
                        events.push(Event::Settle { queue: queue(), consumer, id, how, tx: None });
                    }
                    last = Some(tag);
                }
                Some(Incoming::GetEmpty) => {}
                other => return Err(io::Error::other(format!("basic.get was answered by {other:?}"))),
            }
        }
        recorder.notes(events);
        match last {
            Some(tag) => {
                idle = 0;
                client.ack(tag, true);
                client.flush()?;
            }
            None => {
                idle += 1;
                if fed {
                    std::thread::sleep(DEATH);
                }
            }
        }
    }
    client.qos(1)?;
    recorder.note(Event::Synced { consumer });
    recorder.note(Event::Drained { queue: queue(), consumer });
    // All that it held was acknowledged.
    client.close()
}
