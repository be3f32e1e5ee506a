use std::fmt;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::User;

/// Octets of salt in front of a digest.
const SALT_BYTES: usize = 4;
/// Octets of an argon2id's salt.
const ARGON2_SALT_BYTES: usize = 16;
/// What one argon2id costs: memory in KiB, passes over it, lanes (OWASP: "Password Storage Cheat Sheet").
const ARGON2_COST: (u32, u32, u32) = (19_456, 2, 1);
/// What a stored argon2id may cost at most; one that costs more can't be checked.
const ARGON2_COST_MAX: (u32, u32, u32) = (65_536, 8, 4);
/// A hash of no password, of the cost of those that are made here.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bGV2ZXJldC1kZWNveS4uLg$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

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
    /// Slow on purpose, and ours alone: RabbitMQ can't check it.
    Argon2id,
    /// One that nobody here can compute: the record is kept, and its user can't log in with a password.
    Unknown(String),
}

impl Algorithm {
    /// The algorithm with this name in definitions.
    pub fn from_name(name: &str) -> Self {
        match name {
            "rabbit_password_hashing_sha256" => Self::Sha256,
            "rabbit_password_hashing_sha512" => Self::Sha512,
            "rabbit_password_hashing_md5" => Self::Md5,
            "leveret_password_hashing_argon2id" => Self::Argon2id,
            _ => Self::Unknown(name.to_owned()),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
            Self::Md5 => "rabbit_password_hashing_md5",
            Self::Argon2id => "leveret_password_hashing_argon2id",
            Self::Unknown(name) => name,
        }
    }

    /// Whether this text can be a hash of this algorithm. An empty one stands for no password.
    pub fn takes(&self, hash: &str) -> bool {
        hash.is_empty()
            || match self {
                Self::Argon2id => Slow::of(hash).is_some(),
                Self::Unknown(_) => true,
                _ => BASE64.decode(hash).is_ok(),
            }
    }

    /// The digest of those that are quick.
    fn digest(&self, salt: &[u8], password: &str) -> Option<Vec<u8>> {
        Some(match self {
            Self::Sha256 => Sha256::new().chain_update(salt).chain_update(password).finalize().to_vec(),
            Self::Sha512 => Sha512::new().chain_update(salt).chain_update(password).finalize().to_vec(),
            Self::Md5 => Md5::new().chain_update(salt).chain_update(password).finalize().to_vec(),
            Self::Argon2id | Self::Unknown(_) => return None,
        })
    }
}

impl serde::Serialize for Algorithm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A password's hash, salted anew: as RabbitMQ writes it, Base64 of four octets of salt and the digest of salt and
/// password; or an argon2id's PHC string, which takes tens of milliseconds. Empty for an algorithm that is not known.
pub fn hash(password: &str, algorithm: &Algorithm) -> String {
    if *algorithm == Algorithm::Argon2id {
        return slow_hash(password);
    }
    let mut salted = random::<SALT_BYTES>().to_vec();
    match algorithm.digest(&salted, password) {
        Some(digest) => {
            salted.extend_from_slice(&digest);
            BASE64.encode(salted)
        }
        None => String::new(),
    }
}

fn slow_hash(password: &str) -> String {
    let (memory, passes, lanes) = ARGON2_COST;
    let params = Params::new(memory, passes, lanes, Some(Params::DEFAULT_OUTPUT_LEN)).expect("this is a cost");
    let salt = random::<ARGON2_SALT_BYTES>();
    let mut digest = [0; Params::DEFAULT_OUTPUT_LEN];
    Argon2::new(argon2::Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into(password.as_bytes(), &salt, &mut digest)
        .expect("passwords are shorter than 4 GiB");
    let hash = PasswordHash {
        algorithm: argon2::ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).expect("these are parameters"),
        salt: Some(Salt::new(&salt).expect("the salt has a usual length")),
        hash: Some(Output::new(&digest).expect("the digest has a usual length")),
    };
    hash.to_string()
}

fn random<const N: usize>() -> [u8; N] {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).expect("the operating system has random octets");
    octets
}

/// Whether this is the user's password, as far as a quick hash says so: those of RabbitMQ.
///
/// The same work is done for a user that doesn't exist, has no password or one that can't be checked so, and the
/// comparison takes as long whatever differs: an answer's time tells nobody which names exist. A blank password is
/// always refused.
pub fn verify(user: Option<&User>, password: &str) -> bool {
    let stored = user.and_then(|user| Quick::of(&user.password_hash, &user.hashing_algorithm));
    let (exists, stored) = match stored {
        Some(stored) => (true, stored),
        None => (false, Quick { salt: [0; SALT_BYTES], digest: vec![0; 32], algorithm: Algorithm::Sha256 }),
    };
    let Some(digest) = stored.algorithm.digest(&stored.salt, password) else { return false };
    let equal = bool::from(digest.ct_eq(&stored.digest));
    equal && exists && !password.is_empty()
}

/// Whether this is the user's password, as an argon2id says: tens of milliseconds and 19 MiB, for whichever user.
/// Those whose hash is another are refused after the same work. The memory may be used again.
pub fn verify_slowly(user: Option<&User>, password: &str, memory: &mut Memory) -> bool {
    let stored = user.filter(|user| user.hashing_algorithm == Algorithm::Argon2id);
    let stored = stored.and_then(|user| Slow::of(&user.password_hash));
    let (exists, stored) = match stored {
        Some(stored) => (true, stored),
        None => (false, Slow::of(DECOY).expect("the decoy is a hash")),
    };
    let equal = stored.matches(password, memory);
    equal && exists && !password.is_empty()
}

/// A quick hash in its parts.
struct Quick {
    salt: [u8; SALT_BYTES],
    digest: Vec<u8>,
    algorithm: Algorithm,
}

impl Quick {
    /// `None` if there is no hash, or none that can be checked.
    fn of(hash: &str, algorithm: &Algorithm) -> Option<Self> {
        let quick = matches!(algorithm, Algorithm::Sha256 | Algorithm::Sha512 | Algorithm::Md5);
        let octets = if quick { BASE64.decode(hash).ok()? } else { return None };
        let (salt, digest) = octets.split_first_chunk::<SALT_BYTES>()?;
        let stored = Self { salt: *salt, digest: digest.to_vec(), algorithm: algorithm.clone() };
        (!digest.is_empty()).then_some(stored)
    }
}

/// What a slow hash works in: 19 MiB, unless a stored one asks for more.
#[derive(Default)]
pub struct Memory(Vec<Block>);

impl Memory {
    fn blocks(&mut self, count: usize) -> &mut [Block] {
        self.0.resize(count.max(self.0.len()), Block::new());
        &mut self.0[..count]
    }
}

/// An argon2id in its parts.
struct Slow {
    salt: Salt,
    digest: Output,
    argon2: Argon2<'static>,
}

impl Slow {
    /// `None` if it is none, or costs more than it may.
    fn of(hash: &str) -> Option<Self> {
        let hash = PasswordHash::new(hash).ok()?;
        let params = Params::try_from(&hash).ok()?;
        let (memory, passes, lanes) = ARGON2_COST_MAX;
        let bounded = params.m_cost() <= memory && params.t_cost() <= passes && params.p_cost() <= lanes;
        let current = hash.algorithm == argon2::ARGON2ID_IDENT && hash.version == Some(Version::V0x13.into());
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, Version::V0x13, params);
        (bounded && current).then_some(Self { salt: hash.salt?, digest: hash.hash?, argon2 })
    }

    fn matches(&self, password: &str, memory: &mut Memory) -> bool {
        let mut digest = vec![0; self.digest.len()];
        let salt: &[u8] = self.salt.as_ref();
        let blocks = memory.blocks(self.argon2.params().block_count());
        let done = self.argon2.hash_password_into_with_memory(password.as_bytes(), salt, &mut digest, blocks);
        done.is_ok() && bool::from(digest.ct_eq(self.digest.as_bytes()))
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

    fn slowly(user: Option<&User>, password: &str) -> bool {
        verify_slowly(user, password, &mut Memory::default())
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
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Md5, Algorithm::Argon2id] {
            let is_slow = algorithm == Algorithm::Argon2id;
            let is = |user: &User, password| {
                let (quick, slow) = (verify(Some(user), password), slowly(Some(user), password));
                assert!(!(if is_slow { quick } else { slow }));
                quick || slow
            };
            let first = hash("pässword", &algorithm);
            assert_ne!(first, hash("pässword", &algorithm));
            let user = user(&first, algorithm.clone());
            assert!(is(&user, "pässword"));
            assert!(!is(&user, "password"));
            assert!(algorithm.takes(&first) && algorithm.takes(""));
            assert_eq!(Algorithm::from_name(algorithm.name()), algorithm);
        }
    }

    #[test]
    fn an_argon2id_of_another_maker_verifies() {
        // Made by argon2-cffi, and so by the reference implementation.
        let stored =
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$Y2bjJGfuQForcv6vcOu8Uc2uZ2P2gnZLTJF2sXvydKU";
        assert!(slowly(Some(&user(stored, Algorithm::Argon2id)), "pässword"));
        assert!(!slowly(Some(&user(stored, Algorithm::Argon2id)), "password"));
        assert!(hash("x", &Algorithm::Argon2id).starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    }

    #[test]
    fn nothing_logs_in_without_a_password_and_a_hash() {
        for verify in [verify, slowly] {
            assert!(!verify(None, "guest"));
            assert!(!verify(None, ""));
            for algorithm in [Algorithm::Sha256, Algorithm::Argon2id] {
                assert!(!verify(Some(&user("", algorithm.clone())), ""));
                assert!(!verify(Some(&user("", algorithm.clone())), "x"));
                // The hash of a blank password is one, and still refused.
                assert!(!verify(Some(&user(&hash("", &algorithm), algorithm)), ""));
            }
            // A salt without a digest, and no Base64; the decoy itself.
            assert!(!verify(Some(&user("AAAAAA==", Algorithm::Sha256)), "x"));
            assert!(!verify(Some(&user("$2a$04$", Algorithm::Sha256)), "x"));
            assert!(!verify(Some(&user(DECOY, Algorithm::Argon2id)), "x"));
        }
    }

    #[test]
    fn an_argon2id_may_not_cost_what_it_likes() {
        let with = |cost: &str| DECOY.replace("m=19456,t=2,p=1", cost);
        assert!(Algorithm::Argon2id.takes(&with("m=65536,t=8,p=4")));
        for cost in ["m=65537,t=2,p=1", "m=19456,t=9,p=1", "m=19456,t=2,p=5", "m=0,t=2,p=1"] {
            assert!(!Algorithm::Argon2id.takes(&with(cost)), "{cost}");
            assert!(!slowly(Some(&user(&with(cost), Algorithm::Argon2id)), "x"));
        }
        assert!(!Algorithm::Argon2id.takes(&DECOY.replace("argon2id", "argon2i")));
        assert!(!Algorithm::Argon2id.takes(&hash("x", &Algorithm::Sha256)));
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
