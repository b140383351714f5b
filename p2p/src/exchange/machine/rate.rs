//! How fast a source delivers while it has something to deliver: bytes per second of late, over windows of
//! [`WINDOW`], each weighing half as much as all before it. Time without requests does not count.

use std::time::Duration;

/// Long enough to hold several requests of a fair link, short enough to see a change within a second.
const WINDOW: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(super) struct Rate {
    per_s: Option<u64>,
    since: Duration,
    bytes: u64,
}

impl Rate {
    /// There is something to deliver again.
    pub(super) fn begin(&mut self, now: Duration) {
        self.since = now;
        self.bytes = 0;
    }

    /// Bytes came.
    pub(super) fn add(&mut self, now: Duration, bytes: u64) {
        self.bytes += bytes;
        if now.saturating_sub(self.since) >= WINDOW {
            self.per_s = Some(self.with_window(now));
            self.begin(now);
        }
    }

    /// Bytes per second; `None` before anything was measured. Silence makes it fall.
    pub(super) fn at(&self, now: Duration) -> Option<u64> {
        if now.saturating_sub(self.since) >= 5 * WINDOW {
            Some(self.with_window(now))
        } else {
            self.per_s
        }
    }

    /// What was measured so far, without the silence since.
    pub(super) fn known(&self) -> Option<u64> {
        self.per_s
    }

    fn with_window(&self, now: Duration) -> u64 {
        let span = now.saturating_sub(self.since).max(WINDOW);
        let sample = u64::try_from(u128::from(self.bytes) * 1_000_000 / span.as_micros());
        let sample = sample.unwrap_or(u64::MAX);
        // A long window says by itself what a few short ones would have.
        let is_long = span >= 5 * WINDOW;
        match self.per_s {
            Some(before) if !is_long => before / 2 + sample / 2,
            _ => sample,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_steady_stream_is_measured_and_silence_makes_it_fall() {
        let mut rate = Rate::default();
        rate.begin(100 * MS);
        assert_eq!(rate.at(150 * MS), None);
        for step in 1..=100 {
            rate.add((100 + 20 * step) * MS, 20_000);
        }
        assert_eq!(rate.at(2_100 * MS), Some(1_000_000));
        assert_eq!(rate.at(12_100 * MS), Some(0));
        rate.begin(60_000 * MS);
        assert_eq!(rate.at(60_100 * MS), Some(1_000_000), "pauses don't count");
    }
}
