//! AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", algorithm 2), in f32,
//! in place. Called by the trainer once per tensor and step. Element by element: the result does
//! not depend on threads.

use rayon::{
    iter::{IndexedParallelIterator, ParallelIterator},
    slice::{ParallelSlice, ParallelSliceMut},
};
use serde::{Deserialize, Serialize};

use super::TrainError;

/// Values that one thread updates at a time.
const PART_VALUES: usize = 1 << 15;

/// The optimizer's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// The full learning rate; the plan's schedule scales it.
    pub learning_rate: f32,
    /// How slowly the mean of the gradients moves.
    pub beta1: f32,
    /// How slowly the mean of their squares moves.
    pub beta2: f32,
    /// Keeps the step finite where gradients vanish.
    pub epsilon: f32,
    /// Share of each weight, times the learning rate, that is taken away per step. Matrices only:
    /// norms are not decayed.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            learning_rate: 3e-4,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.01,
        }
    }
}

/// Means of the gradients and of their squares, one per trained value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

impl Moments {
    pub(crate) fn zeros(len: usize) -> Self {
        Self {
            first: vec![0.0; len],
            second: vec![0.0; len],
        }
    }
}

/// What one step does to every tensor alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepSize {
    /// Of this step.
    pub(crate) learning_rate: f32,
    /// Counted from 1.
    pub(crate) step: u32,
    /// The gradient is multiplied by this first (clipping).
    pub(crate) gradient_scale: f32,
    /// 0 for tensors that are not decayed.
    pub(crate) weight_decay: f32,
}

impl AdamW {
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let below_one = |value: f32| (0.0..1.0).contains(&value);
        let wrong = if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            "learning_rate must be above 0 and at most 1"
        } else if !below_one(self.beta1) || !below_one(self.beta2) {
            "beta1 and beta2 must be from 0 to below 1"
        } else if !(self.epsilon > 0.0 && self.epsilon < 1.0) {
            "epsilon must be above 0 and below 1"
        } else if !below_one(self.weight_decay) {
            "weight_decay must be from 0 to below 1"
        } else {
            return Ok(());
        };
        Err(TrainError::BadPlan(wrong.to_owned()))
    }

    /// Moves `values` by one step along `gradient`.
    pub(crate) fn step(
        &self,
        values: &mut [f32],
        gradient: &[f32],
        moments: &mut Moments,
        size: StepSize,
    ) {
        // The bias corrections, in f64: 1 − β₂ᵗ loses digits in f32.
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(size.step as i32);
        let rate = (f64::from(size.learning_rate) / correction(self.beta1)) as f32;
        let root = correction(self.beta2).sqrt().recip() as f32;
        let keep = 1.0 - size.learning_rate * size.weight_decay;
        let Self {
            beta1,
            beta2,
            epsilon,
            ..
        } = *self;
        values
            .par_chunks_mut(PART_VALUES)
            .zip(gradient.par_chunks(PART_VALUES))
            .zip(moments.first.par_chunks_mut(PART_VALUES))
            .zip(moments.second.par_chunks_mut(PART_VALUES))
            .for_each(|(((values, gradient), first), second)| {
                let each = values.iter_mut().zip(gradient).zip(first).zip(second);
                for (((value, gradient), first), second) in each {
                    let g = gradient * size.gradient_scale;
                    *first = beta1 * *first + (1.0 - beta1) * g;
                    *second = beta2 * *second + (1.0 - beta2) * g * g;
                    let step = rate * *first / (second.sqrt() * root + epsilon);
                    *value = keep * *value - step;
                }
            });
    }
}

#[cfg(test)]
mod tests;
