//! Low-rank updates (spec §10.7): which matrices have one, the fixed `A`, and how `B · A`, or a step of every
//! weight, becomes part of a weight. Called by the trainer and by what writes the result. Pure.

use burn::tensor::{DType, bf16, f16};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

/// What the name of a trained `B` ends with, in place of `weight`.
pub(crate) const B_SUFFIX: &str = "lora_B";

/// Whether a weight has a low-rank update: the seven matrices of each layer do.
pub(crate) fn is_adapted(name: &str) -> bool {
    name.ends_with("_proj.weight")
}

/// The name of the `B` that belongs to a weight.
pub(crate) fn b_name(weight: &str) -> String {
    let stem = weight.strip_suffix("weight").unwrap_or(weight);
    format!("{stem}{B_SUFFIX}")
}

/// The fixed `A`, `[rank, columns]`, of the matrix that is tensor `tensor` of its file, in data order.
///
/// The rule (docs/fl-protocol.md): ChaCha20's keystream under key `seed`, nonce (0, `tensor`, 0) as three
/// little-endian u32 and block counter 0, read as little-endian u32 words w, gives one after another
/// RNE((2·(w >> 8) + 1 − 2²⁴) · 2⁻²⁴ · s) with s = RNE(1 / RNE(√columns)), each RNE to f32. Even over
/// (−1/√columns, 1/√columns), never 0.
pub fn fixed(seed: &[u8; 32], tensor: u32, rank: usize, columns: usize) -> Vec<f32> {
    let mut words = ChaCha20Rng::from_seed(*seed);
    words.set_stream(u64::from(tensor));
    let scale = 1.0 / (columns as f32).sqrt();
    (0..rank * columns)
        .map(|_| {
            let odd = 2 * (words.next_u32() >> 8) as i32 + 1 - (1 << 24);
            odd as f32 / 16_777_216.0 * scale
        })
        .collect()
}

/// `W + s`, s = 0 + B[·, 0] · A[0, ·] + B[·, 1] · A[1, ·] + …, all in f64 without fused operations, rounded
/// once to the nearest value of `dtype`, ties to even. Gives the little-endian bytes and how many
/// elements changed.
pub(crate) fn merge(
    weight: &[f32],
    (rows, columns): (usize, usize),
    a: &[f32],
    b: &[f32],
    dtype: DType,
) -> Result<(Vec<u8>, u64), OutOfRange> {
    let rank = a.len() / columns;
    let mut bytes = Vec::with_capacity(weight.len() * dtype.size());
    let mut changed = 0;
    let mut sums = vec![0.0_f64; columns];
    for row in 0..rows {
        sums.fill(0.0);
        for r in 0..rank {
            let factor = f64::from(b[row * rank + r]);
            let part = &a[r * columns..(r + 1) * columns];
            for (sum, a) in sums.iter_mut().zip(part) {
                *sum += factor * f64::from(*a);
            }
        }
        let old = &weight[row * columns..(row + 1) * columns];
        for (at, (sum, old)) in sums.iter().zip(old).enumerate() {
            let new = f64::from(*old) + sum;
            let out_of_range = || OutOfRange {
                element: row * columns + at,
                value: new,
            };
            let is_new = push_rounded(&mut bytes, new, *old, dtype).ok_or_else(out_of_range)?;
            changed += u64::from(is_new);
        }
    }
    Ok((bytes, changed))
}

/// `W + V`: one f32 addition per element that has a value, rounded to the nearest value of `dtype`, ties to
/// even; elements without one keep their bits. Gives the little-endian bytes and how many elements changed.
pub(crate) fn add(
    weight: &[f32],
    step: &[f32],
    dtype: DType,
) -> Result<(Vec<u8>, u64), OutOfRange> {
    let mut bytes = Vec::with_capacity(weight.len() * dtype.size());
    let mut changed = 0;
    for (element, (old, step)) in weight.iter().zip(step).enumerate() {
        // Adding 0 would turn −0 into 0.
        let new = if *step == 0.0 { *old } else { old + step };
        let value = f64::from(new);
        let is_new = push_rounded(&mut bytes, value, *old, dtype);
        changed += u64::from(is_new.ok_or(OutOfRange { element, value })?);
    }
    Ok((bytes, changed))
}

/// A value that the format cannot hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct OutOfRange {
    /// Which element of the tensor.
    pub(crate) element: usize,
    /// What it would be.
    pub(crate) value: f64,
}

/// Rounded to f32 so that rounding once more, to a narrower format, gives what rounding `value` itself to it
/// would: towards zero, with the last bit set if that lost something (rounding to odd). `half`'s own way from
/// f64 goes through the nearest f32 on some processors and rounds twice.
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    let wide = f64::from(near);
    if wide.to_bits() == value.to_bits() || !near.is_finite() {
        return near;
    }
    let towards_zero = near.to_bits() - u32::from(wide.abs() > value.abs());
    f32::from_bits(towards_zero | 1)
}

/// Appends `value` in the format; whether it differs from `old`, `None` if it would not be finite.
pub(crate) fn push_rounded(
    bytes: &mut Vec<u8>,
    value: f64,
    old: f32,
    dtype: DType,
) -> Option<bool> {
    let rounded = match dtype {
        DType::F16 => {
            let rounded = f16::from_f32(to_odd(value));
            bytes.extend(rounded.to_le_bytes());
            rounded.to_f32()
        }
        DType::BF16 => {
            let rounded = bf16::from_f32(to_odd(value));
            bytes.extend(rounded.to_le_bytes());
            rounded.to_f32()
        }
        _ => {
            let rounded = value as f32;
            bytes.extend(rounded.to_le_bytes());
            rounded
        }
    };
    rounded
        .is_finite()
        .then(|| rounded.to_bits() != old.to_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_is_the_one_that_another_implementation_of_the_rule_gives() {
        let bits: Vec<u32> = fixed(&[7; 32], 5, 2, 12)
            .iter()
            .map(|a| a.to_bits())
            .collect();
        assert_eq!(bits.len(), 24);
        assert_eq!(
            bits[..4],
            [0x3d11_b86c, 0xbe53_8aaf, 0x3cc0_00f8, 0x3dc4_8760]
        );
        assert_ne!(fixed(&[7; 32], 6, 1, 12), fixed(&[7; 32], 5, 1, 12));
    }

    #[test]
    fn a_merged_weight_is_rounded_once_and_to_even() {
        // Half a unit in the last place above 1 in f16, and above 1 + one unit.
        let unit = f32::exp2(-10.0);
        let (bytes, changed) = merge(
            &[1.0, 1.0 + unit],
            (1, 2),
            &[unit, unit],
            &[0.5],
            DType::F16,
        )
        .unwrap();
        let read = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_bits();
        let is = |value: f32| f16::from_f32(value).to_bits();
        assert_eq!((read(0), read(2)), (is(1.0), is(1.0 + 2.0 * unit)));
        assert_eq!(changed, 1);
        // Above the middle by less than f32 can say: rounding to f32 first would lose it.
        let little = [0.5 * unit, f32::exp2(-36.0)];
        let (bytes, _) = merge(&[1.0], (1, 1), &little, &[1.0, 1.0], DType::F16).unwrap();
        assert_eq!(
            f16::from_le_bytes([bytes[0], bytes[1]]).to_bits(),
            is(1.0 + unit)
        );
    }

    #[test]
    fn a_value_that_the_format_cannot_hold_is_no_value() {
        for (dtype, large, factor) in [
            (DType::F16, 65_504.0, 2.0),
            (DType::BF16, bf16::MAX.to_f32(), 2.0),
            (DType::F32, f32::MAX, 2.0),
        ] {
            let merged = |b: f32| merge(&[1.0, large], (2, 1), &[large], &[0.0, b], dtype);
            let refused = merged(factor).unwrap_err();
            assert_eq!(refused.element, 1, "{dtype:?}");
            assert!(refused.value > f64::from(large), "{dtype:?}");
            assert!(merged(0.0).is_ok(), "{dtype:?}");
            let added = |step: f32| add(&[1.0, large], &[-0.0, step], dtype);
            assert_eq!(added(large).unwrap_err().element, 1, "{dtype:?}");
            assert_eq!(added(0.0).unwrap().1, 0, "{dtype:?}");
        }
    }
}
