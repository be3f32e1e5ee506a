//! A small blocking client.

use crate::amqp::frame::{self, Frame};
use crate::amqp::{PROTOCOL_HEADER, Table, Value, method};
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, parse_class};
use amq_protocol::uri::AMQPUri;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The read buffer grows from and to this, while reads fill it.
const READ_BYTES: std::ops::Range<usize> = 8 << 10..256 << 10;

/// Why a measurement ended early.
#[derive(Debug)]
pub enum Failure {
    /// Nobody answers there.
    Unreachable(String),
    /// The broker closed the connection or a channel.
    Closed { code: u16, text: String },
    /// The socket failed, or the peer does not speak AMQP.
    Broken(String),
    /// The options do not fit together.
    Usage(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Broken(text) | Self::Usage(text) => out.write_str(text),
            Self::Closed { code, text } => write!(out, "the broker closed: {code} {text}"),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(format!("the connection failed: {error}"))
    }
}

pub type Outcome<T> = Result<T, Failure>;

/// A connection with channel 1 open.
#[derive(Debug)]
pub struct Client {
    pub stream: TcpStream,
    pub reader: Reader,
    pub frame_max: u32,
}

/// Reads frames from a large buffer.
#[derive(Debug)]
pub struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Reader {
    fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: vec![0; READ_BYTES.start], start: 0, end: 0 }
    }

    /// The frames that are there, at least one; `each` says whether to go on.
    pub fn frames(&mut self, mut each: impl FnMut(Frame<'_>) -> Outcome<bool>) -> Outcome<()> {
        loop {
            let mut some = false;
            while let Some((frame, length)) = frame::split(&self.buffer[self.start..self.end], 0)
                .map_err(|malformed| Failure::Broken(format!("the peer sends no AMQP: {malformed:?}")))?
            {
                some = true;
                self.start += length;
                let go_on = frame.kind == frame::HEARTBEAT || each(frame)?;
                if !go_on {
                    return Ok(());
                }
            }
            if some {
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Outcome<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end == self.buffer.len() {
            self.buffer.resize(2 * self.buffer.len(), 0);
        }
        match self.stream.read(&mut self.buffer[self.end..])? {
            0 => Err(Failure::Broken("the broker closed the socket".into())),
            count => {
                self.end += count;
                if self.end == self.buffer.len() && self.end < READ_BYTES.end {
                    self.buffer.resize(2 * self.end, 0);
                }
                Ok(())
            }
        }
    }

    /// The next method that is not content.
    pub fn method(&mut self) -> Outcome<AMQPClass> {
        let mut found = None;
        while found.is_none() {
            self.frames(|frame| {
                if frame.kind == frame::METHOD {
                    found = Some(parse(frame)?);
                }
                Ok(found.is_none())
            })?;
        }
        found.ok_or_else(|| Failure::Broken("no method".into()))
    }
}

/// A method frame's method; a close is a failure.
pub fn parse(frame: Frame<'_>) -> Outcome<AMQPClass> {
    match parse_class(frame.payload) {
        Ok((_, AMQPClass::Connection(connection::AMQPMethod::Close(close)))) => {
            Err(Failure::Closed { code: close.reply_code, text: close.reply_text.to_string() })
        }
        Ok((_, AMQPClass::Channel(channel::AMQPMethod::Close(close)))) => {
            Err(Failure::Closed { code: close.reply_code, text: close.reply_text.to_string() })
        }
        Ok((_, class)) => Ok(class),
        Err(_) => Err(Failure::Broken("the broker sent a method that can't be read".into())),
    }
}

impl Client {
    /// Connects, logs in, opens the virtual host and channel 1.
    pub fn connect(uri: &str) -> Outcome<Self> {
        let uri: AMQPUri = uri.parse().map_err(|error| Failure::Usage(format!("--uri: {error}")))?;
        let host = &uri.authority.host;
        let port = uri.authority.port;
        let unreachable = |error: std::io::Error| {
            Failure::Unreachable(format!("can't reach a broker at {host}:{port}: {error}; is it running?"))
        };
        let address = (host.as_str(), port).to_socket_addrs().map_err(unreachable)?;
        let stream = address
            .map(|address| TcpStream::connect_timeout(&address, PATIENCE))
            .reduce(Result::or)
            .ok_or_else(|| Failure::Unreachable(format!("{host} has no address")))?
            .map_err(unreachable)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { reader: Reader::new(stream.try_clone()?), stream, frame_max: 0 };
        client.handshake(&uri)?;
        Ok(client)
    }

    fn handshake(&mut self, uri: &AMQPUri) -> Outcome<()> {
        use connection::AMQPMethod as M;
        self.stream.write_all(PROTOCOL_HEADER)?;
        self.reader.method()?;
        let mut capabilities = Table::default();
        for name in ["authentication_failure_close", "consumer_cancel_notify", "connection.blocked"] {
            capabilities.insert(name.into(), Value::Boolean(true));
        }
        let mut properties = Table::default();
        properties.insert("capabilities".into(), Value::FieldTable(capabilities));
        properties.insert("product".into(), Value::LongString("leveret perf".into()));
        let user = &uri.authority.userinfo;
        let response = format!("\0{}\0{}", user.username, user.password);
        let tune = self.call(
            0,
            M::StartOk(connection::StartOk {
                client_properties: properties,
                mechanism: "PLAIN".into(),
                response: response.as_str().into(),
                locale: "en_US".into(),
            }),
        )?;
        let AMQPClass::Connection(M::Tune(tune)) = tune else {
            return Err(Failure::Broken("the broker asks for more than a password".into()));
        };
        self.frame_max = tune.frame_max;
        let (channel_max, frame_max) = (tune.channel_max, tune.frame_max);
        let mut out = Vec::new();
        let tune_ok = M::TuneOk(connection::TuneOk { channel_max, frame_max, heartbeat: 0 });
        method::write(&mut out, 0, &AMQPClass::Connection(tune_ok));
        let open = M::Open(connection::Open { virtual_host: crate::amqp::short(&uri.vhost) });
        method::write(&mut out, 0, &AMQPClass::Connection(open));
        // Nothing needs to be waited for in between.
        method::write(&mut out, 1, &AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
        self.stream.write_all(&out)?;
        self.reader.method()?;
        self.reader.method()?;
        Ok(())
    }

    fn call(&mut self, number: u16, method: connection::AMQPMethod) -> Outcome<AMQPClass> {
        self.request(number, &AMQPClass::Connection(method))
    }

    /// Sends a method and waits for the answer.
    pub fn request(&mut self, number: u16, class: &AMQPClass) -> Outcome<AMQPClass> {
        let mut out = Vec::new();
        method::write(&mut out, number, class);
        self.stream.write_all(&out)?;
        self.reader.method()
    }

    /// The same on channel 1 for the class basic.
    pub fn basic(&mut self, method: basic::AMQPMethod) -> Outcome<AMQPClass> {
        self.request(1, &AMQPClass::Basic(method))
    }

    /// Says good-bye, as far as the broker still listens.
    pub fn close(mut self) {
        let close = connection::Close { reply_code: 200, reply_text: "bye".into(), class_id: 0, method_id: 0 };
        // It may have gone first; then there is nobody to say it to.
        let _ = self.request(0, &AMQPClass::Connection(connection::AMQPMethod::Close(close)));
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
