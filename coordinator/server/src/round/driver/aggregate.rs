//! Sealed: a reference update where participants are few, then the arithmetic, then the candidate where evaluators can
//! fetch it. Nothing is written into the round's row before its files are on the disk.

use owm_aggregate::{AggregateError, DecideError, Submission};
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
use serde::{Deserialize, Serialize};

use super::{RoundError, Step, asks, blocking, whole};
use crate::{
    evaluate::hash,
    failpoints::ROUND_PLACED,
    round::compute::{Inputs, Made},
};

/// Candidate and delta as a manifest names them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Files {
    /// The whole file.
    pub checkpoint: ManifestFile,
    /// What it differs by from its parent.
    pub delta: ManifestFile,
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
            let folder = archive.make(number)?;
            let samples = task.samples(&archive, &inputs.updates)?;
            for (submission, samples) in inputs.submissions.iter_mut().zip(samples) {
                submission.samples = samples;
            }
            let path = folder.join(format!("candidate-{}", attempt.as_str()));
            let made = task.make(&archive, attempt, &inputs, &path);
            Ok((made, inputs, path))
        });
        let (made, inputs, path) = done.await?;
        let mut step = match Step::load(app, number).await? {
            Some(step) if step.before == Phase::Sealed => step,
            _ => return Ok(false),
        };
        let made = match made {
            Ok(made) => made,
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
            Err(RoundError::Aggregate(AggregateError::Decide(error))) => {
                tracing::warn!(round = number, %error, "no candidate comes of it");
                step.on(Event::NotAggregated { attempt })?;
                return step.save(None).await;
            }
            Err(error) => return Err(error),
        };
        step.made(made, inputs, path).await
    }

    /// Puts candidate and delta where they can be fetched, and asks for their losses.
    async fn made(
        mut self,
        made: Made,
        inputs: Inputs,
        path: std::path::PathBuf,
    ) -> Result<bool, RoundError> {
        let (app, archive) = (self.app, self.archive());
        let (number, attempt) = (self.stored.number, self.stored.round.attempt);
        let decision = made.decision;
        let (released, checkpoint) = (made.released, made.checkpoint);
        let delta = archive
            .folder(number)
            .join(format!("{}.owmu", released.sha256));
        let files = blocking(move || {
            let residue = archive.keep_residue(&released.residue)?;
            super::super::archive::write(&delta, |file| {
                std::io::Write::write_all(file, &released.delta)
            })?;
            let failed = |path: &std::path::Path| {
                let path = path.to_owned();
                move |source| RoundError::File { path, source }
            };
            let whole = hash(&path).map_err(failed(&path))?;
            let step = hash(&delta).map_err(failed(&delta))?;
            Ok((residue, (path, whole), (delta, step)))
        });
        let (residue_after, candidate, delta) = files.await?;
        let mut named = Vec::new();
        for (path, (file, ladder)) in [&candidate, &delta] {
            app.blobs.put_if_absent(file, ladder, path).await?;
            named.push((file.sha256, file.size));
            if let Some(sha256) = file.ladder_sha256 {
                named.push((sha256, ladder.len() as u64));
            }
        }
        owm_service::failpoint::hit(ROUND_PLACED);
        let now = app.now();
        // The delta is served too: whoever holds the parent takes that.
        for (sha256, size) in named {
            model_file_add(&mut self.tx, &sha256, size, now).await?;
        }
        let files = Files {
            checkpoint: candidate.1.0,
            delta: delta.1.0,
        };
        let computed = Computed {
            attempt,
            inputs: serde_json::to_vec(&inputs)?,
            decision: decision.to_json().into_bytes(),
            checkpoint,
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
        self.made = Some(files.checkpoint);
        self.on(Event::Aggregated(Candidate {
            attempt,
            checkpoint,
            delta: computed.delta,
            residue_after,
        }))?;
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
            let (archive, spool) = (self.archive(), self.app.spool.clone());
            let number = self.stored.number;
            blocking(move || archive.keep_update(number, &sha256, &spool.path(&sha256))).await?;
            return Ok(Reference::Here(sha256));
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
