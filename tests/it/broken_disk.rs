//! A disk that does not give back what it was given: what it damaged, and what it can't read for a while.

use super::support::peer::{Content, PERSISTENT, write_publish};
use super::support::{Broker, Declare, Peer, Random};
use leveret::server::exit;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Little memory, so that messages leave it and small files are written.
const FLAGS: [&str; 6] = ["--queue-memory", "64KiB", "--messages-memory", "1MiB", "--store-write-buffer", "64KiB"];
/// Messages that are confirmed together, and so stored together.
const EACH: u64 = 10;

/// A broker that has stopped, and the bodies of the messages in its files.
fn filled(messages: u64) -> (Broker, Vec<Vec<u8>>) {
    let mut broker = Broker::with(&FLAGS);
    let mut random = Random::new();
    let body =
        |number: u64| number.to_be_bytes().into_iter().chain((0..100).map(|_| random.below(256) as u8)).collect();
    let bodies: Vec<Vec<u8>> = (0..messages).map(body).collect();
    let mut peer = Peer::open(&broker);
    // What is published to both of the others later lies on both sides of this one.
    for queue in ["before", "q", "behind"] {
        peer.declare(1, Declare::durable(queue));
    }
    peer.confirm_select(1);
    for first in (0..messages).step_by(EACH as usize) {
        (first..first + EACH).for_each(|number| peer.publish(1, "q", PERSISTENT, &bodies[number as usize]));
        peer.expect_confirms(first + 1, first + EACH);
    }
    peer.close();
    // With a start, what is in the log goes into files.
    assert!(broker.stop().success());
    broker.restart();
    assert!(broker.stop().success());
    (broker, bodies)
}

/// Messages that came are what was published, in order.
fn check(found: &[Content], bodies: &[Vec<u8>]) {
    let mut next = 0;
    for content in found {
        let number = u64::from_be_bytes(content.body[..8].try_into().unwrap());
        assert!(number >= next && content.body == bodies[number as usize], "{number} is not what was published");
        next = number + 1;
    }
}

/// Those that share a checksum with a flipped bit are lost, and are said to be; all others are delivered. (Once all behind them
/// were given up as well.)
#[test]
fn damage_among_messages_takes_none_but_those_that_it_is_in() {
    let (mut broker, bodies) = filled(3000);
    flip_a_bit(&largest_table(broker.folder()));
    broker.restart();
    let mut peer = Peer::open(&broker);
    expect_all_but_some(&mut peer, &bodies);
    let told = |text: &str| broker.log().iter().any(|line| line.contains(text));
    assert!(
        told("is damaged on disk and is not delivered") && told("messages are missing on disk"),
        "{:?}",
        broker.log()
    );
    assert_eq!(peer.declare(1, Declare::passive("q")), (0, 0));
}

/// What is left is whole, in order, and lacks what shared a checksum with one bit.
fn expect_all_but_some(peer: &mut Peer, bodies: &[Vec<u8>]) {
    let found: Vec<Content> = std::iter::from_fn(|| peer.get(1, "q", true)).collect();
    check(&found, bodies);
    let lost = bodies.len() - found.len();
    assert!((1..400).contains(&lost), "{lost} of {} are lost by one bit", bodies.len());
}

fn largest_table(folder: &Path) -> PathBuf {
    let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let tables = files.filter(|path| path.extension().is_some_and(|kind| kind == "sst"));
    tables.max_by_key(|path| path.metadata().unwrap().len()).expect("messages at rest")
}

fn flip_a_bit(file: &Path) {
    let mut octets = std::fs::read(file).unwrap();
    let at = octets.len() / 3;
    octets[at] ^= 1 << Random::new().below(8);
    std::fs::write(file, &octets).unwrap();
}

/// Files are merged, and the damage is in the way: it ends, and is of use again when it is started. (It ended as if the disk
/// had failed, at each start again.)
#[test]
fn damage_that_is_met_when_files_are_merged_takes_no_other_messages_either() {
    let (mut broker, bodies) = filled(3000);
    flip_a_bit(&largest_table(broker.folder()));
    broker.restart();
    let mut peer = Peer::open(&broker);
    // Many files, so that they are merged.
    let body = vec![7; 1000];
    let write_some = |out: &mut Vec<u8>| {
        for queue in ["before", "behind"] {
            (0..100).for_each(|_| write_publish(out, 1, "", queue, PERSISTENT, &body, 131_072));
        }
    };
    for _ in 0..1000 {
        let mut out = Vec::new();
        write_some(&mut out);
        if peer.try_octets(&out).is_err() {
            break;
        }
    }
    assert_eq!(broker.wait().code(), Some(exit::DATA.into()));
    for _ in 0..2 {
        broker.restart();
        let told = |text: &str| broker.log().iter().any(|line| line.contains(text));
        assert!(told("is damaged: its files are left as they are"), "{:?}", broker.log());
        let mut peer = Peer::open(&broker);
        peer.confirm_select(1);
        let mut out = Vec::new();
        (0..10).for_each(|_| write_some(&mut out));
        peer.octets(&out);
        peer.expect_confirms(1, 2000);
        peer.close();
        assert!(broker.stop().success());
    }
    broker.restart();
    let mut peer = Peer::open(&broker);
    expect_all_but_some(&mut peer, &bodies);
    for queue in ["before", "behind"] {
        let (others, _) = peer.declare(1, Declare::passive(queue));
        assert!(others >= 2000, "{others}");
        for number in 0..others {
            assert_eq!(peer.get(1, queue, true).unwrap_or_else(|| panic!("{number} of {others}")).body, body);
        }
    }
}

/// Has reads of RocksDB's tables fail while the file exists that `FAIL_WHILE` names.
const FAILING_READS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
ssize_t pread64(int descriptor, void *buffer, size_t count, off_t offset) {
    static ssize_t (*real)(int, void *, size_t, off_t);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "pread64");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    const char *file = getenv("FAIL_WHILE");
    if (length > 4 && !memcmp(path + length - 4, ".sst", 4) && file && !access(file, F_OK)) {
        errno = EIO;
        return -1;
    }
    return real(descriptor, buffer, count, offset);
}
ssize_t pread(int descriptor, void *buffer, size_t count, off_t offset) { return pread64(descriptor, buffer, count, offset); }
"#;

/// The library, or `None` and a line that says so where nothing compiles C.
fn failing_reads(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("failing.c"), folder.join("failing.so"));
    std::fs::write(&source, FAILING_READS).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no C compiler");
        return None;
    }
    Some(library)
}

/// (One failed read once had everything behind it settled for good.)
#[test]
fn messages_that_cannot_be_read_for_a_while_are_there_afterwards() {
    let folder = TempDir::new().unwrap();
    let Some(library) = failing_reads(folder.path()) else { return };
    let (mut broker, bodies) = filled(3000);
    let fails = folder.path().join("fails");
    broker.restart_preloaded(&library, &[("FAIL_WHILE", fails.to_str().unwrap())]);
    let mut peer = Peer::open(&broker);
    let mut found: Vec<Content> = (0..10).map(|_| peer.get(1, "q", true).expect("the first ones")).collect();
    std::fs::write(&fails, "").unwrap();
    // Those in memory still come. It ends when it needs others.
    loop {
        let get = amq_protocol::protocol::basic::Get { queue: "q".into(), no_ack: true };
        let mut out = Vec::new();
        let class = amq_protocol::protocol::AMQPClass::Basic(amq_protocol::protocol::basic::AMQPMethod::Get(get));
        leveret::amqp::method::write(&mut out, 1, &class);
        if peer.try_octets(&out).is_err() || peer.try_next().is_none() {
            break;
        }
        let (Some(_), Some(super::support::peer::Incoming::Body(1, body))) = (peer.try_next(), peer.try_next()) else {
            break;
        };
        found.push(Content { body, ..found[0].clone() });
    }
    assert_eq!(broker.wait().code(), Some(exit::IO.into()));
    std::fs::remove_file(&fails).unwrap();
    broker.restart();
    check(&found, &bodies);
    let mut peer = Peer::open(&broker);
    let left: Vec<Content> = std::iter::from_fn(|| peer.get(1, "q", true)).collect();
    check(&left, &bodies);
    // What was got in the last moment may come again.
    let missing = bodies.iter().filter(|body| !found.iter().chain(&left).any(|content| content.body == **body)).count();
    assert_eq!(missing, 0, "{} were got, {} are there", found.len(), left.len());
}
