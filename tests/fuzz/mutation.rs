//! New inputs from old ones, by chance: the same for the same seed and number.

use super::targets::INPUT_BYTES_MAX;

/// Changes to one input, at most.
const CHANGES_MAX: u64 = 6;
/// What lengths and counts are tried to be.
const NUMBERS: [u64; 14] =
    [0, 1, 2, 7, 31, 32, 127, 128, 255, 256, u16::MAX as u64, i32::MAX as u64, u32::MAX as u64, u64::MAX];
/// Octets of the longest piece that is inserted, taken out or copied.
const PIECE_BYTES_MAX: usize = 64;
/// The envelope of a frame: octets before its payload and its size, and where that stands.
const FRAME_PREFIX: usize = 7;
/// What ends a frame.
const FRAME_END: u8 = 0xCE;

/// Words that mean something to the targets.
pub struct Dictionary(Vec<Vec<u8>>);

impl Dictionary {
    /// Reads libFuzzer's format: `name="text"`, with `\\`, `\"` and `\xAB`.
    pub fn read(text: &str) -> Self {
        let quoted = |line: &str| {
            let line = line.trim();
            let start = line.find('"').filter(|_| !line.starts_with('#'))?;
            let mut octets = line.get(start + 1..line.len() - 1)?.bytes();
            let mut word = Vec::new();
            while let Some(octet) = octets.next() {
                match (octet, octet == b'\\') {
                    (octet, false) => word.push(octet),
                    _ => match octets.next()? {
                        b'x' => {
                            let digits = [octets.next()?, octets.next()?];
                            word.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                        }
                        escaped => word.push(escaped),
                    },
                }
            }
            Some(word)
        };
        Self(text.lines().filter_map(quoted).collect())
    }
}

/// Random numbers (xorshift).
struct Random(u64);

impl Random {
    fn new(seed: u64, index: u64) -> Self {
        // Neighbours must not look alike (splitmix).
        let mut mixed = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ mixed >> 31) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        if choices.is_empty() { None } else { Some(&choices[self.below(choices.len())]) }
    }
}

pub struct Mutator<'a> {
    corpus: &'a [Vec<u8>],
    dictionary: &'a Dictionary,
    frames_at: Option<usize>,
    seed: u64,
}

impl<'a> Mutator<'a> {
    pub fn new(corpus: &'a [Vec<u8>], dictionary: &'a Dictionary, frames_at: Option<usize>, seed: u64) -> Self {
        Self { corpus, dictionary, frames_at, seed }
    }

    /// The input of this number.
    pub fn make(&self, index: u64, input: &mut Vec<u8>) {
        let mut random = Random::new(self.seed, index);
        input.clear();
        input.extend_from_slice(random.of(self.corpus).map_or(&[], Vec::as_slice));
        for _ in 0..=random.next() % CHANGES_MAX {
            match self.frames_at {
                Some(at) if random.next() & 3 != 0 => self.change_frames(input, at, &mut random),
                _ => self.change(input, &mut random),
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }

    /// One change to octets of any meaning.
    fn change(&self, input: &mut Vec<u8>, random: &mut Random) {
        if input.is_empty() {
            input.extend((0..=random.below(32)).map(|_| random.next() as u8));
            return;
        }
        let at = random.below(input.len());
        let count = 1 + random.below(PIECE_BYTES_MAX.min(input.len() - at));
        match random.below(16) {
            0 => input[at] ^= 1 << random.below(8),
            1 => input[at] = random.next() as u8,
            2 => input[at] = NUMBERS[random.below(9)] as u8,
            3 | 4 => {
                // A length, which mostly has something to do with what is there.
                let number = match random.below(3) {
                    0 => (input.len() - at) as u64,
                    1 => (random.below(input.len() + 1)) as u64,
                    _ => NUMBERS[random.below(NUMBERS.len())],
                };
                let width = [1, 2, 4, 8][random.below(4)];
                let octets = number.to_be_bytes();
                input[at..].iter_mut().zip(&octets[8 - width..]).for_each(|(old, new)| *old = *new);
            }
            5 => {
                let more = 1 + random.below(16) as u8;
                input[at] =
                    if random.next() & 1 == 0 { input[at].wrapping_add(more) } else { input[at].wrapping_sub(more) };
            }
            6 | 7 => {
                if let Some(word) = random.of(&self.dictionary.0) {
                    insert(input, at, word);
                }
            }
            8 => {
                if let Some(word) = random.of(&self.dictionary.0) {
                    let count = word.len().min(input.len() - at);
                    input[at..at + count].copy_from_slice(&word[..count]);
                }
            }
            9 => drop(input.drain(at..at + count)),
            10 => {
                let times = if random.next() & 63 == 0 { 1 + random.below(200) } else { 1 };
                let piece = input[at..at + count].repeat(times);
                insert(input, at, &piece);
            }
            11 => {
                if let Some(other) = random.of(self.corpus).filter(|other| !other.is_empty()) {
                    let from = random.below(other.len());
                    let to = from + 1 + random.below(PIECE_BYTES_MAX.min(other.len() - from));
                    insert(input, at, &other[from..to]);
                }
            }
            12 => {
                if let Some(other) = random.of(self.corpus).filter(|other| !other.is_empty()) {
                    // The beginning of this one and the end of that.
                    input.truncate(at);
                    input.extend_from_slice(&other[random.below(other.len())..]);
                }
            }
            13 => input.truncate(at),
            14 => {
                insert(input, at, &random.next().to_be_bytes()[..count.min(8)]);
            }
            _ => {
                let other = random.below(input.len());
                let count = count.min(input.len() - at.max(other));
                for offset in 0..count {
                    input.swap(at + offset, other + offset);
                }
            }
        }
        if input.len() > INPUT_BYTES_MAX {
            input.truncate(INPUT_BYTES_MAX);
        }
    }

    /// One change to frames, which stay frames.
    fn change_frames(&self, input: &mut Vec<u8>, at: usize, random: &mut Random) {
        let frames = frames(input, at);
        let Some(&(start, end)) = random.of(&frames) else { return self.change(input, random) };
        match random.below(10) {
            0 => drop(input.drain(start..end)),
            1 => {
                let frame = input[start..end].to_vec();
                let to = random.of(&frames).map_or(start, |(start, _)| *start);
                insert(input, to, &frame);
            }
            2 => {
                // Another one's, be it of another client.
                let Some(other) = random.of(self.corpus) else { return };
                let others = self::frames(other, at);
                let Some(&(from, until)) = random.of(&others) else { return };
                let mut frame = other[from..until].to_vec();
                if random.next() & 1 == 0 {
                    // On this one's channel.
                    frame[1..3].copy_from_slice(&input[start + 1..start + 3]);
                }
                insert(input, start, &frame);
            }
            3 => input[start + 2] = [0, 1, 2, 3, 255][random.below(5)],
            4 => input[start] = [1, 2, 3, 8, 0, 4][random.below(6)],
            _ => {
                let mut payload = input[start + FRAME_PREFIX..end - 1].to_vec();
                self.change(&mut payload, random);
                let size = (payload.len() as u32).to_be_bytes();
                let behind = input.split_off(end - 1);
                input.truncate(start + 3);
                input.extend_from_slice(&size);
                input.extend_from_slice(&payload);
                input.extend_from_slice(&behind);
            }
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let end = input.len();
    input.resize(end + piece.len(), 0);
    input.copy_within(at..end, at + piece.len());
    input[at..at + piece.len()].copy_from_slice(piece);
}

/// Where frames begin and end.
fn frames(input: &[u8], mut at: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    while let Some(prefix) = input.get(at..at + FRAME_PREFIX) {
        let bytes = u32::from_be_bytes([prefix[3], prefix[4], prefix[5], prefix[6]]) as usize;
        let end = at + FRAME_PREFIX + bytes + 1;
        if input.get(end - 1) != Some(&FRAME_END) {
            break;
        }
        found.push((at, end));
        at = end;
    }
    found
}
