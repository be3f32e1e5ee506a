//! Tells systemd how the broker is (`Type=notify`; sd_notify(3)). Where nobody listens, nothing is said.

use sd_notify::NotifyState;

/// Clients are served.
pub fn ready() {
    say(&[NotifyState::Ready]);
}

/// Settings are read again; [`ready`] follows.
pub fn reloading() {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now().ok());
    say(&states);
}

pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("can't tell the supervisor: {error}");
    }
}
