//! What stands in front of an update's blocks: what it is of, what it was made from, how it is packed, and
//! where each block is. Fixed fields, little-endian, one byte string per content (`docs/fl-protocol.md`).
//!
//! The encoder writes it last ([`crate::assemble`]), everybody else reads it first: a block table can be
//! trusted as far as its own lengths go, the blocks are checked as they are read.

use std::ops::Range;

use owm_proto::{PublicKey, Sha256, SubModelId, genesis::NetworkId};

use crate::{
    codec::{self, BLOCK_BYTES_MAX, Codec, IndexCoding, Keep, ValueWidth},
    cursor::Cursor,
    error::HeaderError,
};

/// The first four bytes of every update and delta.
pub(crate) const MAGIC: [u8; 4] = *b"OWMU";

/// Version of the format that is written and read here.
pub(crate) const VERSION: u16 = 1;

/// Bytes up to and including the header's own length: enough to know how much to read.
pub(crate) const PREFIX_BYTES: usize = 12;

/// A header with the block table of 2^38 elements (16 MiB) and a LoRA section.
pub const HEADER_BYTES_MAX: u64 = 17 << 20;

/// Rank of a LoRA pair: far above what is useful, far below what would make A large.
const RANK_MAX: u16 = 1_024;

/// Tensors of one file.
const TENSORS_MAX: u32 = 1 << 16;

/// What is trained and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every floating-point element of the file, in its data order.
    Full,
    /// The B of each adapted matrix (spec §10.7).
    Lora(LoraEpoch),
}

/// One LoRA epoch: A stays as it is for some rounds, B starts at 0 in each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraEpoch {
    /// Counts up over a sub-model's life.
    pub epoch: u32,
    /// Columns of B: 1 to 1,024.
    pub rank: u16,
    /// Where A comes from ([`crate::apply::lora_a`]).
    pub seed: [u8; 32],
    /// Which matrices have a B, in the data order of the file.
    pub targets: Targets,
}

/// A set of a file's tensors, by their place in its data order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    tensors: u32,
    bits: Vec<u8>,
}

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

/// Where each block is: behind the header, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockTable {
    /// Of block 0, from the first byte of the header; then of each end.
    bounds: Vec<u64>,
}

impl Targets {
    /// The tensors at these places, out of `tensors`; `None` if there is none, or one beyond the last.
    pub fn new(tensors: u32, places: impl IntoIterator<Item = u32>) -> Option<Self> {
        if tensors > TENSORS_MAX {
            return None;
        }
        let mut bits = vec![0_u8; tensors.div_ceil(8) as usize];
        let mut any = false;
        for place in places {
            if place >= tensors {
                return None;
            }
            bits[place as usize / 8] |= 1 << (place % 8);
            any = true;
        }
        any.then_some(Self { tensors, bits })
    }

    /// How many tensors the file has.
    pub const fn tensors(&self) -> u32 {
        self.tensors
    }

    /// The places, rising.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        (0..self.tensors).filter(|place| self.bits[*place as usize / 8] >> (place % 8) & 1 == 1)
    }
}

impl Mode {
    const fn code(&self) -> u8 {
        match self {
            Self::Full => 1,
            Self::Lora(_) => 2,
        }
    }

    /// The mode's own section; empty for full weights.
    fn write(&self, out: &mut Vec<u8>) {
        if let Self::Lora(lora) = self {
            out.extend(lora.epoch.to_le_bytes());
            out.extend(lora.rank.to_le_bytes());
            out.extend(lora.seed);
            out.extend(lora.targets.tensors.to_le_bytes());
            out.extend(&lora.targets.bits);
        }
    }

    fn read(code: u8, cursor: &mut Cursor<'_>) -> Result<Self, HeaderError> {
        match code {
            1 => Ok(Self::Full),
            2 => Ok(Self::Lora(LoraEpoch {
                epoch: cursor.u32()?,
                rank: match cursor.u16()? {
                    rank @ 1..=RANK_MAX => rank,
                    rank => return Err(field("rank", rank)),
                },
                seed: cursor.array()?,
                targets: Targets::read(cursor)?,
            })),
            _ => Err(field("mode", code)),
        }
    }

    /// What the elements must be a multiple of.
    fn unit(&self) -> u64 {
        match self {
            Self::Full => 1,
            Self::Lora(lora) => u64::from(lora.rank),
        }
    }

    fn check(&self) -> Result<(), HeaderError> {
        match self {
            Self::Lora(lora) if lora.rank == 0 || lora.rank > RANK_MAX => {
                Err(field("rank", lora.rank))
            }
            _ => Ok(()),
        }
    }
}

impl Targets {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, HeaderError> {
        let tensors = cursor.u32()?;
        if tensors > TENSORS_MAX {
            return Err(field("tensors", tensors));
        }
        let bits = cursor.take(tensors.div_ceil(8) as usize)?.to_vec();
        let padding = match (tensors % 8, bits.last()) {
            (0, _) | (_, None) => 0,
            (used, Some(last)) => last >> used,
        };
        if padding != 0 || bits.iter().all(|byte| *byte == 0) {
            return Err(field("targets", u64::from(padding)));
        }
        Ok(Self { tensors, bits })
    }
}

/// Network, sub-model, layout, mode: what residues and updates have in common. `code` is the mode's,
/// which stands further in front.
pub(crate) struct Training {
    pub(crate) network: NetworkId,
    pub(crate) sub_model: SubModelId,
    pub(crate) layout: Sha256,
    pub(crate) mode: Mode,
    pub(crate) elements: u64,
}

impl Training {
    pub(crate) fn write(
        out: &mut Vec<u8>,
        (network, sub_model, layout, mode, elements): (
            &NetworkId,
            &SubModelId,
            &Sha256,
            &Mode,
            u64,
        ),
    ) {
        out.extend(network.0.0);
        let name = sub_model.as_str().as_bytes();
        out.push(name.len() as u8);
        out.extend(name);
        out.extend(layout.0);
        out.extend(elements.to_le_bytes());
        out.push(mode.code());
        mode.write(out);
    }

    pub(crate) fn read(cursor: &mut Cursor<'_>) -> Result<Self, HeaderError> {
        let network = NetworkId(cursor.sha256()?);
        let name_bytes = cursor.u8()?;
        let name = String::from_utf8_lossy(cursor.take(usize::from(name_bytes))?);
        let sub_model = name
            .parse()
            .map_err(|_| HeaderError::SubModel(name.into_owned()))?;
        let layout = cursor.sha256()?;
        let elements = cursor.u64()?;
        codec::blocks(elements)?;
        let code = cursor.u8()?;
        let mode = Mode::read(code, cursor)?;
        if !elements.is_multiple_of(mode.unit()) {
            return Err(field("elements", elements));
        }
        Ok(Self {
            network,
            sub_model,
            layout,
            mode,
            elements,
        })
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

fn field(field: &'static str, value: impl Into<u64>) -> HeaderError {
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
        let Subject {
            network,
            round,
            sub_model,
            base,
            layout,
            mode,
            origin,
        } = &self.subject;
        if !self.elements.is_multiple_of(mode.unit()) {
            return Err(field("elements", self.elements));
        }
        Training::write(&mut out, (network, sub_model, layout, mode, self.elements));
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

    /// The bound on the norm that the round published, in a node's update.
    pub const fn clip(&self) -> Option<f32> {
        match self.subject.origin {
            Origin::Node { clip, .. } => Some(clip),
            Origin::Aggregate { .. } => None,
        }
    }
}

fn hash_or_none(hash: Sha256) -> Option<Sha256> {
    (hash.0 != [0; 32]).then_some(hash)
}

impl BlockTable {
    fn new(
        header_bytes: u64,
        lengths: impl ExactSizeIterator<Item = u32>,
    ) -> Result<Self, HeaderError> {
        let mut bounds = Vec::with_capacity(lengths.len() + 1);
        let mut end = header_bytes;
        bounds.push(end);
        for (block, bytes) in lengths.enumerate() {
            if bytes as usize > BLOCK_BYTES_MAX {
                return Err(HeaderError::BlockLength { block, bytes });
            }
            end += u64::from(bytes);
            bounds.push(end);
        }
        Ok(Self { bounds })
    }

    /// How many blocks there are.
    pub fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Never: an update has a block.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where block `block` is, in bytes from the first of the header.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn range(&self, block: usize) -> Range<u64> {
        self.bounds[block]..self.bounds[block + 1]
    }

    /// Bytes of the whole update, header included.
    pub fn total(&self) -> u64 {
        self.bounds[self.len()]
    }
}
