//! Who dials whom: the same for both variants of a round.

use std::collections::BTreeSet;

use rand::{Rng as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Rings, each in an order of its own: so every peer has up to twice as many connections, enough for a full
/// mesh and for gossip beside it, and below what either variant would limit.
const RINGS: usize = 6;

/// For each peer those that it dials. No pair dials twice; everybody is reachable from everybody.
pub(crate) fn dials(peers: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut dials = vec![Vec::new(); peers];
    let mut pairs = BTreeSet::new();
    let mut ring: Vec<usize> = (0..peers).collect();
    for _ in 0..RINGS {
        ring.shuffle(&mut rng);
        for (at, &peer) in ring.iter().enumerate() {
            let next = ring[(at + 1) % peers];
            if peer != next && pairs.insert((peer.min(next), peer.max(next))) {
                dials[peer].push(next);
            }
        }
    }
    dials
}

/// The graph in which each dials all that come after it.
pub(crate) fn all(peers: usize) -> Vec<Vec<usize>> {
    (0..peers).map(|peer| (peer + 1..peers).collect()).collect()
}

/// How many connections each peer then has.
pub(crate) fn connections(dials: &[Vec<usize>]) -> Vec<usize> {
    let mut count: Vec<usize> = dials.iter().map(Vec::len).collect();
    for &other in dials.iter().flatten() {
        count[other] += 1;
    }
    count
}

/// A seed for a key, all of a round's different.
pub(crate) fn key_seed(seed: u64, peer: usize) -> [u8; 32] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(peer as u64 + 1);
    rng.random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_dialled_once_and_nobody_is_left_out() {
        for peers in [2, 8, 100] {
            let dials = dials(peers, 7);
            let mut pairs = BTreeSet::new();
            for (peer, others) in dials.iter().enumerate() {
                for &other in others {
                    assert!(other != peer && pairs.insert((peer.min(other), peer.max(other))));
                }
            }
            let connections = connections(&dials);
            assert!(
                connections
                    .iter()
                    .all(|&count| count > 0 && count <= 2 * RINGS)
            );
            assert_eq!(connections.iter().sum::<usize>(), 2 * pairs.len());
        }
        assert_eq!(connections(&all(8)), [7; 8]);
        assert_ne!(key_seed(1, 0), key_seed(1, 1));
    }
}
