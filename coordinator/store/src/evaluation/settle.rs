//! An evaluation's end: no task of it is open, so its reports can be compared and booked. `server/verdict/settle` decides.
//! Must stay true: one transaction locks the evaluation, books, and says that it is settled; the schema refuses a second
//! time.

use std::collections::BTreeSet;

use owm_proto::{
    EvaluationId, Msat, Permille, Sha256, TaskId, UnixMillis,
    evaluation::{EvaluationReport, Finding},
};
use uuid::Uuid;

use crate::{
    error::{StoreError, one_row},
    time::to_pg,
    tx::Tx,
};

/// Evaluations whose tasks have all ended and that are not settled, oldest first. A part in a round waits for the round's
/// end: only then it is known what it is worth.
#[tracing::instrument(name = "db.evaluation.unsettled", skip_all, err)]
pub async fn evaluations_unsettled(
    tx: &mut Tx,
    limit: u32,
) -> Result<Vec<EvaluationId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT e.evaluation_id FROM evaluations e WHERE e.settled_at IS NULL AND NOT EXISTS (
             SELECT 1 FROM evaluation_tasks x JOIN tasks t ON t.task_id = x.task_id
             WHERE x.evaluation_id = e.evaluation_id AND t.phase IN ('queued', 'leased'))
           AND NOT EXISTS (
             SELECT 1 FROM round_evaluations p JOIN fl_rounds r ON r.round_id = p.round_id
             WHERE p.evaluation_id = e.evaluation_id AND p.purpose = 'part'
               AND r.phase NOT IN ('published', 'anchored', 'abandoned'))
         ORDER BY e.created_at, e.evaluation_id LIMIT $1",
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    Ok(ids.into_iter().map(EvaluationId).collect())
}

/// Of which evaluation a task is.
#[tracing::instrument(name = "db.evaluation.of", skip_all, err, fields(task.id = %task))]
pub async fn evaluation_of(tx: &mut Tx, task: TaskId) -> Result<Option<EvaluationId>, StoreError> {
    let id = sqlx::query_scalar!(
        "SELECT evaluation_id FROM evaluation_tasks WHERE task_id = $1",
        task.0
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    Ok(id.map(EvaluationId))
}

/// Locks an evaluation that is to be settled; `false`: it is settled, has open tasks, is a part of a round that goes on, or
/// there is none.
#[tracing::instrument(name = "db.evaluation.settle_lock", skip_all, err)]
pub async fn evaluation_settle_lock(tx: &mut Tx, id: EvaluationId) -> Result<bool, StoreError> {
    let locked = sqlx::query_scalar!(
        "SELECT evaluation_id FROM evaluations WHERE evaluation_id = $1 AND settled_at IS NULL FOR UPDATE",
        id.0
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    if locked.is_none() {
        return Ok(false);
    }
    // A statement of its own, so that it sees what whoever held the lock before has committed.
    let open = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM evaluation_tasks x JOIN tasks t ON t.task_id = x.task_id
             WHERE x.evaluation_id = $1 AND t.phase IN ('queued', 'leased'))
           OR EXISTS (SELECT 1 FROM round_evaluations p JOIN fl_rounds r ON r.round_id = p.round_id
             WHERE p.evaluation_id = $1 AND p.purpose = 'part'
               AND r.phase NOT IN ('published', 'anchored', 'abandoned')) AS "open!""#,
        id.0
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(!open)
}

/// What a part in a round is worth, by the round: `None`: the evaluation is no part. A part that was refused, or that a gate
/// rejected, is worth nothing; one that nobody judged, because the round was given up, is worth all.
#[tracing::instrument(name = "db.evaluation.part_quality", skip_all, err)]
pub async fn evaluation_part_quality(
    tx: &mut Tx,
    id: EvaluationId,
) -> Result<Option<Permille>, StoreError> {
    let quality = sqlx::query_scalar!(
        r#"SELECT CASE WHEN p.refused <> '' THEN 0 ELSE COALESCE(p.quality_permille, 1000) END AS "quality!"
           FROM round_evaluations e JOIN fl_participants p ON p.round_id = e.round_id AND p.node_id = e.node_id
           WHERE e.evaluation_id = $1 AND e.purpose = 'part'"#,
        id.0
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    Ok(quality.map(|permille| Permille(permille.unsigned_abs())))
}

/// The evaluation is settled: what each task's node is owed.
#[tracing::instrument(name = "db.evaluation.settle", skip_all, err)]
pub async fn evaluation_settle(
    tx: &mut Tx,
    id: EvaluationId,
    rewards: &[(TaskId, Msat)],
    now: UnixMillis,
) -> Result<(), StoreError> {
    let tasks: Vec<Uuid> = rewards.iter().map(|(task, _)| task.0).collect();
    let amounts: Vec<i64> = rewards.iter().map(|(_, m)| m.0.cast_signed()).collect();
    sqlx::query!(
        "UPDATE tasks t SET reward_msat = r.reward FROM unnest($1::uuid[], $2::bigint[]) AS r(task, reward)
         WHERE t.task_id = r.task AND t.phase = 'done'",
        &tasks,
        &amounts
    )
    .execute(&mut *tx.inner)
    .await?;
    let done = sqlx::query!(
        "UPDATE evaluations SET settled_at = $2 WHERE evaluation_id = $1 AND settled_at IS NULL",
        id.0,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "evaluations", id)
}

/// Updates that must not leave the disk: reports name them of evaluations that are not settled (a round's parts among
/// them), or that a round which goes on has asked for.
#[tracing::instrument(name = "db.evaluation.updates_needed", skip_all, err)]
pub async fn updates_needed(tx: &mut Tx) -> Result<BTreeSet<Sha256>, StoreError> {
    let reports = sqlx::query_scalar!(
        r#"SELECT x.report AS "report!" FROM evaluation_tasks x
           JOIN evaluations e ON e.evaluation_id = x.evaluation_id
           WHERE x.report IS NOT NULL AND (e.settled_at IS NULL OR EXISTS (
             SELECT 1 FROM round_evaluations p JOIN fl_rounds r ON r.round_id = p.round_id
             WHERE p.evaluation_id = e.evaluation_id AND r.phase NOT IN ('published', 'anchored', 'abandoned')))"#
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    let named = |report: &Vec<u8>| match EvaluationReport::from_bytes(report)?.finding {
        Finding::Update { sha256, .. } => Some(sha256),
        Finding::HeldOut { .. } => None,
    };
    Ok(reports.iter().filter_map(named).collect())
}
