//! Which updates count (spec §10.4). Each gate is a function of statistics; each rejection has a reason that a person
//! is shown. They run in one order, before any weighting: structure (when the bytes come in), norm, copy, direction,
//! and then what is left is clipped to its median norm.

mod copy;
mod direction;
mod norm;
pub mod structure;
#[cfg(test)]
mod tests;

use std::fmt;

use owm_proto::PublicKey;
use serde::{Deserialize, Serialize};

pub use norm::NormHistory;

use crate::{policy::Policy, sample::median, statistics::Statistics, submission::Submission};

/// From so many updates on the others tell the direction; below, a reference update does (spec §10.4: "median cosine
/// to the others" of three, one of them a liar, rejects half of the honest).
pub const DIRECTION_FROM: usize = 6;

/// Fewer are averaged only where the policy says so.
pub const TINY_BELOW: usize = 3;

/// Why an update does not count. It proves nothing about its maker: relative gates drop honest updates now and then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Reason {
    /// No value at all.
    Empty,
    /// Far longer than the others.
    Norm {
        /// In robust standard deviations of the logarithm.
        score: f64,
    },
    /// The same as an earlier one.
    CopyOf {
        /// Whose.
        node: PublicKey,
        /// Share of the support that both have.
        overlap: f64,
        /// The cosine on it.
        cosine: f64,
    },
    /// Points away from the others.
    Against {
        /// The median of the cosines to the other owners.
        cosine: f64,
    },
    /// Agrees with the others far less than they do with each other.
    Outlier {
        /// The median of the cosines to the other owners.
        cosine: f64,
        /// What was needed.
        least: f64,
    },
    /// Points away from the reference update.
    AgainstReference {
        /// The cosine to it.
        cosine: f64,
    },
    /// More than three standard deviations from the mean norm: the founding rule.
    ThreeSigma {
        /// How many.
        sigmas: f64,
    },
    /// Krum took others.
    NotSelected {
        /// The sum of its squared distances to its nearest.
        score: f64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(
                f,
                "the update holds no value; look at whether training has changed anything"
            ),
            Self::Norm { score } => write!(
                f,
                "the update is far longer than the others ({score:.1} robust deviations, at most 6 count); \
                 look at learning rate and data"
            ),
            Self::CopyOf {
                node,
                overlap,
                cosine,
            } => write!(
                f,
                "the update is the same as the earlier one of {node} ({:.0} % of the places shared, cosine \
                 {cosine:.3} on them); train each node on its own data and seed",
                overlap * 100.0
            ),
            Self::Against { cosine } => write!(
                f,
                "the update points away from the others (median cosine {cosine:.3}, must be above 0); look at \
                 data and learning rate"
            ),
            Self::Outlier { cosine, least } => write!(
                f,
                "the update agrees with the others far less than they do with each other (median cosine \
                 {cosine:.3}, at least {least:.3} counts); look at the data"
            ),
            Self::AgainstReference { cosine } => write!(
                f,
                "the update points away from the reference update (cosine {cosine:.3}, must be above 0); look at \
                 data and learning rate"
            ),
            Self::ThreeSigma { sigmas } => write!(
                f,
                "the update's norm is {sigmas:.1} standard deviations from the mean (at most 3 count)"
            ),
            Self::NotSelected { score } => write!(
                f,
                "other updates lie closer together (score {score:.3e}); this strategy takes only those"
            ),
        }
    }
}

/// Noted, and without consequence by itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "flag")]
pub enum Flag {
    /// Longer than the others.
    Long {
        /// In robust standard deviations of the logarithm.
        score: f64,
    },
    /// Shorter than the others.
    Short {
        /// In robust standard deviations of the logarithm; below 0.
        score: f64,
    },
}

/// What the gates say of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Gated {
    /// Per update: why it does not count.
    pub rejected: Vec<Option<Reason>>,
    /// Per update.
    pub flags: Vec<Option<Flag>>,
    /// Per update: what it is multiplied with to be no longer than the median; at most 1.
    pub scale: Vec<f64>,
    /// The direction was held against a reference update, or nothing (`allow_tiny`).
    pub reduced_protection: bool,
    /// For the next round.
    pub history: NormHistory,
}

/// What the gates look at.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// In the order of the spool.
    pub submissions: &'a [Submission],
    /// Of the spool.
    pub statistics: &'a Statistics,
    /// The round's.
    pub policy: &'a Policy,
    /// Of the rounds before.
    pub history: NormHistory,
    /// Where the reference update is in the spool, if there is one.
    pub reference: Option<usize>,
}

/// Runs every gate.
pub fn run(field: &Field<'_>) -> Gated {
    let n = field.submissions.len();
    let mut gated = Gated {
        rejected: vec![None; n],
        flags: vec![None; n],
        scale: vec![1.0; n],
        reduced_protection: false,
        history: field.history,
    };
    norm::run(field, &mut gated);
    copy::run(field, &mut gated);
    direction::run(field, &mut gated);
    let left = gated.left();
    gated.scale = clip_to_median(field.statistics, &left, n);
    gated
}

impl Gated {
    /// Which count so far, rising.
    pub fn left(&self) -> Vec<usize> {
        let counts = |i: &usize| self.rejected[*i].is_none();
        (0..self.rejected.len()).filter(counts).collect()
    }
}

/// What makes each of `left` no longer than their median; 1 for the others.
pub(crate) fn clip_to_median(statistics: &Statistics, left: &[usize], n: usize) -> Vec<f64> {
    let norms: Vec<f64> = left.iter().map(|i| statistics.norm(*i)).collect();
    let bound = median(&norms);
    let mut scale = vec![1.0; n];
    for (i, norm) in left.iter().zip(norms) {
        if norm > bound {
            scale[*i] = bound / norm;
        }
    }
    scale
}
