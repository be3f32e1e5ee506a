//! Content headers: the few properties that the broker reads are those that a full reading finds, `amq-protocol` agrees, and
//! properties that were changed can be read again.
//!
//! Input: the payload of a content header frame.

use amq_protocol::protocol::basic::parse_properties;
use leveret::amqp::properties::{self, ContentHeader, Properties, Property};
use leveret::amqp::table::Fields;
use leveret::message::{Marks, Message, Packer, Partial, Run, Traits};

pub fn target(data: &[u8]) {
    let Some(header) = ContentHeader::parse(data) else { return };
    let raw = header.properties;
    let Ok(read) = Properties::parse(raw) else { return };
    let named = properties::named(raw).expect("what can be read can be read in full");
    let text = |name: &str| named.iter().find(|(found, _)| *found == name).map(|(_, value)| *value);
    for (name, found) in [
        ("correlation_id", read.correlation_id),
        ("reply_to", read.reply_to),
        ("expiration", read.expiration),
        ("message_id", read.message_id),
        ("user_id", read.user_id),
    ] {
        assert_eq!(found.map(Property::Text), text(name), "{name}");
    }
    assert_eq!(read.headers.map(Property::Headers), text("headers"));
    for (name, found) in [("delivery_mode", read.delivery_mode), ("priority", read.priority)] {
        assert_eq!(found.map(|octet| Property::Number(octet.into())), text(name), "{name}");
    }
    assert_eq!(properties::has_expiration(raw), read.expiration.is_some());
    assert_eq!(properties::has_priority(raw), read.priority.is_some());
    let again = properties::of(&named);
    assert_eq!(again[2..], raw[2..], "properties written otherwise than they were read");
    if let Ok(([], theirs)) = parse_properties(raw) {
        let short = |text: &Option<amq_protocol::types::ShortString>| {
            text.as_ref().map(|text| text.as_str().as_bytes().to_vec())
        };
        assert_eq!(short(theirs.expiration()).as_deref(), read.expiration);
        assert_eq!(short(theirs.message_id()).as_deref(), read.message_id);
        assert_eq!(*theirs.priority(), read.priority);
        assert_eq!(*theirs.delivery_mode(), read.delivery_mode);
        assert_eq!(theirs.headers().is_some(), read.headers.is_some());
    }
    change(raw, &read);
    pack(raw, &read, header.body_bytes);
}

/// What queues do to properties.
fn change(raw: &[u8], read: &Properties<'_>) {
    let headers = read.headers.unwrap_or(Fields::EMPTY);
    for changed in [
        read.with_headers(raw, headers.octets()),
        read.with_headers_for_good(raw, headers.octets()),
        read.with_reply_to(raw, "amq.rabbitmq.reply-to.g1h2"),
        properties::with_counts(raw, 3, 2),
        properties::without_bcc(raw),
    ] {
        let after = Properties::parse(&changed).expect("properties that were changed can be read");
        assert_eq!(after.message_id, read.message_id);
        assert_eq!(after.delivery_mode, read.delivery_mode);
        assert_eq!(after.priority, read.priority);
    }
    let for_good = read.with_headers_for_good(raw, &[]);
    assert_eq!(Properties::parse(&for_good).unwrap().expiration, None);
    let plain = properties::without_bcc(raw);
    let headers = Properties::parse(&plain).unwrap().headers;
    assert!(headers.is_none_or(|headers| headers.get(b"BCC").is_none()));
}

/// What is packed is unpacked the same, in memory and on disk, whatever is announced.
fn pack(raw: &[u8], read: &Properties<'_>, announced: u64) {
    let address = b"\x01e\x03key";
    let body = &raw[..raw.len().min(40)];
    let message = Message { address, exchange: b"e", routing_key: b"key", marks: Marks::DIED, properties: raw, body };
    let mut packer = Packer::default();
    packer.push(&message, Traits::of(read));
    let run = packer.finish();
    assert_eq!(run.message(0), message);
    let mut octets = Vec::new();
    run.encode(&mut octets);
    assert_eq!(Run::decode(&octets), Ok(run));
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    let mut partial = Partial::new(address, raw, announced);
    assert_eq!(partial.missing(), announced);
    let piece = &body[..body.len().min(announced)];
    partial.push(piece);
    assert_eq!(partial.missing(), announced - piece.len());
    assert_eq!(partial.message().body, piece);
}
