//! What a queue is, whatever its type.
//!
//! A queue is a pure state machine ([`state`]) that answers commands with effects, behind one short lock
//! ([`classic`]). Messages have positions, counted from 0 in the order they were published, and everything the queue
//! knows about them is sets of positions: ready, unacknowledged, settled. In a healthy queue each set is one range.
//!
//! ```text
//!   settled        unacknowledged       ready
//! |───────────────|────────────────────|───────────────────────|
//! 0            low water             head                     next
//! ```

pub mod classic;
pub mod consumer;
pub mod dead_letter;
pub mod deadlines;
pub mod delay;
pub mod log;
pub mod ranges;
pub mod rows;
pub mod settings;
pub mod state;
pub mod tallies;
pub mod timer;

pub use classic::Queue;
pub use ranges::Ranges;
pub use settings::Settings;
