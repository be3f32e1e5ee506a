//! Starting and stopping.

use super::support::peer::{Incoming, PERSISTENT};
use super::support::{Broker, Declare, Peer, Random, eventually, scale};
use amq_protocol::protocol::{AMQPClass, basic, connection};
use leveret::server::exit;

#[test]
fn the_start_is_told_on_standard_output_in_rabbitmqs_words() {
    let broker = Broker::start();
    eventually("the line that tools wait for", || {
        broker.log().iter().any(|line| line.contains("Server startup complete")).then_some(())
    });
}

#[test]
fn asked_to_stop_it_closes_connections_with_320_and_keeps_everything_confirmed() {
    let mut broker = Broker::start();
    let mut idle = Peer::connect(&broker);
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    let mut sent = 0_u64;
    let mut confirmed = 0;
    for _ in 0..500 {
        peer.publish(1, "q", PERSISTENT, &sent.to_be_bytes());
        sent += 1;
    }
    broker.terminate();
    idle.expect_connection_close(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'");
    // The publisher goes on until it is told.
    loop {
        match peer.next() {
            Incoming::Method(1, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => confirmed = ack.delivery_tag,
            Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(close))) => {
                assert_eq!(close.reply_code, 320);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    peer.connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}));
    peer.expect_eof();
    assert!(broker.wait().success());
    broker.restart();
    let mut peer = Peer::open(&broker);
    let mut next = 0_u64;
    while let Some(content) = peer.get(1, "q", true) {
        assert_eq!(content.body, next.to_be_bytes());
        next += 1;
    }
    assert!((confirmed..=sent).contains(&next), "{confirmed} confirmed of {sent}, {next} kept");
}

#[test]
fn a_client_that_does_not_answer_does_not_hold_up_the_end() {
    let mut broker = Broker::start();
    let _deaf = Peer::open(&broker);
    assert!(broker.stop().success());
}

#[test]
fn asked_twice_it_ends_at_once_and_says_so() {
    let mut broker = Broker::start();
    let mut deaf = Peer::open(&broker);
    deaf.declare(1, Declare::durable("q"));
    deaf.confirm_select(1);
    deaf.publish(1, "q", PERSISTENT, b"m");
    deaf.expect_confirms(1, 1);
    broker.terminate();
    // It waits for this peer, which says nothing.
    let Incoming::Method(0, AMQPClass::Connection(connection::AMQPMethod::Close(_))) = deaf.next() else { panic!() };
    broker.terminate();
    assert_eq!(broker.wait().code(), Some(exit::HURRIED.into()));
    broker.restart();
    assert_eq!(Peer::open(&broker).get(1, "q", true).unwrap().body, b"m");
}

#[test]
fn asked_to_stop_while_it_starts_it_ends_in_good_order() {
    let mut random = Random::new();
    let mut broker = Broker::start();
    let mut peer = Peer::open(&broker);
    peer.declare(1, Declare::durable("q"));
    peer.confirm_select(1);
    (0..200_u64).for_each(|number| peer.publish(1, "q", PERSISTENT, &number.to_be_bytes()));
    peer.expect_confirms(1, 200);
    // What it has to do at a start it finds after a crash.
    broker.kill();
    let mut ends = Vec::new();
    for _ in 0..scale("LEVERET_STARTS", 20) {
        let mut starting = Broker::launch(broker.folder());
        std::thread::sleep(std::time::Duration::from_micros(random.below(80_000)));
        let id = rustix::process::Pid::from_raw(i32::try_from(starting.id()).unwrap()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let status = eventually("the end of one that starts", || starting.try_wait().unwrap());
        // Before it has said what a signal means to it, the system says so.
        use std::os::unix::process::ExitStatusExt;
        assert!(status.success() || status.signal() == Some(rustix::process::Signal::TERM.as_raw()), "{status:?}");
        ends.push(status.success());
    }
    println!("{} of {} ended by themselves", ends.iter().filter(|end| **end).count(), ends.len());
    broker.restart();
    let mut peer = Peer::open(&broker);
    let found: Vec<_> = std::iter::from_fn(|| peer.get(1, "q", true)).map(|content| content.body).collect();
    assert!(found.iter().map(|body| &body[..]).eq((0..200_u64).map(u64::to_be_bytes).collect::<Vec<_>>().iter()));
}

#[test]
fn no_new_connection_is_taken_once_it_stops() {
    let mut broker = Broker::start();
    let mut deaf = Peer::open(&broker);
    broker.terminate();
    deaf.next();
    // Accepted by the operating system at most, never greeted.
    if let Ok(mut socket) = std::net::TcpStream::connect(("127.0.0.1", broker.port())) {
        use std::io::{Read, Write};
        socket.set_read_timeout(Some(super::support::PATIENCE)).unwrap();
        let _ = socket.write_all(leveret::amqp::PROTOCOL_HEADER);
        let mut greeting = Vec::new();
        let _ = socket.read_to_end(&mut greeting);
        assert_eq!(greeting, b"");
    }
    assert!(broker.wait().success());
}

#[test]
fn a_setting_that_is_wrong_ends_it_before_it_starts() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("leveret.toml");
    std::fs::write(&file, "hartbeat = 5\n").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_leveret"))
        .env_clear()
        .args(["--config", file.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(leveret::config::EXIT_CONFIG.into()));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("hartbeat: unknown setting (did you mean 'heartbeat'?)"), "{text}");
}

#[test]
fn a_supervisor_is_told_of_the_start_of_reloading_and_of_the_end() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(super::support::PATIENCE)).unwrap();
    let heard = || {
        let mut said = [0; 4096];
        let length = socket.recv(&mut said).expect("something is said in time");
        String::from_utf8(said[..length].to_vec()).unwrap()
    };
    let mut broker = Broker::supervised(&path);
    assert_eq!(heard(), "READY=1\n");
    // Nobody is told before clients are served.
    Peer::open(&broker).close();
    broker.hang_up();
    let reloading = heard();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(heard(), "READY=1\n");
    broker.terminate();
    assert_eq!(heard(), "STOPPING=1\n");
    assert!(broker.wait().success());
}
