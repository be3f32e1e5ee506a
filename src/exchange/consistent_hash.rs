//! Consistent hash: every destination has as many buckets as its binding's key says, and a hash of the message chooses
//! the bucket (`rabbit_exchange_type_consistent_hash`, "Consistent Hash Exchange").
//!
//! ```text
//! bindings, in their order    a: 2    b: 1    c: 3
//! buckets                     0 1     2       3 4 5
//! ```
//!
//! The bucket is found by jump consistent hashing (Lamping and Veach, 2014): with one more bucket at the end, each key
//! stays where it is or moves into that one. So a new destination takes over its share of the keys and moves no others.
//! When a destination goes, those behind it move up, which moves many keys; only the last one goes as gently as it came.
//!
//! Therefore the order of the buckets must be the same after a restart. A binding that brought buckets has a number, its
//! place, which is stored with it.

use super::hash::Hash;
use super::{Binding, Destination, Subject};
use crate::amqp::table::{Table, Value, as_str, type_name};
use crate::amqp::term::term;
use crate::refusal::Refusal;

/// The most buckets of a binding.
const WEIGHT_MAX: u64 = 10_000;

const HASH_HEADER: &str = "hash-header";
const HASH_PROPERTY: &str = "hash-property";

/// What of a message is hashed. A message without it hashes as all others without it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Input {
    /// The routing key; those of `CC` and `BCC` do not count.
    Key,
    /// A header's value; of two with the same name the last.
    Header(Box<[u8]>),
    CorrelationId,
    MessageId,
    Timestamp,
}

impl Input {
    fn property(name: &str) -> Option<Self> {
        Some(match name {
            "correlation_id" => Self::CorrelationId,
            "message_id" => Self::MessageId,
            "timestamp" => Self::Timestamp,
            _ => return None,
        })
    }

    /// What was checked, or else came from a store: then the key.
    fn of(arguments: &Table) -> Self {
        let argument = |key: &str| arguments.inner().get(key).and_then(as_str);
        match (argument(HASH_HEADER), argument(HASH_PROPERTY)) {
            (Some(header), _) => Self::Header(header.as_bytes().into()),
            (None, Some(property)) => Self::property(property).unwrap_or(Self::Key),
            (None, None) => Self::Key,
        }
    }

    fn hash(&self, subject: &Subject<'_>) -> u64 {
        let hash = Hash::default();
        let properties = subject.properties;
        let octets = match self {
            Self::Key => subject.keys.first().map(|key| key.as_bytes()),
            Self::Header(name) => {
                let headers = properties.and_then(|properties| properties.headers);
                let value = headers.and_then(|headers| headers.iter().filter(|(key, _)| **key == **name).last());
                return value.map_or(hash.finish(), |(_, value)| Hash::default().field(&value).finish());
            }
            Self::CorrelationId => properties.and_then(|properties| properties.correlation_id),
            Self::MessageId => properties.and_then(|properties| properties.message_id),
            Self::Timestamp => properties.and_then(|properties| properties.timestamp),
        };
        hash.octets(octets.unwrap_or_default()).finish()
    }
}

/// What a new exchange's arguments may not say. Where an argument's type is wrong RabbitMQ crashes.
pub(super) fn check_arguments(arguments: &Table) -> Result<(), Refusal> {
    let argument = |key: &str| match arguments.inner().get(key) {
        None => Ok(None),
        Some(value @ (Value::LongString(_) | Value::ShortString(_))) => Ok(Some(value)),
        Some(other) => {
            let kind = type_name(other);
            Err(Refusal::precondition(format!("invalid type '{kind}' for arg '{key}': expected a longstr")))
        }
    };
    match (argument(HASH_HEADER)?, argument(HASH_PROPERTY)?) {
        (Some(_), Some(_)) => Err(Refusal::precondition("hash-header and hash-property are mutually exclusive")),
        (None, Some(property)) if as_str(property).and_then(Input::property).is_none() => {
            let property = as_str(property).map_or_else(|| term(property), str::to_owned);
            Err(Refusal::precondition(format!("Unsupported property: {property}")))
        }
        _ => Ok(()),
    }
}

/// What is refused as a binding's key: all but a weight of at least 1 and at most [`WEIGHT_MAX`].
pub(super) fn check_weight(routing_key: &str) -> Result<(), Refusal> {
    let text = match weight(routing_key) {
        None => {
            let key = term(&Value::LongString(routing_key.into()));
            format!("The binding key must be an integer: {key}")
        }
        Some(0) => "The binding key must be greater than 0".to_owned(),
        Some(1..=WEIGHT_MAX) => return Ok(()),
        Some(_) => format!("The binding key must not exceed {WEIGHT_MAX}"),
    };
    Err(Refusal::precondition(text))
}

/// The buckets that a key asks for, as Erlang's `list_to_integer` reads numbers; 0 stands for all that is less than 1.
fn weight(key: &str) -> Option<u64> {
    let digits = key.strip_prefix(['+', '-']).unwrap_or(key);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    if key.starts_with('-') {
        return Some(0);
    }
    // Only too large a number is none.
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// The buckets of one exchange.
#[derive(Debug)]
pub(super) struct Ring {
    input: Input,
    /// In the order in which they came. A destination is there once.
    slots: Vec<Slot>,
    /// Above all places that were given.
    next_place: u64,
}

#[derive(Debug)]
struct Slot {
    destination: Destination,
    buckets: u64,
    /// The bucket behind its last.
    end: u64,
}

impl Ring {
    pub(super) fn new(arguments: &Table) -> Self {
        Self { input: Input::of(arguments), slots: Vec::new(), next_place: 0 }
    }

    /// Whether the key alone decides.
    pub(super) fn is_by_key(&self) -> bool {
        self.input == Input::Key
    }

    /// Gives a binding its buckets, behind all others, and says at which place; none if its destination has buckets by
    /// another binding. One that comes back from the store has its `place`. Those come in the order of their places, and
    /// the last one to a destination counts: the buckets of those before it had been taken away ([`Ring::remove`]).
    pub(super) fn add(&mut self, binding: &Binding, place: Option<u64>) -> Option<u64> {
        if place.is_some() {
            self.remove(&binding.destination);
        } else if self.slots.iter().any(|slot| slot.destination == binding.destination) {
            return None;
        }
        let place = place.unwrap_or(self.next_place);
        self.next_place = self.next_place.max(place.saturating_add(1));
        let buckets = weight(&binding.routing_key).unwrap_or(0).min(WEIGHT_MAX);
        self.slots.push(Slot { destination: binding.destination.clone(), buckets, end: 0 });
        self.count_from(self.slots.len() - 1);
        Some(place)
    }

    /// Takes a destination's buckets away, whichever of its bindings is removed, also one that had brought none: then
    /// others are left that bring no message until the broker is started again. That is RabbitMQ's behaviour.
    pub(super) fn remove(&mut self, destination: &Destination) {
        if let Some(at) = self.slots.iter().position(|slot| slot.destination == *destination) {
            self.slots.remove(at);
            self.count_from(at);
        }
    }

    fn count_from(&mut self, at: usize) {
        let mut end = at.checked_sub(1).map_or(0, |before| self.slots[before].end);
        for slot in &mut self.slots[at..] {
            end += slot.buckets;
            slot.end = end;
        }
    }

    pub(super) fn route(&self, subject: &Subject<'_>, found: &mut dyn FnMut(&Destination)) {
        let buckets = self.slots.last().map_or(0, |last| last.end);
        let bucket = jump(self.input.hash(subject), buckets);
        let at = self.slots.partition_point(|slot| slot.end <= bucket);
        if let Some(slot) = self.slots.get(at) {
            found(&slot.destination);
        }
    }
}

/// The bucket of a hash among so many.
fn jump(mut hash: u64, buckets: u64) -> u64 {
    let (mut bucket, mut next) = (0, 0);
    while next < buckets {
        bucket = next;
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let far = ((u128::from(bucket) + 1) << 31) / (u128::from(hash >> 33) + 1);
        next = u64::try_from(far).unwrap_or(u64::MAX);
    }
    bucket
}

#[cfg(test)]
impl Ring {
    /// The destination of each bucket.
    pub(super) fn buckets(&self) -> Vec<Destination> {
        let buckets =
            |slot: &Slot| std::iter::repeat_n(slot.destination.clone(), usize::try_from(slot.buckets).unwrap());
        self.slots.iter().flat_map(buckets).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_bucket_moves_keys_into_that_one_only() {
        for hash in (0..2000_u64).map(|number| Hash::default().octets(&number.to_be_bytes()).finish()) {
            let mut before = jump(hash, 1);
            for buckets in 2..200 {
                let now = jump(hash, buckets);
                assert!(now == before || now == buckets - 1);
                before = now;
            }
        }
        assert_eq!(jump(17, 0), 0);
    }

    #[test]
    fn jumps_go_where_the_papers_code_goes() {
        for (hash, buckets, expected) in
            [(1, 1, 0), (42, 57, 43), (0xdead_10cc, 1, 0), (0xdead_10cc, 666, 361), (256, 1024, 520)]
        {
            assert_eq!(jump(hash, buckets), expected);
        }
    }

    #[test]
    fn buckets_are_hit_alike() {
        let mut hits = [0_u32; 50];
        for number in 0..100_000_u64 {
            let bucket = jump(Hash::default().octets(format!("key{number}").as_bytes()).finish(), 50);
            hits[usize::try_from(bucket).unwrap()] += 1;
        }
        // 2000 expected; five standard deviations are 222.
        assert!(hits.iter().all(|hits| (1778..=2222).contains(hits)), "{hits:?}");
    }
}
