//! The part of the machine about tasks: which run, until when, what is free, what waits for its
//! acknowledgement. What is taken at all is `taking`'s.

use std::time::Duration;

use owm_proto::{Role, wire::coordinator::HandBackReason};

use super::{ACK_WAIT, Effect, Ending, Session};
use crate::tasklog::LeaseKey;

/// A task under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    role: Role,
    /// Monotonic.
    pub(super) deadline: Duration,
    broken: Option<Broken>,
}

/// Why a task is being broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Cancelled,
    OutOfTime,
    ShuttingDown,
}

/// A result that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    submit_at: Duration,
    submitting: bool,
}

impl Waiting {
    /// To be handed in at `at`.
    pub(super) fn due_at(at: Duration) -> Self {
        Self {
            submit_at: at,
            submitting: false,
        }
    }

    /// To be handed in now, unless that is under way.
    pub(super) fn due(&mut self, now: Duration) {
        self.submit_at = self.submit_at.min(now);
    }
}

impl Session {
    /// Slots of a role that nobody uses and nobody has been offered.
    pub(super) fn free(&self, role: Role) -> u32 {
        let offered = self.outstanding.get(&role).copied().unwrap_or(0);
        let left = self.slots(role).saturating_sub(self.used(role));
        left.saturating_sub(offered)
    }

    fn slots(&self, role: Role) -> u32 {
        self.settings.slots.get(&role).copied().unwrap_or(0)
    }

    fn used(&self, role: Role) -> u32 {
        let used = self.running.values().filter(|task| task.role == role);
        u32::try_from(used.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn offer_what_is_free(&mut self, effects: &mut Vec<Effect>) {
        let roles: Vec<Role> = self.settings.slots.keys().copied().collect();
        for role in roles {
            let credits = self.free(role);
            if self.may_offer(role) && credits > 0 && !self.over {
                *self.outstanding.entry(role).or_default() += credits;
                effects.push(Effect::Offer {
                    role,
                    credits,
                    sha256: self.weights.clone(),
                });
            }
        }
    }

    /// What is loaded, without a slot.
    pub(super) fn weights_alone(&self) -> Effect {
        Effect::Offer {
            role: Role::Infer,
            credits: 0,
            sha256: self.weights.clone(),
        }
    }

    pub(super) fn on_lease(
        &mut self,
        now: Duration,
        key: LeaseKey,
        (role, time): (Role, Duration),
        effects: &mut Vec<Effect>,
    ) {
        if self.running.contains_key(&key) {
            return;
        }
        if let Some(waiting) = self.unacked.get_mut(&key) {
            waiting.due(now);
            return;
        }
        // A newer attempt at a task that still runs here: the older one has lost its lease.
        let older = self
            .running()
            .find(|other| other.task == key.task && other.epoch < key.epoch);
        if let Some(older) = older {
            self.break_for(older, Broken::Cancelled, effects);
        }
        if let Some(offered) = self.outstanding.get_mut(&role) {
            *offered = offered.saturating_sub(1);
        }
        let no_slot = || match self.slots(role) {
            0 => {
                let text = format!("this node has no slot for {role} tasks");
                Some((HandBackReason::CannotDo, text))
            }
            slots if self.used(role) >= slots => {
                Some((HandBackReason::CannotDo, "no slot is free".to_owned()))
            }
            _ => None,
        };
        let nothing = self.why_nothing_is_taken();
        let nothing = nothing.map(|(reason, message)| (reason, message.to_owned()));
        if let Some((reason, message)) = nothing.or_else(no_slot) {
            effects.push(Effect::HandBack {
                key,
                reason,
                message,
            });
        } else {
            self.running.insert(
                key,
                Running {
                    role,
                    deadline: now + time,
                    broken: None,
                },
            );
            effects.push(Effect::Run(key));
        }
    }

    pub(super) fn on_cancel(&mut self, cancelled: LeaseKey, effects: &mut Vec<Effect>) {
        let is_meant = |key: &LeaseKey| {
            key.task == cancelled.task && [0, key.epoch].contains(&cancelled.epoch)
        };
        for key in self.running().filter(is_meant).collect::<Vec<_>>() {
            self.break_for(key, Broken::Cancelled, effects);
        }
    }

    pub(super) fn break_for(&mut self, key: LeaseKey, why: Broken, effects: &mut Vec<Effect>) {
        if let Some(task) = self.running.get_mut(&key)
            && task.broken.is_none()
        {
            task.broken = Some(why);
            effects.push(Effect::Break(key));
        }
    }

    pub(super) fn on_ended(
        &mut self,
        now: Duration,
        key: LeaseKey,
        ending: Ending,
        effects: &mut Vec<Effect>,
    ) {
        let Some(task) = self.running.remove(&key) else {
            return;
        };
        let hand_back = |reason, message: &str| Effect::HandBack {
            key,
            reason,
            message: message.into(),
        };
        match (ending, task.broken) {
            (Ending::Result, _) => {
                // Also after a cancel: it is in the log, and the coordinator decides what it is worth.
                let linked = self.is_linked();
                let wait = if linked { ACK_WAIT } else { Duration::ZERO };
                self.unacked.insert(key, Waiting::due_at(now + wait));
                if linked {
                    effects.push(Effect::SendResult(key));
                }
            }
            (Ending::ResultWithBytes, _) => {
                self.unacked.insert(key, Waiting::due_at(now));
            }
            (_, Some(Broken::ShuttingDown)) => effects.push(hand_back(
                HandBackReason::ShuttingDown,
                "this node is stopping and could not finish in time",
            )),
            (_, Some(Broken::OutOfTime)) => {
                effects.push(hand_back(
                    HandBackReason::Failed,
                    "the lease's time is over",
                ));
            }
            (_, Some(Broken::Cancelled)) | (Ending::Stopped, None) => {}
            (Ending::HandBack { reason, message }, None) => {
                effects.push(Effect::HandBack {
                    key,
                    reason,
                    message,
                });
            }
        }
    }

    pub(super) fn on_submit_failed(&mut self, now: Duration, key: LeaseKey) {
        let wait = self.reconnect.next(&mut self.rng);
        if let Some(waiting) = self.unacked.get_mut(&key) {
            *waiting = Waiting::due_at(now + wait);
        }
    }

    /// Leases whose time is over; it stands still while there is no link.
    pub(super) fn watch_leases(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !self.is_linked() {
            return;
        }
        let late: Vec<_> = self
            .running
            .iter()
            .filter(|(_, t)| now >= t.deadline)
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            self.break_for(key, Broken::OutOfTime, effects);
        }
    }

    /// Results whose acknowledgement is overdue.
    pub(super) fn hand_in(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !self.is_linked() {
            return;
        }
        for (key, waiting) in &mut self.unacked {
            if now >= waiting.submit_at && !waiting.submitting {
                waiting.submitting = true;
                effects.push(Effect::Submit(*key));
            }
        }
    }
}
