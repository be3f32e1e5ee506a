//! What a user may do in one virtual host, at this moment.

use super::token::Scopes;
use super::{Access, Permission, TopicPermission};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The rights of a user in a virtual host. All connections of both share one value, which is changed in place: what was
/// taken away is refused from then on, on connections that are open already too.
#[derive(Debug)]
pub struct Rights {
    granted: ArcSwap<Granted>,
    version: AtomicU64,
}

/// What is granted.
#[derive(Debug, Default)]
pub enum Granted {
    /// Not even to enter.
    #[default]
    Nothing,
    /// Everything: the broker's own.
    Everything,
    Patterns(Patterns),
    /// What a token allows in this virtual host. Its connection has rights of its own.
    Scopes {
        scopes: Arc<Scopes>,
        vhost: Arc<str>,
        impersonator: bool,
    },
}

/// Rights as RabbitMQ's permissions have them.
#[derive(Debug)]
pub struct Patterns {
    pub permission: Permission,
    /// By topic exchange; an exchange without entry takes every key.
    pub topics: BTreeMap<String, TopicPermission>,
    /// May set the property `user-id` to another's name (RabbitMQ: "Validated User ID").
    pub impersonator: bool,
}

impl Rights {
    pub fn new(granted: Granted) -> Arc<Self> {
        Arc::new(Self { granted: ArcSwap::from_pointee(granted), version: AtomicU64::new(0) })
    }

    /// From now on, these count.
    pub fn grant(&self, granted: Granted) {
        self.granted.store(Arc::new(granted));
        // After the change: whoever sees the new number sees the new rights.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Moves with every change. What was allowed at one version is allowed while it stays.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether the user may be in the virtual host at all.
    pub fn may_enter(&self) -> bool {
        match &**self.granted.load() {
            Granted::Nothing => false,
            Granted::Everything | Granted::Patterns(_) => true,
            Granted::Scopes { scopes, vhost, .. } => scopes.may_enter(vhost),
        }
    }

    /// Whether the exchange or queue of this name may be used so. The default exchange's is
    /// [`super::DEFAULT_EXCHANGE`].
    pub fn allows(&self, access: Access, name: &str) -> bool {
        match &**self.granted.load() {
            Granted::Nothing => false,
            Granted::Everything => true,
            Granted::Patterns(patterns) => patterns.permission.allows(access, name),
            Granted::Scopes { scopes, vhost, .. } => scopes.allows(access, vhost, name),
        }
    }

    /// Whether some keys of this topic exchange may be forbidden: if not, [`Rights::allows_topic`] need not be asked.
    pub fn limits_topics(&self, exchange: &str) -> bool {
        match &**self.granted.load() {
            Granted::Nothing | Granted::Scopes { .. } => true,
            Granted::Everything => false,
            Granted::Patterns(patterns) => patterns.topics.contains_key(exchange),
        }
    }

    /// Whether messages may be written to or read from a topic exchange with this key.
    pub fn allows_topic(&self, access: Access, exchange: &str, key: &str) -> bool {
        match &**self.granted.load() {
            Granted::Nothing => false,
            Granted::Everything => true,
            Granted::Patterns(patterns) => {
                patterns.topics.get(exchange).is_none_or(|permission| permission.allows(access, key))
            }
            Granted::Scopes { scopes, vhost, .. } => scopes.allows_topic(access, vhost, exchange, key),
        }
    }

    /// Whether the property `user-id` may name another.
    pub fn impersonator(&self) -> bool {
        match &**self.granted.load() {
            Granted::Nothing => false,
            Granted::Everything => true,
            Granted::Patterns(patterns) => patterns.impersonator,
            Granted::Scopes { impersonator, .. } => *impersonator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(configure: &str, topics: &[(&str, &str)]) -> Granted {
        let topic = |write: &str| TopicPermission::new(write, "", "u", "/").unwrap();
        Granted::Patterns(Patterns {
            permission: Permission::new(configure, "", "").unwrap(),
            topics: topics.iter().map(|(exchange, write)| ((*exchange).to_owned(), topic(write))).collect(),
            impersonator: false,
        })
    }

    #[test]
    fn a_grant_counts_at_once_for_everybody_who_holds_the_rights() {
        let rights = Rights::new(patterns("^q", &[]));
        let held = Arc::clone(&rights);
        let version = held.version();
        assert!(held.allows(Access::Configure, "q") && held.may_enter());
        rights.grant(Granted::Nothing);
        assert!(!held.allows(Access::Configure, "q") && !held.may_enter());
        assert_ne!(held.version(), version);
    }

    #[test]
    fn topics_are_limited_only_where_somebody_said_so() {
        let rights = Rights::new(patterns(".*", &[("x", "^ok")]));
        assert!(rights.limits_topics("x") && !rights.limits_topics("y"));
        assert!(rights.allows_topic(Access::Write, "x", "ok.1") && !rights.allows_topic(Access::Write, "x", "no"));
        assert!(rights.allows_topic(Access::Write, "y", "no"));
        assert!(!Rights::new(Granted::Nothing).allows_topic(Access::Write, "y", "ok"));
    }
}
