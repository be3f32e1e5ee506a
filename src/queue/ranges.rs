//! Sets of positions, as ranges. In a healthy queue everything is one range, whatever its length.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of positions.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// First position → the position behind the last. No two touch.
    ranges: BTreeMap<u64, u64>,
    count: u64,
}

impl Ranges {
    /// The number of positions.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The number of ranges: what the set costs.
    pub fn pieces(&self) -> usize {
        self.ranges.len()
    }

    pub fn first(&self) -> Option<Range<u64>> {
        self.ranges.first_key_value().map(|(&start, &end)| start..end)
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// Adds positions; those that are in the set already stay.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some(mut last) = self.ranges.last_entry()
            && *last.key() <= range.start
            && *last.get() == range.start
        {
            *last.get_mut() = range.end;
            self.count += range.end - range.start;
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back()
            && before_end >= start
        {
            start = before;
            end = end.max(before_end);
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&next);
            self.count -= next_end - next;
            end = end.max(next_end);
        }
        self.ranges.insert(start, end);
        self.count += end - start;
    }

    /// Takes positions out; says how many were in.
    pub fn remove(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let before = self.count;
        if let Some((&start, &end)) = self.ranges.range(..range.start).next_back()
            && end > range.start
        {
            self.ranges.insert(start, range.start);
            self.count -= end - range.start;
            if end > range.end {
                self.ranges.insert(range.end, end);
                self.count += end - range.end;
            }
        }
        while let Some((&start, &end)) = self.ranges.range(range.clone()).next() {
            self.ranges.remove(&start);
            self.count -= end - start;
            if end > range.end {
                self.ranges.insert(range.end, end);
                self.count += end - range.end;
            }
        }
        before - self.count
    }

    /// Takes up to `count` positions from the front, all of one range.
    pub fn pop_front(&mut self, count: u64) -> Option<Range<u64>> {
        let mut first = self.ranges.first_entry()?;
        let (start, end) = (*first.key(), *first.get());
        let taken = count.min(end - start);
        if taken == 0 {
            return None;
        }
        if start + taken == end {
            first.remove();
        } else {
            *first.get_mut() = end;
            first.remove();
            self.ranges.insert(start + taken, end);
        }
        self.count -= taken;
        Some(start..start + taken)
    }

    pub fn contains(&self, position: u64) -> bool {
        self.ranges.range(..=position).next_back().is_some_and(|(_, &end)| end > position)
    }

    /// How many positions of `range` are in the set.
    pub fn count_in(&self, range: Range<u64>) -> u64 {
        let before = self.ranges.range(..range.start).next_back().map(|(_, &end)| end);
        let head = before.map_or(0, |end| end.min(range.end).saturating_sub(range.start));
        let inside = self.ranges.range(range.clone()).map(|(&start, &end)| end.min(range.end) - start).sum::<u64>();
        head + inside
    }

    /// The parts of `range` that are in the set.
    pub fn intersection(&self, range: Range<u64>) -> Vec<Range<u64>> {
        if self.ranges.is_empty() || range.is_empty() {
            return Vec::new();
        }
        let before = self.ranges.range(..range.start).next_back().filter(|&(_, &end)| end > range.start);
        let inside = self.ranges.range(range.clone());
        before.into_iter().chain(inside).map(|(&start, &end)| start.max(range.start)..end.min(range.end)).collect()
    }

    /// The parts of `range` that are not in the set.
    pub fn difference(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        let mut start = range.start;
        for known in self.intersection(range.clone()) {
            if start < known.start {
                parts.push(start..known.start);
            }
            start = known.end;
        }
        if start < range.end {
            parts.push(start..range.end);
        }
        parts
    }

    /// The first position in the set at or behind `position`.
    pub fn first_from(&self, position: u64) -> Option<u64> {
        let before = self.ranges.range(..=position).next_back().is_some_and(|(_, &end)| end > position);
        if before { Some(position) } else { self.ranges.range(position..).next().map(|(&start, _)| start) }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_numbers(steps in prop::collection::vec((0u8..4, 0u64..40, 0u64..12), 0..60)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (kind, start, length) in steps {
                let range = start..start + length;
                match kind {
                    0 | 1 => { ranges.insert(range.clone()); model.extend(range); }
                    2 => {
                        let removed = range.clone().filter(|position| model.remove(position)).count();
                        prop_assert_eq!(ranges.remove(range), removed as u64);
                    }
                    _ => if let Some(taken) = ranges.pop_front(length) {
                        for position in taken { prop_assert_eq!(model.pop_first(), Some(position)); }
                    }
                }
                prop_assert_eq!(ranges.count(), model.len() as u64);
                prop_assert_eq!(ranges.iter().flatten().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(ranges.count_in(5..17), model.range(5..17).count() as u64);
                prop_assert_eq!(ranges.contains(start), model.contains(&start));
                prop_assert_eq!(ranges.first_from(start), model.range(start..).next().copied());
                let inside: Vec<u64> = ranges.intersection(3..21).into_iter().flatten().collect();
                prop_assert_eq!(inside, model.range(3..21).copied().collect::<Vec<_>>());
                let outside: Vec<u64> = ranges.difference(3..21).into_iter().flatten().collect();
                prop_assert_eq!(outside, (3..21).filter(|position| !model.contains(position)).collect::<Vec<_>>());
            }
        }
    }
}
