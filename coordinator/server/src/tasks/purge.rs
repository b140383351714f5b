//! Deletes users' text that is due: ten minutes after delivery, a day if nobody came for it.

use std::time::Duration;

use owm_coordinator_store::{
    StoreError, outbox::outbox_prune, replay::requests_prune, request::request_purge,
    session::minutes_prune,
};
use owm_service::reconcile::{Reconciler, Status};

use crate::app::App;

const BATCH_MAX: u32 = 1_000;

/// Registration bodies live five minutes; their ids are remembered far longer.
const REQUEST_IDS_KEPT: Duration = Duration::from_hours(24);

/// The reconciler.
#[derive(Debug)]
pub struct Purge(pub App);

impl Reconciler for Purge {
    const NAME: &'static str = "purge";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let app = &self.0;
        let now = app.now();
        let mut tx = app.store.begin("purge").await?;
        let answers = request_purge(&mut tx, now, BATCH_MAX).await?;
        let kept = Duration::from_secs(owm_coordinator_domain::liveness::KEPT_MINUTES * 60);
        minutes_prune(&mut tx, now.before(kept)).await?;
        requests_prune(&mut tx, now.before(REQUEST_IDS_KEPT)).await?;
        outbox_prune(&mut tx, now.before(REQUEST_IDS_KEPT)).await?;
        tx.commit().await?;
        Ok(Status(serde_json::json!({ "answers_deleted": answers })))
    }
}
