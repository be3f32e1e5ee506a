//! Far more messages than memory.

use super::support::peer::{PERSISTENT, write_publish};
use super::support::{Broker, Declare, Group, Peer, scale};
use std::io::Write;
use std::time::Instant;

const MIB: u64 = 1 << 20;
const BODY_BYTES: usize = 1024;
/// Written at once.
const BULK: u64 = 1000;

fn body(number: u64) -> [u8; BODY_BYTES] {
    let mut body = [b'.'; BODY_BYTES];
    body[..8].copy_from_slice(&number.to_be_bytes());
    body
}

/// A backlog that is many times the memory that the broker's control group may use is published, confirmed and drained.
/// The whole run of docs/benchmarks.md: `LEVERET_BACKLOG_BYTES=10000000000 LEVERET_MEMORY_BYTES=268435456`.
#[test]
fn a_backlog_does_not_fit_into_memory_and_need_not() {
    let messages = scale("LEVERET_BACKLOG_BYTES", 256 * MIB).div_ceil(BODY_BYTES as u64).next_multiple_of(BULK);
    let limit = scale("LEVERET_MEMORY_BYTES", 128 * MIB);
    let Some(group) = Group::with_memory("backlog", limit) else { return };
    let mut broker = Broker::in_group(&group, &["--vm-memory-high-watermark-relative", "0.8"]);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    let mut writer = peer.second_hold();
    let began = Instant::now();
    let sender = std::thread::spawn(move || {
        let mut out = Vec::new();
        for first in (0..messages).step_by(BULK as usize) {
            out.clear();
            for number in first..first + BULK {
                write_publish(&mut out, 1, "", "q", PERSISTENT, &body(number), 131_072);
            }
            writer.write_all(&out).unwrap();
        }
    });
    peer.expect_confirms(1, messages);
    sender.join().unwrap();
    let published = began.elapsed();
    let began = Instant::now();
    let mut consumer = Peer::open(&broker);
    consumer.qos(1, 2000);
    consumer.consume(1, "q", "c", false);
    for number in 0..messages {
        let delivery = consumer.expect_delivery();
        assert!(delivery.body == body(number), "message {number} is another");
        if (number + 1) % 500 == 0 {
            consumer.ack(1, delivery.tag, true);
        }
    }
    let drained = began.elapsed();
    consumer.close();
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 0));
    let rate = |took: std::time::Duration| (messages as f64 / took.as_secs_f64()) as u64;
    println!(
        "{messages} messages of 1 KiB with {} MiB of memory: published in {published:.1?} ({}/s), drained in {drained:.1?} \
         ({}/s); the process had at most {} MiB, its group with the page cache {} MiB; {} killed",
        limit / MIB,
        rate(published),
        rate(drained),
        broker.resident_bytes_max() / MIB,
        group.bytes_max() / MIB,
        group.kills()
    );
    assert_eq!(group.kills(), 0);
    assert!(broker.is_running());
    assert!(broker.resident_bytes_max() < limit * 8 / 10, "{} octets", broker.resident_bytes_max());
    let alarmed = broker.log().into_iter().filter(|line| line.contains("resource limit alarm")).count();
    assert_eq!(alarmed, 0, "publishers had to wait for memory");
}
