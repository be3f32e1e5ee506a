//! The pure queue by scripts: `> command`, then what it must bring about. See tests/scripts/queue/.
//!
//! ```text
//! > queue RULE…                        the first command, unless it is a plain durable queue; RULE is one of
//!       quorum  priorities=N  transient-queue  memory=N  single-active-consumer  dead-letters  ttl=MS  expire-at-head
//!       expires=MS  max-length=N  max-bytes=N  overflow=reject-publish|reject-publish-dlx  delivery-limit=N
//!       retry=all|failed|returned  retry-min=MS  retry-max=MS
//! > change RULE…                       all rules anew
//! > publish NAME… [transient] [ttl=MS] [priority=N] [bytes=N] [failed=N]
//!                                      one batch; what holds for one message alone follows its name: a/ttl=5/priority=2
//! > consume WHO [prefetch=N] [no-ack] [exclusive] [priority=N]      > cancel WHO
//! > get [no-ack]   > ack WHO NAME…   > reject WHO NAME… [failed]   > requeue WHO NAME… [failed]
//! > purge   > delete   > status   > touch
//! > hand   > hand keep                 dead letters are handed on, or nobody takes them
//! > wait MS                            time goes on; it begins at 0
//! > take   > stored   > load           what the store does: takes what is to be written, has written it, reads a block
//! > restart   > stop                   the queue is gone and comes back from what was stored; stop: gracefully
//! ```
//!
//! Positions of a priority are written `priority:number`, those of priority 0 as plain numbers.
//! `LEVERET_WRITE_SCRIPTS=1` writes down what really happened, for somebody to read and judge.

use leveret::message::{Marks, Message, Packer, Run, Traits};
use leveret::queue::consumer::{ConsumerKey, Delivery, Terms};
use leveret::queue::deadlines::Deadlines;
use leveret::queue::log;
use leveret::queue::settings::{DelayedRetry, Overflow, Retried};
use leveret::queue::state::{Effects, Facts, Got, Load, Mark, Priorities, Recovered, Rules, State, Writes};
use leveret::queue::tallies::{Tallies, Tally};
use leveret::queue::{Ranges, dead_letter::Reason};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

/// A command's arguments: `key=value` and bare words.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn text(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.split_once('=').filter(|(name, _)| *name == key)).map(|(_, value)| value)
    }

    fn number<N: std::str::FromStr>(&self, key: &str) -> Option<N> {
        self.text(key).map(|value| value.parse().ok().unwrap_or_else(|| panic!("{key}={value} is no number")))
    }

    fn flag(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    /// What is neither an option nor one of these flags.
    fn names(&self, flags: &[&str]) -> Vec<&'a str> {
        let option = |word: &str| flags.contains(&word) || word.contains('=') && !word.contains('/');
        self.0.iter().filter(|word| !option(word)).copied().collect()
    }
}

fn rules(words: &Words<'_>) -> Rules {
    let retry = words.text("retry").map(|of| DelayedRetry {
        of: match of {
            "all" => Retried::All,
            "failed" => Retried::Failed,
            "returned" => Retried::Returned,
            other => panic!("retry={other}"),
        },
        min_ms: words.number("retry-min").unwrap_or(0),
        max_ms: words.number("retry-max").unwrap_or(u64::MAX),
    });
    Rules {
        durable: !words.flag("transient-queue"),
        quorum: words.flag("quorum"),
        priorities: match words.number("priorities") {
            _ if words.flag("quorum") => Priorities::Quorum,
            Some(max) => Priorities::UpTo(max),
            None => Priorities::None,
        },
        memory_bytes: words.number("memory").unwrap_or(1 << 20),
        single_active_consumer: words.flag("single-active-consumer"),
        message_ttl_ms: words.number("ttl"),
        expire_at_head: words.flag("expire-at-head"),
        expires_ms: words.number("expires"),
        max_length: words.number("max-length"),
        max_length_bytes: words.number("max-bytes"),
        overflow: match words.text("overflow") {
            None => Overflow::DropHead,
            Some("reject-publish") => Overflow::RejectPublish,
            Some("reject-publish-dlx") => Overflow::RejectPublishDlx,
            Some(other) => panic!("overflow={other}"),
        },
        dead_letters: words.flag("dead-letters"),
        delays: words.flag("delays"),
        delivery_limit: words.number("delivery-limit"),
        delayed_retry: retry,
    }
}

/// What is on disk.
#[derive(Default)]
struct Disk {
    blocks: BTreeMap<u64, (Arc<Run>, bool)>,
    facts: BTreeMap<u64, Facts>,
    marks: BTreeMap<u8, Mark>,
    settled: BTreeMap<u8, Ranges>,
    tallies: Tallies,
}

impl Disk {
    fn write(&mut self, writes: Writes, lines: &mut Vec<String>) {
        for block in writes.blocks {
            lines.push(format!("write {} at {}", block.run.count(), show(block.first)));
            self.blocks.insert(block.first, (block.run, block.persistent));
            self.facts.extend(block.facts.map(|facts| (block.first, through_octets(facts))));
        }
        for (first, _) in writes.deleted {
            lines.push(format!("drop block {}", show(first)));
            self.blocks.remove(&first);
            self.facts.remove(&first);
        }
        for (range, persistent) in writes.purged {
            lines.push(format!("drop blocks {}", show_range(&range)));
            self.blocks.retain(|first, block| !range.contains(first) || block.1 != persistent);
            self.facts.retain(|first, _| !range.contains(first) || !persistent);
        }
        let settled = self.settled.entry(writes.level).or_default();
        if let Some(all) = writes.settled_all {
            *settled = all.into_iter().collect();
        }
        for range in writes.settled {
            lines.push(format!("settled {}", show_range(&range)));
            settled.insert(range);
        }
        if let Some(mark) = writes.mark {
            lines.push(format!("mark settled<{} delivered<{}", show(mark.low_water), show(mark.delivered_below)));
            self.marks.insert(writes.level, mark);
        }
    }

    fn count(&mut self, tallies: Vec<(Range<u64>, Tally)>, lines: &mut Vec<String>) {
        for (range, tally) in tallies {
            lines.push(format!("{} came back{}", show_range(&range), show_tally(tally)));
            self.tallies.set(range, tally);
        }
    }

    fn read(&self, load: Load) -> Option<(u64, Arc<Run>)> {
        let holds = |first: u64, run: &Run| first + u64::from(run.count()) > load.position;
        let mut blocks = self.blocks.range(..load.end).filter(|(_, block)| block.1 == load.persistent);
        blocks.find(|(first, block)| holds(**first, &block.0)).map(|(first, block)| (*first, Arc::clone(&block.0)))
    }

    fn recover(&mut self) -> (Vec<(u8, Recovered)>, Tallies) {
        self.blocks.retain(|_, block| block.1);
        let mut levels: BTreeMap<u8, Recovered> = BTreeMap::new();
        for (first, (run, _)) in &self.blocks {
            let level = log::level(*first);
            let mark = || self.marks.get(&level).cloned().unwrap_or_else(|| Mark::new(level));
            let found = levels.entry(level).or_insert_with(|| Recovered { mark: mark(), ..Recovered::default() });
            found.mark.next = found.mark.next.max(first + u64::from(run.count()));
            found.facts.extend(self.facts.get(first).map(|facts| (*first, facts.clone())));
        }
        for (level, mark) in &self.marks {
            levels.entry(*level).or_insert_with(|| Recovered { mark: mark.clone(), ..Recovered::default() });
        }
        for (level, found) in &mut levels {
            let low = found.mark.low_water;
            let settled = self.settled.get(level).cloned().unwrap_or_default();
            found.settled = settled.iter().map(|range| range.start.max(low)..range.end.max(low)).collect();
            let settled_end = found.settled.iter().last().map_or(0, |range| range.end);
            found.mark.next = found.mark.next.max(settled_end).max(low);
            let load = Load { position: low, end: u64::MAX, persistent: true };
            found.first_block = self.read(load).map_or(low, |(first, _)| first);
        }
        (levels.into_iter().collect(), self.tallies.clone())
    }
}

/// What is read is not always what was written: deadlines that have passed are to pass again.
fn through_octets(facts: Facts) -> Facts {
    let mut octets = Vec::new();
    facts.deadlines.iter().for_each(|deadlines| deadlines.encode(&mut octets));
    Facts { deadlines: Deadlines::decode(&octets).unwrap(), ..facts }
}

fn show(position: u64) -> String {
    let (level, number) = (log::level(position), position - log::base(log::level(position)));
    if level == 0 { number.to_string() } else { format!("{level}:{number}") }
}

fn show_range(range: &Range<u64>) -> String {
    format!("{}..{}", show(range.start), show(range.end))
}

fn show_tally(tally: Tally) -> String {
    let mut line = String::new();
    if tally.acquired > 0 {
        write!(line, " acquired={}", tally.acquired).unwrap();
    }
    if tally.failed > 0 {
        write!(line, " failed={}", tally.failed).unwrap();
    }
    line
}

/// A message is its name, filled up to its size.
fn name(run: &Run, index: u32) -> String {
    String::from_utf8(run.message(index).body.to_vec()).unwrap().trim_end_matches('.').into()
}

fn batch(words: &Words<'_>, names: &[&str]) -> Arc<Run> {
    let mut packer = Packer::default();
    for name in names {
        let (name, own) = name.split_once('/').unwrap_or((name, ""));
        let own = Words(own.split('/').collect());
        let option = |key: &str| own.number::<u64>(key).or(words.number(key));
        let (priority, ttl_ms) = (option("priority"), option("ttl"));
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        let mut properties =
            (flag(priority.is_some(), 1 << 11) | flag(ttl_ms.is_some(), 1 << 8)).to_be_bytes().to_vec();
        properties.extend(priority.map(|priority| u8::try_from(priority).unwrap()));
        if let Some(ttl_ms) = ttl_ms.map(|ttl_ms| ttl_ms.to_string()) {
            properties.push(u8::try_from(ttl_ms.len()).unwrap());
            properties.extend_from_slice(ttl_ms.as_bytes());
        }
        let mut body = name.as_bytes().to_vec();
        body.resize(option("bytes").map_or(body.len(), |bytes| usize::try_from(bytes).unwrap()), b'.');
        let message = Message {
            address: &[0, 0],
            exchange: b"",
            routing_key: b"",
            marks: Marks::NONE,
            properties: &properties,
            body: &body,
        };
        let persistent = !words.flag("transient");
        packer.push(&message, Traits { persistent, expires: ttl_ms.is_some(), prioritised: priority.is_some() });
    }
    Arc::new(packer.finish())
}

struct Script {
    rules: Rules,
    state: State<String>,
    consumers: BTreeMap<String, ConsumerKey>,
    /// Who holds a message, and its position.
    held: BTreeMap<(String, String), u64>,
    disk: Disk,
    load: Option<Load>,
    next: u64,
    now_ms: u64,
}

impl Script {
    fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: State::new(rules, 0),
            consumers: BTreeMap::new(),
            held: BTreeMap::new(),
            disk: Disk::default(),
            load: None,
            next: 0,
            now_ms: 0,
        }
    }

    fn who(&self, key: ConsumerKey) -> String {
        self.consumers.iter().find(|(_, known)| **known == key).map_or("get".into(), |(name, _)| name.clone())
    }

    fn deliver(&mut self, delivery: &Delivery) -> String {
        let who = self.who(delivery.consumer);
        let mut line = String::new();
        for offset in 0..delivery.count {
            let name = name(&delivery.run, delivery.index + offset);
            write!(line, " {name}").unwrap();
            self.held.insert((who.clone(), name), delivery.first + u64::from(offset));
        }
        if delivery.redelivered {
            line.push_str(" redelivered");
        }
        line + &show_tally(delivery.tally)
    }

    fn run(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (verb, arguments) = words.split_first().unwrap();
        let words = Words(arguments.to_vec());
        let now_ms = self.now_ms;
        let mut effects = Effects::default();
        let mut lines = Vec::new();
        match *verb {
            "queue" => *self = Self::new(rules(&words)),
            "change" => {
                self.rules = rules(&words);
                self.state.change(self.rules, now_ms, &mut effects);
            }
            "publish" => {
                let run = batch(&words, &words.names(&["transient"]));
                let all: Vec<String> = (0..run.count()).map(|index| name(&run, index)).collect();
                let failed = words.number("failed").unwrap_or(0);
                let refused = self.state.publish(&run, Some(all.join(" ")), failed, now_ms, &mut effects);
                let refused: Vec<String> = refused.into_iter().flatten().map(|index| name(&run, index)).collect();
                if !refused.is_empty() {
                    lines.push(format!("refused {}", refused.join(" ")));
                }
            }
            "consume" => {
                self.next += 1;
                let key = ConsumerKey(self.next);
                let terms = Terms {
                    no_ack: words.flag("no-ack"),
                    exclusive: words.flag("exclusive"),
                    prefetch: words.number("prefetch").unwrap_or(0),
                    priority: words.number("priority").unwrap_or(0),
                };
                if self.state.add_consumer(key, terms, Arc::default()).is_err() {
                    return vec!["in use".into()];
                }
                self.consumers.insert(arguments[0].into(), key);
                self.state.activate(key, now_ms, &mut effects);
            }
            "ack" | "reject" | "requeue" => {
                let key = self.consumers.get(arguments[0]).copied().unwrap_or(ConsumerKey::NONE);
                let failed = words.flag("failed");
                for name in &words.names(&["failed"])[1..] {
                    let position = self.held.remove(&(arguments[0].into(), (*name).into())).expect("held");
                    let range = position..position + 1;
                    match *verb {
                        "ack" => self.state.settle(Some(key), range, now_ms, &mut effects),
                        "reject" => self.state.reject(key, range, failed, now_ms, &mut effects),
                        _ => self.state.requeue(key, range, failed, now_ms, &mut effects),
                    }
                }
            }
            "cancel" => {
                let key = self.consumers.remove(arguments[0]).unwrap();
                assert!(self.state.remove_consumer(key, now_ms, &mut effects));
            }
            "get" => match self.state.get(words.flag("no-ack"), now_ms, &mut effects) {
                Got::Empty => lines.push("empty".into()),
                Got::Wait => lines.push("wait".into()),
                Got::Message { delivery, ready } => {
                    let names = self.deliver(&delivery);
                    lines.push(format!("got{names}, {ready} left"));
                }
            },
            "purge" => lines.push(format!("purged {}", self.state.purge())),
            "delete" => lines.push(format!("deleted with {}", self.state.delete(&mut effects))),
            "hand" => self.hand(words.flag("keep"), &mut effects, &mut lines),
            "wait" => {
                self.now_ms += arguments[0].parse::<u64>().unwrap();
                // Whoever keeps the time calls only when it was asked to.
                if self.state.next_time_ms().is_some_and(|at_ms| at_ms <= self.now_ms) {
                    self.state.tick(self.now_ms, &mut effects);
                }
                if effects.unused {
                    lines.push("unused".into());
                }
            }
            "take" => self.take(&mut lines),
            "stored" => self.state.stored(now_ms, &mut effects),
            "load" => {
                let Some(load) = self.load.take() else { return vec!["nothing was asked for".into()] };
                assert_eq!(self.state.loaded(load, self.disk.read(load), now_ms, &mut effects), 0);
            }
            "restart" | "stop" => {
                if *verb == "stop" {
                    self.take(&mut lines);
                    self.disk.marks.extend(self.state.final_marks());
                }
                let (levels, tallies) = self.disk.recover();
                self.state = State::recovered(self.rules, levels, tallies, now_ms);
                self.load = None;
                self.consumers.clear();
                self.held.clear();
                self.state.tick(now_ms, &mut effects);
            }
            "touch" => self.state.touch(now_ms),
            "status" => {
                let (ready, unacked) = (self.state.ready(), self.state.unacked());
                lines.push(format!(
                    "{ready} ready, {unacked} unacknowledged, {} consumers",
                    self.state.consumer_count()
                ));
                lines.extend(self.state.active_consumer().map(|key| format!("{} is active", self.who(key))));
            }
            other => panic!("no such command: {other}"),
        }
        for delivery in std::mem::take(&mut effects.deliveries) {
            let names = self.deliver(&delivery);
            lines.push(format!("deliver {}{names}", self.who(delivery.consumer)));
        }
        lines.extend(effects.tickets.iter().map(|names| format!("safe {names}")));
        lines.extend(effects.cancelled.iter().map(|key| format!("cancelled {}", self.who(*key))));
        if let Some(load) = effects.load {
            lines.push(format!("read from {}", show(load.position)));
            self.load = Some(load);
        }
        lines
    }

    fn take(&mut self, lines: &mut Vec<String>) {
        let commit = self.state.take();
        commit.levels.into_iter().for_each(|writes| self.disk.write(writes, lines));
        if let Some(all) = commit.tallies_all {
            self.disk.tallies = Tallies::default();
            self.disk.count(all, lines);
        }
        self.disk.count(commit.tallies, lines);
    }

    fn hand(&mut self, keep: bool, effects: &mut Effects<String>, lines: &mut Vec<String>) {
        if !self.state.has_dead() {
            lines.push("none are dead".into());
        }
        let mut kept = false;
        for dead in self.state.take_dead(effects) {
            let names: Vec<String> = (0..dead.count).map(|offset| name(&dead.run, dead.index + offset)).collect();
            let reason = match dead.reason {
                Reason::Rejected => "rejected",
                Reason::Expired => "expired",
                Reason::MaxLen => "maxlen",
                Reason::DeliveryLimit => "delivery_limit",
            };
            let failed = show_tally(Tally { acquired: 0, failed: dead.tally.failed });
            lines.push(format!("dead {} {reason}{failed}", names.join(" ")));
            match dead.positions {
                Some(_) if keep => kept = true,
                Some(positions) => self.state.buried(positions),
                None => {}
            }
        }
        if kept {
            self.state.keep_dead(self.now_ms);
        }
    }
}

/// Plays a script and writes it down as it really went.
fn play(script: &str) -> String {
    let mut player = Script::new(rules(&Words(Vec::new())));
    let mut out = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(out, "{line}").unwrap();
            for effect in player.run(command) {
                writeln!(out, "{effect}").unwrap();
            }
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

#[test]
fn every_queue_script_goes_as_it_is_written() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/queue");
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let script = std::fs::read_to_string(&path).unwrap();
        println!("playing {}", path.display());
        let really = play(&script);
        if std::env::var_os("LEVERET_WRITE_SCRIPTS").is_some() {
            std::fs::write(&path, &really).unwrap();
        }
        assert_eq!(really, script, "{} goes otherwise (left) than it is written (right)", path.display());
        played += 1;
    }
    assert!(played >= 5, "the scripts are there");
}
