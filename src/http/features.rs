//! `/extensions`, `/feature-flags`, `/deprecated-features` and `/rebalance/queues`: what tools ask to find out what a
//! RabbitMQ can do.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::listing::list;
use super::request::Request;
use super::route::Route;
use serde_json::{Map, Value as Json, json};

/// Feature flags of RabbitMQ 4.3 whose features there are here, with their plugins and texts. Those about clusters, rolling
/// upgrades and RabbitMQ's own insides are left out.
#[rustfmt::skip]
const FLAGS: [(&str, &str, &str, &str); 9] = [
    ("detailed_queues_endpoint", "rabbitmq_management", "Add a detailed queues HTTP API endpoint. Reduce number of metrics in the default endpoint.", ""),
    ("drop_unroutable_metric", "rabbitmq_management_agent", "Count unroutable publishes to be dropped in stats", ""),
    ("empty_basic_get_metric", "rabbitmq_management_agent", "Count AMQP `basic.get` on empty queues in stats", ""),
    ("implicit_default_bindings", "rabbit", "Default bindings are now implicit, instead of being stored in the database", ""),
    ("message_containers_deaths_v2", "rabbit", "Bug fix for dead letter cycle detection", "https://github.com/rabbitmq/rabbitmq-server/issues/11159"),
    ("quorum_queue", "rabbit", "Support queues of type `quorum`", "https://www.rabbitmq.com/docs/quorum-queues"),
    ("rabbit_exchange_type_local_random", "rabbit", "Local random exchange", ""),
    ("user_limits", "rabbit", "Configure connection and channel limits for a user", ""),
    ("virtual_host_metadata", "rabbit", "Virtual host metadata (description, tags, etc)", ""),
];

const TRANSIENT: &str = "transient_nonexcl_queues";
const ANNOUNCED: &str = "https://blog.rabbitmq.com/posts/2021/08/4.0-deprecation-announcements/";

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/extensions", Role::Management).get(extensions).says("Scripts of web pages").lists_all(),
        Route::new("/feature-flags", Role::Management).get(flags).says("Feature flags").lists_all(),
        Route::new("/feature-flags/{name}/enable", Role::Administrator)
            .put(enable)
            .says("Nothing: all are enabled")
            .takes(&[]),
        Route::new("/deprecated-features", Role::Management).get(deprecated).says("Deprecated features").lists_all(),
        Route::new("/deprecated-features/used", Role::Management)
            .get(deprecated_used)
            .says("Deprecated features in use")
            .lists_all(),
        Route::new("/rebalance/queues", Role::Administrator)
            .post(rebalance)
            .says("Nothing: there is one node")
            .takes(&[]),
    ]
}

/// The scripts of the web pages: those of RabbitMQ without plugins.
async fn extensions(_: Request) -> Result<Answer, Failure> {
    Ok(Answer::Json(json!([{"javascript": "dispatcher.js"}])))
}

async fn flags(request: Request) -> Result<Answer, Failure> {
    let items = FLAGS.iter().map(|(name, plugin, about, url)| {
        fields(json!({
            "name": name,
            "desc": about,
            "doc_url": url,
            "state": "enabled",
            "stability": "required",
            "require_level": "hard",
            "experiment_level": "supported",
            "callbacks": [],
            "provided_by": plugin,
        }))
    });
    list(&request.query, &["name"], items.collect())
}

/// Those that there are, are enabled.
async fn enable(request: Request) -> Result<Answer, Failure> {
    match FLAGS.iter().any(|(name, ..)| *name == request.name("name")) {
        true => Ok(Answer::Done),
        false => Err(Failure::bad_request("unsupported")),
    }
}

async fn deprecated(request: Request) -> Result<Answer, Failure> {
    list(&request.query, &[], deprecated_features(&request))
}

async fn deprecated_used(request: Request) -> Result<Answer, Failure> {
    let is_used = |name: &str| {
        let mut queues = request.broker.list_vhosts().into_iter().flat_map(|vhost| vhost.queues());
        name == TRANSIENT && queues.any(|queue| !queue.identity.durable && queue.identity.exclusive.is_none())
    };
    let mut items = deprecated_features(&request);
    items.retain(|item| item.get("name").and_then(Json::as_str).is_some_and(is_used));
    list(&request.query, &[], items)
}

/// Those of RabbitMQ 4.3 that concern what there is here.
fn deprecated_features(request: &Request) -> Vec<Map<String, Json>> {
    let config = &request.broker.config;
    let features = [
        ("queue_master_locator", false, "denied_by_default", "rabbit", ""),
        ("global_qos", config.permit_global_qos, "denied_by_default", "rabbit", "#removal-of-global-qos"),
        (
            "management_metrics_collection",
            true,
            "permitted_by_default",
            "rabbitmq_management_agent",
            "#disable-metrics-delivery-via-the-management-api--ui",
        ),
        (
            TRANSIENT,
            config.permit_transient_nonexclusive_queues,
            "permitted_by_default",
            "rabbit",
            "#removal-of-transient-non-exclusive-queues",
        ),
        ("classic_queue_mirroring", false, "removed", "rabbit", "#removal-of-classic-queue-mirroring"),
        ("ram_node_type", false, "removed", "rabbit", "#removal-of-ram-nodes"),
    ];
    let shown = features.map(|(name, permitted, phase, plugin, part)| {
        fields(json!({
            "name": name,
            "state": if permitted { "permitted" } else { "denied" },
            "desc": "",
            "deprecation_phase": phase,
            "doc_url": if part.is_empty() { String::new() } else { format!("{ANNOUNCED}{part}") },
            "provided_by": plugin,
        }))
    });
    shown.into()
}

fn fields(object: Json) -> Map<String, Json> {
    match object {
        Json::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// All queues are on the one node there is.
async fn rebalance(request: Request) -> Result<Answer, Failure> {
    tracing::info!("user '{}' has asked for a rebalance of queues: there is one node", request.by());
    Ok(Answer::Done)
}
