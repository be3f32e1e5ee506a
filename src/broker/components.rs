//! What runtime parameters may say: the components there are, and RabbitMQ's checks and words for each
//! (`rabbit_parameter_validation`, `rabbit_shovel_parameters`, `rabbit_federation_parameters`, `rabbit_vhost_limit`).

use crate::amqp::term::json_term;
use serde_json::{Map, Value as Json};
use std::borrow::Cow;

/// Who a parameter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Has a door of its own, and is refused as a parameter.
    Policy,
    OperatorPolicy,
    VhostLimits,
    Shovel,
    FederationUpstream,
    FederationUpstreamSet,
}

impl Component {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "policy" => Self::Policy,
            "operator_policy" => Self::OperatorPolicy,
            "vhost-limits" => Self::VhostLimits,
            "shovel" => Self::Shovel,
            "federation-upstream" => Self::FederationUpstream,
            "federation-upstream-set" => Self::FederationUpstreamSet,
            _ => return None,
        })
    }

    /// Everything that is wrong with a value, in RabbitMQ's order. What a policy says is checked where it is made.
    pub fn mistakes(self, name: &str, value: &Json) -> Vec<String> {
        match self {
            Self::Policy => Vec::new(),
            Self::OperatorPolicy => check_fields(name, &POLICY, value),
            Self::VhostLimits => {
                let keys = [optional("max-connections", Check::Integer), optional("max-queues", Check::Integer)];
                check_fields(name, &keys, value)
            }
            Self::Shovel => shovel(name, value),
            Self::FederationUpstream => {
                let keys: Vec<_> = [mandatory("uri", Check::Uri)].into_iter().chain(LINK).collect();
                check_fields(name, &keys, value)
            }
            Self::FederationUpstreamSet => {
                let keys: Vec<_> = [mandatory("upstream", Check::Text)].into_iter().chain(LINK).collect();
                match value {
                    Json::Array(upstreams) => {
                        upstreams.iter().flat_map(|upstream| check_fields(name, &keys, upstream)).collect()
                    }
                    _ => vec![format!("{name} not a list {}", json_term(value))],
                }
            }
        }
    }
}

/// A field that a value may have.
#[derive(Clone, Copy)]
struct Key {
    name: &'static str,
    check: Check,
    is_mandatory: bool,
}

#[derive(Clone, Copy)]
enum Check {
    Anything,
    Text,
    /// A queue's name.
    Name,
    Number,
    Integer,
    Boolean,
    Table,
    OneOf(&'static [&'static str]),
    /// One or several.
    Uri,
    /// When a shovel has done its work.
    DeleteAfter,
    /// Whole seconds, more than none.
    Seconds,
    /// The properties of a message.
    Properties,
    /// Whose a shovel is that a plugin made.
    InternalOwner,
}

const fn optional(name: &'static str, check: Check) -> Key {
    Key { name, check, is_mandatory: false }
}

const fn mandatory(name: &'static str, check: Check) -> Key {
    Key { name, check, is_mandatory: true }
}

const ACK_MODES: Check = Check::OneOf(&["no-ack", "on-publish", "on-confirm"]);
const PROTOCOLS: Check = Check::OneOf(&["amqp091", "amqp10", "local"]);

/// What a policy has, and must have as a parameter.
const POLICY: [Key; 4] = [
    mandatory("priority", Check::Anything),
    mandatory("pattern", Check::Anything),
    optional("apply-to", Check::Anything),
    mandatory("definition", Check::Anything),
];

/// What a federation's upstream and a member of a set of them have in common.
const LINK: [Key; 14] = [
    optional("exchange", Check::Text),
    optional("queue", Check::Text),
    optional("consumer-tag", Check::Text),
    optional("prefetch-count", Check::Number),
    optional("reconnect-delay", Check::Number),
    optional("max-hops", Check::Number),
    optional("expires", Check::Number),
    optional("message-ttl", Check::Number),
    optional("trust-user-id", Check::Boolean),
    optional("ack-mode", ACK_MODES),
    optional("resource-cleanup-mode", Check::OneOf(&["default", "never"])),
    optional("queue-type", Check::OneOf(&["classic", "quorum"])),
    optional("bind-nowait", Check::Boolean),
    optional("channel-use-mode", Check::OneOf(&["multiple", "single"])),
];

const SHOVEL: [Key; 6] = [
    optional("internal", Check::Boolean),
    optional("internal_owner", Check::InternalOwner),
    optional("reconnect-delay", Check::Number),
    optional("ack-mode", ACK_MODES),
    optional("src-protocol", PROTOCOLS),
    optional("dest-protocol", PROTOCOLS),
];

const FROM_AMQP_0_9_1: [Key; 13] = [
    mandatory("src-uri", Check::Uri),
    optional("src-exchange", Check::Text),
    optional("src-exchange-key", Check::Text),
    optional("src-queue", Check::Text),
    optional("src-queue-args", Check::Table),
    optional("src-consumer-args", Check::Table),
    optional("src-consumer-name", Check::Text),
    optional("prefetch-count", Check::Number),
    optional("src-prefetch-count", Check::Number),
    optional("delete-after", Check::DeleteAfter),
    optional("src-delete-after", Check::DeleteAfter),
    optional("src-delete-after-duration", Check::Seconds),
    optional("src-predeclared", Check::Boolean),
];

const TO_AMQP_0_9_1: [Key; 12] = [
    mandatory("dest-uri", Check::Uri),
    optional("dest-exchange", Check::Text),
    optional("dest-exchange-key", Check::Text),
    optional("dest-queue", Check::Name),
    optional("dest-queue-args", Check::Table),
    optional("add-forward-headers", Check::Boolean),
    optional("add-timestamp-header", Check::Boolean),
    optional("dest-add-forward-headers", Check::Boolean),
    optional("dest-add-timestamp-header", Check::Boolean),
    optional("publish-properties", Check::Properties),
    optional("dest-publish-properties", Check::Properties),
    optional("dest-predeclared", Check::Boolean),
];

const FROM_AMQP_1_0: [Key; 8] = [
    mandatory("src-uri", Check::Uri),
    mandatory("src-address", Check::Text),
    optional("src-prefetch-count", Check::Number),
    optional("src-consumer-name", Check::Text),
    optional("src-delete-after", Check::DeleteAfter),
    optional("src-delete-after-duration", Check::Seconds),
    optional("src-predeclared", Check::Boolean),
    optional("src-consumer-args", Check::Table),
];

const TO_AMQP_1_0: [Key; 8] = [
    mandatory("dest-uri", Check::Uri),
    mandatory("dest-address", Check::Text),
    optional("dest-add-forward-headers", Check::Boolean),
    optional("dest-add-timestamp-header", Check::Boolean),
    optional("dest-application-properties", Check::Table),
    optional("dest-message-annotations", Check::Table),
    optional("dest-properties", Check::Table),
    optional("dest-predeclared", Check::Boolean),
];

/// A shovel within the broker knows a few keys less than one over AMQP 0-9-1.
const NOT_LOCAL: [&str; 7] = [
    "prefetch-count",
    "src-prefetch-count",
    "delete-after",
    "add-forward-headers",
    "add-timestamp-header",
    "publish-properties",
    "dest-publish-properties",
];

fn shovel(name: &str, value: &Json) -> Vec<String> {
    let Json::Object(fields) = value else { return vec![format!("{name} not a list {}", json_term(value))] };
    let protocol = |key: &str| fields.get(key).and_then(Json::as_str).unwrap_or("amqp091");
    let keys_of = |protocol: &str, amqp_0_9_1: &'static [Key], amqp_1_0: &'static [Key]| -> Vec<Key> {
        match protocol {
            "amqp10" => amqp_1_0.to_vec(),
            "local" => amqp_0_9_1.iter().copied().filter(|key| !NOT_LOCAL.contains(&key.name)).collect(),
            // What is no protocol is said below.
            _ => amqp_0_9_1.to_vec(),
        }
    };
    let (from, to) = (protocol("src-protocol"), protocol("dest-protocol"));
    let keys: Vec<_> = SHOVEL
        .into_iter()
        .chain(keys_of(from, &FROM_AMQP_0_9_1, &FROM_AMQP_1_0))
        .chain(keys_of(to, &TO_AMQP_0_9_1, &TO_AMQP_1_0))
        .collect();
    let mut mistakes = Vec::new();
    let has = |key: &str| fields.contains_key(key);
    if from != "amqp10" {
        match (has("src-exchange"), has("src-queue")) {
            (false, false) => mistakes.push("Must specify 'src-exchange' or 'src-queue'".to_owned()),
            (true, true) => mistakes.push("Cannot specify 'src-exchange' and 'src-queue'".to_owned()),
            _ => {}
        }
    }
    let delete_after = fields.get("src-delete-after").or(fields.get("delete-after"));
    let is_number = delete_after.is_some_and(|after| after.is_i64() || after.is_u64());
    if is_number && fields.get("ack-mode").is_some_and(|mode| mode == "no-ack") {
        mistakes.push("Cannot specify 'no-ack' and numerical 'delete-after'".to_owned());
    }
    if to != "amqp10" && has("dest-exchange") && has("dest-queue") {
        mistakes.push("Cannot specify 'dest-exchange' and 'dest-queue'".to_owned());
    }
    mistakes.extend(check_fields(name, &keys, value));
    mistakes
}

/// RabbitMQ's `proplist`: it gathers the answers back to front, what is unknown first.
fn check_fields(name: &str, keys: &[Key], value: &Json) -> Vec<String> {
    let fields: Cow<'_, Map<String, Json>> = match value {
        Json::Object(fields) => Cow::Borrowed(fields),
        // An empty list and an empty map are the same to it.
        Json::Array(items) if items.is_empty() => Cow::Owned(Map::new()),
        Json::Array(_) => return vec![format!("Unrecognised terms {} in {name}", json_term(value))],
        _ => return vec![format!("{name} not a list {}", json_term(value))],
    };
    let mut mistakes = Vec::new();
    for key in keys {
        match fields.get(key.name) {
            Some(value) => mistakes.extend(key.check.mistake(key.name, value)),
            None if key.is_mandatory => mistakes.push(format!("Key \"{}\" not found in {name}", key.name)),
            None => {}
        }
    }
    let mut unknown: Vec<_> = fields.iter().filter(|(field, _)| !keys.iter().any(|key| key.name == *field)).collect();
    if !unknown.is_empty() {
        unknown.sort_by_key(|(field, _)| field.as_str());
        let term = |(field, value): (&String, &Json)| {
            format!("{{{},{}}}", json_term(&field.as_str().into()), json_term(value))
        };
        let terms: Vec<_> = unknown.into_iter().map(term).collect();
        mistakes.push(format!("Unrecognised terms [{}] in {name}", terms.join(",")));
    }
    mistakes.reverse();
    mistakes
}

impl Check {
    fn mistake(self, key: &str, value: &Json) -> Option<String> {
        let is_integer = value.is_i64() || value.is_u64();
        let wrong = |what: &str| Some(format!("{key} should be {what}, actually was {}", json_term(value)));
        match (self, value) {
            (Self::Anything, _)
            | (Self::Text, Json::String(_))
            | (Self::Number, Json::Number(_))
            | (Self::Boolean, Json::Bool(_)) => None,
            (Self::Integer, _) if is_integer => None,
            (Self::Name, Json::String(name)) if name.len() <= 255 => None,
            (Self::Name, Json::String(name)) => {
                Some(format!("{key} should be less than 255 bytes, actually was {}", name.len()))
            }
            (Self::Table, Json::Object(_)) => None,
            (Self::OneOf(words), Json::String(word)) if words.contains(&word.as_str()) => None,
            (Self::OneOf(words), Json::String(_)) => {
                let words: Vec<_> = words.iter().map(|word| json_term(&(*word).into())).collect();
                Some(format!("{key} should be one of [{}], actually was {}", words.join(","), json_term(value)))
            }
            (Self::Uri, Json::String(uri)) => not_a_uri(uri),
            (Self::Uri, Json::Array(uris)) => uris.iter().find_map(|uri| match uri {
                Json::String(uri) => not_a_uri(uri),
                _ => Some(format!("{key} should be list, actually was {}", json_term(uri))),
            }),
            (Self::DeleteAfter, Json::String(word)) if ["never", "queue-length"].contains(&word.as_str()) => None,
            (Self::DeleteAfter, _) if value.is_u64() => None,
            (Self::DeleteAfter, _) => wrong("a number greater than or equal to 0, \"never\" or \"queue-length\""),
            (Self::Seconds, _) if value.as_u64().is_some_and(|seconds| seconds > 0) => None,
            (Self::Seconds, _) => wrong("a positive integer (seconds)"),
            (Self::Properties, _) => check_fields(key, &PROPERTIES, value).into_iter().next(),
            (Self::InternalOwner, _) => check_fields(key, &INTERNAL_OWNER, value).into_iter().next(),
            (Self::Text | Self::Name | Self::OneOf(_), _) => wrong("binary"),
            (Self::Number | Self::Integer, _) => wrong("a number"),
            (Self::Boolean, _) => wrong("boolean"),
            (Self::Uri | Self::Table, _) => wrong("list"),
        }
    }
}

const PROPERTIES: [Key; 13] = [
    optional("content_type", Check::Text),
    optional("content_encoding", Check::Text),
    optional("delivery_mode", Check::Number),
    optional("priority", Check::Number),
    optional("correlation_id", Check::Text),
    optional("reply_to", Check::Text),
    optional("expiration", Check::Text),
    optional("message_id", Check::Text),
    optional("timestamp", Check::Number),
    optional("type", Check::Text),
    optional("user_id", Check::Text),
    optional("app_id", Check::Text),
    optional("cluster_id", Check::Text),
];

const INTERNAL_OWNER: [Key; 3] = [
    optional("name", Check::Text),
    optional("kind", Check::OneOf(&["exchange", "queue"])),
    optional("virtual_host", Check::Text),
];

/// Only the scheme is looked at: whether one can connect shows when somebody does. The rest may be a password.
fn not_a_uri(uri: &str) -> Option<String> {
    let scheme = uri.split_once("://").map(|(scheme, _)| scheme.to_lowercase());
    match scheme.as_deref() {
        Some("amqp" | "amqps") => None,
        _ => Some("not a valid URI: it should begin with amqp:// or amqps://".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(component: Component, value: Json, expected: &[&str]) {
        assert_eq!(component.mistakes("n", &value), expected, "{value}");
    }

    #[test]
    fn limits_are_numbers_and_what_is_unknown_is_said_first() {
        let limits = |value, expected: &[&str]| check(Component::VhostLimits, value, expected);
        limits(json!({"max-connections": 5, "max-queues": -1}), &[]);
        limits(json!([]), &[]);
        limits(json!(5), &["n not a list 5"]);
        limits(
            json!({"max-connections": "x", "bogus": 1}),
            &[
                "Unrecognised terms [{<<\"bogus\">>,1}] in n",
                "max-connections should be a number, actually was <<\"x\">>",
            ],
        );
    }

    #[test]
    fn an_operator_policy_is_whole() {
        let whole = json!({"pattern": "", "definition": {}, "priority": 0});
        check(Component::OperatorPolicy, whole, &[]);
        let odd = json!({"pattern": "", "definition": {}, "bogus": 1});
        let expected = ["Unrecognised terms [{<<\"bogus\">>,1}] in n", "Key \"priority\" not found in n"];
        check(Component::OperatorPolicy, odd, &expected);
    }

    #[test]
    fn a_shovel_has_two_ends() {
        let shovel = |change: Json, expected: &[&str]| {
            let mut value =
                json!({"src-uri": "amqp://", "src-queue": "a", "dest-uri": ["amqp://x"], "dest-queue": "b"});
            for (key, field) in change.as_object().unwrap() {
                match field {
                    Json::Null => drop(value.as_object_mut().unwrap().remove(key)),
                    field => value[key] = field.clone(),
                }
            }
            check(Component::Shovel, value, expected);
        };
        shovel(json!({}), &[]);
        shovel(json!({"ack-mode": "on-publish", "src-delete-after": 5, "src-prefetch-count": 10}), &[]);
        shovel(json!({"src-queue": null}), &["Must specify 'src-exchange' or 'src-queue'"]);
        shovel(json!({"dest-exchange": "x"}), &["Cannot specify 'dest-exchange' and 'dest-queue'"]);
        shovel(json!({"src-uri": null}), &["Key \"src-uri\" not found in n"]);
        let modes =
            "ack-mode should be one of [<<\"no-ack\">>,<<\"on-publish\">>,<<\"on-confirm\">>], actually was <<\"x\">>";
        shovel(json!({"ack-mode": "x"}), &[modes]);
        shovel(json!({"src-uri": "http://a:secret@b"}), &["not a valid URI: it should begin with amqp:// or amqps://"]);
        shovel(
            json!({"dest-publish-properties": {"priority": "x"}}),
            &["priority should be a number, actually was <<\"x\">>"],
        );
        shovel(
            json!({"src-protocol": "local", "src-prefetch-count": 1}),
            &["Unrecognised terms [{<<\"src-prefetch-count\">>,1}] in n"],
        );
        shovel(json!({"src-protocol": "amqp10", "src-queue": null}), &["Key \"src-address\" not found in n"]);
        shovel(
            json!({"src-delete-after": -1, "src-delete-after-duration": 0}),
            &[
                "src-delete-after-duration should be a positive integer (seconds), actually was 0",
                "src-delete-after should be a number greater than or equal to 0, \"never\" or \"queue-length\", actually was -1",
            ],
        );
    }

    #[test]
    fn an_upstream_needs_an_address_and_a_set_its_members() {
        check(Component::FederationUpstream, json!({"uri": "amqps://a", "max-hops": 2}), &[]);
        check(Component::FederationUpstream, json!({}), &["Key \"uri\" not found in n"]);
        check(Component::FederationUpstreamSet, json!([{"upstream": "a"}, {"upstream": "b", "queue": "q"}]), &[]);
        check(Component::FederationUpstreamSet, json!([{}]), &["Key \"upstream\" not found in n"]);
        check(Component::FederationUpstreamSet, json!({}), &["n not a list #{}"]);
    }
}
