//! A disk for the machine, and how a queue comes back from it: what the store and the queue's shell do, in memory.

use super::*;
use crate::queue::deadlines::Deadlines;
use std::collections::BTreeMap;

#[derive(Debug, Default, Clone)]
pub struct Disk {
    pub durable: BTreeMap<u64, Arc<Run>>,
    /// Blocks that need not survive.
    pub spilled: BTreeMap<u64, Arc<Run>>,
    facts: BTreeMap<u64, Facts>,
    marks: BTreeMap<u8, Mark>,
    settled: BTreeMap<u8, Ranges>,
    tallies: Tallies,
}

impl Disk {
    pub fn write(&mut self, commit: Commit) {
        commit.levels.into_iter().for_each(|writes| self.write_level(writes));
        if let Some(all) = commit.tallies_all {
            self.tallies = Tallies::default();
            all.into_iter().for_each(|(range, tally)| self.tallies.set(range, tally));
        }
        commit.tallies.into_iter().for_each(|(range, tally)| self.tallies.set(range, tally));
    }

    fn write_level(&mut self, writes: Writes) {
        for block in writes.blocks {
            let blocks = if block.persistent { &mut self.durable } else { &mut self.spilled };
            assert!(blocks.insert(block.first, block.run).is_none(), "a block is written once");
            if let Some(facts) = block.facts {
                assert!(block.persistent, "facts are for a restart");
                self.facts.insert(block.first, through_octets(facts));
            }
        }
        for (first, persistent) in writes.deleted {
            let blocks = if persistent { &mut self.durable } else { &mut self.spilled };
            assert!(blocks.remove(&first).is_some(), "only what is there is deleted");
            self.forget_facts(first..first + 1, writes.facts && persistent);
        }
        for (range, persistent) in writes.purged {
            let blocks = if persistent { &mut self.durable } else { &mut self.spilled };
            blocks.retain(|first, _| !range.contains(first));
            self.forget_facts(range, writes.facts && persistent);
        }
        if let Some(mark) = writes.mark {
            self.marks.insert(writes.level, mark);
        }
        let settled = self.settled.entry(writes.level).or_default();
        if let Some(all) = writes.settled_all {
            *settled = all.into_iter().collect();
        }
        writes.settled.into_iter().for_each(|range| settled.insert(range));
    }

    fn forget_facts(&mut self, range: Range<u64>, any: bool) {
        if any {
            self.facts.retain(|first, _| !range.contains(first));
        }
    }

    /// The exact marks of a graceful end.
    pub fn write_marks(&mut self, marks: Vec<(u8, Mark)>) {
        self.marks.extend(marks);
    }

    /// The block that holds the position, else the first behind it.
    pub fn read(&self, load: Load) -> Option<(u64, Arc<Run>)> {
        let blocks = if load.persistent { &self.durable } else { &self.spilled };
        let holding = blocks.range(..=load.position).next_back();
        let holding = holding.filter(|(first, run)| *first + u64::from(run.count()) > load.position);
        let found = holding.or_else(|| blocks.range(load.position..load.end).next());
        found.map(|(first, run)| (*first, Arc::clone(run)))
    }

    /// What a restart finds, level by level.
    pub fn levels(&self) -> Vec<(u8, Recovered)> {
        let mut levels: BTreeMap<u8, Recovered> = BTreeMap::new();
        for (&level, mark) in &self.marks {
            level_of(&mut levels, log::base(level)).mark = mark.clone();
        }
        for (first, run) in &self.durable {
            let found = level_of(&mut levels, *first);
            found.mark.next = found.mark.next.max(first + u64::from(run.count()));
        }
        for (&level, settled) in self.settled.iter().filter(|(_, settled)| !settled.is_empty()) {
            let found = level_of(&mut levels, log::base(level));
            let low = found.mark.low_water;
            found.settled = settled.iter().map(|range| range.start.max(low)..range.end.max(low)).collect();
        }
        for (&first, facts) in &self.facts {
            level_of(&mut levels, first).facts.push((first, facts.clone()));
        }
        for found in levels.values_mut() {
            let settled_end = found.settled.iter().last().map_or(0, |range| range.end);
            found.mark.next = found.mark.next.max(settled_end).max(found.mark.low_water);
            found.first_block = self.block_at(found.mark.low_water);
        }
        levels.into_iter().collect()
    }

    fn block_at(&self, position: u64) -> u64 {
        let holds = |first: u64, run: &Run| {
            log::level(first) == log::level(position) && first + u64::from(run.count()) > position
        };
        let before = self.durable.range(..=position).next_back();
        let found = before
            .filter(|(first, run)| holds(**first, run))
            .or_else(|| self.durable.range(position..).next().filter(|(first, run)| holds(**first, run)));
        found.map_or(position, |(first, _)| *first)
    }

    pub fn recover(&self, rules: Rules, now_ms: u64) -> State<u64> {
        State::recovered(rules, self.levels(), self.tallies.clone(), now_ms)
    }
}

/// What is read is not always what was written: deadlines that have passed are to pass again.
fn through_octets(facts: Facts) -> Facts {
    let mut octets = Vec::new();
    facts.deadlines.iter().for_each(|deadlines| deadlines.encode(&mut octets));
    Facts { deadlines: Deadlines::decode(&octets).unwrap(), ..facts }
}

fn level_of(levels: &mut BTreeMap<u8, Recovered>, position: u64) -> &mut Recovered {
    let level = log::level(position);
    levels.entry(level).or_insert_with(|| Recovered { mark: Mark::new(level), ..Recovered::default() })
}
