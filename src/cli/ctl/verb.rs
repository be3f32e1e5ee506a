//! A verb of the tools: what it is called, what it takes, and what it does to the broker.

use std::time::Duration;

use clap::ArgMatches;
use serde_json::Value as Json;

use super::output::{Formatter, Output};
use crate::cli::api::{self, Api, segment};

/// What the tools end with: RabbitMQ's choice among the codes of sysexits.h.
pub mod exit {
    pub const OK: u8 = 0;
    /// Wrong arguments.
    pub const USAGE: u8 = 64;
    /// What is named is not there, or is no such thing.
    pub const DATA: u8 = 65;
    pub const NO_USER: u8 = 67;
    /// The broker is not there, or says no.
    pub const UNAVAILABLE: u8 = 69;
    pub const SOFTWARE: u8 = 70;
    /// Not in time.
    pub const TEMPORARY: u8 = 75;
    pub const CONFIG: u8 = 78;
}

pub struct Verb {
    pub name: &'static str,
    /// As help shows them: `<name>` must be there, `[<name>]` may, `...` any number of.
    pub arguments: &'static str,
    pub switches: &'static [Switch],
    pub group: &'static str,
    pub about: &'static str,
    /// What is said first, unless nobody wants to hear it.
    pub banner: Option<fn(&Call) -> String>,
    pub run: fn(&Call) -> Outcome,
}

/// An option that one verb has.
#[derive(Clone, Copy)]
pub struct Switch {
    pub name: &'static str,
    pub short: Option<char>,
    /// What it takes; `None`: nothing, it is said or not.
    pub value: Option<&'static str>,
    pub about: &'static str,
}

impl Switch {
    pub const fn flag(name: &'static str, about: &'static str) -> Self {
        Self { name, short: None, value: None, about }
    }

    pub const fn value(name: &'static str, value: &'static str, about: &'static str) -> Self {
        Self { name, short: None, value: Some(value), about }
    }

    pub const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }
}

impl Verb {
    /// How many arguments it takes, at least and at most.
    pub fn arity(&self) -> (usize, usize) {
        let words = self.arguments.split_whitespace();
        let required = words.clone().filter(|word| word.starts_with('<') && !word.contains("...")).count();
        let many = self.arguments.contains("...");
        let optional = words.filter(|word| word.starts_with('[')).count();
        (required, if many { usize::MAX } else { required + optional })
    }
}

pub type Outcome = Result<Output, Failure>;

/// Why a verb comes to nothing: what is said, and the code to end with.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub text: String,
}

impl Failure {
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// With the line that `rabbitmqctl` puts above most errors.
    pub fn error(code: u8, text: impl std::fmt::Display) -> Self {
        Self::new(code, format!("Error:\n{text}"))
    }

    pub fn no_vhost(name: &str) -> Self {
        Self::new(exit::DATA, format!("Virtual host '{name}' does not exist"))
    }

    pub fn no_user(name: &str) -> Self {
        Self::error(exit::NO_USER, format!("User \"{name}\" does not exist"))
    }

    pub fn not_found() -> Self {
        Self::new(exit::DATA, "Object (queue, stream, exchange, etc) was not found")
    }
}

impl From<api::Failure> for Failure {
    fn from(failure: api::Failure) -> Self {
        match failure {
            api::Failure::Unreachable(why) => Self::new(
                exit::UNAVAILABLE,
                format!(
                    "Error: unable to perform an operation on the node: its management API can't be reached.\n\n{why}\n\n\
                     Most common reasons for this are:\n\n \
                     * The broker is not running, or its HTTP listener has another port (see --url and LEVERET_URL)\n \
                     * It is on another machine, and listens on this one's loopback only"
                ),
            ),
            api::Failure::Late(why) => Self::new(exit::TEMPORARY, format!("Error: the operation timed out. {why}")),
            api::Failure::Refused { status: 401 | 403, reason, .. } => Self::error(
                exit::UNAVAILABLE,
                format!(
                    "{}. Say who asks with --username and --password, or LEVERET_USER and LEVERET_PASSWORD",
                    if reason.is_empty() { "not authorised" } else { &reason }
                ),
            ),
            refused => Self::error(exit::UNAVAILABLE, refused),
        }
    }
}

/// One use of a verb.
pub struct Call {
    pub api: Api,
    /// The name that the tool was called by.
    pub tool: &'static str,
    /// As texts of RabbitMQ name it.
    pub node: String,
    pub vhost: String,
    pub arguments: Vec<String>,
    pub formatter: Formatter,
    /// How long the whole may take, if that is said.
    pub timeout: Option<Duration>,
    pub matches: ArgMatches,
}

impl Call {
    /// An argument; the empty text if it is not there.
    pub fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).map_or("", String::as_str)
    }

    pub fn is_said(&self, switch: &str) -> bool {
        matches!(self.matches.try_get_one::<bool>(switch), Ok(Some(true)))
    }

    pub fn value(&self, switch: &str) -> Option<&str> {
        self.matches.try_get_one::<String>(switch).ok().flatten().map(String::as_str)
    }

    /// Whether the virtual host was named, and not only taken for granted.
    pub fn names_vhost(&self) -> bool {
        self.value("vhost").is_some()
    }

    /// The virtual host as a part of a path.
    pub fn vhost_segment(&self) -> String {
        segment(&self.vhost)
    }

    /// Refuses a virtual host that is not there.
    pub fn check_vhost(&self) -> Result<(), Failure> {
        self.get_vhost().map(drop)
    }

    pub fn get_vhost(&self) -> Result<Json, Failure> {
        self.api.get(&format!("/vhosts/{}", self.vhost_segment())).map_err(|failure| match failure.status() {
            Some(404) => Failure::no_vhost(&self.vhost),
            _ => failure.into(),
        })
    }

    /// An argument that is JSON.
    pub fn json(&self, index: usize) -> Result<Json, Failure> {
        let text = self.argument(index);
        serde_json::from_str(text).map_err(|_| {
            let why = format!("Could not parse JSON document: {{error,{{failed_to_decode_json,<<\"{text}\">>}}}}");
            Failure::error(exit::UNAVAILABLE, why)
        })
    }
}

/// Something that was sent and has no answer worth showing.
pub fn done(answer: Result<Json, api::Failure>) -> Outcome {
    answer?;
    Ok(Output::Nothing)
}
