//! What was durable comes back.

use super::Vhost;
use super::records::{BindingRecord, ExchangeRecord, QueueRecord, put_binding, read_user};
use super::topology::Exchange;
use crate::exchange::Type;
use crate::queue::Queue;
use crate::queue::classic::Identity;
use crate::queue::settings::{Declared, Settings};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Vhost {
    /// Brings an exchange back, with what it holds back where that lies on disk.
    pub fn recover_exchange(&self, record: &ExchangeRecord) -> Result<(), String> {
        let kind = Type::parse(&record.kind).ok_or_else(|| format!("unknown exchange type '{}'", record.kind))?;
        record.delay_queue.into_iter().for_each(|id| self.number_taken(id));
        let delay = record.delay_queue.map(|id| self.recover_delay_queue(&record.name, id)).transpose()?;
        let mut exchange = Exchange {
            delay,
            auto_delete: record.auto_delete,
            internal: record.internal,
            user: read_user(&record.user),
            ..Exchange::new(&record.name, kind, true, record.arguments.clone())
        };
        let mut topology = self.topology.write();
        exchange.apply(topology.policies.for_exchange(&record.name));
        topology.exchanges.insert(Arc::clone(&exchange.name), exchange);
        Ok(())
    }

    /// Brings a queue back, with its messages where they lie on disk.
    pub fn recover_queue(&self, record: QueueRecord) -> Result<(), String> {
        let declared =
            Declared { durable: true, exclusive: false, auto_delete: record.auto_delete, arguments: &record.arguments };
        let resource = format!("queue '{}' in vhost '{}'", record.name, self.name);
        let queue_type = Settings::parse(&resource, &declared).map_err(|refusal| refusal.text)?.queue_type;
        let applied = self.topology.read().policies.for_queue(&record.name, queue_type);
        let settings = Settings::with_policy(&record.arguments, applied);
        self.number_taken(record.id);
        let identity = Identity {
            id: record.id,
            vhost: Arc::clone(&self.name),
            name: record.name.into(),
            durable: true,
            auto_delete: record.auto_delete,
            exclusive: None,
            arguments: record.arguments,
            user: read_user(&record.user),
        };
        let queue = Queue::recover(identity, settings, &self.around)?;
        self.topology.write().queues.insert(Arc::clone(&queue.identity.name), queue);
        Ok(())
    }

    /// No new queue gets the number of one that comes back, whatever the counter on disk says: of two virtual hosts that
    /// declared at once, the one with the lower may have written it last.
    fn number_taken(&self, id: u64) {
        self.house.next_queue.fetch_max(id + 1, Ordering::Relaxed);
    }

    /// Brings a binding back, if both its ends are there. They come in the order of their places, those without one last.
    pub fn recover_binding(&self, record: BindingRecord) {
        let binding = record.binding();
        let mut topology = self.topology.write();
        if topology.durable(&binding.destination) {
            topology.bind_at(&record.source, binding.clone(), record.place);
            let exchange = topology.exchanges.get(&*record.source);
            let place = exchange.and_then(|exchange| exchange.router.place(&binding));
            if record.place.is_none() && place.is_some() {
                // It took over from one that was removed. Next time it is to stand where it stands now.
                drop(self.house.store.change(vec![put_binding(&self.name, &record.source, &binding, place)]));
            }
        }
        drop(topology);
        self.listen();
    }
}
