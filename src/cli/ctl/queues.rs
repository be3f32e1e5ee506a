//! Verbs that do something to queues and connections.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::output::{Output, Rows};
use super::verb::{Call, Failure, Outcome, Switch, Verb, exit};
use crate::cli::api::{self, Body, segment};

const OPERATIONS: &str = "Operations";
const IF_EMPTY: Switch = Switch::flag("if-empty", "Only if no message is ready").short('e');
const IF_UNUSED: Switch = Switch::flag("if-unused", "Only if nobody consumes").short('u');
const FORCE: Switch = Switch::flag("force", "For compatibility; has no effect");
const GLOBAL: Switch = Switch::flag("global", "Of all virtual hosts");
const LIMIT: Switch = Switch::value("limit", "NUMBER", "No more than so many");
const COUNT: Switch = Switch::value("count", "NUMBER", "How many");
const STATES: Switch = Switch::value("states", "STATES", "Of ready, unacked, delayed, dying, with commas between them");
const KEY: Switch = Switch::value("routing-key", "PATTERN", "Those whose routing key fits");
const HEADERS: Switch = Switch::value("headers", "JSON", "Headers with their values");
const TRUNCATE: Switch = Switch::value("truncate", "OCTETS", "How much of a payload to show");
const TO: Switch = Switch::value("to", "QUEUE", "Another queue than the one in which they died");
const RATE: Switch = Switch::value("rate", "NUMBER", "How many a second");
const KEEP_DEATHS: Switch = Switch::flag("keep-deaths", "Let their headers go on telling of their deaths");
const DELAY: Switch = Switch::value("per-connection-delay", "MILLISECONDS", "To wait after each");

pub const VERBS: &[Verb] = &[
    Verb {
        name: "delete_queue",
        arguments: "<queue>",
        switches: &[IF_EMPTY, IF_UNUSED, FORCE],
        group: "Queues",
        about: "Deletes a queue",
        banner: Some(|call| {
            let conditions =
                [(call.is_said("if-empty"), "if queue is empty "), (call.is_said("if-unused"), "if queue is unused ")];
            let said: Vec<_> = conditions.iter().filter(|(said, _)| *said).map(|(_, text)| *text).collect();
            format!("Deleting queue '{}' on vhost '{}' {}...", call.argument(0), call.vhost, said.join("and "))
        }),
        run: delete,
    },
    Verb {
        name: "purge_queue",
        arguments: "<queue>",
        switches: &[],
        group: "Queues",
        about: "Removes all messages that are ready in a queue",
        banner: Some(|call| format!("Purging queue '{}' in vhost '{}' ...", call.argument(0), call.vhost)),
        run: purge,
    },
    Verb {
        name: "peek",
        arguments: "<queue> [<position>]",
        switches: &[COUNT, STATES, KEY, HEADERS, TRUNCATE],
        group: "Queues",
        about: "Shows messages of a queue without touching them, from a position on",
        banner: Some(|call| format!("Peeking at queue '{}' in vhost '{}' ...", call.argument(0), call.vhost)),
        run: peek,
    },
    Verb {
        name: "redrive",
        arguments: "<queue>",
        switches: &[TO, COUNT, RATE, KEEP_DEATHS, KEY, HEADERS],
        group: "Queues",
        about: "Moves dead letters back to the queues in which they died",
        banner: Some(|call| {
            format!("Moving messages of queue '{}' in vhost '{}' back ...", call.argument(0), call.vhost)
        }),
        run: redrive,
    },
    Verb {
        name: "explain_route",
        arguments: "<exchange> [<routing_key>]",
        switches: &[HEADERS],
        group: "Queues",
        about: "Says where a message would go, and which bindings say so; publishes nothing",
        banner: Some(|call| {
            format!("Asking where exchange '{}' in vhost '{}' routes ...", call.argument(0), call.vhost)
        }),
        run: explain,
    },
    Verb {
        name: "close_connection",
        arguments: "<connection> [<explanation>]",
        switches: &[],
        group: OPERATIONS,
        about: "Closes a connection, by the name that list_connections has",
        banner: Some(|call| format!("Closing connection {}, reason: {}...", call.argument(0), call.argument(1))),
        run: |call| {
            close(call, call.argument(0), call.argument(1))?;
            Ok(Output::Nothing)
        },
    },
    Verb {
        name: "close_all_connections",
        arguments: "<explanation>",
        switches: &[GLOBAL, LIMIT, DELAY],
        group: OPERATIONS,
        about: "Closes all connections to a virtual host, or to the broker",
        banner: Some(|call| match call.is_said("global") {
            true => format!(
                "Closing all connections to node {} (across all vhosts), reason: {}...",
                call.node,
                call.argument(0)
            ),
            false => format!("Closing all connections in vhost {}, reason: {}...", call.vhost, call.argument(0)),
        }),
        run: close_all,
    },
    Verb {
        name: "close_all_user_connections",
        arguments: "<username> <explanation>",
        switches: &[],
        group: OPERATIONS,
        about: "Closes all connections of a user",
        banner: Some(|call| {
            format!("Closing connections of user {}, reason: {}...", call.argument(0), call.argument(1))
        }),
        run: close_of_user,
    },
];

fn queue_path(call: &Call) -> String {
    format!("/queues/{}/{}", call.vhost_segment(), segment(call.argument(0)))
}

fn delete(call: &Call) -> Outcome {
    let path = queue_path(call);
    let missing = |failure: api::Failure| match (failure.status(), failure.to_string()) {
        (Some(404), _) => Failure::error(exit::USAGE, "No such queue was found"),
        (_, text) if text.contains("not empty") => Failure::error(exit::USAGE, "The queue is not empty"),
        (_, text) if text.contains("in use") => Failure::error(exit::USAGE, "The queue is in use"),
        (_, text) if text.contains("exclusive access") => {
            Failure::error(exit::USAGE, "The queue is locked or protected from deletion")
        }
        _ => failure.into(),
    };
    let ready = call.api.get(&path).map_err(missing)?["messages_ready"].as_u64().unwrap_or_default();
    let mut conditions = Vec::new();
    for condition in ["if-empty", "if-unused"] {
        if call.is_said(condition) {
            conditions.push(format!("{condition}=true"));
        }
    }
    let query = if conditions.is_empty() { String::new() } else { format!("?{}", conditions.join("&")) };
    call.api.delete(&format!("{path}{query}")).map_err(missing)?;
    Ok(Output::Text(format!("Queue was successfully deleted with {ready} ready messages")))
}

fn purge(call: &Call) -> Outcome {
    match call.api.delete(&format!("{}/contents", queue_path(call))) {
        Err(failure) if failure.status() == Some(404) => Err(Failure::not_found()),
        answer => super::verb::done(answer),
    }
}

/// The filters that peeking and moving share.
fn filters(call: &Call) -> Result<Json, Failure> {
    let mut fields = json!({});
    if let Some(headers) = call.value("headers") {
        fields["headers"] = serde_json::from_str(headers)
            .map_err(|_| Failure::error(exit::USAGE, format!("--headers is a JSON object, not '{headers}'")))?;
    }
    if let Some(key) = call.value("routing-key") {
        fields["routing_key"] = key.into();
    }
    for switch in ["count", "rate", "truncate"] {
        if call.value(switch).is_some() {
            fields[switch] = number(call, switch)?.into();
        }
    }
    Ok(fields)
}

/// Sends something to a queue of messages.
fn of_queue(call: &Call, what: &str, fields: &Json) -> Result<Json, Failure> {
    call.api.post(&format!("{}/{what}", queue_path(call)), fields).map_err(|failure| match failure.status() {
        Some(404) => Failure::not_found(),
        _ => failure.into(),
    })
}

fn peek(call: &Call) -> Outcome {
    let mut fields = filters(call)?;
    if let Some(states) = call.value("states") {
        fields["states"] = states.into();
    }
    if let Some(position) = call.arguments.get(1) {
        fields["from"] = position.as_str().into();
    }
    let said = of_queue(call, "peek", &fields)?;
    let columns = ["position", "state", "redelivered", "exchange", "routing_key", "payload_bytes", "payload"];
    let mut rows = Rows::of(&said["messages"], columns.map(|column| (column, column)));
    if call.formatter.is_for_machines() {
        rows = Rows::of(&said["messages"], columns.into_iter().chain(["properties"]).map(|column| (column, column)));
    }
    Ok(Output::Rows(rows))
}

/// Asks again until nothing is left.
fn redrive(call: &Call) -> Outcome {
    let mut fields = filters(call)?;
    fields["keep_deaths"] = call.is_said("keep-deaths").into();
    if let Some(to) = call.value("to") {
        fields["to"] = to.into();
    }
    let most = call.value("count").map(|_| number(call, "count")).transpose()?;
    let (mut moved, mut without_origin) = (0, 0);
    loop {
        if let Some(most) = most {
            fields["count"] = most.saturating_sub(moved).into();
        }
        let said = of_queue(call, "redrive", &fields)?;
        let now = said["moved"].as_u64().unwrap_or_default();
        moved += now;
        without_origin += said["without_origin"].as_u64().unwrap_or_default();
        let is_enough = most.is_some_and(|most| moved >= most);
        match &said["next"] {
            Json::Null => break,
            _ if is_enough => break,
            next if now == 0 => {
                return Err(Failure::error(
                    exit::UNAVAILABLE,
                    format!("moved {moved} messages; the next, at {next}, is not taken by the queue that it came from"),
                ));
            }
            next => fields["from"] = next.clone(),
        }
    }
    let mut text = format!("Moved {moved} messages");
    if without_origin > 0 {
        text += &format!("; {without_origin} stay, since no queue is there that they came from");
    }
    Ok(Output::Report(text, json!({"moved": moved, "without_origin": without_origin})))
}

fn explain(call: &Call) -> Outcome {
    let exchange = if call.argument(0).is_empty() { "amq.default" } else { call.argument(0) };
    let mut fields = filters(call)?;
    fields["routing_key"] = call.argument(1).into();
    let path = format!("/route/{}/{}", call.vhost_segment(), segment(exchange));
    let said = call.api.post(&path, &fields).map_err(|failure| match failure.status() {
        Some(404) => Failure::not_found(),
        _ => failure.into(),
    })?;
    let lines = said["explanation"].as_array().into_iter().flatten().filter_map(Json::as_str);
    let mut text = lines.collect::<Vec<_>>().join("\n");
    let queues: Vec<_> = said["queues"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    text += &match queues[..] {
        [] => "\nIt reaches no queue".to_owned(),
        ref queues => format!("\nIt reaches: {}", queues.join(", ")),
    };
    Ok(Output::Report(text, said.clone()))
}

fn close(call: &Call, connection: &str, why: &str) -> Result<(), Failure> {
    let why = if why.is_empty() { "Closed via the command line" } else { why };
    let path = format!("/connections/{}", segment(connection));
    let closed = call.api.call_with("DELETE", &path, &[("X-Reason", why)], Body::None);
    closed.map(drop).map_err(|failure| match failure.status() {
        Some(404) => Failure::error(exit::UNAVAILABLE, format!("there is no connection '{connection}'")),
        _ => failure.into(),
    })
}

/// Closes those that are still there.
fn close_each(call: &Call, connections: &[String], why: &str, delay: Duration) -> Result<usize, Failure> {
    let mut closed = 0;
    for connection in connections {
        match close(call, connection, why) {
            Ok(()) => closed += 1,
            Err(failure) if failure.text.contains("there is no connection") => {}
            Err(failure) => return Err(failure),
        }
        std::thread::sleep(delay);
    }
    Ok(closed)
}

fn connections(call: &Call, is_meant: impl Fn(&Json) -> bool) -> Result<Vec<String>, Failure> {
    let all = call.api.get("/connections")?;
    let names = all.as_array().into_iter().flatten().filter(|one| is_meant(one)).filter_map(|one| one["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn number(call: &Call, switch: &str) -> Result<u64, Failure> {
    let text = call.value(switch).unwrap_or("0");
    text.parse().map_err(|_| Failure::error(exit::USAGE, format!("--{switch} is a number, not '{text}'")))
}

fn close_all(call: &Call) -> Outcome {
    let is_global = call.is_said("global");
    let mut meant = connections(call, |one| is_global || one["vhost"] == call.vhost.as_str())?;
    match number(call, "limit")? {
        0 => {}
        limit => meant.truncate(usize::try_from(limit).unwrap_or(usize::MAX)),
    }
    let delay = Duration::from_millis(number(call, "per-connection-delay")?);
    let closed = close_each(call, &meant, call.argument(0), delay)?;
    Ok(Output::Text(format!("Closed {closed} connections")))
}

fn close_of_user(call: &Call) -> Outcome {
    let meant = connections(call, |one| one["user"] == call.argument(0))?;
    close_each(call, &meant, call.argument(1), Duration::ZERO)?;
    Ok(Output::Nothing)
}
