//! Runtime parameters: values that a virtual host keeps for one of its components, and those of the whole broker.
//!
//! Policies of both kinds and the limits of virtual hosts are parameters too, in listings and in definitions; what they say
//! is kept where it counts, in the virtual host. Shovels and federation are only kept.

use super::components::Component;
use super::{Broker, read, vhosts};
use crate::policy::{self, Policy};
use crate::refusal::Refusal;
use crate::store::keys::{Definition, Kind};
use crate::store::{Change, Committed, Store};
use crate::vhost::records::{ParameterRecord, put};
use crate::vhost::{Vhost, VhostLimits};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The global parameter that names the whole installation.
pub const CLUSTER_NAME: &str = "cluster_name";

/// What is kept here. Changed and noted for the store under the locks, so that changes reach the disk in their order.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    /// By virtual host, component and name.
    of_vhosts: Mutex<BTreeMap<[String; 3], Json>>,
    global: Mutex<BTreeMap<String, Json>>,
}

/// A parameter of the whole broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GlobalParameter {
    pub name: String,
    pub value: Json,
}

impl Parameters {
    pub fn recover(store: &Store) -> Result<Self, String> {
        let parameters = Self::default();
        for ParameterRecord { vhost, component, name, value } in read(store, Kind::Parameter)? {
            if !is_kept_elsewhere(&component) {
                parameters.of_vhosts.lock().insert([vhost, component, name], value);
            }
        }
        for GlobalParameter { name, value } in read(store, Kind::GlobalParameter)? {
            parameters.global.lock().insert(name, value);
        }
        Ok(parameters)
    }

    /// A virtual host is gone; whoever deletes it deletes the rows as well.
    pub fn forget(&self, vhost: &str) {
        self.of_vhosts.lock().retain(|[of, ..], _| of != vhost);
    }
}

/// In the virtual host itself.
fn is_kept_elsewhere(component: &str) -> bool {
    let component = Component::parse(component);
    matches!(component, Some(Component::Policy | Component::OperatorPolicy | Component::VhostLimits))
}

fn key(vhost: &str, component: &str, name: &str) -> Definition {
    Definition::new(Kind::Parameter, &[component.as_bytes(), vhost.as_bytes(), name.as_bytes()])
}

fn global_key(name: &str) -> Definition {
    Definition::new(Kind::GlobalParameter, &[name.as_bytes()])
}

/// RabbitMQ's answer to everything that is wrong with a parameter (`rabbit_runtime_parameters:format_error`).
fn invalid(mistakes: &[String]) -> Refusal {
    Refusal::precondition(format!("Validation failed\n\n{}\n", mistakes.join("\n")))
}

/// `by` is who does it. What is `Committed` is to be waited for: then it is on disk.
impl Broker {
    /// The parameters of a virtual host, policies and limits among them, by component and name.
    pub fn parameters(&self, vhost: &Vhost) -> Vec<ParameterRecord> {
        let record = |component: &str, name: &str, value: Json| {
            let (component, name) = (component.to_owned(), name.to_owned());
            ParameterRecord { vhost: vhost.name.to_string(), component, name, value }
        };
        let mut rows = Vec::new();
        for ([of, component, name], value) in &*self.parameters.of_vhosts.lock() {
            if **of == *vhost.name {
                rows.push(record(component, name, value.clone()));
            }
        }
        for kind in [policy::Kind::User, policy::Kind::Operator] {
            let policies = vhost.policies(kind);
            rows.extend(policies.iter().map(|one| record(kind.component(), &one.name, Json::Object(one.fields()))));
        }
        let (limits, (component, name)) = (vhost.limits().to_json(), vhosts::LIMITS);
        if !limits.is_empty() {
            rows.push(record(component, name, Json::Object(limits)));
        }
        rows.sort_by(|one, other| (&one.component, &one.name).cmp(&(&other.component, &other.name)));
        rows
    }

    /// Sets a parameter, if its component knows it and takes the value.
    pub fn set_parameter(&self, vhost: &Arc<Vhost>, component: &str, name: &str, value: Json, by: &str) -> SetAnswer {
        let known = Component::parse(component);
        let known = known.ok_or_else(|| invalid(&[format!("component {component} not found")]))?;
        if known == Component::Policy {
            return Err(Refusal::precondition("policies may not be set using this method"));
        }
        let mistakes = known.mistakes(name, &value);
        if !mistakes.is_empty() {
            return Err(invalid(&mistakes));
        }
        self.keep_parameter(vhost, component, name, value, by)
    }

    /// The same for a parameter that was taken somewhere else: its component may be one that nobody here knows.
    pub fn keep_parameter(&self, vhost: &Arc<Vhost>, component: &str, name: &str, value: Json, by: &str) -> SetAnswer {
        match Component::parse(component) {
            Some(Component::OperatorPolicy) => {
                let fields: Map<String, Json> = value.as_object().cloned().unwrap_or_default();
                vhost.set_policy(Policy::parse(policy::Kind::Operator, name, &fields)?, by)
            }
            Some(Component::VhostLimits) if name == vhosts::LIMITS.1 => {
                let limits = VhostLimits::from_json(&value);
                self.change_vhost_limits(&vhost.name, |own| *own = limits, by)
            }
            Some(Component::VhostLimits) => Err(invalid(&[format!("name not recognised: {name}")])),
            _ => {
                let parameter = [&*vhost.name, component, name].map(str::to_owned);
                let record = ParameterRecord {
                    vhost: vhost.name.to_string(),
                    component: component.to_owned(),
                    name: name.to_owned(),
                    value: value.clone(),
                };
                let (old, committed) = {
                    let mut of_vhosts = self.parameters.of_vhosts.lock();
                    let old = of_vhosts.insert(parameter, value);
                    (old, self.house.store.change(vec![put(key(&vhost.name, component, name), &record)]))
                };
                // One that is deleted meanwhile has forgotten its parameters before or after.
                if self.vhost(&vhost.name).is_none_or(|known| !Arc::ptr_eq(&known, vhost)) {
                    let mut of_vhosts = self.parameters.of_vhosts.lock();
                    of_vhosts.remove(&[&*vhost.name, component, name].map(str::to_owned));
                    drop(self.house.store.change(vec![Change::Delete(key(&vhost.name, component, name))]));
                    return Err(Refusal::not_found(format!("no such vhost '{}'", vhost.name)));
                }
                // What changes nothing is not told.
                if old.as_ref() != Some(&record.value) {
                    self.events().parameter_set(Some(&vhost.name), component, name, &record.value, by);
                }
                Ok(committed)
            }
        }
    }

    /// Takes a parameter away; `None` if it was not there.
    pub fn clear_parameter(&self, vhost: &Vhost, component: &str, name: &str, by: &str) -> Option<ClearAnswer> {
        match Component::parse(component) {
            Some(Component::Policy) => vhost
                .policy(policy::Kind::User, name)
                .map(|_| Err(Refusal::precondition("policies may not be cleared using this method"))),
            Some(Component::OperatorPolicy) => vhost.clear_policy(policy::Kind::Operator, name, by).map(Ok),
            Some(Component::VhostLimits) => {
                let is_there = name == vhosts::LIMITS.1 && vhost.limits() != VhostLimits::default();
                is_there.then(|| self.change_vhost_limits(&vhost.name, |own| *own = VhostLimits::default(), by))
            }
            _ => {
                let committed = {
                    let mut of_vhosts = self.parameters.of_vhosts.lock();
                    of_vhosts.remove(&[&*vhost.name, component, name].map(str::to_owned))?;
                    self.house.store.change(vec![Change::Delete(key(&vhost.name, component, name))])
                };
                self.events().parameter_cleared(&vhost.name, component, name, by);
                Some(Ok(committed))
            }
        }
    }

    /// The parameters of the whole broker, by name.
    pub fn global_parameters(&self) -> Vec<GlobalParameter> {
        let global = self.parameters.global.lock();
        global.iter().map(|(name, value)| GlobalParameter { name: name.clone(), value: value.clone() }).collect()
    }

    /// Sets one; says whether it is new.
    pub fn set_global_parameter(&self, name: &str, value: Json, by: &str) -> (bool, Committed) {
        let record = GlobalParameter { name: name.to_owned(), value: value.clone() };
        let (old, committed) = {
            let mut global = self.parameters.global.lock();
            let old = global.insert(name.to_owned(), value);
            (old, self.house.store.change(vec![put(global_key(name), &record)]))
        };
        self.events().parameter_set(None, "global", name, &record.value, by);
        (old.is_none(), committed)
    }

    /// Takes one away; `None` if it was not there.
    pub fn clear_global_parameter(&self, name: &str, by: &str) -> Option<Committed> {
        let committed = {
            let mut global = self.parameters.global.lock();
            global.remove(name)?;
            self.house.store.change(vec![Change::Delete(global_key(name))])
        };
        self.events().parameter_cleared("", "global", name, by);
        Some(committed)
    }

    /// The name of the whole installation: a global parameter if it was given one, else the setting.
    pub fn cluster_name(&self) -> String {
        let global = self.parameters.global.lock();
        global.get(CLUSTER_NAME).and_then(Json::as_str).unwrap_or(&self.config.cluster_name).to_owned()
    }
}

/// What setting a parameter comes to.
pub type SetAnswer = Result<Committed, Refusal>;
/// What clearing one that is there comes to.
pub type ClearAnswer = Result<Committed, Refusal>;
