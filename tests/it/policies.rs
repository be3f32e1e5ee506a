//! Policies of a definitions file, and what they do.

use super::support::peer::{PERSISTENT, declare_queue, write_publish};
use super::support::{Broker, Declare, Peer};
use amq_protocol::protocol::{AMQPClass, exchange};
use amq_protocol::types::{AMQPValue, FieldTable};
use tempfile::TempDir;

/// A broker with a user guest and these policies and parameters, each a JSON list.
fn broker(policies: &str, parameters: &str) -> (TempDir, Broker) {
    let folder = TempDir::new().unwrap();
    let file = write(&folder, policies, parameters);
    let broker = Broker::with(&["--definitions", &file]);
    (folder, broker)
}

fn write(folder: &TempDir, policies: &str, parameters: &str) -> String {
    let file = folder.path().join("definitions.json");
    let text = format!(
        r#"{{"users": [{{"name": "guest", "password": "guest", "tags": "administrator"}}],
  "vhosts": [{{"name": "/"}}],
  "permissions": [{{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}}],
  "exchanges": [{{"name": "x-of-file", "vhost": "/", "type": "direct"}}],
  "queues": [{{"name": "unrouted", "vhost": "/"}}],
  "bindings": [{{"source": "amq.fanout", "vhost": "/", "destination": "unrouted", "destination_type": "queue"}}],
  "policies": {policies},
  "parameters": {parameters}}}"#
    );
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

const ALTERNATE: &str = r#"[{"name": "p", "vhost": "/", "pattern": "^x", "apply-to": "exchanges",
    "definition": {"alternate-exchange": "amq.fanout"}}]"#;

/// Publishes where no binding takes it; the queue behind the alternate exchange has it or not.
fn unrouted(peer: &mut Peer, exchange: &str) -> bool {
    let mut out = Vec::new();
    write_publish(&mut out, 1, exchange, "nowhere", PERSISTENT, exchange.as_bytes(), 4096);
    peer.octets(&out);
    let Some(content) = peer.get(1, "unrouted", true) else { return false };
    assert_eq!((content.exchange.as_str(), content.body.as_slice()), (exchange, exchange.as_bytes()));
    true
}

#[test]
fn an_alternate_exchange_by_policy_takes_what_no_binding_does_and_survives_a_restart() {
    let (_folder, mut broker) = broker(ALTERNATE, "[]");
    let mut peer = Peer::open(&broker);
    peer.declare_exchange(1, "x", "direct", true);
    peer.declare_exchange(1, "other", "direct", true);
    assert!(unrouted(&mut peer, "x"), "declared after the policy");
    assert!(unrouted(&mut peer, "x-of-file"), "declared by the same file");
    assert!(!unrouted(&mut peer, "other"), "not matched");
    peer.close();
    assert!(broker.stop().success());
    broker.restart_with(&[]);
    let mut peer = Peer::open(&broker);
    assert!(unrouted(&mut peer, "x") && unrouted(&mut peer, "x-of-file"));
    assert!(!unrouted(&mut peer, "other"));
}

#[test]
fn an_alternate_exchange_by_argument_wins_against_the_policy() {
    let (_folder, broker) = broker(ALTERNATE, "[]");
    let mut peer = Peer::open(&broker);
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongString("amq.direct".into()));
    let declare = exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: "x".into(),
        kind: "direct".into(),
        durable: true,
        arguments,
        passive: false,
        auto_delete: false,
        internal: false,
        nowait: false,
    });
    peer.method(1, AMQPClass::Exchange(declare));
    peer.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})));
    assert!(!unrouted(&mut peer, "x"));
}

#[test]
fn a_changed_definitions_file_changes_what_is_there() {
    let (folder, mut broker) = broker(ALTERNATE, "[]");
    let mut peer = Peer::open(&broker);
    peer.declare_exchange(1, "x", "direct", true);
    peer.close();
    assert!(broker.stop().success());
    let file = write(&folder, &ALTERNATE.replace("amq.fanout", "amq.direct"), "[]");
    broker.restart_with(&["--definitions", &file]);
    let mut peer = Peer::open(&broker);
    assert!(!unrouted(&mut peer, "x"));
}

#[test]
fn queues_are_declared_under_user_and_operator_policies() {
    let policies =
        r#"[{"name": "p", "vhost": "/", "pattern": "", "definition": {"max-length": 5, "queue-mode": "lazy"}}]"#;
    let operator = r#"[{"component": "operator_policy", "name": "o", "vhost": "/",
        "value": {"pattern": "", "apply-to": "queues", "priority": 0, "definition": {"message-ttl": 86400000}}}]"#;
    let (_folder, mut broker) = broker(policies, operator);
    let mut peer = Peer::open(&broker);
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    peer.declare(1, Declare::durable("classic"));
    peer.method(1, declare_queue(Declare::durable("quorum"), arguments));
    peer.next();
    for queue in ["classic", "quorum"] {
        peer.publish(1, queue, PERSISTENT, b"m");
    }
    // Their ways to the disk and back have the policies' names and rows beside them.
    peer.close();
    assert!(broker.stop().success());
    broker.restart_with(&[]);
    let mut peer = Peer::open(&broker);
    for queue in ["classic", "quorum"] {
        assert_eq!(peer.get(1, queue, true).unwrap().body, b"m");
    }
    assert!(!broker.log().iter().any(|line| line.contains("has no effect")), "{:?}", broker.log());
}

#[test]
fn a_file_with_a_policy_that_is_none_is_refused_with_its_lines() {
    let policies = r#"[
    {"name": "p", "vhost": "/", "pattern": "", "definition": {"max-lenght": 5}},
    {"name": "q", "vhost": "/", "pattern": "", "definition": {"max-length": -5}}]"#;
    let operator = r#"[
    {"component": "operator_policy", "name": "o", "vhost": "/",
     "value": {"pattern": "(", "definition": {"alternate-exchange": "e"}}}]"#;
    let (folder, mut broker) = broker("[]", "[]");
    assert!(broker.stop().success());
    let file = write(&folder, policies, operator);
    broker.restart_with(&[]);
    assert!(broker.stop().success());
    let refused = broker.try_restart_with(&["--definitions", &file]).expect_err("the file is wrong");
    for line in [
        "policies[0].definition.max-lenght: no policy knows this key (did you mean 'max-length'?)",
        "policies[1].definition: -5 is not a valid maximum length",
        "parameters[0].value.definition.alternate-exchange: no operator policy knows this key",
    ] {
        assert!(refused.text.contains(line), "{line}: {}", refused.text);
    }
}
