//! Heartbeats (specification 4.2.7): who is missed, and who is not.

use super::support::peer::{Incoming, PLAIN};
use super::support::{Broker, Declare, Peer, eventually, scale};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// A connection with channel 1 open, on which heartbeats are agreed on for each second.
fn open(broker: &Broker) -> Peer {
    Peer::silent(broker).opened_with_heartbeats(1)
}

#[test]
fn a_client_that_says_nothing_gets_heartbeats_and_is_ended_after_two_that_it_owes() {
    let broker = Broker::start();
    let mut peer = open(&broker);
    peer.declare(1, Declare { name: "q", exclusive: true, ..Declare::default() });
    let silent = Instant::now();
    let (mut heartbeats, mut last) = (0, silent);
    while let Some(incoming) = peer.try_next() {
        assert_eq!(incoming, Incoming::Heartbeat);
        heartbeats += 1;
        // The client misses the broker after two seconds, as it does the client.
        assert!(last.elapsed() < 2 * SECOND, "nothing for {:?}", last.elapsed());
        last = Instant::now();
    }
    let took = silent.elapsed();
    assert!(took >= 2 * SECOND - SECOND / 10, "ended after {took:?}");
    assert!(took < 10 * SECOND, "ended after {took:?}");
    assert!(heartbeats >= 1, "{heartbeats} heartbeats in {took:?}");
    eventually("a line of the log", || {
        broker.log().iter().any(|line| line.contains("missed heartbeats from client")).then_some(())
    });
    // What was its own went with it.
    let mut other = Peer::open(&broker);
    assert_eq!(other.declare(1, Declare::transient("q")), (0, 0));
}

#[test]
fn whatever_a_client_sends_stands_for_its_heartbeats() {
    let broker = Broker::start();
    let mut publisher = open(&broker);
    let mut talker = open(&broker);
    let mut consumer = open(&broker);
    consumer.declare(1, Declare::transient("q"));
    consumer.consume(1, "q", "c", true);
    let began = Instant::now();
    let mut published = 0_u64;
    // Twice as long as one of them may be silent: one publishes and no more, one gets messages and sends heartbeats only, one
    // sends nothing but heartbeats.
    while began.elapsed() < 4 * SECOND {
        publisher.publish(1, "q", PLAIN, &published.to_be_bytes());
        published += 1;
        for peer in [&mut talker, &mut consumer] {
            peer.frame(leveret::amqp::frame::HEARTBEAT, 0, b"");
        }
        std::thread::sleep(SECOND / 4);
    }
    let mut got = 0_u64;
    while got < published {
        match consumer.next() {
            Incoming::Body(1, body) => {
                assert_eq!(body, got.to_be_bytes());
                got += 1;
            }
            Incoming::Method(1, _) | Incoming::Header { .. } | Incoming::Heartbeat => {}
            other => panic!("{other:?}"),
        }
    }
    // A client that gets nothing else is sent heartbeats.
    for mut peer in [publisher, talker] {
        assert_eq!(peer.next(), Incoming::Heartbeat);
        peer.close();
    }
}

/// Time that a process has used the processors for, user and system.
fn used(broker: &Broker) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", broker.id())).unwrap();
    let after_name: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = [11, 12].map(|at| after_name[at].parse::<u64>().unwrap()).iter().sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[test]
fn clients_that_do_nothing_cost_no_processor_time() {
    let flags = ["--unauthenticated-per-address=infinity", "--accepts-per-address=infinity"];
    let broker = Broker::with(&flags);
    let clients: Vec<Peer> = (0..scale("LEVERET_IDLE_CLIENTS", 1000))
        .map(|number| {
            let mut peer = Peer::silent(&broker).opened_with_heartbeats(60);
            if number % 2 == 0 {
                peer.declare(1, Declare::transient(&format!("q{}", number % 10)));
                peer.consume(1, &format!("q{}", number % 10), "c", false);
            }
            peer
        })
        .collect();
    std::thread::sleep(SECOND);
    let (before, began) = (used(&broker), Instant::now());
    std::thread::sleep(4 * SECOND);
    let part = (used(&broker) - before).as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(part < 0.05, "{} clients that do nothing take {:.1} % of a processor", clients.len(), part * 100.0);
}
