//! Until when a round collects (spec §10.3): as long as most need, and not for the last straggler.

use std::time::Duration;

use owm_proto::{Permille, UnixMillis};
use serde::{Deserialize, Serialize};

/// How many median absolute deviations after the median arrival a round still waits.
const DEVIATIONS: u64 = 3;

/// A round's own figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// No round ends sooner, unless all have handed in.
    pub min: Duration,
    /// No round takes longer.
    pub max: Duration,
    /// The share of those asked that must have committed before a round ends early: 700, so that three in ten may drop
    /// out and hold nobody up.
    pub quorum: Permille,
    /// How long after the end the bytes of a commit may still come.
    pub grace: Duration,
}

impl Deadline {
    /// Half an hour to six hours, seven in ten, two minutes for the bytes.
    pub const DEFAULT: Self = Self {
        min: Duration::from_mins(30),
        max: Duration::from_hours(6),
        quorum: Permille(700),
        grace: Duration::from_mins(2),
    };

    /// How many of `asked` are a quorum: rounded up, at least one.
    pub fn quorum_of(&self, asked: usize) -> usize {
        let share = asked as u128 * u128::from(self.quorum.0.min(1_000));
        usize::try_from(share.div_ceil(1_000)).map_or(asked, |some| some.max(1))
    }

    /// When commits are no longer taken, by what has come in so far: all are in: with the last of them; a quorum is: three
    /// deviations after the median, within the limits; otherwise as late as can be.
    pub fn closes_at(
        &self,
        opened: UnixMillis,
        asked: usize,
        arrivals: &[UnixMillis],
    ) -> UnixMillis {
        let mut after: Vec<u64> = arrivals
            .iter()
            .map(|at| at.0.saturating_sub(opened.0))
            .collect();
        after.sort_unstable();
        let latest = opened.after(self.max);
        if after.len() < self.quorum_of(asked) {
            return latest;
        }
        let last = after.last().copied().unwrap_or_default();
        if after.len() >= asked {
            return opened.after(Duration::from_millis(last)).min(latest);
        }
        let centre = median(&after);
        let mut distances: Vec<u64> = after.iter().map(|at| at.abs_diff(centre)).collect();
        distances.sort_unstable();
        let wait = Duration::from_millis(
            centre.saturating_add(DEVIATIONS.saturating_mul(median(&distances))),
        );
        opened.after(wait.max(self.min).min(self.max))
    }
}

/// Of sorted numbers; of an even number the mean of the two in the middle, rounded down. 0 of none.
pub(super) fn median(sorted: &[u64]) -> u64 {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0,
        n if n % 2 == 1 => sorted[half],
        _ => u64::midpoint(sorted[half - 1], sorted[half]),
    }
}
