//! The management API, as RabbitMQ has it on port 15672: the other door into the house.
//!
//! [`door`] takes connections and bounds what they may cost; [`route`] finds the resource, who asks ([`access`]) and
//! whether they may; a file for each resource says what is done. Rules about names and rights are the house's: a resource
//! turns a [`request::Request`] into one operation of it, and what that says into an [`answer::Answer`].
//!
//! Statuses, bodies and texts are RabbitMQ 4.3's, recorded or read in `rabbit_mgmt_*.erl`.

mod access;
mod answer;
mod cors;
mod describe;
mod door;
mod listing;
mod openapi;
mod request;
mod route;
mod stats;

mod bindings;
mod channels;
mod connections;
mod consumers;
mod control;
mod definitions;
mod exchanges;
mod explain;
mod features;
mod health;
mod limits;
mod listeners;
mod logins;
mod messages;
mod overview;
mod parameters;
mod peek;
mod permissions;
mod policies;
mod prometheus;
mod queue_stats;
mod queues;
mod users;
mod values;
mod vhosts;
mod whoami;

pub use control::{Control, Effective, Reloaded};
pub use door::{Desk, Site, serve};

use crate::broker::Broker;
use answer::Answer;
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response};
use axum::routing::any;
use route::Route;
use std::sync::Arc;

/// Every route, below `/api`.
fn routes(control: &Arc<dyn Control>) -> Vec<Route> {
    let all = [
        whoami::routes(),
        overview::routes(),
        health::routes(),
        features::routes(),
        logins::routes(),
        users::routes(),
        permissions::routes(),
        vhosts::routes(),
        limits::routes(),
        policies::routes(),
        parameters::routes(),
        queues::routes(),
        exchanges::routes(),
        bindings::routes(),
        messages::routes(),
        peek::routes(),
        explain::routes(),
        connections::routes(),
        channels::routes(),
        consumers::routes(),
        definitions::routes(),
        control::routes(control),
    ];
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    all.push(openapi::route(&all));
    all
}

/// For those who only look at the routes, or have no process to stop.
pub fn no_control() -> Arc<dyn Control> {
    Arc::new(Nobody)
}

/// Every path below `/api` and the methods it has, for those who check that none is forgotten.
pub fn table() -> Vec<(&'static str, Vec<String>)> {
    let methods = |route: &Route| route.methods().iter().map(|method| (*method).to_owned()).collect();
    routes(&no_control()).iter().map(|route| (route.path, methods(route))).collect()
}

/// A process that is not there.
struct Nobody;

impl Control for Nobody {
    fn reload(&self) -> Reloaded {
        Reloaded::default()
    }

    fn stop(&self) {}

    fn settings(&self) -> Vec<Effective> {
        Vec::new()
    }
}

/// The routes as a service.
fn router(broker: &Arc<Broker>, control: &Arc<dyn Control>) -> Router {
    let prefix = &broker.config.http.path_prefix;
    let mut router = Router::new();
    for route in routes(control) {
        let path = format!("{prefix}/api{}", route.path);
        let (route, broker) = (Arc::new(route), Arc::clone(broker));
        let serve = move |request: Request<Body>| {
            let (route, broker) = (Arc::clone(&route), Arc::clone(&broker));
            async move { route.serve(broker, request).await }
        };
        router = router.route(&path, any(serve));
    }
    let reference = Answer::Elsewhere(format!("{prefix}/api/index.html"));
    let reference = Arc::new(move || match &reference {
        Answer::Elsewhere(path) => Answer::Elsewhere(path.clone()).into_response(),
        _ => Response::default(),
    });
    let reference = any(move || std::future::ready(reference()));
    if broker.config.metrics.on_http_port {
        router = prometheus::routes(router, broker);
    }
    router
        .route(&format!("{prefix}/api"), reference)
        .fallback(|method: Method| std::future::ready(route::nowhere(&method)))
}
