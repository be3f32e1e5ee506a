//! Reading back: blocks while the broker runs, marks and definitions when it starts.

use super::keys::{Definition, Kind, Row, number};
use super::rows::Family;
use super::{Failure, Store};
use crate::message::Run;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

/// A block that was read: its first position and its messages.
pub type Block = (u64, Arc<Run>);

/// Asks for the block of a queue that holds `positions.start`, or the first one behind it.
pub struct Request {
    queue: u64,
    positions: Range<u64>,
    durable: bool,
    reply: Box<dyn FnOnce(Option<Block>) + Send>,
}

/// What the disk knows of a queue: numbers and octets of its rows, in order.
#[derive(Debug, Default)]
pub struct Recovered {
    pub marks: Vec<(u64, Vec<u8>)>,
    /// The rows of settled positions, in the order they were written.
    pub settled: Vec<(u64, Vec<u8>)>,
    pub facts: Vec<(u64, Vec<u8>)>,
    pub tallies: Vec<(u64, Vec<u8>)>,
    /// The position behind the last block of each level (the positions with the same first octet).
    pub ends: Vec<u64>,
}

impl Store {
    /// Reads the block that holds a position, or the first one behind it, on the reading thread, and calls `reply` there;
    /// with `None` if there is no block up to the end of `positions`. Damaged blocks are reported and passed over.
    /// One request a queue at a time: the number of queues bounds them.
    pub fn load(
        &self,
        queue: u64,
        positions: Range<u64>,
        durable: bool,
        reply: impl FnOnce(Option<Block>) + Send + 'static,
    ) {
        if let Some(loads) = &*self.loads.lock() {
            // The thread ends only after the sender is gone.
            let _ = loads.send(Request { queue, positions, durable, reply: Box::new(reply) });
        }
    }

    pub(super) fn read_loop(&self, requests: &mpsc::Receiver<Request>) {
        while let Ok(request) = requests.recv() {
            self.answer(request);
        }
    }

    pub(super) fn answer(&self, request: Request) {
        let block = self.read(request.queue, request.positions, request.durable);
        self.times.reads.fetch_add(1, Ordering::Relaxed);
        (request.reply)(block);
    }

    fn read(&self, queue: u64, positions: Range<u64>, durable: bool) -> Option<Block> {
        let family = if durable { Family::Messages } else { Family::Spill };
        let key = Row::Block.key(queue, positions.start);
        // Blocks are mostly read one after the other, so the next key is known; the iterators are for the rest.
        match self.rows.get(family, &key) {
            Ok(Some(octets)) => match Run::decode(&octets) {
                Ok(run) => return Some((positions.start, Arc::new(run))),
                Err(damage) => self.quarantine(queue, positions.start, &format!("{damage:?}")),
            },
            Ok(None) => {}
            Err(failure) => self.unreadable(queue, positions.start, &failure),
        }
        let before = self.rows.up_to(family, &key).unwrap_or_else(|failure| {
            self.unreadable(queue, positions.start, &failure);
            None
        });
        if let Some((key, octets)) = before
            && let Some(first) = number(&key, queue, Row::Block)
            && first < positions.start
            && first + u64::from(Run::encoded_count(&octets).unwrap_or(0)) > positions.start
        {
            match Run::decode(&octets) {
                Ok(run) => return Some((first, Arc::new(run))),
                Err(damage) => self.quarantine(queue, first, &format!("{damage:?}")),
            }
        }
        self.first_of(queue, positions.start.saturating_add(1)..positions.end, family)
    }

    /// The first block that begins in a range of positions and can be read.
    fn first_of(&self, queue: u64, positions: Range<u64>, family: Family) -> Option<Block> {
        let Range { mut start, end } = positions;
        let look = |from: u64| {
            let [from, end] = [from, end].map(|position| Row::Block.key(queue, position));
            self.rows.from(family, &from, Some(&end)).next().transpose()
        };
        while start < end {
            match look(start) {
                Ok(None) => return None,
                Ok(Some((key, octets))) => {
                    let position = number(&key, queue, Row::Block)?;
                    match Run::decode(&octets) {
                        Ok(run) => return Some((position, Arc::new(run))),
                        Err(damage) => self.quarantine(queue, position, &format!("{damage:?}")),
                    }
                    start = position + 1;
                }
                Err(failure) => {
                    self.unreadable(queue, start, &failure);
                    start = behind_damage(start..end, |from| look(from).is_ok());
                }
            }
        }
        None
    }

    /// What is damaged is passed over. What the disk does not give may well be there at the next start: passed over, it
    /// would be settled, and lost for good.
    fn unreadable(&self, queue: u64, position: u64, failure: &Failure) {
        if failure.is_damage {
            self.quarantine(queue, position, &failure.to_string());
        } else {
            self.fail(failure);
        }
    }

    /// A damaged block stays where it is, for whoever wants to look; it is never delivered.
    fn quarantine(&self, queue: u64, position: u64, damage: &str) {
        tracing::error!(queue, position, damage, "a block of messages is damaged on disk and is not delivered");
    }

    /// What the disk knows of a queue: its marks, never its messages.
    pub fn recover(&self, queue: u64) -> Result<Recovered, Failure> {
        let mut found = Recovered::default();
        let rows = [
            (Row::Mark, &mut found.marks),
            (Row::Settled, &mut found.settled),
            (Row::Facts, &mut found.facts),
            (Row::Tallies, &mut found.tallies),
        ];
        for (row, rows) in rows {
            for found in self.rows.from(Family::Marks, &row.key(queue, 0), Some(&row.end(queue))) {
                let (key, octets) = found?;
                rows.extend(number(&key, queue, row).map(|number| (number, octets.into())));
            }
        }
        // From the highest level down: each level's last block is the last one below the level above.
        let mut below = u64::MAX;
        loop {
            let key = Row::Block.key(queue, below);
            let Some((key, octets)) = self.rows.up_to(Family::Messages, &key)? else { break };
            let Some(last) = number(&key, queue, Row::Block) else { break };
            found.ends.push(last + u64::from(Run::encoded_count(&octets).unwrap_or(0)));
            let Some(next) = (last & !LEVEL_POSITIONS).checked_sub(1) else { break };
            below = next;
        }
        Ok(found)
    }

    /// The first position of the block that holds `position`, or of the first one behind it.
    pub fn block_at(&self, queue: u64, position: u64) -> Result<Option<u64>, Failure> {
        let key = Row::Block.key(queue, position);
        let before = self.rows.up_to(Family::Messages, &key)?;
        let behind = self.rows.from(Family::Messages, &key, None).next().transpose()?;
        for (key, octets) in [before, behind].into_iter().flatten() {
            if let Some(first) = number(&key, queue, Row::Block)
                && first & !LEVEL_POSITIONS == position & !LEVEL_POSITIONS
                && first + u64::from(Run::encoded_count(&octets).unwrap_or(0)) > position
            {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }

    /// All definitions of a kind, as they were written.
    pub fn definitions(&self, kind: Kind) -> Result<Vec<Vec<u8>>, Failure> {
        let start = Definition::new(kind, &[]).0;
        let mut found = Vec::new();
        for row in self.rows.from(Family::Definitions, &start, None) {
            let (key, octets) = row?;
            if key.first() != start.first() {
                break;
            }
            found.push(octets.into());
        }
        Ok(found)
    }

    /// A number or text kept for the broker itself.
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.rows.get(Family::Meta, name.as_bytes())?.map(|value| value.to_vec()))
    }
}

/// The first position of a range, whose start can't be read, from which reading goes on, or its end. RocksDB does not pass
/// over what is damaged, and says nothing of its end.
fn behind_damage(positions: Range<u64>, mut is_readable: impl FnMut(u64) -> bool) -> u64 {
    /// As many messages as are in a damaged block of RocksDB's, or in one of ours that is larger: none that can be read is
    /// left out.
    const ONE_BY_ONE: u64 = 16_384;
    let near = positions.start.saturating_add(ONE_BY_ONE).min(positions.end);
    if let Some(found) = (positions.start + 1..near).find(|position| is_readable(*position)) {
        return found;
    }
    // What is so large is a whole file.
    let (mut unreadable, mut step) = (near.saturating_sub(1), ONE_BY_ONE);
    let mut readable = loop {
        let next = unreadable.saturating_add(step).min(positions.end);
        if next == positions.end || is_readable(next) {
            break next;
        }
        (unreadable, step) = (next, step.saturating_mul(2));
    };
    while unreadable + 1 < readable {
        let middle = unreadable + (readable - unreadable) / 2;
        if is_readable(middle) { readable = middle } else { unreadable = middle }
    }
    readable
}

/// The positions of one level: those with the same first octet.
const LEVEL_POSITIONS: u64 = u64::MAX >> 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_damage_is_found_and_nothing_in_between_left_out() {
        for (damaged, end) in [(0..1, 10), (0..10, 10), (0..100, 1000), (0..16_384, 20_000), (0..16_385, 1 << 40)] {
            assert_eq!(
                behind_damage(0..end, |position| !damaged.contains(&position)),
                damaged.end.min(end),
                "{damaged:?}"
            );
        }
        // A whole file, and more than there is.
        assert_eq!(behind_damage(5..1 << 50, |position| position >= 3_000_000_007), 3_000_000_007);
        assert_eq!(behind_damage(5..1 << 50, |_| false), 1 << 50);
        assert_eq!(behind_damage(5..6, |_| false), 6);
        // Between two that are damaged there may be little.
        assert_eq!(behind_damage(0..100_000, |position| position == 777), 777);
    }
}
