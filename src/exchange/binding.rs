//! A binding and what tells it from another.

use crate::amqp::table::{Table, Value, as_i64, type_name};
use crate::amqp::term::as_binary;
use std::cmp::Ordering;
use std::sync::Arc;

/// Where a binding leads, or a message.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Destination {
    Queue(Arc<str>),
    Exchange(Arc<str>),
}

/// An edge from an exchange. Two bindings are the same if all three parts are: an argument of another integer width
/// makes another binding. The order of a table's fields does not count. (RabbitMQ compares *nested* tables in the order
/// they were written; that order is lost here.)
#[derive(Clone, Debug)]
pub struct Binding {
    pub destination: Destination,
    pub routing_key: Arc<str>,
    pub arguments: Table,
}

// Written out because a table with floats has no order of its own. Destinations come first, so that all bindings to one
// are neighbours.
impl Ord for Binding {
    fn cmp(&self, other: &Self) -> Ordering {
        self.destination
            .cmp(&other.destination)
            .then_with(|| self.routing_key.cmp(&other.routing_key))
            .then_with(|| compare_tables(&self.arguments, &other.arguments))
    }
}

impl PartialOrd for Binding {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Binding {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Binding {}

fn compare_tables(a: &Table, b: &Table) -> Ordering {
    let (a, b) = (a.inner(), b.inner());
    for ((key, value), (other_key, other_value)) in a.iter().zip(b) {
        let order = key.cmp(other_key).then_with(|| compare_values(value, other_value));
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// By type, then by value.
fn compare_values(a: &Value, b: &Value) -> Ordering {
    type_name(a).cmp(type_name(b)).then_with(|| match (a, b) {
        (Value::Boolean(a), Value::Boolean(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        (Value::DecimalValue(a), Value::DecimalValue(b)) => (a.scale, a.value).cmp(&(b.scale, b.value)),
        (Value::FieldArray(a), Value::FieldArray(b)) => {
            let (a, b) = (a.as_slice(), b.as_slice());
            let mut items = a.iter().zip(b).map(|(a, b)| compare_values(a, b));
            items.find(|order| *order != Ordering::Equal).unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::FieldTable(a), Value::FieldTable(b)) => compare_tables(a, b),
        (a, b) => as_i64(a).cmp(&as_i64(b)).then_with(|| as_binary(a).cmp(&as_binary(b))),
    })
}
