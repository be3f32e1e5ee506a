//! Dead-lettering, pure: what becomes of a message that a queue gives up, and where it must not go.
//!
//! RabbitMQ keeps a message's deaths beside it and writes them among the headers when it is delivered
//! (rabbit_dead_letter.erl, mc.erl `record_death`, mc_amqpl.erl `protocol_state`). Here they are written at once, and
//! [`Marks::DIED`] says that they are the broker's own. What comes out is the same:
//!
//! ```text
//! x-death               array of tables, the last death first, one for each queue and reason:
//!                       original-expiration (if it had one), count, reason, queue, time, exchange, routing-keys
//! x-first-death-…       exchange, queue, reason: set once
//! x-last-death-…        exchange, queue, reason: of this death
//! ```
//!
//! A death for the same reason in the same queue counts the old entry up and moves it to the front; what else stands in
//! it is of the first time. All headers are then sorted by key, each kept once.

use crate::amqp::method::{short_string, split_address};
use crate::amqp::properties::Properties;
use crate::amqp::table::{Field, Fields, Items, Writer};
use crate::message::{Marks, Message, Traits};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Of a message's routing keys, a death tells those first ones that fit. `CC` may be as long as a frame, and is told
/// again by every death.
const TOLD_KEYS_BYTES_MAX: usize = 16 << 10;
/// The oldest deaths are forgotten when all of them need more: room for thousands.
const DEATHS_BYTES_MAX: usize = 1 << 20;

/// Why a queue gives a message up, in the order of `metrics::REASONS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// basic.reject or basic.nack without requeue.
    Rejected,
    /// Its time to live, or its queue's, has passed.
    Expired,
    /// The queue is full.
    MaxLen,
    /// It was returned too often.
    DeliveryLimit,
}

/// One message's end in one queue.
#[derive(Debug, Clone, Copy)]
pub struct Death<'a> {
    pub queue: &'a str,
    pub reason: Reason,
    /// Seconds since 1970.
    pub time_s: u64,
}

/// A message on its way to a dead letter exchange. The body is the old one's.
#[derive(Debug)]
pub struct Relayed<'a> {
    /// Exchange and first routing key as two short strings.
    pub address: Vec<u8>,
    pub marks: Marks,
    pub traits: Traits,
    /// The raw properties.
    pub properties: Vec<u8>,
    pub body: &'a [u8],
    /// All keys to route it by.
    pub keys: SmallVec<[&'a str; 2]>,
    /// The items of `x-death`.
    deaths: Writer,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLen => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

impl Relayed<'_> {
    /// Ready to be packed.
    pub fn message(&self) -> Message<'_> {
        let (exchange, routing_key, _) = split_address(&self.address).unwrap_or_default();
        Message {
            address: &self.address,
            exchange,
            routing_key,
            marks: self.marks,
            properties: &self.properties,
            body: self.body,
        }
    }

    /// Whether it would come back to a queue it died in, with no client's rejection since: then this queue must not get
    /// it, or it would go round for ever (rabbit_dead_letter.erl `detect_cycles`, mc.erl `is_death_cycle`).
    pub fn is_cycle(&self, queue: &str) -> bool {
        for death in tables(self.deaths.items()) {
            if text(death, b"reason") == Reason::Rejected.name().as_bytes() {
                return false;
            }
            if text(death, b"queue") == queue.as_bytes() {
                return true;
            }
        }
        false
    }

    /// The queues it died in, the last one first. For a log line about a cycle.
    pub fn queues(&self) -> impl Iterator<Item = String> {
        tables(self.deaths.items()).map(|death| String::from_utf8_lossy(text(death, b"queue")).into_owned())
    }
}

/// The message that a queue's dead letter exchange gets: with `routing_key` (the queue's `x-dead-letter-routing-key`), or
/// else with its own keys.
///
/// A dead letter routing key longer than a short string routes whole, as in RabbitMQ, but stands cut in the message's
/// address. RabbitMQ puts it there whole and then fails with 541 whoever consumes the message.
pub fn relay<'a>(
    message: &Message<'a>,
    death: &Death<'_>,
    exchange: &str,
    routing_key: Option<&'a str>,
) -> Relayed<'a> {
    let properties = Properties::parse(message.properties).expect("only properties that were read are packed");
    let headers = properties.headers.unwrap_or(Fields::EMPTY);
    let bcc = if message.marks.contain(Marks::BCC) { array(headers, b"BCC") } else { Items::EMPTY };
    let mut own: SmallVec<[&'a [u8]; 4]> = SmallVec::new();
    own.push(message.routing_key);
    if !message.marks.contain(Marks::RELAYED) {
        own.extend(array(headers, b"CC").long_strings());
        own.extend(bcc.long_strings());
    }

    let died = message.marks.contain(Marks::DIED);
    let mut deaths = Writer::default();
    let before = if died { array(headers, b"x-death") } else { Items::EMPTY };
    write_deaths(&mut deaths, before, death, |table| {
        if let Some(expiration) = properties.expiration {
            table.key("original-expiration").long_string(&canonical(expiration));
        }
        table.key("count").long(1);
        table.key("reason").long_string(death.reason.name().as_bytes());
        table.key("queue").long_string(death.queue.as_bytes());
        table.key("time").timestamp(death.time_s);
        table.key("exchange").long_string(message.exchange);
        table.key("routing-keys").array(|items| write_told_keys(items, &own, bcc));
    });

    let mut new = Writer::default();
    new.key("x-death").array(|items| items.raw(deaths.octets()));
    let mut short = |names: [&str; 3]| {
        let values = [message.exchange, death.queue.as_bytes(), death.reason.name().as_bytes()];
        names.into_iter().zip(values).for_each(|(name, value)| new.key(name).long_string(value));
    };
    if !died {
        short(["x-first-death-exchange", "x-first-death-queue", "x-first-death-reason"]);
    }
    short(["x-last-death-exchange", "x-last-death-queue", "x-last-death-reason"]);

    let mut address = Vec::with_capacity(2 + exchange.len() + routing_key.map_or(message.routing_key.len(), str::len));
    short_string(&mut address, exchange);
    let mut marks = message.marks | Marks::DIED;
    let keys = match routing_key {
        Some(key) => {
            short_string(&mut address, &key[..key.floor_char_boundary(255)]);
            marks = marks | Marks::RELAYED;
            SmallVec::from_iter([key])
        }
        None => {
            // A routing key is UTF-8; of other keys nothing can be bound to those that are not.
            let keys: SmallVec<[&str; 2]> = own.iter().filter_map(|key| std::str::from_utf8(key).ok()).collect();
            short_string(&mut address, std::str::from_utf8(message.routing_key).unwrap_or_default());
            keys
        }
    };
    Relayed {
        address,
        marks,
        traits: Traits { expires: false, ..Traits::of(&properties) },
        properties: properties.with_headers_for_good(message.properties, &headers.merged(new.fields())),
        body: message.body,
        keys,
        deaths,
    }
}

/// Writes the deaths with one more: the old entry for the same queue and reason counted up, or the one that `fill` writes.
fn write_deaths(out: &mut Writer, before: Items<'_>, death: &Death<'_>, fill: impl FnOnce(&mut Writer)) {
    let same = |table: &Fields<'_>| {
        text(*table, b"queue") == death.queue.as_bytes() && text(*table, b"reason") == death.reason.name().as_bytes()
    };
    match tables(before).find(same) {
        None => out.table(fill),
        Some(old) => out.table(|table| {
            for (key, value, octets) in old.raw() {
                match value.as_i64().filter(|_| key == b"count") {
                    Some(count) => table.key("count").long(count.saturating_add(1)),
                    None => table.raw(octets),
                }
            }
        }),
    }
    for (item, octets) in before.raw() {
        if out.octets().len() + octets.len() > DEATHS_BYTES_MAX {
            break;
        }
        if let Field::Table(table) = item
            && !same(&table)
        {
            out.raw(octets);
        }
    }
}

/// Writes the keys that a death tells: all but those in `BCC`, each of which hides one equal key, the first, whatever it
/// came from (mc.erl `record_death`: `RKeys0 -- BccKeys`).
fn write_told_keys(out: &mut Writer, keys: &[&[u8]], bcc: Items<'_>) {
    let mut hidden: FxHashMap<&[u8], usize> = FxHashMap::default();
    bcc.long_strings().for_each(|key| *hidden.entry(key).or_default() += 1);
    let mut bytes = 0;
    for key in keys {
        match hidden.get_mut(key) {
            Some(left @ 1..) => *left -= 1,
            _ => {
                bytes += 5 + key.len();
                if bytes > TOLD_KEYS_BYTES_MAX {
                    return;
                }
                out.long_string(key);
            }
        }
    }
}

/// An expiration as RabbitMQ tells it after it was a number: `+007` as `7`.
fn canonical(expiration: &[u8]) -> Vec<u8> {
    let number = std::str::from_utf8(expiration).ok().and_then(|text| text.parse::<i64>().ok());
    number.map_or_else(|| expiration.to_vec(), |number| number.to_string().into_bytes())
}

/// A header's array; an empty one if it is something else.
fn array<'a>(headers: Fields<'a>, key: &[u8]) -> Items<'a> {
    match headers.get(key) {
        Some(Field::Array(items)) => items,
        _ => Items::EMPTY,
    }
}

fn tables<'a>(items: Items<'a>) -> impl Iterator<Item = Fields<'a>> {
    items.iter().filter_map(|item| match item {
        Field::Table(fields) => Some(fields),
        _ => None,
    })
}

fn text<'a>(table: Fields<'a>, key: &[u8]) -> &'a [u8] {
    match table.get(key) {
        Some(Field::LongStr(text)) => text,
        _ => b"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Packer, Run};
    use amq_protocol::frame::WriteContext;
    use amq_protocol::protocol::basic::{AMQPProperties, gen_properties, parse_properties};
    use amq_protocol::types::{AMQPValue, FieldArray, FieldTable};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::fmt::Write as _;

    /// A message as it lies in a queue, published with these raw properties.
    fn published(exchange: &str, routing_key: &str, properties: &[u8]) -> Run {
        let read = Properties::parse(properties).unwrap();
        let bcc = read.headers.is_some_and(|headers| headers.get(b"BCC").is_some());
        let mut address = Vec::new();
        short_string(&mut address, exchange);
        short_string(&mut address, routing_key);
        let (exchange, routing_key) = (exchange.as_bytes(), routing_key.as_bytes());
        let marks = if bcc { Marks::BCC } else { Marks::NONE };
        let mut packer = Packer::default();
        packer.push(
            &Message { address: &address, exchange, routing_key, marks, properties, body: b"body" },
            Traits::of(&read),
        );
        packer.finish()
    }

    fn packed(relayed: &Relayed<'_>) -> Run {
        let mut packer = Packer::default();
        packer.push(&relayed.message(), relayed.traits);
        packer.finish()
    }

    /// The message in another queue, after it died in this one.
    fn died(run: &Run, queue: &str, reason: Reason, exchange: &str, routing_key: Option<&str>) -> Run {
        packed(&relay(&run.message(0), &Death { queue, reason, time_s: 7 }, exchange, routing_key))
    }

    fn encode(properties: &AMQPProperties) -> Vec<u8> {
        gen_properties(properties)(WriteContext::from(Vec::<u8>::new())).unwrap().into_inner().0
    }

    fn with_headers(headers: &[(&str, AMQPValue)]) -> Vec<u8> {
        let mut table = FieldTable::default();
        for (key, value) in headers {
            table.insert((*key).into(), value.clone());
        }
        encode(&AMQPProperties::default().with_headers(table))
    }

    fn keys(keys: &[&str]) -> AMQPValue {
        let items: Vec<_> = keys.iter().map(|key| AMQPValue::LongString((*key).into())).collect();
        AMQPValue::FieldArray(FieldArray::from(items))
    }

    /// The headers as a consumer sees them, in the notation of the recorded traces.
    fn shown(run: &Run) -> String {
        let raw = crate::amqp::properties::without_bcc(run.message(0).properties);
        let mut out = String::new();
        show_fields(&mut out, Properties::parse(&raw).unwrap().headers.unwrap());
        out
    }

    fn show_fields(out: &mut String, fields: Fields<'_>) {
        for (at, (key, value)) in fields.iter().enumerate() {
            write!(out, "{}{}=", if at > 0 { " " } else { "" }, String::from_utf8_lossy(key)).unwrap();
            show(out, value);
        }
    }

    fn show(out: &mut String, value: Field<'_>) {
        match value {
            Field::I32(n) => write!(out, "I:{n}").unwrap(),
            Field::I64(n) => write!(out, "l:{n}").unwrap(),
            Field::Timestamp(n) => write!(out, "T:{n}").unwrap(),
            Field::LongStr(text) => write!(out, "S:{}", String::from_utf8_lossy(text)).unwrap(),
            Field::Table(fields) => {
                out.push('{');
                show_fields(out, fields);
                out.push('}');
            }
            Field::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at > 0 { ", " } else { "" });
                    show(out, item);
                }
                out.push(']');
            }
            other => panic!("{other:?}"),
        }
    }

    /// What a death's headers are, with `first` and `last` as exchange, queue and reason.
    fn told(deaths: &[&str], first: [&str; 3], last: [&str; 3]) -> String {
        let mut out = format!("x-death=[{}]", deaths.join(", "));
        for (which, values) in [("first", first), ("last", last)] {
            for (what, value) in ["exchange", "queue", "reason"].into_iter().zip(values) {
                write!(out, " x-{which}-death-{what}=S:{value}").unwrap();
            }
        }
        out
    }

    fn hex(text: &str) -> Vec<u8> {
        let digit = |digit: u8| u8::try_from(char::from(digit).to_digit(16).unwrap()).unwrap();
        text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    // ── The recorded traces of RabbitMQ, by the names of their scenarios ──────────────────────────────────────────────

    #[test]
    fn rejected() {
        let mut own = FieldTable::default();
        own.insert("own".into(), AMQPValue::LongInt(1));
        let properties = encode(&AMQPProperties::default().with_headers(own).with_expiration("60000".into()));
        let dead = died(&published("", "q", &properties), "q", Reason::Rejected, "", Some("q-dlq"));
        let death = "{original-expiration=S:60000 count=l:1 reason=S:rejected queue=S:q time=T:7 exchange=S: \
                     routing-keys=[S:q]}";
        let of = ["", "q", "rejected"];
        assert_eq!(shown(&dead), format!("own=I:1 {}", told(&[death], of, of)));
        let message = dead.message(0);
        assert_eq!((message.exchange, message.routing_key, message.body), (&b""[..], &b"q-dlq"[..], &b"body"[..]));
        assert_eq!(Properties::parse(message.properties).unwrap().expiration, None);
        assert!(!dead.expires());
    }

    #[test]
    fn expired_and_maxlen_and_delivery_limit() {
        for (reason, name) in
            [(Reason::Expired, "expired"), (Reason::MaxLen, "maxlen"), (Reason::DeliveryLimit, "delivery_limit")]
        {
            let dead = died(&published("", "q", &[0, 0]), "q", reason, "", Some("q-dlq"));
            let death = format!("{{count=l:1 reason=S:{name} queue=S:q time=T:7 exchange=S: routing-keys=[S:q]}}");
            let of = ["", "q", name];
            assert_eq!(shown(&dead), told(&[&death], of, of));
        }
    }

    #[test]
    fn expired_by_message_keeps_original_expiration() {
        // Canonical: a live RabbitMQ makes 7 of 007 and 60000 of +60000.
        for (expiration, number) in [("30", "30"), ("007", "7"), ("+60000", "60000"), ("-0", "0")] {
            let properties = encode(&AMQPProperties::default().with_expiration(expiration.into()));
            let dead = died(&published("", "q", &properties), "q", Reason::Expired, "", Some("q-dlq"));
            let start = format!("x-death=[{{original-expiration=S:{number} count=l:1 reason=S:expired ");
            assert!(shown(&dead).starts_with(&start));
        }
    }

    #[test]
    fn second_death_in_same_queue_counts_up() {
        // Not for a client that publishes again what it got: to the broker this is a new message.
        let dead = died(&published("", "q", &[0, 0]), "q", Reason::Rejected, "", Some("q-dlq"));
        let again = published("", "q", dead.message(0).properties);
        assert_eq!(shown(&died(&again, "q", Reason::Rejected, "", Some("q-dlq"))), shown(&dead));
    }

    #[test]
    fn two_reasons_two_entries() {
        let start = published("", "start", &[0, 0]);
        let middle = died(&start, "start", Reason::Rejected, "", Some("middle"));
        let end = died(&middle, "middle", Reason::Expired, "", Some("end"));
        let deaths = [
            "{count=l:1 reason=S:expired queue=S:middle time=T:7 exchange=S: routing-keys=[S:middle]}",
            "{count=l:1 reason=S:rejected queue=S:start time=T:7 exchange=S: routing-keys=[S:start]}",
        ];
        assert_eq!(shown(&end), told(&deaths, ["", "start", "rejected"], ["", "middle", "expired"]));
    }

    #[test]
    fn cycle_without_rejection_is_dropped() {
        let run = published("", "q", &[0, 0]);
        let relayed = relay(&run.message(0), &Death { queue: "q", reason: Reason::Expired, time_s: 7 }, "", None);
        assert_eq!(relayed.keys[..], ["q"]);
        assert!(relayed.is_cycle("q") && !relayed.is_cycle("other"));
        assert_eq!(relayed.queues().collect::<Vec<_>>(), ["q"]);
    }

    #[test]
    fn cycle_with_rejection_goes_on() {
        let mut run = published("", "q", &[0, 0]);
        for count in 1..=3 {
            run = {
                let death = Death { queue: "q", reason: Reason::Rejected, time_s: 7 };
                let relayed = relay(&run.message(0), &death, "", None);
                assert!(!relayed.is_cycle("q"));
                packed(&relayed)
            };
            let death =
                format!("{{count=l:{count} reason=S:rejected queue=S:q time=T:7 exchange=S: routing-keys=[S:q]}}");
            let of = ["", "q", "rejected"];
            assert_eq!(shown(&run), told(&[&death], of, of));
        }
    }

    #[test]
    fn without_routing_key_original_key_is_used() {
        let run = published("amq.direct", "original", &[0, 0]);
        let dead = died(&run, "q", Reason::Rejected, "dlx", None);
        let death = "{count=l:1 reason=S:rejected queue=S:q time=T:7 exchange=S:amq.direct routing-keys=[S:original]}";
        let of = ["amq.direct", "q", "rejected"];
        assert_eq!(shown(&dead), told(&[death], of, of));
        assert_eq!((dead.message(0).exchange, dead.message(0).routing_key), (&b"dlx"[..], &b"original"[..]));
    }

    #[test]
    fn cc_headers_in_death() {
        let run = published("", "q", &with_headers(&[("CC", keys(&["cc1"])), ("BCC", keys(&["bcc1"]))]));
        let dead = died(&run, "q", Reason::Rejected, "", Some("q-dlq"));
        let death = "{count=l:1 reason=S:rejected queue=S:q time=T:7 exchange=S: routing-keys=[S:q, S:cc1]}";
        let of = ["", "q", "rejected"];
        assert_eq!(shown(&dead), format!("CC=[S:cc1] {}", told(&[death], of, of)));
        assert!(dead.message(0).marks.contain(Marks::DIED | Marks::BCC | Marks::RELAYED));
    }

    // ── What a live RabbitMQ 4.3 made of messages that no scenario has, octet for octet ───────────────────────────────

    /// The time in what was recorded.
    const TIME_S: u64 = 0x6b06_3fbc;

    fn relayed_as(run: &Run, queue: &str, exchange: &str, routing_key: Option<&str>) -> Run {
        let death = Death { queue, reason: Reason::Rejected, time_s: TIME_S };
        packed(&relay(&run.message(0), &death, exchange, routing_key))
    }

    #[test]
    fn headers_are_sorted_and_a_clients_own_deaths_replaced() {
        // All properties, keys twice, a nested table, and x-death-like headers of wrong types.
        let sent = hex(
            "b9cc0263740000008b017a73000101615601614900000005016d6c00000000000000070166460000000e017a49000000010161490000\
             000207782d646561746853000000086e6f6e73656e736507782d646561746853000000096e6f6e73656e73653212782d6c6173742d64\
             656174682d7175657565490000000313782d66697273742d64656174682d717565756541000000000103062b36303030300269640000\
             0000000000050361707002636c",
        );
        let came = hex(
            "b8cc026374000001740161560166460000000e017a490000000101614900000002016d6c000000000000000707782d64656174684100\
             00008c4600000087136f726967696e616c2d65787069726174696f6e5300000005363030303005636f756e746c000000000000000106\
             726561736f6e530000000872656a65637465640571756575655300000004646c2d710474696d6554000000006b063fbc086578636861\
             6e676553000000000c726f7574696e672d6b65797341000000095300000004646c2d7116782d66697273742d64656174682d65786368\
             616e6765530000000013782d66697273742d64656174682d71756575655300000004646c2d7114782d66697273742d64656174682d72\
             6561736f6e530000000872656a656374656415782d6c6173742d64656174682d65786368616e6765530000000012782d6c6173742d64\
             656174682d71756575655300000004646c2d7113782d6c6173742d64656174682d726561736f6e530000000872656a6563746564017a\
             730001010302696400000000000000050361707002636c",
        );
        let dead = relayed_as(&published("", "dl-q", &sent), "dl-q", "", Some("dl-d"));
        assert_eq!(dead.message(0).properties, came);
    }

    #[test]
    fn a_bcc_that_is_also_the_routing_key_hides_the_first_of_the_two() {
        let run = published("", "dl-q", &with_headers(&[("CC", keys(&["b"])), ("BCC", keys(&["dl-q"]))]));
        let dead = relayed_as(&run, "dl-q", "", Some("dl-d"));
        assert!(shown(&dead).contains("routing-keys=[S:b, S:dl-q]"));
    }

    #[test]
    fn a_bcc_hides_keys_for_ever() {
        let sent =
            hex("20000000002b0243434100000007530000000263630342434341000000135300000004646c2d325300000005646c2d3178");
        let came = hex(
            "2000000001a902434341000000075300000002636307782d646561746841000000da460000006005636f756e746c0000000000000001\
             06726561736f6e530000000872656a65637465640571756575655300000004646c2d320474696d6554000000006b063fbc0865786368\
             616e676553000000000c726f7574696e672d6b6579734100000000460000007005636f756e746c000000000000000106726561736f6e\
             530000000872656a65637465640571756575655300000004646c2d310474696d6554000000006b063fbc0865786368616e6765530000\
             00000c726f7574696e672d6b65797341000000105300000004646c2d315300000002636316782d66697273742d64656174682d657863\
             68616e6765530000000013782d66697273742d64656174682d71756575655300000004646c2d3114782d66697273742d64656174682d\
             726561736f6e530000000872656a656374656415782d6c6173742d64656174682d65786368616e6765530000000012782d6c6173742d\
             64656174682d71756575655300000004646c2d3213782d6c6173742d64656174682d726561736f6e530000000872656a6563746564",
        );
        let first = relayed_as(&published("", "dl-1", &sent), "dl-1", "", Some("dl-2"));
        let dead = relayed_as(&first, "dl-2", "dl-f", None);
        assert_eq!((dead.message(0).exchange, dead.message(0).routing_key), (&b"dl-f"[..], &b"dl-2"[..]));
        assert_eq!(crate::amqp::properties::without_bcc(dead.message(0).properties), came);
    }

    // ── Beyond the recorded ───────────────────────────────────────────────────────────────────────────────────────────

    #[test]
    fn it_is_routed_by_all_its_keys_until_a_queue_gives_it_one() {
        let run = published("x", "k", &with_headers(&[("CC", keys(&["c", "c"])), ("BCC", keys(&["b"]))]));
        let death = Death { queue: "q", reason: Reason::MaxLen, time_s: 7 };
        let relayed = relay(&run.message(0), &death, "dlx", None);
        assert_eq!(relayed.keys[..], ["k", "c", "c", "b"]);
        let run = packed(&relayed);
        let relayed = relay(&run.message(0), &death, "dlx", None);
        assert_eq!(relayed.keys[..], ["k", "c", "c", "b"]);
        let relayed = relay(&run.message(0), &death, "dlx", Some("only"));
        assert_eq!(relayed.keys[..], ["only"]);
        let run = packed(&relayed);
        let relayed = relay(&run.message(0), &death, "dlx", None);
        assert_eq!(relayed.keys[..], ["only"]);
        assert!(shown(&packed(&relayed)).contains("count=l:3"));
    }

    #[test]
    fn a_long_routing_key_routes_whole_and_is_cut_in_the_address() {
        let key = "é".repeat(150);
        let run = published("", "q", &[0, 0]);
        let relayed = relay(&run.message(0), &Death { queue: "q", reason: Reason::MaxLen, time_s: 7 }, "x", Some(&key));
        assert_eq!(relayed.keys[..], [key.as_str()]);
        assert_eq!(relayed.message().routing_key, &key.as_bytes()[..254]);
    }

    #[test]
    fn a_long_history_and_many_keys_are_bounded() {
        let many: Vec<String> = (0..20_000).map(|n| format!("key{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut run = published("", "q", &with_headers(&[("CC", keys(&many)), ("BCC", keys(&many))]));
        let first_bytes = run.message_bytes(0);
        for queue in 0..100 {
            run = died(&run, &format!("q{queue}"), Reason::MaxLen, "", None);
        }
        assert!(run.message_bytes(0) < first_bytes + DEATHS_BYTES_MAX + TOLD_KEYS_BYTES_MAX + 4096);
        let headers = Properties::parse(run.message(0).properties).unwrap().headers.unwrap();
        let deaths = array(headers, b"x-death");
        assert!(deaths.iter().count() > 60);
        assert_eq!(text(tables(deaths).next().unwrap(), b"queue"), b"q99");
        assert!(tables(deaths).all(|death| array(death, b"routing-keys").octets().len() <= TOLD_KEYS_BYTES_MAX));
    }

    #[test]
    fn a_rejection_breaks_a_cycle_only_where_it_is() {
        let death = |queue, reason| Death { queue, reason, time_s: 7 };
        let run = published("", "a", &[0, 0]);
        let run = died(&run, "a", Reason::Rejected, "", Some("b"));
        // a rejected, then expired in b: back to a is no cycle, to b it is.
        let relayed = relay(&run.message(0), &death("b", Reason::Expired), "", Some("a"));
        assert!(!relayed.is_cycle("a") && relayed.is_cycle("b"));
        // The death in a moves to the front, and with it its reason.
        let run = packed(&relayed);
        let relayed = relay(&run.message(0), &death("a", Reason::Rejected), "", Some("b"));
        assert!(!relayed.is_cycle("b"));
        assert_eq!(relayed.queues().collect::<Vec<_>>(), ["a", "b"]);
    }

    /// A death as the model knows it: count, exchange, keys told, expiration.
    type Known = (i64, String, Vec<String>, Option<String>);

    #[derive(Debug, Clone)]
    struct Step {
        queue: &'static str,
        reason: Reason,
        exchange: &'static str,
        key: Option<&'static str>,
    }

    fn value() -> impl Strategy<Value = AMQPValue> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(AMQPValue::Boolean),
            any::<i8>().prop_map(AMQPValue::ShortShortInt),
            any::<u16>().prop_map(AMQPValue::ShortUInt),
            any::<i64>().prop_map(AMQPValue::LongLongInt),
            any::<u64>().prop_map(AMQPValue::Timestamp),
            "[a-z]{0,9}".prop_map(|text| AMQPValue::LongString(text.into())),
            Just(AMQPValue::Void),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|items| AMQPValue::FieldArray(items.into())),
                prop::collection::btree_map("[a-z]{0,3}", inner, 0..3).prop_map(|fields| {
                    let mut table = FieldTable::default();
                    for (key, value) in fields {
                        table.insert(key.into(), value);
                    }
                    AMQPValue::FieldTable(table)
                }),
            ]
        })
    }

    fn properties() -> impl Strategy<Value = (AMQPProperties, Vec<String>, Vec<String>)> {
        let name = prop_oneof!["[a-z-]{0,4}", "x-death", "x-first-death-queue", "x-last-death-reason", "x-z"];
        let headers = prop::option::of(prop::collection::btree_map(name, value(), 0..6));
        let key_list = || prop::option::of(prop::collection::vec("[abk]", 0..4));
        let short = || prop::option::of("[a-z]{0,5}");
        let numbers = (prop::option::of(any::<u8>()), prop::option::of(any::<u8>()), prop::option::of(any::<u64>()));
        let expiration = prop::option::of((0_u64..100_000).prop_map(|ms| ms.to_string()));
        (headers, key_list(), key_list(), numbers, expiration, (short(), short(), short(), short(), short())).prop_map(
            |(headers, cc, bcc, (delivery_mode, priority, timestamp), expiration, texts)| {
                let mut properties = AMQPProperties::default();
                let mut table = FieldTable::default();
                for (key, value) in headers.iter().flatten() {
                    table.insert(key.as_str().into(), value.clone());
                }
                for (name, list) in [("CC", &cc), ("BCC", &bcc)] {
                    if let Some(list) = list {
                        table.insert(name.into(), keys(&list.iter().map(String::as_str).collect::<Vec<_>>()));
                    }
                }
                if headers.is_some() || cc.is_some() || bcc.is_some() {
                    properties = properties.with_headers(table);
                }
                macro_rules! maybe {
                    ($value:expr, $with:ident) => {
                        if let Some(value) = $value {
                            properties = properties.$with(value.into());
                        }
                    };
                }
                maybe!(delivery_mode, with_delivery_mode);
                maybe!(priority, with_priority);
                maybe!(timestamp, with_timestamp);
                maybe!(expiration, with_expiration);
                maybe!(texts.0, with_content_type);
                maybe!(texts.1, with_content_encoding);
                maybe!(texts.2, with_reply_to);
                maybe!(texts.3, with_type);
                maybe!(texts.4, with_cluster_id);
                (properties, cc.unwrap_or_default(), bcc.unwrap_or_default())
            },
        )
    }

    fn step() -> impl Strategy<Value = Step> {
        let reason =
            prop::sample::select(vec![Reason::Rejected, Reason::Expired, Reason::MaxLen, Reason::DeliveryLimit]);
        let queue = prop::sample::select(vec!["q1", "q2", "q3"]);
        let exchange = prop::sample::select(vec!["", "dlx"]);
        let key = prop::sample::select(vec![None, None, Some("a"), Some("z")]);
        (queue, reason, exchange, key).prop_map(|(queue, reason, exchange, key)| Step { queue, reason, exchange, key })
    }

    fn long_string(value: &AMQPValue) -> String {
        let AMQPValue::LongString(text) = value else { panic!("{value:?}") };
        text.to_string()
    }

    /// What `amq-protocol` reads of a death.
    fn read_death(value: &AMQPValue) -> ((String, String), Known) {
        let AMQPValue::FieldTable(table) = value else { panic!("{value:?}") };
        let table: BTreeMap<_, _> = table.inner().iter().map(|(key, value)| (key.to_string(), value)).collect();
        let AMQPValue::LongLongInt(count) = table["count"] else { panic!() };
        assert_eq!(table["time"], &AMQPValue::Timestamp(7));
        let AMQPValue::FieldArray(told) = table["routing-keys"] else { panic!() };
        let told = told.as_slice().iter().map(long_string).collect();
        let expiration = table.get("original-expiration").map(|value| long_string(value));
        let known = (*count, long_string(table["exchange"]), told, expiration);
        ((long_string(table["queue"]), long_string(table["reason"])), known)
    }

    proptest! {
        #[test]
        fn any_life_of_a_message_is_told_as_a_model_tells_it(
            (properties, cc, bcc) in properties(),
            steps in prop::collection::vec(step(), 1..8),
        ) {
            let raw = encode(&properties);
            let mut run = published("x", "k", &raw);
            let (mut exchange, mut own) = ("x".to_owned(), vec!["k".to_owned()]);
            own.extend(cc.iter().chain(&bcc).cloned());
            // Newest first.
            let mut deaths: Vec<((String, String), Known)> = Vec::new();
            let mut first = None;
            for step in &steps {
                let mut told = own.clone();
                for key in &bcc {
                    if let Some(at) = told.iter().position(|told| told == key) {
                        told.remove(at);
                    }
                }
                let of = (step.queue.to_owned(), step.reason.name().to_owned());
                let expiration =
                    properties.expiration().as_ref().map(ToString::to_string).filter(|_| deaths.is_empty());
                let known = match deaths.iter().position(|(known, _)| *known == of) {
                    Some(at) => {
                        let (_, (count, exchange, told, expiration)) = deaths.remove(at);
                        (count + 1, exchange, told, expiration)
                    }
                    None => (1, exchange.clone(), told, expiration),
                };
                deaths.insert(0, (of.clone(), known));
                let last = (exchange.clone(), of);
                let first = first.get_or_insert_with(|| last.clone());
                exchange = step.exchange.to_owned();
                if let Some(key) = step.key {
                    own = vec![key.to_owned()];
                }

                let (next, cycles) = {
                    let death = Death { queue: step.queue, reason: step.reason, time_s: 7 };
                    let relayed = relay(&run.message(0), &death, step.exchange, step.key);
                    prop_assert_eq!(&relayed.keys[..], &own.iter().map(String::as_str).collect::<Vec<_>>()[..]);
                    (packed(&relayed), ["q1", "q2", "q3"].map(|queue| relayed.is_cycle(queue)))
                };
                let mut octets = Vec::new();
                next.encode(&mut octets);
                run = Run::decode(&octets).unwrap();
                for (queue, cycle) in ["q1", "q2", "q3"].into_iter().zip(cycles) {
                    let upto = deaths.iter().position(|((known, _), _)| known == queue);
                    let expected =
                        upto.is_some_and(|upto| deaths[..=upto].iter().all(|((_, reason), _)| reason != "rejected"));
                    prop_assert_eq!(cycle, expected);
                }

                let message = run.message(0);
                prop_assert_eq!((message.exchange, message.routing_key), (exchange.as_bytes(), own[0].as_bytes()));
                prop_assert_eq!(message.body, b"body");
                let (rest, read) = parse_properties(message.properties).unwrap();
                prop_assert_eq!(rest, b"");
                let headers = read.headers().clone().unwrap();
                let AMQPValue::FieldArray(array) = &headers.inner()["x-death"] else { panic!() };
                let told: Vec<_> = array.as_slice().iter().map(read_death).collect();
                prop_assert_eq!(&told, &deaths);
                // All other headers and properties are the publisher's.
                let mut expected = properties.headers().clone().unwrap_or_default();
                expected.insert("x-death".into(), AMQPValue::FieldArray(array.clone()));
                for (which, (exchange, (queue, reason))) in [("first", &*first), ("last", &last)] {
                    for (what, value) in [("exchange", exchange), ("queue", queue), ("reason", reason)] {
                        let value = AMQPValue::LongString(value.as_str().into());
                        expected.insert(format!("x-{which}-death-{what}").into(), value);
                    }
                }
                prop_assert_eq!(&headers, &expected);
                let keys: Vec<_> = Properties::parse(message.properties).unwrap().headers.unwrap().iter()
                    .map(|(key, _)| key.to_vec()).collect();
                prop_assert!(keys.is_sorted());
                let mut expected = encode(&properties.clone().with_headers(headers));
                if let Some(expiration) = properties.expiration() {
                    // amq-protocol can't take a property away.
                    let found = Properties::parse(&expected).unwrap();
                    prop_assert_eq!(found.expiration, Some(expiration.as_str().as_bytes()));
                    expected = found.with_headers_for_good(&expected, found.headers.unwrap().octets());
                }
                prop_assert_eq!(message.properties.len(), expected.len());
                prop_assert_eq!(parse_properties(&expected[..]).unwrap().1, read);
                prop_assert!(!run.expires());
                prop_assert_eq!(run.prioritised(), properties.priority().is_some());
                prop_assert_eq!(run.persistent(), *properties.delivery_mode() == Some(2));
            }
        }
    }
}
