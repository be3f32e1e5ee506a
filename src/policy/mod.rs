//! Policies: what an operator says about queues and exchanges by their names, beside or against their arguments.
//!
//! A queue or exchange has at most one policy of each [`Kind`]: of those whose pattern matches its name, whose
//! [`ApplyTo`] covers it and whose keys its type all supports, the one of the highest priority
//! (`rabbit_policy:match_all`). What both kinds say together is [`Applied`]; how that joins with a queue's arguments is
//! said by [`crate::queue::Settings::with_policy`].
//!
//! All of it is plain values: which policies there are, and who is told of a change, is `vhost::policies`' business.

mod definition;

#[cfg(test)]
mod tests;

pub use definition::{Definition, Terms, keys, smaller_limit};

use crate::amqp::term::json_term;
use crate::auth::{PATTERN_BYTES_MAX, Pattern};
use crate::queue::settings::QueueType;
use crate::refusal::Refusal;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Whose policy it is. Each kind has names of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    User,
    /// Limits that users can't lift; it knows fewer keys.
    Operator,
}

/// What a policy may be applied to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum ApplyTo {
    #[default]
    All,
    Exchanges,
    Queues,
    ClassicQueues,
    QuorumQueues,
    Streams,
}

/// A checked policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    pub kind: Kind,
    pub name: Arc<str>,
    pub pattern: Pattern,
    pub apply_to: ApplyTo,
    /// RabbitMQ also takes fractions; nobody ranks policies by them.
    pub priority: i64,
    pub definition: Definition,
}

/// Everything that is wrong with a policy, in RabbitMQ's words and order; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistakes(Vec<String>);

impl Kind {
    /// The name of its runtime parameters' component.
    pub fn component(self) -> &'static str {
        match self {
            Self::User => "policy",
            Self::Operator => "operator_policy",
        }
    }
}

impl ApplyTo {
    pub const ALL: [Self; 6] =
        [Self::All, Self::Exchanges, Self::Queues, Self::ClassicQueues, Self::QuorumQueues, Self::Streams];

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|apply_to| apply_to.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Exchanges => "exchanges",
            Self::Queues => "queues",
            Self::ClassicQueues => "classic_queues",
            Self::QuorumQueues => "quorum_queues",
            Self::Streams => "streams",
        }
    }

    fn covers(self, queue_type: QueueType) -> bool {
        match self {
            Self::All | Self::Queues => true,
            Self::Exchanges => false,
            Self::ClassicQueues => queue_type == QueueType::Classic,
            Self::QuorumQueues => queue_type == QueueType::Quorum,
            Self::Streams => queue_type == QueueType::Stream,
        }
    }
}

impl Policy {
    /// Checks a policy as its fields `pattern`, `definition`, `priority` and `apply-to` say it, be it in definitions or
    /// over HTTP. Other fields are left aside. A pattern that would need look-around or back-references is refused.
    pub fn parse(kind: Kind, name: &str, fields: &Map<String, Json>) -> Result<Self, Mistakes> {
        let missing = |key: &str| format!("Key \"{key}\" not found in {name}");
        // RabbitMQ gathers the answers back to front (`rabbit_parameter_validation:proplist`).
        let definition = match fields.get("definition") {
            None => Err(missing("definition")),
            Some(definition) => Definition::parse(kind, definition),
        };
        let apply_to = match fields.get("apply-to") {
            None => Ok(ApplyTo::default()),
            Some(apply_to) => parse_apply_to(apply_to),
        };
        let pattern = match fields.get("pattern") {
            None => Err(missing("pattern")),
            Some(pattern) => parse_pattern(pattern),
        };
        let priority = match fields.get("priority") {
            None => Ok(0),
            Some(priority) => priority
                .as_i64()
                .ok_or_else(|| format!("priority should be a number, actually was {}", json_term(priority))),
        };
        match (definition, apply_to, pattern, priority) {
            (Ok(definition), Ok(apply_to), Ok(pattern), Ok(priority)) => {
                Ok(Self { kind, name: name.into(), pattern, apply_to, priority, definition })
            }
            (definition, apply_to, pattern, priority) => {
                let mistakes = [definition.err(), apply_to.err(), pattern.err(), priority.err()];
                Err(Mistakes(mistakes.into_iter().flatten().collect()))
            }
        }
    }

    /// The fields it is made of, which [`Policy::parse`] takes.
    pub fn fields(&self) -> Map<String, Json> {
        let mut fields = Map::new();
        fields.insert("pattern".to_owned(), self.pattern.as_str().into());
        fields.insert("apply-to".to_owned(), self.apply_to.name().into());
        fields.insert("definition".to_owned(), Json::Object(self.definition.as_map().clone()));
        fields.insert("priority".to_owned(), self.priority.into());
        fields
    }

    /// Whether it is one for this queue. A policy with a key that the type does not support is none at all.
    fn fits_queue(&self, name: &str, queue_type: QueueType) -> bool {
        self.apply_to.covers(queue_type) && self.definition.suits(queue_type) && self.pattern.matches(name)
    }

    /// Whether it is one for this exchange, whatever its keys.
    fn fits_exchange(&self, name: &str) -> bool {
        matches!(self.apply_to, ApplyTo::All | ApplyTo::Exchanges) && self.pattern.matches(name)
    }
}

fn parse_apply_to(json: &Json) -> Result<ApplyTo, String> {
    let found = json.as_str().and_then(ApplyTo::parse);
    found.ok_or_else(|| {
        let given = json.as_str().map_or_else(|| json_term(json), str::to_owned);
        format!(
            "apply-to '{given}' unrecognised; should be one of: 'queues', 'classic_queues',  'quorum_queues', \
             'streams', 'exchanges', or 'all'"
        )
    })
}

fn parse_pattern(json: &Json) -> Result<Pattern, String> {
    let source = json.as_str().ok_or_else(|| format!("pattern should be a binary but was {}", json_term(json)))?;
    if source.len() > PATTERN_BYTES_MAX {
        return Err(format!("pattern must not exceed {PATTERN_BYTES_MAX} bytes"));
    }
    Pattern::of_policy(source).map_err(|unusable| {
        /// Where RabbitMQ breaks the line after an explanation that gets longer than 80 columns.
        const INDENT: usize = 54;
        let why = match unusable.in_pcre() {
            Some((why, at)) => format!("{{\"{why}\",\n{:INDENT$}{at}}}", ""),
            None => unusable.why().to_owned(),
        };
        format!("pattern should be regular expression but is invalid: {why}")
    })
}

/// On one line, for logs and remarks.
impl fmt::Display for Mistakes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> =
            self.0.iter().map(|mistake| mistake.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        out.write_str(&words.join("; "))
    }
}

impl std::error::Error for Mistakes {}

/// As RabbitMQ answers over HTTP (`rabbit_runtime_parameters:format_error`).
impl From<Mistakes> for Refusal {
    fn from(mistakes: Mistakes) -> Self {
        Self::precondition(format!("Validation failed\n\n{}\n", mistakes.0.join("\n")))
    }
}

/// A virtual host's policies. Of several with the same priority the first by name counts, as in RabbitMQ, which lists
/// them so before it sorts them.
#[derive(Debug, Default)]
pub struct Policies {
    user: BTreeMap<Arc<str>, Arc<Policy>>,
    operator: BTreeMap<Arc<str>, Arc<Policy>>,
}

impl Policies {
    /// Adds a policy, or puts it in the place of the one of its kind and name.
    pub fn set(&mut self, policy: Policy) {
        let policies = match policy.kind {
            Kind::User => &mut self.user,
            Kind::Operator => &mut self.operator,
        };
        policies.insert(Arc::clone(&policy.name), Arc::new(policy));
    }

    /// Says whether it was there.
    pub fn clear(&mut self, kind: Kind, name: &str) -> bool {
        let policies = match kind {
            Kind::User => &mut self.user,
            Kind::Operator => &mut self.operator,
        };
        policies.remove(name).is_some()
    }

    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Policy>> {
        self.of(kind).get(name)
    }

    /// Those of a kind, by name.
    pub fn list(&self, kind: Kind) -> impl Iterator<Item = &Arc<Policy>> {
        self.of(kind).values()
    }

    pub fn for_queue(&self, name: &str, queue_type: QueueType) -> Applied {
        self.applied(|policy| policy.fits_queue(name, queue_type))
    }

    /// Not to be asked for the default exchange, which routes by itself.
    pub fn for_exchange(&self, name: &str) -> Applied {
        self.applied(|policy| policy.fits_exchange(name))
    }

    fn of(&self, kind: Kind) -> &BTreeMap<Arc<str>, Arc<Policy>> {
        match kind {
            Kind::User => &self.user,
            Kind::Operator => &self.operator,
        }
    }

    fn applied(&self, fits: impl Fn(&Policy) -> bool) -> Applied {
        let chosen = |kind| {
            let better =
                |best: Option<&Arc<Policy>>, policy: &Policy| best.is_none_or(|b| policy.priority > b.priority);
            self.list(kind).fold(
                None,
                |best, policy| {
                    if better(best, policy) && fits(policy) { Some(policy) } else { best }
                },
            )
        };
        Applied { policy: chosen(Kind::User).cloned(), operator_policy: chosen(Kind::Operator).cloned() }
    }
}

/// The policies that one queue or exchange has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    pub policy: Option<Arc<Policy>>,
    pub operator_policy: Option<Arc<Policy>>,
}

impl Applied {
    /// What both say together, which HTTP shows as `effective_policy_definition`.
    pub fn definition(&self) -> Option<Definition> {
        match (&self.policy, &self.operator_policy) {
            (None, None) => None,
            (Some(one), None) | (None, Some(one)) => Some(one.definition.clone()),
            (Some(policy), Some(operator)) => Some(policy.definition.merged(&operator.definition)),
        }
    }

    /// The same, typed.
    pub fn terms(&self) -> Terms {
        self.definition().as_ref().map(Definition::terms).unwrap_or_default()
    }
}
