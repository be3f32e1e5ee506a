//! Whom client certificates must come from: by the whole chain up to a trusted authority, as rustls and webpki check it,
//! and not over more authorities than `tls.depth`.

use super::{Mistake, certificates};
use crate::config::{self, CrlCheck};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::sync::Arc;

/// The verifier that the settings ask for.
pub(super) fn verifier(
    settings: &config::Tls,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Mistake> {
    let roots = Arc::new(certificates::authorities(settings)?);
    let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider);
    if settings.crl_check != CrlCheck::Off {
        builder = builder.with_crls(certificates::revoked(&settings.crlfiles)?);
    }
    builder = match settings.crl_check {
        CrlCheck::Off => builder,
        CrlCheck::Chain => builder.enforce_revocation_expiration(),
        CrlCheck::Peer => builder.only_check_end_entity_revocation().enforce_revocation_expiration(),
        CrlCheck::BestEffort => builder.allow_unknown_revocation_status(),
    };
    if !settings.fail_if_no_peer_cert {
        builder = builder.allow_unauthenticated();
    }
    let verifier = builder.build().map_err(|error| Mistake(format!("tls.cacertfile: {error}")))?;
    Ok(Arc::new(Bounded { verifier, depth: settings.depth }))
}

/// Looks at no more authorities between a certificate and a trusted one than `depth`. Clients send them in order.
#[derive(Debug)]
struct Bounded {
    verifier: Arc<dyn ClientCertVerifier>,
    depth: usize,
}

impl ClientCertVerifier for Bounded {
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let between = &between[..between.len().min(self.depth)];
        self.verifier.verify_client_cert(certificate, between, now)
    }

    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.verifier.requires_raw_public_keys()
    }
}
