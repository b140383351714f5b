//! Answers one leased question on a blocking thread: tokens out as signed chunks, then the signed
//! result, which is in the task log before anyone hears of it. `daemon` starts it.
//! Must stay true: what is broken off gives no result; no text reaches the log or an error.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use owm_proto::{
    NodeKey, Sha256,
    genesis::NetworkId,
    statement::{Commit, Finish, Segment, Statement as _, TaskResultStatement, tokens_sha256},
    time::UnixMillis,
    wire::coordinator::{Chunk, HandBackReason, Output, TaskResult},
};
use owm_service::{CancellationToken, clock::SharedClock, failpoint};
use prost::Message as _;
use tokio::sync::mpsc;

use crate::{
    RESULT_AFTER_LOG_BEFORE_SEND, RESULT_BEFORE_LOG,
    activity::Activity,
    engine::{Answer, AnswerError, EncodeError, Token},
    session::Ending,
    tasklog::{Accepted, Finished, LeaseKey, TaskLog},
    work::InferJob,
};

/// Tokens are gathered for so long before they are sent: a person sees no difference, the wire does.
pub const CHUNK_EVERY: Duration = Duration::from_millis(50);

/// What comes out of a job.
#[derive(Debug)]
pub enum JobEvent {
    /// Tokens.
    Chunk(LeaseKey, Chunk),
    /// The end; the result is already in the task log.
    Ended {
        /// Which.
        key: LeaseKey,
        /// How.
        ending: Ending,
        /// If it is a result.
        result: Option<Box<TaskResult>>,
        /// Tokens computed here.
        tokens: u32,
    },
}

/// What every job is given.
#[derive(Clone, Debug)]
pub struct JobContext {
    /// Signs.
    pub node: Arc<NodeKey>,
    /// For which network.
    pub network: NetworkId,
    /// The time.
    pub clock: SharedClock,
    /// The log.
    pub log: TaskLog,
    /// What is shown of it while it runs.
    pub activity: Activity,
    /// Where events go; bounded, so a slow link slows the engine down.
    pub events: mpsc::Sender<JobEvent>,
}

/// Runs a job to its end. Blocks; call it on a blocking thread.
pub fn run(job: &InferJob, context: &JobContext, stop: &CancellationToken) {
    let (activity, clock) = (&context.activity, &context.clock);
    activity.started(job.key, job.version.as_str(), job.stream, clock.monotonic());
    // A panic must not keep the slot: it is a failure like any other.
    let done =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer(job, context, stop)))
            .unwrap_or_else(|_| Err(Failure::failed("the engine panicked")));
    let (ending, result, tokens) = match done {
        Ok(Some((result, tokens))) => (Ending::Result, Some(Box::new(result)), tokens),
        Ok(None) => (Ending::Stopped, None, 0),
        Err(refusal) => {
            let Failure { reason, message } = refusal;
            (Ending::HandBack { reason, message }, None, 0)
        }
    };
    activity.ended(job.key);
    let event = JobEvent::Ended {
        key: job.key,
        ending,
        result,
        tokens,
    };
    // Without a receiver the process is ending; the log has what matters.
    drop(context.events.blocking_send(event));
}

struct Failure {
    reason: HandBackReason,
    message: String,
}

impl Failure {
    fn failed(message: impl Into<String>) -> Self {
        Self {
            reason: HandBackReason::Failed,
            message: message.into(),
        }
    }

    fn input(message: impl Into<String>) -> Self {
        Self {
            reason: HandBackReason::InputRefused,
            message: message.into(),
        }
    }
}

fn answer(
    job: &InferJob,
    context: &JobContext,
    stop: &CancellationToken,
) -> Result<Option<(TaskResult, u32)>, Failure> {
    let accepted = Accepted {
        key: job.key,
        task_type: "inference".into(),
        model_version: job.version.to_string(),
        input_sha256: job.input_sha256,
        at: UnixMillis(context.clock.now_ms()),
    };
    context
        .log
        .accepted(&accepted)
        .map_err(|error| Failure::failed(error.to_string()))?;
    let started = context.clock.monotonic();
    let mut generate = job.generate.clone();
    generate.prompt = job
        .engine
        .encode(&job.question)
        .map_err(|error| match error {
            EncodeError::TooLong { .. } | EncodeError::Refused(_) => {
                Failure::input(error.to_string())
            }
        })?;
    let encoded = u32::try_from(generate.prompt.len()).unwrap_or(u32::MAX);
    context
        .activity
        .prompted(job.key, encoded, context.clock.monotonic());
    let mut chunks = Chunks::new(job, context);
    let mut on_token = |token: Token<'_>| {
        context.activity.token(job.key, context.clock.monotonic());
        if stop.is_cancelled() {
            return ControlFlow::Break(());
        }
        chunks.push(token)
    };
    let answer = job
        .engine
        .generate(&generate, &mut on_token)
        .map_err(|error| match error {
            AnswerError::Input(message) => Failure::input(message),
            AnswerError::Failed(message) => Failure::failed(message),
        })?;
    let Some(finish) = answer.finish.filter(|_| !stop.is_cancelled()) else {
        return Ok(None);
    };
    let exec = context.clock.monotonic().saturating_sub(started);
    chunks.finish(&answer.flush);
    finish_result(job, context, &answer, finish, exec).map(Some)
}

fn finish_result(
    job: &InferJob,
    context: &JobContext,
    answer: &Answer,
    finish: Finish,
    exec: Duration,
) -> Result<(TaskResult, u32), Failure> {
    let output_tokens = answer.tokens.len() as u32;
    let statement = TaskResultStatement {
        task_id: job.key.task,
        epoch: job.key.epoch,
        model_sha256: job.model_sha256.clone(),
        input_sha256: job.input_sha256,
        output_sha256: Sha256::of(answer.text.as_bytes()),
        tokens_sha256: tokens_sha256(&answer.tokens),
        prompt_tokens: answer.prompt_tokens,
        output_tokens,
        finish,
        seed: job.generate.seed,
        backend: job.engine.description().backend,
        exec_ms: exec.as_millis() as u64,
    };
    let (output_sha256, exec_ms) = (statement.output_sha256, statement.exec_ms);
    let signed = statement.sign(&context.node, &context.network);
    let commit = Commit {
        task_id: job.key.task,
        epoch: job.key.epoch,
        result_sha256: Sha256::of(signed.unverified_payload()),
    }
    .sign(&context.node, &context.network);
    let segment = segment(job, &answer.tokens).sign(&context.node, &context.network);
    let result = TaskResult {
        commit: Some((&commit).into()),
        result: Some((&signed).into()),
        output: Some(Output {
            text: answer.text.clone(),
            tokens: answer.tokens.clone(),
            segment: Some((&segment).into()),
            report: Vec::new(),
        }),
    };
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    failpoint::check(RESULT_BEFORE_LOG).map_err(|error| failed(&error))?;
    let finished = Finished {
        key: job.key,
        output_sha256,
        prompt_tokens: answer.prompt_tokens,
        output_tokens,
        exec_ms,
        at: UnixMillis(context.clock.now_ms()),
        result: result.encode_to_vec(),
    };
    context
        .log
        .finished(&finished)
        .map_err(|error| failed(&error))?;
    failpoint::hit(RESULT_AFTER_LOG_BEFORE_SEND);
    let own = output_tokens.saturating_sub(job.generate.forced_prefix.len() as u32);
    Ok((result, own))
}

/// This node's share so far: everything after the forced prefix.
fn segment(job: &InferJob, tokens: &[u32]) -> Segment {
    let prefix = &job.generate.forced_prefix;
    Segment {
        task_id: job.key.task,
        epoch: job.key.epoch,
        model_sha256: job.model_sha256.clone(),
        from: prefix.len() as u32,
        to: tokens.len() as u32,
        prefix_sha256: tokens_sha256(prefix),
        tokens_sha256: tokens_sha256(tokens),
        seed: job.generate.seed,
    }
}

/// Gathers tokens and sends them as signed chunks.
struct Chunks<'a> {
    job: &'a InferJob,
    context: &'a JobContext,
    /// The whole answer so far, forced prefix included.
    tokens: Vec<u32>,
    /// How many of them are sent.
    sent: usize,
    text: String,
    sent_at: Option<Duration>,
}

impl<'a> Chunks<'a> {
    fn new(job: &'a InferJob, context: &'a JobContext) -> Self {
        let tokens = job.generate.forced_prefix.clone();
        Self {
            job,
            context,
            sent: tokens.len(),
            tokens,
            text: String::new(),
            sent_at: None,
        }
    }

    fn push(&mut self, token: Token<'_>) -> ControlFlow<()> {
        self.tokens.push(token.token);
        self.text.push_str(token.text);
        if !self.job.stream {
            return ControlFlow::Continue(());
        }
        let now = self.context.clock.monotonic();
        let due = self
            .sent_at
            .is_none_or(|at| now.saturating_sub(at) >= CHUNK_EVERY);
        if due {
            self.sent_at = Some(now);
            return self.send();
        }
        ControlFlow::Continue(())
    }

    /// Sends the tokens that are left, with the end of the text that no token carried. Without a token
    /// left that text comes with the result only: a chunk without tokens is none.
    fn finish(&mut self, flush: &str) {
        self.text.push_str(flush);
        if self.job.stream && self.sent < self.tokens.len() {
            // A lost receiver: the result says it all again.
            let _ = self.send();
        }
    }

    fn send(&mut self) -> ControlFlow<()> {
        let (node, network) = (&self.context.node, &self.context.network);
        let segment = segment(self.job, &self.tokens).sign(node, network);
        let chunk = Chunk {
            task_id: self.job.key.task.to_string(),
            epoch: self.job.key.epoch,
            from: self.sent as u32,
            tokens: self.tokens[self.sent..].to_vec(),
            text: std::mem::take(&mut self.text),
            segment: Some((&segment).into()),
        };
        self.sent = self.tokens.len();
        match self
            .context
            .events
            .blocking_send(JobEvent::Chunk(self.job.key, chunk))
        {
            Ok(()) => ControlFlow::Continue(()),
            // Nobody listens: the process is ending.
            Err(_) => ControlFlow::Break(()),
        }
    }
}
