//! What each channel does with each exchange and each queue: far more pairs than there are channels, looked at only if they
//! are asked for.

use super::things::{CHANNEL_EXCHANGES, CHANNEL_QUEUES, ChannelExchangeSeen, ChannelQueueSeen, Mode};
use crate::broker::Broker;
use crate::metrics::Counted;
use crate::queue::Queue;
use crate::vhost::{Vhost, reply_to};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// What channels do with exchanges and with queues.
#[derive(Default)]
pub struct Pairs {
    pub exchanges: Vec<ChannelExchangeSeen>,
    pub queues: Vec<ChannelQueueSeen>,
}

/// Those of the virtual hosts that are asked for. An exchange tells its name by where its counters are.
pub fn pairs(broker: &Broker, vhosts: &[Arc<Vhost>], mode: &Mode<'_>) -> Pairs {
    let mut pairs = Pairs::default();
    let wants_exchanges = CHANNEL_EXCHANGES.iter().any(|metric| mode.wants(metric.family));
    let wants_queues = CHANNEL_QUEUES.iter().any(|metric| mode.wants(metric.family));
    if !wants_exchanges && !wants_queues {
        return pairs;
    }
    // Queues for direct answers are in no list.
    let is_listed = |queue: &Queue| queue.alive() && !queue.identity.name.starts_with(reply_to::PREFIX);
    let place = |counted: &Arc<Counted>| Arc::as_ptr(counted).addr();
    let exchanges = vhosts.iter().flat_map(|vhost| vhost.exchanges());
    let names: FxHashMap<_, _> = exchanges.map(|exchange| (place(&exchange.counted), exchange.name)).collect();
    for connection in broker.connections.list() {
        let Some(opened) = connection.opened() else { continue };
        if !vhosts.iter().any(|vhost| vhost.name == opened.vhost.name) {
            continue;
        }
        for channel in connection.channels() {
            let name = format!("{} ({})", connection.name, channel.number);
            let vhost = opened.vhost.name.to_string();
            if wants_exchanges {
                let ties = channel.by_exchange.list();
                pairs.exchanges.extend(ties.into_iter().filter_map(|(exchange, counts)| {
                    let exchange = names.get(&place(&exchange))?.to_string();
                    Some(ChannelExchangeSeen {
                        channel: name.clone(),
                        vhost: vhost.clone(),
                        exchange,
                        counts: counts.snapshot(),
                    })
                }));
            }
            if wants_queues {
                let ties = channel.by_queue.list();
                pairs.queues.extend(ties.into_iter().filter(|(queue, _)| is_listed(queue)).map(|(queue, counts)| {
                    let (queue, counts) = (queue.identity.name.to_string(), counts.snapshot());
                    ChannelQueueSeen { channel: name.clone(), vhost: vhost.clone(), queue, counts }
                }));
            }
        }
    }
    pairs
}
