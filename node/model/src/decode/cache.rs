//! Keys and values of the tokens seen so far, as the decode step wants them: for each layer, sequence
//! and key head a plain list. Made by the engine from the cache that the prompt's pass filled;
//! padding stays behind.

use std::sync::{Mutex, PoisonError};

use burn::tensor::Tensor;

use crate::{GenerateError, ModelConfig, llama::cache::KvCache};

/// Tokens by which a list grows: one allocation per this many steps.
const GROWTH_TOKENS: usize = 256;

/// The cache of the sequences of one batch.
#[derive(Debug)]
pub(crate) struct DecodeCache {
    /// By layer, then sequence, then key head. The locks are never waited for: a step deals out
    /// each list to one thread.
    heads: Vec<Mutex<HeadCache>>,
    /// Tokens held, by sequence.
    lens: Vec<usize>,
    kv_heads: usize,
}

/// One key head of one layer and sequence.
#[derive(Debug, Default)]
pub(crate) struct HeadCache {
    /// `[tokens, head]`.
    pub(crate) keys: Vec<f32>,
    /// `[tokens, head]`.
    pub(crate) values: Vec<f32>,
}

impl DecodeCache {
    /// Takes over what the prompt's pass has left, layer after layer, so that only one layer is held
    /// twice. `padding` are the leading tokens of each sequence that are none.
    pub(crate) fn take(
        prompt: &mut KvCache,
        config: &ModelConfig,
        padding: &[usize],
    ) -> Result<Self, GenerateError> {
        let len = prompt.len();
        let (kv_heads, dim) = (config.kv_heads, config.head_dim);
        let mut heads = Vec::with_capacity(config.layers * padding.len() * kv_heads);
        for layer in &mut prompt.layers {
            let (keys, values) = match layer.take() {
                Some((keys, values)) => (read(keys)?, read(values)?),
                None => (Vec::new(), Vec::new()),
            };
            for (row, pad) in padding.iter().enumerate() {
                for head in 0..kv_heads {
                    let start = (row * kv_heads + head) * len;
                    let part = |all: &[f32]| {
                        let mut part = Vec::with_capacity((len - pad + GROWTH_TOKENS) * dim);
                        if len > 0 {
                            part.extend(&all[(start + pad) * dim..(start + len) * dim]);
                        }
                        part
                    };
                    heads.push(Mutex::new(HeadCache {
                        keys: part(&keys),
                        values: part(&values),
                    }));
                }
            }
        }
        Ok(Self {
            heads,
            lens: padding.iter().map(|pad| len - pad).collect(),
            kv_heads,
        })
    }

    /// Tokens held, by sequence.
    pub(crate) fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Counts one more token for every sequence.
    pub(crate) fn advance(&mut self) {
        for len in &mut self.lens {
            *len += 1;
        }
    }

    /// Works on one list.
    pub(crate) fn with<R>(
        &self,
        layer: usize,
        row: usize,
        head: usize,
        work: impl FnOnce(&mut HeadCache) -> R,
    ) -> R {
        let at = (layer * self.lens.len() + row) * self.kv_heads + head;
        // A generation whose step panicked is not continued.
        let mut list = self.heads[at]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&mut list)
    }
}

impl HeadCache {
    /// Appends one token's key and value.
    pub(crate) fn append(&mut self, key: &[f32], value: &[f32]) {
        for (list, new) in [(&mut self.keys, key), (&mut self.values, value)] {
            if list.len() + new.len() > list.capacity() {
                list.reserve_exact(GROWTH_TOKENS * new.len());
            }
            list.extend_from_slice(new);
        }
    }
}

fn read(tensor: Tensor<4>) -> Result<Vec<f32>, GenerateError> {
    tensor
        .try_into_data()
        .map_err(|error| GenerateError::Device(error.to_string()))?
        .try_to_vec()
        .map_err(|error| GenerateError::Device(format!("{error:?}")))
}
