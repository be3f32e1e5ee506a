//! One virtual host: its names and its rules.
//!
//! Both doors, AMQP and HTTP, come through here, so every rule about names, rights and equivalence stands once, in
//! [`declare`]. Routing is [`publish`]; what is routed later is [`delayed`]; what policies do is [`policies`]. What happens
//! is told by [`events`], and shown by [`trace`]. What is durable goes to the store with [`records`] and comes back with
//! [`recover`].

pub mod all_safe;
pub mod clients;
pub mod dead_letters;
pub mod declare;
pub mod delayed;
mod end;
pub mod events;
pub mod explain;
pub mod listing;
pub mod policies;
pub mod properties;
pub mod publish;
pub mod records;
pub mod recover;
pub mod redrive;
pub mod reply_to;
pub mod single;
pub mod ties;
pub mod topology;
pub mod trace;

#[cfg(test)]
mod tests;

use crate::amqp::Table;
use crate::auth::{Granted, Rights};
use crate::clock::Clock;
use crate::exchange::Type;
use crate::metrics::{Churn, Counted, Totals, Watch};
use crate::queue::classic::{Host, Memory, NUMBERS, Surroundings};
use crate::queue::consumer::ConsumerKey;
use crate::queue::settings::QueueType;
use crate::queue::timer::Timer;
use crate::store::Store;
use events::Events;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use topology::{Exchange, Topology};

/// What all virtual hosts of a broker share.
#[derive(Debug)]
pub struct House {
    pub store: Arc<Store>,
    pub memory: Arc<Memory>,
    pub clock: Clock,
    pub timer: Arc<Timer>,
    /// Messages expire when they reach the head, as in RabbitMQ.
    pub expire_at_head: bool,
    pub default_queue_type: QueueType,
    pub reply_secret: reply_to::Secret,
    pub events: Events,
    /// Virtual hosts that are traced from the start.
    pub trace_vhosts: Vec<String>,
    /// How many there may be in all virtual hosts together.
    pub queues_max: Option<u32>,
    pub exchanges_max: Option<u32>,
    /// All virtual hosts, to count what is in them.
    pub vhosts: Mutex<Vec<Weak<Vhost>>>,
    pub churn: Arc<Churn>,
    /// The number of the next queue. Never goes back, or a new queue would find an old one's messages.
    pub next_queue: AtomicU64,
    /// The number of the next consumer.
    pub next_consumer: AtomicU64,
}

impl House {
    /// What all virtual hosts have together. Called with no topology's lock held.
    fn count(&self, of: impl Fn(&Topology) -> usize) -> usize {
        let all: Vec<_> = self.vhosts.lock().iter().filter_map(Weak::upgrade).collect();
        all.iter().map(|vhost| of(&vhost.topology.read())).sum()
    }

    fn count_queues(&self) -> usize {
        self.count(|topology| topology.queues.len())
    }

    /// With the default exchange of each.
    fn count_exchanges(&self) -> usize {
        self.count(|topology| topology.exchanges.len() + 1)
    }
}

#[derive(Debug)]
pub struct Vhost {
    pub name: Arc<str>,
    house: Arc<House>,
    /// What its queues work with.
    around: Surroundings,
    /// Lists of queues, the newest death first, in which a message went round until it was dropped: each is told once.
    cycles: Mutex<FxHashSet<Vec<String>>>,
    metadata: RwLock<Metadata>,
    limits: Mutex<VhostLimits>,
    topology: RwLock<Topology>,
    /// The firehose is on.
    traced: AtomicBool,
    /// What came into the default exchange, and out of it.
    pub default_exchange: Arc<Counted>,
    /// What was done in it and how many messages were ready and out, as they were.
    pub watch: Watch<NUMBERS>,
    /// Moves with every change that may change a route.
    version: AtomicU64,
    /// Held while a policy is set or cleared, so that queues are told in the order in which it was done. Taken with no
    /// lock held.
    policy_turn: Mutex<()>,
}

/// What is said of a virtual host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    pub description: String,
    pub tags: Vec<String>,
    /// The type of queues that don't say theirs; `None`: the broker's.
    pub default_queue_type: Option<QueueType>,
    pub protected_from_deletion: bool,
}

/// What there may be at most in a virtual host; `None` is any number (RabbitMQ: "Virtual Hosts: Limits").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VhostLimits {
    pub max_connections: Option<u32>,
    pub max_queues: Option<u32>,
}

/// On whose behalf something is done.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The connection's number: exclusive queues belong to it.
    pub connection: u64,
    pub user: Arc<str>,
    /// What the user may do in this virtual host.
    pub rights: Arc<Rights>,
}

impl Actor {
    /// The broker itself: it may do everything, and belongs to no connection.
    pub fn of_the_house() -> Self {
        Self { connection: 0, user: events::HOUSE.into(), rights: Rights::new(Granted::Everything) }
    }
}

impl Vhost {
    /// A virtual host with the predeclared exchanges.
    pub fn new(name: &str, house: &Arc<House>) -> Arc<Self> {
        let with_events = house.events.live_in(name);
        let vhost = Arc::new_cyclic(|this: &Weak<Self>| Self {
            name: name.into(),
            around: Surroundings {
                store: Arc::clone(&house.store),
                memory: Arc::clone(&house.memory),
                clock: house.clock,
                timer: Arc::clone(&house.timer),
                host: Weak::clone(this) as Weak<dyn Host>,
                expire_at_head: house.expire_at_head,
                totals: Arc::default(),
                volatile: false,
            },
            default_exchange: Arc::default(),
            watch: Watch::default(),
            house: Arc::clone(house),
            cycles: Mutex::default(),
            metadata: RwLock::default(),
            limits: Mutex::default(),
            topology: RwLock::new(Topology::predeclared(with_events)),
            traced: AtomicBool::new(house.trace_vhosts.iter().any(|traced| traced == name)),
            version: AtomicU64::new(0),
            policy_turn: Mutex::new(()),
        });
        if with_events {
            house.events.move_in(Arc::downgrade(&vhost));
        }
        let mut all = house.vhosts.lock();
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&vhost));
        drop(all);
        vhost
    }

    /// Where to tell what happens.
    pub fn events(&self) -> &Events {
        &self.house.events
    }

    /// Tells that the virtual host is new, with its exchanges, or that it was set anew.
    pub fn tell_set(&self, is_new: bool, user: &str) {
        if is_new {
            let topology = Topology::predeclared(self.events().live_in(&self.name));
            let default = Exchange::new("", Type::Direct, true, Table::default());
            for exchange in std::iter::once(&default).chain(topology.exchanges.values()) {
                self.events().exchange_created(&self.name, &exchange.name, &exchange.declared(), None, user);
            }
        }
        self.events().vhost_set(self, is_new, user);
    }

    /// What is counted of all that is done in it.
    pub fn totals(&self) -> &Totals {
        &self.around.totals
    }

    /// Changes whenever a route may have changed. A route found at one version holds while it stays.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The type of queues that don't say theirs (RabbitMQ: "Default Queue Type").
    pub fn default_queue_type(&self) -> QueueType {
        self.metadata.read().default_queue_type.unwrap_or(self.house.default_queue_type)
    }

    pub fn metadata(&self) -> Metadata {
        self.metadata.read().clone()
    }

    pub fn set_metadata(&self, metadata: Metadata) {
        *self.metadata.write() = metadata;
    }

    pub fn limits(&self) -> VhostLimits {
        *self.limits.lock()
    }

    /// Changes the limits. `change` may note for the store what it changed, with the lock held.
    pub fn change_limits<T>(&self, change: impl FnOnce(&mut VhostLimits) -> T) -> T {
        change(&mut self.limits.lock())
    }

    /// A number no consumer had before.
    pub fn next_consumer(&self) -> ConsumerKey {
        ConsumerKey(self.house.next_consumer.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// While the guard lives, what is done to several queues goes to disk together.
    pub fn together(&self) -> impl Sized + '_ {
        self.house.store.together()
    }

    /// Whether the disk has fallen behind what was published, so that a publisher of which so much may wait for it has to
    /// wait. Those who publish little don't, as long as all of them don't make it too much.
    pub fn behind(&self, toll: &Toll) -> bool {
        let store = &self.house.store;
        store.behind() && (toll.bytes() > store.share_bytes() || store.far_behind())
    }

    /// Counts what a publisher has sent.
    pub fn take_toll(&self, toll: &mut Toll, bytes: usize) {
        toll.add(bytes, self.house.store.commits());
    }

    /// Waits until it has caught up.
    pub async fn caught_up(&self) {
        self.house.store.caught_up().await;
    }

    /// Routes may have changed.
    fn rerouted(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Queues, exchanges or bindings have changed. Called without the topology's lock.
    fn changed(&self) {
        self.rerouted();
        self.listen();
    }

    /// Bindings may have changed, and with them whether events are heard.
    fn listen(&self) {
        if self.house.events.live_in(&self.name) {
            let topology = self.topology.read();
            // With the lock held, or a look at older bindings could have the last word.
            self.house.events.set_heard(topology.hears_events());
        }
    }
}

/// What of a publisher may wait for the disk: octets that came since the commit before the last.
#[derive(Debug, Default)]
pub struct Toll {
    commits: u64,
    now: usize,
    before: usize,
}

impl Toll {
    fn add(&mut self, bytes: usize, commits: u64) {
        match commits - self.commits {
            0 => {}
            1 => self.before = std::mem::take(&mut self.now),
            _ => (self.now, self.before) = (0, 0),
        }
        self.commits = commits;
        self.now += bytes;
    }

    fn bytes(&self) -> usize {
        self.now + self.before
    }
}

#[cfg(test)]
mod toll {
    use super::Toll;

    #[test]
    fn it_forgets_what_was_stored_meanwhile() {
        let mut toll = Toll::default();
        for (bytes, commits, sum) in [(10, 0, 10), (5, 0, 15), (1, 1, 16), (2, 2, 3), (4, 9, 4), (0, 11, 0)] {
            toll.add(bytes, commits);
            assert_eq!(toll.bytes(), sum, "{bytes} at {commits}");
        }
    }
}
