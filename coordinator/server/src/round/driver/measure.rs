//! Aggregated: reports on the candidate and on its parent become the machine's, and the candidate is decided on.

use std::collections::BTreeMap;

use owm_coordinator_domain::{
    evaluation::{Report as Found, summarise},
    round::{Event, Report, acceptance::Loss},
};
use owm_coordinator_store::{
    evaluation::{EvaluationTask, evaluation_tasks},
    round::work::{Purpose, round_evaluation},
};
use owm_proto::{PublicKey, Sha256, evaluation::Finding};

use super::{RoundError, Step, aggregate::is_closed};

/// Micronats in a bit.
const MICRONATS_PER_BIT: f64 = std::f64::consts::LN_2 * 1e6;

impl Step<'_> {
    /// Waits for both evaluations, then decides.
    pub(super) async fn measure(mut self) -> Result<bool, RoundError> {
        let (Some(candidate), Some(parent), Some(made)) = (
            self.tasks(Purpose::Candidate).await?,
            self.tasks(Purpose::Parent).await?,
            self.stored.round.candidate,
        ) else {
            return Err(RoundError::Other(
                "the candidate's evaluations are not on record; abandon the round".into(),
            ));
        };
        if !candidate.iter().chain(&parent).all(is_closed) {
            return Ok(false);
        }
        for report in reports_of(made.checkpoint, &candidate, &parent) {
            self.on(Event::Reported(report))?;
        }
        let attempt = super::attempt_of(&self.stored);
        let recent = self.config.recent.clone();
        self.on(Event::EvaluationOver { attempt, recent })?;
        self.save(None).await
    }

    async fn tasks(&mut self, purpose: Purpose) -> Result<Option<Vec<EvaluationTask>>, RoundError> {
        let attempt = super::attempt_of(&self.stored);
        let number = self.stored.number;
        let id = round_evaluation(&mut self.tx, number, purpose, attempt).await?;
        match id {
            None => Ok(None),
            Some(id) => Ok(Some(evaluation_tasks(&mut self.tx, id).await?)),
        }
    }
}

/// What evaluators have found of the candidate and of its parent, one report of each owner, in the order of their keys.
pub(in crate::round) fn reports_of(
    checkpoint: Sha256,
    candidate: &[EvaluationTask],
    parent: &[EvaluationTask],
) -> Vec<Report> {
    let (of_candidate, of_parent) = (losses(candidate), losses(parent));
    let middle = median(of_parent.values().map(|(_, loss)| *loss).collect());
    let report = |(owner, (node, candidate)): (PublicKey, (PublicKey, Loss))| {
        // The parent's as this owner found it; on one backend all find the same.
        let own = of_parent.get(&owner).map(|(_, loss)| *loss);
        Some(Report {
            node,
            owner: Sha256(owner.0),
            checkpoint,
            candidate,
            parent: own.or(middle)?,
        })
    };
    of_candidate.into_iter().filter_map(report).collect()
}

/// By owner: whose node found which loss. What is flagged as of other tokens, or is a second voice, is left out.
fn losses(tasks: &[EvaluationTask]) -> BTreeMap<PublicKey, (PublicKey, Loss)> {
    let told = |task: &EvaluationTask| Some((task.node?.1, task.report.clone()?));
    let told: Vec<(PublicKey, Found)> = tasks.iter().filter_map(told).collect();
    let reports: Vec<Found> = told.iter().map(|(_, report)| report.clone()).collect();
    let flags = summarise(&reports).flags;
    let mut losses = BTreeMap::new();
    for ((node, report), flag) in told.into_iter().zip(flags) {
        if flag.is_some_and(owm_coordinator_domain::evaluation::Flag::excludes) {
            continue;
        }
        if let Finding::HeldOut { bits_per_byte, .. } = report.said.finding {
            // Checked when it came: finite, not negative.
            let micronats = (bits_per_byte.0 * MICRONATS_PER_BIT).round() as u64;
            losses.insert(report.owner, (node, Loss(micronats)));
        }
    }
    losses
}

fn median(mut losses: Vec<Loss>) -> Option<Loss> {
    losses.sort_unstable();
    let half = losses.len() / 2;
    match losses.len() {
        0 => None,
        n if n % 2 == 1 => Some(losses[half]),
        _ => Some(Loss(u64::midpoint(losses[half - 1].0, losses[half].0))),
    }
}
