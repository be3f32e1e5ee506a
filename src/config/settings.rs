//! Every setting, once.

/// A setting: its names, what it takes, and what it is when nobody says.
#[derive(Debug)]
pub struct Setting {
    /// In `leveret.toml`, with its section. The variable and the flag have the same name: `tls.certfile`,
    /// `LEVERET_TLS_CERTFILE`, `--tls-certfile`.
    pub key: &'static str,
    pub kind: Kind,
    pub default: Default,
    /// The key in `rabbitmq.conf` that means the same; `*` stands for any one word.
    pub conf: &'static [&'static str],
    /// RabbitMQ's variables that mean the same.
    pub variables: &'static [&'static str],
    /// One sentence; lowercase, without a full stop.
    pub about: &'static str,
}

/// What a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Text that is never shown, and never given as a flag: every user of a machine sees its processes' arguments.
    Secret,
    Bool,
    Choice(&'static [&'static str]),
    /// An integer from `min` to `max`, or the word `nothing`.
    Number {
        min: u64,
        max: u64,
        nothing: Option<&'static str>,
    },
    /// Bytes: an integer, or one with a unit.
    Bytes {
        min: u64,
        max: u64,
    },
    /// A share of something: a decimal number from 0 to `max`.
    Share {
        max: u64,
    },
    /// A time: a number in `unit`, or one with a unit.
    Time {
        unit: Unit,
        max_s: u64,
    },
    Path,
    Paths,
    /// A list of words.
    Words,
    /// A list of names with values, `name=value`; in TOML a table as well.
    Pairs,
    /// A list of IP addresses.
    Addresses,
    /// A list of IP addresses and of networks.
    Networks,
    /// A list of ports (on every address of `bind`) and of `address:port`.
    Listeners,
    /// One of those; a port means the first address of `bind`.
    Listener,
    /// A log level, or a list of `module=level`.
    Filter,
}

/// The unit of a time that is written as a plain number: RabbitMQ's for that setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Milliseconds,
    Seconds,
}

/// A setting's value when nobody gives one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// As one would write it in TOML.
    Written(&'static str),
    /// Found out at start.
    Found {
        how: &'static str,
        /// A value as one would write it in TOML.
        example: &'static str,
    },
}

impl Setting {
    /// The setting with this key.
    pub fn of(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Its variable: `LEVERET_TLS_CERTFILE`.
    pub fn variable(&self) -> String {
        format!("LEVERET_{}", self.key.to_uppercase().replace('.', "_"))
    }

    /// Its flag, if it has one: `tls-certfile`.
    pub fn flag(&self) -> Option<String> {
        (self.kind != Kind::Secret).then(|| self.key.replace(['.', '_'], "-"))
    }
}

impl Kind {
    /// The unit of a plain number, or the words to choose from, for the reference.
    pub fn takes(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Secret => "text, never shown".to_owned(),
            Self::Bool => "`true` or `false`".to_owned(),
            Self::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Self::Number { min, max, nothing } => {
                let nothing = nothing.map(|word| format!(", or `{word}`")).unwrap_or_default();
                format!("{min} to {max}{nothing}")
            }
            Self::Bytes { .. } => "bytes".to_owned(),
            Self::Share { max } => format!("a share, 0 to {max}"),
            Self::Time { unit: Unit::Milliseconds, .. } => "ms".to_owned(),
            Self::Time { unit: Unit::Seconds, .. } => "s".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Paths => "paths".to_owned(),
            Self::Words => "words".to_owned(),
            Self::Pairs => "`name=value`, …".to_owned(),
            Self::Addresses => "IP addresses".to_owned(),
            Self::Networks => "IP addresses and networks (`10.0.0.0/8`)".to_owned(),
            Self::Listeners => "ports and addresses with ports, or `none`".to_owned(),
            Self::Listener => "a port or an address with a port, or `none`".to_owned(),
            Self::Filter => "a level, or `module=level`, …".to_owned(),
        }
    }

    /// Whether it may be given several times.
    pub fn is_list(self) -> bool {
        matches!(self, Self::Paths | Self::Words | Self::Pairs | Self::Addresses | Self::Networks | Self::Listeners)
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// All settings, in the order of the reference.
pub static SETTINGS: &[Setting] = &[
    // ── where ────────────────────────────────────────────────────────────────────────────────────────────────────────
    Setting {
        key: "data_dir",
        kind: Kind::Path,
        default: Default::Found {
            how: "`/var/lib/leveret` for root, else `$XDG_DATA_HOME/leveret` or `~/.local/share/leveret`",
            example: r#""/var/lib/leveret""#,
        },
        conf: &[],
        variables: &["RABBITMQ_MNESIA_DIR"],
        about: "the folder of everything that must survive: definitions and messages",
    },
    Setting {
        key: "bind",
        kind: Kind::Addresses,
        default: Default::Written(r#"["::"]"#),
        conf: &[],
        variables: &[],
        about: "the addresses to listen on where only a port is given; `::` takes IPv4 as well",
    },
    Setting {
        key: "amqp_port",
        kind: Kind::Listeners,
        default: Default::Written("5672"),
        conf: &["listeners.tcp.*", "listeners.tcp"],
        variables: &["RABBITMQ_NODE_PORT", "RABBITMQ_NODE_IP_ADDRESS"],
        about: "where AMQP is spoken; port 0 takes a free one",
    },
    Setting {
        key: "amqps_port",
        kind: Kind::Listeners,
        default: Default::Written(r#""none""#),
        conf: &["listeners.ssl.*", "listeners.ssl"],
        variables: &[],
        about: "where AMQP is spoken over TLS, usually 5671; needs `tls.certfile` and `tls.keyfile`",
    },
    Setting {
        key: "proxy_protocol",
        kind: Kind::Bool,
        default: Default::Written("false"),
        conf: &["proxy_protocol"],
        variables: &[],
        about: "whether proxies say for whom they connect, where AMQP is spoken: by the PROXY protocol, version 1 or 2",
    },
    Setting {
        key: "proxy_protocol_trusted",
        kind: Kind::Networks,
        default: Default::Written("[]"),
        conf: &[],
        variables: &[],
        about: "the proxies; with `proxy_protocol` nobody else may connect",
    },
    Setting {
        key: "http_port",
        kind: Kind::Listener,
        default: Default::Written("15672"),
        conf: &["management.tcp.port", "management.tcp.ip"],
        variables: &[],
        about: "where the management API is served",
    },
    Setting {
        key: "metrics_port",
        kind: Kind::Listener,
        default: Default::Written("15692"),
        conf: &["prometheus.tcp.port", "prometheus.tcp.ip"],
        variables: &[],
        about: "where Prometheus finds its metrics",
    },
    Setting {
        key: "tls.certfile",
        kind: Kind::Path,
        default: Default::Written(r#""""#),
        conf: &["ssl_options.certfile"],
        variables: &["RABBITMQ_SSL_CERTFILE"],
        about: "the server's certificate and its chain, PEM",
    },
    Setting {
        key: "tls.keyfile",
        kind: Kind::Path,
        default: Default::Written(r#""""#),
        conf: &["ssl_options.keyfile"],
        variables: &["RABBITMQ_SSL_KEYFILE"],
        about: "the private key of the certificate, PEM",
    },
    Setting {
        key: "tls.cacertfile",
        kind: Kind::Path,
        default: Default::Written(r#""""#),
        conf: &["ssl_options.cacertfile"],
        variables: &["RABBITMQ_SSL_CACERTFILE"],
        about: "the authorities whose client certificates are trusted, PEM",
    },
    Setting {
        key: "tls.password",
        kind: Kind::Secret,
        default: Default::Written(r#""""#),
        conf: &["ssl_options.password"],
        variables: &[],
        about: "the password of an encrypted private key",
    },
    Setting {
        key: "tls.verify",
        kind: Kind::Choice(&["verify_none", "verify_peer"]),
        default: Default::Written(r#""verify_none""#),
        conf: &["ssl_options.verify"],
        variables: &["RABBITMQ_SSL_VERIFY"],
        about: "whether clients are asked for a certificate",
    },
    Setting {
        key: "tls.fail_if_no_peer_cert",
        kind: Kind::Bool,
        default: Default::Written("false"),
        conf: &["ssl_options.fail_if_no_peer_cert"],
        variables: &["RABBITMQ_SSL_FAIL_IF_NO_PEER_CERT"],
        about: "whether a client without a certificate is turned away; needs `verify_peer`",
    },
    Setting {
        key: "tls.depth",
        kind: Kind::Number { min: 0, max: 100, nothing: None },
        default: Default::Written("10"),
        conf: &["ssl_options.depth"],
        variables: &[],
        about: "how many authorities may stand between a client's certificate and one that is trusted",
    },
    Setting {
        key: "tls.crl_check",
        kind: Kind::Choice(&["false", "true", "peer", "best_effort"]),
        default: Default::Written("false"),
        conf: &["ssl_options.crl_check"],
        variables: &[],
        about: "whether a client's certificate must not be revoked: nor those between (`true`), it alone (`peer`), or as far as the lists know (`best_effort`)",
    },
    Setting {
        key: "tls.crlfiles",
        kind: Kind::Paths,
        default: Default::Written("[]"),
        conf: &[],
        variables: &[],
        about: "lists of revoked certificates, PEM; needed for `tls.crl_check`",
    },
    Setting {
        key: "tls.more_certfiles",
        kind: Kind::Paths,
        default: Default::Written("[]"),
        conf: &[],
        variables: &[],
        about: "more certificates of the server, for clients that ask for a host named in one (SNI): each file has a certificate, its chain and its key, PEM",
    },
    Setting {
        key: "tls.versions",
        kind: Kind::Words,
        default: Default::Written(r#"["tlsv1.3", "tlsv1.2"]"#),
        conf: &["ssl_options.versions.*"],
        variables: &[],
        about: "the versions of TLS that are spoken",
    },
    Setting {
        key: "tls.ciphers",
        kind: Kind::Words,
        default: Default::Written("[]"),
        conf: &["ssl_options.ciphers.*"],
        variables: &[],
        about: "the cipher suites that are offered, by OpenSSL's or IANA's names; all of rustls if none is named",
    },
    Setting {
        key: "tls.honor_cipher_order",
        kind: Kind::Bool,
        default: Default::Written("false"),
        conf: &["ssl_options.honor_cipher_order"],
        variables: &[],
        about: "whether the order of `tls.ciphers` counts before the client's",
    },
    Setting {
        key: "tls.handshake_timeout",
        kind: Kind::Time { unit: Unit::Milliseconds, max_s: 3600 },
        default: Default::Written(r#""5 s""#),
        conf: &["ssl_handshake_timeout"],
        variables: &[],
        about: "how long a TLS handshake may take",
    },
    // ── how safe, how much ───────────────────────────────────────────────────────────────────────────────────────────
    Setting {
        key: "durability",
        kind: Kind::Choice(&["fsync", "os", "memory"]),
        default: Default::Written(r#""fsync""#),
        conf: &[],
        variables: &[],
        about: "when a persistent message counts as safe: on the disk, with the operating system, or never (for tests)",
    },
    Setting {
        key: "messages_memory",
        kind: Kind::Bytes { min: MIB, max: 1024 * GIB },
        default: Default::Written(r#""32 MiB""#),
        conf: &[],
        variables: &[],
        about: "message bodies kept in memory, all queues together, however long the backlog",
    },
    Setting {
        key: "publishing_memory",
        kind: Kind::Bytes { min: MIB, max: 1024 * GIB },
        default: Default::Written(r#""256 MiB""#),
        conf: &[],
        variables: &[],
        about: "bodies that are not whole yet and transactions that are not committed, all clients together, and at most a quarter of the memory watermark; beyond it large ones come in one at a time",
    },
    Setting {
        key: "queue_memory",
        kind: Kind::Bytes { min: 64 * KIB, max: 1024 * GIB },
        default: Default::Written(r#""4 MiB""#),
        conf: &[],
        variables: &[],
        about: "message bodies that one queue keeps in memory",
    },
    Setting {
        key: "message_expiry",
        kind: Kind::Choice(&["on-time", "at-head"]),
        default: Default::Written(r#""on-time""#),
        conf: &[],
        variables: &[],
        about: "when expired messages become dead letters: on time wherever they stand, or as in RabbitMQ only at their queue's head",
    },
    Setting {
        key: "store_write_buffer",
        kind: Kind::Bytes { min: 64 * KIB, max: 4 * GIB },
        default: Default::Written(r#""4 MiB""#),
        conf: &[],
        variables: &[],
        about: "what the store gathers in memory before it writes a sorted file",
    },
    Setting {
        key: "unsynced_max",
        kind: Kind::Bytes { min: 64 * KIB, max: 4 * GIB },
        default: Default::Written(r#""4 MiB""#),
        conf: &[],
        variables: &[],
        about: "writes that may wait for the disk before publishers have to",
    },
    Setting {
        key: "vm_memory_high_watermark.relative",
        kind: Kind::Share { max: 1 },
        default: Default::Written("0.6"),
        conf: &["vm_memory_high_watermark.relative"],
        variables: &[],
        about: "above this share of the memory there is (the machine's, or the control group's limit) publishers wait",
    },
    Setting {
        key: "vm_memory_high_watermark.absolute",
        kind: Kind::Bytes { min: 0, max: 1024 * 1024 * GIB },
        default: Default::Found { how: "the share counts", example: r#""4 GiB""# },
        conf: &["vm_memory_high_watermark.absolute"],
        variables: &[],
        about: "the same as a size, which then counts instead of the share",
    },
    Setting {
        key: "total_memory_available_override_value",
        kind: Kind::Bytes { min: MIB, max: 1024 * 1024 * GIB },
        default: Default::Found { how: "found out", example: r#""16 GiB""# },
        conf: &["total_memory_available_override_value"],
        variables: &[],
        about: "the memory there is, where it can't be found out",
    },
    Setting {
        key: "disk_free_limit.absolute",
        kind: Kind::Bytes { min: 0, max: 1024 * 1024 * GIB },
        default: Default::Found {
            how: "512 MiB, or a tenth of the file system if that is less; at least 50 MB",
            example: r#""512 MiB""#,
        },
        conf: &["disk_free_limit.absolute"],
        variables: &[],
        about: "with less free disk than this publishers wait; they go on at 1.2 times as much",
    },
    Setting {
        key: "disk_free_limit.relative",
        kind: Kind::Share { max: 100 },
        default: Default::Found { how: "the size counts", example: "1.0" },
        conf: &["disk_free_limit.relative"],
        variables: &[],
        about: "the same as a multiple of the memory there is; a size counts instead if both are given",
    },
    Setting {
        key: "disk_ballast",
        kind: Kind::Bytes { min: 0, max: 1024 * GIB },
        default: Default::Written(r#""64 MiB""#),
        conf: &[],
        variables: &[],
        about: "set aside in a file that is deleted when the disk is full, so that queues can be drained; at most a sixteenth of the file system",
    },
    Setting {
        key: "workers",
        kind: Kind::Number { min: 1, max: 1024, nothing: Some("auto") },
        default: Default::Written(r#""auto""#),
        conf: &[],
        variables: &[],
        about: "threads that serve connections; `auto` is one a processor",
    },
    Setting {
        key: "core_dumps",
        kind: Kind::Bool,
        default: Default::Written("false"),
        conf: &[],
        variables: &[],
        about: "whether a crash may leave an image of the memory and tell all of its cause: both may hold passwords and messages",
    },
    // ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────
    Setting {
        key: "handshake_timeout",
        kind: Kind::Time { unit: Unit::Milliseconds, max_s: 3600 },
        default: Default::Written(r#""10 s""#),
        conf: &["handshake_timeout"],
        variables: &[],
        about: "from accepting a connection to its connection.open",
    },
    Setting {
        key: "heartbeat",
        kind: Kind::Time { unit: Unit::Seconds, max_s: 65_535 },
        default: Default::Written("60"),
        conf: &["heartbeat"],
        variables: &[],
        about: "the heartbeat interval suggested to clients; 0 for none",
    },
    Setting {
        key: "frame_max",
        kind: Kind::Bytes { min: 4096, max: 128 * MIB },
        default: Default::Written("131072"),
        conf: &["frame_max"],
        variables: &[],
        about: "the largest frame, suggested to clients",
    },
    Setting {
        key: "initial_frame_max",
        kind: Kind::Bytes { min: 4096, max: 128 * KIB },
        default: Default::Written("8192"),
        conf: &["initial_frame_max"],
        variables: &[],
        about: "the largest frame before a client has logged in",
    },
    Setting {
        key: "channel_max",
        kind: Kind::Number { min: 0, max: 65_535, nothing: None },
        default: Default::Written("2047"),
        conf: &["channel_max", "max_channels_per_connection"],
        variables: &[],
        about: "channels a connection; 0 for as many as the protocol has numbers",
    },
    Setting {
        key: "channel_churn_max",
        kind: Kind::Number { min: 1, max: 100_000, nothing: Some("infinity") },
        default: Default::Written("200"),
        conf: &[],
        variables: &[],
        about: "channels that a connection may open a second, ten seconds' worth of them at once; who is faster is read more slowly",
    },
    Setting {
        key: "write_timeout",
        kind: Kind::Time { unit: Unit::Milliseconds, max_s: 24 * 3600 },
        default: Default::Written(r#""5 min""#),
        conf: &[],
        variables: &[],
        about: "how long a client may take nothing of what is sent to it before it is dropped; 0 for ever",
    },
    Setting {
        key: "channel_max_per_node",
        kind: Kind::Number { min: 0, max: u32::MAX as u64, nothing: Some("infinity") },
        default: Default::Written(r#""infinity""#),
        conf: &["channel_max_per_node"],
        variables: &[],
        about: "channels in all",
    },
    Setting {
        key: "vhost_max",
        kind: Kind::Number { min: 0, max: u32::MAX as u64, nothing: Some("infinity") },
        default: Default::Written(r#""infinity""#),
        conf: &["vhost_max"],
        variables: &[],
        about: "virtual hosts in all",
    },
    Setting {
        key: "cluster_queue_limit",
        kind: Kind::Number { min: 0, max: u32::MAX as u64, nothing: Some("infinity") },
        default: Default::Written(r#""infinity""#),
        conf: &["cluster_queue_limit"],
        variables: &[],
        about: "queues in all virtual hosts together",
    },
    Setting {
        key: "cluster_exchange_limit",
        kind: Kind::Number { min: 0, max: u32::MAX as u64, nothing: Some("infinity") },
        default: Default::Written(r#""infinity""#),
        conf: &["cluster_exchange_limit"],
        variables: &[],
        about: "exchanges in all virtual hosts together, the predeclared ones included",
    },
    Setting {
        key: "max_connections",
        kind: Kind::Number { min: 0, max: u32::MAX as u64, nothing: Some("infinity") },
        default: Default::Written(r#""infinity""#),
        conf: &["max_connections", "connection_max"],
        variables: &[],
        about: "connections in all",
    },
    Setting {
        key: "unauthenticated_max",
        kind: Kind::Number { min: 1, max: u32::MAX as u64, nothing: Some("infinity") },
        default: Default::Written("2000"),
        conf: &[],
        variables: &[],
        about: "connections that have not logged in yet; beyond, the oldest of them that had a second gives way",
    },
    Setting {
        key: "unauthenticated_per_address",
        kind: Kind::Number { min: 1, max: u32::MAX as u64, nothing: Some("infinity") },
        default: Default::Written("100"),
        conf: &[],
        variables: &[],
        about: "the same of one IPv4 address or one /64 of IPv6; this machine's own addresses are exempt",
    },
    Setting {
        key: "accepts_per_address",
        kind: Kind::Number { min: 1, max: 1_000_000, nothing: Some("infinity") },
        default: Default::Written("200"),
        conf: &[],
        variables: &[],
        about: "connections taken from such an address a second, and five times as many at once; the others are turned away",
    },
    Setting {
        key: "consumer_max_per_channel",
        kind: Kind::Number { min: 1, max: u32::MAX as u64, nothing: Some("infinity") },
        default: Default::Written(r#""infinity""#),
        conf: &["consumer_max_per_channel"],
        variables: &[],
        about: "consumers a channel",
    },
    Setting {
        key: "consumer_timeout",
        kind: Kind::Time { unit: Unit::Milliseconds, max_s: 365 * 24 * 3600 },
        default: Default::Written(r#""30 min""#),
        conf: &["consumer_timeout"],
        variables: &[],
        about: "how long a quorum queue's consumer may take to acknowledge a message, unless it or the queue say; 0 for ever",
    },
    Setting {
        key: "max_message_size",
        kind: Kind::Bytes { min: 1, max: 512 * MIB },
        default: Default::Written(r#""16 MiB""#),
        conf: &["max_message_size"],
        variables: &[],
        about: "the largest message body",
    },
    // ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    Setting {
        key: "default_user",
        kind: Kind::Text,
        default: Default::Written(r#""guest""#),
        conf: &["default_user"],
        variables: &["RABBITMQ_DEFAULT_USER"],
        about: "the user made in an empty data folder, unless definitions are loaded",
    },
    Setting {
        key: "default_pass",
        kind: Kind::Secret,
        default: Default::Written(r#""guest""#),
        conf: &["default_pass"],
        variables: &["RABBITMQ_DEFAULT_PASS"],
        about: "that user's password",
    },
    Setting {
        key: "default_vhost",
        kind: Kind::Text,
        default: Default::Written(r#""/""#),
        conf: &["default_vhost"],
        variables: &["RABBITMQ_DEFAULT_VHOST"],
        about: "the virtual host made with that user",
    },
    Setting {
        key: "default_user_tags",
        kind: Kind::Words,
        default: Default::Written(r#"["administrator"]"#),
        conf: &["default_user_tags.*"],
        variables: &[],
        about: "that user's tags",
    },
    Setting {
        key: "default_permissions.configure",
        kind: Kind::Text,
        default: Default::Written(r#"".*""#),
        conf: &["default_permissions.configure"],
        variables: &[],
        about: "what that user may declare and delete, a regular expression over names",
    },
    Setting {
        key: "default_permissions.write",
        kind: Kind::Text,
        default: Default::Written(r#"".*""#),
        conf: &["default_permissions.write"],
        variables: &[],
        about: "where that user may publish to",
    },
    Setting {
        key: "default_permissions.read",
        kind: Kind::Text,
        default: Default::Written(r#"".*""#),
        conf: &["default_permissions.read"],
        variables: &[],
        about: "what that user may consume from",
    },
    Setting {
        key: "password_hashing",
        kind: Kind::Choice(&["sha256", "sha512", "argon2id"]),
        default: Default::Written(r#""sha256""#),
        conf: &["password_hashing_module"],
        variables: &[],
        about: "how new passwords are hashed: as RabbitMQ does it, or slowly on purpose, which RabbitMQ can't read",
    },
    Setting {
        key: "login_failures_max",
        kind: Kind::Number { min: 1, max: u32::MAX as u64, nothing: Some("infinity") },
        default: Default::Written("10"),
        conf: &[],
        variables: &[],
        about: "failed logins of one user from one address a minute, after which it is refused; ten times as many of one user from anywhere slow that user's logins",
    },
    Setting {
        key: "login_refusal",
        kind: Kind::Time { unit: Unit::Seconds, max_s: 24 * 3600 },
        default: Default::Written("60"),
        conf: &[],
        variables: &[],
        about: "how long such an address is refused for that user, whatever the password",
    },
    Setting {
        key: "login_delay",
        kind: Kind::Time { unit: Unit::Milliseconds, max_s: 60 },
        default: Default::Written(r#""1 s""#),
        conf: &[],
        variables: &[],
        about: "from a login to the answer that it is refused, whatever for",
    },
    Setting {
        key: "auth_mechanisms",
        kind: Kind::Words,
        default: Default::Written(r#"["PLAIN", "AMQPLAIN", "ANONYMOUS", "EXTERNAL"]"#),
        conf: &["auth_mechanisms.*"],
        variables: &[],
        about: "the SASL mechanisms that clients may log in with; EXTERNAL only over TLS that asks for certificates",
    },
    Setting {
        key: "auth_backends",
        kind: Kind::Words,
        default: Default::Written(r#"["internal"]"#),
        conf: &["auth_backends.*", "auth_backends.*.authn", "auth_backends.*.authz"],
        variables: &[],
        about: "who knows the users: `internal` for the broker's own, `oauth2` for bearer tokens in the place of passwords",
    },
    Setting {
        key: "ssl_cert_login_from",
        kind: Kind::Choice(&["distinguished_name", "common_name", "subject_alternative_name"]),
        default: Default::Written(r#""distinguished_name""#),
        conf: &["ssl_cert_login_from"],
        variables: &[],
        about: "what of a client's certificate is the user's name, with EXTERNAL",
    },
    Setting {
        key: "ssl_cert_login_san_type",
        kind: Kind::Choice(&["dns", "ip", "email", "uri", "other_name"]),
        default: Default::Written(r#""dns""#),
        conf: &["ssl_cert_login_san_type"],
        variables: &[],
        about: "which type of alternative names",
    },
    Setting {
        key: "ssl_cert_login_san_index",
        kind: Kind::Number { min: 0, max: 1000, nothing: None },
        default: Default::Written("0"),
        conf: &["ssl_cert_login_san_index"],
        variables: &[],
        about: "which of them, counted from 0",
    },
    Setting {
        key: "auth_oauth2.resource_server_id",
        kind: Kind::Text,
        default: Default::Written(r#""""#),
        conf: &["auth_oauth2.resource_server_id"],
        variables: &[],
        about: "the broker's name among the audiences of a token",
    },
    Setting {
        key: "auth_oauth2.resource_server_type",
        kind: Kind::Text,
        default: Default::Written(r#""""#),
        conf: &["auth_oauth2.resource_server_type"],
        variables: &[],
        about: "the `type` of a token's `authorization_details` that are for this broker",
    },
    Setting {
        key: "auth_oauth2.scope_prefix",
        kind: Kind::Text,
        default: Default::Found { how: "`auth_oauth2.resource_server_id` and a dot", example: r#""rabbitmq.""# },
        conf: &["auth_oauth2.scope_prefix"],
        variables: &[],
        about: "what scopes that are for this broker begin with; may be empty",
    },
    Setting {
        key: "auth_oauth2.additional_scopes_key",
        kind: Kind::Text,
        default: Default::Written(r#""""#),
        conf: &["auth_oauth2.additional_scopes_key"],
        variables: &[],
        about: "more claims that hold scopes, with spaces between them; `a.b` is the claim `b` in the claim `a`",
    },
    Setting {
        key: "auth_oauth2.preferred_username_claims",
        kind: Kind::Words,
        default: Default::Written("[]"),
        conf: &["auth_oauth2.preferred_username_claims.*"],
        variables: &[],
        about: "claims that hold the user's name, best first; `sub` and `client_id` come after them",
    },
    Setting {
        key: "auth_oauth2.scope_aliases",
        kind: Kind::Pairs,
        default: Default::Written("[]"),
        conf: &["auth_oauth2.scope_aliases.*"],
        variables: &[],
        about: "scopes that stand for others, which have spaces between them",
    },
    Setting {
        key: "auth_oauth2.signing_keys",
        kind: Kind::Pairs,
        default: Default::Written("[]"),
        conf: &["auth_oauth2.signing_keys.*"],
        variables: &[],
        about: "keys that tokens are verified with, by their `kid`: files with a public key or certificate (PEM), or a JSON Web Key",
    },
    Setting {
        key: "auth_oauth2.default_key",
        kind: Kind::Text,
        default: Default::Written(r#""""#),
        conf: &["auth_oauth2.default_key"],
        variables: &[],
        about: "the key of tokens that name none",
    },
    Setting {
        key: "auth_oauth2.algorithms",
        kind: Kind::Words,
        default: Default::Written("[]"),
        conf: &["auth_oauth2.algorithms.*"],
        variables: &[],
        about: "algorithms that tokens may be signed by; empty for all that their key is for, of RS, PS, ES and HS with 256 to 512 bits and EdDSA",
    },
    Setting {
        key: "auth_oauth2.verify_aud",
        kind: Kind::Bool,
        default: Default::Written("true"),
        conf: &["auth_oauth2.verify_aud"],
        variables: &[],
        about: "whether a token must be for this broker",
    },
    Setting {
        key: "auth_oauth2.require_exp",
        kind: Kind::Bool,
        default: Default::Written("true"),
        conf: &["auth_oauth2.require_exp"],
        variables: &[],
        about: "whether a token must expire",
    },
    Setting {
        key: "loopback_users",
        kind: Kind::Words,
        default: Default::Written(r#"["guest"]"#),
        conf: &["loopback_users.*", "loopback_users"],
        variables: &[],
        about: "users who may only connect from this machine; an empty list for none",
    },
    Setting {
        key: "anonymous_login_user",
        kind: Kind::Text,
        default: Default::Written(r#""none""#),
        conf: &["anonymous_login_user"],
        variables: &[],
        about: "the user that SASL ANONYMOUS logs in as; `none` turns that off",
    },
    Setting {
        key: "anonymous_login_pass",
        kind: Kind::Secret,
        default: Default::Written(r#""""#),
        conf: &["anonymous_login_pass"],
        variables: &[],
        about: "the password of the anonymous user",
    },
    Setting {
        key: "definitions",
        kind: Kind::Paths,
        default: Default::Written("[]"),
        conf: &["load_definitions", "management.load_definitions", "definitions.local.path"],
        variables: &[],
        about: "definitions to load at start, JSON or TOML; a folder means every such file in it, by name",
    },
    Setting {
        key: "trace_vhosts",
        kind: Kind::Words,
        default: Default::Written("[]"),
        conf: &[],
        variables: &[],
        about: "virtual hosts whose messages are copied to their exchange `amq.rabbitmq.trace` from the start (the firehose)",
    },
    // ── queues ───────────────────────────────────────────────────────────────────────────────────────────────────────
    Setting {
        key: "default_queue_type",
        kind: Kind::Choice(&["classic", "quorum", "stream"]),
        default: Default::Written(r#""classic""#),
        conf: &["default_queue_type"],
        variables: &[],
        about: "the type of a queue that is declared without one",
    },
    Setting {
        key: "permit_transient_nonexclusive_queues",
        kind: Kind::Bool,
        default: Default::Written("true"),
        conf: &["deprecated_features.permit.transient_nonexcl_queues"],
        variables: &[],
        about: "whether queues may be neither durable nor exclusive; RabbitMQ 4.3 says no, and breaks Celery",
    },
    Setting {
        key: "permit_global_qos",
        kind: Kind::Bool,
        default: Default::Written("true"),
        conf: &["deprecated_features.permit.global_qos"],
        variables: &[],
        about: "whether basic.qos may set a limit for a whole channel",
    },
    // ── the management API ───────────────────────────────────────────────────────────────────────────────────────────
    Setting {
        key: "https_port",
        kind: Kind::Listener,
        default: Default::Written(r#""none""#),
        conf: &["management.ssl.port", "management.ssl.ip"],
        variables: &[],
        about: "where the management API is served over TLS, usually 15671; by the certificate of `tls.certfile` unless `https` has its own",
    },
    Setting {
        key: "https.certfile",
        kind: Kind::Path,
        default: Default::Written(r#""""#),
        conf: &["management.ssl.certfile"],
        variables: &[],
        about: "the certificate for `https_port` and its chain, PEM; with it, no certificate, authority or `verify` of `tls` counts there",
    },
    Setting {
        key: "https.keyfile",
        kind: Kind::Path,
        default: Default::Written(r#""""#),
        conf: &["management.ssl.keyfile"],
        variables: &[],
        about: "the private key of that certificate, PEM",
    },
    Setting {
        key: "https.cacertfile",
        kind: Kind::Path,
        default: Default::Written(r#""""#),
        conf: &["management.ssl.cacertfile"],
        variables: &[],
        about: "the authorities whose client certificates are trusted there, PEM",
    },
    Setting {
        key: "https.password",
        kind: Kind::Secret,
        default: Default::Written(r#""""#),
        conf: &["management.ssl.password"],
        variables: &[],
        about: "the password of an encrypted private key",
    },
    Setting {
        key: "https.verify",
        kind: Kind::Choice(&["verify_none", "verify_peer"]),
        default: Default::Written(r#""verify_none""#),
        conf: &["management.ssl.verify"],
        variables: &[],
        about: "whether clients are asked for a certificate there",
    },
    Setting {
        key: "https.fail_if_no_peer_cert",
        kind: Kind::Bool,
        default: Default::Written("false"),
        conf: &["management.ssl.fail_if_no_peer_cert"],
        variables: &[],
        about: "whether a client without a certificate is turned away there; needs `verify_peer`",
    },
    Setting {
        key: "http.max_connections",
        kind: Kind::Number { min: 1, max: 65_535, nothing: None },
        default: Default::Written("1024"),
        conf: &[],
        variables: &[],
        about: "connections to the management API; more have to wait",
    },
    Setting {
        key: "http.max_body_size",
        kind: Kind::Bytes { min: 1024, max: GIB },
        default: Default::Written("10000000"),
        conf: &["management.http.max_body_size"],
        variables: &[],
        about: "the largest body of a request",
    },
    Setting {
        key: "http.request_timeout",
        kind: Kind::Time { unit: Unit::Milliseconds, max_s: 3600 },
        default: Default::Written(r#""5 s""#),
        conf: &[],
        variables: &[],
        about: "for the head of a request to come; a body may take as long again, and a second for each KiB of it",
    },
    Setting {
        key: "http.idle_timeout",
        kind: Kind::Time { unit: Unit::Milliseconds, max_s: 3600 },
        default: Default::Written(r#""60 s""#),
        conf: &["management.tcp.idle_timeout"],
        variables: &[],
        about: "how long a connection may stay between two requests, or take nothing of an answer",
    },
    Setting {
        key: "http.path_prefix",
        kind: Kind::Text,
        default: Default::Written(r#""/""#),
        conf: &["management.path_prefix"],
        variables: &[],
        about: "what stands before `/api`, for a proxy that passes on whole paths",
    },
    Setting {
        key: "http.cors_allow_origins",
        kind: Kind::Words,
        default: Default::Written("[]"),
        conf: &["management.cors.allow_origins.*"],
        variables: &[],
        about: "origins of web pages that may use the API, such as `https://example.org`; `*` for any, without their cookies or passwords",
    },
    Setting {
        key: "http.cors_max_age",
        kind: Kind::Time { unit: Unit::Seconds, max_s: 365 * 24 * 3600 },
        default: Default::Written(r#""30 min""#),
        conf: &["management.cors.max_age"],
        variables: &[],
        about: "how long browsers may remember what such a page may do",
    },
    // ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────
    Setting {
        key: "product_name",
        kind: Kind::Text,
        default: Default::Written(r#""RabbitMQ""#),
        conf: &["product.name"],
        variables: &[],
        about: "what clients are told they talk to; some choose features by it",
    },
    Setting {
        key: "product_version",
        kind: Kind::Text,
        default: Default::Written(r#""4.3.6""#),
        conf: &["product.version"],
        variables: &[],
        about: "which version of it",
    },
    Setting {
        key: "node_name",
        kind: Kind::Text,
        default: Default::Found { how: "`leveret@` and the host's name", example: r#""leveret@host""# },
        conf: &[],
        variables: &["RABBITMQ_NODENAME"],
        about: "what the broker calls itself in the management API and the metrics",
    },
    Setting {
        key: "cluster_name",
        kind: Kind::Text,
        default: Default::Found { how: "the `node_name`", example: r#""leveret@host""# },
        conf: &["cluster_name"],
        variables: &[],
        about: "the name of the whole installation, shown to clients",
    },
    // ── logs ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    Setting {
        key: "log.level",
        kind: Kind::Filter,
        default: Default::Written(r#""info""#),
        conf: &["log.console.level", "log.default.level", "log.*.level"],
        variables: &["RABBITMQ_LOG"],
        about: "how much is logged: debug, info, warning, error or none; `info,connection=debug` for one module",
    },
    Setting {
        key: "log.format",
        kind: Kind::Choice(&["plain", "json"]),
        default: Default::Written(r#""plain""#),
        conf: &["log.console.formatter"],
        variables: &[],
        about: "how a log line looks",
    },
];
