//! The content header: class, weight, body size, property flags, properties (specification 4.2.6.1).
//!
//! The octets from the flags on are kept as the publisher wrote them. [`Properties`] walks over them once, checks
//! that they are well formed, and remembers where the few fields stand that the broker itself reads.

use super::method::short_string;
use super::table::{Fields, Malformed, Writer};

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;

/// Octets of a content header before its property flags.
pub const FIXED_BYTES: usize = 12;

/// A content header frame's payload.
#[derive(Debug, Clone, Copy)]
pub struct ContentHeader<'a> {
    pub class: u16,
    pub weight: u16,
    pub body_bytes: u64,
    /// The property flags and all properties, raw.
    pub properties: &'a [u8],
}

impl<'a> ContentHeader<'a> {
    /// `None` if the payload is too short.
    pub fn parse(payload: &'a [u8]) -> Option<Self> {
        let (fixed, properties) = payload.split_first_chunk::<FIXED_BYTES>()?;
        let [c0, c1, w0, w1, size @ ..] = *fixed;
        Some(Self {
            class: u16::from_be_bytes([c0, c1]),
            weight: u16::from_be_bytes([w0, w1]),
            body_bytes: u64::from_be_bytes(size),
            properties,
        })
    }

    /// Appends the payload of a content header frame.
    pub fn write(out: &mut Vec<u8>, body_bytes: u64, properties: &[u8]) {
        out.extend_from_slice(&super::BASIC.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&body_bytes.to_be_bytes());
        out.extend_from_slice(properties);
    }
}

/// What the broker reads of a message's properties.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Properties<'a> {
    pub headers: Option<Fields<'a>>,
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<&'a [u8]>,
    pub reply_to: Option<&'a [u8]>,
    pub expiration: Option<&'a [u8]>,
    pub message_id: Option<&'a [u8]>,
    /// Seconds since 1970, as eight octets.
    pub timestamp: Option<&'a [u8]>,
    pub user_id: Option<&'a [u8]>,
    /// Where the headers start in the raw properties, their length first, or where they would.
    headers_at: usize,
    /// Where the `reply-to` starts, its length first, if there is one.
    reply_to_at: usize,
    /// Where the expiration starts, its length first, if there is one.
    expiration_at: usize,
}

/// The value of a property, whichever it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Property<'a> {
    Text(&'a [u8]),
    Headers(Fields<'a>),
    /// An octet, or the seconds of the timestamp.
    Number(u64),
}

/// All properties by the names that the specification gives them, in its order.
const NAMES: [(u16, &str); 14] = [
    (CONTENT_TYPE, "content_type"),
    (CONTENT_ENCODING, "content_encoding"),
    (HEADERS, "headers"),
    (DELIVERY_MODE, "delivery_mode"),
    (PRIORITY, "priority"),
    (CORRELATION_ID, "correlation_id"),
    (REPLY_TO, "reply_to"),
    (EXPIRATION, "expiration"),
    (MESSAGE_ID, "message_id"),
    (TIMESTAMP, "timestamp"),
    (TYPE, "type"),
    (USER_ID, "user_id"),
    (APP_ID, "app_id"),
    (CLUSTER_ID, "cluster_id"),
];

/// Every property that raw ones hold, with its name. For those who show a message, not for those who carry it.
pub fn named(raw: &[u8]) -> Result<Vec<(&'static str, Property<'_>)>, Malformed> {
    let mut rest = raw.get(2..).ok_or(Malformed::Truncated)?;
    let present = NAMES.iter().filter(|(flag, _)| flags(raw) & flag != 0);
    present
        .map(|&(flag, name)| {
            let value = match flag {
                HEADERS => Property::Headers(Fields::check(long(&mut rest)?)?),
                DELIVERY_MODE | PRIORITY => Property::Number(octet(&mut rest)?.into()),
                TIMESTAMP => {
                    let octets = bytes(&mut rest, 8)?.first_chunk().ok_or(Malformed::Truncated)?;
                    Property::Number(u64::from_be_bytes(*octets))
                }
                _ => Property::Text(short(&mut rest)?),
            };
            Ok((name, value))
        })
        .collect()
}

/// The names of all properties, in the order of the specification.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(_, name)| *name)
}

/// Raw properties that are these, whatever their order: what [`named`] gives back. Texts have at most 255 octets; an
/// unknown name, or a value of another kind than the name's, is left out.
pub fn of(values: &[(&str, Property<'_>)]) -> Vec<u8> {
    let (mut flags, mut octets) = (0, Vec::new());
    for (flag, name) in NAMES {
        let Some((_, value)) = values.iter().find(|(given, _)| *given == name) else { continue };
        match (flag, value) {
            (HEADERS, Property::Headers(headers)) => {
                let headers = headers.octets();
                let length = u32::try_from(headers.len()).expect("headers come from a body far below 4 GiB");
                octets.extend_from_slice(&length.to_be_bytes());
                octets.extend_from_slice(headers);
            }
            (DELIVERY_MODE | PRIORITY, Property::Number(number)) => octets.push(number.to_be_bytes()[7]),
            (TIMESTAMP, Property::Number(number)) => octets.extend_from_slice(&number.to_be_bytes()),
            (HEADERS | DELIVERY_MODE | PRIORITY | TIMESTAMP, _) => continue,
            (_, Property::Text(text)) => {
                let text = &text[..text.len().min(255)];
                octets.push(u8::try_from(text.len()).expect("cut to 255"));
                octets.extend_from_slice(text);
            }
            _ => continue,
        }
        flags |= flag;
    }
    let mut raw: Vec<u8> = u16::to_be_bytes(flags).into();
    raw.extend_from_slice(&octets);
    raw
}

/// Raw properties that are these headers and nothing else.
pub fn only_headers(headers: &[u8]) -> Vec<u8> {
    written(HEADERS, &[], headers, [&[], &[]])
}

/// Raw properties that are these headers, the delivery mode of a message that is to be kept, and a time.
pub fn persistent_at(headers: &[u8], time_s: u64) -> Vec<u8> {
    written(HEADERS | DELIVERY_MODE | TIMESTAMP, &[], headers, [&[2], &time_s.to_be_bytes()])
}

/// The raw properties of a message that has none.
pub const NO_PROPERTIES: &[u8] = &[0, 0];

/// Whether raw properties have an `expiration`, read or not.
pub fn has_expiration(raw: &[u8]) -> bool {
    flags(raw) & EXPIRATION != 0
}

/// Whether raw properties have a `priority`, read or not.
pub fn has_priority(raw: &[u8]) -> bool {
    flags(raw) & PRIORITY != 0
}

/// Raw properties without the header `BCC`. What can't be read stays as it is.
pub fn without_bcc(raw: &[u8]) -> Vec<u8> {
    match Properties::parse(raw) {
        Ok(properties) => match properties.headers {
            Some(headers) => properties.with_headers(raw, &headers.without(b"BCC")),
            None => raw.to_vec(),
        },
        Err(_) => raw.to_vec(),
    }
}

/// Raw properties as a quorum queue delivers them again: how often the message went out before, and how often it came
/// back as failed. A count of 0 is not told, and then a client's own header of the name stays, as in RabbitMQ
/// (rabbit_fifo_client.erl, `add_delivery_count_header`).
pub fn with_counts(raw: &[u8], acquired: u32, failed: u32) -> Vec<u8> {
    let mut counts = Writer::default();
    for (name, count) in [("x-acquired-count", acquired), ("x-delivery-count", failed)] {
        if count > 0 {
            counts.key(name).long(count.into());
        }
    }
    match Properties::parse(raw) {
        Ok(properties) if !counts.octets().is_empty() => {
            let headers = properties.headers.unwrap_or(Fields::EMPTY);
            properties.with_headers(raw, &headers.merged(counts.fields()))
        }
        _ => raw.to_vec(),
    }
}

fn flags(raw: &[u8]) -> u16 {
    raw.first_chunk().map_or(0, |flags| u16::from_be_bytes(*flags))
}

impl<'a> Properties<'a> {
    const NONE: Self = Self {
        headers: None,
        delivery_mode: None,
        priority: None,
        correlation_id: None,
        reply_to: None,
        expiration: None,
        message_id: None,
        timestamp: None,
        user_id: None,
        headers_at: 2,
        reply_to_at: 0,
        expiration_at: 0,
    };

    /// Reads the raw properties (flags first). An error is a syntax error of the publisher's.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let (flags, rest) = raw.split_first_chunk::<2>().ok_or(Malformed::Truncated)?;
        // Most messages have nothing but a delivery mode, and every message comes this way.
        match (u16::from_be_bytes(*flags), rest) {
            (0, []) => Ok(Self::NONE),
            (DELIVERY_MODE, &[mode]) => Ok(Self { delivery_mode: Some(mode), ..Self::NONE }),
            (flags, rest) => Self::parse_any(raw, flags, rest),
        }
    }

    fn parse_any(raw: &'a [u8], flags: u16, mut rest: &'a [u8]) -> Result<Self, Malformed> {
        let mut found = Self::NONE;
        if flags & 1 != 0 {
            // A second word of flags: no property of `basic` needs it.
            return Err(Malformed::Truncated);
        }
        for flag in [CONTENT_TYPE, CONTENT_ENCODING] {
            if flags & flag != 0 {
                short(&mut rest)?;
            }
        }
        found.headers_at = raw.len() - rest.len();
        if flags & HEADERS != 0 {
            found.headers = Some(Fields::check(long(&mut rest)?)?);
        }
        if flags & DELIVERY_MODE != 0 {
            found.delivery_mode = Some(octet(&mut rest)?);
        }
        if flags & PRIORITY != 0 {
            found.priority = Some(octet(&mut rest)?);
        }
        for flag in [CORRELATION_ID, REPLY_TO, EXPIRATION, MESSAGE_ID, TIMESTAMP, TYPE, USER_ID, APP_ID, CLUSTER_ID] {
            if flags & flag == 0 {
                continue;
            }
            let at = raw.len() - rest.len();
            let text = if flag == TIMESTAMP { bytes(&mut rest, 8)? } else { short(&mut rest)? };
            match flag {
                CORRELATION_ID => found.correlation_id = Some(text),
                REPLY_TO => (found.reply_to, found.reply_to_at) = (Some(text), at),
                EXPIRATION => (found.expiration, found.expiration_at) = (Some(text), at),
                MESSAGE_ID => found.message_id = Some(text),
                TIMESTAMP => found.timestamp = Some(text),
                USER_ID => found.user_id = Some(text),
                _ => {}
            }
        }
        if rest.is_empty() { Ok(found) } else { Err(Malformed::Truncated) }
    }

    /// Whether the message outlives a restart in a durable queue: delivery mode 2, and no other.
    pub fn persistent(&self) -> bool {
        self.delivery_mode == Some(2)
    }

    /// The raw properties with these headers instead of their own, if they have any. `raw` is what they were read from.
    pub fn with_headers(&self, raw: &[u8], headers: &[u8]) -> Vec<u8> {
        let (before, after) = self.around_headers(raw);
        written(flags(raw) | HEADERS, before, headers, [after, &[]])
    }

    /// The same without an expiration.
    pub fn with_headers_for_good(&self, raw: &[u8], headers: &[u8]) -> Vec<u8> {
        let (before, after) = self.around_headers(raw);
        let Some(expiration) = self.expiration else { return self.with_headers(raw, headers) };
        let (between, _) = after.split_at(self.expiration_at - (raw.len() - after.len()));
        let rest = &raw[self.expiration_at + 1 + expiration.len()..];
        written((flags(raw) | HEADERS) & !EXPIRATION, before, headers, [between, rest])
    }

    /// The raw properties with another `reply-to` instead of their own.
    pub fn with_reply_to(&self, raw: &[u8], reply_to: &str) -> Vec<u8> {
        let Some(old) = self.reply_to else { return raw.to_vec() };
        let mut out = raw[..self.reply_to_at].to_vec();
        short_string(&mut out, reply_to);
        out.extend_from_slice(&raw[self.reply_to_at + 1 + old.len()..]);
        out
    }

    /// What stands before the headers, without the flags, and what behind.
    fn around_headers<'r>(&self, raw: &'r [u8]) -> (&'r [u8], &'r [u8]) {
        let end = self.headers_at + self.headers.map_or(0, |headers| 4 + headers.octets().len());
        (&raw[2..self.headers_at], &raw[end..])
    }
}

fn written(flags: u16, before: &[u8], headers: &[u8], after: [&[u8]; 2]) -> Vec<u8> {
    let length = u32::try_from(headers.len()).expect("headers fit a frame, and what is added to them is bounded");
    let mut out = Vec::with_capacity(6 + before.len() + headers.len() + after[0].len() + after[1].len());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(before);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(headers);
    out.extend_from_slice(after[0]);
    out.extend_from_slice(after[1]);
    out
}

fn octet(rest: &mut &[u8]) -> Result<u8, Malformed> {
    let (&first, tail) = rest.split_first().ok_or(Malformed::Truncated)?;
    *rest = tail;
    Ok(first)
}

fn bytes<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], Malformed> {
    let (head, tail) = rest.split_at_checked(count).ok_or(Malformed::Truncated)?;
    *rest = tail;
    Ok(head)
}

fn short<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let count = octet(rest)?;
    bytes(rest, count.into())
}

fn long<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let (count, tail) = rest.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
    *rest = tail;
    bytes(rest, u32::from_be_bytes(*count) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::frame::WriteContext;
    use amq_protocol::protocol::basic::{AMQPProperties, gen_properties};
    use amq_protocol::types::{AMQPValue, FieldTable};

    fn encode(properties: &AMQPProperties) -> Vec<u8> {
        gen_properties(properties)(WriteContext::from(Vec::<u8>::new())).unwrap().into_inner().0
    }

    #[test]
    fn every_field_the_broker_reads_is_found_among_all_properties() {
        let mut headers = FieldTable::default();
        headers.insert("a".into(), AMQPValue::LongInt(1));
        let raw = encode(
            &AMQPProperties::default()
                .with_content_type("t".into())
                .with_content_encoding("e".into())
                .with_headers(headers)
                .with_delivery_mode(2)
                .with_priority(7)
                .with_correlation_id("c".into())
                .with_reply_to("r".into())
                .with_expiration("60".into())
                .with_message_id("m".into())
                .with_timestamp(5)
                .with_type("ty".into())
                .with_user_id("u".into())
                .with_app_id("app".into())
                .with_cluster_id("cl".into()),
        );
        let found = Properties::parse(&raw).unwrap();
        assert!(found.persistent());
        assert_eq!((found.priority, found.expiration), (Some(7), Some(&b"60"[..])));
        assert_eq!((found.reply_to, found.user_id), (Some(&b"r"[..]), Some(&b"u"[..])));
        assert_eq!((found.correlation_id, found.message_id), (Some(&b"c"[..]), Some(&b"m"[..])));
        assert_eq!(found.timestamp, Some(&5_u64.to_be_bytes()[..]));
        assert_eq!(found.headers.unwrap().iter().count(), 1);
        assert_eq!(found.with_headers(&raw, found.headers.unwrap().octets()), raw);
        let without = found.with_headers(&raw, b"");
        assert_eq!(Properties::parse(&without).unwrap().headers, Some(Fields::EMPTY));
        assert!(has_expiration(&raw) && has_priority(&raw));
        let all = named(&raw).unwrap();
        assert_eq!(all.len(), NAMES.len());
        assert_eq!(all[0], ("content_type", Property::Text(b"t")));
        assert_eq!(all[2], ("headers", Property::Headers(found.headers.unwrap())));
        assert_eq!((all[3], all[9]), (("delivery_mode", Property::Number(2)), ("timestamp", Property::Number(5))));
        assert_eq!(all[13], ("cluster_id", Property::Text(b"cl")));
        assert_eq!(of(&all), raw);
        assert_eq!(of(&all.iter().rev().copied().collect::<Vec<_>>()), raw);
        assert_eq!(of(&[("priority", Property::Text(b"1")), ("bogus", Property::Number(1))]), NO_PROPERTIES);
        for cut in 0..raw.len() {
            assert!(Properties::parse(&raw[..cut]).is_err(), "cut at {cut}");
        }
    }
    #[test]
    fn headers_are_added_and_an_expiration_dropped() {
        let with = |expiration: bool, headers: Option<i32>| {
            let mut properties = AMQPProperties::default()
                .with_content_type("t".into())
                .with_priority(0)
                .with_reply_to("r".into())
                .with_message_id("m".into())
                .with_cluster_id("c".into());
            if expiration {
                properties = properties.with_expiration("60".into());
            }
            if let Some(n) = headers {
                let mut table = FieldTable::default();
                table.insert("n".into(), AMQPValue::LongInt(n));
                properties = properties.with_headers(table);
            }
            encode(&properties)
        };
        for expiration in [true, false] {
            for headers in [None, Some(1)] {
                let raw = with(expiration, headers);
                let found = Properties::parse(&raw).unwrap();
                assert_eq!(found.with_headers(&raw, b"\x01nI\0\0\0\x02"), with(expiration, Some(2)));
                assert_eq!(found.with_headers_for_good(&raw, b"\x01nI\0\0\0\x02"), with(false, Some(2)));
            }
        }
        let none = Properties::parse(NO_PROPERTIES).unwrap();
        assert_eq!(none.with_headers_for_good(NO_PROPERTIES, b""), [0x20, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn properties_are_made_of_headers_alone() {
        assert_eq!(only_headers(b"\x01aV"), b"\x20\0\0\0\0\x03\x01aV");
        let raw = persistent_at(b"\x01aV", 7);
        let found = Properties::parse(&raw).unwrap();
        assert!(found.persistent() && found.headers.is_some_and(|headers| headers.get(b"a").is_some()));
        assert_eq!(named(&raw).unwrap()[2], ("timestamp", Property::Number(7)));
        assert_eq!(named(NO_PROPERTIES).unwrap(), []);
        assert_eq!(named(b"\x80"), Err(Malformed::Truncated));
    }

    #[test]
    fn counts_are_told_when_there_are_any() {
        // quorum: delivery_count_header, nack_with_requeue_does_not_count_towards_the_limit
        assert_eq!(with_counts(NO_PROPERTIES, 0, 0), NO_PROPERTIES);
        let both = b"\x20\0\0\0\0\x34\x10x-acquired-countl\0\0\0\0\0\0\0\x03\x10x-delivery-countl\0\0\0\0\0\0\0\x02";
        assert_eq!(with_counts(NO_PROPERTIES, 3, 2), both);
        assert_eq!(with_counts(&with_counts(NO_PROPERTIES, 1, 1), 3, 2), both);
        let one = b"\x20\0\0\0\0\x1a\x10x-acquired-countl\0\0\0\0\0\0\0\x04";
        assert_eq!(with_counts(NO_PROPERTIES, 4, 0), one);
        // Sorted in among a client's.
        let own = b"\x20\0\0\0\0\x06\x01zV\x01aV";
        let told = b"\x20\0\0\0\0\x20\x01aV\x10x-acquired-countl\0\0\0\0\0\0\0\x01\x01zV";
        assert_eq!(with_counts(own, 1, 0), told);
    }

    #[test]
    fn a_bcc_is_left_out() {
        let raw = b"\x20\0\0\0\0\x19\x02CCA\0\0\0\0\x03BCCA\0\0\0\x08S\0\0\0\x03key";
        assert_eq!(without_bcc(raw), b"\x20\0\0\0\0\x08\x02CCA\0\0\0\0");
        assert_eq!(without_bcc(NO_PROPERTIES), NO_PROPERTIES);
    }
}
