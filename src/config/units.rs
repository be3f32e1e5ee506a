//! Values as people write them: sizes and times with units, lists with commas, ports and addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::settings::Unit;
use crate::written::Tree;

/// Bytes: `4096`, `"16 MiB"`, `"1GB"`. The units are RabbitMQ's: `k`, `kB`, `M`, `MB` … count in thousands, `Ki`,
/// `KiB` … in 1024s, in any case (`rabbit_resource_monitor_misc.erl`).
pub fn bytes(value: &Tree) -> Option<u64> {
    let text = match value {
        Tree::Integer(count) => return u64::try_from(*count).ok(),
        Tree::Text(text) => text,
        _ => return None,
    };
    let (count, unit) = number_and_unit(text)?;
    let scale: u64 = match unit.to_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000 * 1000,
        "g" | "gb" => 1000 * 1000 * 1000,
        "t" | "tb" => 1000 * 1000 * 1000 * 1000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return None,
    };
    count.checked_mul(scale)
}

/// A share in millionths: `0.6`, `1`, `"1.5"`. Exact, so that what is made of it can be compared.
pub fn share(value: &Tree) -> Option<u64> {
    let text = match value {
        Tree::Integer(count) => count.to_string(),
        Tree::Float(share) => share.to_string(),
        Tree::Text(text) => text.trim().to_owned(),
        _ => return None,
    };
    let (whole, part) = text.split_once('.').unwrap_or((&text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let part: u64 = format!("{part:0<6}").get(..6)?.parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(MILLION)?.checked_add(part)
}

/// What a share counts in.
pub const MILLION: u64 = 1_000_000;

/// A time: a number in `unit`, or `"500 ms"`, `"10s"`, `"2 min"`, `"1 h"`.
pub fn time(value: &Tree, unit: Unit) -> Option<Duration> {
    let (count, written) = match value {
        Tree::Integer(count) => (u64::try_from(*count).ok()?, ""),
        Tree::Text(text) => number_and_unit(text)?,
        _ => return None,
    };
    let scale_ms: u64 = match (written, unit) {
        ("ms", _) | ("", Unit::Milliseconds) => 1,
        ("s", _) | ("", Unit::Seconds) => 1000,
        ("m" | "min", _) => 60 * 1000,
        ("h", _) => 60 * 60 * 1000,
        _ => return None,
    };
    Some(Duration::from_millis(count.checked_mul(scale_ms)?))
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

/// A count of something.
pub fn number(value: &Tree) -> Option<u64> {
    match value {
        Tree::Integer(count) => u64::try_from(*count).ok(),
        Tree::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

pub fn boolean(value: &Tree) -> Option<bool> {
    match value {
        Tree::Bool(value) => Some(*value),
        Tree::Text(text) => match text.trim().to_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// The items of a list, or of a text with commas. The word `none` is an empty list, and so is an empty text.
pub fn items(value: &Tree) -> Option<Vec<String>> {
    let word = |tree: &Tree| match tree {
        Tree::Text(text) => Some(text.clone()),
        Tree::Integer(number) => Some(number.to_string()),
        _ => None,
    };
    match value {
        Tree::List(items) => items.iter().map(|item| word(&item.tree)).collect(),
        Tree::Text(text) if matches!(text.trim(), "" | "none") => Some(Vec::new()),
        Tree::Text(text) => Some(text.split(',').map(|item| item.trim().to_owned()).collect()),
        _ => word(value).map(|item| vec![item]),
    }
}

/// Where to listen: on a port of every address there is, or on one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    Port(u16),
    At(SocketAddr),
}

/// `5672`, `127.0.0.1:5672`, `[::1]:5672` or, as RabbitMQ has it, `::1:5672`.
pub fn listen(text: &str) -> Option<Listen> {
    if let Ok(port) = text.parse() {
        return Some(Listen::Port(port));
    }
    let (host, port) = text.rsplit_once(':')?;
    Some(Listen::At(SocketAddr::new(address(host)?, port.parse().ok()?)))
}

/// An IP address, perhaps in brackets, or `localhost`.
pub fn address(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text) {
        "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
        text => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Tree {
        Tree::Text(text.to_owned())
    }

    #[test]
    fn sizes_have_rabbitmqs_units() {
        let cases = [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("16MiB", Some(16 << 20)),
            ("16 MiB", Some(16 << 20)),
            ("16mib", Some(16 << 20)),
            ("3Ki", Some(3072)),
            ("3k", Some(3000)),
            ("3kB", Some(3000)),
            ("2GB", Some(2_000_000_000)),
            ("1 GiB", Some(1 << 30)),
            ("1.5GB", None),
            ("-1", None),
            ("lots", None),
            ("99999999999 TiB", None),
        ];
        for (written, meant) in cases {
            assert_eq!(bytes(&text(written)), meant, "{written}");
        }
        assert_eq!(bytes(&Tree::Integer(-1)), None);
    }

    #[test]
    fn shares_are_decimal_numbers() {
        let cases =
            [("0.6", Some(600_000)), ("1", Some(MILLION)), ("1.5", Some(1_500_000)), ("0.12345678", Some(123_456))];
        for (written, meant) in cases {
            assert_eq!(share(&text(written)), meant, "{written}");
        }
        assert_eq!(share(&Tree::Float(0.4)), Some(400_000));
        assert_eq!(share(&Tree::Integer(2)), Some(2 * MILLION));
        for wrong in ["", ".5", "5.", "-1", "60%", "1e-1", "99999999999999999999"] {
            assert_eq!(share(&text(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn a_time_without_a_unit_has_the_settings_own() {
        let ms = |written: &Tree, unit| time(written, unit).map(|time| time.as_millis());
        assert_eq!(ms(&Tree::Integer(10_000), Unit::Milliseconds), Some(10_000));
        assert_eq!(ms(&text("10000"), Unit::Milliseconds), Some(10_000));
        assert_eq!(ms(&Tree::Integer(60), Unit::Seconds), Some(60_000));
        assert_eq!(ms(&text("500ms"), Unit::Seconds), Some(500));
        assert_eq!(ms(&text("10 s"), Unit::Milliseconds), Some(10_000));
        assert_eq!(ms(&text("2 min"), Unit::Milliseconds), Some(120_000));
        assert_eq!(ms(&text("soon"), Unit::Seconds), None);
        assert_eq!(ms(&Tree::Bool(true), Unit::Seconds), None);
    }

    #[test]
    fn listeners_are_ports_or_addresses() {
        let at = |address: &str| Some(Listen::At(address.parse().unwrap()));
        assert_eq!(listen("5672"), Some(Listen::Port(5672)));
        assert_eq!(listen("127.0.0.1:5672"), at("127.0.0.1:5672"));
        assert_eq!(listen("[::1]:5672"), at("[::1]:5672"));
        assert_eq!(listen("::1:5672"), at("[::1]:5672"));
        assert_eq!(listen("localhost:0"), at("127.0.0.1:0"));
        assert_eq!(listen("70000"), None);
        assert_eq!(listen("example.org:5672"), None);
    }
}
