//! `/exchanges`: what there is. Nothing is declared, deleted or published here yet.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::listing::{list, object};
use super::request::Request;
use super::route::Route;
use crate::definitions::table_to_json;
use crate::vhost::listing::Listed;
use serde_json::{Map, Value as Json};

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/exchanges", Role::Vhost).get(list_all),
        Route::new("/exchanges/{vhost}", Role::Vhost).get(list_all),
        Route::new("/exchanges/{vhost}/{exchange}", Role::Vhost).get(get),
    ]
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    let mut items = Vec::new();
    for vhost in request.vhosts()? {
        items.extend(vhost.exchanges().iter().map(|exchange| shown(&vhost.name, exchange)));
    }
    list(&request.query, &["vhost", "name"], items)
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    let exchange = vhost.exchange(request.exchange("exchange")).ok_or_else(Failure::no_object)?;
    Ok(object(&request.query, shown(&vhost.name, &exchange)))
}

/// An exchange as RabbitMQ lists it: the policy stands there only if there is one.
fn shown(vhost: &str, exchange: &Listed) -> Map<String, Json> {
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("arguments", table_to_json(&exchange.arguments).into());
    set("auto_delete", exchange.auto_delete.into());
    set("durable", exchange.durable.into());
    set("internal", exchange.internal.into());
    set("name", (&*exchange.name).into());
    if let Some(policy) = &exchange.applied.policy {
        set("policy", (&*policy.name).into());
    }
    set("type", exchange.kind.name().into());
    set("vhost", vhost.into());
    shown
}
