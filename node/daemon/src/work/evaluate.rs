//! From an opened payload to an evaluation that can be done here.

use std::sync::Arc;

use owm_proto::{
    NodeKey, Role, Sha256, SubModelId, TaskType, VersionId,
    evaluation::{EvaluationAsk, FormerPart},
    wire::coordinator::{EvaluatePayload, Lease, task_payload::Task},
};

use super::{Opened, Refusal, named, open_payload};
use crate::{engine::InferenceEngine, models::LoadedModel, tasklog::LeaseKey};

/// A candidate to be measured, or to be trained.
#[derive(Debug)]
pub struct EvaluateJob {
    /// Which lease.
    pub key: LeaseKey,
    /// The version it belongs to, for the log.
    pub version: VersionId,
    /// Of which sub-model.
    pub sub_model: SubModelId,
    /// SHA-256 of the opened payload.
    pub input_sha256: Sha256,
    /// What is asked.
    pub ask: EvaluationAsk,
    /// What became of this node's former parts, where a part is asked for.
    pub former: Vec<FormerPart>,
    /// The served model, if that is the candidate, byte for byte.
    pub served: Option<Arc<dyn InferenceEngine>>,
}

impl EvaluateJob {
    /// A node's own part in a round is another type of task than everything else that is asked in these words.
    pub fn task_type(&self) -> TaskType {
        match self.ask.reference {
            Some(steps) if steps.takes_part => TaskType::FlRound,
            _ => TaskType::Evaluate,
        }
    }

    /// Whose slot it takes.
    pub fn role(&self) -> Role {
        self.task_type().role()
    }
}

pub(super) fn open(
    key: LeaseKey,
    lease: &Lease,
    node: &NodeKey,
    loaded: Option<&LoadedModel>,
) -> Result<EvaluateJob, Refusal> {
    let (version, sub_model) = named(lease)?;
    let Opened {
        payload,
        input_sha256,
        ..
    } = open_payload(lease, node)?;
    let Some(Task::Evaluate(evaluate)) = payload.task else {
        return Err(Refusal::cannot(
            "the payload is of another kind than the lease: update owm-node",
        ));
    };
    let former = FormerPart::told(&evaluate);
    let former = former.map_err(|error| Refusal::input(error.to_string()))?;
    let ask = check(evaluate, lease)?;
    // Training reads the files themselves.
    let served = loaded
        .filter(|_| ask.reference.is_none())
        .and_then(|loaded| served(loaded, &sub_model, &ask));
    let job = EvaluateJob {
        key,
        version,
        sub_model,
        input_sha256,
        ask,
        former,
        served,
    };
    if lease.task_type.parse() != Ok(job.task_type()) {
        return Err(Refusal::cannot(
            "the lease's type is of a part in a round, and its payload is not, or the other way round",
        ));
    }
    Ok(job)
}

fn check(evaluate: EvaluatePayload, lease: &Lease) -> Result<EvaluationAsk, Refusal> {
    let ask = EvaluationAsk::try_from(evaluate);
    let ask = ask.map_err(|error| Refusal::input(error.to_string()))?;
    let leased = lease.model_sha256.iter().map(|hex| hex.parse().ok());
    if leased.collect::<Option<Vec<Sha256>>>() != Some(ask.weights_sha256()) {
        return Err(Refusal::cannot(
            "the payload names another candidate than the lease",
        ));
    }
    Ok(ask)
}

fn served(
    loaded: &LoadedModel,
    sub_model: &SubModelId,
    ask: &EvaluationAsk,
) -> Option<Arc<dyn InferenceEngine>> {
    let found = loaded.sub_models.get(sub_model)?;
    let files = ask.files.iter().map(|file| file.sha256);
    files
        .eq(found.files.iter().copied())
        .then(|| Arc::clone(&found.engine))
}
