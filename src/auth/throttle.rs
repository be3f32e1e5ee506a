//! How often somebody may guess a password.
//!
//! What counts are failures: of one user from one address, and of one user from anywhere. The first are refused for a
//! while without looking at the password; the second only make every login of that user take longer, since otherwise
//! anybody could lock anybody out.
//!
//! The tables have a fixed size, whoever guesses how much. A key has one place in each of two rows, chosen by hashes
//! that nobody outside can compute, and counts as often as the row says that counted it least: keys that share a place
//! in one row hardly ever do in the other.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Failures are counted over so long.
const WINDOW_S: u32 = 60;
/// Places in a row.
const PLACES: usize = 16_384;
const ROWS: usize = 2;
/// A user may have so many times the failures of one address before its logins take longer.
const USER_FACTOR: u32 = 10;
/// How much longer.
pub const USER_DELAY: Duration = Duration::from_secs(2);

/// Who guesses how often. Times are seconds from whenever.
#[derive(Debug)]
pub struct Throttle {
    pairs: Table,
    users: Table,
    /// Of one user from one address, a minute; `None`: as many as one likes.
    failures_max: Option<u32>,
    /// How long that address is refused then, seconds.
    refusal_s: u32,
}

/// What is to be done with a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Now,
    /// Look at it, but later.
    Later(Duration),
    /// Don't look at it.
    Refused,
}

impl Throttle {
    pub fn new(failures_max: Option<u32>, refusal: Duration) -> Self {
        let refusal_s = u32::try_from(refusal.as_secs()).unwrap_or(u32::MAX);
        Self { pairs: Table::new(), users: Table::new(), failures_max, refusal_s }
    }

    /// Whether a password that this address gives for this user is to be looked at.
    pub fn admit(&self, now_s: u32, peer: IpAddr, user: &str) -> Admission {
        let Some(failures_max) = self.failures_max else { return Admission::Now };
        if self.pairs.is_barred(now_s, &(network(peer), user)) {
            return Admission::Refused;
        }
        match self.users.failures(now_s, &user) >= failures_max.saturating_mul(USER_FACTOR) {
            true => Admission::Later(USER_DELAY),
            false => Admission::Now,
        }
    }

    /// It was looked at, and wrong.
    pub fn failed(&mut self, now_s: u32, peer: IpAddr, user: &str) {
        if let Some(failures_max) = self.failures_max {
            self.pairs.count(now_s, &(network(peer), user), failures_max, self.refusal_s);
            self.users.count(now_s, &user, u32::MAX, 0);
        }
    }
}

/// Where somebody comes from: an address, of IPv6 the network, since everybody has a whole one.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[derive(Debug)]
struct Table {
    rows: [(RandomState, Box<[Place]>); ROWS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// When the first failure of this window was.
    since_s: u32,
    failures: u32,
    barred_until_s: u32,
}

impl Table {
    fn new() -> Self {
        Self { rows: std::array::from_fn(|_| (RandomState::new(), vec![Place::default(); PLACES].into())) }
    }

    fn places<K: std::hash::Hash>(&self, key: &K) -> [usize; ROWS] {
        let place = |(hasher, places): &(RandomState, Box<[Place]>)| {
            usize::try_from(hasher.hash_one(key) % places.len() as u64).expect("a place has a number")
        };
        std::array::from_fn(|row| place(&self.rows[row]))
    }

    fn is_barred<K: std::hash::Hash>(&self, now_s: u32, key: &K) -> bool {
        let places = self.places(key);
        self.rows.iter().zip(places).all(|((_, row), at)| now_s < row[at].barred_until_s)
    }

    fn failures<K: std::hash::Hash>(&self, now_s: u32, key: &K) -> u32 {
        let places = self.places(key);
        let failures = self.rows.iter().zip(places).map(|((_, row), at)| row[at].failures_now(now_s));
        failures.min().unwrap_or_default()
    }

    /// Counts a failure; the one that makes it `failures_max` bars the key for a while, after which it starts anew.
    fn count<K: std::hash::Hash>(&mut self, now_s: u32, key: &K, failures_max: u32, barred_s: u32) {
        let places = self.places(key);
        for ((_, row), at) in self.rows.iter_mut().zip(places) {
            let place = &mut row[at];
            let failures = place.failures_now(now_s).saturating_add(1);
            if failures == 1 {
                place.since_s = now_s;
            }
            place.failures = failures;
            if failures >= failures_max {
                *place = Place { barred_until_s: now_s.saturating_add(barred_s), ..Place::default() };
            }
        }
    }
}

impl Place {
    fn failures_now(&self, now_s: u32) -> u32 {
        if now_s.saturating_sub(self.since_s) < WINDOW_S { self.failures } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSAL: Duration = Duration::from_secs(60);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_tenth_failure_of_a_minute_bars_that_address_from_that_user_for_a_minute() {
        let mut throttle = Throttle::new(Some(10), REFUSAL);
        let peer = address("10.0.0.1");
        for second in 0..10 {
            assert_eq!(throttle.admit(second, peer, "hare"), Admission::Now);
            throttle.failed(second, peer, "hare");
        }
        assert_eq!(throttle.admit(10, peer, "hare"), Admission::Refused);
        assert_eq!(throttle.admit(10, peer, "tortoise"), Admission::Now);
        assert_eq!(throttle.admit(10, address("10.0.0.2"), "hare"), Admission::Now);
        assert_eq!(throttle.admit(68, peer, "hare"), Admission::Refused);
        assert_eq!(throttle.admit(69, peer, "hare"), Admission::Now);
        // And counts from nothing again.
        throttle.failed(69, peer, "hare");
        assert_eq!(throttle.admit(69, peer, "hare"), Admission::Now);
    }

    #[test]
    fn failures_of_another_minute_do_not_count() {
        let mut throttle = Throttle::new(Some(10), REFUSAL);
        let peer = address("::1");
        for second in (0..2000).step_by(10) {
            throttle.failed(second, peer, "hare");
            assert_eq!(throttle.admit(second, peer, "hare"), Admission::Now, "{second}");
        }
    }

    #[test]
    fn a_user_whom_the_world_guesses_at_is_slowed_and_never_locked() {
        let mut throttle = Throttle::new(Some(10), REFUSAL);
        for host in 0..100 {
            assert_eq!(throttle.admit(0, address("10.1.0.1"), "hare"), Admission::Now);
            throttle.failed(0, address(&format!("10.0.0.{host}")), "hare");
        }
        assert_eq!(throttle.admit(59, address("10.1.0.1"), "hare"), Admission::Later(USER_DELAY));
        assert_eq!(throttle.admit(60, address("10.1.0.1"), "hare"), Admission::Now);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let mut throttle = Throttle::new(Some(10), REFUSAL);
        for host in 0..10 {
            throttle.failed(0, address(&format!("2001:db8::{host}")), "hare");
        }
        assert_eq!(throttle.admit(1, address("2001:db8::ffff:1"), "hare"), Admission::Refused);
        assert_eq!(throttle.admit(1, address("2001:db8:0:1::1"), "hare"), Admission::Now);
        // An IPv4 address is itself, however it is written.
        (0..10).for_each(|_| throttle.failed(1, address("::ffff:10.0.0.1"), "hare"));
        assert_eq!(throttle.admit(2, address("10.0.0.1"), "hare"), Admission::Refused);
        assert_eq!(throttle.admit(2, address("10.0.0.2"), "hare"), Admission::Now);
    }

    #[test]
    fn many_guessers_bar_hardly_anybody_else() {
        let mut throttle = Throttle::new(Some(10), REFUSAL);
        let peer = address("10.0.0.1");
        for user in 0..1000 {
            (0..10).for_each(|_| throttle.failed(0, peer, &format!("guessed-{user}")));
        }
        let barred = (0..1000).filter(|user| throttle.admit(1, peer, &format!("hare-{user}")) == Admission::Refused);
        // Expected: 1000 × (1000 / 16,384)², about four.
        assert!(barred.count() < 30);
    }

    #[test]
    fn without_a_limit_everybody_may_guess() {
        let mut throttle = Throttle::new(None, REFUSAL);
        let peer = address("10.0.0.1");
        (0..10_000).for_each(|_| throttle.failed(0, peer, "hare"));
        assert_eq!(throttle.admit(0, peer, "hare"), Admission::Now);
    }
}
