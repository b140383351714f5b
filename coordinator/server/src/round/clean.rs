//! What a round that is over leaves on the disk: candidates that did not become a version are not served for good, and
//! their residues go. Updates, deltas and the residues that published rounds begin and end with stay: a replay needs them.

use std::collections::BTreeSet;

use owm_coordinator_store::{
    Tx,
    model::{model_file_remove, model_list, model_publishing},
    round::{Computed, round_computed, round_list, round_read},
};
use owm_proto::{Sha256, manifest::ManifestFile};

use super::{
    RoundError,
    archive::Archive,
    driver::{Files, blocking},
};
use crate::app::App;

/// Cleans up after a round that is over; doing it again finds nothing. How many files are gone.
pub(super) async fn clean(app: &App, number: u64) -> Result<usize, RoundError> {
    let mut tx = app.store.begin("round.clean").await?;
    let Some(round) = round_read(&mut tx, number).await? else {
        return Ok(0);
    };
    let computed = round_computed(&mut tx, number).await?;
    let is_out = |made: &&Computed| round.version.is_some() && made.attempt == round.round.attempt;
    let dead: Vec<&Computed> = computed.iter().filter(|made| !is_out(made)).collect();
    let mut gone = Vec::new();
    let mut residues = Vec::new();
    if !dead.is_empty() {
        // Nobody makes a version of what is looked at here.
        model_publishing(&mut tx).await?;
        let kept = kept(&mut tx).await?;
        for made in dead {
            let files: Files = serde_json::from_slice(&made.files)?;
            for sha256 in [&files.checkpoint, &files.delta]
                .into_iter()
                .flat_map(names)
            {
                if !kept.contains(&sha256) && model_file_remove(&mut tx, &sha256).await? {
                    gone.push(sha256);
                }
            }
            if !kept.contains(&made.residue_after) {
                residues.push(made.residue_after);
            }
        }
    }
    tx.commit().await?;
    for sha256 in &gone {
        app.blobs.remove(sha256).await?;
    }
    let archive = Archive::in_folder(&app.config.rounds.archive);
    blocking(move || {
        residues
            .iter()
            .try_for_each(|sha256| archive.remove_residue(sha256))?;
        archive.tidy(number)
    })
    .await?;
    Ok(gone.len())
}

/// Every file that a version names, a round that is open has made, or a round goes in or out with.
async fn kept(tx: &mut Tx) -> Result<BTreeSet<Sha256>, RoundError> {
    let mut kept = BTreeSet::new();
    for version in model_list(tx, u32::MAX).await? {
        let manifest = &version.manifest;
        kept.extend(manifest.files.iter().flat_map(names));
        kept.extend(manifest.deltas.iter().flat_map(|delta| names(&delta.file)));
    }
    for round in round_list(tx, false, u32::MAX).await? {
        kept.insert(round.parent);
        kept.extend(round.residue_before);
        if round.version.is_some() {
            kept.extend(round.round.candidate.map(|made| made.residue_after));
        }
    }
    for open in round_list(tx, true, u32::MAX).await? {
        for made in round_computed(tx, open.number).await? {
            let files: Files = serde_json::from_slice(&made.files)?;
            kept.extend(
                [&files.checkpoint, &files.delta]
                    .into_iter()
                    .flat_map(names),
            );
            kept.insert(made.residue_after);
        }
    }
    Ok(kept)
}

/// A file and its ladder, which is a file too.
fn names(file: &ManifestFile) -> impl Iterator<Item = Sha256> + use<> {
    [Some(file.sha256), file.ladder_sha256]
        .into_iter()
        .flatten()
}
