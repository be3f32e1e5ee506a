//! One client's TLS session, shared by the task that reads and by whoever writes.
//!
//! `rustls` knows no sockets: octets go in and come out under a short lock, and both halves move them from and to the
//! socket. What the socket doesn't take stays in the session, at most [`UNSENT_BYTES_MAX`], and then nothing more is
//! taken from those who write.

use parking_lot::Mutex;
use rustls::ServerConnection;
use std::cell::RefCell;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;

/// Octets of records that wait for the socket.
const UNSENT_BYTES_MAX: usize = 64 << 10;
/// Read from a socket at once.
const SOCKET_READ_BYTES: usize = 32 << 10;

thread_local! {
    /// What a socket brought, until it is decrypted: a connection that waits has no buffer for it.
    static FETCHED: RefCell<Box<[u8]>> = RefCell::new(vec![0; SOCKET_READ_BYTES].into());
}

#[derive(Debug)]
struct Session {
    stream: TcpStream,
    tls: Mutex<ServerConnection>,
}

impl Session {
    /// Writes records until the socket is full; says whether all are gone.
    fn send(&self, tls: &mut ServerConnection) -> io::Result<bool> {
        while tls.wants_write() {
            match tls.write_tls(&mut Socket(&self.stream)) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The halves of a session whose handshake is over.
pub(super) fn split(stream: TcpStream, mut tls: ServerConnection) -> (Reader, Writer) {
    tls.set_buffer_limit(Some(UNSENT_BYTES_MAX));
    let session = Arc::new(Session { stream, tls: Mutex::new(tls) });
    // The client may have sent more than the end of its handshake.
    let reader =
        Reader { session: Arc::clone(&session), left: Vec::new(), at: 0, more: true, full: false, fault: None };
    (reader, Writer { session, is_behind: false })
}

/// The reading half.
#[derive(Debug)]
pub struct Reader {
    session: Arc<Session>,
    /// What was fetched from the socket and not yet decrypted, from `at` on: for want of space where it was to go.
    left: Vec<u8>,
    at: usize,
    /// There may be more without the socket's doing.
    more: bool,
    /// The last read had no space for more.
    full: bool,
    /// What is wrong behind the octets that were read last.
    fault: Option<io::Error>,
}

impl Reader {
    pub async fn readable(&self) -> io::Result<()> {
        if self.more { Ok(()) } else { self.session.stream.readable().await }
    }

    /// Whether there are octets that were fetched from the socket and not read.
    pub(in crate::transport) fn holds_some(&self) -> bool {
        self.full || self.at < self.left.len() || self.fault.is_some()
    }

    pub(in crate::transport) fn socket(&self) -> &TcpStream {
        &self.session.stream
    }

    pub(in crate::transport) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.more { Poll::Ready(Ok(())) } else { self.session.stream.poll_read_ready(cx) }
    }

    /// Reads and decrypts what is there; 0 is the end, said or not.
    pub fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let mut filled = 0;
        let outcome = self.fill(out, &mut filled);
        let would_block = matches!(&outcome, Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.more = !would_block;
        self.full = filled == out.len();
        if filled == 0 {
            return outcome.map(|()| 0);
        }
        self.fault = outcome.err().filter(|_| !would_block);
        Ok(filled)
    }

    /// Ends well if `out` is full, the peer has ended, or the socket had less than was asked of it.
    fn fill(&mut self, out: &mut [u8], filled: &mut usize) -> io::Result<()> {
        loop {
            if self.decrypt(out, filled)? {
                return Ok(());
            }
            let go_on = FETCHED.with_borrow_mut(|fetched| {
                let count = self.session.stream.try_read(fetched)?;
                let mut rest = &fetched[..count];
                let mut tls = self.session.tls.lock();
                // An end without a word is an end all the same: AMQP and HTTP say themselves when they are through.
                let mut ended = count == 0;
                while !ended && !rest.is_empty() {
                    feed(&self.session, &mut tls, &mut rest)?;
                    ended = drain(&mut tls, out, filled)?;
                }
                self.left.extend_from_slice(rest);
                Ok::<bool, io::Error>(!ended && (*filled == 0 || count == fetched.len()))
            })?;
            if !go_on {
                return Ok(());
            }
        }
    }

    /// Decrypts what is left of earlier reads; says whether `out` is full or the peer has ended.
    fn decrypt(&mut self, out: &mut [u8], filled: &mut usize) -> io::Result<bool> {
        let mut tls = self.session.tls.lock();
        let mut ended = drain(&mut tls, out, filled)?;
        while !ended && self.at < self.left.len() {
            let mut rest = &self.left[self.at..];
            feed(&self.session, &mut tls, &mut rest)?;
            self.at = self.left.len() - rest.len();
            ended = drain(&mut tls, out, filled)?;
        }
        if self.at == self.left.len() {
            self.left = Vec::new();
            self.at = 0;
        }
        Ok(ended)
    }
}

/// Gives the session a piece of what the client sent, and the client what the session says to it.
fn feed(session: &Session, tls: &mut ServerConnection, rest: &mut &[u8]) -> io::Result<()> {
    tls.read_tls(rest)?;
    let processed = tls.process_new_packets();
    // Whether the client hears of it or not: it is wrong, or it will be told with the next write.
    let _ = session.send(tls);
    processed.map(drop).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// Takes what was decrypted; says whether `out` is full or the peer has ended.
fn drain(tls: &mut ServerConnection, out: &mut [u8], filled: &mut usize) -> io::Result<bool> {
    while *filled < out.len() {
        match tls.reader().read(&mut out[*filled..]) {
            Ok(0) => return Ok(true),
            Ok(count) => *filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The writing half.
#[derive(Debug)]
pub struct Writer {
    session: Arc<Session>,
    is_behind: bool,
}

impl Writer {
    pub async fn writable(&self) -> io::Result<()> {
        self.session.stream.writable().await
    }

    /// Encrypts and writes. Takes nothing before everything taken earlier is with the socket.
    pub fn try_write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut tls = self.session.tls.lock();
        self.is_behind = !self.session.send(&mut tls)?;
        if self.is_behind {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = tls.writer().write(octets)?;
        self.is_behind = !self.session.send(&mut tls)?;
        Ok(count)
    }

    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Says good-bye, as far as the socket still takes it.
    pub fn shutdown(&mut self) -> io::Result<()> {
        let mut tls = self.session.tls.lock();
        tls.send_close_notify();
        self.session.send(&mut tls)?;
        rustix::net::shutdown(&self.session.stream, rustix::net::Shutdown::Write)?;
        Ok(())
    }

    pub(in crate::transport) fn poll_write(&mut self, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(octets) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ready!(self.session.stream.poll_write_ready(cx))?;
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    pub(in crate::transport) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.is_behind {
            ready!(self.poll_write(cx, &[]))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// The socket as `rustls` writes to it: `WouldBlock` when it is full.
pub(super) struct Socket<'a>(pub &'a TcpStream);

impl io::Write for Socket<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.try_write(octets)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
