//! Norm: how far ln‖u‖ is above the round's median, in robust deviations. Only the high side is rejected; a short
//! update does no harm.

use serde::{Deserialize, Serialize};

use super::{Field, Flag, Gated, Reason};
use crate::sample::{MAD_TO_SIGMA, mad, median};

/// From so many past rounds on their centre counts too.
const HISTORY_FROM: u32 = 5;

/// How much of the newest round is in the moving average.
const NEWEST: f64 = 0.5;

/// Centre and spread of ln‖u‖ over the past rounds of one training with one configuration, as exponential moving
/// averages. Begins anew when steps, clip or mode change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NormHistory {
    /// How many rounds are in it.
    pub rounds: u32,
    /// Of the medians.
    pub centre: f64,
    /// Of the deviations.
    pub spread: f64,
}

impl NormHistory {
    /// With one round more. The average is used only from the sixth round on: until then the first rounds, in which
    /// norms still fall fast, would hold good updates to be outliers.
    #[must_use]
    pub fn with(self, centre: f64, spread: f64) -> Self {
        let mix = |old: f64, new: f64| {
            if self.rounds == 0 {
                new
            } else {
                NEWEST * new + (1.0 - NEWEST) * old
            }
        };
        Self {
            rounds: self.rounds.saturating_add(1),
            centre: mix(self.centre, centre),
            spread: mix(self.spread, spread),
        }
    }
}

/// Rejects what is empty or far too long, flags what is long or short.
pub(super) fn run(field: &Field<'_>, gated: &mut Gated) {
    let n = field.submissions.len();
    let mut logs = vec![f64::NAN; n];
    for (i, log) in logs.iter_mut().enumerate() {
        let norm = field.statistics.norm(i);
        if norm > 0.0 {
            *log = libm::log(norm);
        } else {
            gated.rejected[i] = Some(Reason::Empty);
        }
    }
    let some: Vec<f64> = logs.iter().copied().filter(|log| !log.is_nan()).collect();
    if some.is_empty() {
        return;
    }
    let centre = median(&some);
    let spread = MAD_TO_SIGMA * mad(&some, centre);
    let history = field.history.with(centre, spread);
    gated.history = history;
    let (centre, spread) = if field.history.rounds >= HISTORY_FROM {
        (history.centre, history.spread)
    } else {
        (centre, spread)
    };
    let denominator = spread.max(field.policy.norm_floor);
    for (i, log) in logs.iter().enumerate() {
        let score = (log - centre) / denominator;
        if score > field.policy.norm_reject {
            gated.rejected[i] = Some(Reason::Norm { score });
        } else if score > field.policy.norm_flag {
            gated.flags[i] = Some(Flag::Long { score });
        } else if score < -field.policy.norm_flag {
            gated.flags[i] = Some(Flag::Short { score });
        }
    }
}
