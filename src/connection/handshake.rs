//! From the first octet to connection.open-ok (RabbitMQ: `rabbit_reader.erl`; specification 2.2.4).

use super::{Buffer, Connection, End, Expiry, Outcomes, Session, State};
use crate::amqp::frame::MIN_FRAME_MAX;
use crate::amqp::{PROTOCOL_HEADER, ReplyCode, Table, Value};
use crate::auth::sasl::{self, Mechanism};
use crate::broker::connections as registry;
use crate::broker::login::{Attempt, Door, Identity, Refused};
use crate::broker::unfinished::Share;
use crate::channel::egress::Opener;
use crate::channel::{Context, Fault, Limits};
use crate::config::Verify;
use crate::pace::Pace;
use crate::queue::classic::Acts;
use crate::queue::consumer::Outlet;
use crate::vhost::clients::Inside;
use crate::vhost::events::Opened;
use crate::vhost::{Actor, Toll};
use amq_protocol::protocol::connection;
use rustc_hash::FxHashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The header of AMQP 1.0 with SASL: what RabbitMQ answers to those who speak something else altogether.
const SASL_HEADER: &[u8; 8] = b"AMQP\x03\x01\x00\x00";
/// The method connection.update-secret.
const UPDATE_SECRET: (u16, u16) = (10, 70);
/// Seconds' worth of new channels that a client may open at once.
const CHURN_BURST_S: u32 = 10;
/// Also taken for 0-9-1: the header of the 0-9 drafts.
const OLD_HEADER: &[u8; 8] = b"AMQP\x01\x01\x00\x09";

/// What works here, as clients look for it.
const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

impl Connection {
    /// Reads the protocol header and answers with connection.start.
    pub(super) async fn protocol_header(&mut self, buffer: &mut Buffer) -> Outcomes<()> {
        while buffer.filled < PROTOCOL_HEADER.len() {
            match buffer.read(&mut self.socket).await {
                // Port scanners and health checks come and go like this.
                Ok(0) => return Err(End::Done),
                Ok(_) => {}
                Err(error) => return Err(End::Drop(error.to_string())),
            }
        }
        let header: [u8; 8] = *buffer.octets.first_chunk().unwrap_or(&[0; 8]);
        if header != *PROTOCOL_HEADER && header != *OLD_HEADER {
            let ours = header.starts_with(b"AMQP\x00\x00") && header[6] >= 9;
            self.egress.send(if ours { PROTOCOL_HEADER.to_vec() } else { SASL_HEADER.to_vec() });
            self.egress.pump();
            return Err(End::Drop(format!("not AMQP 0-9-1: {}", hint(&header))));
        }
        buffer.consume(0, PROTOCOL_HEADER.len());
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: self.server_properties(),
            mechanisms: self.mechanisms().join(" ").into(),
            locales: "en_US".into(),
        };
        self.reply(connection::AMQPMethod::Start(start));
        self.egress.pump();
        Ok(())
    }

    /// What the client may log in with. EXTERNAL needs TLS that asks for certificates; RabbitMQ offers it even to those
    /// who have none, since the refusal says more than a mechanism that is missing.
    fn mechanisms(&self) -> Vec<&'static str> {
        let with_certificates = self.tls.is_some() && self.broker.config.tls.verify == Verify::Peer;
        let offered = |mechanism: &&Mechanism| **mechanism != Mechanism::External || with_certificates;
        self.broker.config.auth_mechanisms.iter().filter(offered).map(|mechanism| mechanism.name()).collect()
    }

    fn server_properties(&self) -> Table {
        let config = &self.broker.config;
        let cluster_name = self.broker.cluster_name();
        let mut capabilities = Table::default();
        for name in CAPABILITIES {
            capabilities.insert(name.into(), Value::Boolean(true));
        }
        let mut properties = Table::default();
        properties.insert("capabilities".into(), Value::FieldTable(capabilities));
        let platform = concat!("Leveret ", env!("CARGO_PKG_VERSION"));
        for (name, text) in [
            ("cluster_name", cluster_name.as_str()),
            ("copyright", "Licensed under the Apache License 2.0"),
            ("information", "An AMQP 0-9-1 broker compatible with RabbitMQ"),
            ("platform", platform),
            ("product", &config.product_name),
            ("version", &config.product_version),
        ] {
            properties.insert(name.into(), Value::LongString(text.into()));
        }
        properties
    }

    pub(super) async fn start_ok(&mut self, start_ok: connection::StartOk) -> Outcomes<()> {
        self.client_properties = start_ok.client_properties;
        let properties = self.client_properties.inner();
        let can = |name: &str| match properties.get("capabilities") {
            Some(Value::FieldTable(capabilities)) => {
                matches!(capabilities.inner().get(name), Some(Value::Boolean(true)))
            }
            _ => false,
        };
        self.knows_blocked = can("connection.blocked");
        self.failure_close = can("authentication_failure_close");
        self.egress.cancel_notify.store(can("consumer_cancel_notify"), Ordering::Relaxed);
        let name = start_ok.mechanism.as_str();
        let Some(mechanism) = Mechanism::from_name(name) else {
            return Err(End::DropLater(format!("unknown authentication mechanism '{name}'")));
        };
        if !self.mechanisms().contains(&mechanism.name()) {
            return Err(End::DropLater(format!("invalid authentication mechanism '{name}'")));
        }
        self.mechanism = mechanism.name();
        let login = match sasl::login(mechanism, start_ok.response.as_bytes()) {
            Ok(login) => login,
            Err(malformed) => {
                // RabbitMQ tells the response as well, and with it perhaps a password.
                self.broker.events().not_authenticated(&self.shown(), None, malformed.0);
                return Err(End::DropLater(format!("malformed login: {}", malformed.0)));
            }
        };
        let certificate = self.tls.as_ref().and_then(|tls| tls.certificate.as_deref());
        let attempt = Attempt { door: Door::Amqp, login: &login, peer: self.registered.peer.ip(), certificate };
        let identity = tokio::select! {
            biased;
            identity = self.broker.log_in(attempt) => identity,
            () = self.guest.gives_way() => return Err(End::Drop(super::GAVE_WAY.into())),
        };
        let identity = match identity {
            Ok(identity) => identity,
            Err(Refused { user, why }) => {
                self.broker.events().not_authenticated(&self.shown(), user.as_deref(), &why);
                let text = format!(
                    "Login was refused using authentication mechanism {name}. For details see the broker logfile."
                );
                return Err(match self.failure_close {
                    true => End::Close(Fault::new(ReplyCode::AccessRefused, text, (0, 0))),
                    false => End::DropLater(text),
                });
            }
        };
        if !self.guest.welcome() {
            return Err(End::Drop(super::GAVE_WAY.into()));
        }
        self.broker.events().authenticated(&self.shown(), &identity.user);
        self.state = State::Tuning { identity };
        let config = &self.broker.config;
        let tune = connection::Tune {
            channel_max: config.channel_max,
            frame_max: config.frame_max,
            heartbeat: config.heartbeat_s,
        };
        self.reply(connection::AMQPMethod::Tune(tune));
        Ok(())
    }

    pub(super) fn tune_ok(&mut self, tune_ok: &connection::TuneOk) -> Outcomes<()> {
        let State::Tuning { identity } = &self.state else { return Ok(()) };
        let config = &self.broker.config;
        check_tuned("frame_max", tune_ok.frame_max, config.frame_max, MIN_FRAME_MAX)?;
        check_tuned("channel_max", tune_ok.channel_max.into(), config.channel_max.into(), 1)?;
        self.frame_max = tune_ok.frame_max;
        self.channel_max = tune_ok.channel_max;
        self.heartbeat = Duration::from_secs(tune_ok.heartbeat.into());
        self.egress.set_frame_max(self.frame_max);
        self.state = State::Opening { identity: identity.clone() };
        Ok(())
    }

    pub(super) fn open(&mut self, open: &connection::Open) -> Outcomes<()> {
        let State::Opening { identity } = &self.state else { return Ok(()) };
        let identity = identity.clone();
        let config = &self.broker.config;
        let (mechanism, frame_max, channel_max) = (self.mechanism, self.frame_max, self.channel_max);
        let heartbeat_s = self.heartbeat.as_secs();
        let entered =
            self.broker.enter(&self.registered, &identity, open.virtual_host.as_str(), |vhost| registry::Opened {
                user: Arc::clone(&identity.user),
                vhost,
                mechanism,
                client_properties: self.client_properties.clone(),
                frame_max,
                channel_max,
                heartbeat_s,
            });
        let (vhost, rights) =
            entered.map_err(|refusal| End::Close(Fault::new(refusal.reply_code(), refusal.text, (10, 40))))?;
        let opened = Opened {
            connected_at_ms: self.registered.connected_at_ms,
            user: &identity.user,
            vhost: &vhost.name,
            heartbeat_s,
            frame_max,
            channel_max,
        };
        let (connection, connection_name) = (self.registered.id, Arc::clone(&self.registered.name));
        self.egress.opened(Opener {
            vhost: Arc::clone(&vhost),
            connection,
            connection_name: Arc::clone(&connection_name),
            user: Arc::clone(&identity.user),
        });
        self.registered.look_into(Arc::downgrade(&self.egress) as Weak<dyn Inside>);
        let cx = Context {
            vhost: Arc::clone(&vhost),
            connection_name,
            lost: false,
            actor: Actor { connection, user: Arc::clone(&identity.user), rights },
            egress: Arc::clone(&self.egress),
            limits: Limits {
                message_bytes_max: config.max_message_size,
                consumers_max: config.consumer_max_per_channel,
                frame_max: self.frame_max,
                consumer_timeout: config.consumer_timeout,
            },
            patience: None,
            costly: false,
            frames: Vec::new(),
            unsafe_until: Vec::new(),
            acts: Acts::default(),
            exclusive: Vec::new(),
        };
        self.state = State::Running(Box::new(Session {
            cx,
            expiry: self.expiry(&identity),
            identity: identity.clone(),
            broker: Arc::clone(&self.broker),
            registered: Arc::clone(&self.registered),
            churn: config
                .channel_churn_max
                .map(|rate| Pace::new(rate, rate.saturating_mul(CHURN_BURST_S), tokio::time::Instant::now())),
            churn_end: None,
            channels: FxHashMap::default(),
            touched: Vec::new(),
            published: false,
            toll: Toll::default(),
            publisher: false,
            told_blocked: false,
            holding: Vec::new(),
            unfinished: Share::of(&self.broker.unfinished),
            next_epoch: 0,
        }));
        self.reply(connection::AMQPMethod::OpenOk(connection::OpenOk {}));
        self.broker.events().connection_created(&self.shown(), &opened);
        Ok(())
    }

    fn expiry(&self, identity: &Identity) -> Option<Expiry> {
        identity.expires_s.map(|expires_s| Expiry::at(expires_s, self.broker.now_ms(), &self.registered))
    }

    /// New credentials for the same user. What does not expire needs none: RabbitMQ takes any secret there.
    pub(super) async fn update_secret(&mut self, update: &connection::UpdateSecret) -> Outcomes<()> {
        let State::Running(session) = &self.state else { return Ok(()) };
        if session.identity.expires_s.is_some() {
            let renewed = String::from_utf8_lossy(update.new_secret.as_bytes());
            let renewed = self.broker.renew(&session.identity, &renewed);
            let identity = renewed.map_err(|Refused { why, .. }| {
                let user = &session.identity.user;
                tracing::error!(
                    "connection {}: secret update was refused for user '{user}': {why}",
                    self.registered.name
                );
                let text = "New secret was refused by one of the backends";
                End::Close(Fault::new(ReplyCode::NotAllowed, text, UPDATE_SECRET))
            })?;
            let expiry = self.expiry(&identity);
            let State::Running(session) = &mut self.state else { return Ok(()) };
            session.renew(identity, expiry)?;
        }
        let reason = update.reason.as_str().escape_debug();
        tracing::info!("connection {}: secret updated, reason: {reason}", self.registered.name);
        if let State::Running(session) = &mut self.state {
            // The replies to what came before it go out before this one.
            super::safe(&mut session.cx).await.map_err(End::Close)?;
        }
        self.reply(connection::AMQPMethod::UpdateSecretOk(connection::UpdateSecretOk {}));
        Ok(())
    }
}

impl Session {
    /// Goes on with what a new token allows, if that lets the client stay where it is.
    fn renew(&mut self, identity: Identity, expiry: Option<Expiry>) -> Outcomes<()> {
        let vhost = &self.cx.vhost.name;
        self.cx.actor.rights.grant(identity.scopes_in(vhost).unwrap_or_default());
        if !self.cx.actor.rights.may_enter() {
            let text = format!("access to vhost '{vhost}' refused for user '{}'", identity.user);
            return Err(End::Close(Fault::new(ReplyCode::NotAllowed, text, UPDATE_SECRET)));
        }
        self.identity = identity;
        self.expiry = expiry;
        self.recheck_consumers();
        Ok(())
    }
}

/// A client may ask for less than it was offered. 0 stands for no limit and is refused where there is one.
fn check_tuned(name: &str, asked: u32, offered: u32, least: u32) -> Outcomes<()> {
    if asked != 0 && asked < least {
        let text = format!("negotiated {name} = {asked} is lower than the minimum allowed value ({least})");
        return Err(End::DropLater(text));
    }
    if offered != 0 && (asked == 0 || asked > offered) {
        let shown = if asked == 0 { "0 (no limit)".to_owned() } else { asked.to_string() };
        let text = format!("negotiated {name} = {shown} is higher than the maximum allowed value ({offered})");
        return Err(End::DropLater(text));
    }
    Ok(())
}

/// What somebody who speaks something else is perhaps trying.
fn hint(header: &[u8; 8]) -> &'static str {
    match header {
        [0x16, 0x03, ..] => "this looks like TLS; use the TLS listener, or a plain amqp:// address",
        [b'G', b'E', b'T', ..] | [b'P', b'O', b'S', b'T', ..] | [b'H', b'E', b'A', b'D', ..] => {
            "this looks like HTTP; the management API has a port of its own"
        }
        [b'A', b'M', b'Q', b'P', 0 | 3, 1, 0, 0] => "this is AMQP 1.0, which is not spoken here",
        [b'A', b'M', b'Q', b'P', ..] => "another version of AMQP",
        _ => "unknown protocol",
    }
}
