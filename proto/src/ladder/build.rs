//! The publisher's side: one pass over the file gives its SHA-256 and its ladder.

use std::fmt;

use super::{
    FileSpec, Ladder, LadderError, PieceLen,
    chain::{self, Chain, STATE_BYTES},
};
use crate::hash::Sha256;

/// Hashes a file and notes the state after each full piece.
#[derive(Clone)]
pub struct LadderBuilder {
    piece_len: PieceLen,
    /// The piece length is chosen at the end, when the size is known.
    is_by_size: bool,
    chain: Chain,
    size: u64,
    states: Vec<u8>,
}

impl LadderBuilder {
    /// Begins a file that is cut into pieces of `piece_len`.
    pub fn new(piece_len: PieceLen) -> Self {
        Self {
            piece_len,
            is_by_size: false,
            chain: Chain::from(chain::IV),
            size: 0,
            states: Vec::new(),
        }
    }

    /// Begins a file whose size is not known yet; its pieces will be of [`PieceLen::for_size`].
    pub fn by_size() -> Self {
        Self {
            is_by_size: true,
            ..Self::new(PieceLen::for_size(0))
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
    pub fn finish(mut self) -> Result<Ladder, LadderError> {
        if self.is_by_size {
            self.lengthen(PieceLen::for_size(self.size));
        }
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

    /// Keeps only the states after each longer piece.
    fn lengthen(&mut self, longer: PieceLen) {
        let every = (longer.bytes() / self.piece_len.bytes()).max(1) as usize;
        let (states, _) = self.states.as_chunks::<STATE_BYTES>();
        let kept = states.iter().skip(every - 1).step_by(every);
        self.states = kept.flatten().copied().collect();
        self.piece_len = longer;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_pieces_keep_the_states_that_they_share() {
        let bytes: Vec<u8> = (0..(9_u32 << 18) + 5).map(|n| (n >> 3) as u8).collect();
        let built = |piece_len: u64, longer: Option<u64>| {
            let mut builder = LadderBuilder::new(PieceLen::new(piece_len).unwrap());
            builder.update(&bytes);
            if let Some(longer) = longer {
                builder.lengthen(PieceLen::new(longer).unwrap());
            }
            builder.finish().unwrap()
        };
        assert_eq!(built(1 << 18, Some(1 << 20)), built(1 << 20, None));
        assert_eq!(built(1 << 18, Some(1 << 18)), built(1 << 18, None));
        let mut builder = LadderBuilder::by_size();
        builder.update(&bytes);
        assert_eq!(builder.finish().unwrap(), built(1 << 20, None));
    }
}
