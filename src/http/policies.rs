//! `/policies` and `/operator-policies`.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::{Number, OneOf, Table, Text};
use super::describe::{Field, may, must};
use super::listing::{list, object};
use super::request::{Request, safe};
use super::route::Route;
use crate::policy::{Kind, Policy};
use serde_json::{Map, Value as Json};

const POLICY: &[Field] = &[
    must("pattern", Text),
    must("definition", Table),
    may("priority", Number),
    may("apply-to", OneOf(&["all", "exchanges", "queues", "classic_queues", "quorum_queues", "streams"])),
];

pub fn routes() -> Vec<Route> {
    [(Kind::User, Role::Policymaker), (Kind::Operator, Role::Administrator)]
        .into_iter()
        .flat_map(|(kind, role)| {
            let [all, of_vhost, one] = match kind {
                Kind::User => ["/policies", "/policies/{vhost}", "/policies/{vhost}/{name}"],
                Kind::Operator => {
                    ["/operator-policies", "/operator-policies/{vhost}", "/operator-policies/{vhost}/{name}"]
                }
            };
            [
                Route::new(all, Role::Vhost).get(move |request| list_all(kind, request)).says("All policies").lists(),
                Route::new(of_vhost, Role::Vhost)
                    .get(move |request| list_all(kind, request))
                    .says("The policies of a virtual host")
                    .lists(),
                Route::new(one, role)
                    .get(move |request| get(kind, request))
                    .says("A policy")
                    .put(move |request| put(kind, request))
                    .says("Sets a policy")
                    .takes(POLICY)
                    .delete(move |request| delete(kind, request))
                    .says("Clears a policy"),
            ]
        })
        .collect()
}

async fn list_all(kind: Kind, request: Request) -> Result<Answer, Failure> {
    let vhosts = request.vhosts()?;
    let policies = vhosts.iter().flat_map(|vhost| {
        let shown = |policy: &std::sync::Arc<Policy>| shown(&vhost.name, policy);
        vhost.policies(kind).iter().map(shown).collect::<Vec<_>>()
    });
    list(&request.query, &["priority"], policies.collect())
}

async fn get(kind: Kind, request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    let policy = vhost.policy(kind, request.name("name")).ok_or_else(Failure::no_object)?;
    Ok(object(&request.query, shown(&vhost.name, &policy)))
}

async fn put(kind: Kind, mut request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost_to_change()?;
    let ([pattern, definition], mut fields) = request.fields(["pattern", "definition"]).await?;
    fields.insert("pattern".to_owned(), pattern);
    fields.insert("definition".to_owned(), definition);
    let name = request.name("name");
    let policy = Policy::parse(kind, name, &fields)?;
    let is_new = vhost.policy(kind, name).is_none();
    safe(vhost.set_policy(policy, &request.by())?).await?;
    Ok(Answer::put(is_new))
}

async fn delete(kind: Kind, request: Request) -> Result<Answer, Failure> {
    let cleared = request.vhost()?.clear_policy(kind, request.name("name"), &request.by());
    safe(cleared.ok_or_else(Failure::no_object)?).await?;
    Ok(Answer::Done)
}

/// A policy as RabbitMQ lists it.
fn shown(vhost: &str, policy: &Policy) -> Map<String, Json> {
    let mut shown = Map::new();
    shown.insert("vhost".to_owned(), vhost.into());
    shown.insert("name".to_owned(), (&*policy.name).into());
    shown.extend(policy.fields());
    shown
}
