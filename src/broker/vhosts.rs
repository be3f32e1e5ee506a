//! Virtual hosts as they come, change and go.

use super::{Broker, read};
use crate::queue::settings::QueueType;
use crate::refusal::{Reason, Refusal};
use crate::store::keys::{Definition, Kind};
use crate::store::{Change, Committed};
use crate::vhost::records::{ParameterRecord, put};
use crate::vhost::{Metadata, Vhost, VhostLimits};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// The runtime parameter that holds a virtual host's limits: its component and its name.
pub const LIMITS: (&str, &str) = ("vhost-limits", "limits");

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VhostRecord {
    pub name: String,
    /// The type of queues that don't say theirs, if it is not the broker's.
    #[serde(default)]
    default_queue_type: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    protected_from_deletion: bool,
}

impl VhostRecord {
    fn of(name: &str, metadata: &Metadata) -> Self {
        Self {
            name: name.to_owned(),
            default_queue_type: metadata.default_queue_type.map(|kind| kind.name().to_owned()),
            description: metadata.description.clone(),
            tags: metadata.tags.clone(),
            protected_from_deletion: metadata.protected_from_deletion,
        }
    }

    pub fn metadata(&self) -> Metadata {
        Metadata {
            description: self.description.clone(),
            tags: self.tags.clone(),
            default_queue_type: self.default_queue_type.as_deref().and_then(QueueType::parse),
            protected_from_deletion: self.protected_from_deletion,
        }
    }
}

fn vhost_key(name: &str) -> Definition {
    Definition::new(Kind::Vhost, &[name.as_bytes()])
}

fn limits_key(vhost: &str) -> Definition {
    Definition::new(Kind::Parameter, &[LIMITS.0.as_bytes(), vhost.as_bytes(), LIMITS.1.as_bytes()])
}

impl VhostLimits {
    /// As the runtime parameter has them: what is missing or negative is no limit.
    pub fn from_json(value: &Json) -> Self {
        let limit =
            |name: &str| value.get(name).and_then(Json::as_u64).map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
        Self { max_connections: limit("max-connections"), max_queues: limit("max-queues") }
    }

    /// The other way round.
    pub fn to_json(self) -> Map<String, Json> {
        let limits = [("max-connections", self.max_connections), ("max-queues", self.max_queues)];
        limits.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), limit?.into()))).collect()
    }
}

/// `by` is who does it. What is `Committed` is to be waited for: then it is on disk.
impl Broker {
    pub fn vhost(&self, name: &str) -> Option<Arc<Vhost>> {
        self.vhosts.read().get(name).cloned()
    }

    /// All virtual hosts, by name.
    pub fn list_vhosts(&self) -> Vec<Arc<Vhost>> {
        let mut all: Vec<_> = self.vhosts.read().values().cloned().collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Adds a virtual host, or changes what is said of the one that is there; says whether it is new. Refused if there
    /// are as many as there may be.
    pub fn put_vhost(&self, name: &str, metadata: Metadata, by: &str) -> Result<(bool, Committed), Refusal> {
        let record = VhostRecord::of(name, &metadata);
        let changing = self.changing_vhosts.lock();
        let (vhost, is_new, committed) = {
            let mut vhosts = self.vhosts.write();
            let known = vhosts.get(name).cloned();
            let is_new = known.is_none();
            if let Some(limit) = self.config.vhost_max.filter(|limit| is_new && vhosts.len() >= *limit as usize) {
                let text = format!("cannot create vhost '{name}': vhost limit of {limit} is reached");
                return Err(Refusal::precondition(text));
            }
            let vhost = known.unwrap_or_else(|| Vhost::new(name, &self.house));
            vhost.set_metadata(metadata);
            vhosts.insert(Arc::clone(&vhost.name), Arc::clone(&vhost));
            (vhost, is_new, self.house.store.change(vec![put(vhost_key(name), &record)]))
        };
        drop(changing);
        vhost.tell_set(is_new, by);
        Ok((is_new, committed))
    }

    /// Removes a virtual host with everything in it, and closes its connections. Refused if it is protected, or not there.
    pub fn delete_vhost(&self, name: &str, by: &str) -> Result<Committed, Refusal> {
        let changing = self.changing_vhosts.lock();
        let vhost = {
            let mut vhosts = self.vhosts.write();
            let vhost = vhosts.get(name).ok_or_else(|| no_vhost(name))?;
            if vhost.metadata().protected_from_deletion {
                let text = format!(
                    "Cannot delete virtual host '{name}': it is protected from deletion. To lift the protection, update its metadata"
                );
                return Err(Refusal::new(Reason::Precondition, text));
            }
            let vhost = Arc::clone(vhost);
            vhosts.remove(name);
            // With the lock held, so that the sum of all never shrinks.
            self.statistics.absorb(vhost.totals());
            vhost
        };
        tracing::info!("closing all connections in vhost '{name}', which is deleted");
        let reason = format!("vhost '{name}' is deleted");
        self.connections.each_open(|opened| Arc::ptr_eq(&opened.vhost, &vhost), |connection| connection.close(&reason));
        // One batch: after a crash all of it is there, or nothing.
        let mut changes = self.revoke_in(name, by);
        changes.extend(vhost.end(by));
        changes.extend(self.parameters_in(name));
        self.parameters.forget(name);
        changes.push(Change::Delete(vhost_key(name)));
        let committed = self.house.store.change(changes);
        drop(changing);
        self.house.events.vhost_deleted(name, by);
        Ok(committed)
    }

    /// The deletions of a virtual host's parameters.
    fn parameters_in(&self, vhost: &str) -> Vec<Change> {
        let records = read::<ParameterRecord>(&self.house.store, Kind::Parameter).unwrap_or_default();
        let own = records.iter().filter(|record| record.vhost == vhost);
        own.map(|record| {
            let names = [&record.component, &record.vhost, &record.name].map(|name| name.as_bytes());
            Change::Delete(Definition::new(Kind::Parameter, &names))
        })
        .collect()
    }

    /// Changes a virtual host's limits. They count for what is opened or declared from now on.
    pub fn change_vhost_limits(
        &self,
        name: &str,
        change: impl FnOnce(&mut VhostLimits),
        by: &str,
    ) -> Result<Committed, Refusal> {
        let changing = self.changing_vhosts.lock();
        let vhost = self.vhost(name).ok_or_else(|| no_vhost(name))?;
        let (component, parameter) = LIMITS;
        let (limits, committed) = vhost.change_limits(|limits| {
            change(limits);
            let value = limits.to_json();
            let change = match value.is_empty() {
                true => Change::Delete(limits_key(name)),
                false => put(
                    limits_key(name),
                    &ParameterRecord {
                        vhost: name.to_owned(),
                        component: component.to_owned(),
                        name: parameter.to_owned(),
                        value: Json::Object(value),
                    },
                ),
            };
            (*limits, self.house.store.change(vec![change]))
        });
        drop(changing);
        let events = &self.house.events;
        let value = limits.to_json();
        if value.is_empty() {
            events.parameter_cleared(name, component, parameter, by);
            events.vhost_limits_cleared(name, by);
        } else {
            let value = Json::Object(value);
            events.parameter_set(Some(name), component, parameter, &value, by);
            events.vhost_limits_set(name, limits, by);
        }
        Ok(committed)
    }
}

fn no_vhost(name: &str) -> Refusal {
    Refusal::not_found(format!("no such vhost '{name}'"))
}
