//! What is known, at one point of a history, of messages, queues, consumers and transactions.

use crate::{Crash, Id, Kind, Settlement};
use std::collections::HashMap;

/// A place in a history.
pub type At = usize;
/// A queue's number in [`Books::queues`].
pub type QueueNumber = usize;

/// Dead letters are followed over so many queues.
const HOPS_MAX: usize = 8;

#[derive(Debug, Default)]
pub struct Books {
    pub messages: HashMap<Id, Message>,
    /// In the order in which they were published.
    pub ids: Vec<Id>,
    /// A message has a copy in each queue that it was routed to.
    pub copies: HashMap<(Id, QueueNumber), Copy>,
    /// When a queue last delivered a message.
    pub seen: HashMap<(Id, QueueNumber), At>,
    pub queues: Vec<Queue>,
    numbers: HashMap<String, QueueNumber>,
    pub consumers: HashMap<u32, Consumer>,
    pub publishers: HashMap<u32, Publisher>,
    pub transactions: HashMap<u64, Transaction>,
    pub crashes: Vec<Ended>,
}

#[derive(Debug)]
pub struct Message {
    pub at: At,
    pub publisher: u32,
    /// Among those of its publisher.
    pub number: u64,
    pub persistent: bool,
    pub priority: u8,
    pub expires: bool,
    pub homes: Vec<QueueNumber>,
    pub tx: Option<u64>,
    /// When it was confirmed, or its transaction was.
    pub confirmed: Option<At>,
    /// It was confirmed or refused.
    pub answered: bool,
}

#[derive(Debug)]
pub struct Copy {
    pub state: State,
    /// It was asked for its end, so that it need not be there any more.
    pub ended: bool,
    pub delivered: Option<At>,
}

/// ```text
/// Waiting ── deliver ──▶ Held ── ack, reject ──▶ Settled
///                       ▲    └─ requeue ──▶ Waiting
///                       └────── deliver, once its holder is gone or the broker was
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Waiting,
    Held { queue: QueueNumber, consumer: u32, at: At },
    Settled { queue: QueueNumber, consumer: u32, how: Settlement, at: At, at_us: u64, synced: Synced },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synced {
    No,
    /// A later call on the channel came back.
    Called,
    /// Its transaction was committed.
    Committed,
}

#[derive(Debug, Default)]
pub struct Queue {
    pub name: String,
    pub transient: bool,
    pub kind: Kind,
    pub dead_letters_to: Option<QueueNumber>,
    pub drops: bool,
    pub priorities: bool,
    pub presence: Presence,
    pub wipes: Vec<Wipe>,
    /// Somebody left without reading all that was on its way.
    pub unread: bool,
    /// First deliveries that were flagged, since so many crashes.
    pub flagged: (usize, u64),
    /// What the broker counted, and what was delivered since.
    pub counted: Option<(u64, u64)>,
    pub drained: Option<At>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Nobody can say.
    #[default]
    Unsure,
    There,
    Gone,
}

/// All that was ready in a queue was thrown away.
#[derive(Debug)]
pub struct Wipe {
    pub purge: bool,
    pub sent: At,
    pub done: Option<(At, u64)>,
}

#[derive(Debug, Default)]
pub struct Consumer {
    pub gone: bool,
    /// Copies that it settled since a call on its channel came back.
    pub unsynced: Vec<(Id, QueueNumber)>,
    /// The last number of each publisher and priority: of first deliveries, and of all.
    pub firsts: HashMap<Lane, u64>,
    pub all: HashMap<Lane, u64>,
    /// Of all it was delivered, some that came behind a later one.
    pub disordered: HashMap<QueueNumber, Id>,
}

/// What is kept in order: a queue's messages of a publisher, of one priority if the queue has priorities.
pub type Lane = (QueueNumber, u32, u8);

#[derive(Debug, Default)]
pub struct Publisher {
    pub published: u64,
    /// The number that was confirmed or refused last.
    pub answered: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Transaction {
    pub publishes: Vec<Id>,
    pub settlements: Vec<(Id, QueueNumber, u32, Settlement)>,
    pub commit: Option<At>,
    pub committed: Option<At>,
}

#[derive(Debug)]
pub struct Ended {
    pub at: At,
    pub at_us: u64,
    pub kind: Crash,
}

impl Books {
    /// A queue that nobody declared is durable and has no arguments.
    pub fn queue(&mut self, name: &str) -> QueueNumber {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        self.numbers.insert(name.to_owned(), self.queues.len());
        self.queues.push(Queue { name: name.to_owned(), ..Queue::default() });
        self.queues.len() - 1
    }

    /// The queue, and where its dead letters get to.
    pub fn chain(&self, home: QueueNumber) -> impl Iterator<Item = QueueNumber> {
        std::iter::successors(Some(home), |number| self.queues[*number].dead_letters_to).take(HOPS_MAX)
    }

    /// The queues from which a message may have got here.
    pub fn homes_of(&self, message: &Message, queue: QueueNumber) -> Vec<QueueNumber> {
        message.homes.iter().copied().filter(|home| self.chain(*home).any(|place| place == queue)).collect()
    }

    /// Whether a copy is of the kind that outlives a crash, wherever it is.
    pub fn is_kept(&self, message: &Message, home: QueueNumber) -> bool {
        self.chain(home).all(|number| self.is_kept_in(message, number))
    }

    /// Whether a copy that came from `home` to `queue` may have outlived a crash in one of the queues on its way.
    pub fn may_outlive(&self, message: &Message, home: QueueNumber, queue: QueueNumber) -> bool {
        let mut reached = false;
        let mut way = self.chain(home).take_while(|number| !std::mem::replace(&mut reached, *number == queue));
        way.any(|number| self.is_kept_in(message, number))
    }

    fn is_kept_in(&self, message: &Message, number: QueueNumber) -> bool {
        let queue = &self.queues[number];
        !queue.transient && (message.persistent || queue.kind == Kind::Quorum)
    }

    /// Whether a copy may leave by itself.
    pub fn may_vanish(&self, message: &Message, home: QueueNumber) -> bool {
        self.chain(home).any(|number| {
            let queue = &self.queues[number];
            let leaves = queue.drops || message.expires && number == home;
            leaves && queue.dead_letters_to.is_none()
        })
    }

    /// Whether a copy may have been thrown away.
    pub fn may_be_wiped(&self, message: &Message, home: QueueNumber) -> bool {
        let mut wipes = self.chain(home).flat_map(|number| &self.queues[number].wipes);
        wipes.any(|wipe| wipe.done.is_none_or(|(done, _)| message.at < done))
    }

    /// Whether everything that could hold the copy was emptied afterwards.
    pub fn is_drained(&self, message: &Message, home: QueueNumber) -> bool {
        let since = self.crashes.last().map_or(message.at, |crash| crash.at.max(message.at));
        self.chain(home).all(|number| self.queues[number].drained.is_some_and(|drained| drained > since))
    }

    pub fn crash_since(&self, at: At) -> Option<&Ended> {
        self.crashes.iter().find(|crash| crash.at > at)
    }
}
