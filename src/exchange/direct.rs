//! Direct: the message's key equals the binding's, octet by octet.

use super::targets::Targets;
use super::{Binding, Destination, shrink};
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Keys(HashMap<Arc<str>, Targets>);

impl Keys {
    pub(super) fn add(&mut self, binding: &Binding) {
        self.0.entry(Arc::clone(&binding.routing_key)).or_default().add(&binding.destination);
    }

    pub(super) fn remove(&mut self, binding: &Binding) {
        let Some(targets) = self.0.get_mut(&binding.routing_key) else { return };
        targets.remove(&binding.destination);
        if targets.is_empty() {
            self.0.remove(&binding.routing_key);
            shrink(&mut self.0);
        }
    }

    pub(super) fn route(&self, routing_key: &str, found: &mut dyn FnMut(&Destination)) {
        if let Some(targets) = self.0.get(routing_key) {
            targets.each(found);
        }
    }
}

#[cfg(test)]
impl Keys {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn reserved(&self) -> usize {
        self.0.capacity()
    }
}
