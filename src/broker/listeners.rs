//! Where the broker can be reached. The server tells what it listens on; health checks, listings and metrics ask.

use parking_lot::RwLock;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Connections that wait to be accepted.
pub const BACKLOG: u32 = 4096;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Amqp,
    Http,
    Prometheus,
}

/// A port that is listened on.
#[derive(Debug)]
pub struct Listener {
    pub protocol: Protocol,
    pub address: SocketAddr,
    /// What it shows its clients, if it speaks TLS.
    pub certificates: Option<Certificates>,
    pub errors: Errors,
}

/// Files of certificates, PEM.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    /// Its own, each with its chain.
    pub own: Vec<PathBuf>,
    pub authorities: Option<PathBuf>,
}

/// Who came by a listener and was not let in.
#[derive(Debug, Default)]
pub struct Errors {
    /// The system could not accept a connection: no descriptors were left.
    pub accept: AtomicU64,
    /// There were too many, of all or from one address.
    pub turned_away: AtomicU64,
    /// It did not speak TLS or the PROXY protocol as it must, or not in time.
    pub handshake: AtomicU64,
}

impl Errors {
    pub fn count(error: &AtomicU64) {
        error.fetch_add(1, Ordering::Relaxed);
    }
}

impl Listener {
    pub fn new(protocol: Protocol, address: SocketAddr, certificates: Option<Certificates>) -> Self {
        Self { protocol, address, certificates, errors: Errors::default() }
    }

    /// RabbitMQ's name for what is spoken.
    pub fn protocol_name(&self) -> &'static str {
        match (self.protocol, self.certificates.is_some()) {
            (Protocol::Amqp, false) => "amqp",
            (Protocol::Amqp, true) => "amqp/ssl",
            (Protocol::Http, false) => "http",
            (Protocol::Http, true) => "https",
            (Protocol::Prometheus, false) => "http/prometheus",
            (Protocol::Prometheus, true) => "https/prometheus",
        }
    }
}

/// All of them, in the order in which they were opened: as many as the settings name.
#[derive(Debug, Default)]
pub struct Listeners(RwLock<Vec<Arc<Listener>>>);

impl Listeners {
    /// From now on it can be reached there.
    pub fn add(&self, listener: Arc<Listener>) {
        self.0.write().push(listener);
    }

    pub fn list(&self) -> Vec<Arc<Listener>> {
        self.0.read().clone()
    }
}
