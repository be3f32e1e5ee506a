//! Puts a document into a broker (RabbitMQ: "Schema Definition Export and Import").
//!
//! Users, permissions, policies and parameters replace what is there under their names. Exchanges and queues that are
//! there stay as they are, whatever the document says of them: importing twice is no error.

use super::plan::{BindingKey, Plan};
use super::{Document, Exchange, Queue};
use crate::broker::Broker;
use crate::policy::{self, Policy};
use crate::queue::settings::QueueType;
use crate::refusal::Refusal;
use crate::store::Committed;
use crate::vhost::declare::{ExchangeWish, QueueWish};
use crate::vhost::{Actor, Metadata, Vhost, VhostLimits};
use serde_json::{Map, Value as Json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Takes over everything in the document. The answer is to be waited for: then all of it is on disk. `by`: who does it.
///
/// The error says everything for which the document is refused, and then nothing of it was used; unless the broker changes
/// at the same time, when it names the first thing that could not be taken and what came before it stays.
pub fn import(broker: &Broker, document: &Document, by: &str) -> Result<Vec<Committed>, Vec<String>> {
    let plan = Plan::of(broker, document);
    if !plan.mistakes.is_empty() {
        return Err(plan.mistakes);
    }
    let mut import = Import { broker, document, by, committed: Vec::new() };
    match import.run() {
        Ok(()) => Ok(import.committed),
        Err(mistake) => Err(vec![mistake]),
    }
}

struct Import<'a> {
    broker: &'a Broker,
    document: &'a Document,
    by: &'a str,
    committed: Vec<Committed>,
}

impl Import<'_> {
    fn run(&mut self) -> Result<(), String> {
        self.vhosts()?;
        self.users()?;
        // Before queues and exchanges are declared, so that they have their policies from the start: some are parameters.
        self.parameters()?;
        self.policies()?;
        self.exchanges()?;
        self.queues()?;
        self.bindings()
    }

    fn note(&mut self, what: impl FnOnce() -> String, done: Result<Committed, Refusal>) -> Result<(), String> {
        self.committed.push(done.map_err(|refusal| format!("{}: {refusal}", what()))?);
        Ok(())
    }

    fn vhosts(&mut self) -> Result<(), String> {
        for row in &self.document.vhosts {
            let metadata = Metadata {
                description: row.metadata.description.clone(),
                tags: row.metadata.tags.clone(),
                default_queue_type: row.metadata.default_queue_type.as_deref().and_then(QueueType::parse),
                protected_from_deletion: row.metadata.protected_from_deletion,
            };
            let put = self.broker.put_vhost(&row.name, metadata, self.by);
            self.note(|| format!("vhost '{}'", row.name), put.map(|(_, committed)| committed))?;
            if !row.limits.is_empty() {
                let limits = VhostLimits::from_json(&serde_json::json!(row.limits));
                let set = self.broker.change_vhost_limits(&row.name, |own| *own = limits, self.by);
                self.note(|| format!("limits of vhost '{}'", row.name), set)?;
            }
            if let (Some(traced), Some(vhost)) = (row.tracing, self.broker.vhost(&row.name)) {
                vhost.trace(traced);
            }
        }
        Ok(())
    }

    fn users(&mut self) -> Result<(), String> {
        for user in &self.document.users {
            self.committed.extend(self.broker.put_user(user.clone(), self.by));
        }
        for row in &self.document.permissions {
            let what = || format!("permission of user '{}' in vhost '{}'", row.user, row.vhost);
            self.note(what, self.broker.set_permission(row.clone(), self.by))?;
        }
        for row in &self.document.topic_permissions {
            let what = || format!("topic permission of user '{}' in vhost '{}'", row.user, row.vhost);
            self.note(what, self.broker.set_topic_permission(row.clone(), self.by))?;
        }
        Ok(())
    }

    fn parameters(&mut self) -> Result<(), String> {
        for row in &self.document.parameters {
            let what = || format!("{} '{}' in vhost '{}'", row.component, row.name, row.vhost);
            let vhost = self.vhost(&row.vhost)?;
            let kept = self.broker.keep_parameter(&vhost, &row.component, &row.name, row.value.clone(), self.by);
            self.note(what, kept)?;
        }
        for row in &self.document.global_parameters {
            self.committed.push(self.broker.set_global_parameter(&row.name, row.value.clone(), self.by).1);
        }
        Ok(())
    }

    fn policies(&mut self) -> Result<(), String> {
        for row in &self.document.policies {
            let fields = match serde_json::to_value(row) {
                Ok(Json::Object(fields)) => fields,
                _ => Map::new(),
            };
            let what = || format!("policy '{}' in vhost '{}'", row.name, row.vhost);
            let policy = Policy::parse(policy::Kind::User, &row.name, &fields);
            let policy = policy.map_err(|mistakes| format!("{}: {mistakes}", what()))?;
            let vhost = self.vhost(&row.vhost)?;
            self.note(what, vhost.set_policy(policy, self.by))?;
        }
        Ok(())
    }

    fn exchanges(&mut self) -> Result<(), String> {
        let actor = self.actor();
        for row in &self.document.exchanges {
            let vhost = self.vhost(&row.vhost)?;
            if row.name.is_empty() || row.name.starts_with("amq.") || vhost.exchange(&row.name).is_some() {
                continue;
            }
            let declared = vhost.declare_exchange(&actor, &row.name, &ExchangeWish::from(row));
            let (_, waits) = declared.map_err(|refusal| format!("exchange '{}': {refusal}", row.name))?;
            self.committed.extend(waits);
        }
        Ok(())
    }

    fn queues(&mut self) -> Result<(), String> {
        let actor = self.actor();
        for row in &self.document.queues {
            let vhost = self.vhost(&row.vhost)?;
            if row.name.starts_with("amq.") || vhost.queue_named(&row.name).is_some() {
                continue;
            }
            let declared = vhost.declare_queue(&actor, &row.name, QueueWish::from(row));
            let (_, waits) = declared.map_err(|refusal| format!("queue '{}': {refusal}", row.name))?;
            self.committed.extend(waits);
        }
        Ok(())
    }

    fn bindings(&mut self) -> Result<(), String> {
        let actor = self.actor();
        let mut there: HashMap<&str, HashSet<BindingKey>> = HashMap::new();
        for row in &self.document.bindings {
            let vhost = self.vhost(&row.vhost)?;
            // The default exchange's bindings are there by themselves.
            if row.source.is_empty() {
                continue;
            }
            let binding = row.binding();
            let there = there.entry(&row.vhost).or_insert_with(|| BindingKey::of_vhost(&vhost).collect());
            if there.contains(&BindingKey::new(&row.vhost, &row.source, &binding)) {
                continue;
            }
            let bound = vhost.bind(&actor, &row.source, binding);
            let what = || format!("binding of '{}' to '{}'", row.destination, row.source);
            let ((), waits) = bound.map_err(|refusal| format!("{}: {refusal}", what()))?;
            self.committed.extend(waits);
        }
        Ok(())
    }

    fn vhost(&self, name: &str) -> Result<Arc<Vhost>, String> {
        self.broker.vhost(name).ok_or_else(|| format!("there is no virtual host '{name}'"))
    }

    /// Everything may be done, in the name of who asks.
    fn actor(&self) -> Actor {
        Actor { user: self.by.into(), ..Actor::of_the_house() }
    }
}

impl From<&Exchange> for ExchangeWish {
    fn from(row: &Exchange) -> Self {
        Self {
            kind: row.exchange_type.clone(),
            durable: row.durable,
            auto_delete: row.auto_delete,
            internal: row.internal,
            arguments: row.arguments.clone(),
        }
    }
}

impl From<&Queue> for QueueWish {
    fn from(row: &Queue) -> Self {
        let mut arguments = row.arguments.clone();
        if let Some(kind) = &row.queue_type
            && !arguments.contains_key("x-queue-type")
        {
            let kind = crate::amqp::Value::LongString(kind.as_str().into());
            arguments.insert("x-queue-type".into(), kind);
        }
        Self { durable: row.durable, exclusive: false, auto_delete: row.auto_delete, arguments }
    }
}
