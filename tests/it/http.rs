//! The management API from outside: who may do what, odd requests, and what connections may cost.

use super::support::http::{Reply, read_reply};
use super::support::{Api, Broker};
use serde_json::{Value as Json, json};
use std::io::{Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

fn start(flags: &[&str]) -> Broker {
    let flags: Vec<_> = ["--http-port", "0"].iter().chain(flags).copied().collect();
    Broker::with(&flags)
}

fn error(error: &str, reason: &str) -> Json {
    json!({"error": error, "reason": reason})
}

#[test]
fn who_asks_has_to_say_who_they_are() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let me = json!({"name": "guest", "tags": ["administrator"], "is_internal_user": true});
    assert_eq!(api.get("/api/whoami").said(), (200, me));
    let challenge = Some("Basic realm=\"RabbitMQ Management\"");
    let nobody = api.by_nobody().get("/api/whoami");
    assert_eq!((nobody.said(), nobody.header("www-authenticate")), ((401, Json::Null), challenge));
    for wrong in [api.by("guest", "wrong"), api.by("nobody", "guest"), api.by("guest", "")] {
        let reply = wrong.get("/api/whoami");
        let expected = (401, error("not_authorized", "Not_Authorized"));
        assert_eq!((reply.said(), reply.header("www-authenticate")), (expected, challenge));
    }
    for malformed in ["Basic", "Basic !!!", "Basic Z3Vlc3Q=", "Digest x", "", "Basic \u{e9}"] {
        let reply = api.by_nobody().call("GET", "/api/whoami", &[("Authorization", malformed)], b"");
        assert_eq!(reply.status, 400, "{malformed}");
    }
    let token = api.by_nobody().call("GET", "/api/whoami", &[("Authorization", "Bearer x.y.z")], b"");
    assert_eq!(token.status, 401);
    assert!(!broker.log().iter().any(|line| line.contains("wrong")), "a password is in the log");
}

#[test]
fn who_may_only_come_from_this_machine_is_refused_from_elsewhere() {
    // The address that packets to the rest of the world would have; nothing is sent.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    if socket.connect("192.0.2.1:9").is_err() {
        println!("this machine has no other address: not tested");
        return;
    }
    let address: IpAddr = socket.local_addr().unwrap().ip();
    let broker = start(&["--http-port", "0.0.0.0:0"]);
    let api = Api::of(&broker);
    assert_eq!(api.get("/api/whoami").status, 200);
    let refused = api.at(address).get("/api/whoami");
    assert_eq!(refused.said(), (401, error("not_authorized", "Not_Authorized")));
    let forwarded = api.at(address).call("GET", "/api/whoami", &[("X-Forwarded-For", "127.0.0.1")], b"");
    assert_eq!(forwarded.status, 401);
    // So is the secret of the tools of this machine.
    let pass = std::fs::read_to_string(broker.folder().join("ctl.conf")).unwrap();
    let tool = api.by("rmq-cli", pass.split('"').nth(5).unwrap());
    assert_eq!(tool.get("/api/whoami").status, 200);
    assert_eq!(tool.at(address).get("/api/whoami").status, 401);
}

#[test]
fn methods_and_paths_are_answered_as_rabbitmq_does() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let not_found = error("Object Not Found", "Not Found");
    let cases = [
        ("GET", "/api/whoami/", 200),
        ("HEAD", "/api/whoami", 200),
        ("OPTIONS", "/api/whoami", 200),
        ("PUT", "/api/whoami", 405),
        ("PATCH", "/api/whoami", 405),
        ("BREW", "/api/whoami", 501),
        ("GET", "/api/bogus", 404),
        ("POST", "/api/bogus", 405),
        ("GET", "/api//whoami", 404),
        ("GET", "/api/whoami//", 404),
        ("GET", "/", 404),
        ("GET", "/api/policies/%2F/%00", 404),
        ("GET", "/api/policies/%2F/..", 404),
        ("GET", "/api/policies/../whoami", 404),
        ("GET", "/api/policies/%2e%2e/whoami", 404),
        ("GET", "/api/policies/%2F/%ff%fe", 404),
        ("GET", "/api/policies/%2F/%zz", 404),
        ("GET", "/api/policies/%2F/%0d%0aX-Injected:%20yes", 404),
    ];
    for (method, path, status) in cases {
        let reply = api.call(method, path, &[], b"");
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.header("x-injected"), None);
        if status == 404 {
            assert_eq!(reply.json(), not_found, "{method} {path}");
        }
    }
    assert_eq!(api.call("OPTIONS", "/api/whoami", &[], b"").header("allow"), Some("HEAD, GET, OPTIONS"));
    let reference = api.get("/api");
    assert_eq!((reference.status, reference.header("location")), (301, Some("/api/index.html")));
    let only_text = api.call("GET", "/api/whoami", &[("Accept", "text/html")], b"");
    assert_eq!(only_text.status, 406);
    let browser = api.call("GET", "/api/whoami", &[("Accept", "text/html,*/*;q=0.1")], b"");
    assert_eq!(browser.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn names_of_any_letters_are_found_again() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let long = "n".repeat(255);
    for name in ["a/b", "..", "a\nb", "ü+&? %", "\0", &long] {
        let encoded: String = name.bytes().map(|octet| format!("%{octet:02X}")).collect();
        let path = format!("/api/policies/%2F/{encoded}");
        let policy = json!({"pattern": "^none$", "definition": {"max-length": 1}});
        assert_eq!(api.put(&path, policy).status, 201, "{name:?}");
        assert_eq!(api.get(&path).json()["name"], name);
        assert_eq!(api.delete(&path).status, 204, "{name:?}");
    }
}

#[test]
fn a_body_is_json_of_a_bounded_size_and_depth() {
    let broker = start(&["--http-max-body-size", "4096"]);
    let api = Api::of(&broker);
    let path = "/api/policies/%2F/p";
    let good = json!({"pattern": "^none$", "definition": {"max-length": 1}}).to_string();
    let padded = |length: usize| format!("{good}{}", " ".repeat(length - good.len()));
    let put = |headers: &[(&str, &str)], body: &str| api.call("PUT", path, headers, body.as_bytes());
    assert_eq!(put(&[], &padded(4096)).status, 201);
    for length in [4097, 8000, 100_000] {
        let said = put(&[], &padded(length)).said();
        assert_eq!(said, (400, error("bad_request", "Exceeded HTTP request body size limit")), "{length}");
    }
    assert_eq!(chunked(&api, path, &padded(4096), 100).unwrap().status, 204);
    let said = chunked(&api, path, &padded(4097), 100).unwrap().said();
    assert_eq!(said, (400, error("bad_request", "Exceeded HTTP request body size limit")));
    assert_eq!(put(&[("Content-Type", "application/x-www-form-urlencoded")], &good).status, 204);
    for encoding in ["gzip", "br", "identity, gzip"] {
        assert_eq!(put(&[("Content-Encoding", encoding)], &good).status, 415, "{encoding}");
    }
    assert_eq!(put(&[("Content-Encoding", "identity")], &good).status, 204);
    for not in ["{", "[]", "5", &format!("{good}x")] {
        assert_eq!(put(&[], not).said(), (400, error("bad_request", "not_json")), "{not}");
    }
    let deep = format!("{{\"definition\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
    assert_eq!(put(&[], &deep).said(), (400, error("bad_request", "nested deeper than 64 levels")));
}

/// Sends a body whose length nobody was told, in pieces.
fn chunked(api: &Api<'_>, path: &str, body: &str, bytes: usize) -> Option<Reply> {
    let mut socket = api.connect();
    let head = api.head("PUT", path);
    let mut request = format!("{head}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in body.as_bytes().chunks(bytes) {
        request += &format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap());
    }
    request += "0\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    read_reply(&mut socket)
}

#[test]
fn a_head_of_a_request_is_bounded() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    assert_eq!(api.call("GET", "/api/whoami", &[("X-Large", &"x".repeat(20_000))], b"").status, 431);
    let many: Vec<_> = (0..200).map(|number| format!("X-{number}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "x")).collect();
    assert_eq!(api.call("GET", "/api/whoami", &many, b"").status, 431);
    let long = format!("/api/policies/%2F/{}", "n".repeat(20_000));
    assert!([414, 431].contains(&api.get(&long).status));
    // Two lengths, or a length and chunks, are what smugglers send.
    for smuggled in ["Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "GET /api HTTP/9.9\r\n\r\n"] {
        let mut socket = api.connect();
        socket.write_all(format!("{}{smuggled}", api.head("PUT", "/api/policies/%2F/p")).as_bytes()).unwrap();
        assert_eq!(read_reply(&mut socket).map(|reply| reply.status), Some(400), "{smuggled}");
    }
    assert_eq!(api.get("/api/whoami").status, 200);
}

/// How long a connection stays open on which nobody sends anything more.
fn stays(socket: &mut std::net::TcpStream) -> Duration {
    let started = Instant::now();
    let mut octets = Vec::new();
    let _ = socket.read_to_end(&mut octets);
    started.elapsed()
}

#[test]
fn slow_clients_do_not_keep_their_connections() {
    let broker = start(&["--http-request-timeout", "300", "--http-idle-timeout", "1500"]);
    let api = Api::of(&broker);
    let head = api.head("PUT", "/api/policies/%2F/p");
    // One says nothing, and one begins and does not go on.
    let (mut silent, mut slow) = (api.connect(), api.connect());
    slow.write_all(b"GET /api/whoami HTTP/1.1\r\nX-Slow: ").unwrap();
    assert!(stays(&mut silent) < Duration::from_secs(20) && stays(&mut slow) < Duration::from_secs(20));
    // One does not go on with its body: it is told.
    let mut short = api.connect();
    short.write_all(format!("{head}Content-Length: 100\r\n\r\n{{").as_bytes()).unwrap();
    assert_eq!(read_reply(&mut short).map(|reply| reply.status), Some(408));
    // One that asks now and then may stay longer than a head may take; until it asks no more.
    let mut kept = api.connect();
    let ask = format!("{}\r\n", api.head("GET", "/api/whoami"));
    for _ in 0..3 {
        kept.write_all(ask.as_bytes()).unwrap();
        assert_eq!(read_reply(&mut kept).map(|reply| reply.status), Some(200));
        std::thread::sleep(Duration::from_millis(500));
    }
    let kept_for = stays(&mut kept);
    assert!(kept_for > Duration::from_millis(700) && kept_for < Duration::from_secs(20), "{kept_for:?}");
}

#[test]
fn more_connections_than_there_may_be_wait_and_idle_ones_make_room() {
    let broker = start(&["--http-max-connections", "2", "--http-request-timeout", "60 s"]);
    let api = Api::of(&broker);
    let ask = format!("{}\r\n", api.head("GET", "/api/whoami"));
    let mut idle: Vec<_> = (0..2).map(|_| api.connect()).collect();
    for socket in &mut idle {
        socket.write_all(ask.as_bytes()).unwrap();
        assert!(read_reply(socket).is_some());
    }
    assert_eq!(api.get("/api/whoami").status, 200, "an idle connection made room");
    // Two that have begun to ask keep their places; who comes then waits.
    let mut busy: Vec<_> = (0..2).map(|_| api.connect()).collect();
    for socket in &mut busy {
        socket.write_all(&ask.as_bytes()[..10]).unwrap();
    }
    let mut third = api.connect();
    third.write_all(ask.as_bytes()).unwrap();
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(third.read(&mut [0]).is_err(), "there was no place");
    busy[0].write_all(&ask.as_bytes()[10..]).unwrap();
    assert!(read_reply(&mut busy[0]).is_some());
    third.set_read_timeout(Some(super::support::PATIENCE)).unwrap();
    assert_eq!(read_reply(&mut third).map(|reply| reply.status), Some(200));
}

#[test]
fn pages_of_other_origins_may_do_only_what_the_settings_say() {
    let broker = start(&["--http-cors-allow-origins", "https://a.example", "--http-cors-max-age", "60"]);
    let api = Api::of(&broker);
    let path = "/api/policies/%2F/p";
    let policy = json!({"pattern": "^none$", "definition": {"max-length": 1}}).to_string();
    let call = |method, origin: &str| api.call(method, path, &[("Origin", origin)], policy.as_bytes());
    let put = call("PUT", "https://a.example");
    assert_eq!((put.status, put.header("access-control-allow-origin")), (201, Some("https://a.example")));
    let preflight = call("OPTIONS", "https://a.example");
    let allowed = preflight.header("access-control-allow-methods");
    assert_eq!(
        (allowed, preflight.header("access-control-max-age")),
        (Some("HEAD, GET, PUT, DELETE, OPTIONS"), Some("60"))
    );
    for other in ["https://b.example", "https://a.example.evil", "null", "*", "http://a.example"] {
        assert_eq!(call("GET", other).header("access-control-allow-origin"), None, "{other}");
        assert_eq!(call("OPTIONS", other).header("access-control-allow-methods"), None, "{other}");
        assert_eq!(call("DELETE", other).status, 403, "{other}");
    }
    assert_eq!(api.call("DELETE", path, &[("Sec-Fetch-Site", "cross-site")], b"").status, 403);
    let own = format!("http://localhost:{}", broker.http_port());
    assert_eq!(call("DELETE", &own).status, 204);
}

#[test]
fn the_whole_api_can_stand_behind_a_prefix() {
    let broker = start(&["--http-path-prefix", "rabbit/"]);
    let api = Api::of(&broker);
    assert_eq!(api.get("/rabbit/api/whoami").status, 200);
    assert_eq!(api.get("/api/whoami").status, 404);
    assert_eq!(api.get("/rabbit/api/").header("location"), Some("/rabbit/api/index.html"));
}
