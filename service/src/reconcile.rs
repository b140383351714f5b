//! Long work as reconcilers: tasks without arguments that compare what should be with what is.
//!
//! A daemon writes one [`Reconciler`] per duty and starts it with [`spawn`]; the handle wakes it and
//! tells its last outcome. Must stay true: runs never overlap, a wake during a run causes one more
//! run, an error never ends the loop, the soft token does.

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use rand::Rng;
use rand_chacha::ChaCha20Rng;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::{
    clock::SharedClock,
    lifecycle::{Lifecycle, TaskError},
    report::Chain,
};

/// What a run found and did, for people and status pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status(pub Value);

/// One duty. `run` reads desired and actual state and brings them closer; it may be called at any
/// time, any number of times, and be dropped at any await.
pub trait Reconciler: Send + Sync + 'static {
    /// Its name in logs, metrics and status: `lease_expiry`.
    const NAME: &'static str;
    /// What can go wrong.
    type Error: Error + Send + Sync + 'static;

    /// One pass. Write it as `async fn run(&self) -> Result<Status, Self::Error>`.
    fn run(&self) -> impl Future<Output = Result<Status, Self::Error>> + Send;
}

/// When a reconciler runs: at start, then every `period` ± a tenth, and when woken.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Time between the end of a run and the start of the next.
    pub period: Duration,
}

impl Schedule {
    /// Every `period`.
    pub const fn every(period: Duration) -> Self {
        Self { period }
    }

    fn next(self, rng: &mut impl Rng) -> Duration {
        let period_us = self.period.as_micros() as u64;
        let tenth = period_us / 10;
        Duration::from_micros(rng.random_range(period_us - tenth..=period_us.saturating_add(tenth)))
    }
}

/// What is known about a reconciler's runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Finished runs.
    pub runs: u64,
    /// Those that failed.
    pub errors: u64,
    /// Failures since the last success.
    pub errors_in_a_row: u64,
    /// When the last run started, Unix ms.
    pub last_started_ms: Option<u64>,
    /// How long it took, ms.
    pub last_duration_ms: Option<u64>,
    /// When a run last ended well, Unix ms.
    pub last_succeeded_ms: Option<u64>,
    /// What it said.
    pub last: Option<Result<Status, String>>,
}

/// Wakes a reconciler and shows its report. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    name: &'static str,
    wake: Arc<Notify>,
    report: watch::Receiver<Report>,
}

impl Handle {
    /// The reconciler's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Run now, or once more if a run is under way.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The report as it stands.
    pub fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    /// Waits until at least `runs` runs have finished; `None` if the reconciler stopped before.
    pub async fn wait_for_runs(&mut self, runs: u64) -> Option<Report> {
        self.report
            .wait_for(|report| report.runs >= runs)
            .await
            .ok()
            .map(|report| report.clone())
    }

    /// The report as JSON, for status pages and operator tools.
    pub fn to_json(&self) -> Value {
        let report = self.report();
        let last = match report.last {
            None => Value::Null,
            Some(Ok(Status(status))) => json!({ "ok": status }),
            Some(Err(error)) => json!({ "error": error }),
        };
        json!({
            "name": self.name,
            "runs": report.runs,
            "errors": report.errors,
            "errors_in_a_row": report.errors_in_a_row,
            "last_started_ms": report.last_started_ms,
            "last_duration_ms": report.last_duration_ms,
            "last_succeeded_ms": report.last_succeeded_ms,
            "last": last,
        })
    }
}

/// Starts `reconciler` as a tracked task; `rng` is its own stream for jitter.
pub fn spawn<R: Reconciler>(
    lifecycle: &Lifecycle,
    clock: SharedClock,
    mut rng: ChaCha20Rng,
    schedule: Schedule,
    reconciler: R,
) -> Handle {
    let wake = Arc::new(Notify::new());
    let (sender, report) = watch::channel(Report::default());
    let handle = Handle {
        name: R::NAME,
        wake: Arc::clone(&wake),
        report,
    };
    let soft = lifecycle.soft();
    lifecycle.spawn(R::NAME, async move {
        while !soft.is_cancelled() {
            run_once(&reconciler, &clock, &sender).await;
            tokio::select! {
                () = soft.cancelled() => {}
                () = wake.notified() => {}
                () = tokio::time::sleep(schedule.next(&mut rng)) => {}
            }
        }
        Ok::<(), TaskError>(())
    });
    handle
}

async fn run_once<R: Reconciler>(
    reconciler: &R,
    clock: &SharedClock,
    sender: &watch::Sender<Report>,
) {
    let (started_ms, started) = (clock.now_ms(), clock.monotonic());
    let outcome = reconciler
        .run()
        .await
        .map_err(|error| Chain(&error).to_string());
    let took = clock.monotonic().saturating_sub(started);
    let before = sender.borrow().last.clone();
    log_change::<R>(before.as_ref(), &outcome);
    sender.send_modify(|report| {
        report.runs += 1;
        if outcome.is_ok() {
            report.errors_in_a_row = 0;
            report.last_succeeded_ms = Some(clock.now_ms());
        } else {
            report.errors += 1;
            report.errors_in_a_row += 1;
        }
        report.last_started_ms = Some(started_ms);
        report.last_duration_ms = Some(took.as_millis() as u64);
        report.last = Some(outcome);
    });
}

/// An error is logged when it first appears or changes, not on every run; so is its end.
fn log_change<R: Reconciler>(
    before: Option<&Result<Status, String>>,
    now: &Result<Status, String>,
) {
    match (before, now) {
        (Some(Err(old)), Err(new)) if old == new => {}
        (_, Err(error)) => tracing::warn!(reconciler = R::NAME, error, "reconciler failed"),
        (Some(Err(_)), Ok(_)) => tracing::info!(reconciler = R::NAME, "reconciler works again"),
        (_, Ok(_)) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{clock::ManualClock, rng::Seed};

    /// Fails on its second run.
    #[derive(Default)]
    struct Flaky {
        runs: AtomicU64,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the store is away")]
    struct Away;

    impl Reconciler for Flaky {
        const NAME: &'static str = "flaky";
        type Error = Away;

        async fn run(&self) -> Result<Status, Away> {
            match self.runs.fetch_add(1, Ordering::SeqCst) {
                1 => Err(Away),
                run => Ok(Status(json!({ "run": run }))),
            }
        }
    }

    fn start(lifecycle: &Lifecycle) -> Handle {
        let rng = Seed::from_u64(1).rng("flaky");
        let schedule = Schedule::every(Duration::from_mins(1));
        spawn(
            lifecycle,
            ManualClock::shared(5_000),
            rng,
            schedule,
            Flaky::default(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_at_start_and_every_period_and_survives_errors() {
        let lifecycle = Lifecycle::default();
        let mut handle = start(&lifecycle);
        let started = tokio::time::Instant::now();
        let report = handle.wait_for_runs(3).await.unwrap();
        let waited = started.elapsed();
        assert!(waited >= Duration::from_secs(108) && waited <= Duration::from_secs(133));
        assert_eq!((report.errors, report.errors_in_a_row), (1, 0));
        assert_eq!(handle.to_json()["last"], json!({ "ok": { "run": 2 } }));
        assert_eq!(handle.to_json()["last_started_ms"], 5_000);
        assert!(lifecycle.failures().is_empty());
        assert!(lifecycle.finish().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_runs_it_at_once() {
        let lifecycle = Lifecycle::default();
        let mut handle = start(&lifecycle);
        handle.wait_for_runs(1).await.unwrap();
        let before = tokio::time::Instant::now();
        handle.wake();
        let report = handle.wait_for_runs(2).await.unwrap();
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(report.last, Some(Err("the store is away".to_owned())));
        assert_eq!(report.errors_in_a_row, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stops_softly() {
        let lifecycle = Lifecycle::default();
        let mut handle = start(&lifecycle);
        handle.wait_for_runs(1).await.unwrap();
        let before = tokio::time::Instant::now();
        assert!(lifecycle.finish().await);
        assert_eq!(before.elapsed(), Duration::ZERO);
        assert_eq!(handle.wait_for_runs(2).await, None);
    }
}
