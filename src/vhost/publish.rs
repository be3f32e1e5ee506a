//! Where does a message go?

use super::Vhost;
use super::topology::Topology;
use crate::amqp::table::Fields;
use crate::exchange::Destination;
use crate::queue::Queue;
use crate::refusal::Refusal;
use smallvec::SmallVec;
use std::sync::Arc;

/// The queues a message reaches, each once.
pub type Targets = SmallVec<[Arc<Queue>; 2]>;

/// A route, and whether every message with the same exchange and routing key takes it.
#[derive(Debug, Clone)]
pub struct Route {
    pub targets: Targets,
    pub cacheable: bool,
}

impl Vhost {
    /// Routes a message by all its keys (the routing key, then `CC` and `BCC`). `by_client` refuses internal exchanges.
    ///
    /// Exchanges bound to exchanges are followed, each once, so cycles end; an exchange that matches nothing hands on
    /// to its alternate (RabbitMQ: "Alternate Exchanges").
    pub fn route<'k>(
        &self,
        exchange: &str,
        keys: impl Iterator<Item = &'k str> + Clone,
        headers: Option<Fields<'_>>,
        by_client: bool,
    ) -> Result<Route, Refusal> {
        let topology = self.topology.read();
        let mut route = Route { targets: Targets::new(), cacheable: true };
        if exchange.is_empty() {
            for key in keys {
                if let Some(queue) = topology.queues.get(key) {
                    add(&mut route.targets, queue);
                }
            }
            return Ok(route);
        }
        let first = topology.exchanges.get(exchange).ok_or_else(|| self.no_exchange(exchange))?;
        if by_client && first.internal {
            let name = &self.name;
            return Err(Refusal::access(format!("cannot publish to internal exchange '{exchange}' in vhost '{name}'")));
        }
        let mut seen: SmallVec<[Arc<str>; 4]> = SmallVec::new();
        seen.push(Arc::clone(&first.name));
        let mut at = 0;
        while let Some(name) = seen.get(at) {
            at += 1;
            let Some(exchange) = topology.exchanges.get(name) else { continue };
            route.cacheable &= !exchange.router.depends_on_headers();
            let mut matched = false;
            for key in keys.clone() {
                exchange.router.route(key, headers, &mut |destination| {
                    matched = true;
                    follow(&topology, destination, &mut route.targets, &mut seen);
                });
            }
            if let (false, Some(alternate)) = (matched, &exchange.alternate) {
                follow(&topology, &Destination::Exchange(Arc::clone(alternate)), &mut route.targets, &mut seen);
            }
        }
        Ok(route)
    }

    pub(super) fn no_exchange(&self, name: &str) -> Refusal {
        Refusal::not_found(format!("no exchange '{name}' in vhost '{}'", self.name))
    }

    pub(super) fn no_queue(&self, name: &str) -> Refusal {
        Refusal::not_found(format!("no queue '{name}' in vhost '{}'", self.name))
    }
}

fn follow(topology: &Topology, to: &Destination, targets: &mut Targets, seen: &mut SmallVec<[Arc<str>; 4]>) {
    match to {
        Destination::Queue(name) => {
            if let Some(queue) = topology.queues.get(name) {
                add(targets, queue);
            }
        }
        // As alternate, the name may be that of the default exchange, or of none.
        Destination::Exchange(name) => {
            if !seen.contains(name) {
                seen.push(Arc::clone(name));
            }
        }
    }
}

/// Few targets are looked through; many are told apart by their number at the end.
fn add(targets: &mut Targets, queue: &Arc<Queue>) {
    if !targets.iter().any(|known| Arc::ptr_eq(known, queue)) {
        targets.push(Arc::clone(queue));
    }
}
