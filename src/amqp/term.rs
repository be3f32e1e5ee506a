//! Values as RabbitMQ's error texts show them: as Erlang terms (`io:format`'s `~tp`).
//!
//! A number is itself, a string is `<<"text">>`, an array `[{signedint,1}]`, a table `[{<<"key">>,signedint,1}]`.
//! RabbitMQ also breaks long nested terms into indented lines; here a term stays on one line.

use super::table::{Table, Value, as_i64, type_name};
use amq_protocol::types::ShortString;
use serde_json::Value as Json;
use std::fmt::Write;

/// The term of a value.
pub fn term(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value);
    out
}

/// The term of a JSON value as RabbitMQ decodes it: a string is a binary, an object a map.
pub fn json_term(json: &Json) -> String {
    let mut out = String::new();
    write_json(&mut out, json);
    out
}

/// The terms of a table's fields, one each: `{<<"key">>,signedint,1}`.
pub fn field_terms(table: &Table) -> impl Iterator<Item = String> {
    table.into_iter().map(|field| {
        let mut out = String::new();
        write_field(&mut out, field);
        out
    })
}

/// The octets of a string of any kind, which RabbitMQ all holds as binaries.
pub fn as_binary(value: &Value) -> Option<&[u8]> {
    match value {
        Value::LongString(text) => Some(text.as_bytes()),
        Value::ShortString(text) => Some(text.as_str().as_bytes()),
        Value::ByteArray(octets) => Some(octets.as_slice()),
        _ => None,
    }
}

/// A list of characters in quotes, as `~p` shows a text that RabbitMQ composed. Without the `t` modifier, a text with
/// characters beyond Latin-1 is shown as the list of numbers that it is.
pub fn string(text: &str) -> String {
    if text.chars().all(is_printable_latin1) {
        return format!("\"{}\"", escaped(text));
    }
    let numbers: Vec<_> = text.chars().map(|c| u32::from(c).to_string()).collect();
    format!("[{}]", numbers.join(","))
}

fn write(out: &mut String, value: &Value) {
    if let Some(octets) = as_binary(value) {
        return write_binary(out, octets);
    }
    if let Some(number) = as_i64(value) {
        out.push_str(&number.to_string());
        return;
    }
    match value {
        Value::Boolean(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Value::Timestamp(seconds) => out.push_str(&seconds.to_string()),
        Value::Float(number) => write_float(out, (*number).into()),
        Value::Double(number) => write_float(out, *number),
        Value::DecimalValue(decimal) => push(out, format_args!("{{{},{}}}", decimal.scale, decimal.value)),
        Value::FieldArray(items) => {
            write_list(out, items.as_slice(), |out, item| {
                push(out, format_args!("{{{},", type_name(item)));
                write(out, item);
                out.push('}');
            });
        }
        Value::FieldTable(table) => write_table(out, table),
        _ => out.push_str("undefined"),
    }
}

fn write_json(out: &mut String, json: &Json) {
    match json {
        Json::Null => out.push_str("null"),
        Json::Bool(truth) => out.push_str(if *truth { "true" } else { "false" }),
        Json::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => write_float(out, float),
            _ => out.push_str(&number.to_string()),
        },
        Json::String(text) => write_binary(out, text.as_bytes()),
        Json::Array(items) => match characters(items) {
            Some(text) => push(out, format_args!("\"{}\"", escaped(&text))),
            None => write_list(out, items, write_json),
        },
        Json::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            out.push_str("#{");
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_binary(out, key.as_bytes());
                out.push_str(" => ");
                write_json(out, value);
            }
            out.push('}');
        }
    }
}

/// What Erlang can't tell from a text: a list of the numbers of printable characters.
fn characters(items: &[Json]) -> Option<String> {
    let character = |item: &Json| {
        let number = u8::try_from(item.as_u64()?).ok()?;
        Some(char::from(number)).filter(|c| is_printable_latin1(*c))
    };
    if items.is_empty() { None } else { items.iter().map(character).collect() }
}

fn write_table(out: &mut String, table: &Table) {
    write_list(out, table, write_field);
}

fn write_field(out: &mut String, (key, value): (&ShortString, &Value)) {
    out.push('{');
    write_binary(out, key.as_str().as_bytes());
    push(out, format_args!(",{},", type_name(value)));
    write(out, value);
    out.push('}');
}

fn write_list<T>(out: &mut String, items: impl IntoIterator<Item = T>, item: impl Fn(&mut String, T)) {
    out.push('[');
    for (index, one) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        item(out, one);
    }
    out.push(']');
}

/// UTF-8 if it can be shown so, else Latin-1 if that can, else the octets as numbers (`io_lib_pretty`).
fn write_binary(out: &mut String, octets: &[u8]) {
    if let Ok(text) = std::str::from_utf8(octets)
        && text.chars().all(is_printable)
    {
        if text.is_empty() {
            return out.push_str("<<>>");
        }
        let suffix = if text.is_ascii() { "" } else { "/utf8" };
        return push(out, format_args!("<<\"{}\"{suffix}>>", escaped(text)));
    }
    let latin1: String = octets.iter().map(|&octet| char::from(octet)).collect();
    if latin1.chars().all(is_printable_latin1) {
        return push(out, format_args!("<<\"{}\">>", escaped(&latin1)));
    }
    let numbers: Vec<_> = octets.iter().map(u8::to_string).collect();
    push(out, format_args!("<<{}>>", numbers.join(",")));
}

fn is_printable(c: char) -> bool {
    is_printable_latin1(c) || (c >= '\u{100}' && !matches!(c, '\u{fffe}' | '\u{ffff}'))
}

fn is_printable_latin1(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{ff}' | '\n' | '\r' | '\t' | '\u{b}' | '\u{8}' | '\u{c}' | '\u{1b}')
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let escape = match c {
            '"' => '"',
            '\\' => '\\',
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            '\u{b}' => 'v',
            '\u{8}' => 'b',
            '\u{c}' => 'f',
            '\u{1b}' => 'e',
            plain => {
                out.push(plain);
                continue;
            }
        };
        out.push('\\');
        out.push(escape);
    }
    out
}

/// The fewest digits that give the number back, in decimal or scientific notation, whichever is shorter
/// (`io_lib_format:fwrite_g`).
fn write_float(out: &mut String, number: f64) {
    /// From here on not every integer is a float, and Erlang always writes the exponent.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let scientific = format!("{:e}", number.abs());
    // Without an exponent: an infinity or a NaN, which Erlang doesn't have.
    let Some((digits, exponent)) = scientific.split_once('e') else { return out.push_str(&scientific) };
    let with_point = |digits: &str| if digits.contains('.') { digits.to_owned() } else { format!("{digits}.0") };
    let decimal = with_point(&number.abs().to_string());
    let scientific = format!("{}e{exponent}", with_point(digits));
    if number.is_sign_negative() {
        out.push('-');
    }
    let shorter = decimal.len() <= scientific.len() && number.abs() < EXACT_MAX;
    out.push_str(if shorter { &decimal } else { &scientific });
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory can't fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_rabbitmq_writes_them() {
        let text = |octets: &[u8]| Value::LongString(octets.into());
        let mut inner = Table::default();
        inner.insert("n".into(), Value::FieldArray(vec![Value::Boolean(true), Value::Void].into()));
        let decimal = amq_protocol::types::DecimalValue { scale: 1, value: 5 };
        for (value, expected) in [
            (Value::LongInt(-5), "-5"),
            (Value::Timestamp(5), "5"),
            (Value::Boolean(false), "false"),
            (Value::Void, "undefined"),
            (Value::DecimalValue(decimal), "{1,5}"),
            (text(b""), "<<>>"),
            (text(b"some"), "<<\"some\">>"),
            (text("\u{fc}\u{65e5}".as_bytes()), "<<\"\u{fc}\u{65e5}\"/utf8>>"),
            (text(b"\xd7"), "<<\"\u{d7}\">>"),
            (text(b"\xff\0"), "<<255,0>>"),
            (text(b"a\x7fb"), "<<97,127,98>>"),
            (text(b"a\"b\\c\n\t\x1b"), r#"<<"a\"b\\c\n\t\e">>"#),
            (Value::ByteArray(b"x".as_slice().into()), "<<\"x\">>"),
            (Value::FieldArray(vec![Value::LongInt(1), text(b"a")].into()), "[{signedint,1},{longstr,<<\"a\">>}]"),
            (Value::FieldTable(Table::default()), "[]"),
            (Value::FieldTable(inner), "[{<<\"n\">>,array,[{bool,true},{void,undefined}]}]"),
        ] {
            assert_eq!(term(&value), expected);
        }
    }

    #[test]
    fn fields_read_one_by_one() {
        let mut table = Table::default();
        table.insert("b".into(), Value::LongString("x".into()));
        table.insert("a".into(), Value::Boolean(true));
        let terms: Vec<_> = field_terms(&table).collect();
        assert_eq!(terms, [r#"{<<"a">>,bool,true}"#, r#"{<<"b">>,longstr,<<"x">>}"#]);
        assert_eq!(field_terms(&Table::default()).count(), 0);
    }

    #[test]
    fn json_reads_as_rabbitmq_writes_it() {
        for (json, expected) in [
            ("null", "null"),
            ("true", "true"),
            ("-5", "-5"),
            ("12345678901234567890", "12345678901234567890"),
            ("1.5", "1.5"),
            ("1e3", "1.0e3"),
            (r#""it's \"q\"""#, r#"<<"it's \"q\"">>"#),
            (r#""""#, "<<>>"),
            ("[]", "[]"),
            (r#"[1, {"a": null}]"#, r#"[1,#{<<"a">> => null}]"#),
            ("[104, 105]", r#""hi""#),
            ("{}", "#{}"),
            (r#"{"b": 1, "a": [2]}"#, r#"#{<<"a">> => [2],<<"b">> => 1}"#),
        ] {
            assert_eq!(json_term(&serde_json::from_str(json).unwrap()), expected);
        }
    }

    #[test]
    fn floats_take_the_shorter_notation() {
        for (number, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (100.0, "100.0"),
            (1000.0, "1.0e3"),
            (123_456.0, "123456.0"),
            (1_230_000.0, "1.23e6"),
            (0.01, "0.01"),
            (0.0001, "0.0001"),
            (0.000_12, "1.2e-4"),
            (12_345.678, "12345.678"),
            (9_007_199_254_740_991.0, "9007199254740991.0"),
            (9_007_199_254_740_992.0, "9.007199254740992e15"),
            (1e22, "1.0e22"),
            (5e-324, "5.0e-324"),
        ] {
            assert_eq!(term(&Value::Double(number)), expected);
        }
        assert_eq!(term(&Value::Float(1.1)), "1.100000023841858");
    }

    #[test]
    fn a_text_beyond_latin1_is_a_list_of_numbers() {
        assert_eq!(string("it's \"\u{fc}\""), "\"it's \\\"\u{fc}\\\"\"");
        assert_eq!(string("'\u{65e5}'"), "[39,26085,39]");
    }
}
