//! Causal attention of whole rows, and its derivative. Called by the pass. Query heads that share a key head are
//! folded into rows of one product, as `llama.rs` does; scores of keys that come later are never looked at.

use burn::tensor::Tensor;

use super::{Grid, rows::each_chunk};
use crate::{ModelConfig, TrainError, train::head};

/// How rows of tokens are cut into heads.
#[derive(Debug)]
pub(crate) struct Heads {
    batch: usize,
    length: usize,
    queries: usize,
    kv: usize,
    dim: usize,
    /// Of the queries, so that scores need none.
    scale: f32,
    /// `[length, dim / 2]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// What the way back needs: rotated queries and keys, values, and the shares that each query gives to each key.
#[derive(Debug)]
pub(crate) struct Mixed {
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    shares: Tensor<4>,
}

impl Heads {
    pub(super) fn new(config: &ModelConfig, batch: usize, length: usize) -> Self {
        let angles = (0..length).flat_map(|position| {
            let frequencies = config.rotary_frequencies();
            frequencies
                .into_iter()
                .map(move |frequency| (position as f32 * frequency).sin_cos())
        });
        let (sin, cos) = angles.unzip();
        Self {
            batch,
            length,
            queries: config.heads,
            kv: config.kv_heads,
            dim: config.head_dim,
            scale: (config.head_dim as f32).sqrt().recip(),
            cos,
            sin,
        }
    }

    /// `[batch · length, heads · dim]` of queries, keys and values to what the heads read, in the same shape as the
    /// queries.
    pub(super) fn forward(
        &self,
        q: &Grid,
        k: &Grid,
        v: &Grid,
    ) -> Result<(Grid, Mixed), TrainError> {
        let group = self.queries / self.kv;
        let (length, dim) = (self.length, self.dim);
        let q = self.split(q.values(), self.queries, Some(self.scale));
        let k = self.split(k.values(), self.kv, Some(1.0));
        let v = self.split(v.values(), self.kv, None);
        let shape =
            |values, rows| Grid::new(values, &[self.batch, self.kv, rows, dim]).tensor::<4>();
        let (q, k, v) = (shape(q, group * length), shape(k, length), shape(v, length));
        let mut shares = Grid::of(q.clone().matmul(k.clone().swap_dims(2, 3)))?;
        each_chunk(shares.values_mut(), length * length, |_, scores| {
            for (at, row) in scores.chunks_mut(length).enumerate() {
                let (seen, later) = row.split_at_mut(at + 1);
                head::softmax(seen);
                later.fill(0.0);
            }
        });
        let shares = shares.tensor::<4>();
        let read = Grid::of(shares.clone().matmul(v.clone()))?;
        let out = self.join(read.values(), self.queries, None);
        let out = Grid::new(out, &[self.batch * length, self.queries * dim]);
        Ok((out, Mixed { q, k, v, shares }))
    }

    /// The gradients by queries, keys and values from that by what the heads read.
    pub(super) fn backward(
        &self,
        by: &Grid,
        mixed: Mixed,
    ) -> Result<(Grid, Grid, Grid), TrainError> {
        let group = self.queries / self.kv;
        let (length, dim) = (self.length, self.dim);
        let by = self.split(by.values(), self.queries, None);
        let by = Grid::new(by, &[self.batch, self.kv, group * length, dim]).tensor::<4>();
        let Mixed { q, k, v, shares } = mixed;
        let by_v = shares.clone().swap_dims(2, 3).matmul(by.clone());
        let mut by_scores = Grid::of(by.matmul(v.swap_dims(2, 3)))?;
        let shares = Grid::of(shares)?;
        let given = shares.values();
        each_chunk(by_scores.values_mut(), length * length, |chunk, scores| {
            let given = &given[chunk * length * length..][..length * length];
            let rows = scores.chunks_mut(length).zip(given.chunks(length));
            for (at, (row, given)) in rows.enumerate() {
                let (seen, later) = row.split_at_mut(at + 1);
                let mean = super::rows::dot(seen, &given[..=at]);
                for (by, share) in seen.iter_mut().zip(given) {
                    *by = share * (*by - mean);
                }
                later.fill(0.0);
            }
        });
        let by_scores = by_scores.tensor::<4>();
        let by_k = by_scores.clone().swap_dims(2, 3).matmul(q);
        let by_q = by_scores.matmul(k);
        let tokens = self.batch * length;
        let flat = |grid: Grid, heads: usize, scale: Option<f32>| {
            let values = self.join(grid.values(), heads, scale);
            Grid::new(values, &[tokens, heads * dim])
        };
        Ok((
            flat(Grid::of(by_q)?, self.queries, Some(self.scale)),
            flat(Grid::of(by_k)?, self.kv, Some(1.0)),
            flat(Grid::of(by_v)?, self.kv, None),
        ))
    }

    /// `[batch · length, heads · dim]` to `[batch, heads, length, dim]`; with a scale also turned to its position
    /// and multiplied.
    fn split(&self, from: &[f32], heads: usize, turn: Option<f32>) -> Vec<f32> {
        let (length, dim) = (self.length, self.dim);
        let mut out = vec![0.0; from.len()];
        each_chunk(&mut out, length * dim, |chunk, out| {
            let (row, head) = (chunk / heads, chunk % heads);
            for (at, out) in out.chunks_mut(dim).enumerate() {
                let start = ((row * length + at) * heads + head) * dim;
                let from = &from[start..start + dim];
                match turn {
                    None => out.copy_from_slice(from),
                    Some(scale) => self.turn(at, from, out, scale, 1.0),
                }
            }
        });
        out
    }

    /// Back again; with a scale turned the other way and multiplied.
    fn join(&self, from: &[f32], heads: usize, turn: Option<f32>) -> Vec<f32> {
        let (length, dim) = (self.length, self.dim);
        let mut out = vec![0.0; from.len()];
        each_chunk(&mut out, heads * dim, |token, out| {
            let (row, at) = (token / length, token % length);
            for (head, out) in out.chunks_mut(dim).enumerate() {
                let start = ((row * heads + head) * length + at) * dim;
                let from = &from[start..start + dim];
                match turn {
                    None => out.copy_from_slice(from),
                    Some(scale) => self.turn(at, from, out, scale, -1.0),
                }
            }
        });
        out
    }

    /// Rotate-half: value `i` turns with value `i + dim / 2`.
    fn turn(&self, position: usize, from: &[f32], out: &mut [f32], scale: f32, sign: f32) {
        let half = self.dim / 2;
        let (cos, sin) = (
            &self.cos[position * half..][..half],
            &self.sin[position * half..][..half],
        );
        let (a, b) = from.split_at(half);
        let (out_a, out_b) = out.split_at_mut(half);
        for i in 0..half {
            let (c, s) = (cos[i] * scale, sign * sin[i] * scale);
            out_a[i] = a[i] * c - b[i] * s;
            out_b[i] = b[i] * c + a[i] * s;
        }
    }
}
