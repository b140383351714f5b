//! Dot products of stored weights with f32 vectors, for the processor at hand. Called by the decode
//! step ([`super`]) and, for whole matrices, by [`super::stored`]. What must stay true: every dot
//! product is summed in [`LANES`] lanes and folded in one order, whatever the width of the
//! processor's registers, the number of rows computed side by side, the number of threads or the
//! format of the weights. So a row of a batch equals the row alone to the bit, and so do processors
//! that can fuse a multiplication with an addition (AVX2, AVX-512, NEON).

#![expect(
    clippy::inline_always,
    clippy::needless_range_loop,
    reason = "only what is inlined into pulp's vectorised function uses its instructions, and plain
              counted loops are what is unrolled into registers"
)]

use half::{bf16, f16};
use pulp::{Arch, Simd, WithSimd};

use softmax::{exp, mix_all, softmax_all};

mod softmax;
#[cfg(target_arch = "x86_64")]
use pulp::{
    NullaryFnOnce,
    x86::{V3, V4},
};

/// Lanes of every sum: two registers of AVX-512, four of AVX2, eight of NEON.
pub(crate) const LANES: usize = 32;

/// One value for each lane.
pub(crate) type Chunk = [f32; LANES];

/// Vectors of equal length, each filled up to whole chunks with zeros.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    chunks: usize,
    values: Vec<Chunk>,
}

impl Rows {
    /// `rows` zero vectors of `len` values.
    pub(crate) fn new(rows: usize, len: usize) -> Self {
        let chunks = len.div_ceil(LANES);
        Self {
            chunks,
            values: vec![[0.0; LANES]; rows * chunks],
        }
    }

    /// Number of vectors.
    pub(crate) fn count(&self) -> usize {
        self.values.len() / self.chunks
    }

    /// One vector, zeros at its end included.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        self.values[row * self.chunks..][..self.chunks].as_flattened_mut()
    }

    fn row(&self, row: usize) -> &[Chunk] {
        &self.values[row * self.chunks..][..self.chunks]
    }
}

/// Rows of a weight matrix as they are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Weights<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// The upper half of single precision.
    Bf16(&'a [bf16]),
}

impl Weights<'_> {
    /// Values `range`.
    pub(crate) fn slice(self, range: std::ops::Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[range]),
            Self::F16(values) => Self::F16(&values[range]),
            Self::Bf16(values) => Self::Bf16(&values[range]),
        }
    }
}

/// Dot products of each of `weights`' rows, `columns` wide, with each vector of `x`: the products
/// of the first vector, then those of the second, and so on.
pub(crate) fn products(weights: Weights<'_>, columns: usize, x: &Rows, out: &mut [f32]) {
    run(Job::Products {
        weights,
        columns,
        x,
        out,
    });
}

/// Stored values as f32, which holds all of them exactly.
pub(crate) fn widen(weights: Weights<'_>, out: &mut [f32]) {
    run(Job::Widen { weights, out });
}

/// `Σ weights[t] · vectors[t]` for vectors of `out`'s length, in the order of `t`.
pub(crate) fn mix(weights: &[f32], vectors: &[f32], out: &mut [f32]) {
    run(Job::Mix {
        weights,
        vectors,
        out,
    });
}

/// `exp(values - highest) / Σ`, in place.
pub(crate) fn softmax(values: &mut [f32]) {
    run(Job::Softmax { values });
}

/// `gate · sigmoid(gate) · up`, into `gate`.
pub(crate) fn gated(gate: &mut [f32], up: &[f32]) {
    run(Job::Gated { gate, up });
}

/// `Σ x²`, in lanes.
pub(crate) fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for chunk in x.chunks(LANES) {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    sums.iter().sum()
}

enum Job<'a> {
    Products {
        weights: Weights<'a>,
        columns: usize,
        x: &'a Rows,
        out: &'a mut [f32],
    },
    Widen {
        weights: Weights<'a>,
        out: &'a mut [f32],
    },
    Mix {
        weights: &'a [f32],
        vectors: &'a [f32],
        out: &'a mut [f32],
    },
    Softmax {
        values: &'a mut [f32],
    },
    Gated {
        gate: &'a mut [f32],
        up: &'a [f32],
    },
}

/// Asked of the processor once, then remembered by pulp.
fn run(job: Job<'_>) {
    run_with(job, Width::Widest);
}

/// Which registers to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    /// The widest there are.
    Widest,
    /// AVX2's where there are AVX-512's.
    #[cfg(test)]
    Avx2,
    /// None.
    #[cfg(test)]
    Scalar,
}

fn run_with(job: Job<'_>, width: Width) {
    #[cfg(test)]
    if width == Width::Scalar {
        return Simd::vectorize(pulp::Scalar::new(), job);
    }
    #[cfg(target_arch = "x86_64")]
    {
        if width == Width::Widest
            && let Some(simd) = V4::try_new()
        {
            return simd.vectorize(Avx512 { simd, job });
        }
        if let Some(simd) = V3::try_new() {
            return Simd::vectorize(simd, job);
        }
    }
    let _ = width;
    Arch::new().dispatch(job);
}

impl WithSimd for Job<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.compute::<S, Portable>(simd);
    }
}

/// AVX-512 apart, for its instruction that widens f16.
#[cfg(target_arch = "x86_64")]
struct Avx512<'a> {
    simd: V4,
    job: Job<'a>,
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for Avx512<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.job.compute::<_, Avx512Widen>(self.simd);
    }
}

/// How f16 becomes f32 in registers.
trait Widen<S: Simd> {
    /// Values `part · register width` and on.
    fn f16(simd: S, chunk: &[f16; LANES], part: usize) -> S::f32s;
}

/// With integer instructions.
struct Portable;

impl<S: Simd> Widen<S> for Portable {
    #[inline(always)]
    fn f16(simd: S, chunk: &[f16; LANES], part: usize) -> S::f32s {
        let mut wide = [0.0; LANES];
        let width = S::F32_LANES;
        for (wide, narrow) in wide[..width].iter_mut().zip(&chunk[part * width..]) {
            let bits = u32::from(narrow.to_bits());
            // The exponent's bias differs by 112; a multiplication corrects it for subnormals too.
            let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
            *wide = f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16);
        }
        part_of(simd, &wide, 0)
    }
}

#[cfg(target_arch = "x86_64")]
struct Avx512Widen;

#[cfg(target_arch = "x86_64")]
impl Widen<V4> for Avx512Widen {
    #[inline(always)]
    fn f16(simd: V4, chunk: &[f16; LANES], part: usize) -> pulp::f32x16 {
        let (halves, _) = chunk.as_chunks::<16>();
        let bits = halves[part].map(f16::to_bits);
        pulp::bytemuck::cast(simd.avx512f._mm512_cvtph_ps(pulp::bytemuck::cast(bits)))
    }
}

/// A format of stored values.
trait Format<S: Simd> {
    type Value: Copy;
    fn load(simd: S, chunk: &[Self::Value; LANES], part: usize) -> S::f32s;
    fn one(value: Self::Value) -> f32;
}

struct Single;
struct Half<W>(std::marker::PhantomData<W>);
struct Brain;

impl<S: Simd> Format<S> for Single {
    type Value = f32;
    #[inline(always)]
    fn load(simd: S, chunk: &Chunk, part: usize) -> S::f32s {
        part_of(simd, chunk, part)
    }
    #[inline(always)]
    fn one(value: f32) -> f32 {
        value
    }
}

impl<S: Simd, W: Widen<S>> Format<S> for Half<W> {
    type Value = f16;
    #[inline(always)]
    fn load(simd: S, chunk: &[f16; LANES], part: usize) -> S::f32s {
        W::f16(simd, chunk, part)
    }
    #[inline(always)]
    fn one(value: f16) -> f32 {
        value.to_f32()
    }
}

impl<S: Simd> Format<S> for Brain {
    type Value = bf16;
    #[inline(always)]
    fn load(simd: S, chunk: &[bf16; LANES], part: usize) -> S::f32s {
        let mut wide = [0.0; LANES];
        let width = S::F32_LANES;
        for (wide, narrow) in wide[..width].iter_mut().zip(&chunk[part * width..]) {
            *wide = f32::from_bits(u32::from(narrow.to_bits()) << 16);
        }
        part_of(simd, &wide, 0)
    }
    #[inline(always)]
    fn one(value: bf16) -> f32 {
        value.to_f32()
    }
}

#[inline(always)]
fn part_of<S: Simd>(_: S, chunk: &Chunk, part: usize) -> S::f32s {
    S::as_simd_f32s(chunk).0[part]
}

impl Job<'_> {
    #[inline(always)]
    fn compute<S: Simd, W: Widen<S>>(self, simd: S) {
        match self {
            Self::Products {
                weights,
                columns,
                x,
                out,
            } => match weights {
                Weights::F32(values) => by_width::<S, Single>(simd, values, columns, x, out),
                Weights::F16(values) => by_width::<S, Half<W>>(simd, values, columns, x, out),
                Weights::Bf16(values) => by_width::<S, Brain>(simd, values, columns, x, out),
            },
            Self::Widen { weights, out } => match weights {
                Weights::F32(values) => out.copy_from_slice(values),
                Weights::F16(values) => widen_all::<S, Half<W>>(simd, values, out),
                Weights::Bf16(values) => widen_all::<S, Brain>(simd, values, out),
            },
            Self::Mix {
                weights,
                vectors,
                out,
            } => mix_all(simd, weights, vectors, out),
            Self::Softmax { values } => softmax_all(values),
            Self::Gated { gate, up } => {
                for (gate, up) in gate.iter_mut().zip(up) {
                    *gate = *gate / (1.0 + exp(-*gate)) * up;
                }
            }
        }
    }
}

/// Chooses how many registers make up the lanes, and how many vectors are computed side by side so
/// that the sums fit into the registers.
#[inline(always)]
fn by_width<S: Simd, F: Format<S>>(
    simd: S,
    weights: &[F::Value],
    columns: usize,
    x: &Rows,
    out: &mut [f32],
) {
    match S::F32_LANES {
        16 => all_rows::<S, F, 2, 4>(simd, weights, columns, x, out),
        8 => all_rows::<S, F, 4, 2>(simd, weights, columns, x, out),
        4 => all_rows::<S, F, 8, 2>(simd, weights, columns, x, out),
        _ => all_rows::<S, F, LANES, 1>(simd, weights, columns, x, out),
    }
}

/// One row of weights after the other, so that memory is read in order: four rows side by side were
/// three times slower.
#[inline(always)]
fn all_rows<S: Simd, F: Format<S>, const REGISTERS: usize, const SIDE: usize>(
    simd: S,
    weights: &[F::Value],
    columns: usize,
    x: &Rows,
    out: &mut [f32],
) {
    let rows = weights.len() / columns;
    for (at, row) in weights.chunks_exact(columns).enumerate() {
        let mut vector = 0;
        while vector + SIDE <= x.count() {
            let mut side = [x.row(vector); SIDE];
            for (i, side) in side.iter_mut().enumerate() {
                *side = x.row(vector + i);
            }
            let sums = dots::<S, F, REGISTERS, SIDE>(simd, row, side);
            for (i, sum) in sums.into_iter().enumerate() {
                out[(vector + i) * rows + at] = sum;
            }
            vector += SIDE;
        }
        for vector in vector..x.count() {
            let [sum] = dots::<S, F, REGISTERS, 1>(simd, row, [x.row(vector)]);
            out[vector * rows + at] = sum;
        }
    }
}

/// Dot products of one row with `N` vectors.
#[inline(always)]
fn dots<S: Simd, F: Format<S>, const REGISTERS: usize, const N: usize>(
    simd: S,
    row: &[F::Value],
    vectors: [&[Chunk]; N],
) -> [f32; N] {
    let (chunks, tail) = row.as_chunks::<LANES>();
    let mut sums = [[simd.splat_f32s(0.0); REGISTERS]; N];
    let mut filled: [&[Chunk]; N] = [&[]; N];
    for n in 0..N {
        filled[n] = &vectors[n][..chunks.len()];
    }
    for (at, chunk) in chunks.iter().enumerate() {
        for part in 0..REGISTERS {
            let weight = F::load(simd, chunk, part);
            for n in 0..N {
                let x = part_of(simd, &filled[n][at], part);
                sums[n][part] = simd.mul_add_e_f32s(weight, x, sums[n][part]);
            }
        }
    }
    if !tail.is_empty() {
        let mut last = [0.0; LANES];
        for (last, value) in last.iter_mut().zip(tail) {
            *last = F::one(*value);
        }
        for part in 0..REGISTERS {
            let weight = part_of(simd, &last, part);
            for n in 0..N {
                let x = part_of(simd, &vectors[n][chunks.len()], part);
                sums[n][part] = simd.mul_add_e_f32s(weight, x, sums[n][part]);
            }
        }
    }
    sums.map(|sums| fold(simd, sums))
}

/// The sum of all lanes: the upper half is added to the lower until one is left.
#[inline(always)]
fn fold<S: Simd, const REGISTERS: usize>(_: S, sums: [S::f32s; REGISTERS]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    S::as_mut_simd_f32s(&mut lanes).0[..REGISTERS].copy_from_slice(&sums);
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn widen_all<S: Simd, F: Format<S>>(simd: S, values: &[F::Value], out: &mut [f32]) {
    let (chunks, tail) = values.as_chunks::<LANES>();
    let (wide, wide_tail) = out.as_chunks_mut::<LANES>();
    for (chunk, wide) in chunks.iter().zip(wide) {
        for (part, wide) in S::as_mut_simd_f32s(wide).0.iter_mut().enumerate() {
            *wide = F::load(simd, chunk, part);
        }
    }
    for (value, wide) in tail.iter().zip(wide_tail) {
        *wide = F::one(*value);
    }
}

#[cfg(test)]
mod tests;
