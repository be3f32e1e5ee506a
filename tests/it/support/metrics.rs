//! Metrics, read by a parser that takes nothing but Prometheus's text format.

use super::{Api, Broker};
use std::collections::{BTreeMap, BTreeSet};

/// The name of a sample with its suffix, its labels in order, and its value.
pub type Sample = (String, Vec<(String, String)>, f64);

/// A metric's type, its text and its samples.
#[derive(Debug, Default)]
pub struct Metric {
    pub kind: String,
    help: String,
    pub samples: Vec<Sample>,
}

pub type Metrics = BTreeMap<String, Metric>;

/// Reads the text format 0.0.4, and refuses whatever is not in it.
fn parse(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    assert!(text.ends_with('\n'), "the last line has no end");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(name), "{line}");
            assert!(["counter", "gauge", "histogram", "untyped"].contains(&kind), "{line}");
            let new = metrics.insert(name.to_owned(), Metric { kind: kind.to_owned(), ..Metric::default() }).is_none();
            assert!(new, "a second metric {name}");
            name.clone_into(&mut current);
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert_eq!(name, current, "a help of another metric");
            assert!(!help.is_empty(), "{line}");
            help.clone_into(&mut metrics.get_mut(name).unwrap().help);
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let (name, labels, value) = sample(line);
            let metric = metrics.get_mut(&current).unwrap_or_else(|| panic!("a sample before its type: {line}"));
            let suffixes: &[&str] = if metric.kind == "histogram" { &["_bucket", "_count", "_sum"] } else { &[""] };
            assert!(suffixes.iter().any(|suffix| name == format!("{current}{suffix}")), "{line} of {current}");
            assert!(seen.insert((name.clone(), labels.clone())), "twice: {line}");
            assert!(metric.kind != "counter" || value >= 0.0, "{line}");
            metric.samples.push((name, labels, value));
        }
    }
    for (name, metric) in &metrics {
        assert!(!metric.help.is_empty(), "{name} has no help");
        if metric.kind == "histogram" {
            check_histogram(name, metric);
        }
    }
    metrics
}

fn is_name(name: &str) -> bool {
    let letter = |at: usize, octet: u8| {
        octet.is_ascii_alphabetic() || b"_:".contains(&octet) || at > 0 && octet.is_ascii_digit()
    };
    !name.is_empty() && name.bytes().enumerate().all(|(at, octet)| letter(at, octet))
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(label) && !label.contains(':'), "{line}");
            let mut text = String::new();
            let mut letters = value.char_indices();
            let after = loop {
                match letters.next().unwrap_or_else(|| panic!("no end of a label: {line}")) {
                    (_, '\\') => text.push(match letters.next() {
                        Some((_, 'n')) => '\n',
                        Some((_, letter @ ('\\' | '"'))) => letter,
                        other => panic!("{other:?} in {line}"),
                    }),
                    (at, '"') => break &value[at + 1..],
                    (_, letter) => text.push(letter),
                }
            };
            labels.push((label.to_owned(), text));
            rest = match after.strip_prefix(',') {
                Some(more) => more,
                None => {
                    rest = after.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
                    break;
                }
            };
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}"));
    assert!(!value.contains(' '), "{line}");
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("{line}")))
}

/// Buckets grow, and the last holds all.
fn check_histogram(name: &str, metric: &Metric) {
    let of = |suffix: &str| {
        let name = format!("{name}{suffix}");
        metric.samples.iter().filter(|(found, ..)| *found == name).collect::<Vec<_>>()
    };
    let buckets = of("_bucket");
    let limit = |labels: &[(String, String)]| labels.last().unwrap().1.replace("+Inf", "inf").parse::<f64>().unwrap();
    assert!(buckets.windows(2).all(|two| limit(&two[0].1) < limit(&two[1].1) && two[0].2 <= two[1].2), "{name}");
    assert_eq!(buckets.last().unwrap().2, of("_count")[0].2, "{name}");
    assert_eq!(of("_sum").len(), 1, "{name}");
}

pub fn scrape(broker: &Broker, port: u16, path: &str) -> Metrics {
    let reply = Api::of(broker).on(port).by_nobody().get(path);
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/plain; version=0.0.4")), "{path}");
    parse(std::str::from_utf8(&reply.body).unwrap())
}

/// The value of a metric with these labels, whatever others it has.
pub fn value(metrics: &Metrics, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let metric = metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
    let has = |labels: &[(String, String)]| {
        wanted.iter().all(|(label, value)| labels.iter().any(|(known, found)| known == label && found == value))
    };
    let found: Vec<_> = metric.samples.iter().filter(|(_, labels, _)| has(labels)).collect();
    assert_eq!(found.len(), 1, "{name} {wanted:?}: {:?}", metric.samples);
    found[0].2
}
