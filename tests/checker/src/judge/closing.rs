//! Rules that can only be asked once everything is over: what is missing, and what of a transaction happened.

use super::Judge;
use super::books::{Message, QueueNumber, State};
use crate::event::{Id, Settlement};
use crate::verdict::Rule;

impl Judge<'_> {
    pub(super) fn close(&mut self) {
        for id in std::mem::take(&mut self.books.ids) {
            let message = &self.books.messages[&id];
            let homes = message.homes.clone();
            if message.confirmed.is_some() {
                homes.iter().for_each(|home| self.judge_loss(id, *home));
            } else if homes.iter().any(|home| self.books.copies[&(id, *home)].delivered.is_some()) {
                self.verdict.counts.recovered += 1;
            }
        }
        if self.promises.transactions_atomic {
            self.judge_transactions();
        }
    }

    /// Whether a confirmed copy that nobody asked to end is there.
    fn judge_loss(&mut self, id: Id, home: QueueNumber) {
        let copy = &self.books.copies[&(id, home)];
        let message = &self.books.messages[&id];
        if copy.ended || self.may_leave(message, home) {
            return;
        }
        let kept = self.books.is_kept(message, home);
        let mut crashes = self.books.crashes.iter().filter(|crash| crash.at > message.at).map(|crash| crash.kind);
        if !kept && crashes.clone().next().is_some() {
            return;
        }
        if !self.books.is_drained(message, home) {
            self.verdict.counts.unjudged += 1;
            return;
        }
        self.verdict.counts.lost += 1;
        if crashes.all(|kind| self.promises.confirmed_survive.over(kind)) {
            let queue = &self.books.queues[home].name;
            let last = match &copy.state {
                State::Waiting if copy.delivered.is_none() => "never delivered".to_owned(),
                State::Waiting => "last given back".to_owned(),
                State::Held { consumer, .. } => format!("last delivered to consumer {consumer}"),
                State::Settled { how, .. } => format!("last settled by {how:?}"),
            };
            let text = format!("was confirmed in {queue} and is lost; it was {last}");
            self.verdict.break_rule(Rule::Lost, Some(id), text);
        }
    }

    fn may_leave(&self, message: &Message, home: QueueNumber) -> bool {
        self.books.may_vanish(message, home) || self.books.may_be_wiped(message, home)
    }

    /// Whether it can be told from a copy's absence that it is gone.
    fn is_telling(&self, message: &Message, home: QueueNumber) -> bool {
        self.books.is_kept(message, home) && !self.may_leave(message, home) && self.books.is_drained(message, home)
    }

    /// A transaction that was not answered happened or not, but not in part.
    fn judge_transactions(&mut self) {
        let mut broken = Vec::new();
        for (tx, transaction) in &self.books.transactions {
            let Some(commit) = transaction.commit.filter(|_| transaction.committed.is_none()) else { continue };
            let (mut happened, mut missed) = (None, None);
            // What was seen before a crash may have been in memory alone.
            let since = self.books.crash_since(commit).map_or(commit, |crash| crash.at);
            for id in &transaction.publishes {
                let message = &self.books.messages[id];
                for home in &message.homes {
                    let copy = &self.books.copies[&(*id, *home)];
                    let queue = &self.books.queues[*home].name;
                    if copy.delivered.is_some_and(|delivered| delivered > since) {
                        happened = Some(format!("its message {id:#x} was in {queue}"));
                    } else if !copy.ended && self.is_telling(message, *home) {
                        missed = Some(format!("its message {id:#x} was not in {queue}"));
                    }
                }
            }
            for (id, queue, _, how) in &transaction.settlements {
                let stays = *how == Settlement::Ack
                    || *how == Settlement::Reject && self.books.queues[*queue].dead_letters_to.is_none();
                if !stays {
                    continue;
                }
                let Some(message) = self.books.messages.get(id) else { continue };
                let [home] = self.books.homes_of(message, *queue)[..] else { continue };
                let again = self.books.copies[&(*id, home)].delivered.is_some_and(|delivered| delivered > commit);
                if again {
                    missed = Some(format!("what it settled, {id:#x}, came again"));
                } else if message.confirmed.is_some() && self.is_telling(message, home) {
                    happened = Some(format!("what it settled, {id:#x}, stayed away"));
                }
            }
            if let (Some(happened), Some(missed)) = (happened, missed) {
                broken.push(format!("transaction {tx} happened in part: {happened}, but {missed}"));
            }
        }
        broken.sort();
        for text in broken {
            self.verdict.break_rule(Rule::Transaction, None, text);
        }
    }
}
