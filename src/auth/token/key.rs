//! Keys that tokens are verified with, and what each of them can verify.

use super::BASE64URL;
use crate::auth::certificate::Certificate;
use crate::auth::der::{self, Value, Values};
use base64::Engine;
use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde_json::{Map, Value as Json};
use std::fmt;

/// Octets of the shortest secret for HMAC: as many as the shortest digest has (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Kinds of keys and curves (RFC 3279, 5480, 8410).
const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const ED25519: &str = "1.3.101.112";

/// How tokens are signed (RFC 7518, 3.1). Not signing them is not among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub const NAMES: &[&str] =
        &["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A key. Its kind says which algorithms it is for; a JSON Web Key may say so more narrowly.
#[derive(Clone, PartialEq)]
pub struct Key {
    material: Material,
    only: Option<Algorithm>,
}

#[derive(Clone, PartialEq)]
enum Material {
    Secret(Vec<u8>),
    /// Modulus and exponent, big-endian.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed points.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Key {
    /// Reads what a file holds: a public key or a certificate as PEM, or a JSON Web Key (RFC 7517), which alone can be a
    /// secret. A public key can so never be taken for a secret that everybody knows.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice::<Map<String, Json>>(text) {
            Ok(jwk) => Self::of_jwk(&jwk),
            Err(_) => Self::of_pem(text),
        }
    }

    fn of_pem(text: &[u8]) -> Result<Self, String> {
        let pem = std::str::from_utf8(text).ok().and_then(der::pem);
        let (label, octets) = pem.ok_or("holds neither PEM nor a JSON Web Key")?;
        let info = match label {
            "PUBLIC KEY" => Values::of(&octets).next_of(der::SEQUENCE),
            "CERTIFICATE" => Certificate::read(&octets).map(|certificate| certificate.key),
            label => return Err(format!("holds a {label}; a PUBLIC KEY or CERTIFICATE is wanted")),
        };
        let material = info.and_then(Self::of_info).ok_or("holds no RSA key and none of P-256, P-384 or Ed25519")?;
        Self { material, only: None }.checked()
    }

    /// A key in the envelope that says of which kind it is (RFC 5280, 4.1.2.7).
    fn of_info(info: Value<'_>) -> Option<Material> {
        let mut fields = info.values();
        let mut kind = fields.next_of(der::SEQUENCE)?.values();
        let bits = fields.next_of(der::BIT_STRING)?.bits()?;
        let id = kind.next_of(der::OBJECT_ID)?.id()?;
        let curve = kind.next_of(der::OBJECT_ID).and_then(Value::id);
        match (id.as_str(), curve.as_deref()) {
            (RSA, _) => {
                let mut numbers = Values::of(bits).next_of(der::SEQUENCE)?.values();
                let (n, e) = (numbers.next_of(der::INTEGER)?, numbers.next_of(der::INTEGER)?);
                Some(rsa(n.contents, e.contents))
            }
            (EC, Some(P256)) => Some(Material::P256(bits.to_vec())),
            (EC, Some(P384)) => Some(Material::P384(bits.to_vec())),
            (ED25519, _) => Some(Material::Ed25519(bits.to_vec())),
            _ => None,
        }
    }

    fn of_jwk(jwk: &Map<String, Json>) -> Result<Self, String> {
        let text = |name: &str| jwk.get(name).and_then(Json::as_str).unwrap_or_default();
        let octets = |name: &str| {
            let text = text(name).trim_end_matches('=');
            BASE64URL
                .decode(text)
                .ok()
                .filter(|octets| !octets.is_empty())
                .ok_or(format!("lacks '{name}' as Base64url"))
        };
        let point = |bytes: usize| {
            let (x, y) = (octets("x")?, octets("y")?);
            match x.len() == bytes && y.len() == bytes {
                true => Ok([vec![4], x, y].concat()),
                false => Err("holds no point of its curve".to_owned()),
            }
        };
        let material = match (text("kty"), text("crv")) {
            ("oct", _) => Material::Secret(octets("k")?),
            ("RSA", _) => rsa(&octets("n")?, &octets("e")?),
            ("EC", "P-256") => Material::P256(point(32)?),
            ("EC", "P-384") => Material::P384(point(48)?),
            ("OKP", "Ed25519") => Material::Ed25519(octets("x")?),
            (kind, curve) => return Err(format!("holds a key of the unknown kind '{kind}' '{curve}'")),
        };
        let only = match jwk.get("alg") {
            None => None,
            Some(name) => match name.as_str().and_then(Algorithm::from_name) {
                Some(algorithm) => Some(algorithm),
                None => return Err("holds a key for an unknown 'alg'".to_owned()),
            },
        };
        Self { material, only }.checked()
    }

    fn checked(self) -> Result<Self, String> {
        match &self.material {
            Material::Secret(secret) if secret.len() < SECRET_BYTES_MIN => {
                Err(format!("holds a secret of {} octets; {SECRET_BYTES_MIN} is the least", secret.len()))
            }
            Material::Rsa { n, .. } if !(256..=1024).contains(&n.len()) => {
                Err(format!("holds an RSA key of {} bits; 2048 to 8192 are taken", n.len() * 8))
            }
            _ => Ok(self),
        }
    }

    /// Whether this key made the signature, by this algorithm. Never if the key is not for that.
    pub fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        use Algorithm::*;
        if self.only.is_some_and(|only| only != algorithm) {
            return false;
        }
        let mac =
            |algorithm, secret: &Vec<u8>| hmac::verify(&hmac::Key::new(algorithm, secret), signed, signature).is_ok();
        let rsa = |parameters, n, e| RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok();
        let curve = |algorithm: &'static dyn VerificationAlgorithm, point: &Vec<u8>| {
            UnparsedPublicKey::new(algorithm, point).verify(signed, signature).is_ok()
        };
        match (&self.material, algorithm) {
            (Material::Secret(secret), Hs256) => mac(hmac::HMAC_SHA256, secret),
            (Material::Secret(secret), Hs384) => mac(hmac::HMAC_SHA384, secret),
            (Material::Secret(secret), Hs512) => mac(hmac::HMAC_SHA512, secret),
            (Material::Rsa { n, e }, Rs256) => rsa(&signature::RSA_PKCS1_2048_8192_SHA256, n, e),
            (Material::Rsa { n, e }, Rs384) => rsa(&signature::RSA_PKCS1_2048_8192_SHA384, n, e),
            (Material::Rsa { n, e }, Rs512) => rsa(&signature::RSA_PKCS1_2048_8192_SHA512, n, e),
            (Material::Rsa { n, e }, Ps256) => rsa(&signature::RSA_PSS_2048_8192_SHA256, n, e),
            (Material::Rsa { n, e }, Ps384) => rsa(&signature::RSA_PSS_2048_8192_SHA384, n, e),
            (Material::Rsa { n, e }, Ps512) => rsa(&signature::RSA_PSS_2048_8192_SHA512, n, e),
            (Material::P256(point), Es256) => curve(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Material::P384(point), Es384) => curve(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Material::Ed25519(point), EdDsa) => curve(&signature::ED25519, point),
            _ => false,
        }
    }
}

/// Integers without the zero in front that says they are not negative.
fn rsa(n: &[u8], e: &[u8]) -> Material {
    let plain = |octets: &[u8]| octets.iter().copied().skip_while(|octet| *octet == 0).collect();
    Material::Rsa { n: plain(n), e: plain(e) }
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("<key>")
    }
}
