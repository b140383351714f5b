//! Figures for the public statistics; never a user's text.

mod tally;

use owm_proto::{NodeId, TaskId, TaskType, UnixMillis};

pub use tally::{Tally, stats_owed, stats_tally};

use crate::{error::StoreError, time::from_pg, tx::Tx};

/// Counts over the whole network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Nodes in each standing.
    pub nodes_active: u64,
    /// Nodes waiting for something.
    pub nodes_pending: u64,
    /// Nodes with something missing.
    pub nodes_degraded: u64,
    /// Nodes shut out.
    pub nodes_suspended: u64,
    /// Tasks that wait.
    pub tasks_queued: u64,
    /// Tasks at a node.
    pub tasks_running: u64,
    /// Tasks answered, ever.
    pub tasks_done: u64,
    /// Tasks that ended without an answer, ever.
    pub tasks_failed: u64,
    /// Tokens of all answers, ever.
    pub output_tokens: u64,
    /// Old tasks are still being counted (after a start): the figures "ever" are too low.
    pub counting: bool,
}

/// Nodes by standing; tasks are left at zero.
async fn nodes_counted(tx: &mut Tx) -> Result<NetworkCounts, StoreError> {
    let n = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE status = 'active') AS "active!",
               count(*) FILTER (WHERE status = 'pending') AS "pending!",
               count(*) FILTER (WHERE status = 'degraded') AS "degraded!",
               count(*) FILTER (WHERE status = 'suspended') AS "suspended!" FROM nodes"#
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(NetworkCounts {
        nodes_active: n.active.unsigned_abs(),
        nodes_pending: n.pending.unsigned_abs(),
        nodes_degraded: n.degraded.unsigned_abs(),
        nodes_suspended: n.suspended.unsigned_abs(),
        ..NetworkCounts::default()
    })
}

/// Counts everything by a walk over all tasks: exact and, with a long history, slow. What is asked often
/// takes [`stats_tally`].
#[tracing::instrument(name = "db.stats.network", skip_all, err)]
pub async fn stats_network(tx: &mut Tx) -> Result<NetworkCounts, StoreError> {
    let t = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE phase = 'queued') AS "queued!",
               count(*) FILTER (WHERE phase = 'leased') AS "leased!",
               count(*) FILTER (WHERE phase = 'done') AS "done!",
               count(*) FILTER (WHERE phase = 'failed') AS "failed!",
               COALESCE(sum(output_tokens), 0)::bigint AS "tokens!" FROM tasks"#
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(NetworkCounts {
        tasks_queued: t.queued.unsigned_abs(),
        tasks_running: t.leased.unsigned_abs(),
        tasks_done: t.done.unsigned_abs(),
        tasks_failed: t.failed.unsigned_abs(),
        output_tokens: t.tokens.unsigned_abs(),
        ..nodes_counted(tx).await?
    })
}

/// One task as anyone may see it.
#[derive(Clone, Debug)]
pub struct TaskLine {
    /// Which.
    pub task_id: TaskId,
    /// What.
    pub task_type: TaskType,
    /// Who answered, or works on it.
    pub node: Option<NodeId>,
    /// Where it stands.
    pub status: String,
    /// With which version.
    pub model_version: Option<String>,
    /// Tokens of the answer.
    pub output_tokens: Option<u32>,
    /// Milliseconds of computing.
    pub exec_ms: Option<u64>,
    /// When it came.
    pub submitted_at: UnixMillis,
}

/// The newest tasks.
#[tracing::instrument(name = "db.stats.tasks_recent", skip_all, err)]
pub async fn tasks_recent(tx: &mut Tx, limit: u32) -> Result<Vec<TaskLine>, StoreError> {
    let rows = sqlx::query!(
        "SELECT task_id, task_type, assigned_node, status, model_version, output_tokens, exec_ms,
             submitted_at
         FROM tasks ORDER BY submitted_at DESC LIMIT $1",
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(TaskLine {
                task_id: TaskId(r.task_id),
                task_type: r
                    .task_type
                    .parse()
                    .map_err(|e: owm_proto::hash::ParseError| {
                        StoreError::inconsistent("tasks", "task_type", r.task_id, e)
                    })?,
                node: r.assigned_node.map(NodeId),
                status: r.status,
                model_version: r.model_version,
                output_tokens: r.output_tokens.map(i32::unsigned_abs),
                exec_ms: r.exec_ms.map(i64::unsigned_abs),
                submitted_at: r.submitted_at.map_or(UnixMillis(0), from_pg),
            })
        })
        .collect()
}
