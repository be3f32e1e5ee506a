//! What is counted of messages' ends, of what each channel does with each queue and exchange, and of who logs in from where.

use super::support::metrics::{scrape, value};
use super::support::peer::{PERSISTENT, PLAIN, write_publish};
use super::support::tls::{Authority, Files, session, settings};
use super::support::{Api, Broker, Declare, Peer, eventually};
use amq_protocol::types::{AMQPValue, FieldTable};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;

fn start(flags: &[&str]) -> (Broker, u16) {
    let broker = Broker::with(&[&["--http-port=0", "--metrics-port=127.0.0.1:0"], flags].concat());
    let port = broker.metrics_port();
    (broker, port)
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in entries {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn publish_to(peer: &mut Peer, exchange: &str, key: &str, properties: &[u8]) {
    let mut out = Vec::new();
    write_publish(&mut out, 1, exchange, key, properties, b"m", peer.frame_max);
    peer.octets(&out);
}

fn get_all(peer: &mut Peer, queue: &str) -> Vec<u64> {
    std::iter::from_fn(|| peer.get(1, queue, false)).map(|got| got.tag).collect()
}

#[test]
fn dead_letters_are_counted_by_reason_and_what_becomes_of_them() {
    let (broker, port) = start(&[]);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("dead"));
    let to_dead = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("dead"))];
    let with = |more: &[(&str, AMQPValue)]| table(&[&to_dead[..], more].concat());
    let quorum = ("x-queue-type", text("quorum"));
    // A classic queue: two too many, one rejected, and what is left expires with nobody to take it.
    peer.declare_with(1, Declare::durable("short"), with(&[("x-max-length", AMQPValue::LongInt(3))]));
    (0..5).for_each(|_| publish_to(&mut peer, "", "short", PLAIN));
    let got = peer.get(1, "short", false).unwrap();
    peer.reject(1, got.tag, false);
    peer.declare_with(1, Declare::durable("brief"), table(&[("x-message-ttl", AMQPValue::LongInt(1))]));
    (0..4).for_each(|_| publish_to(&mut peer, "", "brief", PLAIN));
    // A quorum queue whose messages come back too often, and one that keeps its dead until they are taken.
    peer.declare_with(
        1,
        Declare::durable("often"),
        with(&[quorum.clone(), ("x-delivery-limit", AMQPValue::LongInt(1))]),
    );
    publish_to(&mut peer, "", "often", PERSISTENT);
    for _ in 0..2 {
        let got = eventually("a message", || peer.get(1, "often", false));
        peer.reject(1, got.tag, true);
    }
    let kept =
        [quorum.clone(), ("x-dead-letter-strategy", text("at-least-once")), ("x-overflow", text("reject-publish"))];
    peer.declare_with(1, Declare::durable("kept"), with(&kept));
    publish_to(&mut peer, "", "kept", PERSISTENT);
    let got = eventually("a message", || peer.get(1, "kept", false));
    peer.reject(1, got.tag, false);
    // What is held back is not dead.
    let body = json!({"type": "x-delayed-message", "arguments": {"x-delayed-type": "fanout"}});
    assert_eq!(Api::of(&broker).put("/api/exchanges/%2F/later", body).status, 201);
    let message = json!({"routing_key": "", "payload": "m", "payload_encoding": "string",
        "properties": {"headers": {"x-delay": 1}}});
    assert_eq!(Api::of(&broker).post("/api/exchanges/%2F/later/publish", message).status, 200);
    eventually("all dead", || {
        let is_empty = peer.get(1, "brief", false).is_none();
        (is_empty && peer.declare(1, Declare::passive("dead")).0 == 5).then_some(())
    });
    eventually("the counts", || {
        let metrics = scrape(&broker, port, "/metrics");
        let dead = |reason: &str, kind: &str, strategy: &str| {
            let name = format!("rabbitmq_global_messages_dead_lettered_{reason}_total");
            let labels = [("queue_type", kind), ("dead_letter_strategy", strategy)];
            value(&metrics, &name, &labels)
        };
        let (classic, quorum) = ("rabbit_classic_queue", "rabbit_quorum_queue");
        let counted = [
            dead("maxlen", classic, "at_most_once"),
            dead("maxlen", classic, "disabled"),
            dead("rejected", classic, "at_most_once"),
            dead("expired", classic, "disabled"),
            dead("expired", classic, "at_most_once"),
            dead("delivery_limit", quorum, "at_most_once"),
            dead("rejected", quorum, "at_least_once"),
            dead("confirmed", quorum, "at_least_once"),
        ];
        (counted == [2.0, 0.0, 1.0, 4.0, 0.0, 1.0, 1.0, 1.0]).then_some(())
    });
}

#[test]
fn how_often_messages_of_quorum_queues_went_out_is_counted_when_they_are_acknowledged() {
    let (broker, port) = start(&[]);
    let mut peer = Peer::open(&broker);
    peer.declare_with(1, Declare::durable("q"), table(&[("x-queue-type", text("quorum"))]));
    peer.declare(1, Declare::durable("classic"));
    peer.confirm_select(1);
    (0..3).for_each(|_| publish_to(&mut peer, "", "q", PERSISTENT));
    publish_to(&mut peer, "", "classic", PERSISTENT);
    peer.expect_confirms(1, 4);
    // The first comes back twice, the others not at all.
    for _ in 0..2 {
        let got = peer.get(1, "q", false).unwrap();
        peer.nack(1, got.tag, false, true);
    }
    let tags = get_all(&mut peer, "q");
    assert_eq!(tags.len(), 3);
    tags.iter().for_each(|tag| peer.ack(1, *tag, false));
    let got = peer.get(1, "classic", false).unwrap();
    peer.ack(1, got.tag, false);
    assert_eq!(peer.declare(1, Declare::passive("q")).0, 0);
    let metrics = scrape(&broker, port, "/metrics");
    let upto = |limit: &str| value(&metrics, "leveret_message_deliveries", &[("le", limit)]);
    assert_eq!([upto("1"), upto("2"), upto("3"), upto("+Inf")], [2.0, 2.0, 3.0, 3.0]);
    let sum = metrics["leveret_message_deliveries"].samples.iter().find(|(name, ..)| name.ends_with("_sum")).unwrap();
    assert_eq!(sum.2, 5.0);
}

#[test]
fn what_a_channel_does_with_each_queue_and_exchange_is_told_apart() {
    let (broker, port) = start(&[]);
    let mut peer = Peer::open(&broker);
    for queue in ["a", "b"] {
        peer.declare(1, Declare::durable(queue));
        peer.bind(1, queue, "amq.direct", queue);
    }
    peer.confirm_select(1);
    // Alternating between two exchanges on the way to one queue: one run holds messages of both.
    let mut out = Vec::new();
    for _ in 0..3 {
        write_publish(&mut out, 1, "", "a", PLAIN, b"m", peer.frame_max);
        write_publish(&mut out, 1, "amq.direct", "a", PLAIN, b"m", peer.frame_max);
    }
    write_publish(&mut out, 1, "amq.direct", "b", PERSISTENT, b"m", peer.frame_max);
    write_publish(&mut out, 1, "amq.direct", "nowhere", PLAIN, b"m", peer.frame_max);
    peer.octets(&out);
    peer.expect_confirms(1, 8);
    peer.consume(1, "a", "c", true);
    (0..6).for_each(|_| drop(peer.expect_delivery()));
    let got = peer.get(1, "b", false).unwrap();
    peer.ack(1, got.tag, false);
    assert!(peer.get(1, "b", false).is_none());
    let families = "family=channel_queue_metrics&family=channel_exchange_metrics&family=exchange_metrics";
    eventually("the counts", || {
        let metrics = scrape(&broker, port, &format!("/metrics/detailed?{families}"));
        let channel = format!("127.0.0.1:{} -> 127.0.0.1:{} (1)", peer.ports().0, peer.ports().1);
        let of = |name: &str, label: &str, what: &str| {
            let name = format!("rabbitmq_detailed_{name}_total");
            value(&metrics, &name, &[("channel", &channel), ("vhost", "/"), (label, what)])
        };
        let exchange = |name: &str, exchange: &str| {
            value(&metrics, &format!("rabbitmq_detailed_exchange_messages_{name}_total"), &[("exchange", exchange)])
        };
        let counted = [
            of("channel_messages_published", "exchange", ""),
            of("channel_messages_published", "exchange", "amq.direct"),
            of("channel_messages_confirmed", "exchange", ""),
            of("channel_messages_confirmed", "exchange", "amq.direct"),
            of("channel_messages_unroutable_dropped", "exchange", "amq.direct"),
            of("channel_messages_delivered", "queue", "a"),
            of("channel_get_ack", "queue", "b"),
            of("channel_messages_acked", "queue", "b"),
            of("channel_get_empty", "queue", "b"),
            of("channel_messages_delivered", "queue", "b"),
            exchange("confirmed", ""),
            exchange("confirmed", "amq.direct"),
        ];
        (counted == [3.0, 5.0, 3.0, 5.0, 1.0, 6.0, 1.0, 1.0, 1.0, 0.0, 3.0, 5.0]).then_some(())
    });
    // A queue that is gone is not told of, and its name is free for another.
    peer.delete_queue(1, "b");
    peer.declare(1, Declare::durable("b"));
    let metrics = scrape(&broker, port, "/metrics/detailed?family=channel_queue_metrics");
    let queues = &metrics["rabbitmq_detailed_channel_get_ack_total"].samples;
    assert_eq!(queues.iter().map(|(_, labels, _)| labels[2].1.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[test]
fn logins_are_counted_by_where_they_come_from_if_the_settings_say_so() {
    let (broker, port) = start(&["--statistics-login-sources-max=2"]);
    let api = Api::of(&broker);
    let node = api.get("/api/overview").json()["node"].as_str().unwrap().to_owned();
    let path = format!("/api/auth/attempts/{node}/source");
    assert_eq!(api.delete(&path).status, 204);
    assert_eq!(api.by("\u{e4}nn", "wrong").get("/api/whoami").status, 401);
    assert_eq!(api.get("/api/whoami").status, 200);
    // There is no room for a third.
    assert_eq!(api.by("bob", "wrong").get("/api/whoami").status, 401);
    let of = |user: &str, failed: u64, succeeded: u64| {
        json!({"remote_address": "127.0.0.1", "username": user, "protocol": "http", "auth_attempts": failed + succeeded,
            "auth_attempts_failed": failed, "auth_attempts_succeeded": succeeded})
    };
    assert_eq!(api.get(&path).said(), (200, json!([of("guest", 0, 2), of("\u{e4}nn", 1, 0)])));
    let metrics = scrape(&broker, port, "/metrics/detailed?family=auth_attempt_detailed_metrics");
    let labels = [("remote_address", "127.0.0.1"), ("username", "\u{e4}nn"), ("protocol", "http")];
    assert_eq!(value(&metrics, "rabbitmq_detailed_auth_attempts_detailed_failed_total", &labels), 1.0);
}

#[test]
fn metrics_are_served_over_tls() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&["--metrics-tls-port=127.0.0.1:0", "--metrics-port=none", "--http-port=0"]);
    let told = "started Prometheus (TLS) listener on 127.0.0.1:";
    let port: u16 = eventually("a listener for metrics", || {
        broker.log().iter().find_map(|line| line.split_once(told)?.1.trim().parse().ok())
    });
    let ask = |settings: rustls::ClientConfig| {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut stream = rustls::StreamOwned::new(session(settings, "localhost"), socket);
        let mut said = Vec::new();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        stream.read_to_end(&mut said).map(|_| String::from_utf8(said).unwrap())
    };
    let said = ask(settings(&authority, None)).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("\nrabbitmq_connections 0\n"), "{said}");
    assert!(ask(settings(&Authority::new("Elsewhere"), None)).is_err(), "who trusts another authority hears nothing");
    let overview = Api::of(&broker).get("/api/overview").json();
    let listeners = overview["listeners"].as_array().unwrap();
    let shown = listeners.iter().find(|listener| listener["protocol"] == "https/prometheus").unwrap();
    assert_eq!((&shown["port"], &shown["tls"]), (&json!(port), &json!(true)));
    assert_eq!(shown["socket_opts"]["ssl"], true);
}
