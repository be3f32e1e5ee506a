//! Many who change things at once: definitions stay whole, and messages flow.

use super::support::peer::{Incoming, PERSISTENT, PLAIN, declare_queue, write_publish};
use super::support::{Api, Broker, Declare, Peer, scale};
use amq_protocol::protocol::{AMQPClass, connection, queue};
use amq_protocol::types::FieldTable;
use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn start() -> Broker {
    Broker::with(&["--http-port", "0", "--node-name", "rabbit@host"])
}

fn everything() -> Json {
    json!({"configure": ".*", "write": ".*", "read": ".*"})
}

#[test]
fn what_many_sides_define_at_once_is_all_there_and_whole_after_a_crash() {
    const SIDES: usize = 24;
    const EACH: usize = 8;
    let mut broker = start();
    let api = Api::of(&broker);
    std::thread::scope(|scope| {
        for side in 0..SIDES {
            scope.spawn(move || {
                for number in 0..EACH {
                    let name = format!("{side}-{number}");
                    let policy = json!({"pattern": format!("^{name}$"), "definition": {"max-length": number + 1}});
                    for (path, body) in [
                        (format!("users/{name}"), json!({"password_hash": "", "tags": name})),
                        (format!("permissions/%2F/{name}"), everything()),
                        (format!("policies/%2F/{name}"), policy),
                        (format!("global-parameters/{name}"), json!({"value": name})),
                        (format!("queues/%2F/{name}"), json!({"durable": true})),
                        (format!("exchanges/%2F/{name}"), json!({"type": "topic", "durable": true})),
                    ] {
                        assert_eq!(api.put(&format!("/api/{path}"), body).status, 201, "{path}");
                    }
                    let binding = json!({"routing_key": "#"});
                    assert_eq!(api.post(&format!("/api/bindings/%2F/e/{name}/q/{name}"), binding).status, 201);
                    // All of them write this one, and a part of what they have made goes again.
                    let shared = json!({"pattern": "^shared$", "definition": {"max-length": side + 1}});
                    assert!([201, 204].contains(&api.put("/api/policies/%2F/shared", shared).status));
                    if number % 4 == 3 {
                        for kind in ["users", "policies/%2F", "queues/%2F", "exchanges/%2F", "global-parameters"] {
                            assert_eq!(api.delete(&format!("/api/{kind}/{name}")).status, 204, "{kind} {name}");
                        }
                    }
                }
            });
        }
    });
    let before = definitions(api);
    let kept = SIDES * EACH * 3 / 4;
    for (kind, more) in [("users", 1), ("policies", 1), ("queues", 0), ("exchanges", 0), ("bindings", 0)] {
        assert_eq!(before[kind].as_array().unwrap().len(), kept + more, "{kind}");
    }
    broker.kill();
    broker.restart();
    assert!(definitions(Api::of(&broker)) == before, "something is another after the crash");
}

/// What is exported; bindings come in no order.
fn definitions(api: Api<'_>) -> Json {
    let mut document = api.get("/api/definitions").json();
    document["bindings"].as_array_mut().unwrap().sort_by_key(Json::to_string);
    document
}

/// Tells others that it is over, also if that is because something went wrong.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// (A dead letter that was on its way when its queue lost its policy was settled twice, and the connection that handed it on
/// ended with a panic.)
#[test]
fn policies_that_come_and_go_while_messages_flow_harm_nobody() {
    let mut broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    for name in ["q0", "q1", "q2", "dead"] {
        peer.declare(1, Declare::durable(name));
    }
    let end = Instant::now() + Duration::from_secs(scale("LEVERET_CHURN_S", 4));
    let (is_over, delivered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        for publisher in 0..2_u64 {
            let (broker, is_over) = (&broker, &is_over);
            scope.spawn(move || {
                let mut peer = Peer::open(broker);
                peer.confirm_select(1);
                let mut next = 1;
                while !is_over.load(Ordering::Relaxed) {
                    let mut out = Vec::new();
                    for number in 0..50 {
                        let queue = format!("q{}", (number + publisher) % 3);
                        let properties = if number % 2 == 0 { PLAIN } else { PERSISTENT };
                        write_publish(&mut out, 1, "", &queue, properties, &[7; 100], 131_072);
                    }
                    peer.octets(&out);
                    let last = next + 49;
                    while next <= last {
                        next = match peer.next() {
                            Incoming::Method(1, AMQPClass::Basic(answer)) => match answer {
                                amq_protocol::protocol::basic::AMQPMethod::Ack(ack) => ack.delivery_tag + 1,
                                amq_protocol::protocol::basic::AMQPMethod::Nack(nack) => nack.delivery_tag + 1,
                                other => panic!("{other:?}"),
                            },
                            other => panic!("{other:?}"),
                        };
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut peer = Peer::open(&broker);
            while !is_over.load(Ordering::Relaxed) {
                for name in ["q0", "q1", "q2", "dead"] {
                    for round in 0..20 {
                        let Some(got) = peer.get(1, name, false) else { break };
                        delivered.fetch_add(1, Ordering::Relaxed);
                        match round % 3 {
                            0 => peer.ack(1, got.tag, false),
                            1 => peer.reject(1, got.tag, false),
                            _ => peer.nack(1, got.tag, false, true),
                        }
                    }
                }
            }
        });
        scope.spawn(|| {
            let mut peer = Peer::open(&broker);
            while !is_over.load(Ordering::Relaxed) {
                for number in 3..6 {
                    peer.declare(1, Declare::durable(&format!("q{number}")));
                }
                (3..6).for_each(|number| peer.delete_queue(1, &format!("q{number}")));
            }
        });
        let definitions = [
            json!({"max-length": 10}),
            json!({"message-ttl": 5, "dead-letter-exchange": "", "dead-letter-routing-key": "dead"}),
            json!({"max-length-bytes": 1000, "overflow": "reject-publish"}),
            json!({"max-length": 0, "dead-letter-exchange": "missing"}),
            json!({"expires": 3_600_000, "max-length": 100_000}),
        ];
        for round in 0.. {
            let policy = |pattern: &str, definition: &Json| json!({"pattern": pattern, "definition": definition});
            let name = format!("/api/policies/%2F/p{}", round % 3);
            assert!([201, 204].contains(&api.put(&name, policy("^q", &definitions[round % 5])).status));
            let operator = format!("/api/operator-policies/%2F/o{}", round % 2);
            assert!([201, 204].contains(&api.put(&operator, policy("^q[0-9]$", &json!({"max-length": round}))).status));
            for path in [name, operator].iter().filter(|_| round % 4 == 3) {
                assert_eq!(api.delete(path).status, 204, "{path}");
            }
            if Instant::now() > end {
                break;
            }
        }
    });
    assert!(broker.is_running());
    assert!(delivered.load(Ordering::Relaxed) > 100, "nothing flowed");
    // Without policies a queue is again what it was declared as.
    for path in ["policies", "operator-policies"] {
        for policy in api.get(&format!("/api/{path}/%2F")).json().as_array().unwrap() {
            assert_eq!(api.delete(&format!("/api/{path}/%2F/{}", policy["name"].as_str().unwrap())).status, 204);
        }
    }
    let purge = queue::Purge { queue: "q0".into(), nowait: false };
    peer.method(1, AMQPClass::Queue(queue::AMQPMethod::Purge(purge)));
    peer.next();
    peer.confirm_select(1);
    (0..500).for_each(|_| peer.publish(1, "q0", PERSISTENT, b"m"));
    peer.expect_confirms(1, 500);
    assert_eq!(peer.declare(1, Declare::passive("q0")), (500, 0));
}

#[test]
fn a_virtual_host_of_many_queues_is_deleted_while_it_is_used() {
    let queues = scale("LEVERET_VHOST_QUEUES", 2000);
    let mut broker = start();
    let api = Api::of(&broker);
    assert_eq!(api.put("/api/users/u", json!({"password": "u", "tags": ""})).status, 201);
    assert_eq!(api.put("/api/vhosts/v", json!({})).status, 201);
    assert_eq!(api.put("/api/permissions/v/u", everything()).status, 201);
    let mut peer = Peer::open_as(&broker, "u", "v");
    for first in (0..queues).step_by(100) {
        let names = (first..(first + 100).min(queues)).map(|number| format!("q{number}"));
        let count = names
            .map(|name| peer.method(1, declare_queue(Declare::durable(&name), FieldTable::default())))
            .collect::<Vec<_>>()
            .len();
        (0..count).for_each(|_| drop(peer.next()));
    }
    let users: Vec<_> = (0..4_u64)
        .map(|user| {
            let mut peer = Peer::open_as(&broker, "u", "v");
            peer.consume(1, &format!("q{user}"), "c", true);
            let mut writer = peer.second_hold();
            let sender = std::thread::spawn(move || {
                use std::io::Write;
                for round in 0.. {
                    let mut out = Vec::new();
                    for number in 0..100_u64 {
                        let queue = format!("q{}", (round * 7 + number * user) % queues);
                        write_publish(&mut out, 1, "", &queue, PERSISTENT, b"m", 131_072);
                    }
                    if writer.write_all(&out).is_err() {
                        return;
                    }
                }
            });
            std::thread::spawn(move || {
                let mut reason = None;
                while let Some(incoming) = peer.try_next() {
                    if let Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) = incoming {
                        reason = Some(close.reply_text.to_string());
                        break;
                    }
                }
                peer.vanish();
                sender.join().unwrap();
                reason
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(api.delete("/api/vhosts/v").status, 204);
    for user in users {
        // Whoever was in the middle of a write may not have heard the reason.
        let reason = user.join().unwrap();
        assert!(reason.as_ref().is_none_or(|text| text.contains("vhost 'v' is deleted")), "{reason:?}");
    }
    assert_eq!(api.get("/api/vhosts/v").status, 404);
    // Under the same name there is nothing of it, before and after a start.
    for is_again in [false, true] {
        if is_again {
            broker.kill();
            broker.restart();
        }
        let api = Api::of(&broker);
        assert!([201, 204].contains(&api.put("/api/vhosts/v", json!({})).status));
        assert_eq!(api.get("/api/queues/v").json(), json!([]));
        let text = "NOT_ALLOWED - access to vhost 'v' refused for user 'u'";
        Peer::knock(&broker, "u", "v").expect_connection_close(530, text);
    }
}
