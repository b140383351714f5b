//! Uptime, reliability, the tier in effect, and when a silent session is gone (spec §6). Called by the
//! heartbeat fold and by the lease reconciler; all times are the coordinator's.

use std::{ops::Range, time::Duration};

use owm_proto::{Permille, Tier, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::stored::stored_enum;

/// Minutes of the rolling window: seven days.
pub const WINDOW_MINUTES: u64 = 7 * 24 * 60;

/// Minutes kept before they are pruned: eight days, so that the window is always whole.
pub const KEPT_MINUTES: u64 = 8 * 24 * 60;

const MINUTE_MS: u64 = 60_000;

/// The minute (`node_minutes.minute`) that `at` lies in.
pub const fn minute_of(at: UnixMillis) -> u64 {
    at.0 / MINUTE_MS
}

/// The whole minutes that uptime is measured over: the last seven days, from registration at the
/// earliest, the current minute excluded. Empty in a node's first minute.
pub fn uptime_window(registered_at: UnixMillis, now: UnixMillis) -> Range<u64> {
    let end = minute_of(now);
    let start = end
        .saturating_sub(WINDOW_MINUTES)
        .max(minute_of(registered_at))
        .min(end);
    start..end
}

/// Share of the window's minutes with a heartbeat, floored to thousandths; 1 while the window is
/// empty. `minutes_seen` counts rows of `node_minutes` inside `window`.
pub fn uptime(window: &Range<u64>, minutes_seen: u64) -> Permille {
    let elapsed = window.end.saturating_sub(window.start);
    if elapsed == 0 {
        return Permille::ONE;
    }
    let share = u128::from(minutes_seen.min(elapsed)) * 1_000 / u128::from(elapsed);
    Permille(u32::try_from(share).expect("at most 1000: the count was capped at the window"))
}

/// The tier used for rewards and selection: one lower while the tier's uptime target is missed.
pub fn effective_tier(tier: Tier, uptime: Permille) -> Tier {
    if uptime < tier.terms().uptime_target {
        tier.lowered()
    } else {
        tier
    }
}

/// successful / total × uptime, floored to thousandths; 1 until the first task.
pub fn reliability(succeeded: u64, total: u64, uptime: Permille) -> Permille {
    if total == 0 {
        return Permille::ONE;
    }
    let share =
        u128::from(succeeded.min(total)) * u128::from(uptime.0.min(1_000)) / u128::from(total);
    Permille(u32::try_from(share).expect("at most 1000: both factors were capped"))
}

stored_enum! {
    /// How a node's session reaches the coordinator.
    SessionKind, "session kind" {
        /// A Work stream.
        Stream = "stream",
        /// The long-poll twin.
        Poll = "poll",
        /// A Work stream over Tor.
        Tor = "tor",
    }
}

/// When silence means gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRules {
    /// Between two pings of a stream.
    pub ping: Duration,
    /// So many in a row missed: gone.
    pub missed_max: u32,
    /// A stream lost for so long: gone.
    pub stream_lost: Duration,
    /// Silence that `poll` and `tor` are allowed.
    pub patient: Duration,
}

impl Default for SessionRules {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(10),
            missed_max: 3,
            stream_lost: Duration::from_secs(30),
            patient: Duration::from_mins(3),
        }
    }
}

/// What was seen of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSigns {
    /// How it reaches us.
    pub kind: SessionKind,
    /// Last message of any kind.
    pub last_sign_at: UnixMillis,
    /// When its stream broke, if it did and has not come back.
    pub stream_lost_at: Option<UnixMillis>,
    /// End of the lease in question, if there is one.
    pub lease_expires_at: Option<UnixMillis>,
}

impl SessionRules {
    /// From when on the session is gone, unless something more is heard. For `poll` and `tor` that is
    /// after the patient span or at the lease's deadline, whichever comes first.
    pub fn gone_at(&self, signs: &SessionSigns) -> UnixMillis {
        match signs.kind {
            SessionKind::Stream => match signs.stream_lost_at {
                Some(lost) => lost.after(self.stream_lost),
                None => signs
                    .last_sign_at
                    .after(self.ping.saturating_mul(self.missed_max)),
            },
            SessionKind::Poll | SessionKind::Tor => {
                let patience_ends = signs.last_sign_at.after(self.patient);
                signs
                    .lease_expires_at
                    .map_or(patience_ends, |lease| lease.min(patience_ends))
            }
        }
    }

    /// Whether it is gone by `now`.
    pub fn is_gone(&self, signs: &SessionSigns, now: UnixMillis) -> bool {
        now >= self.gone_at(signs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY_MS: u64 = 24 * 3_600_000;

    #[test]
    fn the_window_starts_at_registration_and_rolls_after_seven_days() {
        let registered = UnixMillis(100 * DAY_MS);
        assert_eq!(uptime_window(registered, registered).count(), 0);
        assert_eq!(
            uptime_window(registered, UnixMillis(101 * DAY_MS)).count(),
            1_440
        );
        let late = UnixMillis(120 * DAY_MS);
        assert_eq!(uptime_window(registered, late), 113 * 1_440..120 * 1_440);
        assert_eq!(
            uptime_window(late, registered).count(),
            0,
            "a clock set back is no outage"
        );
    }

    #[test]
    fn uptime_is_the_share_of_minutes_seen() {
        let cases = [
            ((0, 0), 1_000),
            ((0, 10), 0),
            ((9, 10), 900),
            ((10, 10), 1_000),
            ((99, 10), 1_000),
            ((2, 3), 666),
        ];
        for ((seen, elapsed), permille) in cases {
            assert_eq!(uptime(&(50..50 + elapsed), seen), Permille(permille));
        }
    }

    #[test]
    fn missing_the_uptime_target_lowers_the_tier_by_one_until_met() {
        let cases = [
            (Tier::T3, 990, Tier::T3),
            (Tier::T3, 989, Tier::T2),
            (Tier::T3, 0, Tier::T2),
            (Tier::T2, 899, Tier::T1),
            (Tier::T2, 900, Tier::T2),
            (Tier::T1, 0, Tier::T1),
        ];
        for (tier, uptime, effective) in cases {
            assert_eq!(
                effective_tier(tier, Permille(uptime)),
                effective,
                "{tier} {uptime}"
            );
        }
    }

    #[test]
    fn reliability_is_one_until_the_first_task() {
        assert_eq!(reliability(0, 0, Permille(500)), Permille::ONE);
        assert_eq!(reliability(3, 4, Permille(1_000)), Permille(750));
        assert_eq!(reliability(3, 4, Permille(900)), Permille(675));
        assert_eq!(reliability(0, 4, Permille(900)), Permille(0));
    }

    #[test]
    fn three_missed_pings_or_a_stream_lost_for_thirty_seconds_mean_gone() {
        let rules = SessionRules::default();
        let mut signs = SessionSigns {
            kind: SessionKind::Stream,
            last_sign_at: UnixMillis(1_000_000),
            stream_lost_at: None,
            lease_expires_at: Some(UnixMillis(1_005_000)),
        };
        assert!(!rules.is_gone(&signs, UnixMillis(1_029_999)));
        assert!(rules.is_gone(&signs, UnixMillis(1_030_000)));
        signs.stream_lost_at = Some(UnixMillis(1_009_000));
        assert!(!rules.is_gone(&signs, UnixMillis(1_038_999)));
        assert!(rules.is_gone(&signs, UnixMillis(1_039_000)));
    }

    #[test]
    fn poll_and_tor_are_waited_for_until_the_lease_ends() {
        let rules = SessionRules::default();
        for kind in [SessionKind::Poll, SessionKind::Tor] {
            let mut signs = SessionSigns {
                kind,
                last_sign_at: UnixMillis(1_000_000),
                stream_lost_at: Some(UnixMillis(1_001_000)),
                lease_expires_at: None,
            };
            assert_eq!(rules.gone_at(&signs), UnixMillis(1_180_000));
            signs.lease_expires_at = Some(UnixMillis(1_060_000));
            assert_eq!(rules.gone_at(&signs), UnixMillis(1_060_000));
        }
    }

    proptest! {
        #[test]
        fn shares_never_exceed_one_and_nothing_panics(
            registered: u64, now: u64, seen: u64, succeeded: u64, total: u64, share: u32,
        ) {
            let window = uptime_window(UnixMillis(registered), UnixMillis(now));
            prop_assert!(uptime(&window, seen) <= Permille::ONE);
            prop_assert!(reliability(succeeded, total, Permille(share)) <= Permille::ONE);
        }
    }
}
