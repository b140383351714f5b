//! The life of a task: leased, committed, answered, handed back, lost (spec §9). Called by dispatcher,
//! RPC handlers and the lease reconciler inside the transaction that has the task's row locked; what
//! these functions return is what that transaction writes.
//!
//! Two things are followed: the [`Task`], and each [`Attempt`] at it. They are tied by the epoch. The
//! rule that must stay true: *the first valid result wins, whatever its epoch, if its lease was live
//! when it was committed.*

mod attempt;
mod chunk;
mod result;

use std::time::Duration;

use owm_proto::{NodeId, UnixMillis};

pub use attempt::{Attempt, Commit, CommitDecision, Ended};
pub use chunk::{ChunkDecision, ChunkFault, Delivered, GivenChunk, decide_chunk};
pub use result::{GivenResult, RejectReason, ResultDecision, decide_result};

use crate::stored::stored_enum;

/// Attempts at one task, each on another node (spec §9); `tasks.max_attempts` may be lower.
pub const ATTEMPTS_MAX: u16 = 3;

/// Leases of one task, hand-backs before any work included: it doesn't wander for ever.
pub const LEASES_MAX: u64 = 16;

/// How long an on-time commit waits for its bytes after the lease's end, before another node starts.
pub const COMMIT_GRACE: Duration = Duration::from_secs(10);

/// Silence of all coordinators that counts as an outage; they say they are alive every second.
pub const OUTAGE_MIN: Duration = Duration::from_secs(5);

stored_enum! {
    /// Why a task failed (`tasks.failure_code`, and the API's error).
    FailureCode, "failure code" {
        /// Nobody finished in time. The founding status is then `timeout`.
        Timeout = "timeout",
        /// All attempts were used up.
        AttemptsExhausted = "attempts_exhausted",
        /// No node could: prompt too long, bad parameters.
        InputRefused = "input_refused",
    }
}

stored_enum! {
    /// Why a node gives a lease back.
    HandBackReason, "hand-back reason" {
        /// It stops.
        ShuttingDown = "shutting_down",
        /// Wrong model, wrong type, over a cap.
        CannotDo = "cannot_do",
        /// It tried and failed.
        Failed = "failed",
        /// No node could.
        InputRefused = "input_refused",
    }
}

impl HandBackReason {
    /// From the wire's number; `None` for unspecified or unknown.
    pub fn from_wire(reason: i32) -> Option<Self> {
        use owm_proto::wire::coordinator::HandBackReason as Wire;
        match Wire::try_from(reason).ok()? {
            Wire::Unspecified => None,
            Wire::ShuttingDown => Some(Self::ShuttingDown),
            Wire::CannotDo => Some(Self::CannotDo),
            Wire::Failed => Some(Self::Failed),
            Wire::InputRefused => Some(Self::InputRefused),
        }
    }

    /// What is believed of it: an input whose answer has begun (`delivered`) was taken by a node, so a
    /// node that refuses it has failed, and another tries.
    #[must_use]
    pub fn believed(self, delivered: bool) -> Self {
        match self {
            Self::InputRefused if delivered => Self::Failed,
            other => other,
        }
    }
}

stored_enum! {
    /// How an attempt ended (`task_attempts.outcome`).
    Outcome, "outcome" {
        /// The first valid result.
        Accepted = "accepted",
        /// On time, but another was first.
        Late = "late",
        /// Not valid.
        Rejected = "rejected",
        /// The lease ran out.
        Expired = "expired",
        /// The node's session is gone.
        Lost = "lost",
        /// The node gave it back.
        HandedBack = "handed_back",
        /// Another attempt won, or nobody wants it any more.
        Cancelled = "cancelled",
    }
}

/// Where a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waits for a node.
    Queued,
    /// Held by a node, under the task's newest epoch.
    Leased {
        /// By whom.
        node: NodeId,
        /// Until when.
        expires_at: UnixMillis,
    },
    /// Answered.
    Done {
        /// By whom.
        winner: NodeId,
        /// Under which lease.
        epoch: u64,
    },
    /// Given up.
    Failed {
        /// Why.
        code: FailureCode,
    },
    /// Nobody wants it any more.
    Cancelled,
}

impl Phase {
    /// `tasks.phase`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Leased { .. } => "leased",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing changes any more.
    pub const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Done { .. } | Self::Failed { .. } | Self::Cancelled
        )
    }
}

/// A task as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Where it is.
    pub phase: Phase,
    /// Of the newest lease; 0 before the first.
    pub epoch: u64,
    /// Leases that count against `max_attempts`.
    pub attempts: u16,
    /// At most [`ATTEMPTS_MAX`].
    pub max_attempts: u16,
    /// Nodes that don't get it again.
    pub tried: Vec<NodeId>,
    /// Length of a lease.
    pub lease: Duration,
    /// Overall end of patience.
    pub deadline_at: UnixMillis,
}

/// What a task does not allow in its phase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// Only a queued task is leased.
    #[error("the task is {phase}, so it can't be leased; read its row again under the lock")]
    NotQueued {
        /// What it is.
        phase: &'static str,
    },
    /// The node had it already.
    #[error("node {node} had this task already; attempts are on different nodes")]
    AlreadyTried {
        /// Which.
        node: NodeId,
    },
    /// No attempt is left, or its time is over: it should have been failed.
    #[error("no attempt or no time is left; fail the task instead of leasing it")]
    Spent,
    /// The attempt is not the task's live one.
    #[error("epoch {epoch} is not the task's live lease; its fate is decided already")]
    NotLive {
        /// Which attempt.
        epoch: u64,
    },
}

/// What becomes of a task when a lease ends without a winner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Back to the queue.
    Requeued,
    /// Given up; whoever waits is told.
    Failed(FailureCode),
}

impl Task {
    /// Leases it to `node`: the next epoch, an attempt counted, the node remembered.
    pub fn lease(&self, node: NodeId, now: UnixMillis) -> Result<(Self, Attempt), TransitionError> {
        if self.phase != Phase::Queued {
            return Err(TransitionError::NotQueued {
                phase: self.phase.as_str(),
            });
        }
        if self.tried.contains(&node) {
            return Err(TransitionError::AlreadyTried { node });
        }
        if self.verdict(now, false).is_some() {
            return Err(TransitionError::Spent);
        }
        let expires_at = now.after(self.lease).min(self.deadline_at);
        let mut tried = self.tried.clone();
        tried.push(node);
        let epoch = self.epoch.saturating_add(1);
        let task = Self {
            phase: Phase::Leased { node, expires_at },
            epoch,
            attempts: self.attempts.saturating_add(1),
            tried,
            ..self.clone()
        };
        Ok((
            task,
            Attempt {
                epoch,
                node,
                leased_at: now,
                expires_at,
                commit: None,
                ended: None,
                result: None,
            },
        ))
    }

    /// Whether `attempt` is the live lease of this task.
    pub fn is_live(&self, attempt: &Attempt) -> bool {
        self.epoch == attempt.epoch && matches!(self.phase, Phase::Leased { .. })
    }

    /// The lease ran out. `None`: not yet — the time is not over, or an on-time commit still has its
    /// grace for the bytes.
    pub fn expire(
        &self,
        attempt: &Attempt,
        now: UnixMillis,
    ) -> Result<Option<(Self, Next)>, TransitionError> {
        self.live(attempt)?;
        let end = match &attempt.commit {
            Some(commit) if commit.on_time => attempt.expires_at.after(COMMIT_GRACE),
            _ => attempt.expires_at,
        };
        Ok((now > end).then(|| self.after_lease(now, true)))
    }

    /// The node's session is gone ([`Outcome::Lost`]), or a chunk's fault ends the lease
    /// ([`Outcome::Rejected`]). What was committed on time still counts when it comes.
    pub fn lose(
        &self,
        attempt: &Attempt,
        now: UnixMillis,
    ) -> Result<(Self, Next), TransitionError> {
        self.live(attempt)?;
        Ok(self.after_lease(now, false))
    }

    /// The node gives it back. Before any work (`ShuttingDown`, `CannotDo`) that is no attempt; a node
    /// that only stops may have it again later: offer it none until it has come back.
    pub fn hand_back(
        &self,
        attempt: &Attempt,
        reason: HandBackReason,
        now: UnixMillis,
    ) -> Result<(Self, Next), TransitionError> {
        self.live(attempt)?;
        let mut task = self.clone();
        match reason {
            HandBackReason::Failed => {}
            HandBackReason::CannotDo => task.attempts = task.attempts.saturating_sub(1),
            HandBackReason::ShuttingDown => {
                task.attempts = task.attempts.saturating_sub(1);
                task.tried.retain(|node| *node != attempt.node);
            }
            HandBackReason::InputRefused => {
                let code = FailureCode::InputRefused;
                task.phase = Phase::Failed { code };
                return Ok((task, Next::Failed(code)));
            }
        }
        Ok(task.after_lease(now, false))
    }

    /// Whoever asked is gone, or the work is moot. `None`: it has ended already.
    pub fn cancel(&self) -> Option<Self> {
        (!self.phase.is_final()).then(|| Self {
            phase: Phase::Cancelled,
            ..self.clone()
        })
    }

    /// A queued task whose patience is over. `None`: it may still wait.
    pub fn time_out(&self, now: UnixMillis) -> Option<(Self, FailureCode)> {
        let code = self
            .verdict(now, true)
            .filter(|_| self.phase == Phase::Queued)?;
        Some((
            Self {
                phase: Phase::Failed { code },
                ..self.clone()
            },
            code,
        ))
    }

    /// No coordinator was alive: lease and deadline move by the outage's length. Apply once per outage.
    #[must_use]
    pub fn extended(&self, outage: &Outage) -> Self {
        if self.phase.is_final() || self.deadline_at < outage.from {
            return self.clone();
        }
        let phase = match self.phase {
            Phase::Leased { node, expires_at } => Phase::Leased {
                node,
                expires_at: outage.moved(expires_at),
            },
            other => other,
        };
        Self {
            phase,
            deadline_at: outage.moved(self.deadline_at),
            ..self.clone()
        }
    }

    fn live(&self, attempt: &Attempt) -> Result<(), TransitionError> {
        if self.is_live(attempt) {
            Ok(())
        } else {
            Err(TransitionError::NotLive {
                epoch: attempt.epoch,
            })
        }
    }

    /// Requeues or fails it; `timed` names a failure by running out of time.
    fn after_lease(&self, now: UnixMillis, timed: bool) -> (Self, Next) {
        match self.verdict(now, timed) {
            Some(code) => (
                Self {
                    phase: Phase::Failed { code },
                    ..self.clone()
                },
                Next::Failed(code),
            ),
            None => (
                Self {
                    phase: Phase::Queued,
                    ..self.clone()
                },
                Next::Requeued,
            ),
        }
    }

    /// Why it can't be leased any more.
    fn verdict(&self, now: UnixMillis, timed: bool) -> Option<FailureCode> {
        if now >= self.deadline_at {
            return Some(FailureCode::Timeout);
        }
        let spent =
            self.attempts >= self.max_attempts.min(ATTEMPTS_MAX) || self.epoch >= LEASES_MAX;
        spent.then_some(if timed {
            FailureCode::Timeout
        } else {
            FailureCode::AttemptsExhausted
        })
    }
}

/// A time in which no coordinator was alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Last sign of life of any instance.
    pub from: UnixMillis,
    /// When the first was back.
    pub to: UnixMillis,
}

impl Outage {
    /// The outage that ends at `now`, if all instances were silent for [`OUTAGE_MIN`] or more.
    pub fn ending(last_alive_at: UnixMillis, now: UnixMillis) -> Option<Self> {
        (now.since(last_alive_at) >= OUTAGE_MIN).then_some(Self {
            from: last_alive_at,
            to: now,
        })
    }

    /// How long it was.
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }

    /// An end that was still ahead when the outage began moves by its length; one that had passed
    /// stays.
    pub fn moved(&self, end: UnixMillis) -> UnixMillis {
        if end >= self.from {
            end.after(self.length())
        } else {
            end
        }
    }
}

#[cfg(test)]
mod tests;
