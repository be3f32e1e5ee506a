//! Clients that vanish half-way: in a frame, in a body, in a transaction, with messages in their hands.

use crate::amqp::{Client, Incoming, Properties};
use crate::stage::Stage;
use leveret_checker::{Event, Settlement, body};
use std::io;
use std::time::Duration;

const BODY_BYTES: usize = 200_000;
/// How many vanish a cycle.
const CLIENTS: u64 = 12;

pub fn run(stage: &mut Stage) -> io::Result<()> {
    stage.start()?;
    while stage.cycles < stage.orders.cycles {
        stage.declare()?;
        let load = stage.load();
        for _ in 0..CLIENTS {
            match stage.random.below(4) {
                0 => in_a_publish(stage)?,
                1 => in_a_transaction(stage)?,
                2 => with_messages(stage)?,
                _ => in_a_handshake(stage)?,
            }
        }
        for error in load.finish() {
            stage.problems.push(format!("others were disturbed: {error}"));
        }
        if let Some(end) = stage.broker.ended()? {
            stage.problems.push(format!("the broker ended with {end:?}"));
        }
        stage.cycles += 1;
        stage.settle()?;
        stage.progress();
    }
    Ok(())
}

/// Written down as part of a transaction that is never committed: it must not be delivered.
fn unfinished(stage: &Stage, queues: &[&str]) -> (u64, Event) {
    let (id, tx) = (stage.recorder.id(), u64::from(stage.recorder.number()));
    let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
    let publisher = stage.recorder.number();
    (id, Event::Publish { publisher, id, queues, persistent: true, priority: 0, expires: false, tx: Some(tx) })
}

fn in_a_publish(stage: &mut Stage) -> io::Result<()> {
    let mut client = Client::connect(stage.broker.port)?;
    let (id, event) = unfinished(stage, &["plain-0"]);
    stage.recorder.note(event);
    let properties = Properties { persistent: true, ..Properties::default() };
    client.publish("", "plain-0", properties, &body::body(id, BODY_BYTES));
    let octets = stage.random.within(1..=client.unflushed() as u64 - 1);
    stage.count("vanished in a publish", 1);
    client.flush_part(usize::try_from(octets).unwrap_or(1))
}

fn in_a_transaction(stage: &mut Stage) -> io::Result<()> {
    let mut client = Client::connect(stage.broker.port)?;
    client.tx_select()?;
    let consumer = stage.recorder.number();
    let queue = || "tx-in".to_owned();
    client.get("tx-in");
    client.flush()?;
    if let Some(Incoming::Message(message)) = client.next(Duration::from_secs(20))? {
        let (tag, redelivered, id) = (message.tag, message.redelivered, body::check(&message.body));
        stage.recorder.note(Event::Deliver { queue: queue(), consumer, tag, id, redelivered });
        if let Some(id) = id {
            let tx = Some(u64::from(stage.recorder.number()));
            stage.recorder.note(Event::Settle { queue: queue(), consumer, id, how: Settlement::Ack, tx });
            client.ack(tag, false);
        }
    }
    let (id, event) = unfinished(stage, &["tx-one", "tx-two"]);
    stage.recorder.note(event);
    let properties = Properties { persistent: true, ..Properties::default() };
    client.publish(crate::plan::TRANSACTIONS, "", properties, &body::body(id, 1000));
    client.flush()?;
    // It is written down before it happens, so that nobody gets the message in between.
    stage.recorder.note(Event::Gone { consumer, queue: queue(), unread: false });
    stage.count("vanished in a transaction", 1);
    Ok(())
}

fn with_messages(stage: &mut Stage) -> io::Result<()> {
    let mut client = Client::connect(stage.broker.port)?;
    let consumer = stage.recorder.number();
    let queue = || "plain-1".to_owned();
    client.qos(u16::try_from(stage.random.within(1..=100)).unwrap_or(1))?;
    client.consume("plain-1")?;
    while let Some(incoming) = client.next(Duration::from_millis(20))? {
        if let Incoming::Message(message) = incoming {
            let (tag, redelivered, id) = (message.tag, message.redelivered, body::check(&message.body));
            stage.recorder.note(Event::Deliver { queue: queue(), consumer, tag, id, redelivered });
        }
        if stage.random.chance(3) {
            break;
        }
    }
    stage.recorder.note(Event::Gone { consumer, queue: queue(), unread: true });
    stage.count("vanished with messages", 1);
    Ok(())
}

fn in_a_handshake(stage: &mut Stage) -> io::Result<()> {
    use std::io::Write;
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", stage.broker.port))?;
    let head = b"AMQP\0\0\x09\x01\x01\0\0\0\0\0\x20\0\x0a\0\x0b";
    let octets = usize::try_from(stage.random.below(head.len() as u64)).unwrap_or(0);
    stage.count("vanished in a handshake", 1);
    socket.write_all(&head[..octets])
}
