//! Bearer tokens in the place of passwords: JSON Web Tokens as RabbitMQ's OAuth 2 plugin reads them.
//!
//! ```text
//! header.payload.signature   key: which key, and so which algorithms      (RFC 7515, 7518)
//!                            claims: who, for whom, until when, and which scopes
//!                            scopes: what those allow in which virtual host
//! ```
//!
//! A token says which algorithm it was signed with; here the key decides whether that may be: an RSA key verifies no
//! HMAC, and nothing goes unsigned. Nothing of a token is believed before its signature was verified, but the name of
//! the key. The reasons for a refusal hold nothing of the token either.

mod claims;
mod key;
mod scopes;

pub use key::{Algorithm, Key};
pub use scopes::Scopes;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;

/// Octets of a token.
const TOKEN_BYTES_MAX: usize = 64 << 10;

/// Which tokens are believed, and how they are read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Issuer {
    /// The broker's name among the audiences of a token.
    pub resource_server_id: String,
    /// The `type` of those `authorization_details` that are meant for a broker (RFC 9396); empty: none is.
    pub resource_server_type: String,
    /// What scopes that are meant for this broker begin with; the rest counts.
    pub scope_prefix: String,
    /// Paths of more claims that hold scopes: names with dots between them.
    pub additional_scopes: Vec<String>,
    /// Claims that may hold the user's name, best first; `sub` and `client_id` come after them.
    pub username_claims: Vec<String>,
    /// What scopes stand for, as lists of others.
    pub scope_aliases: BTreeMap<String, Vec<String>>,
    /// Whether the broker must be among a token's audiences.
    pub verify_aud: bool,
    /// Whether tokens must expire.
    pub require_exp: bool,
    /// Algorithms that are taken, if not all that the key is for.
    pub algorithms: Option<Vec<Algorithm>>,
    pub keys: BTreeMap<String, Key>,
    /// The key of tokens that name none.
    pub default_key: Option<String>,
}

/// What a token that was verified says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub user: String,
    pub scopes: Scopes,
    /// Seconds since 1970.
    pub expires_s: Option<u64>,
}

/// Why a token is not believed. The text holds nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// Whether a text looks like a token, whoever it may be from.
pub fn is_one(text: &str) -> bool {
    let mut parts = text.split('.');
    let header = parts.next().and_then(|header| octets(header).ok()).and_then(|header| object(&header).ok());
    header.is_some_and(|header| header.contains_key("alg")) && parts.count() == 2
}

impl Issuer {
    /// Reads a token at a time in seconds since 1970.
    pub fn verify(&self, token: &str, now_s: u64) -> Result<Claims, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused("the token is too long"));
        }
        let invalid = Refused("provided token is invalid");
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid);
        };
        let signed = &token[..header.len() + 1 + payload.len()];
        let (header, payload, signature) = (octets(header)?, octets(payload)?, octets(signature)?);
        let header = object(&header)?;
        if header.contains_key("crit") {
            // What must be understood and is not.
            return Err(invalid);
        }
        let Some(algorithm) = header.get("alg").and_then(Json::as_str).and_then(Algorithm::from_name) else {
            return Err(Refused("the token is signed by an algorithm that is not taken"));
        };
        if self.algorithms.as_ref().is_some_and(|taken| !taken.contains(&algorithm)) {
            return Err(Refused("the token is signed by an algorithm that is not taken"));
        }
        let key = match header.get("kid") {
            Some(Json::String(id)) => self.keys.get(id),
            Some(_) => None,
            None => self.default_key.as_ref().and_then(|id| self.keys.get(id)),
        };
        let Some(key) = key else { return Err(Refused("the token's key is not known")) };
        if !key.verify(algorithm, signed.as_bytes(), &signature) {
            return Err(Refused("the token's signature is wrong"));
        }
        self.claims(object(&payload)?, now_s)
    }
}

fn octets(part: &str) -> Result<Vec<u8>, Refused> {
    BASE64URL.decode(part).map_err(|_| Refused("provided token is invalid"))
}

fn object(octets: &[u8]) -> Result<Map<String, Json>, Refused> {
    serde_json::from_slice(octets).map_err(|_| Refused("provided token is invalid"))
}

#[cfg(test)]
mod tests;
