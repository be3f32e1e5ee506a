//! Certificates and keys from files.

use super::Mistake;
use crate::config;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::Path;
use std::sync::Arc;

/// The broker's own certificates.
#[derive(Debug)]
pub(super) struct Own {
    default: Arc<CertifiedKey>,
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.default))
    }
}

/// Reads the broker's certificates and their keys.
pub(super) fn own(settings: &config::Tls, provider: &CryptoProvider) -> Result<Own, Mistake> {
    let certfile = named(settings.certfile.as_deref(), "tls.certfile")?;
    let keyfile = named(settings.keyfile.as_deref(), "tls.keyfile")?;
    let chain = chain(certfile, "tls.certfile")?;
    let wrong = |what: String| Mistake(format!("tls.keyfile: {}: {what}", keyfile.display()));
    let key = PrivateKeyDer::from_pem_file(keyfile).map_err(|error| wrong(error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| wrong(error.to_string()))?;
    Ok(Own { default: Arc::new(certified) })
}

/// Reads the authorities that clients' certificates must come from.
pub(super) fn authorities(settings: &config::Tls) -> Result<RootCertStore, Mistake> {
    let path = named(settings.cacertfile.as_deref(), "tls.cacertfile")?;
    let mut roots = RootCertStore::empty();
    for certificate in chain(path, "tls.cacertfile")? {
        roots.add(certificate).map_err(|error| Mistake(format!("tls.cacertfile: {}: {error}", path.display())))?;
    }
    Ok(roots)
}

fn named<'a>(path: Option<&'a Path>, key: &str) -> Result<&'a Path, Mistake> {
    path.ok_or_else(|| Mistake(format!("{key} is needed for TLS")))
}

/// All certificates of a file; at least one.
fn chain(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, Mistake> {
    let wrong = |what: String| Mistake(format!("{key}: {}: {what}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = certificates.collect();
    let certificates = certificates.map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("holds no certificate".to_owned()));
    }
    Ok(certificates)
}
