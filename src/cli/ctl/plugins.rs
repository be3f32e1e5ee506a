//! The verbs of `rabbitmq-plugins`. Nothing is plugged in here: what is built in is on, and the rest there is not.

use serde_json::json;

use super::output::{Output, Rows};
use super::verb::{Call, Failure, Outcome, Switch, Verb, exit};

const GROUP: &str = "Plugin Management";
/// What RabbitMQ has as plugins and is a part of this broker.
pub const BUILT_IN: [&str; 12] = [
    "rabbitmq_auth_backend_internal_loopback",
    "rabbitmq_auth_backend_oauth2",
    "rabbitmq_auth_mechanism_ssl",
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_delayed_message_exchange",
    "rabbitmq_event_exchange",
    "rabbitmq_management",
    "rabbitmq_management_agent",
    "rabbitmq_prometheus",
    "rabbitmq_random_exchange",
    "rabbitmq_recent_history_exchange",
    "rabbitmq_web_dispatch",
];

const MINIMAL: Switch = Switch::flag("minimal", "Only names").short('m');
const VERBOSE: Switch = Switch::flag("verbose", "For compatibility").short('v');
const ENABLED: Switch = Switch::flag("enabled", "Those that are on: all").short('E');
const IMPLICIT: Switch = Switch::flag("implicitly-enabled", "The same").short('e');
const ONLINE: Switch = Switch::flag("online", "For compatibility");
const OFFLINE: Switch = Switch::flag("offline", "For compatibility");
const ALL: Switch = Switch::flag("all", "Every plugin");

pub const VERBS: &[Verb] = &[
    Verb {
        name: "list",
        arguments: "[<pattern>]",
        switches: &[MINIMAL, VERBOSE, ENABLED, IMPLICIT],
        group: GROUP,
        about: "Lists what is built in",
        banner: Some(|call| format!("Listing plugins with pattern \"{}\" ...", pattern(call))),
        run: list,
    },
    Verb {
        name: "enable",
        arguments: "[<plugin>...]",
        switches: &[ONLINE, OFFLINE, ALL],
        group: GROUP,
        about: "Says whether plugins are built in, and then they are on",
        banner: Some(|call| format!("Enabling plugins on node {}:\n{}", call.node, call.arguments.join("\n"))),
        run: enable,
    },
    Verb {
        name: "disable",
        arguments: "[<plugin>...]",
        switches: &[ONLINE, OFFLINE, ALL],
        group: GROUP,
        about: "For compatibility: what is built in stays on",
        banner: Some(|call| format!("Disabling plugins on node {}:\n{}", call.node, call.arguments.join("\n"))),
        run: |_| Ok(Output::Text("Plugin configuration unchanged: what is built in stays on.".to_owned())),
    },
    Verb {
        name: "set",
        arguments: "[<plugin>...]",
        switches: &[ONLINE, OFFLINE],
        group: GROUP,
        about: "As enable",
        banner: Some(|call| format!("Enabling plugins on node {}:\n{}", call.node, call.arguments.join("\n"))),
        run: enable,
    },
    Verb {
        name: "is_enabled",
        arguments: "<plugin> [<plugin>...]",
        switches: &[ONLINE, OFFLINE],
        group: GROUP,
        about: "Exits with a non-zero code if a plugin is not built in",
        banner: Some(|call| format!("Asking node {} if plugin {} is enabled...", call.node, call.arguments.join(", "))),
        run: is_enabled,
    },
    Verb {
        name: "directories",
        arguments: "",
        switches: &[ONLINE, OFFLINE],
        group: GROUP,
        about: "Says where plugins would be: nowhere",
        banner: Some(|call| format!("Listing plugin directories used by node {}", call.node)),
        run: |_| Ok(Output::Text("(none: what RabbitMQ has as plugins is built in)".to_owned())),
    },
];

fn pattern(call: &Call) -> &str {
    if call.argument(0).is_empty() { ".*" } else { call.argument(0) }
}

fn list(call: &Call) -> Outcome {
    let wanted = regex::Regex::new(pattern(call))
        .map_err(|_| Failure::error(exit::USAGE, format!("'{}' is no pattern", pattern(call))))?;
    let names: Vec<_> = BUILT_IN.into_iter().filter(|name| wanted.is_match(name)).collect();
    if call.is_said("minimal") {
        return Ok(Output::Text(names.join("\n")));
    }
    let version = super::node::version();
    let plugins: Vec<_> = names
        .iter()
        .map(|name| json!({"name": name, "version": version, "enabled": "enabled", "running": true}))
        .collect();
    if call.formatter.is_for_machines() {
        let columns = ["name", "version", "enabled", "running"];
        return Ok(Output::Rows(Rows::of(&json!(plugins), columns.map(|column| (column, column)))));
    }
    let width = names.iter().map(|name| name.len()).max().unwrap_or_default();
    let mut lines = vec![
        " Configured: E = explicitly enabled; e = implicitly enabled".to_owned(),
        format!(" | Status: * = running on {}", call.node),
        " |/".to_owned(),
    ];
    lines.extend(names.iter().map(|name| format!("[E*] {name:width$} {version}")));
    Ok(Output::Report(lines.join("\n"), json!({"plugins": plugins, "format": "normal"})))
}

/// Those of the arguments that are not built in.
fn missing(call: &Call) -> Vec<&str> {
    call.arguments.iter().map(String::as_str).filter(|name| !BUILT_IN.contains(name)).collect()
}

fn enable(call: &Call) -> Outcome {
    let missing = missing(call);
    if missing.is_empty() {
        return Ok(Output::Text(format!(
            "The following plugins have been configured:\n  {}\nApplying plugin configuration to {}...\nPlugin \
             configuration unchanged.",
            BUILT_IN.join("\n  "),
            call.node
        )));
    }
    Err(Failure::error(
        exit::UNAVAILABLE,
        format!("{} not built in, and nothing can be plugged in. Built in: {}", are(&missing), BUILT_IN.join(", ")),
    ))
}

fn are(names: &[&str]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

fn is_enabled(call: &Call) -> Outcome {
    let missing = missing(call);
    if missing.is_empty() {
        let what = if call.arguments.len() == 1 { "Plugin" } else { "Plugins" };
        let enabled = are(&call.arguments.iter().map(String::as_str).collect::<Vec<_>>());
        return Ok(Output::Text(format!("{what} {enabled} enabled on node {}", call.node)));
    }
    Err(Failure::error(
        exit::UNAVAILABLE,
        format!(
            "Plugin {} not enabled on node {}. Enabled plugins and dependencies: {}",
            are(&missing),
            call.node,
            BUILT_IN.join(", ")
        ),
    ))
}
