//! `/connections`: who is connected, and ending a connection.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::listing::{list, object};
use super::request::{Names, Request};
use super::route::Route;
use super::stats::{Grids, Past};
use crate::amqp::table::as_str;
use crate::broker::Broker;
use crate::broker::connections::{Opened, Registered};
use crate::definitions::table_to_json;
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// Said in connection.close unless the header says why.
const REASON: &str = "Closed via management plugin";
const REASON_HEADER: &str = "x-reason";

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/connections", Role::Management).get(list_all).says("All connections").lists(),
        Route::new("/connections/{connection}", Role::Owner(owner))
            .get(get)
            .says("A connection")
            .delete(delete)
            .says("Closes a connection; `X-Reason` says why"),
        Route::new("/connections/{connection}/sessions", Role::Owner(owner))
            .get(sessions)
            .says("Nothing: sessions are AMQP 1.0's"),
        Route::new("/connections/username/{user}", Role::Owner(user_named))
            .get(list_of_user)
            .says("The connections of a user")
            .lists()
            .delete(delete_of_user)
            .says("Closes the connections of a user"),
        Route::new("/vhosts/{vhost}/connections", Role::Vhost)
            .get(list_of_vhost)
            .says("The connections in a virtual host")
            .lists(),
    ]
}

fn user_named(_: &Broker, names: &Names) -> Option<Arc<str>> {
    names.find("user").map(Arc::from)
}

pub(super) fn owner(broker: &Broker, names: &Names) -> Option<Arc<str>> {
    let connection = named(broker, names.find("connection")?)?;
    connection.opened().map(|opened| Arc::clone(&opened.user))
}

pub(super) fn named(broker: &Broker, name: &str) -> Option<Arc<Registered>> {
    broker.connections.list().into_iter().find(|connection| *connection.name == *name)
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    listed(&request, |_| true)
}

async fn list_of_vhost(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    listed(&request, |opened| opened.vhost.name == vhost.name)
}

async fn list_of_user(request: Request) -> Result<Answer, Failure> {
    let visitor = request.visitor();
    let all = request.broker.connections.list();
    let seen = all.iter().filter_map(|connection| Some((connection, connection.opened()?)));
    let seen = seen.filter(|(_, opened)| visitor.is_monitor() || opened.user == visitor.name);
    let items = seen.filter(|(_, opened)| *opened.user == *request.name("user"));
    let items = items.map(|(connection, opened)| brief(connection, opened, &request));
    list(&request.query, &["vhost", "name"], items.collect())
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let connection = named(&request.broker, request.name("connection")).ok_or_else(Failure::no_object)?;
    let opened = connection.opened().ok_or_else(Failure::no_object)?;
    Ok(object(&request.query, shown(&connection, opened, &request, &Grids::of(&request.query)?)))
}

/// Sessions are AMQP 1.0's.
async fn sessions(request: Request) -> Result<Answer, Failure> {
    named(&request.broker, request.name("connection")).ok_or_else(Failure::no_object)?;
    Err(Failure::bad_request("connection does not use AMQP 1.0"))
}

async fn delete(request: Request) -> Result<Answer, Failure> {
    let connection = named(&request.broker, request.name("connection")).ok_or_else(Failure::no_object)?;
    connection.close(&reason(&request));
    Ok(Answer::Done)
}

async fn delete_of_user(request: Request) -> Result<Answer, Failure> {
    let user = request.name("user");
    let is_meant = |connection: &&Arc<Registered>| connection.opened().is_some_and(|opened| *opened.user == *user);
    request
        .broker
        .connections
        .list()
        .iter()
        .filter(is_meant)
        .for_each(|connection| connection.close(&reason(&request)));
    Ok(Answer::Done)
}

/// What the client is told. A header may hold octets that are no text.
fn reason(request: &Request) -> String {
    let given =
        request.headers.get(REASON_HEADER).map(|header| String::from_utf8_lossy(header.as_bytes()).into_owned());
    given.filter(|reason| !reason.is_empty()).unwrap_or_else(|| REASON.to_owned())
}

/// Whoever does not monitor sees only their own.
fn listed(request: &Request, is_meant: impl Fn(&Opened) -> bool) -> Result<Answer, Failure> {
    let visitor = request.visitor();
    let all = request.broker.connections.list();
    let seen = all.iter().filter_map(|connection| Some((connection, connection.opened()?)));
    let seen = seen.filter(|(_, opened)| visitor.is_monitor() || opened.user == visitor.name);
    let grids = Grids::of(&request.query)?;
    let items = seen.filter(|(_, opened)| is_meant(opened)).map(|(one, opened)| shown(one, opened, request, &grids));
    list(&request.query, &["vhost", "name"], items.collect())
}

/// As RabbitMQ lists a user's.
fn brief(connection: &Registered, opened: &Opened, request: &Request) -> Map<String, Json> {
    let mut shown = Map::new();
    let mut set = |key: &str, value: &str| drop(shown.insert(key.to_owned(), value.into()));
    set("name", &connection.name);
    set("vhost", &opened.vhost.name);
    set("user", &opened.user);
    set("node", request.broker.events().node());
    shown
}

/// What channels and queues tell of their connection.
pub(super) fn details(connection: &Registered) -> Map<String, Json> {
    let mut details = Map::new();
    let mut set = |key: &str, value: Json| drop(details.insert(key.to_owned(), value));
    set("name", (&*connection.name).into());
    set("peer_host", connection.peer.ip().to_string().into());
    set("peer_port", connection.peer.port().into());
    details
}

/// A connection as RabbitMQ lists it.
fn shown(connection: &Registered, opened: &Opened, request: &Request, grids: &Grids) -> Map<String, Json> {
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("auth_mechanism", opened.mechanism.into());
    set("channel_max", opened.channel_max.into());
    set("client_properties", table_to_json(&opened.client_properties).into());
    set("connected_at", connection.connected_at_ms.into());
    set("frame_max", opened.frame_max.into());
    set("host", connection.local.ip().to_string().into());
    set("name", (&*connection.name).into());
    set("node", request.broker.events().node().into());
    set("peer_host", connection.peer.ip().to_string().into());
    set("peer_port", connection.peer.port().into());
    set("port", connection.local.port().into());
    set("protocol", "AMQP 0-9-1".into());
    let tls = connection.tls.as_ref();
    set("ssl", tls.is_some().into());
    set("ssl_cipher", tls.map(|tls| tls.cipher).into());
    set("ssl_hash", tls.map(|tls| tls.hash).into());
    set("ssl_key_exchange", tls.map(|tls| tls.key_exchange).into());
    set("ssl_protocol", tls.map(|tls| tls.protocol).into());
    let certificate = tls.and_then(|tls| tls.certificate.as_ref());
    set("peer_cert_issuer", certificate.map(|shown| shown.issuer.as_str()).into());
    set("peer_cert_serial_number", certificate.map(|shown| shown.serial_number.as_str()).into());
    set("peer_cert_subject", certificate.map(|shown| shown.subject.as_str()).into());
    set("peer_cert_validity", certificate.map(|shown| shown.validity.as_str()).into());
    set("timeout", opened.heartbeat_s.into());
    set("type", "network".into());
    set("user", (&*opened.user).into());
    if let Some(name) = opened.client_properties.inner().get("connection_name").and_then(as_str) {
        set("user_provided_name", name.into());
    }
    set("user_who_performed_action", (&*opened.user).into());
    set("vhost", (&*opened.vhost.name).into());
    if !request.without_stats() {
        set("channels", connection.channel_count().into());
        let is_alarm = request.broker.alarms.active().any();
        set("state", connection.throttle.state(is_alarm, request.broker.now_ms()).into());
        let [received, reads, sent, writes] = connection.traffic.snapshot();
        set("recv_cnt", reads.into());
        set("send_cnt", writes.into());
        set("send_pend", 0.into());
        let (broker, grid) = (&request.broker, grids.data_rates);
        let past = Past::of(&connection.watch, grid, broker.now_ms(), &broker.statistics.histories);
        past.put(&mut shown, "recv_oct", received, 0);
        past.put(&mut shown, "send_oct", sent, 1);
    }
    shown
}
