//! `trimmed_mean` and `median`, element by element (Yin et al. 2018). An update without a value there says 0, so on
//! sparse updates both mostly say 0 too: they are here to show it.

use super::{Combine, Decision, Round, Strategy, StrategyName, blank, check, share};
use crate::error::DecideError;

#[derive(Debug)]
pub(super) struct TrimmedMean;

impl Strategy for TrimmedMean {
    fn name(&self) -> StrategyName {
        StrategyName::TrimmedMean
    }

    fn decide(&self, round: &Round<'_>) -> Result<Decision, DecideError> {
        let n = check(round)?;
        // At least one is left.
        let cut = ((round.policy.trim * n as f64) as usize).min((n - 1) / 2);
        let mut decision = blank(round, self.name(), Combine::Trimmed { cut });
        share(&mut decision, |_| 1.0)?;
        Ok(decision)
    }
}

#[derive(Debug)]
pub(super) struct Median;

impl Strategy for Median {
    fn name(&self) -> StrategyName {
        StrategyName::Median
    }

    fn decide(&self, round: &Round<'_>) -> Result<Decision, DecideError> {
        check(round)?;
        let mut decision = blank(round, self.name(), Combine::Median);
        share(&mut decision, |_| 1.0)?;
        Ok(decision)
    }
}
