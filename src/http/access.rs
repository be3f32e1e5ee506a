//! Who asks, and what they may do: the roles of the route table.
//!
//! A user's tags say what of the API they may use (RabbitMQ: "Access and Permissions"), and their permissions which
//! virtual hosts. The checks and their texts are those of `rabbit_web_dispatch_access_control`.

use super::answer::Failure;
use super::request::Names;
use crate::auth::{Login, Secret};
use crate::broker::Broker;
use crate::broker::login::{Attempt, Door, Identity};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::net::IpAddr;
use std::sync::Arc;

/// Who may use a route. All but the first need one of the tags `management`, `policymaker`, `monitoring` or
/// `administrator`; an administrator may do everything.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    /// Anybody, without logging in.
    Public,
    /// Whoever may use the API at all. What they see is the resource's business.
    Management,
    /// The same to look, and administrators to change it.
    Readable,
    /// Who may enter the virtual host that the path names.
    Vhost,
    /// The same; who monitors may look at all of them.
    VhostVisible,
    /// Who makes policies, in the virtual host that the path names.
    Policymaker,
    /// Who makes policies, for what is no virtual host's own.
    GlobalPolicymaker,
    Monitoring,
    /// The same to look, and administrators to change it.
    Watchable,
    /// Whose it is: the user that is found so. To look, also who monitors. What is not there is nobody's secret.
    Owner(Owner),
    Administrator,
}

/// Finds who something belongs to; `None` if it is not there.
pub type Owner = fn(&Broker, &Names) -> Option<Arc<str>>;

/// Who asks.
#[derive(Debug)]
pub struct Visitor {
    pub name: Arc<str>,
    pub identity: Identity,
}

impl Visitor {
    fn has_any(&self, tags: &[&str]) -> bool {
        tags.iter().any(|tag| self.identity.has_tag(tag))
    }

    fn is_manager(&self) -> bool {
        self.has_any(&["administrator", "monitoring", "policymaker", "management"])
    }

    pub fn is_administrator(&self) -> bool {
        self.has_any(&["administrator"])
    }

    pub fn is_monitor(&self) -> bool {
        self.has_any(&["administrator", "monitoring"])
    }

    fn is_policymaker(&self) -> bool {
        self.has_any(&["administrator", "policymaker"])
    }

    /// Whether the user's own permissions let them in; being an administrator does not.
    pub fn may_enter(&self, broker: &Broker, vhost: &str) -> bool {
        broker.rights(&self.identity, vhost).is_some()
    }
}

/// Says who asks, by their credentials, if they may come from there.
pub async fn visitor(broker: &Broker, headers: &HeaderMap, peer: IpAddr) -> Result<Visitor, Failure> {
    let login = credentials(headers)?;
    match broker.log_in(Attempt { door: Door::Http, login: &login, peer, certificate: None }).await {
        Ok(identity) => Ok(Visitor { name: Arc::clone(&identity.user), identity }),
        // What is wrong is in the log already, and nobody else's business.
        Err(_) => Err(Failure::not_authenticated()),
    }
}

fn credentials(headers: &HeaderMap) -> Result<Login, Failure> {
    let Some(header) = headers.get(AUTHORIZATION) else { return Err(Failure::nobody()) };
    let header = header.to_str().map_err(|_| Failure::malformed())?;
    let (scheme, rest) = header.trim().split_once(' ').ok_or_else(Failure::malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        // RabbitMQ takes a token for a password, whoever the user.
        return Ok(Login::Password { user: String::new(), password: Secret::new(rest.trim()) });
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Failure::malformed());
    }
    let octets = BASE64.decode(rest.trim()).map_err(|_| Failure::malformed())?;
    let pair = String::from_utf8(octets).map_err(|_| Failure::not_authenticated())?;
    let (user, password) = pair.split_once(':').ok_or_else(Failure::malformed)?;
    Ok(Login::Password { user: user.to_owned(), password: Secret::new(password) })
}

impl Role {
    /// Lets a visitor through to what the path names, or not.
    pub fn check(self, visitor: &Visitor, broker: &Broker, names: &Names, method: &Method) -> Result<(), Failure> {
        if !visitor.is_manager() {
            return Err(Failure::not_allowed("Not management user"));
        }
        if visitor.is_administrator() {
            return Ok(());
        }
        // What is not there is the resource's to say.
        let vhost = names.find("vhost").filter(|vhost| broker.vhost(vhost).is_some());
        let may_enter = || vhost.is_none_or(|vhost| visitor.may_enter(broker, vhost));
        let looks = matches!(*method, Method::GET | Method::HEAD);
        let may = match self {
            Self::Public | Self::Management => true,
            Self::Readable => looks,
            Self::Vhost if may_enter() => true,
            Self::VhostVisible if visitor.is_monitor() || may_enter() => true,
            Self::Policymaker if visitor.is_policymaker() && may_enter() => true,
            // Nobody learns of a virtual host that they may not enter.
            Self::Vhost | Self::VhostVisible => return Err(Failure::not_found("Not Found")),
            Self::Policymaker if visitor.is_policymaker() => return Err(Failure::not_found("Not Found")),
            Self::GlobalPolicymaker => visitor.is_policymaker(),
            Self::Monitoring => visitor.is_monitor(),
            Self::Watchable => looks && visitor.is_monitor(),
            Self::Owner(owner) => {
                looks && visitor.is_monitor() || owner(broker, names).is_none_or(|owner| owner == visitor.name)
            }
            Self::Policymaker | Self::Administrator => false,
        };
        if may { Ok(()) } else { Err(Failure::not_allowed(self.missing(looks))) }
    }

    /// Who it is, for those who read about a route.
    pub fn described(self) -> &'static str {
        match self {
            Self::Public => "anybody",
            Self::Management => "users with a tag of the management API",
            Self::Readable => "administrators; others may look",
            Self::Vhost => "users who may enter the virtual host",
            Self::VhostVisible => "users who may enter the virtual host, and who monitors",
            Self::Policymaker => "who makes policies, in the virtual host",
            Self::GlobalPolicymaker => "who makes policies",
            Self::Monitoring => "who monitors",
            Self::Watchable => "administrators; who monitors may look",
            Self::Owner(_) => "its owner and administrators; who monitors may look",
            Self::Administrator => "administrators",
        }
    }

    /// What is said to who lacks it.
    fn missing(self, looks: bool) -> &'static str {
        match self {
            Self::Watchable if looks => "Not monitor user",
            Self::Watchable | Self::Readable | Self::Administrator => "Not administrator user",
            Self::Monitoring => "Not monitor user",
            Self::Policymaker | Self::GlobalPolicymaker | Self::Owner(_) => "User not authorised to access object",
            Self::Public | Self::Management | Self::Vhost | Self::VhostVisible => {
                "User not authorised to access virtual host"
            }
        }
    }
}
