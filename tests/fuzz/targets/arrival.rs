//! What a client says before anything is known of it: for whom a proxy connects, and who it is itself.
//!
//! Input: which of the formats, and its octets.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use leveret::auth::certificate::{Certificate, LoginFrom, NameType};
use leveret::auth::sasl::{self, Mechanism};
use leveret::auth::token::{self, Issuer, Key};
use leveret::auth::{Access, Algorithm, Login};
use leveret::transport::proxy;
use ring::hmac;
use std::sync::LazyLock;

const NOW_S: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret that is long enough, really";

/// Believes what is signed with [`SECRET`].
static ISSUER: LazyLock<Issuer> = LazyLock::new(|| Issuer {
    resource_server_id: "rabbitmq".to_owned(),
    resource_server_type: "broker".to_owned(),
    scope_prefix: "rabbitmq.".to_owned(),
    additional_scopes: vec!["extra.scopes".to_owned(), "realm_access.roles".to_owned()],
    username_claims: vec!["user_name".to_owned()],
    scope_aliases: [("admin".to_owned(), vec!["rabbitmq.tag:administrator".to_owned()])].into(),
    keys: [("k".to_owned(), secret())].into(),
    default_key: Some("k".to_owned()),
    ..Issuer::default()
});

pub fn target(data: &[u8]) {
    let Some((which, octets)) = data.split_first() else { return };
    match which % 8 {
        0 | 1 => proxied(octets),
        2 => plain(octets),
        3 => drop(sasl::login(Mechanism::AmqPlain, octets)),
        4 => compact(octets),
        5 => claims(octets),
        6 => certificate(octets),
        _ => keys(octets),
    }
}

/// What has come of a header so far is no mistake if the whole is none, and the header ends where it ends.
fn proxied(octets: &[u8]) {
    match proxy::parse(octets) {
        Ok(Some((origin, length))) => {
            for come in 0..length {
                assert_eq!(proxy::parse(&octets[..come]), Ok(None), "{come} octets of {length}");
            }
            assert_eq!(proxy::parse(&octets[..length]), Ok(Some((origin, length))));
        }
        Ok(None) => assert!(octets.len() < 4096, "it never ends"),
        Err(_) => {}
    }
}

fn plain(octets: &[u8]) {
    if let Ok(Login::Password { user, password }) = sasl::login(Mechanism::Plain, octets) {
        let again = [b"\0", user.as_bytes(), b"\0", password.expose().as_bytes()].concat();
        assert_eq!(again, octets);
    }
    let name = String::from_utf8_lossy(octets);
    if let Some(mechanism) = Mechanism::from_name(&name) {
        assert_eq!(mechanism.name(), name);
    }
}

/// A token as it comes. Nobody can sign one here.
fn compact(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    token::is_one(text);
    assert!(ISSUER.verify(text, NOW_S).is_err(), "believed without a signature");
    // With another header the same is signed well: it is still nothing but a text.
    let Some((_, rest)) = text.split_once('.') else { return };
    let header = BASE64URL.encode(r#"{"alg":"HS256"}"#);
    let signed = format!("{header}.{}", rest.split('.').next().unwrap_or_default());
    drop(ISSUER.verify(&sign(&signed), NOW_S));
}

/// The claims of a token that is signed well.
fn claims(octets: &[u8]) {
    let signed = format!("{}.{}", BASE64URL.encode(r#"{"alg":"HS256","kid":"k"}"#), BASE64URL.encode(octets));
    let Ok(claims) = ISSUER.verify(&sign(&signed), NOW_S) else { return };
    assert!(!claims.user.is_empty());
    assert!(claims.expires_s.is_none_or(|expires_s| expires_s > NOW_S));
    for access in [Access::Configure, Access::Write, Access::Read] {
        let allowed = claims.scopes.allows(access, "/", "q");
        assert!(!allowed || claims.scopes.may_enter("/"), "may act where it may not enter");
        claims.scopes.allows_topic(access, "/", "amq.topic", "a.b");
    }
    assert!(claims.scopes.tags().len() <= octets.len());
}

fn certificate(octets: &[u8]) {
    let Some(certificate) = Certificate::read(octets) else { return };
    certificate.user(LoginFrom::DistinguishedName);
    certificate.user(LoginFrom::CommonName);
    for kind in [NameType::Dns, NameType::Ip, NameType::Email, NameType::Uri, NameType::Other] {
        certificate.user(LoginFrom::AlternativeName(kind, 0));
    }
    certificate.validity();
    certificate.shown();
}

/// Keys of those who issue tokens, and the hashes of passwords.
fn keys(octets: &[u8]) {
    drop(Key::read(octets));
    let Ok(text) = std::str::from_utf8(octets) else { return };
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Md5, Algorithm::Argon2id] {
        algorithm.takes(text);
    }
}

fn secret() -> Key {
    let jwk = format!(r#"{{"kty":"oct","k":"{}"}}"#, BASE64URL.encode(SECRET));
    Key::read(jwk.as_bytes()).expect("a key")
}

fn sign(signed: &str) -> String {
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", BASE64URL.encode(signature))
}
