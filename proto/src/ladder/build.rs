//! The publisher's side: one pass over the file gives its SHA-256 and its ladder.

use std::fmt;

use super::{
    FileSpec, Ladder, LadderError, PieceLen,
    chain::{self, Chain},
};
use crate::hash::Sha256;

/// Hashes a file and notes the state after each full piece.
#[derive(Clone)]
pub struct LadderBuilder {
    piece_len: PieceLen,
    chain: Chain,
    size: u64,
    states: Vec<u8>,
}

impl LadderBuilder {
    /// Begins a file that is cut into pieces of `piece_len`.
    pub fn new(piece_len: PieceLen) -> Self {
        Self {
            piece_len,
            chain: Chain::from(chain::IV),
            size: 0,
            states: Vec::new(),
        }
    }

    /// The next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let to_boundary = self.piece_len.bytes() - self.size % self.piece_len.bytes();
            let take = usize::try_from(to_boundary).map_or(bytes.len(), |n| n.min(bytes.len()));
            let (now, later) = bytes.split_at(take);
            self.chain.update(now);
            self.size += now.len() as u64;
            if self.size.is_multiple_of(self.piece_len.bytes()) {
                let state = self
                    .chain
                    .state()
                    .expect("a piece is a multiple of 64 bytes");
                self.states.extend_from_slice(&state);
            }
            bytes = later;
        }
    }

    /// The file's ladder; its [`Ladder::spec`] is what the manifest has to say. Below one piece it is
    /// empty and the manifest names none. Fails if the file has too many pieces ([`LadderError::TooLong`]).
    pub fn finish(self) -> Result<Ladder, LadderError> {
        let ladder_sha256 = (!self.states.is_empty()).then(|| Sha256::of(&self.states));
        let spec = FileSpec::new(
            self.chain.digest(self.size),
            self.size,
            Some(self.piece_len.bytes()),
            ladder_sha256,
        )?;
        Ok(Ladder {
            spec,
            states: self.states.into(),
        })
    }
}

impl fmt::Debug for LadderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LadderBuilder")
            .field("piece_len", &self.piece_len)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
