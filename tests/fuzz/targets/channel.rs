//! Channels: every octet chooses a method that means something where the connection stands, in any order and on any channel,
//! with a few names that are used again and again.
//!
//! Input: choices. Each is an operation, and what that asks for.

use super::input::Input;
use super::live::{self, check_answers};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::properties::{self, ContentHeader, NO_PROPERTIES, Property};
use leveret::amqp::table::Writer;
use leveret::amqp::{PROTOCOL_HEADER, frame, method};
use leveret::exchange::Type;

const FRAME_MAX: u32 = 8192;
const OPERATIONS_MAX: usize = 200;
const QUEUES: [&str; 6] = ["", "a", "b", "c", "q.long", "amq.gen-x"];
const EXCHANGES: [&str; 8] = ["", "x", "y", "z", "amq.topic", "amq.headers", "amq.fanout", "amq.direct"];
const KEYS: [&str; 7] = ["", "a", "b", "a.b", "#", "*.b", "q.long"];
const TAGS: [&str; 4] = ["", "t", "u", "amq.ctag-x"];

pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let mut out = greeting();
    open(&mut out, 1);
    let mut operations = 0;
    while !input.is_empty() && operations < OPERATIONS_MAX {
        operations += 1;
        operate(&mut out, &mut input);
    }
    let answers = live::with(|live| live.say(&out, usize::MAX));
    check_answers(&answers);
}

/// All that a client says until its connection is open.
pub fn greeting() -> Vec<u8> {
    let mut out = PROTOCOL_HEADER.to_vec();
    let mut capabilities = FieldTable::default();
    for name in ["consumer_cancel_notify", "publisher_confirms", "connection.blocked", "authentication_failure_close"] {
        capabilities.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut client_properties = FieldTable::default();
    client_properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    let start_ok = connection::StartOk {
        client_properties,
        mechanism: "PLAIN".into(),
        response: "\0guest\0guest".into(),
        locale: "en_US".into(),
    };
    let tune_ok = connection::TuneOk { channel_max: 2047, frame_max: FRAME_MAX, heartbeat: 0 };
    let open = connection::Open { virtual_host: "/".into() };
    for method in [
        connection::AMQPMethod::StartOk(start_ok),
        connection::AMQPMethod::TuneOk(tune_ok),
        connection::AMQPMethod::Open(open),
    ] {
        method::write(&mut out, 0, &AMQPClass::Connection(method));
    }
    out
}

fn open(out: &mut Vec<u8>, number: u16) {
    method::write(out, number, &AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
}

/// On a channel of its own: a message into a queue of its own, and out again.
pub fn put_and_get(out: &mut Vec<u8>, name: &str, body: &[u8]) {
    open(out, 1);
    let declare = queue::Declare {
        queue: name.into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: FieldTable::default(),
    };
    method::write(out, 1, &AMQPClass::Queue(queue::AMQPMethod::Declare(declare)));
    method::write_publish(out, 1, "", name, false);
    content(out, 1, NO_PROPERTIES, body);
    let get = basic::Get { queue: name.into(), no_ack: true };
    method::write(out, 1, &AMQPClass::Basic(basic::AMQPMethod::Get(get)));
}

fn content(out: &mut Vec<u8>, number: u16, properties: &[u8], body: &[u8]) {
    frame::write(out, frame::HEADER, number, |out| ContentHeader::write(out, body.len() as u64, properties));
    frame::write_body(out, number, body, FRAME_MAX);
}

fn operate(out: &mut Vec<u8>, input: &mut Input<'_>) {
    let choice = input.octet();
    // Mostly the first channel, which is open.
    let number = if choice & 0xc0 == 0xc0 { input.one_of(&[1, 2, 3, 0, 2047, 2048]) } else { 1 };
    let (queue_name, exchange_name) = (input.one_of(&QUEUES), input.one_of(&EXCHANGES));
    let nowait = input.octet() & 3 == 3;
    let class = match choice & 0x3f {
        0..=9 => {
            let properties = message_properties(input);
            let body = input.piece(200);
            let mandatory = input.yes();
            method::write_publish(out, number, exchange_name, input.one_of(&KEYS), mandatory);
            return content(out, number, &properties, body);
        }
        10..=13 => AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: queue_name.into(),
            passive: input.octet() & 7 == 7,
            durable: input.yes(),
            exclusive: input.octet() & 3 == 3,
            auto_delete: input.octet() & 3 == 3,
            nowait,
            arguments: arguments(input),
        })),
        14..=16 => AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: exchange_name.into(),
            kind: input.one_of(&Type::ALL).name().into(),
            passive: input.octet() & 7 == 7,
            durable: input.yes(),
            auto_delete: input.octet() & 3 == 3,
            internal: input.octet() & 7 == 7,
            nowait,
            arguments: arguments(input),
        })),
        17..=20 => AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
            queue: queue_name.into(),
            exchange: exchange_name.into(),
            routing_key: input.one_of(&KEYS).into(),
            nowait,
            arguments: arguments(input),
        })),
        21 => AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
            queue: queue_name.into(),
            exchange: exchange_name.into(),
            routing_key: input.one_of(&KEYS).into(),
            arguments: arguments(input),
        })),
        22 | 23 => AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
            destination: input.one_of(&EXCHANGES).into(),
            source: exchange_name.into(),
            routing_key: input.one_of(&KEYS).into(),
            nowait,
            arguments: arguments(input),
        })),
        24 => AMQPClass::Exchange(exchange::AMQPMethod::Unbind(exchange::Unbind {
            destination: input.one_of(&EXCHANGES).into(),
            source: exchange_name.into(),
            routing_key: input.one_of(&KEYS).into(),
            nowait,
            arguments: arguments(input),
        })),
        25 => AMQPClass::Queue(queue::AMQPMethod::Purge(queue::Purge { queue: queue_name.into(), nowait })),
        26 => AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
            queue: queue_name.into(),
            if_unused: input.yes(),
            if_empty: input.yes(),
            nowait,
        })),
        27 => AMQPClass::Exchange(exchange::AMQPMethod::Delete(exchange::Delete {
            exchange: exchange_name.into(),
            if_unused: input.yes(),
            nowait,
        })),
        28..=31 => AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
            queue: queue_name.into(),
            consumer_tag: input.one_of(&TAGS).into(),
            no_local: input.yes(),
            no_ack: input.yes(),
            exclusive: input.octet() & 7 == 7,
            nowait,
            arguments: arguments(input),
        })),
        32 => AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel {
            consumer_tag: input.one_of(&TAGS).into(),
            nowait,
        })),
        33..=35 => {
            AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get { queue: queue_name.into(), no_ack: input.yes() }))
        }
        36..=38 => return method::write_ack(out, number, tag(input), input.yes()),
        39 | 40 => return method::write_nack(out, number, tag(input), input.yes(), input.yes()),
        41 | 42 => AMQPClass::Basic(basic::AMQPMethod::Reject(basic::Reject {
            delivery_tag: tag(input),
            requeue: input.yes(),
        })),
        43 | 44 => AMQPClass::Basic(basic::AMQPMethod::Qos(basic::Qos {
            prefetch_count: input.one_of(&[0, 1, 2, 100, u16::MAX]),
            global: input.yes(),
        })),
        45 => AMQPClass::Basic(basic::AMQPMethod::Recover(basic::Recover { requeue: input.yes() })),
        46 => AMQPClass::Basic(basic::AMQPMethod::RecoverAsync(basic::RecoverAsync { requeue: input.yes() })),
        47 | 48 => AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait })),
        49 => AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})),
        50 | 51 => AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})),
        52 => AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {})),
        53 => AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active: input.yes() })),
        54 | 55 => AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})),
        56 => AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
            reply_code: 200,
            reply_text: "bye".into(),
            class_id: 0,
            method_id: 0,
        })),
        57 | 58 => AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})),
        // Begun and not gone on with.
        59 => return method::write_publish(out, number, exchange_name, input.one_of(&KEYS), true),
        60 => {
            let properties = message_properties(input);
            let announced = input.one_of(&[0, 1, 1000, u64::MAX]);
            return frame::write(out, frame::HEADER, number, |out| ContentHeader::write(out, announced, &properties));
        }
        61 => return frame::write_body(out, number, input.piece(100), FRAME_MAX),
        62 => return frame::write_heartbeat(out),
        _ => AMQPClass::Connection(connection::AMQPMethod::UpdateSecret(connection::UpdateSecret {
            new_secret: "guest".into(),
            reason: "".into(),
        })),
    };
    method::write(out, number, &class);
}

fn tag(input: &mut Input<'_>) -> u64 {
    let octet = input.octet();
    match octet {
        0xff => u64::MAX,
        octet => u64::from(octet & 15),
    }
}

/// Arguments of declarations, bindings and consumers: each octet with a bit set brings one.
fn arguments(input: &mut Input<'_>) -> FieldTable {
    let mut arguments = FieldTable::default();
    let count = input.octet() & 3;
    for _ in 0..count {
        let number = |input: &mut Input<'_>| AMQPValue::LongLongInt(input.one_of(&[0, 1, 2, 5, 10, 255, -1, 100_000]));
        let text = |text: &str| AMQPValue::LongString(text.into());
        let (key, value) = match input.octet() % 20 {
            0 => ("x-message-ttl", number(input)),
            1 => ("x-expires", number(input)),
            2 => ("x-max-length", number(input)),
            3 => ("x-max-length-bytes", number(input)),
            4 => ("x-max-priority", number(input)),
            5 => ("x-overflow", text(input.one_of(&["drop-head", "reject-publish", "reject-publish-dlx", "?"]))),
            6 | 7 => ("x-dead-letter-exchange", text(input.one_of(&EXCHANGES))),
            8 => ("x-dead-letter-routing-key", text(input.one_of(&KEYS))),
            9 | 10 => ("x-queue-type", text(input.one_of(&["classic", "quorum", "stream", "?"]))),
            11 => ("x-single-active-consumer", AMQPValue::Boolean(input.yes())),
            12 => ("x-delivery-limit", number(input)),
            13 => ("x-priority", number(input)),
            14 => ("alternate-exchange", text(input.one_of(&EXCHANGES))),
            15 => ("x-match", text(input.one_of(&["all", "any", "all-with-x", "any-with-x", "?"]))),
            16 => ("x-delayed-type", text(input.one_of(&["direct", "topic", "x-delayed-message"]))),
            17 => ("x-consumer-timeout", number(input)),
            18 => ("hash-header", text("a")),
            _ => ("a", number(input)),
        };
        arguments.insert(key.into(), value);
    }
    arguments
}

/// Raw properties of a message.
fn message_properties(input: &mut Input<'_>) -> Vec<u8> {
    let which = input.octet();
    let mut headers = Writer::default();
    if which & 1 != 0 {
        headers.key("a").int(input.octet().into());
    }
    if which & 2 != 0 {
        headers.key("x-delay").int(input.octet().into());
    }
    if which & 4 != 0 {
        let key = input.one_of(&KEYS);
        headers.key(input.one_of(&["CC", "BCC"])).array(|keys| keys.long_string(key.as_bytes()));
    }
    if which & 8 != 0 {
        headers.raw(input.piece(60));
    }
    let expiration = input.one_of(&["0", "1", "5", "100", "-1", "x", ""]);
    let mut values = Vec::new();
    if which & 0x0f != 0 {
        values.push(("headers", Property::Headers(headers.fields())));
    }
    if which & 16 != 0 {
        values.push(("delivery_mode", Property::Number(2)));
    }
    if which & 32 != 0 {
        values.push(("priority", Property::Number(input.octet().into())));
    }
    if which & 64 != 0 {
        values.push(("expiration", Property::Text(expiration.as_bytes())));
    }
    if which & 128 != 0 {
        let reply_to = input.one_of(&["amq.rabbitmq.reply-to", "a", ""]);
        values.push(("reply_to", Property::Text(reply_to.as_bytes())));
        values.push(("user_id", Property::Text(input.one_of(&["guest", "other"]).as_bytes())));
    }
    properties::of(&values)
}
