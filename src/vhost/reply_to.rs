//! Answers that go straight to the channel that asked (RabbitMQ: "Direct Reply-to").
//!
//! A channel that consumes from [`QUEUE`] gets a queue of its own with a name that nobody can guess. It holds nothing but
//! what is on its way to that one consumer, is in no listing, can't be bound, and ends with the consumer.
//!
//! What is sent to a name that was given out and is no more counts as delivered, even if it is mandatory: RabbitMQ finds
//! the channel's process in the name, and does not ask whether it lives. A name tells that it was given out here by its
//! last octets, a digest of the others and of a secret.

use super::Vhost;
use super::events::HOUSE;
use crate::amqp::Table;
use crate::queue::Queue;
use crate::queue::classic::{Acts, Identity, Surroundings};
use crate::queue::consumer::ConsumerKey;
use crate::queue::settings::Settings;
use crate::refusal::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use subtle::ConstantTimeEq;

/// What a client consumes from, and writes into `reply-to`.
pub const QUEUE: &str = "amq.rabbitmq.reply-to";
/// The names that `reply-to` gets instead begin so.
pub const PREFIX: &str = "amq.rabbitmq.reply-to.";

const NUMBER_BYTES: usize = 16;
const DIGEST_BYTES: usize = 16;

/// What the names of one broker's run have in common, and nobody else knows.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Secret")
    }
}

impl Secret {
    pub fn new() -> Self {
        let mut secret = [0; 32];
        // The system's random source fails only before it is seeded, long before a broker runs.
        getrandom::fill(&mut secret).expect("the operating system has random octets");
        Self(secret)
    }

    fn digest(&self, number: &[u8]) -> [u8; DIGEST_BYTES] {
        let whole = Sha256::new().chain_update(self.0).chain_update(number).finalize();
        *whole.first_chunk().expect("a digest has 32 octets")
    }

    fn name(&self) -> String {
        let mut octets = [0; NUMBER_BYTES + DIGEST_BYTES];
        getrandom::fill(&mut octets[..NUMBER_BYTES]).expect("the operating system has random octets");
        let digest = self.digest(&octets[..NUMBER_BYTES]);
        octets[NUMBER_BYTES..].copy_from_slice(&digest);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(octets))
    }

    /// Whether a name was given out, by this run of the broker.
    fn knows(&self, name: &str) -> bool {
        let Some(encoded) = name.strip_prefix(PREFIX) else { return false };
        let Ok(octets) = URL_SAFE_NO_PAD.decode(encoded) else { return false };
        octets.split_at_checked(NUMBER_BYTES).is_some_and(|(number, digest)| self.digest(number).ct_eq(digest).into())
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self::new()
    }
}

impl Vhost {
    /// A queue for the answers to one channel.
    pub fn open_reply_queue(&self) -> Arc<Queue> {
        let identity = Identity {
            id: self.house.next_queue.fetch_add(1, Ordering::Relaxed),
            vhost: Arc::clone(&self.name),
            name: self.house.reply_secret.name().into(),
            durable: false,
            auto_delete: false,
            exclusive: None,
            arguments: Table::default(),
            user: HOUSE.into(),
        };
        let around = Surroundings { volatile: true, ..self.around.clone() };
        let queue = Queue::new(identity, Settings::default(), &around);
        // Routes to it are not remembered, so that no others need be forgotten.
        self.topology.write().replies.insert(Arc::clone(&queue.identity.name), Arc::clone(&queue));
        queue
    }

    /// The channel does not wait for answers any more.
    pub fn close_reply_queue(&self, queue: &Arc<Queue>, consumer: ConsumerKey) {
        self.topology.write().replies.remove(&queue.identity.name);
        let mut acts = Acts::default();
        queue.cancel(consumer, &mut acts);
        // Nobody else can have deleted it.
        let _ = queue.delete(|_| Ok::<(), ()>(()), &mut acts);
        acts.run();
    }

    /// Whether a name for answers was given out, whoever waits for them.
    pub fn is_reply_name(&self, name: &str) -> bool {
        self.house.reply_secret.knows(name)
    }

    /// What only the channel itself may do with its queue for answers (`rabbit_volatile_queue`).
    pub fn refuse_reply_queue(&self, method: &str, name: &str) -> Result<(), Refusal> {
        let queue = format!("queue '{name}' in vhost '{}'", self.name);
        match method {
            _ if !self.is_reply_name(name) => Ok(()),
            "get" => Err(Refusal::not_implemented(format!("basic.get not supported by volatile {queue}"))),
            _ => Err(Refusal::precondition(format!("only creator channel may consume from {queue}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_were_given_out_are_known() {
        let secret = Secret::new();
        let name = secret.name();
        assert!(secret.knows(&name));
        assert!(!Secret::new().knows(&name));
        assert!(!secret.knows(QUEUE));
        assert!(!secret.knows(PREFIX));
        for at in PREFIX.len()..name.len() {
            let mut forged = name.clone();
            forged.replace_range(at..=at, if &name[at..=at] == "A" { "B" } else { "A" });
            assert!(!secret.knows(&forged), "{forged}");
        }
        assert!(name.len() <= 255);
    }
}
