use std::path::Path;

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue};

use super::{Field, Node, Place, Remarks, Tree};

/// A TOML document as a tree, or one remark for each place where it is none. `path` is only for the remarks.
pub fn read(text: &str, path: &Path) -> Result<Node, Remarks> {
    let mut lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut remarks = Remarks::default();
    for error in errors {
        let line = error.span().map_or(1, |span| lines.at(span.start));
        remarks.mistake(Place::file(path, line), "", error.message().lines().collect::<Vec<_>>().join(", "));
    }
    let root = Node { line: 1, tree: map(table.get_ref(), &mut lines, &mut remarks, path) };
    if remarks.mistakes.is_empty() { Ok(root) } else { Err(remarks) }
}

fn map(table: &DeTable<'_>, lines: &mut Lines<'_>, remarks: &mut Remarks, path: &Path) -> Tree {
    let fields = table.iter().map(|(name, value)| Field {
        name: name.get_ref().to_string(),
        line: lines.at(name.span().start),
        value: node(value, lines, remarks, path),
    });
    Tree::Map(fields.collect())
}

fn node(value: &Spanned<DeValue<'_>>, lines: &mut Lines<'_>, remarks: &mut Remarks, path: &Path) -> Node {
    let line = lines.at(value.span().start);
    let tree = match value.get_ref() {
        DeValue::String(text) => Tree::Text(text.to_string()),
        DeValue::Boolean(value) => Tree::Bool(*value),
        DeValue::Integer(digits) => match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(value) => Tree::Integer(value),
            Err(_) => {
                remarks.mistake(Place::file(path, line), "", "the number does not fit into 64 bits");
                Tree::Null
            }
        },
        DeValue::Float(digits) => match digits.as_str().parse() {
            Ok(value) => Tree::Float(value),
            Err(_) => {
                remarks.mistake(Place::file(path, line), "", "not a number");
                Tree::Null
            }
        },
        // Nothing here takes a date; a string is what JSON would have.
        DeValue::Datetime(value) => Tree::Text(value.to_string()),
        DeValue::Array(items) => Tree::List(items.iter().map(|item| node(item, lines, remarks, path)).collect()),
        DeValue::Table(table) => map(table, lines, remarks, path),
    };
    Node { line, tree }
}

/// Turns offsets into line numbers.
struct Lines<'a> {
    text: &'a str,
    /// Up to where lines were counted, and how many; spans come nearly in order.
    counted: (usize, usize),
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, counted: (0, 1) }
    }

    fn at(&mut self, offset: usize) -> usize {
        let (from, line) = if offset >= self.counted.0 { self.counted } else { (0, 1) };
        let passed = self.text.as_bytes().get(from..offset).unwrap_or_default();
        self.counted = (offset, line + passed.iter().filter(|octet| **octet == b'\n').count());
        self.counted.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line() {
        let text = "a = 1\n\n[[list]]\nb = 'x'\n[[list]]\nc = [\n  true,\n  0x1F,\n]\n";
        let Tree::Map(fields) = read(text, Path::new("x.toml")).unwrap().tree else { panic!("no map") };
        assert_eq!((fields[0].name.as_str(), fields[0].line), ("a", 1));
        let Tree::List(items) = &fields[1].value.tree else { panic!("no list") };
        let Tree::Map(second) = &items[1].tree else { panic!("no map") };
        let Tree::List(values) = &second[0].value.tree else { panic!("no list") };
        assert_eq!(second[0].line, 6);
        assert_eq!(values[1], Node { line: 8, tree: Tree::Integer(31) });
    }

    #[test]
    fn each_syntax_error_is_reported_with_its_line() {
        let remarks = read("a = \nb = 1\nb = 2\nc = 99999999999999999999\n", Path::new("x.toml")).unwrap_err();
        let lines: Vec<_> = remarks.mistakes.iter().map(ToString::to_string).collect();
        assert!(lines[0].starts_with("x.toml:1: "), "{lines:?}");
        assert!(lines[1].starts_with("x.toml:3: duplicate key"), "{lines:?}");
        assert_eq!(lines[2], "x.toml:4: the number does not fit into 64 bits");
    }
}
