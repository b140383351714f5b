//! From a lease as it came to a job that can be computed, or the reason why it is handed back. Pure:
//! `daemon` calls it with what is loaded and what is allowed.
//! Must stay true: every foreign byte is bounded here; no reason quotes the user's text.

mod evaluate;

use std::sync::Arc;

use owm_proto::{
    NodeKey, Role, Sha256, SubModelId, TaskId, TaskType, VersionId,
    limits::{
        CHAT_MESSAGES_MAX, OUTPUT_TOKENS_MAX, PROMPT_BYTES_MAX, STOP_STRING_BYTES_MAX,
        STOP_STRINGS_MAX,
    },
    seal,
    wire::coordinator::{
        HandBackReason, InferencePayload, Lease, SealedTask, TaskPayload, task_payload::Task,
    },
};
use owm_service::report::Chain;
use prost::Message as _;

use crate::{
    engine::{GenerateJob, InferenceEngine, Question},
    models::{LoadedModel, LoadedSubModel},
    tasklog::LeaseKey,
};

pub use evaluate::EvaluateJob;

/// Sealed payloads above this are refused unopened: a prompt and its envelope fit twice.
const SEALED_BYTES_MAX: usize = 2 * PROMPT_BYTES_MAX;

/// A task that can be done here.
#[derive(Debug)]
pub enum Job {
    /// An answer.
    Infer(Box<InferJob>),
    /// A measurement.
    Evaluate(Box<EvaluateJob>),
}

/// A question that can be answered here.
#[derive(Debug)]
pub struct InferJob {
    /// Which lease.
    pub key: LeaseKey,
    /// For the log.
    pub version: VersionId,
    /// The weights, in manifest order.
    pub model_sha256: Vec<Sha256>,
    /// SHA-256 of the opened payload, without the forced prefix.
    pub input_sha256: Sha256,
    /// What computes it.
    pub engine: Arc<dyn InferenceEngine>,
    /// The question.
    pub question: Question,
    /// Everything else; `prompt` is still empty.
    pub generate: GenerateJob,
    /// Whether chunks are sent.
    pub stream: bool,
}

/// Why a lease is handed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind.
    pub reason: HandBackReason,
    /// In words, without the user's text.
    pub message: String,
}

impl Refusal {
    /// This node cannot; another may.
    pub fn cannot(message: impl Into<String>) -> Self {
        Self {
            reason: HandBackReason::CannotDo,
            message: message.into(),
        }
    }

    /// It went wrong, and not through the user's fault.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            reason: HandBackReason::Failed,
            message: message.into(),
        }
    }

    /// It went wrong here, in a way that is this machine's business: what `error` says may name its files, so it goes to
    /// the log, and only `what` to the coordinator.
    pub fn on_this_machine(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::warn!(error = %Chain(error), "{what}");
        Self::failed(format!("{what}; the node's log says more"))
    }

    /// No node could.
    pub fn input(message: impl Into<String>) -> Self {
        Self {
            reason: HandBackReason::InputRefused,
            message: message.into(),
        }
    }
}

/// The lease's name; `None` if it has none, then nothing can be said about it either.
pub fn lease_key(task_id: &str, epoch: u64) -> Option<LeaseKey> {
    let task: TaskId = task_id.parse().ok()?;
    Some(LeaseKey { task, epoch })
}

/// Whose slot a lease takes; of an unknown kind, those of answers.
pub fn lease_role(lease: &Lease) -> Role {
    let task_type = lease.task_type.parse::<TaskType>();
    task_type.map_or(Role::Infer, TaskType::role)
}

/// Checks a lease against what is loaded, opens its payload and checks that too.
pub fn open(
    key: LeaseKey,
    lease: &Lease,
    node: &NodeKey,
    loaded: Option<&LoadedModel>,
) -> Result<Job, Refusal> {
    match lease.task_type.parse::<TaskType>() {
        Ok(TaskType::Inference) => {
            open_inference(key, lease, node, loaded).map(|job| Job::Infer(Box::new(job)))
        }
        Ok(TaskType::Evaluate | TaskType::FlRound) => {
            evaluate::open(key, lease, node, loaded).map(|job| Job::Evaluate(Box::new(job)))
        }
        Ok(other) => Err(Refusal::cannot(format!(
            "this node does no {other} tasks yet"
        ))),
        Err(_) => Err(Refusal::cannot(
            "the task's type is unknown here: update owm-node",
        )),
    }
}

fn open_inference(
    key: LeaseKey,
    lease: &Lease,
    node: &NodeKey,
    loaded: Option<&LoadedModel>,
) -> Result<InferJob, Refusal> {
    let loaded = loaded.ok_or_else(|| Refusal::cannot("no model is loaded yet"))?;
    let (version, found) = find_model(lease, loaded)?;
    let Opened {
        payload,
        input_sha256,
        forced_prefix,
    } = open_payload(lease, node)?;
    let inference = match payload.task {
        Some(Task::Inference(inference)) => inference,
        Some(Task::Evaluate(_)) | None => {
            return Err(Refusal::cannot(
                "the payload is of another kind than the lease: update owm-node",
            ));
        }
    };
    let stream = inference.stream;
    let (question, generate) = check(inference, forced_prefix)?;
    Ok(InferJob {
        key,
        version,
        model_sha256: found.weights.clone(),
        input_sha256,
        engine: Arc::clone(&found.engine),
        question,
        generate,
        stream,
    })
}

/// The version and sub-model that a lease names.
fn named(lease: &Lease) -> Result<(VersionId, SubModelId), Refusal> {
    let version: VersionId = lease
        .model_version
        .parse()
        .map_err(|_| Refusal::cannot("the lease names no model version"))?;
    let sub_model: SubModelId = lease
        .sub_model
        .parse()
        .map_err(|_| Refusal::cannot("the lease names an unknown sub-model"))?;
    Ok((version, sub_model))
}

fn find_model<'a>(
    lease: &Lease,
    loaded: &'a LoadedModel,
) -> Result<(VersionId, &'a LoadedSubModel), Refusal> {
    let (version, sub_model) = named(lease)?;
    let found = loaded
        .sub_models
        .get(&sub_model)
        .ok_or_else(|| Refusal::cannot(format!("{sub_model} is not loaded here")))?;
    let asked: Vec<Sha256> = lease
        .model_sha256
        .iter()
        .filter_map(|hex| hex.parse().ok())
        .collect();
    if asked.len() != lease.model_sha256.len() || asked != found.weights {
        let text = format!(
            "{version}'s weights are not loaded here, {} is",
            loaded.version
        );
        return Err(Refusal::cannot(text));
    }
    Ok((version, found))
}

struct Opened {
    payload: TaskPayload,
    /// Of the payload's bytes as they are: the same for every attempt.
    input_sha256: Sha256,
    forced_prefix: Vec<u32>,
}

fn open_payload(lease: &Lease, node: &NodeKey) -> Result<Opened, Refusal> {
    let unreadable = |_| Refusal::cannot("the payload does not decode: update owm-node");
    if lease.sealed_payload.len() > SEALED_BYTES_MAX {
        return Err(Refusal::input(format!(
            "the payload has more than {SEALED_BYTES_MAX} bytes"
        )));
    }
    let opened = seal::open(node, &lease.sealed_payload)
        .map_err(|error| Refusal::cannot(error.to_string()))?;
    let sealed = SealedTask::decode(opened.as_slice()).map_err(unreadable)?;
    let input_sha256 = Sha256::of(&sealed.payload);
    if lease.input_hash.parse() != Ok(input_sha256) {
        return Err(Refusal::cannot(
            "the opened payload is not the one the lease names",
        ));
    }
    let payload = TaskPayload::decode(sealed.payload.as_slice()).map_err(unreadable)?;
    Ok(Opened {
        payload,
        input_sha256,
        forced_prefix: sealed.forced_prefix,
    })
}

fn check(
    payload: InferencePayload,
    forced_prefix: Vec<u32>,
) -> Result<(Question, GenerateJob), Refusal> {
    if payload.max_tokens == 0 || payload.max_tokens > OUTPUT_TOKENS_MAX {
        return Err(Refusal::input(format!(
            "max_tokens must be 1 to {OUTPUT_TOKENS_MAX}"
        )));
    }
    let stop_is_good = payload.stop.len() <= STOP_STRINGS_MAX
        && payload
            .stop
            .iter()
            .all(|s| (1..=STOP_STRING_BYTES_MAX).contains(&s.len()));
    if !stop_is_good {
        return Err(Refusal::input(format!(
            "at most {STOP_STRINGS_MAX} stop strings of 1 to {STOP_STRING_BYTES_MAX} bytes"
        )));
    }
    if payload.messages.len() > CHAT_MESSAGES_MAX {
        return Err(Refusal::input(format!(
            "more than {CHAT_MESSAGES_MAX} messages"
        )));
    }
    if forced_prefix.len() > payload.max_tokens as usize {
        return Err(Refusal::failed(
            "the delivered prefix is longer than max_tokens",
        ));
    }
    let question = match (payload.prompt.is_empty(), payload.messages.is_empty()) {
        (false, true) => Question::Raw(payload.prompt),
        (true, false) => Question::Chat(
            payload
                .messages
                .into_iter()
                .map(|m| (m.role, m.content))
                .collect(),
        ),
        (true, true) => return Err(Refusal::input("the question is empty")),
        (false, false) => return Err(Refusal::input("both a prompt and messages are given")),
    };
    let generate = GenerateJob {
        prompt: Vec::new(),
        forced_prefix,
        max_tokens: payload.max_tokens,
        temperature: payload.temperature,
        top_p: payload.top_p,
        top_k: payload.top_k,
        seed: payload.seed,
        stop: payload.stop,
    };
    Ok((question, generate))
}

#[cfg(test)]
mod tests;
