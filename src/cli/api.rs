//! The tools' way to a running broker: its management API.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use serde_json::Value as Json;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// How long the whole of a call may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where distributions keep the authorities that a machine trusts.
const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where the API is, and who asks.
#[derive(Debug, Args)]
pub struct Api {
    /// The management API
    #[arg(long, env = "LEVERET_URL", value_name = "URL", default_value = "http://localhost:15672")]
    url: String,
    /// Who asks
    #[arg(long, env = "LEVERET_USER", value_name = "NAME", default_value = "guest")]
    user: String,
    /// The user's password; other users of this machine see flags, but not variables
    #[arg(long, env = "LEVERET_PASSWORD", value_name = "TEXT", default_value = "guest", hide_env_values = true)]
    password: String,
    /// The authorities to trust for https, PEM; without it those that this machine trusts
    #[arg(long, env = "LEVERET_CACERT", value_name = "FILE")]
    cacert: Option<PathBuf>,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub enum Failure {
    /// Nobody is there, or nobody to talk to.
    Unreachable(String),
    /// The broker says no.
    Refused { status: u16, reason: String },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) => out.write_str(why),
            Self::Refused { status, reason } if reason.is_empty() => write!(out, "the broker answers {status}"),
            Self::Refused { reason, .. } => out.write_str(reason),
        }
    }
}

impl Api {
    /// Posts nothing to a path below `/api`, and gives back what is said.
    pub fn post(&self, path: &str) -> Result<Json, Failure> {
        let url = format!("{}/api{path}", self.url.trim_end_matches('/'));
        let unreachable = |why: String| Failure::Unreachable(format!("{url}: {why}"));
        let agent = self.agent().map_err(unreachable)?;
        let pair = BASE64.encode(format!("{}:{}", self.user, self.password));
        let sent = agent.post(&url).header("Authorization", format!("Basic {pair}")).send_empty();
        let mut answer = sent.map_err(|error| unreachable(error.to_string()))?;
        let status = answer.status();
        let text = answer.body_mut().read_to_string().map_err(|error| unreachable(error.to_string()))?;
        let json: Json = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(json);
        }
        let reason = match &json["reason"] {
            Json::String(reason) => reason.clone(),
            Json::Null => String::new(),
            other => other.to_string(),
        };
        Err(Failure::Refused { status: status.as_u16(), reason })
    }

    fn agent(&self) -> Result<ureq::Agent, String> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .user_agent(concat!("leveret/", env!("CARGO_PKG_VERSION")));
        if !self.url.starts_with("https:") {
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
