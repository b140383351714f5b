//! What a training run is: sizes, mode, optimizer, learning rate. Made by whoever orders the run;
//! the trainer reads it. Pure. What must stay true: a plan, a base and the data decide every byte
//! of the result.

use serde::{Deserialize, Serialize};

use super::{AdamW, TrainError};

/// Most steps of one run: bounds the curve that is kept with the state.
const STEPS_MAX: u32 = 1_000_000;
/// Most rows in one forward pass, and most passes per step: bounds memory and time between two
/// moments at which a run can be stopped.
const ROWS_MAX: usize = 1024;
/// Largest rank of a low-rank update.
const RANK_MAX: usize = 512;

/// Which values are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum TrainMode {
    /// Every weight.
    Full,
    /// To each matrix of attention and feed-forward, `[out, in]`, a product `B · A` is added. `A`,
    /// `[rank, in]`, is fixed by the seed; `B`, `[out, rank]`, begins at 0, contains the usual
    /// factor α/r, and is all that is trained.
    LowRank {
        /// Rows of `A`.
        rank: usize,
        /// Decides `A` ([`super::low_rank::fixed`]).
        seed: [u8; 32],
    },
}

/// How the learning rate moves over the steps of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Decay {
    /// It stays.
    Constant,
    /// Half a cosine, from the full rate to `floor` times it at the last step.
    Cosine {
        /// Share of the full rate that is left at the end, 0 to 1.
        floor: f32,
    },
}

/// A training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainPlan {
    /// What is trained.
    pub mode: TrainMode,
    /// Optimizer steps.
    pub steps: u32,
    /// Tokens that each row is trained on.
    pub sequence: usize,
    /// Rows of one forward pass.
    pub rows: usize,
    /// Forward passes whose gradients make one step.
    pub accumulate: usize,
    /// The optimizer with its full learning rate.
    pub optimizer: AdamW,
    /// Steps over which the rate rises linearly to the full one.
    pub warmup: u32,
    /// What it does afterwards.
    pub decay: Decay,
    /// Longest gradient (Euclidean norm over all trained values); a longer one is scaled down.
    pub clip_norm: Option<f32>,
    /// Decides the order of the data.
    pub seed: u64,
}

impl TrainPlan {
    /// Refuses what cannot be computed or would not end.
    pub fn check(&self) -> Result<(), TrainError> {
        let bounded = |name, value: usize, max: usize| {
            if value == 0 || value > max {
                return Err(TrainError::BadPlan(format!(
                    "{name} is {value}, allowed are 1 to {max}"
                )));
            }
            Ok(())
        };
        bounded("steps", self.steps as usize, STEPS_MAX as usize)?;
        bounded("rows", self.rows, ROWS_MAX)?;
        bounded("accumulate", self.accumulate, ROWS_MAX)?;
        if self.sequence < 2 {
            return Err(TrainError::BadPlan("sequence is below 2 tokens".to_owned()));
        }
        if let TrainMode::LowRank { rank, .. } = self.mode {
            bounded("rank", rank, RANK_MAX)?;
        }
        if let Decay::Cosine { floor } = self.decay
            && !(0.0..=1.0).contains(&floor)
        {
            return Err(TrainError::BadPlan(format!(
                "floor is {floor}, allowed are 0 to 1"
            )));
        }
        if self
            .clip_norm
            .is_some_and(|norm| !(norm > 0.0 && norm.is_finite()))
        {
            return Err(TrainError::BadPlan("clip_norm is not above 0".to_owned()));
        }
        self.optimizer.check()
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn learning_rate(&self, step: u32) -> f32 {
        let full = f64::from(self.optimizer.learning_rate);
        if step < self.warmup {
            return (full * f64::from(step + 1) / f64::from(self.warmup)) as f32;
        }
        match self.decay {
            Decay::Constant => full as f32,
            Decay::Cosine { floor } => {
                let floor = f64::from(floor);
                let span = f64::from((self.steps - self.warmup.min(self.steps)).max(2) - 1);
                let done = (f64::from(step - self.warmup) / span).min(1.0);
                let wave = f64::midpoint(1.0, (std::f64::consts::PI * done).cos());
                (full * (floor + (1.0 - floor) * wave)) as f32
            }
        }
    }

    /// Rows that one step is made of.
    pub fn rows_per_step(&self) -> usize {
        self.rows * self.accumulate
    }
}
