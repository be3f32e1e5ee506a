//! A queue that holds messages back.

use super::*;

const NOW_MS: u64 = 1000;
const NONE: [u64; 0] = [];
const DELAYING: Rules = Rules {
    durable: true,
    quorum: false,
    priorities: Priorities::None,
    memory_bytes: 1 << 20,
    single_active_consumer: false,
    message_ttl_ms: None,
    expire_at_head: false,
    expires_ms: None,
    max_length: None,
    max_length_bytes: None,
    overflow: Overflow::DropHead,
    dead_letters: true,
    delivery_limit: None,
    delayed_retry: None,
    delays: true,
};

/// Transient messages with these delays, each with an expiration that does not matter.
fn run(delays_ms: &[u64], body: &[u8]) -> Arc<Run> {
    let mut packer = Packer::default();
    for delay_ms in delays_ms {
        let properties = [&b"\x21\0\0\0\0\x11\x07x-delayl"[..], &delay_ms.to_be_bytes(), b"\x011"].concat();
        let (exchange, routing_key, marks) = (&b""[..], &b""[..], Marks::NONE);
        let message = Message { address: b"\0\0", exchange, routing_key, marks, properties: &properties, body };
        packer.push(&message, Traits { expires: true, ..Traits::default() });
    }
    Arc::new(packer.finish())
}

fn publish(state: &mut State<u64>, delays_ms: &[u64], now_ms: u64) {
    let refused = state.publish(&run(delays_ms, b""), None, 0, now_ms, &mut Effects::default());
    assert!(refused.is_empty());
}

fn commit(state: &mut State<u64>, disk: &mut Disk, now_ms: u64) {
    disk.write(state.take());
    state.stored(now_ms, &mut Effects::default());
}

/// The positions that go on at a time, in order. Blocks are read as they are wanted.
fn due(state: &mut State<u64>, disk: &Disk, now_ms: u64) -> Vec<u64> {
    let mut found = Vec::new();
    state.tick(now_ms, &mut Effects::default());
    while state.has_dead() {
        let mut effects = Effects::default();
        for dead in state.take_dead(&mut effects) {
            let positions = dead.positions.unwrap();
            found.extend(positions.clone());
            state.buried(positions);
        }
        if let Some(load) = effects.load {
            assert_eq!(state.loaded(load, disk.read(load), now_ms, &mut Effects::default()), 0);
        }
    }
    found
}

#[test]
fn messages_go_on_in_the_order_of_their_times_and_then_of_their_positions() {
    let mut state = State::new(DELAYING, NOW_MS);
    publish(&mut state, &[30, 10, 20, 10], NOW_MS);
    publish(&mut state, &[9, 30], NOW_MS + 1);
    let disk = Disk::default();
    assert_eq!((state.ready(), state.next_time_ms()), (6, Some(NOW_MS + 10)));
    assert_eq!(due(&mut state, &disk, NOW_MS + 9), NONE);
    assert_eq!(due(&mut state, &disk, NOW_MS + 15), [1, 3, 4]);
    assert_eq!(due(&mut state, &disk, NOW_MS + 100), [2, 0, 5]);
    assert_eq!((state.ready(), state.next_time_ms()), (0, None));
}

#[test]
fn they_are_safe_only_once_they_are_on_disk_and_come_back_with_their_times() {
    let (mut state, mut disk) = (State::new(DELAYING, NOW_MS), Disk::default());
    let mut effects = Effects::default();
    state.publish(&run(&[50, 40, 30], b""), Some(7), 0, NOW_MS, &mut effects);
    assert_eq!(effects.tickets, NONE);
    disk.write(state.take());
    state.stored(NOW_MS, &mut effects);
    assert_eq!(effects.tickets, [7]);
    assert_eq!(due(&mut state, &disk, NOW_MS + 30), [2]);
    commit(&mut state, &mut disk, NOW_MS + 30);
    let mut state = disk.recover(DELAYING, NOW_MS + 35);
    assert_eq!(state.ready(), 2);
    assert_eq!(due(&mut state, &disk, NOW_MS + 39), NONE);
    assert_eq!(due(&mut state, &disk, NOW_MS + 60), [1, 0]);
}

#[test]
fn a_purge_cancels_them() {
    let (mut state, mut disk) = (State::new(DELAYING, NOW_MS), Disk::default());
    publish(&mut state, &[50, u64::MAX / 2, 30], NOW_MS);
    commit(&mut state, &mut disk, NOW_MS);
    assert_eq!(state.purge(), 3);
    assert_eq!(due(&mut state, &disk, u64::MAX), NONE);
    commit(&mut state, &mut disk, NOW_MS);
    assert!(disk.durable.is_empty());
}

#[test]
fn blocks_that_were_read_for_one_message_do_not_stay_in_memory_for_the_others() {
    let mut state = State::new(Rules { memory_bytes: 5000, ..DELAYING }, NOW_MS);
    let mut disk = Disk::default();
    for number in 0..20 {
        // The first is due last, so that all others stand behind a message that waits.
        let run = run(&[900 - number, 100 + number], &[b'x'; 1000]);
        state.publish(&run, None, 0, NOW_MS, &mut Effects::default());
        commit(&mut state, &mut disk, NOW_MS);
    }
    for number in 0..20 {
        assert_eq!(due(&mut state, &disk, NOW_MS + 100 + number), [2 * number + 1]);
        assert!(state.memory_bytes() < 10_000, "{}", state.memory_bytes());
    }
    assert_eq!(due(&mut state, &disk, NOW_MS + 900), (0..20).rev().map(|number| 2 * number).collect::<Vec<_>>());
}
