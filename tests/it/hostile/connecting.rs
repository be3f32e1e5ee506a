//! Who connects and does not log in.

use super::super::support::{Broker, Declare, Peer, eventually};
use super::{MIB, Normal, Script, Stop};
use leveret::amqp::PROTOCOL_HEADER;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// This machine's address on its network, if it has one: who comes from there is a stranger like any other.
fn address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

/// A broker that strangers reach, and where; on a machine without a network they come from its loopback addresses.
fn open_to_strangers(flags: &[&str]) -> (Broker, SocketAddr) {
    let Some(address) = address() else {
        println!("this machine has no address but loopback ones");
        let broker = Broker::with(flags);
        let address = ([127, 0, 0, 1], broker.port()).into();
        return (broker, address);
    };
    let text = address.to_string();
    let broker = Broker::with(&[&["--bind", &text, "--loopback-users", "none"], flags].concat());
    let address = broker.listener_on(address);
    (broker, address)
}

/// Whether the broker has closed a socket that it had nothing to say to.
fn is_closed(socket: &mut TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let mut octets = [0; 1024];
    loop {
        match socket.read(&mut octets) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// Holds as many sockets as it can, an octet now and then into each ("slowloris").
fn hold(at: SocketAddr, sockets: usize, stop: &Stop) {
    let mut held: Vec<Option<TcpStream>> = (0..sockets).map(|_| None).collect();
    while !stop.is_set() {
        for part in held.chunks_mut(10) {
            for place in part {
                match place {
                    Some(socket) => {
                        if is_closed(socket) || socket.write_all(b"A").is_err() {
                            *place = None;
                        }
                    }
                    None => *place = TcpStream::connect(at).ok(),
                }
            }
            // What comes over a network does not come all at once.
            std::thread::sleep(Duration::from_millis(1));
            if stop.is_set() {
                break;
            }
        }
    }
}

#[test]
fn slow_handshakes_take_few_places_and_newcomers_get_in() {
    let (mut broker, strangers) = open_to_strangers(&[]);
    let script = Script { normal: Normal::Newcomer, threads: 1, memory_bytes_max: 64 * MIB };
    script.run(&mut broker, |_, _, stop| hold(strangers, 1500, stop));
}

#[test]
fn a_flood_of_connections_does_not_slow_those_who_are_in() {
    let (mut broker, strangers) = open_to_strangers(&[]);
    let script = Script { normal: Normal::Transient, threads: 1, memory_bytes_max: 64 * MIB };
    script.run(&mut broker, |_, _, stop| {
        while !stop.is_set() {
            for _ in 0..5 {
                let _ = TcpStream::connect(strangers).map(|mut socket| socket.write_all(PROTOCOL_HEADER));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let told = broker.log().iter().filter(|line| line.contains("turned away")).count();
    assert!(told < 30, "{told} lines about who was turned away");
}

#[test]
fn half_open_handshakes_are_cheap() {
    const CLIENTS: u64 = 3000;
    let broker = Broker::with(&["--unauthenticated-max", "infinity"]);
    let before = broker.resident_bytes();
    // A header, and most of a frame of the largest size that is taken before login.
    let mut half = [PROTOCOL_HEADER.as_slice(), &[1, 0, 0, 0, 0, 0x1F, 0xF0]].concat();
    half.resize(half.len() + 8000, 0);
    let mut held: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut socket = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
            socket.write_all(&half).unwrap();
            socket
        })
        .collect();
    // The last one's answer says that the broker has seen it.
    held.last_mut().unwrap().read_exact(&mut [0; 64]).unwrap();
    let each = broker.resident_bytes_max().saturating_sub(before) / CLIENTS;
    assert!(each <= 32 << 10, "{each} octets each");
}

#[test]
fn who_does_not_log_in_gives_way_when_places_are_scarce() {
    let broker = Broker::with(&["--unauthenticated-max", "20"]);
    let began = Instant::now();
    let mut silent: Vec<Peer> = (0..20)
        .map(|_| {
            let mut peer = Peer::silent(&broker);
            peer.octets(PROTOCOL_HEADER);
            peer.expect_start();
            peer
        })
        .collect();
    let refused = Peer::silent(&broker).rest();
    // On a machine that is busy elsewhere the first one's second may have passed.
    assert!(refused.is_empty() || began.elapsed() > Duration::from_secs(1), "{refused:?}");
    std::thread::sleep(Duration::from_millis(1100).saturating_sub(began.elapsed()));
    let mut newcomer = Peer::open(&broker);
    newcomer.declare(1, Declare { name: "q", exclusive: true, ..Declare::default() });
    silent[0].expect_eof();
    // Who has logged in holds no place: any number may follow.
    let others: Vec<Peer> = (0..40).map(|_| Peer::open(&broker)).collect();
    others.into_iter().for_each(Peer::close);
    eventually("a line for the log", || {
        broker.log().iter().any(|line| line.contains("its place was needed")).then_some(())
    });
}

#[test]
fn an_address_has_its_limits_and_loopback_is_exempt() {
    let Some(_) = address() else { return println!("this machine has no address but loopback ones") };
    let flags = ["--unauthenticated-per-address", "5", "--accepts-per-address", "10"];
    let (broker, strangers) = open_to_strangers(&flags);
    let mut held: Vec<Peer> = (0..5)
        .map(|_| {
            let mut peer = Peer::silent_at(strangers);
            peer.octets(PROTOCOL_HEADER);
            peer.expect_start();
            peer
        })
        .collect();
    assert_eq!(Peer::silent_at(strangers).rest(), b"", "five have not logged in");
    let mut peer = held.pop().unwrap();
    peer.start_ok("PLAIN", b"\0guest\0guest", amq_protocol::types::FieldTable::default());
    peer.expect_tune();
    let mut next = Peer::silent_at(strangers);
    next.octets(PROTOCOL_HEADER);
    next.expect_start();
    drop((held, next));
    // Ten a second, and fifty at once.
    let began = Instant::now();
    let admitted = (0..200)
        .filter(|_| {
            let mut peer = Peer::silent_at(strangers);
            peer.octets(b"GET / HT");
            !peer.rest().is_empty()
        })
        .count() as f64;
    let most = 52.0 + 10.0 * began.elapsed().as_secs_f64();
    assert!(admitted <= most, "{admitted} of 200 were let in");
    (0..200).for_each(|_| drop(Peer::silent(&broker)));
    Peer::open(&broker).close();
}

#[test]
fn no_protocol_header_within_two_seconds_is_the_end() {
    let broker = Broker::start();
    let began = Instant::now();
    let mut half = Peer::silent(&broker);
    half.octets(&PROTOCOL_HEADER[..4]);
    assert_eq!(half.rest(), b"");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// Talking does not lengthen a handshake.
#[test]
fn the_handshake_timeout_is_absolute() {
    let broker = Broker::with(&["--handshake-timeout", "500ms"]);
    let began = Instant::now();
    let mut peer = Peer::silent(&broker);
    peer.octets(PROTOCOL_HEADER);
    peer.expect_start();
    let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
    while peer.try_octets(&heartbeat).is_ok() {
        std::thread::sleep(Duration::from_millis(5));
        assert!(began.elapsed() < Duration::from_secs(8), "it goes on for ever");
    }
}

#[test]
fn the_last_descriptors_are_not_for_clients() {
    let mut broker = Broker::with_descriptors(400);
    let held: Vec<TcpStream> = (0..400).filter_map(|_| TcpStream::connect(("127.0.0.1", broker.port())).ok()).collect();
    let used = eventually("as many clients as may be", || {
        let refused = broker.log().iter().any(|line| line.contains("no more files may be opened"));
        refused.then(|| broker.open_files())
    });
    assert!(used <= 400 - 200, "{used} files are open");
    assert!(!broker.log().iter().any(|line| line.contains("can't accept")));
    drop(held);
    eventually("room again", || {
        let mut peer = Peer::silent(&broker);
        // Refused at first, perhaps.
        let _ = peer.try_octets(PROTOCOL_HEADER);
        peer.try_next().map(|_| ())
    });
    assert!(broker.is_running());
}
