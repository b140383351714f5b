//! What is known of one training's residue: a small file that is written whole at every event. The store reads and
//! writes it.
//! Must stay true: an update is in one of the three places at most.

use std::collections::BTreeSet;

use owm_proto::Sha256;
use serde::{Deserialize, Serialize};

/// Updates that wait for a verdict at most: of an older one none is expected any more.
const OPEN_MAX: usize = 64;
/// Longest book: a hundred hashes and room.
pub(super) const BOOK_BYTES_MAX: u64 = 1 << 20;

/// One training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Book {
    /// The residue that the last committed update has left.
    pub(super) current: Option<Sha256>,
    /// What has been made and may not be committed.
    pub(super) prepared: Option<Prepared>,
    /// Committed, without a verdict; the oldest first.
    pub(super) open: Vec<Sha256>,
    /// Rejected, and in no committed update's residue.
    pub(super) returned: BTreeSet<Sha256>,
}

/// An update that has been made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Prepared {
    /// SHA-256 of its bytes.
    pub(super) update: Sha256,
    /// Of the residue that it leaves.
    pub(super) residue: Sha256,
    /// What came back and was in the residue that went into it.
    pub(super) absorbs: BTreeSet<Sha256>,
}

impl Book {
    /// It is in the task log.
    pub(super) fn commit(&mut self, prepared: Prepared) {
        self.current = Some(prepared.residue);
        self.returned
            .retain(|update| !prepared.absorbs.contains(update));
        self.open.push(prepared.update);
        let old = self.open.len().saturating_sub(OPEN_MAX);
        self.open.drain(..old);
    }

    /// Residues that have to stay on the disk.
    pub(super) fn residues(&self) -> impl Iterator<Item = Sha256> {
        let prepared = self.prepared.as_ref().map(|prepared| prepared.residue);
        self.current.into_iter().chain(prepared)
    }

    /// Updates that have to.
    pub(super) fn updates(&self) -> impl Iterator<Item = Sha256> {
        let prepared = self.prepared.as_ref().map(|prepared| prepared.update);
        let kept = self.open.iter().chain(&self.returned).copied();
        kept.chain(prepared)
    }
}
