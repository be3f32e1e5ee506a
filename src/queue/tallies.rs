//! How often messages came back: the few that did, as ranges.

use std::collections::BTreeMap;
use std::ops::Range;

/// How often a message was given back to its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Tally {
    /// After any delivery: `x-acquired-count`.
    pub acquired: u32,
    /// As a failure, by basic.reject or the end of a channel: `x-delivery-count`.
    pub failed: u32,
}

impl Tally {
    /// It came back once more.
    fn returned(self, failed: bool) -> Self {
        Self { acquired: self.acquired.saturating_add(1), failed: self.failed.saturating_add(u32::from(failed)) }
    }
}

/// Tallies by position. Messages next to each other with the same tally are one entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tallies {
    /// First position → the position behind the last, and their tally. No two overlap.
    entries: BTreeMap<u64, (u64, Tally)>,
}

impl Tallies {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The tally at a position, and the position up to which it holds (at most `end`).
    pub fn at(&self, position: u64, end: u64) -> (Tally, u64) {
        if self.entries.is_empty() {
            return (Tally::default(), end);
        }
        if let Some((_, &(until, tally))) = self.entries.range(..=position).next_back()
            && until > position
        {
            return (tally, until.min(end));
        }
        let next = self.entries.range(position..).next().map_or(end, |(&first, _)| first);
        (Tally::default(), next.min(end))
    }

    /// Counts messages that came back.
    pub fn returned(&mut self, range: Range<u64>, failed: bool) {
        let mut position = range.start;
        while position < range.end {
            let (tally, until) = self.at(position, range.end);
            self.set(position..until, tally.returned(failed));
            position = until;
        }
    }

    /// Replaces the tally of a range.
    pub fn set(&mut self, range: Range<u64>, tally: Tally) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        if tally == Tally::default() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&first, &(until, before))) = self.entries.range(..start).next_back()
            && until == start
            && before == tally
        {
            start = first;
        }
        if let Some(&(until, behind)) = self.entries.get(&end)
            && behind == tally
        {
            self.entries.remove(&end);
            end = until;
        }
        self.entries.insert(start, (end, tally));
    }

    /// Forgets a range.
    pub fn remove(&mut self, range: Range<u64>) {
        if self.entries.is_empty() || range.is_empty() {
            return;
        }
        if let Some((&first, &(until, tally))) = self.entries.range(..range.start).next_back()
            && until > range.start
        {
            self.entries.insert(first, (range.start, tally));
            if until > range.end {
                self.entries.insert(range.end, (until, tally));
            }
        }
        while let Some((&first, &(until, tally))) = self.entries.range(range.clone()).next() {
            self.entries.remove(&first);
            if until > range.end {
                self.entries.insert(range.end, (until, tally));
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, Tally)> {
        self.entries.iter().map(|(&first, &(until, tally))| (first..until, tally))
    }

    /// The entries of a range, cut to it.
    pub fn within(&self, range: Range<u64>) -> Vec<(Range<u64>, Tally)> {
        let mut found = Vec::new();
        let mut position = range.start;
        while position < range.end {
            let (tally, until) = self.at(position, range.end);
            if tally != Tally::default() {
                found.push((position..until, tally));
            }
            position = until;
        }
        found
    }
}

/// Octets of an encoded entry.
const ENTRY_BYTES: usize = 24;

/// Entries as the store keeps them.
pub fn encode(entries: &[(Range<u64>, Tally)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * ENTRY_BYTES);
    for (range, tally) in entries {
        out.extend_from_slice(&range.start.to_be_bytes());
        out.extend_from_slice(&range.end.to_be_bytes());
        out.extend_from_slice(&tally.acquired.to_be_bytes());
        out.extend_from_slice(&tally.failed.to_be_bytes());
    }
    out
}

/// Reads what [`encode`] wrote; `None` if it did not.
pub fn decode(octets: &[u8]) -> Option<Vec<(Range<u64>, Tally)>> {
    let (entries, []) = octets.as_chunks::<ENTRY_BYTES>() else { return None };
    let position = |octets: &[u8]| Some(u64::from_be_bytes(octets.try_into().ok()?));
    let count = |octets: &[u8]| Some(u32::from_be_bytes(octets.try_into().ok()?));
    entries
        .iter()
        .map(|entry| {
            let tally = Tally { acquired: count(&entry[16..20])?, failed: count(&entry[20..])? };
            Some((position(&entry[..8])?..position(&entry[8..16])?, tally))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_tally_for_each_message(
            steps in prop::collection::vec((0u8..3, 0u64..30, 0u64..12, any::<bool>()), 0..40),
        ) {
            let (mut tallies, mut model) = (Tallies::default(), BTreeMap::<u64, Tally>::new());
            for (kind, start, length, failed) in steps {
                let range = start..start + length;
                match kind {
                    0 | 1 => {
                        tallies.returned(range.clone(), failed);
                        for position in range {
                            let tally = model.entry(position).or_default();
                            *tally = tally.returned(failed);
                        }
                    }
                    _ => {
                        tallies.remove(range.clone());
                        model.retain(|position, _| !range.contains(position));
                    }
                }
                for position in 0..45 {
                    let expected = model.get(&position).copied().unwrap_or_default();
                    let (found, until) = tallies.at(position, 45);
                    prop_assert_eq!(found, expected);
                    prop_assert!((position..until).all(|other| model.get(&other).copied().unwrap_or_default() == expected));
                }
                let entries: Vec<_> = tallies.iter().collect();
                prop_assert_eq!(decode(&encode(&entries)), Some(entries));
            }
        }
    }
}
