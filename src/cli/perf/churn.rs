//! Connections, queues and bindings that come and go.

use super::Common;
use super::client::{Client, Failure, Outcome, parse};
use super::report::{self, Meter, Progress, round};
use crate::amqp::{frame, method};
use amq_protocol::protocol::{AMQPClass, exchange, queue};
use clap::Args;
use serde::Serialize;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub struct Connections {
    #[command(flatten)]
    common: Common,
    /// How many to open and keep
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// Open and close instead, as often as goes
    #[arg(long)]
    churn: bool,
    /// How long to open and close
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many do so at a time
    #[arg(long, default_value_t = 4)]
    threads: u32,
}

#[derive(Debug, Args)]
pub struct Queues {
    #[command(flatten)]
    common: Common,
    /// How many to declare and delete
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// Durable ones
    #[arg(long)]
    durable: bool,
    /// How many connections share the work
    #[arg(long, default_value_t = 4)]
    threads: u32,
    /// Requests of a connection that wait for their answers
    #[arg(long, default_value_t = 32)]
    in_flight: u32,
}

#[derive(Debug, Args)]
pub struct Bindings {
    #[command(flatten)]
    common: Common,
    /// How many to make and remove
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// The exchange's type
    #[arg(long, default_value = "topic")]
    exchange_type: String,
    /// A durable exchange and queue
    #[arg(long)]
    durable: bool,
    /// How many connections share the work
    #[arg(long, default_value_t = 4)]
    threads: u32,
    /// Requests of a connection that wait for their answers
    #[arg(long, default_value_t = 32)]
    in_flight: u32,
}

#[derive(Debug, Serialize)]
struct ConnectionsReport {
    connections: u64,
    seconds: f64,
    per_s: f64,
    broker_cpu_us_per_connection: Option<f64>,
    broker_rss_bytes: Option<u64>,
    broker_rss_bytes_per_connection: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    count: u32,
    made_per_s: f64,
    removed_per_s: f64,
    broker_cpu_us_per_request: Option<f64>,
    broker_rss_bytes: Option<u64>,
}

pub fn connections(options: &Connections) -> Outcome<()> {
    let meter = Meter::begin(options.common.pid);
    let before = meter.rss();
    let progress = Progress::new(&options.common);
    let opened = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    let share = options.count.div_ceil(options.threads.max(1));
    let kept = in_threads(options.threads, |_| {
        let mut kept = Vec::new();
        while if options.churn { Instant::now() < end } else { kept.len() < share as usize } {
            let client = Client::connect(&options.common.uri)?;
            if opened.fetch_add(1, Ordering::Relaxed) % 500 == 499 {
                progress.show(&format!("{} connections", opened.load(Ordering::Relaxed)));
            }
            if options.churn {
                client.close();
            } else {
                // Only the socket is kept: a thousand read buffers would be the generator's own memory.
                kept.push(client.stream);
            }
        }
        Ok(kept)
    })?;
    let (seconds, opened) = (meter.seconds(), opened.into_inner());
    progress.end();
    let after = meter.rss();
    let grown = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    report::print(
        &options.common,
        &ConnectionsReport {
            connections: opened,
            seconds: round(seconds),
            per_s: (opened as f64 / seconds).round(),
            broker_cpu_us_per_connection: meter.cpu_us_per(opened),
            broker_rss_bytes: after,
            broker_rss_bytes_per_connection: grown.filter(|_| !options.churn).map(|grown| grown / opened.max(1)),
        },
    );
    drop(kept);
    Ok(())
}

pub fn queues(options: &Queues) -> Outcome<()> {
    let prefix = super::unique_name();
    let name = |number: u32| crate::amqp::short(&format!("{prefix}-{number}"));
    let declare = |number: u32| {
        let declare = queue::Declare { queue: name(number), durable: options.durable, ..queue::Declare::default() };
        AMQPClass::Queue(queue::AMQPMethod::Declare(declare))
    };
    let delete = |number: u32| {
        let delete = queue::Delete { queue: name(number), ..queue::Delete::default() };
        AMQPClass::Queue(queue::AMQPMethod::Delete(delete))
    };
    let Queues { common, count, threads, in_flight, .. } = options;
    both(common, *count, *threads, *in_flight, declare, delete)
}

pub fn bindings(options: &Bindings) -> Outcome<()> {
    let name = super::unique_name();
    let short = crate::amqp::short;
    let mut control = Client::connect(&options.common.uri)?;
    let declare = exchange::Declare {
        exchange: short(&name),
        kind: short(&options.exchange_type),
        durable: options.durable,
        ..exchange::Declare::default()
    };
    control.request(1, &AMQPClass::Exchange(exchange::AMQPMethod::Declare(declare)))?;
    let declare = queue::Declare { queue: short(&name), durable: options.durable, ..queue::Declare::default() };
    control.request(1, &AMQPClass::Queue(queue::AMQPMethod::Declare(declare)))?;
    let key = |number: u32| short(&format!("key.{}.{number}", number % 100));
    let bind = |number: u32| {
        let bind = queue::Bind {
            queue: short(&name),
            exchange: short(&name),
            routing_key: key(number),
            ..queue::Bind::default()
        };
        AMQPClass::Queue(queue::AMQPMethod::Bind(bind))
    };
    let unbind = |number: u32| {
        let unbind = queue::Unbind {
            queue: short(&name),
            exchange: short(&name),
            routing_key: key(number),
            ..queue::Unbind::default()
        };
        AMQPClass::Queue(queue::AMQPMethod::Unbind(unbind))
    };
    let Bindings { common, count, threads, in_flight, .. } = options;
    both(common, *count, *threads, *in_flight, bind, unbind)?;
    let delete = queue::Delete { queue: short(&name), ..queue::Delete::default() };
    control.request(1, &AMQPClass::Queue(queue::AMQPMethod::Delete(delete)))?;
    let delete = exchange::Delete { exchange: short(&name), ..exchange::Delete::default() };
    control.request(1, &AMQPClass::Exchange(exchange::AMQPMethod::Delete(delete)))?;
    control.close();
    Ok(())
}

/// Makes `count` things and removes them again, and reports both.
fn both(
    common: &Common,
    count: u32,
    threads: u32,
    in_flight: u32,
    make: impl Fn(u32) -> AMQPClass + Sync,
    remove: impl Fn(u32) -> AMQPClass + Sync,
) -> Outcome<()> {
    let meter = Meter::begin(common.pid);
    let progress = Progress::new(common);
    let made = pipeline(common, count, threads, in_flight, &make)?;
    progress.show(&format!("{count} made in {made:.2} s"));
    let rss = meter.rss();
    let removed = pipeline(common, count, threads, in_flight, &remove)?;
    progress.end();
    report::print(
        common,
        &Report {
            count,
            made_per_s: (f64::from(count) / made).round(),
            removed_per_s: (f64::from(count) / removed).round(),
            broker_cpu_us_per_request: meter.cpu_us_per(2 * u64::from(count)),
            broker_rss_bytes: rss,
        },
    );
    Ok(())
}

/// Sends the requests 0 to `count` over several connections; says how many seconds it took.
fn pipeline(
    common: &Common,
    count: u32,
    threads: u32,
    in_flight: u32,
    request: &(impl Fn(u32) -> AMQPClass + Sync),
) -> Outcome<f64> {
    let threads = threads.max(1);
    let clients =
        (0..threads).map(|_| Client::connect(&common.uri).map(parking_lot::Mutex::new)).collect::<Outcome<Vec<_>>>()?;
    let began = Instant::now();
    in_threads(threads, |thread| {
        let mut client = clients[thread as usize].lock();
        let Client { stream, reader, .. } = &mut *client;
        let mut numbers = (thread..count).step_by(threads as usize);
        let mut waiting = 0;
        loop {
            let mut out = Vec::new();
            while waiting < in_flight.max(1) {
                let Some(number) = numbers.next() else { break };
                method::write(&mut out, 1, &request(number));
                waiting += 1;
            }
            stream.write_all(&out)?;
            if waiting == 0 {
                return Ok(());
            }
            reader.frames(|frame| {
                if frame.kind == frame::METHOD {
                    parse(frame)?;
                    waiting -= 1;
                }
                Ok(true)
            })?;
        }
    })?;
    let seconds = began.elapsed().as_secs_f64();
    clients.into_iter().for_each(|client| client.into_inner().close());
    Ok(seconds)
}

/// Runs the same on several threads; the first failure counts.
fn in_threads<T: Send>(threads: u32, work: impl Fn(u32) -> Outcome<T> + Sync) -> Outcome<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads.max(1)).map(|thread| scope.spawn(move || work(thread))).collect();
        running
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(Failure::Broken("a thread of the generator failed".into())))
            })
            .collect()
    })
}
