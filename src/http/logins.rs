//! `/auth/hash_password` and `/auth/attempts`: how passwords are hashed, and how often somebody tried one.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::request::Request;
use super::route::Route;
use crate::auth::Secret;
use crate::broker::login::Door;
use serde_json::{Value as Json, json};
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

/// RabbitMQ counts by address only where it is told to (`track_auth_attempt_source`): a table that strangers fill. It is
/// not kept here.
async fn attempts_by_source(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    Ok(Answer::Json(Json::Array(Vec::new())))
}

async fn forget_attempts(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    for door in Door::ALL {
        let attempts = request.broker.login_attempts(door);
        attempts.succeeded.store(0, Ordering::Relaxed);
        attempts.failed.store(0, Ordering::Relaxed);
    }
    Ok(Answer::Done)
}
