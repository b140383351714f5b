//! Updates that nothing open needs any more leave the spool.

use std::collections::BTreeSet;

use owm_coordinator_store::{StoreError, evaluation::updates_needed};
use owm_proto::Sha256;
use owm_service::reconcile::{Reconciler, Status};

use crate::{
    app::App,
    spool::{SpoolError, keep::leaving},
};

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The coordinator stops.
    #[error("the coordinator stops")]
    Stopping,
}

/// The reconciler.
#[derive(Debug)]
pub struct Sweep(pub App);

impl Reconciler for Sweep {
    const NAME: &'static str = "spool";
    type Error = SweepError;

    async fn run(&self) -> Result<Status, SweepError> {
        let (app, spool) = (&self.0, self.0.spool.clone());
        // First what lies there, then what is needed: what comes between the two is young.
        let all = tokio::task::spawn_blocking({
            let spool = spool.clone();
            move || spool.kept()
        });
        let all = all.await.map_err(|_| SweepError::Stopping)??;
        let (files, bytes) = (all.len(), all.iter().map(|kept| kept.size).sum::<u64>());
        let mut tx = app.store.begin("spool.needed").await?;
        let needed: BTreeSet<Sha256> = updates_needed(&mut tx).await?;
        drop(tx);
        let leaving = leaving(all, &needed, &app.config.rounds, app.wall());
        let (removed, freed) = (
            leaving.len(),
            leaving.iter().map(|kept| kept.size).sum::<u64>(),
        );
        let removing = tokio::task::spawn_blocking(move || {
            leaving
                .iter()
                .try_for_each(|kept| spool.remove(&kept.sha256))
        });
        removing.await.map_err(|_| SweepError::Stopping)??;
        if removed > 0 {
            tracing::info!(removed, freed, "updates left the spool");
        }
        Ok(Status(serde_json::json!({
            "updates": files - removed, "bytes": bytes - freed, "removed": removed,
        })))
    }
}
