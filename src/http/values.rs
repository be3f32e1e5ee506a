//! Values that several resources read or show in the same way.

use super::answer::Failure;
use super::request::Request;
use crate::amqp::Table;
use crate::amqp::table::{Field, Fields, Writer};
use crate::definitions::table_from_json;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Number, Value as Json, json};

/// Octets of a name of AMQP's, or of a routing key.
const NAME_BYTES_MAX: usize = 255;

/// `rabbit_misc:parse_bool`: also as text.
pub fn boolean(value: &Json) -> Result<bool, Failure> {
    match value {
        Json::Bool(truth) => Ok(*truth),
        Json::String(text) if text == "true" => Ok(true),
        Json::String(text) if text == "false" => Ok(false),
        _ => Err(Failure::bad_request(json!(["not_boolean", value]))),
    }
}

/// The same for a field that need not be there.
pub fn flag(fields: &Map<String, Json>, key: &str) -> Result<bool, Failure> {
    fields.get(key).map_or(Ok(false), boolean)
}

/// `rabbit_misc:parse_int`: also as text; fractions are cut off.
pub fn integer(value: &Json) -> Result<i64, Failure> {
    let cut = |number: &Number| match number.as_i64() {
        Some(number) => Some(number),
        None => number.as_f64().and_then(|number| format!("{:.0}", number.trunc()).parse().ok()),
    };
    let found = match value {
        Json::Number(number) => cut(number),
        Json::String(text) => text.parse().ok(),
        _ => None,
    };
    found.ok_or_else(|| Failure::bad_request(json!(["not_integer", value])))
}

/// A list of words, or one text with commas between them, as tags are given; `None` if it is neither.
pub fn words(value: &Json) -> Option<Vec<String>> {
    match value {
        Json::String(text) => {
            Some(text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect())
        }
        Json::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// A name that AMQP could carry, too.
pub fn name<'a>(what: &str, name: &'a str) -> Result<&'a str, Failure> {
    let count = name.len();
    if count > NAME_BYTES_MAX {
        return Err(Failure::bad_request(format!("{what} should be less than 255 bytes, actually was {count}\n")));
    }
    Ok(name)
}

/// The routing key among the fields; without one it is empty.
pub fn routing_key(fields: &Map<String, Json>, request: &Request) -> Result<String, Failure> {
    match fields.get("routing_key") {
        None | Some(Json::Null) => Ok(String::new()),
        Some(Json::String(key)) => Ok(name("routing_key", key)?.to_owned()),
        Some(other) => Err(Failure::of_node(request, &format!("a routing key that is no text: {other}"))),
    }
}

/// The arguments among the fields, as AMQP's table. An empty list counts as none, as PHP writes it.
pub fn arguments(fields: &Map<String, Json>) -> Result<Table, Failure> {
    let given = match fields.get("arguments") {
        None => return Ok(Table::default()),
        Some(Json::Array(items)) if items.is_empty() => return Ok(Table::default()),
        Some(Json::Object(given)) => given,
        Some(other) => return Err(Failure::bad_request(json!(["not_table", "arguments", other]))),
    };
    if given.values().any(has_null) {
        return Err(null());
    }
    table_from_json(given).map_err(Failure::bad_request)
}

fn has_null(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Array(items) => items.iter().any(has_null),
        Json::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

fn null() -> Failure {
    Failure::bad_request("null_not_allowed")
}

/// Headers of a message: integers become longs, fractions doubles, texts long strings; sorted, as RabbitMQ has them.
pub fn write_headers(writer: &mut Writer, headers: &Map<String, Json>) -> Result<(), Failure> {
    let mut sorted: Vec<_> = headers.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    for (key, value) in sorted {
        if key.len() > NAME_BYTES_MAX {
            return Err(overflow());
        }
        write_field(writer.key(key), value)?;
    }
    Ok(())
}

/// A text that no short string can hold.
pub fn overflow() -> Failure {
    Failure::bad_request("506 failed to deliver message: content_properties_shortstr_overflow")
}

fn write_field(writer: &mut Writer, value: &Json) -> Result<(), Failure> {
    let mut done = Ok(());
    match value {
        Json::Null => return Err(null()),
        Json::Bool(truth) => writer.boolean(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => writer.long(integer),
            (None, Some(double)) if number.is_f64() => writer.double(double),
            _ => return Err(Failure::bad_request(format!("{number} does not fit into 64 bits"))),
        },
        Json::String(text) => writer.long_string(text.as_bytes()),
        Json::Array(items) => {
            writer.array(|writer| done = items.iter().try_for_each(|item| write_field(writer, item)));
        }
        Json::Object(fields) => writer.table(|writer| done = write_headers(writer, fields)),
    }
    done
}

/// Headers of a message as RabbitMQ shows them (`rabbit_misc:amqp_table`); of two with one name the last counts.
pub fn headers(fields: Fields<'_>) -> Map<String, Json> {
    fields.iter().map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), shown(&value))).collect()
}

fn shown(field: &Field<'_>) -> Json {
    if let Some(number) = field.as_i64() {
        return number.into();
    }
    let double = |number: f64| Number::from_f64(number).map_or(Json::Null, Json::Number);
    match field {
        Field::Bool(truth) => (*truth).into(),
        Field::F32(number) => double((*number).into()),
        Field::F64(number) => double(*number),
        Field::Decimal(scale, unscaled) => double(f64::from(*unscaled) / 10f64.powi((*scale).into())),
        Field::LongStr(octets) | Field::Bytes(octets) => text(octets).into(),
        Field::Timestamp(seconds) => (*seconds).into(),
        Field::Array(items) => items.iter().map(|item| shown(&item)).collect(),
        Field::Table(fields) => headers(*fields).into(),
        _ => "undefined".into(),
    }
}

/// Octets that should be a text (`rabbit_misc:utf8_safe`).
pub fn text(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("Not UTF-8, base64 is: {}", BASE64.encode(octets)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(json: Json) -> Map<String, Json> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn integers_are_read_as_rabbitmq_reads_them() {
        let read = |json: Json| integer(&json).ok();
        assert_eq!([read(json!(5)), read(json!("7")), read(json!(1.9)), read(json!(-1.9))], [5, 7, 1, -1].map(Some));
        for not in [json!("x"), json!(null), json!([1]), json!(1e300), json!(u64::MAX), json!(true)] {
            assert_eq!(read(not.clone()), None, "{not}");
        }
    }

    #[test]
    fn headers_come_back_as_they_were_written() {
        let given = object(json!({"a": 1, "b": [true, "x", {"c": 1.5}], "e": {}, "l": [], "n": -3}));
        let mut writer = Writer::default();
        write_headers(&mut writer, &given).unwrap();
        assert_eq!(headers(Fields::check(writer.octets()).unwrap()), given);
        for not in [json!({"a": null}), json!({"a": [null]}), json!({"a": u64::MAX}), json!({"k".repeat(256): 1})] {
            assert!(write_headers(&mut Writer::default(), &object(not.clone())).is_err(), "{not}");
        }
    }

    #[test]
    fn what_json_has_no_word_for_is_shown_as_rabbitmq_shows_it() {
        let fields = Fields::check(b"\x01bS\0\0\0\x01\xff\x01dD\x02\0\0\0\x7d\x01nV\x01tT\0\0\0\0\0\0\0\x05").unwrap();
        let expected = json!({"b": "Not UTF-8, base64 is: /w==", "d": 1.25, "n": "undefined", "t": 5});
        assert_eq!(headers(fields), object(expected));
    }

    #[test]
    fn arguments_are_a_table_or_nothing() {
        for empty in [json!({}), json!({"arguments": {}}), json!({"arguments": []})] {
            assert_eq!(arguments(&object(empty.clone())).unwrap(), Table::default(), "{empty}");
        }
        for not in [json!(5), json!("x"), json!(null), json!([1]), json!({"a": null}), json!({"a": [{"b": null}]})] {
            assert!(arguments(&object(json!({"arguments": not}))).is_err(), "{not}");
        }
    }
}
