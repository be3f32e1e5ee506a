//! exchange.* and queue.*: the rules are in `vhost/declare`, this is their form on the wire.

use super::{Channel, Context};
use crate::exchange::{Binding, Destination};
use crate::refusal::Refusal;
use crate::vhost::declare::{ExchangeWish, Found, QueueWish};
use amq_protocol::protocol::{AMQPClass, exchange, queue};
use std::sync::Arc;

impl Channel {
    pub(super) async fn exchange_declare(
        &mut self,
        declare: exchange::Declare,
        cx: &mut Context,
    ) -> Result<(), Refusal> {
        let vhost = Arc::clone(&cx.vhost);
        if declare.passive {
            let ((), committed) = vhost.find_exchange(&cx.actor, declare.exchange.as_str())?;
            cx.after(committed);
        } else {
            let wish = ExchangeWish {
                kind: declare.kind.to_string(),
                durable: declare.durable,
                auto_delete: declare.auto_delete,
                internal: declare.internal,
                arguments: declare.arguments,
            };
            let (_, committed) = vhost.declare_exchange(&cx.actor, declare.exchange.as_str(), &wish)?;
            cx.after(committed);
        }
        self.exchange_reply(declare.nowait, exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {}), cx)
    }

    pub(super) async fn exchange_delete(&mut self, delete: &exchange::Delete, cx: &mut Context) -> Result<(), Refusal> {
        let vhost = Arc::clone(&cx.vhost);
        let ((), committed) = vhost.delete_exchange(&cx.actor, delete.exchange.as_str(), delete.if_unused)?;
        cx.after(committed);
        self.exchange_reply(delete.nowait, exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {}), cx)
    }

    pub(super) async fn exchange_bind(&mut self, bind: exchange::Bind, cx: &mut Context) -> Result<(), Refusal> {
        let binding = Binding {
            destination: Destination::Exchange(bind.destination.as_str().into()),
            routing_key: bind.routing_key.as_str().into(),
            arguments: bind.arguments,
        };
        let vhost = Arc::clone(&cx.vhost);
        let ((), committed) = vhost.bind(&cx.actor, bind.source.as_str(), binding)?;
        cx.after(committed);
        self.exchange_reply(bind.nowait, exchange::AMQPMethod::BindOk(exchange::BindOk {}), cx)
    }

    pub(super) async fn exchange_unbind(&mut self, unbind: exchange::Unbind, cx: &mut Context) -> Result<(), Refusal> {
        let binding = Binding {
            destination: Destination::Exchange(unbind.destination.as_str().into()),
            routing_key: unbind.routing_key.as_str().into(),
            arguments: unbind.arguments,
        };
        let vhost = Arc::clone(&cx.vhost);
        let ((), committed) = vhost.unbind(&cx.actor, unbind.source.as_str(), &binding)?;
        cx.after(committed);
        self.exchange_reply(unbind.nowait, exchange::AMQPMethod::UnbindOk(exchange::UnbindOk {}), cx)
    }

    pub(super) async fn queue_declare(&mut self, declare: queue::Declare, cx: &mut Context) -> Result<(), Refusal> {
        let vhost = Arc::clone(&cx.vhost);
        let Found { name, counts, queue } = if declare.passive {
            let (found, committed) = vhost.find_queue(&cx.actor, declare.queue.as_str())?;
            cx.after(committed);
            found
        } else {
            let wish = QueueWish {
                durable: declare.durable,
                exclusive: declare.exclusive,
                auto_delete: declare.auto_delete,
                arguments: declare.arguments,
            };
            let ((found, new), committed) = vhost.declare_queue(&cx.actor, declare.queue.as_str(), wish)?;
            if let Some(queue) = found.queue.as_ref().filter(|queue| new && queue.identity.exclusive.is_some()) {
                cx.exclusive.retain(|queue| queue.alive());
                cx.exclusive.push(Arc::clone(queue));
            }
            cx.after(committed);
            found
        };
        // What is passively declared may be for somebody else's answers: no queue to be meant by an empty name.
        if queue.is_some() {
            self.last_queue = Some(Arc::clone(&name));
        }
        let ok = queue::DeclareOk {
            queue: crate::amqp::short(&name),
            message_count: u32::try_from(counts.ready).unwrap_or(u32::MAX),
            consumer_count: u32::try_from(counts.consumers).unwrap_or(u32::MAX),
        };
        self.queue_reply(declare.nowait, queue::AMQPMethod::DeclareOk(ok), cx)
    }

    pub(super) async fn queue_bind(&mut self, bind: queue::Bind, cx: &mut Context) -> Result<(), Refusal> {
        let binding = self.queue_binding(bind.queue.as_str(), bind.routing_key.as_str(), bind.arguments)?;
        let vhost = Arc::clone(&cx.vhost);
        let ((), committed) = vhost.bind(&cx.actor, bind.exchange.as_str(), binding)?;
        cx.after(committed);
        self.queue_reply(bind.nowait, queue::AMQPMethod::BindOk(queue::BindOk {}), cx)
    }

    pub(super) async fn queue_unbind(&mut self, unbind: queue::Unbind, cx: &mut Context) -> Result<(), Refusal> {
        let binding = self.queue_binding(unbind.queue.as_str(), unbind.routing_key.as_str(), unbind.arguments)?;
        let vhost = Arc::clone(&cx.vhost);
        let ((), committed) = vhost.unbind(&cx.actor, unbind.exchange.as_str(), &binding)?;
        cx.after(committed);
        self.queue_reply(false, queue::AMQPMethod::UnbindOk(queue::UnbindOk {}), cx)
    }

    /// Queue and key both empty: the key is the last declared queue's name (RabbitMQ, and the specification of 0-9).
    fn queue_binding(&self, queue: &str, key: &str, arguments: crate::amqp::Table) -> Result<Binding, Refusal> {
        let name = self.queue_name(queue)?;
        let routing_key = if queue.is_empty() && key.is_empty() { Arc::clone(&name) } else { key.into() };
        Ok(Binding { destination: Destination::Queue(name), routing_key, arguments })
    }

    pub(super) fn queue_purge(&mut self, purge: &queue::Purge, cx: &mut Context) -> Result<(), Refusal> {
        let name = self.queue_name(purge.queue.as_str())?;
        let (count, committed) = match cx.vhost.is_reply_name(&name) {
            // Nothing rests there.
            true => (0, None),
            false => Arc::clone(&cx.vhost).purge_queue(&cx.actor, &name, &mut cx.acts)?,
        };
        cx.after(committed);
        let ok = queue::PurgeOk { message_count: u32::try_from(count).unwrap_or(u32::MAX) };
        self.queue_reply(purge.nowait, queue::AMQPMethod::PurgeOk(ok), cx)
    }

    pub(super) async fn queue_delete(&mut self, delete: &queue::Delete, cx: &mut Context) -> Result<(), Refusal> {
        let name = self.queue_name(delete.queue.as_str())?;
        let vhost = Arc::clone(&cx.vhost);
        // Replies before it go out before the consumers' cancellations.
        cx.safe().await?;
        cx.flush();
        let (count, committed) = vhost.delete_queue(&cx.actor, &name, delete.if_unused, delete.if_empty)?;
        cx.after(committed);
        let ok = queue::DeleteOk { message_count: u32::try_from(count).unwrap_or(u32::MAX) };
        self.queue_reply(delete.nowait, queue::AMQPMethod::DeleteOk(ok), cx)
    }

    fn exchange_reply(&self, nowait: bool, ok: exchange::AMQPMethod, cx: &mut Context) -> Result<(), Refusal> {
        if !nowait {
            cx.reply(self.number, AMQPClass::Exchange(ok));
        }
        Ok(())
    }

    fn queue_reply(&self, nowait: bool, ok: queue::AMQPMethod, cx: &mut Context) -> Result<(), Refusal> {
        if !nowait {
            cx.reply(self.number, AMQPClass::Queue(ok));
        }
        Ok(())
    }
}
