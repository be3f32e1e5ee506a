//! Patterns and what they match, against matchers that are too simple to be wrong.
//!
//! Input: which kind of patterns, and then for topics lines of patterns, the last one a routing key; for headers the
//! binding's arguments with their length in an octet, and the message's headers; for names a pattern and lines of names; for
//! policies a kind and JSON.

use amq_protocol::types::parsing::parse_field_table;
use leveret::amqp::properties::{Properties, only_headers};
use leveret::amqp::table::{Field, Fields, Value, type_name};
use leveret::amqp::{Table, table};
use leveret::auth::Pattern;
use leveret::exchange::{Binding, Bound, Destination, Router, Subject, Type};
use leveret::policy::{Kind, Policies, Policy};
use leveret::queue::Settings;
use leveret::queue::settings::QueueType;
use leveret::refusal::Refusal;
use regex::bytes::RegexBuilder;
use std::collections::BTreeSet;

pub fn target(data: &[u8]) {
    let Some((which, octets)) = data.split_first() else { return };
    match which % 4 {
        0 => topic(octets),
        1 => headers(octets),
        2 => names(octets),
        _ => policies(octets),
    }
}

fn to_queue(number: usize, routing_key: &str, arguments: Table) -> Binding {
    let destination = Destination::Queue(number.to_string().into());
    Binding { destination, routing_key: routing_key.into(), arguments }
}

fn route(router: &Router, keys: &[&str], properties: Option<&Properties<'_>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    router.route(&Subject { keys, properties, random: 0 }, &mut |destination| match destination {
        Destination::Queue(name) | Destination::Exchange(name) => drop(found.insert(name.to_string())),
    });
    found
}

fn topic(octets: &[u8]) {
    const PATTERNS_MAX: usize = 16;
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let mut lines: Vec<&str> = text.split('\n').take(PATTERNS_MAX + 1).collect();
    let key = lines.pop().unwrap_or_default();
    let mut router = Router::new(Type::Topic, &Table::default());
    let bindings: Vec<_> = lines.iter().enumerate().map(|(n, line)| to_queue(n, line, Table::default())).collect();
    let accepted = |binding: &&Binding| Router::check(Type::Topic, binding, Bound::Exchange).is_ok();
    let bindings: Vec<_> = bindings.iter().filter(accepted).collect();
    for binding in &bindings {
        assert!(router.bind((*binding).clone()));
    }
    let expected = |from: usize| -> BTreeSet<String> {
        let matching = bindings.iter().skip(from).filter(|binding| topic_matches(&binding.routing_key, key));
        matching
            .map(|binding| binding.destination.clone())
            .map(|to| match to {
                Destination::Queue(name) | Destination::Exchange(name) => name.to_string(),
            })
            .collect()
    };
    assert_eq!(route(&router, &[key], None), expected(0), "{key:?}");
    let half = bindings.len() / 2;
    for binding in &bindings[..half] {
        assert!(router.unbind(binding));
    }
    assert_eq!(route(&router, &[key], None), expected(half), "{key:?}, with half of the bindings");
}

/// Word by word: `reached[n]` says whether the pattern's first n words match those of the key so far.
fn topic_matches(pattern: &str, key: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        if text.is_empty() { Vec::new() } else { text.split('.').map(str::to_owned).collect() }
    };
    let (pattern, key) = (words(pattern), words(key));
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    let skip_hashes = |reached: &mut Vec<bool>| {
        for (n, word) in pattern.iter().enumerate() {
            reached[n + 1] |= word == "#" && reached[n];
        }
    };
    skip_hashes(&mut reached);
    for word in &key {
        let mut next = vec![false; pattern.len() + 1];
        for (n, wanted) in pattern.iter().enumerate() {
            if !reached[n] {
                continue;
            }
            match wanted.as_str() {
                "#" => next[n] = true,
                "*" => next[n + 1] = true,
                wanted => next[n + 1] |= wanted == word,
            }
        }
        skip_hashes(&mut next);
        reached = next;
    }
    reached[pattern.len()]
}

fn headers(octets: &[u8]) {
    let Some((count, rest)) = octets.split_first() else { return };
    let Some((arguments, headers)) = rest.split_at_checked((*count).into()) else { return };
    let (Ok(fields), Ok(headers)) = (Fields::check(arguments), Fields::check(headers)) else { return };
    // Declarations keep one of each key.
    if fields.repeats() {
        return;
    }
    let mut sized = (arguments.len() as u32).to_be_bytes().to_vec();
    sized.extend_from_slice(arguments);
    let Ok((_, arguments)) = parse_field_table(&sized[..]) else { return };
    let binding = to_queue(0, "", arguments.clone());
    if Router::check(Type::Headers, &binding, Bound::Exchange).is_err() {
        return;
    }
    let mut router = Router::new(Type::Headers, &Table::default());
    router.bind(binding);
    let raw = only_headers(headers.octets());
    let properties = Properties::parse(&raw).expect("headers that were checked");
    let found = !route(&router, &[""], Some(&properties)).is_empty();
    assert_eq!(found, headers_match(&arguments, headers), "{arguments:?}");
}

fn headers_match(arguments: &Table, headers: Fields<'_>) -> bool {
    let mode = arguments.inner().get("x-match").and_then(table::as_str).unwrap_or("all");
    let mut results = arguments.into_iter().filter_map(|(key, wanted)| {
        let key = key.as_str();
        if key == "x-match" || key.starts_with("x-") && !mode.ends_with("-with-x") {
            return None;
        }
        let found = headers.iter().filter(|(name, _)| *name == key.as_bytes()).last();
        Some(found.is_some_and(|(_, found)| equal(wanted, &found, true)))
    });
    if mode.starts_with("any") { results.any(|found| found) } else { results.all(|found| found) }
}

/// As Erlang compares a binding's argument with a header; what is nested, with its type.
fn equal(wanted: &Value, found: &Field<'_>, is_top: bool) -> bool {
    if !is_top && type_name(wanted) != found.type_name() {
        return false;
    }
    let is_text = |name: &str| name == "longstr" || name == "binary";
    let octets = |value: &Value| match value {
        Value::LongString(text) => text.as_bytes().to_vec(),
        Value::ByteArray(octets) => octets.as_slice().to_vec(),
        _ => Vec::new(),
    };
    match (wanted, found) {
        (Value::Void, _) => is_top || matches!(found, Field::Void),
        (Value::Boolean(wanted), Field::Bool(found)) => wanted == found,
        (Value::Timestamp(wanted), Field::Timestamp(found)) if !is_top => wanted == found,
        (Value::Timestamp(wanted), Field::Timestamp(found)) => i128::from(*wanted) == i128::from(*found) * 1000,
        (Value::Timestamp(wanted), found) => found.as_i64().map(i128::from) == Some((*wanted).into()),
        (wanted, Field::Timestamp(found)) => table::as_i64(wanted).map(i128::from) == Some(i128::from(*found) * 1000),
        (Value::DecimalValue(wanted), Field::Decimal(scale, value)) => (wanted.scale, wanted.value) == (*scale, *value),
        (Value::FieldArray(wanted), Field::Array(found)) => {
            let found: Vec<_> = found.iter().collect();
            wanted.as_slice().len() == found.len()
                && wanted.as_slice().iter().zip(&found).all(|(wanted, found)| equal(wanted, found, false))
        }
        (Value::FieldTable(wanted), Field::Table(found)) => {
            wanted.inner().len() == found.iter().count()
                && wanted.into_iter().all(|(key, wanted)| {
                    found.get(key.as_str().as_bytes()).is_some_and(|found| equal(wanted, &found, false))
                })
        }
        (wanted, Field::LongStr(found) | Field::Bytes(found)) => is_text(type_name(wanted)) && octets(wanted) == *found,
        (Value::Float(_) | Value::Double(_), _) => float(wanted) == float_of(found),
        (wanted, found) => table::as_i64(wanted).is_some() && table::as_i64(wanted) == found.as_i64(),
    }
}

fn float(value: &Value) -> Option<u64> {
    match value {
        Value::Float(number) => Some(f64::from(*number).to_bits()),
        Value::Double(number) => Some(number.to_bits()),
        _ => None,
    }
}

fn float_of(field: &Field<'_>) -> Option<u64> {
    match field {
        Field::F32(number) => Some(f64::from(*number).to_bits()),
        Field::F64(number) => Some(number.to_bits()),
        _ => None,
    }
}

fn names(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    let mut lines = text.split('\n');
    let source = lines.next().unwrap_or_default();
    let (Ok(permission), Ok(policy)) = (Pattern::new(source), Pattern::of_policy(source)) else {
        let unusable = Pattern::new(source).expect_err("both are compiled the same way");
        assert!(!unusable.to_string().is_empty() && !unusable.why().is_empty());
        unusable.in_pcre();
        return;
    };
    assert_eq!((permission.as_str(), policy.as_str()), (source, source));
    let plain = RegexBuilder::new(source).unicode(false).build();
    for name in lines.chain([""]) {
        match &plain {
            Ok(plain) if !source.is_empty() => {
                assert_eq!(permission.matches(name), plain.is_match(name.as_bytes()));
                assert_eq!(policy.matches(name), permission.matches(name));
            }
            _ => assert_eq!((permission.matches(name), policy.matches(name)), (name.is_empty(), true)),
        }
    }
}

fn policies(octets: &[u8]) {
    let Some((which, octets)) = octets.split_first() else { return };
    let kind = if which & 1 == 0 { Kind::User } else { Kind::Operator };
    let Ok(fields) = serde_json::from_slice(octets) else { return };
    let policy = match Policy::parse(kind, "p", &fields) {
        Ok(policy) => policy,
        Err(mistakes) => {
            assert!(!mistakes.to_string().is_empty() && !Refusal::from(mistakes).text.is_empty());
            return;
        }
    };
    assert_eq!(Policy::parse(kind, "p", &policy.fields()).as_ref(), Ok(&policy), "written otherwise than it was read");
    let mut policies = Policies::default();
    policies.set(policy.clone());
    policies.set(Policy { kind: Kind::Operator, ..policy.clone() });
    for queue_type in [QueueType::Classic, QueueType::Quorum, QueueType::Stream] {
        let applied = policies.for_queue("q", queue_type);
        applied.terms();
        Settings::with_policy(&Table::default(), applied);
    }
    policies.for_exchange("x").terms();
    assert!(policies.clear(kind, "p"));
}
