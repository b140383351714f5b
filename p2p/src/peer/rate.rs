//! Token buckets: how much one peer, one key or one topic may ask of us. `gossip::rules` keeps one
//! [`Meter`] (a single instant) per thing it limits. Must stay true: only monotonic time is used, so a wall
//! clock that jumps neither fills nor empties a bucket.

use std::time::Duration;

/// So much, no more: `burst` at once, and one more every `period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Between two tokens in the long run.
    pub period: Duration,
    /// Tokens of a full bucket, at least 1.
    pub burst: u32,
}

/// A bucket's level, as the instant at which it is full again (GCRA, the "virtual scheduling" form of the
/// leaky bucket: ITU-T I.371). New: full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meter {
    full_at: Duration,
}

impl Rate {
    /// `count` tokens in each `span`, all of them at once if they were saved up.
    pub fn per(span: Duration, count: u32) -> Self {
        let burst = count.max(1);
        Self {
            period: span / burst,
            burst,
        }
    }

    /// The same long run rate with another burst.
    #[must_use]
    pub fn with_burst(self, burst: u32) -> Self {
        Self {
            burst: burst.max(1),
            ..self
        }
    }
}

impl Meter {
    /// Whether a token is left at `now` (monotonic).
    pub fn has(&self, rate: Rate, now: Duration) -> bool {
        let room = rate.period.saturating_mul(rate.burst);
        self.full_at.max(now).saturating_add(rate.period) <= now.saturating_add(room)
    }

    /// Takes a token; `false`, and nothing taken, if there is none.
    pub fn take(&mut self, rate: Rate, now: Duration) -> bool {
        let has = self.has(rate, now);
        if has {
            self.full_at = self.full_at.max(now).saturating_add(rate.period);
        }
        has
    }

    /// Gives a token back.
    pub fn give_back(&mut self, rate: Rate) {
        self.full_at = self.full_at.saturating_sub(rate.period);
    }

    /// Full, whatever was taken.
    pub fn refill(&mut self) {
        self.full_at = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_one_a_period() {
        let rate = Rate::per(Duration::from_mins(1), 3);
        let (mut meter, now) = (Meter::default(), Duration::from_secs(1_000));
        assert!((0..3).all(|_| meter.take(rate, now)));
        assert!(!meter.take(rate, now));
        assert!(!meter.take(rate, now + Duration::from_secs(19)));
        assert!(meter.take(rate, now + Duration::from_secs(20)));
        meter.give_back(rate);
        assert!(meter.take(rate, now + Duration::from_secs(20)));
        meter.refill();
        assert!((0..3).all(|_| meter.take(rate, now)));
    }

    proptest! {
        /// However the attempts are spread, no window lets more through than burst and rate allow.
        #[test]
        fn no_schedule_gets_more_than_its_share(
            gaps in proptest::collection::vec(0_u64..400, 1..300),
            burst in 1_u32..20,
            period_ms in 1_u64..500,
        ) {
            let rate = Rate { period: Duration::from_millis(period_ms), burst };
            let (mut meter, mut now, mut taken) = (Meter::default(), Duration::ZERO, 0_u64);
            for gap in gaps {
                now += Duration::from_millis(gap);
                taken += u64::from(meter.take(rate, now));
                let allowed = u64::from(burst) + now.as_millis() as u64 / period_ms;
                prop_assert!(taken <= allowed, "{taken} of {allowed}");
            }
        }
    }
}
