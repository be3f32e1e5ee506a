//! Memory or disk run short: publishers wait until there is more, everybody else goes on.
//!
//! A look compares what is used with two watermarks ([`Alarms::look`]); the nearer they are, the sooner the next one.
//! An alarm ends only a good deal on the safe side of its mark, so that publishers are not stopped and let go at every
//! look. Connections ask [`Alarms::active`] whenever they have read something, and are woken when the answer changes.

use crate::config::Watermark;
use crate::store::Disk;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// What has run short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    Memory,
    Disk,
}

impl Alarm {
    pub const ALL: [Self; 2] = [Self::Memory, Self::Disk];

    /// RabbitMQ's word for it.
    pub fn source(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Memory => 1,
            Self::Disk => 2,
        }
    }
}

/// The alarms that are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Active(u8);

impl Active {
    pub fn any(self) -> bool {
        self.0 != 0
    }

    pub fn contains(self, alarm: Alarm) -> bool {
        self.0 & alarm.bit() != 0
    }

    /// Those that are on.
    pub fn each(self) -> impl Iterator<Item = Alarm> {
        Alarm::ALL.into_iter().filter(move |alarm| self.contains(*alarm))
    }

    fn with(self, alarm: Alarm, on: bool) -> Self {
        Self(if on { self.0 | alarm.bit() } else { self.0 & !alarm.bit() })
    }

    /// The reason in connection.blocked: `low on memory & disk`.
    pub fn reason(self) -> String {
        let short: Vec<&str> = self.each().map(Alarm::source).collect();
        format!("low on {}", short.join(" & "))
    }
}

/// What was found at a look, octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub memory_total: u64,
    /// `None` if it can't be found out; the alarm then stays as it is.
    pub memory_used: Option<u64>,
    pub disk: Option<Disk>,
}

/// Where alarms begin, octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    pub memory: u64,
    pub disk_free: u64,
}

#[derive(Debug)]
pub struct Alarms {
    active: AtomicU8,
    limits: Mutex<Limits>,
    last: Mutex<Option<(Reading, Marks)>>,
    /// The limits are others now: look at once.
    changed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    memory: Watermark,
    /// `None`: what suits the disk ([`disk_mark`]).
    disk: Option<Watermark>,
}

/// An alarm that a look turned on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turned {
    pub alarm: Alarm,
    pub on: bool,
}

/// What follows from a look.
#[derive(Debug)]
pub struct Look {
    pub turned: Vec<Turned>,
    /// When to look again.
    pub again: Duration,
}

impl Alarms {
    pub fn new(memory: Watermark, disk: Option<Watermark>) -> Self {
        Self {
            active: AtomicU8::new(0),
            limits: Mutex::new(Limits { memory, disk }),
            last: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The alarms that are on: one look at a number.
    pub fn active(&self) -> Active {
        Active(self.active.load(Ordering::Acquire))
    }

    /// Changes the mark for memory until the next start (`set_vm_memory_high_watermark`).
    pub fn set_memory_watermark(&self, watermark: Watermark) {
        self.limits.lock().memory = watermark;
        self.changed.notify_one();
    }

    /// Changes the mark for the disk until the next start (`set_disk_free_limit`).
    pub fn set_disk_free_limit(&self, limit: Watermark) {
        self.limits.lock().disk = Some(limit);
        self.changed.notify_one();
    }

    /// Waits until a mark is changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What was found at the last look, and the marks it was held against.
    pub fn last(&self) -> Option<(Reading, Marks)> {
        *self.last.lock()
    }

    /// Holds a reading against the marks. One caller at a time.
    pub fn look(&self, reading: Reading) -> Look {
        let limits = *self.limits.lock();
        let mut look = Look { turned: Vec::new(), again: MEMORY_LOOKS.1 };
        let mut active = self.active();
        let mut marks = Marks { memory: limits.memory.bytes(reading.memory_total), disk_free: 0 };
        let mut turn = |alarm, on| {
            if active.contains(alarm) != on {
                look.turned.push(Turned { alarm, on });
                active = active.with(alarm, on);
            }
        };
        if let Some(used) = reading.memory_used {
            let on = memory_short(self.active().contains(Alarm::Memory), used, marks.memory);
            look.again = look.again.min(memory_again(on, used, marks.memory));
            turn(Alarm::Memory, on);
        }
        if let Some(disk) = reading.disk {
            marks.disk_free = disk_mark(limits.disk, reading.memory_total, disk.total);
            let on = disk_short(self.active().contains(Alarm::Disk), disk.free, marks.disk_free);
            look.again = look.again.min(disk_again(on, disk.free, marks.disk_free));
            turn(Alarm::Disk, on);
        }
        self.active.store(active.0, Ordering::Release);
        *self.last.lock() = Some((reading, marks));
        look
    }
}

/// The disk's mark if nobody says: room for what is in flight when the alarm begins, for what the store still writes
/// and for rearranging its files. RabbitMQ's 50 MB are gone between two looks; a fixed 2 GiB would keep a small volume or
/// a full laptop from working at all.
const DISK_FREE: u64 = 512 << 20;
/// The same on a small file system: a part of it, and RabbitMQ's mark at least.
const DISK_FREE_PART: u64 = 10;
const DISK_FREE_MIN: u64 = 50_000_000;

fn disk_mark(limit: Option<Watermark>, memory_total: u64, disk_total: u64) -> u64 {
    match limit {
        Some(limit) => limit.bytes(memory_total),
        None => (disk_total / DISK_FREE_PART).clamp(DISK_FREE_MIN, DISK_FREE),
    }
}

/// Whether there is too little disk now, given whether there was.
fn disk_short(was: bool, free: u64, mark: u64) -> bool {
    free < if was { disk_clear(mark) } else { mark }
}

/// The alarm ends with so much free.
fn disk_clear(mark: u64) -> u64 {
    mark.saturating_add(mark / 5)
}

/// Whether there is too little memory now, given whether there was.
fn memory_short(was: bool, used: u64, mark: u64) -> bool {
    used > if was { memory_clear(mark) } else { mark }
}

/// The alarm ends with no more than so much in use.
fn memory_clear(mark: u64) -> u64 {
    mark - mark / 20
}

/// Between two looks, the least and the longest time: RabbitMQ's.
const DISK_LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const MEMORY_LOOKS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(2500));
/// While an alarm is on, publishers wait for the next look.
const ALARMED_LOOKS: Duration = Duration::from_secs(1);
/// How fast memory or disk may be used up: RabbitMQ's `FAST_RATE`.
const OCTETS_PER_MS: u64 = 250_000;

fn disk_again(on: bool, free: u64, mark: u64) -> Duration {
    let turning = if on { disk_clear(mark) } else { mark };
    again(on, free.abs_diff(turning), DISK_LOOKS)
}

fn memory_again(on: bool, used: u64, mark: u64) -> Duration {
    let turning = if on { memory_clear(mark) } else { mark };
    again(on, used.abs_diff(turning), MEMORY_LOOKS)
}

/// When to look again if what is looked at is so far from turning the alarm on or off.
fn again(on: bool, distance: u64, (least, longest): (Duration, Duration)) -> Duration {
    let ideal = Duration::from_millis(2 * (distance / OCTETS_PER_MS));
    ideal.clamp(least, if on { longest.min(ALARMED_LOOKS) } else { longest })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn reading(memory_used: u64, disk_free: u64) -> Reading {
        let disk = Some(Disk { free: disk_free, total: 100_000 * MB });
        Reading { memory_total: 1000 * MB, memory_used: Some(memory_used), disk }
    }

    fn alarms() -> Alarms {
        Alarms::new(Watermark::Relative(600_000), Some(Watermark::Absolute(100 * MB)))
    }

    fn turned(alarm: Alarm, on: bool) -> Turned {
        Turned { alarm, on }
    }

    #[test]
    fn an_alarm_begins_at_its_mark_and_ends_on_the_safe_side() {
        let alarms = alarms();
        let look = |memory, disk| alarms.look(reading(memory * MB, disk * MB)).turned;
        assert_eq!(look(600, 100), []);
        assert!(!alarms.active().any());
        assert_eq!(look(601, 100), [turned(Alarm::Memory, true)]);
        assert_eq!(look(601, 99), [turned(Alarm::Disk, true)]);
        assert_eq!(alarms.active().reason(), "low on memory & disk");
        assert_eq!(look(571, 119), []);
        assert_eq!(look(570, 119), [turned(Alarm::Memory, false)]);
        assert_eq!(alarms.active().reason(), "low on disk");
        assert_eq!(look(600, 120), [turned(Alarm::Disk, false)]);
        assert!(!alarms.active().any());
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let alarms = alarms();
        assert_eq!(alarms.look(reading(700 * MB, 0)).turned.len(), 2);
        let blind = Reading { memory_used: None, disk: None, ..reading(0, 0) };
        assert_eq!(alarms.look(blind).turned, []);
        assert!(alarms.active().contains(Alarm::Memory) && alarms.active().contains(Alarm::Disk));
    }

    #[test]
    fn marks_change_while_the_broker_runs() {
        let alarms = alarms();
        assert_eq!(alarms.look(reading(100 * MB, 1000 * MB)).turned, []);
        alarms.set_memory_watermark(Watermark::Absolute(0));
        assert_eq!(alarms.look(reading(100 * MB, 1000 * MB)).turned, [turned(Alarm::Memory, true)]);
        alarms.set_memory_watermark(Watermark::Relative(600_000));
        alarms.set_disk_free_limit(Watermark::Relative(2_000_000));
        let look = alarms.look(reading(100 * MB, 1000 * MB));
        assert_eq!(look.turned, [turned(Alarm::Memory, false), turned(Alarm::Disk, true)]);
        assert_eq!(alarms.last().unwrap().1, Marks { memory: 600 * MB, disk_free: 2000 * MB });
    }

    #[test]
    fn the_disks_mark_suits_the_disk() {
        let mark = |total| disk_mark(None, 0, total);
        assert_eq!(mark(1 << 40), 512 << 20);
        assert_eq!(mark(2 << 30), (2 << 30) / 10);
        assert_eq!(mark(128 << 20), 50_000_000);
    }

    #[test]
    fn looks_come_sooner_the_nearer_the_mark() {
        let ms = Duration::from_millis;
        assert_eq!(disk_again(false, 100_000 * MB, 100 * MB), ms(10_000));
        assert_eq!(disk_again(false, 350 * MB, 100 * MB), ms(2000));
        assert_eq!(disk_again(false, 100 * MB, 100 * MB), ms(100));
        assert_eq!(disk_again(true, 0, 100_000 * MB), ms(1000));
        assert_eq!(disk_again(true, 119 * MB, 100 * MB), ms(100));
        assert_eq!(memory_again(false, 0, 10_000 * MB), ms(2500));
        assert_eq!(memory_again(false, 475 * MB, 600 * MB), ms(1000));
    }
}
