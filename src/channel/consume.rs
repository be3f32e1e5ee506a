//! basic.consume, cancel, get, qos, and what consumers send back: ack, nack, reject, recover.

use super::egress::{Unacked, UnknownTag};
use super::{Channel, Consumer, Context, Fault};
use crate::amqp::ReplyCode;
use crate::amqp::method::Id;
use crate::amqp::table::{self, as_i64};
use crate::queue::Queue;
use crate::queue::classic::{Fetched, Joined};
use crate::queue::consumer::{ChannelKey, ConsumerKey, Outlet, Terms};
use crate::refusal::Refusal;
use crate::vhost::declare::generated;
use amq_protocol::protocol::{AMQPClass, basic};
use std::ops::Range;
use std::sync::Arc;

/// What becomes of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged: gone.
    Done,
    /// Rejected without requeue: gone, or to the dead letters.
    Rejected,
    /// Back to its place.
    Requeued,
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

    pub fn hand_over(&mut self, cx: &mut Context) {
        for (queue, consumer, range, outcome) in self.ranges.drain(..) {
            match outcome {
                Outcome::Done | Outcome::Rejected => queue.settle(consumer, range, &mut cx.acts),
                Outcome::Requeued => queue.requeue(consumer, range, &mut cx.acts),
            }
        }
    }
}

/// Puts deliveries back to their queues.
pub fn requeue(back: Vec<Unacked>, cx: &mut Context) {
    for unacked in back {
        unacked.queue.requeue(unacked.consumer, unacked.positions(), &mut cx.acts);
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
        cx.reply(self.number, AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
        Ok(())
    }

    pub(super) fn consume(&mut self, consume: basic::Consume, cx: &mut Context) -> Result<(), Refusal> {
        let name = self.queue_name(consume.queue.as_str())?;
        let tag: Arc<str> = match consume.consumer_tag.as_str() {
            "" => generated("amq.ctag-").into(),
            tag => tag.into(),
        };
        // A consumer whose queue is gone was cancelled by us; its tag is free.
        if self.consumers.get(&tag).is_some_and(|known| known.queue.alive()) {
            return Err(Refusal::not_allowed(format!("attempt to reuse consumer tag '{tag}'")));
        }
        let queue = cx.vhost.queue_to_read(&cx.actor, &name)?;
        if let Some(limit) = cx.limits.consumers_max
            && self.consumers.len() >= limit as usize
        {
            return Err(Refusal::not_allowed(format!("reached maximum ({limit}) of consumers per channel")));
        }
        let priority = match consume.arguments.inner().get("x-priority") {
            None => 0,
            Some(value) => as_i64(value).ok_or_else(|| {
                let given = table::type_name(value);
                Refusal::precondition(format!(
                    "invalid arg 'x-priority' for {}: \"expected integer, got {given}\"",
                    queue.resource()
                ))
            })?,
        };
        let terms = Terms { no_ack: consume.no_ack, exclusive: consume.exclusive, prefetch: self.prefetch, priority };
        let key = cx.vhost.next_consumer();
        let outlet: Arc<dyn Outlet> = Arc::clone(&cx.egress) as _;
        match queue.consume(key, terms, outlet, ChannelKey(self.number)) {
            Joined::Consumer => {}
            Joined::InUse => return Err(Refusal::access(format!("{} in exclusive use", queue.resource()))),
            Joined::Gone => return Err(Refusal::not_found(format!("no {}", queue.resource()))),
        }
        cx.egress.add_consumer(self.number, key, Arc::clone(&tag), Arc::clone(&queue), consume.no_ack);
        if !consume.nowait {
            let ok = basic::ConsumeOk { consumer_tag: crate::amqp::short(&tag) };
            cx.reply(self.number, AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)));
        }
        // The answer goes before the first delivery.
        cx.flush();
        queue.activate(key, &mut cx.acts);
        self.consumers.insert(tag, Consumer { key, queue });
        Ok(())
    }

    pub(super) fn cancel(&mut self, cancel: &basic::Cancel, cx: &mut Context) -> Result<(), Refusal> {
        if let Some(consumer) = self.consumers.remove(cancel.consumer_tag.as_str()) {
            self::cancel(&consumer.queue, consumer.key, cx);
            cx.egress.remove_consumer(self.number, consumer.key);
        }
        if !cancel.nowait {
            let ok = basic::CancelOk { consumer_tag: cancel.consumer_tag.clone() };
            cx.reply(self.number, AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)));
        }
        Ok(())
    }

    pub(super) async fn get(&mut self, get: &basic::Get, cx: &mut Context) -> Result<(), Refusal> {
        let name = self.queue_name(get.queue.as_str())?;
        let queue = cx.vhost.queue_to_read(&cx.actor, &name)?;
        loop {
            let changed = queue.changed.notified();
            match queue.get(get.no_ack, &mut cx.acts) {
                Fetched::Message { delivery, ready } => {
                    cx.flush();
                    cx.egress.got(self.number, Arc::clone(&queue), delivery, get.no_ack, ready);
                    return Ok(());
                }
                Fetched::Empty => {
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
        self::requeue(back, cx);
        if reply {
            cx.reply(self.number, AMQPClass::Basic(basic::AMQPMethod::RecoverOk(basic::RecoverOk {})));
        }
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
