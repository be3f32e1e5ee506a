//! The tools' way to a running broker: its management API.
//!
//! Where it is and who asks is said by flags, then by variables, then by a file as `rabbitmqadmin` has it
//! (`~/.rabbitmqadmin.conf`). Where nobody says, it is the broker whose data folder the settings of this machine name, if
//! that can be read: there it has left where it is, and a secret that needs no user. Where it can't, it is the usual port, and
//! the default user.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use serde_json::Value as Json;
use ureq::http::{Method, Request};
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::config::Config;
use crate::server::TOOLS_PASS;

/// How long the whole of a call may take, if nobody says.
const PATIENCE: Duration = Duration::from_secs(60);
/// Octets of an answer; definitions may be large.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
/// Where distributions keep the authorities that a machine trusts.
const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Where the API is if nobody says.
const URL: &str = "http://localhost:15672";
/// Who asks if nobody says.
const GUEST: &str = "guest";
/// The file of `rabbitmqadmin`, in the home folder.
const FILE: &str = ".rabbitmqadmin.conf";

/// Where the API is, and who asks, as far as it is said.
#[derive(Debug, Clone, Default, Args)]
pub struct Target {
    /// The management API [default: http://localhost:15672]
    #[arg(long, env = "LEVERET_URL", value_name = "URL")]
    pub url: Option<String>,
    /// Who asks [default: RABBITMQ_DEFAULT_USER, or guest]
    #[arg(long, env = "LEVERET_USER", value_name = "NAME")]
    pub user: Option<String>,
    /// The user's password; other users of this machine see flags, but not variables
    #[arg(long, env = "LEVERET_PASSWORD", value_name = "TEXT", hide_env_values = true)]
    pub password: Option<String>,
    /// The authorities to trust for https, PEM; without it those that this machine trusts
    #[arg(long, env = "LEVERET_CACERT", value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// A file that says all this, as rabbitmqadmin's [default: ~/.rabbitmqadmin.conf]
    #[arg(long, env = "RABBITMQADMIN_CONFIG", value_name = "FILE")]
    pub api_config: Option<PathBuf>,
    /// The section of that file
    #[arg(long, value_name = "SECTION", default_value = "default")]
    pub api_section: String,
    /// The data folder of a broker on this machine: who may read it needs no password [default: as the settings have it]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
}

/// Where the API is, and who asks.
#[derive(Debug, Clone)]
pub struct Api {
    place: Place,
    /// What a broker on this machine may have left, of which nobody has said where it is or who asks. Looked for at each
    /// call: it may be starting.
    pass: Option<PathBuf>,
    cacert: Option<PathBuf>,
    patience: Duration,
}

#[derive(Debug, Clone)]
struct Place {
    url: String,
    user: String,
    password: String,
}

/// A body to send, and what it is.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    None,
    Json(&'a Json),
    /// With its content type.
    Text(&'a str, &'static str),
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// Nobody is there, or nobody to talk to.
    Unreachable(String),
    /// There was no answer in time.
    Late(String),
    /// The broker says no.
    Refused { status: u16, reason: String, body: Json },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Late(why) => out.write_str(why),
            Self::Refused { status, reason, .. } if reason.is_empty() => write!(out, "the broker answers {status}"),
            Self::Refused { reason, .. } => out.write_str(reason),
        }
    }
}

impl Failure {
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl Target {
    /// What is said by all that may say something. The error says what is wrong with the file.
    pub fn resolve(&self) -> Result<Api, String> {
        let file = self.section()?;
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // As the broker takes it at its first start (RabbitMQ's image has no other way to say it).
        let secret = |name: &str| {
            let path = variable(&format!("{name}_FILE"));
            variable(name).or_else(|| Some(std::fs::read_to_string(path?).ok()?.trim_end().to_owned()))
        };
        let said_url = self.url.clone().or(file.url);
        let (user, password) = (self.user.clone().or(file.user), self.password.clone().or(file.password));
        let is_said = said_url.is_some() || user.is_some() || password.is_some();
        let pass = if is_said { None } else { self.data_dir.clone().or_else(data_dir) };
        let user = user.or_else(|| secret("RABBITMQ_DEFAULT_USER"));
        let password = password.or_else(|| secret("RABBITMQ_DEFAULT_PASS"));
        Ok(Api {
            place: Place {
                url: said_url.unwrap_or_else(|| URL.to_owned()),
                user: user.unwrap_or_else(|| GUEST.to_owned()),
                password: password.unwrap_or_else(|| GUEST.to_owned()),
            },
            pass: pass.map(|folder| folder.join(TOOLS_PASS)),
            cacert: self.cacert.clone().or(file.cacert),
            patience: PATIENCE,
        })
    }

    fn section(&self) -> Result<Section, String> {
        let home = || Some(Path::new(&std::env::var_os("HOME")?).join(FILE));
        let (path, must_exist) = match &self.api_config {
            Some(path) => (path.clone(), true),
            None => match home() {
                Some(path) => (path, self.api_section != "default"),
                None => return Ok(Section::default()),
            },
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => match Section::find(&text, &self.api_section) {
                None if must_exist && self.api_section != "default" => {
                    Err(format!("{} has no section [{}]", path.display(), self.api_section))
                }
                found => Ok(found.unwrap_or_default()),
            },
            Err(_) if !must_exist => Ok(Section::default()),
            Err(error) => Err(format!("{} can't be read: {error}", path.display())),
        }
    }
}

/// Where the broker of this machine would have its data.
fn data_dir() -> Option<PathBuf> {
    let (config, _) = Config::load(&super::serve::Arguments::default().sources()).ok()?;
    Some(config.data_dir)
}

/// What a section of `rabbitmqadmin`'s file says.
#[derive(Debug, Default, PartialEq)]
struct Section {
    url: Option<String>,
    user: Option<String>,
    password: Option<String>,
    cacert: Option<PathBuf>,
}

impl Section {
    /// Version 1 of the tool has `[name]` and `key = value` there, version 2 the same in TOML, with quotes.
    fn find(text: &str, name: &str) -> Option<Self> {
        let mut lines = text.lines().map(str::trim);
        lines.find(|line| line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) == Some(name))?;
        let pairs: Vec<(&str, &str)> = lines
            .take_while(|line| !line.starts_with('['))
            .filter(|line| !line.starts_with(['#', ';']))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim().trim_matches(['"', '\''])))
            .collect();
        let get = |keys: &[&str]| pairs.iter().find(|(key, _)| keys.contains(key)).map(|(_, value)| *value);
        let (host, port) = (get(&["hostname", "host"]), get(&["port"]));
        let is_tls = matches!(get(&["ssl", "use_tls", "tls"]), Some("true" | "True" | "1" | "yes"));
        let prefix = get(&["path_prefix"]).unwrap_or_default().trim_end_matches('/').trim_end_matches("/api");
        let url = (host.is_some() || port.is_some() || is_tls || !prefix.is_empty()).then(|| {
            let (scheme, usual) = if is_tls { ("https", "15671") } else { ("http", "15672") };
            format!("{scheme}://{}:{}{prefix}", host.unwrap_or("localhost"), port.unwrap_or(usual))
        });
        Some(Self {
            url: get(&["base_uri", "url"]).map(str::to_owned).or(url),
            user: get(&["username", "user"]).map(str::to_owned),
            password: get(&["password"]).map(str::to_owned),
            cacert: get(&["ssl_ca_cert_file", "ca_certificate_bundle_path"]).map(PathBuf::from),
        })
    }
}

/// One part of a path, whatever is in it.
pub fn segment(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

impl Api {
    /// Another patience than the usual one.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same place, somebody else who asks.
    pub fn by(&self, user: &str, password: &str) -> Self {
        let place = Place { user: user.to_owned(), password: password.to_owned(), ..self.place() };
        Self { place, pass: None, ..self.clone() }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.place().url
    }

    fn place(&self) -> Place {
        let left = self.pass.as_ref().and_then(|pass| std::fs::read_to_string(pass).ok());
        let section = left.and_then(|text| Section::find(&text, "default")).unwrap_or_default();
        match (section.url, section.user, section.password) {
            (Some(url), Some(user), Some(password)) => Place { url, user, password },
            _ => self.place.clone(),
        }
    }

    pub fn get(&self, path: &str) -> Result<Json, Failure> {
        self.call("GET", path, Body::None)
    }

    pub fn put(&self, path: &str, body: &Json) -> Result<Json, Failure> {
        self.call("PUT", path, Body::Json(body))
    }

    pub fn post(&self, path: &str, body: &Json) -> Result<Json, Failure> {
        self.call("POST", path, Body::Json(body))
    }

    pub fn delete(&self, path: &str) -> Result<Json, Failure> {
        self.call("DELETE", path, Body::None)
    }

    /// Sends something to a path below `/api`, and gives back what is said: null if that is nothing.
    pub fn call(&self, method: &str, path: &str, body: Body<'_>) -> Result<Json, Failure> {
        self.call_with(method, path, &[], body)
    }

    /// The same with more headers.
    pub fn call_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body<'_>,
    ) -> Result<Json, Failure> {
        let Place { url, user, password } = self.place();
        let url = format!("{}/api{path}", url.trim_end_matches('/'));
        let failed = |error: &ureq::Error| {
            let why = format!("{url}: {error}");
            if matches!(error, ureq::Error::Timeout(_)) { Failure::Late(why) } else { Failure::Unreachable(why) }
        };
        let unreachable = |why: String| Failure::Unreachable(format!("{url}: {why}"));
        let agent = self.agent(&url).map_err(unreachable)?;
        let pair = BASE64.encode(format!("{user}:{password}"));
        let method = Method::from_bytes(method.as_bytes()).map_err(|error| unreachable(error.to_string()))?;
        let has_body = method == Method::POST || method == Method::PUT;
        let mut request = Request::builder().method(method).uri(&url).header("Authorization", format!("Basic {pair}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let wrong = |error: ureq::http::Error| unreachable(error.to_string());
        let (text, kind) = match body {
            Body::None => (String::new(), "application/json"),
            Body::Json(json) => (json.to_string(), "application/json"),
            Body::Text(text, kind) => (text.to_owned(), kind),
        };
        let sent = match has_body {
            true => agent.run(request.header("Content-Type", kind).body(text).map_err(wrong)?),
            false => agent.run(request.body(()).map_err(wrong)?),
        };
        let mut answer = sent.map_err(|error| failed(&error))?;
        let status = answer.status();
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| failed(&error))?;
        let json: Json = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(json);
        }
        let reason = match &json["reason"] {
            Json::String(reason) => reason.clone(),
            Json::Null => String::new(),
            other => other.to_string(),
        };
        Err(Failure::Refused { status: status.as_u16(), reason, body: json })
    }

    fn agent(&self, url: &str) -> Result<ureq::Agent, String> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(self.patience))
            .user_agent(concat!("leveret/", env!("CARGO_PKG_VERSION")));
        if !url.starts_with("https:") {
            return Ok(config.build().into());
        }
        let roots = authorities(self.cacert.as_deref().unwrap_or(Path::new(TRUSTED)))?;
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&roots));
        Ok(config.tls_config(tls.build()).build().into())
    }
}

fn authorities(path: &Path) -> Result<Vec<ureq::tls::Certificate<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("{} can't be read: {error}", path.display()))?;
    let items = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = items.collect();
    if found.is_empty() { Err(format!("{} has no certificate", path.display())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_rabbitmqadmins_file_are_read() {
        let one = "# a comment\n[default]\nport = 1\n[host_normal]\nhostname = localhost\nport = 15672\nusername = u\n\
                   password = p=w\n";
        assert_eq!(
            Section::find(one, "host_normal"),
            Some(Section {
                url: Some("http://localhost:15672".to_owned()),
                user: Some("u".to_owned()),
                password: Some("p=w".to_owned()),
                cacert: None
            })
        );
        let two = "[staging]\nhostname = \"rabbit\"\nuse_tls = true\npath_prefix = \"/mq/api\"\n";
        assert_eq!(Section::find(two, "staging").unwrap().url.as_deref(), Some("https://rabbit:15671/mq"));
        assert_eq!(Section::find(two, "default"), None);
    }

    #[test]
    fn every_name_is_one_part_of_a_path() {
        assert_eq!(segment("/a b%"), "%2Fa%20b%25");
    }
}
