//! Confirms and transactions: each publish is answered once, in order, and as it went.

use super::support::peer::{Incoming, PERSISTENT, PLAIN, write_header, write_publish};
use super::support::{Broker, Declare, Peer, Random, eventually, scale};
use amq_protocol::protocol::{AMQPClass, basic, confirm, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::{frame, method};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

const MIB: u64 = 1 << 20;

/// The answers to so many publishes: whether each was confirmed. They come in order, and none is answered twice.
fn answers(peer: &mut Peer, count: u64) -> Vec<bool> {
    let mut answers = Vec::new();
    while (answers.len() as u64) < count {
        let (tag, multiple, is_confirmed) = match peer.next() {
            Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => {
                (ack.delivery_tag, ack.multiple, true)
            }
            Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Nack(nack))) => {
                (nack.delivery_tag, nack.multiple, false)
            }
            other => panic!("expected an answer to a publish, not {other:?}"),
        };
        let next = answers.len() as u64 + 1;
        assert!(tag >= next, "{tag} was answered before, {next} is next");
        assert!(tag <= count, "{tag} was not published");
        assert!(multiple || tag == next, "{tag} is answered before {next}");
        answers.resize(tag as usize, is_confirmed);
    }
    answers
}

#[test]
fn every_publish_is_answered_once_while_its_queue_is_purged_and_deleted() {
    const BULK: u64 = 50;
    let broker = Broker::start();
    let messages = scale("LEVERET_ANSWERS", 20_000);
    for durable in [true, false] {
        let mut random = Random::new();
        let mut other = Peer::open(&broker);
        let name = if durable { "durable" } else { "transient" };
        let queue = Declare { name, durable, ..Declare::default() };
        other.declare(1, queue);
        let mut peer = Peer::open(&broker);
        peer.confirm_select(1);
        let mut writer = peer.second_hold();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for first in (0..messages).step_by(BULK as usize) {
                    let mut out = Vec::new();
                    for number in first..first + BULK {
                        let properties = if number % 3 == 0 { PLAIN } else { PERSISTENT };
                        write_publish(&mut out, 1, "", name, properties, &number.to_be_bytes(), 131_072);
                    }
                    writer.write_all(&out).unwrap();
                }
            });
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    match random.below(3) {
                        0 => {
                            other.delete_queue(1, name);
                            other.declare(1, queue);
                        }
                        _ => {
                            let purge = queue::Purge { queue: name.into(), nowait: false };
                            other.method(1, AMQPClass::Queue(queue::AMQPMethod::Purge(purge)));
                            other.next();
                        }
                    }
                }
            });
            assert_eq!(answers(&mut peer, messages).len() as u64, messages);
            is_done.store(true, Ordering::Relaxed);
        });
        // And nothing more comes.
        peer.qos(1, 0);
    }
}

#[test]
fn what_one_of_three_queues_refuses_is_nacked_and_nothing_else_is() {
    const MESSAGES: u64 = 3000;
    const ROOM: u64 = 400;
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(ROOM as i64));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    peer.declare(1, Declare::durable("durable"));
    peer.declare(1, Declare::transient("transient"));
    peer.declare_with(1, Declare::durable("full"), full);
    for name in ["durable", "transient", "full"] {
        peer.bind(1, name, "amq.fanout", "");
    }
    peer.confirm_select(1);
    let mut random = Random::new();
    let mut writer = peer.second_hold();
    let (mut in_full, mut expected, mut pieces) = (0, Vec::new(), vec![Vec::new()]);
    for number in 0..MESSAGES {
        let properties = if random.below(2) == 0 { PLAIN } else { PERSISTENT };
        let is_for_all = random.below(2) == 0;
        let (exchange, key) = if is_for_all { ("amq.fanout", "") } else { ("", "durable") };
        write_publish(pieces.last_mut().unwrap(), 1, exchange, key, properties, &number.to_be_bytes(), peer.frame_max);
        in_full += u64::from(is_for_all);
        expected.push(!is_for_all || in_full <= ROOM);
        if random.below(20) == 0 {
            pieces.push(Vec::new());
        }
    }
    let sender = std::thread::spawn(move || pieces.iter().for_each(|piece| writer.write_all(piece).unwrap()));
    assert!(answers(&mut peer, MESSAGES) == expected, "an answer is another than the queues gave");
    sender.join().unwrap();
    // What was nacked is where there was room for it, as in RabbitMQ.
    assert_eq!(u64::from(peer.declare(1, Declare::passive("durable")).0), MESSAGES);
    assert_eq!(u64::from(peer.declare(1, Declare::passive("transient")).0), in_full);
    assert_eq!(u64::from(peer.declare(1, Declare::passive("full")).0), ROOM);
}

/// Mandatory messages that come back, and some that do not, on a channel that nobody confirms anything on.
#[test]
fn mandatory_messages_without_confirms_leave_nothing_on_their_channel() {
    const AT_ONCE: u64 = 200;
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    peer.consume(1, "q", "c", true);
    let mut out = Vec::new();
    for number in 0..AT_ONCE {
        method::write_publish(&mut out, 1, "", if number % 2 == 0 { "q" } else { "nowhere" }, true);
        write_header(&mut out, 1, 1, PLAIN);
        frame::write_body(&mut out, 1, b"m", 0);
    }
    let mut send = |messages: u64| {
        for _ in 0..messages / AT_ONCE {
            peer.octets(&out);
            let (mut returned, mut delivered) = (0, 0);
            while returned + delivered < AT_ONCE {
                match peer.next() {
                    Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Return(back))) => {
                        assert_eq!(back.reply_code, 312);
                        returned += 1;
                    }
                    Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(_))) => delivered += 1,
                    Incoming::Header { .. } | Incoming::Body(..) => {}
                    other => panic!("neither a return nor a delivery: {other:?}"),
                }
            }
            assert_eq!((returned, delivered), (AT_ONCE / 2, AT_ONCE / 2));
        }
    };
    send(40_000);
    let before = broker.resident_bytes();
    send(scale("LEVERET_MANDATORY", 400_000));
    let grown = broker.resident_bytes().saturating_sub(before);
    // A mark of eight octets a message would be 3 MiB; the allocator has some play.
    assert!(grown < 2 * MIB, "{} KiB more", grown >> 10);
}

// ── Transactions ──────────────────────────────────────────────────────────────────────────────────────────────────

fn transaction(peer: &mut Peer, channel: u16, method: tx::AMQPMethod) {
    peer.method(channel, AMQPClass::Tx(method));
}

fn rollback(peer: &mut Peer) {
    transaction(peer, 1, tx::AMQPMethod::Rollback(tx::Rollback {}));
    peer.expect(1, &AMQPClass::Tx(tx::AMQPMethod::RollbackOk(tx::RollbackOk {})));
}

#[test]
fn a_channel_confirms_or_is_transactional_and_never_both() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    peer.confirm_select(1);
    transaction(&mut peer, 1, tx::AMQPMethod::Select(tx::Select {}));
    peer.expect_channel_close(1, 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode");
    peer.open_channel(1);
    peer.tx_select(1);
    peer.tx_select(1);
    peer.method(1, AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false })));
    peer.expect_channel_close(1, 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode");
    for method in [tx::AMQPMethod::Commit(tx::Commit {}), tx::AMQPMethod::Rollback(tx::Rollback {})] {
        peer.open_channel(1);
        transaction(&mut peer, 1, method);
        peer.expect_channel_close(1, 406, "PRECONDITION_FAILED - channel is not transactional");
    }
}

#[test]
fn what_was_rolled_back_was_never_anywhere() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.tx_select(1);
    for round in 0..3_u8 {
        (0..100).for_each(|_| peer.publish(1, "q", PERSISTENT, &[round; 20_000]));
        if round == 1 {
            peer.tx_commit(1);
        } else {
            rollback(&mut peer);
        }
    }
    assert_eq!(peer.declare(1, Declare::passive("q")), (100, 0));
    // With the channel goes what was not committed.
    peer.publish(1, "q", PERSISTENT, b"uncommitted");
    peer.close_channel(1);
    broker.kill();
    let written: u64 = broker.folder().read_dir().unwrap().map(|entry| entry.unwrap().path()).fold(0, |sum, path| {
        let is_log = path.extension().is_some_and(|kind| kind == "log");
        sum + if is_log { std::fs::read(&path).unwrap().iter().filter(|octet| **octet == 2).count() as u64 } else { 0 }
    });
    assert!(written < 100_000, "what was rolled back is on disk: {written} octets look like it");
    broker.restart();
    let mut peer = Peer::open(&broker);
    for _ in 0..100 {
        assert!(peer.get(1, "q", true).unwrap().body == [1; 20_000]);
    }
    assert_eq!(peer.get(1, "q", true), None);
}

#[test]
fn what_a_transaction_acknowledged_is_its_own_until_it_is_over() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    [b"a", b"b", b"c"].iter().for_each(|body| peer.publish(1, "q", PLAIN, *body));
    peer.tx_select(1);
    let tags = [b"a", b"b", b"c"].map(|body| {
        let got = peer.get(1, "q", false).unwrap();
        assert_eq!(got.body, body);
        got.tag
    });
    peer.ack(1, tags[0], false);
    // Recovering leaves alone what was acknowledged; all else is there again.
    peer.basic(1, basic::AMQPMethod::Recover(basic::Recover { requeue: true }));
    peer.expect(1, &AMQPClass::Basic(basic::AMQPMethod::RecoverOk(basic::RecoverOk {})));
    let got = peer.get(1, "q", false).unwrap();
    assert_eq!((got.body.as_slice(), got.redelivered), (&b"b"[..], true));
    assert_eq!(peer.declare(1, Declare::passive("q")), (1, 0));
    // Rolled back it can be acknowledged again; and committed it is gone.
    rollback(&mut peer);
    peer.ack(1, tags[0], false);
    peer.tx_commit(1);
    // Twice in one transaction is once too often, and takes the first one back with the channel.
    peer.ack(1, got.tag, false);
    peer.ack(1, got.tag, false);
    peer.expect_channel_close(1, 406, &format!("PRECONDITION_FAILED - unknown delivery tag {}", got.tag));
    let mut other = Peer::open(&broker);
    let left: Vec<_> = std::iter::from_fn(|| other.get(1, "q", true)).map(|content| content.body).collect();
    assert_eq!(left, [b"b", b"c"]);
}

/// It was forgotten with the transaction, and stayed unacknowledged until the next start.
#[test]
fn what_a_transaction_acknowledged_is_back_when_its_commit_fails() {
    let broker = Broker::start();
    let mut other = Peer::open(&broker);
    other.declare(1, Declare::transient("q"));
    other.declare(1, Declare::transient("gone"));
    [b"a", b"b"].iter().for_each(|body| other.publish(1, "q", PLAIN, *body));
    assert_eq!(other.declare(1, Declare::passive("q")), (2, 0));
    let mut peer = Peer::open(&broker);
    peer.tx_select(1);
    let got = [peer.get(1, "q", false).unwrap(), peer.get(1, "q", false).unwrap()];
    peer.ack(1, got[0].tag, false);
    peer.reject(1, got[1].tag, false);
    peer.publish(1, "gone", PLAIN, b"nobody's");
    // It was routed when this is answered.
    peer.qos(1, 0);
    other.delete_queue(1, "gone");
    transaction(&mut peer, 1, tx::AMQPMethod::Commit(tx::Commit {}));
    peer.expect_connection_close(506, "RESOURCE_ERROR - failed to deliver message");
    eventually("both messages back", || (other.declare(1, Declare::passive("q")).0 == 2).then_some(()));
    let left: Vec<_> = std::iter::from_fn(|| other.get(1, "q", true)).map(|content| content.body).collect();
    assert_eq!(left, [b"a", b"b"]);
}
