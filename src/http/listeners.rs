//! `listeners` and `contexts` of the overview: where the broker can be reached, in the shapes that RabbitMQ's listing has.

use crate::broker::Broker;
use crate::broker::listeners::{BACKLOG, Listener, Protocol};
use serde_json::{Value as Json, json};
use std::sync::Arc;

/// Every listener. RabbitMQ's tools come by one called `clustering`; here they use the management API, so the first port of
/// that is shown once more by this name: scripts that look for the tools' way find one that is open.
pub fn listeners(broker: &Broker) -> Json {
    let listeners = broker.listeners.list();
    let tools = listeners.iter().find(|listener| listener.protocol == Protocol::Http);
    let tools = tools.map(|listener| {
        let mut shown = described(listener, broker);
        shown["protocol"] = if listener.certificates.is_some() { "clustering/ssl" } else { "clustering" }.into();
        shown["socket_opts"] = json!([]);
        shown
    });
    listeners.iter().map(|listener| described(listener, broker)).chain(tools).collect()
}

fn described(listener: &Listener, broker: &Broker) -> Json {
    json!({
        "node": broker.events().node(),
        "protocol": listener.protocol_name(),
        "ip_address": listener.address.ip().to_string(),
        "port": listener.address.port(),
        "socket_opts": options(listener),
        "tls": listener.certificates.is_some(),
    })
}

/// How its sockets are. They linger as the system has it, which does not wait.
fn options(listener: &Listener) -> Json {
    if listener.protocol == Protocol::Amqp {
        return json!({"backlog": BACKLOG, "nodelay": true, "linger": [false, 0], "exit_on_close": false});
    }
    let mut options = json!({
        "cowboy_opts": {"sendfile": false},
        "ip": listener.address.ip().to_string(),
        "port": listener.address.port(),
    });
    if listener.protocol == Protocol::Prometheus {
        options["protocol"] = listener.protocol_name().into();
    }
    if listener.certificates.is_some() {
        options["ssl"] = true.into();
    }
    options
}

/// Where HTTP is spoken. RabbitMQ writes options as Erlang's terms here.
pub fn contexts(broker: &Broker, with_node: bool) -> Json {
    let described = |listener: &Arc<Listener>| {
        let (description, path) = match listener.protocol {
            Protocol::Amqp => return None,
            Protocol::Http => ("RabbitMQ Management", format!("{}/", broker.config.http.path_prefix)),
            Protocol::Prometheus => ("RabbitMQ Prometheus", "/".to_owned()),
        };
        let mut shown = json!({
            "description": description,
            "path": path,
            "cowboy_opts": "[{sendfile,false}]",
            "ip": listener.address.ip().to_string(),
            "port": listener.address.port().to_string(),
        });
        if listener.protocol == Protocol::Prometheus {
            shown["protocol"] = format!("'{}'", listener.protocol_name()).into();
        }
        if with_node {
            shown["node"] = broker.events().node().into();
            shown["ssl_opts"] = json!([]);
        }
        Some(shown)
    };
    broker.listeners.list().iter().filter_map(described).collect()
}
