//! Random: any of the bindings takes the message (`rabbit_exchange_type_random`, `rabbit_exchange_type_local_random`).
//! What they share with other types is in [`super::picks`]; here is what the local one refuses.
//!
//! The local one is meant for a cluster: it chooses among the queues of the publisher's own node, and therefore knows
//! only queues that live on one. On a single node it chooses among all.

use super::Bound;
use crate::refusal::Refusal;

/// The type of queue that lives on one node, in RabbitMQ's words.
const CLASSIC: &str = "rabbit_classic_queue";

/// What `x-local-random` refuses to bind.
pub(super) fn check_local(routing_key: &str, bound: Bound<'_>) -> Result<(), Refusal> {
    if !routing_key.is_empty() {
        // RabbitMQ prints the key octet by octet (`~s`), which shows what is not ASCII as two characters or more.
        let key: String = routing_key.bytes().map(char::from).collect();
        return Err(Refusal::precondition(format!("Non empty binding '{key}' key not permitted")));
    }
    match bound {
        Bound::Queue(CLASSIC) => Ok(()),
        Bound::Queue(module) => {
            Err(Refusal::precondition(format!("Queue type {module} not valid for this exchange type")))
        }
        // It looks for a queue of this name and type and finds none.
        Bound::Exchange => Err(Refusal::precondition("Destination not found")),
    }
}
