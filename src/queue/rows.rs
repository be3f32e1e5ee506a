//! What the store keeps of a queue beside its blocks, as octets: marks, settled positions, facts and tallies. Nothing that is
//! read is trusted: rows that no queue writes are damage, and a queue with damaged rows does not start.

use super::deadlines::Deadlines;
use super::log::{self, Facts, Mark, Recovered};
use super::tallies::{self, Tallies};
use crate::store::Recovered as Stored;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::ops::Range;

/// Numbers of rows on disk.
#[derive(Debug, Default)]
pub struct Rows {
    /// Of settled positions, by level.
    pub settled: FxHashMap<u8, Range<u64>>,
    pub tallies: Range<u64>,
}

/// A queue as its rows have it.
#[derive(Debug)]
pub struct Read {
    pub levels: Vec<(u8, Recovered)>,
    pub tallies: Tallies,
    pub rows: Rows,
}

/// Reads the rows of a queue. `first_block` finds the first position of the block that holds a position, or of the first one
/// behind it in its level.
pub fn read(found: &Stored, first_block: impl Fn(u64) -> Result<Option<u64>, String>) -> Result<Read, String> {
    let mut rows = Rows::default();
    let mut levels: BTreeMap<u8, Recovered> = BTreeMap::new();
    for (number, octets) in &found.marks {
        let level = log::level(*number);
        let mark = decode_mark(octets).filter(|mark| fits(mark, level));
        let mark = mark.ok_or("a queue's mark on disk can't be read")?;
        levels.insert(level, Recovered { mark, ..Recovered::default() });
    }
    for end in &found.ends {
        let mark = &mut of_level(&mut levels, end.saturating_sub(1)).mark;
        mark.next = mark.next.max(*end);
    }
    for (number, row) in &found.settled {
        let unreadable = "a queue's settled positions on disk can't be read";
        let level = log::level(*number);
        extend(rows.settled.entry(level).or_insert(*number..*number), *number).ok_or(unreadable)?;
        let recovered = of_level(&mut levels, *number);
        let low = recovered.mark.low_water;
        for range in decode_ranges(row).ok_or(unreadable)? {
            if log::level(range.start) != level || log::level(range.end - 1) != level {
                return Err(unreadable.to_owned());
            }
            recovered.settled.insert(range.start.max(low)..range.end.max(low));
        }
    }
    for (position, octets) in &found.facts {
        let fits = |facts: &Facts| {
            let last = position.checked_add(u64::from(facts.count.max(1)) - 1);
            last.is_some_and(|last| log::level(last) == log::level(*position))
        };
        let facts = decode_facts(octets).filter(fits);
        let facts = facts.ok_or("what is known of a queue's block on disk can't be read")?;
        of_level(&mut levels, *position).facts.push((*position, facts));
    }
    let mut tallies = Tallies::default();
    for (number, row) in &found.tallies {
        let unreadable = "a queue's delivery counts on disk can't be read";
        extend(&mut rows.tallies, *number).ok_or(unreadable)?;
        for (range, tally) in tallies::decode(row).ok_or(unreadable)? {
            tallies.set(range, tally);
        }
    }
    for level in levels.values_mut() {
        let settled_end = level.settled.iter().last().map_or(0, |range| range.end);
        level.mark.next = level.mark.next.max(settled_end).max(level.mark.low_water);
        level.first_block = first_block(level.mark.low_water)?.unwrap_or(level.mark.low_water);
    }
    Ok(Read { levels: levels.into_iter().collect(), tallies, rows })
}

/// The level of a position, empty if nothing was known of it.
fn of_level(levels: &mut BTreeMap<u8, Recovered>, position: u64) -> &mut Recovered {
    let level = log::level(position);
    levels.entry(level).or_insert_with(|| Recovered { mark: Mark::new(level), ..Recovered::default() })
}

/// Whether a mark's positions are of its level.
fn fits(mark: &Mark, level: u8) -> bool {
    [mark.low_water, mark.delivered_below, mark.next].iter().all(|position| log::level(*position) == level)
}

fn extend(rows: &mut Range<u64>, number: u64) -> Option<()> {
    let end = number.checked_add(1)?;
    *rows = if rows.is_empty() { number..end } else { rows.start.min(number)..rows.end.max(end) };
    Some(())
}

/// The format of facts; a number once given is never used for anything else.
const FACTS_VERSION: u8 = 1;
const FACTS_FIXED_BYTES: usize = 13;

pub fn encode_facts(facts: &Facts) -> Vec<u8> {
    let mut octets = vec![FACTS_VERSION];
    octets.extend_from_slice(&facts.count.to_be_bytes());
    octets.extend_from_slice(&facts.body_bytes.to_be_bytes());
    if let Some(deadlines) = &facts.deadlines {
        deadlines.encode(&mut octets);
    }
    octets
}

pub fn decode_facts(octets: &[u8]) -> Option<Facts> {
    let (fixed, deadlines) = octets.split_first_chunk::<FACTS_FIXED_BYTES>()?;
    let (&FACTS_VERSION, fixed) = fixed.split_first()? else { return None };
    let (count, body_bytes) = fixed.split_first_chunk::<4>()?;
    let count = u32::from_be_bytes(*count);
    // A run's octets are counted in 32 bits, and there are no more of its bodies.
    let body_bytes = number(body_bytes).filter(|bytes| *bytes <= u32::MAX.into())?;
    let deadlines = Deadlines::decode(deadlines)?;
    if deadlines.as_ref().is_some_and(|deadlines| !deadlines.fit(count)) {
        return None;
    }
    Some(Facts { count, body_bytes, deadlines })
}

/// The format of a mark; a number once given is never used for anything else.
const MARK_VERSION: u8 = 1;

pub fn encode_mark(mark: &Mark) -> Vec<u8> {
    let mut octets = vec![MARK_VERSION];
    for number in [mark.low_water, mark.delivered_below, mark.next] {
        octets.extend_from_slice(&number.to_be_bytes());
    }
    octets
}

pub fn decode_mark(octets: &[u8]) -> Option<Mark> {
    let (&MARK_VERSION, numbers) = octets.split_first()? else { return None };
    let (&[low_water, delivered_below, next], []) = numbers.as_chunks::<8>() else { return None };
    let [low_water, delivered_below, next] = [low_water, delivered_below, next].map(u64::from_be_bytes);
    Some(Mark { low_water, delivered_below, next })
}

pub fn encode_ranges(ranges: &[Range<u64>]) -> Vec<u8> {
    ranges.iter().flat_map(|range| [range.start, range.end]).flat_map(u64::to_be_bytes).collect()
}

/// No range of them is empty.
pub fn decode_ranges(octets: &[u8]) -> Option<Vec<Range<u64>>> {
    let (pairs, []) = octets.as_chunks::<16>() else { return None };
    let range = |pair: &[u8; 16]| Some(number(&pair[..8])?..number(&pair[8..])?).filter(|range| !range.is_empty());
    pairs.iter().map(range).collect()
}

fn number(octets: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(octets.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { low_water: 3, delivered_below: 9, next: 8 };

    fn rows() -> Stored {
        let facts = Facts { count: 4, body_bytes: 40, deadlines: Some(Deadlines::all(7, 4)) };
        Stored {
            marks: vec![(0, encode_mark(&MARK))],
            settled: vec![(2, encode_ranges(&[4..5, 6..7]))],
            facts: vec![(4, encode_facts(&facts))],
            tallies: vec![(1, tallies::encode(&[(5..6, tallies::Tally { acquired: 1, failed: 0 })]))],
            ends: vec![8],
        }
    }

    fn read(found: &Stored) -> Result<Read, String> {
        super::read(found, |_| Ok(None))
    }

    #[test]
    fn what_was_written_is_read() {
        let Read { levels, tallies, rows } = read(&rows()).unwrap();
        let [(0, level)] = &levels[..] else { panic!("{levels:?}") };
        assert_eq!(level.mark, MARK);
        assert_eq!(level.settled.iter().collect::<Vec<_>>(), [4..5, 6..7]);
        assert_eq!((level.facts[0].0, level.facts[0].1.count, level.first_block), (4, 4, 3));
        assert_eq!(tallies.at(5, 9).0.acquired, 1);
        assert_eq!((rows.settled[&0].clone(), rows.tallies), (2..3, 1..2));
    }

    #[test]
    fn what_no_queue_writes_is_damage() {
        let spoil = |spoil: &dyn Fn(&mut Stored)| {
            let mut found = rows();
            spoil(&mut found);
            read(&found).map(|_| ()).unwrap_err()
        };
        let mark = "a queue's mark on disk can't be read";
        assert_eq!(spoil(&|found| found.marks[0].1.truncate(24)), mark);
        assert_eq!(spoil(&|found| found.marks[0].1.push(0)), mark);
        assert_eq!(spoil(&|found| found.marks[0].1[0] = 2), mark);
        // Of another level.
        assert_eq!(spoil(&|found| found.marks[0].1[1] = 1), mark);
        let settled = "a queue's settled positions on disk can't be read";
        assert_eq!(spoil(&|found| found.settled[0].1 = encode_ranges(&[Range { start: 5, end: 4 }])), settled);
        assert_eq!(
            spoil(&|found| found.settled[0].1 = encode_ranges(&[Range { start: 4, end: log::base(2) }])),
            settled
        );
        assert_eq!(spoil(&|found| found.settled[0].0 = u64::MAX), settled);
        let facts = "what is known of a queue's block on disk can't be read";
        assert_eq!(spoil(&|found| found.facts[0].0 = u64::MAX - 1), facts);
        // A deadline of a message that is not there.
        assert_eq!(spoil(&|found| found.facts[0].1[4] = 3), facts);
        // So many octets that those of two blocks would not fit into a number.
        assert_eq!(spoil(&|found| found.facts[0].1[5] = 0x80), facts);
        let tallies = "a queue's delivery counts on disk can't be read";
        assert_eq!(spoil(&|found| found.tallies[0].1.truncate(23)), tallies);
        assert_eq!(spoil(&|found| found.tallies[0].0 = u64::MAX), tallies);
    }
}
