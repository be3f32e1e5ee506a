//! What the tests stand on: a broker process, and a peer that speaks frames.

mod broker;
mod disk;
mod group;
pub mod http;
mod link;
mod load;
pub mod metrics;
pub mod peer;
pub mod tls;

pub use broker::Broker;
pub use disk::SmallDisk;
pub use group::Group;
pub use http::Api;
pub use link::Link;
pub use load::Load;
pub use peer::{Declare, Peer};

use std::time::{Duration, Instant};

/// What is waited for comes long before this, even on a machine that has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until `probe` finds something.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "never came about: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Random numbers from a seed (xorshift). The seed is told, so that a failure can be repeated.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        let seed = match std::env::var("LEVERET_SEED") {
            Ok(seed) => seed.parse().expect("LEVERET_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64 | 1,
        };
        println!("LEVERET_SEED={seed}");
        Self(seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A number from the environment, for longer runs than everybody's.
pub fn scale(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => otherwise,
    }
}
