//! Messages over HTTP: `/exchanges/…/publish` and `/queues/…/get`, one basic.publish with a confirm and basic.get one after
//! the other. What is published is answered once it is as safe as a confirm says.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::{Number, OneOf, Table, Text};
use super::describe::{Field, may, must};
use super::queues;
use super::request::Request;
use super::route::Route;
use super::values;
use crate::amqp::properties::{self, Property};
use crate::amqp::table::{Fields, Writer};
use crate::broker::Broker;
use crate::metrics::Stat;
use crate::queue::Queue;
use crate::queue::classic::{Acts, Fetched};
use crate::queue::consumer::{ConsumerKey, Delivery};
use crate::refusal::Refusal;
use crate::vhost::single::Outgoing;
use crate::vhost::trace::Party;
use crate::vhost::{Toll, Vhost};
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD as BASE64;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long to wait until a message may be published, and then until it is safe (RabbitMQ: `publish_timeout`).
const PUBLISH_PATIENCE: Duration = Duration::from_secs(30);
/// How often to look whether it may.
const ALARM_LOOKS: Duration = Duration::from_millis(50);
/// With so many messages, or octets of them, an answer ends, whatever was asked for. RabbitMQ has no limit.
const GET_MESSAGES_MAX: usize = 10_000;
const GET_BYTES_MAX: usize = 64 << 20;
/// The only channel that a request has.
const CHANNEL: u16 = 1;

const MESSAGE: &[Field] = &[
    must("routing_key", Text),
    must("properties", Table),
    must("payload", Text),
    must("payload_encoding", OneOf(&["string", "base64"])),
];
const WANTED: &[Field] = &[
    must("count", Number),
    must("ackmode", OneOf(&["ack_requeue_true", "ack_requeue_false", "reject_requeue_true", "reject_requeue_false"])),
    must("encoding", OneOf(&["auto", "base64"])),
    may("truncate", Number),
];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/exchanges/{vhost}/{exchange}/publish", Role::Vhost)
            .post(publish)
            .says("Publishes a message, and waits until it is safe")
            .takes(MESSAGE),
        Route::new("/queues/{vhost}/{queue}/get", Role::Vhost)
            .post(get)
            .says("Gets messages")
            .takes(WANTED)
            .lists_all(),
    ]
}

// ── Publishing ────────────────────────────────────────────────────────────────────────────────────────────────────────

async fn publish(mut request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost_to_change()?;
    vhost.exchange(request.exchange("exchange")).ok_or_else(|| Failure::not_found("exchange_not_found"))?;
    let keys = ["routing_key", "properties", "payload", "payload_encoding"];
    let ([routing_key, given, payload, encoding], _) = request.fields(keys).await?;
    let Json::String(payload) = payload else { return Err(Failure::bad_request("payload_not_string")) };
    let actor = request.actor(&vhost)?;
    let raw = raw_properties(&given)?;
    let body = body(payload, &encoding)?;
    let Json::String(routing_key) = routing_key else {
        return Err(Failure::bad_request(json!(["not_string", "routing_key"])));
    };
    check_size(&body, &request.broker)?;
    let exchange = request.exchange("exchange");
    let (exchange, routing_key) = (values::name("exchange", exchange)?, values::name("routing_key", &routing_key)?);
    may_publish(&request.broker, &vhost).await?;
    let connection = request.broker.events().connection_pid(actor.connection);
    let party = Party { connection: &connection, channel: CHANNEL, user: &actor.user };
    let outgoing = Outgoing { exchange, routing_key, properties: &raw, body: &body };
    let told = vhost.publish_one(&actor, &party, &outgoing).map_err(Failure::of_publish)?;
    let Some(told) = told else { return Ok(routed(false)) };
    match tokio::time::timeout(PUBLISH_PATIENCE, told).await {
        Ok(Ok(true)) => Ok(routed(true)),
        Ok(Ok(false)) => Err(Failure::bad_request("rejected Unable to publish message. Check queue limits.")),
        Ok(Err(_)) => Err(Failure::internal("a message could not be written to disk")),
        Err(_) => Err(Failure::bad_request(
            "confirm_timeout Timed out waiting for a publisher confirm. The message may still have been enqueued. Check \
             the health of the queues bound to this exchange.",
        )),
    }
}

fn routed(is_routed: bool) -> Answer {
    Answer::Json(json!({"routed": is_routed}))
}

fn check_size(body: &[u8], broker: &Broker) -> Result<(), Failure> {
    let (size, limit) = (body.len(), broker.config.max_message_size);
    if size as u64 > limit {
        let text = format!("message size {size} is larger than configured max size {limit}");
        return Err(Failure::of_publish(Refusal::precondition(text)));
    }
    Ok(())
}

/// Waits as any publisher does while memory or disk are short, or the disk is behind.
async fn may_publish(broker: &Broker, vhost: &Vhost) -> Result<(), Failure> {
    let end = Instant::now() + PUBLISH_PATIENCE;
    loop {
        let active = broker.alarms.active();
        if !active.any() {
            break;
        }
        if Instant::now() >= end {
            let why = active.reason();
            return Err(Failure::bad_request(format!("blocked Unable to publish message: {why}.")));
        }
        tokio::time::sleep(ALARM_LOOKS).await;
    }
    // One message a request, which is waited for: none of it waits for the disk yet.
    if vhost.behind(&Toll::default()) {
        let behind = |_| Failure::bad_request("blocked Unable to publish message: the disk is behind.");
        tokio::time::timeout_at(end, vhost.caught_up()).await.map_err(behind)?;
    }
    Ok(())
}

fn body(payload: String, encoding: &Json) -> Result<Vec<u8>, Failure> {
    /// Erlang skips white space, and does not look at the bits behind the last octet.
    const LENIENT: GeneralPurpose =
        GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));
    match encoding.as_str() {
        Some("string") => Ok(payload.into_bytes()),
        Some("base64") => {
            let letters: String = payload.chars().filter(|letter| !" \t\r\n".contains(*letter)).collect();
            LENIENT.decode(letters).map_err(|_| Failure::bad_request(json!(["not_base64", payload])))
        }
        _ => Err(Failure::bad_request(json!(["unsupported_encoding", encoding]))),
    }
}

/// A message's properties as a client writes them in JSON (`rabbit_mgmt_format:to_basic_properties`).
pub fn raw_properties(given: &Json) -> Result<Vec<u8>, Failure> {
    let Json::Object(given) = given else {
        return Err(Failure::bad_request(json!(["not_object", "properties"])));
    };
    let mut headers = Writer::default();
    let mut values = Vec::new();
    for name in properties::names() {
        let Some(value) = given.get(name) else { continue };
        let value = match name {
            "headers" => match value {
                Json::Object(fields) => {
                    values::write_headers(&mut headers, fields)?;
                    continue;
                }
                Json::Array(items) if items.is_empty() => continue,
                _ => return Err(Failure::bad_request(json!(["not_table", "headers"]))),
            },
            "delivery_mode" | "priority" => {
                let number = value.as_u64().filter(|number| *number <= u8::MAX.into());
                Property::Number(number.ok_or_else(|| Failure::bad_request(json!(["not_int", name])))?)
            }
            "timestamp" => {
                let number = value.as_u64().or(value.as_i64().map(i64::cast_unsigned));
                Property::Number(number.ok_or_else(|| Failure::bad_request(json!(["not_int", name])))?)
            }
            _ => {
                let text = value.as_str().ok_or_else(|| Failure::bad_request(json!(["not_string", name])))?;
                if text.len() > u8::MAX.into() {
                    return Err(values::overflow());
                }
                Property::Text(text.as_bytes())
            }
        };
        values.push((name, value));
    }
    if given.contains_key("headers") {
        let fields = Fields::check(headers.octets());
        let fields = fields.map_err(|_| Failure::bad_request("headers are nested too deeply"))?;
        values.push(("headers", Property::Headers(fields)));
    }
    Ok(properties::of(&values))
}

// ── Getting ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// What becomes of the messages that were got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AckMode {
    /// They are gone as soon as they are got.
    Ack,
    /// basic.nack with requeue.
    Nack,
    /// basic.reject, with requeue or without.
    Requeue,
    Reject,
}

impl AckMode {
    fn parse(value: &Json) -> Result<Self, Failure> {
        match value.as_str() {
            Some("ack_requeue_false") => Ok(Self::Ack),
            Some("ack_requeue_true") => Ok(Self::Nack),
            Some("reject_requeue_true") => Ok(Self::Requeue),
            Some("reject_requeue_false") => Ok(Self::Reject),
            given => {
                let given = given.map_or_else(|| value.to_string(), str::to_owned);
                Err(Failure::bad_request(format!(
                    "Invalid ackmode value: {given}. Valid values are: ack_requeue_true, ack_requeue_false, \
                     reject_requeue_true, reject_requeue_false"
                )))
            }
        }
    }
}

/// Messages that were got and not settled yet. Whatever happens, they go back to their queue.
struct Got {
    queue: Arc<Queue>,
    positions: Vec<u64>,
}

impl Got {
    fn settle(mut self, mode: AckMode) {
        self.apply(mode, mode != AckMode::Nack);
    }

    fn apply(&mut self, mode: AckMode, failed: bool) {
        let mut acts = Acts::default();
        for position in self.positions.drain(..) {
            let range = position..position + 1;
            match mode {
                AckMode::Ack => {}
                AckMode::Nack | AckMode::Requeue => self.queue.requeue(ConsumerKey::NONE, range, failed, &mut acts),
                AckMode::Reject => self.queue.reject(ConsumerKey::NONE, range, failed, &mut acts),
            }
        }
        acts.run();
    }
}

impl Drop for Got {
    fn drop(&mut self) {
        // Who asked has gone, or something failed: as at the end of a channel.
        self.apply(AckMode::Requeue, true);
    }
}

async fn get(mut request: Request) -> Result<Answer, Failure> {
    queues::to_use(&request)?;
    let ([mode, count, encoding], more) = request.fields(["ackmode", "count", "encoding"]).await?;
    let (vhost, queue) = queues::to_use(&request)?;
    let actor = request.actor(&vhost)?;
    let mode = AckMode::parse(&mode)?;
    let count = values::integer(&count)?;
    let is_base64 = match encoding.as_str() {
        Some("auto") => false,
        Some("base64") => true,
        _ => return Err(Failure::bad_request("Unsupported encoding. Please use auto or base64.")),
    };
    let truncate = more.get("truncate").map(values::integer).transpose()?;
    let truncate = truncate.map(|octets| usize::try_from(octets).map_err(|_| negative(octets))).transpose()?;
    // A negative count is none that messages could reach: RabbitMQ then takes all.
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(GET_MESSAGES_MAX);
    let queue = vhost.queue_to_get(&actor, &queue.identity.name).map_err(Failure::of_channel)?;
    let connection = request.broker.events().connection_pid(actor.connection);
    let party = Party { connection: &connection, channel: CHANNEL, user: &actor.user };
    let view = View { vhost: &vhost, queue: &queue, party, is_base64, truncate };
    let mut got = Got { queue: Arc::clone(&queue), positions: Vec::new() };
    let (mut shown, mut bytes) = (Vec::new(), 0);
    while shown.len() < count && bytes < GET_BYTES_MAX {
        let Some((delivery, ready)) = fetch(&queue, mode == AckMode::Ack).await? else { break };
        if mode != AckMode::Ack {
            got.positions.push(delivery.first);
        }
        bytes += delivery.run.message_bytes(delivery.index);
        shown.push(view.shown(&delivery, ready));
    }
    got.settle(mode);
    Ok(Answer::Json(shown.into()))
}

fn negative(octets: i64) -> Failure {
    Failure::bad_request(json!(["negative", "truncate", octets]))
}

/// basic.get: a message, and how many are ready behind it.
async fn fetch(queue: &Queue, no_ack: bool) -> Result<Option<(Delivery, u64)>, Failure> {
    /// What is waited for may come before the ear is open.
    const LOOKS: Duration = Duration::from_millis(20);
    loop {
        let changed = queue.changed.notified();
        let mut acts = Acts::default();
        let fetched = queue.get(no_ack, &mut acts);
        acts.run();
        match fetched {
            Fetched::Message { delivery, ready } => {
                queue.count(if no_ack { Stat::GetNoAck } else { Stat::Get }, 1);
                if delivery.redelivered {
                    queue.count(Stat::Redeliver, 1);
                }
                return Ok(Some((delivery, ready)));
            }
            Fetched::Empty => {
                queue.count(Stat::GetEmpty, 1);
                return Ok(None);
            }
            Fetched::Gone => {
                return Err(Failure::of_channel(Refusal::not_found(format!("no {}", queue.resource()))));
            }
            Fetched::Wait => drop(tokio::time::timeout(LOOKS, changed).await),
        }
    }
}

/// A body, or so many octets of it, as a text if it is one, and how that is called.
pub fn payload(body: &[u8], is_base64: bool, truncate: usize) -> (String, &'static str) {
    let kept = &body[..truncate.min(body.len())];
    match std::str::from_utf8(kept) {
        Ok(text) if !is_base64 => (text.to_owned(), "string"),
        _ => (BASE64.encode(kept), "base64"),
    }
}

/// How a message is shown.
struct View<'a> {
    vhost: &'a Vhost,
    queue: &'a Queue,
    party: Party<'a>,
    is_base64: bool,
    /// So many octets of a payload, if not all.
    truncate: Option<usize>,
}

impl View<'_> {
    /// A message as RabbitMQ shows it, with the number of those that are ready behind it.
    fn shown(&self, delivery: &Delivery, ready: u64) -> Json {
        let mut acts = Acts::default();
        let raw = self.vhost.shown_to(&self.party, self.queue, delivery, &mut acts);
        acts.run();
        let message = delivery.run.message(delivery.index);
        let (payload, encoding) = payload(message.body, self.is_base64, self.truncate.unwrap_or(usize::MAX));
        json!({
            "payload_bytes": message.body.len(),
            "redelivered": delivery.redelivered,
            "exchange": String::from_utf8_lossy(message.exchange),
            "routing_key": String::from_utf8_lossy(message.routing_key),
            "message_count": ready,
            "properties": shown_properties(&raw),
            "payload": payload,
            "payload_encoding": encoding,
        })
    }
}

/// Properties from the last to the first, as RabbitMQ shows them: none are an empty list.
pub fn shown_properties(raw: &[u8]) -> Json {
    let found = properties::named(raw).unwrap_or_default();
    if found.is_empty() {
        return json!([]);
    }
    let shown = found.into_iter().rev().map(|(name, value)| {
        let value = match value {
            Property::Text(octets) => values::text(octets).into(),
            Property::Headers(fields) => values::headers(fields).into(),
            Property::Number(number) => number.into(),
        };
        (name.to_owned(), value)
    });
    Json::Object(shown.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_as_they_were_written() {
        let given = json!({
            "cluster_id": "c", "app_id": "a", "user_id": "u", "type": "t", "timestamp": 5, "message_id": "m",
            "expiration": "60", "reply_to": "r", "correlation_id": "c", "priority": 0, "delivery_mode": 2,
            "headers": {"n": 1}, "content_encoding": "e", "content_type": "t",
        });
        assert_eq!(shown_properties(&raw_properties(&given).unwrap()), given);
        assert_eq!(shown_properties(&raw_properties(&json!({})).unwrap()), json!([]));
        assert_eq!(shown_properties(&raw_properties(&json!({"headers": []})).unwrap()), json!({"headers": {}}));
        for not in [
            json!([]),
            json!("x"),
            json!({"priority": "1"}),
            json!({"priority": 256}),
            json!({"priority": 1.0}),
            json!({"delivery_mode": -1}),
            json!({"message_id": 5}),
            json!({"message_id": "m".repeat(256)}),
            json!({"headers": 5}),
            json!({"headers": {"a": null}}),
        ] {
            assert!(raw_properties(&not).is_err(), "{not}");
        }
    }

    #[test]
    fn payloads_are_texts_or_base64() {
        let read = |payload: &str, encoding: &str| body(payload.to_owned(), &encoding.into()).ok();
        assert_eq!(read("ä", "string"), Some("ä".into()));
        for same in ["YQ==", " Y Q==\n", "YR=="] {
            assert_eq!(read(same, "base64"), Some(b"a".to_vec()), "{same}");
        }
        assert_eq!((read("YQ", "base64"), read("!", "base64"), read("x", "bogus")), (None, None, None));
    }
}
