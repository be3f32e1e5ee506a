//! `/queues`: what there is, declared, emptied and deleted by the rules of AMQP. Messages are got in [`super::messages`].

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::{Table, Text, Truth};
use super::describe::{Field, may, must};
use super::listing::{list, list_of, object};
use super::request::{Request, safe_if_any};
use super::route::Route;
use super::stats::Grids;
use super::values::{self, flag};
use super::{channels, connections, consumers, queue_stats};
use crate::definitions::table_to_json;
use crate::policy::{Applied, Policy};
use crate::queue::Queue;
use crate::queue::classic::Acts;
use crate::queue::settings::{DELIVERY_LIMIT_DEFAULT, QueueType};
use crate::vhost::Vhost;
use crate::vhost::clients::Consumer;
use crate::vhost::declare::QueueWish;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

const STATS: &[Field] = &[may("disable_stats", Truth), may("enable_queue_totals", Truth)];
const WISH: &[Field] = &[may("durable", Truth), may("auto_delete", Truth), may("arguments", Table), may("node", Text)];

const IF: &[Field] = &[may("if-unused", Truth), may("if-empty", Truth)];
const ACTION: &[Field] = &[must("action", Text)];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/queues", Role::Vhost).get(list_all).says("All queues").lists().asks(STATS),
        Route::new("/queues/detailed", Role::Vhost)
            .get(list_all)
            .says("All queues, with statistics")
            .lists()
            .asks(STATS),
        Route::new("/queues/{vhost}", Role::Vhost)
            .get(list_all)
            .says("The queues of a virtual host")
            .lists()
            .asks(STATS),
        Route::new("/queues/{vhost}/{queue}", Role::Vhost)
            .get(get)
            .says("A queue")
            .asks(STATS)
            .put(put)
            .says("Declares a queue")
            .takes(WISH)
            .delete(delete)
            .says("Deletes a queue")
            .asks(IF),
        Route::new("/queues/{vhost}/{queue}/contents", Role::Vhost).delete(purge).says("Drops its ready messages"),
        Route::new("/queues/{vhost}/{queue}/unacked", Role::Vhost)
            .get(unacked)
            .says("Its messages that clients have not acknowledged, and which clients those are")
            .lists(),
        Route::new("/queues/{vhost}/{queue}/actions", Role::Administrator)
            .post(act)
            .says("Nothing: its actions are gone")
            .takes(ACTION),
        Route::new("/users/{user}/queues", Role::Management)
            .get(list_of_user)
            .says("The queues that a user declared")
            .lists(),
    ]
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    let queues = request.vhosts()?.iter().flat_map(|vhost| vhost.queues()).collect();
    listed(&request, queues)
}

/// So many of a queue's unacknowledged messages are listed.
const UNACKED_MAX: u64 = 10_000;

/// As LavinMQ lists them.
async fn unacked(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    let queue = vhost.queue_named(request.name("queue")).ok_or_else(Failure::no_object)?;
    let mut items = Vec::new();
    let mut left = UNACKED_MAX;
    for connection in request.broker.connections.list() {
        for unacked in connection.unacked(&queue) {
            let channel = channels::name(&connection, unacked.channel);
            for tag in unacked.tags.take(usize::try_from(left).unwrap_or(usize::MAX)) {
                left -= 1;
                let mut shown = Map::new();
                let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
                set("delivery_tag", tag.into());
                set("consumer_tag", unacked.consumer.as_deref().unwrap_or("Basic get").into());
                set("unacked_for_seconds", unacked.sent_before.as_secs().into());
                set("channel_name", channel.as_str().into());
                items.push(shown);
            }
        }
    }
    list(&request.query, &["channel_name", "delivery_tag"], items)
}

/// Only those of the page are looked at closely.
fn listed(request: &Request, queues: Vec<Arc<Queue>>) -> Result<Answer, Failure> {
    let grids = Grids::of(&request.query)?;
    let shown = |queue: &Arc<Queue>| shown(queue, request, &grids);
    let key = |queue: &Arc<Queue>, path: &str| queue_stats::key(queue, path, shown);
    list_of(&request.query, &["vhost", "name"], queues, key, |queue| shown(&queue))
}

async fn list_of_user(request: Request) -> Result<Answer, Failure> {
    let user = request.name("user");
    let all = request.vhosts()?.into_iter().flat_map(|vhost| vhost.queues());
    listed(&request, all.filter(|queue| *queue.identity.user == *user).collect())
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let queue = request.vhost()?.queue_named(request.name("queue")).ok_or_else(Failure::no_object)?;
    let mut shown = shown(&queue, &request, &Grids::of(&request.query)?);
    if !request.without_stats() {
        add_clients(&mut shown, &queue, &request);
    }
    Ok(object(&request.query, shown))
}

/// What only a look at one queue tells: who takes from it, and whose it is.
fn add_clients(shown: &mut Map<String, Json>, queue: &Arc<Queue>, request: &Request) {
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    let consumers = consumers::of_queue(queue, request);
    let exclusive = consumers.iter().find(|(consumer, _)| consumer.terms.exclusive);
    let active = queue.active_consumer();
    let active = consumers.iter().find(|(consumer, _)| Some(consumer.key) == active);
    let tag = |found: Option<&(Consumer, _)>| found.map_or(Json::Null, |(consumer, _)| (&*consumer.tag).into());
    set("exclusive_consumer_tag", tag(exclusive));
    set("single_active_consumer_tag", tag(active));
    set("consumer_details", consumers.into_iter().map(|(_, shown)| Json::Object(shown)).collect());
    if let Some(owner) = queue.identity.exclusive.and_then(|owner| request.broker.connections.find(owner)) {
        set("owner_pid_details", connections::details(&owner).into());
    }
}

/// queue.declare. `exclusive` belongs to no connection here: it only keeps the queue from being durable, as in RabbitMQ.
async fn put(mut request: Request) -> Result<Answer, Failure> {
    let name = values::name("queue", request.name("queue"))?.to_owned();
    let vhost = request.vhost_to_change()?;
    let fields = request.json().await?;
    let durable = flag(&fields, "durable")?;
    let exclusive = match fields.get("exclusive") {
        None => false,
        Some(Json::Bool(exclusive)) => *exclusive,
        Some(other) => return Err(Failure::of_node(&request, &format!("an \"exclusive\" that is no truth: {other}"))),
    };
    let auto_delete = flag(&fields, "auto_delete")?;
    let arguments = values::arguments(&fields)?;
    let passive = flag(&fields, "passive")?;
    check_node(&fields, &request)?;
    let actor = request.actor(&vhost)?;
    if passive {
        let (_, committed) = vhost.find_queue(&actor, &name)?;
        safe_if_any(committed).await?;
        return Ok(Answer::put(false));
    }
    let wish = QueueWish { durable: durable && !exclusive, exclusive: false, auto_delete, arguments };
    let ((_, is_new), committed) = vhost.declare_queue(&actor, &name, wish)?;
    safe_if_any(committed).await?;
    Ok(Answer::put(is_new))
}

/// There is only this one.
fn check_node(fields: &Map<String, Json>, request: &Request) -> Result<(), Failure> {
    match fields.get("node") {
        None => Ok(()),
        Some(Json::String(node)) if node == request.broker.events().node() => Ok(()),
        Some(Json::String(node)) => Err(Failure::bad_request(format!("Node {node} is not a cluster member"))),
        Some(other) => Err(Failure::bad_request(json!(["not_string", "node", other]))),
    }
}

async fn delete(request: Request) -> Result<Answer, Failure> {
    let (vhost, queue) = found(&request)?;
    let (if_unused, if_empty) = (request.query.is_true("if-unused"), request.query.is_true("if-empty"));
    let actor = request.actor(&vhost)?;
    let (_, committed) = vhost.delete_queue(&actor, &queue.identity.name, if_unused, if_empty)?;
    safe_if_any(committed).await?;
    Ok(Answer::Done)
}

async fn purge(request: Request) -> Result<Answer, Failure> {
    let (vhost, queue) = found(&request)?;
    let actor = request.actor(&vhost)?;
    let mut acts = Acts::default();
    let purged = vhost.purge_queue(&actor, &queue.identity.name, &mut acts);
    acts.run();
    let (_, committed) = purged?;
    safe_if_any(committed).await?;
    Ok(Answer::Done)
}

/// RabbitMQ's actions were for mirrored queues; none is left.
async fn act(mut request: Request) -> Result<Answer, Failure> {
    to_use(&request)?;
    let ([action], _) = request.fields(["action"]).await?;
    Err(Failure::bad_request(json!(["unknown", action])))
}

/// The queue that the path names, to change it.
fn found(request: &Request) -> Result<(Arc<Vhost>, Arc<Queue>), Failure> {
    let vhost = request.vhost()?;
    let queue = vhost.queue_named(request.name("queue")).ok_or_else(Failure::no_object)?;
    Ok((vhost, queue))
}

/// The same to do something with it, which RabbitMQ refuses with other words.
pub(super) fn to_use(request: &Request) -> Result<(Arc<Vhost>, Arc<Queue>), Failure> {
    let vhost = request.vhost_to_change()?;
    let queue = vhost.queue_named(request.name("queue")).ok_or_else(|| Failure::not_found("queue_not_found"))?;
    Ok((vhost, queue))
}

/// A queue as RabbitMQ lists it; what it counts is left out if the query says `disable_stats`.
fn shown(queue: &Arc<Queue>, request: &Request, grids: &Grids) -> Map<String, Json> {
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
    queue_stats::add(&mut shown, queue, request, grids);
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
