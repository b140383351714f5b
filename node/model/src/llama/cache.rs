//! Keys and values of the tokens seen so far. Made by the engine per generation, filled by the
//! attention. Buffers grow in steps and are written in place: nothing else may hold a copy of a
//! buffer while the attention appends to it, else each step copies the whole cache.

use burn::tensor::{Device, Tensor, s};

use crate::ModelConfig;

/// Tokens by which a buffer grows at least: one allocation per this many decode steps.
const GROWTH_TOKENS: usize = 256;

/// The cache of one generation (or one batch of them).
#[derive(Debug)]
pub(crate) struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
}

/// One layer's keys and values, each `[batch, kv heads, capacity, head]`.
#[derive(Debug)]
pub(crate) struct LayerCache {
    buffers: Option<(Tensor<4>, Tensor<4>)>,
    len: usize,
    reserve: usize,
    /// Nothing is kept: keys and values are only passed on.
    passing: bool,
}

impl KvCache {
    /// An empty cache that expects about `tokens` tokens.
    pub(crate) fn new(config: &ModelConfig, tokens: usize) -> Self {
        let reserve = tokens.min(config.context);
        let layers = (0..config.layers).map(|_| LayerCache {
            buffers: None,
            len: 0,
            reserve,
            passing: false,
        });
        Self {
            layers: layers.collect(),
        }
    }

    /// A cache that keeps nothing, for whole sequences at once: training needs each key and value
    /// once, as it was computed.
    pub(crate) fn passing(config: &ModelConfig) -> Self {
        let mut cache = Self::new(config, 0);
        cache
            .layers
            .iter_mut()
            .for_each(|layer| layer.passing = true);
        cache
    }

    /// Tokens held (padding of a batch included).
    pub(crate) fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.len)
    }
}

impl LayerCache {
    /// Gives all keys and values away, `[batch, kv heads, tokens, head]` each; `None` if there are
    /// none yet.
    pub(crate) fn take(&mut self) -> Option<(Tensor<4>, Tensor<4>)> {
        let (keys, values) = self.buffers.take()?;
        let len = std::mem::take(&mut self.len);
        Some((keys.narrow(2, 0, len), values.narrow(2, 0, len)))
    }

    /// Appends `[batch, kv heads, new, head]` and gives views of all keys and values so far.
    pub(crate) fn append(&mut self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        if self.passing {
            return (k, v);
        }
        let [batch, heads, new, dim] = k.dims();
        let (start, end) = (self.len, self.len + new);
        let (keys, values) = match self.buffers.take() {
            Some((keys, values)) if keys.dims()[2] >= end => (keys, values),
            old => {
                let capacity = end.max(self.reserve).next_multiple_of(GROWTH_TOKENS);
                let grow = |old: Option<Tensor<4>>, device: &Device| {
                    let fresh = Tensor::<4>::zeros([batch, heads, capacity, dim], device);
                    match old {
                        Some(old) if start > 0 => {
                            fresh.slice_assign(s![.., .., 0..start, ..], old.narrow(2, 0, start))
                        }
                        _ => fresh,
                    }
                };
                let (old_keys, old_values) = old.unzip();
                (grow(old_keys, &k.device()), grow(old_values, &v.device()))
            }
        };
        let keys = keys.slice_assign(s![.., .., start..end, ..], k);
        let values = values.slice_assign(s![.., .., start..end, ..], v);
        self.len = end;
        let views = (
            keys.clone().narrow(2, 0, end),
            values.clone().narrow(2, 0, end),
        );
        self.buffers = Some((keys, values));
        views
    }
}
