//! From the first octet to connection.open-ok (specification 2.2.4).

use super::support::{Broker, Peer, eventually};
use amq_protocol::protocol::{AMQPClass, connection};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::{PROTOCOL_HEADER, frame};

/// What RabbitMQ 4 answers to whatever is no AMQP 0-9-1.
const OTHER_PROTOCOL: &[u8] = b"AMQP\x03\x01\x00\x00";

/// The client properties of one that understands a refused login.
fn understands_failure() -> FieldTable {
    let mut capabilities = FieldTable::default();
    capabilities.insert("authentication_failure_close".into(), AMQPValue::Boolean(true));
    let mut properties = FieldTable::default();
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties
}

fn tune_ok(peer: &mut Peer, channel_max: u16, frame_max: u32) {
    peer.connection(connection::AMQPMethod::TuneOk(connection::TuneOk { channel_max, frame_max, heartbeat: 0 }));
}

fn assert_alive(broker: &mut Broker) {
    assert!(broker.is_running());
    Peer::open(broker).close();
}

#[test]
fn the_broker_introduces_itself_as_rabbitmq_does() {
    let broker = Broker::start();
    let mut peer = Peer::silent(&broker);
    peer.octets(PROTOCOL_HEADER);
    let start = peer.expect_start();
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    let mechanisms = String::from_utf8(start.mechanisms.as_bytes().to_vec()).unwrap();
    assert_eq!(mechanisms, "PLAIN AMQPLAIN ANONYMOUS");
    let properties = start.server_properties.inner();
    assert_eq!(properties.get("product"), Some(&AMQPValue::LongString("RabbitMQ".into())));
    let Some(AMQPValue::FieldTable(capabilities)) = properties.get("capabilities") else { panic!("{properties:?}") };
    for name in ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "exchange_exchange_bindings"] {
        assert_eq!(capabilities.inner().get(name), Some(&AMQPValue::Boolean(true)), "{name}");
    }
}

#[test]
fn the_limits_offered_are_rabbitmqs() {
    let broker = Broker::start();
    let tune = Peer::silent(&broker).log_in();
    assert_eq!((tune.channel_max, tune.frame_max, tune.heartbeat), (2047, 131_072, 60));
}

#[test]
fn a_later_version_of_the_protocol_is_told_ours() {
    let broker = Broker::start();
    let mut peer = Peer::silent(&broker);
    peer.octets(b"AMQP\x00\x00\x09\x02");
    assert_eq!(peer.rest(), PROTOCOL_HEADER);
}

#[test]
fn the_header_of_the_drafts_is_taken_for_ours() {
    let broker = Broker::start();
    let mut peer = Peer::silent(&broker);
    peer.octets(b"AMQP\x01\x01\x00\x09");
    assert_eq!(peer.expect_start().version_minor, 9);
}

#[test]
fn http_tls_and_other_strangers_are_answered_and_logged_once_each() {
    let mut broker = Broker::start();
    let strangers: [(&[u8], &str); 4] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"AMQP\x00\x01\x00\x00", "AMQP 1.0"),
        (b"\0\0\0\0\0\0\0\0", "unknown protocol"),
    ];
    for (octets, hint) in strangers {
        let mut peer = Peer::silent(&broker);
        peer.octets(octets);
        assert_eq!(peer.rest(), OTHER_PROTOCOL, "{hint}");
        eventually(hint, || broker.log().iter().any(|line| line.contains(hint)).then_some(()));
        assert_eq!(broker.log().iter().filter(|line| line.contains(hint)).count(), 1, "{hint}");
    }
    assert_alive(&mut broker);
}

#[test]
fn connections_that_say_nothing_or_half_a_header_leave_nothing() {
    let mut broker = Broker::start();
    assert_alive(&mut broker);
    let before = eventually("a quiet broker", || {
        let files = broker.open_files();
        (files < 60).then_some(files)
    });
    for cut in 0..50 {
        let mut peer = Peer::silent(&broker);
        peer.octets(&PROTOCOL_HEADER[..cut % 8]);
        peer.vanish();
    }
    eventually("all sockets closed", || (broker.open_files() <= before).then_some(()));
    assert_alive(&mut broker);
}

#[test]
fn half_a_handshake_is_ended_after_the_timeout() {
    let mut broker = Broker::with(&["--handshake-timeout", "300ms"]);
    // Nothing at all, half a header, and each whole step without the next.
    let mut silent = Peer::silent(&broker);
    assert_eq!(silent.rest(), b"");
    let mut half = Peer::silent(&broker);
    half.octets(&PROTOCOL_HEADER[..5]);
    assert_eq!(half.rest(), b"");
    let mut greeted = Peer::silent(&broker);
    greeted.octets(PROTOCOL_HEADER);
    greeted.expect_start();
    greeted.expect_eof();
    let mut tuning = Peer::silent(&broker);
    tuning.log_in();
    tuning.expect_eof();
    let mut opening = Peer::silent(&broker);
    opening.log_in();
    tune_ok(&mut opening, 10, 8192);
    opening.expect_eof();
    assert!(broker.is_running());
}

#[test]
fn a_whole_connection_outlives_the_handshake_timeout() {
    let broker = Broker::with(&["--handshake-timeout", "1s"]);
    let mut whole = Peer::open(&broker);
    let mut silent = Peer::silent(&broker);
    assert_eq!(silent.rest(), b"");
    whole.declare(1, super::support::Declare::transient("q"));
}

#[test]
fn a_wrong_password_is_403_for_those_who_understand_it() {
    let broker = Broker::start();
    let long = [b"\0guest\0".to_vec(), vec![b'x'; 3000]].concat();
    let refused: &[&[u8]] = &[b"\0guest\0wrong", b"\0guest\0", b"\0nobody\0guest", b"\0\0", &long];
    for response in refused {
        let mut peer = Peer::silent(&broker);
        peer.octets(PROTOCOL_HEADER);
        peer.expect_start();
        peer.start_ok("PLAIN", response, understands_failure());
        peer.expect_connection_close(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN");
    }
}

#[test]
fn malformed_logins_never_harm_the_broker() {
    let mut broker = Broker::start();
    let malformed: &[(&str, &[u8])] = &[
        ("PLAIN", b""),
        ("PLAIN", b"guest"),
        ("PLAIN", b"\0"),
        ("PLAIN", b"\0\0\0\0\0\0\0"),
        ("PLAIN", b"\0\xff\xfe\0\xff"),
        ("AMQPLAIN", b""),
        ("AMQPLAIN", b"\x05LOGINS\0\0\0\x05guest"),
        ("AMQPLAIN", b"\x05LOGINS\xff\xff\xff\xffguest"),
        ("AMQPLAIN", b"\x05LOGINI\0\0\0\x05\x08PASSWORDt\x01"),
        ("EXTERNAL", b""),
        ("SCRAM-SHA-256", b"n,,n=guest"),
        ("", b""),
    ];
    // All at once: RabbitMQ answers some of them late.
    let mut peers: Vec<Peer> = malformed
        .iter()
        .map(|(mechanism, response)| {
            let mut peer = Peer::silent(&broker);
            peer.octets(PROTOCOL_HEADER);
            peer.expect_start();
            peer.start_ok(mechanism, response, understands_failure());
            peer
        })
        .collect();
    for (peer, (mechanism, response)) in peers.iter_mut().zip(malformed) {
        // Refused by a close or by silence; never let in.
        match peer.try_next() {
            None => {}
            Some(super::support::peer::Incoming::Method(
                0,
                AMQPClass::Connection(connection::AMQPMethod::Close(close)),
            )) => {
                assert!([403, 501, 502, 503].contains(&close.reply_code), "{mechanism} {response:?}: {close:?}");
            }
            other => panic!("{mechanism} {response:?}: {other:?}"),
        }
    }
    assert_alive(&mut broker);
}

#[test]
fn amqplain_and_anonymous_log_in_too() {
    let broker = Broker::start();
    let amqplain = b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest";
    for (mechanism, response) in [("AMQPLAIN", &amqplain[..]), ("PLAIN", b"\0guest\0guest")] {
        let mut peer = Peer::silent(&broker);
        peer.octets(PROTOCOL_HEADER);
        peer.expect_start();
        peer.start_ok(mechanism, response, FieldTable::default());
        assert!(format!("{:?}", peer.next()).contains("Tune"), "{mechanism}");
    }
    let broker = Broker::with_config("anonymous_login_user = 'guest'\nanonymous_login_pass = 'guest'\n");
    let mut peer = Peer::silent(&broker);
    peer.octets(PROTOCOL_HEADER);
    peer.expect_start();
    peer.start_ok("ANONYMOUS", b"", FieldTable::default());
    assert!(format!("{:?}", peer.next()).contains("Tune"));
}

#[test]
fn limits_outside_what_was_offered_are_refused() {
    let mut broker = Broker::start();
    let refused = [(2047, 1), (2047, 4095), (2047, 131_073), (2047, 0), (2047, u32::MAX), (2048, 8192), (0, 8192)];
    let mut peers: Vec<Peer> = refused
        .iter()
        .map(|&(channel_max, frame_max)| {
            let mut peer = Peer::silent(&broker);
            peer.log_in();
            tune_ok(&mut peer, channel_max, frame_max);
            // The refusal is one of silence: whatever follows is not answered.
            let mut open = Vec::new();
            frame::write_heartbeat(&mut open);
            let _ = peer.try_octets(&open);
            peer
        })
        .collect();
    for peer in &mut peers {
        peer.expect_eof();
    }
    assert_alive(&mut broker);
}

#[test]
fn the_smallest_frame_size_is_kept_to() {
    let broker = Broker::start();
    let mut least = Peer::connect_with(&broker, 4096, 1);
    least.open_channel(1);
    least.declare(1, super::support::Declare::transient("q"));
    least.publish(1, "q", super::support::peer::PLAIN, &[7; 20_000]);
    // The peer itself asserts that no frame is larger than negotiated.
    assert_eq!(least.get(1, "q", true).unwrap().body, [7; 20_000]);
}

#[test]
fn an_unknown_vhost_is_530() {
    let broker = Broker::start();
    let mut peer = Peer::silent(&broker);
    peer.log_in();
    tune_ok(&mut peer, 10, 8192);
    peer.open_vhost("nowhere");
    peer.expect_connection_close(530, "NOT_ALLOWED - vhost nowhere not found");
}

#[test]
fn a_method_out_of_turn_is_no_way_in() {
    let mut broker = Broker::start();
    // connection.open before the login is answered by silence and an end.
    let mut early = Peer::silent(&broker);
    early.octets(PROTOCOL_HEADER);
    early.expect_start();
    early.open_vhost("/");
    early.expect_eof();
    // start-ok a second time, when the broker may say what is wrong.
    let mut late = Peer::connect(&broker);
    late.start_ok("PLAIN", b"\0guest\0guest", FieldTable::default());
    late.expect_connection_close(504, "CHANNEL_ERROR - unexpected method in connection state running");
    assert_alive(&mut broker);
}

#[test]
fn before_the_login_no_large_frame_is_taken() {
    let mut broker = Broker::start();
    let mut peer = Peer::silent(&broker);
    peer.octets(PROTOCOL_HEADER);
    peer.expect_start();
    // An envelope that announces 9000 octets is enough.
    peer.octets(&[frame::METHOD, 0, 0, 0, 0, 0x23, 0x28]);
    peer.expect_eof();
    assert_alive(&mut broker);
}
