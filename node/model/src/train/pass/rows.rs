//! What happens to each row by itself between two products: norms, the gated unit, sums. Called by the pass. Pure.
//! Loops over slices that the compiler turns into vector instructions.

use rayon::{
    iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator},
    slice::{ParallelSlice, ParallelSliceMut},
};

use super::{Found, Grid};
use crate::train::head::exp;

/// Values that one thread works on at a time.
const PART_VALUES: usize = 1 << 14;
/// Rows whose sums are added up first when a column is summed: fixed, so that the sum is.
const PART_ROWS: usize = 64;

/// `a += b`.
pub(super) fn add(a: &mut [f32], b: &[f32]) {
    a.par_chunks_mut(PART_VALUES)
        .zip(b.par_chunks(PART_VALUES))
        .for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a += b));
}

/// 1 / (1 + e⁻ˣ), without an overflow on either side.
fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let up = 1.0 / (1.0 + e);
    if x < 0.0 { e * up } else { up }
}

/// silu(gate) · up.
pub(super) fn gated(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; gate.len()];
    out.par_chunks_mut(PART_VALUES)
        .zip(gate.par_chunks(PART_VALUES))
        .zip(up.par_chunks(PART_VALUES))
        .for_each(|((out, gate), up)| {
            for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate * sigmoid(*gate) * up;
            }
        });
    out
}

/// The gradients by gate and up, written over them, from that by silu(gate) · up.
pub(super) fn gated_back(by: &[f32], gate: &mut [f32], up: &mut [f32]) {
    by.par_chunks(PART_VALUES)
        .zip(gate.par_chunks_mut(PART_VALUES))
        .zip(up.par_chunks_mut(PART_VALUES))
        .for_each(|((by, gate), up)| {
            for ((by, gate), up) in by.iter().zip(gate).zip(up) {
                let (x, s) = (*gate, sigmoid(*gate));
                *gate = by * *up * s * (1.0 + x * (1.0 - s));
                *up = by * x * s;
            }
        });
}

/// A norm's gain.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) gain: Vec<f32>,
    pub(crate) epsilon: f32,
    /// Which leaf the gain is, if it is trained.
    pub(crate) leaf: Option<usize>,
}

impl Norm {
    /// `x · s · gain` with s = 1 / √(mean(x²) + ε) of each row; and each row's s.
    pub(crate) fn forward(&self, x: &Grid, width: usize) -> (Grid, Vec<f32>) {
        let x = x.values();
        let mut out = vec![0.0; x.len()];
        let scales = out
            .par_chunks_mut(width)
            .zip(x.par_chunks(width))
            .map(|(out, x)| {
                let square = dot(x, x) / width as f32;
                let scale = 1.0 / (square + self.epsilon).sqrt();
                for ((out, x), gain) in out.iter_mut().zip(x).zip(&self.gain) {
                    *out = x * scale * gain;
                }
                scale
            })
            .collect();
        (Grid::new(out, &[x.len() / width, width]), scales)
    }

    /// Adds the gradient by `x` to `by_x`, from that by the norm; the gain's goes into `found`.
    pub(crate) fn backward(
        &self,
        by: &Grid,
        x: &Grid,
        scales: &[f32],
        by_x: &mut Grid,
        width: usize,
        found: &mut Found,
    ) {
        let (by, x) = (by.values(), x.values());
        by_x.values_mut()
            .par_chunks_mut(width)
            .zip(by.par_chunks(width))
            .zip(x.par_chunks(width))
            .zip(scales)
            .for_each_init(
                || vec![0.0; width],
                |weighted, (((out, by), x), scale)| {
                    let each = weighted.iter_mut().zip(by).zip(&self.gain);
                    each.for_each(|((weighted, by), gain)| *weighted = by * gain);
                    let back = dot(weighted, x) * scale * scale * scale / width as f32;
                    for ((out, weighted), x) in out.iter_mut().zip(weighted).zip(x) {
                        *out += *weighted * scale - x * back;
                    }
                },
            );
        if let Some(leaf) = self.leaf {
            let sum = gain_gradient(by, x, scales, width);
            found.0[leaf] = Some(Grid::new(sum, &[width]));
        }
    }
}

/// A scalar product in sixteen lanes, always in the same order.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    let mut lanes = [0.0_f32; 16];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Σ over rows of `by · x · s`.
fn gain_gradient(by: &[f32], x: &[f32], scales: &[f32], width: usize) -> Vec<f32> {
    let parts: Vec<Vec<f32>> = by
        .par_chunks(width * PART_ROWS)
        .zip(x.par_chunks(width * PART_ROWS))
        .zip(scales.par_chunks(PART_ROWS))
        .map(|((by, x), scales)| {
            let mut sum = vec![0.0; width];
            let each = by.chunks(width).zip(x.chunks(width)).zip(scales);
            for ((by, x), scale) in each {
                for ((sum, by), x) in sum.iter_mut().zip(by).zip(x) {
                    *sum += by * x * scale;
                }
            }
            sum
        })
        .collect();
    let mut sum = vec![0.0; width];
    for part in parts {
        sum.iter_mut()
            .zip(part)
            .for_each(|(sum, part)| *sum += part);
    }
    sum
}

/// Adds each row to the row of a table that its id names, in order.
pub(crate) fn scatter(table: &mut [f32], ids: &[u32], rows: &[f32], width: usize) {
    for (id, row) in ids.iter().zip(rows.chunks(width)) {
        let start = *id as usize * width;
        let into = &mut table[start..start + width];
        into.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value);
    }
}

/// Calls `work` for each chunk of `out`, on all threads.
pub(super) fn each_chunk(
    out: &mut [f32],
    len: usize,
    work: impl Fn(usize, &mut [f32]) + Sync + Send,
) {
    let chunks: Vec<&mut [f32]> = out.chunks_mut(len).collect();
    chunks
        .into_par_iter()
        .enumerate()
        .for_each(|(at, chunk)| work(at, chunk));
}
