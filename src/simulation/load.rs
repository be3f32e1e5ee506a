//! What clients do in a life: publish, consume, settle, vanish; and in the last one, drain all queues.

use super::client::{Client, Content, Gone, Heard, Outcome};
use super::life::Life;
use super::world::{BOTH, DEAD, Queue};
use crate::amqp::properties::{self, ContentHeader, Property};
use crate::amqp::{Table, Value, frame, method};
use amq_protocol::protocol::{AMQPClass, basic, confirm, exchange, queue, tx};
use leveret_checker::{Event, Id, Kind, Random, Settlement, body};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::time::{Duration, sleep, timeout};

const FRAME_MAX: u32 = 131_072;
/// A consumer that hears nothing for so long settles what it holds.
const IDLE: Duration = Duration::from_millis(30);

/// What those of one life know of each other.
struct Shared {
    life: Arc<Life>,
    publishers: AtomicUsize,
    /// Nobody publishes any more, and queues are empty.
    done: AtomicBool,
}

/// All that clients do. An error: somebody was told what nobody should be told.
pub async fn run(life: Arc<Life>, mut random: Random, is_last: bool) -> Result<(), String> {
    let told = |what: &'static str| move |Gone(text): Gone| format!("{what}: {text}");
    declare(&life, &mut random).await.map_err(told("declaring"))?;
    if is_last {
        return drain(&life).await.map_err(told("draining"));
    }
    life.works.notify_one();
    let shared = Arc::new(Shared {
        publishers: AtomicUsize::new(usize::try_from(random.within(1..=3)).unwrap_or(1)),
        done: AtomicBool::new(false),
        life,
    });
    let mut clients = Vec::new();
    for _ in 0..shared.publishers.load(Ordering::Relaxed) {
        clients.push(tokio::spawn(publish(Arc::clone(&shared), random.fork())));
    }
    let mut consumed = Vec::new();
    for (number, queue) in shared.life.world.queues.iter().enumerate() {
        let consumers = random.below(3);
        for _ in 0..consumers {
            clients.push(tokio::spawn(consume(Arc::clone(&shared), random.fork(), number)));
        }
        consumed.extend((consumers > 0).then_some(&*queue.name));
    }
    let emptied = async {
        let is_empty = || consumed.iter().all(|queue| shared.life.counts(queue) == (0, 0));
        while shared.publishers.load(Ordering::Relaxed) > 0 || !is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
        shared.done.store(true, Ordering::Relaxed);
    };
    emptied.await;
    for client in clients {
        match client.await {
            Ok(Ok(())) => {}
            Ok(Err(Gone(text))) => return Err(format!("a client was told: {text}")),
            Err(panic) => return Err(panic.to_string()),
        }
    }
    count(&shared.life).await.map_err(told("counting"))
}

fn arguments(queue: &Queue) -> Table {
    let mut arguments = Table::default();
    if queue.kind == Kind::Quorum {
        arguments.insert("x-queue-type".into(), Value::LongString("quorum".into()));
    }
    if queue.has_priorities {
        arguments.insert("x-max-priority".into(), Value::LongInt(5));
    }
    if let Some(ttl_ms) = queue.ttl_ms {
        arguments.insert("x-message-ttl".into(), Value::LongUInt(ttl_ms));
    }
    if let Some(length) = queue.length {
        arguments.insert("x-max-length".into(), Value::LongUInt(length));
    }
    if queue.dead_letters {
        arguments.insert("x-dead-letter-exchange".into(), Value::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), Value::LongString(DEAD.into()));
    }
    arguments
}

/// Everything is there afterwards. Sometimes two want it at once, and one of them may not know how to behave.
async fn declare(life: &Arc<Life>, random: &mut Random) -> Outcome<()> {
    for queue in life.world.queues.iter().filter(|queue| !life.world.declared.lock().contains(&queue.name)) {
        life.note(Event::Declare {
            queue: queue.name.clone(),
            durable: true,
            kind: queue.kind,
            dead_letters_to: queue.dead_letters.then(|| DEAD.to_owned()),
            drops: queue.ttl_ms.is_some() || queue.length.is_some(),
            // A quorum queue needs not be told.
            priorities: queue.has_priorities || queue.kind == Kind::Quorum,
        });
    }
    let other = match random.below(3) {
        0 => None,
        1 => Some(tokio::spawn(declare_politely(Arc::clone(life)))),
        _ => Some(tokio::spawn(declare_rudely(Arc::clone(life)))),
    };
    declare_politely(Arc::clone(life)).await?;
    match other {
        Some(other) => other.await.unwrap_or_else(|panic| Err(Gone(panic.to_string()))),
        None => Ok(()),
    }
}

fn wish(queue: &Queue, passive: bool) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: queue.name.as_str().into(),
        passive,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: arguments(queue),
    }))
}

/// Declares everything and then says what nobody understands, in one breath. What is answered counts all the same.
async fn declare_rudely(life: Arc<Life>) -> Outcome<()> {
    const NONSENSE: [u8; 8] = [9, 0, 1, 0, 0, 0, 0, frame::END];
    let mut client = life.connect().await?;
    let mut out = Vec::new();
    life.world.queues.iter().for_each(|queue| method::write(&mut out, 1, &wish(queue, false)));
    out.extend_from_slice(&NONSENSE);
    client.send(&out).await?;
    while let Ok(heard) = client.next().await {
        let Heard::Method(AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))) = heard else { continue };
        let queue = ok.queue.to_string();
        life.world.declared.lock().insert(queue.clone());
        life.note(Event::DeclareOk { queue });
    }
    Ok(())
}

async fn declare_politely(life: Arc<Life>) -> Outcome<()> {
    use queue::AMQPMethod as M;
    let mut client = life.connect().await?;
    for queue in &life.world.queues {
        let name = || queue.name.clone();
        let was_declared = life.world.declared.lock().contains(&queue.name);
        let answer = client.call(1, wish(queue, was_declared)).await;
        if was_declared {
            match &answer {
                Ok(_) => life.note(Event::Found { queue: name(), exists: true }),
                Err(Gone(text)) if text.starts_with("404") => life.note(Event::Found { queue: name(), exists: false }),
                Err(_) => {}
            }
        } else if answer.is_ok() {
            life.note(Event::DeclareOk { queue: name() });
            life.world.declared.lock().insert(name());
        }
        answer?;
    }
    let both = exchange::Declare {
        exchange: BOTH.into(),
        kind: "fanout".into(),
        passive: false,
        durable: true,
        auto_delete: false,
        internal: false,
        nowait: false,
        arguments: Table::default(),
    };
    client.call(1, AMQPClass::Exchange(exchange::AMQPMethod::Declare(both))).await?;
    for queue in &life.world.queues[..2] {
        let bind = queue::Bind {
            queue: queue.name.as_str().into(),
            exchange: BOTH.into(),
            routing_key: "".into(),
            nowait: false,
            arguments: Table::default(),
        };
        client.call(1, AMQPClass::Queue(M::Bind(bind))).await?;
    }
    client.close().await
}

/// The numbers that the broker says, while nothing moves.
async fn count(life: &Life) -> Outcome<()> {
    let mut client = life.connect().await?;
    for queue in &life.world.queues {
        counted(life, &mut client, queue).await?;
    }
    client.close().await
}

async fn counted(life: &Life, client: &mut Client, queue: &Queue) -> Outcome<()> {
    let wish = queue::Declare {
        queue: queue.name.as_str().into(),
        passive: true,
        durable: true,
        exclusive: false,
        auto_delete: false,
        nowait: false,
        arguments: Table::default(),
    };
    let answer = client.call(1, AMQPClass::Queue(queue::AMQPMethod::Declare(wish))).await?;
    let AMQPClass::Queue(queue::AMQPMethod::DeclareOk(found)) = answer else {
        return Err(Gone(format!("{answer:?} instead of declare-ok")));
    };
    life.note(Event::Counted { queue: queue.name.clone(), ready: found.message_count.into() });
    Ok(())
}

async fn drain(life: &Life) -> Outcome<()> {
    // Until then all has expired that may.
    sleep(Duration::from_millis(200)).await;
    let mut client = life.connect().await?;
    for queue in &life.world.queues {
        counted(life, &mut client, queue).await?;
        let consumer = life.world.number();
        life.came(consumer, &queue.name);
        loop {
            let get = basic::Get { queue: queue.name.as_str().into(), no_ack: false };
            let mut out = Vec::new();
            method::write(&mut out, 1, &AMQPClass::Basic(basic::AMQPMethod::Get(get)));
            client.send(&out).await?;
            let content = match client.next().await? {
                Heard::Content(content) => content,
                Heard::Method(AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_))) => break,
                Heard::Method(other) => return Err(Gone(format!("{other:?} instead of a message"))),
            };
            let (tag, id) = delivered(life, &queue.name, consumer, &content);
            if let Some(id) = id {
                life.note(Event::Settle { queue: queue.name.clone(), consumer, id, how: Settlement::Ack, tx: None });
            }
            let mut out = Vec::new();
            method::write_ack(&mut out, 1, tag, false);
            client.send(&out).await?;
        }
        life.note(Event::Drained { queue: queue.name.clone(), consumer });
    }
    client.close().await
}

/// Notes a message that came: its tag and who it says it is.
fn delivered(life: &Life, queue: &str, consumer: u32, content: &Content) -> (u64, Option<Id>) {
    let (tag, redelivered) = match &content.method {
        AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => (deliver.delivery_tag, deliver.redelivered),
        AMQPClass::Basic(basic::AMQPMethod::GetOk(got)) => (got.delivery_tag, got.redelivered),
        _ => (0, false),
    };
    let id = body::check(&content.body);
    // What comes to one that the broker has closed may have gone to somebody else already, who heard of it sooner.
    if life.consumers.lock().contains_key(&consumer) {
        life.note(Event::Deliver { queue: queue.to_owned(), consumer, tag, id, redelivered });
    }
    (tag, id)
}

/// One who publishes, with confirms or in transactions.
async fn publish(shared: Arc<Shared>, mut random: Random) -> Outcome<()> {
    let outcome = match random.chance(40) {
        true => transact(&shared.life, &mut random).await,
        false => confirm(&shared.life, &mut random).await,
    };
    shared.publishers.fetch_sub(1, Ordering::Relaxed);
    outcome
}

/// Writes one basic.publish of a new message and notes it.
fn write_publish(life: &Life, random: &mut Random, out: &mut Vec<u8>, publisher: u32, tx: Option<u64>) -> Id {
    let id = life.world.id();
    let queues = &life.world.queues;
    let both = random.chance(20);
    let queue = random.pick(queues);
    // Queues with so much to write let others pass at the disk, unless all is of one transaction.
    let len = match random.below(if tx.is_some() { 6 } else { 20 }) {
        0 => 70_000,
        1..4 => random.index(6000),
        _ => random.index(200),
    };
    let persistent = random.chance(90);
    let priority = u8::try_from(random.below(6)).unwrap_or(0);
    life.note(Event::Publish {
        publisher,
        id,
        queues: match both {
            true => queues[..2].iter().map(|queue| queue.name.clone()).collect(),
            false => vec![queue.name.clone()],
        },
        persistent,
        priority,
        expires: false,
        tx,
    });
    let (exchange, key) = if both { (BOTH, "") } else { ("", &*queue.name) };
    method::write_publish(out, 1, exchange, key, false);
    let body = body::body(id, len);
    let mode = if persistent { 2 } else { 1 };
    let properties =
        properties::of(&[("delivery_mode", Property::Number(mode)), ("priority", Property::Number(priority.into()))]);
    frame::write(out, frame::HEADER, 1, |out| ContentHeader::write(out, body.len() as u64, &properties));
    frame::write_body(out, 1, &body, FRAME_MAX);
    id
}

async fn confirm(life: &Life, random: &mut Random) -> Outcome<()> {
    let mut client = life.connect().await?;
    let publisher = life.world.number();
    let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
    client.call(1, AMQPClass::Confirm(select)).await?;
    let window = 1 + random.index(30);
    let mut unconfirmed: VecDeque<(u64, Id)> = VecDeque::new();
    let mut tag = 0;
    for _ in 0..random.within(1..=19) {
        let mut out = Vec::new();
        for _ in 0..random.within(1..=7) {
            tag += 1;
            unconfirmed.push_back((tag, write_publish(life, random, &mut out, publisher, None)));
        }
        if random.chance(2) {
            // In the midst of something, perhaps.
            let whole = random.index(out.len());
            client.send(&out[..whole]).await?;
            client.vanish();
            return Ok(());
        }
        client.send(&out).await?;
        while unconfirmed.len() > window {
            confirmed(life, &mut client, &mut unconfirmed).await?;
        }
        sleep(Duration::from_millis(random.below(6))).await;
    }
    while !unconfirmed.is_empty() {
        confirmed(life, &mut client, &mut unconfirmed).await?;
    }
    client.close().await
}

/// Waits for a confirm.
async fn confirmed(life: &Life, client: &mut Client, unconfirmed: &mut VecDeque<(u64, Id)>) -> Outcome<()> {
    let (upto, multiple, refused) = match client.next().await? {
        Heard::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => (ack.delivery_tag, ack.multiple, false),
        Heard::Method(AMQPClass::Basic(basic::AMQPMethod::Nack(nack))) => (nack.delivery_tag, nack.multiple, true),
        other => return Err(Gone(format!("{other:?} instead of a confirm"))),
    };
    unconfirmed.retain(|&(tag, id)| {
        let is_meant = tag == upto || multiple && tag < upto;
        if is_meant {
            life.note(if refused { Event::Nack { id } } else { Event::Confirm { id } });
        }
        !is_meant
    });
    Ok(())
}

async fn transact(life: &Life, random: &mut Random) -> Outcome<()> {
    let mut client = life.connect().await?;
    let publisher = life.world.number();
    client.call(1, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))).await?;
    for _ in 0..random.within(1..=11) {
        let tx = u64::from(life.world.number());
        let mut out = Vec::new();
        for _ in 0..random.within(1..=5) {
            write_publish(life, random, &mut out, publisher, Some(tx));
        }
        client.send(&out).await?;
        if random.chance(15) {
            life.note(Event::Rollback { tx });
            client.call(1, AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {}))).await?;
        } else {
            life.note(Event::Commit { tx });
            client.call(1, AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {}))).await?;
            life.note(Event::CommitOk { tx });
        }
        sleep(Duration::from_millis(random.below(6))).await;
    }
    client.close().await
}

/// One who consumes; another takes his place when he vanishes.
async fn consume(shared: Arc<Shared>, mut random: Random, queue: usize) -> Outcome<()> {
    let mut tries = random.below(3);
    loop {
        let mut consumer = Consumer::start(&shared, &mut random, queue, tries > 0).await?;
        if consumer.work(&shared, &mut random).await? {
            consumer.life.gone(consumer.number);
            return consumer.client.close().await;
        }
        tries = tries.saturating_sub(1);
        consumer.life.gone(consumer.number);
        consumer.client.vanish();
    }
}

struct Consumer {
    life: Arc<Life>,
    client: Client,
    number: u32,
    queue: String,
    prefetch: usize,
    /// In transactions.
    transacts: bool,
    may_vanish: bool,
    /// How many it may still give back or reject.
    whims: u64,
    held: VecDeque<(u64, Option<Id>)>,
}

impl Consumer {
    async fn start(shared: &Shared, random: &mut Random, queue: usize, may_vanish: bool) -> Outcome<Self> {
        let life = Arc::clone(&shared.life);
        let mut client = life.connect().await?;
        let prefetch = random.within(1..=11);
        let transacts = random.chance(20);
        if transacts {
            client.call(1, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))).await?;
        }
        let mut out = Vec::new();
        method::write(&mut out, 1, &qos(prefetch));
        let queue = life.world.queues[queue].name.clone();
        let consume = basic::Consume {
            queue: queue.as_str().into(),
            consumer_tag: "c".into(),
            no_local: false,
            no_ack: false,
            exclusive: false,
            nowait: true,
            arguments: Table::default(),
        };
        method::write(&mut out, 1, &AMQPClass::Basic(basic::AMQPMethod::Consume(consume)));
        client.send(&out).await?;
        client.next().await?;
        let number = life.world.number();
        life.came(number, &queue);
        Ok(Self {
            number,
            life,
            client,
            queue,
            prefetch: usize::try_from(prefetch).unwrap_or(1),
            transacts,
            may_vanish,
            whims: random.below(6),
            held: VecDeque::new(),
        })
    }

    fn note(&self, event: Event) {
        self.life.note(event);
    }

    /// Takes and settles; true when there is nothing left to do, false when it has had enough.
    async fn work(&mut self, shared: &Shared, random: &mut Random) -> Outcome<bool> {
        loop {
            match timeout(IDLE, self.client.next()).await {
                Ok(heard) => self.hear(heard?)?,
                Err(_) if self.held.is_empty() && shared.done.load(Ordering::Relaxed) => return Ok(true),
                Err(_) => {
                    let all = self.held.len();
                    self.settle(random, all, Settlement::Ack).await?;
                }
            }
            if self.may_vanish && random.chance(3) {
                return Ok(false);
            }
            let count = self.held.len();
            if count == 0 || count < self.prefetch && random.chance(50) {
                continue;
            }
            let how = match random.below(10) {
                0 if self.whims > 0 => Settlement::Requeue,
                1 if self.whims > 0 => Settlement::Reject,
                _ => Settlement::Ack,
            };
            self.whims = self.whims.saturating_sub(u64::from(how != Settlement::Ack));
            self.settle(random, 1 + random.clone().index(count), how).await?;
        }
    }

    fn hear(&mut self, heard: Heard) -> Outcome<()> {
        let Heard::Content(content) = heard else { return Err(Gone(format!("{heard:?} instead of a message"))) };
        self.held.push_back(delivered(&self.life, &self.queue, self.number, &content));
        Ok(())
    }

    /// Settles the first `count` of what it holds, one by one or all at once; perhaps waits until that was heard.
    async fn settle(&mut self, random: &mut Random, count: usize, how: Settlement) -> Outcome<()> {
        if count == 0 {
            return Ok(());
        }
        let tx = self.transacts.then(|| u64::from(self.life.world.number()));
        let settled: Vec<_> = self.held.drain(..count).collect();
        for id in settled.iter().filter_map(|&(_, id)| id) {
            let (queue, consumer) = (self.queue.clone(), self.number);
            self.note(Event::Settle { queue, consumer, id, how, tx });
        }
        let mut out = Vec::new();
        let at_once = random.chance(50);
        let tags = settled.iter().map(|&(tag, _)| tag).skip(if at_once { count - 1 } else { 0 });
        for tag in tags {
            match how {
                Settlement::Ack => method::write_ack(&mut out, 1, tag, at_once),
                Settlement::Requeue => method::write_nack(&mut out, 1, tag, at_once, true),
                Settlement::Reject => method::write_nack(&mut out, 1, tag, at_once, false),
            }
        }
        if let Some(tx) = tx {
            self.note(Event::Commit { tx });
            method::write(&mut out, 1, &AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})));
            self.client.send(&out).await?;
            self.hear_until(|class| matches!(class, AMQPClass::Tx(tx::AMQPMethod::CommitOk(_)))).await?;
            self.note(Event::CommitOk { tx });
            self.note(Event::Synced { consumer: self.number });
        } else if random.chance(30) {
            method::write(&mut out, 1, &qos(self.prefetch as u64));
            self.client.send(&out).await?;
            self.hear_until(|class| matches!(class, AMQPClass::Basic(basic::AMQPMethod::QosOk(_)))).await?;
            self.note(Event::Synced { consumer: self.number });
        } else {
            self.client.send(&out).await?;
        }
        Ok(())
    }

    /// Hears messages until an answer comes.
    async fn hear_until(&mut self, is_answer: impl Fn(&AMQPClass) -> bool) -> Outcome<()> {
        loop {
            match self.client.next().await? {
                Heard::Method(class) if is_answer(&class) => return Ok(()),
                heard => self.hear(heard)?,
            }
        }
    }
}

fn qos(prefetch: u64) -> AMQPClass {
    let prefetch_count = u16::try_from(prefetch).unwrap_or(u16::MAX);
    AMQPClass::Basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count, global: false }))
}
