//! What the public page shows of nodes and tasks, in a fixed number of bounded queries. Called by the
//! server's page at most once a second. Never here: users' text, request ids, addresses, wallets.

use owm_coordinator_domain::task::FailureCode;
use owm_proto::{
    Msat, NodeId, NodeStatus, Permille, PublicKey, TaskId, Tier, UnixMillis, hash::ParseError,
};

use crate::{
    error::StoreError,
    time::{from_pg, to_pg},
    tx::Tx,
};

/// A node as the page lists it.
#[derive(Clone, Debug)]
pub struct NodeGlance {
    /// Its id here.
    pub node_id: NodeId,
    /// Its name on the wire.
    pub public_key: PublicKey,
    /// What its hardware is good for.
    pub tier: Tier,
    /// What counts for rewards and selection.
    pub effective_tier: Tier,
    /// Its standing.
    pub status: NodeStatus,
    /// Why, in words.
    pub status_reason: String,
    /// No GPU.
    pub cpu_only: bool,
    /// What its engine runs on, as it said itself; empty: it did not say.
    pub backend: String,
    /// What it runs, as it said itself.
    pub software_version: String,
    /// Minutes seen over minutes elapsed, seven days.
    pub uptime: Permille,
    /// What selection weighs it with.
    pub reliability: Permille,
    /// Tasks that ended at it.
    pub tasks_total: u64,
    /// Those that were accepted.
    pub tasks_succeeded: u64,
    /// Booked as owed, ever.
    pub earned: Msat,
    /// Last sign of life of any kind.
    pub heard_at: UnixMillis,
    /// Whether a session at another coordinator of this database counts for it.
    pub elsewhere: bool,
}

/// Nodes heard of since `since`, oldest registration first. A session of another coordinator counts
/// while it was heard of since `live_since`.
#[tracing::instrument(name = "db.glance.nodes", skip_all, err)]
pub async fn glance_nodes(
    tx: &mut Tx,
    since: UnixMillis,
    live_since: UnixMillis,
    instance: &PublicKey,
    limit: u32,
) -> Result<Vec<NodeGlance>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT node_id, public_key, tier AS "tier!", effective_tier, status AS "status!",
               status_reason, cpu_only, COALESCE(capabilities->>'backend', '') AS "backend!",
               software_version, uptime_permille, reliability_permille, tasks_total,
               tasks_succeeded, earned_msat,
               GREATEST(session_seen_at, last_heartbeat, registered_at) AS heard_at,
               COALESCE(session_id IS NOT NULL AND session_instance <> $2
                   AND session_seen_at >= $3, FALSE) AS "elsewhere!"
           FROM nodes WHERE GREATEST(session_seen_at, last_heartbeat, registered_at) >= $1
           ORDER BY registered_at, node_id LIMIT $4"#,
        to_pg(since),
        instance.to_string(),
        to_pg(live_since),
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter()
        .map(|r| {
            let id = r.node_id;
            let wrong = |column| {
                move |error: ParseError| StoreError::inconsistent("nodes", column, id, error)
            };
            Ok(NodeGlance {
                node_id: NodeId(id),
                public_key: r.public_key.parse().map_err(wrong("public_key"))?,
                tier: r.tier.parse().map_err(wrong("tier"))?,
                effective_tier: r.effective_tier.parse().map_err(wrong("effective_tier"))?,
                status: r.status.parse().map_err(wrong("status"))?,
                status_reason: r.status_reason,
                cpu_only: r.cpu_only,
                backend: r.backend,
                software_version: r.software_version,
                uptime: Permille(r.uptime_permille.unsigned_abs()),
                reliability: Permille(r.reliability_permille.unsigned_abs()),
                tasks_total: r.tasks_total.unsigned_abs(),
                tasks_succeeded: r.tasks_succeeded.unsigned_abs(),
                earned: Msat(r.earned_msat.unsigned_abs()),
                heard_at: r.heard_at.map_or(UnixMillis(0), from_pg),
                elsewhere: r.elsewhere,
            })
        })
        .collect()
}

/// How many nodes there are, by when they were last heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Heard of since the time asked for.
    pub heard: u64,
    /// Of those, active ones.
    pub active: u64,
    /// Of those, active ones with a live session at another coordinator of this database.
    pub active_elsewhere: u64,
    /// Not heard of since.
    pub away: u64,
}

/// Counts nodes; parameters as for [`glance_nodes`].
#[tracing::instrument(name = "db.glance.census", skip_all, err)]
pub async fn glance_census(
    tx: &mut Tx,
    since: UnixMillis,
    live_since: UnixMillis,
    instance: &PublicKey,
) -> Result<Census, StoreError> {
    let n = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE heard) AS "heard!",
               count(*) FILTER (WHERE heard AND active) AS "active!",
               count(*) FILTER (WHERE heard AND active AND elsewhere) AS "elsewhere!",
               count(*) FILTER (WHERE NOT heard) AS "away!"
           FROM (SELECT COALESCE(GREATEST(session_seen_at, last_heartbeat, registered_at) >= $1, FALSE)
                     AS heard,
                     status = 'active' AS active,
                     COALESCE(session_id IS NOT NULL AND session_instance <> $2
                         AND session_seen_at >= $3, FALSE) AS elsewhere
                 FROM nodes) n"#,
        to_pg(since),
        instance.to_string(),
        to_pg(live_since)
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(Census {
        heard: n.heard.unsigned_abs(),
        active: n.active.unsigned_abs(),
        active_elsewhere: n.elsewhere.unsigned_abs(),
        away: n.away.unsigned_abs(),
    })
}

/// A task as the page lists it.
#[derive(Clone, Debug)]
pub struct TaskGlance {
    /// What logs call it; no capability.
    pub task_id: TaskId,
    /// Who answered or works on it, or had it last.
    pub node: Option<PublicKey>,
    /// On which sub-model.
    pub sub_model: String,
    /// Of which version.
    pub model_version: Option<String>,
    /// `queued`, `leased`, `done`, `failed`, `cancelled`.
    pub phase: String,
    /// Why it failed.
    pub failure: Option<FailureCode>,
    /// Leases so far.
    pub attempts: u16,
    /// Tokens of the question.
    pub prompt_tokens: Option<u32>,
    /// Tokens of the answer.
    pub output_tokens: Option<u32>,
    /// Milliseconds of computing, as the node says.
    pub exec_ms: Option<u64>,
    /// When it came.
    pub submitted_at: UnixMillis,
}

/// The newest tasks.
#[tracing::instrument(name = "db.glance.tasks", skip_all, err)]
pub async fn glance_tasks(tx: &mut Tx, limit: u32) -> Result<Vec<TaskGlance>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT t.task_id, n.public_key AS "public_key?", t.sub_model, t.model_version, t.phase,
               t.failure_code, t.attempts, t.prompt_tokens, t.output_tokens, t.exec_ms, t.submitted_at
           FROM (SELECT * FROM tasks ORDER BY submitted_at DESC LIMIT $1) t
               LEFT JOIN nodes n ON n.node_id = t.assigned_node
           ORDER BY t.submitted_at DESC, t.task_id"#,
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter()
        .map(|r| {
            let id = r.task_id;
            let node = r.public_key.map(|key| key.parse()).transpose();
            let failure = r.failure_code.map(|code| code.parse()).transpose();
            Ok(TaskGlance {
                task_id: TaskId(id),
                node: node.map_err(|error: ParseError| {
                    StoreError::inconsistent("nodes", "public_key", id, error)
                })?,
                sub_model: r.sub_model,
                model_version: r.model_version,
                phase: r.phase,
                failure: failure.map_err(|error: owm_coordinator_domain::UnknownName| {
                    StoreError::inconsistent("tasks", "failure_code", id, error)
                })?,
                attempts: r.attempts.unsigned_abs(),
                prompt_tokens: r.prompt_tokens.map(i32::unsigned_abs),
                output_tokens: r.output_tokens.map(i32::unsigned_abs),
                exec_ms: r.exec_ms.map(i64::unsigned_abs),
                submitted_at: r.submitted_at.map_or(UnixMillis(0), from_pg),
            })
        })
        .collect()
}

/// What a node wrote and how long it says it took, over the newest tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// Whose.
    pub node: NodeId,
    /// Tokens of its answers.
    pub output_tokens: u64,
    /// Milliseconds of computing.
    pub exec_ms: u64,
}

/// Speeds over the newest `tasks` tasks.
#[tracing::instrument(name = "db.glance.speeds", skip_all, err)]
pub async fn glance_speeds(tx: &mut Tx, tasks: u32) -> Result<Vec<Speed>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT winner_node AS "node!", COALESCE(sum(output_tokens), 0)::bigint AS "tokens!",
               COALESCE(sum(exec_ms), 0)::bigint AS "ms!"
           FROM (SELECT winner_node, output_tokens, exec_ms FROM tasks
                 ORDER BY submitted_at DESC LIMIT $1) t
           WHERE winner_node IS NOT NULL GROUP BY winner_node"#,
        i64::from(tasks)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| Speed {
            node: NodeId(r.node),
            output_tokens: r.tokens.unsigned_abs(),
            exec_ms: r.ms.unsigned_abs(),
        })
        .collect())
}

/// When the oldest task came that waits for a node.
#[tracing::instrument(name = "db.glance.oldest_queued", skip_all, err)]
pub async fn glance_oldest_queued(tx: &mut Tx) -> Result<Option<UnixMillis>, StoreError> {
    let oldest = sqlx::query_scalar!("SELECT min(submitted_at) FROM tasks WHERE phase = 'queued'")
        .fetch_one(&mut *tx.inner)
        .await?;
    Ok(oldest.map(from_pg))
}

#[cfg(test)]
mod tests;
