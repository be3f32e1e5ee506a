//! TLS by rustls: certificates, handshakes, and what a connection is told of them.
//!
//! 1.2 and 1.3, no renegotiation, no resumption: each client shows its certificate anew, to the authorities of now.

mod certificates;
mod session;

pub use session::{Reader, Writer};

use crate::config;
use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ProtocolVersion, ServerConfig, ServerConnection};
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
    /// The client's certificate, DER. It was found trustworthy.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Why a client is not let in.
#[derive(Debug)]
pub enum Refused {
    /// It went, or its socket failed.
    Gone,
    /// It took too long.
    Late,
    /// It speaks something else, shows no good certificate, or wants what is not offered.
    Handshake { text: String },
}

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => out.write_str("the client went away"),
            Self::Late => out.write_str("the TLS handshake took too long"),
            Self::Handshake { text } => write!(out, "TLS handshake failed: {text}"),
        }
    }
}

impl std::error::Error for Refused {}

impl From<std::io::Error> for Refused {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
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
        tokio::time::timeout(self.timeout, self.shake_hands(&stream, &mut tls)).await.map_err(|_| Refused::Late)??;
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
        Self {
            protocol: match tls.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "tlsv1.2",
                _ => "tlsv1.3",
            },
            certificate: tls.peer_certificates().and_then(<[_]>::first).cloned(),
        }
    }
}

/// What handshakes go by.
fn server_config(settings: &config::Tls) -> Result<ServerConfig, Mistake> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let own = certificates::own(settings, &provider)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| Mistake(error.to_string()))?;
    let builder = match settings.verify {
        config::Verify::None => builder.with_no_client_auth(),
        config::Verify::Peer => {
            let roots = Arc::new(certificates::authorities(settings)?);
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            if !settings.fail_if_no_peer_cert {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build().map_err(|error| Mistake(format!("tls.cacertfile: {error}")))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(own));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
