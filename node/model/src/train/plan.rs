//! What a training run is: sizes, mode, optimizer, learning rate. Made by whoever orders the run;
//! the trainer reads it. Pure. What must stay true: a plan, a base and the data decide every byte
//! of the result.

use serde::{Deserialize, Serialize};

use super::{AdamW, Base, TrainError, base::BaseTensor};

/// Most steps of one run: bounds the curve that is kept with the state.
const STEPS_MAX: u32 = 1_000_000;
/// Most rows of one step: far above what helps, and a step ends in its time.
const ROWS_MAX: usize = 1 << 16;
/// Most rows in one forward pass: bounds memory and time between two moments at which a run can be stopped.
const PASS_ROWS_MAX: usize = 1024;
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
    /// Rows of one step.
    pub rows: usize,
    /// Rows of one forward pass at most: a step is cut into as many passes as that takes, and their gradients are
    /// added.
    pub pass_rows: usize,
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
        bounded("pass_rows", self.pass_rows, PASS_ROWS_MAX)?;
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

    /// Refuses what this model cannot be trained by.
    pub(super) fn check_for(&self, base: &Base) -> Result<(), TrainError> {
        let context = base.config().context;
        if self.sequence > context {
            return Err(TrainError::BadPlan(format!(
                "sequence is {}, the model's context has {context} tokens",
                self.sequence
            )));
        }
        let TrainMode::LowRank { rank, .. } = self.mode else {
            return Ok(());
        };
        let narrow = |tensor: &&BaseTensor| tensor.shape().iter().any(|side| *side < rank);
        match base.adapted().find(narrow) {
            Some(tensor) => Err(TrainError::BadPlan(format!(
                "rank is {rank}, but {} is {:?}: at most its smaller side is allowed",
                tensor.name,
                tensor.shape()
            ))),
            None => Ok(()),
        }
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

    /// Forward passes of one step.
    pub fn passes(&self) -> usize {
        self.rows.div_ceil(self.pass_rows)
    }
}
