use super::pattern::{Pattern, Unusable};

/// What the default exchange is called where permissions are checked.
pub const DEFAULT_EXCHANGE: &str = "amq.default";

/// What somebody wants to do with an exchange or a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Declare or delete it.
    Configure,
    /// Publish to it, or bind it to something.
    Write,
    /// Consume, get or purge, or bind something to it.
    Read,
}

impl Access {
    /// As RabbitMQ's refusals say it: `configure access to queue …`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// A user's rights in a virtual host, as patterns over names. Without one the user may not enter it at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    pub configure: Pattern,
    pub write: Pattern,
    pub read: Pattern,
}

impl Permission {
    pub fn new(configure: &str, write: &str, read: &str) -> Result<Self, Unusable> {
        Ok(Self { configure: Pattern::new(configure)?, write: Pattern::new(write)?, read: Pattern::new(read)? })
    }

    /// The patterns as they were written: configure, write, read.
    pub fn patterns(&self) -> [&str; 3] {
        [&self.configure, &self.write, &self.read].map(Pattern::as_str)
    }

    /// Whether the exchange or queue of this name may be used so. The default exchange's is [`DEFAULT_EXCHANGE`].
    pub fn allows(&self, access: Access, name: &str) -> bool {
        match access {
            Access::Configure => &self.configure,
            Access::Write => &self.write,
            Access::Read => &self.read,
        }
        .matches(name)
    }
}

/// A user's rights on a topic exchange, as patterns over routing keys. Without one every key is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPermission {
    write: Pattern,
    read: Pattern,
}

impl TopicPermission {
    /// `{username}` and `{vhost}` in the patterns stand for those names, letter by letter. `{client_id}` is MQTT's and
    /// stays.
    pub fn new(write: &str, read: &str, user: &str, vhost: &str) -> Result<Self, Unusable> {
        let fill = |pattern: &str| {
            let pattern = pattern.replace("{username}", &regex::escape(user));
            Pattern::new(&pattern.replace("{vhost}", &regex::escape(vhost)).replace("{client_id}", "\\{client_id\\}"))
        };
        Ok(Self { write: fill(write)?, read: fill(read)? })
    }

    /// Whether messages may be written or read with this routing key. Nothing is configured by a key.
    pub fn allows(&self, access: Access, routing_key: &str) -> bool {
        match access {
            Access::Configure => true,
            Access::Write => self.write.matches(routing_key),
            Access::Read => self.read.matches(routing_key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_access_has_its_own_pattern() {
        let permission = Permission::new("^own-", "^(own-|amq\\.default$)", ".*").unwrap();
        assert!(permission.allows(Access::Configure, "own-q"));
        assert!(!permission.allows(Access::Configure, DEFAULT_EXCHANGE));
        assert!(permission.allows(Access::Write, DEFAULT_EXCHANGE));
        assert!(!permission.allows(Access::Write, "other"));
        assert!(permission.allows(Access::Read, "other"));
        assert!(!Permission::new("", "", "").unwrap().allows(Access::Read, "other"));
    }

    #[test]
    fn names_in_topic_patterns_are_taken_letter_by_letter() {
        let permission = TopicPermission::new("^{username}\\.", "^{vhost}-{username}$", "a.*[b-z]", "v+").unwrap();
        assert!(permission.allows(Access::Write, "a.*[b-z].x"));
        assert!(!permission.allows(Access::Write, "axxc.x"));
        assert!(permission.allows(Access::Read, "v+-a.*[b-z]"));
        assert!(!permission.allows(Access::Read, "vv-a.*[b-z]"));
        assert!(TopicPermission::new("{client_id}", "", "u", "v").unwrap().allows(Access::Write, "x{client_id}"));
    }

    #[test]
    fn a_name_between_braces_is_not_filled_in_twice() {
        let permission = TopicPermission::new("^{username}$", "", "{vhost}", "secret").unwrap();
        assert!(permission.allows(Access::Write, "{vhost}"));
        assert!(!permission.allows(Access::Write, "secret"));
    }
}
