//! A client's socket as those above see it, plain or TLS: octets in, octets out, and who is at the other end.
//!
//! ```text
//!   listener ──▶ Entrance::enter ──▶ Client ─┬─ Reader   the connection's own task
//!                PROXY header, TLS           └─ Writer   whoever has something to send
//! ```
//!
//! Reading and writing never wait by themselves: `try_read` and `try_write` do what can be done at once, and `readable`
//! and `writable` wait. So a delivery can be written by the task that dispatched it, over TLS as well.

pub mod proxy;
#[cfg(test)]
pub mod simulated;
pub mod tls;

use crate::config::Network;
use proxy::Origin;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Duration, Instant};

/// A client that was let in.
#[derive(Debug)]
pub struct Client {
    pub reader: Reader,
    pub writer: Writer,
    /// Who speaks, perhaps as a trusted proxy says; an IPv4 address as what it is, whatever the listener.
    pub peer: SocketAddr,
    /// The address that it spoke to: ours, or a trusted proxy's.
    pub local: SocketAddr,
    /// When its connection was accepted.
    pub accepted: Instant,
    /// What was agreed on, if it speaks TLS.
    pub tls: Option<Arc<tls::Facts>>,
}

/// How clients come in by a listener.
#[derive(Debug, Clone)]
pub struct Entrance {
    /// Speaks TLS.
    pub tls: Option<Arc<tls::Acceptor>>,
    /// Who comes is a proxy, one of these, and says for whom.
    pub proxies: Option<Arc<[Network]>>,
    /// How long a proxy may take to say so.
    pub timeout: Duration,
    /// How long a client's system may take nothing of what is sent to it, before ours gives the connection up.
    pub write_timeout: Option<Duration>,
}

/// Why a client is not let in.
#[derive(Debug)]
pub enum Refused {
    /// It went, or its socket failed.
    Gone,
    /// It took too long, for what is named.
    Late(&'static str),
    /// It is none of the proxies.
    NoProxy,
    /// It is, and does not say for whom it comes.
    Proxy(&'static str),
    /// It speaks something else than TLS, shows no good certificate, or wants what is not offered.
    Handshake { text: String },
}

impl std::fmt::Display for Refused {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => out.write_str("the client went away"),
            Self::Late(what) => write!(out, "the {what} took too long"),
            Self::NoProxy => out.write_str("it is none of the proxies of proxy_protocol_trusted"),
            Self::Proxy(what) => write!(out, "its header of the PROXY protocol: {what}"),
            Self::Handshake { text } => write!(out, "TLS handshake failed: {text}"),
        }
    }
}

impl std::error::Error for Refused {}

impl From<io::Error> for Refused {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Entrance {
    /// Whether an address is one of the proxies: it then stands for many clients.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.as_ref().is_some_and(|proxies| proxies.iter().any(|network| network.contains(address)))
    }

    /// Makes a client of a connection, or says why it is not let in.
    pub async fn enter(&self, stream: TcpStream, peer: SocketAddr) -> Result<Client, Refused> {
        let accepted = Instant::now();
        // A packet is sent when there is something to send.
        let _ = stream.set_nodelay(true);
        if let Some(timeout) = self.write_timeout {
            // Whoever vanishes while it is not read can't be missed by its silence, and a few heartbeats always fit into the
            // socket. A quarter later than those who write look: they know more to say about it.
            let millis = u32::try_from((timeout * 5 / 4).as_millis()).unwrap_or(u32::MAX);
            let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, millis);
        }
        let local = stream.local_addr().unwrap_or(peer);
        let mut ends = [peer, local];
        if self.proxies.is_some() {
            if !self.is_proxy(peer.ip()) {
                return Err(Refused::NoProxy);
            }
            let origin = tokio::time::timeout_at(accepted + self.timeout, Box::pin(proxy::read(&stream))).await;
            if let Origin::Client { peer, local } =
                origin.map_err(|_| Refused::Late("header of the PROXY protocol"))??
            {
                ends = [peer, local];
            }
        }
        let [peer, local] = ends.map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
        let (reader, writer, tls) = match &self.tls {
            None => {
                let (reader, writer) = stream.into_split();
                (Reader::Plain(reader), Writer::Plain(writer), None)
            }
            Some(acceptor) => {
                // In a box, so that connections that are open don't carry the space for it.
                let (reader, writer, facts) = Box::pin(acceptor.accept(stream)).await?;
                (Reader::Tls(reader), Writer::Tls(writer), Some(Arc::new(facts)))
            }
        };
        Ok(Client { reader, writer, peer, local, accepted, tls })
    }
}

impl Client {
    /// Both directions as one, for those who read and write in one task.
    pub fn into_stream(self) -> Stream {
        Stream { reader: self.reader, writer: self.writer }
    }
}

/// What a client sends.
#[derive(Debug)]
pub enum Reader {
    Plain(OwnedReadHalf),
    Tls(tls::Reader),
    #[cfg(test)]
    Simulated(Arc<simulated::Way>),
}

impl Reader {
    /// Waits until [`Reader::try_read`] has a chance. Safe to drop while it waits.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Plain(half) => half.readable().await,
            Self::Tls(reader) => reader.readable().await,
            #[cfg(test)]
            Self::Simulated(way) => {
                way.readable().await;
                Ok(())
            }
        }
    }

    /// Waits until the client has sent something that was not read, or has hung up. [`Reader::readable`] may be wrong about
    /// that. Safe to drop while it waits.
    pub async fn heard(&self) -> io::Result<()> {
        let socket: &TcpStream = match self {
            Self::Plain(half) => half.as_ref(),
            Self::Tls(reader) if reader.holds_some() => return Ok(()),
            Self::Tls(reader) => reader.socket(),
            #[cfg(test)]
            Self::Simulated(_) => return self.readable().await,
        };
        socket.peek(&mut [0]).await.map(drop)
    }

    /// Whether the client's side is closed, though there may be octets of its that were not read.
    pub fn has_hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let socket: &TcpStream = match self {
            Self::Plain(half) => half.as_ref(),
            Self::Tls(reader) => reader.socket(),
            #[cfg(test)]
            Self::Simulated(way) => return way.has_ended(),
        };
        let mut look = [PollFd::new(socket, PollFlags::RDHUP)];
        poll(&mut look, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|found| found > 0)
    }

    /// Reads what is there; 0 is the end. `WouldBlock` if nothing is there.
    pub fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.try_read(out),
            Self::Tls(reader) => reader.try_read(out),
            #[cfg(test)]
            Self::Simulated(way) => way.try_read(out),
        }
    }
}

/// What is sent to a client.
#[derive(Debug)]
pub enum Writer {
    Plain(OwnedWriteHalf),
    Tls(tls::Writer),
    #[cfg(test)]
    Simulated(Arc<simulated::Way>),
}

impl Writer {
    /// Waits until [`Writer::try_write`] has a chance. Safe to drop while it waits.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Plain(half) => half.writable().await,
            Self::Tls(writer) => writer.writable().await,
            #[cfg(test)]
            Self::Simulated(way) => {
                way.writable().await;
                Ok(())
            }
        }
    }

    /// Takes as much as it can at once. `WouldBlock` if the socket is full.
    pub fn try_write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(half) => half.try_write(octets),
            Self::Tls(writer) => writer.try_write(octets),
            #[cfg(test)]
            Self::Simulated(way) => way.try_write(octets),
        }
    }

    /// Whether something that was taken is not yet with the socket: another [`Writer::try_write`], even of nothing, is
    /// to follow when the socket takes more.
    pub fn is_behind(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            #[cfg(test)]
            Self::Simulated(_) => false,
            Self::Tls(writer) => writer.is_behind(),
        }
    }

    /// Says that nothing more comes.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(half) => half.shutdown().await,
            Self::Tls(writer) => writer.shutdown(),
            #[cfg(test)]
            Self::Simulated(way) => {
                way.end();
                Ok(())
            }
        }
    }
}

/// Both directions of a client, as tokio's traits have them.
#[derive(Debug)]
pub struct Stream {
    reader: Reader,
    writer: Writer,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let reader = match &mut self.reader {
            Reader::Plain(half) => return Pin::new(half).poll_read(cx, out),
            Reader::Tls(reader) => reader,
            #[cfg(test)]
            Reader::Simulated(_) => unreachable!("HTTP is not simulated"),
        };
        loop {
            ready!(reader.poll_readable(cx))?;
            match reader.try_read(out.initialize_unfilled()) {
                Ok(count) => {
                    out.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.writer {
            Writer::Plain(half) => Pin::new(half).poll_write(cx, octets),
            Writer::Tls(writer) => writer.poll_write(cx, octets),
            #[cfg(test)]
            Writer::Simulated(_) => unreachable!("HTTP is not simulated"),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.writer {
            Writer::Plain(half) => Pin::new(half).poll_flush(cx),
            Writer::Tls(writer) => writer.poll_flush(cx),
            #[cfg(test)]
            Writer::Simulated(_) => unreachable!("HTTP is not simulated"),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.writer {
            Writer::Plain(half) => Pin::new(half).poll_shutdown(cx),
            Writer::Tls(writer) => {
                ready!(writer.poll_flush(cx))?;
                Poll::Ready(writer.shutdown())
            }
            #[cfg(test)]
            Writer::Simulated(_) => unreachable!("HTTP is not simulated"),
        }
    }
}
