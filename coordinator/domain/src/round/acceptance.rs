//! Whether a candidate becomes the next version (spec §10.8): measured on the exact bytes, by nodes of different owners.

use serde::{Deserialize, Serialize};

use super::deadline::median;

/// Evaluators that are asked for, each of another owner.
pub const EVALUATORS: usize = 3;

/// How many past versions the best is taken of.
pub const BEST_OF: usize = 10;

/// Thousandths of the parent's loss that a candidate may have: half a percent above.
const PARENT_PERMILLE: u128 = 1_005;

/// Thousandths of the best recent loss that a candidate may have: one percent above.
const BEST_PERMILLE: u128 = 1_010;

/// A held-out loss, in micronats per byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Loss(pub u64);

/// What is known of a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Of the candidate, by each evaluator.
    pub candidate: Vec<Loss>,
    /// Of the parent, by the same ones on the same data.
    pub parent: Vec<Loss>,
    /// Of the last published versions on that data, newest first; those beyond ten are ignored.
    pub recent: Vec<Loss>,
}

/// What is decided, and by which figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// It becomes the next version.
    Accepted {
        /// The median.
        candidate: Loss,
        /// The median.
        parent: Loss,
    },
    /// More than half a percent worse than its parent.
    WorseThanParent {
        /// The median.
        candidate: Loss,
        /// The median.
        parent: Loss,
    },
    /// More than one percent worse than the best of the last ten: many small steps down.
    WorseThanBest {
        /// The median.
        candidate: Loss,
        /// The best.
        best: Loss,
    },
    /// Nobody has measured it.
    Unmeasured,
}

/// Decides by medians.
pub fn decide(measured: &Measured) -> Verdict {
    let middle = |losses: &[Loss]| {
        let mut sorted: Vec<u64> = losses.iter().map(|loss| loss.0).collect();
        sorted.sort_unstable();
        (!sorted.is_empty()).then(|| Loss(median(&sorted)))
    };
    let (Some(candidate), Some(parent)) = (middle(&measured.candidate), middle(&measured.parent))
    else {
        return Verdict::Unmeasured;
    };
    let above =
        |of: Loss, permille: u128| u128::from(candidate.0) * 1_000 > u128::from(of.0) * permille;
    if above(parent, PARENT_PERMILLE) {
        return Verdict::WorseThanParent { candidate, parent };
    }
    match measured.recent.iter().take(BEST_OF).min() {
        Some(best) if above(*best, BEST_PERMILLE) => Verdict::WorseThanBest {
            candidate,
            best: *best,
        },
        _ => Verdict::Accepted { candidate, parent },
    }
}
