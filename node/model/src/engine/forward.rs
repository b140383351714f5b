//! Running tokens through the model: prompts in chunks, then single steps. Called by the single
//! and the batched generation. Chunks begin at multiples of [`CHUNK_TOKENS`] from the prompt's
//! start, so that equal prompts are always computed alike.

use burn::tensor::{Int, Tensor, TensorData};

use super::Loaded;
use crate::{
    GenerateError,
    llama::{
        cache::KvCache,
        positions::{Mask, Rotation},
    },
};

/// Prompt tokens per forward pass: bounds the attention's scores to heads · chunk · context.
const CHUNK_TOKENS: usize = 256;

/// A batch of sequences under way; a single one is a batch of one.
#[derive(Debug)]
pub(super) struct Sequences<'a> {
    loaded: &'a Loaded,
    cache: KvCache,
    /// Leading tokens of each row that are padding.
    padding: Vec<usize>,
}

impl<'a> Sequences<'a> {
    /// For one row per entry of `padding`, expecting about `tokens` tokens a row.
    pub(super) fn new(loaded: &'a Loaded, padding: Vec<usize>, tokens: usize) -> Self {
        Self {
            loaded,
            cache: KvCache::new(&loaded.config, tokens),
            padding,
        }
    }

    /// Runs a prompt, row after row of equal length, and gives the scores after its last token.
    pub(super) fn prompt(&mut self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, GenerateError> {
        let len = rows[0].len();
        let mut start = 0;
        loop {
            let end = (start + CHUNK_TOKENS).min(len);
            let chunk: Vec<&[u32]> = rows.iter().map(|row| &row[start..end]).collect();
            let hidden = self.hidden(&chunk);
            if end == len {
                return self.scores(hidden, end - start);
            }
            start = end;
        }
    }

    /// Runs one token per row and gives the scores after it.
    pub(super) fn step(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, GenerateError> {
        let rows: Vec<&[u32]> = tokens.iter().map(std::slice::from_ref).collect();
        let hidden = self.hidden(&rows);
        self.scores(hidden, 1)
    }

    /// Runs one token per row whose scores nobody wants.
    pub(super) fn advance(&mut self, tokens: &[u32]) {
        let rows: Vec<&[u32]> = tokens.iter().map(std::slice::from_ref).collect();
        self.hidden(&rows);
    }

    fn hidden(&mut self, rows: &[&[u32]]) -> Tensor<2> {
        let device = &self.loaded.device.device;
        let (past, new) = (self.cache.len(), rows[0].len());
        let positions: Vec<usize> = self
            .padding
            .iter()
            .flat_map(|pad| (past..past + new).map(|at| at.saturating_sub(*pad)))
            .collect();
        let rotation = Rotation::new(&self.loaded.config, rows.len(), &positions, device);
        let mask = Mask::new(past, new, &self.padding, device);
        let ids: Vec<i32> = rows
            .iter()
            .flat_map(|row| row.iter())
            .map(|id| *id as i32)
            .collect();
        let count = ids.len();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), device);
        self.loaded
            .llama
            .hidden(ids, &rotation, &mask, &mut self.cache)
    }

    /// Scores of the last of `new` tokens of every row.
    fn scores(&self, hidden: Tensor<2>, new: usize) -> Result<Vec<Vec<f32>>, GenerateError> {
        let [total, width] = hidden.dims();
        let rows = total / new;
        let last = hidden
            .reshape([rows, new, width])
            .narrow(1, new - 1, 1)
            .reshape([rows, width]);
        let flat: Vec<f32> = self
            .loaded
            .llama
            .logits(last)
            .try_into_data()
            .map_err(|error| GenerateError::Device(error.to_string()))?
            .try_to_vec()
            .map_err(|error| GenerateError::Device(format!("{error:?}")))?;
        Ok(flat
            .chunks(self.loaded.config.vocabulary)
            .map(<[f32]>::to_vec)
            .collect())
    }
}
