//! Measures a candidate: its files are brought and loaded beside the served model, the text is read, the loss taken,
//! the report signed and logged before anyone hears of it. `daemon` starts it.
//! Must stay true: what is broken off gives no report; nothing of the text is in a report, a log line or an error;
//! of a private text no figure is told but through `private`.

mod private;
mod reference;
mod room;

use std::{ops::ControlFlow, sync::Arc};

use owm_proto::{
    Sha256,
    evaluation::{EvaluationReport, ExactF64, Finding, TextSource},
    statement::{Commit, Finish, Statement as _, TaskResultStatement},
    time::UnixMillis,
    wire::coordinator::{Output, TaskResult},
};
use owm_service::{CancellationToken, failpoint, report::Chain};
use prost::Message as _;

pub use private::OwnText;

use super::infer::{JobContext, JobEvent};
use crate::{
    RESULT_AFTER_LOG_BEFORE_SEND, RESULT_BEFORE_LOG,
    activity::Progress,
    engine::{
        AnswerError, EngineLoader, InferenceEngine, LoadError, MeasureJob, MeasuredSoFar,
        Measurement,
    },
    models::{CandidateError, CandidateShelf, LaidOut, RAM_PER_BYTE},
    residue::ResidueStore,
    session::Ending,
    tasklog::{Accepted, Finished},
    text::{Side, TextError, Texts, Wanted},
    updates::Updates,
    work::{EvaluateJob, Refusal},
};

/// What evaluations are done with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Means {
    /// Brings candidates.
    pub shelf: CandidateShelf,
    /// Measures them.
    pub tools: Tools,
}

/// What a candidate that is here is measured with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Loads it.
    pub loader: Arc<dyn EngineLoader>,
    /// Text.
    pub texts: Arc<dyn Texts>,
    /// What is allowed of the operator's own text.
    pub own_text: OwnText,
    /// Bytes of memory that this process may take.
    pub ram: Option<u64>,
    /// Where updates lie until the coordinator has them.
    pub updates: Updates,
    /// What the updates of rounds did not carry.
    pub residues: ResidueStore,
}

/// Runs an evaluation to its end.
pub async fn run(job: EvaluateJob, context: JobContext, means: Means, stop: CancellationToken) {
    let (key, events) = (job.key, context.events.clone());
    let (activity, clock) = (context.activity.clone(), Arc::clone(&context.clock));
    activity.begun(
        key,
        job.role().as_str(),
        job.version.as_str(),
        clock.monotonic(),
    );
    let has_bytes = job.ask.reference.is_some();
    let (ending, result, tokens) = match evaluated(job, context, means, stop).await {
        // From the log, with the update's bytes.
        Ok(Some((_, tokens))) if has_bytes => (Ending::ResultWithBytes, None, tokens),
        Ok(Some((result, tokens))) => (Ending::Result, Some(Box::new(result)), tokens),
        Ok(None) => (Ending::Stopped, None, 0),
        Err(Refusal { reason, message }) => (Ending::HandBack { reason, message }, None, 0),
    };
    activity.ended(key);
    let event = JobEvent::Ended {
        key,
        ending,
        result,
        tokens,
    };
    // Without a receiver the process is ending; the log has what matters.
    drop(events.send(event).await);
}

type Outcome = Result<Option<(TaskResult, u32)>, Refusal>;

async fn evaluated(
    job: EvaluateJob,
    context: JobContext,
    means: Means,
    stop: CancellationToken,
) -> Outcome {
    let accepted = Accepted {
        key: job.key,
        task_type: job.task_type().as_str().into(),
        model_version: job.version.to_string(),
        input_sha256: job.input_sha256,
        at: UnixMillis(context.clock.now_ms()),
    };
    let logged = context.log.run(move |log| log.accepted(&accepted)).await;
    logged.map_err(|error| Refusal::failed(error.to_string()))?;
    if job.ask.text == TextSource::Local {
        admitted(&job, &context, &means).await?;
    }
    let laid_out = if job.served.is_some() {
        None
    } else {
        let tell = |here: u64, of: u64| {
            let now = context.clock.monotonic();
            let what = format!("fetching the candidate: {here} of {of} bytes");
            context.activity.doing(job.key, &what, now);
        };
        let brought = means.shelf.bring(job.key, &job.ask.files, &stop, &tell);
        match brought.await {
            Ok(laid_out) => Some(laid_out),
            Err(CandidateError::Stopped) => return Ok(None),
            Err(error) => {
                tracing::warn!(lease = %job.key, error = %Chain(&error), "the candidate is not here");
                return Err(Refusal::cannot(error.told()));
            }
        }
    };
    let measuring = tokio::task::spawn_blocking(move || match (job.ask.reference, &laid_out) {
        (Some(steps), Some(laid_out)) => {
            reference::trained(&job, steps, &context, &means.tools, laid_out, &stop)
        }
        _ => measured(&job, &context, &means.tools, laid_out.as_ref(), &stop),
    });
    // A panic must not keep the slot: it is a failure like any other.
    let done = measuring.await;
    done.unwrap_or_else(|_| Err(Refusal::failed("the engine panicked")))
}

/// Whether the operator's own text is measured for this; if so, it is counted.
async fn admitted(job: &EvaluateJob, context: &JobContext, means: &Means) -> Result<(), Refusal> {
    let is_signed = job.served.is_some() || means.shelf.is_named(&job.ask.files);
    let (own_text, ask) = (means.tools.own_text, job.ask.clone());
    let (log, now) = (context.log.clone(), UnixMillis(context.clock.now_ms()));
    let admitting = move || own_text.admit(&ask, is_signed, &log, now);
    let done = tokio::task::spawn_blocking(admitting).await;
    done.unwrap_or_else(|_| Err(Refusal::failed("the process stops")))
}

/// The part that computes. Blocks.
fn measured(
    job: &EvaluateJob,
    context: &JobContext,
    tools: &Tools,
    laid_out: Option<&LaidOut>,
    stop: &CancellationToken,
) -> Outcome {
    let started = context.clock.monotonic();
    let (activity, clock) = (&context.activity, &context.clock);
    let bounds = private::Bounds::of(&job.ask);
    let wanted = Wanted {
        source: &job.ask.text,
        side: Side::HeldOut,
        seed: private::order(&job.ask, &context.node),
        documents_max: bounds.documents,
        bytes_max: bounds.bytes,
    };
    let mut tell = |what: &str| activity.doing(job.key, what, clock.monotonic());
    let documents = match tools.texts.documents(&wanted, stop, &mut tell) {
        Ok(documents) => documents,
        Err(TextError::Stopped) => return Ok(None),
        Err(error) => return Err(Refusal::cannot(error.to_string())),
    };
    let engine = match (&job.served, laid_out) {
        (Some(served), _) => Arc::clone(served),
        (None, Some(laid_out)) => {
            tell("loading the candidate");
            load(job, tools, laid_out)?
        }
        (None, None) => return Err(Refusal::failed("the candidate is not here")),
    };
    if stop.is_cancelled() {
        return Ok(None);
    }
    let needed = engine.measuring_bytes(job.ask.window);
    room::check(tools.ram, "measuring with rows of this length", needed)?;
    let measure = MeasureJob {
        documents,
        window: job.ask.window,
        tokens_max: bounds.tokens,
    };
    let mut on_measured = |so_far: MeasuredSoFar| {
        let progress = Progress {
            done: so_far.done,
            of: so_far.of,
            unit: "tokens",
            tokens: so_far.done,
            loss: (so_far.done > 0).then_some(so_far.loss),
        };
        activity.progressed(job.key, progress, clock.monotonic());
        if stop.is_cancelled() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let found = engine.measure(&measure, &mut on_measured);
    let found = found.map_err(|error| match error {
        AnswerError::Input(message) | AnswerError::Failed(message) => Refusal::failed(message),
    })?;
    let Some(found) = found.filter(|_| !stop.is_cancelled()) else {
        return Ok(None);
    };
    let found = private::told(&job.ask, &context.node, found)?;
    let exec = context.clock.monotonic().saturating_sub(started);
    let backend = engine.description().backend;
    finish(job, context, &found, (backend, exec.as_millis() as u64)).map(Some)
}

/// Loads the candidate, if there is room beside what is loaded.
fn load(
    job: &EvaluateJob,
    tools: &Tools,
    laid_out: &LaidOut,
) -> Result<Arc<dyn InferenceEngine>, Refusal> {
    let weights = job.ask.files.iter().filter(|file| file.is_weights());
    let needed = weights
        .map(|file| file.size)
        .sum::<u64>()
        .saturating_mul(RAM_PER_BYTE);
    room::check(tools.ram, "the candidate", needed)?;
    let loaded = tools.loader.load(&laid_out.folder, &laid_out.expected);
    loaded.map_err(|error| Refusal::cannot(told(&error, laid_out)))
}

/// What is wrong with a candidate, for others to hear: without the folder that it lies in here.
fn told(error: &LoadError, laid_out: &LaidOut) -> String {
    tracing::warn!(error = %Chain(error), "the candidate cannot be used");
    let folder = laid_out.folder.display().to_string();
    let told = error.to_string().replace(&folder, "its folder");
    // Another path, of which nothing is known here.
    if told.contains(" /") {
        return "the candidate cannot be used; the node's log says more".into();
    }
    told
}

fn finish(
    job: &EvaluateJob,
    context: &JobContext,
    found: &Measurement,
    (backend, exec_ms): (String, u64),
) -> Result<(TaskResult, u32), Refusal> {
    let finding = Finding::HeldOut {
        loss: ExactF64(found.loss),
        bits_per_byte: ExactF64(found.bits_per_byte),
    };
    let read = Read {
        documents: found.documents,
        bytes: found.bytes,
        tokens: found.tokens,
        tokens_sha256: found.tokens_sha256,
    };
    hand_over(job, context, (read, finding), (backend, exec_ms))
}

/// The text that went in, as it is told.
struct Read {
    documents: u32,
    bytes: u64,
    tokens: u64,
    tokens_sha256: Sha256,
}

/// Signs what was found and puts it into the log.
fn hand_over(
    job: &EvaluateJob,
    context: &JobContext,
    (read, finding): (Read, Finding),
    (backend, exec_ms): (String, u64),
) -> Result<(TaskResult, u32), Refusal> {
    let ask = &job.ask;
    let report = EvaluationReport {
        candidate: ask.weights_sha256(),
        text: ask.text.clone(),
        window: ask.window,
        documents: read.documents,
        bytes: read.bytes,
        tokens: read.tokens,
        tokens_sha256: read.tokens_sha256,
        finding,
    };
    let bytes = report.to_bytes();
    let tokens = u32::try_from(read.tokens).unwrap_or(u32::MAX);
    let statement = TaskResultStatement {
        task_id: job.key.task,
        epoch: job.key.epoch,
        model_sha256: ask.weights_sha256(),
        input_sha256: job.input_sha256,
        output_sha256: Sha256::of(&bytes),
        tokens_sha256: report.tokens_sha256,
        prompt_tokens: tokens,
        output_tokens: 0,
        finish: Finish::Stop,
        seed: ask.seed,
        backend,
        exec_ms,
    };
    let signed = statement.sign(&context.node, &context.network);
    let commit = Commit {
        task_id: job.key.task,
        epoch: job.key.epoch,
        result_sha256: Sha256::of(signed.unverified_payload()),
    }
    .sign(&context.node, &context.network);
    let result = TaskResult {
        commit: Some((&commit).into()),
        result: Some((&signed).into()),
        output: Some(Output {
            report: bytes,
            ..Output::default()
        }),
    };
    let failed = |error: &dyn std::fmt::Display| Refusal::failed(error.to_string());
    failpoint::check(RESULT_BEFORE_LOG).map_err(|error| failed(&error))?;
    let finished = Finished {
        key: job.key,
        output_sha256: statement.output_sha256,
        prompt_tokens: tokens,
        output_tokens: 0,
        exec_ms,
        at: UnixMillis(context.clock.now_ms()),
        result: result.encode_to_vec(),
    };
    let logged = context.log.finished(&finished);
    logged.map_err(|error| failed(&error))?;
    failpoint::hit(RESULT_AFTER_LOG_BEFORE_SEND);
    Ok((result, tokens))
}

#[cfg(test)]
mod tests;
