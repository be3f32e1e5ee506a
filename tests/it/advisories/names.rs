//! RabbitMQ made atoms of names, of which an Erlang node can hold a million and forgets none. Here names that clients choose
//! leave nothing behind: so many new ones of a sort must not make the broker grow by what the names alone would take.

use super::super::support::http::read_reply;
use super::super::support::peer::{Incoming, PLAIN, write_publish};
use super::super::support::{Api, Broker, Declare, Peer};
use super::{assert_alive, table, text, with_headers};
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::table::Writer;
use leveret::amqp::{PROTOCOL_HEADER, method};
use serde_json::{Value as Json, json};
use std::io::Write;
use std::net::TcpStream;

/// Names used at a time.
const AT_ONCE: u32 = 250;
/// What a broker's memory may grow by while it has seen so many new names: the octets of the names alone. (It was mostly
/// seen to grow by a tenth of that.)
fn kept_bytes_max(names: u32) -> u64 {
    u64::from(names) * 250
}

/// A name of 250 octets.
fn name(number: u32) -> String {
    format!("{number:0>250}")
}

/// Rounds of new names. An allocator may grow in one of them for reasons of its own; what is kept of names grows all.
const ROUNDS: u32 = 5;

/// Lets `work` use so many names, [`AT_ONCE`] at a time, and as many others again and again: in some round but the first,
/// in which memory may grow, the broker's must not.
pub fn leaves_nothing(broker: &Broker, names: u32, work: impl FnMut(&[String])) {
    leaves_nothing_of(broker, names, AT_ONCE, work);
}

/// The same with so many at a time.
fn leaves_nothing_of(broker: &Broker, names: u32, at_once: u32, mut work: impl FnMut(&[String])) {
    keeps_nothing(broker, kept_bytes_max(names), |round| {
        let from = round * names;
        for first in (from..from + names).step_by(at_once as usize) {
            let names: Vec<String> = (first..first + at_once).map(name).collect();
            work(&names);
        }
    });
}

/// The same with work that knows by its round which names are new, and what the broker may grow by.
fn keeps_nothing(broker: &Broker, kept_bytes_max: u64, mut work: impl FnMut(u32)) {
    work(0);
    let mut grown = Vec::new();
    for round in 1..ROUNDS {
        let before = broker.resident_bytes();
        work(round);
        let bytes = broker.resident_bytes().saturating_sub(before);
        if bytes < kept_bytes_max {
            return;
        }
        grown.push(bytes >> 10);
    }
    panic!("it grew by {grown:?} KiB in rounds of at most {} KiB each", kept_bytes_max >> 10);
}

/// Sends methods, each of which has one answer, and reads the answers.
fn ask(peer: &mut Peer, methods: &[AMQPClass]) {
    let mut out = Vec::new();
    for class in methods {
        method::write(&mut out, 1, class);
    }
    peer.octets(&out);
    for class in methods {
        match peer.next() {
            Incoming::Method(1, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                panic!("{class:?}: {close:?}")
            }
            Incoming::Method(1, _) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn declare_queue(name: &str) -> AMQPClass {
    super::super::support::peer::declare_queue(Declare::transient(name), FieldTable::default())
}

fn delete_queue(name: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
        queue: name.into(),
        if_unused: false,
        if_empty: false,
        nowait: false,
    }))
}

#[test]
fn queues_exchanges_and_bindings_that_are_gone_leave_nothing() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    leaves_nothing(&broker, 10_000, |names| {
        let declared: Vec<_> = names.iter().map(|name| declare_queue(name)).collect();
        ask(&mut peer, &declared);
        let exchange = |name: &str| {
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                exchange: name.into(),
                kind: "topic".into(),
                passive: false,
                durable: false,
                auto_delete: true,
                internal: false,
                nowait: false,
                arguments: table(&[("alternate-exchange", text(name))]),
            }))
        };
        let exchanges: Vec<_> = names.iter().map(|name| exchange(name)).collect();
        ask(&mut peer, &exchanges);
        let bound: Vec<_> = names
            .iter()
            .flat_map(|name| {
                [super::bind_queue(name, name, &format!("{name}.#")), super::bind_queue(name, "amq.topic", name)]
            })
            .collect();
        ask(&mut peer, &bound);
        // With the queue go its bindings, and with those the exchange.
        let deleted: Vec<_> = names.iter().map(|name| delete_queue(name)).collect();
        ask(&mut peer, &deleted);
    });
    assert_alive(&mut broker);
}

#[test]
fn keys_headers_and_properties_of_messages_leave_nothing() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    peer.bind(1, "q", "amq.topic", "#");
    peer.consume(1, "q", "c", true);
    leaves_nothing(&broker, 40_000, |names| {
        let mut out = Vec::new();
        for name in names {
            let mut headers = Writer::default();
            headers.key(name).long_string(name.as_bytes());
            let headers = with_headers(headers.octets());
            write_publish(&mut out, 1, "amq.topic", name, &headers, b"", peer.frame_max);
            // Nowhere, and to an exchange that looks at headers.
            write_publish(&mut out, 1, "", name, PLAIN, b"", peer.frame_max);
            write_publish(&mut out, 1, "amq.headers", name, &headers, b"", peer.frame_max);
        }
        peer.octets(&out);
        for name in names {
            assert_eq!(peer.expect_delivery().routing_key, *name);
        }
    });
    assert_alive(&mut broker);
}

#[test]
fn consumer_tags_leave_nothing() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::transient("q"));
    leaves_nothing(&broker, 20_000, |names| {
        let consume = |name: &String| {
            AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
                queue: "q".into(),
                consumer_tag: name.as_str().into(),
                no_local: false,
                no_ack: false,
                exclusive: false,
                nowait: false,
                arguments: FieldTable::default(),
            }))
        };
        let cancel = |name: &String| {
            let consumer_tag = name.as_str().into();
            AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel { consumer_tag, nowait: false }))
        };
        ask(&mut peer, &names.iter().map(consume).collect::<Vec<_>>());
        // Some never were consumers.
        ask(&mut peer, &names.iter().map(cancel).collect::<Vec<_>>());
        ask(&mut peer, &names.iter().map(|name| cancel(&format!("{name}x"))).collect::<Vec<_>>());
    });
    assert_alive(&mut broker);
}

#[test]
fn virtual_hosts_that_are_not_there_and_what_clients_say_of_themselves_leave_nothing() {
    let mut broker = Broker::start();
    leaves_nothing(&broker, 10_000, |names| {
        let mut peers: Vec<Peer> = names.iter().map(|_| Peer::silent(&broker)).collect();
        for (peer, name) in peers.iter_mut().zip(names) {
            peer.octets(PROTOCOL_HEADER);
            let capabilities = AMQPValue::FieldTable(table(&[(name, AMQPValue::Boolean(true))]));
            let said = table(&[(name, text(name)), ("connection_name", text(name)), ("capabilities", capabilities)]);
            peer.expect_start();
            peer.start_ok("PLAIN", b"\0guest\0guest", said);
        }
        for (peer, name) in peers.iter_mut().zip(names) {
            peer.expect_tune();
            peer.tune_ok(0);
            peer.open_vhost(name);
        }
        for mut peer in peers {
            match peer.next() {
                Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
                    assert_eq!(close.reply_code, 530);
                }
                other => panic!("{other:?}"),
            }
        }
    });
    assert_alive(&mut broker);
}

/// Users that are not there, or mechanisms. Each refusal takes its time, so that many are refused at once.
fn refused_logins(broker: &Broker, names: &[String], start_ok: impl Fn(&mut Peer, &str)) {
    let mut peers: Vec<Peer> = names.iter().map(|_| Peer::silent(broker)).collect();
    for (peer, name) in peers.iter_mut().zip(names) {
        peer.octets(PROTOCOL_HEADER);
        peer.expect_start();
        start_ok(peer, name);
    }
    for mut peer in peers {
        peer.expect_eof();
    }
}

#[test]
fn users_that_are_not_there_leave_nothing() {
    /// Octets beside a name's number: a login of this size fits the first frame, and is far more than memory varies by.
    const LONG: usize = 6000;
    const NAMES: u32 = 1000;
    let mut broker = Broker::start();
    keeps_nothing(&broker, u64::from(NAMES) * LONG as u64 / 2, |round| {
        let from = round * NAMES;
        for first in (from..from + NAMES).step_by(AT_ONCE as usize) {
            let names: Vec<String> = (first..first + AT_ONCE).map(name).collect();
            refused_logins(&broker, &names, |peer, name| {
                let user = name.to_owned() + &"u".repeat(LONG);
                peer.start_ok("PLAIN", format!("\0{user}\0{name}").as_bytes(), FieldTable::default());
            });
        }
    });
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_67222_mechanisms_that_are_none_leave_nothing() {
    let mut broker = Broker::start();
    leaves_nothing_of(&broker, 5000, 1000, |names| {
        refused_logins(&broker, names, |peer, name| peer.start_ok(name, name.as_bytes(), FieldTable::default()));
    });
    assert_alive(&mut broker);
}

/// Asks for something on one connection to the API, and says with which status it was answered.
fn request(api: &Api<'_>, socket: &mut TcpStream, method: &str, path: &str, body: &Json) -> u16 {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!("{}Content-Length: {}\r\n\r\n{body}", api.head(method, path), body.len());
    socket.write_all(head.as_bytes()).unwrap();
    read_reply(socket).expect("an answer").status
}

/// As [`leaves_nothing`], with a connection to the API.
fn leaves_nothing_over_http(names: u32, work: impl Fn(&mut dyn FnMut(&str, &str, &Json) -> u16, &[String])) {
    let mut broker = Broker::with(&["--http-port", "0"]);
    let api = Api::of(&broker);
    let mut socket = api.connect();
    leaves_nothing(&broker, names, |names| {
        work(&mut |method, path, body| request(&api, &mut socket, method, path, body), names);
    });
    assert_alive(&mut broker);
}

#[test]
fn cve_2026_67226_tags_of_users_leave_nothing() {
    leaves_nothing_over_http(10_000, |request, names| {
        // As many as a user may have at a time, and a user that has none again.
        for tags in names.chunks(32) {
            let status = request("PUT", "/api/users/u", &json!({"password_hash": "", "tags": tags}));
            assert!([201, 204].contains(&status), "{status}");
        }
        assert_eq!(request("PUT", "/api/users/u", &json!({"password_hash": "", "tags": ""})), 204);
    });
}

#[test]
fn cve_2026_67229_what_is_said_of_virtual_hosts_leaves_nothing() {
    leaves_nothing_over_http(10_000, |request, names| {
        for names in names.chunks(30) {
            let mut fields = json!({"tags": names, "description": ""});
            for name in names {
                fields[name] = json!(name);
            }
            let status = request("PUT", "/api/vhosts/v", &fields);
            assert!([201, 204].contains(&status), "{status}");
        }
        assert_eq!(request("DELETE", "/api/vhosts/v", &Json::Null), 204);
    });
}

#[test]
fn cve_2026_67227_global_parameters_that_are_gone_leave_nothing() {
    leaves_nothing_over_http(1500, |request, names| {
        for name in names {
            let path = format!("/api/global-parameters/{name}");
            assert_eq!(request("PUT", &path, &json!({"value": 1})), 201);
            assert_eq!(request("DELETE", &path, &Json::Null), 204);
        }
    });
}

#[test]
fn cve_2026_67228_components_that_are_none_leave_nothing() {
    leaves_nothing_over_http(10_000, |request, names| {
        for name in names {
            let path = format!("/api/parameters/{name}/%2F/{name}");
            assert_eq!(request("PUT", &path, &json!({"value": {}})), 400);
            assert_eq!(request("DELETE", &path, &Json::Null), 404);
        }
    });
}

#[test]
fn cve_2026_66073_nodes_that_are_not_there_leave_nothing() {
    leaves_nothing_over_http(10_000, |request, names| {
        for name in names {
            assert_eq!(request("GET", &format!("/api/nodes/{name}"), &Json::Null), 404);
            let user = json!({"password_hash": "", "node": name});
            assert_eq!(request("PUT", &format!("/api/users/{name}"), &user), 400);
        }
    });
}
