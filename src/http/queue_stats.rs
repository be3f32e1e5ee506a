//! What is counted of queues, and by what of it they are sorted.

use super::listing::value_at;
use super::request::Request;
use super::stats::{Grids, Group, Past, message_stats};
use crate::clock;
use crate::metrics::STATS;
use crate::queue::Queue;
use crate::queue::classic::NUMBERS;
use crate::queue::settings::QueueType;
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// Adds what is counted of a queue, as far as the query wants it.
pub fn add(shown: &mut Map<String, Json>, queue: &Queue, request: &Request, grids: &Grids) {
    let counts = queue.counts();
    if request.without_stats() {
        if request.with_queue_totals() {
            shown.insert("messages".to_owned(), (counts.ready + counts.unacked).into());
            shown.insert("messages_ready".to_owned(), counts.ready.into());
            shown.insert("messages_unacknowledged".to_owned(), counts.unacked.into());
        }
        return;
    }
    let (broker, histories) = (&request.broker, &request.broker.statistics.histories);
    let (look, now_ms) = (queue.look(), broker.now_ms());
    let past = |grid| Past::<NUMBERS>::of(&queue.watch, grid, now_ms, histories);
    past(grids.lengths).put_lengths(shown, look.ready, look.unacked, STATS);
    let groups = [Group::QueuePublished, Group::Delivered];
    let stats = message_stats(&queue.counted.snapshot(), &past(grids.msg_rates), &groups, false);
    let mut set = |key: &str, value: Json| drop(shown.insert(key.to_owned(), value));
    if !stats.is_empty() {
        set("message_stats", stats.into());
    }
    set("consumers", look.consumers.into());
    set("consumer_capacity", queue.capacity().into());
    set("consumer_utilisation", queue.capacity().into());
    set("memory", queue.memory_bytes().into());
    set("message_bytes", look.held.bytes.into());
    set("message_bytes_ready", look.ready_bytes.into());
    set("message_bytes_unacknowledged", look.unacked_bytes.into());
    set("message_bytes_ram", look.held.memory_bytes.into());
    set("message_bytes_persistent", look.held.persistent_bytes.into());
    set("messages_persistent", look.held.persistent.into());
    set("messages_ram", look.held.memory.into());
    match queue.settings().queue_type {
        QueueType::Quorum => {
            set("messages_dlx", look.dying.into());
            set("open_files", serde_json::json!({broker.events().node(): 0}));
        }
        _ => {
            set("messages_ready_ram", look.ready_memory.into());
            set("messages_unacknowledged_ram", look.unacked_memory.into());
            set("storage_version", 2.into());
        }
    }
    if let Some(seconds) = look.head_timestamp {
        set("head_message_timestamp", seconds.into());
    }
    if let Some(at_ms) = queue.watch.recent().idle_since_ms() {
        set("idle_since", clock::iso(at_ms).into());
    }
    // Beyond RabbitMQ's: how long the oldest has been waiting, and the oldest that is out; milliseconds.
    for (key, came_ms) in [("oldest_ready_age", look.oldest_ready_ms), ("oldest_unacked_age", look.oldest_unacked_ms)] {
        if let Some(came_ms) = came_ms {
            set(key, now_ms.saturating_sub(came_ms).into());
        }
    }
}

/// What a queue is sorted by, where that is cheaper to know than all that it shows; otherwise from that.
pub fn key(queue: &Arc<Queue>, path: &str, shown: impl Fn(&Arc<Queue>) -> Map<String, Json>) -> Json {
    let counts = || queue.counts();
    match path {
        "name" => (&*queue.identity.name).into(),
        "vhost" => (&*queue.identity.vhost).into(),
        "durable" => queue.identity.durable.into(),
        "type" => queue.settings().queue_type.name().into(),
        "state" => "running".into(),
        "consumers" => counts().consumers.into(),
        "messages_ready" => counts().ready.into(),
        "messages_unacknowledged" => counts().unacked.into(),
        "messages" => (counts().ready + counts().unacked).into(),
        path if path.starts_with("message_stats.") || path.contains("messages_") && path.ends_with("details.rate") => {
            let past = Past::<NUMBERS>::new(queue.watch.recent(), None);
            let mut fields = Map::new();
            past.put_lengths(&mut fields, 0, 0, STATS);
            let groups = [Group::QueuePublished, Group::Delivered];
            let stats = message_stats(&queue.counted.snapshot(), &past, &groups, false);
            fields.insert("message_stats".to_owned(), stats.into());
            value_at(&fields, path)
        }
        path => value_at(&shown(queue), path),
    }
}
