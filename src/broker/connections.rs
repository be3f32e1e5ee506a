//! The connections that there are, and how many each user and virtual host has.

use crate::amqp::Table;
use crate::metrics::{Churn, Traffic, Watch};
use crate::queue::Queue;
use crate::vhost::Vhost;
use crate::vhost::clients::{Channel, Inside, Unacked};
use crate::vhost::events::Tls;
use dashmap::DashMap;
use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Connections {
    /// By a hash that is the same in every run, so that simulations repeat themselves.
    all: DashMap<u64, Arc<Registered>, FxBuildHasher>,
    last: AtomicU64,
    counts: Mutex<Counts>,
    churn: Arc<Churn>,
    /// What connections that are gone have sent and received. With its lock held a connection's own numbers go over to it.
    gone: Mutex<Traffic>,
    /// Why all are closed, those too that come while the broker stops.
    closing: OnceLock<String>,
}

/// A connection as the rest of the broker knows it.
#[derive(Debug)]
pub struct Registered {
    pub id: u64,
    /// `127.0.0.1:50000 -> 127.0.0.1:5672`.
    pub name: Arc<str>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub connected_at_ms: u64,
    /// `None` if it is plain.
    pub tls: Option<Tls>,
    /// Wakes the connection's task to see what it is asked, and whether it may publish.
    pub asked: Notify,
    asks: Mutex<Asks>,
    opened: OnceLock<Opened>,
    channels: AtomicU32,
    inside: OnceLock<Weak<dyn Inside>>,
    /// What its socket has sent and received.
    pub traffic: Arc<Traffic>,
    /// The same, as it was: octets received and sent.
    pub watch: Watch<2>,
    pub throttle: Throttle,
}

/// How a connection is held up.
#[derive(Debug, Default)]
pub struct Throttle {
    /// It has published while an alarm is on, and that waits.
    pub is_blocked: AtomicBool,
    /// When it was last not read, for another reason than an alarm; milliseconds since 1970.
    pub paused_ms: AtomicU64,
}

/// A connection counts as throttled for so long after it was (`rabbit_reader:i(state, …)`).
const THROTTLED_FOR_MS: u64 = 5000;

impl Throttle {
    /// In RabbitMQ's words.
    pub fn state(&self, is_alarm: bool, now_ms: u64) -> &'static str {
        match self.is_blocked.load(Ordering::Relaxed) {
            true if is_alarm => "blocked",
            _ if is_alarm => "blocking",
            _ if now_ms < self.paused_ms.load(Ordering::Relaxed).saturating_add(THROTTLED_FOR_MS) => "flow",
            _ => "running",
        }
    }
}

/// What a connection's task is to do.
#[derive(Debug, Default)]
pub struct Asks {
    /// End, with this reason in connection.close.
    pub close: Option<String>,
    /// The user's rights are others now: look at the consumers again.
    pub rights_changed: bool,
}

/// What is known of a connection once connection.open was taken.
#[derive(Debug)]
pub struct Opened {
    pub user: Arc<str>,
    pub vhost: Arc<Vhost>,
    /// The SASL mechanism of the login.
    pub mechanism: &'static str,
    pub client_properties: Table,
    /// As negotiated; 0 for no limit.
    pub frame_max: u32,
    pub channel_max: u16,
    /// 0 for none.
    pub heartbeat_s: u64,
}

/// How many are open.
#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    channels: usize,
    by_user: FxHashMap<Arc<str>, OfUser>,
    by_vhost: FxHashMap<Arc<str>, usize>,
}

#[derive(Debug, Default)]
struct OfUser {
    connections: usize,
    channels: usize,
}

/// How many connections there may be at most; `None` for any number.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectionLimits {
    pub node: Option<u32>,
    pub vhost: Option<u32>,
    pub user: Option<u32>,
}

/// How many channels there may be at most; `None` for any number.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChannelLimits {
    pub user: Option<u32>,
    pub node: Option<u32>,
}

/// Which limit is reached, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Node(u32),
    Vhost(u32),
    User(u32),
}

impl Registered {
    /// Asks the connection to say good-bye.
    pub fn close(&self, reason: &str) {
        self.asks.lock().close = Some(reason.to_owned());
        self.asked.notify_one();
    }

    /// Tells the connection that its user's rights are others now.
    pub fn rights_changed(&self) {
        self.asks.lock().rights_changed = true;
        self.asked.notify_one();
    }

    /// What it was asked since the last time.
    pub fn take_asks(&self) -> Asks {
        std::mem::take(&mut *self.asks.lock())
    }

    /// `None` while it is not open yet.
    pub fn opened(&self) -> Option<&Opened> {
        self.opened.get()
    }

    /// Lets others look into it. Told once.
    pub fn look_into(&self, inside: Weak<dyn Inside>) {
        let _ = self.inside.set(inside);
    }

    /// Its channels, in the order of their numbers.
    pub fn channels(&self) -> Vec<Channel> {
        self.inside.get().and_then(Weak::upgrade).map(|inside| inside.channels()).unwrap_or_default()
    }

    /// What its channels have of a queue's messages and not acknowledged.
    pub fn unacked(&self, queue: &Queue) -> Vec<Unacked> {
        self.inside.get().and_then(Weak::upgrade).map(|inside| inside.unacked(queue)).unwrap_or_default()
    }

    /// Channels that are open.
    pub fn channel_count(&self) -> u32 {
        self.channels.load(Ordering::Relaxed)
    }
}

fn reached(limit: Option<u32>, count: usize) -> Option<u32> {
    limit.filter(|limit| count >= *limit as usize)
}

impl Connections {
    pub fn new(churn: &Arc<Churn>) -> Self {
        Self { churn: Arc::clone(churn), ..Self::default() }
    }

    /// Counts a connection in that has only just come.
    pub fn register(
        &self,
        peer: SocketAddr,
        local: SocketAddr,
        connected_at_ms: u64,
        tls: Option<Tls>,
    ) -> Arc<Registered> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let registered = Arc::new(Registered {
            id,
            name: format!("{peer} -> {local}").into(),
            peer,
            local,
            connected_at_ms,
            tls,
            asked: Notify::new(),
            asks: Mutex::default(),
            opened: OnceLock::new(),
            channels: AtomicU32::new(0),
            inside: OnceLock::new(),
            traffic: Arc::default(),
            watch: Watch::default(),
            throttle: Throttle::default(),
        });
        self.all.insert(id, Arc::clone(&registered));
        if let Some(reason) = self.closing.get() {
            registered.close(reason);
        }
        registered
    }

    /// Counts it out again.
    pub fn unregister(&self, registered: &Registered) {
        {
            let gone = self.gone.lock();
            gone.absorb(&registered.traffic);
            self.all.remove(&registered.id);
        }
        let Some(opened) = registered.opened() else { return };
        Churn::count(&self.churn.connection_closed);
        let channels = registered.channels.swap(0, Ordering::Relaxed) as usize;
        self.churn.channel_closed.fetch_add(channels as u64, Ordering::Relaxed);
        let mut counts = self.counts.lock();
        counts.connections -= 1;
        counts.channels -= channels;
        if let Some(of_user) = counts.by_user.get_mut(&opened.user) {
            of_user.connections -= 1;
            of_user.channels -= channels;
            if of_user.connections == 0 {
                counts.by_user.remove(&opened.user);
            }
        }
        if let Some(of_vhost) = counts.by_vhost.get_mut(&opened.vhost.name) {
            *of_vhost -= 1;
            if *of_vhost == 0 {
                counts.by_vhost.remove(&opened.vhost.name);
            }
        }
    }

    /// Opens a connection for a user in a virtual host, unless one more would be too many. The limits are looked at in
    /// RabbitMQ's order (`rabbit_reader:handle_method0`, connection.open).
    pub fn open(&self, registered: &Registered, opened: Opened, limits: ConnectionLimits) -> Result<(), Full> {
        let mut counts = self.counts.lock();
        let of_vhost = counts.by_vhost.get(&opened.vhost.name).copied().unwrap_or_default();
        let of_user = counts.by_user.get(&opened.user).map_or(0, |of_user| of_user.connections);
        if let Some(limit) = reached(limits.node, counts.connections) {
            return Err(Full::Node(limit));
        }
        if let Some(limit) = reached(limits.vhost, of_vhost) {
            return Err(Full::Vhost(limit));
        }
        if let Some(limit) = reached(limits.user, of_user) {
            return Err(Full::User(limit));
        }
        counts.connections += 1;
        *counts.by_vhost.entry(Arc::clone(&opened.vhost.name)).or_default() += 1;
        counts.by_user.entry(Arc::clone(&opened.user)).or_default().connections += 1;
        let first = registered.opened.set(opened).is_ok();
        debug_assert!(first, "a connection is opened once");
        Churn::count(&self.churn.connection_created);
        Ok(())
    }

    /// Counts one more channel of an open connection, unless that would be too many.
    pub fn open_channel(&self, registered: &Registered, limits: ChannelLimits) -> Result<(), Full> {
        let Some(opened) = registered.opened() else { return Ok(()) };
        let mut counts = self.counts.lock();
        let all = counts.channels;
        let of_user = counts.by_user.entry(Arc::clone(&opened.user)).or_default();
        if let Some(limit) = reached(limits.user, of_user.channels) {
            return Err(Full::User(limit));
        }
        if let Some(limit) = reached(limits.node, all) {
            return Err(Full::Node(limit));
        }
        of_user.channels += 1;
        counts.channels += 1;
        registered.channels.fetch_add(1, Ordering::Relaxed);
        Churn::count(&self.churn.channel_created);
        Ok(())
    }

    /// A channel of an open connection has ended.
    pub fn close_channel(&self, registered: &Registered) {
        let Some(opened) = registered.opened() else { return };
        let mut counts = self.counts.lock();
        counts.channels -= 1;
        if let Some(of_user) = counts.by_user.get_mut(&opened.user) {
            of_user.channels -= 1;
        }
        registered.channels.fetch_sub(1, Ordering::Relaxed);
        Churn::count(&self.churn.channel_closed);
    }

    /// What all connections that there ever were have sent and received.
    pub fn traffic(&self) -> Traffic {
        let sum = Traffic::default();
        // Nobody goes over meanwhile: the sum never shrinks.
        let gone = self.gone.lock();
        sum.absorb(&gone);
        self.all.iter().for_each(|one| sum.absorb(&one.traffic));
        sum
    }

    pub fn find(&self, id: u64) -> Option<Arc<Registered>> {
        self.all.get(&id).map(|one| Arc::clone(&one))
    }

    /// All that have come, open or not.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The open ones, in the order in which they came.
    pub fn list(&self) -> Vec<Arc<Registered>> {
        let mut open: Vec<_> =
            self.all.iter().filter(|one| one.opened().is_some()).map(|one| Arc::clone(&one)).collect();
        open.sort_unstable_by_key(|one| one.id);
        open
    }

    /// Asks all connections to say good-bye, and whoever comes after that.
    pub fn close_all(&self, reason: &str) {
        // Before anybody is asked: who is not among them sees it.
        let _ = self.closing.set(reason.to_owned());
        self.all.iter().for_each(|one| one.close(reason));
    }

    /// Calls `act` for every open connection that `is_meant`.
    pub(super) fn each_open(&self, is_meant: impl Fn(&Opened) -> bool, act: impl Fn(&Registered)) {
        for one in &self.all {
            if one.opened().is_some_and(&is_meant) {
                act(&one);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn who_comes_while_the_broker_stops_is_told_as_well() {
        let connections = Connections::default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 5672));
        let come = || connections.register(address, address, 0, None);
        let early = come();
        assert!(early.take_asks().close.is_none());
        connections.close_all("bye");
        for told in [early, come()] {
            assert_eq!(told.take_asks().close.as_deref(), Some("bye"));
        }
    }
}
