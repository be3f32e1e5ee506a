//! What is changed over the management API: it counts at once, for those who are connected too, and outlives the broker.

use super::support::peer::PLAIN;
use super::support::{Api, Broker, Declare, Peer, eventually};
use serde_json::{Value as Json, json};

fn start() -> Broker {
    Broker::with(&["--http-port", "0"])
}

fn everything() -> Json {
    json!({"configure": ".*", "write": ".*", "read": ".*"})
}

/// A user whose password is the name, and who may do everything in the virtual host.
fn add_user(api: &Api<'_>, name: &str, vhost: &str) {
    assert_eq!(api.put(&format!("/api/users/{name}"), json!({"password": name, "tags": ""})).status, 201);
    assert_eq!(api.put(&format!("/api/permissions/{vhost}/{name}"), everything()).status, 201);
}

#[test]
fn a_permission_that_is_taken_away_is_gone_for_who_is_connected() {
    let broker = start();
    let api = Api::of(&broker);
    add_user(&api, "u", "%2F");
    let mut peer = Peer::open_as(&broker, "u", "/");
    peer.declare(1, Declare::durable("q"));
    peer.publish(1, "q", PLAIN, b"allowed");
    // It has come when this is answered.
    assert_eq!(peer.declare(1, Declare::durable("q")), (1, 0));
    let nothing = json!({"configure": "", "write": "", "read": ".*"});
    assert_eq!(api.put("/api/permissions/%2F/u", nothing).status, 204);
    peer.publish(1, "q", PLAIN, b"refused");
    let text = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'u'";
    peer.expect_channel_close(1, 403, text);
    // And granted again.
    assert_eq!(api.put("/api/permissions/%2F/u", everything()).status, 204);
    peer.open_channel(2);
    assert_eq!(peer.declare(2, Declare::durable("q")), (1, 0));
}

#[test]
fn a_deleted_user_is_shown_out_and_a_deleted_virtual_host_as_well() {
    let broker = start();
    let api = Api::of(&broker);
    assert_eq!(api.put("/api/vhosts/v", json!({})).status, 201);
    add_user(&api, "u", "v");
    let mut guest = Peer::open_as(&broker, "guest", "v");
    guest.declare(1, Declare::durable("q"));
    let mut peer = Peer::open_as(&broker, "u", "v");
    assert_eq!(api.delete("/api/users/u").status, 204);
    peer.expect_connection_close(320, "CONNECTION_FORCED - user 'u' is deleted");
    assert_eq!(api.get("/api/vhosts/v/permissions").json()[0]["user"], "guest", "who made it may do everything in it");
    assert_eq!(api.get("/api/vhosts/v/permissions").json().as_array().unwrap().len(), 1);
    let metadata = json!({"protected_from_deletion": true, "description": "kept"});
    assert_eq!(api.put("/api/vhosts/v", metadata).status, 204);
    let refused = json!({
        "error": "precondition_failed",
        "reason": "Refusing to delete virtual host 'v' because it is protected from deletion"
    });
    assert_eq!(api.delete("/api/vhosts/v").said(), (412, refused));
    assert_eq!(api.delete("/api/vhosts/v/deletion/protection").status, 204);
    assert_eq!(api.delete("/api/vhosts/v").status, 204);
    guest.expect_connection_close(320, "CONNECTION_FORCED - vhost 'v' is deleted");
    assert_eq!(api.get("/api/queues/v").status, 404);
}

#[test]
fn a_connection_is_listed_and_ended_with_a_reason() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    let find = || api.get("/api/connections").json()[0]["name"].as_str().map(str::to_owned);
    let path = |name: String| format!("/api/connections/{}", name.replace(' ', "%20").replace('>', "%3E"));
    let name = eventually("the connection's name", find);
    let shown = api.get(&path(name.clone())).json();
    assert_eq!(
        (&shown["user"], &shown["vhost"], &shown["protocol"]),
        (&json!("guest"), &json!("/"), &json!("AMQP 0-9-1"))
    );
    let reason = "enough \u{e9}";
    assert_eq!(api.call("DELETE", &path(name), &[("X-Reason", reason)], b"").status, 204);
    peer.expect_connection_close(320, "CONNECTION_FORCED - enough \u{e9}");
    // No reason can be a header's end, and a long one is cut.
    let mut peer = Peer::open(&broker);
    let name = eventually("the connection's name", find);
    assert_eq!(api.call("DELETE", &path(name.clone()), &[("X-Reason", &"%s~p".repeat(100_000))], b"").status, 431);
    assert_eq!(api.call("DELETE", &path(name), &[("X-Reason", &"%s~p".repeat(1000))], b"").status, 204);
    let text: String = "CONNECTION_FORCED - ".chars().chain("%s~p".repeat(1000).chars()).take(252).collect();
    peer.expect_connection_close(320, &format!("{text}..."));
}

#[test]
fn a_policy_counts_at_once_and_is_shown_at_its_queue() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    for body in [b"1", b"2", b"3"] {
        peer.publish(1, "q", PLAIN, body);
    }
    assert_eq!(peer.declare(1, Declare::durable("q")), (3, 0));
    let policy = |limit: u64| json!({"pattern": "^q$", "definition": {"max-length": limit}, "apply-to": "queues"});
    assert_eq!(api.put("/api/policies/%2F/p", policy(2)).status, 201);
    assert_eq!(api.put("/api/operator-policies/%2F/o", policy(1)).status, 201);
    assert_eq!(peer.declare(1, Declare::durable("q")), (1, 0));
    let shown = api.get("/api/queues/%2F/q").json();
    assert_eq!((&shown["policy"], &shown["operator_policy"]), (&json!("p"), &json!("o")));
    assert_eq!((&shown["effective_policy_definition"], &shown["messages"]), (&json!({"max-length": 1}), &json!(1)));
    assert_eq!(api.delete("/api/operator-policies/%2F/o").status, 204);
    assert_eq!(api.delete("/api/policies/%2F/p").status, 204);
    let shown = api.get("/api/queues/%2F/q").json();
    assert_eq!((&shown["policy"], &shown["effective_policy_definition"]), (&Json::Null, &json!({})));
}

#[test]
fn what_is_wrong_with_a_document_is_said_as_rabbitmq_says_it() {
    let broker = start();
    let api = Api::of(&broker);
    let bad = |reason: Json| (400, json!({"error": "bad_request", "reason": reason}));
    let user = |body: Json| api.put("/api/users/u", body).said();
    assert_eq!(user(json!({})), bad(json!("tags_not_present")));
    assert_eq!(user(json!({"tags": "x", "password_hash": "?"})), bad(json!(["not_base64", "?"])));
    let both = json!({"tags": "x", "password_hash": "", "password": "x"});
    assert_eq!(user(both), bad(json!("both_password_and_password_hash_are_provided")));
    let many: Vec<_> = (0..33).map(|number| number.to_string()).collect();
    assert_eq!(user(json!({"tags": many})), bad(json!("A user can have at most 32 tags (received 33)")));
    assert_eq!(user(json!({"tags": 5})).0, 400);
    assert_eq!(user(json!({"tags": "", "password": 5})).0, 400);
    assert_eq!(user(json!({"tags": "a, b,,", "password": "x"})).0, 201);
    assert_eq!(api.get("/api/users/u").json()["tags"], json!(["a", "b"]));
    let rights = |body: Json| api.put("/api/permissions/%2F/u", body).said();
    assert_eq!(rights(json!({"read": ""})), bad(json!("[{key_missing,configure},{key_missing,write}]")));
    let letters: Vec<u8> = b"missing closing parenthesis".to_vec();
    let reason = json!(["invalid_regexp", [40], [letters, 1]]);
    assert_eq!(rights(json!({"configure": "(", "write": "", "read": ""})), bad(reason));
    assert_eq!(rights(json!({"configure": 5, "write": "", "read": ""})).0, 400);
    let topic = |body: Json| api.put("/api/topic-permissions/%2F/u", body).said();
    let reason = json!(["no_such_exchange", "none"]);
    assert_eq!(topic(json!({"exchange": "none", "write": "", "read": ""})), bad(reason));
    let reason = json!(["invalid_regexp", "(", [letters, 1]]);
    assert_eq!(topic(json!({"exchange": "amq.topic", "write": "(", "read": ""})), bad(reason));
    assert_eq!(topic(json!({"exchange": "amq.topic", "write": "^{username}$", "read": ""})).0, 201);
    let vhost = |body: Json| api.put("/api/vhosts/v", body).said();
    assert_eq!(vhost(json!({"default_queue_type": "x"})), bad(json!("x is not a valid queue type")));
    assert_eq!(vhost(json!({"tracing": "x"})), bad(json!(["not_boolean", "x"])));
    let limit = |path: &str, value: Json| api.put(&format!("/api/{path}"), json!({"value": value})).said();
    let reason = "Validation failed\n\nUnrecognised terms [{<<\"x\">>,1}] in limits\n";
    assert_eq!(limit("vhost-limits/%2F/x", json!(1)), bad(json!(reason)));
    let reason = "max-channels should be a number, actually was <<\"x\">>";
    assert_eq!(limit("user-limits/u/max-channels", json!("x")), bad(json!(reason)));
    assert_eq!(limit("user-limits/nobody/max-channels", json!(1)), bad(json!(["no_such_user", "nobody"])));
    let reason = "Validation failed\n\ncomponent bogus not found\n";
    assert_eq!(limit("parameters/bogus/%2F/x", json!(1)), bad(json!(reason)));
    assert_eq!(limit("parameters/policy/%2F/x", json!(1)), bad(json!("policies may not be set using this method")));
}

#[test]
fn who_is_protected_is_changed_by_nobody() {
    let broker = start();
    let api = Api::of(&broker);
    assert_eq!(api.put("/api/users/u", json!({"password": "x", "tags": "protected"})).status, 201);
    assert_eq!(api.put("/api/users/v", json!({"password": "x", "tags": ""})).status, 201);
    let refused = json!({"error": "bad_request", "reason": "Protected users cannot be modified via the HTTP API"});
    assert_eq!(api.put("/api/users/u", json!({"password": "y", "tags": ""})).said(), (400, refused.clone()));
    assert_eq!(api.delete("/api/users/u").said(), (400, refused));
    assert_eq!(api.post("/api/users/bulk-delete", json!({"users": ["u", "v", "nobody"]})).status, 204);
    assert_eq!((api.get("/api/users/u").status, api.get("/api/users/v").status), (200, 404));
}

#[test]
fn everything_that_was_set_outlives_the_broker() {
    let mut broker = start();
    let api = Api::of(&broker);
    let shovel = json!({"src-uri": "amqp://", "src-queue": "a", "dest-uri": "amqp://", "dest-queue": "b"});
    let policy = json!({"pattern": "^q", "definition": {"max-length": 1}, "priority": 3, "apply-to": "queues"});
    let vhost = json!({"description": "d", "tags": ["x", "y"], "default_queue_type": "quorum"});
    let user = json!({"password": "x", "tags": "monitoring", "limits": {"max-channels": 7}});
    let topic = json!({"exchange": "amq.topic", "write": "^a", "read": "^b"});
    for (path, body) in [
        ("vhosts/v", vhost),
        ("users/u", user),
        ("permissions/v/u", everything()),
        ("topic-permissions/v/u", topic),
        ("policies/v/p", policy.clone()),
        ("operator-policies/v/o", policy),
        ("parameters/shovel/v/s", json!({"value": shovel})),
        ("global-parameters/g", json!({"value": {"a": [1, null]}})),
    ] {
        assert_eq!(api.put(&format!("/api/{path}"), body).status, 201, "{path}");
    }
    assert_eq!(api.put("/api/vhost-limits/v/max-queues", json!({"value": 9})).status, 204);
    assert_eq!(api.put("/api/global-parameters/cluster_name", json!({"value": "herd"})).status, 201);
    let everything_said = |api: &Api<'_>| {
        // What is counted begins anew, and ports are others.
        let paths = [
            "definitions",
            "vhosts?columns=name,description,tags,default_queue_type,metadata",
            "user-limits",
            "vhost-limits",
            "parameters",
            "global-parameters",
            "overview?columns=cluster_name",
        ];
        paths.map(|path| api.get(&format!("/api/{path}")).json())
    };
    let before = everything_said(&api);
    assert_eq!(before[6]["cluster_name"], "herd");
    broker.kill();
    broker.restart();
    let api = Api::of(&broker);
    assert_eq!(everything_said(&api), before);
    for path in ["parameters/shovel/v/s", "global-parameters/g", "topic-permissions/v/u", "permissions/v/u", "users/u"]
    {
        assert_eq!(api.delete(&format!("/api/{path}")).status, 204, "{path}");
    }
    assert_eq!(api.delete("/api/vhosts/v").status, 204);
    broker.kill();
    broker.restart();
    let api = Api::of(&broker);
    let parameters = api.get("/api/parameters").json();
    assert_eq!((parameters, api.get("/api/users").json().as_array().unwrap().len()), (json!([]), 1));
}

#[test]
fn who_may_not_enter_a_virtual_host_sees_nothing_of_it() {
    let broker = start();
    let api = Api::of(&broker);
    for vhost in ["mine", "theirs"] {
        assert_eq!(api.put(&format!("/api/vhosts/{vhost}"), json!({})).status, 201);
        let mut peer = Peer::open_as(&broker, "guest", vhost);
        peer.declare(1, Declare::durable(&format!("queue-of-{vhost}")));
        peer.declare_exchange(1, &format!("exchange-of-{vhost}"), "topic", true);
        let policy = json!({"pattern": "^none$", "definition": {"max-length": 1}});
        assert_eq!(api.put(&format!("/api/policies/{vhost}/policy-of-{vhost}"), policy.clone()).status, 201);
        assert_eq!(api.put(&format!("/api/operator-policies/{vhost}/policy-of-{vhost}"), policy).status, 201);
        assert_eq!(api.put(&format!("/api/vhost-limits/{vhost}/max-queues"), json!({"value": 5})).status, 204);
    }
    assert_eq!(api.put("/api/users/u", json!({"password": "u", "tags": "policymaker"})).status, 201);
    assert_eq!(api.put("/api/permissions/mine/u", everything()).status, 201);
    let tenant = api.by("u", "u");
    for path in
        ["vhosts", "queues", "exchanges", "bindings", "policies", "operator-policies", "vhost-limits", "parameters"]
    {
        let said = tenant.get(&format!("/api/{path}"));
        let text = String::from_utf8(said.body).unwrap();
        assert!(said.status == 200 && text.contains("mine") && !text.contains("theirs"), "{path}: {text}");
    }
    let totals = tenant.get("/api/overview").json()["object_totals"]["queues"].clone();
    assert_eq!(totals, json!(1));
    let elsewhere = tenant.call("GET", "/api/queues", &[("X-Vhost", "theirs")], b"");
    assert_eq!(elsewhere.said(), (200, json!([])));
}

#[test]
fn lists_come_sorted_and_in_pages() {
    let broker = start();
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    for number in 0..5 {
        peer.declare(1, Declare::durable(&format!("q{number}")));
    }
    let names = |query: &str| {
        let said = api.get(&format!("/api/queues?columns=name&{query}")).json();
        let items = said.get("items").unwrap_or(&said).as_array().unwrap().clone();
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names(""), "q0 q1 q2 q3 q4");
    assert_eq!(names("sort=name&sort_reverse=true"), "q4 q3 q2 q1 q0");
    assert_eq!(names("page=2&page_size=2"), "q2 q3");
    assert_eq!(names("page=1&name=Q3"), "q3");
    assert_eq!(names("page=1&name=^q[12]$&use_regex=true"), "q1 q2");
    assert_eq!(names("page=1&name=(&use_regex=true"), "");
    assert_eq!(names("page=1&name=(a%2B)%2B$&use_regex=true"), "");
    let page = api.get("/api/queues?page=2&page_size=2&name=q").json();
    let counts =
        ["total_count", "item_count", "filtered_count", "page", "page_size", "page_count"].map(|key| &page[key]);
    assert_eq!(counts.map(|count| count.as_u64().unwrap()), [5, 2, 5, 2, 2, 3]);
    for garbage in ["page=x", "page=0", "page=-1", "page=1&page_size=501", "page=1&page_size=0", "page=99", "page=1.5"]
    {
        assert_eq!(api.get(&format!("/api/queues?{garbage}")).status, 400, "{garbage}");
    }
    let long = format!("page=1&use_regex=true&name={}", "a".repeat(1025));
    assert_eq!(api.get(&format!("/api/queues?{long}")).status, 400);
}
