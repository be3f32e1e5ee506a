//! Back from a queue of dead letters to where they died: an operator's tool, which RabbitMQ has in a plugin that moves whole
//! queues.
//!
//! A message leaves one queue and reaches the other in one write to the disk ([`crate::store::Store::together`]): after a
//! crash it is in one of them, and in one only.

use super::{Actor, Vhost};
use crate::amqp;
use crate::amqp::method::short_string;
use crate::amqp::properties::Properties;
use crate::amqp::table::{Field, Fields};
use crate::message::{Marks, Message, Packer, Traits};
use crate::queue::Queue;
use crate::queue::classic::Acts;
use crate::refusal::Refusal;
use crate::store::Committed;
use std::sync::Arc;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redriven {
    Moved,
    /// It is not ready any more.
    Gone,
    /// It doesn't say where it died, or no queue has that name now.
    NoOrigin,
    /// The queue that it comes from does not take it.
    Refused,
}

/// A message that is to be moved.
#[derive(Debug)]
pub struct Moving<'a> {
    /// Where it is in the queue that it leaves.
    pub position: u64,
    pub message: Message<'a>,
    /// The queue that it goes to; `None`: where it died first.
    pub to: Option<&'a str>,
    /// Its headers go on telling of its deaths.
    pub keep_deaths: bool,
    pub persistent: bool,
}

/// The headers that tell of deaths.
const OF_DEATHS: [&str; 7] = [
    "x-death",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-first-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-last-death-exchange",
];

impl Vhost {
    /// A queue to take messages out of and others to put them into: who redrives reads from the one and writes to any.
    pub fn queue_to_redrive(&self, actor: &Actor, name: &str) -> Result<Arc<Queue>, Refusal> {
        self.check_publish(actor, "")?;
        self.queue_to_read(actor, name)
    }

    /// A queue to look at, be it one in which messages wait for their time.
    pub fn queue_to_look_at(&self, actor: &Actor, name: &str) -> Result<Arc<Queue>, Refusal> {
        match self.delay_queue(name) {
            Some(queue) => {
                actor.check(crate::auth::Access::Read, "queue", &self.name, name)?;
                Ok(queue)
            }
            None => self.queue_to_read(actor, name),
        }
    }

    /// Moves a ready message to another queue. It is as it was published before it died, but for its expiration, which death
    /// took.
    pub fn redrive(&self, queue: &Arc<Queue>, moving: &Moving<'_>, acts: &mut Acts) -> Redriven {
        let Moving { position, ref message, to, keep_deaths, persistent } = *moving;
        let Ok(properties) = Properties::parse(message.properties) else { return Redriven::NoOrigin };
        let origin = properties.headers.map(Origin::of).unwrap_or_default();
        let Some(name) = to.or(origin.queue) else { return Redriven::NoOrigin };
        let target = self.queue_named(name).filter(|target| target.alive() && !Arc::ptr_eq(target, queue));
        let Some(target) = target else { return Redriven::NoOrigin };
        let mut headers = properties.headers.map(|headers| headers.octets().to_vec()).unwrap_or_default();
        if !keep_deaths {
            for name in OF_DEATHS {
                if let Ok(fields) = Fields::check(&headers) {
                    headers = fields.without(name.as_bytes());
                }
            }
        }
        let raw = match headers.is_empty() && properties.headers.is_none() {
            true => message.properties.to_vec(),
            false => properties.with_headers(message.properties, &headers),
        };
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let exchange = amqp::short(&origin.exchange.map_or_else(|| text(message.exchange), str::to_owned));
        let key = amqp::short(&origin.routing_key.map_or_else(|| text(message.routing_key), str::to_owned));
        let mut address = Vec::with_capacity(2 + exchange.as_str().len() + key.as_str().len());
        short_string(&mut address, exchange.as_str());
        short_string(&mut address, key.as_str());
        let moved = Message {
            address: &address,
            exchange: exchange.as_str().as_bytes(),
            routing_key: key.as_str().as_bytes(),
            marks: if keep_deaths { message.marks } else { Marks::NONE },
            properties: &raw,
            body: message.body,
        };
        let Ok(read) = Properties::parse(&raw) else { return Redriven::NoOrigin };
        let mut packer = Packer::default();
        packer.push(&moved, Traits { persistent, ..Traits::of(&read) });
        let run = Arc::new(packer.finish());
        let _together = self.around.store.together();
        // Nobody else gets it from here on.
        if !queue.take_out(position, acts) {
            return Redriven::Gone;
        }
        if !target.offer(&run, 0, acts) {
            queue.put_back(position, acts);
            return Redriven::Refused;
        }
        queue.taken_out(position, acts);
        Redriven::Moved
    }

    /// What to wait for until everything that was done is on disk.
    pub fn all_written(&self) -> Committed {
        self.house.store.change(Vec::new())
    }
}

/// Where a message was published to, and died first.
#[derive(Debug, Default)]
struct Origin<'a> {
    queue: Option<&'a str>,
    exchange: Option<&'a str>,
    routing_key: Option<&'a str>,
}

impl<'a> Origin<'a> {
    /// As its headers tell it: the first death is the last of the list.
    fn of(headers: Fields<'a>) -> Self {
        let text = |field: Option<Field<'a>>| match field {
            Some(Field::LongStr(octets)) => std::str::from_utf8(octets).ok(),
            _ => None,
        };
        let Some(Field::Array(deaths)) = headers.get(b"x-death") else {
            return Self { queue: text(headers.get(b"x-first-death-queue")), ..Self::default() };
        };
        let Some(Field::Table(death)) = deaths.iter().last() else { return Self::default() };
        let routing_key = match death.get(b"routing-keys") {
            Some(Field::Array(keys)) => keys.long_strings().next().and_then(|key| std::str::from_utf8(key).ok()),
            _ => None,
        };
        Self { queue: text(death.get(b"queue")), exchange: text(death.get(b"exchange")), routing_key }
    }
}
