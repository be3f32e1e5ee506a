//! What a running broker reads again, by SIGHUP and by `leveret reload`.

use super::support::tls::{Authority, Files, Issued, peer, session, settings, text};
use super::support::{Api, Broker, Declare, Peer, eventually};
use std::process::{Command, Output};

/// `leveret reload` with more arguments.
fn reload(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.env_clear().env("LEVERET_PASSWORD", "guest").arg("reload").args(arguments).output().unwrap()
}

fn https_port(broker: &Broker) -> u16 {
    let log = broker.log();
    let port = log.iter().find_map(|line| line.split_once("started HTTPS listener on 127.0.0.1:"));
    port.expect("HTTPS is served").1.trim().parse().unwrap()
}

#[test]
fn certificates_are_read_again_and_nobody_is_disconnected() {
    let authority = Authority::new("The Warren");
    let [first, second, third] = [(); 3].map(|()| authority.server(&["localhost"]));
    let files = Files::new(&authority, &first);
    let broker = files.broker(&["--https-port", "127.0.0.1:0"]);
    let shown = || {
        let peer = peer(&broker, settings(&authority, None)).unwrap();
        peer.tls().peer_certificates().unwrap()[0].clone()
    };
    let mut connected = peer(&broker, settings(&authority, None)).unwrap().opened();
    assert_eq!(shown(), first.chain[0]);
    let (url, ca) = (format!("https://localhost:{}", https_port(&broker)), files.path("ca.pem"));
    let by_https = ["--url", &url, "--cacert", ca.to_str().unwrap()];
    files.put(&second);
    let output = reload(&by_https);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.matches("the certificates of 127.0.0.1:0\n").count() == 2, "{said}");
    assert_eq!(shown(), second.chain[0]);
    // What is broken changes nothing, and is told.
    files.write("cert.pem", "nothing");
    let output = reload(&by_https);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(78) && said.contains("cert.pem"), "{said}");
    assert_eq!(shown(), second.chain[0]);
    files.put(&third);
    broker.hang_up();
    eventually("the third certificate", || (shown() == third.chain[0]).then_some(()));
    connected.declare(1, Declare::transient("q"));
    // Another authority's client does not believe it, nor does the broker believe everybody.
    let other = files.write("other.pem", &Authority::new("Elsewhere").pem());
    assert_eq!(reload(&["--url", &url, "--cacert", other.to_str().unwrap()]).status.code(), Some(69));
    assert_eq!(reload(&[&by_https[..], &["--user", "nobody"]].concat()).status.code(), Some(77));
}

#[test]
fn certificates_of_other_names_are_read_again_too() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let [first, second] = [(); 2].map(|()| authority.server(&["meadow.example"]));
    let put = |issued: &Issued| files.write("meadow.pem", &(issued.pem() + &issued.key.serialize_pem()));
    let meadow = put(&first);
    let broker = files.broker(&["--tls-more-certfiles", text(&meadow)]);
    let connect = || {
        let mut peer = Peer::silent_at(([127, 0, 0, 1], broker.tls_port()).into());
        peer.start_tls(session(settings(&authority, None), "meadow.example")).unwrap();
        peer
    };
    let shown = |peer: &Peer| peer.tls().peer_certificates().unwrap()[0].clone();
    let mut connected = connect().opened();
    assert_eq!(shown(&connected), first.chain[0]);
    put(&second);
    broker.hang_up();
    eventually("the second certificate", || (shown(&connect()) == second.chain[0]).then_some(()));
    connected.declare(1, Declare::transient("q"));
}

#[test]
fn the_level_of_the_logs_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("leveret.toml");
    let write = |level: &str| std::fs::write(&file, format!("[log]\nlevel = \"{level}\"\n")).unwrap();
    write("info");
    let broker = Broker::with(&["--http-port", "0", "--config", file.to_str().unwrap()]);
    let api = Api::of(&broker);
    let is_told = || broker.log().iter().any(|line| line.contains("[debug] GET /api/version"));
    assert_eq!(api.get("/api/version").status, 200);
    write("debug");
    let url = format!("http://127.0.0.1:{}", broker.http_port());
    let output = reload(&["--url", &url]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "the log level: debug\n");
    assert!(!is_told());
    assert_eq!(api.get("/api/version").status, 200);
    eventually("a line of that level", || is_told().then_some(()));
    write("loud");
    let output = reload(&["--url", &url]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(78) && said.contains("leveret.toml:2: log.level: 'loud' is not"), "{said}");
}
