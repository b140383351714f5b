//! `fedavg`, the founding rule, and `clip_mean`: means by tier and stake bonus without gates.

use super::{Combine, Decision, Round, Strategy, StrategyName, blank, check, share};
use crate::{
    error::DecideError,
    gates::{Reason, clip_to_median},
};

/// Beyond so many standard deviations an update does not count.
const SIGMAS_MAX: f64 = 3.0;

fn tier_and_stake(round: &Round<'_>) -> impl Fn(usize) -> f64 {
    |i| {
        let submission = &round.submissions[i];
        f64::from(submission.tier.0) * f64::from(submission.stake_bonus.0)
    }
}

#[derive(Debug)]
pub(super) struct FedAvg;

impl Strategy for FedAvg {
    fn name(&self) -> StrategyName {
        StrategyName::FedAvg
    }

    fn decide(&self, round: &Round<'_>) -> Result<Decision, DecideError> {
        check(round)?;
        let mut decision = blank(round, self.name(), Combine::Mean);
        for verdict in &mut decision.verdicts {
            if verdict.norm > round.policy.clip {
                verdict.scale = round.policy.clip / verdict.norm;
            }
            if verdict.sigmas.abs() > SIGMAS_MAX {
                let sigmas = verdict.sigmas;
                verdict.rejected = Some(Reason::ThreeSigma { sigmas });
            }
        }
        share(&mut decision, tier_and_stake(round))?;
        Ok(decision)
    }
}

#[derive(Debug)]
pub(super) struct ClipMean;

impl Strategy for ClipMean {
    fn name(&self) -> StrategyName {
        StrategyName::ClipMean
    }

    fn decide(&self, round: &Round<'_>) -> Result<Decision, DecideError> {
        let n = check(round)?;
        let mut decision = blank(round, self.name(), Combine::Mean);
        let all: Vec<usize> = (0..n).collect();
        let scales = clip_to_median(round.statistics, &all, n);
        for (verdict, scale) in decision.verdicts.iter_mut().zip(scales) {
            verdict.scale = scale;
        }
        share(&mut decision, tier_and_stake(round))?;
        Ok(decision)
    }
}
