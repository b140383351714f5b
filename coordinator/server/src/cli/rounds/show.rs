//! What `round list` and `round show` print.

use std::fmt::Write as _;

use owm_aggregate::{Decision, Verdict};
use owm_coordinator_domain::round::{AbandonReason, Part, acceptance};
use owm_coordinator_store::{
    Store,
    round::{
        StoredRound, round_computed, round_list, round_read,
        work::{PartWork, round_parts},
    },
};
use owm_proto::UnixMillis;
use owm_service::{RunError, config::HumanDuration};
use serde_json::{Value, json};

use super::super::commands::{LIST_MAX, print};
use crate::round::{config::RoundConfig, driver::update_of};

pub(super) async fn list(store: &Store, json: bool, now: UnixMillis) -> Result<(), RunError> {
    let mut tx = store.begin("round.list").await?;
    let all = round_list(&mut tx, false, LIST_MAX).await?;
    let values: Vec<Value> = all.iter().map(head).collect();
    let mut lines = vec![format!(
        "{:>6} {:<10} {:<11} {:<12} {:>7}  result",
        "round", "sub-model", "phase", "opened", "updates"
    )];
    lines.extend(all.iter().map(|one| {
        let ago = HumanDuration::from_secs(now.since(one.round.opened_at).as_secs());
        format!(
            "{:>6} {:<10} {:<11} {:<12} {:>7}  {}",
            one.number,
            one.sub_model.as_str(),
            one.round.phase.as_str(),
            format!("{ago} ago"),
            format!("{}/{}", whole(one), one.round.parts.len()),
            result(one)
        )
    }));
    print(json, &json!(values), &lines.join("\n"))
}

fn whole(one: &StoredRound) -> usize {
    let parts = one.round.parts.values();
    parts
        .filter(|part| matches!(part, Part::Whole { .. }))
        .count()
}

fn result(one: &StoredRound) -> String {
    match (&one.version, one.round.abandoned) {
        (Some(version), _) => version.to_string(),
        (None, Some(reason)) => format!("abandoned: {reason}"),
        (None, None) => one.trouble.clone(),
    }
}

fn head(one: &StoredRound) -> Value {
    let candidate = one.round.candidate;
    json!({
        "round": one.number, "sub_model": one.sub_model, "phase": one.round.phase.as_str(),
        "opened_at_ms": one.round.opened_at, "moved_at_ms": one.moved_at,
        "parent_version": one.parent_version, "parent": one.parent, "version": one.version,
        "attempt": one.round.attempt.as_str(), "asked": one.round.parts.len(), "updates": whole(one),
        "checkpoint": candidate.map(|made| made.checkpoint), "delta": candidate.map(|made| made.delta),
        "residue_before": one.residue_before, "residue_after": candidate.map(|made| made.residue_after),
        "abandoned": one.round.abandoned.map(AbandonReason::as_str), "trouble": one.trouble,
    })
}

pub(super) async fn show(store: &Store, number: u64, json: bool) -> Result<(), RunError> {
    let mut tx = store.begin("round.show").await?;
    let found = round_read(&mut tx, number).await?;
    let stored = found.ok_or_else(|| super::none(number))?;
    let parts = round_parts(&mut tx, number).await?;
    let computed = round_computed(&mut tx, number).await?;
    drop(tx);
    let config = RoundConfig::from_bytes(&stored.config).map_err(RunError::failed)?;
    let last = computed
        .iter()
        .find(|made| made.attempt == stored.round.attempt);
    let decision = last.map(|made| Decision::from_json(&String::from_utf8_lossy(&made.decision)));
    let decision = decision.transpose().map_err(RunError::failed)?;
    let mut value = head(&stored);
    value["config"] = json!(config);
    value["closes_at_ms"] = json!(stored.round.closes_at());
    value["parts"] = parts.iter().map(|part| row(&stored, part)).collect();
    value["reports"] = json!(stored.round.reports);
    value["verdicts"] = json!(stored.round.verdicts);
    if let Some(decision) = &decision {
        value["strategy"] = json!(decision.strategy);
        value["reduced_protection"] = json!(decision.reduced_protection);
        value["relaxed"] = json!(decision.relaxed);
    }
    print(json, &value, &sheet(&stored, &parts, decision.as_ref()))
}

fn said(part: &PartWork) -> Option<Verdict> {
    serde_json::from_slice(part.verdict.as_deref()?).ok()
}

/// What became of a part, in a word.
fn state(stored: &StoredRound, part: &PartWork) -> &'static str {
    match stored.round.parts.get(&part.key) {
        Some(Part::Asked) | None if !part.refused.is_empty() => "refused",
        Some(Part::Asked) | None => "asked",
        Some(Part::Committed { .. }) => "committed",
        Some(Part::Whole { .. }) => match said(part) {
            Some(verdict) if verdict.rejected.is_some() => "rejected",
            Some(_) => "counts",
            None => "here",
        },
        Some(Part::Void { .. }) => "void",
    }
}

/// Why it does not count; empty: it does, or nobody knows yet.
fn reason(part: &PartWork) -> String {
    let rejected = said(part).and_then(|verdict| verdict.rejected);
    match rejected {
        Some(reason) => reason.to_string(),
        None if !part.refused.is_empty() => part.refused.clone(),
        None => part.trouble.clone(),
    }
}

fn row(stored: &StoredRound, part: &PartWork) -> Value {
    let verdict = said(part);
    json!({
        "node": part.key, "owner": part.owner, "task_id": part.task, "task": part.phase,
        "state": state(stored, part), "reason": reason(part),
        "committed_at_ms": part.committed.map(|(at, _)| at), "commit": part.committed.map(|(_, hash)| hash),
        "update": update_of(part), "received_at_ms": part.reported.as_ref().map(|(at, _)| at),
        "weight": verdict.as_ref().map(|verdict| verdict.weight),
        "norm": verdict.as_ref().map(|verdict| verdict.norm), "gates": verdict,
        "owed_msat": part.reward.0,
    })
}

fn sheet(stored: &StoredRound, parts: &[PartWork], decision: Option<&Decision>) -> String {
    let mut text = format!(
        "round {} of {}: {}\nparent {} {}",
        stored.number, stored.sub_model, stored.round.phase, stored.parent_version, stored.parent
    );
    if let Some(made) = stored.round.candidate {
        let _ = write!(
            text,
            "\ncandidate {}\ndelta {}",
            made.checkpoint, made.delta
        );
    }
    if let Some(decision) = decision {
        let _ = write!(text, "\nstrategy {}", decision.strategy);
        if decision.reduced_protection {
            text.push_str(
                ", reduced protection: too few updates to tell the direction by themselves",
            );
        }
        for relaxed in &decision.relaxed {
            let _ = write!(text, "\nrelaxed: {relaxed}");
        }
    }
    for (attempt, verdict) in &stored.round.verdicts {
        let _ = write!(text, "\n{attempt}: {}", judged(*verdict));
    }
    let result = result(stored);
    if !result.is_empty() {
        let _ = write!(text, "\n{result}");
    }
    for part in parts {
        let weight = said(part).map(|verdict| verdict.weight).unwrap_or_default();
        let _ = write!(
            text,
            "\n{:<10} {:<9} weight {:>5.1} %  {} owed",
            part.key.short(),
            state(stored, part),
            weight * 100.0,
            part.reward
        );
        if let Some((_, hash)) = part.committed {
            let _ = write!(text, "  commit {hash}");
        }
        let reason = reason(part);
        if !reason.is_empty() {
            let _ = write!(text, "\n           ! {reason}");
        }
    }
    text
}

fn judged(verdict: acceptance::Verdict) -> String {
    let nats = |loss: acceptance::Loss| loss.0 as f64 / 1e6;
    match verdict {
        acceptance::Verdict::Accepted { candidate, parent } => format!(
            "accepted: {:.6} nats per byte, its parent {:.6}",
            nats(candidate),
            nats(parent)
        ),
        acceptance::Verdict::WorseThanParent { candidate, parent } => format!(
            "not accepted: {:.6} nats per byte, its parent {:.6}",
            nats(candidate),
            nats(parent)
        ),
        acceptance::Verdict::WorseThanBest { candidate, best } => format!(
            "not accepted: {:.6} nats per byte, the best of the last ten {:.6}",
            nats(candidate),
            nats(best)
        ),
        acceptance::Verdict::Unmeasured => "nobody has measured it".to_owned(),
    }
}
