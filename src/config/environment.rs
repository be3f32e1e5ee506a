//! Variables: `LEVERET_` and a setting's name, and those that RabbitMQ's image has.
//!
//! An empty variable counts as absent, since that is what Compose makes of one that isn't set. `<VARIABLE>_FILE` names
//! a file that holds the value, for secrets; RabbitMQ's image once had that and its users ask for it back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::layers::Layers;
use super::rabbitmq_conf::{self, Lines};
use super::settings::{SETTINGS, Setting};
use crate::written::{Place, Remark, Remarks, Tree, nearest};

/// The variables that have a value.
pub struct Environment<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Environment<'a> {
    pub fn of(variables: &'a [(String, String)]) -> Self {
        let filled = variables.iter().filter(|(_, value)| !value.is_empty());
        Self(filled.map(|(name, value)| (name.as_str(), value.as_str())).collect())
    }

    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).copied()
    }

    /// Lays what the variables say over what is there: RabbitMQ's first, so that ours cover them.
    pub fn apply(&self, layers: &mut Layers, remarks: &mut Remarks) {
        self.apply_erlang_arguments(layers, remarks);
        self.apply_mnesia_base(layers);
        for setting in SETTINGS {
            for variable in setting.variables {
                self.apply_variable(setting, variable, layers, remarks);
            }
        }
        self.apply_node_address(layers);
        self.warn_of_rabbitmqs_others(remarks);
        for setting in SETTINGS {
            self.apply_variable(setting, &setting.variable(), layers, remarks);
        }
        self.warn_of_unknown(remarks);
    }

    fn apply_variable(&self, setting: &'static Setting, variable: &str, layers: &mut Layers, remarks: &mut Remarks) {
        let file_variable = format!("{variable}_FILE");
        match (self.get(variable).filter(|value| !is_service_link(value)), self.get(&file_variable)) {
            (Some(_), Some(_)) => {
                remarks.mistake(Place::Environment, variable, format!("is set, and {file_variable} as well"));
            }
            (Some(value), None) => layers.set(setting, Tree::Text(value.to_owned()), Place::Environment, variable),
            (None, Some(path)) => match fs::read_to_string(path) {
                Ok(value) => {
                    let value = value.trim_end_matches(['\r', '\n']).to_owned();
                    layers.set(setting, Tree::Text(value), Place::Environment, file_variable);
                }
                Err(error) => {
                    remarks.mistake(Place::Environment, file_variable, format!("{path} can't be read: {error}"));
                }
            },
            (None, None) => {}
        }
    }

    /// RabbitMQ keeps a node's data in a folder of this one. Ours has its own, whatever the node's name: it must never
    /// be the folder that holds RabbitMQ's data.
    fn apply_mnesia_base(&self, layers: &mut Layers) {
        const NAME: &str = "RABBITMQ_MNESIA_BASE";
        if let (Some(base), Some(setting)) = (self.get(NAME), Setting::of("data_dir")) {
            let path = Path::new(base).join("leveret").to_string_lossy().into_owned();
            layers.set(setting, Tree::Text(path), Place::Environment, NAME);
        }
    }

    /// RabbitMQ's address and port of the AMQP listener are two variables, and either may be missing.
    fn apply_node_address(&self, layers: &mut Layers) {
        const NAMES: [&str; 2] = ["RABBITMQ_NODE_IP_ADDRESS", "RABBITMQ_NODE_PORT"];
        let (address, port) = (self.get(NAMES[0]).filter(|address| *address != "auto"), self.get(NAMES[1]));
        let port = port.filter(|port| !is_service_link(port));
        let (value, name) = match (address, port) {
            (Some(address), port) => (format!("{address}:{}", port.unwrap_or("5672")), NAMES[0]),
            (None, Some(port)) => (port.to_owned(), NAMES[1]),
            (None, None) => return,
        };
        if let Some(setting) = Setting::of("amqp_port") {
            layers.set(setting, Tree::Text(value), Place::Environment, name);
        }
    }

    /// `RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS`, where people put settings as `-rabbit heartbeat 30`: those of RabbitMQ
    /// and of its management are taken for lines of a `rabbitmq.conf`. Anything else is for Erlang alone.
    fn apply_erlang_arguments(&self, layers: &mut Layers, remarks: &mut Remarks) {
        const NAME: &str = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS";
        let mut lines = Lines::default();
        let mut application = "";
        let tokens = erlang_tokens(self.get(NAME).unwrap_or_default());
        let mut tokens = tokens.iter();
        while let Some(token) = tokens.next() {
            if let Some(name) = token.strip_prefix('-') {
                application = name;
                continue;
            }
            let prefix = match application {
                "rabbit" => "",
                "rabbitmq_management" => "management.",
                _ => continue,
            };
            let key = format!("{prefix}{token}");
            match tokens.next() {
                Some(value) if !value.starts_with(['[', '{', '<']) => lines.set(key, value.clone(), Place::Environment),
                _ => remarks.warn(Place::Environment, NAME, format!("{key} has an Erlang term as its value; ignored")),
            }
        }
        rabbitmq_conf::apply(lines, layers, remarks);
    }

    fn warn_of_rabbitmqs_others(&self, remarks: &mut Remarks) {
        const WITHOUT_EFFECT: [(&str, &str); 3] = [
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "names a file in Erlang's format, which is not understood; ignored"),
            ("RABBITMQ_VM_MEMORY_HIGH_WATERMARK", "has no effect; see LEVERET_MESSAGES_MEMORY"),
            ("RABBITMQ_CONF_ENV_FILE", "names a shell script, which is not run; ignored"),
        ];
        for (name, what) in WITHOUT_EFFECT {
            if self.get(name).is_some() {
                remarks.warn(Place::Environment, name, what);
            }
        }
        if self.get("RABBITMQ_LOGS").is_some_and(|path| path != "-") {
            remarks.warn(Place::Environment, "RABBITMQ_LOGS", "has no effect: logs are written to standard output");
        }
        for name in self.0.keys().filter(|name| name.starts_with("RABBITMQ_MANAGEMENT_SSL_")) {
            remarks.warn(Place::Environment, *name, "has no effect: the management API is served without TLS");
        }
    }

    /// A variable with our prefix that is no setting is likely a misspelt one; but others may set some as well, so
    /// it's no mistake.
    fn warn_of_unknown(&self, remarks: &mut Remarks) {
        /// Of the tools that talk to a running broker, and of where settings are.
        const OTHERS: [&str; 6] =
            ["LEVERET_CONFIG", "LEVERET_URL", "LEVERET_USER", "LEVERET_PASSWORD", "LEVERET_CACERT", "LEVERET_PERF_URI"];
        let known: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
        for (&name, value) in &self.0 {
            let plain = name.strip_suffix("_FILE").unwrap_or(name);
            let kubernetes = ["LEVERET_SERVICE_", "LEVERET_PORT"].iter().any(|start| name.starts_with(start));
            let ours = name.starts_with("LEVERET_") && !OTHERS.contains(&name);
            if ours && !kubernetes && !is_service_link(value) && !known.iter().any(|known| known == plain) {
                remarks.warnings.push(Remark {
                    place: Place::Environment,
                    key: name.to_owned(),
                    what: "is no setting; ignored".to_owned(),
                    suggestion: nearest(name, known.iter().map(String::as_str)).map(str::to_owned),
                });
            }
        }
    }
}

/// Kubernetes sets `<SERVICE>_PORT=tcp://10.0.0.1:5672` in every pod: a service called `leveret-amqp` or
/// `rabbitmq-node` would be taken for a setting.
fn is_service_link(value: &str) -> bool {
    value.starts_with("tcp://") || value.starts_with("udp://")
}

/// The words of an argument line; double quotes and brackets hold one together.
fn erlang_tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut token = String::new();
    let mut quoted = false;
    let mut open = 0_u32;
    for letter in text.chars() {
        match letter {
            '[' | '{' => open += 1,
            ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        match letter {
            '"' => quoted = !quoted,
            _ if letter.is_whitespace() && !quoted && open == 0 => tokens.push(std::mem::take(&mut token)),
            _ => token.push(letter),
        }
    }
    tokens.push(token);
    tokens.retain(|token| !token.is_empty());
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erlang_arguments_are_split_at_spaces_outside_quotes_and_brackets() {
        assert_eq!(
            erlang_tokens(
                r#"-rabbitmq_management load_definitions "/a b.json"  -rabbit log [{console, [{level, debug}]}]"#
            ),
            [
                "-rabbitmq_management",
                "load_definitions",
                "/a b.json",
                "-rabbit",
                "log",
                "[{console, [{level, debug}]}]"
            ]
        );
    }
}
