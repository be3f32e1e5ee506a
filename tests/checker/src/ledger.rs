//! What was run, and what came of it: a file with a line of JSON for each run, of whichever proof.

use crate::{Counts, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

/// A line, as it is read.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    Run(Box<Run>),
    Fuzzed(Fuzzed),
}

/// A fault, and what the judge said.
#[derive(Debug, Serialize, Deserialize)]
pub struct Run {
    pub date: String,
    pub commit: String,
    pub broker: String,
    pub fault: String,
    pub seed: u64,
    pub cycles: u64,
    #[serde(flatten)]
    pub counts: Counts,
    /// Promises that were broken.
    pub violations: u64,
    pub seconds: u64,
    /// What only this fault counts.
    pub more: BTreeMap<String, u64>,
}

/// What a fuzzer did, which knows neither brokers nor messages.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fuzzed {
    pub date: String,
    pub commit: String,
    pub fault: String,
    pub target: String,
    /// libFuzzer's runs are not repeated by theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    pub executions: u64,
    pub seconds: u64,
    pub failures: u64,
}

impl Run {
    /// Of today, of what is checked out.
    pub fn new(verdict: &Verdict) -> Self {
        Self {
            date: date(),
            commit: commit(),
            broker: String::new(),
            fault: String::new(),
            seed: 0,
            cycles: 0,
            counts: verdict.counts,
            violations: verdict.broken(),
            seconds: 0,
            more: BTreeMap::new(),
        }
    }
}

impl Fuzzed {
    /// Of today, of what is checked out.
    pub fn new(target: &str) -> Self {
        Self {
            date: date(),
            commit: commit(),
            fault: "fuzz".into(),
            target: target.into(),
            seed: None,
            executions: 0,
            seconds: 0,
            failures: 0,
        }
    }
}

/// Adds a line to a file, which is made if it is not there.
pub fn append(line: &impl Serialize, file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::File::options().create(true).append(true).open(file)?;
    let mut line = serde_json::to_string(line)?;
    line.push('\n');
    // In one write: several may share the file.
    file.write_all(line.as_bytes())
}

/// Today, as 2026-01-31.
fn date() -> String {
    said("date", &["-u", "+%Y-%m-%d"])
}

fn commit() -> String {
    said("git", &["rev-parse", "--short", "HEAD"])
}

/// What a program prints; nothing if it can't be run.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
