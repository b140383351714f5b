//! The decode step on the CPU: one token for each of a few sequences, through all layers, in plain
//! loops. burn computes prompts and trains; a step is bound by reading the weights, and burn reads
//! them with one thread, in f32 (docs/adr/0009). Called by the engine for every step on the CPU.
//!
//! All members of a [`Team`] run the same program. Whatever is small (norms, the residual stream)
//! each computes for itself; products, heads and gates are dealt out in pieces, and the results
//! pass through [`Board`]s, with a meeting in between. A result never depends on who computed it,
//! so the number of threads cannot be seen in it.

use std::{
    ops::Range,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
};

use burn::tensor::TensorData;

use crate::{ModelConfig, llama::TakeTensor};

pub(crate) use cache::DecodeCache;
use kernel::Rows;
pub(crate) use stored::Stored;
use team::{Meeting, Team};

mod attend;
mod cache;
mod kernel;
mod pace;
mod stored;
mod team;

/// Weights for which another thread pays: below, the meetings cost more than it computes.
const BYTES_PER_THREAD: usize = 4 << 20;
/// Pieces into which a product is dealt, for each thread: with more than one, a thread that was
/// interrupted holds the others up less.
const PIECES_PER_THREAD: usize = 4;
/// Rows of a piece are a multiple of this: what the kernel computes side by side.
const PIECE_ROWS: usize = 4;

/// A model's weights, ready for steps.
#[derive(Debug)]
pub(crate) struct Decoder {
    config: ModelConfig,
    /// Radians per token, by pair of a head's values.
    frequencies: Vec<f32>,
    embedding: Stored,
    /// Absent where the head is tied to the embedding.
    head: Option<Stored>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    team: Team,
}

#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    qkv: [Stored; 3],
    output: Stored,
    inner_norm: Vec<f32>,
    gate: Stored,
    up: Stored,
    down: Stored,
}

/// Numbers that one thread writes and all read after a meeting: `[sequences, width]`.
struct Board {
    width: usize,
    bits: Vec<AtomicU32>,
}

/// What all members of a step share.
struct Step<'a> {
    tokens: &'a [u32],
    cache: &'a DecodeCache,
    /// Cosine and sine, by sequence and pair.
    turns: Vec<Vec<(f32, f32)>>,
    qkv: Board,
    mixed: Board,
    output: Board,
    inner: Board,
    down: Board,
    scores: Board,
    /// Next piece, by work that is dealt out.
    dealt: Vec<AtomicUsize>,
}

/// One member's own memory.
struct Own {
    /// The residual stream, `[sequences, hidden]`.
    stream: Vec<f32>,
    hidden: Rows,
    heads: Rows,
    inner: Rows,
    out: Vec<f32>,
    out_up: Vec<f32>,
}

impl Decoder {
    /// Takes the tensors by their Hugging Face names from `take(name, shape)`; norms in f32.
    pub(crate) fn build<E>(
        config: &ModelConfig,
        take: &mut TakeTensor<'_, E>,
        threads: usize,
        unknown: impl Fn(&str) -> E,
    ) -> Result<Self, E> {
        let hidden = config.hidden;
        let (q_rows, kv_rows) = (
            config.heads * config.head_dim,
            config.kv_heads * config.head_dim,
        );
        let mut matrix = |name: &str, rows: usize, columns: usize| {
            let data: TensorData = take(name, &[rows, columns])?;
            Stored::new(data).ok_or_else(|| unknown(name))
        };
        let embedding = matrix("model.embed_tokens.weight", config.vocabulary, hidden)?;
        let head = (!config.tied_head)
            .then(|| matrix("lm_head.weight", config.vocabulary, hidden))
            .transpose()?;
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let mut matrix = |part: &str, rows: usize, columns: usize| {
                let data: TensorData = take(&name(part), &[rows, columns])?;
                Stored::new(data).ok_or_else(|| unknown(&name(part)))
            };
            let qkv = [
                matrix("self_attn.q_proj", q_rows, hidden)?,
                matrix("self_attn.k_proj", kv_rows, hidden)?,
                matrix("self_attn.v_proj", kv_rows, hidden)?,
            ];
            let output = matrix("self_attn.o_proj", hidden, q_rows)?;
            let gate = matrix("mlp.gate_proj", config.intermediate, hidden)?;
            let up = matrix("mlp.up_proj", config.intermediate, hidden)?;
            let down = matrix("mlp.down_proj", hidden, config.intermediate)?;
            let mut norm = |part: &str| {
                let data = take(&name(part), &[hidden])?;
                data.try_to_vec::<f32>().map_err(|_| unknown(&name(part)))
            };
            layers.push(Layer {
                input_norm: norm("input_layernorm")?,
                qkv,
                output,
                inner_norm: norm("post_attention_layernorm")?,
                gate,
                up,
                down,
            });
        }
        let norm = take("model.norm.weight", &[hidden])?;
        let norm = norm
            .try_to_vec::<f32>()
            .map_err(|_| unknown("model.norm.weight"))?;
        let bytes: usize = layers.iter().map(Layer::bytes).sum::<usize>() + embedding.bytes();
        let threads = threads.min(bytes / BYTES_PER_THREAD).max(1);
        Ok(Self {
            config: config.clone(),
            frequencies: config.rotary_frequencies(),
            embedding,
            head,
            layers,
            norm,
            team: Team::new(threads),
        })
    }

    /// Runs one token for every sequence of `cache` and gives the scores after it.
    pub(crate) fn step(&self, tokens: &[u32], cache: &mut DecodeCache) -> Vec<Vec<f32>> {
        let step = Step::new(self, tokens, cache);
        self.team.step(|meeting| {
            let mut own = Own::new(&self.config, tokens.len(), self.piece(self.head().rows()));
            self.run(&step, meeting, &mut own);
        });
        let scores = (0..tokens.len())
            .map(|row| {
                let mut scores = vec![0.0; self.config.vocabulary];
                step.scores.read(row, 0, &mut scores);
                scores
            })
            .collect();
        cache.advance();
        scores
    }

    /// Scores for hidden states that the prompt's pass has computed, one vector for each sequence.
    pub(crate) fn scores(&self, hidden: &[f32]) -> Vec<Vec<f32>> {
        let rows = hidden.len() / self.config.hidden;
        let head = self.head();
        let board = Board::new(rows, head.rows());
        let dealt = AtomicUsize::new(0);
        self.team.all(|_| {
            let mut own = Own::new(&self.config, rows, self.piece(head.rows()));
            own.stream.copy_from_slice(hidden);
            self.normed(&mut own, &self.norm);
            self.deal(&dealt, head.rows(), |range| {
                product(head, range, &own.hidden, &mut own.out, &board, 0);
            });
        });
        (0..rows)
            .map(|row| {
                let mut scores = vec![0.0; head.rows()];
                board.read(row, 0, &mut scores);
                scores
            })
            .collect()
    }

    fn head(&self) -> &Stored {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    fn run(&self, step: &Step<'_>, meeting: &Meeting, own: &mut Own) {
        let hidden = self.config.hidden;
        for (row, token) in step.tokens.iter().enumerate() {
            let stream = &mut own.stream[row * hidden..][..hidden];
            self.embedding.row(*token as usize, stream);
        }
        let mut dealt = step.dealt.iter();
        let mut next = || dealt.next().expect("Step::new counted the works");
        for (at, layer) in self.layers.iter().enumerate() {
            self.normed(own, &layer.input_norm);
            self.deal(next(), step.qkv.width, |range| {
                let mut start = 0;
                for part in &layer.qkv {
                    let end = start + part.rows();
                    let (from, to) = (range.start.max(start), range.end.min(end));
                    if from < to {
                        let rows = from - start..to - start;
                        product(part, rows, &own.hidden, &mut own.out, &step.qkv, start);
                    }
                    start = end;
                }
            });
            meeting.wait();
            self.attend(step, at, next());
            meeting.wait();
            step.mixed.read_rows(&mut own.heads);
            self.deal(next(), hidden, |range| {
                product(
                    &layer.output,
                    range,
                    &own.heads,
                    &mut own.out,
                    &step.output,
                    0,
                );
            });
            meeting.wait();
            step.output.add_to(&mut own.stream);
            self.normed(own, &layer.inner_norm);
            self.deal(next(), layer.gate.rows(), |range| {
                gated_product(layer, &range, own, &step.inner);
            });
            meeting.wait();
            step.inner.read_rows(&mut own.inner);
            self.deal(next(), hidden, |range| {
                product(&layer.down, range, &own.inner, &mut own.out, &step.down, 0);
            });
            meeting.wait();
            step.down.add_to(&mut own.stream);
        }
        self.normed(own, &self.norm);
        let head = self.head();
        self.deal(next(), head.rows(), |range| {
            product(head, range, &own.hidden, &mut own.out, &step.scores, 0);
        });
    }

    /// Deals `0..total` out in pieces until there is none left.
    fn deal(&self, dealt: &AtomicUsize, total: usize, mut work: impl FnMut(Range<usize>)) {
        let piece = self.piece(total);
        loop {
            let start = dealt.fetch_add(piece, Ordering::Relaxed);
            if start >= total {
                return;
            }
            work(start..(start + piece).min(total));
        }
    }

    fn piece(&self, total: usize) -> usize {
        let pieces = self.team.threads() * PIECES_PER_THREAD;
        total.div_ceil(pieces).next_multiple_of(PIECE_ROWS)
    }

    /// The root mean square norm of the stream, times a gain: `x / sqrt(mean(x²) + ε) · gain`.
    fn normed(&self, own: &mut Own, gain: &[f32]) {
        let hidden = self.config.hidden;
        for (row, x) in own.stream.chunks(hidden).enumerate() {
            let mean = kernel::sum_of_squares(x) / hidden as f32;
            let scale = (mean + self.config.norm_epsilon as f32).sqrt().recip();
            let out = own.hidden.row_mut(row);
            for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
                *out = x * scale * gain;
            }
        }
    }
}

impl Layer {
    fn bytes(&self) -> usize {
        let [q, k, v] = &self.qkv;
        let all = [q, k, v, &self.output, &self.gate, &self.up, &self.down];
        all.into_iter().map(Stored::bytes).sum()
    }
}

/// Rows `range` of a matrix times every sequence's vector, onto a board at `offset` and on.
fn product(
    matrix: &Stored,
    range: Range<usize>,
    x: &Rows,
    out: &mut [f32],
    board: &Board,
    offset: usize,
) {
    let out = &mut out[..range.len() * x.count()];
    matrix.products(range.start, range.end, x, out);
    for (row, out) in out.chunks(range.len()).enumerate() {
        board.write(row, offset + range.start, out);
    }
}

/// `silu(gate · x) · (up · x)` for rows `range`.
fn gated_product(layer: &Layer, range: &Range<usize>, own: &mut Own, board: &Board) {
    let len = range.len() * own.hidden.count();
    let (gate, up) = (&mut own.out[..len], &mut own.out_up[..len]);
    layer
        .gate
        .products(range.start, range.end, &own.hidden, gate);
    layer.up.products(range.start, range.end, &own.hidden, up);
    kernel::gated(gate, up);
    for (row, gate) in gate.chunks(range.len()).enumerate() {
        board.write(row, range.start, gate);
    }
}

impl<'a> Step<'a> {
    fn new(decoder: &Decoder, tokens: &'a [u32], cache: &'a DecodeCache) -> Self {
        let config = &decoder.config;
        let rows = tokens.len();
        let turn = |position: &usize| {
            let angles = decoder.frequencies.iter().map(|f| *position as f32 * f);
            angles.map(|angle| (angle.cos(), angle.sin())).collect()
        };
        let (heads, kv) = (config.heads, config.kv_heads);
        // Five works in a layer, and the head.
        let works = 5 * config.layers + 1;
        Self {
            tokens,
            cache,
            turns: cache.lens().iter().map(turn).collect(),
            qkv: Board::new(rows, (heads + 2 * kv) * config.head_dim),
            mixed: Board::new(rows, heads * config.head_dim),
            output: Board::new(rows, config.hidden),
            inner: Board::new(rows, config.intermediate),
            down: Board::new(rows, config.hidden),
            scores: Board::new(rows, config.vocabulary),
            dealt: (0..works).map(|_| AtomicUsize::new(0)).collect(),
        }
    }
}

impl Own {
    fn new(config: &ModelConfig, rows: usize, piece: usize) -> Self {
        let widest = config.intermediate.max(config.hidden);
        let out = rows * widest.max(config.heads * config.head_dim).max(piece);
        Self {
            stream: vec![0.0; rows * config.hidden],
            hidden: Rows::new(rows, config.hidden),
            heads: Rows::new(rows, config.heads * config.head_dim),
            inner: Rows::new(rows, config.intermediate),
            out: vec![0.0; out],
            out_up: vec![0.0; rows * config.intermediate],
        }
    }
}

impl Board {
    fn new(rows: usize, width: usize) -> Self {
        Self {
            width,
            bits: (0..rows * width).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    fn write(&self, row: usize, start: usize, values: &[f32]) {
        let cells = &self.bits[row * self.width + start..][..values.len()];
        for (cell, value) in cells.iter().zip(values) {
            cell.store(value.to_bits(), Ordering::Relaxed);
        }
    }

    fn read(&self, row: usize, start: usize, out: &mut [f32]) {
        let cells = &self.bits[row * self.width + start..][..out.len()];
        for (cell, out) in cells.iter().zip(out) {
            *out = f32::from_bits(cell.load(Ordering::Relaxed));
        }
    }

    fn read_rows(&self, rows: &mut Rows) {
        for row in 0..rows.count() {
            self.read(row, 0, &mut rows.row_mut(row)[..self.width]);
        }
    }

    fn add_to(&self, stream: &mut [f32]) {
        for (cell, x) in self.bits.iter().zip(stream) {
            *x += f32::from_bits(cell.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests;
