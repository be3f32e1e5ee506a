//! What is declared, published and got over the management API: by the rules of AMQP, and seen over AMQP.

use super::support::peer::{Incoming, PERSISTENT, PLAIN, declare_queue};
use super::support::{Api, Broker, Declare, Peer, eventually};
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::FieldTable;
use serde_json::{Map, Value as Json, json};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

fn start() -> Broker {
    Broker::with(&["--http-port", "0"])
}

fn error(error: &str, reason: &str) -> Json {
    json!({"error": error, "reason": reason})
}

fn bad(reason: &str) -> (u16, Json) {
    (400, error("bad_request", reason))
}

fn no_object() -> (u16, Json) {
    (404, error("Object Not Found", "Not Found"))
}

fn access_refused() -> (u16, Json) {
    (401, error("not_authorised", "Access refused."))
}

fn message(routing_key: &str, payload: &str, properties: Json) -> Json {
    json!({"routing_key": routing_key, "payload": payload, "payload_encoding": "string", "properties": properties})
}

fn publish(api: &Api<'_>, exchange: &str, message: Json) -> (u16, Json) {
    api.post(&format!("/api/exchanges/%2F/{exchange}/publish"), message).said()
}

fn get(api: &Api<'_>, queue: &str, count: u32, ackmode: &str) -> Vec<Json> {
    let body = json!({"count": count, "ackmode": ackmode, "encoding": "auto"});
    let (status, got) = api.post(&format!("/api/queues/%2F/{queue}/get"), body).said();
    assert_eq!(status, 200, "{got}");
    got.as_array().unwrap().clone()
}

fn payloads(got: &[Json]) -> Vec<&str> {
    got.iter().map(|message| message["payload"].as_str().unwrap()).collect()
}

#[test]
fn queues_are_declared_and_deleted_by_the_rules_of_amqp() {
    let broker = start();
    let api = Api::of(&broker);
    let path = "/api/queues/%2F/q";
    let durable = json!({"durable": true, "arguments": {"x-max-length": 5}});
    assert_eq!([api.put(path, durable.clone()).status, api.put(path, durable).status], [201, 204]);
    let mut peer = Peer::open(&broker);
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 0));
    let other = api.put(path, json!({"durable": true, "arguments": {"x-max-length": 6}}));
    let reason = "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received '6' but current is '5'";
    assert_eq!(other.said(), bad(reason));
    // What was written there comes back with the broker; what was answered is on disk.
    peer.publish(1, "q", PLAIN, b"m");
    eventually("the message", || (api.get(path).json()["messages"] == 1).then_some(()));
    assert_eq!(api.delete(&format!("{path}?if-empty=true")).said(), bad("queue 'q' in vhost '/' not empty"));
    peer.consume(1, "q", "c", true);
    peer.expect_delivery();
    assert_eq!(api.delete(&format!("{path}?if-unused=true")).said(), bad("queue 'q' in vhost '/' in use"));
    assert_eq!((api.delete(path).status, api.delete(path).said()), (204, no_object()));
    // A queue of somebody's own, and what only a connection can have.
    peer.declare(1, Declare { exclusive: true, ..Declare::transient("own") });
    let locked = api.delete("/api/queues/%2F/own").json()["reason"].as_str().unwrap().to_owned();
    assert!(locked.starts_with("cannot obtain exclusive access to locked queue 'own' in vhost '/'"), "{locked}");
    let owner = api.get("/api/queues/%2F/own").json();
    assert_eq!(owner["owner_pid_details"]["peer_port"], peer.ports().0);
    assert_eq!(api.put("/api/queues/%2F/nobodys", json!({"exclusive": true, "durable": true})).status, 201);
    let nobodys = api.get("/api/queues/%2F/nobodys").json();
    assert_eq!((&nobodys["exclusive"], &nobodys["durable"]), (&json!(false), &json!(false)));
}

#[test]
fn bad_declarations_are_refused_in_rabbitmqs_words() {
    let broker = start();
    let api = Api::of(&broker);
    let long = "q".repeat(256);
    let not_boolean = json!({"error": "bad_request", "reason": ["not_boolean", "yes"]});
    assert_eq!(api.put("/api/queues/%2F/q", json!({"durable": "yes"})).said(), (400, not_boolean));
    let cases = [
        ("queues", "q", json!({"arguments": {"a": null}}), bad("null_not_allowed")),
        ("queues", "q", json!({"node": "else@where"}), bad("Node else@where is not a cluster member")),
        ("queues", &*long, json!({}), bad("queue should be less than 255 bytes, actually was 256\n")),
        ("queues", "q", json!({"passive": true}), (404, error("not_found", "no queue 'q' in vhost '/'"))),
        ("queues", "amq.q", json!({}), access_refused()),
        ("exchanges", "x", json!({"type": "bogus"}), bad("unknown exchange type 'bogus'")),
        ("exchanges", "x", json!({"type": null}), bad("invalid exchange type 'null'")),
        ("exchanges", "amq.x", json!({}), access_refused()),
        ("exchanges", "amq.default", json!({}), access_refused()),
    ];
    for (kind, name, body, expected) in cases {
        assert_eq!(api.put(&format!("/api/{kind}/%2F/{name}"), body.clone()).said(), expected, "{kind} {name} {body}");
    }
    for odd in [json!(5), json!("x"), json!(null), json!([1])] {
        assert_eq!(api.put("/api/queues/%2F/q", json!({"arguments": odd})).status, 400, "{odd}");
    }
    let gone = (404, error("not_found", "vhost_not_found"));
    assert_eq!(api.put("/api/queues/nowhere/q", json!({})).said(), gone);
    let unknown = json!({"error": "bad_request", "reason": ["unknown", "sync"]});
    assert_eq!(api.put("/api/queues/%2F/q", json!({})).status, 201);
    assert_eq!(api.post("/api/queues/%2F/q/actions", json!({"action": "sync"})).said(), (400, unknown));
}

#[test]
fn names_of_all_kinds_go_through_paths() {
    let broker = start();
    let api = Api::of(&broker);
    let long = "n".repeat(255);
    for (in_path, name) in [
        ("a%2Fb", "a/b"),
        ("%2E%2E%2Fetc", "../etc"),
        ("%C3%A4%20%2B%3F%23", "\u{e4} +?#"),
        ("~%25%7E", "~%~"),
        ("+", "+"),
        (&long, &long),
    ] {
        let path = format!("/api/queues/%2F/{in_path}");
        assert_eq!(api.put(&path, json!({})).status, 201, "{name}");
        assert_eq!(api.get(&path).json()["name"], name);
        let bound = api.post(&format!("/api/bindings/%2F/e/amq.direct/q/{in_path}"), json!({"routing_key": name}));
        assert_eq!(bound.status, 201, "{name}");
        let bindings = api.get(&format!("/api/bindings/%2F/e/amq.direct/q/{in_path}")).json();
        assert_eq!((&bindings[0]["routing_key"], &bindings[0]["destination"]), (&json!(name), &json!(name)));
        assert_eq!(api.delete(&path).status, 204, "{name}");
    }
}

#[test]
fn who_declares_something_else_is_told_everything_that_differs() {
    let broker = start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    let first = "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'";
    let second = "'auto_delete': received 'true' but current is 'false'";
    let third = "'x-max-length': received the value '5' of type 'long' but current is none";
    let wish = json!({"durable": false, "auto_delete": true, "arguments": {"x-max-length": 5}});
    // Over HTTP the reason is RabbitMQ's alone, and the log has the rest.
    assert_eq!(Api::of(&broker).put("/api/queues/%2F/q", wish).said(), bad(first));
    let all = format!("{first}; also {second}, {third}");
    eventually("all differences in the log", || broker.log().iter().any(|line| line.ends_with(&all)).then_some(()));
    let wish = Declare { auto_delete: true, ..Declare::transient("q") };
    peer.method(1, declare_queue(wish, FieldTable::default()));
    peer.expect_channel_close(1, 406, &format!("PRECONDITION_FAILED - {first}; also {second}"));
}

#[test]
fn unacknowledged_messages_are_listed_with_who_has_them() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.declare(1, Declare::durable("other"));
    (0..4).for_each(|_| peer.publish(1, "q", PLAIN, b"m"));
    peer.publish(1, "other", PLAIN, b"m");
    peer.get(1, "q", false).unwrap();
    peer.get(1, "other", false).unwrap();
    peer.open_channel(2);
    peer.qos(2, 2);
    peer.consume(2, "q", "c", false);
    (0..2).for_each(|_| drop(peer.expect_delivery()));
    peer.ack(2, 1, false);
    peer.expect_delivery();
    let channel = |number: u16| format!("127.0.0.1:{} -> 127.0.0.1:{} ({number})", peer.ports().0, peer.ports().1);
    let one = |number: u16, tag: u64, consumer: &str| json!({"delivery_tag": tag, "consumer_tag": consumer, "unacked_for_seconds": 0, "channel_name": channel(number)});
    let path = "/api/queues/%2F/q/unacked";
    eventually("the list", || {
        let mut listed = api.get(path).json();
        listed.as_array_mut().unwrap().iter_mut().for_each(|item| item["unacked_for_seconds"] = json!(0));
        (listed == json!([one(1, 1, "Basic get"), one(2, 2, "c"), one(2, 3, "c")])).then_some(())
    });
    let page = api.get(&format!("{path}?page=1&page_size=2")).json();
    assert_eq!((&page["total_count"], page["items"].as_array().unwrap().len()), (&json!(3), 2));
    assert_eq!(api.get("/api/queues/%2F/nowhere/unacked").said(), no_object());
}

#[test]
fn exchanges_are_declared_and_deleted_by_the_rules_of_amqp() {
    let mut broker = start();
    let api = Api::of(&broker);
    let path = "/api/exchanges/%2F/x";
    assert_eq!(api.put("/api/users/u", json!({"password": "u", "tags": "management"})).status, 201);
    let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
    assert_eq!(api.put("/api/permissions/%2F/u", everything).status, 201);
    let topic = json!({"type": "topic", "durable": true});
    assert_eq!([api.by("u", "u").put(path, topic.clone()).status, api.put(path, topic).status], [201, 204]);
    let reason = "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'direct' but current is 'topic'";
    assert_eq!(api.put(path, json!({"durable": true})).said(), bad(reason));
    let of = |name: &str| api.get(&format!("/api/exchanges/%2F/{name}")).json()["user_who_performed_action"].clone();
    assert_eq!([of("x"), of("amq.topic")], ["u", "rmq-internal"]);
    assert_eq!(api.put("/api/queues/%2F/q", json!({"durable": true})).status, 201);
    assert_eq!(api.post("/api/bindings/%2F/e/x/q/q", json!({})).status, 201);
    assert_eq!(api.delete(&format!("{path}?if-unused=true")).said(), bad("exchange 'x' in vhost '/' in use"));
    broker.kill();
    broker.restart();
    let api = Api::of(&broker);
    assert_eq!(api.get(path).json()["user_who_performed_action"], "u", "it was on disk when it was answered");
    assert_eq!(api.get("/api/users/guest/queues").json().as_array().unwrap().len(), 1);
    assert_eq!((api.delete(path).status, api.delete(path).said()), (204, no_object()));
    assert_eq!(api.delete("/api/exchanges/%2F/amq.direct").said(), access_refused());
}

#[test]
fn a_binding_is_found_where_its_declaration_says() {
    let broker = start();
    let api = Api::of(&broker);
    assert_eq!(api.put("/api/queues/%2F/q", json!({})).status, 201);
    let base = "/api/bindings/%2F/e/amq.topic/q";
    let cases = [
        (json!({}), "~"),
        (json!({"routing_key": "plain"}), "plain"),
        (json!({"routing_key": "a.* ~%/"}), "a.%2A+%7E%25%2F"),
        (json!({"routing_key": "a", "arguments": {"n": 1}}), "a~hadFaw"),
        (json!({"arguments": {"n": 1}}), "~hadFaw"),
        (json!({"routing_key": "a", "arguments": []}), "a"),
    ];
    for (body, properties_key) in &cases {
        let bound = api.post(&format!("{base}/q"), body.clone());
        assert_eq!(bound.status, 201, "{body}");
        // Relative to the path's last part.
        let found = api.get(&format!("{base}/{}", bound.header("location").unwrap())).json();
        assert_eq!(found["properties_key"], *properties_key, "{body}");
        assert_eq!(found["routing_key"], body.get("routing_key").cloned().unwrap_or("".into()), "{body}");
    }
    assert_eq!(api.get(&format!("{base}/q")).json().as_array().unwrap().len(), cases.len());
    // And of the default exchange, which can't be unbound.
    assert_eq!(api.get("/api/bindings/%2F/e/amq.default/q/q/q").json()["routing_key"], "q");
    assert_eq!(api.delete("/api/bindings/%2F/e/amq.default/q/q/q").said(), access_refused());
    for none in ["q/none", "q/a~bogus", "q/a~b~c", "none/a", "q/plain~hadFaw"] {
        assert_eq!(api.get(&format!("{base}/{none}")).said(), no_object(), "{none}");
        assert_eq!(api.delete(&format!("{base}/{none}")).said(), no_object(), "{none}");
    }
    assert_eq!(api.delete(&format!("{base}/q/a~hadFaw")).status, 204);
    assert_eq!(api.get(&format!("{base}/q")).json().as_array().unwrap().len(), cases.len() - 1);
    // To an exchange, and to what is not there.
    let to_exchange = "/api/bindings/%2F/e/amq.topic/e/amq.fanout";
    assert_eq!(api.post(to_exchange, json!({"routing_key": "k"})).status, 201);
    assert_eq!(api.get(to_exchange).json()[0]["destination_type"], "exchange");
    assert_eq!(publish(&api, "amq.topic", message("plain", "m", json!({}))), (200, json!({"routed": true})));
    let refused = api.post(&format!("{base}/none"), json!({"routing_key": "k"})).said();
    assert_eq!(refused, (404, error("not_found", "no queue 'none' in vhost '/'")));
    let long = json!({"routing_key": "k".repeat(256)});
    assert_eq!(api.post(&format!("{base}/q"), long).status, 400);
}

#[test]
fn what_is_published_is_what_a_consumer_gets() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    let properties = json!({
        "cluster_id": "", "app_id": "a", "user_id": "guest", "type": "t", "timestamp": 5, "message_id": "m",
        "expiration": "60000", "reply_to": "r", "correlation_id": "c", "priority": 3, "delivery_mode": 2,
        "headers": {"n": 1, "t": {"x": [true, "y", 1.5]}}, "content_encoding": "e", "content_type": "t",
    });
    assert_eq!(
        publish(&api, "amq.default", message("q", "\u{e4}", properties.clone())),
        (200, json!({"routed": true}))
    );
    let expected = json!({
        "payload": "\u{e4}", "payload_bytes": 2, "payload_encoding": "string", "exchange": "", "routing_key": "q",
        "redelivered": false, "message_count": 0, "properties": properties,
    });
    assert_eq!(get(&api, "q", 5, "ack_requeue_false"), [expected]);
    // Octets that are no text, and no properties.
    let octets = json!({"routing_key": "q", "payload": "/wA=", "payload_encoding": "base64", "properties": {}});
    assert_eq!(publish(&api, "amq.default", octets), (200, json!({"routed": true})));
    let got = peer.get(1, "q", false).unwrap();
    assert_eq!((&*got.body, got.redelivered), (&b"\xff\0"[..], false));
    peer.nack(1, got.tag, false, true);
    let body = json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 1});
    let got = eventually("the message", || {
        api.post("/api/queues/%2F/q/get", body.clone()).json().as_array().unwrap().first().cloned()
    });
    assert_eq!((&got["payload"], &got["payload_encoding"]), (&json!("/w=="), &json!("base64")));
    assert_eq!((&got["payload_bytes"], &got["redelivered"], &got["properties"]), (&json!(2), &json!(true), &json!([])));
    assert_eq!(publish(&api, "amq.default", message("none", "m", json!({}))), (200, json!({"routed": false})));
}

#[test]
fn ack_modes_do_what_they_say() {
    let broker = start();
    let api = Api::of(&broker);
    assert_eq!(api.put("/api/queues/%2F/dead", json!({})).status, 201);
    let arguments = json!({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"});
    assert_eq!(api.put("/api/queues/%2F/q", json!({"arguments": arguments})).status, 201);
    for payload in ["1", "2", "3"] {
        assert_eq!(publish(&api, "amq.default", message("q", payload, json!({}))).0, 200);
    }
    let first = get(&api, "q", 10, "ack_requeue_true");
    assert_eq!(payloads(&first), ["1", "2", "3"]);
    let counts: Vec<_> = first.iter().map(|message| message["message_count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [2, 1, 0]);
    let again = get(&api, "q", 2, "reject_requeue_true");
    assert_eq!(payloads(&again), ["1", "2"], "they went back to their places");
    assert!(again.iter().all(|message| message["redelivered"] == true));
    assert_eq!(payloads(&get(&api, "q", 1, "reject_requeue_false")), ["1"]);
    let dead = eventually("the dead letter", || get(&api, "dead", 1, "ack_requeue_true").pop());
    assert_eq!(dead["properties"]["headers"]["x-death"][0]["reason"], "rejected");
    assert_eq!(payloads(&get(&api, "q", 1, "ack_requeue_false")), ["2"]);
    assert_eq!(api.delete("/api/queues/%2F/q/contents").status, 204);
    assert_eq!(get(&api, "q", 1, "ack_requeue_false"), Vec::<Json>::new());
    // A quorum queue counts what came back as failed.
    let quorum = json!({"durable": true, "arguments": {"x-queue-type": "quorum"}});
    assert_eq!(api.put("/api/queues/%2F/qq", quorum).status, 201);
    assert_eq!(publish(&api, "amq.default", message("qq", "m", json!({}))).0, 200);
    for (mode, headers) in [
        ("ack_requeue_true", json!(null)),
        ("reject_requeue_true", json!({"x-acquired-count": 1})),
        ("ack_requeue_true", json!({"x-acquired-count": 2, "x-delivery-count": 1})),
    ] {
        assert_eq!(get(&api, "qq", 1, mode)[0]["properties"]["headers"], headers, "{mode}");
    }
}

#[test]
fn bad_messages_are_refused_in_rabbitmqs_words() {
    let broker = start();
    let api = Api::of(&broker);
    let listed = |words: [&str; 2]| (400, json!({"error": "bad_request", "reason": words}));
    let with = |properties: Json| publish(&api, "amq.default", message("q", "m", properties));
    let text = "406 PRECONDITION_FAILED - invalid expiration 'x': no_integer";
    assert_eq!(with(json!({"expiration": "x"})), bad(text));
    assert_eq!(with(json!({"expiration": 5})), listed(["not_string", "expiration"]));
    assert_eq!(with(json!({"priority": "5"})), listed(["not_int", "priority"]));
    let text = "406 PRECONDITION_FAILED - user_id property set to 'other' but authenticated user was 'guest'";
    assert_eq!(with(json!({"user_id": "other"})), bad(text));
    let text = "406 PRECONDITION_FAILED - invalid message: {unacceptable_type_in_header,\"CC\",long}";
    assert_eq!(with(json!({"headers": {"CC": 5}})), bad(text));
    assert_eq!(with(json!({"headers": {"a": null}})), bad("null_not_allowed"));
    let text = "406 PRECONDITION_FAILED - fast reply consumer does not exist";
    assert_eq!(with(json!({"reply_to": "amq.rabbitmq.reply-to"})), bad(text));
    let internal = "403 ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'";
    assert_eq!(publish(&api, "amq.rabbitmq.trace", message("k", "m", json!({}))), bad(internal));
    assert_eq!(publish(&api, "none", json!({})), (404, error("not_found", "exchange_not_found")));
    let missing = "[{key_missing,routing_key},\n {key_missing,properties},\n {key_missing,payload},\n \
                   {key_missing,payload_encoding}]";
    assert_eq!(publish(&api, "amq.default", json!({})), bad(missing));
    // A queue that takes no more.
    let full = json!({"arguments": {"x-max-length": 0, "x-overflow": "reject-publish"}});
    assert_eq!(api.put("/api/queues/%2F/full", full).status, 201);
    let rejected = bad("rejected Unable to publish message. Check queue limits.");
    assert_eq!(publish(&api, "amq.default", message("full", "m", json!({}))), rejected);
    let nested = (0..40).fold(json!(1), |inner, _| json!({"t": inner}));
    assert_eq!(with(json!({"headers": nested})).0, 400);
    let asked = |body: Json| api.post("/api/queues/%2F/full/get", body).said();
    assert_eq!(asked(json!({"count": 1})), bad("[{key_missing,ackmode},{key_missing,encoding}]"));
    let odd = json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "odd"});
    assert_eq!(asked(odd), bad("Unsupported encoding. Please use auto or base64."));
    assert_eq!(api.post("/api/queues/%2F/none/get", json!({})).said(), (404, error("not_found", "queue_not_found")));
}

#[test]
fn rights_count_as_over_amqp() {
    let broker = start();
    let api = Api::of(&broker);
    assert_eq!(api.put("/api/users/u", json!({"password": "u", "tags": "management"})).status, 201);
    let some = json!({"configure": "^u", "write": "^u", "read": "^u"});
    assert_eq!(api.put("/api/permissions/%2F/u", some).status, 201);
    for name in ["u1", "x1"] {
        assert_eq!(api.put(&format!("/api/queues/%2F/{name}"), json!({})).status, 201);
    }
    let user = api.by("u", "u");
    assert_eq!(user.put("/api/queues/%2F/u2", json!({})).status, 201);
    assert_eq!(user.put("/api/queues/%2F/x2", json!({})).said(), access_refused());
    assert_eq!(user.delete("/api/queues/%2F/x1").said(), access_refused());
    assert_eq!(user.delete("/api/queues/%2F/x1/contents").said(), access_refused());
    assert_eq!(user.put("/api/exchanges/%2F/x2", json!({})).said(), access_refused());
    assert_eq!(user.post("/api/bindings/%2F/e/amq.topic/q/u1", json!({})).said(), access_refused());
    let body = json!({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"});
    let text = "ACCESS_REFUSED - read access to queue 'x1' in vhost '/' refused for user 'u'";
    assert_eq!(user.post("/api/queues/%2F/x1/get", body).said(), (401, error("not_authorised", text)));
    let text = "403 ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'u'";
    assert_eq!(publish(&user, "amq.default", message("u1", "m", json!({}))), bad(text));
    // An administrator sees every virtual host, and may do nothing where nobody said so.
    assert_eq!(api.put("/api/users/admin", json!({"password": "a", "tags": "administrator"})).status, 201);
    let admin = api.by("admin", "a");
    assert_eq!(admin.get("/api/queues/%2F/u1").status, 200);
    assert_eq!(admin.put("/api/queues/%2F/q", json!({})).said(), access_refused());
    assert_eq!(publish(&admin, "amq.default", message("u1", "m", json!({}))), access_refused());
}

#[test]
fn a_published_message_is_on_disk_when_it_is_answered() {
    let mut broker = start();
    let api = Api::of(&broker);
    assert_eq!(api.put("/api/queues/%2F/q", json!({"durable": true})).status, 201);
    for number in 0..20 {
        let sent = message("q", &number.to_string(), json!({"delivery_mode": 2}));
        assert_eq!(publish(&api, "amq.default", sent), (200, json!({"routed": true})));
    }
    broker.kill();
    broker.restart();
    let numbers: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(payloads(&get(&Api::of(&broker), "q", 100, "ack_requeue_false")), numbers);
}

#[test]
fn who_publishes_waits_while_memory_is_short() {
    let broker = Broker::with(&["--http-port", "0", "--vm-memory-high-watermark-absolute", "0"]);
    let api = Api::of(&broker);
    assert_eq!(api.put("/api/queues/%2F/q", json!({})).status, 201);
    let body = message("q", "m", json!({})).to_string();
    let mut socket = api.connect();
    let head = api.head("POST", "/api/exchanges/%2F/amq.default/publish");
    socket.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let waits = socket.read(&mut [0]).unwrap_err().kind();
    assert!(matches!(waits, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waits}");
    // Everybody else goes on.
    assert_eq!(get(&api, "q", 1, "ack_requeue_false"), Vec::<Json>::new());
}

#[test]
fn connections_channels_and_consumers_are_listed() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.qos(1, 7);
    peer.declare(1, Declare::durable("q"));
    peer.consume(1, "q", "c", false);
    peer.open_channel(2);
    peer.confirm_select(2);
    peer.open_channel(3);
    peer.tx_select(3);
    for _ in 0..3 {
        peer.publish(2, "q", PERSISTENT, b"m");
    }
    peer.publish(3, "q", PERSISTENT, b"t");
    let (port, here) = peer.ports();
    let name = format!("127.0.0.1:{port} -> 127.0.0.1:{here}");
    let in_path = name.replace(' ', "%20").replace('>', "%3E");
    let channels = eventually("what the channels have done", || {
        let channels = api.get("/api/channels").json();
        let settled = channels[0]["messages_unacknowledged"] == 3 && channels[2]["messages_uncommitted"] == 1;
        (settled && channels[1]["messages_unconfirmed"] == 0).then_some(channels)
    });
    let channel = |number: usize, key: &str| channels[number][key].clone();
    assert_eq!(channel(0, "name"), format!("{name} (1)"));
    assert_eq!([channel(0, "prefetch_count"), channel(0, "consumer_count")], [7, 1]);
    assert_eq!([channel(1, "confirm"), channel(0, "confirm"), channel(2, "transactional")], [true, false, true]);
    assert_eq!(channel(1, "connection_details"), json!({"name": name, "peer_host": "127.0.0.1", "peer_port": port}));
    assert_eq!(api.get(&format!("/api/connections/{in_path}/channels")).json(), channels);
    assert_eq!(api.get("/api/vhosts/%2F/channels").json(), channels);
    let consumer = json!([{
        "ack_required": true, "active": true, "activity_status": "up", "arguments": {}, "consumer_tag": "c",
        "channel_details": {
            "connection_name": name, "name": format!("{name} (1)"), "node": channel(0, "node"), "number": 1,
            "peer_host": "127.0.0.1", "peer_port": port, "user": "guest",
        },
        "consumer_timeout": 1_800_000, "exclusive": false, "prefetch_count": 7, "queue": {"name": "q", "vhost": "/"},
    }]);
    assert_eq!(api.get("/api/consumers").json(), consumer);
    assert_eq!(api.get("/api/consumers/%2F").json(), consumer);
    assert_eq!(api.get(&format!("/api/channels/{in_path}%20(1)")).json()["consumer_details"], consumer);
    assert_eq!(api.get("/api/queues/%2F/q").json()["consumer_details"], consumer);
    assert_eq!(
        api.get(&format!("/api/connections/{in_path}/sessions")).said(),
        bad("connection does not use AMQP 1.0")
    );
    let brief = json!([{"name": name, "node": channel(0, "node"), "user": "guest", "vhost": "/"}]);
    assert_eq!(api.get("/api/connections/username/guest").json(), brief);
    assert_eq!(api.get("/api/connections").json()[0]["channels"], 3);
    for none in ["channels/none", "channels/none%20(1)", "connections/none/channels", "vhosts/none/channels"] {
        assert_eq!(api.get(&format!("/api/{none}")).said(), no_object(), "{none}");
    }
    assert_eq!(api.delete(&format!("/api/connections/{in_path}")).status, 204);
    // Behind deliveries and confirms.
    let close = loop {
        if let Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) = peer.next() {
            break close;
        }
    };
    assert_eq!(close.reply_text.as_str(), "CONNECTION_FORCED - Closed via management plugin");
    eventually("no channel", || (api.get("/api/channels").json() == json!([])).then_some(()));
}

#[test]
fn the_consumer_that_is_served_alone_is_named() {
    let broker = start();
    let api = Api::of(&broker);
    let arguments = json!({"x-single-active-consumer": true});
    assert_eq!(api.put("/api/queues/%2F/q", json!({"arguments": arguments})).status, 201);
    let mut peer = Peer::open(&broker);
    peer.consume(1, "q", "first", false);
    peer.consume(1, "q", "second", true);
    let shown = |path: &str| api.get(path).json();
    let queue: Map<String, Json> = shown("/api/queues/%2F/q").as_object().unwrap().clone();
    assert_eq!(
        (&queue["single_active_consumer_tag"], &queue["exclusive_consumer_tag"]),
        (&json!("first"), &json!(null))
    );
    let consumers = shown("/api/consumers");
    let of = |key: &str| [consumers[0][key].clone(), consumers[1][key].clone()];
    assert_eq!(
        (of("activity_status"), of("active")),
        (["single_active", "waiting"].map(Json::from), [true, false].map(Json::from))
    );
    assert_eq!(of("ack_required"), [true, false].map(Json::from));
}
