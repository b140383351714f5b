//! Time as a parameter: the `Clock` trait, the machine's clock and a clock that tests move by hand.
//!
//! Every daemon, store and rule takes a [`SharedClock`]; only [`SystemClock`] here may ask the
//! machine what time it is. Must stay true: `monotonic` never goes back, whatever `now_ms` does.

mod steady;

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub use steady::SteadyClock;

/// The variable that skews [`SystemClock`] by so many milliseconds (may be negative).
/// Read only in builds with debug assertions, so that a test can give one process a wrong clock.
pub const CLOCK_OFFSET_ENV: &str = "OWM_CLOCK_OFFSET_MS";

/// What time it is, as far as the holder may know.
pub trait Clock: Send + Sync + Debug {
    /// Wall time: milliseconds since 1970-01-01T00:00:00Z. May jump either way.
    fn now_ms(&self) -> u64;

    /// Time since some fixed moment of this clock's own choosing. Never goes back;
    /// measure intervals with this one.
    fn monotonic(&self) -> Duration;
}

/// A clock shared between tasks.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Instant,
    offset_ms: i64,
}

impl SystemClock {
    /// A clock reading the machine's time, skewed by [`CLOCK_OFFSET_ENV`] in debug builds.
    /// A value that is no integer is ignored.
    pub fn new() -> Self {
        let offset_ms = if cfg!(debug_assertions) {
            std::env::var(CLOCK_OFFSET_ENV)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0)
        } else {
            0
        };
        Self::with_offset_ms(offset_ms)
    }

    fn with_offset_ms(offset_ms: i64) -> Self {
        Self {
            started: Instant::now(),
            offset_ms,
        }
    }

    /// The same, shared.
    pub fn shared() -> SharedClock {
        Arc::new(Self::new())
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that reads the machine's time"
        )]
        let now = SystemTime::now();
        // Before 1970 the machine's clock is plainly wrong; 0 keeps every comparison defined.
        let ms = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        ms.saturating_add_signed(self.offset_ms)
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that stands still until a test moves it. Cheap to share: `Arc<ManualClock>`.
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicU64,
    monotonic_ns: AtomicU64,
}

impl ManualClock {
    /// Starts at `now_ms` (Unix milliseconds), monotonic time zero.
    pub fn new(now_ms: u64) -> Self {
        Self {
            now_ms: AtomicU64::new(now_ms),
            monotonic_ns: AtomicU64::new(0),
        }
    }

    /// The same, shared.
    pub fn shared(now_ms: u64) -> Arc<Self> {
        Arc::new(Self::new(now_ms))
    }

    /// Moves both wall and monotonic time forward. Wall time counts whole milliseconds only.
    pub fn advance(&self, by: Duration) {
        self.now_ms
            .fetch_add(by.as_millis() as u64, Ordering::SeqCst);
        self.monotonic_ns
            .fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
    }

    /// Sets wall time, forward or back; monotonic time stays.
    pub fn set_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic_ns.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let clock = ManualClock::new(1_000);
        assert_eq!((clock.now_ms(), clock.monotonic()), (1_000, Duration::ZERO));
        clock.advance(Duration::from_millis(250));
        assert_eq!(
            (clock.now_ms(), clock.monotonic()),
            (1_250, Duration::from_millis(250))
        );
        clock.set_ms(10);
        assert_eq!(
            (clock.now_ms(), clock.monotonic()),
            (10, Duration::from_millis(250))
        );
    }

    #[test]
    fn an_offset_skews_wall_time_and_not_monotonic_time() {
        let ahead = SystemClock::with_offset_ms(3_600_000);
        let right = SystemClock::with_offset_ms(0);
        let lead = ahead.now_ms() - right.now_ms();
        assert!((3_500_000..=3_600_000).contains(&lead), "{lead}");
        assert!(ahead.monotonic() < Duration::from_mins(50));
        // 2020-01-01: the machine's clock is not the epoch.
        assert!(right.now_ms() > 1_577_836_800_000);
    }
}
