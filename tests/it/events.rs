//! What the broker tells of itself: the event exchange, and the firehose. Routing keys, headers, their order and their
//! types are as RabbitMQ 4.3.6 was seen to send them.

use super::support::peer::{Incoming, PERSISTENT, PLAIN, declare_queue, write_publish};
use super::support::{Broker, Declare, Peer, eventually};
use amq_protocol::protocol::{AMQPClass, basic, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::properties::{Properties, Property, named};
use leveret::amqp::table::{Field, Fields};
use tempfile::TempDir;

const EVENTS: &str = "amq.rabbitmq.event";
const TRACE: &str = "amq.rabbitmq.trace";

/// A connection that listens to one of the two exchanges.
struct Ear {
    peer: Peer,
}

/// An event or a copy. Values are written as `S:text`, `l:5`, `[…]`, `{…}`.
#[derive(Debug, Clone, PartialEq)]
struct Heard {
    key: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Ear {
    fn of(broker: &Broker, exchange: &str, key: &str) -> Self {
        let mut peer = Peer::open(broker);
        peer.declare(1, Declare { name: "ear", auto_delete: true, ..Declare::default() });
        peer.bind(1, "ear", exchange, key);
        peer.consume(1, "ear", "ear", true);
        Self { peer }
    }

    /// Listens to all events, and has heard those about itself.
    fn open(broker: &Broker) -> Self {
        let mut ear = Self::of(broker, EVENTS, "#");
        let binding = ear.expect("binding.created");
        assert_eq!(binding.get("source_name"), "S:amq.rabbitmq.event");
        ear.expect("consumer.created");
        ear
    }

    fn next(&mut self) -> Heard {
        let content = self.peer.expect_delivery();
        heard(&content.routing_key, &content.properties, content.body)
    }

    fn expect(&mut self, key: &str) -> Heard {
        let heard = self.next();
        assert_eq!(heard.key, key, "{heard:?}");
        heard
    }

    /// Nothing else was told before something that now comes about.
    fn expect_nothing(&mut self, witness: &mut Peer) {
        witness.declare_exchange(1, "witness", "fanout", false);
        self.expect("exchange.created");
        witness.method(1, delete_exchange("witness"));
        witness.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {})));
        self.expect("exchange.deleted");
    }
}

fn heard(key: &str, properties: &[u8], body: Vec<u8>) -> Heard {
    let headers = Properties::parse(properties).unwrap().headers.expect("headers");
    let headers: Vec<_> =
        headers.iter().map(|(key, value)| (String::from_utf8(key.to_vec()).unwrap(), shown(value))).collect();
    assert!(headers.is_sorted(), "{headers:?}");
    Heard { key: key.to_owned(), headers, body }
}

impl Heard {
    fn get(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(key, _)| key == name)
    }

    /// Exactly these, and an event's time.
    fn says(&self, expected: &[(&str, &str)]) {
        let mut headers = self.headers.clone();
        headers.retain(|(key, _)| key != "timestamp_in_ms");
        let mut expected: Vec<_> =
            expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        expected.sort();
        assert_eq!(headers, expected, "{}", self.key);
    }
}

fn shown(field: Field<'_>) -> String {
    match field {
        Field::LongStr(text) => format!("S:{}", String::from_utf8_lossy(text)),
        Field::Bool(truth) => format!("t:{truth}"),
        Field::I32(n) => format!("I:{n}"),
        Field::I64(n) => format!("l:{n}"),
        Field::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Field::Table(fields) => format!("{{{}}}", table_shown(fields)),
        other => format!("{other:?}"),
    }
}

fn table_shown(fields: Fields<'_>) -> String {
    let fields = fields.iter().map(|(key, value)| format!("{}={}", String::from_utf8_lossy(key), shown(value)));
    fields.collect::<Vec<_>>().join(" ")
}

fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in fields {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn delete_exchange(name: &str) -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Delete(exchange::Delete {
        exchange: name.into(),
        if_unused: false,
        nowait: false,
    }))
}

fn bind(queue: &str, exchange: &str, key: &str, arguments: FieldTable) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: key.into(),
        nowait: false,
        arguments,
    }))
}

fn unbind(peer: &mut Peer, queue: &str, exchange: &str, key: &str, arguments: FieldTable) {
    peer.method(
        1,
        AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
            queue: queue.into(),
            exchange: exchange.into(),
            routing_key: key.into(),
            arguments,
        })),
    );
    peer.expect(1, &AMQPClass::Queue(queue::AMQPMethod::UnbindOk(queue::UnbindOk {})));
}

fn bound() -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {}))
}

/// A connection and channel 1, whose events were heard.
fn peer_heard(broker: &Broker, ear: &mut Ear) -> Peer {
    let peer = Peer::open(broker);
    for key in ["user.authentication.success", "connection.created", "channel.created"] {
        ear.expect(key);
    }
    peer
}

fn publish(peer: &mut Peer, exchange: &str, key: &str, properties: &[u8], body: &[u8]) {
    let mut out = Vec::new();
    write_publish(&mut out, 1, exchange, key, properties, body, peer.frame_max);
    peer.octets(&out);
}

// ── The event exchange ───────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn queues_exchanges_and_bindings_are_told_of() {
    let broker = Broker::with(&["--node-name", "rabbit@host"]);
    let mut ear = Ear::open(&broker);
    let mut peer = peer_heard(&broker, &mut ear);
    let by_guest = ("user_who_performed_action", "S:guest");
    let by_house = ("user_who_performed_action", "S:rmq-internal");
    let vhost = ("vhost", "S:/");

    let arguments = table(&[("x-max-length", AMQPValue::LongInt(5)), ("x-overflow", text("drop-head"))]);
    peer.method(1, declare_queue(Declare::durable("q"), arguments));
    peer.next();
    let created = ear.next();
    assert_eq!((created.key.as_str(), created.body.as_slice()), ("queue.created", &b""[..]));
    created.says(&[
        (
            "arguments",
            "[S:{<<\"x-max-length\">>,signedint,5} S:{<<\"x-overflow\">>,longstr,<<\"drop-head\">>} \
             S:{<<\"x-queue-type\">>,longstr,<<\"classic\">>}]",
        ),
        ("auto_delete", "t:false"),
        ("durable", "t:true"),
        ("exclusive", "t:false"),
        ("leader", "S:rabbit@host"),
        ("members", "[S:rabbit@host]"),
        ("name", "S:q"),
        ("owner_pid", "S:"),
        ("type", "S:rabbit_classic_queue"),
        by_guest,
        vhost,
    ]);
    // A queue that is there is not new.
    peer.declare(1, Declare::passive("q"));
    peer.method(1, declare_queue(Declare::durable("quorum"), table(&[("x-queue-type", text("quorum"))])));
    peer.next();
    let created = ear.expect("queue.created");
    assert_eq!(created.get("type"), "S:rabbit_quorum_queue");
    assert!(!created.has("leader") && !created.has("owner_pid"));

    peer.method(
        1,
        AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: "x".into(),
            kind: "topic".into(),
            passive: false,
            durable: false,
            auto_delete: true,
            internal: false,
            nowait: false,
            arguments: table(&[("x-a", AMQPValue::LongInt(1))]),
        })),
    );
    peer.next();
    ear.expect("exchange.created").says(&[
        ("arguments", "[S:{<<\"x-a\">>,signedint,1}]"),
        ("auto_delete", "t:true"),
        ("durable", "t:false"),
        ("internal", "t:false"),
        ("name", "S:x"),
        ("policy", "S:"),
        ("type", "S:topic"),
        by_guest,
        vhost,
    ]);

    let arguments = || table(&[("a", AMQPValue::LongInt(1))]);
    let binding = |by| {
        [
            ("arguments", "[S:{<<\"a\">>,signedint,1}]"),
            ("destination_kind", "S:queue"),
            ("destination_name", "S:q"),
            ("routing_key", "S:k"),
            ("source_kind", "S:exchange"),
            ("source_name", "S:x"),
            by,
            vhost,
        ]
    };
    // It is told again each time, as in RabbitMQ.
    for _ in 0..2 {
        peer.method(1, bind("q", "x", "k", arguments()));
        peer.expect(1, &bound());
        ear.expect("binding.created").says(&binding(by_guest));
    }
    unbind(&mut peer, "q", "x", "other", FieldTable::default());
    unbind(&mut peer, "q", "x", "k", arguments());
    // The exchange went with its last binding.
    ear.expect("exchange.deleted").says(&[("name", "S:x"), by_guest, vhost]);
    ear.expect("binding.deleted").says(&binding(by_guest));

    peer.bind(1, "q", "amq.topic", "k");
    ear.expect("binding.created");
    peer.delete_queue(1, "q");
    let deleted = ear.expect("binding.deleted");
    assert_eq!(deleted.get("user_who_performed_action"), by_house.1);
    ear.expect("queue.deleted").says(&[("name", "S:q"), ("type", "S:rabbit_classic_queue"), by_guest, vhost]);

    // Queues that end by themselves.
    peer.method(1, declare_queue(Declare::durable("short"), table(&[("x-expires", AMQPValue::LongInt(50))])));
    peer.next();
    ear.expect("queue.created");
    let name = ("name", "S:short");
    ear.expect("queue.deleted").says(&[name, ("type", "S:rabbit_classic_queue"), by_house, vhost]);
    ear.expect_nothing(&mut peer);
}

#[test]
fn connections_channels_and_consumers_are_told_of() {
    let broker = Broker::with(&["--node-name", "rabbit@host"]);
    let mut ear = Ear::open(&broker);
    let mut peer = Peer::silent(&broker);
    let ports = peer.ports();
    let name = format!("S:127.0.0.1:{} -> 127.0.0.1:{}", ports.0, ports.1);
    let (peer_port, port) = (format!("l:{}", ports.0), format!("l:{}", ports.1));
    peer.octets(leveret::amqp::PROTOCOL_HEADER);
    peer.expect_start();
    let properties = table(&[("connection_name", text("mine")), ("n", AMQPValue::LongInt(5))]);
    peer.start_ok("PLAIN", b"\0guest\0guest", properties);
    peer.next();
    ear.expect("user.authentication.success").says(&[
        ("auth_mechanism", "S:PLAIN"),
        ("connection_name", &name),
        ("connection_type", "S:network"),
        ("host", "S:{127,0,0,1}"),
        ("name", "S:guest"),
        ("peer_host", "S:{127,0,0,1}"),
        ("peer_port", &peer_port),
        ("protocol", "S:{0,9,1}"),
        ("ssl", "t:false"),
    ]);
    peer.tune_ok(60);
    peer.open_vhost("/");
    peer.expect_open_ok();
    let created = ear.expect("connection.created");
    let (pid, connected_at) = (created.get("pid").to_owned(), created.get("connected_at").to_owned());
    assert!(pid.starts_with("S:<rabbit@host.") && pid.ends_with(".0>"), "{pid}");
    let properties = "[S:{<<\"connection_name\">>,longstr,<<\"mine\">>} S:{<<\"n\">>,signedint,5}]";
    created.says(&[
        ("auth_mechanism", "S:PLAIN"),
        ("channel_max", "l:2047"),
        ("client_properties", properties),
        ("connected_at", &connected_at),
        ("frame_max", "l:131072"),
        ("host", "S:{127,0,0,1}"),
        ("name", &name),
        ("node", "S:rabbit@host"),
        ("peer_cert_issuer", "S:"),
        ("peer_cert_serial_number", "S:"),
        ("peer_cert_subject", "S:"),
        ("peer_cert_validity", "S:"),
        ("peer_host", "S:{127,0,0,1}"),
        ("peer_port", &peer_port),
        ("pid", &pid),
        ("port", &port),
        ("protocol", "S:{0,9,1}"),
        ("ssl", "t:false"),
        ("ssl_cipher", "S:"),
        ("ssl_hash", "S:"),
        ("ssl_key_exchange", "S:"),
        ("ssl_protocol", "S:"),
        ("timeout", "l:60"),
        ("type", "S:network"),
        ("user", "S:guest"),
        ("user_provided_name", "S:mine"),
        ("user_who_performed_action", "S:guest"),
        ("vhost", "S:/"),
    ]);

    peer.open_channel(1);
    let created = ear.expect("channel.created");
    let channel = created.get("pid").to_owned();
    let by_guest = ("user_who_performed_action", "S:guest");
    created.says(&[
        ("connection", &pid),
        ("name", &format!("{name} (1)")),
        ("number", "l:1"),
        ("pid", &channel),
        ("user", "S:guest"),
        ("vhost", "S:/"),
        by_guest,
    ]);
    peer.declare(1, Declare { name: "mine", exclusive: true, ..Declare::default() });
    assert_eq!(ear.expect("queue.created").get("owner_pid"), pid);
    peer.declare(1, Declare::durable("q"));
    ear.expect("queue.created");

    peer.qos(1, 7);
    peer.consume(1, "q", "t", false);
    let consumer = [("channel", channel.as_str()), ("consumer_tag", "S:t"), ("queue", "S:q"), ("vhost", "S:/")];
    let mut said = consumer.to_vec();
    let more = [("ack_required", "t:true"), ("arguments", "[]"), ("exclusive", "t:false"), ("prefetch_count", "l:7")];
    said.extend(more);
    said.push(by_guest);
    ear.expect("consumer.created").says(&said);
    peer.basic(1, basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag: "t".into(), nowait: false }));
    peer.next();
    let mut said = consumer.to_vec();
    said.push(by_guest);
    ear.expect("consumer.deleted").says(&said);

    // With its queue: nobody is named.
    peer.consume(1, "q", "t", false);
    ear.expect("consumer.created");
    peer.delete_queue(1, "q");
    ear.expect("queue.deleted");
    ear.expect("consumer.deleted").says(&consumer);

    // A channel's end in good order stands for its consumers'.
    peer.declare(1, Declare::durable("q"));
    ear.expect("queue.created");
    peer.consume(1, "q", "t", false);
    ear.expect("consumer.created");
    peer.close_channel(1);
    ear.expect("channel.closed").says(&[("consumer_count", "l:1"), ("pid", &channel), by_guest]);

    // A channel of the same number has another name.
    peer.open_channel(1);
    assert_ne!(ear.expect("channel.created").get("pid"), channel);
    // But for the consumers of quorum queues.
    peer.open_channel(2);
    ear.expect("channel.created");
    peer.method(2, declare_queue(Declare::durable("quorum"), table(&[("x-queue-type", text("quorum"))])));
    peer.next();
    ear.expect("queue.created");
    peer.consume(2, "quorum", "t", false);
    ear.expect("consumer.created");
    peer.close_channel(2);
    assert_eq!(ear.expect("consumer.deleted").get("user_who_performed_action"), "S:rmq-internal");
    ear.expect("channel.closed");
    peer.close();
    ear.expect("channel.closed");
    let deleted = ear.expect("queue.deleted");
    assert_eq!((deleted.get("name"), deleted.get("user_who_performed_action")), ("S:mine", "S:rmq-internal"));
    ear.expect("connection.closed").says(&[
        ("client_properties", properties),
        ("name", &name),
        ("node", "S:rabbit@host"),
        ("pid", &pid),
        ("user_provided_name", "S:mine"),
    ]);

    // One that goes without a word.
    let mut peer = peer_heard(&broker, &mut ear);
    peer.consume(1, "q", "lost", true);
    ear.expect("consumer.created");
    peer.vanish();
    assert_eq!(ear.expect("consumer.deleted").get("user_who_performed_action"), "S:rmq-internal");
    assert_eq!(ear.expect("channel.closed").get("consumer_count"), "l:1");
    let closed = ear.expect("connection.closed");
    assert!(!closed.has("user_provided_name"));
    assert_eq!(closed.get("client_properties"), "[]");
}

#[test]
fn logins_that_are_refused_are_told_of() {
    let broker = Broker::start();
    let mut ear = Ear::open(&broker);
    let codes =
        |text: &str| format!("[{}]", text.chars().map(|c| format!("l:{}", c as u32)).collect::<Vec<_>>().join(" "));
    for (response, user, why) in [
        (&b"\0guest\0wrong"[..], Some("S:guest"), "user 'guest' - invalid credentials"),
        (b"\0nobody\0x", Some("S:nobody"), "user 'nobody' - invalid credentials"),
        (b"odd", None, "PLAIN response invalid"),
    ] {
        let mut peer = Peer::silent(&broker);
        peer.octets(leveret::amqp::PROTOCOL_HEADER);
        peer.expect_start();
        let capabilities = table(&[("authentication_failure_close", AMQPValue::Boolean(true))]);
        let properties = table(&[("capabilities", AMQPValue::FieldTable(capabilities))]);
        peer.start_ok("PLAIN", response, properties);
        let failure = ear.expect("user.authentication.failure");
        assert_eq!(failure.get("error"), codes(why));
        assert_eq!(failure.has("name").then(|| failure.get("name")), user);
        assert_eq!(failure.get("auth_mechanism"), "S:PLAIN");
        peer.vanish();
        ear.expect("connection.closed");
    }
}

/// Two users, two virtual hosts, rights, policies and parameters.
const DEFINITIONS: &str = r#"{
  "users": [{"name": "guest", "password": "guest", "tags": "administrator"},
            {"name": "new", "password": "x", "tags": "management,monitoring"}],
  "vhosts": [{"name": "/"}, {"name": "new", "default_queue_type": "quorum"}],
  "permissions": [{"user": "new", "vhost": "/", "configure": "a", "write": ".*", "read": ""}],
  "topic_permissions": [{"user": "new", "vhost": "/", "exchange": "amq.topic", "write": "w", "read": "r"}],
  "policies": [{"name": "p", "vhost": "/", "pattern": "^q", "apply-to": "queues", "priority": 2,
                "definition": {"max-length": 5, "overflow": "reject-publish"}}],
  "parameters": [{"name": "o", "vhost": "/", "component": "operator_policy",
                  "value": {"pattern": "^q", "definition": {"max-length": 4}, "priority": 1, "apply-to": "queues"}},
                 {"name": "n", "vhost": "/", "component": "c", "value": {"a": 1}}],
  "global_parameters": [{"name": "g", "value": "v"}]}"#;

#[test]
fn definitions_that_are_loaded_are_told_to_a_queue_that_outlived_a_restart() {
    let mut broker = Broker::with(&["--node-name", "rabbit@host"]);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.declare(1, Declare::durable("events"));
    peer.bind(1, "events", EVENTS, "#");
    peer.close();
    assert!(broker.stop().success());
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("definitions.json");
    std::fs::write(&file, DEFINITIONS).unwrap();
    broker.restart_with(&["--node-name", "rabbit@host", "--definitions", file.to_str().unwrap()]);
    let mut peer = Peer::open(&broker);
    let mut all = Vec::new();
    eventually("the events", || {
        while let Some(content) = peer.get(1, "events", true) {
            assert!(Properties::parse(&content.properties).unwrap().persistent());
            assert!(content.body.is_empty());
            all.push(heard(&content.routing_key, &content.properties, content.body));
        }
        all.iter().any(|heard| heard.key == "channel.created").then_some(())
    });
    let find = |key: &str, name: (&str, &str)| {
        let found =
            all.iter().find(|heard| heard.key == key && heard.headers.iter().any(|(k, v)| (&**k, &**v) == name));
        found.unwrap_or_else(|| panic!("no {key} of {name:?} in {all:#?}")).clone()
    };
    let (by, vhost) = (("user_who_performed_action", "S:rmq-internal"), ("vhost", "S:/"));
    find("user.created", ("name", "S:new")).says(&[("name", "S:new"), by]);
    let tags = ("tags", "[S:management S:monitoring]");
    find("user.tags.set", ("name", "S:new")).says(&[("name", "S:new"), tags, by]);
    find("user.password.changed", ("name", "S:guest")).says(&[("name", "S:guest"), by]);
    let user = ("user", "S:new");
    let patterns = [("configure", "S:a"), ("read", "S:"), ("write", "S:.*")];
    let [configure, read, write] = patterns;
    find("permission.created", user).says(&[user, vhost, configure, read, write, by]);
    let patterns = [("exchange", "S:amq.topic"), ("read", "S:r"), ("write", "S:w")];
    let [topic, read, write] = patterns;
    find("topic.permission.created", user).says(&[user, vhost, topic, read, write, by]);

    // In the order in which RabbitMQ's folding leaves the keys.
    let said = [
        ("apply-to", "S:queues"),
        ("definition", "{overflow=S:reject-publish max-length=l:5}"),
        ("pattern", "S:^q"),
        ("priority", "l:2"),
        by,
        vhost,
    ];
    let with_name = |name| [&said[..], &[("name", name)]].concat();
    find("policy.set", ("name", "S:p")).says(&with_name("S:p"));
    let mut of_queue = with_name("S:q");
    of_queue.push(("type", "S:rabbit_classic_queue"));
    find("queue.policy.updated", ("priority", "l:2")).says(&of_queue);
    let value = "{apply-to=S:queues priority=l:1 definition={max-length=l:4} pattern=S:^q}";
    let component = ("component", "S:operator_policy");
    find("parameter.set", component).says(&[("name", "S:o"), component, ("value", value), by, vhost]);
    assert_eq!(find("policy.set", ("name", "S:o")).get("definition"), "{max-length=l:4}");
    assert_eq!(find("queue.policy.updated", ("priority", "l:1")).get("name"), "S:q");
    let component = ("component", "S:c");
    find("parameter.set", component).says(&[("name", "S:n"), component, ("value", "{a=l:1}"), by, vhost]);
    let component = ("component", "S:global");
    find("parameter.set", component).says(&[("name", "S:g"), component, ("value", "S:v"), by]);

    find("vhost.created", ("name", "S:new")).says(&[
        ("cluster_state", "{rabbit@host=S:running}"),
        ("default_queue_type", "S:quorum"),
        ("description", "S:"),
        ("metadata", "S:#{description => <<>>,tags => [],default_queue_type => <<\"quorum\">>}"),
        ("name", "S:new"),
        ("protected_from_deletion", "t:false"),
        ("tags", "[]"),
        ("tracing", "t:false"),
        by,
    ]);
    find("vhost.updated", ("name", "S:/"));
    let exchanges = all.iter().filter(|heard| heard.key == "exchange.created" && heard.get("vhost") == "S:new");
    // The default one too; that for events is in the other virtual host alone.
    assert_eq!(exchanges.count(), 7);
}

#[test]
fn the_exchange_is_internal_and_in_the_default_virtual_host() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    publish(&mut peer, EVENTS, "k", PLAIN, b"x");
    let text = "ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.event' in vhost '/'";
    peer.expect_channel_close(1, 403, text);
    let other = Broker::with(&["--default-vhost", "other"]);
    let mut peer = Peer::silent(&other);
    peer.log_in();
    peer.tune_ok(0);
    peer.open_vhost("other");
    peer.expect_open_ok();
    peer.open_channel(1);
    peer.method(1, declare_queue(Declare::durable("q"), FieldTable::default()));
    peer.next();
    peer.bind(1, "q", EVENTS, "binding.*");
    assert_eq!(peer.get(1, "q", true).unwrap().routing_key, "binding.created");
}

#[test]
fn nothing_is_told_once_nobody_listens() {
    let broker = Broker::start();
    let mut ear = Ear::open(&broker);
    let mut peer = peer_heard(&broker, &mut ear);
    // Bound twice, then once: the other end still hears.
    peer.bind(1, "ear", EVENTS, "queue.*");
    ear.expect("binding.created");
    unbind(&mut peer, "ear", EVENTS, "#", FieldTable::default());
    peer.declare(1, Declare::durable("q"));
    ear.expect("queue.created");
    unbind(&mut peer, "ear", EVENTS, "queue.*", FieldTable::default());
    peer.declare(1, Declare::durable("q2"));
    peer.bind(1, "ear", EVENTS, "#");
    // The last one went unheard.
    ear.expect("binding.created");
    ear.expect_nothing(&mut peer);
}

#[test]
fn replies_stay_in_order_for_one_who_hears_of_itself() {
    const ROUNDS: usize = 200;
    let broker = Broker::start();
    let mut ear = Ear::open(&broker);
    let mut out = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("q{round}");
        let declare = Declare { name: &name, ..Declare::default() };
        leveret::amqp::method::write(&mut out, 1, &declare_queue(declare, FieldTable::default()));
        leveret::amqp::method::write(&mut out, 1, &bind(&name, "amq.topic", "k", FieldTable::default()));
    }
    ear.peer.octets(&out);
    let (mut replies, mut events) = (Vec::new(), Vec::new());
    while replies.len() < 2 * ROUNDS || events.len() < 2 * ROUNDS {
        match ear.peer.next() {
            Incoming::Method(1, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))) => {
                replies.push(ok.queue.to_string())
            }
            Incoming::Method(1, AMQPClass::Queue(queue::AMQPMethod::BindOk(_))) => replies.push("bound".to_owned()),
            Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))) => {
                events.push(deliver.routing_key.to_string());
            }
            Incoming::Header { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    for round in 0..ROUNDS {
        assert_eq!(replies[2 * round..2 * round + 2], [format!("q{round}"), "bound".to_owned()]);
        assert_eq!(events[2 * round..2 * round + 2], ["queue.created", "binding.created"]);
    }
}

#[test]
fn one_who_hears_slowly_harms_nobody() {
    const ROUNDS: usize = 3000;
    let broker = Broker::start();
    let mut slow = Ear::of(&broker, EVENTS, "queue.*");
    // Nothing of it is read from here on, and much more is told than its socket takes.
    let mut peers: Vec<_> = (0..3).map(|_| Peer::open(&broker)).collect();
    std::thread::scope(|scope| {
        for (number, peer) in peers.iter_mut().enumerate() {
            scope.spawn(move || {
                for round in 0..ROUNDS / 3 {
                    let name = format!("a queue with quite a long name {} {number} {round}", "-".repeat(150));
                    peer.declare(1, Declare::transient(&name));
                    peer.delete_queue(1, &name);
                }
            });
        }
    });
    for peer in peers {
        peer.close();
    }
    // All of it was kept, and each queue's end comes after its beginning.
    let mut open = std::collections::HashSet::new();
    for _ in 0..2 * ROUNDS {
        let heard = slow.next();
        let name = heard.get("name").to_owned();
        match heard.key.as_str() {
            "queue.created" => assert!(open.insert(name)),
            "queue.deleted" => assert!(open.remove(&name)),
            other => panic!("{other}"),
        }
    }
    assert!(open.is_empty());
}

#[test]
fn events_of_queues_for_events_come_to_an_end() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let mut ear = Ear::of(&broker, EVENTS, "queue.deleted");
    // Each is for all events, and ends soon: an event causes ends, and ends cause events.
    for number in 0..20 {
        let name = format!("short{number}");
        let arguments = table(&[
            ("x-expires", AMQPValue::LongInt(100 + number)),
            ("x-max-length", AMQPValue::LongInt(2)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text("dead")),
        ]);
        peer.method(1, declare_queue(Declare::durable(&name), arguments));
        peer.next();
        peer.bind(1, &name, EVENTS, "#");
    }
    peer.declare(1, Declare::durable("dead"));
    for _ in 0..20 {
        ear.expect("queue.deleted");
    }
    ear.peer.close();
    assert!(peer.declare(1, Declare::passive("dead")).0 > 0);
}

// ── The firehose ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// All properties, each `CC` and `BCC` among the headers.
fn all_properties() -> Vec<u8> {
    use amq_protocol::frame::WriteContext;
    use amq_protocol::protocol::basic::{AMQPProperties, gen_properties};
    let keys = |key: &str| AMQPValue::FieldArray(vec![text(key)].into());
    let headers = table(&[("h", AMQPValue::LongInt(1)), ("CC", keys("q")), ("BCC", keys("hidden"))]);
    let properties = AMQPProperties::default()
        .with_content_type("text/plain".into())
        .with_content_encoding("utf8".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(3)
        .with_correlation_id("c".into())
        .with_reply_to("r".into())
        .with_expiration("100000".into())
        .with_message_id("m".into())
        .with_timestamp(12_345)
        .with_type("ty".into())
        .with_user_id("guest".into())
        .with_app_id("app".into())
        .with_cluster_id("cl".into());
    gen_properties(&properties)(WriteContext::from(Vec::<u8>::new())).unwrap().into_inner().0
}

#[test]
fn the_firehose_copies_publishes_and_deliveries() {
    let broker = Broker::with(&["--trace-vhosts", "/", "--node-name", "rabbit@host"]);
    let mut ear = Ear::of(&broker, TRACE, "#");
    let mut peer = Peer::open(&broker);
    let ports = peer.ports();
    let connection = format!("S:127.0.0.1:{} -> 127.0.0.1:{}", ports.0, ports.1);
    let party = [
        ("channel", "I:1"),
        ("connection", connection.as_str()),
        ("node", "S:rabbit@host"),
        ("user", "S:guest"),
        ("vhost", "S:/"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&party[..], more].concat();
    peer.declare(1, Declare::durable("q"));
    peer.bind(1, "q", "amq.topic", "a.#");

    publish(&mut peer, "amq.topic", "a.b", PLAIN, b"hello");
    let copy = ear.expect("publish.amq.topic");
    assert_eq!(copy.body, b"hello");
    let exchange = ("exchange_name", "S:amq.topic");
    let keys = ("routing_keys", "[S:a.b]");
    copy.says(&with(&[exchange, keys, ("properties", "{}"), ("routed_queues", "[S:q]")]));

    // From the last property to the first; BCC counts as a key, and is not shown.
    publish(&mut peer, "amq.topic", "a.c", &all_properties(), b"all");
    let properties = "{cluster_id=S:cl app_id=S:app user_id=S:guest type=S:ty timestamp=I:12345 message_id=S:m \
                      expiration=S:100000 reply_to=S:r correlation_id=S:c priority=I:3 delivery_mode=I:2 \
                      headers={CC=[S:q] h=I:1} content_encoding=S:utf8 content_type=S:text/plain}";
    let all = [("properties", properties), ("routing_keys", "[S:a.c S:q S:hidden]")];
    ear.expect("publish.amq.topic").says(&with(&[exchange, all[0], all[1], ("routed_queues", "[S:q]")]));

    // What no queue takes, and what comes in several frames.
    publish(&mut peer, "amq.topic", "nowhere", PLAIN, b"n");
    assert_eq!(ear.expect("publish.amq.topic").get("routed_queues"), "[]");
    let large = vec![b'x'; 300_000];
    publish(&mut peer, "", "q", PLAIN, &large);
    let copy = ear.expect("publish.");
    assert!(copy.body == large);
    assert_eq!((copy.get("exchange_name"), copy.get("routing_keys")), ("S:", "[S:q]"));

    // basic.get, and again after it came back.
    for redelivered in ["I:0", "I:1"] {
        let got = peer.get(1, "q", false).unwrap();
        let copy = ear.expect("deliver.q");
        assert_eq!(copy.body, b"hello");
        copy.says(&with(&[exchange, keys, ("properties", "{}"), ("redelivered", redelivered)]));
        peer.nack(1, got.tag, false, true);
    }
    // A consumer gets all three in one go.
    peer.consume(1, "q", "t", true);
    let bodies: [Vec<u8>; 3] = std::array::from_fn(|_| peer.expect_delivery().body);
    let copies: [Heard; 3] = std::array::from_fn(|_| ear.expect("deliver.q"));
    assert!(bodies.iter().eq(copies.iter().map(|copy| &copy.body)));
    copies[1].says(&with(&[exchange, all[0], all[1], ("redelivered", "I:0")]));

    // A transaction's publishes when they come, not when they are committed.
    peer.open_channel(2);
    peer.tx_select(2);
    peer.declare(1, Declare::durable("q2"));
    peer.publish(2, "q2", PLAIN, b"tx");
    let copy = ear.expect("publish.");
    assert_eq!((copy.get("channel"), copy.body.as_slice()), ("I:2", &b"tx"[..]));
    peer.tx_commit(2);
    peer.publish(1, "q2", PLAIN, b"last");
    assert_eq!(ear.expect("publish.").body, b"last");
}

#[test]
fn copies_are_not_copied_even_when_they_die() {
    let broker = Broker::with(&["--trace-vhosts", "/"]);
    let mut peer = Peer::open(&broker);
    // Where a copy pushes out another, whose delivery as a dead letter would be copied to where it pushes out another …
    let arguments = table(&[
        ("x-max-length", AMQPValue::LongInt(1)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ]);
    peer.method(1, declare_queue(Declare::durable("copies"), arguments));
    peer.next();
    peer.declare(1, Declare::durable("dead"));
    peer.declare(1, Declare::durable("q"));
    peer.bind(1, "copies", TRACE, "#");
    let mut taker = Peer::open(&broker);
    taker.consume(1, "dead", "t", true);
    for _ in 0..10 {
        peer.publish(1, "q", PLAIN, b"x");
    }
    for _ in 0..9 {
        assert_eq!(taker.expect_delivery().routing_key, "dead");
    }
    // A get of a copy leaves none.
    assert_eq!(peer.get(1, "copies", true).unwrap().exchange, TRACE);
    assert!(peer.get(1, "copies", true).is_none());
    taker.close();
    assert_eq!(peer.declare(1, Declare::passive("dead")).0, 0);
}

#[test]
fn the_firehose_is_off_unless_it_is_asked_for() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.declare(1, Declare::durable("copies"));
    peer.bind(1, "copies", TRACE, "#");
    peer.confirm_select(1);
    peer.publish(1, "q", PERSISTENT, b"x");
    peer.expect_confirms(1, 1);
    assert!(peer.get(1, "q", true).is_some());
    assert_eq!(peer.declare(1, Declare::passive("copies")).0, 0);
    peer.close();
    assert!(broker.stop().success());
    // For another virtual host, which need not be there.
    broker.restart_with(&["--trace-vhosts", "other"]);
    let mut peer = Peer::open(&broker);
    peer.publish(1, "q", PERSISTENT, b"x");
    assert!(peer.get(1, "q", true).is_some());
    assert_eq!(peer.declare(1, Declare::passive("copies")).0, 0);
    peer.close();
    assert!(broker.stop().success());
    broker.restart_with(&["--trace-vhosts", "other", "--trace-vhosts", "/"]);
    let mut peer = Peer::open(&broker);
    peer.publish(1, "q", PERSISTENT, b"x");
    assert!(peer.get(1, "q", true).is_some());
    let copies: [_; 2] = std::array::from_fn(|_| peer.get(1, "copies", true).expect("a copy"));
    assert_eq!(copies.each_ref().map(|copy| copy.routing_key.as_str()), ["publish.", "deliver.q"]);
    // A copy is a transient message with headers and nothing else.
    let properties = named(&copies[0].properties).unwrap();
    assert!(matches!(properties[..], [("headers", Property::Headers(_))]));
}
