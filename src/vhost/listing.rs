//! What there is in a virtual host, for whoever lists it. Nothing is asked of rights here: who may look is known before.

use super::Vhost;
use super::topology::Exchange;
use crate::amqp::Table;
use crate::exchange::{Binding, Destination, Type};
use crate::metrics::Counted;
use crate::policy::Applied;
use crate::queue::Queue;
use std::sync::Arc;

/// An exchange as it is shown.
#[derive(Debug, Clone)]
pub struct Listed {
    /// "" is the default exchange.
    pub name: Arc<str>,
    pub kind: Type,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
    /// Who declared it.
    pub user: Arc<str>,
    pub applied: Applied,
    pub counted: Arc<Counted>,
}

impl Listed {
    fn of(exchange: &Exchange) -> Self {
        Self {
            name: Arc::clone(&exchange.name),
            kind: exchange.kind,
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            arguments: exchange.arguments.clone(),
            user: Arc::clone(&exchange.user),
            applied: exchange.applied.clone(),
            counted: Arc::clone(&exchange.counted),
        }
    }

    fn default_exchange(counted: &Arc<Counted>) -> Self {
        let counted = Arc::clone(counted);
        Self { counted, ..Self::of(&Exchange::new("", Type::Direct, true, Table::default())) }
    }
}

impl Vhost {
    /// All queues, in no order.
    pub fn queues(&self) -> Vec<Arc<Queue>> {
        self.topology.read().queues.values().cloned().collect()
    }

    pub fn queue_named(&self, name: &str) -> Option<Arc<Queue>> {
        self.topology.read().queues.get(name).cloned()
    }

    /// All exchanges, in no order, with the default one.
    pub fn exchanges(&self) -> Vec<Listed> {
        let topology = self.topology.read();
        let default = Listed::default_exchange(&self.default_exchange);
        std::iter::once(default).chain(topology.exchanges.values().map(Listed::of)).collect()
    }

    /// How many exchanges there are, with the default one.
    pub fn exchange_count(&self) -> usize {
        self.topology.read().exchanges.len() + 1
    }

    /// How many bindings an exchange has.
    pub fn binding_count(&self, exchange: &str) -> usize {
        self.topology.read().exchanges.get(exchange).map_or(0, |exchange| exchange.router.bindings().count())
    }

    /// Takes a sample of what came into each exchange, and out of it.
    pub fn look_at_exchanges(&self, at_ms: u64) {
        self.default_exchange.look(at_ms);
        self.topology.read().exchanges.values().for_each(|exchange| exchange.counted.look(at_ms));
    }

    pub fn exchange(&self, name: &str) -> Option<Listed> {
        match name {
            "" => Some(Listed::default_exchange(&self.default_exchange)),
            name => self.topology.read().exchanges.get(name).map(Listed::of),
        }
    }

    /// All bindings with their sources, in no order; also those that the default exchange has to every queue.
    pub fn bindings(&self) -> Vec<(Arc<str>, Binding)> {
        let topology = self.topology.read();
        let own = topology.queues.keys().map(|queue| {
            let (destination, arguments) = (Destination::Queue(Arc::clone(queue)), Table::default());
            ("".into(), Binding { destination, routing_key: Arc::clone(queue), arguments })
        });
        let of_exchanges = topology.exchanges.values().flat_map(|exchange| {
            exchange.router.bindings().map(|binding| (Arc::clone(&exchange.name), binding.clone()))
        });
        own.chain(of_exchanges).collect()
    }
}
