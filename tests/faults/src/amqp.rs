//! A small AMQP client of its own, on a plain socket: it shares nothing with the broker, so that no mistake is made twice.
//! One channel, blocking, with a deadline for everything.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const FRAME_MAX: u32 = 131_072;
const CHANNEL: u16 = 1;
const FRAME_END: u8 = 0xCE;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

const CONNECTION: u16 = 10;
const CHANNEL_CLASS: u16 = 20;
const EXCHANGE: u16 = 40;
const QUEUE: u16 = 50;
const BASIC: u16 = 60;
const CONFIRM: u16 = 85;
const TX: u16 = 90;

pub struct Client {
    socket: TcpStream,
    incoming: Vec<u8>,
    at: usize,
    partial: Option<Partial>,
    /// What came while something else was waited for.
    waiting: VecDeque<Incoming>,
    out: Vec<u8>,
}

#[derive(Debug)]
pub enum Incoming {
    /// basic.deliver or basic.get-ok.
    Message(Message),
    /// basic.return.
    Returned,
    GetEmpty,
    Ack {
        tag: u64,
        multiple: bool,
    },
    Nack {
        tag: u64,
        multiple: bool,
    },
    Method {
        class: u16,
        method: u16,
        arguments: Vec<u8>,
    },
}

#[derive(Debug)]
pub struct Message {
    pub tag: u64,
    pub redelivered: bool,
    pub body: Vec<u8>,
}

enum Partial {
    Head { returned: bool, tag: u64, redelivered: bool },
    Body { returned: bool, message: Message, missing: usize },
}

/// An argument of a declaration.
#[derive(Debug, Clone)]
pub enum Argument {
    Text(String),
    Number(i32),
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Properties {
    pub persistent: bool,
    pub priority: Option<u8>,
    pub expiration_ms: Option<u32>,
}

impl Client {
    /// A connection as guest with a channel.
    pub fn connect(port: u16) -> io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let (incoming, waiting, out) = (Vec::new(), VecDeque::new(), Vec::new());
        let mut client = Self { socket, incoming, at: 0, partial: None, waiting, out };
        client.out.extend_from_slice(b"AMQP\0\0\x09\x01");
        client.flush()?;
        client.expect(CONNECTION, 10)?;
        client.method(0, CONNECTION, 11, |out| {
            long_text(out, b"");
            short_text(out, "PLAIN");
            long_text(out, b"\0guest\0guest");
            short_text(out, "en_US");
        });
        client.flush()?;
        client.expect(CONNECTION, 30)?;
        client.method(0, CONNECTION, 31, |out| {
            out.extend_from_slice(&2047_u16.to_be_bytes());
            out.extend_from_slice(&FRAME_MAX.to_be_bytes());
            out.extend_from_slice(&0_u16.to_be_bytes());
        });
        client.method(0, CONNECTION, 40, |out| {
            short_text(out, "/");
            short_text(out, "");
            out.push(0);
        });
        client.flush()?;
        client.expect(CONNECTION, 41)?;
        client.open_channel()?;
        Ok(client)
    }

    /// Also once more, after the broker has closed it.
    pub fn open_channel(&mut self) -> io::Result<()> {
        self.method(CHANNEL, CHANNEL_CLASS, 10, |out| short_text(out, ""));
        self.flush()?;
        self.expect(CHANNEL_CLASS, 11).map(drop)
    }

    // ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────

    pub fn confirm_select(&mut self) -> io::Result<()> {
        self.call(CONFIRM, 10, 11, |out| out.push(0)).map(drop)
    }

    pub fn tx_select(&mut self) -> io::Result<()> {
        self.call(TX, 10, 11, |_| {}).map(drop)
    }

    pub fn tx_commit(&mut self) -> io::Result<()> {
        self.call(TX, 20, 21, |_| {}).map(drop)
    }

    pub fn tx_rollback(&mut self) -> io::Result<()> {
        self.call(TX, 30, 31, |_| {}).map(drop)
    }

    pub fn qos(&mut self, count: u16) -> io::Result<()> {
        self.call(BASIC, 10, 11, |out| {
            out.extend_from_slice(&0_u32.to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
            out.push(0);
        })
        .map(drop)
    }

    pub fn consume(&mut self, queue: &str) -> io::Result<()> {
        self.call(BASIC, 20, 21, |out| {
            out.extend_from_slice(&0_u16.to_be_bytes());
            short_text(out, queue);
            short_text(out, "c");
            out.push(0);
            long_text(out, b"");
        })
        .map(drop)
    }

    /// No deliveries come after this; those that came before are still to be read.
    pub fn cancel(&mut self) -> io::Result<()> {
        self.call(BASIC, 30, 31, |out| {
            short_text(out, "c");
            out.push(0);
        })
        .map(drop)
    }

    pub fn declare_exchange(&mut self, name: &str, kind: &str) -> io::Result<()> {
        self.call(EXCHANGE, 10, 11, |out| {
            out.extend_from_slice(&0_u16.to_be_bytes());
            short_text(out, name);
            short_text(out, kind);
            out.push(0b10);
            long_text(out, b"");
        })
        .map(drop)
    }

    pub fn declare(&mut self, name: &str, durable: bool, arguments: &[(String, Argument)]) -> io::Result<()> {
        let mut table = Vec::new();
        for (key, value) in arguments {
            short_text(&mut table, key);
            match value {
                Argument::Text(text) => {
                    table.push(b'S');
                    long_text(&mut table, text.as_bytes());
                }
                Argument::Number(number) => {
                    table.push(b'I');
                    table.extend_from_slice(&number.to_be_bytes());
                }
            }
        }
        self.call(QUEUE, 10, 11, |out| {
            out.extend_from_slice(&0_u16.to_be_bytes());
            short_text(out, name);
            out.push(if durable { 0b10 } else { 0 });
            long_text(out, &table);
        })
        .map(drop)
    }

    /// How many messages are ready, or `None` if there is no such queue; the channel is then open anew.
    pub fn count(&mut self, name: &str) -> io::Result<Option<u64>> {
        self.method(CHANNEL, QUEUE, 10, |out| {
            out.extend_from_slice(&0_u16.to_be_bytes());
            short_text(out, name);
            out.push(0b1);
            long_text(out, b"");
        });
        self.flush()?;
        let answer = match self.expect(QUEUE, 11) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.open_channel()?;
                return Ok(None);
            }
            answer => answer?,
        };
        let after_name = 1 + usize::from(*answer.first().ok_or_else(|| bad("no name in declare-ok"))?);
        let count = answer.get(after_name..after_name + 4).and_then(|octets| octets.try_into().ok());
        Ok(Some(u64::from(u32::from_be_bytes(count.ok_or_else(|| bad("no count in declare-ok"))?))))
    }

    pub fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> io::Result<()> {
        self.call(QUEUE, 20, 21, |out| {
            out.extend_from_slice(&0_u16.to_be_bytes());
            short_text(out, queue);
            short_text(out, exchange);
            short_text(out, key);
            out.push(0);
            long_text(out, b"");
        })
        .map(drop)
    }

    pub fn purge(&mut self, queue: &str) -> io::Result<()> {
        self.call(QUEUE, 30, 31, |out| {
            out.extend_from_slice(&0_u16.to_be_bytes());
            short_text(out, queue);
            out.push(0);
        })
        .map(drop)
    }

    pub fn delete(&mut self, queue: &str) -> io::Result<()> {
        self.call(QUEUE, 40, 41, |out| {
            out.extend_from_slice(&0_u16.to_be_bytes());
            short_text(out, queue);
            out.push(0);
        })
        .map(drop)
    }

    /// Says good-bye, and waits for the answer.
    pub fn close(mut self) -> io::Result<()> {
        self.method(0, CONNECTION, 50, |out| {
            out.extend_from_slice(&200_u16.to_be_bytes());
            short_text(out, "bye");
            out.extend_from_slice(&[0; 4]);
        });
        self.flush()?;
        self.expect(CONNECTION, 51).map(drop)
    }

    // ── what is not answered; it leaves with `flush` ─────────────────────────────────────────────────────────────────

    pub fn publish(&mut self, exchange: &str, key: &str, properties: Properties, body: &[u8]) {
        self.method(CHANNEL, BASIC, 40, |out| {
            out.extend_from_slice(&0_u16.to_be_bytes());
            short_text(out, exchange);
            short_text(out, key);
            out.push(0);
        });
        frame(&mut self.out, 2, CHANNEL, |out| {
            out.extend_from_slice(&BASIC.to_be_bytes());
            out.extend_from_slice(&0_u16.to_be_bytes());
            out.extend_from_slice(&(body.len() as u64).to_be_bytes());
            let flags = 1 << 12
                | u16::from(properties.priority.is_some()) << 11
                | u16::from(properties.expiration_ms.is_some()) << 8;
            out.extend_from_slice(&flags.to_be_bytes());
            out.push(if properties.persistent { 2 } else { 1 });
            out.extend(properties.priority);
            if let Some(ms) = properties.expiration_ms {
                short_text(out, &ms.to_string());
            }
        });
        for part in body.chunks(FRAME_MAX as usize - 8) {
            frame(&mut self.out, 3, CHANNEL, |out| out.extend_from_slice(part));
        }
    }

    pub fn get(&mut self, queue: &str) {
        self.method(CHANNEL, BASIC, 70, |out| {
            out.extend_from_slice(&0_u16.to_be_bytes());
            short_text(out, queue);
            out.push(0);
        });
    }

    pub fn ack(&mut self, tag: u64, multiple: bool) {
        self.method(CHANNEL, BASIC, 80, |out| {
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(multiple.into());
        });
    }

    pub fn nack(&mut self, tag: u64, requeue: bool) {
        self.method(CHANNEL, BASIC, 120, |out| {
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(u8::from(requeue) << 1);
        });
    }

    pub fn reject(&mut self, tag: u64, requeue: bool) {
        self.method(CHANNEL, BASIC, 90, |out| {
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(requeue.into());
        });
    }

    pub fn flush(&mut self) -> io::Result<()> {
        let written = self.socket.write_all(&self.out);
        self.out.clear();
        written
    }

    /// Sends only the first so many octets of what is to leave, and nothing ever after.
    pub fn flush_part(mut self, octets: usize) -> io::Result<()> {
        let octets = octets.min(self.out.len());
        self.socket.write_all(&self.out[..octets])
    }

    pub fn unflushed(&self) -> usize {
        self.out.len()
    }

    // ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────────

    /// What came, or `None` if nothing came so long.
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<Incoming>> {
        match self.waiting.pop_front() {
            Some(incoming) => Ok(Some(incoming)),
            None => self.read(patience),
        }
    }

    fn call(
        &mut self,
        class: u16,
        method: u16,
        answer: u16,
        arguments: impl FnOnce(&mut Vec<u8>),
    ) -> io::Result<Vec<u8>> {
        self.method(CHANNEL, class, method, arguments);
        self.flush()?;
        self.expect(class, answer)
    }

    /// Waits for a method, and keeps what comes before it.
    fn expect(&mut self, class: u16, method: u16) -> io::Result<Vec<u8>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(ErrorKind::TimedOut, format!("no method {class}.{method} in time")));
            }
            match self.read(left)? {
                Some(Incoming::Method { class: found, method: number, arguments })
                    if (found, number) == (class, method) =>
                {
                    return Ok(arguments);
                }
                Some(incoming) => self.waiting.push_back(incoming),
                None => {}
            }
        }
    }

    fn read(&mut self, patience: Duration) -> io::Result<Option<Incoming>> {
        let end = Instant::now() + patience;
        loop {
            if let Some((kind, channel, payload)) = self.frame()? {
                if let Some(incoming) = self.understand(kind, channel, payload)? {
                    return Ok(Some(incoming));
                }
                continue;
            }
            let left = end.saturating_duration_since(Instant::now());
            self.socket.set_read_timeout(Some(left.max(Duration::from_micros(500))))?;
            self.incoming.drain(..self.at);
            self.at = 0;
            let before = self.incoming.len();
            self.incoming.resize(before + (256 << 10), 0);
            let read = self.socket.read(&mut self.incoming[before..]);
            self.incoming.truncate(before + read.as_ref().map_or(0, |count| *count));
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= end {
                        return Ok(None);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn frame(&mut self) -> io::Result<Option<(u8, u16, Vec<u8>)>> {
        let Some(head) = self.incoming.get(self.at..self.at + 7) else { return Ok(None) };
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let (kind, channel) = (head[0], u16::from_be_bytes([head[1], head[2]]));
        let Some(rest) = self.incoming.get(self.at + 7..self.at + 8 + size) else { return Ok(None) };
        if rest[size] != FRAME_END {
            return Err(bad("a frame without its end"));
        }
        let payload = rest[..size].to_vec();
        self.at += size + 8;
        Ok(Some((kind, channel, payload)))
    }

    fn understand(&mut self, kind: u8, channel: u16, payload: Vec<u8>) -> io::Result<Option<Incoming>> {
        match kind {
            1 => {
                let mut reader = Reader(&payload);
                let (class, method) = (reader.u16()?, reader.u16()?);
                self.method_came(channel, class, method, reader)
            }
            2 => {
                let Some(Partial::Head { returned, tag, redelivered }) = self.partial.take() else {
                    return Err(bad("a header without a method"));
                };
                let mut reader = Reader(payload.get(4..).unwrap_or_default());
                let bytes = usize::try_from(reader.u64()?).map_err(|_| bad("a body too long"))?;
                let message = Message { tag, redelivered, body: Vec::with_capacity(bytes) };
                Ok(self.body_came(returned, message, bytes))
            }
            3 => {
                let Some(Partial::Body { returned, mut message, missing }) = self.partial.take() else {
                    return Err(bad("a body without a header"));
                };
                let missing = missing.checked_sub(payload.len()).ok_or_else(|| bad("a body longer than it said"))?;
                message.body.extend_from_slice(&payload);
                Ok(self.body_came(returned, message, missing))
            }
            8 => Ok(None),
            _ => Err(bad("a frame of no kind")),
        }
    }

    fn method_came(
        &mut self,
        channel: u16,
        class: u16,
        method: u16,
        mut reader: Reader<'_>,
    ) -> io::Result<Option<Incoming>> {
        match (class, method) {
            (BASIC, 60) => {
                reader.text()?;
                self.partial =
                    Some(Partial::Head { returned: false, tag: reader.u64()?, redelivered: reader.u8()? & 1 != 0 });
                Ok(None)
            }
            (BASIC, 71) => {
                self.partial =
                    Some(Partial::Head { returned: false, tag: reader.u64()?, redelivered: reader.u8()? & 1 != 0 });
                Ok(None)
            }
            (BASIC, 50) => {
                self.partial = Some(Partial::Head { returned: true, tag: 0, redelivered: false });
                Ok(None)
            }
            (BASIC, 72) => Ok(Some(Incoming::GetEmpty)),
            (BASIC, 80) => Ok(Some(Incoming::Ack { tag: reader.u64()?, multiple: reader.u8()? & 1 != 0 })),
            (BASIC, 120) => Ok(Some(Incoming::Nack { tag: reader.u64()?, multiple: reader.u8()? & 1 != 0 })),
            (CHANNEL_CLASS, 40) => {
                let (code, text) = (reader.u16()?, reader.text()?);
                self.method(channel, CHANNEL_CLASS, 41, |_| {});
                self.flush()?;
                let kind = if code == 404 { ErrorKind::NotFound } else { ErrorKind::InvalidData };
                Err(io::Error::new(kind, format!("the channel was closed: {code} {text}")))
            }
            (CONNECTION, 50) => {
                let (code, text) = (reader.u16()?, reader.text()?);
                self.method(0, CONNECTION, 51, |_| {});
                // It may be gone already.
                let _ = self.flush();
                Err(io::Error::new(ErrorKind::ConnectionAborted, format!("the connection was closed: {code} {text}")))
            }
            _ => Ok(Some(Incoming::Method { class, method, arguments: reader.0.to_vec() })),
        }
    }

    fn body_came(&mut self, returned: bool, message: Message, missing: usize) -> Option<Incoming> {
        if missing > 0 {
            self.partial = Some(Partial::Body { returned, message, missing });
            return None;
        }
        Some(if returned { Incoming::Returned } else { Incoming::Message(message) })
    }

    fn method(&mut self, channel: u16, class: u16, method: u16, arguments: impl FnOnce(&mut Vec<u8>)) {
        frame(&mut self.out, 1, channel, |out| {
            out.extend_from_slice(&class.to_be_bytes());
            out.extend_from_slice(&method.to_be_bytes());
            arguments(out);
        });
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    payload(out);
    let size = u32::try_from(out.len() - size_at - 4).expect("no frame is that long");
    out[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

fn short_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).expect("a short text"));
    out.extend_from_slice(text.as_bytes());
}

fn long_text(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend_from_slice(&u32::try_from(octets.len()).expect("a text").to_be_bytes());
    out.extend_from_slice(octets);
}

fn bad(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, octets: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(octets).ok_or_else(|| bad("a method that ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> io::Result<u16> {
        let octets = self.take(2)?;
        Ok(u16::from_be_bytes([octets[0], octets[1]]))
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.take(8)?.try_into().map(u64::from_be_bytes).map_err(|_| bad("no number"))
    }

    fn text(&mut self) -> io::Result<String> {
        let octets = self.u8()?;
        Ok(String::from_utf8_lossy(self.take(octets.into())?).into_owned())
    }
}
