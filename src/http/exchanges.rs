//! `/exchanges`: what there is, declared and deleted by the rules of AMQP. Messages are published in [`super::messages`].

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::{Table, Text, Truth};
use super::describe::{Field, may};
use super::listing::{list, object};
use super::request::{Request, safe_if_any};
use super::route::Route;
use super::stats::{Grids, Group, put_message_stats};
use super::values::{self, flag};
use crate::definitions::table_to_json;
use crate::vhost::declare::ExchangeWish;
use crate::vhost::listing::Listed;
use serde_json::{Map, Value as Json};

const WISH: &[Field] = &[
    may("type", Text),
    may("durable", Truth),
    may("auto_delete", Truth),
    may("internal", Truth),
    may("arguments", Table),
];

const IF_UNUSED: &[Field] = &[may("if-unused", Truth)];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/exchanges", Role::Vhost).get(list_all).says("All exchanges").lists(),
        Route::new("/exchanges/{vhost}", Role::Vhost).get(list_all).says("The exchanges of a virtual host").lists(),
        Route::new("/exchanges/{vhost}/{exchange}", Role::Vhost)
            .get(get)
            .says("An exchange")
            .put(put)
            .says("Declares an exchange")
            .takes(WISH)
            .delete(delete)
            .says("Deletes an exchange")
            .asks(IF_UNUSED),
    ]
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    let (grids, mut items) = (Grids::of(&request.query)?, Vec::new());
    for vhost in request.vhosts()? {
        items.extend(vhost.exchanges().iter().map(|exchange| shown(&vhost.name, exchange, &request, &grids)));
    }
    list(&request.query, &["vhost", "name"], items)
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    let exchange = vhost.exchange(request.exchange("exchange")).ok_or_else(Failure::no_object)?;
    let grids = Grids::of(&request.query)?;
    Ok(object(&request.query, shown(&vhost.name, &exchange, &request, &grids)))
}

async fn put(mut request: Request) -> Result<Answer, Failure> {
    let name = values::name("exchange", request.exchange("exchange"))?.to_owned();
    let vhost = request.vhost_to_change()?;
    let fields = request.json().await?;
    let kind = match fields.get("type") {
        None => "direct".to_owned(),
        Some(Json::String(kind)) => kind.clone(),
        Some(Json::Null) => return Err(Failure::bad_request("invalid exchange type 'null'")),
        Some(other) => return Err(Failure::of_node(&request, &format!("an exchange type that is no text: {other}"))),
    };
    let wish = ExchangeWish {
        kind,
        durable: flag(&fields, "durable")?,
        auto_delete: flag(&fields, "auto_delete")?,
        internal: flag(&fields, "internal")?,
        arguments: values::arguments(&fields)?,
    };
    let passive = flag(&fields, "passive")?;
    let actor = request.actor(&vhost)?;
    if passive {
        let ((), committed) = vhost.find_exchange(&actor, &name)?;
        safe_if_any(committed).await?;
        return Ok(Answer::put(false));
    }
    let (is_new, committed) = vhost.declare_exchange(&actor, &name, &wish)?;
    safe_if_any(committed).await?;
    Ok(Answer::put(is_new))
}

async fn delete(request: Request) -> Result<Answer, Failure> {
    let (vhost, name) = (request.vhost()?, request.exchange("exchange"));
    vhost.exchange(name).ok_or_else(Failure::no_object)?;
    let actor = request.actor(&vhost)?;
    let ((), committed) = vhost.delete_exchange(&actor, name, request.query.is_true("if-unused"))?;
    safe_if_any(committed).await?;
    Ok(Answer::Done)
}

/// An exchange as RabbitMQ lists it: the policy stands there only if there is one.
fn shown(vhost: &str, exchange: &Listed, request: &Request, grids: &Grids) -> Map<String, Json> {
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
    set("user_who_performed_action", (&*exchange.user).into());
    set("vhost", vhost.into());
    if !request.without_stats() {
        put_message_stats(&mut shown, &exchange.counted, &[Group::Exchange], request, grids);
    }
    shown
}
