//! The network's figures, cheap however long its history. Called by the public page and by the statistics
//! of the API, both at most once a second.

use std::time::Duration;

use owm_coordinator_store::{
    StoreError, Tx,
    stats::{NetworkCounts, Tally, stats_tally},
};
use owm_proto::UnixMillis;
use tokio::{sync::Mutex, time::Instant};

/// A look at the figures that takes longer is given up, by Postgres too.
pub(crate) const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Time for counting what is not counted yet, after a start: what is left is for the next look.
const STEPS_TIME: Duration = Duration::from_millis(500);

/// What has been counted already.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<Tally>);

impl Counts {
    /// The figures now.
    pub(crate) async fn look(
        &self,
        tx: &mut Tx,
        now: UnixMillis,
    ) -> Result<NetworkCounts, StoreError> {
        let mut tally = self.0.lock().await;
        let began = Instant::now();
        loop {
            let counts = stats_tally(tx, &mut tally, now).await?;
            if !counts.counting || began.elapsed() >= STEPS_TIME {
                return Ok(counts);
            }
        }
    }
}
