//! What two peers say on a stream of the exchange: who has opened it asks, the other answers in order. A request is
//! [`REQUEST_BYTES`] bytes, an answer [`ANSWER_BYTES`] and then as many bytes as it says; all integers big-endian.
//! Bulk goes one way on a stream, from who answers to who asks; to cancel, the stream is dropped.
//!
//! Pure, and bounded: every length that comes from outside is held against what was asked before anything is
//! allocated. Used by [`super::serve`] and the fetching side; `tests/fuzz` throws bytes at it.

use owm_proto::{Sha256, limits::LADDER_BYTES_MAX};

use super::PieceSet;

/// Bytes of every request: kind, 3 × 0, id, file, offset, length.
pub const REQUEST_BYTES: usize = 1 + 3 + 4 + 32 + 8 + 4;

/// Bytes of every answer's head: status, 3 × 0, id, milliseconds, length.
pub const ANSWER_BYTES: usize = 1 + 3 + 4 + 4 + 4;

/// Bytes of one range at most. With less, headers and wake-ups begin to count; with more, a slow peer keeps too
/// much waiting.
pub const RANGE_BYTES_MAX: u32 = 1 << 20;

/// Bytes that say which pieces are there, at most: a bit for each link that a ladder may have, and the tail.
pub const HAVE_BYTES_MAX: u32 = 1 + (LADDER_BYTES_MAX / 32 + 1).div_ceil(8) as u32;

/// A busy peer is believed for so long at most.
pub const RETRY_MS_MAX: u32 = 60_000;

/// The id in the one answer of a stream that is turned away before a request was read.
pub const NO_REQUEST: u32 = u32::MAX;

/// What is wanted of a file. (A ladder is a file like any other, named by its own hash.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Which pieces are there ([`Have`]).
    Have,
    /// Bytes of it, 1 to [`RANGE_BYTES_MAX`].
    Range {
        /// Of the first one.
        offset: u64,
        /// How many.
        length: u32,
    },
}

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Comes back in the answer.
    pub id: u32,
    /// The file, by its SHA-256.
    pub file: Sha256,
    /// What of it.
    pub ask: Ask,
}

/// How a request fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// What was asked for follows.
    Ok,
    /// Not now; again after so many milliseconds (at most [`RETRY_MS_MAX`]).
    Busy {
        /// Milliseconds.
        retry_ms: u32,
    },
    /// Not here, or not all of it, or not for you.
    Missing,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's.
    pub id: u32,
    /// How it fared.
    pub status: Status,
    /// Bytes that follow; 0 unless the status is [`Status::Ok`].
    pub length: u32,
}

/// Why bytes are not what the protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No such kind of request or status.
    #[error("an unknown kind {0}: a newer program, or none of ours")]
    Kind(u8),
    /// Bytes that must be zero are not, or a field has no meaning with this kind.
    #[error("bytes that must be zero are not")]
    Padding,
    /// More, or less, than allowed or asked for.
    #[error("{got} bytes announced where {allowed} were allowed")]
    Length {
        /// What was said.
        got: u32,
        /// What was asked for.
        allowed: u32,
    },
    /// An answer to something else.
    #[error("answer {got} where {expected} was due")]
    Id {
        /// The id that was due.
        expected: u32,
        /// The id that came.
        got: u32,
    },
    /// The pieces do not fit the file.
    #[error("the list of pieces does not fit the file")]
    Pieces,
}

impl Request {
    /// As it is sent.
    pub fn to_bytes(self) -> [u8; REQUEST_BYTES] {
        let (kind, offset, length) = match self.ask {
            Ask::Have => (1, 0, 0),
            Ask::Range { offset, length } => (2, offset, length),
        };
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&self.id.to_be_bytes());
        bytes[8..40].copy_from_slice(self.file.as_bytes());
        bytes[40..48].copy_from_slice(&offset.to_be_bytes());
        bytes[48..52].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, WireError> {
        let offset = u64::from_be_bytes(part(bytes, 40));
        let length = u32::from_be_bytes(part(bytes, 48));
        let ask = match (bytes[0], offset, length) {
            (1, 0, 0) => Ask::Have,
            (1, ..) => return Err(WireError::Padding),
            (2, _, 1..=RANGE_BYTES_MAX) if offset.checked_add(length.into()).is_some() => {
                Ask::Range { offset, length }
            }
            (2, ..) => {
                return Err(WireError::Length {
                    got: length,
                    allowed: RANGE_BYTES_MAX,
                });
            }
            (kind, ..) => return Err(WireError::Kind(kind)),
        };
        is_zero(bytes[1..4].iter())?;
        Ok(Self {
            id: u32::from_be_bytes(part(bytes, 4)),
            file: Sha256(part(bytes, 8)),
            ask,
        })
    }
}

impl Answer {
    /// As it is sent.
    pub fn to_bytes(self) -> [u8; ANSWER_BYTES] {
        let (status, ms) = match self.status {
            Status::Ok => (0, 0),
            Status::Busy { retry_ms } => (1, retry_ms),
            Status::Missing => (2, 0),
        };
        let mut bytes = [0; ANSWER_BYTES];
        bytes[0] = status;
        bytes[4..8].copy_from_slice(&self.id.to_be_bytes());
        bytes[8..12].copy_from_slice(&ms.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_be_bytes());
        bytes
    }

    /// Reads the head of the answer to `request`: its length is what was asked for, or within its limit.
    ///
    /// # Errors
    /// When it is none, or answers something else.
    pub fn parse(bytes: &[u8; ANSWER_BYTES], request: &Request) -> Result<Self, WireError> {
        is_zero(bytes[1..4].iter())?;
        let id = u32::from_be_bytes(part(bytes, 4));
        let ms = u32::from_be_bytes(part(bytes, 8));
        let length = u32::from_be_bytes(part(bytes, 12));
        let status = match bytes[0] {
            0 => Status::Ok,
            1 => Status::Busy {
                retry_ms: ms.min(RETRY_MS_MAX),
            },
            2 => Status::Missing,
            kind => return Err(WireError::Kind(kind)),
        };
        if id != request.id && !(id == NO_REQUEST && matches!(status, Status::Busy { .. })) {
            return Err(WireError::Id {
                expected: request.id,
                got: id,
            });
        }
        let (least, most) = match (status, request.ask) {
            (Status::Busy { .. } | Status::Missing, _) => (0, 0),
            (Status::Ok, Ask::Have) => (1, HAVE_BYTES_MAX),
            (Status::Ok, Ask::Range { length, .. }) => (length, length),
        };
        if length < least || length > most {
            return Err(WireError::Length {
                got: length,
                allowed: most,
            });
        }
        Ok(Self { id, status, length })
    }
}

/// Which pieces of a file a peer has proven: what it may be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Have {
    /// All of them.
    All,
    /// These.
    Some(PieceSet),
}

impl Have {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::All => vec![1],
            Self::Some(pieces) => [vec![2], pieces.to_bytes()].concat(),
        }
    }

    /// Reads what a peer says of a file of so many pieces.
    ///
    /// # Errors
    /// When it does not fit the file.
    pub fn parse(bytes: &[u8], pieces: u32) -> Result<Self, WireError> {
        match bytes {
            [1] => Ok(Self::All),
            [2, bits @ ..] => match PieceSet::from_bytes(bits, pieces) {
                Some(pieces) => Ok(Self::Some(pieces)),
                None => Err(WireError::Pieces),
            },
            [1, ..] | [] => Err(WireError::Pieces),
            [kind, ..] => Err(WireError::Kind(*kind)),
        }
    }
}

/// The bytes from `at` on; the layouts above leave room for them.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("a slice of that length")
}

fn is_zero<'a>(mut bytes: impl Iterator<Item = &'a u8>) -> Result<(), WireError> {
    if bytes.all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(WireError::Padding)
    }
}

#[cfg(test)]
mod tests;
