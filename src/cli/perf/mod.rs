//! `leveret perf`: a load generator for any AMQP 0-9-1 broker.
//!
//! It speaks the project's own codec over blocking sockets, a thread for each direction of each connection: publishes
//! are copied from a template and written many at a time, deliveries are read in place. It must be faster than what it
//! measures.

mod churn;
mod client;
mod process;
mod report;
mod throughput;

use clap::{Args, Parser, Subcommand};
use client::Failure;
use std::process::ExitCode;

/// Measure a broker
#[derive(Debug, Parser)]
pub struct Perf {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// Publish and consume, as fast as possible or at a rate
    Throughput(throughput::Options),
    /// Open connections, and keep them or close them again
    Connections(churn::Connections),
    /// Declare queues and delete them
    Queues(churn::Queues),
    /// Bind a queue many times and unbind it
    Bindings(churn::Bindings),
}

/// Where the broker is, and how to say what was found.
#[derive(Debug, Clone, Args)]
struct Common {
    /// The broker: amqp://user:password@host:port/vhost
    #[arg(long, default_value = "amqp://guest:guest@localhost:5672/%2f", env = "LEVERET_PERF_URI")]
    uri: String,
    /// The broker's process, for its CPU time and memory (this machine only)
    #[arg(long)]
    pid: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// No progress line
    #[arg(long)]
    quiet: bool,
}

/// A name no other run has.
fn unique_name() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("perf-{}-{}", std::process::id(), now.as_micros())
}

/// The broker can't be reached: EX_UNAVAILABLE of sysexits.h.
const EXIT_UNREACHABLE: u8 = 69;

/// Runs a workload and prints its result.
pub fn run(perf: &Perf) -> ExitCode {
    let outcome = match &perf.workload {
        Workload::Throughput(options) => throughput::run(options),
        Workload::Connections(options) => churn::connections(options),
        Workload::Queues(options) => churn::queues(options),
        Workload::Bindings(options) => churn::bindings(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("leveret perf: {failure}");
            ExitCode::from(if matches!(failure, Failure::Unreachable(_)) { EXIT_UNREACHABLE } else { 1 })
        }
    }
}
