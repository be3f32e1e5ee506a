//! RabbitMQ's own format, `a.b.c = value` a line, as `rabbitmq.conf` and the files of `conf.d` have it.
//!
//! The keys that mean something here are laid over the settings. The others are warned of and left aside, since a
//! broker that refuses to start with the file its users have had for years is of no use to them; a value that is wrong
//! is still a mistake.

use std::collections::BTreeMap;
use std::path::Path;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_till, take_while1};
use nom::character::complete::{char, space0};
use nom::combinator::{all_consuming, opt, recognize, value};
use nom::multi::{many1_count, separated_list1};
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser};

use super::environment::Environment;
use super::layers::Layers;
use super::settings::{Default, SETTINGS, Setting};
use crate::written::{Node, Place, Remark, Remarks, Tree, nearest};

/// The keys and values of all files; where a key stands twice, the later one counts, as in RabbitMQ.
#[derive(Default)]
pub struct Lines(BTreeMap<String, Line>);

#[derive(Clone)]
struct Line {
    value: String,
    place: Place,
}

impl Lines {
    pub fn set(&mut self, key: String, value: String, place: Place) {
        self.0.insert(key, Line { value, place });
    }

    /// Takes the value of a key out.
    fn take(&mut self, key: &str) -> Option<Line> {
        self.0.remove(key)
    }

    /// The words that stand between this prefix and this last word.
    fn words_between(&self, prefix: &str, last: &str) -> Vec<String> {
        let word = |key: &String| {
            let word = key.strip_prefix(prefix)?.strip_prefix('.')?.strip_suffix(last)?.strip_suffix('.')?;
            (!word.contains('.')).then(|| word.to_owned())
        };
        self.0.keys().filter_map(word).collect()
    }

    /// Takes out all keys that have one more word than this prefix: that word, and the value.
    fn take_all(&mut self, prefix: &str) -> Vec<(String, Line)> {
        let prefix = format!("{prefix}.");
        let words: Vec<String> = self.0.keys().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned).collect();
        let mut taken = Vec::new();
        for word in words {
            if let Some(line) = self.0.remove(&format!("{prefix}{word}")) {
                taken.push((word, line));
            }
        }
        taken
    }
}

/// Reads the lines of a file over those of the files before it.
pub fn read(text: &str, path: &Path, environment: &Environment<'_>, lines: &mut Lines, remarks: &mut Remarks) {
    for (index, text) in text.lines().enumerate() {
        let place = Place::file(path, index + 1);
        match all_consuming(line).parse(text.trim_end()) {
            Ok((_, None)) => {}
            Ok((_, Some((key, written)))) => match interpolate(written, environment) {
                Ok(written) => lines.set(key, written, place),
                Err(what) => remarks.mistake(place, key, what),
            },
            Err(_) if text.trim_start().starts_with("include ") => {
                remarks.mistake(place, "include", "is not supported; put the files into a folder and name that");
            }
            Err(_) => remarks.mistake(place, "", "expected 'key = value' or a comment"),
        }
    }
}

/// A line: nothing, a comment, or a key and its value. `cuttlefish`'s `conf_parse.peg` is the grammar.
fn line(input: &str) -> IResult<&str, Option<(String, &str)>> {
    let setting = (terminated(key, (space0, char('='), space0)), alt((quoted, unquoted)));
    delimited(space0, opt(setting), (space0, opt(comment))).parse(input)
}

/// Words with dots between them. A dot that belongs to a word has a backslash in front; nothing here has such words,
/// so the backslash is simply dropped.
fn key(input: &str) -> IResult<&str, String> {
    let plain = take_while1(|letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-');
    let word = recognize(many1_count(alt((tag("\\."), plain))));
    let (rest, words) = separated_list1(char('.'), word).parse(input)?;
    Ok((rest, words.join(".").replace('\\', "")))
}

/// A value that may hold a `#`.
fn quoted(input: &str) -> IResult<&str, &str> {
    delimited(char('\''), take_till(|letter| letter == '\''), char('\'')).parse(input)
}

fn unquoted(input: &str) -> IResult<&str, &str> {
    let (rest, value) = take_till(|letter| letter == '#').parse(input)?;
    Ok((rest, value.trim_end()))
}

fn comment(input: &str) -> IResult<&str, ()> {
    value((), preceded(char('#'), take_till(|_| false))).parse(input)
}

/// Puts variables in the place of `$(NAME)`.
fn interpolate(value: &str, environment: &Environment<'_>) -> Result<String, String> {
    if value.starts_with("encrypted:") {
        return Err("encrypted values are not supported; use a variable with _FILE for a secret".to_owned());
    }
    let mut whole = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("$(") {
        let (name, after) = after.split_once(')').ok_or("'$(' without its ')'")?;
        whole.push_str(before);
        whole.push_str(environment.get(name).ok_or_else(|| format!("the variable {name} is not set"))?);
        rest = after;
    }
    whole.push_str(rest);
    Ok(whole)
}

/// Lays what the lines mean over the settings.
pub fn apply(mut lines: Lines, layers: &mut Layers, remarks: &mut Remarks) {
    listeners(&mut lines, layers);
    listener(&mut lines, "http_port", &["management.tcp", "management.listener"], layers);
    listener(&mut lines, "https_port", &["management.ssl"], layers);
    listener(&mut lines, "metrics_port", &["prometheus.tcp"], layers);
    listener(&mut lines, "metrics_tls_port", &["prometheus.ssl"], layers);
    cors_origins(&mut lines, layers);
    for policy in ["global", "basic"] {
        let named = lines.take_all(&format!("management.sample_retention_policies.{policy}"));
        set_pairs(layers, &format!("statistics.samples_{policy}"), named);
    }
    for (prefix, key) in [("ssl_options.versions", "tls.versions"), ("ssl_options.ciphers", "tls.ciphers")] {
        numbered(&mut lines, key, prefix, layers);
    }
    loopback_users(&mut lines, layers, remarks);
    logins(&mut lines, layers, remarks);
    default_user_tags(&mut lines, layers, remarks);
    logs(&mut lines, layers, remarks);
    without_effect(&mut lines);
    for setting in SETTINGS {
        for key in setting.conf {
            if let Some(line) = lines.take(key) {
                layers.set(setting, Tree::Text(line.value), line.place, *key);
            }
        }
    }
    for (key, Line { place, .. }) in lines.0 {
        remarks.warnings.push(unknown(key, place));
    }
}

/// `listeners.tcp.default = 5672`, `listeners.tcp.1 = ::1:5672`, `listeners.tcp = none`; and for TLS.
fn listeners(lines: &mut Lines, layers: &mut Layers) {
    for (prefix, key) in [("listeners.tcp", "amqp_port"), ("listeners.ssl", "amqps_port")] {
        let named = lines.take_all(prefix);
        let none = lines.take(prefix);
        if let Some(line) = none {
            set(layers, key, Tree::Text(line.value), line.place, prefix);
        } else {
            set_list(layers, key, prefix, named);
        }
    }
}

/// `management.tcp.port = 15672` and `management.tcp.ip = 127.0.0.1`, where either may be missing.
fn listener(lines: &mut Lines, key: &str, prefixes: &[&str], layers: &mut Layers) {
    for prefix in prefixes {
        let (port_key, ip_key) = (format!("{prefix}.port"), format!("{prefix}.ip"));
        let default = match Setting::of(key).map(|setting| setting.default) {
            // Where it is off unless somebody asks, RabbitMQ's port is meant.
            Some(Default::Written(r#""none""#)) if key == "metrics_tls_port" => "15691",
            Some(Default::Written(r#""none""#)) => "15671",
            Some(Default::Written(port)) => port,
            _ => continue,
        };
        match (lines.take(&port_key), lines.take(&ip_key)) {
            (port, Some(ip)) => {
                let port = port.map_or_else(|| default.to_owned(), |line| line.value);
                set(layers, key, Tree::Text(format!("{}:{port}", ip.value)), ip.place, &ip_key);
            }
            (Some(port), None) => set(layers, key, Tree::Text(port.value), port.place, &port_key),
            (None, None) => {}
        }
    }
}

/// `management.cors.allow_origins.1 = https://example.org`.
fn cors_origins(lines: &mut Lines, layers: &mut Layers) {
    const PREFIX: &str = "management.cors.allow_origins";
    let named = lines.take_all(PREFIX);
    set_list(layers, "http.cors_allow_origins", PREFIX, named);
}

/// `ssl_options.ciphers.1 = …`: a list in the order of its numbers.
fn numbered(lines: &mut Lines, key: &str, prefix: &str, layers: &mut Layers) {
    let mut named = lines.take_all(prefix);
    named.sort_by_key(|(word, _)| word.parse().unwrap_or(u64::MAX));
    set_list(layers, key, prefix, named);
}

/// `loopback_users.guest = false`, `loopback_users = none`. One such line replaces the whole list, default and all.
fn loopback_users(lines: &mut Lines, layers: &mut Layers, remarks: &mut Remarks) {
    const KEY: &str = "loopback_users";
    let named = lines.take_all(KEY);
    if let Some(line) = lines.take(KEY) {
        set(layers, KEY, Tree::Text(line.value), line.place, KEY);
    } else {
        words(layers, KEY, named, remarks);
    }
}

/// `auth_backends.1 = internal`, `auth_mechanisms.1 = PLAIN`, `auth_oauth2.signing_keys.ID = /path`, …: names of
/// modules, lists and maps.
fn logins(lines: &mut Lines, layers: &mut Layers, remarks: &mut Remarks) {
    backends(lines, layers, remarks);
    for key in ["auth_mechanisms", "auth_oauth2.preferred_username_claims", "auth_oauth2.algorithms"] {
        let named = lines.take_all(key);
        set_list(layers, key, key, named);
    }
    let key = "auth_oauth2.signing_keys";
    let named = lines.take_all(key);
    set_pairs(layers, key, named);
    let key = "auth_oauth2.scope_aliases";
    // `N.alias` and `N.scope` say the same of names that no key can have.
    let mut numbered = Vec::new();
    for number in lines.words_between(key, "alias") {
        let take = |lines: &mut Lines, word: &str| lines.take(&format!("{key}.{number}.{word}"));
        match (take(lines, "alias"), take(lines, "scope")) {
            (Some(alias), Some(scope)) => numbered.push((alias.value, scope)),
            (Some(alias), None) => remarks.warn(alias.place, format!("{key}.{number}"), "has no scope; ignored"),
            (None, _) => {}
        }
    }
    let named = lines.take_all(key).into_iter().chain(numbered).collect();
    set_pairs(layers, key, named);
    if let Some(line) = lines.take("password_hashing_module") {
        let word = line.value.strip_prefix("rabbit_password_hashing_").unwrap_or(&line.value);
        if word == "md5" {
            remarks.warn(line.place, "password_hashing_module", "has no effect: new passwords are hashed by SHA-256");
        } else {
            set(layers, "password_hashing", Tree::Text(word.to_owned()), line.place, "password_hashing_module");
        }
    }
    if let Some(line) = lines.take("ssl_cert_login_from") {
        let word = if line.value == "subject_alt_name" { "subject_alternative_name" } else { &line.value };
        set(layers, "ssl_cert_login_from", Tree::Text(word.to_owned()), line.place, "ssl_cert_login_from");
    }
}

/// Backends by their places in the chain. Those that are not here are left aside, and so are chains in which one knows
/// users and another their rights.
fn backends(lines: &mut Lines, layers: &mut Layers, remarks: &mut Remarks) {
    const KEY: &str = "auth_backends";
    let mut named = Vec::new();
    for number in lines.words_between(KEY, "authn") {
        let take = |lines: &mut Lines, word: &str| lines.take(&format!("{KEY}.{number}.{word}"));
        match (take(lines, "authn"), take(lines, "authz")) {
            (Some(known), rights) if rights.as_ref().is_none_or(|rights| rights.value == known.value) => {
                named.push((number, known));
            }
            (Some(known), _) => {
                let key = format!("{KEY}.{number}.authz");
                remarks.warn(known.place, key, "is not supported unless it is the same as authn; both are ignored");
            }
            (None, _) => {}
        }
    }
    for number in lines.words_between(KEY, "authz") {
        named.extend(lines.take(&format!("{KEY}.{number}.authz")).map(|line| (number, line)));
    }
    named.extend(lines.take_all(KEY));
    named.sort_by_key(|(number, _)| number.parse::<u64>().unwrap_or(u64::MAX));
    let mut known = Vec::new();
    for (number, mut line) in named {
        line.value = match line.value.as_str() {
            "internal" | "rabbit_auth_backend_internal" => "internal".to_owned(),
            "oauth2" | "oauth" | "rabbit_auth_backend_oauth2" => "oauth2".to_owned(),
            other => {
                remarks.warn(line.place, format!("{KEY}.{number}"), format!("'{other}' is not supported; ignored"));
                continue;
            }
        };
        known.push((number, line));
    }
    set_list(layers, KEY, KEY, known);
}

/// `default_user_tags.administrator = true`.
fn default_user_tags(lines: &mut Lines, layers: &mut Layers, remarks: &mut Remarks) {
    const KEY: &str = "default_user_tags";
    let named = lines.take_all(KEY);
    words(layers, KEY, named, remarks);
}

/// The words whose lines say `true`.
fn words(layers: &mut Layers, key: &str, named: Vec<(String, Line)>, remarks: &mut Remarks) {
    let Some((_, Line { place, .. })) = named.last() else { return };
    let place = place.clone();
    let mut items = Vec::new();
    for (word, line) in named {
        match super::units::boolean(&Tree::Text(line.value.clone())) {
            Some(true) => items.push(Node { line: 1, tree: Tree::Text(word) }),
            Some(false) => {}
            None => {
                remarks.mistake(line.place, format!("{key}.{word}"), format!("'{}' is not true or false", line.value));
            }
        }
    }
    set(layers, key, Tree::List(items), place, key);
}

/// `log.console.level = debug`, `log.connection.level = warning`, `log.console.formatter = json`, …: we have one
/// output, the console, and its level counts before the default's.
fn logs(lines: &mut Lines, layers: &mut Layers, remarks: &mut Remarks) {
    const CATEGORIES: [&str; 3] = ["connection", "channel", "queue"];
    let console = lines.take("log.console.level").map(|line| ("log.console.level".to_owned(), line));
    let default = lines.take("log.default.level").map(|line| ("log.default.level".to_owned(), line));
    let mut directives = Vec::new();
    let mut from = None;
    if let Some((key, line)) = console.or(default) {
        directives.push(line.value.clone());
        from = Some((key, line.place));
    }
    for category in CATEGORIES {
        let key = format!("log.{category}.level");
        if let Some(line) = lines.take(&key) {
            directives.push(format!("{category}={}", line.value));
            from = Some((key, line.place));
        }
    }
    if let Some((key, place)) = from {
        if directives.iter().all(|directive| directive.contains('=')) {
            directives.insert(0, "info".to_owned());
        }
        set(layers, "log.level", Tree::Text(directives.join(",")), place, &key);
    }
    if let Some(line) = lines.take("log.console.formatter") {
        // RabbitMQ's other name for the plain one.
        let format = if line.value == "plaintext" { "plain".to_owned() } else { line.value };
        set(layers, "log.format", Tree::Text(format), line.place, "log.console.formatter");
    }
    for key in ["log.file", "log.dir"] {
        if let Some(line) = lines.take(key).filter(|line| line.value != "false") {
            remarks.warn(line.place, key, "has no effect: logs are written to standard output");
        }
    }
    if let Some(line) = lines.take("log.console").filter(|line| line.value == "false") {
        remarks.warn(line.place, "log.console", "has no effect: logs are written to standard output");
    }
}

/// Drops lines that ask for what is done anyway.
fn without_effect(lines: &mut Lines) {
    const SAME: [(&str, &[&str]); 6] = [
        ("definitions.import_backend", &["local_filesystem", "local"]),
        ("log.exchange", &["false"]),
        ("log.console.stdio", &["stdout"]),
        ("ssl_options.client_renegotiation", &["false"]),
        ("ssl_options.secure_renegotiate", &["true"]),
        ("ssl_options.reuse_sessions", &["false"]),
    ];
    for (key, values) in SAME {
        if lines.0.get(key).is_some_and(|line| values.contains(&line.value.as_str())) {
            lines.take(key);
        }
    }
}

fn set(layers: &mut Layers, key: &str, value: Tree, place: Place, name: &str) {
    let setting = Setting::of(key).expect("the caller names a setting");
    layers.set(setting, value, place, name);
}

fn set_list(layers: &mut Layers, key: &str, name: &str, lines: Vec<(String, Line)>) {
    let Some((word, Line { place, .. })) = lines.first() else { return };
    let (name, place) = (format!("{name}.{word}"), place.clone());
    let items = lines.into_iter().map(|(_, line)| Node { line: 1, tree: Tree::Text(line.value) });
    set(layers, key, Tree::List(items.collect()), place, &name);
}

fn set_pairs(layers: &mut Layers, key: &str, lines: Vec<(String, Line)>) {
    let pair = |(name, line): (String, Line)| (name.clone(), Line { value: format!("{name}={}", line.value), ..line });
    set_list(layers, key, key, lines.into_iter().map(pair).collect());
}

/// The warning about a key that means nothing here.
fn unknown(key: String, place: Place) -> Remark {
    let ours = SETTINGS.iter().flat_map(|setting| setting.conf).copied().filter(|key| !key.contains('*'));
    let first = key.split('.').next().unwrap_or_default();
    if RABBITMQS_OTHERS.contains(&first) {
        return Remark { place, key, what: "is not supported; ignored".to_owned(), suggestion: None };
    }
    let suggestion = nearest(&key, ours.chain(RABBITMQS_OTHERS.iter().copied())).map(str::to_owned);
    Remark { place, key, what: "unknown setting; ignored".to_owned(), suggestion }
}

/// First words of keys that RabbitMQ 4.3 and its plugins know.
static RABBITMQS_OTHERS: &[&str] = &[
    "amqp10_client",
    "amqp_client",
    "auth_cache",
    "auth_http",
    "auth_ldap",
    "auth_oauth2",
    "background_gc_enabled",
    "background_gc_target_interval",
    "channel_interceptor",
    "classic_queue",
    "cluster_formation",
    "cluster_keepalive_interval",
    "cluster_partition_handling",
    "cluster_tags",
    "collect_statistics",
    "consumer_disconnected_timeout",
    "credential_validator",
    "default_limits",
    "default_policies",
    "default_users",
    "default_worker_pool_size",
    "definitions",
    "delegate_count",
    "deprecated_features",
    "distribution",
    "erlang",
    "exchange_types",
    "federation",
    "hipe_compile",
    "link_max_per_session",
    "listeners",
    "log",
    "management",
    "management_agent",
    "memory_monitor_interval",
    "message_interceptors",
    "message_store_shutdown_timeout",
    "metadata_store",
    "mirroring_sync_batch_size",
    "mirroring_sync_max_throughput",
    "mnesia_table_loading_retry_limit",
    "mnesia_table_loading_retry_timeout",
    "motd_file",
    "mqtt",
    "net_ticktime",
    "node_tags",
    "num_acceptors",
    "prevent_startup_if_node_was_reset",
    "prometheus",
    "queue_index_embed_msgs_below",
    "queue_leader_locator",
    "queue_master_locator",
    "queue_types",
    "quorum_queue",
    "raft",
    "ranch_connection_max",
    "reverse_dns_lookups",
    "runtime_parameters",
    "session_max_per_connection",
    "shovel",
    "socket_writer",
    "ssl_allow_poodle_attack",
    "ssl_options",
    "stomp",
    "stream",
    "sysmon_handler",
    "tcp_listen_options",
    "trust_store",
    "vhost_restart_strategy",
    "vm_memory_calculation_strategy",
    "vm_memory_high_watermark_paging_ratio",
    "web_mqtt",
    "web_stomp",
];
