//! What others were told of as a vulnerability must not be one here: a test for each advisory about RabbitMQ that concerns a
//! broker like this, named by it. docs/security.md lists them, and says of all others why they don't apply; the list is held
//! against the names here.

mod document;
mod http;
mod names;
mod rights;
mod routing;
mod secrets;
mod tls;
mod tokens;
mod wire;

use super::support::{Broker, Peer};
use amq_protocol::protocol::{AMQPClass, exchange};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::method;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A broker with these users and virtual hosts beside `guest` and `/`, the permissions of [`permission`], and more
/// sections of definitions, each with a comma in front. Each user's password is the user's name.
fn broker_with(users: &[&str], vhosts: &[&str], permissions: &[String], more: &str, flags: &[&str]) -> Broker {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("definitions.json");
    let users: Vec<_> = [&["guest"], users]
        .concat()
        .iter()
        .map(|name| format!(r#"{{"name": "{name}", "password": "{name}", "tags": ""}}"#))
        .collect();
    let vhosts: Vec<_> = [&["/"], vhosts].concat().iter().map(|name| format!(r#"{{"name": "{name}"}}"#)).collect();
    let permissions = [&[permission("guest", "/", ".*", ".*", ".*")], permissions].concat();
    let [users, vhosts, permissions] = [users, vhosts, permissions].map(|items| items.join(", "));
    let text = format!(r#"{{"users": [{users}], "vhosts": [{vhosts}], "permissions": [{permissions}]{more}}}"#);
    std::fs::write(&file, text).unwrap();
    Broker::with(&[&["--definitions", file.to_str().unwrap()], flags].concat())
}

/// A permission for [`broker_with`].
fn permission(user: &str, vhost: &str, configure: &str, write: &str, read: &str) -> String {
    format!(
        r#"{{"user": "{user}", "vhost": "{vhost}", "configure": "{configure}", "write": "{write}", "read": "{read}"}}"#
    )
}

fn table(fields: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in fields {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Raw properties with nothing but headers, given as the octets of their fields.
fn with_headers(fields: &[u8]) -> Vec<u8> {
    [&[0x20, 0x00][..], &(fields.len() as u32).to_be_bytes(), fields].concat()
}

/// Raw properties with nothing but a `reply-to`.
fn with_reply_to(name: &str) -> Vec<u8> {
    let mut raw = vec![0x02, 0x00];
    method::short_string(&mut raw, name);
    raw
}

/// Raw properties with nothing but a `user-id`.
fn with_user_id(name: &str) -> Vec<u8> {
    let mut raw = vec![0x00, 0x10];
    method::short_string(&mut raw, name);
    raw
}

fn declare_exchange(name: &str, kind: &str, arguments: FieldTable, passive: bool) -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: name.into(),
        kind: kind.into(),
        passive,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments,
    }))
}

fn exchange_declared() -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}))
}

fn bind_queue(queue: &str, exchange: &str, routing_key: &str) -> AMQPClass {
    super::support::peer::bind_queue(queue, exchange, routing_key, FieldTable::default())
}

fn assert_alive(broker: &mut Broker) {
    assert!(broker.is_running());
    Peer::open(broker).close();
}

/// Does something during which the broker's memory may grow by so many octets at most.
fn grows_at_most(broker: &Broker, bytes: u64, work: impl FnOnce()) {
    let before = broker.resident_bytes();
    work();
    let most = broker.resident_bytes_max();
    assert!(most < before + bytes, "{} MiB became {} MiB", before / MIB, most / MIB);
}
