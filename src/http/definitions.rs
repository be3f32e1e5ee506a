//! `/definitions`: all that is defined, as one document. Nothing is imported here yet.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::request::Request;
use super::route::Route;
use crate::definitions::{export, export_vhost};
use serde_json::Value as Json;

/// What no virtual host has of its own.
const OF_THE_BROKER: [&str; 5] = ["users", "vhosts", "permissions", "topic_permissions", "global_parameters"];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/definitions", Role::Administrator).get(get),
        Route::new("/all-configuration", Role::Administrator).get(get),
        Route::new("/definitions/{vhost}", Role::Administrator).get(get_of_vhost),
    ]
}

async fn get(request: Request) -> Result<Answer, Failure> {
    Ok(Answer::Json(export(&request.broker).to_json()))
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
    Ok(Answer::Json(json))
}
