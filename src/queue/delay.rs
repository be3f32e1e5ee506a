//! Delays, pure: how long a message is to be held back, and what it looks like afterwards
//! (the plugin's `rabbit_delayed_message_utils`).

use crate::amqp::properties::Properties;
use crate::amqp::table::{Field, Fields, Writer};

const HEADER: &str = "x-delay";

/// For how many milliseconds a message with these headers is to be held back; `None` if it is not to be. Any integer
/// counts, a float's whole part, and a text of digits. What is too large counts as the largest there is.
pub fn delay_ms(headers: Option<Fields<'_>>) -> Option<u64> {
    asked_ms(headers?).map(i64::unsigned_abs)
}

fn asked_ms(headers: Fields<'_>) -> Option<i64> {
    let delay_ms = match headers.get(HEADER.as_bytes())? {
        Field::LongStr(text) | Field::Bytes(text) => digits(std::str::from_utf8(text).ok()?)?,
        Field::F32(number) => whole(number.into())?,
        Field::F64(number) => whole(number)?,
        field => field.as_i64()?,
    };
    (delay_ms > 0).then_some(delay_ms)
}

fn digits(text: &str) -> Option<i64> {
    let are_digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    are_digits.then(|| text.parse().unwrap_or(i64::MAX))
}

fn whole(number: f64) -> Option<i64> {
    digits(&format!("{:.0}", number.trunc()))
}

/// The raw properties of a message that was held back: the delay is negated, so that it is held back by no other exchange
/// on its way, and whoever gets it sees that it was. Of any type before, it is a long then, and all headers are sorted.
pub fn passed(raw: &[u8]) -> Vec<u8> {
    let passed = Properties::parse(raw).ok().and_then(|properties| {
        let headers = properties.headers?;
        let mut negated = Writer::default();
        negated.key(HEADER).long(-asked_ms(headers)?);
        Some(properties.with_headers(raw, &headers.merged(negated.fields())))
    });
    passed.unwrap_or_else(|| raw.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &[u8]) -> Vec<u8> {
        [b"\x07x-delay", value].concat()
    }

    fn asked(value: &[u8]) -> Option<u64> {
        delay_ms(Some(Fields::check(&headers(value)).unwrap()))
    }

    #[test]
    fn integers_of_any_type_and_digits_count() {
        assert_eq!(delay_ms(None), None);
        assert_eq!(delay_ms(Some(Fields::check(b"\x05delayI\0\0\0\x05").unwrap())), None);
        for value in [&b"b\x05"[..], b"B\x05", b"s\0\x05", b"u\0\x05", b"I\0\0\0\x05", b"i\0\0\0\x05"] {
            assert_eq!(asked(value), Some(5), "{value:?}");
        }
        assert_eq!(asked(b"l\0\0\x01\0\0\0\0\0"), Some(1 << 40));
        assert_eq!(asked(b"i\xff\xff\xff\xff"), Some(u32::MAX.into()));
        assert_eq!(asked(b"S\0\0\0\x041000"), Some(1000));
        assert_eq!(asked(b"x\0\0\0\x0207"), Some(7));
        assert_eq!(asked(&[&b"d"[..], &5.9_f64.to_be_bytes()].concat()), Some(5));
        assert_eq!(asked(&[&b"f"[..], &2.5_f32.to_be_bytes()].concat()), Some(2));
    }

    #[test]
    fn what_is_too_large_counts_as_the_largest() {
        let largest = Some(i64::MAX.unsigned_abs());
        assert_eq!(asked(b"S\0\0\0\x1499999999999999999999"), largest);
        assert_eq!(asked(&[&b"d"[..], &1e300_f64.to_be_bytes()].concat()), largest);
        assert_eq!(asked(&[&b"l"[..], &i64::MAX.to_be_bytes()].concat()), largest);
    }

    #[test]
    fn nothing_negative_or_of_another_type_counts() {
        let values = [
            &b"I\0\0\0\0"[..],
            b"I\xff\xff\xff\xff",
            b"S\0\0\0\0",
            b"S\0\0\0\x02-5",
            b"S\0\0\0\x021s",
            b"S\0\0\0\x01\xff",
            b"t\x01",
            b"T\0\0\0\0\0\0\0\x05",
            b"V",
        ];
        values.into_iter().for_each(|value| assert_eq!(asked(value), None, "{value:?}"));
        for number in [0.9_f64, -0.5, -7.0] {
            assert_eq!(asked(&[&b"d"[..], &number.to_be_bytes()].concat()), None);
        }
    }

    #[test]
    fn a_passed_delay_is_negated_among_sorted_headers() {
        let raw = b"\x20\0\0\0\0\x14\x01zV\x07x-delayS\0\0\0\x015\x01aV";
        let after = b"\x20\0\0\0\0\x17\x01aV\x07x-delayl\xff\xff\xff\xff\xff\xff\xff\xfb\x01zV";
        assert_eq!(passed(raw), after);
        assert_eq!(passed(after), after);
        assert_eq!(delay_ms(Properties::parse(after).unwrap().headers), None);
    }
}
