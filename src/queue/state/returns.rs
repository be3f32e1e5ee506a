//! A quorum queue's messages that came back: they go out first, in the order they did.

use crate::queue::ranges::Ranges;
use std::collections::VecDeque;
use std::ops::Range;

#[derive(Debug, Default)]
pub(super) struct Returns {
    order: VecDeque<Range<u64>>,
    /// The same positions.
    members: Ranges,
}

impl Returns {
    pub fn members(&self) -> &Ranges {
        &self.members
    }

    pub fn first(&self) -> Option<Range<u64>> {
        self.order.front().cloned()
    }

    pub fn push(&mut self, range: Range<u64>) {
        self.members.insert(range.clone());
        match self.order.back_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.order.push_back(range),
        }
    }

    /// Takes positions out if they are the first ones; says whether they were.
    pub fn pop(&mut self, range: &Range<u64>) -> bool {
        let Some(first) = self.order.front_mut().filter(|first| first.start == range.start) else { return false };
        first.start = range.end;
        if first.is_empty() {
            self.order.pop_front();
        }
        self.members.remove(range.clone());
        true
    }

    /// Takes positions out, wherever they are.
    pub fn remove(&mut self, gone: &Ranges) {
        gone.iter().for_each(|range| {
            self.members.remove(range);
        });
        self.order = self.order.drain(..).flat_map(|range| gone.difference(range)).collect();
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
