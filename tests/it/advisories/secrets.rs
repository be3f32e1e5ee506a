//! Passwords must not be found where others look: in logs, errors, events, the data folder, what a crash leaves.

use super::super::support::peer::PERSISTENT;
use super::super::support::{Broker, Declare, Peer};
use super::{permission, table, text};
use amq_protocol::protocol::connection;
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::PROTOCOL_HEADER;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// No text of anything else.
const SECRET: &str = "hunter2-QxV7";
/// The same where only digits are taken.
const NUMBER: &str = "73190846251973190846251";

fn holds(octets: &[u8], text: &str) -> bool {
    octets.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The files below a folder that hold a text.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if holds(&std::fs::read(&path).unwrap(), text) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// What `leveret` says with these arguments.
fn leveret(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.env_clear().args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Logs in with octets of one's own, and reads what the broker says to it.
fn try_log_in(broker: &Broker, mechanism: &str, response: &[u8]) {
    let mut peer = Peer::silent(broker);
    peer.octets(PROTOCOL_HEADER);
    peer.expect_start();
    let capabilities = AMQPValue::FieldTable(table(&[("authentication_failure_close", AMQPValue::Boolean(true))]));
    peer.start_ok(mechanism, response, table(&[("capabilities", capabilities)]));
    if let Some(answer) = peer.try_next() {
        let shown = format!("{answer:?}");
        assert!(!shown.contains(SECRET), "{shown}");
    }
}

/// The fields of an AMQPLAIN response.
fn amqplain(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = leveret::amqp::table::Writer::default();
    for (key, value) in fields {
        writer.key(key).long_string(value.as_bytes());
    }
    writer.octets().to_vec()
}

/// A broker that logs everything, with the users guest, `keeper` and `imported`, whose passwords are secret, and everybody
/// logging in who can, rightly and wrongly. Ends with the events that came about.
fn broker_with_secrets(definitions: &Path) -> (Broker, Vec<u8>) {
    // Of RabbitMQ's documentation: the hash of "test12".
    let hash = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
    let document = format!(
        r#"{{"users": [{{"name": "guest", "password": "guest", "tags": ""}},
              {{"name": "keeper", "password": "{SECRET}", "tags": "administrator"}},
              {{"name": "imported", "password_hash": "{hash}", "tags": ""}}],
            "vhosts": [{{"name": "/"}}], "permissions": [{}, {}]}}"#,
        permission("guest", "/", ".*", ".*", ".*"),
        permission("keeper", "/", ".*", ".*", ".*"),
    );
    std::fs::write(definitions, document).unwrap();
    let broker = Broker::with(&["--definitions", definitions.to_str().unwrap(), "--log-level", "trace"]);
    let mut ear = Peer::open(&broker);
    ear.declare(1, Declare::durable("events"));
    ear.bind(1, "events", "amq.rabbitmq.event", "#");
    let mut keeper = Peer::silent(&broker);
    keeper.octets(PROTOCOL_HEADER);
    keeper.expect_start();
    keeper.start_ok("PLAIN", format!("\0keeper\0{SECRET}").as_bytes(), table(&[("x", text("y"))]));
    keeper.expect_tune();
    keeper.tune_ok(0);
    keeper.open_vhost("/");
    keeper.expect_open_ok();
    keeper.connection(connection::AMQPMethod::UpdateSecret(connection::UpdateSecret {
        new_secret: SECRET.into(),
        reason: "a new one".into(),
    }));
    keeper.next();
    let responses = [
        ("PLAIN", format!("\0guest\0{SECRET}").into_bytes()),
        ("PLAIN", format!("\0nobody\0{SECRET}").into_bytes()),
        ("PLAIN", format!("\0imported\0{SECRET}").into_bytes()),
        // Malformed, in the ways that people get it wrong.
        ("PLAIN", SECRET.as_bytes().to_vec()),
        ("PLAIN", format!("keeper\0{SECRET}").into_bytes()),
        ("PLAIN", format!("\0keeper\0{SECRET}\0").into_bytes()),
        ("PLAIN", [b"\0keeper\0\xFF".as_slice(), SECRET.as_bytes()].concat()),
        ("AMQPLAIN", amqplain(&[("LOGIN", "guest"), ("PASSWORD", SECRET)])),
        ("AMQPLAIN", amqplain(&[("LOGIN", "keeper"), ("PASSWORT", SECRET)])),
        ("AMQPLAIN", SECRET.as_bytes().to_vec()),
        ("ANONYMOUS", SECRET.as_bytes().to_vec()),
        ("EXTERNAL", SECRET.as_bytes().to_vec()),
        ("SCRAM-SHA-256", SECRET.as_bytes().to_vec()),
    ];
    std::thread::scope(|threads| {
        for (mechanism, response) in &responses {
            threads.spawn(|| try_log_in(&broker, mechanism, response));
        }
    });
    // A login that is cut off within the password; RabbitMQ's text for such methods shows the octets one by one.
    let mut cut = Peer::silent(&broker);
    cut.octets(PROTOCOL_HEADER);
    cut.expect_start();
    let mut payload = b"\0\x0a\0\x0b\0\0\0\0\x05PLAIN\0\0\0\x40\0keeper\0".to_vec();
    payload.extend_from_slice(SECRET.as_bytes());
    cut.frame(leveret::amqp::frame::METHOD, 0, &payload);
    cut.expect_eof();
    let mut events = Vec::new();
    while let Some(event) = ear.get(1, "events", true) {
        events.extend_from_slice(event.routing_key.as_bytes());
        events.extend_from_slice(&event.properties);
        events.extend_from_slice(&event.body);
    }
    (broker, events)
}

#[test]
fn cve_2026_66068_no_log_line_event_or_file_holds_a_password() {
    let folder = TempDir::new().unwrap();
    let (mut broker, events) = broker_with_secrets(&folder.path().join("definitions.json"));
    // There is something to look through: names are told, passwords are not.
    for word in ["user.authentication.failure", "user.authentication.success", "keeper"] {
        assert!(holds(&events, word), "no event with {word}");
    }
    assert!(!holds(&events, SECRET));
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    peer.publish(1, "q", PERSISTENT, b"m");
    peer.expect_confirms(1, 1);
    assert!(!files_with(broker.folder(), "keeper").is_empty(), "the user is stored somewhere");
    assert_eq!(files_with(broker.folder(), SECRET), Vec::<String>::new());
    assert!(broker.stop().success());
    let log = broker.log();
    assert!(log.iter().any(|line| line.contains("user 'guest'")), "{log:?}");
    assert!(log.iter().chain(&broker.errors()).all(|line| !line.contains(SECRET)), "{log:?}");
    let octets: Vec<String> = SECRET[..5].bytes().map(|octet| octet.to_string()).collect();
    assert!(log.iter().any(|line| line.contains("cannot decode <<>>")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains(&octets.join(","))), "{log:?}");
    assert_eq!(files_with(broker.folder(), SECRET), Vec::<String>::new());
}

#[test]
fn cve_2026_67406_a_crash_leaves_no_password() {
    let folder = TempDir::new().unwrap();
    let definitions = folder.path().join("definitions.json");
    let (mut broker, _) = broker_with_secrets(&definitions);
    assert!(broker.stop().success());
    broker.restart_with(&["--core-dumps", "false", "--log-level", "trace"]);
    let mut keeper = Peer::silent(&broker);
    keeper.octets(PROTOCOL_HEADER);
    keeper.expect_start();
    keeper.start_ok("PLAIN", format!("\0keeper\0{SECRET}").as_bytes(), FieldTable::default());
    keeper.expect_tune();
    let id = rustix::process::Pid::from_raw(i32::try_from(broker.id()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::ABORT).unwrap();
    let status = broker.wait();
    use std::os::unix::process::ExitStatusExt;
    assert!(!status.core_dumped(), "{status:?}");
    assert_eq!(files_with(broker.folder(), SECRET), Vec::<String>::new());
    assert!(broker.log().iter().chain(&broker.errors()).all(|line| !line.contains(SECRET)));
}

#[test]
fn what_is_wrong_with_a_file_is_said_without_its_secrets() {
    let folder = TempDir::new().unwrap();
    let settings_toml = [
        format!("default_pass = {SECRET}"),
        format!("default_pass = \"{SECRET}"),
        format!("default_pass \"{SECRET}\""),
        format!("default_pass = \"{SECRET}\\q\""),
        format!("default_pass = [\"{SECRET}\"]"),
        format!("default_pass = {{ a = \"{SECRET}\" }}"),
        format!("default_pass = \"{SECRET}\"\ndefault_pass = \"{SECRET}\""),
        format!("default_pas = \"{SECRET}\""),
        format!("default_pass = \"{SECRET}\"\nhartbeat = 1"),
        format!("default_pass = {NUMBER}"),
        format!("default_pass = -{NUMBER}.5e999x"),
        format!("default_pass = {NUMBER}.5"),
        format!("tls.password = [{NUMBER}]"),
        format!("[tls]\npassword = {SECRET}"),
        format!("anonymous_login_user = 'a'\nanonymous_login_pass = ['{SECRET}']"),
    ];
    let settings_conf = [
        format!("default_pass : {SECRET}"),
        format!("default_pass = '{SECRET}\nheartbeat = x"),
        format!("default_pass = '{SECRET}' '{SECRET}'"),
        format!("default_pass = encrypted:{SECRET}"),
        format!("default_pass = {SECRET}$("),
        format!("default_passw = {SECRET}\nheartbeat = x"),
        format!("default_users.a.password = {SECRET}\nheartbeat = x"),
        format!("ssl_options.password = {SECRET}\nheartbeat = x"),
        format!("definitions.http.url = https://u:{SECRET}@host/\nheartbeat = x"),
        SECRET.to_owned(),
    ];
    let definitions = [
        format!(r#"{{"users": [{{"name": "u", "password": {SECRET}}}]}}"#),
        format!(r#"{{"users": [{{"name": "u", "password": {NUMBER}}}]}}"#),
        format!(r#"{{"users": [{{"name": "u", "password": {NUMBER}x}}]}}"#),
        format!(r#"{{"users": [{{"name": "u", "password": ["{SECRET}"]}}]}}"#),
        format!(r#"{{"users": [{{"name": "u", "password": {{"{SECRET}": 1}}}}]}}"#),
        format!(r#"{{"users": [{{"name": "u", "passwort": "{SECRET}"}}], "x": 1"#),
        format!(r#"{{"users": [{{"name": "u", "password": "{SECRET}\q"}}]}}"#),
        format!(r#"{{"users": [{{"name": "u", "password": "{SECRET}", "password_hash": "{SECRET}"}}]}}"#),
        format!(r#"{{"users": [{{"name": "u", "password_hash": "{SECRET}!"}}]}}"#),
        format!(r#"{{"users": [{{"name": "u", "password_hash": "{SECRET}"}}, "{SECRET}"]}}"#),
        format!(
            r#"{{"parameters": [{{"vhost": 1, "component": "shovel", "name": "s",
                 "value": {{"src-uri": "amqp://u:{SECRET}@h"}}}}]}}"#
        ),
        format!(r#"{{"global_parameters": [{{"value": "amqp://u:{SECRET}@h"}}]}}"#),
    ];
    let cases = [("leveret.toml", &settings_toml[..]), ("rabbitmq.conf", &settings_conf), ("d.json", &definitions)];
    for (name, texts) in cases {
        let file = folder.path().join(name);
        let file = file.to_str().unwrap();
        let flag = if name == "d.json" { "--definitions" } else { "--config" };
        for text in texts {
            std::fs::write(file, text).unwrap();
            for arguments in [&["check", file][..], &["--amqp-port", "none", flag, file]] {
                let output = leveret(arguments);
                let said = [output.stdout, output.stderr].concat();
                assert_eq!(output.status.code(), Some(78), "{text}: {}", String::from_utf8_lossy(&said));
                for secret in [SECRET, &NUMBER[..12]] {
                    assert!(!holds(&said, secret), "{text}: {}", String::from_utf8_lossy(&said));
                }
            }
        }
    }
}

#[test]
fn arguments_and_variables_with_secrets_are_not_repeated() {
    let uri = format!("amqp://u:{SECRET}@127.0.0.1:1/%2f");
    let malformed = format!("amqp:/u:{SECRET}@x");
    for arguments in [
        &[&format!("--default-pass={SECRET}") as &str][..],
        &["--default-pass", SECRET],
        &["perf", "throughput", "--uri", &uri],
        &["perf", "throughput", "--uri", &malformed],
        &["perf", "connections", "--uri", &malformed],
    ] {
        let output = leveret(arguments);
        let said = [output.stdout, output.stderr].concat();
        assert!(!output.status.success() && !said.is_empty(), "{arguments:?}");
        assert!(!holds(&said, SECRET), "{arguments:?}: {}", String::from_utf8_lossy(&said));
    }
    for (variable, value) in [
        ("LEVERET_DEFAULT_PASS_FILE", "/nonexistent"),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-rabbit heartbeat x default_pass "),
        ("LEVERET_HEARTBEAT", "x"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .env_clear()
            .env(variable, format!("{value}{}", if value.ends_with(' ') { SECRET } else { "" }))
            .env("RABBITMQ_DEFAULT_PASS", SECRET)
            .env("LEVERET_ANONYMOUS_LOGIN_PASS", SECRET)
            .args(["--amqp-port", "none"])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&said));
        assert!(!holds(&said, SECRET), "{variable}: {}", String::from_utf8_lossy(&said));
    }
}
