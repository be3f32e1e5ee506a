use super::*;
use crate::auth::Access;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair};
use ring::{hmac, rsa};
use serde_json::json;

const NOW_S: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret that is long enough, really";
const RSA_PRIVATE: &[u8] = include_bytes!("../../../tests/keys/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../../../tests/keys/rsa.pub.pem");

/// Something that signs, and the key that verifies it.
struct Signer {
    key: Key,
    sign: Box<Sign>,
}

type Sign = dyn Fn(&[u8]) -> Vec<u8>;

fn base64url(octets: &[u8]) -> String {
    BASE64URL.encode(octets)
}

fn secret() -> Signer {
    let jwk = json!({"kty": "oct", "k": base64url(SECRET)}).to_string();
    let sign = |text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), text).as_ref().to_vec();
    Signer { key: Key::read(jwk.as_bytes()).unwrap(), sign: Box::new(sign) }
}

fn rsa() -> Signer {
    let (_, pair) = crate::auth::der::pem(std::str::from_utf8(RSA_PRIVATE).unwrap()).unwrap();
    let pair = RsaKeyPair::from_pkcs8(&pair).unwrap();
    let sign = move |text: &[u8]| {
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature).unwrap();
        signature
    };
    Signer { key: Key::read(RSA_PUBLIC).unwrap(), sign: Box::new(sign) }
}

fn curve() -> Signer {
    let random = SystemRandom::new();
    let kind = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(kind, pair.as_ref(), &random).unwrap();
    let point = pair.public_key().as_ref();
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": base64url(&point[1..33]), "y": base64url(&point[33..])});
    let key = Key::read(jwk.to_string().as_bytes()).unwrap();
    Signer { key, sign: Box::new(move |text| pair.sign(&SystemRandom::new(), text).unwrap().as_ref().to_vec()) }
}

impl Signer {
    fn token(&self, header: &Json, payload: &Json) -> String {
        let signed =
            format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(payload.to_string().as_bytes()));
        let signature = (self.sign)(signed.as_bytes());
        format!("{signed}.{}", base64url(&signature))
    }
}

/// An issuer with all three keys, and who signs with them.
fn issuer() -> (Issuer, [(&'static str, Signer); 3]) {
    let signers = [("HS256", secret()), ("RS256", rsa()), ("ES256", curve())];
    let issuer = Issuer {
        resource_server_id: "rabbitmq".to_owned(),
        scope_prefix: "rabbitmq.".to_owned(),
        verify_aud: true,
        require_exp: true,
        keys: signers.iter().map(|(name, signer)| ((*name).to_owned(), signer.key.clone())).collect(),
        ..Issuer::default()
    };
    (issuer, signers)
}

/// What is right, for the cases to spoil.
fn payload() -> Json {
    json!({
        "aud": ["other", "rabbitmq"], "sub": "hare", "exp": NOW_S + 60, "nbf": NOW_S - 60,
        "scope": "rabbitmq.read:*/* rabbitmq.write:%2F/q rabbitmq.tag:management other.configure:*/*",
    })
}

/// What the issuer says to a payload signed well.
fn claims_of(issuer: &Issuer, payload: &Json) -> Result<Claims, Refused> {
    let token = secret().token(&json!({"alg": "HS256", "kid": "HS256"}), payload);
    issuer.verify(&token, NOW_S)
}

#[test]
fn a_token_of_every_kind_of_key_is_read() {
    let (issuer, signers) = issuer();
    for (algorithm, signer) in &signers {
        let token = signer.token(&json!({"alg": algorithm, "kid": algorithm, "typ": "JWT"}), &payload());
        let claims = issuer.verify(&token, NOW_S).unwrap();
        assert_eq!((claims.user.as_str(), claims.expires_s), ("hare", Some(NOW_S + 60)), "{algorithm}");
        assert_eq!(claims.scopes.tags(), ["management"]);
        assert!(claims.scopes.allows(Access::Read, "/", "x") && claims.scopes.allows(Access::Write, "/", "q"));
        assert!(!claims.scopes.allows(Access::Configure, "/", "x"));
        // One octet of any part changed.
        for at in [3, token.find('.').unwrap() + 5, token.len() - 5] {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert!(issuer.verify(&String::from_utf8(other).unwrap(), NOW_S).is_err(), "{algorithm} {at}");
        }
    }
}

#[test]
fn the_key_decides_which_algorithms_may_be() {
    let (issuer, signers) = issuer();
    let wrong = Err(Refused("the token's signature is wrong"));
    let not_taken = Err(Refused("the token is signed by an algorithm that is not taken"));
    // Signed with the public key as if it were a secret.
    let forger = Signer {
        key: secret().key,
        sign: Box::new(|text| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, RSA_PUBLIC), text).as_ref().to_vec()),
    };
    assert_eq!(issuer.verify(&forger.token(&json!({"alg": "HS256", "kid": "RS256"}), &payload()), NOW_S), wrong);
    // Unsigned, in every spelling.
    for none in ["none", "None", "NONE", ""] {
        for kid in ["HS256", "RS256"] {
            let unsigned = Signer { key: secret().key, sign: Box::new(|_| Vec::new()) };
            let token = unsigned.token(&json!({"alg": none, "kid": kid}), &payload());
            assert_eq!(issuer.verify(&token, NOW_S), not_taken, "{none}");
        }
    }
    // The right signature by the name of another algorithm, or for another key.
    for (own, signer) in &signers {
        for (other, _) in &signers {
            if own != other {
                let token = signer.token(&json!({"alg": own, "kid": other}), &payload());
                assert_eq!(issuer.verify(&token, NOW_S), wrong, "{own} {other}");
                let token = signer.token(&json!({"alg": other, "kid": own}), &payload());
                assert_eq!(issuer.verify(&token, NOW_S), wrong, "{own} {other}");
            }
        }
    }
    // Not among the algorithms of the settings.
    let narrow = Issuer { algorithms: Some(vec![Algorithm::Rs256]), ..issuer.clone() };
    assert_eq!(claims_of(&narrow, &payload()), not_taken);
    // A key for one algorithm alone.
    let jwk = json!({"kty": "oct", "k": base64url(SECRET), "alg": "HS512"}).to_string();
    let mut narrow = issuer;
    narrow.keys.insert("HS256".to_owned(), Key::read(jwk.as_bytes()).unwrap());
    assert_eq!(claims_of(&narrow, &payload()), wrong);
}

#[test]
fn the_key_is_the_one_that_is_named_or_else_the_default() {
    let (mut issuer, [(_, signer), ..]) = issuer();
    let unknown = Err(Refused("the token's key is not known"));
    let unnamed = signer.token(&json!({"alg": "HS256"}), &payload());
    assert_eq!(issuer.verify(&unnamed, NOW_S), unknown);
    assert_eq!(issuer.verify(&signer.token(&json!({"alg": "HS256", "kid": "x"}), &payload()), NOW_S), unknown);
    assert_eq!(issuer.verify(&signer.token(&json!({"alg": "HS256", "kid": 1}), &payload()), NOW_S), unknown);
    issuer.default_key = Some("HS256".to_owned());
    assert!(issuer.verify(&unnamed, NOW_S).is_ok());
}

#[test]
fn what_is_no_token_is_refused() {
    let (issuer, [(_, signer), ..]) = issuer();
    let good = signer.token(&json!({"alg": "HS256", "kid": "HS256"}), &payload());
    let long = "x".repeat(TOKEN_BYTES_MAX + 1);
    let critical = signer.token(&json!({"alg": "HS256", "kid": "HS256", "crit": ["b64"]}), &payload());
    let list = signer.token(&json!({"alg": "HS256", "kid": "HS256"}), &json!([1]));
    for token in ["", "guest", "..", "a.b", "ä.ö.ü", &format!("{good}."), &good[1..], &long, &critical, &list] {
        assert!(issuer.verify(token, NOW_S).is_err(), "{token}");
    }
}

#[test]
fn no_password_looks_like_a_token() {
    let (_, [(_, signer), ..]) = issuer();
    assert!(is_one(&signer.token(&json!({"alg": "none"}), &payload())));
    assert!(!is_one(&signer.token(&json!({"typ": "JWT"}), &payload())));
    for password in ["", "geheim", "a.b.c", "..", "e30.e30.e30", "e30"] {
        assert!(!is_one(password), "{password}");
    }
}

#[test]
fn times_and_audiences_are_checked() {
    let (issuer, _) = issuer();
    let with = |name: &str, value: Json| {
        let mut payload = payload();
        payload[name] = value;
        claims_of(&issuer, &payload).map(|_| ()).map_err(|Refused(why)| why)
    };
    assert_eq!(with("exp", json!(NOW_S)), Err("the token has expired"));
    assert_eq!(with("exp", json!(NOW_S as f64 + 1.5)), Ok(()));
    assert_eq!(with("exp", json!(-1)), Err("the token has expired"));
    assert_eq!(with("exp", json!("tomorrow")), Err("the token's exp claim is no number"));
    assert_eq!(with("exp", json!(null)), Err("the token's exp claim is no number"));
    assert_eq!(with("nbf", json!(NOW_S + 600)), Err("the token does not count yet"));
    assert_eq!(with("nbf", json!(NOW_S + 5)), Ok(()));
    assert_eq!(with("nbf", json!("x")), Err("the token's nbf claim is no number"));
    assert_eq!(with("aud", json!("other rabbitmq")), Ok(()));
    assert_eq!(with("aud", json!(["other"])), Err("the token is for another audience"));
    assert_eq!(with("aud", json!("rabbitmqs")), Err("the token is for another audience"));
    assert_eq!(with("aud", json!([])), Err("the token has no aud claim"));

    let mut without = payload();
    without.as_object_mut().unwrap().retain(|name, _| name != "exp" && name != "aud");
    assert_eq!(claims_of(&issuer, &without), Err(Refused("the token has no aud claim")));
    let lax = Issuer { verify_aud: false, ..issuer };
    assert_eq!(claims_of(&lax, &without), Err(Refused("the token has no exp claim")));
    let lax = Issuer { require_exp: false, ..lax };
    assert_eq!(claims_of(&lax, &without).unwrap().expires_s, None);
}

#[test]
fn the_user_is_the_first_claim_that_there_is() {
    let (issuer, _) = issuer();
    let issuer = Issuer { username_claims: vec!["user_name".to_owned(), "email".to_owned()], ..issuer };
    let user = |claims: Json| {
        let mut payload = payload();
        payload.as_object_mut().unwrap().remove("sub");
        payload.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        claims_of(&issuer, &payload).unwrap().user
    };
    assert_eq!(user(json!({"user_name": "a", "email": "b", "sub": "c"})), "a");
    assert_eq!(user(json!({"user_name": ["a"], "email": "b", "sub": "c"})), "b");
    assert_eq!(user(json!({"sub": "c", "client_id": "d"})), "c");
    assert_eq!(user(json!({"client_id": "d", "sub": ""})), "d");
    assert_eq!(user(json!({})), "unknown");
}

#[test]
fn scopes_are_found_wherever_issuers_put_them() {
    let (issuer, _) = issuer();
    let issuer = Issuer {
        resource_server_type: "rabbitmq-type".to_owned(),
        additional_scopes: vec!["roles".to_owned(), "realm.list.scopes".to_owned()],
        scope_aliases: [("developer".to_owned(), vec!["rabbitmq.configure:dev/*".to_owned()])].into(),
        ..issuer
    };
    let scopes = |claims: Json| {
        let mut payload = payload();
        payload["scope"] = json!([]);
        payload.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        claims_of(&issuer, &payload).unwrap().scopes
    };
    let reads = |claims: Json| scopes(claims).allows(Access::Read, "/", "q");
    assert!(!reads(json!({})));
    assert!(reads(json!({"scope": ["rabbitmq.read:*/*"]})));
    assert!(!reads(json!({"scope": ["read:*/*", "xrabbitmq.read:*/*", 5, null]})));
    assert!(reads(json!({"roles": "a rabbitmq.read:*/q"})));
    assert!(reads(json!({"roles": {"rabbitmq": "read:*/q"}})));
    assert!(reads(json!({"roles": {"rabbitmq": ["read:*/q"], "other": ["write:*/*"]}})));
    assert!(reads(json!({"realm": {"list": [{"x": 1}, {"scopes": ["rabbitmq.read:*/q"]}]}})));
    assert!(reads(json!({"authorization": {"permissions": [{"scopes": ["rabbitmq.read:*/q"]}]}})));
    let developer = scopes(json!({"scope": "developer"}));
    assert!(developer.allows(Access::Configure, "dev", "x") && !developer.allows(Access::Configure, "/", "x"));
    // A claim's value is not read as a pattern.
    let own = scopes(json!({"scope": "rabbitmq.write:*/{sub}-*", "sub": "*"}));
    assert!(own.allows(Access::Write, "/", "*-q") && !own.allows(Access::Write, "/", "hare-q"));
}

#[test]
fn authorization_details_are_scopes_if_they_are_for_this_broker() {
    let (issuer, _) = issuer();
    let issuer = Issuer { resource_server_type: "broker".to_owned(), ..issuer };
    let scopes = |kind: &str, locations: Json, actions: Json| {
        let mut payload = payload();
        payload["scope"] = json!("");
        payload["authorization_details"] = json!([{"type": kind, "locations": locations, "actions": actions}]);
        claims_of(&issuer, &payload).unwrap().scopes
    };
    let all = scopes("broker", json!(["cluster:rabbit*/vhost:a/queue:q-*"]), json!(["read", "administrator", "fly"]));
    assert!(all.allows(Access::Read, "a", "q-1") && !all.allows(Access::Read, "b", "q-1"));
    assert!(!all.allows(Access::Read, "a", "x") && !all.allows(Access::Write, "a", "q-1"));
    assert_eq!(all.tags(), ["administrator"]);
    let key = scopes("broker", json!("cluster:rabbitmq/exchange:x/routing-key:a.*"), json!("write"));
    assert!(key.allows_topic(Access::Write, "/", "x", "a.b") && !key.allows_topic(Access::Write, "/", "x", "b"));
    for (kind, location) in [
        ("other", "cluster:rabbitmq"),
        ("broker", "cluster:other"),
        ("broker", "vhost:/"),
        ("broker", "cluster:rabbitmq/queue:a/exchange:b"),
    ] {
        assert_eq!(scopes(kind, json!([location]), json!(["read"])), Scopes::default(), "{kind} {location}");
    }
}

#[test]
fn too_many_scopes_are_refused() {
    let (issuer, _) = issuer();
    let mut payload = payload();
    let scopes = |count: usize| (0..count).map(|at| format!("rabbitmq.read:*/{at}")).collect::<Vec<_>>();
    // As many as fit: the token's length ends first with longer ones.
    payload["scope"] = json!(scopes(2048));
    let many = claims_of(&issuer, &payload);
    payload["scope"] = json!(scopes(2049));
    assert!(many.is_ok());
    assert_eq!(claims_of(&issuer, &payload), Err(Refused("the token has too many scopes")));
}

#[test]
fn keys_that_are_none_are_told_apart() {
    let read = |text: &[u8]| Key::read(text).map(|_| ());
    assert_eq!(read(RSA_PUBLIC), Ok(()));
    let refused = |text: &[u8]| read(text).unwrap_err();
    assert_eq!(refused(RSA_PRIVATE), "holds a PRIVATE KEY; a PUBLIC KEY or CERTIFICATE is wanted");
    assert_eq!(refused(b""), "holds neither PEM nor a JSON Web Key");
    assert_eq!(refused(SECRET), "holds neither PEM nor a JSON Web Key");
    assert_eq!(refused(br#"{"kty": "oct", "k": "c2hvcnQ"}"#), "holds a secret of 5 octets; 32 is the least");
    assert_eq!(refused(br#"{"kty": "oct"}"#), "lacks 'k' as Base64url");
    assert_eq!(refused(br#"{"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"}"#), "holds no point of its curve");
    assert_eq!(
        refused(br#"{"kty": "RSA", "n": "AQAB", "e": "AQAB"}"#),
        "holds an RSA key of 24 bits; 2048 to 8192 are taken"
    );
    assert_eq!(refused(br#"{"kty": "dwarf"}"#), "holds a key of the unknown kind 'dwarf' ''");
    let certificate = rcgen::generate_simple_self_signed(vec!["issuer".to_owned()]).unwrap();
    assert_eq!(read(certificate.cert.pem().as_bytes()), Ok(()));
    assert_eq!(format!("{:?}", Key::read(RSA_PUBLIC)), "Ok(<key>)");
}

#[test]
fn an_rsa_key_is_the_same_as_pem_and_as_json() {
    let (_, pair) = crate::auth::der::pem(std::str::from_utf8(RSA_PRIVATE).unwrap()).unwrap();
    let pair = RsaKeyPair::from_pkcs8(&pair).unwrap();
    let components: rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
    let jwk = json!({"kty": "RSA", "n": base64url(&components.n), "e": base64url(&components.e)}).to_string();
    let signature = (rsa().sign)(b"text");
    for key in [Key::read(jwk.as_bytes()).unwrap(), rsa().key] {
        assert!(key.verify(Algorithm::Rs256, b"text", &signature));
        assert!(
            !key.verify(Algorithm::Ps256, b"text", &signature) && !key.verify(Algorithm::Rs512, b"text", &signature)
        );
    }
}
