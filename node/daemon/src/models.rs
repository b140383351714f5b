//! Models on this node: which version is wanted, its verified manifest, its files on the shelf, and the
//! engine that has loaded them. `daemon` runs [`Keeper`] as a task and hears [`ModelEvent`]s.
//! Must stay true: nothing is loaded whose manifest does not verify; a node never goes back to a lower
//! sequence by itself; a version that is loaded stays loaded until the next one is.

mod bring;
mod candidate;
mod check;
mod choice;
mod delta;
mod download;
mod fetching;
mod keeper;
mod manifest;
mod movement;
mod peers;
mod shelf;
mod teller;
mod web_seeds;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use bring::BringError;
pub use candidate::{CandidateError, CandidateShelf, LaidOut};
pub use check::{Checked, Expected, FileState, check, hash_file, plan};
pub use choice::{NoneWanted, SEQUENCE, files_of, wanted};
pub(crate) use delta::sweep;
pub use download::{DownloadError, Fetcher, Limits};
pub use fetching::{FetchPicture, Fetched, Fetching, GetError, Getter, NoManifest, SourcePicture};
pub(crate) use keeper::RAM_PER_BYTE;
pub use keeper::{Keeper, KeeperSettings};
pub use manifest::{ManifestRefused, SignedManifest};
use owm_proto::{Sha256, SubModelId, VersionId};
pub use shelf::{Shelf, ShelfError};
pub(crate) use teller::HumanRate;

use crate::engine::{EngineDescription, InferenceEngine};

/// A version in memory.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    /// Which.
    pub version: VersionId,
    /// Its manifest's sequence.
    pub sequence: u64,
    /// What has to be said wherever it is shown.
    pub note: String,
    /// What a question gets that names no sub-model.
    pub default_sub_model: SubModelId,
    /// What can be asked.
    pub sub_models: BTreeMap<SubModelId, LoadedSubModel>,
}

/// One sub-model in memory; two that share their files share the engine.
#[derive(Clone, Debug)]
pub struct LoadedSubModel {
    /// SHA-256s of the weights, in manifest order.
    pub weights: Vec<Sha256>,
    /// SHA-256s of all files it was loaded from, in manifest order.
    pub files: Vec<Sha256>,
    /// What computes.
    pub engine: Arc<dyn InferenceEngine>,
}

impl LoadedModel {
    /// SHA-256s of all loaded weights, each once, as hex.
    pub fn weights_hex(&self) -> Vec<String> {
        let all: BTreeSet<Sha256> = self
            .sub_models
            .values()
            .flat_map(|sub_model| sub_model.weights.clone())
            .collect();
        all.iter().map(Sha256::to_string).collect()
    }

    /// Where it computes.
    pub fn engine(&self) -> Option<EngineDescription> {
        self.sub_models
            .values()
            .next()
            .map(|sub_model| sub_model.engine.description())
    }
}

/// What the keeper says.
#[derive(Clone, Debug)]
pub enum ModelEvent {
    /// It is doing this (shown in `status`).
    Busy(String),
    /// This failed; it is tried again.
    Failed(String),
    /// A file on this disk was damaged (shown in `status` until the process ends).
    Damaged(String),
    /// This version is loaded now.
    Loaded(Arc<LoadedModel>),
}
