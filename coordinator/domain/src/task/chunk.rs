//! Which chunk of a streamed answer may be delivered. What is journalled is fenced by the epoch and
//! contiguous, so that a successor continues exactly where the user's text ends.

use owm_proto::{NodeId, limits::OUTPUT_BYTES_MAX};

use super::{Phase, Task};

/// What the journal holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivered<'a> {
    /// All tokens so far.
    pub tokens: &'a [u32],
    /// Bytes of text so far.
    pub text_bytes: usize,
}

/// A chunk as it arrived from `node`.
#[derive(Clone, Copy, Debug)]
pub struct GivenChunk<'a> {
    /// Whose session it came on.
    pub node: NodeId,
    /// Under which lease.
    pub epoch: u64,
    /// Index of its first token, forced prefix included.
    pub from: u32,
    /// Its tokens.
    pub tokens: &'a [u32],
    /// Its text: whole characters.
    pub text: &'a str,
}

/// What to do with a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkDecision {
    /// Journal it as `[from, to)`, then send it.
    Append {
        /// One past its last token.
        to: u32,
    },
    /// It is journalled already: do nothing.
    Repeated,
    /// Drop it; the lease goes on unless the fault is the node's (see [`ChunkFault::ends_lease`]).
    Refused(ChunkFault),
}

/// Why a chunk is not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// The lease is not the live one.
    #[error("the chunk is of epoch {given}, the live lease is {live:?}")]
    Fenced {
        /// The chunk's.
        given: u64,
        /// The task's, if it is leased at all.
        live: Option<u64>,
    },
    /// It leaves a gap.
    #[error("the chunk starts at token {from}, delivered are {delivered}")]
    Gap {
        /// Where it starts.
        from: u32,
        /// Where it should.
        delivered: usize,
    },
    /// It says otherwise than what was delivered.
    #[error("the chunk contradicts delivered token {at}")]
    Contradicts {
        /// The first token that differs, or where an overlap ends.
        at: usize,
    },
    /// It holds no token: text left over comes with the result.
    #[error("the chunk holds no token")]
    Empty,
    /// More than was asked for.
    #[error("the chunk goes beyond the limit of {max} tokens")]
    TooLong {
        /// The limit.
        max: u32,
    },
    /// More text than an answer may have.
    #[error("the answer's text would exceed {OUTPUT_BYTES_MAX} bytes")]
    TooMuchText,
}

impl ChunkFault {
    /// The node does not do what was asked: reject the attempt. Otherwise it is merely behind.
    pub const fn ends_lease(&self) -> bool {
        !matches!(self, Self::Fenced { .. })
    }
}

/// Decides on a chunk.
pub fn decide_chunk(
    task: &Task,
    delivered: &Delivered<'_>,
    max_tokens: u32,
    chunk: &GivenChunk<'_>,
) -> ChunkDecision {
    use ChunkDecision::Refused;
    let live = match task.phase {
        Phase::Leased { node, .. } if node == chunk.node => Some(task.epoch),
        _ => None,
    };
    if live != Some(chunk.epoch) {
        return Refused(ChunkFault::Fenced {
            given: chunk.epoch,
            live,
        });
    }
    if chunk.tokens.is_empty() {
        return Refused(ChunkFault::Empty);
    }
    let from = chunk.from as usize;
    let Some(overlap) = delivered.tokens.get(from..) else {
        return Refused(ChunkFault::Gap {
            from: chunk.from,
            delivered: delivered.tokens.len(),
        });
    };
    if let Some(at) = overlap.iter().zip(chunk.tokens).position(|(a, b)| a != b) {
        return Refused(ChunkFault::Contradicts { at: from + at });
    }
    if !overlap.is_empty() {
        return if chunk.tokens.len() <= overlap.len() {
            ChunkDecision::Repeated
        } else {
            // Its text can't be cut at a token, so a chunk that overlaps in part is none.
            Refused(ChunkFault::Contradicts {
                at: delivered.tokens.len(),
            })
        };
    }
    let to = u32::try_from(from.saturating_add(chunk.tokens.len())).unwrap_or(u32::MAX);
    if to > max_tokens {
        return Refused(ChunkFault::TooLong { max: max_tokens });
    }
    if delivered.text_bytes.saturating_add(chunk.text.len()) > OUTPUT_BYTES_MAX {
        return Refused(ChunkFault::TooMuchText);
    }
    ChunkDecision::Append { to }
}
