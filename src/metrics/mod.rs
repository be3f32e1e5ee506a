//! What is counted, and its recent past. Knows nothing of what the numbers are of.
//!
//! Whoever has done something adds it once a batch: to counters that are its own (a queue's, a channel's), and to those
//! of its virtual host, which lie in [`Striped`] copies so that processors don't wait for each other. Readers add up.
//! [`History`] keeps samples, which rates and charts are made of.

mod counts;
mod ends;
mod histogram;
mod history;
mod watch;

pub use counts::{
    CHURN, Churn, Counts, Gathered, Kind, STATS, Snapshot, Stat, Striped, Totals, TotalsSnapshot, Traffic,
};
pub use ends::{DELIVERIES, EndCounts, Ends, REASONS, Strategy};
pub use histogram::{Buckets, Histogram, MESSAGE_BYTES, SECONDS, Seen};
pub use history::{Details, Grid, History, Recent, Retention, Sample, details};
pub use watch::{Counted, Histories, Watch};
