//! `/overview` and `/nodes`: what this broker is, and how much there is in it. Rates come with the metrics.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::listing::{list, object};
use super::request::Request;
use super::route::Route;
use serde_json::{Map, Value as Json, json};

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/overview", Role::Management).get(overview).says("The broker at a glance"),
        Route::new("/nodes", Role::Monitoring).get(nodes).says("All nodes: there is one").lists(),
        Route::new("/nodes/{node}", Role::Monitoring).get(node).says("A node"),
    ]
}

async fn overview(request: Request) -> Result<Answer, Failure> {
    let (broker, visitor) = (&request.broker, request.visitor());
    let config = &broker.config;
    let mut vhosts = broker.list_vhosts();
    vhosts.retain(|vhost| visitor.is_monitor() || visitor.may_enter(broker, &vhost.name));
    let (mut exchanges, mut queues, mut consumers, mut ready, mut unacked) = (0, 0, 0, 0, 0);
    for vhost in &vhosts {
        exchanges += vhost.exchanges().len();
        for queue in vhost.queues() {
            let counts = queue.counts();
            queues += 1;
            consumers += counts.consumers;
            ready += counts.ready;
            unacked += counts.unacked;
        }
    }
    let connections = broker.connections.list();
    let own = connections.iter().filter(|connection| {
        visitor.is_monitor() || connection.opened().is_some_and(|opened| opened.user == visitor.name)
    });
    let (connections, channels) =
        own.fold((0, 0), |(count, channels), one| (count + 1, channels + one.channel_count()));
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("management_version", config.product_version.as_str().into());
    set("rates_mode", "none".into());
    set("product_version", config.product_version.as_str().into());
    set("product_name", config.product_name.as_str().into());
    set("rabbitmq_version", config.product_version.as_str().into());
    set("cluster_name", broker.cluster_name().into());
    set("default_queue_type", config.default_queue_type.as_str().into());
    set(
        "object_totals",
        json!({"channels": channels, "connections": connections, "consumers": consumers, "exchanges": exchanges, "queues": queues}),
    );
    set(
        "queue_totals",
        json!({"messages": ready + unacked, "messages_ready": ready, "messages_unacknowledged": unacked}),
    );
    if visitor.is_monitor() {
        set("node", broker.events().node().into());
    }
    Ok(object(&request.query, shown))
}

async fn nodes(request: Request) -> Result<Answer, Failure> {
    list(&request.query, &["name"], vec![shown(&request)])
}

async fn node(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    Ok(object(&request.query, shown(&request)))
}

fn shown(request: &Request) -> Map<String, Json> {
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("name", request.broker.events().node().into());
    set("type", "disc".into());
    set("running", true.into());
    set("being_drained", false.into());
    set("os_pid", std::process::id().to_string().into());
    set("rates_mode", "none".into());
    set("db_dir", request.broker.config.data_dir.display().to_string().into());
    set("partitions", json!([]));
    shown
}
