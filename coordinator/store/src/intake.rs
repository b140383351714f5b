//! Tasks on their way into the queue, many at a time: all that were asked for while the last commit was
//! under way go into two statements.

use owm_proto::{Sha256, UnixMillis};

use crate::{
    error::{StoreError, one_row},
    request::seal_id,
    task::{NewTask, payload_row},
    time::to_pg,
    tx::Tx,
    vault::Vault,
};

/// Between the hashes of one task, where an array of arrays would be needed.
const BETWEEN_HASHES: &str = ",";

/// Queues tasks, each with the request it answers; `at`: when it was asked for.
#[tracing::instrument(name = "db.task.create", skip_all, err, fields(tasks = new.len()))]
pub async fn tasks_create(
    tx: &mut Tx,
    vault: &Vault,
    new: &[(NewTask, UnixMillis)],
) -> Result<(), StoreError> {
    let done = tasks_insert(tx, vault, new).await?;
    if done != new.len() as u64 {
        return one_row(done, "tasks", "batch");
    }
    requests_insert(tx, vault, new).await
}

async fn tasks_insert(
    tx: &mut Tx,
    vault: &Vault,
    new: &[(NewTask, UnixMillis)],
) -> Result<u64, StoreError> {
    macro_rules! column {
        (|$task:ident| $value:expr) => {
            new.iter().map(|($task, _)| $value).collect::<Vec<_>>()
        };
    }
    let hashes = |task: &NewTask| {
        let hashes: Vec<String> = task.model_sha256.iter().map(Sha256::to_string).collect();
        hashes.join(BETWEEN_HASHES)
    };
    let sealed = |task: &NewTask| vault.close(&payload_row(task.task_id), &task.payload);
    let done = sqlx::query!(
        "INSERT INTO tasks (task_id, task_type, role, priority, min_tier, sub_model, model_version,
             model_sha256, request_key, streaming, max_tokens, seed, payload_ciphertext, input_hash,
             deadline_at, lease_ms, submitted_at)
         SELECT id, type, role, priority, min_tier, sub_model, version, string_to_array(hashes, $18),
             request_key, streaming, max_tokens, seed, payload, input, deadline, lease_ms, at
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::text[],
             $7::text[], $8::text[], $9::bytea[], $10::bool[], $11::int[], $12::bytea[], $13::bytea[],
             $14::text[], $15::timestamptz[], $16::int[], $17::timestamptz[])
             AS t(id, type, role, priority, min_tier, sub_model, version, hashes, request_key, streaming,
                  max_tokens, seed, payload, input, deadline, lease_ms, at)",
        &column!(|t| t.task_id.0),
        &column!(|t| t.task_type.as_str().to_owned()),
        &column!(|t| t.task_type.role().as_str().to_owned()),
        &column!(|t| t.task_type.priority()),
        &column!(|t| t.min_tier.as_str().to_owned()),
        &column!(|t| t.sub_model.as_str().to_owned()),
        &column!(|t| t.model_version.as_str().to_owned()),
        &column!(|t| hashes(t)),
        &column!(|t| t.request.map(|(id, _)| id.key().as_bytes().to_vec())) as _,
        &column!(|t| t.streaming),
        &column!(|t| i32::try_from(t.max_tokens).unwrap_or(i32::MAX)),
        &column!(|t| t.seed.to_be_bytes().to_vec()),
        &column!(|t| sealed(t)),
        &column!(|t| Sha256::of(&t.payload).to_string()),
        &column!(|t| to_pg(t.deadline)),
        &column!(|t| i32::try_from(t.lease_ms).unwrap_or(i32::MAX)),
        &new.iter().map(|(_, at)| to_pg(*at)).collect::<Vec<_>>(),
        BETWEEN_HASHES
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(done.rows_affected())
}

async fn requests_insert(
    tx: &mut Tx,
    vault: &Vault,
    new: &[(NewTask, UnixMillis)],
) -> Result<(), StoreError> {
    let (mut keys, mut tasks, mut api_keys, mut ids, mut times) =
        (vec![], vec![], vec![], vec![], vec![]);
    for (task, at) in new {
        let Some((id, api_key)) = task.request else {
            continue;
        };
        keys.push(id.key().as_bytes().to_vec());
        tasks.push(task.task_id.0);
        api_keys.push(api_key);
        ids.push(seal_id(vault, &id));
        times.push(to_pg(*at));
    }
    sqlx::query!(
        "INSERT INTO requests (request_key, task_id, api_key_id, id_ciphertext, created_at)
         SELECT * FROM unnest($1::bytea[], $2::uuid[], $3::uuid[], $4::bytea[], $5::timestamptz[])",
        &keys,
        &tasks,
        &api_keys as _,
        &ids,
        &times
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}
