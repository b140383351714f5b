//! A chunk's kept values as few bits: how the scales are chosen, and what a scale and a code mean.
//!
//! **2 bits**: sign and one of two magnitudes. The magnitudes are the means of the two groups that Lloyd's
//! algorithm (Lloyd 1982, Max 1960) finds among the chunk's kept magnitudes, from their mean on, until no
//! value changes its group. It adapts to the chunk as the two-bit quantiser of SparseLoCo
//! (arXiv 2508.15706) does, and spends no level on zero, which a kept value never is. On Gaussian steps it
//! keeps 0.995 of the cosine within the kept values.
//! **8 bits**: q = round(127·|x| / max), scaled by the least-squares factor ⟨x, q⟩ / ⟨q, q⟩.
//!
//! What must stay true: either is a projection (the quantised chunk is no longer than the chunk), and
//! scales are rounded towards zero. So what is decoded is never above what was clipped.

use crate::select::SMALLEST;

/// Sums are taken in so many interleaved parts, so that a compiler may use as wide registers as there are
/// and the result is the same on all.
const LANES: usize = 8;

/// Rounds of Lloyd's algorithm. Each one lowers the error; it nearly always ends by itself after 4 to 8.
const LLOYD_ROUNDS: usize = 16;

/// The smallest maximum of an 8-bit chunk, 2^-119: a 127th of it still is a normal number.
pub(crate) const MAXIMUM_MIN: f32 = 128.0 * f32::MIN_POSITIVE;

/// The two magnitudes of a chunk, as the upper 16 bits of an f32 (what bfloat16 is). Equal: there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) low: u16,
    pub(crate) high: u16,
}

impl Levels {
    /// The smallest magnitude that is a normal number.
    pub(crate) const MIN: u16 = (SMALLEST >> 16) as u16;
    /// The largest finite one.
    pub(crate) const MAX: u16 = 0x7f7f;

    /// What each code means, in the order of the codes: bit 0 is "negative", bit 1 "the larger magnitude".
    pub(crate) const fn table(self) -> [f32; 4] {
        let low = f32::from_bits((self.low as u32) << 16);
        let high = f32::from_bits((self.high as u32) << 16);
        [low, -low, high, -high]
    }
}

/// A positive number of normal size as 16 bits, rounded towards zero.
fn level(value: f64) -> u16 {
    ((toward_zero(value).to_bits() >> 16) as u16).max(Levels::MIN)
}

/// As an f32 that is not larger; `value` is not negative.
fn toward_zero(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value {
        f32::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    }
}

/// Chooses the levels of `values` (none of them zero) and appends their codes.
pub(crate) fn two_bits(values: &[f32], codes: &mut Vec<u8>) -> Levels {
    let all = sum_from(values, 0.0).0;
    let mut threshold = all / values.len() as f64;
    let mut split = groups(values, all, threshold);
    for _ in 0..LLOYD_ROUNDS {
        let moved = f64::midpoint(split.low, split.high);
        let next = groups(values, all, moved);
        // As many members: the same members.
        if next.large == split.large {
            break;
        }
        (threshold, split) = (moved, next);
    }
    let levels = Levels {
        low: level(split.low),
        high: level(split.high),
    };
    let differ = levels.low != levels.high;
    codes.extend(values.iter().map(|value| {
        let negative = u8::from(value.is_sign_negative());
        let large = u8::from(differ && f64::from(value.abs()) >= threshold);
        negative | large << 1
    }));
    levels
}

/// Magnitudes on either side of a threshold: both means, and how many are not below it. If one side is empty
/// both means are that of the other.
struct Groups {
    low: f64,
    high: f64,
    large: usize,
}

/// `all` is the sum of all magnitudes.
fn groups(values: &[f32], all: f64, threshold: f64) -> Groups {
    let (above, large) = sum_from(values, threshold);
    let small = values.len() - large;
    let mean = |sum: f64, count: usize| sum / count as f64;
    let (low, high) = match (small, large) {
        (0, _) => (mean(above, large), mean(above, large)),
        (_, 0) => (mean(all, small), mean(all, small)),
        _ => (mean(all - above, small), mean(above, large)),
    };
    Groups { low, high, large }
}

/// The sum of the magnitudes from `threshold` on, in interleaved parts, and how many they are.
fn sum_from(values: &[f32], threshold: f64) -> (f64, usize) {
    let (mut sums, mut counts) = ([0.0_f64; LANES], [0.0_f64; LANES]);
    let mut lane = |lane: usize, value: f32| {
        let magnitude = f64::from(value.abs());
        let large = magnitude >= threshold;
        sums[lane] += if large { magnitude } else { 0.0 };
        counts[lane] += if large { 1.0 } else { 0.0 };
    };
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (i, value) in group.iter().enumerate() {
            lane(i, *value);
        }
    }
    for (i, value) in rest.iter().enumerate() {
        lane(i, *value);
    }
    (sums.iter().sum(), counts.iter().sum::<f64>() as usize)
}

/// What the 8-bit code `code` means beside the chunk's maximum: one product and one quotient in f64, rounded
/// to f32.
pub(crate) fn eight_bit_value(maximum: f32, code: i8) -> f32 {
    (f64::from(maximum) * f64::from(code) / 127.0) as f32
}

/// Chooses the maximum of `values` (none of them zero) and appends their codes, 0 where a value is too small
/// for one; `None` if it is below [`MAXIMUM_MIN`].
pub(crate) fn eight_bits(values: &[f32], codes: &mut Vec<u8>) -> Option<f32> {
    let largest = values
        .iter()
        .fold(0.0_f32, |max, value| max.max(value.abs()));
    let start = codes.len();
    codes.extend(values.iter().map(|value| {
        let code = (f64::from(*value) * 127.0 / f64::from(largest)).round();
        (code as i8) as u8
    }));
    let (mut dot, mut square) = (0.0_f64, 0.0_f64);
    for (value, code) in values.iter().zip(&codes[start..]) {
        let code = f64::from(*code as i8);
        dot += f64::from(*value) * code;
        square += code * code;
    }
    // The least-squares factor is at most max / 127 · (1 + 1/254): finite unless the maximum nearly is not.
    let maximum = toward_zero((dot / square * 127.0).min(f64::from(f32::MAX)));
    (maximum >= MAXIMUM_MIN).then_some(maximum)
}
