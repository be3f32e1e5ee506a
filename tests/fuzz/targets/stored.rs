//! What lies on disk: blocks of messages, what is kept beside them, and definitions. Damage is refused, and what is taken
//! makes a queue.
//!
//! Input: which of them, and its octets. Rows are pieces with a kind, a number and their length in front.

use super::input::Input;
use leveret::exchange::{Router, Type};
use leveret::message::{Damaged, Run};
use leveret::policy::{Kind, Policy};
use leveret::queue::Settings;
use leveret::queue::rows;
use leveret::queue::settings::Declared;
use leveret::queue::state::{Rules, State};
use leveret::queue::tallies;
use leveret::store;
use leveret::vhost::records::{BindingRecord, ExchangeRecord, ParameterRecord, PolicyRecord, QueueRecord};

/// Octets of an encoded run before those that its checksum covers: version and checksum.
const UNCOVERED_BYTES: usize = 5;
/// Messages of a queue of which one by one may be looked at.
const SHORT_MESSAGES_MAX: u64 = 1 << 12;
const NOW_MS: u64 = 1_800_000_000_000;

pub fn target(data: &[u8]) {
    let Some((which, octets)) = data.split_first() else { return };
    match which % 4 {
        0 => drop(Run::decode(octets)),
        1 => run(octets),
        2 => queue(octets),
        _ => record(octets),
    }
}

/// A block whose checksum is right, whatever is in it.
fn run(octets: &[u8]) {
    let Some((at, octets)) = octets.split_first_chunk::<2>() else { return };
    let mut octets = octets.to_vec();
    if let Some((head, covered)) = octets.split_at_mut_checked(UNCOVERED_BYTES) {
        head[1..].copy_from_slice(&crc32fast::hash(covered).to_be_bytes());
    }
    let Ok(run) = Run::decode(&octets) else { return };
    assert_eq!(Run::encoded_count(&octets), Some(run.count()));
    let bodies: u64 = (0..run.count()).map(|index| run.message(index).body.len() as u64).sum();
    assert_eq!(run.body_bytes(), bodies);
    let mut again = Vec::new();
    run.encode(&mut again);
    assert_eq!(Run::decode(&again).as_ref(), Ok(&run));
    if run.count() > 0 {
        let half = run.count() / 2;
        let parts = [run.slice(0..half), run.slice(half..run.count())];
        let joined = Run::concat(parts.iter()).expect("parts of a run");
        assert_eq!((joined.count(), joined.body_bytes()), (run.count(), run.body_bytes()));
        assert!((0..run.count()).all(|index| joined.message(index) == run.message(index)));
    }
    // One octet is another: behind the version it is noticed, whichever it is.
    let at = UNCOVERED_BYTES + usize::from(u16::from_be_bytes(*at)) % (again.len() - UNCOVERED_BYTES);
    again[at] ^= 1;
    assert_eq!(Run::decode(&again), Err(Damaged::Checksum), "octet {at}");
}

/// The rows of a queue.
fn queue(octets: &[u8]) {
    const ROWS_MAX: usize = 64;
    let mut input = Input(octets);
    let mut found = store::Recovered::default();
    let rules = Rules {
        durable: true,
        quorum: input.yes(),
        memory_bytes: 1 << 20,
        max_length: input.yes().then_some(3),
        max_length_bytes: input.yes().then_some(100),
        dead_letters: input.yes(),
        ..Rules::default()
    };
    for _ in 0..ROWS_MAX {
        if input.is_empty() {
            break;
        }
        let kind = input.octet();
        let number = u64::from(input.octet()) << 56 | u64::from(input.number());
        let rows = match kind % 5 {
            0 => &mut found.marks,
            1 => &mut found.settled,
            2 => &mut found.facts,
            3 => &mut found.tallies,
            _ => {
                found.ends.push(number);
                continue;
            }
        };
        rows.push((number, input.piece(255).to_vec()));
    }
    for (_, octets) in &found.marks {
        if let Some(mark) = rows::decode_mark(octets) {
            assert_eq!(rows::encode_mark(&mark), *octets);
        }
    }
    for (_, octets) in &found.settled {
        if let Some(ranges) = rows::decode_ranges(octets) {
            assert_eq!(rows::encode_ranges(&ranges), *octets);
        }
    }
    for (_, octets) in &found.facts {
        if let Some(facts) = rows::decode_facts(octets) {
            assert_eq!(rows::decode_facts(&rows::encode_facts(&facts)), Some(facts));
        }
    }
    for (_, octets) in &found.tallies {
        if let Some(entries) = tallies::decode(octets) {
            assert_eq!(tallies::encode(&entries), *octets);
        }
    }
    let Ok(read) = rows::read(&found, |low_water| Ok(Some(low_water))) else { return };
    // What is too much is dropped one by one.
    let is_short = read.levels.iter().all(|(_, level)| level.mark.next - level.mark.low_water <= SHORT_MESSAGES_MAX);
    let rules = if is_short { rules } else { Rules { max_length: None, max_length_bytes: None, ..rules } };
    let mut state = State::<()>::recovered(rules, read.levels, read.tallies, NOW_MS);
    let look = state.look();
    assert_eq!(look.ready, state.ready());
    assert!(state.unacked() == 0, "nobody has taken anything yet");
    state.take();
    state.final_marks();
    assert_eq!(state.purge(), look.ready);
}

/// A definition.
fn record(octets: &[u8]) {
    if let Ok(record) = serde_json::from_slice::<QueueRecord>(octets) {
        let declared =
            Declared { durable: true, exclusive: false, auto_delete: record.auto_delete, arguments: &record.arguments };
        drop(Settings::parse("queue 'q' in vhost '/'", &declared));
    }
    if let Ok(record) = serde_json::from_slice::<ExchangeRecord>(octets)
        && let Some(kind) = Type::parse(&record.kind)
    {
        Router::new(kind, &record.arguments);
    }
    if let Ok(record) = serde_json::from_slice::<BindingRecord>(octets) {
        for kind in Type::ALL {
            let mut router = Router::new(kind, &record.arguments);
            assert!(router.bind_at(record.binding(), record.place));
            assert!(router.unbind(&record.binding()));
        }
    }
    if let Ok(record) = serde_json::from_slice::<PolicyRecord>(octets) {
        drop(Policy::parse(Kind::User, &record.name, &record.fields));
    }
    if let Ok(record) = serde_json::from_slice::<ParameterRecord>(octets) {
        assert!(!format!("{record:?}").contains("\"value\""));
    }
}
