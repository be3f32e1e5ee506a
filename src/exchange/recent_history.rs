//! Recent history: a fanout that remembers its last messages and gives them to whoever is bound next
//! (`rabbit_exchange_type_recent_history`).
//!
//! Here is what is remembered; the vhost sees to when. It is kept in memory only, and lost when the broker ends.

use crate::amqp::table::{Field, Fields, Table, as_i64, type_name};
use crate::amqp::term::term;
use crate::message::Run;
use crate::refusal::Refusal;
use std::collections::VecDeque;
use std::sync::Arc;

const LENGTH: &str = "x-recent-history-length";
/// A message with this header is not remembered.
const NO_STORE: &[u8] = b"x-recent-history-no-store";

/// Messages that are remembered where the exchange does not say how many.
const LENGTH_DEFAULT: usize = 20;
/// Octets that one exchange remembers; with more the oldest messages go, but never the last one.
pub const BYTES_MAX: usize = 16 << 20;

/// The last messages of one exchange.
#[derive(Debug)]
pub struct History {
    length_max: usize,
    bytes: usize,
    /// A message each, the oldest first.
    runs: VecDeque<Arc<Run>>,
}

/// What a new exchange's arguments may not say. Unsigned numbers are refused, as in RabbitMQ.
pub(super) fn check_arguments(arguments: &Table) -> Result<(), Refusal> {
    let Some(value) = arguments.inner().get(LENGTH) else { return Ok(()) };
    let known = matches!(type_name(value), "byte" | "short" | "signedint" | "long");
    if known && as_i64(value).is_some_and(|length| length > 0) {
        return Ok(());
    }
    let value = term(value);
    Err(Refusal::precondition(format!("Invalid argument {value}, '{LENGTH}' must be a positive integer")))
}

/// Whether a message with these headers is to be remembered.
pub fn remembers(headers: Option<Fields<'_>>) -> bool {
    headers.and_then(|headers| headers.get(NO_STORE)) != Some(Field::Bool(true))
}

impl History {
    pub fn new(arguments: &Table) -> Self {
        let length = arguments.inner().get(LENGTH).and_then(as_i64);
        let length_max = length.map_or(LENGTH_DEFAULT, |length| usize::try_from(length).unwrap_or(1));
        Self { length_max, bytes: 0, runs: VecDeque::new() }
    }

    /// Remembers a message, a run of its own.
    pub fn keep(&mut self, run: Arc<Run>) {
        self.bytes += run.bytes();
        self.runs.push_back(run);
        while self.runs.len() > 1 && (self.runs.len() > self.length_max || self.bytes > BYTES_MAX) {
            if let Some(oldest) = self.runs.pop_front() {
                self.bytes -= oldest.bytes();
            }
        }
    }

    /// What is remembered, the oldest first.
    pub fn runs(&self) -> Vec<Arc<Run>> {
        self.runs.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::Value;
    use crate::message::{Marks, Message, Packer, Traits};

    fn run(body: &[u8]) -> Arc<Run> {
        let mut packer = Packer::default();
        let (exchange, routing_key, marks) = (&b""[..], &b""[..], Marks::NONE);
        let message = Message { address: b"\0\0", exchange, routing_key, marks, properties: &[0, 0], body };
        packer.push(&message, Traits::default());
        Arc::new(packer.finish())
    }

    fn arguments(length: Value) -> Table {
        let mut arguments = Table::default();
        arguments.insert(LENGTH.into(), length);
        arguments
    }

    fn remembered(history: &History) -> Vec<Vec<u8>> {
        history.runs().iter().map(|run| run.message(0).body.to_vec()).collect()
    }

    #[test]
    fn the_last_messages_are_remembered() {
        let mut history = History::new(&arguments(Value::LongInt(3)));
        assert!(history.runs().is_empty());
        for body in [b"a", b"b", b"c", b"d"] {
            history.keep(run(body));
        }
        assert_eq!(remembered(&history), [b"b", b"c", b"d"]);
        let mut history = History::new(&Table::default());
        (0..30_u8).for_each(|number| history.keep(run(&[number])));
        assert_eq!(remembered(&history), (10..30).map(|number| vec![number]).collect::<Vec<_>>());
    }

    #[test]
    fn memory_is_bounded_but_for_the_last_message() {
        let mut history = History::new(&arguments(Value::LongLongInt(i64::MAX)));
        let body = vec![0; 1 << 20];
        for _ in 0..100 {
            history.keep(run(&body));
            assert!(history.bytes <= BYTES_MAX);
        }
        assert_eq!(history.runs.len(), 15);
        history.keep(run(&vec![0; BYTES_MAX + 1]));
        assert_eq!(history.runs.len(), 1);
        history.keep(run(b"small"));
        assert_eq!(remembered(&history), [b"small"]);
    }

    #[test]
    fn the_length_is_a_positive_signed_integer() {
        for length in [Value::ShortShortInt(1), Value::ShortInt(1), Value::LongInt(20), Value::LongLongInt(i64::MAX)] {
            assert_eq!(check_arguments(&arguments(length)), Ok(()));
        }
        assert_eq!(check_arguments(&Table::default()), Ok(()));
        for (length, shown) in [
            (Value::LongInt(0), "0"),
            (Value::LongInt(-1), "-1"),
            (Value::LongUInt(5), "5"),
            (Value::LongString("abc".into()), "<<\"abc\">>"),
            (Value::Boolean(true), "true"),
        ] {
            let text = format!("Invalid argument {shown}, 'x-recent-history-length' must be a positive integer");
            assert_eq!(check_arguments(&arguments(length)).unwrap_err().text, text);
        }
    }

    #[test]
    fn a_message_may_ask_not_to_be_remembered() {
        let with = |octets: &'static [u8]| remembers(Some(Fields::check(octets).unwrap()));
        assert!(remembers(None));
        assert!(with(b"\x01at\x01"));
        assert!(with(b"\x19x-recent-history-no-storet\x00"));
        assert!(with(b"\x19x-recent-history-no-storeS\0\0\0\x04true"));
        assert!(!with(b"\x19x-recent-history-no-storet\x01"));
    }
}
