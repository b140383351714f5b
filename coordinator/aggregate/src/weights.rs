//! How much each accepted update counts (spec §10.5): samples × tier × stake bonus, under three caps. Run after every
//! gate has spoken: weighting first lets a few heavy liars decide.
//!
//! Water rises in all updates at the speed of their raw weight; an update stops at its own cap, all of an owner's stop
//! at the owner's. If the caps do not leave room for a whole (three owners cannot each have at most a fifth), the owner's
//! cap is raised to the least that does, and the record says so. Then nodes without a passed audit are held to a third
//! between them, and the audited take what that frees, under the same caps.

mod fill;
#[cfg(test)]
mod tests;

use std::fmt;

use owm_proto::Sha256;
use serde::{Deserialize, Serialize};

use crate::{error::DecideError, policy::Policy, submission::Submission};
use fill::Tank;

/// A cap that was not kept, and what was instead.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "relaxed")]
pub enum Relaxed {
    /// Too few updates have any weight.
    Node {
        /// The cap that was kept.
        cap: f64,
    },
    /// Too few owners, or their nodes' caps leave no room.
    Owner {
        /// The cap that was kept.
        cap: f64,
    },
    /// No update's node has passed an audit, so the cap does not bind yet.
    NoAudits,
    /// The audited, under their own caps, cannot take the rest.
    Unaudited {
        /// What the unaudited have together.
        share: f64,
    },
}

impl fmt::Display for Relaxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { cap } => write!(
                f,
                "too few updates have weight: a node may have {:.1} %",
                cap * 100.0
            ),
            Self::Owner { cap } => write!(f, "too few owners: one may have {:.1} %", cap * 100.0),
            Self::NoAudits => write!(
                f,
                "no node has passed an audit yet: the share of the unaudited is not capped"
            ),
            Self::Unaudited { share } => write!(
                f,
                "too few audited nodes: the unaudited have {:.1} % together",
                share * 100.0
            ),
        }
    }
}

/// Shares of the accepted updates, which sum to 1, and the caps that were not kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// In the order of the updates given.
    pub shares: Vec<f64>,
    /// What was not kept.
    pub relaxed: Vec<Relaxed>,
}

/// Samples × tier × stake bonus.
pub fn raw_weight(submission: &Submission) -> f64 {
    submission.samples as f64 * f64::from(submission.tier.0) / 1_000.0
        * f64::from(submission.stake_bonus.0)
        / 1_000.0
}

/// The shares of `accepted`, which must be in key order: sums run in it.
pub fn weigh(accepted: &[&Submission], policy: &Policy) -> Result<Weights, DecideError> {
    let raw: Vec<f64> = accepted.iter().map(|s| raw_weight(s)).collect();
    let some = raw.iter().filter(|raw| **raw > 0.0).count();
    if some == 0 {
        return Err(DecideError::NoWeight);
    }
    let mut relaxed = Vec::new();
    let mut node_cap = (policy.node_cap / accepted.len() as f64).min(1.0);
    if node_cap * (some as f64) < 1.0 {
        node_cap = 1.0 / some as f64;
        relaxed.push(Relaxed::Node { cap: node_cap });
    }
    let owners = owners(accepted);
    let mut rooms = vec![0.0; accepted.len()];
    for (i, owner) in owners.iter().enumerate() {
        rooms[*owner] += if raw[i] > 0.0 { node_cap } else { 0.0 };
    }
    rooms.retain(|room| *room > 0.0);
    let least = least_cap(&rooms);
    let mut owner_cap = policy.owner_cap;
    if least > owner_cap {
        owner_cap = least;
        relaxed.push(Relaxed::Owner { cap: owner_cap });
    }
    let mut tank = Tank::new(&raw, &owners, node_cap, owner_cap);
    let everyone: Vec<usize> = (0..raw.len()).collect();
    tank.fill(&everyone, 1.0);
    audited_first(
        accepted,
        policy,
        &raw,
        (&owners, node_cap, owner_cap),
        &mut tank,
        &mut relaxed,
    );
    let mut shares = tank.into_shares();
    let sum: f64 = shares.iter().sum();
    for share in &mut shares {
        *share /= sum;
    }
    Ok(Weights { shares, relaxed })
}

/// Holds the unaudited to their cap, if some node is audited.
fn audited_first(
    accepted: &[&Submission],
    policy: &Policy,
    raw: &[f64],
    (owners, node_cap, owner_cap): (&[usize], f64, f64),
    tank: &mut Tank,
    relaxed: &mut Vec<Relaxed>,
) {
    let (audited, not): (Vec<usize>, Vec<usize>) =
        (0..accepted.len()).partition(|i| accepted[*i].audited);
    if audited.iter().all(|i| raw[*i] <= 0.0) {
        if !not.is_empty() {
            relaxed.push(Relaxed::NoAudits);
        }
        return;
    }
    if tank.sum(&not) <= policy.unaudited_cap {
        return;
    }
    // The audited first: an owner's unaudited nodes must not take the room of its audited one.
    *tank = Tank::new(raw, owners, node_cap, owner_cap);
    tank.fill(&audited, 1.0 - policy.unaudited_cap);
    tank.fill(&not, policy.unaudited_cap);
    tank.fill(&audited, 1.0);
    if tank.total() < 1.0 - fill::ROUNDING {
        // The audited are full. What is left goes to the others again.
        tank.fill(&not, 1.0);
        let share = tank.sum(&not);
        relaxed.push(Relaxed::Unaudited { share });
    }
}

/// The number of each one's owner: that of the owner's first update.
fn owners(accepted: &[&Submission]) -> Vec<usize> {
    let first = |owner: Sha256| accepted.iter().position(|s| s.owner == owner);
    accepted
        .iter()
        .map(|s| first(s.owner).expect("it is among them"))
        .collect()
}

/// The least cap with which owners that have this room fill a whole.
fn least_cap(rooms: &[f64]) -> f64 {
    let mut sorted = rooms.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let mut below = 0.0;
    for (at, room) in sorted.iter().enumerate() {
        let level = (1.0 - below) / (sorted.len() - at) as f64;
        if level <= *room {
            return level;
        }
        below += room;
    }
    // All rooms together are a whole, but for rounding.
    1.0
}
