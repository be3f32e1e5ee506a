//! Verbs that do something to queues and connections.

use std::time::Duration;

use serde_json::Value as Json;

use super::output::Output;
use super::verb::{Call, Failure, Outcome, Switch, Verb, exit};
use crate::cli::api::{self, Body, segment};

const OPERATIONS: &str = "Operations";
const IF_EMPTY: Switch = Switch::flag("if-empty", "Only if no message is ready").short('e');
const IF_UNUSED: Switch = Switch::flag("if-unused", "Only if nobody consumes").short('u');
const FORCE: Switch = Switch::flag("force", "For compatibility; has no effect");
const GLOBAL: Switch = Switch::flag("global", "Of all virtual hosts");
const LIMIT: Switch = Switch::value("limit", "NUMBER", "No more than so many");
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
