//! A message that dies is in exactly one of the two queues, whatever crashes; and what time and counts mean goes on over
//! a restart.

use super::support::peer::{Content, Incoming, PERSISTENT, PLAIN, declare_queue, write_publish};
use super::support::{Broker, Declare, Load, PATIENCE, Peer, Random, eventually, scale};
use amq_protocol::protocol::{AMQPClass, basic};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::method;
use leveret::amqp::properties::Properties;
use leveret::amqp::table::{Field, Fields};
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant, UNIX_EPOCH};

fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in fields {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn number(number: i64) -> AMQPValue {
    AMQPValue::LongLongInt(number)
}

/// Arguments of a queue whose dead letters go to the queue `target`.
fn to_target(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut arguments = table(fields);
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text("target"));
    arguments
}

/// The raw properties of a persistent message that expires, or has a priority.
fn persistent(priority: Option<u8>, expiration: Option<&str>) -> Vec<u8> {
    let mut raw = vec![0x10, 0, 2];
    if let Some(priority) = priority {
        raw[0] |= 0x08;
        raw.push(priority);
    }
    if let Some(expiration) = expiration {
        raw[0] |= 0x01;
        method::short_string(&mut raw, expiration);
    }
    raw
}

fn now_s() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Everything in a queue, by many basic.get at a time.
fn drain(peer: &mut Peer, queue: &str) -> Vec<Content> {
    const AT_ONCE: usize = 200;
    let mut asks = Vec::new();
    let get = basic::AMQPMethod::Get(basic::Get { queue: queue.into(), no_ack: true });
    (0..AT_ONCE).for_each(|_| method::write(&mut asks, 1, &AMQPClass::Basic(get.clone())));
    let mut all = Vec::new();
    loop {
        peer.octets(&asks);
        let before = all.len();
        all.extend((0..AT_ONCE).filter_map(|_| peer.expect_got()));
        if all.len() == before {
            return all;
        }
    }
}

// ── What a dead letter shows ──────────────────────────────────────────────────────────────────────────────────────

/// A message's headers in one line. A time must be one of this test's, and is shown as `now`.
fn headers(content: &Content, since_s: u64) -> String {
    let properties = Properties::parse(&content.properties).unwrap();
    let mut out = String::new();
    show_fields(&mut out, properties.headers.unwrap_or(Fields::EMPTY), since_s);
    out
}

fn show_fields(out: &mut String, fields: Fields<'_>, since_s: u64) {
    for (at, (key, value)) in fields.iter().enumerate() {
        write!(out, "{}{}=", if at > 0 { " " } else { "" }, String::from_utf8_lossy(key)).unwrap();
        show(out, &value, since_s);
    }
}

fn show(out: &mut String, value: &Field<'_>, since_s: u64) {
    match value {
        Field::I64(number) => write!(out, "{number}").unwrap(),
        Field::LongStr(text) => write!(out, "'{}'", String::from_utf8_lossy(text)).unwrap(),
        Field::Timestamp(time) => {
            assert!((since_s..=now_s()).contains(time), "a death at {time}, in a test that began at {since_s}");
            out.push_str("now");
        }
        Field::Table(fields) => {
            out.push('{');
            show_fields(out, *fields, since_s);
            out.push('}');
        }
        Field::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                show(out, &item, since_s);
            }
            out.push(']');
        }
        other => panic!("a header that nobody wrote: {other:?}"),
    }
}

/// The headers of a message that died once, in `source`, to which the default exchange had brought it.
fn died_once(reason: &str, expiration: Option<&str>) -> String {
    let expiration = expiration.map_or(String::new(), |text| format!("original-expiration='{text}' "));
    let mut out = format!(
        "x-death=[{{{expiration}count=1 reason='{reason}' queue='source' time=now exchange='' routing-keys=['source']}}]"
    );
    for which in ["first", "last"] {
        write!(out, " x-{which}-death-exchange='' x-{which}-death-queue='source' x-{which}-death-reason='{reason}'")
            .unwrap();
    }
    out
}

// ── Killed while messages die ─────────────────────────────────────────────────────────────────────────────────────

/// A queue `source` whose messages die and go to a queue `target`, while the broker is killed again and again.
struct Dying {
    reason: &'static str,
    source: FieldTable,
    target: FieldTable,
    /// A message's raw properties, by its number.
    properties: fn(u64) -> Vec<u8>,
    /// What a consumer of the source answers to a delivery, by its tag.
    consumer: Option<fn(&mut Vec<u8>, u64)>,
    /// The headers that a message may have which did not die.
    alive: fn(&str) -> bool,
    /// Messages that may be left in the source.
    left: usize,
}

/// Messages of each test, over all cycles; and how often the broker is killed.
fn messages() -> u64 {
    scale("LEVERET_DEATH_MESSAGES", 10_000)
}

fn kills() -> u64 {
    scale("LEVERET_DEATH_KILLS", 8)
}

/// Three in four messages expire, soon, each at its own time.
fn expiring(number: u64) -> Vec<u8> {
    match number % 4 {
        0 => persistent(None, None),
        _ => persistent(None, Some(&(number * 7 % 90).to_string())),
    }
}

impl Dying {
    fn new(reason: &'static str, source: &[(&str, AMQPValue)]) -> Self {
        Self {
            reason,
            source: to_target(source),
            target: FieldTable::default(),
            properties: |_| PERSISTENT.to_vec(),
            consumer: None,
            alive: str::is_empty,
            left: usize::MAX,
        }
    }

    /// Kills the broker again and again; then everything confirmed is in exactly one of the queues, as it should be.
    fn check(&self) {
        let (messages, kills) = (messages().div_ceil(kills()), kills());
        let mut random = Random::new();
        let since_s = now_s();
        let mut broker = Broker::start();
        let mut peer = Peer::open(&broker);
        peer.declare_with(1, Declare::durable("target"), self.target.clone());
        peer.declare_with(1, Declare::durable("source"), self.source.clone());
        peer.close();
        // For each cycle: the first number, how many were sent, how many confirmed.
        let mut ledger = Vec::new();
        for cycle in 0..kills {
            let consumer = self.consumer.map(|answer| consume(&broker, answer));
            let (first, bulk) = (cycle << 32, [1, 7, 100, messages][random.below(4) as usize]);
            let properties = self.properties;
            let load = Load { queue: "source", first, messages, bulk, spread: Duration::from_millis(60), properties };
            // While they are published, or afterwards.
            let later = Duration::from_micros(random.below(50_000) * random.below(2));
            let (sent, confirmed) = load.killed(&mut broker, random.below(messages + 1), later);
            ledger.push((first, sent, confirmed));
            consumer.into_iter().for_each(|consumer| consumer.join().unwrap());
            broker.restart();
        }
        let (source, target) = collect(&broker, &ledger);
        assert!(source.len() <= self.left, "{} are left in the source", source.len());
        for content in &source {
            assert_eq!((content.exchange.as_str(), content.routing_key.as_str()), ("", "source"));
            let headers = headers(content, since_s);
            assert!((self.alive)(&headers), "{headers}");
        }
        for content in &target {
            assert_eq!((content.exchange.as_str(), content.routing_key.as_str()), ("", "target"));
            let properties = (self.properties)(number_of(content));
            let expiration = Properties::parse(&properties).unwrap().expiration;
            let expiration = expiration.map(|text| str::from_utf8(text).unwrap());
            assert_eq!(headers(content, since_s), died_once(self.reason, expiration));
            // Its time to live is over; the rest of it is as it was.
            let properties = Properties::parse(&content.properties).unwrap();
            assert_eq!((properties.expiration, properties.delivery_mode), (None, Some(2)));
        }
        let confirmed: u64 = ledger.iter().map(|(_, _, confirmed)| confirmed).sum();
        let (reason, source, target) = (self.reason, source.len(), target.len());
        println!(
            "{reason}: {confirmed} confirmed over {kills} crashes; {source} in the source, {target} in the target"
        );
        assert!(target > 0, "nothing died");
    }
}

fn number_of(content: &Content) -> u64 {
    u64::from_be_bytes(content.body.as_slice().try_into().expect("a whole message"))
}

/// A consumer that answers each delivery, until the broker is gone.
fn consume(broker: &Broker, answer: fn(&mut Vec<u8>, u64)) -> std::thread::JoinHandle<()> {
    let mut peer = Peer::open(broker);
    peer.qos(1, 100);
    peer.consume(1, "source", "c", false);
    std::thread::spawn(move || {
        let mut answers = Vec::new();
        while let Some(incoming) = peer.try_next() {
            let Incoming::Method(_, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))) = incoming else { continue };
            answer(&mut answers, deliver.delivery_tag);
            if peer.try_octets(&std::mem::take(&mut answers)).is_err() {
                return;
            }
        }
    })
}

/// What is in the source and in the target, once all that is to die has done so: each confirmed message once, those that
/// were sent and not confirmed at most once, and no others.
fn collect(broker: &Broker, ledger: &[(u64, u64, u64)]) -> (Vec<Content>, Vec<Content>) {
    let mut peer = Peer::open(broker);
    let mut missing: HashSet<u64> = ledger.iter().flat_map(|&(first, _, confirmed)| first..first + confirmed).collect();
    let mut found: HashMap<u64, &str> = HashMap::new();
    let (mut source, mut target) = (Vec::new(), Vec::new());
    let mut look = |missing: &mut HashSet<u64>| {
        for (queue, all) in [("source", &mut source), ("target", &mut target)] {
            for content in drain(&mut peer, queue) {
                let number = number_of(&content);
                let sent = ledger.iter().any(|&(first, sent, _)| (first..first + sent).contains(&number));
                assert!(sent, "{number:x} was never sent");
                if let Some(other) = found.insert(number, queue) {
                    panic!("{number:x} is in the {queue} and in the {other}");
                }
                missing.remove(&number);
                all.push(content);
            }
        }
    };
    let end = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        assert!(
            Instant::now() < end,
            "confirmed and nowhere: {} messages, as {:x?}",
            missing.len(),
            missing.iter().next()
        );
        look(&mut missing);
        std::thread::sleep(Duration::from_millis(5));
    }
    // A second copy would still be on its way: dead letters that nobody took are tried again twice a second.
    std::thread::sleep(Duration::from_millis(700));
    look(&mut missing);
    (source, target)
}

#[test]
fn expired_messages_are_in_exactly_one_queue_whatever_crashes() {
    Dying { properties: expiring, ..Dying::new("expired", &[]) }.check();
}

#[test]
fn messages_that_expire_by_their_queue_are_in_exactly_one_queue_whatever_crashes() {
    Dying::new("expired", &[("x-message-ttl", number(20))]).check();
}

#[test]
fn rejected_messages_are_in_exactly_one_queue_whatever_crashes() {
    let reject = |out: &mut Vec<u8>, tag: u64| {
        // One by one and many at once, and some late.
        if tag % 16 < 4 {
            method::write_nack(out, 1, tag, tag.is_multiple_of(16), false);
        }
    };
    Dying { consumer: Some(reject), ..Dying::new("rejected", &[]) }.check();
}

#[test]
fn dropped_heads_are_in_exactly_one_queue_whatever_crashes() {
    Dying { left: 100, ..Dying::new("maxlen", &[("x-max-length", number(100))]) }.check();
}

#[test]
fn messages_that_failed_too_often_are_in_exactly_one_queue_whatever_crashes() {
    let fail = |out: &mut Vec<u8>, tag: u64| {
        let reject = basic::Reject { delivery_tag: tag, requeue: true };
        method::write(out, 1, &AMQPClass::Basic(basic::AMQPMethod::Reject(reject)));
    };
    let source = [("x-queue-type", text("quorum")), ("x-delivery-limit", number(2))];
    let alive = |headers: &str| {
        headers.is_empty() || ["x-delivery-count=1", "x-delivery-count=2"].iter().any(|count| headers.ends_with(count))
    };
    Dying { consumer: Some(fail), alive, ..Dying::new("delivery_limit", &source) }.check();
}

#[test]
fn at_least_once_a_full_target_holds_up_dead_letters_and_loses_none_whatever_crashes() {
    let source = [
        ("x-queue-type", text("quorum")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    let room = i64::try_from(messages() / 3).unwrap();
    let target = table(&[("x-max-length", number(room)), ("x-overflow", text("reject-publish"))]);
    Dying { target, properties: expiring, ..Dying::new("expired", &source) }.check();
}

#[test]
fn a_dead_letter_is_as_transient_as_the_message_was() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("target"));
    peer.declare_with(1, Declare::durable("source"), to_target(&[("x-message-ttl", number(0))]));
    peer.publish(1, "source", PLAIN, b"transient");
    peer.publish(1, "source", PERSISTENT, b"persistent");
    eventually("both dead", || (peer.declare(1, Declare::passive("target")).0 == 2).then_some(()));
    assert!(broker.stop().success());
    broker.restart();
    let found = drain(&mut Peer::open(&broker), "target");
    assert_eq!(found.iter().map(|content| content.body.as_slice()).collect::<Vec<_>>(), [b"persistent"]);
}

#[test]
fn a_durable_queue_that_is_too_long_after_a_crash_gives_its_head_up_at_once() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("target"));
    peer.declare_with(1, Declare::durable("source"), to_target(&[("x-max-length", number(3))]));
    peer.confirm_select(1);
    (0..5_u8).for_each(|number| peer.publish(1, "source", PERSISTENT, &[number]));
    peer.expect_confirms(1, 5);
    eventually("two dead", || (peer.declare(1, Declare::passive("target")).0 == 2).then_some(()));
    // Held by a consumer they do not count; back after the crash they do.
    (2..5_u8).for_each(|number| assert_eq!(peer.get(1, "source", false).unwrap().body, [number]));
    (5..8_u8).for_each(|number| peer.publish(1, "source", PERSISTENT, &[number]));
    peer.expect_confirms(6, 8);
    broker.kill();
    broker.restart();
    let mut peer = Peer::open(&broker);
    assert_eq!(peer.declare(1, Declare::passive("source")).0, 3);
    let mut found = Vec::new();
    eventually("five dead", || {
        found.extend(drain(&mut peer, "target").into_iter().map(|content| content.body[0]));
        (found.len() == 5).then_some(())
    });
    assert_eq!(found, [0, 1, 2, 3, 4]);
    let left: Vec<u8> = drain(&mut peer, "source").into_iter().map(|content| content.body[0]).collect();
    assert_eq!(left, [5, 6, 7]);
}

/// A dead letter exchange that is not there, and one that leads nowhere.
#[test]
fn dead_letters_that_nobody_takes_leave_nothing() {
    const BULK: u64 = 1000;
    const MIB: u64 = 1 << 20;
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare_exchange(1, "leads nowhere", "direct", true);
    let ttl = ("x-message-ttl", number(0));
    let queues = ["missing", "leads nowhere"];
    for (at, exchange) in queues.iter().enumerate() {
        for (kind, name) in [("classic", format!("classic {at}")), ("quorum", format!("quorum {at}"))] {
            let fields = [("x-queue-type", text(kind)), ("x-dead-letter-exchange", text(exchange)), ttl.clone()];
            peer.declare_with(1, Declare::durable(&name), table(&fields));
        }
    }
    let names = ["classic 0", "classic 1", "quorum 0", "quorum 1"];
    peer.confirm_select(1);
    let mut confirmed = 0;
    let mut send = |peer: &mut Peer, messages: u64| {
        for _ in 0..messages / BULK {
            let mut out = Vec::new();
            for message in 0..BULK {
                let name = names[(message % 4) as usize];
                write_publish(&mut out, 1, "", name, PERSISTENT, &[7; 100], peer.frame_max);
            }
            peer.octets(&out);
            peer.expect_confirms(confirmed + 1, confirmed + BULK);
            confirmed += BULK;
        }
        for name in names {
            eventually(name, || (peer.declare(1, Declare::passive(name)) == (0, 0)).then_some(()));
        }
    };
    send(&mut peer, 50_000);
    let before = broker.resident_bytes();
    send(&mut peer, scale("LEVERET_LOST_LETTERS", 200_000));
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < 24 * MIB, "{} MiB more", grown / MIB);
    broker.kill();
    broker.restart();
    let mut peer = Peer::open(&broker);
    for name in names {
        assert_eq!(peer.declare(1, Declare::passive(name)), (0, 0), "{name}");
    }
}

// ── Full queues ───────────────────────────────────────────────────────────────────────────────────────────────────

/// Publishers to two queues of one message each that dead-letter into each other. Every publish is answered, and in the
/// end each queue holds one.
fn full_queues_answer(queue: &[(&str, AMQPValue)]) {
    const PUBLISHERS: u64 = 4;
    const MESSAGES: u64 = 2000;
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for (name, other) in [("a", "b"), ("b", "a")] {
        let mut arguments = table(queue);
        arguments.insert("x-max-length".into(), number(1));
        arguments.insert("x-dead-letter-exchange".into(), text(""));
        arguments.insert("x-dead-letter-routing-key".into(), text(other));
        peer.declare_with(1, Declare::durable(name), arguments);
    }
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let mut peer = Peer::open(&broker);
            std::thread::spawn(move || {
                peer.confirm_select(1);
                let mut answered = 0;
                for first in (0..MESSAGES).step_by(50) {
                    let mut out = Vec::new();
                    for message in first..first + 50 {
                        let queue = if (message + publisher).is_multiple_of(2) { "a" } else { "b" };
                        write_publish(&mut out, 1, "", queue, PERSISTENT, &message.to_be_bytes(), peer.frame_max);
                    }
                    peer.octets(&out);
                    while answered < first + 50 {
                        answered = match peer.next() {
                            Incoming::Method(_, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => ack.delivery_tag,
                            Incoming::Method(_, AMQPClass::Basic(basic::AMQPMethod::Nack(nack))) => nack.delivery_tag,
                            other => panic!("expected an answer to a publish, not {other:?}"),
                        };
                    }
                }
                peer.close();
            })
        })
        .collect();
    publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    for name in ["a", "b"] {
        assert_eq!(peer.declare(1, Declare::passive(name)).0, 1, "{name}");
    }
}

#[test]
fn two_full_queues_that_drop_their_heads_into_each_other_never_lock_up() {
    full_queues_answer(&[]);
    full_queues_answer(&[("x-queue-type", text("quorum"))]);
}

#[test]
fn two_full_queues_that_turn_messages_away_to_each_other_never_lock_up() {
    full_queues_answer(&[("x-overflow", text("reject-publish-dlx"))]);
}

// ── Over a restart ────────────────────────────────────────────────────────────────────────────────────────────────

fn restart(broker: &mut Broker, clean: bool) {
    if clean {
        assert!(broker.stop().success());
    } else {
        broker.kill();
    }
    broker.restart();
}

/// Messages with three seconds to live, of which more than two are over when the broker comes back.
fn deadlines_stand(clean: bool) {
    const LIFE: Duration = Duration::from_secs(3);
    let (queue_ttl, quorum) = (("x-message-ttl", number(3000)), ("x-queue-type", text("quorum")));
    let queues = [
        ("own", vec![]),
        ("of queue", vec![queue_ttl.clone()]),
        ("quorum", vec![quorum.clone()]),
        ("of quorum queue", vec![quorum, queue_ttl]),
    ];
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("target"));
    for (name, arguments) in &queues {
        peer.declare_with(1, Declare::durable(name), to_target(arguments));
    }
    peer.confirm_select(1);
    let published = Instant::now();
    for (name, arguments) in &queues {
        let own = arguments.iter().all(|(key, _)| *key != "x-message-ttl");
        peer.publish(1, name, &persistent(None, own.then_some("3000")), name.as_bytes());
    }
    peer.expect_confirms(1, queues.len() as u64);
    peer.close();
    std::thread::sleep(Duration::from_millis(2200).saturating_sub(published.elapsed()));
    let stopped = Instant::now();
    restart(&mut broker, clean);
    let mut peer = Peer::open(&broker);
    for (name, _) in &queues {
        let ready = peer.declare(1, Declare::passive(name)).0;
        assert!(ready == 1 || published.elapsed() > LIFE - Duration::from_millis(5), "{name} expired before its time");
    }
    peer.consume(1, "target", "c", true);
    for _ in &queues {
        let content = peer.expect_delivery();
        let name = String::from_utf8(content.body).unwrap();
        assert!(published.elapsed() > LIFE - Duration::from_millis(5), "{name} expired before its time");
        // With a new life from the restart on it would not be here yet.
        assert!(stopped.elapsed() < LIFE, "{name} expired {:?} after it was published", published.elapsed());
    }
}

#[test]
fn deadlines_stand_over_a_clean_restart() {
    deadlines_stand(true);
}

#[test]
fn deadlines_stand_over_kill_9() {
    deadlines_stand(false);
}

#[test]
fn what_expired_while_the_broker_was_away_is_never_delivered() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("target"));
    peer.declare_with(1, Declare::durable("source"), to_target(&[]));
    peer.confirm_select(1);
    for number in 0..100_u64 {
        let expiration = (number % 2 == 0).then_some("300");
        peer.publish(1, "source", &persistent(None, expiration), &number.to_be_bytes());
    }
    peer.expect_confirms(1, 100);
    broker.kill();
    std::thread::sleep(Duration::from_millis(350));
    broker.restart();
    let mut peer = Peer::open(&broker);
    let numbers = |contents: &[Content]| contents.iter().map(number_of).collect::<Vec<_>>();
    let (even, odd) = (0..100).partition::<Vec<u64>, _>(|number| number % 2 == 0);
    assert_eq!(numbers(&drain(&mut peer, "source")), odd);
    let mut dead = Vec::new();
    eventually("all dead letters", || {
        dead.extend(drain(&mut peer, "target"));
        (dead.len() == even.len()).then_some(())
    });
    assert_eq!(numbers(&dead), even);
}

#[test]
fn priorities_stand_over_a_restart() {
    // The queue's levels end at 5; a quorum queue has 0 to 31, and 4 without the property.
    let published = [Some(0), None, Some(9), Some(5), Some(1), None, Some(0), Some(9)];
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let queues = [
        ("classic", ("x-max-priority", number(5)), [2, 3, 7, 4, 0, 1, 5, 6]),
        ("quorum", ("x-queue-type", text("quorum")), [2, 7, 3, 1, 5, 4, 0, 6]),
    ];
    peer.confirm_select(1);
    for (at, (name, argument, _)) in (0_u64..).zip(&queues) {
        peer.declare_with(1, Declare::durable(name), table(std::slice::from_ref(argument)));
        for (priority, body) in published.into_iter().zip(0_u8..) {
            peer.publish(1, name, &persistent(priority, None), &[body]);
        }
        peer.expect_confirms(1 + at * 8, 8 + at * 8);
    }
    for clean in [true, false] {
        restart(&mut broker, clean);
        let mut peer = Peer::open(&broker);
        for (name, _, expected) in &queues {
            let found: Vec<u8> = (0..8).map(|_| peer.get(1, name, false).unwrap().body[0]).collect();
            assert_eq!(found, *expected, "{name}, clean: {clean}");
            assert_eq!(peer.get(1, name, false), None);
        }
    }
}

#[test]
fn delivery_counts_stand_over_a_restart() {
    for clean in [true, false] {
        let mut broker = Broker::start();
        let mut peer = Peer::open(&broker);
        peer.declare_with(1, Declare::durable("q"), table(&[("x-queue-type", text("quorum"))]));
        peer.confirm_select(1);
        (0..3_u8).for_each(|body| peer.publish(1, "q", PERSISTENT, &[body]));
        peer.expect_confirms(1, 3);
        // The first is rejected three times, the second once, and each given back once; the last never goes out.
        for _ in 0..3 {
            let tag = peer.get(1, "q", false).unwrap().tag;
            peer.reject(1, tag, true);
        }
        let (first, second) = (peer.get(1, "q", false).unwrap(), peer.get(1, "q", false).unwrap());
        peer.reject(1, second.tag, true);
        let second = peer.get(1, "q", false).unwrap();
        peer.nack(1, second.tag, false, true);
        peer.nack(1, first.tag, false, true);
        // A confirm says that everything before it is safe.
        peer.publish(1, "q", PERSISTENT, &[3]);
        peer.expect_confirms(4, 4);
        peer.close();
        restart(&mut broker, clean);
        let mut peer = Peer::open(&broker);
        let mut found: Vec<_> = drain(&mut peer, "q").iter().map(|one| (one.body[0], headers(one, 0))).collect();
        // In which order they had come back is not on disk.
        found.sort();
        let expected = ["x-acquired-count=4 x-delivery-count=3", "x-acquired-count=2 x-delivery-count=1", "", ""]
            .map(String::from);
        assert_eq!(found, (0..).zip(expected).collect::<Vec<_>>(), "clean: {clean}");
    }
}

#[test]
fn an_unused_queue_expires_after_a_restart_and_not_at_it() {
    const EXPIRES: Duration = Duration::from_millis(1500);
    for clean in [true, false] {
        let mut broker = Broker::start();
        let mut peer = Peer::open(&broker);
        peer.declare(1, Declare::durable("target"));
        peer.declare_with(1, Declare::durable("q"), to_target(&[("x-expires", number(1500))]));
        peer.confirm_select(1);
        peer.publish(1, "q", PERSISTENT, b"m");
        peer.expect_confirms(1, 1);
        if clean {
            assert!(broker.stop().success());
        } else {
            broker.kill();
        }
        std::thread::sleep(EXPIRES);
        broker.restart();
        // The time starts anew with the broker (RabbitMQ: "Queue TTL").
        let restarted = Instant::now();
        let mut peer = Peer::open(&broker);
        assert_eq!(peer.declare(1, Declare::passive("q")).0, 1, "clean: {clean}");
        // Whether it is there is asked by publishes that come back if not: they do not count as use.
        peer.confirm_select(1);
        let mut sequence = 0;
        eventually("the queue's end", || {
            let mut out = Vec::new();
            method::write_publish(&mut out, 1, "", "q", true);
            super::support::peer::write_header(&mut out, 1, 0, PERSISTENT);
            peer.octets(&out);
            sequence += 1;
            match peer.next() {
                Incoming::Method(_, AMQPClass::Basic(basic::AMQPMethod::Ack(_))) => None,
                Incoming::Method(_, AMQPClass::Basic(basic::AMQPMethod::Return(back))) => {
                    assert_eq!(back.reply_code, 312);
                    Some(())
                }
                other => panic!("expected basic.ack or basic.return, not {other:?}"),
            }
        });
        assert!(restarted.elapsed() >= EXPIRES, "it expired {:?} after the restart", restarted.elapsed());
        // What was in it is gone, and no dead letter.
        let mut peer = Peer::open(&broker);
        assert_eq!(peer.declare(1, Declare::passive("target")).0, 0);
        // Nor does it come back.
        restart(&mut broker, !clean);
        let mut peer = Peer::open(&broker);
        peer.method(1, declare_queue(Declare::passive("q"), FieldTable::default()));
        peer.expect_channel_close(1, 404, "NOT_FOUND - no queue 'q'");
    }
}

// ── Consumers that take too long ──────────────────────────────────────────────────────────────────────────────────

/// A quorum queue with a message and a time to acknowledge it, durable over a restart of the broker.
fn slow_queue(broker: &mut Broker) {
    let mut peer = Peer::open(broker);
    let arguments = table(&[("x-queue-type", text("quorum")), ("x-consumer-timeout", number(200))]);
    peer.declare_with(1, Declare::durable("q"), arguments);
    peer.confirm_select(1);
    peer.publish(1, "q", PERSISTENT, b"m");
    peer.expect_confirms(1, 1);
    restart(broker, true);
}

/// The message is there for others, and shows that it came back.
fn expect_returned(broker: &Broker) {
    let mut other = Peer::open(broker);
    let content = eventually("the message", || other.get(1, "q", false));
    assert_eq!((content.body.as_slice(), content.redelivered), (&b"m"[..], true));
    assert_eq!(headers(&content, 0), "x-acquired-count=1 x-delivery-count=1");
    other.ack(1, content.tag, false);
    other.close();
}

#[test]
fn a_consumer_that_takes_too_long_is_cancelled_and_its_message_returns() {
    let mut broker = Broker::start();
    slow_queue(&mut broker);
    let mut peer = Peer::open_capable(&broker, &["consumer_cancel_notify"]);
    let began = Instant::now();
    peer.consume(1, "q", "slow", false);
    let tag = peer.expect_delivery().tag;
    let cancel = basic::Cancel { consumer_tag: "slow".into(), nowait: true };
    peer.expect(1, &AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)));
    // Less the millisecond that clocks are read in.
    assert!(began.elapsed() > Duration::from_millis(199), "cancelled after {:?}", began.elapsed());
    expect_returned(&broker);
    // The channel lives on, and consumes again. What it acknowledges now is no longer its own.
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 0));
    peer.publish(1, "q", PERSISTENT, b"next");
    peer.consume(1, "q", "slow", false);
    let next = peer.expect_delivery();
    assert_eq!(next.body, b"next");
    assert!(next.tag > tag);
    peer.ack(1, next.tag, false);
    peer.close();
}

#[test]
fn a_client_that_knows_no_cancel_loses_its_channel_when_it_takes_too_long() {
    let mut broker = Broker::start();
    slow_queue(&mut broker);
    let mut peer = Peer::open(&broker);
    peer.consume(1, "q", "slow", false);
    peer.expect_delivery();
    peer.expect_channel_close(1, 406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out");
    expect_returned(&broker);
    peer.open_channel(1);
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 0));
}
