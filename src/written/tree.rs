/// A value and the line it stands on, counted from 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub line: usize,
    pub tree: Tree,
}

/// A value as JSON and TOML both have it.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// The fields in the order they were written (JSON) or by name (TOML); each name once.
    Map(Vec<Field>),
}

/// A named value in a [`Tree::Map`].
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    /// Where the name stands; a long value may start further down.
    pub line: usize,
    pub value: Node,
}

impl Tree {
    /// What to call the value in a remark.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a fraction",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// The same value without lines.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Integer(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Text(value) => value.as_str().into(),
            Self::List(items) => items.iter().map(|item| item.tree.to_json()).collect(),
            Self::Map(fields) => fields.iter().map(|field| (field.name.clone(), field.value.tree.to_json())).collect(),
        }
    }
}
