//! A client of the management API that sends what it is told to, even what no client would.

use super::{Broker, PATIENCE};
use base64::Engine;
use serde_json::Value as Json;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};

/// Somebody who asks.
#[derive(Debug, Clone, Copy)]
pub struct Api<'a> {
    port: u16,
    address: IpAddr,
    /// Name and password.
    user: Option<(&'a str, &'a str)>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl<'a> Api<'a> {
    /// As `guest`.
    pub fn of(broker: &Broker) -> Self {
        Self { port: broker.http_port(), address: Ipv4Addr::LOCALHOST.into(), user: Some(("guest", "guest")) }
    }

    pub fn by<'b>(&self, name: &'b str, password: &'b str) -> Api<'b> {
        Api { user: Some((name, password)), port: self.port, address: self.address }
    }

    pub fn by_nobody(self) -> Self {
        Self { user: None, ..self }
    }

    /// To another port.
    pub fn on(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// To another address of this machine.
    pub fn at(self, address: IpAddr) -> Self {
        Self { address, ..self }
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect((self.address, self.port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], b"")
    }

    pub fn put(&self, path: &str, body: Json) -> Reply {
        self.call("PUT", path, &[], body.to_string().as_bytes())
    }

    pub fn post(&self, path: &str, body: Json) -> Reply {
        self.call("POST", path, &[], body.to_string().as_bytes())
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.call("DELETE", path, &[], b"")
    }

    /// Sends one request on a connection of its own.
    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut socket = self.connect();
        let mut request = self.head(method, path);
        request += "Connection: close\r\n";
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n", body.len());
        socket.write_all(request.as_bytes()).unwrap();
        // Who is refused because of the head may not want the body any more.
        let _ = socket.write_all(body);
        let reply = if method == "HEAD" { read_head(&mut socket) } else { read_reply(&mut socket) };
        reply.expect("an answer")
    }

    /// The beginning of a request: its line, the host and who asks.
    pub fn head(&self, method: &str, path: &str) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\n", self.port);
        if let Some((name, password)) = self.user {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
            head += &format!("Authorization: Basic {pair}\r\n");
        }
        head
    }
}

impl Reply {
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Its status and its body, to compare.
    pub fn said(&self) -> (u16, Json) {
        (self.status, if self.body.is_empty() { Json::Null } else { self.json() })
    }
}

/// Reads one answer; `None` if the connection ends before it does.
pub fn read_reply(socket: &mut TcpStream) -> Option<Reply> {
    let mut reply = read_head(socket)?;
    reply.body.resize(reply.header("content-length").map_or(0, |length| length.parse().unwrap()), 0);
    socket.read_exact(&mut reply.body).ok()?;
    Some(reply)
}

/// The same without its body.
fn read_head(socket: &mut TcpStream) -> Option<Reply> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        if socket.read(&mut octet).unwrap_or(0) == 0 {
            return None;
        }
        head.push(octet[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Some(Reply { status, headers: lines.filter_map(header).collect(), body: Vec::new() })
}
