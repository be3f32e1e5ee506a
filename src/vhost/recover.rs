//! What was durable comes back.

use super::records::{BindingRecord, ExchangeRecord, QueueRecord};
use super::topology::Exchange;
use super::{House, Vhost};
use crate::exchange::{Binding, Destination, Type};
use crate::queue::Queue;
use crate::queue::classic::Identity;
use crate::queue::settings::{Declared, Settings};
use std::sync::Arc;

impl Vhost {
    /// Brings an exchange back.
    pub fn recover_exchange(&self, record: &ExchangeRecord) -> Result<(), String> {
        let kind = Type::parse(&record.kind).ok_or_else(|| format!("unknown exchange type '{}'", record.kind))?;
        let mut exchange = Exchange {
            auto_delete: record.auto_delete,
            internal: record.internal,
            arguments: record.arguments.clone(),
            ..Exchange::new(&record.name, kind, true)
        };
        let mut topology = self.topology.write();
        exchange.apply(topology.policies.for_exchange(&record.name));
        topology.exchanges.insert(Arc::clone(&exchange.name), exchange);
        Ok(())
    }

    /// Brings a queue back, with its messages where they lie on disk.
    pub fn recover_queue(&self, record: QueueRecord, house: &House) -> Result<(), String> {
        let declared =
            Declared { durable: true, exclusive: false, auto_delete: record.auto_delete, arguments: &record.arguments };
        let resource = format!("queue '{}' in vhost '{}'", record.name, self.name);
        let queue_type = Settings::parse(&resource, &declared).map_err(|refusal| refusal.text)?.queue_type;
        let applied = self.topology.read().policies.for_queue(&record.name, queue_type);
        let settings = Settings::with_policy(&record.arguments, applied);
        let identity = Identity {
            id: record.id,
            vhost: Arc::clone(&self.name),
            name: record.name.into(),
            durable: true,
            auto_delete: record.auto_delete,
            exclusive: None,
            arguments: record.arguments,
        };
        let queue = Queue::recover(identity, settings, &house.store, &house.memory)?;
        self.topology.write().queues.insert(Arc::clone(&queue.identity.name), queue);
        Ok(())
    }

    /// Brings a binding back, if both its ends are there.
    pub fn recover_binding(&self, record: BindingRecord) {
        let destination = match record.to_exchange {
            true => Destination::Exchange(record.destination.into()),
            false => Destination::Queue(record.destination.into()),
        };
        let mut topology = self.topology.write();
        if topology.durable(&destination) {
            let routing_key = record.routing_key.into();
            topology.bind(&record.source, Binding { destination, routing_key, arguments: record.arguments });
        }
    }

    /// All queues, in no order.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        self.topology.read().queues.values().cloned().collect()
    }
}
