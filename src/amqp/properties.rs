//! The content header: class, weight, body size, property flags, properties (specification 4.2.6.1).
//!
//! The octets from the flags on are kept as the publisher wrote them. [`Properties`] walks over them once, checks
//! that they are well formed, and remembers where the few fields stand that the broker itself reads.

use super::table::{Fields, Malformed};

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
    pub reply_to: Option<&'a [u8]>,
    pub expiration: Option<&'a [u8]>,
    pub user_id: Option<&'a [u8]>,
    /// Where the headers' octets (without their length) start in the raw properties.
    headers_at: usize,
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

fn flags(raw: &[u8]) -> u16 {
    raw.first_chunk().map_or(0, |flags| u16::from_be_bytes(*flags))
}

impl<'a> Properties<'a> {
    /// Reads the raw properties (flags first). An error is a syntax error of the publisher's.
    pub fn parse(raw: &'a [u8]) -> Result<Self, Malformed> {
        let mut found = Self {
            headers: None,
            delivery_mode: None,
            priority: None,
            reply_to: None,
            expiration: None,
            user_id: None,
            headers_at: 0,
        };
        let (flags, mut rest) = raw.split_first_chunk::<2>().ok_or(Malformed::Truncated)?;
        let flags = u16::from_be_bytes(*flags);
        if flags & 1 != 0 {
            // A second word of flags: no property of `basic` needs it.
            return Err(Malformed::Truncated);
        }
        for flag in [CONTENT_TYPE, CONTENT_ENCODING] {
            if flags & flag != 0 {
                short(&mut rest)?;
            }
        }
        if flags & HEADERS != 0 {
            let octets = long(&mut rest)?;
            found.headers_at = raw.len() - rest.len() - octets.len();
            found.headers = Some(Fields::check(octets)?);
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
            let text = if flag == TIMESTAMP { bytes(&mut rest, 8)? } else { short(&mut rest)? };
            match flag {
                REPLY_TO => found.reply_to = Some(text),
                EXPIRATION => found.expiration = Some(text),
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

    /// The raw properties with the headers replaced. `raw` is what these properties were read from.
    pub fn with_headers(&self, raw: &[u8], headers: &[u8]) -> Vec<u8> {
        let Some(old) = self.headers else { return raw.to_vec() };
        let mut out = Vec::with_capacity(raw.len() + headers.len());
        out.extend_from_slice(&raw[..self.headers_at - 4]);
        out.extend_from_slice(&u32::try_from(headers.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(headers);
        out.extend_from_slice(&raw[self.headers_at + old.octets().len()..]);
        out
    }
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
        assert_eq!(found.headers.unwrap().iter().count(), 1);
        assert_eq!(found.with_headers(&raw, found.headers.unwrap().octets()), raw);
        let without = found.with_headers(&raw, b"");
        assert_eq!(Properties::parse(&without).unwrap().headers, Some(Fields::EMPTY));
        for cut in 0..raw.len() {
            assert!(Properties::parse(&raw[..cut]).is_err(), "cut at {cut}");
        }
    }
}
