//! Methods: class id, method id, arguments.

use super::table::{Fields, Malformed};
use amq_protocol::frame::WriteContext;
use amq_protocol::protocol::{AMQPClass, gen_class, parse_class};

/// A method as a client sends it.
#[derive(Debug, PartialEq)]
pub enum Method<'a> {
    /// basic.publish
    Publish(Publish<'a>),
    /// basic.ack
    Ack { tag: u64, multiple: bool },
    /// basic.nack
    Nack { tag: u64, multiple: bool, requeue: bool },
    /// basic.reject
    Reject { tag: u64, requeue: bool },
    /// basic.qos, whose first argument `amq-protocol` does not know.
    Qos { prefetch_bytes: u32, prefetch_count: u16 },
    /// Any other, by `amq-protocol`.
    Other(Box<AMQPClass>),
}

/// The arguments of basic.publish.
#[derive(Debug, PartialEq, Clone, Copy)]
pub struct Publish<'a> {
    /// Exchange and routing key as they came: two short strings, one after the other.
    pub address: &'a [u8],
    pub exchange: &'a str,
    pub routing_key: &'a str,
    pub mandatory: bool,
    pub immediate: bool,
}

/// Class id and method id.
pub type Id = (u16, u16);

pub const PUBLISH: Id = (60, 40);

/// Why a method frame's payload is no method a server understands.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Undecodable {
    /// Shorter than the two ids.
    NoId,
    /// A class or method that AMQP 0-9-1 does not have.
    Unknown(Id),
    /// Arguments cut off, or octets left over behind them.
    Arguments(Id),
    /// A field table with a value of unknown type, or one that is cut off within.
    Field(Id),
    /// A short string that is not UTF-8.
    NotUtf8(Id),
    /// A field table nested deeper than [`super::table::DEPTH_MAX`].
    TooDeep(Id),
    /// A field table with more values than [`super::table::VALUES_MAX`].
    TooMany(Id),
}

/// The arguments of each method, one letter each: octet, short, long, longlonG, shortStr, Longstr, bits, Table.
fn layout(id: Id) -> Option<&'static str> {
    Some(match id {
        (10, 10) => "ootLL",
        (10, 11) => "tSLS",
        (10, 20 | 21) => "L",
        (10, 30 | 31) => "hlh",
        (10, 40) => "SSb",
        (10, 41) => "S",
        (10, 50) | (20, 40) => "hShh",
        (10, 51 | 61 | 71) => "",
        (10, 60) => "S",
        (10, 70) => "LS",
        (20, 10) => "S",
        (20, 11) => "L",
        (20, 20 | 21) => "b",
        (20, 41) => "",
        (30, 10) => "Sb",
        (30, 11) => "h",
        (40, 10) => "hSSbt",
        (40, 20) => "hSb",
        (40, 30 | 40) => "hSSSbt",
        (40, 11 | 21 | 31 | 51) => "",
        (50, 10) => "hSbt",
        (50, 11) => "Sll",
        (50, 20) => "hSSSbt",
        (50, 21 | 51) => "",
        (50, 30 | 40) => "hSb",
        (50, 31 | 41) => "l",
        (50, 50) => "hSSSt",
        (60, 10) => "lhb",
        (60, 20) => "hSSbt",
        (60, 21) => "S",
        (60, 30) => "Sb",
        (60, 31) => "S",
        (60, 40) => "hSSb",
        (60, 50) => "hSSS",
        (60, 60) => "SgbSS",
        (60, 70) => "hSb",
        (60, 71) => "gbSSl",
        (60, 72) => "S",
        (60, 80 | 90 | 120) => "gb",
        (60, 100 | 110) => "b",
        (60, 11 | 111) => "",
        (85, 10) => "b",
        (85, 11) => "",
        (90, 10 | 11 | 20 | 21 | 30 | 31) => "",
        _ => return None,
    })
}

/// The ids in front of a method frame's payload.
pub fn id(payload: &[u8]) -> Option<Id> {
    let [c0, c1, m0, m1] = *payload.first_chunk::<4>()?;
    Some((u16::from_be_bytes([c0, c1]), u16::from_be_bytes([m0, m1])))
}

/// Reads a method frame's payload.
pub fn decode(payload: &[u8]) -> Result<Method<'_>, Undecodable> {
    let id = id(payload).ok_or(Undecodable::NoId)?;
    let mut arguments = Arguments { rest: &payload[4..], id };
    let method = match id {
        PUBLISH => Method::Publish(arguments.publish()?),
        (60, 80) => {
            let (tag, bits) = (arguments.longlong()?, arguments.octet()?);
            Method::Ack { tag, multiple: bits & 1 != 0 }
        }
        (60, 90) => {
            let (tag, bits) = (arguments.longlong()?, arguments.octet()?);
            Method::Reject { tag, requeue: bits & 1 != 0 }
        }
        (60, 120) => {
            let (tag, bits) = (arguments.longlong()?, arguments.octet()?);
            Method::Nack { tag, multiple: bits & 1 != 0, requeue: bits & 2 != 0 }
        }
        (60, 10) => {
            let prefetch_bytes = arguments.long()?;
            let prefetch_count = arguments.short()?;
            arguments.octet()?;
            Method::Qos { prefetch_bytes, prefetch_count }
        }
        _ => {
            let table = arguments.walk(layout(id).ok_or(Undecodable::Unknown(id))?)?;
            // Of a key that comes twice RabbitMQ takes the first value, the crate the last.
            let rewritten = table.filter(|table| table.repeats()).map(|table| without_repeats(payload, table));
            match parse_class(rewritten.as_deref().unwrap_or(payload)) {
                Ok(([], class)) => Method::Other(Box::new(class)),
                _ => return Err(Undecodable::Arguments(id)),
            }
        }
    };
    if arguments.rest.is_empty() { Ok(method) } else { Err(Undecodable::Arguments(id)) }
}

/// What is left of a method's arguments.
struct Arguments<'a> {
    rest: &'a [u8],
    id: Id,
}

impl<'a> Arguments<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Undecodable> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Undecodable::Arguments(self.id))?;
        self.rest = tail;
        Ok(head)
    }

    fn octet(&mut self) -> Result<u8, Undecodable> {
        Ok(self.take(1)?[0])
    }

    fn short(&mut self) -> Result<u16, Undecodable> {
        Ok(self.take(2)?.iter().fold(0, |sum, &octet| sum << 8 | u16::from(octet)))
    }

    fn long(&mut self) -> Result<u32, Undecodable> {
        Ok(self.take(4)?.iter().fold(0, |sum, &octet| sum << 8 | u32::from(octet)))
    }

    fn longlong(&mut self) -> Result<u64, Undecodable> {
        let octets = self.take(8)?;
        Ok(u64::from_be_bytes(octets.try_into().map_err(|_| Undecodable::Arguments(self.id))?))
    }

    /// A short string; RabbitMQ wants UTF-8 in methods.
    fn short_string(&mut self) -> Result<&'a str, Undecodable> {
        let count = self.octet()?;
        std::str::from_utf8(self.take(count.into())?).map_err(|_| Undecodable::NotUtf8(self.id))
    }

    fn long_string(&mut self) -> Result<&'a [u8], Undecodable> {
        let count = self.long()?;
        self.take(count as usize)
    }

    fn publish(&mut self) -> Result<Publish<'a>, Undecodable> {
        self.take(2)?;
        let start = self.rest;
        let exchange = self.short_string()?;
        let routing_key = self.short_string()?;
        let address = &start[..start.len() - self.rest.len()];
        let bits = self.octet()?;
        Ok(Publish { address, exchange, routing_key, mandatory: bits & 1 != 0, immediate: bits & 2 != 0 })
    }

    /// Steps over all arguments and checks tables, so that `amq-protocol` can be given them.
    fn walk(&mut self, layout: &str) -> Result<Option<Fields<'a>>, Undecodable> {
        let mut table = None;
        for letter in layout.bytes() {
            match letter {
                b'o' | b'b' => drop(self.octet()?),
                b'h' => drop(self.take(2)?),
                b'l' => drop(self.take(4)?),
                b'g' => drop(self.longlong()?),
                b'S' => drop(self.short_string()?),
                b'L' => drop(self.long_string()?),
                _ => {
                    let fields = Fields::check(self.long_string()?).map_err(|error| match error {
                        Malformed::UnknownType(_) | Malformed::Truncated | Malformed::Float => {
                            Undecodable::Field(self.id)
                        }
                        Malformed::TooDeep => Undecodable::TooDeep(self.id),
                        Malformed::Key => Undecodable::Arguments(self.id),
                    })?;
                    if fields.are_too_many() {
                        return Err(Undecodable::TooMany(self.id));
                    }
                    table = Some(fields);
                }
            }
        }
        Ok(table)
    }
}

/// A payload with each key of its table once: the first. No method has two tables.
fn without_repeats(payload: &[u8], table: Fields<'_>) -> Vec<u8> {
    let once = Fields::EMPTY.merged(table);
    // The table's octets are a part of the payload's, with their length in front.
    let start = table.octets().as_ptr().addr() - payload.as_ptr().addr();
    let mut out = payload[..start - 4].to_vec();
    out.extend_from_slice(&u32::try_from(once.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&once);
    out.extend_from_slice(&payload[start + table.octets().len()..]);
    out
}

/// Writes a method as a frame. For the rare methods; the frequent ones have functions of their own below.
pub fn write(out: &mut Vec<u8>, channel: u16, method: &AMQPClass) {
    super::frame::write(out, super::frame::METHOD, channel, |out| {
        let encoded = gen_class(method)(WriteContext::from(Vec::<u8>::new()));
        let (octets, _) = encoded.expect("writing to memory can't fail").into_inner();
        out.extend_from_slice(&octets);
    });
}

/// Writes basic.ack, as a confirmation to a publisher or an acknowledgement by a consumer.
pub fn write_ack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool) {
    write_settlement(out, channel, 80, tag, multiple.into());
}

/// Writes basic.nack.
pub fn write_nack(out: &mut Vec<u8>, channel: u16, tag: u64, multiple: bool, requeue: bool) {
    write_settlement(out, channel, 120, tag, u8::from(multiple) | u8::from(requeue) << 1);
}

fn write_settlement(out: &mut Vec<u8>, channel: u16, method: u8, tag: u64, bits: u8) {
    let [c0, c1] = channel.to_be_bytes();
    out.extend_from_slice(&[super::frame::METHOD, c0, c1, 0, 0, 0, 13, 0, 60, 0, method]);
    out.extend_from_slice(&tag.to_be_bytes());
    out.extend_from_slice(&[bits, super::frame::END]);
}

/// Writes basic.deliver. `address` is exchange and routing key as two short strings.
pub fn write_deliver(out: &mut Vec<u8>, channel: u16, consumer_tag: &str, tag: u64, redelivered: bool, address: &[u8]) {
    super::frame::write(out, super::frame::METHOD, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 60]);
        short_string(out, consumer_tag);
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(redelivered.into());
        out.extend_from_slice(address);
    });
}

/// Writes basic.get-ok. `address` is exchange and routing key as two short strings.
pub fn write_get_ok(out: &mut Vec<u8>, channel: u16, tag: u64, redelivered: bool, address: &[u8], messages: u32) {
    super::frame::write(out, super::frame::METHOD, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 71]);
        out.extend_from_slice(&tag.to_be_bytes());
        out.push(redelivered.into());
        out.extend_from_slice(address);
        out.extend_from_slice(&messages.to_be_bytes());
    });
}

/// Writes basic.return. `address` is exchange and routing key as two short strings.
pub fn write_return(out: &mut Vec<u8>, channel: u16, code: super::ReplyCode, address: &[u8]) {
    super::frame::write(out, super::frame::METHOD, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 50]);
        out.extend_from_slice(&code.number().to_be_bytes());
        short_string(out, code.name());
        out.extend_from_slice(address);
    });
}

/// Writes basic.publish, for the tools that are clients. Names of more than 255 octets are cut.
pub fn write_publish(out: &mut Vec<u8>, channel: u16, exchange: &str, routing_key: &str, mandatory: bool) {
    super::frame::write(out, super::frame::METHOD, channel, |out| {
        out.extend_from_slice(&[0, 60, 0, 40, 0, 0]);
        short_string(out, exchange);
        short_string(out, routing_key);
        out.push(mandatory.into());
    });
}

/// Appends a short string, cut at 255 octets.
pub fn short_string(out: &mut Vec<u8>, text: &str) {
    let octets = &text.as_bytes()[..text.len().min(255)];
    out.push(u8::try_from(octets.len()).expect("cut to 255"));
    out.extend_from_slice(octets);
}

/// The two short strings in front of `octets`, as octets, and what follows them.
pub fn split_address(octets: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&count, rest) = octets.split_first()?;
    let (exchange, rest) = rest.split_at_checked(count.into())?;
    let (&count, rest) = rest.split_first()?;
    let (routing_key, rest) = rest.split_at_checked(count.into())?;
    Some((exchange, routing_key, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::protocol::basic;

    /// The method in a frame that one of the writers made.
    fn parsed(frame: &[u8]) -> AMQPClass {
        let (frame, length) = crate::amqp::frame::split(frame, 0).unwrap().unwrap();
        assert_eq!(length, frame.payload.len() + 8);
        let ([], class) = parse_class(frame.payload).unwrap() else { panic!("octets left over") };
        class
    }

    #[test]
    fn what_is_written_by_hand_is_what_amq_protocol_reads() {
        let mut out = Vec::new();
        write_deliver(&mut out, 1, "ctag", 9, true, b"\x02ex\x03key");
        let deliver = basic::Deliver {
            consumer_tag: "ctag".into(),
            delivery_tag: 9,
            redelivered: true,
            exchange: "ex".into(),
            routing_key: "key".into(),
        };
        assert_eq!(parsed(&out), AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)));

        out.clear();
        write_get_ok(&mut out, 1, 9, false, b"\x00\x03key", 7);
        let got = basic::GetOk {
            delivery_tag: 9,
            redelivered: false,
            exchange: "".into(),
            routing_key: "key".into(),
            message_count: 7,
        };
        assert_eq!(parsed(&out), AMQPClass::Basic(basic::AMQPMethod::GetOk(got)));

        out.clear();
        write_return(&mut out, 1, crate::amqp::ReplyCode::NoRoute, b"\x02ex\x00");
        let returned = basic::Return {
            reply_code: 312,
            reply_text: "NO_ROUTE".into(),
            exchange: "ex".into(),
            routing_key: "".into(),
        };
        assert_eq!(parsed(&out), AMQPClass::Basic(basic::AMQPMethod::Return(returned)));

        out.clear();
        write_ack(&mut out, 513, 77, true);
        let ack = basic::Ack { delivery_tag: 77, multiple: true };
        assert_eq!(parsed(&out), AMQPClass::Basic(basic::AMQPMethod::Ack(ack)));

        out.clear();
        write_nack(&mut out, 1, 77, false, true);
        let nack = basic::Nack { delivery_tag: 77, multiple: false, requeue: true };
        assert_eq!(parsed(&out), AMQPClass::Basic(basic::AMQPMethod::Nack(nack)));
    }

    #[test]
    fn what_amq_protocol_writes_is_read_by_hand() {
        let mut out = Vec::new();
        let publish =
            basic::Publish { exchange: "e".into(), routing_key: "k".into(), mandatory: true, immediate: false };
        write(&mut out, 1, &AMQPClass::Basic(basic::AMQPMethod::Publish(publish)));
        let payload = &out[7..out.len() - 1];
        let Ok(Method::Publish(read)) = decode(payload) else { panic!() };
        assert_eq!((read.exchange, read.routing_key, read.mandatory, read.immediate), ("e", "k", true, false));
        assert_eq!(read.address, b"\x01e\x01k");
        for cut in 4..payload.len() {
            assert_eq!(decode(&payload[..cut]), Err(Undecodable::Arguments(PUBLISH)), "cut at {cut}");
        }
    }

    #[test]
    fn errors_are_told_apart() {
        assert_eq!(decode(b""), Err(Undecodable::NoId));
        assert_eq!(decode(&[0, 99, 0, 10]), Err(Undecodable::Unknown((99, 10))));
        assert_eq!(decode(&[0, 90, 0, 10, b'!']), Err(Undecodable::Arguments((90, 10))));
        let declare = |table: &[u8]| {
            let mut octets = vec![0, 50, 0, 10, 0, 0, 1, b'x', 0];
            octets.extend_from_slice(&u32::try_from(table.len()).unwrap().to_be_bytes());
            octets.extend_from_slice(table);
            octets
        };
        assert_eq!(decode(&declare(b"\x01aQ\0\0")), Err(Undecodable::Field((50, 10))));
        assert!(matches!(decode(&declare(b"\x01aI\0\0\0\x01")), Ok(Method::Other(_))));
    }
}
