//! Judges what a broker did by what its clients saw.
//!
//! Clients write down what they send before they send it and what they receive after they have received it: the
//! history. [`judge`] holds it against what the broker promises. Nothing here has a clock, a thread or a socket, so the
//! same judge serves a simulation, a driver that kills real brokers, and scripts in other languages, which print their
//! events as lines of JSON.
//!
//! - [`event`]: what may happen, and the history of it.
//! - [`body`]: bodies that say which message they are and whether they are whole.
//! - [`promises`]: what a broker says it keeps, and over which kind of crash.
//! - [`judge`](mod@judge): the rules.
//! - [`verdict`]: what comes of it, in the classes of Jepsen's total queue.

pub mod body;
pub mod event;
pub mod judge;
pub mod promises;
pub mod verdict;

pub use event::{Crash, Event, History, Id, Kind, Record, Settlement};
pub use judge::judge;
pub use promises::Promises;
pub use verdict::{Counts, Rule, Verdict, Violation};
