use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::ciphers::{self, Cipher};
use super::layers::{Layers, Written};
use super::network::Network;
use super::settings::{Default, Kind, Setting};
use super::sources::Sources;
use super::units::{self, Listen};
use crate::auth::certificate::{LoginFrom, NameType};
use crate::auth::sasl::Mechanism;
use crate::auth::token::{self, Issuer};
use crate::auth::{self, Pattern, Secret};
use crate::written::{Field, Node, Place, Remarks, Tree};

/// What the broker was told, checked: every value is in its range and every default filled in.
#[derive(Debug, Clone)]
pub struct Config {
    /// The files that were read for it, in their order.
    pub files: Vec<PathBuf>,
    pub data_dir: PathBuf,
    /// Nobody named that folder; it was chosen for the user who started the broker.
    pub data_dir_defaulted: bool,
    pub bind: Vec<IpAddr>,
    /// Where AMQP is spoken; port 0 takes a free one. May be empty.
    pub amqp_listeners: Vec<SocketAddr>,
    /// Where AMQP is spoken over TLS; if there is one, `tls` has a certificate and a key.
    pub amqps_listeners: Vec<SocketAddr>,
    /// The proxies that say for whom they connect where AMQP is spoken; nobody else may connect there then.
    pub proxies: Option<Vec<Network>>,
    pub http_listener: Option<SocketAddr>,
    pub metrics_listener: Option<SocketAddr>,
    pub metrics: Metrics,
    pub statistics: Statistics,
    pub tls: Tls,

    pub durability: Durability,
    /// Bytes of message bodies kept in memory, all queues together.
    pub messages_memory: u64,
    pub publishing_memory: u64,
    /// Bytes of message bodies that one queue keeps in memory.
    pub queue_memory: u64,
    /// Messages expire when they reach their queue's head, as in RabbitMQ, even if somebody waits for dead letters.
    pub expire_at_head: bool,
    /// Bytes the store gathers in memory before it writes a file.
    pub store_write_buffer: u64,
    /// Bytes that may wait for the disk before publishers have to.
    pub unsynced_max: u64,
    /// With more memory in use than this, publishers wait.
    pub memory_watermark: Watermark,
    /// Bytes of memory there are, if they are not to be found out.
    pub total_memory: Option<u64>,
    /// With less free disk than this, publishers wait; `None` is what suits the disk.
    pub disk_free_limit: Option<Watermark>,
    /// Bytes set aside for when the disk is full.
    pub disk_ballast: u64,
    /// Threads that serve connections; `None` is one a processor.
    pub workers: Option<usize>,
    /// Whether a crash may leave an image of the process's memory, and panics are told in full.
    pub core_dumps: bool,

    pub handshake_timeout: Duration,
    /// Seconds; 0 is none.
    pub heartbeat_s: u16,
    /// Octets.
    pub frame_max: u32,
    /// Octets of a frame before the client has logged in.
    pub initial_frame_max: u32,
    /// 0 is as many as there are numbers.
    pub channel_max: u16,
    pub channel_churn_max: Option<u32>,
    /// `None`: for ever.
    pub write_timeout: Option<Duration>,
    pub channel_max_per_node: Option<u32>,
    pub vhost_max: Option<u32>,
    pub cluster_queue_limit: Option<u32>,
    pub cluster_exchange_limit: Option<u32>,
    pub max_connections: Option<u32>,
    /// Connections that have not logged in yet.
    pub unauthenticated_max: Option<u32>,
    /// The same, of one address that does not stand for many.
    pub unauthenticated_per_address: Option<u32>,
    /// Connections taken from such an address, a second.
    pub accepts_per_address: Option<u32>,
    pub consumer_max_per_channel: Option<u32>,
    /// Bytes of a message's body; at most 512 MiB.
    pub max_message_size: u64,
    /// For the acknowledgement of a quorum queue's message; `None`: for ever.
    pub consumer_timeout: Option<Duration>,

    pub default_user: String,
    pub default_pass: Secret,
    pub default_vhost: String,
    pub default_user_tags: Vec<String>,
    pub default_permissions: DefaultPermissions,
    /// How new passwords are hashed.
    pub password_hashing: auth::Algorithm,
    /// Failed logins of one user from one address a minute, after which it is refused.
    pub login_failures_max: Option<u32>,
    /// For so long.
    pub login_refusal: Duration,
    /// From a login to the answer that it is refused.
    pub login_delay: Duration,
    /// What clients may log in with, in the order in which it is announced.
    pub auth_mechanisms: Vec<Mechanism>,
    /// Who knows the users.
    pub auth_backends: Vec<Backend>,
    /// What of a client's certificate is the user's name.
    pub certificate_login: LoginFrom,
    /// Users who may only connect from this machine.
    pub loopback_users: Vec<String>,
    /// Who SASL ANONYMOUS logs in as, and with which password.
    pub anonymous_login: Option<(String, Secret)>,
    /// Files and folders of definitions to load at start.
    pub definitions: Vec<PathBuf>,
    /// Virtual hosts with the firehose on from the start.
    pub trace_vhosts: Vec<String>,

    /// `classic`, `quorum` or `stream`.
    pub default_queue_type: String,
    pub permit_transient_nonexclusive_queues: bool,
    pub permit_global_qos: bool,

    pub http: Http,

    /// What clients are told; Celery and others choose features by it.
    pub product_name: String,
    pub product_version: String,
    pub node_name: String,
    pub cluster_name: String,

    pub log: Log,
}

/// When a persistent message counts as safe, and its publisher is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has it.
    Fsync,
    /// When the operating system has it: survives the broker, not the machine.
    Os,
    /// Messages don't outlive the broker.
    Memory,
}

/// Where to draw a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watermark {
    /// At so many millionths of the memory there is.
    Relative(u64),
    /// At so many bytes.
    Absolute(u64),
}

impl Watermark {
    /// The line in bytes, with so many bytes of memory.
    pub fn bytes(self, total_memory: u64) -> u64 {
        match self {
            Self::Relative(share) => {
                let bytes = u128::from(total_memory) * u128::from(share) / u128::from(units::MILLION);
                u64::try_from(bytes).unwrap_or(u64::MAX)
            }
            Self::Absolute(bytes) => bytes,
        }
    }
}

/// Who knows users.
#[derive(Debug, Clone, PartialEq)]
pub enum Backend {
    /// The broker itself.
    Internal,
    /// Whoever issued a token.
    Tokens(Arc<Issuer>),
}

/// Certificates of the listeners for TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    pub cacertfile: Option<PathBuf>,
    pub password: Option<Secret>,
    pub verify: Verify,
    /// Only with [`Verify::Peer`].
    pub fail_if_no_peer_cert: bool,
    /// Authorities between a client's certificate and one that is trusted.
    pub depth: usize,
    /// Not without a file of `crlfiles`.
    pub crl_check: CrlCheck,
    pub crlfiles: Vec<PathBuf>,
    /// Each with a certificate, its chain and its key, for the hosts that it names.
    pub more_certfiles: Vec<PathBuf>,
    /// At least one.
    pub versions: Vec<TlsVersion>,
    /// IANA's names, best first; empty: all there are.
    pub ciphers: Vec<&'static str>,
    /// The order of `ciphers` counts before the client's.
    pub honor_cipher_order: bool,
    /// For the handshake alone.
    pub handshake_timeout: Duration,
}

/// Whether clients are asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    None,
    Peer,
}

/// How the management API is served.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where it is served over TLS, and the certificates for that.
    pub tls: Option<(SocketAddr, Tls)>,
    pub connections_max: usize,
    /// Octets of a request's body.
    pub body_bytes_max: usize,
    pub request_timeout: Duration,
    pub idle_timeout: Duration,
    /// What stands before `/api`: nothing, or a path without a slash at its end.
    pub path_prefix: String,
    /// Origins of web pages that may use the API.
    pub cors_allow_origins: Vec<String>,
    pub cors_max_age: Duration,
    /// Nothing that is counted is shown.
    pub disable_stats: bool,
    /// But for how many messages queues hold.
    pub enable_queue_totals: bool,
}

/// What is sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    /// Between two samples; `None` if none are taken.
    pub interval: Option<Duration>,
    /// Single things whose past is kept.
    pub histories_max: usize,
    /// For how long samples are kept and how far apart, in seconds, the shortest first: of the whole, and of single things.
    pub samples_global: Vec<(u64, u64)>,
    pub samples_basic: Vec<(u64, u64)>,
    /// Pairs of address and user whose logins are counted.
    pub login_sources_max: usize,
}

/// Samples kept of one thing, each with all its numbers.
const SAMPLES_MAX: u64 = 10_000;

/// How metrics are served to Prometheus.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Somebody said where they are served, or that they are not.
    pub is_wanted: bool,
    /// Where they are served over TLS, and the certificates for that.
    pub tls: Option<(SocketAddr, Tls)>,
    /// With a slash before it and none behind.
    pub path: String,
    /// They stand there for each thing.
    pub per_object: bool,
    /// So many of a kind are shown one by one.
    pub objects_max: usize,
    /// They are found on the ports of the management API as well.
    pub on_http_port: bool,
}

/// Which certificates of a client's chain must not be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrlCheck {
    /// None is looked at.
    Off,
    /// All of the chain, and a list must know of each.
    Chain,
    /// The client's own.
    Peer,
    /// All of the chain, as far as there are lists.
    BestEffort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// The first user's rights in the first virtual host; each is a pattern that `auth` understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultPermissions {
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// What is logged, and how it looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Directives that `tracing_subscriber::EnvFilter` takes.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// As RabbitMQ's, a line each: `2026-11-23 15:55:28.019764+00:00 [info] text`.
    Plain,
    /// A JSON object each.
    Json,
}

/// Makes of what was written what it means. Every mistake is noted; where there is one the value is only a stand-in.
pub fn resolve(layers: &Layers, sources: &Sources, remarks: &mut Remarks) -> Config {
    let mut meaning = Meaning { layers, remarks };
    let bind = meaning.addresses("bind");
    let data_dir = meaning.path("data_dir");
    let node_name = meaning.given_text("node_name").unwrap_or_else(|| format!("leveret@{}", sources.host.name));
    let cluster_name = meaning.given_text("cluster_name").unwrap_or_else(|| node_name.clone());
    let tls = meaning.tls();
    let amqps_listeners = meaning.listeners("amqps_port", &bind);
    if !amqps_listeners.is_empty() && (tls.certfile.is_none() || tls.keyfile.is_none()) {
        meaning.mistake("amqps_port", "needs a certificate and its key: tls.certfile and tls.keyfile");
    }
    let https = meaning.listener("https_port", &bind);
    let https_tls = meaning.own_tls("https", &tls);
    let metrics_tls_listener = meaning.listener("metrics_tls_port", &bind);
    let metrics_tls = meaning.own_tls("metrics", &tls);
    if metrics_tls_listener.is_some() && (metrics_tls.certfile.is_none() || metrics_tls.keyfile.is_none()) {
        meaning.mistake(
            "metrics_tls_port",
            "needs a certificate and its key: metrics.certfile and metrics.keyfile, or those of tls",
        );
    }
    if https.is_some() && (https_tls.certfile.is_none() || https_tls.keyfile.is_none()) {
        meaning.mistake(
            "https_port",
            "needs a certificate and its key: https.certfile and https.keyfile, or those of tls",
        );
    }
    Config {
        files: layers.files.clone(),
        data_dir_defaulted: data_dir.is_none(),
        data_dir: data_dir.unwrap_or_else(|| sources.default_data_dir()),
        amqp_listeners: meaning.listeners("amqp_port", &bind),
        amqps_listeners,
        proxies: meaning.proxies(),
        http_listener: meaning.listener("http_port", &bind),
        metrics_listener: meaning.listener("metrics_port", &bind),
        metrics: Metrics {
            is_wanted: meaning.layers.get("metrics_port").is_some(),
            tls: metrics_tls_listener.map(|address| (address, metrics_tls)),
            path: meaning.path_prefix("metrics.path"),
            per_object: meaning.boolean("metrics.per_object"),
            objects_max: meaning.number("metrics.objects_max").unwrap_or(usize::MAX),
            on_http_port: meaning.boolean("metrics.on_http_port"),
        },
        statistics: Statistics {
            interval: match meaning.text("statistics.rates_mode").as_str() {
                "none" => None,
                _ => Some(meaning.time("statistics.interval")).filter(|interval| !interval.is_zero()),
            },
            histories_max: meaning.number("statistics.histories_max").unwrap_or(usize::MAX),
            samples_global: meaning.samples("statistics.samples_global"),
            samples_basic: meaning.samples("statistics.samples_basic"),
            login_sources_max: meaning.number("statistics.login_sources_max").unwrap_or(0),
        },
        bind,
        tls,

        durability: meaning.choice(
            "durability",
            &[("fsync", Durability::Fsync), ("os", Durability::Os), ("memory", Durability::Memory)],
        ),
        messages_memory: meaning.bytes("messages_memory"),
        publishing_memory: meaning.bytes("publishing_memory"),
        queue_memory: meaning.bytes("queue_memory"),
        expire_at_head: meaning.text("message_expiry") == "at-head",
        store_write_buffer: meaning.bytes("store_write_buffer"),
        unsynced_max: meaning.bytes("unsynced_max"),
        memory_watermark: match meaning.given_bytes("vm_memory_high_watermark.absolute") {
            Some(bytes) => Watermark::Absolute(bytes),
            None => Watermark::Relative(meaning.share("vm_memory_high_watermark.relative")),
        },
        total_memory: meaning.given_bytes("total_memory_available_override_value"),
        disk_free_limit: match meaning.given_bytes("disk_free_limit.absolute") {
            Some(bytes) => Some(Watermark::Absolute(bytes)),
            None => meaning.given_share("disk_free_limit.relative").map(Watermark::Relative),
        },
        disk_ballast: meaning.bytes("disk_ballast"),
        workers: meaning.number("workers"),
        core_dumps: meaning.boolean("core_dumps"),

        handshake_timeout: meaning.time("handshake_timeout"),
        heartbeat_s: meaning.seconds("heartbeat"),
        frame_max: meaning.bytes("frame_max"),
        initial_frame_max: meaning.bytes("initial_frame_max"),
        channel_max: meaning.number("channel_max").unwrap_or_default(),
        channel_churn_max: meaning.number("channel_churn_max"),
        write_timeout: Some(meaning.time("write_timeout")).filter(|timeout| !timeout.is_zero()),
        channel_max_per_node: meaning.number("channel_max_per_node"),
        vhost_max: meaning.number("vhost_max"),
        cluster_queue_limit: meaning.number("cluster_queue_limit"),
        cluster_exchange_limit: meaning.number("cluster_exchange_limit"),
        max_connections: meaning.number("max_connections"),
        unauthenticated_max: meaning.number("unauthenticated_max"),
        unauthenticated_per_address: meaning.number("unauthenticated_per_address"),
        accepts_per_address: meaning.number("accepts_per_address"),
        consumer_max_per_channel: meaning.number("consumer_max_per_channel"),
        consumer_timeout: Some(meaning.time("consumer_timeout")).filter(|time| !time.is_zero()),
        max_message_size: meaning.bytes("max_message_size"),

        default_user: meaning.text("default_user"),
        default_pass: Secret::new(meaning.text("default_pass")),
        default_vhost: meaning.text("default_vhost"),
        default_user_tags: meaning.words("default_user_tags"),
        default_permissions: DefaultPermissions {
            configure: meaning.pattern("default_permissions.configure"),
            write: meaning.pattern("default_permissions.write"),
            read: meaning.pattern("default_permissions.read"),
        },
        password_hashing: meaning
            .choice(
                "password_hashing",
                &[
                    ("sha256", &auth::Algorithm::Sha256),
                    ("sha512", &auth::Algorithm::Sha512),
                    ("argon2id", &auth::Algorithm::Argon2id),
                ],
            )
            .clone(),
        login_failures_max: meaning.number("login_failures_max"),
        login_refusal: meaning.time("login_refusal"),
        login_delay: meaning.time("login_delay"),
        auth_mechanisms: meaning.mechanisms(),
        auth_backends: meaning.backends(),
        certificate_login: meaning.certificate_login(),
        loopback_users: meaning.words("loopback_users"),
        anonymous_login: match meaning.text("anonymous_login_user") {
            user if user == "none" => None,
            user => Some((user, Secret::new(meaning.text("anonymous_login_pass")))),
        },
        definitions: meaning.words("definitions").into_iter().map(PathBuf::from).collect(),
        trace_vhosts: meaning.words("trace_vhosts"),

        default_queue_type: meaning.text("default_queue_type"),
        permit_transient_nonexclusive_queues: meaning.boolean("permit_transient_nonexclusive_queues"),
        permit_global_qos: meaning.boolean("permit_global_qos"),

        http: Http {
            tls: https.map(|address| (address, https_tls)),
            connections_max: meaning.number("http.max_connections").unwrap_or(usize::MAX),
            body_bytes_max: meaning.bytes("http.max_body_size"),
            request_timeout: meaning.time("http.request_timeout"),
            idle_timeout: meaning.time("http.idle_timeout"),
            path_prefix: meaning.path_prefix("http.path_prefix"),
            cors_allow_origins: meaning.words("http.cors_allow_origins"),
            cors_max_age: meaning.time("http.cors_max_age"),
            disable_stats: meaning.boolean("http.disable_stats"),
            enable_queue_totals: meaning.boolean("http.enable_queue_totals"),
        },

        product_name: meaning.text("product_name"),
        product_version: meaning.text("product_version"),
        node_name,
        cluster_name,

        log: Log {
            filter: meaning.filter("log.level"),
            format: meaning.choice("log.format", &[("plain", LogFormat::Plain), ("json", LogFormat::Json)]),
        },
    }
}

/// Reads settings one by one.
struct Meaning<'a> {
    layers: &'a Layers,
    remarks: &'a mut Remarks,
}

impl Meaning<'_> {
    /// What was written, or else the default, as `read` understands it. Where it doesn't, that is a mistake: `read`
    /// may say why, or else what is allowed is told.
    fn read<T>(&mut self, key: &str, read: impl Fn(&Tree) -> Result<T, String>) -> T {
        let setting = setting(key);
        match self.layers.get(key).map(|written| (written, read(&written.value))) {
            Some((_, Ok(value))) => return value,
            Some((written, Err(what))) => self.remarks.mistake(written.place.clone(), &*written.name, what),
            None => {}
        }
        read(&default(setting).expect("only settings with a written default are read")).expect("a default is right")
    }

    fn mistake(&mut self, key: &str, what: &str) {
        match self.layers.get(key) {
            Some(Written { place, name, .. }) => self.remarks.mistake(place.clone(), name, what),
            None => self.remarks.mistake(Place::CommandLine, key, what),
        }
    }

    fn warn(&mut self, key: &str, what: &str) {
        if let Some(Written { place, name, .. }) = self.layers.get(key) {
            self.remarks.warn(place.clone(), name, what);
        }
    }

    fn text(&mut self, key: &str) -> String {
        let kind = setting(key).kind;
        self.read(key, |value| {
            let text = match value {
                Tree::Text(text) => text.clone(),
                Tree::Integer(number) => number.to_string(),
                Tree::Bool(value) => value.to_string(),
                _ => return Err(wrong(value, kind, "text")),
            };
            match kind {
                Kind::Choice(words) if !words.contains(&text.as_str()) => {
                    Err(wrong(value, kind, &format!("one of {}", words.join(", "))))
                }
                Kind::Text if text.is_empty() && !key.starts_with("default_permissions.") => {
                    Err("must not be empty".to_owned())
                }
                _ => Ok(text),
            }
        })
    }

    /// The text, if somebody gave one.
    fn given_text(&mut self, key: &str) -> Option<String> {
        let Written { value, place, name } = self.layers.get(key)?;
        match value {
            Tree::Text(text) if !text.is_empty() => Some(text.clone()),
            _ => {
                self.remarks.mistake(place.clone(), name, wrong(value, setting(key).kind, "text"));
                None
            }
        }
    }

    /// The path, if somebody gave one; an empty text is none.
    fn path(&mut self, key: &str) -> Option<PathBuf> {
        let Written { value, place, name } = self.layers.get(key)?;
        match value {
            Tree::Text(text) => (!text.is_empty()).then(|| text.into()),
            _ => {
                self.remarks.mistake(place.clone(), name, wrong(value, setting(key).kind, "a path"));
                None
            }
        }
    }

    fn boolean(&mut self, key: &str) -> bool {
        self.read(key, |value| units::boolean(value).ok_or_else(|| wrong(value, Kind::Bool, "true or false")))
    }

    /// The value that belongs to the word; the words are those of the setting's kind.
    fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> T {
        let word = self.text(key);
        let choice = choices.iter().find(|(name, _)| *name == word);
        choice.expect("the setting's kind has these words").1
    }

    /// The number, or `None` for the word that means none.
    fn number<T: TryFrom<u64>>(&mut self, key: &str) -> Option<T> {
        let kind = setting(key).kind;
        let Kind::Number { min, max, nothing } = kind else { unreachable!("{key} is a number") };
        self.read(key, |value| {
            if nothing.is_some_and(|word| *value == Tree::Text(word.to_owned())) {
                return Ok(None);
            }
            let number = units::number(value).filter(|number| (min..=max).contains(number));
            let number = number.and_then(|number| T::try_from(number).ok());
            let or = nothing.map(|word| format!(", or \"{word}\"")).unwrap_or_default();
            number.map(Some).ok_or_else(|| wrong(value, kind, &format!("a number from {min} to {max}{or}")))
        })
    }

    fn bytes<T: TryFrom<u64>>(&mut self, key: &str) -> T {
        self.read(key, |value| size(key, value))
    }

    /// The size, if somebody gave one.
    fn given_bytes(&mut self, key: &str) -> Option<u64> {
        self.given(key, |value| size(key, value))
    }

    fn share(&mut self, key: &str) -> u64 {
        self.read(key, |value| share(key, value))
    }

    /// The share in millionths, if somebody gave one.
    fn given_share(&mut self, key: &str) -> Option<u64> {
        self.given(key, |value| share(key, value))
    }

    /// What was written as `read` understands it, if anything was.
    fn given<T>(&mut self, key: &str, read: impl Fn(&Tree) -> Result<T, String>) -> Option<T> {
        let Written { value, place, name } = self.layers.get(key)?;
        read(value).map_err(|what| self.remarks.mistake(place.clone(), name, what)).ok()
    }

    fn time(&mut self, key: &str) -> Duration {
        let kind = setting(key).kind;
        let Kind::Time { unit, max_s } = kind else { unreachable!("{key} is a time") };
        self.read(key, |value| {
            let time = units::time(value, unit).filter(|time| *time <= Duration::from_secs(max_s));
            let allowed = format!("a time up to {max_s} s, in {} or with another unit, as in \"2 min\"", kind.takes());
            time.ok_or_else(|| wrong(value, kind, &allowed))
        })
    }

    /// A time in whole seconds.
    fn seconds(&mut self, key: &str) -> u16 {
        let time = self.time(key);
        if time.subsec_nanos() > 0 {
            self.mistake(key, "must be whole seconds");
        }
        u16::try_from(time.as_secs()).expect("the setting's largest time fits")
    }

    fn words(&mut self, key: &str) -> Vec<String> {
        let kind = setting(key).kind;
        self.read(key, |value| units::items(value).ok_or_else(|| wrong(value, kind, "a list of text")))
    }

    /// Text that may be empty.
    fn any_text(&mut self, key: &str) -> String {
        let kind = setting(key).kind;
        self.read(key, |value| match value {
            Tree::Text(text) => Ok(text.clone()),
            Tree::Integer(number) => Ok(number.to_string()),
            _ => Err(wrong(value, kind, "text")),
        })
    }

    /// Names and their values.
    fn pairs(&mut self, key: &str) -> Vec<(String, String)> {
        let kind = setting(key).kind;
        self.read(key, |value| {
            if let Tree::Map(fields) = value {
                let pair = |field: &Field| match &field.value.tree {
                    Tree::Text(text) => Ok((field.name.clone(), text.clone())),
                    other => Err(format!("{} is {}, not text", field.name, other.kind())),
                };
                return fields.iter().map(pair).collect();
            }
            let items = units::items(value).ok_or_else(|| wrong(value, kind, "a list of name=value"))?;
            let pair = |item: &String| match item.split_once('=') {
                Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
                None => Err(format!("'{item}' is not name=value")),
            };
            items.iter().map(pair).collect()
        })
    }

    /// For how long samples are kept, and how far apart.
    fn samples(&mut self, key: &str) -> Vec<(u64, u64)> {
        let mut samples = Vec::new();
        let pairs = self.pairs(key);
        if pairs.is_empty() {
            self.mistake(key, "must say for how long samples are kept");
        }
        for (age, interval) in pairs {
            let age_s = match age.as_str() {
                "minute" => Some(60),
                "hour" => Some(3600),
                "day" => Some(86_400),
                seconds => seconds.parse::<u64>().ok(),
            };
            match (age_s, interval.parse::<u64>().ok().filter(|interval_s| *interval_s > 0)) {
                (Some(age_s), Some(interval_s)) if age_s >= interval_s => samples.push((age_s, interval_s)),
                _ => self.mistake(key, &format!("'{age}={interval}' is not how long and how far apart, in seconds")),
            }
        }
        samples.sort_unstable();
        if samples.iter().map(|(age_s, interval_s)| age_s / interval_s).fold(0, u64::saturating_add) > SAMPLES_MAX {
            self.mistake(key, &format!("would keep more than {SAMPLES_MAX} samples of each"));
        }
        samples
    }

    fn mechanisms(&mut self) -> Vec<Mechanism> {
        let key = "auth_mechanisms";
        let mechanisms = self.items(key, "one of PLAIN, AMQPLAIN, ANONYMOUS, EXTERNAL", Mechanism::from_name);
        if mechanisms.is_empty() {
            self.mistake(key, "must name at least one mechanism");
        }
        mechanisms
    }

    fn backends(&mut self) -> Vec<Backend> {
        let key = "auth_backends";
        let known = |name: &str| match name {
            "internal" => Some(false),
            "oauth2" => Some(true),
            _ => None,
        };
        let takes_tokens = self.items(key, "one of internal, oauth2", known);
        if takes_tokens.is_empty() {
            self.mistake(key, "must name at least one");
        }
        let backend = |takes_tokens| match takes_tokens {
            false => Backend::Internal,
            true => Backend::Tokens(Arc::new(self.issuer())),
        };
        takes_tokens.into_iter().map(backend).collect()
    }

    /// Whose tokens are believed. Only looked at if any are.
    fn issuer(&mut self) -> Issuer {
        let resource_server_id = self.any_text("auth_oauth2.resource_server_id");
        let scope_prefix = match self.layers.get("auth_oauth2.scope_prefix") {
            None => format!("{resource_server_id}."),
            Some(Written { value: Tree::Text(text), .. }) => text.clone(),
            Some(Written { value, place, name }) => {
                let what = wrong(value, Kind::Text, "text");
                self.remarks.mistake(place.clone(), name, what);
                String::new()
            }
        };
        let verify_aud = self.boolean("auth_oauth2.verify_aud");
        if resource_server_id.is_empty() && verify_aud {
            let key = "auth_oauth2.resource_server_id";
            self.mistake(key, "must be given: tokens are for somebody, and their scopes begin with it");
        }
        let mut keys = std::collections::BTreeMap::new();
        for (id, path) in self.pairs("auth_oauth2.signing_keys") {
            let text = std::fs::read(&path).map_err(|error| format!("can't be read: {error}"));
            match text.and_then(|text| token::Key::read(&text)) {
                Ok(key) => drop(keys.insert(id, key)),
                Err(why) => self.mistake("auth_oauth2.signing_keys", &format!("the file {path} {why}")),
            }
        }
        if keys.is_empty() {
            self.mistake("auth_oauth2.signing_keys", "must name a key, or no token can be verified");
        }
        let default_key = Some(self.any_text("auth_oauth2.default_key")).filter(|id| !id.is_empty());
        if default_key.as_ref().is_some_and(|id| !keys.contains_key(id)) {
            self.mistake("auth_oauth2.default_key", "is none of auth_oauth2.signing_keys");
        }
        let allowed = format!("one of {}", token::Algorithm::NAMES.join(", "));
        let algorithms = self.items("auth_oauth2.algorithms", &allowed, token::Algorithm::from_name);
        let words = |text: &str| text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let aliases = self.pairs("auth_oauth2.scope_aliases").into_iter();
        Issuer {
            resource_server_type: self.any_text("auth_oauth2.resource_server_type"),
            additional_scopes: words(&self.any_text("auth_oauth2.additional_scopes_key")),
            username_claims: self.words("auth_oauth2.preferred_username_claims"),
            scope_aliases: aliases.map(|(alias, scopes)| (alias, words(&scopes))).collect(),
            require_exp: self.boolean("auth_oauth2.require_exp"),
            algorithms: Some(algorithms).filter(|algorithms| !algorithms.is_empty()),
            resource_server_id,
            scope_prefix,
            verify_aud,
            keys,
            default_key,
        }
    }

    fn certificate_login(&mut self) -> LoginFrom {
        let kind = self.choice(
            "ssl_cert_login_san_type",
            &[
                ("dns", NameType::Dns),
                ("ip", NameType::Ip),
                ("email", NameType::Email),
                ("uri", NameType::Uri),
                ("other_name", NameType::Other),
            ],
        );
        let index = self.number("ssl_cert_login_san_index").unwrap_or_default();
        self.choice(
            "ssl_cert_login_from",
            &[
                ("distinguished_name", LoginFrom::DistinguishedName),
                ("common_name", LoginFrom::CommonName),
                ("subject_alternative_name", LoginFrom::AlternativeName(kind, index)),
            ],
        )
    }

    fn addresses(&mut self, key: &str) -> Vec<IpAddr> {
        let allowed = "an IP address such as \"127.0.0.1\" or \"::\"";
        let addresses = self.items(key, allowed, units::address);
        if addresses.is_empty() {
            self.mistake(key, "must name at least one address");
            return vec![Ipv6Addr::UNSPECIFIED.into()];
        }
        addresses
    }

    /// A list whose every item is understood.
    fn items<T>(&mut self, key: &str, allowed: &str, understand: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let kind = setting(key).kind;
        self.read(key, |value| {
            let items = units::items(value).ok_or_else(|| wrong(value, kind, allowed))?;
            let item = |item: &String| understand(item).ok_or_else(|| format!("'{item}' is not {allowed}"));
            items.iter().map(item).collect()
        })
    }

    /// The addresses to listen on; `none` is none.
    fn listeners(&mut self, key: &str, bind: &[IpAddr]) -> Vec<SocketAddr> {
        let allowed = "a port such as 5672, an address such as \"127.0.0.1:5672\", or \"none\"";
        let listens = self.items(key, allowed, units::listen);
        let mut listeners = Vec::new();
        for listen in listens {
            match listen {
                Listen::Port(port) => listeners.extend(bind.iter().map(|address| SocketAddr::new(*address, port))),
                Listen::At(address) => listeners.push(address),
            }
        }
        listeners
    }

    fn listener(&mut self, key: &str, bind: &[IpAddr]) -> Option<SocketAddr> {
        let listeners = self.listeners(key, &bind[..1]);
        if listeners.len() > 1 {
            self.mistake(key, "takes one port or one address");
        }
        listeners.first().copied()
    }

    /// A path as what stands before others: `rabbit/` becomes `/rabbit`, and `/` nothing.
    fn path_prefix(&mut self, key: &str) -> String {
        let text = self.text(key);
        let plain = text.trim_matches('/');
        if plain.contains(|letter: char| !letter.is_ascii_graphic() || "{}?#%*".contains(letter))
            || plain.contains("//")
        {
            self.mistake(key, "must be a plain path such as \"/rabbit\"");
            return String::new();
        }
        if plain.is_empty() { String::new() } else { format!("/{plain}") }
    }

    fn pattern(&mut self, key: &str) -> String {
        let pattern = self.text(key);
        if let Err(refused) = Pattern::new(&pattern) {
            self.mistake(key, &refused.to_string());
        }
        pattern
    }

    fn tls(&mut self) -> Tls {
        let tls = Tls {
            certfile: self.path("tls.certfile"),
            keyfile: self.path("tls.keyfile"),
            cacertfile: self.path("tls.cacertfile"),
            password: Some(self.text("tls.password")).filter(|text| !text.is_empty()).map(Secret::new),
            verify: self.choice("tls.verify", &[("verify_none", Verify::None), ("verify_peer", Verify::Peer)]),
            fail_if_no_peer_cert: self.boolean("tls.fail_if_no_peer_cert"),
            depth: self.number("tls.depth").unwrap_or_default(),
            crl_check: self.choice(
                "tls.crl_check",
                &[
                    ("false", CrlCheck::Off),
                    ("true", CrlCheck::Chain),
                    ("peer", CrlCheck::Peer),
                    ("best_effort", CrlCheck::BestEffort),
                ],
            ),
            crlfiles: self.words("tls.crlfiles").into_iter().map(PathBuf::from).collect(),
            more_certfiles: self.words("tls.more_certfiles").into_iter().map(PathBuf::from).collect(),
            versions: self.tls_versions(),
            ciphers: self.ciphers(),
            honor_cipher_order: self.boolean("tls.honor_cipher_order"),
            handshake_timeout: self.time("tls.handshake_timeout"),
        };
        if tls.crl_check != CrlCheck::Off && tls.crlfiles.is_empty() {
            self.mistake("tls.crl_check", "needs lists of revoked certificates: tls.crlfiles");
        }
        match tls.verify {
            Verify::None if tls.fail_if_no_peer_cert => {
                self.mistake("tls.fail_if_no_peer_cert", "needs tls.verify = \"verify_peer\"");
            }
            Verify::Peer if tls.cacertfile.is_none() => {
                self.mistake("tls.verify", "needs the authorities to trust: tls.cacertfile");
            }
            _ => {}
        }
        tls
    }

    fn tls_versions(&mut self) -> Vec<TlsVersion> {
        let key = "tls.versions";
        let versions =
            self.items(key, "\"tlsv1.3\" or \"tlsv1.2\"; older versions are not spoken", |word| match word {
                "tlsv1.3" => Some(TlsVersion::V1_3),
                "tlsv1.2" => Some(TlsVersion::V1_2),
                _ => None,
            });
        if versions.is_empty() {
            self.mistake(key, "must name at least one version");
        }
        versions
    }

    /// Those that are not offered here are left out: that makes nothing less safe.
    fn ciphers(&mut self) -> Vec<&'static str> {
        let key = "tls.ciphers";
        let mut offered = Vec::new();
        let words = self.words(key);
        for word in &words {
            match ciphers::cipher(word) {
                Cipher::Offered(name) if offered.contains(&name) => {}
                Cipher::Offered(name) => offered.push(name),
                Cipher::Other => self.warn(key, &format!("{word} is not offered here, and left out")),
                Cipher::Unknown => {
                    let known = ciphers::offered();
                    self.mistake(key, &format!("'{word}' is no cipher suite; those that are offered: {known}"));
                }
            }
        }
        if !words.is_empty() && words.iter().all(|word| ciphers::cipher(word) == Cipher::Other) {
            self.mistake(key, &format!("none of these is offered; there are: {}", ciphers::offered()));
        }
        offered
    }

    fn proxies(&mut self) -> Option<Vec<Network>> {
        let key = "proxy_protocol_trusted";
        let proxies = self.items(key, "an address or a network such as \"10.0.0.0/8\"", Network::parse);
        if !self.boolean("proxy_protocol") {
            return None;
        }
        if proxies.is_empty() {
            self.mistake(
                "proxy_protocol",
                "needs the proxies' addresses, to believe nobody else: proxy_protocol_trusted",
            );
        }
        Some(proxies)
    }

    /// The certificates of one of the other doors: its own, or the same as everywhere.
    fn own_tls(&mut self, section: &str, everywhere: &Tls) -> Tls {
        let key = |name: &str| format!("{section}.{name}");
        let own = Tls {
            certfile: self.path(&key("certfile")),
            keyfile: self.path(&key("keyfile")),
            cacertfile: self.path(&key("cacertfile")),
            password: Some(self.text(&key("password"))).filter(|text| !text.is_empty()).map(Secret::new),
            verify: self.choice(&key("verify"), &[("verify_none", Verify::None), ("verify_peer", Verify::Peer)]),
            fail_if_no_peer_cert: self.boolean(&key("fail_if_no_peer_cert")),
            more_certfiles: Vec::new(),
            ..everywhere.clone()
        };
        match own.verify {
            Verify::None if own.fail_if_no_peer_cert => {
                let needs = format!("needs {section}.verify = \"verify_peer\"");
                self.mistake(&key("fail_if_no_peer_cert"), &needs);
            }
            Verify::Peer if own.cacertfile.is_none() => {
                let needs = format!("needs the authorities to trust: {section}.cacertfile");
                self.mistake(&key("verify"), &needs);
            }
            _ => {}
        }
        if own.certfile.is_some() { own } else { everywhere.clone() }
    }

    /// RabbitMQ's words for levels and modules as `EnvFilter` has them: `warning,connection=debug` becomes
    /// `warn,leveret::connection=debug`.
    fn filter(&mut self, key: &str) -> String {
        let allowed = "debug, info, warning, error or none, or a list like \"info,connection=debug\"";
        self.read(key, |value| {
            let items = units::items(value).filter(|items| !items.is_empty());
            // The word for silence is also the word for an empty list.
            let items = if *value == Tree::Text("none".to_owned()) { Some(vec!["none".to_owned()]) } else { items };
            // RabbitMQ's variable also takes `+color` and the like.
            let items = items.ok_or_else(|| wrong(value, Kind::Filter, allowed))?;
            let items = items.iter().filter(|item| !item.starts_with(['+', '-']));
            let directives: Option<Vec<String>> = items.map(|item| directive(item)).collect();
            let filter = directives.map(|directives| directives.join(","));
            filter.filter(|filter| !filter.is_empty()).ok_or_else(|| wrong(value, Kind::Filter, allowed))
        })
    }
}

fn size<T: TryFrom<u64>>(key: &str, value: &Tree) -> Result<T, String> {
    let kind = setting(key).kind;
    let Kind::Bytes { min, max } = kind else { unreachable!("{key} is a size") };
    let bytes = units::bytes(value).filter(|bytes| (min..=max).contains(bytes));
    let allowed = format!("a size from {min} to {max} bytes; a unit may follow, as in \"16 MiB\"");
    bytes.and_then(|bytes| T::try_from(bytes).ok()).ok_or_else(|| wrong(value, kind, &allowed))
}

fn share(key: &str, value: &Tree) -> Result<u64, String> {
    let kind = setting(key).kind;
    let Kind::Share { max } = kind else { unreachable!("{key} is a share") };
    let share = units::share(value).filter(|share| *share <= max * units::MILLION);
    share.ok_or_else(|| wrong(value, kind, &format!("a decimal number from 0 to {max}, as in 0.5")))
}

/// One item of a log filter.
fn directive(item: &str) -> Option<String> {
    let level = |word: &str| {
        Some(match word {
            "debug" | "info" | "error" | "trace" | "warn" => word.to_owned(),
            "notice" => "info".to_owned(),
            "warning" => "warn".to_owned(),
            "critical" | "alert" | "emergency" => "error".to_owned(),
            "none" | "off" => "off".to_owned(),
            _ => return None,
        })
    };
    match item.split_once('=') {
        None => level(item),
        Some(("default", word)) => level(word),
        Some((module, word)) => {
            let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
            let full = if module.contains("::") { module.to_owned() } else { format!("leveret::{module}") };
            let known = !module.is_empty() && module.chars().all(plain);
            known.then(|| level(word).map(|level| format!("{full}={level}"))).flatten()
        }
    }
}

fn setting(key: &str) -> &'static Setting {
    Setting::of(key).expect("every setting that is read stands in the table")
}

/// A setting's default as if it had been written.
fn default(setting: &Setting) -> Option<Tree> {
    let Default::Written(text) = setting.default else { return None };
    let document: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    fn tree(value: &toml::Value) -> Option<Tree> {
        Some(match value {
            toml::Value::String(text) => Tree::Text(text.clone()),
            toml::Value::Integer(number) => Tree::Integer(*number),
            toml::Value::Float(number) => Tree::Float(*number),
            toml::Value::Boolean(value) => Tree::Bool(*value),
            toml::Value::Array(items) => {
                let node = |item| Some(Node { line: 1, tree: tree(item)? });
                Tree::List(items.iter().map(node).collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }
    tree(document.get("value")?)
}

/// What is wrong with a value, and what would be right. A secret is not shown.
fn wrong(value: &Tree, kind: Kind, allowed: &str) -> String {
    let value = match value {
        _ if kind == Kind::Secret => "this".to_owned(),
        Tree::Text(text) => format!("'{text}'"),
        Tree::Integer(number) => number.to_string(),
        Tree::Float(number) => number.to_string(),
        Tree::Bool(value) => value.to_string(),
        _ => value.kind().to_owned(),
    };
    format!("{value} is not {allowed}")
}
