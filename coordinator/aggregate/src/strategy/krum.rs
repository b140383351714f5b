//! `krum` and `multi_krum` (Blanchard et al. 2017): those whose n − f − 2 nearest neighbours are nearest, f being 30 %
//! of n. Of equal scores the lower key counts.

use super::{Combine, Decision, Round, Strategy, StrategyName, blank, check, share};
use crate::{error::DecideError, gates::Reason};

/// Each update's sum of squared distances to its nearest, and the assumed number of attackers.
fn scores(round: &Round<'_>) -> (Vec<f64>, usize) {
    let n = round.submissions.len();
    let attackers = (round.policy.krum_attackers * n as f64) as usize;
    let neighbours = n.saturating_sub(attackers + 2).max(1);
    let statistics = round.statistics;
    let score = |i: usize| {
        let square = |j: usize| statistics.dot(j, j);
        let distance = |j: usize| (square(i) + square(j) - 2.0 * statistics.dot(i, j)).max(0.0);
        let mut distances: Vec<f64> = (0..n).filter(|j| *j != i).map(distance).collect();
        distances.sort_unstable_by(f64::total_cmp);
        distances.iter().take(neighbours).sum()
    };
    ((0..n).map(score).collect(), attackers)
}

fn nearest(round: &Round<'_>, name: StrategyName, one: bool) -> Result<Decision, DecideError> {
    let n = check(round)?;
    let (scores, attackers) = scores(round);
    let mut decision = blank(round, name, Combine::Mean);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| {
        let keys = || round.submissions[*i].node.cmp(&round.submissions[*j].node);
        scores[*i].total_cmp(&scores[*j]).then_with(keys)
    });
    let taken = if one { 1 } else { (n - attackers).max(1) };
    for i in &order[taken..] {
        let score = scores[*i];
        decision.verdicts[*i].rejected = Some(Reason::NotSelected { score });
    }
    share(&mut decision, |_| 1.0)?;
    Ok(decision)
}

#[derive(Debug)]
pub(super) struct Krum;

impl Strategy for Krum {
    fn name(&self) -> StrategyName {
        StrategyName::Krum
    }

    fn decide(&self, round: &Round<'_>) -> Result<Decision, DecideError> {
        nearest(round, self.name(), true)
    }
}

#[derive(Debug)]
pub(super) struct MultiKrum;

impl Strategy for MultiKrum {
    fn name(&self) -> StrategyName {
        StrategyName::MultiKrum
    }

    fn decide(&self, round: &Round<'_>) -> Result<Decision, DecideError> {
        nearest(round, self.name(), false)
    }
}
