//! The messages of one priority, in the order they came: where they are, which are settled, and what the disk must be
//! told. Pure.
//!
//! Positions of priority `p` begin at `p << 56`, so that a position tells its level and blocks of all levels live in one
//! key space. A queue without priorities has level 0 alone.

use super::deadlines::Deadlines;
use super::ranges::Ranges;
use crate::message::{RUN_BYTES_MAX, Run};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// How many messages past the last delivered one are marked "perhaps delivered" on disk, at least and at most, so that
/// not every delivery needs a write: after a crash at most so many are marked redelivered though they were not.
const RESERVE_MESSAGES: Range<u64> = 64..16_384;
/// Runs are joined on their way to disk until a block has this many octets.
const BLOCK_BYTES: usize = RUN_BYTES_MAX;

/// Rows of settled positions on disk before they are folded into one; few in tests, so that their histories get there.
const SETTLED_ROWS_MAX: u32 = if cfg!(test) { 4 } else { 64 };

const LEVEL_SHIFT: u32 = 56;

/// The first position of a level.
pub fn base(level: u8) -> u64 {
    u64::from(level) << LEVEL_SHIFT
}

/// The level of a position.
pub fn level(position: u64) -> u8 {
    position.to_be_bytes()[0]
}

/// Asks for the block that holds a position, or the first one behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    pub position: u64,
    /// Look no further than this.
    pub end: u64,
    pub persistent: bool,
}

/// What the store must know to bring a level back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// Everything below is settled.
    pub low_water: u64,
    /// Everything below may have been delivered.
    pub delivered_below: u64,
    /// No position at or above was given to a message on disk.
    pub next: u64,
}

impl Mark {
    pub fn new(level: u8) -> Self {
        let base = base(level);
        Self { low_water: base, delivered_below: base, next: base }
    }
}

/// What is kept of a block beside it, so that recovery need not read the block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub count: u32,
    /// Octets of its messages' bodies.
    pub body_bytes: u64,
    pub deadlines: Option<Deadlines>,
}

/// A level as the disk knows it.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    pub mark: Mark,
    /// Settled above the low-water mark.
    pub settled: Ranges,
    /// Where its first block begins.
    pub first_block: u64,
    /// By first position, of the blocks that have any.
    pub facts: Vec<(u64, Facts)>,
}

/// A block for the disk.
#[derive(Debug)]
pub struct Block {
    pub first: u64,
    pub run: Arc<Run>,
    /// It must survive a restart; otherwise it only leaves memory.
    pub persistent: bool,
    pub facts: Option<Facts>,
}

/// What goes to disk in one commit, of one level.
#[derive(Debug, Default)]
pub struct Writes {
    pub level: u8,
    pub blocks: Vec<Block>,
    /// Blocks to delete, by first position and persistence.
    pub deleted: Vec<(u64, bool)>,
    /// Ranges of positions whose blocks are to be deleted, whatever blocks they are.
    pub purged: Vec<(Range<u64>, bool)>,
    pub mark: Option<Mark>,
    /// Positions above the low-water mark settled since the last commit.
    pub settled: Vec<Range<u64>>,
    /// All of them, instead, now and then.
    pub settled_all: Option<Vec<Range<u64>>>,
    /// Blocks of the level may have facts, to be deleted with them.
    pub facts: bool,
    /// Nothing below is on disk, or needs to be.
    pub first_kept: u64,
}

/// What the levels of a queue share.
#[derive(Debug)]
pub struct Shared {
    /// Persistent messages are written and recovered.
    pub durable: bool,
    /// All messages count as persistent, whatever their publishers say.
    pub all_persistent: bool,
    /// Messages leave the queue in any order, so that no block is needed sooner for standing in front.
    pub any_order: bool,
    /// Every block has facts, since bodies are counted.
    pub count_bodies: bool,
    /// Octets of messages to keep in memory.
    pub memory_max: usize,
    pub memory_bytes: usize,
    pub unstored_bytes: usize,
    pub unstored_messages: u64,
    /// Positions whose blocks must stay in memory: they go out next, though they are not the first ready ones.
    pub pinned: [Option<u64>; 2],
    /// Something left memory: its bodies are known by averages.
    pub averaged: bool,
    /// When the call began that the machine is in, or the queue was opened.
    pub now_ms: u64,
}

impl Shared {
    fn crowded(&self) -> bool {
        self.memory_bytes > self.memory_max
    }
}

/// Messages next to each other in the log.
#[derive(Debug)]
struct Segment {
    first: u64,
    count: u64,
    /// How many of them are not settled.
    live: u64,
    persistent: bool,
    /// To be stored: it is persistent, or memory was short when it came.
    due: bool,
    body: Body,
    stored: Stored,
    /// Octets of its messages' bodies; unknown for what was recovered without facts.
    body_bytes: Option<u64>,
    /// When its first and its last message came, as far as is known; in between they are taken to have come evenly.
    came_ms: [u64; 2],
    /// Those of its messages that expire. A segment with deadlines is one block.
    deadlines: Option<Box<Deadlines>>,
}

#[derive(Debug)]
enum Body {
    Memory(Arc<Run>),
    /// On disk, one block or (if nothing of them is in memory) many.
    Disk,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Stored {
    /// Not on disk.
    No,
    /// Handed to the store, not yet known to be there.
    Taken,
    /// On disk, under its first position.
    Yes,
}

impl Segment {
    fn end(&self) -> u64 {
        self.first + self.count
    }

    fn memory_bytes(&self) -> usize {
        match &self.body {
            Body::Memory(run) => run.bytes(),
            Body::Disk => 0,
        }
    }

    /// When the message at a position came.
    fn came_at(&self, position: u64) -> u64 {
        let [first, last] = self.came_ms;
        let share = u128::from(last.saturating_sub(first)) * u128::from(position.saturating_sub(self.first));
        first.saturating_add(u64::try_from(share / u128::from(self.count.max(1))).unwrap_or(u64::MAX))
    }

    /// The part of its run that a range of positions is.
    fn indexes(&self, range: &Range<u64>) -> Range<u32> {
        let index = |position: u64| u32::try_from(position - self.first).unwrap_or(u32::MAX);
        index(range.start.max(self.first))..index(range.end.min(self.end()))
    }

    /// The octets of the bodies in a range, as far as all together tell. Parts have together what the whole has.
    fn average(&self, range: &Range<u64>) -> u64 {
        let all = u128::from(self.body_bytes.unwrap_or(0));
        let up_to = |position: u64| all * u128::from(position - self.first) / u128::from(self.count.max(1));
        let bytes = up_to(range.end.min(self.end())) - up_to(range.start.max(self.first));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// Messages that can be handed out: a part of a run.
#[derive(Debug)]
pub struct Piece {
    pub run: Arc<Run>,
    pub index: u32,
    pub count: u32,
    /// They were out before.
    pub redelivered: bool,
}

/// What a log holds, ready or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Octets of all bodies; where messages are on disk as far as their average tells.
    pub bytes: u64,
    /// Messages in memory.
    pub memory: u64,
    pub memory_bytes: u64,
    /// Messages that survive a restart.
    pub persistent: u64,
    pub persistent_bytes: u64,
}

impl std::ops::AddAssign for Holdings {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.memory += other.memory;
        self.memory_bytes += other.memory_bytes;
        self.persistent += other.persistent;
        self.persistent_bytes += other.persistent_bytes;
    }
}

/// Messages whose time has come.
#[derive(Debug, Default)]
pub struct Expired {
    pub ready: Vec<Range<u64>>,
    /// Not ready, and not settled.
    pub overdue: Vec<Range<u64>>,
    /// The next deadline of the segment, and its first position.
    pub next: Option<(u64, u64)>,
}

/// Messages next to each other that are not settled, and what holds the first of them.
pub type Stretch = (Range<u64>, Held);

/// What holds a message.
#[derive(Debug, Clone)]
pub enum Held {
    Memory {
        run: Arc<Run>,
        index: u32,
    },
    /// A block on disk.
    Disk {
        persistent: bool,
    },
}

impl Held {
    /// The same for the message so many behind.
    pub fn behind(&self, offset: u64) -> Self {
        match self {
            Self::Memory { run, index } => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                Self::Memory { run: Arc::clone(run), index: index.saturating_add(offset) }
            }
            Self::Disk { persistent } => Self::Disk { persistent: *persistent },
        }
    }
}

/// Why messages can't be handed out now.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// They are on disk; nothing if that was asked for already, or must be written first.
    Block(Option<Load>),
    /// The disk must know first that they may have been delivered.
    Mark,
}

/// See the module's text.
#[derive(Debug)]
pub struct Log {
    level: u8,
    segments: VecDeque<Segment>,
    next: u64,
    low_water: u64,
    /// Settled positions above the low-water mark.
    settled: Ranges,
    ready: Ranges,
    /// Not ready, and their time has passed: they expire when they come back.
    overdue: Ranges,
    /// Ready, but their time has passed: they expire when they reach the head.
    spoiled: Ranges,
    /// Everything below was delivered before.
    delivered_below: u64,
    /// What the disk says of it, for persistent messages.
    delivered_below_stored: u64,
    /// The same once the commit under way is done.
    delivered_below_taken: u64,
    /// Wanted by a delivery that waits for it.
    reserve_wanted: bool,
    /// Segments in the log that are settled.
    dead: usize,
    // What the next commit takes.
    deleted: Vec<(u64, bool)>,
    purged: Vec<(Range<u64>, bool)>,
    settled_since: Ranges,
    /// Rows of settled positions on disk since they were last folded into one, and the end of the last position in any.
    settled_rows: u32,
    settled_rows_end: u64,
    stored_next: u64,
    mark: Mark,
    /// A block had facts.
    facts: bool,
}

impl Log {
    pub fn new(level: u8) -> Self {
        let mark = Mark::new(level);
        Self::recovered(level, Recovered { first_block: mark.next, mark, ..Recovered::default() }, 0)
    }

    /// A level as it was. When its messages came is not on disk: they count as having come now.
    pub fn recovered(level: u8, found: Recovered, now_ms: u64) -> Self {
        let Recovered { mark, settled, first_block, facts } = found;
        let next = mark.next.max(mark.delivered_below);
        let mut ready: Ranges = std::iter::once(mark.low_water..mark.next).collect();
        for range in settled.iter() {
            ready.remove(range);
        }
        let settled_rows_end = settled.iter().last().map_or(0, |range| range.end);
        let mut log = Self {
            level,
            segments: VecDeque::new(),
            next,
            low_water: mark.low_water,
            settled,
            ready,
            overdue: Ranges::default(),
            spoiled: Ranges::default(),
            delivered_below: mark.delivered_below,
            delivered_below_stored: mark.delivered_below,
            delivered_below_taken: mark.delivered_below,
            reserve_wanted: false,
            dead: 0,
            deleted: Vec::new(),
            purged: Vec::new(),
            settled_since: Ranges::default(),
            settled_rows: u32::from(settled_rows_end > 0),
            settled_rows_end,
            stored_next: mark.next,
            facts: !facts.is_empty(),
            mark,
        };
        log.recover_segments(first_block, facts, now_ms);
        // Positions that were promised as "perhaps delivered" but never given to a message stay unused.
        if log.stored_next < next {
            log.skip(log.stored_next..next);
        }
        log
    }

    /// What lies on disk: a segment for each block with facts, one for all blocks between.
    fn recover_segments(&mut self, first_block: u64, facts: Vec<(u64, Facts)>, now_ms: u64) {
        if self.ready.is_empty() {
            return;
        }
        let end = self.stored_next;
        let mut first = first_block.min(self.low_water);
        let mut add = |range: Range<u64>, known: Option<Facts>| {
            let live = self.ready.count_in(range.clone());
            if range.is_empty() || live == 0 {
                return;
            }
            let (body_bytes, deadlines) = match known {
                Some(facts) => (Some(facts.body_bytes), facts.deadlines.map(Box::new)),
                None => (None, None),
            };
            self.segments.push_back(Segment {
                first: range.start,
                count: range.end - range.start,
                live,
                persistent: true,
                due: false,
                body: Body::Disk,
                stored: Stored::Yes,
                body_bytes,
                came_ms: [now_ms; 2],
                deadlines,
            });
        };
        for (block, facts) in facts {
            let block_end = block + u64::from(facts.count);
            if block < first || block_end > end {
                continue;
            }
            add(first..block, None);
            add(block..block_end, Some(facts));
            first = block_end;
        }
        add(first..end, None);
    }

    pub fn level(&self) -> u8 {
        self.level
    }

    pub fn ready(&self) -> &Ranges {
        &self.ready
    }

    /// The segments' first positions and next deadlines, of those that have any.
    pub fn alarms(&self) -> impl Iterator<Item = (u64, u64)> {
        self.segments.iter().filter_map(|segment| Some((segment.deadlines.as_ref()?.next()?, segment.first)))
    }

    // ── Messages come and go ──────────────────────────────────────────────────────────────────────────────────────

    /// Adds messages at the end. Says their positions.
    pub fn append(&mut self, run: Arc<Run>, deadlines: Option<Deadlines>, shared: &mut Shared) -> Range<u64> {
        let persistent = shared.durable && (run.persistent() || shared.all_persistent);
        let (first, count) = (self.next, u64::from(run.count()));
        self.next += count;
        shared.memory_bytes += run.bytes();
        let due = persistent || shared.crowded();
        if due {
            shared.unstored_bytes += run.bytes();
            shared.unstored_messages += count;
        }
        self.segments.push_back(Segment {
            first,
            count,
            live: count,
            persistent,
            due,
            body_bytes: Some(run.body_bytes()),
            body: Body::Memory(run),
            stored: Stored::No,
            came_ms: [shared.now_ms; 2],
            deadlines: deadlines.map(Box::new),
        });
        self.ready.insert(first..first + count);
        first..first + count
    }

    /// Takes messages out of the ready ones.
    pub fn withdraw(&mut self, range: Range<u64>) {
        self.ready.remove(range.clone());
        if !self.spoiled.is_empty() {
            self.spoiled.remove(range);
        }
    }

    /// They are out for the first time, perhaps.
    pub fn delivered(&mut self, range: &Range<u64>) {
        self.delivered_below = self.delivered_below.max(range.end);
    }

    /// Puts messages back in their place.
    pub fn put_back(&mut self, range: Range<u64>) {
        self.ready.insert(range);
    }

    /// Ready messages expire when they reach the head.
    pub fn spoil(&mut self, range: Range<u64>) {
        self.spoiled.insert(range);
    }

    pub fn is_spoiled(&self, position: u64) -> bool {
        self.spoiled.contains(position)
    }

    /// The ready messages at the head, up to the first whose time has passed.
    pub fn head(&self) -> Option<Range<u64>> {
        let first = self.ready.first()?;
        if self.spoiled.is_empty() {
            return Some(first);
        }
        let end = self.spoiled.first_from(first.start).map_or(first.end, |spoiled| spoiled.min(first.end));
        Some(first.start..end)
    }

    /// Messages at the head whose time has passed.
    pub fn spoiled_head(&self) -> Option<Range<u64>> {
        let spoiled = self.spoiled.first()?;
        let first = self.ready.first()?;
        (first.start == spoiled.start).then(|| spoiled.start..spoiled.end.min(first.end))
    }

    /// The messages of the segment at `position` whose time comes by `now_ms`. Ready ones are not among them, but stay
    /// ready and are marked as spoiled, if `at_head`.
    pub fn expire(&mut self, position: u64, now_ms: u64, at_head: bool) -> Expired {
        let mut expired = Expired::default();
        let Some(at) = self.segment_at(position) else { return expired };
        let segment = &mut self.segments[at];
        let first = segment.first;
        let Some(deadlines) = &mut segment.deadlines else { return expired };
        while let Some(deadline) = deadlines.pass(now_ms) {
            let start = first + u64::from(deadline.offset);
            let range = start.max(self.low_water)..(start + u64::from(deadline.count)).max(self.low_water);
            for part in self.settled.difference(range) {
                for held in self.ready.difference(part.clone()) {
                    self.overdue.insert(held.clone());
                    expired.overdue.push(held);
                }
                let ready = self.ready.intersection(part);
                if at_head {
                    ready.iter().for_each(|part| self.spoiled.insert(part.clone()));
                } else {
                    expired.ready.extend(ready);
                }
            }
        }
        expired.next = deadlines.next().map(|at_ms| (at_ms, first));
        expired
    }

    /// Octets of messages' bodies; an average for those that are on disk, nothing for what nobody knows until it is read.
    pub fn body_bytes(&self, range: Range<u64>) -> u64 {
        let mut at = self.segments.partition_point(|segment| segment.end() <= range.start);
        let mut bytes = 0;
        while let Some(segment) = self.segments.get(at).filter(|segment| segment.first < range.end) {
            bytes += match &segment.body {
                Body::Memory(run) => run.body_bytes_of(segment.indexes(&range)),
                Body::Disk => segment.average(&range),
            };
            at += 1;
        }
        bytes
    }

    /// How many messages of a range are in memory.
    pub fn in_memory_count(&self, range: Range<u64>) -> u64 {
        let in_memory = self.segments_in(&range).filter(|segment| matches!(segment.body, Body::Memory(_)));
        in_memory.map(|segment| segment.end().min(range.end) - segment.first.max(range.start)).sum()
    }

    /// When the message at a position came, if it is there.
    pub fn came_at(&self, position: u64) -> Option<u64> {
        self.segment_at(position).map(|at| self.segments[at].came_at(position))
    }

    /// All that is not settled.
    pub fn live(&self) -> Vec<Range<u64>> {
        self.settled.difference(self.low_water..self.next)
    }

    /// What is not settled, by where and of what kind it is: counts and octets of bodies.
    pub fn holdings(&self) -> Holdings {
        let mut held = Holdings::default();
        let live = self.live();
        let mut parts = live.iter().cloned().peekable();
        for segment in self.segments.iter().filter(|segment| segment.live > 0) {
            let mut bytes = 0;
            while let Some(part) = parts.peek().filter(|part| part.start < segment.end()) {
                let within = part.start.max(segment.first)..part.end.min(segment.end());
                if !within.is_empty() {
                    bytes += match &segment.body {
                        Body::Memory(run) => run.body_bytes_of(segment.indexes(&within)),
                        Body::Disk => segment.average(&within),
                    };
                }
                if part.end > segment.end() {
                    break;
                }
                parts.next();
            }
            held.bytes += bytes;
            if matches!(segment.body, Body::Memory(_)) {
                held.memory += segment.live;
                held.memory_bytes += bytes;
            }
            if segment.persistent {
                held.persistent += segment.live;
                held.persistent_bytes += bytes;
            }
        }
        held
    }

    /// The parts of a range of not settled positions of which nothing is left, in memory or on disk.
    pub fn lost(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut lost = Vec::new();
        let mut start = range.start;
        for segment in self.segments_in(&range) {
            if start < segment.first {
                lost.push(start..segment.first);
            }
            start = segment.end();
        }
        if start < range.end {
            lost.push(start..range.end);
        }
        lost
    }

    /// The parts of a range that come back after a restart.
    pub fn kept(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let persistent = self.segments_in(&range).filter(|segment| segment.persistent);
        persistent.map(|segment| segment.first.max(range.start)..segment.end().min(range.end)).collect()
    }

    fn segments_in(&self, range: &Range<u64>) -> impl Iterator<Item = &Segment> {
        let start = self.segments.partition_point(|segment| segment.end() <= range.start);
        let end = range.end;
        self.segments.range(start..).take_while(move |segment| segment.first < end)
    }

    /// Those of a range whose time has passed while they were not ready; they are no longer counted as such.
    pub fn take_overdue(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let late = self.overdue.intersection(range);
        for part in &late {
            self.overdue.remove(part.clone());
        }
        late
    }

    /// Whether the message at a position is in memory.
    pub fn in_memory(&self, position: u64) -> bool {
        self.segment_at(position).is_some_and(|at| matches!(self.segments[at].body, Body::Memory(_)))
    }

    // ── Handing out ───────────────────────────────────────────────────────────────────────────────────────────────

    /// The longest part of `wanted` from its start that can be delivered now.
    pub fn deliverable(&mut self, wanted: Range<u64>) -> Result<Piece, Missing> {
        let mut piece = self.piece(wanted.clone())?;
        let position = wanted.start;
        let Some(at) = self.segment_at(position) else { return Err(Missing::Block(None)) };
        let segment = &self.segments[at];
        let mut end = position + u64::from(piece.count);
        // What is on disk must be known there as delivered before it goes out, or a crash would forget it.
        if segment.persistent && segment.stored != Stored::No {
            if position >= self.delivered_below_stored {
                self.reserve_wanted = true;
                return Err(Missing::Mark);
            }
            end = end.min(self.delivered_below_stored);
        }
        piece.redelivered = position < self.delivered_below;
        if piece.redelivered {
            end = end.min(self.delivered_below);
        }
        piece.count = u32::try_from(end - position).map_err(|_| Missing::Block(None))?;
        Ok(piece)
    }

    /// The longest part of `wanted` from its start that is in memory in one run.
    pub fn piece(&self, wanted: Range<u64>) -> Result<Piece, Missing> {
        let Some(at) = self.segment_at(wanted.start) else { return Err(Missing::Block(None)) };
        let segment = &self.segments[at];
        let Body::Memory(run) = &segment.body else { return Err(Missing::Block(self.load(at, wanted.start))) };
        let indexes = segment.indexes(&wanted);
        Ok(Piece { run: Arc::clone(run), index: indexes.start, count: indexes.end - indexes.start, redelivered: false })
    }

    /// The first stretch of messages from a position on that are not settled, as far as one run or the disk holds them.
    pub fn unsettled(&self, from: u64) -> Option<Stretch> {
        let from = from.max(self.low_water);
        let behind = self.segments.partition_point(|segment| segment.end() <= from);
        self.segments.iter().skip(behind).find_map(|segment| {
            let whole = segment.first.max(from)..segment.end();
            let range = self.settled.difference(whole).into_iter().next()?;
            let held = match &segment.body {
                Body::Memory(run) => Held::Memory { run: Arc::clone(run), index: segment.indexes(&range).start },
                Body::Disk => Held::Disk { persistent: segment.persistent },
            };
            Some((range, held))
        })
    }

    /// Whether a message was delivered before, or may have been.
    pub fn was_delivered(&self, position: u64) -> bool {
        position < self.delivered_below
    }

    fn segment_at(&self, position: u64) -> Option<usize> {
        let at = self.segments.partition_point(|segment| segment.end() <= position);
        (self.segments.get(at)?.first <= position).then_some(at)
    }

    fn load(&self, at: usize, position: u64) -> Option<Load> {
        let segment = &self.segments[at];
        let load = Load { position: position.max(segment.first), end: segment.end(), persistent: segment.persistent };
        (segment.stored == Stored::Yes).then_some(load)
    }

    /// The next block to fetch before a consumer has to wait for it: the first on disk within `bytes_max` of messages, and
    /// within so many segments, since a look is taken with each delivery.
    pub fn read_ahead(&self, bytes_max: usize) -> Option<Load> {
        const SEGMENTS_MAX: usize = 64;
        let head = self.ready.first()?.start;
        let from = self.segment_at(head)?;
        let mut ahead = 0;
        for (at, segment) in (from..).zip(self.segments.range(from..).take(SEGMENTS_MAX)) {
            if ahead >= bytes_max {
                return None;
            }
            match &segment.body {
                Body::Memory(run) => ahead += run.bytes(),
                Body::Disk => {
                    let ready = self.ready.first_from(segment.first.max(head));
                    if let Some(position) = ready.filter(|position| *position < segment.end()) {
                        return self.load(at, position);
                    }
                }
            }
        }
        None
    }

    // ── Settling ──────────────────────────────────────────────────────────────────────────────────────────────────

    /// Messages are done with.
    pub fn settle(&mut self, range: Range<u64>, shared: &mut Shared) {
        if range.is_empty() {
            return;
        }
        let mut at = self.segments.partition_point(|segment| segment.end() <= range.start);
        while let Some(segment) = self.segments.get_mut(at) {
            let (start, end) = (segment.first.max(range.start), segment.end().min(range.end));
            if start >= end {
                break;
            }
            segment.live -= end - start;
            if segment.live == 0 {
                self.finish(at, shared);
            }
            at += 1;
        }
        self.drop_dead();
        if !self.overdue.is_empty() {
            self.overdue.remove(range.clone());
        }
        self.skip(range);
    }

    /// Notes positions as settled.
    fn skip(&mut self, range: Range<u64>) {
        if range.start <= self.low_water && self.settled.is_empty() {
            self.low_water = range.end;
        } else {
            self.settled.insert(range.clone());
            self.settled_since.insert(range);
            if let Some(first) = self.settled.first()
                && first.start <= self.low_water
            {
                self.low_water = first.end;
                self.settled.pop_front(u64::MAX);
            }
        }
    }

    /// Lets go of segments of which nothing is left.
    fn drop_dead(&mut self) {
        let dead = |segment: &Segment| segment.live == 0 && segment.stored != Stored::Taken;
        while self.segments.front().is_some_and(dead) {
            self.segments.pop_front();
            self.dead = self.dead.saturating_sub(1);
        }
        // One old message that stays must not keep the traces of all that came and went behind it.
        if self.dead > 256 && self.dead > self.segments.len() / 2 {
            self.segments.retain(|segment| !dead(segment));
            self.dead = 0;
        }
    }

    /// Everything in a segment is settled: memory and disk forget it.
    fn finish(&mut self, at: usize, shared: &mut Shared) {
        self.dead += 1;
        let segment = &mut self.segments[at];
        shared.memory_bytes -= segment.memory_bytes();
        match segment.stored {
            Stored::No if segment.due => {
                shared.unstored_bytes -= segment.memory_bytes();
                shared.unstored_messages -= segment.count;
            }
            Stored::No => {}
            Stored::Yes => match segment.body {
                Body::Memory(_) => self.deleted.push((segment.first, segment.persistent)),
                Body::Disk => self.purged.push((segment.first..segment.end(), segment.persistent)),
            },
            // Deleted when the commit is done.
            Stored::Taken => {}
        }
        segment.body = Body::Disk;
        segment.deadlines = None;
    }

    /// The block that was asked for: its first position and its messages; `None` if there is none (any more).
    /// Gives back what was lost: positions that should have been there and were not.
    pub fn loaded(&mut self, load: Load, block: Option<(u64, Arc<Run>)>, shared: &mut Shared) -> Vec<Range<u64>> {
        let Some(at) = self.segment_at(load.position) else { return Vec::new() };
        let segment = &self.segments[at];
        if !matches!(segment.body, Body::Disk) || segment.live == 0 || segment.stored != Stored::Yes {
            return Vec::new();
        }
        let whole = segment.first..segment.end();
        let (persistent, body_bytes) = (segment.persistent, segment.body_bytes);
        let (start, run) = match block {
            Some((start, run)) if start < whole.end && start >= whole.start => (start, Some(run)),
            _ => (whole.end, None),
        };
        // From here to the block there is none: settled long ago, or lost.
        let gap = load.position.min(start)..start;
        let block_end = run.as_ref().map_or(whole.end, |run| (start + u64::from(run.count())).min(whole.end));
        let gap_live = self.live_in(gap.clone());
        let rests = [block_end..whole.end, whole.start..gap.start];
        let rest_bytes = body_bytes.zip(run.as_ref()).map(|(all, run)| all.saturating_sub(run.body_bytes()));
        let rest_count = rests.iter().map(|rest| rest.end - rest.start).sum::<u64>().max(1);
        let deadlines = self.segments[at].deadlines.take();
        let segment = &self.segments[at];
        let came = |part: &Range<u64>| [segment.came_at(part.start), segment.came_at(part.end)];
        let rests = rests.map(|rest| (came(&rest), rest));
        let run_came = came(&(start..block_end));
        self.segments.remove(at);
        for (came_ms, rest) in rests {
            let (live, count) = (self.live_in(rest.clone()), rest.end - rest.start);
            if live > 0 {
                self.segments.insert(
                    at,
                    Segment {
                        first: rest.start,
                        count,
                        live,
                        persistent,
                        due: false,
                        body: Body::Disk,
                        stored: Stored::Yes,
                        body_bytes: rest_bytes
                            .map(|bytes| bytes / rest_count * count + bytes % rest_count * count / rest_count),
                        came_ms,
                        deadlines: None,
                    },
                );
            } else if count > 0 {
                self.purged.push((rest, persistent));
            }
        }
        if let Some(run) = run {
            let live = self.live_in(start..block_end);
            if live > 0 {
                shared.memory_bytes += run.bytes();
                let at = self.segments.partition_point(|segment| segment.end() <= start);
                self.segments.insert(
                    at,
                    Segment {
                        first: start,
                        count: u64::from(run.count()),
                        live,
                        persistent,
                        due: false,
                        body_bytes: Some(run.body_bytes()),
                        body: Body::Memory(run),
                        stored: Stored::Yes,
                        came_ms: run_came,
                        deadlines,
                    },
                );
            } else {
                self.deleted.push((start, persistent));
            }
        }
        if gap_live > 0 { self.settled.difference(gap) } else { Vec::new() }
    }

    /// Not settled positions in a range.
    fn live_in(&self, range: Range<u64>) -> u64 {
        let range = range.start.max(self.low_water)..range.end.max(self.low_water);
        (range.end - range.start) - self.settled.count_in(range)
    }

    // ── The store ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether [`Log::take`] has something to hand over beside unstored messages.
    pub fn dirty(&self, shared: &Shared) -> bool {
        !self.deleted.is_empty()
            || !self.purged.is_empty()
            || shared.durable && (self.mark_due() || !self.settled_since.is_empty())
    }

    fn stored_any(&self) -> bool {
        self.stored_next > base(self.level)
    }

    fn mark_due(&self) -> bool {
        self.reserve_wanted || self.stored_any() && self.mark.low_water != self.low_water.min(self.stored_next)
    }

    /// What must be written now. [`Log::stored`] tells that it was.
    pub fn take(&mut self, consumed: bool, shared: &mut Shared) -> Writes {
        let mut writes = Writes { level: self.level, ..Writes::default() };
        if shared.unstored_messages > 0 {
            self.take_blocks(&mut writes, shared);
        }
        writes.deleted = std::mem::take(&mut self.deleted);
        writes.purged = std::mem::take(&mut self.purged);
        if shared.durable {
            self.take_mark(&mut writes, consumed);
        } else {
            self.settled_since.clear();
            self.reserve_wanted = false;
        }
        writes.facts = self.facts;
        writes.first_kept = self.first_kept();
        writes
    }

    fn take_blocks(&mut self, writes: &mut Writes, shared: &mut Shared) {
        let mut at = self.segments.len();
        while at > 0 && self.segments[at - 1].stored == Stored::No {
            at -= 1;
        }
        while at < self.segments.len() {
            let segment = &self.segments[at];
            if !segment.due || segment.live == 0 {
                at += 1;
                continue;
            }
            // Join the small runs behind it.
            let persistent = segment.persistent;
            let (mut end, mut bytes) = (at, 0);
            while let Some(next) = self.segments.get(end)
                && next.live > 0
                && next.due
                && next.persistent == persistent
                && (end == at || bytes + next.memory_bytes() <= BLOCK_BYTES)
                && (end == at || self.segments[end - 1].end() == next.first)
            {
                bytes += next.memory_bytes();
                end += 1;
            }
            if end > at + 1 {
                self.join(at, end, shared);
            }
            let segment = &mut self.segments[at];
            (segment.stored, segment.due) = (Stored::Taken, false);
            if let Body::Memory(run) = &segment.body {
                let facts = (persistent && (segment.deadlines.is_some() || shared.count_bodies)).then(|| Facts {
                    count: run.count(),
                    body_bytes: run.body_bytes(),
                    deadlines: segment.deadlines.as_deref().cloned(),
                });
                self.facts |= facts.is_some();
                writes.blocks.push(Block { first: segment.first, run: Arc::clone(run), persistent, facts });
            }
            if persistent {
                // Positions in between that never get to disk (transient messages) must not be missed after a crash.
                if self.stored_next < segment.first {
                    self.settled_since.insert(self.stored_next..segment.first);
                }
                self.stored_next = segment.end();
            }
            at += 1;
        }
    }

    /// Makes one segment of several, all in memory and not yet on disk.
    fn join(&mut self, start: usize, end: usize, shared: &mut Shared) {
        let runs: Vec<Arc<Run>> = self
            .segments
            .range(start..end)
            .filter_map(|segment| match &segment.body {
                Body::Memory(run) => Some(Arc::clone(run)),
                Body::Disk => None,
            })
            .collect();
        let Some(joined) = Run::concat(runs.iter().map(|run| &**run)) else { return };
        let first = self.segments[start].first;
        let offset = |segment: &Segment| u32::try_from(segment.first - first).unwrap_or(u32::MAX);
        let deadlines = Deadlines::join(
            self.segments
                .range(start..end)
                .filter_map(|segment| Some((segment.deadlines.as_deref()?, offset(segment)))),
        );
        let count = self.segments.range(start..end).map(|segment| segment.count).sum::<u64>();
        debug_assert_eq!(count, u64::from(joined.count()));
        let live = self.segments.range(start..end).map(|segment| segment.live).sum();
        let last_came_ms = self.segments[end - 1].came_ms[1];
        shared.memory_bytes -= runs.iter().map(|run| run.bytes()).sum::<usize>();
        shared.memory_bytes += joined.bytes();
        self.segments.drain(start + 1..end);
        let segment = &mut self.segments[start];
        segment.body_bytes = Some(joined.body_bytes());
        segment.came_ms[1] = last_came_ms;
        (segment.count, segment.live, segment.body) = (count, live, Body::Memory(Arc::new(joined)));
        segment.deadlines = deadlines.map(Box::new);
    }

    fn take_mark(&mut self, writes: &mut Writes, consumed: bool) {
        let settled = std::mem::take(&mut self.settled_since);
        if !self.stored_any() {
            // Nothing of this level was ever on disk.
            self.reserve_wanted = false;
            return;
        }
        let low_water = self.low_water.min(self.stored_next);
        let mut delivered_below = self.delivered_below.max(self.delivered_below_stored);
        // What goes out next is the first ready message. It may stand far behind the last delivered one: those between
        // were purged, or died.
        let start = self.ready.first().map_or(self.delivered_below, |first| first.start.max(self.delivered_below));
        let backlog = self.stored_next.saturating_sub(start);
        let ahead = (backlog / 4).clamp(RESERVE_MESSAGES.start, RESERVE_MESSAGES.end);
        let near = start + ahead / 2 >= self.delivered_below_stored;
        if backlog > 0 && consumed && near || self.reserve_wanted {
            delivered_below = delivered_below.max(start + ahead);
        }
        self.reserve_wanted = false;
        let mark = Mark { low_water, delivered_below, next: self.stored_next };
        self.delivered_below_taken = delivered_below;
        for range in settled.iter() {
            let range = range.start.max(low_water)..range.end.min(self.stored_next);
            if !range.is_empty() {
                self.settled_rows_end = self.settled_rows_end.max(range.end);
                writes.settled.push(range);
            }
        }
        if !writes.settled.is_empty() {
            self.settled_rows += 1;
            if self.settled_rows >= SETTLED_ROWS_MAX {
                self.settled_rows = 1;
                writes.settled.clear();
                writes.settled_all = Some(self.settled_on_disk());
            }
        } else if self.settled_rows > 0 && low_water >= self.settled_rows_end {
            // All of them are below the mark.
            self.settled_rows = 0;
            writes.settled_all = Some(Vec::new());
        }
        // Where the level ends is seen from its last block: a mark for that alone would cost a row a commit.
        if (mark.low_water, mark.delivered_below) != (self.mark.low_water, self.mark.delivered_below) {
            writes.mark = Some(mark.clone());
            self.mark = mark;
        }
    }

    /// What the disk must take for settled above the low-water mark: also what never got there.
    fn settled_on_disk(&self) -> Vec<Range<u64>> {
        let mut all = self.settled.clone();
        for segment in &self.segments {
            if !segment.persistent {
                all.insert(segment.first..segment.end().min(self.stored_next));
            }
        }
        all.iter().filter(|range| range.start < self.stored_next).collect()
    }

    /// What [`Log::take`] gave out is on disk.
    pub fn stored(&mut self, shared: &mut Shared) {
        self.delivered_below_stored = self.delivered_below_stored.max(self.delivered_below_taken);
        // The segments taken are near the end, among those that came since.
        let mut start = self.segments.len();
        while start > 0 && self.segments[start - 1].stored != Stored::Yes {
            start -= 1;
            let segment = &mut self.segments[start];
            if segment.stored != Stored::Taken {
                continue;
            }
            segment.stored = Stored::Yes;
            if segment.live == 0 {
                self.deleted.push((segment.first, segment.persistent));
            } else if shared.crowded() && !holds(segment, shared.pinned) {
                // The last ones first: they are needed last.
                shared.memory_bytes -= segment.memory_bytes();
                shared.averaged = true;
                segment.body = Body::Disk;
            }
        }
        self.merge_disk(start.saturating_sub(1), self.segments.len());
        self.drop_dead();
    }

    /// Makes one segment of neighbours of which nothing is in memory, so that a long queue costs nothing.
    fn merge_disk(&mut self, start: usize, mut end: usize) {
        let on_disk = |segment: &Segment| {
            matches!(segment.body, Body::Disk)
                && segment.stored == Stored::Yes
                && segment.live > 0
                && segment.deadlines.is_none()
        };
        let mut at = start;
        while at + 1 < end.min(self.segments.len()) {
            let (segment, next) = (&self.segments[at], &self.segments[at + 1]);
            let alike = on_disk(segment)
                && on_disk(next)
                && segment.persistent == next.persistent
                && segment.body_bytes.is_some() == next.body_bytes.is_some()
                && segment.end() == next.first;
            if alike {
                let (count, live, body_bytes) = (next.count, next.live, next.body_bytes);
                let last_came_ms = next.came_ms[1];
                self.segments.remove(at + 1);
                end -= 1;
                let segment = &mut self.segments[at];
                segment.count += count;
                segment.live += live;
                segment.came_ms[1] = last_came_ms;
                segment.body_bytes = segment.body_bytes.zip(body_bytes).map(|(a, b)| a + b);
            } else {
                at += 1;
            }
        }
    }

    /// Delivered messages that are on disk leave memory when it is short, whoever hoards them. Where they leave the queue
    /// in any order, whatever is on disk does: each block read for one message would stay for the rest of it.
    pub fn evict_delivered(&mut self, shared: &mut Shared) {
        let first_ready = match shared.any_order {
            true => self.next,
            false => self.ready.first().map_or(self.next, |range| range.start),
        };
        let mut end = 0;
        for segment in &mut self.segments {
            if !shared.crowded() || segment.end() > first_ready {
                break;
            }
            end += 1;
            if segment.stored == Stored::Yes
                && matches!(segment.body, Body::Memory(_))
                && !holds(segment, shared.pinned)
            {
                shared.memory_bytes -= segment.memory_bytes();
                shared.averaged = true;
                segment.body = Body::Disk;
            }
        }
        self.merge_disk(0, end);
    }

    /// Nothing below this position is on disk, or needs to be.
    pub fn first_kept(&self) -> u64 {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// Whether it ever held a message.
    pub fn used(&self) -> bool {
        self.next > base(self.level)
    }

    /// The mark of a level at rest: after it a restart knows exactly what was delivered. Nothing is delivered any more, so
    /// that marks after it, when the queue still gets messages that others hand on, need not reserve anything either.
    pub fn final_mark(&mut self) -> Option<Mark> {
        (self.delivered_below_stored, self.delivered_below_taken) = (self.delivered_below, self.delivered_below);
        self.stored_any().then(|| Mark {
            low_water: self.low_water.min(self.stored_next),
            delivered_below: self.delivered_below,
            next: self.stored_next,
        })
    }

    /// The level is deleted with its queue.
    pub fn clear(&mut self) {
        self.ready.clear();
        self.segments.clear();
    }
}

fn holds(segment: &Segment, positions: [Option<u64>; 2]) -> bool {
    positions.into_iter().flatten().any(|position| (segment.first..segment.end()).contains(&position))
}
