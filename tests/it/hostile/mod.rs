//! One script for each kind of hostile client, with a normal client measured beside it: the normal one's 99th
//! percentile at most doubles, the broker's memory stays within what its limits add up to, and it serves afterwards.
//!
//! What the normal client is compared with is itself, a moment earlier, beside threads that only burn as much processor
//! time as the script's may: this machine's cores are shared with the attackers, which is no fault of the broker's.
//! `LEVERET_HOSTILE_MS` makes each measurement longer.

mod connecting;
mod greedy;
mod logged_in;

use super::support::peer::{PERSISTENT, PLAIN};
use super::support::{Broker, Declare, Peer, scale};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Below this a percentile says more of this machine's scheduler than of the broker.
const FLOOR: Duration = Duration::from_millis(5);
/// The same of the disk, which takes so long for what others have it write, other tests among them.
const DISK_FLOOR: Duration = Duration::from_millis(25);
/// A neighbour of this process may spoil a measurement; a limit that does not hold spoils all of them.
const ATTEMPTS: u32 = 4;
/// Between two round trips of the normal client.
const PAUSE: Duration = Duration::from_millis(1);
/// Scripts take turns, for the sake of what they measure.
static TURN: Mutex<()> = Mutex::new(());

/// What the normal client does, again and again.
#[derive(Clone, Copy, PartialEq)]
enum Normal {
    /// Publishes a message with a confirm, and has it delivered.
    Transient,
    /// The same with messages that the disk must have.
    Persistent,
    /// Comes anew, does so once, and goes.
    Newcomer,
}

/// Tells a script's threads to end.
#[derive(Default)]
struct Stop(AtomicBool);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Script {
    normal: Normal,
    /// Attackers at a time.
    threads: usize,
    /// How much the broker may grow.
    memory_bytes_max: u64,
}

impl Script {
    /// Has `attack` called by each of the threads, with its number, until it is told to stop; it may end earlier.
    fn run(&self, broker: &mut Broker, attack: impl Fn(&Broker, usize, &Stop) + Sync) {
        let _turn = TURN.lock();
        let time = Duration::from_millis(scale("LEVERET_HOSTILE_MS", 600));
        // What is allocated for whoever comes first is no growth.
        self.measure(broker, Duration::from_millis(100), &|_, _, _| {});
        let before = broker.resident_bytes();
        let mut seen = Vec::new();
        let is_unharmed = (0..ATTEMPTS).any(|_| {
            let (alone, _) = self.measure(broker, time, &|_, _, stop| burn(stop));
            let (beside, most) = self.measure(broker, time, &attack);
            let grown = most.saturating_sub(before);
            println!("99 % within {alone:?} alone, {beside:?} beside it; {} KiB more at most", grown >> 10);
            assert!(grown <= self.memory_bytes_max, "grew by {grown} octets");
            seen.push((alone, beside));
            let floor = if self.normal == Normal::Persistent { DISK_FLOOR } else { FLOOR };
            beside <= 2 * alone.max(floor)
        });
        assert!(is_unharmed, "99th percentiles alone and beside the hostile client: {seen:?}");
        assert!(broker.is_running());
        Client::new(broker, Normal::Transient).round_trip(broker);
    }

    /// The normal client's 99th percentile, and the most memory that was seen meanwhile.
    fn measure(
        &self,
        broker: &Broker,
        time: Duration,
        attack: &(impl Fn(&Broker, usize, &Stop) + Sync),
    ) -> (Duration, u64) {
        let (stop, most) = (Stop::default(), AtomicU64::new(0));
        let mut client = Client::new(broker, self.normal);
        let mut took = Vec::new();
        std::thread::scope(|scope| {
            for number in 0..self.threads {
                let stop = &stop;
                scope.spawn(move || attack(broker, number, stop));
            }
            scope.spawn(|| {
                while !stop.is_set() {
                    most.fetch_max(broker.resident_bytes(), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let end = Instant::now() + time;
            while Instant::now() < end {
                took.push(client.round_trip(broker));
                std::thread::sleep(PAUSE);
            }
            stop.0.store(true, Ordering::Relaxed);
        });
        client.leave();
        took.sort();
        (took[took.len() * 99 / 100], most.into_inner().max(broker.resident_bytes()))
    }
}

fn burn(stop: &Stop) {
    while !stop.is_set() {
        std::hint::spin_loop();
    }
}

/// The normal client.
struct Client {
    normal: Normal,
    peer: Option<Peer>,
    rounds: u64,
}

impl Client {
    fn new(broker: &Broker, normal: Normal) -> Self {
        let peer = (normal != Normal::Newcomer).then(|| Self::come(broker, normal));
        Self { normal, peer, rounds: 0 }
    }

    fn come(broker: &Broker, normal: Normal) -> Peer {
        let mut peer = Peer::open(broker);
        // Not exclusive: that would not be durable.
        let durable = normal == Normal::Persistent;
        let name = if durable { "normal-durable" } else { "normal" };
        peer.declare(1, Declare { name, durable, auto_delete: true, ..Declare::default() });
        peer.open_channel(2);
        peer.confirm_select(2);
        peer.consume(1, name, "normal", true);
        peer
    }

    /// Its queue goes with it, before the next one comes.
    fn leave(self) {
        if let Some(peer) = self.peer {
            peer.close();
        }
    }

    fn round_trip(&mut self, broker: &Broker) -> Duration {
        let began = Instant::now();
        let (queue, properties) = match self.normal {
            Normal::Persistent => ("normal-durable", PERSISTENT),
            Normal::Transient | Normal::Newcomer => ("normal", PLAIN),
        };
        let mut newcomer = (self.normal == Normal::Newcomer).then(|| Self::come(broker, self.normal));
        let peer = self.peer.as_mut().or(newcomer.as_mut()).unwrap();
        self.rounds += 1;
        let body = self.rounds.to_be_bytes();
        peer.publish(2, queue, properties, &body);
        peer.expect_confirmed_and_delivered(&body);
        if let Some(newcomer) = newcomer {
            newcomer.close();
        }
        began.elapsed()
    }
}
