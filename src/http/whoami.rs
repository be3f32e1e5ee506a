//! `/whoami`: the user who asks. `/auth`: how else one could log in; `/version`.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::listing::object;
use super::request::Request;
use super::route::Route;
use serde_json::{Map, Value as Json, json};

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/whoami", Role::Management).get(whoami),
        // RabbitMQ's pages asked here, until 4.2, whether to send people to an OAuth 2 provider: this has none.
        Route::new("/auth", Role::Public).get(auth),
        Route::new("/version", Role::Management).get(version).says("RabbitMQ's version that this stands for").tells(),
    ]
}

async fn whoami(request: Request) -> Result<Answer, Failure> {
    let visitor = request.visitor();
    let mut fields = Map::new();
    fields.insert("name".to_owned(), (&*visitor.name).into());
    fields.insert("tags".to_owned(), visitor.identity.tags.iter().map(|tag| Json::from(tag.as_str())).collect());
    fields.insert("is_internal_user".to_owned(), true.into());
    Ok(object(&request.query, fields))
}

async fn auth(_: Request) -> Result<Answer, Failure> {
    Ok(Answer::Json(json!({"oauth_enabled": false})))
}

async fn version(request: Request) -> Result<Answer, Failure> {
    Ok(Answer::Json(request.broker.config.product_version.as_str().into()))
}
