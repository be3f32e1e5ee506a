//! What is counted, and how the management API shows it: numbers that are exactly what was done, rates and the past.

use super::support::peer::{PERSISTENT, PLAIN, write_publish};
use super::support::{Api, Broker, Declare, Peer, eventually};
use amq_protocol::types::{AMQPValue, FieldTable};
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

fn start(flags: &[&str]) -> Broker {
    Broker::with(&[&["--http-port", "0"], flags].concat())
}

/// The numbers of `message_stats` without their details.
fn stats(shown: &Json) -> Json {
    let numbers = shown["message_stats"].as_object().unwrap_or_else(|| panic!("no message_stats in {shown}"));
    numbers
        .iter()
        .filter(|(name, _)| !name.ends_with("_details"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Publishes by an exchange.
fn publish_to(peer: &mut Peer, channel: u16, exchange: &str, key: &str, properties: &[u8], body: &[u8]) {
    let mut out = Vec::new();
    write_publish(&mut out, channel, exchange, key, properties, body, peer.frame_max);
    peer.octets(&out);
}

/// Everything that can be counted, on four channels of one connection: what RabbitMQ counted for the same was recorded.
fn busy(broker: &Broker) -> Peer {
    let mut peer = Peer::open(broker);
    peer.declare(1, Declare::durable("st"));
    let quorum = [("x-queue-type".into(), AMQPValue::LongString("quorum".into()))];
    let quorum = FieldTable::from(quorum.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    peer.declare_with(1, Declare::durable("stq"), quorum);
    peer.declare_exchange(1, "sx", "topic", false);
    peer.bind(1, "st", "sx", "#");
    peer.confirm_select(1);
    (0..20).for_each(|_| publish_to(&mut peer, 1, "sx", "k", PERSISTENT, b"xxxxxxxxxx"));
    (0..5).for_each(|_| publish_to(&mut peer, 1, "", "stq", PLAIN, b"yyyyyyyyyy"));
    publish_to(&mut peer, 1, "sx", "k", PLAIN, &[b'x'; 10_000]);
    (0..3).for_each(|_| publish_to(&mut peer, 1, "", "nowhere", PLAIN, b"drop"));
    peer.expect_confirms(1, 29);
    for channel in [2, 3, 4] {
        peer.open_channel(channel);
    }
    peer.declare(2, Declare::durable("empty"));
    peer.get(2, "st", false).unwrap();
    let got = peer.get(2, "st", false).unwrap();
    peer.ack(2, got.tag, false);
    peer.get(2, "st", true).unwrap();
    assert_eq!(peer.get(2, "empty", false), None);
    let got = peer.get(2, "st", false).unwrap();
    peer.nack(2, got.tag, false, true);
    let got = peer.get(2, "st", false).unwrap();
    assert!(got.redelivered);
    peer.reject(2, got.tag, false);
    peer.qos(3, 3);
    peer.consume(3, "st", "ct", false);
    for _ in 0..3 {
        let delivery = peer.expect_delivery();
        peer.ack(3, delivery.tag, false);
    }
    (0..3).for_each(|_| drop(peer.expect_delivery()));
    peer.consume(4, "stq", "cq", true);
    (0..5).for_each(|_| drop(peer.expect_delivery()));
    // What is answered has been counted before.
    peer.declare(2, Declare::passive("st"));
    peer
}

#[test]
fn numbers_are_exactly_what_was_done() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let peer = busy(&broker);
    let queue = api.get("/api/queues/%2F/st").json();
    let expected = json!({
        "publish": 21, "ack": 4, "deliver": 6, "deliver_no_ack": 0, "get": 4, "get_no_ack": 1, "get_empty": 0,
        "deliver_get": 11, "redeliver": 1
    });
    assert_eq!(stats(&queue), expected);
    for (field, value) in [("messages", 15), ("messages_ready", 11), ("messages_unacknowledged", 4), ("consumers", 1)] {
        assert_eq!(queue[field], value, "{field}");
    }
    assert_eq!((&queue["messages_persistent"], &queue["message_bytes_persistent"]), (&14.into(), &140.into()));
    let bytes =
        ["message_bytes", "message_bytes_ready", "message_bytes_unacknowledged"].map(|name| queue[name].clone());
    assert_eq!(bytes, [json!(10_140), json!(10_100), json!(40)]);
    let expected = json!({
        "publish": 5, "ack": 0, "deliver": 0, "deliver_no_ack": 5, "get": 0, "get_no_ack": 0, "get_empty": 0,
        "deliver_get": 5, "redeliver": 0
    });
    assert_eq!(stats(&api.get("/api/queues/%2F/stq").json()), expected);
    assert_eq!(stats(&api.get("/api/queues/%2F/empty").json())["get_empty"], 1);
    let exchange = |name: &str| stats(&api.get(&format!("/api/exchanges/%2F/{name}")).json());
    assert_eq!(exchange("sx"), json!({"publish_in": 21, "publish_out": 21}));
    assert_eq!(exchange("amq.default"), json!({"publish_in": 8, "publish_out": 5}));
    assert!(api.get("/api/exchanges/%2F/amq.topic").json().get("message_stats").is_none());
    let channels = api.get("/api/channels?sort=number").json();
    let published = json!({"publish": 29, "confirm": 29, "drop_unroutable": 3, "return_unroutable": 0});
    assert_eq!(stats(&channels[0]), published);
    let got = json!({
        "ack": 1, "deliver": 0, "deliver_no_ack": 0, "get": 4, "get_no_ack": 1, "get_empty": 1, "deliver_get": 5,
        "redeliver": 1
    });
    assert_eq!(stats(&channels[1]), got);
    assert_eq!((&stats(&channels[2])["deliver"], &stats(&channels[2])["ack"]), (&6.into(), &3.into()));
    assert_eq!(stats(&channels[3])["deliver_no_ack"], 5);
    let all = json!({
        "publish": 29, "confirm": 29, "drop_unroutable": 3, "return_unroutable": 0, "ack": 4, "deliver": 6,
        "deliver_no_ack": 5, "get": 4, "get_no_ack": 1, "get_empty": 1, "deliver_get": 16, "redeliver": 1
    });
    assert_eq!(stats(&api.get("/api/vhosts/%2F").json()), all);
    let overview = api.get("/api/overview").json();
    for (name, value) in all.as_object().unwrap() {
        assert_eq!(&overview["message_stats"][name], value, "{name}");
    }
    assert_eq!(overview["queue_totals"]["messages"], 15);
    let exchanges = api.get("/api/exchanges").json().as_array().unwrap().len();
    let totals = json!({"channels": 4, "connections": 1, "consumers": 2, "exchanges": exchanges, "queues": 3});
    assert_eq!(overview["object_totals"], totals);
    let churn = &overview["churn_rates"];
    let counted = ["queue_declared", "queue_created", "queue_deleted", "channel_created", "channel_closed"];
    assert_eq!(counted.map(|name| churn[name].clone()), [3, 3, 0, 4, 0].map(Json::from));
    peer.close();
    eventually("the end of the connection", || {
        let churn = api.get("/api/overview").json()["churn_rates"].clone();
        let ended = churn["connection_closed"] == 1 && churn["channel_closed"] == 4;
        (ended && churn["connection_created"] == 1).then_some(())
    });
    // What was done stays done.
    assert_eq!(stats(&api.get("/api/vhosts/%2F").json()), all);
}

#[test]
fn messages_that_come_back_to_their_publisher_and_by_http_count_too() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    let body = json!({"properties": {}, "routing_key": "q", "payload": "x", "payload_encoding": "string"});
    assert_eq!(api.post("/api/exchanges/%2F/amq.default/publish", body).json()["routed"], true);
    let get = json!({"count": 2, "ackmode": "ack_requeue_false", "encoding": "auto"});
    assert_eq!(api.post("/api/queues/%2F/q/get", get).json().as_array().unwrap().len(), 1);
    let queue = stats(&api.get("/api/queues/%2F/q").json());
    assert_eq!((&queue["publish"], &queue["deliver_get"], &queue["get_empty"]), (&1.into(), &1.into(), &1.into()));
    let lost = json!({"properties": {}, "routing_key": "none", "payload": "x", "payload_encoding": "string"});
    assert_eq!(api.post("/api/exchanges/%2F/amq.default/publish", lost).json()["routed"], false);
    let all = stats(&api.get("/api/vhosts/%2F").json());
    assert_eq!((&all["publish"], &all["return_unroutable"]), (&2.into(), &1.into()));
}

#[test]
fn a_transaction_counts_when_it_is_committed_and_a_deleted_vhost_stays_counted() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    assert_eq!(api.put("/api/vhosts/v", json!({})).status, 201);
    assert_eq!(
        api.put("/api/permissions/v/guest", json!({"configure": ".*", "write": ".*", "read": ".*"})).status,
        204
    );
    let mut peer = Peer::open_as(&broker, "guest", "v");
    peer.declare(1, Declare::durable("q"));
    peer.tx_select(1);
    publish_to(&mut peer, 1, "", "q", PLAIN, b"x");
    peer.tx_commit(1);
    assert_eq!(stats(&api.get("/api/queues/v/q").json())["publish"], 1);
    assert_eq!(api.get("/api/overview").json()["message_stats"]["publish"], 1);
    assert_eq!(api.delete("/api/vhosts/v").status, 204);
    assert_eq!(api.get("/api/overview").json()["message_stats"]["publish"], 1);
}

#[test]
fn rates_follow_what_is_done_and_end_with_it() {
    let broker = start(&["--statistics-interval=200"]);
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    let rates = || {
        let queue = api.get("/api/queues/%2F/q").json();
        let overview = api.get("/api/overview").json();
        let rate = |shown: &Json, name: &str| shown[name]["rate"].as_f64().unwrap_or(-1.0);
        [
            rate(&queue["message_stats"], "publish_details"),
            rate(&queue, "messages_details"),
            rate(&overview["message_stats"], "publish_details"),
            rate(&overview["queue_totals"], "messages_ready_details"),
        ]
    };
    let (begun, mut count) = (Instant::now(), 0_u32);
    let seen = eventually("rates", || {
        (0..10).for_each(|_| publish_to(&mut peer, 1, "", "q", PLAIN, b"x"));
        count += 10;
        Some(rates()).filter(|rates| rates.iter().all(|rate| *rate > 0.0))
    });
    // What two samples say can be no more than a few times what was done.
    let done = f64::from(count) / begun.elapsed().as_secs_f64().max(0.2);
    assert!(seen.iter().all(|rate| *rate < 10.0 * done + 200.0), "{seen:?} of {done} a second");
    eventually("rates of nothing", || (rates() == [0.0; 4]).then_some(()));
    let queue = api.get("/api/queues/%2F/q").json();
    assert!(queue["idle_since"].as_str().is_some_and(|since| since.starts_with("20")), "{queue}");
    assert!(queue["oldest_ready_age"].as_u64().is_some_and(|age_ms| age_ms > 0), "{queue}");
}

#[test]
fn the_past_is_given_in_samples() {
    let broker = start(&["--statistics-interval=100"]);
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    (0..7).for_each(|_| publish_to(&mut peer, 1, "", "q", PLAIN, b"x"));
    let grid = "msg_rates_age=10&msg_rates_incr=1&lengths_age=10&lengths_incr=1&node_stats_age=10&node_stats_incr=1";
    // From the first request on the past of a queue is kept.
    for path in ["/api/overview", "/api/queues/%2F/q", "/api/vhosts/%2F", "/api/exchanges/%2F/amq.default"] {
        eventually(path, || {
            let shown = api.get(&format!("{path}?{grid}")).json();
            let name = if path.contains("exchanges") { "publish_in" } else { "publish" };
            let details = &shown["message_stats"][format!("{name}_details")];
            let samples = details["samples"].as_array()?;
            let newest = samples.first()?;
            assert_eq!(newest["timestamp"].as_u64().unwrap() % 1000, 0);
            let (rate, average) = (details["rate"].as_f64(), details["avg"].as_f64());
            (samples.len() >= 3 && newest["sample"] == 7 && rate.is_some() && average > Some(0.0)).then_some(())
        });
    }
    let node = api.get("/api/overview").json()["node"].as_str().unwrap().to_owned();
    let shown = api.get(&format!("/api/nodes/{node}?{grid}")).json();
    assert!(shown["mem_used_details"]["samples"][0]["sample"].as_u64().unwrap() > 1 << 20);
    let wrong = api.get("/api/overview?msg_rates_age=-1&msg_rates_incr=1");
    let expected = json!({"error": "invalid_range_parameters", "reason": "Invalid range parameters: age -1, incr 1"});
    assert_eq!(wrong.said(), (400, expected));
    let node = api.get("/api/overview").json()["node"].as_str().unwrap().to_owned();
    assert_eq!(api.delete(&format!("/api/reset/{node}")).status, 204);
    assert_eq!(api.delete("/api/reset/bogus").status, 404);
    assert_eq!(api.get("/api/overview").json()["message_stats"]["publish"], 7);
}

#[test]
fn samples_are_kept_as_long_as_the_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rabbitmq.conf");
    let policies = "management.sample_retention_policies.global.minute = 5\n\
                    management.sample_retention_policies.global.7200 = 60\n\
                    management.sample_retention_policies.basic.minute = 1\n";
    std::fs::write(&file, policies).unwrap();
    let config = format!("--config={}", file.to_str().unwrap());
    let broker = start(&[&config, "--statistics-interval=100"]);
    let api = Api::of(&broker);
    let expected = json!({"global": [60, 7200], "basic": [60], "detailed": [60]});
    assert_eq!(api.get("/api/overview").json()["sample_retention_policies"], expected);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    (0..7).for_each(|_| publish_to(&mut peer, 1, "", "q", PLAIN, b"x"));
    // Of a queue each second is kept; of the whole, each fifth, so that the grid repeats what was.
    let path = "/api/queues/%2F/q?msg_rates_age=10&msg_rates_incr=1&lengths_age=10&lengths_incr=1";
    eventually("samples", || {
        let shown = api.get(path).json();
        (shown["message_stats"]["publish_details"]["samples"].as_array()?.len() >= 3).then_some(())
    });
}

#[test]
fn nothing_counted_is_shown_to_who_does_not_want_it() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let _peer = busy(&broker);
    let queue = api.get("/api/queues/%2F/st?disable_stats=true").json();
    for field in ["message_stats", "messages", "consumers", "memory", "idle_since"] {
        assert!(queue.get(field).is_none(), "{field}");
    }
    let queue = api.get("/api/queues/%2F/st?disable_stats=true&enable_queue_totals=true").json();
    assert_eq!((&queue["messages"], queue.get("consumers")), (&15.into(), None));
    for path in ["/api/vhosts/%2F", "/api/overview", "/api/exchanges/%2F/sx", "/api/channels", "/api/connections"] {
        let shown = api.get(&format!("{path}?disable_stats=true")).json();
        let shown = if shown.is_array() { shown[0].clone() } else { shown };
        assert!(shown.get("message_stats").is_none() && shown.get("recv_oct").is_none(), "{shown}");
    }
    let off = start(&["--http-disable-stats=true", "--http-enable-queue-totals=true"]);
    let mut peer = Peer::open(&off);
    peer.declare(1, Declare::durable("q"));
    let queue = Api::of(&off).get("/api/queues/%2F/q").json();
    assert_eq!((&queue["messages"], queue.get("memory")), (&0.into(), None));
    assert_eq!(Api::of(&off).get("/api/overview").json()["disable_stats"], true);
}

#[test]
fn who_monitors_nothing_sees_the_numbers_of_their_own_virtual_hosts() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let _peer = busy(&broker);
    assert_eq!(api.put("/api/vhosts/v", json!({})).status, 201);
    assert_eq!(api.put("/api/users/ann", json!({"password": "ann", "tags": "management"})).status, 201);
    assert_eq!(api.put("/api/permissions/v/ann", json!({"configure": "", "write": "", "read": ""})).status, 201);
    let seen = api.by("ann", "ann").get("/api/overview").json();
    assert_eq!((&seen["message_stats"]["publish"], &seen["queue_totals"]["messages"]), (&0.into(), &0.into()));
    for secret in ["node", "listeners", "contexts", "churn_rates"] {
        assert!(seen.get(secret).is_none(), "{secret}");
    }
}

#[test]
fn a_node_tells_what_it_uses() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let _peer = busy(&broker);
    let nodes = api.get("/api/nodes").json();
    let node = &nodes[0];
    let whole =
        ["mem_used", "mem_limit", "fd_used", "fd_total", "proc_used", "disk_free", "disk_free_limit", "processors"];
    for field in whole {
        assert!(node[field].as_u64().is_some_and(|value| value > 0), "{field} of {node}");
    }
    assert_eq!((&node["sockets_used"], &node["running"], &node["mem_alarm"]), (&1.into(), &true.into(), &false.into()));
    assert!(node["io_sync_count"].as_u64().unwrap() > 0 && node["io_sync_avg_time"].as_f64().unwrap() > 0.0);
    let types: Vec<_> = node["exchange_types"].as_array().unwrap().iter().map(|kind| kind["name"].clone()).collect();
    assert!(types.contains(&"topic".into()) && types.contains(&"x-delayed-message".into()), "{types:?}");
    let name = node["name"].as_str().unwrap();
    let memory = api.get(&format!("/api/nodes/{name}/memory")).json()["memory"].clone();
    let parts: u64 = memory.as_object().unwrap().values().filter_map(Json::as_u64).sum();
    assert_eq!(parts, memory["total"]["rss"].as_u64().unwrap());
    let relative = api.get(&format!("/api/nodes/{name}/memory/relative")).json()["memory"].clone();
    assert_eq!(relative["total"], 100);
    assert_eq!(api.get("/api/nodes/bogus/memory").status, 404);
    let listeners = api.get("/api/overview").json()["listeners"].clone();
    let found =
        listeners.as_array().unwrap().iter().any(|one| one["protocol"] == "amqp" && one["port"] == broker.port());
    assert!(found, "{listeners}");
}

#[test]
fn octets_of_connections_are_counted() {
    let broker = start(&["--statistics-interval=100"]);
    let api = Api::of(&broker);
    let mut peer = busy(&broker);
    let shown = || api.get("/api/connections").json()[0].clone();
    // What is sent is counted just after.
    std::thread::sleep(Duration::from_millis(200));
    let before = shown();
    publish_to(&mut peer, 1, "", "nowhere", PLAIN, &[0; 5000]);
    peer.expect_confirms(30, 30);
    std::thread::sleep(Duration::from_millis(200));
    let after = shown();
    let grown = |field: &str| after[field].as_u64().unwrap() - before[field].as_u64().unwrap();
    // A method, a header and a body with their envelopes; and the confirm.
    assert_eq!((grown("recv_oct"), grown("send_oct"), grown("send_cnt")), (5000 + 3 * 8 + 16 + 14, 21, 1));
    let end = Instant::now() + Duration::from_secs(30);
    while shown()["recv_oct_details"]["rate"] != 0.0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(shown()["recv_oct_details"]["rate"], 0.0);
    let vhost = api.get("/api/vhosts/%2F").json();
    assert_eq!((&vhost["recv_oct"], &vhost["send_oct"]), (&after["recv_oct"], &after["send_oct"]));
}
