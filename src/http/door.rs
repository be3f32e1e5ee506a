//! Connections to the management API, and what each may cost: so many at a time, a head of so many octets in so much time,
//! and none that only stays. What bodies may cost is bounded where they are read ([`super::request`]).

use super::control::Control;
use super::route::{Peer, protect};
use crate::broker::Broker;
use crate::broker::listeners::{Errors, Listener};
use crate::transport::Entrance;
use axum::body::Body;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Octets of a request's line and headers.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 100;
/// How long to wait when no connection can be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is served on a port.
pub enum Site {
    /// The management API.
    Management(Arc<dyn Control>),
    /// Metrics alone.
    Metrics,
}

/// Serves it, until it is dropped and its connections with it.
pub async fn serve(listener: TcpListener, known: Arc<Listener>, entrance: Entrance, broker: Arc<Broker>, site: Site) {
    let desk = Desk::new(&broker, &site);
    let places = Arc::new(Semaphore::new(broker.config.http.connections_max.min(Semaphore::MAX_PERMITS)));
    let (crowded, is_crowded) = watch::channel(false);
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Ends that nobody looks at would pile up.
            Some(_) = clients.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                Errors::count(&known.errors.accept);
                tracing::warn!("can't accept a connection to the management API: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                // Those who only keep their connection for later make room.
                crowded.send_replace(true);
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                crowded.send_replace(false);
                place
            }
        };
        let desk = desk.clone();
        let (entrance, is_crowded, known) = (entrance.clone(), is_crowded.clone(), Arc::clone(&known));
        clients.spawn(async move {
            let _place = place;
            match entrance.enter(stream, peer).await {
                Ok(client) => {
                    let peer = client.peer;
                    desk.serve(peer, client.into_stream(), is_crowded).await;
                }
                Err(refused) => {
                    Errors::count(&known.errors.handshake);
                    tracing::debug!("connection of {peer} to the management API refused: {refused}");
                }
            }
        });
    }
}

/// Where clients of a site are served.
#[derive(Clone)]
pub struct Desk {
    broker: Arc<Broker>,
    router: TowerToHyperService<axum::Router>,
}

impl Desk {
    pub fn new(broker: &Arc<Broker>, site: &Site) -> Self {
        let router = match site {
            Site::Management(control) => super::router(broker, control),
            Site::Metrics => super::prometheus::router(broker),
        };
        Self { broker: Arc::clone(broker), router: TowerToHyperService::new(router) }
    }

    /// Serves a client until it goes, or is idle when others need its place.
    pub async fn serve(
        self,
        peer: SocketAddr,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin,
        mut is_crowded: watch::Receiver<bool>,
    ) {
        let Self { broker, router } = self;
        let settings = &broker.config.http;
        let pace = Arc::new(Pace::new());
        let service = service_fn({
            let pace = Arc::clone(&pace);
            move |request: hyper::Request<hyper::body::Incoming>| {
                pace.enter(Phase::Serving);
                let mut request = request.map(Body::new);
                *request.uri_mut() = without_slash(request.uri());
                request.extensions_mut().insert(Peer(peer));
                let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                let (answer, pace) = (router.call(request), Arc::clone(&pace));
                async move {
                    let mut response = answer.await?;
                    protect(&mut response);
                    pace.enter(Phase::Idle);
                    tracing::debug!("{method} {path} from {peer}: {}", response.status());
                    Ok::<_, Infallible>(response)
                }
            }
        });
        let stream = TokioIo::new(Paced { stream, pace: Arc::clone(&pace) });
        let mut builder = http1::Builder::new();
        // Times are kept here; hyper would count a pause between requests as a slow head.
        builder.header_read_timeout(None).max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
        let mut connection = pin!(builder.serve_connection(stream, service));
        let mut is_leaving = false;
        loop {
            let (phase, since) = pace.now();
            let deadline = match phase {
                Phase::Head => since + settings.request_timeout,
                Phase::Idle => since + settings.idle_timeout,
                // The resource has its own patience.
                Phase::Serving => Instant::now() + settings.idle_timeout,
            };
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!("connection of {peer} to the management API: {error}");
                    }
                    return;
                }
                // The phase is another.
                () = pace.served.notified() => {}
                () = tokio::time::sleep_until(deadline) => {
                    if phase != Phase::Serving && pace.now() == (phase, since) {
                        tracing::debug!("connection of {peer} to the management API took too long");
                        return;
                    }
                }
                // What is being written is written to its end.
                Ok(_) = is_crowded.wait_for(|is_crowded| *is_crowded), if phase == Phase::Idle && !is_leaving => {
                    is_leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// RabbitMQ's paths may end with one slash more.
fn without_slash(uri: &Uri) -> Uri {
    let Some(path) = uri.path().strip_suffix('/').filter(|path| !path.is_empty()) else { return uri.clone() };
    let path = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok().or(parts.path_and_query);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A request has begun to come.
    Head,
    /// The resource is at work.
    Serving,
    /// An answer is written, or nothing happens.
    Idle,
}

/// Where a connection is, and since when something has happened.
struct Pace {
    at: Mutex<(Phase, Instant)>,
    /// The resource has done its work.
    served: Notify,
}

impl Pace {
    fn new() -> Self {
        Self { at: Mutex::new((Phase::Head, Instant::now())), served: Notify::new() }
    }

    fn now(&self) -> (Phase, Instant) {
        *self.at.lock()
    }

    fn enter(&self, phase: Phase) {
        *self.at.lock() = (phase, Instant::now());
        if phase == Phase::Idle {
            self.served.notify_one();
        }
    }

    fn has_read(&self) {
        let mut at = self.at.lock();
        if at.0 == Phase::Idle {
            *at = (Phase::Head, Instant::now());
        }
    }

    fn has_written(&self) {
        let mut at = self.at.lock();
        if at.0 == Phase::Idle {
            at.1 = Instant::now();
        }
    }
}

/// A stream that tells when something comes and goes.
struct Paced<S> {
    stream: S,
    pace: Arc<Pace>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.pace.has_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Paced<S> {
    fn told(&self, written: io::Result<usize>) -> io::Result<usize> {
        if written.as_ref().is_ok_and(|count| *count > 0) {
            self.pace.has_written();
        }
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, octets));
        Poll::Ready(self.told(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        Poll::Ready(self.told(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slash_at_the_end_is_one_too_many() {
        let cases = [
            ("/api/users/", "/api/users"),
            ("/api/users/?page=1", "/api/users?page=1"),
            ("/api/queues/%2F/", "/api/queues/%2F"),
            ("/api/users//", "/api/users/"),
            ("/api/users", "/api/users"),
            ("/", "/"),
            ("http://host/api/", "http://host/api"),
        ];
        for (path, expected) in cases {
            assert_eq!(without_slash(&path.parse().unwrap()), *expected, "{path}");
        }
    }
}
