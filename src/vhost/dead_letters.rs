//! What queues can't deal with by themselves: their dead letters, and their own end when nobody uses them.
//!
//! A dead letter leaves its queue and reaches others in one write to the disk ([`crate::store::Store::together`]): no
//! crash loses it or leaves two of it. Where it goes is decided as for any publish, but without rights, returns or
//! confirms (RabbitMQ: "Dead Letter Exchanges").

use super::Vhost;
use super::publish::Targets;
use crate::amqp::properties::{Properties, with_counts};
use crate::message::{Message, Packer, Traits};
use crate::queue::Queue;
use crate::queue::classic::{Acts, Host};
use crate::queue::dead_letter::{self, Death, Reason, Relayed};
use crate::queue::settings::Settings;
use crate::queue::state::Dead;
use crate::queue::tallies::Tally;
use std::ops::Range;
use std::sync::Arc;

/// Messages that leave one queue on their way to the same others.
#[derive(Default)]
pub(super) struct Parcel {
    targets: Targets,
    packer: Packer,
    failed: u32,
    /// What is settled once it has arrived.
    positions: Vec<Range<u64>>,
}

/// A message that leaves a queue.
pub(super) struct Letter<'a> {
    pub message: Message<'a>,
    pub traits: Traits,
    /// The queues that it reaches.
    pub targets: Targets,
    /// How often it failed.
    pub failed: u32,
    /// Where it is in the queue that it leaves, if anywhere.
    pub position: Option<u64>,
}

impl Host for Vhost {
    fn hand_on(&self, queue: &Arc<Queue>, dead: Vec<Dead>, acts: &mut Acts) {
        let settings = queue.settings();
        if settings.delays {
            return self.hand_on_due(queue, dead, acts);
        }
        let _together = self.around.store.together();
        let mut parcel = Parcel::default();
        for dead in dead {
            for offset in 0..dead.count {
                let message = dead.run.message(dead.index + offset);
                let position = dead.positions.as_ref().map(|positions| positions.start + u64::from(offset));
                let counted;
                let message = match settings.keeps_dead() && dead.tally != Tally::default() {
                    // At least once, a dead letter shows how often it came back (`rabbit_fifo_dlx_worker`).
                    true => {
                        counted = with_counts(message.properties, dead.tally.acquired, dead.tally.failed);
                        Message { properties: &counted, ..message }
                    }
                    false => message,
                };
                let (relayed, targets) = self.relay(queue, &settings, &message, dead.reason);
                if targets.is_empty() && settings.keeps_dead() && position.is_some() {
                    self.deliver(queue, &mut parcel, acts);
                    return queue.keep_dead(acts);
                }
                let traits = Traits { persistent: dead.run.persistent(), ..relayed.traits };
                let failed = dead.tally.failed;
                let letter = Letter { message: relayed.message(), traits, targets, failed, position };
                if !self.enclose(queue, &mut parcel, letter, acts) {
                    return;
                }
            }
        }
        self.deliver(queue, &mut parcel, acts);
    }

    fn unused(&self, queue: &Arc<Queue>) {
        tracing::debug!("{queue:?} was not used for as long as it may be unused, and is deleted");
        // Nobody waits for its end to be on disk.
        drop(self.end_unused_queue(queue));
    }
}

impl Vhost {
    /// Adds a message to those on the same way; those on another are delivered first. False as [`Vhost::deliver`] says it.
    pub(super) fn enclose(&self, queue: &Arc<Queue>, parcel: &mut Parcel, letter: Letter<'_>, acts: &mut Acts) -> bool {
        let Letter { message, traits, targets, failed, position } = letter;
        // Where nobody wants it, it is gone. What went before it is settled before it.
        if !targets.is_empty() {
            if parcel.failed != failed
                || !parcel.packer.accepts(traits.persistent, message.packed_bytes())
                || !same(&parcel.targets, &targets)
            {
                if !self.deliver(queue, parcel, acts) {
                    return false;
                }
                (parcel.targets, parcel.failed) = (targets, failed);
            }
            parcel.packer.push(&message, traits);
        }
        parcel.positions.extend(position.map(|position| position..position + 1));
        true
    }

    /// Publishes what has gathered and settles it in the queue it comes from. False if its targets would not take it,
    /// and it must not be lost: then it stays.
    pub(super) fn deliver(&self, queue: &Arc<Queue>, parcel: &mut Parcel, acts: &mut Acts) -> bool {
        let Parcel { targets, mut packer, failed, positions } = std::mem::take(parcel);
        if !packer.is_empty() {
            let run = Arc::new(packer.finish());
            if queue.settings().keeps_dead() {
                // One that is filled at the last moment has the others get it once more, rather than nobody.
                let taken = targets.iter().all(|target| target.accepts(&run))
                    && targets.iter().all(|target| target.offer(&run, failed, acts));
                if !taken {
                    queue.keep_dead(acts);
                    return false;
                }
            } else {
                for target in &targets {
                    target.publish_dead(&run, failed, acts);
                }
            }
        }
        for range in joined(positions) {
            queue.buried(range, acts);
        }
        true
    }

    /// A dead letter as it goes on, and the queues it reaches.
    fn relay<'a>(
        &self,
        queue: &Queue,
        settings: &'a Settings,
        message: &Message<'a>,
        reason: Reason,
    ) -> (Relayed<'a>, Targets) {
        let exchange = settings.dead_letter_exchange.as_deref().unwrap_or_default();
        let routing_key = settings.dead_letter_routing_key.as_deref();
        let death = Death { queue: &queue.identity.name, reason, time_s: self.around.clock.now_ms() / 1000 };
        let relayed = dead_letter::relay(message, &death, exchange, routing_key);
        let properties = Properties::parse(&relayed.properties).ok();
        // A missing exchange takes nothing.
        let route = properties.and_then(|properties| {
            self.route_message(&relayed.message(), relayed.traits, &relayed.keys, &properties, false).ok()
        });
        let mut targets = route.map_or(Targets::new(), |route| route.targets);
        targets.retain(|target| {
            let cycle = relayed.is_cycle(&target.identity.name);
            if cycle {
                self.tell_cycle(&relayed, &target.identity.name);
            }
            !cycle
        });
        (relayed, targets)
    }

    /// Says once that messages go round in a circle and are dropped.
    fn tell_cycle(&self, relayed: &Relayed<'_>, target: &str) {
        /// More circles than these are not told.
        const CYCLES_MAX: usize = 1024;
        let mut circle = vec![target.to_owned()];
        circle.extend(relayed.queues());
        let mut known = self.cycles.lock();
        if known.len() < CYCLES_MAX && known.insert(circle.clone()) {
            tracing::warn!(
                "message dropped: the queues {circle:?} (ordered by death recency) dead-letter in a circle without any \
                 rejection; this is not told again"
            );
        }
    }
}

fn same(a: &Targets, b: &Targets) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Neighbouring ranges as one.
fn joined(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}
