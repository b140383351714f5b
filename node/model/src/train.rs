//! Training: next-token cross-entropy through the whole decoder, AdamW, every weight or low-rank
//! updates. Called by the daemon from a blocking thread. This file holds the trainer; its parts are
//! rooms of their own. What must stay true: base, text and plan decide every byte of the result on
//! one backend, however many threads computed it and however often it was stopped and resumed.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rayon::{
    ThreadPool, ThreadPoolBuilder,
    iter::{IndexedParallelIterator, ParallelIterator},
    slice::{ParallelSlice, ParallelSliceMut},
};

mod adamw;
mod base;
mod error;
pub(crate) mod head;
mod low_rank;
mod micro;
mod pass;
mod plan;
mod state;
mod trained;
mod windows;

pub use adamw::AdamW;
pub(crate) use base::Wanted;
pub use base::{Base, FlatOrder};
pub use error::TrainError;
pub use low_rank::fixed as low_rank_fixed;
pub(crate) use low_rank::is_adapted;
pub use plan::{Decay, TrainMode, TrainPlan};
pub use trained::{Trained, WrittenModel, check_way};

use adamw::{Moments, StepSize};
use micro::{Leaf, LossAndGradient, Setting};
use pass::Grid;
use windows::Windows;

/// Values that one thread adds up or compares at a time. The sum of a part has a fixed order, and
/// parts are added in order: the norm does not depend on threads.
const PART_VALUES: usize = 1 << 16;

/// How far a run is, after each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: u32,
    /// Steps of the whole run.
    pub steps: u32,
    /// Loss of this step, in nats per token, before its update.
    pub loss: f32,
    /// Euclidean norm of this step's gradient, before clipping.
    pub gradient_norm: f32,
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Tokens that the run has been trained on.
    pub tokens: u64,
    /// Speed since this process took the run up.
    pub tokens_per_second: f64,
    /// Time that is left at this speed.
    pub remaining: Duration,
}

/// A run under way.
#[derive(Debug)]
pub struct Trainer {
    base: Arc<Base>,
    plan: TrainPlan,
    setting: Setting,
    windows: Windows,
    leaves: Vec<Leaf>,
    moments: Vec<Moments>,
    /// Steps done, one loss each.
    losses: Vec<f32>,
    /// Passes that run at once, each with threads of its own; none: one at a time on all threads.
    lanes: Vec<ThreadPool>,
    started: Instant,
    started_at: u32,
    identity: state::Identity,
}

impl Trainer {
    /// A run from the beginning. `tokens` is the text in one row ([`crate::tokens_of`]).
    pub fn new(base: Arc<Base>, tokens: Vec<u32>, plan: TrainPlan) -> Result<Self, TrainError> {
        plan.check()?;
        plan.check_for(&base)?;
        let identity = state::Identity::new(&base, &tokens, &plan);
        let windows = Windows::new(tokens, plan.sequence, plan.seed)?;
        let (setting, leaves) = Setting::new(&base, plan.mode, windows.sequence());
        let moments = leaves
            .iter()
            .map(|leaf| Moments::zeros(leaf.len()))
            .collect();
        Ok(Self {
            lanes: lanes(plan.passes(), rayon::current_num_threads())?,
            base,
            plan,
            setting,
            windows,
            leaves,
            moments,
            losses: Vec::new(),
            started: Instant::now(),
            started_at: 0,
            identity,
        })
    }

    /// Goes on from what [`Self::save`] wrote for the same base, text and plan.
    pub fn resume(&mut self, path: &Path) -> Result<(), TrainError> {
        state::load(self, path)?;
        self.restart_clock();
        Ok(())
    }

    /// Speed and time left count from now: for who did something else since the run was begun or resumed.
    pub fn restart_clock(&mut self) {
        self.started = Instant::now();
        self.started_at = self.step_count();
    }

    /// Writes everything that the run needs to go on: synced under another name, then renamed.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        state::save(self, path)
    }

    /// Refuses now what [`Self::save`] would refuse later: something that is not ours where it writes.
    pub fn check_way(path: &Path) -> Result<(), TrainError> {
        state::check_way(path)
    }

    /// Steps done.
    pub fn step_count(&self) -> u32 {
        self.losses.len() as u32
    }

    /// Loss of each step so far, in nats per token.
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    /// The plan of the run.
    pub fn plan(&self) -> &TrainPlan {
        &self.plan
    }

    /// Number of values that are trained.
    pub fn trained_values(&self) -> u64 {
        self.leaves.iter().map(|leaf| leaf.len() as u64).sum()
    }

    /// Windows of the text: an epoch is over when each has been a row once.
    pub fn windows(&self) -> usize {
        self.windows.count()
    }

    /// Whether all steps are done.
    pub fn is_done(&self) -> bool {
        self.step_count() >= self.plan.steps
    }

    /// Does one step. `go_on` is asked before each forward pass; `Break` leaves the step undone and
    /// gives `None`.
    pub fn step(
        &mut self,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Progress>, TrainError> {
        let step = self.step_count();
        let Some((loss, gradients)) = self.gradient(step, go_on)? else {
            return Ok(None);
        };
        let tokens_of_step = (self.plan.rows * self.windows.sequence()) as f64;
        let loss = (loss / tokens_of_step) as f32;
        let norm = gradients
            .iter()
            .map(|part| sum_of_squares(part.values()))
            .sum::<f64>()
            .sqrt();
        if !loss.is_finite() || !norm.is_finite() {
            return Err(TrainError::Diverged { step: step + 1 });
        }
        let learning_rate = self.plan.learning_rate(step);
        let gradient_scale = match self.plan.clip_norm {
            Some(max) if norm > f64::from(max) => (f64::from(max) / norm) as f32,
            _ => 1.0,
        };
        let optimizer = self.plan.optimizer;
        let tensors = self.leaves.iter_mut().zip(&mut self.moments).zip(gradients);
        for ((leaf, moments), gradient) in tensors {
            let size = StepSize {
                learning_rate,
                step: step + 1,
                gradient_scale,
                weight_decay: if leaf.is_matrix() {
                    optimizer.weight_decay
                } else {
                    0.0
                },
            };
            leaf.update(|values| optimizer.step(values, gradient.values(), moments, size))?;
        }
        self.losses.push(loss);
        Ok(Some(self.progress(loss, norm as f32, learning_rate)))
    }

    /// Does all steps that are left, calling `on_step` after each; `Break` from either function
    /// stops between two forward passes. Whether the run is done.
    pub fn run(
        &mut self,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
        on_step: &mut dyn FnMut(&Self, Progress) -> ControlFlow<()>,
    ) -> Result<bool, TrainError> {
        while !self.is_done() {
            let Some(progress) = self.step(go_on)? else {
                return Ok(false);
            };
            if on_step(self, progress).is_break() {
                break;
            }
        }
        Ok(self.is_done())
    }

    /// What the steps so far have made. Whatever only further steps would need is given up first.
    pub fn finish(self) -> Result<Trained, TrainError> {
        let rows = u64::from(self.step_count()) * self.plan.rows as u64;
        let tokens = rows * self.windows.sequence() as u64;
        let Self {
            base,
            plan,
            setting,
            windows,
            leaves,
            moments,
            losses,
            lanes,
            ..
        } = self;
        drop((setting, windows, moments, lanes));
        trained::collect(base, plan.mode, leaves, losses, (rows, tokens))
    }

    /// Sum of the losses and mean gradient of step `step`.
    fn gradient(
        &mut self,
        step: u32,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<LossAndGradient>, TrainError> {
        let rows = self.plan.rows;
        let scale = 1.0 / (rows * self.windows.sequence()) as f32;
        let first = u64::from(step) * rows as u64;
        let windows: Vec<Vec<u32>> = (first..first + rows as u64)
            .map(|index| self.windows.get(index).to_vec())
            .collect();
        let passes: Vec<Vec<&[u32]>> = windows
            .chunks(self.plan.pass_rows)
            .map(|pass| pass.iter().map(Vec::as_slice).collect())
            .collect();
        let mut loss = 0.0;
        let mut sum: Option<Vec<Grid>> = None;
        for group in passes.chunks(self.lanes.len().max(1)) {
            if go_on().is_break() {
                return Ok(None);
            }
            // Passes are added in their order, whichever was done first.
            for result in self.passes(group, scale) {
                let (part_loss, part) = result?;
                loss += part_loss;
                match &mut sum {
                    None => sum = Some(part),
                    Some(sum) => sum
                        .iter_mut()
                        .zip(&part)
                        .for_each(|(sum, part)| add(sum.values_mut(), part.values())),
                }
            }
        }
        Ok(sum.map(|sum| (loss, sum)))
    }

    /// Several passes at once, each on threads of its own.
    fn passes(
        &self,
        group: &[Vec<&[u32]>],
        scale: f32,
    ) -> Vec<Result<LossAndGradient, TrainError>> {
        let one = |rows: &[&[u32]]| self.setting.gradient(&self.leaves, rows, scale);
        if self.lanes.is_empty() {
            return group.iter().map(|rows| one(rows)).collect();
        }
        std::thread::scope(|scope| {
            let running: Vec<_> = group
                .iter()
                .zip(&self.lanes)
                .map(|(rows, lane)| scope.spawn(move || lane.install(|| one(rows))))
                .collect();
            running
                .into_iter()
                .map(|lane| {
                    lane.join().unwrap_or_else(|_| {
                        Err(TrainError::Device("a training thread panicked".to_owned()))
                    })
                })
                .collect()
        })
    }

    fn progress(&self, loss: f32, gradient_norm: f32, learning_rate: f32) -> Progress {
        let step = self.step_count();
        let per_step = (self.plan.rows * self.windows.sequence()) as u64;
        let elapsed = self.started.elapsed();
        let since = step - self.started_at;
        let left = self.plan.steps - step;
        Progress {
            step,
            steps: self.plan.steps,
            loss,
            gradient_norm,
            learning_rate,
            tokens: u64::from(step) * per_step,
            tokens_per_second: (u64::from(since) * per_step) as f64
                / elapsed.as_secs_f64().max(1e-9),
            remaining: elapsed.mul_f64(f64::from(left) / f64::from(since.max(1))),
        }
    }
}

/// Threads for as many passes at once as there are passes and threads.
fn lanes(passes: usize, threads: usize) -> Result<Vec<ThreadPool>, TrainError> {
    let lanes = passes.min(threads);
    if lanes < 2 {
        return Ok(Vec::new());
    }
    (0..lanes)
        .map(|lane| {
            // Those at the front take what does not divide.
            let share = threads / lanes + usize::from(lane < threads % lanes);
            ThreadPoolBuilder::new()
                .num_threads(share)
                .thread_name(move |at| format!("train-{lane}-{at}"))
                .build()
                .map_err(|error| TrainError::Device(error.to_string()))
        })
        .collect()
}

fn add(sum: &mut [f32], part: &[f32]) {
    sum.par_chunks_mut(PART_VALUES)
        .zip(part.par_chunks(PART_VALUES))
        .for_each(|(sum, part)| {
            sum.iter_mut()
                .zip(part)
                .for_each(|(sum, part)| *sum += part);
        });
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let parts: Vec<f64> = values
        .par_chunks(PART_VALUES)
        .map(|part| {
            let (chunks, rest) = part.as_chunks::<8>();
            let mut lanes = [0.0_f64; 8];
            for chunk in chunks {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane += f64::from(*value) * f64::from(*value);
                }
            }
            let rest: f64 = rest.iter().map(|value| f64::from(*value).powi(2)).sum();
            lanes.iter().sum::<f64>() + rest
        })
        .collect();
    parts.iter().sum()
}

#[cfg(test)]
mod tests;
