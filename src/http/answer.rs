//! What a request is answered with, and how RabbitMQ says no over HTTP: `{"error": …, "reason": …}`.

use super::request::Request;
use crate::auth::Unusable;
use crate::policy::Mistakes;
use crate::refusal::{Reason, Refusal};
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use serde_json::{Value as Json, json};

/// What went well.
#[derive(Debug)]
pub enum Answer {
    Json(Json),
    /// What a health check has to complain of: 503.
    Unhealthy(Json),
    /// The same, to be kept under a name that is a token of HTTP.
    File(Json, String),
    /// Something is there that was not there before: 201.
    Created,
    /// The same; it can be found there.
    CreatedAt(String),
    /// Nothing to say: 204.
    Done,
    /// Look there instead: 301.
    Elsewhere(String),
}

/// What did not.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    /// `None`: nothing but the status.
    said: Option<(&'static str, Json)>,
    /// Asks for a name and a password.
    challenges: bool,
}

impl Answer {
    /// What a PUT answers.
    pub fn put(is_new: bool) -> Self {
        if is_new { Self::Created } else { Self::Done }
    }

    pub fn into_response(self) -> Response<Body> {
        match self {
            Self::Json(json) => {
                let mut response = of_json(StatusCode::OK, &json);
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                response
            }
            Self::Unhealthy(json) => of_json(StatusCode::SERVICE_UNAVAILABLE, &json),
            Self::File(json, name) => {
                let mut response = Self::Json(json).into_response();
                if let Ok(disposition) = HeaderValue::try_from(format!("attachment; filename={name}")) {
                    response.headers_mut().insert(CONTENT_DISPOSITION, disposition);
                }
                response
            }
            Self::Created => bare(StatusCode::CREATED),
            Self::CreatedAt(path) => at(StatusCode::CREATED, path),
            Self::Done => bare(StatusCode::NO_CONTENT),
            Self::Elsewhere(path) => at(StatusCode::MOVED_PERMANENTLY, path),
        }
    }
}

impl Failure {
    fn new(status: StatusCode, error: &'static str, reason: impl Into<Json>) -> Self {
        Self { status, said: Some((error, reason.into())), challenges: false }
    }

    fn silent(status: StatusCode) -> Self {
        Self { status, said: None, challenges: false }
    }

    pub fn bad_request(reason: impl Into<Json>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", reason)
    }

    /// Which of the fields that must be there are not.
    pub fn missing<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        /// Erlang writes a longer list over several lines.
        const LINE_LETTERS_MAX: usize = 80;
        let keys: Vec<_> = keys.into_iter().map(|key| format!("{{key_missing,{key}}}")).collect();
        let line = format!("[{}]", keys.join(","));
        Self::bad_request(if line.len() > LINE_LETTERS_MAX { format!("[{}]", keys.join(",\n ")) } else { line })
    }

    /// A value of a query that makes no sense; each kind has a name of its own.
    pub fn bad_query(error: &'static str, reason: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, reason)
    }

    /// A request that is none: RabbitMQ's web server answers it without a word.
    pub fn malformed() -> Self {
        Self::silent(StatusCode::BAD_REQUEST)
    }

    /// What the path names is not there.
    pub fn no_object() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Object Not Found", "Not Found")
    }

    /// Something that the request needs is not there.
    pub fn not_found(reason: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", reason)
    }

    /// Nobody has said who they are.
    pub fn nobody() -> Self {
        Self { challenges: true, ..Self::silent(StatusCode::UNAUTHORIZED) }
    }

    /// They are not who they say, or nobody may know.
    pub fn not_authenticated() -> Self {
        Self { challenges: true, ..Self::new(StatusCode::UNAUTHORIZED, "not_authorized", "Not_Authorized") }
    }

    /// They may not. The spelling is RabbitMQ's.
    pub fn not_allowed(reason: impl Into<Json>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_authorised", reason)
    }

    /// A web page of somebody else's tried.
    pub fn cross_site() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "cross-site requests may not change anything")
    }

    pub fn method_not_allowed() -> Self {
        Self::silent(StatusCode::METHOD_NOT_ALLOWED)
    }

    /// No method of HTTP that anything here has.
    pub fn unknown_method() -> Self {
        Self::silent(StatusCode::NOT_IMPLEMENTED)
    }

    pub fn not_acceptable() -> Self {
        Self::silent(StatusCode::NOT_ACCEPTABLE)
    }

    pub fn unsupported_media_type() -> Self {
        Self::silent(StatusCode::UNSUPPORTED_MEDIA_TYPE)
    }

    /// Its body did not come in time.
    pub fn too_slow() -> Self {
        Self::silent(StatusCode::REQUEST_TIMEOUT)
    }

    pub fn precondition_failed(reason: String) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", reason)
    }

    /// The broker can't, though it should. `why` is for the log alone.
    pub fn internal(why: &str) -> Self {
        tracing::error!("the management API could not do what it was asked: {why}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_server_error", "see the broker's log")
    }

    pub fn into_response(self) -> Response<Body> {
        let mut response = match self.said {
            Some((error, reason)) => of_json(self.status, &json!({"error": error, "reason": reason})),
            None => bare(self.status),
        };
        if self.challenges {
            let challenge = HeaderValue::from_static("Basic realm=\"RabbitMQ Management\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl Failure {
    /// What makes RabbitMQ's own code fail, and is shown there as an Erlang term.
    pub fn of_node(request: &Request, why: &str) -> Self {
        Self::bad_request(format!("Request to node {} failed with {why}", request.broker.events().node()))
    }

    /// As `rabbit_mgmt_util:with_channel` says what a channel of AMQP was closed for.
    pub fn of_channel(refusal: Refusal) -> Self {
        let text = refusal.reply_code().text(&refusal.text);
        match refusal.reason {
            Reason::NotFound => Self::not_found(&text),
            Reason::AccessRefused => Self::not_allowed(text),
            _ => Self::of_publish(refusal),
        }
    }

    /// As `rabbit_mgmt_wm_exchange_publish` says it.
    pub fn of_publish(refusal: Refusal) -> Self {
        let code = refusal.reply_code();
        match refusal.reason {
            Reason::Internal => refusal.into(),
            _ => Self::bad_request(format!("{} {}", code.number(), code.text(&refusal.text))),
        }
    }
}

/// As `rabbit_mgmt_util:direct_request` says it.
impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        if !refusal.more.is_empty() {
            // Programs compare a reason with RabbitMQ's.
            tracing::warn!("refused over HTTP: {}", refusal.whole_text());
        }
        match refusal.reason {
            Reason::NotFound => Self::not_found(&refusal.text),
            Reason::AccessRefused | Reason::NotAllowed => Self::not_allowed("Access refused."),
            Reason::Internal => Self::internal(&refusal.text),
            _ => Self::bad_request(refusal.text),
        }
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Refusal::from(mistakes).into()
    }
}

/// A permission's pattern that is none, in the words of RabbitMQ's engine where it has the same. Texts of Erlang are lists
/// of numbers there, and so is a permission's pattern (but not a topic permission's).
pub fn invalid_pattern(pattern: Json, unusable: &Unusable) -> Failure {
    let why = match unusable.in_pcre() {
        Some((why, at)) => json!([letters(why), at]),
        None => unusable.why().into(),
    };
    Failure::bad_request(json!(["invalid_regexp", pattern, why]))
}

/// A text as a list of numbers.
pub fn letters(text: &str) -> Json {
    text.bytes().map(Json::from).collect()
}

fn at(status: StatusCode, path: String) -> Response<Body> {
    let mut response = bare(status);
    if let Ok(path) = HeaderValue::try_from(path) {
        response.headers_mut().insert(LOCATION, path);
    }
    response
}

fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn of_json(status: StatusCode, json: &Json) -> Response<Body> {
    let mut response = Response::new(Body::from(json.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
