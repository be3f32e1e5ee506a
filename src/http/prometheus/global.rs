//! What is counted of the broker as a whole: RabbitMQ's global counters, and what RabbitMQ does not tell.

use super::collect::PREFIX;
use super::text::{Kind, Text};
use super::things::OWN_PREFIX;
use crate::broker::Broker;
use crate::metrics::{self, DELIVERIES, Ends, MESSAGE_BYTES, REASONS, SECONDS, Seen, Stat, TotalsSnapshot};
use std::sync::atomic::Ordering;

const PROTOCOL: &str = "amqp091";

/// The counters that dashboards are made of.
pub fn global(text: &mut Text, broker: &Broker, totals: &TotalsSnapshot) {
    let name = |name: &str| format!("{PREFIX}global_{name}");
    let published = [
        (
            "messages_confirmed_total",
            "Total number of messages confirmed to publishers",
            totals.published[Stat::Confirm],
        ),
        (
            "messages_received_confirm_total",
            "Total number of messages received from publishers expecting confirmations",
            totals.received_confirm,
        ),
        (
            "messages_received_total",
            "Total number of messages received from publishers",
            totals.published[Stat::Publish],
        ),
        (
            "messages_routed_total",
            "Total number of messages routed to queues or streams",
            totals.published[Stat::PublishOut],
        ),
        (
            "messages_unroutable_dropped_total",
            "Total number of messages published as non-mandatory into an exchange and dropped as unroutable",
            totals.published[Stat::DropUnroutable],
        ),
        (
            "messages_unroutable_returned_total",
            "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable",
            totals.published[Stat::ReturnUnroutable],
        ),
    ];
    for (metric, help, count) in published {
        text.begin(&name(metric), Kind::Counter, help);
        text.sample(&name(metric), &[("protocol", PROTOCOL)], count as f64);
    }
    type Of = fn(&metrics::Snapshot) -> u64;
    let delivered: [(&str, &str, Of); 8] = [
        ("messages_acknowledged_total", "Total number of messages acknowledged by consumers", |of| of[Stat::Ack]),
        (
            "messages_delivered_consume_auto_ack_total",
            "Total number of messages delivered to consumers using basic.consume with automatic acknowledgment",
            |of| of[Stat::DeliverNoAck],
        ),
        (
            "messages_delivered_consume_manual_ack_total",
            "Total number of messages delivered to consumers using basic.consume with manual acknowledgment",
            |of| of[Stat::Deliver],
        ),
        (
            "messages_delivered_get_auto_ack_total",
            "Total number of messages delivered to consumers using basic.get with automatic acknowledgment",
            |of| of[Stat::GetNoAck],
        ),
        (
            "messages_delivered_get_manual_ack_total",
            "Total number of messages delivered to consumers using basic.get with manual acknowledgment",
            |of| of[Stat::Get],
        ),
        ("messages_delivered_total", "Total number of messages delivered to consumers", metrics::Snapshot::deliver_get),
        ("messages_get_empty_total", "Total number of times basic.get operations fetched no message", |of| {
            of[Stat::GetEmpty]
        }),
        ("messages_redelivered_total", "Total number of messages redelivered to consumers", |of| of[Stat::Redeliver]),
    ];
    for (metric, help, of) in delivered {
        text.begin(&name(metric), Kind::Counter, help);
        for kind in metrics::Kind::ALL {
            let labels = [("protocol", PROTOCOL), ("queue_type", kind.module())];
            text.sample(&name(metric), &labels, of(&totals.by_kind[kind as usize]) as f64);
        }
    }
    dead_letters(text, totals);
    // As in RabbitMQ, a channel that has published is a publisher.
    let (mut publishers, mut consumers) = (0, 0);
    for channel in broker.connections.list().iter().flat_map(|connection| connection.channels()) {
        publishers += u32::from(channel.counted.counts.snapshot()[Stat::Publish] > 0);
        consumers += channel.consumers.len();
    }
    for (metric, help, count) in [
        ("publishers", "Current number of publishers", f64::from(publishers)),
        ("consumers", "Current number of consumers", consumers as f64),
    ] {
        text.begin(&name(metric), Kind::Gauge, help);
        text.sample(&name(metric), &[("protocol", PROTOCOL)], count);
    }
    let name = format!("{PREFIX}message_size_bytes");
    text.begin(&name, Kind::Histogram, "Size of messages received from publishers");
    let limits = MESSAGE_BYTES.map(|limit| limit as f64);
    text.histogram(&name, &[("protocol", PROTOCOL)], &limits, &totals.sizes, totals.body_bytes as f64);
}

/// Dead letters by reason, for the kinds of queues and the strategies that RabbitMQ has them for.
fn dead_letters(text: &mut Text, totals: &TotalsSnapshot) {
    use metrics::Kind::{Classic, Quorum};
    use metrics::Strategy::{AtLeastOnce, AtMostOnce, Disabled};
    const ALL: [(metrics::Kind, metrics::Strategy); 5] =
        [(Classic, AtMostOnce), (Classic, Disabled), (Quorum, AtLeastOnce), (Quorum, AtMostOnce), (Quorum, Disabled)];
    let mut counted =
        |name: &str, help: &str, of: &[(metrics::Kind, metrics::Strategy)], count: &dyn Fn(&Ends) -> u64| {
            let name = format!("{PREFIX}global_messages_dead_lettered_{name}_total");
            text.begin(&name, Kind::Counter, help);
            for &(kind, strategy) in of {
                let labels = [("queue_type", kind.module()), ("dead_letter_strategy", strategy.name())];
                text.sample(&name, &labels, count(&totals.ends[kind as usize][strategy as usize]) as f64);
            }
        };
    let help = "Total number of messages dead-lettered and confirmed by target queues";
    counted("confirmed", help, &[(Quorum, AtLeastOnce)], &|ends| ends.buried);
    for (at, reason) in REASONS.into_iter().enumerate() {
        let (of, help) = match reason {
            "expired" => (&ALL[..], "Total number of messages dead-lettered due to message TTL exceeded"),
            "rejected" => (&ALL[..], "Total number of messages dead-lettered due to basic.reject or basic.nack"),
            "maxlen" => (
                &[(Classic, AtMostOnce), (Classic, Disabled), (Quorum, AtMostOnce), (Quorum, Disabled)][..],
                "Total number of messages dead-lettered due to overflow drop-head or reject-publish-dlx",
            ),
            _ => (&ALL[2..], "Total number of messages dead-lettered due to delivery-limit exceeded"),
        };
        counted(reason, help, of, &|ends| ends.died[at]);
    }
}

/// What RabbitMQ does not tell.
pub fn beyond(text: &mut Text, broker: &Broker, totals: &TotalsSnapshot) {
    let name = |name: &str| format!("{OWN_PREFIX}{name}");
    let mut times = |metric: &str, help: &str, seen: Seen| {
        text.begin(&name(metric), Kind::Histogram, help);
        text.histogram(&name(metric), &[], &SECONDS, &seen.buckets, seen.sum_s);
    };
    let store = broker.store_times();
    times("commit_seconds", "How long commits to the disk took, each of all that was waiting", store.commit.seen());
    times("sync_seconds", "How long writing and syncing took, of that", store.sync.seen());
    let help = "How long published messages waited until they were confirmed";
    times("confirm_seconds", help, totals.confirmed_after);
    let metric = name("message_deliveries");
    text.begin(
        &metric,
        Kind::Histogram,
        "How often messages of quorum queues were delivered until they were acknowledged",
    );
    let acknowledged: Ends =
        totals.ends[metrics::Kind::Quorum as usize].iter().fold(Ends::default(), |mut sum, ends| {
            sum += ends;
            sum
        });
    let limits = DELIVERIES.map(|limit| limit as f64);
    text.histogram(&metric, &[], &limits, &acknowledged.acknowledged, acknowledged.deliveries as f64);
    let metric = name("listener_errors_total");
    text.begin(&metric, Kind::Counter, "Connections that came by a listener and were not let in");
    for listener in broker.listeners.list() {
        let (address, errors) = (listener.address.to_string(), &listener.errors);
        let counted =
            [("accept", &errors.accept), ("turned_away", &errors.turned_away), ("handshake", &errors.handshake)];
        for (error, count) in counted {
            let labels = [("protocol", listener.protocol_name()), ("address", &address), ("error", error)];
            text.sample(&metric, &labels, count.load(Ordering::Relaxed) as f64);
        }
    }
    let of_memory = [
        ("messages_memory_bytes", "Messages in memory, in bytes", broker.messages_memory() as f64),
        ("store_memory_bytes", "Memory of the store, in bytes", broker.store_memory() as f64),
    ];
    of_memory.into_iter().for_each(|(metric, help, bytes)| text.one(&name(metric), Kind::Gauge, help, bytes));
}
