//! What is trained and sent, and the part of a header that updates and residues share.

use owm_proto::{Sha256, SubModelId, genesis::NetworkId};

use super::field;
use crate::{codec, cursor::Cursor, error::HeaderError};

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
    pub(super) fn unit(&self) -> u64 {
        match self {
            Self::Full => 1,
            Self::Lora(lora) => u64::from(lora.rank),
        }
    }

    pub(super) fn check(&self) -> Result<(), HeaderError> {
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

/// Network, sub-model, layout, size, mode: what residues and updates have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Training {
    pub(crate) network: NetworkId,
    pub(crate) sub_model: SubModelId,
    pub(crate) layout: Sha256,
    pub(crate) mode: Mode,
    pub(crate) elements: u64,
}

impl Training {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.network.0.0);
        let name = self.sub_model.as_str().as_bytes();
        out.push(name.len() as u8);
        out.extend(name);
        out.extend(self.layout.0);
        out.extend(self.elements.to_le_bytes());
        out.push(self.mode.code());
        self.mode.write(out);
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
