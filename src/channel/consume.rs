//! basic.consume, cancel, get, qos, and what consumers send back: ack, nack, reject, recover.

use super::egress::Late;
use super::owed::{Unacked, UnknownTag};
use super::{Channel, Consumer, Context, Fault, Reply};
use crate::amqp::method::Id;
use crate::amqp::{ReplyCode, Table};
use crate::auth::Access;
use crate::metrics::Stat;
use crate::queue::Queue;
use crate::queue::classic::{Acts, Fetched, Joined};
use crate::queue::consumer::{ChannelKey, ConsumerKey, Outlet, Terms};
use crate::queue::settings::{ConsumerArguments, QueueType};
use crate::refusal::Refusal;
use crate::vhost::clients::{Consumer as Known, Gauges};
use crate::vhost::declare::generated;
use crate::vhost::events::{self, HOUSE};
use crate::vhost::reply_to;
use amq_protocol::protocol::{AMQPClass, basic};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What becomes of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged: gone.
    Done,
    /// Rejected without requeue: gone, or to the dead letters. `failed`: that counts as a failed delivery, as
    /// basic.reject does and basic.nack does not (RabbitMQ 4.3).
    Rejected { failed: bool },
    /// Back to its place. `failed`: as above; so does the end of a channel.
    Requeued { failed: bool },
}

impl Outcome {
    /// Counts acknowledgements, for the queue and for the channel.
    pub(super) fn count(self, queue: &Arc<Queue>, count: u64, channel: &Gauges) {
        if self == Self::Done {
            queue.count(Stat::Ack, count);
            channel.counted.counts.add(Stat::Ack, count);
            channel.by_queue.with(queue).add(Stat::Ack, count);
        }
    }

    pub(super) fn apply(self, queue: &Queue, consumer: ConsumerKey, positions: Range<u64>, acts: &mut Acts) {
        match self {
            Self::Done => queue.settle(consumer, positions, acts),
            Self::Rejected { failed } => queue.reject(consumer, positions, failed, acts),
            Self::Requeued { failed } => queue.requeue(consumer, positions, failed, acts),
        }
    }
}

/// Settled deliveries, gathered over one read.
#[derive(Debug, Default)]
pub struct Settlements {
    // Bounded by what one read holds.
    ranges: Vec<(Arc<Queue>, ConsumerKey, Range<u64>, Outcome)>,
}

impl Settlements {
    fn add(&mut self, settled: Unacked, outcome: Outcome) {
        let positions = settled.positions();
        if let Some((queue, consumer, range, last)) = self.ranges.last_mut()
            && *last == outcome
            && *consumer == settled.consumer
            && range.end == positions.start
            && Arc::ptr_eq(queue, &settled.queue)
        {
            range.end = positions.end;
            return;
        }
        self.ranges.push((settled.queue, settled.consumer, positions, outcome));
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub fn hand_over(&mut self, gauges: &Gauges, cx: &mut Context) {
        for (queue, consumer, range, outcome) in self.ranges.drain(..) {
            outcome.count(&queue, range.end - range.start, gauges);
            outcome.apply(&queue, consumer, range, &mut cx.acts);
        }
    }
}

/// Puts deliveries back to their queues. `failed`: that counts as failed deliveries.
pub fn requeue(back: Vec<Unacked>, failed: bool, cx: &mut Context) {
    for unacked in back {
        unacked.queue.requeue(unacked.consumer, unacked.positions(), failed, &mut cx.acts);
    }
}

/// Ends a consumer, and its queue if that was waiting for it.
pub fn cancel(queue: &Arc<Queue>, key: ConsumerKey, cx: &mut Context) {
    if queue.cancel(key, &mut cx.acts) {
        // Nobody waits for its end to be on disk.
        drop(cx.vhost.end_unused_queue(queue));
    }
}

impl Channel {
    /// basic.qos. RabbitMQ 4.3 takes `global` as not given: the limit is each later consumer's own.
    pub fn qos(&mut self, prefetch_bytes: u32, prefetch_count: u16, id: Id, cx: &mut Context) -> Result<(), Fault> {
        self.hand_over(cx);
        if prefetch_bytes != 0 {
            return Err(Fault::new(ReplyCode::NotImplemented, format!("prefetch_size!=0 ({prefetch_bytes})"), id));
        }
        self.prefetch = prefetch_count.into();
        self.gauges.prefetch.store(self.prefetch, Ordering::Relaxed);
        cx.reply(self.number, AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
        Ok(())
    }

    pub(super) fn consume(&mut self, consume: basic::Consume, cx: &mut Context) -> Result<(), Refusal> {
        let tag: Arc<str> = match consume.consumer_tag.as_str() {
            "" => generated("amq.ctag-").into(),
            tag => tag.into(),
        };
        // A consumer whose queue is gone was cancelled by us; its tag is free.
        if self.consumers.get(&tag).is_some_and(|known| known.queue.alive()) {
            return Err(Refusal::not_allowed(format!("attempt to reuse consumer tag '{tag}'")));
        }
        if let Some(limit) = cx.limits.consumers_max
            && self.consumers.len() >= limit as usize
        {
            return Err(Refusal::not_allowed(format!("reached maximum ({limit}) of consumers per channel")));
        }
        if consume.queue.as_str() == reply_to::QUEUE {
            return self.consume_replies(tag, &consume, cx);
        }
        cx.vhost.refuse_reply_queue("consume", consume.queue.as_str())?;
        let queue = cx.vhost.queue_to_read(&cx.actor, &self.queue_name(consume.queue.as_str())?)?;
        let settings = queue.settings();
        let arguments = ConsumerArguments::parse(&queue.resource(), settings.queue_type, &consume.arguments)?;
        let terms = Terms {
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            prefetch: self.prefetch,
            priority: arguments.priority,
        };
        let timeout = match settings.queue_type {
            QueueType::Quorum if !consume.no_ack => {
                let own = arguments.timeout_ms.or(settings.consumer_timeout_ms).map(Duration::from_millis);
                own.or(cx.limits.consumer_timeout)
            }
            _ => None,
        };
        let key = cx.vhost.next_consumer();
        let (named, of) = (Arc::clone(&tag), Arc::clone(&queue));
        let known = Known { key, tag: named, queue: of, terms, arguments: consume.arguments, timeout };
        self.join(known.clone(), consume.nowait, cx)?;
        let consumer = events::Consumer {
            tag: &tag,
            queue: &queue,
            no_ack: terms.no_ack,
            exclusive: terms.exclusive,
            prefetch: terms.prefetch,
            arguments: &known.arguments,
        };
        cx.vhost.events().consumer_created(&self.shown(cx), &consumer);
        self.consumers.insert(tag, Consumer { key, queue });
        Ok(())
    }

    /// Makes a consumer of the channel, and tells it so before its first delivery.
    fn join(&self, known: Known, nowait: bool, cx: &mut Context) -> Result<(), Refusal> {
        let Known { key, tag, queue, terms, timeout, .. } = known.clone();
        let outlet: Arc<dyn Outlet> = Arc::clone(&cx.egress) as _;
        match queue.consume(key, terms, outlet, ChannelKey(self.number)) {
            Joined::Consumer => {}
            Joined::InUse => return Err(Refusal::access(format!("{} in exclusive use", queue.resource()))),
            Joined::Gone => return Err(Refusal::not_found(format!("no {}", queue.resource()))),
        }
        cx.egress.add_consumer(self.number, known);
        cx.wait_for_consumer(timeout);
        if !nowait {
            let ok = basic::ConsumeOk { consumer_tag: crate::amqp::short(&tag) };
            cx.reply(self.number, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)));
        }
        cx.flush();
        queue.activate(key, &mut cx.acts);
        Ok(())
    }

    /// The channel waits for answers (RabbitMQ: "Direct Reply-to").
    fn consume_replies(&mut self, tag: Arc<str>, consume: &basic::Consume, cx: &mut Context) -> Result<(), Refusal> {
        if !consume.no_ack {
            return Err(Refusal::precondition("reply consumer cannot acknowledge"));
        }
        if self.reply.is_some() {
            return Err(Refusal::precondition("reply consumer already set"));
        }
        let queue = cx.vhost.open_reply_queue();
        let terms = Terms { no_ack: true, exclusive: false, prefetch: 0, priority: 0 };
        let key = cx.vhost.next_consumer();
        let (named, of) = (Arc::clone(&tag), Arc::clone(&queue));
        let known = Known { key, tag: named, queue: of, terms, arguments: Table::default(), timeout: None };
        self.join(known, consume.nowait, cx)?;
        self.reply = Some(Reply { tag, key, queue });
        Ok(())
    }

    pub(super) fn cancel(&mut self, cancel: &basic::Cancel, cx: &mut Context) -> Result<(), Refusal> {
        let tag = cancel.consumer_tag.as_str();
        if let Some(reply) = self.reply.take_if(|reply| *reply.tag == *tag) {
            cx.vhost.close_reply_queue(&reply.queue, reply.key);
            cx.egress.remove_consumer(self.number, reply.key);
        } else if let Some(consumer) = self.consumers.remove(tag) {
            if consumer.queue.alive() {
                let user = Some(&*cx.actor.user);
                cx.vhost.events().consumer_deleted(&self.shown(cx), tag, &consumer.queue, user);
            }
            self::cancel(&consumer.queue, consumer.key, cx);
            cx.egress.remove_consumer(self.number, consumer.key);
        }
        if !cancel.nowait {
            let ok = basic::CancelOk { consumer_tag: cancel.consumer_tag.clone() };
            cx.reply(self.number, AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)));
        }
        Ok(())
    }

    /// A consumer took too long: its messages go to others, and it is told that it is none any more.
    pub fn time_out(&mut self, late: &Late, cx: &mut Context) {
        self.hand_over(cx);
        self.consumers.remove(&late.tag);
        self::cancel(&late.queue, late.consumer, cx);
        cx.egress.cancelled(ChannelKey(self.number), late.consumer);
        let back = cx.egress.take_unacked(self.number, late.consumer);
        requeue(back, true, cx);
    }

    /// The user's rights are others now: consumers that may not read any more are told that they are none (RabbitMQ:
    /// `rabbit_channel:recheck_consumers`).
    pub fn recheck_consumers(&mut self, cx: &mut Context) {
        let may = |consumer: &Consumer| cx.actor.rights.allows(Access::Read, &consumer.queue.identity.name);
        let barred: Vec<_> =
            self.consumers.iter().filter(|(_, consumer)| !may(consumer)).map(|(tag, _)| Arc::clone(tag)).collect();
        if barred.is_empty() {
            return;
        }
        self.hand_over(cx);
        for tag in barred {
            let Some(consumer) = self.consumers.remove(&tag) else { continue };
            tracing::warn!(
                "consumer '{tag}' of {} is cancelled: its user may not read any more",
                consumer.queue.resource()
            );
            cx.vhost.events().consumer_deleted(&self.shown(cx), &tag, &consumer.queue, Some(HOUSE));
            self::cancel(&consumer.queue, consumer.key, cx);
            cx.egress.cancelled(ChannelKey(self.number), consumer.key);
        }
    }

    pub(super) async fn get(&mut self, get: &basic::Get, cx: &mut Context) -> Result<(), Refusal> {
        let name = self.queue_name(get.queue.as_str())?;
        let queue = cx.vhost.queue_to_get(&cx.actor, &name)?;
        loop {
            let changed = queue.changed.notified();
            match queue.get(get.no_ack, &mut cx.acts) {
                Fetched::Message { delivery, ready } => {
                    cx.flush();
                    cx.egress.got(self.number, Arc::clone(&queue), delivery, get.no_ack, ready);
                    return Ok(());
                }
                Fetched::Empty => {
                    queue.count(Stat::GetEmpty, 1);
                    self.gauges.counted.counts.add(Stat::GetEmpty, 1);
                    self.gauges.by_queue.with(&queue).add(Stat::GetEmpty, 1);
                    cx.reply(self.number, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(basic::GetEmpty {})));
                    return Ok(());
                }
                Fetched::Gone => return Err(Refusal::not_found(format!("no {}", queue.resource()))),
                Fetched::Wait => {
                    let mut changed = std::pin::pin!(changed);
                    changed.as_mut().enable();
                    cx.act();
                    // What was waited for may have come before the ear was open: look again now and then.
                    let _ = tokio::time::timeout(std::time::Duration::from_millis(20), changed).await;
                }
            }
        }
    }

    pub(super) fn recover(&mut self, requeue: bool, reply: bool, cx: &mut Context) -> Result<(), Refusal> {
        if !requeue {
            return Err(Refusal::not_implemented("requeue=false"));
        }
        let back = cx.egress.recover(self.number);
        if reply {
            cx.reply(self.number, AMQPClass::Basic(basic::AMQPMethod::RecoverOk(basic::RecoverOk {})));
        }
        // The answer goes before what is delivered again.
        cx.flush();
        self::requeue(back, false, cx);
        Ok(())
    }

    /// basic.ack, basic.nack, basic.reject.
    pub fn settle(&mut self, tag: u64, multiple: bool, outcome: Outcome, id: Id, cx: &Context) -> Result<(), Fault> {
        let settled = cx.egress.settle(self.number, tag, multiple).map_err(|UnknownTag(tag)| {
            Fault::new(ReplyCode::PreconditionFailed, format!("unknown delivery tag {tag}"), id)
        })?;
        for unacked in settled {
            match &mut self.tx {
                Some(tx) => tx.settle(unacked, outcome),
                None => self.settlements.add(unacked, outcome),
            }
        }
        Ok(())
    }
}
