//! A connection in memory for simulations: two ways, on each of which octets wait until the network carries them on.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::sync::Notify;

/// One way of a connection.
#[derive(Debug)]
pub struct Way {
    flow: Mutex<Flow>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct Flow {
    sent: VecDeque<u8>,
    arrived: VecDeque<u8>,
    /// Octets sent and not yet read, at most.
    bytes_max: usize,
    /// The sender sends nothing any more.
    ended: bool,
    /// The end has arrived.
    end_arrived: bool,
    /// The connection is gone.
    broken: bool,
}

impl Way {
    pub fn new(bytes_max: usize) -> Arc<Self> {
        let flow = Mutex::new(Flow { bytes_max, ..Flow::default() });
        Arc::new(Self { flow, moved: Notify::new() })
    }

    async fn until(&self, holds: impl Fn(&Flow) -> bool) {
        loop {
            let moved = self.moved.notified();
            if holds(&self.flow.lock()) {
                return;
            }
            moved.await;
        }
    }

    pub async fn readable(&self) {
        self.until(|flow| !flow.arrived.is_empty() || flow.end_arrived || flow.broken).await;
    }

    pub async fn writable(&self) {
        self.until(|flow| flow.sent.len() + flow.arrived.len() < flow.bytes_max || flow.broken).await;
    }

    /// Waits until there is something to carry.
    pub async fn loaded(&self) {
        self.until(|flow| !flow.sent.is_empty() || flow.ended && !flow.end_arrived || flow.broken).await;
    }

    /// Carries some octets on: `chosen` of those that were sent. False once the end has arrived.
    pub fn carry(&self, chosen: impl FnOnce(usize) -> usize) -> bool {
        let mut flow = self.flow.lock();
        let count = chosen(flow.sent.len()).min(flow.sent.len());
        let Flow { sent, arrived, .. } = &mut *flow;
        arrived.extend(sent.drain(..count));
        flow.end_arrived |= flow.ended && flow.sent.is_empty();
        self.moved.notify_waiters();
        !flow.end_arrived && !flow.broken
    }

    pub fn try_read(&self, out: &mut [u8]) -> io::Result<usize> {
        let mut flow = self.flow.lock();
        if flow.broken {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if flow.arrived.is_empty() {
            return if flow.end_arrived { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = out.len().min(flow.arrived.len());
        for (to, from) in out.iter_mut().zip(flow.arrived.drain(..count)) {
            *to = from;
        }
        self.moved.notify_waiters();
        Ok(count)
    }

    pub fn try_write(&self, octets: &[u8]) -> io::Result<usize> {
        let mut flow = self.flow.lock();
        if flow.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = flow.bytes_max.saturating_sub(flow.sent.len() + flow.arrived.len());
        if room == 0 && !octets.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = room.min(octets.len());
        flow.sent.extend(&octets[..count]);
        self.moved.notify_waiters();
        Ok(count)
    }

    /// Nothing more is sent.
    pub fn end(&self) {
        self.flow.lock().ended = true;
        self.moved.notify_waiters();
    }

    pub fn has_ended(&self) -> bool {
        let flow = self.flow.lock();
        flow.end_arrived || flow.broken
    }

    /// The connection is gone, with what was on its way.
    pub fn cut(&self) {
        self.flow.lock().broken = true;
        self.moved.notify_waiters();
    }
}
