//! Federated rounds (spec §10): opened by the command line (`open`), driven by a reconciler (`driver`), which carries out
//! what the pure machine in `domain::round` says. `compute` is the arithmetic over files, `archive` where a round's files
//! lie, `asks` what nodes are asked for, `recall` what they need not do any more,
//! `publish` the version that comes of it, `replay` the same once more, `clean` what
//! a round that is over leaves on the disk.
//! Must stay true: a change of a round is one transaction that holds its row; what comes after a commit may be done
//! twice; nothing is published whose bytes were not measured.

pub mod archive;
mod asks;
mod clean;
pub mod compute;
pub mod config;
pub mod driver;
pub mod open;
mod publish;
mod recall;
pub mod replay;

use owm_aggregate::{AggregateError, SpoolError};
use owm_coordinator_domain::round::Refused;
use owm_coordinator_store::StoreError;
use owm_proto::evaluation::AskError;
use owm_update::layout::LayoutError;
use owm_update::{ApplyError, ResidueError, UpdateError};

use crate::{blobs::BlobError, identity::IdentityError};

/// What holds a round up.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A file of the round.
    #[error("{path} cannot be used: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The arithmetic.
    #[error(transparent)]
    Aggregate(#[from] AggregateError),
    /// The candidate cannot be made.
    #[error("the next checkpoint cannot be made: {0}")]
    Apply(#[from] ApplyError),
    /// The parent's file.
    #[error("the parent's weights: {0}")]
    Layout(#[from] LayoutError),
    /// The delta that was just made.
    #[error("the delta does not read back: {0}")]
    Update(#[from] UpdateError),
    /// The archived residue.
    #[error("the server's residue: {0}")]
    Residue(#[from] ResidueError),
    /// What would be asked of nodes.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// What a row holds.
    #[error("the round's record does not read: {0}")]
    Record(#[from] serde_json::Error),
    /// The machine.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The release key.
    #[error(
        "the release key is not here, so the accepted candidate waits: run one coordinator with release.pem ({0})"
    )]
    Key(IdentityError),
    /// Anything that a person has to look at.
    #[error("{0}")]
    Other(String),
}

impl From<SpoolError> for RoundError {
    fn from(error: SpoolError) -> Self {
        Self::Aggregate(error.into())
    }
}
