//! lapin, a client library that knows nothing of us.

use super::support::{Broker, PATIENCE};
use amq_protocol::types::{AMQPValue, FieldTable};
use lapin::message::{Delivery, DeliveryResult};
use lapin::options::*;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use std::future::Future;
use tokio::sync::mpsc;

/// Runs a conversation with a broker, within reasonable time.
fn with_lapin<F: Future<Output = ()>>(broker: &Broker, talk: impl FnOnce(Connection) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, async {
            let connection = Connection::connect(&broker.uri(), ConnectionProperties::default()).await.unwrap();
            talk(connection).await;
        })
        .await
        .expect("an end in time");
    });
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

async fn declare(channel: &Channel, name: &str) {
    channel.queue_declare(name.into(), durable(), FieldTable::default()).await.unwrap();
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// Publishes to the default exchange and waits for the confirm.
async fn publish(channel: &Channel, queue: &str, body: &[u8]) -> Confirmation {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish("".into(), queue.into(), options, body, persistent()).await.unwrap().await.unwrap()
}

async fn get(channel: &Channel, queue: &str) -> Option<Delivery> {
    let options = BasicGetOptions { no_ack: false };
    channel.basic_get(queue.into(), options).await.unwrap().map(|message| message.delivery)
}

async fn ready(channel: &Channel, queue: &str) -> u32 {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
}

#[test]
fn lapin_publishes_with_confirms_and_consumes_in_order() {
    let broker = Broker::start();
    with_lapin(&broker, |connection| async move {
        let channel = connection.create_channel().await.unwrap();
        declare(&channel, "q").await;
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let mut confirms = Vec::new();
        for number in 0..1000_u32 {
            let options = BasicPublishOptions::default();
            let body = number.to_be_bytes();
            confirms.push(channel.basic_publish("".into(), "q".into(), options, &body, persistent()).await.unwrap());
        }
        for confirm in confirms {
            assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
        }
        let consumers = connection.create_channel().await.unwrap();
        consumers.basic_qos(50, BasicQosOptions::default()).await.unwrap();
        let mut consumer = consume(&consumers, "q", "c").await;
        for number in 0..1000_u32 {
            let delivery = consumer.next().await.unwrap();
            assert_eq!(delivery.data, number.to_be_bytes());
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
        consumers.basic_cancel("c".into(), BasicCancelOptions::default()).await.unwrap();
        // What is published from now on waits for others.
        assert_eq!(publish(&channel, "q", b"later").await, Confirmation::Ack(None));
        assert_eq!(ready(&channel, "q").await, 1);
        connection.close(200, "bye".into()).await.unwrap();
    });
}

/// A consumer's deliveries, in order; after its cancellation nothing more.
struct Deliveries(mpsc::UnboundedReceiver<DeliveryResult>);

async fn consume(channel: &Channel, queue: &str, tag: &str) -> Deliveries {
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(queue.into(), tag.into(), options, FieldTable::default()).await.unwrap();
    let (sender, deliveries) = mpsc::unbounded_channel();
    consumer.set_delegate(move |delivery: DeliveryResult| {
        // Nobody waits any more at the end of a test.
        let _ = sender.send(delivery);
        std::future::ready(())
    });
    Deliveries(deliveries)
}

impl Deliveries {
    /// `None` once the consumer is cancelled.
    async fn next(&mut self) -> Option<Delivery> {
        self.0.recv().await.expect("a consumer tells of its end").unwrap()
    }
}

#[test]
fn lapin_gets_back_what_it_rejects_with_requeue_and_only_that() {
    let broker = Broker::start();
    with_lapin(&broker, |connection| async move {
        let channel = connection.create_channel().await.unwrap();
        declare(&channel, "q").await;
        for body in [b"a", b"b", b"c", b"d"] {
            publish(&channel, "q", body).await;
        }
        let a = get(&channel, "q").await.unwrap();
        let b = get(&channel, "q").await.unwrap();
        let c = get(&channel, "q").await.unwrap();
        b.reject(BasicRejectOptions { requeue: true }).await.unwrap();
        a.reject(BasicRejectOptions { requeue: false }).await.unwrap();
        c.nack(BasicNackOptions { requeue: true, multiple: false }).await.unwrap();
        let mut found = Vec::new();
        while let Some(delivery) = get(&channel, "q").await {
            found.push((String::from_utf8(delivery.data).unwrap(), delivery.redelivered));
        }
        assert_eq!(found, [("b".to_owned(), true), ("c".to_owned(), true), ("d".to_owned(), false)]);
        connection.close(200, "bye".into()).await.unwrap();
    });
}

#[test]
fn lapin_is_given_back_what_cannot_be_routed() {
    let broker = Broker::start();
    with_lapin(&broker, |connection| async move {
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let Confirmation::Ack(Some(returned)) = publish(&channel, "nowhere", b"m").await else { panic!() };
        assert_eq!((returned.reply_code, returned.reply_text.as_str()), (312, "NO_ROUTE"));
        assert_eq!((returned.delivery.routing_key.as_str(), &returned.delivery.data[..]), ("nowhere", &b"m"[..]));
        connection.close(200, "bye".into()).await.unwrap();
    });
}

#[test]
fn lapins_transactions_are_seen_when_committed() {
    let broker = Broker::start();
    with_lapin(&broker, |connection| async move {
        let channel = connection.create_channel().await.unwrap();
        let watcher = connection.create_channel().await.unwrap();
        declare(&channel, "q").await;
        channel.tx_select().await.unwrap();
        publish(&channel, "q", b"rolled back").await;
        assert_eq!(ready(&watcher, "q").await, 0);
        channel.tx_rollback().await.unwrap();
        publish(&channel, "q", b"a").await;
        publish(&channel, "q", b"b").await;
        channel.tx_commit().await.unwrap();
        assert_eq!(ready(&watcher, "q").await, 2);
        let a = get(&channel, "q").await.unwrap();
        a.ack(BasicAckOptions::default()).await.unwrap();
        channel.tx_rollback().await.unwrap();
        // Not acknowledged after all, but still this channel's.
        assert_eq!(ready(&watcher, "q").await, 1);
        channel.close(200, "bye".into()).await.unwrap();
        assert_eq!(ready(&watcher, "q").await, 2);
        connection.close(200, "bye".into()).await.unwrap();
    });
}

#[test]
fn lapin_routes_through_every_type_of_exchange() {
    let broker = Broker::start();
    with_lapin(&broker, |connection| async move {
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        declare(&channel, "q").await;
        let mut wanted = FieldTable::default();
        wanted.insert("x-match".into(), AMQPValue::LongString("all".into()));
        wanted.insert("colour".into(), AMQPValue::LongString("grey".into()));
        wanted.insert("legs".into(), AMQPValue::LongInt(4));
        let kinds = [
            (ExchangeKind::Direct, "key", "key", FieldTable::default()),
            (ExchangeKind::Fanout, "", "whatever", FieldTable::default()),
            (ExchangeKind::Topic, "a.*.#", "a.b.c.d", FieldTable::default()),
            (ExchangeKind::Headers, "", "", wanted.clone()),
        ];
        for (kind, pattern, key, arguments) in kinds {
            let name: ShortString = format!("of-{kind:?}").into();
            let options = ExchangeDeclareOptions::default();
            channel.exchange_declare(name.clone(), kind.clone(), options, FieldTable::default()).await.unwrap();
            let options = QueueBindOptions::default();
            channel.queue_bind("q".into(), name.clone(), pattern.into(), options, arguments).await.unwrap();
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties = BasicProperties::default().with_headers(wanted.clone());
            let confirm = channel.basic_publish(name.clone(), key.into(), options, b"m", properties).await.unwrap();
            assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None), "{name}");
            let delivery = get(&channel, "q").await.unwrap();
            assert_eq!((delivery.exchange.clone(), delivery.routing_key.as_str()), (name, key));
            assert_eq!(delivery.properties.headers(), &Some(wanted.clone()));
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
        connection.close(200, "bye".into()).await.unwrap();
    });
}

#[test]
fn lapins_exclusive_queues_and_consumers_are_its_own() {
    let broker = Broker::start();
    let uri = broker.uri();
    with_lapin(&broker, |connection| async move {
        let mine = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let queue = mine.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        let name = queue.name().as_str().to_owned();
        assert!(name.starts_with("amq.gen-"), "{name}");
        let other = Connection::connect(&uri, ConnectionProperties::default()).await.unwrap();
        let channel = other.create_channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let refused =
            channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.unwrap_err().to_string();
        assert!(refused.contains("RESOURCE_LOCKED"), "{refused}");
        connection.close(200, "bye".into()).await.unwrap();
        // Gone with its connection: the name is nobody's.
        let channel = other.create_channel().await.unwrap();
        let refused =
            channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.unwrap_err().to_string();
        assert!(refused.contains("NOT_FOUND"), "{refused}");
        other.close(200, "bye".into()).await.unwrap();
    });
}

#[test]
fn lapin_is_told_when_its_consumers_queue_is_deleted() {
    let broker = Broker::start();
    with_lapin(&broker, |connection| async move {
        let channel = connection.create_channel().await.unwrap();
        declare(&channel, "q").await;
        let mut consumer = consume(&channel, "q", "c").await;
        let other = connection.create_channel().await.unwrap();
        publish(&other, "q", b"m").await;
        assert_eq!(consumer.next().await.unwrap().data, b"m");
        other.queue_delete("q".into(), QueueDeleteOptions::default()).await.unwrap();
        assert!(consumer.next().await.is_none());
        connection.close(200, "bye".into()).await.unwrap();
    });
}

#[test]
fn consumers_of_equal_rank_take_turns_within_their_prefetch() {
    let broker = Broker::start();
    with_lapin(&broker, |connection| async move {
        let channel = connection.create_channel().await.unwrap();
        declare(&channel, "q").await;
        let mut consumers = Vec::new();
        for tag in ["one", "two", "three"] {
            channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
            consumers.push(consume(&channel, "q", tag).await);
        }
        for number in 0..30_u8 {
            publish(&channel, "q", &[number]).await;
        }
        for _ in 0..10 {
            for consumer in &mut consumers {
                let delivery = consumer.next().await.unwrap();
                delivery.ack(BasicAckOptions::default()).await.unwrap();
            }
        }
        assert_eq!(ready(&channel, "q").await, 0);
        connection.close(200, "bye".into()).await.unwrap();
    });
}

#[test]
fn a_megabyte_and_every_property_come_back_to_lapin() {
    let broker = Broker::start();
    with_lapin(&broker, |connection| async move {
        let channel = connection.create_channel().await.unwrap();
        declare(&channel, "q").await;
        let mut headers = FieldTable::default();
        headers.insert("text".into(), AMQPValue::LongString("länge".into()));
        headers.insert("number".into(), AMQPValue::LongLongInt(-1));
        headers.insert("nested".into(), AMQPValue::FieldTable(headers.clone()));
        let properties = persistent()
            .with_content_type("text/plain".into())
            .with_content_encoding("utf-8".into())
            .with_headers(headers)
            .with_priority(3)
            .with_correlation_id("c".into())
            .with_reply_to("r".into())
            .with_expiration("600000".into())
            .with_message_id("m".into())
            .with_timestamp(1_700_000_000)
            .with_type("t".into())
            .with_user_id("guest".into())
            .with_app_id("a".into());
        let body: Vec<u8> = (0..1_048_576_u32).map(|at| (at % 251) as u8).collect();
        let options = BasicPublishOptions::default();
        channel.basic_publish("".into(), "q".into(), options, &body, properties.clone()).await.unwrap().await.unwrap();
        let delivery = get(&channel, "q").await.unwrap();
        assert!(delivery.data == body);
        assert_eq!(delivery.properties, properties);
        connection.close(200, "bye".into()).await.unwrap();
    });
}
