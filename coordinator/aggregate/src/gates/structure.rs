//! Structure: whether the bytes are an update of this round at all. Run when they come in, before they are spooled. The
//! only gate whose findings are faults by themselves (spec §10.9): they depend on nothing but signed bytes and what was
//! published.

use owm_proto::{PublicKey, Sha256};
use owm_update::{Origin, Published, Summary, Update, UpdateError};

/// What the lease and the commit of one node say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Who signed the commit.
    pub node: PublicKey,
    /// The hash that was signed.
    pub committed: Sha256,
    /// Optimiser steps of the lease.
    pub steps: u32,
    /// Samples that so many steps can have seen.
    pub samples_max: u64,
}

/// Why bytes are no update of the round.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StructureFault {
    /// Other bytes than those committed to: sent wrong, or somebody else's. Nobody has signed them, so it is no fault
    /// of the committer.
    #[error(
        "the bytes hash to {got}, the commit says {committed}; send those that were committed to"
    )]
    Uncommitted {
        /// By the commit.
        committed: Sha256,
        /// Of the bytes.
        got: Sha256,
    },
    /// Not canonical, not of this round, or too long.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// Under another key than the commit's.
    #[error(
        "the update names the node {named}, {signer} has committed to it; sign what this node has made"
    )]
    Node {
        /// By the header.
        named: PublicKey,
        /// Who signed.
        signer: PublicKey,
    },
    /// More steps or samples than were leased, or none.
    #[error("the update counts {got} {what}, the lease allows 1 to {most}; count what was trained")]
    Count {
        /// Steps or samples.
        what: &'static str,
        /// By the header.
        got: u64,
        /// By the lease.
        most: u64,
    },
}

impl StructureFault {
    /// Whether signed bytes alone prove it.
    pub const fn is_provable(&self) -> bool {
        !matches!(self, Self::Uncommitted { .. })
    }
}

/// Checks an update's bytes; what it gives goes into the round's record.
pub fn check(
    bytes: &[u8],
    published: &Published,
    given: &Given,
) -> Result<Summary, StructureFault> {
    let got = Sha256::of(bytes);
    if got != given.committed {
        return Err(StructureFault::Uncommitted {
            committed: given.committed,
            got,
        });
    }
    let update = Update::parse(bytes)?;
    let summary = update.verify(published)?;
    if let Origin::Node {
        node,
        samples,
        steps,
        ..
    } = update.header().subject.origin
    {
        if node != given.node {
            return Err(StructureFault::Node {
                named: node,
                signer: given.node,
            });
        }
        within("steps", u64::from(steps), u64::from(given.steps))?;
        within("samples", samples, given.samples_max)?;
    }
    Ok(summary)
}

fn within(what: &'static str, got: u64, most: u64) -> Result<(), StructureFault> {
    if (1..=most).contains(&got) {
        Ok(())
    } else {
        Err(StructureFault::Count { what, got, most })
    }
}
