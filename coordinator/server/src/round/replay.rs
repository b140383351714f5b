//! A round once more from its archive: the same inputs must give the same decision, delta, candidate and residue, byte
//! for byte, and the evaluators' own reports the same acceptance.

use owm_coordinator_domain::round::{
    Attempt, Report,
    acceptance::{Measured, Verdict, decide},
};
use owm_coordinator_store::{
    StoreError, Tx,
    evaluation::evaluation_tasks,
    round::{
        Computed, StoredRound,
        work::{Purpose, round_evaluation},
    },
};
use owm_proto::genesis::NetworkId;

use super::{
    RoundError,
    archive::Archive,
    compute::{Inputs, Task},
    config::RoundConfig,
    driver::reports_of,
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

/// What evaluators have reported of each attempt's candidate, as their results are on record.
pub type Measurements = Vec<(Attempt, Vec<Report>)>;

/// Reads the evaluators' own reports of every candidate that was made.
pub async fn measurements(
    tx: &mut Tx,
    number: u64,
    computed: &[Computed],
) -> Result<Measurements, StoreError> {
    let mut all = Vec::new();
    for made in computed {
        let mut tasks = [Vec::new(), Vec::new()];
        for (of, purpose) in tasks.iter_mut().zip([Purpose::Candidate, Purpose::Parent]) {
            if let Some(id) = round_evaluation(tx, number, purpose, made.attempt).await? {
                *of = evaluation_tasks(tx, id).await?;
            }
        }
        let [candidate, parent] = tasks;
        let reports = reports_of(made.checkpoint, &candidate, &parent);
        all.push((made.attempt, reports));
    }
    Ok(all)
}

/// Computes each attempt again. Blocks.
pub fn replay(
    network: NetworkId,
    blobs: &Blobs,
    archive: &Archive,
    stored: &StoredRound,
    (computed, measured): (&[Computed], &Measurements),
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
        let of = |(attempt, _): &&(Attempt, Vec<Report>)| *attempt == record.attempt;
        let reports = measured.iter().find(of).map(|(_, reports)| &reports[..]);
        let mut differs = again(&task, archive, record)?;
        if !is_accepted_as_before(stored, &task, record.attempt, reports.unwrap_or_default()) {
            differs.push("acceptance");
        }
        all.push(Replayed {
            attempt: record.attempt,
            differs,
        });
    }
    Ok(all)
}

/// What one attempt's arithmetic gives otherwise than is on record.
fn again(
    task: &Task,
    archive: &Archive,
    record: &Computed,
) -> Result<Vec<&'static str>, RoundError> {
    let inputs: Inputs = serde_json::from_slice(&record.inputs)?;
    // The record names what went in by its hash: other bytes of the same effect are other bytes.
    for sha256 in inputs.updates.iter().chain(&inputs.reference) {
        if !archive.is_whole(task.round, sha256)? {
            return Ok(vec!["updates"]);
        }
    }
    let scratch = archive.scratch(task.round)?;
    let path = scratch.path().join("candidate");
    let made = task.make(archive, record.attempt, &inputs, &path)?;
    let decision = made.decision.to_json();
    let residue = made.released.residue.sha256();
    let same = [
        ("decision", decision.as_bytes() == &record.decision[..]),
        ("delta", made.released.sha256 == record.delta),
        ("checkpoint", made.checkpoint == record.checkpoint),
        ("residue", residue == record.residue_after),
    ];
    let differs = same.into_iter().filter(|(_, same)| !same);
    Ok(differs.map(|(what, _)| what).collect())
}

/// Evaluators' own reports give the verdict that is on record, of each attempt, and are those that the round has counted.
fn is_accepted_as_before(
    stored: &StoredRound,
    task: &Task,
    attempt: Attempt,
    reports: &[Report],
) -> bool {
    let round = &stored.round;
    let verdict = round.verdicts.iter().find(|(judged, _)| *judged == attempt);
    let Some((_, verdict)) = verdict else {
        // Not measured yet, or stopped by an operator.
        return true;
    };
    let again: Verdict = decide(&Measured {
        candidate: reports.iter().map(|report| report.candidate).collect(),
        parent: reports.iter().map(|report| report.parent).collect(),
        recent: task.config.recent.clone(),
    });
    // Those of a first attempt that was not accepted are not kept beside those of the second.
    let is_kept = round.attempt == attempt;
    again == *verdict && (!is_kept || round.reports == reports)
}
