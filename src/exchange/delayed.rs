//! Delayed messages: an exchange that holds a message back for as long as the message says, and routes it then as an
//! exchange of another type would (the plugin's `rabbit_exchange_type_delayed_message`).
//!
//! Here is which type that is. What is held back lies in a queue, and the vhost sees to both.

use super::Type;
use crate::amqp::table::Table;
use crate::amqp::term::as_binary;
use crate::refusal::Refusal;

const INNER_TYPE: &str = "x-delayed-type";

/// The type by which an exchange with these arguments routes.
pub(super) fn inner(arguments: &Table) -> Result<Type, Refusal> {
    let octets = arguments.inner().get(INNER_TYPE).and_then(as_binary);
    let Some(name) = octets.map(String::from_utf8_lossy) else {
        return Err(Refusal::precondition(format!(
            "Invalid argument, '{INNER_TYPE}' must be an existing exchange type"
        )));
    };
    if *name == *Type::Delayed.name() {
        return Err(Refusal::precondition(format!(
            "Invalid argument, '{}' can't be used for '{INNER_TYPE}'",
            Type::Delayed.name()
        )));
    }
    Type::check(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::Value;
    use crate::exchange::{Router, check_type_arguments};

    fn arguments(fields: &[(&str, Value)]) -> Table {
        let mut table = Table::default();
        for (key, value) in fields {
            table.insert((*key).into(), value.clone());
        }
        table
    }

    fn text(text: &str) -> Value {
        Value::LongString(text.into())
    }

    #[test]
    fn the_inner_type_is_required_and_another() {
        let refused = |value: Option<Value>| {
            let fields: Vec<_> = value.into_iter().map(|value| (INNER_TYPE, value)).collect();
            check_type_arguments(Type::Delayed, &arguments(&fields)).unwrap_err().text
        };
        let required = "Invalid argument, 'x-delayed-type' must be an existing exchange type";
        assert_eq!(refused(None), required);
        assert_eq!(refused(Some(Value::LongInt(1))), required);
        let itself = "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'";
        assert_eq!(refused(Some(text("x-delayed-message"))), itself);
        assert_eq!(refused(Some(text("bogus"))), "unknown exchange type 'bogus'");
        assert_eq!(refused(Some(text(""))), "invalid exchange type ''");
    }

    #[test]
    fn the_inner_types_own_arguments_are_checked() {
        let hash = |property: &str| {
            let fields = [(INNER_TYPE, text("x-consistent-hash")), ("hash-property", text(property))];
            check_type_arguments(Type::Delayed, &arguments(&fields))
        };
        assert_eq!(hash("message_id"), Ok(()));
        assert_eq!(hash("bogus").unwrap_err().text, "Unsupported property: bogus");
    }

    #[test]
    fn it_routes_as_the_inner_type() {
        for kind in Type::ALL.into_iter().filter(|kind| *kind != Type::Delayed) {
            let arguments = arguments(&[(INNER_TYPE, text(kind.name()))]);
            assert_eq!(check_type_arguments(Type::Delayed, &arguments), Ok(()));
            assert_eq!(Router::new(Type::Delayed, &arguments).kind(), kind);
        }
    }
}
