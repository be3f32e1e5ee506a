//! What exchanges of type `x-delayed-message` hold back.
//!
//! Each has a queue of its own that nobody can be bound to and nobody consumes from. A message with a delay is routed to
//! it instead of the exchange's bindings, and lies there as in any queue: confirmed when it is safe, paged out, recovered.
//! When its time has come it dies there, and like a dead letter it leaves its queue and reaches others in one write to
//! the disk:
//!
//! ```text
//!   publish ──▶ exchange ── x-delay > 0 ──▶ amq.delayed.<exchange> ── its time ──▶ the exchange's bindings
//!                   └────── otherwise ─────────────────────────────────────────────────────▲
//! ```
//!
//! The queue is known by name for two things alone: a passive declaration counts what waits, and a purge cancels it.

use super::Vhost;
use super::dead_letters::{Letter, Parcel};
use super::events::HOUSE;
use super::publish::{Targets, keys};
use super::topology::Topology;
use crate::amqp::Table;
use crate::amqp::properties::Properties;
use crate::message::{Message, Traits};
use crate::queue::Queue;
use crate::queue::classic::{Acts, Identity};
use crate::queue::delay;
use crate::queue::settings::Settings;
use crate::queue::state::Dead;
use crate::refusal::Refusal;
use crate::store::Change;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// With the exchange's name behind it, the name of its queue. Clients can't declare such names.
const PREFIX: &str = "amq.delayed.";

impl Topology {
    /// The queue of this name, if it is one that holds back messages.
    pub fn delay_queue(&self, name: &str) -> Option<&Arc<Queue>> {
        self.exchanges.get(name.strip_prefix(PREFIX)?)?.delay.as_ref()
    }
}

impl Vhost {
    /// The queue of a new exchange.
    pub(super) fn new_delay_queue(&self, exchange: &str, durable: bool) -> Arc<Queue> {
        let id = self.house.next_queue.fetch_add(1, Ordering::Relaxed);
        Queue::new(self.delay_identity(exchange, id, durable), delaying(), &self.around)
    }

    /// The queue of an exchange that comes back.
    pub(super) fn recover_delay_queue(&self, exchange: &str, id: u64) -> Result<Arc<Queue>, String> {
        Queue::recover(self.delay_identity(exchange, id, true), delaying(), &self.around)
    }

    fn delay_identity(&self, exchange: &str, id: u64, durable: bool) -> Identity {
        Identity {
            id,
            vhost: Arc::clone(&self.name),
            name: format!("{PREFIX}{exchange}").into(),
            durable,
            auto_delete: false,
            exclusive: None,
            arguments: Table::default(),
            user: HOUSE.into(),
        }
    }

    /// The exchange is gone, and what it held back with it. Says what the store has to forget.
    pub(super) fn drop_delayed(&self, queue: &Queue, acts: &mut Acts) -> Option<Change> {
        // Nobody else can have deleted it.
        let _ = queue.delete(|_| Ok::<(), ()>(()), acts);
        (queue.identity.durable || queue.has_rows()).then_some(Change::DropQueue(queue.identity.id))
    }

    /// The queue of this name, if it is one that holds back messages.
    pub(super) fn delay_queue(&self, name: &str) -> Option<Arc<Queue>> {
        self.topology.read().delay_queue(name).cloned()
    }

    /// All queues that hold back messages, in no order.
    pub fn delay_queues(&self) -> Vec<Arc<Queue>> {
        self.topology.read().exchanges.values().filter_map(|exchange| exchange.delay.clone()).collect()
    }

    /// Hands on messages whose time has come: each by the bindings of its exchange, with the keys that it came with.
    /// What a queue refuses then is lost to it, as with any publish that nobody waits for.
    pub(super) fn hand_on_due(&self, queue: &Arc<Queue>, due: Vec<Dead>, acts: &mut Acts) {
        let exchange = queue.identity.name.strip_prefix(PREFIX).unwrap_or_default();
        let _together = self.around.store.together();
        let mut parcel = Parcel::default();
        for due in due {
            for offset in 0..due.count {
                let held_back = due.run.message(due.index + offset);
                let properties = delay::passed(held_back.properties);
                let message = Message { properties: &properties, ..held_back };
                let (targets, traits) = self.route_due(exchange, &message);
                let traits = Traits { persistent: due.run.persistent(), ..traits };
                let position = due.positions.as_ref().map(|positions| positions.start + u64::from(offset));
                self.enclose(queue, &mut parcel, Letter { message, traits, targets, failed: 0, position }, acts);
            }
        }
        self.deliver(queue, &mut parcel, acts);
    }

    fn route_due(&self, exchange: &str, message: &Message<'_>) -> (Targets, Traits) {
        // It was read when it was published.
        let Ok(properties) = Properties::parse(message.properties) else { return Default::default() };
        let traits = Traits::of(&properties);
        let keys = keys(message, &properties);
        // Where the exchange is gone meanwhile, so is what it held back.
        let route = self.route_through(exchange, message, traits, &keys, &properties, false);
        (route.map_or(Targets::new(), |route| route.targets), traits)
    }
}

/// Why a client can't do what it wants with a queue that holds back messages.
pub(super) fn untouchable(queue: &Queue) -> Refusal {
    Refusal::access(format!(
        "{queue:?} holds the delayed messages of an exchange: it can only be declared passively and purged"
    ))
}

fn delaying() -> Settings {
    Settings { delays: true, ..Settings::default() }
}
