//! Looking at messages, and taking one out from wherever it stands, as redriving does.

use super::*;
use crate::queue::log::Held;
use crate::queue::state::browse::Condition;

impl Harness {
    /// Any message is taken out, if it is ready.
    pub(super) fn take_out(&mut self, at: usize) {
        let positions: Vec<u64> = self.model.messages.keys().copied().collect();
        let Some(&position) = positions.get(at % positions.len().max(1)) else { return };
        let known = &self.model.messages[&position];
        let is_ready = matches!(known.fate, Fate::Ready | Fate::Returned) && !known.late;
        assert_eq!(self.state.take_out(position), is_ready, "what is ready, and nothing else, is taken out");
        if is_ready {
            self.model.take_out(position);
        }
    }

    /// What was taken out has moved, or is put back.
    pub(super) fn end_redrive(&mut self, position: u64, refused: bool) {
        let now_ms = self.model.now_ms;
        let mut effects = Effects::default();
        if refused {
            self.state.put_in(position, now_ms, &mut effects);
            self.model.expire();
            self.model.put_in(position);
            self.model.limit();
        } else {
            self.state.settle(None, position..position + 1, now_ms, &mut effects);
            self.model.settle(position);
            self.model.expire();
        }
        let outs = self.effects(effects);
        self.deliver_all(outs);
    }

    /// What is shown is everything that is not settled, where it is and in its order; and from any place on, the rest of it.
    pub(super) fn check_browse(&self) {
        let Self { model, state, .. } = self;
        let mut there: Vec<u64> = model
            .messages
            .iter()
            .filter(|(_, known)| known.fate != Fate::Settled)
            .map(|(position, _)| *position)
            .collect();
        there.sort_by_key(|position| (Reverse(log::level(*position)), *position));
        let all = state.browse(None, usize::MAX);
        assert_eq!(all.iter().map(|seen| seen.position).collect::<Vec<_>>(), there, "all are seen");
        for seen in &all {
            let known = &model.messages[&seen.position];
            let condition = match known.fate {
                Fate::Ready | Fate::Returned => Condition::Ready,
                Fate::Held(_) | Fate::TakenOut => Condition::Unacked,
                Fate::Resting(_) => Condition::Delayed,
                Fate::Dying(_) => Condition::Dying,
                Fate::Settled => unreachable!("it is there"),
            };
            assert_eq!(seen.condition, condition, "message {}", known.number);
            // What died at the head went the way of what is delivered.
            let is_dead = condition == Condition::Dying;
            let flagged = known.out || known.perhaps_out || is_dead || known.tally != Tally::default();
            assert!(!seen.redelivered || flagged, "message {} was never out", known.number);
            if let Held::Memory { run, index } = &seen.held {
                assert_eq!(number(run, *index), known.number, "what is seen is what was published");
            }
        }
        let half = there.len() / 2;
        let rest = |from: Option<u64>, count| -> Vec<u64> {
            state.browse(from, count).iter().map(|seen| seen.position).collect()
        };
        assert_eq!(rest(there.get(half).copied(), usize::MAX), there[if there.is_empty() { 0 } else { half }..]);
        assert_eq!(rest(None, half), there[..half]);
    }
}
