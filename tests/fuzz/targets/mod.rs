//! What is fuzzed, and what must hold for whatever octets come: a function for each target, used by libFuzzer's entry points
//! (`fuzz_targets/`) and by the runner on stable Rust (`stable.rs`) alike.

// A broken promise ends here; and a target's numbers are small.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

pub mod arrival;
pub mod channel;
pub mod config;
pub mod connection;
pub mod content;
pub mod definitions;
pub mod frame;
pub mod http;
pub mod matching;
pub mod method;
pub mod stored;
pub mod table;

mod input;
mod live;

/// Octets of the longest input; half of the largest frame.
pub const INPUT_BYTES_MAX: usize = 64 << 10;

/// A parser or a part of the broker, and what is expected of it.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Its input holds AMQP frames, behind so many octets of something else.
    pub frames_at: Option<usize>,
    /// It needs a broker, and so threads, files and time.
    pub is_live: bool,
}

const fn pure(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run, frames_at: None, is_live: false }
}

/// All of them; the slow ones first, so that two at once take the least time.
pub const ALL: [Target; 12] = [
    Target { name: "connection", run: connection::target, frames_at: Some(9), is_live: true },
    Target { name: "channel", run: channel::target, frames_at: None, is_live: true },
    Target { name: "http", run: http::target, frames_at: None, is_live: true },
    Target { name: "definitions", run: definitions::target, frames_at: None, is_live: true },
    pure("config", config::target),
    pure("stored", stored::target),
    pure("matching", matching::target),
    pure("arrival", arrival::target),
    pure("content", content::target),
    pure("table", table::target),
    pure("method", method::target),
    Target { name: "frame", run: frame::target, frames_at: Some(2), is_live: false },
];
