use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::User;

/// Octets of salt in front of a hash.
const SALT_BYTES: usize = 4;

/// A text that must not be seen: its `Debug` hides it, it has no `Display`, and its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for whoever has to compare or hash it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("<secret>")
    }
}

/// How a password was hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    Sha256,
    Sha512,
    /// Of RabbitMQ before 3.6.
    Md5,
    /// One that nobody here can compute: the record is kept, and its user can't log in with a password.
    Unknown(String),
}

impl Algorithm {
    /// The algorithm with this name in RabbitMQ's definitions.
    pub fn from_name(name: &str) -> Self {
        match name {
            "rabbit_password_hashing_sha256" => Self::Sha256,
            "rabbit_password_hashing_sha512" => Self::Sha512,
            "rabbit_password_hashing_md5" => Self::Md5,
            _ => Self::Unknown(name.to_owned()),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
            Self::Md5 => "rabbit_password_hashing_md5",
            Self::Unknown(name) => name,
        }
    }

    fn digest(&self, salt: &[u8], password: &str) -> Option<Vec<u8>> {
        Some(match self {
            Self::Sha256 => Sha256::new().chain_update(salt).chain_update(password).finalize().to_vec(),
            Self::Sha512 => Sha512::new().chain_update(salt).chain_update(password).finalize().to_vec(),
            Self::Md5 => Md5::new().chain_update(salt).chain_update(password).finalize().to_vec(),
            Self::Unknown(_) => return None,
        })
    }
}

impl serde::Serialize for Algorithm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A password's hash as RabbitMQ writes it: Base64 of four octets of salt and the digest of salt and password. Empty
/// for an algorithm that is not known.
pub fn hash(password: &str, algorithm: &Algorithm) -> String {
    let mut salted = [0; SALT_BYTES].to_vec();
    getrandom::fill(&mut salted).expect("the operating system has random octets");
    match algorithm.digest(&salted, password) {
        Some(digest) => {
            salted.extend_from_slice(&digest);
            BASE64.encode(salted)
        }
        None => String::new(),
    }
}

/// Whether this is the user's password.
///
/// The same work is done for a user that doesn't exist, has no password or one that can't be checked, and the
/// comparison takes as long whatever differs: an answer's time tells nobody which names exist. A blank password is
/// always refused.
pub fn verify(user: Option<&User>, password: &str) -> bool {
    let stored = user.and_then(|user| Stored::of(&user.password_hash, &user.hashing_algorithm));
    let (exists, stored) = match stored {
        Some(stored) => (true, stored),
        None => (false, Stored { salt: [0; SALT_BYTES], digest: vec![0; 32], algorithm: Algorithm::Sha256 }),
    };
    let Some(digest) = stored.algorithm.digest(&stored.salt, password) else { return false };
    let equal = bool::from(digest.ct_eq(&stored.digest));
    equal && exists && !password.is_empty()
}

/// A hash in its parts.
struct Stored {
    salt: [u8; SALT_BYTES],
    digest: Vec<u8>,
    algorithm: Algorithm,
}

impl Stored {
    /// `None` if there is no hash, or none that can be checked.
    fn of(hash: &str, algorithm: &Algorithm) -> Option<Self> {
        let octets = BASE64.decode(hash).ok()?;
        let (salt, digest) = octets.split_first_chunk::<SALT_BYTES>()?;
        let known = !matches!(algorithm, Algorithm::Unknown(_));
        (known && !digest.is_empty()).then(|| Self {
            salt: *salt,
            digest: digest.to_vec(),
            algorithm: algorithm.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(password_hash: &str, hashing_algorithm: Algorithm) -> User {
        User {
            name: "u".to_owned(),
            password_hash: password_hash.to_owned(),
            hashing_algorithm,
            tags: Vec::new(),
            limits: super::super::UserLimits::default(),
        }
    }

    #[test]
    fn hashes_of_rabbitmq_verify() {
        // The worked example of RabbitMQ's documentation (passwords.html): salt 908DC60A, password "test12".
        let documented = user("kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR", Algorithm::Sha256);
        assert!(verify(Some(&documented), "test12"));
        assert!(!verify(Some(&documented), "test13"));
        assert!(!verify(Some(&documented), ""));
    }

    #[test]
    fn every_known_algorithm_verifies_what_it_hashed_and_salts_it_anew() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Md5] {
            let first = hash("pässword", &algorithm);
            assert_ne!(first, hash("pässword", &algorithm));
            assert!(verify(Some(&user(&first, algorithm.clone())), "pässword"));
            assert!(!verify(Some(&user(&first, algorithm.clone())), "password"));
            assert_eq!(Algorithm::from_name(algorithm.name()), algorithm);
        }
    }

    #[test]
    fn nothing_logs_in_without_a_password_and_a_hash() {
        assert!(!verify(None, "guest"));
        assert!(!verify(None, ""));
        assert!(!verify(Some(&user("", Algorithm::Sha256)), ""));
        assert!(!verify(Some(&user("", Algorithm::Sha256)), "x"));
        // The hash of a blank password is one, and still refused.
        assert!(!verify(Some(&user(&hash("", &Algorithm::Sha256), Algorithm::Sha256)), ""));
        // A salt without a digest, and no Base64.
        assert!(!verify(Some(&user("AAAAAA==", Algorithm::Sha256)), "x"));
        assert!(!verify(Some(&user("$2a$04$", Algorithm::Sha256)), "x"));
    }

    #[test]
    fn a_user_with_an_unknown_algorithm_is_kept_and_refused() {
        let algorithm = Algorithm::from_name("rabbit_password_hashing_scrypt");
        assert_eq!(algorithm.name(), "rabbit_password_hashing_scrypt");
        let hash = hash("x", &Algorithm::Sha256);
        assert!(!verify(Some(&user(&hash, algorithm)), "x"));
    }

    #[test]
    fn neither_passwords_nor_hashes_are_shown() {
        let hash = hash("geheim", &Algorithm::Sha256);
        let shown = format!("{:?} {:?}", Secret::new("geheim"), user(&hash, Algorithm::Sha256));
        assert!(!shown.contains("geheim") && !shown.contains(&hash), "{shown}");
    }
}
