//! A request as a resource sees it: who asks, what the path names, and the body, read as it is asked for.

use super::access::Visitor;
use super::answer::Failure;
use super::listing::Query;
use crate::broker::Broker;
use crate::config::Http;
use crate::store::Committed;
use crate::vhost::{Actor, Vhost};
use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use http_body_util::BodyExt;
use serde_json::{Map, Value as Json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How deep JSON may nest.
const DEPTH_MAX: usize = 64;
/// What a slow client must send of a body, after the time that a head may take.
const BODY_BYTES_PER_SECOND: u64 = 1024;

/// What the parts of a path stand for, by the names that the route's pattern gives them.
#[derive(Debug, Default)]
pub struct Names(Vec<(String, String)>);

impl Names {
    pub fn new(names: Vec<(String, String)>) -> Self {
        Self(names)
    }

    pub fn find(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

pub struct Request {
    pub broker: Arc<Broker>,
    /// `None` where nobody needs to log in.
    pub visitor: Option<Visitor>,
    pub names: Names,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Body,
}

impl Request {
    /// What the path says for a part of the route's pattern.
    pub fn name(&self, key: &str) -> &str {
        self.names.find(key).unwrap_or_default()
    }

    /// The same for an exchange, where the default exchange has a name.
    pub fn exchange(&self, key: &str) -> &str {
        Some(self.name(key)).filter(|name| *name != crate::auth::DEFAULT_EXCHANGE).unwrap_or_default()
    }

    /// Who asks. No route but public ones is reached without anybody.
    pub fn visitor(&self) -> &Visitor {
        self.visitor.as_ref().expect("the route's role needs somebody")
    }

    /// The name of who asks, for the books and the events.
    pub fn by(&self) -> Arc<str> {
        Arc::clone(&self.visitor().name)
    }

    /// Who asks, to do something in a virtual host.
    pub fn actor(&self, vhost: &Vhost) -> Result<Actor, Failure> {
        let visitor = self.visitor();
        let rights = self.broker.rights(&visitor.identity, &vhost.name);
        let rights = rights.ok_or_else(|| Failure::not_allowed("Access refused."))?;
        // No connection has this number: exclusive queues are nobody's here.
        Ok(Actor { connection: 0, user: self.by(), rights })
    }

    /// The virtual host that the path names, to look at what is in it.
    pub fn vhost(&self) -> Result<Arc<Vhost>, Failure> {
        self.broker.vhost(self.name("vhost")).ok_or_else(Failure::no_object)
    }

    /// The same, to change something in it; RabbitMQ says it with another word.
    pub fn vhost_to_change(&self) -> Result<Arc<Vhost>, Failure> {
        self.broker.vhost(self.name("vhost")).ok_or_else(|| Failure::not_found("vhost_not_found"))
    }

    /// Whether the node that the path names is this one.
    pub fn check_node(&self) -> Result<(), Failure> {
        if self.name("node") == self.broker.events().node() { Ok(()) } else { Err(Failure::no_object()) }
    }

    /// Whether nothing that is counted is to be shown.
    pub fn without_stats(&self) -> bool {
        self.broker.config.http.disable_stats || self.query.is_true("disable_stats")
    }

    /// Whether queues are to show all the same how many messages they hold.
    pub fn with_queue_totals(&self) -> bool {
        self.broker.config.http.enable_queue_totals || self.query.is_true("enable_queue_totals")
    }

    /// The virtual hosts that a list is about: the one of the path (or of the header `X-Vhost`, which RabbitMQ's pages
    /// send), or all that who asks may enter, by name.
    pub fn vhosts(&self) -> Result<Vec<Arc<Vhost>>, Failure> {
        let header = self.headers.get("x-vhost").and_then(|value| value.to_str().ok()).filter(|name| !name.is_empty());
        let one = self.names.find("vhost").or(header);
        let all = match one {
            Some(name) => vec![self.broker.vhost(name).ok_or_else(Failure::no_object)?],
            None => self.broker.list_vhosts(),
        };
        let visitor = self.visitor();
        let may_see = |vhost: &Arc<Vhost>| visitor.is_administrator() || visitor.may_enter(&self.broker, &vhost.name);
        Ok(all.into_iter().filter(may_see).collect())
    }

    /// The body: one object of JSON, whatever the content type says; nothing and `null` count as an empty one
    /// (`rabbit_mgmt_util:decode`).
    pub async fn json(&mut self) -> Result<Map<String, Json>, Failure> {
        object(&self.octets().await?)
    }

    /// The body as it is.
    pub async fn octets(&mut self) -> Result<Bytes, Failure> {
        let body = std::mem::replace(&mut self.body, Body::empty());
        read(body, &self.broker.config.http).await
    }

    /// The same, with these fields in it.
    pub async fn fields<const N: usize>(&mut self, keys: [&str; N]) -> Result<([Json; N], Map<String, Json>), Failure> {
        let mut json = self.json().await?;
        let missing: Vec<_> = keys.iter().copied().filter(|key| !json.contains_key(*key)).collect();
        if !missing.is_empty() {
            return Err(Failure::missing(missing));
        }
        let fields = keys.map(|key| json.shift_remove(key).unwrap_or_default());
        Ok((fields, json))
    }
}

/// Waits until something is on disk.
pub async fn safe(committed: Committed) -> Result<(), Failure> {
    committed.await.map_err(|_| Failure::internal("it could not be written to disk"))
}

/// The same where there may be nothing to wait for.
pub async fn safe_if_any(committed: Option<Committed>) -> Result<(), Failure> {
    match committed {
        Some(committed) => safe(committed).await,
        None => Ok(()),
    }
}

/// Reads a body while it is short enough, and comes fast enough.
async fn read(mut body: Body, limits: &Http) -> Result<Bytes, Failure> {
    let started = Instant::now();
    let (mut read, mut come) = (Vec::new(), 0);
    let announced = HttpBody::size_hint(&body).lower();
    if announced / 2 > limits.body_bytes_max as u64 {
        return Err(too_long());
    }
    loop {
        let patience = limits.request_timeout + Duration::from_secs(come as u64 / BODY_BYTES_PER_SECOND);
        let is_too_long = announced.max(come as u64) > limits.body_bytes_max as u64;
        let late = |_| if is_too_long { too_long() } else { Failure::too_slow() };
        let frame = tokio::time::timeout_at(started + patience, body.frame()).await.map_err(late)?;
        let Some(frame) = frame else {
            return if is_too_long { Err(too_long()) } else { Ok(read.into()) };
        };
        // Whoever hung up reads no answer; chunks that are none are answered.
        let frame = frame.map_err(|_| Failure::malformed())?;
        // Trailers mean nothing here.
        let Ok(octets) = frame.into_data() else { continue };
        come += octets.len();
        if announced.max(come as u64) <= limits.body_bytes_max as u64 {
            read.extend_from_slice(&octets);
        } else {
            // Most clients look for an answer only when they have sent everything. So much of it is dropped, no more.
            read = Vec::new();
            if come / 2 > limits.body_bytes_max {
                return Err(too_long());
            }
        }
    }
}

fn too_long() -> Failure {
    Failure::bad_request("Exceeded HTTP request body size limit")
}

fn object(octets: &[u8]) -> Result<Map<String, Json>, Failure> {
    if matches!(octets, b"" | b"null" | b"undefined") {
        return Ok(Map::new());
    }
    if is_too_deep(octets) {
        return Err(Failure::bad_request(format!("nested deeper than {DEPTH_MAX} levels")));
    }
    match serde_json::from_slice(octets) {
        Ok(Json::Object(fields)) => Ok(fields),
        Ok(Json::String(_)) => Err(Failure::bad_request(
            "invalid payload: the request body JSON-decoded to a string. Is the input doubly-JSON-encoded?",
        )),
        _ => Err(Failure::bad_request("not_json")),
    }
}

/// Whether brackets nest too deep; what is in texts doesn't count.
fn is_too_deep(octets: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for octet in octets {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_one_object_or_nothing() {
        for empty in ["", "null", "undefined", "{}"] {
            assert_eq!(object(empty.as_bytes()).unwrap(), Map::new(), "{empty}");
        }
        assert_eq!(object(b" {\"a\": 1} ").unwrap()["a"], 1);
        for not in ["{", "[]", "5", "true", "\"x\"", "{} {}", "{\"a\": NaN}", "\u{feff}{}"] {
            assert!(object(not.as_bytes()).is_err(), "{not}");
        }
        assert!(object(b"{\"a\": \"\xff\"}").is_err());
    }

    #[test]
    fn nesting_is_limited_and_brackets_in_texts_are_none() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(object(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(object(nested(DEPTH_MAX + 1).as_bytes()).is_err());
        assert!(is_too_deep("[".repeat(1_000_000).as_bytes()));
        assert!(!is_too_deep(format!("\"\\\"{}\"", "[".repeat(100)).as_bytes()));
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let time = Duration::from_secs(60);
        let limits = Http {
            tls: None,
            connections_max: 1,
            body_bytes_max: 5,
            request_timeout: time,
            idle_timeout: time,
            path_prefix: String::new(),
            cors_allow_origins: Vec::new(),
            cors_max_age: time,
            disable_stats: false,
            enable_queue_totals: false,
        };
        assert_eq!(read("abcde".into(), &limits).await.unwrap(), "abcde");
        assert!(read("abcdef".into(), &limits).await.is_err());
    }
}
