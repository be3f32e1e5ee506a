//! Looking at messages without touching them: nothing is delivered, marked, moved or read from disk.

use super::State;
use crate::queue::log::{self, Held, Log};
use crate::queue::ranges::Ranges;

/// Where a message is on its way through the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Ready,
    /// Delivered and not settled.
    Unacked,
    /// Held back: its time has not come, for the first or for another delivery.
    Delayed,
    /// Dead, and not yet handed on.
    Dying,
}

/// A message that is there.
#[derive(Debug, Clone)]
pub struct Seen {
    pub position: u64,
    pub condition: Condition,
    /// It was delivered before, or may have been.
    pub redelivered: bool,
    pub held: Held,
}

impl<T> State<T> {
    /// Messages that are not settled, `count` at most: those of the highest priority first, in their order. `from`: the
    /// first position to look at; `None` for all.
    pub fn browse(&self, from: Option<u64>, count: usize) -> Vec<Seen> {
        let resting: Ranges = self.resting.iter().map(|((_, first), end)| *first..*end).collect();
        let dying: Ranges = self.dying.iter().map(|dying| dying.range.clone()).collect();
        let condition = |log: &Log, position| match () {
            () if resting.contains(position) => Condition::Delayed,
            () if dying.contains(position) => Condition::Dying,
            () if log.ready().contains(position) && self.rules.delays => Condition::Delayed,
            () if log.ready().contains(position) || self.returns.members().contains(position) => Condition::Ready,
            () => Condition::Unacked,
        };
        let mut seen = Vec::new();
        for log in &self.levels {
            let start = match from {
                Some(from) if log.level() > log::level(from) => continue,
                Some(from) if log.level() == log::level(from) => from,
                _ => log::base(log.level()),
            };
            let mut at = start;
            while seen.len() < count
                && let Some((range, held)) = log.unsettled(at)
            {
                at = range.end;
                for position in range.clone().take(count - seen.len()) {
                    let (condition, redelivered) = (condition(log, position), log.was_delivered(position));
                    seen.push(Seen { position, condition, redelivered, held: held.behind(position - range.start) });
                }
            }
        }
        seen
    }
}
