//! Evaluations in the making: which files a candidate consists of, put where nodes can fetch them by their hash, and
//! the tasks that look at it. The command line asks for them (rounds have their own, `round::asks`).
//! Must stay true: a candidate's files are in the object store before a task names them; no manifest names them.

pub mod cancel;

use std::{io::Read as _, path::Path, time::Duration};

use owm_coordinator_store::{
    Store, StoreError, Vault,
    evaluation::{NewEvaluation, evaluation_create},
    model::{ModelVersion, model_file_add, model_lookup},
    task::NewTask,
};
use owm_proto::{
    EvaluationId, LadderBuilder, PieceLen, Sha256, SubModelId, TaskId, TaskType, Tier, UnixMillis,
    VersionId,
    evaluation::{AskError, EvaluationAsk, ReferenceSteps, TextSource},
    manifest::ManifestFile,
    wire::coordinator as wire,
};
use prost::Message as _;
use rand::Rng as _;
use rand_chacha::ChaCha20Rng;

use crate::blobs::{BlobError, Blobs};

/// Nodes that look at one candidate at most: more owners say nothing new.
pub const NODES_MAX: u32 = 64;

/// Bytes read at once when a file is hashed.
const READ_BYTES: usize = 1 << 20;

/// What is to be looked at, and how.
#[derive(Clone, Debug)]
pub struct EvaluationOrder {
    /// Which sub-model.
    pub sub_model: SubModelId,
    /// Of which version; the current one if absent.
    pub version: Option<VersionId>,
    /// Weights to take instead of the version's.
    pub weights: Option<std::path::PathBuf>,
    /// With which text.
    pub text: TextSource,
    /// See [`EvaluationAsk`].
    pub documents_max: u32,
    /// See [`EvaluationAsk`].
    pub bytes_max: u64,
    /// See [`EvaluationAsk`].
    pub tokens_min: u64,
    /// See [`EvaluationAsk`].
    pub tokens_max: u64,
    /// See [`EvaluationAsk`].
    pub window: u32,
    /// Drawn if absent.
    pub seed: Option<u64>,
    /// Train instead of measuring.
    pub reference: Option<ReferenceSteps>,
    /// Reports wanted, each of another owner.
    pub nodes: u32,
    /// How long a node may take.
    pub lease: Duration,
    /// When it ends with what is there.
    pub deadline: Duration,
}

/// Why nothing was asked.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// No version.
    #[error("there is no such version here; `owm-coordinator model list` shows all")]
    NoVersion,
    /// The sub-model is not in it.
    #[error("{version} has no {sub_model}")]
    NoSubModel {
        /// Which version.
        version: VersionId,
        /// What was asked for.
        sub_model: SubModelId,
    },
    /// Several files hold its weights.
    #[error("{0} has its weights in several files, so that one file can't replace them")]
    SeveralFiles(SubModelId),
    /// Bounds.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Too many nodes.
    #[error("1 to {NODES_MAX} nodes are asked")]
    Nodes,
    /// The file.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The object store.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Queues an evaluation.
pub async fn evaluate(
    store: &Store,
    blobs: &Blobs,
    vault: &Vault,
    order: &EvaluationOrder,
    mut rng: ChaCha20Rng,
    now: UnixMillis,
) -> Result<(EvaluationId, EvaluationAsk), EvaluateError> {
    if !(1..=NODES_MAX).contains(&order.nodes) {
        return Err(EvaluateError::Nodes);
    }
    let mut tx = store.begin("evaluation.version").await?;
    let version = model_lookup(&mut tx, order.version.as_ref()).await?;
    drop(tx);
    let version = version.ok_or(EvaluateError::NoVersion)?;
    let mut files = files_of(&version, &order.sub_model)?;
    let mut placed = Vec::new();
    if let Some(path) = &order.weights {
        placed = place(blobs, path, &order.sub_model, &mut files).await?;
    }
    let ask = EvaluationAsk {
        files,
        text: order.text.clone(),
        documents_max: order.documents_max,
        bytes_max: order.bytes_max,
        tokens_min: order.tokens_min,
        tokens_max: order.tokens_max,
        window: order.window,
        seed: order.seed.unwrap_or_else(|| rng.random()),
        reference: order.reference,
    }
    .checked()?;
    let new = new_evaluation(order, &version, &ask, &mut rng, now);
    let mut tx = store.begin("evaluation.create").await?;
    for (sha256, size) in placed {
        model_file_add(&mut tx, &sha256, size, now).await?;
    }
    evaluation_create(&mut tx, vault, &new, now).await?;
    tx.commit().await?;
    Ok((new.id, ask))
}

fn new_evaluation(
    order: &EvaluationOrder,
    version: &ModelVersion,
    ask: &EvaluationAsk,
    rng: &mut ChaCha20Rng,
    now: UnixMillis,
) -> NewEvaluation {
    let evaluate = wire::EvaluatePayload::from(ask);
    let stored = evaluate.encode_to_vec();
    let task = Some(wire::task_payload::Task::Evaluate(evaluate));
    let payload = wire::TaskPayload { task }.encode_to_vec();
    let id = EvaluationId::from_random(rng.random());
    let tasks = (0..order.nodes).map(|_| NewTask {
        task_id: TaskId::from_random(rng.random()),
        task_type: TaskType::Evaluate,
        sub_model: order.sub_model.clone(),
        model_version: version.manifest.version.clone(),
        model_sha256: ask.weights_sha256(),
        payload: payload.clone(),
        streaming: false,
        max_tokens: u32::try_from(ask.tokens_max).unwrap_or(u32::MAX),
        seed: ask.seed,
        min_tier: Tier::T1,
        lease_ms: u32::try_from(order.lease.as_millis()).unwrap_or(u32::MAX),
        deadline: now.after(order.deadline),
        request: None,
    });
    NewEvaluation {
        id,
        ask: stored,
        tasks: tasks.collect(),
    }
}

/// All files that a released sub-model is loaded from, in manifest order.
fn files_of(version: &ModelVersion, id: &SubModelId) -> Result<Vec<ManifestFile>, EvaluateError> {
    let manifest = &version.manifest;
    let sub_model = manifest.sub_models.get(id);
    let sub_model = sub_model.ok_or_else(|| EvaluateError::NoSubModel {
        version: manifest.version.clone(),
        sub_model: id.clone(),
    })?;
    let files = manifest.files.iter();
    let is_its = |file: &&ManifestFile| sub_model.files.contains(&file.name);
    Ok(files.filter(is_its).cloned().collect())
}

/// Puts weights that no manifest names into the object store, with their ladder, and into the candidate's files.
/// Gives what has been placed.
async fn place(
    blobs: &Blobs,
    path: &Path,
    id: &SubModelId,
    files: &mut [ManifestFile],
) -> Result<Vec<(Sha256, u64)>, EvaluateError> {
    let mut weights = files.iter_mut().filter(|file| file.is_weights());
    let (Some(file), None) = (weights.next(), weights.next()) else {
        return Err(EvaluateError::SeveralFiles(id.clone()));
    };
    let (hashed, ladder) = hash(path).map_err(|source| EvaluateError::File {
        path: path.to_owned(),
        source,
    })?;
    let mut placed = vec![(hashed.sha256, hashed.size)];
    blobs.put_if_absent(&hashed, &ladder, path).await?;
    if let Some(sha256) = hashed.ladder_sha256 {
        placed.push((sha256, ladder.len() as u64));
    }
    *file = ManifestFile {
        name: file.name.clone(),
        ..hashed
    };
    Ok(placed)
}

/// A file as a manifest would name it (without a name), and its ladder. Blocks.
pub(crate) fn hash(path: &Path) -> std::io::Result<(ManifestFile, Vec<u8>)> {
    let mut from = std::fs::File::open(path)?;
    let mut ladder = LadderBuilder::new(PieceLen::for_size(from.metadata()?.len()));
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        ladder.update(&buffer[..read]);
    }
    let ladder = ladder.finish().map_err(std::io::Error::other)?;
    let spec = ladder.spec();
    let file = ManifestFile {
        name: String::new(),
        size: spec.size(),
        sha256: spec.sha256(),
        piece_len: spec.piece_len().map(PieceLen::bytes),
        ladder_sha256: spec.ladder_sha256(),
    };
    Ok((file, ladder.to_bytes()))
}

#[cfg(test)]
mod tests;
