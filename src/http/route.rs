//! The table of routes. A [`Route`] can't be made without the [`Role`] that it needs.

use super::access::{self, Role};
use super::answer::{Answer, Failure};
use super::cors;
use super::describe::{Field, Shape, Words};
use super::listing::Query;
use super::request::{Names, Request};
use crate::broker::Broker;
use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, HeaderName, HeaderValue, VARY};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

type Outcome = Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send>>;
type Handler = Box<dyn Fn(Request) -> Outcome + Send + Sync>;

/// A path of the API, who may use it, and what each method does.
pub struct Route {
    /// As `axum` takes it: `/queues/{vhost}/{queue}`; names are found by [`Request::name`].
    pub path: &'static str,
    pub role: Role,
    operations: Vec<Operation>,
}

/// What a method does, and what is said of it.
struct Operation {
    method: Method,
    handler: Handler,
    words: Words,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl Route {
    pub fn new(path: &'static str, role: Role) -> Self {
        Self { path, role, operations: Vec::new() }
    }

    /// HEAD comes with it.
    pub fn get<F: Future<Output = Result<Answer, Failure>> + Send + 'static>(
        self,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self {
        self.on(Method::GET, handler)
    }

    pub fn put<F: Future<Output = Result<Answer, Failure>> + Send + 'static>(
        self,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self {
        self.on(Method::PUT, handler)
    }

    pub fn post<F: Future<Output = Result<Answer, Failure>> + Send + 'static>(
        self,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self {
        self.on(Method::POST, handler)
    }

    pub fn delete<F: Future<Output = Result<Answer, Failure>> + Send + 'static>(
        self,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self {
        self.on(Method::DELETE, handler)
    }

    fn on<F: Future<Output = Result<Answer, Failure>> + Send + 'static>(
        mut self,
        method: Method,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Self {
        let handler: Handler = Box::new(move |request| Box::pin(handler(request)));
        self.operations.push(Operation { method, handler, words: Words::default() });
        self
    }

    /// What the method that was added last does, in a few words.
    pub fn says(self, summary: &'static str) -> Self {
        self.with(|words| words.summary = summary)
    }

    /// The fields of its body.
    pub fn takes(self, body: &'static [Field]) -> Self {
        self.with(|words| words.body = Some(body))
    }

    /// The parameters of its query.
    pub fn asks(self, query: &'static [Field]) -> Self {
        self.with(|words| words.query = query)
    }

    /// It answers with a list, in pages if it is asked for them.
    pub fn lists(self) -> Self {
        self.with(|words| words.shape = Shape::List)
    }

    /// It answers with a list that has no pages.
    pub fn lists_all(self) -> Self {
        self.with(|words| words.shape = Shape::Plain)
    }

    /// It answers with a text.
    pub fn tells(self) -> Self {
        self.with(|words| words.shape = Shape::Text)
    }

    fn with(mut self, change: impl FnOnce(&mut Words)) -> Self {
        if let Some(operation) = self.operations.last_mut() {
            change(&mut operation.words);
        }
        self
    }

    /// Its methods and what is said of them.
    pub fn operations(&self) -> impl Iterator<Item = (&Method, &Words)> {
        self.operations.iter().map(|operation| (&operation.method, &operation.words))
    }

    /// What it can be asked, as headers say it.
    pub fn methods(&self) -> Vec<&str> {
        let mut methods: Vec<&str> = Vec::new();
        for Operation { method, .. } in &self.operations {
            if *method == Method::GET {
                methods.push("HEAD");
            }
            methods.push(method.as_str());
        }
        methods.push("OPTIONS");
        methods
    }

    fn handler(&self, method: &Method) -> Option<&Handler> {
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        self.operations.iter().find(|operation| operation.method == method).map(|operation| &operation.handler)
    }

    /// Answers a request whose path is this one's.
    pub async fn serve(&self, broker: Arc<Broker>, request: axum::http::Request<Body>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let origins = &broker.config.http;
        let cross_origin = cors::headers(&parts.method, &parts.headers, &self.methods(), origins);
        let names = match RawPathParams::from_request_parts(&mut parts, &()).await {
            Ok(names) => Some(names.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
            // Octets that are no text name nothing.
            Err(_) => None,
        };
        let outcome = match (&parts.method, names) {
            (&Method::OPTIONS, _) => Err(None),
            (_, None) => Err(Some(Failure::no_object())),
            (_, Some(names)) => self.answer(broker, parts, Names::new(names), body).await.map_err(Some),
        };
        let mut response = match outcome {
            Ok(answer) => answer.into_response(),
            Err(Some(failure)) => failure.into_response(),
            Err(None) => Response::default(),
        };
        response.headers_mut().extend(cross_origin);
        let allowed = self.methods().join(", ");
        response.headers_mut().insert(ALLOW, HeaderValue::try_from(allowed).expect("methods are words"));
        response
    }

    async fn answer(
        &self,
        broker: Arc<Broker>,
        parts: axum::http::request::Parts,
        names: Names,
        body: Body,
    ) -> Result<Answer, Failure> {
        const KNOWN: [Method; 6] =
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        let (method, headers) = (parts.method, parts.headers);
        if !KNOWN.contains(&method) {
            return Err(Failure::unknown_method());
        }
        let handler = self.handler(&method).ok_or_else(Failure::method_not_allowed)?;
        if !matches!(method, Method::GET | Method::HEAD) && cors::is_forged(&headers, &broker.config.http) {
            return Err(Failure::cross_site());
        }
        let visitor = match self.role {
            Role::Public => None,
            role => {
                let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
                let peer: IpAddr = peer.ok_or_else(|| Failure::internal("a request without a peer"))?;
                let visitor = access::visitor(&broker, &headers, peer).await?;
                role.check(&visitor, &broker, &names, &method).inspect_err(|_| {
                    tracing::warn!("HTTP access denied: user '{}' may not {method} {}", visitor.name, self.path);
                })?;
                Some(visitor)
            }
        };
        // Nothing is ever inflated: what is small on the wire stays small here.
        let is_plain = |value: &HeaderValue| value == "identity";
        if headers.get_all(CONTENT_ENCODING).iter().any(|value| !is_plain(value)) {
            return Err(Failure::unsupported_media_type());
        }
        if !takes_json(&headers) {
            return Err(Failure::not_acceptable());
        }
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        handler(Request { broker, visitor, names, query, headers, body }).await
    }
}

/// Whether a client takes what it is given.
fn takes_json(headers: &HeaderMap) -> bool {
    let Some(accept) = headers.get(ACCEPT) else { return true };
    let Ok(accept) = accept.to_str() else { return false };
    let kinds = accept.split(',').filter_map(|kind| kind.split(';').next());
    let mut kinds = kinds.map(str::trim).filter(|kind| !kind.is_empty()).peekable();
    kinds.peek().is_none() || kinds.any(|kind| ["application/json", "application/*", "*/*", "*"].contains(&kind))
}

/// What every answer says to browsers: nothing here is a page, to be shown in one, or to be taken for another kind of file.
pub fn protect(response: &mut Response<Body>) {
    const HEADERS: [(&str, &str); 4] = [
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
    ];
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("public, max-age=0, must-revalidate"));
    headers.append(VARY, HeaderValue::from_static("accept, accept-encoding, origin"));
}

/// What is said where there is nothing, with the methods that a page would have.
pub fn nowhere(method: &Method) -> Response<Body> {
    let (failure, is_asked) = match *method {
        Method::GET | Method::HEAD => (Failure::no_object(), false),
        Method::OPTIONS => (Failure::no_object(), true),
        _ => (Failure::method_not_allowed(), false),
    };
    let mut response = if is_asked { Response::default() } else { failure.into_response() };
    if is_asked {
        *response.status_mut() = StatusCode::OK;
    }
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("HEAD, GET, OPTIONS"));
    response
}
