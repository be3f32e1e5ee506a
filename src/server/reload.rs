//! What a running broker reads again when it is asked to, by SIGHUP or over HTTP: its certificates, and the level of its
//! logs. Nobody is disconnected; if something is wrong, what was there before stays.

use crate::config::{Config, Sources, Tls};
use crate::http::{Control, Effective, Reloaded};
use crate::telemetry;
use crate::transport::tls::Acceptor;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;

/// Whose certificates they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Amqp,
    Http,
    Metrics,
}

pub struct Reloader {
    /// Where the settings came from. Variables and flags are those that the process was started with.
    sources: Sources,
    /// Those who shake hands, with the first address of each.
    acceptors: Vec<(Door, SocketAddr, Arc<Acceptor>)>,
    /// One at a time.
    turn: Mutex<()>,
    /// As they were when the process started.
    settings: Vec<Effective>,
}

impl Reloader {
    pub fn new(sources: Sources, acceptors: Vec<(Door, SocketAddr, Arc<Acceptor>)>) -> Arc<Self> {
        let settings = sources.effective();
        Arc::new(Self { sources, acceptors, turn: Mutex::new(()), settings })
    }

    /// Reads everything again, and says in the log as well what came of it.
    pub fn reload(&self) -> Reloaded {
        let _turn = self.turn.lock();
        let reloaded = match Config::load(&self.sources) {
            Ok((config, _)) => self.apply(&config),
            Err(remarks) => {
                Reloaded { reloaded: Vec::new(), mistakes: remarks.mistakes.iter().map(ToString::to_string).collect() }
            }
        };
        for line in &reloaded.reloaded {
            tracing::info!("reloaded {line}");
        }
        for line in &reloaded.mistakes {
            tracing::error!("not reloaded: {line}");
        }
        reloaded
    }

    fn apply(&self, config: &Config) -> Reloaded {
        let mut reloaded = Reloaded::default();
        for (door, address, acceptor) in &self.acceptors {
            let tls: Option<&Tls> = match door {
                Door::Amqp => Some(&config.tls),
                Door::Http => config.http.tls.as_ref().map(|(_, tls)| tls),
                Door::Metrics => config.metrics.tls.as_ref().map(|(_, tls)| tls),
            };
            // A listener that the settings have no more serves on until the next start.
            let Some(tls) = tls else { continue };
            match acceptor.reload(tls) {
                Ok(()) => reloaded.reloaded.push(format!("the certificates of {address}")),
                Err(mistake) => reloaded.mistakes.push(mistake.to_string()),
            }
        }
        match telemetry::change_level(&config.log) {
            Ok(()) => reloaded.reloaded.push(format!("the log level: {}", config.log.filter)),
            Err(why) => reloaded.mistakes.push(format!("log.level: {why}")),
        }
        reloaded
    }
}

impl Control for Reloader {
    fn reload(&self) -> Reloaded {
        Self::reload(self)
    }

    /// Whoever waits for the signal need not know where it came from.
    fn stop(&self) {
        let told = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
        if let Err(error) = told {
            tracing::error!("the broker can't tell itself to stop: {error}");
        }
    }

    fn settings(&self) -> Vec<Effective> {
        self.settings.clone()
    }
}
