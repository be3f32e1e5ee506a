//! The hash of the exchanges that choose by one.
//!
//! It is part of what the broker promises: over a restart, and over an upgrade, the same key leads to the same queue, so
//! that its messages stay in order. It is FNV-1a over 64 bits, whose upper bits are poor for short keys, and after it the
//! finaliser of MurmurHash3, which lets each bit depend on all. It is not Erlang's `phash2`: a key may lead to another
//! queue than in RabbitMQ. Neither hash is a secret: who chooses the keys can aim at a queue.

use crate::amqp::table::Field;

pub(super) struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    pub(super) fn octets(mut self, octets: &[u8]) -> Self {
        for octet in octets {
            self.0 = (self.0 ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    /// Takes several texts so that `ab, c` is another input than `a, bc`: 255 is no octet of UTF-8.
    pub(super) fn texts<'t>(self, texts: impl IntoIterator<Item = &'t str>) -> Self {
        texts.into_iter().fold(self, |hash, text| hash.octets(text.as_bytes()).octets(&[255]))
    }

    /// Takes a header's value: integers of all widths by their value, texts and octets alike; of an array the first item
    /// and of a table the first field, as RabbitMQ does.
    pub(super) fn field(self, field: &Field<'_>) -> Self {
        if let Some(number) = field.as_i64() {
            return self.octets(b"i").octets(&number.to_be_bytes());
        }
        match field {
            Field::Bool(truth) => self.octets(&[b't', u8::from(*truth)]),
            Field::F32(number) => self.octets(b"d").octets(&f64::from(*number).to_be_bytes()),
            Field::F64(number) => self.octets(b"d").octets(&number.to_be_bytes()),
            Field::Decimal(scale, unscaled) => self.octets(&[b'D', *scale]).octets(&unscaled.to_be_bytes()),
            Field::LongStr(text) | Field::Bytes(text) => self.octets(b"S").octets(text),
            Field::Timestamp(seconds) => self.octets(b"T").octets(&seconds.to_be_bytes()),
            Field::Array(items) => match items.iter().next() {
                Some(first) => self.octets(b"A").field(&first),
                None => self,
            },
            Field::Table(fields) => match fields.iter().next() {
                Some((key, value)) => self.octets(b"F").octets(key).octets(&[255]).field(&value),
                None => self,
            },
            _ => self,
        }
    }

    pub(super) fn finish(self) -> u64 {
        let mut hash = self.0;
        for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53_u64] {
            hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
        }
        hash ^ (hash >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_same_in_every_version() {
        // FNV-1a's own test vectors.
        for (text, expected) in [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c_u64)] {
            assert_eq!(Hash::default().octets(text.as_bytes()).0, expected);
        }
        assert_eq!(Hash::default().octets(b"foobar").0, 0x8594_4171_f739_67e8);
        let of = |text: &str| Hash::default().octets(text.as_bytes()).finish();
        let expected = [0xefd0_1f60_ba99_2926, 0x82a2_a958_a9be_ce5b, 0x3fb6_15c2_5407_331a];
        assert_eq!([of(""), of("a"), of("orders.eu.17")], expected);
    }

    #[test]
    fn inputs_that_differ_are_told_apart() {
        let of = |field: Field<'_>| Hash::default().field(&field).finish();
        assert_eq!(of(Field::I8(5)), of(Field::I64(5)));
        assert_eq!(of(Field::LongStr(b"x")), of(Field::Bytes(b"x")));
        assert_eq!(of(Field::Void), Hash::default().finish());
        assert_ne!(of(Field::I8(5)), of(Field::F64(5.0)));
        assert_ne!(of(Field::I8(5)), of(Field::Timestamp(5)));
        let texts = |texts: &[&str]| Hash::default().texts(texts.iter().copied()).finish();
        assert_ne!(texts(&["ab", "c"]), texts(&["a", "bc"]));
        assert_ne!(texts(&["a"]), texts(&["a", ""]));
    }
}
