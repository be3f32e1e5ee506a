//! `/users`.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::{List, Table, Text, Words};
use super::describe::{Field, may, must};
use super::listing::{list, object};
use super::permissions;
use super::request::{Request, safe};
use super::route::Route;
use super::values::{self, boolean};
use crate::auth::{Algorithm, Secret, User, UserLimits};
use crate::broker::Broker;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value as Json, json};

/// Tags that a user may have.
const TAGS_MAX: usize = 32;
/// Who has this tag is changed by nobody over HTTP.
const PROTECTED: &str = "protected";

const USER: &[Field] = &[
    may("password", Text),
    may("password_hash", Text),
    may("hashing_algorithm", Text),
    must("tags", Words),
    may("limits", Table),
    may("permissions", Table),
];

const USERS: &[Field] = &[must("users", List)];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/users", Role::Administrator)
            .get(|request| list_all(request, |_, _| true))
            .says("All users")
            .lists(),
        Route::new("/users/without-permissions", Role::Administrator)
            .get(|request| list_all(request, has_no_permission))
            .says("Users who may enter no virtual host")
            .lists(),
        Route::new("/users/bulk-delete", Role::Administrator).post(bulk_delete).says("Deletes users").takes(USERS),
        Route::new("/users/{user}", Role::Administrator)
            .get(get)
            .says("A user")
            .put(put)
            .says("Adds or changes a user")
            .takes(USER)
            .delete(delete)
            .says("Deletes a user"),
    ]
}

async fn list_all(request: Request, is_meant: fn(&Request, &User) -> bool) -> Result<Answer, Failure> {
    let users = request.broker.users.list();
    let items = users.iter().filter(|user| is_meant(&request, user)).map(|user| shown(user));
    list(&request.query, &["name"], items.collect())
}

fn has_no_permission(request: &Request, user: &User) -> bool {
    !request.broker.users.permissions().iter().any(|row| row.user == user.name)
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let user = request.broker.users.get(request.name("user")).ok_or_else(Failure::no_object)?;
    Ok(object(&request.query, shown(&user)))
}

/// Adds a user or changes it (`rabbit_auth_backend_internal:put_user`): what is not said of a user's limits stays, and
/// without a password or its hash nobody logs in with one any more.
async fn put(mut request: Request) -> Result<Answer, Failure> {
    let name = request.name("user").to_owned();
    let known = request.broker.users.get(&name);
    if known.as_ref().is_some_and(|user| user.has_tag(PROTECTED)) {
        return Err(protected());
    }
    let fields = request.json().await?;
    let tags = tags(&fields)?;
    let limits = match fields.get("limits") {
        None => known.as_ref().map(|user| user.limits).unwrap_or_default(),
        Some(limits) => self::limits(limits)?,
    };
    let (password_hash, hashing_algorithm) = hash(&request.broker, &fields).await?;
    let by = request.by();
    let user = User { name: name.clone(), password_hash, hashing_algorithm, tags, limits };
    if let Some(committed) = request.broker.put_user(user, &by) {
        safe(committed).await?;
    }
    // Those of a user who was there already are left alone.
    if let (None, Some(Json::Object(rights))) = (&known, fields.get("permissions")) {
        for (vhost, patterns) in rights {
            let patterns = patterns.as_object().cloned().unwrap_or_default();
            permissions::set(&request.broker, &name, vhost, &patterns, &by).await?;
        }
    }
    Ok(Answer::put(known.is_none()))
}

async fn delete(request: Request) -> Result<Answer, Failure> {
    let name = request.name("user");
    let user = request.broker.users.get(name).ok_or_else(Failure::no_object)?;
    if user.has_tag(PROTECTED) {
        return Err(protected());
    }
    safe(request.broker.delete_user(name, &request.by()).ok_or_else(Failure::no_object)?).await?;
    Ok(Answer::Done)
}

/// Deletes those that are there and not protected.
async fn bulk_delete(mut request: Request) -> Result<Answer, Failure> {
    let ([users], _) = request.fields(["users"]).await?;
    let users: Option<Vec<&str>> = users.as_array().and_then(|users| users.iter().map(Json::as_str).collect());
    let users = users.ok_or_else(|| Failure::bad_request("users should be a list of names"))?;
    for name in users {
        let user = request.broker.users.get(name);
        if user.is_some_and(|user| !user.has_tag(PROTECTED))
            && let Some(committed) = request.broker.delete_user(name, &request.by())
        {
            safe(committed).await?;
        }
    }
    Ok(Answer::Done)
}

fn protected() -> Failure {
    Failure::bad_request("Protected users cannot be modified via the HTTP API")
}

fn tags(fields: &Map<String, Json>) -> Result<Vec<String>, Failure> {
    let Some(tags) = fields.get("tags") else {
        // As it was said before there were tags.
        let administrator = fields.get("administrator").ok_or_else(|| Failure::bad_request("tags_not_present"))?;
        return Ok(if boolean(administrator)? { vec!["administrator".to_owned()] } else { Vec::new() });
    };
    let tags =
        values::words(tags).ok_or_else(|| Failure::bad_request("tags should be a string or a list of strings"))?;
    if tags.len() > TAGS_MAX {
        let count = tags.len();
        return Err(Failure::bad_request(format!("A user can have at most {TAGS_MAX} tags (received {count})")));
    }
    Ok(tags)
}

/// What a user's password is kept as.
async fn hash(broker: &Broker, fields: &Map<String, Json>) -> Result<(String, Algorithm), Failure> {
    match (fields.get("password"), fields.get("password_hash")) {
        (Some(_), Some(_)) => Err(Failure::bad_request("both_password_and_password_hash_are_provided")),
        (Some(Json::String(password)), None) => {
            let hash = broker.hash_password(&Secret::new(password.as_str())).await;
            let hash = hash.ok_or_else(|| Failure::internal("too many passwords are being hashed"))?;
            Ok((hash, broker.config.password_hashing.clone()))
        }
        (Some(_), None) => Err(Failure::bad_request("password should be a string")),
        (None, None) => Ok((String::new(), Algorithm::Sha256)),
        (None, Some(hash)) => {
            let algorithm = match fields.get("hashing_algorithm") {
                None => Algorithm::Sha256,
                Some(Json::String(name)) => Algorithm::from_name(name),
                Some(_) => return Err(Failure::bad_request("hashing_algorithm should be a string")),
            };
            // RabbitMQ's are Base64, whatever the algorithm.
            let takes = |hash: &&str| match algorithm {
                Algorithm::Unknown(_) => BASE64.decode(hash).is_ok(),
                _ => algorithm.takes(hash),
            };
            let text = hash.as_str().filter(takes);
            let text = text.ok_or_else(|| Failure::bad_request(json!(["not_base64", hash])))?.to_owned();
            Ok((text, algorithm))
        }
    }
}

fn limits(value: &Json) -> Result<UserLimits, Failure> {
    let value = value.as_object().ok_or_else(|| Failure::bad_request("limits should be a map"))?;
    let mut limits = UserLimits::default();
    for (name, value) in value {
        super::limits::set_user_limit(&mut limits, name, value)?;
    }
    Ok(limits)
}

/// A user as RabbitMQ lists it.
fn shown(user: &User) -> Map<String, Json> {
    match serde_json::to_value(user) {
        Ok(Json::Object(fields)) => fields,
        _ => Map::new(),
    }
}
