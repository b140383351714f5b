//! Says every second that this coordinator lives. After a silence of all coordinators, leases and
//! deadlines of tasks and rounds move by its length, once.

use owm_coordinator_domain::task::Outage;
use owm_coordinator_store::{
    StoreError,
    instance::{instance_last_alive, instance_mark_alive, leases_extend},
    round::rounds_hold,
};
use owm_proto::UnixMillis;
use owm_service::reconcile::{Reconciler, Status};

use crate::{app::App, failpoints::OUTAGE_BEFORE_COMMIT};

/// The reconciler.
#[derive(Debug)]
pub struct Alive(pub App);

impl Reconciler for Alive {
    const NAME: &'static str = "alive";
    type Error = StoreError;

    async fn run(&self) -> Result<Status, StoreError> {
        let extended = mark(&self.0).await?;
        Ok(Status(serde_json::json!({ "leases_extended": extended })))
    }
}

/// To be called before anything is judged by time: after a silence that is not made good for yet
/// (the database was away), it is.
pub(crate) async fn settle(app: &App) -> Result<(), StoreError> {
    if Outage::ending(app.alive_at(), app.now()).is_some() {
        mark(app).await?;
    }
    Ok(())
}

/// Says that this coordinator lives; first of all it makes good for a silence before.
pub async fn mark(app: &App) -> Result<Option<u64>, StoreError> {
    let now = app.now();
    let mut tx = app.store.begin("instance.alive").await?;
    let mut extended = None;
    if let Some(last) = instance_last_alive(&mut tx, now).await?
        && let Some(outage) = Outage::ending(last, now)
    {
        // Rounds before tasks, as their driver locks them.
        rounds_hold(&mut tx, outage.from, outage.to).await?;
        extended = leases_extend(&mut tx, outage.from, outage.to).await?;
        if let Some(tasks) = extended {
            owm_service::failpoint::hit(OUTAGE_BEFORE_COMMIT);
            let secs = outage.length().as_secs();
            tracing::warn!(
                secs,
                tasks,
                "no coordinator was alive; leases and deadlines are extended"
            );
        }
    }
    instance_mark_alive(&mut tx, &app.instance(), now).await?;
    tx.commit().await?;
    // Nodes could not come back while the database was away. Before the first sign of life there were
    // none.
    if app.alive_at() != UnixMillis(0) && Outage::ending(app.alive_at(), now).is_some() {
        app.sessions.forgive_silence(app.now());
    }
    app.mark_alive(now);
    Ok(extended)
}
