//! Answers that have been handed out: the ten minutes after which they are deleted begin, for all of a
//! moment in one statement. Called by the API when an answer goes to its asker.

use owm_coordinator_store::{StoreError, request::requests_mark_delivered};
use owm_proto::RequestId;

use crate::{
    app::App,
    batch::{Batch, Batcher, all_unavailable},
    failpoints::DELIVERED_BEFORE_COMMIT,
};

/// The deliveries.
pub(crate) struct Deliveries;

impl Batch for Deliveries {
    type Item = RequestId;
    type Answer = ();
    const MAX: usize = 256;

    fn of(app: &App) -> &Batcher<Self> {
        &app.deliveries
    }

    async fn work(app: &App, items: Vec<RequestId>) -> Vec<Result<(), StoreError>> {
        let Err(error) = mark(app, &items).await else {
            return items.iter().map(|_| Ok(())).collect();
        };
        if items.len() == 1 {
            return vec![Err(error)];
        }
        if let Some(all) = all_unavailable(&error, items.len()) {
            return all;
        }
        let mut all = Vec::with_capacity(items.len());
        for item in items {
            all.push(mark(app, &[item]).await);
        }
        all
    }
}

async fn mark(app: &App, items: &[RequestId]) -> Result<(), StoreError> {
    let mut tx = app.store.single("request.delivered").await?;
    owm_service::failpoint::hit(DELIVERED_BEFORE_COMMIT);
    requests_mark_delivered(&mut tx, items, app.now()).await?;
    tx.commit().await
}
