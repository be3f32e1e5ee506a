//! Headers: the binding's arguments are what the message's headers are held against (`rabbit_exchange_type_headers`).
//!
//! `x-match` says whether all or any of them must match; those whose names start with `x-` count only where it ends in
//! `-with-x`. Erlang compares the values without their types: integers of all widths are equal by value, both floats
//! are, texts and octets are, but 1 is not 1.0, and what arrays and tables hold is compared with its types.

use crate::amqp::table::{Field, Fields, Table, Value, as_i64, as_str, type_name};
use crate::amqp::term::{as_binary, term};
use crate::refusal::Refusal;
use smallvec::SmallVec;

const X_MATCH: &str = "x-match";

/// A binding's arguments, ready to be matched.
#[derive(Debug)]
pub(super) struct Matcher {
    /// Whether all must match; else one is enough.
    all: bool,
    wanted: Box<[(Box<str>, Wanted)]>,
}

/// What a header must be.
#[derive(Debug)]
enum Wanted {
    /// Anything, if it is there.
    Present,
    Integer(i128),
    /// The bits of a double: to Erlang 0.0 and -0.0 are two.
    Float(u64),
    Bool(bool),
    Binary(Box<[u8]>),
    /// A decimal, array or table.
    Typed(Value),
}

/// A message's headers, sorted. Of two with the same name the last counts (`mc_amqpl:routing_headers`).
pub(super) struct Headers<'a>(SmallVec<[(&'a [u8], Field<'a>); 8]>);

impl Matcher {
    /// What RabbitMQ refuses to bind.
    pub(super) fn check(arguments: &Table) -> Result<(), Refusal> {
        let Some(value) = arguments.inner().get(X_MATCH) else { return Ok(()) };
        let kind = type_name(value);
        if kind != "longstr" {
            let text = format!("Invalid x-match field type {kind} (value {}); expected longstr", term(value));
            return Err(Refusal::precondition(text));
        }
        if matches!(as_str(value), Some("all" | "any" | "all-with-x" | "any-with-x")) {
            return Ok(());
        }
        let text = format!("Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x", term(value));
        Err(Refusal::precondition(text))
    }

    pub(super) fn new(arguments: &Table) -> Self {
        let mode = arguments.inner().get(X_MATCH).and_then(as_str).unwrap_or("all");
        let with_x = matches!(mode, "all-with-x" | "any-with-x");
        let counts = |key: &str| if with_x { key != X_MATCH } else { !key.starts_with("x-") };
        let wanted = arguments.into_iter().filter(|(key, _)| counts(key.as_str()));
        Self {
            all: !matches!(mode, "any" | "any-with-x"),
            wanted: wanted.map(|(key, value)| (key.as_str().into(), Wanted::new(value))).collect(),
        }
    }

    pub(super) fn matches(&self, headers: &Headers<'_>) -> bool {
        let mut each = self.wanted.iter().map(|(key, wanted)| headers.get(key).is_some_and(|found| wanted.is(&found)));
        if self.all { each.all(|matched| matched) } else { each.any(|matched| matched) }
    }
}

impl<'a> Headers<'a> {
    pub(super) fn new(fields: Option<Fields<'a>>) -> Self {
        let mut sorted: SmallVec<[_; 8]> = fields.unwrap_or(Fields::EMPTY).iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        Self(sorted)
    }

    fn get(&self, key: &str) -> Option<Field<'a>> {
        let after = self.0.partition_point(|(name, _)| *name <= key.as_bytes());
        self.0[..after].last().filter(|(name, _)| *name == key.as_bytes()).map(|(_, field)| *field)
    }
}

impl Wanted {
    fn new(value: &Value) -> Self {
        if let Some(number) = as_i64(value) {
            return Self::Integer(number.into());
        }
        if let Some(octets) = as_binary(value) {
            return Self::Binary(octets.into());
        }
        match value {
            Value::Void => Self::Present,
            Value::Boolean(truth) => Self::Bool(*truth),
            Value::Float(number) => Self::Float(f64::from(*number).to_bits()),
            Value::Double(number) => Self::Float(number.to_bits()),
            Value::Timestamp(seconds) => Self::Integer((*seconds).into()),
            other => Self::Typed(other.clone()),
        }
    }

    fn is(&self, found: &Field<'_>) -> bool {
        match (self, found) {
            (Self::Present, _) => true,
            (Self::Bool(wanted), Field::Bool(found)) => wanted == found,
            (Self::Float(wanted), Field::F32(found)) => *wanted == f64::from(*found).to_bits(),
            (Self::Float(wanted), Field::F64(found)) => *wanted == found.to_bits(),
            (Self::Binary(wanted), Field::LongStr(found) | Field::Bytes(found)) => **wanted == **found,
            // RabbitMQ turns a message's timestamp into milliseconds, as AMQP 1.0 has it, but not the binding's.
            (Self::Integer(wanted), Field::Timestamp(seconds)) => *wanted == i128::from(*seconds) * 1000,
            (Self::Integer(wanted), found) => found.as_i64().is_some_and(|found| *wanted == found.into()),
            (Self::Typed(wanted), found) => identical(wanted, found),
            _ => false,
        }
    }
}

/// The same type and the same value. Unlike in RabbitMQ the order of a nested table's fields does not count.
fn identical(wanted: &Value, found: &Field<'_>) -> bool {
    type_name(wanted) == found.type_name()
        && match (wanted, found) {
            (Value::Void, Field::Void) => true,
            (Value::Boolean(wanted), Field::Bool(found)) => wanted == found,
            (Value::Float(wanted), Field::F32(found)) => wanted.to_bits() == found.to_bits(),
            (Value::Double(wanted), Field::F64(found)) => wanted.to_bits() == found.to_bits(),
            (Value::Timestamp(wanted), Field::Timestamp(found)) => wanted == found,
            (Value::DecimalValue(wanted), Field::Decimal(scale, unscaled)) => {
                wanted.scale == *scale && wanted.value == *unscaled
            }
            (Value::FieldArray(wanted), Field::Array(found)) => {
                let wanted = wanted.as_slice();
                wanted.len() == found.iter().count()
                    && wanted.iter().zip(found.iter()).all(|(wanted, found)| identical(wanted, &found))
            }
            (Value::FieldTable(wanted), Field::Table(found)) => {
                wanted.inner().len() == found.iter().count()
                    && wanted.into_iter().all(|(key, wanted)| {
                        found.get(key.as_str().as_bytes()).is_some_and(|found| identical(wanted, &found))
                    })
            }
            (wanted, Field::LongStr(found) | Field::Bytes(found)) => as_binary(wanted) == Some(*found),
            (wanted, found) => as_i64(wanted).is_some_and(|wanted| found.as_i64() == Some(wanted)),
        }
}
