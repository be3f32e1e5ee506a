//! A clean history passes, and each planted violation is found for what it is.

use super::judge;
use crate::event::{Crash, Event, History, Id, Kind, Settlement};
use crate::{Promises, Rule, Verdict};

/// A history, told in short sentences.
#[derive(Default)]
struct Story {
    history: History,
    at_us: u64,
}

impl Story {
    fn tell(&mut self, event: Event) -> &mut Self {
        self.at_us += 1;
        self.history.push(self.at_us, event);
        self
    }

    fn wait_ms(&mut self, ms: u64) -> &mut Self {
        self.at_us += ms * 1000;
        self
    }

    fn send(&mut self, id: Id, queues: &[&str], persistent: bool, tx: Option<u64>) -> &mut Self {
        let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
        self.tell(Event::Publish { publisher: 1, id, queues, persistent, priority: 0, expires: false, tx })
    }

    fn publish(&mut self, id: Id) -> &mut Self {
        self.send(id, &["q"], true, None)
    }

    fn confirm(&mut self, id: Id) -> &mut Self {
        self.tell(Event::Confirm { id })
    }

    fn confirmed(&mut self, ids: impl IntoIterator<Item = Id>) -> &mut Self {
        ids.into_iter().for_each(|id| {
            self.publish(id).confirm(id);
        });
        self
    }

    fn deliver_from(&mut self, queue: &str, consumer: u32, id: Id, redelivered: bool) -> &mut Self {
        self.tell(Event::Deliver { queue: queue.into(), consumer, tag: 1, id: Some(id), redelivered })
    }

    fn deliver(&mut self, consumer: u32, id: Id, redelivered: bool) -> &mut Self {
        self.deliver_from("q", consumer, id, redelivered)
    }

    fn settle(&mut self, consumer: u32, id: Id, how: Settlement) -> &mut Self {
        self.tell(Event::Settle { queue: "q".into(), consumer, id, how, tx: None })
    }

    fn ack(&mut self, consumer: u32, id: Id) -> &mut Self {
        self.settle(consumer, id, Settlement::Ack)
    }

    /// The final consumer takes these, flagged or not.
    fn drain(&mut self, queue: &str, ids: &[(Id, bool)]) -> &mut Self {
        for (id, redelivered) in ids {
            self.deliver_from(queue, 99, *id, *redelivered);
            self.tell(Event::Settle { queue: queue.into(), consumer: 99, id: *id, how: Settlement::Ack, tx: None });
        }
        self.tell(Event::Drained { queue: queue.into(), consumer: 99 })
    }

    fn crash(&mut self, kind: Crash) -> &mut Self {
        self.tell(Event::Crash { kind }).tell(Event::Recovered)
    }

    fn declare(&mut self, queue: &str, durable: bool, dead_letters_to: Option<&str>) -> &mut Self {
        self.tell(Event::Declare {
            queue: queue.into(),
            durable,
            kind: Kind::Classic,
            dead_letters_to: dead_letters_to.map(str::to_owned),
            drops: false,
            priorities: false,
        })
        .tell(Event::DeclareOk { queue: queue.into() })
    }

    fn verdict(&self, promises: &Promises) -> Verdict {
        judge(self.history.records(), promises)
    }

    fn passes(&self) -> Verdict {
        let verdict = self.verdict(&Promises::leveret());
        assert!(verdict.passed(), "{:?}", verdict.violations);
        verdict
    }

    fn breaks(&self, rule: Rule) -> Verdict {
        let verdict = self.verdict(&Promises::leveret());
        let rules: Vec<Rule> = verdict.violations.iter().map(|violation| violation.rule).collect();
        assert_eq!(rules, [rule], "{:?}", verdict.violations);
        verdict
    }
}

fn story() -> Story {
    Story::default()
}

#[test]
fn a_clean_history_passes_and_is_counted() {
    let mut story = story();
    story.declare("q", true, None).confirmed(1..=4).publish(5);
    story.deliver(1, 1, false).ack(1, 1).deliver(1, 2, false).settle(1, 2, Settlement::Requeue);
    story.tell(Event::Synced { consumer: 1 }).wait_ms(3000).crash(Crash::Kill);
    story.tell(Event::Found { queue: "q".into(), exists: true });
    story.tell(Event::Counted { queue: "q".into(), ready: 4 });
    story.drain("q", &[(2, true), (3, true), (4, false), (5, false)]);
    let verdict = story.passes();
    let counts = (
        verdict.counts.attempted,
        verdict.counts.confirmed,
        verdict.counts.recovered,
        verdict.counts.flagged,
        verdict.counts.crashes,
    );
    assert_eq!(counts, (5, 4, 1, 1, 1));
    assert_eq!(
        (verdict.counts.lost, verdict.counts.duplicated, verdict.counts.resurrected, verdict.counts.unjudged),
        (0, 0, 0, 0)
    );
}

#[test]
fn a_confirmed_message_that_is_missing_is_lost() {
    let verdict = story().confirmed(1..=3).crash(Crash::Kill).drain("q", &[(1, false), (3, false)]).breaks(Rule::Lost);
    assert_eq!((verdict.counts.lost, verdict.violations[0].id), (1, Some(2)));
}

#[test]
fn a_message_that_was_delivered_and_never_acknowledged_is_lost_all_the_same() {
    story().confirmed([1]).deliver(1, 1, false).crash(Crash::Power).drain("q", &[]).breaks(Rule::Lost);
}

#[test]
fn without_a_crash_transient_messages_are_not_lost_either() {
    story().send(1, &["q"], false, None).confirm(1).drain("q", &[]).breaks(Rule::Lost);
}

#[test]
fn a_loss_that_was_never_denied_is_counted_and_breaks_nothing() {
    let mut story = story();
    story.confirmed(1..=3).crash(Crash::Power).drain("q", &[]);
    let verdict = story.verdict(&Promises::rabbitmq_classic());
    assert!(verdict.passed());
    assert_eq!(verdict.counts.lost, 3);
}

#[test]
fn what_was_not_confirmed_or_may_leave_by_itself_is_not_lost() {
    let mut story = story();
    story.publish(1).crash(Crash::Kill).drain("q", &[]).passes();
    story.tell(Event::Declare {
        queue: "short".into(),
        durable: true,
        kind: Kind::Classic,
        dead_letters_to: None,
        drops: true,
        priorities: false,
    });
    story.send(2, &["short"], true, None).confirm(2).drain("short", &[]).passes();
}

#[test]
fn a_queue_that_nobody_drained_is_not_judged() {
    assert_eq!(story().confirmed(1..=3).passes().counts.unjudged, 3);
}

#[test]
fn what_nobody_published_is_unexpected() {
    assert_eq!(story().deliver(1, 7, false).breaks(Rule::Unexpected).counts.unexpected, 1);
}

#[test]
fn what_was_routed_elsewhere_is_unexpected() {
    story().confirmed([1]).deliver_from("other", 1, 1, false).breaks(Rule::Unexpected);
}

#[test]
fn a_body_that_is_not_whole_is_damaged() {
    let damaged = Event::Deliver { queue: "q".into(), consumer: 1, tag: 1, id: None, redelivered: false };
    assert_eq!(story().tell(damaged).breaks(Rule::Damaged).counts.damaged, 1);
}

#[test]
fn a_first_delivery_that_is_flagged_without_a_reason_is_noticed() {
    story().confirmed([1]).deliver(1, 1, true).breaks(Rule::Flagged);
    let mut excused = story();
    excused.tell(Event::Gone { consumer: 2, queue: "q".into(), unread: true });
    excused.confirmed([1]).deliver(1, 1, true).passes();
}

#[test]
fn after_a_crash_a_bounded_number_may_be_flagged_too_often() {
    let mut story = story();
    story.confirmed(1..=5).crash(Crash::Kill);
    let flagged: Vec<(Id, bool)> = (1..=5).map(|id| (id, true)).collect();
    story.drain("q", &flagged);
    assert_eq!(story.passes().counts.flagged, 5);
    let strict = Promises { flagged_max: Some(4), ..Promises::leveret() };
    let verdict = story.verdict(&strict);
    assert_eq!(verdict.violations.len(), 1);
    assert_eq!(verdict.violations[0].rule, Rule::Flagged);
}

#[test]
fn a_second_delivery_must_be_flagged() {
    let mut story = story();
    story.confirmed([1]).deliver(1, 1, false).crash(Crash::Kill).drain("q", &[(1, false)]);
    assert_eq!(story.breaks(Rule::Unflagged).counts.unflagged, 1);
    let forgetful = Promises { flags_survive: false, ..Promises::leveret() };
    assert!(story.verdict(&forgetful).passed());
}

#[test]
fn a_given_back_message_must_be_flagged_whatever_is_promised() {
    let mut story = story();
    story.confirmed([1]).deliver(1, 1, false).settle(1, 1, Settlement::Requeue).deliver(1, 1, false);
    let forgetful = Promises { flags_survive: false, ..Promises::leveret() };
    assert_eq!(story.verdict(&forgetful).violations[0].rule, Rule::Unflagged);
}

#[test]
fn what_was_settled_without_a_crash_stays_away() {
    let mut story = story();
    story.confirmed([1]).deliver(1, 1, false).ack(1, 1).deliver(1, 1, true);
    assert_eq!(story.breaks(Rule::Resurrected).counts.resurrected, 1);
}

#[test]
fn a_quorum_queue_keeps_what_is_transient_and_its_dead_letters_do_not() {
    let mut story = story();
    story.tell(Event::Declare {
        queue: "q".to_owned(),
        durable: true,
        kind: Kind::Quorum,
        dead_letters_to: Some("dead".to_owned()),
        drops: true,
        priorities: true,
    });
    story.declare("dead", true, None).send(1, &["q"], false, None).crash(Crash::Power);
    story.deliver_from("q", 1, 1, false).passes();
    story.crash(Crash::Power).deliver_from("dead", 2, 1, false).passes();
}

#[test]
fn what_was_rejected_is_moved_soon() {
    let rejected = |wait_ms: u64| {
        let mut story = dead_letter();
        story.deliver(1, 1, false).settle(1, 1, Settlement::Reject).tell(Event::Synced { consumer: 1 });
        story.wait_ms(wait_ms).crash(Crash::Stop).drain("q", &[(1, true)]).drain("dead", &[]);
        story
    };
    rejected(10).passes();
    rejected(5000).breaks(Rule::Resurrected);
}

#[test]
fn who_syncs_answers_for_what_it_settled_itself() {
    let mut story = story();
    story.confirmed([1]).deliver(1, 1, false).settle(1, 1, Settlement::Requeue).deliver(2, 1, true).ack(2, 1);
    story.tell(Event::Synced { consumer: 1 });
    story.tell(Event::Gone { consumer: 2, queue: "q".to_owned(), unread: false }).deliver(3, 1, true).passes();
}

#[test]
fn what_was_settled_last_may_be_lost_with_the_connection() {
    let gone = || Event::Gone { consumer: 1, queue: "q".to_owned(), unread: true };
    let mut lost = story();
    lost.confirmed([1]).deliver(1, 1, false).ack(1, 1).tell(gone()).deliver(2, 1, true).passes();
    let mut synced = story();
    synced.confirmed([1]).deliver(1, 1, false).ack(1, 1).tell(Event::Synced { consumer: 1 }).tell(gone());
    synced.deliver(2, 1, true).breaks(Rule::Resurrected);
}

#[test]
fn what_was_settled_and_synced_long_before_a_crash_stays_away() {
    let settled = |wait_ms: u64, crash: Crash| {
        let mut story = story();
        story.confirmed([1]).deliver(1, 1, false).ack(1, 1).tell(Event::Synced { consumer: 1 });
        story.wait_ms(wait_ms).crash(crash).drain("q", &[(1, true)]);
        story
    };
    let verdict = settled(10, Crash::Kill).passes();
    assert_eq!((verdict.counts.resurrected, verdict.counts.resurrected_age_ms_max), (1, 10));
    settled(5000, Crash::Kill).breaks(Rule::Resurrected);
    settled(5000, Crash::Power).breaks(Rule::Resurrected);
    settled(10, Crash::Stop).breaks(Rule::Resurrected);
}

#[test]
fn what_was_settled_and_not_synced_may_come_again_after_a_crash() {
    let mut story = story();
    story.confirmed([1]).deliver(1, 1, false).ack(1, 1).wait_ms(5000).crash(Crash::Kill).drain("q", &[(1, true)]);
    assert_eq!(story.passes().counts.resurrected, 1);
}

#[test]
fn what_was_purged_or_deleted_stays_away() {
    let queue = || "q".to_owned();
    let mut purged = story();
    purged.confirmed([1]).tell(Event::Purge { queue: queue() }).tell(Event::PurgeOk { queue: queue() });
    purged.confirmed([2]).drain("q", &[(2, false)]).passes();
    purged.deliver(1, 1, false).breaks(Rule::Resurrected);
    let mut deleted = story();
    deleted.declare("q", true, None).confirmed([1]);
    deleted.tell(Event::Delete { queue: queue() }).tell(Event::DeleteOk { queue: queue() });
    deleted.declare("q", true, None).crash(Crash::Kill).drain("q", &[(1, true)]).breaks(Rule::Resurrected);
}

#[test]
fn first_deliveries_are_in_the_order_of_publishing() {
    let mut story = story();
    story.confirmed(1..=3).deliver(1, 1, false).deliver(1, 3, false).deliver(1, 2, false);
    assert_eq!(story.breaks(Rule::Disordered).counts.disordered, 1);
}

#[test]
fn priorities_have_an_order_each() {
    let mut story = story();
    story.tell(Event::Declare {
        queue: "q".into(),
        durable: true,
        kind: Kind::Classic,
        dead_letters_to: None,
        drops: false,
        priorities: true,
    });
    for (id, priority) in [(1, 0), (2, 9)] {
        let queues = vec!["q".to_owned()];
        story.tell(Event::Publish { publisher: 1, id, queues, persistent: true, priority, expires: false, tx: None });
        story.confirm(id);
    }
    story.drain("q", &[(2, false), (1, false)]).passes();
}

#[test]
fn a_drained_queue_is_in_order_as_a_whole() {
    let mut story = story();
    story.confirmed(1..=3).deliver(1, 1, false).deliver(1, 2, false).settle(1, 1, Settlement::Requeue);
    story.settle(1, 2, Settlement::Requeue);
    let mut right = Story { history: story.history.clone(), at_us: story.at_us };
    right.drain("q", &[(1, true), (2, true), (3, false)]).passes();
    story.drain("q", &[(2, true), (1, true), (3, false)]).breaks(Rule::Disordered);
}

#[test]
fn transient_messages_are_gone_after_a_restart() {
    let mut story = story();
    story.send(1, &["q"], false, None).confirm(1).crash(Crash::Kill).drain("q", &[(1, false)]);
    story.breaks(Rule::Survived);
}

#[test]
fn messages_of_transient_queues_are_gone_after_a_restart() {
    let mut story = story();
    story.declare("q", false, None).confirmed([1]).crash(Crash::Stop).drain("q", &[]).passes();
    story.deliver(1, 1, false).breaks(Rule::Survived);
}

#[test]
fn durable_queues_are_there_as_was_acknowledged() {
    let found = |exists| Event::Found { queue: "q".into(), exists };
    story().declare("q", true, None).crash(Crash::Power).tell(found(true)).passes();
    story().declare("q", true, None).crash(Crash::Power).tell(found(false)).breaks(Rule::Topology);
    story().declare("q", false, None).crash(Crash::Kill).tell(found(true)).breaks(Rule::Topology);
    let mut deleted = story();
    deleted.declare("q", true, None).tell(Event::Delete { queue: "q".into() });
    deleted.tell(Event::DeleteOk { queue: "q".into() }).crash(Crash::Kill).tell(found(true)).breaks(Rule::Topology);
}

#[test]
fn what_is_not_acknowledged_may_be_there_or_not() {
    for exists in [true, false] {
        let mut story = story();
        story.declare("q", true, None).tell(Event::Delete { queue: "q".into() }).crash(Crash::Kill);
        story.tell(Event::Found { queue: "q".into(), exists }).passes();
    }
}

#[test]
fn a_publish_is_answered_once_and_in_order() {
    story().publish(1).confirm(1).confirm(1).breaks(Rule::Confirms);
    story().publish(1).confirm(1).tell(Event::Nack { id: 1 }).breaks(Rule::Confirms);
    story().publish(1).publish(2).confirm(2).confirm(1).breaks(Rule::Confirms);
    story().confirm(1).breaks(Rule::Confirms);
    let verdict = story().publish(1).publish(2).tell(Event::Nack { id: 1 }).confirm(2).passes();
    assert_eq!((verdict.counts.confirmed, verdict.counts.nacked), (1, 1));
}

/// Two queues get a message each; one is acknowledged.
fn transaction(answered: bool) -> Story {
    let mut story = story();
    story.confirmed([1]).deliver(1, 1, false);
    story.send(2, &["a"], true, Some(7)).send(3, &["b"], true, Some(7));
    let queue = "q".to_owned();
    story.tell(Event::Settle { queue, consumer: 1, id: 1, how: Settlement::Ack, tx: Some(7) });
    story.tell(Event::Commit { tx: 7 });
    if answered {
        story.tell(Event::CommitOk { tx: 7 });
    }
    story.crash(Crash::Kill);
    story
}

#[test]
fn a_transaction_may_have_happened() {
    let verdict = transaction(false).drain("q", &[]).drain("a", &[(2, false)]).drain("b", &[(3, false)]).passes();
    assert_eq!(verdict.counts.recovered, 2);
}

#[test]
fn or_not() {
    transaction(false).drain("q", &[(1, true)]).drain("a", &[]).drain("b", &[]).passes();
}

#[test]
fn but_not_in_part() {
    let mut half = transaction(false);
    half.drain("q", &[]).drain("a", &[(2, false)]).drain("b", &[]).breaks(Rule::Transaction);
    let mut undone = transaction(false);
    undone.drain("q", &[(1, true)]).drain("a", &[(2, false)]).drain("b", &[(3, false)]).breaks(Rule::Transaction);
}

#[test]
fn what_was_committed_is_there_and_what_it_settled_is_not() {
    transaction(true).drain("q", &[]).drain("a", &[(2, false)]).drain("b", &[(3, false)]).passes();
    transaction(true).drain("q", &[]).drain("a", &[]).drain("b", &[(3, false)]).breaks(Rule::Lost);
    let mut undone = transaction(true);
    undone.drain("q", &[(1, true)]).drain("a", &[(2, false)]).drain("b", &[(3, false)]).breaks(Rule::Resurrected);
}

#[test]
fn what_was_rolled_back_is_not_there() {
    let mut story = story();
    story.send(1, &["q"], true, Some(7)).tell(Event::Rollback { tx: 7 }).drain("q", &[]).passes();
    story.deliver(1, 1, false).breaks(Rule::Unexpected);
}

fn dead_letter() -> Story {
    let mut story = story();
    story.declare("q", true, Some("dead")).declare("dead", true, None).confirmed([1]);
    story
}

#[test]
fn a_dead_letter_is_in_its_new_queue() {
    let mut rejected = dead_letter();
    rejected.deliver(1, 1, false).settle(1, 1, Settlement::Reject).crash(Crash::Kill);
    rejected.drain("q", &[]).drain("dead", &[(1, false)]).passes();
    // It died by itself.
    dead_letter().drain("q", &[]).drain("dead", &[(1, false)]).passes();
}

#[test]
fn a_dead_letter_that_somebody_had_may_be_flagged() {
    let mut rejected = dead_letter();
    rejected.deliver(1, 1, false).settle(1, 1, Settlement::Reject);
    rejected.drain("q", &[]).drain("dead", &[(1, true)]).passes();
    dead_letter().drain("q", &[]).drain("dead", &[(1, true)]).breaks(Rule::Flagged);
}

#[test]
fn a_dead_letter_that_is_in_neither_queue_is_lost() {
    let mut rejected = dead_letter();
    rejected.deliver(1, 1, false).settle(1, 1, Settlement::Reject).crash(Crash::Kill);
    rejected.drain("q", &[]).drain("dead", &[]).breaks(Rule::Lost);
}

#[test]
fn a_dead_letter_that_is_in_both_queues_is_one_too_many() {
    let mut story = dead_letter();
    story.deliver_from("dead", 1, 1, false).deliver(2, 1, false);
    assert_eq!(story.breaks(Rule::Duplicated).counts.duplicated, 1);
    let mut crashed = dead_letter();
    crashed.crash(Crash::Kill).deliver_from("dead", 1, 1, false).deliver(2, 1, false);
    crashed.breaks(Rule::Duplicated);
    let careless = Promises { dead_letters_once: false, ..Promises::leveret() };
    assert!(crashed.verdict(&careless).passed());
}

#[test]
fn counters_are_what_is_there() {
    let counted = |ready| Event::Counted { queue: "q".into(), ready };
    story().confirmed(1..=2).tell(counted(2)).drain("q", &[(1, false), (2, false)]).passes();
    story().confirmed(1..=2).tell(counted(3)).drain("q", &[(1, false), (2, false)]).breaks(Rule::Counted);
}

#[test]
fn a_message_is_held_by_one_consumer_at_a_time() {
    let mut story = story();
    story.confirmed([1]).deliver(1, 1, false).deliver(2, 1, true);
    assert_eq!(story.breaks(Rule::Duplicated).counts.duplicated, 1);
}

#[test]
fn what_a_consumer_held_goes_back_when_it_leaves() {
    let mut story = story();
    story.confirmed([1]).deliver(1, 1, false);
    story.tell(Event::Gone { consumer: 1, queue: "q".into(), unread: false }).deliver(2, 1, true).passes();
}
