//! The command line under RabbitMQ's names, as containers, scripts and test libraries call it.

use super::support::peer::PLAIN;
use super::support::{Api, Broker, Declare, Peer, eventually};
use amq_protocol::types::FieldTable;
use serde_json::{Value as Json, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A broker and the tools for it, in a folder of links.
struct Tools {
    broker: Broker,
    folder: TempDir,
}

/// What a tool said.
#[derive(Debug, PartialEq)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Tools {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        for name in ["rabbitmqctl", "rabbitmq-diagnostics", "rabbitmq-plugins", "rabbitmqadmin", "rabbitmq-server"] {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_leveret"), folder.path().join(name)).unwrap();
        }
        Self { broker: Broker::with(&["--http-port", "0", "--node-name", "rabbit@host"]), folder }
    }

    /// A tool that knows where the broker is, and nothing else.
    fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(self.folder.path().join(tool));
        command.env_clear().env("HOME", self.folder.path());
        command.env("LEVERET_URL", format!("http://127.0.0.1:{}", self.broker.http_port()));
        command.current_dir(self.folder.path());
        command
    }

    fn run_with(&self, tool: &str, arguments: &[&str], input: &str) -> Said {
        let mut command = self.command(tool);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        // Who does not read has ended already.
        let _ = process.stdin.take().unwrap().write_all(input.as_bytes());
        let output = process.wait_with_output().unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> Said {
        self.run_with(tool, arguments, "")
    }

    /// What `rabbitmqctl` prints, if all goes well.
    fn ctl(&self, arguments: &[&str]) -> String {
        let said = self.run("rabbitmqctl", arguments);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}: {said:?}");
        said.out
    }

    /// What it ends with and complains of.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let said = self.run("rabbitmqctl", arguments);
        assert_ne!(said.code, 0, "{arguments:?}: {said:?}");
        (said.code, said.err)
    }

    fn admin(&self, words: &str) -> String {
        let words: Vec<_> = words.split(' ').collect();
        let said = self.run("rabbitmqadmin", &words);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{words:?}: {said:?}");
        said.out
    }
}

#[test]
fn users_are_kept_with_rabbitmqctls_words_and_codes() {
    let tools = Tools::new();
    assert_eq!(
        tools.ctl(&["add_user", "ann", "pw"]),
        "Adding user \"ann\" ...\nDone. Don't forget to grant the user permissions to some virtual hosts! See \
         'rabbitmqctl help set_permissions' to learn more.\n"
    );
    assert_eq!(tools.refused(&["add_user", "ann", "pw"]), (70, "Error:\nUser \"ann\" already exists\n".to_owned()));
    assert_eq!(tools.ctl(&["authenticate_user", "ann", "pw"]), "Authenticating user \"ann\" ...\nSuccess\n");
    let failed = "Error:\nError: failed to authenticate user \"ann\"\nuser 'ann' - invalid credentials\n";
    assert_eq!(tools.refused(&["authenticate_user", "ann", "bad"]), (65, failed.to_owned()));
    // A password that no list of processes shows.
    let said = tools.run_with("rabbitmqctl", &["change_password", "ann"], "other\n");
    assert_eq!((said.code, said.out.as_str()), (0, "Changing password for user \"ann\" ...\n"));
    assert_eq!(tools.ctl(&["-q", "authenticate_user", "ann", "other"]), "Success\n");
    assert_eq!(
        tools.refused(&["change_password", "nobody", "pw"]),
        (67, "Error:\nUser \"nobody\" does not exist\n".to_owned())
    );
    tools.ctl(&["set_user_tags", "ann", "management", "monitoring"]);
    assert_eq!(
        tools.ctl(&["list_users"]),
        "Listing users ...\nuser\ttags\nann\t[management, monitoring]\nguest\t[administrator]\n"
    );
    assert_eq!(tools.ctl(&["-s", "list_users"]), "ann\t[management, monitoring]\nguest\t[administrator]\n");
    assert_eq!(
        tools.ctl(&["list_users", "--formatter", "json"]),
        "[\n{\"user\":\"ann\",\"tags\":[\"management\",\"monitoring\"]}\n,{\"user\":\"guest\",\"tags\":[\"administrator\"]}\n]\n"
    );
    assert!(tools.ctl(&["-q", "list_users", "--formatter=pretty_table"]).contains("│ ann "));
    assert_eq!(tools.ctl(&["-q", "list_users", "--no-table-headers"]).lines().count(), 2);
    // Who has a hash can bring it along.
    let hash = tools.ctl(&["-q", "hash_password", "secret"]);
    tools.ctl(&["add_user", "eve", hash.trim(), "--pre-hashed-password"]);
    tools.ctl(&["authenticate_user", "eve", "secret"]);
    tools.ctl(&["clear_password", "eve"]);
    assert_eq!(tools.refused(&["authenticate_user", "eve", "secret"]).0, 65);
    tools.ctl(&["set_user_limits", "eve", "{\"max-connections\": 5}"]);
    assert_eq!(tools.ctl(&["-q", "list_user_limits", "--user", "eve"]), "{\"max-connections\":5}\n");
    tools.ctl(&["clear_user_limits", "eve", "all"]);
    assert_eq!(tools.ctl(&["-q", "list_user_limits", "--user", "eve"]), "{}\n");
    tools.ctl(&["delete_user", "eve"]);
    tools.ctl(&["delete_user", "eve"]);
}

#[test]
fn virtual_hosts_permissions_and_policies_are_set() {
    let tools = Tools::new();
    tools.ctl(&["add_vhost", "v", "--description", "d e", "--tags", "a,b", "--default-queue-type", "quorum"]);
    assert_eq!(tools.ctl(&["-q", "list_vhosts"]), "name\n/\nv\n");
    assert_eq!(
        tools.ctl(&["-s", "list_vhosts", "name", "description", "tags", "tracing"]),
        "/\tDefault virtual host\t[]\tfalse\nv\td e\t[a, b]\tfalse\n"
    );
    let said = tools.refused(&["list_vhosts", "name", "foo"]);
    assert!(said.0 == 64 && said.1.contains("Info key(s) foo are not supported"), "{said:?}");
    tools.ctl(&["add_user", "ann", "pw"]);
    assert_eq!(
        tools.ctl(&["set_permissions", "-p", "v", "ann", ".*", "", "^a"]),
        "Setting permissions for user \"ann\" in vhost \"v\" ...\n"
    );
    assert_eq!(tools.ctl(&["-q", "list_user_permissions", "ann"]), "vhost\tconfigure\twrite\tread\nv\t.*\t\t^a\n");
    assert!(tools.ctl(&["-q", "list_permissions", "-p", "v"]).contains("ann\t.*\t\t^a\n"));
    assert_eq!(tools.refused(&["set_permissions", "-p", "v", "nobody", "", "", ""]).0, 67);
    assert_eq!(
        tools.refused(&["list_permissions", "-p", "nowhere"]),
        (65, "Virtual host 'nowhere' does not exist\n".to_owned())
    );
    tools.ctl(&["set_topic_permissions", "-p", "v", "ann", "amq.topic", "a", "b"]);
    assert_eq!(tools.ctl(&["-s", "list_topic_permissions", "--vhost", "v"]), "ann\tamq.topic\ta\tb\n");
    tools.ctl(&["clear_topic_permissions", "-p", "v", "ann"]);
    tools.ctl(&["clear_permissions", "-p", "v", "ann"]);
    tools.ctl(&["set_policy", "-p", "v", "--priority", "3", "--apply-to", "queues", "p", "^q", "{\"max-length\": 5}"]);
    assert_eq!(
        tools.ctl(&["-q", "list_policies", "-p", "v"]),
        "vhost\tname\tpattern\tapply-to\tdefinition\tpriority\nv\tp\t^q\tqueues\t{\"max-length\":5}\t3\n"
    );
    let (code, text) = tools.refused(&["set_policy", "-p", "v", "p", "^q", "{\"max-lengt\": 5}"]);
    assert!(code == 69 && text.contains("are not recognised policy settings"), "{text}");
    assert_eq!(tools.refused(&["set_policy", "-p", "v", "p", "^q", "{broken"]).0, 69);
    tools.ctl(&["clear_policy", "-p", "v", "p"]);
    assert_eq!(tools.refused(&["clear_policy", "-p", "v", "p"]), (69, "Error:\nParameter does not exist\n".to_owned()));
    tools.ctl(&["set_vhost_limits", "-p", "v", "{\"max-queues\": 5}"]);
    assert_eq!(tools.ctl(&["-q", "list_vhost_limits", "-p", "v"]), "{\"max-queues\":5}\n");
    tools.ctl(&["set_global_parameter", "g", "{\"a\": 1}"]);
    assert!(tools.ctl(&["-q", "list_global_parameters"]).contains("g\t{\"a\":1}\n"));
    assert_eq!(
        tools.ctl(&["trace_on", "-p", "v"]),
        "Starting tracing for vhost \"v\" ...\nTrace enabled for vhost v\n"
    );
    assert_eq!(
        tools.ctl(&["-s", "list_vhosts", "name", "tracing", "description"]).lines().nth(1),
        Some("v\ttrue\td e")
    );
    tools.ctl(&["enable_vhost_deletion_protection", "v"]);
    assert_eq!(tools.refused(&["delete_vhost", "v"]).0, 65);
    tools.ctl(&["disable_vhost_deletion_protection", "v"]);
    tools.ctl(&["delete_vhost", "v"]);
    assert_eq!(tools.refused(&["delete_vhost", "v"]), (65, "Virtual host 'v' does not exist\n".to_owned()));
}

#[test]
fn what_health_checks_of_containers_run_succeeds_and_fails_as_it_should() {
    let tools = Tools::new();
    let diagnostics = |arguments: &[&str]| tools.run("rabbitmq-diagnostics", arguments);
    for (check, said) in [
        (&["-q", "ping"][..], "Ping succeeded\n"),
        (&["-q", "check_running"], "RabbitMQ on node rabbit@host is fully booted and running\n"),
        (&["-q", "check_local_alarms"], "Node rabbit@host reported no local alarms\n"),
        (&["-q", "check_virtual_hosts"], "Node rabbit@host reported all vhosts as running\n"),
    ] {
        let found = diagnostics(&[&["-n", "rabbit@host", "--url", &url(&tools)], check].concat());
        assert_eq!((found.code, found.out.as_str()), (0, said), "{check:?}: {found:?}");
    }
    let port = tools.broker.port().to_string();
    for check in [&["check_port_listener", &port][..], &["check_protocol_listener", "amqp"]] {
        let found = diagnostics(check);
        assert_eq!(found.code, 0, "{check:?}: {found:?}");
    }
    let none = diagnostics(&["-q", "check_port_listener", "1"]);
    assert!(none.code == 69 && none.err.starts_with("No listener for port 1 is active on node"), "{none:?}");
    assert_eq!(diagnostics(&["check_protocol_listener", "bogus"]).code, 69);
    let json: Json = serde_json::from_str(&diagnostics(&["check_running", "--formatter", "json"]).out).unwrap();
    assert!(json["message"].as_str().unwrap().ends_with("is fully booted and running"));
    let status: Json = serde_json::from_str(&tools.ctl(&["status", "--formatter", "json"])).unwrap();
    assert_eq!(status["pid"], tools.broker.id());
    let text = tools.ctl(&["status"]);
    assert!(text.contains(&format!("OS PID: {}\n", tools.broker.id())), "{text}");
    tools.ctl(&["await_startup"]);
    tools.ctl(&["cluster_status"]);
    tools.ctl(&["report"]);
    tools.ctl(&["wait", "--pid", &tools.broker.id().to_string()]);
    // Nobody there, and nobody known.
    let away = diagnostics(&["-q", "ping", "--url", "http://127.0.0.1:1"]);
    assert!(away.code == 69 && away.out.is_empty() && away.err.contains("can't be reached"), "{away:?}");
    assert_eq!(diagnostics(&["await_startup", "-t", "0", "--url", "http://127.0.0.1:1"]).code, 75);
    let stranger = diagnostics(&["status", "--username", "nobody"]);
    assert!(stranger.code == 69 && stranger.err.contains("--username"), "{stranger:?}");
    // Who may not ask much finds out that it runs.
    assert_eq!(diagnostics(&["-q", "ping", "--username", "nobody"]).code, 0);
}

#[test]
fn diagnostics_tell_what_the_api_tells() {
    let tools = Tools::new();
    Peer::open(&tools.broker).declare(1, Declare::durable("q"));
    let say = |arguments: &[&str]| {
        let said = tools.run("rabbitmq-diagnostics", arguments);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}: {said:?}");
        said.out
    };
    let json = |verb: &str| -> Json { serde_json::from_str(&say(&[verb, "--formatter", "json"])).unwrap() };
    let (amqp, http) = (tools.broker.port(), tools.broker.http_port());
    let mut ports = [amqp, http];
    ports.sort_unstable();
    let connected = format!("Successfully connected to ports {}, {} on node ", ports[0], ports[1]);
    assert!(say(&["check_port_connectivity"]).contains(&connected), "{}", say(&["check_port_connectivity"]));
    let listeners = say(&["-q", "listeners"]);
    for (port, rest) in [
        (amqp, "protocol: amqp, purpose: AMQP 0-9-1"),
        (http, "protocol: http, purpose: HTTP API"),
        (http, "protocol: clustering, purpose: CLI tool communication"),
    ] {
        assert!(listeners.contains(&format!("Interface: 127.0.0.1, port: {port}, {rest}\n")), "{listeners}");
    }
    let (listed, overview) = (json("listeners"), Api::of(&tools.broker).get("/api/overview").json());
    assert_eq!(listed["listeners"].as_array().unwrap().len(), overview["listeners"].as_array().unwrap().len());
    let status = json("status");
    assert_eq!((&status["pid"], &status["totals"]["queue_count"]), (&json!(tools.broker.id()), &json!(1)));
    assert_eq!(status["listeners"], listed["listeners"]);
    assert!(say(&["status"]).contains(&format!("OS PID: {}\n", tools.broker.id())));
    // Shares of all that there is, RabbitMQ's parts among them.
    let memory = say(&["-q", "memory_breakdown", "--unit", "mb"]);
    let shares =
        memory.lines().map(|line| line.split_once('(').unwrap().1.trim_end_matches("%)").parse::<f64>().unwrap());
    assert!((shares.sum::<f64>() - 100.0).abs() < 1.0, "{memory}");
    assert!(memory.contains("\nbinary: 0.0 mb (0.00%)\n"), "{memory}");
    let memory = json("memory_breakdown");
    assert!(memory["total"]["rss"].as_u64() > Some(1 << 20) && memory["strategy"] == "rss", "{memory}");
}

fn url(tools: &Tools) -> String {
    format!("http://127.0.0.1:{}", tools.broker.http_port())
}

#[test]
fn credentials_come_from_where_containers_and_rabbitmqadmin_have_them() {
    let tools = Tools::new();
    tools.ctl(&["add_user", "root", "geheim"]);
    tools.ctl(&["set_user_tags", "root", "administrator"]);
    tools.ctl(&["delete_user", "guest"]);
    assert_eq!(tools.run("rabbitmqctl", &["list_users"]).code, 69);
    let by = |variables: &[(&str, &str)]| {
        let mut command = tools.command("rabbitmqctl");
        let output = command.envs(variables.iter().copied()).args(["-s", "list_users"]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let listed = (0, "root\t[administrator]\n".to_owned());
    assert_eq!(by(&[("RABBITMQ_DEFAULT_USER", "root"), ("RABBITMQ_DEFAULT_PASS", "geheim")]), listed);
    assert_eq!(by(&[("LEVERET_USER", "root"), ("LEVERET_PASSWORD", "geheim")]), listed);
    let secret = tools.folder.path().join("secret");
    std::fs::write(&secret, "geheim\n").unwrap();
    let secret = [("RABBITMQ_DEFAULT_USER", "root"), ("RABBITMQ_DEFAULT_PASS_FILE", secret.to_str().unwrap())];
    assert_eq!(by(&secret), listed);
    std::fs::write(tools.folder.path().join(".rabbitmqadmin.conf"), "[default]\nusername = root\npassword = geheim\n")
        .unwrap();
    assert_eq!(by(&[]), listed);
    assert!(tools.admin("list users").contains("| root |"), "{}", tools.admin("list users"));
}

#[test]
fn what_is_wrong_with_a_command_is_told_as_rabbitmqctl_tells_it() {
    let tools = Tools::new();
    let said = tools.refused(&["list_queue"]);
    assert_eq!(said, (64, "\nCommand 'list_queue' not found. \nDid you mean 'list_queues'? \n".to_owned()));
    let (code, text) = tools.refused(&["add_user"]);
    let start =
        "Error (argument validation): not enough arguments.\nArguments given:\n\tadd_user\n\nUsage\n\nrabbitmqctl ";
    assert!(code == 64 && text.starts_with(start), "{text}");
    assert!(tools.refused(&["add_user", "a", "b", "c", "d"]).1.contains("too many arguments."));
    let (code, text) = tools.refused(&["list_users", "--bogus"]);
    assert!(code == 64 && text.contains("Invalid options for this command:\n--bogus : "), "{text}");
    let (code, text) = tools.refused(&[]);
    assert!(code == 64 && text.contains("Available commands:"), "{text}");
    assert_eq!(tools.refused(&["list_users", "--formatter", "bogus"]).0, 64);
    assert!(tools.ctl(&["help"]).contains("set_permissions"));
    assert!(tools.ctl(&["help", "set_policy"]).contains("--apply-to"));
    assert!(tools.ctl(&["completions", "bash"]).contains("list_queues"));
    assert!(tools.ctl(&["version"]).starts_with("4."));
    // The same verbs without another name.
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    let output = command.args(["ctl", "ping", "-q", "--url", &url(&tools)]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "Ping succeeded\n");
}

#[test]
fn queues_connections_and_consumers_are_listed_and_ended() {
    let tools = Tools::new();
    let mut peer = Peer::open(&tools.broker);
    peer.declare(1, Declare::durable("q"));
    peer.publish(1, "q", PLAIN, b"one");
    assert_eq!(peer.declare(1, Declare::durable("q")), (1, 0));
    assert_eq!(tools.ctl(&["-q", "list_queues"]), "name\tmessages\nq\t1\n");
    assert_eq!(
        tools.ctl(&["list_queues", "name", "durable", "arguments", "type"]),
        "Timeout: 60.0 seconds ...\nListing queues for vhost / ...\nname\tdurable\targuments\ttype\nq\ttrue\t\
         [{\"x-queue-type\",\"classic\"}]\tclassic\n"
    );
    assert_eq!(tools.refused(&["list_queues", "foo"]).0, 64);
    assert_eq!(tools.ctl(&["-q", "list_queues", "-p", "nowhere"]), "");
    assert!(tools.ctl(&["-s", "list_exchanges"]).contains("amq.topic\ttopic\n"));
    assert_eq!(tools.ctl(&["-s", "list_bindings"]), "\texchange\tq\tqueue\tq\t[]\n");
    let connections = tools.ctl(&["-s", "list_connections", "pid", "user", "state"]);
    assert!(connections.ends_with("\tguest\trunning\n"), "{connections}");
    let (name, _) = connections.split_once('\t').unwrap();
    tools.ctl(&["close_connection", name, "enough"]);
    peer.expect_connection_close(320, "CONNECTION_FORCED - enough");
    assert_eq!(tools.refused(&["close_connection", "none", "x"]).0, 69);
    let mut peer = Peer::open(&tools.broker);
    eventually("a connection to close", || {
        tools.ctl(&["-q", "close_all_connections", "bye"]).contains("Closed 1 connections").then_some(())
    });
    peer.expect_connection_close(320, "CONNECTION_FORCED - bye");
}

#[test]
fn definitions_travel_by_file_in_json_and_toml() {
    let tools = Tools::new();
    Peer::open(&tools.broker).declare(1, Declare::durable("q"));
    for file in ["d.json", "d.toml"] {
        tools.ctl(&["export_definitions", file]);
        let other = Tools::new();
        let path = tools.folder.path().join(file);
        other.ctl(&["import_definitions", path.to_str().unwrap()]);
        assert_eq!(other.ctl(&["-s", "list_queues"]), "q\t0\n", "{file}");
    }
    let json: Json = serde_json::from_str(&tools.ctl(&["-q", "export_definitions", "-"])).unwrap();
    assert_eq!(json["queues"][0]["name"], "q");
    let said =
        tools.run_with("rabbitmqctl", &["import_definitions"], "{\"queues\": [{\"name\": \"new\", \"vhost\": \"/\"}]}");
    assert_eq!(said.code, 0, "{said:?}");
    let said = tools.run_with("rabbitmqctl", &["import_definitions"], "{\"queues\": [{\"nmae\": \"x\"}]}");
    assert!(said.code == 65 && said.err.contains("did you mean 'name'?"), "{said:?}");
    assert_eq!(tools.refused(&["import_definitions", "none.json"]).0, 65);
}

#[test]
fn the_process_is_told_and_stopped() {
    let mut tools = Tools::new();
    let environment = tools.ctl(&["-s", "environment"]);
    assert!(environment.contains("node_name\trabbit@host\tcommand line\n"), "{environment}");
    assert!(environment.contains("default_pass\t…\tdefault\n"), "{environment}");
    assert_eq!(tools.ctl(&["set_log_level", "debug"]), "Setting log level to \"debug\" ...\n");
    Api::of(&tools.broker).get("/api/whoami");
    eventually("a line of that level", || {
        tools.broker.log().iter().any(|line| line.contains("[debug] GET /api/whoami")).then_some(())
    });
    let (code, text) = tools.refused(&["set_log_level", "loud"]);
    assert!(code == 69 && text.contains("'loud' is not"), "{text}");
    tools.ctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let alarms = eventually("an alarm", || {
        let said = tools.run("rabbitmq-diagnostics", &["-q", "check_local_alarms"]);
        (said.code != 0).then_some(said)
    });
    assert!(alarms.code == 69 && alarms.err.contains("Memory alarm on node"), "{alarms:?}");
    tools.ctl(&["set_vm_memory_high_watermark", "absolute", "100GB"]);
    assert_eq!(tools.refused(&["set_vm_memory_high_watermark", "2"]).0, 69);
    tools.ctl(&["set_disk_free_limit", "1MB"]);
    tools.ctl(&["set_disk_free_limit", "mem_relative", "0.001"]);
    assert!(tools.ctl(&["shutdown"]).ends_with("successfully shut down\n"));
    assert_eq!(tools.broker.wait().code(), Some(0));
    assert_eq!(tools.ctl(&["-q", "stop", "--idempotent"]).lines().count(), 1);
    assert_eq!(tools.refused(&["stop"]).0, 69);
}

#[test]
fn who_may_read_the_data_folder_needs_no_password() {
    use std::os::unix::fs::PermissionsExt;
    let mut tools = Tools::new();
    let file = tools.broker.folder().join("ctl.conf");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(tools.broker.folder()), mode(&file)), (0o700, 0o600));
    let secret = |file: &Path| {
        let text = std::fs::read_to_string(file).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("password = \"")).unwrap().to_owned();
        line.trim_end_matches('"').to_owned()
    };
    // Nobody has a password that is known, and nothing says where the broker is.
    tools.ctl(&["change_password", "guest", "other"]);
    let ctl = |broker: &Broker, how: &[&str], arguments: &[&str]| {
        let mut command = Command::new(tools.folder.path().join("rabbitmqctl"));
        command.env_clear().env("HOME", tools.folder.path()).args(how).args(arguments);
        if how.is_empty() {
            command.env("LEVERET_DATA_DIR", broker.folder());
        }
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let folder = tools.broker.folder().to_str().unwrap().to_owned();
    for how in [&[][..], &["--data-dir", &folder]] {
        assert_eq!(ctl(&tools.broker, how, &["-s", "list_users"]), (0, "guest\t[administrator]\n".to_owned()));
    }
    // It does everything, in virtual hosts that no user may enter as well.
    assert_eq!(ctl(&tools.broker, &[], &["add_vhost", "v"]).0, 0);
    let url = format!("http://127.0.0.1:{}", tools.broker.http_port());
    let api = Api::of(&tools.broker);
    let first = secret(&file);
    let as_tool = |secret: &str| {
        let reply = api.by("rmq-cli", secret).put("/api/queues/v/q", json!({"durable": true}));
        reply.status
    };
    assert_eq!((as_tool(&first), as_tool(&first)), (201, 204));
    assert_eq!(api.by("rmq-cli", &first).get("/api/permissions/v/rmq-cli").status, 404, "no user was made");
    assert_eq!(ctl(&tools.broker, &[], &["-s", "-p", "v", "list_queues", "name"]).1, "q\n");
    // Who says who asks, or where, is believed.
    assert_eq!(ctl(&tools.broker, &["--url", &url], &["list_users"]).0, 69);
    assert_eq!(ctl(&tools.broker, &["--username", "guest", "--data-dir", &folder], &["list_users"]).0, 69);
    // Nothing else is taken for the secret, and the secret for nobody else.
    let mut wrong = first.clone();
    wrong.pop();
    assert_eq!((as_tool(&wrong), as_tool("")), (401, 401));
    assert_eq!(api.by("guest", &first).get("/api/whoami").status, 401);
    let mut peer = Peer::silent(&tools.broker);
    peer.octets(b"AMQP\0\0\x09\x01");
    peer.expect_start();
    peer.start_ok("PLAIN", format!("\0rmq-cli\0{first}").as_bytes(), FieldTable::default());
    peer.expect_eof();
    // Another start, another secret.
    tools.broker.kill();
    tools.broker.restart();
    let api = Api::of(&tools.broker);
    assert_ne!(secret(&file), first);
    assert_eq!(api.by("rmq-cli", &first).get("/api/whoami").status, 401);
    let who = api.by("rmq-cli", &secret(&file)).get("/api/whoami").json();
    assert_eq!((&who["name"], &who["tags"]), (&json!("rmq-cli"), &json!(["administrator"])));
    assert!(tools.broker.stop().success());
    assert!(!file.exists());
}

#[test]
fn plugins_are_built_in_or_not() {
    let tools = Tools::new();
    let plugins = |arguments: &[&str]| tools.run("rabbitmq-plugins", arguments);
    assert!(plugins(&["list"]).out.contains("[E*] rabbitmq_management "));
    assert!(plugins(&["-q", "list", "-m", "delayed"]).out == "rabbitmq_delayed_message_exchange\n");
    assert_eq!(plugins(&["enable", "rabbitmq_management", "rabbitmq_consistent_hash_exchange"]).code, 0);
    let said = plugins(&["enable", "--offline", "rabbitmq_mqtt"]);
    assert!(said.code == 69 && said.err.contains("rabbitmq_mqtt is not built in"), "{said:?}");
    assert_eq!(plugins(&["is_enabled", "rabbitmq_prometheus"]).code, 0);
    assert_eq!(plugins(&["is_enabled", "rabbitmq_shovel"]).code, 69);
    let json: Json = serde_json::from_str(&plugins(&["list", "--formatter", "json"]).out).unwrap();
    assert!(json.as_array().unwrap().iter().all(|plugin| plugin["running"] == true));
}

#[test]
fn rabbitmqadmin_declares_as_test_libraries_call_it() {
    let tools = Tools::new();
    assert_eq!(tools.admin("declare vhost name=v"), "vhost declared\n");
    assert_eq!(tools.admin("declare user name=ann password=pw tags=management"), "user declared\n");
    assert_eq!(
        tools.admin("declare permission vhost=v user=ann configure=.* write=.* read=.*"),
        "permission declared\n"
    );
    let policy = r#"declare policy -V v name=p pattern=.* definition={"max-length":5} apply-to=queues"#;
    assert_eq!(tools.admin(policy), "policy declared\n");
    assert_eq!(
        tools.admin(r#"declare parameter -V v component=federation-upstream name=u value={"uri":"amqp://"}"#),
        "parameter declared\n"
    );
    let listed = tools.admin("-f tsv list vhosts name");
    assert_eq!(listed, "name\n/\nv\n");
    assert_eq!(tools.admin("-f bash list users name"), "ann guest\n");
    let users: Json = serde_json::from_str(&tools.admin("-f raw_json list users")).unwrap();
    assert_eq!(users[0]["name"], "ann");
    assert!(tools.admin("list queues").contains("No items"));
    assert!(tools.admin("show overview").contains("| rabbitmq_version |"));
    assert_eq!(tools.admin("export d.json"), format!("Exported definitions for {} to \"d.json\"\n", url(&tools)));
    assert_eq!(tools.admin("-q import d.json"), "");
    assert_eq!(tools.admin("declare queue name=orders durable=true auto_delete=false"), "queue declared\n");
    assert_eq!(tools.admin("declare exchange name=events type=topic durable=true"), "exchange declared\n");
    assert_eq!(
        tools.admin("declare binding source=events destination=orders destination_type=queue routing_key=order.#"),
        "binding declared\n"
    );
    assert_eq!(tools.admin("publish exchange=events routing_key=order.new payload=hello"), "Message published\n");
    assert_eq!(
        tools.admin("publish exchange=events routing_key=x payload=hello"),
        "Message published but NOT routed\n"
    );
    assert!(tools.admin("list queues").contains("| orders | 1 "), "{}", tools.admin("list queues"));
    let got = tools.admin("get queue=orders count=1 ackmode=ack_requeue_false");
    assert!(got.contains("| order.new ") && got.contains("| hello "), "{got}");
    assert_eq!(tools.admin("purge queue name=orders"), "queue purged\n");
    assert_eq!(tools.admin("queues declare --name q2 --type quorum"), "queue declared\n");
    assert_eq!(tools.admin("publish message --routing-key q2 --payload two"), "Message published\n");
    assert!(tools.admin("get messages --queue q2").contains("| two "));
    assert_eq!(tools.admin("delete queue name=q2"), "queue deleted\n");
    // The second version's words.
    assert_eq!(tools.admin("users declare --name bob --password pw --tags monitoring"), "user declared\n");
    assert_eq!(tools.admin("--vhost v policies delete --name p"), "policy deleted\n");
    assert_eq!(tools.admin("users delete --name bob"), "user deleted\n");
    let said = tools.run("rabbitmqadmin", &["delete", "user", "name=bob"]);
    assert!(said.code == 1 && said.err.starts_with("*** Not found"), "{said:?}");
    assert_eq!(tools.admin("users delete --name bob --idempotently"), "user deleted\n");
    let said = tools.run("rabbitmqadmin", &["-u", "nobody", "list", "queues"]);
    assert!(said.code == 1 && said.err.starts_with("*** Access refused"), "{said:?}");
    assert_eq!(json!(tools.run("rabbitmqadmin", &["declare", "queue"]).code), 1);
}

#[test]
fn queues_are_looked_into_redriven_and_explained() {
    let tools = Tools::new();
    let mut peer = Peer::open(&tools.broker);
    peer.declare(1, Declare::durable("dead"));
    peer.publish(1, "dead", PLAIN, b"one");
    peer.publish(1, "dead", PLAIN, b"two");
    assert_eq!(peer.declare(1, Declare::durable("dead")), (2, 0));
    let seen = tools.ctl(&["-s", "peek", "dead"]);
    assert_eq!(seen, "0\tready\tfalse\t\tdead\t3\tone\n1\tready\tfalse\t\tdead\t3\ttwo\n");
    assert!(tools.ctl(&["-s", "peek", "dead", "1", "--count", "5"]).starts_with("1\tready"));
    assert_eq!(tools.refused(&["peek", "none"]).0, 65);
    assert_eq!(
        tools.ctl(&["-q", "redrive", "dead"]),
        "Moved 0 messages; 2 stay, since no queue is there that they came from\n"
    );
    peer.declare(1, Declare::durable("q"));
    assert_eq!(tools.ctl(&["-q", "redrive", "dead", "--to", "q", "--count", "1"]), "Moved 1 messages\n");
    assert_eq!(tools.ctl(&["-s", "list_queues"]), "dead\t1\nq\t1\n");
    assert_eq!(
        tools.ctl(&["-q", "explain_route", "", "q"]),
        "the default exchange: 'q' is the name of a queue\nIt reaches: q\n"
    );
    assert!(tools.ctl(&["-q", "explain_route", "amq.direct", "k"]).ends_with("It reaches no queue\n"));
}

#[test]
fn a_file_is_held_against_a_broker_and_applied() {
    let tools = Tools::new();
    Peer::open(&tools.broker).declare(1, Declare::durable("q"));
    let file = tools.folder.path().join("d.toml");
    let text = "[[queues]]\nname = 'new'\nvhost = '/'\n\n[[policies]]\nname = 'p'\nvhost = '/'\npattern = '^q'\ndefinition = \
                { max-length = 5 }\n";
    std::fs::write(&file, text).unwrap();
    let check = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command.env_clear().env("HOME", tools.folder.path());
        let output = command.arg("check").args(more).arg("--against").arg(url(&tools)).arg(&file).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        (output.status.code().unwrap(), shown.replace(&format!("{}/", tools.folder.path().display()), ""))
    };
    let (code, said) = check(&[]);
    let plan = format!(
        "+ policy 'p' in vhost '/'\n+ queue 'new' in vhost '/'\nd.toml against {}: 2 to create, 0 to change, 0 conflicts, 0 unchanged",
        url(&tools)
    );
    assert!(code == 0 && said.ends_with(&format!("{plan}\n")), "{said}");
    assert_eq!(tools.ctl(&["-s", "list_queues"]), "q\t0\n");
    assert!(check(&["--apply"]).1.ends_with("; applied\n"));
    assert_eq!(tools.ctl(&["-s", "list_queues"]), "new\t0\nq\t0\n");
    std::fs::write(&file, "[[queues]]\nname = 'q'\nvhost = '/'\nauto_delete = true\n").unwrap();
    let (code, said) = check(&[]);
    assert!(code == 78 && said.contains("! queue 'q' in vhost '/': auto_delete is false, wanted true\n"), "{said}");
    std::fs::write(&file, "[[queues]]\nname = 'q'\nvhost = 'nowhere'\n").unwrap();
    let (code, said) = check(&["--apply"]);
    assert!(code == 78 && said.contains("error: queue 'q' in vhost 'nowhere': there is no virtual host"), "{said}");
}

#[test]
fn the_server_and_the_tools_answer_to_rabbitmqs_names_in_every_way() {
    let tools = Tools::new();
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(tools.folder.path().join("rabbitmq-server"));
    let variables = [("LEVERET_DATA_DIR", folder.path().to_str().unwrap()), ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")];
    command.env_clear().envs(variables).env("RABBITMQ_NODE_PORT", "0").env("LEVERET_HTTP_PORT", "0");
    command.env("LEVERET_METRICS_PORT", "none").arg("-noinput").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(server.stdout.take().unwrap()));
    let mut started = lines.map_while(Result::ok).filter(|line| line.contains("Server startup complete"));
    assert!(started.next().is_some());
    server.kill().unwrap();
    server.wait().unwrap();
    let by_word = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
        command.env_clear().env("LEVERET_URL", url(&tools));
        let output = command.args(words).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(by_word(&["rabbitmq-diagnostics", "-q", "ping"]), (0, "Ping succeeded\n".to_owned()));
    assert_eq!(by_word(&["rabbitmqadmin", "-f", "bash", "list", "vhosts"]), (0, "/\n".to_owned()));
    assert_eq!(by_word(&["rabbitmq-queues", "peek", "none"]).0, 65);
}
