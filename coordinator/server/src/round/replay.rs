//! A round once more from its archive: the same inputs must give the same decision, delta, candidate and residue, byte
//! for byte, and the same reports the same acceptance.

use owm_coordinator_domain::round::{
    Attempt,
    acceptance::{Measured, Verdict, decide},
};
use owm_coordinator_store::round::{Computed, StoredRound};
use owm_proto::genesis::NetworkId;

use super::{
    RoundError,
    archive::Archive,
    compute::{Inputs, Task},
    config::RoundConfig,
};
use crate::blobs::Blobs;

/// What came of one attempt.
#[derive(Debug)]
pub struct Replayed {
    /// Which attempt.
    pub attempt: Attempt,
    /// What differs from the record; none: all is the same, byte for byte.
    pub differs: Vec<&'static str>,
}

/// Computes each attempt again. Blocks.
pub fn replay(
    network: NetworkId,
    blobs: &Blobs,
    archive: &Archive,
    stored: &StoredRound,
    computed: &[Computed],
) -> Result<Vec<Replayed>, RoundError> {
    let config = RoundConfig::from_bytes(&stored.config)?;
    let task = Task {
        network,
        round: stored.number,
        sub_model: stored.sub_model.clone(),
        parent: stored.parent,
        parent_path: blobs.dir().join(stored.parent.to_string()),
        config,
        residue_before: stored.residue_before,
    };
    let mut all = Vec::new();
    for record in computed {
        let inputs: Inputs = serde_json::from_slice(&record.inputs)?;
        let scratch = tempfile::tempdir_in(archive.folder(stored.number));
        let scratch = scratch.map_err(|source| RoundError::File {
            path: archive.folder(stored.number),
            source,
        })?;
        let path = scratch.path().join("candidate");
        let made = task.make(archive, record.attempt, &inputs, &path)?;
        let same = [
            (
                "decision",
                made.decision.to_json().as_bytes() == &record.decision[..],
            ),
            ("delta", made.released.sha256 == record.delta),
            ("checkpoint", made.checkpoint == record.checkpoint),
            (
                "residue",
                made.released.residue.sha256() == record.residue_after,
            ),
            (
                "acceptance",
                is_accepted_as_before(stored, &task, record.attempt),
            ),
        ];
        let differs = same.into_iter().filter(|(_, same)| !same);
        all.push(Replayed {
            attempt: record.attempt,
            differs: differs.map(|(what, _)| what).collect(),
        });
    }
    Ok(all)
}

/// The reports that are on record give the verdict that is; those of a first attempt that was not accepted are not kept
/// beside those of the second.
fn is_accepted_as_before(stored: &StoredRound, task: &Task, attempt: Attempt) -> bool {
    let round = &stored.round;
    let verdict = round.verdicts.iter().find(|(judged, _)| *judged == attempt);
    let Some((_, verdict)) = verdict.filter(|_| round.attempt == attempt) else {
        return true;
    };
    let again: Verdict = decide(&Measured {
        candidate: round
            .reports
            .iter()
            .map(|report| report.candidate)
            .collect(),
        parent: round.reports.iter().map(|report| report.parent).collect(),
        recent: task.config.recent.clone(),
    });
    again == *verdict
}
