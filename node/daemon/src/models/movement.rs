//! Whether a fetch from peers moves. `peers` asks it before it gives them up.
//! Must stay true: a byte now and then is no movement, however it is spread.

use std::time::Duration;

use tokio::time::Instant;

/// Below this nothing moves: a slow line brings a hundred times as much. The exchange calls the same a trickle.
const USEFUL_BYTES_PER_S: u64 = 1 << 10;

/// What has come since when.
#[derive(Debug)]
pub(super) struct Movement {
    since: Instant,
    bytes: u64,
}

impl Movement {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
        }
    }

    /// So many bytes have come; whether for `patience` nothing of use has.
    pub(super) fn stands_still(&mut self, came: u64, now: Instant, patience: Duration) -> bool {
        self.bytes = self.bytes.saturating_add(came);
        if self.bytes >= USEFUL_BYTES_PER_S * patience.as_secs().max(1) {
            *self = Self::new(now);
        }
        now.saturating_duration_since(self.since) > patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// For how many seconds of an hour it moves, if every second brings so many bytes.
    fn moves(bytes: u64) -> u64 {
        let begun = Instant::now();
        let mut movement = Movement::new(begun);
        let mut seconds = 1..=3_600;
        let still = |second: &u64| {
            movement.stands_still(bytes, begun + Duration::from_secs(*second), PATIENCE)
        };
        seconds.find(still).unwrap_or(3_600)
    }

    #[test]
    fn a_trickle_is_no_movement_and_a_slow_line_is_one() {
        assert_eq!((moves(0), moves(1), moves(900)), (31, 31, 31));
        assert_eq!((moves(1_100), moves(1 << 20)), (3_600, 3_600));
    }
}
