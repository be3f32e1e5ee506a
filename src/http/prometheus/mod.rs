//! Metrics for Prometheus, by RabbitMQ's paths, names and labels (`rabbitmq_prometheus`), so that its dashboards fill:
//! everything is added up at a scrape, nothing is kept for it.
//!
//! ```text
//! /metrics                      all together          /metrics/per-object         each queue, exchange, channel, connection
//! /metrics/detailed?family=…    some of them each     /metrics/memory-breakdown   what takes the memory
//! ```

mod collect;
mod global;
mod pairs;
mod text;
mod things;

use super::answer::Failure;
use super::listing::Query;
use crate::broker::Broker;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::routing::any;
use collect::{Endpoint, Scrape};
use std::sync::Arc;

const METHODS: &str = "HEAD, GET, OPTIONS";
const FORMAT: &str = "text/plain; version=0.0.4";

/// The whole of a port for metrics.
pub fn router(broker: &Arc<Broker>) -> Router {
    let nothing = || std::future::ready(Failure::no_object().into_response());
    routes(Router::new(), broker).fallback(nothing)
}

/// Adds the paths of metrics.
pub fn routes(router: Router, broker: &Arc<Broker>) -> Router {
    let path = broker.config.metrics.path.as_str();
    let path = if path.is_empty() { "/metrics" } else { path };
    let serve = |broker: &Arc<Broker>, prefix: String| {
        let broker = Arc::clone(broker);
        any(move |request: Request| {
            let (broker, prefix) = (Arc::clone(&broker), prefix.clone());
            async move { serve(broker, &prefix, request).await }
        })
    };
    router
        .route(path, serve(broker, path.to_owned()))
        .route(&format!("{path}/{{registry}}"), serve(broker, path.to_owned()))
}

async fn serve(broker: Arc<Broker>, prefix: &str, request: Request) -> Response<Body> {
    let method = request.method();
    if !matches!(*method, Method::GET | Method::HEAD) {
        let status = if *method == Method::OPTIONS { StatusCode::OK } else { StatusCode::METHOD_NOT_ALLOWED };
        return answer(status, "", "");
    }
    let registry = request.uri().path().strip_prefix(prefix).unwrap_or_default().trim_start_matches('/');
    let endpoint = match registry {
        "" if broker.config.metrics.per_object => Endpoint::PerObject,
        "" | "default" => Endpoint::Aggregated,
        "per-object" => Endpoint::PerObject,
        "detailed" => Endpoint::Detailed,
        "memory-breakdown" => Endpoint::MemoryBreakdown,
        _ => return answer(StatusCode::NOT_FOUND, "text/plain", "Unknown Registry"),
    };
    if !takes_text(request.headers()) {
        return answer(StatusCode::NOT_ACCEPTABLE, "", "");
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let scrape =
        Scrape { endpoint, families: query.all("family"), vhosts: query.all("vhost"), queues: query.all("queue") };
    // Many queues take a while.
    match tokio::task::spawn_blocking(move || collect::scrape(&broker, &scrape)).await {
        Ok(text) => answer(StatusCode::OK, FORMAT, text),
        Err(_) => Failure::internal("collecting metrics panicked").into_response(),
    }
}

/// Whether a client takes this format: OpenMetrics alone is another.
fn takes_text(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(ACCEPT) else { return true };
    let Ok(accept) = accept.to_str() else { return false };
    let mut kinds = accept.split(',').filter_map(|kind| kind.split(';').next()).map(str::trim);
    kinds.any(|kind| ["text/plain", "text/*", "*/*", "*"].contains(&kind))
}

fn answer(status: StatusCode, format: &'static str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(METHODS));
    if !format.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(format));
    }
    response
}
