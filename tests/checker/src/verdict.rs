//! What comes of a history: counts, in the classes of Jepsen's total queue, and what was broken.

use crate::Id;
use serde::{Deserialize, Serialize};

/// Violations that are told one by one; more are only counted.
pub const VIOLATIONS_MAX: usize = 100;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    #[serde(flatten)]
    pub counts: Counts,
    pub violations: Vec<Violation>,
    /// Violations beyond [`VIOLATIONS_MAX`].
    pub violations_untold: u64,
}

/// Messages, unless it says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Messages that were published.
    pub attempted: u64,
    /// Of these confirmed, one by one or by tx.commit-ok.
    pub confirmed: u64,
    pub nacked: u64,
    pub returned: u64,
    /// Deliveries of any kind.
    pub deliveries: u64,
    /// Crashes that the history went through.
    pub crashes: u64,
    /// Confirmed, of a kind that a durable broker keeps, and gone; promised or not.
    pub lost: u64,
    /// Delivered although never published, or in a queue it was not routed to, or after it was rolled back.
    pub unexpected: u64,
    /// Delivered with another body than it was published with.
    pub damaged: u64,
    /// Delivered again while somebody held it, or in two queues.
    pub duplicated: u64,
    /// Not confirmed and there all the same, which is allowed.
    pub recovered: u64,
    /// A first delivery that was flagged as redelivered.
    pub flagged: u64,
    /// A second delivery that was not.
    pub unflagged: u64,
    pub disordered: u64,
    /// Settled, and there again; promised or not.
    pub resurrected: u64,
    /// The longest time before a crash that something was settled and was there again all the same, ms.
    pub resurrected_age_ms_max: u64,
    /// Whole copies that no rule of loss could be asked about, since their queue was never drained.
    pub unjudged: u64,
}

/// The rules, by their numbers in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rule {
    /// I1: nothing that was confirmed is lost.
    Lost,
    /// I2: nothing is delivered that was not published.
    Unexpected,
    /// I2: nothing is delivered with another body.
    Damaged,
    /// I3: whoever is first is not told that somebody was before; only a bounded number after a crash.
    Flagged,
    /// I3: whoever is second is told.
    Unflagged,
    /// I4: what is settled stays so.
    Resurrected,
    /// I5: first deliveries are in the order of publishing, and all are when one consumer drains.
    Disordered,
    /// I6: what is transient is gone after a restart.
    Survived,
    /// I6: durable queues are there as was acknowledged.
    Topology,
    /// I7: a publish is confirmed or refused, once, and in order.
    Confirms,
    /// I8: transactions are there whole or not at all.
    Transaction,
    /// I9: counters say what is there.
    Counted,
    /// I10: nothing is delivered while somebody else has it, and nothing is in two queues.
    Duplicated,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    pub rule: Rule,
    pub id: Option<Id>,
    pub text: String,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    pub(crate) fn break_rule(&mut self, rule: Rule, id: Option<Id>, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { rule, id, text });
        } else {
            self.violations_untold += 1;
        }
    }

    /// All promises that were broken, told one by one or not.
    pub fn broken(&self) -> u64 {
        self.violations.len() as u64 + self.violations_untold
    }

    /// Adds what came of another history.
    pub fn add(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.violations_untold += other.violations_untold;
        for violation in &other.violations {
            self.break_rule(violation.rule, violation.id, violation.text.clone());
        }
    }
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.attempted, other.attempted),
            (&mut self.confirmed, other.confirmed),
            (&mut self.nacked, other.nacked),
            (&mut self.returned, other.returned),
            (&mut self.deliveries, other.deliveries),
            (&mut self.crashes, other.crashes),
            (&mut self.lost, other.lost),
            (&mut self.unexpected, other.unexpected),
            (&mut self.damaged, other.damaged),
            (&mut self.duplicated, other.duplicated),
            (&mut self.recovered, other.recovered),
            (&mut self.flagged, other.flagged),
            (&mut self.unflagged, other.unflagged),
            (&mut self.disordered, other.disordered),
            (&mut self.resurrected, other.resurrected),
            (&mut self.unjudged, other.unjudged),
        ];
        for (sum, more) in sums {
            *sum += more;
        }
        self.resurrected_age_ms_max = self.resurrected_age_ms_max.max(other.resurrected_age_ms_max);
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:?}: ", self.rule)?;
        if let Some(id) = self.id {
            write!(out, "message {id:#x} ")?;
        }
        out.write_str(&self.text)
    }
}
