//! The same history through somebody else's client.

use crate::recorder::Recorder;
use futures_lite::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use leveret_checker::{Event, Kind, Settlement, body};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const QUEUE: &str = "lapin";
const BURST: usize = 20;
/// A client that waits for a broker that is gone must end some time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Publishes and consumes until it is stopped or the broker is gone.
pub fn run(port: u16, recorder: &Recorder, stop: &Arc<AtomicBool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(async {
        let talk = talk(port, recorder, stop);
        tokio::time::timeout(PATIENCE * 4, talk)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
            .map_err(io::Error::other)
    });
    runtime.shutdown_background();
    ended
}

async fn talk(port: u16, recorder: &Recorder, stop: &AtomicBool) -> lapin::Result<()> {
    let connection =
        Connection::connect(&format!("amqp://guest:guest@127.0.0.1:{port}/%2f"), ConnectionProperties::default())
            .await?;
    let publishing = connection.create_channel().await?;
    let queue = || QUEUE.to_owned();
    recorder.note(Event::Declare {
        queue: queue(),
        durable: true,
        kind: Kind::Classic,
        dead_letters_to: None,
        drops: false,
        priorities: false,
    });
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    publishing.queue_declare(QUEUE.into(), durable, FieldTable::default()).await?;
    recorder.note(Event::DeclareOk { queue: queue() });
    publishing.confirm_select(ConfirmSelectOptions::default()).await?;
    let consuming = connection.create_channel().await?;
    consuming.basic_qos(10, BasicQosOptions::default()).await?;
    let mut consumer = consuming
        .basic_consume(QUEUE.into(), "lapin".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    let (publisher, number) = (recorder.number(), recorder.number());
    let publishes = async {
        while !stop.load(Ordering::Acquire) {
            let mut confirms = Vec::new();
            for _ in 0..BURST {
                let id = recorder.id();
                let (queues, persistent) = (vec![queue()], true);
                recorder.note(Event::Publish {
                    publisher,
                    id,
                    queues,
                    persistent,
                    priority: 0,
                    expires: false,
                    tx: None,
                });
                let properties = BasicProperties::default().with_delivery_mode(2);
                let options = BasicPublishOptions::default();
                confirms.push((
                    id,
                    publishing
                        .basic_publish("".into(), QUEUE.into(), options, &body::body(id, 100), properties)
                        .await?,
                ));
            }
            for (id, confirm) in confirms {
                match confirm.await? {
                    Confirmation::Ack(_) => recorder.note(Event::Confirm { id }),
                    Confirmation::Nack(_) => recorder.note(Event::Nack { id }),
                    Confirmation::NotRequested => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        lapin::Result::Ok(())
    };
    let consumes = async {
        // A third of the publishes, so that something is left.
        while !stop.load(Ordering::Acquire) {
            let Ok(next) = tokio::time::timeout(Duration::from_millis(20), consumer.next()).await else { continue };
            let Some(delivery) = next else { break };
            let delivery = delivery?;
            let id = body::check(&delivery.data);
            let (tag, redelivered) = (delivery.delivery_tag, delivery.redelivered);
            recorder.note(Event::Deliver { queue: queue(), consumer: number, tag, id, redelivered });
            if let Some(id) = id {
                let how = Settlement::Ack;
                recorder.note(Event::Settle { queue: queue(), consumer: number, id, how, tx: None });
                delivery.acker.ack(BasicAckOptions::default()).await?;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lapin::Result::Ok(())
    };
    // It forgets who waits for a confirm when its connection breaks.
    let breaks = async {
        while connection.status().connected() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        (published, consumed) = async { tokio::join!(publishes, consumes) } => published.and(consumed)?,
        () = breaks => return Ok(()),
    }
    connection.close(200, "bye".into()).await?;
    // What was on its way was never read.
    recorder.note(Event::Gone { consumer: number, queue: queue(), unread: true });
    Ok(())
}
