//! The sums of what was run, as a table.

use leveret_checker::ledger::{Entry, Fuzzed, Run};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// A row for each broker and fault, and then for each target of the fuzzers, in Markdown.
pub fn table(files: &[PathBuf]) -> io::Result<String> {
    let text = files.iter().map(std::fs::read_to_string).collect::<io::Result<String>>()?;
    let mut sums: BTreeMap<(String, String), Run> = BTreeMap::new();
    let mut fuzzed: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let entry: Entry =
            serde_json::from_str(line).map_err(|error| io::Error::other(format!("line {}: {error}", number + 1)))?;
        let run = match entry {
            Entry::Run(run) => *run,
            Entry::Fuzzed(Fuzzed { target, executions, failures, .. }) => {
                let sum = fuzzed.entry(target).or_default();
                *sum = (sum.0 + executions, sum.1 + failures);
                continue;
            }
        };
        let key = (run.fault.clone(), run.broker.clone());
        let Some(sum) = sums.get_mut(&key) else {
            sums.insert(key, run);
            continue;
        };
        sum.counts.add(&run.counts);
        sum.cycles += run.cycles;
        sum.violations += run.violations;
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

#[cfg(test)]
mod tests {
    use super::*;
    use leveret_checker::ledger::append;
    use leveret_checker::{Counts, Verdict};
    use std::path::Path;

    #[test]
    fn lines_of_one_fault_and_broker_are_added_up() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.jsonl");
        for (fault, cycles, confirmed) in [("kill", 3, 1000), ("power", 1, 5), ("kill", 4, 999_000)] {
            let counts = Counts { confirmed, ..Counts::default() };
            let verdict = Verdict { counts, ..Verdict::default() };
            let run = Run { fault: fault.into(), broker: "b".into(), cycles, ..Run::new(&verdict) };
            append(&run, &file).unwrap();
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
        for executions in [999, 1] {
            append(&Fuzzed { executions, ..Fuzzed::new("frame") }, &file).unwrap();
        }
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
