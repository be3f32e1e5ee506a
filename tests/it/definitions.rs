//! Definitions over HTTP: out of one broker and into another, checked as a whole.

use super::support::http::Reply;
use super::support::{Api, Broker, Declare, Peer};
use amq_protocol::types::{AMQPValue, FieldTable};
use serde_json::{Value as Json, json};

fn start() -> Broker {
    // A name of its own, or the host's would be in what is compared.
    Broker::with(&["--http-port", "0", "--node-name", "rabbit@host"])
}

/// Some of everything.
fn document() -> Json {
    json!({
        "rabbitmq_version": "3.12.1",
        "users": [
            {"name": "guest", "password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
             "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ["administrator"], "limits": {}},
            {"name": "ann", "password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
             "hashing_algorithm": "rabbit_password_hashing_sha512", "tags": "monitoring, policymaker",
             "limits": {"max-connections": 7}}
        ],
        "vhosts": [
            {"name": "/"},
            {"name": "v", "limits": {"max-queues": 100}, "tracing": true,
             "metadata": {"description": "Of Ann", "tags": ["a", "b"], "default_queue_type": "quorum"}}
        ],
        "permissions": [
            {"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
            {"user": "ann", "vhost": "v", "configure": "^ann", "write": ".*", "read": ""}
        ],
        "topic_permissions": [{"user": "ann", "vhost": "v", "exchange": "amq.topic", "write": "^{username}", "read": ".*"}],
        "parameters": [
            {"vhost": "v", "component": "operator_policy", "name": "o",
             "value": {"pattern": "", "definition": {"max-length": 50}, "priority": 1, "apply-to": "queues"}},
            {"vhost": "v", "component": "shovel", "name": "s", "value": {"src-uri": "amqp://", "dest-uri": "amqp://"}}
        ],
        "global_parameters": [{"name": "cluster_name", "value": "warren"}, {"name": "g", "value": {"a": [1, null]}}],
        "policies": [{"vhost": "v", "name": "p", "pattern": "^q", "definition": {"max-length": 5}, "priority": 3}],
        "queues": [
            {"name": "q", "vhost": "v", "durable": true, "auto_delete": false, "arguments": {"x-delivery-limit": 5}},
            {"name": "c", "vhost": "v", "type": "classic", "durable": true, "auto_delete": true, "arguments": {}}
        ],
        "exchanges": [{"name": "e", "vhost": "v", "type": "headers", "durable": true, "auto_delete": false,
                       "internal": false, "arguments": {"alternate-exchange": "amq.fanout"}}],
        "bindings": [
            {"source": "e", "vhost": "v", "destination": "q", "destination_type": "queue", "routing_key": "",
             "arguments": {"x-match": "any", "n": 1, "deep": {"er": [true, 2.5]}}},
            {"source": "amq.topic", "vhost": "v", "destination": "e", "destination_type": "exchange",
             "routing_key": "a.#", "arguments": {}}
        ]
    })
}

fn import(api: &Api<'_>, kind: &str, text: &str) -> Reply {
    api.call("POST", "/api/definitions", &[("Content-Type", kind)], text.as_bytes())
}

fn export(api: &Api<'_>) -> Json {
    api.get("/api/definitions").json()
}

#[test]
fn what_is_exported_and_imported_is_exported_the_same() {
    let broker = start();
    let api = Api::of(&broker);
    assert_eq!(api.post("/api/definitions", document()).status, 204);
    // Guest has another password now.
    let api = api.by("guest", "test12");
    let first = export(&api);
    assert_eq!(first["users"][0]["tags"], json!(["monitoring", "policymaker"]));
    assert_eq!(first["users"][0]["limits"], json!({"max-connections": 7}));
    assert_eq!(first["vhosts"][1]["metadata"]["default_queue_type"], "quorum");
    assert_eq!(first["topic_permissions"].as_array().unwrap().len(), 1);
    assert_eq!(first["queues"].as_array().unwrap().len(), 2);
    assert_eq!(first["bindings"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("/api/vhosts/v").json()["tracing"], true);
    assert_eq!(api.get("/api/queues/v/q").json()["type"], "quorum");
    // Into the same broker, by PUT too, and into an empty one, also by way of a restart.
    assert_eq!(api.put("/api/definitions", first.clone()).status, 204);
    assert_eq!(export(&api), first);
    let mut other = start();
    assert_eq!(Api::of(&other).post("/api/definitions", first.clone()).status, 204);
    assert_eq!(export(&Api::of(&other).by("guest", "test12")), first);
    other.stop();
    other.restart();
    assert_eq!(export(&Api::of(&other).by("guest", "test12")), first);
    let plan = Api::of(&other).by("guest", "test12").post("/api/definitions?dry_run=true", first).json();
    assert_eq!((&plan["steps"], &plan["mistakes"]), (&json!([]), &json!([])), "{plan}");
}

#[test]
fn everything_that_is_wrong_is_told_at_once_and_nothing_is_used() {
    let broker = start();
    let api = Api::of(&broker);
    let before = export(&api);
    let vhost = "\"vhost\": \"v\"";
    let text = format!(
        r##"{{"vhosts": [{{"name": "v"}}], "users": [{{"name": "u", "password_hash": ""}}],
            "permissions": [{{"user": "nobody", {vhost}, "configure": "", "write": "", "read": ""}}],
            "queues": [{{"name": "q", {vhost}, "arguments": {{"x-max-length": -1}}}}, {{"name": "r", "vhost": "w"}}],
            "exchanges": [{{"name": "x", {vhost}, "type": "bogus"}}, {{"name": "t", {vhost}, "type": "topic"}}],
            "bindings": [
              {{"source": "t", {vhost}, "destination": "none", "destination_type": "queue", "routing_key": ""}},
              {{"source": "t", {vhost}, "destination": "t", "destination_type": "exchange", "routing_key": "#.#.#"}}]}}"##
    );
    let said = import(&api, "application/json", &text).said();
    let lines = [
        "permission of user 'nobody' in vhost 'v': there is no user 'nobody'",
        "exchange 'x' in vhost 'v': unknown exchange type 'bogus'",
        "queue 'q' in vhost 'v': invalid arg 'x-max-length' for queue 'q' in vhost 'v': {value_negative,-1}",
        "queue 'r' in vhost 'w': there is no virtual host 'w'",
        "binding t → none '' in vhost 'v': there is no queue 'none'",
        "binding t → t '#.#.#' in vhost 'v': Topic binding key '#.#.#' uses 3 '#' wildcards, at most 2 are allowed",
    ];
    assert_eq!(said, (400, json!({"error": "bad_request", "reason": lines.join("\n")})));
    // What can't even be read is told with its lines.
    let text = "{\"queues\": [\n{\"nmae\": \"q\"},\n{\"name\": 5, \"vhost\": \"/\"}]}";
    let reason = import(&api, "application/json", text).json()["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("definitions:2: queues[0].nmae: unknown field (did you mean 'name'?)"), "{reason}");
    assert!(reason.contains("definitions:3: queues[1].name: must be a string, not an integer"), "{reason}");
    for broken in ["{", "[1]", "\"x\"", "{\"queues\": \"x\"}", "\u{fffd}"] {
        assert_eq!(import(&api, "application/json", broken).status, 400, "{broken}");
    }
    assert_eq!(export(&api), before);
}

#[test]
fn more_queues_than_a_virtual_host_may_have_are_refused_as_a_whole() {
    let broker = start();
    let api = Api::of(&broker);
    let queue = |name: &str| json!({"name": name, "vhost": "/"});
    let text = json!({"vhosts": [{"name": "/", "limits": {"max-queues": 1}}], "queues": [queue("a"), queue("b")]});
    let reason = api.post("/api/definitions", text).json()["reason"].clone();
    let text = "Adding 2 queue(s) to virtual host \"/\" would exceed the limit of 1 queue(s). This virtual host currently \
                has 0 queue(s) defined.";
    assert_eq!(reason, text);
    assert_eq!(api.get("/api/queues").json(), json!([]));
}

#[test]
fn forms_toml_and_byte_order_marks_are_taken() {
    let broker = start();
    let api = Api::of(&broker);
    let form = |file: &str, text: &str| {
        let body = format!(
            "--b\r\nContent-Disposition: form-data; name=\"redirect\"\r\n\r\n../#/\r\n--b\r\nContent-Disposition: \
             form-data; name=\"file\"; filename=\"{file}\"\r\nContent-Type: application/json\r\n\r\n{text}\r\n--b--\r\n"
        );
        import(&api, "multipart/form-data; boundary=b", &body)
    };
    let queue = |name: &str| format!("{{\"queues\": [{{\"name\": \"{name}\", \"vhost\": \"/\"}}]}}");
    let toml = |name: &str| format!("[[queues]]\nname = '{name}'\nvhost = '/'\n");
    assert_eq!(form("d.json", &queue("a")).status, 204);
    assert_eq!(form("d.toml", &toml("b")).status, 204);
    assert_eq!(import(&api, "application/toml; charset=utf-8", &toml("c")).status, 204);
    assert_eq!(import(&api, "application/json", &format!("\u{feff}{}", queue("d"))).status, 204);
    assert_eq!(import(&api, "application/json", "").status, 204);
    assert_eq!(import(&api, "text/plain", &queue("e")).status, 415);
    assert_eq!(import(&api, "multipart/form-data; boundary=b", "--b--\r\n").status, 400);
    assert_eq!(import(&api, "multipart/form-data", "").status, 400);
    let queues = api.get("/api/queues?columns=name").json();
    assert_eq!(queues, json!([{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "d"}]));
    let file = api.get("/api/definitions?download=rabbit.json");
    assert_eq!(file.header("content-disposition"), Some("attachment; filename=rabbit.json"));
    assert_eq!(api.get("/api/definitions?download=a%0d%0ab").status, 400);
}

#[test]
fn one_virtual_hosts_definitions_go_into_another() {
    let broker = start();
    let api = Api::of(&broker);
    assert_eq!(api.post("/api/definitions", document()).status, 204);
    let api = api.by("guest", "test12");
    let of_v = api.get("/api/definitions/v").json();
    assert!(of_v["queues"][0].get("vhost").is_none());
    // Alone it does not say where it belongs.
    assert_eq!(api.post("/api/definitions", of_v.clone()).status, 400);
    let nowhere = api.post("/api/definitions/nowhere", of_v.clone()).said();
    assert_eq!(nowhere, (404, json!({"error": "not_found", "reason": "vhost_not_found"})));
    assert_eq!(api.put("/api/vhosts/w", json!({})).status, 201);
    assert_eq!(api.post("/api/definitions/w", of_v.clone()).status, 204);
    let of_w = api.get("/api/definitions/w").json();
    for section in ["queues", "exchanges", "bindings", "policies", "parameters", "limits"] {
        assert_eq!(of_w[section], of_v[section], "{section}");
    }
    // Users and the like are nobody's own, and are left out.
    let users = json!({"users": [{"name": "new", "password_hash": ""}], "queues": [{"name": "n"}]});
    assert_eq!(api.post("/api/definitions/w", users).status, 204);
    assert_eq!((api.get("/api/users/new").status, api.get("/api/queues/w/n").status), (404, 200));
}

#[test]
fn what_is_there_stays_and_a_plan_says_how_it_differs() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    let document = json!({
        "policies": [{"vhost": "/", "name": "p", "pattern": "^q", "definition": {"max-length": 5}}],
        "queues": [
            {"name": "q", "vhost": "/", "durable": false, "arguments": {"x-max-length": 5}},
            {"name": "new", "vhost": "/"}
        ]
    });
    let plan = api.post("/api/definitions?dry_run=true", document.clone()).json();
    assert_eq!(
        plan["steps"],
        json!([
            {"action": "create", "kind": "policy", "vhost": "/", "name": "p"},
            {"action": "conflict", "kind": "queue", "vhost": "/", "name": "q", "differences": [
                {"field": "durable", "current": true, "wanted": false},
                {"field": "arguments.x-max-length", "wanted": 5}
            ]},
            {"action": "create", "kind": "queue", "vhost": "/", "name": "new"}
        ])
    );
    assert_eq!(api.get("/api/queues/%2F/new").status, 404);
    assert_eq!(api.post("/api/definitions", document.clone()).status, 204);
    assert_eq!(api.get("/api/queues/%2F/q").json()["durable"], true);
    let mut changed = document;
    changed["policies"][0]["priority"] = 1.into();
    let plan = api.post("/api/definitions?dry_run=true", changed).json();
    let change = json!({"action": "change", "kind": "policy", "vhost": "/", "name": "p",
                        "differences": [{"field": "priority", "current": 0, "wanted": 1}]});
    assert_eq!((&plan["steps"][0], &plan["unchanged"]), (&change, &json!(1)));
}

#[test]
fn a_binding_whose_arguments_lost_their_size_is_still_the_same() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    // A short short integer, which JSON can't say.
    let mut arguments = FieldTable::default();
    arguments.insert("n".into(), AMQPValue::ShortShortInt(1));
    peer.bind_with(1, "q", "amq.headers", "", arguments);
    let before = export(&api);
    assert_eq!(before["bindings"].as_array().unwrap().len(), 1);
    assert_eq!(api.post("/api/definitions", before.clone()).status, 204);
    assert_eq!(export(&api), before);
}
