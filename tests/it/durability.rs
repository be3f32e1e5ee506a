//! What is confirmed stays, what was deleted or acknowledged stays away: over kill -9 and over a clean stop.

use super::support::peer::{Content, PERSISTENT, PLAIN, write_publish};
use super::support::{Broker, Declare, Load, Peer, Random, eventually, scale};
use amq_protocol::protocol::{AMQPClass, exchange, tx};
use amq_protocol::types::FieldTable;
use leveret::server::exit;
use std::time::Duration;

/// Everything in a queue, by basic.get with automatic acknowledgement.
fn drain(peer: &mut Peer, queue: &str) -> Vec<Content> {
    let mut all = Vec::new();
    while let Some(content) = peer.get(1, queue, true) {
        all.push(content);
    }
    all
}

fn bodies(contents: &[Content]) -> Vec<String> {
    contents.iter().map(|content| String::from_utf8(content.body.clone()).unwrap()).collect()
}

/// Publishes persistent messages and waits for their confirms.
fn publish_confirmed(broker: &Broker, queue: &str, texts: &[&str]) {
    let mut peer = Peer::open(broker);
    peer.confirm_select(1);
    for text in texts {
        peer.publish(1, queue, PERSISTENT, text.as_bytes());
    }
    peer.expect_confirms(1, texts.len() as u64);
    peer.close();
}

fn declare(broker: &Broker, queues: &[Declare<'_>]) {
    let mut peer = Peer::open(broker);
    for queue in queues {
        peer.declare(1, *queue);
    }
    peer.close();
}

#[test]
fn confirmed_messages_survive_kill_9_in_their_order() {
    let cycles = scale("LEVERET_KILL_CYCLES", 6);
    let messages = scale("LEVERET_KILL_MESSAGES", 2000);
    let mut random = Random::new();
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("load")]);
    let mut confirmed_in_all = 0;
    // For each cycle: first number, sent, confirmed.
    let mut ledger = Vec::new();
    for cycle in 0..cycles {
        let first = cycle << 32;
        let bulk = [1, 7, 100, messages][random.below(4) as usize];
        let moment = random.below(messages * 3 / 4);
        let properties = |_| PERSISTENT.to_vec();
        let load = Load { queue: "load", first, messages, bulk, spread: Duration::ZERO, properties };
        let (sent, confirmed) = load.killed(&mut broker, moment, Duration::ZERO);
        ledger.push((first, sent, confirmed));
        confirmed_in_all += confirmed;
        broker.restart();
    }
    let mut peer = Peer::open(&broker);
    let found: Vec<u64> = drain(&mut peer, "load")
        .iter()
        .map(|content| u64::from_be_bytes(content.body.as_slice().try_into().expect("a whole message")))
        .collect();
    let mut at = 0;
    for (first, sent, confirmed) in ledger {
        let mut here = 0;
        while at < found.len() && found[at] == first + here && here < sent {
            (at, here) = (at + 1, here + 1);
        }
        assert!(here >= confirmed, "of cycle {} {confirmed} were confirmed, {here} are there", first >> 32);
    }
    assert_eq!(at, found.len(), "a message that was never sent, or out of order: {:?}", found.get(at));
    println!("{confirmed_in_all} confirmed over {cycles} crashes, {} found", found.len());
}

#[test]
fn a_broker_killed_again_and_again_while_it_starts_loses_nothing() {
    let mut random = Random::new();
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    let texts: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    publish_confirmed(&broker, "q", &texts.iter().map(String::as_str).collect::<Vec<_>>());
    broker.kill();
    for _ in 0..8 {
        let mut starting = Broker::launch(broker.folder());
        std::thread::sleep(Duration::from_millis(random.below(60)));
        starting.kill().unwrap();
        starting.wait().unwrap();
    }
    broker.restart();
    assert_eq!(bodies(&drain(&mut Peer::open(&broker), "q")), texts);
}

#[test]
fn what_was_delivered_before_a_crash_is_redelivered_and_says_so() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    let texts: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    publish_confirmed(&broker, "q", &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let mut peer = Peer::open(&broker);
    peer.qos(1, 100);
    peer.consume(1, "q", "c", false);
    for _ in 0..100 {
        assert!(!peer.expect_delivery().redelivered);
    }
    broker.kill();
    broker.restart();
    let found = drain(&mut Peer::open(&broker), "q");
    assert_eq!(bodies(&found), texts);
    // RabbitMQ marks all that were there at a crash; none that was delivered may come unmarked.
    for content in &found[..100] {
        assert!(content.redelivered, "{content:?}");
    }
}

#[test]
fn what_was_never_confirmed_nor_delivered_may_be_new_but_what_was_got_is_not() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    publish_confirmed(&broker, "q", &["a", "b"]);
    let mut peer = Peer::open(&broker);
    assert_eq!(peer.get(1, "q", false).unwrap().body, b"a");
    broker.kill();
    broker.restart();
    let found = drain(&mut Peer::open(&broker), "q");
    assert_eq!(bodies(&found), ["a", "b"]);
    assert!(found[0].redelivered);
}

#[test]
fn a_clean_stop_keeps_who_was_delivered_too() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    publish_confirmed(&broker, "q", &["a", "b", "c"]);
    let mut peer = Peer::open(&broker);
    assert_eq!(peer.get(1, "q", false).unwrap().body, b"a");
    assert!(broker.stop().success());
    broker.restart();
    let found = drain(&mut Peer::open(&broker), "q");
    assert_eq!(bodies(&found), ["a", "b", "c"]);
    assert!(found[0].redelivered);
}

#[test]
fn transient_messages_and_queues_that_are_not_durable_are_gone_after_a_restart() {
    for clean in [true, false] {
        let mut broker = Broker::start();
        let mut peer = Peer::open(&broker);
        peer.declare(1, Declare::durable("kept"));
        peer.declare(1, Declare::transient("lost"));
        peer.declare(1, Declare { name: "mine", exclusive: true, ..Declare::default() });
        peer.confirm_select(1);
        for (queue, properties) in
            [("kept", PLAIN), ("kept", PERSISTENT), ("lost", PERSISTENT), ("mine", PERSISTENT), ("kept", PLAIN)]
        {
            peer.publish(1, queue, properties, properties);
        }
        peer.expect_confirms(1, 5);
        if clean {
            assert!(broker.stop().success());
        } else {
            broker.kill();
        }
        broker.restart();
        let mut peer = Peer::open(&broker);
        let found = drain(&mut peer, "kept");
        assert_eq!(found.len(), 1, "clean: {clean}");
        assert_eq!(found[0].body, PERSISTENT);
        for name in ["lost", "mine"] {
            peer.method(1, super::support::peer::declare_queue(Declare::passive(name), FieldTable::default()));
            peer.expect_channel_close(1, 404, "NOT_FOUND");
            peer.open_channel(1);
        }
    }
}

fn exchange_bind(peer: &mut Peer, destination: &str, source: &str, routing_key: &str) {
    peer.method(
        1,
        AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
            destination: destination.into(),
            source: source.into(),
            routing_key: routing_key.into(),
            nowait: false,
            arguments: FieldTable::default(),
        })),
    );
    peer.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::BindOk(exchange::BindOk {})));
}

fn publish_to(peer: &mut Peer, exchange: &str, routing_key: &str, body: &[u8]) {
    let mut out = Vec::new();
    write_publish(&mut out, 1, exchange, routing_key, PERSISTENT, body, 131_072);
    peer.octets(&out);
}

#[test]
fn durable_topology_comes_back_with_every_binding_the_right_way_round() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    for kind in ["direct", "fanout", "topic", "headers"] {
        peer.declare_exchange(1, kind, kind, true);
    }
    peer.declare_exchange(1, "passing", "fanout", false);
    peer.declare_exchange(1, "behind", "fanout", true);
    for name in ["one", "two"] {
        peer.declare(1, Declare::durable(name));
    }
    peer.bind(1, "one", "direct", "key");
    peer.bind(1, "one", "topic", "a.*.#");
    peer.bind(1, "two", "behind", "");
    peer.bind(1, "two", "passing", "");
    peer.bind(1, "one", "amq.fanout", "");
    exchange_bind(&mut peer, "behind", "topic", "x.#");
    // Declared again as it is, nothing changes.
    peer.declare(1, Declare::durable("one"));
    broker.kill();
    broker.restart();

    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    let cases = [
        ("direct", "key", Some("one")),
        ("direct", "other", None),
        ("topic", "a.b", Some("one")),
        ("topic", "x.y.z", Some("two")),
        ("behind", "", Some("two")),
        ("amq.fanout", "", Some("one")),
    ];
    for (exchange, key, queue) in cases {
        publish_to(&mut peer, exchange, key, exchange.as_bytes());
        peer.expect_confirms(1, 1);
        for name in ["one", "two"] {
            let found: Vec<String> = bodies(&drain(&mut peer, name));
            let expected: Vec<&str> = if queue == Some(name) { vec![exchange] } else { vec![] };
            assert_eq!(found, expected, "{exchange} {key:?} → {name}");
        }
        peer.close_channel(1);
        peer.open_channel(1);
        peer.confirm_select(1);
    }
    publish_to(&mut peer, "passing", "", b"m");
    peer.expect_channel_close(1, 404, "NOT_FOUND - no exchange 'passing' in vhost '/'");
}

#[test]
fn what_was_deleted_stays_deleted() {
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("kept"));
    peer.declare(1, Declare::durable("gone"));
    peer.declare(1, Declare::durable("again"));
    peer.declare_exchange(1, "gone", "fanout", true);
    peer.declare_exchange(1, "kept", "fanout", true);
    peer.bind(1, "kept", "kept", "");
    peer.bind(1, "gone", "kept", "");
    for name in ["gone", "again"] {
        publish_confirmed(&broker, name, &["old"]);
        peer.delete_queue(1, name);
    }
    // A queue of the same name must not find the old one's messages.
    peer.declare(1, Declare::durable("again"));
    peer.method(
        1,
        AMQPClass::Exchange(exchange::AMQPMethod::Delete(exchange::Delete {
            exchange: "gone".into(),
            if_unused: false,
            nowait: false,
        })),
    );
    peer.expect(1, &AMQPClass::Exchange(exchange::AMQPMethod::DeleteOk(exchange::DeleteOk {})));
    peer.method(
        1,
        AMQPClass::Queue(amq_protocol::protocol::queue::AMQPMethod::Unbind(amq_protocol::protocol::queue::Unbind {
            queue: "kept".into(),
            exchange: "kept".into(),
            routing_key: "".into(),
            arguments: FieldTable::default(),
        })),
    );
    peer.next();
    broker.kill();
    broker.restart();

    let mut peer = Peer::open(&broker);
    assert_eq!(peer.declare(1, Declare::passive("again")), (0, 0));
    assert_eq!(peer.declare(1, Declare::passive("kept")), (0, 0));
    publish_to(&mut peer, "kept", "", b"m");
    assert_eq!(peer.declare(1, Declare::passive("kept")), (0, 0), "the binding came back");
    peer.method(1, super::support::peer::declare_queue(Declare::passive("gone"), FieldTable::default()));
    peer.expect_channel_close(1, 404, "NOT_FOUND - no queue 'gone'");
    peer.open_channel(1);
    publish_to(&mut peer, "gone", "", b"m");
    peer.expect_channel_close(1, 404, "NOT_FOUND - no exchange 'gone'");
}

/// Acknowledges the first 100 of 150 messages in every way there is.
fn acknowledge_a_hundred(broker: &Broker) {
    declare(broker, &[Declare::durable("q")]);
    let texts: Vec<String> = (0..150).map(|number| number.to_string()).collect();
    publish_confirmed(broker, "q", &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let mut peer = Peer::open(broker);
    peer.qos(1, 120);
    peer.consume(1, "q", "c", false);
    for _ in 0..100 {
        peer.expect_delivery();
    }
    peer.ack(1, 50, true);
    for tag in (51..=80).rev() {
        peer.ack(1, tag, false);
    }
    for tag in 81..=90 {
        peer.nack(1, tag, false, false);
    }
    peer.nack(1, 100, true, false);
    // Those behind go back with the connection, and its end says that everything before was taken.
    peer.close();
}

#[test]
fn what_was_acknowledged_stays_away_after_a_clean_stop() {
    let mut broker = Broker::start();
    acknowledge_a_hundred(&broker);
    assert!(broker.stop().success());
    broker.restart();
    let expected: Vec<String> = (100..150).map(|number| number.to_string()).collect();
    assert_eq!(bodies(&drain(&mut Peer::open(&broker), "q")), expected);
}

#[test]
fn what_was_acknowledged_stays_away_after_kill_9_half_a_second_later() {
    let mut broker = Broker::start();
    acknowledge_a_hundred(&broker);
    std::thread::sleep(Duration::from_millis(500));
    broker.kill();
    broker.restart();
    let expected: Vec<String> = (100..150).map(|number| number.to_string()).collect();
    assert_eq!(bodies(&drain(&mut Peer::open(&broker), "q")), expected);
}

#[test]
fn acknowledgements_that_leave_gaps_stay_too() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    let texts: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    publish_confirmed(&broker, "q", &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let mut peer = Peer::open(&broker);
    peer.consume(1, "q", "c", false);
    for tag in 1..=1000 {
        assert_eq!(peer.expect_delivery().tag, tag);
        if tag % 3 != 0 {
            peer.ack(1, tag, false);
        }
    }
    peer.close();
    for clean in [true, false] {
        if clean {
            assert!(broker.stop().success());
        } else {
            broker.kill();
        }
        broker.restart();
        let mut peer = Peer::open(&broker);
        let left: Vec<Content> = std::iter::from_fn(|| peer.get(1, "q", false)).collect();
        let expected: Vec<String> = (1..=1000).filter(|tag| tag % 3 == 0).map(|tag| (tag - 1).to_string()).collect();
        assert_eq!(bodies(&left), expected);
        assert!(left.iter().all(|content| content.redelivered));
    }
}

#[test]
fn purged_messages_stay_away() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    publish_confirmed(&broker, "q", &["a", "b"]);
    let mut peer = Peer::open(&broker);
    peer.method(
        1,
        AMQPClass::Queue(amq_protocol::protocol::queue::AMQPMethod::Purge(amq_protocol::protocol::queue::Purge {
            queue: "q".into(),
            nowait: false,
        })),
    );
    peer.next();
    publish_confirmed(&broker, "q", &["c"]);
    // A confirm says that everything before it is safe, the purge included.
    broker.kill();
    broker.restart();
    assert_eq!(bodies(&drain(&mut Peer::open(&broker), "q")), ["c"]);
}

#[test]
fn behind_many_messages_that_were_never_delivered_the_next_ones_still_are() {
    let broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    let texts: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    publish_confirmed(&broker, "q", &texts.iter().map(String::as_str).collect::<Vec<_>>());
    let mut peer = Peer::open(&broker);
    peer.method(
        1,
        AMQPClass::Queue(amq_protocol::protocol::queue::AMQPMethod::Purge(amq_protocol::protocol::queue::Purge {
            queue: "q".into(),
            nowait: false,
        })),
    );
    peer.next();
    publish_confirmed(&broker, "q", &["a", "b"]);
    // What is on disk must be marked there before it goes out, however far it is from the last delivery.
    assert_eq!(bodies(&drain(&mut peer, "q")), ["a", "b"]);
}

#[test]
fn a_transaction_is_there_whole_or_not_at_all() {
    let mut random = Random::new();
    let mut broker = Broker::start();
    let queues = ["a", "b", "c"];
    declare(&broker, &queues.map(Declare::durable));
    let cycles = scale("LEVERET_KILL_CYCLES", 6);
    let mut committed_ids = Vec::new();
    for cycle in 0..cycles {
        let mut peer = Peer::open(&broker);
        peer.tx_select(1);
        let last = random.below(30);
        for number in 0..=last {
            let id = format!("{cycle}.{number}");
            for queue in queues {
                for part in 0..5 {
                    peer.publish(1, queue, PERSISTENT, format!("{id}.{part}").as_bytes());
                }
            }
            if number < last {
                peer.tx_commit(1);
                committed_ids.push(id);
            } else {
                peer.method(1, AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})));
            }
        }
        // While the last commit is somewhere on its way.
        std::thread::sleep(Duration::from_micros(random.below(5000)));
        broker.kill();
        broker.restart();
    }
    let mut peer = Peer::open(&broker);
    let found = queues.map(|queue| bodies(&drain(&mut peer, queue)));
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0], found[2]);
    let whole: Vec<&str> = found[0]
        .chunks(5)
        .map(|parts| {
            let id = parts[0].strip_suffix(".0").expect("a transaction starts with its first part");
            let expected: Vec<String> = (0..5).map(|part| format!("{id}.{part}")).collect();
            assert_eq!(parts, expected, "a transaction in part");
            id
        })
        .collect();
    let mut at = 0;
    for id in &committed_ids {
        at += whole[at..].iter().position(|found| found == id).unwrap_or_else(|| panic!("{id} was committed")) + 1;
    }
    assert!(whole.len() <= committed_ids.len() + usize::try_from(cycles).unwrap());
}

#[test]
fn what_was_not_committed_is_not_there() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    publish_confirmed(&broker, "q", &["old"]);
    let mut peer = Peer::open(&broker);
    peer.tx_select(1);
    peer.publish(1, "q", PERSISTENT, b"uncommitted");
    let got = peer.get(1, "q", false).unwrap();
    peer.ack(1, got.tag, false);
    // An answer from the same channel: the acknowledgement and the message were read.
    peer.declare(1, Declare::passive("q"));
    std::thread::sleep(Duration::from_millis(50));
    broker.kill();
    broker.restart();
    assert_eq!(bodies(&drain(&mut Peer::open(&broker), "q")), ["old"]);
}

#[test]
fn a_second_broker_on_the_folder_is_refused_with_one_clear_line() {
    let mut broker = Broker::start();
    let refused = Broker::refused(broker.folder(), 0);
    assert_eq!(refused.exit_code, Some(exit::LOCKED.into()));
    let line = format!("leveret: another broker uses the data folder {}", broker.folder().display());
    assert!(refused.text.starts_with(&line) && refused.text.lines().count() == 1, "{refused:?}");
    assert!(broker.is_running());
    declare(&broker, &[Declare::durable("q")]);
}

#[test]
fn a_port_in_use_is_refused_with_one_clear_line() {
    let broker = Broker::start();
    let folder = tempfile::TempDir::new().unwrap();
    let refused = Broker::refused(folder.path(), broker.port());
    assert_eq!(refused.exit_code, Some(exit::PORT.into()));
    let line = format!("leveret: can't listen on 127.0.0.1:{}", broker.port());
    assert!(refused.text.starts_with(&line) && refused.text.lines().count() == 1, "{refused:?}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "the folder was touched");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_with_one_clear_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = Broker::refused(&file.path().join("inside"), 0);
    assert_eq!(refused.exit_code, Some(exit::IO.into()));
    assert!(refused.text.starts_with("leveret: can't open the data folder"), "{refused:?}");
    assert_eq!(refused.text.lines().count(), 1, "{refused:?}");
}

#[test]
fn a_damaged_folder_is_refused_and_left_as_it_is() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    for round in 0..20 {
        let text = format!("message {round} {}", "x".repeat(10_000));
        publish_confirmed(&broker, "q", &[&text]);
    }
    broker.kill();
    let wal = largest_wal(&broker);
    let mut octets = std::fs::read(&wal).unwrap();
    assert!(octets.len() > 100_000, "{} is no log of 200 kB", wal.display());
    let middle = octets.len() / 2;
    octets[middle] ^= 0x10;
    std::fs::write(&wal, &octets).unwrap();

    for _ in 0..2 {
        let refused = broker.try_restart().expect_err("a damaged folder was taken");
        assert_eq!(refused.exit_code, Some(exit::DATA.into()));
        assert!(refused.text.contains("is damaged") && refused.text.lines().count() == 1, "{refused:?}");
    }
    assert_eq!(std::fs::read(&wal).unwrap(), octets, "the evidence was changed");
    // Put right again, everything is there.
    octets[middle] ^= 0x10;
    std::fs::write(&wal, &octets).unwrap();
    broker.restart();
    assert_eq!(drain(&mut Peer::open(&broker), "q").len(), 20);
}

#[test]
fn a_torn_end_is_what_a_crash_leaves_and_no_damage() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    publish_confirmed(&broker, "q", &["a"]);
    publish_confirmed(&broker, "q", &["b"]);
    broker.kill();
    let wal = largest_wal(&broker);
    let octets = std::fs::read(&wal).unwrap();
    std::fs::write(&wal, &octets[..octets.len() - 3]).unwrap();
    broker.restart();
    let found = bodies(&drain(&mut Peer::open(&broker), "q"));
    assert_eq!(found.first().map(String::as_str), Some("a"));
}

fn largest_wal(broker: &Broker) -> std::path::PathBuf {
    let logs = broker.folder().read_dir().unwrap().map(|entry| entry.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|kind| kind == "log"))
        .max_by_key(|path| path.metadata().unwrap().len())
        .expect("a write-ahead log")
}

#[test]
fn a_folder_of_another_format_is_refused_with_one_clear_line() {
    let mut broker = Broker::start();
    assert!(broker.stop().success());
    {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(false);
        let families = rocksdb::DB::list_cf(&options, broker.folder()).unwrap();
        let db = rocksdb::DB::open_cf(&options, broker.folder(), families).unwrap();
        db.put_cf(db.cf_handle("meta").unwrap(), "format", "999").unwrap();
    }
    let refused = broker.try_restart().expect_err("another format was taken");
    assert_eq!(refused.exit_code, Some(exit::DATA.into()));
    assert!(refused.text.contains("has format 999") && refused.text.lines().count() == 1, "{refused:?}");
}

#[test]
fn a_folder_in_which_the_first_start_wrote_nothing_yet_is_taken() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    drop(rocksdb::DB::open(&options, folder.path()).unwrap());
    let mut broker = Broker::with(&["--data-dir", folder.path().to_str().unwrap()]);
    declare(&broker, &[Declare::durable("q")]);
    publish_confirmed(&broker, "q", &["a"]);
    broker.kill();
    broker.restart();
    assert_eq!(bodies(&drain(&mut Peer::open(&broker), "q")), ["a"]);
}

#[test]
fn a_broker_killed_in_its_first_start_starts_again_and_lets_its_first_user_in() {
    let mut random = Random::new();
    for _ in 0..12 {
        let folder = tempfile::TempDir::new().unwrap();
        let mut starting = Broker::launch(folder.path());
        std::thread::sleep(Duration::from_millis(random.below(80)));
        starting.kill().unwrap();
        starting.wait().unwrap();
        let broker = Broker::with(&["--data-dir", folder.path().to_str().unwrap()]);
        declare(&broker, &[Declare::durable("q")]);
    }
}

#[test]
fn a_folder_of_somebody_else_is_refused() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    rocksdb::DB::open(&options, folder.path()).unwrap().put("theirs", "1").unwrap();
    let refused = Broker::refused(folder.path(), 0);
    assert_eq!(refused.exit_code, Some(exit::DATA.into()));
    assert!(refused.text.contains("has format none") && refused.text.lines().count() == 1, "{refused:?}");
}

#[test]
fn with_durability_os_confirmed_messages_survive_kill_9() {
    let mut broker = Broker::with(&["--durability", "os"]);
    declare(&broker, &[Declare::durable("q")]);
    publish_confirmed(&broker, "q", &["a", "b", "c"]);
    broker.kill();
    broker.restart();
    assert_eq!(bodies(&drain(&mut Peer::open(&broker), "q")), ["a", "b", "c"]);
}

#[test]
fn with_durability_memory_definitions_survive_and_messages_do_not() {
    let mut broker = Broker::with(&["--durability", "memory"]);
    declare(&broker, &[Declare::durable("q")]);
    publish_confirmed(&broker, "q", &["a", "b", "c"]);
    let mut peer = Peer::open(&broker);
    assert_eq!(peer.declare(1, Declare::passive("q")), (3, 0));
    assert!(broker.stop().success());
    broker.restart();
    assert_eq!(Peer::open(&broker).declare(1, Declare::passive("q")), (0, 0));
}

#[test]
fn messages_may_be_kept_first_and_the_mode_changed_later() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    publish_confirmed(&broker, "q", &["a"]);
    broker.kill();
    broker.restart_with(&["--durability", "os"]);
    publish_confirmed(&broker, "q", &["b"]);
    broker.kill();
    broker.restart_with(&[]);
    assert_eq!(bodies(&drain(&mut Peer::open(&broker), "q")), ["a", "b"]);
}

#[test]
fn large_messages_survive_whole() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    let sizes = [0, 1, 4_000, 16_383, 16_384, 65_535, 65_536, 131_064, 1 << 20, 5 << 20];
    let mut peer = Peer::open(&broker);
    peer.confirm_select(1);
    for size in sizes {
        let body: Vec<u8> = (0..size).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        peer.publish(1, "q", PERSISTENT, &body);
    }
    peer.expect_confirms(1, sizes.len() as u64);
    broker.kill();
    broker.restart();
    let mut peer = Peer::open(&broker);
    for size in sizes {
        let body: Vec<u8> = (0..size).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert!(peer.get(1, "q", true).unwrap().body == body, "{size} octets");
    }
}

#[test]
fn a_publisher_that_vanishes_leaves_what_it_published() {
    let mut broker = Broker::start();
    declare(&broker, &[Declare::durable("q")]);
    let mut peer = Peer::open(&broker);
    for number in 0..1000_u32 {
        peer.publish(1, "q", PERSISTENT, &number.to_be_bytes());
    }
    peer.half_close();
    let mut watcher = Peer::open(&broker);
    eventually("all messages", || (watcher.declare(1, Declare::passive("q")).0 == 1000).then_some(()));
    publish_confirmed(&broker, "q", &["last"]);
    broker.kill();
    broker.restart();
    assert_eq!(drain(&mut Peer::open(&broker), "q").len(), 1001);
}
