//! What of a version this node is to have. The keeper and `owm-node models` ask.

use std::collections::BTreeMap;

use owm_proto::{
    Sha256, SubModelId,
    manifest::{Manifest, ManifestFile},
};

use super::shelf::sub_model_files;

/// The name of the highest manifest sequence in the task log.
pub const SEQUENCE: &str = "sequence owm/manifest/v1";

/// The configuration wants nothing of this version.
#[derive(Debug, thiserror::Error)]
#[error("none of [model] sub_models is in {version}; change or empty the list")]
pub struct NoneWanted {
    version: String,
}

/// The sub-models of a version that are wanted: those of `configured` that are in it, all if it is empty.
pub fn wanted(
    manifest: &Manifest,
    configured: &[SubModelId],
) -> Result<Vec<SubModelId>, NoneWanted> {
    let there = manifest.sub_models.keys();
    let is_wanted = |id: &&SubModelId| configured.is_empty() || configured.contains(id);
    let ids: Vec<_> = there.filter(is_wanted).cloned().collect();
    if ids.is_empty() {
        let version = manifest.version.to_string();
        return Err(NoneWanted { version });
    }
    Ok(ids)
}

/// All files of these sub-models, each once.
pub fn files_of<'a>(manifest: &'a Manifest, ids: &[SubModelId]) -> Vec<&'a ManifestFile> {
    let files = ids.iter().flat_map(|id| sub_model_files(manifest, id));
    let once: BTreeMap<Sha256, &ManifestFile> = files.map(|file| (file.sha256, file)).collect();
    once.into_values().collect()
}
