//! Sealed: a reference update where participants are few, then the arithmetic, then the candidate where evaluators can
//! fetch it. Nothing is written into the round's row before its files are on the disk.

use std::path::PathBuf;

use owm_aggregate::{AggregateError, DecideError, Decision, SpoolError, Submission};
use owm_coordinator_domain::round::{Candidate, Effect, Event, Phase};
use owm_coordinator_store::{
    evaluation::{EvaluationTask, evaluation_tasks},
    model::model_file_add,
    round::{
        Computed, round_computed_add,
        work::{Judgement, Purpose, round_evaluation, round_part_judge, round_parts},
    },
};
use owm_proto::{Sha256, evaluation::Finding, manifest::ManifestFile};
use owm_service::report::Chain;
use owm_update::ApplyError;
use serde::{Deserialize, Serialize};

use super::{RoundError, Step, asks, attempt_of, blocking, whole};
use crate::{
    app::App,
    evaluate::hash,
    failpoints::ROUND_PLACED,
    round::{
        archive::Archive,
        compute::{Inputs, Made},
    },
};

/// Candidate and delta as a manifest names them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Files {
    /// The whole file.
    pub checkpoint: ManifestFile,
    /// What it differs by from its parent.
    pub delta: ManifestFile,
}

/// A candidate with all that came of making it, on the disk.
struct Kept {
    decision: Decision,
    residue_after: Sha256,
    candidate: Placeable,
    delta: Placeable,
    /// Holds the candidate until it is placed.
    _scratch: tempfile::TempDir,
}

/// A file, how a manifest names it, its ladder.
type Placeable = (PathBuf, (ManifestFile, Vec<u8>));

impl Kept {
    /// Puts candidate and delta where they can be fetched.
    async fn place(&self, app: &App) -> Result<(), RoundError> {
        for (path, (file, ladder)) in [&self.candidate, &self.delta] {
            app.blobs.put_if_absent(file, ladder, path).await?;
        }
        owm_service::failpoint::hit(ROUND_PLACED);
        Ok(())
    }
}

/// Writes residue and delta into the archive, and hashes what is to be served. Blocks.
fn keep(
    archive: &Archive,
    number: u64,
    made: Made,
    scratch: tempfile::TempDir,
) -> Result<Kept, RoundError> {
    let named = |path: PathBuf, expected: Sha256| {
        let found = hash(&path);
        let found = found.map_err(|source| RoundError::File {
            path: path.clone(),
            source,
        })?;
        if found.0.sha256 != expected {
            return Err(RoundError::Other(format!(
                "{} does not hold what was computed; look at the disk",
                path.display()
            )));
        }
        Ok((path, found))
    };
    let residue_after = archive.keep_residue(&made.released.residue)?;
    let delta = archive.update(number, &made.released.sha256);
    super::super::archive::write(&delta, |file| {
        std::io::Write::write_all(file, &made.released.delta)
    })?;
    Ok(Kept {
        decision: made.decision,
        residue_after,
        candidate: named(scratch.path().join("candidate"), made.checkpoint)?,
        delta: named(delta, made.released.sha256)?,
        _scratch: scratch,
    })
}

/// Whether the updates themselves give no candidate: computed again, they never will.
fn is_of_the_updates(error: &RoundError) -> bool {
    matches!(
        error,
        RoundError::Aggregate(
            AggregateError::Decide(_)
                | AggregateError::NotFinite(_)
                | AggregateError::Update(_)
                | AggregateError::Apply(ApplyError::NotFinite { .. })
                | AggregateError::Spool(SpoolError::Update { .. } | SpoolError::Elements { .. })
        ) | RoundError::Apply(ApplyError::NotFinite { .. })
    )
}

/// Where a reference update stands.
enum Reference {
    /// None is wanted, or none can be had.
    None,
    /// Somebody works on it.
    Awaited,
    /// Here it is.
    Here(Sha256),
}

impl Step<'_> {
    pub(super) async fn aggregate(mut self) -> Result<bool, RoundError> {
        let parts = round_parts(&mut self.tx, self.stored.number).await?;
        let whole = whole(&self.stored, &parts);
        let wants = self.stored.round.pending().iter().any(|effect| {
            matches!(
                effect,
                Effect::Aggregate {
                    reference: true,
                    ..
                }
            )
        });
        // Two nodes are too few for any comparison, and where that is allowed it goes without.
        let is_tiny =
            self.config.policy.allow_tiny && whole.len() < owm_aggregate::gates::TINY_BELOW;
        let reference = match self.reference(wants && !is_tiny).await? {
            Reference::Awaited => {
                self.tx.commit().await?;
                self.app.dispatcher.wake();
                return Ok(false);
            }
            Reference::None => None,
            Reference::Here(sha256) => Some(sha256),
        };
        let updates: Vec<Sha256> = whole.iter().map(|(_, sha256, _)| *sha256).collect();
        let submissions: Vec<Submission> = whole
            .iter()
            .map(|(part, _, at)| Submission {
                node: part.key,
                owner: Sha256(part.owner.0),
                committed_at: *at,
                samples: 0,
                tier: part.tier.terms().reward_multiplier,
                stake_bonus: part.stake_bonus,
                audited: false,
            })
            .collect();
        let mut inputs = Inputs {
            submissions,
            updates,
            reference,
        };
        let (task, archive) = (self.task(), self.archive());
        let (app, number, attempt) = (self.app, self.stored.number, self.stored.round.attempt);
        // Nothing is held while this computes; what it makes is the same each time.
        drop(self);
        let done = blocking(move || {
            let samples = task.samples(&archive, &inputs.updates)?;
            for (submission, samples) in inputs.submissions.iter_mut().zip(samples) {
                submission.samples = samples;
            }
            let scratch = archive.scratch(number)?;
            let made = task.make(
                &archive,
                attempt,
                &inputs,
                &scratch.path().join("candidate"),
            );
            let made = made.and_then(|made| keep(&archive, number, made, scratch));
            Ok((made, inputs))
        });
        let (made, inputs) = done.await?;
        if let Ok(kept) = &made {
            kept.place(app).await?;
        }
        let mut step = match Step::load(app, number).await? {
            // Another coordinator may have gone on meanwhile, to the other attempt even.
            Some(step) if step.before == Phase::Sealed && attempt_of(&step.stored) == attempt => {
                step
            }
            _ => return Ok(false),
        };
        let kept = match made {
            Ok(kept) => kept,
            Err(RoundError::Aggregate(AggregateError::Decide(DecideError::NoReference(_))))
                if inputs.reference.is_none()
                    && asked(&mut step).await?.is_none()
                    && step.config.reference.is_some() =>
            {
                // Copies fell away, and too few are left to tell the direction by themselves.
                asks::reference(app, &mut step.tx, &step.stored, &step.config).await?;
                step.tx.commit().await?;
                app.dispatcher.wake();
                return Ok(false);
            }
            Err(error) if is_of_the_updates(&error) => {
                tracing::warn!(round = number, error = %Chain(&error), "no candidate comes of it");
                step.on(Event::NotAggregated { attempt })?;
                return step.save(None).await;
            }
            Err(error) => return Err(error),
        };
        step.made(kept, inputs).await
    }

    /// Records what has been computed and placed, and asks for its losses.
    async fn made(mut self, kept: Kept, inputs: Inputs) -> Result<bool, RoundError> {
        let (number, attempt) = (self.stored.number, self.stored.round.attempt);
        let (app, now) = (self.app, self.app.now());
        // The delta is served too: whoever holds the parent takes that.
        for (_, (file, ladder)) in [&kept.candidate, &kept.delta] {
            model_file_add(&mut self.tx, &file.sha256, file.size, now).await?;
            if let Some(sha256) = file.ladder_sha256 {
                model_file_add(&mut self.tx, &sha256, ladder.len() as u64, now).await?;
            }
        }
        let (decision, residue_after) = (kept.decision, kept.residue_after);
        let files = Files {
            checkpoint: kept.candidate.1.0,
            delta: kept.delta.1.0,
        };
        let computed = Computed {
            attempt,
            inputs: serde_json::to_vec(&inputs)?,
            decision: decision.to_json().into_bytes(),
            checkpoint: files.checkpoint.sha256,
            delta: files.delta.sha256,
            residue_after,
            files: serde_json::to_vec(&files)?,
        };
        round_computed_add(&mut self.tx, number, &computed, now).await?;
        let parts = round_parts(&mut self.tx, number).await?;
        for (verdict, update) in decision.verdicts.iter().zip(&inputs.updates) {
            let Some(part) = parts.iter().find(|part| part.key == verdict.node) else {
                continue;
            };
            let judged = Judgement {
                update: *update,
                verdict: &serde_json::to_vec(verdict)?,
                counts: verdict.rejected.is_none(),
                is_flagged: verdict.rejected.is_some() || verdict.flag.is_some(),
            };
            round_part_judge(&mut self.tx, number, part.node, &judged).await?;
        }
        self.on(Event::Aggregated(Candidate {
            attempt,
            checkpoint: computed.checkpoint,
            delta: computed.delta,
            residue_after,
        }))?;
        self.made = Some(files.checkpoint);
        self.save(None).await?;
        // What the round has taken lies in its archive now.
        let (spool, updates) = (app.spool.clone(), inputs.updates);
        blocking(move || {
            for sha256 in updates.iter().chain(&inputs.reference) {
                if let Err(error) = spool.remove(sha256) {
                    tracing::warn!(%error, "an archived update stays in the spool too");
                }
            }
            Ok(())
        })
        .await?;
        Ok(true)
    }

    /// Asks for a reference update where one is wanted, and looks whether it is here.
    async fn reference(&mut self, wanted: bool) -> Result<Reference, RoundError> {
        let Some(tasks) = asked(self).await? else {
            let new = wanted
                && asks::reference(self.app, &mut self.tx, &self.stored, &self.config).await?;
            return Ok(if new {
                Reference::Awaited
            } else {
                Reference::None
            });
        };
        let update = tasks
            .iter()
            .find_map(|task| match task.report.as_ref()?.said.finding {
                Finding::Update { sha256, .. } => Some(sha256),
                Finding::HeldOut { .. } => None,
            });
        if let Some(sha256) = update {
            let published = self.task().published();
            // What it is of is this round's to say, whoever has made it.
            return match self.is_update(sha256, &published).await? {
                Some(true) => Ok(Reference::Here(sha256)),
                unfit => {
                    let (round, is_here) = (self.stored.number, unfit.is_some());
                    tracing::warn!(round, %sha256, is_here, "the reference update is not of use");
                    Ok(Reference::None)
                }
            };
        }
        let is_over = tasks.iter().all(is_closed);
        Ok(if is_over {
            Reference::None
        } else {
            Reference::Awaited
        })
    }
}

/// The tasks of the round's reference update, if one was asked for.
async fn asked(step: &mut Step<'_>) -> Result<Option<Vec<EvaluationTask>>, RoundError> {
    let (number, first) = (
        step.stored.number,
        owm_coordinator_domain::round::Attempt::First,
    );
    let id = round_evaluation(&mut step.tx, number, Purpose::Reference, first).await?;
    match id {
        None => Ok(None),
        Some(id) => Ok(Some(evaluation_tasks(&mut step.tx, id).await?)),
    }
}

/// Whether nothing will come of a task any more.
pub(super) fn is_closed(task: &EvaluationTask) -> bool {
    !matches!(task.phase.as_str(), "queued" | "leased")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_updates_cause_ends_the_attempt_and_what_the_disk_causes_holds_the_round() {
        let ours = || std::io::Error::other("no space left");
        let theirs: [RoundError; 5] = [
            AggregateError::NotFinite(3).into(),
            AggregateError::Decide(DecideError::AllRejected).into(),
            SpoolError::Elements {
                update: 3,
                expected: 10,
                got: 9,
            }
            .into(),
            RoundError::Apply(ApplyError::NotFinite {
                tensor: 0,
                element: 1,
            }),
            AggregateError::Apply(ApplyError::NotFinite {
                tensor: 0,
                element: 1,
            })
            .into(),
        ];
        for error in theirs {
            assert!(is_of_the_updates(&error), "{error}");
        }
        let held: [RoundError; 3] = [
            AggregateError::Parent(ours()).into(),
            SpoolError::Io {
                update: 0,
                source: ours(),
            }
            .into(),
            RoundError::Other("the disk".into()),
        ];
        for error in held {
            assert!(!is_of_the_updates(&error), "{error}");
        }
    }
}
