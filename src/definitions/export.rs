//! Takes a document out of a broker (RabbitMQ: "Schema Definition Export and Import"). What is there from the start or
//! ends with its connection is left out, and so are internal exchanges, as RabbitMQ does.

use super::{Binding, DestinationType, Document, Exchange, Policy, Queue, SINGLE_VIRTUAL_HOST, VhostMetadata};
use crate::broker::Broker;
use crate::exchange::Destination;
use crate::policy;
use crate::vhost::Vhost;
use std::sync::Arc;

/// Everything that is defined.
pub fn export(broker: &Broker) -> Document {
    let vhosts = broker.list_vhosts();
    let cluster_name = broker.cluster_name();
    let mut document = Document {
        rabbitmq_definition_format: Some("cluster".to_owned()),
        explanation: Some(format!("Definitions of cluster '{cluster_name}'")),
        original_cluster_name: Some(cluster_name),
        users: broker.users.list().iter().map(|user| (**user).clone()).collect(),
        vhosts: vhosts.iter().map(|vhost| described(vhost)).collect(),
        permissions: broker.users.permissions(),
        topic_permissions: broker.users.topic_permissions(),
        global_parameters: broker.global_parameters(),
        ..of_broker(broker)
    };
    vhosts.iter().for_each(|vhost| add(broker, vhost, &mut document));
    document
}

/// What is defined in one virtual host.
pub fn export_vhost(broker: &Broker, vhost: &Arc<Vhost>) -> Document {
    let mut document = Document {
        rabbitmq_definition_format: Some(SINGLE_VIRTUAL_HOST.to_owned()),
        explanation: Some(format!("Definitions of virtual host '{}'", vhost.name)),
        original_vhost_name: Some(vhost.name.to_string()),
        vhosts: vec![described(vhost)],
        ..of_broker(broker)
    };
    add(broker, vhost, &mut document);
    document
}

fn of_broker(broker: &Broker) -> Document {
    let version = || Some(broker.config.product_version.clone());
    Document {
        rabbit_version: version(),
        rabbitmq_version: version(),
        product_name: Some(broker.config.product_name.clone()),
        product_version: version(),
        ..Document::default()
    }
}

fn described(vhost: &Vhost) -> super::Vhost {
    let metadata = vhost.metadata();
    let limits = vhost.limits().to_json();
    super::Vhost {
        name: vhost.name.to_string(),
        tracing: None,
        limits: limits.iter().filter_map(|(name, limit)| Some((name.clone(), limit.as_i64()?))).collect(),
        metadata: VhostMetadata {
            description: metadata.description,
            tags: metadata.tags,
            default_queue_type: Some(vhost.default_queue_type().name().to_owned()),
            protected_from_deletion: metadata.protected_from_deletion,
        },
    }
}

fn add(broker: &Broker, vhost: &Arc<Vhost>, document: &mut Document) {
    let name = || vhost.name.to_string();
    let is_predeclared = |name: &str| name.is_empty() || name.starts_with("amq.");
    // A user's policies have a section of their own.
    let parameters = broker.parameters(vhost).into_iter();
    document.parameters.extend(parameters.filter(|row| row.component != policy::Kind::User.component()));
    document.policies.extend(vhost.policies(policy::Kind::User).iter().map(|policy| Policy {
        vhost: name(),
        name: policy.name.to_string(),
        pattern: policy.pattern.as_str().to_owned(),
        apply_to: policy.apply_to.name().to_owned(),
        priority: policy.priority,
        definition: policy.definition.as_map().clone(),
    }));
    let mut queues = vhost.queues();
    queues.retain(|queue| queue.identity.exclusive.is_none());
    queues.sort_unstable_by(|one, other| one.identity.name.cmp(&other.identity.name));
    document.queues.extend(queues.iter().map(|queue| Queue {
        vhost: name(),
        name: queue.identity.name.to_string(),
        queue_type: Some(queue.settings().queue_type.name().to_owned()),
        durable: queue.identity.durable,
        auto_delete: queue.identity.auto_delete,
        arguments: queue.identity.arguments.clone(),
    }));
    let mut exchanges = vhost.exchanges();
    exchanges.retain(|exchange| !is_predeclared(&exchange.name) && !exchange.internal);
    exchanges.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    document.exchanges.extend(exchanges.into_iter().map(|exchange| Exchange {
        vhost: name(),
        name: exchange.name.to_string(),
        exchange_type: exchange.kind.name().to_owned(),
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        arguments: exchange.arguments,
    }));
    let is_exclusive = |queue: &Arc<str>| !queues.iter().any(|known| known.identity.name == *queue);
    for (source, binding) in vhost.bindings() {
        let (destination_type, destination) = match &binding.destination {
            Destination::Queue(queue) if is_exclusive(queue) => continue,
            Destination::Queue(name) => (DestinationType::Queue, name),
            Destination::Exchange(name) => (DestinationType::Exchange, name),
        };
        if !source.is_empty() {
            document.bindings.push(Binding {
                source: source.to_string(),
                vhost: name(),
                destination: destination.to_string(),
                destination_type,
                routing_key: binding.routing_key.to_string(),
                arguments: binding.arguments,
            });
        }
    }
}
