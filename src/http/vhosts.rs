//! `/vhosts`, and their protection from deletion.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::describe::Kind::{Text, Truth, Words};
use super::describe::{Field, may};
use super::listing::{list, object};
use super::request::{Request, safe};
use super::route::Route;
use super::stats::{Grids, Group, Past, message_stats};
use super::values::{self, boolean};
use crate::broker::users::PermissionRow;
use crate::metrics::STATS;
use crate::queue::classic::NUMBERS;
use crate::queue::settings::QueueType;
use crate::vhost::{Metadata, Vhost};
use serde_json::{Map, Value as Json, json};

const VHOST: &[Field] = &[
    may("description", Text),
    may("tags", Words),
    may("default_queue_type", Text),
    may("protected_from_deletion", Truth),
    may("tracing", Truth),
];

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/vhosts", Role::Management).get(list_all).says("All virtual hosts").lists(),
        Route::new("/vhosts/{vhost}", Role::Administrator)
            .get(get)
            .says("A virtual host")
            .put(put)
            .says("Adds or changes a virtual host")
            .takes(VHOST)
            .delete(delete)
            .says("Deletes a virtual host with everything in it"),
        Route::new("/vhosts/{vhost}/deletion/protection", Role::Administrator)
            .post(|request| protect(request, true))
            .says("Protects a virtual host from deletion")
            .takes(&[])
            .delete(|request| protect(request, false))
            .says("Ends its protection"),
        Route::new("/vhosts/{vhost}/start/{node}", Role::Administrator)
            .post(start)
            .says("Nothing: a virtual host always runs")
            .takes(&[]),
    ]
}

/// Who monitors sees all, others those that they may enter.
async fn list_all(request: Request) -> Result<Answer, Failure> {
    let visitor = request.visitor();
    let mut vhosts = request.broker.list_vhosts();
    vhosts.retain(|vhost| visitor.is_monitor() || visitor.may_enter(&request.broker, &vhost.name));
    let grids = Grids::of(&request.query)?;
    list(&request.query, &["name"], vhosts.iter().map(|vhost| shown(vhost, &request, &grids)).collect())
}

async fn get(request: Request) -> Result<Answer, Failure> {
    Ok(object(&request.query, shown(&*request.vhost()?, &request, &Grids::of(&request.query)?)))
}

/// Adds a virtual host, or says all anew of one that is there but whether it is protected. Who adds one may do everything
/// in it (`rabbit_vhost:put_vhost`).
async fn put(mut request: Request) -> Result<Answer, Failure> {
    let fields = request.json().await?;
    let name = request.name("vhost").to_owned();
    let known = request.broker.vhost(&name);
    let protected = known.as_ref().is_some_and(|vhost| vhost.metadata().protected_from_deletion);
    let metadata = Metadata {
        protected_from_deletion: fields.get("protected_from_deletion").map_or(Ok(protected), boolean)?,
        ..metadata(&fields)?
    };
    let traced = fields.get("tracing").map(boolean).transpose()?;
    let by = request.by();
    let (is_new, committed) = request.broker.put_vhost(&name, metadata, &by)?;
    safe(committed).await?;
    if let (Some(traced), Some(vhost)) = (traced, request.broker.vhost(&name)) {
        vhost.trace(traced);
    }
    if is_new {
        let everything = || ".*".to_owned();
        let (user, configure, write, read) = (by.to_string(), everything(), everything(), everything());
        let row = PermissionRow { user, vhost: name, configure, write, read };
        // Who logs in with a token is no user here.
        if request.broker.users.get(&row.user).is_some() {
            safe(request.broker.set_permission(row, &by)?).await?;
        }
    }
    Ok(Answer::put(is_new))
}

fn metadata(fields: &Map<String, Json>) -> Result<Metadata, Failure> {
    let default_queue_type = match fields.get("default_queue_type").or(fields.get("defaultqueuetype")) {
        None | Some(Json::Null) => None,
        Some(Json::String(word)) if word == "undefined" => None,
        Some(Json::String(word)) => {
            let wrong = || Failure::bad_request(format!("{word} is not a valid queue type"));
            Some(QueueType::parse(word).ok_or_else(wrong)?)
        }
        Some(_) => return Err(Failure::bad_request("default_queue_type should be a string")),
    };
    let tags = fields.get("tags").map(|tags| values::words(tags).ok_or(()));
    let tags = tags.transpose().map_err(|()| Failure::bad_request("tags should be a string or a list of strings"))?;
    let description = match fields.get("description") {
        None | Some(Json::Null) => String::new(),
        Some(Json::String(text)) => text.clone(),
        Some(_) => return Err(Failure::bad_request("description should be a string")),
    };
    let tags = tags.unwrap_or_default();
    Ok(Metadata { description, tags, default_queue_type, protected_from_deletion: false })
}

async fn delete(request: Request) -> Result<Answer, Failure> {
    let vhost = request.vhost()?;
    if vhost.metadata().protected_from_deletion {
        return Err(Failure::precondition_failed(format!(
            "Refusing to delete virtual host '{}' because it is protected from deletion",
            vhost.name
        )));
    }
    safe(request.broker.delete_vhost(&vhost.name, &request.by())?).await?;
    Ok(Answer::Done)
}

async fn protect(request: Request, is_protected: bool) -> Result<Answer, Failure> {
    let name = request.name("vhost");
    let vhost = request.broker.vhost(name).ok_or_else(|| match is_protected {
        true => Failure::not_found(&format!(
            "Cannot enable deletion protection of virtual host '{name}' because it does not exist"
        )),
        false => Failure::no_object(),
    })?;
    let metadata = Metadata { protected_from_deletion: is_protected, ..vhost.metadata() };
    let (_, committed) = request.broker.put_vhost(name, metadata, &request.by())?;
    safe(committed).await?;
    Ok(Answer::Done)
}

/// A virtual host that is there has been started.
async fn start(request: Request) -> Result<Answer, Failure> {
    request.vhost_to_change()?;
    match request.name("node") {
        node if node == request.broker.events().node() => Ok(Answer::Done),
        node => Err(Failure::bad_request(format!("Unknown node: {node}"))),
    }
}

/// A virtual host as RabbitMQ lists it.
fn shown(vhost: &Vhost, request: &Request, grids: &Grids) -> Map<String, Json> {
    let metadata = vhost.metadata();
    let queue_type = vhost.default_queue_type().name();
    let mut of_metadata = Map::new();
    of_metadata.insert("description".to_owned(), metadata.description.as_str().into());
    of_metadata.insert("tags".to_owned(), metadata.tags.clone().into());
    of_metadata.insert("default_queue_type".to_owned(), queue_type.into());
    if metadata.protected_from_deletion {
        of_metadata.insert("protected_from_deletion".to_owned(), true.into());
    }
    let mut shown = Map::new();
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    set("name", (&*vhost.name).into());
    set("description", metadata.description.into());
    set("tags", metadata.tags.into());
    set("default_queue_type", queue_type.into());
    set("protected_from_deletion", metadata.protected_from_deletion.into());
    set("metadata", of_metadata.into());
    set("tracing", vhost.is_traced().into());
    set("cluster_state", json!({request.broker.events().node(): "running"}));
    if !request.without_stats() {
        put_stats(&mut shown, vhost, request, grids);
    }
    shown
}

/// What is counted in it. Octets are those of the connections that are open.
fn put_stats(shown: &mut Map<String, Json>, vhost: &Vhost, request: &Request, grids: &Grids) {
    let broker = &request.broker;
    let past = |grid| Past::<NUMBERS>::of(&vhost.watch, grid, broker.now_ms(), &broker.statistics.histories);
    let (mut ready, mut unacked) = (0, 0);
    for queue in vhost.queues() {
        let counts = queue.counts();
        ready += counts.ready;
        unacked += counts.unacked;
    }
    past(grids.lengths).put_lengths(shown, ready, unacked, STATS);
    let groups = [Group::Published, Group::Delivered];
    let stats = message_stats(&vhost.totals().snapshot().all(), &past(grids.msg_rates), &groups, false);
    if !stats.is_empty() {
        shown.insert("message_stats".to_owned(), stats.into());
    }
    let (mut octets, mut rates) = ([0, 0], [0.0, 0.0]);
    for connection in broker.connections.list() {
        if connection.opened().is_some_and(|opened| opened.vhost.name == vhost.name) {
            let [received, _, sent, _] = connection.traffic.snapshot();
            octets[0] += received;
            octets[1] += sent;
            let recent = connection.watch.recent();
            rates.iter_mut().enumerate().for_each(|(at, rate)| *rate += recent.rate(at));
        }
    }
    for ((name, octets), rate) in ["recv_oct", "send_oct"].into_iter().zip(octets).zip(rates) {
        shown.insert(name.to_owned(), octets.into());
        shown.insert(format!("{name}_details"), json!({"rate": rate}));
    }
}
