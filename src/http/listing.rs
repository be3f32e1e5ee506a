//! Lists as RabbitMQ's API gives them: sorted, filtered, a page at a time, a few columns of each item
//! (`rabbit_mgmt_util:augment_resources` and what it calls).

use super::answer::{Answer, Failure};
use regex::RegexBuilder;
use serde_json::{Map, Value as Json, json};
use std::cmp::Ordering;

/// Items of a page if the query doesn't say.
const PAGE_SIZE: u64 = 100;
pub const PAGE_SIZE_MAX: u64 = 500;
/// Letters of a regular expression that filters.
const FILTER_LETTERS_MAX: usize = 1024;
/// Octets of a compiled filter.
const FILTER_BYTES_MAX: usize = 1 << 20;

/// What stands behind the `?` of a request.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (plain(k), plain(v))).collect())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All that is said for a key.
    pub fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }

    pub fn is_true(&self, key: &str) -> bool {
        self.get(key) == Some("true")
    }
}

/// `%41+b` is `A b`. What is no text stays readable.
pub fn plain(text: &str) -> String {
    let octets = text.replace('+', " ");
    percent_encoding::percent_decode_str(&octets).decode_utf8_lossy().into_owned()
}

/// Answers with an object, or the columns of it that are asked for.
pub fn object(query: &Query, object: Map<String, Json>) -> Answer {
    Answer::Json(columns(query).select(Json::Object(object)))
}

/// Answers with a list. It is sorted by what the query says, and by the fields of `order`.
pub fn list(query: &Query, order: &[&str], items: Vec<Map<String, Json>>) -> Result<Answer, Failure> {
    list_of(query, order, items, value_at, |item| item)
}

/// The same of things of which only those of the page are shown: there may be very many. `key` says what stands at a path of
/// one (words with dots between them), as `shown` would show it.
pub fn list_of<T>(
    query: &Query,
    order: &[&str],
    things: Vec<T>,
    key: impl Fn(&T, &str) -> Json,
    shown: impl Fn(T) -> Map<String, Json>,
) -> Result<Answer, Failure> {
    let page = Page::of(query)?;
    let columns = columns(query);
    let Some(page) = page else {
        let things = sorted(query, order, things, &key);
        return Ok(Answer::Json(things.into_iter().map(|thing| columns.select(Json::Object(shown(thing)))).collect()));
    };
    let total_count = things.len();
    let items = sorted(query, order, page.filtered(things, &key), &key);
    let (from, size) = (usize_of((page.number - 1).saturating_mul(page.size)), usize_of(page.size));
    // An empty list has a first page.
    if from > items.len() {
        let Page { number, size, .. } = page;
        let reason = format!("Page out of range, page: {number} page size: {size}, len: {}", items.len());
        return Err(Failure::bad_query("page_out_of_range", reason));
    }
    let filtered_count = items.len();
    let shown: Vec<_> =
        items.into_iter().skip(from).take(size).map(|thing| columns.select(Json::Object(shown(thing)))).collect();
    Ok(Answer::Json(json!({
        "filtered_count": filtered_count,
        "item_count": shown.len(),
        "items": shown,
        "page": page.number,
        "page_count": filtered_count.div_ceil(size),
        "page_size": page.size,
        "total_count": total_count,
    })))
}

fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Which part of a list is wanted.
struct Page {
    number: u64,
    size: u64,
    filter: Option<Filter>,
}

enum Filter {
    /// In small letters.
    Part(String),
    /// `None`: no regular expression, which matches nothing.
    Pattern(Option<regex::Regex>),
}

impl Page {
    /// `None`: all of it, and then no filter counts either.
    fn of(query: &Query) -> Result<Option<Self>, Failure> {
        let number = |key: &str| match query.get(key).map(str::parse::<i64>) {
            None => Ok(None),
            Some(Ok(number)) => Ok(Some(number)),
            Some(Err(_)) => {
                let reason = "Pagination parameters are invalid".to_owned();
                Err(Failure::bad_query("bad_request", reason))
            }
        };
        let invalid = |reason: String| Failure::bad_query("invalid_pagination_parameters", reason);
        let (page, size) = (number("page")?, number("page_size")?);
        let is_pattern = query.is_true("use_regex");
        let filter = match query.get("name") {
            Some(name) if is_pattern && name.chars().count() > FILTER_LETTERS_MAX => {
                return Err(invalid("name filter regex is too long".to_owned()));
            }
            None | Some("") => None,
            Some(name) if is_pattern => Some(Filter::Pattern(
                RegexBuilder::new(name).case_insensitive(true).size_limit(FILTER_BYTES_MAX).build().ok(),
            )),
            Some(name) => Some(Filter::Part(name.to_lowercase())),
        };
        let Some(page) = page else { return Ok(None) };
        let within = |number: i64, max: u64| u64::try_from(number).ok().filter(|number| (1..=max).contains(number));
        match (within(page, u64::MAX), size.map_or(Some(PAGE_SIZE), |size| within(size, PAGE_SIZE_MAX))) {
            (Some(number), Some(size)) => Ok(Some(Self { number, size, filter })),
            _ => {
                let size = size.map_or("undefined".to_owned(), |size| size.to_string());
                Err(invalid(format!("Invalid pagination parameters: page number {page}, page size {size}")))
            }
        }
    }

    fn filtered<T>(&self, mut items: Vec<T>, key: impl Fn(&T, &str) -> Json) -> Vec<T> {
        if let Some(filter) = &self.filter {
            items.retain(|item| {
                let name = key(item, "name");
                let name = name.as_str().unwrap_or_default();
                match filter {
                    Filter::Part(part) => name.to_lowercase().contains(part),
                    Filter::Pattern(pattern) => pattern.as_ref().is_some_and(|pattern| pattern.is_match(name)),
                }
            });
        }
        items
    }
}

fn sorted<T>(query: &Query, order: &[&str], items: Vec<T>, key: impl Fn(&T, &str) -> Json) -> Vec<T> {
    let asked = query.get("sort").filter(|sort| !sort.is_empty());
    let order: Vec<&str> = asked.into_iter().chain(order.iter().copied()).collect();
    let keys = |item: &T| -> Vec<Json> { order.iter().map(|path| key(item, path)).collect() };
    let mut items: Vec<_> = items.into_iter().map(|item| (keys(&item), item)).collect();
    items.sort_by(|(one, _), (other, _)| {
        one.iter()
            .zip(other)
            .map(|(one, other)| compare(one, other))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    });
    if query.is_true("sort_reverse") {
        items.reverse();
    }
    items.into_iter().map(|(_, item)| item).collect()
}

/// What a path with dots leads to. "Nothing" comes before everything else, and means 0.
pub fn value_at(item: &Map<String, Json>, path: &str) -> Json {
    let mut words = path.split('.').filter(|word| !word.is_empty());
    let first = words.next().and_then(|word| item.get(word));
    let found = first.and_then(|first| words.try_fold(first, |value, word| value.get(word)));
    found.cloned().unwrap_or_else(|| 0.into())
}

/// Erlang's order of terms: numbers, words, objects, lists, texts.
fn compare(one: &Json, other: &Json) -> Ordering {
    let rank = |value: &Json| match value {
        Json::Number(_) => 0,
        Json::Null | Json::Bool(_) => 1,
        Json::Object(_) => 2,
        Json::Array(_) => 3,
        Json::String(_) => 4,
    };
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => {
            let number = |number: &serde_json::Number| number.as_f64().unwrap_or_default();
            match (one.as_i64(), other.as_i64()) {
                (Some(one), Some(other)) => one.cmp(&other),
                _ => number(one).total_cmp(&number(other)),
            }
        }
        (Json::String(one), Json::String(other)) => one.cmp(other),
        (Json::Bool(one), Json::Bool(other)) => one.cmp(other),
        _ => rank(one).cmp(&rank(other)),
    }
}

/// The columns that are wanted, as paths; empty for all.
struct Columns(Vec<Vec<String>>);

fn columns(query: &Query) -> Columns {
    let asked = query.get("columns").unwrap_or_default().split(',').filter(|column| !column.is_empty());
    Columns(asked.map(|column| column.split('.').map(str::to_owned).collect()).collect())
}

impl Columns {
    fn select(&self, value: Json) -> Json {
        if self.0.is_empty() { value } else { select(value, &self.0.iter().map(Vec::as_slice).collect::<Vec<_>>()) }
    }
}

fn select(value: Json, columns: &[&[String]]) -> Json {
    match value {
        Json::Object(fields) => {
            let chosen = fields.into_iter().filter_map(|(key, value)| {
                let deeper: Vec<&[String]> =
                    columns.iter().filter(|path| path.first() == Some(&key)).map(|path| &path[1..]).collect();
                match deeper.iter().any(|path| path.is_empty()) {
                    _ if deeper.is_empty() => None,
                    true => Some((key, value)),
                    false => Some((key, select(value, &deeper))),
                }
            });
            Json::Object(chosen.collect())
        }
        Json::Array(items) => items.into_iter().map(|item| select(item, columns)).collect(),
        value => value,
    }
}
