//! How much memory training and measuring take, from a model's shape alone: asked by the daemon before it loads
//! anything. What must stay true: an estimate is not below what is taken (`tests/memory.rs` compares); it saturates, so
//! that a shape nobody can hold gives a large number and no wrong one.

use crate::{
    ModelConfig, TrainMode, TrainPlan,
    evaluate::PASS_TOKENS,
    llama::Llama,
    train::{Wanted, head::HEAD_ROWS, is_adapted},
};

/// Bytes of an f32.
const F32: u64 = 4;
/// What the allocator and packed parts of matrices take beside: one tenth, and some in any case.
const BESIDE_PARTS: u64 = 10;
const BESIDE_BYTES: u64 = 32 << 20;

/// A sum of products that stays at its largest value.
fn product(factors: &[usize]) -> u64 {
    let factors = factors.iter().map(|factor| *factor as u64);
    factors.fold(1, u64::saturating_mul)
}

fn sum(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

fn with_beside(values: u64) -> u64 {
    let bytes = values.saturating_mul(F32);
    sum([bytes, bytes / BESIDE_PARTS, BESIDE_BYTES])
}

impl ModelConfig {
    /// Number of weights of a model of this shape.
    pub fn parameters(&self) -> u64 {
        sum(shapes(self).iter().map(|(_, shape)| product(shape)))
    }

    /// Bytes that a training run takes beside the base's files, on so many threads.
    pub fn training_bytes(&self, plan: &TrainPlan, threads: usize) -> u64 {
        let lanes = plan.passes().min(threads).max(1);
        // Values and two moments; each lane's gradient and their sum.
        let of_each = 3 + lanes as u64 + 1;
        let fixed_and_trained = match plan.mode {
            TrainMode::Full => self.parameters().saturating_mul(of_each),
            TrainMode::LowRank { rank, .. } => {
                let shapes = shapes(self);
                let adapted = shapes.iter().filter(|(name, _)| is_adapted(name));
                let (a, b) = adapted.fold((0, 0), |(a, b), (_, shape)| {
                    let side = |at: usize| product(&[rank, shape.get(at).copied().unwrap_or(1)]);
                    (sum([a, side(1)]), sum([b, side(0)]))
                });
                sum([self.parameters(), a, b.saturating_mul(of_each)])
            }
        };
        let rows = plan.rows.min(plan.pass_rows);
        let tokens = product(&[rows, plan.sequence]);
        let per_layer = self.kept_of_token().saturating_mul(tokens);
        let scores = product(&[rows, self.heads, plan.sequence, plan.sequence]);
        let kept = sum([per_layer, scores]).saturating_mul(self.layers as u64);
        // On the way back through one layer, and at the head.
        let back = [
            scores.saturating_mul(3),
            self.kept_of_token().saturating_mul(tokens),
            product(&[8, self.hidden]).saturating_mul(tokens),
            self.head_values().saturating_mul(3),
            product(&[self.vocabulary, self.hidden]),
        ];
        let lane = sum([kept, sum(back)]);
        with_beside(sum([fixed_and_trained, lane.saturating_mul(lanes as u64)]))
    }

    /// Bytes that foretelling windows of so many tokens takes beside the loaded model.
    pub fn measuring_bytes(&self, window: usize) -> u64 {
        let window = window.min(self.context).max(1);
        let rows = (PASS_TOKENS / window).max(1);
        let tokens = product(&[rows, window]);
        // Scores, masked, less their maximum, as shares; what one layer holds of each token.
        let scores = product(&[4, rows, self.heads, window, window]);
        let mask = product(&[window, window]);
        let layer = self.kept_of_token().saturating_mul(tokens);
        with_beside(sum([
            scores,
            mask,
            layer,
            self.head_values().saturating_mul(2),
        ]))
    }

    /// Values that the way back needs of each token and layer, without the scores.
    fn kept_of_token(&self) -> u64 {
        sum([
            product(&[4, self.hidden]),
            product(&[2, self.heads, self.head_dim]),
            product(&[2, self.kv_heads, self.head_dim]),
            product(&[3, self.intermediate]),
        ])
    }

    /// Scores of all token ids, a few rows at a time.
    fn head_values(&self) -> u64 {
        product(&[HEAD_ROWS, self.vocabulary])
    }
}

/// What the decoder asks for.
fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let mut wanted = Wanted::default();
    let Ok(_) = Llama::assemble(config, &mut wanted);
    wanted.into_shapes()
}
