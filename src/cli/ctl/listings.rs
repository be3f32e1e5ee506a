//! Verbs that list what there is: queues, exchanges, bindings, connections, channels, consumers.

use serde_json::{Value as Json, json};

use super::output::{Output, Rows};
use super::verb::{Call, Failure, Outcome, Switch, Verb, exit};

const GROUP: &str = "Monitoring, observability and health checks";
const ONLINE: Switch = Switch::flag("online", "For compatibility: all queues are here");
const OFFLINE: Switch = Switch::flag("offline", "Those on nodes that are away: none");
const LOCAL: Switch = Switch::flag("local", "For compatibility: all queues are here");

pub const VERBS: &[Verb] = &[
    Verb {
        name: "list_queues",
        arguments: "[<column>...]",
        switches: &[ONLINE, OFFLINE, LOCAL],
        group: GROUP,
        about: "Lists queues",
        banner: Some(|call| {
            let seconds = call.timeout.map_or(60, |timeout| timeout.as_secs());
            format!("Timeout: {seconds}.0 seconds ...\nListing queues for vhost {} ...", call.vhost)
        }),
        run: |call| match call.is_said("offline") {
            true => Ok(Output::Rows(Rows::default())),
            false => list(call, &QUEUES, &format!("/queues/{}", call.vhost_segment())),
        },
    },
    Verb {
        name: "list_exchanges",
        arguments: "[<column>...]",
        switches: &[],
        group: GROUP,
        about: "Lists exchanges",
        banner: Some(|call| format!("Listing exchanges for vhost {} ...", call.vhost)),
        run: |call| list(call, &EXCHANGES, &format!("/exchanges/{}", call.vhost_segment())),
    },
    Verb {
        name: "list_bindings",
        arguments: "[<column>...]",
        switches: &[],
        group: GROUP,
        about: "Lists bindings",
        banner: Some(|call| format!("Listing bindings for vhost {}...", call.vhost)),
        run: |call| list(call, &BINDINGS, &format!("/bindings/{}", call.vhost_segment())),
    },
    Verb {
        name: "list_connections",
        arguments: "[<column>...]",
        switches: &[],
        group: GROUP,
        about: "Lists connections",
        banner: Some(|_| "Listing connections ...".to_owned()),
        run: |call| list(call, &CONNECTIONS, "/connections"),
    },
    Verb {
        name: "list_channels",
        arguments: "[<column>...]",
        switches: &[],
        group: GROUP,
        about: "Lists channels",
        banner: Some(|_| "Listing channels ...".to_owned()),
        run: |call| list(call, &CHANNELS, "/channels"),
    },
    Verb {
        name: "list_consumers",
        arguments: "[<column>...]",
        switches: &[],
        group: GROUP,
        about: "Lists consumers",
        banner: Some(|call| format!("Listing consumers in vhost {} ...", call.vhost)),
        run: |call| list(call, &CONSUMERS, &format!("/consumers/{}", call.vhost_segment())),
    },
    Verb {
        name: "list_unresponsive_queues",
        arguments: "[<column>...]",
        switches: &[ONLINE, OFFLINE, LOCAL],
        group: GROUP,
        about: "Lists queues that do not answer: none, since no queue is a process that could hang",
        banner: Some(|call| format!("Listing unresponsive queues for vhost {} ...", call.vhost)),
        run: |call| {
            check_columns(call, &wanted(call), &QUEUES.columns, QUEUES.usual)?;
            Ok(Output::Rows(Rows::default()))
        },
    },
];

/// What a list can show.
struct Listing<const N: usize> {
    columns: [&'static str; N],
    /// Shown if nobody says.
    usual: &'static [&'static str],
    /// Columns that the API calls otherwise; all others have one name. A `pid` is what the thing is closed by here.
    elsewhere: &'static [(&'static str, &'static str)],
}

const QUEUES: Listing<38> = Listing {
    columns: [
        "name",
        "durable",
        "auto_delete",
        "arguments",
        "policy",
        "operator_policy",
        "effective_policy_definition",
        "pid",
        "owner_pid",
        "exclusive",
        "exclusive_consumer_pid",
        "exclusive_consumer_tag",
        "messages_ready",
        "messages_unacknowledged",
        "messages",
        "messages_ready_ram",
        "messages_unacknowledged_ram",
        "messages_ram",
        "messages_persistent",
        "message_bytes",
        "message_bytes_ready",
        "message_bytes_unacknowledged",
        "message_bytes_ram",
        "message_bytes_persistent",
        "head_message_timestamp",
        "disk_reads",
        "disk_writes",
        "consumers",
        "consumer_utilisation",
        "consumer_capacity",
        "memory",
        "state",
        "type",
        "leader",
        "members",
        "online",
        "messages_dlx",
        "single_active_consumer_tag",
    ],
    usual: &["name", "messages"],
    elsewhere: &[("pid", "name"), ("owner_pid", "owner_pid_details.name")],
};

const EXCHANGES: Listing<7> = Listing {
    columns: ["name", "type", "durable", "auto_delete", "internal", "arguments", "policy"],
    usual: &["name", "type"],
    elsewhere: &[],
};

const BINDINGS: Listing<6> = Listing {
    columns: ["source_name", "source_kind", "destination_name", "destination_kind", "routing_key", "arguments"],
    usual: &["source_name", "source_kind", "destination_name", "destination_kind", "routing_key", "arguments"],
    elsewhere: &[
        ("source_name", "source"),
        ("destination_name", "destination"),
        ("destination_kind", "destination_type"),
    ],
};

const CONNECTIONS: Listing<32> = Listing {
    columns: [
        "pid",
        "name",
        "port",
        "host",
        "peer_port",
        "peer_host",
        "ssl",
        "ssl_protocol",
        "ssl_key_exchange",
        "ssl_cipher",
        "ssl_hash",
        "peer_cert_subject",
        "peer_cert_issuer",
        "peer_cert_validity",
        "state",
        "channels",
        "protocol",
        "auth_mechanism",
        "user",
        "vhost",
        "container_id",
        "timeout",
        "frame_max",
        "channel_max",
        "client_properties",
        "recv_oct",
        "recv_cnt",
        "send_oct",
        "send_cnt",
        "send_pend",
        "connected_at",
        "peer_cert_serial_number",
    ],
    usual: &["user", "peer_host", "peer_port", "state"],
    elsewhere: &[("pid", "name")],
};

const CHANNELS: Listing<14> = Listing {
    columns: [
        "pid",
        "connection",
        "name",
        "number",
        "user",
        "vhost",
        "transactional",
        "confirm",
        "consumer_count",
        "messages_unacknowledged",
        "messages_uncommitted",
        "acks_uncommitted",
        "messages_unconfirmed",
        "prefetch_count",
    ],
    usual: &["pid", "user", "consumer_count", "messages_unacknowledged"],
    elsewhere: &[("pid", "name"), ("connection", "connection_details.name")],
};

const CONSUMERS: Listing<8> = Listing {
    columns: [
        "queue_name",
        "channel_pid",
        "consumer_tag",
        "ack_required",
        "prefetch_count",
        "active",
        "activity_status",
        "arguments",
    ],
    usual: &["queue_name", "channel_pid", "consumer_tag", "ack_required", "prefetch_count", "active", "arguments"],
    elsewhere: &[("queue_name", "queue.name"), ("channel_pid", "channel_details.name")],
};

/// The columns that are asked for: words, with commas or without.
fn wanted(call: &Call) -> Vec<&str> {
    call.arguments.iter().flat_map(|word| word.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

/// The columns to show, unless one is none.
pub fn check_columns<'a>(
    call: &Call,
    wanted: &[&'a str],
    known: &[&'static str],
    usual: &[&'static str],
) -> Result<Vec<&'a str>, Failure> {
    if wanted.is_empty() {
        return Ok(usual.to_vec());
    }
    let unknown: Vec<_> = wanted.iter().copied().filter(|column| !known.contains(column)).collect();
    if unknown.is_empty() {
        return Ok(wanted.to_vec());
    }
    let mut columns = known.to_vec();
    columns.sort_unstable();
    Err(Failure::new(
        exit::USAGE,
        format!(
            "Error (argument validation): Info key(s) {} are not supported\nArguments given:\n\t{}\n\nColumns: {}",
            unknown.join(","),
            call.arguments.join(" "),
            columns.join(", ")
        ),
    ))
}

fn list<const N: usize>(call: &Call, listing: &Listing<N>, path: &str) -> Outcome {
    let wanted = wanted(call);
    let columns = check_columns(call, &wanted, &listing.columns, listing.usual)?;
    let items = match call.api.get(path) {
        Ok(items) => items,
        // A virtual host that is not there has nothing in it, as RabbitMQ's tool sees it.
        Err(failure) if failure.status() == Some(404) => json!([]),
        Err(failure) => return Err(failure.into()),
    };
    let items = match listing.columns.contains(&"source_kind") {
        true => with_source_kind(items),
        false => items,
    };
    let path = |column: &'static str| {
        listing.elsewhere.iter().find(|(name, _)| *name == column).map_or(column, |(_, path)| path)
    };
    let columns = columns.into_iter().filter_map(|column| listing.columns.iter().find(|known| **known == column));
    Ok(Output::Rows(Rows::of(&items, columns.map(|column| (*column, path(column))))))
}

/// Every source is an exchange.
fn with_source_kind(mut bindings: Json) -> Json {
    for binding in bindings.as_array_mut().into_iter().flatten() {
        binding["source_kind"] = "exchange".into();
    }
    bindings
}
