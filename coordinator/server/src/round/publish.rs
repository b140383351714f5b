//! Evaluated: the candidate becomes a version. The manifest is the current version's with the trained weights in place of
//! the parent's; it is signed and recorded in the same transaction that ends the round.

use owm_coordinator_domain::round::Event;
use owm_coordinator_store::{
    checkpoint::checkpoint_add,
    model::{ModelVersion, model_lookup, model_publish, model_publishing, model_sequence_max},
    round::round_computed,
};
use owm_proto::{
    Envelope, Purpose, Sha256, SubModelId, UnixMillis, VersionId,
    manifest::{Manifest, ManifestDelta, ManifestFile},
};

use super::{RoundError, driver::Files, driver::Step};
use crate::swarm::checkpoint;

/// Versions that are tried for a free name.
const NAMES_MAX: u32 = 10_000;

pub(super) async fn publish(mut step: Step<'_>) -> Result<bool, RoundError> {
    let (app, number) = (step.app, step.stored.number);
    let other = |text: &str| RoundError::Other(text.to_owned());
    let Some(made) = step.stored.round.candidate else {
        return Err(other("there is no candidate on record; abandon the round"));
    };
    let computed = round_computed(&mut step.tx, number).await?;
    let its = computed.iter().find(|one| one.attempt == made.attempt);
    let its =
        its.ok_or_else(|| other("the candidate's files are not on record; abandon the round"))?;
    let files: Files = serde_json::from_slice(&its.files)?;
    // What is looked at now is still so when this commits.
    model_publishing(&mut step.tx).await?;
    let current = model_lookup(&mut step.tx, None).await?;
    let current = current.ok_or_else(|| other("there is no current version"))?;
    if current.manifest.weights_sha256(&step.stored.sub_model) != [step.stored.parent] {
        return Err(RoundError::Other(format!(
            "{} has other weights of {} than the round's parent: another version was published meanwhile; abandon the round",
            current.manifest.version, step.stored.sub_model
        )));
    }
    let key = app.authority.release_key().map_err(RoundError::Key)?;
    let mut version = next(&current.manifest.version)?;
    for _ in 0..NAMES_MAX {
        if model_lookup(&mut step.tx, Some(&version)).await?.is_none() {
            break;
        }
        version = next(&version)?;
    }
    let sequence = model_sequence_max(&mut step.tx).await? + 1;
    let (sub_model, parent) = (&step.stored.sub_model, step.stored.parent);
    let now = app.now();
    let manifest = manifest(
        &current,
        (sub_model, parent),
        files,
        (number, sequence, version, now),
    );
    // What we publish must pass the check that every reader makes.
    let manifest = Manifest::from_bytes(&manifest.to_bytes())
        .map_err(|error| RoundError::Other(error.to_string()))?;
    let network = app.network();
    let envelope = Envelope::sign(&key, Purpose::Manifest, &network, manifest.to_bytes());
    model_publish(&mut step.tx, &manifest, &envelope, now).await?;
    let (checkpoint, signed) = checkpoint::sign(&key, &network, &manifest, &envelope);
    checkpoint_add(&mut step.tx, &checkpoint, &signed, now).await?;
    step.on(Event::Published)?;
    let version = manifest.version.clone();
    tracing::info!(round = number, version = %version, "a round's version is published");
    step.save(Some(&version)).await
}

/// The current version with the trained sub-model's weights replaced. Others that use the parent's file keep it.
fn manifest(
    current: &ModelVersion,
    (sub_model, parent): (&SubModelId, Sha256),
    Files { checkpoint, delta }: Files,
    (round, sequence, version, now): (u64, u64, VersionId, UnixMillis),
) -> Manifest {
    let mut manifest = current.manifest.clone();
    let old = manifest.files.iter().find(|file| file.sha256 == parent);
    let old = old.map(|file| file.name.clone()).unwrap_or_default();
    manifest.deltas = vec![ManifestDelta {
        file: ManifestFile {
            name: format!("{sub_model}.r{round}.owmu"),
            ..delta
        },
        parent,
        checkpoint: checkpoint.sha256,
    }];
    let others = manifest
        .sub_models
        .iter()
        .any(|(id, other)| id != sub_model && other.files.contains(&old));
    if others {
        let name = format!("{sub_model}.safetensors");
        if let Some(trained) = manifest.sub_models.get_mut(sub_model) {
            for file in trained.files.iter_mut().filter(|file| **file == old) {
                file.clone_from(&name);
            }
        }
        manifest.files.retain(|file| file.name != name);
        manifest.files.push(ManifestFile { name, ..checkpoint });
    } else {
        for file in manifest.files.iter_mut().filter(|file| file.name == old) {
            *file = ManifestFile {
                name: old.clone(),
                ..checkpoint.clone()
            };
        }
    }
    Manifest {
        sequence,
        parent: Some(manifest.version),
        version,
        round: Some(round),
        created_at: now,
        release_notes: String::new(),
        ..manifest
    }
}

/// `owm-v0.4.2` → `owm-v0.4.3`; after the last one the middle number rises.
fn next(version: &VersionId) -> Result<VersionId, RoundError> {
    let text = version.as_str();
    let parts = text.trim_start_matches("owm-v").split('.');
    let numbers: Vec<u32> = parts.filter_map(|part| part.parse().ok()).collect();
    let next = match numbers[..] {
        [major, minor, patch] if patch < 999_999 => format!("owm-v{major}.{minor}.{}", patch + 1),
        [major, minor, _] => format!("owm-v{major}.{}.0", minor + 1),
        _ => String::new(),
    };
    next.parse().map_err(|_| {
        RoundError::Other(format!(
            "no version name follows {text}; import one by hand"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_rises_and_then_the_middle_one() {
        let after = |text: &str| next(&text.parse().unwrap()).unwrap().to_string();
        assert_eq!(after("owm-v0.4.2"), "owm-v0.4.3");
        assert_eq!(after("owm-v1.9.999999"), "owm-v1.10.0");
        assert!(next(&"owm-v0.999999.999999".parse().unwrap()).is_err());
    }
}
