//! A way in for the command line of this machine: a file in the data folder that says where the management API is, and a
//! secret that it takes for an administrator's password. Whoever may read the data folder may do everything anyway.
//!
//! RabbitMQ's tools have Erlang's cookie for this. The secret is another at each start, counts from loopback addresses only,
//! and stands in the form of `rabbitmqadmin`'s file.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::broker::Broker;
use crate::broker::listeners::{Listener, Protocol};
use crate::broker::login::TOOLS;

/// Its name in the data folder.
pub const FILE: &str = "ctl.conf";

/// The file, as long as the broker is reached by it.
pub struct Pass(PathBuf);

impl Pass {
    /// Writes it, if the management API listens anywhere. Without it the tools need a password.
    pub fn write(broker: &Broker) -> Option<Self> {
        let path = broker.config.data_dir.join(FILE);
        let listeners = broker.listeners.list();
        let written = remove(&path).and_then(|()| {
            let Some(listener) = listeners.iter().find(|listener| listener.protocol == Protocol::Http) else {
                return Ok(None);
            };
            let url = format!("{}{}", url(listener), broker.config.http.path_prefix);
            let text = format!(
                "# For the tools on this machine; another at each start.\n[default]\nbase_uri = \"{url}\"\nusername = \
                 \"{TOOLS}\"\npassword = \"{}\"\n",
                broker.tools_secret().expose()
            );
            // A new file, so that nobody has opened it before.
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(text.as_bytes())?;
            Ok(Some(Self(path.clone())))
        });
        written.unwrap_or_else(|error: io::Error| {
            tracing::warn!("{} can't be written, so that tools need a password: {error}", path.display());
            None
        })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!("{} can't be removed: {error}", self.0.display());
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where somebody on this machine finds a listener.
fn url(listener: &Listener) -> String {
    let scheme = if listener.certificates.is_some() { "https" } else { "http" };
    let mut address = listener.address;
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("{scheme}://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_come_by_loopback_where_that_is_listened_on() {
        let of = |address: &str| url(&Listener::new(Protocol::Http, address.parse().unwrap(), None));
        assert_eq!(of("0.0.0.0:15672"), "http://127.0.0.1:15672");
        assert_eq!(of("[::]:15672"), "http://[::1]:15672");
        assert_eq!(of("10.0.0.1:15672"), "http://10.0.0.1:15672");
    }
}
