//! `/consumers`: who takes messages.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::channels;
use super::listing::list;
use super::request::Request;
use super::route::Route;
use crate::broker::connections::{Opened, Registered};
use crate::definitions::table_to_json;
use crate::queue::Queue;
use crate::vhost::clients::{Channel, Consumer};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/consumers", Role::Management).get(list_all).says("All consumers").lists(),
        Route::new("/consumers/{vhost}", Role::Management)
            .get(list_of_vhost)
            .says("The consumers of a virtual host")
            .lists(),
    ]
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    listed(&request, |_| true)
}

async fn list_of_vhost(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    listed(&request, |queue| queue.identity.vhost == vhost.name)
}

/// Whoever does not monitor sees only their own.
fn listed(request: &Request, is_meant: impl Fn(&Queue) -> bool) -> Result<Answer, Failure> {
    if request.query.is_true("disable_stats") {
        return Err(channels::without_stats());
    }
    let visitor = request.visitor();
    let is_seen = |opened: &Opened| visitor.is_monitor() || opened.user == visitor.name;
    let consumers = all(request, is_seen, is_meant).into_iter().map(|(_, shown)| shown);
    list(&request.query, &["vhost", "name"], consumers.collect())
}

/// Those of a queue, in the order in which they came.
pub(super) fn of_queue(queue: &Arc<Queue>, request: &Request) -> Vec<(Consumer, Map<String, Json>)> {
    if queue.counts().consumers == 0 {
        return Vec::new();
    }
    let mut consumers = all(request, |_| true, |of| std::ptr::eq(of, &**queue));
    consumers.sort_unstable_by_key(|(consumer, _)| consumer.key);
    consumers
}

fn all(
    request: &Request,
    is_seen: impl Fn(&Opened) -> bool,
    is_meant: impl Fn(&Queue) -> bool,
) -> Vec<(Consumer, Map<String, Json>)> {
    let mut found = Vec::new();
    for connection in request.broker.connections.list() {
        let Some(opened) = connection.opened().filter(|opened| is_seen(opened)) else { continue };
        for mut channel in connection.channels() {
            for consumer in std::mem::take(&mut channel.consumers) {
                if is_meant(&consumer.queue) {
                    let shown = shown(&connection, opened, &channel, &consumer, request);
                    found.push((consumer, shown));
                }
            }
        }
    }
    found
}

/// A consumer as RabbitMQ lists it.
pub(super) fn shown(
    connection: &Registered,
    opened: &Opened,
    channel: &Channel,
    consumer: &Consumer,
    request: &Request,
) -> Map<String, Json> {
    let queue = &consumer.queue;
    let is_single = queue.settings().single_active_consumer;
    let is_active = !is_single || queue.active_consumer() == Some(consumer.key);
    let status = match (is_single, is_active) {
        (false, _) => "up",
        (true, true) => "single_active",
        (true, false) => "waiting",
    };
    let timeout = consumer.timeout.or(request.broker.config.consumer_timeout);
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("ack_required", (!consumer.terms.no_ack).into());
    set("active", is_active.into());
    set("activity_status", status.into());
    set("arguments", table_to_json(&consumer.arguments).into());
    set("channel_details", details(connection, opened, channel.number, request).into());
    set("consumer_tag", (&*consumer.tag).into());
    set("consumer_timeout", timeout.and_then(|timeout| u64::try_from(timeout.as_millis()).ok()).into());
    set("exclusive", consumer.terms.exclusive.into());
    set("prefetch_count", consumer.terms.prefetch.into());
    set("queue", json!({"name": &*queue.identity.name, "vhost": &*queue.identity.vhost}));
    shown
}

fn details(connection: &Registered, opened: &Opened, number: u16, request: &Request) -> Map<String, Json> {
    let mut details = Map::new();
    let mut set = |key: &str, value: Json| drop(details.insert(key.to_owned(), value));
    set("connection_name", (&*connection.name).into());
    set("name", channels::name(connection, number).into());
    set("node", request.broker.events().node().into());
    set("number", number.into());
    set("peer_host", connection.peer.ip().to_string().into());
    set("peer_port", connection.peer.port().into());
    set("user", (&*opened.user).into());
    details
}
