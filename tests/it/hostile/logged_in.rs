//! Who has logged in and does harm.

use super::super::support::peer::{PERSISTENT, PLAIN, write_header, write_publish};
use super::super::support::{Broker, Declare, Peer, eventually};
use super::{MIB, Normal, Script, Stop};
use amq_protocol::protocol::{AMQPClass, basic, channel, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::{frame, method};
use std::time::Duration;

/// A network brings so much at a time; without it this machine's cores would be what is attacked.
const BREATH: Duration = Duration::from_millis(2);

/// Sends what `make` writes again and again, as fast as the broker takes it but for a breath between, and reads whatever is
/// answered.
fn flood(broker: &Broker, prepare: impl Fn(&mut Peer), make: impl Fn(&mut Vec<u8>), stop: &Stop) {
    let mut peer = Peer::open(broker);
    prepare(&mut peer);
    peer.write_timeout(Duration::from_millis(100));
    let mut octets = Vec::new();
    make(&mut octets);
    while !stop.is_set() {
        if peer.try_octets(&octets).is_err() {
            // Not read any more, or shown out: begin anew.
            peer = Peer::open(broker);
            prepare(&mut peer);
            peer.write_timeout(Duration::from_millis(100));
        }
        peer.drop_answers();
        std::thread::sleep(BREATH);
    }
}

fn write(out: &mut Vec<u8>, channel: u16, class: AMQPClass) {
    method::write(out, channel, &class);
}

#[test]
fn channels_that_come_and_go_at_once_are_read_slowly() {
    let mut broker = Broker::start();
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 32 * MIB };
    script.run(&mut broker, |broker, _, stop| {
        let churn = |out: &mut Vec<u8>| {
            for _ in 0..200 {
                write(out, 7, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
                let close = channel::Close { reply_code: 200, reply_text: "".into(), class_id: 0, method_id: 0 };
                write(out, 7, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
            }
        };
        flood(broker, |_| {}, churn, stop);
    });
}

#[test]
fn a_client_opens_only_so_many_channels_a_second() {
    let broker = Broker::with(&["--channel-churn-max", "20"]);
    let mut peer = Peer::open(&broker);
    let began = std::time::Instant::now();
    // A burst of ten seconds' worth is free, of which the first channel is one.
    for _ in 0..199 {
        peer.open_channel(2);
        peer.close_channel(2);
    }
    let burst = began.elapsed();
    for _ in 0..20 {
        peer.open_channel(2);
        peer.close_channel(2);
    }
    let after = began.elapsed() - burst;
    assert!(after >= Duration::from_millis(700), "{after:?} for twenty more after {burst:?} for the burst");
    // Its other channels wait with it, and go on then.
    peer.declare(1, Declare::transient("q"));
}

#[test]
fn declarations_that_come_and_go_slow_nobody() {
    let mut broker = Broker::start();
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 48 * MIB };
    script.run(&mut broker, |broker, _, stop| {
        let churn = |out: &mut Vec<u8>| {
            for _ in 0..5 {
                let declare =
                    super::super::support::peer::declare_queue(Declare::durable("churned"), FieldTable::default());
                write(out, 1, declare);
                let bind = queue::Bind {
                    queue: "churned".into(),
                    exchange: "amq.topic".into(),
                    routing_key: "a.#".into(),
                    nowait: false,
                    arguments: FieldTable::default(),
                };
                write(out, 1, AMQPClass::Queue(queue::AMQPMethod::Bind(bind)));
                let delete =
                    queue::Delete { queue: "churned".into(), if_unused: false, if_empty: false, nowait: false };
                write(out, 1, AMQPClass::Queue(queue::AMQPMethod::Delete(delete)));
            }
        };
        flood(broker, |_| {}, churn, stop);
    });
}

#[test]
fn tiny_frames_cost_little_more_than_their_octets() {
    let mut broker = Broker::start();
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 48 * MIB };
    script.run(&mut broker, |broker, _, stop| {
        let tiny = |out: &mut Vec<u8>| {
            // A body of one octet a frame, with empty frames between; and heartbeats that nobody asked for.
            method::write_publish(out, 1, "", "nowhere", false);
            write_header(out, 1, 500, PLAIN);
            for _ in 0..500 {
                frame::write(out, frame::BODY, 1, |out| out.push(b'x'));
                frame::write(out, frame::BODY, 1, |_| {});
                frame::write_heartbeat(out);
            }
        };
        flood(broker, |_| {}, tiny, stop);
    });
}

#[test]
fn tables_as_large_as_a_frame_and_as_deep_as_they_may_be_slow_nobody() {
    let mut broker = Broker::start();
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 48 * MIB };
    script.run(&mut broker, |broker, _, stop| {
        let mut nested = FieldTable::default();
        for _ in 0..20 {
            let mut outer = FieldTable::default();
            outer.insert("t".into(), AMQPValue::FieldTable(nested));
            nested = outer;
        }
        let bombs = |out: &mut Vec<u8>| {
            for _ in 0..4 {
                let mut arguments = nested.clone();
                for number in 0..500 {
                    arguments.insert(format!("x{number}").as_str().into(), AMQPValue::Void);
                }
                write(out, 1, super::super::support::peer::declare_queue(Declare::transient("t"), arguments));
            }
        };
        flood(broker, |_| {}, bombs, stop);
    });
}

#[test]
fn a_thousand_patterns_of_wildcards_slow_nobody_who_does_not_publish_there() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("patterns"));
    for number in 0..1000 {
        peer.bind(1, "patterns", "amq.topic", &format!("*.#.a{}.*.#.b{number}", number % 10));
    }
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 48 * MIB };
    script.run(&mut broker, |broker, _, stop| {
        let messages = |out: &mut Vec<u8>| {
            for number in 0..20 {
                // Another key each time, so that nothing of it is remembered.
                let key = format!("{}.b{number}", "a1.a2.a3.".repeat(20));
                write_publish(out, 1, "amq.topic", &key, PLAIN, b"m", 4096);
            }
        };
        flood(broker, |_| {}, messages, stop);
    });
}

#[test]
fn a_client_that_never_reads_is_given_no_more_and_dropped_in_the_end() {
    let mut broker = Broker::with(&["--write-timeout", "2s"]);
    let mut publisher = Peer::open(&broker);
    publisher.declare(1, Declare::durable("unread"));
    let body = vec![b'x'; 100 << 10];
    publisher.confirm_select(1);
    for _ in 0..200 {
        publisher.publish(1, "unread", PLAIN, &body);
    }
    publisher.expect_confirms(1, 200);
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 48 * MIB };
    script.run(&mut broker, |broker, _, stop| {
        let mut deaf = Peer::open(broker);
        deaf.consume(1, "unread", "deaf", false);
        // Asks for answers as well, and fetches none.
        deaf.write_timeout(Duration::from_millis(50));
        let mut gets = Vec::new();
        for _ in 0..1000 {
            let get = basic::Get { queue: "unread".into(), no_ack: false };
            write(&mut gets, 1, AMQPClass::Basic(basic::AMQPMethod::Get(get)));
        }
        while !stop.is_set() {
            let _ = deaf.try_octets(&gets);
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    // One that stays deaf is shown out, and what it had goes back.
    let mut deaf = Peer::open(&broker);
    deaf.consume(1, "unread", "deaf", false);
    eventually("the end of who takes nothing", || {
        broker.log().iter().any(|line| line.contains("not taken anything")).then_some(())
    });
    eventually("all messages back", || (publisher.declare(1, Declare::passive("unread")) == (200, 0)).then_some(()));
}

#[test]
fn unacknowledged_messages_that_are_hoarded_cost_their_ranges_only() {
    const MESSAGES: u64 = 200_000;
    let mut broker = Broker::start();
    let mut hoarder = Peer::open(&broker);
    hoarder.declare(1, Declare::durable("hoard"));
    hoarder.confirm_select(1);
    let mut out = Vec::new();
    for _ in 0..1000 {
        write_publish(&mut out, 1, "", "hoard", PLAIN, b"m", 4096);
    }
    for batch in 0..MESSAGES / 1000 {
        hoarder.octets(&out);
        hoarder.expect_confirms(batch * 1000 + 1, (batch + 1) * 1000);
    }
    let before = broker.resident_bytes();
    hoarder.consume(1, "hoard", "h", false);
    for _ in 0..MESSAGES {
        hoarder.expect_delivery();
    }
    let each = broker.resident_bytes().saturating_sub(before) / MESSAGES;
    assert!(each <= 64, "{each} octets each");
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 48 * MIB };
    script.run(&mut broker, |_, _, stop| {
        while !stop.is_set() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    drop(hoarder);
}

#[test]
fn bodies_that_are_announced_and_not_sent_take_no_memory() {
    let mut broker = Broker::start();
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 64 * MIB };
    script.run(&mut broker, |broker, _, stop| {
        let mut peer = Peer::open(broker);
        let mut out = Vec::new();
        // Sixteen MiB on each channel: together they would be more than this machine has.
        for number in 2..=1500 {
            peer.open_channel(number);
            method::write_publish(&mut out, number, "", "nowhere", false);
            write_header(&mut out, number, 16 << 20, PLAIN);
            frame::write(&mut out, frame::BODY, number, |out| out.extend_from_slice(b"the first octets"));
        }
        peer.octets(&out);
        while !stop.is_set() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}

/// Publishes for the disk as fast as it is read, into a queue that keeps little.
fn publish_hard(broker: &Broker, number: usize, stop: &Stop) {
    let queue = format!("hot{number}");
    let mut peer = Peer::open(broker);
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1000));
    peer.declare_with(1, Declare::durable(&queue), arguments);
    peer.write_timeout(Duration::from_millis(100));
    let mut octets = Vec::new();
    for _ in 0..16 {
        write_publish(&mut octets, 1, "", &queue, PERSISTENT, &[b'x'; 1024], 4096);
    }
    let mut at = 0;
    while !stop.is_set() {
        // A socket that is full took a part.
        at = (at + peer.write_some(&octets[at..])) % octets.len();
    }
    // Half a message is left over: the connection is of no more use.
    peer.vanish();
}

#[test]
fn a_hot_publisher_slows_nobody_who_does_not_need_the_disk() {
    let mut broker = Broker::start();
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 96 * MIB };
    script.run(&mut broker, publish_hard);
}

/// They share the disk, but not the commits.
#[test]
fn a_hot_publisher_slows_nobody_who_wants_little_of_the_disk() {
    let mut broker = Broker::start();
    let script = Script { normal: Normal::Persistent, threads: 1, memory_bytes_max: 96 * MIB };
    script.run(&mut broker, publish_hard);
}
