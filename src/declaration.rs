//! What declaring an exchange and declaring a queue have in common: arguments that name an exchange, and whether a
//! second declaration says the same as the first (`rabbit_misc:assert_args_equivalence`).

use crate::amqp::table::{Table, Value, as_i64, as_str, type_name};
use crate::amqp::term::{as_binary, term};
use crate::refusal::Refusal;

/// The exchange that an argument names. Only a long string can; `resource` is "queue 'q' in vhost '/'".
pub fn named_exchange<'a>(resource: &str, arguments: &'a Table, key: &str) -> Result<Option<&'a str>, Refusal> {
    let Some(value) = arguments.inner().get(key) else { return Ok(None) };
    let kind = type_name(value);
    if kind != "longstr" {
        return Err(Refusal::precondition(format!("invalid type '{kind}' for arg '{key}' in {resource}")));
    }
    // RabbitMQ takes any octets, but here, as on the wire, a name is UTF-8.
    let name = as_str(value)
        .ok_or_else(|| Refusal::precondition(format!("invalid arg '{key}' for {resource}: expected UTF-8")))?;
    Ok(Some(name))
}

/// In what a declaration differs from what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    name: String,
    received: String,
    current: String,
}

impl Difference {
    /// Compares a field of a declaration.
    pub fn of_field<T: PartialEq + std::fmt::Display>(field: &str, current: T, received: T) -> Option<Self> {
        (current != received).then(|| Self {
            name: field.to_owned(),
            received: format!("'{received}'"),
            current: format!("'{current}'"),
        })
    }

    /// Compares an argument of a declaration. Types don't matter where values are the same to Erlang: integers of all
    /// widths, both floats, timestamps and integers, texts and octets.
    pub fn of_argument(key: &str, current: Option<&Value>, received: Option<&Value>) -> Option<Self> {
        let (current, received) = match (current, received) {
            (None, None) => return None,
            (Some(current), Some(received)) if same(current, received) => return None,
            (Some(current), Some(received)) => (one_of_two(current), one_of_two(received)),
            (current, received) => (only_one(current), only_one(received)),
        };
        Some(Self { name: key.to_owned(), received, current })
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, received, current } = self;
        write!(out, "'{name}': received {received} but current is {current}")
    }
}

/// Refuses a declaration that differs from what is there. RabbitMQ tells of the first difference and leaves the next for
/// the next try; here they may follow its words. `resource` is "queue 'q' in vhost '/'".
pub fn check_equivalent(resource: &str, differences: impl IntoIterator<Item = Difference>) -> Result<(), Refusal> {
    let mut differences = differences.into_iter();
    let Some(Difference { name, received, current }) = differences.next() else { return Ok(()) };
    let text = format!("inequivalent arg '{name}' for {resource}: received {received} but current is {current}");
    let mut more = String::new();
    for (at, difference) in differences.enumerate() {
        more += if at == 0 { "; also " } else { ", " };
        more += &difference.to_string();
    }
    Err(Refusal { more, ..Refusal::precondition(text) })
}

/// How a value is shown beside another one. That void reads "none" is RabbitMQ's way.
fn one_of_two(value: &Value) -> String {
    if *value == Value::Void { "none".to_owned() } else { format!("'{}'", bare(value)) }
}

/// How a value is shown beside none at all.
fn only_one(value: Option<&Value>) -> String {
    value.map_or_else(
        || "none".to_owned(),
        |value| format!("the value '{}' of type '{}'", bare(value), type_name(value)),
    )
}

/// A string as it is, anything else as a term.
fn bare(value: &Value) -> String {
    as_binary(value).map_or_else(|| term(value), |octets| String::from_utf8_lossy(octets).into_owned())
}

fn same(a: &Value, b: &Value) -> bool {
    a == b
        || integer(a).is_some_and(|number| integer(b) == Some(number))
        || as_binary(a).is_some_and(|octets| as_binary(b) == Some(octets))
        || float(a).is_some_and(|number| float(b) == Some(number))
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Timestamp(seconds) => Some((*seconds).into()),
        value => as_i64(value).map(i128::from),
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some((*number).into()),
        Value::Double(number) => Some(*number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use amq_protocol::types::DecimalValue;

    const QUEUE: &str = "queue 'q' in vhost '/'";

    fn refusal(current: Option<Value>, received: Option<Value>) -> String {
        let difference = Difference::of_argument("x-a", current.as_ref(), received.as_ref());
        let text = check_equivalent(QUEUE, difference).expect_err("they differ").text;
        text.strip_prefix("inequivalent arg 'x-a' for queue 'q' in vhost '/': ").expect("the usual start").to_owned()
    }

    fn text(text: &str) -> Value {
        Value::LongString(text.into())
    }

    #[test]
    fn equal_values_of_different_types_are_equivalent() {
        for (a, b) in [
            (Value::LongInt(10), Value::LongLongInt(10)),
            (Value::ShortShortUInt(255), Value::ShortInt(255)),
            (Value::LongInt(10), Value::Timestamp(10)),
            (Value::Float(1.5), Value::Double(1.5)),
            (text("a"), Value::ByteArray(b"a".as_slice().into())),
        ] {
            assert_eq!(Difference::of_argument("x-a", Some(&a), Some(&b)), None, "{a:?} {b:?}");
        }
        assert_eq!(Difference::of_argument("x-a", None, None), None);
    }

    #[test]
    fn what_differs_is_shown_as_rabbitmq_shows_it() {
        let int = || Some(Value::LongInt(10));
        assert_eq!(refusal(int(), Some(Value::LongInt(11))), "received '11' but current is '10'");
        assert_eq!(refusal(int(), None), "received none but current is the value '10' of type 'signedint'");
        assert_eq!(refusal(None, int()), "received the value '10' of type 'signedint' but current is none");
        assert_eq!(refusal(int(), Some(Value::Double(10.0))), "received '10.0' but current is '10'");
        assert_eq!(refusal(int(), Some(text("10"))), "received '10' but current is '10'");
        assert_eq!(refusal(int(), Some(Value::Void)), "received none but current is '10'");
        assert_eq!(
            refusal(Some(Value::Void), None),
            "received none but current is the value 'undefined' of type 'void'"
        );
        let array = Value::FieldArray(vec![text("a"), Value::LongInt(1)].into());
        assert_eq!(refusal(int(), Some(array)), "received '[{longstr,<<\"a\">>},{signedint,1}]' but current is '10'");
        let decimal = Value::DecimalValue(DecimalValue { scale: 1, value: 5 });
        assert_eq!(refusal(Some(decimal), None), "received none but current is the value '{1,5}' of type 'decimal'");
    }

    #[test]
    fn all_differences_are_told_behind_the_first() {
        let field = |name| Difference::of_field(name, false, true).unwrap();
        assert_eq!(check_equivalent(QUEUE, []), Ok(()));
        let said = |differences: &[Difference]| check_equivalent(QUEUE, differences.to_vec()).unwrap_err().whole_text();
        let first = "inequivalent arg 'a' for queue 'q' in vhost '/': received 'true' but current is 'false'";
        assert_eq!(said(&[field("a")]), first);
        let all = format!(
            "{first}; also 'b': received 'true' but current is 'false', 'c': received 'true' but current is 'false'"
        );
        assert_eq!(said(&[field("a"), field("b"), field("c")]), all);
    }

    #[test]
    fn only_a_long_string_names_an_exchange() {
        let named = |value| {
            let mut arguments = Table::default();
            arguments.insert("ae".into(), value);
            named_exchange("exchange 'x' in vhost '/'", &arguments, "ae").map(|name| name.map(str::to_owned))
        };
        assert_eq!(named(text("")), Ok(Some(String::new())));
        let refused = named(Value::Void).unwrap_err();
        assert_eq!(refused.text, "invalid type 'void' for arg 'ae' in exchange 'x' in vhost '/'");
        assert_eq!(named_exchange("x", &Table::default(), "ae"), Ok(None));
    }
}
