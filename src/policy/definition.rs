//! What a policy says: a few known keys, checked as RabbitMQ checks them.
//!
//! Every key that RabbitMQ 4.3 or one of its plugins knows is known here, kept and shown. Those that have an effect
//! are [`Terms`].

use super::Kind;
use crate::amqp::term::json_term;
use crate::auth::{PATTERN_BYTES_MAX, Pattern};
use crate::queue::settings::{Overflow, QueueType, SEGMENT_BYTES_MAX, max_age_ms};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// A checked definition as it was written; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition(Map<String, Json>);

/// The keys of a definition that have an effect, typed. `None` is what it leaves open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    pub message_ttl_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    pub max_length: Option<u64>,
    pub max_length_bytes: Option<u64>,
    pub overflow: Option<Overflow>,
    pub dead_letter_exchange: Option<Arc<str>>,
    pub dead_letter_routing_key: Option<Arc<str>>,
    pub dead_letter_at_least_once: Option<bool>,
    pub delivery_limit: Option<i64>,
    pub consumer_timeout_ms: Option<u64>,
    /// One of [`RETRIED`]: `disabled` says more than nothing, since it lifts what arguments ask for.
    pub delayed_retry_type: Option<Arc<str>>,
    pub delayed_retry_min_ms: Option<u64>,
    pub delayed_retry_max_ms: Option<u64>,
    pub alternate_exchange: Option<Arc<str>>,
}

/// The words of `delayed-retry-type`.
const RETRIED: [&str; 4] = ["all", "failed", "returned", "disabled"];

/// A key, what its value may be and how an operator's joins with a user's.
struct Key {
    name: &'static str,
    check: Check,
    /// What RabbitMQ writes behind a value that is wrong.
    wrong: &'static str,
    /// How it joins; `None` if operator policies don't know it.
    merge: Option<Merge>,
}

enum Check {
    Text,
    NotEmpty,
    Integer,
    /// An integer in this range; what is larger than any is as good as the largest.
    Within(i64, i64),
    OneOf(&'static [&'static str]),
    MaxAge,
    /// A regular expression.
    Pattern,
    /// Known, and no longer permitted.
    Deprecated,
    Shards,
    /// Of a sharded exchange, and nothing without `shards-per-node`.
    ShardKey,
}

/// What counts if both a user's and an operator's policy have a key (`rabbit_policies:merge_policy_value`,
/// `rabbit_quorum_queue:merge_policy_value`).
enum Merge {
    Smaller,
    Larger,
    Operator,
    /// The smaller, but a negative number, which is no limit, yields to any.
    SmallerLimit,
}

const NOT_NEGATIVE: Check = Check::Within(0, i64::MAX);
const POSITIVE: Check = Check::Within(1, i64::MAX);
const LOCATORS: &[&str] = &["client-local", "balanced", "random", "least-leaders"];
const FEDERATION: [&str; 3] = ["federation-upstream", "federation-upstream-pattern", "federation-upstream-set"];

const fn key(name: &'static str, check: Check, wrong: &'static str) -> Key {
    Key { name, check, wrong, merge: None }
}

const fn limited(name: &'static str, check: Check, wrong: &'static str, merge: Merge) -> Key {
    Key { name, check, wrong, merge: Some(merge) }
}

/// In the order in which RabbitMQ names the first mistake: a module's keys by name, and module after module.
#[rustfmt::skip]
const KEYS: [Key; 32] = [
    // rabbit_classic_queue
    limited("queue-master-locator", Check::Deprecated, "use of deprecated queue-master-locator argument is not permitted", Merge::Operator),
    // rabbit_policies
    key("alternate-exchange", Check::Text, "is not a valid alternate exchange name"),
    key("consumer-disconnected-timeout", NOT_NEGATIVE, "is not a valid consumer disconnected timeout"),
    key("consumer-timeout", NOT_NEGATIVE, "is not a valid consumer timeout"),
    key("dead-letter-exchange", Check::Text, "is not a valid dead letter exchange name"),
    key("dead-letter-routing-key", Check::Text, "is not a valid dead letter routing key"),
    key("dead-letter-strategy", Check::OneOf(&["at-most-once", "at-least-once"]), "is not a valid dead letter strategy"),
    limited("delivery-limit", Check::Integer, "is not a valid delivery limit", Merge::SmallerLimit),
    limited("expires", POSITIVE, "is not a valid queue expiry", Merge::Smaller),
    key("initial-cluster-size", NOT_NEGATIVE, "is not a valid cluster size"),
    key("max-age", Check::MaxAge, "is not a valid max age"),
    limited("max-in-memory-bytes", NOT_NEGATIVE, "is not a valid maximum memory in bytes", Merge::Smaller),
    limited("max-in-memory-length", NOT_NEGATIVE, "is not a valid maximum memory in bytes", Merge::Smaller),
    limited("max-length", NOT_NEGATIVE, "is not a valid maximum length", Merge::Smaller),
    limited("max-length-bytes", NOT_NEGATIVE, "is not a valid maximum length in bytes", Merge::Smaller),
    limited("message-ttl", NOT_NEGATIVE, "is not a valid message TTL", Merge::Smaller),
    limited("overflow", Check::OneOf(&["drop-head", "reject-publish", "reject-publish-dlx"]), "is not a valid overflow value", Merge::Operator),
    key("queue-leader-locator", Check::OneOf(LOCATORS), "is not a valid queue leader locator value"),
    key("queue-mode", Check::OneOf(&["default", "lazy"]), "is not a valid queue-mode value"),
    limited("queue-version", Check::Within(1, 2), "is not a valid queue-version value", Merge::Operator),
    key("stream-filter-size-bytes", Check::Within(16, 255), "is not a valid filter size. Valid range is 16-255"),
    key("stream-max-segment-size-bytes", Check::Within(0, SEGMENT_BYTES_MAX), "is not a valid segment size"),
    // rabbit_quorum_queue
    limited("delayed-retry-max", POSITIVE, "is not a valid delayed retry maximum delay. Must be a positive integer", Merge::Smaller),
    limited("delayed-retry-min", POSITIVE, "is not a valid delayed retry minimum delay. Must be a positive integer", Merge::Larger),
    limited("delayed-retry-type", Check::OneOf(&RETRIED), "is not a valid delayed retry type. Must be one of: all, failed, returned, disabled", Merge::Operator),
    limited("member-placement-tag", Check::NotEmpty, "is not a valid member-placement-tag value. Must be a non-empty string", Merge::Operator),
    limited("target-group-size", POSITIVE, "is not a valid qq target count value", Merge::Larger),
    // rabbit_federation_parameters
    key(FEDERATION[0], Check::Text, "is not a valid federation upstream name"),
    key(FEDERATION[1], Check::Pattern, "is not a valid federation upstream pattern name"),
    key(FEDERATION[2], Check::Text, "is not a valid federation upstream set name"),
    // rabbit_sharding_policy_validator
    key("shards-per-node", Check::Shards, "shards-per-node should be a number, actually was"),
    key("routing-key", Check::ShardKey, "routing-key should be binary, actually was"),
];

/// The keys that policies of this kind know.
pub fn keys(kind: Kind) -> impl Iterator<Item = &'static str> {
    known(kind).map(|key| key.name)
}

fn known(kind: Kind) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| kind == Kind::User || key.merge.is_some())
}

/// The keys that a type of queue does not support: one of them, and the policy is none for such a queue
/// (`unsupported_policies` of the types' `capabilities`).
fn unsupported(queue_type: QueueType) -> &'static [&'static str] {
    match queue_type {
        QueueType::Classic => &[
            "max-age",
            "stream-max-segment-size-bytes",
            "initial-cluster-size",
            "delivery-limit",
            "dead-letter-strategy",
            "max-in-memory-length",
            "max-in-memory-bytes",
            "target-group-size",
        ],
        QueueType::Quorum => {
            &["queue-mode", "queue-master-locator", "max-age", "stream-max-segment-size-bytes", "initial-cluster-size"]
        }
        QueueType::Stream => &[
            "expires",
            "message-ttl",
            "dead-letter-exchange",
            "dead-letter-routing-key",
            "max-length",
            "max-in-memory-length",
            "max-in-memory-bytes",
            "overflow",
            "queue-mode",
            "delivery-limit",
            "queue-master-locator",
            "dead-letter-strategy",
            "target-group-size",
        ],
    }
}

impl Definition {
    /// Checks a definition. An error is the first mistake, in RabbitMQ's words.
    pub fn parse(kind: Kind, json: &Json) -> Result<Self, String> {
        let fields = match json {
            Json::Object(fields) => fields,
            // How Erlang writes a map that is empty.
            Json::Array(items) if items.is_empty() => return Err("no policy provided".to_owned()),
            other => return Err(format!("definition must be a dictionary: {}", json_term(other))),
        };
        if fields.is_empty() {
            return Err("no policy provided".to_owned());
        }
        for key in known(kind) {
            if let Some(value) = fields.get(key.name) {
                key.check(value, fields)?;
            }
        }
        check_together(fields)?;
        let mut unknown: Vec<_> =
            fields.iter().filter(|(name, _)| known(kind).all(|key| key.name != name.as_str())).collect();
        if unknown.is_empty() {
            return Ok(Self(fields.clone()));
        }
        unknown.sort_by_key(|(name, _)| *name);
        let term = |name: &str| json_term(&Json::from(name));
        let terms: Vec<_> =
            unknown.iter().map(|(name, value)| format!("{{{},{}}}", term(name), json_term(value))).collect();
        Err(format!("[{}] are not recognised policy settings", terms.join(",")))
    }

    /// As it was written.
    pub fn as_map(&self) -> &Map<String, Json> {
        &self.0
    }

    /// Whether a queue of this type supports all of its keys.
    pub(super) fn suits(&self, queue_type: QueueType) -> bool {
        unsupported(queue_type).iter().all(|key| !self.0.contains_key(*key))
    }

    /// This one, a user's, under an operator's.
    pub(super) fn merged(&self, operator: &Self) -> Self {
        let mut merged = self.0.clone();
        for (name, theirs) in &operator.0 {
            let merge = KEYS.iter().find(|key| key.name == name.as_str()).and_then(|key| key.merge.as_ref());
            let ours_counts = match (merged.get(name), merge) {
                (Some(ours), Some(merge)) => merge.keeps(ours, theirs),
                _ => false,
            };
            if !ours_counts {
                merged.insert(name.clone(), theirs.clone());
            }
        }
        Self(merged)
    }

    pub fn terms(&self) -> Terms {
        let text = |key: &str| self.0.get(key).and_then(Json::as_str);
        let name = |key: &str| text(key).map(Arc::from);
        let number = |key: &str| self.0.get(key).and_then(Json::as_u64);
        Terms {
            message_ttl_ms: number("message-ttl"),
            expires_ms: number("expires"),
            max_length: number("max-length"),
            max_length_bytes: number("max-length-bytes"),
            overflow: text("overflow").and_then(Overflow::parse),
            dead_letter_exchange: name("dead-letter-exchange"),
            dead_letter_routing_key: name("dead-letter-routing-key"),
            dead_letter_at_least_once: text("dead-letter-strategy").map(|strategy| strategy == "at-least-once"),
            delivery_limit: self.0.get("delivery-limit").and_then(as_integer),
            consumer_timeout_ms: number("consumer-timeout"),
            delayed_retry_type: name("delayed-retry-type"),
            delayed_retry_min_ms: number("delayed-retry-min"),
            delayed_retry_max_ms: number("delayed-retry-max"),
            alternate_exchange: name("alternate-exchange"),
        }
    }
}

/// An integer; one that is too large for 64 bits with a sign is the largest.
fn as_integer(json: &Json) -> Option<i64> {
    json.as_i64().or_else(|| json.as_u64().map(|_| i64::MAX))
}

impl Key {
    fn check(&self, value: &Json, fields: &Map<String, Json>) -> Result<(), String> {
        let sound = match &self.check {
            Check::Text => value.is_string(),
            Check::NotEmpty => value.as_str().is_some_and(|text| !text.is_empty()),
            Check::Integer => as_integer(value).is_some(),
            Check::Within(min, max) => as_integer(value).is_some_and(|number| (*min..=*max).contains(&number)),
            Check::OneOf(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Check::MaxAge => value.as_str().and_then(max_age_ms).is_some(),
            Check::Pattern => return self.check_pattern(value),
            Check::Deprecated => return Err(self.wrong.to_owned()),
            Check::Shards => return self.check_shards(value),
            Check::ShardKey if !fields.contains_key("shards-per-node") => {
                return Err("shards-per-node must be specified".to_owned());
            }
            Check::ShardKey if !value.is_string() => return Err(format!("{} {}", self.wrong, json_term(value))),
            Check::ShardKey => true,
        };
        if sound { Ok(()) } else { Err(format!("{} {}", json_term(value), self.wrong)) }
    }

    fn check_pattern(&self, value: &Json) -> Result<(), String> {
        let Some(source) = value.as_str() else { return Err(format!("{} {}", json_term(value), self.wrong)) };
        if source.len() > PATTERN_BYTES_MAX {
            return Err(format!("{} must not exceed {PATTERN_BYTES_MAX} bytes", self.name));
        }
        Pattern::of_policy(source).map(drop).map_err(|unusable| {
            format!("could not compile pattern {source} to a regular expression. Error: {}", unusable.why())
        })
    }

    fn check_shards(&self, value: &Json) -> Result<(), String> {
        match value.as_f64() {
            None => Err(format!("{} {}", self.wrong, json_term(value))),
            Some(number) if number < 0.0 => {
                Err(format!("shards-per-node should be greater than 0, actually was {}", json_term(value)))
            }
            Some(_) => Ok(()),
        }
    }
}

/// Keys that must fit each other (`rabbit_quorum_queue:validate_delayed_retry_constraints`,
/// `rabbit_federation_parameters:validate_policy`).
fn check_together(fields: &Map<String, Json>) -> Result<(), String> {
    let number = |key: &str| fields.get(key).and_then(as_integer);
    let (min, max) = (number("delayed-retry-min"), number("delayed-retry-max"));
    if let (Some(kind), None) = (fields.get("delayed-retry-type").and_then(Json::as_str), min)
        && kind != "disabled"
    {
        return Err(format!("delayed-retry-min is required when delayed-retry-type is {kind}"));
    }
    if let (Some(min), Some(max)) = (min, max)
        && max < min
    {
        return Err(format!("delayed-retry-max ({max}) must not be smaller than delayed-retry-min ({min})"));
    }
    if FEDERATION.iter().filter(|key| fields.contains_key(**key)).count() > 1 {
        return Err("cannot specify federation-upstream, federation-upstream-set or federation-upstream-pattern \
                    together"
            .to_owned());
    }
    Ok(())
}

impl Merge {
    /// Whether the user's value counts.
    fn keeps(&self, user: &Json, operator: &Json) -> bool {
        let (Some(ours), Some(theirs)) = (as_integer(user), as_integer(operator)) else { return false };
        match self {
            Self::Smaller => ours < theirs,
            Self::Larger => ours > theirs,
            Self::Operator => false,
            Self::SmallerLimit => smaller_limit(ours, theirs) == ours,
        }
    }
}

/// Of two limits the stricter, where a negative one is none.
pub fn smaller_limit(one: i64, other: i64) -> i64 {
    if one < 0 || other < 0 { one.max(other) } else { one.min(other) }
}
