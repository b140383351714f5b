//! Choosing a token from scores. Called by the engine for every generated token. The choice is a
//! pure function of (scores, sampling, index): there is no state that a successor, which goes on
//! from a forced prefix, would have to be given.

use crate::GenerateError;

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 is greedy: the highest score, and of equal ones the lowest id. At most 100.
    pub temperature: f32,
    /// Keep the likeliest tokens whose probabilities first reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep at most this many tokens; 0 keeps all.
    pub top_k: u32,
    /// With the token's index, the only source of chance.
    pub seed: u64,
}

impl Sampling {
    /// No chance at all.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        seed: 0,
    };

    /// Checks the ranges.
    pub(crate) fn check(&self) -> Result<(), GenerateError> {
        if !(0.0..=100.0).contains(&self.temperature) {
            return Err(GenerateError::BadSampling {
                name: "temperature",
                value: self.temperature,
                range: "0 to 100 is allowed",
            });
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(GenerateError::BadSampling {
                name: "top_p",
                value: self.top_p,
                range: "above 0 up to 1 is allowed",
            });
        }
        Ok(())
    }

    /// Chooses the token with index `index` in its generation. `None` if no score is finite.
    pub(crate) fn choose(&self, scores: &[f32], index: u32) -> Option<u32> {
        let best = greedy(scores)?;
        if self.temperature == 0.0 || self.top_k == 1 {
            return Some(best);
        }
        let high = f64::from(scores[best as usize]);
        let temperature = f64::from(self.temperature);
        // Probabilities up to a common factor; the best token has 1. NaN counts as impossible.
        let weight = |id: u32| {
            let weight = ((f64::from(scores[id as usize]) - high) / temperature).exp();
            if weight.is_finite() { weight } else { 0.0 }
        };
        let mut kept: Vec<(u32, f64)> = (0..scores.len() as u32)
            .map(|id| (id, weight(id)))
            .collect();
        let chance = unit_draw(self.seed, index);
        if self.top_k == 0 && self.top_p >= 1.0 {
            return Some(pick(&kept, chance));
        }
        let likelier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let top_k = self.top_k as usize;
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k - 1, likelier);
            kept.truncate(top_k);
        }
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        if self.top_p < 1.0 {
            // A token below this weight cannot be among those that reach top_p: all such tokens
            // together hold less than the part that top_p cuts off.
            let floor = (1.0 - f64::from(self.top_p)) * total / kept.len() as f64;
            kept.retain(|(_, weight)| *weight >= floor);
        }
        kept.sort_unstable_by(likelier);
        if self.top_p < 1.0 {
            let wanted = f64::from(self.top_p) * total;
            let mut sum = 0.0;
            let reached = kept.iter().position(|(_, weight)| {
                sum += weight;
                sum >= wanted
            });
            kept.truncate(reached.map_or(kept.len(), |last| last + 1));
        }
        Some(pick(&kept, chance))
    }
}

/// The highest finite score's id; of equal ones the lowest id.
fn greedy(scores: &[f32]) -> Option<u32> {
    let mut best: Option<usize> = None;
    for (id, score) in scores.iter().enumerate() {
        if score.is_finite() && best.is_none_or(|best| *score > scores[best]) {
            best = Some(id);
        }
    }
    best.map(|id| id as u32)
}

/// Inverts the cumulative weights at `chance` in [0, 1).
fn pick(kept: &[(u32, f64)], chance: f64) -> u32 {
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    let target = chance * total;
    let mut sum = 0.0;
    for (id, weight) in kept {
        sum += weight;
        if target < sum {
            return *id;
        }
    }
    // Rounding can leave the target at the very end: the last token that is possible.
    let last = kept.iter().rev().find(|(_, weight)| *weight > 0.0);
    last.expect("the best token has weight 1 and is always kept")
        .0
}

/// The number in [0, 1) for token `index` under `seed`.
///
/// The rule, part of the network's contract: with `mix` = the output function of SplitMix64
/// (Steele, Lea, Flood 2014; constants below) and γ = 0x9E3779B97F4A7C15, the 64 bits are
/// `mix(mix(seed + γ) + (index + 1) · γ)`, all modulo 2⁶⁴, and the number is their upper 53 bits
/// divided by 2⁵³.
fn unit_draw(seed: u64, index: u32) -> f64 {
    const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
    let key = split_mix(seed.wrapping_add(GAMMA));
    let step = (u64::from(index) + 1).wrapping_mul(GAMMA);
    let bits = split_mix(key.wrapping_add(step));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn split_mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests;
