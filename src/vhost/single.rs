//! One message at a time, for a door without channels: what basic.publish with a confirm and basic.get do, with the same
//! checks and in the same order as a channel.

use super::all_safe::AllSafe;
use super::trace::Party;
use super::{Actor, Vhost, properties, reply_to};
use crate::amqp::method::short_string;
use crate::amqp::properties::{Properties, with_counts, without_bcc};
use crate::auth::Access;
use crate::message::{Marks, Message, Packer, Traits};
use crate::metrics::Stat;
use crate::queue::Queue;
use crate::queue::classic::Acts;
use crate::queue::consumer::Delivery;
use crate::queue::settings::QueueType;
use crate::refusal::{Reason, Refusal};
use smallvec::SmallVec;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A message to publish. Exchange and routing key have at most 255 octets; the properties are raw, and well formed.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    pub exchange: &'a str,
    pub routing_key: &'a str,
    pub properties: &'a [u8],
    pub body: &'a [u8],
}

impl Vhost {
    /// Publishes a message. What is given back is told when it is safe in all its queues, and whether all took it; `None`
    /// if it reached no queue.
    pub fn publish_one(
        &self,
        actor: &Actor,
        party: &Party<'_>,
        outgoing: &Outgoing<'_>,
    ) -> Result<Option<oneshot::Receiver<bool>>, Refusal> {
        let Outgoing { exchange, routing_key, properties: raw, body } = *outgoing;
        self.check_publish(actor, exchange)?;
        if !exchange.is_empty() {
            self.check_exchange(exchange, true)?;
        }
        let read = Properties::parse(raw).map_err(|_| Refusal::internal("properties that are not well formed"))?;
        if read.reply_to == Some(reply_to::QUEUE.as_bytes()) {
            return Err(Refusal::precondition("fast reply consumer does not exist"));
        }
        let (extra, marks) = properties::check(actor, &read)?;
        let keys: SmallVec<[&str; 2]> = std::iter::once(routing_key).chain(extra).collect();
        self.check_topics(actor, Access::Write, exchange, &keys)?;
        let mut address = Vec::with_capacity(2 + exchange.len() + routing_key.len());
        short_string(&mut address, exchange);
        short_string(&mut address, routing_key);
        let message = Message {
            address: &address,
            exchange: exchange.as_bytes(),
            routing_key: routing_key.as_bytes(),
            marks,
            properties: raw,
            body,
        };
        let traits = Traits::of(&read);
        let route = self.route_message(&message, traits, &keys, &read, true)?;
        let mut acts = Acts::default();
        if self.is_traced() {
            self.trace_publish(&message, &route.targets, party, &mut acts);
        }
        self.totals().count_one(body.len(), route.targets.len());
        route.exchange.counts.add(Stat::PublishIn, 1);
        route.exchange.counts.add(Stat::PublishOut, route.targets.len() as u64);
        if route.targets.is_empty() {
            self.totals().add_published(Stat::ReturnUnroutable, 1);
            route.exchange.counts.add(Stat::ReturnUnroutable, 1);
        }
        let told = (!route.targets.is_empty()).then(|| {
            let mut packer = Packer::default();
            packer.push(&message, traits);
            let run = Arc::new(packer.finish());
            let (all_safe, told) = AllSafe::new();
            for queue in &route.targets {
                queue.count(Stat::Publish, 1);
                queue.publish(&run, Some(all_safe.ticket()), &mut acts);
            }
            all_safe.handed_over();
            told
        });
        acts.run();
        Ok(told)
    }

    /// A queue to get a message from.
    pub fn queue_to_get(&self, actor: &Actor, name: &str) -> Result<Arc<Queue>, Refusal> {
        self.refuse_reply_queue("get", name)?;
        let queue = self.queue_to_read(actor, name)?;
        let settings = queue.settings();
        if settings.queue_type == QueueType::Quorum && settings.single_active_consumer {
            return Err(Refusal::new(
                Reason::Locked,
                format!(
                    "cannot obtain access to locked {}. basic.get operations are not supported by <<\"quorum\">> queues \
                     with single active consumer",
                    queue.resource()
                ),
            ));
        }
        Ok(queue)
    }

    /// The properties of a message that was got, as its consumer is to see them; the firehose sees it, too.
    pub fn shown_to(&self, party: &Party<'_>, queue: &Queue, delivery: &Delivery, acts: &mut Acts) -> Vec<u8> {
        let message = delivery.run.message(delivery.index);
        let properties = with_counts(message.properties, delivery.tally.acquired, delivery.tally.failed);
        if self.is_traced() {
            let message = Message { properties: &properties, ..message };
            self.trace_delivery(&message, queue, delivery.redelivered, party, acts);
        }
        if message.marks.contain(Marks::BCC) { without_bcc(&properties) } else { properties }
    }
}
