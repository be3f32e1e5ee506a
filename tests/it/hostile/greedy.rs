//! Who asks for much at once: a read that is much work, many consumers, large bodies, hoards answered from their middle.

use super::super::support::peer::{PLAIN, declare_queue, write_header, write_publish};
use super::super::support::{Broker, Declare, Peer, eventually};
use super::{MIB, Normal, Script, Stop};
use amq_protocol::protocol::{AMQPClass, basic, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::{frame, method};
use std::time::Duration;

fn wait(stop: &Stop) {
    while !stop.is_set() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends the same again and again, with a breath between, and reads whatever is answered.
fn again_and_again(peer: &mut Peer, octets: &[u8], breath: Duration, stop: &Stop) {
    peer.write_timeout(Duration::from_millis(50));
    let mut at = 0;
    while !stop.is_set() {
        at = (at + peer.write_some(&octets[at..])) % octets.len();
        peer.drop_answers();
        if at == 0 {
            std::thread::sleep(breath);
        }
    }
}

#[test]
fn messages_for_thousands_of_queues_do_not_keep_others_waiting() {
    const QUEUES: usize = 2000;
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let mut out = Vec::new();
    for number in 0..QUEUES {
        let name = format!("f{number}");
        let mut few = FieldTable::default();
        few.insert("x-max-length".into(), AMQPValue::LongInt(1));
        method::write(&mut out, 1, &declare_queue(Declare { exclusive: true, ..Declare::transient(&name) }, few));
        let bind = queue::Bind {
            queue: name.as_str().into(),
            exchange: "amq.headers".into(),
            routing_key: "".into(),
            nowait: false,
            arguments: FieldTable::default(),
        };
        method::write(&mut out, 1, &AMQPClass::Queue(queue::AMQPMethod::Bind(bind)));
    }
    peer.octets(&out);
    for _ in 0..2 * QUEUES {
        peer.next();
    }
    // Nothing is remembered of a route by headers.
    let mut messages = Vec::new();
    for _ in 0..64 {
        write_publish(&mut messages, 1, "amq.headers", "", PLAIN, b"m", 4096);
    }
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 48 * MIB };
    let peer = parking_lot::Mutex::new(peer);
    script.run(&mut broker, |_, _, stop| {
        again_and_again(&mut peer.lock(), &messages, Duration::from_millis(200), stop);
    });
}

#[test]
fn thousands_of_consumers_of_a_queue_do_not_keep_others_waiting() {
    const CONSUMERS: usize = 10_000;
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare { exclusive: true, ..Declare::transient("crowd") });
    for number in 0..CONSUMERS {
        peer.consume_quietly(1, "crowd", &format!("c{number}"), true);
    }
    eventually("all consumers", || (peer.declare(1, Declare::passive("crowd")).1 as usize == CONSUMERS).then_some(()));
    let mut messages = Vec::new();
    for _ in 0..2000 {
        write_publish(&mut messages, 1, "", "crowd", PLAIN, b"m", 4096);
    }
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 48 * MIB };
    let peer = parking_lot::Mutex::new(peer);
    script.run(&mut broker, |_, _, stop| {
        again_and_again(&mut peer.lock(), &messages, Duration::from_millis(200), stop);
    });
}

/// Each consumer may have a mebibyte on its way; all of a client's together may not have hundreds.
#[test]
fn many_consumers_that_never_read_share_what_is_on_its_way() {
    let mut broker = Broker::start();
    let mut publisher = Peer::open(&broker);
    publisher.declare(1, Declare::durable("plenty"));
    publisher.confirm_select(1);
    for batch in 0..40 {
        for _ in 0..50 {
            publisher.publish(1, "plenty", PLAIN, &[b'x'; 100 << 10]);
        }
        publisher.expect_confirms(batch * 50 + 1, (batch + 1) * 50);
    }
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 48 * MIB };
    script.run(&mut broker, |broker, _, stop| {
        let mut deaf = Peer::open(broker);
        for number in 0..1000 {
            deaf.consume_quietly(1, "plenty", &format!("c{number}"), false);
        }
        wait(stop);
        deaf.vanish();
    });
    // One that reads after all gets everything, whoever of its consumers is served.
    eventually("all messages back", || (publisher.declare(1, Declare::passive("plenty")) == (2000, 0)).then_some(()));
    let mut hungry = Peer::open(&broker);
    for number in 0..50 {
        hungry.consume_quietly(1, "plenty", &format!("h{number}"), true);
    }
    for _ in 0..2000 {
        hungry.expect_delivery();
    }
}

#[test]
fn a_hoard_is_answered_from_its_middle_at_no_more_cost_than_from_its_ends() {
    const MESSAGES: u64 = 100_000;
    let mut broker = Broker::start();
    let mut hoarder = Peer::open(&broker);
    hoarder.declare(1, Declare { exclusive: true, ..Declare::transient("hoard") });
    let mut out = Vec::new();
    for _ in 0..1000 {
        write_publish(&mut out, 1, "", "hoard", PLAIN, b"m", 4096);
    }
    for _ in 0..MESSAGES / 1000 {
        hoarder.octets(&out);
    }
    hoarder.consume_quietly(1, "hoard", "h", false);
    for _ in 0..MESSAGES {
        hoarder.expect_delivery();
    }
    // Every second one, from the middle on, so that the hoard falls to pieces.
    let mut acks = Vec::new();
    for tag in (1..MESSAGES).step_by(2) {
        let tag = (tag + MESSAGES / 2) % MESSAGES;
        method::write(
            &mut acks,
            1,
            &AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack { delivery_tag: tag, multiple: false })),
        );
    }
    let hoarder = parking_lot::Mutex::new((hoarder, 0));
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 64 * MIB };
    script.run(&mut broker, |_, _, stop| {
        let (hoarder, at) = &mut *hoarder.lock();
        while !stop.is_set() && *at < acks.len() {
            *at += hoarder.write_some(&acks[*at..acks.len().min(*at + 4096)]);
            std::thread::sleep(Duration::from_millis(1));
        }
        wait(stop);
    });
}

/// Sends all of a body but its last octet.
fn begin_body(peer: &mut Peer, bytes: usize) -> std::io::Result<()> {
    let mut out = Vec::new();
    method::write_publish(&mut out, 1, "", "nowhere", false);
    write_header(&mut out, 1, bytes as u64, PLAIN);
    frame::write_body(&mut out, 1, &vec![b'x'; bytes - 1], peer.frame_max);
    peer.try_octets(&out)
}

#[test]
fn bodies_that_are_not_finished_share_a_bound() {
    const BODY: usize = 2 << 20;
    let mut broker = Broker::with(&["--publishing-memory", "4MiB"]);
    // The first four would be more than there may be; each client may have 64 KiB, and a read's octets, besides.
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 32 * MIB };
    script.run(&mut broker, |broker, _, stop| {
        let mut greedy: Vec<Peer> = (0..24).map(|_| Peer::open(broker)).collect();
        for peer in &mut greedy {
            peer.write_timeout(Duration::from_millis(5));
            let _ = begin_body(peer, BODY);
        }
        wait(stop);
        greedy.into_iter().for_each(Peer::vanish);
    });
}

#[test]
fn who_finishes_a_body_in_time_goes_on_beside_those_who_do_not() {
    const BODY: usize = 2 << 20;
    let broker = Broker::with(&["--publishing-memory", "3MiB"]);
    let mut stuck = Peer::open(&broker);
    begin_body(&mut stuck, BODY).unwrap();
    // Answered when all of that was read.
    stuck.open_channel(2);
    // With another one there is too much: who has something to say has its turn.
    let mut honest = Peer::open(&broker);
    honest.confirm_select(1);
    for number in 1..=5 {
        honest.publish(1, "", PLAIN, &vec![b'x'; BODY]);
        honest.expect_confirms(number, number);
    }
    // A transaction is finished by its commit.
    honest.open_channel(2);
    honest.tx_select(2);
    for _ in 0..2 {
        honest.publish(2, "", PLAIN, &vec![b'x'; BODY]);
    }
    honest.tx_commit(2);
    // Whoever stops in its turn loses it, with its connection.
    let mut late = Peer::open(&broker);
    begin_body(&mut late, BODY).unwrap();
    late.expect_connection_close(
        506,
        "RESOURCE_ERROR - what was begun to be published takes too long while there is too much of it",
    );
    // The other was not asked for anything; its last octet makes its message whole.
    let mut last = Vec::new();
    frame::write_body(&mut last, 1, b"x", stuck.frame_max);
    stuck.octets(&last);
    stuck.declare(1, Declare::transient("alive"));
}
