//! Standing as a state machine: `pending` → `active` ↔ `degraded` → `suspended`.

use std::time::Duration;

use owm_proto::NodeStatus;

/// How long a degraded node has to restore what it lacks (spec §11).
pub const STAKE_GRACE: Duration = Duration::from_hours(24);

/// What changes standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusEvent {
    /// Everything asked for is there.
    Admitted,
    /// Hardware or stake fell below what is asked for.
    RequirementLost,
    /// [`STAKE_GRACE`] passed while degraded.
    GraceOver,
    /// The operator or a slashing suspends it.
    Suspended,
    /// The operator lifts a suspension.
    Reinstated,
}

/// A change that standing does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node that is {from} can't take {event:?}")]
pub struct TransitionError {
    /// From which status.
    pub from: NodeStatus,
    /// What was asked.
    pub event: StatusEvent,
}

/// The status after `event`.
pub fn next_status(from: NodeStatus, event: StatusEvent) -> Result<NodeStatus, TransitionError> {
    use NodeStatus as S;
    use StatusEvent as E;
    match (from, event) {
        (S::Pending | S::Active | S::Degraded, E::Admitted) => Ok(S::Active),
        (S::Pending, E::RequirementLost) | (S::Suspended, E::Reinstated) => Ok(S::Pending),
        (S::Active | S::Degraded, E::RequirementLost) => Ok(S::Degraded),
        (S::Degraded, E::GraceOver) | (_, E::Suspended) => Ok(S::Suspended),
        _ => Err(TransitionError { from, event }),
    }
}
