//! Why nothing comes of a round's updates: what happened, why, what to do next.

use owm_update::{ApplyError, ResidueError, UpdateError};

/// A spool that cannot be read, or an update in it that is no longer what was verified.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The bytes cannot be had.
    #[error("the spooled update {update} cannot be read; fetch its bytes again")]
    Io {
        /// Which, by its place in the spool.
        update: usize,
        /// What the system says.
        source: std::io::Error,
    },
    /// The bytes are not what they were.
    #[error("the spooled update {update} is not what was verified; fetch its bytes again")]
    Update {
        /// Which, by its place in the spool.
        update: usize,
        /// What is wrong.
        source: UpdateError,
    },
    /// Updates of different sizes in one spool.
    #[error(
        "the spooled update {update} has {got} elements, the first has {expected}; verify before spooling"
    )]
    Elements {
        /// Which, by its place in the spool.
        update: usize,
        /// Of the first.
        expected: u64,
        /// Its own.
        got: u64,
    },
}

/// Why a strategy comes to no decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecideError {
    /// Nobody is there.
    #[error("no update was handed in; abandon the round")]
    Nothing,
    /// Too few for any protection.
    #[error("{0} updates; fewer than 3 are averaged only where the policy says allow_tiny")]
    Tiny(usize),
    /// Below six a reference must tell the direction.
    #[error("{0} updates; below 6 a reference update must be evaluated before aggregating")]
    NoReference(usize),
    /// Every update was rejected.
    #[error("no update passed the gates; abandon the round")]
    AllRejected,
    /// Submissions and statistics are of different rounds.
    #[error(
        "{submissions} submissions, {measured} measured updates; measure the spool of this round"
    )]
    Mismatch {
        /// How many handed in.
        submissions: usize,
        /// How many are in the spool, reference included.
        measured: usize,
    },
    /// No update has any weight.
    #[error("all weights are zero; look at samples, tiers and stake bonuses")]
    NoWeight,
}

/// Why there is no delta.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The strategy.
    #[error(transparent)]
    Decide(#[from] DecideError),
    /// The residue is not of this training.
    #[error(transparent)]
    Residue(#[from] ResidueError),
    /// What was packed cannot be read or its header written.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// The parent does not go with the mode.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The parent's bytes cannot be had.
    #[error("the parent's file cannot be read; fetch it again")]
    Parent(#[source] std::io::Error),
    /// No number comes out.
    #[error("element {0} of the mean or of the next checkpoint is not finite; abandon the round")]
    NotFinite(u64),
}
