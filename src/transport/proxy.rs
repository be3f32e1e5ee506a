//! The PROXY protocol, versions 1 and 2: a proxy says for whom it connects, before anything else.
//!
//! It is believed only from addresses that are trusted: who else could say so would be whoever he likes, a local user for
//! instance. (The protocol's text: haproxy.org, `doc/proxy-protocol.txt`.)

use super::Refused;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpStream;

/// The longest line of version 1, with its end.
const LINE_BYTES_MAX: usize = 107;
/// The longest header of version 2. What follows the addresses is passed over.
const HEADER_BYTES_MAX: usize = 4096;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// For whom a proxy connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// For a client of this address, which spoke to that one.
    Client { peer: SocketAddr, local: SocketAddr },
    /// For itself, or for somebody without an address.
    Proxy,
}

/// What is there is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Reads the header and nothing behind it.
pub(super) async fn read(stream: &TcpStream) -> Result<Origin, Refused> {
    let mut header = Vec::new();
    loop {
        let before = header.len();
        header.resize(before + LINE_BYTES_MAX, 0);
        let count = stream.peek(&mut header[before..]).await?;
        if count == 0 {
            return Err(Refused::Gone);
        }
        header.truncate(before + count);
        let parsed = parse(&header).map_err(|Malformed(what)| Refused::Proxy(what))?;
        // All of a header that is not whole belongs to it.
        let whole = parsed.map_or(header.len(), |(_, length)| length);
        let mut left = &mut header[before..whole];
        while !left.is_empty() {
            stream.readable().await?;
            match stream.try_read(left) {
                Ok(0) => return Err(Refused::Gone),
                Ok(count) => left = &mut left[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some((origin, _)) = parsed {
            return Ok(origin);
        }
    }
}

/// The header at the beginning of `octets` and its length; `None` if it is not whole yet.
pub fn parse(octets: &[u8]) -> Result<Option<(Origin, usize)>, Malformed> {
    let common = octets.len().min(SIGNATURE.len());
    if octets[..common] == SIGNATURE[..common] {
        return version_2(octets);
    }
    version_1(octets)
}

/// `PROXY TCP4 198.51.100.7 203.0.113.1 51234 5672` and an end of line.
fn version_1(octets: &[u8]) -> Result<Option<(Origin, usize)>, Malformed> {
    const START: &[u8] = b"PROXY ";
    let common = octets.len().min(START.len());
    if octets[..common] != START[..common] {
        return Err(Malformed("no header of the PROXY protocol"));
    }
    let window = &octets[..octets.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if octets.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Malformed("the line does not end")) };
    };
    let line = std::str::from_utf8(&octets[START.len().min(end)..end]).map_err(|_| Malformed("not ASCII"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let origin = match words[..] {
        ["UNKNOWN", ..] => Origin::Proxy,
        ["TCP4", peer, local, peer_port, local_port] => {
            addresses(ip::<Ipv4Addr>(peer), ip::<Ipv4Addr>(local), port(peer_port), port(local_port))?
        }
        ["TCP6", peer, local, peer_port, local_port] => {
            addresses(ip::<Ipv6Addr>(peer), ip::<Ipv6Addr>(local), port(peer_port), port(local_port))?
        }
        _ => return Err(Malformed("neither TCP4, TCP6 nor UNKNOWN with all that belongs to it")),
    };
    Ok(Some((origin, end + 2)))
}

fn ip<A: std::str::FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<A>().ok().map(Into::into)
}

fn port(text: &str) -> Option<u16> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn addresses(
    peer: Option<IpAddr>,
    local: Option<IpAddr>,
    peer_port: Option<u16>,
    local_port: Option<u16>,
) -> Result<Origin, Malformed> {
    let both = || {
        Some(Origin::Client {
            peer: SocketAddr::new(peer?.to_canonical(), peer_port?),
            local: SocketAddr::new(local?.to_canonical(), local_port?),
        })
    };
    both().ok_or(Malformed("addresses or ports that are none"))
}

/// The signature, version and command, family, the length of what follows, addresses, and more.
fn version_2(octets: &[u8]) -> Result<Option<(Origin, usize)>, Malformed> {
    let Some(([version_command, family, high, low], rest)) =
        octets.get(SIGNATURE.len()..).and_then(<[u8]>::split_first_chunk::<4>)
    else {
        return Ok(None);
    };
    let length = SIGNATURE.len() + 4 + usize::from(u16::from_be_bytes([*high, *low]));
    if length > HEADER_BYTES_MAX {
        return Err(Malformed("the header is too long"));
    }
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed("neither LOCAL nor PROXY of version 2")),
    };
    let Some(rest) = rest.get(..length - SIGNATURE.len() - 4) else { return Ok(None) };
    let origin = match (is_local, family) {
        (false, 0x11) => inet::<4, Ipv4Addr>(rest)?,
        (false, 0x21) => inet::<16, Ipv6Addr>(rest)?,
        // Datagrams, and files that serve as sockets on the proxy's machine.
        (false, 0x00 | 0x12 | 0x22 | 0x31 | 0x32) | (true, _) => Origin::Proxy,
        (false, _) => return Err(Malformed("a family of addresses that is not known")),
    };
    Ok(Some((origin, length)))
}

/// Two addresses of `N` octets, and two ports.
fn inet<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(octets: &[u8]) -> Result<Origin, Malformed> {
    let parts = || {
        let (peer, rest) = octets.split_first_chunk::<N>()?;
        let (local, rest) = rest.split_first_chunk::<N>()?;
        let (ports, _) = rest.split_first_chunk::<4>()?;
        Some((A::from(*peer).into(), A::from(*local).into(), *ports))
    };
    let (peer, local, [a, b, c, d]) = parts().ok_or(Malformed("too short for its addresses"))?;
    let (peer_port, local_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    addresses(Some(peer), Some(local), Some(peer_port), Some(local_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client(peer: &str, local: &str) -> Origin {
        Origin::Client { peer: peer.parse().unwrap(), local: local.parse().unwrap() }
    }

    /// A header of version 2.
    fn binary(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend_from_slice(&[version_command, family]);
        header.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
        header.extend_from_slice(rest);
        header
    }

    /// Whole it means this, with anything behind it; and no beginning of it means anything yet.
    fn check(header: &[u8], origin: Origin) {
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "{end} of {}", header.escape_ascii());
        }
        for behind in [&b""[..], b"AMQP\0\0\x09\x01", b"\r\n"] {
            let octets = [header, behind].concat();
            assert_eq!(parse(&octets), Ok(Some((origin, header.len()))), "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn lines_say_who_connects() {
        check(b"PROXY TCP4 198.51.100.7 203.0.113.1 51234 5672\r\n", client("198.51.100.7:51234", "203.0.113.1:5672"));
        check(b"PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n", client("[2001:db8::7]:0", "[2001:db8::1]:65535"));
        check(b"PROXY TCP6 ::ffff:127.0.0.1 ::1 1 2\r\n", client("127.0.0.1:1", "[::1]:2"));
        check(b"PROXY UNKNOWN\r\n", Origin::Proxy);
        check(b"PROXY UNKNOWN ffff::1 whatever 1 2 3\r\n", Origin::Proxy);
        let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(longest.len(), LINE_BYTES_MAX);
        check(longest.as_bytes(), Origin::Proxy);
    }

    #[test]
    fn lines_that_say_it_badly_are_refused() {
        for line in [
            &b"PROXY TCP4 198.51.100.7 203.0.113.1 51234 65536\r\n"[..],
            b"PROXY TCP4 198.51.100.7 203.0.113.1 51234 +1\r\n",
            b"PROXY TCP4 198.51.100.7 203.0.113.1 51234 \r\n",
            b"PROXY TCP4 198.51.100.7 203.0.113.1 51234\r\n",
            b"PROXY TCP4 198.51.100.7 203.0.113.1 51234 1 2\r\n",
            b"PROXY TCP4  198.51.100.7 203.0.113.1 51234 1\r\n",
            b"PROXY TCP4 198.51.100.007 203.0.113.1 51234 1\r\n",
            b"PROXY TCP4 ::1 ::1 1 1\r\n",
            b"PROXY TCP6 127.0.0.1 127.0.0.1 1 1\r\n",
            b"PROXY TCP5 127.0.0.1 127.0.0.1 1 1\r\n",
            b"PROXY tcp4 127.0.0.1 127.0.0.1 1 1\r\n",
            b"PROXY TCP4 127.0.0.\xFF 127.0.0.1 1 1\r\n",
            b"PROXY \r\n",
            b"AMQP\0\0\x09\x01",
            b"GET / HTTP/1.1\r\n",
            b"\x16\x03\x01",
            b"\r\n\r\n\0\r\nQUIX\n",
            b"proxy TCP4",
        ] {
            assert!(parse(line).is_err(), "{}", line.escape_ascii());
        }
        let endless = [&b"PROXY UNKNOWN "[..], &[b'x'; LINE_BYTES_MAX]].concat();
        assert_eq!(parse(&endless[..LINE_BYTES_MAX - 1]), Ok(None));
        assert!(parse(&endless[..LINE_BYTES_MAX]).is_err());
        // An end that comes too late, or that is no end.
        assert!(parse(&[&endless[..], b"\r\n"].concat()).is_err());
        assert!(parse(&[b"PROXY UNKNOWN\n", &endless[..]].concat()).is_err());
    }

    #[test]
    fn binary_headers_say_who_connects() {
        let v4 = [198, 51, 100, 7, 203, 0, 113, 1, 200, 34, 22, 40];
        let origin = client("198.51.100.7:51234", "203.0.113.1:5672");
        check(&binary(0x21, 0x11, &v4), origin);
        // More may follow the addresses.
        check(&binary(0x21, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()), origin);
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        (v6[15], v6[31], v6[33], v6[35]) = (7, 1, 9, 8);
        check(&binary(0x21, 0x21, &v6), client("[2001:db8::7]:9", "[::1]:8"));
        check(&binary(0x20, 0x00, &[]), Origin::Proxy);
        check(&binary(0x20, 0x11, &v4), Origin::Proxy);
        check(&binary(0x20, 0xFF, &[1, 2, 3]), Origin::Proxy);
        check(&binary(0x21, 0x00, &[]), Origin::Proxy);
        check(&binary(0x21, 0x31, &[0; 216]), Origin::Proxy);
        check(&binary(0x21, 0x12, &v4), Origin::Proxy);
    }

    #[test]
    fn binary_headers_that_say_it_badly_are_refused() {
        for (version_command, family, length) in
            [(0x11, 0x11, 12), (0x22, 0x11, 12), (0x21, 0x11, 11), (0x21, 0x21, 35), (0x21, 0x41, 12), (0x21, 0x13, 12)]
        {
            let header = binary(version_command, family, &vec![0; length]);
            assert!(parse(&header).is_err(), "{version_command:x} {family:x} {length}");
        }
        // A long one is refused before it is read.
        let long = binary(0x21, 0x11, &[0; HEADER_BYTES_MAX - 15]);
        assert!(parse(&long[..16]).is_err());
        assert!(parse(&binary(0x21, 0x11, &[0; HEADER_BYTES_MAX - 16])).is_ok_and(|parsed| parsed.is_some()));
    }

    proptest! {
        /// Whatever comes, no more is waited for than a header may have, and none is longer than what there is.
        #[test]
        fn anything_is_read_or_refused(start in 0..4_usize, rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let starts = [&b""[..], b"PROXY TCP4 ", SIGNATURE, &binary(0x21, 0x11, &[])[..14]];
            let octets = [starts[start], &rest].concat();
            match parse(&octets) {
                Ok(Some((_, length))) => prop_assert!(length <= octets.len() && length <= HEADER_BYTES_MAX),
                Ok(None) => prop_assert!(octets.len() < HEADER_BYTES_MAX),
                Err(_) => {}
            }
        }
    }
}
