//! `/permissions` and `/topic-permissions`, also by user and by virtual host.

use super::access::Role;
use super::answer::{Answer, Failure, invalid_pattern, letters};
use super::describe::Kind::Text;
use super::describe::{Field, must};
use super::listing::{list, object};
use super::request::{Request, safe};
use super::route::Route;
use crate::auth::Pattern;
use crate::broker::Broker;
use crate::broker::users::{PermissionRow, TopicPermissionRow};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

const TOPIC: &[Field] = &[must("exchange", Text), must("write", Text), must("read", Text)];

const PERMISSION: &[Field] = &[must("configure", Text), must("write", Text), must("read", Text)];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/permissions", Role::Administrator).get(list_all).says("All permissions").lists(),
        Route::new("/permissions/{vhost}/{user}", Role::Administrator)
            .get(get)
            .says("What a user may do in a virtual host")
            .put(put)
            .says("Lets a user in")
            .takes(PERMISSION)
            .delete(delete)
            .says("Shuts a user out"),
        Route::new("/users/{user}/permissions", Role::Administrator)
            .get(list_of_user)
            .says("The permissions of a user")
            .lists(),
        Route::new("/vhosts/{vhost}/permissions", Role::Administrator)
            .get(list_of_vhost)
            .says("The permissions in a virtual host")
            .lists(),
        Route::new("/topic-permissions", Role::Administrator).get(list_topics).says("All topic permissions").lists(),
        Route::new("/topic-permissions/{vhost}/{user}", Role::Administrator)
            .get(get_topics)
            .says("The topic permissions of a user in a virtual host")
            .lists_all()
            .put(put_topic)
            .says("Limits the topics of a user")
            .takes(TOPIC)
            .delete(|request| delete_topics(request, false))
            .says("Ends these limits"),
        // RabbitMQ tells of all of the user's exchanges here as well.
        Route::new("/topic-permissions/{vhost}/{user}/{exchange}", Role::Administrator)
            .get(get_topics)
            .says("The same; all exchanges are told of")
            .lists_all()
            .put(put_topic)
            .says("The same; the body names the exchange")
            .takes(TOPIC)
            .delete(|request| delete_topics(request, true))
            .says("Ends the limits for an exchange"),
        Route::new("/users/{user}/topic-permissions", Role::Administrator)
            .get(list_topics_of_user)
            .says("The topic permissions of a user")
            .lists(),
        Route::new("/vhosts/{vhost}/topic-permissions", Role::Administrator)
            .get(list_topics_of_vhost)
            .says("The topic permissions in a virtual host")
            .lists(),
    ]
}

// ── Permissions ─────────────────────────────────────────────────────────────────────────────────────────────────────

async fn list_all(request: Request) -> Result<Answer, Failure> {
    listed(&request, request.broker.users.permissions(), |_| true)
}

async fn list_of_user(request: Request) -> Result<Answer, Failure> {
    let user = known_user(&request)?;
    listed(&request, request.broker.users.permissions(), |row| row.user == user)
}

async fn list_of_vhost(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    listed(&request, request.broker.users.permissions(), |row| row.vhost == *vhost.name)
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let (user, vhost) = (request.name("user"), request.name("vhost"));
    let rows = request.broker.users.permissions();
    let row = rows.iter().find(|row| row.user == user && row.vhost == vhost).ok_or_else(Failure::no_object)?;
    Ok(object(&request.query, shown(row)))
}

async fn put(mut request: Request) -> Result<Answer, Failure> {
    let (user, vhost) = known_pair(&request)?;
    let ([configure, write, read], _) = request.fields(["configure", "write", "read"]).await?;
    let patterns = [("configure", configure), ("write", write), ("read", read)];
    let patterns = patterns.into_iter().map(|(key, pattern)| (key.to_owned(), pattern)).collect();
    let is_new = !request.broker.users.permissions().iter().any(|row| row.user == user && row.vhost == vhost);
    set(&request.broker, &user, &vhost, &patterns, &request.by()).await?;
    Ok(Answer::put(is_new))
}

/// Grants what the fields `configure`, `write` and `read` say.
pub async fn set(
    broker: &Broker,
    user: &str,
    vhost: &str,
    fields: &Map<String, Json>,
    by: &str,
) -> Result<(), Failure> {
    let pattern = |key: &str| {
        let pattern = fields.get(key).and_then(Json::as_str);
        let pattern = pattern.ok_or_else(|| Failure::bad_request(format!("{key} should be a string")))?;
        match Pattern::new(pattern) {
            Ok(_) => Ok(pattern.to_owned()),
            Err(unusable) => Err(invalid_pattern(letters(pattern), &unusable)),
        }
    };
    let row = PermissionRow {
        user: user.to_owned(),
        vhost: vhost.to_owned(),
        configure: pattern("configure")?,
        write: pattern("write")?,
        read: pattern("read")?,
    };
    safe(broker.set_permission(row, by).map_err(|_| not_both())?).await
}

async fn delete(request: Request) -> Result<Answer, Failure> {
    let cleared = request.broker.clear_permission(request.name("user"), request.name("vhost"), &request.by());
    safe(cleared.ok_or_else(Failure::no_object)?).await?;
    Ok(Answer::Done)
}

// ── Topic permissions ───────────────────────────────────────────────────────────────────────────────────────────────

async fn list_topics(request: Request) -> Result<Answer, Failure> {
    listed(&request, request.broker.users.topic_permissions(), |_| true)
}

async fn list_topics_of_user(request: Request) -> Result<Answer, Failure> {
    let user = known_user(&request)?;
    listed(&request, request.broker.users.topic_permissions(), |row| row.user == user)
}

async fn list_topics_of_vhost(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    listed(&request, request.broker.users.topic_permissions(), |row| row.vhost == *vhost.name)
}

async fn get_topics(request: Request) -> Result<Answer, Failure> {
    let rows = topics(&request);
    if rows.is_empty() {
        return Err(Failure::no_object());
    }
    listed(&request, rows, |_| true)
}

async fn put_topic(mut request: Request) -> Result<Answer, Failure> {
    let (user, vhost) = known_pair(&request)?;
    let is_new = topics(&request).is_empty();
    let ([exchange, write, read], _) = request.fields(["exchange", "write", "read"]).await?;
    for (key, pattern) in [("write", &write), ("read", &read)] {
        let text = pattern.as_str().ok_or_else(|| Failure::bad_request(format!("{key} should be a string")))?;
        // What stands for names is filled in later, letter by letter.
        let filled =
            ["{username}", "{vhost}", "{client_id}"].iter().fold(text.to_owned(), |t, name| t.replace(name, "x"));
        if let Err(unusable) = Pattern::new(&filled) {
            return Err(invalid_pattern(pattern.clone(), &unusable));
        }
    }
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let house = request.broker.vhost(&vhost).ok_or_else(not_both)?;
    if exchange.as_str().and_then(|exchange| house.exchange(exchange)).is_none() {
        return Err(Failure::bad_request(json!(["no_such_exchange", exchange])));
    }
    let row = TopicPermissionRow { user, vhost, exchange: text(&exchange), write: text(&write), read: text(&read) };
    safe(request.broker.set_topic_permission(row, &request.by())?).await?;
    Ok(Answer::put(is_new))
}

async fn delete_topics(request: Request, of_one: bool) -> Result<Answer, Failure> {
    if topics(&request).is_empty() {
        return Err(Failure::no_object());
    }
    let exchange = of_one.then(|| request.exchange("exchange"));
    let (user, vhost) = (request.name("user"), request.name("vhost"));
    if let Some(committed) = request.broker.clear_topic_permissions(user, vhost, exchange, &request.by()) {
        safe(committed).await?;
    }
    Ok(Answer::Done)
}

/// Those of the path's user in its virtual host.
fn topics(request: &Request) -> Vec<TopicPermissionRow> {
    let (user, vhost) = (request.name("user"), request.name("vhost"));
    let mut rows = request.broker.users.topic_permissions();
    rows.retain(|row| row.user == user && row.vhost == vhost);
    rows
}

// ── Both ────────────────────────────────────────────────────────────────────────────────────────────────────────────

fn listed<R: Serialize>(request: &Request, rows: Vec<R>, is_meant: impl Fn(&R) -> bool) -> Result<Answer, Failure> {
    let items = rows.iter().filter(|row| is_meant(row)).map(shown);
    list(&request.query, &["vhost", "user"], items.collect())
}

fn shown(row: &impl Serialize) -> Map<String, Json> {
    match serde_json::to_value(row) {
        Ok(Json::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn known_user(request: &Request) -> Result<String, Failure> {
    let user = request.broker.users.get(request.name("user")).ok_or_else(Failure::no_object)?;
    Ok(user.name.clone())
}

/// The path's user and virtual host, to grant something.
fn known_pair(request: &Request) -> Result<(String, String), Failure> {
    let (user, vhost) = (request.name("user"), request.name("vhost"));
    let both = request.broker.users.get(user).is_some() && request.broker.vhost(vhost).is_some();
    if both { Ok((user.to_owned(), vhost.to_owned())) } else { Err(not_both()) }
}

fn not_both() -> Failure {
    Failure::bad_request("vhost_or_user_not_found")
}
