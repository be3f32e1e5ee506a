//! Who is let in: passwords that are guessed, slow hashes, tokens, certificates.

use super::support::peer::{Incoming, PERSISTENT};
use super::support::tls::{Authority, Files, peer, settings};
use super::support::{Broker, Declare, Peer, eventually};
use amq_protocol::protocol::{AMQPClass, basic, connection};
use amq_protocol::types::{AMQPValue, FieldTable};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use leveret::amqp::PROTOCOL_HEADER;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use ring::{hmac, signature};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

const RSA_PRIVATE: &[u8] = include_bytes!("../keys/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../keys/rsa.pub.pem");
const REFUSED: &str = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker \
                       logfile.";

/// The client properties of one that understands what a broker may say.
fn capable() -> FieldTable {
    let mut can = FieldTable::default();
    for name in ["authentication_failure_close", "consumer_cancel_notify"] {
        can.insert(name.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("capabilities".into(), AMQPValue::FieldTable(can));
    properties
}

/// A peer that has said this password, and heard nothing yet.
fn knock(broker: &Broker, user: &str, password: &str) -> Peer {
    let mut peer = Peer::silent(broker);
    peer.octets(PROTOCOL_HEADER);
    peer.expect_start();
    peer.start_ok("PLAIN", format!("\0{user}\0{password}").as_bytes(), capable());
    peer
}

pub fn is_let_in(broker: &Broker, user: &str, password: &str) -> bool {
    let mut peer = knock(broker, user, password);
    match peer.next() {
        Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(_))) => true,
        Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
            assert_eq!((close.reply_code, close.reply_text.as_str()), (403, REFUSED));
            false
        }
        other => panic!("neither connection.tune nor connection.close: {other:?}"),
    }
}

/// A connection with channel 1 open.
pub fn enter(broker: &Broker, user: &str, password: &str) -> Peer {
    let mut peer = knock(broker, user, password);
    peer.expect_tune();
    peer.tune_ok(0);
    peer.open_vhost("/");
    peer.expect_open_ok();
    peer.open_channel(1);
    peer
}

// ── passwords ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn whoever_guesses_too_often_is_refused_for_a_while() {
    let broker = Broker::with(&["--login-failures-max=3", "--login-refusal=3s", "--login-delay=10ms"]);
    for guess in ["a", "b", "c"] {
        assert!(!is_let_in(&broker, "guest", guess));
    }
    let barred = Instant::now();
    // The right one is not even looked at; others are.
    assert!(!is_let_in(&broker, "guest", "guest"));
    assert!(!is_let_in(&broker, "nobody", "guest"));
    assert!(broker.log().iter().any(|line| line.ends_with("user 'guest' - too many failed logins from there")));
    eventually("the end of the refusal", || is_let_in(&broker, "guest", "guest").then_some(()));
    // Measured in whole seconds.
    assert!(barred.elapsed() > Duration::from_secs(1), "{:?}", barred.elapsed());
}

#[test]
fn a_refusal_takes_its_time_whatever_for() {
    let broker = Broker::with(&["--login-delay=700ms"]);
    let asked = Instant::now();
    let mut peers = [("guest", "wrong"), ("guest", ""), ("nobody", "x"), ("", "")]
        .map(|(user, password)| knock(&broker, user, password));
    for peer in &mut peers {
        peer.expect_connection_close(403, REFUSED);
        assert!(asked.elapsed() >= Duration::from_millis(700));
    }
    let asked = Instant::now();
    assert!(is_let_in(&broker, "guest", "guest"));
    assert!(asked.elapsed() < Duration::from_millis(700), "who is let in need not wait");
}

#[test]
fn a_slow_hash_lets_the_right_one_in_again_after_a_restart_too() {
    let mut broker = Broker::with_config("password_hashing = 'argon2id'\ndefault_pass = 'geheim'\nlogin_delay = 10");
    for _ in 0..2 {
        assert!(is_let_in(&broker, "guest", "geheim"));
        assert!(!is_let_in(&broker, "guest", "gehein"));
        assert!(!is_let_in(&broker, "nobody", "geheim"));
        assert!(broker.stop().success());
        // It stays as it was hashed.
        broker.restart_with(&["--login-delay=10ms"]);
    }
    let log = broker.log().join("\n");
    assert!(!log.contains("gehei"), "{log}");
}

#[test]
fn a_flood_of_logins_leaves_publishers_their_turn() {
    let broker = Broker::with(&["--password-hashing=argon2id", "--login-delay=1ms"]);
    let mut publisher = enter(&broker, "guest", "guest");
    publisher.declare(1, Declare::durable("q"));
    publisher.confirm_select(1);
    let before = broker.resident_bytes();
    let stop = AtomicBool::new(false);
    let overflowed = || broker.log().iter().any(|line| line.ends_with("too many passwords are being checked"));
    std::thread::scope(|scope| {
        for attacker in 0..8 {
            let (broker, stop) = (&broker, &stop);
            scope.spawn(move || {
                for round in 0.. {
                    // More at once than may wait, and always another user.
                    let peers: Vec<_> =
                        (0..12).map(|at| knock(broker, &format!("{attacker}-{round}-{at}"), "x")).collect();
                    for mut peer in peers {
                        peer.expect_connection_close(403, REFUSED);
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        eventually("too many passwords", || overflowed().then_some(()));
        for number in 1..=500 {
            publisher.publish(1, "q", PERSISTENT, b"still here");
            publisher.expect_confirms(number, number);
        }
        stop.store(true, Ordering::Relaxed);
    });
    // Two hashes at once take 19 MiB each, however many want one.
    let grown = broker.resident_bytes_max().saturating_sub(before);
    assert!(grown < 80 << 20, "{} MiB more", grown >> 20);
    // The right password finds its turn again.
    eventually("a login", || is_let_in(&broker, "guest", "guest").then_some(()));
}

// ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A broker that believes tokens signed with the key of the tests.
pub fn broker_for_tokens(more: &str) -> Broker {
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa.pub.pem");
    Broker::with_config(&format!(
        "auth_backends = ['oauth2', 'internal']\nlogin_delay = 10\n{more}\n[auth_oauth2]\n\
         resource_server_id = 'rabbitmq'\nsigning_keys = ['rsa={key}']\ndefault_key = 'rsa'\n"
    ))
}

pub fn now_s() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// What a token says that is good for a minute.
pub fn claims(user: &str, scopes: &str) -> Json {
    json!({"sub": user, "aud": "rabbitmq", "exp": now_s() + 60, "scope": scopes})
}

fn signed(header: &Json, claims: &Json, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let [header, claims] = [header, claims].map(|part| BASE64URL.encode(part.to_string()));
    let text = format!("{header}.{claims}");
    let signature = BASE64URL.encode(sign(text.as_bytes()));
    format!("{text}.{signature}")
}

fn rsa(text: &[u8]) -> Vec<u8> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(RSA_PRIVATE).unwrap();
    let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    let encoding: &dyn signature::RsaEncoding = &RSA_PKCS1_SHA256;
    key.sign(encoding, &SystemRandom::new(), text, &mut signature).unwrap();
    signature
}

pub fn token(claims: &Json) -> String {
    signed(&json!({"alg": "RS256", "typ": "JWT"}), claims, rsa)
}

pub const ALL: &str = "rabbitmq.configure:*/* rabbitmq.write:*/* rabbitmq.read:*/*";

pub fn update_secret(peer: &mut Peer, secret: &str) {
    let update = connection::UpdateSecret { new_secret: secret.into(), reason: "it gets old".into() };
    peer.connection(connection::AMQPMethod::UpdateSecret(update));
}

pub fn expect_secret_updated(peer: &mut Peer) {
    peer.expect(0, &AMQPClass::Connection(connection::AMQPMethod::UpdateSecretOk(connection::UpdateSecretOk {})));
}

#[test]
fn a_token_lets_in_and_its_scopes_are_the_rights() {
    let broker = broker_for_tokens("");
    let scopes = "rabbitmq.configure:*/own-* rabbitmq.write:*/own-* rabbitmq.read:*/own-* \
                  rabbitmq.write:*/amq.topic/a.* rabbitmq.write:*/amq.default other.configure:*/*";
    let token = token(&claims("hare", scopes));
    // Whoever the client says it is, the token knows better.
    let mut peer = enter(&broker, "somebody", &token);
    peer.declare(1, Declare::transient("own-q"));
    peer.publish(1, "own-q", PERSISTENT, b"mine");
    assert_eq!(peer.get(1, "own-q", true).unwrap().body, b"mine");
    peer.basic(1, basic::AMQPMethod::Get(basic::Get { queue: "other".into(), no_ack: true }));
    let text = "ACCESS_REFUSED - read access to queue 'other' in vhost '/' refused for user 'hare'";
    peer.expect_channel_close(1, 403, text);
    peer.open_channel(2);
    let publish = |peer: &mut Peer, key: &str| {
        let mut out = Vec::new();
        super::support::peer::write_publish(&mut out, 2, "amq.topic", key, PERSISTENT, b"", 131_072);
        peer.octets(&out);
    };
    publish(&mut peer, "a.b");
    publish(&mut peer, "b");
    let text =
        "ACCESS_REFUSED - write access to topic 'b' in exchange 'amq.topic' in vhost '/' refused for user 'hare'";
    peer.expect_channel_close(2, 403, text);
    peer.close();
    // Users of the broker's own are let in beside.
    assert!(is_let_in(&broker, "guest", "guest") && !is_let_in(&broker, "guest", "wrong"));
    // Scopes for another virtual host don't open this one.
    let elsewhere = self::token(&claims("hare", "rabbitmq.read:elsewhere/*"));
    let mut peer = knock(&broker, "", &elsewhere);
    peer.expect_tune();
    peer.tune_ok(0);
    peer.open_vhost("/");
    peer.expect_connection_close(530, "NOT_ALLOWED - access to vhost '/' refused for user 'hare'");
    // Nothing of a token is in the log, not even of one that was refused.
    assert!(!is_let_in(&broker, "hare", &token[..token.len() - 4]));
    let log = broker.log().join("\n");
    assert!(log.contains("OAuth 2/JWT token failed: "), "{log}");
    let parts = token.split('.').map(|part| &part[part.len() / 2..]);
    parts.for_each(|part| assert!(!log.contains(part), "{log}"));
}

#[test]
fn tokens_that_are_not_to_be_believed_are_refused_like_wrong_passwords() {
    let broker = broker_for_tokens("login_failures_max = 'infinity'");
    let good = claims("hare", ALL);
    let with = |name: &str, value: Json| {
        let mut claims = good.clone();
        claims[name] = value;
        token(&claims)
    };
    assert!(is_let_in(&broker, "", &token(&good)));
    let as_secret = |text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, RSA_PUBLIC), text).as_ref().to_vec();
    let mut without_end = good.clone();
    without_end.as_object_mut().unwrap().remove("exp");
    let bad = [
        ("unsigned", signed(&json!({"alg": "none"}), &good, |_| Vec::new())),
        ("the public key as a secret", signed(&json!({"alg": "HS256"}), &good, as_secret)),
        ("signed by nobody", signed(&json!({"alg": "RS256"}), &good, |_| vec![0; 256])),
        ("another key", signed(&json!({"alg": "RS256", "kid": "other"}), &good, rsa)),
        ("expired", with("exp", json!(now_s() - 1))),
        ("not yet", with("nbf", json!(now_s() + 600))),
        ("for somebody else", with("aud", json!(["other"]))),
        ("for ever", token(&without_end)),
        ("none", "a.b.c".to_owned()),
    ];
    for (what, token) in bad {
        assert!(!is_let_in(&broker, "hare", &token), "{what}");
    }
}

#[test]
fn a_connection_ends_with_its_token_unless_that_is_renewed() {
    let broker = broker_for_tokens("");
    let mut short = claims("hare", ALL);
    short["exp"] = json!(now_s() + 3);
    let mut forgetful = enter(&broker, "", &token(&short));
    let mut renewed = enter(&broker, "", &token(&short));
    update_secret(&mut renewed, &token(&claims("hare", ALL)));
    expect_secret_updated(&mut renewed);
    forgetful.expect_connection_close(320, "CONNECTION_FORCED - credential expired");
    assert!(now_s() >= short["exp"].as_u64().unwrap());
    // Both had the same end; the other one goes on.
    std::thread::sleep(Duration::from_millis(200));
    renewed.declare(1, Declare::transient("q"));
    renewed.close();
}

#[test]
fn a_renewed_token_is_for_the_same_user_and_its_scopes_count_at_once() {
    let broker = broker_for_tokens("");
    let mut peer = enter(&broker, "", &token(&claims("hare", ALL)));
    peer.declare(1, Declare::transient("a"));
    peer.declare(1, Declare::transient("b"));
    peer.consume(1, "a", "of-a", true);
    peer.consume(1, "b", "of-b", true);
    update_secret(&mut peer, &token(&claims("hare", "rabbitmq.read:*/b rabbitmq.write:*/amq.default")));
    let mut seen = [peer.next(), peer.next()];
    seen.sort_by_key(|incoming| matches!(incoming, Incoming::Method(0, _)));
    let [Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel))), Incoming::Method(0, ok)] = seen
    else {
        panic!("neither basic.cancel nor update-secret-ok: {seen:?}");
    };
    assert_eq!(cancel.consumer_tag.as_str(), "of-a");
    assert!(matches!(ok, AMQPClass::Connection(connection::AMQPMethod::UpdateSecretOk(_))), "{ok:?}");
    // The other consumer goes on; what was allowed is no more.
    peer.publish(1, "b", PERSISTENT, b"hop");
    assert_eq!(peer.expect_delivery().body, b"hop");
    peer.method(1, super::support::peer::declare_queue(Declare::transient("c"), FieldTable::default()));
    let text = "ACCESS_REFUSED - configure access to queue 'c' in vhost '/' refused for user 'hare'";
    peer.expect_channel_close(1, 403, text);
    let text = "NOT_ALLOWED - New secret was refused by one of the backends";
    let mut other = enter(&broker, "", &token(&claims("hare", ALL)));
    update_secret(&mut other, &token(&claims("tortoise", ALL)));
    other.expect_connection_close(530, text);
    update_secret(&mut peer, "no token");
    peer.expect_connection_close(530, text);
    let mut outside = enter(&broker, "", &token(&claims("hare", ALL)));
    update_secret(&mut outside, &token(&claims("hare", "rabbitmq.read:elsewhere/*")));
    outside.expect_connection_close(530, "NOT_ALLOWED - access to vhost '/' refused for user 'hare'");
    // A password does not expire: any secret will do.
    let mut guest = enter(&broker, "guest", "guest");
    update_secret(&mut guest, "whatever");
    expect_secret_updated(&mut guest);
}

// ── certificates and mechanisms ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_certificate_logs_in_by_external() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let permission =
        |user: &str| format!(r#"{{"user": "{user}", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}}"#);
    let definitions = format!(
        r#"{{"vhosts": [{{"name": "/"}}], "users": [{{"name": "O=Hares,CN=hare", "password_hash": "", "tags": ""}},
            {{"name": "hare", "password_hash": "", "tags": ""}}],
            "permissions": [{}, {}]}}"#,
        permission("O=Hares,CN=hare"),
        permission("hare"),
    );
    let definitions = files.write("definitions.json", &definitions);
    let definitions = format!("--definitions={}", definitions.display());
    let verify = "--tls-verify=verify_peer";
    for (from, shown) in [("distinguished_name", "O=Hares,CN=hare"), ("common_name", "hare")] {
        let from = format!("--ssl-cert-login-from={from}");
        let broker = files.broker(&[verify, &definitions, &from, "--login-delay=10ms"]);
        let log_in = |name: Option<&str>| {
            let certificate = name.map(|name| authority.client(name));
            let mut peer = peer(&broker, settings(&authority, certificate.as_ref())).unwrap();
            peer.octets(PROTOCOL_HEADER);
            assert_eq!(peer.expect_start().mechanisms.to_string(), "PLAIN AMQPLAIN ANONYMOUS EXTERNAL");
            peer.start_ok("EXTERNAL", b"", capable());
            peer
        };
        let mut peer = log_in(Some("hare"));
        peer.expect_tune();
        peer.tune_ok(0);
        peer.open_vhost("/");
        peer.expect_open_ok();
        peer.open_channel(1);
        // Who it is, is what the user-id of a message may be.
        let properties = [&[0x00, 0x10][..], &[shown.len() as u8], shown.as_bytes()].concat();
        peer.confirm_select(1);
        peer.publish(1, "nowhere", &properties, b"");
        peer.expect_confirms(1, 1);
        let text = "ACCESS_REFUSED - Login was refused using authentication mechanism EXTERNAL";
        log_in(Some("tortoise")).expect_connection_close(403, text);
        log_in(None).expect_connection_close(403, text);
        // Without a password nobody logs in by one.
        assert!(!is_let_in(&broker, "hare", ""));
        // Without TLS there is nothing to show.
        let mut plain = Peer::silent(&broker);
        plain.octets(PROTOCOL_HEADER);
        assert_eq!(plain.expect_start().mechanisms.to_string(), "PLAIN AMQPLAIN ANONYMOUS");
        plain.start_ok("EXTERNAL", b"", capable());
        plain.expect_eof();
    }
}

#[test]
fn only_the_mechanisms_of_the_settings_are_offered_and_taken() {
    let broker = Broker::with(&["--auth-mechanisms=AMQPLAIN"]);
    let mut peer = Peer::silent(&broker);
    peer.octets(PROTOCOL_HEADER);
    assert_eq!(peer.expect_start().mechanisms.to_string(), "AMQPLAIN");
    peer.start_ok("PLAIN", b"\0guest\0guest", capable());
    peer.expect_eof();
    let mut peer = Peer::silent(&broker);
    peer.octets(PROTOCOL_HEADER);
    peer.expect_start();
    peer.start_ok("AMQPLAIN", b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x05guest", capable());
    peer.expect_tune();
}
