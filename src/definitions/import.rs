//! Puts a document into a broker (RabbitMQ: "Schema Definition Export and Import").
//!
//! Users, permissions, policies and parameters replace what is there under their names. Exchanges and queues that are
//! there stay as they are, whatever the document says of them: importing twice is no error.

use super::{DestinationType, Document};
use crate::broker::Broker;
use crate::exchange::{self, Destination};
use crate::policy::{self, Policy};
use crate::queue::settings::QueueType;
use crate::store::Committed;
use crate::vhost::declare::{ExchangeWish, QueueWish};
use crate::vhost::events::HOUSE;
use crate::vhost::{Actor, Metadata, Vhost, VhostLimits};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// Takes over everything in the document. The answer is to be waited for: then all of it is on disk. An error names the
/// first thing that could not be taken; what came before it stays.
pub fn import(broker: &Broker, document: &Document) -> Result<Vec<Committed>, String> {
    let mut committed = Vec::new();
    for vhost in &document.vhosts {
        let metadata = Metadata {
            description: vhost.metadata.description.clone(),
            tags: vhost.metadata.tags.clone(),
            default_queue_type: vhost.metadata.default_queue_type.as_deref().and_then(QueueType::parse),
            protected_from_deletion: vhost.metadata.protected_from_deletion,
        };
        let put = broker.put_vhost(&vhost.name, metadata, HOUSE);
        committed.push(put.map_err(|refusal| refusal.text)?.1);
        if !vhost.limits.is_empty() {
            committed.push(limits(broker, &vhost.name, &serde_json::json!(vhost.limits))?);
        }
    }
    for user in &document.users {
        committed.extend(broker.put_user(user.clone(), HOUSE));
    }
    for row in &document.permissions {
        let what = || format!("permission of user '{}' in vhost '{}'", row.user, row.vhost);
        committed.push(broker.set_permission(row.clone(), HOUSE).map_err(|refusal| format!("{}: {refusal}", what()))?);
    }
    for row in &document.topic_permissions {
        let what = || format!("topic permission of user '{}' in vhost '{}'", row.user, row.vhost);
        let set = broker.set_topic_permission(row.clone(), HOUSE);
        committed.push(set.map_err(|refusal| format!("{}: {refusal}", what()))?);
    }
    // Before queues and exchanges are declared, so that they have their policies from the start: some are parameters.
    for row in &document.parameters {
        let what = || format!("{} '{}' in vhost '{}'", row.component, row.name, row.vhost);
        let vhost = find_vhost(broker, &row.vhost).map_err(|text| format!("{}: {text}", what()))?;
        let kept = broker.keep_parameter(&vhost, &row.component, &row.name, row.value.clone(), HOUSE);
        committed.push(kept.map_err(|refusal| format!("{}: {refusal}", what()))?);
    }
    for row in &document.global_parameters {
        committed.push(broker.set_global_parameter(&row.name, row.value.clone(), HOUSE).1);
    }
    policies(broker, document, &mut committed)?;
    topology(broker, document, &mut committed)?;
    Ok(committed)
}

fn policies(broker: &Broker, document: &Document, committed: &mut Vec<Committed>) -> Result<(), String> {
    for row in &document.policies {
        let fields = match serde_json::to_value(row) {
            Ok(Json::Object(fields)) => fields,
            _ => Map::new(),
        };
        let what = || format!("policy '{}' in vhost '{}'", row.name, row.vhost);
        let policy = Policy::parse(policy::Kind::User, &row.name, &fields);
        let policy = policy.map_err(|mistakes| format!("{}: {mistakes}", what()))?;
        let vhost = find_vhost(broker, &row.vhost).map_err(|text| format!("{}: {text}", what()))?;
        committed.push(vhost.set_policy(policy, HOUSE).map_err(|refusal| format!("{}: {refusal}", what()))?);
    }
    Ok(())
}

/// Sets a virtual host's limits.
fn limits(broker: &Broker, vhost: &str, value: &Json) -> Result<Committed, String> {
    let limits = VhostLimits::from_json(value);
    let set = broker.change_vhost_limits(vhost, |own| *own = limits, HOUSE);
    set.map_err(|refusal| format!("limits of vhost '{vhost}': {refusal}"))
}

fn find_vhost(broker: &Broker, name: &str) -> Result<Arc<Vhost>, String> {
    broker.vhost(name).ok_or_else(|| format!("there is no virtual host '{name}'"))
}

fn topology(broker: &Broker, document: &Document, committed: &mut Vec<Committed>) -> Result<(), String> {
    let vhost = |name: &str| find_vhost(broker, name);
    let actor = Actor::of_the_house();
    for row in &document.exchanges {
        let vhost = vhost(&row.vhost)?;
        if row.name.is_empty() || row.name.starts_with("amq.") || vhost.find_exchange(&actor, &row.name).is_ok() {
            continue;
        }
        let wish = ExchangeWish {
            kind: row.exchange_type.clone(),
            durable: row.durable,
            auto_delete: row.auto_delete,
            internal: row.internal,
            arguments: row.arguments.clone(),
        };
        let declared = vhost.declare_exchange(&actor, &row.name, &wish);
        let (_, waits) = declared.map_err(|refusal| format!("exchange '{}': {refusal}", row.name))?;
        committed.extend(waits);
    }
    for row in &document.queues {
        let vhost = vhost(&row.vhost)?;
        if row.name.starts_with("amq.") || vhost.find_queue(&actor, &row.name).is_ok() {
            continue;
        }
        let mut arguments = row.arguments.clone();
        if let Some(kind) = &row.queue_type
            && !arguments.contains_key("x-queue-type")
        {
            let kind = crate::amqp::Value::LongString(kind.as_str().into());
            arguments.insert("x-queue-type".into(), kind);
        }
        let wish = QueueWish { durable: row.durable, exclusive: false, auto_delete: row.auto_delete, arguments };
        let declared = vhost.declare_queue(&actor, &row.name, wish);
        let (_, waits) = declared.map_err(|refusal| format!("queue '{}': {refusal}", row.name))?;
        committed.extend(waits);
    }
    for row in &document.bindings {
        let vhost: Arc<Vhost> = vhost(&row.vhost)?;
        // The default exchange's bindings are there by themselves.
        if row.source.is_empty() {
            continue;
        }
        let name = Arc::from(row.destination.as_str());
        let binding = exchange::Binding {
            destination: match row.destination_type {
                DestinationType::Queue => Destination::Queue(name),
                DestinationType::Exchange => Destination::Exchange(name),
            },
            routing_key: row.routing_key.as_str().into(),
            arguments: row.arguments.clone(),
        };
        let bound = vhost.bind(&actor, &row.source, binding);
        let what = || format!("binding of '{}' to '{}'", row.destination, row.source);
        let ((), waits) = bound.map_err(|refusal| format!("{}: {refusal}", what()))?;
        committed.extend(waits);
    }
    Ok(())
}
