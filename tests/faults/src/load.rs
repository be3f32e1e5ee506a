//! Clients that publish, consume, commit, declare and delete, all at once, until they are stopped or the broker is.

use crate::amqp::{Client, Incoming, Message, Properties};
use crate::plan::{CHURN, Plan, Route, TRANSACTIONS};
use crate::recorder::Recorder;
use leveret_checker::{Event, Id, Kind, Random, Settlement, body};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Publishes of a channel that are not confirmed.
const IN_FLIGHT_MAX: usize = 500;
const PUBLISHERS: usize = 8;
/// Queues that come and go, at a time.
const CHURNING_MAX: usize = 12;
/// How long a client that is asked to stop waits for what it is owed.
const FAREWELL: Duration = Duration::from_secs(20);
/// How long a client tries to reach a broker that is not there yet.
const KNOCKING: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct Intensity {
    /// Octets of the longest bodies.
    pub body_bytes_max: u64,
    /// Pause between bursts of a publisher, microseconds at most.
    pub pause_us_max: u64,
    /// A client in another language.
    pub beside: Option<String>,
}

impl Default for Intensity {
    fn default() -> Self {
        Self { body_bytes_max: 64 << 10, pause_us_max: 12_000, beside: None }
    }
}

pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<(String, JoinHandle<io::Result<()>>)>,
}

/// What every client of a load knows.
#[derive(Clone)]
struct Shared {
    port: u16,
    plan: Arc<Plan>,
    recorder: Recorder,
    stop: Arc<AtomicBool>,
    random: Random,
    intensity: Intensity,
}

impl Load {
    pub fn start(port: u16, plan: &Arc<Plan>, recorder: &Recorder, random: &mut Random, intensity: &Intensity) -> Self {
        Self::of(port, plan, recorder, random, intensity, true)
    }

    /// Only queues that come and go.
    pub fn churning(
        port: u16,
        plan: &Arc<Plan>,
        recorder: &Recorder,
        random: &mut Random,
        intensity: &Intensity,
    ) -> Self {
        Self::of(port, plan, recorder, random, intensity, false)
    }

    fn of(
        port: u16,
        plan: &Arc<Plan>,
        recorder: &Recorder,
        random: &mut Random,
        intensity: &Intensity,
        all: bool,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut spawn = |name: String, run: Box<dyn FnOnce(Shared) -> io::Result<()> + Send>| {
            let (plan, recorder, stop) = (Arc::clone(plan), recorder.clone(), Arc::clone(&stop));
            let intensity = intensity.clone();
            let shared = Shared { port, plan, recorder, stop, random: random.fork(), intensity };
            threads.push((name, std::thread::spawn(move || run(shared))));
        };
        if plan.company {
            spawn("topology".into(), Box::new(churn));
        }
        if !all {
            return Self { stop, threads };
        }
        for number in 0..PUBLISHERS {
            spawn(format!("publisher {number}"), Box::new(publish));
        }
        for queue in plan.consumed.clone() {
            spawn(format!("consumer of {queue}"), Box::new(move |shared| consume(shared, queue)));
        }
        if plan.transactions {
            spawn("transactions".into(), Box::new(transact));
        }
        if plan.company {
            let lapin = |shared: Shared| crate::with_lapin::run(shared.port, &shared.recorder, &shared.stop);
            spawn("lapin".into(), Box::new(lapin));
            if let Some(command) = intensity.beside.clone() {
                let run =
                    move |shared: Shared| crate::beside::run(&command, shared.port, &shared.recorder, &shared.stop);
                spawn("the other program".into(), Box::new(run));
            }
        }
        Self { stop, threads }
    }

    /// Waits for clients whose broker is gone.
    pub fn join(self) {
        self.stop.store(true, Ordering::Release);
        for (_, thread) in self.threads {
            // They end with an error, since their sockets did.
            drop(thread.join());
        }
    }

    /// Asks the clients to end properly; errors are those of clients that could not.
    pub fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Release);
        let ended = self.threads.into_iter().filter_map(|(name, thread)| match thread.join() {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{name}: {error}")),
            Err(_) => Some(format!("{name}: panicked")),
        });
        ended.collect()
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Knocks again while nobody is there, or nobody has room.
    fn connect(&self) -> io::Result<Client> {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, UnexpectedEof};
        let end = Instant::now() + KNOCKING;
        loop {
            let answer = Client::connect(self.port);
            let turned_away = answer
                .as_ref()
                .is_err_and(|error| matches!(error.kind(), ConnectionRefused | ConnectionReset | UnexpectedEof));
            if !turned_away || self.stopped() || Instant::now() > end {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn body(&mut self, id: Id) -> Vec<u8> {
        let max = self.intensity.body_bytes_max;
        let most = match self.random.below(100) {
            0..70 => max.min(200),
            70..95 => max.min(4096),
            _ => max,
        };
        let bytes = usize::try_from(self.random.below(most + 1)).unwrap_or(0);
        body::body(id, bytes)
    }

    /// Writes a message down and adds it to what leaves next.
    fn publish_one(
        &mut self,
        client: &mut Client,
        publisher: u32,
        route: &Route,
        tx: Option<u64>,
        out: &mut Vec<Event>,
    ) -> Id {
        let id = self.recorder.id();
        let persistent = tx.is_some() || self.random.chance(90);
        let priority = if route.priorities { u8::try_from(self.random.below(6)).unwrap_or(0) } else { 0 };
        let expiration_ms =
            (route.expires && self.random.chance(50)).then(|| 1 + u32::try_from(self.random.below(500)).unwrap_or(0));
        out.push(Event::Publish {
            publisher,
            id,
            queues: route.queues.iter().map(|queue| (*queue).to_owned()).collect(),
            persistent,
            priority,
            expires: expiration_ms.is_some(),
            tx,
        });
        let body = self.body(id);
        let properties = Properties { persistent, priority: route.priorities.then_some(priority), expiration_ms };
        client.publish(route.exchange, route.key, properties, &body);
        id
    }
}

fn publish(mut shared: Shared) -> io::Result<()> {
    let mut client = shared.connect()?;
    client.confirm_select()?;
    let publisher = shared.recorder.number();
    let mut pending: VecDeque<(u64, Id)> = VecDeque::new();
    let mut sequence = 0;
    let plan = Arc::clone(&shared.plan);
    let mut farewell = None;
    loop {
        let stopped = shared.stopped();
        if stopped {
            let end = *farewell.get_or_insert_with(|| Instant::now() + FAREWELL);
            if pending.is_empty() {
                return client.close();
            }
            if Instant::now() > end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} publishes are not confirmed", pending.len()),
                ));
            }
        }
        let room = IN_FLIGHT_MAX - pending.len();
        if !stopped && room > 0 {
            let burst = 1 + shared.random.below(room.min(50) as u64);
            let mut events = Vec::new();
            for _ in 0..burst {
                let route = shared.random.pick(&plan.routes).clone();
                let id = shared.publish_one(&mut client, publisher, &route, None, &mut events);
                sequence += 1;
                pending.push_back((sequence, id));
            }
            shared.recorder.notes(events);
            client.flush()?;
        }
        let pause = if room == 0 || stopped { 20_000 } else { shared.random.below(shared.intensity.pause_us_max + 1) };
        let mut patience = Duration::from_micros(pause);
        let mut events = Vec::new();
        while let Some(incoming) = client.next(patience)? {
            match incoming {
                Incoming::Ack { tag, multiple } => {
                    answered(&mut pending, tag, multiple, |id| events.push(Event::Confirm { id }));
                }
                Incoming::Nack { tag, multiple } => {
                    answered(&mut pending, tag, multiple, |id| events.push(Event::Nack { id }));
                }
                _ => {}
            }
            patience = Duration::ZERO;
            if events.len() > IN_FLIGHT_MAX {
                break;
            }
        }
        shared.recorder.notes(events);
    }
}

/// Each publish that this confirm or refusal is about.
pub fn answered(pending: &mut VecDeque<(u64, Id)>, tag: u64, multiple: bool, mut each: impl FnMut(Id)) {
    if multiple {
        while let Some((_, id)) = pending.pop_front_if(|(sequence, _)| *sequence <= tag || tag == 0) {
            each(id);
        }
    } else if let Some(at) = pending.iter().position(|(sequence, _)| *sequence == tag) {
        pending.remove(at).into_iter().for_each(|(_, id)| each(id));
    }
}

fn consume(mut shared: Shared, queue: &'static str) -> io::Result<()> {
    let mut client = shared.connect()?;
    let consumer = shared.recorder.number();
    client.qos(u16::try_from(shared.random.within(1..=300)).unwrap_or(1))?;
    client.consume(queue)?;
    let mut farewell = false;
    loop {
        if shared.stopped() && !farewell {
            client.cancel()?;
            farewell = true;
        }
        let patience = if farewell { Duration::ZERO } else { Duration::from_millis(15) };
        let mut came = Vec::new();
        let mut next = client.next(patience)?;
        while let Some(incoming) = next {
            if let Incoming::Message(message) = incoming {
                came.push(message);
            }
            next = if came.len() < 200 { client.next(Duration::ZERO)? } else { None };
        }
        if came.is_empty() {
            if farewell {
                // All that was on its way came before the answer.
                return client.close();
            }
            continue;
        }
        settle(&mut shared, &mut client, queue, consumer, &came, farewell)?;
        if shared.random.chance(10) {
            client.qos(u16::try_from(shared.random.within(1..=300)).unwrap_or(1))?;
            shared.recorder.note(Event::Synced { consumer });
        }
    }
}

/// Acknowledges most, gives some back, refuses others, and keeps none.
fn settle(
    shared: &mut Shared,
    client: &mut Client,
    queue: &str,
    consumer: u32,
    came: &[Message],
    all: bool,
) -> io::Result<()> {
    let queue = || queue.to_owned();
    let mut events = Vec::new();
    let mut settled = Vec::new();
    // One acknowledgement for several messages must not take others that are to go elsewhere.
    let multiple = shared.random.chance(40);
    for message in came {
        let (tag, redelivered) = (message.tag, message.redelivered);
        let id = body::check(&message.body);
        events.push(Event::Deliver { queue: queue(), consumer, tag, id, redelivered });
        let how = match shared.random.below(100) {
            0..6 if !multiple && !all => Settlement::Requeue,
            6..14 if !multiple => Settlement::Reject,
            _ => Settlement::Ack,
        };
        settled.extend(id.map(|id| (tag, id, how)));
    }
    shared.recorder.notes(events);
    // While it works, it may be killed.
    if shared.random.chance(30) && !all {
        std::thread::sleep(Duration::from_micros(shared.random.below(8000)));
    }
    let events = settled.iter().map(|(_, id, how)| {
        let (id, how) = (*id, *how);
        Event::Settle { queue: queue(), consumer, id, how, tx: None }
    });
    shared.recorder.notes(events);
    if multiple {
        if let Some((tag, ..)) = settled.last() {
            client.ack(*tag, true);
        }
    } else {
        for (tag, _, how) in settled {
            match how {
                Settlement::Ack => client.ack(tag, false),
                Settlement::Requeue if tag % 2 == 0 => client.nack(tag, true),
                Settlement::Requeue => client.reject(tag, true),
                Settlement::Reject if tag % 2 == 0 => client.nack(tag, false),
                Settlement::Reject => client.reject(tag, false),
            }
        }
    }
    client.flush()
}

/// Takes from one queue and publishes to two, in transactions.
fn transact(mut shared: Shared) -> io::Result<()> {
    let route =
        Route { exchange: TRANSACTIONS, key: "", queues: vec!["tx-one", "tx-two"], priorities: false, expires: false };
    let queue = || "tx-in".to_owned();
    while !shared.stopped() {
        let mut client = shared.connect()?;
        client.tx_select()?;
        let (publisher, consumer) = (shared.recorder.number(), shared.recorder.number());
        loop {
            let tx = u64::from(shared.recorder.number());
            let mut events = Vec::new();
            for _ in 0..shared.random.within(0..=4) {
                client.get("tx-in");
                client.flush()?;
                let Some(Incoming::Message(message)) = client.next(FAREWELL)? else { continue };
                let (tag, redelivered, id) = (message.tag, message.redelivered, body::check(&message.body));
                shared.recorder.note(Event::Deliver { queue: queue(), consumer, tag, id, redelivered });
                if let Some(id) = id {
                    let how = Settlement::Ack;
                    events.push(Event::Settle { queue: queue(), consumer, id, how, tx: Some(tx) });
                    client.ack(tag, false);
                }
            }
            for _ in 0..shared.random.within(1..=5) {
                shared.publish_one(&mut client, publisher, &route, Some(tx), &mut events);
            }
            shared.recorder.notes(events);
            client.flush()?;
            if shared.random.chance(15) {
                shared.recorder.note(Event::Rollback { tx });
                client.tx_rollback()?;
                // What it got is still its own, and goes back with the channel.
                client.close()?;
                shared.recorder.note(Event::Gone { consumer, queue: queue(), unread: false });
                break;
            }
            shared.recorder.note(Event::Commit { tx });
            client.tx_commit()?;
            shared.recorder.note(Event::CommitOk { tx });
            if shared.stopped() {
                return client.close();
            }
        }
    }
    Ok(())
}

/// Declares, binds, fills, purges and deletes queues.
fn churn(mut shared: Shared) -> io::Result<()> {
    let mut client = shared.connect()?;
    client.confirm_select()?;
    let publisher = shared.recorder.number();
    let mut there: Vec<String> = Vec::new();
    let mut sequence = 0;
    let recorder = shared.recorder.clone();
    while !shared.stopped() {
        if there.len() < CHURNING_MAX && shared.random.chance(60) {
            let name = format!("churn-{:x}", recorder.id());
            let durable = shared.random.chance(80);
            let queue = || name.clone();
            recorder.note(Event::Declare {
                queue: queue(),
                durable,
                kind: Kind::Classic,
                dead_letters_to: None,
                drops: false,
                priorities: false,
            });
            client.declare(&name, durable, &[])?;
            recorder.note(Event::DeclareOk { queue: queue() });
            client.bind(&name, CHURN, &name)?;
            let mut pending = VecDeque::new();
            for _ in 0..3 {
                let id = recorder.id();
                let (queues, persistent) = (vec![queue()], true);
                recorder.note(Event::Publish {
                    publisher,
                    id,
                    queues,
                    persistent,
                    priority: 0,
                    expires: false,
                    tx: None,
                });
                client.publish(CHURN, &name, Properties { persistent, ..Properties::default() }, &shared.body(id));
                sequence += 1;
                pending.push_back((sequence, id));
            }
            client.flush()?;
            let end = Instant::now() + FAREWELL;
            while !pending.is_empty() && Instant::now() < end {
                match client.next(Duration::from_millis(50))? {
                    Some(Incoming::Ack { tag, multiple }) => {
                        answered(&mut pending, tag, multiple, |id| recorder.note(Event::Confirm { id }));
                    }
                    Some(Incoming::Nack { tag, multiple }) => {
                        answered(&mut pending, tag, multiple, |id| recorder.note(Event::Nack { id }));
                    }
                    _ => {}
                }
            }
            there.push(name);
        } else if !there.is_empty() {
            let at = usize::try_from(shared.random.below(there.len() as u64)).unwrap_or(0);
            let queue = || there[at].clone();
            if shared.random.chance(30) {
                recorder.note(Event::Purge { queue: queue() });
                client.purge(&there[at])?;
                recorder.note(Event::PurgeOk { queue: queue() });
            } else {
                recorder.note(Event::Delete { queue: queue() });
                client.delete(&there[at])?;
                recorder.note(Event::DeleteOk { queue: queue() });
                there.swap_remove(at);
            }
        }
        std::thread::sleep(Duration::from_micros(shared.random.below(20_000)));
    }
    client.close()
}
