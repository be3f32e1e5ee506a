//! tx.*: publishes and settlements wait for tx.commit, and then reach the disk in one write, all or none.
//! (RabbitMQ promises less: a crash may leave part of a transaction.)

use super::consume::Outcome;
use super::owed::Unacked;
use super::publish::{self, Publisher};
use super::{Channel, Context};
use crate::message::{Message, Run, Traits};
use crate::metrics::Stat;
use crate::refusal::{Reason, Refusal};
use crate::vhost::all_safe::AllSafe;
use crate::vhost::publish::Route;
use amq_protocol::protocol::{AMQPClass, tx};
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Debug, Default)]
pub struct Transaction {
    runs: Vec<(Arc<Route>, Run)>,
    /// How many of these the firehose has seen.
    traced: usize,
    /// How many of these are counted, and their octets.
    counted: (usize, usize),
    /// Messages in what was kept, and acknowledgements that wait.
    messages: u64,
    acks: u64,
    settled: Vec<(Unacked, Outcome)>,
    /// Returned messages, sent at commit.
    returned: Vec<u8>,
}

impl Transaction {
    pub(super) fn pack(
        &mut self,
        publisher: &mut Publisher,
        route: &Arc<Route>,
        message: &Message<'_>,
        traits: Traits,
    ) {
        publisher.pack_aside(route, message, traits, &mut self.runs);
    }

    /// Takes what was packed so far, before it is handed to queues.
    pub(super) fn keep(&mut self, publisher: &mut Publisher) {
        self.runs.append(&mut publisher.take_runs());
    }

    /// Messages and acknowledgements that wait.
    pub(super) fn counts(&mut self) -> (u64, u64) {
        self.bytes();
        (self.messages, self.acks)
    }

    /// Octets of what was kept.
    pub fn bytes(&mut self) -> usize {
        let (runs, bytes) = self.counted;
        let more: usize = self.runs[runs..].iter().map(|(_, run)| run.bytes()).sum();
        self.messages += self.runs[runs..].iter().map(|(_, run)| u64::from(run.count())).sum::<u64>();
        self.counted = (self.runs.len(), bytes + more);
        self.counted.1 + self.returned.len()
    }

    /// Copies what has come since the last time to the firehose, whatever becomes of the transaction.
    pub(super) fn trace(&mut self, channel: u16, cx: &mut Context) {
        if cx.vhost.is_traced() {
            for (route, run) in &self.runs[self.traced..] {
                publish::trace(run, route, channel, cx);
            }
        }
        self.traced = self.runs.len();
    }

    pub(super) fn settle(&mut self, unacked: Unacked, outcome: Outcome) {
        self.acks += unacked.count;
        self.settled.push((unacked, outcome));
    }

    pub(super) fn returns(&mut self) -> &mut Vec<u8> {
        &mut self.returned
    }

    /// What was to be settled and now never will be.
    pub fn into_unacked(self) -> impl Iterator<Item = Unacked> {
        self.settled.into_iter().map(|(unacked, _)| unacked)
    }
}

impl Channel {
    pub(super) async fn transaction(&mut self, method: tx::AMQPMethod, cx: &mut Context) -> Result<(), Refusal> {
        let reply = match method {
            tx::AMQPMethod::Select(_) => {
                if self.confirms() {
                    return Err(Refusal::precondition("cannot switch from confirm to tx mode"));
                }
                self.tx.get_or_insert_default();
                self.gauges.transactional.store(true, Ordering::Relaxed);
                tx::AMQPMethod::SelectOk(tx::SelectOk {})
            }
            tx::AMQPMethod::Commit(_) => {
                self.commit(cx).await?;
                cx.reply(self.number, AMQPClass::Tx(tx::AMQPMethod::CommitOk(tx::CommitOk {})));
                cx.flush();
                cx.egress.release(self.number);
                return Ok(());
            }
            tx::AMQPMethod::Rollback(_) => {
                let tx = self.take_transaction()?;
                // What was acknowledged in it is unacknowledged again, not requeued.
                cx.egress.unsettle(self.number, tx.into_unacked().collect());
                tx::AMQPMethod::RollbackOk(tx::RollbackOk {})
            }
            _ => return Err(super::unimplemented_method()),
        };
        cx.reply(self.number, AMQPClass::Tx(reply));
        Ok(())
    }

    /// The open transaction; an empty one takes its place.
    fn take_transaction(&mut self) -> Result<Transaction, Refusal> {
        let open = self.tx.as_mut().ok_or_else(|| Refusal::precondition("channel is not transactional"))?;
        let mut tx = std::mem::take(open);
        tx.keep(&mut self.publisher);
        Ok(tx)
    }

    async fn commit(&mut self, cx: &mut Context) -> Result<(), Refusal> {
        let tx = self.take_transaction()?;
        if let Some(gone) = tx.runs.iter().flat_map(|(route, _)| &route.targets).find(|queue| !queue.alive()) {
            let (vhost, name) = (&gone.identity.vhost, &gone.identity.name);
            let text =
                format!("failed to deliver message: {{not_found, {{resource,<<\"{vhost}\">>,queue,<<\"{name}\">>}}}}");
            // What it acknowledged goes back with its channel.
            self.tx = Some(tx);
            return Err(Refusal::new(Reason::Resource, text));
        }
        let (commit, committed) = AllSafe::new();
        {
            let vhost = Arc::clone(&cx.vhost);
            let _together = vhost.together();
            for (route, run) in tx.runs {
                let run = Arc::new(run);
                for queue in &route.targets {
                    queue.count(Stat::Publish, run.count().into());
                    queue.publish(&run, Some(commit.ticket()), &mut cx.acts);
                }
            }
            // The answer goes before the deliveries that the acknowledgements make room for.
            cx.egress.hold(self.number);
            let mut back: Vec<(Unacked, Outcome)> = Vec::new();
            for (unacked, outcome) in tx.settled {
                let (queue, positions) = (&unacked.queue, unacked.positions());
                outcome.count(queue, unacked.count, &self.gauges);
                match outcome {
                    Outcome::Done => queue.settle(unacked.consumer, positions, &mut cx.acts),
                    Outcome::Rejected { failed } => queue.reject(unacked.consumer, positions, failed, &mut cx.acts),
                    Outcome::Requeued { .. } => {
                        back.push((unacked, outcome));
                        continue;
                    }
                }
                queue.wait(commit.ticket(), &mut cx.acts);
            }
            for (unacked, outcome) in back {
                outcome.apply(&unacked.queue, unacked.consumer, unacked.positions(), &mut cx.acts);
            }
        }
        cx.frames.extend_from_slice(&tx.returned);
        commit.handed_over();
        cx.act();
        let all_taken = committed.await;
        match all_taken.map_err(|_| Refusal::internal("the broker's disk failed: nothing more can be stored"))? {
            true => Ok(()),
            false => Err(Refusal::precondition("partial tx completion")),
        }
    }
}
