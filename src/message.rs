//! A packed message: what travels and what rests.
//!
//! Messages live in *runs*: what one read of a socket brought for one set of queues, packed into one buffer. A queue
//! holds runs, the store writes them as they are, and deliveries are cut straight out of them. One message is
//!
//! ```text
//! | exchange: short string | routing key: short string | n: u32 | raw properties: n octets | body: the rest |
//! ```
//!
//! A run is immutable and shared: a message for a hundred queues is packed once.

use crate::amqp::method::split_address;
use crate::amqp::properties::NO_PROPERTIES;

/// Packed messages, all persistent or all transient.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    data: Box<[u8]>,
    /// Where each message ends in `data`.
    ends: Box<[u32]>,
    /// Whether its messages outlive a restart when the queue does.
    persistent: bool,
}

/// One message of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Exchange and routing key as two short strings.
    pub address: &'a [u8],
    pub exchange: &'a [u8],
    pub routing_key: &'a [u8],
    /// The raw properties, flags first.
    pub properties: &'a [u8],
    pub body: &'a [u8],
}

/// Why octets from the disk are no run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damaged {
    Checksum,
    Layout,
    Version(u8),
}

/// A run that holds more than this is closed and the next one begun, so that a run fits `u32` and pages well.
pub const RUN_BYTES_MAX: usize = 256 << 10;

/// The format of [`Run::encode`]; a number once given is never used for anything else.
const VERSION: u8 = 1;
const PERSISTENT: u8 = 1;
/// Version, checksum, flags, count.
const ENCODED_HEADER_BYTES: usize = 10;

impl Run {
    pub fn persistent(&self) -> bool {
        self.persistent
    }

    /// The number of messages.
    pub fn count(&self) -> u32 {
        u32::try_from(self.ends.len()).expect("a run's octets are counted in u32, and so are its messages")
    }

    /// What it occupies in memory, about.
    pub fn bytes(&self) -> usize {
        self.data.len() + 4 * self.ends.len() + size_of::<Self>() + 32
    }

    /// The octets of message `index` on the wire and on disk, for limits by size.
    pub fn message_bytes(&self, index: u32) -> usize {
        let (start, end) = self.bounds(index);
        end - start
    }

    fn bounds(&self, index: u32) -> (usize, usize) {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        (start, self.ends[index] as usize)
    }

    /// Message number `index`, from 0.
    pub fn message(&self, index: u32) -> Message<'_> {
        let (start, end) = self.bounds(index);
        Message::unpack(&self.data[start..end]).expect("a run is built by a packer or checked when decoded")
    }

    /// Several runs as one; `None` if there is none, or if they differ in persistence.
    pub fn concat<'a>(runs: impl Iterator<Item = &'a Run> + Clone) -> Option<Self> {
        let persistent = runs.clone().next()?.persistent;
        if runs.clone().any(|run| run.persistent != persistent) {
            return None;
        }
        let mut data = Vec::with_capacity(runs.clone().map(|run| run.data.len()).sum());
        let mut ends = Vec::with_capacity(runs.clone().map(|run| run.ends.len()).sum());
        for run in runs {
            let base = u32::try_from(data.len()).ok()?;
            ends.extend(run.ends.iter().map(|end| end + base));
            data.extend_from_slice(&run.data);
        }
        Some(Self { data: data.into(), ends: ends.into(), persistent })
    }

    /// Appends what the store keeps: version, checksum, flags, count, ends, messages.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(ENCODED_HEADER_BYTES + 4 * self.ends.len() + self.data.len());
        out.extend_from_slice(&[VERSION, 0, 0, 0, 0, if self.persistent { PERSISTENT } else { 0 }]);
        out.extend_from_slice(&self.count().to_be_bytes());
        for end in &self.ends {
            out.extend_from_slice(&end.to_be_bytes());
        }
        out.extend_from_slice(&self.data);
        let checksum = crc32fast::hash(&out[start + 5..]);
        out[start + 1..start + 5].copy_from_slice(&checksum.to_be_bytes());
    }

    /// Reads what [`Run::encode`] wrote, and trusts nothing of it.
    pub fn decode(octets: &[u8]) -> Result<Self, Damaged> {
        let (&[version, c0, c1, c2, c3, flags, n0, n1, n2, n3], rest) =
            octets.split_first_chunk::<ENCODED_HEADER_BYTES>().ok_or(Damaged::Layout)?;
        if version != VERSION {
            return Err(Damaged::Version(version));
        }
        if crc32fast::hash(&octets[5..]) != u32::from_be_bytes([c0, c1, c2, c3]) {
            return Err(Damaged::Checksum);
        }
        let count = u32::from_be_bytes([n0, n1, n2, n3]) as usize;
        let (ends, data) = rest.split_at_checked(count.saturating_mul(4)).ok_or(Damaged::Layout)?;
        let ends: Box<[u32]> =
            ends.chunks_exact(4).map(|end| u32::from_be_bytes([end[0], end[1], end[2], end[3]])).collect();
        let run = Self { data: data.into(), ends, persistent: flags & PERSISTENT != 0 };
        let mut start = 0;
        for &end in &run.ends {
            let message = run.data.get(start..end as usize).ok_or(Damaged::Layout)?;
            Message::unpack(message).ok_or(Damaged::Layout)?;
            start = end as usize;
        }
        if start == run.data.len() { Ok(run) } else { Err(Damaged::Layout) }
    }

    /// The number of messages in what [`Run::encode`] wrote, without reading them.
    pub fn encoded_count(octets: &[u8]) -> Option<u32> {
        let (header, _) = octets.split_first_chunk::<ENCODED_HEADER_BYTES>()?;
        Some(u32::from_be_bytes([header[6], header[7], header[8], header[9]]))
    }
}

impl<'a> Message<'a> {
    fn unpack(octets: &'a [u8]) -> Option<Self> {
        let (exchange, routing_key, rest) = split_address(octets)?;
        let address = &octets[..octets.len() - rest.len()];
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let (properties, body) = rest.split_at_checked(u32::from_be_bytes(*count) as usize)?;
        Some(Self { address, exchange, routing_key, properties, body })
    }
}

/// Packs messages into a run. Its buffers are used again for the next run.
#[derive(Debug, Default)]
pub struct Packer {
    data: Vec<u8>,
    ends: Vec<u32>,
    persistent: bool,
}

impl Packer {
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether a message may join those that are there already.
    pub fn accepts(&self, persistent: bool, bytes: usize) -> bool {
        self.is_empty() || self.persistent == persistent && self.data.len() + bytes <= RUN_BYTES_MAX
    }

    /// Adds a message. The caller has asked [`Packer::accepts`].
    pub fn push(&mut self, address: &[u8], properties: &[u8], body: &[u8], persistent: bool) {
        debug_assert!(self.is_empty() || self.persistent == persistent);
        self.persistent = persistent;
        write_head(&mut self.data, address, properties);
        self.data.extend_from_slice(body);
        let end = u32::try_from(self.data.len()).expect("bodies are limited to 512 MiB and runs to 256 KiB beyond one");
        self.ends.push(end);
    }

    /// The run; the packer is empty again.
    pub fn finish(&mut self) -> Run {
        let run =
            Run { data: self.data.as_slice().into(), ends: self.ends.as_slice().into(), persistent: self.persistent };
        self.data.clear();
        self.ends.clear();
        self.data.shrink_to(2 * RUN_BYTES_MAX);
        run
    }
}

/// A message that comes in pieces, packed as they come: memory grows with what has arrived, not with what is announced.
#[derive(Debug)]
pub struct Partial {
    data: Vec<u8>,
    body_at: usize,
    pub body_bytes: usize,
}

impl Partial {
    /// What is set aside before the first octet has come.
    const RESERVE_BYTES_MAX: usize = 256 << 10;

    pub fn new(address: &[u8], properties: &[u8], body_bytes: usize) -> Self {
        let mut data =
            Vec::with_capacity(address.len() + properties.len() + 4 + body_bytes.min(Self::RESERVE_BYTES_MAX));
        write_head(&mut data, address, properties);
        Self { body_at: data.len(), data, body_bytes }
    }

    /// Octets of the body that are still to come.
    pub fn missing(&self) -> usize {
        self.body_bytes - (self.data.len() - self.body_at)
    }

    /// Adds a piece of the body; the caller has compared it with [`Partial::missing`].
    pub fn push(&mut self, piece: &[u8]) {
        self.data.extend_from_slice(piece);
    }

    pub fn message(&self) -> Message<'_> {
        Message::unpack(&self.data).expect("written by write_head")
    }

    /// The message as a run of one.
    pub fn into_run(self, persistent: bool) -> Run {
        let end = u32::try_from(self.data.len()).expect("bodies are limited to 512 MiB");
        Run { data: self.data.into(), ends: [end].into(), persistent }
    }
}

fn write_head(data: &mut Vec<u8>, address: &[u8], properties: &[u8]) {
    let properties = if properties.is_empty() { NO_PROPERTIES } else { properties };
    data.extend_from_slice(address);
    data.extend_from_slice(
        &u32::try_from(properties.len()).expect("properties fit a frame, and a frame's size fits u32").to_be_bytes(),
    );
    data.extend_from_slice(properties);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(bodies: &[&str]) -> Run {
        let mut packer = Packer::default();
        for body in bodies {
            packer.push(b"\x01e\x03key", &[0, 0], body.as_bytes(), true);
        }
        packer.finish()
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        let run = run(&["a", "", "ccc"]);
        assert_eq!(run.count(), 3);
        let bodies: Vec<_> = (0..3).map(|index| run.message(index).body).collect();
        assert_eq!(bodies, [&b"a"[..], b"", b"ccc"]);
        assert_eq!((run.message(1).exchange, run.message(1).routing_key), (&b"e"[..], &b"key"[..]));
    }

    #[test]
    fn a_run_survives_the_disk_and_damage_is_noticed() {
        let run = run(&["a", "bb"]);
        let mut octets = Vec::new();
        run.encode(&mut octets);
        assert_eq!(Run::decode(&octets), Ok(run));
        assert_eq!(Run::encoded_count(&octets), Some(2));
        for at in 0..octets.len() {
            for bit in 0..8 {
                let mut damaged = octets.clone();
                damaged[at] ^= 1 << bit;
                assert!(Run::decode(&damaged).is_err(), "octet {at} bit {bit}");
            }
            assert!(Run::decode(&octets[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn runs_join_in_order() {
        let (a, b) = (run(&["1", "2"]), run(&["3"]));
        let joined = Run::concat([&a, &b].into_iter()).unwrap();
        let bodies: Vec<_> = (0..3).map(|index| joined.message(index).body).collect();
        assert_eq!(bodies, [b"1", b"2", b"3"]);
    }

    #[test]
    fn a_partial_message_reserves_little() {
        let mut partial = Partial::new(b"\0\0", &[0, 0], 1 << 29);
        assert!(partial.data.capacity() < 1 << 20);
        partial.push(b"abc");
        assert_eq!(partial.missing(), (1 << 29) - 3);
    }
}
