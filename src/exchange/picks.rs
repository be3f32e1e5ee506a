//! One of all destinations, by a number: what `x-random`, `x-local-random` and `x-modulus-hash` have in common.

use super::Destination;

/// The destination of each binding, sorted, so that the order in which they came does not count. A destination with two
/// bindings is there twice and has twice the chance, as in RabbitMQ.
#[derive(Debug, Default)]
pub(super) struct Picks(Vec<Destination>);

impl Picks {
    pub(super) fn add(&mut self, destination: &Destination) {
        let at = self.0.partition_point(|known| known < destination);
        self.0.insert(at, destination.clone());
    }

    /// Takes back one [`Picks::add`] of this destination.
    pub(super) fn remove(&mut self, destination: &Destination) {
        if let Ok(at) = self.0.binary_search(destination) {
            self.0.remove(at);
        }
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2);
        }
    }

    /// The destination that stands at this number, counted round and round.
    pub(super) fn route(&self, number: u64, found: &mut dyn FnMut(&Destination)) {
        let at = number.checked_rem(self.0.len() as u64).and_then(|at| usize::try_from(at).ok());
        if let Some(destination) = at.and_then(|at| self.0.get(at)) {
            found(destination);
        }
    }
}

#[cfg(test)]
impl Picks {
    pub(super) fn all(&self) -> &[Destination] {
        &self.0
    }
}
