//! One channel: methods become operations of the house.
//!
//! The connection's task owns its channels and calls them one after the other. What a read brings for a channel is
//! gathered (messages in runs, acknowledgements in ranges) and handed over once, at the end of the read or before the
//! first method that could tell the difference ([`Channel::hand_over`]).

pub mod consume;
pub mod egress;
pub mod owed;
pub mod publish;
pub mod topology;
pub mod tx;

use crate::amqp;
use crate::amqp::method::{self, Id};
use crate::amqp::{ReplyCode, frame};
use crate::queue::Queue;
use crate::queue::classic::Acts;
use crate::queue::consumer::{ConsumerKey, Outlet};
use crate::queue::settings::QueueType;
use crate::refusal::Refusal;
use crate::store::Committed;
use crate::vhost::clients::Gauges;
use crate::vhost::events::{self, HOUSE};
use crate::vhost::trace::Party;
use crate::vhost::{Actor, Vhost};
use amq_protocol::protocol::{AMQPClass, access, basic, channel, confirm, exchange, queue};
use consume::Settlements;
use egress::Egress;
use publish::{Assembly, Publisher};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What ends a channel or its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: ReplyCode,
    pub text: String,
    /// The method at fault, or (0, 0).
    pub id: Id,
}

impl Fault {
    pub fn new(code: ReplyCode, text: impl Into<String>, id: Id) -> Self {
        Self { code, text: text.into(), id }
    }

    fn refused(refusal: Refusal, id: Id) -> Self {
        Self { code: refusal.reply_code(), text: refusal.whole_text(), id }
    }
}

/// What a channel is given by its connection.
pub struct Context {
    pub vhost: Arc<Vhost>,
    pub actor: Actor,
    /// As logs, events and the firehose name the connection.
    pub connection_name: Arc<str>,
    /// The client went without a word.
    pub lost: bool,
    pub egress: Arc<Egress>,
    pub limits: Limits,
    /// Replies of this read, not yet given to the egress.
    pub frames: Vec<u8>,
    /// What must be on disk before they are. At most one read's requests.
    pub unsafe_until: Vec<Committed>,
    pub acts: Acts,
    /// Queues that end with the connection.
    pub exclusive: Vec<Arc<Queue>>,
    /// How often to look for consumers that take too long; never, if none of them has a limit.
    pub patience: Option<Duration>,
    /// Something was done that may be much work, as routing by patterns or changing the topology.
    pub costly: bool,
}

/// What a channel may.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Octets of a message's body.
    pub message_bytes_max: u64,
    /// Consumers of one channel.
    pub consumers_max: Option<u32>,
    /// How long a quorum queue's consumer may take for a message, if neither it nor its queue say.
    pub consumer_timeout: Option<Duration>,
    pub frame_max: u32,
}

impl Context {
    /// Who publishes, for the firehose.
    fn party(&self, channel: u16) -> Party<'_> {
        Party { connection: &self.connection_name, channel, user: &self.actor.user }
    }

    fn reply(&mut self, channel: u16, class: AMQPClass) {
        method::write(&mut self.frames, channel, &class);
    }

    /// Gives the replies so far to the egress, so that what follows them there comes after them.
    pub fn flush(&mut self) {
        debug_assert!(self.unsafe_until.is_empty(), "these replies promise what is not on disk");
        self.egress.send(std::mem::take(&mut self.frames));
    }

    /// Carries out what was decided and writes what there is to write.
    pub fn act(&mut self) {
        self.flush();
        std::mem::take(&mut self.acts).run();
        self.egress.pump();
    }

    /// A consumer has a time limit.
    fn wait_for_consumer(&mut self, timeout: Option<Duration>) {
        /// Looking costs little, but is not for nothing.
        const LOOKS: std::ops::RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_secs(30);
        if let Some(timeout) = timeout {
            let look = (timeout / 8).clamp(*LOOKS.start(), *LOOKS.end());
            self.patience = Some(self.patience.map_or(look, |known| known.min(look)));
        }
    }

    /// What follows is told only once a change of definitions is on disk.
    fn after(&mut self, committed: Option<Committed>) {
        self.unsafe_until.extend(committed);
    }

    /// Waits until everything that the replies so far promise is on disk. To be called before they are sent; many
    /// requests of one read so wait for one sync. With an error the replies are gone.
    pub async fn safe(&mut self) -> Result<(), Refusal> {
        if self.unsafe_until.is_empty() {
            return Ok(());
        }
        std::mem::take(&mut self.acts).run();
        for committed in std::mem::take(&mut self.unsafe_until) {
            if committed.await.is_err() {
                // It never will be: nobody is told that it is.
                self.frames.clear();
                return Err(Refusal::internal("the broker's disk failed: nothing more can be stored"));
            }
        }
        Ok(())
    }
}

pub struct Channel {
    number: u16,
    /// Tells this channel from an earlier one of the same number.
    epoch: u64,
    /// What it tells of itself, for listings.
    gauges: Arc<Gauges>,
    assembly: Assembly,
    publisher: Publisher,
    settlements: Settlements,
    consumers: FxHashMap<Arc<str>, Consumer>,
    /// basic.qos: for consumers started from now on; 0: unlimited.
    prefetch: u32,
    last_queue: Option<Arc<str>>,
    /// Where answers to its requests come (RabbitMQ: "Direct Reply-to").
    reply: Option<Reply>,
    tx: Option<tx::Transaction>,
    /// Octets of messages that are not whole or not committed, as its connection knows them.
    pub unfinished_bytes: usize,
}

struct Consumer {
    key: ConsumerKey,
    queue: Arc<Queue>,
}

/// The consumer of answers. Its tag is no other consumer's concern.
struct Reply {
    tag: Arc<str>,
    key: ConsumerKey,
    queue: Arc<Queue>,
}

impl Channel {
    pub fn open(number: u16, epoch: u64, context: &Context) -> Self {
        let channel = Self {
            number,
            epoch,
            gauges: context.egress.open_channel(number, epoch),
            assembly: Assembly::Method,
            publisher: Publisher::default(),
            settlements: Settlements::default(),
            consumers: FxHashMap::default(),
            prefetch: 0,
            last_queue: None,
            reply: None,
            tx: None,
            unfinished_bytes: 0,
        };
        context.vhost.events().channel_created(&channel.shown(context), &context.vhost.name);
        channel
    }

    /// The channel as events show it.
    fn shown<'a>(&self, cx: &'a Context) -> events::Channel<'a> {
        events::Channel {
            connection: cx.actor.connection,
            connection_name: &cx.connection_name,
            number: self.number,
            epoch: self.epoch,
            user: &cx.actor.user,
        }
    }

    /// Whether the next frame must be a content header or body.
    pub fn in_content(&self) -> bool {
        !matches!(self.assembly, Assembly::Method)
    }

    /// Counts octets of messages that are not whole or not committed; says what was known before, and what there is.
    pub fn count_unfinished(&mut self) -> (usize, usize) {
        let body = match &self.assembly {
            Assembly::Body { partial, .. } => partial.received(),
            _ => 0,
        };
        let bytes = body + self.tx.as_mut().map_or(0, tx::Transaction::bytes);
        (std::mem::replace(&mut self.unfinished_bytes, bytes), bytes)
    }

    fn has_gathered(&self) -> bool {
        !self.publisher.is_empty() || !self.settlements.is_empty()
    }

    /// Hands over what was gathered: messages to their queues, then acknowledgements.
    pub fn hand_over(&mut self, context: &mut Context) {
        if let Some(tx) = &mut self.tx {
            tx.keep(&mut self.publisher);
            tx.trace(self.number, context);
            let (messages, acks) = tx.counts();
            self.gauges.uncommitted.store(messages, Ordering::Relaxed);
            self.gauges.acks_uncommitted.store(acks, Ordering::Relaxed);
        }
        if let Some(sequence) = self.publisher.sequence() {
            self.gauges.published.store(sequence, Ordering::Relaxed);
        }
        self.publisher.tell(&self.gauges.counted.counts, context.vhost.totals());
        self.publisher.hand_over(self.number, self.epoch, context);
        self.settlements.hand_over(&self.gauges, context);
    }

    /// Ends the channel: consumers go, unacknowledged messages go back, an open transaction is forgotten.
    pub fn close(mut self, context: &mut Context) {
        self.hand_over(context);
        let consumers = std::mem::take(&mut self.consumers);
        let consumer_count = consumers.values().filter(|consumer| consumer.queue.alive()).count();
        for (tag, consumer) in consumers {
            // The end of a channel in good order stands for that of its consumers, but for those of quorum queues, as in
            // RabbitMQ.
            if context.lost || consumer.queue.settings().queue_type == QueueType::Quorum {
                let events = context.vhost.events();
                events.consumer_deleted(&self.shown(context), &tag, &consumer.queue, Some(HOUSE));
            }
            self::consume::cancel(&consumer.queue, consumer.key, context);
        }
        if let Some(reply) = self.reply.take() {
            context.vhost.close_reply_queue(&reply.queue, reply.key);
        }
        let mut back = context.egress.close_channel(self.number);
        if let Some(tx) = self.tx.take() {
            back.extend(tx.into_unacked());
        }
        consume::requeue(back, true, context);
        context.vhost.events().channel_closed(&self.shown(context), consumer_count);
    }

    /// A method other than basic.publish and the acknowledgements.
    pub async fn method(&mut self, class: AMQPClass, id: Id, cx: &mut Context) -> Result<(), Fault> {
        cx.costly = true;
        // Changes of the topology are answered together at the end of the read; anything else waits for them.
        if !matches!(class, AMQPClass::Exchange(_) | AMQPClass::Queue(_)) || self.has_gathered() {
            cx.safe().await.map_err(|refusal| Fault::refused(refusal, id))?;
        }
        self.hand_over(cx);
        let number = self.number;
        let outcome = match class {
            AMQPClass::Exchange(exchange) => self.exchange(exchange, cx).await,
            AMQPClass::Queue(queue) => self.queue(queue, cx).await,
            AMQPClass::Basic(basic) => self.basic(basic, cx).await,
            AMQPClass::Tx(tx) => self.transaction(tx, cx).await,
            AMQPClass::Confirm(confirm::AMQPMethod::Select(select)) => self.confirm_select(&select, cx),
            AMQPClass::Channel(channel::AMQPMethod::Flow(flow)) => match flow.active {
                true => {
                    let ok = channel::AMQPMethod::FlowOk(channel::FlowOk { active: true });
                    cx.reply(number, AMQPClass::Channel(ok));
                    Ok(())
                }
                false => Err(Refusal::not_implemented("active=false")),
            },
            AMQPClass::Access(access::AMQPMethod::Request(_)) => {
                let ok = access::AMQPMethod::RequestOk(access::RequestOk {});
                cx.reply(number, AMQPClass::Access(ok));
                Ok(())
            }
            _ => return Err(Fault::new(ReplyCode::CommandInvalid, "unimplemented method", id)),
        };
        outcome.map_err(|refusal| Fault::refused(refusal, id))
    }

    async fn exchange(&mut self, method: exchange::AMQPMethod, cx: &mut Context) -> Result<(), Refusal> {
        use exchange::AMQPMethod as M;
        match method {
            M::Declare(declare) => self.exchange_declare(declare, cx).await,
            M::Delete(delete) => self.exchange_delete(&delete, cx).await,
            M::Bind(bind) => self.exchange_bind(bind, cx).await,
            M::Unbind(unbind) => self.exchange_unbind(unbind, cx).await,
            _ => Err(unimplemented_method()),
        }
    }

    async fn queue(&mut self, method: queue::AMQPMethod, cx: &mut Context) -> Result<(), Refusal> {
        use queue::AMQPMethod as M;
        match method {
            M::Declare(declare) => self.queue_declare(declare, cx).await,
            M::Bind(bind) => self.queue_bind(bind, cx).await,
            M::Unbind(unbind) => self.queue_unbind(unbind, cx).await,
            M::Purge(purge) => self.queue_purge(&purge, cx),
            M::Delete(delete) => self.queue_delete(&delete, cx).await,
            _ => Err(unimplemented_method()),
        }
    }

    async fn basic(&mut self, method: basic::AMQPMethod, cx: &mut Context) -> Result<(), Refusal> {
        use basic::AMQPMethod as M;
        match method {
            M::Consume(consume) => self.consume(consume, cx),
            M::Cancel(cancel) => self.cancel(&cancel, cx),
            M::Get(get) => self.get(&get, cx).await,
            M::Recover(recover) => self.recover(recover.requeue, true, cx),
            M::RecoverAsync(recover) => self.recover(recover.requeue, false, cx),
            _ => Err(unimplemented_method()),
        }
    }

    /// The queue a method means: an empty name is the one declared last on this channel.
    fn queue_name(&self, name: &str) -> Result<Arc<str>, Refusal> {
        match (name, &self.last_queue) {
            ("", Some(last)) => Ok(Arc::clone(last)),
            ("", None) => Err(Refusal::not_found("no previously declared queue")),
            (name, _) => Ok(name.into()),
        }
    }
}

fn unimplemented_method() -> Refusal {
    Refusal::new(crate::refusal::Reason::Unexpected, "unimplemented method")
}

/// Writes channel.close.
pub fn write_close(out: &mut Vec<u8>, number: u16, fault: &Fault) {
    let close = channel::Close {
        reply_code: fault.code.number(),
        reply_text: amqp::short(&fault.code.text(&fault.text)),
        class_id: fault.id.0,
        method_id: fault.id.1,
    };
    method::write(out, number, &AMQPClass::Channel(channel::AMQPMethod::Close(close)));
}

const _: () = assert!(frame::MIN_FRAME_MAX as usize > 2 * frame::OVERHEAD_BYTES);
