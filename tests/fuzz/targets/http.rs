//! The management API: the parser of requests, the table of routes, and every resource behind it. No answer is the broker's
//! own fault.
//!
//! Input: 0 and a request as it is on the wire, or 1, which method, the path with its query up to an end of line, and the
//! body: such a request comes from an administrator.

use super::live;

const METHODS: [&str; 7] = ["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH"];

pub fn target(data: &[u8]) {
    let Some((which, octets)) = data.split_first() else { return };
    let request = if which & 1 == 0 { octets.to_vec() } else { of_administrator(octets) };
    let answer = live::with(|live| live.ask(&request));
    let line = answer.split(|octet| *octet == b'\r').next().unwrap_or_default();
    assert!(!line.starts_with(b"HTTP/1.1 500"), "{}", String::from_utf8_lossy(&answer));
    assert!(answer.is_empty() || line.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
}

fn of_administrator(octets: &[u8]) -> Vec<u8> {
    let Some((method, rest)) = octets.split_first() else { return Vec::new() };
    let method = METHODS[usize::from(*method) % METHODS.len()];
    let end = rest.iter().position(|octet| *octet == b'\n').unwrap_or(rest.len());
    let (path, body) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
    let mut request = format!("{method} ").into_bytes();
    for &octet in path {
        // What can't stand in a request's line is written as RFC 3986 has it.
        match octet {
            b'!'..=b'~' => request.push(octet),
            _ => request.extend_from_slice(format!("%{octet:02X}").as_bytes()),
        }
    }
    let head = format!(
        " HTTP/1.1\r\nhost: localhost\r\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    request.extend_from_slice(head.as_bytes());
    request.extend_from_slice(body);
    request
}
