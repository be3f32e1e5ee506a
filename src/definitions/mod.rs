//! RabbitMQ's definitions: users, virtual hosts, rights and topology as one document.
//!
//! One set of types for both notations: JSON, as RabbitMQ 3.8 to 4.3 and LavinMQ export it, and TOML with the same
//! names, for people. A document is read as a whole before anything of it is used, and everything that is wrong with
//! it is told at once, with lines. Putting a document into a broker, and taking one out, is the business of whoever
//! holds one.

mod arguments;
mod check;
mod export;
mod import;
mod plan;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;

pub use crate::auth::{Algorithm, User, UserLimits};
pub use crate::broker::parameters::GlobalParameter;
pub use crate::broker::users::{PermissionRow as Permission, TopicPermissionRow as TopicPermission};
/// In whose name the broker itself imports.
pub use crate::vhost::events::HOUSE;
pub use crate::vhost::records::ParameterRecord as Parameter;

use crate::amqp::Table;
pub use export::{export, export_vhost};
pub use import::import;
pub use plan::{Action, Difference, Plan, Step};

pub use arguments::{from_json as table_from_json, to_json as table_to_json};

/// `rabbitmq_definition_format` of an export of one virtual host, whose records don't name it.
pub const SINGLE_VIRTUAL_HOST: &str = "single_virtual_host";

/// A whole document. Any section may be empty; names in a section are there once.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Document {
    /// Of the broker that wrote it; RabbitMQ writes its version twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rabbit_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rabbitmq_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_version: Option<String>,
    /// `cluster`, or [`SINGLE_VIRTUAL_HOST`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rabbitmq_definition_format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_cluster_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_vhost_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    pub users: Vec<User>,
    pub vhosts: Vec<Vhost>,
    pub permissions: Vec<Permission>,
    pub topic_permissions: Vec<TopicPermission>,
    pub parameters: Vec<Parameter>,
    pub global_parameters: Vec<GlobalParameter>,
    pub policies: Vec<Policy>,
    pub queues: Vec<Queue>,
    pub exchanges: Vec<Exchange>,
    pub bindings: Vec<Binding>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Vhost {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<bool>,
    /// `max-connections` and `max-queues`; negative is no limit.
    pub limits: BTreeMap<String, i64>,
    pub metadata: VhostMetadata,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct VhostMetadata {
    pub description: String,
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_queue_type: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub protected_from_deletion: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    pub vhost: String,
    pub name: String,
    /// A pattern that `policy` takes, over names of exchanges and queues.
    pub pattern: String,
    /// One of [`Policy::APPLY_TO`].
    #[serde(rename = "apply-to")]
    pub apply_to: String,
    pub priority: i64,
    /// One that `policy` takes.
    pub definition: serde_json::Map<String, Json>,
}

impl Policy {
    /// What a policy may apply to.
    pub const APPLY_TO: [&'static str; 6] =
        ["all", "exchanges", "queues", "classic_queues", "quorum_queues", "streams"];
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Queue {
    pub vhost: String,
    pub name: String,
    /// Counts if the arguments have no `x-queue-type`; RabbitMQ writes both.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub queue_type: Option<String>,
    pub durable: bool,
    pub auto_delete: bool,
    #[serde(serialize_with = "write::table")]
    pub arguments: Table,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exchange {
    pub vhost: String,
    pub name: String,
    #[serde(rename = "type")]
    pub exchange_type: String,
    pub durable: bool,
    pub auto_delete: bool,
    /// RabbitMQ exports none that is, and doesn't write it for the others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    #[serde(serialize_with = "write::table")]
    pub arguments: Table,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Binding {
    /// An exchange.
    pub source: String,
    pub vhost: String,
    pub destination: String,
    pub destination_type: DestinationType,
    pub routing_key: String,
    #[serde(serialize_with = "write::table")]
    pub arguments: Table,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationType {
    Queue,
    Exchange,
}

/// Where what a document holds belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Each record to the virtual host that it names.
    Named,
    /// All of it to this virtual host, as when RabbitMQ imports into one: what the records name doesn't count, and
    /// users, virtual hosts, rights and global parameters are left out.
    Vhost(&'a str),
    /// Nowhere: it is only looked at. An export of one virtual host need not have a name for it then.
    Nowhere,
}

/// The sections of a document.
pub const SECTIONS: [&str; 10] = [
    "users",
    "vhosts",
    "permissions",
    "topic_permissions",
    "parameters",
    "global_parameters",
    "policies",
    "queues",
    "exchanges",
    "bindings",
];

/// The files of definitions at a path: itself, or if it's a folder its `.json` and `.toml` files, by name.
pub fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_file() && path.extension().is_some_and(|extension| extension == "json" || extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
