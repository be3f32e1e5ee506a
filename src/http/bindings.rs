//! `/bindings`, also by their source and destination: what there is, bound and unbound by the rules of AMQP.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::{Table as Fields, Text};
use super::describe::{Field, may};
use super::listing::{list, object, plain};
use super::request::{Request, safe_if_any};
use super::route::Route;
use super::values;
use crate::amqp::{Table, term_hash};
use crate::definitions::table_to_json;
use crate::exchange::{Binding, Destination};
use crate::vhost::Vhost;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value as Json};
use std::fmt::Write;
use std::sync::Arc;

const ORDER: [&str; 6] = ["vhost", "source", "type", "destination", "routing_key", "properties_key"];

const BINDING: &[Field] = &[may("routing_key", Text), may("arguments", Fields)];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/bindings", Role::Vhost).get(list_all).says("All bindings").lists(),
        Route::new("/bindings/{vhost}", Role::Vhost).get(list_all).says("The bindings of a virtual host").lists(),
        Route::new("/bindings/{vhost}/e/{source}/{kind}/{destination}", Role::Vhost)
            .get(between)
            .says("The bindings of an exchange to a queue or exchange")
            .lists()
            .post(bind)
            .says("Binds; `Location` says where to find the binding")
            .takes(BINDING),
        Route::new("/bindings/{vhost}/e/{source}/{kind}/{destination}/{properties}", Role::Vhost)
            .get(get)
            .says("A binding")
            .delete(unbind)
            .says("Unbinds"),
        Route::new("/queues/{vhost}/{queue}/bindings", Role::Vhost)
            .get(of_queue)
            .says("The bindings of a queue")
            .lists(),
        Route::new("/exchanges/{vhost}/{exchange}/bindings/source", Role::Vhost)
            .get(from_exchange)
            .says("The bindings from an exchange")
            .lists(),
        Route::new("/exchanges/{vhost}/{exchange}/bindings/destination", Role::Vhost)
            .get(to_exchange)
            .says("The bindings to an exchange")
            .lists(),
    ]
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    let vhosts = request.vhosts()?;
    listed(&request, &vhosts, |_, _| true)
}

async fn between(request: Request) -> Result<Answer, Failure> {
    let destination = destination(&request)?;
    let vhosts = [request.vhost()?];
    let meant = request.exchange("source");
    listed(&request, &vhosts, |source, binding| source == meant && binding.destination == destination)
}

fn destination(request: &Request) -> Result<Destination, Failure> {
    match request.name("kind") {
        "q" => Ok(Destination::Queue(request.name("destination").into())),
        "e" => Ok(Destination::Exchange(request.exchange("destination").into())),
        _ => Err(Failure::no_object()),
    }
}

/// queue.bind, exchange.bind. Who asked is told where to find the binding, relative to the path.
async fn bind(mut request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost_to_change()?;
    let destination = destination(&request)?;
    let fields = request.json().await?;
    let binding = Binding {
        destination,
        routing_key: values::routing_key(&fields, &request)?.into(),
        arguments: values::arguments(&fields)?,
    };
    let properties_key = properties_key(&binding.routing_key, &binding.arguments);
    let actor = request.actor(&vhost)?;
    let ((), committed) = vhost.bind(&actor, request.exchange("source"), binding)?;
    safe_if_any(committed).await?;
    let place = format!("{}/{}", quoted(request.name("destination"), ""), quoted(&properties_key, "~"));
    Ok(Answer::CreatedAt(place))
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let (vhost, binding) = found(&request)?;
    Ok(object(&request.query, shown(&vhost.name, request.exchange("source"), &binding)))
}

/// queue.unbind, exchange.unbind
async fn unbind(request: Request) -> Result<Answer, Failure> {
    let (vhost, binding) = found(&request)?;
    let actor = request.actor(&vhost)?;
    let ((), committed) = vhost.unbind(&actor, request.exchange("source"), &binding)?;
    safe_if_any(committed).await?;
    Ok(Answer::Done)
}

/// The binding that the path names.
fn found(request: &Request) -> Result<(Arc<Vhost>, Binding), Failure> {
    let (vhost, destination) = (request.vhost()?, destination(request)?);
    let (key, hash) = read_properties_key(request.name("properties")).ok_or_else(Failure::no_object)?;
    let is_meant = |binding: &Binding| {
        let arguments = &binding.arguments;
        let same = match &hash {
            Some(hash) => arguments_hash(arguments) == *hash,
            None => arguments.inner().is_empty(),
        };
        same && *binding.routing_key == *key && binding.destination == destination
    };
    let meant = request.exchange("source");
    let found = vhost.bindings().into_iter().find(|(source, binding)| **source == *meant && is_meant(binding));
    let (_, binding) = found.ok_or_else(Failure::no_object)?;
    Ok((vhost, binding))
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
    let properties_key = properties_key(&binding.routing_key, &binding.arguments);
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("source", source.into());
    set("vhost", vhost.into());
    set("destination", (&**destination).into());
    set("destination_type", kind.into());
    set("routing_key", (&*binding.routing_key).into());
    set("arguments", table_to_json(&binding.arguments).into());
    set("properties_key", properties_key.into());
    shown
}

/// What tells bindings between the same two apart in paths: the routing key, and a hash of the arguments if there are any
/// (`rabbit_mgmt_format:pack_binding_props`).
fn properties_key(routing_key: &str, arguments: &Table) -> String {
    let key = quoted(routing_key, "");
    match (key.is_empty(), arguments.inner().is_empty()) {
        (true, true) => "~".to_owned(),
        (false, true) => key,
        (_, false) => format!("{key}~{}", arguments_hash(arguments)),
    }
}

/// The routing key and the hash of the arguments in a properties key; `None` if it is none.
fn read_properties_key(text: &str) -> Option<(String, Option<String>)> {
    let mut parts = text.split('~');
    let (key, hash) = (parts.next()?, parts.next());
    if parts.next().is_some() {
        return None;
    }
    Some((plain(key), hash.filter(|hash| !hash.is_empty()).map(plain)))
}

fn arguments_hash(arguments: &Table) -> String {
    URL_SAFE_NO_PAD.encode(term_hash::of_table(arguments).to_be_bytes())
}

/// `rabbit_http_util:quote_plus`; `more` is left as it is, too.
fn quoted(text: &str, more: &str) -> String {
    let mut quoted = String::new();
    for octet in text.bytes() {
        match octet {
            b' ' => quoted.push('+'),
            b'.' | b'-' | b'_' => quoted.push(char::from(octet)),
            octet if octet.is_ascii_alphanumeric() || more.as_bytes().contains(&octet) => {
                quoted.push(char::from(octet));
            }
            octet => drop(write!(quoted, "%{octet:02X}")),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definitions::table_from_json;
    use serde_json::json;

    fn table(json: Json) -> Table {
        table_from_json(json.as_object().unwrap()).unwrap()
    }

    #[test]
    fn a_binding_is_named_by_its_key_and_arguments() {
        let none = Table::default();
        assert_eq!(properties_key("", &none), "~");
        assert_eq!(properties_key("a.*~b c", &none), "a.%2A%7Eb+c");
        assert_eq!(properties_key("\u{e4}/%", &none), "%C3%A4%2F%25");
        // Recorded from RabbitMQ 4.3.6.
        assert_eq!(properties_key("a.*", &table(json!({"n": 1}))), "a.%2A~hadFaw");
        assert_eq!(properties_key("k", &table(json!({"x-match": "all", "a": 1}))), "k~4tmbCA");
        let many = json!({
            "arr": ["a", "hello world, longer than twelve", [1, 2.5], {"x": {"y": false}}],
            "big": 4_611_686_018_427_387_904_i64, "neg": -5, "negbig": -1_099_511_627_776_i64, "f": -0.0, "s": "",
        });
        assert_eq!(properties_key("", &table(many)), "~8j1ioQ");
    }

    #[test]
    fn a_properties_key_is_read_back() {
        let read = |text: &str| read_properties_key(text);
        let found = |key: &str, hash: Option<&str>| Some((key.to_owned(), hash.map(str::to_owned)));
        assert_eq!(read("~"), found("", None));
        assert_eq!(read("a.%2A%7Eb+c"), found("a.*~b c", None));
        assert_eq!(read("a.*"), found("a.*", None));
        assert_eq!(read("k~4tmbCA"), found("k", Some("4tmbCA")));
        assert_eq!(read("~8j1ioQ"), found("", Some("8j1ioQ")));
        assert_eq!(read("a~b~c"), None);
    }
}
