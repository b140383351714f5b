//! Training on this machine, for a human: measure, train, measure again, keep the result. Called by
//! `cli::train` on its own thread. What must stay true: nothing of the text leaves this machine; a run that
//! is stopped goes on from its state file to the bytes of an unbroken one.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use owm_corpus::{Document, Split, sample};
use owm_model::{
    Base, DeviceChoice, Engine, Evaluation, GenerateJob, LoadOptions, Progress, Prompt, Sampling,
    TrainError, TrainPlan, Trainer, WrittenModel, evaluate, tokens_of,
};
use owm_service::report::Chain;

pub mod defaults;
mod place;
pub mod view;

/// Between two saved states.
const SAVE_EVERY: Duration = Duration::from_mins(1);
/// Tokens of the sample answers.
const SAMPLE_TOKENS: u32 = 48;

/// A run as it was ordered.
#[derive(Debug)]
pub struct TrainOrder {
    /// The model's folder.
    pub base_dir: PathBuf,
    /// SHA-256 of its files, where a manifest says them.
    pub expected: Option<BTreeMap<String, [u8; 32]>>,
    /// The text.
    pub text: Split,
    /// Bytes of held-out text that are measured with.
    pub held_out_bytes: usize,
    /// What to do.
    pub plan: TrainPlan,
    /// Ends the run early: after the step during which this time is over.
    pub time: Option<Duration>,
    /// Where the result goes; its state beside it.
    pub out: PathBuf,
    /// Continued before and after, to be compared.
    pub prompt: Option<String>,
}

/// What happens on the way.
#[derive(Debug, Clone, Copy)]
pub enum TrainEvent<'a> {
    /// The held-out text is being measured with, so far this share of it.
    Measuring(f64),
    /// The base model's figures.
    Before(&'a Measured),
    /// Training begins: trained values, tokens of the text.
    Begins {
        /// Values that are trained.
        trained_values: u64,
        /// Tokens of the text.
        tokens: usize,
        /// Steps that a saved state had done already.
        resumed_at: u32,
    },
    /// A step is done.
    Step {
        /// How far it is.
        progress: Progress,
        /// Share of the run that is done, by steps or by time, whichever ends it first.
        share: f64,
    },
    /// The state was saved.
    Saved,
}

/// Figures of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// On the held-out text, if there is any.
    pub held_out: Option<Evaluation>,
    /// How it continues the prompt.
    pub sample: Option<String>,
}

/// How a run ended.
#[derive(Debug)]
pub enum TrainOutcome {
    /// The result is there.
    Done(Box<Done>),
    /// Someone stopped it.
    Stopped {
        /// Steps that the state has; without any there is no state.
        step: u32,
        /// Whether it was stopped while it measured the base.
        is_measuring: bool,
    },
}

/// A finished run.
#[derive(Debug)]
pub struct Done {
    /// The base model's figures.
    pub before: Measured,
    /// The trained model's, as its files say; `None`: someone stopped that.
    pub after: Option<Measured>,
    /// Steps done.
    pub steps: u32,
    /// Tokens trained on.
    pub tokens: u64,
    /// Loss of each step.
    pub losses: Vec<f32>,
    /// The files.
    pub written: WrittenModel,
}

/// A run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainFailure {
    /// The result's folder is in use.
    #[error("{} is there already and not empty: name another folder with --out", .0.display())]
    OutInUse(PathBuf),
    /// The result's folder cannot be written.
    #[error("{} cannot be written to: name another folder with --out", path.display())]
    Out {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another run writes there.
    #[error(
        "another run is under way that writes to {}: wait for it or stop it, or name another folder with --out", .0.display()
    )]
    Busy(PathBuf),
    /// The disk is too small for the result and the way there.
    #[error(
        "{} has {free_mb} MB free, the result and its saved state take up to {needed_mb} MB: free some space or name a folder elsewhere with --out", path.display()
    )]
    Room {
        /// Where.
        path: PathBuf,
        /// What it takes.
        needed_mb: u64,
        /// What there is.
        free_mb: u64,
    },
    /// The split left nothing to train on.
    #[error("there is nothing to train on: every document was held out; give more text")]
    NoText,
    /// The engine's part failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The model cannot be loaded.
    #[error("the model cannot be loaded: {0}")]
    Load(String),
    /// The sample could not be made.
    #[error("the prompt cannot be continued: {0}")]
    Sample(String),
}

/// The file that a stopped run goes on from.
pub fn state_file(out: &Path) -> PathBuf {
    place::beside(out, ".state")
}

/// Carries out an order. Blocks; `stop` ends it between two forward passes.
pub fn train(
    order: &TrainOrder,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<TrainOutcome, TrainFailure> {
    // All that can be refused is, before the first minutes go into measuring.
    let _place = place::take(&order.out)?;
    let state = state_file(&order.out);
    let (mut trainer, tokens) = begin(order, &state)?;
    place::check_room(&order.out, &order.base_dir, trainer.trained_values())?;
    let held_out = sample(order.text.held_out.clone(), order.held_out_bytes);
    let expected = order.expected.as_ref();
    let Some(before) = measure(order, &order.base_dir, expected, &held_out, stop, on_event)? else {
        return Ok(TrainOutcome::Stopped {
            step: trainer.step_count(),
            is_measuring: true,
        });
    };
    on_event(TrainEvent::Before(&before));
    on_event(TrainEvent::Begins {
        trained_values: trainer.trained_values(),
        tokens,
        resumed_at: trainer.step_count(),
    });
    trainer.restart_clock();
    if !steps(&mut trainer, order, &state, stop, on_event)? {
        return Ok(TrainOutcome::Stopped {
            step: trainer.step_count(),
            is_measuring: false,
        });
    }
    // So that nothing is lost if the result can't be written; where there is no room for it, the result may still fit.
    let _is_kept = trainer.save(&state);
    let trained = trainer.finish()?;
    let written = trained.write_model(&order.base_dir, &order.out)?;
    let (steps, tokens, losses) = (trained.steps, trained.tokens, trained.losses.clone());
    drop(trained);
    let after = measure(order, &order.out, None, &held_out, stop, on_event)?;
    // The result is whole and loads: the way to it is no longer needed. That the file may stay is no fault.
    drop(fs::remove_file(&state));
    Ok(TrainOutcome::Done(Box::new(Done {
        before,
        after,
        steps,
        tokens,
        losses,
        written,
    })))
}

/// The run, as far as a saved state has it, and the number of tokens of its text.
fn begin(order: &TrainOrder, state: &Path) -> Result<(Trainer, usize), TrainFailure> {
    let base = Base::load(&order.base_dir, order.expected.as_ref())
        .map_err(|error| TrainFailure::Load(Chain(&error).to_string()))?;
    if order.text.train.is_empty() {
        return Err(TrainFailure::NoText);
    }
    let tokens = tokens_of(base.config(), base.tokenizer(), &order.text.train)
        .map_err(TrainError::Tokenize)?;
    let token_count = tokens.len();
    let mut trainer = Trainer::new(Arc::new(base), tokens, order.plan.clone())?;
    if state.exists() {
        trainer.resume(state)?;
    }
    Ok((trainer, token_count))
}

/// Does the steps and saves the state now and then, and at the end if someone stopped it. Whether the run
/// is over.
fn steps(
    trainer: &mut Trainer,
    order: &TrainOrder,
    state: &Path,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<bool, TrainFailure> {
    let started = Instant::now();
    let mut saved = Instant::now();
    let is_over = |order: &TrainOrder| order.time.is_some_and(|time| started.elapsed() >= time);
    while !trainer.is_done() && !is_over(order) {
        let mut go_on = || {
            if stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let Some(mut progress) = trainer.step(&mut go_on)? else {
            if trainer.step_count() > 0 {
                trainer.save(state)?;
            }
            return Ok(false);
        };
        if let Some(time) = order.time {
            progress.remaining = progress
                .remaining
                .min(time.saturating_sub(started.elapsed()));
        }
        let share = share(&progress, started.elapsed(), order.time);
        on_event(TrainEvent::Step { progress, share });
        if saved.elapsed() >= SAVE_EVERY {
            trainer.save(state)?;
            saved = Instant::now();
            on_event(TrainEvent::Saved);
        }
    }
    Ok(true)
}

/// Share of a run that is done, by steps or by time.
fn share(progress: &Progress, elapsed: Duration, time: Option<Duration>) -> f64 {
    let by_steps = f64::from(progress.step) / f64::from(progress.steps.max(1));
    let by_time = time.map_or(0.0, |time| {
        elapsed.as_secs_f64() / time.as_secs_f64().max(f64::MIN_POSITIVE)
    });
    by_steps.max(by_time).min(1.0)
}

/// Figures of the model in a folder; `None` if it was stopped.
fn measure(
    order: &TrainOrder,
    dir: &Path,
    expected: Option<&BTreeMap<String, [u8; 32]>>,
    held_out: &[Document],
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<Option<Measured>, TrainFailure> {
    let options = LoadOptions {
        device: DeviceChoice::Cpu,
        expected_sha256: expected.cloned(),
    };
    let engine = Engine::load(dir, &options)
        .map_err(|error| TrainFailure::Load(Chain(&error).to_string()))?;
    let mut evaluation = None;
    if !held_out.is_empty() {
        let mut go_on = |share: f64| {
            on_event(TrainEvent::Measuring(share));
            if stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        evaluation = evaluate(&engine, held_out, order.plan.sequence, &mut go_on)?;
        if evaluation.is_none() {
            return Ok(None);
        }
    }
    let sample = match &order.prompt {
        Some(prompt) => Some(continued(&engine, prompt)?),
        None => None,
    };
    Ok(Some(Measured {
        held_out: evaluation,
        sample,
    }))
}

/// The likeliest continuation of a text.
fn continued(engine: &Engine, prompt: &str) -> Result<String, TrainFailure> {
    let failed = |error: &dyn fmt::Display| TrainFailure::Sample(error.to_string());
    let prompt = engine
        .encode_prompt(&Prompt::Raw(prompt.to_owned()))
        .map_err(|error| failed(&error))?;
    let job = GenerateJob {
        prompt,
        forced_prefix: Vec::new(),
        max_tokens: SAMPLE_TOKENS,
        sampling: Sampling::GREEDY,
        stop: Vec::new(),
    };
    let generation = engine
        .generate(&job, &mut |_| ControlFlow::Continue(()))
        .map_err(|error| failed(&error))?;
    Ok(generation.text)
}

#[cfg(test)]
mod tests;
