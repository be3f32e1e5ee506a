//! Metrics as Prometheus reads them: by a parser that takes nothing else, and what RabbitMQ's dashboards ask for.

use super::support::metrics::{scrape, value};
use super::support::peer::{PERSISTENT, PLAIN, write_publish};
use super::support::{Api, Broker, Declare, Peer, eventually};

/// A broker with metrics, and what asks for them.
fn start(flags: &[&str]) -> (Broker, u16) {
    let broker = Broker::with(&[&["--http-port=0", "--metrics-port=127.0.0.1:0"], flags].concat());
    let port = broker.metrics_port();
    (broker, port)
}

fn publish_to(peer: &mut Peer, exchange: &str, key: &str, properties: &[u8], body: &[u8]) {
    let mut out = Vec::new();
    write_publish(&mut out, 1, exchange, key, properties, body, peer.frame_max);
    peer.octets(&out);
}

/// A queue with five confirmed messages, two of which are out and one acknowledged.
fn busy(broker: &Broker) -> Peer {
    let mut peer = Peer::open(broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    (0..5).for_each(|_| publish_to(&mut peer, "", "q", PERSISTENT, &[b'x'; 150]));
    publish_to(&mut peer, "", "nowhere", PLAIN, b"");
    peer.expect_confirms(1, 6);
    for _ in 0..2 {
        peer.get(1, "q", false).unwrap();
    }
    let got = peer.get(1, "q", false).unwrap();
    peer.ack(1, got.tag, false);
    assert_eq!(peer.declare(1, Declare::passive("q")).0, 2);
    peer
}

#[test]
fn everything_that_the_overview_dashboard_asks_for_is_there() {
    // The names in the queries of deps/rabbitmq_prometheus/docker/grafana/dashboards/RabbitMQ-Overview.json.
    const ASKED: [&str; 41] = [
        "rabbitmq_build_info",
        "rabbitmq_channels",
        "rabbitmq_channels_closed_total",
        "rabbitmq_channels_opened_total",
        "rabbitmq_connections",
        "rabbitmq_connections_closed_total",
        "rabbitmq_connections_opened_total",
        "rabbitmq_disk_space_available_bytes",
        "rabbitmq_disk_space_available_limit_bytes",
        "rabbitmq_erlang_uptime_seconds",
        "rabbitmq_global_consumers",
        "rabbitmq_global_messages_acknowledged_total",
        "rabbitmq_global_messages_confirmed_total",
        "rabbitmq_global_messages_delivered_consume_auto_ack_total",
        "rabbitmq_global_messages_delivered_consume_manual_ack_total",
        "rabbitmq_global_messages_delivered_get_auto_ack_total",
        "rabbitmq_global_messages_delivered_get_manual_ack_total",
        "rabbitmq_global_messages_delivered_total",
        "rabbitmq_global_messages_get_empty_total",
        "rabbitmq_global_messages_received_confirm_total",
        "rabbitmq_global_messages_received_total",
        "rabbitmq_global_messages_redelivered_total",
        "rabbitmq_global_messages_routed_total",
        "rabbitmq_global_messages_unroutable_dropped_total",
        "rabbitmq_global_messages_unroutable_returned_total",
        "rabbitmq_global_publishers",
        "rabbitmq_identity_info",
        "rabbitmq_message_size_bytes",
        "rabbitmq_process_max_fds",
        "rabbitmq_process_open_fds",
        "rabbitmq_process_resident_memory_bytes",
        "rabbitmq_queue_messages_ready",
        "rabbitmq_queue_messages_unacked",
        "rabbitmq_queues",
        "rabbitmq_queues_created_total",
        "rabbitmq_queues_declared_total",
        "rabbitmq_queues_deleted_total",
        "rabbitmq_resident_memory_limit_bytes",
        "rabbitmq_alarms_memory_used_watermark",
        "rabbitmq_alarms_free_disk_space_watermark",
        "rabbitmq_unreachable_cluster_peers_count",
    ];
    let (broker, port) = start(&[]);
    let _peer = busy(&broker);
    let metrics = scrape(&broker, port, "/metrics");
    for name in ASKED {
        assert!(metrics.get(name).is_some_and(|metric| !metric.samples.is_empty()), "no {name}");
    }
    // Its panels join by these labels.
    let identity = &metrics["rabbitmq_identity_info"].samples[0].1;
    let labels: Vec<_> = identity.iter().map(|(label, _)| label.as_str()).collect();
    let expected = ["rabbitmq_node", "rabbitmq_cluster", "rabbitmq_cluster_permanent_id", "rabbitmq_endpoint"];
    assert_eq!(labels, expected);
    assert_eq!(identity[3].1, "aggregated");
    let amqp = ("protocol", "amqp091");
    let classic = ("queue_type", "rabbit_classic_queue");
    for (name, labels, expected) in [
        ("rabbitmq_queue_messages_ready", &[][..], 2.0),
        ("rabbitmq_queue_messages_unacked", &[], 2.0),
        ("rabbitmq_global_messages_received_total", &[amqp], 6.0),
        ("rabbitmq_global_messages_received_confirm_total", &[amqp], 6.0),
        ("rabbitmq_global_messages_confirmed_total", &[amqp], 6.0),
        ("rabbitmq_global_messages_routed_total", &[amqp], 5.0),
        ("rabbitmq_global_messages_unroutable_dropped_total", &[amqp], 1.0),
        ("rabbitmq_global_messages_delivered_get_manual_ack_total", &[amqp, classic], 3.0),
        ("rabbitmq_global_messages_delivered_total", &[amqp, classic], 3.0),
        ("rabbitmq_global_messages_acknowledged_total", &[amqp, classic], 1.0),
        ("rabbitmq_global_publishers", &[amqp], 1.0),
        ("rabbitmq_connections", &[], 1.0),
        ("rabbitmq_queues", &[], 1.0),
        ("rabbitmq_message_size_bytes", &[("le", "100")], 1.0),
        ("rabbitmq_message_size_bytes", &[("le", "1000")], 6.0),
    ] {
        assert_eq!(value(&metrics, name, labels), expected, "{name}");
    }
    assert_eq!(metrics["rabbitmq_global_messages_received_total"].kind, "counter");
    // A confirm followed the disk.
    for name in ["leveret_commit_seconds", "leveret_sync_seconds", "leveret_confirm_seconds"] {
        assert!(value(&metrics, name, &[("le", "+Inf")]) > 0.0, "{name}");
    }
}

#[test]
fn each_thing_has_metrics_of_its_own() {
    let (broker, port) = start(&[]);
    let mut peer = busy(&broker);
    let odd = "a\"b\\c\td";
    peer.declare(1, Declare::durable(odd));
    let metrics = scrape(&broker, port, "/metrics/per-object");
    let q = [("vhost", "/"), ("queue", "q")];
    for (name, expected) in [
        ("rabbitmq_queue_messages", 4.0),
        ("rabbitmq_queue_messages_published_total", 5.0),
        ("rabbitmq_queue_get_ack_total", 3.0),
        ("rabbitmq_queue_messages_acked_total", 1.0),
        ("rabbitmq_queue_messages_persistent", 4.0),
        ("rabbitmq_queue_messages_bytes", 600.0),
        ("rabbitmq_queue_info", 1.0),
    ] {
        assert_eq!(value(&metrics, name, &q), expected, "{name}");
    }
    assert_eq!(value(&metrics, "rabbitmq_queue_messages", &[("queue", odd)]), 0.0);
    assert!(value(&metrics, "rabbitmq_queue_head_message_timestamp", &[("queue", odd)]).is_nan());
    let ages = ["leveret_queue_oldest_message_age_seconds", "leveret_queue_oldest_unacked_age_seconds"];
    assert!(ages.iter().all(|name| (0.0..600.0).contains(&value(&metrics, name, &q))));
    assert_eq!(value(&metrics, "rabbitmq_exchange_messages_published_total", &[("exchange", "")]), 6.0);
    assert_eq!(value(&metrics, "rabbitmq_exchange_messages_unroutable_dropped_total", &[("exchange", "")]), 1.0);
    let channel = &metrics["rabbitmq_channel_messages_published_total"].samples;
    assert_eq!((channel.len(), channel[0].2), (1, 6.0));
    assert!(value(&metrics, "rabbitmq_connection_incoming_bytes_total", &[("vhost", "/")]) > 900.0);
    // The same by a setting.
    let (broker, port) = start(&["--metrics-per-object=true", "--metrics-path=/some/where"]);
    let _peer = busy(&broker);
    assert_eq!(value(&scrape(&broker, port, "/some/where"), "rabbitmq_queue_messages", &q), 4.0);
}

#[test]
fn families_are_asked_for_one_by_one() {
    let (broker, port) = start(&[]);
    let api = Api::of(&broker);
    let _peer = busy(&broker);
    assert_eq!(api.put("/api/vhosts/v", serde_json::json!({})).status, 201);
    assert_eq!(
        api.put("/api/permissions/v/guest", serde_json::json!({"configure": ".*", "write": ".*", "read": ".*"})).status,
        204
    );
    let mut peer = Peer::open_as(&broker, "guest", "v");
    peer.declare(1, Declare::durable("other"));
    let names = |query: &str| -> Vec<String> {
        let metrics = scrape(&broker, port, &format!("/metrics/detailed{query}"));
        metrics.into_iter().filter(|(_, metric)| !metric.samples.is_empty()).map(|(name, _)| name).collect()
    };
    let always = ["rabbitmq_build_info", "rabbitmq_identity_info"];
    assert_eq!(names(""), always);
    assert_eq!(names("?family=bogus"), always);
    let coarse = names("?family=queue_coarse_metrics");
    assert!(coarse.contains(&"rabbitmq_detailed_queue_messages_ready".to_owned()), "{coarse:?}");
    assert!(!coarse.contains(&"rabbitmq_detailed_queue_consumers".to_owned()), "{coarse:?}");
    let several = names("?family=queue_consumer_count&family=connection_churn_metrics&family=vhost_status");
    for name in [
        "rabbitmq_detailed_queue_consumers",
        "rabbitmq_detailed_queues_declared_total",
        "rabbitmq_cluster_vhost_status",
    ] {
        assert!(several.contains(&name.to_owned()), "{several:?}");
    }
    let of = |query: &str| {
        let metrics = scrape(&broker, port, &format!("/metrics/detailed?family=queue_coarse_metrics{query}"));
        metrics["rabbitmq_detailed_queue_messages"]
            .samples
            .iter()
            .map(|(_, labels, _)| labels[1].1.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(""), ["q", "other"]);
    assert_eq!(of("&vhost=v"), ["other"]);
    assert_eq!(of("&vhost=%2F&vhost=v"), ["q", "other"]);
    assert_eq!(of("&vhost=nowhere"), [""; 0]);
    assert_eq!(of("&queue=q"), ["q"]);
    let metrics = scrape(&broker, port, "/metrics/detailed?family=exchange_bindings&family=exchange_names&vhost=v");
    assert_eq!(
        value(&metrics, "rabbitmq_cluster_exchange_bindings", &[("exchange", "amq.topic"), ("type", "topic")]),
        0.0
    );
    assert_eq!(value(&metrics, "rabbitmq_cluster_exchange_name", &[("exchange", "amq.topic")]), 1.0);
    let memory = scrape(&broker, port, "/metrics/memory-breakdown");
    assert!(value(&memory, "rabbitmq_memory_other_system_bytes", &[]) > 1e6);
}

#[test]
fn no_more_things_are_shown_than_the_settings_say() {
    let (broker, port) = start(&["--metrics-objects-max=3"]);
    let mut peer = Peer::open(&broker);
    for number in 0..10 {
        peer.declare(1, Declare::durable(&format!("q{number}")));
    }
    let metrics = scrape(&broker, port, "/metrics/per-object");
    assert_eq!(metrics["rabbitmq_queue_messages"].samples.len(), 3);
    assert_eq!(value(&metrics, "leveret_metrics_left_out", &[("kind", "queue")]), 7.0);
    // All together they are all there.
    assert_eq!(value(&scrape(&broker, port, "/metrics"), "rabbitmq_queues", &[]), 10.0);
}

#[test]
fn counters_never_shrink() {
    let (broker, port) = start(&[]);
    let api = Api::of(&broker);
    let peer = busy(&broker);
    let before = scrape(&broker, port, "/metrics");
    peer.close();
    assert_eq!(api.delete("/api/queues/%2F/q").status, 204);
    eventually("an end of the connection", || {
        (value(&scrape(&broker, port, "/metrics"), "rabbitmq_connections", &[]) == 0.0).then_some(())
    });
    let after = scrape(&broker, port, "/metrics");
    for (name, metric) in before.iter().filter(|(_, metric)| ["counter", "histogram"].contains(&metric.kind.as_str())) {
        for (of, labels, was) in &metric.samples {
            let now = after[name].samples.iter().find(|(found, known, _)| found == of && known == labels).unwrap().2;
            assert!(now >= *was, "{of}{labels:?}: {now} after {was}");
        }
    }
    for (name, expected) in [
        ("rabbitmq_channel_messages_published_total", 6.0),
        ("rabbitmq_queue_messages_published_total", 5.0),
        ("rabbitmq_exchange_messages_published_total", 6.0),
        ("rabbitmq_queue_get_ack_total", 3.0),
        ("rabbitmq_queues_deleted_total", 1.0),
        ("rabbitmq_connections_closed_total", 1.0),
    ] {
        assert_eq!(value(&after, name, &[]), expected, "{name}");
    }
}

#[test]
fn requests_are_answered_as_rabbitmqs_plugin_does() {
    let (broker, port) = start(&[]);
    let api = Api::of(&broker).on(port).by_nobody();
    let status = |method: &str, path: &str, accept: &str| {
        let headers = [("Accept", accept)];
        api.call(method, path, if accept.is_empty() { &[] } else { &headers }, b"").status
    };
    assert_eq!(status("GET", "/metrics/", ""), 200);
    assert_eq!(status("HEAD", "/metrics", ""), 200);
    assert_eq!(status("OPTIONS", "/metrics", ""), 200);
    assert_eq!(status("POST", "/metrics", ""), 405);
    assert_eq!(status("GET", "/", ""), 404);
    assert_eq!(status("GET", "/api/overview", ""), 404);
    assert_eq!(status("GET", "/metrics", "application/openmetrics-text"), 406);
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    assert_eq!(status("GET", "/metrics", prometheus), 200);
    let bogus = api.get("/metrics/bogus");
    assert_eq!((bogus.status, &bogus.body[..]), (404, &b"Unknown Registry"[..]));
    // Not on the port of the management API, unless the settings say so.
    assert_eq!(Api::of(&broker).by_nobody().get("/metrics").status, 404);
    let (broker, _) = start(&["--metrics-on-http-port=true"]);
    assert_eq!(Api::of(&broker).by_nobody().get("/metrics").status, 200);
    assert_eq!(Api::of(&broker).by_nobody().get("/api/overview").status, 401);
}

#[test]
fn who_is_not_let_in_is_counted_by_listener() {
    let (broker, port) = start(&["--proxy-protocol=true", "--proxy-protocol-trusted=192.0.2.1"]);
    let mut peer = Peer::silent(&broker);
    peer.expect_eof();
    let address = format!("127.0.0.1:{}", broker.port());
    eventually("an error", || {
        let metrics = scrape(&broker, port, "/metrics");
        let labels = [("protocol", "amqp"), ("address", address.as_str()), ("error", "handshake")];
        (value(&metrics, "leveret_listener_errors_total", &labels) == 1.0).then_some(())
    });
}
