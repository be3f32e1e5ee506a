//! ASN.1 as certificates and keys have it (X.690, DER): values with a tag and a length, one behind the other. Only what
//! is read here is understood; lengths are held against what is there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const OBJECT_ID: u8 = 0x06;
pub const SEQUENCE: u8 = 0x30;

/// The tag of something that only its place explains: `[number]`, primitive or with values inside.
pub const fn context(number: u8, with_values: bool) -> u8 {
    0x80 | number | if with_values { 0x20 } else { 0 }
}

/// A value: its tag, and its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    pub tag: u8,
    pub contents: &'a [u8],
}

/// Values one behind the other. Ends at what can't be read.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    pub fn of(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// The next value, if it has this tag; otherwise it stays.
    pub fn next_of(&mut self, tag: u8) -> Option<Value<'a>> {
        let mut ahead = *self;
        let value = ahead.next().filter(|value| value.tag == tag)?;
        *self = ahead;
        Some(value)
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let (&tag, rest) = std::mem::take(&mut self.0).split_first()?;
        let (&length, rest) = rest.split_first()?;
        // A tag of several octets is nothing that is read here.
        let is_short = tag & 0x1f != 0x1f;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            // Up to 16 MiB; one without an end is no DER.
            0x81..=0x83 => {
                let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                (octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet)), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        is_short.then_some(Value { tag, contents })
    }
}

impl<'a> Value<'a> {
    /// The values inside.
    pub fn values(self) -> Values<'a> {
        Values(self.contents)
    }

    /// The octets of a bit string that is whole octets.
    pub fn bits(self) -> Option<&'a [u8]> {
        self.contents.strip_prefix(&[0])
    }

    /// An object identifier as numbers with dots.
    pub fn id(self) -> Option<String> {
        let mut numbers = Vec::new();
        let mut number: u64 = 0;
        for octet in self.contents {
            number = number.checked_mul(128)? | u64::from(octet & 0x7f);
            if octet & 0x80 == 0 {
                numbers.push(std::mem::take(&mut number));
            }
        }
        // The first two are one: 40 times the first and the second, which is below 40 unless the first is 2.
        let first = numbers.first_mut()?;
        let top = (*first / 40).min(2);
        *first -= top * 40;
        numbers.insert(0, top);
        let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
        Some(numbers.join("."))
    }
}

/// The first block of a PEM text (RFC 7468): what it says it is, and its octets.
pub fn pem(text: &str) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (lines, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let digits: String = lines.split_ascii_whitespace().collect();
    Some((label, BASE64.decode(digits).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_one_behind_the_other() {
        let mut values = Values::of(&[0x30, 3, 0x02, 1, 5, 0x04, 0]);
        let sequence = values.next_of(SEQUENCE).unwrap();
        assert_eq!(sequence.values().next(), Some(Value { tag: INTEGER, contents: &[5] }));
        assert_eq!(values.next_of(INTEGER), None);
        assert_eq!(values.next_of(OCTET_STRING), Some(Value { tag: OCTET_STRING, contents: &[] }));
        assert_eq!(values.next(), None);
        let long = [&[0x04, 0x82, 0x01, 0x00][..], &[7; 256]].concat();
        assert_eq!(Values::of(&long).next().unwrap().contents, [7; 256]);
    }

    #[test]
    fn what_does_not_fit_is_no_value() {
        for octets in
            [&[0x30][..], &[0x30, 1], &[0x30, 0x80, 0, 0], &[0x30, 0x84, 0, 0, 0, 0], &[0x30, 0x82, 1], &[0x1f, 0]]
        {
            assert_eq!(Values::of(octets).next(), None, "{octets:?}");
        }
    }

    #[test]
    fn object_identifiers_are_numbers_with_dots() {
        let id = |contents: &[u8]| Value { tag: OBJECT_ID, contents }.id();
        assert_eq!(id(&[0x55, 4, 3]).as_deref(), Some("2.5.4.3"));
        assert_eq!(id(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]).as_deref(), Some("1.2.840.113549.1.9.1"));
        assert_eq!(id(&[0x88, 0x37, 3]).as_deref(), Some("2.999.3"));
        assert_eq!(id(&[]), None);
        assert_eq!(id(&[0xff; 12]), None);
    }

    #[test]
    fn the_first_block_of_a_pem_text_counts() {
        let text =
            "before\n-----BEGIN A KEY-----\nAAEC\nAwQ=\n-----END A KEY-----\n-----BEGIN B-----\n-----END B-----\n";
        assert_eq!(pem(text), Some(("A KEY", vec![0, 1, 2, 3, 4])));
        assert_eq!(pem("-----BEGIN A-----\nAAEC\n-----END B-----"), None);
        assert_eq!(pem("-----BEGIN A-----\n?\n-----END A-----"), None);
        assert_eq!(pem(""), None);
    }
}
