//! Certificates, keys and lists of revoked certificates, from files.

use super::Mistake;
use crate::config;
use base64::Engine as _;
use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The broker's own certificates.
#[derive(Debug)]
pub(super) struct Own {
    default: Arc<CertifiedKey>,
    /// For the hosts that they name.
    more: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Own {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = client.server_name().and_then(|name| ServerName::try_from(name).ok());
        let found = host.and_then(|host| self.more.iter().find(|certified| names(certified, &host)));
        Some(Arc::clone(found.unwrap_or(&self.default)))
    }
}

/// Whether a certificate is for a host.
fn names(certified: &CertifiedKey, host: &ServerName<'_>) -> bool {
    let certificate = certified.end_entity_cert().and_then(ParsedCertificate::try_from);
    certificate.is_ok_and(|certificate| verify_server_name(&certificate, host).is_ok())
}

/// Reads the broker's certificates and their keys.
pub(super) fn own(settings: &config::Tls, provider: &CryptoProvider) -> Result<Own, Mistake> {
    let password = settings.password.as_ref();
    let certfile = File::read(settings.certfile.as_deref(), "tls.certfile")?;
    let keyfile = File::read(settings.keyfile.as_deref(), "tls.keyfile")?;
    let default = keyfile.certified(certfile.certificates()?, password, provider)?;
    let more = settings.more_certfiles.iter().map(|path| {
        let file = File::read(Some(path), "tls.more_certfiles")?;
        file.certified(file.certificates()?, password, provider)
    });
    Ok(Own { default, more: more.collect::<Result<_, _>>()? })
}

/// Reads the authorities that clients' certificates must come from.
pub(super) fn authorities(settings: &config::Tls) -> Result<RootCertStore, Mistake> {
    let file = File::read(settings.cacertfile.as_deref(), "tls.cacertfile")?;
    let mut roots = RootCertStore::empty();
    for certificate in file.certificates()? {
        roots.add(certificate).map_err(|error| file.mistake(error))?;
    }
    Ok(roots)
}

/// Reads the lists of revoked certificates.
pub(super) fn revoked(paths: &[PathBuf]) -> Result<Vec<CertificateRevocationListDer<'static>>, Mistake> {
    let mut all = Vec::new();
    for path in paths {
        let lists = File::read(Some(path), "tls.crlfiles")?;
        all.extend(lists.items("list of revoked certificates")?);
    }
    Ok(all)
}

/// A PEM file, and the setting that names it.
struct File<'a> {
    path: &'a Path,
    setting: &'static str,
    text: Vec<u8>,
}

impl<'a> File<'a> {
    fn read(path: Option<&'a Path>, setting: &'static str) -> Result<Self, Mistake> {
        let path = path.ok_or_else(|| Mistake(format!("{setting} is needed for TLS")))?;
        let mut file = Self { path, setting, text: Vec::new() };
        file.text = std::fs::read(path).map_err(|error| file.mistake(format!("can't be read: {error}")))?;
        Ok(file)
    }

    fn mistake(&self, what: impl std::fmt::Display) -> Mistake {
        Mistake(format!("{}: {}: {what}", self.setting, self.path.display()))
    }

    /// All items of a kind; at least one.
    fn items<T: PemObject>(&self, what: &str) -> Result<Vec<T>, Mistake> {
        let items: Result<Vec<_>, _> = T::pem_slice_iter(&self.text).collect();
        let items = items.map_err(|error| self.mistake(error))?;
        if items.is_empty() {
            return Err(self.mistake(format!("holds no {what}")));
        }
        Ok(items)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Mistake> {
        self.items("certificate")
    }

    /// The file's key, and the certificates that it must belong to.
    fn certified(
        &self,
        chain: Vec<CertificateDer<'static>>,
        password: Option<&crate::auth::Secret>,
        provider: &CryptoProvider,
    ) -> Result<Arc<CertifiedKey>, Mistake> {
        let certified = CertifiedKey::from_der(chain, self.key(password)?, provider);
        certified.map(Arc::new).map_err(|error| self.mistake(error))
    }

    fn key(&self, password: Option<&crate::auth::Secret>) -> Result<PrivateKeyDer<'static>, Mistake> {
        let text = String::from_utf8_lossy(&self.text);
        if text.contains("Proc-Type: 4,ENCRYPTED") {
            let how = "openssl pkcs8 -topk8 -in OLD -out NEW";
            return Err(self.mistake(format!("the key is encrypted in OpenSSL's old format; make it anew: {how}")));
        }
        let encrypted = text
            .split_once("-----BEGIN ENCRYPTED PRIVATE KEY-----")
            .and_then(|(_, rest)| rest.split_once("-----END ENCRYPTED PRIVATE KEY-----"));
        let Some((encrypted, _)) = encrypted else {
            return PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| self.mistake(error));
        };
        let password = password.ok_or_else(|| self.mistake("the key is encrypted, and needs tls.password"))?;
        let encrypted: String = encrypted.split_whitespace().collect();
        let der = base64::engine::general_purpose::STANDARD.decode(encrypted).map_err(|error| self.mistake(error))?;
        let key = pkcs8::EncryptedPrivateKeyInfoRef::try_from(&der[..])
            .map_err(|error| self.mistake(error))?
            .decrypt(password.expose())
            .map_err(|_| self.mistake("tls.password does not open the key, or its encryption is not known"))?;
        Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
    }
}
