//! What every door holds: virtual hosts, users, connections; start and stop.

pub mod users;

use crate::clock::Clock;
use crate::config::{Config, Durability};
use crate::policy::{self, Policy};
use crate::queue::classic::Memory;
use crate::queue::settings::QueueType;
use crate::store::keys::Kind;
use crate::store::{self, OpenError, Store};
use crate::vhost::events::{Events, HOUSE};
use crate::vhost::records::{self, BindingRecord, ExchangeRecord, ParameterRecord, PolicyRecord, QueueRecord};
use crate::vhost::reply_to::Secret;
use crate::vhost::{House, Vhost};
use dashmap::DashMap;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;
use users::Users;

#[derive(Debug)]
pub struct Broker {
    pub config: Arc<Config>,
    house: Arc<House>,
    vhosts: RwLock<FxHashMap<Arc<str>, Arc<Vhost>>>,
    pub users: Users,
    connections: DashMap<u64, Arc<Registered>>,
    next_connection: AtomicU64,
}

/// A connection as the rest of the broker knows it.
#[derive(Debug, Default)]
pub struct Registered {
    /// Wakes the connection to look at `reason`.
    pub asked: Notify,
    /// Why it is to end, in the words of its connection.close.
    pub reason: parking_lot::Mutex<Option<String>>,
}

impl Registered {
    /// Asks the connection to say good-bye.
    pub fn close(&self, reason: &str) {
        *self.reason.lock() = Some(reason.to_owned());
        self.asked.notify_one();
    }
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

#[derive(Debug, Serialize, Deserialize)]
struct VhostRecord {
    name: String,
    /// The type of queues that don't say theirs, if it is not the broker's.
    #[serde(default)]
    default_queue_type: Option<String>,
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
        })?;
        let unreadable = |text: String| StartError::Definition { folder: config.data_dir.clone(), text };
        let next_queue = store.meta("next_queue").map_err(|error| unreadable(error.to_string()))?;
        let next_queue = next_queue.and_then(|octets| Some(u64::from_be_bytes(octets.try_into().ok()?))).unwrap_or(1);
        let memory = Arc::new(Memory::new(bytes(config.messages_memory), bytes(config.queue_memory)));
        let clock = Clock::start();
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
            next_queue: AtomicU64::new(next_queue),
            next_consumer: AtomicU64::new(0),
        });
        let broker = Arc::new(Self {
            config: Arc::clone(&config),
            vhosts: RwLock::default(),
            users: Users::recover(&house).map_err(unreadable)?,
            house,
            connections: DashMap::new(),
            next_connection: AtomicU64::new(1),
        });
        broker.recover().map_err(unreadable)?;
        // Definitions say who there is, so that nobody is let in who was not named (RabbitMQ does the same).
        if broker.vhosts.read().is_empty() && config.definitions.is_empty() {
            broker.add_vhost(&config.default_vhost, None, HOUSE);
            broker.users.seed(&config);
        }
        Ok(broker)
    }

    fn recover(&self) -> Result<(), String> {
        let store = &self.house.store;
        for record in read::<VhostRecord>(store, Kind::Vhost)? {
            let vhost = Vhost::new(&record.name, &self.house);
            vhost.set_default_queue_type(record.default_queue_type.as_deref().and_then(QueueType::parse));
            self.vhosts.write().insert(Arc::clone(&vhost.name), vhost);
        }
        for record in read::<PolicyRecord>(store, Kind::Policy)? {
            self.recover_policy(policy::Kind::User, &record.vhost, &record.name, &record.fields);
        }
        let parameters = read::<ParameterRecord>(store, Kind::Parameter)?;
        for record in parameters.iter().filter(|record| record.component == policy::Kind::Operator.component()) {
            let fields = record.value.as_object().cloned().unwrap_or_default();
            self.recover_policy(policy::Kind::Operator, &record.vhost, &record.name, &fields);
        }
        for record in read::<ExchangeRecord>(store, Kind::Exchange)? {
            self.recovered(&record.vhost)?.recover_exchange(&record)?;
        }
        for record in read::<QueueRecord>(store, Kind::Queue)? {
            self.recovered(&record.vhost)?.recover_queue(record)?;
        }
        let mut bindings = read::<BindingRecord>(store, Kind::Binding)?;
        bindings.sort_by_key(|binding| (binding.place.is_none(), binding.place));
        for record in bindings {
            self.recovered(&record.vhost)?.recover_binding(record);
        }
        Ok(())
    }

    /// Versions that only kept policies took some that are none; those stay where they are.
    fn recover_policy(&self, kind: policy::Kind, vhost: &str, name: &str, fields: &Map<String, Json>) {
        let recovered = Policy::parse(kind, name, fields).map_err(|mistakes| mistakes.to_string()).and_then(|policy| {
            self.recovered(vhost)?.recover_policy(policy);
            Ok(())
        });
        if let Err(text) = recovered {
            tracing::warn!("{} '{name}' in vhost '{vhost}' has no effect: {text}", kind.component());
        }
    }

    fn recovered(&self, vhost: &str) -> Result<Arc<Vhost>, String> {
        self.vhost(vhost).ok_or_else(|| format!("it belongs to the virtual host '{vhost}', which does not exist"))
    }

    /// Wakes queues when their time comes, for ever. Nothing expires before it runs.
    pub async fn keep_time(&self) {
        Arc::clone(&self.house.timer).run(self.house.clock).await;
    }

    pub fn vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        self.vhosts.read().get(name).cloned()
    }

    /// Where to tell what happens.
    pub fn events(&self) -> &Events {
        &self.house.events
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.house.clock.now_ms()
    }

    /// Adds a virtual host, unless it is there, and sets the type of queues that don't say theirs. `user`: who does it.
    pub fn add_vhost(&self, name: &str, default_queue_type: Option<QueueType>, user: &str) {
        let known = self.vhost(name);
        let is_new = known.is_none();
        let vhost = known.unwrap_or_else(|| Vhost::new(name, &self.house));
        vhost.set_default_queue_type(default_queue_type);
        self.vhosts.write().insert(Arc::clone(&vhost.name), Arc::clone(&vhost));
        vhost.tell_set(is_new, user);
        let key = store::keys::Definition::new(Kind::Vhost, &[name.as_bytes()]);
        let default_queue_type = default_queue_type.map(|kind| kind.name().to_owned());
        let record = VhostRecord { name: name.to_owned(), default_queue_type };
        drop(self.house.store.change(vec![records::put(key, &record)]));
    }

    /// Writes changes of definitions that are no virtual host's own.
    pub fn change(&self, changes: Vec<store::Change>) -> store::Committed {
        self.house.store.change(changes)
    }

    /// Counts a connection in; `None` if there are as many as there may be.
    pub fn register(&self) -> Option<(u64, Arc<Registered>)> {
        if self.config.max_connections.is_some_and(|limit| self.connections.len() >= limit as usize) {
            return None;
        }
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let registered = Arc::new(Registered::default());
        self.connections.insert(id, Arc::clone(&registered));
        Some((id, registered))
    }

    pub fn unregister(&self, id: u64) {
        self.connections.remove(&id);
    }

    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Asks all connections to say good-bye.
    pub fn close_connections(&self, reason: &str) {
        for connection in self.connections.iter() {
            connection.close(reason);
        }
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
