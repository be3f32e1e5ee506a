//! The management API.

use super::super::support::http::{Api, Reply, read_reply};
use super::super::support::peer::{PLAIN, declare_queue};
use super::super::support::{Broker, Declare, Peer, eventually};
use super::{MIB, assert_alive, broker_with, grows_at_most, permission};
use amq_protocol::protocol::{AMQPClass, basic, queue};
use amq_protocol::types::FieldTable;
use leveret::amqp::method;
use serde_json::{Value as Json, json};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// A broker whose `guest` is an administrator, with a user for each other tag that is called so, has all rights in the
/// virtual host `one` and none in `two`, and with a shovel's parameter in `one`.
fn broker_of_roles(flags: &[&str]) -> Broker {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("definitions.json");
    let tags = ["management", "policymaker", "monitoring"];
    let mut users = vec![json!({"name": "guest", "password": "guest", "tags": "administrator"})];
    users.push(json!({"name": "plain", "password": "plain", "tags": ""}));
    users.extend(tags.map(|tag| json!({"name": tag, "password": tag, "tags": tag})));
    let right =
        |user: &str, vhost: &str| json!({"user": user, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"});
    let mut rights: Vec<Json> = ["/", "one", "two"].iter().map(|vhost| right("guest", vhost)).collect();
    rights.extend(["plain", "management", "policymaker", "monitoring"].map(|user| right(user, "one")));
    let shovel = json!({"vhost": "one", "component": "shovel", "name": "s", "value": {
        "src-uri": "amqp://u:hunter2-QxV7@localhost", "src-queue": "a", "dest-uri": "amqp://", "dest-queue": "b"
    }});
    let both = |make: fn(&str) -> Json| ["one", "two"].map(make);
    let document = json!({
        "users": users, "vhosts": [{"name": "/"}, {"name": "one"}, {"name": "two"}], "permissions": rights,
        "parameters": [shovel],
        "queues": (both(|vhost| json!({"vhost": vhost, "name": format!("queue-of-{vhost}")}))),
        "exchanges": (both(|vhost| json!({"vhost": vhost, "name": format!("exchange-of-{vhost}"), "type": "topic"}))),
        "bindings": (both(|vhost| json!({
            "vhost": vhost, "source": format!("exchange-of-{vhost}"), "destination": format!("queue-of-{vhost}"),
            "destination_type": "queue", "routing_key": format!("key-of-{vhost}"),
        }))),
        "policies": (both(|vhost| json!({
            "vhost": vhost, "name": format!("policy-of-{vhost}"), "pattern": "^x$", "definition": {"max-length": 5}
        }))),
    });
    std::fs::write(&file, document.to_string()).unwrap();
    Broker::with(&[&["--http-port", "0", "--definitions", file.to_str().unwrap()], flags].concat())
}

fn with_http(flags: &[&str]) -> Broker {
    Broker::with(&[&["--http-port", "0"], flags].concat())
}

// ── What a request may cost ─────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn cve_2026_66074_a_filter_takes_no_time_whatever_its_pattern() {
    let mut broker = with_http(&[]);
    let mut peer = Peer::open(&broker);
    for number in 0..100 {
        peer.declare(1, Declare::transient(&format!("{}!{number}", "a".repeat(200))));
    }
    let api = Api::of(&broker);
    let began = Instant::now();
    for pattern in ["(a%2B)%2B$", "(a|a)*$", "(a|aa)%2B$", "(.*a){20}$", "(a{1000}){1000}", "(?i)((a*)*)*b$"] {
        let reply = api.get(&format!("/api/queues?page=1&use_regex=true&name={pattern}"));
        assert!([200, 400].contains(&reply.status), "{pattern}: {reply:?}");
    }
    let long = api.get(&format!("/api/queues?page=1&use_regex=true&name={}", "a".repeat(5000)));
    assert_eq!(long.status, 400);
    // An engine that backtracks would be at it for longer than the universe is old.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_alive(&mut broker);
}

/// Sends the head of a request, and then pieces of a body until the broker answers or there are no more; says how many it
/// took.
fn send(api: &Api<'_>, head: &str, pieces: usize, piece: &[u8]) -> (usize, Option<Reply>) {
    let mut socket = api.connect();
    socket.write_all(head.as_bytes()).unwrap();
    let sent = (0..pieces).take_while(|_| socket.write_all(piece).is_ok()).count();
    (sent, read_reply(&mut socket))
}

#[test]
fn cve_2026_57212_no_body_is_larger_than_the_setting_says_however_it_is_sent() {
    let mut broker = with_http(&["--http-max-body-size", "4096"]);
    let api = Api::of(&broker);
    let paths =
        ["/api/users/u", "/api/users/bulk-delete", "/api/vhosts/v", "/api/policies/%2F/p", "/api/global-parameters/p"];
    for path in paths {
        let method = if path.ends_with("bulk-delete") { "POST" } else { "PUT" };
        for kind in ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            let head = format!("{}Connection: close\r\nContent-Type: {kind}\r\n", api.head(method, path));
            let whole = format!("{head}Content-Length: 4097\r\n\r\n");
            let (_, reply) = send(&api, &whole, 1, &[b' '; 4097]);
            assert_eq!(reply.map(|reply| reply.status), Some(400), "{method} {path} {kind}");
            // In chunks, of which none says how many there will be.
            let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
            let chunk = [&b"400\r\n"[..], &[b' '; 1024], b"\r\n"].concat();
            let (_, reply) = send(&api, &chunked, 9, &chunk);
            assert_eq!(reply.map(|reply| reply.status), Some(400), "{method} {path} {kind} in chunks");
        }
    }
    assert_eq!(api.get("/api/users").json().as_array().unwrap().len(), 1);
    assert_alive(&mut broker);
}

#[test]
fn cve_2023_46118_a_large_body_is_refused_before_memory_is_taken_for_it() {
    let mut broker = with_http(&[]);
    let api = Api::of(&broker);
    assert_eq!(api.get("/api/whoami").status, 200);
    let piece = vec![b' '; 1 << 20];
    grows_at_most(&broker, 32 * MIB, || {
        for framing in ["Content-Length: 10000000000\r\n\r\n", "Content-Length: 1073741824\r\n\r\n"] {
            let head = format!("{}{framing}", api.head("PUT", "/api/users/u"));
            let (_, reply) = send(&api, &head, 1, b" ");
            assert_eq!(reply.map(|reply| reply.status), Some(400));
        }
        let head = format!("{}Transfer-Encoding: chunked\r\n\r\n", api.head("PUT", "/api/users/u"));
        let chunk = [&b"100000\r\n"[..], &piece, b"\r\n"].concat();
        let (sent, _) = send(&api, &head, 200, &chunk);
        assert!(sent < 200, "200 MiB were taken");
    });
    assert_alive(&mut broker);
}

/// Deflate's and gzip's best: zeros, a thousand to an octet. (A stored block of gzip would do; the head says enough.)
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03";

#[test]
fn cve_2026_67232_what_is_compressed_is_not_unpacked() {
    let mut broker = with_http(&[]);
    let api = Api::of(&broker);
    for encoding in ["gzip", "deflate", "br", "zstd", "x-gzip", "identity, gzip"] {
        let reply = api.call("PUT", "/api/users/u", &[("Content-Encoding", encoding)], GZIP);
        assert_eq!(reply.status, 415, "{encoding}");
    }
    // Nor is a message, whatever it says of itself: it comes out as it went in.
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    let mut properties = vec![0x40, 0x00];
    leveret::amqp::method::short_string(&mut properties, "gzip");
    peer.publish(1, "q", &properties, GZIP);
    let message = peer.get(1, "q", true).unwrap();
    assert_eq!((message.properties, message.body), (properties, GZIP.to_vec()));
    assert_alive(&mut broker);
}

#[test]
fn ghsa_cfqc_c682_93mm_nothing_is_unpacked_for_those_who_have_not_logged_in() {
    let mut broker = with_http(&[]);
    let api = Api::of(&broker);
    assert_eq!(api.get("/api/whoami").status, 200);
    let piece = vec![0; 1 << 20];
    grows_at_most(&broker, 32 * MIB, || {
        for name in ["", "guest", "nobody"] {
            let api = if name.is_empty() { api.by_nobody() } else { api.by(name, "wrong") };
            let framing = "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n";
            let head = format!("{}{framing}", api.head("PUT", "/api/users/u"));
            let chunk = [&b"100000\r\n"[..], &piece, b"\r\n"].concat();
            let (sent, reply) = send(&api, &head, 100, &chunk);
            assert!(sent < 100, "100 MiB were taken");
            assert!(reply.is_none_or(|reply| reply.status == 401));
        }
    });
    assert_alive(&mut broker);
}

// ── Who may do what ─────────────────────────────────────────────────────────────────────────────────────────────────────

/// All that the API has to change things with, with the names of things that are there.
fn changes() -> Vec<(String, String)> {
    let names = [
        ("{vhost}", "one"),
        ("{queue}", "queue-of-one"),
        ("{exchange}", "exchange-of-one"),
        ("{user}", "plain"),
        ("{component}", "shovel"),
        ("{node}", "x"),
    ];
    let mut changes = Vec::new();
    let rest = regex::Regex::new(r"\{[^}]*\}").unwrap();
    for (path, methods) in leveret::http::table() {
        let mut filled = names.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
        let name = if path.contains("polic") { "policy-of-one" } else { "s" };
        filled = filled.replace("{name}", name);
        let filled = format!("/api{}", rest.replace_all(&filled, "x"));
        let changing = methods.iter().filter(|method| !["GET", "HEAD", "OPTIONS"].contains(&method.as_str()));
        changes.extend(changing.map(|method| (method.clone(), filled.clone())));
    }
    assert!(changes.len() > 20, "{changes:?}");
    changes
}

/// What there is, as an administrator sees it.
fn everything(api: Api<'_>) -> Json {
    api.get("/api/definitions").json()
}

/// Asks for every change by a method as the user that monitors, and has no other rights: nothing is changed.
fn check_monitor_cannot(is_meant: impl Fn(&str) -> bool) {
    let mut broker = broker_of_roles(&[]);
    let api = Api::of(&broker);
    let nothing = json!({"configure": "", "write": "", "read": ""});
    assert!([201, 204].contains(&api.put("/api/permissions/one/monitoring", nothing).status));
    let before = everything(api);
    let mut asked = 0;
    for (method, path) in changes() {
        // It tells where a message would go, and sends none.
        let only_tells = path.contains("/route/");
        if is_meant(&method) && !only_tells {
            asked += 1;
            let reply = api.by("monitoring", "monitoring").call(&method, &path, &[], b"{}");
            // Without the fields that it needs, a request is bad before anything else.
            let refused = if path.ends_with("/get") || path.ends_with("/publish") { 400 } else { 401 };
            assert!([refused, 401, 403, 404, 405].contains(&reply.status), "{method} {path}: {reply:?}");
        }
    }
    assert!(asked > 5, "{asked}");
    assert_eq!(everything(api), before);
    Peer::open(&broker).close();
    assert!(broker.is_running());
}

#[test]
fn cve_2026_66069_who_monitors_deletes_nothing() {
    check_monitor_cannot(|method| method == "DELETE");
}

#[test]
fn cve_2026_66075_who_monitors_starts_and_changes_nothing() {
    check_monitor_cannot(|method| method != "DELETE");
}

#[test]
fn cve_2026_67233_who_monitors_deletes_no_shovels_parameter() {
    let broker = broker_of_roles(&[]);
    let api = Api::of(&broker);
    let path = "/api/parameters/shovel/one/s";
    for name in ["plain", "management", "monitoring"] {
        assert_eq!(api.by(name, name).delete(path).status, 401, "{name}");
    }
    assert_eq!(api.get(path).status, 200);
    assert_eq!(api.by("policymaker", "policymaker").delete(path).status, 204);
    assert_eq!(api.get(path).status, 404);
}

#[test]
fn ghsa_6gmw_wxch_cvvc_who_monitors_reads_no_parameter_and_so_no_uri_with_a_password() {
    let broker = broker_of_roles(&[]);
    let api = Api::of(&broker);
    let secret = "hunter2-QxV7";
    assert!(api.get("/api/parameters").json().to_string().contains(secret), "nothing to find");
    for name in ["plain", "management", "monitoring"] {
        for (path, methods) in leveret::http::table() {
            if !methods.iter().any(|method| method == "GET") {
                continue;
            }
            let path = path.replace("{vhost}", "one").replace("{component}", "shovel").replace("{name}", "s");
            let path = path.replace("{user}", name).replace("{queue}", "queue-of-one").replace(['{', '}'], "");
            let reply = api.by(name, name).get(&format!("/api{path}"));
            assert!(!String::from_utf8(reply.body).unwrap().contains(secret), "{path} by {name}");
        }
    }
    assert_eq!(api.by("monitoring", "monitoring").get("/api/parameters/shovel").status, 401);
}

#[test]
fn cve_2026_67221_nothing_that_is_shown_of_the_broker_holds_a_parameters_uri() {
    let broker = broker_of_roles(&[]);
    let api = Api::of(&broker);
    // Also for administrators: what is meant to be looked at is not where passwords stand.
    for path in ["/overview", "/nodes", "/connections", "/queues", "/exchanges", "/policies", "/vhosts", "/users"] {
        let reply = api.get(&format!("/api{path}"));
        assert_eq!(reply.status, 200, "{path}");
        let text = String::from_utf8(reply.body).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("amqp://"), "{path}: {text}");
    }
    assert!(broker.log().iter().all(|line| !line.contains("hunter2")));
}

#[test]
fn cve_2026_66076_nobody_sees_another_virtual_hosts_things() {
    let broker = broker_of_roles(&[]);
    let api = Api::of(&broker);
    for name in ["management", "policymaker"] {
        for (path, methods) in leveret::http::table() {
            if !methods.iter().any(|method| method == "GET") {
                continue;
            }
            // Lists of everything, and everything of the other virtual host by its name.
            let path = path.replace("{vhost}", "two").replace("{queue}", "queue-of-two").replace("{user}", name);
            let path = path.replace("{exchange}", "exchange-of-two").replace("{component}", "shovel");
            let path = path.replace("{name}", "policy-of-two").replace(['{', '}'], "");
            let reply = api.by(name, name).get(&format!("/api{path}"));
            let text = String::from_utf8(reply.body).unwrap();
            assert!(!text.contains("-of-two") && !text.contains("\"two\""), "{path} by {name}: {text}");
        }
        // Their own are there.
        let queues = api.by(name, name).get("/api/queues").json();
        assert_eq!(queues[0]["name"], "queue-of-one");
    }
    // Over AMQP names of other virtual hosts can't be said at all, and it can't be entered.
    let text = "NOT_ALLOWED - access to vhost 'two' refused for user 'management'";
    Peer::knock(&broker, "management", "two").expect_connection_close(530, text);
    let mut peer = Peer::open_as(&broker, "management", "one");
    peer.method(1, declare_queue(Declare::passive("queue-of-two"), FieldTable::default()));
    peer.expect_channel_close(1, 404, "NOT_FOUND - no queue 'queue-of-two' in vhost 'one'");
}

#[test]
fn cve_2026_61837_bindings_are_listed_only_for_who_may_manage() {
    let broker = broker_of_roles(&[]);
    let api = Api::of(&broker);
    let paths = [
        "/bindings",
        "/bindings/one",
        "/bindings/one/e/exchange-of-one/q/queue-of-one",
        "/queues/one/queue-of-one/bindings",
        "/exchanges/one/exchange-of-one/bindings/source",
    ];
    for path in paths {
        let path = format!("/api{path}");
        // The right to use queues over AMQP is none to look around.
        assert_eq!(api.by("plain", "plain").get(&path).status, 401, "{path}");
        let listed = api.by("management", "management").get(&path);
        assert_eq!(listed.status, 200, "{path}");
        assert!(listed.json().to_string().contains("key-of-one"), "{path}");
    }
}

#[test]
fn cve_2024_51988_a_queue_is_deleted_only_by_who_may_configure_it() {
    let permissions = [permission("reader", "/", "^own", ".*", ".*")];
    let mut broker = broker_with(&["reader"], &[], &permissions, "", &["--http-port", "0"]);
    let mut owner = Peer::open(&broker);
    owner.declare(1, Declare::durable("q"));
    owner.publish(1, "q", PLAIN, b"m");
    let mut reader = Peer::open_as(&broker, "reader", "/");
    let delete = AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
        queue: "q".into(),
        if_unused: false,
        if_empty: false,
        nowait: false,
    }));
    reader.method(1, delete);
    let text = "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'reader'";
    reader.expect_channel_close(1, 403, text);
    // Over HTTP there is no way to do it, with or without the right, and none to its contents.
    let api = Api::of(&broker);
    for (method, path) in [("DELETE", "/api/queues/%2F/q"), ("DELETE", "/api/queues/%2F/q/contents")] {
        let reply = api.by("reader", "reader").call(method, path, &[], b"");
        assert!([401, 404, 405].contains(&reply.status), "{method} {path}: {}", reply.status);
    }
    assert_eq!(owner.declare(1, Declare::passive("q")).0, 1);
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_66078_protected_users_are_deleted_by_no_request() {
    let broker = with_http(&[]);
    let api = Api::of(&broker);
    let user = |tags: &str| json!({"password": "x", "tags": tags});
    assert_eq!(api.put("/api/users/kept", user("protected")).status, 201);
    assert_eq!(api.put("/api/users/other", user("")).status, 201);
    let names = || -> Vec<String> {
        let users = api.get("/api/users").json();
        users.as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(api.delete("/api/users/kept").status, 400);
    // Nor is one made an unprotected one first.
    assert_eq!(api.put("/api/users/kept", user("")).status, 400);
    assert_eq!(api.post("/api/users/bulk-delete", json!({"users": ["other", "kept", "kept"]})).status, 204);
    assert_eq!(names(), ["guest", "kept"]);
}

#[test]
fn cve_2026_57218_who_may_no_more_read_gets_no_more_messages() {
    let broker = broker_of_roles(&[]);
    let api = Api::of(&broker);
    let mut owner = Peer::open_as(&broker, "guest", "one");
    let mut reading = Peer::open_as(&broker, "plain", "one");
    reading.consume(1, "queue-of-one", "c", false);
    owner.publish(1, "queue-of-one", PLAIN, b"before");
    assert_eq!(reading.expect_delivery().body, b"before");
    let path = "/api/permissions/one/plain";
    assert_eq!(api.put(path, json!({"configure": ".*", "write": ".*", "read": "^$"})).status, 204);
    eventually("the consumer is none any more", || {
        (owner.declare(1, Declare::passive("queue-of-one")).1 == 0).then_some(())
    });
    owner.publish(1, "queue-of-one", PLAIN, b"after");
    assert_eq!(owner.declare(1, Declare::passive("queue-of-one")), (1, 0));
    // Nothing came in between: what follows is the answer to this.
    reading.octets(&get("queue-of-one"));
    let text = "ACCESS_REFUSED - read access to queue 'queue-of-one' in vhost 'one' refused for user 'plain'";
    reading.expect_channel_close(1, 403, text);
}

/// basic.get on channel 1.
fn get(queue: &str) -> Vec<u8> {
    let get = basic::AMQPMethod::Get(basic::Get { queue: queue.into(), no_ack: true });
    let mut out = Vec::new();
    method::write(&mut out, 1, &AMQPClass::Basic(get));
    out
}

// ── Browsers ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn cve_2026_66070_no_foreign_origin_is_repeated_with_credentials() {
    const ORIGINS: [&str; 5] =
        ["https://evil.example", "null", "https://good.example.evil.example", "http://good.example", "*"];
    let get = |flags: &[&str], origin: &str| {
        let broker = with_http(flags);
        Api::of(&broker).call("OPTIONS", "/api/whoami", &[("Origin", origin)], b"")
    };
    for origin in ORIGINS {
        // Nobody is allowed unless the settings say so; one that is named does not open the door to others.
        for flags in [&[][..], &["--http-cors-allow-origins", "https://good.example"]] {
            let reply = get(flags, origin);
            assert_eq!(reply.header("access-control-allow-origin"), None, "{origin} {flags:?}");
            assert_eq!(reply.header("access-control-allow-credentials"), None, "{origin} {flags:?}");
        }
        // Everybody is allowed, but without what the browser knows of the user.
        let reply = get(&["--http-cors-allow-origins", "*"], origin);
        let allowed = reply.header("access-control-allow-origin");
        assert!(allowed.is_none_or(|allowed| allowed == "*"), "{origin} with *: {allowed:?}");
        assert_eq!(reply.header("access-control-allow-credentials"), None, "{origin} with *");
    }
    let named = get(&["--http-cors-allow-origins", "https://good.example"], "https://good.example");
    assert_eq!(named.header("access-control-allow-origin"), Some("https://good.example"));
}

#[test]
fn cve_2025_30219_an_error_is_no_page_whatever_names_are_in_it() {
    let broker = with_http(&[]);
    let api = Api::of(&broker);
    let html = "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E";
    let paths = [
        format!("/api/vhosts/{html}"),
        format!("/api/queues/{html}/{html}"),
        format!("/api/users/{html}"),
        format!("/api/parameters/{html}/%2F/{html}"),
        format!("/api/definitions/{html}"),
        format!("/api/queues?page=1&name={html}&use_regex=true"),
        format!("/api/queues?page={html}"),
        format!("/{html}"),
    ];
    for path in paths {
        for (method, body) in [("GET", ""), ("PUT", "{}"), ("DELETE", ""), ("PUT", "<img src=x onerror=alert(1)>")] {
            let reply = api.call(method, &path, &[("Accept", "text/html,*/*")], body.as_bytes());
            assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{method} {path}");
            assert!(reply.header("content-security-policy").unwrap().contains("default-src 'none'"), "{method} {path}");
            if !reply.body.is_empty() {
                assert_eq!(reply.header("content-type"), Some("application/json"), "{method} {path}");
                reply.json();
            }
        }
    }
}

// ── What is written down ────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn cve_2025_50200_no_request_puts_its_credentials_into_the_log() {
    let broker = with_http(&["--log-level", "trace"]);
    let api = Api::of(&broker);
    // Of "guest:guest" and of "nobody:hunter2-QxV7".
    let secrets = ["Z3Vlc3Q6Z3Vlc3Q", "bm9ib2R5Omh1bnRlcjItUXhWNw", "hunter2-QxV7", "eyJhbGciOiJub25lIn0"];
    for (method, path, body) in [
        ("GET", "/api/whoami", ""),
        ("GET", "/api/queues/nowhere/none", ""),
        ("PUT", "/api/users/u", "{"),
        ("PUT", "/api/users/u", r#"{"password": "hunter2-QxV7", "password_hash": "hunter2-QxV7", "tags": ""}"#),
        ("PUT", "/api/users/u", r#"{"password_hash": "hunter2-QxV7", "tags": ""}"#),
        ("PUT", "/api/users/u", r#"{"password": "hunter2-QxV7", "tags": 5}"#),
        ("PUT", "/api/users/u", r#"{"password": "hunter2-QxV7", "tags": ""}"#),
        ("BREW", "/api/whoami", ""),
        ("GET", "/api/%ff", ""),
    ] {
        api.call(method, path, &[], body.as_bytes());
        api.by("nobody", "hunter2-QxV7").call(method, path, &[], body.as_bytes());
        let token = [("Authorization", "Bearer eyJhbGciOiJub25lIn0.eyJ9.x")];
        api.by_nobody().call(method, path, &token, body.as_bytes());
    }
    // And one that breaks off.
    let mut socket = api.connect();
    socket.write_all(format!("{}Content-Length: 5\r\n\r\n{{", api.head("PUT", "/api/users/u")).as_bytes()).unwrap();
    drop(socket);
    assert_eq!(api.get("/api/users/u").status, 200);
    let log = broker.log();
    assert!(log.iter().any(|line| line.contains("nobody")), "{log:?}");
    for secret in secrets {
        assert!(log.iter().all(|line| !line.contains(secret)), "{secret}: {log:?}");
    }
}

/// The paths of all files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        }
        found.push(path.display().to_string());
    }
    found
}

#[test]
fn cve_2026_67224_no_name_becomes_a_path() {
    let folder = tempfile::TempDir::new().unwrap();
    let data = folder.path().join("below/data");
    let mut broker = Broker::with(&["--http-port", "0", "--data-dir", data.to_str().unwrap(), "--trace-vhosts", "/"]);
    let api = Api::of(&broker);
    let mut peer = Peer::open(&broker);
    for name in ["../evil", "../../evil", "/tmp/evil-of-leveret", "evil\0.sst", "evil/../../../evil", "evil.sst"] {
        let encoded: String = name.bytes().map(|octet| format!("%{octet:02X}")).collect();
        peer.declare(1, Declare::durable(name));
        peer.declare_exchange(1, name, "fanout", true);
        let policy = json!({"pattern": "evil", "definition": {"max-length": 5}});
        assert_eq!(api.put(&format!("/api/policies/%2F/{encoded}"), policy).status, 201, "{name:?}");
        assert_eq!(api.put(&format!("/api/vhosts/{encoded}"), json!({})).status, 201, "{name:?}");
        let user = json!({"password_hash": "", "tags": ""});
        assert_eq!(api.put(&format!("/api/users/{encoded}"), user).status, 201, "{name:?}");
        assert_eq!(api.put(&format!("/api/global-parameters/{encoded}"), json!({"value": 1})).status, 201, "{name:?}");
        // No file outside the API's own is given out by it either.
        for path in [format!("/{encoded}"), format!("/api/{encoded}"), "/api/../../etc/passwd".to_owned()] {
            assert_eq!(api.get(&path).status, 404, "{path}");
        }
    }
    assert!(broker.stop().success());
    let found = files(folder.path());
    assert!(found.iter().all(|path| !path.contains("evil")), "{found:?}");
    assert!(found.iter().all(|path| path.ends_with("/below") || path.contains("/below/data")), "{found:?}");
    assert!(!Path::new("/tmp/evil-of-leveret").exists());
    broker.restart();
    assert_eq!(Peer::open(&broker).declare(1, Declare::passive("../evil")), (0, 0));
}
