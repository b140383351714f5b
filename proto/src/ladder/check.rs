//! The check of one piece while its bytes come in, in order, in parts of any length.

use std::fmt;

use super::chain::{Chain, STATE_BYTES};
use crate::hash::Sha256;

/// One piece under examination. Made by [`super::Ladder::check`].
#[derive(Clone)]
pub struct PieceCheck {
    chain: Chain,
    /// Bytes still to come; `None`: more came than the piece has.
    missing: Option<u64>,
    end: End,
}

/// What the piece must lead to.
#[derive(Clone)]
enum End {
    /// The next state of the ladder.
    Link([u8; STATE_BYTES]),
    /// The digest of the file, of this size.
    Tail { size: u64, sha256: Sha256 },
}

impl PieceCheck {
    pub(super) fn link(chain: Chain, bytes: u64, next: [u8; STATE_BYTES]) -> Self {
        Self {
            chain,
            missing: Some(bytes),
            end: End::Link(next),
        }
    }

    pub(super) fn tail(chain: Chain, bytes: u64, size: u64, sha256: Sha256) -> Self {
        Self {
            chain,
            missing: Some(bytes),
            end: End::Tail { size, sha256 },
        }
    }

    /// The next bytes of the piece. Bytes beyond its end are not hashed; the piece is wrong then.
    pub fn update(&mut self, bytes: &[u8]) {
        self.missing = self
            .missing
            .and_then(|missing| missing.checked_sub(bytes.len() as u64));
        if self.missing.is_some() {
            self.chain.update(bytes);
        }
    }

    /// Bytes that are still to come.
    pub fn missing(&self) -> u64 {
        self.missing.unwrap_or(0)
    }

    /// Whether exactly the piece's bytes came.
    #[must_use]
    pub fn finish(self) -> bool {
        self.missing == Some(0)
            && match self.end {
                End::Link(next) => self.chain.state() == Some(next),
                End::Tail { size, sha256 } => self.chain.digest(size) == sha256,
            }
    }
}

impl fmt::Debug for PieceCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PieceCheck")
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}
