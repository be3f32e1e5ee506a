//! Bugs that are planted to see whether simulations find them. They exist in tests only.

use std::cell::Cell;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Publishers are told before the disk has been asked.
    ConfirmBeforeSync,
    /// Writes are not synced.
    LostSuffix,
    /// A message that comes back is put back twice.
    DoubleRequeue,
    /// Nobody wakes the commit thread while it is at work.
    MissedWakeUp,
    /// A transaction's parts may be in different commits.
    SplitTransaction,
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Whether the broker of this thread has the bug.
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Gives all brokers of this thread a bug, until the guard is dropped.
pub fn plant(bug: Bug) -> impl Drop {
    struct Uproot;
    impl Drop for Uproot {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
    PLANTED.set(Some(bug));
    Uproot
}
