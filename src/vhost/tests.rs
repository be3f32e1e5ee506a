use super::declare::{ExchangeWish, QueueWish};
use super::events::HOUSE;
use super::publish::Targets;
use super::*;
use crate::amqp::{Table, Value};
use crate::exchange::{Binding, Destination};
use crate::message::{Marks, Message, Packer, Traits};
use crate::policy::{Applied, Kind, Policy};
use crate::queue::classic::Acts;
use crate::queue::settings::{Overflow, Settings};
use crate::store::keys::Kind as Row;
use crate::store::{Durability, Options, Store};
use serde_json::json;
use tempfile::TempDir;

/// A virtual host on a folder of its own, which must outlive it.
fn vhost() -> (TempDir, Arc<Vhost>) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(&options(folder.path())).unwrap();
    (folder, vhost_over(store))
}

fn options(folder: &std::path::Path) -> Options {
    Options {
        folder: folder.to_owned(),
        durability: Durability::Memory,
        write_buffer_bytes: 1 << 20,
        backlog_bytes_max: 1 << 20,
        ballast_bytes: 0,
    }
}

fn vhost_over(store: Arc<Store>) -> Arc<Vhost> {
    let clock = Clock::start();
    let house = House {
        events: Events::new("rabbit@host", "/", clock),
        trace_vhosts: Vec::new(),
        store,
        memory: Arc::new(Memory::new(1 << 20, 1 << 20)),
        clock,
        timer: Arc::default(),
        expire_at_head: false,
        default_queue_type: QueueType::Classic,
        reply_secret: reply_to::Secret::new(),
        queues_max: None,
        exchanges_max: None,
        vhosts: Mutex::default(),
        churn: Arc::default(),
        next_queue: AtomicU64::new(1),
        next_consumer: AtomicU64::new(0),
    };
    Vhost::new("/", &Arc::new(house))
}

fn declare(vhost: &Vhost, name: &str, arguments: &[(&str, Value)]) -> Arc<crate::queue::Queue> {
    let mut table = Table::default();
    for (key, value) in arguments {
        table.insert((*key).into(), value.clone());
    }
    let wish = QueueWish { durable: true, exclusive: false, auto_delete: false, arguments: table };
    vhost.declare_queue(&Actor::of_the_house(), name, wish).unwrap().0.0.queue.expect("a queue of its own")
}

fn declare_exchange(vhost: &Vhost, name: &str, alternate: Option<&str>) {
    let mut arguments = Table::default();
    if let Some(alternate) = alternate {
        arguments.insert("alternate-exchange".into(), text(alternate));
    }
    let wish =
        ExchangeWish { kind: "direct".to_owned(), durable: true, auto_delete: false, internal: false, arguments };
    vhost.declare_exchange(&Actor::of_the_house(), name, &wish).unwrap();
}

fn text(text: &str) -> Value {
    Value::LongString(text.into())
}

fn int(number: i64) -> Value {
    Value::LongLongInt(number)
}

fn set(vhost: &Vhost, kind: Kind, name: &str, priority: i64, definition: serde_json::Value) {
    let json = json!({"pattern": "^[qx]", "definition": definition, "priority": priority});
    drop(vhost.set_policy(Policy::parse(kind, name, json.as_object().unwrap()).unwrap(), HOUSE));
}

fn names(applied: &Applied) -> (Option<&str>, Option<&str>) {
    (applied.policy.as_ref().map(|policy| &*policy.name), applied.operator_policy.as_ref().map(|policy| &*policy.name))
}

#[test]
fn a_queue_has_its_policies_from_the_start_and_follows_their_changes() {
    let (_folder, vhost) = vhost();
    let before = declare(&vhost, "q1", &[]);
    let other = declare(&vhost, "other", &[]);
    assert_eq!(names(&before.settings().applied), (None, None));
    set(&vhost, Kind::User, "p", 0, json!({"max-length": 5}));
    let after = declare(&vhost, "q2", &[]);
    for queue in [&before, &after] {
        assert_eq!((names(&queue.settings().applied), queue.settings().max_length), ((Some("p"), None), Some(5)));
    }
    set(&vhost, Kind::Operator, "o", 0, json!({"max-length": 3}));
    assert_eq!((names(&after.settings().applied), after.settings().max_length), ((Some("p"), Some("o")), Some(3)));
    set(&vhost, Kind::User, "p", 0, json!({"max-length": 2}));
    set(&vhost, Kind::User, "higher", 1, json!({"expires": 9}));
    let settings = before.settings();
    assert_eq!(names(&settings.applied), (Some("higher"), Some("o")));
    assert_eq!((settings.max_length, settings.expires_ms), (Some(3), Some(9)));
    assert!(vhost.clear_policy(Kind::Operator, "o", HOUSE).is_some());
    assert!(vhost.clear_policy(Kind::Operator, "o", HOUSE).is_none());
    assert!(vhost.clear_policy(Kind::User, "higher", HOUSE).is_some());
    assert_eq!((names(&before.settings().applied), before.settings().max_length), ((Some("p"), None), Some(2)));
    assert!(vhost.clear_policy(Kind::User, "p", HOUSE).is_some());
    assert_eq!(*before.settings(), *other.settings());
}

#[test]
fn policies_are_listed_by_kind_and_name() {
    let (_folder, vhost) = vhost();
    set(&vhost, Kind::User, "b", 3, json!({"expires": 1}));
    set(&vhost, Kind::User, "a", 0, json!({"expires": 2}));
    set(&vhost, Kind::Operator, "c", 0, json!({"expires": 3}));
    let listed: Vec<_> = vhost.policies(Kind::User).iter().map(|policy| policy.name.to_string()).collect();
    assert_eq!(listed, ["a", "b"]);
    assert_eq!(vhost.policies(Kind::Operator).len(), 1);
    assert_eq!(vhost.policy(Kind::User, "b").unwrap().priority, 3);
    assert_eq!(vhost.policy(Kind::User, "c"), None);
}

#[test]
fn a_queue_whose_settings_stay_is_left_alone() {
    let (_folder, vhost) = vhost();
    let queue = declare(&vhost, "q", &[]);
    set(&vhost, Kind::User, "p", 1, json!({"max-length": 5}));
    let settings = queue.settings();
    set(&vhost, Kind::User, "p", 1, json!({"max-length": 5}));
    set(&vhost, Kind::User, "lower", 0, json!({"max-length": 1}));
    assert!(Arc::ptr_eq(&settings, &queue.settings()));
}

#[test]
fn what_the_type_does_not_support_leaves_the_place_to_another_policy() {
    let (_folder, vhost) = vhost();
    set(&vhost, Kind::User, "for both", 0, json!({"max-length": 5}));
    set(&vhost, Kind::User, "for quorum", 1, json!({"delivery-limit": 7, "max-length": 1}));
    let classic = declare(&vhost, "q classic", &[]);
    let quorum = declare(&vhost, "q quorum", &[("x-queue-type", text("quorum"))]);
    assert_eq!(names(&classic.settings().applied).0, Some("for both"));
    assert_eq!(classic.settings().max_length, Some(5));
    assert_eq!(names(&quorum.settings().applied).0, Some("for quorum"));
    assert_eq!((quorum.settings().max_length, quorum.settings().delivery_limit), (Some(1), Some(7)));
}

#[test]
fn arguments_and_policies_meet_in_a_queues_settings() {
    let (_folder, vhost) = vhost();
    let arguments = [
        ("x-message-ttl", int(100)),
        ("x-max-length", int(1)),
        ("x-overflow", text("drop-head")),
        ("x-dead-letter-exchange", text("own")),
    ];
    let queue = declare(&vhost, "q", &arguments);
    set(
        &vhost,
        Kind::User,
        "p",
        0,
        json!({"message-ttl": 50, "max-length": 3, "overflow": "reject-publish", "dead-letter-exchange": "theirs",
               "dead-letter-routing-key": "k"}),
    );
    let settings = queue.settings();
    assert_eq!((settings.message_ttl_ms, settings.max_length), (Some(50), Some(1)));
    assert_eq!(settings.overflow, Overflow::DropHead);
    assert_eq!(settings.dead_letter_exchange.as_deref(), Some("own"));
    assert_eq!(settings.dead_letter_routing_key.as_deref(), Some("k"));
}

#[test]
fn an_exchange_has_its_alternate_by_policy_unless_an_argument_names_one() {
    let (_folder, vhost) = vhost();
    let alternate = |vhost: &Vhost, name: &str| {
        vhost.topology.read().exchanges[name].alternate.as_ref().map(|alternate| alternate.to_string())
    };
    declare_exchange(&vhost, "x", None);
    declare_exchange(&vhost, "x own", Some("own"));
    let version = vhost.version();
    set(&vhost, Kind::User, "p", 0, json!({"alternate-exchange": "theirs"}));
    assert_ne!(vhost.version(), version, "routes have to be found anew");
    declare_exchange(&vhost, "x later", None);
    assert_eq!(alternate(&vhost, "x").as_deref(), Some("theirs"));
    assert_eq!(alternate(&vhost, "x later").as_deref(), Some("theirs"));
    assert_eq!(alternate(&vhost, "x own").as_deref(), Some("own"));
    assert_eq!(alternate(&vhost, "amq.direct"), None);
    assert_eq!(names(&vhost.policies_of_exchange("x own").unwrap()), (Some("p"), None));
    assert_eq!(vhost.policies_of_exchange("nowhere"), None);
    let version = vhost.version();
    set(&vhost, Kind::User, "p", 0, json!({"alternate-exchange": "theirs", "message-ttl": 5}));
    assert_eq!(vhost.version(), version, "no message goes another way");
    assert!(vhost.clear_policy(Kind::User, "p", HOUSE).is_some());
    assert_ne!(vhost.version(), version);
    assert_eq!((alternate(&vhost, "x"), alternate(&vhost, "x own")), (None, Some("own".to_owned())));
}

#[test]
fn policies_that_change_from_many_sides_end_in_what_is_listed() {
    let (_folder, vhost) = vhost();
    let queues: Vec<_> = (0..10).map(|number| declare(&vhost, &format!("q{number}"), &[])).collect();
    std::thread::scope(|scope| {
        for side in 0..4_i64 {
            let vhost = &vhost;
            scope.spawn(move || {
                for round in 0..50 {
                    set(vhost, Kind::User, "p", 0, json!({"max-length": side * 100 + round}));
                    drop(declare(vhost, &format!("q{side}-{round}"), &[]));
                }
            });
        }
    });
    let policy = vhost.policy(Kind::User, "p").unwrap();
    let expected = Settings::with_policy(&Table::default(), Applied { policy: Some(policy), operator_policy: None });
    assert_eq!(vhost.queues().len(), 210);
    for queue in queues.into_iter().chain(vhost.queues()) {
        assert_eq!(*queue.settings(), expected);
    }
}

#[test]
fn the_firehose_is_turned_on_and_off_while_the_virtual_host_works() {
    let (_folder, vhost) = vhost();
    let queue = declare(&vhost, "copies", &[]);
    let binding = Binding {
        destination: Destination::Queue("copies".into()),
        routing_key: "publish.#".into(),
        arguments: Table::default(),
    };
    vhost.bind(&Actor::of_the_house(), trace::EXCHANGE, binding).unwrap();
    let party = trace::Party { connection: "c", channel: 1, user: "guest" };
    let message = |exchange: &'static [u8]| Message {
        address: b"\x01x\x01k",
        exchange,
        routing_key: b"k",
        marks: Marks::NONE,
        properties: b"\0\0",
        body: b"b",
    };
    assert!(!vhost.is_traced());
    vhost.trace(true);
    assert!(vhost.is_traced());
    let mut acts = Acts::default();
    vhost.trace_publish(&message(b"x"), &Targets::new(), &party, &mut acts);
    vhost.trace_publish(&message(trace::EXCHANGE.as_bytes()), &Targets::new(), &party, &mut acts);
    vhost.trace_delivery(&message(b"x"), &queue, false, &party, &mut acts);
    acts.run();
    assert_eq!(queue.counts().ready, 1);
    vhost.trace(false);
    assert!(!vhost.is_traced());
}

fn durable_queue() -> QueueWish {
    QueueWish { durable: true, exclusive: false, auto_delete: false, arguments: Table::default() }
}

fn durable_exchange() -> ExchangeWish {
    ExchangeWish {
        kind: "direct".to_owned(),
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::default(),
    }
}

fn to_queue(name: &str) -> Binding {
    Binding { destination: Destination::Queue(name.into()), routing_key: "k".into(), arguments: Table::default() }
}

#[test]
fn who_finds_what_others_did_waits_until_that_is_safe() {
    let disk = Arc::default();
    let (store, _reads) = Store::simulated(&disk, &options(std::path::Path::new("/nonexistent")));
    let vhost = vhost_over(Arc::clone(&store));
    let actor = Actor::of_the_house();
    let bind = || vhost.bind(&actor, "x", to_queue("q")).unwrap().1;
    let answers = || {
        [
            vhost.declare_queue(&actor, "q", durable_queue()).unwrap().1,
            vhost.find_queue(&actor, "q").unwrap().1,
            vhost.declare_exchange(&actor, "x", &durable_exchange()).unwrap().1,
            vhost.find_exchange(&actor, "x").unwrap().1,
            bind(),
            vhost.delete_queue(&actor, "none", false, false).unwrap().1,
            vhost.delete_exchange(&actor, "none", false).unwrap().1,
            vhost.unbind(&actor, "x", &to_queue("none")).unwrap().1,
        ]
    };
    drop((
        vhost.declare_queue(&actor, "q", durable_queue()).unwrap(),
        vhost.declare_exchange(&actor, "x", &durable_exchange()).unwrap(),
        bind(),
    ));
    for (number, answer) in answers().into_iter().enumerate() {
        let mut committed = answer.unwrap_or_else(|| panic!("answer {number} waits for nothing"));
        assert!(committed.try_recv().is_err(), "answer {number} was safe before it was on disk");
    }
    store.commit_now(&disk);
    for (number, answer) in answers().into_iter().enumerate() {
        assert!(answer.is_none(), "answer {number} waits for what is safe");
    }
}

#[test]
fn what_is_on_disk_is_what_is_there_whoever_was_faster() {
    let (_folder, vhost) = vhost();
    let actor = Actor::of_the_house();
    let change = |mut chance: u64| {
        for _ in 0..16 {
            // xorshift
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            // What is missing meanwhile refuses some of it.
            match chance % 6 {
                0 => drop(vhost.declare_queue(&actor, "q", durable_queue())),
                1 => drop(vhost.delete_queue(&actor, "q", false, false)),
                2 => drop(vhost.declare_exchange(&actor, "x", &durable_exchange())),
                3 => drop(vhost.delete_exchange(&actor, "x", false)),
                4 => drop(vhost.bind(&actor, "x", to_queue("q"))),
                _ => drop(vhost.unbind(&actor, "x", &to_queue("q"))),
            }
        }
    };
    for round in 1..2000_u64 {
        std::thread::scope(|scope| {
            for worker in 1..=2 {
                scope.spawn(move || change(round << 8 | worker));
            }
        });
        vhost.house.store.change(Vec::new()).blocking_recv().unwrap();
        let rows = |kind| vhost.house.store.definitions(kind).unwrap().len();
        let topology = vhost.topology.read();
        let exchange = topology.exchanges.get("x");
        let bound = exchange.map_or(0, |exchange| exchange.router.bindings().count());
        let there = [topology.queues.len(), usize::from(exchange.is_some()), bound];
        let on_disk = [Row::Queue, Row::Exchange, Row::Binding].map(rows);
        assert_eq!(on_disk, there, "round {round}: queues, exchanges and bindings on disk, and there");
    }
}

#[test]
fn no_new_queue_gets_the_number_of_one_that_comes_back() {
    let (_folder, vhost) = vhost();
    let recovered = |id: u64| super::records::QueueRecord {
        id,
        vhost: "/".to_owned(),
        name: format!("q{id}"),
        auto_delete: false,
        arguments: Table::default(),
        user: String::new(),
    };
    // As if the counter on disk were behind.
    vhost.recover_queue(recovered(7)).unwrap();
    vhost.recover_queue(recovered(3)).unwrap();
    assert_eq!(declare(&vhost, "new", &[]).identity.id, 8);
    let mut arguments = Table::default();
    arguments.insert("x-delayed-type".into(), text("direct"));
    let held_back = super::records::ExchangeRecord {
        vhost: "/".to_owned(),
        name: "x".to_owned(),
        kind: "x-delayed-message".to_owned(),
        auto_delete: false,
        internal: false,
        arguments,
        user: "u".to_owned(),
        delay_queue: Some(20),
    };
    vhost.recover_exchange(&held_back).unwrap();
    assert_eq!(declare(&vhost, "newer", &[]).identity.id, 21);
}

#[test]
fn what_is_offered_is_taken_whole_or_not_at_all() {
    let (_folder, vhost) = vhost();
    let limits = [("x-max-length", int(2)), ("x-overflow", text("reject-publish"))];
    let queue = declare(&vhost, "q", &limits);
    let run = |count: u32| {
        let mut packer = Packer::default();
        let message = Message {
            address: b"\x00\x01q",
            exchange: b"",
            routing_key: b"q",
            marks: Marks::NONE,
            properties: &[0, 0],
            body: b"m",
        };
        (0..count).for_each(|_| packer.push(&message, Traits::default()));
        Arc::new(packer.finish())
    };
    let mut acts = Acts::default();
    for (count, is_taken, ready) in [(3, false, 0), (1, true, 1), (2, false, 1), (1, true, 2), (1, false, 2)] {
        assert_eq!(queue.offer(&run(count), 0, &mut acts), is_taken, "{count}");
        assert_eq!(queue.counts().ready, ready);
    }
    acts.run();
}
