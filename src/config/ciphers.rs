//! Names of cipher suites, as OpenSSL and RabbitMQ write them, and as IANA does.

/// The suites that are offered, best first: OpenSSL's name and IANA's.
const OFFERED: [(&str, &str); 9] = [
    ("TLS_AES_256_GCM_SHA384", "TLS13_AES_256_GCM_SHA384"),
    ("TLS_AES_128_GCM_SHA256", "TLS13_AES_128_GCM_SHA256"),
    ("TLS_CHACHA20_POLY1305_SHA256", "TLS13_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// What names of other suites are made of.
const PARTS: [&str; 32] = [
    "TLS", "WITH", "NULL", "ANON", "EXPORT", "RSA", "DSS", "DH", "DHE", "EDH", "ECDH", "ECDHE", "ECDSA", "PSK", "SRP",
    "AES", "AES128", "AES256", "128", "256", "8", "GCM", "CCM", "CCM8", "CBC", "CBC3", "CHACHA20", "POLY1305", "SHA",
    "SHA256", "SHA384", "CAMELLIA",
];

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Cipher {
    /// A suite that is offered, by a name of its own.
    Offered(&'static str),
    /// A suite that others know.
    Other,
    Unknown,
}

/// Reads the name of a suite.
pub fn cipher(name: &str) -> Cipher {
    let known = OFFERED.iter().find(|(openssl, iana)| *openssl == name || *iana == name);
    if let Some((_, iana)) = known {
        return Cipher::Offered(iana);
    }
    let mut parts = name.split(['-', '_']).peekable();
    match parts.next().is_some_and(|first| PARTS.contains(&first)) && parts.peek().is_some() {
        true if parts.all(|part| PARTS.contains(&part)) => Cipher::Other,
        _ => Cipher::Unknown,
    }
}

/// The names to choose from, as RabbitMQ's users write them.
pub fn offered() -> String {
    OFFERED.map(|(openssl, _)| openssl).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_the_names_of_openssl_and_iana() {
        let aes = Cipher::Offered("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384");
        assert_eq!(cipher("ECDHE-RSA-AES256-GCM-SHA384"), aes);
        assert_eq!(cipher("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"), aes);
        assert_eq!(cipher("TLS_AES_128_GCM_SHA256"), Cipher::Offered("TLS13_AES_128_GCM_SHA256"));
        // From RabbitMQ's guide to TLS.
        for name in
            ["DHE-RSA-AES256-GCM-SHA384", "ECDH-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA384", "AES128-SHA"]
        {
            assert_eq!(cipher(name), Cipher::Other, "{name}");
        }
        for name in ["", "ECDHE-RSA-AES256-GCM-SHA383", "ecdhe-rsa-aes256-gcm-sha384", "HIGH", "RSA"] {
            assert_eq!(cipher(name), Cipher::Unknown, "{name}");
        }
    }
}
