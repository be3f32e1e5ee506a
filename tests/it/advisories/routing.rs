//! Where messages go, and where they must not.

use super::super::support::peer::{PLAIN, declare_queue, write_publish};
use super::super::support::{Broker, Declare, Peer, eventually};
use super::{
    MIB, assert_alive, bind_queue, broker_with, declare_exchange, exchange_declared, grows_at_most, permission, table,
    text, with_headers, with_reply_to, with_user_id,
};
use amq_protocol::types::FieldTable;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use leveret::amqp::properties::Properties;
use leveret::amqp::table::Writer;

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// A connection that waits for answers on channel 1, and the name that its requests carry.
fn asks(broker: &Broker) -> (Peer, String) {
    let mut server = Peer::open(broker);
    server.declare(1, Declare { name: "requests", auto_delete: true, ..Declare::default() });
    server.consume(1, "requests", "server", true);
    let mut asking = Peer::open(broker);
    asking.consume(1, REPLY_TO, "answers", true);
    asking.publish(1, "requests", &with_reply_to(REPLY_TO), b"question");
    let request = server.expect_delivery();
    let name = Properties::parse(&request.properties).unwrap().reply_to.unwrap().to_vec();
    (asking, String::from_utf8(name).unwrap())
}

/// Nothing has come on channel 1 of this connection before an answer to something that is asked only now.
fn expect_nothing(peer: &mut Peer) {
    peer.qos(1, 0);
}

/// Names that look like one that was given out.
fn forged(name: &str) -> Vec<String> {
    let suffix = name.strip_prefix("amq.rabbitmq.reply-to.").unwrap();
    let octets = URL_SAFE_NO_PAD.decode(suffix).unwrap();
    let mut other = octets.clone();
    other[0] ^= 1;
    let cut = URL_SAFE_NO_PAD.encode(&octets[..octets.len() - 1]);
    let longer = URL_SAFE_NO_PAD.encode([&octets[..], &[0]].concat());
    [suffix, "", "x", "g1AAAAB5", &cut, &longer, &URL_SAFE_NO_PAD.encode(other)]
        .iter()
        .flat_map(|suffix| {
            let dotted = format!("amq.rabbitmq.reply-to.{suffix}.");
            [format!("amq.rabbitmq.reply-to.{suffix}"), dotted.clone(), format!("{dotted}{suffix}")]
        })
        .filter(|forged| forged != name)
        .collect()
}

#[test]
fn cve_2026_57215_nobody_binds_a_name_for_answers_or_forges_one() {
    let mut broker = Broker::start();
    let (mut asking, name) = asks(&broker);
    let mut other = Peer::open(&broker);
    for (queue, exchange) in [(name.as_str(), "amq.fanout"), (name.as_str(), "amq.topic")] {
        other.method(1, bind_queue(queue, exchange, "#"));
        other.expect_channel_close(
            1,
            403,
            "ACCESS_REFUSED - cannot bind or unbind to a volatile (direct reply-to) queue",
        );
        other.open_channel(1);
    }
    for forged in forged(&name) {
        other.publish(1, &forged, PLAIN, b"forged");
    }
    let mut out = Vec::new();
    write_publish(&mut out, 1, "amq.fanout", &name, PLAIN, b"by an exchange", other.frame_max);
    other.octets(&out);
    other.qos(1, 0);
    expect_nothing(&mut asking);
    // The name itself works, for as long as its channel waits.
    other.publish(1, &name, PLAIN, b"answer");
    assert_eq!(asking.expect_delivery().body, b"answer");
    asking.close();
    other.method(1, declare_queue(Declare::passive(&name), FieldTable::default()));
    other.expect_channel_close(1, 404, "NOT_FOUND - no queue");
    assert_alive(&mut broker);
}

#[test]
fn ghsa_6chv_gv3h_cvcj_copies_to_forged_names_reach_nobody_and_are_not_multiplied() {
    let mut broker = Broker::start();
    let (mut asking, name) = asks(&broker);
    let mut other = Peer::open(&broker);
    let mut headers = Writer::default();
    headers.key("CC").array(|keys| {
        for number in 0..1000 {
            keys.long_string(format!("{name}.{number}").as_bytes());
        }
    });
    let properties = with_headers(headers.octets());
    other.confirm_select(1);
    grows_at_most(&broker, 64 * MIB, || {
        for number in 1..=200 {
            let mut out = Vec::new();
            write_publish(&mut out, 1, "", &name, &properties, &[7; 1024], other.frame_max);
            other.octets(&out);
            other.expect_confirms(number, number);
        }
    });
    for _ in 0..200 {
        assert_eq!(asking.expect_delivery().routing_key, name);
    }
    expect_nothing(&mut asking);
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_67238_names_for_answers_that_nobody_gave_out_leave_nothing() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare { name: "q", auto_delete: true, ..Declare::default() });
    let mut publish = |from: u32, count: u32| {
        let mut out = Vec::new();
        for number in from..from + count {
            let octets: Vec<u8> = number.to_be_bytes().repeat(40);
            let forged = format!("amq.rabbitmq.reply-to.{}", URL_SAFE_NO_PAD.encode(&octets));
            // As a message's way, and as what it asks the answer to be sent to.
            write_publish(&mut out, 1, "", &forged, PLAIN, b"", peer.frame_max);
            write_publish(&mut out, 1, "", "nowhere", &with_reply_to(&forged), b"", peer.frame_max);
        }
        peer.octets(&out);
        peer.qos(1, 0);
    };
    publish(0, 10_000);
    grows_at_most(&broker, 8 * MIB, || publish(10_000, 40_000));
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_67419_patterns_of_many_wildcards_are_refused_and_what_is_left_is_cheap() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    for pattern in ["#.#.#", "#.a.#.b.#", &["#"; 127].join(".")] {
        peer.method(1, bind_queue("q", "amq.topic", pattern));
        let text = format!("PRECONDITION_FAILED - Topic binding key '{}", &pattern[..5]);
        peer.expect_channel_close(1, 406, &text);
        peer.open_channel(1);
    }
    // The worst that may stand: two of them, and single words wherever one likes.
    for number in 0..1000 {
        let stars = ["*"; 40].join(".");
        peer.method(1, bind_queue("q", "amq.topic", &format!("#.a.{stars}.a.#.{number}")));
        peer.next();
    }
    peer.confirm_select(1);
    let key = ["a"; 127].join(".");
    for number in 1..=100 {
        let mut out = Vec::new();
        // No two keys are the same, so that no route is remembered.
        write_publish(&mut out, 1, "amq.topic", &key[..key.len() - 2 * (number as usize % 20)], PLAIN, b"", 131_072);
        peer.octets(&out);
        peer.expect_confirms(number, number);
    }
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_67219_a_weight_is_at_most_10_000() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    peer.method(1, declare_exchange("hash", "x-consistent-hash", FieldTable::default(), false));
    peer.expect(1, &exchange_declared());
    grows_at_most(&broker, 16 * MIB, || {
        for weight in ["10001", "4294967295", "18446744073709551616", &"9".repeat(255)] {
            peer.method(1, bind_queue("q", "hash", weight));
            peer.expect_channel_close(1, 406, "PRECONDITION_FAILED - The binding key must not exceed 10000");
            peer.open_channel(1);
        }
        // Many of the largest cost no more than many of the smallest.
        for number in 0..200 {
            peer.declare(1, Declare::transient(&format!("q{number}")));
            peer.bind(1, &format!("q{number}"), "hash", "10000");
        }
    });
    assert_alive(&mut broker);
}

#[test]
fn ghsa_pj8f_mw2q_3xjj_a_dead_letter_without_anything_to_hash_harms_no_queue() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    let by_header = table(&[("hash-header", text("h"))]);
    peer.method(1, declare_exchange("hash", "x-consistent-hash", by_header, false));
    peer.expect(1, &exchange_declared());
    peer.declare(1, Declare::durable("dead"));
    peer.bind(1, "dead", "hash", "1");
    let arguments = table(&[("x-dead-letter-exchange", text("hash"))]);
    peer.declare_with(1, Declare::durable("q"), arguments);
    peer.confirm_select(1);
    // No header, an empty array, an array of an empty array, an empty table, void.
    let headers: [&[u8]; 5] = [b"", b"\x01hA\0\0\0\0", b"\x01hA\0\0\0\x05A\0\0\0\0", b"\x01hF\0\0\0\0", b"\x01hV"];
    for (number, fields) in (1..).zip(headers) {
        peer.publish(1, "q", &with_headers(fields), b"dies");
        // And straight to the exchange.
        let mut out = Vec::new();
        write_publish(&mut out, 1, "hash", "", &with_headers(fields), b"direct", peer.frame_max);
        peer.octets(&out);
        peer.expect_confirms(2 * number - 1, 2 * number);
        let message = peer.get(1, "q", false).unwrap();
        peer.reject(1, message.tag, false);
    }
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    eventually("all dead letters", || {
        bodies.extend(peer.get(1, "dead", true).map(|message| message.body));
        (bodies.len() == 10).then_some(())
    });
    assert_eq!(bodies.iter().filter(|body| *body == b"direct").count(), 5);
    assert_alive(&mut broker);
}

#[test]
fn ghsa_6588_rqcr_59pw_a_user_id_is_the_users_own_however_the_message_is_sent() {
    let permissions = [permission("mallory", "/", ".*", ".*", ".*")];
    let mut broker = broker_with(&["mallory"], &[], &permissions, "", &[]);
    let refused = "PRECONDITION_FAILED - user_id property set to 'guest' but authenticated user was 'mallory'";
    let own = with_user_id("mallory");
    let others = with_user_id("guest");
    let mut peer = Peer::open_as(&broker, "mallory", "/");
    peer.declare(1, Declare::durable("q"));
    // In one piece, in many frames, as a large message of its own, in a transaction, and over a route that is remembered.
    let send = |peer: &mut Peer, properties: &[u8], body_bytes: usize, at_once: bool| {
        let mut out = Vec::new();
        write_publish(&mut out, 1, "", "q", properties, &vec![7; body_bytes], peer.frame_max);
        if at_once {
            peer.octets(&out);
        } else {
            for piece in out.chunks(out.len() / 3 + 1) {
                peer.octets(piece);
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    };
    for (body_bytes, at_once) in [(10, true), (10, false), (100_000, true), (300_000, false)] {
        send(&mut peer, &others, body_bytes, at_once);
        peer.expect_channel_close(1, 406, refused);
        peer.open_channel(1);
    }
    send(&mut peer, &own, 10, true);
    send(&mut peer, &others, 10, true);
    peer.expect_channel_close(1, 406, refused);
    peer.open_channel(1);
    peer.tx_select(1);
    send(&mut peer, &others, 10, true);
    peer.expect_channel_close(1, 406, refused);
    peer.open_channel(1);
    // Nobody got one of them.
    let only = peer.get(1, "q", true).unwrap();
    assert_eq!(only.properties, own);
    assert_eq!(peer.get(1, "q", true), None);
    assert_alive(&mut broker);
}
