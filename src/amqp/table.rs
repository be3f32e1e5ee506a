//! Field tables.
//!
//! Arguments of declarations and bindings become a [`Table`] (from `amq-protocol`, sorted by key). A message's headers
//! stay raw, as its publisher wrote them, and are looked at through [`Fields`], one field at a time, without copying.
//! Nothing here recurses deeper than [`DEPTH_MAX`].

pub use amq_protocol::types::{AMQPValue as Value, FieldTable as Table};

/// How deep tables and arrays may nest. RabbitMQ has no limit; 32 is what its Java client allows.
pub const DEPTH_MAX: usize = 32;

/// Why octets are no field table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A length points beyond the end.
    Truncated,
    /// A type tag that RabbitMQ doesn't know either.
    UnknownType(u8),
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// A key that is not UTF-8.
    Key,
}

/// A field's value, borrowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Field<'a> {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal(u8, u32),
    LongStr(&'a [u8]),
    Bytes(&'a [u8]),
    Timestamp(u64),
    /// The items of an array.
    Array(Items<'a>),
    /// The fields of a nested table.
    Table(Fields<'a>),
    Void,
}

impl<'a> Field<'a> {
    /// The value of any integer type.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Self::I8(n) => n.into(),
            Self::U8(n) => n.into(),
            Self::I16(n) => n.into(),
            Self::U16(n) => n.into(),
            Self::I32(n) => n.into(),
            Self::U32(n) => n.into(),
            Self::I64(n) => n,
            _ => return None,
        })
    }

    /// The name that RabbitMQ gives the type in its error texts.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal(..) => "decimal",
            Self::LongStr(_) => "longstr",
            Self::Bytes(_) => "binary",
            Self::Timestamp(_) => "timestamp",
            Self::Array(_) => "array",
            Self::Table(_) => "table",
            Self::Void => "void",
        }
    }
}

/// The name that RabbitMQ gives a value's type in its error texts.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Boolean(_) => "bool",
        Value::ShortShortInt(_) => "byte",
        Value::ShortShortUInt(_) => "unsignedbyte",
        Value::ShortInt(_) => "short",
        Value::ShortUInt(_) => "unsignedshort",
        Value::LongInt(_) => "signedint",
        Value::LongUInt(_) => "unsignedint",
        Value::LongLongInt(_) => "long",
        Value::Float(_) => "float",
        Value::Double(_) => "double",
        Value::DecimalValue(_) => "decimal",
        Value::ShortString(_) | Value::LongString(_) => "longstr",
        Value::FieldArray(_) => "array",
        Value::Timestamp(_) => "timestamp",
        Value::FieldTable(_) => "table",
        Value::ByteArray(_) => "binary",
        Value::Void => "void",
    }
}

/// The value of any integer type.
pub fn as_i64(value: &Value) -> Option<i64> {
    Some(match *value {
        Value::ShortShortInt(n) => n.into(),
        Value::ShortShortUInt(n) => n.into(),
        Value::ShortInt(n) => n.into(),
        Value::ShortUInt(n) => n.into(),
        Value::LongInt(n) => n.into(),
        Value::LongUInt(n) => n.into(),
        Value::LongLongInt(n) => n,
        _ => return None,
    })
}

/// The text of a long (or short) string, if it is UTF-8.
pub fn as_str(value: &Value) -> Option<&str> {
    match value {
        Value::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        Value::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// The fields of a checked table, in the order they were written, duplicates and all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fields<'a>(&'a [u8]);

/// The items of a checked array.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Items<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields in a table's octets (without the length in front), once they are known to be well formed.
    pub fn check(octets: &'a [u8]) -> Result<Self, Malformed> {
        check_table(octets, 1)?;
        Ok(Self(octets))
    }

    /// A table without fields.
    pub const EMPTY: Fields<'static> = Fields(&[]);

    /// The octets, without the length in front.
    pub fn octets(self) -> &'a [u8] {
        self.0
    }

    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], Field<'a>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let key = take_short(&mut rest)?;
            Some((key, take_field(&mut rest)?))
        })
    }

    /// The first field with this key, as RabbitMQ looks it up.
    pub fn get(self, key: &[u8]) -> Option<Field<'a>> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The octets of all fields but those with this key.
    pub fn without(self, key: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(self.0.len());
        let mut rest = self.0;
        while !rest.is_empty() {
            let field = rest;
            let Some(name) = take_short(&mut rest) else { break };
            if take_field(&mut rest).is_none() {
                break;
            }
            if name != key {
                kept.extend_from_slice(&field[..field.len() - rest.len()]);
            }
        }
        kept
    }
}

impl<'a> Items<'a> {
    pub fn iter(self) -> impl Iterator<Item = Field<'a>> {
        let mut rest = self.0;
        std::iter::from_fn(move || take_field(&mut rest))
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_short<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let [count] = take_array(rest)?;
    take(rest, count.into())
}

fn take_long<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let count = u32::from_be_bytes(take_array(rest)?);
    take(rest, count as usize)
}

/// One value of a table that was checked; `None` at its end.
fn take_field<'a>(rest: &mut &'a [u8]) -> Option<Field<'a>> {
    let [tag] = take_array(rest)?;
    Some(match tag {
        b't' => Field::Bool(take_array::<1>(rest)? != [0]),
        b'b' => Field::I8(i8::from_be_bytes(take_array(rest)?)),
        b'B' => Field::U8(u8::from_be_bytes(take_array(rest)?)),
        b's' | b'U' => Field::I16(i16::from_be_bytes(take_array(rest)?)),
        b'u' => Field::U16(u16::from_be_bytes(take_array(rest)?)),
        b'I' => Field::I32(i32::from_be_bytes(take_array(rest)?)),
        b'i' => Field::U32(u32::from_be_bytes(take_array(rest)?)),
        b'l' | b'L' => Field::I64(i64::from_be_bytes(take_array(rest)?)),
        b'f' => Field::F32(f32::from_be_bytes(take_array(rest)?)),
        b'd' => Field::F64(f64::from_be_bytes(take_array(rest)?)),
        b'D' => {
            let [scale] = take_array(rest)?;
            Field::Decimal(scale, u32::from_be_bytes(take_array(rest)?))
        }
        b'S' => Field::LongStr(take_long(rest)?),
        b'x' => Field::Bytes(take_long(rest)?),
        b'T' => Field::Timestamp(u64::from_be_bytes(take_array(rest)?)),
        b'A' => Field::Array(Items(take_long(rest)?)),
        b'F' => Field::Table(Fields(take_long(rest)?)),
        b'V' => Field::Void,
        _ => return None,
    })
}

fn check_table(octets: &[u8], depth: usize) -> Result<(), Malformed> {
    let mut rest = octets;
    while !rest.is_empty() {
        let key = take_short(&mut rest).ok_or(Malformed::Truncated)?;
        std::str::from_utf8(key).map_err(|_| Malformed::Key)?;
        check_field(&mut rest, depth)?;
    }
    Ok(())
}

fn check_field(rest: &mut &[u8], depth: usize) -> Result<(), Malformed> {
    let tag = *rest.first().ok_or(Malformed::Truncated)?;
    if !b"tbBsUuIilLfdDSxTAFV".contains(&tag) {
        return Err(Malformed::UnknownType(tag));
    }
    match take_field(rest).ok_or(Malformed::Truncated)? {
        Field::Array(_) | Field::Table(_) if depth == DEPTH_MAX => Err(Malformed::TooDeep),
        Field::Array(Items(mut items)) => {
            while !items.is_empty() {
                check_field(&mut items, depth + 1)?;
            }
            Ok(())
        }
        Field::Table(Fields(fields)) => check_table(fields, depth + 1),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table that holds a table that holds a table …, `levels` in all.
    fn nested(levels: usize) -> Vec<u8> {
        let mut octets = Vec::new();
        for _ in 1..levels {
            let mut outer = vec![1, b'k', b'F'];
            outer.extend_from_slice(&u32::try_from(octets.len()).unwrap().to_be_bytes());
            outer.append(&mut octets);
            octets = outer;
        }
        octets
    }

    #[test]
    fn nesting_is_limited() {
        assert!(Fields::check(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(Fields::check(&nested(DEPTH_MAX + 1)), Err(Malformed::TooDeep));
        assert_eq!(Fields::check(&nested(20_000)), Err(Malformed::TooDeep));
    }

    #[test]
    fn lengths_beyond_the_end_are_refused() {
        assert_eq!(Fields::check(b"\x01aS\xff\xff\xff\xffx"), Err(Malformed::Truncated));
        assert_eq!(Fields::check(b"\x05a"), Err(Malformed::Truncated));
        assert_eq!(Fields::check(b"\x01aQ"), Err(Malformed::UnknownType(b'Q')));
    }

    #[test]
    fn the_first_of_two_equal_keys_counts() {
        let fields = Fields::check(b"\x01aI\0\0\0\x01\x01aI\0\0\0\x02\x01bV").unwrap();
        assert_eq!(fields.get(b"a"), Some(Field::I32(1)));
        assert_eq!(fields.without(b"a"), b"\x01bV");
    }
}
