//! What was run, and what came of it: a line of JSON for each run, and their sums as a table.

use leveret_checker::{Counts, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
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

impl Line {
    pub fn new(verdict: &Verdict) -> Self {
        Self {
            date: date(),
            commit: String::new(),
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

    pub fn append(&self, file: &Path) -> io::Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = std::fs::File::options().create(true).append(true).open(file)?;
        let mut line = serde_json::to_string(self)?;
        line.push('\n');
        // In one write: several drivers may share the file.
        file.write_all(line.as_bytes())
    }
}

/// What a fuzzer wrote, which knows neither brokers nor messages.
#[derive(Debug, Deserialize)]
struct Fuzzed {
    target: String,
    executions: u64,
    failures: u64,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    Run(Box<Line>),
    Fuzzed(Fuzzed),
}

/// A row for each broker and fault, and then for each target of the fuzzers, in Markdown.
pub fn table(files: &[PathBuf]) -> io::Result<String> {
    let text = files.iter().map(std::fs::read_to_string).collect::<io::Result<String>>()?;
    let mut sums: BTreeMap<(String, String), Line> = BTreeMap::new();
    let mut fuzzed: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let entry: Entry =
            serde_json::from_str(line).map_err(|error| io::Error::other(format!("line {}: {error}", number + 1)))?;
        let line = match entry {
            Entry::Run(line) => *line,
            Entry::Fuzzed(Fuzzed { target, executions, failures }) => {
                let sum = fuzzed.entry(target).or_default();
                *sum = (sum.0 + executions, sum.1 + failures);
                continue;
            }
        };
        let key = (line.fault.clone(), line.broker.clone());
        let Some(sum) = sums.get_mut(&key) else {
            sums.insert(key, line);
            continue;
        };
        sum.counts.add(&line.counts);
        sum.cycles += line.cycles;
        sum.violations += line.violations;
    }
    let runs = String::from(
        "| fault | broker | cycles | confirmed | lost | unexpected | damaged | duplicated | out of order | not flagged | \
         flagged too often | settled and there again | promises broken |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let mut out = if sums.is_empty() { String::new() } else { runs };
    for ((fault, broker), sum) in &sums {
        let counts = &sum.counts;
        let figures = [
            sum.cycles,
            counts.confirmed,
            counts.lost,
            counts.unexpected,
            counts.damaged,
            counts.duplicated,
            counts.disordered,
            counts.unflagged,
            counts.flagged,
            counts.resurrected,
            sum.violations,
        ];
        let figures: Vec<String> = figures.iter().map(|figure| grouped(*figure)).collect();
        out.push_str(&format!("| {fault} | {broker} | {} |\n", figures.join(" | ")));
    }
    if !fuzzed.is_empty() {
        out.push_str("\n| fuzzed | executions | failures |\n|---|---:|---:|\n");
    }
    for (target, (executions, failures)) in &fuzzed {
        out.push_str(&format!("| {target} | {} | {} |\n", grouped(*executions), grouped(*failures)));
    }
    Ok(out)
}

/// 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Today, as 2026-01-31. The algorithm is Howard Hinnant's `civil_from_days`.
fn date() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let days = now / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_fault_and_broker_are_added_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.jsonl");
        for (fault, cycles, confirmed) in [("kill", 3, 1000), ("power", 1, 5), ("kill", 4, 999_000)] {
            let counts = Counts { confirmed, ..Counts::default() };
            let verdict = Verdict { counts, ..Verdict::default() };
            let line = Line { fault: fault.into(), broker: "b".into(), cycles, ..Line::new(&verdict) };
            line.append(&file).unwrap();
        }
        let table = table(&[file]).unwrap();
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].starts_with("| kill | b | 7 | 1,000,000 | 0 |"), "{table}");
        assert!(rows[1].starts_with("| power | b | 1 | 5 | 0 |"), "{table}");
    }

    #[test]
    fn lines_of_fuzzers_have_a_table_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.jsonl");
        let line = |executions| {
            format!(r#"{{"fault": "fuzz", "target": "frame", "seed": 1, "executions": {executions}, "failures": 0}}"#)
        };
        std::fs::write(&file, [line(999), line(1)].join("\n")).unwrap();
        let shown = table(&[file]).unwrap();
        assert_eq!(shown.trim(), "| fuzzed | executions | failures |\n|---|---:|---:|\n| frame | 1,000 | 0 |");
    }

    #[test]
    fn the_page_shows_what_the_ledger_adds_up_to() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let page = std::fs::read_to_string(docs.join("reliability.md")).unwrap();
        let (_, shown) = page.split_once("<!-- ledger -->").unwrap();
        let (shown, _) = shown.split_once("<!-- /ledger -->").unwrap();
        let files = ["ledger", "fuzz"].map(|name| docs.join(format!("reliability/{name}.jsonl")));
        let files: Vec<PathBuf> = files.into_iter().filter(|file| file.exists()).collect();
        let sums = table(&files).unwrap();
        assert_eq!(shown.trim(), sums.trim(), "print it with `leveret-faults ledger`, and put it between the marks");
    }
}
