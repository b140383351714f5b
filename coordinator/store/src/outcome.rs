//! Attempts: loaded as the domain sees them, their commits, their ends, and what is booked for them.

use owm_coordinator_domain::task::{Attempt, Commit, Ended, HandBackReason, Outcome};
use owm_proto::{Envelope, NodeId, Sha256, TaskId, UnixMillis};
use uuid::Uuid;

use crate::{
    error::{StoreError, one_row},
    time::{from_pg, to_pg},
    tx::Tx,
};

fn hash_of(bytes: Option<Vec<u8>>) -> Option<Sha256> {
    bytes.and_then(|b| b.try_into().ok()).map(Sha256)
}

/// A row of `task_attempts`, as far as the rules look at it.
pub(crate) struct AttemptRow {
    pub(crate) task_id: Uuid,
    pub(crate) epoch: i64,
    pub(crate) node_id: Uuid,
    pub(crate) leased_at: time::OffsetDateTime,
    pub(crate) expires_at: time::OffsetDateTime,
    pub(crate) committed_at: Option<time::OffsetDateTime>,
    pub(crate) commit_hash: Option<Vec<u8>>,
    pub(crate) on_time: Option<bool>,
    pub(crate) ended_at: Option<time::OffsetDateTime>,
    pub(crate) outcome: Option<String>,
    pub(crate) result_hash: Option<Vec<u8>>,
}

impl AttemptRow {
    pub(crate) fn attempt(self) -> Result<Attempt, StoreError> {
        let commit = match (self.committed_at, hash_of(self.commit_hash)) {
            (Some(at), Some(result)) => Some(Commit {
                at: from_pg(at),
                result,
                on_time: self.on_time.unwrap_or(false),
            }),
            _ => None,
        };
        let ended = match (self.ended_at, self.outcome) {
            (Some(at), Some(outcome)) => {
                let task = self.task_id;
                let outcome =
                    outcome
                        .parse()
                        .map_err(|e: owm_coordinator_domain::UnknownName| {
                            StoreError::inconsistent("task_attempts", "outcome", task, e)
                        })?;
                Some(Ended {
                    at: from_pg(at),
                    outcome,
                })
            }
            _ => None,
        };
        Ok(Attempt {
            epoch: self.epoch.unsigned_abs(),
            node: NodeId(self.node_id),
            leased_at: from_pg(self.leased_at),
            expires_at: from_pg(self.expires_at),
            commit,
            ended,
            result: hash_of(self.result_hash),
        })
    }
}

/// Loads the attempt under `epoch`, locked.
#[tracing::instrument(name = "db.attempt.load", skip_all, err, fields(task.id = %task))]
pub async fn attempt_load(
    tx: &mut Tx,
    task: TaskId,
    epoch: u64,
) -> Result<Option<Attempt>, StoreError> {
    let row = sqlx::query_as!(
        AttemptRow,
        "SELECT task_id, epoch, node_id, leased_at, expires_at, committed_at, commit_hash, on_time,
             ended_at, outcome, result_hash
         FROM task_attempts WHERE task_id = $1 AND epoch = $2 FOR UPDATE",
        task.0,
        epoch.cast_signed()
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    row.map(AttemptRow::attempt).transpose()
}

/// Attempts of ended tasks that are still open end with them, but for one that committed on time: its
/// result may come and be booked as late.
pub(crate) async fn attempts_close(
    tx: &mut Tx,
    tasks: &[Uuid],
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE task_attempts SET ended_at = $2, outcome = 'cancelled', reason = 'the task has ended'
         WHERE task_id = ANY($1) AND ended_at IS NULL AND on_time IS NOT TRUE",
        tasks,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// Records the first commit of an attempt.
#[tracing::instrument(name = "db.attempt.record_commit", skip_all, err, fields(task.id = %task))]
pub async fn commit_record(
    tx: &mut Tx,
    task: TaskId,
    epoch: u64,
    commit: &Commit,
    envelope: &Envelope,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "UPDATE task_attempts SET committed_at = $3, commit_hash = $4, commit_envelope = $5, on_time = $6
         WHERE task_id = $1 AND epoch = $2 AND committed_at IS NULL",
        task.0,
        epoch.cast_signed(),
        to_pg(commit.at),
        commit.result.as_bytes().to_vec(),
        envelope.to_stored(),
        commit.on_time
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "task_attempts", task)
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug)]
pub struct AttemptEnd<'a> {
    /// How.
    pub outcome: Outcome,
    /// Why, in words.
    pub reason: &'a str,
    /// For [`Outcome::HandedBack`].
    pub hand_back: Option<HandBackReason>,
    /// The result that was decided on, with its hash.
    pub result: Option<(Sha256, &'a Envelope)>,
}

impl AttemptEnd<'_> {
    /// Whether it counts for the node's reliability, and as what. Giving back before any work doesn't.
    const fn counts(&self) -> Option<bool> {
        match (self.outcome, self.hand_back) {
            (Outcome::Accepted | Outcome::Late, _) => Some(true),
            (Outcome::Rejected | Outcome::Expired | Outcome::Lost, _)
            | (Outcome::HandedBack, Some(HandBackReason::Failed)) => Some(false),
            _ => None,
        }
    }
}

/// Ends an attempt and counts it for its node. One that committed on time stays open when its task is
/// ended by others; one that expired or was lost counts as failed until its valid result comes.
#[tracing::instrument(name = "db.attempt.end", skip_all, err, fields(task.id = %task))]
pub async fn attempt_end(
    tx: &mut Tx,
    task: TaskId,
    attempt: &Attempt,
    end: &AttemptEnd<'_>,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let waits_for_result =
        attempt.commit.is_some_and(|commit| commit.on_time) && end.outcome == Outcome::Cancelled;
    if waits_for_result || (attempt.ended.is_some() && end.result.is_none()) {
        return Ok(());
    }
    let done = sqlx::query!(
        "UPDATE task_attempts SET ended_at = COALESCE(ended_at, $3), outcome = $4, reason = $5, late = $6,
             hand_back_reason = $7, result_hash = $8, result_envelope = $9,
             result_at = CASE WHEN $8::bytea IS NULL THEN NULL ELSE $3::timestamptz END
         WHERE task_id = $1 AND epoch = $2 AND result_hash IS NULL",
        task.0,
        attempt.epoch.cast_signed(),
        to_pg(now),
        end.outcome.as_str(),
        end.reason,
        end.outcome == Outcome::Late,
        end.hand_back.map(HandBackReason::as_str),
        end.result.map(|(hash, _)| hash.as_bytes().to_vec()),
        end.result.map(|(_, envelope)| envelope.to_stored())
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "task_attempts", task)?;
    let Some(succeeded) = end.counts() else {
        return Ok(());
    };
    let counted_before = attempt
        .ended
        .is_some_and(|ended| matches!(ended.outcome, Outcome::Expired | Outcome::Lost));
    let done = sqlx::query!(
        "UPDATE nodes SET tasks_total = tasks_total + CASE WHEN $3 THEN 0 ELSE 1 END,
             tasks_succeeded = tasks_succeeded + CASE WHEN $2 THEN 1 ELSE 0 END
         WHERE node_id = $1",
        attempt.node.0,
        succeeded,
        counted_before
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "nodes", attempt.node)
}
