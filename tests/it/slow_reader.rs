//! Clients that do not read: the broker's memory stays bounded, and others are served.

use super::support::peer::{PLAIN, declare_queue, write_publish};
use super::support::{Broker, Declare, Peer};
use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::FieldTable;
use leveret::amqp::method;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Another client's life goes on.
fn assert_served(broker: &Broker, rounds: u32) {
    let mut peer = Peer::open(broker);
    peer.declare(1, Declare { name: "other", exclusive: true, ..Declare::default() });
    peer.consume(1, "other", "c", true);
    for round in 0..rounds {
        peer.publish(1, "other", PLAIN, &round.to_be_bytes());
        assert_eq!(peer.expect_delivery().body, round.to_be_bytes());
    }
    peer.close();
}

#[test]
fn a_consumer_without_a_limit_that_never_reads_holds_up_nobody() {
    let mut broker = Broker::with(&["--queue-memory", "1MiB", "--messages-memory", "2MiB"]);
    let mut publisher = Peer::open(&broker);
    publisher.declare(1, Declare::transient("q"));
    publisher.confirm_select(1);
    // 128 MiB, far more than sockets hold.
    let mut some = Vec::new();
    for _ in 0..1024 {
        write_publish(&mut some, 1, "", "q", PLAIN, &[7; 1024], 131_072);
    }
    for round in 0..128 {
        publisher.octets(&some);
        publisher.expect_confirms(round * 1024 + 1, (round + 1) * 1024);
    }
    let before = broker.resident_bytes();
    let mut deaf: Vec<Peer> = (0..3)
        .map(|_| {
            let mut peer = Peer::open(&broker);
            peer.consume(1, "q", "deaf", false);
            peer
        })
        .collect();
    assert_served(&broker, 200);
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "grew by {grown} octets");
    // One of them starts to read after all, and has its share, in order.
    let first = deaf[0].expect_delivery();
    assert_eq!((first.tag, first.redelivered), (1, false));
    deaf.into_iter().for_each(Peer::vanish);
    // Everything is back for the next.
    super::support::eventually("all messages ready", || {
        let (ready, consumers) = publisher.declare(1, Declare::passive("q"));
        ((ready, consumers) == (128 * 1024, 0)).then_some(())
    });
    assert!(broker.is_running());
}

#[test]
fn who_asks_and_never_reads_the_answers_is_not_read_either() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    let before = broker.resident_bytes();
    let deaf = Peer::open(&broker);
    deaf.write_timeout(Duration::from_secs(2));
    let mut deaf = deaf;
    let mut request = Vec::new();
    method::write(&mut request, 1, &declare_queue(Declare::passive("q"), FieldTable::default()));
    let many = request.repeat(100_000);
    let mut stopped = false;
    for _ in 0..100 {
        if deaf.try_octets(&many).is_err() {
            stopped = true;
            break;
        }
    }
    assert!(stopped, "hundreds of megabytes of requests were taken");
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "grew by {grown} octets");
    assert_served(&broker, 200);
    assert!(broker.is_running());
}

#[test]
fn who_gets_large_messages_and_never_reads_them_holds_little() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    for _ in 0..100 {
        peer.publish(1, "q", PLAIN, &[7; 1 << 20]);
    }
    assert_eq!(peer.declare(1, Declare::passive("q")).0, 100);
    let before = broker.resident_bytes();
    let mut deaf = Peer::open(&broker);
    let mut many = Vec::new();
    for _ in 0..100 {
        let get = basic::AMQPMethod::Get(basic::Get { queue: "q".into(), no_ack: false });
        method::write(&mut many, 1, &AMQPClass::Basic(get));
    }
    deaf.octets(&many);
    assert_served(&broker, 200);
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 150 * MIB, "grew by {grown} octets");
    deaf.vanish();
    assert_served(&broker, 20);
    assert!(broker.is_running());
}

#[test]
fn a_publisher_that_never_reads_its_confirms_is_no_burden() {
    let mut broker = Broker::start();
    let mut deaf = Peer::open(&broker);
    deaf.declare(1, Declare { name: "q", exclusive: true, ..Declare::default() });
    deaf.consume(1, "q", "c", true);
    deaf.confirm_select(1);
    deaf.write_timeout(Duration::from_secs(2));
    let before = broker.resident_bytes();
    let mut some = Vec::new();
    for _ in 0..1024 {
        write_publish(&mut some, 1, "", "", PLAIN, &[7; 64], 131_072);
    }
    for _ in 0..1000 {
        if deaf.try_octets(&some).is_err() {
            break;
        }
    }
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB, "grew by {grown} octets");
    assert_served(&broker, 200);
    assert!(broker.is_running());
}

/// Publishers that always have more to say once kept the broker from looking at its other sockets for most of a minute.
#[test]
fn flooding_publishers_do_not_keep_newcomers_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let broker = Broker::start();
    let stop = AtomicBool::new(false);
    let mut one = Vec::new();
    leveret::amqp::method::write_publish(&mut one, 1, "amq.fanout", "", false);
    leveret::amqp::frame::write(&mut one, leveret::amqp::frame::HEADER, 1, |out| {
        leveret::amqp::properties::ContentHeader::write(out, 1, &[0, 0]);
    });
    leveret::amqp::frame::write_body(&mut one, 1, b"x", 0);
    let flood = one.repeat(4000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut peer = Peer::open(&broker);
                loop {
                    if stop.load(Ordering::Relaxed) || peer.try_octets(&flood).is_err() {
                        break;
                    }
                }
            });
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
        let began = std::time::Instant::now();
        for _ in 0..5 {
            Peer::open(&broker).close();
        }
        let took = began.elapsed();
        stop.store(true, Ordering::Relaxed);
        assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    });
}
