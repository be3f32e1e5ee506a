//! Certificates, and what they prove.

use super::super::support::tls::{Authority, Files, Issued, client, peer, settings};
use super::super::support::{Broker, Peer};
use leveret::amqp::PROTOCOL_HEADER;
use leveret::config::EXIT_CONFIG;
use rcgen::CertificateParams;
use rustls::ClientConfig;
use std::process::Command;
use std::sync::Arc;

/// Whether a client gets as far as connection.start.
fn starts(broker: &Broker, settings: ClientConfig) -> bool {
    let Ok(mut peer) = peer(broker, settings) else { return false };
    peer.try_octets(PROTOCOL_HEADER).is_ok() && peer.try_start().is_some()
}

fn lets_in(broker: &Broker, authority: &Authority, shown: Option<&Issued>) -> bool {
    starts(broker, settings(authority, shown))
}

const STRICT: [&str; 2] = ["--tls-verify=verify_peer", "--tls-fail-if-no-peer-cert=true"];

#[test]
fn cve_2026_67231_a_certificate_is_trusted_for_its_chain_and_not_for_its_issuers_name_and_number() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broker = files.broker(&STRICT);
    let params = || {
        let mut params: CertificateParams = client("hare");
        params.serial_number = Some(4711.into());
        params
    };
    let trusted = authority.issue(params());
    assert!(lets_in(&broker, &authority, Some(&trusted)));
    // All that can be read in the trusted one, by another authority that calls itself the same; and by nobody, in the
    // trusted one's company.
    let forged = Authority::new("The Warren").issue(params());
    assert!(!lets_in(&broker, &authority, Some(&forged)));
    let mut in_company = Issued::by_itself(params());
    in_company.chain.extend(trusted.chain.clone());
    in_company.chain.push(authority.der());
    assert!(!lets_in(&broker, &authority, Some(&in_company)));
    // The trusted certificate itself, with another key.
    let key = rustls::crypto::ring::sign::any_supported_type(&forged.key()).unwrap();
    let stolen = rustls::sign::CertifiedKey::new(trusted.chain.clone(), key);
    let mut thief = settings(&authority, None);
    thief.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(stolen));
    assert!(!starts(&broker, thief));
    assert!(lets_in(&broker, &authority, Some(&trusted)));
}

#[test]
fn cve_2026_67404_asking_for_certificates_never_becomes_not_asking() {
    let authority = Authority::new("The Warren");
    let files = Files::new(&authority, &authority.server(&["localhost"]));
    let broken = [
        (Some(""), "tls.cacertfile"),
        (Some("no certificate"), "tls.cacertfile"),
        (Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "tls.cacertfile"),
        (None, "tls.cacertfile"),
    ];
    for (text, key) in broken {
        match text {
            Some(text) => drop(files.write("ca.pem", text)),
            None => std::fs::remove_file(files.path("ca.pem")).unwrap(),
        }
        let folder = tempfile::TempDir::new().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_leveret"))
            .env_clear()
            .args(["--amqp-port=none", "--http-port=none", "--metrics-port=none", "--data-dir"])
            .arg(folder.path())
            .args(files.flags())
            .args(STRICT)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(EXIT_CONFIG.into()), "{text:?}: {said}");
        assert!(said.contains(key), "{text:?}: {said}");
    }
    // With the right file again those without a certificate are turned away, and those with another one.
    files.write("ca.pem", &authority.pem());
    let broker = files.broker(&STRICT);
    assert!(!lets_in(&broker, &authority, None));
    assert!(!lets_in(&broker, &authority, Some(&Authority::new("Another").client("hare"))));
    assert!(lets_in(&broker, &authority, Some(&authority.client("hare"))));
    Peer::open(&broker).close();
}
