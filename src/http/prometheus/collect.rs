//! What is written at a scrape: everything is looked at once, and then written.

use super::global::{beyond, global};
use super::pairs::pairs;
use super::text::{Kind, Text};
use super::things::{
    self, CHANNEL_EXCHANGES, CHANNEL_QUEUES, CHANNELS, CONNECTIONS, ChannelExchangeSeen, ChannelQueueSeen, ChannelSeen,
    ConnectionSeen, EXCHANGES, ExchangeSeen, Mode, OWN_PREFIX, QUEUES, QUEUES_BEYOND, QueueSeen,
};
use crate::broker::login::{Door, Tried};
use crate::broker::statistics::NODE;
use crate::broker::{Broker, alarms::Alarm, readings};
use crate::metrics::{self, CHURN, Stat};
use crate::queue::settings::QueueType;
use crate::vhost::Vhost;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// RabbitMQ's names for what a scrape shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Aggregated,
    PerObject,
    Detailed,
    MemoryBreakdown,
}

/// What is asked for.
#[derive(Debug)]
pub struct Scrape {
    pub endpoint: Endpoint,
    /// Of `/metrics/detailed`.
    pub families: Vec<String>,
    /// Only things in these, and only these queues; empty: all.
    pub vhosts: Vec<String>,
    pub queues: Vec<String>,
}

/// What RabbitMQ's begin with.
pub const PREFIX: &str = "rabbitmq_";

/// Everything that a scrape asks for.
pub fn scrape(broker: &Broker, scrape: &Scrape) -> String {
    let mut text = Text::default();
    match scrape.endpoint {
        Endpoint::MemoryBreakdown => memory(&mut text, broker),
        Endpoint::Detailed => detailed(&mut text, broker, scrape),
        Endpoint::Aggregated | Endpoint::PerObject => {
            let mode = Mode { prefix: PREFIX, one_by_one: scrape.endpoint == Endpoint::PerObject, families: None };
            node(&mut text, broker, &mode);
            things(&mut text, broker, scrape, &mode);
            objects(&mut text, broker);
            let totals = broker.totals();
            global(&mut text, broker, &totals);
            beyond(&mut text, broker, &totals);
            rest(&mut text, broker);
        }
    }
    identity(&mut text, broker, scrape.endpoint);
    text.finish()
}

fn detailed(text: &mut Text, broker: &Broker, scrape: &Scrape) {
    let mode = Mode { prefix: "rabbitmq_detailed_", one_by_one: true, families: Some(&scrape.families) };
    node(text, broker, &mode);
    things(text, broker, scrape, &mode);
    cluster(text, broker, scrape, &mode);
}

/// What came and went, what the node uses, and who tried to log in.
fn node(text: &mut Text, broker: &Broker, mode: &Mode<'_>) {
    let name = |name: &str| format!("{}{name}", mode.prefix);
    let mut one = |family: &str, metric: &str, kind: Kind, help: &str, value: f64| {
        if mode.wants(family) {
            text.one(&name(metric), kind, help, value);
        }
    };
    const CHURNED: [(&str, &str); CHURN.len()] = [
        ("connections_opened_total", "Total number of connections opened"),
        ("connections_closed_total", "Total number of connections closed or terminated"),
        ("channels_opened_total", "Total number of channels opened"),
        ("channels_closed_total", "Total number of channels closed"),
        ("queues_declared_total", "Total number of queues declared"),
        ("queues_created_total", "Total number of queues created"),
        ("queues_deleted_total", "Total number of queues deleted"),
    ];
    for ((metric, help), count) in CHURNED.into_iter().zip(broker.churn().snapshot()) {
        one("connection_churn_metrics", metric, Kind::Counter, help, count as f64);
    }
    let used = broker.node_numbers();
    let of = |name: &str| NODE.iter().position(|known| *known == name).map_or(0.0, |at| used[at] as f64);
    let marks = broker.alarms.last().map(|(_, marks)| marks).unwrap_or_default();
    one("node_coarse_metrics", "process_open_fds", Kind::Gauge, "Open file descriptors", of("fd_used"));
    one("node_coarse_metrics", "process_resident_memory_bytes", Kind::Gauge, "Memory used in bytes", of("mem_used"));
    let help = "Disk space available in bytes";
    one("node_coarse_metrics", "disk_space_available_bytes", Kind::Gauge, help, of("disk_free"));
    let (metric, descriptors_max) = ("process_max_fds", readings::descriptors_max() as f64);
    one("node_metrics", metric, Kind::Gauge, "Open file descriptors limit", descriptors_max);
    let help = "Memory high watermark in bytes";
    one("node_metrics", "resident_memory_limit_bytes", Kind::Gauge, help, marks.memory as f64);
    let help = "Free disk space low watermark in bytes";
    one("node_metrics", "disk_space_available_limit_bytes", Kind::Gauge, help, marks.disk_free as f64);
    let uptime_s = broker.uptime_ms() as f64 / 1000.0;
    one("node_metrics", "erlang_uptime_seconds", Kind::Gauge, "Node uptime", uptime_s);
    let help = "Total number of Erlang scheduler context switches";
    let metric = "erlang_scheduler_context_switches_total";
    one("node_coarse_metrics", metric, Kind::Counter, help, of("context_switches"));
    const IO: [(&str, &str, &str); 4] = [
        ("io_read_ops_total", "Total number of I/O read operations", "io_read_count"),
        ("io_write_ops_total", "Total number of I/O write operations", "io_write_count"),
        ("io_write_bytes_total", "Total number of I/O bytes written", "io_write_bytes"),
        ("io_sync_ops_total", "Total number of I/O sync operations", "io_sync_count"),
    ];
    for (metric, help, number) in IO {
        one("node_persister_metrics", metric, Kind::Counter, help, of(number));
    }
    let sync_s = broker.store_times().sync.seen().sum_s;
    one("node_persister_metrics", "io_sync_time_seconds_total", Kind::Counter, "Total I/O sync time", sync_s);
    if mode.wants("auth_attempt_metrics") {
        attempts(text, broker, mode);
    }
    if mode.wants("auth_attempt_detailed_metrics") {
        attempts_by_source(text, broker, mode);
    }
}

/// Who tried to log in.
fn attempts(text: &mut Text, broker: &Broker, mode: &Mode<'_>) {
    let name = |name: &str| format!("{}{name}", mode.prefix);
    const ATTEMPTS: [(&str, &str); 3] = [
        ("auth_attempts_total", "Total number of authentication attempts"),
        ("auth_attempts_succeeded_total", "Total number of successful authentication attempts"),
        ("auth_attempts_failed_total", "Total number of failed authentication attempts"),
    ];
    for (at, (metric, help)) in ATTEMPTS.into_iter().enumerate() {
        text.begin(&name(metric), Kind::Counter, help);
        for door in Door::ALL {
            let attempts = broker.login_attempts(door);
            let (good, bad) = (attempts.succeeded.load(Ordering::Relaxed), attempts.failed.load(Ordering::Relaxed));
            text.sample(&name(metric), &[("protocol", door.protocol())], [good + bad, good, bad][at] as f64);
        }
    }
}

/// The same by address and user, if that is counted.
fn attempts_by_source(text: &mut Text, broker: &Broker, mode: &Mode<'_>) {
    let sources = broker.login_sources();
    if sources.is_empty() {
        return;
    }
    const ATTEMPTS: [(&str, &str); 3] = [
        ("total", "Total number of authentication attempts with source info"),
        ("succeeded_total", "Total number of successful authentication attempts with source info"),
        ("failed_total", "Total number of failed authentication attempts with source info"),
    ];
    for (at, (metric, help)) in ATTEMPTS.into_iter().enumerate() {
        let name = format!("{}auth_attempts_detailed_{metric}", mode.prefix);
        text.begin(&name, Kind::Counter, help);
        for (source, Tried { succeeded, failed }) in &sources {
            let address = source.address.to_string();
            let labels = [
                ("remote_address", address.as_str()),
                ("username", &source.user),
                ("protocol", source.door.protocol()),
            ];
            let labels: Vec<_> = labels.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            text.sample(&name, &labels, [succeeded + failed, *succeeded, *failed][at] as f64);
        }
    }
}

/// The virtual hosts that are asked for.
fn vhosts(broker: &Broker, scrape: &Scrape) -> Vec<Arc<Vhost>> {
    let mut vhosts = broker.list_vhosts();
    vhosts.retain(|vhost| scrape.vhosts.is_empty() || scrape.vhosts.iter().any(|wanted| **wanted == *vhost.name));
    vhosts
}

/// Queues, exchanges, channels and connections.
fn things(text: &mut Text, broker: &Broker, scrape: &Scrape, mode: &Mode<'_>) {
    let vhosts = vhosts(broker, scrape);
    let mut left_out = Vec::new();
    let mut limited = |kind: &'static str, count: usize| {
        let max = if mode.one_by_one { broker.config.metrics.objects_max } else { usize::MAX };
        if count > max {
            left_out.push((kind, count - max));
        }
        max
    };
    let totals = broker.totals().all();
    if [QUEUES, QUEUES_BEYOND].into_iter().flatten().any(|metric| mode.wants(metric.family)) {
        let mut queues: Vec<_> = vhosts.iter().flat_map(|vhost| vhost.queues()).collect();
        queues.retain(|queue| {
            scrape.queues.is_empty() || scrape.queues.iter().any(|wanted| **wanted == *queue.identity.name)
        });
        let name =
            |queue: &Arc<crate::queue::Queue>| (Arc::clone(&queue.identity.vhost), Arc::clone(&queue.identity.name));
        if mode.one_by_one {
            queues.sort_by_cached_key(name);
        }
        queues.truncate(limited("queue", queues.len()));
        let now_ms = broker.now_ms();
        let seen: Vec<_> = queues
            .iter()
            .map(|queue| QueueSeen {
                vhost: queue.identity.vhost.to_string(),
                name: queue.identity.name.to_string(),
                look: queue.look(),
                counts: queue.counted.snapshot(),
                capacity: queue.capacity(),
                memory: queue.memory_bytes() as u64,
                now_ms,
                module: match queue.settings().queue_type {
                    QueueType::Quorum => metrics::Kind::Quorum.module(),
                    _ => metrics::Kind::Classic.module(),
                },
            })
            .collect();
        let mut whole = QueueSeen { counts: totals, ..QueueSeen::default() };
        whole.counts.0[Stat::Publish as usize] = totals[Stat::PublishOut];
        things::write(text, QUEUES, &seen, &whole, mode);
        things::write(text, QUEUES_BEYOND, &seen, &whole, mode);
        if mode.one_by_one {
            let name = format!("{}queue_info", mode.prefix);
            let help = "A metric with a constant '1' value and labels that provide some queue details";
            text.begin(&name, Kind::Gauge, help);
            for queue in &seen {
                let labels = [
                    ("vhost", queue.vhost.as_str()),
                    ("queue", &queue.name),
                    ("queue_type", queue.module),
                    ("membership", "leader"),
                ];
                text.sample(&name, &labels, 1.0);
            }
        }
    }
    if EXCHANGES.iter().any(|metric| mode.wants(metric.family)) {
        let mut seen = Vec::new();
        for vhost in &vhosts {
            seen.extend(vhost.exchanges().iter().map(|exchange| ExchangeSeen {
                vhost: vhost.name.to_string(),
                name: exchange.name.to_string(),
                counts: exchange.counted.counts.snapshot(),
            }));
        }
        seen.sort_by(|one, other| (&one.vhost, &one.name).cmp(&(&other.vhost, &other.name)));
        seen.truncate(limited("exchange", seen.len()));
        let mut whole = ExchangeSeen { counts: totals, ..ExchangeSeen::default() };
        whole.counts.0[Stat::PublishIn as usize] = totals[Stat::Publish];
        things::write(text, EXCHANGES, &seen, &whole, mode);
    }
    if mode.one_by_one {
        let pairs = pairs(broker, &vhosts, mode);
        let (mut exchanges, mut queues) = (pairs.exchanges, pairs.queues);
        exchanges.truncate(limited("channel and exchange", exchanges.len()));
        queues.truncate(limited("channel and queue", queues.len()));
        things::write(text, CHANNEL_EXCHANGES, &exchanges, &ChannelExchangeSeen::default(), mode);
        things::write(text, CHANNEL_QUEUES, &queues, &ChannelQueueSeen::default(), mode);
    } else {
        let whole = ChannelExchangeSeen { counts: totals, ..ChannelExchangeSeen::default() };
        things::write(text, CHANNEL_EXCHANGES, &[], &whole, mode);
        let whole = ChannelQueueSeen { counts: totals, ..ChannelQueueSeen::default() };
        things::write(text, CHANNEL_QUEUES, &[], &whole, mode);
    }
    let wants_channels = CHANNELS.iter().any(|metric| mode.wants(metric.family));
    if wants_channels || CONNECTIONS.iter().any(|metric| mode.wants(metric.family)) {
        let (mut connections, mut channels) = (Vec::new(), Vec::new());
        for connection in broker.connections.list() {
            let Some(opened) =
                connection.opened().filter(|opened| vhosts.iter().any(|one| one.name == opened.vhost.name))
            else {
                continue;
            };
            let vhost = opened.vhost.name.to_string();
            if wants_channels {
                channels.extend(connection.channels().iter().map(|channel| ChannelSeen {
                    vhost: vhost.clone(),
                    name: format!("{} ({})", connection.name, channel.number),
                    consumers: channel.consumers.len() as u64,
                    unacked: channel.unacked,
                    unconfirmed: channel.unconfirmed,
                    uncommitted: channel.uncommitted,
                    acks_uncommitted: channel.acks_uncommitted,
                    prefetch: channel.prefetch.into(),
                }));
            }
            connections.push(ConnectionSeen {
                vhost,
                name: connection.name.to_string(),
                traffic: connection.traffic.snapshot(),
                channels: connection.channel_count().into(),
            });
        }
        channels.truncate(limited("channel", channels.len()));
        connections.truncate(limited("connection", connections.len()));
        things::write(text, CHANNELS, &channels, &ChannelSeen::default(), mode);
        let whole = ConnectionSeen { traffic: broker.connections.traffic().snapshot(), ..ConnectionSeen::default() };
        things::write(text, CONNECTIONS, &connections, &whole, mode);
    }
    let name = format!("{OWN_PREFIX}metrics_left_out");
    if !left_out.is_empty() {
        text.begin(&name, Kind::Gauge, "Objects that are not shown since there are more than metrics.objects_max");
        left_out.into_iter().for_each(|(kind, count)| text.sample(&name, &[("kind", kind)], count as f64));
    }
}

/// How much there is.
fn objects(text: &mut Text, broker: &Broker) {
    let (mut queues, mut consumers) = (0, 0);
    for vhost in broker.list_vhosts() {
        for queue in vhost.queues() {
            queues += 1;
            consumers += queue.counts().consumers;
        }
    }
    let connections = broker.connections.list();
    let channels: u32 = connections.iter().map(|connection| connection.channel_count()).sum();
    let counts = [
        ("connections", "Connections currently open", connections.len() as f64),
        ("channels", "Channels currently open", channels.into()),
        ("consumers", "Consumers currently connected", consumers as f64),
        ("queues", "Queues available", f64::from(queues)),
    ];
    for (name, help, count) in counts {
        text.one(&format!("{PREFIX}{name}"), Kind::Gauge, help, count);
    }
}

fn rest(text: &mut Text, broker: &Broker) {
    let active = broker.alarms.active();
    for (alarm, name, help) in [
        (Alarm::Disk, "alarms_free_disk_space_watermark", "is 1 if free disk space watermark alarm is in effect"),
        (Alarm::Memory, "alarms_memory_used_watermark", "is 1 if VM memory watermark alarm is in effect"),
    ] {
        let on = if active.contains(alarm) { 1.0 } else { 0.0 };
        text.one(&format!("{PREFIX}{name}"), Kind::Untyped, help, on);
    }
    let help = "Number of peers in the cluster the current node cannot reach.";
    text.one(&format!("{PREFIX}unreachable_cluster_peers_count"), Kind::Gauge, help, 0.0);
    let started_s = broker.started_ms() as f64 / 1000.0;
    let help = "Start time of the process since unix epoch in seconds.";
    text.one("process_start_time_seconds", Kind::Gauge, help, started_s.floor());
}

/// Whose numbers they are. Dashboards multiply all others with the second.
fn identity(text: &mut Text, broker: &Broker, endpoint: Endpoint) {
    let config = &broker.config;
    let version = config.product_version.as_str();
    let name = format!("{PREFIX}build_info");
    text.begin(&name, Kind::Untyped, "RabbitMQ & Erlang/OTP version info");
    let labels = [
        ("rabbitmq_version", version),
        ("prometheus_plugin_version", version),
        ("prometheus_client_version", env!("CARGO_PKG_VERSION")),
        ("erlang_version", ""),
        ("product_name", &config.product_name),
        ("product_version", version),
    ];
    text.sample(&name, &labels, 1.0);
    let name = format!("{PREFIX}identity_info");
    text.begin(&name, Kind::Untyped, "RabbitMQ node & cluster identity info");
    let cluster = broker.cluster_name();
    let endpoint = match endpoint {
        Endpoint::Aggregated => "aggregated",
        Endpoint::PerObject => "per-object",
        Endpoint::Detailed => "detailed",
        Endpoint::MemoryBreakdown => "memory-breakdown",
    };
    let labels = [
        ("rabbitmq_node", broker.events().node()),
        ("rabbitmq_cluster", &cluster),
        ("rabbitmq_cluster_permanent_id", &cluster),
        ("rabbitmq_endpoint", endpoint),
    ];
    text.sample(&name, &labels, 1.0);
}

/// What RabbitMQ tells of the whole cluster.
fn cluster(text: &mut Text, broker: &Broker, scrape: &Scrape, mode: &Mode<'_>) {
    const PREFIX: &str = "rabbitmq_cluster_";
    let vhosts = vhosts(broker, scrape);
    if mode.wants("vhost_status") {
        let name = format!("{PREFIX}vhost_status");
        text.begin(&name, Kind::Gauge, "Whether a given vhost is running");
        vhosts.iter().for_each(|vhost| text.sample(&name, &[("vhost", &vhost.name)], 1.0));
    }
    let exchanges = || {
        let each = vhosts.iter().flat_map(|vhost| vhost.exchanges().into_iter().map(move |exchange| (vhost, exchange)));
        each.filter(|(_, exchange)| !exchange.name.is_empty()).take(broker.config.metrics.objects_max)
    };
    if mode.wants("exchange_bindings") {
        let name = format!("{PREFIX}exchange_bindings");
        text.begin(&name, Kind::Gauge, "Number of bindings for an exchange. This value is cluster-wide.");
        for (vhost, exchange) in exchanges() {
            let count = vhost.binding_count(&exchange.name);
            let labels = [("vhost", &*vhost.name), ("exchange", &*exchange.name), ("type", exchange.kind.name())];
            text.sample(&name, &labels, count as f64);
        }
    }
    if mode.wants("exchange_names") {
        let name = format!("{PREFIX}exchange_name");
        let help = "Enumerates exchanges without any additional info. This value is cluster-wide. A cheaper alternative to \
                    `exchange_bindings`";
        text.begin(&name, Kind::Gauge, help);
        for (vhost, exchange) in exchanges() {
            let labels = [("vhost", &*vhost.name), ("exchange", &*exchange.name), ("type", exchange.kind.name())];
            text.sample(&name, &labels, 1.0);
        }
    }
}

fn memory(text: &mut Text, broker: &Broker) {
    let all = readings::memory_used().unwrap_or(0);
    let messages = all.min(broker.messages_memory() as u64);
    let store = broker.store_memory().min(all - messages);
    let parts = [
        ("memory_classic_queue_erlang_process_bytes", "Classic queue processes footprint in bytes", messages),
        ("memory_message_index_bytes", "Message index footprint in bytes", store),
        ("memory_other_system_bytes", "Other runtime footprint in bytes", all - messages - store),
    ];
    for (name, help, bytes) in parts {
        text.one(&format!("{PREFIX}{name}"), Kind::Gauge, help, bytes as f64);
    }
}
