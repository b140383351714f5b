//! When a member registers again to renew its membership: in good time, and in no hurry while the
//! coordinator fails or grants too little time. Pure; `daemon` brings time and chance.
//! Must stay true: between the end of a registration and the next renewal lie minutes, whatever came of it.

use std::time::Duration;

use owm_proto::UnixMillis;
use owm_service::backoff::Backoff;
use rand::Rng;

/// A membership is renewed when less than this is left of it.
const RENEW_BEFORE: Duration = Duration::from_hours(24);
/// First and longest step between renewals; at least half of a step passes.
const STEPS: (Duration, Duration) = (Duration::from_mins(2), Duration::from_mins(20));

/// When to renew.
#[derive(Clone, Debug)]
pub struct Renewal {
    backoff: Backoff,
    /// Monotonic.
    renew_at: Duration,
    is_underway: bool,
}

impl Default for Renewal {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(STEPS.0, STEPS.1, 2),
            renew_at: Duration::ZERO,
            is_underway: false,
        }
    }
}

impl Renewal {
    /// Whether to register again now, at monotonic time `at`; then [`Self::ended`] must follow.
    pub fn start(&mut self, at: Duration, now: UnixMillis, expires: UnixMillis) -> bool {
        if now.after(RENEW_BEFORE) <= expires {
            self.backoff.reset();
            return false;
        }
        let starts = !self.is_underway && at >= self.renew_at;
        self.is_underway |= starts;
        starts
    }

    /// A registration has ended, well or not. Says whether it was a renewal.
    pub fn ended(&mut self, at: Duration, rng: &mut impl Rng) -> bool {
        self.renew_at = at + self.backoff.next(rng);
        std::mem::take(&mut self.is_underway)
    }
}

#[cfg(test)]
mod tests {
    use owm_service::rng::Seed;

    use super::*;

    const NOW: UnixMillis = UnixMillis(0);
    const SECOND: Duration = Duration::from_secs(1);

    fn day_and(more: Duration) -> UnixMillis {
        NOW.after(RENEW_BEFORE + more)
    }

    #[test]
    fn a_membership_is_renewed_in_its_last_day_once_at_a_time() {
        let mut renewal = Renewal::default();
        assert!(!renewal.start(SECOND, NOW, day_and(SECOND)));
        assert!(renewal.start(SECOND, NOW.after(2 * SECOND), day_and(SECOND)));
        assert!(!renewal.start(STEPS.1, NOW.after(2 * SECOND), day_and(SECOND)));
    }

    #[test]
    fn renewals_that_fail_or_grant_too_little_keep_their_distance() {
        let mut renewal = Renewal::default();
        let mut rng = Seed::from_u64(1).rng("renewal");
        let mut at = SECOND;
        assert!(!renewal.ended(at, &mut rng), "the first registration");
        for _ in 0..10 {
            assert!(!renewal.start(at + STEPS.0 / 3, NOW, NOW));
            at += STEPS.1;
            assert!(renewal.start(at, NOW, NOW), "tried again in time");
            assert!(renewal.ended(at, &mut rng));
        }
    }
}
