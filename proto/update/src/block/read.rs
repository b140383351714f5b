//! A block's bytes to its pieces: strict, and bounded by the block's own length. Aggregators and whoever
//! applies a delta come through here, with bytes from strangers.

use super::{BlockFault, COUNTS, PACKED_BITS, Parts, RICE_MAX, chunk_lens, write::saved};
use crate::{
    codec::{CHUNK, Codec, IndexCoding, ValueWidth},
    cursor::Cursor,
    quantise::{Levels, MAXIMUM_MIN},
    select::SMALLEST,
};

/// Reads a block of `len` elements that is not empty.
pub(crate) fn read(
    bytes: &[u8],
    codec: Codec,
    len: usize,
    parts: &mut Parts,
) -> Result<(), BlockFault> {
    parts.clear();
    let mut cursor = Cursor::new(bytes);
    let first = cursor.u8().map_err(|_| BlockFault::Short("first byte"))?;
    let rice = first & !COUNTS;
    let allowed = match codec.indices {
        IndexCoding::Rice => RICE_MAX,
        IndexCoding::Packed => 0,
    };
    if rice > allowed {
        return Err(BlockFault::Flags(first));
    }
    counts(&mut cursor, codec, len, first & COUNTS != 0, parts)?;
    let values = parts.counts.iter().map(|count| usize::from(*count)).sum();
    if values == 0 {
        return Err(BlockFault::Empty);
    }
    scales(&mut cursor, codec.values, parts)?;
    let bits = match codec.indices {
        IndexCoding::Rice => rice,
        IndexCoding::Packed => PACKED_BITS,
    };
    let low = section(&mut cursor, values, bits, "low bits")?;
    read_codes(&mut cursor, codec.values, values, parts)?;
    match codec.indices {
        IndexCoding::Rice => rice_places(low, rice, cursor.rest(), len, parts),
        IndexCoding::Packed => packed_places(low, cursor.rest(), len, parts),
    }
}

/// `count` numbers of `bits` bits, filled up with zeros.
fn section<'a>(
    cursor: &mut Cursor<'a>,
    count: usize,
    bits: u8,
    name: &'static str,
) -> Result<&'a [u8], BlockFault> {
    let bits = count * usize::from(bits);
    let taken = cursor
        .take(bits.div_ceil(8))
        .map_err(|_| BlockFault::Short(name))?;
    match taken.last() {
        Some(last) if !bits.is_multiple_of(8) && last >> (bits % 8) != 0 => {
            Err(BlockFault::Padding(name))
        }
        _ => Ok(taken),
    }
}

fn counts(
    cursor: &mut Cursor<'_>,
    codec: Codec,
    len: usize,
    written: bool,
    parts: &mut Parts,
) -> Result<(), BlockFault> {
    let most = chunk_lens(len).map(|len| codec.keep.of(len) as u16);
    if !written {
        parts.counts.extend(most);
        return Ok(());
    }
    let mut full = true;
    for most in most {
        let count = cursor.u16().map_err(|_| BlockFault::Short("counts"))?;
        if count > most {
            return Err(BlockFault::Counts);
        }
        full &= count == most;
        parts.counts.push(count);
    }
    if full {
        return Err(BlockFault::Counts);
    }
    Ok(())
}

fn scales(cursor: &mut Cursor<'_>, width: ValueWidth, parts: &mut Parts) -> Result<(), BlockFault> {
    let short = |_| BlockFault::Short("scales");
    for (chunk, count) in parts.counts.iter().enumerate() {
        let none = *count == 0;
        match width {
            ValueWidth::Two if none => parts.levels.push(Levels { low: 0, high: 0 }),
            ValueWidth::Two => {
                let low = cursor.u16().map_err(short)?;
                let high = cursor.u16().map_err(short)?;
                if low < Levels::MIN || low > high || high > Levels::MAX {
                    return Err(BlockFault::Scale(chunk));
                }
                parts.levels.push(Levels { low, high });
            }
            ValueWidth::Eight if none => parts.maxima.push(0.0),
            ValueWidth::Eight => {
                let maximum = cursor.f32().map_err(short)?;
                if !(MAXIMUM_MIN..=f32::MAX).contains(&maximum) {
                    return Err(BlockFault::Scale(chunk));
                }
                parts.maxima.push(maximum);
            }
            ValueWidth::Exact => {}
        }
    }
    Ok(())
}

fn read_codes(
    cursor: &mut Cursor<'_>,
    width: ValueWidth,
    values: usize,
    parts: &mut Parts,
) -> Result<(), BlockFault> {
    let bytes = section(cursor, values, width.bits(), "values")?;
    match width {
        ValueWidth::Two => {
            parts.codes.resize(bytes.len() * 4, 0);
            let (fours, _) = parts.codes.as_chunks_mut::<4>();
            for (four, byte) in fours.iter_mut().zip(bytes) {
                // Each two bits to a byte of their own.
                let byte = u32::from(*byte);
                *four = ((byte | byte << 6 | byte << 12 | byte << 18) & 0x0303_0303).to_le_bytes();
            }
            parts.codes.truncate(values);
        }
        ValueWidth::Eight => parts.codes.extend_from_slice(bytes),
        ValueWidth::Exact => {
            let (values, _) = bytes.as_chunks::<4>();
            let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes));
            parts.exact.extend(values);
        }
    }
    for (chunk, range) in parts.filled() {
        match width {
            ValueWidth::Two => {
                let Levels { low, high } = parts.levels[chunk];
                let any = parts.codes[range.clone()]
                    .iter()
                    .fold(0, |any, code| any | code);
                let all = parts.codes[range].iter().fold(3, |all, code| all & code);
                // Two levels: both are used. One: it is the low one.
                let (large, small) = (any & 2 != 0, all & 2 == 0);
                if large != (low != high) || !small {
                    return Err(BlockFault::Scale(chunk));
                }
            }
            ValueWidth::Eight => {
                let codes = &parts.codes[range];
                if codes.iter().any(|code| *code == 0 || *code == 0x80) {
                    return Err(BlockFault::Value(chunk));
                }
                if !codes.iter().any(|code| *code == 127 || *code == 129) {
                    return Err(BlockFault::Scale(chunk));
                }
            }
            ValueWidth::Exact => {
                let numbers = SMALLEST..=f32::MAX.to_bits();
                let good = |value: &f32| numbers.contains(&(value.to_bits() & 0x7fff_ffff));
                if !parts.exact[range].iter().all(good) {
                    return Err(BlockFault::Value(chunk));
                }
            }
        }
    }
    Ok(())
}

fn packed_places(low: &[u8], rest: &[u8], len: usize, parts: &mut Parts) -> Result<(), BlockFault> {
    if !rest.is_empty() {
        return Err(BlockFault::Trailing);
    }
    let padded = pad(low, &mut parts.padded);
    let mut value = 0;
    for (chunk, (count, chunk_len)) in parts.counts.iter().zip(chunk_lens(len)).enumerate() {
        let mut next = 0;
        for _ in 0..*count {
            let place = bits_at(padded, value, PACKED_BITS);
            if place < next || place >= chunk_len {
                return Err(BlockFault::Place(chunk));
            }
            parts.places.push((chunk * CHUNK + place) as u16);
            next = place + 1;
            value += 1;
        }
    }
    Ok(())
}

fn rice_places(
    low: &[u8],
    rice: u8,
    unary: &[u8],
    len: usize,
    parts: &mut Parts,
) -> Result<(), BlockFault> {
    let Parts {
        counts,
        places,
        gaps,
        padded,
        ..
    } = parts;
    let values = counts.iter().map(|count| usize::from(*count)).sum();
    places.resize(values, 0);
    gaps.resize(values, 0);
    let mut low = Low::new(pad(low, padded), rice);
    let mut ones = Ones::new(unary);
    let (mut places, mut gaps) = (&mut places[..], &mut gaps[..]);
    for (chunk, (count, chunk_len)) in counts.iter().zip(chunk_lens(len)).enumerate() {
        let end = chunk * CHUNK + chunk_len;
        let mut next = chunk * CHUNK;
        let (here, others) = places.split_at_mut(usize::from(*count));
        let (gaps_here, other_gaps) = gaps.split_at_mut(usize::from(*count));
        (places, gaps) = (others, other_gaps);
        for (place, gap) in here.iter_mut().zip(gaps_here) {
            let zeros = ones.next().ok_or(BlockFault::Short("gaps"))?;
            let wide = zeros << rice | low.next();
            let at = next + wide;
            if at >= end {
                return Err(BlockFault::Place(chunk));
            }
            (*place, *gap) = (at as u16, wide as u16);
            next = at + 1;
        }
    }
    ones.end()?;
    // The cost is convex in the parameter: the neighbours tell.
    let gaps = parts.gaps.len() as u64;
    let lower_is_no_better = rice == 0 || saved(&parts.gaps, rice - 1) > gaps;
    if saved(&parts.gaps, rice) > gaps || !lower_is_no_better {
        return Err(BlockFault::Rice(rice));
    }
    Ok(())
}

/// `bytes` with room behind them, so that eight bytes can be taken wherever a number begins.
fn pad<'a>(bytes: &[u8], padded: &'a mut Vec<u8>) -> &'a [u8] {
    padded.clear();
    padded.extend_from_slice(bytes);
    padded.extend([0; 8]);
    padded
}

/// Number `number` of `bits` bits each.
fn bits_at(padded: &[u8], number: usize, bits: u8) -> usize {
    let bit = number * usize::from(bits);
    let four = padded[bit / 8..]
        .first_chunk()
        .map_or(0, |four| u32::from_le_bytes(*four));
    ((four >> (bit % 8)) & ((1 << bits) - 1)) as usize
}

/// Numbers of the same bits each, one after another, out of padded bytes.
struct Low<'a> {
    padded: &'a [u8],
    bits: u8,
    /// The next byte to be taken.
    at: usize,
    /// Bits that have been taken, the next number lowest, and how many of them count.
    word: u64,
    have: u8,
}

impl<'a> Low<'a> {
    const fn new(padded: &'a [u8], bits: u8) -> Self {
        Self {
            padded,
            bits,
            at: 0,
            word: 0,
            have: 0,
        }
    }

    #[inline]
    fn next(&mut self) -> usize {
        if self.have < self.bits {
            let eight = self.padded[self.at..].first_chunk();
            let eight = eight.map_or(0, |eight| u64::from_le_bytes(*eight));
            // What does not fit as whole bytes is taken again.
            self.word |= eight << self.have;
            let bytes = (63 - self.have) / 8;
            self.at += usize::from(bytes);
            self.have += bytes * 8;
        }
        let number = self.word & ((1 << self.bits) - 1);
        self.word >>= self.bits;
        self.have -= self.bits;
        number as usize
    }
}

/// The ones of a section, each as how many zeros are before it.
struct Ones<'a> {
    bytes: &'a [u8],
    /// Bytes that have been taken into words.
    taken: usize,
    /// What is left of the word at hand, and where it begins.
    word: u64,
    base: usize,
    /// The bit after the last one.
    after: usize,
}

impl<'a> Ones<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            taken: 0,
            word: 0,
            base: 0,
            after: 0,
        }
    }

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.word == 0 {
            self.refill()?;
        }
        let bit = self.base + self.word.trailing_zeros() as usize;
        self.word &= self.word - 1;
        let zeros = bit - self.after;
        self.after = bit + 1;
        Some(zeros)
    }

    fn refill(&mut self) -> Option<()> {
        let rest = &self.bytes[self.taken..];
        self.base = self.taken * 8;
        if let Some(eight) = rest.first_chunk() {
            self.word = u64::from_le_bytes(*eight);
            self.taken += 8;
        } else if rest.is_empty() {
            return None;
        } else {
            let mut eight = [0; 8];
            eight[..rest.len()].copy_from_slice(rest);
            self.word = u64::from_le_bytes(eight);
            self.taken = self.bytes.len();
        }
        Some(())
    }

    /// After the last one only the rest of its byte, in zeros.
    fn end(&self) -> Result<(), BlockFault> {
        if self.bytes.len() > self.after.div_ceil(8) {
            return Err(BlockFault::Trailing);
        }
        if self.word != 0 {
            return Err(BlockFault::Padding("gaps"));
        }
        Ok(())
    }
}
