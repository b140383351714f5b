//! The bytes of one block of 65,536 elements, and what they mean.
//!
//! A block without a value is no bytes. Otherwise, each section beginning with a byte and its last byte filled
//! up with zero bits (bits are taken from the lowest of each byte on):
//!
//! 1. one byte: bits 0–3 the Rice parameter b (0 if packed), bit 7 whether counts follow;
//! 2. counts, if a chunk holds fewer values than K asks for: a u16 per chunk;
//! 3. scales of each chunk that holds a value (`crate::quantise`);
//! 4. the low b bits of each gap (packed: the 12 bits of each place);
//! 5. codes of the values;
//! 6. Rice only, to the end of the block: for each gap g, (g >> b) zeros and a one.
//!
//! The first gap of a chunk is its first place in the chunk, each other one is the distance to the place
//! before, less one. [`Parts`] is a block in pieces: [`write()`] and [`read()`] are each other's inverse, and
//! `read` takes nothing that `write` would not have made of what it says.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use read::read;
pub(crate) use write::write;

use crate::{
    Header,
    codec::{BLOCK, CHUNK, Codec, ValueWidth},
    quantise::{Levels, eight_bit_value},
};

/// Bit 7 of a block's first byte: counts follow.
const COUNTS: u8 = 0x80;
/// The largest useful Rice parameter: gaps are below 2^12, and of equal costs the smaller one is taken.
const RICE_MAX: u8 = 11;
/// Bits of a packed place.
const PACKED_BITS: u8 = 12;

/// Why a block is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// A section is not all there.
    #[error("it ends within its {0}")]
    Short(&'static str),
    /// More bytes than its values need.
    #[error("it goes on after its last value")]
    Trailing,
    /// Bits that fill up a byte are not zero.
    #[error("the padding after its {0} is not zero")]
    Padding(&'static str),
    /// A first byte that no block has.
    #[error("its first byte is {0:#04x}")]
    Flags(u8),
    /// Counts that are too high, or that need not be there.
    #[error("its counts are not those of a top-K, or stand there without need")]
    Counts,
    /// A block without values takes no bytes.
    #[error("it holds no value and is not empty")]
    Empty,
    /// Scales of a chunk that are no positive normal numbers, in the wrong order, or not used as they must be.
    #[error("the scale of chunk {0} is not positive and normal, or not the one its codes need")]
    Scale(usize),
    /// A code that stands for nothing, or a value that is not finite, zero, or too small.
    #[error("a value of chunk {0} is zero, not finite, or too small")]
    Value(usize),
    /// A place beyond the chunk, or not above the one before.
    #[error("the places of chunk {0} do not rise, or leave it")]
    Place(usize),
    /// Not the parameter that makes it shortest.
    #[error("its Rice parameter is {0}, another makes it shorter")]
    Rice(u8),
}

/// A block in pieces.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Values of each chunk.
    pub(crate) counts: Vec<u16>,
    /// Where the values are in the block, rising.
    pub(crate) places: Vec<u16>,
    /// 2-bit: of each chunk; those of a chunk without values mean nothing.
    pub(crate) levels: Vec<Levels>,
    /// 8-bit: of each chunk; those of a chunk without values mean nothing.
    pub(crate) maxima: Vec<f32>,
    /// 2-bit and 8-bit: of each value.
    pub(crate) codes: Vec<u8>,
    /// 32-bit: each value.
    pub(crate) exact: Vec<f32>,
    /// Gaps: scratch for both directions.
    gaps: Vec<u16>,
    /// A section with room behind it: scratch for reading.
    padded: Vec<u8>,
}

impl Parts {
    pub(crate) fn clear(&mut self) {
        let Self {
            counts,
            places,
            levels,
            maxima,
            codes,
            exact,
            ..
        } = self;
        counts.clear();
        places.clear();
        levels.clear();
        maxima.clear();
        codes.clear();
        exact.clear();
    }

    /// The chunks that hold a value, each with where its values are in the block's.
    fn filled(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let mut first = 0;
        self.counts
            .iter()
            .enumerate()
            .filter_map(move |(chunk, count)| {
                let range = first..first + usize::from(*count);
                first = range.end;
                (!range.is_empty()).then_some((chunk, range))
            })
    }

    /// Writes what the codes mean into `values`, and gives the sum of their squares (see [`Block::square`]).
    pub(crate) fn values(&self, width: ValueWidth, values: &mut Vec<f32>) -> f64 {
        values.clear();
        let mut square = 0.0;
        for (chunk, range) in self.filled() {
            let before = values.len();
            match width {
                ValueWidth::Two => {
                    let table = self.levels[chunk].table();
                    let codes = &self.codes[range];
                    // The table's values without looking them up, so that many are made at once.
                    let (low, high) = (table[0].to_bits(), table[2].to_bits());
                    values.extend(codes.iter().map(|code| {
                        let code = u32::from(*code);
                        let large = (code >> 1 & 1).wrapping_neg();
                        f32::from_bits((low & !large | high & large) ^ code << 31)
                    }));
                    let large = codes.iter().map(|code| u32::from(code >> 1)).sum::<u32>();
                    let small = codes.len() as u32 - large;
                    square += f64::from(small) * f64::from(table[0]) * f64::from(table[0])
                        + f64::from(large) * f64::from(table[2]) * f64::from(table[2]);
                    continue;
                }
                ValueWidth::Eight => {
                    let maximum = self.maxima[chunk];
                    let codes = self.codes[range].iter();
                    values.extend(codes.map(|code| eight_bit_value(maximum, *code as i8)));
                }
                ValueWidth::Exact => values.extend_from_slice(&self.exact[range]),
            }
            square += values[before..].iter().fold(0.0_f64, |sum, value| {
                sum + f64::from(*value) * f64::from(*value)
            });
        }
        square
    }
}

/// Lengths of the chunks of a block of `len` elements.
fn chunk_lens(len: usize) -> impl Iterator<Item = usize> {
    (0..len.div_ceil(CHUNK)).map(move |chunk| (len - chunk * CHUNK).min(CHUNK))
}

/// The values of one block: a buffer to read one block after another into.
#[derive(Debug, Default)]
pub struct Block {
    pub(crate) first: u64,
    pub(crate) len: usize,
    pub(crate) square: f64,
    pub(crate) values: Vec<f32>,
    pub(crate) parts: Parts,
}

impl Block {
    /// Reads the bytes of the block that begins with element `first` and has `len` elements.
    pub(crate) fn read(
        &mut self,
        codec: Codec,
        first: u64,
        len: usize,
        bytes: &[u8],
    ) -> Result<(), BlockFault> {
        debug_assert!(len <= BLOCK);
        self.values.clear();
        self.parts.clear();
        (self.first, self.len, self.square) = (first, len, 0.0);
        if bytes.is_empty() {
            return Ok(());
        }
        read(bytes, codec, len, &mut self.parts)?;
        self.square = self.parts.values(codec.values, &mut self.values);
        Ok(())
    }

    /// The block's bytes again; the same that were read, for there is one form.
    pub fn to_bytes(&mut self, header: &Header) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut self.parts, header.codec, self.len, &mut bytes);
        bytes
    }

    /// The block's first element in the flat vector.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// How many elements the block has, with a value or without.
    pub const fn elements(&self) -> usize {
        self.len
    }

    /// Where the values are, counted from the block's first element; rising.
    pub fn places(&self) -> &[u16] {
        &self.parts.places
    }

    /// The values, none of them zero, in the order of [`Block::places`].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Places with their values.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, f32)> {
        self.places()
            .iter()
            .zip(&self.values)
            .map(|(place, value)| (usize::from(*place), *value))
    }

    /// The sum of the values' squares in f64, the same on every machine: chunks in order, 0.0 at first; a
    /// 2-bit chunk adds small · low · low + large · high · high, others the sum of their values' squares in
    /// order.
    pub const fn square(&self) -> f64 {
        self.square
    }
}
