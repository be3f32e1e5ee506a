//! Who may do what, and from where.

use super::super::support::peer::{Incoming, PLAIN, declare_queue, write_publish};
use super::super::support::{Broker, Declare, Peer, eventually};
use super::{assert_alive, broker_with, declare_exchange, exchange_declared, permission, table, text, with_headers};
use amq_protocol::protocol::{AMQPClass, basic, channel, connection};
use amq_protocol::types::FieldTable;
use leveret::amqp::table::Writer;
use leveret::amqp::{PROTOCOL_HEADER, frame};

/// A broker with the users `owner`, who may do everything in the virtual host `/`, and `other`, whose patterns are given.
fn broker_of_two(configure: &str, write: &str, read: &str) -> Broker {
    let permissions = [permission("owner", "/", ".*", ".*", ".*"), permission("other", "/", configure, write, read)];
    broker_with(&["owner", "other"], &[], &permissions, "", &[])
}

#[test]
fn cve_2026_57221_a_passive_declaration_tells_nothing_to_those_without_rights() {
    let mut broker = broker_of_two("^mine$", "^writable$", "^readable$");
    let mut owner = Peer::open_as(&broker, "owner", "/");
    for name in ["secret", "mine", "writable", "readable"] {
        owner.declare(1, Declare::durable(name));
        owner.publish(1, name, PLAIN, b"message");
        owner.declare_exchange(1, name, "fanout", true);
    }
    let mut other = Peer::open_as(&broker, "other", "/");
    // Whether it is there or not: the answer is the same.
    for name in ["secret", "absent"] {
        other.method(1, declare_queue(Declare::passive(name), FieldTable::default()));
        let of_queue =
            format!("ACCESS_REFUSED - configure access to queue '{name}' in vhost '/' refused for user 'other'");
        other.expect_channel_close(1, 403, &of_queue);
        other.open_channel(1);
        other.method(1, declare_exchange(name, "fanout", FieldTable::default(), true));
        other.expect_channel_close(1, 403, &of_queue.replace("to queue", "to exchange"));
        other.open_channel(1);
    }
    // Any right at all is enough (RabbitMQ 4.2.7).
    for name in ["mine", "writable", "readable"] {
        assert_eq!(other.declare(1, Declare::passive(name)).0, 1);
        other.method(1, declare_exchange(name, "fanout", FieldTable::default(), true));
        other.expect(1, &exchange_declared());
    }
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_67241_an_alternate_or_dead_letter_exchange_needs_the_right_to_write_to_it() {
    let mut broker = broker_of_two("^mine", "^(mine|open$)", "^mine-readable");
    let mut owner = Peer::open_as(&broker, "owner", "/");
    for name in ["protected", "open"] {
        owner.declare_exchange(1, name, "fanout", true);
    }
    let mut other = Peer::open_as(&broker, "other", "/");
    let refused = |access: &str, kind: &str, name: &str| {
        format!("ACCESS_REFUSED - {access} access to {kind} '{name}' in vhost '/' refused for user 'other'")
    };
    // The exchange or queue itself must be readable, and the other exchange writable.
    let cases = [
        ("mine-readable", "protected", Some(("write", "exchange", "protected"))),
        ("mine", "open", Some(("read", "", "mine"))),
        ("mine-readable", "open", None),
    ];
    for (name, target, refusal) in cases {
        let alternate = table(&[("alternate-exchange", text(target))]);
        other.method(1, declare_exchange(name, "fanout", alternate, false));
        match refusal {
            None => other.expect(1, &exchange_declared()),
            Some((access, kind, at)) => {
                let kind = if kind.is_empty() { "exchange" } else { kind };
                other.expect_channel_close(1, 403, &refused(access, kind, at));
                other.open_channel(1);
            }
        }
        let dead = table(&[("x-dead-letter-exchange", text(target))]);
        other.method(1, declare_queue(Declare::durable(name), dead.clone()));
        match refusal {
            None => {
                other.next();
                other.declare_with(1, Declare::durable(name), dead);
            }
            Some((access, kind, at)) => {
                let kind = if kind.is_empty() { "queue" } else { kind };
                other.expect_channel_close(1, 403, &refused(access, kind, at));
                other.open_channel(1);
            }
        }
    }
    // What was refused is not there.
    owner.method(1, declare_queue(Declare::passive("mine"), FieldTable::default()));
    owner.expect_channel_close(1, 404, "NOT_FOUND - no queue 'mine'");
    assert_alive(&mut broker);
}

/// A broker on which each of these users may do everything in the virtual host `/`, but for its keys on the exchange
/// `amq.topic`, which `write` says.
fn broker_of_topics(users: &[&str], write: &str) -> Broker {
    let permissions: Vec<_> = users.iter().map(|user| permission(user, "/", ".*", ".*", ".*")).collect();
    let topics = users.iter().map(|user| {
        format!(r#"{{"user": "{user}", "vhost": "/", "exchange": "amq.topic", "write": "{write}", "read": ".*"}}"#)
    });
    let topics = topics.collect::<Vec<_>>().join(", ");
    broker_with(users, &[], &permissions, &format!(r#", "topic_permissions": [{topics}]"#), &[])
}

/// Publishes to `amq.topic` on channel 1, which is opened again if it was refused; says whether it was.
fn is_refused(peer: &mut Peer, key: &str, properties: &[u8]) -> bool {
    let mut out = Vec::new();
    write_publish(&mut out, 1, "amq.topic", key, properties, b"m", peer.frame_max);
    peer.octets(&out);
    peer.basic(1, basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 0, global: false }));
    match peer.next() {
        Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::QosOk(_))) => false,
        Incoming::Method(1, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
            assert_eq!(close.reply_code, 403, "{close:?}");
            assert!(close.reply_text.as_str().contains("write access to topic"), "{close:?}");
            peer.method(1, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
            peer.open_channel(1);
            true
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn cve_2026_57217_no_way_leads_to_another_tenants_routing_keys() {
    let broker = broker_of_topics(&["one", "two"], "^{username}\\\\.");
    let mut queue = Peer::open_as(&broker, "two", "/");
    queue.declare(1, Declare::durable("of-two"));
    queue.bind(1, "of-two", "amq.topic", "two.#");
    let mut one = Peer::open_as(&broker, "one", "/");
    let keys = |header: &str, keys: &[&str]| {
        let mut headers = Writer::default();
        headers.key(header).array(|items| keys.iter().for_each(|key| items.long_string(key.as_bytes())));
        with_headers(headers.octets())
    };
    assert!(!is_refused(&mut one, "one.a", PLAIN));
    // As the message's key, also once the route of an own key is remembered; as one of its copies' keys; by its start.
    for key in ["two.a", "", "onetwo.a", "two.one.", "\none.a"] {
        assert!(is_refused(&mut one, key, PLAIN), "{key}");
    }
    for header in ["CC", "BCC"] {
        assert!(!is_refused(&mut one, "one.a", &keys(header, &["one.b"])), "{header}");
        assert!(is_refused(&mut one, "one.a", &keys(header, &["one.b", "two.a"])), "{header}");
    }
    one.tx_select(1);
    assert!(is_refused(&mut one, "two.a", PLAIN));
    assert_eq!(queue.get(1, "of-two", true), None);
    // The other tenant's own are not refused.
    assert!(!is_refused(&mut queue, "two.a", PLAIN));
    assert!(queue.get(1, "of-two", true).is_some());
}

#[test]
fn cve_2026_44838_a_name_in_a_topic_pattern_is_no_pattern() {
    // A name that is a pattern itself, and one that would turn its neighbours into one.
    let names = ["a.c", ".*", "x|y", "(z", "{vhost}", "$"];
    let broker = broker_of_topics(&names, "^{username}-{vhost}$");
    for name in names {
        let mut peer = Peer::open_as(&broker, name, "/");
        assert!(!is_refused(&mut peer, &format!("{name}-/"), PLAIN), "{name}");
        for key in ["abc-/", "anything", "x", "y-/", "z-/", "/-/", "-/", ""] {
            assert!(is_refused(&mut peer, key, PLAIN), "{name}: {key}");
        }
    }
}

#[test]
fn cve_2026_67407_a_dash_in_a_name_is_no_range() {
    let broker = broker_of_topics(&["a-z"], "^[{username}]$");
    let mut peer = Peer::open_as(&broker, "a-z", "/");
    for key in ["a", "-", "z"] {
        assert!(!is_refused(&mut peer, key, PLAIN), "{key}");
    }
    for key in ["b", "m", "y", "a-z"] {
        assert!(is_refused(&mut peer, key, PLAIN), "{key}");
    }
}

#[test]
fn cve_2026_66067_a_users_limit_counts_whichever_way_in_and_out() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("definitions.json");
    let definitions = format!(
        r#"{{"users": [{{"name": "u", "password": "u", "tags": "", "limits": {{"max-connections": 3}}}},
                       {{"name": "guest", "password": "guest", "tags": ""}}],
             "vhosts": [{{"name": "/"}}, {{"name": "v", "limits": {{"max-connections": 2}}}}],
             "permissions": [{}, {}]}}"#,
        permission("u", "/", ".*", ".*", ".*"),
        permission("u", "v", ".*", ".*", ".*")
    );
    std::fs::write(&file, definitions).unwrap();
    let mut broker = Broker::with(&["--definitions", file.to_str().unwrap()]);
    let user = "NOT_ALLOWED - connection refused for user 'u': user connection limit (3) is reached";
    let vhost = "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (2) is reached";
    let in_v = [Peer::open_as(&broker, "u", "v"), Peer::open_as(&broker, "u", "v")];
    Peer::knock(&broker, "u", "v").expect_connection_close(530, vhost);
    let mut elsewhere = Peer::open_as(&broker, "u", "/");
    Peer::knock(&broker, "u", "/").expect_connection_close(530, user);
    // However connections end, each is counted out once: closed, closed by the broker, vanished, half-way in.
    elsewhere.frame(frame::HEARTBEAT, 1, b"");
    elsewhere.expect_connection_close(505, "UNEXPECTED_FRAME");
    let [closed, vanished] = in_v;
    closed.close();
    vanished.vanish();
    for _ in 0..20 {
        Peer::knock(&broker, "u", "nowhere").expect_connection_close(530, "NOT_ALLOWED - vhost nowhere not found");
    }
    let open = |vhost: &str| {
        eventually("a free place", || {
            let mut peer = Peer::knock(&broker, "u", vhost);
            matches!(peer.next(), Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::OpenOk(_))))
                .then_some(peer)
        })
    };
    let all = [open("v"), open("v"), open("/")];
    Peer::knock(&broker, "u", "/").expect_connection_close(530, user);
    drop(all);
    // A crash leaves no count behind.
    broker.kill();
    broker.restart();
    let _all = [Peer::open_as(&broker, "u", "v"), Peer::open_as(&broker, "u", "v"), Peer::open_as(&broker, "u", "/")];
    Peer::knock(&broker, "u", "/").expect_connection_close(530, user);
}

/// A broker that believes proxies on this machine.
fn behind_a_proxy(flags: &[&str]) -> Broker {
    let proxy = ["--proxy-protocol=true", "--proxy-protocol-trusted", "127.0.0.1"];
    Broker::with(&[&proxy[..], flags].concat())
}

/// Whether `guest`, who may only come from this machine, is let in with these octets in front.
fn lets_guest_in(broker: &Broker, header: &[u8]) -> bool {
    let mut peer = Peer::silent(broker);
    peer.octets(header);
    peer.octets(PROTOCOL_HEADER);
    let Some(start) = peer.try_next() else { return false };
    assert!(matches!(start, Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Start(_)))));
    peer.start_ok("PLAIN", b"\0guest\0guest", FieldTable::default());
    peer.try_next().is_some()
}

#[test]
fn cve_2026_57216_where_somebody_is_counts_and_not_where_they_arrive() {
    let mut broker = behind_a_proxy(&[]);
    // From elsewhere to this machine's own address is from elsewhere, from here to any other from here.
    for header in [
        &b"PROXY TCP4 198.51.100.7 127.0.0.1 51234 5672\r\n"[..],
        b"PROXY TCP6 2001:db8::7 ::1 51234 5672\r\n",
        b"PROXY TCP6 ::ffff:198.51.100.7 ::ffff:127.0.0.1 51234 5672\r\n",
    ] {
        assert!(!lets_guest_in(&broker, header), "{}", String::from_utf8_lossy(header));
    }
    for header in [
        &b"PROXY TCP4 127.0.0.1 198.51.100.7 51234 5672\r\n"[..],
        b"PROXY TCP6 ::1 2001:db8::7 51234 5672\r\n",
        b"PROXY TCP6 ::ffff:127.0.0.1 ::ffff:198.51.100.7 51234 5672\r\n",
    ] {
        assert!(lets_guest_in(&broker, header), "{}", String::from_utf8_lossy(header));
    }
    assert!(broker.is_running());
    // The same without a proxy, where this machine has another address: packets to it come from it.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("192.0.2.1:9").is_ok() {
        let own = socket.local_addr().unwrap().ip();
        let broker = Broker::with(&["--bind", &own.to_string()]);
        let mut peer = Peer::silent_at(broker.listener_on(own));
        peer.octets(PROTOCOL_HEADER);
        peer.expect_start();
        peer.start_ok("PLAIN", b"\0guest\0guest", FieldTable::default());
        peer.expect_eof();
    }
}

#[test]
fn cve_2026_67411_what_a_proxy_says_counts_for_the_loopback_users_and_only_if_it_is_trusted() {
    const AFAR: &[u8] = b"PROXY TCP4 198.51.100.7 203.0.113.1 51234 5672\r\n";
    const HERE: &[u8] = b"PROXY TCP4 127.0.0.1 127.0.0.1 51234 5672\r\n";
    // Version 2, TCP over IPv4, from 198.51.100.7 to 127.0.0.1.
    const AFAR_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\x7f\0\0\x01\xc8\x22\x16\x28";
    let broker = behind_a_proxy(&[]);
    assert!(lets_guest_in(&broker, HERE));
    assert!(!lets_guest_in(&broker, AFAR));
    assert!(!lets_guest_in(&broker, AFAR_2));
    // A second header is none, and a proxy that is not trusted says nothing that counts.
    assert!(!lets_guest_in(&broker, &[AFAR, HERE].concat()));
    let strict = Broker::with(&["--proxy-protocol=true", "--proxy-protocol-trusted", "198.51.100.0/24"]);
    let mut peer = Peer::silent(&strict);
    let _ = peer.try_octets(&[HERE, PROTOCOL_HEADER].concat());
    peer.expect_eof();
    // Where no proxy is expected, whoever says so is no client at all.
    let plain = Broker::start();
    let mut peer = Peer::silent(&plain);
    let _ = peer.try_octets(HERE);
    assert!(!peer.rest().starts_with(&[1]));
}
