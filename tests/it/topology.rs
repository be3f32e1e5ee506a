//! Queues, exchanges and bindings that come and go, and the ways that lead through them.

use super::support::peer::{Incoming, PERSISTENT, PLAIN, bind_queue, declare_queue, write_header, write_publish};
use super::support::{Broker, Declare, Peer, eventually, scale};
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::method;
use leveret_checker::body::body;

const MIB: u64 = 1 << 20;

fn exchange(name: &str, kind: &str, alternate: Option<&str>, auto_delete: bool) -> AMQPClass {
    let mut arguments = FieldTable::default();
    if let Some(alternate) = alternate {
        arguments.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.into()));
    }
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: name.into(),
        kind: kind.into(),
        passive: false,
        durable: true,
        auto_delete,
        internal: false,
        nowait: false,
        arguments,
    }))
}

fn declare_exchange(peer: &mut Peer, name: &str, kind: &str, alternate: Option<&str>) {
    peer.method(1, exchange(name, kind, alternate, false));
    peer.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})));
}

fn is_there(peer: &mut Peer, passive: &AMQPClass) -> bool {
    peer.method(1, passive.clone());
    match peer.next() {
        Incoming::Method(1, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
            assert_eq!(close.reply_code, 404, "{close:?}");
            peer.method(1, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
            peer.open_channel(1);
            false
        }
        Incoming::Method(1, _) => true,
        other => panic!("{other:?}"),
    }
}

fn has_queue(peer: &mut Peer, name: &str) -> bool {
    is_there(peer, &declare_queue(Declare::passive(name), FieldTable::default()))
}

fn has_exchange(peer: &mut Peer, name: &str) -> bool {
    let AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)) = exchange(name, "fanout", None, false) else {
        unreachable!()
    };
    let passive = exchange::Declare { passive: true, ..declare };
    is_there(peer, &AMQPClass::Exchange(exchange::AMQPMethod::Declare(passive)))
}

fn bind_exchange(peer: &mut Peer, destination: &str, source: &str) {
    let bind = exchange::Bind {
        destination: destination.into(),
        source: source.into(),
        routing_key: "k".into(),
        nowait: false,
        arguments: FieldTable::default(),
    };
    peer.method(1, AMQPClass::Exchange(exchange::AMQPMethod::Bind(bind)));
    peer.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::BindOk(exchange::BindOk {})));
}

fn delete_exchange(name: &str, if_unused: bool) -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Delete(exchange::Delete {
        exchange: name.into(),
        if_unused,
        nowait: false,
    }))
}

fn exchange_deleted() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {}))
}

fn unbind(queue: &str, exchange: &str, routing_key: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        arguments: FieldTable::default(),
    }))
}

fn unbound() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {}))
}

fn publish(peer: &mut Peer, exchange: &str, key: &str, body: &[u8]) {
    let mut out = Vec::new();
    write_publish(&mut out, 1, exchange, key, PLAIN, body, peer.frame_max);
    peer.octets(&out);
}

#[test]
fn exchanges_that_are_used_or_the_brokers_own_stay() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let refused = |peer: &mut Peer, method: AMQPClass, code: u16, text: &str| {
        peer.method(1, method);
        peer.expect_channel_close(1, code, text);
        peer.open_channel(1);
    };
    for name in ["source", "destination"] {
        declare_exchange(&mut peer, name, "direct", None);
    }
    bind_exchange(&mut peer, "destination", "source");
    let in_use = "PRECONDITION_FAILED - exchange 'source' in vhost '/' in use";
    refused(&mut peer, delete_exchange("source", true), 406, in_use);
    // Who is only bound to another is not used by it.
    peer.method(1, delete_exchange("destination", true));
    peer.expect(1, &exchange_deleted());
    peer.method(1, delete_exchange("source", true));
    peer.expect(1, &exchange_deleted());
    for name in ["amq.direct", "amq.topic", "amq.rabbitmq.trace"] {
        let text = format!("ACCESS_REFUSED - deletion of system exchange '{name}' in vhost '/' not allowed");
        refused(&mut peer, delete_exchange(name, false), 403, &text);
    }
    let default = "ACCESS_REFUSED - operation not permitted on the default exchange";
    refused(&mut peer, delete_exchange("", false), 403, default);
    refused(&mut peer, exchange("", "direct", None, false), 403, default);
    peer.declare(1, Declare::transient("q"));
    let bind = queue::Bind {
        queue: "q".into(),
        exchange: "".into(),
        routing_key: "other".into(),
        nowait: false,
        arguments: FieldTable::default(),
    };
    refused(&mut peer, AMQPClass::Queue(queue::AMQPMethod::Bind(bind)), 403, default);
    refused(&mut peer, unbind("q", "", "q"), 403, default);
    peer.publish(1, "q", PLAIN, b"m");
    assert_eq!(peer.get(1, "q", true).unwrap().body, b"m");
}

#[test]
fn what_is_not_there_is_deleted_and_unbound_all_the_same() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    for _ in 0..2 {
        peer.method(1, unbind("q", "amq.direct", "never"));
        peer.expect(1, &unbound());
        peer.delete_queue(1, "missing");
        peer.method(1, delete_exchange("missing", true));
        peer.expect(1, &exchange_deleted());
    }
    peer.bind(1, "q", "amq.direct", "k");
    for _ in 0..2 {
        peer.method(1, unbind("q", "amq.direct", "k"));
        peer.expect(1, &unbound());
    }
    for _ in 0..2 {
        peer.delete_queue(1, "q");
    }
}

#[test]
fn what_deletes_itself_goes_once_however_many_leave_together() {
    let broker = Broker::start();
    let mut watcher = Peer::open(&broker);
    for round in 0..scale("LEVERET_LEAVINGS", 30) {
        watcher.declare(1, Declare { name: "shared", auto_delete: true, ..Declare::default() });
        watcher.method(1, exchange("passing", "fanout", None, true));
        watcher.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})));
        let peers: Vec<Peer> = (0..6)
            .map(|number| {
                let mut peer = Peer::open(&broker);
                let name = format!("own{number}");
                peer.declare(1, Declare { name: &name, exclusive: true, ..Declare::default() });
                peer.bind(1, &name, "passing", "");
                peer.consume(1, "shared", "c", false);
                peer
            })
            .collect();
        publish(&mut watcher, "", "shared", b"m");
        // All at once: some with a good-bye, some without.
        std::thread::scope(|scope| {
            for (at, peer) in peers.into_iter().enumerate() {
                scope.spawn(move || if at % 2 == 0 { peer.vanish() } else { close_anyhow(peer) });
            }
        });
        eventually("the end of the queue", || (!has_queue(&mut watcher, "shared")).then_some(()));
        eventually("the end of the exchange", || (!has_exchange(&mut watcher, "passing")).then_some(()));
        // The next of that name is not ended by somebody who is late.
        watcher.declare(1, Declare { name: "shared", auto_delete: true, ..Declare::default() });
        publish(&mut watcher, "", "shared", b"next");
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert_eq!(watcher.get(1, "shared", true).unwrap().body, b"next", "round {round}");
        watcher.delete_queue(1, "shared");
    }
}

/// Says good-bye, whatever still comes before the answer.
fn close_anyhow(mut peer: Peer) {
    peer.say_close();
    let closed = AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
    while peer.next() != Incoming::Method(0, closed.clone()) {}
}

#[test]
fn a_name_that_is_taken_anew_is_not_ended_with_its_old_owner() {
    let broker = Broker::start();
    let mine = Declare { name: "mine", exclusive: true, ..Declare::default() };
    let mut watcher = Peer::open(&broker);
    let mut owner = Peer::open(&broker);
    owner.declare(1, mine);
    for round in 0..scale("LEVERET_OWNERS", 100) {
        let mut next = Peer::open(&broker);
        owner.vanish();
        // As one that connects again at once: locked until the old owner's end was noticed.
        loop {
            next.method(1, declare_queue(mine, FieldTable::default()));
            match next.next() {
                Incoming::Method(1, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_))) => break,
                Incoming::Method(1, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                    assert_eq!(close.reply_code, 405, "{close:?}");
                    next.method(1, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
                    next.open_channel(1);
                }
                other => panic!("{other:?}"),
            }
        }
        publish(&mut watcher, "", "mine", &[round as u8]);
        watcher.qos(1, 0);
        std::thread::sleep(std::time::Duration::from_millis(round % 4));
        assert_eq!(next.get(1, "mine", true).expect("its message").body, [round as u8]);
        owner = next;
    }
}

#[test]
fn bindings_end_with_what_does_not_survive() {
    for clean in [true, false] {
        let mut broker = Broker::start();
        let mut peer = Peer::open(&broker);
        declare_exchange(&mut peer, "kept", "fanout", None);
        peer.declare_exchange(1, "lost", "fanout", false);
        peer.declare(1, Declare::durable("kept"));
        peer.declare(1, Declare::transient("lost"));
        peer.declare(1, Declare { name: "own", exclusive: true, durable: true, ..Declare::default() });
        for name in ["kept", "lost", "own"] {
            for exchange in ["kept", "lost"] {
                peer.bind(1, name, exchange, "");
            }
        }
        bind_exchange(&mut peer, "lost", "kept");
        bind_exchange(&mut peer, "kept", "lost");
        if clean {
            assert!(broker.stop().success());
        } else {
            broker.kill();
        }
        broker.restart();
        let mut peer = Peer::open(&broker);
        assert!(!has_exchange(&mut peer, "lost") && has_exchange(&mut peer, "kept"), "clean: {clean}");
        assert!(!has_queue(&mut peer, "lost") && !has_queue(&mut peer, "own"), "clean: {clean}");
        // What has the same name now is another.
        peer.declare(1, Declare::transient("lost"));
        peer.declare(1, Declare::transient("own"));
        peer.declare_exchange(1, "lost", "fanout", false);
        publish(&mut peer, "lost", "", b"to nobody");
        publish(&mut peer, "kept", "", b"m");
        let ready = ["kept", "lost", "own"].map(|name| peer.declare(1, Declare::passive(name)).0);
        assert_eq!(ready, [1, 0, 0], "clean: {clean}");
    }
}

#[test]
fn a_message_reaches_a_queue_once_whatever_ways_lead_there() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    let once = |peer: &mut Peer, exchange: &str, key: &str| {
        publish(peer, exchange, key, exchange.as_bytes());
        assert_eq!(peer.get(1, "q", true).unwrap().body, exchange.as_bytes(), "{exchange}");
        assert_eq!(peer.get(1, "q", true), None, "{exchange}: a second copy");
    };
    // Two bindings that match.
    for pattern in ["#", "a.*", "a.b"] {
        peer.bind(1, "q", "amq.topic", pattern);
    }
    once(&mut peer, "amq.topic", "a.b");
    // Straight and by another exchange, and round and round.
    for name in ["x", "y", "z"] {
        declare_exchange(&mut peer, name, "fanout", None);
        peer.bind(1, "q", name, "");
    }
    for (source, destination) in [("x", "y"), ("y", "z"), ("z", "x"), ("x", "x")] {
        bind_exchange(&mut peer, destination, source);
    }
    for name in ["x", "y", "z"] {
        once(&mut peer, name, "k");
    }
    // Alternates that lead on, and back to where they began.
    for (name, alternate) in
        [("a1", "a2"), ("a2", "a3"), ("a3", "amq.fanout"), ("c1", "c2"), ("c2", "c1"), ("m", "missing")]
    {
        declare_exchange(&mut peer, name, "direct", Some(alternate));
    }
    peer.bind(1, "q", "amq.fanout", "");
    once(&mut peer, "a1", "nowhere");
    for name in ["c1", "c2", "m"] {
        let mut out = Vec::new();
        method::write_publish(&mut out, 1, name, "nowhere", true);
        write_header(&mut out, 1, 0, PLAIN);
        peer.octets(&out);
        let Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Return(back))) = peer.next() else {
            panic!("{name}: not returned")
        };
        assert_eq!(back.reply_code, 312);
        peer.next();
        assert_eq!(peer.get(1, "q", true), None, "{name}");
    }
}

/// Rooms for large messages are given back when these are gone.
#[test]
fn large_messages_that_are_gone_leave_no_octets_on_the_disk() {
    const LARGE: usize = 6 << 20;
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    let messages = scale("LEVERET_LARGE_MESSAGES", 32);
    for number in 1..=messages {
        peer.publish(1, "q", PERSISTENT, &vec![number as u8; LARGE]);
        peer.expect_confirms(number, number);
    }
    let full = broker.octets_stored();
    assert!(full > messages * 6 * MIB, "{} MiB hold {messages} messages", full / MIB);
    for number in 1..=messages {
        assert!(peer.get(1, "q", true).unwrap().body == vec![number as u8; LARGE]);
    }
    // Its log goes when the next one begins, as everybody's.
    let mut number = messages;
    eventually("the room", || {
        number += 1;
        peer.publish(1, "q", PERSISTENT, &[0; 100_000]);
        peer.expect_confirms(number, number);
        peer.get(1, "q", true).unwrap();
        (broker.octets_stored() < 96 * MIB).then_some(())
    });
}

/// Nor do bindings that come and go for ever.
#[test]
fn bindings_that_are_gone_leave_no_octets_on_the_disk() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.bind(1, "q", "amq.topic", "kept");
    let rounds = scale("LEVERET_BINDING_CHANGES", 200_000) / 2_000;
    let mut written = 0;
    for round in 0..rounds {
        // Which no compression makes small.
        let key = |number| body(round * 1_000 + number, 100).iter().map(|octet| format!("{octet:02x}")).collect();
        let keys = (0..1_000).map(key);
        let (bound, unbound): (Vec<_>, Vec<_>) = keys
            .map(|key: String| {
                written += 2 * key.len() as u64;
                (bind_queue("q", "amq.topic", &key, FieldTable::default()), unbind("q", "amq.topic", &key))
            })
            .unzip();
        for methods in [bound, unbound] {
            let mut out = Vec::new();
            methods.iter().for_each(|class| method::write(&mut out, 1, class));
            peer.octets(&out);
            for _ in methods {
                assert!(matches!(peer.next(), Incoming::Method(1, AMQPClass::Queue(_))));
            }
        }
    }
    assert!(written > 30 * MIB);
    eventually("the room", || (broker.octets_stored() < 10 * MIB).then_some(()));
    broker.kill();
    broker.restart();
    assert!(broker.octets_read() < 10 * MIB, "{} MiB", broker.octets_read() / MIB);
    let mut peer = Peer::open(&broker);
    publish(&mut peer, "amq.topic", "kept", b"m");
    eventually("the message", || peer.get(1, "q", true).map(|_| ()));
}
