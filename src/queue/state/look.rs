//! What a queue shows of itself to those who list it. Nothing here is kept: it is made of what is there.

use super::State;
use crate::amqp::properties::Properties;
use crate::queue::log::Holdings;
use crate::queue::ranges::Ranges;

/// A queue's messages, looked at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    pub ready: u64,
    pub unacked: u64,
    pub consumers: usize,
    /// What is not settled.
    pub held: Holdings,
    /// Octets of the ready ones' bodies, and of those that are out.
    pub ready_bytes: u64,
    pub unacked_bytes: u64,
    /// Of the ready and of those that are out, those in memory.
    pub ready_memory: u64,
    pub unacked_memory: u64,
    /// Dead, and not yet handed on.
    pub dying: u64,
    /// When the oldest of them came, milliseconds since 1970. For messages that were there when the broker started: when
    /// it did.
    pub oldest_ready_ms: Option<u64>,
    pub oldest_unacked_ms: Option<u64>,
    /// What the first ready message says of its time, seconds since 1970; nothing while it is on disk.
    pub head_timestamp: Option<u64>,
}

impl<T> State<T> {
    /// Whether messages wait though there are consumers, since none of them takes more.
    pub fn is_blocked(&self) -> bool {
        !self.consumers.is_empty() && self.ready() > 0 && !self.consumers.has_credit()
    }

    pub fn look(&self) -> Look {
        let mut look =
            Look { ready: self.ready(), unacked: self.unacked, consumers: self.consumer_count(), ..Look::default() };
        let dying: Ranges = self.dying.iter().map(|dying| dying.range.clone()).collect();
        let resting: Ranges = self.resting.iter().map(|((_, first), end)| *first..*end).collect();
        look.dying = dying.count();
        let earlier = |known: Option<u64>, other: Option<u64>| known.into_iter().chain(other).min();
        for log in &self.levels {
            let held = log.holdings();
            look.held += held;
            let mut bytes_here = [0, 0];
            let live = log.live();
            // Ready, and neither ready, dying nor resting: out.
            for part in live {
                let mut out: Ranges = std::iter::once(part.clone()).collect();
                for ready in [log.ready(), self.returns.members()] {
                    for range in ready.intersection(part.clone()) {
                        out.remove(range.clone());
                        bytes_here[0] += log.body_bytes(range.clone());
                        look.ready_memory += log.in_memory_count(range.clone());
                        look.oldest_ready_ms = earlier(look.oldest_ready_ms, log.came_at(range.start));
                    }
                }
                for aside in [&dying, &resting] {
                    for range in aside.intersection(part.clone()) {
                        out.remove(range);
                    }
                }
                for range in out.iter() {
                    bytes_here[1] += log.body_bytes(range.clone());
                    look.unacked_memory += log.in_memory_count(range.clone());
                    look.oldest_unacked_ms = earlier(look.oldest_unacked_ms, log.came_at(range.start));
                }
            }
            look.ready_bytes += bytes_here[0];
            look.unacked_bytes += bytes_here[1];
        }
        let head = self.head().and_then(|head| self.log(head.start)?.piece(head).ok());
        look.head_timestamp = head.and_then(|piece| {
            let message = piece.run.message(piece.index);
            let octets = Properties::parse(message.properties).ok()?.timestamp?;
            Some(u64::from_be_bytes(octets.try_into().ok()?))
        });
        look
    }
}
