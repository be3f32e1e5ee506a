//! `/queues`: what there is. Nothing is declared or deleted here yet.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::listing::{list, object};
use super::request::Request;
use super::route::Route;
use crate::definitions::table_to_json;
use crate::policy::{Applied, Policy};
use crate::queue::Queue;
use crate::queue::settings::{DELIVERY_LIMIT_DEFAULT, QueueType};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/queues", Role::Vhost).get(list_all),
        Route::new("/queues/detailed", Role::Vhost).get(list_all),
        Route::new("/queues/{vhost}", Role::Vhost).get(list_all),
        Route::new("/queues/{vhost}/{queue}", Role::Vhost).get(get),
    ]
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    let mut items = Vec::new();
    for vhost in request.vhosts()? {
        items.extend(vhost.queues().iter().map(|queue| shown(queue, &request)));
    }
    list(&request.query, &["vhost", "name"], items)
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let queue = request.vhost()?.queue_named(request.name("queue")).ok_or_else(Failure::no_object)?;
    Ok(object(&request.query, shown(&queue, &request)))
}

/// A queue as RabbitMQ lists it; what it counts is left out if the query says `disable_stats`.
fn shown(queue: &Arc<Queue>, request: &Request) -> Map<String, Json> {
    let (identity, settings) = (&queue.identity, queue.settings());
    let node = request.broker.events().node();
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("arguments", table_to_json(&identity.arguments).into());
    set("auto_delete", identity.auto_delete.into());
    set("durable", identity.durable.into());
    set("exclusive", identity.exclusive.is_some().into());
    for (key, value) in policies(&settings.applied) {
        set(key, value);
    }
    set("internal", false.into());
    set("internal_owner", false.into());
    set("name", (&*identity.name).into());
    set("node", node.into());
    set("state", "running".into());
    set("type", settings.queue_type.name().into());
    set("vhost", (&*identity.vhost).into());
    if settings.queue_type == QueueType::Quorum {
        set("delivery_limit", settings.delivery_limit.unwrap_or(DELIVERY_LIMIT_DEFAULT).into());
        for key in ["members", "online"] {
            set(key, json!([node]));
        }
        set("leader", node.into());
    }
    let without_stats = request.query.is_true("disable_stats");
    if !without_stats || request.query.is_true("enable_queue_totals") {
        let counts = queue.counts();
        set("messages", (counts.ready + counts.unacked).into());
        set("messages_ready", counts.ready.into());
        set("messages_unacknowledged", counts.unacked.into());
        if !without_stats {
            set("consumers", counts.consumers.into());
        }
    }
    shown
}

/// The policies of a queue or exchange.
fn policies(applied: &Applied) -> [(&'static str, Json); 3] {
    let name = |policy: &Option<Arc<Policy>>| policy.as_ref().map_or(Json::Null, |policy| (&*policy.name).into());
    let definition = applied.definition().map(|definition| definition.as_map().clone());
    [
        ("policy", name(&applied.policy)),
        ("operator_policy", name(&applied.operator_policy)),
        ("effective_policy_definition", definition.unwrap_or_default().into()),
    ]
}
