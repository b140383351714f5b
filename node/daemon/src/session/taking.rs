//! The part of the machine about taking work at all: the operator's hours, pausing, draining, stopping.
//! Must stay true: when it stops taking work, the coordinator is told at once; a drained node leaves no
//! result behind while it has time.

use std::time::Duration;

use owm_proto::{Role, wire::coordinator::HandBackReason};

use super::{Effect, FLUSH_TIME, Over, Session, leases::Broken};

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    /// What still runs then is broken off and handed back.
    until: Duration,
    /// It waits for its results' acknowledgements also while there is no link.
    pub(super) patient: bool,
}

impl Session {
    pub(super) fn may_offer(&self, role: Role) -> bool {
        let takes_work = self.why_nothing_is_taken().is_none();
        // Answers come from the loaded model; a candidate is loaded beside it, or without one.
        let has_model = role != Role::Infer || !self.weights.is_empty();
        self.is_linked() && takes_work && has_model
    }

    /// What a lease is handed back with, whatever it is.
    pub(super) fn why_nothing_is_taken(&self) -> Option<(HandBackReason, &'static str)> {
        if self.leaving.is_some() {
            Some((HandBackReason::ShuttingDown, "this node is stopping"))
        } else if self.paused {
            // Its work goes to others and is no attempt; the coordinator offers it none until it is back.
            Some((HandBackReason::ShuttingDown, "this node is paused"))
        } else if !self.open {
            Some((HandBackReason::CannotDo, "outside the operator's hours"))
        } else {
            None
        }
    }

    /// Changes what decides whether work is taken; offered slots are taken back when none is any more.
    pub(super) fn change_taking(
        &mut self,
        effects: &mut Vec<Effect>,
        change: impl FnOnce(&mut Self),
    ) {
        let roles: Vec<Role> = self.settings.slots.keys().copied().collect();
        let could: Vec<Role> = roles
            .into_iter()
            .filter(|role| self.may_offer(*role))
            .collect();
        change(self);
        for role in could {
            if !self.may_offer(role) {
                self.outstanding.remove(&role);
                effects.push(Effect::Withdraw { role });
            }
        }
    }

    /// Begins to end, or ends sooner than before; a stop is not slowed down by a drain.
    pub(super) fn leave(
        &mut self,
        now: Duration,
        within: Duration,
        patient: bool,
        effects: &mut Vec<Effect>,
    ) {
        let until = now.saturating_add(within);
        let leaving = match self.leaving {
            Some(leaving) if patient && !leaving.patient => leaving,
            Some(leaving) if !patient => Leaving {
                until: until.min(leaving.until),
                patient,
            },
            _ => Leaving { until, patient },
        };
        self.change_taking(effects, |s| s.leaving = Some(leaving));
    }

    pub(super) fn break_what_is_late(
        &mut self,
        now: Duration,
        leaving: Leaving,
        effects: &mut Vec<Effect>,
    ) {
        if now >= leaving.until {
            for key in self.running().collect::<Vec<_>>() {
                self.break_for(key, Broken::ShuttingDown, effects);
            }
        }
    }

    pub(super) fn end_if_done(
        &mut self,
        now: Duration,
        leaving: Leaving,
        effects: &mut Vec<Effect>,
    ) {
        let flushed = self.unacked.is_empty() || (!leaving.patient && !self.is_linked());
        let in_vain = now >= leaving.until.saturating_add(FLUSH_TIME);
        if (self.running.is_empty() && flushed) || in_vain {
            self.end(Over::Stopped, effects);
        }
    }
}
