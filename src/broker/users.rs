//! Users and what they may do, as the store keeps them.

use crate::auth::{self, Algorithm, Login, Permission, User, UserLimits};
use crate::config::Config;
use crate::store::Change;
use crate::store::keys::{Definition, Kind};
use crate::vhost::House;
use crate::vhost::events::HOUSE;
use crate::vhost::records::put;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Debug)]
pub struct Users {
    /// For the store, and to tell of changes.
    house: Arc<House>,
    users: RwLock<FxHashMap<String, Arc<User>>>,
    /// By user and virtual host.
    permissions: RwLock<FxHashMap<(String, String), Arc<Permission>>>,
}

#[derive(Serialize, Deserialize)]
struct UserRecord {
    name: String,
    password_hash: String,
    hashing_algorithm: String,
    tags: Vec<String>,
    max_connections: Option<u32>,
    max_channels: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct PermissionRecord {
    user: String,
    vhost: String,
    configure: String,
    write: String,
    read: String,
}

/// Why nobody is logged in: for the log and the events, the client is told nothing of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Who it would have been, if the response says so.
    pub user: Option<String>,
    pub why: String,
}

impl Users {
    pub fn recover(house: &Arc<House>) -> Result<Self, String> {
        let store = &house.store;
        let users = Self { house: Arc::clone(house), users: RwLock::default(), permissions: RwLock::default() };
        for record in super::read::<UserRecord>(store, Kind::User)? {
            let user = User {
                name: record.name.clone(),
                password_hash: record.password_hash,
                hashing_algorithm: Algorithm::from_name(&record.hashing_algorithm),
                tags: record.tags,
                limits: UserLimits { max_connections: record.max_connections, max_channels: record.max_channels },
            };
            users.users.write().insert(record.name, Arc::new(user));
        }
        for record in super::read::<PermissionRecord>(store, Kind::Permission)? {
            let permission = Permission::new(&record.configure, &record.write, &record.read)
                .map_err(|error| format!("permission of '{}': {error}", record.user))?;
            users.permissions.write().insert((record.user, record.vhost), Arc::new(permission));
        }
        Ok(users)
    }

    /// The first user of an empty broker.
    pub fn seed(&self, config: &Config) {
        let algorithm = Algorithm::Sha256;
        let user = User {
            name: config.default_user.clone(),
            password_hash: auth::hash(config.default_pass.expose(), &algorithm),
            hashing_algorithm: algorithm,
            tags: config.default_user_tags.clone(),
            limits: UserLimits::default(),
        };
        let rights = &config.default_permissions;
        let mut changes = vec![self.put_user(user, HOUSE)];
        match Permission::new(&rights.configure, &rights.write, &rights.read) {
            Ok(permission) => {
                let rights = [&*rights.configure, &*rights.write, &*rights.read];
                let (user, vhost) = (&config.default_user, &config.default_vhost);
                changes.push(self.put_permission(user, vhost, permission, rights, HOUSE));
            }
            Err(error) => tracing::error!("the default user gets no permissions: {error}"),
        }
        drop(self.house.store.change(changes));
    }

    /// Adds or replaces a user; the change is for the store. `by`: who does it.
    pub fn put_user(&self, user: User, by: &str) -> Change {
        let record = UserRecord {
            name: user.name.clone(),
            password_hash: user.password_hash.clone(),
            hashing_algorithm: user.hashing_algorithm.name().to_owned(),
            tags: user.tags.clone(),
            max_connections: user.limits.max_connections,
            max_channels: user.limits.max_channels,
        };
        let replaced = self.users.write().insert(user.name.clone(), Arc::new(user));
        let events = &self.house.events;
        match replaced {
            Some(_) => events.password_changed(&record.name, by),
            None => events.user_created(&record.name, by),
        }
        if replaced.is_some() || !record.tags.is_empty() {
            events.tags_set(&record.name, &record.tags, by);
        }
        put(Definition::new(Kind::User, &[record.name.as_bytes()]), &record)
    }

    /// Adds or replaces a permission, given compiled and as its patterns (configure, write, read). `by`: who does it.
    pub fn put_permission(
        &self,
        user: &str,
        vhost: &str,
        permission: Permission,
        patterns: [&str; 3],
        by: &str,
    ) -> Change {
        self.permissions.write().insert((user.to_owned(), vhost.to_owned()), Arc::new(permission));
        self.house.events.permission_created(user, vhost, patterns, by);
        let [configure, write, read] = patterns.map(str::to_owned);
        let record = PermissionRecord { user: user.to_owned(), vhost: vhost.to_owned(), configure, write, read };
        put(Definition::new(Kind::Permission, &[user.as_bytes(), vhost.as_bytes()]), &record)
    }

    /// Who logs in, if the credentials are right and the user may come from there. Every refusal looks the same to the
    /// client.
    pub fn log_in(&self, login: &Login, peer: IpAddr, config: &Config) -> Result<Arc<User>, Refused> {
        let (name, password) = match login {
            Login::Password { user, password } => (user, password),
            Login::Anonymous => match &config.anonymous_login {
                Some((user, password)) => (user, password),
                None => return Err(Refused { user: None, why: "anonymous login is turned off".to_owned() }),
            },
            // Needs a certificate, and so TLS.
            Login::External => return Err(Refused { user: None, why: "connection not over TLS".to_owned() }),
        };
        let refused = |why: String| Err(Refused { user: Some(name.clone()), why });
        let user = self.users.read().get(name).cloned();
        let right = auth::verify(user.as_deref(), password.expose());
        let Some(user) = user.filter(|_| right) else {
            tracing::warn!("login of user '{name}' from {peer} refused: invalid credentials");
            return refused(format!("user '{name}' - invalid credentials"));
        };
        if config.loopback_users.contains(name) && !auth::is_loopback(peer) {
            tracing::warn!("login of user '{name}' from {peer} refused: it may only connect from this machine");
            return refused(format!("user '{name}' can only connect via localhost"));
        }
        Ok(user)
    }

    /// What a user may do in a virtual host; `None`: not even enter.
    pub fn permission(&self, user: &str, vhost: &str) -> Option<Arc<Permission>> {
        self.permissions.read().get(&(user.to_owned(), vhost.to_owned())).cloned()
    }

    /// Whether a password is this user's, for update-secret.
    pub fn check(&self, user: &str, password: &str) -> bool {
        let user = self.users.read().get(user).cloned();
        auth::verify(user.as_deref(), password)
    }
}
