//! `/parameters`, `/global-parameters` and `/cluster-name`, which is one of those.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::{Any, Text};
use super::describe::{Field, must};
use super::listing::{list, object};
use super::request::{Request, safe};
use super::route::Route;
use crate::broker::parameters::{CLUSTER_NAME, GlobalParameter};
use crate::vhost::records::ParameterRecord;
use serde_json::{Map, Value as Json, json};

const VALUE: &[Field] = &[must("value", Any)];

const NAME: &[Field] = &[must("name", Text)];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/parameters", Role::Policymaker).get(list_all).says("All parameters").lists(),
        Route::new("/parameters/{component}", Role::Policymaker)
            .get(list_all)
            .says("The parameters of a component")
            .lists(),
        Route::new("/parameters/{component}/{vhost}", Role::Policymaker)
            .get(list_all)
            .says("The same in a virtual host")
            .lists(),
        Route::new("/parameters/{component}/{vhost}/{name}", Role::Policymaker)
            .get(get)
            .says("A parameter")
            .put(put)
            .says("Sets a parameter")
            .takes(VALUE)
            .delete(delete)
            .says("Clears a parameter"),
        Route::new("/global-parameters", Role::GlobalPolicymaker)
            .get(list_global)
            .says("All global parameters")
            .lists(),
        Route::new("/global-parameters/{name}", Role::GlobalPolicymaker)
            .get(get_global)
            .says("A global parameter")
            .put(put_global)
            .says("Sets a global parameter")
            .takes(VALUE)
            .delete(delete_global)
            .says("Clears a global parameter"),
        Route::new("/cluster-name", Role::Readable)
            .get(cluster_name)
            .says("The name of the cluster")
            .put(put_cluster_name)
            .says("Names the cluster")
            .takes(NAME),
    ]
}

/// Policies have their own lists.
fn is_listed(row: &ParameterRecord) -> bool {
    row.component != "policy"
}

async fn list_all(request: Request) -> Result<Answer, Failure> {
    let component = request.names.find("component");
    let is_meant = |row: &ParameterRecord| match component {
        Some(component) => row.component == component,
        None => is_listed(row),
    };
    let mut items = Vec::new();
    for vhost in request.vhosts()? {
        items.extend(request.broker.parameters(&vhost).iter().filter(|row| is_meant(row)).map(shown));
    }
    list(&request.query, &["vhost", "name"], items)
}

async fn get(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    let rows = request.broker.parameters(&vhost);
    let (component, name) = (request.name("component"), request.name("name"));
    let row = rows.iter().find(|row| row.component == component && row.name == name);
    Ok(object(&request.query, shown(row.ok_or_else(Failure::no_object)?)))
}

/// RabbitMQ does not say here whether it was there.
async fn put(mut request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost_to_change()?;
    let ([value], _) = request.fields(["value"]).await?;
    let (component, name) = (request.name("component"), request.name("name"));
    let is_new = !request.broker.parameters(&vhost).iter().any(|row| row.component == component && row.name == name);
    safe(request.broker.set_parameter(&vhost, component, name, value, &request.by())?).await?;
    Ok(Answer::put(is_new))
}

async fn delete(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    let (component, name) = (request.name("component"), request.name("name"));
    let cleared = request.broker.clear_parameter(&vhost, component, name, &request.by());
    safe(cleared.ok_or_else(Failure::no_object)??).await?;
    Ok(Answer::Done)
}

async fn list_global(request: Request) -> Result<Answer, Failure> {
    let items = request.broker.global_parameters().into_iter().map(shown_global);
    list(&request.query, &["name"], items.collect())
}

async fn get_global(request: Request) -> Result<Answer, Failure> {
    let name = request.name("name");
    let found = request.broker.global_parameters().into_iter().find(|one| one.name == name);
    let GlobalParameter { name, value } = found.ok_or_else(Failure::no_object)?;
    let fields = [("value", value), ("name", name.into())];
    Ok(object(&request.query, fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}

async fn put_global(mut request: Request) -> Result<Answer, Failure> {
    let ([value], _) = request.fields(["value"]).await?;
    let (is_new, committed) = request.broker.set_global_parameter(request.name("name"), value, &request.by());
    safe(committed).await?;
    Ok(Answer::put(is_new))
}

async fn delete_global(request: Request) -> Result<Answer, Failure> {
    let cleared = request.broker.clear_global_parameter(request.name("name"), &request.by());
    safe(cleared.ok_or_else(Failure::no_object)?).await?;
    Ok(Answer::Done)
}

async fn cluster_name(request: Request) -> Result<Answer, Failure> {
    Ok(Answer::Json(json!({"name": request.broker.cluster_name()})))
}

async fn put_cluster_name(mut request: Request) -> Result<Answer, Failure> {
    let ([name], _) = request.fields(["name"]).await?;
    if !name.is_string() {
        return Err(Failure::bad_request("name should be a string"));
    }
    let (_, committed) = request.broker.set_global_parameter(CLUSTER_NAME, name, &request.by());
    safe(committed).await?;
    Ok(Answer::Done)
}

fn shown(row: &ParameterRecord) -> Map<String, Json> {
    let ParameterRecord { vhost, component, name, value } = row;
    let fields = [
        ("value", value.clone()),
        ("vhost", vhost.as_str().into()),
        ("component", component.as_str().into()),
        ("name", name.as_str().into()),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn shown_global(parameter: GlobalParameter) -> Map<String, Json> {
    let fields = [("name", parameter.name.into()), ("value", parameter.value)];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
