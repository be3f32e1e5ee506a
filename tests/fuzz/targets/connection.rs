//! A whole connection: octets into the real connection loop of a broker in this process. The connection ends or lives, what
//! it is told is well formed, and other clients are served as before.
//!
//! Input: how large the chunks are, and what a client sends, from `AMQP 0 0 9 1` on.

use super::live::{self, check_answers};

pub fn target(data: &[u8]) {
    let Some((&chunk, octets)) = data.split_first() else { return };
    check_answers(&live::with(|live| live.say(octets, usize::from(chunk) * 16)));
}
