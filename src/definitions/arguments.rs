//! Arguments as JSON has them, and as AMQP has them; RabbitMQ's `rabbit_misc:to_amqp_table/1` and `amqp_table/1`.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value as Json};

use crate::amqp::{Table, Value, table::DEPTH_MAX};

/// A table: integers become longs, fractions doubles, texts long strings.
///
/// The error says what a table can't hold: a key over 255 octets, an integer over 64 bits, or what is nested too deep.
pub fn from_json(fields: &Map<String, Json>) -> Result<Table, String> {
    table(fields, 1)
}

fn table(fields: &Map<String, Json>, depth: usize) -> Result<Table, String> {
    if depth > DEPTH_MAX {
        return Err(format!("nested deeper than {DEPTH_MAX} levels"));
    }
    let mut table = BTreeMap::new();
    for (key, json) in fields {
        let name = amq_protocol::types::ShortString::try_new(key.as_str()).map_err(|_| {
            format!("the key '{}…' is longer than 255 octets", key.chars().take(30).collect::<String>())
        })?;
        table.insert(name, value(json, depth)?);
    }
    Ok(table.into())
}

fn value(json: &Json, depth: usize) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Void,
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Value::LongLongInt(integer),
            (None, Some(double)) if !number.is_u64() => Value::Double(double),
            _ => return Err(format!("{number} does not fit into 64 bits")),
        },
        Json::String(text) => Value::LongString(text.as_bytes().into()),
        Json::Array(items) => {
            if depth == DEPTH_MAX {
                return Err(format!("nested deeper than {DEPTH_MAX} levels"));
            }
            let items: Result<Vec<_>, _> = items.iter().map(|item| value(item, depth + 1)).collect();
            Value::FieldArray(items?.into())
        }
        Json::Object(fields) => Value::FieldTable(table(fields, depth + 1)?),
    })
}

/// What JSON can say of a table: the integers' sizes are lost, and octets that are no text are replaced.
pub fn to_json(table: &Table) -> Map<String, Json> {
    table.inner().iter().map(|(key, value)| (key.to_string(), json(value))).collect()
}

fn json(value: &Value) -> Json {
    match value {
        Value::Void => Json::Null,
        Value::Boolean(value) => (*value).into(),
        Value::ShortShortInt(number) => (*number).into(),
        Value::ShortShortUInt(number) => (*number).into(),
        Value::ShortInt(number) => (*number).into(),
        Value::ShortUInt(number) => (*number).into(),
        Value::LongInt(number) => (*number).into(),
        Value::LongUInt(number) => (*number).into(),
        Value::LongLongInt(number) => (*number).into(),
        Value::Timestamp(seconds) => (*seconds).into(),
        Value::Float(number) => double((*number).into()),
        Value::Double(number) => double(*number),
        Value::DecimalValue(decimal) => double(f64::from(decimal.value) / 10f64.powi(decimal.scale.into())),
        Value::ShortString(text) => text.as_str().into(),
        Value::LongString(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        Value::ByteArray(octets) => String::from_utf8_lossy(octets.as_slice()).into(),
        Value::FieldArray(items) => items.as_slice().iter().map(json).collect(),
        Value::FieldTable(table) => to_json(table).into(),
    }
}

/// JSON has no word for what is no number.
fn double(number: f64) -> Json {
    Number::from_f64(number).map_or(Json::Null, Json::Number)
}
