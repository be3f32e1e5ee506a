//! Leveret from outside: a broker process on a free port, and peers that speak frames or use a client library. One
//! binary, so that RocksDB is linked once; a module is a theme.

// A test that finds something else than it expects ends there; and its numbers are small.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod advisories;
mod alarms;
mod broken_disk;
mod browse;
mod clients;
mod confirms;
mod copies;
mod counted;
mod ctl;
mod dead_letters;
mod definitions;
mod delayed;
mod documents;
mod durability;
mod events;
mod exchanges;
mod formats;
mod framing;
mod full_disk;
mod handshake;
mod health;
mod heartbeats;
mod hostile;
mod http;
mod http_changes;
mod http_objects;
mod http_roles;
mod layers;
mod life;
mod login;
mod many_sides;
mod pages;
mod paging;
mod policies;
mod pressure;
mod privacy;
mod prometheus;
mod proxy;
mod reload;
mod rights;
mod scripts;
mod settling;
mod slow_reader;
mod stats;
mod support;
mod tls;
mod topology;
