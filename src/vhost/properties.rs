//! What a publisher may write into a message's properties, by whichever door. Checks, their order and texts are those of
//! `rabbit_channel.erl`.

use super::Actor;
use crate::amqp::properties::Properties;
use crate::amqp::table::{Field, Fields};
use crate::message::Marks;
use crate::refusal::Refusal;

/// RabbitMQ's longest time to live: ten years, in ms.
const EXPIRATION_MS_MAX: i64 = 315_360_000_000;

/// Refuses what the actor may not say; gives the routing keys of `CC` and `BCC`, and whether there is a `BCC`.
pub fn check<'a>(actor: &Actor, properties: &Properties<'a>) -> Result<(Vec<&'a str>, Marks), Refusal> {
    if let Some(expiration) = properties.expiration {
        check_expiration(expiration)?;
    }
    let (extra, marks) = match properties.headers {
        Some(headers) => extra_keys(headers)?,
        None => (Vec::new(), Marks::NONE),
    };
    if let Some(user) = properties.user_id
        && user != actor.user.as_bytes()
        && !actor.rights.impersonator()
    {
        let (user, own) = (String::from_utf8_lossy(user), &actor.user);
        let text = format!("user_id property set to '{user}' but authenticated user was '{own}'");
        return Err(Refusal::precondition(text));
    }
    Ok((extra, marks))
}

/// The routing keys in `CC` and `BCC` (RabbitMQ: "Sender-selected Distribution"), and whether there is a `BCC`.
fn extra_keys(headers: Fields<'_>) -> Result<(Vec<&str>, Marks), Refusal> {
    let (mut keys, mut marks) = (Vec::new(), Marks::NONE);
    for (name, mark) in [("CC", Marks::NONE), ("BCC", Marks::BCC)] {
        match headers.get(name.as_bytes()) {
            None => {}
            Some(Field::Array(items)) => {
                keys.extend(items.long_strings().filter_map(|key| std::str::from_utf8(key).ok()));
                marks = marks | mark;
            }
            Some(other) => {
                let kind = other.type_name();
                return Err(Refusal::precondition(format!(
                    "invalid message: {{unacceptable_type_in_header,\"{name}\",{kind}}}"
                )));
            }
        }
    }
    Ok((keys, marks))
}

/// The property `expiration`: decimal milliseconds. Texts as Erlang's `string:to_integer` leads RabbitMQ to them.
fn check_expiration(expiration: &[u8]) -> Result<(), Refusal> {
    let text = String::from_utf8_lossy(expiration);
    let refuse = |why: String| Err(Refusal::precondition(format!("invalid expiration '{text}': {why}")));
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    if length == 0 {
        return refuse("no_integer".into());
    }
    let (number, rest) = text.split_at(text.len() - digits.len() + length);
    if !rest.is_empty() {
        return refuse(format!("{{leftover_string,{rest:?}}}"));
    }
    match number.parse::<i64>() {
        Ok(negative @ ..0) => refuse(format!("{{value_negative,{negative}}}")),
        Ok(0..=EXPIRATION_MS_MAX) => Ok(()),
        _ if number.starts_with('-') => refuse(format!("{{value_negative,{number}}}")),
        _ => refuse(format!("{{value_too_large,{}}}", number.trim_start_matches('+'))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expirations_are_refused_with_rabbitmqs_words() {
        let why = |text: &str| check_expiration(text.as_bytes()).err().map(|refusal| refusal.text);
        assert_eq!(why("0"), None);
        assert_eq!(why("315360000000"), None);
        assert_eq!(why("4294967296"), None);
        assert_eq!(why("").as_deref(), Some("invalid expiration '': no_integer"));
        assert_eq!(why(" 100").as_deref(), Some("invalid expiration ' 100': no_integer"));
        assert_eq!(why("-1").as_deref(), Some("invalid expiration '-1': {value_negative,-1}"));
        assert_eq!(why("1.5").as_deref(), Some("invalid expiration '1.5': {leftover_string,\".5\"}"));
        assert!(why("99999999999999999999").is_some_and(|text| text.contains("value_too_large")));
    }
}
