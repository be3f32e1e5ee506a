//! Field tables and arrays: never deeper than they may be, the same to `amq-protocol`, and whole after whatever is done to
//! them.
//!
//! Input: the octets of a table, without its length.

use amq_protocol::types::parsing::parse_field_table;
use leveret::amqp::Table;
use leveret::amqp::table::{DEPTH_MAX, Field, Fields, type_name};
use leveret::amqp::term::term;
use leveret::definitions::{table_from_json, table_to_json};

pub fn target(data: &[u8]) {
    let Ok(fields) = Fields::check(data) else { return };
    assert_eq!(fields.octets(), data);
    assert_eq!(fields.raw().map(|(.., octets)| octets.len()).sum::<usize>(), data.len(), "octets that are no field");
    let mut values = 0;
    for (_, field) in fields.iter() {
        look(&field, 1, &mut values);
    }
    let merged = fields.merged(fields);
    let merged = Fields::check(&merged).expect("fields of a table make a table");
    assert!(!merged.repeats());
    if let Some((key, first)) = fields.iter().next() {
        assert!(
            matches!((fields.get(key), merged.get(key)), (Some(one), Some(other)) if one == first && other == first)
        );
        let without = fields.without(key);
        assert!(Fields::check(&without).expect("fields of a table make a table").get(key).is_none());
    }
    if fields.are_too_many() {
        assert!(values > leveret::amqp::table::VALUES_MAX);
        return;
    }
    assert!(values <= leveret::amqp::table::VALUES_MAX);
    let mut sized = (data.len() as u32).to_be_bytes().to_vec();
    sized.extend_from_slice(data);
    let Ok(([], table)) = parse_field_table(&sized[..]) else { panic!("the crate takes what was checked") };
    compare(&table, fields);
    let json = table_to_json(&table);
    if let Ok(again) = table_from_json(&json) {
        assert_eq!(table_to_json(&again), json);
    }
}

/// Walks over a value and those in it.
fn look(field: &Field<'_>, depth: usize, values: &mut usize) {
    assert!(depth <= DEPTH_MAX, "deeper than allowed");
    *values += 1;
    match field {
        Field::Array(items) => {
            assert_eq!(items.raw().map(|(_, octets)| octets.len()).sum::<usize>(), items.octets().len());
            items.iter().for_each(|item| look(&item, depth + 1, values));
        }
        Field::Table(fields) => {
            assert_eq!(fields.raw().map(|(.., octets)| octets.len()).sum::<usize>(), fields.octets().len());
            fields.iter().for_each(|(_, field)| look(&field, depth + 1, values));
        }
        _ => {}
    }
}

/// Of a key that comes twice the crate keeps the last.
fn compare(table: &Table, fields: Fields<'_>) {
    for (key, value) in table {
        let found = fields.iter().filter(|(name, _)| *name == key.as_str().as_bytes()).last();
        let (_, field) = found.expect("a key that the crate finds");
        assert_eq!(field.type_name(), type_name(value));
        assert_eq!(field.as_i64(), leveret::amqp::table::as_i64(value));
        assert!(!term(value).is_empty());
    }
}
