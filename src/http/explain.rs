//! `POST /route/{vhost}/{exchange}`, which RabbitMQ does not have: where a message would go, and why. Nothing is published.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::{self, Kind, may};
use super::messages::raw_properties;
use super::request::Request;
use super::route::Route;
use crate::amqp::properties::Properties;
use crate::amqp::table::Field;
use crate::definitions::table_to_json;
use crate::exchange::{Binding, Destination};
use crate::vhost::explain::{Decision, Explained, Step};
use serde_json::{Map, Value as Json, json};

const MESSAGE: &[describe::Field] =
    &[may("routing_key", Kind::Text), may("headers", Kind::Table), may("properties", Kind::Table)];

pub fn routes() -> Vec<Route> {
    let route = Route::new("/route/{vhost}/{exchange}", Role::Vhost);
    vec![route.post(explain).says("Where a message would go, and why").takes(MESSAGE)]
}

/// `{"routing_key": "k", "headers": {…}}`; or `properties` as for publishing, since `CC` and `x-delay` count as well.
async fn explain(mut request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    let mut fields = request.json().await?;
    let routing_key = match fields.shift_remove("routing_key") {
        None => String::new(),
        Some(Json::String(key)) => key,
        Some(_) => return Err(Failure::bad_request(json!(["not_string", "routing_key"]))),
    };
    let mut properties = fields.shift_remove("properties").unwrap_or_else(|| json!({}));
    if let (Some(headers), Some(properties)) = (fields.shift_remove("headers"), properties.as_object_mut()) {
        properties.insert("headers".to_owned(), headers);
    }
    let raw = raw_properties(&properties)?;
    let properties = Properties::parse(&raw).map_err(|_| Failure::bad_request("invalid properties"))?;
    let mut keys = vec![routing_key.as_str()];
    for name in ["CC", "BCC"] {
        if let Some(Field::Array(items)) = properties.headers.and_then(|headers| headers.get(name.as_bytes())) {
            keys.extend(items.long_strings().filter_map(|key| std::str::from_utf8(key).ok()));
        }
    }
    let explained = vhost.explain(request.exchange("exchange"), &keys, &properties)?;
    Ok(Answer::Json(shown(&explained, &keys)))
}

fn shown(explained: &Explained, keys: &[&str]) -> Json {
    json!({
        "routed": !explained.queues.is_empty(),
        "queues": explained.queues.iter().map(|queue| &**queue).collect::<Vec<_>>(),
        "steps": explained.steps.iter().map(shown_step).collect::<Vec<_>>(),
        "explanation": explained.steps.iter().flat_map(|step| told(step, keys, explained)).collect::<Vec<_>>(),
    })
}

fn shown_step(step: &Step) -> Json {
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("exchange", (&*step.exchange).into());
    set("type", step.kind.name().into());
    set("decided_by", word(&step.decision).into());
    if let Decision::Alternate(alternate) = &step.decision {
        set("alternate_exchange", (&**alternate).into());
    }
    set("bindings", step.bindings.iter().map(shown_binding).collect());
    shown.into()
}

fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::QueueName => "queue_name",
        Decision::Bindings => "bindings",
        Decision::Hash => "hash",
        Decision::Chance => "chance",
        Decision::Alternate(_) => "alternate_exchange",
        Decision::Delay => "delay",
        Decision::Nothing => "nothing",
    }
}

fn destination(binding: &Binding) -> (&'static str, &str) {
    match &binding.destination {
        Destination::Queue(name) => ("queue", name),
        Destination::Exchange(name) => ("exchange", name),
    }
}

fn shown_binding(binding: &Binding) -> Json {
    let (kind, name) = destination(binding);
    let arguments = table_to_json(&binding.arguments);
    json!({"destination": name, "destination_type": kind, "routing_key": &*binding.routing_key, "arguments": arguments})
}

/// The same in sentences.
fn told(step: &Step, keys: &[&str], explained: &Explained) -> Vec<String> {
    let exchange = match &*step.exchange {
        "" => "the default exchange".to_owned(),
        name => format!("exchange '{name}' ({})", step.kind.name()),
    };
    let key = match keys {
        [key] => format!("the key '{key}'"),
        keys => format!("the keys '{}'", keys.join("', '")),
    };
    let by_bindings = |why: &str| -> Vec<String> {
        let sentence = |binding: &Binding| {
            let (kind, name) = destination(binding);
            let arguments = table_to_json(&binding.arguments);
            let with = if arguments.is_empty() { String::new() } else { format!(" {}", Json::Object(arguments)) };
            format!("{exchange}: {why} the binding '{}'{with} to {kind} '{name}'", binding.routing_key)
        };
        step.bindings.iter().map(sentence).collect()
    };
    match &step.decision {
        Decision::QueueName => {
            explained.queues.iter().map(|queue| format!("{exchange}: '{queue}' is the name of a queue")).collect()
        }
        Decision::Bindings => by_bindings("the message fits"),
        Decision::Hash => by_bindings("its hash chooses"),
        Decision::Chance => by_bindings("chance chooses"),
        Decision::Alternate(alternate) => {
            vec![format!("{exchange}: no binding takes {key}, so the alternate exchange '{alternate}' gets it")]
        }
        Decision::Delay => vec![format!("{exchange}: it is held back, and routed when its time has come")],
        Decision::Nothing if step.exchange.is_empty() => vec![format!("{exchange}: no queue is called as {key} says")],
        Decision::Nothing => vec![format!("{exchange}: no binding takes {key}, and there is no alternate exchange")],
    }
}
