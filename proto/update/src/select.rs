//! The top-K of a chunk: exactly k elements, the larger magnitude first, of equal magnitudes the lower place
//! first. Zeros (and what is too small to be a normal number) are never chosen.
//!
//! Half of an encoder's time is spent here. Positive floats order as their bits do, so the k-th largest is found
//! by counting how many are not below a guess, which a compiler turns into wide compares: first the k-th of the
//! chunk before and a little around it, then the middle, until few are left in between. (facts: `select_nth` takes
//! three times as long.) The result does not depend on the guesses.

use crate::codec::CHUNK;

/// Magnitudes below the smallest normal number count as zero: some machines flush them.
pub(crate) const SMALLEST: u32 = f32::MIN_POSITIVE.to_bits();

/// The bits of infinity: above every magnitude.
const ABOVE_ALL: u32 = 0x7f80_0000;

/// How far around the last chunk's threshold is looked first: a sixteenth to an eighth of it.
const AROUND: u32 = 1 << 19;

/// So few candidates are sorted.
const FEW: usize = 48;

/// Scratch for one chunk, and a guess for the next one.
#[derive(Debug)]
pub(crate) struct Selector {
    magnitudes: Vec<u32>,
    places: Box<[u16; CHUNK]>,
    guess: u32,
}

impl Default for Selector {
    fn default() -> Self {
        Self {
            magnitudes: Vec::with_capacity(CHUNK),
            places: Box::new([0; CHUNK]),
            guess: 0,
        }
    }
}

impl Selector {
    /// Appends to `places` which of `values` are kept, `keep` at most, rising, each plus `first`.
    pub(crate) fn select(
        &mut self,
        values: &[f32],
        keep: usize,
        first: usize,
        places: &mut Vec<u16>,
    ) {
        debug_assert!(values.len() <= CHUNK && keep <= values.len() && keep > 0);
        self.magnitudes.clear();
        let bits = values.iter().map(|value| value.to_bits() & 0x7fff_ffff);
        self.magnitudes.extend(bits);
        let (threshold, surplus) = self.threshold(keep);
        self.guess = threshold;
        let mut kept = 0;
        for (place, bits) in self.magnitudes.iter().enumerate() {
            self.places[kept % CHUNK] = (first + place) as u16;
            kept += usize::from(*bits >= threshold);
        }
        let start = places.len();
        places.extend_from_slice(&self.places[..kept]);
        if surplus > 0 {
            self.drop_last_equals(threshold, surplus, first, start, places);
        }
    }

    /// The smallest magnitude that is kept, and how many equal to it are too many.
    fn threshold(&self, keep: usize) -> (u32, usize) {
        let count = |from: u32| count(&self.magnitudes, from);
        // At least `keep` are not below `low`, fewer not below `high`.
        let (mut low, mut at_low) = (SMALLEST, count(SMALLEST));
        if at_low <= keep {
            return (SMALLEST, 0);
        }
        let (mut high, mut at_high) = (ABOVE_ALL, 0);
        let around = [0, AROUND, 2 * AROUND];
        let mut probes = around.into_iter();
        let mut upward = true;
        while high - low > 1 && at_low - at_high > FEW {
            let near = match probes.next() {
                Some(0) => self.guess,
                Some(off) if upward => self.guess.saturating_add(off),
                Some(off) => self.guess.saturating_sub(off),
                None => 0,
            };
            let probe = if low < near && near < high {
                near
            } else {
                low + (high - low) / 2
            };
            let there = count(probe);
            upward = there >= keep;
            if upward {
                (low, at_low) = (probe, there);
            } else {
                (high, at_high) = (probe, there);
            }
        }
        if high - low == 1 {
            return (low, at_low - keep);
        }
        let mut between: Vec<u32> = Vec::with_capacity(FEW);
        let inside = |bits: &&u32| low <= **bits && **bits < high;
        between.extend(self.magnitudes.iter().filter(inside));
        between.sort_unstable_by(|a, b| b.cmp(a));
        let threshold = between[keep - at_high - 1];
        let reached = at_high
            + between
                .iter()
                .take_while(|bits| **bits >= threshold)
                .count();
        (threshold, reached - keep)
    }

    /// Takes the last `surplus` places whose magnitude is the threshold away again.
    fn drop_last_equals(
        &self,
        threshold: u32,
        mut surplus: usize,
        first: usize,
        start: usize,
        places: &mut Vec<u16>,
    ) {
        let mut at = places.len();
        while surplus > 0 && at > start {
            at -= 1;
            if self.magnitudes[usize::from(places[at]) - first] == threshold {
                places.remove(at);
                surplus -= 1;
            }
        }
    }
}

/// How many are not below `from`.
fn count(magnitudes: &[u32], from: u32) -> usize {
    let counted: u32 = magnitudes.iter().map(|bits| u32::from(*bits >= from)).sum();
    counted as usize
}
