//! A client in a simulation: it speaks frames over a connection in memory.

use crate::amqp::frame::{self, Frame};
use crate::amqp::properties::ContentHeader;
use crate::amqp::{PROTOCOL_HEADER, Table, method};
use crate::transport::simulated::Way;
use amq_protocol::protocol::{AMQPClass, basic, channel, connection, parse_class};
use std::sync::Arc;

/// The connection is gone, or the broker closed it or the channel, with these words.
#[derive(Debug)]
pub struct Gone(pub String);

pub type Outcome<T> = Result<T, Gone>;

/// A message that came.
#[derive(Debug)]
pub struct Content {
    pub method: AMQPClass,
    pub body: Vec<u8>,
}

#[derive(Debug)]
pub enum Heard {
    Method(AMQPClass),
    Content(Content),
}

/// A connection with channel 1 open.
#[derive(Debug)]
pub struct Client {
    to: Arc<Way>,
    from: Arc<Way>,
    octets: Vec<u8>,
    /// A message of which parts are missing: its method, its body's length, what came of it.
    partial: Option<(AMQPClass, Option<u64>, Vec<u8>)>,
}

const FRAME_MAX: u32 = 131_072;

impl Client {
    /// Logs in and opens channel 1.
    pub async fn open(to: Arc<Way>, from: Arc<Way>) -> Outcome<Self> {
        use connection::AMQPMethod as M;
        let mut client = Self { to, from, octets: Vec::new(), partial: None };
        client.send(PROTOCOL_HEADER).await?;
        client.method().await?;
        let start_ok = connection::StartOk {
            client_properties: Table::default(),
            mechanism: "PLAIN".into(),
            response: "\0guest\0guest".into(),
            locale: "en_US".into(),
        };
        client.call(0, AMQPClass::Connection(M::StartOk(start_ok))).await?;
        let tune_ok = connection::TuneOk { channel_max: 2047, frame_max: FRAME_MAX, heartbeat: 0 };
        let mut out = Vec::new();
        method::write(&mut out, 0, &AMQPClass::Connection(M::TuneOk(tune_ok)));
        client.send(&out).await?;
        client.call(0, AMQPClass::Connection(M::Open(connection::Open { virtual_host: "/".into() }))).await?;
        client.call(1, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))).await?;
        Ok(client)
    }

    pub async fn send(&mut self, mut octets: &[u8]) -> Outcome<()> {
        while !octets.is_empty() {
            self.to.writable().await;
            match self.to.try_write(octets) {
                Ok(count) => octets = &octets[count..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Gone(error.to_string())),
            }
        }
        Ok(())
    }

    /// Asks for something and waits for the answer. Messages must not be on their way.
    pub async fn call(&mut self, channel: u16, class: AMQPClass) -> Outcome<AMQPClass> {
        let mut out = Vec::new();
        method::write(&mut out, channel, &class);
        self.send(&out).await?;
        self.method().await
    }

    async fn method(&mut self) -> Outcome<AMQPClass> {
        match self.next().await? {
            Heard::Method(class) => Ok(class),
            Heard::Content(_) => Err(Gone("a message instead of an answer".into())),
        }
    }

    /// The next method or whole message. Safe to drop while it waits.
    pub async fn next(&mut self) -> Outcome<Heard> {
        loop {
            let split = frame::split(&self.octets, FRAME_MAX).map_err(|malformed| Gone(format!("{malformed:?}")))?;
            let Some((Frame { kind, payload, .. }, length)) = split else {
                self.fill().await?;
                continue;
            };
            let heard = match kind {
                frame::METHOD => self::heard(payload, &mut self.partial)?,
                frame::HEADER => {
                    let bytes = ContentHeader::parse(payload).ok_or_else(|| Gone("a broken header".into()))?.body_bytes;
                    let (_, length, _) = self.partial.as_mut().ok_or_else(|| Gone("a header on its own".into()))?;
                    *length = Some(bytes);
                    None
                }
                frame::BODY => {
                    let (_, _, body) = self.partial.as_mut().ok_or_else(|| Gone("a body on its own".into()))?;
                    body.extend_from_slice(payload);
                    None
                }
                _ => None,
            };
            self.octets.drain(..length);
            if let Some((method, Some(bytes), body)) =
                self.partial.take_if(|(_, bytes, body)| *bytes == Some(body.len() as u64))
            {
                debug_assert_eq!(bytes, body.len() as u64);
                return Ok(Heard::Content(Content { method, body }));
            }
            if let Some(method) = heard {
                return Ok(Heard::Method(method));
            }
        }
    }

    async fn fill(&mut self) -> Outcome<()> {
        loop {
            self.from.readable().await;
            let mut octets = [0; 4096];
            match self.from.try_read(&mut octets) {
                Ok(0) => return Err(Gone("the broker hung up".into())),
                Ok(count) => {
                    self.octets.extend_from_slice(&octets[..count]);
                    return Ok(());
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Gone(error.to_string())),
            }
        }
    }

    /// Goes without a word.
    pub fn vanish(self) {
        self.to.cut();
        self.from.cut();
    }

    /// Ends the connection as it should be.
    pub async fn close(mut self) -> Outcome<()> {
        let close = connection::Close { reply_code: 200, reply_text: "bye".into(), class_id: 0, method_id: 0 };
        let mut out = Vec::new();
        method::write(&mut out, 0, &AMQPClass::Connection(connection::AMQPMethod::Close(close)));
        self.send(&out).await?;
        loop {
            if let Heard::Method(AMQPClass::Connection(connection::AMQPMethod::CloseOk(_))) = self.next().await? {
                return Ok(());
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.to.end();
    }
}

/// A method that stands for itself, or the beginning of a message.
fn heard(payload: &[u8], partial: &mut Option<(AMQPClass, Option<u64>, Vec<u8>)>) -> Outcome<Option<AMQPClass>> {
    let (_, class) = parse_class(payload).map_err(|_| Gone("a broken method".into()))?;
    match class {
        AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
            Err(Gone(format!("{} {}", close.reply_code, close.reply_text)))
        }
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            Err(Gone(format!("{} {}", close.reply_code, close.reply_text)))
        }
        AMQPClass::Basic(
            basic::AMQPMethod::Deliver(_) | basic::AMQPMethod::GetOk(_) | basic::AMQPMethod::Return(_),
        ) => {
            *partial = Some((class, None, Vec::new()));
            Ok(None)
        }
        class => Ok(Some(class)),
    }
}
