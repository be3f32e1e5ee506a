//! Memory or disk run short: publishers wait and are told so, everybody else goes on.

use super::support::peer::{Incoming, PERSISTENT, write_publish};
use super::support::{Api, Broker, Declare, Link, Peer, SmallDisk, eventually};
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::FieldTable;
use std::time::{Duration, Instant};

const MB: u64 = 1_000_000;
/// Memory is always short.
const NO_MEMORY: [&str; 2] = ["--vm-memory-high-watermark-absolute", "0"];
/// More than is held of a client that is not to publish.
const MANY: u64 = 300;

fn blocked(reason: &str) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Blocked(connection::Blocked { reason: reason.into() }))
}

fn unblocked() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Unblocked(connection::Unblocked {}))
}

fn capable(broker: &Broker) -> Peer {
    Peer::open_capable(broker, &["connection.blocked"])
}

/// Numbered messages of about 1 KiB.
fn publish_many(peer: &mut Peer, queue: &str, count: u64) {
    let mut out = Vec::new();
    for number in 0..count {
        let mut body = vec![b'.'; 1000];
        body[..8].copy_from_slice(&number.to_be_bytes());
        write_publish(&mut out, 1, "", queue, PERSISTENT, &body, 131_072);
    }
    peer.octets(&out);
}

/// A broker with a durable queue `q` of so many messages, and from its second start on with these flags.
fn with_backlog(messages: u64, flags: &[&str]) -> Broker {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    publish_many(&mut peer, "q", messages);
    peer.expect_confirms(1, messages);
    peer.close();
    assert!(broker.stop().success());
    broker.restart_with(flags);
    broker
}

#[test]
fn a_publisher_is_told_at_its_first_publish_and_once() {
    let broker = Broker::with(&[&NO_MEMORY[..], &["--http-port=0"]].concat());
    let mut peer = capable(&broker);
    peer.confirm_select(1);
    // Everything but publishing works, and does not make anybody a publisher.
    peer.declare(1, Declare::durable("q"));
    peer.publish(1, "q", PERSISTENT, b"one");
    peer.expect(0, &blocked("low on memory"));
    peer.publish(1, "q", PERSISTENT, b"two");
    // Another channel goes on; had the message been taken, or blocked been told again, that would have come first.
    peer.open_channel(2);
    assert_eq!(peer.declare(2, Declare::passive("q")).0, 0);
    // Who has not published is not held up yet.
    let other = Peer::open(&broker);
    let state = |peer: &Peer| {
        let name = format!("127.0.0.1:{} -> 127.0.0.1:{}", peer.ports().0, peer.ports().1);
        let listed = Api::of(&broker).get("/api/connections").json();
        let found = listed.as_array().unwrap().iter().find(|shown| shown["name"] == name.as_str()).cloned();
        found.map(|shown| shown["state"].as_str().unwrap().to_owned())
    };
    eventually("its state", || (state(&peer).as_deref() == Some("blocked")).then_some(()));
    assert_eq!(state(&other).as_deref(), Some("blocking"));
    let log = broker.log().join("\n");
    assert!(log.contains("memory resource limit alarm set on node leveret@"), "{log}");
    assert!(log.contains("Publishers will be blocked until this alarm clears"), "{log}");
}

#[test]
fn a_client_without_the_capability_is_not_told_but_waits_too() {
    let broker = Broker::with(&NO_MEMORY);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.publish(1, "q", PERSISTENT, b"one");
    peer.open_channel(2);
    assert_eq!(peer.declare(2, Declare::passive("q")).0, 0);
}

#[test]
fn who_only_consumes_goes_on() {
    let broker = with_backlog(1000, &NO_MEMORY);
    let mut consumer = capable(&broker);
    consumer.qos(1, 10);
    consumer.consume(1, "q", "c", false);
    for _ in 0..100 {
        for _ in 0..9 {
            consumer.expect_delivery();
        }
        let last = consumer.expect_delivery();
        consumer.ack(1, last.tag, true);
    }
    consumer.close();
    let mut peer = Peer::open(&broker);
    eventually("an empty queue", || (peer.declare(1, Declare::passive("q")) == (0, 0)).then_some(()));
}

#[test]
fn acknowledgements_go_on_beside_held_publishes() {
    let broker = with_backlog(100, &NO_MEMORY);
    let mut peer = capable(&broker);
    peer.publish(1, "q", PERSISTENT, b"held");
    peer.expect(0, &blocked("low on memory"));
    peer.open_channel(2);
    peer.qos(2, 1);
    peer.consume(2, "q", "c", false);
    for _ in 0..100 {
        // Each comes only after the one before was acknowledged.
        let delivery = peer.expect_delivery();
        peer.ack(2, delivery.tag, false);
    }
    // What is held is not overtaken by the good-bye, so that is not answered; but the client may go.
    peer.say_close();
    peer.half_close();
    let mut peer = Peer::open(&broker);
    eventually("the connection's end", || (peer.declare(1, Declare::passive("q")) == (0, 0)).then_some(()));
}

#[test]
fn a_client_that_hangs_up_while_it_is_not_read_is_noticed() {
    let broker = with_backlog(1, &NO_MEMORY);
    let mut peer = capable(&broker);
    peer.publish(1, "q", PERSISTENT, b"first");
    peer.expect(0, &blocked("low on memory"));
    // The broker stops reading, so that an end is hidden behind what it has not read.
    publish_many(&mut peer, "q", MANY);
    peer.vanish();
    eventually("the connection's end", || {
        let told = |line: &String| line.contains("client hung up while its messages had to wait");
        broker.log().iter().any(told).then_some(())
    });
}

/// (Neither its silence nor a good-bye tells of it: the system notices that nobody takes our heartbeats.)
#[test]
fn a_client_that_vanishes_while_it_is_not_read_is_noticed() {
    let Some(link) = Link::lay() else { return };
    let here = link.here().to_string();
    let flags = ["--bind", &here, "--loopback-users", "none", "--write-timeout", "2s"];
    let broker = Broker::with(&[&NO_MEMORY[..], &flags].concat());
    let mut peer = Peer::on(link.connect(broker.listener_on(link.here().into()))).opened_with_heartbeats(1);
    publish_many(&mut peer, "q", MANY);
    // It is blocked, and well.
    for _ in 0..4 {
        assert_eq!(peer.next(), Incoming::Heartbeat);
    }
    link.cut();
    eventually("the connection's end", || {
        let told = |line: &String| line.contains("closing AMQP connection");
        broker.log().iter().any(told).then_some(())
    });
}

#[test]
fn a_blocked_client_gets_heartbeats_and_is_not_missed_for_its_own() {
    let broker = Broker::with(&NO_MEMORY);
    let mut peer = Peer::silent(&broker).opened_with_heartbeats(1);
    publish_many(&mut peer, "q", MANY);
    // It says nothing for much longer than the two seconds that a client may be silent.
    let end = Instant::now() + Duration::from_secs(5);
    let mut heartbeats = 0;
    while Instant::now() < end {
        assert_eq!(peer.next(), Incoming::Heartbeat);
        heartbeats += 1;
    }
    assert!(heartbeats >= 4, "{heartbeats} heartbeats");
}

#[test]
fn a_broker_stops_in_good_order_while_publishers_wait() {
    let mut broker = Broker::with(&NO_MEMORY);
    let mut held = capable(&broker);
    held.publish(1, "q", PERSISTENT, b"held");
    held.expect(0, &blocked("low on memory"));
    let mut unread = capable(&broker);
    publish_many(&mut unread, "q", MANY);
    unread.expect(0, &blocked("low on memory"));
    broker.terminate();
    for mut peer in [held, unread] {
        peer.expect_connection_close(320, "CONNECTION_FORCED");
    }
    assert!(broker.wait().success());
}

#[test]
fn a_full_disk_stops_publishers_until_there_is_a_good_deal_of_room() {
    let Some(disk) = SmallDisk::mount(256 * MB) else { return };
    let broker = Broker::with(&["--data-dir", &disk.data_dir(), "--disk-free-limit-absolute", "100MB"]);
    let mut ear = Peer::open(&broker);
    ear.declare(1, Declare { name: "ear", exclusive: true, ..Declare::default() });
    ear.bind(1, "ear", "amq.rabbitmq.event", "alarm.#");
    ear.consume(1, "ear", "c", true);
    let mut peer = capable(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    publish_many(&mut peer, "q", 10);
    peer.expect_confirms(1, 10);
    disk.fill_but(80 * MB);
    // One that has published is told at once.
    peer.expect(0, &blocked("low on disk"));
    assert_eq!(ear.expect_delivery().routing_key, "alarm.set");
    publish_many(&mut peer, "q", MANY);
    // Above the mark is not enough.
    disk.fill_but(110 * MB);
    std::thread::sleep(Duration::from_millis(1500));
    let mut other = Peer::open(&broker);
    assert_eq!(other.declare(1, Declare::passive("q")).0, 10);
    disk.fill_but(130 * MB);
    peer.expect(0, &unblocked());
    assert_eq!(ear.expect_delivery().routing_key, "alarm.cleared");
    peer.expect_confirms(11, 10 + MANY);
    // All that waited is there, in order.
    other.consume(1, "q", "c", true);
    for number in (0..10).chain(0..MANY) {
        assert_eq!(other.expect_delivery().body[..8], number.to_be_bytes());
    }
    // The next time is another episode.
    disk.fill_but(80 * MB);
    peer.expect(0, &blocked("low on disk"));
}

#[test]
fn one_alarm_less_is_not_enough() {
    let Some(disk) = SmallDisk::mount(256 * MB) else { return };
    let data = disk.data_dir();
    let flags = ["--data-dir", &data, "--disk-free-limit-absolute", "100MB", NO_MEMORY[0], NO_MEMORY[1]];
    disk.fill_but(80 * MB);
    let broker = Broker::with(&flags);
    let mut peer = capable(&broker);
    peer.publish(1, "q", PERSISTENT, b"held");
    peer.expect(0, &blocked("low on memory & disk"));
    disk.relieve();
    eventually("the end of one alarm", || {
        let told = |line: &String| line.contains("disk resource limit alarm cleared");
        broker.log().iter().any(told).then_some(())
    });
    // Neither told that it goes on, nor that it is stopped again.
    peer.open_channel(2);
    disk.fill_but(80 * MB);
    eventually("the alarm again", || {
        let told = |line: &&String| line.contains("disk resource limit alarm set");
        (broker.log().iter().filter(told).count() == 2).then_some(())
    });
    peer.open_channel(3);
}

#[test]
fn lapin_hears_that_it_is_blocked() {
    let Some(disk) = SmallDisk::mount(256 * MB) else { return };
    let broker = Broker::with(&["--data-dir", &disk.data_dir(), "--disk-free-limit-absolute", "100MB"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
        let connection =
            lapin::Connection::connect(&broker.uri(), lapin::ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.queue_declare("q".into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
        let properties = lapin::BasicProperties::default();
        channel.basic_publish("".into(), "q".into(), BasicPublishOptions::default(), b"x", properties).await.unwrap();
        for full in [true, false] {
            if full {
                disk.fill_but(80 * MB)
            } else {
                disk.relieve()
            }
            let end = Instant::now() + super::support::PATIENCE;
            while connection.status().blocked() != full {
                assert!(Instant::now() < end, "lapin never heard of blocked = {full}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
}
