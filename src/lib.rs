//! Leveret: an AMQP 0-9-1 message broker.
pub mod amqp;
pub mod auth;
pub mod cli;
pub mod config;
pub mod declaration;
pub mod definitions;
pub mod exchange;
pub mod message;
pub mod queue;
pub mod refusal;
pub mod telemetry;
pub mod written;
