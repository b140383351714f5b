//! The rules by which updates become one step, behind one trait (spec §10). `owm_robust` is what the network uses; the
//! others are there to be compared with (`make bench-attacks`), and Multi-Krum to fall back to.

mod coordinate;
mod krum;
mod plain;
mod robust;

use std::{fmt, str::FromStr};

use owm_proto::PublicKey;
use serde::{Deserialize, Serialize};

use crate::{
    error::DecideError,
    gates::{Field, Flag, NormHistory, Reason},
    sample::sigmas,
    weights::{Relaxed, weigh},
};

/// What a strategy decides on.
pub type Round<'a> = Field<'a>;

/// How the accepted updates become one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "combine")]
pub enum Combine {
    /// Σ weight · scale · value, per element.
    Mean,
    /// The mean of what is left when so many are cut off at either side, per element.
    Trimmed {
        /// At each side.
        cut: usize,
    },
    /// The median, per element.
    Median,
}

/// What became of one update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whose it is.
    pub node: PublicKey,
    /// Why it does not count; `None`: it does.
    pub rejected: Option<Reason>,
    /// Noted without consequence.
    pub flag: Option<Flag>,
    /// Norm, decoded.
    pub norm: f64,
    /// How many standard deviations its norm is from the mean: the founding rule's figure, always there. It cannot
    /// exceed 3 for n ≤ 10, nor show colluders of equal norm.
    pub sigmas: f64,
    /// What its values are multiplied with to be no longer than the bound.
    pub scale: f64,
    /// Its share of the whole; 0 if it does not count.
    pub weight: f64,
}

/// A strategy's answer: all that the second pass needs, and what goes into the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// By which rule.
    pub strategy: StrategyName,
    /// Of each update, in the order of the submissions.
    pub verdicts: Vec<Verdict>,
    /// How those that count become one.
    pub combine: Combine,
    /// Caps that were not kept.
    pub relaxed: Vec<Relaxed>,
    /// Below six updates: only a reference update told the direction, or none (`allow_tiny`).
    pub reduced_protection: bool,
    /// For the next round of the same training.
    pub history: NormHistory,
}

impl Decision {
    /// As the round's record keeps it: JSON in which every number comes back to the bit.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names only")
    }

    /// Reads a record. (Other readers of JSON may lose a number's last bit: serde_json does without the feature that this
    /// crate asks for.)
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The updates that count, in the order of their keys: the order in which everything is summed.
    pub fn accepted(&self) -> Vec<usize> {
        let counts = |i: &usize| self.verdicts[*i].rejected.is_none();
        let mut accepted: Vec<usize> = (0..self.verdicts.len()).filter(counts).collect();
        accepted.sort_by_key(|i| self.verdicts[*i].node);
        accepted
    }
}

/// One rule.
pub trait Strategy: Sync {
    /// What it is called in configurations and records.
    fn name(&self) -> StrategyName;

    /// Which updates count, and how much.
    fn decide(&self, round: &Round<'_>) -> Result<Decision, DecideError>;
}

macro_rules! strategies {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $rule:expr;)*) => {
        /// The strategies by name; a name never changes.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum StrategyName { $($(#[$doc])* #[serde(rename = $text)] $name),* }

        impl StrategyName {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As in configurations and records.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// The rule itself.
            pub fn strategy(self) -> &'static dyn Strategy {
                match self { $(Self::$name => &$rule),* }
            }
        }
    };
}

strategies! {
    /// Gates, median clipping, capped weights: the network's.
    #[default]
    OwmRobust = "owm_robust", robust::OwmRobust;
    /// The founding rule: clip, three sigma, mean by tier and stake.
    FedAvg = "fedavg", plain::FedAvg;
    /// Clip to the median norm, mean by tier and stake.
    ClipMean = "clip_mean", plain::ClipMean;
    /// Per element, the mean without a fifth at each side.
    TrimmedMean = "trimmed_mean", coordinate::TrimmedMean;
    /// Per element, the median.
    Median = "median", coordinate::Median;
    /// The one update whose neighbours are nearest (Blanchard et al. 2017).
    Krum = "krum", krum::Krum;
    /// The mean of the 70 % whose neighbours are nearest.
    MultiKrum = "multi_krum", krum::MultiKrum;
}

impl fmt::Display for StrategyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A strategy that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no strategy; there are owm_robust, fedavg, clip_mean, trimmed_mean, median, krum, multi_krum"
)]
pub struct UnknownStrategy(String);

impl FromStr for StrategyName {
    type Err = UnknownStrategy;
    fn from_str(text: &str) -> Result<Self, UnknownStrategy> {
        let all = Self::ALL.iter();
        all.copied()
            .find(|name| name.as_str() == text)
            .ok_or_else(|| UnknownStrategy(text.chars().take(40).collect()))
    }
}

/// Refuses what no strategy can decide on.
fn check(round: &Round<'_>) -> Result<usize, DecideError> {
    let n = round.submissions.len();
    let references = usize::from(round.reference.is_some());
    if round.statistics.len() != n + references {
        return Err(DecideError::Mismatch {
            submissions: n,
            measured: round.statistics.len(),
        });
    }
    if n == 0 {
        return Err(DecideError::Nothing);
    }
    if n < crate::gates::TINY_BELOW && !round.policy.allow_tiny {
        return Err(DecideError::Tiny(n));
    }
    Ok(n)
}

/// A decision in which everything counts and nothing weighs yet.
fn blank(round: &Round<'_>, strategy: StrategyName, combine: Combine) -> Decision {
    // In key order, as every sum.
    let mut order: Vec<usize> = (0..round.submissions.len()).collect();
    order.sort_by_key(|i| round.submissions[*i].node);
    let norms: Vec<f64> = order.iter().map(|i| round.statistics.norm(*i)).collect();
    let mut scores = vec![0.0; order.len()];
    for (i, score) in order.into_iter().zip(sigmas(&norms)) {
        scores[i] = score;
    }
    let verdict = |(i, submission): (usize, &crate::Submission)| Verdict {
        node: submission.node,
        rejected: None,
        flag: None,
        norm: round.statistics.norm(i),
        sigmas: scores[i],
        scale: 1.0,
        weight: 0.0,
    };
    let verdicts = round.submissions.iter().enumerate();
    Decision {
        strategy,
        verdicts: verdicts.map(verdict).collect(),
        combine,
        relaxed: Vec::new(),
        reduced_protection: round.submissions.len() < crate::gates::DIRECTION_FROM,
        history: round.history,
    }
}

/// Gives those that count shares in proportion to `raw`.
fn share(decision: &mut Decision, raw: impl Fn(usize) -> f64) -> Result<(), DecideError> {
    let accepted = decision.accepted();
    if accepted.is_empty() {
        return Err(DecideError::AllRejected);
    }
    let sum: f64 = accepted.iter().map(|i| raw(*i)).sum();
    if sum <= 0.0 {
        return Err(DecideError::NoWeight);
    }
    for i in accepted {
        decision.verdicts[i].weight = raw(i) / sum;
    }
    Ok(())
}

/// Gives those that count their capped shares.
fn share_capped(decision: &mut Decision, round: &Round<'_>) -> Result<(), DecideError> {
    let accepted = decision.accepted();
    if accepted.is_empty() {
        return Err(DecideError::AllRejected);
    }
    let submissions: Vec<_> = accepted.iter().map(|i| &round.submissions[*i]).collect();
    let weights = weigh(&submissions, round.policy)?;
    for (i, share) in accepted.into_iter().zip(weights.shares) {
        decision.verdicts[i].weight = share;
    }
    decision.relaxed = weights.relaxed;
    Ok(())
}
