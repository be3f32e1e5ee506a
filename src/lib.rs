//! Leveret: an AMQP 0-9-1 message broker that RabbitMQ's clients talk to. This is the map.
//!
//! A message walks through rooms named by AMQP: [`server`] accepts, a [`connection`] reads frames ([`amqp`]), a
//! [`channel`] turns methods into operations of the house, the [`vhost`] routes through its [`exchange`]s, a [`queue`]
//! keeps the packed [`message`] and its [`store`] the rest; and back out through channel and connection.
//!
//! Layers, top down; who may use whom is held by `tests/it/layers`:
//!
//! ```text
//!   cli · server                       processes and sockets
//!   connection → channel               the AMQP door: frames, methods, tags
//!   http                               the other door: the management API
//!   broker → vhost → exchange, queue   the house: names, rules, messages
//!   store                              the cellar: RocksDB, one commit thread
//! ```
//!
//! Everything below the doors is plain functions on plain values; docs/architecture.md has the reasons.

// The AMQP door.
pub mod server;

pub mod admission;

pub mod transport;

pub mod connection;

pub mod channel;

pub mod amqp;

// The HTTP door.
pub mod http;

// The house.
pub mod broker;

pub mod vhost;

pub mod exchange;

pub mod queue;

pub mod message;

pub mod policy;

pub mod auth;

pub mod metrics;

pub mod clock;

pub mod pace;

pub mod declaration;

pub mod refusal;

// The cellar.
pub mod store;

// What people write, and the tools.
pub mod cli;

pub mod config;

pub mod definitions;

pub mod telemetry;

pub mod written;

#[cfg(test)]
mod simulation;
