//! Dead messages: settled, or kept until they are handed on.

use super::Effects;
use super::State;
use crate::message::Run;
use crate::queue::dead_letter::Reason;
use crate::queue::log::Missing;
use crate::queue::tallies::Tally;
use std::ops::Range;
use std::sync::Arc;

/// What is handed on at once: enough to be cheap, little enough to hold up nobody.
const HAND_MESSAGES: usize = 1024;
const HAND_BYTES: usize = 1 << 20;
/// How long what nobody would take is kept before it is tried again.
const RETRY_MS: u64 = 500;

/// Positions that are neither ready nor out, and why.
#[derive(Debug)]
pub(super) struct Dying {
    pub range: Range<u64>,
    pub reason: Reason,
}

/// Dead messages of one run to be handed on.
#[derive(Debug)]
pub struct Dead {
    pub run: Arc<Run>,
    pub index: u32,
    pub count: u32,
    pub reason: Reason,
    /// How often they came back.
    pub tally: Tally,
    /// Where they are in the queue; nowhere, if they were refused at its door.
    pub positions: Option<Range<u64>>,
}

impl Dead {
    pub(super) fn turned_away(run: &Arc<Run>, range: &Range<u32>, failed: u32) -> Self {
        let (index, count) = (range.start, range.end - range.start);
        let tally = Tally { acquired: 0, failed };
        Self { run: Arc::clone(run), index, count, reason: Reason::MaxLen, tally, positions: None }
    }
}

impl<T> State<T> {
    /// Messages that are no longer ready nor out die.
    pub(super) fn die(&mut self, range: Range<u64>, reason: Reason) {
        // What was held back goes on; it is not dead.
        if !self.rules.delays {
            self.ends.died[reason as usize] += range.end - range.start;
        }
        if !self.rules.dead_letters {
            return self.settle_positions(range);
        }
        match self.dying.back_mut() {
            Some(last) if last.reason == reason && last.range.end == range.start => last.range.end = range.end,
            _ => self.dying.push_back(Dying { range, reason }),
        }
    }

    /// Whether [`State::take_dead`] has something to hand on.
    pub fn has_dead(&self) -> bool {
        !self.turned_away.is_empty() || !self.dying.is_empty() && self.dying_retry_ms.is_none()
    }

    /// Dead messages to hand on next, in the order of their deaths. They stay until [`State::buried`] says that they
    /// were. Nothing, if the first must be read from disk: ask again when it was.
    pub fn take_dead(&mut self, effects: &mut Effects<T>) -> Vec<Dead> {
        let mut found: Vec<Dead> = self.turned_away.drain(..).collect();
        if self.dying_retry_ms.is_some() {
            return found;
        }
        let (mut messages, mut bytes) = (0, 0);
        for Dying { range, reason } in &self.dying {
            let mut position = range.start;
            while position < range.end {
                if messages >= HAND_MESSAGES || bytes >= HAND_BYTES {
                    return found;
                }
                let (tally, until) = self.tallies.at(position, range.end);
                let Some(log) = self.log(position) else { return found };
                let mut piece = match log.piece(position..until) {
                    Ok(piece) => piece,
                    Err(missing) => {
                        if let Missing::Block(Some(load)) = missing
                            && found.is_empty()
                            && !self.loading
                        {
                            self.loading = true;
                            effects.load = Some(load);
                        }
                        return found;
                    }
                };
                let size = |index| piece.run.message_bytes(index);
                let mut count = 0;
                while count < piece.count && messages < HAND_MESSAGES && bytes < HAND_BYTES {
                    bytes += size(piece.index + count);
                    messages += 1;
                    count += 1;
                }
                piece.count = count;
                let end = position + u64::from(piece.count);
                found.push(Dead {
                    run: piece.run,
                    index: piece.index,
                    count: piece.count,
                    reason: *reason,
                    tally,
                    positions: Some(position..end),
                });
                position = end;
            }
        }
        found
    }

    /// The first dead messages have been handed on, or need not be: they are settled. Those that are not dying any more were
    /// settled meanwhile, by rules that want no dead letters or since the disk has lost them.
    pub fn buried(&mut self, range: Range<u64>) {
        while let Some(first) = self.dying.front_mut() {
            let part = first.range.start.max(range.start)..first.range.end.min(range.end);
            if part.is_empty() {
                return;
            }
            debug_assert_eq!(first.range.start, part.start, "the dead are handed on in order");
            first.range.start = part.end;
            if first.range.is_empty() {
                self.dying.pop_front();
            }
            self.ends.buried += part.end - part.start;
            self.settle_positions(part);
        }
    }

    /// Nobody took the first dead messages, and they must not be lost: they are tried again after a while.
    pub fn keep_dead(&mut self, now_ms: u64) {
        self.dying_retry_ms = Some(now_ms + RETRY_MS);
    }
}
