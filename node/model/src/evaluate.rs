//! How well a model foretells text: the held-out loss. Called by the daemon, for `evaluate` tasks
//! and around a local training run. What must stay true: the loss of exact bytes is a function of
//! those bytes, the documents and the window.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};

use crate::{
    Engine, TrainError,
    engine::Loaded,
    llama::{
        cache::KvCache,
        positions::{Mask, Rotation},
    },
    tokens::tokens_of,
    train::head,
};

/// Tokens of one forward pass: weights that are stored narrow are widened once for each.
pub(crate) const PASS_TOKENS: usize = 2048;

/// How well a model foretells documents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean loss, in nats per token.
    pub loss: f64,
    /// The same text's length in bits as the model would write it, per byte of the documents.
    pub bits_per_byte: f64,
    /// Tokens that were foretold, the end of each document among them.
    pub tokens: u64,
    /// Bytes of the documents.
    pub bytes: u64,
}

/// Foretells every token of the documents, in windows of `window` tokens (each sees the token
/// before it, and nothing older), in the order given. `go_on` is asked before each forward pass;
/// `Break` gives `None`.
pub fn evaluate<T: AsRef<str> + Sync>(
    engine: &Engine,
    documents: &[T],
    window: usize,
    go_on: &mut dyn FnMut(f64) -> ControlFlow<()>,
) -> Result<Option<Evaluation>, TrainError> {
    let loaded = engine.loaded();
    let tokens =
        tokens_of(&loaded.config, &loaded.tokenizer, documents).map_err(TrainError::Tokenize)?;
    let bytes = documents
        .iter()
        .map(|document| document.as_ref().len() as u64);
    let mut share = |done: usize, _: f64| go_on(done as f64 / (tokens.len() - 1) as f64);
    evaluate_tokens(engine, &tokens, bytes.sum(), window, &mut share)
}

/// The same for documents that are one row of tokens already ([`tokens_of`]) and have `bytes` bytes. `go_on` hears
/// how many tokens are foretold and their mean loss so far.
pub fn evaluate_tokens(
    engine: &Engine,
    tokens: &[u32],
    bytes: u64,
    window: usize,
    go_on: &mut dyn FnMut(usize, f64) -> ControlFlow<()>,
) -> Result<Option<Evaluation>, TrainError> {
    let loaded = engine.loaded();
    let window = window
        .min(loaded.config.context)
        .min(tokens.len().saturating_sub(1));
    if window == 0 {
        return Err(TrainError::NoTokens {
            tokens: tokens.len(),
        });
    }
    let head_weight = loaded.llama.head_weight();
    let foretold = tokens.len() - 1;
    let mut loss = 0.0;
    let mut start = 0;
    while start < foretold {
        if go_on(start, loss / start.max(1) as f64).is_break() {
            return Ok(None);
        }
        let left = foretold - start;
        let length = window.min(left);
        let rows = (PASS_TOKENS / length).clamp(1, left / length);
        let part = &tokens[start..=start + rows * length];
        let hidden = hidden(loaded, part, rows, length);
        loss += head::loss(&hidden, &head_weight, &part[1..])?;
        start += rows * length;
    }
    Ok(Some(Evaluation {
        loss: loss / foretold as f64,
        bits_per_byte: loss / std::f64::consts::LN_2 / bytes.max(1) as f64,
        tokens: foretold as u64,
        bytes,
    }))
}

/// Normed hidden states of the first `rows · length` tokens, each row by itself.
fn hidden(loaded: &Loaded, tokens: &[u32], rows: usize, length: usize) -> Tensor<2> {
    let device = &loaded.device.device;
    let positions: Vec<usize> = (0..rows).flat_map(|_| 0..length).collect();
    let rotation = Rotation::new(&loaded.config, rows, &positions, device);
    let mask = Mask::new(0, length, &[0], device);
    let count = rows * length;
    let ids: Vec<i32> = tokens[..count].iter().map(|id| *id as i32).collect();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), device);
    let mut cache = KvCache::passing(&loaded.config);
    let hidden = loaded.llama.hidden(ids, &rotation, &mask, &mut cache);
    loaded.llama.model.norm.forward(hidden)
}
