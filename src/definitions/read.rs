//! From a file's tree to a document: a walk over its fields that notes every mistake and goes on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use super::check;
use super::*;
use crate::auth::{Algorithm, Pattern, Unusable, hash};
use crate::policy;
use crate::written::{Field, Node, Place, Remark, Remarks, Tree, nearest, read_json, read_toml};

/// Octets of a name, as AMQP's short strings have.
const NAME_BYTES_MAX: usize = 255;

impl Document {
    /// The document in a file, by its extension `.json` or `.toml`, with what in it was left aside; or everything that
    /// is wrong with it. Plain passwords are hashed by `hashing`, unless their user says by what.
    pub fn read(path: &Path, target: Target<'_>, hashing: &Algorithm) -> Result<(Self, Vec<Remark>), Remarks> {
        let whole = |what: String| {
            let mut remarks = Remarks::default();
            remarks.mistake(Place::whole_file(path), "", what);
            remarks
        };
        let text = fs::read_to_string(path).map_err(|error| whole(format!("can't be read: {error}")))?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Self::from_toml(&text, path, target, hashing),
            Some("json") => Self::from_json(&text, path, target, hashing),
            // RabbitMQ takes any name.
            _ if text.trim_start_matches('\u{feff}').trim_start().starts_with('{') => {
                Self::from_json(&text, path, target, hashing)
            }
            _ => Err(whole("definitions are read from .json and .toml files".to_owned())),
        }
    }

    /// `path` is only for the remarks.
    pub fn from_json(
        text: &str,
        path: &Path,
        target: Target<'_>,
        hashing: &Algorithm,
    ) -> Result<(Self, Vec<Remark>), Remarks> {
        Self::of(&read_json(text, path)?, path, target, hashing)
    }

    /// `path` is only for the remarks.
    pub fn from_toml(
        text: &str,
        path: &Path,
        target: Target<'_>,
        hashing: &Algorithm,
    ) -> Result<(Self, Vec<Remark>), Remarks> {
        Self::of(&read_toml(text.trim_start_matches('\u{feff}'), path)?, path, target, hashing)
    }

    fn of(root: &Node, path: &Path, target: Target<'_>, hashing: &Algorithm) -> Result<(Self, Vec<Remark>), Remarks> {
        let mut reading = Reading {
            path,
            target,
            hashing,
            names_vhosts: true,
            remarks: Remarks::default(),
            left_aside: BTreeMap::new(),
        };
        let document = reading.document(root);
        reading.warn_of_left_aside();
        reading.remarks.into_result(document)
    }
}

/// A record and the line it starts on.
pub(super) type Lined<T> = (usize, T);

/// One document being read.
pub(super) struct Reading<'a> {
    path: &'a Path,
    target: Target<'a>,
    /// How plain passwords are hashed, unless their user says.
    hashing: &'a Algorithm,
    /// Unless it's an export of one virtual host, whose records don't say where they belong.
    names_vhosts: bool,
    remarks: Remarks,
    /// Unknown fields, by section: the first line and how often.
    left_aside: BTreeMap<String, (usize, usize)>,
}

impl Reading<'_> {
    /// Whether the document says where what it holds belongs.
    pub(super) fn names_vhosts(&self) -> bool {
        self.names_vhosts && !matches!(self.target, Target::Vhost(_))
    }

    pub(super) fn warn(&mut self, line: usize, key: &str, what: String) {
        self.remarks.warn(Place::file(self.path, line), key, what);
    }

    /// A warning that isn't about one line.
    pub(super) fn warn_of_whole(&mut self, what: String) {
        self.remarks.warn(Place::whole_file(self.path), "", what);
    }

    fn mistake(&mut self, line: usize, key: &str, what: impl Into<String>) {
        self.remarks.mistake(Place::file(self.path, line), key, what);
    }

    fn document(&mut self, root: &Node) -> Document {
        let Some(mut record) = Record::of(root, String::new(), self) else { return Document::default() };
        let mut document = Document {
            rabbit_version: record.text("rabbit_version", self),
            rabbitmq_version: record.text("rabbitmq_version", self),
            product_name: record.text("product_name", self),
            product_version: record.text("product_version", self),
            rabbitmq_definition_format: record.text("rabbitmq_definition_format", self),
            original_cluster_name: record.text("original_cluster_name", self),
            original_vhost_name: record.text("original_vhost_name", self),
            explanation: record.text("explanation", self),
            ..Document::default()
        };
        self.names_vhosts = document.rabbitmq_definition_format.as_deref() != Some(SINGLE_VIRTUAL_HOST);
        if !self.names_vhosts && self.target == Target::Named {
            let what = "holds one virtual host and doesn't say which; import it into one that you name";
            self.remarks.mistake(Place::whole_file(self.path), "", what);
            return document;
        }
        let algorithm = default_algorithm(&document);
        let users = self.section(
            &mut record,
            "users",
            |fields, reading| user(fields, &algorithm, reading),
            |user| vec![&user.name],
        );
        let vhosts = self.section(&mut record, "vhosts", vhost, |vhost| vec![&vhost.name]);
        let permissions = self.section(&mut record, "permissions", permission, |row| vec![&row.user, &row.vhost]);
        let topic_permissions = self.section(&mut record, "topic_permissions", topic_permission, |row| {
            vec![&row.user, &row.vhost, &row.exchange]
        });
        let parameters = self.section(&mut record, "parameters", parameter, |parameter| {
            vec![&parameter.vhost, &parameter.component, &parameter.name]
        });
        let global_parameters =
            self.section(&mut record, "global_parameters", global_parameter, |parameter| vec![&parameter.name]);
        let policies = self.section(&mut record, "policies", policy, |policy| vec![&policy.vhost, &policy.name]);
        let mut queues = self.section(&mut record, "queues", queue, |queue| vec![&queue.vhost, &queue.name]);
        let mut exchanges =
            self.section(&mut record, "exchanges", exchange, |exchange| vec![&exchange.vhost, &exchange.name]);
        // A binding is what it says; the same one again is the same.
        let mut bindings = self.section(&mut record, "bindings", binding, |_| Vec::new());
        record.finish(self);

        queues.retain(|(line, queue)| self.may_be_declared(*line, "queue", &queue.name));
        exchanges.retain(|(line, exchange)| self.may_be_declared(*line, "exchange", &exchange.name));
        bindings.retain(|(line, binding)| self.may_be_bound(*line, binding));
        document.parameters = without_lines(parameters);
        document.policies = without_lines(policies);
        if !matches!(self.target, Target::Vhost(_)) {
            document.users = without_lines(users);
            document.vhosts = without_lines(vhosts);
            document.permissions = without_lines(permissions);
            document.topic_permissions = without_lines(topic_permissions);
            document.global_parameters = without_lines(global_parameters);
        }
        if self.remarks.mistakes.is_empty() {
            document.queues = queues.iter().map(|(_, queue)| queue.clone()).collect();
            document.exchanges = exchanges.iter().map(|(_, exchange)| exchange.clone()).collect();
            check::references(&document, &bindings, self);
        }
        document.queues = without_lines(queues);
        document.exchanges = without_lines(exchanges);
        document.bindings = without_lines(bindings);
        document
    }

    /// The records of a section, each name once.
    fn section<'n, T>(
        &mut self,
        document: &mut Record<'n>,
        name: &'static str,
        read: impl Fn(&mut Record<'n>, &mut Self) -> T,
        key: impl Fn(&T) -> Vec<&str>,
    ) -> Vec<Lined<T>> {
        let Some(field) = document.get(name) else { return Vec::new() };
        let Tree::List(items) = &field.value.tree else {
            self.mistake(field.line, name, format!("must be a list, not {}", field.value.tree.kind()));
            return Vec::new();
        };
        let mut seen = std::collections::HashMap::new();
        let mut records = Vec::with_capacity(items.len());
        for (index, node) in items.iter().enumerate() {
            let Some(mut record) = Record::of(node, format!("{name}[{index}]"), self) else { continue };
            let mistakes = self.remarks.mistakes.len();
            let value = read(&mut record, self);
            record.finish(self);
            let key: Vec<String> = key(&value).into_iter().map(str::to_owned).collect();
            let is_sound = self.remarks.mistakes.len() == mistakes;
            if is_sound
                && !key.is_empty()
                && let Some(line) = seen.insert(key, node.line)
            {
                self.mistake(node.line, &record.path, format!("has the same name as the one on line {line}"));
            }
            records.push((node.line, value));
        }
        records
    }

    /// Whether a queue or exchange is one that clients may declare; the others are there anyway, or belong to
    /// connections that are gone. RabbitMQ leaves them out as well (`rabbit_definitions.erl`).
    fn may_be_declared(&mut self, line: usize, kind: &str, name: &str) -> bool {
        let reserved = name.starts_with("amq.") || (kind == "exchange" && name.is_empty());
        if reserved {
            self.warn(line, "", format!("{kind} '{name}' has a reserved name; left out"));
        }
        !reserved
    }

    fn may_be_bound(&mut self, line: usize, binding: &Binding) -> bool {
        let is_default = binding.source.is_empty();
        if is_default {
            self.warn(
                line,
                "",
                "a binding from the default exchange, where every queue is bound anyway; left out".to_owned(),
            );
        }
        !is_default
    }

    fn warn_of_left_aside(&mut self) {
        for (key, (line, count)) in std::mem::take(&mut self.left_aside) {
            let times = if count > 1 { format!(" ({count} times)") } else { String::new() };
            self.warn(line, &key, format!("unknown field; ignored{times}"));
        }
    }
}

fn without_lines<T>(records: Vec<Lined<T>>) -> Vec<T> {
    records.into_iter().map(|(_, record)| record).collect()
}

/// How passwords were hashed by the broker that wrote the document, where a user doesn't say
/// (`rabbit_auth_backend_internal:hashing_algorithm/2`).
fn default_algorithm(document: &Document) -> Algorithm {
    let version = document.rabbit_version.as_deref().or(document.rabbitmq_version.as_deref()).unwrap_or_default();
    let old = ["3.0.", "3.1.", "3.2.", "3.3.", "3.4.", "3.5."];
    if old.iter().any(|start| version.starts_with(start)) { Algorithm::Md5 } else { Algorithm::Sha256 }
}

fn user(record: &mut Record<'_>, default_algorithm: &Algorithm, reading: &mut Reading<'_>) -> User {
    let name = record.name("name", reading);
    let password = record.text("password", reading);
    let password_hash = record.text("password_hash", reading);
    let algorithm = record.text("hashing_algorithm", reading);
    let otherwise = if password.is_some() { reading.hashing } else { default_algorithm };
    let mut hashing_algorithm = algorithm.map_or(otherwise.clone(), |name| Algorithm::from_name(&name));
    let password_hash = match (password, password_hash) {
        (Some(_), Some(_)) => {
            record.mistake("password", "stands beside a password_hash; only one of them can count", reading);
            String::new()
        }
        (Some(password), None) => {
            if matches!(hashing_algorithm, Algorithm::Unknown(_)) {
                hashing_algorithm = reading.hashing.clone();
            }
            hash(&password, &hashing_algorithm)
        }
        (None, hash) => hash.unwrap_or_default(),
    };
    match &hashing_algorithm {
        Algorithm::Unknown(algorithm) => {
            let what = format!("'{algorithm}' is not known here; {name} can't log in with a password");
            let line = record.line_of("hashing_algorithm");
            reading.warn(line, &record.key("hashing_algorithm"), what);
        }
        known if known.takes(&password_hash) => {}
        Algorithm::Argon2id => record.mistake("password_hash", "is no argon2id that can be checked here", reading),
        _ => record.mistake("password_hash", "is not Base64", reading),
    }
    User { name, password_hash, hashing_algorithm, tags: record.tags(reading), limits: user_limits(record, reading) }
}

fn user_limits(record: &mut Record<'_>, reading: &mut Reading<'_>) -> UserLimits {
    let limits = record.limits(&["max-connections", "max-channels"], reading);
    // A negative limit is none, and one that no counter reaches is as good as none.
    let limit = |name: &str| limits.get(name).and_then(|limit| u32::try_from(*limit).ok());
    UserLimits { max_connections: limit("max-connections"), max_channels: limit("max-channels") }
}

fn vhost(record: &mut Record<'_>, reading: &mut Reading<'_>) -> Vhost {
    let name = record.name("name", reading);
    let nested = record.get("metadata").and_then(|field| {
        let path = record.key("metadata");
        Record::of(&field.value, path, reading)
    });
    // RabbitMQ 3 writes some of the metadata beside it.
    let mut description = record.text("description", reading);
    let mut tags = record.get("tags").is_some().then(|| record.tags(reading));
    let mut default_queue_type = record.text("default_queue_type", reading);
    let mut protected_from_deletion = record.boolean("protected_from_deletion", false, reading);
    if let Some(mut nested) = nested {
        description = description.or(nested.text("description", reading));
        let nested_tags = nested.tags(reading);
        tags = tags.or(Some(nested_tags));
        default_queue_type = default_queue_type.or(nested.text("default_queue_type", reading));
        protected_from_deletion |= nested.boolean("protected_from_deletion", false, reading);
        nested.finish(reading);
    }
    Vhost {
        name,
        tracing: record.get("tracing").is_some().then(|| record.boolean("tracing", false, reading)),
        limits: record.limits(&["max-connections", "max-queues"], reading),
        metadata: VhostMetadata {
            description: description.unwrap_or_default(),
            tags: tags.unwrap_or_default(),
            // RabbitMQ 3 may write this word where there is none.
            default_queue_type: default_queue_type.filter(|queue_type| queue_type != "undefined"),
            protected_from_deletion,
        },
    }
}

fn permission(record: &mut Record<'_>, reading: &mut Reading<'_>) -> Permission {
    Permission {
        user: record.name("user", reading),
        vhost: record.vhost(reading),
        configure: record.pattern("configure", Pattern::new, reading),
        write: record.pattern("write", Pattern::new, reading),
        read: record.pattern("read", Pattern::new, reading),
    }
}

fn topic_permission(record: &mut Record<'_>, reading: &mut Reading<'_>) -> TopicPermission {
    TopicPermission {
        user: record.name("user", reading),
        vhost: record.vhost(reading),
        exchange: record.required("exchange", reading),
        write: record.topic_pattern("write", reading),
        read: record.topic_pattern("read", reading),
    }
}

fn parameter(record: &mut Record<'_>, reading: &mut Reading<'_>) -> Parameter {
    let parameter = Parameter {
        vhost: record.vhost(reading),
        component: record.required("component", reading),
        name: record.required("name", reading),
        value: record.json("value", reading),
    };
    let kind = policy::Kind::Operator;
    if parameter.component == kind.component() {
        let fields = parameter.value.as_object().cloned().unwrap_or_default();
        let unknown = fields.get("definition").and_then(Json::as_object).is_some_and(|definition| {
            let path = format!("{}.definition", record.key("value"));
            unknown_keys(kind, definition, Place::file(reading.path, record.line_of("value")), &path, reading)
        });
        match policy::Policy::parse(kind, &parameter.name, &fields) {
            Err(mistakes) if !unknown => record.mistake("value", mistakes.to_string(), reading),
            _ => {}
        }
    }
    parameter
}

fn global_parameter(record: &mut Record<'_>, reading: &mut Reading<'_>) -> GlobalParameter {
    GlobalParameter { name: record.required("name", reading), value: record.json("value", reading) }
}

fn policy(record: &mut Record<'_>, reading: &mut Reading<'_>) -> Policy {
    let definition = record.map("definition", reading).unwrap_or_default();
    if definition.is_empty() {
        record.mistake("definition", "must say something", reading);
    } else {
        let kind = policy::Kind::User;
        let place = Place::file(reading.path, record.line_of("definition"));
        let unknown = unknown_keys(kind, &definition, place, &record.key("definition"), reading);
        match policy::Definition::parse(kind, &Json::Object(definition.clone())) {
            Err(mistake) if !unknown => record.mistake("definition", mistake, reading),
            _ => {}
        }
    }
    Policy {
        vhost: record.vhost(reading),
        name: record.name("name", reading),
        pattern: record.pattern("pattern", Pattern::of_policy, reading),
        apply_to: record.choice("apply-to", &Policy::APPLY_TO, reading).unwrap_or("all").to_owned(),
        priority: record.integer("priority", 0, reading),
        definition,
    }
}

/// Tells of keys that no policy of this kind knows, as RabbitMQ refuses the whole file for; says whether there are any.
fn unknown_keys(
    kind: policy::Kind,
    definition: &serde_json::Map<String, Json>,
    place: Place,
    path: &str,
    reading: &mut Reading<'_>,
) -> bool {
    let unknown: Vec<_> = definition.keys().filter(|key| policy::keys(kind).all(|known| known != *key)).collect();
    for key in &unknown {
        let what = match (kind, key.starts_with("ha-")) {
            (_, true) => "mirrored queues are gone since RabbitMQ 4.0; quorum queues are in their place",
            (policy::Kind::User, false) => "no policy knows this key",
            (policy::Kind::Operator, false) => "no operator policy knows this key",
        };
        reading.remarks.mistakes.push(Remark {
            place: place.clone(),
            key: format!("{path}.{key}"),
            what: what.to_owned(),
            suggestion: nearest(key, policy::keys(kind)).map(str::to_owned),
        });
    }
    !unknown.is_empty()
}

fn queue(record: &mut Record<'_>, reading: &mut Reading<'_>) -> Queue {
    Queue {
        vhost: record.vhost(reading),
        name: record.name("name", reading),
        queue_type: record.text("type", reading),
        durable: record.boolean("durable", true, reading),
        auto_delete: record.boolean("auto_delete", false, reading),
        arguments: record.arguments(reading),
    }
}

fn exchange(record: &mut Record<'_>, reading: &mut Reading<'_>) -> Exchange {
    Exchange {
        vhost: record.vhost(reading),
        name: record.limited("name", reading),
        exchange_type: record.required("type", reading),
        durable: record.boolean("durable", true, reading),
        auto_delete: record.boolean("auto_delete", false, reading),
        internal: record.boolean("internal", false, reading),
        arguments: record.arguments(reading),
    }
}

fn binding(record: &mut Record<'_>, reading: &mut Reading<'_>) -> Binding {
    let destination_type = match record.choice("destination_type", &["queue", "exchange"], reading) {
        Some("exchange") => DestinationType::Exchange,
        _ => DestinationType::Queue,
    };
    let routing_key =
        if record.get("routing_key").is_some() { record.limited("routing_key", reading) } else { String::new() };
    Binding {
        source: record.limited("source", reading),
        vhost: record.vhost(reading),
        destination: record.name("destination", reading),
        destination_type,
        routing_key,
        arguments: record.arguments(reading),
    }
}

/// The fields of one record. Whatever is asked for is a field that exists; the rest is told of at the end.
struct Record<'n> {
    fields: &'n [Field],
    /// Where it stands: `queues[3]`.
    path: String,
    line: usize,
    asked: Vec<&'static str>,
}

impl<'n> Record<'n> {
    fn of(node: &'n Node, path: String, reading: &mut Reading<'_>) -> Option<Self> {
        let fields: &[Field] = match &node.tree {
            Tree::Map(fields) => fields,
            // How Erlang writes a map that is empty.
            Tree::List(items) if items.is_empty() => &[],
            tree => {
                reading.mistake(node.line, &path, format!("must be a map, not {}", tree.kind()));
                return None;
            }
        };
        Some(Self { fields, path, line: node.line, asked: Vec::new() })
    }

    /// A field's whole path.
    fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn line_of(&self, name: &str) -> usize {
        self.fields.iter().find(|field| field.name == name).map_or(self.line, |field| field.line)
    }

    fn mistake(&self, name: &str, what: impl Into<String>, reading: &mut Reading<'_>) {
        reading.mistake(self.line_of(name), &self.key(name), what);
    }

    /// The field, unless it isn't there or null.
    fn get(&mut self, name: &'static str) -> Option<&'n Field> {
        self.asked.push(name);
        self.fields.iter().find(|field| field.name == name && field.value.tree != Tree::Null)
    }

    /// The field as `read` understands it.
    fn read<T>(
        &mut self,
        name: &'static str,
        kind: &str,
        reading: &mut Reading<'_>,
        read: impl Fn(&'n Tree) -> Option<T>,
    ) -> Option<T> {
        let field = self.get(name)?;
        let value = read(&field.value.tree);
        if value.is_none() {
            self.mistake(name, format!("must be {kind}, not {}", field.value.tree.kind()), reading);
        }
        value
    }

    fn text(&mut self, name: &'static str, reading: &mut Reading<'_>) -> Option<String> {
        self.read(name, "a string", reading, |tree| match tree {
            Tree::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    fn required(&mut self, name: &'static str, reading: &mut Reading<'_>) -> String {
        if self.get(name).is_none() {
            // A misspelt one is told of at the end, with what is missing.
            if self.misspelt(name).is_none() {
                self.mistake(name, "is missing", reading);
            }
            return String::new();
        }
        self.text(name, reading).unwrap_or_default()
    }

    /// A text that AMQP can carry as a short string.
    fn limited(&mut self, name: &'static str, reading: &mut Reading<'_>) -> String {
        let text = self.required(name, reading);
        if text.len() > NAME_BYTES_MAX {
            self.mistake(name, format!("is longer than {NAME_BYTES_MAX} octets"), reading);
        }
        text
    }

    /// Such a text that isn't empty.
    fn name(&mut self, name: &'static str, reading: &mut Reading<'_>) -> String {
        let text = self.limited(name, reading);
        if text.is_empty() && matches!(self.get(name).map(|field| &field.value.tree), Some(Tree::Text(_))) {
            self.mistake(name, "must not be empty", reading);
        }
        text
    }

    fn vhost(&mut self, reading: &mut Reading<'_>) -> String {
        match reading.target {
            Target::Vhost(vhost) => {
                self.get("vhost");
                vhost.to_owned()
            }
            _ if reading.names_vhosts => self.required("vhost", reading),
            _ => self.text("vhost", reading).unwrap_or_default(),
        }
    }

    fn boolean(&mut self, name: &'static str, default: bool, reading: &mut Reading<'_>) -> bool {
        let value = self.read(name, "true or false", reading, |tree| match tree {
            Tree::Bool(value) => Some(*value),
            Tree::Text(text) => text.parse().ok(),
            _ => None,
        });
        value.unwrap_or(default)
    }

    fn integer(&mut self, name: &'static str, default: i64, reading: &mut Reading<'_>) -> i64 {
        let value = self.read(name, "an integer", reading, |tree| match tree {
            Tree::Integer(value) => Some(*value),
            _ => None,
        });
        value.unwrap_or(default)
    }

    /// One of a few words.
    fn choice(
        &mut self,
        name: &'static str,
        words: &[&'static str],
        reading: &mut Reading<'_>,
    ) -> Option<&'static str> {
        let text = self.text(name, reading)?;
        let word = words.iter().find(|word| **word == text).copied();
        if word.is_none() {
            reading.remarks.mistakes.push(Remark {
                place: Place::file(reading.path, self.line_of(name)),
                key: self.key(name),
                what: format!("'{text}' is none of {}", words.join(", ")),
                suggestion: nearest(&text, words.iter().copied()).map(str::to_owned),
            });
        }
        word
    }

    fn pattern(
        &mut self,
        name: &'static str,
        compile: impl Fn(&str) -> Result<Pattern, Unusable>,
        reading: &mut Reading<'_>,
    ) -> String {
        let pattern = self.required(name, reading);
        if let Err(unusable) = compile(&pattern) {
            self.mistake(name, unusable.to_string(), reading);
        }
        pattern
    }

    /// A pattern in which `{username}` and the like stand for names.
    fn topic_pattern(&mut self, name: &'static str, reading: &mut Reading<'_>) -> String {
        let pattern = self.required(name, reading);
        if let Err(unusable) = crate::auth::TopicPermission::new(&pattern, "", "user", "vhost") {
            self.mistake(name, unusable.to_string(), reading);
        }
        pattern
    }

    /// A list of tags; RabbitMQ until 3.8 and LavinMQ write them with commas, RabbitMQ 2 had only administrators.
    fn tags(&mut self, reading: &mut Reading<'_>) -> Vec<String> {
        let tags = self.read("tags", "a list of strings", reading, |tree| match tree {
            Tree::Text(text) => {
                let tags = text.split(',').map(|tag| tag.trim().to_owned());
                Some(tags.filter(|tag| !tag.is_empty()).collect())
            }
            Tree::List(items) => items.iter().map(|item| text_of(&item.tree)).collect::<Option<Vec<String>>>(),
            _ => None,
        });
        let administrator = self.path.starts_with("users") && self.boolean("administrator", false, reading);
        tags.unwrap_or_else(|| if administrator { vec!["administrator".to_owned()] } else { Vec::new() })
    }

    fn limits(&mut self, names: &[&'static str], reading: &mut Reading<'_>) -> BTreeMap<String, i64> {
        let mut limits = BTreeMap::new();
        let Some(field) = self.get("limits") else { return limits };
        let Some(mut record) = Record::of(&field.value, self.key("limits"), reading) else { return limits };
        for name in names {
            if record.get(name).is_some() {
                limits.insert((*name).to_owned(), record.integer(name, -1, reading));
            }
        }
        record.finish(reading);
        limits
    }

    fn json(&mut self, name: &'static str, reading: &mut Reading<'_>) -> Json {
        match self.get(name) {
            Some(field) => field.value.tree.to_json(),
            None => {
                if self.misspelt(name).is_none() {
                    self.mistake(name, "is missing", reading);
                }
                Json::Null
            }
        }
    }

    fn map(&mut self, name: &'static str, reading: &mut Reading<'_>) -> Option<serde_json::Map<String, Json>> {
        self.read(name, "a map", reading, |tree| match tree {
            Tree::Map(_) => tree.to_json().as_object().cloned(),
            Tree::List(items) if items.is_empty() => Some(serde_json::Map::new()),
            _ => None,
        })
    }

    fn arguments(&mut self, reading: &mut Reading<'_>) -> Table {
        let fields = self.map("arguments", reading).unwrap_or_default();
        arguments::from_json(&fields).unwrap_or_else(|what| {
            self.mistake("arguments", what, reading);
            Table::default()
        })
    }

    /// The field that was probably meant to be called so.
    fn misspelt(&self, name: &str) -> Option<&'n Field> {
        let unknown = |field: &&Field| !self.asked.contains(&field.name.as_str());
        self.fields.iter().filter(unknown).find(|field| nearest(&field.name, [name]).is_some())
    }

    /// Tells of the fields that nobody asked for: a misspelt one is a mistake, any other is left aside.
    fn finish(&self, reading: &mut Reading<'_>) {
        for field in self.fields {
            if self.asked.contains(&field.name.as_str()) {
                continue;
            }
            match nearest(&field.name, self.asked.iter().copied()) {
                Some(known) => reading.remarks.mistakes.push(Remark {
                    place: Place::file(reading.path, field.line),
                    key: self.key(&field.name),
                    what: "unknown field".to_owned(),
                    suggestion: Some(known.to_owned()),
                }),
                None => {
                    let section = self.path.split('[').next().unwrap_or_default();
                    let key =
                        if section.is_empty() { field.name.clone() } else { format!("{section}[].{}", field.name) };
                    reading.left_aside.entry(key).or_insert((field.line, 0)).1 += 1;
                }
            }
        }
    }
}

fn text_of(tree: &Tree) -> Option<String> {
    match tree {
        Tree::Text(text) => Some(text.clone()),
        _ => None,
    }
}
