//! Certificates of the test's own, and clients that show or check them.

use super::{Broker, Peer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Somebody who vouches for others.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with the chain up to its authority, and its key.
pub struct Issued {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self(CertifiedIssuer::self_signed(authority(name), KeyPair::generate().unwrap()).unwrap())
    }

    /// An authority that this one vouches for.
    pub fn below(&self, name: &str) -> Self {
        Self(CertifiedIssuer::signed_by(authority(name), KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    pub fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a broker that is called so.
    pub fn server(&self, hosts: &[&str]) -> Issued {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// A certificate for a client with this common name.
    pub fn client(&self, name: &str) -> Issued {
        self.issue(client(name))
    }

    /// A list of one revoked certificate, PEM.
    pub fn revokes(&self, serial_number: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: serial_number.into(),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    pub fn issue(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued { chain: vec![certificate.der().clone()], key }
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// What a client's certificate says.
pub fn client(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "Hares");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

impl Issued {
    /// Nobody vouches for it.
    pub fn by_itself(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], key }
    }

    /// With the certificate of an authority in between.
    pub fn through(mut self, authority: &Authority) -> Self {
        self.chain.push(authority.der());
        self
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    pub fn pem(&self) -> String {
        self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Files that a broker is told of.
pub struct Files(tempfile::TempDir);

impl Files {
    /// The authority that clients are to come from, and the broker's own certificate and key.
    pub fn new(authority: &Authority, server: &Issued) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("ca.pem", &authority.pem());
        files.put(server);
        files
    }

    /// Another certificate and key for the broker.
    pub fn put(&self, server: &Issued) {
        self.write("cert.pem", &server.pem());
        self.write("key.pem", &server.key.serialize_pem());
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A broker with these files, and with what else is told.
    pub fn broker(&self, flags: &[&str]) -> Broker {
        let flags = [&self.flags()[..], &flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>()].concat();
        Broker::with(&flags.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let mut flags = vec!["--amqps-port=127.0.0.1:0".to_owned()];
        flags.push(format!("--tls-certfile={}", file("cert.pem")));
        flags.push(format!("--tls-keyfile={}", file("key.pem")));
        flags.push(format!("--tls-cacertfile={}", file("ca.pem")));
        flags
    }
}

/// The settings for a client that trusts this authority, and shows this certificate.
pub fn settings(authority: &Authority, shown: Option<&Issued>) -> ClientConfig {
    settings_of(authority, shown, rustls::ALL_VERSIONS)
}

/// The same, for these versions of TLS.
pub fn settings_of(
    authority: &Authority,
    shown: Option<&Issued>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let builder = builder.with_root_certificates(roots);
    match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_auth_cert(shown.chain.clone(), shown.key()).unwrap(),
    }
}

/// A session with the broker, asked for by a name.
pub fn session(settings: ClientConfig, host: &str) -> ClientConnection {
    let host = ServerName::try_from(host.to_owned()).unwrap();
    ClientConnection::new(Arc::new(settings), host).unwrap()
}

/// A peer that speaks TLS and has said nothing yet.
pub fn peer(broker: &Broker, settings: ClientConfig) -> std::io::Result<Peer> {
    let mut peer = Peer::silent_at(([127, 0, 0, 1], broker.tls_port()).into());
    peer.start_tls(session(settings, "localhost"))?;
    Ok(peer)
}

/// The name of a file as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
