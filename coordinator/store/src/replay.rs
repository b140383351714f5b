//! Replay protection (spec §5): sequences of state messages, first answers of requests.

use owm_proto::{PublicKey, Purpose, Sha256, UnixMillis};

use crate::{error::StoreError, time::to_pg, tx::Tx};

/// What a state message's sequence says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// Higher than all before: news.
    New,
    /// Equal to the last: a duplicate.
    Duplicate,
    /// Lower: stale.
    Stale,
}

/// Advances the sequence of (key, purpose), or says why not.
#[tracing::instrument(name = "db.replay.sequence_advance", skip_all, err)]
pub async fn sequence_advance(
    tx: &mut Tx,
    key: &PublicKey,
    purpose: Purpose,
    sequence: u64,
    now: UnixMillis,
) -> Result<Sequence, StoreError> {
    let Ok(sequence) = i64::try_from(sequence) else {
        return Ok(Sequence::Stale);
    };
    let advanced = sqlx::query_scalar!(
        "INSERT INTO envelope_sequences (public_key, purpose, sequence, seen_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (public_key, purpose) DO UPDATE
             SET sequence = EXCLUDED.sequence, seen_at = EXCLUDED.seen_at
             WHERE envelope_sequences.sequence < EXCLUDED.sequence
         RETURNING sequence",
        key.to_string(),
        purpose.as_str(),
        sequence,
        to_pg(now)
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    if advanced.is_some() {
        return Ok(Sequence::New);
    }
    let last = sqlx::query_scalar!(
        "SELECT sequence FROM envelope_sequences WHERE public_key = $1 AND purpose = $2",
        key.to_string(),
        purpose.as_str()
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(if last == sequence {
        Sequence::Duplicate
    } else {
        Sequence::Stale
    })
}

/// What is known about a request id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// Never seen.
    New,
    /// This very body was answered with these bytes.
    Answered(Vec<u8>),
    /// The id was used for another body.
    Conflict,
}

/// The first answer to a request, if there was one. Locks the id until the transaction ends.
#[tracing::instrument(name = "db.replay.request_recall", skip_all, err)]
pub async fn request_recall(
    tx: &mut Tx,
    key: &PublicKey,
    purpose: Purpose,
    request_id: &[u8; 16],
    body: &Sha256,
) -> Result<Remembered, StoreError> {
    let lock = i64::from_le_bytes(request_id[..8].try_into().expect("eight of sixteen bytes"));
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", lock)
        .execute(&mut *tx.inner)
        .await?;
    let row = sqlx::query!(
        "SELECT body_hash, response FROM request_log
         WHERE public_key = $1 AND purpose = $2 AND request_id = $3",
        key.to_string(),
        purpose.as_str(),
        &request_id[..]
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    Ok(match row {
        None => Remembered::New,
        Some(row) if row.body_hash == body.as_bytes() => Remembered::Answered(row.response),
        Some(_) => Remembered::Conflict,
    })
}

/// Remembers the first answer to a request.
#[tracing::instrument(name = "db.replay.request_remember", skip_all, err)]
pub async fn request_remember(
    tx: &mut Tx,
    key: &PublicKey,
    purpose: Purpose,
    request_id: &[u8; 16],
    body: &Sha256,
    response: &[u8],
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO request_log (public_key, purpose, request_id, body_hash, response, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
        key.to_string(),
        purpose.as_str(),
        &request_id[..],
        &body.as_bytes()[..],
        response,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// Forgets request ids older than `before`; their bodies have expired long since.
#[tracing::instrument(name = "db.replay.requests_prune", skip_all, err)]
pub async fn requests_prune(tx: &mut Tx, before: UnixMillis) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM request_log WHERE created_at < $1",
        to_pg(before)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(done.rows_affected())
}
