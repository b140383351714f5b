//! The chunk journal's writer: chunks of all sessions are written in batches, and only what is written
//! is delivered. Bounded: a session whose chunks can't be taken waits.

use std::time::Duration;

use owm_coordinator_store::{
    StoreError,
    chunk::{NewChunk, chunk_append},
};
use owm_service::CancellationToken;
use tokio::sync::mpsc;

use crate::app::App;

owm_service::failpoints! {
    /// Chunks are journalled, not yet delivered.
    pub const CHUNK_WRITTEN = "coordinator.chunk.written";
}

/// Chunks waiting for the writer.
const PENDING_MAX: usize = 4_096;

/// Chunks of one transaction.
const BATCH_MAX: usize = 256;

/// A database that is away is asked again after this; the chunks wait.
const RETRY: Duration = Duration::from_millis(200);

/// The way to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ChunkSender(mpsc::Sender<NewChunk>);

/// The writer's end.
#[derive(Debug)]
pub struct ChunkReceiver(mpsc::Receiver<NewChunk>);

/// Both ends.
pub fn channel() -> (ChunkSender, ChunkReceiver) {
    let (sender, receiver) = mpsc::channel(PENDING_MAX);
    (ChunkSender(sender), ChunkReceiver(receiver))
}

impl ChunkSender {
    /// Waits for room; at shutdown the chunk is dropped, its tokens come with the result.
    pub async fn send(&self, chunk: NewChunk) {
        drop(self.0.send(chunk).await);
    }
}

/// Journals and delivers until `stop`.
pub async fn run(
    app: App,
    mut receiver: ChunkReceiver,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            taken = receiver.0.recv_many(&mut batch, BATCH_MAX) => if taken == 0 { return Ok(()) },
        }
        batch.sort_by_key(|chunk: &NewChunk| (chunk.task_id, chunk.from));
        while let Err(error) = write(&app, &batch).await {
            if !matches!(error, StoreError::Unavailable(_)) {
                tracing::error!(%error, chunks = batch.len(), "chunks can't be journalled; their tokens come with the results");
                break;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        batch.clear();
    }
}

async fn write(app: &App, batch: &[NewChunk]) -> Result<(), StoreError> {
    let mut tx = app.store.begin("chunk.append").await?;
    let written = chunk_append(&mut tx, &app.vault, batch, app.now()).await?;
    tx.commit().await?;
    owm_service::failpoint::hit(CHUNK_WRITTEN);
    for chunk in batch {
        if written.contains(&(chunk.task_id, chunk.from)) {
            let (tokens, text) = (chunk.tokens.clone(), chunk.text.clone());
            app.answers.chunk(chunk.task_id, chunk.from, tokens, text);
        }
    }
    Ok(())
}
