//! Verbs about the broker itself: whether it runs and is well, what it is, and how it is told to change or to stop.

use std::fmt::Write as _;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::output::{Output, Rows};
use super::verb::{Call, Failure, Outcome, Switch, Verb, done, exit};
use crate::cli::api::{self, Body, segment};
use crate::config::{Default, SETTINGS};

const NODES: &str = "Nodes";
const HEALTH: &str = "Monitoring, observability and health checks";
const FLAGS: &str = "Feature flags";
const CONFIGURATION: &str = "Configuration and Environment";

/// How long a broker may take to start, if nobody says: RabbitMQ's.
const STARTUP: Duration = Duration::from_secs(300);
/// The same for one whose process is waited for.
const WAIT: Duration = Duration::from_secs(10);
/// How long it may take to stop.
const SHUTDOWN: Duration = Duration::from_secs(120);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(100);
/// For a listener to take a connection.
const CONNECT: Duration = Duration::from_secs(10);

const UNIT: Switch = Switch::value("unit", "UNIT", "gb, mb, kb or bytes");
const IDEMPOTENT: Switch = Switch::flag("idempotent", "It is no failure if nothing runs");
const PID: Switch = Switch::value("pid", "PID", "The process to wait for").short('P');
const NO_WAIT: Switch = Switch::flag("no-wait", "Don't wait for the end");
const DO_WAIT: Switch = Switch::flag("wait", "Wait for the end, which is usual");
const ADDRESS: Switch = Switch::value("address", "HOST", "The host to connect to").short('a');
const WITHIN: Switch = Switch::value("within", "NUMBER", "How soon is too soon");
const EXPIRY_UNIT: Switch = Switch::value("unit", "UNIT", "days, weeks, months or years");
const EXPERIMENTAL: Switch = Switch::flag("experimental", "For compatibility");
const OPT_IN: Switch = Switch::flag("opt-in", "For compatibility");

pub const VERBS: &[Verb] = &[
    Verb {
        name: "status",
        arguments: "",
        switches: &[UNIT],
        group: HEALTH,
        about: "Says what runs, and how it is",
        banner: Some(|call| format!("Status of node {} ...", call.node)),
        run: status,
    },
    Verb {
        name: "ping",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "Asks whether the broker answers",
        banner: Some(|call| {
            let timeout = call.timeout.map_or(60_000, |timeout| timeout.as_millis());
            format!("Will ping {}. This only checks if the broker answers. Timeout: {timeout} ms.", call.node)
        }),
        run: |call| {
            answers(call)?;
            Ok(Output::Text("Ping succeeded".to_owned()))
        },
    },
    Verb {
        name: "check_running",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "Exits with a non-zero code if the broker does not run",
        banner: Some(|call| format!("Checking if RabbitMQ is running on node {} ...", call.node)),
        run: running,
    },
    Verb {
        name: "is_running",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "The same",
        banner: Some(|call| format!("Asking node {} for its status ...", call.node)),
        run: running,
    },
    Verb {
        name: "is_booting",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "Says whether the broker is starting, which is over when it answers",
        banner: Some(|call| format!("Asking node {} for its boot status ...", call.node)),
        run: |call| {
            Ok(Output::Text(format!(
                "RabbitMQ on node {} is fully booted (check with is_running), stopped or has not started booting yet",
                call.node
            )))
        },
    },
    Verb {
        name: "check_port_connectivity",
        arguments: "",
        switches: &[ADDRESS],
        group: HEALTH,
        about: "Connects to every listener, and exits with a non-zero code if one does not answer",
        banner: Some(|call| format!("Testing TCP connections to all active listeners on node {} ...", call.node)),
        run: check_port_connectivity,
    },
    Verb {
        name: "check_port_listener",
        arguments: "<port>",
        switches: &[],
        group: HEALTH,
        about: "Exits with a non-zero code if nothing listens on a port",
        banner: Some(|call| {
            format!("Asking node {} if there's an active listener on port {} ...", call.node, call.argument(0))
        }),
        run: check_port_listener,
    },
    Verb {
        name: "check_protocol_listener",
        arguments: "<protocol>",
        switches: &[],
        group: HEALTH,
        about: "Exits with a non-zero code if nothing listens for a protocol",
        banner: Some(|call| {
            format!("Asking node {} if there's an active listener for protocol {} ...", call.node, call.argument(0))
        }),
        run: check_protocol_listener,
    },
    Verb {
        name: "check_local_alarms",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "Exits with a non-zero code if memory or disk are short",
        banner: Some(|call| format!("Asking node {} to report any local resource alarms ...", call.node)),
        run: |call| check_alarms(call, &format!("Node {} reported no local alarms", call.node)),
    },
    Verb {
        name: "check_alarms",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "The same",
        banner: Some(|call| format!("Asking node {} to report any local resource alarms ...", call.node)),
        run: |call| check_alarms(call, &format!("Node {} reported no alarms, local or clusterwide", call.node)),
    },
    Verb {
        name: "alarms",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "Lists alarms that are set",
        banner: Some(|call| format!("Asking node {} to report any known resource alarms ...", call.node)),
        run: |call| {
            let alarms = alarms(call)?;
            let text = match alarms[..] {
                [] => format!("Node {} reported no alarms, local or clusterwide", call.node),
                _ => format!("Node {} reported alarms:\n\n * {}", call.node, alarms.join("\n * ")),
            };
            Ok(Output::Report(text, json!({"alarms": alarms})))
        },
    },
    Verb {
        name: "check_virtual_hosts",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "Exits with a non-zero code if a virtual host does not run",
        banner: Some(|call| format!("Checking if all vhosts are running on node {} ...", call.node)),
        run: check_virtual_hosts,
    },
    Verb {
        name: "check_certificate_expiration",
        arguments: "",
        switches: &[WITHIN, EXPIRY_UNIT],
        group: HEALTH,
        about: "Exits with a non-zero code if a certificate expires too soon",
        banner: Some(|call| format!("Checking certificate expiration for all certificates on node {} ...", call.node)),
        run: check_certificates,
    },
    Verb {
        name: "node_health_check",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "For compatibility: checks nothing, as RabbitMQ's since 4.0",
        banner: None,
        run: |_| {
            Ok(Output::Text(
                "This command is DEPRECATED and is a no-op. It will be removed in a future version. \nUse check_running, \
                 check_local_alarms or check_port_connectivity instead."
                    .to_owned(),
            ))
        },
    },
    Verb {
        name: "listeners",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "Lists where the broker listens",
        banner: Some(|call| format!("Asking node {} to report its protocol listeners ...", call.node)),
        run: |call| {
            let listeners = listeners(call)?;
            let lines: Vec<_> = listeners.iter().map(Listener::shown).collect();
            Ok(Output::Report(
                lines.join("\n"),
                json!({"node": call.node, "result": "ok",
                "listeners": listeners.iter().map(Listener::to_json).collect::<Vec<_>>()}),
            ))
        },
    },
    Verb {
        name: "memory_breakdown",
        arguments: "",
        switches: &[UNIT],
        group: HEALTH,
        about: "Says what memory is used for",
        banner: Some(|call| format!("Reporting memory breakdown on node {}...", call.node)),
        run: memory_breakdown,
    },
    Verb {
        name: "server_version",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "The version of RabbitMQ that the broker is like",
        banner: Some(|call| format!("Asking node {} for its RabbitMQ version...", call.node)),
        run: |call| Ok(Output::Text(text(&call.api.get("/overview")?, "rabbitmq_version"))),
    },
    Verb {
        name: "log_location",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "Where the log is written",
        banner: Some(|call| format!("Log file location(s) on node {} ...", call.node)),
        run: |_| Ok(Output::Text("<stdout>".to_owned())),
    },
    Verb {
        name: "list_policies_that_match",
        arguments: "<queue>",
        switches: &[],
        group: HEALTH,
        about: "Lists the policies that fit a queue, the one that counts first",
        banner: Some(|call| {
            format!("Listing policies that match queue '{}' in vhost '{}' ...", call.argument(0), call.vhost)
        }),
        run: policies_that_match,
    },
    Verb {
        name: "report",
        arguments: "",
        switches: &[],
        group: HEALTH,
        about: "Everything that somebody who helps may want to know",
        banner: Some(|call| format!("Reporting server status of node {} ...", call.node)),
        run: report,
    },
    Verb {
        name: "cluster_status",
        arguments: "",
        switches: &[],
        group: "Cluster",
        about: "Says who is in the cluster: this broker alone",
        banner: Some(|call| format!("Cluster status of node {} ...", call.node)),
        run: cluster_status,
    },
    Verb {
        name: "set_cluster_name",
        arguments: "<name>",
        switches: &[],
        group: CONFIGURATION,
        about: "Names the whole installation",
        banner: Some(|call| format!("Setting cluster name to {} ...", call.argument(0))),
        run: |call| done(call.api.put("/cluster-name", &json!({"name": call.argument(0)}))),
    },
    Verb {
        name: "await_startup",
        arguments: "",
        switches: &[],
        group: NODES,
        about: "Waits until the broker answers",
        banner: None,
        run: |call| {
            await_answer(call, call.timeout.unwrap_or(STARTUP))?;
            Ok(Output::Nothing)
        },
    },
    Verb {
        name: "wait",
        arguments: "[<pidfile>]",
        switches: &[PID],
        group: NODES,
        about: "Waits until the broker answers whose process stands in a file",
        banner: None,
        run: wait,
    },
    Verb {
        name: "stop",
        arguments: "[<pidfile>]",
        switches: &[IDEMPOTENT],
        group: NODES,
        about: "Stops the broker; what is on disk stays",
        banner: Some(|call| format!("Stopping and halting node {} ...", call.node)),
        run: stop,
    },
    Verb {
        name: "shutdown",
        arguments: "",
        switches: &[DO_WAIT, NO_WAIT],
        group: NODES,
        about: "Stops the broker and waits for its end",
        banner: None,
        run: shutdown,
    },
    Verb {
        name: "reload",
        arguments: "",
        switches: &[],
        group: NODES,
        about: "Lets the broker read its certificates and log level again, which RabbitMQ's tools can't",
        banner: None,
        run: |call| {
            let said = call.api.call("POST", "/reload", Body::None)?;
            let lines = |key: &str| -> Vec<String> {
                said[key].as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
            };
            match lines("mistakes") {
                mistakes if mistakes.is_empty() => Ok(Output::Report(lines("reloaded").join("\n"), said.clone())),
                mistakes => Err(Failure::error(exit::CONFIG, mistakes.join("\n"))),
            }
        },
    },
    Verb {
        name: "rotate_logs",
        arguments: "",
        switches: &[],
        group: NODES,
        about: "For compatibility: logs go to standard output",
        banner: None,
        run: |_| Err(Failure::error(exit::UNAVAILABLE, "This command does not rotate logs anymore [deprecated]")),
    },
    Verb {
        name: "environment",
        arguments: "",
        switches: &[],
        group: CONFIGURATION,
        about: "Lists every setting, its value, and where it was said",
        banner: Some(|call| format!("Application environment of node {} ...", call.node)),
        run: |call| {
            let settings = call.api.get("/environment")?;
            let columns = ["name", "value", "said_in"];
            Ok(Output::Rows(Rows::of(&settings, columns.map(|column| (column, column)))))
        },
    },
    Verb {
        name: "set_log_level",
        arguments: "<log_level>",
        switches: &[],
        group: CONFIGURATION,
        about: "Sets how much is logged, until the next start",
        banner: Some(|call| format!("Setting log level to \"{}\" ...", call.argument(0))),
        run: |call| done(call.api.put("/log-level", &json!({"level": call.argument(0)}))),
    },
    Verb {
        name: "set_vm_memory_high_watermark",
        arguments: "<fraction> [<amount>]",
        switches: &[],
        group: CONFIGURATION,
        about: "Sets when memory counts as short, until the next start: a fraction, or 'absolute' and an amount",
        banner: None,
        run: |call| set_watermark(call, "memory", "Setting memory threshold on"),
    },
    Verb {
        name: "set_disk_free_limit",
        arguments: "<disk_limit> [<fraction>]",
        switches: &[],
        group: CONFIGURATION,
        about: "Sets when the disk counts as full, until the next start: an amount, or 'mem_relative' and a fraction",
        banner: None,
        run: |call| set_watermark(call, "disk", "Setting disk free limit on"),
    },
    Verb {
        name: "list_feature_flags",
        arguments: "[<column>...]",
        switches: &[],
        group: FLAGS,
        about: "Lists feature flags",
        banner: Some(|_| "Listing feature flags ...".to_owned()),
        run: |call| {
            let wanted: Vec<_> = call.arguments.iter().map(String::as_str).collect();
            let known = ["name", "state", "stability", "provided_by", "desc", "doc_url"];
            let columns = super::listings::check_columns(call, &wanted, &known, &["name", "state"])?;
            Ok(Output::Rows(Rows::of(
                &call.api.get("/feature-flags")?,
                columns.iter().map(|column| (*column, *column)),
            )))
        },
    },
    Verb {
        name: "enable_feature_flag",
        arguments: "<feature_flag>",
        switches: &[EXPERIMENTAL, OPT_IN],
        group: FLAGS,
        about: "For compatibility: all that are known are enabled",
        banner: Some(|call| match call.argument(0) {
            "all" => "Enabling all feature flags ...".to_owned(),
            flag => format!("Enabling feature flag \"{flag}\" ..."),
        }),
        run: |call| match call.argument(0) {
            "all" => Ok(Output::Nothing),
            flag => done(call.api.put(&format!("/feature-flags/{}/enable", segment(flag)), &json!({}))),
        },
    },
    Verb {
        name: "list_deprecated_features",
        arguments: "",
        switches: &[],
        group: FLAGS,
        about: "Lists what RabbitMQ will take away one day",
        banner: Some(|_| "Listing deprecated features ...".to_owned()),
        run: |call| {
            let columns = [("name", "name"), ("deprecation_phase", "deprecation_phase")];
            Ok(Output::Rows(Rows::of(&call.api.get("/deprecated-features")?, columns)))
        },
    },
];

/// The version of RabbitMQ that tools are to take this for.
pub fn version() -> &'static str {
    let setting = SETTINGS.iter().find(|setting| setting.key == "product_version");
    match setting.map(|setting| &setting.default) {
        Some(Default::Written(version)) => version.trim_matches('"'),
        _ => env!("CARGO_PKG_VERSION"),
    }
}

fn text(value: &Json, key: &str) -> String {
    super::output::plain(&super::output::at(value, key))
}

/// Whether anybody is there: whoever refuses to talk is.
fn answers(call: &Call) -> Result<(), Failure> {
    match call.api.get("/auth") {
        Ok(_) | Err(api::Failure::Refused { .. }) => Ok(()),
        Err(failure) => Err(failure.into()),
    }
}

fn running(call: &Call) -> Outcome {
    answers(call)?;
    Ok(Output::Text(format!("RabbitMQ on node {} is fully booted and running", call.node)))
}

fn await_answer(call: &Call, patience: Duration) -> Result<(), Failure> {
    let end = Instant::now() + patience;
    loop {
        let Err(failure) = answers(call) else { return Ok(()) };
        if Instant::now() >= end {
            let text =
                format!("Error: operation timed out. Timeout value used: {}\n{}", patience.as_millis(), failure.text);
            return Err(Failure::new(exit::TEMPORARY, text));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a process of this machine runs. One that has ended may still be listed until its parent takes note.
fn is_alive(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    state.is_ok_and(|state| state.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X'])))
}

fn read_pid(path: &str) -> Result<i32, Failure> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().map_err(|_| Failure::error(exit::SOFTWARE, format!("could not read pid from file {path}")))
}

fn wait(call: &Call) -> Outcome {
    let patience = call.timeout.unwrap_or(WAIT);
    let end = Instant::now() + patience;
    let pid = match (call.arguments.first(), call.value("pid")) {
        (Some(_), Some(_)) => return Err(Failure::error(exit::USAGE, "Cannot specify both pid and pidfile")),
        (None, None) => return Err(Failure::error(exit::USAGE, "No pid or pidfile specified")),
        (None, Some(pid)) => pid.parse().map_err(|_| Failure::error(exit::USAGE, format!("'{pid}' is no process")))?,
        (Some(file), None) => loop {
            if Path::new(file).exists()
                && let Ok(pid) = read_pid(file)
            {
                break pid;
            }
            if Instant::now() >= end {
                return Err(Failure::error(exit::TEMPORARY, format!("there is no process in {file}")));
            }
            std::thread::sleep(PAUSE);
        },
    };
    while answers(call).is_err() {
        if !is_alive(pid) {
            return Err(Failure::error(exit::SOFTWARE, "process_not_running"));
        }
        if Instant::now() >= end {
            return Err(Failure::error(exit::TEMPORARY, format!("timed out after {} ms", patience.as_millis())));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(Output::Text(format!("Applications 'rabbit_and_plugins' are running on node {} (pid {pid})", call.node)))
}

/// The broker's process, if it is one of this machine.
fn own_pid(call: &Call) -> Option<i32> {
    let nodes = call.api.get("/nodes").ok()?;
    nodes.get(0)?["os_pid"].as_str()?.parse().ok()
}

fn await_end(call: &Call, pid: i32) -> Result<(), Failure> {
    let end = Instant::now() + call.timeout.unwrap_or(SHUTDOWN);
    while is_alive(pid) {
        if Instant::now() >= end {
            return Err(Failure::error(exit::TEMPORARY, format!("process {pid} still runs")));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn stop(call: &Call) -> Outcome {
    let pid = call.arguments.first().map(|file| read_pid(file)).transpose()?;
    match call.api.call("POST", "/stop", Body::None) {
        Ok(_) => {}
        Err(api::Failure::Unreachable(_)) if call.is_said("idempotent") => {
            return Ok(Output::Text(format!("Node {} is no longer running", call.node)));
        }
        Err(failure) => return Err(failure.into()),
    }
    let Some(pid) = pid else { return Ok(Output::Nothing) };
    await_end(call, pid)?;
    let file = call.argument(0);
    Ok(Output::Text(format!("process {pid} (take from pid file {file}) is no longer running")))
}

fn shutdown(call: &Call) -> Outcome {
    let (node, pid) = (&call.node, own_pid(call));
    call.api.call("POST", "/stop", Body::None)?;
    match pid.filter(|_| !call.is_said("no-wait")) {
        None => Ok(Output::Text(format!("Shutting down RabbitMQ node {node}"))),
        Some(pid) => {
            await_end(call, pid)?;
            Ok(Output::Text(format!("RabbitMQ node {node} running at PID {pid} successfully shut down")))
        }
    }
}

/// Where the broker listens.
struct Listener {
    address: String,
    port: u64,
    protocol: String,
}

impl Listener {
    fn purpose(&self) -> &str {
        match self.protocol.as_str() {
            "amqp" => "AMQP 0-9-1",
            "amqp/ssl" => "AMQP 0-9-1 over TLS",
            "http" => "HTTP API",
            "https" => "HTTP API over TLS (HTTPS)",
            "http/prometheus" => "Prometheus exporter API over HTTP",
            "https/prometheus" => "Prometheus exporter API over TLS (HTTPS)",
            "clustering" | "clustering/ssl" => "CLI tool communication",
            other => other,
        }
    }

    fn shown(&self) -> String {
        let address = if self.address.contains(':') { format!("[{}]", self.address) } else { self.address.clone() };
        let (port, protocol, purpose) = (self.port, &self.protocol, self.purpose());
        format!("Interface: {address}, port: {port}, protocol: {protocol}, purpose: {purpose}")
    }

    fn to_json(&self) -> Json {
        json!({"interface": self.address, "port": self.port, "protocol": self.protocol, "purpose": self.purpose()})
    }
}

fn listeners(call: &Call) -> Result<Vec<Listener>, Failure> {
    let overview = call.api.get("/overview")?;
    let listeners = overview["listeners"].as_array().into_iter().flatten();
    Ok(listeners
        .map(|listener| Listener {
            address: text(listener, "ip_address"),
            port: listener["port"].as_u64().unwrap_or_default(),
            protocol: text(listener, "protocol"),
        })
        .collect())
}

/// Failed, without `Error:` above it: health checks say so themselves.
fn unwell(text: impl Into<String>) -> Failure {
    Failure::new(exit::UNAVAILABLE, text)
}

fn numbers(listeners: &[Listener]) -> String {
    let mut ports: Vec<_> = listeners.iter().map(|listener| listener.port).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn check_port_connectivity(call: &Call) -> Outcome {
    let listeners = listeners(call)?;
    if listeners.is_empty() {
        return Err(unwell(format!("Node {} says of no listener", call.node)));
    }
    let mut failed = Vec::new();
    for listener in &listeners {
        let any = ["0.0.0.0", "::", ""].contains(&listener.address.as_str());
        let host = call.value("address").unwrap_or(if any { "localhost" } else { &listener.address });
        let port = u16::try_from(listener.port).unwrap_or_default();
        let mut addresses = (host, port).to_socket_addrs().into_iter().flatten();
        if !addresses.any(|address| TcpStream::connect_timeout(&address, CONNECT).is_ok()) {
            failed.push(format!("{}", listener.port));
        }
    }
    if failed.is_empty() {
        let text = format!("Successfully connected to ports {} on node {}.", numbers(&listeners), call.node);
        return Ok(Output::Text(text));
    }
    Err(unwell(format!(
        "Connection to ports of the following listeners on node {} failed: {}",
        call.node,
        failed.join(", ")
    )))
}

fn check_port_listener(call: &Call) -> Outcome {
    let (wanted, node) = (call.argument(0), &call.node);
    match call.api.get(&format!("/health/checks/port-listener/{}", segment(wanted))) {
        Ok(_) => Ok(Output::Text(format!("A listener for port {wanted} is running on node {node}."))),
        Err(api::Failure::Refused { status: 503, body, .. }) => Err(unwell(format!(
            "No listener for port {wanted} is active on node {node}. Found listeners that use the following ports: {}",
            listed(&body["ports"])
        ))),
        Err(failure) => Err(failure.into()),
    }
}

/// Numbers or words of a list, with commas.
fn listed(items: &Json) -> String {
    items.as_array().into_iter().flatten().map(super::output::plain).collect::<Vec<_>>().join(", ")
}

fn check_protocol_listener(call: &Call) -> Outcome {
    let (wanted, node) = (call.argument(0), &call.node);
    match call.api.get(&format!("/health/checks/protocol-listener/{}", segment(wanted))) {
        Ok(_) => Ok(Output::Text(format!("A listener for protocol {wanted} is running on node {node}."))),
        Err(api::Failure::Refused { status: 503, body, .. }) => Err(Failure::error(
            exit::UNAVAILABLE,
            format!(
                "No listener for protocol {wanted} is active on node {node}. Found listeners for the following \
                 protocols: {}",
                listed(&body["protocols"])
            ),
        )),
        Err(failure) => Err(failure.into()),
    }
}

/// What is short.
fn alarms(call: &Call) -> Result<Vec<String>, Failure> {
    match call.api.get("/health/checks/local-alarms") {
        Ok(_) => Ok(Vec::new()),
        Err(api::Failure::Refused { status: 503, body, .. }) => {
            let resources = body["alarms"].as_array().into_iter().flatten().map(|alarm| text(alarm, "resource"));
            let named = |resource: String| match resource.as_str() {
                "memory" => "Memory alarm".to_owned(),
                "disk" => "Free disk space alarm".to_owned(),
                other => format!("Alarm of {other}"),
            };
            Ok(resources.map(|resource| format!("{} on node {}", named(resource), call.node)).collect())
        }
        Err(failure) => Err(failure.into()),
    }
}

fn check_alarms(call: &Call, none: &str) -> Outcome {
    match alarms(call)?[..] {
        [] => Ok(Output::Text(none.to_owned())),
        ref alarms => Err(unwell(format!("Node {} reported alarms:\n\n * {}", call.node, alarms.join("\n * ")))),
    }
}

fn check_virtual_hosts(call: &Call) -> Outcome {
    let vhosts = call.api.get("/vhosts")?;
    let mut down = Vec::new();
    for vhost in vhosts.as_array().into_iter().flatten() {
        let states = vhost["cluster_state"].as_object();
        if states.is_some_and(|states| states.values().any(|state| state != "running")) {
            down.push(text(vhost, "name"));
        }
    }
    if down.is_empty() {
        return Ok(Output::Text(format!("Node {} reported all vhosts as running", call.node)));
    }
    Err(unwell(format!("Some virtual hosts on node {} are down:\n{}", call.node, down.join("\n"))))
}

fn check_certificates(call: &Call) -> Outcome {
    let (within, unit) = (call.value("within").unwrap_or("4"), call.value("unit").unwrap_or("weeks"));
    match call.api.get(&format!("/health/checks/certificate-expiration/{}/{}", segment(within), segment(unit))) {
        Ok(_) => Ok(Output::Text(format!("No certificates are expiring within {within} {unit}."))),
        Err(api::Failure::Refused { status: 503, reason, .. }) => Err(unwell(reason)),
        Err(failure) => Err(failure.into()),
    }
}

/// A number of octets in a unit, as RabbitMQ's tool writes it.
fn amount(octets: f64, unit: &str) -> String {
    let (size, unit) = match unit.to_lowercase().as_str() {
        "mb" | "megabytes" => (1e6, "mb"),
        "kb" | "kilobytes" => (1e3, "kb"),
        "b" | "bytes" => (1.0, "bytes"),
        _ => (1e9, "gb"),
    };
    let mut number = format!("{:.4}", octets / size);
    while number.ends_with('0') && !number.ends_with(".0") {
        number.pop();
    }
    format!("{number} {unit}")
}

fn memory_breakdown(call: &Call) -> Outcome {
    let nodes = call.api.get("/nodes")?;
    let name = nodes.get(0).map(|node| text(node, "name")).unwrap_or_default();
    let memory = call.api.get(&format!("/nodes/{}/memory", segment(&name)))?["memory"].clone();
    let mut parts: Vec<(String, f64)> = memory
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(part, octets)| Some((part.clone(), octets.as_f64()?)))
        .collect();
    parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let total: f64 = parts.iter().map(|(_, octets)| octets).sum();
    let unit = call.value("unit").unwrap_or("gb");
    let mut lines = String::new();
    for (part, octets) in &parts {
        let share = if total > 0.0 { octets * 100.0 / total } else { 0.0 };
        let _ = writeln!(lines, "{part}: {} ({share:.2}%)", amount(*octets, unit));
    }
    Ok(Output::Report(lines, memory))
}

fn policies_that_match(call: &Call) -> Outcome {
    let (vhost, queue) = (call.vhost_segment(), call.argument(0));
    let shown =
        call.api.get(&format!("/queues/{vhost}/{}", segment(queue))).map_err(|failure| match failure.status() {
            Some(404) => Failure::not_found(),
            _ => failure.into(),
        })?;
    let kinds = [text(&shown, "type") + "_queues", "queues".to_owned(), "all".to_owned()];
    let policies = call.api.get(&format!("/policies/{vhost}"))?;
    let fits = |policy: &&Json| {
        let pattern = regex::Regex::new(policy["pattern"].as_str().unwrap_or_default());
        kinds.contains(&text(policy, "apply-to")) && pattern.is_ok_and(|pattern| pattern.is_match(queue))
    };
    let mut fitting: Vec<Json> = policies.as_array().into_iter().flatten().filter(fits).cloned().collect();
    fitting.sort_by_key(|policy| std::cmp::Reverse(policy["priority"].as_i64()));
    let columns = ["name", "pattern", "apply-to", "definition", "priority"];
    Ok(Output::Rows(Rows::of(&Json::Array(fitting), columns.map(|column| (column, column)))))
}

fn set_watermark(call: &Call, what: &str, said: &str) -> Outcome {
    let (limit, node) = (call.argument(0), &call.node);
    let (fields, shown) = match (limit, call.arguments.get(1)) {
        ("absolute", Some(amount)) => (json!({"absolute": amount}), format!("{amount} bytes")),
        ("mem_relative" | "relative", Some(share)) => (json!({"relative": share}), format!("{share} times the memory")),
        (_, Some(_)) => return Err(Failure::error(exit::USAGE, format!("there is no such limit as '{limit}'"))),
        (limit, None) if what == "memory" => (json!({"relative": limit}), limit.to_owned()),
        (limit, None) => (json!({"absolute": limit}), format!("{limit} bytes")),
    };
    call.api.put(&format!("/watermarks/{what}"), &fields)?;
    Ok(Output::Text(format!("{said} {node} to {shown} ...")))
}

/// A report that is written part by part.
#[derive(Default)]
struct Report(String);

impl Report {
    fn heading(&mut self, text: &str) {
        let _ = write!(self.0, "{}{text}\n\n", if self.0.is_empty() { "" } else { "\n" });
    }

    fn line(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{text}");
    }

    fn list(&mut self, items: &[String]) {
        match items {
            [] => self.line("(none)"),
            items => items.iter().for_each(|item| self.line(item)),
        }
    }
}

fn status(call: &Call) -> Outcome {
    let overview = call.api.get("/overview")?;
    let nodes = call.api.get("/nodes")?;
    let node = nodes.get(0).cloned().unwrap_or_default();
    let vhosts = call.api.get("/vhosts")?.as_array().map_or(0, Vec::len);
    let number = |key: &str| node[key].as_f64().unwrap_or_default();
    let unit = call.value("unit").unwrap_or("gb");
    let listeners = listeners(call)?;
    let alarms = alarms(call)?;
    let mut report = Report::default();
    report.heading("Runtime");
    report.line(format!("OS PID: {}", text(&node, "os_pid")));
    report.line("OS: Linux");
    report.line(format!("Uptime (seconds): {}", node["uptime"].as_u64().unwrap_or_default() / 1000));
    report.line(format!("Is under maintenance?: {}", node["being_drained"] == true));
    report.line(format!("RabbitMQ version: {}", text(&overview, "rabbitmq_version")));
    report.line(format!("Node name: {}", text(&node, "name")));
    report.line(format!("Leveret version: {}", env!("CARGO_PKG_VERSION")));
    report.heading("Plugins");
    report.line("Built in, and always on:\n");
    super::plugins::BUILT_IN.iter().for_each(|plugin| report.line(format!(" * {plugin}")));
    report.heading("Data directory");
    report.line(format!("Node data directory: {}", text(&node, "db_dir")));
    report.heading("Config files");
    let files = node["config_files"].as_array().into_iter().flatten().filter_map(Json::as_str);
    report.list(&files.map(|file| format!(" * {file}")).collect::<Vec<_>>());
    report.heading("Log file(s)");
    report.line(" * <stdout>");
    report.heading("Alarms");
    report.list(&alarms);
    report.heading("Memory");
    report.line(format!("Total memory used: {}", amount(number("mem_used"), unit)));
    report.line("Calculation strategy: rss");
    report.line(format!("Memory high watermark setting: computed to: {}", amount(number("mem_limit"), unit)));
    report.heading("Free Disk Space");
    report.line(format!("Low free disk space watermark: {}", amount(number("disk_free_limit"), unit)));
    report.line(format!("Free disk space: {}", amount(number("disk_free"), unit)));
    report.heading("Totals");
    report.line(format!("Connection count: {}", text(&overview, "object_totals.connections")));
    report.line(format!("Queue count: {}", text(&overview, "object_totals.queues")));
    report.line(format!("Virtual host count: {vhosts}"));
    report.heading("Listeners");
    report.list(&listeners.iter().map(Listener::shown).collect::<Vec<_>>());
    let json = json!({
        "pid": node["os_pid"].as_str().and_then(|pid| pid.parse::<u64>().ok()),
        "os": "Linux",
        "uptime": node["uptime"].as_u64().unwrap_or_default() / 1000,
        "is_under_maintenance": node["being_drained"] == true,
        "rabbitmq_version": overview["rabbitmq_version"],
        "product_name": overview["product_name"],
        "product_version": overview["product_version"],
        "node": node["name"],
        "data_directory": node["db_dir"],
        "config_files": node["config_files"],
        "active_plugins": super::plugins::BUILT_IN,
        "alarms": alarms,
        "vm_memory_limit": node["mem_limit"],
        "memory": {"total": {"rss": node["mem_used"]}, "strategy": "rss"},
        "disk_free": node["disk_free"],
        "disk_free_limit": node["disk_free_limit"],
        "totals": {
            "connection_count": overview["object_totals"]["connections"],
            "queue_count": overview["object_totals"]["queues"],
            "virtual_host_count": vhosts,
        },
        "listeners": listeners.iter().map(Listener::to_json).collect::<Vec<_>>(),
    });
    Ok(Output::Report(report.0, json))
}

fn cluster_status(call: &Call) -> Outcome {
    let overview = call.api.get("/overview")?;
    let node = text(&overview, "node");
    let (listeners, alarms) = (listeners(call)?, alarms(call)?);
    let mut report = Report::default();
    report.heading("Basics");
    report.line(format!("Cluster name: {}", text(&overview, "cluster_name")));
    report.heading("Disk Nodes");
    report.line(&node);
    report.heading("Running Nodes");
    report.line(&node);
    report.heading("Versions");
    report.line(format!("{node}: RabbitMQ {}", text(&overview, "rabbitmq_version")));
    report.heading("Maintenance status");
    report.line(format!("Node: {node}, status: not under maintenance"));
    report.heading("Alarms");
    report.list(&alarms);
    report.heading("Network Partitions");
    report.line("(none)");
    report.heading("Listeners");
    report.list(
        &listeners
            .iter()
            .map(|listener| format!("Node: {node}, {}", listener.shown().replacen("Interface", "interface", 1)))
            .collect::<Vec<_>>(),
    );
    let json = json!({
        "cluster_name": overview["cluster_name"],
        "disk_nodes": [node],
        "ram_nodes": [],
        "running_nodes": [node],
        "alarms": alarms,
        "partitions": {},
        "listeners": {&node: listeners.iter().map(Listener::to_json).collect::<Vec<_>>()},
        "versions": {&node: {"rabbitmq_version": overview["rabbitmq_version"]}},
        "maintenance_status": {&node: "not under maintenance"},
    });
    Ok(Output::Report(report.0, json))
}

/// Lists and reports after each other. What can't be had is left out, and says why.
fn report(call: &Call) -> Outcome {
    const PARTS: [&str; 9] = [
        "status",
        "list_vhosts",
        "list_users",
        "list_connections",
        "list_channels",
        "list_queues",
        "list_exchanges",
        "list_policies",
        "environment",
    ];
    let mut text = String::new();
    for part in PARTS {
        let found = super::Tool::Ctl.verbs().into_iter().find(|verb| verb.name == part);
        let Some(verb) = found else { continue };
        let part = match (verb.run)(call) {
            Ok(output) => super::output::written(&output, call.formatter, true, &call.node),
            Err(failure) => format!("{}\n", failure.text),
        };
        let banner = verb.banner.map(|banner| banner(call)).unwrap_or_default();
        let _ = write!(text, "{banner}\n{part}\n");
    }
    Ok(Output::Text(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_rabbitmqs_tool_does() {
        assert_eq!(amount(23_936_423.0, "gb"), "0.0239 gb");
        assert_eq!(amount(81_535_000.0, "mb"), "81.535 mb");
        assert_eq!(amount(0.0, "gb"), "0.0 gb");
    }

    #[test]
    fn the_version_is_one_of_rabbitmq() {
        assert!(version().starts_with("4."), "{}", version());
    }
}
