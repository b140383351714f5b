//! First valid results, many at a time: everything that judging them needs is loaded and locked in four
//! statements, everything that follows is written in six. The rules are those of single results
//! (`outcome`, `task`, `ledger`, `request`), and so are the constraints that hold them.
//!
//! Locks are taken in one order by everybody: tasks, attempts, nodes, each by its id.

use std::collections::{BTreeMap, HashMap};

use owm_coordinator_domain::task::{Attempt, Commit, Outcome};
use owm_proto::{
    Envelope, Msat, NodeId, RequestId, Sha256, TaskId, UnixMillis, statement::TaskResultStatement,
};
use uuid::Uuid;

use crate::{
    error::StoreError,
    ledger::LedgerEvent,
    node::{Node, nodes_lock},
    outcome::{AttemptRow, attempts_close},
    request::{OpenRequest, UNDELIVERED_KEPT_FOR, open_request, sealed_row},
    task::{LoadedTask, TaskRow, finish_str},
    time::to_pg,
    tx::Tx,
    vault::Vault,
};

/// A result to be judged, by what it was leased under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultKey {
    /// The task.
    pub task_id: TaskId,
    /// The lease.
    pub epoch: u64,
    /// Who hands it in.
    pub node: NodeId,
}

/// All that judging a batch of results needs, locked.
#[derive(Debug, Default)]
pub struct ResultsLoaded {
    /// Tasks by id.
    pub tasks: HashMap<TaskId, LoadedTask>,
    /// Attempts of the named leases, by task.
    pub attempts: HashMap<TaskId, Attempt>,
    /// The nodes that hand in.
    pub nodes: HashMap<NodeId, Node>,
    /// Requests that wait for an answer, by task.
    pub requests: HashMap<TaskId, OpenRequest>,
}

/// Loads and locks. At most one key per task: which of two is first is decided one after the other.
#[tracing::instrument(name = "db.results.load", skip_all, err, fields(results = keys.len()))]
pub async fn results_load(
    tx: &mut Tx,
    vault: &Vault,
    keys: &[ResultKey],
) -> Result<ResultsLoaded, StoreError> {
    let ids: Vec<_> = keys.iter().map(|key| key.task_id.0).collect();
    let mut all = ResultsLoaded::default();
    let rows = sqlx::query_as!(
        TaskRow,
        "SELECT task_id, task_type, sub_model, model_version, model_sha256, input_hash, min_tier,
             max_tokens, seed, streaming, request_key, phase, lease_epoch, lease_node,
             lease_expires_at, lease_ms, attempts, max_attempts, tried_nodes, deadline_at,
             winner_node, winner_epoch, failure_code, NULL::bytea AS payload_ciphertext
         FROM tasks WHERE task_id = ANY($1) ORDER BY task_id FOR UPDATE",
        &ids
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    for row in rows {
        all.tasks.insert(TaskId(row.task_id), row.loaded()?);
    }
    let epochs: Vec<_> = keys.iter().map(|key| key.epoch.cast_signed()).collect();
    let rows = sqlx::query_as!(
        AttemptRow,
        "SELECT task_id, epoch, node_id, leased_at, expires_at, committed_at, commit_hash, on_time,
             ended_at, outcome, result_hash
         FROM task_attempts
         WHERE (task_id, epoch) IN (SELECT * FROM unnest($1::uuid[], $2::bigint[]))
         ORDER BY task_id FOR UPDATE",
        &ids,
        &epochs
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    for row in rows {
        all.attempts.insert(TaskId(row.task_id), row.attempt()?);
    }
    let nodes: Vec<_> = keys.iter().map(|key| key.node).collect();
    all.nodes = nodes_lock(tx, &nodes).await?;
    let rows = sqlx::query!(
        "SELECT task_id, request_key, id_ciphertext, created_at FROM requests
         WHERE task_id = ANY($1) AND state = 'open'",
        &ids
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    for r in rows {
        let task = TaskId(r.task_id);
        let open = open_request(vault, task, r.request_key, r.id_ciphertext, r.created_at)?;
        all.requests.insert(task, open);
    }
    Ok(all)
}

/// A first valid result, decided, to be written.
#[derive(Debug)]
pub struct ResultAccepted<'a> {
    /// The task.
    pub task_id: TaskId,
    /// Its attempt, with the commit that stands, as loaded otherwise.
    pub attempt: &'a Attempt,
    /// The standing commit.
    pub commit: &'a Commit,
    /// The envelope that came with it; kept if no other commit came first.
    pub commit_envelope: &'a Envelope,
    /// What the node says.
    pub statement: &'a TaskResultStatement,
    /// As it was signed.
    pub envelope: &'a Envelope,
    /// SHA-256 of the result's exact payload bytes.
    pub hash: Sha256,
    /// Whether other attempts may be open.
    pub others: bool,
    /// Owed.
    pub reward: Msat,
    /// The booking, where something is owed.
    pub booking: Option<LedgerEvent>,
    /// The request that is answered, if one waits.
    pub answer: Option<AnswerGiven>,
}

/// A request's one answer.
#[derive(Clone, Debug)]
pub struct AnswerGiven {
    /// Which request.
    pub id: RequestId,
    /// The exact JSON bytes that every reader gets.
    pub answer: Vec<u8>,
    /// The countersigned receipt.
    pub receipt: Envelope,
}

/// Writes accepted results: attempts and tasks ended, work counted and booked, requests answered.
/// Whatever does not fit (a second winner, a changed answer) fails the whole batch.
#[tracing::instrument(name = "db.results.accept", skip_all, err, fields(results = all.len()))]
pub async fn results_accept(
    tx: &mut Tx,
    vault: &Vault,
    all: &[ResultAccepted<'_>],
    now: UnixMillis,
) -> Result<(), StoreError> {
    attempts_accept(tx, all, now).await?;
    tasks_done(tx, all, now).await?;
    let others = all.iter().filter(|r| r.others).map(|r| r.task_id.0);
    let others: Vec<Uuid> = others.collect();
    if !others.is_empty() {
        attempts_close(tx, &others, now).await?;
    }
    nodes_credit(tx, all).await?;
    let bookings: Vec<&LedgerEvent> = all.iter().filter_map(|r| r.booking.as_ref()).collect();
    crate::ledger::ledger_book_all(tx, &bookings, now).await?;
    requests_answer(tx, vault, all, now).await
}

fn all_written(written: u64, wanted: usize, table: &'static str) -> Result<(), StoreError> {
    if written == wanted as u64 {
        return Ok(());
    }
    let reason = format!("{written} of {wanted} rows of a batch written");
    Err(StoreError::inconsistent(table, "*", "batch", reason))
}

async fn attempts_accept(
    tx: &mut Tx,
    all: &[ResultAccepted<'_>],
    now: UnixMillis,
) -> Result<(), StoreError> {
    macro_rules! column {
        (|$r:ident| $value:expr) => {
            all.iter().map(|$r| $value).collect::<Vec<_>>()
        };
    }
    let done = sqlx::query!(
        "UPDATE task_attempts a SET committed_at = COALESCE(a.committed_at, r.committed),
             commit_hash = COALESCE(a.commit_hash, r.commit_hash),
             commit_envelope = COALESCE(a.commit_envelope, r.commit_envelope),
             on_time = COALESCE(a.on_time, r.on_time), ended_at = COALESCE(a.ended_at, $9),
             outcome = $10, reason = '', late = FALSE, hand_back_reason = NULL,
             result_hash = r.result_hash, result_envelope = r.result_envelope, result_at = $9
         FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::bytea[], $5::bytea[], $6::bool[],
             $7::bytea[], $8::bytea[])
             AS r(task, epoch, committed, commit_hash, commit_envelope, on_time, result_hash,
                  result_envelope)
         WHERE a.task_id = r.task AND a.epoch = r.epoch AND a.result_hash IS NULL",
        &column!(|r| r.task_id.0),
        &column!(|r| r.attempt.epoch.cast_signed()),
        &column!(|r| to_pg(r.commit.at)),
        &column!(|r| r.commit.result.as_bytes().to_vec()),
        &column!(|r| r.commit_envelope.to_stored()),
        &column!(|r| r.commit.on_time),
        &column!(|r| r.hash.as_bytes().to_vec()),
        &column!(|r| r.envelope.to_stored()),
        to_pg(now),
        Outcome::Accepted.as_str()
    )
    .execute(&mut *tx.inner)
    .await?;
    all_written(done.rows_affected(), all.len(), "task_attempts")
}

async fn tasks_done(
    tx: &mut Tx,
    all: &[ResultAccepted<'_>],
    now: UnixMillis,
) -> Result<(), StoreError> {
    macro_rules! column {
        (|$r:ident| $value:expr) => {
            all.iter().map(|$r| $value).collect::<Vec<_>>()
        };
    }
    let int = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let done = sqlx::query!(
        "UPDATE tasks t SET phase = 'done', lease_node = NULL, lease_expires_at = NULL,
             winner_node = r.node, winner_epoch = r.epoch, output_hash = r.output,
             reward_msat = r.reward, finish_reason = r.finish, prompt_tokens = r.prompt,
             output_tokens = r.tokens, exec_ms = r.exec_ms, completed_at = COALESCE(completed_at, $10),
             payload_ciphertext = NULL
         FROM unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::text[],
             $7::int[], $8::int[], $9::bigint[])
             AS r(task, node, epoch, output, reward, finish, prompt, tokens, exec_ms)
         WHERE t.task_id = r.task AND t.phase IN ('queued', 'leased')",
        &column!(|r| r.task_id.0),
        &column!(|r| r.attempt.node.0),
        &column!(|r| r.attempt.epoch.cast_signed()),
        &column!(|r| r.statement.output_sha256.to_string()),
        &column!(|r| r.reward.0.cast_signed()),
        &column!(|r| finish_str(r.statement.finish).to_owned()),
        &column!(|r| int(r.statement.prompt_tokens)),
        &column!(|r| int(r.statement.output_tokens)),
        &column!(|r| i64::try_from(r.statement.exec_ms).unwrap_or(i64::MAX)),
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    all_written(done.rows_affected(), all.len(), "tasks")
}

/// Counts and sums per node, so that a node that hands in ten results is written once.
async fn nodes_credit(tx: &mut Tx, all: &[ResultAccepted<'_>]) -> Result<(), StoreError> {
    let mut sums: BTreeMap<Uuid, (i64, i64, i64)> = BTreeMap::new();
    for result in all {
        // One that expired or was lost was counted then, as failed.
        let counted = result
            .attempt
            .ended
            .is_some_and(|ended| matches!(ended.outcome, Outcome::Expired | Outcome::Lost));
        let owed = result.booking.as_ref().map_or(0, |event| event.amount.0);
        let sum = sums.entry(result.attempt.node.0).or_default();
        sum.0 += i64::from(!counted);
        sum.1 += 1;
        sum.2 += owed.cast_signed();
    }
    let nodes: Vec<_> = sums.keys().copied().collect();
    let done = sqlx::query!(
        "UPDATE nodes n SET tasks_total = tasks_total + s.total,
             tasks_succeeded = tasks_succeeded + s.succeeded, earned_msat = earned_msat + s.earned
         FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[])
             AS s(node, total, succeeded, earned)
         WHERE n.node_id = s.node",
        &nodes,
        &sums.values().map(|sum| sum.0).collect::<Vec<_>>(),
        &sums.values().map(|sum| sum.1).collect::<Vec<_>>(),
        &sums.values().map(|sum| sum.2).collect::<Vec<_>>()
    )
    .execute(&mut *tx.inner)
    .await?;
    all_written(done.rows_affected(), nodes.len(), "nodes")
}

async fn requests_answer(
    tx: &mut Tx,
    vault: &Vault,
    all: &[ResultAccepted<'_>],
    now: UnixMillis,
) -> Result<(), StoreError> {
    let given: Vec<(&AnswerGiven, &Sha256)> = all
        .iter()
        .filter_map(|r| Some((r.answer.as_ref()?, &r.statement.output_sha256)))
        .collect();
    macro_rules! column {
        (|$a:ident, $key:ident| $value:expr) => {
            given
                .iter()
                .map(|($a, _)| {
                    let $key = $a.id.key();
                    $value
                })
                .collect::<Vec<_>>()
        };
    }
    let receipt = |a: &AnswerGiven| Sha256::of(a.receipt.unverified_payload());
    let done =
        sqlx::query!(
        "UPDATE requests q SET state = 'answered', answered_at = $6, answer_ciphertext = r.answer,
             answer_hash = r.output, receipt_ciphertext = r.receipt, receipt_hash = r.receipt_hash,
             delete_after = $7
         FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bytea[])
             AS r(key, answer, output, receipt, receipt_hash)
         WHERE q.request_key = r.key AND q.state = 'open'",
        &column!(|_a, key| key.as_bytes().to_vec()),
        &column!(|a, key| vault.close(&sealed_row(&key, "answer"), &a.answer)),
        &given.iter().map(|(_, output)| output.as_bytes().to_vec()).collect::<Vec<_>>(),
        &column!(|a, key| vault.close(&sealed_row(&key, "receipt"), &a.receipt.to_stored())),
        &column!(|a, _key| receipt(a).as_bytes().to_vec()),
        to_pg(now),
        to_pg(now.after(UNDELIVERED_KEPT_FOR))
    )
        .execute(&mut *tx.inner)
        .await?;
    all_written(done.rows_affected(), given.len(), "requests")
}
