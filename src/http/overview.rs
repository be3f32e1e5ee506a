//! `/overview` and `/nodes`: what this broker is, how much there is in it, and what it does.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::listeners::{contexts, listeners};
use super::listing::{list, object};
use super::request::Request;
use super::route::Route;
use super::stats::{Grids, Group, Past, message_stats};
use crate::broker::statistics::{CHURN_AT, NODE, NODE_AT, WHOLE};
use crate::broker::{Broker, alarms::Alarm, readings};
use crate::exchange::Type;
use crate::metrics::{CHURN, Grid, Recent, STATS, Sample, Snapshot, Stat};
use crate::queue::classic::NUMBERS;
use crate::vhost::Vhost;
use serde_json::{Map, Value as Json, json};

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/overview", Role::Management).get(overview).says("The broker at a glance"),
        Route::new("/nodes", Role::Monitoring).get(nodes).says("All nodes: there is one").lists(),
        Route::new("/nodes/{node}", Role::Monitoring).get(node).says("A node"),
        Route::new("/nodes/{node}/memory", Role::Monitoring).get(memory).says("What takes the memory of a node"),
        Route::new("/nodes/{node}/memory/relative", Role::Monitoring)
            .get(memory_relative)
            .says("What takes the memory of a node, in hundredths"),
        Route::new("/nodes/{node}/memory/ets", Role::Monitoring).get(ets).says("Erlang's tables: there are none"),
        Route::new("/nodes/{node}/memory/ets/{filter}", Role::Monitoring).get(ets).says("The same"),
        Route::new("/nodes/{node}/memory/ets/{filter}/relative", Role::Monitoring).get(ets).says("The same"),
        Route::new("/reset", Role::Administrator).delete(reset).says("Forgets the past of what is counted"),
        Route::new("/reset/{node}", Role::Administrator).delete(reset).says("Forgets the past of what a node counts"),
    ]
}

async fn overview(request: Request) -> Result<Answer, Failure> {
    let (broker, visitor) = (&request.broker, request.visitor());
    let config = &broker.config;
    let grids = Grids::of(&request.query)?;
    let mut vhosts = broker.list_vhosts();
    vhosts.retain(|vhost| visitor.is_monitor() || visitor.may_enter(broker, &vhost.name));
    let (mut exchanges, mut queues, mut consumers, mut ready, mut unacked) = (0, 0, 0, 0, 0);
    for vhost in &vhosts {
        exchanges += vhost.exchange_count();
        for queue in vhost.queues() {
            let counts = queue.counts();
            queues += 1;
            consumers += counts.consumers;
            ready += counts.ready;
            unacked += counts.unacked;
        }
    }
    let connections = broker.connections.list();
    let own = connections.iter().filter(|connection| {
        visitor.is_monitor() || connection.opened().is_some_and(|opened| opened.user == visitor.name)
    });
    let (connections, channels) =
        own.fold((0, 0), |(count, channels), one| (count + 1, channels + one.channel_count()));
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("management_version", config.product_version.as_str().into());
    set("rates_mode", rates_mode(broker).into());
    set("sample_retention_policies", retention_policies(broker));
    set("exchange_types", exchange_types());
    set("product_version", config.product_version.as_str().into());
    set("product_name", config.product_name.as_str().into());
    set("rabbitmq_version", config.product_version.as_str().into());
    set("cluster_name", broker.cluster_name().into());
    set("cluster_tags", json!({}));
    set("node_tags", json!({}));
    set("default_queue_type", config.default_queue_type.as_str().into());
    set("disable_stats", request.without_stats().into());
    set("enable_queue_totals", request.with_queue_totals().into());
    set("is_op_policy_updating_enabled", true.into());
    set("require_definition_json_extension", false.into());
    if request.without_stats() {
        set("node", broker.events().node().into());
        set("object_totals", json!({"connections": connections, "exchanges": exchanges, "queues": queues}));
        if request.with_queue_totals() {
            let totals =
                json!({"messages": ready + unacked, "messages_ready": ready, "messages_unacknowledged": unacked});
            set("queue_totals", totals);
        }
        return Ok(object(&request.query, shown));
    }
    set(
        "object_totals",
        json!({"channels": channels, "connections": connections, "consumers": consumers, "exchanges": exchanges, "queues": queues}),
    );
    set("statistics_db_event_queue", 0.into());
    let past = |grid| Past::new(broker.statistics.recent(), samples(broker, grid));
    let mut totals = Map::new();
    let groups = [Group::Published, Group::Delivered, Group::Disk];
    if visitor.is_monitor() {
        past(grids.lengths).put_lengths(&mut totals, ready, unacked, STATS);
        set("message_stats", message_stats(&broker.totals().all(), &past(grids.msg_rates), &groups, true).into());
        let (past, mut churn) = (past(grids.msg_rates), Map::new());
        for ((at, name), count) in CHURN.iter().enumerate().zip(broker.churn().snapshot()) {
            past.put(&mut churn, name, count, CHURN_AT + at);
        }
        set("churn_rates", churn.into());
        set("node", broker.events().node().into());
        set("listeners", listeners(broker));
        set("contexts", contexts(broker, true));
    } else {
        // Of the virtual hosts that one may enter, all together; who looks at one of them sees its past too.
        let mut all = Snapshot::default();
        let mut rates = OwnRates::default();
        for vhost in &vhosts {
            all += &vhost.totals().snapshot().all();
            rates.add(vhost);
        }
        set("message_stats", rates.message_stats(&all, &groups).into());
        totals = rates.lengths(ready, unacked);
    }
    set("queue_totals", totals.into());
    Ok(object(&request.query, shown))
}

/// The rates of several virtual hosts together.
#[derive(Default)]
struct OwnRates(Vec<Recent<NUMBERS>>);

impl OwnRates {
    fn add(&mut self, vhost: &Vhost) {
        self.0.push(vhost.watch.recent());
    }

    fn put(&self, shown: &mut Map<String, Json>) {
        let names: Vec<_> = shown.keys().filter(|name| !name.ends_with("_details")).cloned().collect();
        for name in names {
            let parts: Vec<usize> = match name.as_str() {
                "messages" => vec![STATS, STATS + 1],
                "messages_ready" => vec![STATS],
                "messages_unacknowledged" => vec![STATS + 1],
                "deliver_get" => {
                    ["deliver", "deliver_no_ack", "get", "get_no_ack"].into_iter().filter_map(at).collect()
                }
                name => at(name).into_iter().collect(),
            };
            let rate: f64 = self.0.iter().flat_map(|recent| parts.iter().map(|at| recent.rate(*at))).sum();
            shown.insert(format!("{name}_details"), json!({"rate": rate}));
        }
    }

    fn message_stats(&self, seen: &Snapshot, groups: &[Group]) -> Map<String, Json> {
        let nothing = Past::new(Recent::<STATS>::default(), None);
        let mut shown = message_stats(seen, &nothing, groups, true);
        self.put(&mut shown);
        shown
    }

    fn lengths(&self, ready: u64, unacked: u64) -> Map<String, Json> {
        let mut shown = Map::new();
        shown.insert("messages".to_owned(), (ready + unacked).into());
        shown.insert("messages_ready".to_owned(), ready.into());
        shown.insert("messages_unacknowledged".to_owned(), unacked.into());
        self.put(&mut shown);
        shown
    }
}

/// Where a counter is among the samples.
fn at(name: &str) -> Option<usize> {
    Stat::ALL.iter().position(|stat| stat.name() == name)
}

/// The past of the whole, if it is asked for.
fn samples(broker: &Broker, grid: Option<Grid>) -> Option<Vec<Sample<WHOLE>>> {
    grid.map(|grid| broker.statistics.samples(grid, broker.now_ms()))
}

fn rates_mode(broker: &Broker) -> &'static str {
    if broker.statistics.is_on { "basic" } else { "none" }
}

/// Seconds for which samples are kept.
fn retention_policies(broker: &Broker) -> Json {
    let ages = |samples: &[(u64, u64)]| -> Vec<u64> { samples.iter().map(|(age_s, _)| *age_s).collect() };
    let (global, basic) = (&broker.config.statistics.samples_global, &broker.config.statistics.samples_basic);
    json!({"global": ages(global), "basic": ages(basic), "detailed": ages(&basic[..1])})
}

fn exchange_types() -> Json {
    let described = |kind: Type| match kind {
        Type::Direct => "AMQP direct exchange, as per the AMQP specification",
        Type::Fanout => "AMQP fanout exchange, as per the AMQP specification",
        Type::Topic => "AMQP topic exchange, as per the AMQP specification",
        Type::Headers => "AMQP headers exchange, as per the AMQP specification",
        Type::ConsistentHash => "Consistent Hashing Exchange",
        Type::ModulusHash => "Modulus Hashing Exchange",
        Type::Random => "Recent random exchange",
        Type::LocalRandom => "Picks one random local binding (queue) to route via (to).",
        Type::RecentHistory => "Recent History Exchange",
        Type::Delayed => "Delayed Message Exchange.",
    };
    Type::ALL
        .iter()
        .map(|kind| json!({"name": kind.name(), "description": described(*kind), "enabled": true}))
        .collect()
}

async fn nodes(request: Request) -> Result<Answer, Failure> {
    list(&request.query, &["name"], vec![shown(&request)?])
}

async fn node(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    Ok(object(&request.query, shown(&request)?))
}

fn shown(request: &Request) -> Result<Map<String, Json>, Failure> {
    let broker = &request.broker;
    let config = &broker.config;
    let grids = Grids::of(&request.query)?;
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("name", broker.events().node().into());
    set("type", "disc".into());
    set("running", true.into());
    set("being_drained", false.into());
    if request.without_stats() {
        return Ok(shown);
    }
    set("os_pid", std::process::id().to_string().into());
    set("partitions", json!([]));
    set("fd_total", readings::descriptors_max().into());
    set("sockets_total", readings::descriptors_max().into());
    let (memory, disk) = broker.alarms.last().map_or((0, 0), |(_, marks)| (marks.memory, marks.disk_free));
    let active = broker.alarms.active();
    set("mem_limit", memory.into());
    set("mem_alarm", active.contains(Alarm::Memory).into());
    set("mem_calculation_strategy", "rss".into());
    set("disk_free_limit", disk.into());
    set("disk_free_alarm", active.contains(Alarm::Disk).into());
    set("proc_total", readings::threads_max().into());
    set("rates_mode", rates_mode(broker).into());
    set("uptime", broker.uptime_ms().into());
    set("run_queue", 0.into());
    set("processors", std::thread::available_parallelism().map_or(1, usize::from).into());
    set("exchange_types", exchange_types());
    let mechanisms = config.auth_mechanisms.iter();
    let described = |name: &str| match name {
        "PLAIN" => "SASL PLAIN authentication mechanism",
        "AMQPLAIN" => "QPid AMQPLAIN mechanism",
        "EXTERNAL" => "SASL EXTERNAL authentication mechanism using the client's TLS certificate",
        _ => "SASL ANONYMOUS authentication mechanism",
    };
    let mechanisms =
        mechanisms.map(|one| json!({"name": one.name(), "description": described(one.name()), "enabled": true}));
    set("auth_mechanisms", mechanisms.collect());
    let version = config.product_version.as_str();
    set(
        "applications",
        json!([
            {"name": "rabbit", "description": config.product_name, "version": version},
            {"name": "rabbitmq_management", "description": "RabbitMQ Management Console", "version": version},
            {"name": "rabbitmq_prometheus", "description": "Prometheus metrics for RabbitMQ", "version": version},
        ]),
    );
    set("enabled_plugins", json!(["rabbitmq_management", "rabbitmq_prometheus"]));
    set("contexts", contexts(broker, false));
    set("log_files", json!(["<stdout>"]));
    set("config_files", config.files.iter().map(|file| file.display().to_string()).collect());
    set("db_dir", config.data_dir.display().to_string().into());
    set("net_ticktime", 60.into());
    set("cluster_links", json!([]));
    set("rabbitmq_version", version.into());
    let past = Past::new(broker.statistics.recent(), samples(broker, grids.node_stats));
    for ((at, name), value) in NODE.iter().enumerate().zip(broker.node_numbers()) {
        past.put(&mut shown, name, value, NODE_AT + at);
    }
    let past = Past::new(broker.statistics.recent(), samples(broker, grids.msg_rates));
    for ((at, name), count) in CHURN.iter().enumerate().zip(broker.churn().snapshot()) {
        past.put(&mut shown, name, count, CHURN_AT + at);
    }
    let sync = broker.store_times().sync.seen();
    let syncs: u64 = sync.buckets.iter().sum();
    let average_ms = if syncs == 0 { 0.0 } else { sync.sum_s * 1000.0 / syncs as f64 };
    shown.insert("io_sync_avg_time".to_owned(), average_ms.into());
    Ok(shown)
}

/// What takes the memory that the process has.
async fn memory(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    let parts = memory_parts(&request.broker);
    let total = parts.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let mut shown = memory_of_erlang();
    shown.extend(parts.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.into())));
    shown.insert("strategy".to_owned(), "rss".into());
    shown.insert("total".to_owned(), json!({"rss": total, "allocated": total, "erlang": 0}));
    Ok(Answer::Json(json!({"memory": shown})))
}

/// The same in hundredths.
async fn memory_relative(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    let parts = memory_parts(&request.broker);
    let total = parts.iter().map(|(_, bytes)| bytes).sum::<u64>().max(1);
    let mut shown = memory_of_erlang();
    shown.extend(parts.into_iter().map(|(name, bytes)| (name.to_owned(), (bytes * 100).div_ceil(total).into())));
    shown.insert("total".to_owned(), 100.into());
    Ok(Answer::Json(json!({"memory": shown})))
}

/// What else RabbitMQ's memory is used for, and what its clients insist on: nothing of it is here.
fn memory_of_erlang() -> Map<String, Json> {
    const PARTS: [&str; 23] = [
        "connection_readers",
        "connection_writers",
        "connection_channels",
        "connection_other",
        "quorum_queue_procs",
        "quorum_queue_dlx_procs",
        "stream_queue_procs",
        "stream_queue_replica_reader_procs",
        "stream_queue_coordinator_procs",
        "plugins",
        "metadata_store",
        "other_proc",
        "metrics",
        "mgmt_db",
        "mnesia",
        "quorum_ets",
        "metadata_store_ets",
        "other_ets",
        "binary",
        "code",
        "atom",
        "allocated_unused",
        "reserved_unallocated",
    ];
    PARTS.iter().map(|name| ((*name).to_owned(), 0.into())).collect()
}

/// What RabbitMQ says where a filter leaves no table.
async fn ets(request: Request) -> Result<Answer, Failure> {
    request.check_node()?;
    Ok(Answer::Json(json!({"ets_tables_memory": "no_tables"})))
}

/// As far as it is known; by RabbitMQ's names where they fit.
fn memory_parts(broker: &Broker) -> [(&'static str, u64); 3] {
    let all = readings::memory_used().unwrap_or(0);
    let messages = all.min(broker.messages_memory() as u64);
    let store = broker.store_memory().min(all - messages);
    [("queue_procs", messages), ("msg_index", store), ("other_system", all - messages - store)]
}

/// Forgets the past, not the counters.
async fn reset(request: Request) -> Result<Answer, Failure> {
    if request.names.find("node").is_some() {
        request.check_node()?;
    }
    request.broker.statistics.forget();
    Ok(Answer::Done)
}
