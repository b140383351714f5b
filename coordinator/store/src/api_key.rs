//! API keys: only their hashes are kept.

use owm_proto::{Sha256, UnixMillis};
use uuid::Uuid;

use crate::{error::StoreError, time::to_pg, tx::Tx};

/// Adds a key by the SHA-256 of its text.
#[tracing::instrument(name = "db.api_key.create", skip_all, err)]
pub async fn api_key_create(
    tx: &mut Tx,
    id: Uuid,
    hash: &Sha256,
    name: &str,
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO api_keys (key_id, key_hash, name, created_at) VALUES ($1, $2, $3, $4)",
        id,
        &hash.as_bytes()[..],
        name,
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// The id of a key that is not revoked.
#[tracing::instrument(name = "db.api_key.lookup", skip_all, err)]
pub async fn api_key_lookup(tx: &mut Tx, hash: &Sha256) -> Result<Option<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        "SELECT key_id FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL",
        &hash.as_bytes()[..]
    )
    .fetch_optional(&mut *tx.inner)
    .await?)
}
