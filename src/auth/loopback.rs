use std::net::IpAddr;

/// Whether a peer is on this machine. A listener on `::` sees IPv4 peers as `::ffff:127.0.0.1`, which counts.
pub fn is_loopback(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_count_as_what_they_map() {
        for local in ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"] {
            assert!(is_loopback(local.parse().unwrap()), "{local}");
        }
        for remote in ["10.0.0.1", "::ffff:10.0.0.1", "::2", "::127.0.0.1", "0.0.0.0", "::"] {
            assert!(!is_loopback(remote.parse().unwrap()), "{remote}");
        }
    }
}
