//! Two updates' values of one chunk or block against each other. The inner loops of the first pass.

use owm_update::{Block, CHUNK};

/// Sums are taken in so many interleaved parts, added in order at the end.
const LANES: usize = 4;

/// Places (within the block) and values of a chunk of a block.
pub(super) fn chunk(block: &Block, chunk: usize) -> (&[u16], &[f32]) {
    let places = block.places();
    let from = places.partition_point(|place| usize::from(*place) < chunk * CHUNK);
    let to = places.partition_point(|place| usize::from(*place) < (chunk + 1) * CHUNK);
    (&places[from..to], &block.values()[from..to])
}

/// The scalar product of a dense chunk with one's values, and how many of these fall on a value. No value is 0.
pub(super) fn against(dense: &[f32; CHUNK], places: &[u16], values: &[f32]) -> (f64, u32) {
    let (mut dots, mut shared) = ([0.0_f64; LANES], [0_u32; LANES]);
    let mut lane = |lane: usize, place: u16, value: f32| {
        let other = dense[usize::from(place) % CHUNK];
        dots[lane] += f64::from(other) * f64::from(value);
        // Nothing is +0.0, and no value is a zero: the bits tell, in one instruction.
        shared[lane] += u32::from(other.to_bits() != 0);
    };
    let (fours, last) = places.as_chunks::<LANES>();
    let (of_fours, of_last) = values.as_chunks::<LANES>();
    for (places, values) in fours.iter().zip(of_fours) {
        for i in 0..LANES {
            lane(i, places[i], values[i]);
        }
    }
    for (i, (place, value)) in last.iter().zip(of_last).enumerate() {
        lane(i, *place, *value);
    }
    (dots.iter().sum(), shared.iter().sum())
}

/// Sums over the elements that two updates both have a value for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pair {
    dot: f64,
    left: f64,
    right: f64,
}

impl Pair {
    pub(super) fn add(&mut self, other: Self) {
        self.dot += other.dot;
        self.left += other.left;
        self.right += other.right;
    }

    /// The cosine on the shared support; 0 if there is none.
    pub(super) fn cosine(self) -> f64 {
        let norms = self.left.sqrt() * self.right.sqrt();
        if norms > 0.0 { self.dot / norms } else { 0.0 }
    }
}

/// The sums of one block.
pub(super) fn common(left: &Block, right: &Block) -> Pair {
    let mut sums = Pair::default();
    let (mut i, mut j) = (0, 0);
    let (left_places, right_places) = (left.places(), right.places());
    while let (Some(a), Some(b)) = (left_places.get(i), right_places.get(j)) {
        if a == b {
            let (a, b) = (f64::from(left.values()[i]), f64::from(right.values()[j]));
            sums.add(Pair {
                dot: a * b,
                left: a * a,
                right: b * b,
            });
        }
        let (step_left, step_right) = (a <= b, b <= a);
        i += usize::from(step_left);
        j += usize::from(step_right);
    }
    sums
}
