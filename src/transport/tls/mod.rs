//! TLS by rustls: certificates, handshakes, and what a connection is told of them.
//!
//! 1.2 and 1.3, no renegotiation, no resumption: each client shows its certificate anew, to the authorities of now.

mod certificates;
mod session;
mod verifier;

pub use session::{Reader, Writer};

use super::Refused;
use crate::config::{self, TlsVersion};
use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::{CipherSuite, ProtocolVersion, ServerConfig, ServerConnection, SupportedProtocolVersion};
use session::Socket;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Read at once while hands are shaken.
const HANDSHAKE_READ_BYTES: usize = 4096;

/// Shakes hands with those who connect to a listener.
#[derive(Debug)]
pub struct Acceptor {
    config: ArcSwap<ServerConfig>,
    timeout: Duration,
    /// Steps of handshakes that may be computed at once, or wait for a thread: the connections there are have their turn
    /// between them, however many come.
    steps: Semaphore,
}

/// A mistake in the settings, or in a file that they name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake(pub String);

impl std::fmt::Display for Mistake {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for Mistake {}

/// What a client and the broker agreed on.
#[derive(Debug)]
pub struct Facts {
    /// As RabbitMQ names it: `tlsv1.3`.
    pub protocol: &'static str,
    /// The parts of the cipher suite, in RabbitMQ's words: `any`, `aes_256_gcm`, `aead`.
    pub key_exchange: &'static str,
    pub cipher: &'static str,
    pub hash: &'static str,
    /// The client's certificate, DER. It was found trustworthy.
    pub certificate: Option<CertificateDer<'static>>,
}

impl Acceptor {
    /// Reads the files that the settings name.
    pub fn open(settings: &config::Tls) -> Result<Arc<Self>, Mistake> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Arc::new(Self {
            config: ArcSwap::from_pointee(server_config(settings)?),
            timeout: settings.handshake_timeout,
            steps: Semaphore::new(2 * threads),
        }))
    }

    /// Reads the files again, for handshakes to come. If there is a mistake, nothing changes.
    pub fn reload(&self, settings: &config::Tls) -> Result<(), Mistake> {
        self.config.store(Arc::new(server_config(settings)?));
        Ok(())
    }

    /// Shakes hands, within the time for that.
    pub async fn accept(&self, stream: TcpStream) -> Result<(Reader, Writer, Facts), Refused> {
        let config = self.config.load_full();
        let mut tls = ServerConnection::new(config).map_err(|error| Refused::Handshake { text: error.to_string() })?;
        tokio::time::timeout(self.timeout, self.shake_hands(&stream, &mut tls))
            .await
            .map_err(|_| Refused::Late("TLS handshake"))??;
        let facts = Facts::of(&tls);
        let (reader, writer) = session::split(stream, tls);
        Ok((reader, writer, facts))
    }

    async fn shake_hands(&self, stream: &TcpStream, tls: &mut ServerConnection) -> Result<(), Refused> {
        let mut is_first = true;
        loop {
            while tls.wants_write() {
                stream.writable().await?;
                match tls.write_tls(&mut Socket(stream)) {
                    Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                    _ => {}
                }
            }
            if !tls.is_handshaking() {
                return Ok(());
            }
            stream.readable().await?;
            let mut fetched = [0; HANDSHAKE_READ_BYTES];
            let mut rest = match stream.try_read(&mut fetched) {
                Ok(0) => return Err(Refused::Gone),
                Ok(count) => &fetched[..count],
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let hint = if std::mem::take(&mut is_first) { hint(rest) } else { "" };
            // Never closed.
            let _step = self.steps.acquire().await;
            while !rest.is_empty() {
                tls.read_tls(&mut rest)?;
                if let Err(error) = tls.process_new_packets() {
                    // The client is told why, if it listens.
                    let _ = tls.write_tls(&mut Socket(stream));
                    return Err(Refused::Handshake { text: format!("{error}{hint}") });
                }
            }
        }
    }
}

/// What somebody who does not speak TLS is perhaps trying.
fn hint(octets: &[u8]) -> &'static str {
    match octets {
        [b'A', b'M', b'Q', b'P', ..] => "; this is AMQP without TLS: use amqps://, or the listener for plain AMQP",
        [b'G', b'E', b'T', b' ', ..] | [b'P', b'O', b'S', b'T', ..] | [b'P', b'U', b'T', b' ', ..] => {
            "; this is HTTP without TLS"
        }
        _ => "",
    }
}

impl Facts {
    fn of(tls: &ServerConnection) -> Self {
        let suite = tls.negotiated_cipher_suite();
        let (key_exchange, cipher, hash) = suite.map(|suite| parts(suite.suite())).unwrap_or_default();
        Self {
            protocol: match tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "tlsv1.2",
                _ => "tlsv1.3",
            },
            key_exchange,
            cipher,
            hash,
            certificate: tls.peer_certificates().and_then(<[_]>::first).cloned(),
        }
    }
}

/// What handshakes go by.
fn server_config(settings: &config::Tls) -> Result<ServerConfig, Mistake> {
    let provider = Arc::new(provider(settings));
    let own = certificates::own(settings, &provider)?;
    let versions: Vec<_> = settings.versions.iter().map(|version| version_of(*version)).collect();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| Mistake(format!("tls.versions and tls.ciphers do not fit together: {error}")))?;
    let builder = match settings.verify {
        config::Verify::None => builder.with_no_client_auth(),
        config::Verify::Peer => builder.with_client_cert_verifier(verifier::verifier(settings, provider)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(own));
    config.ignore_client_order = settings.honor_cipher_order;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What is computed with: all there is, or the cipher suites that were asked for.
fn provider(settings: &config::Tls) -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    if !settings.ciphers.is_empty() {
        let there = std::mem::take(&mut provider.cipher_suites);
        let asked = |name: &&str| there.iter().find(|suite| suite.suite().as_str() == Some(name)).copied();
        provider.cipher_suites = settings.ciphers.iter().filter_map(asked).collect();
    }
    provider
}

fn version_of(version: TlsVersion) -> &'static SupportedProtocolVersion {
    match version {
        TlsVersion::V1_2 => &rustls::version::TLS12,
        TlsVersion::V1_3 => &rustls::version::TLS13,
    }
}

/// RabbitMQ's names for the parts of a cipher suite: how keys are exchanged, what is enciphered with, what is hashed
/// with. With TLS 1.3 a suite says nothing of the first.
fn parts(suite: CipherSuite) -> (&'static str, &'static str, &'static str) {
    use CipherSuite as S;
    let exchange = match suite {
        S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ecdhe_ecdsa",
        S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ecdhe_rsa",
        _ => "any",
    };
    let cipher = match suite {
        S::TLS13_AES_128_GCM_SHA256
        | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "aes_128_gcm",
        S::TLS13_AES_256_GCM_SHA384
        | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "aes_256_gcm",
        _ => "chacha20_poly1305",
    };
    (exchange, cipher, "aead")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_rustls_has_a_name_to_be_asked_for_by() {
        for suite in rustls::crypto::ring::ALL_CIPHER_SUITES {
            let name = suite.suite().as_str().unwrap();
            assert_eq!(config::cipher(name), config::Cipher::Offered(name));
        }
    }

    #[test]
    fn suites_fall_into_rabbitmqs_parts() {
        assert_eq!(parts(CipherSuite::TLS13_AES_256_GCM_SHA384), ("any", "aes_256_gcm", "aead"));
        let suite = CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256;
        assert_eq!(parts(suite), ("ecdhe_rsa", "chacha20_poly1305", "aead"));
        for suite in rustls::crypto::ring::ALL_CIPHER_SUITES {
            let (exchange, cipher, _) = parts(suite.suite());
            let name = suite.suite().as_str().unwrap().to_lowercase();
            assert!(name.contains(cipher), "{name}");
            assert!(exchange == "any" || name.contains(exchange), "{name}");
        }
    }
}
