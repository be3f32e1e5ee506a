use std::path::Path;

use super::*;
use crate::amqp::Value;
use crate::auth::{Algorithm, verify};
use crate::written::{Remark, Remarks};

type Read = Result<(Document, Vec<Remark>), Remarks>;

fn json(text: &str) -> Read {
    Document::from_json(text, Path::new("d.json"), Target::Named, &Algorithm::Sha256)
}

fn toml(text: &str) -> Read {
    Document::from_toml(text, Path::new("d.toml"), Target::Named, &Algorithm::Sha256)
}

fn document(read: Read) -> Document {
    read.map_err(|remarks| panic!("{remarks}")).unwrap().0
}

fn mistakes(read: Read) -> Vec<String> {
    read.expect_err("must be refused").mistakes.iter().map(ToString::to_string).collect()
}

fn warnings(read: Read) -> Vec<String> {
    read.map_err(|remarks| panic!("{remarks}")).unwrap().1.iter().map(ToString::to_string).collect()
}

/// As RabbitMQ 4.3 writes it.
const EXPORT_4_3: &str = r#"{
  "rabbit_version": "4.3.6", "rabbitmq_version": "4.3.6", "product_name": "RabbitMQ", "product_version": "4.3.6",
  "rabbitmq_definition_format": "cluster", "original_cluster_name": "rabbit@hare", "explanation": "Definitions",
  "users": [{"name": "hare", "password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
    "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ["administrator", "management"],
    "limits": {"max-connections": 7, "max-channels": -1}}],
  "vhosts": [{"name": "/", "limits": {"max-queues": 100}, "metadata": {"description": "Default", "tags": ["a", "b"],
    "default_queue_type": "classic", "protected_from_deletion": true}}],
  "permissions": [{"user": "hare", "vhost": "/", "configure": ".*", "write": "^a", "read": ""}],
  "topic_permissions": [{"user": "hare", "vhost": "/", "exchange": "amq.topic", "write": "^{username}", "read": ".*"}],
  "parameters": [{"vhost": "/", "component": "operator_policy", "name": "o",
    "value": {"pattern": "x", "definition": {"max-length": 5}, "priority": 1, "apply-to": "all"}}],
  "global_parameters": [{"name": "internal_cluster_id", "value": "rabbitmq-cluster-id-1"}],
  "policies": [{"vhost": "/", "name": "p", "pattern": "^q", "apply-to": "queues", "priority": 3,
    "definition": {"max-length": 5}}],
  "queues": [{"name": "q", "vhost": "/", "durable": true, "auto_delete": false, "type": "quorum",
    "arguments": {"x-queue-type": "quorum", "x-delivery-limit": 5}}],
  "exchanges": [{"name": "e", "vhost": "/", "type": "topic", "durable": true, "auto_delete": false, "internal": true,
    "arguments": {}}],
  "bindings": [{"source": "e", "vhost": "/", "destination": "q", "destination_type": "queue", "routing_key": "k.#",
    "arguments": {"x-match": "all", "n": [1, 2.5, true, {"deep": "er"}]}}]
}"#;

#[test]
fn an_export_of_rabbitmq_4_is_read_whole() {
    let document = document(json(EXPORT_4_3));
    assert_eq!(warnings(json(EXPORT_4_3)), Vec::<String>::new());
    let user = &document.users[0];
    assert!(verify(Some(user), "test12"));
    assert_eq!(user.tags, ["administrator", "management"]);
    assert_eq!(user.limits, UserLimits { max_connections: Some(7), max_channels: None });
    let vhost = &document.vhosts[0];
    assert_eq!(vhost.limits["max-queues"], 100);
    assert_eq!((vhost.metadata.description.as_str(), vhost.metadata.protected_from_deletion), ("Default", true));
    assert_eq!(vhost.metadata.default_queue_type.as_deref(), Some("classic"));
    assert_eq!(document.permissions[0].write, "^a");
    assert_eq!(document.topic_permissions[0].exchange, "amq.topic");
    assert_eq!(document.parameters[0].value["priority"], 1);
    assert_eq!((document.policies[0].priority, document.policies[0].apply_to.as_str()), (3, "queues"));
    let queue = &document.queues[0];
    assert_eq!(queue.queue_type.as_deref(), Some("quorum"));
    assert_eq!(queue.arguments.inner()["x-delivery-limit"], Value::LongLongInt(5));
    assert!(document.exchanges[0].internal);
    let arguments = document.bindings[0].arguments.inner();
    assert_eq!(arguments["x-match"], Value::LongString("all".into()));
    let Value::FieldArray(items) = &arguments["n"] else { panic!("no array") };
    assert_eq!(items.as_slice()[1], Value::Double(2.5));
    assert_eq!(
        document.summary(),
        "1 user, 1 vhost, 2 permissions, 2 parameters, 1 policy, 1 queue, 1 exchange, 1 binding"
    );
}

#[test]
fn what_is_written_is_what_is_read() {
    let first = document(json(EXPORT_4_3));
    let written = first.to_json();
    assert_eq!(document(json(&written.to_string())), first);
    let toml_text = first.to_toml().unwrap();
    assert!(toml_text.contains("[[queues]]") && toml_text.contains("x-delivery-limit = 5"), "{toml_text}");
    assert_eq!(document(toml(&toml_text)), first);
    assert_eq!(document(json(&Document::default().to_json().to_string())), Document::default());
    assert_eq!(Document::default().to_toml().unwrap(), "");
}

#[test]
fn null_has_no_word_in_toml() {
    let with_null = r#"{"global_parameters": [{"name": "a", "value": {"b": null}}]}"#;
    assert!(document(json(with_null)).to_toml().is_err());
}

#[test]
fn exports_of_older_brokers_are_read() {
    // RabbitMQ 3.8 and LavinMQ: tags with commas, limits as empty lists, metadata beside the name.
    let text = "\u{feff}{
        \"rabbit_version\": \"3.8.9\", \"permissions\": [],
        \"users\": [{\"name\": \"a\", \"password_hash\": \"\", \"tags\": \"administrator, monitoring\", \"limits\": []},
                  {\"name\": \"b\", \"password_hash\": null, \"tags\": \"\"}],
        \"vhosts\": [{\"name\": \"/\", \"limits\": [], \"description\": \"d\", \"tags\": [\"t\"], \"tracing\": false}],
        \"queues\": [{\"name\": \"q\", \"vhost\": \"/\", \"durable\": true, \"auto_delete\": false, \"arguments\": []}],
        \"policies\": [{\"vhost\": \"/\", \"name\": \"p\", \"pattern\": \"\", \"definition\": {\"expires\": 1}}]
    }";
    let read = document(json(text));
    assert_eq!(read.users[0].tags, ["administrator", "monitoring"]);
    assert!(read.users[1].tags.is_empty());
    assert_eq!(read.users[0].hashing_algorithm, Algorithm::Sha256);
    assert_eq!((read.vhosts[0].metadata.description.as_str(), read.vhosts[0].tracing), ("d", Some(false)));
    assert_eq!((read.policies[0].apply_to.as_str(), read.policies[0].priority), ("all", 0));
    // Before 3.6 there was one algorithm, and it wasn't written down.
    let text = r#"{"rabbit_version": "3.5.7", "users": [{"name": "a", "password_hash": "", "administrator": true}]}"#;
    let read = document(json(text));
    assert_eq!((&read.users[0].hashing_algorithm, read.users[0].has_tag("administrator")), (&Algorithm::Md5, true));
}

#[test]
fn a_users_password_may_be_plain_and_is_kept_as_a_hash() {
    let read = document(toml("[[users]]\nname = 'u'\npassword = 'geheim'\ntags = ['management']"));
    assert!(verify(Some(&read.users[0]), "geheim"));
    assert!(!read.to_json().to_string().contains("geheim"));
    let both = "[[users]]\nname = 'u'\npassword = 'geheim'\npassword_hash = ''";
    let both = mistakes(toml(both));
    assert_eq!(both, ["d.toml:3: users[0].password: stands beside a password_hash; only one of them can count"]);
}

#[test]
fn a_user_whose_algorithm_is_unknown_is_kept_with_a_warning() {
    let text = r#"{"users": [{"name": "u", "password_hash": "$2a$04$x", "hashing_algorithm": "Bcrypt", "tags": ""}]}"#;
    assert_eq!(
        warnings(json(text)),
        ["d.json:1: users[0].hashing_algorithm: 'Bcrypt' is not known here; u can't log in with a password"]
    );
    let user = document(json(text)).users.remove(0);
    assert_eq!((user.password_hash.as_str(), user.hashing_algorithm.name()), ("$2a$04$x", "Bcrypt"));
}

#[test]
fn every_mistake_is_told_with_its_line_and_path() {
    let text = r#"{
  "quues": [],
  "queues": [
    {"name": "a", "vhost": "/", "durabel": true},
    {"name": 5,
     "vhost": "/",
     "durable": "maybe"},
    "b",
    {"vhost": "/"},
    {"nmae": "c", "vhost": "/"},
    {"name": "", "vhost": "/"},
    {"name": "d", "vhost": "/"},
    {"name": "d", "vhost": "/"}
  ],
  "policies": [{"name": "p", "vhost": "/", "pattern": "(?=x)", "apply-to": "queue", "definition": {}, "priority": "1"}],
  "permissions": {},
  "bindings": [{"source": "s", "vhost": "/", "destination": "d", "destination_type": "topic"}],
  "users": [{"name": "u", "password_hash": "?", "tags": 5, "limits": {"max-connection": 1}}]
}"#;
    assert_eq!(
        mistakes(json(text)),
        [
            "d.json:18: users[0].password_hash: is not Base64",
            "d.json:18: users[0].tags: must be a list of strings, not an integer",
            "d.json:18: users[0].limits.max-connection: unknown field (did you mean 'max-connections'?)",
            "d.json:16: permissions: must be a list, not a map",
            "d.json:15: policies[0].definition: must say something",
            "d.json:15: policies[0].pattern: '(?=x)' can't be used as a pattern: look-around, including look-ahead and \
             look-behind, is not supported",
            "d.json:15: policies[0].apply-to: 'queue' is none of all, exchanges, queues, classic_queues, \
             quorum_queues, streams (did you mean 'queues'?)",
            "d.json:15: policies[0].priority: must be an integer, not a string",
            "d.json:4: queues[0].durabel: unknown field (did you mean 'durable'?)",
            "d.json:5: queues[1].name: must be a string, not an integer",
            "d.json:7: queues[1].durable: must be true or false, not a string",
            "d.json:8: queues[2]: must be a map, not a string",
            "d.json:9: queues[3].name: is missing",
            "d.json:10: queues[4].nmae: unknown field (did you mean 'name'?)",
            "d.json:11: queues[5].name: must not be empty",
            "d.json:13: queues[7]: has the same name as the one on line 12",
            "d.json:17: bindings[0].destination_type: 'topic' is none of queue, exchange",
            "d.json:2: quues: unknown field (did you mean 'queues'?)",
        ]
    );
}

#[test]
fn toml_mistakes_have_lines_as_well() {
    let text =
        "[[queues]]\nname = 'a'\nvhost = '/'\n\n[[queues]]\nname = 'a'\nvhost = '/'\n\n[[queues]]\nvhots = '/'\n";
    assert_eq!(
        mistakes(toml(text)),
        [
            "d.toml:5: queues[1]: has the same name as the one on line 1",
            "d.toml:9: queues[2].name: is missing",
            "d.toml:10: queues[2].vhots: unknown field (did you mean 'vhost'?)",
        ]
    );
}

#[test]
fn names_and_arguments_that_amqp_cannot_carry_are_mistakes() {
    let long = "x".repeat(256);
    let text = format!(r#"{{"queues": [{{"name": "{long}", "vhost": "/", "arguments": {{"{long}": 1}}}}]}}"#);
    assert_eq!(
        mistakes(json(&text)),
        [
            "d.json:1: queues[0].name: is longer than 255 octets".to_owned(),
            format!("d.json:1: queues[0].arguments: the key '{}…' is longer than 255 octets", "x".repeat(30)),
        ]
    );
    let deep = |levels: usize| {
        let lists = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        json(&format!(r#"{{"queues": [{{"name": "q", "vhost": "/", "arguments": {{"a": {lists}}}}}]}}"#))
    };
    assert!(deep(31).is_ok());
    assert_eq!(mistakes(deep(32)), ["d.json:1: queues[0].arguments: nested deeper than 32 levels"]);
}

#[test]
fn unknown_fields_that_are_no_slips_are_left_aside_and_told_of_once() {
    let text = r#"{
  "runtime_parameters": [],
  "vhosts": [{"name": "/"}],
  "queues": [{"name": "a", "vhost": "/", "message_stats": {}},
             {"name": "b", "vhost": "/", "message_stats": {}}]
}"#;
    assert_eq!(
        warnings(json(text)),
        [
            "d.json:4: queues[].message_stats: unknown field; ignored (2 times)",
            "d.json:2: runtime_parameters: unknown field; ignored",
        ]
    );
}

#[test]
fn what_a_document_speaks_of_without_holding_it_is_told_of() {
    let text = r#"{
  "queues": [{"name": "q", "vhost": "/"}],
  "permissions": [{"user": "u", "vhost": "v", "configure": "", "write": "", "read": ""}],
  "bindings": [
    {"source": "amq.topic", "vhost": "/", "destination": "q"},
    {"source": "amq.topic", "vhost": "v", "destination": "q"},
    {"source": "e", "vhost": "/", "destination": "f", "destination_type": "exchange"},
    {"source": "", "vhost": "/", "destination": "q"}
  ]
}"#;
    assert_eq!(
        warnings(json(text)),
        [
            "d.json:8: a binding from the default exchange, where every queue is bound anyway; left out",
            "d.json:6: bindings: queue 'q' in vhost 'v' is not in this document",
            "d.json:7: bindings: exchange 'e' in vhost '/' is not in this document",
            "d.json:7: bindings: exchange 'f' in vhost '/' is not in this document",
            "d.json: vhost '/' is not in this document",
            "d.json: vhost 'v' is not in this document",
            "d.json: user 'u' is not in this document",
        ]
    );
    assert_eq!(document(json(text)).bindings.len(), 3);
}

#[test]
fn reserved_names_are_left_out() {
    let text = r#"{"vhosts": [{"name": "/"}],
  "queues": [{"name": "amq.gen-1", "vhost": "/"}],
  "exchanges": [{"name": "", "vhost": "/", "type": "direct"}, {"name": "amq.x", "vhost": "/", "type": "direct"}]}"#;
    let read = document(json(text));
    assert!(read.queues.is_empty() && read.exchanges.is_empty());
    assert_eq!(
        warnings(json(text)),
        [
            "d.json:2: queue 'amq.gen-1' has a reserved name; left out",
            "d.json:3: exchange '' has a reserved name; left out",
            "d.json:3: exchange 'amq.x' has a reserved name; left out",
        ]
    );
}

#[test]
fn an_export_of_one_virtual_host_goes_where_it_is_told() {
    let text = r#"{
  "rabbitmq_definition_format": "single_virtual_host", "original_vhost_name": "old",
  "queues": [{"name": "q", "durable": true}],
  "bindings": [{"source": "amq.direct", "destination": "q", "routing_key": "q"}]
}"#;
    assert_eq!(
        mistakes(json(text)),
        ["d.json: holds one virtual host and doesn't say which; import it into one that you name"]
    );
    let read = document(Document::from_json(text, Path::new("d.json"), Target::Vhost("new"), &Algorithm::Sha256));
    assert_eq!((read.queues[0].vhost.as_str(), read.bindings[0].vhost.as_str()), ("new", "new"));
    assert!(!read.to_json().to_string().contains("\"vhost\""));
    // Without that format the records have to say where they belong.
    assert_eq!(mistakes(json(r#"{"queues": [{"name": "q"}]}"#)), ["d.json:1: queues[0].vhost: is missing"]);
}

#[test]
fn importing_into_a_virtual_host_leaves_out_what_belongs_to_none() {
    let read = document(Document::from_json(EXPORT_4_3, Path::new("d.json"), Target::Vhost("v"), &Algorithm::Sha256));
    assert_eq!((read.users.len(), read.vhosts.len(), read.permissions.len()), (0, 0, 0));
    assert_eq!((read.queues[0].vhost.as_str(), read.policies[0].vhost.as_str()), ("v", "v"));
}

#[test]
fn policies_that_rabbitmq_refuses_are_mistakes() {
    let text = r#"{"policies": [
  {"vhost": "/", "name": "a", "pattern": "", "definition": {"max-lenght": 1, "ha-mode": "all"}},
  {"vhost": "/", "name": "b", "pattern": "", "definition": {"max-length": -1}},
  {"vhost": "/", "name": "c", "pattern": "", "definition": {"delivery-limit": -1}}],
"parameters": [
  {"vhost": "/", "component": "operator_policy", "name": "d", "value": {"pattern": "(?=x)", "definition": {"expires": 0}}},
  {"vhost": "/", "component": "operator_policy", "name": "e", "value": {"pattern": "", "definition": {"max-age": "1h"}}},
  {"vhost": "/", "component": "operator_policy", "name": "f", "value": 5},
  {"vhost": "/", "component": "shovel", "name": "g", "value": 5}]}"#;
    assert_eq!(
        mistakes(json(text)),
        [
            "d.json:6: parameters[0].value: 0 is not a valid queue expiry; pattern should be regular expression but is \
             invalid: look-around, including look-ahead and look-behind, is not supported",
            "d.json:7: parameters[1].value.definition.max-age: no operator policy knows this key",
            "d.json:8: parameters[2].value: Key \"definition\" not found in f; Key \"pattern\" not found in f",
            "d.json:2: policies[0].definition.max-lenght: no policy knows this key (did you mean 'max-length'?)",
            "d.json:2: policies[0].definition.ha-mode: mirrored queues are gone since RabbitMQ 4.0; quorum queues are in \
             their place",
            "d.json:3: policies[1].definition: -1 is not a valid maximum length",
        ]
    );
}

#[test]
fn all_types_of_arguments_have_a_json() {
    let table: Table = [
        ("a", Value::ShortInt(-1)),
        ("b", Value::Timestamp(5)),
        ("c", Value::LongString(b"\xff".to_vec().into())),
        ("d", Value::DecimalValue(amq_protocol::types::DecimalValue { scale: 2, value: 271 })),
        ("e", Value::Double(f64::NAN)),
        ("f", Value::Void),
    ]
    .map(|(key, value)| (key.into(), value))
    .into_iter()
    .collect::<std::collections::BTreeMap<_, _>>()
    .into();
    let expected = serde_json::json!({"a": -1, "b": 5, "c": "\u{fffd}", "d": 2.71, "e": null, "f": null});
    assert_eq!(Json::Object(table_to_json(&table)), expected);
}

/// (The last bit of a double was another after an export and an import, and after a restart.)
#[test]
fn doubles_come_back_to_the_last_bit() {
    const DOUBLE: f64 = 1.592_233_720_368_547_7;
    let text = r#"{"vhosts": [{"name": "/"}], "queues": [{"vhost": "/", "name": "q", "durable": true, "auto_delete": false,
        "arguments": {"a": 1.5922337203685477}}]}"#;
    let read = document(json(text));
    assert_eq!(read.queues[0].arguments.inner()["a"], Value::Double(DOUBLE));
    let again = document(json(&read.to_json().to_string()));
    assert_eq!(again.queues[0].arguments, read.queues[0].arguments);
    // As records keep it.
    let kept = serde_json::to_vec(&read.queues[0].arguments).unwrap();
    assert_eq!(serde_json::from_slice::<Table>(&kept).unwrap(), read.queues[0].arguments);
}

#[test]
fn a_folder_stands_for_its_files_by_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.json", "a.toml", "readme.md"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    let names: Vec<_> = files(folder.path()).unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["a.toml", "b.json"]);
    let file = folder.path().join("b.json");
    assert_eq!(files(&file).unwrap(), [file]);
}

#[test]
fn the_example_says_the_same_in_both_notations() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let read = |name: &str| {
        let (document, warnings) = Document::read(&folder.join(name), Target::Named, &Algorithm::Sha256)
            .map_err(|remarks| panic!("{remarks}"))
            .unwrap();
        assert_eq!(warnings, []);
        document
    };
    let document = read("definitions.json");
    assert_eq!(document, read("definitions.toml"));
    assert_eq!((document.queues.len(), document.bindings.len()), (2, 2));
    assert!(verify(document.users.first(), "test12"));
}
