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
use crate::refusal::Refusal;
use crate::store::{Change, Committed};
use parking_lot::RwLockWriteGuard;
use std::sync::Arc;

/// A queue that has another policy of a kind, or none any more.
type Changed = (Arc<Queue>, Option<Arc<Policy>>);

impl Vhost {
    /// Adds a policy, or puts it in the place of the one of its kind and name. `user`: who does it. The answer is to be
    /// waited for. Refused only in a virtual host that is deleted.
    pub fn set_policy(&self, policy: Policy, user: &str) -> Result<Committed, Refusal> {
        let put = records::put_policy(&self.name, &policy);
        let told = policy.clone();
        let (committed, changed) = self.change_policies(policy.kind, |topology| {
            if let Err(refusal) = topology.check_open(&self.name) {
                return (Err(refusal), false);
            }
            // A file of definitions says the same at every start.
            let is_new = topology.policies.get(policy.kind, &policy.name).is_none_or(|known| **known != policy);
            topology.policies.set(policy);
            (Ok(self.house.store.change(vec![put])), is_new)
        });
        // What changes nothing is not told.
        if let Some(changed) = changed {
            if told.kind == Kind::Operator {
                self.events().operator_policy_set(&self.name, &told, user);
            }
            self.tell_changed(&changed, user);
            self.events().policy_set(&self.name, &told, user);
        }
        committed
    }

    /// Takes a policy away; `None` if it was not there.
    pub fn clear_policy(&self, kind: Kind, name: &str, user: &str) -> Option<Committed> {
        let key = records::policy_key(&self.name, kind, name);
        let (committed, changed) = self.change_policies(kind, |topology| {
            let committed =
                topology.policies.clear(kind, name).then(|| self.house.store.change(vec![Change::Delete(key)]));
            let was_there = committed.is_some();
            (committed, was_there)
        });
        if let Some(changed) = changed {
            if kind == Kind::Operator {
                self.events().parameter_cleared(&self.name, kind.component(), name, user);
            }
            self.tell_changed(&changed, user);
            self.events().policy_cleared(&self.name, kind, name, user);
        }
        committed
    }

    fn tell_changed(&self, changed: &[Changed], user: &str) {
        for (queue, policy) in changed {
            self.events().queue_policy(queue, policy.as_deref(), user);
        }
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

    /// `change` says beside its answer whether anything is different now. If so, the answer comes with the queues that
    /// have another policy of the kind.
    fn change_policies<T>(
        &self,
        kind: Kind,
        change: impl FnOnce(&mut Topology) -> (T, bool),
    ) -> (T, Option<Vec<Changed>>) {
        let mut acts = Acts::default();
        let mut changed = Vec::new();
        let answer = {
            let _turn = self.policy_turn.lock();
            let (answer, is_different, due) = {
                let mut topology = self.topology.write();
                let (answer, is_different) = change(&mut topology);
                if is_different && topology.apply_to_exchanges() {
                    self.rerouted();
                }
                // Messages are routed again while many queues are looked at.
                let topology = RwLockWriteGuard::downgrade(topology);
                (answer, is_different, if is_different { topology.due_for_queues() } else { Vec::new() })
            };
            for (queue, settings) in due {
                let policy = of_kind(&settings.applied, kind).cloned();
                if of_kind(&queue.settings().applied, kind) != policy.as_ref() {
                    changed.push((Arc::clone(&queue), policy));
                }
                queue.change(settings, &mut acts);
            }
            (answer, is_different.then_some(changed))
        };
        acts.run();
        answer
    }
}

fn of_kind(applied: &Applied, kind: Kind) -> Option<&Arc<Policy>> {
    match kind {
        Kind::User => applied.policy.as_ref(),
        Kind::Operator => applied.operator_policy.as_ref(),
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
