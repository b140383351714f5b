//! Local steps of training for a lease, on the CPU: `owm-model`'s trainer behind [`super::EngineLoader::train`].
//! Must stay true: model, text and job decide every byte of the step; no error quotes the text.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use owm_model::{
    AdamW, Base, Decay, ModelConfig, TrainError, TrainMode, TrainPlan, Trainer, tokens_within,
};
use owm_proto::statement::tokens_sha256;
use owm_service::report::Chain;

use super::{LoadError, OnTrained, TrainJob, TrainedSoFar, TrainedStep};
use crate::home::read_small;

/// Rows of one forward pass of a model above [`SMALL_PARAMETERS`] weights.
const LARGE_PASS_ROWS: usize = 1;
/// As in `train::defaults`.
const SMALL_PARAMETERS: u64 = 10_000_000;
/// Where training computes.
const BACKEND: &str = "burn-flex/f32";

/// Longest `config.json`.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What [`train`] takes of memory, from the folder's `config.json` and the sizes of its weights; nothing is loaded.
pub(super) fn bytes(folder: &Path, job: &TrainJob) -> Result<u64, LoadError> {
    let unusable = |error: &dyn std::fmt::Display| LoadError::Unusable(error.to_string());
    let json = read_small(&folder.join("config.json"), CONFIG_BYTES_MAX);
    let json = json.map_err(|error| unusable(&error))?;
    let json = json.ok_or_else(|| unusable(&"there is no config.json"))?;
    let config = ModelConfig::from_json(&json).map_err(|error| unusable(&error))?;
    let entries = std::fs::read_dir(folder).map_err(|error| unusable(&error))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let weights = paths.filter(|path| path.extension().is_some_and(|kind| kind == "safetensors"));
    // Links are followed.
    let files = weights.filter_map(|path| path.metadata().ok());
    let base: u64 = files.map(|file| file.len()).sum();
    let plan = plan(job, config.parameters());
    let taken = config.training_bytes(&plan, rayon::current_num_threads());
    Ok(taken.saturating_add(base))
}

pub(super) fn train(
    folder: &Path,
    expected: &BTreeMap<String, [u8; 32]>,
    job: &TrainJob,
    on_trained: &mut OnTrained<'_>,
) -> Result<Option<TrainedStep>, LoadError> {
    let base = Base::load(folder, Some(expected));
    let base = base.map_err(|error| LoadError::Unusable(Chain(&error).to_string()))?;
    let failed = |error: TrainError| LoadError::Unusable(error.to_string());
    let (config, tokenizer) = (base.config(), base.tokenizer());
    let row = tokens_within(config, tokenizer, &job.documents, job.tokens_max);
    // What is wrong with a text may quote it.
    let row = row.map_err(|error| LoadError::Unusable(error.to_string()))?;
    let count = row.tokens.len() as u64;
    let hash = tokens_sha256(&row.tokens);
    let plan = plan(job, base.parameters());
    let base = Arc::new(base);
    let mut trainer = Trainer::new(Arc::clone(&base), row.tokens, plan).map_err(failed)?;
    let mut so_far = TrainedSoFar {
        step: 0,
        steps: job.steps,
        loss: None,
        tokens: 0,
    };
    while !trainer.is_done() {
        let mut go_on = || on_trained(so_far);
        let Some(progress) = trainer.step(&mut go_on).map_err(failed)? else {
            return Ok(None);
        };
        so_far.step = progress.step;
        so_far.loss = Some(progress.loss);
        so_far.tokens = progress.tokens;
        if on_trained(so_far).is_break() {
            return Ok(None);
        }
    }
    let trained = trainer.finish().map_err(failed)?;
    let losses = trained.losses.clone();
    let step = trained.into_step().map_err(failed)?;
    let order = base.flat_order().map_err(failed)?;
    Ok(Some(TrainedStep {
        step,
        header: order.header.to_vec(),
        tensors: order.tensors,
        adapted: order.adapted,
        losses,
        backend: BACKEND.to_owned(),
        documents: u32::try_from(row.documents).unwrap_or(u32::MAX),
        bytes: row.bytes,
        tokens: count,
        tokens_sha256: hash,
    }))
}

fn plan(job: &TrainJob, parameters: u64) -> TrainPlan {
    let rows = job.rows as usize;
    TrainPlan {
        mode: match job.low_rank {
            None => TrainMode::Full,
            Some((rank, seed)) => TrainMode::LowRank {
                rank: usize::from(rank),
                seed,
            },
        },
        steps: job.steps,
        sequence: job.sequence as usize,
        rows,
        // Each pass's gradients are added in order: the cut is part of the plan, whatever the threads.
        pass_rows: if parameters < SMALL_PARAMETERS {
            rows.div_ceil(2)
        } else {
            LARGE_PASS_ROWS
        },
        optimizer: AdamW {
            learning_rate: job.learning_rate,
            ..AdamW::default()
        },
        warmup: 0,
        decay: Decay::Constant,
        clip_norm: Some(1.0),
        seed: job.seed,
    }
}
