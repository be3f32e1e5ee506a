//! `POST /reload`, which RabbitMQ does not have: certificates and the level of the logs are read again.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::route::Route;
use serde::Serialize;
use std::sync::Arc;

/// What came of reading settings again, a sentence each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    pub reloaded: Vec<String>,
    /// What stays as it was, and why.
    pub mistakes: Vec<String>,
}

/// Reads them again.
pub type Reload = Arc<dyn Fn() -> Reloaded + Send + Sync>;

pub fn routes(reload: &Reload) -> Vec<Route> {
    let reload = Arc::clone(reload);
    let post = move |_| {
        let reload = Arc::clone(&reload);
        async move {
            // Files are read: no work for a task.
            let reloaded = tokio::task::spawn_blocking(move || reload()).await;
            let reloaded = reloaded.map_err(|_| Failure::internal("reading settings again panicked"))?;
            Ok(Answer::Json(serde_json::json!(reloaded)))
        }
    };
    vec![Route::new("/reload", Role::Administrator).post(post).says("Reads settings and certificates again").takes(&[])]
}
