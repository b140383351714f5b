//! The write-ahead journal of streamed answers: a chunk is on disk before a user sees it, so that a
//! successor gets exactly the delivered prefix. Chunks are fenced by the lease's epoch.

use owm_proto::{Envelope, NodeId, TaskId, UnixMillis};

use crate::{error::StoreError, time::to_pg, tx::Tx, vault::Vault};

/// One chunk to be journalled.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// Of which task.
    pub task_id: TaskId,
    /// Under which lease.
    pub epoch: u64,
    /// By whom.
    pub node: NodeId,
    /// Index of the first token.
    pub from: u32,
    /// Token ids; never empty.
    pub tokens: Vec<u32>,
    /// Whole characters; may be empty.
    pub text: String,
    /// The node's signed segment up to here.
    pub segment: Envelope,
}

impl NewChunk {
    /// One past its last token.
    pub fn to(&self) -> u32 {
        self.from
            .saturating_add(u32::try_from(self.tokens.len()).unwrap_or(u32::MAX))
    }
}

/// What has been delivered of a streamed answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Text.
    pub text: String,
    /// The shares of all attempts so far, in order.
    pub segments: Vec<DeliveredShare>,
}

/// One attempt's share of what was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveredShare {
    /// Under which lease.
    pub epoch: u64,
    /// First token.
    pub from: u32,
    /// One past the last.
    pub to: u32,
    /// The node's last signed segment.
    pub envelope: Envelope,
}

fn row(task: TaskId, from: u32, part: &str) -> Vec<u8> {
    [
        b"task_chunks.",
        part.as_bytes(),
        b":",
        task.0.as_bytes(),
        &from.to_le_bytes()[..],
    ]
    .concat()
}

fn encode(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

/// Journals chunks of live leases; returns (task, from) of those that were written. A chunk whose
/// lease is over, or that is there already, is not. Sort them by task: locks are taken in that order.
#[tracing::instrument(name = "db.chunk.append", skip_all, err)]
pub async fn chunk_append(
    tx: &mut Tx,
    vault: &Vault,
    chunks: &[NewChunk],
    now: UnixMillis,
) -> Result<Vec<(TaskId, u32)>, StoreError> {
    let tasks: Vec<_> = chunks.iter().map(|c| c.task_id.0).collect();
    let epochs: Vec<_> = chunks.iter().map(|c| c.epoch.cast_signed()).collect();
    let nodes: Vec<_> = chunks.iter().map(|c| c.node.0).collect();
    let froms: Vec<_> = chunks.iter().map(|c| c.from.cast_signed()).collect();
    let tos: Vec<_> = chunks.iter().map(|c| c.to().cast_signed()).collect();
    let close =
        |c: &NewChunk, part, bytes: &[u8]| vault.close(&row(c.task_id, c.from, part), bytes);
    let tokens: Vec<_> = chunks
        .iter()
        .map(|c| close(c, "tokens", &encode(&c.tokens)))
        .collect();
    let texts: Vec<_> = chunks
        .iter()
        .map(|c| close(c, "text", c.text.as_bytes()))
        .collect();
    let segments: Vec<_> = chunks.iter().map(|c| c.segment.to_stored()).collect();
    let written = sqlx::query!(
        "INSERT INTO task_chunks (task_id, epoch, node_id, from_token, to_token, tokens_ciphertext,
             text_ciphertext, segment_envelope, created_at)
         SELECT c.task, c.epoch, c.node, c.f, c.t, c.tokens, c.text, c.segment, $9
         FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::int[], $5::int[], $6::bytea[],
                     $7::bytea[], $8::bytea[])
              WITH ORDINALITY AS c(task, epoch, node, f, t, tokens, text, segment, nr)
         WHERE EXISTS (SELECT 1 FROM tasks WHERE task_id = c.task AND phase = 'leased'
                       AND lease_epoch = c.epoch AND lease_node = c.node FOR SHARE)
         ORDER BY c.nr
         ON CONFLICT DO NOTHING
         RETURNING task_id, from_token",
        &tasks,
        &epochs,
        &nodes,
        &froms,
        &tos,
        &tokens,
        &texts,
        &segments,
        to_pg(now)
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    Ok(written
        .into_iter()
        .map(|r| (TaskId(r.task_id), r.from_token.unsigned_abs()))
        .collect())
}

/// Deletes what follows a gap, so that the next attempt's chunks find room.
#[tracing::instrument(name = "db.chunk.trim", skip_all, err)]
pub async fn chunk_trim(tx: &mut Tx, task: TaskId, delivered: u32) -> Result<(), StoreError> {
    sqlx::query!(
        "DELETE FROM task_chunks WHERE task_id = $1 AND from_token >= $2",
        task.0,
        delivered.cast_signed()
    )
    .execute(&mut *tx.inner)
    .await?;
    Ok(())
}

/// Everything delivered of a task, in order.
#[tracing::instrument(name = "db.chunk.load", skip_all, err)]
pub async fn chunk_load(tx: &mut Tx, vault: &Vault, task: TaskId) -> Result<Delivered, StoreError> {
    let rows = sqlx::query!(
        "SELECT epoch, from_token, to_token, tokens_ciphertext, text_ciphertext, segment_envelope
         FROM task_chunks WHERE task_id = $1 ORDER BY from_token",
        task.0
    )
    .fetch_all(&mut *tx.inner)
    .await?;
    let mut all = Delivered::default();
    for r in rows {
        let (from, to) = (r.from_token.unsigned_abs(), r.to_token.unsigned_abs());
        if from as usize != all.tokens.len() {
            // What follows a gap was never delivered.
            break;
        }
        let tokens = vault.open(
            "task_chunks.tokens",
            &row(task, from, "tokens"),
            &r.tokens_ciphertext,
        )?;
        let text = vault.open(
            "task_chunks.text",
            &row(task, from, "text"),
            &r.text_ciphertext,
        )?;
        all.tokens.extend(decode(&tokens));
        all.text.push_str(&String::from_utf8_lossy(&text));
        let envelope = Envelope::from_stored(&r.segment_envelope.unwrap_or_default())
            .map_err(|e| StoreError::inconsistent("task_chunks", "segment_envelope", task, e))?;
        let epoch = r.epoch.unsigned_abs();
        match all.segments.last_mut() {
            Some(last) if last.epoch == epoch => (last.to, last.envelope) = (to, envelope),
            _ => all.segments.push(DeliveredShare {
                epoch,
                from,
                to,
                envelope,
            }),
        }
    }
    Ok(all)
}
