//! From files on the shelf to a model in memory: the keeper's last step.
//! Must stay true: every byte is hashed as it is loaded; a damaged file goes from the shelf.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use owm_proto::{Sha256, SubModelId, manifest::Manifest};

use super::{
    super::{LoadedModel, LoadedSubModel, ModelEvent, SignedManifest, shelf::sub_model_files},
    Keeper, KeeperError, RAM_PER_BYTE,
};
use crate::engine::{InferenceEngine, LoadError};

impl Keeper {
    pub(super) async fn load(&mut self, signed: &SignedManifest) -> Result<(), KeeperError> {
        let manifest = &signed.manifest;
        self.tell(ModelEvent::Busy(format!("loading {}", manifest.version)))
            .await;
        let mut engines = BTreeMap::new();
        let mut sub_models = BTreeMap::new();
        for id in self.wanted(manifest)? {
            let files = sub_model_files(manifest, &id);
            let set: Vec<Sha256> = files.iter().map(|file| file.sha256).collect();
            let weights = manifest.weights_sha256(&id);
            let laid_out = self.settings.fetcher.shelf.lay_out(manifest, &id)?;
            if !engines.contains_key(&set) {
                self.check_memory(manifest, &id)?;
                engines.insert(set.clone(), self.load_one(manifest, laid_out).await?);
            }
            let engine = Arc::clone(&engines[&set]);
            let loaded = LoadedSubModel {
                weights,
                files: set,
                engine,
            };
            sub_models.insert(id, loaded);
        }
        let (version, sequence) = (manifest.version.clone(), manifest.sequence);
        let loaded = LoadedModel {
            version,
            sequence,
            note: signed.note.clone(),
            default_sub_model: manifest.default_sub_model.clone(),
            sub_models,
        };
        announce(&loaded);
        let loaded = Arc::new(loaded);
        self.loaded = Some(Arc::clone(&loaded));
        self.settings.shown.send_replace(Some(Arc::clone(&loaded)));
        self.tell(ModelEvent::Loaded(loaded)).await;
        if let Err(error) = self.settings.fetcher.shelf.forget_others(manifest) {
            tracing::warn!(%error, "links of former versions stay");
        }
        Ok(())
    }

    fn check_memory(&self, manifest: &Manifest, id: &SubModelId) -> Result<(), KeeperError> {
        let bytes: u64 = manifest.weights(id).map(|file| file.size).sum();
        let needed = bytes.saturating_mul(RAM_PER_BYTE);
        match self.settings.ram {
            Some(cap) if needed > cap => Err(KeeperError::Refused(format!(
                "{id} may need {needed} bytes of memory, [caps] ram allows {cap}"
            ))),
            _ => Ok(()),
        }
    }

    async fn load_one(
        &self,
        manifest: &Manifest,
        (folder, expected): (PathBuf, BTreeMap<String, [u8; 32]>),
    ) -> Result<Arc<dyn InferenceEngine>, KeeperError> {
        let shelf = &self.settings.fetcher.shelf;
        let loader = Arc::clone(&self.settings.loader);
        let loading = tokio::task::spawn_blocking(move || loader.load(&folder, &expected)).await;
        let outcome = loading.unwrap_or_else(|error| {
            Err(LoadError::Unusable(format!("the engine panicked: {error}")))
        });
        if let Err(error @ LoadError::Damaged { file, .. }) = &outcome
            && let Some(file) = manifest.file(file)
        {
            self.damaged(manifest, &error.to_string()).await;
            shelf.discard(&file.sha256)?;
        }
        Ok(outcome?)
    }
}

fn announce(loaded: &LoadedModel) {
    let Some(engine) = loaded.engine() else {
        return;
    };
    tracing::info!(
        model.version = %loaded.version,
        model.sha256 = %loaded.weights_hex().join(","),
        model.parameters = engine.parameters,
        engine.backend = %engine.backend,
        engine.device = %engine.device,
        engine.device_reason = %engine.device_reason,
        "model loaded"
    );
    if !loaded.note.is_empty() {
        tracing::info!(model.version = %loaded.version, "about this model: {}", loaded.note);
    }
}
