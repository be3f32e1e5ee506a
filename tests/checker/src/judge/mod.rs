//! The rules, as one walk over a history. Rules that can only be asked at its end stand in [`closing`].

mod books;
mod closing;
#[cfg(test)]
mod tests;

use crate::event::{Crash, Event, Id, Kind, Record, Settlement};
use crate::promises::Promises;
use crate::verdict::{Rule, Verdict};
use books::{At, Books, Copy, Ended, Message, Presence, QueueNumber, State, Synced, Wipe};

/// What a broker with these promises did in this history.
pub fn judge(records: &[Record], promises: &Promises) -> Verdict {
    let mut judge = Judge { promises, books: Books::default(), verdict: Verdict::default() };
    for (at, record) in records.iter().enumerate() {
        judge.take(Now { at, at_us: record.at_us }, &record.event);
    }
    judge.close();
    judge.verdict
}

struct Judge<'a> {
    promises: &'a Promises,
    books: Books,
    verdict: Verdict,
}

#[derive(Clone, Copy)]
struct Now {
    at: At,
    at_us: u64,
}

struct Delivery {
    queue: QueueNumber,
    consumer: u32,
    id: Id,
    redelivered: bool,
}

impl Judge<'_> {
    fn take(&mut self, now: Now, event: &Event) {
        match event {
            Event::Publish { publisher, id, queues, persistent, priority, expires, tx } => {
                let homes = queues.iter().map(|queue| self.books.queue(queue)).collect();
                let sender = self.books.publishers.entry(*publisher).or_default();
                sender.published += 1;
                let message = Message {
                    at: now.at,
                    publisher: *publisher,
                    number: sender.published,
                    persistent: *persistent,
                    priority: *priority,
                    expires: *expires,
                    homes,
                    tx: *tx,
                    confirmed: None,
                    answered: false,
                };
                self.publish(*id, message);
            }
            Event::Confirm { id } => self.answer(now, *id, true),
            Event::Nack { id } => self.answer(now, *id, false),
            Event::Return { .. } => self.verdict.counts.returned += 1,
            Event::Deliver { queue, consumer, id, redelivered, tag } => {
                let queue = self.books.queue(queue);
                self.verdict.counts.deliveries += 1;
                if let Some((_, delivered)) = &mut self.books.queues[queue].counted {
                    *delivered += 1;
                }
                match id {
                    Some(id) => {
                        let redelivered = *redelivered;
                        self.deliver(now, &Delivery { queue, consumer: *consumer, id: *id, redelivered });
                    }
                    None => {
                        self.verdict.counts.damaged += 1;
                        let text = format!("tag {tag} of consumer {consumer} of {}", self.books.queues[queue].name);
                        self.verdict.break_rule(Rule::Damaged, None, text);
                    }
                }
            }
            Event::Settle { queue, consumer, id, how, tx } => {
                let queue = self.books.queue(queue);
                match tx {
                    Some(tx) => {
                        let transaction = self.books.transactions.entry(*tx).or_default();
                        transaction.settlements.push((*id, queue, *consumer, *how));
                    }
                    None => self.settle(now, *id, queue, *consumer, *how),
                }
            }
            Event::Synced { consumer } => {
                let settled = std::mem::take(&mut self.books.consumers.entry(*consumer).or_default().unsynced);
                for key in settled {
                    self.sync(key, *consumer, Synced::Called);
                }
            }
            Event::Gone { consumer, queue, unread } => {
                let queue = self.books.queue(queue);
                self.books.consumers.entry(*consumer).or_default().gone = true;
                self.books.queues[queue].unread |= unread;
            }
            Event::Commit { tx } => {
                let transaction = self.books.transactions.entry(*tx).or_default();
                transaction.commit = Some(now.at);
                for (id, queue, consumer, how) in transaction.settlements.clone() {
                    self.settle(now, id, queue, consumer, how);
                }
            }
            Event::CommitOk { tx } => self.commit_ok(now, *tx),
            Event::Rollback { tx } => {
                self.books.transactions.entry(*tx).or_default().settlements.clear();
            }
            Event::Declare { queue, durable, kind, dead_letters_to, drops, priorities } => {
                let dead_letters_to = dead_letters_to.as_ref().map(|name| self.books.queue(name));
                let number = self.books.queue(queue);
                let queue = &mut self.books.queues[number];
                queue.transient = !durable;
                queue.kind = *kind;
                queue.dead_letters_to = dead_letters_to;
                queue.drops = *drops;
                queue.priorities = *priorities;
                if queue.presence == Presence::Gone {
                    queue.presence = Presence::Unsure;
                }
            }
            Event::DeclareOk { queue } => self.presence(queue, Presence::There),
            Event::Delete { queue } => {
                self.wipe(now, queue, false);
                self.presence(queue, Presence::Unsure);
            }
            Event::DeleteOk { queue } => {
                self.wiped(now, queue, false);
                self.presence(queue, Presence::Gone);
            }
            Event::Purge { queue } => self.wipe(now, queue, true),
            Event::PurgeOk { queue } => self.wiped(now, queue, true),
            Event::Found { queue, exists } => self.found(queue, *exists),
            Event::Crash { kind } => self.crash(now, *kind),
            Event::Recovered => {}
            Event::Counted { queue, ready } => {
                let queue = self.books.queue(queue);
                self.books.queues[queue].counted = Some((*ready, 0));
            }
            Event::Drained { queue, consumer } => self.drained(now, queue, *consumer),
        }
    }

    fn publish(&mut self, id: Id, message: Message) {
        self.verdict.counts.attempted += 1;
        for home in &message.homes {
            self.books.copies.insert((id, *home), Copy { state: State::Waiting, ended: false, delivered: None });
        }
        if let Some(tx) = message.tx {
            self.books.transactions.entry(tx).or_default().publishes.push(id);
        }
        self.books.ids.push(id);
        let before = self.books.messages.insert(id, message);
        assert!(before.is_none(), "the history names two messages {id:#x}");
    }

    /// A confirm, or a refusal.
    fn answer(&mut self, now: Now, id: Id, confirmed: bool) {
        let what = if confirmed { "confirmed" } else { "refused" };
        let Some(message) = self.books.messages.get_mut(&id) else {
            self.verdict.break_rule(Rule::Confirms, Some(id), format!("was {what}, and never published"));
            return;
        };
        if message.answered {
            self.verdict.break_rule(Rule::Confirms, Some(id), format!("was {what}, and answered before"));
            return;
        }
        message.answered = true;
        if confirmed {
            message.confirmed = Some(now.at);
            self.verdict.counts.confirmed += 1;
        } else {
            self.verdict.counts.nacked += 1;
        }
        let publisher = self.books.publishers.entry(message.publisher).or_default();
        let before = publisher.answered.replace(message.number);
        if self.promises.confirms_in_order && before.is_some_and(|before| before > message.number) {
            self.verdict.break_rule(Rule::Confirms, Some(id), format!("was {what} behind one that came later"));
        }
    }

    fn deliver(&mut self, now: Now, delivery: &Delivery) {
        let Delivery { queue, id, .. } = *delivery;
        let Some(message) = self.books.messages.get(&id) else {
            self.unexpected(delivery, "was never published");
            return;
        };
        let began = |tx: &u64| self.books.transactions.get(tx).is_some_and(|tx| tx.commit.is_some());
        if message.tx.as_ref().is_some_and(|tx| !began(tx)) {
            self.unexpected(delivery, "belongs to a transaction that was not committed");
            return;
        }
        let homes = self.books.homes_of(message, queue);
        if homes.is_empty() {
            self.unexpected(delivery, "was not routed there");
            return;
        }
        if homes.iter().all(|home| !self.books.may_outlive(message, *home, queue))
            && self.books.crash_since(message.at).is_some()
        {
            self.violation(Rule::Survived, delivery, "is transient and outlived a restart");
        }
        self.judge_wipes(delivery);
        self.judge_flag(now, delivery, homes.len());
        self.judge_order(delivery);
        self.judge_copy(now, delivery, &homes);
    }

    /// What was thrown away does not come back.
    fn judge_wipes(&mut self, delivery: &Delivery) {
        let Delivery { queue, id, redelivered, .. } = *delivery;
        let message = &self.books.messages[&id];
        let Some(confirmed) = message.confirmed.filter(|_| message.homes.contains(&queue)) else { return };
        // What was on its way while the queue was purged may come back; then it is flagged.
        let fresh = !redelivered && !self.books.seen.contains_key(&(id, queue));
        let within_us = self.promises.settled_within_ms * 1000;
        let broken = self.books.queues[queue].wipes.iter().any(|wipe| {
            let Some((done, done_us)) = wipe.done.filter(|_| confirmed < wipe.sent) else { return false };
            let kept = self.books.crash_since(done).is_none_or(|crash| {
                let old = crash.kind == Crash::Stop || crash.at_us.saturating_sub(done_us) >= within_us;
                self.promises.settled_survive.over(crash.kind) && (old || !wipe.purge)
            });
            kept && (fresh || !wipe.purge)
        });
        if broken {
            self.verdict.counts.resurrected += 1;
            self.violation(Rule::Resurrected, delivery, "was thrown away with all that the queue held");
        }
    }

    fn judge_flag(&mut self, now: Now, delivery: &Delivery, homes: usize) {
        let Delivery { queue, id, redelivered, .. } = *delivery;
        let at = self.books.messages[&id].at;
        let before = self.books.seen.insert((id, queue), now.at);
        // A dead letter keeps it that somebody had it before it died, as in RabbitMQ.
        let message = &self.books.messages[&id];
        let died = !message.homes.contains(&queue);
        let had = died
            && message
                .homes
                .iter()
                .any(|home| self.books.queues[*home].unread || self.books.copies[&(id, *home)].delivered.is_some());
        match before {
            None if redelivered && had => {}
            None if redelivered => {
                self.verdict.counts.flagged += 1;
                let crashes = self.books.crashes.len();
                let crashed = self.books.crash_since(at).is_some();
                let place = &mut self.books.queues[queue];
                if crashed {
                    if place.flagged.0 != crashes {
                        place.flagged = (crashes, 0);
                    }
                    place.flagged.1 += 1;
                    if self.promises.flagged_max.is_some_and(|max| place.flagged.1 == max + 1) {
                        self.violation(Rule::Flagged, delivery, "is one too many that was flagged after a crash");
                    }
                } else if !place.unread {
                    self.violation(Rule::Flagged, delivery, "was flagged as redelivered, and is delivered first");
                }
            }
            // A message with several copies on their way to one queue is delivered there several times.
            Some(before) if !redelivered && homes == 1 => {
                self.verdict.counts.unflagged += 1;
                // What dies once more after a crash that undid its first death is new in its new queue.
                let excused = self.books.crash_since(before).is_some() && (!self.promises.flags_survive || died);
                if !excused {
                    self.violation(Rule::Unflagged, delivery, "was delivered before, and is not flagged");
                }
            }
            _ => {}
        }
    }

    fn judge_order(&mut self, delivery: &Delivery) {
        let Delivery { queue, consumer, id, redelivered } = *delivery;
        let message = &self.books.messages[&id];
        if !message.homes.contains(&queue) {
            return;
        }
        let priority = if self.books.queues[queue].priorities { message.priority } else { 0 };
        let lane = (queue, message.publisher, priority);
        let number = message.number;
        let seen = self.books.consumers.entry(consumer).or_default();
        if seen.all.insert(lane, number).is_some_and(|before| before >= number) {
            seen.disordered.insert(queue, id);
        }
        if !redelivered && seen.firsts.insert(lane, number).is_some_and(|before| before > number) {
            self.verdict.counts.disordered += 1;
            self.violation(Rule::Disordered, delivery, "was delivered behind one that was published later");
        }
    }

    fn judge_copy(&mut self, now: Now, delivery: &Delivery, homes: &[QueueNumber]) {
        let Delivery { queue, consumer, id, .. } = *delivery;
        if let [home] = homes {
            self.judge_again(delivery, *home);
        }
        for home in homes {
            let copy = self.books.copies.get_mut(&(id, *home)).expect("a copy for each home");
            copy.state = State::Held { queue, consumer, at: now.at };
            copy.delivered = Some(now.at);
        }
    }

    /// Whether a copy may be delivered in the state it is in.
    fn judge_again(&mut self, delivery: &Delivery, home: QueueNumber) {
        let Delivery { queue, id, .. } = *delivery;
        // A crash while it died may have left it in both queues, if nobody says that it does not.
        let crashed = self.books.crash_since(self.books.messages[&id].at).is_some();
        let may_be_twice = crashed && !self.promises.dead_letters_once;
        match self.books.copies[&(id, home)].state.clone() {
            State::Waiting => {}
            State::Held { queue: held_in, .. } | State::Settled { queue: held_in, .. }
                if may_be_twice && held_in != queue => {}
            State::Held { consumer: holder, at, .. } => {
                let gone = self.books.consumers.get(&holder).is_some_and(|holder| holder.gone);
                if !gone && self.books.crash_since(at).is_none() {
                    self.verdict.counts.duplicated += 1;
                    self.violation(Rule::Duplicated, delivery, &format!("is held by consumer {holder}"));
                }
            }
            State::Settled { queue: settled_in, consumer: holder, how, at, at_us, synced } => {
                let beyond = queue != settled_in && self.books.chain(settled_in).any(|place| place == queue);
                if how == Settlement::Reject && beyond {
                    return;
                }
                let Some(crash) = self.books.crash_since(at) else {
                    self.verdict.counts.resurrected += 1;
                    // What a client said last may be lost with its connection.
                    let gone = self.books.consumers.get(&holder).is_some_and(|holder| holder.gone);
                    if !gone || synced != Synced::No {
                        self.violation(Rule::Resurrected, delivery, "was settled, and nothing crashed since");
                    }
                    return;
                };
                let age_ms = crash.at_us.saturating_sub(at_us) / 1000;
                let kind = crash.kind;
                // A dead letter is moved soon after it was rejected, and stays where it was until then.
                let moves = how == Settlement::Reject && self.books.queues[settled_in].dead_letters_to.is_some();
                let promised = match synced {
                    Synced::No => false,
                    _ if moves => age_ms >= self.promises.settled_within_ms,
                    Synced::Called => kind == Crash::Stop || age_ms >= self.promises.settled_within_ms,
                    Synced::Committed => self.promises.transactions_atomic,
                };
                self.verdict.counts.resurrected += 1;
                if synced != Synced::No {
                    self.verdict.counts.resurrected_age_ms_max = self.verdict.counts.resurrected_age_ms_max.max(age_ms);
                }
                if promised && self.promises.settled_survive.over(kind) {
                    let text = format!("was settled, and synced, {age_ms} ms before the {kind:?} crash");
                    self.violation(Rule::Resurrected, delivery, &text);
                }
            }
        }
    }

    fn settle(&mut self, now: Now, id: Id, queue: QueueNumber, consumer: u32, how: Settlement) {
        let Some(message) = self.books.messages.get(&id) else { return };
        let homes = self.books.homes_of(message, queue);
        let ends =
            how == Settlement::Ack || how == Settlement::Reject && self.books.queues[queue].dead_letters_to.is_none();
        for home in homes {
            let copy = self.books.copies.get_mut(&(id, home)).expect("a copy for each home");
            copy.ended |= ends;
            copy.state = if how == Settlement::Requeue {
                State::Waiting
            } else {
                let synced = Synced::No;
                State::Settled { queue, consumer, how, at: now.at, at_us: now.at_us, synced }
            };
            self.books.consumers.entry(consumer).or_default().unsynced.push((id, home));
        }
    }

    /// What this consumer settled; somebody else may have settled it again.
    fn sync(&mut self, key: (Id, QueueNumber), by: u32, how: Synced) {
        if let Some(Copy { state: State::Settled { synced, consumer, .. }, .. }) = self.books.copies.get_mut(&key)
            && *consumer == by
        {
            *synced = how;
        }
    }

    fn commit_ok(&mut self, now: Now, tx: u64) {
        let transaction = self.books.transactions.entry(tx).or_default();
        transaction.committed = Some(now.at);
        let (publishes, settlements) = (transaction.publishes.clone(), transaction.settlements.clone());
        for id in publishes {
            if let Some(message) = self.books.messages.get_mut(&id) {
                message.confirmed = Some(now.at);
                self.verdict.counts.confirmed += 1;
            }
        }
        for (id, queue, consumer, _) in settlements {
            let Some(message) = self.books.messages.get(&id) else { continue };
            for home in self.books.homes_of(message, queue) {
                self.sync((id, home), consumer, Synced::Committed);
            }
        }
    }

    fn presence(&mut self, queue: &str, presence: Presence) {
        let queue = self.books.queue(queue);
        self.books.queues[queue].presence = presence;
    }

    fn wipe(&mut self, now: Now, queue: &str, purge: bool) {
        let queue = self.books.queue(queue);
        self.books.queues[queue].wipes.push(Wipe { purge, sent: now.at, done: None });
    }

    fn wiped(&mut self, now: Now, queue: &str, purge: bool) {
        let queue = self.books.queue(queue);
        let mut wipes = self.books.queues[queue].wipes.iter_mut();
        if let Some(wipe) = wipes.find(|wipe| wipe.purge == purge && wipe.done.is_none()) {
            wipe.done = Some((now.at, now.at_us));
        }
    }

    fn found(&mut self, name: &str, exists: bool) {
        let number = self.books.queue(name);
        let presence = if exists { Presence::There } else { Presence::Gone };
        let before = std::mem::replace(&mut self.books.queues[number].presence, presence);
        let broken = match before {
            Presence::There if !exists => "was declared, and is not there",
            Presence::Gone if exists => "is there, and was deleted or not durable",
            _ => return,
        };
        self.verdict.break_rule(Rule::Topology, None, format!("queue {name} {broken}"));
    }

    fn crash(&mut self, now: Now, kind: Crash) {
        self.verdict.counts.crashes += 1;
        self.books.crashes.push(Ended { at: now.at, at_us: now.at_us, kind });
        for queue in &mut self.books.queues {
            queue.counted = None;
            if queue.transient {
                queue.presence = Presence::Gone;
            } else if !self.promises.topology_survives.over(kind) {
                queue.presence = Presence::Unsure;
            }
        }
    }

    fn drained(&mut self, now: Now, name: &str, consumer: u32) {
        let number = self.books.queue(name);
        let queue = &mut self.books.queues[number];
        queue.drained = Some(now.at);
        // What is counted may expire before it is taken.
        let wrong = |&(ready, found): &(u64, u64)| ready < found || ready > found && !queue.drops;
        let counted = queue.counted.take().filter(|_| self.promises.counts_exact);
        if let Some((ready, found)) = counted.filter(wrong) {
            let text = format!("queue {name} held {found} messages, and the broker counted {ready}");
            self.verdict.break_rule(Rule::Counted, None, text);
        }
        // A quorum queue serves what came back before its turn.
        let ordered = queue.kind == Kind::Classic;
        let disordered = self.books.consumers.get(&consumer).and_then(|seen| seen.disordered.get(&number).copied());
        if let Some(id) = disordered.filter(|_| ordered) {
            self.verdict.counts.disordered += 1;
            let text = format!("stood in {name} behind one that was published later, when it was drained");
            self.verdict.break_rule(Rule::Disordered, Some(id), text);
        }
    }

    fn unexpected(&mut self, delivery: &Delivery, text: &str) {
        self.verdict.counts.unexpected += 1;
        self.violation(Rule::Unexpected, delivery, text);
    }

    fn violation(&mut self, rule: Rule, delivery: &Delivery, text: &str) {
        let queue = &self.books.queues[delivery.queue].name;
        let text = format!("{text} (delivered from {queue} to consumer {})", delivery.consumer);
        self.verdict.break_rule(rule, Some(delivery.id), text);
    }
}
