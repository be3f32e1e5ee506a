//! `/definitions`: all that is defined, as one document, out and in (`rabbit_mgmt_wm_definitions`).
//!
//! What is imported is checked as a whole before anything of it is used, and every mistake is told. With `?dry_run=true`,
//! which RabbitMQ does not have, nothing is used at all, and what would change is told.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::List;
use super::describe::{Field, may};
use super::request::{Request, safe};
use super::route::Route;
use crate::definitions::{Document, Plan, Target, export, export_vhost, import};
use crate::written::Remarks;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use multer::{Constraints, Multipart, SizeLimit};
use serde_json::{Value as Json, json};
use std::fmt::Display;
use std::path::Path;

/// What no virtual host has of its own.
const OF_THE_BROKER: [&str; 5] = ["users", "vhosts", "permissions", "topic_permissions", "global_parameters"];
/// How a document that came over HTTP is called in what is said of it, where a file has its name.
const NAME: &str = "definitions";
/// How many mistakes and warnings are told.
const TOLD_MAX: usize = 100;

const DOCUMENT: &[Field] = &[
    may("users", List),
    may("vhosts", List),
    may("permissions", List),
    may("topic_permissions", List),
    may("parameters", List),
    may("global_parameters", List),
    may("policies", List),
    may("queues", List),
    may("exchanges", List),
    may("bindings", List),
];

pub fn routes() -> Vec<Route> {
    let whole = |path| {
        let route = Route::new(path, Role::Administrator).get(get).says("All definitions");
        let route = route.post(post).says("Takes over definitions").takes(DOCUMENT);
        route.put(post).says("The same").takes(DOCUMENT)
    };
    vec![
        whole("/definitions"),
        whole("/all-configuration"),
        Route::new("/definitions/{vhost}", Role::Administrator)
            .get(get_of_vhost)
            .says("The definitions of a virtual host")
            .post(post)
            .says("Takes over definitions for a virtual host")
            .takes(DOCUMENT)
            .put(post)
            .says("The same")
            .takes(DOCUMENT),
    ]
}

async fn get(request: Request) -> Result<Answer, Failure> {
    answer(&request, export(&request.broker).to_json())
}

async fn get_of_vhost(request: Request) -> Result<Answer, Failure> {
    let vhost = request.broker.vhost(request.name("vhost"));
    let vhost = vhost.ok_or_else(|| Failure::bad_request("vhost_not_found"))?;
    let mut json = export_vhost(&request.broker, &vhost).to_json();
    // It is described without a section, since there is only one.
    let described = json["vhosts"][0].take();
    if let Json::Object(sections) = &mut json {
        sections.retain(|section, _| !OF_THE_BROKER.contains(&section.as_str()));
        sections.insert("description".to_owned(), described["metadata"]["description"].clone());
        for key in ["limits", "metadata"] {
            sections.insert(key.to_owned(), described[key].clone());
        }
    }
    answer(&request, json)
}

fn answer(request: &Request, document: Json) -> Result<Answer, Failure> {
    let is_token = |letter: char| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
    match request.query.get("download") {
        None => Ok(Answer::Json(document)),
        Some(name) if !name.is_empty() && name.chars().all(is_token) => Ok(Answer::File(document, name.to_owned())),
        Some(_) => Err(Failure::bad_request("download must be a name of letters and digits, for a file")),
    }
}

/// How a document is written.
enum Notation {
    Json,
    Toml,
}

async fn post(mut request: Request) -> Result<Answer, Failure> {
    let (text, notation) = document(&mut request).await?;
    let vhost = request.names.find("vhost").map(str::to_owned);
    let is_dry = request.query.is_true("dry_run");
    let (broker, by) = (request.broker.clone(), request.by());
    // Passwords may have to be hashed, and it may be a lot: no work for a task.
    let imported = tokio::task::spawn_blocking(move || {
        let (path, hashing) = (Path::new(NAME), &broker.config.password_hashing);
        let target = vhost.as_deref().map_or(Target::Named, Target::Vhost);
        let text = String::from_utf8(text.into()).map_err(|_| Failure::bad_request("failed_to_parse_json"))?;
        let read = match notation {
            // Nothing defines nothing.
            Notation::Json if text.is_empty() => Ok((Document::default(), Vec::new())),
            Notation::Json => Document::from_json(&text, path, target, hashing),
            Notation::Toml => Document::from_toml(&text, path, target, hashing),
        };
        let (document, warnings) = read.map_err(|Remarks { mistakes, .. }| refused(&mistakes))?;
        // RabbitMQ, too, looks for it when it has read the document.
        if vhost.is_some_and(|vhost| broker.vhost(&vhost).is_none()) {
            return Err(Failure::not_found("vhost_not_found"));
        }
        if is_dry {
            let mut plan = json!(Plan::of(&broker, &document));
            plan["warnings"] = warnings.iter().map(|warning| Json::from(warning.to_string())).collect();
            return Ok((Some(plan), Vec::new()));
        }
        for warning in warnings.iter().take(TOLD_MAX) {
            tracing::warn!("{warning}");
        }
        let committed = import(&broker, &document, &by).map_err(|mistakes| refused(&mistakes))?;
        tracing::info!("user '{by}' has imported definitions: {}", document.summary());
        Ok((None, committed))
    });
    let imported = imported.await.map_err(|_| Failure::internal("importing definitions panicked"))?;
    let (plan, committed) = imported?;
    for committed in committed {
        safe(committed).await?;
    }
    Ok(plan.map_or(Answer::Done, Answer::Json))
}

/// Everything that is wrong, a line each.
fn refused<T: Display>(mistakes: &[T]) -> Failure {
    let mut lines: Vec<_> = mistakes.iter().take(TOLD_MAX).map(ToString::to_string).collect();
    if mistakes.len() > TOLD_MAX {
        lines.push(format!("and {} more", mistakes.len() - TOLD_MAX));
    }
    lines.iter().for_each(|line| tracing::warn!("definitions refused: {line}"));
    Failure::bad_request(lines.join("\n"))
}

/// The document that a request brings: its body, or the file in a form.
async fn document(request: &mut Request) -> Result<(Bytes, Notation), Failure> {
    let kind = match request.headers.get(CONTENT_TYPE) {
        None => "application/json".to_owned(),
        Some(kind) => kind.to_str().map_err(|_| Failure::unsupported_media_type())?.to_owned(),
    };
    let body = request.octets().await?;
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok((body, Notation::Json)),
        "application/toml" => Ok((body, Notation::Toml)),
        "multipart/form-data" => in_form(&kind, body).await,
        _ => Err(Failure::unsupported_media_type()),
    }
}

async fn in_form(kind: &str, body: Bytes) -> Result<(Bytes, Notation), Failure> {
    let wrong = |error: multer::Error| Failure::bad_request(format!("the form can't be read: {error}"));
    let boundary = multer::parse_boundary(kind).map_err(wrong)?;
    // What came in is within its limit already.
    let limits = Constraints::new().size_limit(SizeLimit::new().whole_stream(body.len() as u64));
    let mut form = Multipart::with_constraints(Body::from(body).into_data_stream(), boundary, limits);
    while let Some(part) = form.next_field().await.map_err(wrong)? {
        if part.name() == Some("file") {
            let extension = part.file_name().and_then(|name| Path::new(name).extension()?.to_str());
            let notation = if extension == Some("toml") { Notation::Toml } else { Notation::Json };
            return Ok((part.bytes().await.map_err(wrong)?, notation));
        }
    }
    Err(Failure::bad_request("the form has no field 'file'"))
}
