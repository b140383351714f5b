//! Wall-clock instants on the wire: milliseconds since the Unix epoch. Reading the clock is the
//! caller's business.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

/// State envelopes carry a time rounded down to this, so that no clock's fingerprint leaks (spec §5).
pub const STATE_ROUNDING: Duration = Duration::from_mins(1);

impl UnixMillis {
    /// Later by `span`; stays at the end of time rather than wrapping.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Earlier by `span`, at least the epoch.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Rounded down to a minute.
    #[must_use]
    pub fn rounded_for_state(self) -> Self {
        Self(self.0 - self.0 % (STATE_ROUNDING.as_millis() as u64))
    }
}

/// The next sequence number of a (key, purpose): max(last + 1, rounded issue time in ms) (spec §5).
pub fn next_sequence(last: Option<u64>, issued_at: UnixMillis) -> u64 {
    issued_at
        .rounded_for_state()
        .0
        .max(last.map_or(0, |n| n.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_rises_even_when_the_clock_falls() {
        let now = UnixMillis(120_500);
        assert_eq!(next_sequence(None, now), 120_000);
        assert_eq!(next_sequence(Some(120_000), now), 120_001);
        assert_eq!(next_sequence(Some(180_007), UnixMillis(60_000)), 180_008);
    }
}
