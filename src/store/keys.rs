//! Keys on disk, in the order the store reads them. A tag once given is never used for anything else.

/// The rows of one queue in the column families `messages` and `marks`: `| queue: u64 | tag | position or row number: u64 |`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// What is settled, what was delivered, where the queue ends.
    Mark = 1,
    /// Positions settled above the low-water mark, in one commit.
    Settled = 2,
    /// A block of messages, by its first position.
    Block = 3,
    /// What is known of a block beside it: its messages' number and deadlines.
    Facts = 4,
    /// How often messages came back, as changed in one commit.
    Tallies = 5,
}

pub const ROW_BYTES: usize = 17;

impl Row {
    pub fn key(self, queue: u64, number: u64) -> [u8; ROW_BYTES] {
        let mut key = [0; ROW_BYTES];
        key[..8].copy_from_slice(&queue.to_be_bytes());
        key[8] = self as u8;
        key[9..].copy_from_slice(&number.to_be_bytes());
        key
    }

    /// Behind all rows of this tag.
    pub fn end(self, queue: u64) -> [u8; ROW_BYTES] {
        let mut key = [0; ROW_BYTES];
        key[..8].copy_from_slice(&queue.to_be_bytes());
        key[8] = self as u8 + 1;
        key
    }
}

/// The number at the end of a queue's key, if it is of this queue and tag.
pub fn number(key: &[u8], queue: u64, row: Row) -> Option<u64> {
    let (id, rest) = key.split_first_chunk::<8>()?;
    let (tag, number) = rest.split_first()?;
    let number = number.first_chunk::<8>()?;
    (u64::from_be_bytes(*id) == queue && *tag == row as u8).then(|| u64::from_be_bytes(*number))
}

/// The kinds of definitions. 11 was a virtual host's description, beside its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Vhost = 1,
    User = 2,
    Permission = 3,
    TopicPermission = 4,
    Exchange = 5,
    Queue = 6,
    Binding = 7,
    Policy = 8,
    Parameter = 9,
    GlobalParameter = 10,
}

/// A definition's key: its kind and its names, each with its length in front, so that no name can imitate another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Definition(pub Vec<u8>);

impl Definition {
    pub fn new(kind: Kind, names: &[&[u8]]) -> Self {
        let mut key = vec![kind as u8];
        for name in names {
            key.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
            key.extend_from_slice(name);
        }
        Self(key)
    }
}
