//! A broker in this process, for targets that can't do without one.

use leveret::admission::{Door, Limits};
use leveret::amqp::frame;
use leveret::auth::{Algorithm, User, UserLimits, hash};
use leveret::broker::Broker;
use leveret::broker::users::PermissionRow;
use leveret::config::{Config, Sources};
use leveret::connection;
use leveret::http::{Desk, Site, no_control};
use leveret::transport::Entrance;
use leveret::vhost::Metadata;
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::timeout;

pub const USER: &str = "guest";
/// After so long without a word a connection is left to itself: it waits for something that never comes.
const SILENCE: Duration = Duration::from_millis(4);
/// What a broker that is well needs at most, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(20);
/// Uses between two looks whether all is well, and a broker that is as good as new.
const USES: u32 = 64;
/// Answers that are read of one connection; whoever has more to say is left alone.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Panics of any thread and task so far. They would not get as far as the target: tasks catch them.
static PANICS: AtomicUsize = AtomicUsize::new(0);

pub struct Live {
    runtime: Runtime,
    pub broker: Arc<Broker>,
    door: Arc<Door>,
    desk: Desk,
    uses: u32,
    _folder: TempDir,
}

thread_local! {
    static LIVE: RefCell<Option<Live>> = const { RefCell::new(None) };
}

/// Does something with the broker of this thread, and fails if anything in the process panicked meanwhile.
pub fn with<T>(act: impl FnOnce(&mut Live) -> T) -> T {
    LIVE.with(|live| {
        let mut live = live.borrow_mut();
        let live = live.get_or_insert_with(Live::open);
        let before = PANICS.load(Ordering::SeqCst);
        let result = act(live);
        assert_eq!(PANICS.load(Ordering::SeqCst), before, "something in the broker panicked");
        result
    })
}

impl Live {
    fn open() -> Self {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            hook(info);
        }));
        let folder = TempDir::new().expect("a folder");
        let data = folder.path().join("data");
        let flag = |key: &str, value: &str| (key.to_owned(), vec![value.to_owned()]);
        let flags = vec![
            flag("data_dir", data.to_str().expect("a path")),
            // Made-up passwords are wrong ones; the client that comes afterwards must not be refused for them.
            flag("login_failures_max", "infinity"),
            flag("durability", "memory"),
            flag("disk_ballast", "0"),
            flag("disk_free_limit.absolute", "0"),
        ];
        let sources = Sources { flags, ..Sources::default() };
        let (config, _) = Config::load(&sources).unwrap_or_else(|remarks| panic!("{remarks}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let broker = runtime.block_on(async { Broker::open(Arc::new(config)).expect("a broker") });
        let time = Arc::clone(&broker);
        runtime.spawn(async move { time.keep_time().await });
        let door = Door::new(Limits {
            clients_max: usize::MAX,
            unknown_max: usize::MAX,
            unknown_per_address: usize::MAX,
            accepts_per_address: None,
        });
        let desk = Desk::new(&broker, &Site::Management(no_control()));
        Self { runtime, broker, door, desk, uses: 0, _folder: folder }
    }

    /// Says something to the broker as an AMQP client, in chunks, and hangs up; what it answered.
    pub fn say(&mut self, octets: &[u8], chunk: usize) -> Vec<u8> {
        self.look_after();
        let (broker, door) = (Arc::clone(&self.broker), Arc::clone(&self.door));
        self.runtime.block_on(async {
            let mut client = connect(broker, &door).await;
            for piece in octets.chunks(chunk.max(octets.len() / 64).max(1)) {
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = client.shutdown().await;
            answers(&mut client).await
        })
    }

    /// Says something as an HTTP client.
    pub fn ask(&mut self, octets: &[u8]) -> Vec<u8> {
        self.look_after();
        let desk = self.desk.clone();
        self.runtime.block_on(async {
            let (mut client, stream) = tokio::io::duplex(ANSWER_BYTES_MAX);
            let (_crowded, is_crowded) = watch::channel(false);
            let serving = tokio::spawn(desk.serve(peer(), stream, is_crowded));
            let _ = client.write_all(octets).await;
            let _ = client.shutdown().await;
            let mut found = Vec::new();
            // An answer may wait for the disk, and a page of metrics for much.
            let _ = timeout(PATIENCE, client.read_to_end(&mut found)).await;
            serving.abort();
            found
        })
    }

    /// Lets the broker's tasks work until this is done.
    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Now and then: whether a client that does nothing wrong is served, and everything away that others left.
    fn look_after(&mut self) {
        self.uses += 1;
        if self.uses.is_multiple_of(USES) {
            self.renew();
            self.serve_somebody();
        }
    }

    /// A broker with nothing but the default virtual host and user.
    pub fn renew(&self) {
        let broker = &self.broker;
        let mut committed = Vec::new();
        for vhost in broker.list_vhosts() {
            vhost.set_metadata(Metadata::default());
            committed.push(broker.delete_vhost(&vhost.name, USER).expect("it may be deleted"));
        }
        for user in broker.users.list() {
            committed.extend(broker.delete_user(&user.name, USER));
        }
        for parameter in broker.global_parameters() {
            committed.extend(broker.clear_global_parameter(&parameter.name, USER));
        }
        let (_, put) = broker.put_vhost("/", Metadata::default(), USER).expect("there is room");
        committed.push(put);
        committed.extend(broker.put_user(
            User {
                name: USER.to_owned(),
                password_hash: hash(USER, &Algorithm::Sha256),
                hashing_algorithm: Algorithm::Sha256,
                tags: vec!["administrator".to_owned()],
                limits: UserLimits::default(),
            },
            USER,
        ));
        let [configure, write, read] = [".*"; 3].map(str::to_owned);
        let all = PermissionRow { user: USER.to_owned(), vhost: "/".to_owned(), configure, write, read };
        committed.push(broker.set_permission(all, USER).expect("both are there"));
        self.wait(async {
            for committed in committed {
                committed.await.expect("it is written");
            }
        });
    }

    /// A client that declares a queue, publishes and gets its message back.
    fn serve_somebody(&self) {
        const BODY: &[u8] = b"still here";
        let (broker, door) = (Arc::clone(&self.broker), Arc::clone(&self.door));
        let served = self.wait(async {
            let mut client = connect(broker, &door).await;
            let mut out = super::channel::greeting();
            super::channel::put_and_get(&mut out, "fuzz.still-here", BODY);
            client.write_all(&out).await.expect("it is read");
            let mut found = Vec::new();
            let mut piece = [0; 4096];
            while !found.windows(BODY.len()).any(|window| window == BODY) {
                match timeout(PATIENCE, client.read(&mut piece)).await {
                    Ok(Ok(count @ 1..)) => found.extend_from_slice(&piece[..count]),
                    _ => return Err(found),
                }
            }
            Ok(())
        });
        if let Err(found) = served {
            panic!("a fresh client is not served: {}", String::from_utf8_lossy(&found));
        }
    }
}

fn peer() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 50_000).into()
}

/// A client's end of a connection that the broker serves. It has no port of its own, of which there are too few.
async fn connect(broker: Arc<Broker>, door: &Arc<Door>) -> UnixStream {
    let (ours, theirs) = Pair::pair().expect("two sockets");
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).expect("a socket that does not block");
    }
    let theirs = TcpStream::from_std(OwnedFd::from(theirs).into()).expect("a socket");
    let guest = door.admit(peer().ip(), true).expect("there is room");
    let entrance = Entrance { tls: None, proxies: None, timeout: PATIENCE, write_timeout: None };
    let client = entrance.enter(theirs, peer()).await.expect("nothing is asked of it");
    tokio::spawn(connection::serve(broker, client, guest));
    UnixStream::from_std(ours).expect("a socket")
}

/// What comes, until the other side has hung up or says nothing more.
async fn answers(client: &mut UnixStream) -> Vec<u8> {
    let mut found = Vec::new();
    let mut piece = [0; 16 << 10];
    while let Ok(Ok(count @ 1..)) = timeout(SILENCE, client.read(&mut piece)).await {
        found.extend_from_slice(&piece[..count]);
        if found.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    found
}

/// What a broker says is well formed, whatever it was told: whole frames, methods that a client can read, and content
/// where it belongs. The last frame may be cut off.
pub fn check_answers(answers: &[u8]) {
    use amq_protocol::protocol::{AMQPClass, basic, parse_class};
    use leveret::amqp::properties::{ContentHeader, Properties};
    use std::collections::HashMap;
    if answers.starts_with(b"AMQP") {
        // Which protocol it would be, and nothing more.
        assert_eq!(answers.len(), 8);
        return;
    }
    /// What is to follow on a channel.
    enum Due {
        Header,
        Body(u64),
    }
    let mut due: HashMap<u16, Due> = HashMap::new();
    let mut rest = answers;
    while let Some((frame, length)) = frame::split(rest, 0).expect("frames") {
        rest = &rest[length..];
        let awaited = due.remove(&frame.channel);
        match (frame.kind, awaited) {
            (frame::HEARTBEAT, None) => {}
            (frame::METHOD, None) => {
                let Ok(([], class)) = parse_class(frame.payload) else { panic!("no method: {:?}", frame.payload) };
                let content = matches!(
                    class,
                    AMQPClass::Basic(
                        basic::AMQPMethod::Deliver(_) | basic::AMQPMethod::GetOk(_) | basic::AMQPMethod::Return(_)
                    )
                );
                if content {
                    due.insert(frame.channel, Due::Header);
                }
            }
            (frame::HEADER, Some(Due::Header)) => {
                let header = ContentHeader::parse(frame.payload).expect("a content header");
                Properties::parse(header.properties).expect("properties");
                if header.body_bytes > 0 {
                    due.insert(frame.channel, Due::Body(header.body_bytes));
                }
            }
            (frame::BODY, Some(Due::Body(bytes))) => {
                let left = bytes.checked_sub(frame.payload.len() as u64).expect("no more than announced");
                if left > 0 {
                    due.insert(frame.channel, Due::Body(left));
                }
            }
            (kind, _) => panic!("a frame of type {kind} on channel {} out of order", frame.channel),
        }
    }
}
