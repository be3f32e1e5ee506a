//! What every door holds: virtual hosts, users, connections; start and stop.

pub mod alarms;
mod components;
pub mod connections;
mod hashing;
pub mod listeners;
pub mod login;
pub mod parameters;
pub mod readings;
pub mod statistics;
pub mod unfinished;
pub mod users;
pub mod vhosts;

#[cfg(test)]
mod tests;

use self::alarms::{Alarm, Alarms, Reading, Turned};
use crate::auth::Rights;
use crate::clock::Clock;
use crate::config::{Config, Durability};
use crate::metrics::Churn;
use crate::policy::{self, Policy};
use crate::queue::classic::Memory;
use crate::queue::settings::QueueType;
use crate::refusal::Refusal;
use crate::store::keys::{Definition, Kind};
use crate::store::{self, OpenError, Store};
use crate::vhost::events::{Events, HOUSE};
use crate::vhost::records::{self, BindingRecord, ExchangeRecord, ParameterRecord, PolicyRecord, QueueRecord};
use crate::vhost::reply_to::Secret;
use crate::vhost::{House, Metadata, Vhost, VhostLimits};
use connections::{ChannelLimits, ConnectionLimits, Connections, Full, Opened, Registered};
use listeners::Listeners;
use login::{Identity, Logins};
use parameters::Parameters;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use statistics::Statistics;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use unfinished::Unfinished;
use users::Users;
use vhosts::VhostRecord;

#[derive(Debug)]
pub struct Broker {
    pub config: Arc<Config>,
    house: Arc<House>,
    vhosts: RwLock<FxHashMap<Arc<str>, Arc<Vhost>>>,
    /// Held while one is made, changed or deleted: what is done to one of a name reaches the disk in its order.
    changing_vhosts: Mutex<()>,
    pub users: Users,
    pub connections: Connections,
    pub listeners: Listeners,
    pub statistics: Statistics,
    parameters: Parameters,
    /// Whether publishers have to wait.
    pub alarms: Alarms,
    /// What clients have sent of messages that are not published yet.
    pub unfinished: Arc<Unfinished>,
    logins: Logins,
    started_ms: u64,
}

/// Why the broker does not start.
#[derive(Debug)]
pub enum StartError {
    Store(OpenError),
    /// A definition on disk that can't be read.
    Definition {
        folder: PathBuf,
        text: String,
    },
}

impl std::fmt::Display for StartError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(error) => error.fmt(out),
            Self::Definition { folder, text } => {
                write!(out, "the data folder {} holds a definition that can't be read: {text}", folder.display())
            }
        }
    }
}

impl std::error::Error for StartError {}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::Store(error)
    }
}

impl Broker {
    /// Opens the data folder and brings back what was durable. An empty folder gets the default virtual host and user.
    pub fn open(config: Arc<Config>) -> Result<Arc<Self>, StartError> {
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let store = Store::open(&store::Options {
            folder: config.data_dir.clone(),
            durability: match config.durability {
                Durability::Fsync => store::Durability::Fsync,
                Durability::Os => store::Durability::Os,
                Durability::Memory => store::Durability::Memory,
            },
            write_buffer_bytes: bytes(config.store_write_buffer),
            backlog_bytes_max: bytes(config.unsynced_max),
            ballast_bytes: config.disk_ballast,
        })?;
        Self::over(config, store, Clock::start())
    }

    /// The same, on a store that was opened.
    pub(crate) fn over(config: Arc<Config>, store: Arc<Store>, clock: Clock) -> Result<Arc<Self>, StartError> {
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let unreadable = |text: String| StartError::Definition { folder: config.data_dir.clone(), text };
        let next_queue = store.meta("next_queue").map_err(|error| unreadable(error.to_string()))?;
        let next_queue = next_queue.and_then(|octets| Some(u64::from_be_bytes(octets.try_into().ok()?))).unwrap_or(1);
        let memory = Arc::new(Memory::new(bytes(config.messages_memory), bytes(config.queue_memory)));
        let house = Arc::new(House {
            store,
            memory,
            events: Events::new(&config.node_name, &config.default_vhost, clock),
            trace_vhosts: config.trace_vhosts.clone(),
            clock,
            timer: Arc::default(),
            expire_at_head: config.expire_at_head,
            reply_secret: Secret::new(),
            // The setting takes nothing else.
            default_queue_type: QueueType::parse(&config.default_queue_type).unwrap_or_default(),
            queues_max: config.cluster_queue_limit,
            exchanges_max: config.cluster_exchange_limit,
            vhosts: Mutex::default(),
            churn: Arc::default(),
            next_queue: AtomicU64::new(next_queue),
            next_consumer: AtomicU64::new(0),
        });
        let broker = Arc::new(Self {
            config: Arc::clone(&config),
            vhosts: RwLock::default(),
            changing_vhosts: Mutex::default(),
            users: Users::recover(&house).map_err(unreadable)?,
            parameters: Parameters::recover(&house.store).map_err(unreadable)?,
            logins: Logins::new(&config),
            started_ms: clock.now_ms(),
            connections: Connections::new(&house.churn),
            house,
            listeners: Listeners::default(),
            statistics: Statistics::new(&config),
            alarms: Alarms::new(config.memory_watermark, config.disk_free_limit),
            unfinished: Unfinished::new(bytes(config.publishing_memory)),
        });
        broker.recover().map_err(unreadable)?;
        // Definitions say who there is, so that nobody is let in who was not named (RabbitMQ does the same).
        if broker.vhosts.read().is_empty() && config.definitions.is_empty() {
            // In one write: a start that ends in between must not leave a virtual host that nobody may enter.
            let _together = broker.house.store.together();
            let described = Metadata { description: "Default virtual host".to_owned(), ..Metadata::default() };
            // A limit that allows none leaves none.
            if broker.put_vhost(&config.default_vhost, described, HOUSE).is_ok() {
                broker.seed();
            }
        }
        Ok(broker)
    }

    fn recover(&self) -> Result<(), String> {
        let store = &self.house.store;
        for record in read::<VhostRecord>(store, Kind::Vhost)? {
            let vhost = Vhost::new(&record.name, &self.house);
            vhost.set_metadata(record.metadata());
            self.vhosts.write().insert(Arc::clone(&vhost.name), vhost);
        }
        for record in read::<PolicyRecord>(store, Kind::Policy)? {
            self.recover_policy(policy::Kind::User, &record.vhost, &record.name, &record.fields);
        }
        let parameters = read::<ParameterRecord>(store, Kind::Parameter)?;
        for record in parameters.iter().filter(|record| record.component == vhosts::LIMITS.0) {
            if let Some(vhost) = self.vhost(&record.vhost) {
                vhost.change_limits(|limits| *limits = VhostLimits::from_json(&record.value));
            }
        }
        for record in parameters.iter().filter(|record| record.component == policy::Kind::Operator.component()) {
            let fields = record.value.as_object().cloned().unwrap_or_default();
            self.recover_policy(policy::Kind::Operator, &record.vhost, &record.name, &fields);
        }
        for record in read::<ExchangeRecord>(store, Kind::Exchange)? {
            if let Some(vhost) = self.of_record(&record.vhost, || records::exchange_key(&record.vhost, &record.name)) {
                vhost.recover_exchange(&record)?;
            }
        }
        for record in read::<QueueRecord>(store, Kind::Queue)? {
            if let Some(vhost) = self.of_record(&record.vhost, || records::queue_key(&record.vhost, &record.name)) {
                vhost.recover_queue(record)?;
            } else {
                drop(store.change(vec![store::Change::DropQueue(record.id)]));
            }
        }
        let mut bindings = read::<BindingRecord>(store, Kind::Binding)?;
        bindings.sort_by_key(|binding| (binding.place.is_none(), binding.place));
        for record in bindings {
            let key = || records::binding_key(&record.vhost, &record.source, &record.binding());
            if let Some(vhost) = self.of_record(&record.vhost, key) {
                vhost.recover_binding(record);
            }
        }
        Ok(())
    }

    /// The virtual host of a record. One that is gone was deleted while the record was about to be: that is made up for.
    fn of_record(&self, vhost: &str, key: impl FnOnce() -> Definition) -> Option<Arc<Vhost>> {
        let found = self.vhost(vhost);
        if found.is_none() {
            drop(self.house.store.change(vec![store::Change::Delete(key())]));
        }
        found
    }

    /// Versions that only kept policies took some that are none; those stay where they are.
    fn recover_policy(&self, kind: policy::Kind, vhost: &str, name: &str, fields: &Map<String, Json>) {
        let recovered = Policy::parse(kind, name, fields).map_err(|mistakes| mistakes.to_string()).and_then(|policy| {
            let vhost = self.vhost(vhost).ok_or("the virtual host does not exist")?;
            vhost.recover_policy(policy);
            Ok(())
        });
        if let Err(text) = recovered {
            tracing::warn!("{} '{name}' in vhost '{vhost}' has no effect: {text}", kind.component());
        }
    }

    /// Wakes queues when their time comes, for ever. Nothing expires before it runs.
    pub async fn keep_time(&self) {
        Arc::clone(&self.house.timer).run(self.house.clock).await;
    }

    /// Looks after memory and disk, for ever.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let broker = Arc::clone(&self);
            // A look at a disk may take as long as that disk pleases.
            let look = tokio::task::spawn_blocking(move || broker.look()).await;
            let again = look.unwrap_or(Duration::from_secs(1));
            tokio::select! {
                () = tokio::time::sleep(again) => {}
                () = self.alarms.changed() => {}
            }
        }
    }

    /// Sees how much memory and disk there is, and tells whom it concerns; says when to look again.
    pub fn look(&self) -> Duration {
        let reading = Reading {
            memory_total: self.config.total_memory.unwrap_or_else(readings::memory_total),
            memory_used: readings::memory_used(),
            disk: store::disk(&self.config.data_dir).ok(),
        };
        let look = self.alarms.look(reading);
        for turned in &look.turned {
            self.tell_alarm(*turned);
        }
        if !look.turned.is_empty() {
            self.connections.each_open(|_| true, |one| one.asked.notify_one());
        }
        if let Some((reading, marks)) = self.alarms.last() {
            self.unfinished.fit(marks.memory);
            if let Some(disk) = reading.disk {
                self.house.store.balance(disk, marks.disk_free);
            }
        }
        look.again
    }

    /// In RabbitMQ's words, which monitoring looks for.
    fn tell_alarm(&self, Turned { alarm, on }: Turned) {
        let (source, node) = (alarm.source(), self.events().node());
        if let Some((reading, marks)) = self.alarms.last() {
            match alarm {
                Alarm::Memory => {
                    let (state, used) = (if on { "set" } else { "clear" }, reading.memory_used.unwrap_or_default());
                    let allowed = marks.memory;
                    tracing::info!("vm_memory_high_watermark {state}. Memory used:{used} allowed:{allowed}");
                }
                Alarm::Disk => {
                    let state = if on { "insufficient" } else { "sufficient" };
                    let (free, limit) = (reading.disk.map_or(0, |disk| disk.free), marks.disk_free);
                    tracing::info!("Free disk space is {state}. Free bytes: {free}. Limit: {limit}");
                }
            }
        }
        if on {
            tracing::warn!(
                "{source} resource limit alarm set on node {node}. Publishers will be blocked until this alarm clears"
            );
            self.events().alarm_set(source);
        } else {
            tracing::warn!("{source} resource limit alarm cleared on node {node}");
            self.events().alarm_cleared(source);
        }
        if !self.alarms.active().any() {
            tracing::warn!("no resource limit alarm is left: publishers go on");
        }
    }

    /// How long the store's commits took.
    pub fn store_times(&self) -> &store::Times {
        &self.house.store.times
    }

    /// What came and went.
    pub fn churn(&self) -> &Churn {
        &self.house.churn
    }

    /// Octets that the store keeps in memory.
    pub fn store_memory(&self) -> u64 {
        self.house.store.memory_bytes()
    }

    /// Milliseconds since it was opened.
    pub fn uptime_ms(&self) -> u64 {
        self.now_ms().saturating_sub(self.started_ms)
    }

    /// When that was.
    pub fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// Octets of messages in memory.
    pub fn messages_memory(&self) -> usize {
        self.house.memory.used()
    }

    /// Where to tell what happens.
    pub fn events(&self) -> &Events {
        &self.house.events
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.house.clock.now_ms()
    }

    /// Writes changes of definitions that are no virtual host's own.
    pub fn change(&self, changes: Vec<store::Change>) -> store::Committed {
        self.house.store.change(changes)
    }

    /// Lets a connection into a virtual host, with its user's rights there. Refusals and their order are RabbitMQ's
    /// (`rabbit_reader:handle_method0`, connection.open).
    pub fn enter(
        &self,
        registered: &Registered,
        identity: &Identity,
        vhost: &str,
        open: impl FnOnce(Arc<Vhost>) -> Opened,
    ) -> Result<(Arc<Vhost>, Arc<Rights>), Refusal> {
        let not_found = || Refusal::not_allowed(format!("vhost {vhost} not found"));
        let (name, found) = (&identity.user, self.vhost(vhost).ok_or_else(not_found)?);
        let limits = ConnectionLimits {
            node: self.config.max_connections,
            vhost: found.limits().max_connections,
            user: self.limits_of(name).max_connections,
        };
        let opened = self.connections.open(registered, open(Arc::clone(&found)), limits);
        opened.map_err(|full| {
            Refusal::not_allowed(match full {
                Full::Node(limit) => format!("connection refused: node connection limit ({limit}) is reached"),
                Full::Vhost(limit) => format!(
                    "access to vhost '{vhost}' refused for user '{name}': connection limit ({limit}) is reached"
                ),
                Full::User(limit) => {
                    format!("connection refused for user '{name}': user connection limit ({limit}) is reached")
                }
            })
        })?;
        // Both are looked at again now that a deletion would find the connection.
        if !self.vhost(vhost).is_some_and(|now| Arc::ptr_eq(&now, &found)) {
            return Err(not_found());
        }
        let rights = self
            .rights(identity, vhost)
            .ok_or_else(|| Refusal::not_allowed(format!("access to vhost '{vhost}' refused for user '{name}'")))?;
        Ok((found, rights))
    }

    /// Counts one more channel of a connection, unless its user or the broker has as many as they may.
    pub fn open_channel(&self, registered: &Registered) -> Result<(), Refusal> {
        let Some(opened) = registered.opened() else { return Ok(()) };
        let limits =
            ChannelLimits { user: self.limits_of(&opened.user).max_channels, node: self.config.channel_max_per_node };
        self.connections.open_channel(registered, limits).map_err(|full| {
            Refusal::not_allowed(match full {
                Full::User(limit) => format!(
                    "number of channels opened for user '{}' has reached the maximum allowed user limit of {limit}",
                    opened.user
                ),
                Full::Node(limit) | Full::Vhost(limit) => format!(
                    "number of channels opened on node '{}' has reached the maximum allowed limit of {limit}",
                    self.config.node_name
                ),
            })
        })
    }

    /// The graceful end: what is known about deliveries is written exactly, and everything synced. Connections are gone.
    pub fn close(&self) {
        let vhosts: Vec<_> = self.vhosts.read().values().cloned().collect();
        for queue in vhosts.iter().flat_map(|vhost| vhost.queues().into_iter().chain(vhost.delay_queues())) {
            queue.rest();
        }
        self.house.store.close();
    }
}

/// All definitions of a kind.
fn read<R: DeserializeOwned>(store: &Store, kind: Kind) -> Result<Vec<R>, String> {
    let rows = store.definitions(kind).map_err(|error| error.to_string())?;
    rows.iter().map(|row| serde_json::from_slice(row).map_err(|error| format!("{kind:?}: {error}"))).collect()
}
