//! Sender-selected distribution: `CC` and `BCC` are routing keys too, and nobody sees `BCC`.

use super::support::peer::{Incoming, write_header};
use super::support::{Broker, Declare, Peer};
use amq_protocol::protocol::{AMQPClass, basic};
use leveret::amqp::{frame, method};

const QUEUES: [&str; 3] = ["to", "cc", "bcc"];

/// Raw properties with delivery mode 2, `CC`, and perhaps `BCC` between two other headers.
fn properties(cc: &str, bcc: Option<&str>) -> Vec<u8> {
    let mut headers = b"\x01aV".to_vec();
    for (name, key) in [("BCC", bcc), ("CC", Some(cc))] {
        let Some(key) = key else { continue };
        method::short_string(&mut headers, name);
        headers.push(b'A');
        headers.extend_from_slice(&(key.len() as u32 + 5).to_be_bytes());
        headers.push(b'S');
        headers.extend_from_slice(&(key.len() as u32).to_be_bytes());
        headers.extend_from_slice(key.as_bytes());
    }
    headers.extend_from_slice(b"\x01zt\x01");
    let mut raw = vec![0x30, 0];
    raw.extend_from_slice(&(headers.len() as u32).to_be_bytes());
    raw.extend_from_slice(&headers);
    raw.push(2);
    raw
}

fn expect_copies(peer: &mut Peer, bodies: &[Vec<u8>]) {
    for queue in QUEUES {
        for body in bodies {
            let content = peer.get(1, queue, false).unwrap();
            assert_eq!(content.properties, properties("cc", None));
            assert_eq!((content.routing_key.as_str(), &content.body), ("to", body));
        }
        assert_eq!(peer.get(1, queue, false), None);
    }
}

#[test]
fn copies_go_to_all_keys_and_bcc_is_seen_by_nobody_ever() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for queue in QUEUES {
        peer.declare(1, Declare::durable(queue));
    }
    peer.confirm_select(1);
    // Packed with others, and a run of its own.
    let bodies = [b"small".to_vec(), vec![7; 300_000]];
    for body in &bodies {
        peer.publish(1, "to", &properties("cc", Some("bcc")), body);
    }
    peer.expect_confirms(1, 2);
    expect_copies(&mut peer, &bodies);
    broker.kill();
    broker.restart();
    let mut peer = Peer::open(&broker);
    peer.consume(1, "bcc", "c", true);
    for body in &bodies {
        let content = peer.expect_delivery();
        assert_eq!((content.properties, &content.body), (properties("cc", None), body));
    }
}

#[test]
fn copies_in_a_transaction() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for queue in QUEUES {
        peer.declare(1, Declare::transient(queue));
    }
    peer.tx_select(1);
    let bodies = [b"small".to_vec(), vec![7; 300_000]];
    for body in &bodies {
        peer.publish(1, "to", &properties("cc", Some("bcc")), body);
    }
    peer.tx_commit(1);
    expect_copies(&mut peer, &bodies);
}

#[test]
fn a_returned_message_has_no_bcc() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for body in [b"small".to_vec(), vec![7; 100_000]] {
        let mut out = Vec::new();
        method::write_publish(&mut out, 1, "", "nobody", true);
        write_header(&mut out, 1, body.len() as u64, &properties("no one", Some("none")));
        frame::write_body(&mut out, 1, &body, peer.frame_max);
        peer.octets(&out);
        let Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Return(_))) = peer.next() else { panic!() };
        let Incoming::Header { properties: raw, .. } = peer.next() else { panic!() };
        assert_eq!(raw, properties("no one", None));
        assert_eq!(peer.next(), Incoming::Body(1, body));
    }
}
