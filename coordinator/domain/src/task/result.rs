//! Which result counts.

use owm_proto::{Sha256, UnixMillis};

use super::{Attempt, Next, Outcome, Phase, Task};
use crate::check::Fault;

/// A result whose envelope holds and is signed by the attempt's node.
#[derive(Clone, Debug)]
pub struct GivenResult {
    /// SHA-256 of its exact payload bytes.
    pub hash: Sha256,
    /// What level 0 says of it.
    pub checked: Result<(), Fault>,
}

/// Why a result does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// No commit came first or with it.
    #[error("the result came without a commit; send owm/commit/v1 first")]
    NotCommitted,
    /// The commit came too late.
    #[error("the lease was over when the result was committed")]
    LeaseWasOver,
    /// The commit is for other bytes.
    #[error("the commit is for another result; the first commit of a lease stands")]
    NotWhatWasCommitted,
    /// The lease had a result, which was decided on.
    #[error("this lease had another result already")]
    SecondResult,
    /// It is not what was asked for.
    #[error(transparent)]
    Invalid(#[from] Fault),
}

/// What a result means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResultDecision {
    /// The first valid one: book the reward, answer the user, cancel every other live attempt.
    First {
        /// The task to store.
        task: Task,
        /// The attempt to store.
        attempt: Attempt,
    },
    /// Valid and on time, but the task has ended: book the late share.
    Late {
        /// The attempt to store.
        attempt: Attempt,
    },
    /// This very result was decided on before: answer as then, book nothing.
    Duplicate {
        /// As what.
        outcome: Outcome,
    },
    /// It does not count.
    Rejected {
        /// Why; for the node.
        reason: RejectReason,
        /// What to store, if it changes anything: the attempt ended, and where it was the live lease,
        /// the task and what became of it.
        ended: Option<(Attempt, Option<(Task, Next)>)>,
    },
}

/// Decides on a result. `attempt` carries its commit already (see [`Attempt::commit`]).
pub fn decide_result(
    task: &Task,
    attempt: &Attempt,
    given: &GivenResult,
    now: UnixMillis,
) -> ResultDecision {
    if let (Some(decided), Some(ended)) = (attempt.result, attempt.ended) {
        return if decided == given.hash {
            ResultDecision::Duplicate {
                outcome: ended.outcome,
            }
        } else {
            ResultDecision::Rejected {
                reason: RejectReason::SecondResult,
                ended: None,
            }
        };
    }
    let refused = |reason| ResultDecision::Rejected {
        reason,
        ended: None,
    };
    let Some(commit) = attempt.commit else {
        return refused(RejectReason::NotCommitted);
    };
    if commit.result != given.hash {
        return refused(RejectReason::NotWhatWasCommitted);
    }
    if !commit.on_time {
        return refused(RejectReason::LeaseWasOver);
    }
    let settled = |outcome| Attempt {
        result: Some(given.hash),
        ..attempt.ended(outcome, ended_at(attempt, now))
    };
    if let Err(fault) = &given.checked {
        let then = task.is_live(attempt).then(|| task.after_lease(now, false));
        let ended = Some((settled(Outcome::Rejected), then));
        return ResultDecision::Rejected {
            reason: RejectReason::Invalid(fault.clone()),
            ended,
        };
    }
    if task.phase.is_final() {
        return ResultDecision::Late {
            attempt: settled(Outcome::Late),
        };
    }
    let phase = Phase::Done {
        winner: attempt.node,
        epoch: attempt.epoch,
    };
    ResultDecision::First {
        task: Task {
            phase,
            ..task.clone()
        },
        attempt: settled(Outcome::Accepted),
    }
}

/// A lease that had ended keeps its end; what changes is the outcome.
fn ended_at(attempt: &Attempt, now: UnixMillis) -> UnixMillis {
    attempt.ended.map_or(now, |ended| ended.at)
}
