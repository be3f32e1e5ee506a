//! Queues far longer than the memory they may have.

use super::support::peer::{PERSISTENT, PLAIN, write_publish};
use super::support::{Broker, Declare, Peer, scale};
use std::ops::Range;

const MIB: u64 = 1 << 20;
const BULK: u64 = 5_000;
/// Octets of a message.
const SHORT: usize = 40;
const LONG: usize = 1_000;

/// A broker with little memory, and a queue with `messages` numbered messages in it.
fn filled(properties: &[u8], messages: u64) -> Broker {
    let broker = Broker::with(&["--queue-memory", "1MiB", "--messages-memory", "2MiB"]);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("long"));
    peer.confirm_select(1);
    fill(&mut peer, "long", properties, 0..messages, SHORT);
    assert_eq!(u64::from(peer.declare(1, Declare::passive("long")).0), messages);
    broker
}

/// Publishes numbered messages of so many octets, each of which has its number in confirms, less one.
fn fill(peer: &mut Peer, queue: &str, properties: &[u8], numbers: Range<u64>, octets: usize) {
    for first in numbers.clone().step_by(BULK as usize) {
        let mut out = Vec::new();
        let end = (first + BULK).min(numbers.end);
        for number in first..end {
            write_publish(&mut out, 1, "", queue, properties, &body(number, octets), 131_072);
        }
        peer.octets(&out);
        peer.expect_confirms(first + 1, end);
    }
}

fn body(number: u64, octets: usize) -> Vec<u8> {
    let mut body = vec![b'.'; octets];
    body[..8].copy_from_slice(&number.to_be_bytes());
    body
}

fn number(body: &[u8]) -> u64 {
    let (number, rest) = body.split_first_chunk().unwrap();
    assert!(rest.iter().all(|octet| *octet == b'.'));
    u64::from_be_bytes(*number)
}

fn comes_back_in_order(properties: &[u8]) {
    let messages = scale("LEVERET_PAGING_MESSAGES", 300_000);
    let mut broker = filled(properties, messages);
    let mut peer = Peer::open(&broker);
    let mut next = 0;
    // A few by basic.get.
    while next < 1_000 {
        assert_eq!(number(&peer.get(1, "long", true).unwrap().body), next);
        next += 1;
    }
    // With a consumer as far as the middle, then what it holds goes back to where it was.
    peer.qos(1, 2_000);
    peer.consume(1, "long", "first", false);
    let middle = messages / 2;
    loop {
        let delivery = peer.expect_delivery();
        assert_eq!((number(&delivery.body), delivery.redelivered), (next, false));
        next += 1;
        if next == middle {
            break;
        }
        if next % 500 == 0 {
            peer.ack(1, delivery.tag, true);
        }
    }
    let settled = (middle - 1) / 500 * 500;
    peer.close();
    // Another one gets all that is left, and is told what was seen before.
    let mut peer = Peer::open(&broker);
    peer.qos(1, 10_000);
    peer.consume(1, "long", "second", false);
    for expected in settled..messages {
        let delivery = peer.expect_delivery();
        assert_eq!(number(&delivery.body), expected);
        assert!(delivery.redelivered || expected >= middle, "{expected} was seen before");
        if (expected + 1) % 1_000 == 0 {
            // One of them goes back and comes again before or among those not yet sent.
            peer.ack(1, delivery.tag, true);
        }
    }
    peer.close();
    let mut peer = Peer::open(&broker);
    let left = messages % 1_000;
    assert_eq!(u64::from(peer.declare(1, Declare::passive("long")).0), left);
    assert!(broker.resident_bytes_max() < 120 * MIB, "{} MiB", broker.resident_bytes_max() / MIB);
    assert!(broker.is_running());
}

#[test]
fn a_long_persistent_queue_comes_back_in_order() {
    comes_back_in_order(PERSISTENT);
}

#[test]
fn a_long_transient_queue_comes_back_in_order() {
    comes_back_in_order(PLAIN);
}

#[test]
fn a_long_queue_comes_back_after_a_crash_too() {
    let messages = 100_000;
    let mut broker = filled(PERSISTENT, messages);
    broker.kill();
    broker.restart();
    let mut peer = Peer::open(&broker);
    assert_eq!(u64::from(peer.declare(1, Declare::passive("long")).0), messages);
    peer.consume(1, "long", "c", true);
    for expected in 0..messages {
        assert_eq!(number(&peer.expect_delivery().body), expected);
    }
    assert!(broker.resident_bytes_max() < 120 * MIB, "{} MiB", broker.resident_bytes_max() / MIB);
}

/// What is long is not read when the broker starts: neither time nor memory of a start grow with the backlog.
#[test]
fn a_start_reads_little_of_a_long_queue() {
    let messages = scale("LEVERET_BACKLOG_MESSAGES", 300_000);
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("long"));
    peer.confirm_select(1);
    fill(&mut peer, "long", PERSISTENT, 0..messages, LONG);
    broker.kill();
    let stored = broker.octets_stored();
    assert!(stored > messages * LONG as u64, "{messages} messages in {stored} octets");
    broker.restart();
    let mut peer = Peer::open(&broker);
    assert_eq!(u64::from(peer.declare(1, Declare::passive("long")).0), messages);
    assert!(broker.octets_read() < 100 * MIB, "{} MiB of {}", broker.octets_read() / MIB, stored / MIB);
    assert!(broker.resident_bytes_max() < 200 * MIB, "{} MiB", broker.resident_bytes_max() / MIB);
    assert_eq!(number(&peer.get(1, "long", true).unwrap().body), 0);
}

#[test]
fn many_long_queues_share_the_memory() {
    let broker = Broker::with(&["--queue-memory", "1MiB", "--messages-memory", "2MiB"]);
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    let names: Vec<String> = (0..20).map(|number| format!("q{number}")).collect();
    for (at, name) in names.iter().enumerate() {
        peer.declare(1, Declare::durable(name));
        let first = at as u64 * BULK;
        fill(&mut peer, name, PLAIN, first..first + BULK, 512);
    }
    assert!(broker.resident_bytes_max() < 120 * MIB, "{} MiB", broker.resident_bytes_max() / MIB);
    for (at, name) in names.iter().enumerate() {
        let channel = u16::try_from(at).unwrap() + 2;
        peer.open_channel(channel);
        peer.consume(channel, name, "c", true);
        for expected in at as u64 * BULK..(at as u64 + 1) * BULK {
            assert_eq!(number(&peer.expect_delivery().body), expected, "{name}");
        }
    }
}

#[test]
fn what_is_requeued_returns_to_its_place_though_others_lie_on_disk() {
    let messages = 50_000;
    let broker = filled(PERSISTENT, messages);
    let mut peer = Peer::open(&broker);
    // Every third of the first 3000 stays out, and everything behind is acknowledged or put back.
    let tags: Vec<u64> = (0..3_000).map(|_| peer.get(1, "long", false).unwrap().tag).collect();
    for (at, tag) in tags.iter().enumerate().rev() {
        if at % 3 == 0 {
            peer.nack(1, *tag, false, true);
        } else {
            peer.ack(1, *tag, false);
        }
    }
    let expected = (0..3_000).filter(|at| at % 3 == 0).chain(3_000..messages);
    peer.open_channel(2);
    peer.declare(1, Declare::passive("long"));
    peer.consume(2, "long", "c", true);
    for expected in expected {
        let delivery = peer.expect_delivery();
        assert_eq!((number(&delivery.body), delivery.redelivered), (expected, expected < 3_000));
    }
    assert_eq!(peer.declare(1, Declare::passive("long")), (0, 1));
}
