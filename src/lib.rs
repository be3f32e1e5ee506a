//! Leveret: an AMQP 0-9-1 message broker.
pub mod amqp;
pub mod message;
pub mod queue;
pub mod refusal;
