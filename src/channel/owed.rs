//! Deliveries that a channel's client has not acknowledged, by their delivery tags.
//!
//! A client may hoard any number of them and answer in any order. Deliveries next to each other are one entry, and an
//! answer from the middle costs no more than one from an end.

use crate::queue::Queue;
use crate::queue::consumer::ConsumerKey;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// What is sent within this time of each other counts as sent together.
const TOGETHER: Duration = Duration::from_secs(1);

/// Deliveries next to each other, not yet acknowledged.
#[derive(Debug, Clone)]
pub struct Unacked {
    pub first_tag: u64,
    pub count: u64,
    pub queue: Arc<Queue>,
    pub consumer: ConsumerKey,
    /// Position of the first in its queue.
    pub first: u64,
    /// When the first of them was sent.
    pub sent: Instant,
    /// When the client must have acknowledged them, if ever.
    pub due: Option<Instant>,
}

/// A tag that stands for nothing unacknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownTag(pub u64);

/// By their first tags; no two overlap.
#[derive(Debug, Default)]
pub struct Owed(BTreeMap<u64, Unacked>);

impl Unacked {
    fn last_tag(&self) -> u64 {
        self.first_tag + self.count - 1
    }

    pub fn positions(&self) -> Range<u64> {
        self.first..self.first + self.count
    }

    /// Splits off the first `count`.
    fn split(&mut self, count: u64) -> Self {
        let head = Self { count, ..self.clone() };
        self.first_tag += count;
        self.first += count;
        self.count -= count;
        head
    }

    fn continues(&self, before: &Self) -> bool {
        self.consumer == before.consumer
            && self.first == before.positions().end
            && self.due == before.due
            && self.sent < before.sent + TOGETHER
            && self.first_tag == before.last_tag() + 1
            && Arc::ptr_eq(&self.queue, &before.queue)
    }
}

impl Owed {
    /// Adds deliveries with the highest tags.
    pub fn push(&mut self, unacked: Unacked) {
        if let Some(mut last) = self.0.last_entry()
            && unacked.continues(last.get())
        {
            last.get_mut().count += unacked.count;
            return;
        }
        self.0.insert(unacked.first_tag, unacked);
    }

    /// Puts back what was taken.
    pub fn put_back(&mut self, taken: Vec<Unacked>) {
        self.0.extend(taken.into_iter().map(|unacked| (unacked.first_tag, unacked)));
    }

    /// Takes the deliveries with a tag, or all up to it; with `multiple`, tag 0 stands for all.
    pub fn settle(&mut self, tag: u64, multiple: bool) -> Result<Vec<Unacked>, UnknownTag> {
        if multiple && tag == 0 {
            return Ok(self.take_all());
        }
        let found = self.0.range(..=tag).next_back().filter(|(_, unacked)| unacked.last_tag() >= tag);
        let first_tag = *found.ok_or(UnknownTag(tag))?.0;
        if multiple {
            let mut taken = Vec::new();
            while let Some(entry) = self.0.first_entry()
                && *entry.key() < first_tag
            {
                taken.push(entry.remove());
            }
            taken.extend(self.take_head(first_tag, tag));
            return Ok(taken);
        }
        let before = (tag > first_tag).then(|| self.take_head(first_tag, tag - 1)).flatten();
        let one = self.take_head(tag, tag);
        self.0.extend(before.map(|before| (first_tag, before)));
        Ok(one.into_iter().collect())
    }

    /// Takes an entry up to a tag; the rest of it stays.
    fn take_head(&mut self, first_tag: u64, last_tag: u64) -> Option<Unacked> {
        let mut head = self.0.remove(&first_tag)?;
        if head.last_tag() > last_tag {
            let mut rest = head;
            head = rest.split(last_tag - first_tag + 1);
            self.0.insert(rest.first_tag, rest);
        }
        Some(head)
    }

    pub fn take_all(&mut self) -> Vec<Unacked> {
        std::mem::take(&mut self.0).into_values().collect()
    }

    /// Takes everything that was delivered to a consumer.
    pub fn take_of(&mut self, consumer: ConsumerKey) -> Vec<Unacked> {
        self.0.extract_if(.., |_, unacked| unacked.consumer == consumer).map(|(_, unacked)| unacked).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Unacked> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::queue::classic::{Identity, Memory, Surroundings};
    use crate::queue::settings::Settings;
    use crate::store::{Durability, Options, Store};
    use crate::vhost::Vhost;
    use proptest::prelude::*;
    use std::sync::Weak;

    fn queue(folder: &std::path::Path) -> Arc<Queue> {
        let options = Options {
            folder: folder.to_owned(),
            durability: Durability::Memory,
            write_buffer_bytes: 1 << 20,
            backlog_bytes_max: 1 << 20,
            ballast_bytes: 0,
        };
        let around = Surroundings {
            store: Store::open(&options).unwrap(),
            memory: Arc::new(Memory::new(1 << 20, 1 << 20)),
            clock: Clock::start(),
            timer: Arc::default(),
            host: Weak::<Vhost>::new(),
            expire_at_head: false,
            totals: Arc::default(),
            volatile: false,
        };
        let identity = Identity {
            id: 1,
            vhost: "/".into(),
            name: "q".into(),
            durable: false,
            auto_delete: false,
            exclusive: None,
            arguments: Default::default(),
            user: "u".into(),
        };
        Queue::new(identity, Settings::default(), &around)
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// So many from a position on, for one of two consumers.
        Deliver(u64, u64, u64),
        Settle(u64, bool),
        TakeOf(u64),
        TakeAll,
        PutBack,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1u64..5, 0u64..3, 1u64..3).prop_map(|(count, skip, consumer)| Step::Deliver(count, skip, consumer)),
            8 => (0u64..60, any::<bool>()).prop_map(|(tag, multiple)| Step::Settle(tag, multiple)),
            1 => (1u64..3).prop_map(Step::TakeOf),
            1 => Just(Step::TakeAll),
            1 => Just(Step::PutBack),
        ];
        prop::collection::vec(step, 1..60)
    }

    /// One by one: tag, position, consumer.
    fn apart(entries: &[Unacked]) -> Vec<(u64, u64, u64)> {
        let mut all: Vec<_> = entries
            .iter()
            .flat_map(|entry| (0..entry.count).map(|n| (entry.first_tag + n, entry.first + n, entry.consumer.0)))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn it_is_what_a_list_of_single_deliveries_would_be() {
        let folder = tempfile::tempdir().unwrap();
        let queue = queue(folder.path());
        let sent = Instant::now();
        proptest!(|(steps in steps())| {
            let (mut owed, mut naive) = (Owed::default(), Vec::<(u64, u64, u64)>::new());
            let (mut tag, mut position, mut taken) = (0, 0, Vec::new());
            for step in steps {
                match step {
                    Step::Deliver(count, skip, consumer) => {
                        position += skip;
                        let (first_tag, first) = (tag + 1, position);
                        let queue = Arc::clone(&queue);
                        let consumer_key = ConsumerKey(consumer);
                        owed.push(Unacked { first_tag, count, queue, consumer: consumer_key, first, sent, due: None });
                        naive.extend((0..count).map(|n| (first_tag + n, first + n, consumer)));
                        tag += count;
                        position += count;
                    }
                    Step::Settle(tag, multiple) => {
                        let is_known = naive.iter().any(|&(of, ..)| of == tag) || multiple && tag == 0;
                        let is_meant = |of: u64| of == tag || multiple && (of < tag || tag == 0);
                        let got = owed.settle(tag, multiple);
                        prop_assert_eq!(got.is_ok(), is_known);
                        if let Ok(got) = got {
                            let meant: Vec<_> = naive.iter().copied().filter(|&(of, ..)| is_meant(of)).collect();
                            prop_assert_eq!(apart(&got), meant);
                            naive.retain(|&(of, ..)| !is_meant(of));
                            taken = got;
                        }
                    }
                    Step::TakeOf(consumer) => {
                        taken = owed.take_of(ConsumerKey(consumer));
                        let meant: Vec<_> = naive.iter().copied().filter(|&(.., of)| of == consumer).collect();
                        prop_assert_eq!(apart(&taken), meant);
                        naive.retain(|&(.., of)| of != consumer);
                    }
                    Step::TakeAll => {
                        taken = owed.take_all();
                        prop_assert_eq!(apart(&taken), std::mem::take(&mut naive));
                    }
                    Step::PutBack => {
                        naive.extend(apart(&taken));
                        naive.sort();
                        owed.put_back(std::mem::take(&mut taken));
                    }
                }
                let all: Vec<_> = owed.iter().cloned().collect();
                prop_assert_eq!(&apart(&all), &naive);
            }
        });
    }

    #[test]
    fn deliveries_next_to_each_other_are_one_entry() {
        let folder = tempfile::tempdir().unwrap();
        let queue = queue(folder.path());
        let mut owed = Owed::default();
        let sent = Instant::now();
        let one = |tag: u64| {
            let (queue, consumer) = (Arc::clone(&queue), ConsumerKey::NONE);
            Unacked { first_tag: tag, count: 1, queue, consumer, first: 100 + tag, sent, due: None }
        };
        (1..=1000).for_each(|tag| owed.push(one(tag)));
        assert_eq!(owed.iter().count(), 1);
        owed.settle(500, false).unwrap();
        assert_eq!(owed.iter().map(|entry| (entry.first_tag, entry.count)).collect::<Vec<_>>(), [(1, 499), (501, 500)]);
        assert_eq!(owed.settle(500, true).map(|_| ()), Err(UnknownTag(500)));
        // What is sent later is told apart.
        owed.push(Unacked { sent: sent + TOGETHER, ..one(1001) });
        assert_eq!(owed.iter().count(), 3);
    }
}
