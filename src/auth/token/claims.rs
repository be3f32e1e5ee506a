//! What the payload of a token says (`rabbit_auth_backend_oauth2.erl`, `rabbit_oauth2_rar.erl`).

use super::scopes::wildcard;
use super::{Claims, Issuer, Refused, Scopes};
use serde_json::{Map, Value as Json};

/// Scopes of a token; RabbitMQ's limit.
const SCOPES_MAX: usize = 2048;
/// How far ahead the clock of whoever issued a token may be, seconds.
const CLOCKS_APART_S: u64 = 30;
/// Where a requesting party token has its scopes (Keycloak and others; User-Managed Access 2.0).
const REQUESTING_PARTY: &str = "authorization.permissions.scopes";
/// Claims that may hold the user's name if no other does.
const USERNAME_CLAIMS: [&str; 2] = ["sub", "client_id"];
/// The user of a token that names none.
const UNKNOWN_USER: &str = "unknown";

impl Issuer {
    pub(super) fn claims(&self, payload: Map<String, Json>, now_s: u64) -> Result<Claims, Refused> {
        self.check_audience(&payload)?;
        let expires_s = match payload.get("exp") {
            Some(expires) => Some(seconds(expires).ok_or(Refused("the token's exp claim is no number"))?),
            None if self.require_exp => return Err(Refused("the token has no exp claim")),
            None => None,
        };
        if expires_s.is_some_and(|expires_s| expires_s <= now_s) {
            return Err(Refused("the token has expired"));
        }
        if let Some(not_before) = payload.get("nbf") {
            let not_before_s = seconds(not_before).ok_or(Refused("the token's nbf claim is no number"))?;
            if not_before_s > now_s + CLOCKS_APART_S {
                return Err(Refused("the token does not count yet"));
            }
        }
        let text = |name: &str| payload.get(name).and_then(Json::as_str).filter(|text| !text.is_empty());
        let names = self.username_claims.iter().map(String::as_str).chain(USERNAME_CLAIMS);
        let user = names.filter_map(text).next().unwrap_or(UNKNOWN_USER).to_owned();
        let mut scopes = self.scopes(&payload);
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.len() > SCOPES_MAX {
            return Err(Refused("the token has too many scopes"));
        }
        Ok(Claims { user, scopes: Scopes::of(scopes.iter().map(String::as_str), text), expires_s })
    }

    fn check_audience(&self, payload: &Map<String, Json>) -> Result<(), Refused> {
        if !self.verify_aud {
            return Ok(());
        }
        let audiences = payload.get("aud").map(words).unwrap_or_default();
        if audiences.is_empty() {
            return Err(Refused("the token has no aud claim"));
        }
        match audiences.contains(&self.resource_server_id) {
            true => Ok(()),
            false => Err(Refused("the token is for another audience")),
        }
    }

    /// All scopes that are meant for this broker, without their prefix.
    fn scopes(&self, payload: &Map<String, Json>) -> Vec<String> {
        let mut scopes = payload.get("scope").map(words).unwrap_or_default();
        let paths = self.additional_scopes.iter().map(String::as_str);
        for path in std::iter::once(REQUESTING_PARTY).chain(paths) {
            let names: Vec<&str> = path.split('.').filter(|name| !name.is_empty()).collect();
            self.look_along(&names, payload, &mut scopes);
        }
        let aliases = scopes.iter().filter_map(|scope| self.scope_aliases.get(scope)).flatten().cloned();
        let aliases: Vec<String> = aliases.collect();
        scopes.extend(aliases);
        for details in payload.get("authorization_details").and_then(Json::as_array).into_iter().flatten() {
            scopes.extend(self.rich(details).unwrap_or_default());
        }
        scopes.iter().filter_map(|scope| scope.strip_prefix(&self.scope_prefix).map(str::to_owned)).collect()
    }

    /// Scopes at the end of a path, over all members of lists on the way.
    fn look_along(&self, names: &[&str], object: &Map<String, Json>, scopes: &mut Vec<String>) {
        let Some((name, rest)) = names.split_first() else { return };
        match object.get(*name) {
            Some(value) if rest.is_empty() => match value {
                Json::Object(of) => {
                    let own = of.get(&self.resource_server_id).map(words).unwrap_or_default();
                    scopes.extend(own.iter().map(|scope| format!("{}.{scope}", self.resource_server_id)));
                }
                value => scopes.extend(words(value)),
            },
            Some(Json::Object(inner)) => self.look_along(rest, inner, scopes),
            Some(Json::Array(members)) => {
                members.iter().filter_map(Json::as_object).for_each(|member| self.look_along(rest, member, scopes));
            }
            _ => {}
        }
    }

    /// The scopes that one of the `authorization_details` stands for. `None` if it is for somebody else.
    fn rich(&self, details: &Json) -> Option<Vec<String>> {
        const TAGS: [&str; 4] = ["monitoring", "administrator", "management", "policymaker"];
        const ACCESSES: [&str; 3] = ["read", "write", "configure"];
        let is_ours = details.get("type")?.as_str()? == self.resource_server_type;
        if !is_ours || self.resource_server_type.is_empty() {
            return None;
        }
        let one_or_more = |value: &Json| match value {
            Json::String(text) => vec![text.clone()],
            value => words(value),
        };
        let locations = one_or_more(details.get("locations")?);
        let locations: Vec<String> = locations.iter().filter_map(|location| self.location(location)).collect();
        if locations.is_empty() {
            return None;
        }
        let id = &self.resource_server_id;
        let scopes = one_or_more(details.get("actions")?).into_iter().flat_map(|action| {
            if TAGS.contains(&action.as_str()) {
                vec![format!("{id}.tag:{action}")]
            } else if ACCESSES.contains(&action.as_str()) {
                locations.iter().map(|location| format!("{id}.{action}:{location}")).collect()
            } else {
                Vec::new()
            }
        });
        Some(scopes.collect())
    }

    /// `cluster:C/vhost:V/queue:Q/routing-key:K` as `V/Q/K`, if the cluster is this one.
    fn location(&self, text: &str) -> Option<String> {
        let attributes = text.split('/').filter_map(|attribute| attribute.split_once(':'));
        let attribute = |name: &str| {
            let mut values = attributes.clone().filter(|(own, value)| *own == name && !value.is_empty());
            values.next_back().map(|(_, value)| value)
        };
        let (queue, exchange) = (attribute("queue"), attribute("exchange"));
        let is_here = wildcard(attribute("cluster")?, &self.resource_server_id);
        let is_one = queue.is_none() || exchange.is_none() || queue == exchange;
        let part = |value: Option<&str>| value.unwrap_or("*").to_owned();
        let path = [part(attribute("vhost")), part(queue.or(exchange)), part(attribute("routing-key"))].join("/");
        (is_here && is_one).then_some(path)
    }
}

/// The words of a text, or the texts of a list.
fn words(value: &Json) -> Vec<String> {
    match value {
        Json::String(text) => text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
        Json::Array(items) => items.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// A date as tokens have it: whole seconds of a number that may have a fraction.
fn seconds(value: &Json) -> Option<u64> {
    value.as_u64().or_else(|| {
        let whole = value.as_f64()?.trunc();
        // Before 1970 is as good as then; the end of time is beyond every clock.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Some(whole as u64)
    })
}
