//! `/auth/hash_password` and `/auth/attempts`: how passwords are hashed, and how often somebody tried one.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::request::Request;
use super::route::Route;
use crate::auth::Secret;
use crate::broker::login::{Door, Tried};
use serde_json::json;
use std::sync::atomic::Ordering;

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/auth/hash_password/{password}", Role::Administrator).get(hash),
        Route::new("/auth/attempts/{node}", Role::Watchable).get(attempts).delete(forget_attempts),
        Route::new("/auth/attempts/{node}/source", Role::Watchable).get(attempts_by_source).delete(forget_attempts),
    ]
}

async fn hash(request: Request) -> Result<Answer, Failure> {
    let hashed = request.broker.hash_password(&Secret::new(request.name("password"))).await;
    let hashed = hashed.ok_or_else(|| Failure::internal("too many passwords are being hashed"))?;
    Ok(Answer::Json(json!({"ok": hashed})))
}

/// Doors that nobody tried are not listed.
async fn attempts(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    let shown = Door::ALL.into_iter().filter_map(|door| {
        let attempts = request.broker.login_attempts(door);
        let (succeeded, failed) = (attempts.succeeded.load(Ordering::Relaxed), attempts.failed.load(Ordering::Relaxed));
        let tried = succeeded + failed;
        let shown = json!({
            "protocol": door.protocol(),
            "auth_attempts": tried,
            "auth_attempts_failed": failed,
            "auth_attempts_succeeded": succeeded,
        });
        (tried > 0).then_some(shown)
    });
    Ok(Answer::Json(shown.collect()))
}

/// Counted only if the settings say so: a table that strangers fill.
async fn attempts_by_source(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    let sources = request.broker.login_sources();
    let shown = sources.into_iter().map(|(source, Tried { succeeded, failed })| {
        json!({
            "remote_address": source.address.to_string(),
            "username": source.user,
            "protocol": source.door.protocol(),
            "auth_attempts": succeeded + failed,
            "auth_attempts_failed": failed,
            "auth_attempts_succeeded": succeeded,
        })
    });
    Ok(Answer::Json(shown.collect()))
}

async fn forget_attempts(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    request.broker.forget_login_attempts();
    Ok(Answer::Done)
}
