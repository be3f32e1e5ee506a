//! A queue as RabbitMQ's are, message by message: slow, and simple enough to be believed.

use super::*;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Ready,
    /// Ready, before all others.
    Returned,
    Held(ConsumerKey),
    /// Held by nobody, as redriving does.
    TakenOut,
    /// Comes back at a time.
    Resting(u64),
    Dying(Reason),
    Settled,
}

#[derive(Debug, Clone)]
pub struct Known {
    /// In its body.
    pub number: u64,
    pub persistent: bool,
    pub bytes: u64,
    pub deadline: Option<u64>,
    pub fate: Fate,
    /// Its deadline was seen to pass.
    pub late: bool,
    pub confirmed: bool,
    /// It was delivered; or, after a crash, that is not known.
    pub out: bool,
    pub perhaps_out: bool,
    pub tally: Tally,
    /// What the disk will know of its tally with the next commit, the one under way, and the last.
    pub noted: Tally,
    pub taken: Tally,
    pub synced: Tally,
    /// The commit under way knows that it is settled.
    pub gone: bool,
}

/// A message to be published.
#[derive(Debug, Clone)]
pub struct New {
    pub priority: Option<u8>,
    pub ttl_ms: Option<u64>,
    pub bytes: usize,
}

/// A delivery of one message.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    pub consumer: ConsumerKey,
    pub position: u64,
    pub number: u64,
    pub redelivered: bool,
    pub tally: Tally,
}

#[derive(Debug)]
pub struct Model {
    pub rules: Rules,
    pub now_ms: u64,
    /// By position; those that are settled and will not be heard of again are forgotten.
    pub messages: BTreeMap<u64, Known>,
    pub returned: VecDeque<u64>,
    pub dying: VecDeque<u64>,
    pub turned_away: VecDeque<(u64, u32)>,
    /// A full quorum queue refused messages.
    pub refusing: bool,
    /// The next position of each level.
    pub next: BTreeMap<u8, u64>,
    pub next_number: u64,
}

impl Model {
    pub fn new(rules: Rules, now_ms: u64) -> Self {
        Self {
            rules,
            now_ms,
            messages: BTreeMap::new(),
            returned: VecDeque::new(),
            dying: VecDeque::new(),
            turned_away: VecDeque::new(),
            refusing: false,
            next: BTreeMap::new(),
            next_number: 0,
        }
    }

    fn get(&mut self, position: u64) -> &mut Known {
        self.messages.get_mut(&position).expect("a message that the model knows")
    }

    /// The ready messages that did not come back, first those that go out first.
    fn in_order(&self) -> std::vec::IntoIter<u64> {
        let mut ready: Vec<u64> = self.positions(Fate::Ready);
        ready.sort_by_key(|position| (Reverse(log::level(*position)), *position));
        ready.into_iter()
    }

    pub fn positions(&self, fate: Fate) -> Vec<u64> {
        self.messages.iter().filter(|(_, known)| known.fate == fate).map(|(position, _)| *position).collect()
    }

    pub fn head(&self) -> Option<u64> {
        self.returned.front().copied().or_else(|| self.in_order().next())
    }

    fn is_ready(known: &Known) -> bool {
        matches!(known.fate, Fate::Ready | Fate::Returned)
    }

    pub fn ready(&self) -> u64 {
        self.messages.values().filter(|known| Self::is_ready(known)).count() as u64
    }

    pub fn ready_bytes(&self) -> u64 {
        self.messages.values().filter(|known| Self::is_ready(known)).map(|known| known.bytes).sum()
    }

    pub fn held(&self) -> Vec<(u64, ConsumerKey)> {
        let held = self.messages.iter().filter_map(|(position, known)| match known.fate {
            Fate::Held(consumer) => Some((*position, consumer)),
            Fate::TakenOut => Some((*position, ConsumerKey::NONE)),
            _ => None,
        });
        held.collect()
    }

    fn at_head(&self) -> bool {
        self.rules.expire_at_head || !self.rules.dead_letters
    }

    pub fn settle(&mut self, position: u64) {
        let known = self.get(position);
        (known.fate, known.tally, known.noted) = (Fate::Settled, Tally::default(), Tally::default());
    }

    pub fn die(&mut self, position: u64, reason: Reason) {
        self.returned.retain(|other| *other != position);
        if self.rules.dead_letters {
            self.get(position).fate = Fate::Dying(reason);
            self.dying.push_back(position);
        } else {
            self.settle(position);
        }
    }

    /// Lets time pass for everything that is there.
    pub fn expire(&mut self) {
        let now_ms = self.now_ms;
        let mut late: Vec<(u64, u64)> = Vec::new();
        for (position, known) in &mut self.messages {
            if known.fate != Fate::Settled && !known.late && known.deadline.is_some_and(|at_ms| at_ms <= now_ms) {
                known.late = true;
                late.extend(known.deadline.map(|at_ms| (at_ms, *position)));
            }
        }
        late.sort_unstable();
        for &(_, position) in &late {
            if !self.at_head() && self.messages[&position].fate == Fate::Ready {
                self.die(position, Reason::Expired);
            }
        }
        late.sort_unstable_by_key(|(_, position)| *position);
        for (_, position) in late {
            if self.messages[&position].fate == Fate::Returned {
                self.die(position, Reason::Expired);
            }
        }
        self.drop_late();
    }

    /// Late messages at the head expire; a quorum queue's at the head of their level.
    fn drop_late(&mut self) {
        let mut blocked: Vec<u8> = Vec::new();
        for position in self.in_order() {
            if blocked.contains(&log::level(position)) {
                continue;
            }
            if self.messages[&position].late {
                self.die(position, Reason::Expired);
            } else if self.rules.quorum {
                blocked.push(log::level(position));
            } else {
                return;
            }
        }
    }

    /// The oldest go while there are too many.
    pub fn limit(&mut self) {
        if self.rules.overflow != Overflow::DropHead {
            return;
        }
        while self.rules.max_length.is_some_and(|max| self.ready() > max)
            || self.rules.max_length_bytes.is_some_and(|max| self.ready_bytes() > max)
        {
            let head = self.head().expect("more than nothing is too much");
            self.die(head, Reason::MaxLen);
        }
        self.drop_late();
    }

    pub fn accepts(&mut self, new: &New) -> bool {
        if self.rules.rejects() && self.rules.quorum {
            // One too many is taken, and then none before there is room again.
            let over =
                |max: Option<u64>, now: u64| max.is_some_and(|max| now > if self.refusing { max * 4 / 5 } else { max });
            self.refusing =
                over(self.rules.max_length, self.ready()) || over(self.rules.max_length_bytes, self.ready_bytes());
            return !self.refusing;
        }
        !self.rules.rejects()
            || self.rules.max_length.is_none_or(|max| self.ready() < max)
                && self.rules.max_length_bytes.is_none_or(|max| self.ready_bytes() + body_bytes(new) <= max)
    }

    pub fn append(&mut self, number: u64, new: &New, persistent: bool, failed: u32) -> u64 {
        let level = match self.rules.priorities {
            Priorities::None => 0,
            Priorities::UpTo(max) => new.priority.unwrap_or(0).min(max),
            Priorities::Quorum => new.priority.unwrap_or(4).min(31),
        };
        let next = self.next.entry(level).or_insert(log::base(level));
        let position = *next;
        *next += 1;
        let ttl_ms = [new.ttl_ms, self.rules.message_ttl_ms].into_iter().flatten().min();
        // What a consumer of a classic queue takes at once goes out as new.
        let failed = if self.rules.quorum { failed } else { 0 };
        let tally = Tally { acquired: 0, failed };
        let known = Known {
            number,
            persistent: self.rules.durable && (persistent || self.rules.quorum),
            bytes: body_bytes(new),
            deadline: ttl_ms.map(|ttl_ms| self.now_ms + ttl_ms),
            fate: Fate::Ready,
            late: false,
            confirmed: false,
            out: false,
            perhaps_out: false,
            tally,
            noted: tally,
            taken: Tally::default(),
            synced: Tally::default(),
            gone: false,
        };
        self.messages.insert(position, known);
        position
    }

    /// A message failed elsewhere, and was not taken at once.
    pub fn note_failures(&mut self, position: u64, failed: u32) {
        let known = self.get(position);
        if known.fate == Fate::Ready {
            known.tally.failed = failed;
            known.noted = known.tally;
        }
    }

    /// A message was delivered: it must be the one that was to come.
    pub fn deliver(&mut self, out: Out, no_ack: bool) {
        assert_eq!(self.head(), Some(out.position), "messages come in order");
        self.returned.retain(|other| *other != out.position);
        let (now_ms, quorum) = (self.now_ms, self.rules.quorum);
        let known = self.get(out.position);
        assert_eq!(known.number, out.number, "what comes is what was published");
        assert!(known.deadline.is_none_or(|at_ms| at_ms > now_ms || !known.late), "message {} is late", out.number);
        let flagged = known.out || known.tally != Tally::default();
        assert!(out.redelivered || !flagged, "message {} was out before and is not flagged", out.number);
        assert!(!out.redelivered || flagged || known.perhaps_out, "message {} was never out", out.number);
        assert_eq!(out.tally, if quorum { known.tally } else { Tally::default() });
        known.out = true;
        if no_ack {
            self.settle(out.position);
        } else {
            known.fate = Fate::Held(out.consumer);
        }
        self.drop_late();
    }

    /// A ready message is taken out: not as one that is delivered, but later deliveries may make it seem so.
    pub fn take_out(&mut self, position: u64) {
        self.returned.retain(|other| *other != position);
        let known = self.get(position);
        (known.fate, known.perhaps_out) = (Fate::TakenOut, true);
        self.drop_late();
    }

    /// It is there again as it was, but for its place among those that came back.
    pub fn put_in(&mut self, position: u64) {
        self.make_ready(position);
        self.drop_late();
    }

    fn count(&mut self, position: u64, failed: bool) {
        let tally = &mut self.get(position).tally;
        tally.acquired += 1;
        tally.failed += u32::from(failed);
    }

    pub fn reject(&mut self, positions: Range<u64>, failed: bool) {
        for position in positions {
            if failed && self.rules.dead_letters {
                self.count(position, true);
            }
            self.die(position, Reason::Rejected);
        }
    }

    pub fn requeue(&mut self, positions: Range<u64>, failed: bool) {
        let mut back = Vec::new();
        for position in positions {
            if self.rules.quorum || failed && self.rules.dead_letters {
                self.count(position, failed);
                let known = self.get(position);
                known.noted = known.tally;
            }
            let failures = self.messages[&position].tally.failed;
            if failed && self.rules.delivery_limit.is_some_and(|limit| failures > limit) {
                self.die(position, Reason::DeliveryLimit);
            } else {
                back.push(position);
            }
        }
        for position in back {
            match self.rules.delayed_retry.filter(|retry| retry.applies(failed)) {
                Some(retry) => {
                    let failures = u64::from(self.messages[&position].tally.failed).max(1);
                    let delay_ms = (retry.min_ms * failures).min(retry.max_ms);
                    self.get(position).fate = Fate::Resting(self.now_ms + delay_ms);
                }
                None => self.put_back(position),
            }
        }
        self.drop_late();
    }

    fn put_back(&mut self, position: u64) {
        self.make_ready(position);
        if self.rules.quorum && self.messages[&position].fate == Fate::Ready {
            self.get(position).fate = Fate::Returned;
            self.returned.push_back(position);
        }
    }

    fn make_ready(&mut self, position: u64) {
        let late = self.messages[&position].late;
        if late && (self.rules.quorum || !self.at_head()) {
            self.die(position, Reason::Expired);
        } else {
            self.get(position).fate = Fate::Ready;
        }
    }

    pub fn resting(&self) -> Vec<(u64, u64)> {
        let resting = self.messages.iter().filter_map(|(position, known)| match known.fate {
            Fate::Resting(until_ms) => Some((until_ms, *position)),
            _ => None,
        });
        let mut resting: Vec<_> = resting.collect();
        resting.sort_unstable();
        resting
    }

    pub fn rise(&mut self) {
        for (until_ms, position) in self.resting() {
            if until_ms <= self.now_ms {
                self.put_back(position);
            }
        }
    }

    pub fn purge(&mut self) {
        let ready: Vec<u64> =
            self.messages.iter().filter(|(_, known)| Self::is_ready(known)).map(|(position, _)| *position).collect();
        ready.into_iter().for_each(|position| self.settle(position));
        self.returned.clear();
    }

    pub fn change(&mut self, rules: Rules) {
        self.rules = rules;
        if !rules.dead_letters {
            std::mem::take(&mut self.dying).into_iter().for_each(|position| self.settle(position));
            self.turned_away.clear();
        }
        self.limit();
        self.expire();
    }

    pub fn bury(&mut self, positions: Range<u64>) {
        for position in positions {
            assert_eq!(self.dying.pop_front(), Some(position), "the dead are handed on in order");
            self.settle(position);
        }
    }

    /// A commit takes what is there.
    pub fn take(&mut self) {
        for known in self.messages.values_mut() {
            known.taken = known.noted;
            known.gone = known.fate == Fate::Settled;
        }
    }

    /// It is on disk.
    pub fn stored(&mut self) {
        self.messages.retain(|_, known| !known.gone);
        for known in self.messages.values_mut() {
            known.synced = known.taken;
        }
    }
}

pub fn body_bytes(new: &New) -> u64 {
    8 + new.bytes as u64
}
