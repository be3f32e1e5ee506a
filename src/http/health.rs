//! `/health/checks`, and the older `/healthchecks/node` and `/aliveness-test`: 200 with `{"status":"ok"}`, or 503 with what
//! is wrong (`rabbit_mgmt_wm_health_check_*`). Load balancers ask here often; four checks need no user, as in RabbitMQ.

use super::access::Role;
use super::answer::{Answer, Failure};
use super::request::Request;
use super::route::Route;
use crate::auth::certificate::Certificate;
use crate::broker::Broker;
use crate::broker::listeners::{Certificates, Listener, Protocol};
use crate::clock;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;
use std::path::Path;

const DAY_S: i128 = 86_400;
/// The last second of the year 9999: certificates without an end have this one (RFC 5280, 4.1.2.5).
const LAST_S: u64 = 253_402_300_799;

pub fn routes() -> Vec<Route> {
    vec![
        Route::new("/health/checks/alarms", Role::Management).get(alarms),
        Route::new("/health/checks/local-alarms", Role::Management).get(local_alarms),
        Route::new("/health/checks/virtual-hosts", Role::Management).get(well),
        Route::new("/health/checks/metadata-store/initialized", Role::Management).get(well),
        Route::new("/health/checks/metadata-store/initialized/with-data", Role::Management).get(well),
        Route::new("/health/checks/port-listener/{port}", Role::Management).get(port_listener),
        Route::new("/health/checks/protocol-listener/{protocols}", Role::Management).get(protocol_listener),
        Route::new("/health/checks/certificate-expiration/{within}/{unit}", Role::Management).get(certificates),
        Route::new("/health/checks/node-is-quorum-critical", Role::Management).get(quorum_critical),
        // A queue here always has its leader.
        Route::new("/health/checks/quorum-queues-without-elected-leaders/all-vhosts", Role::Management).get(well),
        Route::new(
            "/health/checks/quorum-queues-without-elected-leaders/all-vhosts/pattern/{pattern}",
            Role::Management,
        )
        .get(well),
        Route::new("/health/checks/quorum-queues-without-elected-leaders/vhost/{name}", Role::Management).get(well),
        Route::new(
            "/health/checks/quorum-queues-without-elected-leaders/vhost/{name}/pattern/{pattern}",
            Role::Management,
        )
        .get(well),
        Route::new("/health/checks/is-in-service", Role::Public).get(well),
        Route::new("/health/checks/reached-target-cluster-size", Role::Public).get(well),
        Route::new("/health/checks/below-node-connection-limit", Role::Public).get(connection_limit),
        Route::new("/health/checks/ready-to-serve-clients", Role::Public).get(ready),
        Route::new("/healthchecks/node", Role::Management).get(node),
        Route::new("/healthchecks/node/{node}", Role::Management).get(node),
        Route::new("/aliveness-test/{vhost}", Role::Vhost).get(alive),
    ]
}

fn ok() -> Answer {
    Answer::Json(json!({"status": "ok"}))
}

/// The reason, and whatever else is known.
fn failed<const N: usize>(reason: &str, more: [(&str, Json); N]) -> Answer {
    let fields = [("status", "failed".into()), ("reason", reason.into())].into_iter().chain(more);
    let fields: Map<String, Json> = fields.map(|(key, value)| (key.to_owned(), value)).collect();
    Answer::Unhealthy(fields.into())
}

/// What is as it should be whenever an answer comes.
async fn well(_: Request) -> Result<Answer, Failure> {
    Ok(ok())
}

async fn alarms(request: Request) -> Result<Answer, Failure> {
    Ok(of_alarms(&request, "There are alarms in effect in the cluster"))
}

async fn local_alarms(request: Request) -> Result<Answer, Failure> {
    Ok(of_alarms(&request, "There are alarms in effect on the node"))
}

fn of_alarms(request: &Request, reason: &str) -> Answer {
    let node = request.broker.events().node();
    let alarms: Vec<_> =
        request.broker.alarms.active().each().map(|alarm| json!({"node": node, "resource": alarm.source()})).collect();
    if alarms.is_empty() { ok() } else { failed(reason, [("alarms", alarms.into())]) }
}

async fn port_listener(request: Request) -> Result<Answer, Failure> {
    let port: i64 = request.name("port").parse().map_err(|_| Failure::bad_request("Invalid port"))?;
    let ports: Vec<i64> =
        request.broker.listeners.list().iter().map(|listener| listener.address.port().into()).collect();
    Ok(match ports.contains(&port) {
        true => Answer::Json(json!({"status": "ok", "port": port})),
        false => failed("No active listener", [("missing", port.into()), ("ports", ports.into())]),
    })
}

async fn protocol_listener(request: Request) -> Result<Answer, Failure> {
    let asked: BTreeSet<String> = request.name("protocols").split(',').map(protocol).collect();
    let listeners = request.broker.listeners.list();
    let active: BTreeSet<String> = listeners.iter().map(|listener| listener.protocol_name().to_owned()).collect();
    let missing: Vec<_> = asked.difference(&active).cloned().collect();
    let active: Vec<_> = active.into_iter().collect();
    Ok(match missing.is_empty() {
        true => Answer::Json(json!({"status": "ok", "protocols": active})),
        false => failed("No active listener", [("missing", missing.into()), ("protocols", active.into())]),
    })
}

/// A protocol by one of the names that RabbitMQ knows it by; those of others stay as they are.
fn protocol(name: &str) -> String {
    let name = name.to_lowercase();
    match name.as_str() {
        "amqp091" | "amqp0.9.1" | "amqp0-9-1" | "amqp0_9_1" | "amqp10" | "amqp1.0" | "amqp1-0" | "amqp1_0" => "amqp",
        "amqps" => "amqp/ssl",
        "http1" | "http1.1" | "http_api" | "management" | "management_ui" | "ui" => "http",
        "cli" | "distribution" => "clustering",
        _ => return name,
    }
    .to_owned()
}

async fn certificates(request: Request) -> Result<Answer, Failure> {
    let within = request.name("within").parse::<i64>();
    let within = within.map_err(|_| Failure::bad_request("Invalid expiration value."))?;
    let unit_s: i128 = match request.name("unit").to_lowercase().as_str() {
        "days" => DAY_S,
        "weeks" => 7 * DAY_S,
        "months" => 365 * DAY_S / 12,
        "years" => 365 * DAY_S,
        _ => {
            let reason = "Time unit not recognised. Supported units: days, weeks, months, years.";
            return Err(Failure::bad_request(reason));
        }
    };
    let now_s = request.broker.now_ms() / 1000;
    let at_s = (i128::from(now_s) + i128::from(within) * unit_s).clamp(0, LAST_S.into());
    let at = moment(u64::try_from(at_s).unwrap_or(LAST_S));
    let (now, listeners) = (moment(now_s), request.broker.listeners.list());
    let node = request.broker.events().node().to_owned();
    // Files are read: no work for a task.
    let expired = tokio::task::spawn_blocking(move || {
        let expiring = |listener: &Listener| expiring(listener, listener.certificates.as_ref()?, &now, &at, &node);
        listeners.iter().filter_map(|listener| expiring(listener)).collect::<Vec<_>>()
    });
    let expired = expired.await.map_err(|_| Failure::internal("reading certificates panicked"))?;
    Ok(if expired.is_empty() { ok() } else { failed("Certificates expiring", [("expired", expired.into())]) })
}

/// A moment as certificates say it, in seconds since 1970.
fn moment(at_s: u64) -> String {
    let text = clock::iso(at_s * 1000);
    format!("{}Z", text.get(..19).unwrap_or_default())
}

/// A listener with a certificate that ends before `at`, does not yet count, or can't be read.
fn expiring(listener: &Listener, certificates: &Certificates, now: &str, at: &str, node: &str) -> Option<Json> {
    let own: Vec<String> = certificates.own.iter().flat_map(|path| ends(path, now, at)).collect();
    let authorities: Vec<String> = certificates.authorities.iter().flat_map(|path| ends(path, now, at)).collect();
    if own.is_empty() && authorities.is_empty() {
        return None;
    }
    let path = |path: Option<&std::path::PathBuf>| path.map_or(Json::Null, |path| path.display().to_string().into());
    Some(json!({
        "node": node,
        "protocol": listener.protocol_name(),
        "interface": listener.address.ip().to_string(),
        "port": listener.address.port(),
        "certfile": path(certificates.own.first()),
        "cacertfile": path(certificates.authorities.as_ref()),
        "certfile_expires_on": own,
        "cacertfile_expires_on": authorities,
    }))
}

/// When those certificates of a file end that end before `at`; a text that says what is wrong for one that is no good.
fn ends(path: &Path, now: &str, at: &str) -> Vec<String> {
    let octets = match std::fs::read(path) {
        Ok(octets) => octets,
        Err(error) => return vec![format!("{} can't be read: {error}", path.display())],
    };
    let mut ends = Vec::new();
    for found in CertificateDer::pem_slice_iter(&octets) {
        let validity =
            found.ok().and_then(|found| Certificate::read(&found).and_then(|certificate| certificate.validity()));
        match validity {
            None => ends.push(format!("{} holds something that is no certificate", path.display())),
            Some((begin, _)) if *begin > *now => ends.push("Certificate is not yet valid".to_owned()),
            Some((_, end)) if *end < *at => ends.push(shown(&end)),
            Some(_) => {}
        }
    }
    ends
}

/// `2027-11-25T05:31:44Z` as RabbitMQ writes it: `2027-11-25 5:31:44`.
fn shown(moment: &str) -> String {
    let (date, time) = moment.trim_end_matches('Z').split_once('T').unwrap_or((moment, ""));
    format!("{date} {}", time.strip_prefix('0').unwrap_or(time))
}

async fn quorum_critical(_: Request) -> Result<Answer, Failure> {
    Ok(Answer::Json(json!({"status": "ok", "reason": "single node cluster"})))
}

/// How many connections there are, if that is as many as there may be.
fn full(broker: &Broker) -> Option<usize> {
    let count = broker.connections.count();
    broker.config.max_connections.filter(|limit| count >= *limit as usize).map(|_| count)
}

const FULL: &str = "node connection limit is reached";

async fn connection_limit(request: Request) -> Result<Answer, Failure> {
    Ok(full(&request.broker).map_or_else(ok, |_| failed(FULL, [])))
}

async fn ready(request: Request) -> Result<Answer, Failure> {
    let speaks_amqp = |listener: &std::sync::Arc<Listener>| listener.protocol == Protocol::Amqp;
    Ok(match full(&request.broker) {
        _ if !request.broker.listeners.list().iter().any(speaks_amqp) => {
            failed("no active listeners for AMQP/AMQPS", [])
        }
        Some(count) => failed(FULL, [("connections", count.into())]),
        None => ok(),
    })
}

async fn node(request: Request) -> Result<Answer, Failure> {
    if request.names.find("node").is_some() {
        request.check_node()?;
    }
    let node = request.broker.events().node();
    let alarms = request.broker.alarms.active().each();
    let alarms: Vec<_> = alarms.map(|alarm| format!("{{resource_limit,{},{node}}}", alarm.source())).collect();
    Ok(match alarms.is_empty() {
        true => ok(),
        false => failed(&format!("resource alarm(s) in effect:[{}]", alarms.join(",")), []),
    })
}

async fn alive(request: Request) -> Result<Answer, Failure> {
    request.vhost()?;
    Ok(ok())
}
