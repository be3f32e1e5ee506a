//! Folders of every format that was ever written are read: `tests/formats` has one of each, and what must be found in it.

use super::support::peer::{Content, PERSISTENT};
use super::support::{Api, Broker, Declare, Peer};
use amq_protocol::types::{AMQPValue, FieldTable};
use serde_json::{Value as Json, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What must be found, beside the folder's files.
const EXPECTED: &str = "expected.json";
const QUEUES: [&str; 5] = ["classic", "quorum", "priorities", "large", "dead"];

fn start(folder: &Path) -> Broker {
    Broker::with(&["--data-dir", folder.to_str().unwrap(), "--http-port", "0", "--node-name", "rabbit@host"])
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// All kinds of definitions.
fn define(broker: &Broker) {
    let api = Api::of(broker);
    let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
    for (path, body) in [
        ("vhosts/other", json!({"description": "another", "tags": "a,b", "default_queue_type": "quorum"})),
        ("users/someone", json!({"password": "secret", "tags": "monitoring"})),
        ("permissions/other/someone", everything.clone()),
        ("permissions/other/guest", everything),
        ("exchanges/other/x", json!({"type": "headers", "durable": true, "arguments": {"alternate-exchange": "y"}})),
        ("topic-permissions/other/someone", json!({"exchange": "x", "write": "^a", "read": ".*"})),
        ("policies/%2F/p", json!({"pattern": "^classic$", "definition": {"max-length": 1000}, "priority": 3})),
        ("operator-policies/%2F/o", json!({"pattern": "^quorum$", "definition": {"delivery-limit": 50}})),
        ("global-parameters/g", json!({"value": {"a": [1, 2.5, null, "z"]}})),
        ("vhost-limits/other/max-queues", json!({"value": 7})),
        ("queues/other/q", json!({"durable": true, "arguments": {"x-expires": 3_000_000_000_u32}})),
    ] {
        let reply = api.put(&format!("/api/{path}"), body);
        assert!([201, 204].contains(&reply.status), "{path}: {}", reply.json());
    }
    let mut peer = Peer::open(broker);
    peer.declare_exchange(1, "topic", "topic", true);
    let arguments = |given: &[(&str, AMQPValue)]| {
        let mut table = FieldTable::default();
        for (name, value) in given {
            table.insert((*name).into(), value.clone());
        }
        table
    };
    let dead = [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text("dead"))];
    peer.declare_with(1, Declare::durable("classic"), arguments(&dead));
    peer.declare_with(1, Declare::durable("quorum"), arguments(&[("x-queue-type", text("quorum"))]));
    peer.declare_with(1, Declare::durable("priorities"), arguments(&[("x-max-priority", AMQPValue::LongInt(9))]));
    peer.declare(1, Declare::durable("large"));
    peer.declare(1, Declare::durable("dead"));
    for (queue, key) in [("classic", "a.*"), ("quorum", "#"), ("classic", "b.#")] {
        peer.bind(1, queue, "topic", key);
    }
    peer.close();
}

/// Messages that were acknowledged here and there, rejected, given back, and left alone.
fn publish(broker: &Broker, first: u64) {
    let mut peer = Peer::open(broker);
    peer.confirm_select(1);
    let mut published = 0;
    let mut send = |peer: &mut Peer, queue: &str, properties: &[u8], body: &[u8]| {
        peer.publish(1, queue, properties, body);
        published += 1;
        peer.expect_confirms(published, published);
    };
    for number in first..first + 40 {
        send(&mut peer, "classic", PERSISTENT, format!("classic {number}").as_bytes());
        send(&mut peer, "quorum", PERSISTENT, format!("quorum {number}").as_bytes());
        let priority = (number * 7 % 11) as u8;
        send(&mut peer, "priorities", &[0x18, 0, 2, priority], format!("priority {priority}, {number}").as_bytes());
    }
    // The message id and a header.
    let headers = [0x30, 0x80, 0, 0, 0, 9, 3, b'k', b'e', b'y', b'I', 0, 0, 0, 7, 2, 2, b'i', b'd'];
    send(&mut peer, "large", &headers, &vec![first as u8; 20_000]);
    send(&mut peer, "classic", &[0x10, 0, 1], b"transient: gone after a restart");
    peer.qos(1, 20);
    for queue in ["classic", "quorum", "priorities"] {
        let held: Vec<Content> = (0..20).map(|_| peer.get(1, queue, false).unwrap()).collect();
        for (at, content) in held.iter().enumerate() {
            match at % 5 {
                0 | 3 => peer.ack(1, content.tag, false),
                1 => peer.reject(1, content.tag, false),
                2 => peer.nack(1, content.tag, false, true),
                // Goes back with its channel.
                _ => {}
            }
        }
    }
    peer.close();
}

/// Everything that is there.
fn look(broker: &Broker) -> Json {
    let mut definitions = Api::of(broker).get("/api/definitions").json();
    let members = definitions.as_object_mut().unwrap();
    members.retain(|name, _| !name.contains("product") && !name.contains("rabbit") && name != "explanation");
    for list in members.values_mut().filter_map(Json::as_array_mut) {
        list.sort_by_key(Json::to_string);
    }
    let mut peer = Peer::open(broker);
    let mut queues = serde_json::Map::new();
    for queue in QUEUES {
        let there: Vec<Json> = std::iter::from_fn(|| peer.get(1, queue, true)).map(|content| shown(&content)).collect();
        queues.insert(queue.to_owned(), there.into());
    }
    json!({"definitions": definitions, "queues": queues})
}

fn shown(content: &Content) -> Json {
    let hex = |octets: &[u8]| {
        octets.iter().fold(String::new(), |mut out, octet| {
            let _ = write!(out, "{octet:02x}");
            out
        })
    };
    let body = String::from_utf8_lossy(&content.body[..content.body.len().min(40)]);
    // When it died is another time with each folder that is made, and the same each time that one is read.
    json!([
        content.redelivered,
        content.exchange,
        content.routing_key,
        hex(&content.properties),
        content.body.len(),
        body
    ])
}

/// What makes a folder, and no more: not its lock, the store's diary, the ballast or the secret of one start.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_file() && !name.starts_with("LOG") && !["LOCK", "ballast", "ctl.conf", EXPECTED].contains(&name) {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

fn folders() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats")
}

#[test]
fn folders_of_all_formats_are_read() {
    let mut read = 0;
    for entry in folders().read_dir().unwrap() {
        let kept = entry.unwrap().path();
        if !kept.is_dir() {
            continue;
        }
        let folder = TempDir::new().unwrap();
        copy(&kept, folder.path());
        let broker = start(folder.path());
        let expected: Json = serde_json::from_slice(&std::fs::read(kept.join(EXPECTED)).unwrap()).unwrap();
        let found = look(&broker);
        for part in ["definitions", "queues"] {
            for (name, value) in expected[part].as_object().unwrap() {
                assert_eq!(found[part][name], *value, "{name} in {}", kept.display());
            }
        }
        read += 1;
    }
    assert!(read > 0, "there is no folder in {}", folders().display());
}

/// Makes the folder of a new format: `cargo test --release --test it makes_a_folder -- --ignored`.
#[test]
#[ignore = "writes a folder that is kept"]
fn makes_a_folder() {
    let folder = TempDir::new().unwrap();
    let mut broker = start(folder.path());
    define(&broker);
    publish(&broker, 0);
    // A part in files, a part in the log.
    assert!(broker.stop().success());
    broker.restart();
    publish(&broker, 1000);
    assert!(broker.stop().success());
    let kept = folders().join(leveret::store::FORMAT);
    copy(folder.path(), &kept);
    broker.restart();
    std::fs::write(kept.join(EXPECTED), serde_json::to_string_pretty(&look(&broker)).unwrap()).unwrap();
}
