//! The firehose: copies of everything that is published and delivered, for whoever wants to look (RabbitMQ: "Firehose
//! Tracer").
//!
//! While a virtual host is traced, each publish leaves a copy in its exchange [`EXCHANGE`] under the routing key
//! `publish.` and the exchange's name, and each delivery one under `deliver.` and the queue's. The body is the message's;
//! what else there is to say stands in the headers, as recorded from RabbitMQ 4.3.6 (`rabbit_trace.erl`). Copies are not
//! copied again.
//!
//! A publish is traced with its run, when that is handed to queues; a delivery by the egress, when its frames are cut and
//! no lock is held any more. Both ask once a run, or once a write: nothing is done for each message unless it is traced.

use super::Vhost;
use super::publish::{Targets, keys};
use crate::amqp::properties::{self, Properties, Property};
use crate::amqp::table::{Field, Fields, Writer};
use crate::message::{Marks, Message};
use crate::queue::Queue;
use crate::queue::classic::Acts;
use std::sync::atomic::Ordering;

pub const EXCHANGE: &str = "amq.rabbitmq.trace";

/// Who published, or to whom it was delivered.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// The connection's name.
    pub connection: &'a str,
    pub channel: u16,
    pub user: &'a str,
}

impl Vhost {
    /// Turns the firehose on or off.
    pub fn trace(&self, on: bool) {
        if self.traced.swap(on, Ordering::Relaxed) != on {
            let what = if on { "on" } else { "off" };
            tracing::info!("tracing is {what} in virtual host '{}'", self.name);
        }
    }

    pub fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed)
    }

    /// Copies what was published to these queues.
    pub fn trace_publish(&self, message: &Message<'_>, queues: &Targets, party: &Party<'_>, acts: &mut Acts) {
        let exchange = String::from_utf8_lossy(message.exchange);
        self.copy(message, &format!("publish.{exchange}"), party, acts, |headers| {
            headers.key("routed_queues").array(|items| {
                queues.iter().for_each(|queue| items.long_string(queue.identity.name.as_bytes()));
            });
        });
    }

    /// Copies what was delivered, with the properties that the consumer saw.
    pub fn trace_delivery(
        &self,
        message: &Message<'_>,
        queue: &Queue,
        redelivered: bool,
        party: &Party<'_>,
        acts: &mut Acts,
    ) {
        self.copy(message, &format!("deliver.{}", queue.identity.name), party, acts, |headers| {
            headers.key("redelivered").int(redelivered.into());
        });
    }

    fn copy(
        &self,
        message: &Message<'_>,
        key: &str,
        party: &Party<'_>,
        acts: &mut Acts,
        more: impl FnOnce(&mut Writer),
    ) {
        if is_copy(message) {
            return;
        }
        let Ok(properties) = Properties::parse(message.properties) else { return };
        let mut headers = Writer::default();
        headers.key("exchange_name").long_string(message.exchange);
        headers.key("routing_keys").array(|items| {
            keys(message, &properties).iter().for_each(|key| items.long_string(key.as_bytes()));
        });
        headers.key("properties").table(|fields| write_properties(fields, message.properties));
        headers.key("node").long_string(self.house.events.node().as_bytes());
        headers.key("vhost").long_string(self.name.as_bytes());
        headers.key("connection").long_string(party.connection.as_bytes());
        headers.key("channel").int(party.channel.into());
        headers.key("user").long_string(party.user.as_bytes());
        more(&mut headers);
        let headers = Fields::EMPTY.merged(headers.fields());
        self.publish_own(EXCHANGE, key, &properties::only_headers(&headers), message.body, acts);
    }
}

/// Whether a message is such a copy, or one that died. RabbitMQ goes on for ever copying those if they die in the queue
/// that they are copied to.
fn is_copy(message: &Message<'_>) -> bool {
    let exchange = EXCHANGE.as_bytes();
    if message.exchange == exchange {
        return true;
    }
    let first = || {
        let headers = Properties::parse(message.properties).ok()?.headers?;
        Some(headers.get(b"x-first-death-exchange")? == Field::LongStr(exchange))
    };
    message.marks.contain(Marks::DIED) && first() == Some(true)
}

/// From the last to the first, as RabbitMQ's folding leaves them; headers sorted, without a `BCC`.
fn write_properties(fields: &mut Writer, raw: &[u8]) {
    for (name, value) in properties::named(raw).unwrap_or_default().into_iter().rev() {
        let field = fields.key(name);
        match value {
            Property::Text(text) => field.long_string(text),
            Property::Headers(headers) => {
                let sorted = headers.merged(Fields::EMPTY);
                let kept = Fields::check(&sorted).map(|sorted| sorted.without(b"BCC")).unwrap_or_default();
                field.table(|fields| fields.raw(&kept));
            }
            Property::Number(number) => match i32::try_from(number) {
                Ok(number) => field.int(number),
                // A timestamp that is no number of seconds. RabbitMQ shows its lower 32 bits.
                Err(_) => field.long(i64::try_from(number).unwrap_or(i64::MAX)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_shown_with_their_types_and_without_a_bcc() {
        // timestamp, delivery mode, headers {z: void, BCC: [], a: void}
        let raw = b"\x30\x40\0\0\0\x0f\x01zV\x03BCCA\0\0\0\0\x01aV\x02\0\0\0\0\0\0\0\x07";
        let mut out = Writer::default();
        write_properties(&mut out, raw);
        let fields: Vec<_> = Fields::check(out.octets()).unwrap().iter().collect();
        assert_eq!(fields[0], (&b"timestamp"[..], Field::I32(7)));
        assert_eq!(fields[1], (&b"delivery_mode"[..], Field::I32(2)));
        let (b"headers", Field::Table(headers)) = fields[2] else { panic!("{fields:?}") };
        assert_eq!(headers.octets(), b"\x01aV\x01zV");
        let mut out = Writer::default();
        write_properties(&mut out, b"\0\x40\0\0\x01\xa2\x10\xa1\x23\x54");
        assert_eq!(Fields::check(out.octets()).unwrap().get(b"timestamp"), Some(Field::I64(1_795_575_325_524)));
    }

    #[test]
    fn copies_are_known_even_when_they_died() {
        let of = |exchange: &'static [u8], marks, properties: &'static [u8]| {
            is_copy(&Message { address: b"", exchange, routing_key: b"", marks, properties, body: b"" })
        };
        let died = b"\x20\0\0\0\0\x2e\x16x-first-death-exchangeS\0\0\0\x12amq.rabbitmq.trace";
        assert!(of(b"amq.rabbitmq.trace", Marks::NONE, b"\0\0"));
        assert!(of(b"dlx", Marks::DIED, died));
        // Whatever a client writes there.
        assert!(!of(b"dlx", Marks::NONE, died));
        assert!(!of(b"dlx", Marks::DIED, b"\0\0"));
    }
}
