//! Signed checkpoints: written by whoever publishes (and at start for versions published before there were
//! any), read by the swarm, which announces the newest. Append-only.

use owm_proto::{Envelope, PublicKey, Purpose, UnixMillis, gossip::Checkpoint};

use crate::{error::StoreError, model::ModelVersion, time::to_pg, tx::Tx};

/// Records a signed checkpoint; one that is there already stays.
#[tracing::instrument(name = "db.checkpoint.add", skip_all, err)]
pub async fn checkpoint_add(
    tx: &mut Tx,
    checkpoint: &Checkpoint,
    envelope: &Envelope,
    now: UnixMillis,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO checkpoints (sequence, version_id, payload, signature, release_key, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (sequence) DO NOTHING",
        checkpoint.sequence.cast_signed(),
        checkpoint.version.as_str(),
        envelope.unverified_payload(),
        &envelope.signature()[..],
        envelope.claimed_signer().to_string(),
        to_pg(now)
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// The signed checkpoint of a version, if there is one.
#[tracing::instrument(name = "db.checkpoint.of", skip_all, err)]
pub async fn checkpoint_of(
    tx: &mut Tx,
    version: &ModelVersion,
) -> Result<Option<Envelope>, StoreError> {
    let sequence = version.manifest.sequence.cast_signed();
    let row = sqlx::query!(
        "SELECT payload, signature, release_key FROM checkpoints WHERE sequence = $1",
        sequence
    )
    .fetch_optional(&mut *tx.inner)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let wrong =
        |column, why: String| StoreError::inconsistent("checkpoints", column, sequence, why);
    let key: PublicKey = row
        .release_key
        .parse()
        .map_err(|e: owm_proto::hash::ParseError| wrong("release_key", e.to_string()))?;
    let signature = row
        .signature
        .try_into()
        .map_err(|_| wrong("signature", "not 64 bytes".into()))?;
    let envelope = Envelope::from_parts(Purpose::Checkpoint, key, signature, row.payload);
    Ok(Some(envelope))
}

#[cfg(test)]
mod tests {
    use owm_proto::{
        NodeKey, Sha256,
        genesis::NetworkId,
        manifest::{Manifest, ManifestFile, SubModel},
        statement::Statement as _,
    };
    use sqlx::{Executor as _, PgPool};

    use super::*;
    use crate::{
        model::{model_lookup, model_publish},
        tx::Store,
    };

    fn manifest(sequence: u64) -> Manifest {
        let file = |name: &str| ManifestFile {
            name: name.into(),
            size: 1,
            sha256: Sha256::of(name.as_bytes()),
            piece_len: None,
            ladder_sha256: None,
        };
        let sub_model = SubModel {
            architecture: "llama".into(),
            tokenizer: "tokenizer.json".into(),
            files: vec!["model.safetensors".into(), "tokenizer.json".into()],
        };
        Manifest {
            sequence,
            version: format!("owm-v0.0.{sequence}").parse().unwrap(),
            round: None,
            created_at: NOW,
            parent: None,
            default_sub_model: "owm-geo".parse().unwrap(),
            sub_models: [("owm-geo".parse().unwrap(), sub_model)].into(),
            files: ["model.safetensors", "tokenizer.json"].map(file).to_vec(),
            note: String::new(),
            deltas: Vec::new(),
            release_notes: String::new(),
        }
    }

    const NOW: UnixMillis = UnixMillis(1_795_359_487_000);

    #[sqlx::test(migrator = "owm_migrations::MIGRATOR")]
    async fn a_checkpoint_comes_back_as_signed_and_never_changes(pool: PgPool) {
        let store = Store::from_pool(pool.clone());
        let mut tx = store.begin("test").await.unwrap();
        let (key, network) = (NodeKey::from_seed(&[1; 32]), NetworkId(Sha256::of(b"n")));
        let manifest = manifest(7);
        let envelope = Envelope::sign(&key, Purpose::Manifest, &network, manifest.to_bytes());
        model_publish(&mut tx, &manifest, &envelope, NOW)
            .await
            .unwrap();
        let version = model_lookup(&mut tx, None).await.unwrap().unwrap();
        assert_eq!(checkpoint_of(&mut tx, &version).await.unwrap(), None);
        let bytes = manifest.to_bytes();
        let checkpoint = Checkpoint {
            sequence: 7,
            version: manifest.version.clone(),
            manifest_sha256: Sha256::of(&bytes),
            manifest_bytes: bytes.len() as u64,
            created_at_ms: NOW,
        };
        let signed = checkpoint.sign(&key, &network);
        let forged = checkpoint.sign(&NodeKey::from_seed(&[2; 32]), &network);
        for one in [&signed, &forged] {
            checkpoint_add(&mut tx, &checkpoint, one, NOW)
                .await
                .unwrap();
        }
        let found = checkpoint_of(&mut tx, &version).await.unwrap();
        assert_eq!(found, Some(signed), "the first one stays");
        tx.commit().await.unwrap();
        for change in [
            "UPDATE checkpoints SET payload = ''",
            "DELETE FROM checkpoints",
            "TRUNCATE checkpoints",
        ] {
            let refused = pool.execute(change).await.unwrap_err().to_string();
            assert!(refused.contains("a signed checkpoint stands"), "{refused}");
        }
    }
}
