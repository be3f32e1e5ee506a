//! Field tables.
//!
//! Arguments of declarations and bindings become a [`Table`] (from `amq-protocol`, sorted by key). A message's headers
//! stay raw, as its publisher wrote them, and are looked at through [`Fields`], one field at a time, without copying.
//! Nothing here recurses deeper than [`DEPTH_MAX`].

use smallvec::SmallVec;

pub use amq_protocol::types::{AMQPValue as Value, FieldTable as Table};

/// How deep tables and arrays may nest. RabbitMQ has no limit; 32 is what its Java client allows.
pub const DEPTH_MAX: usize = 32;

/// How many values a method's table may have, nested ones counted. Some are one octet in a frame, and all of them many in
/// memory. A message's headers have no such limit: they stay octets.
pub const VALUES_MAX: usize = 1024;

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
    /// A float that is no number, or infinite. Erlang has none; RabbitMQ crashes on it.
    Float,
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
    /// Takes this value and those in it from what is left; says whether they are more than that.
    fn exceeds(&self, left: &mut usize) -> bool {
        if *left == 0 {
            return true;
        }
        *left -= 1;
        match self {
            Self::Array(items) => items.iter().any(|item| item.exceeds(left)),
            Self::Table(fields) => fields.iter().any(|(_, field)| field.exceeds(left)),
            _ => false,
        }
    }

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

/// Writes a table's fields, each a key and a value, or an array's items, each a value.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl<'a> Fields<'a> {
    /// The fields in a table's octets (without the length in front), once they are known to be well formed.
    pub fn check(octets: &'a [u8]) -> Result<Self, Malformed> {
        check_table(octets, 1)?;
        Ok(Self(octets))
    }

    /// A table without fields.
    pub const EMPTY: Fields<'static> = Fields(&[]);

    /// Whether there are more than [`VALUES_MAX`] values.
    pub fn are_too_many(self) -> bool {
        let mut left = VALUES_MAX;
        self.iter().any(|(_, field)| field.exceeds(&mut left))
    }

    /// The octets, without the length in front.
    pub fn octets(self) -> &'a [u8] {
        self.0
    }

    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], Field<'a>)> {
        self.raw().map(|(key, value, _)| (key, value))
    }

    /// Key, value, and the octets of both.
    pub fn raw(self) -> impl Iterator<Item = (&'a [u8], Field<'a>, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let start = rest;
            let key = take_short(&mut rest)?;
            let value = take_field(&mut rest)?;
            Some((key, value, &start[..start.len() - rest.len()]))
        })
    }

    /// The first field with this key, as RabbitMQ looks it up.
    pub fn get(self, key: &[u8]) -> Option<Field<'a>> {
        self.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Whether a key comes twice.
    pub fn repeats(self) -> bool {
        let mut keys: SmallVec<[&[u8]; 16]> = self.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.windows(2).any(|pair| pair[0] == pair[1])
    }

    /// The octets of all fields but those with this key.
    pub fn without(self, key: &[u8]) -> Vec<u8> {
        let mut kept = Vec::with_capacity(self.0.len());
        for (name, _, octets) in self.raw() {
            if name != key {
                kept.extend_from_slice(octets);
            }
        }
        kept
    }

    /// The octets of these fields and of new ones, sorted by key. Of fields with the same key the new one is kept, or else
    /// the first. RabbitMQ does so to all headers when it adds to them (mc_amqpl.erl, `protocol_state`).
    pub fn merged(self, new: Fields<'_>) -> Vec<u8> {
        let mut fields: Vec<_> = new.raw().chain(self.raw()).map(|(key, _, octets)| (key, octets)).collect();
        fields.sort_by_key(|(key, _)| *key);
        fields.dedup_by_key(|(key, _)| *key);
        let mut merged = Vec::with_capacity(self.0.len() + new.0.len());
        fields.iter().for_each(|(_, octets)| merged.extend_from_slice(octets));
        merged
    }
}

impl<'a> Items<'a> {
    /// An array without items.
    pub const EMPTY: Items<'static> = Items(&[]);

    /// The octets, without the length in front.
    pub fn octets(self) -> &'a [u8] {
        self.0
    }

    pub fn iter(self) -> impl Iterator<Item = Field<'a>> {
        self.raw().map(|(item, _)| item)
    }

    /// Each item and its octets.
    pub fn raw(self) -> impl Iterator<Item = (Field<'a>, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let start = rest;
            let item = take_field(&mut rest)?;
            Some((item, &start[..start.len() - rest.len()]))
        })
    }

    /// The long strings among the items.
    pub fn long_strings(self) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter_map(|item| match item {
            Field::LongStr(text) => Some(text),
            _ => None,
        })
    }
}

impl Writer {
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// What was written, as a table's fields.
    pub fn fields(&self) -> Fields<'_> {
        Fields(&self.0)
    }

    /// What was written, as an array's items.
    pub fn items(&self) -> Items<'_> {
        Items(&self.0)
    }

    /// A field's key; its value follows.
    pub fn key(&mut self, key: &str) -> &mut Self {
        super::method::short_string(&mut self.0, key);
        self
    }

    pub fn boolean(&mut self, truth: bool) {
        self.0.extend_from_slice(&[b't', truth.into()]);
    }

    /// 32 bits; RabbitMQ's `signedint`.
    pub fn int(&mut self, n: i32) {
        self.0.push(b'I');
        self.0.extend_from_slice(&n.to_be_bytes());
    }

    pub fn long(&mut self, n: i64) {
        self.0.push(b'l');
        self.0.extend_from_slice(&n.to_be_bytes());
    }

    pub fn double(&mut self, n: f64) {
        self.0.push(b'd');
        self.0.extend_from_slice(&n.to_be_bytes());
    }

    pub fn timestamp(&mut self, time_s: u64) {
        self.0.push(b'T');
        self.0.extend_from_slice(&time_s.to_be_bytes());
    }

    pub fn long_string(&mut self, text: &[u8]) {
        self.nested(b'S', |writer| writer.raw(text));
    }

    pub fn array(&mut self, fill: impl FnOnce(&mut Self)) {
        self.nested(b'A', fill);
    }

    pub fn table(&mut self, fill: impl FnOnce(&mut Self)) {
        self.nested(b'F', fill);
    }

    /// Whole fields or items that are already written.
    pub fn raw(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }

    fn nested(&mut self, tag: u8, fill: impl FnOnce(&mut Self)) {
        self.0.extend_from_slice(&[tag, 0, 0, 0, 0]);
        let start = self.0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - start).expect("tables are built of parts far below 4 GiB");
        self.0[start - 4..start].copy_from_slice(&length.to_be_bytes());
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
        Field::F32(number) if !number.is_finite() => Err(Malformed::Float),
        Field::F64(number) if !number.is_finite() => Err(Malformed::Float),
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
    fn values_are_counted_wherever_they_stand() {
        let arrays = |counts: &[usize]| {
            let mut table = Writer::default();
            for count in counts {
                table.key("k").array(|items| items.raw(&vec![b'V'; *count]));
            }
            table
        };
        // An array is a value, too.
        for (counts, too_many) in
            [(&[VALUES_MAX - 1][..], false), (&[VALUES_MAX], true), (&[500, 522], false), (&[500, 523], true)]
        {
            assert_eq!(arrays(counts).fields().are_too_many(), too_many, "{counts:?}");
        }
        let mut nested = Writer::default();
        nested.key("t").table(|table| table.raw(arrays(&[VALUES_MAX - 1]).octets()));
        assert!(nested.fields().are_too_many());
        assert!(!Fields::EMPTY.are_too_many());
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

    #[test]
    fn merged_fields_are_sorted_and_the_new_ones_count() {
        let fields = Fields::check(b"\x01cV\x01bI\0\0\0\x01\x02abV\x01bV\x01at\x01\x00V").unwrap();
        assert_eq!(fields.merged(Fields::EMPTY), b"\x00V\x01at\x01\x02abV\x01bI\0\0\0\x01\x01cV");
        let mut new = Writer::default();
        new.key("c").long(1);
        new.key("a").array(|items| {
            items.long_string(b"x");
            items.table(|fields| fields.key("t").timestamp(2));
        });
        Fields::check(new.octets()).unwrap();
        let merged = fields.merged(new.fields());
        let merged: Vec<_> = Fields::check(&merged).unwrap().raw().map(|(key, _, octets)| (key, octets)).collect();
        let array = b"\x01aA\0\0\0\x16S\0\0\0\x01xF\0\0\0\x0b\x01tT\0\0\0\0\0\0\0\x02";
        assert_eq!(merged[1], (&b"a"[..], &array[..]));
        assert_eq!(merged[4], (&b"c"[..], &b"\x01cl\0\0\0\0\0\0\0\x01"[..]));
        assert_eq!(merged.len(), 5);
    }
}
