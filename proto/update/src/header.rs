//! What stands in front of an update's blocks: what it is of, what it was made from, how it is packed, and
//! where each block is. Fixed fields, little-endian, one byte string per content (`docs/fl-protocol.md`).
//!
//! The encoder writes it last ([`crate::assemble`]), everybody else reads it first: a block table can be
//! trusted as far as its own lengths go, the blocks are checked as they are read.

mod mode;
mod table;

use owm_proto::{PublicKey, Sha256, SubModelId, genesis::NetworkId};

use crate::{
    codec::{self, Codec, IndexCoding, Keep, ValueWidth},
    cursor::Cursor,
    error::HeaderError,
};

pub(crate) use mode::Training;
pub use mode::{LoraEpoch, Mode, Targets};
pub use table::BlockTable;

/// The first four bytes of every update and delta.
pub(crate) const MAGIC: [u8; 4] = *b"OWMU";

/// Version of the format that is written and read here.
pub(crate) const VERSION: u16 = 1;

/// Bytes up to and including the header's own length: enough to know how much to read.
pub(crate) const PREFIX_BYTES: usize = 12;

/// A header with the block table of 2^38 elements (16 MiB) and a LoRA section.
pub const HEADER_BYTES_MAX: u64 = 17 << 20;

/// Whose work it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A node's update in a round.
    Node {
        /// Who has trained.
        node: PublicKey,
        /// Training samples seen.
        samples: u64,
        /// Optimiser steps made.
        steps: u32,
        /// The bound on the norm that the round publishes; finite and above 0.
        clip: f32,
    },
    /// The mean of a round's updates: the delta of a release.
    Aggregate {
        /// How many updates are in it.
        updates: u32,
    },
}

/// What an update is of: all that its maker knows besides the numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// The network.
    pub network: NetworkId,
    /// The round.
    pub round: u64,
    /// The sub-model that is trained.
    pub sub_model: SubModelId,
    /// SHA-256 of the parent's file.
    pub base: Sha256,
    /// Names, types and shapes of its tensors ([`crate::Layout::id`]).
    pub layout: Sha256,
    /// What is trained.
    pub mode: Mode,
    /// Whose work it is.
    pub origin: Origin,
}

/// Everything in front of the block table.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// What it is of.
    pub subject: Subject,
    /// How it is packed.
    pub codec: Codec,
    /// Elements of the flat vector.
    pub elements: u64,
    /// The residue that went in; `None`: there was none.
    pub residue_before: Option<Sha256>,
    /// The residue that was left; `None`: none is kept.
    pub residue_after: Option<Sha256>,
}

impl Subject {
    /// What is trained: the same over rounds and parents.
    pub(crate) fn training(&self, elements: u64) -> Training {
        Training {
            network: self.network,
            sub_model: self.sub_model.clone(),
            layout: self.layout,
            mode: self.mode.clone(),
            elements,
        }
    }
}

impl Origin {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Node {
                node,
                samples,
                steps,
                clip,
            } => {
                out.push(1);
                out.extend(node.0);
                out.extend(samples.to_le_bytes());
                out.extend(steps.to_le_bytes());
                out.extend(clip.to_le_bytes());
            }
            Self::Aggregate { updates } => {
                out.push(2);
                out.extend(updates.to_le_bytes());
            }
        }
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, HeaderError> {
        match cursor.u8()? {
            1 => Ok(Self::Node {
                node: PublicKey(cursor.array()?),
                samples: cursor.u64()?,
                steps: cursor.u32()?,
                clip: match cursor.f32()? {
                    clip if is_clip(clip) => clip,
                    clip => return Err(field("clip", clip.to_bits())),
                },
            }),
            2 => Ok(Self::Aggregate {
                updates: cursor.u32()?,
            }),
            kind => Err(field("kind", kind)),
        }
    }
}

/// Whether it can bound a norm: a normal, positive number.
pub(crate) fn is_clip(clip: f32) -> bool {
    clip.is_normal() && clip > 0.0
}

/// A field that has a value none may have.
pub(crate) fn field(field: &'static str, value: impl Into<u64>) -> HeaderError {
    HeaderError::Field {
        field,
        value: value.into(),
    }
}

impl Header {
    /// How many bytes the header takes, block table included, by its first 12 bytes: as many must be
    /// read before [`Header::parse`].
    pub fn bytes(prefix: &[u8]) -> Result<u64, HeaderError> {
        let mut cursor = Cursor::new(prefix);
        if cursor.array::<4>()? != MAGIC {
            return Err(HeaderError::Magic("update"));
        }
        match cursor.u16()? {
            VERSION => {}
            version => return Err(HeaderError::Version(version)),
        }
        match cursor.u16()? {
            0 => {}
            other => return Err(field("reserved", other)),
        }
        match u64::from(cursor.u32()?) {
            bytes if bytes <= HEADER_BYTES_MAX => Ok(bytes),
            said => Err(HeaderError::Length { said, is: 0 }),
        }
    }

    /// Reads a header and its block table from the front of `bytes`; the blocks need not be there yet.
    pub fn parse(bytes: &[u8]) -> Result<(Self, BlockTable), HeaderError> {
        let said = Self::bytes(bytes)?;
        let all = Cursor::new(bytes).take(said as usize)?;
        let mut cursor = Cursor::new(all.get(PREFIX_BYTES..).ok_or(HeaderError::Short)?);
        let (header, blocks) = Self::read(&mut cursor)?;
        let table = cursor.take(blocks * 4)?;
        if !cursor.rest().is_empty() {
            let is = said - cursor.rest().len() as u64;
            return Err(HeaderError::Length { said, is });
        }
        let (lengths, _) = table.as_chunks::<4>();
        let table = BlockTable::new(said, lengths.iter().map(|bytes| u32::from_le_bytes(*bytes)))?;
        Ok((header, table))
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<(Self, usize), HeaderError> {
        let training = Training::read(cursor)?;
        let round = cursor.u64()?;
        let base = cursor.sha256()?;
        let origin = Origin::read(cursor)?;
        let bits = cursor.u8()?;
        let coding = cursor.u8()?;
        let ppm = cursor.u32()?;
        let codec = Codec {
            keep: Keep::from_ppm(ppm).ok_or(field("keep", ppm))?,
            values: ValueWidth::from_bits(bits).ok_or(field("value bits", bits))?,
            indices: IndexCoding::from_code(coding).ok_or(field("index coding", coding))?,
        };
        let blocks = codec::blocks(training.elements)?;
        let header = Self {
            subject: Subject {
                network: training.network,
                round,
                sub_model: training.sub_model,
                base,
                layout: training.layout,
                mode: training.mode,
                origin,
            },
            codec,
            elements: training.elements,
            residue_before: hash_or_none(cursor.sha256()?),
            residue_after: hash_or_none(cursor.sha256()?),
        };
        Ok((header, blocks))
    }

    /// The header's bytes in front of blocks of these lengths; refuses what [`Header::parse`] would.
    pub fn write(&self, lengths: &[u32]) -> Result<Vec<u8>, HeaderError> {
        let blocks = codec::blocks(self.elements)?;
        assert_eq!(
            blocks,
            lengths.len(),
            "one length per block of the header's elements"
        );
        self.subject.mode.check()?;
        let mut out = Vec::with_capacity(512 + 4 * blocks);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend([0; 6]); // two reserved, four for the length
        if !self.elements.is_multiple_of(self.subject.mode.unit()) {
            return Err(field("elements", self.elements));
        }
        self.subject.training(self.elements).write(&mut out);
        let Subject {
            round,
            base,
            origin,
            ..
        } = &self.subject;
        out.extend(round.to_le_bytes());
        out.extend(base.0);
        origin.write(&mut out);
        out.push(self.codec.values.bits());
        out.push(self.codec.indices.code());
        out.extend(self.codec.keep.ppm().to_le_bytes());
        out.extend(self.residue_before.map_or([0; 32], |hash| hash.0));
        out.extend(self.residue_after.map_or([0; 32], |hash| hash.0));
        out.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
        let bytes = out.len() as u32;
        out[PREFIX_BYTES - 4..PREFIX_BYTES].copy_from_slice(&bytes.to_le_bytes());
        Ok(out)
    }

    /// How many blocks follow.
    pub fn blocks(&self) -> usize {
        codec::blocks(self.elements)
            .expect("a header has been read or will be refused when written")
    }

    /// Elements of block `block`: 65,536, fewer in the last one.
    pub fn block_len(&self, block: usize) -> usize {
        codec::block_len(self.elements, block)
    }
}

fn hash_or_none(hash: Sha256) -> Option<Sha256> {
    (hash.0 != [0; 32]).then_some(hash)
}
