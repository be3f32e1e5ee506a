//! Who may log in, and what they may do.
//!
//! Users, password hashes and permissions as RabbitMQ has them, so that its exports keep their meaning; and what clients
//! log in with: SASL responses, certificates, tokens. All of it is plain values and functions: who the users are is the
//! broker's to know.

pub mod certificate;
mod der;
mod loopback;
mod password;
mod pattern;
mod permission;
mod rights;
pub mod sasl;
pub mod throttle;
pub mod token;
mod user;

pub use loopback::is_loopback;
pub use password::{Algorithm, Memory, Secret, hash, verify, verify_slowly};
pub use pattern::{PATTERN_BYTES_MAX, Pattern, Unusable};
pub use permission::{Access, DEFAULT_EXCHANGE, Permission, TopicPermission};
pub use rights::{Granted, Patterns, Rights};
pub use sasl::Login;
pub use user::{User, UserLimits};
