//! Health checks, feature flags and logins over HTTP, with RabbitMQ's statuses and bodies.

use super::support::tls::{Authority, Files};
use super::support::{Api, Broker, Declare, Peer, eventually};
use rcgen::CertificateParams;
use serde_json::{Value as Json, json};

fn start(flags: &[&str]) -> Broker {
    Broker::with(&[&["--http-port", "0"], flags].concat())
}

#[test]
fn a_broker_that_is_well_says_so() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let ok = json!({"status": "ok"});
    let checks = [
        "alarms",
        "local-alarms",
        "virtual-hosts",
        "metadata-store/initialized",
        "metadata-store/initialized/with-data",
        "certificate-expiration/1/months",
        "certificate-expiration/-1/DAYS",
        "quorum-queues-without-elected-leaders/all-vhosts/",
        "quorum-queues-without-elected-leaders/vhost/%2F/pattern/.*",
        "is-in-service",
        "below-node-connection-limit",
        "ready-to-serve-clients",
        "reached-target-cluster-size",
    ];
    for check in checks {
        assert_eq!(api.get(&format!("/api/health/checks/{check}")).said(), (200, ok.clone()), "{check}");
    }
    let critical = api.get("/api/health/checks/node-is-quorum-critical").said();
    assert_eq!(critical, (200, json!({"status": "ok", "reason": "single node cluster"})));
    assert_eq!(api.get("/api/healthchecks/node").said(), (200, ok.clone()));
    assert_eq!(api.get("/api/aliveness-test/%2F").said(), (200, ok));
    assert_eq!(api.get("/api/aliveness-test/nowhere").status, 404);
}

#[test]
fn ports_and_protocols_are_those_that_are_listened_on() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let check = |path: &str| api.get(&format!("/api/health/checks/{path}")).said();
    let port = broker.port();
    assert_eq!(check(&format!("port-listener/{port}")), (200, json!({"status": "ok", "port": port})));
    let (status, said) = check("port-listener/1");
    assert_eq!((status, &said["reason"], &said["missing"]), (503, &"No active listener".into(), &1.into()));
    for open in [port, broker.http_port()] {
        assert!(said["ports"].as_array().unwrap().contains(&open.into()), "{said}");
    }
    assert_eq!(check("port-listener/x"), (400, json!({"error": "bad_request", "reason": "Invalid port"})));
    for names in ["amqp", "AMQP091", "amqp1.0,management"] {
        let expected = json!({"status": "ok", "protocols": ["amqp", "http"]});
        assert_eq!(check(&format!("protocol-listener/{names}")), (200, expected), "{names}");
    }
    let expected = json!({
        "status": "failed", "reason": "No active listener", "missing": ["amqp/ssl", "foo"], "protocols": ["amqp", "http"]
    });
    assert_eq!(check("protocol-listener/foo,amqps,amqp"), (503, expected));
}

#[test]
fn alarms_are_told_with_their_resource() {
    let broker = start(&["--vm-memory-high-watermark-absolute", "0"]);
    let api = Api::of(&broker);
    let node = api.get("/api/overview").json()["node"].clone();
    let alarms = json!([{"node": node, "resource": "memory"}]);
    let failed = |reason: &str| (503, json!({"status": "failed", "reason": reason, "alarms": alarms}));
    assert_eq!(api.get("/api/health/checks/alarms").said(), failed("There are alarms in effect in the cluster"));
    assert_eq!(api.get("/api/health/checks/local-alarms").said(), failed("There are alarms in effect on the node"));
    let reason = format!("resource alarm(s) in effect:[{{resource_limit,memory,{}}}]", node.as_str().unwrap());
    assert_eq!(api.get("/api/healthchecks/node").said(), (503, json!({"status": "failed", "reason": reason})));
    // Whoever only consumes is served all the same.
    assert_eq!(api.get("/api/health/checks/ready-to-serve-clients").status, 200);
}

#[test]
fn a_broker_without_a_place_for_another_connection_is_not_ready() {
    let broker = start(&["--max-connections", "1"]);
    let api = Api::of(&broker);
    let status = |check: &str| api.get(&format!("/api/health/checks/{check}")).said();
    assert_eq!(status("below-node-connection-limit").0, 200);
    let peer = Peer::open(&broker);
    let reason = "node connection limit is reached";
    assert_eq!(status("below-node-connection-limit"), (503, json!({"status": "failed", "reason": reason})));
    let expected = json!({"status": "failed", "reason": reason, "connections": 1});
    assert_eq!(status("ready-to-serve-clients"), (503, expected));
    peer.close();
    eventually("a free place", || (status("ready-to-serve-clients").0 == 200).then_some(()));
}

#[test]
fn certificates_are_told_of_before_they_end() {
    let authority = Authority::new("The Warren");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2077, 3, 1);
    let files = Files::new(&authority, &authority.issue(params));
    let broker = files.broker(&["--http-port=0"]);
    let api = Api::of(&broker);
    let check = |path: &str| api.get(&format!("/api/health/checks/certificate-expiration/{path}")).said();
    assert_eq!(check("1/months").0, 200);
    let (status, said) = check("100/years");
    assert_eq!((status, &said["reason"]), (503, &"Certificates expiring".into()));
    let expired = said["expired"].as_array().unwrap();
    assert_eq!(expired.len(), 1, "{said}");
    assert_eq!(expired[0]["protocol"], "amqp/ssl");
    assert_eq!(expired[0]["port"], broker.tls_port());
    assert_eq!(expired[0]["interface"], "127.0.0.1");
    assert_eq!(expired[0]["certfile_expires_on"], json!(["2077-03-01 0:00:00"]));
    assert_eq!(expired[0]["cacertfile_expires_on"], json!([]));
    assert_eq!(expired[0]["certfile"], files.path("cert.pem").to_str().unwrap());
    files.write("cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert_eq!(check("1/days").0, 503, "a certificate that is none");
    std::fs::remove_file(files.path("cert.pem")).unwrap();
    assert_eq!(check("1/days").0, 503, "a file that is gone");
    let units = "Time unit not recognised. Supported units: days, weeks, months, years.";
    for (path, reason) in [("x/days", "Invalid expiration value."), ("1/fortnights", units)] {
        assert_eq!(check(path), (400, json!({"error": "bad_request", "reason": reason})));
    }
}

#[test]
fn feature_flags_are_those_that_there_are() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let flags = api.get("/api/feature-flags").json();
    let quorum = flags.as_array().unwrap().iter().find(|flag| flag["name"] == "quorum_queue").unwrap();
    let expected = json!({
        "name": "quorum_queue",
        "desc": "Support queues of type `quorum`",
        "doc_url": "https://www.rabbitmq.com/docs/quorum-queues",
        "state": "enabled",
        "stability": "required",
        "require_level": "hard",
        "experiment_level": "supported",
        "callbacks": [],
        "provided_by": "rabbit"
    });
    assert_eq!(*quorum, expected);
    assert_eq!(api.put("/api/feature-flags/quorum_queue/enable", json!({})).status, 204);
    let unsupported = json!({"error": "bad_request", "reason": "unsupported"});
    assert_eq!(api.put("/api/feature-flags/bogus/enable", json!({})).said(), (400, unsupported));
    assert_eq!(api.get("/api/extensions").said(), (200, json!([{"javascript": "dispatcher.js"}])));
}

#[test]
fn a_deprecated_feature_is_told_of_when_it_is_used() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let all = api.get("/api/deprecated-features").json();
    let found = all.as_array().unwrap().iter().find(|one| one["name"] == "transient_nonexcl_queues").unwrap().clone();
    assert_eq!((&found["state"], &found["deprecation_phase"]), (&"permitted".into(), &"permitted_by_default".into()));
    assert_eq!(api.get("/api/deprecated-features/used").said(), (200, json!([])));
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    assert_eq!(api.get("/api/deprecated-features/used").said(), (200, json!([found])));
}

#[test]
fn logins_are_counted_by_door_and_outcome() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let node = api.get("/api/overview").json()["node"].as_str().unwrap().to_owned();
    let path = format!("/api/auth/attempts/{node}");
    assert_eq!(api.delete(&path).status, 204);
    assert_eq!(api.by("guest", "wrong").get("/api/whoami").status, 401);
    Peer::open(&broker).close();
    // The request that asks has logged in as well.
    let expected = json!([
        {"protocol": "http", "auth_attempts": 2, "auth_attempts_failed": 1, "auth_attempts_succeeded": 1},
        {"protocol": "amqp091", "auth_attempts": 1, "auth_attempts_failed": 0, "auth_attempts_succeeded": 1},
    ]);
    assert_eq!(api.get(&path).said(), (200, expected));
    assert_eq!(api.get(&format!("{path}/source")).said(), (200, json!([])));
    assert_eq!(api.get("/api/auth/attempts/bogus").status, 404);
}

#[test]
fn a_hash_of_a_password_is_one_that_can_be_given_to_a_user() {
    let broker = start(&[]);
    let api = Api::of(&broker);
    let Json::String(hash) = api.get("/api/auth/hash_password/s%C3%A4cret").json()["ok"].take() else {
        panic!("no hash")
    };
    assert_eq!(api.put("/api/users/u", json!({"password_hash": hash, "tags": "management"})).status, 201);
    assert_eq!(api.by("u", "säcret").get("/api/whoami").status, 200);
    assert_eq!(api.by("u", "secret").get("/api/whoami").status, 401);
}
