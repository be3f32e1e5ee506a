//! Settings: from what is written to what is meant.
//!
//! ```text
//! built-in defaults < leveret.toml, or rabbitmq.conf with conf.d < environment < command line
//!   settings            toml_file      rabbitmq_conf               environment   Sources::flags
//!        └────────────────┴──────────────────┴──────────────────────────┴─────────────┘
//!                                    layers: one written value a setting, and its place
//!                                    meaning: checked, with units and ranges
//!                                    Config: the only thing that leaves this room
//! ```
//!
//! Every setting stands once in [`SETTINGS`], with its names in all sources, what it takes, and its default as one
//! would write it. The reference in `docs/configuration.md`, the example `config/leveret.toml` and the flags are made
//! from or tested against that table.
//!
//! Nothing here asks the process for anything but files: variables, flags, the user and the host's name are given.

mod ciphers;
mod environment;
mod layers;
mod meaning;
mod network;
mod rabbitmq_conf;
mod settings;
mod sources;
#[cfg(test)]
mod tests;
mod toml_file;
mod units;

/// What a process ends with when its configuration is wrong: `EX_CONFIG` of sysexits.h, as RabbitMQ's tools do.
pub const EXIT_CONFIG: u8 = 78;

pub use ciphers::{Cipher, cipher};
pub use meaning::{
    Backend, Config, CrlCheck, DefaultPermissions, Durability, Http, Log, LogFormat, Metrics, Tls, TlsVersion, Verify,
    Watermark,
};
pub use network::Network;
pub use settings::{Default, Kind, SETTINGS, Setting};
pub use sources::{Effective, Host, Sources};
