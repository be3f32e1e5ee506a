//! Octets that are more, or other, than they say.

use super::super::support::peer::{PLAIN, write_header, write_publish};
use super::super::support::{Broker, Declare, Peer};
use super::{MIB, assert_alive, grows_at_most, with_headers};
use leveret::amqp::{PROTOCOL_HEADER, frame, method};

/// basic.publish to a queue and the header of its content; the body is to follow.
fn begin_publish(peer: &mut Peer, queue: &str, body_bytes: u64) {
    let mut out = Vec::new();
    method::write_publish(&mut out, 1, "", queue, false);
    write_header(&mut out, 1, body_bytes, PLAIN);
    peer.octets(&out);
}

/// The first seven octets of a frame.
fn frame_head(kind: u8, channel: u16, payload_bytes: u32) -> Vec<u8> {
    [&[kind][..], &channel.to_be_bytes(), &payload_bytes.to_be_bytes()].concat()
}

/// The fields of a table with one array of `count` values that take no octet but their type's.
fn nothings(count: usize) -> Vec<u8> {
    [&b"\x01nA"[..], &(count as u32).to_be_bytes(), &vec![b'V'; count]].concat()
}

/// The fields of a table with one text of so many octets.
fn text(octets: usize) -> Vec<u8> {
    [&b"\x01nS"[..], &(octets as u32).to_be_bytes(), &vec![b'V'; octets]].concat()
}

/// The payload of connection.start-ok as guest, with these fields as client properties.
fn start_ok(client_properties: &[u8]) -> Vec<u8> {
    let mut payload = [0, 10, 0, 11].to_vec();
    payload.extend_from_slice(&(client_properties.len() as u32).to_be_bytes());
    payload.extend_from_slice(client_properties);
    method::short_string(&mut payload, "PLAIN");
    payload.extend_from_slice(&12_u32.to_be_bytes());
    payload.extend_from_slice(b"\0guest\0guest");
    method::short_string(&mut payload, "en_US");
    payload
}

fn greeted(broker: &Broker) -> Peer {
    let mut peer = Peer::silent(broker);
    peer.octets(PROTOCOL_HEADER);
    peer.expect_start();
    peer
}

#[test]
fn cve_2026_67235_a_body_cannot_grow_beyond_what_its_header_says() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    begin_publish(&mut peer, "q", 10);
    peer.frame(frame::BODY, 1, b"123456");
    peer.frame(frame::BODY, 1, b"78901");
    peer.expect_connection_close(501, "FRAME_ERROR - content body frame exceeds remaining content size");
    // Nor beyond what a body may be, however little its header and each of its frames say.
    grows_at_most(&broker, 64 * MIB, || {
        let mut peer = Peer::open(&broker);
        begin_publish(&mut peer, "q", 16 * MIB);
        let piece = vec![7; 131_064];
        let pieces = (16 << 20) / piece.len() + 1;
        for _ in 0..pieces {
            // The last one is one too many.
            peer.frame(frame::BODY, 1, &piece);
        }
        peer.expect_connection_close(501, "FRAME_ERROR - content body frame exceeds remaining content size");
    });
    let mut peer = Peer::open(&broker);
    assert_eq!(peer.get(1, "q", true), None);
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_67225_no_frame_is_larger_than_was_agreed_on() {
    let mut broker = Broker::start();
    for kind in [frame::METHOD, frame::HEADER, frame::BODY] {
        // RabbitMQ, too, lets the eight octets around a payload pass.
        for (frame_max, payload_bytes) in [(4096, 4097), (131_072, 131_073), (131_072, u32::MAX)] {
            let mut peer = Peer::connect_with(&broker, frame_max, 0);
            peer.open_channel(1);
            // Its first octets say enough; nothing of it is waited for.
            peer.octets(&frame_head(kind, 1, payload_bytes));
            peer.expect_connection_close(501, "FRAME_ERROR");
        }
    }
    // A frame of just that size is taken.
    let mut peer = Peer::connect_with(&broker, 4096, 0);
    peer.open_channel(1);
    peer.declare(1, Declare::transient("q"));
    begin_publish(&mut peer, "q", 4088);
    peer.frame(frame::BODY, 1, &[7; 4088]);
    assert_eq!(peer.get(1, "q", true).unwrap().body.len(), 4088);
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_57220_before_the_login_no_frame_is_larger_than_initial_frame_max() {
    // Long, so that what ends a connection is not that.
    let mut broker = Broker::with(&["--handshake-timeout", "10min"]);
    for payload_bytes in [8193, 131_064, u32::MAX] {
        let mut peer = greeted(&broker);
        peer.octets(&frame_head(frame::METHOD, 0, payload_bytes));
        peer.expect_eof();
    }
    // A login of exactly that size is one.
    let mut peer = greeted(&broker);
    let rest = 8192 - start_ok(&text(0)).len();
    peer.frame(frame::METHOD, 0, &start_ok(&text(rest)));
    peer.expect_tune();
    assert_alive(&mut broker);
}

#[test]
fn ghsa_6xpg_rfmh_grhq_a_smaller_limit_before_the_login_is_enforced_too() {
    let mut broker = Broker::with(&["--initial-frame-max", "4096", "--handshake-timeout", "10min"]);
    let most = 4096 - start_ok(&text(0)).len();
    let mut peer = greeted(&broker);
    peer.frame(frame::METHOD, 0, &start_ok(&text(most)));
    peer.expect_tune();
    let mut peer = greeted(&broker);
    let mut one_more = Vec::new();
    frame::write(&mut one_more, frame::METHOD, 0, |out| out.extend_from_slice(&start_ok(&text(most + 1))));
    // It may be closed before all of it is read.
    let _ = peer.try_octets(&one_more);
    peer.expect_eof();
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_67230_what_comes_before_the_login_does_not_pile_up() {
    let mut broker = Broker::with(&["--handshake-timeout", "20s"]);
    assert_alive(&mut broker);
    grows_at_most(&broker, 300 * (64 << 10), || {
        // Each of them has sent all it may but the last octet.
        let mut frame = frame_head(frame::METHOD, 0, 8184);
        frame.resize(8191, 0);
        let peers: Vec<Peer> = (0..300)
            .map(|_| {
                let mut peer = greeted(&broker);
                peer.octets(&frame);
                peer
            })
            .collect();
        Peer::open(&broker).close();
        drop(peers);
    });
    // And who goes on and on is cut off.
    let mut endless = greeted(&broker);
    let piece = vec![0xFF; 64 << 10];
    let sent = (0..1024).take_while(|_| endless.try_octets(&piece).is_ok()).count();
    assert!(sent < 1024, "64 MiB were taken before any login");
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_66079_an_array_of_nothings_before_the_login_is_not_built() {
    let mut broker = Broker::with(&["--handshake-timeout", "10min"]);
    assert_alive(&mut broker);
    // As many as there may be cost little, and more are refused.
    for (count, taken) in [(1000, true), (8000, false)] {
        let payload = start_ok(&nothings(count));
        grows_at_most(&broker, 100 * (64 << 10), || {
            let mut peers: Vec<Peer> = (0..100).map(|_| greeted(&broker)).collect();
            for peer in &mut peers {
                peer.frame(frame::METHOD, 0, &payload);
            }
            for peer in &mut peers {
                if taken {
                    peer.expect_tune();
                } else {
                    peer.expect_eof();
                }
            }
        });
    }
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_67414_arrays_of_nothings_in_many_messages_do_not_add_up() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    let properties = with_headers(&nothings(130_000));
    grows_at_most(&broker, 80 * MIB, || {
        peer.confirm_select(1);
        for number in 1..=100 {
            let mut out = Vec::new();
            write_publish(&mut out, 1, "", "q", &properties, b"", peer.frame_max);
            peer.octets(&out);
            peer.expect_confirms(number, number);
        }
    });
    for _ in 0..100 {
        assert!(peer.get(1, "q", true).unwrap().properties == properties);
    }
    assert_alive(&mut broker);
}
