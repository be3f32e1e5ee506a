//! Who logs in: one way for every door.
//!
//! ```text
//! throttle ─▶ a quick hash ─▶ tokens ─▶ remembered? ─▶ a slow hash, on a thread of its own ─▶ from where?
//! ```
//!
//! Whatever a password is wrong for, the same work is done and the same is answered, at the same time: not before
//! `login_delay` has passed. Why it was refused is for the log and the events.

use super::Broker;
use super::hashing::{Hashing, Job};
use crate::auth::throttle::{Admission, Throttle};
use crate::auth::token::{self, Claims, Issuer, Scopes};
use crate::auth::{self, Algorithm, Granted, Login, Rights, Secret, User, UserLimits, certificate::Certificate};
use crate::config::{Backend, Config};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::hmac;
use rustc_hash::FxHashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long a password that a slow hash found right is known to be so.
const REMEMBERED_FOR: Duration = Duration::from_secs(30);
/// Random octets that nobody guesses.
const TOOLS_SECRET_BYTES: usize = 32;
/// Users whose password is remembered.
const REMEMBERED_MAX: usize = 1024;

/// As whom the command line of this machine comes, by RabbitMQ's name for it.
pub const TOOLS: &str = "rmq-cli";

/// Somebody who wants to log in.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    pub door: Door,
    pub login: &'a Login,
    pub peer: IpAddr,
    /// The client's certificate (DER), if TLS has verified one.
    pub certificate: Option<&'a [u8]>,
}

/// By which door somebody comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    Amqp,
    Http,
}

impl Door {
    pub const ALL: [Self; 2] = [Self::Http, Self::Amqp];

    /// RabbitMQ's name for what is spoken there.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Amqp => "amqp091",
            Self::Http => "http",
        }
    }
}

/// How often somebody has tried to log in.
#[derive(Debug, Default)]
pub struct Attempts {
    pub succeeded: AtomicU64,
    pub failed: AtomicU64,
}

/// Attempts by where they come from.
#[derive(Debug)]
struct Sources {
    max: usize,
    counts: FxHashMap<Source, Tried>,
}

/// Who tried it, as they call themselves, from where.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    pub address: IpAddr,
    pub user: String,
    pub door: Door,
}

/// How often.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tried {
    pub succeeded: u64,
    pub failed: u64,
}

/// Of a name that somebody claims to have, so much is kept.
const CLAIMED_LETTERS_MAX: usize = 255;

impl Sources {
    /// Whoever comes when the table is full is not counted.
    fn count(&mut self, address: IpAddr, user: &str, door: Door, succeeded: bool) {
        if self.max == 0 {
            return;
        }
        let source = Source { address, user: user.chars().take(CLAIMED_LETTERS_MAX).collect(), door };
        if self.counts.len() >= self.max && !self.counts.contains_key(&source) {
            return;
        }
        let tried = self.counts.entry(source).or_default();
        *if succeeded { &mut tried.succeeded } else { &mut tried.failed } += 1;
    }
}

/// Somebody who has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user: Arc<str>,
    pub tags: Vec<String>,
    /// What a token allows; without one, rights are what the user was granted.
    pub scopes: Option<Arc<Scopes>>,
    /// Until when the token counts, seconds since 1970.
    pub expires_s: Option<u64>,
}

/// Why nobody is logged in: for the log and the events, the client is told nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Who it would have been, if the response says so.
    pub user: Option<String>,
    pub why: String,
}

/// What is remembered of logins.
#[derive(Debug)]
pub struct Logins {
    started: Instant,
    throttle: Mutex<Throttle>,
    hashing: Hashing,
    /// Of this process alone, so that what is remembered is of no use to others.
    key: hmac::Key,
    /// What the tools say in the place of a password; nobody else knows it.
    tools: Secret,
    amqp: Attempts,
    http: Attempts,
    sources: Mutex<Sources>,
    /// By name.
    remembered: Mutex<FxHashMap<String, Remembered>>,
}

/// A user's right password.
#[derive(Debug)]
struct Remembered {
    /// As the user was when the password was right: with any change it is another.
    user: Arc<User>,
    tag: hmac::Tag,
    until: Instant,
}

impl Identity {
    fn of(user: &User) -> Self {
        Self { user: user.name.as_str().into(), tags: user.tags.clone(), scopes: None, expires_s: None }
    }

    /// An administrator who may do everything everywhere, and is no user.
    fn of_tools() -> Self {
        let scopes = ["tag:administrator", "configure:*/*/*", "write:*/*/*", "read:*/*/*"];
        let scopes = Scopes::of(scopes, |_| None);
        Self { user: TOOLS.into(), tags: scopes.tags().to_vec(), scopes: Some(Arc::new(scopes)), expires_s: None }
    }

    fn of_token(claims: Claims) -> Self {
        Self {
            user: claims.user.into(),
            tags: claims.scopes.tags().to_vec(),
            scopes: Some(Arc::new(claims.scopes)),
            expires_s: claims.expires_s,
        }
    }

    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }

    /// What a token allows in a virtual host.
    pub fn scopes_in(&self, vhost: &str) -> Option<Granted> {
        let scopes = Arc::clone(self.scopes.as_ref()?);
        let impersonator = self.has_tag("impersonator");
        Some(Granted::Scopes { scopes, vhost: vhost.into(), impersonator })
    }
}

impl Logins {
    pub fn new(config: &Config) -> Self {
        let random = ring::rand::SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random);
        let tools: [u8; TOOLS_SECRET_BYTES] =
            ring::rand::generate(&random).expect("the operating system has random octets").expose();
        Self {
            started: Instant::now(),
            throttle: Mutex::new(Throttle::new(config.login_failures_max, config.login_refusal)),
            hashing: Hashing::new(),
            key: key.expect("the operating system has random octets"),
            tools: Secret::new(URL_SAFE_NO_PAD.encode(tools)),
            amqp: Attempts::default(),
            http: Attempts::default(),
            sources: Mutex::new(Sources { max: config.statistics.login_sources_max, counts: FxHashMap::default() }),
            remembered: Mutex::default(),
        }
    }

    fn attempts(&self, door: Door) -> &Attempts {
        match door {
            Door::Amqp => &self.amqp,
            Door::Http => &self.http,
        }
    }

    fn now_s(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn admit(&self, peer: IpAddr, user: &str) -> Admission {
        self.throttle.lock().admit(self.now_s(), peer, user)
    }

    /// Whether this was the user's password a moment ago, and the user has not changed since.
    fn remembers(&self, user: &Arc<User>, password: &Secret) -> bool {
        let remembered = self.remembered.lock();
        remembered.get(&user.name).is_some_and(|known| {
            Arc::ptr_eq(&known.user, user)
                && Instant::now() < known.until
                && hmac::verify(&self.key, password.expose().as_bytes(), known.tag.as_ref()).is_ok()
        })
    }

    /// Whether somebody is a tool of this machine. The texts are compared by their codes, which tells nothing by its time.
    fn is_tool(&self, attempt: &Attempt<'_>) -> bool {
        let Login::Password { user, password } = attempt.login else { return false };
        attempt.door == Door::Http && user == TOOLS && auth::is_loopback(attempt.peer) && {
            let code = hmac::sign(&self.key, self.tools.expose().as_bytes());
            hmac::verify(&self.key, password.expose().as_bytes(), code.as_ref()).is_ok()
        }
    }

    fn remember(&self, user: &Arc<User>, password: &Secret) {
        let now = Instant::now();
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX && !remembered.contains_key(&user.name) {
            remembered.retain(|_, known| now < known.until);
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
        }
        let tag = hmac::sign(&self.key, password.expose().as_bytes());
        remembered.insert(user.name.clone(), Remembered { user: Arc::clone(user), tag, until: now + REMEMBERED_FOR });
    }
}

impl Broker {
    /// Who that is. A refusal takes as long whatever its reason, and is logged.
    pub async fn log_in(&self, attempt: Attempt<'_>) -> Result<Identity, Refused> {
        let answer_at = Instant::now() + self.config.login_delay;
        let identity = self.identify(attempt).await;
        let attempts = self.login_attempts(attempt.door);
        let counted = if identity.is_ok() { &attempts.succeeded } else { &attempts.failed };
        counted.fetch_add(1, Ordering::Relaxed);
        let user = match &identity {
            Ok(identity) => &*identity.user,
            Err(refused) => refused.user.as_deref().unwrap_or_default(),
        };
        let address = attempt.peer.to_canonical();
        self.logins.sources.lock().count(address, user, attempt.door, identity.is_ok());
        if let Err(Refused { why, .. }) = &identity {
            tracing::warn!("login from {} refused: {why}", attempt.peer);
            tokio::time::sleep_until(answer_at).await;
        }
        identity
    }

    /// How often it was tried by a door.
    pub fn login_attempts(&self, door: Door) -> &Attempts {
        self.logins.attempts(door)
    }

    /// The same by where they came from, as far as that is counted.
    pub fn login_sources(&self) -> Vec<(Source, Tried)> {
        let mut all: Vec<_> =
            self.logins.sources.lock().counts.iter().map(|(key, count)| (key.clone(), *count)).collect();
        all.sort_by(|(one, _), (other, _)| (one.address, &one.user).cmp(&(other.address, &other.user)));
        all
    }

    /// Counts them anew.
    pub fn forget_login_attempts(&self) {
        for door in Door::ALL {
            let attempts = self.login_attempts(door);
            attempts.succeeded.store(0, Ordering::Relaxed);
            attempts.failed.store(0, Ordering::Relaxed);
        }
        self.logins.sources.lock().counts.clear();
    }

    /// What the tools of this machine say in the place of a password.
    pub fn tools_secret(&self) -> &Secret {
        &self.logins.tools
    }

    async fn identify(&self, attempt: Attempt<'_>) -> Result<Identity, Refused> {
        if self.logins.is_tool(&attempt) {
            return Ok(Identity::of_tools());
        }
        let identity = match attempt.login {
            Login::Password { user, password } => self.by_password(user, password, attempt.peer).await?,
            Login::Anonymous => match &self.config.anonymous_login {
                Some((user, password)) => self.by_password(user, password, attempt.peer).await?,
                None => return Err(refused(None, "anonymous login is turned off")),
            },
            Login::External => self.by_certificate(attempt.certificate)?,
        };
        let name = &*identity.user;
        if self.config.loopback_users.iter().any(|user| user == name) && !auth::is_loopback(attempt.peer) {
            return Err(refused(Some(name), &format!("user '{name}' can only connect via localhost")));
        }
        Ok(identity)
    }

    fn by_certificate(&self, certificate: Option<&[u8]>) -> Result<Identity, Refused> {
        let Some(certificate) = certificate else {
            return Err(refused(None, "connection peer presented no TLS (x.509) certificate"));
        };
        let name = Certificate::read(certificate).and_then(|it| it.user(self.config.certificate_login));
        let name = name.ok_or_else(|| refused(None, "no name found"))?;
        let user = self.users.get(&name).filter(|_| self.config.auth_backends.contains(&Backend::Internal));
        let user = user.ok_or_else(|| refused(Some(&name), &format!("user '{name}' - invalid credentials")))?;
        Ok(Identity::of(&user))
    }

    async fn by_password(&self, name: &str, password: &Secret, peer: IpAddr) -> Result<Identity, Refused> {
        let too_many = || refused(Some(name), &format!("user '{name}' - too many failed logins from there"));
        match self.logins.admit(peer, name) {
            Admission::Now => {}
            Admission::Later(delay) => tokio::time::sleep(delay).await,
            Admission::Refused => return Err(too_many()),
        }
        let internal = self.config.auth_backends.contains(&Backend::Internal);
        let user = if internal { self.users.get(name) } else { None };
        if auth::verify(user.as_deref(), password.expose())
            && let Some(user) = &user
        {
            return Ok(Identity::of(user));
        }
        // No password looks like a token, and nobody guesses those: no slow hash is spent on it, and it is not counted.
        let mut issuers = self.issuers().peekable();
        if issuers.peek().is_some() && token::is_one(password.expose()) {
            let mut why = "";
            for issuer in issuers {
                match issuer.verify(password.expose(), self.now_ms() / 1000) {
                    Ok(claims) => return Ok(Identity::of_token(claims)),
                    Err(token::Refused(reason)) => why = reason,
                }
            }
            let why = format!("user '{name}' - Authentication using an OAuth 2/JWT token failed: {why}");
            return Err(refused(Some(name), &why));
        }
        if internal && self.hashes_slowly() {
            if let Some(user) = &user
                && self.logins.remembers(user, password)
            {
                return Ok(Identity::of(user));
            }
            let Some(turn) = self.logins.hashing.turn().await else {
                // Not the client's fault: it is not counted as a guess.
                return Err(refused(Some(name), &format!("user '{name}' - too many passwords are being checked")));
            };
            // As many as failed meanwhile count for this one too.
            if self.logins.admit(peer, name) == Admission::Refused {
                return Err(too_many());
            }
            let job = Job::Verify { user: user.clone(), password: password.clone() };
            if self.logins.hashing.run(turn, job).await.is_some_and(|answer| answer.is_right())
                && let Some(user) = &user
            {
                self.logins.remember(user, password);
                return Ok(Identity::of(user));
            }
        }
        self.logins.throttle.lock().failed(self.logins.now_s(), peer, name);
        Err(refused(Some(name), &format!("user '{name}' - invalid credentials")))
    }

    /// Who is believed to issue tokens.
    fn issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.config.auth_backends.iter().filter_map(|backend| match backend {
            Backend::Tokens(issuer) => Some(&**issuer),
            Backend::Internal => None,
        })
    }

    /// Whether wrong passwords cost a slow hash: if any user's might.
    fn hashes_slowly(&self) -> bool {
        self.config.password_hashing == Algorithm::Argon2id || self.users.has_slow_hashes()
    }

    /// Hashes a password as the settings say, without keeping others from their turn; `None` if too many wait.
    pub async fn hash_password(&self, password: &Secret) -> Option<String> {
        if self.config.password_hashing != Algorithm::Argon2id {
            return Some(auth::hash(password.expose(), &self.config.password_hashing));
        }
        let turn = self.logins.hashing.turn().await?;
        self.logins.hashing.run(turn, Job::Hash { password: password.clone() }).await?.into_hash()
    }

    /// A new token in the place of the one that somebody has logged in with: only for the same user.
    pub fn renew(&self, identity: &Identity, secret: &str) -> Result<Identity, Refused> {
        let refused = |why: &str| Err(refused(Some(&identity.user), why));
        let Some(issuer) = self.issuers().next() else { return refused("no backend takes tokens") };
        match issuer.verify(secret, self.now_ms() / 1000) {
            Ok(claims) if *claims.user == *identity.user => Ok(Identity::of_token(claims)),
            Ok(_) => refused("Not allowed to change username on refreshed token"),
            Err(token::Refused(why)) => refused(&format!("Authentication using an OAuth 2/JWT token failed: {why}")),
        }
    }

    /// What somebody may do in a virtual host, as long as the connection lasts; `None`: not even enter.
    pub fn rights(&self, identity: &Identity, vhost: &str) -> Option<Arc<Rights>> {
        match identity.scopes_in(vhost) {
            Some(granted) => Some(Rights::new(granted)).filter(|rights| rights.may_enter()),
            None => self.users.rights(&identity.user, vhost),
        }
    }

    /// What somebody may have at most.
    pub(super) fn limits_of(&self, user: &str) -> UserLimits {
        self.users.get(user).map(|user| user.limits).unwrap_or_default()
    }
}

fn refused(user: Option<&str>, why: &str) -> Refused {
    Refused { user: user.map(str::to_owned), why: why.to_owned() }
}
