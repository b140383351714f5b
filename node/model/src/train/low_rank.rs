//! Low-rank updates (spec §10.7): which matrices have one, the fixed `A`, and how `B · A` becomes
//! part of a weight. Called by the trainer and by what writes the result. Pure.

use burn::tensor::{DType, bf16, f16};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};
use sha2::{Digest, Sha256};

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

/// The fixed `A`, `[rank, columns]`, of the weight `name`.
///
/// The rule: ChaCha20 (20 rounds, nonce 0) under the key SHA-256(`seed` ‖ `name`), its output read as
/// little-endian u32 words `w`, row after row: `((w >> 8) as f32 − 2²³ + ½) · 2⁻²³ / √columns`, where
/// the first two operations are exact in f64 and the result is rounded to f32 once. Even over
/// (−1/√columns, 1/√columns), never 0.
pub fn fixed(seed: &[u8; 32], name: &str, rank: usize, columns: usize) -> Vec<f32> {
    let mut hash = Sha256::new();
    hash.update(seed);
    hash.update(name.as_bytes());
    let mut words = ChaCha20Rng::from_seed(hash.finalize().into());
    let scale = f64::exp2(-23.0) / (columns as f64).sqrt();
    (0..rank * columns)
        .map(|_| {
            let centred = f64::from(words.next_u32() >> 8) - 8_388_607.5;
            (centred * scale) as f32
        })
        .collect()
}

/// `W + Σ_r B[·, r] · A[r, ·]`, r ascending, in f64 without fused operations, rounded once to the
/// nearest value of `dtype`, ties to even. Gives the little-endian bytes and how many elements
/// changed.
pub(crate) fn merge(
    weight: &[f32],
    (rows, columns): (usize, usize),
    a: &[f32],
    b: &[f32],
    dtype: DType,
) -> (Vec<u8>, u64) {
    let rank = a.len() / columns;
    let mut bytes = Vec::with_capacity(weight.len() * dtype.size());
    let mut changed = 0;
    let mut sums = vec![0.0_f64; columns];
    for row in 0..rows {
        let old = &weight[row * columns..(row + 1) * columns];
        for (sum, old) in sums.iter_mut().zip(old) {
            *sum = f64::from(*old);
        }
        for r in 0..rank {
            let factor = f64::from(b[row * rank + r]);
            let part = &a[r * columns..(r + 1) * columns];
            for (sum, a) in sums.iter_mut().zip(part) {
                *sum += factor * f64::from(*a);
            }
        }
        for (sum, old) in sums.iter().zip(old) {
            changed += u64::from(push_rounded(&mut bytes, *sum, *old, dtype));
        }
    }
    (bytes, changed)
}

/// Appends `value` in the format; whether it differs from `old`.
pub(crate) fn push_rounded(bytes: &mut Vec<u8>, value: f64, old: f32, dtype: DType) -> bool {
    match dtype {
        DType::F16 => {
            let rounded = f16::from_f64(value);
            bytes.extend(rounded.to_le_bytes());
            rounded.to_f32().to_bits() != old.to_bits()
        }
        DType::BF16 => {
            let rounded = bf16::from_f64(value);
            bytes.extend(rounded.to_le_bytes());
            rounded.to_f32().to_bits() != old.to_bits()
        }
        _ => {
            let rounded = value as f32;
            bytes.extend(rounded.to_le_bytes());
            rounded.to_bits() != old.to_bits()
        }
    }
}
