//! Running tokens through the model: prompts in chunks, then single steps. Called by the single
//! and the batched generation. Chunks begin at multiples of [`CHUNK_TOKENS`] from the prompt's
//! start, so that equal prompts are always computed alike.

use burn::tensor::{Int, Tensor, TensorData};

use super::Loaded;
use crate::{
    GenerateError,
    decode::DecodeCache,
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
    cache: Cache,
    /// Leading tokens of each row that are padding.
    padding: Vec<usize>,
}

/// Keys and values so far.
#[derive(Debug)]
enum Cache {
    /// As burn fills it with a prompt, and on a GPU with every step.
    Burn(KvCache),
    /// As the CPU's decode step goes on with it.
    Decode(DecodeCache),
}

impl<'a> Sequences<'a> {
    /// For one row per entry of `padding`, expecting about `tokens` tokens a row.
    pub(super) fn new(loaded: &'a Loaded, padding: Vec<usize>, tokens: usize) -> Self {
        Self {
            loaded,
            cache: Cache::Burn(KvCache::new(&loaded.config, tokens)),
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
            let hidden = self.hidden(&chunk)?;
            if end == len {
                return self.scores(hidden, end - start);
            }
            start = end;
        }
    }

    /// Runs one token per row and gives the scores after it.
    pub(super) fn step(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f32>>, GenerateError> {
        let Some(decoder) = &self.loaded.decoder else {
            let rows: Vec<&[u32]> = tokens.iter().map(std::slice::from_ref).collect();
            let hidden = self.hidden(&rows)?;
            return self.scores(hidden, 1);
        };
        if let Cache::Burn(cache) = &mut self.cache {
            let taken = DecodeCache::take(cache, &self.loaded.config, &self.padding)?;
            self.cache = Cache::Decode(taken);
        }
        match &mut self.cache {
            Cache::Decode(cache) => Ok(decoder.step(tokens, cache)),
            Cache::Burn(_) => Err(out_of_order()),
        }
    }

    fn hidden(&mut self, rows: &[&[u32]]) -> Result<Tensor<2>, GenerateError> {
        let device = &self.loaded.device.device;
        let Cache::Burn(cache) = &mut self.cache else {
            return Err(out_of_order());
        };
        let (past, new) = (cache.len(), rows[0].len());
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
        Ok(self.loaded.llama.hidden(ids, &rotation, &mask, cache))
    }

    /// Scores of the last of `new` tokens of every row.
    fn scores(&self, hidden: Tensor<2>, new: usize) -> Result<Vec<Vec<f32>>, GenerateError> {
        let [total, width] = hidden.dims();
        let rows = total / new;
        let last = hidden
            .reshape([rows, new, width])
            .narrow(1, new - 1, 1)
            .reshape([rows, width]);
        if let Some(decoder) = &self.loaded.decoder {
            return Ok(decoder.scores(&values(last)?));
        }
        Ok(values(self.loaded.llama.logits(last))?
            .chunks(self.loaded.config.vocabulary)
            .map(<[f32]>::to_vec)
            .collect())
    }
}

fn values(tensor: Tensor<2>) -> Result<Vec<f32>, GenerateError> {
    tensor
        .try_into_data()
        .map_err(|error| GenerateError::Device(error.to_string()))?
        .try_to_vec()
        .map_err(|error| GenerateError::Device(format!("{error:?}")))
}

fn out_of_order() -> GenerateError {
    GenerateError::Device("a prompt was given after the first decode step".to_owned())
}
