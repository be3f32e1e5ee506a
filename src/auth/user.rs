use std::fmt;

use serde::Serialize;

use super::Algorithm;

/// Someone who may log in. Serialised as in RabbitMQ's definitions.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct User {
    pub name: String,
    /// As in RabbitMQ's definitions; empty for a user who can't log in with a password.
    pub password_hash: String,
    pub hashing_algorithm: Algorithm,
    pub tags: Vec<String>,
    pub limits: UserLimits,
}

/// What a user may have at most; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_channels: Option<u32>,
}

impl User {
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("User")
            .field("name", &self.name)
            .field("hashing_algorithm", &self.hashing_algorithm)
            .field("tags", &self.tags)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
