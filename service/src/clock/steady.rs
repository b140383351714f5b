//! A clock that does not jump by a little: leases, sessions and deadlines are judged by it, so that a machine
//! whose clock is set forward or back by minutes loses none of them.
//!
//! It runs as the wall clock does. When that jumps against the monotonic one, this goes on as if it had
//! not, and then closes the distance slowly. A larger jump is a wrong clock that is put right (a machine that
//! has started without one): holding on to the wrong time for hours would be worse than what is lost. Whoever checks what strangers signed asks the wall clock
//! itself. Must stay true: a correction ends at the right time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Clock, SharedClock};

/// Wall time may differ so much from what has passed since the last look before that counts as a jump:
/// more than clocks are slewed or rounded, less than any lease.
const JUMP_MIN_MS: i64 = 2_000;
/// A distance above this is given up at once: it is not for nothing that the clock was set.
const FOLLOW_MAX_MS: i64 = 10 * 60_000;
/// The distance shrinks by one millisecond in so many: ten minutes in 200, with leases 5 % longer or
/// shorter meanwhile.
const SLEW: u64 = 20;

#[derive(Debug)]
struct State {
    wall_ms: u64,
    monotonic: Duration,
    /// What is shown, less wall time.
    ahead_ms: i64,
    /// Milliseconds that have passed and not yet shrunk the distance.
    unslewed_ms: u64,
}

/// See the module.
#[derive(Debug)]
pub struct SteadyClock {
    inner: SharedClock,
    state: Mutex<State>,
}

impl SteadyClock {
    /// Runs with `inner`.
    pub fn new(inner: SharedClock) -> Self {
        let state = State {
            wall_ms: inner.now_ms(),
            monotonic: inner.monotonic(),
            ahead_ms: 0,
            unslewed_ms: 0,
        };
        Self {
            inner,
            state: Mutex::new(state),
        }
    }

    /// The same, shared.
    pub fn shared(inner: SharedClock) -> SharedClock {
        Arc::new(Self::new(inner))
    }
}

impl State {
    fn look(&mut self, wall_ms: u64, monotonic: Duration) -> u64 {
        let passed_ms = monotonic.saturating_sub(self.monotonic).as_millis() as u64;
        let moved_ms = wall_ms as i64 - self.wall_ms as i64;
        let jumped_ms = moved_ms - passed_ms as i64;
        if jumped_ms.abs() >= JUMP_MIN_MS {
            self.ahead_ms -= jumped_ms;
            if self.ahead_ms.abs() <= FOLLOW_MAX_MS {
                tracing::warn!(
                    jumped_ms,
                    "this machine's clock has jumped; leases and deadlines go on as if it had not"
                );
            } else {
                tracing::warn!(
                    jumped_ms,
                    "this machine's clock has been set by more than ten minutes; leases and deadlines go \
                     by the new time: work in hand may be given out again"
                );
                self.ahead_ms = 0;
            }
        }
        self.wall_ms = wall_ms;
        // What is below a millisecond counts the next time.
        self.monotonic += Duration::from_millis(passed_ms);
        self.slew(passed_ms);
        wall_ms.saturating_add_signed(self.ahead_ms)
    }

    fn slew(&mut self, passed_ms: u64) {
        if self.ahead_ms == 0 {
            self.unslewed_ms = 0;
            return;
        }
        self.unslewed_ms += passed_ms;
        let by = (self.unslewed_ms / SLEW) as i64;
        self.unslewed_ms %= SLEW;
        self.ahead_ms -= self.ahead_ms.signum() * by.min(self.ahead_ms.abs());
    }
}

impl Clock for SteadyClock {
    fn now_ms(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that no reader sees an older time than another has.
        let (wall_ms, monotonic) = (self.inner.now_ms(), self.inner.monotonic());
        state.look(wall_ms, monotonic)
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const START_MS: u64 = 1_700_000_000_000;
    const HOUR_MS: u64 = 3_600_000;
    const TEN_MIN_MS: u64 = 600_000;

    fn clocks() -> (Arc<ManualClock>, SteadyClock) {
        let wall = ManualClock::shared(START_MS);
        let steady = SteadyClock::new(wall.clone());
        (wall, steady)
    }

    #[test]
    fn without_jumps_it_is_the_wall_clock() {
        let (wall, steady) = clocks();
        for ms in [1, 999, 60_000, 10 * HOUR_MS] {
            wall.advance(Duration::from_millis(ms));
            assert_eq!(steady.now_ms(), wall.now_ms());
        }
        // A clock that is slewed is followed.
        wall.set_ms(wall.now_ms() + 1_500);
        assert_eq!(steady.now_ms(), wall.now_ms());
    }

    #[test]
    fn a_jump_is_not_shown_and_the_distance_is_closed_slowly() {
        for to in [START_MS + TEN_MIN_MS, START_MS - TEN_MIN_MS] {
            let (wall, steady) = clocks();
            wall.set_ms(to);
            assert_eq!(steady.now_ms(), START_MS);
            wall.advance(Duration::from_secs(1));
            let shown = steady.now_ms();
            assert!((950..=1_050).contains(&(shown - START_MS)), "{shown}");
            let mut last = shown;
            for _ in 0..210 {
                wall.advance(Duration::from_mins(1));
                let shown = steady.now_ms();
                assert!(shown > last, "it never goes back");
                last = shown;
            }
            assert_eq!(steady.now_ms(), wall.now_ms(), "closed after 210 minutes");
        }
    }

    #[test]
    fn a_wrong_clock_that_is_put_right_is_followed_at_once() {
        for to in [
            START_MS + TEN_MIN_MS + 1,
            START_MS - HOUR_MS,
            START_MS + 400 * 24 * HOUR_MS,
        ] {
            let (wall, steady) = clocks();
            wall.set_ms(to);
            assert_eq!(steady.now_ms(), wall.now_ms());
        }
        // Two that are small each count together.
        let (wall, steady) = clocks();
        for _ in 0..2 {
            wall.set_ms(wall.now_ms() + TEN_MIN_MS);
            steady.now_ms();
        }
        assert_eq!(steady.now_ms(), wall.now_ms());
    }
}
