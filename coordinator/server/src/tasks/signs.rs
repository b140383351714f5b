//! Folds signs of life into Postgres in batches, once a second.

use std::{collections::HashSet, time::Duration};

use owm_coordinator_store::{
    StoreError,
    session::{SignOfLife, signs_fold},
};
use owm_service::CancellationToken;
use tokio::sync::mpsc;

use crate::app::App;

/// Signs waiting to be folded; beyond that they are dropped, the next ones say the same.
const PENDING_MAX: usize = 65_536;

const PERIOD: Duration = Duration::from_secs(1);

/// The way to the fold. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SignSender(mpsc::Sender<SignOfLife>);

/// The fold's end.
#[derive(Debug)]
pub struct SignReceiver(mpsc::Receiver<SignOfLife>);

/// Both ends.
pub fn channel() -> (SignSender, SignReceiver) {
    let (sender, receiver) = mpsc::channel(PENDING_MAX);
    (SignSender(sender), SignReceiver(receiver))
}

impl SignSender {
    /// Never waits.
    pub fn send(&self, sign: SignOfLife) {
        if self.0.try_send(sign).is_err() {
            tracing::debug!("a sign of life is dropped: the fold is behind");
        }
    }
}

/// Folds until `stop`, and once more then.
pub async fn run(
    app: App,
    mut receiver: SignReceiver,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let mut pending: Vec<SignOfLife> = vec![];
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(PERIOD) => false,
        };
        while pending.len() < PENDING_MAX
            && let Ok(sign) = receiver.0.try_recv()
        {
            pending.push(sign);
        }
        let mut seen = HashSet::new();
        pending.retain(|sign| seen.insert((sign.node, sign.at.0 / 60_000, sign.fresh)));
        if !pending.is_empty() {
            match fold(&app, &pending).await {
                Ok(()) => pending.clear(),
                Err(error) => tracing::warn!(%error, "signs of life wait to be folded"),
            }
        }
        if stopping {
            return Ok(());
        }
    }
}

async fn fold(app: &App, signs: &[SignOfLife]) -> Result<(), StoreError> {
    let mut tx = app.store.begin("session.fold").await?;
    signs_fold(&mut tx, signs).await?;
    tx.commit().await
}
