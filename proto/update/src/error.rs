//! Why an update, its header or a residue is refused: what happened, why, what to do next.

use owm_proto::Sha256;

use crate::{
    block::BlockFault,
    codec::{BLOCK_BYTES_MAX, ELEMENTS_MAX},
    cursor::Short,
    header::HEADER_BYTES_MAX,
};

/// Why a header is refused. Every one is a fault of whoever wrote the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Cut off.
    #[error("the header ends in the middle of a field; fetch the bytes again")]
    Short,
    /// Something else.
    #[error("these bytes are no {0} (other first four bytes); look at where they came from")]
    Magic(&'static str),
    /// Of another time.
    #[error("format version {0} is not known here (1 is); install a newer release")]
    Version(u16),
    /// A field with a value that none may have.
    #[error("{field} is {value}, which no update has; make it again with a released encoder")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        value: u64,
    },
    /// Nothing, or more than anybody may send.
    #[error("{0} elements; an update has 1 to {ELEMENTS_MAX}")]
    Elements(u64),
    /// Not one of the network's sub-models.
    #[error("the sub-model {0:?} is none of this network's; make the update for one that is")]
    SubModel(String),
    /// The length at the front is not that of what follows.
    #[error(
        "the header says it is {said} bytes long and is {is} (at most {HEADER_BYTES_MAX}); make it again"
    )]
    Length {
        /// By its own account.
        said: u64,
        /// By its fields.
        is: u64,
    },
    /// The table names a block longer than any can be.
    #[error("block {block} would be {bytes} bytes, a block has at most {BLOCK_BYTES_MAX}")]
    BlockLength {
        /// Which.
        block: usize,
        /// What the table says.
        bytes: u32,
    },
    /// The bytes after the header are not the blocks of the table.
    #[error("the blocks are {is} bytes, the table says {said}; fetch the bytes again")]
    Total {
        /// By the table.
        said: u64,
        /// What there is.
        is: u64,
    },
}

impl From<Short> for HeaderError {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

/// Why an update's bytes are refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UpdateError {
    /// Its header.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// One of its blocks.
    #[error("block {block}: {fault}")]
    Block {
        /// Which, from 0.
        block: usize,
        /// What is wrong with it.
        fault: BlockFault,
    },
    /// Larger than the round allows (spec §10.4, structure).
    #[error(
        "the decoded update's norm is {norm}, above the published clip {clip} by more than 1 %; the encoder must clip"
    )]
    Norm {
        /// Decoded.
        norm: f64,
        /// Published.
        clip: f32,
    },
    /// The header says otherwise than the round.
    #[error("its {field} is not what the round published; make it for the round as it was leased")]
    Differs {
        /// The first field that differs.
        field: &'static str,
    },
    /// It does not go with the residue at hand.
    #[error(transparent)]
    Residue(#[from] ResidueError),
    /// Two sides of one operation are of different sizes.
    #[error("the update has {update} elements, the other side {other}; use those of one layout")]
    Elements {
        /// The update's.
        update: u64,
        /// The other's.
        other: u64,
    },
}

/// Why no update can be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// A step that is no number.
    #[error(
        "element {0} of the step is not finite; training has diverged, lower the learning rate"
    )]
    NotFinite(u64),
    /// No bound to clip to.
    #[error("the clip norm {0} is not a positive number; take it from the round's configuration")]
    Clip(f32),
    /// The residue is not of this training.
    #[error(transparent)]
    Residue(#[from] ResidueError),
    /// The header would be refused.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// Why a residue is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResidueError {
    /// Its header.
    #[error("the residue's header is refused (without it training goes on from a zero residue)")]
    Header(#[from] HeaderError),
    /// Cut off, or too long.
    #[error(
        "the residue holds {got} bytes of values, its header says {expected}; without it training goes on from a zero residue"
    )]
    Length {
        /// By the header.
        expected: u64,
        /// What there is.
        got: u64,
    },
    /// A value that no residue holds.
    #[error(
        "element {0} of the residue is not finite or a negative zero; without it training goes on from a zero residue"
    )]
    Value(u64),
    /// Of another network, sub-model, mode, LoRA epoch, layout or size.
    #[error("the residue is of another {0}; drop it, it holds nothing for this training")]
    Other(&'static str),
    /// Not the residue that goes with the update.
    #[error("the residue {got} is not the one that the update left behind, {expected}")]
    NotAfter {
        /// By the update's header.
        expected: Sha256,
        /// The one at hand.
        got: Sha256,
    },
}

impl From<Short> for ResidueError {
    fn from(_: Short) -> Self {
        Self::Header(HeaderError::Short)
    }
}
