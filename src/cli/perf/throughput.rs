//! Publishers and consumers.

use super::Common;
use super::client::{Client, Failure, Outcome, parse};
use super::report::{self, Latency, Meter, Progress, round};
use crate::amqp::frame::{self, Frame};
use crate::amqp::properties::{ContentHeader, FIXED_BYTES};
use crate::amqp::{Table, Value, method};
use amq_protocol::protocol::{AMQPClass, basic, confirm, exchange, queue};
use clap::Args;
use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use std::io::Write;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Octets written at once when nothing holds a publisher back.
const WRITE_BYTES: usize = 128 << 10;
/// One message in so many carries the time it was sent.
const SAMPLE: u64 = 16;

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Connections that publish
    #[arg(long, default_value_t = 1)]
    publishers: u32,
    /// Connections that consume
    #[arg(long, default_value_t = 1)]
    consumers: u32,
    /// Octets of a message's body
    #[arg(long, default_value_t = 16)]
    size: usize,
    /// How long to publish, unless --messages is given
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// How many messages to publish, or with no publishers to consume, in all
    #[arg(long)]
    messages: Option<u64>,
    /// The queue; it stays afterwards. Without it one is made and deleted
    #[arg(long)]
    queue: Option<String>,
    /// Spread over so many queues, named as --queue with a number behind
    #[arg(long, default_value_t = 1)]
    queue_count: u32,
    /// Declare the queue durable
    #[arg(long)]
    queue_durable: bool,
    /// The queue's arguments: name=value, separated by commas
    #[arg(long, value_delimiter = ',')]
    queue_args: Vec<String>,
    /// Publish to this exchange instead of the default one
    #[arg(long, default_value = "")]
    exchange: String,
    /// Declare the exchange with this type, and bind the queue
    #[arg(long)]
    exchange_type: Option<String>,
    /// The routing key; a queue's name if not given. %d stands for the number of the publisher, and of the queue it is bound
    /// with
    #[arg(long)]
    routing_key: Option<String>,
    /// Publish persistent messages
    #[arg(long)]
    persistent: bool,
    /// Give each message this time to live, in ms
    #[arg(long)]
    ttl: Option<u64>,
    /// Add up to so many ms to --ttl, more or less for each message
    #[arg(long, default_value_t = 0, requires = "ttl")]
    ttl_spread: u64,
    /// Give messages the priorities 0 to this less one, in turn; 0: none. Declare the queue for them with
    /// --queue-args x-max-priority=…
    #[arg(long, default_value_t = 0, conflicts_with = "verify")]
    priorities: u8,
    /// Ask for confirms, and keep so many messages unconfirmed a publisher
    #[arg(long, default_value_t = 0)]
    confirms: u64,
    /// Acknowledge every so many messages at once; 0: automatic acknowledgement
    #[arg(long, default_value_t = 0)]
    ack_every: u64,
    /// Unacknowledged messages a consumer; 0: any number
    #[arg(long, default_value_t = 0)]
    prefetch: u16,
    /// Messages a second of each publisher; 0: as many as go
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Have unroutable messages returned
    #[arg(long)]
    mandatory: bool,
    /// Check each body's content, and the order of each publisher's messages
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    publishers: u32,
    consumers: u32,
    size: usize,
    persistent: bool,
    ttl_ms: Option<u64>,
    ttl_spread_ms: u64,
    priorities: u8,
    confirms: u64,
    ack_every: u64,
    prefetch: u16,
    seconds: f64,
    published: u64,
    consumed: u64,
    published_per_s: f64,
    consumed_per_s: f64,
    latency_us: Option<Latency>,
    confirm_latency_us: Option<Latency>,
    broker_cpu_us_per_message: Option<f64>,
    broker_rss_bytes: Option<u64>,
    returned: u64,
    nacked: u64,
    errors: u64,
}

/// What all threads of a run share.
#[derive(Debug)]
struct Run {
    options: Options,
    began: Instant,
    stop: AtomicBool,
    published: AtomicU64,
    consumed: AtomicU64,
    returned: AtomicU64,
    nacked: AtomicU64,
    /// Bodies that were not what was sent, or out of order.
    errors: AtomicU64,
    /// When the last message was published and consumed, in ns since the beginning.
    last_published: AtomicU64,
    last_consumed: AtomicU64,
    latency: Mutex<Histogram<u64>>,
    confirm_latency: Mutex<Histogram<u64>>,
}

impl Run {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

pub fn run(options: &Options) -> Outcome<()> {
    if options.publishers + options.consumers == 0 {
        return Err(Failure::Usage("nothing to do: no publishers and no consumers".into()));
    }
    if options.verify && options.size < 16 {
        return Err(Failure::Usage("--verify needs bodies of at least 16 octets (--size)".into()));
    }
    let names = names(options);
    let mut control = Client::connect(&options.common.uri)?;
    declare(&mut control, options, &names)?;
    let histogram = || Histogram::new(3).map_err(|error| Failure::Usage(error.to_string()));
    let run = Arc::new(Run {
        options: options.clone(),
        began: Instant::now(),
        stop: AtomicBool::new(false),
        published: AtomicU64::new(0),
        consumed: AtomicU64::new(0),
        returned: AtomicU64::new(0),
        nacked: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        last_published: AtomicU64::new(0),
        last_consumed: AtomicU64::new(0),
        latency: Mutex::new(histogram()?),
        confirm_latency: Mutex::new(histogram()?),
    });
    let queue = |index: u32| names[index as usize % names.len()].clone();
    let meter = Meter::begin(options.common.pid);
    let consumers = (0..options.consumers).map(|index| consumer(&run, queue(index))).collect::<Outcome<Vec<_>>>()?;
    let publishers =
        (0..options.publishers).map(|index| publisher(&run, index, queue(index))).collect::<Outcome<Vec<_>>>()?;
    let outcome = watch(&run, publishers, consumers);
    let cpu = meter.cpu_us_per(run.published.load(Ordering::Relaxed).max(run.consumed.load(Ordering::Relaxed)));
    let rss = meter.rss();
    if options.queue.is_none() {
        for name in &names {
            let delete = queue::Delete { queue: crate::amqp::short(name), ..queue::Delete::default() };
            control.request(1, &AMQPClass::Queue(queue::AMQPMethod::Delete(delete)))?;
        }
    }
    control.close();
    outcome?;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let rate = |count: u64, nanos: u64| if nanos == 0 { 0.0 } else { (count as f64 / (nanos as f64 / 1e9)).round() };
    let (published, consumed) = (count(&run.published), count(&run.consumed));
    let last = count(&run.last_published).max(count(&run.last_consumed));
    let (latency, confirm_latency) = (Latency::of(&run.latency.lock()), Latency::of(&run.confirm_latency.lock()));
    report::print(
        &options.common,
        &Report {
            publishers: options.publishers,
            consumers: options.consumers,
            size: options.size,
            persistent: options.persistent,
            ttl_ms: options.ttl,
            ttl_spread_ms: options.ttl_spread,
            priorities: options.priorities,
            confirms: options.confirms,
            ack_every: options.ack_every,
            prefetch: options.prefetch,
            seconds: round(last as f64 / 1e9),
            published,
            consumed,
            published_per_s: rate(published, count(&run.last_published)),
            consumed_per_s: rate(consumed, count(&run.last_consumed)),
            latency_us: latency,
            confirm_latency_us: confirm_latency,
            broker_cpu_us_per_message: cpu,
            broker_rss_bytes: rss,
            returned: count(&run.returned),
            nacked: count(&run.nacked),
            errors: count(&run.errors),
        },
    );
    match count(&run.errors) {
        0 => Ok(()),
        errors => Err(Failure::Broken(format!("{errors} messages were damaged or out of order"))),
    }
}

fn names(options: &Options) -> Vec<String> {
    let base = options.queue.clone().unwrap_or_else(super::unique_name);
    match options.queue_count {
        0 | 1 => vec![base],
        count => (1..=count).map(|number| format!("{base}-{number}")).collect(),
    }
}

fn declare(control: &mut Client, options: &Options, names: &[String]) -> Outcome<()> {
    let arguments = arguments(&options.queue_args)?;
    if let Some(kind) = &options.exchange_type {
        let declare = exchange::Declare {
            exchange: crate::amqp::short(&options.exchange),
            kind: crate::amqp::short(kind),
            durable: options.queue_durable,
            ..exchange::Declare::default()
        };
        control.request(1, &AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)))?;
    }
    for (number, name) in (0..).zip(names) {
        let declare = queue::Declare {
            queue: crate::amqp::short(name),
            durable: options.queue_durable,
            arguments: arguments.clone(),
            ..queue::Declare::default()
        };
        control.request(1, &AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))?;
        if !options.exchange.is_empty() {
            let bind = queue::Bind {
                queue: crate::amqp::short(name),
                exchange: crate::amqp::short(&options.exchange),
                routing_key: crate::amqp::short(&match &options.routing_key {
                    Some(pattern) => numbered(pattern, number),
                    None => name.clone(),
                }),
                ..queue::Bind::default()
            };
            control.request(1, &AMQPClass::Queue(queue::AMQPMethod::Bind(bind)))?;
        }
    }
    Ok(())
}

fn numbered(pattern: &str, number: u32) -> String {
    pattern.replace("%d", &number.to_string())
}

/// `name=value` pairs; values are integers, booleans or text.
fn arguments(pairs: &[String]) -> Outcome<Table> {
    let mut table = Table::default();
    for pair in pairs {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("--queue-args {pair}: write it as name=value")))?;
        let value = match (value.parse::<i64>(), value) {
            (Ok(number), _) => Value::LongLongInt(number),
            (_, "true") => Value::Boolean(true),
            (_, "false") => Value::Boolean(false),
            _ => Value::LongString(value.into()),
        };
        table.insert(crate::amqp::short(name), value);
    }
    Ok(table)
}

/// Waits for the end, showing how it goes.
fn watch(
    run: &Arc<Run>,
    publishers: Vec<JoinHandle<Outcome<()>>>,
    consumers: Vec<JoinHandle<Outcome<()>>>,
) -> Outcome<()> {
    let options = &run.options;
    let progress = Progress::new(&options.common);
    let end = options.messages.is_none().then(|| run.began + Duration::from_secs_f64(options.seconds));
    let (mut shown, mut before) = (Instant::now(), (0, 0));
    let mut quiet_since = (Instant::now(), 0);
    loop {
        std::thread::sleep(Duration::from_millis(5));
        // Looked at first, so that the counts are those after the last publish.
        let published = publishers.iter().all(JoinHandle::is_finished);
        let now = (run.published.load(Ordering::Relaxed), run.consumed.load(Ordering::Relaxed));
        if shown.elapsed() >= Duration::from_secs(1) {
            let seconds = shown.elapsed().as_secs_f64();
            let rate = |now: u64, before: u64| ((now - before) as f64 / seconds).round();
            progress.show(&format!(
                "{:>4.0} s  published {:>9}/s  consumed {:>9}/s",
                run.began.elapsed().as_secs_f64(),
                rate(now.0, before.0),
                rate(now.1, before.1)
            ));
            (shown, before) = (Instant::now(), now);
        }
        if now.1 != quiet_since.1 {
            quiet_since = (Instant::now(), now.1);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            run.stop.store(true, Ordering::Relaxed);
        }
        let everything = match options.messages {
            Some(wanted) if options.publishers == 0 => wanted,
            _ => now.0,
        };
        let consumed = options.consumers == 0
            || now.1 >= everything && (options.publishers > 0 || options.messages.is_some())
            || consumers.iter().any(JoinHandle::is_finished)
            || options.publishers == 0 && end.is_some_and(|end| Instant::now() >= end)
            // Returned, dropped or left by another consumer: it does not come any more.
            || published && quiet_since.0.elapsed() > Duration::from_secs(5);
        if published && consumed {
            break;
        }
        if consumers.iter().any(JoinHandle::is_finished) {
            run.stop.store(true, Ordering::Relaxed);
        }
    }
    run.stop.store(true, Ordering::Relaxed);
    progress.end();
    let join = |thread: JoinHandle<Outcome<()>>| {
        thread.join().unwrap_or_else(|_| Err(Failure::Broken("a thread of the generator failed".into())))
    };
    publishers.into_iter().try_for_each(join)?;
    consumers.into_iter().try_for_each(join)
}

// ── Publishing ────────────────────────────────────────────────────────────────────────────────────────────────────

/// The frames of one message, again and again; what differs is written into them.
struct Template {
    frames: Vec<u8>,
    /// Where the priority is, and how many there are.
    priority: Option<(usize, u8)>,
    /// Where the expiration's digits are, and what it may be.
    expiration: Option<(Range<usize>, RangeInclusive<u64>)>,
    body_at: usize,
}

impl Template {
    fn new(options: &Options, key: &str, frame_max: u32) -> Self {
        let mut frames = Vec::new();
        method::write_publish(&mut frames, 1, &options.exchange, key, options.mandatory);
        // Flags, and after them the properties in the order of their flags.
        let mut properties = vec![0, 0];
        let at = frames.len() + frame::PREFIX_BYTES + FIXED_BYTES;
        if options.persistent {
            properties[0] |= 0x10;
            properties.push(2);
        }
        let priority = (options.priorities > 0).then(|| {
            properties[0] |= 0x08;
            properties.push(0);
            (at + properties.len() - 1, options.priorities)
        });
        let expiration = options.ttl.map(|ttl| {
            properties[0] |= 0x01;
            // Zeros in front make all equally long.
            let times = ttl..=ttl.saturating_add(options.ttl_spread);
            method::short_string(&mut properties, &"0".repeat(times.end().to_string().len()));
            (at + properties.len() - times.end().to_string().len()..at + properties.len(), times)
        });
        frame::write(&mut frames, frame::HEADER, 1, |out| {
            ContentHeader::write(out, options.size as u64, &properties);
        });
        let body_at = frames.len() + frame::PREFIX_BYTES;
        let body: Vec<u8> = (0..options.size).map(pattern).collect();
        frame::write_body(&mut frames, 1, &body, frame_max);
        Self { frames, priority, expiration, body_at }
    }

    /// Appends a message. A body of 8 octets or more begins with the time it was sent or 0, one of 16 goes on with the
    /// publisher and its sequence number.
    fn write(&self, out: &mut Vec<u8>, size: usize, sent: u64, publisher: u32, sequence: u64) {
        let start = out.len();
        out.extend_from_slice(&self.frames);
        let frames = &mut out[start..];
        if let Some((at, count)) = self.priority {
            // Below a number of 8 bits.
            frames[at] = u8::try_from(sequence % u64::from(count)).unwrap_or(0);
        }
        if let Some((at, times)) = &self.expiration {
            let mut time = times.start() + scattered(sequence, times.end() - times.start());
            for digit in frames[at.clone()].iter_mut().rev() {
                *digit = b'0' + u8::try_from(time % 10).unwrap_or(0);
                time /= 10;
            }
        }
        let body = &mut frames[self.body_at..];
        if size >= 8 {
            body[..8].copy_from_slice(&sent.to_be_bytes());
        }
        if size >= 16 {
            let number = u64::from(publisher) << 40 | sequence;
            body[8..16].copy_from_slice(&number.to_be_bytes());
        }
    }
}

/// A number up to `max`; neighbours get numbers far from each other.
fn scattered(sequence: u64, max: u64) -> u64 {
    match max.checked_add(1) {
        Some(count) => sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) % count,
        None => sequence,
    }
}

/// The whole part of a number that is not negative.
#[expect(clippy::cast_possible_truncation, reason = "a count of messages, far below 2^64")]
fn whole(number: f64) -> u64 {
    number as u64
}

fn pattern(at: usize) -> u8 {
    b'a' + u8::try_from(at % 26).unwrap_or(0)
}

/// Confirms that have come, and the wait for them.
#[derive(Debug, Default)]
struct Window {
    confirmed: Mutex<u64>,
    moved: Condvar,
}

fn publisher(run: &Arc<Run>, index: u32, key: String) -> Outcome<JoinHandle<Outcome<()>>> {
    let options = &run.options;
    let mut client = Client::connect(&options.common.uri)?;
    if options.confirms > 0 {
        let select = confirm::AMQPMethod::Select(confirm::Select { nowait: false });
        client.request(1, &AMQPClass::Confirm(select))?;
    }
    let share = options.messages.map(|all| {
        let (all, publishers) = (all, u64::from(options.publishers));
        all / publishers + u64::from(u64::from(index) < all % publishers)
    });
    let key = options.routing_key.as_ref().map_or(key, |pattern| numbered(pattern, index));
    let run = Arc::clone(run);
    Ok(std::thread::spawn(move || publish(&run, client, index, &key, share)))
}

fn publish(run: &Arc<Run>, client: Client, index: u32, key: &str, share: Option<u64>) -> Outcome<()> {
    let options = &run.options;
    let template = Template::new(options, key, client.frame_max);
    let Client { mut stream, mut reader, .. } = client;
    let window = Arc::new(Window::default());
    // The sending times of unconfirmed messages, by sequence number.
    let times = Arc::new(Mutex::new(std::collections::VecDeque::<(u64, u64)>::new()));
    let listener = {
        let (run, window, times) = (Arc::clone(run), Arc::clone(&window), Arc::clone(&times));
        std::thread::spawn(move || -> Outcome<()> {
            loop {
                let outcome = reader.frames(|frame| {
                    listen(&run, &frame, &window, &times)?;
                    Ok(true)
                });
                if let Err(failure) = outcome {
                    window.moved.notify_all();
                    return if run.stop.load(Ordering::Relaxed) { Ok(()) } else { Err(failure) };
                }
            }
        })
    };
    let mut out = Vec::with_capacity(2 * WRITE_BYTES);
    let batch = (WRITE_BYTES / template.frames.len()).max(1) as u64;
    let mut sent = 0;
    let mut outcome = Ok(());
    while share.is_none_or(|share| sent < share) && !run.stop.load(Ordering::Relaxed) && !listener.is_finished() {
        let mut count = share.map_or(batch, |share| batch.min(share - sent));
        if options.rate > 0.0 {
            let due = whole(run.began.elapsed().as_secs_f64() * options.rate);
            if due <= sent {
                std::thread::sleep(Duration::from_secs_f64(0.5 / options.rate).min(Duration::from_millis(1)));
                continue;
            }
            count = count.min(due - sent);
        }
        if options.confirms > 0 {
            let mut confirmed = window.confirmed.lock();
            if sent - *confirmed >= options.confirms {
                window.moved.wait_for(&mut confirmed, Duration::from_millis(100));
                continue;
            }
            count = count.min(options.confirms - (sent - *confirmed));
        }
        out.clear();
        let now = run.now();
        for sequence in sent..sent + count {
            let sample = options.rate > 0.0 || sequence % SAMPLE == 0;
            template.write(&mut out, options.size, if sample { now } else { 0 }, index, sequence);
        }
        if options.confirms > 0 {
            times.lock().push_back((sent + count, now));
        }
        if let Err(error) = stream.write_all(&out) {
            outcome = Err(error.into());
            break;
        }
        sent += count;
        run.published.fetch_add(count, Ordering::Relaxed);
        run.last_published.fetch_max(run.now(), Ordering::Relaxed);
    }
    // Everything is confirmed before the end.
    if options.confirms > 0 {
        let end = Instant::now() + Duration::from_secs(60);
        let mut confirmed = window.confirmed.lock();
        while *confirmed < sent && !listener.is_finished() && Instant::now() < end {
            window.moved.wait_for(&mut confirmed, Duration::from_millis(100));
        }
        run.last_published.fetch_max(run.now(), Ordering::Relaxed);
    } else if outcome.is_ok() {
        // What is still in the socket's buffers is taken before the broker hears of the end.
        let mut ask = Vec::new();
        let qos = basic::AMQPMethod::Qos(basic::Qos { prefetch_count: 0, global: false });
        method::write(&mut ask, 1, &AMQPClass::Basic(qos));
        let before = *window.confirmed.lock();
        if stream.write_all(&ask).is_ok() {
            let mut answered = window.confirmed.lock();
            while *answered == before && !listener.is_finished() {
                window.moved.wait_for(&mut answered, Duration::from_millis(100));
            }
            run.last_published.fetch_max(run.now(), Ordering::Relaxed);
        }
    }
    if listener.is_finished() {
        return listener.join().unwrap_or(Ok(())).and(outcome);
    }
    // The listener ends with the socket; its failure then is no failure of the run.
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = listener.join();
    outcome
}

/// What a broker says to a publisher.
fn listen(
    run: &Run,
    frame: &Frame<'_>,
    window: &Window,
    times: &Mutex<std::collections::VecDeque<(u64, u64)>>,
) -> Outcome<()> {
    if frame.kind != frame::METHOD {
        return Ok(());
    }
    match method::id(frame.payload) {
        Some(id @ ((60, 80) | (60, 120))) => {
            let tag = frame.payload.get(4..12).and_then(|octets| octets.try_into().ok()).map_or(0, u64::from_be_bytes);
            let now = run.now();
            let mut confirmed = window.confirmed.lock();
            if id == (60, 120) {
                run.nacked.fetch_add(tag.saturating_sub(*confirmed), Ordering::Relaxed);
            }
            // Brokers may confirm out of order; the window then opens with the highest tag, a little early.
            *confirmed = (*confirmed).max(tag);
            drop(confirmed);
            window.moved.notify_all();
            let mut times = times.lock();
            let mut latency = run.confirm_latency.lock();
            while let Some((last, sent)) = times.front().copied()
                && last <= tag
            {
                times.pop_front();
                // A histogram of 64 bits takes any number of µs.
                let _ = latency.record((now - sent) / 1000);
            }
        }
        Some((60, 50)) => drop(run.returned.fetch_add(1, Ordering::Relaxed)),
        Some((60, 11)) => {
            *window.confirmed.lock() += 1;
            window.moved.notify_all();
        }
        Some((10, 60 | 61)) => {}
        _ => drop(parse(*frame)?),
    }
    Ok(())
}

// ── Consuming ─────────────────────────────────────────────────────────────────────────────────────────────────────

fn consumer(run: &Arc<Run>, queue: String) -> Outcome<JoinHandle<Outcome<()>>> {
    let options = &run.options;
    let mut client = Client::connect(&options.common.uri)?;
    if options.prefetch > 0 {
        client.basic(basic::AMQPMethod::Qos(basic::Qos { prefetch_count: options.prefetch, global: false }))?;
    }
    let consume = basic::Consume {
        queue: crate::amqp::short(&queue),
        no_ack: options.ack_every == 0,
        ..basic::Consume::default()
    };
    client.basic(basic::AMQPMethod::Consume(consume))?;
    let run = Arc::clone(run);
    Ok(std::thread::spawn(move || consume_all(&run, client)))
}

/// A delivery as its frames come in.
#[derive(Default)]
struct Receiving {
    tag: u64,
    missing: u64,
    at: usize,
    head: [u8; 16],
    wrong: bool,
}

fn consume_all(run: &Arc<Run>, client: Client) -> Outcome<()> {
    let options = &run.options;
    let Client { mut stream, mut reader, .. } = client;
    // Wakes now and then, to see whether it is over.
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut receiving = Receiving::default();
    let (mut unacked, mut acks) = (0, Vec::new());
    let mut next = vec![0_u64; options.publishers.max(1) as usize];
    let mut latency: Histogram<u64> = Histogram::new(3).map_err(|error| Failure::Usage(error.to_string()))?;
    loop {
        let mut count = 0;
        let outcome = reader.frames(|frame| {
            let whole = match frame.kind {
                frame::METHOD => {
                    if method::id(frame.payload) == Some((60, 60)) {
                        receiving.tag = delivery_tag(frame.payload);
                    } else if method::id(frame.payload) == Some((60, 30)) {
                        return Err(Failure::Broken("the broker cancelled the consumer: its queue is gone".into()));
                    } else {
                        parse(frame)?;
                    }
                    false
                }
                frame::HEADER => {
                    receiving.missing = ContentHeader::parse(frame.payload).map_or(0, |header| header.body_bytes);
                    (receiving.at, receiving.wrong) = (0, false);
                    receiving.missing == 0
                }
                _ => {
                    receive(&mut receiving, frame.payload, options.verify);
                    receiving.missing == 0
                }
            };
            if whole {
                count += 1;
                let [sent, number] = [0, 8]
                    .map(|at| receiving.head[at..].first_chunk::<8>().map_or(0, |octets| u64::from_be_bytes(*octets)));
                if options.size >= 8 && sent > 0 && options.publishers > 0 {
                    let _ = latency.record(run.now().saturating_sub(sent) / 1000);
                }
                if options.verify {
                    let (publisher, sequence) = ((number >> 40) as usize, number & ((1 << 40) - 1));
                    // Several consumers of a queue see parts of it, each in order.
                    let order = next.get_mut(publisher).is_some_and(|next| {
                        let right = sequence >= *next;
                        *next = sequence + 1;
                        right
                    });
                    if receiving.wrong || !order {
                        run.errors.fetch_add(1, Ordering::Relaxed);
                    }
                }
                if options.ack_every > 0 {
                    unacked += 1;
                    if unacked >= options.ack_every {
                        method::write_ack(&mut acks, 1, receiving.tag, true);
                        unacked = 0;
                    }
                }
            }
            Ok(true)
        });
        if count > 0 {
            run.consumed.fetch_add(count, Ordering::Relaxed);
            run.last_consumed.fetch_max(run.now(), Ordering::Relaxed);
        }
        if !acks.is_empty() {
            stream.write_all(&acks)?;
            acks.clear();
        }
        match outcome {
            Ok(()) => {}
            // Nothing came for a while.
            Err(Failure::Broken(text)) if text.contains("temporarily unavailable") || text.contains("timed out") => {
                if unacked > 0 {
                    method::write_ack(&mut acks, 1, receiving.tag, true);
                    stream.write_all(&acks)?;
                    acks.clear();
                    unacked = 0;
                }
            }
            Err(failure) => return Err(failure),
        }
        if run.stop.load(Ordering::Relaxed) {
            run.latency.lock().add(&latency).map_err(|error| Failure::Usage(error.to_string()))?;
            return Ok(());
        }
    }
}

fn receive(receiving: &mut Receiving, piece: &[u8], verify: bool) {
    for (to, from) in receiving.head.iter_mut().skip(receiving.at).zip(piece) {
        *to = *from;
    }
    if verify {
        let start = 16_usize.saturating_sub(receiving.at).min(piece.len());
        let at = receiving.at;
        receiving.wrong |= piece[start..].iter().enumerate().any(|(i, &octet)| octet != pattern(at + start + i));
    }
    receiving.at += piece.len();
    receiving.missing = receiving.missing.saturating_sub(piece.len() as u64);
}

/// The tag in a basic.deliver: behind the ids and the consumer tag.
fn delivery_tag(payload: &[u8]) -> u64 {
    let start = 5 + usize::from(payload.get(4).copied().unwrap_or(0));
    payload.get(start..start + 8).and_then(|octets| octets.try_into().ok()).map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::properties::Properties;

    #[test]
    fn arguments_have_the_type_they_look_like() {
        let table =
            arguments(&["x-max-length=5".into(), "x-single-active-consumer=true".into(), "a=b".into()]).unwrap();
        assert_eq!(table.inner().get("x-max-length"), Some(&Value::LongLongInt(5)));
        assert_eq!(table.inner().get("x-single-active-consumer"), Some(&Value::Boolean(true)));
        assert_eq!(table.inner().get("a"), Some(&Value::LongString("b".into())));
        assert!(arguments(&["nothing".into()]).is_err());
    }

    /// What `leveret perf throughput` with these flags publishes first: expiration, priority, and the body's number.
    fn published(flags: &[&str], count: u64) -> Vec<(Option<u64>, Option<u8>, u64)> {
        let command = Options::augment_args(clap::Command::new("throughput"));
        let matches = command.try_get_matches_from([&["throughput"], flags].concat()).unwrap();
        let options = <Options as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        let template = Template::new(&options, "q", 131_072);
        let mut out = Vec::new();
        (0..count).for_each(|sequence| template.write(&mut out, options.size, 0, 3, sequence));
        let mut rest = &out[..];
        let mut found = Vec::new();
        let mut kept = (None, None);
        while let Some((frame, length)) = frame::split(rest, 0).unwrap() {
            rest = &rest[length..];
            if frame.kind == frame::HEADER {
                let header = ContentHeader::parse(frame.payload).unwrap();
                assert_eq!(header.body_bytes, options.size as u64);
                let properties = Properties::parse(header.properties).unwrap();
                assert_eq!(properties.persistent(), options.persistent);
                let expiration = properties.expiration.map(|text| str::from_utf8(text).unwrap().parse().unwrap());
                kept = (expiration, properties.priority);
            } else if frame.kind == frame::BODY {
                let number = u64::from_be_bytes(*frame.payload[8..].first_chunk().unwrap());
                assert_eq!(number >> 40, 3);
                found.push((kept.0, kept.1, number & ((1 << 40) - 1)));
            }
        }
        assert!(rest.is_empty());
        found
    }

    #[test]
    fn messages_have_the_properties_that_the_flags_say() {
        let numbered = |count| (0..count).map(|number| (None, None, number)).collect::<Vec<_>>();
        assert_eq!(published(&[], 3), numbered(3));
        assert_eq!(published(&["--persistent"], 3), numbered(3));
        assert_eq!(published(&["--ttl", "5000"], 1), [(Some(5000), None, 0)]);
        let priorities: Vec<_> = published(&["--priorities", "3", "--persistent"], 5);
        assert_eq!(priorities.iter().map(|found| found.1.unwrap()).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
        let both = published(&["--ttl", "7", "--priorities", "2"], 2);
        assert_eq!(both, [(Some(7), Some(0), 0), (Some(7), Some(1), 1)]);
    }

    #[test]
    fn spread_times_to_live_stay_within_their_bounds_and_differ() {
        let times = published(&["--ttl", "95", "--ttl-spread", "10000"], 1000);
        let times: Vec<u64> = times.iter().map(|found| found.0.unwrap()).collect();
        assert!(times.iter().all(|time| (95..=10_095).contains(time)), "{times:?}");
        let different: std::collections::HashSet<_> = times.iter().collect();
        assert!(different.len() > 900, "{} of 1000", different.len());
        assert!(!times.is_sorted());
    }

    #[test]
    fn a_bodys_pieces_are_verified_wherever_it_is_cut() {
        let mut body: Vec<u8> = (0..100).map(pattern).collect();
        for cut in 0..100 {
            let mut receiving = Receiving { missing: 100, ..Receiving::default() };
            receive(&mut receiving, &body[..cut], true);
            receive(&mut receiving, &body[cut..], true);
            assert!(!receiving.wrong && receiving.missing == 0, "cut at {cut}");
        }
        body[57] ^= 1;
        let mut receiving = Receiving { missing: 100, ..Receiving::default() };
        receive(&mut receiving, &body, true);
        assert!(receiving.wrong);
    }
}
