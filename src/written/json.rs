use std::path::Path;

use serde::de::IgnoredAny;

use super::{Field, Node, Place, Remarks, Tree};

/// How deep objects and lists may nest; definitions need four levels.
const DEPTH_MAX: usize = 64;

/// A JSON document as a tree, or a remark why it is none. A byte order mark in front is skipped, as RabbitMQ does
/// since 4.1.4. `path` is only for the remarks.
///
/// `serde_json` says whether the text is JSON, and decodes strings and numbers; only the lines are found here.
pub fn read(text: &str, path: &Path) -> Result<Node, Remarks> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut remarks = Remarks::default();
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        let what = error.to_string();
        let what = what.split(" at line ").next().unwrap_or_default();
        remarks.mistake(Place::file(path, error.line()), "", format!("{what} at column {}", error.column()));
        return Err(remarks);
    }
    let mut reader = Reader { text, at: 0, line: 1, path, remarks };
    match reader.value(1) {
        Ok(node) if reader.remarks.mistakes.is_empty() => Ok(node),
        Ok(_) => Err(reader.remarks),
        Err(what) => {
            reader.remarks.mistake(Place::file(path, reader.line), "", what);
            Err(reader.remarks)
        }
    }
}

/// Walks over text that is known to be JSON. A mistake that leaves the walk intact becomes a remark; `Err` ends it.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    path: &'a Path,
    remarks: Remarks,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Node, String> {
        let next = self.peek();
        let line = self.line;
        if depth > DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX} levels"));
        }
        let tree = match next {
            Some(b'{') => self.map(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Tree::Text(self.string()?),
            _ => self.scalar()?,
        };
        Ok(Node { line, tree })
    }

    fn map(&mut self, depth: usize) -> Result<Tree, String> {
        let mut fields: Vec<Field> = Vec::new();
        let mut names = std::collections::HashSet::new();
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'}') => break self.at += 1,
                Some(b',') => self.at += 1,
                _ => {
                    let line = self.line;
                    let name = self.string()?;
                    if self.peek() != Some(b':') {
                        return Err("expected `:`".to_owned());
                    }
                    self.at += 1;
                    let value = self.value(depth + 1)?;
                    if !names.insert(name.clone()) {
                        self.remarks.mistake(Place::file(self.path, line), &*name, "stands twice in the same object");
                    }
                    fields.push(Field { name, line, value });
                }
            }
        }
        Ok(Tree::Map(fields))
    }

    fn list(&mut self, depth: usize) -> Result<Tree, String> {
        let mut items = Vec::new();
        self.at += 1;
        loop {
            match self.peek() {
                Some(b']') => break self.at += 1,
                Some(b',') => self.at += 1,
                _ => items.push(self.value(depth + 1)?),
            }
        }
        Ok(Tree::List(items))
    }

    fn string(&mut self) -> Result<String, String> {
        if self.peek() != Some(b'"') {
            return Err("expected a string".to_owned());
        }
        let octets = self.text.as_bytes();
        let start = self.at;
        let mut end = start + 1;
        while *octets.get(end).ok_or("the string has no end")? != b'"' {
            end += if octets[end] == b'\\' { 2 } else { 1 };
        }
        self.at = end + 1;
        serde_json::from_str(&self.text[start..=end]).map_err(|_| "the string is malformed".to_owned())
    }

    fn scalar(&mut self) -> Result<Tree, String> {
        let rest = &self.text[self.at..];
        let end = rest.find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(rest.len());
        let token = &rest[..end];
        self.at += end;
        match serde_json::from_str(token) {
            Ok(serde_json::Value::Null) => Ok(Tree::Null),
            Ok(serde_json::Value::Bool(value)) => Ok(Tree::Bool(value)),
            Ok(serde_json::Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
                (Some(value), _) => Ok(Tree::Integer(value)),
                (None, Some(value)) if token.contains(['.', 'e', 'E']) || value == 0.0 => Ok(Tree::Float(value)),
                _ => {
                    let place = Place::file(self.path, self.line);
                    self.remarks.mistake(place, "", "the number does not fit into 64 bits");
                    Ok(Tree::Null)
                }
            },
            _ => Err("not a value".to_owned()),
        }
    }

    /// The next octet that isn't white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let octet = *self.text.as_bytes().get(self.at)?;
            match octet {
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' => {}
                _ => return Some(octet),
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(text: &str) -> Vec<String> {
        let remarks = read(text, Path::new("x.json")).expect_err("must be refused");
        remarks.mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_value_knows_its_line() {
        let text = "\u{feff}{\n \"a\\\"\" : [1,\n\n -2.5e1, null],\n\n\"b\":\n{}}";
        let Tree::Map(fields) = read(text, Path::new("x.json")).unwrap().tree else { panic!("no map") };
        assert_eq!((fields[0].name.as_str(), fields[0].line), ("a\"", 2));
        let Tree::List(items) = &fields[0].value.tree else { panic!("no list") };
        assert_eq!(items[1], Node { line: 4, tree: Tree::Float(-25.0) });
        assert_eq!(items[2], Node { line: 4, tree: Tree::Null });
        assert_eq!((fields[1].line, fields[1].value.line), (6, 7));
    }

    #[test]
    fn a_syntax_error_is_reported_with_line_and_column() {
        assert_eq!(mistakes("{\n \"a\": 1\n \"b\": 2}"), ["x.json:3: expected `,` or `}` at column 2"]);
        assert_eq!(mistakes("[1"), ["x.json:1: EOF while parsing a list at column 2"]);
    }

    #[test]
    fn names_that_stand_twice_and_numbers_beyond_64_bits_are_mistakes() {
        assert_eq!(
            mistakes("{\"a\": 1,\n\"a\": 18446744073709551616}"),
            ["x.json:2: the number does not fit into 64 bits", "x.json:2: a: stands twice in the same object"]
        );
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read(&nested(DEPTH_MAX), Path::new("x.json")).is_ok());
        assert_eq!(mistakes(&nested(DEPTH_MAX + 1)), ["x.json:1: nested deeper than 64 levels"]);
        assert_eq!(mistakes(&nested(100_000)).len(), 1);
    }
}
