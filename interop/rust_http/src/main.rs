//! RabbitMQ's HTTP client for Rust: the common commands, each of whose answers the client has to understand.
//!
//! `HTTP` is the broker's `host:port`. Somebody consumes from the queue `watched` with the tag `watcher` meanwhile, over a
//! connection that is named `watcher`.

use rabbitmq_http_client::blocking_api::Client;
use rabbitmq_http_client::commons::{
    BindingDestinationType, ExchangeType, PaginationParams, PolicyTarget, SupportedProtocol, UserLimitTarget,
    VirtualHostLimitTarget,
};
use rabbitmq_http_client::password_hashing::{base64_encoded_salted_password_hash_sha256, salt};
use rabbitmq_http_client::requests::{
    BindingDeletionParams, EnforcedLimitParams, ExchangeParams, Permissions, PolicyParams, QueueParams, UserParams,
    VirtualHostParams,
};
use serde_json::{Map, Value as Json, json};
use std::panic::{AssertUnwindSafe, catch_unwind};

type Http = Client<String, String, String>;

const CHECKS: &[(&str, fn(&Http))] = &[
    ("overview and nodes", overview),
    ("health checks", health),
    ("virtual hosts", vhosts),
    ("users and permissions", users),
    ("queues", queues),
    ("exchanges", exchanges),
    ("bindings", bindings),
    ("publishing and getting", messages),
    ("connections, channels and consumers", clients),
    ("policies", policies),
    ("parameters and limits", parameters),
    ("feature flags and deprecated features", features),
    ("definitions", definitions),
    ("closing a connection", closing),
];

fn main() {
    let endpoint = format!("http://{}/api", std::env::var("HTTP").expect("HTTP is set"));
    let client = Client::new(endpoint, "guest".to_owned(), "guest".to_owned());
    let mut failed = false;
    for (name, check) in CHECKS {
        let passed = catch_unwind(AssertUnwindSafe(|| check(&client))).is_ok();
        println!("{} rust_http: {name}", if passed { "passed" } else { "FAILED" });
        failed |= !passed;
    }
    std::process::exit(failed.into());
}

fn object(json: Json) -> Map<String, Json> {
    json.as_object().expect("an object").clone()
}

fn overview(client: &Http) {
    let overview = client.overview().unwrap();
    assert!(overview.rabbitmq_version.starts_with("4."), "{}", overview.rabbitmq_version);
    assert!(!client.server_version().unwrap().is_empty());
    let nodes = client.list_nodes().unwrap();
    assert_eq!(client.get_node_info(&nodes[0].name).unwrap().name, nodes[0].name);
    client.set_cluster_name("warren").unwrap();
    assert_eq!(client.get_cluster_name().unwrap().name, "warren");
    assert_eq!(client.current_user().unwrap().name, "guest");
}

fn health(client: &Http) {
    client.health_check_cluster_wide_alarms().unwrap();
    client.health_check_local_alarms().unwrap();
    client.health_check_if_node_is_quorum_critical().unwrap();
    client.health_check_protocol_listener(SupportedProtocol::AMQP).unwrap();
    assert!(client.health_check_port_listener(1).is_err());
}

fn vhosts(client: &Http) {
    client.create_vhost(&VirtualHostParams::named("rust")).unwrap();
    assert_eq!(client.get_vhost("rust").unwrap().name, "rust");
    assert!(client.list_vhosts().unwrap().len() > 1);
    client.enable_vhost_deletion_protection("rust").unwrap();
    assert!(client.delete_vhost("rust", false).is_err());
    client.disable_vhost_deletion_protection("rust").unwrap();
    client.delete_vhost("rust", false).unwrap();
    client.delete_vhost("rust", true).unwrap();
    assert!(client.get_vhost("rust").is_err());
}

fn users(client: &Http) {
    let hash = base64_encoded_salted_password_hash_sha256(&salt(), "secret");
    client.create_user(&UserParams::management("rust", &hash)).unwrap();
    assert_eq!(client.get_user("rust").unwrap().name, "rust");
    assert!(client.list_users().unwrap().iter().any(|user| user.name == "rust"));
    assert_eq!(client.list_users_without_permissions().unwrap().len(), 1);
    let some = Permissions { user: "rust", vhost: "/", configure: "^r", read: ".*", write: "" };
    client.declare_permissions(&some).unwrap();
    assert_eq!(client.get_permissions("/", "rust").unwrap().configure, "^r");
    assert_eq!(client.list_permissions_of("rust").unwrap().len(), 1);
    assert!(client.list_permissions_in("/").unwrap().len() > 1);
    assert!(client.list_permissions().unwrap().len() > 1);
    assert!(client.list_topic_permissions().unwrap().is_empty());
    client.clear_permissions("/", "rust", false).unwrap();
    client.delete_user("rust", false).unwrap();
}

fn queues(client: &Http) {
    let arguments = Some(object(json!({"x-max-length": 5})));
    client.declare_queue("/", &QueueParams::new_durable_classic_queue("rust", arguments)).unwrap();
    client.declare_queue("/", &QueueParams::new_quorum_queue("rust-quorum", None)).unwrap();
    client.declare_queue("/", &QueueParams::new_transient_autodelete("rust-transient", None)).unwrap();
    let found = client.get_queue_info("/", "rust").unwrap();
    assert_eq!((found.queue_type.as_str(), found.durable), ("classic", true));
    assert!(client.list_queues().unwrap().len() > 3);
    assert!(client.list_queues_in("/").unwrap().len() > 3);
    assert!(client.list_queues_with_details().unwrap().len() > 3);
    assert_eq!(client.list_queues_paged(&PaginationParams::new(1, 2)).unwrap().len(), 2);
    assert_eq!(client.list_quorum_queues().unwrap().len(), 1);
    client.purge_queue("/", "rust").unwrap();
    let other = QueueParams::new_durable_classic_queue("rust", None);
    assert!(client.declare_queue("/", &other).is_err());
    for name in ["rust", "rust-quorum", "rust-transient"] {
        client.delete_queue("/", name, false).unwrap();
    }
    assert!(client.delete_queue("/", "rust", false).is_err());
    client.delete_queue("/", "rust", true).unwrap();
}

fn exchanges(client: &Http) {
    client.declare_exchange("/", &ExchangeParams::durable("rust", ExchangeType::Topic, None)).unwrap();
    assert_eq!(client.get_exchange_info("/", "rust").unwrap().name, "rust");
    assert!(client.list_exchanges().unwrap().len() > 6);
    assert!(client.list_exchanges_in("/").unwrap().len() > 6);
    assert_eq!(client.list_exchanges_paged(&PaginationParams::new(1, 3)).unwrap().len(), 3);
    client.delete_exchange("/", "rust", false).unwrap();
    assert!(client.delete_exchange("/", "rust", false).is_err());
}

fn bindings(client: &Http) {
    client.declare_classic_queue("/", "rust").unwrap();
    let arguments = Some(object(json!({"n": 1, "t": "x"})));
    client.bind_queue("/", "rust", "amq.topic", Some("a.# ~"), arguments.clone()).unwrap();
    client.bind_queue("/", "rust", "amq.topic", None, None).unwrap();
    client.bind_exchange("/", "amq.fanout", "amq.topic", Some("k"), None).unwrap();
    assert_eq!(client.list_queue_bindings("/", "rust").unwrap().len(), 3);
    assert_eq!(client.list_exchange_bindings_with_source("/", "amq.topic").unwrap().len(), 3);
    assert_eq!(client.list_exchange_bindings_with_destination("/", "amq.fanout").unwrap().len(), 1);
    assert!(client.list_bindings().unwrap().len() > 3);
    for (destination, destination_type, routing_key, arguments) in [
        ("rust", BindingDestinationType::Queue, "a.# ~", arguments),
        ("rust", BindingDestinationType::Queue, "", None),
        ("amq.fanout", BindingDestinationType::Exchange, "k", None),
    ] {
        let source = "amq.topic";
        let meant =
            BindingDeletionParams { virtual_host: "/", source, destination, destination_type, routing_key, arguments };
        client.delete_binding(&meant, false).unwrap();
    }
    assert!(client.list_exchange_bindings_with_source("/", "amq.topic").unwrap().is_empty());
    client.delete_queue("/", "rust", false).unwrap();
}

fn messages(client: &Http) {
    client.declare_classic_queue("/", "rust").unwrap();
    let properties = object(json!({"delivery_mode": 2, "headers": {"n": 1}, "content_type": "text/plain"}));
    assert!(client.publish_message("/", "amq.default", "rust", "one", properties.clone()).unwrap().routed);
    assert!(client.publish_message("/", "amq.default", "rust", "two", Map::new()).unwrap().routed);
    assert!(!client.publish_message("/", "amq.default", "none", "m", Map::new()).unwrap().routed);
    let got = client.get_messages("/", "rust", 5, "ack_requeue_true").unwrap();
    assert_eq!(got.iter().map(|message| message.payload.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(got[0].properties.0, properties);
    assert_eq!(client.get_messages("/", "rust", 5, "ack_requeue_false").unwrap().len(), 2);
    assert!(client.get_messages("/", "rust", 5, "ack_requeue_false").unwrap().is_empty());
    client.delete_queue("/", "rust", false).unwrap();
}

fn clients(client: &Http) {
    let connections = client.list_connections().unwrap();
    let name = &connections[0].name;
    assert_eq!(connections[0].client_properties.connection_name, "watcher");
    assert_eq!(client.get_connection_info(name).unwrap().username, "guest");
    assert_eq!(client.list_connections_in("/").unwrap().len(), 1);
    assert_eq!(client.list_user_connections("guest").unwrap().len(), 1);
    let channels = client.list_channels().unwrap();
    assert_eq!(channels[0].consumer_count, 1);
    assert_eq!(client.list_channels_on(name).unwrap().len(), 1);
    assert_eq!(client.list_channels_in("/").unwrap().len(), 1);
    assert_eq!(client.get_channel_info(&channels[0].name).unwrap().name, channels[0].name);
    let consumers = client.list_consumers().unwrap();
    assert_eq!((consumers[0].consumer_tag.as_str(), consumers[0].queue.name.as_str()), ("watcher", "watched"));
    assert_eq!(client.list_consumers_in("/").unwrap().len(), 1);
}

fn policies(client: &Http) {
    let policy = PolicyParams {
        vhost: "/",
        name: "rust",
        pattern: "^rust",
        apply_to: PolicyTarget::Queues,
        priority: 3,
        definition: object(json!({"max-length": 5})),
    };
    client.declare_policy(&policy).unwrap();
    assert_eq!(client.get_policy("/", "rust").unwrap().priority, 3);
    assert_eq!(client.list_policies().unwrap().len(), 1);
    assert_eq!(client.list_policies_in("/").unwrap().len(), 1);
    client.delete_policy("/", "rust", false).unwrap();
    client.declare_operator_policy(&policy).unwrap();
    assert_eq!(client.list_operator_policies().unwrap().len(), 1);
    client.delete_operator_policy("/", "rust", false).unwrap();
}

fn parameters(client: &Http) {
    assert!(client.list_runtime_parameters().unwrap().is_empty());
    assert!(!client.list_global_runtime_parameters().unwrap().is_empty());
    let limit = EnforcedLimitParams::new(VirtualHostLimitTarget::MaxQueues, 100);
    client.set_vhost_limit("/", limit).unwrap();
    assert_eq!(client.list_vhost_limits("/").unwrap().len(), 1);
    client.clear_vhost_limit("/", VirtualHostLimitTarget::MaxQueues).unwrap();
    client.set_user_limit("guest", EnforcedLimitParams::new(UserLimitTarget::MaxChannels, 100)).unwrap();
    assert_eq!(client.list_user_limits("guest").unwrap().len(), 1);
    client.clear_user_limit("guest", UserLimitTarget::MaxChannels).unwrap();
}

fn features(client: &Http) {
    client.list_feature_flags().unwrap();
    client.list_all_deprecated_features().unwrap();
    client.list_deprecated_features_in_use().unwrap();
}

fn definitions(client: &Http) {
    client.declare_classic_queue("/", "rust").unwrap();
    let exported = client.export_cluster_wide_definitions_as_data().unwrap();
    assert!(exported.queues.iter().any(|queue| queue.name == "rust"));
    let document: Json = serde_json::from_str(&client.export_cluster_wide_definitions().unwrap()).unwrap();
    client.delete_queue("/", "rust", false).unwrap();
    client.import_definitions(document).unwrap();
    client.get_queue_info("/", "rust").unwrap();
    assert!(client.export_vhost_definitions("/").unwrap().contains("rust"));
    client.delete_queue("/", "rust", false).unwrap();
}

fn closing(client: &Http) {
    let name = client.list_connections().unwrap()[0].name.clone();
    client.close_connection(&name, Some("enough"), false).unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !client.list_connections().unwrap().is_empty() {
        assert!(std::time::Instant::now() < end, "the connection stays");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    client.close_connection(&name, None, true).unwrap();
}
