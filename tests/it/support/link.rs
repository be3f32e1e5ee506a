//! A cable of one's own, which can be cut.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

/// A cable between this system and another one with a network of its own; gone when dropped.
pub struct Link {
    name: String,
    number: u8,
}

impl Link {
    /// `None`, and a line that says so, where none can be laid.
    pub fn lay() -> Option<Self> {
        // An address for documentation, 198.51.100.0/24, that another run is not likely to have.
        let number = u8::try_from(std::process::id() % 64).unwrap() * 4;
        let link = Self { name: format!("lev{}", std::process::id()), number };
        let (near, far) = (link.name.clone(), format!("{}f", link.name));
        let [here, there] = [link.here(), link.there()].map(|address| format!("{address}/30"));
        let laid = ip(&["netns", "add", &near])
            && ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &near])
            && ip(&["address", "add", &here, "dev", &near])
            && ip(&["link", "set", &near, "up"])
            && ip(&["-netns", &near, "address", "add", &there, "dev", &far])
            && ip(&["-netns", &near, "link", "set", &far, "up"]);
        if !laid {
            eprintln!("skipped: no network of its own can be made here, which needs root and iproute2");
        }
        laid.then_some(link)
    }

    /// This end's address.
    pub fn here(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.number + 1)
    }

    fn there(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.number + 2)
    }

    /// A connection from the other end to this one.
    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        let folder = format!("/var/run/netns/{}", self.name);
        // A thread is in one network, and a socket stays in the one that it was made in.
        let connecting = std::thread::spawn(move || {
            let network = File::open(folder).unwrap();
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            TcpStream::connect(address).unwrap()
        });
        connecting.join().unwrap()
    }

    /// From now on nothing arrives at either end, and nobody is told.
    pub fn cut(&self) {
        assert!(ip(&["-netns", &self.name, "link", "set", &format!("{}f", self.name), "down"]));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // With one end goes the other.
        ip(&["link", "delete", &self.name]);
        ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let run = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    run.is_ok_and(|status| status.success())
}
