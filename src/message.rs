//! A packed message: what travels and what rests.
//!
//! Messages live in *runs*: what one read of a socket brought for one set of queues, packed into one buffer. A queue
//! holds runs, the store writes them as they are, and deliveries are cut straight out of them. One message is
//!
//! ```text
//! | exchange: short string | routing key: short string | n: u32 | raw properties: n octets | body: the rest |
//! ```
//!
//! The three top bits of n are the message's [`Marks`]: what the broker must know of it that its properties don't say.
//!
//! A run is immutable and shared: a message for a hundred queues is packed once.

use crate::amqp::method::split_address;
use crate::amqp::properties::{self, NO_PROPERTIES, Properties};
use std::ops::{BitOr, Range};

/// Packed messages, all persistent or all transient.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    data: Box<[u8]>,
    /// Where each message ends in `data`.
    ends: Box<[u32]>,
    /// The bodies alone.
    body_bytes: u64,
    /// `persistent` holds for all messages; the others for any.
    traits: Traits,
}

/// What queues ask of a message without reading its properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traits {
    /// It outlives a restart when the queue does.
    pub persistent: bool,
    /// It has an `expiration`.
    pub expires: bool,
    /// It has a `priority`, be it 0.
    pub prioritised: bool,
}

/// What the broker knows of a message beyond its properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks(u32);

/// One message of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Exchange and routing key as two short strings.
    pub address: &'a [u8],
    pub exchange: &'a [u8],
    pub routing_key: &'a [u8],
    pub marks: Marks,
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

/// The longest raw properties: the bits above are marks. A frame is never so long (`frame_max` is at most 128 MiB), and
/// what the broker adds is bounded ([`crate::queue::dead_letter`]).
pub const PROPERTIES_BYTES_MAX: usize = (1 << 29) - 1;

/// The format of [`Run::encode`]; a number once given is never used for anything else.
const VERSION: u8 = 2;
/// Without marks, and with no flag but `PERSISTENT`.
const VERSION_UNMARKED: u8 = 1;
const PERSISTENT: u8 = 1;
const EXPIRES: u8 = 2;
const PRIORITISED: u8 = 4;
/// Version, checksum, flags, count.
const ENCODED_HEADER_BYTES: usize = 10;

impl Traits {
    pub fn of(properties: &Properties<'_>) -> Self {
        Self {
            persistent: properties.persistent(),
            expires: properties.expiration.is_some(),
            prioritised: properties.priority.is_some(),
        }
    }

    /// What holds for messages of which some have these traits and some those.
    fn and(self, other: Self) -> Self {
        Self {
            persistent: self.persistent,
            expires: self.expires | other.expires,
            prioritised: self.prioritised | other.prioritised,
        }
    }

    fn flags(self) -> u8 {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        flag(self.persistent, PERSISTENT) | flag(self.expires, EXPIRES) | flag(self.prioritised, PRIORITISED)
    }

    fn from_flags(flags: u8) -> Self {
        Self {
            persistent: flags & PERSISTENT != 0,
            expires: flags & EXPIRES != 0,
            prioritised: flags & PRIORITISED != 0,
        }
    }
}

impl Marks {
    pub const NONE: Self = Self(0);
    /// It was dead-lettered: `x-death`, `x-first-death-*` and `x-last-death-*` among its headers are the broker's own.
    /// Without the mark they are only what a client wrote there.
    pub const DIED: Self = Self(1 << 31);
    /// Its headers have a `BCC`, which counts for routing and is never shown to anybody.
    pub const BCC: Self = Self(1 << 30);
    /// It was dead-lettered with a routing key of the queue's: this is its only key, whatever its `CC` and `BCC` say.
    pub const RELAYED: Self = Self(1 << 29);

    const ALL: u32 = Self::DIED.0 | Self::BCC.0 | Self::RELAYED.0;

    pub fn contain(self, marks: Self) -> bool {
        self.0 & marks.0 == marks.0
    }
}

const _: () = assert!(Marks::ALL as usize & PROPERTIES_BYTES_MAX == 0);

impl BitOr for Marks {
    type Output = Self;

    fn bitor(self, marks: Self) -> Self {
        Self(self.0 | marks.0)
    }
}

impl Run {
    pub fn persistent(&self) -> bool {
        self.traits.persistent
    }

    pub fn traits(&self) -> Traits {
        self.traits
    }

    /// Whether any of its messages has an `expiration`.
    pub fn expires(&self) -> bool {
        self.traits.expires
    }

    /// Whether any of its messages has a `priority`.
    pub fn prioritised(&self) -> bool {
        self.traits.prioritised
    }

    /// The number of messages.
    pub fn count(&self) -> u32 {
        u32::try_from(self.ends.len()).expect("a run's octets are counted in u32, and so are its messages")
    }

    /// What it occupies in memory, about.
    pub fn bytes(&self) -> usize {
        self.data.len() + 4 * self.ends.len() + size_of::<Self>() + 32
    }

    /// The octets of all bodies.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// The octets of these messages' bodies.
    pub fn body_bytes_of(&self, range: Range<u32>) -> u64 {
        if range == (0..self.count()) {
            return self.body_bytes;
        }
        range.map(|index| self.message(index).body.len() as u64).sum()
    }

    /// A copy of some of its messages. What holds for any of all may then hold for none of them.
    pub fn slice(&self, range: Range<u32>) -> Self {
        let start = if range.start == 0 { 0 } else { self.ends[range.start as usize - 1] };
        let ends: Box<[u32]> =
            self.ends[range.start as usize..range.end as usize].iter().map(|end| end - start).collect();
        let end = start + ends.last().copied().unwrap_or(0);
        Self {
            data: self.data[start as usize..end as usize].into(),
            ends,
            body_bytes: self.body_bytes_of(range),
            traits: self.traits,
        }
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
        let mut traits = runs.clone().next()?.traits;
        if runs.clone().any(|run| run.traits.persistent != traits.persistent) {
            return None;
        }
        let mut body_bytes = 0;
        let mut data = Vec::with_capacity(runs.clone().map(|run| run.data.len()).sum());
        let mut ends = Vec::with_capacity(runs.clone().map(|run| run.ends.len()).sum());
        for run in runs {
            let base = u32::try_from(data.len()).ok()?;
            ends.extend(run.ends.iter().map(|end| end + base));
            data.extend_from_slice(&run.data);
            body_bytes += run.body_bytes;
            traits = traits.and(run.traits);
        }
        Some(Self { data: data.into(), ends: ends.into(), body_bytes, traits })
    }

    /// Appends what the store keeps: version, checksum, flags, count, ends, messages.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(ENCODED_HEADER_BYTES + 4 * self.ends.len() + self.data.len());
        out.extend_from_slice(&[VERSION, 0, 0, 0, 0, self.traits.flags()]);
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
        if version != VERSION && version != VERSION_UNMARKED {
            return Err(Damaged::Version(version));
        }
        if crc32fast::hash(&octets[5..]) != u32::from_be_bytes([c0, c1, c2, c3]) {
            return Err(Damaged::Checksum);
        }
        let count = u32::from_be_bytes([n0, n1, n2, n3]) as usize;
        let (ends, data) = rest.split_at_checked(count.saturating_mul(4)).ok_or(Damaged::Layout)?;
        let ends: Box<[u32]> =
            ends.chunks_exact(4).map(|end| u32::from_be_bytes([end[0], end[1], end[2], end[3]])).collect();
        let mut run = Self { data: data.into(), ends, body_bytes: 0, traits: Traits::from_flags(flags) };
        let mut start = 0;
        for &end in &run.ends {
            let message = run.data.get(start..end as usize).ok_or(Damaged::Layout)?;
            let message = Message::unpack(message).ok_or(Damaged::Layout)?;
            run.body_bytes += message.body.len() as u64;
            if version == VERSION_UNMARKED {
                let (expires, prioritised) =
                    (properties::has_expiration(message.properties), properties::has_priority(message.properties));
                run.traits = run.traits.and(Traits { expires, prioritised, persistent: false });
            }
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
        let (word, rest) = rest.split_first_chunk::<4>()?;
        let word = u32::from_be_bytes(*word);
        let (properties, body) = rest.split_at_checked((word & !Marks::ALL) as usize)?;
        Some(Self { address, exchange, routing_key, marks: Marks(word & Marks::ALL), properties, body })
    }

    /// What it occupies packed, about.
    pub fn packed_bytes(&self) -> usize {
        self.address.len() + 4 + self.properties.len() + self.body.len()
    }
}

/// Packs messages into a run. Its buffers are used again for the next run.
#[derive(Debug, Default)]
pub struct Packer {
    data: Vec<u8>,
    ends: Vec<u32>,
    body_bytes: u64,
    traits: Traits,
}

impl Packer {
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether a message may join those that are there already.
    pub fn accepts(&self, persistent: bool, bytes: usize) -> bool {
        self.is_empty() || self.traits.persistent == persistent && self.data.len() + bytes <= RUN_BYTES_MAX
    }

    /// Adds a message. The caller has asked [`Packer::accepts`].
    pub fn push(&mut self, message: &Message<'_>, traits: Traits) {
        debug_assert!(self.is_empty() || self.traits.persistent == traits.persistent);
        self.traits = traits.and(self.traits);
        self.body_bytes += message.body.len() as u64;
        write_head(&mut self.data, message.address, message.properties, message.marks);
        self.data.extend_from_slice(message.body);
        let end = u32::try_from(self.data.len()).expect("bodies are limited to 512 MiB and runs to 256 KiB beyond one");
        self.ends.push(end);
    }

    /// The run; the packer is empty again.
    pub fn finish(&mut self) -> Run {
        let run = Run {
            data: self.data.as_slice().into(),
            ends: self.ends.as_slice().into(),
            body_bytes: std::mem::take(&mut self.body_bytes),
            traits: std::mem::take(&mut self.traits),
        };
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
    /// Where the properties' length and the marks stand.
    word_at: usize,
    body_at: usize,
    pub body_bytes: usize,
}

impl Partial {
    /// What is set aside before the first octet has come.
    const RESERVE_BYTES_MAX: usize = 256 << 10;

    pub fn new(address: &[u8], properties: &[u8], body_bytes: usize) -> Self {
        let mut data =
            Vec::with_capacity(address.len() + properties.len() + 4 + body_bytes.min(Self::RESERVE_BYTES_MAX));
        write_head(&mut data, address, properties, Marks::NONE);
        Self { word_at: address.len(), body_at: data.len(), data, body_bytes }
    }

    /// Octets of the body that are still to come.
    pub fn missing(&self) -> usize {
        self.body_bytes - (self.data.len() - self.body_at)
    }

    /// Octets that have come, with those of the head.
    pub fn received(&self) -> usize {
        self.data.len()
    }

    /// Adds a piece of the body; the caller has compared it with [`Partial::missing`].
    pub fn push(&mut self, piece: &[u8]) {
        self.data.extend_from_slice(piece);
    }

    pub fn message(&self) -> Message<'_> {
        Message::unpack(&self.data).expect("written by write_head")
    }

    /// The message as a run of one.
    pub fn into_run(mut self, marks: Marks, traits: Traits) -> Run {
        for (octet, mark) in self.data[self.word_at..].iter_mut().zip(marks.0.to_be_bytes()) {
            *octet |= mark;
        }
        let end = u32::try_from(self.data.len()).expect("bodies are limited to 512 MiB");
        let body_bytes = (self.data.len() - self.body_at) as u64;
        Run { data: self.data.into(), ends: [end].into(), body_bytes, traits }
    }
}

fn write_head(data: &mut Vec<u8>, address: &[u8], properties: &[u8], marks: Marks) {
    let properties = if properties.is_empty() { NO_PROPERTIES } else { properties };
    let length = u32::try_from(properties.len()).ok().filter(|length| length & Marks::ALL == 0);
    let length = length.expect("properties fit a frame, and what is added to them is bounded");
    data.extend_from_slice(address);
    data.extend_from_slice(&(length | marks.0).to_be_bytes());
    data.extend_from_slice(properties);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERSISTENT: Traits = Traits { persistent: true, expires: false, prioritised: false };

    fn message(body: &str) -> Message<'_> {
        Message {
            address: b"\x01e\x03key",
            exchange: b"e",
            routing_key: b"key",
            marks: Marks::NONE,
            properties: &[0, 0],
            body: body.as_bytes(),
        }
    }

    fn run(bodies: &[&str]) -> Run {
        let mut packer = Packer::default();
        for body in bodies {
            packer.push(&message(body), PERSISTENT);
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
        assert_eq!(joined.body_bytes(), 3);
    }

    #[test]
    fn a_slice_is_a_run_of_its_own() {
        let run = run(&["a", "bb", "", "cccc"]);
        assert_eq!(run.body_bytes(), 7);
        for start in 0..=4 {
            for end in start..=4 {
                let slice = run.slice(start..end);
                assert_eq!((slice.count(), slice.body_bytes()), (end - start, run.body_bytes_of(start..end)));
                assert!((start..end).all(|index| slice.message(index - start) == run.message(index)));
                let mut octets = Vec::new();
                slice.encode(&mut octets);
                assert_eq!(Run::decode(&octets), Ok(slice));
            }
        }
    }

    #[test]
    fn marks_and_traits_survive_packing_slicing_joining_and_the_disk() {
        let mut packer = Packer::default();
        let marked = |marks| Message { marks, ..message("m") };
        let all = [Marks::NONE, Marks::DIED, Marks::BCC | Marks::RELAYED, Marks::DIED | Marks::BCC | Marks::RELAYED];
        for marks in all {
            packer.push(&marked(marks), PERSISTENT);
        }
        packer.push(&message("e"), Traits { expires: true, ..PERSISTENT });
        packer.push(&message("p"), Traits { prioritised: true, ..PERSISTENT });
        let run = packer.finish();
        let mut octets = Vec::new();
        run.encode(&mut octets);
        let read = Run::decode(&octets).unwrap();
        let joined = Run::concat([&run.slice(0..2), &run.slice(2..6)].into_iter()).unwrap();
        assert_eq!((&read, &joined), (&run, &run));
        assert!((0..4).map(|index| read.message(index)).eq(all.map(marked)));
        assert!(read.persistent() && read.expires() && read.prioritised());
        // The packer forgets.
        packer.push(&message(""), Traits::default());
        let run = packer.finish();
        assert!(!run.persistent() && !run.expires() && !run.prioritised());
        assert_eq!(run.body_bytes(), 0);
    }

    #[test]
    fn runs_from_before_there_were_marks_are_read() {
        let mut packer = Packer::default();
        packer.push(&message("a"), PERSISTENT);
        packer.push(&Message { properties: b"\x01\x00\x0230", ..message("a") }, PERSISTENT);
        let mut octets = Vec::new();
        packer.finish().encode(&mut octets);
        octets[0] = VERSION_UNMARKED;
        let read = Run::decode(&octets).unwrap();
        assert!(read.persistent() && read.expires() && !read.prioritised());
        assert_eq!(read.body_bytes(), 2);
    }

    #[test]
    fn a_partial_message_reserves_little() {
        let mut partial = Partial::new(b"\0\0", &[0, 0], 1 << 29);
        assert!(partial.data.capacity() < 1 << 20);
        partial.push(b"abc");
        assert_eq!(partial.missing(), (1 << 29) - 3);
        let run = partial.into_run(Marks::BCC, PERSISTENT);
        assert_eq!((run.message(0).marks, run.message(0).body), (Marks::BCC, &b"abc"[..]));
        assert_eq!((run.body_bytes(), run.persistent()), (3, true));
    }
}
