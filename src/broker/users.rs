//! Users and what they may do, as the store keeps them.

use crate::auth::{self, Algorithm, Login, Permission, User, UserLimits};
use crate::config::Config;
use crate::store::keys::{Definition, Kind};
use crate::store::{Change, Store};
use crate::vhost::records::put;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Debug, Default)]
pub struct Users {
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

impl Users {
    pub fn recover(store: &Store) -> Result<Self, String> {
        let users = Self::default();
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
    pub fn seed(&self, config: &Config, store: &Store) {
        let algorithm = Algorithm::Sha256;
        let user = User {
            name: config.default_user.clone(),
            password_hash: auth::hash(config.default_pass.expose(), &algorithm),
            hashing_algorithm: algorithm,
            tags: config.default_user_tags.clone(),
            limits: UserLimits::default(),
        };
        let rights = &config.default_permissions;
        let mut changes = vec![self.put_user(user)];
        match Permission::new(&rights.configure, &rights.write, &rights.read) {
            Ok(permission) => {
                let rights = [&*rights.configure, &*rights.write, &*rights.read];
                changes.push(self.put_permission(&config.default_user, &config.default_vhost, permission, rights));
            }
            Err(error) => tracing::error!("the default user gets no permissions: {error}"),
        }
        drop(store.change(changes));
    }

    /// Adds or replaces a user; the change is for the store.
    pub fn put_user(&self, user: User) -> Change {
        let record = UserRecord {
            name: user.name.clone(),
            password_hash: user.password_hash.clone(),
            hashing_algorithm: user.hashing_algorithm.name().to_owned(),
            tags: user.tags.clone(),
            max_connections: user.limits.max_connections,
            max_channels: user.limits.max_channels,
        };
        self.users.write().insert(user.name.clone(), Arc::new(user));
        put(Definition::new(Kind::User, &[record.name.as_bytes()]), &record)
    }

    /// Adds or replaces a permission, given compiled and as its patterns (configure, write, read).
    pub fn put_permission(&self, user: &str, vhost: &str, permission: Permission, patterns: [&str; 3]) -> Change {
        self.permissions.write().insert((user.to_owned(), vhost.to_owned()), Arc::new(permission));
        let [configure, write, read] = patterns.map(str::to_owned);
        let record = PermissionRecord { user: user.to_owned(), vhost: vhost.to_owned(), configure, write, read };
        put(Definition::new(Kind::Permission, &[user.as_bytes(), vhost.as_bytes()]), &record)
    }

    /// Who logs in, if the credentials are right and the user may come from there. Every refusal looks the same.
    pub fn log_in(&self, login: &Login, peer: IpAddr, config: &Config) -> Option<Arc<User>> {
        let (name, password) = match login {
            Login::Password { user, password } => (user, password),
            Login::Anonymous => {
                let (user, password) = config.anonymous_login.as_ref()?;
                (user, password)
            }
            // Needs a certificate, and so TLS.
            Login::External => return None,
        };
        let user = self.users.read().get(name).cloned();
        if !auth::verify(user.as_deref(), password.expose()) {
            tracing::warn!("login of user '{name}' from {peer} refused: invalid credentials");
            return None;
        }
        if config.loopback_users.contains(name) && !auth::is_loopback(peer) {
            tracing::warn!("login of user '{name}' from {peer} refused: it may only connect from this machine");
            return None;
        }
        user
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
