//! `owm_robust`: every gate, the median clip, the capped weights (spec §10.4–5).

use super::{Combine, Decision, Round, Strategy, StrategyName, blank, check, share_capped};
use crate::{
    error::DecideError,
    gates::{self, Reason},
};

#[derive(Debug)]
pub(super) struct OwmRobust;

impl Strategy for OwmRobust {
    fn name(&self) -> StrategyName {
        StrategyName::OwmRobust
    }

    fn decide(&self, round: &Round<'_>) -> Result<Decision, DecideError> {
        check(round)?;
        let gated = gates::run(round);
        // A tiny round goes without; one that faults have made small does not.
        let is_tiny = round.policy.allow_tiny && round.submissions.len() < gates::TINY_BELOW;
        if gated.reduced_protection && round.reference.is_none() && !is_tiny {
            let early = |reason: &Option<Reason>| reason.is_some();
            let rejected = gated.rejected.iter().filter(|reason| early(reason)).count();
            return Err(DecideError::NoReference(round.submissions.len() - rejected));
        }
        let mut decision = blank(round, self.name(), Combine::Mean);
        decision.reduced_protection = gated.reduced_protection;
        decision.history = gated.history;
        let said = gated.rejected.into_iter().zip(gated.flags).zip(gated.scale);
        for (verdict, ((rejected, flag), scale)) in decision.verdicts.iter_mut().zip(said) {
            (verdict.rejected, verdict.flag, verdict.scale) = (rejected, flag, scale);
        }
        share_capped(&mut decision, round)?;
        Ok(decision)
    }
}
