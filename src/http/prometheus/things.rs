//! The metrics of queues, exchanges, channels and connections: one by one, or all of a kind together. A table for each kind
//! says what a metric is of one of them; names and texts are RabbitMQ's.

use super::text::{Kind, Text};
use crate::metrics::{Snapshot, Stat};
use crate::queue::state::Look;

/// How the metrics of many become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// They add up.
    All,
    /// The largest of them.
    Largest,
    /// Only one by one.
    None,
}

/// A metric of a kind of things.
pub struct Metric<T> {
    /// What `/metrics/detailed` asks for it by.
    pub family: &'static str,
    /// Without what all begin with.
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub value: fn(&T) -> f64,
    pub sum: Sum,
    /// RabbitMQ has it; otherwise its name begins with ours.
    pub is_rabbits: bool,
}

/// Things of a kind, and what tells them apart.
pub trait Thing {
    /// The names of the labels.
    const LABELS: &'static [&'static str];
    /// Their values.
    fn labels(&self) -> Vec<&str>;
}

#[derive(Debug, Default)]
pub struct QueueSeen {
    pub vhost: String,
    pub name: String,
    pub look: Look,
    pub counts: Snapshot,
    pub capacity: f64,
    pub memory: u64,
    pub now_ms: u64,
    /// The module that makes such queues in RabbitMQ.
    pub module: &'static str,
}

#[derive(Debug, Default)]
pub struct ExchangeSeen {
    pub vhost: String,
    pub name: String,
    pub counts: Snapshot,
}

#[derive(Debug, Default)]
pub struct ChannelSeen {
    pub vhost: String,
    pub name: String,
    pub consumers: u64,
    pub unacked: u64,
    pub unconfirmed: u64,
    pub uncommitted: u64,
    pub acks_uncommitted: u64,
    pub prefetch: u64,
}

/// What a channel does with an exchange.
#[derive(Debug, Default)]
pub struct ChannelExchangeSeen {
    pub channel: String,
    pub vhost: String,
    pub exchange: String,
    pub counts: Snapshot,
}

/// And with a queue.
#[derive(Debug, Default)]
pub struct ChannelQueueSeen {
    pub channel: String,
    pub vhost: String,
    pub queue: String,
    pub counts: Snapshot,
}

#[derive(Debug, Default)]
pub struct ConnectionSeen {
    pub vhost: String,
    pub name: String,
    /// Octets received, in how many reads; sent, in how many writes.
    pub traffic: [u64; 4],
    pub channels: u64,
}

impl Thing for QueueSeen {
    const LABELS: &'static [&'static str] = &["vhost", "queue"];
    fn labels(&self) -> Vec<&str> {
        vec![&self.vhost, &self.name]
    }
}

impl Thing for ExchangeSeen {
    const LABELS: &'static [&'static str] = &["vhost", "exchange"];
    fn labels(&self) -> Vec<&str> {
        vec![&self.vhost, &self.name]
    }
}

impl Thing for ChannelSeen {
    const LABELS: &'static [&'static str] = &["channel", "vhost"];
    fn labels(&self) -> Vec<&str> {
        vec![&self.name, &self.vhost]
    }
}

impl Thing for ChannelExchangeSeen {
    const LABELS: &'static [&'static str] = &["channel", "vhost", "exchange"];
    fn labels(&self) -> Vec<&str> {
        vec![&self.channel, &self.vhost, &self.exchange]
    }
}

impl Thing for ChannelQueueSeen {
    const LABELS: &'static [&'static str] = &["channel", "vhost", "queue"];
    fn labels(&self) -> Vec<&str> {
        vec![&self.channel, &self.vhost, &self.queue]
    }
}

impl Thing for ConnectionSeen {
    const LABELS: &'static [&'static str] = &["connection", "vhost"];
    fn labels(&self) -> Vec<&str> {
        vec![&self.name, &self.vhost]
    }
}

fn age_s(queue: &QueueSeen, came_ms: Option<u64>) -> f64 {
    came_ms.map_or(0.0, |came_ms| queue.now_ms.saturating_sub(came_ms) as f64 / 1000.0)
}

macro_rules! metrics {
    ($of:ty: $($family:literal $name:literal $kind:ident $sum:ident $help:literal $value:expr;)*) => {
        &[$(Metric::<$of> {
            family: $family,
            name: $name,
            kind: Kind::$kind,
            help: $help,
            value: $value,
            sum: Sum::$sum,
            is_rabbits: true,
        }),*]
    };
}

#[rustfmt::skip]
pub const QUEUES: &[Metric<QueueSeen>] = metrics![QueueSeen:
    "queue_coarse_metrics" "queue_messages_ready" Gauge All "Messages ready to be delivered to consumers" |q| q.look.ready as f64;
    "queue_coarse_metrics" "queue_messages_unacked" Gauge All "Messages delivered to consumers but not yet acknowledged" |q| q.look.unacked as f64;
    "queue_coarse_metrics" "queue_messages" Gauge All "Sum of ready and unacknowledged messages - total queue depth" |q| (q.look.ready + q.look.unacked) as f64;
    "queue_consumer_count" "queue_consumers" Gauge All "Consumers on a queue" |q| q.look.consumers as f64;
    "queue_metrics" "queue_consumer_capacity" Gauge None "Consumer capacity" |q| q.capacity;
    "queue_metrics" "queue_consumer_utilisation" Gauge All "Same as consumer capacity" |q| q.capacity;
    "queue_metrics" "queue_process_memory_bytes" Gauge All "Memory in bytes used by the Erlang queue process" |q| q.memory as f64;
    "queue_metrics" "queue_messages_ram" Gauge All "Ready and unacknowledged messages stored in memory" |q| q.look.held.memory as f64;
    "queue_metrics" "queue_messages_ram_bytes" Gauge All "Size of ready and unacknowledged messages stored in memory" |q| q.look.held.memory_bytes as f64;
    "queue_metrics" "queue_messages_ready_ram" Gauge All "Ready messages stored in memory" |q| q.look.ready_memory as f64;
    "queue_metrics" "queue_messages_unacked_ram" Gauge All "Unacknowledged messages stored in memory" |q| q.look.unacked_memory as f64;
    "queue_metrics" "queue_messages_persistent" Gauge All "Persistent messages" |q| q.look.held.persistent as f64;
    "queue_metrics" "queue_messages_persistent_bytes" Gauge All "Size in bytes of persistent messages" |q| q.look.held.persistent_bytes as f64;
    "queue_metrics" "queue_messages_bytes" Gauge All "Size in bytes of ready and unacknowledged messages" |q| q.look.held.bytes as f64;
    "queue_metrics" "queue_messages_ready_bytes" Gauge All "Size in bytes of ready messages" |q| q.look.ready_bytes as f64;
    "queue_metrics" "queue_messages_unacked_bytes" Gauge All "Size in bytes of all unacknowledged messages" |q| q.look.unacked_bytes as f64;
    "queue_metrics" "queue_head_message_timestamp" Gauge None "Timestamp of the first message in the queue, if any" |q| q.look.head_timestamp.map_or(f64::NAN, |at_s| at_s as f64);
    "queue_metrics" "queue_disk_reads_total" Counter All "Total number of times queue read messages from disk" |q| q.counts[Stat::DiskReads] as f64;
    "queue_metrics" "queue_disk_writes_total" Counter All "Total number of times queue wrote messages to disk" |q| q.counts[Stat::DiskWrites] as f64;
    "queue_exchange_metrics" "queue_messages_published_total" Counter All "Total number of messages published into a queue through an exchange on a channel" |q| q.counts[Stat::Publish] as f64;
    "queue_delivery_metrics" "queue_get_ack_total" Counter All "Total number of messages fetched from a queue with basic.get in manual acknowledgement mode" |q| q.counts[Stat::Get] as f64;
    "queue_delivery_metrics" "queue_get_total" Counter All "Total number of messages fetched from a queue with basic.get in automatic acknowledgement mode" |q| q.counts[Stat::GetNoAck] as f64;
    "queue_delivery_metrics" "queue_messages_delivered_ack_total" Counter All "Total number of messages delivered from a queue to consumers in manual acknowledgement mode" |q| q.counts[Stat::Deliver] as f64;
    "queue_delivery_metrics" "queue_messages_delivered_total" Counter All "Total number of messages delivered from a queue to consumers in automatic acknowledgement mode" |q| q.counts[Stat::DeliverNoAck] as f64;
    "queue_delivery_metrics" "queue_messages_redelivered_total" Counter All "Total number of messages redelivered from a queue to consumers" |q| q.counts[Stat::Redeliver] as f64;
    "queue_delivery_metrics" "queue_messages_acked_total" Counter All "Total number of messages acknowledged by consumers on a queue" |q| q.counts[Stat::Ack] as f64;
    "queue_delivery_metrics" "queue_get_empty_total" Counter All "Total number of times basic.get operations fetched no message on a queue" |q| q.counts[Stat::GetEmpty] as f64;
];

/// What RabbitMQ does not have.
pub const QUEUES_BEYOND: &[Metric<QueueSeen>] = &[
    Metric {
        family: "queue_age_metrics",
        name: "queue_oldest_message_age_seconds",
        kind: Kind::Gauge,
        help: "For how long the oldest ready message has been in a queue",
        value: |q| age_s(q, q.look.oldest_ready_ms),
        sum: Sum::Largest,
        is_rabbits: false,
    },
    Metric {
        family: "queue_age_metrics",
        name: "queue_oldest_unacked_age_seconds",
        kind: Kind::Gauge,
        help: "For how long the oldest unacknowledged message has been in a queue",
        value: |q| age_s(q, q.look.oldest_unacked_ms),
        sum: Sum::Largest,
        is_rabbits: false,
    },
    Metric {
        family: "queue_age_metrics",
        name: "queue_messages_dying",
        kind: Kind::Gauge,
        help: "Dead messages that wait to be handed on",
        value: |q| q.look.dying as f64,
        sum: Sum::All,
        is_rabbits: false,
    },
];

#[rustfmt::skip]
pub const EXCHANGES: &[Metric<ExchangeSeen>] = metrics![ExchangeSeen:
    "exchange_metrics" "exchange_messages_published_total" Counter All "Total number of messages published into an exchange" |x| x.counts[Stat::PublishIn] as f64;
    "exchange_metrics" "exchange_messages_confirmed_total" Counter All "Total number of messages published into an exchange and confirmed" |x| x.counts[Stat::Confirm] as f64;
    "exchange_metrics" "exchange_messages_unroutable_returned_total" Counter All "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable" |x| x.counts[Stat::ReturnUnroutable] as f64;
    "exchange_metrics" "exchange_messages_unroutable_dropped_total" Counter All "Total number of messages published as non-mandatory into an exchange and dropped as unroutable" |x| x.counts[Stat::DropUnroutable] as f64;
];

#[rustfmt::skip]
pub const CHANNELS: &[Metric<ChannelSeen>] = metrics![ChannelSeen:
    "channel_metrics" "channel_consumers" Gauge All "Consumers on a channel" |c| c.consumers as f64;
    "channel_metrics" "channel_messages_unacked" Gauge All "Delivered but not yet acknowledged messages" |c| c.unacked as f64;
    "channel_metrics" "channel_messages_unconfirmed" Gauge All "Published but not yet confirmed messages" |c| c.unconfirmed as f64;
    "channel_metrics" "channel_messages_uncommitted" Gauge All "Messages received in a transaction but not yet committed" |c| c.uncommitted as f64;
    "channel_metrics" "channel_acks_uncommitted" Gauge All "Message acknowledgements in a transaction not yet committed" |c| c.acks_uncommitted as f64;
    "channel_metrics" "consumer_prefetch" Gauge All "Limit of unacknowledged messages for each consumer" |c| c.prefetch as f64;
];

#[rustfmt::skip]
pub const CHANNEL_EXCHANGES: &[Metric<ChannelExchangeSeen>] = metrics![ChannelExchangeSeen:
    "channel_exchange_metrics" "channel_messages_published_total" Counter All "Total number of messages published into an exchange on a channel" |c| c.counts[Stat::Publish] as f64;
    "channel_exchange_metrics" "channel_messages_confirmed_total" Counter All "Total number of messages published into an exchange and confirmed on the channel" |c| c.counts[Stat::Confirm] as f64;
    "channel_exchange_metrics" "channel_messages_unroutable_returned_total" Counter All "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable" |c| c.counts[Stat::ReturnUnroutable] as f64;
    "channel_exchange_metrics" "channel_messages_unroutable_dropped_total" Counter All "Total number of messages published as non-mandatory into an exchange and dropped as unroutable" |c| c.counts[Stat::DropUnroutable] as f64;
];

#[rustfmt::skip]
pub const CHANNEL_QUEUES: &[Metric<ChannelQueueSeen>] = metrics![ChannelQueueSeen:
    "channel_queue_metrics" "channel_get_ack_total" Counter All "Total number of messages fetched with basic.get in manual acknowledgement mode" |c| c.counts[Stat::Get] as f64;
    "channel_queue_metrics" "channel_get_total" Counter All "Total number of messages fetched with basic.get in automatic acknowledgement mode" |c| c.counts[Stat::GetNoAck] as f64;
    "channel_queue_metrics" "channel_messages_delivered_ack_total" Counter All "Total number of messages delivered to consumers in manual acknowledgement mode" |c| c.counts[Stat::Deliver] as f64;
    "channel_queue_metrics" "channel_messages_delivered_total" Counter All "Total number of messages delivered to consumers in automatic acknowledgement mode" |c| c.counts[Stat::DeliverNoAck] as f64;
    "channel_queue_metrics" "channel_messages_redelivered_total" Counter All "Total number of messages redelivered to consumers" |c| c.counts[Stat::Redeliver] as f64;
    "channel_queue_metrics" "channel_messages_acked_total" Counter All "Total number of messages acknowledged by consumers" |c| c.counts[Stat::Ack] as f64;
    "channel_queue_metrics" "channel_get_empty_total" Counter All "Total number of times basic.get operations fetched no message" |c| c.counts[Stat::GetEmpty] as f64;
];

#[rustfmt::skip]
pub const CONNECTIONS: &[Metric<ConnectionSeen>] = metrics![ConnectionSeen:
    "connection_coarse_metrics" "connection_incoming_bytes_total" Counter All "Total number of bytes received on a connection" |c| c.traffic[0] as f64;
    "connection_coarse_metrics" "connection_outgoing_bytes_total" Counter All "Total number of bytes sent on a connection" |c| c.traffic[2] as f64;
    "connection_metrics" "connection_incoming_packets_total" Counter All "Total number of packets received on a connection" |c| c.traffic[1] as f64;
    "connection_metrics" "connection_outgoing_packets_total" Counter All "Total number of packets sent on a connection" |c| c.traffic[3] as f64;
    "connection_metrics" "connection_channels" Gauge All "Channels on a connection" |c| c.channels as f64;
];

/// Which metrics are written, and how.
#[derive(Debug, Clone, Copy)]
pub struct Mode<'a> {
    /// What RabbitMQ's begin with.
    pub prefix: &'a str,
    pub one_by_one: bool,
    /// Only these families; `None`: all.
    pub families: Option<&'a [String]>,
}

impl Mode<'_> {
    pub fn wants(&self, family: &str) -> bool {
        self.families.is_none_or(|families| families.iter().any(|wanted| wanted == family))
    }

    fn name<T>(&self, metric: &Metric<T>) -> String {
        let prefix = if metric.is_rabbits { self.prefix } else { OWN_PREFIX };
        format!("{prefix}{}", metric.name)
    }
}

/// What the names of metrics begin with that RabbitMQ does not have.
pub const OWN_PREFIX: &str = "leveret_";

/// Writes the metrics of a table: of each thing, or of all together. `whole` has the counters of all that there ever were, so
/// that their sum does not shrink when one of them goes.
pub fn write<T: Thing>(text: &mut Text, table: &[Metric<T>], things: &[T], whole: &T, mode: &Mode<'_>) {
    for metric in table.iter().filter(|metric| mode.wants(metric.family)) {
        let name = mode.name(metric);
        text.begin(&name, metric.kind, metric.help);
        if mode.one_by_one {
            for thing in things {
                let labels: Vec<_> = T::LABELS.iter().copied().zip(thing.labels()).collect();
                text.sample(&name, &labels, (metric.value)(thing));
            }
            continue;
        }
        let values = things.iter().map(metric.value);
        match metric.sum {
            _ if metric.kind == Kind::Counter => text.sample(&name, &[], (metric.value)(whole)),
            Sum::All => text.sample(&name, &[], values.sum()),
            Sum::Largest => text.sample(&name, &[], values.fold(0.0, f64::max)),
            Sum::None => {}
        }
    }
}
