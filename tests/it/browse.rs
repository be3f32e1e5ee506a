//! Looking at queues without touching them, moving dead letters back, and being told why a message goes where it goes.

use super::support::peer::{PERSISTENT, PLAIN};
use super::support::{Api, Broker, Declare, Peer, eventually};
use amq_protocol::types::{AMQPValue, FieldTable};
use serde_json::{Value as Json, json};

fn start() -> Broker {
    Broker::with(&["--http-port", "0"])
}

/// Arguments of a queue whose dead letters go to the queue `dead`.
fn dying(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString("dead".into()));
    for (key, value) in fields {
        arguments.insert((*key).into(), value.clone());
    }
    arguments
}

fn peek(api: &Api<'_>, queue: &str, wish: Json) -> Json {
    let reply = api.post(&format!("/api/queues/%2F/{queue}/peek"), wish);
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// The payloads and what becomes of the messages.
fn seen(answer: &Json) -> Vec<(String, String)> {
    let text = |message: &Json, key: &str| message[key].as_str().unwrap().to_owned();
    let messages = answer["messages"].as_array().unwrap().iter();
    messages.map(|message| (text(message, "payload"), text(message, "state"))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

#[test]
fn what_is_looked_at_stays_as_it_is() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    for body in ["a", "b", "c", "d"] {
        peer.publish(1, "q", PERSISTENT, body.as_bytes());
    }
    peer.qos(1, 1);
    peer.consume(1, "q", "t", false);
    let out = peer.expect_delivery();
    assert_eq!(out.body, b"a");
    let all = peek(&api, "q", json!({}));
    assert_eq!(seen(&all), pairs(&[("a", "unacked"), ("b", "ready"), ("c", "ready"), ("d", "ready")]));
    assert_eq!((&all["next"], &all["messages"][1]["redelivered"]), (&Json::Null, &json!(false)));
    let ready = peek(&api, "q", json!({"states": ["ready"], "count": 2}));
    assert_eq!(seen(&ready), pairs(&[("b", "ready"), ("c", "ready")]));
    let rest = peek(&api, "q", json!({"from": ready["next"]}));
    assert_eq!(seen(&rest), pairs(&[("d", "ready")]));
    // Nothing was delivered, counted or marked.
    assert_eq!(peer.declare(1, Declare::durable("q")), (3, 1));
    peer.ack(1, out.tag, false);
    let next = peer.expect_delivery();
    assert_eq!((next.body.as_slice(), next.redelivered), (&b"b"[..], false));
    eventually("the settled one to be gone", || {
        (seen(&peek(&api, "q", json!({}))) == pairs(&[("b", "unacked"), ("c", "ready"), ("d", "ready")])).then_some(())
    });
    // Also from disk, after a restart.
    drop(peer);
    let mut broker = broker;
    broker.stop();
    broker.restart();
    let api = Api::of(&broker);
    assert_eq!(seen(&peek(&api, "q", json!({}))), pairs(&[("b", "ready"), ("c", "ready"), ("d", "ready")]));
}

#[test]
fn filters_find_messages_by_key_and_headers_and_wishes_that_are_none_are_refused() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.bind(1, "q", "amq.topic", "#");
    for (key, shop) in [("a.b", 1), ("a.c", 2), ("b.b", 1)] {
        let message = json!({"routing_key": key, "payload": key, "payload_encoding": "string",
                             "properties": {"headers": {"shop": shop}}});
        assert_eq!(api.post("/api/exchanges/%2F/amq.topic/publish", message).json()["routed"], true);
    }
    let found =
        |wish: Json| -> Vec<String> { seen(&peek(&api, "q", wish)).into_iter().map(|(body, _)| body).collect() };
    assert_eq!(found(json!({"routing_key": "^a"})), ["a.b", "a.c"]);
    assert_eq!(found(json!({"headers": {"shop": 1}})), ["a.b", "b.b"]);
    assert_eq!(found(json!({"headers": {"shop": 1}, "routing_key": "^a", "exchange": "amq.topic"})), ["a.b"]);
    assert_eq!(found(json!({"exchange": ""})), Vec::<String>::new());
    let shown = peek(&api, "q", json!({"count": 1, "truncate": 1, "encoding": "base64"}));
    assert_eq!((&shown["messages"][0]["payload"], &shown["messages"][0]["payload_bytes"]), (&json!("YQ=="), &json!(3)));
    assert_eq!(shown["messages"][0]["properties"]["headers"]["shop"], 1);
    let wrong = [
        json!({"count": -1}),
        json!({"states": ["bogus"]}),
        json!({"routing_key": "("}),
        json!({"headers": []}),
        json!({"from": "x"}),
    ];
    for wish in wrong {
        assert_eq!(api.post("/api/queues/%2F/q/peek", wish.clone()).status, 400, "{wish}");
    }
    assert_eq!(api.post("/api/queues/%2F/none/peek", json!({})).status, 404);
    // Who may not read may not look.
    assert_eq!(api.put("/api/users/u", json!({"password": "u", "tags": "management"})).status, 201);
    let rights = json!({"configure": ".*", "write": ".*", "read": "^other$"});
    assert_eq!(api.put("/api/permissions/%2F/u", rights).status, 201);
    assert_eq!(api.by("u", "u").post("/api/queues/%2F/q/peek", json!({})).status, 401);
}

#[test]
fn messages_that_wait_for_their_time_are_seen() {
    let broker = start();
    let api = Api::of(&broker);
    let exchange = json!({"type": "x-delayed-message", "durable": true, "arguments": {"x-delayed-type": "direct"}});
    assert_eq!(api.put("/api/exchanges/%2F/later", exchange).status, 201);
    let message = json!({"routing_key": "k", "payload": "later", "payload_encoding": "string",
                         "properties": {"headers": {"x-delay": 600_000}}});
    api.post("/api/exchanges/%2F/later/publish", message);
    assert_eq!(seen(&peek(&api, "amq.delayed.later", json!({}))), pairs(&[("later", "delayed")]));
}

#[test]
fn dead_letters_go_back_to_where_they_died() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("dead"));
    peer.declare_with(1, Declare::durable("q"), dying(&[]));
    peer.bind(1, "q", "amq.topic", "a.#");
    for key in ["a.1", "a.2", "a.3"] {
        let message = json!({"routing_key": key, "payload": key, "payload_encoding": "string",
                             "properties": {"delivery_mode": 2, "headers": {"own": key}}});
        api.post("/api/exchanges/%2F/amq.topic/publish", message);
    }
    for _ in 0..3 {
        let content = peer.get(1, "q", false).unwrap();
        peer.reject(1, content.tag, false);
    }
    // One that came here by itself stays.
    peer.publish(1, "dead", PERSISTENT, b"own");
    eventually("four dead letters", || (peer.declare(1, Declare::durable("dead")).0 == 4).then_some(()));
    let redrive = |wish: Json| api.post("/api/queues/%2F/dead/redrive", wish).json();
    let filtered = redrive(json!({"headers": {"own": "a.2"}}));
    assert_eq!((&filtered["moved"], &filtered["without_origin"]), (&json!(1), &json!(0)));
    let content = peer.get(1, "q", false).unwrap();
    assert_eq!((content.exchange.as_str(), content.routing_key.as_str()), ("amq.topic", "a.2"));
    assert!(!content.redelivered && !String::from_utf8_lossy(&content.properties).contains("x-death"));
    peer.ack(1, content.tag, false);
    // One at a time, and then what is left.
    let one = redrive(json!({"count": 1, "rate": 1000}));
    assert_eq!(one["moved"], 1);
    let rest = redrive(json!({"from": one["next"], "keep_deaths": true}));
    assert_eq!((&rest["moved"], &rest["without_origin"], &rest["next"]), (&json!(1), &json!(1), &Json::Null));
    assert_eq!(peer.declare(1, Declare::durable("dead")), (1, 0));
    let bodies: Vec<_> = (0..2).map(|_| peer.get(1, "q", true).unwrap()).collect();
    assert_eq!((bodies[0].body.as_slice(), bodies[1].body.as_slice()), (&b"a.1"[..], &b"a.3"[..]));
    assert!(String::from_utf8_lossy(&bodies[1].properties).contains("x-death"));
    // To another queue, by name.
    peer.declare(1, Declare::durable("other"));
    assert_eq!(redrive(json!({"to": "other"}))["moved"], 1);
    assert_eq!(peer.get(1, "other", true).unwrap().body, b"own");
    assert_eq!(api.post("/api/queues/%2F/dead/redrive", json!({"to": "none"})).status, 400);
}

#[test]
fn a_full_queue_takes_nothing_back_and_the_message_stays() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("dead"));
    let full =
        [("x-max-length", AMQPValue::LongLongInt(1)), ("x-overflow", AMQPValue::LongString("reject-publish".into()))];
    peer.declare_with(1, Declare::durable("q"), dying(&full));
    peer.publish(1, "q", PERSISTENT, b"dead");
    let content = peer.get(1, "q", false).unwrap();
    peer.reject(1, content.tag, false);
    peer.publish(1, "q", PERSISTENT, b"full");
    eventually("a dead letter", || (peer.declare(1, Declare::durable("dead")).0 == 1).then_some(()));
    let said = api.post("/api/queues/%2F/dead/redrive", json!({})).json();
    assert_eq!(said["moved"], 0);
    assert!(said["next"].is_string(), "{said}");
    assert_eq!(seen(&peek(&api, "dead", json!({}))), pairs(&[("dead", "ready")]));
    assert_eq!(peer.declare(1, Declare::durable("dead")), (1, 0));
    // Nobody was delivered it, which quorum queues count.
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    peer.declare_with(1, Declare::durable("counting"), quorum);
    for body in [b"one", b"two"] {
        peer.publish(1, "counting", PERSISTENT, body);
    }
    let said = api.post("/api/queues/%2F/counting/redrive", json!({"to": "q"})).json();
    assert_eq!(said["moved"], 0);
    for body in [b"one", b"two"] {
        let content = peer.get(1, "counting", true).unwrap();
        assert_eq!((&content.body[..], content.redelivered), (&body[..], false));
        assert!(!String::from_utf8_lossy(&content.properties).contains("x-"));
    }
}

#[test]
fn a_crash_while_messages_move_leaves_each_in_one_queue() {
    const MESSAGES: usize = 2000;
    let mut broker = start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("dead"));
    peer.declare(1, Declare::durable("q"));
    for number in 0..MESSAGES {
        peer.publish(1, "dead", PERSISTENT, number.to_string().as_bytes());
    }
    peer.confirm_select(1);
    peer.publish(1, "dead", PERSISTENT, b"last");
    peer.expect_confirms(1, 1);
    drop(peer);
    let port = broker.http_port();
    let moving = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let body = "{\"to\": \"q\", \"rate\": 4000}";
        let head = "POST /api/queues/%2F/dead/redrive HTTP/1.1\r\nHost: x\r\nAuthorization: Basic Z3Vlc3Q6Z3Vlc3Q=";
        write!(socket, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        // The broker dies before it answers.
        let _ = socket.read(&mut [0; 64]);
    });
    let api = Api::of(&broker);
    eventually("some to have moved", || {
        let shown = api.get("/api/queues/%2F/q").json();
        (shown["messages_ready"].as_u64().unwrap_or_default() > 300).then_some(())
    });
    broker.kill();
    moving.join().unwrap();
    broker.restart();
    let mut peer = Peer::open(&broker);
    let mut found = Vec::new();
    for queue in ["q", "dead"] {
        while let Some(content) = peer.get(1, queue, true) {
            found.push(String::from_utf8(content.body).unwrap());
        }
    }
    let mut expected: Vec<_> = (0..MESSAGES).map(|number| number.to_string()).chain(["last".to_owned()]).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_route_is_explained_binding_by_binding() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    for queue in ["one", "two", "lost"] {
        peer.declare(1, Declare::durable(queue));
    }
    let exchange = json!({"type": "topic", "durable": true, "arguments": {"alternate-exchange": "amq.fanout"}});
    assert_eq!(api.put("/api/exchanges/%2F/x", exchange).status, 201);
    peer.bind(1, "one", "x", "a.#");
    peer.bind(1, "two", "x", "a.b");
    peer.bind(1, "two", "x", "c");
    peer.bind(1, "lost", "amq.fanout", "");
    let explain = |exchange: &str, wish: Json| api.post(&format!("/api/route/%2F/{exchange}"), wish).json();
    let said = explain("x", json!({"routing_key": "a.b"}));
    assert_eq!((&said["routed"], &said["queues"]), (&json!(true), &json!(["one", "two"])));
    assert_eq!(
        said["explanation"],
        json!([
            "exchange 'x' (topic): the message fits the binding 'a.#' to queue 'one'",
            "exchange 'x' (topic): the message fits the binding 'a.b' to queue 'two'"
        ])
    );
    let said = explain("x", json!({"routing_key": "z"}));
    assert_eq!(said["steps"][0]["decided_by"], "alternate_exchange");
    assert_eq!((&said["steps"][1]["exchange"], &said["queues"]), (&json!("amq.fanout"), &json!(["lost"])));
    let said = explain("amq.default", json!({"routing_key": "one"}));
    assert_eq!(said["explanation"], json!(["the default exchange: 'one' is the name of a queue"]));
    let said = explain("amq.direct", json!({"routing_key": "k"}));
    assert_eq!(said["routed"], false);
    let nothing = "exchange 'amq.direct' (direct): no binding takes the key 'k', and there is no alternate exchange";
    assert_eq!(said["explanation"], json!([nothing]));
    // By headers, and by the keys of CC.
    let mut arguments = FieldTable::default();
    arguments.insert("x-match".into(), AMQPValue::LongString("all".into()));
    arguments.insert("shop".into(), AMQPValue::LongLongInt(1));
    peer.bind_with(1, "one", "amq.headers", "", arguments);
    assert_eq!(explain("amq.headers", json!({"headers": {"shop": 1}}))["queues"], json!(["one"]));
    assert_eq!(explain("amq.headers", json!({"headers": {"shop": 2}}))["queues"], json!([]));
    let copied = json!({"routing_key": "c", "properties": {"headers": {"CC": ["a.z"]}}});
    assert_eq!(explain("x", copied)["queues"], json!(["one", "two"]));
    assert_eq!(api.post("/api/route/%2F/none", json!({})).status, 404);
    // Nothing was published.
    assert_eq!((peer.declare(1, Declare::durable("one")), peer.get(1, "two", true)), ((0, 0), None));
    peer.publish(1, "one", PLAIN, b"x");
}
