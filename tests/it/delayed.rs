//! Delayed messages: what an exchange of type `x-delayed-message` holds back, hands on, and gives up.

use super::exchanges::{bind_exchange, bind_queue, bodies, bound, declare, declared, drain, table, text};
use super::support::peer::{Content, Incoming, PERSISTENT, PLAIN, declare_queue, write_publish};
use super::support::{Broker, Declare, Peer, Random, eventually, scale};
use amq_protocol::protocol::{AMQPClass, basic, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::method;
use leveret::amqp::properties::Properties;
use leveret::amqp::table::Field;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What holds back the messages of the exchange `x`.
const HELD_BACK: &str = "amq.delayed.x";
/// 34 years.
const LONG_MS: i64 = 1 << 40;

/// The raw properties of a message with these headers; `expiration` is of at most 9 digits.
fn properties(headers: &[&[u8]], delivery_mode: u8, expiration: Option<&str>) -> Vec<u8> {
    let headers = headers.concat();
    let mut out = vec![0x30 | u8::from(expiration.is_some()), 0];
    out.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    out.extend_from_slice(&headers);
    out.push(delivery_mode);
    if let Some(expiration) = expiration {
        out.push(expiration.len() as u8);
        out.extend_from_slice(expiration.as_bytes());
    }
    out
}

fn header(delay_ms: i64) -> Vec<u8> {
    [&b"\x07x-delayl"[..], &delay_ms.to_be_bytes()].concat()
}

/// The raw properties of a persistent message that is to be held back.
fn delayed(delay_ms: i64) -> Vec<u8> {
    properties(&[&header(delay_ms)], 2, None)
}

fn delayed_type(kind: &str) -> FieldTable {
    table(&[("x-delayed-type", text(kind))])
}

/// Declares the durable exchange `x` that delays for one of this type.
fn declare_delayed(peer: &mut Peer, kind: &str) {
    peer.method(1, declare("x", "x-delayed-message", delayed_type(kind)));
    peer.expect(1, &declared());
}

/// A confirming peer, the exchange `x` that delays for a direct one, and the durable queue `q` bound with the key `k`.
fn direct(broker: &Broker) -> Peer {
    let mut peer = Peer::open(broker);
    peer.confirm_select(1);
    declare_delayed(&mut peer, "direct");
    bound(&mut peer, "x", &[("q", "k")]);
    peer
}

/// Publishes to the exchange `x`, with the key `k`, in one write.
fn publish(peer: &mut Peer, messages: &[(Vec<u8>, String)]) {
    let mut out = Vec::new();
    for (properties, body) in messages {
        write_publish(&mut out, 1, "x", "k", properties, body.as_bytes(), peer.frame_max);
    }
    peer.octets(&out);
}

/// The same with delays for properties, and their numbers for bodies.
fn publish_delayed(peer: &mut Peer, delays_ms: &[i64]) {
    let messages: Vec<_> = delays_ms.iter().map(|delay_ms| (delayed(*delay_ms), delay_ms.to_string())).collect();
    publish(peer, &messages);
}

fn held_back(peer: &mut Peer) -> u32 {
    peer.declare(1, Declare::passive(HELD_BACK)).0
}

fn next_in(peer: &mut Peer, queue: &str) -> Content {
    eventually("a message that was held back", || peer.get(1, queue, true))
}

fn delay_of(content: &Content) -> Option<i64> {
    let properties = Properties::parse(&content.properties).unwrap();
    properties.headers?.get(b"x-delay")?.as_i64()
}

fn purge(peer: &mut Peer, name: &str) -> u32 {
    peer.method(1, AMQPClass::Queue(queue::AMQPMethod::Purge(queue::Purge { queue: name.into(), nowait: false })));
    match peer.next() {
        Incoming::Method(1, AMQPClass::Queue(queue::AMQPMethod::PurgeOk(ok))) => ok.message_count,
        other => panic!("expected queue.purge-ok, not {other:?}"),
    }
}

fn delete_exchange(peer: &mut Peer, name: &str) {
    let delete = exchange::Delete { exchange: name.into(), if_unused: false, nowait: false };
    peer.method(1, AMQPClass::Exchange(exchange::AMQPMethod::Delete(delete)));
    peer.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {})));
}

/// The channel that is closed is another than the one that goes on.
fn expect_refused(peer: &mut Peer, method: AMQPClass, code: u16, why: &str) {
    peer.open_channel(2);
    peer.method(2, method);
    peer.expect_channel_close(2, code, why);
}

fn expect_precondition(peer: &mut Peer, method: AMQPClass, why: &str) {
    expect_refused(peer, method, 406, &format!("PRECONDITION_FAILED - {why}"));
}

#[test]
fn messages_come_in_the_order_of_their_times_and_of_their_publishing() {
    let broker = Broker::start();
    let mut peer = direct(&broker);
    peer.consume(1, "q", "c", true);
    // One read has one time.
    let start = Instant::now();
    publish_delayed(&mut peer, &[700, 500, 300]);
    peer.expect_confirms(1, 3);
    for delay_ms in [300, 500, 700] {
        let content = peer.expect_delivery();
        assert_eq!(content.body, delay_ms.to_string().as_bytes());
        // The broker counts whole milliseconds, and when one of them began is not known here.
        assert!(start.elapsed() + Duration::from_millis(1) > Duration::from_millis(delay_ms));
        assert_eq!((&*content.exchange, &*content.routing_key, content.redelivered), ("x", "k", false));
        assert_eq!(content.properties, delayed(-delay_ms.cast_signed()));
    }
    let bodies: Vec<_> = (0..3000).map(|number| number.to_string()).collect();
    publish(&mut peer, &bodies.iter().map(|body| (delayed(60), body.clone())).collect::<Vec<_>>());
    let mut next = 0;
    let mut confirmed = 4;
    while next < bodies.len() || confirmed < 3004 {
        match peer.next() {
            Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => confirmed = ack.delivery_tag + 1,
            Incoming::Body(1, body) => {
                assert_eq!(body, bodies[next].as_bytes());
                next += 1;
            }
            _ => {}
        }
    }
}

#[test]
fn without_a_delay_a_message_is_routed_at_once_and_untouched() {
    let broker = Broker::start();
    let mut peer = direct(&broker);
    let word = properties(&[b"\x01zV", b"\x07x-delayS\0\0\0\x04soon"], 2, None);
    let all = [PERSISTENT.to_vec(), PLAIN.to_vec(), delayed(0), delayed(-5), word];
    publish(&mut peer, &all.iter().map(|properties| (properties.clone(), String::new())).collect::<Vec<_>>());
    peer.expect_confirms(1, 5);
    assert_eq!(drain(&mut peer, "q").into_iter().map(|content| content.properties).collect::<Vec<_>>(), all);
}

#[test]
fn a_delay_may_be_of_any_type_and_any_size() {
    let mut broker = Broker::start();
    let mut peer = direct(&broker);
    for (sequence, delay, after) in [
        (1, &b"S\0\0\0\x0210"[..], -10),
        (2, b"I\0\0\0\x0b", -11),
        (3, b"B\x0c", -12),
        (4, b"d\x40\x2a\x8f\x5c\x28\xf5\xc2\x8f", -13),
    ] {
        publish(&mut peer, &[(properties(&[b"\x01zV\x07x-delay", delay], 2, None), String::new())]);
        peer.expect_confirms(sequence, sequence);
        let content = next_in(&mut peer, "q");
        assert_eq!(delay_of(&content), Some(after));
    }
    let digits = properties(&[b"\x07x-delayS\0\0\0\x14", b"99999999999999999999"], 2, None);
    let mut messages = vec![(digits, "digits".to_owned())];
    messages.extend([LONG_MS, 1 << 32, i64::MAX].map(|delay_ms| (delayed(delay_ms), delay_ms.to_string())));
    publish(&mut peer, &messages);
    peer.expect_confirms(5, 8);
    assert_eq!((held_back(&mut peer), peer.get(1, "q", true)), (4, None));
    assert!(broker.stop().success());
    broker.restart();
    let mut peer = Peer::open(&broker);
    assert_eq!((held_back(&mut peer), peer.get(1, "q", true)), (4, None));
}

#[test]
fn what_is_held_back_survives_a_restart_and_kill_9_whatever_its_delivery_mode() {
    let mut broker = Broker::start();
    let mut peer = direct(&broker);
    let transient = |delay_ms| properties(&[&header(delay_ms)], 1, None);
    // Long enough to be held back still when the broker is killed: no queue keeps it then.
    publish(&mut peer, &[(transient(4000), "transient".to_owned())]);
    peer.expect_confirms(1, 1);
    let mut sequence = 1;
    for kill in [true, false] {
        publish_delayed(&mut peer, &[LONG_MS, 500, 400]);
        peer.expect_confirms(sequence + 1, sequence + 3);
        sequence = 0;
        // Whether their time comes while nobody is there or later is the machine's choice.
        match kill {
            true => broker.kill(),
            false => assert!(broker.stop().success()),
        }
        broker.restart();
        peer = Peer::open(&broker);
        peer.confirm_select(1);
        for body in ["400", "500"] {
            let content = next_in(&mut peer, "q");
            assert_eq!((String::from_utf8(content.body).unwrap().as_str(), content.redelivered), (body, false));
        }
        if kill {
            assert_eq!(next_in(&mut peer, "q").properties, transient(-4000));
        }
    }
    assert_eq!(held_back(&mut peer), 2);
    // A new exchange gets none of it: numbers of queues are not used again.
    peer.method(1, declare("y", "x-delayed-message", delayed_type("fanout")));
    peer.expect(1, &declared());
    assert_eq!(peer.declare(1, Declare::passive("amq.delayed.y")).0, 0);
}

#[test]
fn confirmed_delayed_messages_come_exactly_once_over_kill_9() {
    let cycles = scale("LEVERET_KILL_CYCLES", 6);
    let messages = scale("LEVERET_KILL_MESSAGES", 2000);
    let mut random = Random::new();
    let mut broker = Broker::start();
    let mut peer = direct(&broker);
    // The first number of each cycle, and how many were confirmed.
    let mut ledger = Vec::new();
    for cycle in 0..cycles {
        let first = cycle << 32;
        let bulk: Vec<_> = (first..first + messages)
            .map(|number| (delayed(1 + random.below(400) as i64), number.to_string()))
            .collect();
        let mut writer = peer.second_hold();
        let frame_max = peer.frame_max;
        let sender = std::thread::spawn(move || {
            for messages in bulk.chunks(100) {
                let mut out = Vec::new();
                for (properties, body) in messages {
                    write_publish(&mut out, 1, "x", "k", properties, body.as_bytes(), frame_max);
                }
                if std::io::Write::write_all(&mut writer, &out).is_err() {
                    break;
                }
            }
        });
        // Killed while messages come, or while they are handed on.
        let mut next = 1;
        let moment = random.below(messages * 5 / 4).min(messages);
        while next <= moment {
            next = peer.confirmed(next).expect("the broker lives");
        }
        if moment == messages {
            std::thread::sleep(Duration::from_millis(random.below(400)));
        }
        broker.kill();
        while next <= messages
            && let Some(further) = peer.confirmed(next)
        {
            next = further;
        }
        sender.join().unwrap();
        ledger.push((first, next - 1));
        broker.restart();
        peer = Peer::open(&broker);
        peer.confirm_select(1);
    }
    eventually("the last message's time", || (held_back(&mut peer) == 0).then_some(()));
    // What has died may still be on its way.
    let mut found: BTreeMap<u64, u32> = BTreeMap::new();
    let mut quiet = 0;
    while quiet < 5 {
        let all = bodies(&mut peer, "q");
        quiet = if all.is_empty() { quiet + 1 } else { 0 };
        all.iter().for_each(|body| *found.entry(body.parse().unwrap()).or_default() += 1);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(found.iter().find(|(_, times)| **times > 1), None, "twice");
    for (first, confirmed) in ledger {
        let missing = (first..first + confirmed).find(|number| !found.contains_key(number));
        assert_eq!(missing, None, "{confirmed} from {first} on were confirmed");
    }
}

#[test]
fn a_purge_cancels_for_good() {
    let mut broker = Broker::start();
    let mut peer = direct(&broker);
    publish_delayed(&mut peer, &[LONG_MS, LONG_MS, 4000, 4000, 4000]);
    peer.expect_confirms(1, 5);
    assert_eq!(held_back(&mut peer), 5);
    assert_eq!(purge(&mut peer, HELD_BACK), 5);
    broker.kill();
    broker.restart();
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    assert_eq!((held_back(&mut peer), purge(&mut peer, HELD_BACK)), (0, 0));
    publish_delayed(&mut peer, &[4500]);
    peer.expect_confirms(1, 1);
    assert_eq!(next_in(&mut peer, "q").body, b"4500");
    assert_eq!(peer.get(1, "q", true), None);
}

#[test]
fn what_is_held_back_goes_with_its_exchange() {
    let mut broker = Broker::start();
    let mut peer = direct(&broker);
    publish_delayed(&mut peer, &[LONG_MS, 4000]);
    peer.expect_confirms(1, 2);
    delete_exchange(&mut peer, "x");
    expect_refused(
        &mut peer,
        declare_queue(Declare::passive(HELD_BACK), FieldTable::default()),
        404,
        &format!("NOT_FOUND - no queue '{HELD_BACK}' in vhost '/'"),
    );
    declare_delayed(&mut peer, "direct");
    assert_eq!(held_back(&mut peer), 0);
    peer.bind(1, "q", "x", "k");
    publish_delayed(&mut peer, &[4500]);
    peer.expect_confirms(3, 3);
    broker.kill();
    broker.restart();
    let mut peer = Peer::open(&broker);
    assert_eq!(next_in(&mut peer, "q").body, b"4500");
    assert_eq!((held_back(&mut peer), peer.get(1, "q", true)), (0, None));
    // An exchange that deletes itself takes it along, too; and one that is not durable ends with the broker.
    let transient = exchange::Declare {
        exchange: "t".into(),
        kind: "x-delayed-message".into(),
        passive: false,
        durable: false,
        auto_delete: true,
        internal: false,
        nowait: false,
        arguments: delayed_type("fanout"),
    };
    for _ in 0..2 {
        peer.method(1, AMQPClass::Exchange(exchange::AMQPMethod::Declare(transient.clone())));
        peer.expect(1, &declared());
        assert_eq!(peer.declare(1, Declare::passive("amq.delayed.t")).0, 0);
        peer.declare(1, Declare::transient("bound"));
        peer.bind(1, "bound", "t", "");
        let mut out = Vec::new();
        write_publish(&mut out, 1, "t", "", &delayed(LONG_MS), b"", peer.frame_max);
        peer.octets(&out);
        eventually("the message", || (peer.declare(1, Declare::passive("amq.delayed.t")).0 == 1).then_some(()));
        peer.delete_queue(1, "bound");
    }
}

#[test]
fn the_type_that_it_delays_for_is_checked_with_the_plugins_words() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let required = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
    for (arguments, why) in [
        (FieldTable::default(), required),
        (table(&[("x-delayed-type", AMQPValue::LongInt(1))]), required),
        (delayed_type("x-delayed-message"), "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'"),
        (delayed_type("bogus"), "unknown exchange type 'bogus'"),
        (
            table(&[("x-delayed-type", text("x-consistent-hash")), ("hash-property", text("bogus"))]),
            "Unsupported property: bogus",
        ),
    ] {
        expect_precondition(&mut peer, declare("x", "x-delayed-message", arguments), why);
    }
    declare_delayed(&mut peer, "x-consistent-hash");
    // As with the plugin, only the alternate exchange counts when it is declared again.
    declare_delayed(&mut peer, "topic");
    let other = "inequivalent arg 'type' for exchange 'x' in vhost '/'";
    expect_precondition(&mut peer, declare("x", "direct", FieldTable::default()), other);
    let arguments = table(&[("alternate-exchange", text("amq.fanout"))]);
    let other = "inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/'";
    expect_precondition(&mut peer, declare("x", "x-delayed-message", arguments), other);
    // Bindings are checked as the inner type's.
    peer.declare(1, Declare::durable("q"));
    expect_precondition(&mut peer, bind_queue("q", "x", "abc"), "The binding key must be an integer: <<\"abc\">>");
}

#[test]
fn nothing_else_can_be_done_with_what_is_held_back() {
    let broker = Broker::start();
    let mut peer = direct(&broker);
    publish_delayed(&mut peer, &[LONG_MS]);
    peer.expect_confirms(1, 1);
    let why = format!(
        "ACCESS_REFUSED - queue '{HELD_BACK}' in vhost '/' holds the delayed messages of an exchange: it can only be \
         declared passively and purged"
    );
    let consume = basic::Consume {
        queue: HELD_BACK.into(),
        consumer_tag: "c".into(),
        no_local: false,
        no_ack: true,
        exclusive: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    let get = basic::Get { queue: HELD_BACK.into(), no_ack: true };
    let delete = queue::Delete { queue: HELD_BACK.into(), if_unused: false, if_empty: false, nowait: false };
    for method in [
        AMQPClass::Basic(basic::AMQPMethod::Consume(consume)),
        AMQPClass::Basic(basic::AMQPMethod::Get(get)),
        AMQPClass::Queue(queue::AMQPMethod::Delete(delete)),
        bind_queue(HELD_BACK, "amq.direct", "k"),
    ] {
        expect_refused(&mut peer, method, 403, &why);
    }
    let reserved = format!("ACCESS_REFUSED - queue name '{HELD_BACK}' contains reserved prefix 'amq.*'");
    let active = declare_queue(Declare::durable(HELD_BACK), FieldTable::default());
    expect_refused(&mut peer, active, 403, &reserved);
    peer.open_channel(2);
    let mut out = Vec::new();
    write_publish(&mut out, 2, "", HELD_BACK, PERSISTENT, b"", peer.frame_max);
    peer.octets(&out);
    peer.expect_channel_close(2, 403, &why);
    // A dead letter is nobody's to refuse, and goes nowhere.
    let arguments = table(&[("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(HELD_BACK))]);
    peer.method(1, declare_queue(Declare::durable("dying"), arguments));
    peer.next();
    peer.publish(1, "dying", &delayed(1), b"");
    peer.expect_confirms(2, 2);
    let tag = peer.get(1, "dying", false).unwrap().tag;
    peer.nack(1, tag, false, false);
    assert_eq!((held_back(&mut peer), peer.get(1, "q", true)), (1, None));
}

#[test]
fn it_routes_as_the_type_that_it_delays_for() {
    for kind in ["direct", "topic", "headers", "fanout", "x-consistent-hash", "x-recent-history"] {
        let mut broker = Broker::start();
        let mut peer = Peer::open(&broker);
        peer.confirm_select(1);
        declare_delayed(&mut peer, kind);
        let takes_all = ["fanout", "x-recent-history"].contains(&kind);
        for (queue, key, wanted) in [("q", "10", 1), ("other", "20", 2)] {
            peer.declare(1, Declare::durable(queue));
            // A topic's pattern, a weight, and a header that only one of the two takes.
            let key = if kind == "topic" { format!("#.{key}.#") } else { key.to_owned() };
            let AMQPClass::Queue(queue::AMQPMethod::Bind(bind)) = bind_queue(queue, "x", &key) else { unreachable!() };
            let arguments = table(&[("h", AMQPValue::LongInt(wanted))]);
            peer.method(1, AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind { arguments, ..bind })));
            peer.expect(1, &AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {})));
        }
        for delay_ms in [0, 1200] {
            let properties = properties(&[b"\x01hI\0\0\0\x01", &header(delay_ms)], 2, None);
            let mut out = Vec::new();
            for _ in 0..20 {
                write_publish(&mut out, 1, "x", "10", &properties, b"", peer.frame_max);
            }
            peer.octets(&out);
            peer.expect_confirms(1, 20);
            if delay_ms > 0 {
                broker.kill();
                broker.restart();
                peer = Peer::open(&broker);
            }
            let mut taken = ["q", "other"].map(|_| 0);
            let expected = if takes_all { 40 } else { 20 };
            eventually(kind, || {
                for (at, queue) in ["q", "other"].into_iter().enumerate() {
                    taken[at] += drain(&mut peer, queue).len();
                }
                (taken.iter().sum::<usize>() >= expected).then_some(())
            });
            match kind {
                // All with one key, so that one of the two has them all.
                "x-consistent-hash" => assert!(taken.contains(&20)),
                _ if takes_all => assert_eq!(taken, [20, 20]),
                _ => assert_eq!(taken, [20, 0], "{kind}"),
            }
            if delay_ms == 0 {
                // The next confirms begin with 1 again.
                peer.close();
                peer = Peer::open(&broker);
                peer.confirm_select(1);
            }
        }
    }
}

#[test]
fn it_takes_what_comes_from_other_exchanges_and_as_dead_letters() {
    let broker = Broker::start();
    let mut peer = direct(&broker);
    // Both ends of an exchange's binding, one of them a delayed exchange's.
    peer.declare_exchange(1, "first", "fanout", true);
    bound(&mut peer, "first", &[("at once", "")]);
    peer.method(1, bind_exchange("x", "first"));
    peer.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::BindOk(exchange::BindOk {})));
    let mut out = Vec::new();
    write_publish(&mut out, 1, "first", "k", &delayed(100), b"both", peer.frame_max);
    peer.octets(&out);
    peer.expect_confirms(1, 1);
    let now = peer.get(1, "at once", true).unwrap();
    assert_eq!((&*now.exchange, now.properties), ("first", delayed(100)));
    let then = next_in(&mut peer, "q");
    assert_eq!((&*then.exchange, &*then.routing_key, then.properties), ("first", "k", delayed(-100)));
    // A dead letter, once: after that its delay is negative.
    let arguments = table(&[("x-dead-letter-exchange", text("x")), ("x-dead-letter-routing-key", text("k"))]);
    peer.method(1, declare_queue(Declare::durable("dying"), arguments));
    peer.next();
    peer.publish(1, "dying", &delayed(100), b"dead");
    peer.expect_confirms(2, 2);
    let tag = peer.get(1, "dying", false).unwrap().tag;
    peer.nack(1, tag, false, false);
    let dead = next_in(&mut peer, "q");
    assert_eq!((&*dead.exchange, &*dead.routing_key, delay_of(&dead)), ("x", "k", Some(-100)));
    let headers = Properties::parse(&dead.properties).unwrap().headers.unwrap();
    let Some(Field::Array(deaths)) = headers.get(b"x-death") else { panic!("{headers:?}") };
    assert_eq!(deaths.iter().count(), 1, "being held back is no death");
}

#[test]
fn all_keys_count_and_what_nothing_takes_goes_to_the_alternate_exchange_then() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    let arguments = table(&[("x-delayed-type", text("direct")), ("alternate-exchange", text("amq.fanout"))]);
    peer.method(1, declare("x", "x-delayed-message", arguments));
    peer.expect(1, &declared());
    bound(&mut peer, "x", &[("main", "k"), ("copy", "cc"), ("blind", "bcc")]);
    bound(&mut peer, "amq.fanout", &[("rest", "")]);
    let cc = [&b"\x02CCA\0\0\0\x07S\0\0\0\x02cc\x03BCCA\0\0\0\x08S\0\0\0\x03bcc"[..], &header(100)].concat();
    publish(&mut peer, &[(properties(&[&cc], 2, None), String::new())]);
    peer.expect_confirms(1, 1);
    for queue in ["main", "copy", "blind"] {
        let content = next_in(&mut peer, queue);
        let expected = properties(&[b"\x02CCA\0\0\0\x07S\0\0\0\x02cc", &header(-100)], 2, None);
        assert_eq!((content.routing_key.as_str(), content.properties), ("k", expected), "{queue}");
    }
    let mut out = Vec::new();
    write_publish(&mut out, 1, "x", "nowhere", &delayed(100), b"", peer.frame_max);
    peer.octets(&out);
    peer.expect_confirms(2, 2);
    assert_eq!(delay_of(&next_in(&mut peer, "rest")), Some(-100));
    assert_eq!(peer.get(1, "rest", true), None);
}

#[test]
fn a_message_expires_from_the_end_of_its_delay_on() {
    let broker = Broker::start();
    let mut peer = direct(&broker);
    // Not before, though its expiration is the shorter time; and not at all for a consumer that takes it at once.
    peer.consume(1, "q", "c", true);
    publish(&mut peer, &[(properties(&[&header(300)], 2, Some("0")), String::new())]);
    peer.expect_confirms(1, 1);
    assert_eq!(peer.expect_delivery().properties, properties(&[&header(-300)], 2, Some("0")));
    let cancel = basic::Cancel { consumer_tag: "c".into(), nowait: false };
    peer.basic(1, basic::AMQPMethod::Cancel(cancel));
    peer.next();
    // Here nobody does, and it expires before the one behind it.
    publish(
        &mut peer,
        &[
            (properties(&[&header(100)], 2, Some("1")), "expires".to_owned()),
            (properties(&[&header(101)], 2, Some("60000")), "stays".to_owned()),
        ],
    );
    peer.expect_confirms(2, 3);
    eventually("the time", || (held_back(&mut peer) == 0).then_some(()));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(bodies(&mut peer, "q"), ["stays"]);
}

#[test]
fn mandatory_counts_only_without_a_delay() {
    let broker = Broker::start();
    let mut peer = direct(&broker);
    for (number, properties) in [(1, delayed(1)), (2, delayed(0))] {
        let mut out = Vec::new();
        method::write_publish(&mut out, 1, "x", "nowhere", true);
        super::support::peer::write_header(&mut out, 1, 0, &properties);
        peer.octets(&out);
        if number == 2 {
            match peer.next() {
                Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Return(back))) => {
                    assert_eq!(back.reply_code, 312);
                }
                other => panic!("expected basic.return, not {other:?}"),
            }
            assert!(matches!(peer.next(), Incoming::Header { .. }));
        }
        peer.expect_confirms(number, number);
    }
}

#[test]
fn a_transactions_messages_are_held_back_from_its_commit_on() {
    let broker = Broker::start();
    direct(&broker).close();
    let mut peer = Peer::open(&broker);
    peer.tx_select(1);
    publish_delayed(&mut peer, &[50, LONG_MS, 0]);
    assert_eq!(held_back(&mut peer), 0);
    peer.tx_commit(1);
    assert_eq!(peer.get(1, "q", true).unwrap().body, b"0");
    assert_eq!(next_in(&mut peer, "q").body, b"50");
    assert_eq!(held_back(&mut peer), 1);
}

#[test]
fn many_large_messages_leave_memory_while_they_are_held_back() {
    // In any order, so that blocks are read for one message of many.
    let broker = Broker::with_config("messages_memory = \"1MiB\"\nqueue_memory = \"1MiB\"\n");
    let mut peer = direct(&broker);
    let filler = "x".repeat(4000);
    let delays: Vec<u64> = (0..3000).map(|number| 500 + (number * 7919) % 3000).collect();
    let messages: Vec<_> =
        delays.iter().map(|delay_ms| (delayed(delay_ms.cast_signed()), format!("{delay_ms} {filler}"))).collect();
    for part in messages.chunks(100) {
        publish(&mut peer, part);
    }
    peer.expect_confirms(1, 3000);
    let mut found = Vec::new();
    eventually("all of them", || {
        found.extend(drain(&mut peer, "q").iter().map(|content| delay_of(content).unwrap().unsigned_abs()));
        (found.len() == 3000).then_some(())
    });
    found.sort_unstable();
    let mut expected = delays;
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_definitions_file_may_declare_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("definitions.json");
    let text = r#"{"users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
  "vhosts": [{"name": "/"}],
  "permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
  "exchanges": [{"name": "x", "vhost": "/", "type": "x-delayed-message", "durable": true, "auto_delete": false,
    "internal": false, "arguments": {"x-delayed-type": "topic"}}],
  "queues": [{"name": "q", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}}],
  "bindings": [{"source": "x", "vhost": "/", "destination": "q", "destination_type": "queue", "routing_key": "*",
    "arguments": {}}],
  "policies": [{"name": "p", "vhost": "/", "pattern": ".*", "apply-to": "queues", "definition": {"max-length": 0}}]}"#;
    std::fs::write(&file, text).unwrap();
    let mut broker = Broker::with(&["--definitions", file.to_str().unwrap()]);
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    publish_delayed(&mut peer, &[LONG_MS]);
    peer.expect_confirms(1, 1);
    // A policy for all queues is none for this one.
    assert_eq!(held_back(&mut peer), 1);
    // The same file again, at the next start.
    assert!(broker.stop().success());
    broker.restart();
    assert_eq!(held_back(&mut Peer::open(&broker)), 1);
}
