//! AMQP over TLS: who is let in, and that it is AMQP all the same.

use super::support::peer::{PERSISTENT, PLAIN};
use super::support::tls::{Authority, Files, Issued, client, peer, settings, settings_of};
use super::support::{Broker, Declare, Peer, eventually};
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
        let mut peer = Peer::silent_at(([127, 0, 0, 1], broker.tls_port()).into());
        peer.octets(said);
        peer.rest();
        eventually(hint, || broker.log().iter().find(|line| line.contains(hint)).cloned());
    }
    assert!(lets_in(&broker, settings(&authority, None)));
}
