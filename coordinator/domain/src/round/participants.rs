//! Who is asked to train in a round: drawn by a seed that is recorded, so that anyone can draw again.

use std::collections::BTreeMap;

use owm_proto::{Permille, PublicKey, Sha256};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

/// One owner's nodes fill at most one in so many places, as in the weights (spec §10.5): more would train for nothing.
const OWNER_ONE_IN: usize = 5;

/// A node that could train: active, willing, with the parent or the means to fetch it, and not the last to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Willing {
    /// Which.
    pub node: PublicKey,
    /// The same for all nodes of one operator.
    pub owner: Sha256,
    /// Over seven days; the chance is in proportion to it.
    pub reliability: Permille,
}

/// Draws up to `places` of them, each at most once, in the order of their keys. The same seed and the same nodes, in any
/// order, give the same answer. If owners are so few that a fifth each does not fill the places, all may have more.
pub fn draw(willing: &[Willing], places: usize, seed: [u8; 32]) -> Vec<PublicKey> {
    let mut pool: Vec<Willing> = willing.to_vec();
    pool.sort_by_key(|willing| willing.node);
    pool.dedup_by_key(|willing| willing.node);
    let mut chance = ChaCha20Rng::from_seed(seed);
    let mut drawn = Vec::new();
    let mut of_owner: BTreeMap<Sha256, usize> = BTreeMap::new();
    let mut per_owner = places.div_ceil(OWNER_ONE_IN).max(1);
    while drawn.len() < places && !pool.is_empty() {
        let open =
            |one: &Willing| of_owner.get(&one.owner).copied().unwrap_or_default() < per_owner;
        let places_open: Vec<usize> = (0..pool.len()).filter(|i| open(&pool[*i])).collect();
        if places_open.is_empty() {
            per_owner += 1;
            continue;
        }
        let chosen = pick(&pool, &places_open, &mut chance);
        let one = pool.remove(chosen);
        *of_owner.entry(one.owner).or_default() += 1;
        drawn.push(one.node);
    }
    drawn.sort_unstable();
    drawn
}

/// One of `open`, in proportion to reliability; who has none has the least chance there is.
fn pick(pool: &[Willing], open: &[usize], chance: &mut ChaCha20Rng) -> usize {
    let weight = |i: &usize| u128::from(pool[*i].reliability.0.max(1));
    let all: u128 = open.iter().map(weight).sum();
    // 64 bits times the sum: every point falls below it, and the error is 2^-64 of a thousandth.
    let mut point = (u128::from(chance.next_u64()) * all) >> 64;
    for i in open {
        match point.checked_sub(weight(i)) {
            Some(left) => point = left,
            None => return *i,
        }
    }
    open[open.len() - 1]
}
