//! AMQP over TLS: who is let in, and that it is AMQP all the same.

use super::support::peer::{PERSISTENT, PLAIN};
use super::support::tls::{Authority, Files, Issued, client, peer, session, settings, settings_of, text};
use super::support::{Broker, Declare, Peer, eventually, scale};
use rustls::ClientConfig;
use std::time::{Duration, Instant};

#[test]
fn a_client_that_trusts_the_broker_talks_over_tls() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&[]);
    let mut peer = peer(&broker, settings(&authority, None)).unwrap().opened();
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    peer.publish(1, "q", PERSISTENT, b"hop");
    peer.expect_confirms(1, 1);
    assert_eq!(peer.get(1, "q", true).unwrap().body, b"hop");
    // The plain listener serves beside it.
    let mut plain = Peer::open(&broker);
    assert_eq!(plain.get(1, "q", true), None);
}

#[test]
fn large_messages_go_both_ways() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&[]);
    let mut peer = peer(&broker, settings(&authority, None)).unwrap().opened();
    peer.declare(1, Declare::transient("q"));
    for bytes in [0, 1, 16_384, 1 << 20, 10 << 20] {
        let body: Vec<u8> = (0..bytes).map(|at: u32| (at % 251) as u8).collect();
        peer.publish(1, "q", PLAIN, &body);
        let got = peer.get(1, "q", true).unwrap();
        assert!(got.body == body, "{bytes} octets came back changed");
    }
}

/// Whether the broker lets a client in; `false` if it ends the handshake, on whichever side that is noticed.
fn lets_in(broker: &Broker, settings: ClientConfig) -> bool {
    let Ok(mut peer) = peer(broker, settings) else { return false };
    // With TLS 1.3 the client is through before the broker has seen its certificate.
    peer.try_octets(leveret::amqp::PROTOCOL_HEADER).is_ok() && peer.try_start().is_some()
}

#[test]
fn a_certificate_is_asked_for_and_may_be_left_out() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&["--tls-verify=verify_peer"]);
    assert!(lets_in(&broker, settings(&authority, None)));
    assert!(lets_in(&broker, settings(&authority, Some(&authority.client("hare")))));
    // But a wrong one is not as good as none.
    assert!(!lets_in(&broker, settings(&authority, Some(&Authority::new("The Warren").client("hare")))));
}

#[test]
fn a_client_needs_a_certificate_that_its_authority_vouches_for() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&["--tls-verify=verify_peer", "--tls-fail-if-no-peer-cert=true"]);
    let between = authority.below("The Burrow");
    let shows = |shown: &Issued| lets_in(&broker, settings(&authority, Some(shown)));
    assert!(shows(&authority.client("hare")));
    assert!(shows(&between.client("hare").through(&between)));
    assert!(!lets_in(&broker, settings(&authority, None)), "no certificate");
    assert!(!shows(&Issued::by_itself(client("hare"))), "nobody vouches for it");
    assert!(!shows(&between.client("hare")), "nobody says who the one between is");
    // The same name and serial number say nothing: the whole chain counts.
    let mut params = client("hare");
    params.serial_number = Some(1.into());
    assert!(shows(&authority.issue(params.clone())));
    assert!(!shows(&Authority::new("The Warren").issue(params)), "another authority of that name");
    let mut late = client("hare");
    late.not_after = rcgen::date_time_ymd(2020, 1, 1);
    assert!(!shows(&authority.issue(late)), "expired");
    let mut early = client("hare");
    early.not_before = rcgen::date_time_ymd(2100, 1, 1);
    assert!(!shows(&authority.issue(early)), "not yet valid");
    assert!(!shows(&authority.server(&["hare"])), "a server's");
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&[]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let peer = peer(&broker, settings_of(&authority, None, &[version])).unwrap();
        assert_eq!(peer.tls().protocol_version(), Some(version.version));
        peer.opened();
    }
    // A client's first words for SSL 3.0, TLS 1.0 and 1.1, with a cipher of that time: the answer is a fatal alert,
    // protocol_version.
    for minor in 0..=2 {
        let mut peer = Peer::silent_at(([127, 0, 0, 1], broker.tls_port()).into());
        let mut hello = vec![3, minor];
        hello.extend_from_slice(&[7; 32]);
        hello.extend_from_slice(&[0, 0, 4, 0xC0, 0x13, 0x00, 0x2F, 1, 0]);
        // Its curves and signatures would do.
        hello.extend_from_slice(&[0, 18, 0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 6, 0, 4, 4, 1, 4, 3]);
        let length = u8::try_from(hello.len()).unwrap();
        let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
        record.extend_from_slice(&hello);
        peer.octets(&record);
        assert_eq!(peer.rest(), [21, 3, 3, 0, 2, 2, 70], "3.{minor}");
    }
}

#[test]
fn a_handshake_has_little_time() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&["--tls-handshake-timeout=300ms"]);
    let began = Instant::now();
    let mut silent = Peer::silent_at(([127, 0, 0, 1], broker.tls_port()).into());
    let mut slow = Peer::silent_at(([127, 0, 0, 1], broker.tls_port()).into());
    slow.octets(&[22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3]);
    silent.expect_eof();
    slow.expect_eof();
    assert!(began.elapsed() >= Duration::from_millis(250));
    assert!(lets_in(&broker, settings(&authority, None)));
}

#[test]
fn who_speaks_something_else_to_the_tls_port_is_told_of_in_one_line() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&[]);
    let cases = [
        (&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], "this is HTTP without TLS"),
        (leveret::amqp::PROTOCOL_HEADER, "this is AMQP without TLS"),
    ];
    for (said, hint) in cases {
        // Of those who are turned away one a second is told of.
        eventually(hint, || {
            let mut peer = Peer::silent_at(([127, 0, 0, 1], broker.tls_port()).into());
            peer.octets(said);
            peer.rest();
            broker.log().iter().find(|line| line.contains(hint)).cloned()
        });
    }
    assert!(lets_in(&broker, settings(&authority, None)));
}

#[test]
fn the_certificate_is_that_of_the_host_that_is_asked_for() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let meadow = authority.server(&["meadow.example", "*.burrow.example"]);
    let more = files.write("meadow.pem", &(meadow.pem() + &meadow.key.serialize_pem()));
    let broker = files.broker(&["--tls-more-certfiles", text(&more)]);
    let shown = |host: &str| {
        let mut peer = Peer::silent_at(([127, 0, 0, 1], broker.tls_port()).into());
        peer.start_tls(session(settings(&authority, None), host))
            .map(|()| peer.tls().peer_certificates().unwrap()[0].clone())
    };
    assert_eq!(shown("meadow.example").unwrap(), meadow.chain[0]);
    assert_eq!(shown("a.burrow.example").unwrap(), meadow.chain[0]);
    assert_ne!(shown("localhost").unwrap(), meadow.chain[0]);
    // The default, which this client does not take for the host that it wants.
    assert!(shown("a.b.burrow.example").is_err() && shown("elsewhere.example").is_err());
}

#[test]
fn versions_and_cipher_suites_are_those_of_the_settings() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let suites = "ECDHE-ECDSA-AES128-GCM-SHA256,ECDHE-ECDSA-AES256-GCM-SHA384";
    let ciphers = format!("--tls-ciphers={suites}");
    let broker = files.broker(&["--tls-versions=tlsv1.2", &ciphers, "--tls-honor-cipher-order=true"]);
    let peer = peer(&broker, settings(&authority, None)).unwrap();
    assert_eq!(peer.tls().protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    // The client would rather have the other.
    let agreed = peer.tls().negotiated_cipher_suite().unwrap().suite();
    assert_eq!(agreed, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    assert!(!lets_in(&broker, settings_of(&authority, None, &[&rustls::version::TLS13])));
}

#[test]
fn a_key_may_have_a_password() {
    // openssl req -x509 -newkey ed25519 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost -days 36500, and
    // openssl pkcs8 -topk8 -passout pass:carrot
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    files.write("cert.pem", include_str!("support/ed25519.pem"));
    files.write("key.pem", include_str!("support/ed25519-carrot.pem"));
    let flags = files.flags();
    let mut toml = String::new();
    for flag in &flags {
        let (key, value) = flag.trim_start_matches("--").split_once('=').unwrap();
        let key = key.replacen("tls-", "tls.", 1).replace('-', "_");
        toml.push_str(&format!("{key} = \"{value}\"\n"));
    }
    let broker = Broker::with_config(&format!("{toml}tls.password = \"carrot\"\n"));
    broker.tls_port();
    // Without it, or with another, there is no start.
    for (password, what) in
        [("", "the key is encrypted, and needs tls.password"), ("tls.password = \"leek\"", "does not open")]
    {
        let refused = Broker::try_with_config(&format!("{toml}{password}\n")).map(drop).unwrap_err();
        assert_eq!(refused.exit_code, Some(78));
        assert!(refused.text.contains(what), "{}", refused.text);
    }
}

#[test]
fn mistakes_in_files_stop_the_start_and_name_the_file() {
    let authority = Authority::new("The Warren");
    let server = authority.server(&["localhost"]);
    let spoiled = |name: &str, content: &str, what: &str| {
        let files = Files::new(&authority, &server);
        files.write(name, content);
        let flags = [files.flags(), vec!["--tls-verify=verify_peer".to_owned()]].concat();
        let refused = Broker::try_with(&flags).map(drop).unwrap_err();
        assert_eq!(refused.exit_code, Some(78));
        assert!(refused.text.contains(name) && refused.text.contains(what), "{}", refused.text);
    };
    spoiled("ca.pem", "", "holds no certificate");
    spoiled("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "invalid");
    spoiled("cert.pem", "nothing", "holds no certificate");
    spoiled("key.pem", "nothing", "no items found");
    spoiled("key.pem", &authority.server(&["localhost"]).key.serialize_pem(), "KeyMismatch");
    spoiled("key.pem", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", "openssl pkcs8 -topk8");
}

#[test]
fn a_chain_has_no_more_authorities_than_it_may() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let (first, second) = (authority.below("The Burrow"), authority.below("The Meadow").below("The Hedge"));
    for (depth, in_between) in [("0", false), ("1", true)] {
        let broker = files.broker(&["--tls-verify=verify_peer", "--tls-depth", depth]);
        let shows = |shown: &Issued| lets_in(&broker, settings(&authority, Some(shown)));
        assert!(shows(&authority.client("hare")));
        assert_eq!(shows(&first.client("hare").through(&first)), in_between, "depth {depth}");
        assert!(!shows(&second.client("hare").through(&second)), "depth {depth}");
    }
}

#[test]
fn a_revoked_certificate_is_none() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let mut params = client("hare");
    params.serial_number = Some(7.into());
    let (gone, good) = (authority.issue(params), authority.client("hare"));
    let list = files.write("crl.pem", &authority.revokes(7));
    let other = files.write("other.pem", &Authority::new("The Burrow").revokes(7));
    let broker = |list, check| {
        files.broker(&["--tls-verify=verify_peer", "--tls-crlfiles", text(list), "--tls-crl-check", check])
    };
    for check in ["true", "peer", "best_effort"] {
        let broker = broker(&list, check);
        assert!(!lets_in(&broker, settings(&authority, Some(&gone))), "{check}");
        assert!(lets_in(&broker, settings(&authority, Some(&good))), "{check}");
    }
    // Nobody's list knows of it.
    assert!(!lets_in(&broker(&other, "true"), settings(&authority, Some(&good))));
    assert!(lets_in(&broker(&other, "best_effort"), settings(&authority, Some(&good))));
}

#[test]
fn events_tell_what_was_agreed_on_and_shown() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&["--tls-verify=verify_peer"]);
    let mut listener = Peer::open(&broker);
    listener.declare(1, Declare::transient("events"));
    listener.bind(1, "events", "amq.rabbitmq.event", "connection.created");
    let mut params = client("hare");
    params.serial_number = Some(0xABC.into());
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 2), rcgen::date_time_ymd(2099, 3, 4));
    let shown = authority.issue(params);
    let _peer = peer(&broker, settings(&authority, Some(&shown))).unwrap().opened();
    let event = eventually("an event", || listener.get(1, "events", true));
    let header = |name: &str| {
        let fields = leveret::amqp::properties::Properties::parse(&event.properties).unwrap();
        let value = fields.headers.and_then(|headers| headers.get(name.as_bytes())).unwrap();
        format!("{value:?}")
    };
    for (name, value) in [
        ("peer_cert_subject", "O=Hares,CN=hare"),
        ("peer_cert_issuer", "CN=The Warren"),
        ("peer_cert_serial_number", "ABC"),
        ("peer_cert_validity", "2020-01-02T00:00:00Z - 2099-03-04T00:00:00Z"),
        ("ssl_protocol", "tlsv1.3"),
        ("ssl_key_exchange", "any"),
        ("ssl_cipher", "aes_256_gcm"),
        ("ssl_hash", "aead"),
    ] {
        let octets = leveret::amqp::table::Field::LongStr(value.as_bytes());
        assert_eq!(header(name), format!("{octets:?}"), "{name}");
    }
    assert_eq!(header("ssl"), "Bool(true)");
}

#[test]
fn abrupt_ends_leave_nothing_behind_and_little_in_the_log() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&[]);
    let address = ([127, 0, 0, 1], broker.tls_port()).into();
    lets_in(&broker, settings(&authority, None));
    let (files_before, lines_before) = (broker.open_files(), broker.log().len());
    for round in 0..scale("LEVERET_ABRUPT_ENDS", 200) {
        match round % 4 {
            // Before, in the middle of, and after the handshake.
            0 => drop(Peer::silent_at(address)),
            1 => Peer::silent_at(address).octets(&[22, 3, 1, 2, 0, 1, 0]),
            2 => peer(&broker, settings(&authority, None)).unwrap().vanish(),
            _ => peer(&broker, settings(&authority, None)).unwrap().half_close(),
        }
    }
    eventually("all sockets closed", || (broker.open_files() <= files_before + 1).then_some(()));
    assert!(broker.log().len() < lines_before + 20, "{:?}", broker.log());
}

#[test]
fn a_consumer_that_reads_slowly_gets_everything() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&[]);
    let mut consumer = peer(&broker, settings(&authority, None)).unwrap().opened();
    consumer.declare(1, Declare::transient("q"));
    consumer.consume(1, "q", "c", true);
    let mut publisher = Peer::open(&broker);
    let body = vec![7; 1 << 20];
    for _ in 0..24 {
        publisher.publish(1, "q", PLAIN, &body);
    }
    // An answer comes when all of that has: far more than the sockets hold.
    publisher.declare(1, Declare::transient("other"));
    for _ in 0..24 {
        std::thread::sleep(Duration::from_millis(5));
        assert!(consumer.expect_delivery().body == body);
    }
}
