//! Sockets in, connections out: bind, accept, stop.

mod confine;
mod pass;
mod reload;
mod supervisor;

use crate::admission::{self, Door};
use crate::broker::listeners::{BACKLOG, Certificates, Errors, Listener, Protocol};
use crate::broker::{Broker, StartError};
use crate::config::{Config, EXIT_CONFIG, Sources, Tls};
use crate::definitions::{self, Document};
use crate::http::{Control, Site};
use crate::store::OpenError;
use crate::transport::tls::{Acceptor, Mistake};
use crate::transport::{Entrance, Refused};
use crate::written::{Place, Remark, Remarks};
use parking_lot::Mutex;
pub use pass::FILE as TOOLS_PASS;
use pass::Pass;
use reload::Reloader;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the process ends with, as RabbitMQ's tools and sysexits.h have it.
pub mod exit {
    pub use crate::store::exit::{DATA, IO};
    /// A port is in use, or not ours to take.
    pub const PORT: u8 = 69;
    /// Another broker has the data folder.
    pub const LOCKED: u8 = 75;
    /// Asked to stop twice.
    pub const HURRIED: u8 = 130;
}

/// How long to wait for descriptors when there are none.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Those who are turned away are told of once in this time.
const TURNED_AWAY_INTERVAL: Duration = Duration::from_secs(1);
/// How long connections may take to say good-bye at the end.
const GOODBYE: Duration = Duration::from_secs(3);

/// Runs the broker until it is told to stop. `sources`: where the settings came from.
pub fn run(config: Config, warnings: Vec<Remark>, sources: Sources) -> ExitCode {
    if let Err(error) = crate::telemetry::start_logging(&config.log) {
        eprintln!("leveret: no logs: {error}");
    }
    confine::confine(config.core_dumps);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = config.workers {
        runtime.worker_threads(workers);
    }
    match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(serve(Arc::new(config), sources)),
        Err(error) => fail(exit::IO, &format!("can't start threads: {error}")),
    }
}

/// One clear line, for people and for logs.
fn fail(code: u8, text: &str) -> ExitCode {
    tracing::error!("{text}");
    eprintln!("leveret: {text}");
    ExitCode::from(code)
}

async fn serve(config: Arc<Config>, sources: Sources) -> ExitCode {
    let descriptors = raise_descriptor_limit();
    let (Ok(mut terminate), Ok(mut interrupt), Ok(hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return fail(exit::IO, "can't listen for signals");
    };
    let documents = match read_definitions(&config) {
        Ok(documents) => documents,
        Err(remarks) => {
            eprint!("{remarks}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let (entrances, http_entrances) = match (entrances(&config), http_entrances(&config)) {
        (Ok(amqp), Ok(http)) => (amqp, http),
        (Err(mistake), _) | (_, Err(mistake)) => return fail(EXIT_CONFIG, &mistake.to_string()),
    };
    let amqp = entrances.iter().map(|(address, entrance)| (reload::Door::Amqp, *address, entrance));
    let of_http = http_entrances.iter().map(|one| (one.door, one.address, &one.entrance));
    let acceptors =
        amqp.chain(of_http).filter_map(|(door, address, entrance)| Some((door, address, entrance.tls.clone()?)));
    let reloader = Reloader::new(sources, acceptors.collect());
    // Ports first: they are the likelier mistake, and cost nothing. Nobody can connect before the data is there.
    let mut sockets = Vec::new();
    for (address, entrance) in entrances {
        match bind(address) {
            Ok(socket) => sockets.push((socket, entrance)),
            Err(error) => {
                return fail(
                    exit::PORT,
                    &format!(
                        "can't listen on {address}: {error}; is another broker running? Choose another port with --amqp-port"
                    ),
                );
            }
        }
    }
    let mut http = Vec::new();
    for one in http_entrances {
        match bind(one.address) {
            Ok(socket) => http.push((socket, one)),
            Err(error) => {
                let (address, what, flag) = (one.address, one.what(), one.flag);
                let text = format!("can't listen on {address} for {what}: {error}; is another broker running?");
                // Nobody asked for the port of the metrics: they are not worth that two brokers can't run side by side.
                if one.door == reload::Door::Metrics && !config.metrics.is_wanted {
                    tracing::warn!("{text} There are no metrics; choose another port with --{flag}, or none");
                    continue;
                }
                return fail(exit::PORT, &format!("{text} Choose another port with --{flag}, or none"));
            }
        }
    }
    if config.data_dir_defaulted {
        tracing::info!("data folder: {} (choose another with --data-dir)", config.data_dir.display());
    } else {
        tracing::info!("data folder: {}", config.data_dir.display());
    }
    let broker = match Broker::open(Arc::clone(&config)) {
        Ok(broker) => broker,
        Err(error) => {
            let code = match &error {
                StartError::Store(OpenError::Locked(_)) => exit::LOCKED,
                StartError::Store(OpenError::Io { .. }) => exit::IO,
                _ => exit::DATA,
            };
            return fail(code, &error.to_string());
        }
    };
    for document in &documents {
        if let Err(text) = load(&broker, document).await {
            broker.close();
            return fail(EXIT_CONFIG, &format!("definitions: {text}"));
        }
    }
    let time = tokio::spawn({
        let broker = Arc::clone(&broker);
        async move { broker.keep_time().await }
    });
    let door = Door::new(admission::Limits {
        clients_max: descriptors.saturating_sub(admission::DESCRIPTORS_RESERVED).max(1),
        unknown_max: config.unauthenticated_max.map_or(usize::MAX, |limit| limit as usize),
        unknown_per_address: config.unauthenticated_per_address.map_or(usize::MAX, |limit| limit as usize),
        accepts_per_address: config.accepts_per_address,
    });
    // Before anybody publishes. An alarm keeps nobody from connecting.
    broker.look();
    let watch = tokio::spawn(Arc::clone(&broker).watch());
    let statistics = tokio::spawn(Arc::clone(&broker).keep_statistics());
    let mut accepting = vec![time, watch, statistics];
    let hearing = tokio::spawn(hear(hangup, Arc::clone(&reloader)));
    accepting.push(hearing);
    for (socket, HttpEntrance { door, entrance, .. }) in http {
        let listener = match socket.listen(BACKLOG) {
            Ok(listener) => listener,
            Err(error) => return fail(exit::PORT, &format!("can't listen: {error}")),
        };
        let (protocol, tls) = match door {
            reload::Door::Metrics => (Protocol::Prometheus, &config.metrics.tls),
            _ => (Protocol::Http, &config.http.tls),
        };
        let certificates = tls.as_ref().filter(|_| entrance.tls.is_some()).map(|(_, tls)| tls);
        let known = open(&broker, protocol, &listener, certificates);
        let kind = match (protocol, entrance.tls.is_some()) {
            (Protocol::Prometheus, false) => "Prometheus",
            (Protocol::Prometheus, true) => "Prometheus (TLS)",
            (_, false) => "HTTP",
            (_, true) => "HTTPS",
        };
        tracing::info!("started {kind} listener on {}", known.address);
        let site = match protocol {
            Protocol::Prometheus => Site::Metrics,
            _ => Site::Management(Arc::clone(&reloader) as Arc<dyn Control>),
        };
        accepting.push(tokio::spawn(crate::http::serve(listener, known, entrance, Arc::clone(&broker), site)));
    }
    // Whoever waits for the broker's port may use its tools then.
    let pass = Pass::write(&broker);
    for (socket, entrance) in sockets {
        let listener = match socket.listen(BACKLOG) {
            Ok(listener) => listener,
            Err(error) => return fail(exit::PORT, &format!("can't listen: {error}")),
        };
        let certificates = entrance.tls.is_some().then_some(&config.tls);
        let known = open(&broker, Protocol::Amqp, &listener, certificates);
        let kind = if entrance.tls.is_some() { "TLS (SSL)" } else { "TCP" };
        tracing::info!("started {kind} listener on {}", known.address);
        accepting.push(tokio::spawn(accept(listener, known, entrance, Arc::clone(&broker), Arc::clone(&door))));
    }
    // Test-container libraries wait for these very words on standard output.
    tracing::info!("Server startup complete; 4 plugins started.");
    supervisor::ready();
    let interrupted = tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => true,
    };
    supervisor::stopping();
    drop(pass);
    tracing::info!("stopping: connections are closed, then everything is written");
    let hurried = tokio::select! {
        () = stop(&broker, accepting) => false,
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
    };
    if hurried {
        tracing::warn!("stopped at once; nothing confirmed is lost");
        return ExitCode::from(exit::HURRIED);
    }
    tracing::info!("stopped");
    if interrupted { ExitCode::from(exit::HURRIED) } else { ExitCode::SUCCESS }
}

/// Notes that a port is listened on.
fn open(broker: &Broker, protocol: Protocol, listener: &TcpListener, tls: Option<&Tls>) -> Arc<Listener> {
    let address = listener.local_addr().unwrap_or_else(|_| (Ipv4Addr::UNSPECIFIED, 0).into());
    let certificates = tls.map(|tls| Certificates {
        own: tls.certfile.iter().chain(&tls.more_certfiles).cloned().collect(),
        authorities: tls.cacertfile.clone(),
    });
    let known = Arc::new(Listener::new(protocol, address, certificates));
    broker.listeners.add(Arc::clone(&known));
    known
}

/// Where AMQP is spoken, and how.
fn entrances(config: &Config) -> Result<Vec<(SocketAddr, Entrance)>, Mistake> {
    let proxies = config.proxies.clone().map(Into::into);
    let write_timeout = config.write_timeout;
    let plain = Entrance { tls: None, proxies, timeout: config.handshake_timeout, write_timeout };
    let mut entrances: Vec<_> = config.amqp_listeners.iter().map(|&address| (address, plain.clone())).collect();
    if !config.amqps_listeners.is_empty() {
        let entrance = Entrance { tls: Some(Acceptor::open(&config.tls)?), ..plain };
        entrances.extend(config.amqps_listeners.iter().map(|&address| (address, entrance.clone())));
    }
    Ok(entrances)
}

/// Where HTTP is spoken.
struct HttpEntrance {
    door: reload::Door,
    address: SocketAddr,
    entrance: Entrance,
    /// The flag that says so.
    flag: &'static str,
}

impl HttpEntrance {
    fn what(&self) -> &'static str {
        if self.door == reload::Door::Metrics { "Prometheus" } else { "the management API" }
    }
}

/// Where the management API and metrics are served, and how.
fn http_entrances(config: &Config) -> Result<Vec<HttpEntrance>, Mistake> {
    use reload::Door;
    let open = |door, listener: Option<SocketAddr>, tls: Option<&Tls>, flag| -> Result<_, Mistake> {
        let Some(address) = listener else { return Ok(None) };
        let tls = tls.map(Acceptor::open).transpose()?;
        // The PROXY protocol is for AMQP; proxies of HTTP speak HTTP. And `http::door` sees who takes nothing of an answer.
        let entrance = Entrance { tls, proxies: None, timeout: config.handshake_timeout, write_timeout: None };
        Ok(Some(HttpEntrance { door, address, entrance, flag }))
    };
    let secure = |tls: &Option<(SocketAddr, Tls)>| tls.as_ref().map(|(address, _)| *address);
    let certificates = |tls: &'_ Option<(SocketAddr, Tls)>| tls.as_ref().map(|(_, tls)| tls.clone());
    let (https, metrics) = (&config.http.tls, &config.metrics.tls);
    let all = [
        open(Door::Http, config.http_listener, None, "http-port")?,
        open(Door::Http, secure(https), certificates(https).as_ref(), "https-port")?,
        open(Door::Metrics, config.metrics_listener, None, "metrics-port")?,
        open(Door::Metrics, secure(metrics), certificates(metrics).as_ref(), "metrics-tls-port")?,
    ];
    Ok(all.into_iter().flatten().collect())
}

/// Reads again what can be, whenever SIGHUP says so.
async fn hear(mut hangup: Signal, reloader: Arc<Reloader>) {
    while hangup.recv().await.is_some() {
        let reloader = Arc::clone(&reloader);
        supervisor::reloading();
        // Files are read: no work for a task. What came of it is in the log.
        let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
        supervisor::ready();
    }
}

/// All definitions named in the configuration, read and checked before anything is touched.
fn read_definitions(config: &Config) -> Result<Vec<Document>, Remarks> {
    let mut documents = Vec::new();
    for path in &config.definitions {
        let files = definitions::files(path).map_err(|error| {
            let mut remarks = Remarks::default();
            remarks.mistake(Place::whole_file(path), "", format!("can't be read: {error}"));
            remarks
        })?;
        for file in files {
            let (document, warnings) = Document::read(&file, definitions::Target::Named, &config.password_hashing)?;
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            tracing::info!("definitions from {}: {}", file.display(), document.summary());
            documents.push(document);
        }
    }
    Ok(documents)
}

async fn load(broker: &Broker, document: &Document) -> Result<(), String> {
    let imported = definitions::import(broker, document, definitions::HOUSE).map_err(|mistakes| mistakes.join("\n"))?;
    for committed in imported {
        committed.await.map_err(|_| "they could not be written to disk".to_owned())?;
    }
    Ok(())
}

async fn stop(broker: &Arc<Broker>, accepting: Vec<tokio::task::JoinHandle<()>>) {
    for task in accepting {
        task.abort();
    }
    broker.connections.close_all("broker forced connection closure with reason 'shutdown'");
    let end = tokio::time::Instant::now() + GOODBYE;
    while broker.connections.count() > 0 && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let broker = Arc::clone(broker);
    // The store's threads are waited for, which is no work for a task.
    if tokio::task::spawn_blocking(move || broker.close()).await.is_err() {
        tracing::error!("the store did not close cleanly");
    }
}

/// Takes an address. Where there is no IPv6, all addresses are those of IPv4.
fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let exactly = |address: SocketAddr| {
        let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    let socket = exactly(address);
    if socket.is_err() && address.ip() == Ipv6Addr::UNSPECIFIED {
        return exactly(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()))).or(socket);
    }
    socket
}

async fn accept(listener: TcpListener, known: Arc<Listener>, entrance: Entrance, broker: Arc<Broker>, door: Arc<Door>) {
    let turned_away = Arc::new(TurnedAway::default());
    loop {
        match listener.accept().await {
            // A proxy's address stands for many clients.
            Ok((stream, peer)) => match door.admit(peer.ip(), is_loopback(peer) || entrance.is_proxy(peer.ip())) {
                Ok(guest) => {
                    // The connection waits for its own end; the broker counts it.
                    let (broker, entrance, turned_away) =
                        (Arc::clone(&broker), entrance.clone(), Arc::clone(&turned_away));
                    let known = Arc::clone(&known);
                    tokio::spawn(async move {
                        let entered = tokio::select! {
                            entered = entrance.enter(stream, peer) => entered,
                            () = guest.gives_way() => Err(Refused::Gone),
                        };
                        match entered {
                            Ok(client) => crate::connection::serve(broker, client, guest).await,
                            // Port scanners and health checks come and go like this.
                            Err(Refused::Gone) => tracing::debug!("connection from {peer} ended before it began"),
                            Err(refused) => {
                                Errors::count(&known.errors.handshake);
                                turned_away.tell(peer, refused, Instant::now());
                            }
                        }
                    });
                }
                Err(refusal) => {
                    drop(stream);
                    Errors::count(&known.errors.turned_away);
                    turned_away.tell(peer, refusal, Instant::now());
                }
            },
            Err(error) => {
                // No descriptors left, most likely: others will be closed.
                Errors::count(&known.errors.accept);
                tracing::warn!("can't accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_loopback(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

/// Those who were turned away: a flood of them must not become one of the log.
#[derive(Debug, Default)]
struct TurnedAway(Mutex<Untold>);

#[derive(Debug, Default)]
struct Untold {
    count: u64,
    told: Option<Instant>,
}

impl TurnedAway {
    fn tell(&self, peer: SocketAddr, why: impl std::fmt::Display, now: Instant) {
        let mut untold = self.0.lock();
        untold.count += 1;
        if untold.told.is_none_or(|told| now.duration_since(told) >= TURNED_AWAY_INTERVAL) {
            let count = std::mem::take(&mut untold.count);
            tracing::warn!("{count} connections turned away since last told, the last from {peer}: {why}");
            untold.told = Some(now);
        }
    }
}

/// Each connection takes a descriptor; the soft limit is often 1024 for no reason. Says how many there may be.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!("can't raise the limit of open files: {error}");
            limit.current
        }
    };
    current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}
