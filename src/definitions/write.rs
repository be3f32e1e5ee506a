use serde::{Serialize, Serializer};

use super::{Document, SINGLE_VIRTUAL_HOST, arguments};
use crate::amqp::Table;

impl Document {
    /// As RabbitMQ writes it. The records of an export of one virtual host don't name it.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("a document's maps have text for keys");
        if self.rabbitmq_definition_format.as_deref() == Some(SINGLE_VIRTUAL_HOST) {
            let sections = json.as_object_mut().into_iter().flat_map(|document| document.values_mut());
            let records = sections.filter_map(|section| section.as_array_mut()).flatten();
            for record in records.filter_map(|record| record.as_object_mut()) {
                record.remove("vhost");
            }
        }
        json
    }

    /// The same in TOML, a table each record. It has no word for null, which is the error.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let mut json = self.to_json();
        if let Some(document) = json.as_object_mut() {
            document.retain(|_, section| section.as_array().is_none_or(|records| !records.is_empty()));
        }
        toml::to_string(&json)
    }

    /// What is in it, in a few words: `2 users, 1 vhost, 3 queues`.
    pub fn summary(&self) -> String {
        let counts = [
            (self.users.len(), "user", "users"),
            (self.vhosts.len(), "vhost", "vhosts"),
            (self.permissions.len() + self.topic_permissions.len(), "permission", "permissions"),
            (self.parameters.len() + self.global_parameters.len(), "parameter", "parameters"),
            (self.policies.len(), "policy", "policies"),
            (self.queues.len(), "queue", "queues"),
            (self.exchanges.len(), "exchange", "exchanges"),
            (self.bindings.len(), "binding", "bindings"),
        ];
        let words = counts.iter().filter(|(count, ..)| *count > 0);
        let words: Vec<_> =
            words.map(|(count, one, many)| format!("{count} {}", if *count == 1 { one } else { many })).collect();
        if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
    }
}

pub fn table<S: Serializer>(table: &Table, serializer: S) -> Result<S::Ok, S::Error> {
    arguments::to_json(table).serialize(serializer)
}
