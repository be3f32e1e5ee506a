//! Users and what they may do, as the store keeps them.
//!
//! Whatever changes here counts at once: rights are shared with the connections that are open ([`Rights`]).

use super::Broker;
use crate::auth::{
    self, Algorithm, Granted, Patterns, Permission, Rights, TopicPermission, Unusable, User, UserLimits,
};
use crate::refusal::Refusal;
use crate::store::keys::{Definition, Kind};
use crate::store::{Change, Committed};
use crate::vhost::House;
use crate::vhost::events::HOUSE;
use crate::vhost::records::put;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub struct Users {
    /// For the store, and to tell of changes.
    house: Arc<House>,
    books: RwLock<Books>,
    /// Some user had a slow hash since the start: from then on every wrong password costs one.
    slow_hashes: AtomicBool,
}

/// Changed and noted for the store under one lock, so that they reach the disk in the order in which they were made.
#[derive(Debug, Default)]
struct Books {
    users: BTreeMap<String, Arc<User>>,
    /// By user and virtual host.
    grants: BTreeMap<(String, String), Grant>,
}

/// What a user was granted in a virtual host.
#[derive(Debug)]
struct Grant {
    permission: Option<Permission>,
    /// By exchange.
    topics: BTreeMap<String, Topic>,
    /// What connections hold.
    rights: Arc<Rights>,
}

#[derive(Debug, Clone)]
struct Topic {
    /// As written, with `{username}` and the like in them.
    write: String,
    read: String,
    permission: TopicPermission,
}

/// A row of permissions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionRow {
    pub user: String,
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// A row of topic permissions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPermissionRow {
    pub user: String,
    pub vhost: String,
    pub exchange: String,
    pub write: String,
    pub read: String,
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

impl Grant {
    fn new() -> Self {
        Self { permission: None, topics: BTreeMap::new(), rights: Rights::new(Granted::Nothing) }
    }

    /// Lets connections have what is granted now.
    fn apply(&self, user: Option<&User>) {
        self.rights.grant(match (user, &self.permission) {
            (Some(user), Some(permission)) => Granted::Patterns(Patterns {
                permission: permission.clone(),
                topics: self.topics.iter().map(|(name, topic)| (name.clone(), topic.permission.clone())).collect(),
                impersonator: user.has_tag("impersonator"),
            }),
            _ => Granted::Nothing,
        });
    }

    fn is_empty(&self) -> bool {
        self.permission.is_none() && self.topics.is_empty()
    }
}

impl Books {
    /// Changes what a user was granted in a virtual host.
    fn grant(&mut self, user: &str, vhost: &str, change: impl FnOnce(&mut Grant)) {
        let key = (user.to_owned(), vhost.to_owned());
        let grant = self.grants.entry(key).or_insert_with(Grant::new);
        change(grant);
        grant.apply(self.users.get(user).map(|user| &**user));
        if grant.is_empty() && Arc::strong_count(&grant.rights) == 1 {
            // Kept while a connection has it, so that what is granted anew counts there too.
            self.grants.remove(&(user.to_owned(), vhost.to_owned()));
        }
    }

    /// Takes away everything that was granted to some, and says what that was.
    fn revoke(&mut self, is_meant: impl Fn(&str, &str) -> bool) -> Vec<((String, String), Grant)> {
        let meant: Vec<_> = self.grants.keys().filter(|(user, vhost)| is_meant(user, vhost)).cloned().collect();
        let gone = meant.into_iter().filter_map(|key| self.grants.remove_entry(&key));
        let gone: Vec<_> = gone.collect();
        gone.iter().for_each(|(_, grant)| grant.rights.grant(Granted::Nothing));
        gone
    }
}

/// The deletions of everything that was granted.
fn deletions(gone: &[((String, String), Grant)]) -> Vec<Change> {
    let mut changes = Vec::new();
    for ((user, vhost), grant) in gone {
        if grant.permission.is_some() {
            changes.push(Change::Delete(permission_key(user, vhost)));
        }
        changes.extend(grant.topics.keys().map(|exchange| Change::Delete(topic_key(user, vhost, exchange))));
    }
    changes
}

fn user_key(name: &str) -> Definition {
    Definition::new(Kind::User, &[name.as_bytes()])
}

fn permission_key(user: &str, vhost: &str) -> Definition {
    Definition::new(Kind::Permission, &[user.as_bytes(), vhost.as_bytes()])
}

fn topic_key(user: &str, vhost: &str, exchange: &str) -> Definition {
    Definition::new(Kind::TopicPermission, &[user.as_bytes(), vhost.as_bytes(), exchange.as_bytes()])
}

impl Topic {
    fn of(row: &TopicPermissionRow) -> Result<Self, Unusable> {
        let permission = TopicPermission::new(&row.write, &row.read, &row.user, &row.vhost)?;
        Ok(Self { write: row.write.clone(), read: row.read.clone(), permission })
    }
}

impl Users {
    pub fn recover(house: &Arc<House>) -> Result<Self, String> {
        let store = &house.store;
        let mut books = Books::default();
        for record in super::read::<UserRecord>(store, Kind::User)? {
            let user = User {
                name: record.name.clone(),
                password_hash: record.password_hash,
                hashing_algorithm: Algorithm::from_name(&record.hashing_algorithm),
                tags: record.tags,
                limits: UserLimits { max_connections: record.max_connections, max_channels: record.max_channels },
            };
            books.users.insert(record.name, Arc::new(user));
        }
        for row in super::read::<PermissionRow>(store, Kind::Permission)? {
            let permission = Permission::new(&row.configure, &row.write, &row.read)
                .map_err(|error| format!("permission of '{}': {error}", row.user))?;
            books.grant(&row.user, &row.vhost, |grant| grant.permission = Some(permission));
        }
        for row in super::read::<TopicPermissionRow>(store, Kind::TopicPermission)? {
            let topic = Topic::of(&row).map_err(|error| format!("topic permission of '{}': {error}", row.user))?;
            books.grant(&row.user, &row.vhost, |grant| drop(grant.topics.insert(row.exchange.clone(), topic)));
        }
        let slow_hashes = books.users.values().any(|user| user.hashing_algorithm == Algorithm::Argon2id);
        Ok(Self { house: Arc::clone(house), books: RwLock::new(books), slow_hashes: slow_hashes.into() })
    }

    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.books.read().users.get(name).cloned()
    }

    pub(super) fn has_slow_hashes(&self) -> bool {
        self.slow_hashes.load(Ordering::Relaxed)
    }

    /// All users, by name.
    pub fn list(&self) -> Vec<Arc<User>> {
        self.books.read().users.values().cloned().collect()
    }

    /// What a user may do in a virtual host; `None`: not even enter.
    pub fn rights(&self, user: &str, vhost: &str) -> Option<Arc<Rights>> {
        let books = self.books.read();
        let grant = books.grants.get(&(user.to_owned(), vhost.to_owned()))?;
        grant.rights.may_enter().then(|| Arc::clone(&grant.rights))
    }

    /// All permissions, by user and virtual host.
    pub fn permissions(&self) -> Vec<PermissionRow> {
        let books = self.books.read();
        let rows = books.grants.iter().filter_map(|((user, vhost), grant)| {
            let [configure, write, read] = grant.permission.as_ref()?.patterns().map(str::to_owned);
            Some(PermissionRow { user: user.clone(), vhost: vhost.clone(), configure, write, read })
        });
        rows.collect()
    }

    /// All topic permissions, by user, virtual host and exchange.
    pub fn topic_permissions(&self) -> Vec<TopicPermissionRow> {
        let books = self.books.read();
        let mut rows = Vec::new();
        for ((user, vhost), grant) in &books.grants {
            rows.extend(grant.topics.iter().map(|(exchange, topic)| TopicPermissionRow {
                user: user.clone(),
                vhost: vhost.clone(),
                exchange: exchange.clone(),
                write: topic.write.clone(),
                read: topic.read.clone(),
            }));
        }
        rows
    }

    /// Adds a user or changes it, as `make` says from what it is now; `None` if that makes none.
    fn put(&self, name: &str, make: impl FnOnce(Option<&User>) -> Option<User>, by: &str) -> Option<Committed> {
        let mut books = self.books.write();
        let user = Arc::new(make(books.users.get(name).map(|user| &**user))?);
        let record = UserRecord {
            name: user.name.clone(),
            password_hash: user.password_hash.clone(),
            hashing_algorithm: user.hashing_algorithm.name().to_owned(),
            tags: user.tags.clone(),
            max_connections: user.limits.max_connections,
            max_channels: user.limits.max_channels,
        };
        if user.hashing_algorithm == Algorithm::Argon2id {
            self.slow_hashes.store(true, Ordering::Relaxed);
        }
        let replaced = books.users.insert(user.name.clone(), Arc::clone(&user));
        if replaced.as_ref().is_none_or(|old| old.tags != user.tags) {
            let of_user = books.grants.iter().filter(|((name, _), _)| *name == user.name);
            of_user.for_each(|(_, grant)| grant.apply(Some(&user)));
        }
        let committed = self.house.store.change(vec![put(user_key(&user.name), &record)]);
        drop(books);
        self.tell_put(replaced.as_deref(), &user, by);
        Some(committed)
    }

    fn tell_put(&self, replaced: Option<&User>, user: &User, by: &str) {
        let events = &self.house.events;
        match replaced {
            None => events.user_created(&user.name, by),
            Some(old) if old.password_hash == user.password_hash => {}
            Some(_) if user.password_hash.is_empty() => events.password_cleared(&user.name, by),
            Some(_) => events.password_changed(&user.name, by),
        }
        if replaced.map_or(!user.tags.is_empty(), |old| old.tags != user.tags) {
            events.tags_set(&user.name, &user.tags, by);
        }
        let limits = replaced.map(|old| old.limits).unwrap_or_default();
        if limits != user.limits {
            match user.limits == UserLimits::default() {
                true => events.user_limits_cleared(&user.name, by),
                false => events.user_limits_set(&user.name, user.limits, by),
            }
        }
    }
}

/// Users and rights are changed here and nowhere else. `by` is who does it. The answers are to be waited for: then it is
/// on disk.
impl Broker {
    /// The first user of an empty broker.
    pub(super) fn seed(&self) {
        let (config, algorithm) = (&self.config, self.config.password_hashing.clone());
        let user = User {
            name: config.default_user.clone(),
            password_hash: auth::hash(config.default_pass.expose(), &algorithm),
            hashing_algorithm: algorithm,
            tags: config.default_user_tags.clone(),
            limits: UserLimits::default(),
        };
        drop(self.put_user(user, HOUSE));
        let rights = &config.default_permissions;
        let row = PermissionRow {
            user: config.default_user.clone(),
            vhost: config.default_vhost.clone(),
            configure: rights.configure.clone(),
            write: rights.write.clone(),
            read: rights.read.clone(),
        };
        if let Err(refusal) = self.set_permission(row, HOUSE) {
            tracing::error!("the default user gets no permissions: {refusal}");
        }
    }

    /// Adds or replaces a user.
    pub fn put_user(&self, user: User, by: &str) -> Option<Committed> {
        let name = user.name.clone();
        self.users.put(&name, |_| Some(user), by)
    }

    /// Changes a user that is there.
    pub fn change_user(&self, name: &str, change: impl FnOnce(&mut User), by: &str) -> Result<Committed, Refusal> {
        let make = |user: Option<&User>| {
            let mut user = user?.clone();
            change(&mut user);
            Some(user)
        };
        self.users.put(name, make, by).ok_or_else(|| no_user(name))
    }

    /// Removes a user with all its rights, and closes its connections; `None` if it is not there.
    pub fn delete_user(&self, name: &str, by: &str) -> Option<Committed> {
        let committed = {
            let mut books = self.users.books.write();
            books.users.remove(name)?;
            let gone = books.revoke(|user, _| user == name);
            let mut changes = deletions(&gone);
            changes.push(Change::Delete(user_key(name)));
            self.house.store.change(changes)
        };
        self.house.events.user_deleted(name, by);
        tracing::info!("closing all connections of user '{name}', which is deleted");
        let reason = format!("user '{name}' is deleted");
        self.connections.each_open(|opened| *opened.user == *name, |connection| connection.close(&reason));
        Some(committed)
    }

    /// Grants rights in a virtual host. Refused if there is no such user or virtual host, or a pattern is none.
    pub fn set_permission(&self, row: PermissionRow, by: &str) -> Result<Committed, Refusal> {
        let permission = Permission::new(&row.configure, &row.write, &row.read).map_err(|why| unusable(&why))?;
        let committed = {
            let mut books = self.users.books.write();
            self.check_grantee(&books, &row.user, &row.vhost)?;
            books.grant(&row.user, &row.vhost, |grant| grant.permission = Some(permission));
            self.house.store.change(vec![put(permission_key(&row.user, &row.vhost), &row)])
        };
        let patterns = [&*row.configure, &*row.write, &*row.read];
        self.house.events.permission_created(&row.user, &row.vhost, patterns, by);
        self.rights_changed(&row.user, Some(&row.vhost));
        Ok(committed)
    }

    /// Takes a user's rights in a virtual host away; `None` if there were none.
    pub fn clear_permission(&self, user: &str, vhost: &str, by: &str) -> Option<Committed> {
        let committed = {
            let mut books = self.users.books.write();
            let grant = books.grants.get(&(user.to_owned(), vhost.to_owned()));
            grant.filter(|grant| grant.permission.is_some())?;
            books.grant(user, vhost, |grant| grant.permission = None);
            self.house.store.change(vec![Change::Delete(permission_key(user, vhost))])
        };
        self.house.events.permission_deleted(user, vhost, by);
        self.rights_changed(user, Some(vhost));
        Some(committed)
    }

    /// Limits a user's rights on a topic exchange to some keys.
    pub fn set_topic_permission(&self, row: TopicPermissionRow, by: &str) -> Result<Committed, Refusal> {
        let topic = Topic::of(&row).map_err(|why| unusable(&why))?;
        let committed = {
            let mut books = self.users.books.write();
            self.check_grantee(&books, &row.user, &row.vhost)?;
            books.grant(&row.user, &row.vhost, |grant| drop(grant.topics.insert(row.exchange.clone(), topic)));
            self.house.store.change(vec![put(topic_key(&row.user, &row.vhost, &row.exchange), &row)])
        };
        let patterns = [&*row.write, &*row.read];
        self.house.events.topic_permission_created(&row.user, &row.vhost, &row.exchange, patterns, by);
        self.rights_changed(&row.user, Some(&row.vhost));
        Ok(committed)
    }

    /// Lifts such limits, of one exchange or of all; `None` if there were none.
    pub fn clear_topic_permissions(
        &self,
        user: &str,
        vhost: &str,
        exchange: Option<&str>,
        by: &str,
    ) -> Option<Committed> {
        let committed = {
            let mut books = self.users.books.write();
            let grant = books.grants.get(&(user.to_owned(), vhost.to_owned()))?;
            let is_meant = |name: &str| exchange.is_none_or(|exchange| exchange == name);
            let meant: Vec<_> = grant.topics.keys().filter(|name| is_meant(name)).cloned().collect();
            if meant.is_empty() {
                return None;
            }
            books.grant(user, vhost, |grant| grant.topics.retain(|name, _| !is_meant(name)));
            let deleted = meant.iter().map(|exchange| Change::Delete(topic_key(user, vhost, exchange)));
            self.house.store.change(deleted.collect())
        };
        self.house.events.topic_permission_deleted(user, vhost, by);
        self.rights_changed(user, Some(vhost));
        Some(committed)
    }

    /// Takes away what everybody was granted in a virtual host that is gone. The changes are for the store.
    pub(super) fn revoke_in(&self, vhost: &str, by: &str) -> Vec<Change> {
        let gone = self.users.books.write().revoke(|_, of| of == vhost);
        for ((user, _), grant) in &gone {
            if grant.permission.is_some() {
                self.house.events.permission_deleted(user, vhost, by);
            }
            grant.topics.keys().for_each(|_| self.house.events.topic_permission_deleted(user, vhost, by));
        }
        deletions(&gone)
    }

    /// Called with the books' lock held: neither goes before the grant is there.
    fn check_grantee(&self, books: &Books, user: &str, vhost: &str) -> Result<(), Refusal> {
        if !books.users.contains_key(user) {
            return Err(no_user(user));
        }
        self.vhost(vhost).map(drop).ok_or_else(|| Refusal::not_found(format!("no such vhost '{vhost}'")))
    }

    /// Connections of a user (in a virtual host, or in any) look at their consumers again.
    fn rights_changed(&self, user: &str, vhost: Option<&str>) {
        let is_meant = |opened: &super::connections::Opened| {
            *opened.user == *user && vhost.is_none_or(|vhost| *opened.vhost.name == *vhost)
        };
        self.connections.each_open(is_meant, |connection| connection.rights_changed());
    }
}

fn no_user(name: &str) -> Refusal {
    Refusal::not_found(format!("no such user '{name}'"))
}

fn unusable(why: &Unusable) -> Refusal {
    Refusal::precondition(why.to_string())
}
