//! What the tools print: as people read it on a terminal, as `rabbitmqctl` prints it for everything else, or in a notation
//! that is asked for.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, Table};
use serde_json::{Map, Value as Json};

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formatter {
    /// Fields with tabs between them, a line each.
    Table,
    PrettyTable,
    Json,
    Csv,
    /// Terms of Erlang.
    Erlang,
}

impl Formatter {
    pub const NAMES: [&str; 5] = ["table", "pretty_table", "json", "csv", "erlang"];

    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "table" => Self::Table,
            "pretty_table" => Self::PrettyTable,
            "json" | "json_stream" => Self::Json,
            "csv" => Self::Csv,
            "erlang" => Self::Erlang,
            _ => return None,
        })
    }

    /// What nobody asked for otherwise: a table for people, plain text for programs.
    pub fn usual() -> Self {
        if std::io::stdout().is_terminal() { Self::PrettyTable } else { Self::Table }
    }

    /// Whether it leaves no room for anything but the result.
    pub fn is_for_machines(self) -> bool {
        matches!(self, Self::Json | Self::Csv)
    }
}

/// A result.
#[derive(Debug)]
pub enum Output {
    /// It is done.
    Nothing,
    /// As it is; in JSON it is the field `message` of an object.
    Text(String),
    Rows(Rows),
    /// Something for people, and the same for programs.
    Report(String, Json),
}

/// A list of things, of which some fields are shown.
#[derive(Debug, Default)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Json>>,
}

impl Rows {
    /// `columns`: what they are called, and the path to the value, with dots.
    pub fn of<'a>(items: &Json, columns: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let columns: Vec<_> = columns.into_iter().collect();
        let row = |item: &Json| columns.iter().map(|(_, path)| at(item, path)).collect();
        Self {
            rows: items.as_array().into_iter().flatten().map(row).collect(),
            columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
        }
    }

    fn to_json(&self) -> Vec<Json> {
        let object = |row: &Vec<Json>| {
            let fields: Map<String, Json> = self.columns.iter().cloned().zip(row.iter().cloned()).collect();
            Json::Object(fields)
        };
        self.rows.iter().map(object).collect()
    }
}

/// What a path with dots leads to; what is not there is an empty text.
pub fn at(item: &Json, path: &str) -> Json {
    let found = path.split('.').try_fold(item, |value, word| value.get(word));
    found.filter(|value| !value.is_null()).cloned().unwrap_or_else(|| "".into())
}

/// Writes a result. `headers`: whether columns are named.
pub fn print(output: &Output, formatter: Formatter, headers: bool, node: &str) {
    say(&written(output, formatter, headers, node));
}

/// Writes to standard output. Whoever stops reading has seen enough.
pub fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

pub fn written(output: &Output, formatter: Formatter, headers: bool, node: &str) -> String {
    match (output, formatter) {
        (Output::Nothing, Formatter::Json) => format!("{}\n", serde_json::json!({"result": "ok", "node": node})),
        (Output::Nothing, _) => String::new(),
        (Output::Text(text), Formatter::Json) => format!("{}\n", serde_json::json!({"message": text})),
        (Output::Text(text), _) => format!("{text}\n"),
        (Output::Report(_, json), Formatter::Json) => format!("{json}\n"),
        (Output::Report(_, json), Formatter::Erlang) => format!("{}\n", term(json)),
        (Output::Report(text, _), _) => format!("{}\n", text.trim_end()),
        (Output::Rows(rows), Formatter::Json) => {
            // One a line, as RabbitMQ streams them.
            let lines: Vec<_> = rows.to_json().iter().map(|row| format!("{row}\n")).collect();
            format!("[\n{}]\n", lines.join(","))
        }
        (Output::Rows(rows), Formatter::Erlang) => {
            format!("{}\n", term(&Json::Array(rows.to_json())))
        }
        (Output::Rows(rows), _) if rows.rows.is_empty() => String::new(),
        (Output::Rows(rows), Formatter::Csv) => csv(rows, headers),
        (Output::Rows(rows), Formatter::Table) => tabbed(rows, headers),
        (Output::Rows(rows), Formatter::PrettyTable) => pretty(rows, headers),
    }
}

fn tabbed(rows: &Rows, headers: bool) -> String {
    let mut text = String::new();
    if headers {
        let _ = writeln!(text, "{}", rows.columns.join("\t"));
    }
    for row in &rows.rows {
        let fields: Vec<_> = row.iter().map(plain).collect();
        let _ = writeln!(text, "{}", fields.join("\t"));
    }
    text
}

fn csv(rows: &Rows, headers: bool) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut text = String::new();
    if headers {
        let names: Vec<_> = rows.columns.iter().map(|name| quoted(name)).collect();
        let _ = writeln!(text, "{}", names.join(","));
    }
    for row in &rows.rows {
        let fields: Vec<_> = row
            .iter()
            .map(|value| match value {
                Json::Number(number) => number.to_string(),
                value => quoted(&plain(value)),
            })
            .collect();
        let _ = writeln!(text, "{}", fields.join(","));
    }
    text
}

/// With lines around, and names that stand out where colours do.
pub fn pretty(rows: &Rows, headers: bool) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    if !std::io::stdout().is_terminal() {
        table.force_no_tty();
    }
    if headers {
        table.set_header(rows.columns.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    }
    for row in &rows.rows {
        table.add_row(row.iter().map(plain));
    }
    format!("{table}\n")
}

/// A value in a line of text. Tables and lists are written as `rabbitmqctl` writes them.
pub fn plain(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => escaped(text),
        Json::Array(items) => {
            let items: Vec<_> = items.iter().map(plain).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(_) => term(value),
        other => other.to_string(),
    }
}

/// No name breaks a line, moves the cursor, or adds a column.
fn escaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' => plain.push_str("\\t"),
            '\n' => plain.push_str("\\n"),
            '\r' => plain.push_str("\\r"),
            letter if letter.is_control() => drop(write!(plain, "\\x{:02x}", u32::from(letter))),
            letter => plain.push(letter),
        }
    }
    plain
}

/// A table of arguments as Erlang writes it.
fn term(value: &Json) -> String {
    match value {
        Json::Null => "undefined".to_owned(),
        Json::String(text) => format!("\"{}\"", escaped(text).replace('"', "\\\"")),
        Json::Array(items) => format!("[{}]", items.iter().map(term).collect::<Vec<_>>().join(",")),
        Json::Object(fields) => {
            let pairs = fields.iter().map(|(name, value)| format!("{{\"{name}\",{}}}", term(value)));
            format!("[{}]", pairs.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> Output {
        let items = json!([
            {"name": "q", "arguments": {"x-max-length": 5, "x-queue-type": "classic"}, "tags": ["a", "b"]},
            {"name": "a\tb\"\u{1b}", "arguments": {}}
        ]);
        Output::Rows(Rows::of(&items, [("name", "name"), ("arguments", "arguments"), ("tags", "tags")]))
    }

    fn text(formatter: Formatter, headers: bool) -> String {
        written(&rows(), formatter, headers, "n")
    }

    #[test]
    fn text_for_programs_is_rabbitmqctls() {
        assert_eq!(
            text(Formatter::Table, true),
            "name\targuments\ttags\nq\t[{\"x-max-length\",5},{\"x-queue-type\",\"classic\"}]\t[a, b]\na\\tb\"\\x1b\t[]\t\n"
        );
        assert!(text(Formatter::Table, false).starts_with("q\t"));
        let line = r#"{"name":"q","arguments":{"x-max-length":5,"x-queue-type":"classic"},"tags":["a","b"]}"#;
        assert!(text(Formatter::Json, true).starts_with(&format!("[\n{line}\n,{{\"name\"")));
        assert!(text(Formatter::Csv, true).starts_with("\"name\",\"arguments\",\"tags\"\n\"q\",\"[{\"\"x-max"));
    }

    #[test]
    fn nothing_and_lists_of_nothing_say_nothing_but_in_json() {
        let nothing = Output::Rows(Rows::default());
        assert_eq!(written(&nothing, Formatter::Table, true, "n"), "");
        assert_eq!(written(&nothing, Formatter::Json, true, "n"), "[\n]\n");
        assert_eq!(written(&Output::Nothing, Formatter::Json, true, "n"), "{\"result\":\"ok\",\"node\":\"n\"}\n");
    }

    #[test]
    fn tables_for_people_have_lines() {
        let table = text(Formatter::PrettyTable, true);
        assert!(table.contains("│ q ") && table.starts_with('┌') && !table.contains('\u{1b}'), "{table}");
    }
}
