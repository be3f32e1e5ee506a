//! Values that several resources read in the same way.

use super::answer::Failure;
use serde_json::{Value as Json, json};

/// `rabbit_misc:parse_bool`: also as text.
pub fn boolean(value: &Json) -> Result<bool, Failure> {
    match value {
        Json::Bool(truth) => Ok(*truth),
        Json::String(text) if text == "true" => Ok(true),
        Json::String(text) if text == "false" => Ok(false),
        _ => Err(Failure::bad_request(json!(["not_boolean", value]))),
    }
}

/// A list of words, or one text with commas between them, as tags are given; `None` if it is neither.
pub fn words(value: &Json) -> Option<Vec<String>> {
    match value {
        Json::String(text) => {
            Some(text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect())
        }
        Json::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
