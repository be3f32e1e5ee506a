//! The pure queue by scripts: `> command`, then what it must bring about. See tests/scripts/queue/.
//!
//! ```text
//! > publish NAME… [transient]          > consume WHO [prefetch=N] [no-ack] [exclusive] [priority=N]
//! > ack WHO NAME…   > requeue WHO NAME…   > cancel WHO   > get [no-ack]   > purge   > delete
//! > take   > stored   > load           what the store does: takes what is to be written, has written it, reads a block
//! > restart                            the queue is gone and comes back from what was stored
//! > status
//! ```
//!
//! `LEVERET_WRITE_SCRIPTS=1` writes down what really happened, for somebody to read and judge.

use leveret::message::{Marks, Message, Packer, Run, Traits};
use leveret::queue::Ranges;
use leveret::queue::consumer::{ConsumerKey, Delivery, Terms};
use leveret::queue::state::{Effects, Got, Load, Mark, Rules, State};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

struct Script {
    rules: Rules,
    state: State<String>,
    consumers: BTreeMap<String, ConsumerKey>,
    /// Who holds a message, and its position.
    held: BTreeMap<(String, String), u64>,
    blocks: BTreeMap<u64, Arc<Run>>,
    mark: Mark,
    settled: Ranges,
    load: Option<Load>,
    next: u64,
}

impl Script {
    fn new(header: &str) -> Self {
        let number = |key: &str| header.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok());
        let rules = Rules {
            durable: !header.contains("transient-queue"),
            memory_bytes: number("memory=").unwrap_or(1 << 20),
            single_active_consumer: header.contains("single-active-consumer"),
        };
        Self {
            rules,
            state: State::new(rules),
            consumers: BTreeMap::new(),
            held: BTreeMap::new(),
            blocks: BTreeMap::new(),
            mark: Mark::default(),
            settled: Ranges::default(),
            load: None,
            next: 0,
        }
    }

    fn who(&self, key: ConsumerKey) -> String {
        self.consumers.iter().find(|(_, known)| **known == key).map_or("get".into(), |(name, _)| name.clone())
    }

    fn deliver(&mut self, delivery: &Delivery) -> String {
        let who = self.who(delivery.consumer);
        let mut line = String::new();
        for offset in 0..delivery.count {
            let name = String::from_utf8(delivery.run.message(delivery.index + offset).body.to_vec()).unwrap();
            write!(line, " {name}").unwrap();
            self.held.insert((who.clone(), name), delivery.first + u64::from(offset));
        }
        if delivery.redelivered {
            line.push_str(" redelivered");
        }
        line
    }

    fn run(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let (verb, arguments) = words.split_first().unwrap();
        let option = |key: &str| arguments.iter().find_map(|word| word.strip_prefix(key)?.parse::<i64>().ok());
        let flag = |name: &str| arguments.contains(&name);
        let mut effects = Effects::default();
        let mut lines = Vec::new();
        match *verb {
            "publish" => {
                let names: Vec<&str> = arguments.iter().filter(|word| **word != "transient").copied().collect();
                let mut packer = Packer::default();
                for name in &names {
                    let message = Message {
                        address: &[0, 0],
                        exchange: b"",
                        routing_key: b"",
                        marks: Marks::NONE,
                        properties: &[0, 0],
                        body: name.as_bytes(),
                    };
                    packer.push(&message, Traits { persistent: !flag("transient"), ..Traits::default() });
                }
                self.state.publish(Arc::new(packer.finish()), Some(names.join(" ")), &mut effects);
            }
            "consume" => {
                self.next += 1;
                let key = ConsumerKey(self.next);
                let terms = Terms {
                    no_ack: flag("no-ack"),
                    exclusive: flag("exclusive"),
                    prefetch: option("prefetch=").unwrap_or(0).try_into().unwrap(),
                    priority: option("priority=").unwrap_or(0),
                };
                if self.state.add_consumer(key, terms).is_err() {
                    return vec!["in use".into()];
                }
                self.consumers.insert(arguments[0].into(), key);
                self.state.activate(key, &mut effects);
            }
            "ack" | "requeue" => {
                let key = self.consumers.get(arguments[0]).copied().or(Some(ConsumerKey::NONE));
                for name in &arguments[1..] {
                    let position = self.held.remove(&(arguments[0].into(), (*name).into())).expect("held");
                    let range = position..position + 1;
                    match *verb {
                        "ack" => self.state.settle(key, range, &mut effects),
                        _ => self.state.requeue(key, range, &mut effects),
                    }
                }
            }
            "cancel" => {
                let key = self.consumers.remove(arguments[0]).unwrap();
                assert!(self.state.remove_consumer(key, &mut effects));
            }
            "get" => match self.state.get(flag("no-ack"), &mut effects) {
                Got::Empty => lines.push("empty".into()),
                Got::Wait => lines.push("wait".into()),
                Got::Message { delivery, ready } => {
                    let names = self.deliver(&delivery);
                    lines.push(format!("got{names}, {ready} left"));
                }
            },
            "purge" => lines.push(format!("purged {}", self.state.purge())),
            "delete" => lines.push(format!("deleted with {}", self.state.delete(&mut effects))),
            "take" => {
                let writes = self.state.take();
                for (first, run) in writes.blocks {
                    lines.push(format!("write {} at {first}", run.count()));
                    self.blocks.insert(first, run);
                }
                for (first, _) in writes.deleted {
                    lines.push(format!("drop block {first}"));
                    self.blocks.remove(&first);
                }
                for (range, _) in writes.purged {
                    lines.push(format!("drop blocks {range:?}"));
                    self.blocks.retain(|first, _| !range.contains(first));
                }
                if let Some(all) = writes.settled_all {
                    self.settled = all.into_iter().collect();
                }
                for range in writes.settled {
                    lines.push(format!("settled {range:?}"));
                    self.settled.insert(range);
                }
                if let Some(mark) = writes.mark {
                    lines.push(format!("mark settled<{} delivered<{}", mark.low_water, mark.delivered_below));
                    self.mark = mark;
                }
            }
            "stored" => self.state.stored(&mut effects),
            "load" => {
                let Some(load) = self.load.take() else { return vec!["nothing was asked for".into()] };
                let block = self.blocks.range(load.position..load.end).next();
                let block = block.map(|(first, run)| (*first, Arc::clone(run)));
                assert_eq!(self.state.loaded(load, block, &mut effects), 0);
            }
            "restart" => {
                let mut mark = self.mark.clone();
                self.blocks.retain(|_, run| run.persistent());
                if let Some((first, run)) = self.blocks.last_key_value() {
                    mark.next = mark.next.max(first + u64::from(run.count()));
                }
                let first = self.blocks.keys().next().copied().unwrap_or(mark.low_water);
                self.state = State::recovered(self.rules, mark, self.settled.clone(), first);
                self.consumers.clear();
                self.held.clear();
            }
            "status" => {
                let (ready, unacked) = (self.state.ready(), self.state.unacked());
                lines.push(format!(
                    "{ready} ready, {unacked} unacknowledged, {} consumers",
                    self.state.consumer_count()
                ));
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
            lines.push(format!("read from {}", load.position));
            self.load = Some(load);
        }
        lines
    }
}

/// Plays a script and writes it down as it really went.
fn play(script: &str) -> String {
    let header = script.lines().next().unwrap_or_default();
    let mut player = Script::new(header);
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
        let really = play(&script);
        if std::env::var_os("LEVERET_WRITE_SCRIPTS").is_some() {
            std::fs::write(&path, &really).unwrap();
        }
        assert_eq!(really, script, "{} goes otherwise (left) than it is written (right)", path.display());
        played += 1;
    }
    assert!(played >= 5, "the scripts are there");
}
