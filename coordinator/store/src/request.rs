//! Public requests: exactly one answer each, encrypted at rest, the same for every reader, and gone
//! ten minutes after delivery. Keyed by the hash of the request id, which is itself the capability.

use std::time::Duration;

use owm_proto::{Envelope, RequestId, Sha256, TaskId, UnixMillis};
use uuid::Uuid;

use crate::{
    error::{StoreError, one_row},
    time::{from_pg, to_pg},
    tx::Tx,
    vault::Vault,
};

/// An answer is deleted this long after it was first delivered (spec §5).
pub const DELIVERED_KEPT_FOR: Duration = Duration::from_mins(10);

/// An answer that nobody fetches is deleted after this.
pub const UNDELIVERED_KEPT_FOR: Duration = Duration::from_hours(24);

/// A failure holds no text; it is kept as long as an undelivered answer.
pub const FAILED_KEPT_FOR: Duration = UNDELIVERED_KEPT_FOR;

/// What is on record about a request.
#[derive(Clone, Debug)]
pub enum RequestState {
    /// Not answered yet.
    Open,
    /// Answered: the exact JSON bytes that every reader gets, and the countersigned receipt.
    Answered {
        /// The answer's JSON.
        answer: Vec<u8>,
        /// The receipt.
        receipt: Envelope,
    },
    /// Ended without an answer.
    Failed {
        /// `{code, message}`.
        error: serde_json::Value,
    },
    /// Answered once, and deleted since.
    Deleted,
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The task behind it.
    pub task_id: TaskId,
    /// Who asked; nobody else may read.
    pub api_key: Option<Uuid>,
    /// When.
    pub created_at: UnixMillis,
    /// What came of it.
    pub state: RequestState,
}

pub(crate) fn sealed_row(key: &Sha256, part: &str) -> Vec<u8> {
    [b"requests.", part.as_bytes(), b":", key.as_bytes()].concat()
}

/// The request id as it is kept: under the data key.
pub(crate) fn seal_id(vault: &Vault, id: &RequestId) -> Vec<u8> {
    vault.close(&sealed_row(&id.key(), "id"), id.reveal().as_bytes())
}

/// An open request: what its answer has to name.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest {
    /// Its id.
    pub id: RequestId,
    /// When it was asked.
    pub created_at: UnixMillis,
}

/// The open request that a task answers.
#[tracing::instrument(name = "db.request.open_of_task", skip_all, err)]
pub async fn request_open_of_task(
    tx: &mut Tx,
    vault: &Vault,
    task: TaskId,
) -> Result<Option<OpenRequest>, StoreError> {
    let found = sqlx::query!(
        "SELECT request_key, id_ciphertext, created_at FROM requests
         WHERE task_id = $1 AND state = 'open'",
        task.0
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    let Some(r) = found else { return Ok(None) };
    open_request(vault, task, r.request_key, r.id_ciphertext, r.created_at).map(Some)
}

/// An open request's row, its id opened.
pub(crate) fn open_request(
    vault: &Vault,
    task: TaskId,
    key: Vec<u8>,
    sealed: Option<Vec<u8>>,
    created_at: time::OffsetDateTime,
) -> Result<OpenRequest, StoreError> {
    let wrong = |column| StoreError::inconsistent("requests", column, task, "malformed");
    let key = key
        .try_into()
        .map(Sha256)
        .map_err(|_| wrong("request_key"))?;
    let sealed = sealed.ok_or_else(|| wrong("id_ciphertext"))?;
    let text = vault.open("requests.id", &sealed_row(&key, "id"), &sealed)?;
    let id = String::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| wrong("id_ciphertext"))?;
    Ok(OpenRequest {
        id,
        created_at: from_pg(created_at),
    })
}

/// Gives an open request its one answer: the exact JSON bytes that every reader gets, the hash of the
/// answer's text, the countersigned receipt.
#[tracing::instrument(name = "db.request.answer", skip_all, err)]
pub async fn request_answer(
    tx: &mut Tx,
    vault: &Vault,
    id: &RequestId,
    answer: &[u8],
    output: &Sha256,
    receipt: &Envelope,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let key = id.key();
    let done = sqlx::query!(
        "UPDATE requests SET state = 'answered', answered_at = $2, answer_ciphertext = $3,
             answer_hash = $4, receipt_ciphertext = $5, receipt_hash = $6, delete_after = $7
         WHERE request_key = $1 AND state = 'open'",
        key.as_bytes().to_vec(),
        to_pg(now),
        vault.close(&sealed_row(&key, "answer"), answer),
        output.as_bytes().to_vec(),
        vault.close(&sealed_row(&key, "receipt"), &receipt.to_stored()),
        Sha256::of(receipt.unverified_payload()).as_bytes().to_vec(),
        to_pg(now.after(UNDELIVERED_KEPT_FOR))
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "requests", key)
}

/// Looks a request up by its id.
#[tracing::instrument(name = "db.request.lookup", skip_all, err)]
pub async fn request_lookup(
    tx: &mut Tx,
    vault: &Vault,
    id: &RequestId,
) -> Result<Option<Request>, StoreError> {
    let key = id.key();
    let row = sqlx::query!(
        "SELECT task_id, api_key_id, state, created_at, answer_ciphertext, receipt_ciphertext, error,
             deleted_at
         FROM requests WHERE request_key = $1",
        &key.as_bytes()[..]
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    let Some(r) = row else { return Ok(None) };
    let wrong = |column, why: &str| StoreError::inconsistent("requests", column, key, why);
    let state = match r.state.as_str() {
        _ if r.deleted_at.is_some() => RequestState::Deleted,
        "open" => RequestState::Open,
        "answered" => {
            let sealed = r
                .answer_ciphertext
                .ok_or_else(|| wrong("answer_ciphertext", "missing"))?;
            let answer = vault.open("requests.answer", &sealed_row(&key, "answer"), &sealed)?;
            let sealed = r
                .receipt_ciphertext
                .ok_or_else(|| wrong("receipt_ciphertext", "missing"))?;
            let stored = vault.open("requests.receipt", &sealed_row(&key, "receipt"), &sealed)?;
            let receipt = Envelope::from_stored(&stored)
                .map_err(|e| StoreError::inconsistent("requests", "receipt_ciphertext", key, e))?;
            RequestState::Answered { answer, receipt }
        }
        _ => RequestState::Failed {
            error: r.error.unwrap_or_default(),
        },
    };
    Ok(Some(Request {
        task_id: TaskId(r.task_id),
        api_key: r.api_key_id,
        created_at: from_pg(r.created_at),
        state,
    }))
}

/// Starts the ten minutes after which a delivered answer is deleted.
#[tracing::instrument(name = "db.request.mark_delivered", skip_all, err)]
pub async fn request_mark_delivered(
    tx: &mut Tx,
    id: &RequestId,
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE requests SET delivered_at = $2, delete_after = LEAST(delete_after, $3)
         WHERE request_key = $1 AND state <> 'open' AND delivered_at IS NULL",
        id.key().as_bytes().to_vec(),
        to_pg(now),
        to_pg(now.after(DELIVERED_KEPT_FOR))
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// The same for many, locked in one order.
#[tracing::instrument(name = "db.request.mark_all_delivered", skip_all, err)]
pub async fn requests_mark_delivered(
    tx: &mut Tx,
    ids: &[RequestId],
    now: UnixMillis,
) -> Result<(), StoreError> {
    let keys: Vec<_> = ids.iter().map(|id| id.key().as_bytes().to_vec()).collect();
    sqlx::query!(
        "UPDATE requests SET delivered_at = $2, delete_after = LEAST(delete_after, $3)
         WHERE request_key IN (SELECT request_key FROM requests
             WHERE request_key = ANY($1) AND state <> 'open' AND delivered_at IS NULL
             ORDER BY request_key FOR UPDATE)",
        &keys,
        to_pg(now),
        to_pg(now.after(DELIVERED_KEPT_FOR))
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// Deletes what is due: answers and receipts, the payloads and chunks of their tasks. Hashes stay.
#[tracing::instrument(name = "db.request.purge", skip_all, err)]
pub async fn request_purge(tx: &mut Tx, now: UnixMillis, limit: u32) -> Result<u64, StoreError> {
    let tasks = sqlx::query_scalar!(
        "UPDATE requests SET id_ciphertext = NULL, answer_ciphertext = NULL, receipt_ciphertext = NULL,
             deleted_at = $1
         WHERE request_key IN (SELECT request_key FROM requests
             WHERE deleted_at IS NULL AND delete_after <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED)
         RETURNING task_id",
        to_pg(now),
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    sqlx::query!("DELETE FROM task_chunks WHERE task_id = ANY($1)", &tasks)
        .execute(&mut *tx.inner)
        .await?;
    sqlx::query!(
        "UPDATE tasks SET payload_ciphertext = NULL WHERE task_id = ANY($1)",
        &tasks
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(tasks.len() as u64)
}
