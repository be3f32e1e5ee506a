//! What routes say of themselves, for the document that describes the API ([`super::openapi`]).

/// What a field of a body or a parameter of a query may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Truth,
    Number,
    /// An object.
    Table,
    List,
    /// A text with commas, or a list of words.
    Words,
    OneOf(&'static [&'static str]),
    Any,
}

/// A field of a body, or a parameter of a query.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub is_needed: bool,
}

/// A field that has to be there.
pub const fn must(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_needed: true }
}

/// A field that may be there.
pub const fn may(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, is_needed: false }
}

/// What a successful GET or POST answers with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shape {
    /// An object of JSON, or for other methods than GET nothing.
    #[default]
    Object,
    /// A list, or a page of it.
    List,
    /// A list that has no pages.
    Plain,
    /// A text, in JSON.
    Text,
}

/// What one method of a route says of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Words {
    /// What it does, in a few words.
    pub summary: &'static str,
    /// Fields of the body; others are not looked at. `None`: it has none.
    pub body: Option<&'static [Field]>,
    pub query: &'static [Field],
    pub shape: Shape,
}
