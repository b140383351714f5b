//! LoRA mode (spec §10.7): W′ = RNE(W + Σ_r B[o, r] · A[r, i]), in f64, r rising, products and sums apart.
//!
//! A is never sent: it comes from the epoch's seed ([`lora_a`]), for training and for applying alike. B
//! contains α/r.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

use super::{
    ApplyError,
    convert::{from_bytes, to_bytes},
};
use crate::{
    header::LoraEpoch,
    layout::{Dtype, Layout, LoraTarget},
    update::Update,
};

/// A of the matrix that is tensor `tensor` in the data order, `rank` rows of `columns`, row by row.
///
/// The words w (little-endian u32) of ChaCha20's keystream under key `seed`, nonce (0, `tensor`, 0) as three
/// little-endian u32 and block counter 0 (RFC 8439) give, one after another, the elements
/// RNE((2·(w >> 8) + 1 − 2^24) · 2^-24 · s) with s = RNE(1 / RNE(√columns)), each RNE to f32: uniform in
/// ±1/√columns, as `nn.Linear` and LoRA's A begin in PyTorch.
pub fn lora_a(seed: &[u8; 32], tensor: u32, rank: u16, columns: u64) -> Vec<f32> {
    let mut words = ChaCha20Rng::from_seed(*seed);
    words.set_stream(u64::from(tensor));
    let scale = 1.0 / (columns as f32).sqrt();
    let elements = u64::from(rank) * columns;
    (0..elements)
        .map(|_| {
            let odd = 2 * (words.next_u32() >> 8) as i32 + 1 - (1 << 24);
            odd as f32 / 16_777_216.0 * scale
        })
        .collect()
}

/// What a thread keeps between pieces.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// A of the target at hand, widened.
    a: Vec<f64>,
    held: Option<usize>,
    row: Vec<f64>,
}

/// All of an epoch's B, and where each belongs.
#[derive(Debug)]
pub(super) struct Pairs {
    seed: [u8; 32],
    rank: u16,
    targets: Vec<LoraTarget>,
    dtypes: Vec<Dtype>,
    b: Vec<f32>,
}

impl Pairs {
    /// Reads B. There is not more of it than of the matrices themselves ([`Layout::lora_targets`]).
    pub(super) fn new(
        layout: &Layout,
        epoch: &LoraEpoch,
        update: &Update<'_>,
    ) -> Result<Self, ApplyError> {
        let targets = layout.lora_targets(epoch)?;
        let dtype = |target: &LoraTarget| layout.tensors()[target.tensor as usize].dtype;
        let dtypes = targets
            .iter()
            .map(|target| dtype(target).expect("targets are of floats"))
            .collect();
        let mut b = vec![0.0; update.header().elements as usize];
        update.add_to(&mut b)?;
        Ok(Self {
            seed: epoch.seed,
            rank: epoch.rank,
            targets,
            dtypes,
            b,
        })
    }

    /// Which target that tensor is.
    pub(super) fn find(&self, tensor: usize) -> Option<usize> {
        self.targets
            .binary_search_by_key(&tensor, |target| target.tensor as usize)
            .ok()
    }

    /// Rows and columns.
    pub(super) fn sides(&self, target: usize) -> (u64, u64) {
        (self.targets[target].rows, self.targets[target].columns)
    }

    /// Makes the rows from `first_row` on, which `bytes` are, those of W′; gives how many elements changed.
    pub(super) fn apply(
        &self,
        at: usize,
        first_row: u64,
        bytes: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<u64, ApplyError> {
        let target = &self.targets[at];
        let (dtype, rank) = (self.dtypes[at], usize::from(self.rank));
        let Scratch { a, held, row } = scratch;
        if *held != Some(at) {
            let narrow = lora_a(&self.seed, target.tensor, self.rank, target.columns);
            a.clear();
            a.extend(narrow.into_iter().map(f64::from));
            *held = Some(at);
        }
        let columns = target.columns as usize;
        let first = target.elements.start as usize + first_row as usize * rank;
        let b_rows = self.b[first..].chunks_exact(rank);
        let mut changed = 0;
        let rows = bytes.chunks_exact_mut(columns * dtype.bytes());
        for (number, (bytes, b)) in rows.zip(b_rows).enumerate() {
            row.clear();
            row.resize(columns, 0.0);
            for (b, a) in b.iter().zip(a.chunks_exact(columns)) {
                // Adding a product with 0 changes no sum: none of them is ever -0.
                if *b != 0.0 {
                    let b = f64::from(*b);
                    row.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * a);
                }
            }
            for (i, (bytes, sum)) in bytes.chunks_exact_mut(dtype.bytes()).zip(&*row).enumerate() {
                let new = f64::from(from_bytes(dtype, bytes)) + sum;
                let is_new = to_bytes(dtype, new, bytes).ok_or(ApplyError::NotFinite {
                    tensor: target.tensor as usize,
                    element: (first_row + number as u64) * target.columns + i as u64,
                })?;
                changed += u64::from(is_new);
            }
        }
        Ok(changed)
    }
}
