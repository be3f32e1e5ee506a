//! Web pages of other origins: they may not use the API unless the settings name them (`rabbit_mgmt_cors`), and may not
//! make browsers change anything by the password that those remember.

use crate::config::Http;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, HOST, HeaderName, HeaderValue,
    ORIGIN,
};
use axum::http::{HeaderMap, Method};

/// The headers that let a page of another origin read the answer, if it may. `methods`: what may be asked there.
pub fn headers(method: &Method, request: &HeaderMap, methods: &[&str], settings: &Http) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(origin) = origin(request) else { return headers };
    if names(settings, origin) {
        if let Ok(origin) = HeaderValue::try_from(origin) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    } else if settings.cors_allow_origins.iter().any(|allowed| allowed == "*") {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    } else {
        return headers;
    }
    if method == Method::OPTIONS {
        headers.insert(ACCESS_CONTROL_MAX_AGE, settings.cors_max_age.as_secs().into());
        if let Some(asked) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        if let Ok(methods) = HeaderValue::try_from(methods.join(", ")) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
    }
    headers
}

/// Whether a browser sends this for a page that is not the API's own and not allowed: only browsers say where from.
pub fn is_forged(request: &HeaderMap, settings: &Http) -> bool {
    const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    match request.get(ORIGIN) {
        Some(origin) => {
            let origin = origin.to_str().unwrap_or("null");
            let host = request.get(HOST).and_then(|host| host.to_str().ok());
            let is_own = origin.split_once("://").is_some_and(|(_, own)| host == Some(own));
            !is_own && !names(settings, origin) && !settings.cors_allow_origins.iter().any(|allowed| allowed == "*")
        }
        None => request.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site"),
    }
}

/// A page's origin, if it has one.
fn origin(request: &HeaderMap) -> Option<&str> {
    let origin = request.get(ORIGIN)?.to_str().ok()?;
    (!["null", "*"].contains(&origin)).then_some(origin)
}

fn names(settings: &Http, origin: &str) -> bool {
    origin != "*" && settings.cors_allow_origins.iter().any(|allowed| allowed == origin)
}
