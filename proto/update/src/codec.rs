//! What a round publishes about how its updates are packed: how many values of a chunk are kept, how wide
//! they are, how their places are written. The encoder and the decoder take it from the header.

use crate::error::HeaderError;

/// Elements of one chunk: the top-K is taken and the values are scaled within it (spec §10.2).
pub const CHUNK: usize = 4_096;

/// Elements of one block: 16 chunks. Blocks are read independently of each other, and an aggregator holds
/// one of each update at a time; 65,536 places also fit 16 bits.
pub const BLOCK: usize = 16 * CHUNK;

/// Elements of one update: 275 billion, whose block table is 16 MiB.
pub const ELEMENTS_MAX: u64 = 1 << 38;

/// Bytes of one block: all of 65,536 values as they are, each with 13 bits of index, is 369 kB.
pub const BLOCK_BYTES_MAX: usize = 1 << 19;

/// From this size on 1.5625 % are kept instead of 10 % (spec §10.2).
const LARGE_MODEL_ELEMENTS: u64 = 100_000_000;

/// The share of a chunk's elements that is kept, in parts per million: 1 to 1,000,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keep(u32);

impl Keep {
    /// 10 %: the default.
    pub const TENTH: Self = Self(100_000);
    /// 1.5625 %, 64 of 4,096: the default from 100M parameters on.
    pub const SIXTY_FOURTH: Self = Self(15_625);
    /// Everything: for comparison.
    pub const ALL: Self = Self(1_000_000);

    /// `ppm` parts per million, if they are some and not more than all.
    pub const fn from_ppm(ppm: u32) -> Option<Self> {
        if ppm >= 1 && ppm <= 1_000_000 {
            Some(Self(ppm))
        } else {
            None
        }
    }

    /// In parts per million.
    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// How many of a chunk of `len` elements are kept: ceil(len · K), in integers.
    pub const fn of(self, len: usize) -> usize {
        (len as u64 * self.0 as u64).div_ceil(1_000_000) as usize
    }
}

/// How wide a kept value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueWidth {
    /// Sign and one of two magnitudes of its chunk.
    Two,
    /// 127 steps of its chunk's largest magnitude, and the sign.
    Eight,
    /// As it is: for comparison.
    Exact,
}

impl ValueWidth {
    /// Bits of one value.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Two => 2,
            Self::Eight => 8,
            Self::Exact => 32,
        }
    }

    /// The width of that many bits.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            2 => Some(Self::Two),
            8 => Some(Self::Eight),
            32 => Some(Self::Exact),
            _ => None,
        }
    }
}

/// How the places of the kept values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexCoding {
    /// Gaps between them, Rice-coded, the parameter chosen per block.
    Rice,
    /// 12 bits each: for comparison.
    Packed,
}

impl IndexCoding {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Rice => 1,
            Self::Packed => 2,
        }
    }

    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Rice),
            2 => Some(Self::Packed),
            _ => None,
        }
    }
}

/// How a round's updates are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Codec {
    /// How many values of a chunk are kept.
    pub keep: Keep,
    /// How wide they are.
    pub values: ValueWidth,
    /// How their places are written.
    pub indices: IndexCoding,
}

impl Codec {
    /// 10 %, 2 bits, Rice.
    pub const DEFAULT: Self = Self {
        keep: Keep::TENTH,
        values: ValueWidth::Two,
        indices: IndexCoding::Rice,
    };

    /// What a round of a model of `elements` trained elements takes if nobody says otherwise.
    pub const fn for_elements(elements: u64) -> Self {
        let keep = if elements < LARGE_MODEL_ELEMENTS {
            Keep::TENTH
        } else {
            Keep::SIXTY_FOURTH
        };
        Self {
            keep,
            ..Self::DEFAULT
        }
    }
}

impl Default for Codec {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// How many blocks `elements` make; refuses none and too many.
pub(crate) fn blocks(elements: u64) -> Result<usize, HeaderError> {
    if elements == 0 || elements > ELEMENTS_MAX {
        return Err(HeaderError::Elements(elements));
    }
    Ok(elements.div_ceil(BLOCK as u64) as usize)
}

/// Elements of block `block` of so many elements.
pub(crate) fn block_len(elements: u64, block: usize) -> usize {
    let first = block as u64 * BLOCK as u64;
    elements.saturating_sub(first).min(BLOCK as u64) as usize
}
