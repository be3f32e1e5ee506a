//! What a document speaks of without holding it. That may well be in the broker already, so it's told and no mistake.

use std::collections::{BTreeSet, HashSet};

use super::read::{Lined, Reading};
use super::{Binding, DestinationType, Document};

/// Warns of bindings between what isn't there, and of virtual hosts and users that aren't.
pub fn references(document: &Document, bindings: &[Lined<Binding>], reading: &mut Reading<'_>) {
    let queues: HashSet<_> = document.queues.iter().map(|queue| (&*queue.vhost, &*queue.name)).collect();
    let exchanges: HashSet<_> = document.exchanges.iter().map(|exchange| (&*exchange.vhost, &*exchange.name)).collect();
    for (line, binding) in bindings {
        let has_exchange = |name: &str| name.starts_with("amq.") || exchanges.contains(&(&*binding.vhost, name));
        let has_destination = match binding.destination_type {
            DestinationType::Queue => queues.contains(&(&*binding.vhost, &*binding.destination)),
            DestinationType::Exchange => has_exchange(&binding.destination),
        };
        let kind = match binding.destination_type {
            DestinationType::Queue => "queue",
            DestinationType::Exchange => "exchange",
        };
        let missing = [
            (!has_exchange(&binding.source), "exchange", &binding.source),
            (!has_destination, kind, &binding.destination),
        ];
        for (is_missing, kind, name) in missing {
            if is_missing {
                let what = format!("{kind} '{name}' in vhost '{}' is not in this document", binding.vhost);
                reading.warn(*line, "bindings", what);
            }
        }
    }
    names(document, reading);
}

/// Users and virtual hosts are told of once each; a document of topology alone would be nothing but warnings.
fn names(document: &Document, reading: &mut Reading<'_>) {
    if !reading.names_vhosts() {
        return;
    }
    let vhosts = document.queues.iter().map(|queue| &queue.vhost);
    let vhosts = vhosts.chain(document.exchanges.iter().map(|exchange| &exchange.vhost));
    let vhosts = vhosts.chain(document.policies.iter().map(|policy| &policy.vhost));
    let vhosts = vhosts.chain(document.permissions.iter().map(|permission| &permission.vhost));
    let there: HashSet<_> = document.vhosts.iter().map(|vhost| &vhost.name).collect();
    let missing: BTreeSet<_> = vhosts.filter(|vhost| !there.contains(vhost)).collect();
    for vhost in missing {
        reading.warn_of_whole(format!("vhost '{vhost}' is not in this document"));
    }
    let users = document.permissions.iter().map(|permission| &permission.user);
    let users = users.chain(document.topic_permissions.iter().map(|permission| &permission.user));
    let there: HashSet<_> = document.users.iter().map(|user| &user.name).collect();
    let missing: BTreeSet<_> = users.filter(|user| !there.contains(user)).collect();
    for user in missing {
        reading.warn_of_whole(format!("user '{user}' is not in this document"));
    }
}
