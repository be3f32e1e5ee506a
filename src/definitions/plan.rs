//! What importing a document would do to a broker: what would come, what would change, what stays although the document
//! says otherwise, and everything for which it would be refused.
//!
//! RabbitMQ imports one thing after the other and leaves what came before the first that it refuses. Here a document is
//! held against the broker as a whole before anything of it is used.

use super::{Binding, DestinationType, Document, arguments, export};
use crate::amqp::Table;
use crate::broker::Broker;
use crate::exchange::{self, Bound, Destination, Router, Type};
use crate::policy::{self, Policy};
use crate::queue::settings::QueueType;
use crate::vhost::declare::{ExchangeWish, QueueWish};
use crate::vhost::topology::Topology;
use crate::vhost::{Vhost, VhostLimits};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// What importing a document comes to.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// How many records say what is there already.
    pub unchanged: usize,
    /// Why nothing of it is taken, a sentence each.
    pub mistakes: Vec<String>,
}

/// A record that says something else than the broker.
#[derive(Debug, Serialize)]
pub struct Step {
    pub action: Action,
    /// `queue`, `policy` and so on.
    pub kind: &'static str,
    /// `None` for what is no virtual host's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost: Option<String>,
    pub name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    Change,
    /// What is there stays as it is: a queue or exchange can't be declared anew.
    Conflict,
}

/// A field in which they differ; fields of fields have dots. What may be a secret does not show.
#[derive(Debug, Serialize)]
pub struct Difference {
    pub field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Json>,
}

impl Plan {
    pub fn of(broker: &Broker, document: &Document) -> Self {
        let mut planning = Planning::new(broker, document);
        planning.vhosts();
        planning.users();
        planning.parameters();
        planning.policies();
        planning.exchanges();
        planning.queues();
        planning.bindings();
        planning.plan
    }
}

/// How bindings are the same in documents: the sizes of integers in their arguments are lost there, so a binding may come
/// back as another than it went.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct BindingKey(String);

impl BindingKey {
    pub fn new(vhost: &str, source: &str, binding: &exchange::Binding) -> Self {
        let (kind, destination) = match &binding.destination {
            Destination::Queue(name) => ("queue", name),
            Destination::Exchange(name) => ("exchange", name),
        };
        let arguments = arguments::to_json(&binding.arguments);
        Self(json!([vhost, source, kind, **destination, *binding.routing_key, arguments]).to_string())
    }

    /// Those that a virtual host has already.
    pub fn of_vhost(vhost: &Vhost) -> impl Iterator<Item = Self> {
        let name = Arc::clone(&vhost.name);
        vhost.bindings().into_iter().map(move |(source, binding)| Self::new(&name, &source, &binding))
    }
}

impl Binding {
    /// As the house knows it.
    pub(super) fn binding(&self) -> exchange::Binding {
        let name = Arc::from(self.destination.as_str());
        exchange::Binding {
            destination: match self.destination_type {
                DestinationType::Queue => Destination::Queue(name),
                DestinationType::Exchange => Destination::Exchange(name),
            },
            routing_key: self.routing_key.as_str().into(),
            arguments: self.arguments.clone(),
        }
    }
}

struct Planning<'a> {
    broker: &'a Broker,
    document: &'a Document,
    /// What is there now.
    current: Document,
    /// The virtual hosts that will be there.
    vhosts: HashSet<String>,
    /// What will be there, by virtual host and name.
    exchanges: HashMap<(&'a str, &'a str), Type>,
    queues: HashMap<(&'a str, &'a str), QueueType>,
    plan: Plan,
}

impl<'a> Planning<'a> {
    fn new(broker: &'a Broker, document: &'a Document) -> Self {
        let current = export(broker);
        let vhosts = current.vhosts.iter().chain(&document.vhosts).map(|vhost| vhost.name.clone()).collect();
        let (exchanges, queues) = (HashMap::new(), HashMap::new());
        Self { broker, document, current, vhosts, exchanges, queues, plan: Plan::default() }
    }

    fn mistake(&mut self, what: &str, why: impl std::fmt::Display) {
        self.plan.mistakes.push(format!("{what}: {why}"));
    }

    /// Notes how a record differs from what is there. `otherwise`: what becomes of it then.
    fn compare(
        &mut self,
        (kind, vhost, name): (&'static str, Option<&str>, &str),
        current: Option<Json>,
        wanted: &Json,
        otherwise: Action,
    ) {
        let (action, differences) = match current {
            None => (Action::Create, Vec::new()),
            Some(current) => (otherwise, differences(kind, &current, wanted)),
        };
        if action == otherwise && differences.is_empty() {
            self.plan.unchanged += 1;
            return;
        }
        let (vhost, name) = (vhost.map(str::to_owned), name.to_owned());
        self.plan.steps.push(Step { action, kind, vhost, name, differences });
    }

    /// Whether a record's virtual host will be there; a mistake if not.
    fn has_vhost(&mut self, what: &str, vhost: &str) -> bool {
        let is_there = self.vhosts.contains(vhost);
        if !is_there {
            self.mistake(what, format!("there is no virtual host '{vhost}'"));
        }
        is_there
    }

    fn vhosts(&mut self) {
        let document = self.document;
        let default = self.broker.config.default_queue_type.clone();
        for row in &document.vhosts {
            let what = format!("vhost '{}'", row.name);
            let queue_type = row.metadata.default_queue_type.as_deref().unwrap_or(&default).to_owned();
            if QueueType::parse(&queue_type).is_none() {
                self.mistake(&what, format!("{queue_type} is not a valid queue type"));
            }
            let known = self.current.vhosts.iter().find(|known| known.name == row.name).cloned();
            let mut wanted = row.clone();
            wanted.metadata.default_queue_type = Some(queue_type);
            // Without limits, those that are there stay.
            let limits = if row.limits.is_empty() { known.as_ref().map(|known| known.limits.clone()) } else { None };
            wanted.limits = limits.unwrap_or_else(|| row.limits.clone());
            wanted.limits.retain(|_, limit| *limit >= 0);
            let shown = |vhost: &super::Vhost| json!({"limits": vhost.limits, "metadata": vhost.metadata});
            let (current, wanted) = (known.as_ref().map(shown), shown(&wanted));
            self.compare(("vhost", None, &row.name), current, &wanted, Action::Change);
        }
        let (there, limit) = (self.vhosts.len(), self.broker.config.vhost_max);
        if let Some(limit) = limit.filter(|limit| there > *limit as usize && there > self.current.vhosts.len()) {
            self.plan.mistakes.push(format!("{there} vhosts: vhost limit of {limit} is reached"));
        }
    }

    fn users(&mut self) {
        let document = self.document;
        for row in &document.users {
            let current = self.current.users.iter().find(|known| known.name == row.name).map(|known| json!(known));
            self.compare(("user", None, &row.name), current, &json!(row), Action::Change);
        }
        let users: HashSet<_> =
            self.current.users.iter().chain(&document.users).map(|user| user.name.clone()).collect();
        let current: HashMap<_, _> =
            self.current.permissions.iter().map(|row| ((row.user.clone(), row.vhost.clone()), json!(row))).collect();
        for row in &document.permissions {
            let what = format!("permission of user '{}' in vhost '{}'", row.user, row.vhost);
            self.has_vhost(&what, &row.vhost);
            if !users.contains(&row.user) {
                self.mistake(&what, format!("there is no user '{}'", row.user));
            }
            let known = current.get(&(row.user.clone(), row.vhost.clone())).cloned();
            self.compare(("permission", Some(&row.vhost), &row.user), known, &json!(row), Action::Change);
        }
        let key = |row: &super::TopicPermission| (row.user.clone(), row.vhost.clone(), row.exchange.clone());
        let current: HashMap<_, _> = self.current.topic_permissions.iter().map(|row| (key(row), json!(row))).collect();
        for row in &document.topic_permissions {
            let what = format!("topic permission of user '{}' in vhost '{}'", row.user, row.vhost);
            self.has_vhost(&what, &row.vhost);
            if !users.contains(&row.user) {
                self.mistake(&what, format!("there is no user '{}'", row.user));
            }
            let name = format!("{} {}", row.user, row.exchange);
            let known = current.get(&key(row)).cloned();
            self.compare(("topic permission", Some(&row.vhost), &name), known, &json!(row), Action::Change);
        }
    }

    fn parameters(&mut self) {
        let document = self.document;
        let key = |row: &super::Parameter| (row.vhost.clone(), row.component.clone(), row.name.clone());
        let current: HashMap<_, _> = self.current.parameters.iter().map(|row| (key(row), row.value.clone())).collect();
        for row in &document.parameters {
            let what = format!("{} '{}' in vhost '{}'", row.component, row.name, row.vhost);
            self.has_vhost(&what, &row.vhost);
            let component = row.component.as_str();
            let wanted = if component == policy::Kind::Operator.component() {
                let fields = row.value.as_object().cloned().unwrap_or_default();
                match Policy::parse(policy::Kind::Operator, &row.name, &fields) {
                    Ok(policy) => Json::Object(policy.fields()),
                    Err(mistakes) => {
                        self.mistake(&what, mistakes);
                        continue;
                    }
                }
            } else if component == crate::broker::vhosts::LIMITS.0 {
                if row.name != crate::broker::vhosts::LIMITS.1 {
                    self.mistake(&what, "name not recognised");
                }
                Json::Object(VhostLimits::from_json(&row.value).to_json())
            } else {
                row.value.clone()
            };
            let (known, name) = (current.get(&key(row)).cloned(), format!("{component} {}", row.name));
            self.compare(("parameter", Some(&row.vhost), &name), known, &wanted, Action::Change);
        }
        for row in &document.global_parameters {
            let known = self.current.global_parameters.iter().find(|known| known.name == row.name);
            let known = known.map(|known| known.value.clone());
            self.compare(("global parameter", None, &row.name), known, &row.value, Action::Change);
        }
    }

    fn policies(&mut self) {
        let document = self.document;
        let key = |row: &super::Policy| (row.vhost.clone(), row.name.clone());
        let current: HashMap<_, _> = self.current.policies.iter().map(|row| (key(row), json!(row))).collect();
        for row in &document.policies {
            let what = format!("policy '{}' in vhost '{}'", row.name, row.vhost);
            self.has_vhost(&what, &row.vhost);
            let wanted = json!(row);
            let fields = wanted.as_object().cloned().unwrap_or_default();
            if let Err(mistakes) = Policy::parse(policy::Kind::User, &row.name, &fields) {
                self.mistake(&what, mistakes);
            }
            let known = current.get(&key(row)).cloned();
            self.compare(("policy", Some(&row.vhost), &row.name), known, &wanted, Action::Change);
        }
    }

    fn exchanges(&mut self) {
        let document = self.document;
        for row in &document.exchanges {
            let what = format!("exchange '{}' in vhost '{}'", row.name, row.vhost);
            if !self.has_vhost(&what, &row.vhost) {
                continue;
            }
            let kind = match ExchangeWish::from(row).check(&row.vhost, &row.name) {
                Ok(kind) => kind,
                Err(refusal) => {
                    self.mistake(&what, refusal);
                    continue;
                }
            };
            let known = self.broker.vhost(&row.vhost).and_then(|vhost| vhost.exchange(&row.name));
            let of = |kind: Type, fields: [bool; 3], arguments: &Table| {
                let [durable, auto_delete, internal] = fields;
                let arguments = arguments::to_json(arguments);
                json!({"type": kind.name(), "durable": durable, "auto_delete": auto_delete, "internal": internal,
                       "arguments": arguments})
            };
            let wanted = of(kind, [row.durable, row.auto_delete, row.internal], &row.arguments);
            let (kind, arguments, current) = match &known {
                None => (kind, &row.arguments, None),
                Some(known) => {
                    let fields = [known.durable, known.auto_delete, known.internal];
                    (known.kind, &known.arguments, Some(of(known.kind, fields, &known.arguments)))
                }
            };
            self.exchanges.insert((&row.vhost, &row.name), kind.routes_as(arguments));
            self.compare(("exchange", Some(&row.vhost), &row.name), current, &wanted, Action::Conflict);
        }
    }

    fn queues(&mut self) {
        let document = self.document;
        let mut new: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &document.queues {
            let what = format!("queue '{}' in vhost '{}'", row.name, row.vhost);
            if !self.has_vhost(&what, &row.vhost) {
                continue;
            }
            let wish = QueueWish::from(row);
            let settings = match wish.check(&row.vhost, &row.name, self.default_queue_type(&row.vhost)) {
                Ok(settings) => settings,
                Err(refusal) => {
                    self.mistake(&what, refusal);
                    continue;
                }
            };
            let of = |durable: bool, auto_delete: bool, kind: QueueType, arguments: &Table| {
                let mut arguments = arguments::to_json(arguments);
                arguments.shift_remove("x-queue-type");
                json!({"type": kind.name(), "durable": durable, "auto_delete": auto_delete, "arguments": arguments})
            };
            let wanted = of(row.durable, row.auto_delete, settings.queue_type, &row.arguments);
            let known = self.broker.vhost(&row.vhost).and_then(|vhost| vhost.queue_named(&row.name));
            if known.is_none() {
                *new.entry(&row.vhost).or_default() += 1;
            }
            let kind = known.as_ref().map_or(settings.queue_type, |known| known.settings().queue_type);
            self.queues.insert((&row.vhost, &row.name), kind);
            let current = known.map(|known| {
                let identity = &known.identity;
                of(identity.durable, identity.auto_delete, kind, &identity.arguments)
            });
            self.compare(("queue", Some(&row.vhost), &row.name), current, &wanted, Action::Conflict);
        }
        for (vhost, count) in new {
            let there = self.broker.vhost(vhost).map_or(0, |vhost| vhost.queues().len());
            if let Some(limit) = self.max_queues(vhost).filter(|limit| there + count > *limit as usize) {
                self.plan.mistakes.push(format!(
                    "Adding {count} queue(s) to virtual host \"{vhost}\" would exceed the limit of {limit} queue(s). \
                     This virtual host currently has {there} queue(s) defined."
                ));
            }
        }
    }

    /// The type that queues of a virtual host will have if they don't say theirs.
    fn default_queue_type(&self, vhost: &str) -> QueueType {
        let row = self.document.vhosts.iter().find(|row| row.name == vhost);
        let said = row.and_then(|row| QueueType::parse(row.metadata.default_queue_type.as_deref()?));
        let of_broker = || QueueType::parse(&self.broker.config.default_queue_type).unwrap_or_default();
        match (row, self.broker.vhost(vhost)) {
            (None, Some(vhost)) => vhost.default_queue_type(),
            _ => said.unwrap_or_else(of_broker),
        }
    }

    /// How many queues a virtual host may have once its limits are imported.
    fn max_queues(&self, vhost: &str) -> Option<u32> {
        let (component, name) = crate::broker::vhosts::LIMITS;
        let mut parameters = self.document.parameters.iter().rev();
        let parameter = parameters.find(|row| row.component == component && row.name == name && row.vhost == vhost);
        let row = self.document.vhosts.iter().find(|row| row.name == vhost && !row.limits.is_empty());
        match (parameter, row) {
            (Some(row), _) => VhostLimits::from_json(&row.value).max_queues,
            (None, Some(row)) => VhostLimits::from_json(&json!(row.limits)).max_queues,
            (None, None) => self.broker.vhost(vhost).and_then(|vhost| vhost.limits().max_queues),
        }
    }

    fn bindings(&mut self) {
        let document = self.document;
        let meant: HashSet<&str> = document.bindings.iter().map(|row| row.vhost.as_str()).collect();
        let there: HashSet<BindingKey> = meant
            .iter()
            .filter_map(|vhost| self.broker.vhost(vhost))
            .flat_map(|vhost| BindingKey::of_vhost(&vhost).collect::<Vec<_>>())
            .collect();
        for row in &document.bindings {
            let name = format!("{} → {} '{}'", row.source, row.destination, row.routing_key);
            let what = format!("binding {name} in vhost '{}'", row.vhost);
            if !self.has_vhost(&what, &row.vhost) {
                continue;
            }
            let binding = row.binding();
            let source = self.exchange_type(&row.vhost, &row.source);
            let bound = match row.destination_type {
                DestinationType::Queue => self.queue_type(&row.vhost, &row.destination).map(|kind| kind.module()),
                DestinationType::Exchange => self.exchange_type(&row.vhost, &row.destination).map(|_| ""),
            };
            if source.is_none() {
                self.mistake(&what, format!("there is no exchange '{}'", row.source));
            }
            match (source, bound, row.destination_type) {
                (_, None, DestinationType::Queue) => {
                    self.mistake(&what, format!("there is no queue '{}'", row.destination));
                }
                (_, None, DestinationType::Exchange) => {
                    self.mistake(&what, format!("there is no exchange '{}'", row.destination));
                }
                (Some(kind), Some(module), destination_type) => {
                    let bound = match destination_type {
                        DestinationType::Queue => Bound::Queue(module),
                        DestinationType::Exchange => Bound::Exchange,
                    };
                    if let Err(refusal) = Router::check(kind, &binding, bound) {
                        self.mistake(&what, refusal);
                    }
                }
                (None, Some(_), _) => {}
            }
            let key = BindingKey::new(&row.vhost, &row.source, &binding);
            let current = there.contains(&key).then(|| json!({}));
            self.compare(("binding", Some(&row.vhost), &name), current, &json!({}), Action::Change);
        }
    }

    /// By which type an exchange will route.
    fn exchange_type(&self, vhost: &str, name: &str) -> Option<Type> {
        if let Some(kind) = self.exchanges.get(&(vhost, name)) {
            return Some(*kind);
        }
        match self.broker.vhost(vhost) {
            Some(vhost) => vhost.exchange(name).map(|known| known.kind.routes_as(&known.arguments)),
            None => {
                let predeclared = Topology::predeclared(self.broker.events().live_in(vhost));
                predeclared.exchanges.get(name).map(|exchange| exchange.kind)
            }
        }
    }

    fn queue_type(&self, vhost: &str, name: &str) -> Option<QueueType> {
        let declared = self.queues.get(&(vhost, name)).copied();
        declared.or_else(|| Some(self.broker.vhost(vhost)?.queue_named(name)?.settings().queue_type))
    }
}

/// The fields in which two records differ.
fn differences(kind: &str, current: &Json, wanted: &Json) -> Vec<Difference> {
    // A shovel's addresses have passwords in them.
    if kind == "parameter" || kind == "global parameter" {
        let hidden = Difference { field: "value".to_owned(), current: None, wanted: None };
        return if current == wanted { Vec::new() } else { vec![hidden] };
    }
    let (current, wanted) = (flat(current), flat(wanted));
    let fields = current.keys().chain(wanted.keys().filter(|field| !current.contains_key(*field)));
    let different = fields.filter(|field| current.get(*field) != wanted.get(*field));
    let shown = |field: &String| {
        let is_secret = field == "password_hash";
        let show = |values: &Map<String, Json>| values.get(field).filter(|_| !is_secret).cloned();
        Difference { field: field.clone(), current: show(&current), wanted: show(&wanted) }
    };
    different.map(shown).collect()
}

/// A record's fields, and those of its maps by names with dots.
fn flat(record: &Json) -> Map<String, Json> {
    let mut fields = Map::new();
    for (name, value) in record.as_object().into_iter().flatten() {
        match value {
            Json::Object(inner) => {
                fields.extend(inner.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())));
            }
            value => drop(fields.insert(name.clone(), value.clone())),
        }
    }
    fields
}
