//! How what is counted is shown: each number with `…_details`, its rate and, if the query asks for them, samples of its past
//! (`rabbit_mgmt_stats`).
//!
//! ```text
//! ?msg_rates_age=600&msg_rates_incr=5    samples of message_stats and churn_rates: for 600 s, each 5 s
//! ?lengths_age=…      of messages, messages_ready, messages_unacknowledged
//! ?data_rates_age=…   of octets                 ?node_stats_age=…   of what the node uses
//! ```

use super::answer::Failure;
use super::listing::Query;
use super::request::Request;
use crate::metrics::{Counted, Grid, Histories, Recent, STATS, Sample, Snapshot, Stat, Watch, details};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// The samples that a query asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Grids {
    pub lengths: Option<Grid>,
    pub msg_rates: Option<Grid>,
    pub data_rates: Option<Grid>,
    pub node_stats: Option<Grid>,
}

impl Grids {
    pub fn of(query: &Query) -> Result<Self, Failure> {
        Ok(Self {
            lengths: grid(query, "lengths_age", "lengths_incr")?,
            msg_rates: grid(query, "msg_rates_age", "msg_rates_incr")?,
            data_rates: grid(query, "data_rates_age", "data_rates_incr")?,
            node_stats: grid(query, "node_stats_age", "node_stats_incr")?,
        })
    }
}

/// What is no number counts as not said (`rabbit_mgmt_util:int`).
fn grid(query: &Query, age: &str, incr: &str) -> Result<Option<Grid>, Failure> {
    let number = |key: &str| query.get(key).and_then(|text| text.parse::<i64>().ok());
    let (Some(age), Some(incr)) = (number(age), number(incr)) else { return Ok(None) };
    match (u64::try_from(age), u64::try_from(incr)) {
        (Ok(age_s @ 1..), Ok(interval_s @ 1..)) if age_s / interval_s <= Grid::STEPS_MAX => {
            Ok(Some(Grid { age_s, interval_s }))
        }
        _ => {
            let reason = format!("Invalid range parameters: age {age}, incr {incr}");
            Err(Failure::bad_query("invalid_range_parameters", reason))
        }
    }
}

/// The past of some numbers, as far as it is shown.
pub struct Past<const N: usize> {
    recent: Recent<N>,
    /// The newest first.
    samples: Option<Vec<Sample<N>>>,
}

impl<const N: usize> Past<N> {
    pub fn new(recent: Recent<N>, samples: Option<Vec<Sample<N>>>) -> Self {
        Self { recent, samples }
    }

    /// Of something that is watched.
    pub fn of(watch: &Watch<N>, grid: Option<Grid>, now_ms: u64, histories: &Arc<Histories>) -> Self {
        let samples = grid.map(|grid| watch.samples(grid, now_ms, histories));
        Self { recent: watch.recent(), samples }
    }

    /// What stands in the `…_details` of a number.
    pub fn details(&self, at: usize) -> Json {
        self.details_of(&[at])
    }

    /// The same for a number that is the sum of others.
    fn details_of(&self, parts: &[usize]) -> Json {
        let Some(samples) = &self.samples else {
            let rate: f64 = parts.iter().map(|at| self.recent.rate(*at)).sum();
            return json!({"rate": rate});
        };
        let sums: Vec<Sample<1>> = samples
            .iter()
            .map(|sample| Sample { at_ms: sample.at_ms, values: [parts.iter().map(|at| sample.values[*at]).sum()] })
            .collect();
        let details = details(&sums, 0);
        let samples: Vec<_> =
            details.samples.iter().map(|(at_ms, value)| json!({"sample": value, "timestamp": at_ms})).collect();
        json!({
            "avg": details.average,
            "avg_rate": details.average_rate,
            "rate": details.rate,
            "samples": samples,
        })
    }

    /// Adds a number, with its details.
    pub fn put(&self, shown: &mut Map<String, Json>, name: &str, value: u64, at: usize) {
        shown.insert(name.to_owned(), value.into());
        shown.insert(format!("{name}_details"), self.details(at));
    }

    /// Adds `messages`, `messages_ready` and `messages_unacknowledged`, which are sampled at `at` and behind it.
    pub fn put_lengths(&self, shown: &mut Map<String, Json>, ready: u64, unacked: u64, at: usize) {
        self.put(shown, "messages_ready", ready, at);
        self.put(shown, "messages_unacknowledged", unacked, at + 1);
        shown.insert("messages".to_owned(), (ready + unacked).into());
        shown.insert("messages_details".to_owned(), self.details_of(&[at, at + 1]));
    }
}

/// Numbers of messages that are shown together.
#[derive(Debug, Clone, Copy)]
pub enum Group {
    /// What a channel or virtual host published.
    Published,
    /// What came into a queue.
    QueuePublished,
    /// What was sent and acknowledged.
    Delivered,
    Exchange,
    Disk,
}

impl Group {
    fn stats(self) -> &'static [Stat] {
        match self {
            Self::Published => &[Stat::Publish, Stat::Confirm, Stat::ReturnUnroutable, Stat::DropUnroutable],
            Self::QueuePublished => &[Stat::Publish],
            Self::Delivered => &[
                Stat::Ack,
                Stat::Deliver,
                Stat::DeliverNoAck,
                Stat::Get,
                Stat::GetEmpty,
                Stat::GetNoAck,
                Stat::Redeliver,
            ],
            Self::Exchange => &[Stat::PublishIn, Stat::PublishOut],
            Self::Disk => &[Stat::DiskReads, Stat::DiskWrites],
        }
    }
}

/// `message_stats`: the groups of which something is counted, or all of them. The counters are sampled first of all.
pub fn message_stats<const N: usize>(
    seen: &Snapshot,
    past: &Past<N>,
    groups: &[Group],
    all: bool,
) -> Map<String, Json> {
    let mut shown = Map::new();
    for group in groups {
        let stats = group.stats();
        if !all && stats.iter().all(|stat| seen[*stat] == 0) {
            continue;
        }
        for stat in stats {
            past.put(&mut shown, stat.name(), seen[*stat], *stat as usize);
        }
        if matches!(group, Group::Delivered) {
            let sent = [Stat::Deliver, Stat::DeliverNoAck, Stat::Get, Stat::GetNoAck].map(|stat| stat as usize);
            shown.insert("deliver_get".to_owned(), seen.deliver_get().into());
            shown.insert("deliver_get_details".to_owned(), past.details_of(&sent));
        }
    }
    shown
}

/// The same of something that has counters of its own, to be put into what is shown of it; nothing if nothing is counted.
pub fn put_message_stats(
    shown: &mut Map<String, Json>,
    counted: &Counted,
    groups: &[Group],
    request: &Request,
    grids: &Grids,
) {
    let broker = &request.broker;
    let past = Past::<STATS>::of(&counted.watch, grids.msg_rates, broker.now_ms(), &broker.statistics.histories);
    let stats = message_stats(&counted.counts.snapshot(), &past, groups, false);
    if !stats.is_empty() {
        shown.insert("message_stats".to_owned(), stats.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Counts;

    #[test]
    fn samples_are_asked_for_by_their_age_and_distance() {
        let asked = |text: &str| Grids::of(&Query::parse(text)).map(|grids| grids.msg_rates).map_err(|_| ());
        assert_eq!(asked("msg_rates_age=60&msg_rates_incr=5"), Ok(Some(Grid { age_s: 60, interval_s: 5 })));
        assert_eq!(asked("msg_rates_age=60"), Ok(None));
        assert_eq!(asked("msg_rates_age=x&msg_rates_incr=5"), Ok(None));
        assert_eq!(asked("lengths_age=60&lengths_incr=5"), Ok(None));
        for wrong in ["0&msg_rates_incr=5", "60&msg_rates_incr=0", "-1&msg_rates_incr=1", "501&msg_rates_incr=1"] {
            assert_eq!(asked(&format!("msg_rates_age={wrong}")), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_group_of_numbers_is_shown_when_one_of_them_is_counted() {
        let counts = Counts::default();
        let past = Past::new(Recent::<STATS>::default(), None);
        let groups = [Group::QueuePublished, Group::Delivered];
        assert!(message_stats(&counts.snapshot(), &past, &groups, false).is_empty());
        counts.add(Stat::GetEmpty, 1);
        let shown = message_stats(&counts.snapshot(), &past, &groups, false);
        assert_eq!((shown["get_empty"].clone(), shown["deliver_get"].clone()), (1.into(), 0.into()));
        assert_eq!(shown["ack_details"], json!({"rate": 0.0}));
        assert!(!shown.contains_key("publish"));
        counts.add(Stat::Deliver, 2);
        counts.add(Stat::GetNoAck, 3);
        assert_eq!(message_stats(&counts.snapshot(), &past, &groups, false)["deliver_get"], 5);
    }

    #[test]
    fn details_have_the_samples_that_are_asked_for() {
        let sample = |at_s: u64, ready: u64| Sample { at_ms: at_s * 1000, values: [ready, 1] };
        let past = Past::new(Recent::default(), Some(vec![sample(10, 30), sample(5, 10)]));
        let mut shown = Map::new();
        past.put_lengths(&mut shown, 30, 1, 0);
        let expected = json!({
            "rate": 4.0, "avg_rate": 4.0, "avg": 21.0,
            "samples": [{"sample": 31, "timestamp": 10_000}, {"sample": 11, "timestamp": 5_000}]
        });
        assert_eq!((shown["messages"].clone(), shown["messages_details"].clone()), (31.into(), expected));
    }
}
