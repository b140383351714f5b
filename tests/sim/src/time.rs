//! Virtual time, and the clock that each peer reads it by: wrong by a skew and a drift, set back and forth,
//! and standing still while a laptop sleeps.

use std::{fmt, time::Duration};

use owm_p2p::Moment;
use owm_proto::UnixMillis;

/// Microseconds since the run began. The true time, which no peer sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub u64);

/// The true wall time at which every run begins: 2026-09-21.
pub const EPOCH_MS: u64 = 1_790_000_000_000;

impl At {
    /// So many seconds after the beginning.
    pub const fn secs(secs: u64) -> Self {
        Self(secs * 1_000_000)
    }

    /// Later.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self(self.0 + ms * 1_000)
    }

    /// Later.
    #[must_use]
    pub const fn after_secs(self, secs: u64) -> Self {
        self.after_ms(secs * 1_000)
    }

    /// Later.
    #[must_use]
    pub const fn after(self, span: Duration) -> Self {
        self.after_ms(span.as_millis() as u64)
    }

    /// Seconds since the beginning, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The true wall time.
    pub const fn wall(self) -> UnixMillis {
        UnixMillis(EPOCH_MS + self.0 / 1_000)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.as_secs(), self.0 % 1_000_000)
    }
}

/// How wrong one peer's clock is.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerClock {
    /// Added to the true wall time.
    skew_ms: i64,
    /// Parts per million that it runs too fast.
    drift_ppm: i64,
    /// Time that this peer has slept through: monotonic clocks stand still then, wall clocks do not.
    slept_us: u64,
}

impl PeerClock {
    /// A clock that is wrong from the beginning.
    pub fn new(skew_ms: i64, drift_ppm: i64) -> Self {
        Self {
            skew_ms,
            drift_ppm,
            slept_us: 0,
        }
    }

    /// Somebody sets it.
    pub fn jump(&mut self, ms: i64) {
        self.skew_ms += ms;
    }

    /// The machine has slept.
    pub fn slept(&mut self, span: Duration) {
        self.slept_us += span.as_micros() as u64;
    }

    /// What it shows.
    pub fn moment(&self, at: At) -> Moment {
        let drifted = |us: u64| us as i64 + us as i64 / 1_000_000 * self.drift_ppm;
        let wall_ms = EPOCH_MS as i64 + drifted(at.0) / 1_000 + self.skew_ms;
        let awake = at.0.saturating_sub(self.slept_us);
        Moment {
            wall: UnixMillis(wall_ms.max(0) as u64),
            monotonic: Duration::from_micros(drifted(awake).max(0) as u64),
        }
    }

    /// How far its wall time is from the true one, in milliseconds.
    pub fn error_ms(&self, at: At) -> i64 {
        self.moment(at).wall.0 as i64 - at.wall().0 as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_moves_the_wall_clock_only_and_a_jump_too() {
        let mut clock = PeerClock::new(1_500, 100);
        let before = clock.moment(At::secs(100));
        assert_eq!(before.wall.0, EPOCH_MS + 100_000 + 1_500 + 10);
        assert_eq!(before.monotonic, Duration::from_millis(100_010));
        clock.slept(Duration::from_mins(1));
        clock.jump(-500);
        let after = clock.moment(At::secs(160));
        assert_eq!(after.monotonic, before.monotonic);
        assert_eq!(after.wall.0, EPOCH_MS + 160_000 + 1_000 + 16);
        assert_eq!(clock.error_ms(At::secs(160)), 1_016);
    }
}
