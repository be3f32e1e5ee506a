//! When messages expire.

/// Messages next to each other that expire at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Where they begin in their block.
    pub offset: u32,
    pub count: u32,
}

/// The deadlines of a block's messages, in order of time. Messages that never expire are not in it; those that came
/// together with the same time to live are one entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deadlines {
    entries: Vec<Deadline>,
    /// How many of them have passed.
    passed: usize,
}

/// Octets of an encoded entry.
const ENTRY_BYTES: usize = 16;

impl Deadlines {
    /// Deadlines of messages in their order: the time for each, `None` for those that never expire.
    /// `None` if none ever does.
    pub fn of(times: impl Iterator<Item = Option<u64>>) -> Option<Self> {
        let mut entries: Vec<Deadline> = Vec::new();
        for (offset, at_ms) in (0..).zip(times) {
            let Some(at_ms) = at_ms else { continue };
            match entries.last_mut() {
                Some(last) if last.at_ms == at_ms && last.offset + last.count == offset => last.count += 1,
                _ => entries.push(Deadline { at_ms, offset, count: 1 }),
            }
        }
        Self::sorted(entries)
    }

    /// One deadline for the first `count` messages.
    pub fn all(at_ms: u64, count: u32) -> Self {
        Self { entries: vec![Deadline { at_ms, offset: 0, count }], passed: 0 }
    }

    fn sorted(mut entries: Vec<Deadline>) -> Option<Self> {
        if entries.is_empty() {
            return None;
        }
        // Nearly always sorted already: messages come in the order of time, mostly with the same time to live.
        entries.sort_unstable();
        Some(Self { entries, passed: 0 })
    }

    /// Several blocks' deadlines as one's: each with the offset of its block in the new one. Those that have passed stay
    /// in it: a restart must know them of messages that are out. If not all blocks are equally far, some pass again.
    pub fn join<'a>(parts: impl Iterator<Item = (&'a Self, u32)> + Clone) -> Option<Self> {
        let moved = |deadline: &Deadline, by: u32| Deadline { offset: deadline.offset + by, ..*deadline };
        let next = parts.clone().filter_map(|(part, _)| part.next()).min().unwrap_or(u64::MAX);
        let mut joined = Self::sorted(
            parts.flat_map(|(part, by)| part.entries.iter().map(move |entry| moved(entry, by))).collect(),
        )?;
        joined.passed = joined.entries.partition_point(|entry| entry.at_ms < next);
        Some(joined)
    }

    /// Whether all of them are of messages of a block of so many.
    pub fn fit(&self, messages: u32) -> bool {
        self.entries.iter().all(|entry| entry.offset.checked_add(entry.count).is_some_and(|end| end <= messages))
    }

    /// The next deadline.
    pub fn next(&self) -> Option<u64> {
        self.entries.get(self.passed).map(|entry| entry.at_ms)
    }

    /// Messages whose time has come by `now_ms`, each once.
    pub fn pass(&mut self, now_ms: u64) -> Option<Deadline> {
        let entry = *self.entries.get(self.passed).filter(|entry| entry.at_ms <= now_ms)?;
        self.passed += 1;
        Some(entry)
    }

    /// What it occupies in memory, about.
    pub fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Deadline>() + size_of::<Self>()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.entries.len() * ENTRY_BYTES);
        for entry in &self.entries {
            out.extend_from_slice(&entry.at_ms.to_be_bytes());
            out.extend_from_slice(&entry.offset.to_be_bytes());
            out.extend_from_slice(&entry.count.to_be_bytes());
        }
    }

    /// Reads what [`Deadlines::encode`] wrote, to the end of `octets`; `None` if it did not. No deadlines are
    /// `Some(None)`.
    pub fn decode(octets: &[u8]) -> Option<Option<Self>> {
        let (entries, []) = octets.as_chunks::<ENTRY_BYTES>() else { return None };
        let entry = |octets: &[u8; ENTRY_BYTES]| {
            let (at, rest) = octets.split_first_chunk::<8>()?;
            let (offset, count) = rest.split_first_chunk::<4>()?;
            Some(Deadline {
                at_ms: u64::from_be_bytes(*at),
                offset: u32::from_be_bytes(*offset),
                count: u32::from_be_bytes(count.try_into().ok()?),
            })
        };
        Some(Self::sorted(entries.iter().map(entry).collect::<Option<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_expire_together_are_one_entry() {
        let deadlines = Deadlines::of([Some(5), Some(5), None, Some(5), Some(1)].into_iter()).unwrap();
        let expected = [(1, 4, 1), (5, 0, 2), (5, 3, 1)];
        let found: Vec<_> = deadlines.entries.iter().map(|entry| (entry.at_ms, entry.offset, entry.count)).collect();
        assert_eq!(found, expected);
        assert_eq!(Deadlines::of([None, None].into_iter()), None);
    }

    #[test]
    fn deadlines_pass_in_order_and_once() {
        let mut deadlines = Deadlines::of([Some(7), Some(3)].into_iter()).unwrap();
        assert_eq!(deadlines.next(), Some(3));
        assert_eq!(deadlines.pass(2), None);
        assert_eq!(deadlines.pass(5), Some(Deadline { at_ms: 3, offset: 1, count: 1 }));
        assert_eq!(deadlines.pass(5), None);
        assert_eq!(deadlines.next(), Some(7));
    }

    #[test]
    fn joined_deadlines_move_with_their_blocks() {
        let (a, b) = (Deadlines::all(9, 2), Deadlines::all(4, 3));
        let joined = Deadlines::join([(&a, 0), (&b, 10)].into_iter()).unwrap();
        let expected = vec![Deadline { at_ms: 4, offset: 10, count: 3 }, Deadline { at_ms: 9, offset: 0, count: 2 }];
        assert_eq!(joined.entries, expected);
    }

    #[test]
    fn deadlines_survive_the_disk() {
        let deadlines = Deadlines::of([Some(u64::MAX), None, Some(1)].into_iter()).unwrap();
        let mut octets = Vec::new();
        deadlines.encode(&mut octets);
        assert_eq!(Deadlines::decode(&octets), Some(Some(deadlines)));
        assert_eq!(Deadlines::decode(&[]), Some(None));
        assert_eq!(Deadlines::decode(&octets[1..]), None);
    }
}
