//! One client's connection: a task that reads, and a task that writes what its socket did not take at once.
//!
//! ```text
//!            start-ok          tune-ok         open            close, or a fault of the client's
//!  Starting ─────────▶ Tuning ────────▶ Opening ────▶ Running ──────────────────────────────────▶ ended
//! ```
//!
//! The reading task takes all frames of one read, hands what they ask for to the house, answers, and reads on. It does
//! not read while the disk is behind with what it published, nor while the client leaves its answers unread: waiting
//! goes down only.
//!
//! While memory or disk are short nothing is published. A channel that tries to is held from that frame on: its frames
//! stay in the read buffer, in order, and so does connection.close, which must not overtake them. Everything else goes on,
//! acknowledgements on other channels too, until [`HELD_BYTES_MAX`] are held: then the client is not read any more. Deliveries
//! and heartbeats go out all the time; a client that is not read can't be missed for its heartbeats, so that it is looked
//! at whether its side has hung up.

mod handshake;

use crate::admission::Guest;
use crate::amqp::frame::{self, Frame, Malformed};
use crate::amqp::method::{self, Id, Method, PUBLISH, Undecodable};
use crate::amqp::properties::ContentHeader;
use crate::amqp::{BASIC, ReplyCode, Table, short};
use crate::auth::certificate::Certificate;
use crate::broker::Broker;
use crate::broker::alarms::Active;
use crate::broker::connections::{Asks, Registered};
use crate::broker::login::Identity;
use crate::broker::unfinished::{Share, Turn, Unfinished};
use crate::channel::consume::Outcome;
use crate::channel::egress::Egress;
use crate::channel::{Channel, Context, Fault, write_close};
use crate::pace::Pace;
use crate::queue::consumer::Outlet;
use crate::transport::tls::Facts;
use crate::transport::{Client, Reader};
use crate::vhost::{Toll, Vhost, events};
use amq_protocol::protocol::{AMQPClass, channel, connection};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The read buffer grows to this while reads fill it, and shrinks again when they don't.
const READ_BYTES: std::ops::Range<usize> = 4 << 10..256 << 10;
/// Octets read at once from a client that has not logged in.
const UNKNOWN_READ_BYTES: usize = 16 << 10;
/// How long a client may take to say that it speaks AMQP: its first eight octets.
const HEADER_PATIENCE: Duration = Duration::from_secs(2);
/// After a read of so many octets other connections have their turn.
const HEAVY_READ_BYTES: usize = 32 << 10;
/// After so long others have their turn, though there are more frames in the buffer.
const TURN: Duration = Duration::from_millis(1);
/// Frames that are cheap, each of them: between two looks at the clock.
const CHEAP_FRAMES: u32 = 16;
/// How long a client may take to answer connection.close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);
/// How long RabbitMQ lets a client wait that spoke no AMQP, or not the right password.
const SILENT_DELAY: Duration = Duration::from_secs(3);
/// So much of a client's is held while nothing may be published; with more it is not read.
const HELD_BYTES_MAX: usize = 64 << 10;
/// How often to look whether a client that is not read is still there.
const PRESENCE_LOOKS: Duration = Duration::from_secs(1);
/// How long the last octets may take.
const FINISH_PATIENCE: Duration = Duration::from_secs(5);
/// Why one of those who have not logged in is dropped when there are too many of them.
const GAVE_WAY: &str = "had not logged in when its place was needed";

/// connection.close
const CLOSE: Id = (10, 50);

/// Where the connection is on its way.
enum State {
    Starting,
    Tuning {
        identity: Identity,
    },
    Opening {
        identity: Identity,
    },
    Running(Box<Session>),
    /// connection.close was sent: nothing but the answer matters.
    Closing,
}

/// An open connection.
struct Session {
    cx: Context,
    identity: Identity,
    /// Ends the connection when the token that its client logged in with does.
    expiry: Option<Expiry>,
    broker: Arc<Broker>,
    registered: Arc<Registered>,
    channels: FxHashMap<u16, Slot>,
    /// How fast channels may be opened, and until when the client is not read for having been faster.
    churn: Option<Pace>,
    churn_end: Option<Instant>,
    /// Channels that have something to hand over.
    touched: Vec<u16>,
    /// This read brought messages.
    published: bool,
    /// How much of them may wait for the disk.
    toll: Toll,
    /// It ever did: such a client is told when it must not publish, as in RabbitMQ.
    publisher: bool,
    /// connection.blocked was sent, and connection.unblocked not yet.
    told_blocked: bool,
    /// Channels that would publish though nothing may be published.
    holding: Vec<u16>,
    /// What its channels hold of messages that are not published yet.
    unfinished: Share,
    next_epoch: u64,
}

/// An alarm, for as long as this lives.
struct Expiry(AbortHandle);

impl Expiry {
    /// At a time in seconds since 1970.
    fn at(expires_s: u64, now_ms: u64, registered: &Arc<Registered>) -> Self {
        let patience = Duration::from_millis(expires_s.saturating_mul(1000).saturating_sub(now_ms));
        let registered = Arc::clone(registered);
        let alarm = async move {
            tokio::time::sleep(patience).await;
            registered.close("credential expired");
        };
        Self(tokio::spawn(alarm).abort_handle())
    }
}

impl Drop for Expiry {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Slot {
    Open(Box<Channel>),
    /// channel.close was sent: everything up to its answer is ignored.
    Closing,
}

struct Connection {
    /// What the client said of itself, and how it logged in.
    client_properties: Table,
    mechanism: &'static str,
    broker: Arc<Broker>,
    registered: Arc<Registered>,
    /// Its place among those who have not logged in, until it has.
    guest: Guest,
    accepted: Instant,
    tls: Option<Arc<Facts>>,
    socket: Reader,
    egress: Arc<Egress>,
    state: State,
    frame_max: u32,
    channel_max: u16,
    heartbeat: Duration,
    /// The client understands 403 at login.
    failure_close: bool,
    /// The client understands connection.blocked.
    knows_blocked: bool,
}

/// Why a client is not read.
enum Pause {
    /// It would publish while memory or disk are short.
    Alarm,
    /// The disk is behind with what was published.
    Disk(Arc<Vhost>),
    /// It leaves replies unread.
    Replies(Arc<Egress>),
    /// It opens channels faster than it may.
    Churn(Instant),
    /// All together have too much of messages that are not published yet, and this one has a good deal of it.
    Unfinished(Arc<Unfinished>, usize),
}

/// What a connection's task waited for.
enum Step {
    Read(std::io::Result<usize>),
    /// It is this connection's turn.
    Turn(Option<Turn>),
    /// A pause may be over, or frames are left that were read before.
    Look,
}

impl Pause {
    /// Waits until it may be over.
    async fn over(&self) {
        match self {
            // All connections are asked when an alarm ends.
            Self::Alarm => std::future::pending().await,
            Self::Disk(vhost) => vhost.caught_up().await,
            Self::Replies(egress) => egress.fetched().await,
            Self::Churn(end) => tokio::time::sleep_until(*end).await,
            Self::Unfinished(..) => {}
        }
    }
}

/// How a connection ends.
enum End {
    /// The client has gone.
    Done,
    /// Both sides have said so. It is the client's to hang up.
    Closed,
    /// Tell the client, and wait for its answer.
    Close(Fault),
    /// The same, and no more of its octets are worth reading.
    CloseDeaf(Fault),
    /// Say nothing, close at once.
    Drop(String),
    /// Say nothing, close after a while, as RabbitMQ does so that guessing takes time.
    DropLater(String),
}

type Outcomes<T> = Result<T, End>;

/// Serves a client until it goes.
pub async fn serve(broker: Arc<Broker>, client: Client, guest: Guest) {
    let Client { reader: socket, writer, peer, local, accepted, tls } = client;
    let registered = broker.connections.register(peer, local, broker.now_ms(), tls.as_deref().map(shown));
    let egress = Egress::new(writer, broker.config.initial_frame_max, Arc::clone(&registered.traffic));
    let mut connection = Connection {
        client_properties: Table::default(),
        mechanism: "",
        frame_max: broker.config.initial_frame_max,
        channel_max: broker.config.channel_max,
        heartbeat: Duration::ZERO,
        broker: Arc::clone(&broker),
        registered,
        guest,
        accepted,
        tls,
        socket,
        egress,
        state: State::Starting,
        failure_close: false,
        knows_blocked: false,
    };
    let end = connection.run().await;
    connection.end(end).await;
    broker.connections.unregister(&connection.registered);
}

impl Connection {
    /// The connection as events show it.
    fn shown(&self) -> events::Connection<'_> {
        events::Connection {
            number: self.registered.id,
            name: &self.registered.name,
            peer: self.registered.peer,
            local: self.registered.local,
            mechanism: self.mechanism,
            client_properties: &self.client_properties,
            tls: self.registered.tls.as_ref(),
        }
    }

    fn tell_closed(&self) {
        self.broker.events().connection_closed(&self.shown());
    }

    async fn run(&mut self) -> End {
        let handshake = self.accepted + self.broker.config.handshake_timeout;
        let header = handshake.min(Instant::now() + HEADER_PATIENCE);
        let mut buffer = Buffer::new(UNKNOWN_READ_BYTES);
        match tokio::time::timeout_at(header, self.protocol_header(&mut buffer)).await {
            Ok(Ok(())) => {}
            Ok(Err(end)) => return end,
            Err(_) => return End::Drop("no protocol header in time".into()),
        }
        let mut last_read = Instant::now();
        let mut heavy = false;
        let mut pause: Option<Pause> = None;
        let mut last_written = (Instant::now(), 0);
        let mut last_look = Instant::now();
        let mut last_presence = Instant::now();
        let mut last_taken = (Instant::now(), 0);
        let write_timeout = self.broker.config.write_timeout;
        loop {
            let has_more = match self.frames(&mut buffer).await {
                Ok(has_more) => has_more,
                Err(end) => return end,
            };
            if self.egress.broken() {
                return End::Drop("the socket failed".into());
            }
            if matches!(self.state, State::Running(_)) {
                buffer.bytes_max = READ_BYTES.end;
            }
            if heavy || has_more {
                // One that always has more must not keep the others, nor those who only now connect, from their turn.
                tokio::task::yield_now().await;
                heavy = false;
            }
            self.tell_alarm(self.broker.alarms.active());
            let was_paused = pause.is_some();
            pause = self.pause(&buffer);
            self.registered.throttle.is_blocked.store(buffer.held > 0, Ordering::Relaxed);
            if pause.as_ref().is_some_and(|pause| !matches!(pause, Pause::Alarm)) {
                self.registered.throttle.paused_ms.store(self.broker.now_ms(), Ordering::Relaxed);
            }
            if was_paused && pause.is_none() {
                // What the client sent meanwhile was not read.
                last_read = Instant::now();
            }
            let patience = match &self.state {
                State::Running(session) => session.cx.patience,
                _ => None,
            };
            let deadline = match (&self.state, self.heartbeat) {
                (State::Running(_), Duration::ZERO) => None,
                (State::Running(_), heartbeat) if pause.is_some() => Some(last_written.0 + heartbeat / 2),
                (State::Running(_), heartbeat) => Some((last_read + 2 * heartbeat).min(last_written.0 + heartbeat / 2)),
                _ => Some(handshake),
            };
            let look = patience.map(|patience| last_look + patience);
            let presence = matches!(pause, Some(Pause::Alarm)).then(|| last_presence + PRESENCE_LOOKS);
            let turn_ends = match &self.state {
                // Whoever is held up by an alarm can't help it.
                State::Running(session) if !self.broker.alarms.active().any() => session.unfinished.turn_ends(),
                _ => None,
            };
            let stall_look = write_timeout.map(|timeout| Instant::now() + timeout / 4);
            let deadline = [deadline, look, presence, turn_ends, stall_look].into_iter().flatten().min();
            let registered = Arc::clone(&self.registered);
            tokio::select! {
                // In this order, so that who always has something to say is asked and looked at all the same.
                biased;
                () = self.guest.gives_way() => return End::Drop(GAVE_WAY.into()),
                () = registered.asked.notified() => {
                    let Asks { close, rights_changed } = registered.take_asks();
                    if let Some(reason) = close {
                        return End::Close(Fault::new(ReplyCode::ConnectionForced, reason, (0, 0)));
                    }
                    if let State::Running(session) = &mut self.state && rights_changed {
                        session.recheck_consumers();
                    }
                }
                () = until(deadline) => {
                    let now = Instant::now();
                    if !matches!(self.state, State::Running(_)) && now >= handshake {
                        return End::Drop("the handshake took too long".into());
                    }
                    if pause.is_none() && !self.heartbeat.is_zero() && now >= last_read + 2 * self.heartbeat {
                        return End::Drop("missed heartbeats from client".into());
                    }
                    if turn_ends.is_some_and(|ends| now >= ends) {
                        let text = "what was begun to be published takes too long while there is too much of it";
                        return End::Close(Fault::new(ReplyCode::ResourceError, text, (0, 0)));
                    }
                }
                step = step(&mut buffer, &mut self.socket, pause.as_ref(), has_more) => match step {
                    Step::Read(Ok(0)) => return End::Done,
                    Step::Read(Ok(count)) => {
                        self.registered.traffic.read(count);
                        last_read = Instant::now();
                        heavy = count >= HEAVY_READ_BYTES;
                    }
                    Step::Read(Err(error)) => return End::Drop(error.to_string()),
                    Step::Turn(Some(turn)) => if let State::Running(session) = &mut self.state {
                        session.unfinished.take(turn);
                    },
                    Step::Turn(None) | Step::Look => {}
                },
            }
            let written = self.registered.traffic.sent.load(Ordering::Relaxed);
            if !self.egress.stalled.load(Ordering::Relaxed) || last_taken.1 != written {
                last_taken = (Instant::now(), written);
            } else if write_timeout.is_some_and(|timeout| last_taken.0.elapsed() >= timeout) {
                return End::Drop("client has not taken anything of what is sent to it for too long".into());
            }
            if presence.is_some_and(|presence| presence <= Instant::now()) {
                last_presence = Instant::now();
                if self.socket.has_hung_up() {
                    return End::Drop("client hung up while its messages had to wait".into());
                }
            }
            if look.is_some_and(|look| look <= Instant::now()) {
                last_look = Instant::now();
                if let State::Running(session) = &mut self.state {
                    session.end_late_consumers().await;
                }
            }
            if !self.heartbeat.is_zero() {
                let written = self.registered.traffic.sent.load(Ordering::Relaxed);
                if written != last_written.1 {
                    last_written = (Instant::now(), written);
                } else if last_written.0.elapsed() >= self.heartbeat / 2 {
                    let mut out = Vec::new();
                    frame::write_heartbeat(&mut out);
                    self.egress.send(out);
                    self.egress.pump();
                    last_written.0 = Instant::now();
                }
            }
        }
    }

    /// Everything that is whole in the buffer, or what a turn is long enough for. Says whether more of it is left.
    async fn frames(&mut self, buffer: &mut Buffer) -> Outcomes<bool> {
        let active = self.broker.alarms.active();
        let short = active.any();
        if !short && buffer.held > 0 {
            // Before what waited is taken, so that its confirms come after.
            self.tell_alarm(active);
            self.release(buffer);
        }
        let (mut held, mut at) = (buffer.held, buffer.held);
        let mut octets = std::mem::take(&mut buffer.octets);
        let mut outcome = Ok(());
        let (began, mut cheap, mut has_more) = (Instant::now(), 0, false);
        while outcome.is_ok() {
            cheap += 1;
            if cheap > CHEAP_FRAMES || self.was_costly() {
                cheap = 0;
                has_more = began.elapsed() >= TURN;
                if has_more {
                    break;
                }
            }
            let rest = &octets[at..buffer.filled];
            match frame::split(rest, self.frame_max) {
                Ok(None) => break,
                Ok(Some((frame, length))) if short && self.must_wait(&frame, held > 0) => {
                    octets.copy_within(at..at + length, held);
                    held += length;
                    at += length;
                }
                Ok(Some((frame, length))) => {
                    let mut used = length;
                    outcome = self.frame(frame, &rest[length..], &mut used).await;
                    at += used;
                }
                Err(malformed) => outcome = Err(self.malformed(&malformed)),
            }
        }
        buffer.octets = octets;
        if let State::Running(session) = &mut self.state
            && session.published
        {
            session.cx.vhost.take_toll(&mut session.toll, at - buffer.held);
        }
        buffer.consume(held, at);
        let handed_over = self.hand_over().await;
        // What the client did wrong is said first.
        outcome.and(handed_over).map(|()| has_more)
    }

    /// Whether the last frame may have been much work, or had to wait.
    fn was_costly(&mut self) -> bool {
        match &mut self.state {
            State::Running(session) => std::mem::take(&mut session.cx.costly),
            _ => false,
        }
    }

    /// Nothing has to wait any more.
    fn release(&mut self, buffer: &mut Buffer) {
        buffer.held = 0;
        if let State::Running(session) = &mut self.state {
            session.holding.clear();
        }
    }

    /// Whether a frame can't be taken while nothing may be published.
    fn must_wait(&mut self, frame: &Frame<'_>, others_wait: bool) -> bool {
        let State::Running(session) = &mut self.state else { return false };
        let method = (frame.kind == frame::METHOD).then(|| method::id(frame.payload)).flatten();
        if frame.channel == 0 {
            return others_wait && method == Some(CLOSE);
        }
        if session.holding.contains(&frame.channel) {
            return true;
        }
        let publishes = method == Some(PUBLISH) || matches!(frame.kind, frame::HEADER | frame::BODY);
        if publishes {
            session.publisher = true;
            session.holding.push(frame.channel);
        }
        publishes
    }

    /// Tells a publisher that it has to wait, once, and when that is over.
    fn tell_alarm(&mut self, active: Active) {
        let State::Running(session) = &mut self.state else { return };
        if active.any() == session.told_blocked || !session.publisher || !self.knows_blocked {
            return;
        }
        session.told_blocked = active.any();
        self.reply(match active.any() {
            true => connection::AMQPMethod::Blocked(connection::Blocked { reason: short(&active.reason()) }),
            false => connection::AMQPMethod::Unblocked(connection::Unblocked {}),
        });
        self.egress.pump();
    }

    /// Gives the house what this read brought, and the client its answers.
    async fn hand_over(&mut self) -> Outcomes<()> {
        if let State::Running(session) = &mut self.state {
            self::safe(&mut session.cx).await.map_err(End::Close)?;
            session.hand_over();
        } else {
            self.egress.pump();
        }
        Ok(())
    }

    /// Whether the client has to wait for those below: memory and disk, and its own reading.
    fn pause(&mut self, buffer: &Buffer) -> Option<Pause> {
        let State::Running(session) = &mut self.state else { return None };
        if buffer.held >= HELD_BYTES_MAX {
            return Some(Pause::Alarm);
        }
        session.publisher |= session.published;
        // Who only consumes goes on: acknowledgements make room.
        if session.published && session.cx.vhost.behind(&session.toll) {
            return Some(Pause::Disk(Arc::clone(&session.cx.vhost)));
        }
        session.published = false;
        if let Some(end) = session.churn_end.filter(|end| *end > Instant::now()) {
            return Some(Pause::Churn(end));
        }
        if self.egress.is_full() {
            return Some(Pause::Replies(Arc::clone(&self.egress)));
        }
        session.unfinished.must_wait().map(|all| Pause::Unfinished(all, session.unfinished.bytes()))
    }

    fn malformed(&self, malformed: &Malformed) -> End {
        let text = match malformed {
            Malformed::TooLarge { kind, payload_bytes, frame_max, .. } => {
                format!("type {kind}, all octets = <<>>: {{frame_too_large,{payload_bytes},{frame_max}}}")
            }
            Malformed::NoEnd { kind, found, .. } => {
                format!("type {kind}, all octets = <<>>: {{invalid_frame_end_marker,{found}}}")
            }
        };
        match self.state {
            State::Opening { .. } | State::Running(_) => {
                End::CloseDeaf(Fault::new(ReplyCode::FrameError, text, (0, 0)))
            }
            State::Closing => End::Drop(text),
            State::Starting | State::Tuning { .. } => End::DropLater(text),
        }
    }

    /// One frame. `behind` is what follows it in the buffer; a publish takes its content from there if it is whole, and
    /// counts it in `used`.
    async fn frame(&mut self, frame: Frame<'_>, behind: &[u8], used: &mut usize) -> Outcomes<()> {
        match (frame.kind, frame.channel) {
            (frame::HEARTBEAT, 0) if frame.payload.is_empty() => return Ok(()),
            (frame::HEARTBEAT, 0) => {
                let text = "type 8, all octets = <<>>: invalid_heartbeat_frame";
                return Err(self.closing(Fault::new(ReplyCode::FrameError, text, (0, 0))));
            }
            (frame::METHOD | frame::HEADER | frame::BODY, _) => {}
            (frame::HEARTBEAT, _) => return Err(self.unexpected(&frame)),
            (kind, _) => {
                let text = format!("type {kind}, all octets = <<>>: unknown_frame");
                return Err(self.closing(Fault::new(ReplyCode::FrameError, text, (0, 0))));
            }
        }
        if frame.channel == 0 {
            return match frame.kind {
                frame::METHOD => self.connection_method(frame.payload).await,
                _ => Err(self.unexpected(&frame)),
            };
        }
        match &mut self.state {
            State::Running(session) => {
                let outcome = session.frame(frame, behind, used, self.channel_max).await;
                match outcome {
                    Ok(()) => Ok(()),
                    Err(Wrong::Connection(fault)) => Err(self.closing(fault)),
                    Err(Wrong::Internal(text)) => Err(End::Drop(text)),
                }
            }
            State::Closing => Ok(()),
            _ => Err(self.unexpected(&frame)),
        }
    }

    fn unexpected(&self, frame: &Frame<'_>) -> End {
        let text = format!("type {}, all octets = <<>>: unexpected_frame", frame.kind);
        self.closing(Fault::new(ReplyCode::UnexpectedFrame, text, (0, 0)))
    }

    /// A fault of the client's: it is told once it may know that this is a broker.
    fn closing(&self, fault: Fault) -> End {
        match self.state {
            State::Opening { .. } | State::Running(_) => End::Close(fault),
            _ => End::DropLater(fault.text),
        }
    }

    /// A method of the class connection, whatever the state.
    async fn connection_method(&mut self, payload: &[u8]) -> Outcomes<()> {
        if matches!(self.state, State::Closing) {
            return Ok(());
        }
        let id = method::id(payload).unwrap_or_default();
        let class = match method::decode(payload) {
            Ok(Method::Other(class)) => class,
            Ok(_) => return Err(self.wrong_state(id)),
            Err(undecodable) => {
                return Err(match wrong(undecodable, payload) {
                    Wrong::Connection(fault) => self.closing(fault),
                    Wrong::Internal(text) => End::Drop(text),
                });
            }
        };
        use connection::AMQPMethod as M;
        match (&mut self.state, *class) {
            (State::Starting, AMQPClass::Connection(M::StartOk(start_ok))) => self.start_ok(start_ok).await,
            (State::Tuning { .. }, AMQPClass::Connection(M::TuneOk(tune_ok))) => self.tune_ok(&tune_ok),
            (State::Opening { .. }, AMQPClass::Connection(M::Open(open))) => self.open(&open),
            (State::Running(_), AMQPClass::Connection(M::UpdateSecret(update))) => self.update_secret(&update).await,
            (State::Running(_), AMQPClass::Connection(M::Close(_))) => {
                // Exclusive queues are gone and messages back in place before the client hears of it.
                self.end_session(false).await;
                self.reply(M::CloseOk(connection::CloseOk {}));
                Err(End::Closed)
            }
            _ => Err(self.wrong_state(id)),
        }
    }

    fn wrong_state(&self, id: Id) -> End {
        let state = match self.state {
            State::Starting => "starting",
            State::Tuning { .. } => "tuning",
            State::Opening { .. } => "opening",
            State::Running(_) => "running",
            State::Closing => "closing",
        };
        let text = format!("unexpected method in connection state {state}");
        self.closing(Fault::new(ReplyCode::ChannelError, text, id))
    }

    fn reply(&mut self, method: connection::AMQPMethod) {
        let mut out = Vec::new();
        method::write(&mut out, 0, &AMQPClass::Connection(method));
        if let State::Running(session) = &mut self.state {
            session.cx.flush();
        }
        self.egress.send(out);
    }

    /// Leaves nothing behind: channels, their consumers and messages, exclusive queues. `lost`: the client went without
    /// a word.
    async fn end_session(&mut self, lost: bool) {
        let State::Running(session) = std::mem::replace(&mut self.state, State::Closing) else { return };
        let Session { mut cx, channels, .. } = *session;
        cx.lost = lost;
        // An error has taken the replies away: more can't be done about it.
        let _ = cx.safe().await;
        for slot in channels.into_values() {
            if let Slot::Open(channel) = slot {
                channel.close(&mut cx);
            }
        }
        for queue in std::mem::take(&mut cx.exclusive) {
            // An exclusive queue is never durable: nothing to wait for.
            drop(cx.vhost.end_queue(&queue));
        }
        cx.act();
    }

    async fn end(&mut self, end: End) {
        let is_told = matches!(end, End::Closed);
        let name = Arc::clone(&self.registered.name);
        match end {
            End::Done => {
                tracing::debug!("closing AMQP connection {name}");
                self.end_session(true).await;
            }
            End::Closed => {
                tracing::debug!("closing AMQP connection {name}");
                self.egress.pump();
                // However long the client takes to hang up.
                self.tell_closed();
                let _ = tokio::time::timeout(CLOSE_PATIENCE, self.await_hanging_up()).await;
            }
            End::Drop(text) => {
                tracing::warn!("closing AMQP connection {name}: {text}");
                self.end_session(true).await;
            }
            End::DropLater(text) => {
                tracing::warn!("closing AMQP connection {name}: {text}");
                self.end_session(false).await;
                self.egress.pump();
                let gives_way = self.guest.gives_way();
                let _ = tokio::time::timeout(SILENT_DELAY, gives_way).await;
            }
            End::Close(fault) => {
                self.say_close(&fault).await;
                let heartbeat = if self.heartbeat.is_zero() { CLOSE_PATIENCE } else { self.heartbeat };
                let patience = match self.guest.is_known() {
                    true => heartbeat.min(CLOSE_PATIENCE),
                    false => self.broker.config.handshake_timeout.min(CLOSE_PATIENCE),
                };
                let gives_way = self.guest.gives_way();
                tokio::select! {
                    biased;
                    _ = tokio::time::timeout(patience, self.await_close_ok()) => {}
                    () = gives_way => {}
                }
            }
            End::CloseDeaf(fault) => {
                self.say_close(&fault).await;
                tokio::time::sleep(SILENT_DELAY).await;
            }
        }
        if !is_told {
            self.tell_closed();
        }
        self.egress.finish(FINISH_PATIENCE).await;
    }

    async fn say_close(&mut self, fault: &Fault) {
        tracing::warn!("closing AMQP connection {}: {}", self.registered.name, fault.code.text(&fault.text));
        self.end_session(false).await;
        let close = connection::Close {
            reply_code: fault.code.number(),
            reply_text: short(&fault.code.text(&fault.text)),
            class_id: fault.id.0,
            method_id: fault.id.1,
        };
        self.reply(connection::AMQPMethod::Close(close));
        self.egress.pump();
    }

    /// After a good-bye: whatever the client still says, until it goes or the broker stops.
    async fn await_hanging_up(&mut self) {
        let registered = Arc::clone(&self.registered);
        let asked = async {
            while registered.take_asks().close.is_none() {
                registered.asked.notified().await;
            }
        };
        tokio::select! {
            biased;
            () = self.read_over(false) => {}
            () = asked => {}
        }
    }

    /// Reads over everything until the client has answered or gone.
    async fn await_close_ok(&mut self) {
        self.read_over(true).await;
    }

    async fn read_over(&mut self, until_close_ok: bool) {
        let mut buffer = Buffer::new(UNKNOWN_READ_BYTES);
        loop {
            let mut at = 0;
            while let Ok(Some((frame, length))) = frame::split(&buffer.octets[at..buffer.filled], self.frame_max) {
                at += length;
                if frame.channel == 0 && frame.kind == frame::METHOD {
                    match method::id(frame.payload) {
                        Some((10, 51)) if until_close_ok => return,
                        // Both sides closed at once.
                        Some((10, 50)) => {
                            self.reply(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
                            self.egress.pump();
                        }
                        _ => {}
                    }
                }
            }
            buffer.consume(0, at);
            if frame::split(&buffer.octets[..buffer.filled], self.frame_max).is_err() {
                // In the middle of something else's octets: what follows can't be understood any more.
                buffer.consume(0, buffer.filled);
            }
            match buffer.read(&mut self.socket).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }
}

/// Reads, or waits until that may be possible again. Safe to drop while it waits.
async fn step(buffer: &mut Buffer, socket: &mut Reader, pause: Option<&Pause>, has_more: bool) -> Step {
    match pause {
        None if has_more => Step::Look,
        None => Step::Read(buffer.read(socket).await),
        // Only those who have something to say need a turn.
        Some(Pause::Unfinished(all, bytes)) => match socket.heard().await {
            Ok(()) => Step::Turn(all.turn(*bytes).await),
            Err(error) => Step::Read(Err(error)),
        },
        Some(pause) => {
            pause.over().await;
            Step::Look
        }
    }
}

/// What was agreed on and shown, as people and events see it.
fn shown(facts: &Facts) -> events::Tls {
    let certificate = facts.certificate.as_deref().and_then(Certificate::read);
    events::Tls {
        protocol: facts.protocol,
        key_exchange: facts.key_exchange,
        cipher: facts.cipher,
        hash: facts.hash,
        certificate: certificate.map(|certificate| certificate.shown()),
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What is wrong with a frame on a channel, when it is not the channel's alone.
enum Wrong {
    Connection(Fault),
    /// RabbitMQ crashes on it and closes the socket; so do we.
    Internal(String),
}

/// What the replies so far promise is on disk.
async fn safe(cx: &mut Context) -> Result<(), Fault> {
    cx.safe().await.map_err(|refusal| Fault::new(refusal.reply_code(), refusal.text, (0, 0)))
}

fn wrong(undecodable: Undecodable, payload: &[u8]) -> Wrong {
    match undecodable {
        Undecodable::NoId => Wrong::Connection(Fault::new(
            ReplyCode::FrameError,
            "type 1, all octets = <<>>: empty_method_frame",
            (0, 0),
        )),
        Undecodable::Arguments(id) => {
            // The octets of a login or of a new secret are nobody's to see, and stand in the log as well.
            let shown = if matches!(id, (10, 11 | 70)) { 0 } else { 32 };
            let octets: Vec<String> = payload.iter().skip(4).take(shown).map(u8::to_string).collect();
            let text = format!("cannot decode <<{}>>", octets.join(","));
            Wrong::Connection(Fault::new(ReplyCode::FrameError, text, id))
        }
        Undecodable::TooDeep(id) => {
            let limit = crate::amqp::table::DEPTH_MAX;
            let text = format!("field tables nested deeper than {limit} levels");
            Wrong::Connection(Fault::new(ReplyCode::SyntaxError, text, id))
        }
        Undecodable::TooMany(id) => {
            let limit = crate::amqp::table::VALUES_MAX;
            let text = format!("field tables of more than {limit} values");
            Wrong::Connection(Fault::new(ReplyCode::SyntaxError, text, id))
        }
        Undecodable::Unknown((class, method)) => Wrong::Internal(format!("unknown method ({class}, {method})")),
        Undecodable::Field((class, method)) => {
            Wrong::Internal(format!("method ({class}, {method}) has a field table that can't be read"))
        }
        Undecodable::NotUtf8(_) => {
            Wrong::Connection(Fault::new(ReplyCode::FrameError, "Malformed UTF-8 in shortstr", (0, 0)))
        }
    }
}

impl Session {
    fn hand_over(&mut self) {
        for number in self.touched.drain(..) {
            if let Some(Slot::Open(channel)) = self.channels.get_mut(&number) {
                channel.hand_over(&mut self.cx);
                let (before, now) = channel.count_unfinished();
                if before != now {
                    self.unfinished.set(self.unfinished.bytes() + now - before);
                }
            }
        }
        self.cx.act();
    }

    async fn frame(
        &mut self,
        frame: Frame<'_>,
        behind: &[u8],
        used: &mut usize,
        channel_max: u16,
    ) -> Result<(), Wrong> {
        let number = frame.channel;
        let channel = match self.channels.get_mut(&number) {
            Some(Slot::Open(channel)) => channel,
            Some(Slot::Closing) => return self.frame_while_closing(&frame),
            None => return self.frame_unopened(&frame, channel_max),
        };
        if self.touched.last() != Some(&number) && !self.touched.contains(&number) {
            self.touched.push(number);
        }
        let cx = &mut self.cx;
        let outcome = if frame.kind != frame::METHOD {
            self.published = true;
            channel.content(frame.kind, frame.payload, cx)
        } else if channel.in_content() {
            Err(channel.interrupted())
        } else {
            let id = method::id(frame.payload).unwrap_or_default();
            match method::decode(frame.payload).map_err(|undecodable| wrong(undecodable, frame.payload))? {
                Method::Publish(publish) => {
                    self.published = true;
                    match whole_content(number, behind, cx.limits.frame_max) {
                        Some((header, body, length)) => {
                            *used += length;
                            channel.publish_whole(&publish, &header, body, cx)
                        }
                        None => channel.publish_begin(&publish),
                    }
                }
                Method::Ack { tag, multiple } => channel.settle(tag, multiple, Outcome::Done, id, cx),
                Method::Nack { tag, multiple, requeue } => {
                    let failed = false;
                    let outcome = if requeue { Outcome::Requeued { failed } } else { Outcome::Rejected { failed } };
                    channel.settle(tag, multiple, outcome, id, cx)
                }
                Method::Reject { tag, requeue } => {
                    let failed = true;
                    let outcome = if requeue { Outcome::Requeued { failed } } else { Outcome::Rejected { failed } };
                    channel.settle(tag, false, outcome, id, cx)
                }
                Method::Qos { prefetch_bytes, prefetch_count } => channel.qos(prefetch_bytes, prefetch_count, id, cx),
                Method::Other(class) => match *class {
                    AMQPClass::Channel(channel::AMQPMethod::Open(_)) => {
                        Err(Fault::new(ReplyCode::ChannelError, "second 'channel.open' seen", id))
                    }
                    AMQPClass::Channel(channel::AMQPMethod::Close(_)) => {
                        self.safe().await?;
                        self.close_channel(number);
                        self.channels.remove(&number);
                        let ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
                        method::write(&mut self.cx.frames, number, &ok);
                        return Ok(());
                    }
                    class => channel.method(class, id, cx).await,
                },
            }
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(fault) if fault.code.closes_connection() => Err(Wrong::Connection(fault)),
            Err(fault) => {
                tracing::warn!("channel {number}: {}", fault.code.text(&fault.text));
                self.safe().await?;
                self.close_channel(number);
                write_close(&mut self.cx.frames, number, &fault);
                self.channels.insert(number, Slot::Closing);
                Ok(())
            }
        }
    }

    /// Consumers that take too long for a message lose it, and their place; the channel, if the client would not
    /// understand that (`rabbit_channel`, action `released`).
    async fn end_late_consumers(&mut self) {
        for late in self.cx.egress.late(Instant::now()) {
            let timeout_ms = late.timeout.as_millis();
            let (tag, queue, number) = (&late.tag, &late.queue, late.channel);
            tracing::warn!(
                "consumer '{tag}' on channel {number} and {queue:?} has timed out waiting for an acknowledgement. \
                 Timeout used: {timeout_ms} ms"
            );
            let Some(Slot::Open(channel)) = self.channels.get_mut(&number) else { continue };
            if self.cx.egress.cancel_notify.load(std::sync::atomic::Ordering::Relaxed) {
                channel.time_out(&late, &mut self.cx);
                self.cx.act();
                continue;
            }
            let text = format!(
                "delivery acknowledgement on channel {number} timed out. Timeout value used: {timeout_ms} ms. This \
                 timeout value can be configured, see consumers doc guide to learn more"
            );
            let fault = Fault::new(ReplyCode::PreconditionFailed, text, (0, 0));
            if self.safe().await.is_err() {
                return;
            }
            self.close_channel(number);
            write_close(&mut self.cx.frames, number, &fault);
            self.channels.insert(number, Slot::Closing);
            self.cx.act();
        }
    }

    async fn safe(&mut self) -> Result<(), Wrong> {
        self::safe(&mut self.cx).await.map_err(Wrong::Connection)
    }

    fn close_channel(&mut self, number: u16) {
        if let Some(Slot::Open(channel)) = self.channels.remove(&number) {
            self.unfinished.set(self.unfinished.bytes() - channel.unfinished_bytes);
            channel.close(&mut self.cx);
            self.broker.connections.close_channel(&self.registered);
        }
    }

    fn recheck_consumers(&mut self) {
        for slot in self.channels.values_mut() {
            if let Slot::Open(channel) = slot {
                channel.recheck_consumers(&mut self.cx);
            }
        }
        self.cx.act();
    }

    fn frame_while_closing(&mut self, frame: &Frame<'_>) -> Result<(), Wrong> {
        if frame.kind == frame::METHOD {
            match method::id(frame.payload) {
                Some((20, 41)) => drop(self.channels.remove(&frame.channel)),
                Some(id @ (20, 10)) => {
                    let text = "second 'channel.open' seen";
                    return Err(Wrong::Connection(Fault::new(ReplyCode::ChannelError, text, id)));
                }
                // It still owes the answer to ours: the number is not free before.
                Some((20, 40)) => {
                    let ok = AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}));
                    method::write(&mut self.cx.frames, frame.channel, &ok);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn frame_unopened(&mut self, frame: &Frame<'_>, channel_max: u16) -> Result<(), Wrong> {
        if frame.kind != frame::METHOD {
            let text = "expected method frame, got non method frame instead";
            return Err(Wrong::Connection(Fault::new(ReplyCode::UnexpectedFrame, text, (0, 0))));
        }
        let id = method::id(frame.payload).unwrap_or_default();
        method::decode(frame.payload).map_err(|undecodable| wrong(undecodable, frame.payload))?;
        if id != (20, 10) {
            return Err(Wrong::Connection(Fault::new(ReplyCode::ChannelError, "expected 'channel.open'", id)));
        }
        // RabbitMQ counts channels; their numbers may be what they like.
        if channel_max != 0 && self.channels.len() >= channel_max.into() {
            let count = self.channels.len();
            let text =
                format!("number of channels opened ({count}) has reached the negotiated channel_max ({channel_max})");
            return Err(Wrong::Connection(Fault::new(ReplyCode::NotAllowed, text, (0, 0))));
        }
        let counted = self.broker.open_channel(&self.registered);
        counted.map_err(|refusal| Wrong::Connection(Fault::new(refusal.reply_code(), refusal.text, (0, 0))))?;
        let now = Instant::now();
        let owed = self.churn.as_mut().and_then(|churn| churn.owe(now));
        self.churn_end = owed.map(|wait| now + wait);
        self.next_epoch += 1;
        let channel = Channel::open(frame.channel, self.next_epoch, &self.cx);
        self.channels.insert(frame.channel, Slot::Open(Box::new(channel)));
        let ok = AMQPClass::Channel(channel::AMQPMethod::OpenOk(channel::OpenOk {}));
        method::write(&mut self.cx.frames, frame.channel, &ok);
        Ok(())
    }
}

/// The content behind a publish if it is all there: header, body, and their length with the envelopes.
/// A frame that is malformed or too large is left for the ordinary way to refuse.
fn whole_content(number: u16, behind: &[u8], frame_max: u32) -> Option<(ContentHeader<'_>, &[u8], usize)> {
    let (frame, header_length) = frame::split(behind, frame_max).ok()??;
    if frame.kind != frame::HEADER || frame.channel != number {
        return None;
    }
    let header = ContentHeader::parse(frame.payload)?;
    if header.class != BASIC || header.weight != 0 {
        return None;
    }
    if header.body_bytes == 0 {
        return Some((header, &[], header_length));
    }
    let (frame, body_length) = frame::split(&behind[header_length..], frame_max).ok()??;
    let whole = frame.kind == frame::BODY && frame.channel == number && frame.payload.len() as u64 == header.body_bytes;
    whole.then_some((header, frame.payload, header_length + body_length))
}

/// What was read and not yet understood.
struct Buffer {
    octets: Vec<u8>,
    filled: usize,
    /// It grows no further while frames are not larger.
    bytes_max: usize,
    /// The first of them are whole frames that have to wait.
    held: usize,
    /// Small reads in a row.
    small: u8,
}

impl Buffer {
    fn new(bytes_max: usize) -> Self {
        Self { octets: Vec::new(), filled: 0, bytes_max, held: 0, small: 0 }
    }

    /// What stands between `held` and `at` is done with.
    fn consume(&mut self, held: usize, at: usize) {
        self.held = held;
        self.octets.copy_within(at..self.filled, held);
        self.filled -= at - held;
    }

    /// Reads what is there, at least one octet. Safe to drop while it waits.
    async fn read(&mut self, socket: &mut Reader) -> std::io::Result<usize> {
        if self.filled == 0 && self.small > 16 && self.octets.len() > READ_BYTES.start {
            self.octets = Vec::new();
        }
        loop {
            socket.readable().await?;
            if self.octets.len() - self.filled < READ_BYTES.start / 2 {
                // A frame larger than the buffer is at most the negotiated size.
                self.octets.resize((self.octets.len() * 2).max(READ_BYTES.start), 0);
            }
            match socket.try_read(&mut self.octets[self.filled..]) {
                Ok(count) => {
                    self.filled += count;
                    let full = self.filled == self.octets.len();
                    if full && self.octets.len() < self.bytes_max {
                        self.octets.resize((self.octets.len() * 4).min(self.bytes_max), 0);
                    }
                    self.small = if count < READ_BYTES.start { self.small.saturating_add(1) } else { 0 };
                    return Ok(count);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
