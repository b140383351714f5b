//! The top-K of a chunk: exactly k elements, the larger magnitude first, of equal magnitudes the lower place
//! first. Zeros (and what is too small to be a normal number) are never chosen.

use crate::codec::CHUNK;

/// Magnitudes below the smallest normal number count as zero: some machines flush them.
pub(crate) const SMALLEST: u32 = f32::MIN_POSITIVE.to_bits();

/// Scratch for one chunk.
#[derive(Debug, Default)]
pub(crate) struct Selector {
    magnitudes: Vec<u32>,
}

impl Selector {
    /// Appends to `places` which of `values` are kept, `keep` at most, rising, each plus `first`; gives
    /// how many.
    pub(crate) fn select(
        &mut self,
        values: &[f32],
        keep: usize,
        first: usize,
        places: &mut Vec<u16>,
    ) -> usize {
        debug_assert!(values.len() <= CHUNK && keep <= values.len());
        // Positive floats order as their bits do.
        self.magnitudes.clear();
        let bits = values.iter().map(|value| value.to_bits() & 0x7fff_ffff);
        self.magnitudes.extend(bits);
        let at = values.len() - keep;
        let (_, threshold, above) = self.magnitudes.select_nth_unstable(at);
        let threshold = *threshold;
        let (threshold, mut equal) = if threshold < SMALLEST {
            (SMALLEST - 1, 0)
        } else {
            let larger = above.iter().filter(|bits| **bits > threshold).count();
            (threshold, keep - larger)
        };
        let start = places.len();
        for (place, value) in values.iter().enumerate() {
            let bits = value.to_bits() & 0x7fff_ffff;
            if bits < threshold || (bits == threshold && equal == 0) {
                continue;
            }
            if bits == threshold {
                equal -= 1;
            }
            places.push((first + place) as u16);
        }
        places.len() - start
    }
}
