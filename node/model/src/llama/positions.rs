//! Where tokens stand: the rotary rotation and the attention mask of one forward pass, shared by
//! all layers. Made by the engine. Rotate-half: value `i` of a head turns with value `i + dim/2`
//! (burn's own rotary module pairs neighbours and would be wrong here).

use burn::tensor::{Bool, Device, Tensor, TensorData};

use crate::ModelConfig;

/// Score of a masked key: far below any real score, yet finite, so that a row of padding, all of
/// whose keys are masked, does not become NaN and spoil the values that others read.
const MASKED_SCORE: f32 = -1e30;

/// Cosines and sines for the new tokens, each `[batch, 1, new, head / 2]`.
#[derive(Debug)]
pub(crate) struct Rotation {
    pub(crate) batch: usize,
    pub(crate) new: usize,
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    /// For `positions`, row after row, `batch` rows of equal length. Angles are computed in f32
    /// from f32 frequencies, as the reference implementations do.
    pub(crate) fn new(
        config: &ModelConfig,
        batch: usize,
        positions: &[usize],
        device: &Device,
    ) -> Self {
        let half = config.head_dim / 2;
        let new = positions.len() / batch;
        let frequencies = config.rotary_frequencies();
        let mut cos = Vec::with_capacity(positions.len() * half);
        let mut sin = Vec::with_capacity(positions.len() * half);
        for position in positions {
            for frequency in &frequencies {
                let (s, c) = (*position as f32 * frequency).sin_cos();
                cos.push(c);
                sin.push(s);
            }
        }
        let table =
            |values| Tensor::from_data(TensorData::new(values, [batch, 1, new, half]), device);
        Self {
            batch,
            new,
            cos: table(cos),
            sin: table(sin),
        }
    }

    /// Turns `[batch, heads, new, head]`.
    pub(crate) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let turned_a = a.clone() * self.cos.clone() - b.clone() * self.sin.clone();
        let turned_b = b * self.cos.clone() + a * self.sin.clone();
        Tensor::cat(vec![turned_a, turned_b], 3)
    }
}

/// Which keys a query may look at.
#[derive(Debug)]
pub(crate) struct Mask(Option<Tensor<4, Bool>>);

impl Mask {
    /// For `new` tokens after `past` ones; `padding[row]` leading keys of each row are not real.
    pub(crate) fn new(past: usize, new: usize, padding: &[usize], device: &Device) -> Self {
        if new == 1 && padding.iter().all(|pad| *pad == 0) {
            return Self(None);
        }
        let total = past + new;
        // Rows without padding share one mask.
        let rows = if padding.iter().all(|pad| *pad == 0) {
            &padding[..1]
        } else {
            padding
        };
        let mut hidden = Vec::with_capacity(rows.len() * new * total);
        for pad in rows {
            for query in past..total {
                hidden.extend((0..total).map(|key| key < *pad || key > query));
            }
        }
        let data = TensorData::new(hidden, [rows.len(), 1, new, total]);
        Self(Some(Tensor::from_data(data, device)))
    }

    /// Masks scores `[batch, heads, new, total]`.
    pub(crate) fn apply(&self, scores: Tensor<4>) -> Tensor<4> {
        match &self.0 {
            None => scores,
            Some(mask) => {
                let shape = scores.dims();
                scores.mask_fill(mask.clone().expand(shape), MASKED_SCORE)
            }
        }
    }
}
