//! Says in the readiness whether Postgres answers, and why not. Started by `serve`; not a reconciler, as
//! there is nothing to bring closer.

use std::{convert::Infallible, time::Duration};

use owm_coordinator_store::Store;
use owm_service::{CancellationToken, health::Check};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// A database that takes longer to say one word is away for all that matters.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks until `stop`.
pub async fn watch(store: Store, ready: Check, stop: CancellationToken) -> Result<(), Infallible> {
    let mut away = false;
    while !stop.is_cancelled() {
        let fault = match tokio::time::timeout(PATIENCE, store.ping()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!(
                "the database has not answered for {} s",
                PATIENCE.as_secs()
            )),
        };
        match &fault {
            None => ready.ready(),
            Some(reason) => ready.not_ready(reason.clone()),
        }
        // Once per outage, not once a second.
        match (away, &fault) {
            (false, Some(reason)) => tracing::warn!(reason, "the database is away"),
            (true, None) => tracing::info!("the database is back"),
            _ => {}
        }
        away = fault.is_some();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
    Ok(())
}
