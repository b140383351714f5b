//! The SHA-256 midstate ladder (spec §8): how a piece of a file is proved by itself, in any order and on
//! any core, with the file's plain SHA-256 as the only authority.
//!
//! L\[i\] is the big-endian SHA-256 state after `i` full pieces, L\[0\] the IV. The ladder is
//! L\[1..=size / piece_len\]; piece `i` is right iff compressing it from L\[i\] gives L\[i+1\], the tail (or
//! the empty tail) with its padding must give the file's SHA-256. If all links hold, the file's hash
//! holds.
//!
//! The publisher builds it ([`LadderBuilder`]), fetchers prove pieces with it ([`Ladder::check`]). What
//! must stay true: a [`Ladder`] exists only if its bytes hash to the `ladder_sha256` of a [`FileSpec`],
//! and that comes from a signed manifest: a forged state and a piece chosen for it together are easy to
//! make, so the ladder's entries are never believed from a peer alone.
//!
//! Hashing is `sha2`'s `compress256`, which looks at run time for the processor's SHA instructions
//! (SHA-NI on x86, SHA2 on ARMv8) and otherwise computes in plain code; nothing is chosen here.

mod build;
mod chain;
mod check;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use build::LadderBuilder;
use chain::{Chain, STATE_BYTES};
pub use check::PieceCheck;

use crate::{hash::Sha256, limits::LADDER_BYTES_MAX, manifest::ManifestFile};

/// Bytes of one piece: a power of two, 256 KiB to 16 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceLen(u64);

impl PieceLen {
    /// 256 KiB: below it the ladder and the bookkeeping grow for nothing.
    pub const MIN: Self = Self(256 << 10);
    /// 16 MiB: above it a lying peer could waste too much before it is found.
    pub const MAX: Self = Self(16 << 20);
    /// From this size on pieces are 4 MiB (spec §8 by facts: 1 MiB below 16 GB).
    pub const LARGE_FILE_BYTES: u64 = 16_000_000_000;

    /// `bytes` as a piece length, if it is an allowed one.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.0 && bytes <= Self::MAX.0 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// What a publisher takes for a file of `size` bytes: 1 MiB below 16 GB, 4 MiB from there on.
    pub const fn for_size(size: u64) -> Self {
        if size < Self::LARGE_FILE_BYTES {
            Self(1 << 20)
        } else {
            Self(4 << 20)
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// What a signed manifest says about a file's bytes, checked: the only way to it is [`FileSpec::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileSpec {
    sha256: Sha256,
    size: u64,
    piece_len: Option<PieceLen>,
    ladder_sha256: Option<Sha256>,
}

/// Why a file's description or its ladder is refused.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum LadderError {
    /// Not an allowed piece length.
    #[error(
        "piece_len {0} is no power of two from {min} to {max} bytes; publish the file again",
        min = PieceLen::MIN.0,
        max = PieceLen::MAX.0
    )]
    PieceLen(u64),
    /// A ladder without a piece length.
    #[error("ladder_sha256 is given without piece_len; publish the file again")]
    NoPieceLen,
    /// One piece or more, pieces named, but no ladder to prove them.
    #[error(
        "{size} bytes are at least one piece of {piece_len}, but ladder_sha256 is absent; publish the file again"
    )]
    LadderAbsent {
        /// The file's bytes.
        size: u64,
        /// A piece's bytes.
        piece_len: u64,
    },
    /// Below one piece nothing is to be proved by a ladder.
    #[error(
        "{size} bytes are below one piece of {piece_len}, so there is no ladder, but ladder_sha256 is given; publish the file again"
    )]
    LadderPresent {
        /// The file's bytes.
        size: u64,
        /// A piece's bytes.
        piece_len: u64,
    },
    /// More pieces than a node keeps a ladder for.
    #[error(
        "the ladder of {size} bytes would be {bytes} bytes, {LADDER_BYTES_MAX} are allowed; publish with a longer piece"
    )]
    TooLong {
        /// The file's bytes.
        size: u64,
        /// The ladder's.
        bytes: u64,
    },
    /// This file is proved without a ladder.
    #[error("the manifest names no ladder for this file; fetch it as one piece")]
    NotNamed,
    /// This file is proved by a ladder.
    #[error("the manifest names a ladder for this file; fetch the ladder first")]
    Needed,
    /// Cut short, or too long.
    #[error("the ladder is {got} bytes, this file's is {expected}; fetch it from somebody else")]
    Length {
        /// What it must be.
        expected: u64,
        /// What it is.
        got: u64,
    },
    /// Not the manifest's ladder.
    #[error(
        "the ladder hashes to {got}, the manifest says {expected}; fetch it from somebody else"
    )]
    Forged {
        /// The manifest's.
        expected: Sha256,
        /// That of the bytes at hand.
        got: Sha256,
    },
    /// The manifest contradicts itself: the states it names do not end in the digest it names.
    #[error(
        "the manifest's ladder ends in another file than {expected}; no piece can repair this, publish the file again"
    )]
    WrongEnd {
        /// The manifest's digest of the file.
        expected: Sha256,
    },
}

impl FileSpec {
    /// A file of `size` bytes that hashes to `sha256`; `piece_len` and `ladder_sha256` as the manifest
    /// has them. Both absent is a file of the time before ladders: one piece, whatever its size.
    pub fn new(
        sha256: Sha256,
        size: u64,
        piece_len: Option<u64>,
        ladder_sha256: Option<Sha256>,
    ) -> Result<Self, LadderError> {
        let piece_len = match piece_len {
            None if ladder_sha256.is_some() => return Err(LadderError::NoPieceLen),
            None => None,
            Some(bytes) => Some(PieceLen::new(bytes).ok_or(LadderError::PieceLen(bytes))?),
        };
        if let Some(PieceLen(piece_len)) = piece_len {
            match ladder_sha256 {
                None if size >= piece_len => {
                    return Err(LadderError::LadderAbsent { size, piece_len });
                }
                Some(_) if size < piece_len => {
                    return Err(LadderError::LadderPresent { size, piece_len });
                }
                _ => {}
            }
            let bytes = (size / piece_len).saturating_mul(STATE_BYTES as u64);
            if bytes > LADDER_BYTES_MAX {
                return Err(LadderError::TooLong { size, bytes });
            }
        }
        Ok(Self {
            sha256,
            size,
            piece_len,
            ladder_sha256,
        })
    }

    /// A manifest's file.
    pub fn of(file: &ManifestFile) -> Result<Self, LadderError> {
        Self::new(file.sha256, file.size, file.piece_len, file.ladder_sha256)
    }

    /// Of the whole file: its name everywhere.
    pub const fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// Bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a piece, if the manifest has been made with ladders.
    pub const fn piece_len(&self) -> Option<PieceLen> {
        self.piece_len
    }

    /// The hash of the ladder, by which it is asked for; `None`: the file is one piece.
    pub const fn ladder_sha256(&self) -> Option<Sha256> {
        self.ladder_sha256
    }

    /// Exact bytes of the ladder; 0 without one.
    pub fn ladder_bytes(&self) -> u64 {
        match (self.piece_len, self.ladder_sha256) {
            (Some(piece_len), Some(_)) => self.size / piece_len.0 * STATE_BYTES as u64,
            _ => 0,
        }
    }
}

/// A file's proven ladder: pieces are checked against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    spec: FileSpec,
    /// L\[1..\], 32 bytes each; empty for a file of one piece.
    states: Box<[u8]>,
}

impl Ladder {
    /// Takes `bytes` as the ladder of `spec` if they are: exact length, hash, and (for a size that is a
    /// multiple of the piece) the empty tail.
    pub fn parse(spec: FileSpec, bytes: Vec<u8>) -> Result<Self, LadderError> {
        let expected = spec.ladder_sha256.ok_or(LadderError::NotNamed)?;
        let (length, got) = (spec.ladder_bytes(), bytes.len() as u64);
        if length != got {
            return Err(LadderError::Length {
                expected: length,
                got,
            });
        }
        let got = Sha256::of(&bytes);
        if got != expected {
            return Err(LadderError::Forged { expected, got });
        }
        let ladder = Self {
            spec,
            states: bytes.into(),
        };
        ladder.ends_right()?;
        Ok(ladder)
    }

    /// The ladder of a file that has none: the whole file is the one piece, proved by its plain SHA-256.
    pub fn none(spec: FileSpec) -> Result<Self, LadderError> {
        if spec.ladder_sha256.is_some() {
            return Err(LadderError::Needed);
        }
        let ladder = Self {
            spec,
            states: Box::default(),
        };
        ladder.ends_right()?;
        Ok(ladder)
    }

    /// If the last piece ends where the file ends, only padding follows: checked here once, for no
    /// piece will.
    fn ends_right(&self) -> Result<(), LadderError> {
        let rest = match self.spec.piece_len {
            Some(piece_len) if !self.states.is_empty() => self.spec.size % piece_len.0,
            _ => self.spec.size,
        };
        let last = self.states.len() / STATE_BYTES;
        if rest == 0 && Chain::from(self.state(last)).digest(self.spec.size) != self.spec.sha256 {
            return Err(LadderError::WrongEnd {
                expected: self.spec.sha256,
            });
        }
        Ok(())
    }

    /// What the manifest says.
    pub const fn spec(&self) -> &FileSpec {
        &self.spec
    }

    /// Pieces of the file, the shorter last one counted; 0 for an empty file.
    pub fn pieces(&self) -> u32 {
        // LADDER_BYTES_MAX keeps this far below 2^32.
        self.spec.size.div_ceil(self.piece_len().max(1)) as u32
    }

    /// Bytes of every piece but the last: the piece length, or the whole file if there is no ladder.
    pub fn piece_len(&self) -> u64 {
        match self.spec.piece_len {
            Some(piece_len) if !self.states.is_empty() => piece_len.0,
            _ => self.spec.size,
        }
    }

    /// Which bytes of the file piece `piece` is.
    ///
    /// # Panics
    /// If the file has no such piece.
    pub fn range(&self, piece: u32) -> Range<u64> {
        assert!(piece < self.pieces(), "a piece beyond the file");
        let start = u64::from(piece) * self.piece_len();
        start..(start + self.piece_len()).min(self.spec.size)
    }

    /// Begins to check a piece, whose bytes are then given in order.
    ///
    /// # Panics
    /// If the file has no such piece.
    pub fn check(&self, piece: u32) -> PieceCheck {
        let range = self.range(piece);
        let next = piece as usize + 1;
        let chain = Chain::from(self.state(next - 1));
        let bytes = range.end - range.start;
        if next * STATE_BYTES <= self.states.len() {
            PieceCheck::link(chain, bytes, self.state(next))
        } else {
            PieceCheck::tail(chain, bytes, self.spec.size, self.spec.sha256)
        }
    }

    /// Whether `bytes` are piece `piece`.
    ///
    /// # Panics
    /// If the file has no such piece.
    pub fn check_whole(&self, piece: u32, bytes: &[u8]) -> bool {
        let mut check = self.check(piece);
        check.update(bytes);
        check.finish()
    }

    /// As it is published: L\[1\], L\[2\], … without anything between.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.states.to_vec()
    }

    /// L\[i\]; L\[0\] is the IV.
    fn state(&self, i: usize) -> [u8; STATE_BYTES] {
        match i.checked_sub(1) {
            None => chain::IV,
            Some(at) => self.states[at * STATE_BYTES..][..STATE_BYTES]
                .try_into()
                .expect("a slice of that length"),
        }
    }
}
