//! All chance of a run, from its seed. Must stay true: the same seed gives the same throws on every machine.

use std::hash::{BuildHasherDefault, Hasher};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A hash map whose order does not differ from run to run (it is never walked where order counts).
pub type FixedMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Fold>>;

/// A hash set likewise.
pub type FixedSet<K> = std::collections::HashSet<K, BuildHasherDefault<Fold>>;

/// A cheap hasher: keys here are numbers of the simulation's own, nobody picks them to collide.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        /// Of Fowler, Noll and Vo's hash, 64 bits.
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(PRIME | 1 << 63);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

/// Seeded chance.
#[derive(Clone, Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// All throws of `seed`; `stream` keeps parts of a run from disturbing each other.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high.max(low))
    }

    /// True `permille` times of a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        permille > 0 && self.within(0, 999) < permille
    }

    /// An index below `length`, which is not 0.
    pub fn index(&mut self, length: usize) -> usize {
        self.within(0, length as u64 - 1) as usize
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        (!items.is_empty()).then(|| &items[self.index(items.len())])
    }

    /// `count` of `items` at most, in a new order.
    pub fn some<T: Copy>(&mut self, items: &[T], count: usize) -> Vec<T> {
        let mut pool = items.to_vec();
        let count = count.min(pool.len());
        for at in 0..count {
            let other = at + self.index(pool.len() - at);
            pool.swap(at, other);
        }
        pool.truncate(count);
        pool
    }

    /// Bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes[..]);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_throws_and_another_stream_others() {
        let throws = |seed, stream| {
            let mut dice = Dice::new(seed, stream);
            (0..20).map(|_| dice.within(0, 1_000)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1, 0), throws(1, 0));
        assert_ne!(throws(1, 0), throws(1, 1));
        assert_ne!(throws(1, 0), throws(2, 0));
    }

    #[test]
    fn a_handful_holds_nothing_twice() {
        let mut dice = Dice::new(3, 0);
        let items: Vec<u32> = (0..50).collect();
        let mut some = dice.some(&items, 20);
        some.sort_unstable();
        some.dedup();
        assert_eq!(some.len(), 20);
        assert_eq!(dice.some(&items[..3], 9).len(), 3);
    }
}
