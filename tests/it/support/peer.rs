//! A client that speaks frames, blocking and with a deadline for everything: a test reads as a conversation.

use super::{Broker, PATIENCE};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, exchange, parse_class, queue, tx};
use amq_protocol::types::{AMQPValue, FieldTable};
use leveret::amqp::properties::ContentHeader;
use leveret::amqp::{PROTOCOL_HEADER, frame, method};
use rustls::ClientConnection;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// The raw properties of a message that has none.
pub const PLAIN: &[u8] = leveret::amqp::properties::NO_PROPERTIES;
/// The raw properties of a message with delivery mode 2 and nothing else.
pub const PERSISTENT: &[u8] = &[0x10, 0x00, 2];

/// The rules of a connection while nothing else is negotiated.
const FRAME_MAX: u32 = 131_072;

pub struct Peer {
    socket: TcpStream,
    /// What its octets go through, if it speaks TLS.
    tls: Option<Box<ClientConnection>>,
    buffer: Vec<u8>,
    at: usize,
    pub frame_max: u32,
}

/// What came.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    Method(u16, AMQPClass),
    Header { channel: u16, body_bytes: u64, properties: Vec<u8> },
    Body(u16, Vec<u8>),
    Heartbeat,
}

/// A message that came by basic.deliver, basic.get-ok or basic.return.
#[derive(Debug, PartialEq, Clone)]
pub struct Content {
    pub tag: u64,
    pub redelivered: bool,
    pub exchange: String,
    pub routing_key: String,
    pub properties: Vec<u8>,
    pub body: Vec<u8>,
}

/// A queue to be declared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Declare<'a> {
    pub name: &'a str,
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub passive: bool,
}

impl<'a> Declare<'a> {
    pub fn durable(name: &'a str) -> Self {
        Self { name, durable: true, ..Self::default() }
    }

    pub fn transient(name: &'a str) -> Self {
        Self { name, ..Self::default() }
    }

    pub fn passive(name: &'a str) -> Self {
        Self { name, passive: true, ..Self::default() }
    }
}

impl Peer {
    /// A socket and nothing said.
    pub fn silent(broker: &Broker) -> Self {
        Self::silent_at(([127, 0, 0, 1], broker.port()).into())
    }

    /// The same, wherever the broker listens.
    pub fn silent_at(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).unwrap())
    }

    /// The same over a socket that is connected.
    pub fn on(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, tls: None, buffer: Vec::new(), at: 0, frame_max: FRAME_MAX }
    }

    /// Speaks TLS from here on. A handshake that fails is an error here or, with TLS 1.3, of the first read.
    pub fn start_tls(&mut self, mut tls: ClientConnection) -> std::io::Result<()> {
        while tls.is_handshaking() {
            tls.complete_io(&mut self.socket)?;
        }
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// The session, for what was agreed on.
    pub fn tls(&self) -> &ClientConnection {
        self.tls.as_ref().expect("it speaks TLS")
    }

    fn write_all(&mut self, octets: &[u8]) -> std::io::Result<()> {
        match &mut self.tls {
            None => self.socket.write_all(octets),
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.socket).write_all(octets),
        }
    }

    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(out),
            Some(tls) => rustls::Stream::new(tls.as_mut(), &mut self.socket).read(out),
        }
    }

    /// A connection as guest, without a channel.
    pub fn connect(broker: &Broker) -> Self {
        Self::connect_with(broker, FRAME_MAX, 0)
    }

    /// A connection with other limits.
    pub fn connect_with(broker: &Broker, frame_max: u32, channel_max: u16) -> Self {
        let mut peer = Self::silent(broker);
        peer.log_in();
        peer.enter(frame_max, channel_max);
        peer
    }

    /// Opens a connection as guest, with channel 1, on a socket on which nothing was said.
    pub fn opened(mut self) -> Self {
        self.log_in();
        self.enter(FRAME_MAX, 0);
        self.open_channel(1);
        self
    }

    /// The same with heartbeats of so many seconds.
    pub fn opened_with_heartbeats(mut self, seconds: u16) -> Self {
        self.log_in();
        self.tune_ok(seconds);
        self.open_vhost("/");
        self.expect_open_ok();
        self.open_channel(1);
        self
    }

    /// A connection with channel 1 open, of a client with these capabilities.
    pub fn open_capable(broker: &Broker, capabilities: &[&str]) -> Self {
        let mut can = FieldTable::default();
        for name in capabilities {
            can.insert((*name).into(), AMQPValue::Boolean(true));
        }
        let mut client_properties = FieldTable::default();
        client_properties.insert("capabilities".into(), AMQPValue::FieldTable(can));
        let mut peer = Self::silent(broker);
        peer.octets(PROTOCOL_HEADER);
        peer.expect_start();
        peer.start_ok("PLAIN", b"\0guest\0guest", client_properties);
        peer.expect_tune();
        peer.enter(FRAME_MAX, 0);
        peer.open_channel(1);
        peer
    }

    /// A connection of this user, whose password is the name, up to connection.open of a virtual host.
    pub fn knock(broker: &Broker, user: &str, vhost: &str) -> Self {
        let mut peer = Self::silent(broker);
        peer.octets(PROTOCOL_HEADER);
        peer.expect_start();
        peer.start_ok("PLAIN", format!("\0{user}\0{user}").as_bytes(), FieldTable::default());
        peer.expect_tune();
        peer.tune_ok(0);
        peer.open_vhost(vhost);
        peer
    }

    /// The same with channel 1 open.
    pub fn open_as(broker: &Broker, user: &str, vhost: &str) -> Self {
        let mut peer = Self::knock(broker, user, vhost);
        peer.expect_open_ok();
        peer.open_channel(1);
        peer
    }

    /// From connection.tune on.
    fn enter(&mut self, frame_max: u32, channel_max: u16) {
        let channel_max = if channel_max == 0 { 2047 } else { channel_max };
        self.connection(connection::AMQPMethod::TuneOk(connection::TuneOk { channel_max, frame_max, heartbeat: 0 }));
        self.frame_max = frame_max;
        self.open_vhost("/");
        self.expect_open_ok();
    }

    /// A connection with channel 1 open.
    pub fn open(broker: &Broker) -> Self {
        let mut peer = Self::connect(broker);
        peer.open_channel(1);
        peer
    }

    /// Up to connection.tune.
    pub fn log_in(&mut self) -> connection::Tune {
        self.octets(PROTOCOL_HEADER);
        self.expect_start();
        self.start_ok("PLAIN", b"\0guest\0guest", FieldTable::default());
        self.expect_tune()
    }

    pub fn expect_tune(&mut self) -> connection::Tune {
        match self.next() {
            Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune))) => tune,
            other => panic!("expected connection.tune, not {other:?}"),
        }
    }

    /// connection.start, or `None` if the broker went, or ended the TLS handshake.
    pub fn try_start(&mut self) -> Option<connection::Start> {
        let mut first = [0; 1];
        let count = self.read(&mut first).ok().filter(|count| *count > 0)?;
        self.buffer.extend_from_slice(&first[..count]);
        Some(self.expect_start())
    }

    pub fn expect_start(&mut self) -> connection::Start {
        match self.next() {
            Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Start(start))) => start,
            other => panic!("expected connection.start, not {other:?}"),
        }
    }

    pub fn start_ok(&mut self, mechanism: &str, response: &[u8], client_properties: FieldTable) {
        self.connection(connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties,
            mechanism: mechanism.into(),
            response: response.into(),
            locale: "en_US".into(),
        }));
    }

    /// Agrees to what a broker offers by itself.
    pub fn tune_ok(&mut self, heartbeat: u16) {
        let (channel_max, frame_max) = (2047, FRAME_MAX);
        self.connection(connection::AMQPMethod::TuneOk(connection::TuneOk { channel_max, frame_max, heartbeat }));
    }

    /// This end's port and the broker's.
    pub fn ports(&self) -> (u16, u16) {
        (self.socket.local_addr().unwrap().port(), self.socket.peer_addr().unwrap().port())
    }

    pub fn open_vhost(&mut self, name: &str) {
        self.connection(connection::AMQPMethod::Open(connection::Open { virtual_host: name.into() }));
    }

    pub fn expect_open_ok(&mut self) {
        self.expect(0, &AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {})));
    }

    // ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Octets, whatever they mean.
    pub fn octets(&mut self, octets: &[u8]) {
        self.write_all(octets).unwrap();
    }

    /// Octets that the broker need not take any more.
    pub fn try_octets(&mut self, octets: &[u8]) -> std::io::Result<()> {
        self.write_all(octets)
    }

    /// A frame with a right envelope.
    pub fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let mut out = Vec::new();
        frame::write(&mut out, kind, channel, |out| out.extend_from_slice(payload));
        self.octets(&out);
    }

    pub fn method(&mut self, channel: u16, class: AMQPClass) {
        let mut out = Vec::new();
        method::write(&mut out, channel, &class);
        self.octets(&out);
    }

    pub fn connection(&mut self, method: connection::AMQPMethod) {
        self.method(0, AMQPClass::Connection(method));
    }

    pub fn basic(&mut self, channel: u16, method: basic::AMQPMethod) {
        self.method(channel, AMQPClass::Basic(method));
    }

    pub fn open_channel(&mut self, number: u16) {
        self.method(number, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {})));
        self.expect(number, &AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {})));
    }

    pub fn close_channel(&mut self, number: u16) {
        self.method(number, close_channel());
        self.expect(number, &AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
    }

    /// Says good-bye properly, and waits for the answer: all this peer did before is done.
    pub fn close(mut self) {
        self.say_close();
        while let Some(incoming) = self.try_next() {
            if let Incoming::Method(0, class) = incoming {
                let ok = AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
                assert_eq!(class, ok);
                return;
            }
        }
        panic!("the socket ended without close-ok");
    }

    pub fn say_close(&mut self) {
        self.connection(connection::AMQPMethod::Close(connection::Close {
            reply_code: 200,
            reply_text: "bye".into(),
            class_id: 0,
            method_id: 0,
        }));
    }

    /// The messages and consumers of a queue.
    pub fn declare(&mut self, channel: u16, queue: Declare<'_>) -> (u32, u32) {
        self.declare_with(channel, queue, FieldTable::default())
    }

    /// The same with arguments.
    pub fn declare_with(&mut self, channel: u16, queue: Declare<'_>, arguments: FieldTable) -> (u32, u32) {
        self.method(channel, declare_queue(queue, arguments));
        match self.next() {
            Incoming::Method(number, AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok))) if number == channel => {
                (ok.message_count, ok.consumer_count)
            }
            other => panic!("expected queue.declare-ok, not {other:?}"),
        }
    }

    pub fn declare_exchange(&mut self, channel: u16, name: &str, kind: &str, durable: bool) {
        self.method(
            channel,
            AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
                exchange: name.into(),
                kind: kind.into(),
                passive: false,
                durable,
                auto_delete: false,
                internal: false,
                nowait: false,
                arguments: FieldTable::default(),
            })),
        );
        self.expect(channel, &AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(exchange::DeclareOk {})));
    }

    pub fn bind(&mut self, channel: u16, queue: &str, exchange: &str, routing_key: &str) {
        self.bind_with(channel, queue, exchange, routing_key, FieldTable::default());
    }

    pub fn bind_with(&mut self, channel: u16, queue: &str, exchange: &str, routing_key: &str, arguments: FieldTable) {
        self.method(channel, bind_queue(queue, exchange, routing_key, arguments));
        self.expect(channel, &AMQPClass::Queue(queue::AMQPMethod::BindOk(queue::BindOk {})));
    }

    pub fn delete_queue(&mut self, channel: u16, name: &str) {
        self.method(
            channel,
            AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
                queue: name.into(),
                if_unused: false,
                if_empty: false,
                nowait: false,
            })),
        );
        match self.next() {
            Incoming::Method(number, AMQPClass::Queue(queue::AMQPMethod::DeleteOk(_))) if number == channel => {}
            other => panic!("expected queue.delete-ok, not {other:?}"),
        }
    }

    pub fn confirm_select(&mut self, channel: u16) {
        self.method(channel, AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false })));
        self.expect(channel, &AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(confirm::SelectOk {})));
    }

    pub fn tx_select(&mut self, channel: u16) {
        self.method(channel, AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {})));
        self.expect(channel, &AMQPClass::Tx(tx::AMQPMethod::SelectOk(tx::SelectOk {})));
    }

    pub fn tx_commit(&mut self, channel: u16) {
        self.method(channel, AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {})));
        self.expect(channel, &AMQPClass::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {})));
    }

    /// To the default exchange.
    pub fn publish(&mut self, channel: u16, queue: &str, properties: &[u8], body: &[u8]) {
        let mut out = Vec::new();
        write_publish(&mut out, channel, "", queue, properties, body, self.frame_max);
        self.octets(&out);
    }

    /// Starts a consumer called `tag`.
    pub fn consume(&mut self, channel: u16, queue: &str, tag: &str, no_ack: bool) {
        self.basic(channel, basic::AMQPMethod::Consume(consume(queue, tag, no_ack, false)));
        let ok = basic::ConsumeOk { consumer_tag: tag.into() };
        self.expect(channel, &AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)));
    }

    /// The same without an answer.
    pub fn consume_quietly(&mut self, channel: u16, queue: &str, tag: &str, no_ack: bool) {
        self.basic(channel, basic::AMQPMethod::Consume(consume(queue, tag, no_ack, true)));
    }

    pub fn qos(&mut self, channel: u16, prefetch_count: u16) {
        self.basic(channel, basic::AMQPMethod::Qos(basic::Qos { prefetch_count, global: false }));
        self.expect(channel, &AMQPClass::Basic(basic::AMQPMethod::QosOk(basic::QosOk {})));
    }

    pub fn ack(&mut self, channel: u16, delivery_tag: u64, multiple: bool) {
        self.basic(channel, basic::AMQPMethod::Ack(basic::Ack { delivery_tag, multiple }));
    }

    pub fn nack(&mut self, channel: u16, delivery_tag: u64, multiple: bool, requeue: bool) {
        self.basic(channel, basic::AMQPMethod::Nack(basic::Nack { delivery_tag, multiple, requeue }));
    }

    pub fn reject(&mut self, channel: u16, delivery_tag: u64, requeue: bool) {
        self.basic(channel, basic::AMQPMethod::Reject(basic::Reject { delivery_tag, requeue }));
    }

    /// basic.get: the message, or `None` if the queue is empty.
    pub fn get(&mut self, channel: u16, queue: &str, no_ack: bool) -> Option<Content> {
        self.basic(channel, basic::AMQPMethod::Get(basic::Get { queue: queue.into(), no_ack }));
        self.expect_got()
    }

    // ── receiving ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// The answer to a basic.get.
    pub fn expect_got(&mut self) -> Option<Content> {
        match self.next() {
            Incoming::Method(_, AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_))) => None,
            Incoming::Method(channel, AMQPClass::Basic(basic::AMQPMethod::GetOk(ok))) => {
                let (properties, body) = self.content(channel);
                Some(Content {
                    tag: ok.delivery_tag,
                    redelivered: ok.redelivered,
                    exchange: ok.exchange.to_string(),
                    routing_key: ok.routing_key.to_string(),
                    properties,
                    body,
                })
            }
            other => panic!("expected an answer to basic.get, not {other:?}"),
        }
    }

    pub fn expect_delivery(&mut self) -> Content {
        match self.next() {
            Incoming::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver))) => {
                let (properties, body) = self.content(channel);
                Content {
                    tag: deliver.delivery_tag,
                    redelivered: deliver.redelivered,
                    exchange: deliver.exchange.to_string(),
                    routing_key: deliver.routing_key.to_string(),
                    properties,
                    body,
                }
            }
            other => panic!("expected basic.deliver, not {other:?}"),
        }
    }

    /// Reads confirms until everything up to `last` is confirmed. They may come one by one or together.
    pub fn expect_confirms(&mut self, first: u64, last: u64) {
        let mut next = first;
        while next <= last {
            next = self.confirmed(next).expect("an acknowledgement");
        }
        assert_eq!(next, last + 1, "more was confirmed than published");
    }

    /// Reads one confirm, in order. `next` is the first number that is not confirmed; the answer is the new one, or
    /// `None` when the broker has gone.
    pub fn confirmed(&mut self, next: u64) -> Option<u64> {
        match self.try_next()? {
            Incoming::Method(_, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => {
                assert!(ack.multiple || ack.delivery_tag == next, "confirm {ack:?} leaves out {next}");
                assert!(ack.delivery_tag >= next, "confirmed twice: {ack:?}, expected {next}");
                Some(ack.delivery_tag + 1)
            }
            other => panic!("expected basic.ack, not {other:?}"),
        }
    }

    /// A message on the channel's own queue is confirmed and delivered, whichever comes first.
    pub fn expect_confirmed_and_delivered(&mut self, body: &[u8]) {
        let (mut is_confirmed, mut is_delivered) = (false, false);
        while !is_confirmed || !is_delivered {
            match self.next() {
                Incoming::Method(_, AMQPClass::Basic(basic::AMQPMethod::Ack(_))) => is_confirmed = true,
                Incoming::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Deliver(_))) => {
                    assert_eq!(self.content(channel).1, body);
                    is_delivered = true;
                }
                other => panic!("neither a confirm nor a delivery: {other:?}"),
            }
        }
    }

    fn content(&mut self, number: u16) -> (Vec<u8>, Vec<u8>) {
        let Incoming::Header { channel, body_bytes, properties } = self.next() else { panic!("no content header") };
        assert_eq!(channel, number);
        let mut body = Vec::new();
        while (body.len() as u64) < body_bytes {
            let Incoming::Body(channel, piece) = self.next() else { panic!("no content body") };
            assert_eq!(channel, number);
            body.extend_from_slice(&piece);
        }
        assert_eq!(body.len() as u64, body_bytes);
        (properties, body)
    }

    pub fn expect(&mut self, channel: u16, class: &AMQPClass) {
        match self.next() {
            Incoming::Method(number, found) if number == channel && found == *class => {}
            other => panic!("expected {class:?} on channel {channel}, not {other:?}"),
        }
    }

    /// The broker closes the connection; the close is answered, and the socket ends.
    pub fn expect_connection_close(&mut self, code: u16, text: &str) {
        match self.next() {
            Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
                assert_eq!(close.reply_code, code, "{close:?}");
                assert!(close.reply_text.as_str().starts_with(text), "{close:?}");
            }
            other => panic!("expected connection.close {code}, not {other:?}"),
        }
        let mut out = Vec::new();
        method::write(&mut out, 0, &AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})));
        // After octets that are no frames the broker does not wait for an answer.
        let _ = self.write_all(&out);
        self.expect_eof();
    }

    /// The broker closes a channel; the close is answered.
    pub fn expect_channel_close(&mut self, channel: u16, code: u16, text: &str) {
        self.expect_channel_close_unanswered(channel, code, text);
        self.method(channel, AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})));
    }

    pub fn expect_channel_close_unanswered(&mut self, channel: u16, code: u16, text: &str) {
        match self.next() {
            Incoming::Method(number, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                assert_eq!((number, close.reply_code), (channel, code), "{close:?}");
                assert!(close.reply_text.as_str().starts_with(text), "{close:?}");
            }
            other => panic!("expected channel.close {code}, not {other:?}"),
        }
    }

    /// Nothing more comes, and the socket ends.
    pub fn expect_eof(&mut self) {
        if let Some(other) = self.try_next() {
            panic!("expected the end, not {other:?}");
        }
    }

    /// The octets up to the end, whatever they mean.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = self.buffer.split_off(self.at);
        self.buffer.clear();
        self.at = 0;
        let mut piece = [0; 4096];
        loop {
            match self.read(&mut piece) {
                Ok(0) => return rest,
                Ok(count) => rest.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return rest,
                Err(error) => panic!("neither more octets nor an end: {error}"),
            }
        }
    }

    pub fn next(&mut self) -> Incoming {
        self.try_next().expect("the broker closed the socket")
    }

    /// The next frame, or `None` when the socket has ended.
    pub fn try_next(&mut self) -> Option<Incoming> {
        loop {
            if let Some((frame, length)) = frame::split(&self.buffer[self.at..], 0).unwrap() {
                let incoming = match frame.kind {
                    frame::METHOD => match parse_class(frame.payload) {
                        Ok(([], class)) => Incoming::Method(frame.channel, class),
                        other => panic!("not a method: {other:?}"),
                    },
                    frame::HEADER => {
                        let header = ContentHeader::parse(frame.payload).expect("a content header");
                        Incoming::Header {
                            channel: frame.channel,
                            body_bytes: header.body_bytes,
                            properties: header.properties.to_vec(),
                        }
                    }
                    frame::BODY => Incoming::Body(frame.channel, frame.payload.to_vec()),
                    frame::HEARTBEAT => Incoming::Heartbeat,
                    other => panic!("frame of type {other}"),
                };
                assert!(length <= self.frame_max as usize, "a frame of {length} octets");
                self.at += length;
                return Some(incoming);
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            let mut piece = [0; 64 << 10];
            match self.read(&mut piece) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    /// Writes as much as the socket takes in its time; says how much that was.
    pub fn write_some(&mut self, octets: &[u8]) -> usize {
        self.socket.write(octets).unwrap_or(0)
    }

    /// Drops what has come so far, unread.
    pub fn drop_answers(&mut self) {
        self.socket.set_nonblocking(true).unwrap();
        let mut piece = [0; 64 << 10];
        while matches!(self.socket.read(&mut piece), Ok(1..)) {}
        self.socket.set_nonblocking(false).unwrap();
    }

    /// A second hold on the same socket, to write while this one reads.
    pub fn second_hold(&self) -> TcpStream {
        self.socket.try_clone().unwrap()
    }

    /// Goes without a word.
    pub fn vanish(self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Says no more, and reads nothing of what comes.
    pub fn half_close(self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// How long a write may wait, for peers that fill the socket on purpose.
    pub fn write_timeout(&self, timeout: Duration) {
        self.socket.set_write_timeout(Some(timeout)).unwrap();
    }
}

/// Appends basic.publish with its content.
pub fn write_publish(
    out: &mut Vec<u8>,
    channel: u16,
    exchange: &str,
    routing_key: &str,
    properties: &[u8],
    body: &[u8],
    frame_max: u32,
) {
    method::write_publish(out, channel, exchange, routing_key, false);
    write_header(out, channel, body.len() as u64, properties);
    frame::write_body(out, channel, body, frame_max);
}

/// Appends a content header.
pub fn write_header(out: &mut Vec<u8>, channel: u16, body_bytes: u64, properties: &[u8]) {
    frame::write(out, frame::HEADER, channel, |out| ContentHeader::write(out, body_bytes, properties));
}

fn consume(queue: &str, tag: &str, no_ack: bool, nowait: bool) -> basic::Consume {
    basic::Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        no_local: false,
        no_ack,
        exclusive: false,
        nowait,
        arguments: FieldTable::default(),
    }
}

pub fn bind_queue(queue: &str, exchange: &str, routing_key: &str, arguments: FieldTable) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        nowait: false,
        arguments,
    }))
}

pub fn declare_queue(queue: Declare<'_>, arguments: FieldTable) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: queue.name.into(),
        passive: queue.passive,
        durable: queue.durable,
        exclusive: queue.exclusive,
        auto_delete: queue.auto_delete,
        nowait: false,
        arguments,
    }))
}

pub fn close_channel() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    }))
}
