//! What is acknowledged, rejected, given back or just left: each message is in one place, whatever ends at the same time.

use super::support::peer::{Content, Incoming, PLAIN, close_channel, write_publish};
use super::support::{Broker, Declare, Peer, Random, eventually, scale};
use amq_protocol::protocol::{AMQPClass, basic, channel, queue};
use leveret::amqp::method;

/// A connection with a queue `q` of so many messages; each one's body is its number.
fn filled(broker: &Broker, messages: u64) -> Peer {
    let mut peer = Peer::open(broker);
    peer.declare(1, Declare::transient("q"));
    let mut out = Vec::new();
    for number in 0..messages {
        write_publish(&mut out, 1, "", "q", PLAIN, &number.to_be_bytes(), peer.frame_max);
    }
    peer.octets(&out);
    assert_eq!(u64::from(peer.declare(1, Declare::passive("q")).0), messages);
    peer
}

fn number(content: &Content) -> u64 {
    u64::from_be_bytes(content.body[..8].try_into().unwrap())
}

fn drain(peer: &mut Peer, queue: &str) -> Vec<Content> {
    std::iter::from_fn(|| peer.get(1, queue, true)).collect()
}

fn numbers(contents: &[Content]) -> Vec<u64> {
    contents.iter().map(number).collect()
}

fn basic(out: &mut Vec<u8>, channel: u16, method: basic::AMQPMethod) {
    method::write(out, channel, &AMQPClass::Basic(method));
}

/// An answer that says that everything before it was read, and that the channel is open.
fn expect_open(peer: &mut Peer) {
    peer.qos(1, 0);
}

#[test]
fn what_goes_back_in_any_order_comes_in_the_order_of_publishing() {
    let broker = Broker::start();
    let mut peer = filled(&broker, 100);
    let mut random = Random::new();
    for _ in 0..5 {
        let mut tags: Vec<u64> = (0..100).map(|_| peer.get(1, "q", false).unwrap().tag).collect();
        while !tags.is_empty() {
            let tag = tags.swap_remove(random.below(tags.len() as u64) as usize);
            match random.below(2) {
                0 => peer.nack(1, tag, false, true),
                _ => peer.reject(1, tag, true),
            }
        }
    }
    let found = drain(&mut peer, "q");
    assert_eq!(numbers(&found), (0..100).collect::<Vec<_>>());
    assert!(found.iter().all(|content| content.redelivered));
}

#[test]
fn what_is_rejected_while_its_connection_breaks_is_there_once() {
    const MESSAGES: u64 = 60;
    let broker = Broker::start();
    let mut watcher = filled(&broker, MESSAGES);
    let mut random = Random::new();
    for round in 0..scale("LEVERET_BREAKS", 100) {
        let mut peer = Peer::open(&broker);
        peer.consume(1, "q", "c", false);
        let tags: Vec<u64> = (0..MESSAGES).map(|_| peer.expect_delivery().tag).collect();
        let mut out = Vec::new();
        for delivery_tag in tags {
            match random.below(3) {
                0 => basic(&mut out, 1, basic::AMQPMethod::Reject(basic::Reject { delivery_tag, requeue: true })),
                1 => {
                    let nack = basic::Nack { delivery_tag, multiple: false, requeue: true };
                    basic(&mut out, 1, basic::AMQPMethod::Nack(nack));
                }
                _ => {}
            }
        }
        // Some of it may not arrive, and what is given back comes again while the socket ends.
        peer.octets(&out[..random.below(out.len() as u64 + 1) as usize]);
        peer.vanish();
        eventually("all messages back", || {
            let (ready, consumers) = watcher.declare(1, Declare::passive("q"));
            assert!(u64::from(ready) <= MESSAGES, "round {round}: {ready} messages of {MESSAGES}");
            (u64::from(ready) == MESSAGES && consumers == 0).then_some(())
        });
    }
    assert_eq!(numbers(&drain(&mut watcher, "q")), (0..MESSAGES).collect::<Vec<_>>());
}

#[test]
fn what_is_acknowledged_right_before_its_channel_ends_is_gone_and_the_rest_is_back_at_once() {
    let broker = Broker::start();
    let mut watcher = filled(&broker, 300);
    let mut peer = Peer::open(&broker);
    for round in 0..100 {
        let tags: Vec<u64> = (0..3).map(|_| peer.get(1, "q", false).unwrap().tag).collect();
        let mut out = Vec::new();
        basic(&mut out, 1, basic::AMQPMethod::Ack(basic::Ack { delivery_tag: tags[1], multiple: true }));
        method::write(&mut out, 1, &close_channel());
        peer.octets(&out);
        peer.expect(1, &AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
        // Whoever sees the answer finds the third one in its place.
        let next = watcher.get(1, "q", true).unwrap();
        assert_eq!((number(&next), next.redelivered), (round * 3 + 2, true));
        peer.open_channel(1);
    }
    assert_eq!(watcher.declare(1, Declare::passive("q")), (0, 0));
}

#[test]
fn what_a_cancelled_consumer_holds_stays_its_channels_until_that_ends() {
    let broker = Broker::start();
    let mut other = filled(&broker, 3);
    let mut peer = Peer::open(&broker);
    peer.consume(1, "q", "c", false);
    let tags: Vec<u64> = (0..3).map(|_| peer.expect_delivery().tag).collect();
    peer.basic(1, basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "c".into(), nowait: false }));
    peer.expect(1, &AMQPClass::Basic(basic::AMQPMethod::CancelOk(basic::CancelOk { consumer_tag: "c".into() })));
    assert_eq!(other.get(1, "q", false), None);
    // One goes back by itself, one is acknowledged all the same, and one comes with the channel's end.
    peer.reject(1, tags[1], true);
    peer.ack(1, tags[0], false);
    expect_open(&mut peer);
    assert_eq!(number(&other.get(1, "q", true).unwrap()), 1);
    assert_eq!(other.get(1, "q", false), None);
    peer.close_channel(1);
    let last = other.get(1, "q", true).unwrap();
    assert_eq!((number(&last), last.redelivered), (2, true));
    assert_eq!(other.get(1, "q", false), None);
}

#[test]
fn what_a_consumer_gives_back_while_it_goes_is_there_for_others() {
    let broker = Broker::start();
    let mut other = filled(&broker, 10);
    for round in 0..50 {
        let mut peer = Peer::open(&broker);
        peer.qos(1, if round % 2 == 0 { 5 } else { 0 });
        peer.consume(1, "q", "c", false);
        let first = peer.expect_delivery().tag;
        let mut out = Vec::new();
        let nack = basic::Nack { delivery_tag: first, multiple: false, requeue: true };
        basic(&mut out, 1, basic::AMQPMethod::Nack(nack));
        basic(&mut out, 1, basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "c".into(), nowait: false }));
        peer.octets(&out);
        // It may be served once more before it is cancelled.
        let mut held = Vec::new();
        loop {
            match peer.next() {
                Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::CancelOk(_))) => break,
                Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))) => {
                    held.push(deliver.delivery_tag);
                }
                Incoming::Header { .. } | Incoming::Body(..) => {}
                unexpected => panic!("round {round}: {unexpected:?}"),
            }
        }
        if !held.is_empty() {
            peer.nack(1, *held.last().unwrap(), true, true);
        }
        expect_open(&mut peer);
        let found: Vec<Content> = (0..10).map(|_| other.get(1, "q", false).expect("all are there")).collect();
        assert_eq!(numbers(&found), (0..10).collect::<Vec<_>>(), "round {round}");
        other.nack(1, 0, true, true);
        expect_open(&mut other);
        peer.close();
    }
}

#[test]
fn an_unknown_tag_is_406_and_all_of_nothing_is_nothing() {
    let broker = Broker::start();
    let mut peer = filled(&broker, 3);
    peer.ack(1, 0, true);
    peer.nack(1, 0, true, true);
    expect_open(&mut peer);
    let refused = |peer: &mut Peer, tag: u64| {
        peer.expect_channel_close(1, 406, &format!("PRECONDITION_FAILED - unknown delivery tag {tag}"));
        peer.open_channel(1);
    };
    // Twice, never given, another channel's, given without wanting an answer.
    let tag = peer.get(1, "q", false).unwrap().tag;
    peer.ack(1, tag, false);
    peer.ack(1, tag, false);
    refused(&mut peer, tag);
    peer.reject(1, 7, true);
    refused(&mut peer, 7);
    let tag = peer.get(1, "q", false).unwrap().tag;
    peer.open_channel(2);
    peer.nack(2, tag, true, true);
    peer.expect_channel_close(2, 406, &format!("PRECONDITION_FAILED - unknown delivery tag {tag}"));
    peer.ack(1, tag, false);
    let tag = peer.get(1, "q", true).unwrap().tag;
    peer.ack(1, tag, false);
    refused(&mut peer, tag);
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 0));
}

fn recover(peer: &mut Peer) {
    peer.basic(1, basic::AMQPMethod::Recover(basic::Recover { requeue: true }));
    peer.expect(1, &AMQPClass::Basic(basic::AMQPMethod::RecoverOk(basic::RecoverOk {})));
}

#[test]
fn recovering_gives_back_what_was_got_and_what_was_delivered() {
    let broker = Broker::start();
    let mut peer = filled(&broker, 5);
    peer.get(1, "q", false).unwrap();
    peer.qos(1, 2);
    peer.consume(1, "q", "c", false);
    peer.expect_delivery();
    peer.expect_delivery();
    assert_eq!(peer.declare(1, Declare::passive("q")), (2, 1));
    recover(&mut peer);
    // The consumer takes what it may again: from the first one on, which it was not given before.
    for expected in 0..2 {
        let delivery = peer.expect_delivery();
        assert_eq!((number(&delivery), delivery.redelivered), (expected, true));
    }
    assert_eq!(peer.declare(1, Declare::passive("q")), (3, 1));
}

#[test]
fn recovering_what_came_from_a_deleted_queue_harms_nobody() {
    let broker = Broker::start();
    let mut peer = filled(&broker, 5);
    (0..3).for_each(|_| drop(peer.get(1, "q", false).unwrap()));
    Peer::open(&broker).delete_queue(1, "q");
    recover(&mut peer);
    recover(&mut peer);
    // A queue of that name has nothing to do with it.
    peer.declare(1, Declare::transient("q"));
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 0));
}

/// A large message that was on its way in part counts as delivered; one that had not left does not.
#[test]
fn what_was_on_its_way_when_its_client_vanished_is_there_and_says_so() {
    const MESSAGES: u64 = 100;
    let broker = Broker::start();
    let mut watcher = Peer::open(&broker);
    watcher.declare(1, Declare::transient("q"));
    for number in 0..MESSAGES {
        let mut body = vec![7; 200 << 10];
        body[..8].copy_from_slice(&number.to_be_bytes());
        watcher.publish(1, "q", PLAIN, &body);
    }
    assert_eq!(u64::from(watcher.declare(1, Declare::passive("q")).0), MESSAGES);
    for _ in 0..3 {
        let mut peer = Peer::open(&broker);
        peer.consume(1, "q", "c", false);
        assert_eq!(number(&peer.expect_delivery()), 0);
        // In the middle of the second one.
        let Incoming::Method(..) = peer.next() else { panic!("no second delivery") };
        peer.vanish();
        eventually("all messages back", || {
            let (ready, consumers) = watcher.declare(1, Declare::passive("q"));
            (u64::from(ready) == MESSAGES && consumers == 0).then_some(())
        });
    }
    let found = drain(&mut watcher, "q");
    assert_eq!(numbers(&found), (0..MESSAGES).collect::<Vec<_>>());
    let flagged = found.iter().take_while(|content| content.redelivered).count();
    assert!((2..MESSAGES as usize).contains(&flagged), "{flagged} were delivered");
    assert!(found[flagged..].iter().all(|content| !content.redelivered), "one that was not delivered says it was");
}

#[test]
fn consumers_that_come_and_go_under_one_tag_leave_no_message_behind() {
    let broker = Broker::start();
    let mut publisher = filled(&broker, 0);
    let mut peer = Peer::open(&broker);
    let mut random = Random::new();
    let (mut sent, mut found) = (0_u64, Vec::new());
    for round in 0..scale("LEVERET_CONSUMERS", 3000) {
        let mut out = Vec::new();
        for _ in 0..random.below(4) {
            write_publish(&mut out, 1, "", "q", PLAIN, &sent.to_be_bytes(), publisher.frame_max);
            sent += 1;
        }
        publisher.octets(&out);
        peer.consume_quietly(1, "q", "c", true);
        peer.basic(1, basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "c".into(), nowait: false }));
        loop {
            match peer.next() {
                Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::CancelOk(_))) => break,
                Incoming::Body(1, body) => found.push(u64::from_be_bytes(body.try_into().unwrap())),
                Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(_))) | Incoming::Header { .. } => {}
                unexpected => panic!("round {round}: {unexpected:?}"),
            }
        }
    }
    peer.consume(1, "q", "c", true);
    while (found.len() as u64) < sent {
        found.push(number(&peer.expect_delivery()));
    }
    assert!(found.iter().copied().eq(0..sent), "out of order, or twice");
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 1));
}

#[test]
fn a_consumer_that_waits_is_woken_by_every_message() {
    let broker = Broker::start();
    let mut publisher = filled(&broker, 0);
    let mut peer = Peer::open(&broker);
    peer.qos(1, 1);
    peer.consume(1, "q", "c", false);
    // Each time the queue is empty, and its consumer has just become free.
    for round in 0..scale("LEVERET_WAKES", 5000) {
        publisher.publish(1, "q", PLAIN, &round.to_be_bytes());
        let delivery = peer.expect_delivery();
        assert_eq!(number(&delivery), round);
        peer.ack(1, delivery.tag, false);
    }
}

#[test]
fn acknowledging_while_the_queue_is_deleted_harms_no_channel() {
    let broker = Broker::start();
    let mut other = Peer::open(&broker);
    let mut peer = Peer::open(&broker);
    for round in 0..100 {
        other.declare(1, Declare::transient("q"));
        (0..50_u64).for_each(|number| other.publish(1, "q", PLAIN, &number.to_be_bytes()));
        peer.consume(1, "q", "c", false);
        let tags: Vec<u64> = (0..50).map(|_| peer.expect_delivery().tag).collect();
        let delete = queue::Delete { queue: "q".into(), if_unused: false, if_empty: false, nowait: true };
        other.method(1, AMQPClass::Queue(queue::AMQPMethod::Delete(delete)));
        for (at, tag) in tags.into_iter().enumerate() {
            match (round + at) % 3 {
                0 => peer.ack(1, tag, false),
                1 => peer.reject(1, tag, false),
                _ => peer.nack(1, tag, false, true),
            }
        }
        basic_cancel(&mut peer);
        other.qos(1, 0);
    }
}

/// Cancels the consumer `c`, and passes over what it still gets; the channel must live.
fn basic_cancel(peer: &mut Peer) {
    peer.basic(1, basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "c".into(), nowait: false }));
    loop {
        match peer.next() {
            Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::CancelOk(_))) => return,
            Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(_))) => {}
            Incoming::Header { .. } | Incoming::Body(..) => {}
            unexpected => panic!("{unexpected:?}"),
        }
    }
}

#[test]
fn a_prefetch_is_each_later_consumers_own_and_does_not_count_what_is_got() {
    let broker = Broker::start();
    let mut peer = filled(&broker, 20);
    peer.qos(1, 2);
    peer.consume(1, "q", "two", false);
    let first = peer.expect_delivery().tag;
    peer.expect_delivery();
    // As in RabbitMQ 4.3, `global` says nothing; the limit is for consumers that come later.
    peer.basic(1, basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 3, global: true }));
    peer.expect(1, &AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
    assert_eq!(peer.declare(1, Declare::passive("q")), (18, 1));
    peer.consume(1, "q", "three", false);
    (0..3).for_each(|_| drop(peer.expect_delivery()));
    assert_eq!(peer.declare(1, Declare::passive("q")), (15, 2));
    // What is got by hand takes nobody's place.
    (0..5).for_each(|_| drop(peer.get(1, "q", false).unwrap()));
    assert_eq!(peer.declare(1, Declare::passive("q")), (10, 2));
    peer.ack(1, first, false);
    assert_eq!(number(&peer.expect_delivery()), 10);
    assert_eq!(peer.declare(1, Declare::passive("q")), (9, 2));
}
