//! What may happen between clients and a broker, and the history of it.
//!
//! The order of a history is its only clock but for one rule (how long before a crash something was settled). What is
//! sent is written down before it leaves, what is received after it came; so nothing can be received before it was sent.

use serde::{Deserialize, Serialize};

/// A message's name, unique in a history. It stands in its [`body`](mod@crate::body).
pub type Id = u64;

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// On a clock that only goes forward, microseconds.
    pub at_us: u64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// basic.publish is about to be sent. A publisher is one channel.
    Publish {
        publisher: u32,
        id: Id,
        /// Where the exchange will put it.
        queues: Vec<String>,
        persistent: bool,
        #[serde(default)]
        priority: u8,
        /// It has a time to live of its own.
        #[serde(default)]
        expires: bool,
        /// The transaction that it is part of.
        #[serde(default)]
        tx: Option<u64>,
    },
    /// basic.ack for a publish; the recorder makes one event for each message of a multiple one, in their order.
    Confirm {
        id: Id,
    },
    /// basic.nack for a publish, likewise.
    Nack {
        id: Id,
    },
    /// basic.return.
    Return {
        id: Id,
    },
    /// A message came, by basic.deliver or basic.get-ok.
    Deliver {
        queue: String,
        /// A consumer is one channel's one; whoever comes after a crash is another.
        consumer: u32,
        tag: u64,
        /// `None`: the body is damaged.
        id: Option<Id>,
        redelivered: bool,
    },
    /// basic.ack, nack or reject for one message is about to be sent.
    Settle {
        queue: String,
        consumer: u32,
        id: Id,
        how: Settlement,
        #[serde(default)]
        tx: Option<u64>,
    },
    /// A later synchronous call on that channel was answered.
    Synced {
        consumer: u32,
    },
    /// The consumer's channel has ended, so that all it held goes back. `unread`: there may have been deliveries on
    /// their way that it never saw.
    Gone {
        consumer: u32,
        queue: String,
        unread: bool,
    },
    /// tx.commit is about to be sent.
    Commit {
        tx: u64,
    },
    CommitOk {
        tx: u64,
    },
    /// tx.rollback is about to be sent.
    Rollback {
        tx: u64,
    },
    /// queue.declare is about to be sent.
    Declare {
        queue: String,
        durable: bool,
        #[serde(default)]
        kind: Kind,
        /// The queue that its dead letters get to.
        #[serde(default)]
        dead_letters_to: Option<String>,
        /// It has a time to live or a length at which it drops: messages may leave by themselves.
        #[serde(default)]
        drops: bool,
        #[serde(default)]
        priorities: bool,
    },
    DeclareOk {
        queue: String,
    },
    Delete {
        queue: String,
    },
    DeleteOk {
        queue: String,
    },
    Purge {
        queue: String,
    },
    PurgeOk {
        queue: String,
    },
    /// A passive declaration said whether the queue is there.
    Found {
        queue: String,
        exists: bool,
    },
    /// The broker ended, and everybody has noticed. The time is that of the end itself.
    Crash {
        kind: Crash,
    },
    /// It takes connections again.
    Recovered,
    /// The number of ready messages, as the broker says while nothing moves.
    Counted {
        queue: String,
        ready: u64,
    },
    /// This consumer took and acknowledged all that was in the queue, and now it is empty.
    Drained {
        queue: String,
        consumer: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    Ack,
    Requeue,
    /// Without requeueing: a dead letter if the queue has somewhere to send it.
    Reject,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    #[default]
    Classic,
    /// Keeps transient messages too; serves what came back before its turn.
    Quorum,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crash {
    /// Asked to stop, and did.
    Stop,
    /// The process ended at once; the operating system goes on.
    Kill,
    /// What was not synced is gone.
    Power,
}

/// What happened, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    records: Vec<Record>,
}

impl History {
    pub fn push(&mut self, at_us: u64, event: Event) {
        self.records.push(Record { at_us, event });
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// From lines of JSON; empty ones are passed over. The error names the line.
    pub fn from_lines(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let records = lines
            .map(|(number, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", number + 1)));
        Ok(Self { records: records.collect::<Result<_, _>>()? })
    }

    pub fn to_lines(&self) -> String {
        let mut text = String::new();
        for record in &self.records {
            text.push_str(&serde_json::to_string(record).expect("events are plain values"));
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_as_it_was_written() {
        let mut history = History::default();
        let queue = || "q".to_owned();
        history.push(
            1,
            Event::Publish {
                publisher: 1,
                id: 2,
                queues: vec![queue()],
                persistent: true,
                priority: 3,
                expires: false,
                tx: Some(4),
            },
        );
        history.push(2, Event::Settle { queue: queue(), consumer: 1, id: 2, how: Settlement::Requeue, tx: None });
        history.push(3, Event::Crash { kind: Crash::Power });
        history.push(4, Event::Recovered);
        assert_eq!(History::from_lines(&history.to_lines()), Ok(history));
    }

    #[test]
    fn what_scripts_leave_out_has_its_usual_value() {
        let line = r#"{"at_us":5,"event":"publish","publisher":1,"id":2,"queues":["q"],"persistent":true}"#;
        let history = History::from_lines(&format!("\n{line}\n")).unwrap();
        let Event::Publish { priority, expires, tx, .. } = history.records()[0].event else { panic!("{history:?}") };
        assert_eq!((priority, expires, tx), (0, false, None));
    }

    #[test]
    fn a_line_that_is_no_event_is_named() {
        let error = History::from_lines("{\"at_us\":1,\"event\":\"recovered\"}\nnonsense\n").unwrap_err();
        assert!(error.starts_with("line 2: "), "{error}");
    }
}
