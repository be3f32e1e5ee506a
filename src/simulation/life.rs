//! One life of a broker: from its start to a crash or a clean end, with all who talk to it.

use super::client::{Client, Gone, Outcome};
use super::load;
use super::world::World;
use crate::admission::{self, Door};
use crate::auth::Algorithm;
use crate::broker::Broker;
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::store::simulated::Fault;
use crate::store::{Durability, Options, Store};
use crate::transport::simulated::Way;
use crate::transport::{self, Reader, Writer};
use leveret_checker::{Crash, Event, Random};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep, timeout};

/// How long a life may take in which nothing crashes, before somebody is said to wait in vain.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long connections may take to end when the broker stops.
const GOODBYE: Duration = Duration::from_secs(10);
/// Octets on the way from one end of a connection to the other.
const WAY_BYTES: std::ops::RangeInclusive<u64> = 4 << 10..=(64 << 10) - 1;

/// How a life is to end.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// Clients have done all that they wanted; then this happens.
    Quiet(Crash),
    /// It happens so many milliseconds after the start, or after clients began to publish.
    Crash(From, u64, Crash),
    /// The write after so many fails, and with it the process ends; the power may fail as well.
    Disk(u32, Fault, Crash),
}

/// Since when time is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Start,
    Work,
}

/// What clients see of a broker.
pub struct Life {
    pub broker: Arc<Broker>,
    pub world: Arc<World>,
    door: Arc<Door>,
    /// Where time began for it, and what it was then, in microseconds of the world.
    begun: (Instant, u64),
    ports: AtomicU16,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    network: Mutex<Random>,
    /// Consumers, and their queues.
    pub consumers: Mutex<BTreeMap<u32, String>>,
    /// The broker was asked to stop: nobody new is let in.
    is_stopping: AtomicBool,
    /// Told when all is declared.
    pub works: Notify,
}

/// The settings of a broker smaller than any that may be set: what is rare in a large one happens here.
fn config() -> Arc<Config> {
    let mut sources = Sources::default();
    sources.flags.push(("data_dir".to_owned(), vec!["/nonexistent".to_owned()]));
    let (mut config, _) = Config::load(&sources).expect("settings that are allowed");
    (config.messages_memory, config.queue_memory, config.unsynced_max) = (64 << 10, 16 << 10, 256 << 10);
    // The slow ones are computed by threads.
    config.password_hashing = Algorithm::Sha256;
    Arc::new(config)
}

/// Lives until its end. An error: somebody waited in vain, or was told what nobody should be told.
pub fn live(world: &Arc<World>, random: &mut Random, end: End, is_last: bool) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime needs nothing");
    let crash = runtime.block_on(async {
        let begun = Instant::now();
        let crash = lead(world, random, end, is_last).await;
        world.pass(begun.elapsed());
        crash
    });
    drop(runtime);
    let crash = crash?;
    world.note(world.now_us(), Event::Crash { kind: crash });
    world.disk.crash(|unsynced| match crash {
        Crash::Power => random.index(unsynced + 1),
        Crash::Kill | Crash::Stop => unsynced,
    });
    Ok(())
}

async fn lead(world: &Arc<World>, random: &mut Random, end: End, is_last: bool) -> Result<Crash, String> {
    let config = config();
    let options = Options {
        folder: config.data_dir.clone(),
        durability: Durability::Fsync,
        write_buffer_bytes: 1 << 20,
        backlog_bytes_max: usize::try_from(config.unsynced_max).unwrap_or(usize::MAX),
        ballast_bytes: 0,
    };
    let (store, reads) = Store::simulated(&world.disk, &options);
    let slowest_ms = if random.chance(50) { 20 } else { 3 };
    let mut pauses = [random.fork(), random.fork()];
    let [commit_pauses, read_pauses] = &mut pauses;
    let commits = store.simulate_commits(&world.disk, || Duration::from_millis(commit_pauses.below(slowest_ms)));
    let reading = store.simulate_reads(reads, || Duration::from_millis(read_pauses.below(3)));
    tokio::pin!(commits, reading);

    let broker = Broker::over(config, Arc::clone(&store), Clock::at(world.now_us() / 1000));
    let life = Arc::new(Life {
        broker: broker.map_err(|error| format!("it does not start: {error}"))?,
        world: Arc::clone(world),
        door: Door::new(admission::Limits {
            clients_max: 1000,
            unknown_max: 1000,
            unknown_per_address: 1000,
            accepts_per_address: None,
        }),
        begun: (Instant::now(), world.now_us()),
        ports: AtomicU16::new(1024),
        tasks: Mutex::default(),
        network: Mutex::new(random.fork()),
        consumers: Mutex::default(),
        is_stopping: AtomicBool::new(false),
        works: Notify::new(),
    });
    if world.has_crashed() {
        life.note(Event::Recovered);
    }
    let time = Arc::clone(&life.broker);
    life.keep(tokio::spawn(async move { time.keep_time().await }));
    if let End::Disk(writes, fault, _) = end {
        world.disk.fail_after(writes, fault);
    }
    let mut full = random.fork();
    let disk = Arc::clone(&world.disk);
    life.keep(tokio::spawn(async move {
        // Sometimes the disk is full for a while.
        if full.chance(15) {
            sleep(Duration::from_millis(full.below(100))).await;
            disk.set_room(Some(full.index(4096)));
            sleep(Duration::from_millis(full.below(100))).await;
            disk.set_room(None);
        }
    }));
    let work = tokio::spawn(load::run(Arc::clone(&life), random.fork(), is_last));
    tokio::pin!(work);
    let (from, crash_at, crash) = match end {
        End::Quiet(crash) | End::Disk(_, _, crash) => (From::Start, PATIENCE, crash),
        End::Crash(from, ms, crash) => (from, Duration::from_millis(ms), crash),
    };
    let until_crash = async {
        if from == From::Work {
            life.works.notified().await;
        }
        sleep(crash_at).await;
    };
    let crash_of_disk = if crash == Crash::Stop { Crash::Kill } else { crash };
    let outcome = tokio::select! {
        biased;
        // The process ends with its disk, whatever it was doing.
        Err(_) = &mut commits => Ok(crash_of_disk),
        () = &mut reading => Err("the store's reader ended".to_owned()),
        () = until_crash => match end {
            End::Crash(..) => Ok(crash),
            End::Quiet(_) | End::Disk(..) => Err(format!("somebody waits in vain: {}", life.waiting())),
        },
        done = &mut work => match done {
            // They were told, and the process is about to end.
            Ok(_) if world.disk.has_failed() => Ok(crash_of_disk),
            Ok(done) => done.map(|()| crash),
            Err(panic) => Err(panic.to_string()),
        },
    };
    let outcome = match outcome {
        Ok(Crash::Stop) => {
            life.is_stopping.store(true, Ordering::Relaxed);
            life.all_gone();
            life.broker.connections.close_all("broker forced connection closure with reason 'shutdown'");
            let bye = async {
                while life.broker.connections.count() > 0 {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            let commits_until = async {
                tokio::select! {
                    biased;
                    ended = &mut commits => Err(ended),
                    said = timeout(GOODBYE, bye) => Ok(said),
                }
            };
            match commits_until.await {
                Ok(_) => {
                    life.broker.close();
                    match commits.await {
                        Ok(()) => Ok(Crash::Stop),
                        Err(_) => Ok(Crash::Kill),
                    }
                }
                Err(_) => Ok(Crash::Kill),
            }
        }
        outcome => outcome,
    };
    let tasks = std::mem::take(&mut *life.tasks.lock());
    for task in tasks {
        if task.is_finished()
            && let Err(panic) = task.await
        {
            return Err(format!("a task of the broker panicked: {panic}"));
        }
    }
    outcome
}

impl Life {
    fn keep(&self, task: JoinHandle<()>) {
        self.tasks.lock().push(task);
    }

    /// A consumer has begun. If the broker is stopping, its connection is about to end.
    pub fn came(&self, consumer: u32, queue: &str) {
        self.consumers.lock().insert(consumer, queue.to_owned());
        if self.is_stopping.load(Ordering::Relaxed) {
            self.gone(consumer);
        }
    }

    /// A consumer's connection ends, if it has not yet.
    pub fn gone(&self, consumer: u32) {
        if let Some(queue) = self.consumers.lock().remove(&consumer) {
            self.note(Event::Gone { consumer, queue, unread: true });
        }
    }

    fn all_gone(&self) {
        let all: Vec<u32> = self.consumers.lock().keys().copied().collect();
        all.into_iter().for_each(|consumer| self.gone(consumer));
    }

    /// Microseconds of the world.
    fn now_us(&self) -> u64 {
        self.begun.1 + u64::try_from(self.begun.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn note(&self, event: Event) {
        self.world.note(self.now_us(), event);
    }

    /// A client that has logged in and opened channel 1.
    pub async fn connect(&self) -> Outcome<Client> {
        if self.is_stopping.load(Ordering::Relaxed) {
            return Err(Gone("refused: the broker stops".into()));
        }
        let (ways, carriers) = {
            let mut network = self.network.lock();
            let mut way = || Way::new(usize::try_from(network.within(WAY_BYTES)).unwrap_or(usize::MAX));
            let ways = [way(), way()];
            (ways, [network.fork(), network.fork()])
        };
        for (way, random) in ways.iter().zip(carriers) {
            self.keep(tokio::spawn(carry(Arc::clone(way), random)));
        }
        let [up, down] = ways;
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 5672));
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports.fetch_add(1, Ordering::Relaxed)));
        let client = transport::Client {
            reader: Reader::Simulated(Arc::clone(&up)),
            writer: Writer::Simulated(Arc::clone(&down)),
            peer,
            local,
            accepted: Instant::now(),
            tls: None,
        };
        let guest = self.door.admit(IpAddr::from(Ipv4Addr::LOCALHOST), true).expect("there is room");
        self.keep(tokio::spawn(crate::connection::serve(Arc::clone(&self.broker), client, guest)));
        Client::open(up, down).await
    }

    /// Messages that are in a queue, ready and unacknowledged.
    pub fn counts(&self, queue: &str) -> (u64, u64) {
        let queue = self.broker.vhost("/").and_then(|vhost| vhost.queue_named(queue));
        queue.map_or((0, 0), |queue| {
            let counts = queue.counts();
            (counts.ready, counts.unacked)
        })
    }

    /// What is in queues, for whoever looks for what hangs.
    fn waiting(&self) -> String {
        let queues = self.world.queues.iter().map(|queue| format!("{} {:?}", queue.name, self.counts(&queue.name)));
        queues.collect::<Vec<_>>().join(", ")
    }
}

/// The network: octets arrive late, and in other pieces than they were sent in.
async fn carry(way: Arc<Way>, mut random: Random) {
    loop {
        way.loaded().await;
        if random.chance(30) {
            sleep(Duration::from_millis(random.below(4))).await;
        }
        let all = random.chance(70);
        if !way.carry(|sent| if all { sent } else { 1 + random.index(sent) }) {
            return;
        }
        tokio::task::yield_now().await;
    }
}
