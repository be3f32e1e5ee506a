//! A virtual host ends, with everything in it.

use super::topology::Removed;
use super::{Vhost, records};
use crate::policy::Kind;
use crate::queue::classic::Acts;
use crate::store::Change;

impl Vhost {
    /// Deletes all queues, exchanges, bindings and policies; nothing is declared any more. The changes are for the store, as
    /// one batch. `user`: who does it.
    pub fn end(&self, user: &str) -> Vec<Change> {
        let queues: Vec<_> = {
            let mut topology = self.topology.write();
            topology.ended = true;
            topology.queues.values().cloned().collect()
        };
        let mut changes = Vec::new();
        let mut acts = Acts::default();
        for queue in queues {
            // Somebody else may delete it at the same time, and then takes it out of the books.
            if queue.delete(|_| Ok::<(), ()>(()), &mut acts).is_some() {
                changes.extend(self.unbook_queue(&queue, user, |changes| changes).into_iter().flatten());
            }
        }
        acts.run();
        let mut removed = Removed::default();
        let policies = {
            let mut topology = self.topology.write();
            let exchanges: Vec<_> = topology.exchanges.keys().cloned().collect();
            exchanges.iter().for_each(|name| topology.remove_exchange(name, &mut removed));
            std::mem::take(&mut topology.policies)
        };
        self.changed();
        self.events().removed(&self.name, &removed, user);
        let mut acts = Acts::default();
        changes.extend(self.removal(&removed, true, &mut acts));
        acts.run_aside();
        for kind in [Kind::User, Kind::Operator] {
            for policy in policies.list(kind) {
                changes.push(Change::Delete(records::policy_key(&self.name, kind, &policy.name)));
                self.events().policy_cleared(&self.name, kind, &policy.name, user);
            }
        }
        changes
    }
}
