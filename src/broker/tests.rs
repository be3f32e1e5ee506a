use super::users::{PermissionRow, TopicPermissionRow};
use super::*;
use crate::amqp::Table;
use crate::auth::{Access, Algorithm, User, UserLimits, hash};
use crate::config::Sources;
use crate::exchange::{Binding, Destination};
use crate::refusal::Reason;
use crate::vhost::Actor;
use crate::vhost::declare::{ExchangeWish, QueueWish};
use serde_json::json;
use tempfile::TempDir;

/// A broker in this folder, with the default virtual host and user where that is empty.
fn broker(folder: &TempDir, flags: &[(&str, &str)]) -> Arc<Broker> {
    let mut sources = Sources::default();
    sources.flags.push(("data_dir".to_owned(), vec![folder.path().to_str().unwrap().to_owned()]));
    sources.flags.extend(flags.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])));
    let (config, _) = Config::load(&sources).unwrap();
    Broker::open(Arc::new(config)).unwrap()
}

fn user(name: &str) -> User {
    User {
        name: name.to_owned(),
        password_hash: hash(name, &Algorithm::Sha256),
        hashing_algorithm: Algorithm::Sha256,
        tags: Vec::new(),
        limits: UserLimits::default(),
    }
}

fn permission(user: &str, vhost: &str, pattern: &str) -> PermissionRow {
    let [configure, write, read] = [pattern; 3].map(str::to_owned);
    PermissionRow { user: user.to_owned(), vhost: vhost.to_owned(), configure, write, read }
}

fn topic(user: &str, exchange: &str, write: &str) -> TopicPermissionRow {
    TopicPermissionRow {
        user: user.to_owned(),
        vhost: "/".to_owned(),
        exchange: exchange.to_owned(),
        write: write.to_owned(),
        read: ".*".to_owned(),
    }
}

#[test]
fn rights_change_for_whoever_holds_them_and_survive_a_restart() {
    let folder = TempDir::new().unwrap();
    let opened = broker(&folder, &[]);
    opened.put_user(user("u"), "guest").unwrap();
    assert!(opened.users.rights("u", "/").is_none());
    opened.set_permission(permission("u", "/", "^q"), "guest").unwrap();
    let held = opened.users.rights("u", "/").unwrap();
    assert!(held.allows(Access::Read, "q1") && !held.allows(Access::Read, "other"));
    opened.set_permission(permission("u", "/", "^other"), "guest").unwrap();
    assert!(!held.allows(Access::Read, "q1") && held.allows(Access::Read, "other"));
    opened.set_topic_permission(topic("u", "x", "^ok"), "guest").unwrap();
    opened.set_topic_permission(topic("u", "y", "^ok"), "guest").unwrap();
    assert!(!held.allows_topic(Access::Write, "x", "no") && held.allows_topic(Access::Write, "z", "no"));
    opened.clear_topic_permissions("u", "/", Some("x"), "guest").unwrap();
    assert!(held.allows_topic(Access::Write, "x", "no"));
    assert!(opened.clear_topic_permissions("u", "/", Some("x"), "guest").is_none());
    opened.clear_permission("u", "/", "guest").unwrap();
    assert!(!held.may_enter() && opened.users.rights("u", "/").is_none());
    assert!(opened.clear_permission("u", "/", "guest").is_none());
    // What is granted anew counts where the old rights were held.
    opened.set_permission(permission("u", "/", ".*"), "guest").unwrap();
    assert!(held.may_enter() && !held.impersonator());
    opened.change_user("u", |user| user.tags.push("impersonator".to_owned()), "guest").unwrap();
    assert!(held.impersonator());
    let rows = (opened.users.permissions(), opened.users.topic_permissions());
    opened.close();
    drop(opened);
    let again = broker(&folder, &[]);
    assert_eq!((again.users.permissions(), again.users.topic_permissions()), rows);
    assert_eq!(rows.1, [topic("u", "y", "^ok")]);
    assert!(again.users.rights("u", "/").unwrap().impersonator());
}

#[test]
fn nothing_is_granted_to_nobody_or_nowhere_or_by_no_pattern() {
    let folder = TempDir::new().unwrap();
    let broker = broker(&folder, &[]);
    for row in [permission("nobody", "/", ".*"), permission("guest", "nowhere", ".*")] {
        assert_eq!(broker.set_permission(row, "guest").unwrap_err().reason, Reason::NotFound);
    }
    assert_eq!(broker.set_permission(permission("guest", "/", "("), "guest").unwrap_err().reason, Reason::Precondition);
    assert_eq!(broker.set_topic_permission(topic("nobody", "x", ""), "guest").unwrap_err().reason, Reason::NotFound);
    assert!(broker.change_user("nobody", |_| {}, "guest").is_err());
    assert!(broker.delete_user("nobody", "guest").is_none());
}

#[test]
fn a_deleted_user_has_no_rights_left_not_even_under_the_same_name() {
    let folder = TempDir::new().unwrap();
    let opened = broker(&folder, &[]);
    opened.put_user(user("u"), "guest").unwrap();
    opened.set_permission(permission("u", "/", ".*"), "guest").unwrap();
    opened.set_topic_permission(topic("u", "x", "^ok"), "guest").unwrap();
    let held = opened.users.rights("u", "/").unwrap();
    opened.delete_user("u", "guest").unwrap();
    assert!(!held.may_enter());
    opened.put_user(user("u"), "guest").unwrap();
    assert!(opened.users.rights("u", "/").is_none());
    opened.close();
    drop(opened);
    let again = broker(&folder, &[]);
    assert!(again.users.get("u").is_some());
    assert_eq!(again.users.permissions(), [permission("guest", "/", ".*")]);
    assert_eq!(again.users.topic_permissions(), []);
}

#[test]
fn a_virtual_host_is_on_disk_if_it_is_there_whoever_was_faster() {
    let folder = TempDir::new().unwrap();
    let broker = broker(&folder, &[]);
    let put = || drop(broker.put_vhost("v", Metadata::default(), "guest"));
    let delete = || drop(broker.delete_vhost("v", "guest"));
    for round in 0..1000 {
        std::thread::scope(|scope| {
            scope.spawn(|| (put(), delete(), put(), delete()));
            scope.spawn(|| (put(), delete(), put()));
        });
        broker.change(Vec::new()).blocking_recv().unwrap();
        let names: Vec<VhostRecord> = read(&broker.house.store, Kind::Vhost).unwrap();
        let is_on_disk = names.iter().any(|record| record.name == "v");
        assert_eq!(is_on_disk, broker.vhost("v").is_some(), "round {round}");
    }
}

fn fill(broker: &Broker, vhost: &str) {
    let vhost = broker.vhost(vhost).unwrap();
    let actor = Actor::of_the_house();
    let wish = QueueWish { durable: true, exclusive: false, auto_delete: false, arguments: Table::default() };
    vhost.declare_queue(&actor, "q", wish).unwrap();
    for kind in ["topic", "x-delayed-message"] {
        let mut arguments = Table::default();
        if kind == "x-delayed-message" {
            arguments.insert("x-delayed-type".into(), crate::amqp::Value::LongString("direct".into()));
        }
        let wish =
            ExchangeWish { kind: kind.to_owned(), durable: true, auto_delete: false, internal: false, arguments };
        vhost.declare_exchange(&actor, kind, &wish).unwrap();
    }
    let destination = Destination::Queue("q".into());
    let binding = Binding { destination, routing_key: "#".into(), arguments: Table::default() };
    vhost.bind(&actor, "topic", binding).unwrap();
    for kind in [policy::Kind::User, policy::Kind::Operator] {
        let fields = json!({"pattern": "", "definition": {"max-length": 5}, "apply-to": "queues"});
        vhost.set_policy(Policy::parse(kind, "p", fields.as_object().unwrap()).unwrap(), "guest").unwrap();
    }
    broker.change_vhost_limits(&vhost.name, |limits| limits.max_queues = Some(7), "guest").unwrap();
}

#[test]
fn a_deleted_virtual_host_leaves_nothing_for_one_of_the_same_name() {
    let folder = TempDir::new().unwrap();
    let opened = broker(&folder, &[]);
    let described = Metadata { description: "d".to_owned(), tags: vec!["t".to_owned()], ..Metadata::default() };
    assert!(opened.put_vhost("v", described, "guest").unwrap().0);
    fill(&opened, "v");
    fill(&opened, "/");
    opened.set_permission(permission("guest", "v", ".*"), "guest").unwrap();
    let (gone, held) = (opened.vhost("v").unwrap(), opened.users.rights("guest", "v").unwrap());
    opened.delete_vhost("v", "guest").unwrap();
    assert!(opened.vhost("v").is_none() && !held.may_enter());
    // Whoever still holds it can't put anything there.
    let actor = Actor::of_the_house();
    let wish = QueueWish { durable: true, exclusive: false, auto_delete: false, arguments: Table::default() };
    assert_eq!(gone.declare_queue(&actor, "q", wish.clone()).unwrap_err().reason, Reason::NotFound);
    assert!(gone.find_queue(&actor, "q").is_err() && gone.find_exchange(&actor, "topic").is_err());
    assert_eq!(opened.delete_vhost("v", "guest").unwrap_err().reason, Reason::NotFound);
    opened.close();
    drop((opened, gone));
    let again = broker(&folder, &[]);
    assert!(again.vhost("v").is_none());
    assert!(again.put_vhost("v", Metadata::default(), "guest").unwrap().0);
    let anew = again.vhost("v").unwrap();
    assert_eq!((anew.limits(), anew.metadata()), (VhostLimits::default(), Metadata::default()));
    assert!(anew.find_queue(&actor, "q").is_err() && anew.find_exchange(&actor, "topic").is_err());
    assert!(anew.policies(policy::Kind::User).is_empty() && anew.policies(policy::Kind::Operator).is_empty());
    // The other one has all that it had.
    let other = again.vhost("/").unwrap();
    assert!(other.find_queue(&actor, "q").is_ok() && other.find_exchange(&actor, "x-delayed-message").is_ok());
    assert_eq!(other.limits().max_queues, Some(7));
    assert_eq!(other.policies(policy::Kind::Operator).len(), 1);
    assert_eq!(again.users.permissions(), [permission("guest", "/", ".*")]);
}

#[test]
fn a_protected_virtual_host_stays_until_the_protection_is_lifted() {
    let folder = TempDir::new().unwrap();
    let opened = broker(&folder, &[("vhost_max", "2")]);
    let protected = Metadata { protected_from_deletion: true, ..Metadata::default() };
    opened.put_vhost("v", protected, "guest").unwrap();
    opened.close();
    drop(opened);
    let again = broker(&folder, &[("vhost_max", "2")]);
    assert_eq!(again.delete_vhost("v", "guest").unwrap_err().reason, Reason::Precondition);
    let refused = again.put_vhost("w", Metadata::default(), "guest").unwrap_err();
    assert_eq!(refused.text, "cannot create vhost 'w': vhost limit of 2 is reached");
    assert!(!again.put_vhost("v", Metadata::default(), "guest").unwrap().0);
    again.delete_vhost("v", "guest").unwrap();
    assert!(again.put_vhost("w", Metadata::default(), "guest").unwrap().0);
}
