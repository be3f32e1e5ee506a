//! Results, for people and for programs.

use super::{Common, process};
use comfy_table::Table;
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Latencies in µs.
#[derive(Debug, Serialize)]
pub struct Latency {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        (!histogram.is_empty()).then(|| Self {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p999: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        })
    }
}

/// Prints a result: one JSON object, or a table.
pub fn print(common: &Common, result: &impl Serialize) {
    let value = serde_json::to_value(result).unwrap_or_default();
    if common.json {
        println!("{value}");
        return;
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
    let empty = Map::new();
    for (name, value) in value.as_object().unwrap_or(&empty) {
        match value {
            Value::Null => {}
            Value::Object(parts) => {
                let parts: Vec<String> = parts.iter().map(|(name, value)| format!("{name} {value}")).collect();
                table.add_row([name.as_str(), &parts.join("  ")]);
            }
            Value::String(text) => drop(table.add_row([name.as_str(), text])),
            value => drop(table.add_row([name.as_str(), &value.to_string()])),
        }
    }
    println!("{table}");
}

/// The broker's CPU time since it was begun.
#[derive(Debug)]
pub struct Meter {
    pid: Option<u32>,
    cpu: Option<Duration>,
    pub began: Instant,
}

impl Meter {
    pub fn begin(pid: Option<u32>) -> Self {
        Self { pid, cpu: pid.and_then(process::cpu), began: Instant::now() }
    }

    /// µs of CPU for each of `count` things.
    pub fn cpu_us_per(&self, count: u64) -> Option<f64> {
        let used = self.pid.and_then(process::cpu)?.checked_sub(self.cpu?)?;
        (count > 0).then(|| round(used.as_secs_f64() * 1e6 / count as f64))
    }

    pub fn rss(&self) -> Option<u64> {
        self.pid.and_then(process::rss)
    }

    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// Three digits behind the point are more than the machine is good for.
pub fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// A line that says how far it is, rewritten on a terminal.
#[derive(Debug)]
pub struct Progress {
    wanted: bool,
    terminal: bool,
}

impl Progress {
    pub fn new(common: &Common) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { wanted: !common.quiet && (terminal || !common.json), terminal }
    }

    pub fn show(&self, line: &str) {
        if self.wanted {
            let mut out = std::io::stderr().lock();
            // Nobody looks: then nobody misses it.
            let _ = if self.terminal { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
            let _ = out.flush();
        }
    }

    pub fn end(&self) {
        if self.wanted && self.terminal {
            eprintln!();
        }
    }
}
