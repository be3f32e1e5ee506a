//! Frames and content, well formed and not (specification 2.3.5 and 4.2). Whatever a client sends, the broker lives, and
//! others are served.

use super::support::peer::{PERSISTENT, PLAIN, close_channel, declare_queue, write_header, write_publish};
use super::support::{Broker, Declare, Peer};
use amq_protocol::protocol::{AMQPClass, basic, channel, queue};
use amq_protocol::types::FieldTable;
use leveret::amqp::{frame, method};

const MIB: u64 = 1 << 20;

fn assert_alive(broker: &mut Broker) {
    assert!(broker.is_running());
    let mut peer = Peer::open(broker);
    peer.declare(1, Declare { name: "alive", exclusive: true, ..Declare::default() });
    peer.publish(1, "alive", PLAIN, b"well");
    assert_eq!(peer.get(1, "alive", true).unwrap().body, b"well");
    peer.close();
}

/// A conversation that must end with connection.close, and a broker that is well afterwards.
fn check_closed(code: u16, text: &str, say: impl FnOnce(&mut Peer)) {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    say(&mut peer);
    peer.expect_connection_close(code, text);
    assert_alive(&mut broker);
}

/// basic.publish without its content.
fn publish_method(peer: &mut Peer, channel: u16, queue: &str) {
    let mut out = Vec::new();
    method::write_publish(&mut out, channel, "", queue, false);
    peer.octets(&out);
}

fn header(peer: &mut Peer, channel: u16, body_bytes: u64) {
    let mut out = Vec::new();
    write_header(&mut out, channel, body_bytes, PLAIN);
    peer.octets(&out);
}

#[test]
fn a_heartbeat_on_a_channel_is_505() {
    check_closed(505, "UNEXPECTED_FRAME", |peer| peer.frame(frame::HEARTBEAT, 1, b""));
}

#[test]
fn heartbeats_on_channel_0_may_come_at_any_time() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    publish_method(&mut peer, 1, "q");
    peer.frame(frame::HEARTBEAT, 0, b"");
    header(&mut peer, 1, 3);
    peer.frame(frame::HEARTBEAT, 0, b"");
    peer.frame(frame::BODY, 1, b"abc");
    assert_eq!(peer.get(1, "q", true).unwrap().body, b"abc");
}

#[test]
fn a_wrong_end_octet_is_501() {
    check_closed(501, "FRAME_ERROR", |peer| peer.octets(&[frame::METHOD, 0, 1, 0, 0, 0, 4, 0, 20, 0, 40, 0xCD]));
}

#[test]
fn a_frame_of_any_kind_larger_than_negotiated_is_501() {
    for kind in [frame::METHOD, frame::HEADER, frame::BODY, frame::HEARTBEAT] {
        // One octet more than the tolerance that RabbitMQ has; the payload need not come.
        let [s0, s1, s2, s3] = 131_073_u32.to_be_bytes();
        check_closed(501, "FRAME_ERROR", |peer| peer.octets(&[kind, 0, 1, s0, s1, s2, s3]));
    }
}

#[test]
fn a_body_larger_than_negotiated_is_501_also_when_it_comes_at_once_with_its_method() {
    let mut broker = Broker::start();
    let mut peer = Peer::connect_with(&broker, 4096, 10);
    peer.open_channel(1);
    let mut out = Vec::new();
    method::write_publish(&mut out, 1, "", "q", false);
    write_header(&mut out, 1, 5000, PLAIN);
    frame::write(&mut out, frame::BODY, 1, |out| out.extend_from_slice(&[0; 5000]));
    peer.octets(&out);
    peer.expect_connection_close(501, "FRAME_ERROR");
    assert_alive(&mut broker);
}

#[test]
fn a_smaller_negotiated_size_counts_and_not_the_brokers() {
    let mut broker = Broker::start();
    let mut peer = Peer::connect_with(&broker, 4096, 10);
    peer.open_channel(1);
    publish_method(&mut peer, 1, "q");
    header(&mut peer, 1, 10_000);
    // The broker may have closed before it took them all.
    let mut out = Vec::new();
    frame::write(&mut out, frame::BODY, 1, |out| out.extend_from_slice(&[0; 10_000]));
    let _ = peer.try_octets(&out);
    peer.expect_connection_close(501, "FRAME_ERROR");
    assert_alive(&mut broker);
}

#[test]
fn an_unknown_frame_type_is_501_at_the_first_of_a_million() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let mut out = Vec::new();
    frame::write(&mut out, 77, 1, |_| ());
    let many = out.repeat(10_000);
    for _ in 0..100 {
        if peer.try_octets(&many).is_err() {
            break;
        }
    }
    let told = || broker.log().iter().filter(|line| line.contains("unknown_frame")).count();
    // The log is read behind the broker's back.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while told() == 0 && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(told(), 1);
    assert!(broker.resident_bytes_max() < 100 * MIB, "{}", broker.resident_bytes_max());
    assert_alive(&mut broker);
    let mut peer = Peer::open(&broker);
    peer.octets(&out);
    peer.expect_connection_close(501, "FRAME_ERROR");
}

#[test]
fn more_body_than_announced_is_501() {
    check_closed(501, "FRAME_ERROR", |peer| {
        publish_method(peer, 1, "q");
        header(peer, 1, 5);
        peer.frame(frame::BODY, 1, b"abc");
        peer.frame(frame::BODY, 1, b"abc");
    });
}

#[test]
fn a_body_in_one_frame_longer_than_announced_is_501_too() {
    check_closed(501, "FRAME_ERROR", |peer| {
        let mut out = Vec::new();
        method::write_publish(&mut out, 1, "", "q", false);
        write_header(&mut out, 1, 3, PLAIN);
        frame::write(&mut out, frame::BODY, 1, |out| out.extend_from_slice(b"abcdef"));
        peer.octets(&out);
    });
}

#[test]
fn a_body_that_never_comes_to_its_end_is_interrupted_by_505() {
    check_closed(505, "UNEXPECTED_FRAME", |peer| {
        publish_method(peer, 1, "q");
        header(peer, 1, 100);
        peer.frame(frame::BODY, 1, b"abc");
        publish_method(peer, 1, "q");
    });
}

#[test]
fn a_method_where_the_header_should_be_is_505() {
    check_closed(505, "UNEXPECTED_FRAME - expected content header for class 60", |peer| {
        publish_method(peer, 1, "q");
        peer.method(1, declare_queue(Declare::transient("q"), FieldTable::default()));
    });
}

#[test]
fn content_where_a_method_should_be_is_505() {
    check_closed(505, "UNEXPECTED_FRAME", |peer| header(peer, 1, 3));
    check_closed(505, "UNEXPECTED_FRAME", |peer| peer.frame(frame::BODY, 1, b"abc"));
    check_closed(505, "UNEXPECTED_FRAME", |peer| peer.frame(frame::BODY, 0, b"abc"));
}

#[test]
fn a_body_where_the_header_should_be_is_505() {
    check_closed(505, "UNEXPECTED_FRAME", |peer| {
        publish_method(peer, 1, "q");
        peer.frame(frame::BODY, 1, b"abc");
    });
}

#[test]
fn a_header_of_another_class_is_505() {
    check_closed(505, "UNEXPECTED_FRAME - expected content header for class 60", |peer| {
        publish_method(peer, 1, "q");
        peer.frame(frame::HEADER, 1, &[0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0]);
    });
}

#[test]
fn an_announced_size_beyond_the_limit_is_refused_before_anything_is_taken_for_it() {
    for size in [16 * MIB + 1, 512 * MIB, 512 * MIB + 1, u64::from(u32::MAX) + 1, 1 << 63, u64::MAX] {
        let mut broker = Broker::start();
        let mut peer = Peer::open(&broker);
        publish_method(&mut peer, 1, "q");
        header(&mut peer, 1, size);
        match size <= 512 * MIB {
            true => peer.expect_channel_close(1, 406, "PRECONDITION_FAILED - message size"),
            false => peer.expect_connection_close(501, "FRAME_ERROR - content body size"),
        }
        assert!(broker.resident_bytes_max() < 100 * MIB, "{size}: {}", broker.resident_bytes_max());
        assert_alive(&mut broker);
    }
}

#[test]
fn announced_bodies_that_do_not_come_cost_nothing() {
    let mut broker = Broker::start();
    let mut peer = Peer::connect(&broker);
    for number in 1..=200 {
        peer.open_channel(number);
        publish_method(&mut peer, number, "q");
        header(&mut peer, number, 16 * MIB);
    }
    peer.open_channel(201);
    assert!(broker.resident_bytes_max() < 200 * MIB, "{}", broker.resident_bytes_max());
    assert_alive(&mut broker);
}

#[test]
fn a_method_on_a_channel_that_is_not_open_is_504() {
    for number in [2, 2047, 65_535] {
        check_closed(504, "CHANNEL_ERROR - expected 'channel.open'", |peer| {
            peer.method(number, declare_queue(Declare::transient("q"), FieldTable::default()));
        });
    }
    check_closed(504, "CHANNEL_ERROR - expected 'channel.open'", |peer| peer.method(9, close_channel()));
}

#[test]
fn opening_a_channel_twice_is_504() {
    check_closed(504, "CHANNEL_ERROR - second 'channel.open' seen", |peer| {
        peer.method(1, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
    });
}

#[test]
fn more_channels_than_negotiated_are_530() {
    let mut broker = Broker::start();
    let mut peer = Peer::connect_with(&broker, 8192, 3);
    for number in 1..=3 {
        peer.open_channel(number);
    }
    peer.method(4, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
    peer.expect_connection_close(
        530,
        "NOT_ALLOWED - number of channels opened (3) has reached the negotiated channel_max (3)",
    );
    assert_alive(&mut broker);
}

#[test]
fn a_closed_channels_number_is_free_again() {
    let broker = Broker::start();
    let mut peer = Peer::connect_with(&broker, 8192, 1);
    for _ in 0..100 {
        peer.open_channel(1);
        peer.declare(1, Declare::transient("q"));
        peer.close_channel(1);
    }
    peer.open_channel(1);
}

#[test]
fn a_method_on_a_channel_that_the_client_closed_is_504() {
    check_closed(504, "CHANNEL_ERROR - expected 'channel.open'", |peer| {
        peer.close_channel(1);
        peer.method(1, declare_queue(Declare::transient("q"), FieldTable::default()));
    });
}

#[test]
fn what_comes_on_a_channel_that_the_broker_closes_is_ignored_until_its_answer() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    // The first method fails; all others were already on their way.
    peer.method(1, declare_queue(Declare::passive("missing"), FieldTable::default()));
    peer.publish(1, "q", PLAIN, b"lost");
    peer.ack(1, 7, false);
    peer.nack(1, 7, true, true);
    publish_method(&mut peer, 1, "q");
    peer.method(1, declare_queue(Declare::passive("missing"), FieldTable::default()));
    peer.expect_channel_close(1, 404, "NOT_FOUND - no queue 'missing' in vhost '/'");
    // Nothing else came in between, and the number may be used again.
    peer.open_channel(1);
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 0));
}

#[test]
fn a_channel_close_that_crosses_the_brokers_is_answered() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.method(1, declare_queue(Declare::passive("missing"), FieldTable::default()));
    peer.method(1, close_channel());
    peer.expect_channel_close_unanswered(1, 404, "NOT_FOUND");
    peer.expect(1, &AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
    // The number is free once the broker's own close is answered.
    peer.method(1, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
    peer.open_channel(1);
}

#[test]
fn an_open_channel_is_not_harmed_by_another_ones_error() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.open_channel(2);
    peer.declare(2, Declare::transient("q"));
    publish_method(&mut peer, 2, "q");
    header(&mut peer, 2, 6);
    peer.frame(frame::BODY, 2, b"abc");
    peer.method(1, declare_queue(Declare::passive("missing"), FieldTable::default()));
    peer.expect_channel_close(1, 404, "NOT_FOUND");
    peer.frame(frame::BODY, 2, b"def");
    assert_eq!(peer.get(2, "q", true).unwrap().body, b"abcdef");
}

#[test]
fn nothing_is_delivered_on_a_channel_after_its_close() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.open_channel(2);
    peer.declare(2, Declare::transient("q"));
    peer.consume(1, "q", "c", true);
    peer.method(1, declare_queue(Declare::passive("missing"), FieldTable::default()));
    peer.expect_channel_close_unanswered(1, 404, "NOT_FOUND");
    for _ in 0..100 {
        peer.publish(2, "q", PLAIN, b"m");
    }
    // A delivery on channel 1 would come before this answer, and not be it.
    assert_eq!(peer.declare(2, Declare::passive("q")), (100, 0));
}

/// queue.declare of `q` with the octets of its arguments' table, whatever they are.
fn declare_with(table: &[u8]) -> Vec<u8> {
    let mut payload = vec![0, 50, 0, 10, 0, 0, 1, b'q', 0];
    payload.extend_from_slice(&u32::try_from(table.len()).unwrap().to_be_bytes());
    payload.extend_from_slice(table);
    payload
}

/// A table in a table in a table, as many times as told, or arrays.
fn nested(levels: usize, array: bool) -> Vec<u8> {
    let mut inner = Vec::new();
    for _ in 0..levels {
        let length = u32::try_from(inner.len()).unwrap().to_be_bytes();
        let mut outer = if array { vec![b'A'] } else { vec![1, b'x', b'F'] };
        outer.extend_from_slice(&length);
        outer.append(&mut inner);
        inner = outer;
    }
    if array { [&[1, b'x'], &inner[..]].concat() } else { inner }
}

#[test]
fn tables_nested_too_deep_are_502_and_harm_nobody() {
    let mut broker = Broker::start();
    for (levels, array) in [(33, false), (1_638, false), (16_000, false), (33, true), (1_638, true), (26_000, true)] {
        let table = nested(levels, array);
        assert!(table.len() < 131_000, "does not fit a frame");
        let mut peer = Peer::open(&broker);
        peer.frame(frame::METHOD, 1, &declare_with(&table));
        peer.expect_connection_close(502, "SYNTAX_ERROR - field tables nested deeper than");
        // The same as headers of a message.
        let mut peer = Peer::open(&broker);
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        let properties = [&[0x20, 0], &length[..], &table].concat();
        peer.declare(1, Declare::transient("q"));
        let mut out = Vec::new();
        write_publish(&mut out, 1, "", "q", &properties, b"m", 131_072);
        peer.octets(&out);
        peer.expect_connection_close(502, "SYNTAX_ERROR");
    }
    assert_alive(&mut broker);
}

#[test]
fn before_the_login_a_deep_table_is_no_danger_either() {
    let mut broker = Broker::start();
    let table = nested(1_000, false);
    let mut peer = Peer::silent(&broker);
    peer.octets(leveret::amqp::PROTOCOL_HEADER);
    peer.expect_start();
    let length = u32::try_from(table.len()).unwrap().to_be_bytes();
    let payload = [&[0, 10, 0, 11], &length[..], &table, b"\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US"].concat();
    peer.frame(frame::METHOD, 0, &payload);
    peer.expect_eof();
    assert_alive(&mut broker);
}

#[test]
fn a_table_as_deep_as_the_limit_is_taken() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let table = nested(31, false);
    let length = u32::try_from(table.len()).unwrap().to_be_bytes();
    let properties = [&[0x20, 0], &length[..], &table].concat();
    peer.declare(1, Declare::transient("q"));
    peer.publish(1, "q", &properties, b"m");
    assert_eq!(peer.get(1, "q", true).unwrap().properties, properties);
}

#[test]
fn a_length_beyond_the_frame_closes_the_connection() {
    // In a method's table, as the table's own length, as a long string's, as an array's.
    let too_long: [&[u8]; 4] =
        [b"\x01xS\xff\xff\xff\xffabc", b"\x01xS\0\0\0\x04abc", b"\x01xA\xff\xff\xff\xff", b"\x01xF\0\0\0\x09"];
    let mut broker = Broker::start();
    for table in too_long {
        let mut peer = Peer::open(&broker);
        peer.frame(frame::METHOD, 1, &declare_with(table));
        // RabbitMQ crashes on it, and says nothing.
        peer.expect_eof();
        let mut peer = Peer::open(&broker);
        peer.declare(1, Declare::transient("q"));
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        let properties = [&[0x20, 0], &length[..], table].concat();
        peer.publish(1, "q", &properties, b"m");
        peer.expect_connection_close(502, "SYNTAX_ERROR");
    }
    assert!(broker.resident_bytes_max() < 100 * MIB, "{}", broker.resident_bytes_max());
    assert_alive(&mut broker);
}

#[test]
fn arguments_cut_off_or_left_over_are_501() {
    let whole = declare_with(b"");
    let mut broker = Broker::start();
    for cut in [4, 6, 8, whole.len() - 1] {
        let mut peer = Peer::open(&broker);
        peer.frame(frame::METHOD, 1, &whole[..cut]);
        peer.expect_connection_close(501, "FRAME_ERROR");
    }
    let mut peer = Peer::open(&broker);
    peer.frame(frame::METHOD, 1, &[&whole[..], b"more"].concat());
    peer.expect_connection_close(501, "FRAME_ERROR");
    for payload in [&b""[..], b"\0", b"\0\x32\0"] {
        let mut peer = Peer::open(&broker);
        peer.frame(frame::METHOD, 1, payload);
        peer.expect_connection_close(501, "FRAME_ERROR");
    }
    assert_alive(&mut broker);
}

#[test]
fn an_unknown_method_or_field_type_ends_the_connection_alone() {
    let mut broker = Broker::start();
    for payload in [vec![0, 99, 0, 10], vec![0, 50, 0, 99], declare_with(b"\x01xQ\0\0")] {
        let mut peer = Peer::open(&broker);
        peer.frame(frame::METHOD, 1, &payload);
        peer.expect_eof();
    }
    assert_alive(&mut broker);
}

#[test]
fn an_array_of_nothings_costs_no_more_than_its_octets() {
    let mut broker = Broker::start();
    let voids = vec![b'V'; 130_000];
    let length = u32::try_from(voids.len()).unwrap().to_be_bytes();
    let table = [&b"\x01xA"[..], &length, &voids].concat();
    for _ in 0..20 {
        let mut peer = Peer::open(&broker);
        peer.frame(frame::METHOD, 1, &declare_with(&table));
        peer.expect_connection_close(502, "SYNTAX_ERROR - field tables of more than 1024 values");
    }
    assert!(broker.resident_bytes_max() < 150 * MIB, "{}", broker.resident_bytes_max());
    assert_alive(&mut broker);
}

#[test]
fn all_field_types_come_back_octet_for_octet_through_a_restart() {
    let table: Vec<u8> = [
        &b"\x01bb\x80"[..],
        b"\x01BB\xff",
        b"\x01ss\x80\x00",
        b"\x01uu\xff\xff",
        b"\x01II\x80\0\0\0",
        b"\x01ii\xff\xff\xff\xff",
        b"\x01ll\x80\0\0\0\0\0\0\0",
        b"\x01LL\x80\0\0\0\0\0\0\0",
        b"\x01ff\x7f\x7f\xff\xff",
        b"\x01dd\x7f\xef\xff\xff\xff\xff\xff\xff",
        b"\x01DD\x02\x80\0\0\0",
        b"\x01SS\0\0\0\x03\0\xff\xfe",
        b"\x01xx\0\0\0\x02\0\xff",
        b"\x01AA\0\0\0\x04t\x01VV",
        b"\x01FF\0\0\0\x05\x01VV\x00V",
        b"\x01TT\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x01tt\x02",
        b"\x01VV",
        // An empty key is nobody's business but the reader's.
        b"\x00V",
    ]
    .concat();
    let length = u32::try_from(table.len()).unwrap().to_be_bytes();
    let properties = [&[0x30, 0], &length[..], &table, &[2]].concat();
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    peer.publish(1, "q", &properties, b"m");
    peer.expect_confirms(1, 1);
    let got = peer.get(1, "q", false).unwrap();
    assert_eq!(got.properties, properties);
    broker.kill();
    broker.restart();
    let mut peer = Peer::open(&broker);
    let got = peer.get(1, "q", false).unwrap();
    assert_eq!((got.properties, got.body), (properties, b"m".to_vec()));
}

#[test]
fn names_of_255_octets_work_whatever_their_letters() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for name in ["q".repeat(255), format!("{}x", "ä".repeat(127)), "\u{1F407} leveret \t\u{7}".to_owned()] {
        peer.declare(1, Declare::durable(&name));
        peer.declare_exchange(1, &name, "direct", true);
        peer.bind(1, &name, &name, &name);
        let mut out = Vec::new();
        write_publish(&mut out, 1, &name, &name, PERSISTENT, b"m", 131_072);
        peer.octets(&out);
        let got = peer.get(1, &name, true).unwrap();
        assert_eq!((got.exchange, got.routing_key), (name.clone(), name.clone()));
    }
    broker.kill();
    broker.restart();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::passive(&"q".repeat(255)));
}

#[test]
fn an_error_text_with_a_long_name_is_cut_between_letters() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for name in [format!("{}x", "ä".repeat(127)), "q".repeat(255), "\u{1F407}".repeat(63)] {
        // A text that is no UTF-8 would not be read as a method by the peer.
        peer.method(1, declare_queue(Declare::passive(&name), FieldTable::default()));
        peer.expect_channel_close(1, 404, "NOT_FOUND - no queue '");
        peer.open_channel(1);
    }
}

#[test]
fn a_line_break_in_a_name_is_no_line_in_the_log() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.method(1, declare_queue(Declare::passive("a\nb\r\nforged"), FieldTable::default()));
    peer.expect_channel_close(1, 404, "NOT_FOUND");
    assert!(!broker.log().iter().any(|line| line.starts_with("forged") || line.starts_with('b')));
}

#[test]
fn a_body_may_come_octet_by_octet_and_in_empty_frames() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    let mut out = Vec::new();
    method::write_publish(&mut out, 1, "", "q", false);
    write_header(&mut out, 1, 5, PLAIN);
    for piece in [&b""[..], b"a", b"", b"bc", b"d", b"e"] {
        frame::write(&mut out, frame::BODY, 1, |out| out.extend_from_slice(piece));
    }
    for octet in &out {
        peer.octets(&[*octet]);
    }
    assert_eq!(peer.get(1, "q", true).unwrap().body, b"abcde");
    peer.publish(1, "q", PLAIN, b"");
    assert_eq!(peer.get(1, "q", true).unwrap().body, b"");
}

#[test]
fn contents_of_different_channels_may_interleave() {
    let broker = Broker::start();
    let mut peer = Peer::connect(&broker);
    for number in 1..=20 {
        peer.open_channel(number);
    }
    peer.declare(1, Declare::transient("q"));
    for number in 1..=20 {
        publish_method(&mut peer, number, "q");
    }
    for number in 1..=20 {
        header(&mut peer, number, 4);
    }
    for piece in [b"ab", b"cd"] {
        for number in (1..=20).rev() {
            peer.frame(frame::BODY, number, piece);
        }
    }
    for _ in 0..20 {
        assert_eq!(peer.get(1, "q", true).unwrap().body, b"abcd");
    }
    assert_eq!(peer.get(1, "q", true), None);
}

#[test]
fn a_client_that_dies_in_a_body_leaves_nothing_of_it() {
    let mut broker = Broker::start();
    let mut watcher = Peer::open(&broker);
    watcher.declare(1, Declare::durable("q"));
    let mut whole = Vec::new();
    write_publish(&mut whole, 1, "", "q", PERSISTENT, &[7; 200_000], 131_072);
    for cut in [10, 40, 60, 1_000, 131_072, 150_000, whole.len() - 1] {
        let mut peer = Peer::open(&broker);
        peer.publish(1, "q", PERSISTENT, b"before");
        peer.octets(&whole[..cut]);
        peer.vanish();
        let got = super::support::eventually("the whole message", || watcher.get(1, "q", true));
        assert_eq!(got.body, b"before", "cut at {cut}");
    }
    assert_eq!(watcher.declare(1, Declare::passive("q")), (0, 0));
    assert_alive(&mut broker);
}

#[test]
fn a_message_larger_than_a_frame_is_the_same_in_three_queues() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for name in ["a", "b", "c"] {
        peer.declare(1, Declare::durable(name));
        peer.bind(1, name, "amq.fanout", "");
    }
    let body: Vec<u8> = (0..500_000_u32).flat_map(|number| number.to_be_bytes()).collect();
    for size in [body.len(), 131_064, 131_065, 65_536, 65_535, 1] {
        let mut out = Vec::new();
        write_publish(&mut out, 1, "amq.fanout", "", PERSISTENT, &body[..size], 131_072);
        peer.octets(&out);
        for name in ["a", "b", "c"] {
            assert!(peer.get(1, name, true).unwrap().body == body[..size], "{size} octets in {name}");
        }
    }
}

#[test]
fn a_body_of_the_largest_size_is_taken_and_one_octet_more_is_not() {
    let broker = Broker::with(&["--max-message-size", "1MiB"]);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    let body = vec![9; 1 << 20];
    peer.publish(1, "q", PLAIN, &body);
    assert!(peer.get(1, "q", true).unwrap().body == body);
    publish_method(&mut peer, 1, "q");
    header(&mut peer, 1, (1 << 20) + 1);
    peer.frame(frame::BODY, 1, b"what was on its way");
    peer.expect_channel_close(
        1,
        406,
        "PRECONDITION_FAILED - message size 1048577 is larger than configured max size 1048576",
    );
    peer.open_channel(1);
}

#[test]
fn getting_from_a_queue_that_others_delete_is_404_and_never_worse() {
    let broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let mut other = Peer::open(&broker);
    for round in 0..100 {
        other.declare(1, Declare::transient("q"));
        other.publish(1, "q", PLAIN, b"m");
        other.method(
            1,
            AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
                queue: "q".into(),
                if_unused: false,
                if_empty: false,
                nowait: true,
            })),
        );
        peer.basic(1, basic::AMQPMethod::Get(basic::Get { queue: "q".into(), no_ack: true }));
        match peer.next() {
            super::support::peer::Incoming::Method(1, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                assert_eq!(close.reply_code, 404, "round {round}: {close:?}");
                peer.method(1, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
                peer.open_channel(1);
            }
            super::support::peer::Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_))) => {}
            super::support::peer::Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::GetOk(_))) => {
                peer.next();
                peer.next();
            }
            unexpected => panic!("round {round}: {unexpected:?}"),
        }
    }
}

#[test]
fn random_octets_never_end_the_broker() {
    let mut broker = Broker::start();
    let mut random = super::support::Random::new();
    for _ in 0..200 {
        let mut peer = Peer::open(&broker);
        let kind = [frame::METHOD, frame::METHOD, frame::HEADER, frame::BODY][random.below(4) as usize];
        let ids = [(20, 10), (50, 10), (50, 20), (60, 20), (60, 40), (60, 70), (60, 80), (40, 10), (10, 50), (90, 20)];
        let mut payload = Vec::new();
        if kind == frame::METHOD {
            let (class, id) = ids[random.below(10) as usize];
            payload.extend_from_slice(&[0, class, 0, id]);
        }
        for _ in 0..random.below(60) {
            payload.push((random.below(4) * random.below(86)) as u8);
        }
        let mut out = Vec::new();
        frame::write(&mut out, kind, random.below(3) as u16, |out| out.extend_from_slice(&payload));
        // Its answer, if any, is its own business.
        let _ = peer.try_octets(&out);
        peer.vanish();
    }
    assert!(broker.is_running());
    assert_eq!(broker.errors(), Vec::<String>::new(), "a task panicked");
    assert_alive(&mut broker);
}
