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

pub mod defaults;
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
    Step(Progress),
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
    /// Someone stopped it; the state is there.
    Stopped {
        /// Steps done.
        step: u32,
    },
}

/// A finished run.
#[derive(Debug)]
pub struct Done {
    /// The base model's figures.
    pub before: Measured,
    /// The trained model's, as its files say.
    pub after: Measured,
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
    // Without a slash at its end: the state stands beside the result, not in it.
    let out: PathBuf = out.components().collect();
    let mut name = out.into_os_string();
    name.push(".state");
    PathBuf::from(name)
}

/// Carries out an order. Blocks; `stop` ends it between two forward passes.
pub fn train(
    order: &TrainOrder,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(TrainEvent<'_>),
) -> Result<TrainOutcome, TrainFailure> {
    prepare(&order.out)?;
    let held_out = sample(order.text.held_out.clone(), order.held_out_bytes);
    let expected = order.expected.as_ref();
    let Some(before) = measure(order, &order.base_dir, expected, &held_out, stop, on_event)? else {
        return Ok(TrainOutcome::Stopped { step: 0 });
    };
    on_event(TrainEvent::Before(&before));
    let base = Arc::new(Base::load(&order.base_dir, expected).map_err(TrainError::from)?);
    if order.text.train.is_empty() {
        return Err(TrainFailure::NoText);
    }
    let tokens = tokens_of(base.config(), base.tokenizer(), &order.text.train)
        .map_err(TrainError::Tokenize)?;
    let token_count = tokens.len();
    let mut trainer = Trainer::new(base, tokens, order.plan.clone())?;
    let state = state_file(&order.out);
    if state.exists() {
        trainer.resume(&state)?;
    }
    on_event(TrainEvent::Begins {
        trained_values: trainer.trained_values(),
        tokens: token_count,
        resumed_at: trainer.step_count(),
    });
    if !steps(&mut trainer, order, &state, stop, on_event)? {
        return Ok(TrainOutcome::Stopped {
            step: trainer.step_count(),
        });
    }
    // So that nothing is lost if the result can't be written; where there is no room for it, the result may still fit.
    let _is_kept = trainer.save(&state);
    let trained = trainer.finish()?;
    let written = trained.write_model(&order.base_dir, &order.out)?;
    let (steps, tokens, losses) = (trained.steps, trained.tokens, trained.losses.clone());
    drop(trained);
    let never = AtomicBool::new(false);
    let after = measure(order, &order.out, None, &held_out, &never, on_event)?;
    // The result is whole and loads: the way to it is no longer needed. That the file may stay is no fault.
    drop(fs::remove_file(&state));
    Ok(TrainOutcome::Done(Box::new(Done {
        after: after.unwrap_or_else(|| before.clone()),
        before,
        steps,
        tokens,
        losses,
        written,
    })))
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
            trainer.save(state)?;
            return Ok(false);
        };
        if let Some(time) = order.time {
            progress.remaining = progress
                .remaining
                .min(time.saturating_sub(started.elapsed()));
        }
        on_event(TrainEvent::Step(progress));
        if saved.elapsed() >= SAVE_EVERY {
            trainer.save(state)?;
            saved = Instant::now();
            on_event(TrainEvent::Saved);
        }
    }
    Ok(true)
}

/// Refuses a folder that the result could not be put into, before hours are spent on it.
fn prepare(out: &Path) -> Result<(), TrainFailure> {
    let is_used = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if is_used || out.is_file() {
        return Err(TrainFailure::OutInUse(out.to_owned()));
    }
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let writable = fs::create_dir_all(parent).and_then(|()| tempfile::tempfile_in(parent));
    writable.map(drop).map_err(|source| TrainFailure::Out {
        path: parent.to_owned(),
        source,
    })
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
        .map_err(|error| TrainFailure::Load(owm_service::report::Chain(&error).to_string()))?;
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
