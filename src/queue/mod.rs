//! Queues.
pub mod ranges;
