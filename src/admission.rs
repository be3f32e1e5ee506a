//! Who may come in. A client that has not logged in costs memory and a descriptor and has shown nothing for it, so such
//! clients are counted: in all, and by address; and new ones of an address come at a bounded rate. Addresses that stand
//! for many clients (this machine's own, trusted proxies) are exempt from what is by address.
//!
//! ```text
//!  accepted ── admit ──▶ Guest, unknown ── welcome ──▶ Guest, known ── drop ──▶ gone
//!               │             └────────── gives way (oldest first, when all places are taken)
//!               └─ Refusal
//! ```
//!
//! [`Register`] decides and is pure; [`Door`] is what servers and connections share of it.

use crate::pace::Pace;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

/// Descriptors that are not for clients: the store's files, and what the process opens now and then.
pub const DESCRIPTORS_RESERVED: usize = 256;
/// A client that has had so long to log in gives way to a newcomer when all places are taken. The usual login takes
/// milliseconds, so that who floods the broker with connections drives out mostly those of its own.
pub const GRACE: Duration = Duration::from_secs(1);
/// At once, an address may bring so many seconds' worth of connections.
const BURST_SECONDS: u32 = 5;
/// Addresses remembered. Beyond, those that owe nothing are forgotten; then all without an unknown client.
const ADDRESSES_MAX: usize = 16_384;

/// How many may come.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Clients in all, known or not.
    pub clients_max: usize,
    /// Clients that have not logged in.
    pub unknown_max: usize,
    /// The same, of one address.
    pub unknown_per_address: usize,
    /// New clients of one address a second; `None`: any number.
    pub accepts_per_address: Option<u32>,
}

/// Why somebody is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No descriptor is left for a client.
    Descriptors,
    /// All places for clients that have not logged in are taken, and none of those is old enough to give way.
    Unknown,
    /// Too many of this address have not logged in.
    UnknownOfAddress,
    /// New ones of this address come too fast.
    Rate,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Descriptors => "no more files may be opened",
            Self::Unknown => "too many clients have not logged in yet (unauthenticated_max)",
            Self::UnknownOfAddress => {
                "too many clients of this address have not logged in yet (unauthenticated_per_address)"
            }
            Self::Rate => "this address opens connections too fast (accepts_per_address)",
        })
    }
}

/// The clients that are here, and the decision.
#[derive(Debug)]
pub struct Register<W> {
    limits: Limits,
    clients: usize,
    /// By ticket, and so by age.
    unknown: BTreeMap<u64, Unknown<W>>,
    addresses: FxHashMap<IpAddr, Address>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Unknown<W> {
    /// `None`: exempt.
    address: Option<IpAddr>,
    since: Instant,
    waker: W,
}

#[derive(Debug)]
struct Address {
    unknown: usize,
    pace: Option<Pace>,
}

impl<W> Register<W> {
    pub fn new(limits: Limits) -> Self {
        Self { limits, clients: 0, unknown: BTreeMap::new(), addresses: FxHashMap::default(), next_ticket: 0 }
    }

    /// Lets somebody in, or not: their ticket, and the waker of who gives way to them. `waker` tells this one, if it
    /// comes to that.
    pub fn admit(
        &mut self,
        address: IpAddr,
        is_exempt: bool,
        waker: W,
        now: Instant,
    ) -> Result<(u64, Option<W>), Refusal> {
        let Limits { clients_max, unknown_max, unknown_per_address, accepts_per_address } = self.limits;
        let address = (!is_exempt).then(|| network(address));
        if let Some(address) = address {
            self.forget_addresses(now);
            let pace = || accepts_per_address.map(|rate| Pace::new(rate, rate.saturating_mul(BURST_SECONDS), now));
            let known = self.addresses.entry(address).or_insert_with(|| Address { unknown: 0, pace: pace() });
            if known.unknown >= unknown_per_address {
                return Err(Refusal::UnknownOfAddress);
            }
            if known.pace.as_mut().is_some_and(|pace| pace.take(now).is_err()) {
                return Err(Refusal::Rate);
            }
        }
        let mut gives_way = None;
        if self.clients >= clients_max || self.unknown.len() >= unknown_max {
            let is_old = |unknown: &Unknown<W>| now.duration_since(unknown.since) >= GRACE;
            let Some(oldest) = self.unknown.first_entry().filter(|oldest| is_old(oldest.get())) else {
                return Err(if self.clients >= clients_max { Refusal::Descriptors } else { Refusal::Unknown });
            };
            gives_way = Some(oldest.remove());
        }
        let gives_way = gives_way.map(|unknown| {
            self.clients -= 1;
            self.has_left(unknown.address);
            unknown.waker
        });
        self.next_ticket += 1;
        self.clients += 1;
        if let Some(known) = address.and_then(|address| self.addresses.get_mut(&address)) {
            known.unknown += 1;
        }
        self.unknown.insert(self.next_ticket, Unknown { address, since: now, waker });
        Ok((self.next_ticket, gives_way))
    }

    /// A client has logged in; false if it had to give way a moment before.
    pub fn welcome(&mut self, ticket: u64) -> bool {
        let unknown = self.unknown.remove(&ticket);
        if let Some(unknown) = &unknown {
            self.has_left(unknown.address);
        }
        unknown.is_some()
    }

    /// A client goes. `is_known`: it was welcomed.
    pub fn leave(&mut self, ticket: u64, is_known: bool) {
        // Who gave way has been counted out already.
        if is_known || self.welcome(ticket) {
            self.clients -= 1;
        }
    }

    fn has_left(&mut self, address: Option<IpAddr>) {
        if let Some(known) = address.and_then(|address| self.addresses.get_mut(&address)) {
            known.unknown -= 1;
        }
    }

    /// Makes room for another address.
    fn forget_addresses(&mut self, now: Instant) {
        if self.addresses.len() >= ADDRESSES_MAX {
            let is_rested = |pace: &Option<Pace>| pace.as_ref().is_none_or(|pace| pace.is_rested(now));
            self.addresses.retain(|_, known| known.unknown > 0 || !is_rested(&known.pace));
        }
        if self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.retain(|_, known| known.unknown > 0);
        }
    }
}

/// Who has one address of a network of IPv6 has all of it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// The one register of a broker, for all its listeners.
#[derive(Debug)]
pub struct Door {
    register: Mutex<Register<Arc<Notify>>>,
}

/// A client that was let in, until it is dropped.
#[derive(Debug)]
pub struct Guest {
    door: Arc<Door>,
    ticket: u64,
    is_known: bool,
    gives_way: Arc<Notify>,
}

impl Door {
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { register: Mutex::new(Register::new(limits)) })
    }

    /// Lets a client in, or not. `is_exempt`: its address stands for many.
    pub fn admit(self: &Arc<Self>, address: IpAddr, is_exempt: bool) -> Result<Guest, Refusal> {
        let gives_way = Arc::new(Notify::new());
        let admitted = self.register.lock().admit(address, is_exempt, Arc::clone(&gives_way), Instant::now());
        let (ticket, other) = admitted?;
        if let Some(other) = other {
            other.notify_one();
        }
        Ok(Guest { door: Arc::clone(self), ticket, is_known: false, gives_way })
    }
}

impl Guest {
    /// It has logged in, and is not in the way of others any more; false if it had to give way a moment before.
    pub fn welcome(&mut self) -> bool {
        self.is_known = self.is_known || self.door.register.lock().welcome(self.ticket);
        self.is_known
    }

    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// Comes about when it has to give way. Never, once it is welcome.
    pub fn gives_way(&self) -> impl Future<Output = ()> + use<> {
        let gives_way = (!self.is_known).then(|| Arc::clone(&self.gives_way));
        async move {
            match gives_way {
                Some(gives_way) => {
                    gives_way.notified().await;
                    // Whoever asks next is told as well.
                    gives_way.notify_one();
                }
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.door.register.lock().leave(self.ticket, self.is_known);
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LIMITS: Limits =
        Limits { clients_max: 100, unknown_max: 10, unknown_per_address: 3, accepts_per_address: Some(10) };

    fn host(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0xC633_6400 + number).into()
    }

    fn register(limits: Limits) -> (Register<u32>, Instant) {
        (Register::new(limits), Instant::now())
    }

    #[test]
    fn an_address_has_few_places_until_its_clients_log_in() {
        let (mut register, now) = register(LIMITS);
        let tickets: Vec<u64> = (0..3).map(|n| register.admit(host(1), false, n, now).unwrap().0).collect();
        assert_eq!(register.admit(host(1), false, 3, now), Err(Refusal::UnknownOfAddress));
        assert!(register.admit(host(2), false, 4, now).is_ok(), "another address has its own");
        assert!(register.welcome(tickets[0]));
        assert!(register.admit(host(1), false, 5, now).is_ok());
        register.leave(tickets[1], false);
        assert!(register.admit(host(1), false, 6, now).is_ok());
        assert_eq!(register.admit(host(1), false, 7, now), Err(Refusal::UnknownOfAddress));
    }

    #[test]
    fn an_address_comes_at_a_bounded_rate_whatever_becomes_of_its_clients() {
        let (mut register, start) = register(Limits { unknown_per_address: usize::MAX, ..LIMITS });
        let mut admitted = 0;
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            if let Ok((ticket, _)) = register.admit(host(1), false, 0, now) {
                register.leave(ticket, false);
                admitted += 1;
            }
        }
        let expected = 10 * 10 + 10 * BURST_SECONDS;
        assert!((expected - 2..=expected).contains(&admitted), "{admitted}");
    }

    #[test]
    fn an_exempt_address_only_shares_the_places_of_all() {
        let (mut register, now) = register(LIMITS);
        for n in 0..10 {
            assert!(register.admit(host(1), true, n, now).is_ok());
        }
        assert_eq!(register.admit(host(1), true, 10, now), Err(Refusal::Unknown));
    }

    #[test]
    fn the_oldest_gives_way_once_it_had_its_time() {
        let (mut register, now) = register(LIMITS);
        let tickets: Vec<u64> = (0..10).map(|n| register.admit(host(n), false, n, now).unwrap().0).collect();
        assert!(register.welcome(tickets[0]));
        assert!(register.admit(host(20), false, 10, now).is_ok(), "who is known takes no place");
        assert_eq!(register.admit(host(21), false, 11, now), Err(Refusal::Unknown));
        let later = now + GRACE;
        assert_eq!(register.admit(host(21), false, 11, later).unwrap().1, Some(1));
        assert_eq!(register.admit(host(22), false, 12, later).unwrap().1, Some(2));
        assert!(!register.welcome(tickets[1]), "too late");
        register.leave(tickets[1], false);
        register.leave(tickets[0], true);
        assert_eq!(register.clients, 10);
    }

    #[test]
    fn descriptors_are_kept_back_from_known_and_unknown() {
        let (mut register, now) = register(Limits { clients_max: 5, ..LIMITS });
        for n in 0..5 {
            let (ticket, _) = register.admit(host(n), false, n, now).unwrap();
            assert!(register.welcome(ticket));
        }
        assert_eq!(register.admit(host(9), false, 9, now + GRACE), Err(Refusal::Descriptors));
        register.leave(1, true);
        assert!(register.admit(host(9), false, 9, now).is_ok());
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:198.51.100.7"), of("198.51.100.7"));
        assert_ne!(of("198.51.100.7"), of("198.51.100.8"));
    }

    #[test]
    fn addresses_are_not_remembered_for_ever() {
        let (mut register, now) = register(Limits { unknown_max: usize::MAX, clients_max: usize::MAX, ..LIMITS });
        let (kept, _) = register.admit(host(0), false, 0, now).unwrap();
        for n in 1..100_000 {
            let (ticket, _) = register.admit(host(n), false, n, now).unwrap();
            register.leave(ticket, false);
            assert!(register.addresses.len() <= ADDRESSES_MAX);
        }
        assert_eq!(register.addresses[&host(0)].unknown, 1);
        register.leave(kept, false);
        assert_eq!((register.clients, register.unknown.len()), (0, 0));
    }

    #[test]
    fn whatever_happens_the_counts_are_those_of_who_is_here() {
        let (mut register, start) = register(LIMITS);
        let mut here: Vec<(u64, bool)> = Vec::new();
        let mut seed = 0x9E37_79B9_u64;
        for step in 0..20_000u64 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let now = start + Duration::from_millis(step * 7);
            match seed % 4 {
                0 | 1 => {
                    if let Ok((ticket, _)) = register.admit(host(((seed >> 8) % 40) as u32), seed & 64 == 0, 0, now) {
                        here.push((ticket, false));
                    }
                }
                2 if !here.is_empty() => {
                    let at = (seed >> 8) as usize % here.len();
                    let (ticket, is_known) = here[at];
                    here[at].1 = is_known || register.welcome(ticket);
                }
                _ if !here.is_empty() => {
                    let (ticket, is_known) = here.swap_remove((seed >> 8) as usize % here.len());
                    register.leave(ticket, is_known);
                }
                _ => {}
            }
            let unknown = here.iter().filter(|(ticket, _)| register.unknown.contains_key(ticket)).count();
            let known = here.iter().filter(|(_, is_known)| *is_known).count();
            assert_eq!((register.clients, register.unknown.len()), (known + unknown, unknown));
            assert_eq!(
                register.addresses.values().map(|known| known.unknown).sum::<usize>(),
                register.unknown.values().filter(|unknown| unknown.address.is_some()).count()
            );
        }
    }
}
