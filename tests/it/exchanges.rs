//! The exchanges that choose one destination, and the one that remembers. Each chooses by what the unit tests of
//! `exchange/` say; here is what a client and a restart see of it. Texts as RabbitMQ 4.3.6 was seen to write them.

use super::support::peer::{Content, PERSISTENT, PLAIN, declare_queue, write_publish};
use super::support::{Broker, Declare, Peer};
use amq_protocol::protocol::{AMQPClass, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};

pub fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in fields {
        table.insert((*key).into(), value.clone());
    }
    table
}

pub fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

pub fn declare(name: &str, kind: &str, arguments: FieldTable) -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: name.into(),
        kind: kind.into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments,
    }))
}

pub fn declared() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
}

pub fn bind_queue(queue: &str, exchange: &str, routing_key: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

pub fn bind_exchange(destination: &str, source: &str) -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
        destination: destination.into(),
        source: source.into(),
        routing_key: "".into(),
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

fn unbind(peer: &mut Peer, queue: &str, exchange: &str, routing_key: &str) {
    peer.method(
        1,
        AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            arguments: FieldTable::default(),
        })),
    );
    peer.expect(1, &AMQPClass::Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {})));
}

/// Durable queues, bound with a key.
pub fn bound(peer: &mut Peer, exchange: &str, queues: &[(&str, &str)]) {
    for (name, key) in queues {
        peer.declare(1, Declare::durable(name));
        peer.bind(1, name, exchange, key);
    }
}

/// Publishes a persistent message for each key, the key as its body, and waits for the confirms of all so far.
fn publish(peer: &mut Peer, exchange: &str, keys: &[String], sequence: &mut u64) {
    let mut out = Vec::new();
    for key in keys {
        write_publish(&mut out, 1, exchange, key, PERSISTENT, key.as_bytes(), peer.frame_max);
    }
    peer.octets(&out);
    peer.expect_confirms(*sequence + 1, *sequence + keys.len() as u64);
    *sequence += keys.len() as u64;
}

pub fn drain(peer: &mut Peer, queue: &str) -> Vec<Content> {
    std::iter::from_fn(|| peer.get(1, queue, true)).collect()
}

/// The bodies in a queue, in their order.
pub fn bodies(peer: &mut Peer, queue: &str) -> Vec<String> {
    drain(peer, queue).into_iter().map(|content| String::from_utf8(content.body).unwrap()).collect()
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("order.{number}")).collect()
}

/// Publishes to an exchange of this type before and after a restart; what each queue got, which must be the same.
fn shares_over_a_restart(kind: &str, queues: &[(&str, &str)]) -> Vec<Vec<String>> {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare_exchange(1, "x", kind, true);
    bound(&mut peer, "x", queues);
    let keys = keys(300);
    let mut shares = Vec::new();
    for restart in [true, false] {
        peer.confirm_select(1);
        publish(&mut peer, "x", &keys, &mut 0);
        shares.push(queues.iter().map(|(name, _)| bodies(&mut peer, name)).collect::<Vec<_>>());
        if restart {
            assert!(broker.stop().success());
            broker.restart();
            peer = Peer::open(&broker);
        }
    }
    let [before, after] = shares.try_into().unwrap();
    assert_eq!(before, after);
    let mut all = before.concat();
    all.sort();
    let mut expected = keys;
    expected.sort();
    assert_eq!(all, expected, "each message reaches one queue");
    before
}

#[test]
fn a_consistent_hash_gives_each_key_to_one_queue_before_and_after_a_restart() {
    // Bound in an order that is not that of their names.
    let shares = shares_over_a_restart("x-consistent-hash", &[("z", "10"), ("a", "10"), ("m", "20")]);
    let counts: Vec<_> = shares.iter().map(Vec::len).collect();
    assert!(counts[0] > 40 && counts[1] > 40 && counts[2] > 100, "{counts:?}");
}

#[test]
fn a_modulus_hash_gives_each_key_to_one_queue_before_and_after_a_restart() {
    let shares = shares_over_a_restart("x-modulus-hash", &[("z", "any"), ("a", ""), ("m", "key")]);
    assert!(shares.iter().all(|share| share.len() > 60), "{:?}", shares.iter().map(Vec::len).collect::<Vec<_>>());
}

#[test]
fn a_queue_bound_last_takes_keys_and_moves_no_others() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    peer.declare_exchange(1, "x", "x-consistent-hash", true);
    bound(&mut peer, "x", &[("b", "5"), ("c", "5")]);
    let (keys, mut sequence) = (keys(200), 0);
    publish(&mut peer, "x", &keys, &mut sequence);
    let before = ["b", "c"].map(|queue| bodies(&mut peer, queue));
    // A channel remembers routes by key; not over a change of bindings.
    bound(&mut peer, "x", &[("a", "5")]);
    publish(&mut peer, "x", &keys, &mut sequence);
    let after = ["b", "c"].map(|queue| bodies(&mut peer, queue));
    for (before, after) in before.iter().zip(&after) {
        assert!(after.iter().all(|key| before.contains(key)));
    }
    let moved = bodies(&mut peer, "a").len();
    assert!((30..110).contains(&moved), "{moved}");
    unbind(&mut peer, "a", "x", "5");
    publish(&mut peer, "x", &keys, &mut sequence);
    assert_eq!(["b", "c"].map(|queue| bodies(&mut peer, queue)), before);
}

#[test]
fn wrong_weights_are_refused_with_rabbitmqs_words() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare_exchange(1, "x", "x-consistent-hash", true);
    peer.declare(1, Declare::durable("q"));
    for (key, why) in [
        ("abc", "The binding key must be an integer: <<\"abc\">>"),
        ("", "The binding key must be an integer: <<>>"),
        ("0", "The binding key must be greater than 0"),
        ("10001", "The binding key must not exceed 10000"),
    ] {
        peer.open_channel(2);
        peer.method(2, bind_queue("q", "x", key));
        peer.expect_channel_close(2, 406, &format!("PRECONDITION_FAILED - {why}"));
    }
    // What the binding asks for is looked at before whose the queue is.
    let mut other = Peer::open(&broker);
    other.declare(1, Declare { exclusive: true, ..Declare::transient("own") });
    for (key, code) in [("abc", 406), ("1", 405)] {
        peer.open_channel(2);
        peer.method(2, bind_queue("own", "x", key));
        peer.expect_channel_close(2, code, "");
    }
}

#[test]
fn a_consistent_hashs_arguments_are_checked_and_survive_a_restart() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for (arguments, why) in [
        (table(&[("hash-property", text("bogus"))]), "Unsupported property: bogus"),
        (
            table(&[("hash-header", text("h")), ("hash-property", text("message_id"))]),
            "hash-header and hash-property are mutually exclusive",
        ),
        (table(&[("hash-header", AMQPValue::LongInt(5))]), "invalid type 'signedint' for arg 'hash-header'"),
    ] {
        peer.open_channel(2);
        peer.method(2, declare("x", "x-consistent-hash", arguments));
        peer.expect_channel_close(2, 406, &format!("PRECONDITION_FAILED - {why}"));
    }
    peer.method(1, declare("x", "x-consistent-hash", table(&[("hash-header", text("h"))])));
    peer.expect(1, &declared());
    bound(&mut peer, "x", &[("a", "1"), ("b", "1")]);
    let header = |number: u8| [&[0x30, 0, 0, 0, 0, 7, 1, b'h', b'I', 0, 0, 0][..], &[number, 2]].concat();
    let mut shares = Vec::new();
    for restart in [true, false] {
        peer.confirm_select(1);
        let mut out = Vec::new();
        for number in 0..100 {
            // All with one key.
            write_publish(&mut out, 1, "x", "same", &header(number), &[number], peer.frame_max);
        }
        peer.octets(&out);
        peer.expect_confirms(1, 100);
        let share: Vec<Vec<u8>> = drain(&mut peer, "a").into_iter().map(|content| content.body).collect();
        assert!((20..80).contains(&share.len()));
        assert_eq!(drain(&mut peer, "b").len() + share.len(), 100);
        shares.push(share);
        if restart {
            assert!(broker.stop().success());
            broker.restart();
            peer = Peer::open(&broker);
        }
    }
    assert_eq!(shares[0], shares[1]);
}

#[test]
fn random_exchanges_give_each_message_to_one_queue_whatever_its_key() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    let mut sequence = 0;
    for kind in ["x-random", "x-local-random"] {
        peer.declare_exchange(1, kind, kind, true);
        bound(&mut peer, kind, &[("a", ""), ("b", ""), ("c", "")]);
        publish(&mut peer, kind, &vec!["same".to_owned(); 300], &mut sequence);
        let counts = ["a", "b", "c"].map(|queue| bodies(&mut peer, queue).len());
        assert!(counts.iter().sum::<usize>() == 300 && counts.iter().all(|count| *count > 50), "{counts:?}");
    }
}

#[test]
fn local_random_refuses_keys_and_what_is_no_classic_queue() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare_exchange(1, "x", "x-local-random", true);
    peer.declare(1, Declare::durable("classic"));
    peer.method(1, declare_queue(Declare::durable("quorum"), table(&[("x-queue-type", text("quorum"))])));
    peer.next();
    for (method, why) in [
        (bind_queue("classic", "x", "key"), "Non empty binding 'key' key not permitted"),
        (bind_queue("quorum", "x", ""), "Queue type rabbit_quorum_queue not valid for this exchange type"),
        (bind_exchange("amq.fanout", "x"), "Destination not found"),
    ] {
        peer.open_channel(2);
        peer.method(2, method);
        peer.expect_channel_close(2, 406, &format!("PRECONDITION_FAILED - {why}"));
    }
    peer.bind(1, "classic", "x", "");
}

#[test]
fn a_recent_history_is_given_to_new_bindings() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    peer.method(1, declare("x", "x-recent-history", table(&[("x-recent-history-length", AMQPValue::LongInt(3))])));
    peer.expect(1, &declared());
    let mut sequence = 0;
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    // Nobody is there yet.
    publish(&mut peer, "x", &texts(&["1", "2", "3", "4"]), &mut sequence);
    bound(&mut peer, "x", &[("a", "")]);
    let given = drain(&mut peer, "a");
    assert_eq!(given.iter().map(|content| &content.body[..]).collect::<Vec<_>>(), [b"2", b"3", b"4"]);
    let first = &given[0];
    assert_eq!((&*first.exchange, &*first.routing_key, first.redelivered), ("x", "2", false));
    assert_eq!(first.properties, PERSISTENT);
    // To those that are bound as a fanout; and a message may ask not to be remembered.
    let silent = b"\x20\0\0\0\0\x1c\x19x-recent-history-no-storet\x01";
    let mut out = Vec::new();
    write_publish(&mut out, 1, "x", "", silent, b"silent", peer.frame_max);
    write_publish(&mut out, 1, "x", "", PLAIN, b"5", peer.frame_max);
    peer.octets(&out);
    sequence += 2;
    peer.expect_confirms(sequence - 1, sequence);
    assert_eq!(bodies(&mut peer, "a"), ["silent", "5"]);
    bound(&mut peer, "x", &[("b", "")]);
    assert_eq!(bodies(&mut peer, "b"), ["3", "4", "5"]);
    // Another key is another binding; the same again is none.
    peer.bind(1, "b", "x", "");
    assert!(bodies(&mut peer, "b").is_empty());
    peer.bind(1, "b", "x", "other");
    assert_eq!(bodies(&mut peer, "b"), ["3", "4", "5"]);
    // An exchange hands them on by its own bindings.
    peer.declare_exchange(1, "topic", "topic", true);
    peer.declare(1, Declare::durable("c"));
    peer.bind(1, "c", "topic", "4");
    peer.method(1, bind_exchange("topic", "x"));
    peer.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::BindOk(exchange::BindOk {})));
    assert_eq!(bodies(&mut peer, "c"), ["4"]);
    // It is kept in memory, so a restart forgets it, and gives nothing to bindings that come back.
    assert!(broker.stop().success());
    broker.restart();
    let mut peer = Peer::open(&broker);
    bound(&mut peer, "x", &[("d", "")]);
    assert!(bodies(&mut peer, "a").is_empty() && bodies(&mut peer, "d").is_empty());
    peer.confirm_select(1);
    publish(&mut peer, "x", &texts(&["6"]), &mut 0);
    assert_eq!(bodies(&mut peer, "a"), ["6"]);
}

#[test]
fn a_recent_history_sees_every_message_of_a_channel_and_of_other_exchanges() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    peer.declare_exchange(1, "x", "x-recent-history", false);
    peer.declare_exchange(1, "first", "fanout", false);
    peer.method(1, bind_exchange("x", "first"));
    peer.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::BindOk(exchange::BindOk {})));
    // The same key, so that a remembered route would be taken; some large enough to come in pieces.
    let large = vec![b'x'; 200_000];
    let mut out = Vec::new();
    for number in 0..30_u8 {
        let body = if number % 10 == 9 { &large[..] } else { &[number][..] };
        write_publish(&mut out, 1, "first", "same", PLAIN, body, peer.frame_max);
    }
    peer.octets(&out);
    peer.expect_confirms(1, 30);
    bound(&mut peer, "x", &[("q", "")]);
    let given: Vec<_> = drain(&mut peer, "q").into_iter().map(|content| content.body).collect();
    assert_eq!(given.len(), 20);
    for (body, number) in given.iter().zip(10_u8..) {
        assert_eq!(*body, if number % 10 == 9 { large.clone() } else { vec![number] });
    }
}

#[test]
fn a_wrong_length_of_a_recent_history_is_refused() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for (length, shown) in [(AMQPValue::LongInt(0), "0"), (text("abc"), "<<\"abc\">>")] {
        peer.open_channel(2);
        peer.method(2, declare("x", "x-recent-history", table(&[("x-recent-history-length", length)])));
        let why = format!("Invalid argument {shown}, 'x-recent-history-length' must be a positive integer");
        peer.expect_channel_close(2, 406, &format!("PRECONDITION_FAILED - {why}"));
    }
}

#[test]
fn what_no_destination_takes_goes_to_the_alternate_exchange() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    peer.declare(1, Declare::durable("rest"));
    peer.bind(1, "rest", "amq.fanout", "");
    let mut sequence = 0;
    for kind in ["x-consistent-hash", "x-modulus-hash", "x-random", "x-local-random", "x-recent-history"] {
        peer.method(1, declare(kind, kind, table(&[("alternate-exchange", text("amq.fanout"))])));
        peer.expect(1, &declared());
        publish(&mut peer, kind, &["k".to_owned()], &mut sequence);
        assert_eq!(bodies(&mut peer, "rest"), ["k"], "{kind}");
    }
}
