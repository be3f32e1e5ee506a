//! A virtual host's policies, and what happens to queues and exchanges when they change.
//!
//! Every change matches all queues and exchanges anew (`rabbit_policy:update_matched_objects`). An exchange has its
//! alternate exchange changed in the topology; a queue is told its new settings by one call, without the topology's
//! lock.

use super::topology::Topology;
use super::{Vhost, records};
use crate::policy::{Applied, Kind, Policy};
use crate::queue::Queue;
use crate::queue::classic::Acts;
use crate::queue::settings::{QueueType, Settings};
use crate::store::{Change, Committed};
use parking_lot::RwLockWriteGuard;
use std::sync::Arc;

impl Vhost {
    /// Adds a policy, or puts it in the place of the one of its kind and name. The answer is to be waited for.
    pub fn set_policy(&self, policy: Policy) -> Committed {
        let put = records::put_policy(&self.name, &policy);
        self.change_policies(|topology| {
            // A file of definitions says the same at every start.
            let is_new = topology.policies.get(policy.kind, &policy.name).is_none_or(|known| **known != policy);
            topology.policies.set(policy);
            (self.house.store.change(vec![put]), is_new)
        })
    }

    /// Takes a policy away; `None` if it was not there.
    pub fn clear_policy(&self, kind: Kind, name: &str) -> Option<Committed> {
        let key = records::policy_key(&self.name, kind, name);
        self.change_policies(|topology| {
            let committed =
                topology.policies.clear(kind, name).then(|| self.house.store.change(vec![Change::Delete(key)]));
            let was_there = committed.is_some();
            (committed, was_there)
        })
    }

    /// Those of a kind, by name.
    pub fn policies(&self, kind: Kind) -> Vec<Arc<Policy>> {
        self.topology.read().policies.list(kind).cloned().collect()
    }

    pub fn policy(&self, kind: Kind, name: &str) -> Option<Arc<Policy>> {
        self.topology.read().policies.get(kind, name).cloned()
    }

    /// The policies of an exchange; `None` if it is not there. A queue's are in its settings.
    pub fn policies_of_exchange(&self, name: &str) -> Option<Applied> {
        self.topology.read().exchanges.get(name).map(|exchange| exchange.applied.clone())
    }

    /// Brings a policy back, before the queues and exchanges that it is for.
    pub fn recover_policy(&self, policy: Policy) {
        let mut topology = self.topology.write();
        topology.policies.set(policy);
        topology.apply_to_exchanges();
    }

    /// `change` says beside its answer whether anything is different now.
    fn change_policies<T>(&self, change: impl FnOnce(&mut Topology) -> (T, bool)) -> T {
        let mut acts = Acts::default();
        let answer = {
            let _turn = self.policy_turn.lock();
            let (answer, due) = {
                let mut topology = self.topology.write();
                let (answer, is_different) = change(&mut topology);
                if is_different && topology.apply_to_exchanges() {
                    self.changed();
                }
                // Messages are routed again while many queues are looked at.
                let topology = RwLockWriteGuard::downgrade(topology);
                (answer, if is_different { topology.due_for_queues() } else { Vec::new() })
            };
            for (queue, settings) in due {
                queue.change(settings, &mut acts);
            }
            answer
        };
        acts.run();
        answer
    }
}

impl Topology {
    /// Says whether messages may go another way now.
    fn apply_to_exchanges(&mut self) -> bool {
        let mut moved = false;
        for exchange in self.exchanges.values_mut() {
            moved |= exchange.apply(self.policies.for_exchange(&exchange.name));
        }
        moved
    }

    /// The queues whose settings are others by now.
    fn due_for_queues(&self) -> Vec<(Arc<Queue>, Settings)> {
        let due = self.queues.values().filter_map(|queue| {
            let arguments = &queue.identity.arguments;
            let applied = self.policies.for_queue(&queue.identity.name, QueueType::of(arguments));
            let settings = Settings::with_policy(arguments, applied);
            (settings != *queue.settings()).then(|| (Arc::clone(queue), settings))
        });
        due.collect()
    }
}
