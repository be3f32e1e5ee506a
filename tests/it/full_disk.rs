//! A disk with no room left: nothing confirmed is lost, and what is stored can be drained.

use super::support::peer::{Incoming, PERSISTENT, declare_queue, write_publish};
use super::support::{Broker, Declare, Peer, SmallDisk, eventually};
use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::FieldTable;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

const MB: u64 = 1_000_000;
const BODY_BYTES: usize = 1000;

fn body(number: u64) -> [u8; BODY_BYTES] {
    let mut body = [b'.'; BODY_BYTES];
    body[..8].copy_from_slice(&number.to_be_bytes());
    body
}

fn write_some(out: &mut Vec<u8>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        write_publish(out, 1, "", "q", PERSISTENT, &body(number), 131_072);
    }
}

/// Publishes until the broker is gone; counts confirms.
fn publish_on(mut peer: Peer, confirmed: Arc<AtomicU64>) -> JoinHandle<()> {
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    let mut writer = peer.second_hold();
    let sender = std::thread::spawn(move || {
        let mut out = Vec::new();
        for first in (0..).step_by(100) {
            out.clear();
            write_some(&mut out, first..first + 100);
            if writer.write_all(&out).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        // Or until it says good-bye.
        while let Some(Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))) = peer.try_next() {
            confirmed.store(ack.delivery_tag, Ordering::Release);
        }
        peer.vanish();
        sender.join().unwrap();
    })
}

/// All that was confirmed is there, in order and whole; what was not may be.
fn expect_kept(broker: &Broker, confirmed: u64) {
    let mut peer = Peer::open(broker);
    let (ready, _) = peer.declare(1, Declare::passive("q"));
    assert!(u64::from(ready) >= confirmed, "{confirmed} were confirmed, {ready} are there");
    peer.consume(1, "q", "c", true);
    for number in 0..ready.into() {
        assert!(peer.expect_delivery().body == body(number), "message {number} is another");
    }
}

fn times_said(broker: &Broker, text: &str) -> usize {
    broker.log().iter().filter(|line| line.contains(text)).count()
}

const NO_ROOM: &str = "the disk is full: nothing is stored or confirmed until there is room";
const THROWN_OFF: &str = "the ballast file was deleted";

#[test]
fn publishers_wait_while_the_disk_is_full_and_nothing_confirmed_is_lost() {
    let Some(disk) = SmallDisk::mount(192 * MB) else { return };
    disk.fill_but(140 * MB);
    // Without an alarm, so that the disk fills to the end.
    let mut broker = Broker::with(&["--data-dir", &disk.data_dir(), "--disk-free-limit-absolute", "0"]);
    let confirmed = Arc::new(AtomicU64::new(0));
    let publishing = publish_on(Peer::open(&broker), Arc::clone(&confirmed));
    eventually("a full disk", || (times_said(&broker, NO_ROOM) == 1).then_some(()));
    assert_eq!(times_said(&broker, THROWN_OFF), 1);
    let before = confirmed.load(Ordering::Acquire);
    assert!(before > 10_000, "{before} messages are no disk full");
    disk.relieve();
    eventually("more confirms", || (confirmed.load(Ordering::Acquire) > before + 10_000).then_some(()));
    eventually("a full disk again", || (times_said(&broker, NO_ROOM) == 2).then_some(()));
    assert!(broker.is_running());
    broker.kill();
    publishing.join().unwrap();
    // Still as full as it was.
    broker.restart();
    expect_kept(&broker, confirmed.load(Ordering::Acquire));
}

#[test]
fn a_broker_stops_and_starts_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount(192 * MB) else { return };
    let mut broker = Broker::with(&["--data-dir", &disk.data_dir(), "--disk-free-limit-absolute", "0"]);
    let confirmed = Arc::new(AtomicU64::new(0));
    let publishing = publish_on(Peer::open(&broker), Arc::clone(&confirmed));
    eventually("a full disk", || (times_said(&broker, NO_ROOM) == 1).then_some(()));
    assert!(broker.stop().success());
    publishing.join().unwrap();
    disk.fill_but(0);
    let refused = broker.try_restart().unwrap_err();
    assert_eq!(refused.exit_code, Some(74), "{refused:?}");
    assert!(refused.text.contains("No space left on device"), "{refused:?}");
    disk.relieve();
    broker.restart();
    expect_kept(&broker, confirmed.load(Ordering::Acquire));
}

/// (Declare-ok went out with the good-bye, and the queue was not there afterwards.) Files that the store is done with may make
/// room while it stops: then the declaration is written, and may be answered.
#[test]
fn what_was_declared_on_a_full_disk_and_not_written_is_not_answered() {
    let Some(disk) = SmallDisk::mount(192 * MB) else { return };
    let mut broker = Broker::with(&["--data-dir", &disk.data_dir(), "--disk-free-limit-absolute", "0"]);
    let publishing = publish_on(Peer::open(&broker), Arc::default());
    let mut peer = Peer::open(&broker);
    eventually("a full disk", || (times_said(&broker, NO_ROOM) == 1).then_some(()));
    peer.method(1, declare_queue(Declare::durable("late"), FieldTable::default()));
    assert!(broker.stop().success());
    let answered =
        std::iter::from_fn(|| peer.try_next()).any(|heard| matches!(heard, Incoming::Method(1, AMQPClass::Queue(_))));
    publishing.join().unwrap();
    disk.relieve();
    broker.restart();
    if answered {
        Peer::open(&broker).declare(1, Declare::passive("late"));
    }
}

#[test]
fn a_queue_is_drained_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount(256 * MB) else { return };
    let data = disk.data_dir();
    let broker = Broker::with(&["--data-dir", &data, "--disk-free-limit-absolute", "100MB"]);
    let ballast = Path::new(&data).join("ballast");
    assert_eq!(ballast.metadata().unwrap().len(), 256 * MB / 4096 * 4096 / 16);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    let messages = 40_000;
    let mut out = Vec::new();
    write_some(&mut out, 0..messages);
    let mut writer = peer.second_hold();
    let sender = std::thread::spawn(move || writer.write_all(&out).unwrap());
    peer.expect_confirms(1, messages);
    sender.join().unwrap();
    // Somebody else takes nearly all that is left.
    eventually("the ballast's end", || {
        // The store's own files still come and go.
        disk.fill_but(disk.free().min(24 * MB));
        (!ballast.exists()).then_some(())
    });
    // The ballast's room is nobody else's.
    disk.fill_but(40 * MB);
    peer.qos(1, 500);
    peer.consume(1, "q", "c", false);
    for number in 0..messages {
        let delivery = peer.expect_delivery();
        assert!(delivery.body == body(number), "message {number} is another");
        if (number + 1) % 100 == 0 {
            peer.ack(1, delivery.tag, true);
        }
    }
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 1));
    assert_eq!(times_said(&broker, NO_ROOM), 0);
    disk.relieve();
    eventually("the ballast", || ballast.exists().then_some(()));
}
