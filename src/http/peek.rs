//! What RabbitMQ does not have. `POST /queues/{vhost}/{queue}/peek`: messages are looked at and stay as they are. Their order,
//! their flags and all counts are what they were, and those that are out or held back are seen as well. `POST …/redrive`:
//! dead letters go back to where they died.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::{Any, Number, OneOf, Table, Text, Truth, Words};
use super::describe::{Field, may};
use super::messages::{payload, shown_properties};
use super::request::{Request, safe};
use super::route::Route;
use super::values;
use crate::message::{Message, Run};
use crate::queue::Queue;
use crate::queue::classic::Acts;
use crate::queue::log::Held;
use crate::queue::state::browse::{Condition, Seen};
use crate::vhost::redrive::{Moving, Redriven};
use regex::RegexBuilder;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Messages in an answer, at most.
const COUNT_MAX: usize = 1000;
/// Messages that one request looks at, whatever its filters leave.
const LOOKS_MAX: usize = 10_000;
/// How many of them at a time, while the queue waits.
const LOOKS_AT_ONCE: usize = 500;
/// With so many octets of messages an answer ends.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Octets of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;

const PEEK: &[Field] = &[
    may("count", Number),
    may("from", Any),
    may("states", Words),
    may("exchange", Text),
    may("routing_key", Text),
    may("headers", Table),
    may("truncate", Number),
    may("encoding", OneOf(&["auto", "base64"])),
];
const REDRIVE: &[Field] = &[
    may("to", Text),
    may("count", Number),
    may("rate", Number),
    may("from", Any),
    may("keep_deaths", Truth),
    may("exchange", Text),
    may("routing_key", Text),
    may("headers", Table),
];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/queues/{vhost}/{queue}/peek", Role::Vhost)
            .post(peek)
            .says("Looks at messages without touching them")
            .takes(PEEK),
        Route::new("/queues/{vhost}/{queue}/redrive", Role::Vhost)
            .post(redrive)
            .says("Moves dead letters back to where they died")
            .takes(REDRIVE),
    ]
}

async fn peek(mut request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    let fields = request.json().await?;
    let actor = request.actor(&vhost)?;
    let queue = vhost.queue_to_look_at(&actor, request.name("queue"))?;
    let wish = Wish::of(&fields)?;
    let mut view = View { queue: &queue, block: None };
    let (mut shown, mut bytes, mut looks) = (Vec::new(), 0, 0);
    let mut from = wish.from;
    let next = 'looking: loop {
        let seen = queue.browse(from, LOOKS_AT_ONCE);
        let is_all = seen.len() < LOOKS_AT_ONCE;
        for one in seen {
            if shown.len() >= wish.count || bytes >= ANSWER_BYTES_MAX || looks >= LOOKS_MAX {
                break 'looking Some(one.position);
            }
            looks += 1;
            from = Some(one.position + 1);
            if wish.conditions.as_ref().is_some_and(|conditions| !conditions.contains(&one.condition)) {
                continue;
            }
            // What was settled meanwhile may have left the disk.
            let Some((run, index)) = view.read(&one).await else { continue };
            let message = run.message(index);
            if wish.fits(&message) {
                bytes += message.body.len() + message.properties.len();
                shown.push(wish.shown(&one, &message));
            }
        }
        if is_all {
            break None;
        }
    };
    Ok(Answer::Json(json!({
        "messages": shown,
        "looked_at": looks,
        "next": next.map(|position: u64| position.to_string()),
    })))
}

/// How long one request moves messages; whoever wants more asks again, from where it ended.
const REDRIVE_PATIENCE: Duration = Duration::from_secs(20);
/// After so many, what was moved is waited for.
const REDRIVE_BATCH: usize = 500;

/// Moves what fits. It ends with its patience, with `count`, or at the end of the queue; `next` says from where to go on.
/// Whatever happens meanwhile, each message is in one queue.
async fn redrive(mut request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    let fields = request.json().await?;
    let actor = request.actor(&vhost)?;
    let queue = vhost.queue_to_redrive(&actor, request.name("queue"))?;
    let mut wish = Wish::of(&fields)?;
    wish.count = if fields.contains_key("count") { wish.count } else { usize::MAX };
    wish.conditions = Some(vec![Condition::Ready]);
    let to = match fields.get("to") {
        None | Some(Json::Null) => None,
        Some(Json::String(name)) => Some(name.as_str()),
        Some(_) => return Err(Failure::bad_request("to is the name of a queue")),
    };
    if let Some(name) = to
        && vhost.queue_named(name).is_none()
    {
        return Err(Failure::bad_request(format!("there is no queue '{name}' to move messages to")));
    }
    let keep_deaths = fields.get("keep_deaths").map_or(Ok(false), values::boolean)?;
    let rate = fields.get("rate").map(values::integer).transpose()?.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX));
    let pause = rate.filter(|rate| *rate > 0).map(|rate| Duration::from_secs(1) / rate);
    let started = Instant::now();
    let mut view = View { queue: &queue, block: None };
    let (mut from, mut moved, mut without_origin) = (wish.from, 0, 0);
    let next = 'moving: loop {
        let seen = queue.browse(from, LOOKS_AT_ONCE);
        let is_all = seen.len() < LOOKS_AT_ONCE;
        for one in seen {
            if moved >= wish.count || started.elapsed() >= REDRIVE_PATIENCE {
                break 'moving Some(one.position);
            }
            from = Some(one.position + 1);
            if one.condition != Condition::Ready {
                continue;
            }
            let Some((run, index)) = view.read(&one).await else { continue };
            let message = run.message(index);
            if !wish.fits(&message) {
                continue;
            }
            let mut acts = Acts::default();
            let moving = Moving { position: one.position, message, to, keep_deaths, persistent: run.persistent() };
            let redriven = vhost.redrive(&queue, &moving, &mut acts);
            acts.run();
            match redriven {
                Redriven::Moved => moved += 1,
                Redriven::Gone => continue,
                Redriven::NoOrigin => {
                    without_origin += 1;
                    continue;
                }
                // It is full: later, perhaps.
                Redriven::Refused => break 'moving Some(one.position),
            }
            if moved % REDRIVE_BATCH == 0 {
                safe(vhost.all_written()).await?;
            }
            if let Some(pause) = pause {
                tokio::time::sleep_until(started + pause.saturating_mul(u32::try_from(moved).unwrap_or(u32::MAX)))
                    .await;
            }
        }
        if is_all {
            break None;
        }
    };
    safe(vhost.all_written()).await?;
    tracing::info!("user '{}' has moved {moved} messages back from {queue:?}", actor.user);
    Ok(Answer::Json(json!({
        "moved": moved,
        "without_origin": without_origin,
        "next": next.map(|position: u64| position.to_string()),
    })))
}

/// What is wanted of which messages.
struct Wish {
    count: usize,
    from: Option<u64>,
    /// `None`: whatever becomes of them.
    conditions: Option<Vec<Condition>>,
    routing_key: Option<regex::Regex>,
    exchange: Option<String>,
    headers: Map<String, Json>,
    truncate: usize,
    is_base64: bool,
}

impl Wish {
    fn of(fields: &Map<String, Json>) -> Result<Self, Failure> {
        let number = |key: &str, otherwise: usize| match fields.get(key) {
            None => Ok(otherwise),
            Some(value) => usize::try_from(values::integer(value)?).map_err(|_| negative(key)),
        };
        let text = |key: &str| match fields.get(key) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Failure::bad_request(format!("{key} is a text"))),
        };
        let pattern = |source: &str| {
            let pattern = RegexBuilder::new(source).size_limit(PATTERN_BYTES_MAX).build();
            pattern.map_err(|_| Failure::bad_request("routing_key is a regular expression"))
        };
        let from = match fields.get("from") {
            None | Some(Json::Null) => None,
            Some(Json::String(text)) => Some(text.parse().map_err(|_| Failure::bad_request("from is a position"))?),
            Some(value) => Some(value.as_u64().ok_or_else(|| Failure::bad_request("from is a position"))?),
        };
        let conditions = match fields.get("states") {
            None => None,
            Some(states) => {
                let words = values::words(states).ok_or_else(|| Failure::bad_request("states are a list of words"))?;
                Some(words.iter().map(|word| condition(word)).collect::<Result<_, _>>()?)
            }
        };
        let headers = match fields.get("headers") {
            None => Map::new(),
            Some(Json::Object(headers)) => headers.clone(),
            Some(_) => return Err(Failure::bad_request("headers are an object")),
        };
        Ok(Self {
            count: number("count", 10)?.min(COUNT_MAX),
            from,
            conditions,
            routing_key: text("routing_key")?.map(pattern).transpose()?,
            exchange: text("exchange")?.map(str::to_owned),
            headers,
            truncate: number("truncate", usize::MAX)?,
            is_base64: text("encoding")? == Some("base64"),
        })
    }

    fn fits(&self, message: &Message<'_>) -> bool {
        let key = String::from_utf8_lossy(message.routing_key);
        if self.routing_key.as_ref().is_some_and(|pattern| !pattern.is_match(&key))
            || self.exchange.as_ref().is_some_and(|exchange| exchange.as_bytes() != message.exchange)
        {
            return false;
        }
        if self.headers.is_empty() {
            return true;
        }
        let properties = shown_properties(message.properties);
        self.headers.iter().all(|(name, value)| properties["headers"].get(name) == Some(value))
    }

    fn shown(&self, seen: &Seen, message: &Message<'_>) -> Json {
        let (payload, encoding) = payload(message.body, self.is_base64, self.truncate);
        json!({
            "position": seen.position.to_string(),
            "state": word(seen.condition),
            "redelivered": seen.redelivered,
            "exchange": String::from_utf8_lossy(message.exchange),
            "routing_key": String::from_utf8_lossy(message.routing_key),
            "properties": shown_properties(message.properties),
            "payload_bytes": message.body.len(),
            "payload": payload,
            "payload_encoding": encoding,
        })
    }
}

fn negative(key: &str) -> Failure {
    Failure::bad_request(format!("{key} is negative"))
}

const CONDITIONS: [(Condition, &str); 4] = [
    (Condition::Ready, "ready"),
    (Condition::Unacked, "unacked"),
    (Condition::Delayed, "delayed"),
    (Condition::Dying, "dying"),
];

fn condition(word: &str) -> Result<Condition, Failure> {
    let known = CONDITIONS.iter().find(|(_, name)| *name == word).map(|(condition, _)| *condition);
    known.ok_or_else(|| Failure::bad_request(format!("'{word}' is none of ready, unacked, delayed, dying")))
}

fn word(condition: Condition) -> &'static str {
    CONDITIONS.iter().find(|(known, _)| *known == condition).map_or("", |(_, word)| word)
}

/// What was read of a queue.
struct View<'a> {
    queue: &'a Queue,
    /// The last block, and its first position.
    block: Option<(u64, Arc<Run>)>,
}

impl View<'_> {
    /// The run that holds a message, and where in it.
    async fn read(&mut self, seen: &Seen) -> Option<(Arc<Run>, u32)> {
        let persistent = match &seen.held {
            Held::Memory { run, index } => return Some((Arc::clone(run), *index)),
            Held::Disk { persistent } => *persistent,
        };
        let inside = |block: &(u64, Arc<Run>)| {
            let index = u32::try_from(seen.position.checked_sub(block.0)?).ok()?;
            (index < block.1.count()).then(|| (Arc::clone(&block.1), index))
        };
        if let Some(found) = self.block.as_ref().and_then(inside) {
            return Some(found);
        }
        self.block = self.queue.block(seen.position, persistent).await;
        self.block.as_ref().and_then(inside)
    }
}
