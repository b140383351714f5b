//! What a round asks nodes for, written into the transaction that decides it: parts, a reference update, losses.

use std::time::Duration;

use owm_coordinator_domain::round::Attempt;
use owm_coordinator_store::{
    Tx,
    evaluation::{NewEvaluation, evaluation_create},
    node::node_lookup_by_key,
    round::{
        StoredRound,
        work::{Purpose, round_evaluation_add, round_former_parts, round_part_add},
    },
    task::NewTask,
};
use owm_proto::{
    EvaluationId, PublicKey, TaskId, TaskType, Tier, UnixMillis,
    evaluation::{EvaluationAsk, FormerPart},
    limits::FORMER_PARTS_MAX,
    manifest::ManifestFile,
    wire::coordinator as wire,
};
use prost::Message as _;
use rand::Rng as _;

use super::{RoundError, config::RoundConfig};
use crate::app::App;

/// What one evaluation of a round is.
struct Asked<'a> {
    purpose: Purpose,
    attempt: Attempt,
    ask: &'a EvaluationAsk,
    /// Of a part: what became of the node's former ones.
    former: &'a [FormerPart],
    nodes: u32,
    lease: Duration,
    deadline: UnixMillis,
}

/// Leases to those who were drawn.
pub(super) async fn parts(
    app: &App,
    tx: &mut Tx,
    stored: &StoredRound,
    config: &RoundConfig,
    participants: &[PublicKey],
) -> Result<(), RoundError> {
    let deadline = stored.round.plan.deadline;
    let lease = deadline.max;
    for (nr, key) in participants.iter().enumerate() {
        let ask = config.part_ask(stored.number, key, nr, participants.len())?;
        let node = node_lookup_by_key(tx, key).await?;
        let node = node.ok_or_else(|| {
            RoundError::Other(format!(
                "the node {} was drawn and is not registered",
                key.short()
            ))
        })?;
        let former =
            round_former_parts(tx, &stored.sub_model, node.node_id, FORMER_PARTS_MAX).await?;
        let asked = Asked {
            purpose: Purpose::Part,
            attempt: Attempt::First,
            ask: &ask,
            former: &former,
            nodes: 1,
            lease,
            deadline: stored.round.ends_at(),
        };
        let new = new_evaluation(app, stored, &asked);
        evaluation_create(tx, &app.vault, &new, app.now()).await?;
        let purpose = asked.purpose;
        round_evaluation_add(
            tx,
            stored.number,
            new.id,
            purpose,
            asked.attempt,
            Some(node.node_id),
        )
        .await?;
        for task in &new.tasks {
            round_part_add(tx, stored.number, node.node_id, task.task_id).await?;
        }
    }
    Ok(())
}

/// A reference update; `false`: the round has no text for one.
pub(super) async fn reference(
    app: &App,
    tx: &mut Tx,
    stored: &StoredRound,
    config: &RoundConfig,
) -> Result<bool, RoundError> {
    let Some(reading) = &config.reference else {
        return Ok(false);
    };
    let ask = config.reference_ask(stored.number, reading)?;
    evaluation(app, tx, stored, config, (Purpose::Reference, &ask, 1)).await?;
    Ok(true)
}

/// The losses of the candidate and of its parent.
pub(super) async fn losses(
    app: &App,
    tx: &mut Tx,
    stored: &StoredRound,
    config: &RoundConfig,
    (candidate, evaluators): (&ManifestFile, usize),
) -> Result<(), RoundError> {
    let nodes = u32::try_from(evaluators)
        .unwrap_or(u32::MAX)
        .min(config.evaluators);
    for (purpose, file) in [
        (Purpose::Candidate, Some(candidate)),
        (Purpose::Parent, None),
    ] {
        let ask = config.loss_ask(file)?;
        evaluation(app, tx, stored, config, (purpose, &ask, nodes)).await?;
    }
    Ok(())
}

async fn evaluation(
    app: &App,
    tx: &mut Tx,
    stored: &StoredRound,
    config: &RoundConfig,
    (purpose, ask, nodes): (Purpose, &EvaluationAsk, u32),
) -> Result<(), RoundError> {
    let lease = Duration::from_millis(config.evaluation_ms);
    // A reference is of the round, whichever attempt asks for it.
    let attempt = match purpose {
        Purpose::Reference | Purpose::Part => Attempt::First,
        Purpose::Candidate | Purpose::Parent => stored.round.attempt,
    };
    let asked = Asked {
        purpose,
        attempt,
        ask,
        former: &[],
        nodes,
        lease,
        deadline: app.now().after(lease),
    };
    let new = new_evaluation(app, stored, &asked);
    evaluation_create(tx, &app.vault, &new, app.now()).await?;
    round_evaluation_add(tx, stored.number, new.id, purpose, attempt, None).await?;
    Ok(())
}

fn new_evaluation(app: &App, stored: &StoredRound, asked: &Asked<'_>) -> NewEvaluation {
    let mut rng = app.request_rng();
    let mut evaluate = wire::EvaluatePayload::from(asked.ask);
    let kept = evaluate.encode_to_vec();
    evaluate.former = asked.former.iter().map(wire::FormerPart::from).collect();
    let task = Some(wire::task_payload::Task::Evaluate(evaluate));
    let payload = wire::TaskPayload { task }.encode_to_vec();
    let id = EvaluationId::from_random(rng.random());
    let tasks = (0..asked.nodes).map(|_| NewTask {
        task_id: TaskId::from_random(rng.random()),
        task_type: match asked.purpose {
            Purpose::Part => TaskType::FlRound,
            Purpose::Reference | Purpose::Candidate | Purpose::Parent => TaskType::Evaluate,
        },
        sub_model: stored.sub_model.clone(),
        model_version: stored.parent_version.clone(),
        model_sha256: asked.ask.weights_sha256(),
        payload: payload.clone(),
        streaming: false,
        max_tokens: u32::try_from(asked.ask.tokens_max).unwrap_or(u32::MAX),
        seed: asked.ask.seed,
        min_tier: Tier::T1,
        lease_ms: u32::try_from(asked.lease.as_millis()).unwrap_or(u32::MAX),
        deadline: asked.deadline,
        request: None,
    });
    NewEvaluation {
        id,
        ask: kept,
        tasks: tasks.collect(),
    }
}
