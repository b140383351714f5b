//! What a run looks like if nobody says otherwise, by the size of the model. Pure.

use owm_model::{AdamW, Decay, TrainMode, TrainPlan};

/// Models below this are trained whole if nobody says otherwise, in weights.
const SMALL_PARAMETERS: u64 = 10_000_000;

/// What a human may say; all else is filled in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wishes {
    /// Every weight, or low-rank updates.
    pub low_rank: Option<bool>,
    /// Rows of `A`.
    pub rank: usize,
    /// Optimizer steps.
    pub steps: u32,
    /// Tokens of a row.
    pub sequence: Option<usize>,
    /// Rows of a step.
    pub batch: Option<usize>,
    /// The full learning rate.
    pub learning_rate: Option<f32>,
    /// Of data order, `A` and fresh weights.
    pub seed: u64,
    /// The run ends by time, not by steps: the learning rate stays.
    pub by_time: bool,
}

/// The plan for a model of `parameters` weights and a context of `context` tokens.
pub fn plan(wishes: &Wishes, parameters: u64, context: usize) -> TrainPlan {
    let small = parameters < SMALL_PARAMETERS;
    let low_rank = wishes.low_rank.unwrap_or(!small);
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&wishes.seed.to_le_bytes());
    let mode = if low_rank {
        TrainMode::LowRank {
            rank: wishes.rank,
            seed,
        }
    } else {
        TrainMode::Full
    };
    // Small models forget nothing that was dear; large ones are moved carefully.
    let usual_rate = match (low_rank, small) {
        (true, _) => 1e-3,
        (false, true) => 3e-3,
        (false, false) => 5e-5,
    };
    let batch = wishes.batch.unwrap_or(if small { 16 } else { 4 }).max(1);
    // Rows of one pass: what two threads can share evenly, and memory can hold.
    let pass_rows = if small { batch.div_ceil(2) } else { 1 };
    TrainPlan {
        mode,
        steps: wishes.steps,
        sequence: wishes.sequence.unwrap_or(256).min(context),
        rows: batch,
        pass_rows,
        optimizer: AdamW {
            learning_rate: wishes.learning_rate.unwrap_or(usual_rate),
            ..AdamW::default()
        },
        warmup: (wishes.steps / 20).min(20),
        decay: if wishes.by_time {
            Decay::Constant
        } else {
            Decay::Cosine { floor: 0.1 }
        },
        clip_norm: Some(1.0),
        seed: wishes.seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_as_many_rows_as_were_asked_for() {
        for parameters in [800_000, 135_000_000] {
            for batch in 1..=33 {
                let wishes = Wishes {
                    batch: Some(batch),
                    steps: 10,
                    ..Wishes::default()
                };
                let plan = plan(&wishes, parameters, 2048);
                assert_eq!(plan.rows, batch);
                assert!(plan.pass_rows <= batch);
            }
        }
    }
}
