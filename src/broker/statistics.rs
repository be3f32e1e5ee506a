//! Samples of what is counted, taken by one task: of everything the last two, for rates; of the broker as a whole a day.
//!
//! Counters are kept by those who do things (`metrics`); nothing here is asked while messages pass.

use super::Broker;
use super::readings;
use crate::config::Config;
use crate::metrics::{CHURN, Histories, History, Recent, Retention, STATS, Sample, Totals, TotalsSnapshot};
use crate::queue::classic::NUMBERS;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What is sampled of the whole: the counters of messages, how many are ready and out, what came and went, octets received
/// and sent, and then what the node uses ([`NODE`]).
pub const WHOLE: usize = NUMBERS + CHURN.len() + 2 + NODE.len();
/// Where each begins.
pub const CHURN_AT: usize = NUMBERS;
pub const TRAFFIC_AT: usize = CHURN_AT + CHURN.len();
pub const NODE_AT: usize = TRAFFIC_AT + 2;

/// What a node uses, by RabbitMQ's names.
pub const NODE: [&str; 10] = [
    "mem_used",
    "fd_used",
    "sockets_used",
    "proc_used",
    "disk_free",
    "context_switches",
    "io_read_count",
    "io_write_count",
    "io_write_bytes",
    "io_sync_count",
];

/// See the module's text.
#[derive(Debug)]
pub struct Statistics {
    /// How many single things may have a history.
    pub histories: Arc<Histories>,
    /// Whether anything is sampled at all.
    pub is_on: bool,
    /// For how long the past of the whole is kept.
    policy: Vec<Retention>,
    whole: Mutex<Whole>,
    /// What was done in virtual hosts that are gone.
    gone: Mutex<TotalsSnapshot>,
}

#[derive(Debug)]
struct Whole {
    recent: Recent<WHOLE>,
    history: History<WHOLE>,
}

impl Statistics {
    pub fn new(config: &Config) -> Self {
        let policy = |samples: &[(u64, u64)]| samples.iter().copied().map(Retention::of).collect::<Vec<_>>();
        let (all, single) = (policy(&config.statistics.samples_global), policy(&config.statistics.samples_basic));
        let whole = Whole { recent: Recent::default(), history: History::new(&all) };
        Self {
            histories: Histories::new(config.statistics.histories_max, single),
            policy: all,
            is_on: config.statistics.interval.is_some(),
            whole: Mutex::new(whole),
            gone: Mutex::default(),
        }
    }

    /// A virtual host goes. Called with the lock of the map of virtual hosts.
    pub(super) fn absorb(&self, totals: &Totals) {
        *self.gone.lock() += &totals.snapshot();
    }

    /// The last two looks at the whole.
    pub fn recent(&self) -> Recent<WHOLE> {
        self.whole.lock().recent
    }

    /// Forgets the past of the whole.
    pub fn forget(&self) {
        let mut whole = self.whole.lock();
        whole.history = History::new(&self.policy);
        let samples: Vec<_> = whole.recent.each().collect();
        samples.into_iter().for_each(|sample| whole.history.push(sample));
    }

    /// Its past.
    pub fn samples(&self, grid: crate::metrics::Grid, now_ms: u64) -> Vec<Sample<WHOLE>> {
        self.whole.lock().history.on_grid(grid, now_ms)
    }
}

impl Broker {
    /// Takes samples, for ever.
    pub async fn keep_statistics(self: Arc<Self>) {
        let Some(interval) = self.config.statistics.interval else { return };
        let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let broker = Arc::clone(&self);
            // A look at a hundred thousand queues takes a while.
            if tokio::task::spawn_blocking(move || broker.sample()).await.is_err() {
                tracing::error!("statistics could not be sampled");
            }
        }
    }

    /// What was done in all virtual hosts that there ever were. Never less than before.
    pub fn totals(&self) -> TotalsSnapshot {
        let vhosts = self.vhosts.read();
        let mut sum = *self.statistics.gone.lock();
        vhosts.values().for_each(|vhost| sum += &vhost.totals().snapshot());
        sum
    }

    /// Looks at everything once.
    fn sample(&self) {
        let at_ms = self.now_ms();
        let (mut all_ready, mut all_unacked) = (0, 0);
        for vhost in self.list_vhosts() {
            let (mut ready, mut unacked) = (0, 0);
            for queue in vhost.queues() {
                let lengths = queue.sample(at_ms);
                ready += lengths.ready;
                unacked += lengths.unacked;
            }
            vhost.look_at_exchanges(at_ms);
            let mut values = [0; NUMBERS];
            values[..STATS].copy_from_slice(&vhost.totals().snapshot().all().0);
            [values[STATS], values[STATS + 1]] = [ready, unacked];
            vhost.watch.push(Sample { at_ms, values });
            all_ready += ready;
            all_unacked += unacked;
        }
        for connection in self.connections.list() {
            let [received, _, sent, _] = connection.traffic.snapshot();
            connection.watch.push(Sample { at_ms, values: [received, sent] });
            connection.channels().iter().for_each(|channel| channel.counted.look(at_ms));
        }
        let mut values = [0; WHOLE];
        values[..STATS].copy_from_slice(&self.totals().all().0);
        [values[STATS], values[STATS + 1]] = [all_ready, all_unacked];
        values[CHURN_AT..TRAFFIC_AT].copy_from_slice(&self.churn().snapshot());
        let [received, _, sent, _] = self.connections.traffic().snapshot();
        [values[TRAFFIC_AT], values[TRAFFIC_AT + 1]] = [received, sent];
        values[NODE_AT..].copy_from_slice(&self.node_numbers());
        let mut whole = self.statistics.whole.lock();
        whole.recent.push(Sample { at_ms, values });
        whole.history.push(Sample { at_ms, values });
    }

    /// What the node uses now, in the order of [`NODE`]; 0 for what can't be found out.
    pub fn node_numbers(&self) -> [u64; NODE.len()] {
        let process = readings::process();
        let disk_free = self.alarms.last().and_then(|(reading, _)| reading.disk).map_or(0, |disk| disk.free);
        let times = self.store_times();
        let sync = times.sync.seen();
        let syncs = sync.buckets.iter().sum();
        [
            process.memory,
            process.descriptors,
            self.connections.count() as u64,
            process.threads,
            disk_free,
            process.context_switches,
            times.reads.load(Ordering::Relaxed),
            syncs,
            times.written_bytes.load(Ordering::Relaxed),
            syncs,
        ]
    }
}
