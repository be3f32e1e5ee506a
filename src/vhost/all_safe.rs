//! Waits for several queues at once.

use crate::queue::classic::{Ticket, Waiter};
use crate::queue::consumer::Outlet;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// Tells once everything that its tickets were handed in with is safe.
pub struct AllSafe {
    waiting: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<bool>>>,
    refused: AtomicBool,
}

impl AllSafe {
    /// The receiver is told whether the queues took everything, no sooner than [`AllSafe::handed_over`].
    pub fn new() -> (Arc<Self>, oneshot::Receiver<bool>) {
        let (done, told) = oneshot::channel();
        // One is kept until everything is handed over.
        let waiting = AtomicUsize::new(1);
        (Arc::new(Self { waiting, done: Mutex::new(Some(done)), refused: AtomicBool::new(false) }), told)
    }

    /// A ticket for one more queue.
    pub fn ticket(self: &Arc<Self>) -> Ticket {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Arc::clone(self) as Ticket
    }

    /// No more tickets will be asked for.
    pub fn handed_over(&self) {
        let _ = self.safe();
    }
}

impl Waiter for AllSafe {
    fn safe(&self) -> Option<Arc<dyn Outlet>> {
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().take()
        {
            // Who waited may have gone.
            let _ = done.send(!self.refused.load(Ordering::Acquire));
        }
        None
    }

    fn refused(&self, _: Range<u32>) {
        self.refused.store(true, Ordering::Release);
    }
}
