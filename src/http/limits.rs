//! `/vhost-limits` and `/user-limits`.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::Number;
use super::describe::{Field, must};
use super::listing::list;
use super::request::{Names, Request, safe};
use super::route::Route;
use crate::amqp::term::json_term;
use crate::auth::UserLimits;
use crate::broker::Broker;
use crate::vhost::VhostLimits;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

const LIMIT: &[Field] = &[must("value", Number)];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/vhost-limits", Role::VhostVisible)
            .get(list_of_vhosts)
            .says("The limits of all virtual hosts")
            .lists(),
        Route::new("/vhost-limits/{vhost}", Role::VhostVisible)
            .get(list_of_vhosts)
            .says("The limits of a virtual host")
            .lists(),
        Route::new("/vhost-limits/{vhost}/{name}", Role::Administrator)
            .put(put_of_vhost)
            .says("Limits a virtual host")
            .takes(LIMIT)
            .delete(delete_of_vhost)
            .says("Ends a limit"),
        Route::new("/user-limits", Role::Administrator).get(list_of_users).says("The limits of all users").lists(),
        Route::new("/user-limits/{user}", Role::Owner(user_named))
            .get(list_of_users)
            .says("The limits of a user")
            .lists(),
        Route::new("/user-limits/{user}/{name}", Role::Administrator)
            .put(put_of_user)
            .says("Limits a user")
            .takes(LIMIT)
            .delete(delete_of_user)
            .says("Ends a limit"),
    ]
}

fn user_named(_: &Broker, names: &Names) -> Option<Arc<str>> {
    names.find("user").map(Arc::from)
}

async fn list_of_vhosts(request: Request) -> Result<Answer, Failure> {
    let visitor = request.visitor();
    let mut vhosts = match request.names.find("vhost") {
        Some(_) => vec![request.vhost()?],
        None => request.broker.list_vhosts(),
    };
    vhosts.retain(|vhost| visitor.is_monitor() || visitor.may_enter(&request.broker, &vhost.name));
    let limited = vhosts.iter().map(|vhost| (vhost, vhost.limits().to_json())).filter(|(_, limits)| !limits.is_empty());
    let shown = |(name, limits): (&str, Map<String, Json>)| fields([("value", limits.into()), ("vhost", name.into())]);
    list(&request.query, &[], limited.map(|(vhost, limits)| shown((&vhost.name, limits))).collect())
}

async fn put_of_vhost(mut request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost_to_change()?;
    let ([value], _) = request.fields(["value"]).await?;
    let name = request.name("name");
    let mut limits = vhost.limits();
    set_vhost_limit(&mut limits, name, &value)
        .map_err(|text| Failure::bad_request(format!("Validation failed\n\n{text}\n")))?;
    let change = |limits: &mut VhostLimits| drop(set_vhost_limit(limits, name, &value));
    safe(request.broker.change_vhost_limits(&vhost.name, change, &request.by())?).await?;
    Ok(Answer::Done)
}

/// Lifts a limit; RabbitMQ takes one that there is not for lifted.
async fn delete_of_vhost(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost_to_change()?;
    let change = |limits: &mut VhostLimits| match request.name("name") {
        "max-connections" => limits.max_connections = None,
        "max-queues" => limits.max_queues = None,
        _ => {}
    };
    safe(request.broker.change_vhost_limits(&vhost.name, change, &request.by())?).await?;
    Ok(Answer::Done)
}

async fn list_of_users(request: Request) -> Result<Answer, Failure> {
    let users = match request.names.find("user") {
        Some(name) => vec![request.broker.users.get(name).ok_or_else(Failure::no_object)?],
        None => request.broker.users.list(),
    };
    let limited = users.iter().filter(|user| user.limits != UserLimits::default());
    let items = limited.map(|user| fields([("user", user.name.as_str().into()), ("value", json!(user.limits))]));
    list(&request.query, &[], items.collect())
}

async fn put_of_user(mut request: Request) -> Result<Answer, Failure> {
    let ([value], _) = request.fields(["value"]).await?;
    let (user, name) = (request.name("user"), request.name("name"));
    let known = request.broker.users.get(user);
    let mut limits = known.ok_or_else(|| Failure::bad_request(json!(["no_such_user", user])))?.limits;
    set_user_limit(&mut limits, name, &value)?;
    let change = |user: &mut crate::auth::User| drop(set_user_limit(&mut user.limits, name, &value));
    safe(request.broker.change_user(user, change, &request.by())?).await?;
    Ok(Answer::Done)
}

async fn delete_of_user(request: Request) -> Result<Answer, Failure> {
    let change = |user: &mut crate::auth::User| match request.name("name") {
        "max-connections" => user.limits.max_connections = None,
        "max-channels" => user.limits.max_channels = None,
        _ => {}
    };
    let changed = request.broker.change_user(request.name("user"), change, &request.by());
    // RabbitMQ's word for it, though it is the user that is not there.
    safe(changed.map_err(|_| Failure::not_found("vhost_not_found"))?).await?;
    Ok(Answer::Done)
}

/// Sets one of a user's limits; it is lifted by a negative number.
pub fn set_user_limit(limits: &mut UserLimits, name: &str, value: &Json) -> Result<(), Failure> {
    let limit = match name {
        "max-connections" => &mut limits.max_connections,
        "max-channels" => &mut limits.max_channels,
        _ => return Err(Failure::bad_request(unrecognised(name, value, "user-limits"))),
    };
    *limit = number(name, value).map_err(Failure::bad_request)?;
    Ok(())
}

/// The same for a virtual host; the error is RabbitMQ's text.
pub fn set_vhost_limit(limits: &mut VhostLimits, name: &str, value: &Json) -> Result<(), String> {
    let limit = match name {
        "max-connections" => &mut limits.max_connections,
        "max-queues" => &mut limits.max_queues,
        _ => return Err(unrecognised(name, value, "limits")),
    };
    *limit = number(name, value)?;
    Ok(())
}

fn unrecognised(name: &str, value: &Json, kind: &str) -> String {
    format!("Unrecognised terms [{{{},{}}}] in {kind}", json_term(&name.into()), json_term(value))
}

/// What is larger than any is as good as the largest.
fn number(name: &str, value: &Json) -> Result<Option<u32>, String> {
    let is_whole = |number: &serde_json::Number| number.as_f64().is_some_and(|number| number.fract() == 0.0);
    match value {
        Json::Number(number) if number.is_i64() || number.is_u64() || is_whole(number) => {
            let is_negative = number.as_f64().is_some_and(|number| number < 0.0);
            let limit = number.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(u32::MAX);
            Ok((!is_negative).then_some(limit))
        }
        _ => Err(format!("{name} should be a number, actually was {}", json_term(value))),
    }
}

fn fields<const N: usize>(fields: [(&str, Json); N]) -> Map<String, Json> {
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
