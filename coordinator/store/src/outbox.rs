//! The outbox: what is to happen outside the database, written in the transaction that decided it and
//! done after its commit, at least once. Whatever handles an item must bear doing it twice.

use owm_proto::UnixMillis;

use crate::{
    error::{StoreError, one_row},
    time::to_pg,
    tx::Tx,
};

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxItem {
    /// The row.
    pub id: i64,
    /// What is to be done.
    pub kind: String,
    /// With what; ids and hashes, never users' text.
    pub payload: serde_json::Value,
    /// Tries so far.
    pub attempts: u32,
}

/// Adds an item; it happens if and only if the transaction commits.
#[tracing::instrument(name = "db.outbox.add", skip_all, err)]
pub async fn outbox_add(
    tx: &mut Tx,
    kind: &str,
    payload: &serde_json::Value,
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO outbox (kind, payload, created_at, next_attempt_at) VALUES ($1, $2, $3, $3)",
        kind,
        payload,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// Locks items that are due; other coordinators skip them. Claimed by lock, never by id order: later ids
/// may commit earlier.
#[tracing::instrument(name = "db.outbox.claim", skip_all, err)]
pub async fn outbox_claim(
    tx: &mut Tx,
    now: UnixMillis,
    limit: u32,
) -> Result<Vec<OutboxItem>, StoreError> {
    let rows = sqlx::query!(
        "SELECT id, kind, payload, attempts FROM outbox
         WHERE done_at IS NULL AND next_attempt_at <= $1
         ORDER BY next_attempt_at, id LIMIT $2 FOR UPDATE SKIP LOCKED",
        to_pg(now),
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    Ok(rows
        .into_iter()
        .map(|r| OutboxItem {
            id: r.id,
            kind: r.kind,
            payload: r.payload,
            attempts: r.attempts.unsigned_abs(),
        })
        .collect())
}

/// An item is done.
#[tracing::instrument(name = "db.outbox.finish", skip_all, err)]
pub async fn outbox_finish(tx: &mut Tx, id: i64, now: UnixMillis) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "UPDATE outbox SET done_at = $2, attempts = attempts + 1 WHERE id = $1 AND done_at IS NULL",
        id,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "outbox", id)
}

/// An item could not be done; it is due again at `next`.
#[tracing::instrument(name = "db.outbox.postpone", skip_all, err)]
pub async fn outbox_postpone(
    tx: &mut Tx,
    id: i64,
    reason: &str,
    next: UnixMillis,
) -> Result<(), StoreError> {
    let done = sqlx::query!(
        "UPDATE outbox SET attempts = attempts + 1, last_error = $2, next_attempt_at = $3 WHERE id = $1",
        id,
        reason,
        to_pg(next)
    )
    .execute(&mut *tx.inner)
    .await?;
    one_row(done.rows_affected(), "outbox", id)
}

/// Forgets items done before `before`.
#[tracing::instrument(name = "db.outbox.prune", skip_all, err)]
pub async fn outbox_prune(tx: &mut Tx, before: UnixMillis) -> Result<u64, StoreError> {
    let done = sqlx::query!("DELETE FROM outbox WHERE done_at < $1", to_pg(before))
        .execute(&mut *tx.inner)
        .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;
    use crate::tx::Store;

    #[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
    async fn an_item_happens_only_if_its_transaction_commits(pool: PgPool) {
        let store = Store::from_pool(pool);
        let payload = serde_json::json!({"n": 1});
        let mut tx = store.begin("test").await.unwrap();
        outbox_add(&mut tx, "a", &payload, UnixMillis(1_000))
            .await
            .unwrap();
        drop(tx);
        let mut tx = store.begin("test").await.unwrap();
        assert_eq!(
            outbox_claim(&mut tx, UnixMillis(2_000), 10).await.unwrap(),
            []
        );
        outbox_add(&mut tx, "a", &payload, UnixMillis(1_000))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.begin("test").await.unwrap();
        let due = outbox_claim(&mut tx, UnixMillis(2_000), 10).await.unwrap();
        assert_eq!(due.len(), 1);
        let mut other = store.begin("test").await.unwrap();
        let beside = outbox_claim(&mut other, UnixMillis(2_000), 10)
            .await
            .unwrap();
        assert_eq!(beside, [], "claimed by the first");
        outbox_postpone(&mut tx, due[0].id, "not yet", UnixMillis(5_000))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.begin("test").await.unwrap();
        assert_eq!(
            outbox_claim(&mut tx, UnixMillis(4_999), 10).await.unwrap(),
            []
        );
        let due = outbox_claim(&mut tx, UnixMillis(5_000), 10).await.unwrap();
        assert_eq!(due[0].attempts, 1);
        outbox_finish(&mut tx, due[0].id, UnixMillis(6_000))
            .await
            .unwrap();
        assert_eq!(
            outbox_claim(&mut tx, UnixMillis(9_000), 10).await.unwrap(),
            []
        );
        assert_eq!(outbox_prune(&mut tx, UnixMillis(6_001)).await.unwrap(), 1);
    }
}
