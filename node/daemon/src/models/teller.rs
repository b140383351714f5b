//! How far a download is, told to people. `keeper` feeds it.

use std::time::Duration;

use owm_proto::VersionId;
use owm_service::{clock::SharedClock, metrics::Counter, progress::Progress};

/// Between two lines in the log while something is fetched.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// Tells a person how far a download is: a bar, and a line in the log every few seconds.
pub(super) struct Teller<'a> {
    clock: &'a SharedClock,
    bar: &'a Progress,
    version: &'a VersionId,
    before: u64,
    total: u64,
    said_ms: std::sync::atomic::AtomicU64,
    /// Counts bytes that came now, not those that were there.
    pub(super) fetched: Option<&'a Counter>,
    got: std::sync::atomic::AtomicU64,
}

impl<'a> Teller<'a> {
    pub(super) fn new(
        clock: &'a SharedClock,
        bar: &'a Progress,
        version: &'a VersionId,
        before: u64,
        total: u64,
    ) -> Self {
        let said_ms = std::sync::atomic::AtomicU64::new(clock.monotonic().as_millis() as u64);
        Self {
            clock,
            bar,
            version,
            before,
            total,
            said_ms,
            fetched: None,
            got: std::sync::atomic::AtomicU64::new(u64::MAX),
        }
    }

    pub(super) fn got(&self, got: u64) {
        use std::sync::atomic::Ordering::Relaxed;
        let done = self.before + got;
        let former = self.got.swap(got, Relaxed);
        if let Some(fetched) = self.fetched {
            fetched.inc_by(got.saturating_sub(former));
        }
        self.bar.set(done);
        let now = self.clock.monotonic().as_millis() as u64;
        if now.saturating_sub(self.said_ms.load(Relaxed)) >= PROGRESS_EVERY.as_millis() as u64 {
            self.said_ms.store(now, Relaxed);
            let percent = done.saturating_mul(100) / self.total.max(1);
            tracing::info!(model.version = %self.version, bytes = done, of = self.total, percent, "fetching");
        }
    }
}
