//! Leases in batches: queued tasks are claimed, the domain decides who gets them, and all grants are
//! written in two statements.

use owm_coordinator_domain::task::{Attempt, Phase};
use owm_proto::{NodeId, Role, TaskId, UnixMillis};

use crate::{
    error::StoreError,
    task::{LoadedTask, TaskRow, payload_row},
    time::to_pg,
    tx::Tx,
    vault::Vault,
};

/// A task that waits for a node, locked by this transaction.
#[derive(Clone, Debug)]
pub struct QueuedTask {
    /// Facts and state.
    pub loaded: LoadedTask,
    /// The encoded `TaskPayload`.
    pub payload: Vec<u8>,
}

/// Locks up to `limit` queued tasks of a role that not all of the `free` nodes have tried, most urgent
/// first, evaluations in turn; other coordinators skip them. A row that can't be read is logged and left.
#[tracing::instrument(name = "db.lease.claim", skip_all, err)]
pub async fn lease_claim(
    tx: &mut Tx,
    vault: &Vault,
    role: Role,
    free: &[NodeId],
    now: UnixMillis,
    limit: u32,
) -> Result<Vec<QueuedTask>, StoreError> {
    let rows = match role {
        Role::Evaluate => claim_in_turn(tx, free, now, limit).await?,
        _ => claim(tx, role, free, now, limit).await?,
    };
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            queued_task(&row, vault)
                .inspect_err(|error| tracing::error!(%error, "a queued task can't be read"))
                .ok()
        })
        .collect())
}

async fn claim(
    tx: &mut Tx,
    role: Role,
    free: &[NodeId],
    now: UnixMillis,
    limit: u32,
) -> Result<Vec<TaskRow>, StoreError> {
    let nodes: Vec<_> = free.iter().map(|node| node.0).collect();
    let rows = sqlx::query_as!(
        TaskRow,
        "SELECT task_id, task_type, sub_model, model_version, model_sha256, input_hash, min_tier,
             max_tokens, seed, streaming, request_key, phase, lease_epoch, lease_node,
             lease_expires_at, lease_ms, attempts, max_attempts, tried_nodes, deadline_at,
             winner_node, winner_epoch, failure_code, payload_ciphertext
         FROM tasks WHERE phase = 'queued' AND role = $1 AND deadline_at > $2
             AND (tried_nodes = '{}' OR NOT tried_nodes @> $3)
         ORDER BY priority, submitted_at, task_id LIMIT $4 FOR UPDATE SKIP LOCKED",
        role.as_str(),
        to_pg(now),
        &nodes,
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    Ok(rows)
}

/// Evaluations take turns: the first waiting task of each, the oldest first, then the second of each. One that is asked of
/// more owners than there are, or of owners who all have it, holds up none that came later.
async fn claim_in_turn(
    tx: &mut Tx,
    free: &[NodeId],
    now: UnixMillis,
    limit: u32,
) -> Result<Vec<TaskRow>, StoreError> {
    let nodes: Vec<_> = free.iter().map(|node| node.0).collect();
    let rows = sqlx::query_as!(
        TaskRow,
        "WITH turns AS (
             SELECT q.task_id AS id, row_number() OVER (
                 PARTITION BY COALESCE(x.evaluation_id, q.task_id) ORDER BY q.submitted_at, q.task_id) AS turn
             FROM tasks q LEFT JOIN evaluation_tasks x ON x.task_id = q.task_id
             WHERE q.phase = 'queued' AND q.role = 'evaluate' AND q.deadline_at > $1
                 AND (q.tried_nodes = '{}' OR NOT q.tried_nodes @> $2)
                 AND EXISTS (SELECT 1 FROM nodes n WHERE n.node_id = ANY($2) AND NOT EXISTS (
                     SELECT 1 FROM evaluation_tasks y JOIN tasks t ON t.task_id = y.task_id
                         JOIN nodes o ON o.node_id = COALESCE(t.winner_node, t.lease_node)
                     WHERE y.evaluation_id = x.evaluation_id AND t.phase IN ('leased', 'done')
                         AND o.owner_key = n.owner_key)))
         SELECT task_id, task_type, sub_model, model_version, model_sha256, input_hash, min_tier,
             max_tokens, seed, streaming, request_key, phase, lease_epoch, lease_node,
             lease_expires_at, lease_ms, attempts, max_attempts, tried_nodes, deadline_at,
             winner_node, winner_epoch, failure_code, payload_ciphertext
         FROM tasks JOIN turns ON turns.id = tasks.task_id
         WHERE phase = 'queued'
         ORDER BY priority, turn, submitted_at, task_id LIMIT $3 FOR UPDATE OF tasks SKIP LOCKED",
        to_pg(now),
        &nodes,
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    Ok(rows)
}

fn queued_task(row: &TaskRow, vault: &Vault) -> Result<QueuedTask, StoreError> {
    let loaded = row.loaded()?;
    let id = loaded.facts.task_id;
    let sealed = row.payload_ciphertext.as_deref().unwrap_or_default();
    let payload = vault.open("tasks.payload_ciphertext", &payload_row(id), sealed)?;
    Ok(QueuedTask { loaded, payload })
}

/// A lease to be written: a task claimed in this transaction, and what [`LoadedTask::task`]'s `lease`
/// returned for it.
#[derive(Clone, Debug)]
pub struct LeaseGrant {
    /// Which task.
    pub task_id: TaskId,
    /// The new attempt.
    pub attempt: Attempt,
}

/// Writes all grants in two statements.
#[tracing::instrument(name = "db.lease.grant", skip_all, err)]
pub async fn lease_grant(
    tx: &mut Tx,
    grants: &[LeaseGrant],
    now: UnixMillis,
) -> Result<(), StoreError> {
    let tasks: Vec<_> = grants.iter().map(|g| g.task_id.0).collect();
    let nodes: Vec<_> = grants.iter().map(|g| g.attempt.node.0).collect();
    let epochs: Vec<_> = grants
        .iter()
        .map(|g| g.attempt.epoch.cast_signed())
        .collect();
    let expiries: Vec<_> = grants.iter().map(|g| to_pg(g.attempt.expires_at)).collect();
    let done = sqlx::query!(
        "UPDATE tasks SET phase = 'leased', lease_epoch = g.epoch, lease_node = g.node,
             lease_expires_at = g.expires, attempts = attempts + 1,
             tried_nodes = array_append(tried_nodes, g.node),
             started_at = COALESCE(started_at, $5)
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[]) AS g(task, node, epoch, expires)
         WHERE task_id = g.task AND phase = 'queued' AND lease_epoch = g.epoch - 1",
        &tasks,
        &nodes,
        &epochs,
        &expiries,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    if done.rows_affected() != grants.len() as u64 {
        let reason = format!("{} of {} leased", done.rows_affected(), grants.len());
        return Err(StoreError::inconsistent(
            "tasks",
            Phase::Queued.as_str(),
            "batch",
            reason,
        ));
    }
    sqlx::query!(
        "INSERT INTO task_attempts (task_id, epoch, node_id, leased_at, expires_at)
         SELECT g.task, g.epoch, g.node, $5, g.expires
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[]) AS g(task, node, epoch, expires)",
        &tasks,
        &nodes,
        &epochs,
        &expiries,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}
