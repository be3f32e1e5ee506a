//! Corners as RabbitMQ 4.3.6 was seen to behave, and each type's index against a model that looks at every binding.

use super::hash::Hash;
use super::*;
use crate::amqp::Value;
use crate::amqp::properties::{NO_PROPERTIES, Properties};
use amq_protocol::frame::WriteContext;
use amq_protocol::protocol::basic::{AMQPProperties, gen_properties};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeSet;

const CLASSIC: Bound<'_> = Bound::Queue("rabbit_classic_queue");

fn queue(name: &str) -> Destination {
    Destination::Queue(name.into())
}

fn table(fields: &[(&str, Value)]) -> Table {
    let mut table = Table::default();
    for (key, value) in fields {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn binding(destination: &str, routing_key: &str, arguments: &[(&str, Value)]) -> Binding {
    Binding { destination: queue(destination), routing_key: routing_key.into(), arguments: table(arguments) }
}

fn text(text: &str) -> Value {
    Value::LongString(text.into())
}

/// The octets of a table with these fields, in this order, duplicates and all.
fn octets(fields: &[(&str, Value)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in fields {
        out.push(u8::try_from(key.len()).unwrap());
        out.extend_from_slice(key.as_bytes());
        encode(&mut out, value);
    }
    out
}

fn encode(out: &mut Vec<u8>, value: &Value) {
    fn put<const N: usize>(out: &mut Vec<u8>, tag: u8, octets: [u8; N]) {
        out.push(tag);
        out.extend_from_slice(&octets);
    }
    fn long(out: &mut Vec<u8>, tag: u8, octets: &[u8]) {
        put(out, tag, u32::try_from(octets.len()).unwrap().to_be_bytes());
        out.extend_from_slice(octets);
    }
    match value {
        Value::Boolean(truth) => put(out, b't', [u8::from(*truth)]),
        Value::ShortShortInt(n) => put(out, b'b', n.to_be_bytes()),
        Value::ShortShortUInt(n) => put(out, b'B', n.to_be_bytes()),
        Value::ShortInt(n) => put(out, b's', n.to_be_bytes()),
        Value::ShortUInt(n) => put(out, b'u', n.to_be_bytes()),
        Value::LongInt(n) => put(out, b'I', n.to_be_bytes()),
        Value::LongUInt(n) => put(out, b'i', n.to_be_bytes()),
        Value::LongLongInt(n) => put(out, b'l', n.to_be_bytes()),
        Value::Float(n) => put(out, b'f', n.to_be_bytes()),
        Value::Double(n) => put(out, b'd', n.to_be_bytes()),
        Value::Timestamp(n) => put(out, b'T', n.to_be_bytes()),
        Value::DecimalValue(n) => {
            put(out, b'D', [n.scale]);
            out.extend_from_slice(&n.value.to_be_bytes());
        }
        Value::LongString(text) => long(out, b'S', text.as_bytes()),
        Value::ShortString(text) => long(out, b'S', text.as_str().as_bytes()),
        Value::ByteArray(octets) => long(out, b'x', octets.as_slice()),
        Value::FieldArray(items) => {
            let mut inner = Vec::new();
            items.as_slice().iter().for_each(|item| encode(&mut inner, item));
            long(out, b'A', &inner);
        }
        Value::FieldTable(fields) => {
            let fields: Vec<_> = fields.into_iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            long(out, b'F', &octets(&fields));
        }
        Value::Void => out.push(b'V'),
    }
}

/// Raw properties that are nothing but headers.
fn with_headers(headers: &[(&str, Value)]) -> Vec<u8> {
    let headers = octets(headers);
    [&[0x20, 0][..], &u32::try_from(headers.len()).unwrap().to_be_bytes(), &headers].concat()
}

/// Where a message goes, in the order in which it was found.
fn ways(router: &Router, keys: &[&str], properties: &[u8], random: u64) -> Vec<Destination> {
    let mut found = Vec::new();
    let properties = Properties::parse(properties).unwrap();
    let subject = Subject { keys, properties: Some(&properties), random };
    router.route(&subject, &mut |destination| found.push(destination.clone()));
    found
}

fn routed(router: &Router, routing_key: &str, headers: Option<&[(&str, Value)]>) -> BTreeSet<Destination> {
    let properties = headers.map_or(NO_PROPERTIES.to_vec(), with_headers);
    ways(router, &[routing_key], &properties, 0).into_iter().collect()
}

/// The one destination of a message.
fn only(router: &Router, routing_key: &str) -> Destination {
    let found = ways(router, &[routing_key], NO_PROPERTIES, 0);
    assert_eq!(found.len(), 1);
    found[0].clone()
}

fn router(kind: Type) -> Router {
    Router::new(kind, &Table::default())
}

/// One queue a pattern; which keys reach it.
fn check_keys(kind: Type, keys: &[&str], expected: &[(&str, &[usize])]) {
    let mut router = router(kind);
    for (pattern, _) in expected {
        assert!(router.bind(binding(&format!("q-{pattern}"), pattern, &[])));
    }
    for (pattern, reached_by) in expected {
        let destination = queue(&format!("q-{pattern}"));
        let reaches = |key: &&str| routed(&router, key, None).contains(&destination);
        let found: Vec<_> = (0..keys.len()).filter(|&index| reaches(&keys[index])).collect();
        assert_eq!(found, *reached_by, "{pattern:?} of {keys:?}");
    }
}

#[test]
fn topic_wildcards_stand_for_words() {
    check_keys(
        Type::Topic,
        &["", "a", "b", "a.b", "a.c", "a.b.c", "a.b.b.c", "a.x.y.c", "x.b.y", "a..c", "."],
        &[
            ("#", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            ("*", &[1, 2]),
            ("a", &[1]),
            ("a.*", &[3, 4]),
            ("a.#", &[1, 3, 4, 5, 6, 7, 9]),
            ("*.b", &[3]),
            ("#.b", &[2, 3]),
            ("a.*.c", &[5, 9]),
            ("a.#.c", &[4, 5, 6, 7, 9]),
            ("#.#", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            ("*.*", &[3, 4, 10]),
            ("*.#", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            ("#.*", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
            ("", &[0]),
            ("a.b.c", &[5]),
            ("#.b.#", &[2, 3, 5, 6, 8]),
            ("*.b.*", &[5, 8]),
            ("a.#.#.c", &[4, 5, 6, 7, 9]),
        ],
    );
}

#[test]
fn topic_words_may_be_empty() {
    check_keys(
        Type::Topic,
        &["a..b", "a.b", ".", "..", ".a", "a.", "a..", "...a"],
        &[
            ("a..b", &[0]),
            ("a.*.b", &[0]),
            ("a.#.b", &[0, 1]),
            ("..", &[3]),
            ("*.*", &[1, 2, 4, 5]),
            (".a", &[4]),
            ("#.a", &[4, 7]),
            ("a.", &[5]),
            ("a.#", &[0, 1, 5, 6]),
        ],
    );
}

#[test]
fn topic_wildcards_inside_words_are_literal() {
    check_keys(
        Type::Topic,
        &["a", "ab", "a*", "*a", "a#", "#a", "aa", "a.b*", "a.bc", "**", "##", "x"],
        &[("a*", &[2]), ("*a", &[3]), ("a#", &[4]), ("#a", &[5]), ("a.b*", &[7]), ("**", &[9]), ("##", &[10])],
    );
}

#[test]
fn direct_keys_are_equal_or_not() {
    check_keys(
        Type::Direct,
        &["a", "A", "", "a.b", "*", "#", "a ", "b"],
        &[("a", &[0]), ("A", &[1]), ("", &[2]), ("a.b", &[3]), ("*", &[4]), ("#", &[5]), ("a ", &[6])],
    );
}

#[test]
fn fanout_ignores_the_key() {
    check_keys(Type::Fanout, &["a", "", "other"], &[("a", &[0, 1, 2]), ("", &[0, 1, 2]), ("zzz", &[0, 1, 2])]);
}

#[test]
fn a_topic_pattern_has_at_most_two_hashes() {
    let check = |key| Router::check(Type::Topic, &binding("q", key, &[]), CLASSIC);
    assert_eq!(check("#.a.#"), Ok(()));
    assert_eq!(check("a#.##.#.#"), Ok(()));
    let refused = check("#.a.#.b.#").unwrap_err();
    assert_eq!(refused.text, "Topic binding key '#.a.#.b.#' uses 3 '#' wildcards, at most 2 are allowed");
    assert_eq!(Router::check(Type::Direct, &binding("q", "#.#.#", &[]), CLASSIC), Ok(()));
}

#[test]
fn fifty_hashes_cost_no_more_than_other_words() {
    let mut router = router(Type::Topic);
    router.bind(binding("q", &["#"; 50].join(".a."), &[]));
    router.bind(binding("r", &["#"; 50].join("."), &[]));
    let key = vec!["a"; 120].join(".");
    assert_eq!(routed(&router, &key, None), BTreeSet::from([queue("q"), queue("r")]));
    assert_eq!(routed(&router, &format!("{key}.b.{}", ["a"; 48].join(".")), None).len(), 2);
    assert_eq!(routed(&router, "a.a.a", None), BTreeSet::from([queue("r")]));
}

#[test]
fn unbinding_the_empty_topic_pattern_leaves_its_other_destinations() {
    let mut router = router(Type::Topic);
    router.bind(binding("p", "", &[]));
    router.bind(binding("q", "", &[]));
    router.unbind(&binding("p", "", &[]));
    assert_eq!(routed(&router, "", None), BTreeSet::from([queue("q")]));
}

#[test]
fn each_topic_binding_is_found_once() {
    let mut router = router(Type::Topic);
    for pattern in ["#.a.#.b", "#.#", "#.*.#", "#.a.#"] {
        router.bind(binding(pattern, pattern, &[]));
    }
    let mut found = ways(&router, &["a.a.b.a.a.b"], NO_PROPERTIES, 0);
    found.sort();
    assert_eq!(found, [queue("#.#"), queue("#.*.#"), queue("#.a.#"), queue("#.a.#.b")]);
}

#[test]
fn bindings_that_differ_in_arguments_are_two() {
    for kind in [Type::Direct, Type::Fanout, Type::Topic, Type::Headers] {
        let mut router = router(kind);
        let with = |value| binding("q", "k", &[("note", value)]);
        assert!(router.bind(with(Value::LongInt(1))));
        assert!(!router.bind(with(Value::LongInt(1))));
        assert!(router.bind(with(Value::LongLongInt(1))), "the integer's width is part of what it is");
        assert!(!router.unbind(&with(Value::LongInt(2))));
        assert!(!router.unbind(&binding("q", "k", &[])));
        assert!(router.unbind(&with(Value::LongInt(1))));
        assert_eq!(routed(&router, "k", Some(&[("note", Value::LongInt(1))])).len(), 1, "{kind:?}");
        assert!(router.has(&with(Value::LongLongInt(1))) && !router.has(&with(Value::LongInt(1))));
        assert!(router.unbind(&with(Value::LongLongInt(1))));
        assert!(router.is_empty());
        assert_eq!(routed(&router, "k", Some(&[("note", Value::LongInt(1))])).len(), 0, "{kind:?}");
    }
}

#[test]
fn a_destination_leaves_with_all_its_bindings_and_no_others() {
    let mut router = router(Type::Topic);
    for key in ["a", "", "#.b", "a.*"] {
        for name in ["q", "q2", "p"] {
            router.bind(binding(name, key, &[]));
        }
    }
    let exchange = Binding { destination: Destination::Exchange("q".into()), ..binding("", "a", &[]) };
    router.bind(exchange.clone());
    let removed = router.remove_destination(&queue("q"));
    assert_eq!(removed.iter().map(|binding| &*binding.routing_key).collect::<Vec<_>>(), ["", "#.b", "a", "a.*"]);
    assert_eq!(router.len(), 9);
    assert_eq!(routed(&router, "a", None), BTreeSet::from([queue("p"), queue("q2"), exchange.destination]));
    assert!(router.remove_destination(&queue("q")).is_empty());
}

#[test]
fn nothing_is_left_of_bindings_that_are_gone() {
    let mut topic = router(Type::Topic);
    let mut direct = router(Type::Direct);
    let keep = binding("keep", "a.#.keep", &[]);
    topic.bind(keep.clone());
    direct.bind(keep.clone());
    let mut reserved_first = None;
    for round in 0..3 {
        let made = |index| binding(&format!("q{index}"), &format!("a.#.{round}.{index}.*"), &[]);
        for index in 0..1000 {
            topic.bind(made(index));
            direct.bind(made(index));
        }
        for index in 0..1000 {
            assert!(topic.unbind(&made(index)) && direct.unbind(&made(index)));
        }
        let Index::Topic(trie) = &topic.index else { unreachable!() };
        let size = trie.size();
        assert_eq!((size.nodes, size.edges, size.words), (4, 2, 2));
        assert!(size.reserved <= *reserved_first.get_or_insert(size.reserved), "{size:?}");
        let Index::Direct(keys) = &direct.index else { unreachable!() };
        assert!(keys.reserved() <= 64);
    }
    topic.unbind(&keep);
    let Index::Topic(trie) = &topic.index else { unreachable!() };
    assert_eq!((trie.size().nodes, trie.size().edges, trie.size().words), (1, 0, 0));
    assert!(trie.size().reserved <= 64);
}

/// One queue a binding; which messages' headers reach it.
fn check_headers(bindings: &[Vec<(&str, Value)>], messages: &[Option<Vec<(&str, Value)>>], expected: &[&[usize]]) {
    let mut router = router(Type::Headers);
    for (index, arguments) in bindings.iter().enumerate() {
        assert_eq!(Router::check(Type::Headers, &binding("q", "", arguments), CLASSIC), Ok(()));
        router.bind(binding(&index.to_string(), "", arguments));
    }
    for (index, reached_by) in expected.iter().enumerate() {
        let destination = queue(&index.to_string());
        let reaches = |message: usize| routed(&router, "any.key", messages[message].as_deref()).contains(&destination);
        let found: Vec<_> = (0..messages.len()).filter(|&message| reaches(message)).collect();
        assert_eq!(found, *reached_by, "{:?}", bindings[index]);
    }
}

#[test]
fn headers_match_all_or_any() {
    let (a, b) = (("a", Value::LongInt(1)), ("b", text("x")));
    let mode = |mode| ("x-match", text(mode));
    check_headers(
        &[
            vec![a.clone(), b.clone(), mode("all")],
            vec![a.clone(), b.clone(), mode("any")],
            vec![a.clone(), b.clone()],
            vec![],
            vec![mode("all")],
            vec![mode("any")],
        ],
        &[
            None,
            Some(vec![]),
            Some(vec![a.clone()]),
            Some(vec![b.clone()]),
            Some(vec![b.clone(), a.clone()]),
            Some(vec![a.clone(), ("b", text("y"))]),
            Some(vec![("c", Value::LongInt(3)), a.clone(), b.clone()]),
            Some(vec![("a", text("1")), b.clone()]),
            Some(vec![("A", Value::LongInt(1))]),
        ],
        &[&[4, 6], &[2, 3, 4, 5, 6, 7], &[4, 6], &[0, 1, 2, 3, 4, 5, 6, 7, 8], &[0, 1, 2, 3, 4, 5, 6, 7, 8], &[]],
    );
}

#[test]
fn headers_that_start_with_x_count_only_if_asked_for() {
    let (kind, a) = (("x-kind", text("k")), ("a", Value::LongInt(1)));
    let wanted = |mode| vec![kind.clone(), a.clone(), ("x-match", text(mode))];
    check_headers(
        &[wanted("all"), wanted("any"), wanted("all-with-x"), wanted("any-with-x")],
        &[
            Some(vec![a.clone()]),
            Some(vec![kind.clone()]),
            Some(vec![a.clone(), kind.clone()]),
            Some(vec![a.clone(), ("x-kind", text("other"))]),
            Some(vec![("a", Value::LongInt(2)), kind.clone()]),
        ],
        &[&[0, 2, 3], &[0, 2, 3], &[2], &[0, 1, 2, 3, 4]],
    );
}

#[test]
fn void_asks_for_presence() {
    let (one, void) = (Value::LongInt(1), Value::Void);
    check_headers(
        &[vec![("a", void.clone())], vec![("x-match", text("any")), ("a", void.clone()), ("b", one.clone())]],
        &[
            Some(vec![("a", one.clone())]),
            Some(vec![("a", text("x"))]),
            Some(vec![("a", void)]),
            Some(vec![("b", one)]),
            Some(vec![("b", Value::LongInt(2))]),
            Some(vec![]),
        ],
        &[&[0, 1, 2], &[0, 1, 2, 3]],
    );
}

#[test]
fn of_two_headers_with_one_name_the_last_counts() {
    let (one, two) = (("a", Value::LongInt(1)), ("a", Value::LongInt(2)));
    check_headers(
        &[vec![one.clone()], vec![two.clone()]],
        &[Some(vec![one.clone(), two.clone()]), Some(vec![two, one])],
        &[&[1], &[0]],
    );
}

#[test]
fn header_values_compare_as_erlang_terms() {
    let decimal = |scale, value| Value::DecimalValue(amq_protocol::types::DecimalValue { scale, value });
    let array = |item| Value::FieldArray(vec![item].into());
    let nested = |value| Value::FieldTable(table(&[("k", value)]));
    let values = [
        Value::LongInt(1),                        // 0
        Value::LongLongInt(1),                    // 1
        Value::ShortShortUInt(1),                 // 2
        Value::Double(1.0),                       // 3
        Value::Float(1.0),                        // 4
        Value::Boolean(true),                     // 5
        Value::Timestamp(1),                      // 6
        Value::LongInt(1000),                     // 7
        text("1"),                                // 8
        Value::ByteArray(b"1".as_slice().into()), // 9
        decimal(0, 1),                            // 10
        decimal(1, 10),                           // 11
        array(Value::LongInt(1)),                 // 12
        array(Value::LongLongInt(1)),             // 13
        nested(Value::LongInt(1)),                // 14
        nested(Value::LongLongInt(1)),            // 15
        nested(Value::Timestamp(1)),              // 16
        Value::Double(0.0),                       // 17
        Value::Double(-0.0),                      // 18
        Value::Float(1.1),                        // 19
        Value::Double(1.1),                       // 20
        Value::Double(1.100_000_023_841_858),     // 21
        Value::Timestamp(u64::MAX),               // 22
    ];
    let expected: [&[usize]; 23] = [
        &[0, 1, 2],
        &[0, 1, 2],
        &[0, 1, 2],
        &[3, 4],
        &[3, 4],
        &[5],
        &[0, 1, 2],
        &[6, 7],
        &[8, 9],
        &[8, 9],
        &[10],
        &[11],
        &[12],
        &[13],
        &[14],
        &[15],
        &[16],
        &[17],
        &[18],
        &[19, 21],
        &[20],
        &[19, 21],
        &[],
    ];
    for (wanted, expected) in values.iter().zip(expected) {
        let mut router = router(Type::Headers);
        router.bind(binding("q", "", &[("a", wanted.clone())]));
        let matches = |index: &usize| !routed(&router, "", Some(&[("a", values[*index].clone())])).is_empty();
        assert_eq!((0..values.len()).filter(matches).collect::<Vec<_>>(), expected, "{wanted:?}");
    }
}

#[test]
fn a_wrong_x_match_is_refused() {
    for (value, expected) in [
        (text("some"), "Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x"),
        (text(""), "Invalid x-match field value <<>>; expected all, any, all-with-x, or any-with-x"),
        (Value::LongInt(5), "Invalid x-match field type signedint (value 5); expected longstr"),
        (Value::Boolean(true), "Invalid x-match field type bool (value true); expected longstr"),
        (Value::Void, "Invalid x-match field type void (value undefined); expected longstr"),
    ] {
        let refused = Router::check(Type::Headers, &binding("q", "", &[("x-match", value)]), CLASSIC).unwrap_err();
        assert_eq!(refused.text, expected);
    }
}

#[test]
fn a_type_is_known_by_its_name() {
    for kind in Type::ALL {
        assert_eq!(Type::parse(kind.name()), Some(kind));
    }
    assert_eq!(Type::parse("Direct"), None);
    assert_eq!(Type::parse("x-jms-topic"), None);
}

#[test]
fn routes_are_remembered_by_key_where_the_key_alone_decides() {
    let forgotten: Vec<_> = Type::ALL.into_iter().filter(|kind| !router(*kind).is_by_key()).collect();
    // A delayed one that says for which type is as that; what the message says is looked at before.
    assert_eq!(forgotten, [Type::Headers, Type::Random, Type::LocalRandom, Type::RecentHistory, Type::Delayed]);
    for arguments in [[("hash-header", text("h"))], [("hash-property", text("message_id"))]] {
        assert!(!Router::new(Type::ConsistentHash, &table(&arguments)).is_by_key());
    }
}

#[test]
fn a_weight_is_an_integer_from_1_to_10000() {
    let check = |key| Router::check(Type::ConsistentHash, &binding("q", key, &[]), CLASSIC).map_err(|no| no.text);
    for key in ["1", "+5", "007", "10000"] {
        assert_eq!(check(key), Ok(()));
    }
    for (key, shown) in [
        ("abc", "<<\"abc\">>"),
        ("", "<<>>"),
        ("1.5", "<<\"1.5\">>"),
        (" 5", "<<\" 5\">>"),
        ("1_000", "<<\"1_000\">>"),
        ("+", "<<\"+\">>"),
        ("é", "<<\"é\"/utf8>>"),
    ] {
        assert_eq!(check(key), Err(format!("The binding key must be an integer: {shown}")));
    }
    for key in ["0", "-1", "-0", "-99999999999999999999999"] {
        assert_eq!(check(key), Err("The binding key must be greater than 0".to_owned()));
    }
    for key in ["10001", "99999999999999999999999"] {
        assert_eq!(check(key), Err("The binding key must not exceed 10000".to_owned()));
    }
}

#[test]
fn a_consistent_hash_is_of_a_header_or_of_a_known_property() {
    let check = |arguments: &[(&str, Value)]| {
        check_type_arguments(Type::ConsistentHash, &table(arguments)).map_err(|refusal| refusal.text)
    };
    let (header, property) = (("hash-header", text("h")), |name| ("hash-property", text(name)));
    assert_eq!(check(std::slice::from_ref(&header)), Ok(()));
    for name in ["correlation_id", "message_id", "timestamp"] {
        assert_eq!(check(&[property(name)]), Ok(()));
    }
    assert_eq!(check(&[property("bogus")]), Err("Unsupported property: bogus".to_owned()));
    let both = Err("hash-header and hash-property are mutually exclusive".to_owned());
    assert_eq!(check(&[header, property("bogus")]), both);
    for key in ["hash-header", "hash-property"] {
        let refused = check(&[(key, Value::LongInt(5))]);
        assert_eq!(refused, Err(format!("invalid type 'signedint' for arg '{key}': expected a longstr")));
    }
    // Other types don't look at them.
    assert_eq!(check_type_arguments(Type::Fanout, &table(&[property("bogus")])), Ok(()));
}

#[test]
fn a_consistent_hash_takes_what_its_arguments_name() {
    let ring = |arguments: &[(&str, Value)]| {
        let mut router = Router::new(Type::ConsistentHash, &table(arguments));
        for name in ["a", "b", "c"] {
            router.bind(binding(name, "7", &[]));
        }
        router
    };
    let encode = |properties: AMQPProperties| {
        gen_properties(&properties)(WriteContext::from(Vec::<u8>::new())).unwrap().into_inner().0
    };
    let differ = |router: &Router, key: &dyn Fn(u64) -> String, raw: &dyn Fn(u64) -> Vec<u8>| {
        let way = |number| ways(router, &[&key(number)], &raw(number), 0)[0].clone();
        (0..50).map(way).collect::<BTreeSet<_>>().len()
    };
    let (same, other) = (|_: u64| "k".to_owned(), |number: u64| format!("k{number}"));
    let plain = |_: u64| NO_PROPERTIES.to_vec();
    let header = |number: u64| with_headers(&[("h", text(&number.to_string()))]);
    let correlation = |number: u64| encode(AMQPProperties::default().with_correlation_id(number.to_string().into()));
    let id = |number: u64| encode(AMQPProperties::default().with_message_id(number.to_string().into()));
    let time = |number: u64| encode(AMQPProperties::default().with_timestamp(number));

    let by_key = ring(&[]);
    assert_eq!((differ(&by_key, &other, &plain), differ(&by_key, &same, &header)), (3, 1));
    let by_header = ring(&[("hash-header", text("h"))]);
    assert_eq!((differ(&by_header, &same, &header), differ(&by_header, &other, &plain)), (3, 1));
    for (name, raw) in
        [("correlation_id", &correlation as &dyn Fn(u64) -> Vec<u8>), ("message_id", &id), ("timestamp", &time)]
    {
        let router = ring(&[("hash-property", text(name))]);
        assert_eq!((differ(&router, &same, raw), differ(&router, &other, &header)), (3, 1), "{name}");
    }
    // Of the keys the first, of two headers the last; an integer's width makes no difference.
    for number in 0..50 {
        let first = only(&by_key, &other(number));
        assert_eq!(ways(&by_key, &[&other(number), "cc"], NO_PROPERTIES, 0), [first]);
        let [once, twice] = [vec![number], vec![number + 1, number]].map(|values| {
            let values: Vec<_> = values.iter().map(|value| ("h", text(&value.to_string()))).collect();
            ways(&by_header, &["k"], &with_headers(&values), 0)
        });
        assert_eq!(once, twice);
        let number = i16::try_from(number).unwrap();
        let [short, long] = [Value::ShortInt(number), Value::LongLongInt(number.into())]
            .map(|value| ways(&by_header, &["k"], &with_headers(&[("h", value)]), 0));
        assert_eq!(short, long);
    }
}

#[test]
fn keys_are_spread_by_weight() {
    let mut router = router(Type::ConsistentHash);
    for (name, weight) in [("a", "1"), ("b", "2"), ("c", "7")] {
        router.bind(binding(name, weight, &[]));
    }
    let mut hits = std::collections::BTreeMap::new();
    for number in 0..10_000 {
        *hits.entry(only(&router, &format!("order.{number}"))).or_insert(0_u32) += 1;
    }
    for (name, expected) in [("a", 1000_u32), ("b", 2000), ("c", 7000)] {
        assert!(hits[&queue(name)].abs_diff(expected) < 250, "{hits:?}");
    }
}

#[test]
fn a_queue_bound_twice_keeps_its_first_weight_and_loses_all_buckets_with_either_binding() {
    let mut router = router(Type::ConsistentHash);
    assert!(router.bind(binding("q", "1", &[])) && router.bind(binding("q", "5", &[])));
    assert!(router.bind(binding("p", "1", &[])));
    let Index::Ring(ring) = &router.index else { unreachable!() };
    assert_eq!(ring.buckets(), [queue("q"), queue("p")]);
    assert!(router.unbind(&binding("q", "5", &[])));
    assert!(router.binds(&queue("q")));
    let Index::Ring(ring) = &router.index else { unreachable!() };
    assert_eq!(ring.buckets(), [queue("p")]);
    router.remove_destination(&queue("p"));
    assert!(ways(&router, &["k"], NO_PROPERTIES, 0).is_empty());
}

#[test]
fn local_random_takes_classic_queues_without_a_key() {
    let check = |key, bound| Router::check(Type::LocalRandom, &binding("q", key, &[]), bound).map_err(|no| no.text);
    let (quorum, stream) = (Bound::Queue("rabbit_quorum_queue"), Bound::Queue("rabbit_stream_queue"));
    assert_eq!(check("", CLASSIC), Ok(()));
    assert_eq!(check("key", CLASSIC), Err("Non empty binding 'key' key not permitted".to_owned()));
    assert_eq!(check("é", quorum), Err("Non empty binding 'Ã©' key not permitted".to_owned()));
    assert_eq!(check("", quorum), Err("Queue type rabbit_quorum_queue not valid for this exchange type".to_owned()));
    assert_eq!(check("", stream), Err("Queue type rabbit_stream_queue not valid for this exchange type".to_owned()));
    assert_eq!(check("", Bound::Exchange), Err("Destination not found".to_owned()));
    assert_eq!(Router::check(Type::Random, &binding("q", "key", &[]), quorum), Ok(()));
}

#[test]
fn recent_history_routes_as_fanout() {
    check_keys(Type::RecentHistory, &["a", "", "other"], &[("a", &[0, 1, 2]), ("", &[0, 1, 2])]);
}

#[test]
fn redeclaring_an_exchange_differently_is_refused() {
    let none = Table::default();
    let alternate = table(&[(ALTERNATE_EXCHANGE, text("amq.fanout")), ("other", text("x"))]);
    let current =
        Declared { kind: Type::Direct, durable: false, auto_delete: false, internal: false, arguments: &alternate };
    let said = |received: Declared<'_>| -> Vec<_> {
        differences(&current, &received).iter().map(ToString::to_string).collect()
    };
    let same = table(&[(ALTERNATE_EXCHANGE, text("amq.fanout"))]);
    assert!(said(Declared { arguments: &same, ..current }).is_empty());
    let flag = |name| format!("'{name}': received 'true' but current is 'false'");
    assert_eq!(
        said(Declared { kind: Type::Fanout, durable: true, auto_delete: true, internal: true, arguments: &none }),
        [
            "'type': received 'fanout' but current is 'direct'".to_owned(),
            flag("durable"),
            flag("auto_delete"),
            flag("internal"),
            "'alternate-exchange': received none but current is the value 'amq.fanout' of type 'longstr'".to_owned(),
        ]
    );
    assert_eq!(said(Declared { internal: true, ..current }), [flag("internal")]);
}

#[test]
fn an_alternate_exchange_is_a_long_string() {
    let check = |value| check_arguments("exchange 'x' in vhost '/'", &table(&[(ALTERNATE_EXCHANGE, value)]));
    assert_eq!(check(text("ae")), Ok(Some("ae".into())));
    assert_eq!(
        check(Value::LongInt(5)).unwrap_err().text,
        "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'x' in vhost '/'"
    );
}

// The models.

fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        (["#", rest @ ..], _) => (0..=key.len()).any(|skipped| topic_matches(rest, &key[skipped..])),
        (["*", rest @ ..], [_, key @ ..]) => topic_matches(rest, key),
        ([word, rest @ ..], [first, key @ ..]) => word == first && topic_matches(rest, key),
        _ => false,
    }
}

fn split(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

/// What Erlang keeps of a value once its type is taken off, as text.
fn untyped(value: &Value) -> String {
    match value {
        Value::LongString(_) | Value::ByteArray(_) => format!("binary {:?}", crate::amqp::term::as_binary(value)),
        Value::Float(number) => format!("float {:?}", f64::from(*number)),
        Value::Double(number) => format!("float {number:?}"),
        Value::Boolean(_) | Value::Void | Value::FieldArray(_) => format!("{value:?}"),
        integer => format!("integer {}", crate::amqp::table::as_i64(integer).unwrap()),
    }
}

fn headers_match(arguments: &Table, headers: &[(&str, Value)]) -> bool {
    let mode = arguments.inner().get("x-match").and_then(crate::amqp::table::as_str).unwrap_or("all");
    let (mode, with_x) = mode.strip_suffix("-with-x").map_or((mode, false), |mode| (mode, true));
    let mut results = Vec::new();
    for (key, wanted) in arguments {
        let key = key.as_str();
        if key == "x-match" || (key.starts_with("x-") && !with_x) {
            continue;
        }
        let found = headers.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| value);
        let matched = found.is_some_and(|found| *wanted == Value::Void || untyped(wanted) == untyped(found));
        results.push(matched);
    }
    if mode == "any" { results.contains(&true) } else { !results.contains(&false) }
}

fn any_key() -> impl Strategy<Value = String> {
    prop::collection::vec(select(vec!["a", "b", "", "*", "#"]), 0..7).prop_map(|words| words.join("."))
}

fn any_pattern() -> impl Strategy<Value = String> {
    prop::collection::vec(select(vec!["a", "b", "", "*", "*", "#", "#"]), 0..6).prop_map(|words| words.join("."))
}

fn any_value() -> impl Strategy<Value = Value> {
    select(vec![
        Value::LongInt(1),
        Value::LongLongInt(1),
        Value::ShortShortUInt(1),
        Value::ShortInt(-1),
        Value::Double(1.0),
        Value::Float(1.0),
        Value::Boolean(true),
        Value::Boolean(false),
        text("1"),
        text(""),
        Value::ByteArray(b"1".as_slice().into()),
        Value::Void,
        Value::FieldArray(vec![Value::LongInt(1)].into()),
        Value::FieldArray(vec![Value::LongLongInt(1)].into()),
    ])
}

fn any_fields() -> impl Strategy<Value = Vec<(&'static str, Value)>> {
    prop::collection::vec((select(vec!["a", "b", "c", "x-a", "x-b"]), any_value()), 0..5)
}

fn any_arguments() -> impl Strategy<Value = Table> {
    let mode = prop::option::of(select(vec!["all", "any", "all-with-x", "any-with-x"]));
    (any_fields(), mode).prop_map(|(mut fields, mode)| {
        fields.extend(mode.map(|mode| ("x-match", text(mode))));
        table(&fields)
    })
}

fn any_destination() -> impl Strategy<Value = Destination> {
    (any::<bool>(), select(vec!["p", "q", "r", "s"]))
        .prop_map(|(is_queue, name)| if is_queue { queue(name) } else { Destination::Exchange(name.into()) })
}

fn any_binding(kind: Type) -> impl Strategy<Value = Binding> {
    let arguments = if kind == Type::Headers {
        any_arguments().boxed()
    } else {
        select(vec![Table::default(), table(&[("note", Value::LongInt(1))])]).boxed()
    };
    (any_destination(), any_pattern(), arguments).prop_map(|(destination, routing_key, arguments)| Binding {
        destination,
        routing_key: routing_key.into(),
        arguments,
    })
}

#[derive(Debug, Clone)]
enum Change {
    Bind(Binding),
    Unbind(Binding),
    /// Unbinds the n-th binding that is there.
    UnbindOne(usize),
    Remove(Destination),
}

fn any_changes(kind: Type) -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        8 => any_binding(kind).prop_map(Change::Bind),
        1 => any_binding(kind).prop_map(Change::Unbind),
        3 => any::<usize>().prop_map(Change::UnbindOne),
        1 => any_destination().prop_map(Change::Remove),
    ];
    prop::collection::vec(change, 0..50)
}

/// Makes the changes to a router and to a list, and holds their answers against each other.
fn change(router: &mut Router, model: &mut Vec<Binding>, changes: Vec<Change>) {
    for change in changes {
        let unbound = match change {
            Change::Bind(binding) => {
                assert_eq!(router.bind(binding.clone()), !model.contains(&binding));
                if !model.contains(&binding) {
                    model.push(binding);
                }
                continue;
            }
            Change::Remove(destination) => {
                let mut gone: Vec<_> = model.extract_if(.., |binding| binding.destination == destination).collect();
                gone.sort();
                assert_eq!(router.remove_destination(&destination), gone);
                continue;
            }
            Change::Unbind(binding) => binding,
            Change::UnbindOne(_) if model.is_empty() => continue,
            Change::UnbindOne(index) => model[index % model.len()].clone(),
        };
        assert_eq!(router.unbind(&unbound), model.contains(&unbound));
        model.retain(|binding| *binding != unbound);
    }
    model.sort();
    assert!(router.bindings().eq(model.iter()));
    assert_eq!((router.len(), router.is_empty()), (model.len(), model.is_empty()));
}

fn check_against_model(
    kind: Type,
    changes: Vec<Change>,
    key: &str,
    headers: Option<&[(&str, Value)]>,
    matches: impl Fn(&Binding) -> bool,
) {
    let mut router = router(kind);
    let mut model = Vec::new();
    change(&mut router, &mut model, changes);
    let expected = model.iter().filter(|binding| matches(binding)).map(|binding| binding.destination.clone());
    assert_eq!(routed(&router, key, headers), expected.collect::<BTreeSet<_>>());
    for binding in model.drain(..) {
        assert!(router.unbind(&binding));
    }
    assert!(routed(&router, key, headers).is_empty());
    match &router.index {
        Index::Topic(trie) => assert_eq!((trie.size().nodes, trie.size().edges, trie.size().words), (1, 0, 0)),
        Index::Direct(keys) => assert_eq!(keys.len(), 0),
        Index::Fanout(targets) => assert!(targets.is_empty()),
        Index::Ring(_) | Index::Picks(_) | Index::Headers => {}
    }
}

/// Changes of bindings with weights.
fn any_weighted_changes() -> impl Strategy<Value = Vec<Change>> {
    any_changes(Type::ConsistentHash).prop_perturb(|mut changes, mut dice| {
        for change in &mut changes {
            if let Change::Bind(binding) | Change::Unbind(binding) = change {
                binding.routing_key = (1 + dice.random::<u32>() % 5).to_string().into();
            }
        }
        changes
    })
}

/// Makes the changes to a router, and to buckets as RabbitMQ keeps them: a list to which and from which whole
/// destinations go.
fn change_buckets(router: &mut Router, changes: Vec<Change>) -> Vec<Destination> {
    let (mut buckets, mut bound) = (Vec::new(), Vec::<Binding>::new());
    for change in changes {
        let removed: Vec<Binding> = match change {
            Change::Bind(binding) => {
                if router.bind(binding.clone()) {
                    if !buckets.contains(&binding.destination) {
                        let weight = binding.routing_key.parse().unwrap();
                        buckets.extend(std::iter::repeat_n(binding.destination.clone(), weight));
                    }
                    bound.push(binding);
                }
                continue;
            }
            Change::Remove(destination) => {
                let gone = bound.extract_if(.., |known| known.destination == destination).collect();
                router.remove_destination(&destination);
                gone
            }
            Change::UnbindOne(index) if !bound.is_empty() => vec![bound.remove(index % bound.len())],
            Change::UnbindOne(_) => continue,
            Change::Unbind(binding) => bound.extract_if(.., |known| *known == binding).collect(),
        };
        for binding in removed {
            router.unbind(&binding);
            buckets.retain(|destination| *destination != binding.destination);
        }
    }
    buckets
}

proptest! {
    #[test]
    fn buckets_stand_as_in_rabbitmq(changes in any_weighted_changes()) {
        let mut router = router(Type::ConsistentHash);
        let buckets = change_buckets(&mut router, changes);
        let Index::Ring(ring) = &router.index else { unreachable!() };
        prop_assert_eq!(ring.buckets(), buckets.clone());
        // A restart: the bindings come back in the order of their places.
        let mut places: Vec<_> = router.bindings().map(|binding| (router.place(binding), binding.clone())).collect();
        places.sort_by_key(|(place, _)| (place.is_none(), *place));
        let mut restarted = Router::new(Type::ConsistentHash, &Table::default());
        for (place, binding) in places {
            restarted.bind_at(binding.clone(), place);
            prop_assert!(place.is_none() || restarted.place(&binding) == place);
        }
        // Bindings that RabbitMQ had left without buckets have some again; the others stand as before.
        let Index::Ring(again) = &restarted.index else { unreachable!() };
        let mut again = again.buckets();
        again.retain(|destination| buckets.contains(destination));
        prop_assert_eq!(again, buckets);
        // What is bound next stands behind all.
        let last = binding("last", "3", &[]);
        restarted.bind(last.clone());
        let place = restarted.place(&last);
        prop_assert!(restarted.bindings().all(|other| *other == last || restarted.place(other) < place));
    }

    #[test]
    fn a_last_queue_takes_keys_and_moves_no_others(
        weights in prop::collection::vec(1_u32..20, 1..8),
        last in 1_u32..20,
        keys in prop::collection::vec(any_key(), 1..50),
    ) {
        let mut router = router(Type::ConsistentHash);
        for (index, weight) in weights.iter().enumerate() {
            router.bind(binding(&index.to_string(), &weight.to_string(), &[]));
        }
        let before: Vec<_> = keys.iter().map(|key| only(&router, key)).collect();
        let added = binding("last", &last.to_string(), &[]);
        router.bind(added.clone());
        for (key, before) in keys.iter().zip(&before) {
            let now = only(&router, key);
            prop_assert!(now == *before || now == queue("last"));
        }
        router.unbind(&added);
        prop_assert_eq!(keys.iter().map(|key| only(&router, key)).collect::<Vec<_>>(), before);
    }

    #[test]
    fn a_modulus_counts_bindings_in_order(changes in any_changes(Type::ModulusHash), keys in prop::collection::vec(any_key(), 1..4)) {
        let mut router = router(Type::ModulusHash);
        let mut model = Vec::new();
        change(&mut router, &mut model, changes);
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        let number = Hash::default().texts(keys.iter().copied()).finish();
        let all: Vec<_> = model.iter().map(|binding| binding.destination.clone()).collect();
        let expected: Vec<_> = match all.len() as u64 {
            0 => vec![],
            count => vec![all[usize::try_from(number % count).unwrap()].clone()],
        };
        prop_assert_eq!(ways(&router, &keys, NO_PROPERTIES, 0), expected.clone());
        // Whatever the order in which they came.
        let mut other = Router::new(Type::ModulusHash, &Table::default());
        for binding in model.iter().rev() {
            other.bind(binding.clone());
        }
        prop_assert_eq!(ways(&other, &keys, NO_PROPERTIES, 1), expected);
    }

    #[test]
    fn any_binding_may_be_drawn_and_no_other(changes in any_changes(Type::Random), start in any::<u64>()) {
        let mut router = router(Type::Random);
        let mut model = Vec::new();
        change(&mut router, &mut model, changes);
        let Index::Picks(picks) = &router.index else { unreachable!() };
        let all: Vec<_> = model.iter().map(|binding| binding.destination.clone()).collect();
        prop_assert_eq!(picks.all(), &all[..]);
        // Numbers that follow each other draw every binding in turn.
        let start = start.min(u64::MAX - 100);
        let mut drawn: Vec<_> =
            (0..all.len() as u64).flat_map(|draw| ways(&router, &["k", "cc"], NO_PROPERTIES, start + draw)).collect();
        drawn.sort();
        prop_assert_eq!(drawn, all);
        prop_assert!(model.is_empty() == ways(&router, &["k"], NO_PROPERTIES, start).is_empty());
    }

    #[test]
    fn topic_routes_as_the_model_does(changes in any_changes(Type::Topic), key in any_key()) {
        check_against_model(Type::Topic, changes, &key, None, |binding| {
            topic_matches(&split(&binding.routing_key), &split(&key))
        });
    }

    #[test]
    fn direct_routes_as_the_model_does(changes in any_changes(Type::Direct), key in any_key()) {
        check_against_model(Type::Direct, changes, &key, None, |binding| *binding.routing_key == *key);
    }

    #[test]
    fn fanout_routes_as_the_model_does(changes in any_changes(Type::Fanout), key in any_key()) {
        check_against_model(Type::Fanout, changes, &key, None, |_| true);
    }

    #[test]
    fn headers_route_as_the_model_does(changes in any_changes(Type::Headers), headers in any_fields()) {
        check_against_model(Type::Headers, changes, "", Some(&headers), |binding| {
            headers_match(&binding.arguments, &headers)
        });
    }
}
