//! A block's pieces to its bytes. The encoder calls it; so do the tests, to see that there is one form.

use super::{COUNTS, PACKED_BITS, Parts, chunk_lens};
use crate::codec::{CHUNK, Codec, IndexCoding, ValueWidth};

/// Appends the bytes of `parts`, a block of `len` elements: nothing if it holds no value.
pub(crate) fn write(parts: &mut Parts, codec: Codec, len: usize, out: &mut Vec<u8>) {
    if parts.places.is_empty() {
        return;
    }
    let full = chunk_lens(len)
        .zip(&parts.counts)
        .all(|(len, count)| codec.keep.of(len) == usize::from(*count));
    gaps(parts);
    let rice = match codec.indices {
        IndexCoding::Rice => best_rice(&parts.gaps),
        IndexCoding::Packed => 0,
    };
    out.push(if full { rice } else { rice | COUNTS });
    if !full {
        out.extend(parts.counts.iter().flat_map(|count| count.to_le_bytes()));
    }
    scales(parts, codec.values, out);
    match codec.indices {
        IndexCoding::Rice => pack(parts.gaps.iter().copied(), rice, out),
        IndexCoding::Packed => {
            let places = parts.places.iter().map(|place| place % CHUNK as u16);
            pack(places, PACKED_BITS, out);
        }
    }
    match codec.values {
        ValueWidth::Two => {
            let (fours, rest) = parts.codes.as_chunks::<4>();
            let byte = |codes: &[u8]| codes.iter().rev().fold(0, |byte, code| byte << 2 | code);
            out.extend(fours.iter().map(|four| byte(four)));
            out.extend((!rest.is_empty()).then(|| byte(rest)));
        }
        ValueWidth::Eight => out.extend_from_slice(&parts.codes),
        ValueWidth::Exact => {
            out.extend(parts.exact.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    if codec.indices == IndexCoding::Rice {
        unary(&parts.gaps, rice, out);
    }
}

/// Notes the gaps between the places of each chunk.
fn gaps(parts: &mut Parts) {
    let mut gaps = std::mem::take(&mut parts.gaps);
    gaps.clear();
    for (chunk, range) in parts.filled() {
        let mut next = chunk * CHUNK;
        gaps.extend(parts.places[range].iter().map(|place| {
            let gap = usize::from(*place) - next;
            next = usize::from(*place) + 1;
            gap as u16
        }));
    }
    parts.gaps = gaps;
}

/// How many bits fewer the unary parts take with parameter `rice` + 1 than with `rice`; the low bits take as
/// many more as there are gaps.
pub(super) fn saved(gaps: &[u16], rice: u8) -> u64 {
    // (g >> b) - (g >> (b + 1)); sums of 65,536 numbers below 2^12 fit 32 bits.
    let saved = gaps
        .iter()
        .map(|gap| u32::from(((gap >> rice) + 1) >> 1))
        .sum::<u32>();
    u64::from(saved)
}

/// The parameter that makes the gaps shortest, of equals the smallest. The cost is convex in it.
fn best_rice(gaps: &[u16]) -> u8 {
    let mut rice = 0;
    while saved(gaps, rice) > gaps.len() as u64 {
        rice += 1;
    }
    rice
}

fn scales(parts: &Parts, width: ValueWidth, out: &mut Vec<u8>) {
    for (chunk, _) in parts.filled() {
        match width {
            ValueWidth::Two => {
                out.extend(parts.levels[chunk].low.to_le_bytes());
                out.extend(parts.levels[chunk].high.to_le_bytes());
            }
            ValueWidth::Eight => out.extend(parts.maxima[chunk].to_le_bytes()),
            ValueWidth::Exact => {}
        }
    }
}

/// Appends the low `bits` (at most 12) of each number, and zeros to the end of the byte.
fn pack(numbers: impl Iterator<Item = u16>, bits: u8, out: &mut Vec<u8>) {
    let mask = (1_u64 << bits) - 1;
    let (mut held, mut used) = (0_u64, 0_u32);
    for number in numbers {
        held |= (u64::from(number) & mask) << used;
        used += u32::from(bits);
        if used >= 32 {
            out.extend((held as u32).to_le_bytes());
            held >>= 32;
            used -= 32;
        }
    }
    out.extend(&held.to_le_bytes()[..used.div_ceil(8) as usize]);
}

/// Appends for each gap as many zeros as `gap >> rice` and a one, and zeros to the end of the byte.
fn unary(gaps: &[u16], rice: u8, out: &mut Vec<u8>) {
    let bits: usize = gaps.iter().map(|gap| usize::from(gap >> rice) + 1).sum();
    let start = out.len();
    out.resize(start + bits.div_ceil(8), 0);
    let bytes = &mut out[start..];
    let mut bit = 0;
    for gap in gaps {
        bit += usize::from(gap >> rice);
        bytes[bit / 8] |= 1 << (bit % 8);
        bit += 1;
    }
}
