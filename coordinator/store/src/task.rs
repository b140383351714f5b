//! Tasks: what a new one is made of (`intake` queues it), loaded under a lock as the domain sees them,
//! and saved as the domain has decided.

use owm_coordinator_domain::task::{FailureCode, Phase, Task};
use owm_proto::{
    NodeId, RequestId, Role, Sha256, SubModelId, TaskId, TaskType, Tier, UnixMillis, VersionId,
    statement::{Finish, TaskResultStatement},
};
use uuid::Uuid;

use crate::{
    error::{StoreError, one_row},
    outcome::attempts_close,
    time::{from_pg, to_pg},
    tx::Tx,
};

/// A task to be queued.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// Its id.
    pub task_id: TaskId,
    /// What is to be done.
    pub task_type: TaskType,
    /// With which sub-model.
    pub sub_model: SubModelId,
    /// Of which version.
    pub model_version: VersionId,
    /// The weights that must be used.
    pub model_sha256: Vec<Sha256>,
    /// The encoded `TaskPayload`.
    pub payload: Vec<u8>,
    /// Whether chunks are journalled and delivered.
    pub streaming: bool,
    /// Token limit of the answer.
    pub max_tokens: u32,
    /// Sampling seed.
    pub seed: u64,
    /// Least tier.
    pub min_tier: Tier,
    /// Milliseconds of one lease.
    pub lease_ms: u32,
    /// When the task fails for good.
    pub deadline: UnixMillis,
    /// The public request it answers, if any, and the API key that asked.
    pub request: Option<(RequestId, Option<Uuid>)>,
}

/// What stays the same in a task's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFacts {
    /// Its id.
    pub task_id: TaskId,
    /// What is to be done.
    pub task_type: TaskType,
    /// With which sub-model.
    pub sub_model: SubModelId,
    /// Of which version.
    pub model_version: VersionId,
    /// The weights that must be used.
    pub model_sha256: Vec<Sha256>,
    /// SHA-256 of the payload, the same for every attempt.
    pub input_sha256: Sha256,
    /// Least tier.
    pub min_tier: Tier,
    /// Token limit of the answer.
    pub max_tokens: u32,
    /// Sampling seed.
    pub seed: u64,
    /// Whether chunks are journalled and delivered.
    pub streaming: bool,
    /// The hash of the request id it answers.
    pub request_key: Option<Sha256>,
}

/// A task as loaded: facts and state.
#[derive(Clone, Debug)]
pub struct LoadedTask {
    /// What stays.
    pub facts: TaskFacts,
    /// What the rules move.
    pub task: Task,
}

/// The row that binds a task's payload ciphertext.
pub(crate) fn payload_row(task: TaskId) -> Vec<u8> {
    [b"tasks.payload:".as_slice(), task.0.as_bytes()].concat()
}

/// A row of `tasks`, without the payload.
pub(crate) struct TaskRow {
    pub(crate) task_id: Uuid,
    pub(crate) task_type: String,
    pub(crate) sub_model: String,
    pub(crate) model_version: Option<String>,
    pub(crate) model_sha256: Vec<String>,
    pub(crate) input_hash: Option<String>,
    pub(crate) min_tier: String,
    pub(crate) max_tokens: Option<i32>,
    pub(crate) seed: Option<Vec<u8>>,
    pub(crate) streaming: bool,
    pub(crate) request_key: Option<Vec<u8>>,
    pub(crate) phase: String,
    pub(crate) lease_epoch: i64,
    pub(crate) lease_node: Option<Uuid>,
    pub(crate) lease_expires_at: Option<time::OffsetDateTime>,
    pub(crate) lease_ms: i32,
    pub(crate) attempts: i16,
    pub(crate) max_attempts: i16,
    pub(crate) tried_nodes: Vec<Uuid>,
    pub(crate) deadline_at: time::OffsetDateTime,
    pub(crate) winner_node: Option<Uuid>,
    pub(crate) winner_epoch: Option<i64>,
    pub(crate) failure_code: Option<String>,
    pub(crate) payload_ciphertext: Option<Vec<u8>>,
}

impl TaskRow {
    fn wrong(&self, column: &'static str, why: impl ToString) -> StoreError {
        StoreError::inconsistent("tasks", column, self.task_id, why)
    }

    fn phase(&self) -> Result<Phase, StoreError> {
        Ok(match self.phase.as_str() {
            "queued" => Phase::Queued,
            "leased" => {
                let (Some(node), Some(expires)) = (self.lease_node, self.lease_expires_at) else {
                    return Err(self.wrong("lease_node", "leased to nobody"));
                };
                Phase::Leased {
                    node: NodeId(node),
                    expires_at: from_pg(expires),
                }
            }
            "done" => {
                let (Some(node), Some(epoch)) = (self.winner_node, self.winner_epoch) else {
                    return Err(self.wrong("winner_node", "done by nobody"));
                };
                Phase::Done {
                    winner: NodeId(node),
                    epoch: epoch.unsigned_abs(),
                }
            }
            "failed" => {
                let code = self.failure_code.as_deref().unwrap_or_default();
                let code = code
                    .parse()
                    .map_err(|e: owm_coordinator_domain::UnknownName| {
                        self.wrong("failure_code", e)
                    })?;
                Phase::Failed { code }
            }
            _ => Phase::Cancelled,
        })
    }

    fn task(&self) -> Result<Task, StoreError> {
        Ok(Task {
            phase: self.phase()?,
            epoch: self.lease_epoch.unsigned_abs(),
            attempts: self.attempts.unsigned_abs(),
            max_attempts: self.max_attempts.unsigned_abs(),
            tried: self.tried_nodes.iter().copied().map(NodeId).collect(),
            lease: std::time::Duration::from_millis(u64::from(self.lease_ms.unsigned_abs())),
            deadline_at: from_pg(self.deadline_at),
        })
    }

    fn facts(&self) -> Result<TaskFacts, StoreError> {
        let wrong = |column| move |e: owm_proto::hash::ParseError| self.wrong(column, e);
        let model_version = self.model_version.as_deref().unwrap_or_default();
        let input = self.input_hash.as_deref().unwrap_or_default();
        Ok(TaskFacts {
            task_id: TaskId(self.task_id),
            task_type: self.task_type.parse().map_err(wrong("task_type"))?,
            sub_model: self.sub_model.parse().map_err(wrong("sub_model"))?,
            model_version: model_version.parse().map_err(wrong("model_version"))?,
            model_sha256: self
                .model_sha256
                .iter()
                .map(|hash| hash.parse())
                .collect::<Result<_, _>>()
                .map_err(wrong("model_sha256"))?,
            input_sha256: input.parse().map_err(wrong("input_hash"))?,
            min_tier: self.min_tier.parse().map_err(wrong("min_tier"))?,
            max_tokens: self.max_tokens.unwrap_or(0).unsigned_abs(),
            seed: self
                .seed
                .as_deref()
                .and_then(|bytes| bytes.try_into().ok())
                .map_or(0, u64::from_be_bytes),
            streaming: self.streaming,
            request_key: self
                .request_key
                .as_deref()
                .and_then(|bytes| bytes.try_into().ok())
                .map(Sha256),
        })
    }

    pub(crate) fn loaded(&self) -> Result<LoadedTask, StoreError> {
        Ok(LoadedTask {
            facts: self.facts()?,
            task: self.task()?,
        })
    }
}

/// Loads a task and locks it until the transaction ends.
#[tracing::instrument(name = "db.task.load", skip_all, err, fields(task.id = %id))]
pub async fn task_load(tx: &mut Tx, id: TaskId) -> Result<Option<LoadedTask>, StoreError> {
    let row = sqlx::query_as!(
        TaskRow,
        "SELECT task_id, task_type, sub_model, model_version, model_sha256, input_hash, min_tier,
             max_tokens, seed, streaming, request_key, phase, lease_epoch, lease_node,
             lease_expires_at, lease_ms, attempts, max_attempts, tried_nodes, deadline_at,
             winner_node, winner_epoch, failure_code, NULL::bytea AS payload_ciphertext
         FROM tasks WHERE task_id = $1 FOR UPDATE",
        id.0
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    row.map(|row| row.loaded()).transpose()
}

/// What a task's end adds to its state.
#[derive(Clone, Copy, Debug)]
pub enum Ending<'a> {
    /// It goes on.
    None,
    /// Answered: the winning result and what is owed for it.
    Done {
        /// The winner's statement.
        statement: &'a TaskResultStatement,
        /// Owed.
        reward: owm_proto::Msat,
    },
    /// Ended without an answer; told to whoever asked.
    Unanswered {
        /// For people.
        message: &'a str,
    },
}

/// Saves what the domain made of a loaded task. A final phase ends the open attempts; an unanswered
/// one gives the request that one answer.
#[tracing::instrument(name = "db.task.save", skip_all, err, fields(task.id = %id))]
pub async fn task_save(
    tx: &mut Tx,
    id: TaskId,
    task: &Task,
    ending: Ending<'_>,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let (lease_node, lease_expires) = match task.phase {
        Phase::Leased { node, expires_at } => (Some(node.0), Some(to_pg(expires_at))),
        _ => (None, None),
    };
    let winner = match task.phase {
        Phase::Done { winner, epoch } => Some((winner.0, epoch.cast_signed())),
        _ => None,
    };
    let failure = match task.phase {
        Phase::Failed { code } => Some(code),
        _ => None,
    };
    let (said, reward) = match ending {
        Ending::Done { statement, reward } => (Some(statement), Some(reward)),
        _ => (None, None),
    };
    let message = match ending {
        Ending::Unanswered { message } => Some(message),
        _ => None,
    };
    let int = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let tried: Vec<Uuid> = task.tried.iter().map(|node| node.0).collect();
    let final_phase = task.phase.is_final();
    let done = sqlx::query!(
        "UPDATE tasks SET phase = $2, lease_epoch = $3, lease_node = $4, lease_expires_at = $5,
             attempts = $6, tried_nodes = $7, deadline_at = $8, winner_node = $9, winner_epoch = $10,
             failure_code = $11, failure_message = $12, output_hash = COALESCE($13, output_hash),
             reward_msat = COALESCE($14, reward_msat), finish_reason = COALESCE($15, finish_reason),
             prompt_tokens = COALESCE($16, prompt_tokens),
             output_tokens = COALESCE($17, output_tokens), exec_ms = COALESCE($18, exec_ms),
             completed_at = CASE WHEN $19 THEN COALESCE(completed_at, $20) END,
             payload_ciphertext = CASE WHEN $19 THEN NULL ELSE payload_ciphertext END
         WHERE task_id = $1",
        id.0,
        task.phase.as_str(),
        task.epoch.cast_signed(),
        lease_node,
        lease_expires,
        task.attempts.cast_signed(),
        &tried,
        to_pg(task.deadline_at),
        winner.map(|w| w.0),
        winner.map(|w| w.1),
        failure.map(FailureCode::as_str),
        message,
        said.map(|s| s.output_sha256.to_string()),
        reward.map(|r| r.0.cast_signed()),
        said.map(|s| finish_str(s.finish)),
        said.map(|s| int(s.prompt_tokens)),
        said.map(|s| int(s.output_tokens)),
        said.map(|s| i64::try_from(s.exec_ms).unwrap_or(i64::MAX)),
        final_phase,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "tasks", id)?;
    if final_phase {
        attempts_close(tx, &[id.0], now).await?;
    }
    if let Some(message) = message.filter(|_| final_phase) {
        // A failure holds no text.
        sqlx::query!("DELETE FROM task_chunks WHERE task_id = $1", id.0)
            .execute(&mut *tx.inner)
            .await?;
        let code = failure.map_or("cancelled", FailureCode::as_str);
        request_fail(tx, id, code, message, now).await?;
    }
    Ok(())
}

/// How an ending is stored and shown.
pub const fn finish_str(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

async fn request_fail(
    tx: &mut Tx,
    id: TaskId,
    code: &str,
    message: &str,
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE requests SET state = 'failed', answered_at = $2, error = $3, delete_after = $4
         WHERE task_id = $1 AND state = 'open'",
        id.0,
        to_pg(now),
        serde_json::json!({"code": code, "message": message}),
        to_pg(now.after(crate::request::FAILED_KEPT_FOR))
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// How many tasks wait, for one role.
#[tracing::instrument(name = "db.task.count_queued", skip_all, err)]
pub async fn task_count_queued(tx: &mut Tx, role: Role) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM tasks WHERE phase = 'queued' AND role = $1"#,
        role.as_str()
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(count.unsigned_abs())
}

/// Queued tasks past their deadline and leases past their time, oldest first; to be loaded one by one.
#[tracing::instrument(name = "db.task.list_due", skip_all, err)]
pub async fn task_list_due(
    tx: &mut Tx,
    now: UnixMillis,
    limit: u32,
) -> Result<Vec<TaskId>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"SELECT task_id AS "id!" FROM (
               (SELECT task_id, lease_expires_at AS due FROM tasks
                WHERE phase = 'leased' AND lease_expires_at < $1 ORDER BY lease_expires_at LIMIT $2)
               UNION ALL
               (SELECT task_id, deadline_at FROM tasks
                WHERE phase = 'queued' AND deadline_at <= $1 ORDER BY deadline_at LIMIT $2)
           ) AS due ORDER BY due LIMIT $2"#,
        to_pg(now),
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// A lease that a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// On which task.
    pub task_id: TaskId,
    /// Under which epoch.
    pub epoch: u64,
    /// What kind of work.
    pub task_type: TaskType,
}

/// Leases that a node holds, not locked: whoever ends one loads it again.
#[tracing::instrument(name = "db.task.list_leased_to", skip_all, err)]
pub async fn task_list_leased_to(tx: &mut Tx, node: NodeId) -> Result<Vec<HeldLease>, StoreError> {
    let rows = sqlx::query!(
        "SELECT task_id, lease_epoch, task_type FROM tasks
         WHERE phase = 'leased' AND lease_node = $1 ORDER BY task_id",
        node.0
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(HeldLease {
                task_id: TaskId(r.task_id),
                epoch: r.lease_epoch.unsigned_abs(),
                task_type: r
                    .task_type
                    .parse()
                    .map_err(|e: owm_proto::hash::ParseError| {
                        StoreError::inconsistent("tasks", "task_type", r.task_id, e)
                    })?,
            })
        })
        .collect()
}
