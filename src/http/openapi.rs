//! `/openapi.json`: the API as a document that tools read (OpenAPI 3.1). It is made of the table of routes, so that it has
//! each of them; what a route doesn't say of itself follows from its path, its role and its methods.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::{Field, Kind, Shape, Words};
use super::request::Request;
use super::route::Route;
use axum::http::Method;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

const PATH: &str = "/openapi.json";
const SUMMARY: &str = "This document";

/// The route, for these and itself. Nobody needs to log in: it says nothing of this broker.
pub fn route(routes: &[Route]) -> Route {
    let own = Route::new(PATH, Role::Public).get(|_| async { Ok(Answer::Done) }).says(SUMMARY);
    let paths: Map<String, Json> = routes.iter().chain([&own]).map(described).collect();
    let paths = Arc::new(Json::Object(paths));
    let get = move |request: Request| {
        let paths = Arc::clone(&paths);
        async move { Ok::<_, Failure>(Answer::Json(document(&paths, &request.broker.config.http.path_prefix))) }
    };
    Route::new(PATH, Role::Public).get(get).says(SUMMARY)
}

fn document(paths: &Json, prefix: &str) -> Json {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Leveret",
            "description": "The management API, as RabbitMQ 4.3 has it",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "servers": [{"url": format!("{prefix}/api")}],
        "security": [{"basic": []}, {"bearer": []}],
        "components": {
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": {
                "Refusal": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}, "reason": {}},
                    "required": ["error", "reason"],
                },
                "Items": {"type": "array", "items": {"type": "object"}},
                "Page": {
                    "type": "object",
                    "properties": {
                        "filtered_count": {"type": "integer"},
                        "item_count": {"type": "integer"},
                        "items": {"$ref": "#/components/schemas/Items"},
                        "page": {"type": "integer"},
                        "page_count": {"type": "integer"},
                        "page_size": {"type": "integer"},
                        "total_count": {"type": "integer"},
                    },
                    "required": ["items", "page", "page_count", "page_size", "total_count", "filtered_count", "item_count"],
                },
            },
        },
        "paths": paths,
    })
}

fn described(route: &Route) -> (String, Json) {
    let mut item: Map<String, Json> = Map::new();
    let names: Vec<_> = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
    if !names.is_empty() {
        item.insert("parameters".to_owned(), names.into_iter().map(in_path).collect());
    }
    for (method, words) in route.operations() {
        item.insert(method.as_str().to_lowercase(), operation(route, method, words));
    }
    (route.path.to_owned(), item.into())
}

/// A name in a path. An example that a fresh broker has, where there is one.
fn in_path(name: &str) -> Json {
    let example = match name {
        "vhost" => "/",
        "exchange" | "source" => "amq.topic",
        "queue" | "destination" => "q",
        "properties" => "~",
        "port" => "5672",
        "within" => "1",
        "unit" => "days",
        "protocols" => "amqp",
        _ => "x",
    };
    let mut schema = json!({"type": "string", "minLength": 1});
    if name == "kind" {
        schema = json!({"type": "string", "enum": ["q", "e"]});
    }
    let example = if name == "kind" { "q" } else { example };
    json!({"name": name, "in": "path", "required": true, "schema": schema, "example": example})
}

fn operation(route: &Route, method: &Method, words: &Words) -> Json {
    let first = route.path.split('/').nth(1).unwrap_or_default();
    let id: Vec<_> = route.path.split(['/', '-', '.']).map(|part| part.trim_matches(['{', '}'])).collect();
    let mut operation = json!({
        "tags": [first],
        "operationId": format!("{}{}", method.as_str().to_lowercase(), id.join("_")),
        "responses": responses(route, method, words),
    });
    let mut set = |key: &str, value: Json| operation[key] = value;
    if !words.summary.is_empty() {
        set("summary", words.summary.into());
    }
    if let Role::Public = route.role {
        set("security", json!([]));
    } else {
        set("description", format!("For: {}.", route.role.described()).into());
    }
    let query = query(method, words);
    if !query.is_empty() {
        set("parameters", query.into());
    }
    if let Some(fields) = words.body.filter(|fields| !fields.is_empty()) {
        let is_needed = fields.iter().any(|field| field.is_needed);
        set("requestBody", json!({"required": is_needed, "content": {"application/json": {"schema": body(fields)}}}));
    }
    operation
}

fn query(method: &Method, words: &Words) -> Vec<Json> {
    const LISTS: [Field; 7] = [
        Field { name: "sort", kind: Kind::Text, is_needed: false },
        Field { name: "sort_reverse", kind: Kind::Truth, is_needed: false },
        Field { name: "columns", kind: Kind::Text, is_needed: false },
        Field { name: "page", kind: Kind::Number, is_needed: false },
        Field { name: "page_size", kind: Kind::Number, is_needed: false },
        Field { name: "name", kind: Kind::Text, is_needed: false },
        Field { name: "use_regex", kind: Kind::Truth, is_needed: false },
    ];
    let of_shape: &[Field] = match (method, words.shape) {
        (&Method::GET, Shape::List) => &LISTS,
        _ => &[],
    };
    let parameter = |field: &Field| {
        let mut schema = schema(field.kind);
        match field.name {
            "page" => schema["minimum"] = 1.into(),
            "page_size" => {
                schema["minimum"] = 1.into();
                schema["maximum"] = super::listing::PAGE_SIZE_MAX.into();
            }
            _ => {}
        }
        json!({"name": field.name, "in": "query", "required": field.is_needed, "schema": schema})
    };
    of_shape.iter().chain(words.query).map(parameter).collect()
}

fn body(fields: &[Field]) -> Json {
    let properties: Map<String, Json> =
        fields.iter().map(|field| (field.name.to_owned(), schema(field.kind))).collect();
    let needed: Vec<_> = fields.iter().filter(|field| field.is_needed).map(|field| field.name).collect();
    json!({"type": "object", "properties": properties, "required": needed})
}

fn schema(kind: Kind) -> Json {
    match kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Truth => json!({"type": "boolean"}),
        Kind::Number => json!({"type": "integer"}),
        Kind::Table => json!({"type": "object"}),
        Kind::List => json!({"type": "array"}),
        Kind::Words => json!({"type": ["string", "array"], "items": {"type": "string"}}),
        Kind::OneOf(words) => json!({"type": "string", "enum": words}),
        Kind::Any => json!({}),
    }
}

fn responses(route: &Route, method: &Method, words: &Words) -> Json {
    let content = |schema: Json| json!({"application/json": {"schema": schema}});
    let json = |what: &str, schema: Json| json!({"description": what, "content": content(schema)});
    let nothing = |what: &str| json!({"description": what});
    let items = json!({"$ref": "#/components/schemas/Items"});
    let shown = match words.shape {
        Shape::Object => json!({"type": "object"}),
        Shape::Text => json!({"type": "string"}),
        Shape::Plain => items,
        Shape::List => json!({"oneOf": [items, {"$ref": "#/components/schemas/Page"}]}),
    };
    let mut responses = match *method {
        Method::GET => json!({"200": json("What is there", shown)}),
        Method::PUT => json!({"201": nothing("It is new"), "204": nothing("It was there before")}),
        Method::DELETE => json!({"204": nothing("It is gone")}),
        _ if words.shape == Shape::Object => {
            json!({"200": json("What came of it", shown), "201": nothing("It is new"), "204": nothing("It is done")})
        }
        _ => json!({"200": json("What came of it", shown)}),
    };
    let refusal = || content(json!({"$ref": "#/components/schemas/Refusal"}));
    let refused = |what: &str| json!({"description": what, "content": refusal()});
    responses["400"] = refused("It can't be done so");
    if !matches!(route.role, Role::Public) {
        responses["401"] = refused("Who asks is nobody, or may not");
    }
    responses["404"] = refused("What it is about is not there");
    responses["4XX"] = refused("The request is none that this takes");
    if route.path.starts_with("/health") {
        responses["503"] = json!({"description": "The check failed", "content": content(json!({"type": "object"}))});
    }
    responses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_and_method_is_in_the_document() {
        let all = super::super::table();
        let routes = super::super::routes(&super::super::no_control());
        let described: Map<String, Json> = routes.iter().map(super::described).collect();
        let mut ids: Vec<&str> = Vec::new();
        for (path, methods) in &all {
            let methods = methods.iter().filter(|method| !["HEAD", "OPTIONS"].contains(&method.as_str()));
            for method in methods {
                let operation = &described[*path][method.to_lowercase()];
                ids.push(operation["operationId"].as_str().unwrap());
            }
        }
        assert!(ids.len() > 80);
        ids.sort_unstable();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "an operation's name is there twice");
    }

    #[test]
    fn whatever_takes_a_body_says_which() {
        let silent: Vec<_> = super::super::routes(&super::super::no_control())
            .iter()
            .flat_map(|route| {
                let without = route.operations().filter(|(method, words)| {
                    matches!(**method, Method::PUT | Method::POST) && (words.body.is_none() || words.summary.is_empty())
                });
                without.map(|(method, _)| format!("{method} {}", route.path)).collect::<Vec<_>>()
            })
            .collect();
        assert!(silent.is_empty(), "{silent:?}");
    }

    #[test]
    fn names_in_a_path_are_parameters() {
        let route = Route::new("/a/{vhost}/b-c/{queue}", Role::Vhost).get(|_| async { Ok(Answer::Done) });
        let (path, item) = described(&route);
        assert_eq!(path, "/a/{vhost}/b-c/{queue}");
        assert_eq!(
            (&item["parameters"][0]["name"], &item["parameters"][1]["name"]),
            (&json!("vhost"), &json!("queue"))
        );
        assert_eq!(item["get"]["operationId"], "get_a_vhost_b_c_queue");
        assert!(item["get"]["requestBody"].is_null());
    }
}
