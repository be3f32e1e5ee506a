use super::*;
use crate::queue::settings::Overflow;
use serde_json::json;

fn fields(json: Json) -> Map<String, Json> {
    let Json::Object(fields) = json else { panic!("{json}") };
    fields
}

fn policy(kind: Kind, name: &str, priority: i64, definition: Json) -> Policy {
    let json = json!({"pattern": "^q", "definition": definition, "priority": priority});
    Policy::parse(kind, name, &fields(json)).unwrap()
}

/// What RabbitMQ 4.3.6 answered over HTTP, between its frame.
fn refusal(kind: Kind, json: Json) -> String {
    let mistakes = Policy::parse(kind, "p", &fields(json)).expect_err("it is wrong");
    let text = Refusal::from(mistakes).text;
    text.strip_prefix("Validation failed\n\n").and_then(|text| text.strip_suffix('\n')).unwrap().to_owned()
}

fn wrong(kind: Kind, definition: Json) -> String {
    refusal(kind, json!({"pattern": "^none", "definition": definition}))
}

#[test]
fn wrong_values_are_refused_in_rabbitmqs_words() {
    for (definition, expected) in [
        (json!({"max-length": -1}), "-1 is not a valid maximum length"),
        (json!({"max-length": "x"}), "<<\"x\">> is not a valid maximum length"),
        (json!({"max-length": 1.5}), "1.5 is not a valid maximum length"),
        (json!({"max-length": null}), "null is not a valid maximum length"),
        (json!({"max-length": true}), "true is not a valid maximum length"),
        (json!({"max-length": {"a": 1}}), "#{<<\"a\">> => 1} is not a valid maximum length"),
        (json!({"message-ttl": "x"}), "<<\"x\">> is not a valid message TTL"),
        (json!({"message-ttl": 1e3}), "1.0e3 is not a valid message TTL"),
        (json!({"expires": 0}), "0 is not a valid queue expiry"),
        (json!({"overflow": "bogus"}), "<<\"bogus\">> is not a valid overflow value"),
        (json!({"overflow": ""}), "<<>> is not a valid overflow value"),
        (json!({"dead-letter-exchange": 5}), "5 is not a valid dead letter exchange name"),
        (json!({"dead-letter-routing-key": 5}), "5 is not a valid dead letter routing key"),
        (json!({"dead-letter-strategy": "x"}), "<<\"x\">> is not a valid dead letter strategy"),
        (json!({"alternate-exchange": 5}), "5 is not a valid alternate exchange name"),
        (json!({"consumer-timeout": -1}), "-1 is not a valid consumer timeout"),
        (json!({"consumer-disconnected-timeout": "x"}), "<<\"x\">> is not a valid consumer disconnected timeout"),
        (json!({"max-length-bytes": -1}), "-1 is not a valid maximum length in bytes"),
        (json!({"max-in-memory-length": -1}), "-1 is not a valid maximum memory in bytes"),
        (json!({"queue-mode": "x"}), "<<\"x\">> is not a valid queue-mode value"),
        (json!({"queue-version": 3}), "3 is not a valid queue-version value"),
        (json!({"delivery-limit": "x"}), "<<\"x\">> is not a valid delivery limit"),
        (json!({"max-age": "0h"}), "<<\"0h\">> is not a valid max age"),
        (
            json!({"queue-leader-locator": "min-masters"}),
            "<<\"min-masters\">> is not a valid queue leader locator value",
        ),
        (json!({"initial-cluster-size": -1}), "-1 is not a valid cluster size"),
        (json!({"stream-max-segment-size-bytes": 3_000_000_001_u64}), "3000000001 is not a valid segment size"),
        (json!({"stream-filter-size-bytes": 15}), "15 is not a valid filter size. Valid range is 16-255"),
        (json!({"target-group-size": 0}), "0 is not a valid qq target count value"),
        (
            json!({"member-placement-tag": ""}),
            "<<>> is not a valid member-placement-tag value. Must be a non-empty string",
        ),
        (
            json!({"delayed-retry-type": "x"}),
            "<<\"x\">> is not a valid delayed retry type. Must be one of: all, failed, returned, disabled",
        ),
        (json!({"delayed-retry-min": 0}), "0 is not a valid delayed retry minimum delay. Must be a positive integer"),
        (json!({"delayed-retry-max": -1}), "-1 is not a valid delayed retry maximum delay. Must be a positive integer"),
        (json!({"delayed-retry-type": "all"}), "delayed-retry-min is required when delayed-retry-type is all"),
        (
            json!({"delayed-retry-min": 10, "delayed-retry-max": 5}),
            "delayed-retry-max (5) must not be smaller than delayed-retry-min (10)",
        ),
        (json!({"queue-master-locator": "x"}), "use of deprecated queue-master-locator argument is not permitted"),
        (json!({"federation-upstream": 5}), "5 is not a valid federation upstream name"),
        (
            json!({"federation-upstream": "a", "federation-upstream-set": "b"}),
            "cannot specify federation-upstream, federation-upstream-set or federation-upstream-pattern together",
        ),
        (json!({"shards-per-node": "x"}), "shards-per-node should be a number, actually was <<\"x\">>"),
        (json!({"shards-per-node": -1}), "shards-per-node should be greater than 0, actually was -1"),
        (json!({"routing-key": "x"}), "shards-per-node must be specified"),
        (json!({"shards-per-node": 1, "routing-key": 5}), "routing-key should be binary, actually was 5"),
    ] {
        assert_eq!(wrong(Kind::User, definition), expected);
    }
}

#[test]
fn definitions_of_another_shape_or_with_other_keys_are_refused_in_rabbitmqs_words() {
    for (definition, expected) in [
        (json!({}), "no policy provided"),
        (json!([]), "no policy provided"),
        // Here RabbitMQ fails with status 500; the words are those it has for other callers.
        (json!([1]), "definition must be a dictionary: [1]"),
        (json!(null), "definition must be a dictionary: null"),
        (json!({"bogus": 1}), "[{<<\"bogus\">>,1}] are not recognised policy settings"),
        (
            json!({"other": "x", "max-length": 1, "bogus": [1, {"a": null}]}),
            "[{<<\"bogus\">>,[1,#{<<\"a\">> => null}]},{<<\"other\">>,<<\"x\">>}] are not recognised policy settings",
        ),
        (json!({"ha-mode": "all"}), "[{<<\"ha-mode\">>,<<\"all\">>}] are not recognised policy settings"),
    ] {
        assert_eq!(wrong(Kind::User, definition), expected);
    }
    for key in ["dead-letter-exchange", "alternate-exchange", "federation-upstream"] {
        let expected = format!("[{{<<\"{key}\">>,<<\"x\">>}}] are not recognised policy settings");
        assert_eq!(wrong(Kind::Operator, json!({"max-length": 1, key: "x"})), expected);
    }
}

#[test]
fn the_first_of_several_mistakes_in_a_definition_is_named_module_by_module() {
    let named = |definition| wrong(Kind::User, definition);
    assert_eq!(named(json!({"max-length": -1, "expires": 0})), "0 is not a valid queue expiry");
    assert_eq!(named(json!({"bogus": 1, "target-group-size": 0})), "0 is not a valid qq target count value");
    assert_eq!(named(json!({"target-group-size": 0, "max-length": -1})), "-1 is not a valid maximum length");
    assert_eq!(
        named(json!({"max-length": -1, "queue-master-locator": "x"})),
        "use of deprecated queue-master-locator argument is not permitted"
    );
    assert_eq!(
        named(json!({"delayed-retry-max": 5, "delayed-retry-min": 10, "max-length": -1})),
        "-1 is not a valid maximum length"
    );
}

#[test]
fn every_mistake_about_a_policy_is_told_back_to_front() {
    let apply_to = "should be one of: 'queues', 'classic_queues',  'quorum_queues', 'streams', 'exchanges', or 'all'";
    let parenthesis = "pattern should be regular expression but is invalid: {\"missing closing parenthesis\",\n\
                       \x20                                                     1}";
    let one = |key: &str, value: Json| {
        let mut json = json!({"pattern": "^none", "definition": {"max-length": 1}});
        json[key] = value;
        refusal(Kind::User, json)
    };
    assert_eq!(one("pattern", json!("(")), parenthesis);
    assert_eq!(
        one("pattern", json!("[")),
        "pattern should be regular expression but is invalid: {\"missing terminating ] for character class\",\n\
         \x20                                                     1}"
    );
    assert_eq!(one("pattern", json!(null)), "pattern should be a binary but was null");
    assert_eq!(one("pattern", json!("a".repeat(1025))), "pattern must not exceed 1024 bytes");
    assert_eq!(
        one("pattern", json!("^(?!amq)")),
        "pattern should be regular expression but is invalid: look-around, including look-ahead and look-behind, is \
         not supported"
    );
    assert_eq!(one("apply-to", json!("bogus")), format!("apply-to 'bogus' unrecognised; {apply_to}"));
    assert_eq!(one("apply-to", json!(null)), format!("apply-to 'null' unrecognised; {apply_to}"));
    assert_eq!(one("priority", json!("x")), "priority should be a number, actually was <<\"x\">>");
    assert_eq!(one("priority", json!(null)), "priority should be a number, actually was null");
    let all = json!({"definition": {"max-length": -1}, "pattern": "(", "apply-to": "x", "priority": "y"});
    assert_eq!(
        refusal(Kind::User, all),
        format!(
            "-1 is not a valid maximum length\napply-to 'x' unrecognised; {apply_to}\n{parenthesis}\n\
             priority should be a number, actually was <<\"y\">>"
        )
    );
    let missing = "Key \"definition\" not found in p\nKey \"pattern\" not found in p";
    assert_eq!(refusal(Kind::Operator, json!({})), missing);
}

#[test]
fn every_key_that_rabbitmq_knows_is_kept_and_shown() {
    let definition = json!({
        "alternate-exchange": "e", "message-ttl": 0, "expires": 1, "max-length": 0, "max-length-bytes": u64::MAX,
        "overflow": "reject-publish-dlx", "dead-letter-exchange": "", "dead-letter-routing-key": "k",
        "dead-letter-strategy": "at-least-once", "delivery-limit": -1, "consumer-timeout": 0,
        "consumer-disconnected-timeout": 0, "delayed-retry-type": "all", "delayed-retry-min": 1,
        "delayed-retry-max": 2, "queue-mode": "lazy", "queue-version": 1, "max-in-memory-length": 0,
        "max-in-memory-bytes": 0, "max-age": "7D", "stream-max-segment-size-bytes": 3_000_000_000_u64,
        "stream-filter-size-bytes": 16, "queue-leader-locator": "balanced", "initial-cluster-size": 0,
        "target-group-size": 1, "member-placement-tag": "t", "federation-upstream-pattern": ".*",
        "shards-per-node": 2, "routing-key": "k",
    });
    let policy = policy(Kind::User, "p", 3, definition.clone());
    assert_eq!(policy.definition.as_map(), definition.as_object().unwrap());
    let written = policy.fields();
    let expected = json!({"pattern": "^q", "apply-to": "all", "priority": 3, "definition": definition});
    assert_eq!(Json::Object(written.clone()), expected);
    assert_eq!(Policy::parse(Kind::User, "p", &written), Ok(policy.clone()));
    let terms = policy.definition.terms();
    assert_eq!((terms.message_ttl_ms, terms.expires_ms, terms.max_length), (Some(0), Some(1), Some(0)));
    assert_eq!((terms.max_length_bytes, terms.overflow), (Some(u64::MAX), Some(Overflow::RejectPublishDlx)));
    assert_eq!(terms.dead_letter_exchange.as_deref(), Some(""));
    assert_eq!((terms.dead_letter_at_least_once, terms.delivery_limit), (Some(true), Some(-1)));
    assert_eq!(terms.alternate_exchange.as_deref(), Some("e"));
    // Two that can't stand beside others.
    for key in ["federation-upstream", "federation-upstream-set"] {
        assert!(Definition::parse(Kind::User, &json!({key: "all"})).is_ok());
    }
    assert_eq!(keys(Kind::User).count(), definition.as_object().unwrap().len() + 3);
    let mut operators: Vec<_> = keys(Kind::Operator).collect();
    operators.sort_unstable();
    let expected = [
        "delayed-retry-max",
        "delayed-retry-min",
        "delayed-retry-type",
        "delivery-limit",
        "expires",
        "max-in-memory-bytes",
        "max-in-memory-length",
        "max-length",
        "max-length-bytes",
        "member-placement-tag",
        "message-ttl",
        "overflow",
        "queue-master-locator",
        "queue-version",
        "target-group-size",
    ];
    assert_eq!(operators, expected);
}

/// The names of the policies that a queue and an exchange "q" get.
fn chosen(policies: &Policies, queue_type: QueueType) -> (Option<String>, Option<String>) {
    let name = |policy: Option<Arc<Policy>>| policy.map(|policy| policy.name.to_string());
    (name(policies.for_queue("q", queue_type).policy), name(policies.for_exchange("q").policy))
}

#[test]
fn the_highest_priority_counts_and_among_equals_the_first_name() {
    let mut policies = Policies::default();
    for name in ["c", "a", "b"] {
        policies.set(policy(Kind::User, name, 0, json!({"max-length": 1})));
    }
    let names = |name: &str| (Some(name.to_owned()), Some(name.to_owned()));
    assert_eq!(chosen(&policies, QueueType::Classic), names("a"));
    policies.set(policy(Kind::User, "b", 1, json!({"max-length": 1})));
    policies.set(policy(Kind::User, "c", -1, json!({"max-length": 1})));
    assert_eq!(chosen(&policies, QueueType::Classic), names("b"));
    // The other kind has names and ranks of its own.
    policies.set(policy(Kind::Operator, "b", -5, json!({"max-length": 1})));
    assert_eq!(policies.for_queue("q", QueueType::Classic).operator_policy.unwrap().priority, -5);
    assert!(policies.clear(Kind::User, "b") && !policies.clear(Kind::User, "b"));
    assert_eq!(chosen(&policies, QueueType::Classic), names("a"));
    assert_eq!(policies.for_queue("other", QueueType::Classic), Applied::default());
    let listed: Vec<_> = policies.list(Kind::User).map(|policy| policy.name.to_string()).collect();
    assert_eq!(listed, ["a", "c"]);
}

#[test]
fn a_policy_with_a_key_that_the_type_does_not_support_is_none_for_the_queue() {
    let mut policies = Policies::default();
    policies.set(policy(Kind::User, "low", 0, json!({"max-length-bytes": 1})));
    let mut with = |definition: Json| {
        policies.set(policy(Kind::User, "high", 9, definition));
        let taken = |queue_type| chosen(&policies, queue_type).0.as_deref() == Some("high");
        (
            taken(QueueType::Classic),
            taken(QueueType::Quorum),
            taken(QueueType::Stream),
            chosen(&policies, QueueType::Classic).1,
        )
    };
    let exchange = || Some("high".to_owned());
    assert_eq!(with(json!({"max-age": "5D"})), (false, false, true, exchange()));
    assert_eq!(with(json!({"delivery-limit": 5, "alternate-exchange": "x"})), (false, true, false, exchange()));
    assert_eq!(with(json!({"queue-mode": "lazy"})), (true, false, false, exchange()));
    assert_eq!(with(json!({"max-length": 5})), (true, true, false, exchange()));
    assert_eq!(with(json!({"alternate-exchange": "x", "consumer-timeout": 5})), (true, true, true, exchange()));
}

#[test]
fn a_policy_applies_to_what_it_says() {
    for (apply_to, classic, quorum, stream, exchange) in [
        ("all", true, true, true, true),
        ("exchanges", false, false, false, true),
        ("queues", true, true, true, false),
        ("classic_queues", true, false, false, false),
        ("quorum_queues", false, true, false, false),
        ("streams", false, false, true, false),
    ] {
        let json = json!({"pattern": "", "apply-to": apply_to, "definition": {"max-length-bytes": 1}});
        let policy = Policy::parse(Kind::User, "p", &fields(json)).unwrap();
        assert_eq!(policy.apply_to.name(), apply_to);
        let queue = |queue_type| policy.fits_queue("any", queue_type);
        let found = (queue(QueueType::Classic), queue(QueueType::Quorum), queue(QueueType::Stream));
        assert_eq!((found, policy.fits_exchange("any")), ((classic, quorum, stream), exchange), "{apply_to}");
    }
}

/// What a user's and an operator's definition say together.
fn merged(user: Json, operator: Json) -> Json {
    let definition = |kind, json| Some(Arc::new(policy(kind, "p", 0, json)));
    let applied =
        Applied { policy: definition(Kind::User, user), operator_policy: definition(Kind::Operator, operator) };
    Json::Object(applied.definition().unwrap().as_map().clone())
}

#[test]
fn an_operators_numbers_are_upper_limits() {
    assert_eq!(
        merged(json!({"max-length": 10, "message-ttl": 60_000}), json!({"max-length": 2})),
        json!({"max-length": 2, "message-ttl": 60_000})
    );
    for key in ["expires", "message-ttl", "max-length", "max-length-bytes", "max-in-memory-length", "delayed-retry-max"]
    {
        for (user, operator) in [(1, 2), (2, 1)] {
            assert_eq!(merged(json!({key: user}), json!({key: operator})), json!({key: 1}), "{key}");
        }
    }
    for key in ["target-group-size", "delayed-retry-min"] {
        for (user, operator) in [(1, 2), (2, 1)] {
            assert_eq!(merged(json!({key: user}), json!({key: operator})), json!({key: 2}), "{key}");
        }
    }
    assert_eq!(
        merged(json!({"queue-mode": "lazy"}), json!({"expires": 5})),
        json!({"queue-mode": "lazy", "expires": 5})
    );
}

#[test]
fn an_operators_words_win() {
    assert_eq!(merged(json!({"queue-version": 2}), json!({"queue-version": 1})), json!({"queue-version": 1}));
    for (key, user, operator) in [
        ("overflow", "drop-head", "reject-publish"),
        ("overflow", "reject-publish", "drop-head"),
        ("member-placement-tag", "a", "b"),
    ] {
        assert_eq!(merged(json!({key: user}), json!({key: operator})), json!({key: operator}));
    }
    assert_eq!(
        merged(
            json!({"delayed-retry-type": "all", "delayed-retry-min": 5}),
            json!({"delayed-retry-type": "disabled", "delayed-retry-min": 9})
        ),
        json!({"delayed-retry-type": "disabled", "delayed-retry-min": 9})
    );
}

#[test]
fn a_negative_delivery_limit_is_none_and_yields_to_any() {
    for (one, other, expected) in [(5, 3, 3), (-1, 5, 5), (-1, -2, -1), (0, -1, 0), (0, 5, 0)] {
        for (user, operator) in [(one, other), (other, one)] {
            let limit = |number: i64| json!({"delivery-limit": number});
            assert_eq!(merged(limit(user), limit(operator)), limit(expected));
            assert_eq!(smaller_limit(user, operator), expected);
        }
    }
}

#[test]
fn one_policy_alone_is_shown_as_it_was_written() {
    let only = |kind, definition: Json| {
        let policy = Some(Arc::new(policy(kind, "p", 0, definition)));
        match kind {
            Kind::User => Applied { policy, operator_policy: None },
            Kind::Operator => Applied { policy: None, operator_policy: policy },
        }
    };
    for kind in [Kind::User, Kind::Operator] {
        let applied = only(kind, json!({"overflow": "drop-head", "expires": 5}));
        let definition = Json::Object(applied.definition().unwrap().as_map().clone());
        assert_eq!(definition.to_string(), r#"{"overflow":"drop-head","expires":5}"#);
        assert_eq!(applied.terms().expires_ms, Some(5));
    }
    assert_eq!((Applied::default().definition(), Applied::default().terms()), (None, Terms::default()));
}
