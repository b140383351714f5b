//! What a round's configuration says about gates and weights. The defaults are the spec's (§10.4–5); whatever was used
//! stands in the round's record.

use serde::{Deserialize, Serialize};

/// Figures of the gates and caps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Whether one or two updates may be averaged: in the devnet.
    pub allow_tiny: bool,
    /// The published bound on an update's norm.
    pub clip: f64,
    /// Norm: scores above are rejected.
    pub norm_reject: f64,
    /// Norm: scores above (or below minus this) are flagged.
    pub norm_flag: f64,
    /// Norm: the least denominator. Clipping at the node makes the MAD 0, and then half of the honest are outliers.
    pub norm_floor: f64,
    /// Copy: the share of the support that at least must be shared.
    pub copy_overlap: f64,
    /// Copy: how many MADs above the median it must be.
    pub copy_mads: f64,
    /// Copy: the cosine on the shared support that must be exceeded.
    pub copy_cosine: f64,
    /// Direction: how many MADs below the median is an outlier.
    pub direction_mads: f64,
    /// Direction: added to the MAD, so that updates which agree closely are not held against each other. At 0.02 the mean of
    /// 20 with six of random support among them had a cosine of 0.77; at 0.005 honest ones of eight were lost.
    pub direction_floor: f64,
    /// Weights: a node's share is at most this over n.
    pub node_cap: f64,
    /// Weights: the share of one owner's nodes.
    pub owner_cap: f64,
    /// Weights: the share of all nodes without a passed audit.
    pub unaudited_cap: f64,
    /// Trimmed mean: the share cut off at each side.
    pub trim: f64,
    /// Krum: the share of attackers that is assumed.
    pub krum_attackers: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allow_tiny: false,
            clip: f64::MAX,
            norm_reject: 6.0,
            norm_flag: 3.5,
            norm_floor: 0.1,
            copy_overlap: 0.4,
            copy_mads: 6.0,
            copy_cosine: 0.95,
            direction_mads: 3.5,
            direction_floor: 0.01,
            node_cap: 1.5,
            owner_cap: 0.2,
            unaudited_cap: 1.0 / 3.0,
            trim: 0.2,
            krum_attackers: 0.3,
        }
    }
}
