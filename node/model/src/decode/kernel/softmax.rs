//! What attention needs beside products: exponentials, their shares, and the mix of values. Called by
//! [`super`] within its vectorised function, in which the compiler turns the plain loops into vectors.

use pulp::Simd;

use super::{Chunk, LANES};

#[inline(always)]
pub(super) fn mix_all<S: Simd>(simd: S, weights: &[f32], vectors: &[f32], out: &mut [f32]) {
    let width = out.len();
    for (at, out) in out.chunks_mut(LANES).enumerate() {
        let start = at * LANES;
        let mut sums = [0.0; LANES];
        if let Ok(out) = <&mut Chunk>::try_from(&mut *out) {
            let sums = S::as_mut_simd_f32s(&mut sums).0;
            for (weight, vector) in weights.iter().zip(vectors.chunks_exact(width)) {
                let weight = simd.splat_f32s(*weight);
                for (sum, x) in sums
                    .iter_mut()
                    .zip(S::as_simd_f32s(&vector[start..start + LANES]).0)
                {
                    *sum = simd.mul_add_e_f32s(weight, *x, *sum);
                }
            }
            S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
        } else {
            for (weight, vector) in weights.iter().zip(vectors.chunks_exact(width)) {
                for (sum, x) in sums.iter_mut().zip(&vector[start..]) {
                    *sum += weight * x;
                }
            }
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

#[inline(always)]
pub(super) fn softmax_all(values: &mut [f32]) {
    let highest = values.iter().copied().fold(f32::MIN, f32::max);
    let mut sums = [0.0; LANES];
    for chunk in values.chunks_mut(LANES) {
        for (value, sum) in chunk.iter_mut().zip(&mut sums) {
            *value = exp(*value - highest);
            *sum += *value;
        }
    }
    let scale = 1.0 / sums.iter().sum::<f32>();
    for value in values {
        *value *= scale;
    }
}

/// e to the power of `x`, for the compiler to compute in all lanes at once: a power of two times
/// the Taylor series of the rest, |rest| ≤ ln 2 / 2, whose eighth term is below f32's precision.
/// Below -87 it is e^-87, above 88 e^88.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it rounds to the nearest integer and leaves that in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // Two parts of ln 2, so that `power · LN_2_HIGH` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = x - power * LN_2_HIGH - power * LN_2_LOW;
    let mut series = 1.0 / 5040.0;
    for term in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        series = series * rest + term;
    }
    let exponent = rounded.to_bits().wrapping_add(127) << 23;
    series * f32::from_bits(exponent)
}
