//! Publishing that a crash ends.

use super::peer::write_publish;
use super::{Broker, Peer};
use std::io::Write;
use std::time::Duration;

/// Persistent messages to one queue, numbered in their bodies (8 octets, the highest first), with confirms.
pub struct Load<'a> {
    pub queue: &'a str,
    /// The first number.
    pub first: u64,
    pub messages: u64,
    /// So many are written at once.
    pub bulk: u64,
    /// How long publishing all of them takes, at least.
    pub spread: Duration,
    /// A message's raw properties, by its number.
    pub properties: fn(u64) -> Vec<u8>,
}

impl Load<'_> {
    /// Publishes until the broker is killed: as soon as `moment` messages are confirmed, and a while later. Says how many
    /// were sent, and how many confirmed.
    pub fn killed(&self, broker: &mut Broker, moment: u64, later: Duration) -> (u64, u64) {
        let mut reader = Peer::open(broker);
        reader.confirm_select(1);
        let mut writer = reader.second_hold();
        let &Self { queue, first, messages, bulk, spread, properties } = self;
        let pause = spread.mul_f64(bulk as f64 / messages as f64);
        let queue = queue.to_owned();
        let sender = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < messages {
                let mut out = Vec::new();
                let end = (sent + bulk).min(messages);
                for number in first + sent..first + end {
                    write_publish(&mut out, 1, "", &queue, &properties(number), &number.to_be_bytes(), 131_072);
                }
                sent = end;
                if writer.write_all(&out).is_err() {
                    break;
                }
                std::thread::sleep(pause);
            }
            sent
        });
        // Killed when so many are confirmed: a moment of the broker's own, not of this machine's clock.
        let mut next = 1;
        while next <= moment {
            next = reader.confirmed(next).expect("the broker lives");
        }
        std::thread::sleep(later);
        broker.kill();
        // What it still had said counts as said.
        while next <= messages
            && let Some(further) = reader.confirmed(next)
        {
            next = further;
        }
        (sender.join().unwrap(), next - 1)
    }
}
