//! The whole way: sources in, a configuration or its mistakes out.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::auth::certificate::{LoginFrom, NameType};
use crate::auth::sasl::Mechanism;
use crate::auth::{Algorithm, token};
use crate::written::Remarks;

/// A folder with files, and what else a configuration is made from.
struct Given {
    folder: tempfile::TempDir,
    sources: Sources,
}

fn given(files: &[(&str, &str)]) -> Given {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let host = Host { name: "hase".to_owned(), is_root: false };
    let home = folder.path().to_str().unwrap().to_owned();
    let environment = vec![("HOME".to_owned(), home)];
    Given { folder, sources: Sources { environment, host, ..Sources::default() } }
}

impl Given {
    fn file(mut self, name: &str) -> Self {
        self.sources.file = Some(self.folder.path().join(name));
        self
    }

    /// Sets a variable; `@` stands for the folder.
    fn variable(mut self, name: &str, value: &str) -> Self {
        let value = value.replace("@/", &format!("{}/", self.folder.path().display()));
        self.sources.environment.push((name.to_owned(), value));
        self
    }

    fn flag(mut self, key: &str, value: &str) -> Self {
        self.sources.flags.push((key.to_owned(), vec![value.to_owned()]));
        self
    }

    fn config(&self) -> Config {
        Config::load(&self.sources).map_err(|remarks| panic!("{remarks}")).unwrap().0
    }

    /// The warnings, with the folder's name taken out.
    fn warnings(&self) -> Vec<String> {
        let (_, warnings) = Config::load(&self.sources).map_err(|remarks| panic!("{remarks}")).unwrap();
        warnings.iter().map(|remark| self.plain(&remark.to_string())).collect()
    }

    fn mistakes(&self) -> Vec<String> {
        let Remarks { mistakes, .. } = Config::load(&self.sources).expect_err("must be refused");
        mistakes.iter().map(|remark| self.plain(&remark.to_string())).collect()
    }

    fn plain(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn toml(text: &str) -> Given {
    given(&[("leveret.toml", text)]).file("leveret.toml")
}

fn conf(text: &str) -> Given {
    given(&[("rabbitmq.conf", text)]).file("rabbitmq.conf")
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_said_gives_the_defaults() {
    let given = given(&[]);
    let config = given.config();
    assert_eq!(config.data_dir, given.folder.path().join(".local/share/leveret"));
    assert!(config.data_dir_defaulted);
    assert_eq!(config.durability, Durability::Fsync);
    assert_eq!(texts(&config.amqp_listeners), ["[::]:5672"]);
    assert!(config.amqps_listeners.is_empty());
    assert_eq!(config.http_listener, Some("[::]:15672".parse().unwrap()));
    assert_eq!(config.metrics_listener, Some("[::]:15692".parse().unwrap()));
    assert_eq!(config.handshake_timeout, Duration::from_secs(10));
    assert_eq!((config.heartbeat_s, config.frame_max, config.initial_frame_max), (60, 131_072, 8192));
    assert_eq!((config.channel_max, config.max_connections), (2047, None));
    assert_eq!((config.unauthenticated_max, config.unauthenticated_per_address), (Some(2000), Some(100)));
    assert_eq!(config.accepts_per_address, Some(200));
    assert_eq!(config.max_message_size, 16 << 20);
    assert_eq!((config.messages_memory, config.queue_memory), (32 << 20, 4 << 20));
    assert_eq!(config.memory_watermark, Watermark::Relative(600_000));
    assert_eq!((config.total_memory, config.disk_free_limit), (None, None));
    assert_eq!((config.store_write_buffer, config.unsynced_max, config.workers), (4 << 20, 4 << 20, None));
    assert_eq!((config.default_user.as_str(), config.default_pass.expose()), ("guest", "guest"));
    assert_eq!(config.default_vhost, "/");
    assert_eq!(config.default_permissions.configure, ".*");
    assert_eq!((config.default_user_tags, config.loopback_users), (vec!["administrator".into()], vec!["guest".into()]));
    assert!(config.anonymous_login.is_none());
    assert!(config.permit_transient_nonexclusive_queues && config.permit_global_qos);
    assert_eq!((config.product_name.as_str(), config.product_version.as_str()), ("RabbitMQ", "4.3.6"));
    assert_eq!((config.node_name.as_str(), config.cluster_name.as_str()), ("leveret@hase", "leveret@hase"));
    assert_eq!(config.log, Log { filter: "info".to_owned(), format: LogFormat::Plain });
}

#[test]
fn the_data_folder_suits_whoever_starts_the_broker() {
    let mut given = toml("");
    let data_dir = |given: &Given| given.config().data_dir;
    given.sources.environment = vec![("XDG_DATA_HOME".into(), "/data".into()), ("HOME".into(), "/home/hare".into())];
    assert_eq!(data_dir(&given), PathBuf::from("/data/leveret"));
    given.sources.environment[0].1 = "relative".to_owned();
    assert_eq!(data_dir(&given), PathBuf::from("/home/hare/.local/share/leveret"));
    given.sources.environment.clear();
    assert_eq!(data_dir(&given), PathBuf::from("leveret-data"));
    given.sources.host.is_root = true;
    assert_eq!(data_dir(&given), PathBuf::from("/var/lib/leveret"));
    assert!(given.config().data_dir_defaulted);
    assert!(!given.flag("data_dir", "/x").config().data_dir_defaulted);
}

#[test]
fn later_sources_cover_earlier_ones() {
    let given = toml("heartbeat = 1\nframe_max = 4096\nchannel_max = 10\nmax_connections = 5")
        .variable("RABBITMQ_NODE_PORT", "1111")
        .variable("LEVERET_AMQP_PORT", "2222")
        .variable("LEVERET_HEARTBEAT", "2")
        .variable("LEVERET_FRAME_MAX", "8 KiB")
        .flag("heartbeat", "3 s");
    let config = given.config();
    assert_eq!((config.heartbeat_s, config.frame_max, config.channel_max), (3, 8192, 10));
    assert_eq!(config.max_connections, Some(5));
    assert_eq!(texts(&config.amqp_listeners), ["[::]:2222"]);
}

#[test]
fn the_file_is_looked_for_in_the_usual_place() {
    let given = given(&[(".config/leveret/leveret.toml", "heartbeat = 7"), ("other.toml", "heartbeat = 8")]);
    assert_eq!(given.config().heartbeat_s, 7);
    let given = given.variable("LEVERET_CONFIG", "@/other.toml");
    assert_eq!(given.config().heartbeat_s, 8);
    let given = given.file("none.toml");
    assert_eq!(given.mistakes(), ["none.toml: can't be read: No such file or directory (os error 2)"]);
}

#[test]
fn mistakes_in_toml_name_file_line_and_key_and_all_are_told() {
    let given = toml(
        "hartbeat = 60
frame_max = 'lots'
[tls]
cert_file = 'x'
verify = 'maybe'
[log]
level = 'loud'
",
    )
    .variable("LEVERET_CHANNEL_MAX", "70000")
    .flag("max_message_size", "1 TB");
    assert_eq!(
        given.mistakes(),
        [
            "leveret.toml:1: hartbeat: unknown setting (did you mean 'heartbeat'?)",
            "leveret.toml:4: tls.cert_file: unknown setting (did you mean 'tls.certfile'?)",
            "leveret.toml:5: tls.verify: 'maybe' is not one of verify_none, verify_peer",
            "leveret.toml:2: frame_max: 'lots' is not a size from 4096 to 134217728 bytes; a unit may follow, as in \
             \"16 MiB\"",
            "environment: LEVERET_CHANNEL_MAX: '70000' is not a number from 0 to 65535",
            "command line: --max-message-size: '1 TB' is not a size from 1 to 536870912 bytes; a unit may follow, as in \
             \"16 MiB\"",
            "leveret.toml:7: log.level: 'loud' is not debug, info, warning, error or none, or a list like \
             \"info,connection=debug\"",
        ]
    );
}

#[test]
fn values_of_the_wrong_kind_are_mistakes() {
    let cases = [
        (
            "heartbeat = '1.5 s'",
            "heartbeat: '1.5 s' is not a time up to 65535 s, in s or with another unit, as in \"2 min\"",
        ),
        ("heartbeat = '1500 ms'", "heartbeat: must be whole seconds"),
        ("heartbeat = true", "heartbeat: true is not a time up to 65535 s, in s or with another unit, as in \"2 min\""),
        ("bind = ['example.org']", "bind: 'example.org' is not an IP address such as \"127.0.0.1\" or \"::\""),
        ("bind = []", "bind: must name at least one address"),
        ("http_port = [1, 2]", "http_port: takes one port or one address"),
        ("log = 'debug'", "log: is a section of settings, not a string"),
        ("default_user = ''", "default_user: must not be empty"),
        ("permit_global_qos = 'perhaps'", "permit_global_qos: 'perhaps' is not true or false"),
        ("workers = 0", "workers: 0 is not a number from 1 to 1024, or \"auto\""),
        ("data_dir = 5", "data_dir: 5 is not a path"),
        ("amqps_port = 5671", "amqps_port: needs a certificate and its key: tls.certfile and tls.keyfile"),
        ("tls.verify = 'verify_peer'", "tls.verify: needs the authorities to trust: tls.cacertfile"),
        (
            "statistics.samples_basic = ['600=x']",
            "statistics.samples_basic: '600=x' is not how long and how far apart, in seconds",
        ),
        ("statistics.samples_global = []", "statistics.samples_global: must say for how long samples are kept"),
        (
            "statistics.samples_global = ['day=1']",
            "statistics.samples_global: would keep more than 10000 samples of each",
        ),
        ("tls.fail_if_no_peer_cert = true", "tls.fail_if_no_peer_cert: needs tls.verify = \"verify_peer\""),
    ];
    for (text, mistake) in cases {
        assert_eq!(toml(text).mistakes(), [format!("leveret.toml:1: {mistake}")], "{text}");
    }
    let look_ahead = toml("default_permissions.read = '(?!x)'").mistakes();
    assert!(look_ahead[0].contains("look-ahead"), "{look_ahead:?}");
}

#[test]
fn a_secret_is_shown_nowhere() {
    let given = toml("default_pass = 'geheim'\ntls.password = ['geheim']\nanonymous_login_pass = 'geheim'\n");
    assert!(!given.mistakes().concat().contains("geheim"));
    let given = toml("default_pass = 'geheim'\ntls.password = 'geheim'\nanonymous_login_user = 'a'")
        .variable("LEVERET_ANONYMOUS_LOGIN_PASS", "geheim");
    let config = given.config();
    assert_eq!(config.anonymous_login.as_ref().unwrap().1.expose(), "geheim");
    assert!(!format!("{config:?}").contains("geheim"));
}

#[test]
fn listeners_are_ports_on_every_address_or_addresses() {
    let config = toml("bind = ['127.0.0.1', '::1']\namqp_port = [5672, '10.0.0.1:99']\nhttp_port = 'none'").config();
    assert_eq!(texts(&config.amqp_listeners), ["127.0.0.1:5672", "[::1]:5672", "10.0.0.1:99"]);
    assert_eq!(config.http_listener, None);
    assert_eq!(config.metrics_listener, Some("127.0.0.1:15692".parse().unwrap()));
    assert!(toml("amqp_port = 'none'").config().amqp_listeners.is_empty());
    assert_eq!(
        texts(&toml("").flag("bind", "127.0.0.1").flag("amqp_port", "0").config().amqp_listeners),
        ["127.0.0.1:0"]
    );
}

#[test]
fn rabbitmqs_own_file_is_understood() {
    let given = conf(
        "## A comment
listeners.tcp.default = 5673
  listeners.tcp.local = 127.0.0.1:5674   # another
default_user = hare
default_pass = 'ab#cd'
default_vhost = field
default_user_tags.management = true
default_user_tags.administrator = false
default_permissions.read = ^burrow
loopback_users.guest = false
heartbeat = 30
handshake_timeout = 5000
channel_max = 100
max_message_size = 134217728
load_definitions = /etc/rabbitmq/definitions.json
management.tcp.port = 15673
management.tcp.ip = 127.0.0.1
prometheus.tcp.port = 15693
log.console = true
log.console.level = warning
log.connection.level = debug
log.console.formatter = json
log.file = false
deprecated_features.permit.transient_nonexcl_queues = false
definitions.import_backend = local_filesystem
auth_backends.1 = internal
cluster_name = $(CLUSTER)-1
",
    )
    .variable("CLUSTER", "meadow");
    let config = given.config();
    assert_eq!(given.warnings(), Vec::<String>::new());
    assert_eq!(texts(&config.amqp_listeners), ["[::]:5673", "127.0.0.1:5674"]);
    assert_eq!((config.default_user.as_str(), config.default_pass.expose()), ("hare", "ab#cd"));
    assert_eq!((config.default_vhost.as_str(), config.default_permissions.read.as_str()), ("field", "^burrow"));
    assert_eq!(config.default_user_tags, ["management"]);
    assert!(config.loopback_users.is_empty());
    assert_eq!((config.heartbeat_s, config.channel_max), (30, 100));
    assert_eq!(config.handshake_timeout, Duration::from_secs(5));
    assert_eq!(config.max_message_size, 128 << 20);
    assert_eq!(config.definitions, [PathBuf::from("/etc/rabbitmq/definitions.json")]);
    assert_eq!(config.http_listener, Some("127.0.0.1:15673".parse().unwrap()));
    assert_eq!(config.metrics_listener, Some("[::]:15693".parse().unwrap()));
    assert_eq!(config.log, Log { filter: "warn,leveret::connection=debug".to_owned(), format: LogFormat::Json });
    assert!(!config.permit_transient_nonexclusive_queues);
    assert_eq!(config.cluster_name, "meadow-1");
}

#[test]
fn rabbitmqs_keys_about_logins_are_understood() {
    let key = r#"{"kty": "oct", "k": "bG9uZy1lbm91Z2gtdG8tYmUtdGFrZW4tZm9yLWEtc2VjcmV0"}"#;
    let written = "password_hashing_module = rabbit_password_hashing_sha512
auth_mechanisms.1 = EXTERNAL
auth_mechanisms.2 = PLAIN
auth_backends.2.authn = rabbit_auth_backend_internal
auth_backends.2.authz = rabbit_auth_backend_internal
auth_backends.1 = oauth
ssl_cert_login_from = subject_alt_name
ssl_cert_login_san_type = email
ssl_cert_login_san_index = 1
auth_oauth2.resource_server_id = meadow
auth_oauth2.preferred_username_claims.1 = user_name
auth_oauth2.preferred_username_claims.2 = email
auth_oauth2.additional_scopes_key = roles realm.roles
auth_oauth2.scope_aliases.admin = meadow.tag:administrator meadow.read:*/*
auth_oauth2.scope_aliases.1.alias = api://reader
auth_oauth2.scope_aliases.1.scope = meadow.read:*/*
auth_oauth2.signing_keys.key-1 = @/key.json
auth_oauth2.default_key = key-1
auth_oauth2.algorithms.1 = HS256
";
    let given = given(&[("key.json", key), ("rabbitmq.conf", "")]).file("rabbitmq.conf");
    let written = written.replace("@/", &format!("{}/", given.folder.path().display()));
    fs::write(given.folder.path().join("rabbitmq.conf"), &written).unwrap();
    let config = given.config();
    assert_eq!(given.warnings(), Vec::<String>::new());
    assert_eq!(config.password_hashing, Algorithm::Sha512);
    assert_eq!(config.auth_mechanisms, [Mechanism::External, Mechanism::Plain]);
    assert_eq!(config.certificate_login, LoginFrom::AlternativeName(NameType::Email, 1));
    let [Backend::Tokens(issuer), Backend::Internal] = &config.auth_backends[..] else {
        panic!("{:?}", config.auth_backends);
    };
    assert_eq!((issuer.resource_server_id.as_str(), issuer.scope_prefix.as_str()), ("meadow", "meadow."));
    assert_eq!(issuer.username_claims, ["user_name", "email"]);
    assert_eq!(issuer.additional_scopes, ["roles", "realm.roles"]);
    assert_eq!(issuer.scope_aliases["admin"], ["meadow.tag:administrator", "meadow.read:*/*"]);
    assert_eq!(issuer.scope_aliases["api://reader"], ["meadow.read:*/*"]);
    assert!(issuer.keys.contains_key("key-1") && issuer.verify_aud && issuer.require_exp);
    assert_eq!(issuer.algorithms.as_deref(), Some(&[token::Algorithm::Hs256][..]));
    // A table in TOML says the same as a list.
    let path = given.folder.path().display().to_string();
    for keys in [format!("signing_keys = ['key-1={path}/key.json']"), format!("signing_keys.key-1 = '{path}/key.json'")]
    {
        let text = format!("auth_backends = ['oauth2']\n[auth_oauth2]\nresource_server_id = 'meadow'\n{keys}\n");
        let backends = toml(&text).config().auth_backends;
        assert!(
            matches!(&backends[..], [Backend::Tokens(issuer)] if issuer.keys.contains_key("key-1")),
            "{backends:?}"
        );
    }
}

#[test]
fn backends_that_are_not_here_are_left_aside_and_tokens_need_a_key() {
    let given = conf(
        "auth_backends.1 = ldap\nauth_backends.2.authn = internal\nauth_backends.2.authz = http\n\
         password_hashing_module = rabbit_password_hashing_md5\nauth_oauth2.issuer = https://x\n",
    );
    assert_eq!(given.config().auth_backends, [Backend::Internal]);
    assert_eq!(
        given.warnings(),
        [
            "rabbitmq.conf:2: auth_backends.2.authz: is not supported unless it is the same as authn; both are ignored",
            "rabbitmq.conf:1: auth_backends.1: 'ldap' is not supported; ignored",
            "rabbitmq.conf:4: password_hashing_module: has no effect: new passwords are hashed by SHA-256",
            "rabbitmq.conf:5: auth_oauth2.issuer: is not supported; ignored",
        ]
    );
    let without =
        toml("auth_backends = ['oauth2']\n[auth_oauth2]\nalgorithms = ['none']\nsigning_keys = ['a=/nowhere']\n");
    assert_eq!(
        without.mistakes(),
        [
            "command line: auth_oauth2.resource_server_id: must be given: tokens are for somebody, and their scopes \
             begin with it",
            "leveret.toml:4: auth_oauth2.signing_keys: the file /nowhere can't be read: No such file or directory (os \
             error 2)",
            "leveret.toml:4: auth_oauth2.signing_keys: must name a key, or no token can be verified",
            "leveret.toml:3: auth_oauth2.algorithms: 'none' is not one of HS256, HS384, HS512, RS256, RS384, RS512, \
             PS256, PS384, PS512, ES256, ES384, EdDSA",
        ]
    );
    let mistakes = toml("auth_backends = []\nauth_mechanisms = ['CRAM']\n").mistakes();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
}

#[test]
fn what_testcontainers_writes_is_understood() {
    let given = conf(
        "listeners.tcp = none
listeners.ssl.default = 5671
ssl_options.cacertfile = /etc/rabbitmq/ca.pem
ssl_options.certfile = /etc/rabbitmq/cert.pem
ssl_options.keyfile = /etc/rabbitmq/key.pem
ssl_options.depth = 1
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
",
    );
    let config = given.config();
    assert!(config.amqp_listeners.is_empty());
    assert_eq!(texts(&config.amqps_listeners), ["[::]:5671"]);
    assert_eq!(config.tls.keyfile, Some("/etc/rabbitmq/key.pem".into()));
    assert_eq!((config.tls.verify, config.tls.fail_if_no_peer_cert), (Verify::Peer, true));
    assert_eq!(config.tls.depth, 1);
    assert_eq!(given.warnings(), Vec::<String>::new());
}

#[test]
fn rabbitmqs_options_for_tls_are_understood() {
    let given = conf(
        "ssl_options.versions.1 = tlsv1.2
ssl_options.ciphers.10 = ECDHE-RSA-AES128-GCM-SHA256
ssl_options.ciphers.2 = ECDHE-RSA-AES256-GCM-SHA384
ssl_options.ciphers.3 = DHE-RSA-AES256-GCM-SHA384
ssl_options.honor_cipher_order = true
ssl_options.honor_ecc_order = true
ssl_options.client_renegotiation = false
ssl_options.secure_renegotiate = true
ssl_handshake_timeout = 7000
",
    );
    let tls = given.config().tls;
    assert_eq!(tls.versions, [TlsVersion::V1_2]);
    let names = ["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
    assert_eq!(tls.ciphers, names);
    assert!(tls.honor_cipher_order);
    assert_eq!(tls.handshake_timeout, Duration::from_secs(7));
    assert_eq!(
        given.warnings(),
        [
            "rabbitmq.conf:6: ssl_options.honor_ecc_order: is not supported; ignored",
            "rabbitmq.conf:3: ssl_options.ciphers.2: DHE-RSA-AES256-GCM-SHA384 is not offered here, and left out",
        ]
    );
}

#[test]
fn what_would_be_less_safe_than_it_reads_is_a_mistake() {
    let cases = [
        (
            "ssl_options.versions.1 = tlsv1.1",
            "'tlsv1.1' is not \"tlsv1.3\" or \"tlsv1.2\"; older versions are not spoken",
        ),
        ("ssl_options.ciphers.1 = AES256-SHA", "none of these is offered; there are: TLS_AES_256_GCM_SHA384, "),
        ("ssl_options.ciphers.1 = ECDHE-RSA-AES256-GCM-SHA383", "'ECDHE-RSA-AES256-GCM-SHA383' is no cipher suite"),
        ("ssl_options.verify = verify_peer", "needs the authorities to trust: tls.cacertfile"),
        ("ssl_options.fail_if_no_peer_cert = true", "needs tls.verify = \"verify_peer\""),
        ("ssl_options.crl_check = true", "needs lists of revoked certificates: tls.crlfiles"),
        ("proxy_protocol = true", "needs the proxies' addresses, to believe nobody else: proxy_protocol_trusted"),
    ];
    for (line, what) in cases {
        let mistakes = conf(line).mistakes();
        assert!(mistakes.len() == 1 && mistakes[0].contains(what), "{line}: {mistakes:?}");
    }
    let trusted = |networks: &str| toml(&format!("proxy_protocol = true\nproxy_protocol_trusted = {networks}"));
    let told =
        "leveret.toml:2: proxy_protocol_trusted: '10.0.0.1/8' is not an address or a network such as \"10.0.0.0/8\"";
    assert_eq!(trusted(r#"["10.0.0.1/8"]"#).mistakes()[0], told);
    let proxies = trusted(r#"["10.0.0.0/8", "::1"]"#).config().proxies.unwrap();
    assert_eq!(texts(&proxies), ["10.0.0.0/8", "::1/128"]);
    assert_eq!(toml(r#"proxy_protocol_trusted = ["::1"]"#).config().proxies, None);
}

#[test]
fn keys_without_a_meaning_here_are_warned_of_and_wrong_values_are_mistakes() {
    let given = conf("vm_memory_high_watermark_paging_ratio = 0.4\nhartbeat = 5\nmqtt.vhost = /\nlog.file = a.log\n");
    assert_eq!(
        given.warnings(),
        [
            "rabbitmq.conf:4: log.file: has no effect: logs are written to standard output",
            "rabbitmq.conf:2: hartbeat: unknown setting; ignored (did you mean 'heartbeat'?)",
            "rabbitmq.conf:3: mqtt.vhost: is not supported; ignored",
            "rabbitmq.conf:1: vm_memory_high_watermark_paging_ratio: is not supported; ignored",
        ]
    );
    let given = conf(
        "heartbeat = soon
what is this
default_pass = encrypted:abc
default_user = $(NOBODY)
loopback_users.guest = perhaps
include other.conf
",
    );
    assert_eq!(
        given.mistakes(),
        [
            "rabbitmq.conf:2: expected 'key = value' or a comment",
            "rabbitmq.conf:3: default_pass: encrypted values are not supported; use a variable with _FILE for a secret",
            "rabbitmq.conf:4: default_user: the variable NOBODY is not set",
            "rabbitmq.conf:6: include: is not supported; put the files into a folder and name that",
            "rabbitmq.conf:5: loopback_users.guest: 'perhaps' is not true or false",
            "rabbitmq.conf:1: heartbeat: 'soon' is not a time up to 65535 s, in s or with another unit, as in \
             \"2 min\"",
        ]
    );
}

#[test]
fn the_images_files_and_conf_d_are_read_in_order() {
    let given = given(&[
        ("rabbitmq.conf", "heartbeat = 1\nchannel_max = 1\nlisteners.tcp.default = 1\n"),
        ("conf.d/20-b.conf", "channel_max = 3\nlisteners.tcp.default = 3\n"),
        ("conf.d/10-a.conf", "heartbeat = 2\nchannel_max = 2\n"),
        ("conf.d/readme.txt", "nothing\n"),
    ])
    .variable("RABBITMQ_CONFIG_FILE", "@/rabbitmq")
    .variable("RABBITMQ_CONFIG_FILES", "@/conf.d");
    let config = given.config();
    assert_eq!((config.heartbeat_s, config.channel_max), (2, 3));
    assert_eq!(texts(&config.amqp_listeners), ["[::]:3"]);
}

#[test]
fn the_images_variables_are_understood() {
    let given = given(&[("pass", "geheim\n")])
        .variable("RABBITMQ_DEFAULT_USER", "hare")
        .variable("RABBITMQ_DEFAULT_PASS_FILE", "@/pass")
        .variable("RABBITMQ_DEFAULT_VHOST", "")
        .variable("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
        .variable("RABBITMQ_NODE_PORT", "5999")
        .variable("RABBITMQ_NODENAME", "rabbit@burrow")
        .variable("RABBITMQ_MNESIA_BASE", "/data")
        .variable("RABBITMQ_LOGS", "-")
        .variable("RABBITMQ_LOG", "debug,connection=error,+color")
        .variable("RABBITMQ_ERLANG_COOKIE", "x");
    let config = given.config();
    assert_eq!((config.default_user.as_str(), config.default_pass.expose()), ("hare", "geheim"));
    assert_eq!(config.default_vhost, "/");
    assert_eq!(texts(&config.amqp_listeners), ["127.0.0.1:5999"]);
    assert_eq!(config.node_name, "rabbit@burrow");
    assert_eq!((config.data_dir, config.data_dir_defaulted), (PathBuf::from("/data/leveret"), false));
    assert_eq!(config.log.filter, "debug,leveret::connection=error");
    assert_eq!(given.warnings(), Vec::<String>::new());
    assert_eq!(given.variable("RABBITMQ_MNESIA_DIR", "/dir").config().data_dir, PathBuf::from("/dir"));
}

#[test]
fn settings_in_erlangs_arguments_are_found() {
    let given = given(&[]).variable(
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
        "+P 100 -rabbitmq_management load_definitions \"/d.json\" \
         -rabbit heartbeat 5 log [{console, [{level, debug}]}] channel_max 9 -kernel x y",
    );
    let config = given.config();
    assert_eq!((config.heartbeat_s, config.channel_max), (5, 9));
    assert_eq!(config.definitions, [PathBuf::from("/d.json")]);
    let name = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS";
    assert_eq!(given.warnings(), [format!("environment: {name}: log has an Erlang term as its value; ignored")]);
}

#[test]
fn kubernetes_service_links_are_no_settings_and_other_strange_variables_are_warned_of() {
    let given = given(&[])
        .variable("LEVERET_AMQP_PORT", "tcp://10.0.0.1:5672")
        .variable("LEVERET_PORT_5672_TCP_PROTO", "tcp")
        .variable("LEVERET_SERVICE_HOST", "10.0.0.1")
        .variable("LEVERET_HARTBEAT", "5")
        .variable("RABBITMQ_LOGS", "/var/log/x");
    assert_eq!(texts(&given.config().amqp_listeners), ["[::]:5672"]);
    assert_eq!(
        given.warnings(),
        [
            "environment: RABBITMQ_LOGS: has no effect: logs are written to standard output",
            "environment: LEVERET_HARTBEAT: is no setting; ignored (did you mean 'LEVERET_HEARTBEAT'?)",
        ]
    );
}

#[test]
fn watermarks_are_shares_or_sizes() {
    let config = conf("vm_memory_high_watermark.relative = 0.4\ndisk_free_limit.relative = 1.5").config();
    assert_eq!(config.memory_watermark, Watermark::Relative(400_000));
    assert_eq!(config.memory_watermark.bytes(1_000_000), 400_000);
    assert_eq!(config.disk_free_limit, Some(Watermark::Relative(1_500_000)));
    let config = toml(
        "total_memory_available_override_value = '1 GiB'
[vm_memory_high_watermark]
relative = 0.5
absolute = '2GB'
[disk_free_limit]
absolute = 1000
relative = 2
",
    )
    .config();
    assert_eq!(config.memory_watermark, Watermark::Absolute(2_000_000_000));
    assert_eq!(config.disk_free_limit, Some(Watermark::Absolute(1000)));
    assert_eq!(config.total_memory, Some(1 << 30));
    assert_eq!(
        toml("vm_memory_high_watermark.relative = 1.1").mistakes(),
        ["leveret.toml:1: vm_memory_high_watermark.relative: 1.1 is not a decimal number from 0 to 1, as in 0.5"]
    );
}

#[test]
fn a_variable_and_its_file_cannot_both_be_set() {
    let given = given(&[]).variable("LEVERET_DEFAULT_PASS", "a").variable("LEVERET_DEFAULT_PASS_FILE", "@/none");
    assert_eq!(given.mistakes(), ["environment: LEVERET_DEFAULT_PASS: is set, and LEVERET_DEFAULT_PASS_FILE as well"]);
    let given = super::tests::given(&[]).variable("LEVERET_DEFAULT_PASS_FILE", "@/none");
    assert_eq!(
        given.mistakes(),
        ["environment: LEVERET_DEFAULT_PASS_FILE: none can't be read: No such file or directory (os error 2)"]
    );
}

#[test]
fn every_setting_can_be_written_in_every_source() {
    for setting in SETTINGS {
        let written = match setting.default {
            Default::Written(value) => value,
            Default::Found { example, .. } => example,
        };
        // A section's key in TOML, and as text for the other sources.
        toml(&format!("{} = {written}", setting.key)).config();
        let text = written.replace(['[', ']', '"'], "");
        given(&[]).variable(&setting.variable(), &text).config();
        if setting.flag().is_some() && !text.is_empty() {
            given(&[]).flag(setting.key, &text).config();
        }
        for key in setting.conf {
            let text = match (*key, text.as_str()) {
                ("auth_mechanisms.*", _) => "PLAIN",
                (key, _) if key.contains("sample_retention_policies") => "5",
                (key, _) if key.contains("users.") || key.contains("tags.") => "true",
                ("management.tcp.ip" | "prometheus.tcp.ip", _) => "127.0.0.1",
                ("ssl_options.versions.*", _) => "tlsv1.2",
                ("ssl_options.ciphers.*", _) => "ECDHE-RSA-AES256-GCM-SHA384",
                ("management.ssl.ip", _) => "127.0.0.1\nmanagement.ssl.certfile = x\nmanagement.ssl.keyfile = x",
                ("prometheus.ssl.ip", _) => "127.0.0.1\nprometheus.ssl.certfile = x\nprometheus.ssl.keyfile = x",
                ("listeners.ssl.*", _) => "5671\nssl_options.certfile = x\nssl_options.keyfile = x",
                (_, "") => "x",
                (_, text) => text,
            };
            let word = match *key {
                "log.*.level" => "queue",
                key if key.contains("sample_retention_policies") => "hour",
                _ => "x",
            };
            let name = key.replace('*', word);
            assert_eq!(conf(&format!("{name} = {text}")).warnings(), Vec::<String>::new(), "{name} = {text}");
        }
    }
}

/// A setting's value as the example shows it.
fn shown(setting: &Setting) -> &'static str {
    match setting.default {
        Default::Written(value) => value,
        Default::Found { example, .. } => example,
    }
}

#[test]
fn the_example_file_has_every_setting_with_its_default() {
    let example = include_str!("../../config/leveret.toml");
    toml(example).config();
    // What is commented out stands right behind the #, prose after a space.
    let live: Vec<String> = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|letter: char| letter.is_ascii_lowercase()) => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let given = toml(&live.join("\n"));
    assert_eq!(given.warnings(), Vec::<String>::new());
    let mut section = String::new();
    let mut found = Vec::new();
    for line in live.iter().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = format!("{name}."),
            None => found.push(format!("{section}{line}")),
        }
    }
    let mut expected: Vec<String> =
        SETTINGS.iter().map(|setting| format!("{} = {}", setting.key, shown(setting))).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

/// A setting's row in the reference.
fn row(setting: &Setting) -> String {
    let code = |text: &str| format!("`{}`", text.replace('|', "\\|"));
    let list = |names: Vec<String>| if names.is_empty() { "–".to_owned() } else { names.join(", ") };
    let mut variables = vec![code(&setting.variable())];
    variables.extend(setting.variables.iter().map(|variable| code(variable)));
    let flag: Vec<String> = setting.flag().iter().map(|flag| code(&format!("--{flag}"))).collect();
    let conf: Vec<String> = setting.conf.iter().map(|key| code(key)).collect();
    let default = match setting.default {
        Default::Written(value) => code(value),
        Default::Found { how, .. } => how.to_owned(),
    };
    format!(
        "| {} | {} | {} | {} | {} | {default} | {} |",
        code(setting.key),
        list(flag),
        list(variables),
        list(conf),
        setting.kind.takes(),
        setting.about
    )
}

#[test]
fn the_reference_has_every_setting_as_it_is() {
    let reference = include_str!("../../docs/configuration.md");
    let rows: Vec<&str> = reference.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = SETTINGS.iter().map(row).collect();
    assert_eq!(rows.join("\n"), expected.join("\n"), "the table should be:\n{}", expected.join("\n"));
}

proptest::proptest! {
    #[test]
    fn no_line_of_a_rabbitmq_conf_makes_the_reader_panic(
        text in r"(([a-z]{1,4}|listeners|tcp|log|level|loopback_users|heartbeat|\.|\\|é){0,5} ?=? ?['#$():a-z0-9é]{0,8}\n){0,4}"
    ) {
        let sources = Sources::default();
        let environment = super::environment::Environment::of(&sources.environment);
        let mut lines = super::rabbitmq_conf::Lines::default();
        let (mut layers, mut remarks) = (super::layers::Layers::default(), Remarks::default());
        super::rabbitmq_conf::read(&text, "x.conf".as_ref(), &environment, &mut lines, &mut remarks);
        super::rabbitmq_conf::apply(lines, &mut layers, &mut remarks);
        super::meaning::resolve(&layers, &sources, &mut remarks);
    }
}
