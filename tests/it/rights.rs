//! What users may do, and how much of it.

use super::support::peer::{PERSISTENT, write_publish};
use super::support::{Broker, Declare, Peer};
use amq_protocol::protocol::{AMQPClass, channel, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::table::Writer;
use tempfile::TempDir;

/// A broker with the users guest and u (whose passwords are their names), and v beside the virtual host `/`. `limits` are the
/// user's, `vhost` is more about v, `more` more sections.
fn broker(limits: &str, vhost: &str, more: &str, flags: &[&str]) -> (TempDir, Broker) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("definitions.json");
    let text = format!(
        r#"{{"users": [{{"name": "guest", "password": "guest", "tags": "administrator"}},
            {{"name": "u", "password": "u", "tags": "", "limits": {limits}}}],
  "vhosts": [{{"name": "/"}}, {{"name": "v"{vhost}}}],
  "permissions": [{{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}},
    {{"user": "u", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}},
    {{"user": "u", "vhost": "v", "configure": ".*", "write": ".*", "read": ".*"}}]{more}}}"#
    );
    std::fs::write(&file, text).unwrap();
    let mut all = vec!["--definitions", file.to_str().unwrap()];
    all.extend(flags);
    let broker = Broker::with(&all);
    (folder, broker)
}

#[test]
fn a_users_connections_are_limited_and_a_place_is_free_again_with_its_end() {
    let (_folder, mut broker) = broker(r#"{"max-connections": 2}"#, "", "", &[]);
    let first = Peer::open_as(&broker, "u", "/");
    let second = Peer::open_as(&broker, "u", "v");
    let text = "NOT_ALLOWED - connection refused for user 'u': user connection limit (2) is reached";
    Peer::knock(&broker, "u", "/").expect_connection_close(530, text);
    Peer::open(&broker).close();
    first.close();
    let third = Peer::open_as(&broker, "u", "/");
    third.vanish();
    second.close();
    // The limit is kept over a restart.
    assert!(broker.stop().success());
    broker.restart_with(&[]);
    let _both = (Peer::open_as(&broker, "u", "/"), Peer::open_as(&broker, "u", "/"));
    Peer::knock(&broker, "u", "/").expect_connection_close(530, text);
}

#[test]
fn a_limit_of_none_refuses_everybody() {
    let (_folder, broker) = broker(r#"{"max-connections": 0}"#, r#", "limits": {"max-connections": 0}"#, "", &[]);
    let text = "NOT_ALLOWED - connection refused for user 'u': user connection limit (0) is reached";
    Peer::knock(&broker, "u", "/").expect_connection_close(530, text);
    // A virtual host's limit is looked at first.
    let text = "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (0) is reached";
    Peer::knock(&broker, "u", "v").expect_connection_close(530, text);
}

#[test]
fn a_virtual_hosts_connections_are_limited() {
    let (_folder, broker) = broker("{}", r#", "limits": {"max-connections": 1}"#, "", &[]);
    let only = Peer::open_as(&broker, "u", "v");
    let text = "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (1) is reached";
    Peer::knock(&broker, "u", "v").expect_connection_close(530, text);
    Peer::open_as(&broker, "u", "/").close();
    only.close();
    Peer::open_as(&broker, "u", "v").close();
}

#[test]
fn the_brokers_connections_are_limited() {
    let (_folder, broker) = broker("{}", "", "", &["--max-connections", "1"]);
    let only = Peer::open(&broker);
    let text = "NOT_ALLOWED - connection refused: node connection limit (1) is reached";
    Peer::knock(&broker, "u", "/").expect_connection_close(530, text);
    // Who is refused has no place.
    Peer::knock(&broker, "u", "/").expect_connection_close(530, text);
    only.close();
    Peer::open(&broker).close();
}

#[test]
fn channels_are_limited_for_a_user_and_for_the_broker() {
    let (_folder, broker) =
        broker(r#"{"max-channels": 2}"#, "", "", &["--channel-max-per-node", "3", "--node-name", "n@h"]);
    let mut first = Peer::open_as(&broker, "u", "/");
    let mut second = Peer::open_as(&broker, "u", "v");
    let open = || AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}));
    // A channel that ends makes room for another.
    first.close_channel(1);
    first.open_channel(2);
    second.method(2, open());
    let text = "NOT_ALLOWED - number of channels opened for user 'u' has reached the maximum allowed user limit of 2";
    second.expect_connection_close(530, text);
    second.expect_eof();
    // The second connection's channel ended with it.
    first.open_channel(3);
    let mut other = Peer::open(&broker);
    other.method(2, open());

    let text = "NOT_ALLOWED - number of channels opened on node 'n@h' has reached the maximum allowed limit of 3";
    other.expect_connection_close(530, text);
}

#[test]
fn a_virtual_hosts_queues_are_limited() {
    let (_folder, mut broker) = broker("{}", r#", "limits": {"max-queues": 2}"#, "", &[]);
    let mut peer = Peer::open_as(&broker, "u", "v");
    peer.declare(1, Declare::durable("a"));
    peer.declare(1, Declare::transient("b"));
    let refused = |peer: &mut Peer, number: u16| {
        peer.open_channel(number);
        peer.method(number, super::support::peer::declare_queue(Declare::durable("c"), FieldTable::default()));
        let text = "PRECONDITION_FAILED - cannot declare queue 'c': queue limit in vhost 'v' (2) is reached";
        peer.expect_channel_close(number, 406, text);
    };
    refused(&mut peer, 2);
    // What is there may be declared again.
    peer.declare(1, Declare::durable("a"));
    peer.delete_queue(1, "b");
    peer.declare(1, Declare::durable("c"));
    peer.delete_queue(1, "c");
    peer.close();
    assert!(broker.stop().success());
    broker.restart_with(&[]);
    let mut peer = Peer::open_as(&broker, "u", "v");
    peer.declare(1, Declare::durable("b"));
    refused(&mut peer, 2);
}

#[test]
fn queues_and_exchanges_of_all_virtual_hosts_are_limited() {
    // Two virtual hosts have the default exchange and six more each, and one of them those of events and of the log.
    let flags = ["--cluster-queue-limit", "1", "--cluster-exchange-limit", "17"];
    let (_folder, broker) = broker("{}", "", "", &flags);
    let mut peer = Peer::open_as(&broker, "u", "v");
    let mut other = Peer::open_as(&broker, "u", "/");
    peer.declare(1, Declare::durable("a"));
    other.method(1, super::support::peer::declare_queue(Declare::durable("b"), FieldTable::default()));
    let text = "PRECONDITION_FAILED - cannot declare queue 'b': queue limit in cluster (1) is reached";
    other.expect_channel_close(1, 406, text);
    peer.declare_exchange(1, "x", "direct", true);
    other.open_channel(2);
    other.method(2, declare_exchange("y"));
    let text = "PRECONDITION_FAILED - cannot declare exchange 'y' in vhost '/': exchange limit of 17 is reached";
    other.expect_channel_close(2, 406, text);
    peer.declare_exchange(1, "x", "direct", true);
}

fn declare_exchange(name: &str) -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: name.into(),
        kind: "topic".into(),
        durable: true,
        passive: false,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: FieldTable::default(),
    }))
}

const TOPICS: &str = r#", "topic_permissions": [
    {"user": "u", "vhost": "/", "exchange": "amq.topic", "write": "^{username}\\.", "read": "^(#|{username}\\..*)$"},
    {"user": "u", "vhost": "/", "exchange": "amq.direct", "write": "^$", "read": "^$"}]"#;

/// Publishes with a routing key and perhaps a `CC`.
fn publish(peer: &mut Peer, channel: u16, exchange: &str, key: &str, cc: &[&str]) {
    let mut properties = PERSISTENT.to_vec();
    if !cc.is_empty() {
        let mut headers = Writer::default();
        headers.key("CC").array(|items| cc.iter().for_each(|key| items.long_string(key.as_bytes())));
        properties = vec![0x30, 0];
        let octets = headers.fields().octets().to_vec();
        properties.extend_from_slice(&u32::try_from(octets.len()).unwrap().to_be_bytes());
        properties.extend_from_slice(&octets);
        properties.push(2);
    }
    let mut out = Vec::new();
    write_publish(&mut out, channel, exchange, key, &properties, b"m", 4096);
    peer.octets(&out);
}

#[test]
fn keys_of_a_topic_exchange_are_allowed_one_by_one() {
    let (_folder, broker) = broker("{}", "", TOPICS, &[]);
    let mut peer = Peer::open_as(&broker, "u", "/");
    peer.confirm_select(1);
    publish(&mut peer, 1, "amq.topic", "u.1", &[]);
    publish(&mut peer, 1, "amq.topic", "u.1", &["u.2"]);
    // Only topic exchanges have such keys.
    publish(&mut peer, 1, "amq.direct", "any", &[]);
    peer.expect_confirms(1, 3);
    let refused = |key: &str| {
        format!(
            "ACCESS_REFUSED - write access to topic '{key}' in exchange 'amq.topic' in vhost '/' refused for user 'u'"
        )
    };
    publish(&mut peer, 1, "amq.topic", "x.1", &[]);
    peer.expect_channel_close(1, 403, &refused("x.1"));
    // Nor by a key of the headers.
    peer.open_channel(1);
    publish(&mut peer, 1, "amq.topic", "u.1", &["u.2", "x.2"]);
    peer.expect_channel_close(1, 403, &refused("x.2"));
    // Others have no such limits.
    let mut guest = Peer::open(&broker);
    guest.confirm_select(1);
    publish(&mut guest, 1, "amq.topic", "x.1", &[]);
    guest.expect_confirms(1, 1);
}

#[test]
fn binding_to_a_topic_exchange_needs_the_right_to_read_the_key() {
    let (_folder, broker) = broker("{}", "", TOPICS, &[]);
    let mut peer = Peer::open_as(&broker, "u", "/");
    peer.declare(1, Declare::durable("q"));
    peer.bind(1, "q", "amq.topic", "u.x");
    peer.bind(1, "q", "amq.topic", "#");
    peer.bind(1, "q", "amq.direct", "any");
    peer.open_channel(2);
    let unbind = AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
        queue: "q".into(),
        exchange: "amq.topic".into(),
        routing_key: "x.*".into(),
        arguments: FieldTable::default(),
    }));
    let text = "ACCESS_REFUSED - read access to topic 'x.*' in exchange 'amq.topic' in vhost '/' refused for user 'u'";
    peer.method(2, unbind);
    peer.expect_channel_close(2, 403, text);
    peer.open_channel(3);
    let mut arguments = FieldTable::default();
    arguments.insert("a".into(), AMQPValue::Boolean(true));
    let bind = AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
        destination: "amq.fanout".into(),
        source: "amq.topic".into(),
        routing_key: "x.*".into(),
        nowait: false,
        arguments,
    }));
    peer.method(3, bind);
    peer.expect_channel_close(3, 403, text);
}
