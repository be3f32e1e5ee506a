//! `/channels`, also those of a connection and of a virtual host.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::listing::{list, object};
use super::request::{Names, Request};
use super::route::Route;
use super::stats::{Grids, Group, put_message_stats};
use super::{connections, consumers};
use crate::broker::Broker;
use crate::broker::connections::{Opened, Registered};
use crate::clock;
use crate::vhost::clients::Channel;
use serde_json::{Map, Value as Json};
use std::sync::Arc;

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/channels", Role::Management).get(list_all).says("All channels").lists(),
        Route::new("/channels/{channel}", Role::Owner(owner)).get(get).says("A channel"),
        Route::new("/connections/{connection}/channels", Role::Owner(connections::owner))
            .get(list_of_connection)
            .says("The channels of a connection")
            .lists(),
        Route::new("/vhosts/{vhost}/channels", Role::Vhost)
            .get(list_of_vhost)
            .says("The channels in a virtual host")
            .lists(),
    ]
}

/// `127.0.0.1:50000 -> 127.0.0.1:5672 (1)`.
pub(super) fn name(connection: &Registered, number: u16) -> String {
    format!("{} ({number})", connection.name)
}

/// What RabbitMQ says where it has nothing without its statistics.
pub(super) fn without_stats() -> Failure {
    Failure::bad_request("Stats in management UI are disabled on this node")
}

fn named(broker: &Broker, name: &str) -> Option<(Arc<Registered>, Channel)> {
    let (connection, number) = name.strip_suffix(')')?.rsplit_once(" (")?;
    let number: u16 = number.parse().ok()?;
    let connection = connections::named(broker, connection)?;
    let channel = connection.channels().into_iter().find(|channel| channel.number == number)?;
    Some((connection, channel))
}

fn owner(broker: &Broker, names: &Names) -> Option<Arc<str>> {
    let (connection, _) = named(broker, names.find("channel")?)?;
    connection.opened().map(|opened| Arc::clone(&opened.user))
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    listed(&request, |_, _| true)
}

async fn list_of_connection(request: Request) -> Result<Answer, Failure> {
    let meant = connections::named(&request.broker, request.name("connection")).ok_or_else(Failure::no_object)?;
    listed(&request, |connection, _| connection.id == meant.id)
}

async fn list_of_vhost(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    listed(&request, |_, opened| opened.vhost.name == vhost.name)
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let found = named(&request.broker, request.name("channel"));
    let (connection, channel) = found.ok_or_else(Failure::no_object)?;
    let opened = connection.opened().ok_or_else(Failure::no_object)?;
    let mut shown = shown(&connection, opened, &channel, &request, &Grids::of(&request.query)?);
    let consumers = channel.consumers.iter();
    let details = consumers.map(|consumer| consumers::shown(&connection, opened, &channel, consumer, &request));
    shown.insert("consumer_details".to_owned(), details.map(Json::Object).collect());
    Ok(object(&request.query, shown))
}

/// Whoever does not monitor sees only their own.
fn listed(request: &Request, is_meant: impl Fn(&Registered, &Opened) -> bool) -> Result<Answer, Failure> {
    let visitor = request.visitor();
    let (grids, mut items) = (Grids::of(&request.query)?, Vec::new());
    for connection in request.broker.connections.list() {
        let Some(opened) = connection.opened() else { continue };
        if (visitor.is_monitor() || opened.user == visitor.name) && is_meant(&connection, opened) {
            let channels = connection.channels();
            items.extend(channels.iter().map(|channel| shown(&connection, opened, channel, request, &grids)));
        }
    }
    list(&request.query, &["vhost", "name"], items)
}

/// A channel as RabbitMQ lists it; what it counts is left out if the query says `disable_stats`.
fn shown(
    connection: &Registered,
    opened: &Opened,
    channel: &Channel,
    request: &Request,
    grids: &Grids,
) -> Map<String, Json> {
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("connection_details", connections::details(connection).into());
    set("name", name(connection, channel.number).into());
    set("node", request.broker.events().node().into());
    set("number", channel.number.into());
    set("user", (&*opened.user).into());
    set("user_who_performed_action", (&*opened.user).into());
    set("vhost", (&*opened.vhost.name).into());
    if !request.without_stats() {
        set("acks_uncommitted", channel.acks_uncommitted.into());
        set("confirm", channel.confirms.into());
        set("consumer_count", channel.consumers.len().into());
        set("global_prefetch_count", 0.into());
        set("messages_unacknowledged", channel.unacked.into());
        set("messages_uncommitted", channel.uncommitted.into());
        set("messages_unconfirmed", channel.unconfirmed.into());
        set("pending_raft_commands", 0.into());
        set("prefetch_count", channel.prefetch.into());
        set("state", "running".into());
        set("transactional", channel.transactional.into());
        if let Some(at_ms) = channel.counted.watch.recent().idle_since_ms() {
            set("idle_since", clock::iso(at_ms).into());
        }
        let groups = [Group::Published, Group::Delivered];
        put_message_stats(&mut shown, &channel.counted, &groups, request, grids);
    }
    shown
}
