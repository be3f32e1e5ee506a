//! Reading back: blocks while the broker runs, marks and definitions when it starts.

use super::keys::{Definition, Kind, ROW_BYTES, Row, number};
use super::{DEFINITIONS, MARKS, MESSAGES, META, SPILL, Store};
use crate::message::Run;
use rocksdb::{Direction, IteratorMode, ReadOptions};
use std::ops::Range;
use std::sync::{Arc, mpsc};

/// A block that was read: its first position and its messages.
pub type Block = (u64, Arc<Run>);

/// Asks for the first block of a queue at or behind `positions.start`.
pub(super) struct Request {
    queue: u64,
    positions: Range<u64>,
    durable: bool,
    reply: Box<dyn FnOnce(Option<Block>) + Send>,
}

/// What the disk knows of a queue.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The octets of its mark.
    pub mark: Option<Vec<u8>>,
    /// The rows of settled positions, in the order they were written, with their numbers.
    pub settled: Vec<(u64, Vec<u8>)>,
    /// The first position of its first block.
    pub first_block: Option<u64>,
    /// The position behind its last block.
    pub end: Option<u64>,
}

impl Store {
    /// Reads the first block at or behind a position, on the reading thread, and calls `reply` there; with `None` if
    /// there is no block up to the end of `positions`. Damaged blocks are reported and passed over.
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
            let block = self.read(request.queue, request.positions, request.durable);
            (request.reply)(block);
        }
    }

    fn read(&self, queue: u64, positions: Range<u64>, durable: bool) -> Option<Block> {
        let family = self.family(if durable { MESSAGES } else { SPILL });
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        let key = Row::Block.key(queue, positions.start);
        // Positions follow each other, so the next key is known; the iterator is for gaps.
        match self.db.get_pinned_cf_opt(family, key, &options) {
            Ok(Some(octets)) => match Run::decode(&octets) {
                Ok(run) => return Some((positions.start, Arc::new(run))),
                Err(damage) => self.quarantine(queue, positions.start, &format!("{damage:?}")),
            },
            Ok(None) => {}
            Err(error) => self.quarantine(queue, positions.start, error.as_ref()),
        }
        let start = Row::Block.key(queue, positions.start.saturating_add(1));
        options.set_iterate_upper_bound(Row::Block.key(queue, positions.end).to_vec());
        let mode = IteratorMode::From(&start, Direction::Forward);
        for item in self.db.iterator_cf_opt(family, options, mode) {
            match item {
                Ok((key, octets)) => {
                    let position = number(&key, queue, Row::Block)?;
                    match Run::decode(&octets) {
                        Ok(run) => return Some((position, Arc::new(run))),
                        Err(damage) => self.quarantine(queue, position, &format!("{damage:?}")),
                    }
                }
                Err(error) => {
                    self.quarantine(queue, positions.start, error.as_ref());
                    return None;
                }
            }
        }
        None
    }

    /// A damaged block stays where it is, for whoever wants to look; it is never delivered.
    fn quarantine(&self, queue: u64, position: u64, damage: &str) {
        tracing::error!(queue, position, damage, "a block of messages is damaged on disk and is not delivered");
    }

    /// What the disk knows of a queue: its marks, never its messages.
    pub fn recover(&self, queue: u64) -> Result<Recovered, rocksdb::Error> {
        let (family, blocks) = (self.family(MARKS), self.family(MESSAGES));
        let mut found = Recovered { mark: self.db.get_cf(family, Row::Mark.key(queue, 0))?, ..Recovered::default() };
        let start = Row::Settled.key(queue, 0);
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(Row::Block.key(queue, 0).to_vec());
        for item in self.db.iterator_cf_opt(family, options, IteratorMode::From(&start, Direction::Forward)) {
            let (key, octets) = item?;
            if let Some(row) = number(&key, queue, Row::Settled) {
                found.settled.push((row, octets.into()));
            }
        }
        let start = Row::Block.key(queue, u64::MAX);
        if let Some(item) = self.db.iterator_cf(blocks, IteratorMode::From(&start, Direction::Reverse)).next() {
            let (key, octets) = item?;
            if let Some(last) = number(&key, queue, Row::Block) {
                found.end = Some(last + u64::from(Run::encoded_count(&octets).unwrap_or(0)));
            }
        }
        Ok(found)
    }

    /// The first position of the block that holds `position`, or of the first one behind it.
    pub fn block_at(&self, queue: u64, position: u64) -> Result<Option<u64>, rocksdb::Error> {
        let family = self.family(MESSAGES);
        let start = Row::Block.key(queue, position);
        for direction in [Direction::Reverse, Direction::Forward] {
            if let Some(item) = self.db.iterator_cf(family, IteratorMode::From(&start, direction)).next() {
                let (key, octets) = item?;
                if let Some(first) = number(&key, queue, Row::Block)
                    && first + u64::from(Run::encoded_count(&octets).unwrap_or(0)) > position
                {
                    return Ok(Some(first));
                }
            }
        }
        Ok(None)
    }

    /// All definitions of a kind, as they were written.
    pub fn definitions(&self, kind: Kind) -> Result<Vec<Vec<u8>>, rocksdb::Error> {
        let start = Definition::new(kind, &[]).0;
        let family = self.family(DEFINITIONS);
        let mut found = Vec::new();
        for item in self.db.iterator_cf(family, IteratorMode::From(&start, Direction::Forward)) {
            let (key, octets) = item?;
            if key.first() != start.first() {
                break;
            }
            found.push(octets.into());
        }
        Ok(found)
    }

    /// A number or text kept for the broker itself.
    pub fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, rocksdb::Error> {
        self.db.get_cf(self.family(META), name)
    }
}

const _: () = assert!(ROW_BYTES == 17);
