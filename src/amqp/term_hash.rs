//! The hash of a table as Erlang takes it of its own terms: `erlang:phash2/2` with the range 2^32. The management API
//! names bindings by it, and clients compute and keep such names, so ours must be the same number.
//!
//! A table is the list `[{<<"key">>,long,1}]`, its values' types are atoms. The algorithm is the one of Erlang's virtual
//! machine (`make_hash2` in `erl_term_hashing.c`), which promises to keep it; it mixes as Bob Jenkins does. A term's hash
//! goes on from that of the terms before it.

use super::table::{Table, Value, as_i64, type_name};
use super::term::as_binary;

/// The golden ratio, whose multiples tell terms of different kinds apart.
const RATIO: u32 = 0x9e37_79b9;

/// The multiples, by what they stand for.
#[derive(Clone, Copy)]
enum Kind {
    Small = 1,
    Nil = 2,
    Atom = 3,
    Tuple = 9,
    Negative = 10,
    Positive = 11,
    Float = 12,
    Binary = 13,
}

impl Kind {
    fn constant(self) -> u32 {
        RATIO.wrapping_mul(self as u32)
    }
}

/// Erlang's number for the end of a list, and the hash of an empty one.
const NIL: u32 = 2;
const NIL_ALONE: u32 = 3_468_870_702;
/// Integers of so many bits are hashed in one way, others in another.
const SMALL: std::ops::Range<i64> = -(1 << 27)..1 << 27;

/// The hash of a table, its fields in the order of their keys.
pub fn of_table(table: &Table) -> u32 {
    Hash(0).table(table).0
}

struct Hash(u32);

impl Hash {
    fn table(self, table: &Table) -> Self {
        let fields = table.inner().iter();
        let each = |hash: Self, (key, value): (&_, &Value)| {
            let key: &amq_protocol::types::ShortString = key;
            hash.word(3, Kind::Tuple).binary(key.as_str().as_bytes()).atom(type_name(value)).value(value)
        };
        fields.fold(self, each).nil()
    }

    fn value(self, value: &Value) -> Self {
        if let Some(octets) = as_binary(value) {
            return self.binary(octets);
        }
        if let Some(number) = as_i64(value) {
            return self.integer(number);
        }
        match value {
            Value::Boolean(truth) => self.atom(if *truth { "true" } else { "false" }),
            Value::Timestamp(seconds) => match i64::try_from(*seconds) {
                Ok(seconds) => self.integer(seconds),
                Err(_) => self.wide(*seconds, Kind::Positive),
            },
            Value::Float(number) => self.float((*number).into()),
            Value::Double(number) => self.float(*number),
            Value::DecimalValue(decimal) => {
                self.word(2, Kind::Tuple).integer(decimal.scale.into()).integer(decimal.value.into())
            }
            Value::FieldArray(items) => {
                let each = |hash: Self, item: &Value| hash.word(2, Kind::Tuple).atom(type_name(item)).value(item);
                items.as_slice().iter().fold(self, each).nil()
            }
            Value::FieldTable(table) => self.table(table),
            _ => self.atom("undefined"),
        }
    }

    fn nil(self) -> Self {
        if self.0 == 0 { Self(NIL_ALONE) } else { self.word(NIL, Kind::Nil) }
    }

    fn atom(self, name: &str) -> Self {
        let hash = hashpjw(name.as_bytes());
        if self.0 == 0 { Self(hash) } else { self.word(hash, Kind::Atom) }
    }

    fn integer(self, number: i64) -> Self {
        if !SMALL.contains(&number) {
            let kind = if number < 0 { Kind::Negative } else { Kind::Positive };
            return self.wide(number.unsigned_abs(), kind);
        }
        let [bits, opposite] = [number, -number].map(low);
        // Negative ones are mixed twice, as there.
        let this = if number < 0 { self.word(opposite, Kind::Small) } else { self };
        this.word(bits, Kind::Small)
    }

    fn float(self, number: f64) -> Self {
        // Both zeros are one.
        let bits = if number == 0.0 { 0 } else { number.to_bits() };
        self.words(high(bits), low_of(bits), Kind::Float)
    }

    fn wide(self, number: u64, kind: Kind) -> Self {
        self.words(low_of(number), high(number), kind)
    }

    fn binary(self, octets: &[u8]) -> Self {
        let start = self.0.wrapping_add(Kind::Binary.constant());
        if octets.is_empty() {
            return Self(start);
        }
        let mut state = [RATIO, RATIO, start];
        let (blocks, rest) = octets.as_chunks::<12>();
        for block in blocks {
            add(&mut state, block);
            mix(&mut state);
        }
        // The lowest octet of the last word is the length's, so the rest's are one further.
        let mut last = [0; 12];
        let (head, tail) = rest.split_at(rest.len().min(8));
        last[..head.len()].copy_from_slice(head);
        last[9..9 + tail.len()].copy_from_slice(tail);
        add(&mut state, &last);
        // Erlang takes the length's lower 32 bits as well.
        state[2] = state[2].wrapping_add(low_of(octets.len() as u64));
        mix(&mut state);
        Self(state[2])
    }

    fn word(self, word: u32, kind: Kind) -> Self {
        self.words(word, 0, kind)
    }

    fn words(self, one: u32, other: u32, kind: Kind) -> Self {
        let constant = kind.constant();
        let mut state = [constant.wrapping_add(one), constant.wrapping_add(other), self.0];
        mix(&mut state);
        Self(state[2])
    }
}

fn low(number: i64) -> u32 {
    low_of(number.cast_unsigned())
}

fn low_of(bits: u64) -> u32 {
    let [a, b, c, d, ..] = bits.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn high(bits: u64) -> u32 {
    low_of(bits >> 32)
}

fn add(state: &mut [u32; 3], block: &[u8; 12]) {
    let (words, _) = block.as_chunks::<4>();
    for (word, octets) in state.iter_mut().zip(words) {
        *word = word.wrapping_add(u32::from_le_bytes(*octets));
    }
}

fn mix([a, b, c]: &mut [u32; 3]) {
    for [right, left, last] in [[13, 8, 13], [12, 16, 5], [3, 10, 15]] {
        *a = a.wrapping_sub(*b).wrapping_sub(*c) ^ (*c >> right);
        *b = b.wrapping_sub(*c).wrapping_sub(*a) ^ (*a << left);
        *c = c.wrapping_sub(*a).wrapping_sub(*b) ^ (*b >> last);
    }
}

/// An atom's hash (the Dragon Book's). All atoms here are of ASCII.
fn hashpjw(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash: u32, octet| {
        let hash = (hash << 4).wrapping_add((*octet).into());
        let top = hash & 0xf000_0000;
        (hash ^ (top >> 24)) ^ top
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::types::{ByteArray, FieldArray};

    #[test]
    fn hashes_are_erlangs() {
        // What RabbitMQ 4.3.6 made of these tables.
        let array = |items: Vec<Value>| Value::FieldArray(FieldArray::from(items));
        let table = |fields: Vec<(&str, Value)>| {
            let mut table = Table::default();
            for (key, value) in fields {
                table.insert(key.into(), value);
            }
            table
        };
        let nested = Value::FieldTable(table(vec![("k", Value::LongInt(2))]));
        let text = |text: &str| Value::LongString(text.into());
        let typed = table(vec![
            ("b", Value::ByteArray(ByteArray::from(b"bytes".to_vec()))),
            ("big", Value::LongLongInt(1 << 40)),
            ("e", array(vec![])),
            ("em", Value::FieldTable(Table::default())),
            ("i", Value::LongInt(134_217_728)),
            ("l", array(vec![Value::LongInt(1), text("s"), Value::Void, nested])),
            ("n", Value::Void),
            ("t", Value::Boolean(true)),
        ]);
        assert_eq!(of_table(&typed), 0x2745_d0be);
        let match_all = table(vec![("x-match", text("all")), ("a", Value::LongLongInt(1))]);
        assert_eq!(of_table(&match_all), 0xe2d9_9b08);
        // `erlang:phash2([])`
        assert_eq!(of_table(&Table::default()), 0xcec2_c42e);
    }
}
