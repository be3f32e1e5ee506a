//! The PROXY protocol before AMQP: whom the broker believes, and what it makes of what they say.

use super::support::tls::{Authority, Files, session, settings};
use super::support::{Broker, Peer, eventually};
use std::time::{Duration, Instant};

const GUEST_FROM_AFAR: &[u8] = b"PROXY TCP4 198.51.100.7 203.0.113.1 51234 5672\r\n";
const FROM_HERE: &[u8] = b"PROXY TCP4 127.0.0.1 127.0.0.1 51234 5672\r\n";
/// Version 2, LOCAL: the proxy's own.
const ITS_OWN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn trusting(networks: &str) -> Broker {
    Broker::with(&["--proxy-protocol=true", "--proxy-protocol-trusted", networks])
}

fn said(broker: &Broker, header: &[u8]) -> Peer {
    let mut peer = Peer::silent(broker);
    peer.octets(header);
    peer
}

#[test]
fn a_trusted_proxy_says_who_connects() {
    let broker = trusting("10.0.0.0/8,127.0.0.1");
    // guest may log in from this machine, as the proxy says it does here.
    said(&broker, FROM_HERE).opened();
    said(&broker, ITS_OWN).opened();
    said(&broker, b"PROXY UNKNOWN\r\n").opened();
    // Version 2, PROXY, TCP over IPv6, ::1 to ::1.
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    header.extend_from_slice(&[&[0; 15][..], &[1], &[0; 15], &[1, 200, 1, 22, 40]].concat());
    said(&broker, &header).opened();
    // But not from elsewhere, wherever the proxy is.
    let mut peer = said(&broker, GUEST_FROM_AFAR);
    peer.octets(leveret::amqp::PROTOCOL_HEADER);
    peer.expect_start();
    peer.start_ok("PLAIN", b"\0guest\0guest", amq_protocol::types::FieldTable::default());
    peer.expect_eof();
    let shown = "198.51.100.7:51234 -> 203.0.113.1:5672";
    assert!(broker.log().iter().any(|line| line.contains(shown)), "{:?}", broker.log());
}

#[test]
fn a_header_may_come_octet_by_octet_and_amqp_right_behind_it() {
    let broker = trusting("127.0.0.1");
    let mut peer = Peer::silent(&broker);
    for octet in FROM_HERE {
        peer.octets(&[*octet]);
    }
    peer.opened();
    let mut peer = said(&broker, &[FROM_HERE, leveret::amqp::PROTOCOL_HEADER].concat());
    peer.expect_start();
}

#[test]
fn nobody_else_is_believed_or_let_in() {
    let broker = trusting("10.0.0.0/8");
    let mut peer = Peer::silent(&broker);
    // Closed unread: the octets may come too late for it.
    let _ = peer.try_octets(FROM_HERE);
    assert_eq!(peer.rest(), b"");
    let why = "it is none of the proxies of proxy_protocol_trusted";
    eventually(why, || broker.log().iter().any(|line| line.contains(why)).then_some(()));
}

#[test]
fn what_is_no_header_ends_the_connection() {
    let broker = trusting("127.0.0.1");
    for octets in [
        leveret::amqp::PROTOCOL_HEADER.as_slice(),
        b"PROXY TCP4 nobody 203.0.113.1 51234 5672\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &[b'x'; 5000],
    ] {
        let mut peer = Peer::silent(&broker);
        let _ = peer.try_octets(octets);
        assert_eq!(peer.rest(), b"");
    }
    said(&broker, FROM_HERE).opened();
}

#[test]
fn a_header_has_the_time_of_a_handshake() {
    let broker =
        Broker::with(&["--proxy-protocol=true", "--proxy-protocol-trusted=::1,127.0.0.1", "--handshake-timeout=300ms"]);
    let began = Instant::now();
    assert_eq!(said(&broker, b"PROXY TCP4 ").rest(), b"");
    assert!(began.elapsed() >= Duration::from_millis(250));
}

#[test]
fn tls_follows_a_header() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&["--proxy-protocol=true", "--proxy-protocol-trusted=127.0.0.1"]);
    let mut peer = Peer::silent_at(([127, 0, 0, 1], broker.tls_port()).into());
    peer.octets(FROM_HERE);
    peer.start_tls(session(settings(&authority, None), "localhost")).unwrap();
    peer.opened();
}

#[test]
fn where_none_is_expected_a_header_is_no_amqp() {
    let broker = Broker::start();
    let mut peer = said(&broker, FROM_HERE);
    assert_eq!(peer.rest(), b"AMQP\x03\x01\x00\x00");
}
