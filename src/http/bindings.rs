//! `/bindings`, also by their source and destination: what there is. Nothing is bound here yet.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::listing::list;
use super::request::Request;
use super::route::Route;
use crate::definitions::table_to_json;
use crate::exchange::{Binding, Destination};
use crate::vhost::Vhost;
use serde_json::{Map, Value as Json};
use std::fmt::Write;
use std::sync::Arc;

const ORDER: [&str; 6] = ["vhost", "source", "type", "destination", "routing_key", "properties_key"];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/bindings", Role::Vhost).get(list_all),
        Route::new("/bindings/{vhost}", Role::Vhost).get(list_all),
        Route::new("/bindings/{vhost}/e/{source}/{kind}/{destination}", Role::Vhost).get(between),
        Route::new("/queues/{vhost}/{queue}/bindings", Role::Vhost).get(of_queue),
        Route::new("/exchanges/{vhost}/{exchange}/bindings/source", Role::Vhost).get(from_exchange),
        Route::new("/exchanges/{vhost}/{exchange}/bindings/destination", Role::Vhost).get(to_exchange),
    ]
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    let vhosts = request.vhosts()?;
    listed(&request, &vhosts, |_, _| true)
}

async fn between(request: Request) -> Result<Answer, Failure> {
    let destination = Arc::from(request.exchange("destination"));
    let destination = match request.name("kind") {
        "q" => Destination::Queue(destination),
        "e" => Destination::Exchange(destination),
        _ => return Err(Failure::no_object()),
    };
    let vhosts = [request.vhost()?];
    let meant = request.exchange("source");
    listed(&request, &vhosts, |source, binding| source == meant && binding.destination == destination)
}

async fn of_queue(request: Request) -> Result<Answer, Failure> {
    let vhosts = [request.vhost()?];
    let destination = Destination::Queue(request.name("queue").into());
    listed(&request, &vhosts, |_, binding| binding.destination == destination)
}

async fn from_exchange(request: Request) -> Result<Answer, Failure> {
    let vhosts = [request.vhost()?];
    let exchange = request.exchange("exchange");
    listed(&request, &vhosts, |source, _| source == exchange)
}

async fn to_exchange(request: Request) -> Result<Answer, Failure> {
    let vhosts = [request.vhost()?];
    let destination = Destination::Exchange(request.exchange("exchange").into());
    listed(&request, &vhosts, |_, binding| binding.destination == destination)
}

fn listed(
    request: &Request,
    vhosts: &[Arc<Vhost>],
    is_meant: impl Fn(&str, &Binding) -> bool,
) -> Result<Answer, Failure> {
    let mut items = Vec::new();
    for vhost in vhosts {
        let bindings = vhost.bindings().into_iter().filter(|(source, binding)| is_meant(source, binding));
        items.extend(bindings.map(|(source, binding)| shown(&vhost.name, &source, &binding)));
    }
    list(&request.query, &ORDER, items)
}

fn shown(vhost: &str, source: &str, binding: &Binding) -> Map<String, Json> {
    let (kind, destination) = match &binding.destination {
        Destination::Queue(name) => ("queue", name),
        Destination::Exchange(name) => ("exchange", name),
    };
    let arguments = table_to_json(&binding.arguments);
    let properties_key = properties_key(&binding.routing_key, &arguments);
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("source", source.into());
    set("vhost", vhost.into());
    set("destination", (&**destination).into());
    set("destination_type", kind.into());
    set("routing_key", (&*binding.routing_key).into());
    set("arguments", arguments.into());
    set("properties_key", properties_key.into());
    shown
}

/// What tells bindings between the same two apart in paths: the routing key, and a hash of the arguments if there are any.
/// The hash is our own; whoever has read it finds the binding by it.
fn properties_key(routing_key: &str, arguments: &Map<String, Json>) -> String {
    let key = quoted(routing_key);
    match (key.is_empty(), arguments.is_empty()) {
        (true, true) => "~".to_owned(),
        (false, true) => key,
        (_, false) => {
            let hash = crc32fast::hash(Json::Object(arguments.clone()).to_string().as_bytes());
            format!("{key}~{hash:08x}")
        }
    }
}

/// `rabbit_http_util:quote_plus`, and a `~` as well.
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for octet in text.bytes() {
        match octet {
            b' ' => quoted.push('+'),
            b'.' | b'-' | b'_' => quoted.push(char::from(octet)),
            octet if octet.is_ascii_alphanumeric() => quoted.push(char::from(octet)),
            octet => drop(write!(quoted, "%{octet:02X}")),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_named_by_its_key_and_arguments() {
        let none = Map::new();
        assert_eq!(properties_key("", &none), "~");
        assert_eq!(properties_key("a.*~b c", &none), "a.%2A%7Eb+c");
        let arguments = serde_json::json!({"n": 1}).as_object().unwrap().clone();
        let named = properties_key("k", &arguments);
        assert!(named.starts_with("k~") && named.len() == 10, "{named}");
    }
}
