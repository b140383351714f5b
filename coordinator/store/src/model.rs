//! Model versions: signed manifests, which one is current, and which files the object store has.

use owm_proto::{
    Envelope, FileSpec, PublicKey, Purpose, Sha256, UnixMillis, VersionId, manifest::Manifest,
};

use crate::{
    error::StoreError,
    time::{from_pg, to_pg},
    tx::Tx,
};

/// A published version.
#[derive(Clone, Debug)]
pub struct ModelVersion {
    /// The parsed manifest.
    pub manifest: Manifest,
    /// As it was signed.
    pub envelope: Envelope,
    /// When it was published here.
    pub created_at: UnixMillis,
    /// Whether new tasks use it.
    pub is_current: bool,
    /// The Bitcoin block that attests it, once there is one.
    pub btc_block: Option<u32>,
    /// Whether it was taken back.
    pub withdrawn: bool,
}

struct VersionRow {
    version_id: String,
    manifest: Vec<u8>,
    manifest_signature: Vec<u8>,
    release_key: String,
    created_at: Option<time::OffsetDateTime>,
    is_current: Option<bool>,
    btc_block: Option<i32>,
    withdrawn_at: Option<time::OffsetDateTime>,
}

impl TryFrom<VersionRow> for ModelVersion {
    type Error = StoreError;
    fn try_from(row: VersionRow) -> Result<Self, StoreError> {
        let id = row.version_id;
        let wrong =
            |column, why: String| StoreError::inconsistent("model_versions", column, &id, why);
        let manifest =
            Manifest::from_bytes(&row.manifest).map_err(|e| wrong("manifest", e.to_string()))?;
        let signature = row
            .manifest_signature
            .try_into()
            .map_err(|_| wrong("manifest_signature", "not 64 bytes".into()))?;
        let key: PublicKey = row
            .release_key
            .parse()
            .map_err(|e: owm_proto::hash::ParseError| wrong("release_key", e.to_string()))?;
        Ok(Self {
            manifest,
            envelope: Envelope::from_parts(Purpose::Manifest, key, signature, row.manifest),
            created_at: row.created_at.map_or(UnixMillis(0), from_pg),
            is_current: row.is_current.unwrap_or(false),
            btc_block: row.btc_block.and_then(|n| u32::try_from(n).ok()),
            withdrawn: row.withdrawn_at.is_some(),
        })
    }
}

/// The advisory lock of whoever publishes; request ids are locked by random numbers beside it.
const PUBLISHING: i64 = i64::from_be_bytes(*b"OWM-publ");

/// One publisher at a time, until the transaction ends: to be taken before looking at what is current.
#[tracing::instrument(name = "db.model.publishing", skip_all, err)]
pub async fn model_publishing(tx: &mut Tx) -> Result<(), StoreError> {
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", PUBLISHING)
        .execute(&mut *tx.inner)
        .await?;
    Ok(())
}

/// Publishes a signed version and makes it the current one if its sequence is the highest.
#[tracing::instrument(name = "db.model.publish", skip_all, err)]
pub async fn model_publish(
    tx: &mut Tx,
    manifest: &Manifest,
    envelope: &Envelope,
    now: UnixMillis,
) -> Result<(), StoreError> {
    let bytes = envelope.unverified_payload();
    let hashes: serde_json::Map<String, serde_json::Value> = manifest
        .sub_models
        .keys()
        .map(|id| {
            let weights = manifest.weights_sha256(id);
            (
                id.to_string(),
                serde_json::json!(weights.first().map(ToString::to_string)),
            )
        })
        .collect();
    let ladders = manifest.files.iter().filter_map(|file| {
        let spec = FileSpec::of(file).ok()?;
        Some((spec.ladder_sha256()?, spec.ladder_bytes()))
    });
    let files = manifest.files.iter().map(|file| (file.sha256, file.size));
    // Ladders are files too: stored and served under their own hash.
    for (sha256, size) in files.chain(ladders) {
        model_file_add(tx, &sha256, size, now).await?;
    }
    sqlx::query!(
        "UPDATE model_versions SET is_current = FALSE WHERE is_current AND sequence < $1",
        manifest.sequence.cast_signed()
    )
    .execute(&mut *tx.inner)
    .await?;
    sqlx::query!(
        "INSERT INTO model_versions (version_id, created_at, sub_model_hashes, sequence, parent, manifest,
             manifest_sha256, manifest_signature, release_key, note, round_number, is_current)
         VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,
             NOT EXISTS (SELECT 1 FROM model_versions WHERE is_current))",
        manifest.version.as_str(),
        to_pg(manifest.created_at),
        serde_json::Value::Object(hashes),
        manifest.sequence.cast_signed(),
        manifest.parent.as_ref().map(VersionId::as_str),
        bytes,
        Sha256::of(bytes).to_string(),
        &envelope.signature()[..],
        envelope.claimed_signer().to_string(),
        manifest.note,
        manifest.round.and_then(|round| i32::try_from(round).ok())
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// A file that lies in the object store may be served from now on, to whoever knows its hash.
#[tracing::instrument(name = "db.model.add_file", skip_all, err)]
pub async fn model_file_add(
    tx: &mut Tx,
    sha256: &Sha256,
    size: u64,
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO model_files (sha256, size_bytes, object_key, created_at)
             VALUES ($1, $2, $1, $3) ON CONFLICT (sha256) DO NOTHING",
        sha256.to_string(),
        size.cast_signed(),
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// A file is not served any more. `false`: it was not.
#[tracing::instrument(name = "db.model.remove_file", skip_all, err)]
pub async fn model_file_remove(tx: &mut Tx, sha256: &Sha256) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "DELETE FROM model_files WHERE sha256 = $1",
        sha256.to_string()
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The highest sequence of any release or withdrawal.
#[tracing::instrument(name = "db.model.max_sequence", skip_all, err)]
pub async fn model_sequence_max(tx: &mut Tx) -> Result<u64, StoreError> {
    let max = sqlx::query_scalar!(
        r#"SELECT COALESCE(GREATEST(max(sequence), max(withdrawal_sequence)), 0) AS "max!" FROM model_versions"#
    )
    .fetch_one(&mut *tx.inner)
    .await?;
    Ok(max.unsigned_abs())
}

/// A version by name, or the current one.
#[tracing::instrument(name = "db.model.lookup", skip_all, err)]
pub async fn model_lookup(
    tx: &mut Tx,
    version: Option<&VersionId>,
) -> Result<Option<ModelVersion>, StoreError> {
    let row = sqlx::query_as!(
        VersionRow,
        "SELECT version_id, manifest, manifest_signature, release_key, created_at, is_current, btc_block,
             withdrawn_at
         FROM model_versions WHERE ($1::text IS NULL AND is_current) OR version_id = $1",
        version.map(VersionId::as_str)
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    row.map(ModelVersion::try_from).transpose()
}

/// All versions, newest first.
#[tracing::instrument(name = "db.model.list", skip_all, err)]
pub async fn model_list(tx: &mut Tx, limit: u32) -> Result<Vec<ModelVersion>, StoreError> {
    let rows = sqlx::query_as!(
        VersionRow,
        "SELECT version_id, manifest, manifest_signature, release_key, created_at, is_current, btc_block,
             withdrawn_at
         FROM model_versions ORDER BY sequence DESC LIMIT $1",
        i64::from(limit)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    rows.into_iter().map(ModelVersion::try_from).collect()
}

/// Size of a published file, if it is one: what the blob endpoint may serve.
#[tracing::instrument(name = "db.model.file_size", skip_all, err)]
pub async fn model_file_size(tx: &mut Tx, sha256: &Sha256) -> Result<Option<u64>, StoreError> {
    let size = sqlx::query_scalar!(
        "SELECT size_bytes FROM model_files WHERE sha256 = $1",
        sha256.to_string()
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    Ok(size.map(i64::unsigned_abs))
}
