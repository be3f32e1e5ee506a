//! Judges what a broker did by what its clients saw.
//!
//! Clients write down what they send before they send it and what they receive after they have received it: the
//! history. [`judge`] holds it against what the broker promises. It has no clock, no thread and no socket, so the
//! same judge serves a simulation, a driver that kills real brokers, and scripts in other languages, which print their
//! events as lines of JSON.
//!
//! - [`event`]: what may happen, and the history of it.
//! - [`body`]: bodies that say which message they are and whether they are whole.
//! - [`promises`]: what a broker says it keeps, and over which kind of crash.
//! - [`judge`](mod@judge): the rules.
//! - [`ledger`]: the file in which runs are added up.
//! - [`random`]: chance that repeats, for whoever makes up what clients do.
//! - [`verdict`]: what comes of it, in the classes of Jepsen's total queue.

pub mod body;
pub mod event;
pub mod judge;
pub mod ledger;
pub mod promises;
pub mod random;
pub mod verdict;

pub use event::{Crash, Event, History, Id, Kind, Record, Settlement};
pub use judge::judge;
pub use promises::Promises;
pub use random::Random;
pub use verdict::{Counts, Rule, Verdict, Violation};
