//! The first pass: what is between every two updates of a round. All gates and all of Krum work from these alone.
//!
//! Blocks are dealt to at most 64 shards of neighbours, a number that depends on the model only; each shard goes
//! through its blocks in order, and the shards' sums are added in order. So the sums are the same on every machine.
//! Within a block a chunk of one update is laid out densely (16 KiB, in the first cache) and the values of the others
//! are held against it.

mod pairs;

use std::{collections::BTreeMap, ops::Range};

use owm_update::{BLOCK, Block, CHUNK, Origin};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{error::SpoolError, spool::Spool};
use pairs::{Pair, common};

/// Shards of blocks.
const SHARDS: usize = 64;

/// Shared support above which the cosine on it is measured by [`Statistics::measure`]: the spec's bound, below which no
/// policy's copy gate has to ask.
const COMMON_FROM: f64 = 0.4;

/// Norms of the updates of a spool, and of every pair the scalar product and the shared support.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    norms: Vec<f64>,
    values: Vec<u64>,
    /// n × n, symmetric.
    dots: Vec<f64>,
    /// n × n, symmetric: how many elements both have a value for.
    shared: Vec<u64>,
    /// Cosines on the shared support, of pairs that share much; the lower number first.
    common: Vec<(usize, usize, f64)>,
}

/// One shard's sums.
struct Sums {
    /// Per update, per block: so that the norm is summed over blocks in order, as `owm_update::Update::verify` does.
    squares: Vec<Vec<f64>>,
    values: Vec<u64>,
    dots: Vec<f64>,
    shared: Vec<u64>,
}

/// What one thread holds of the updates.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    blocks: Vec<Block>,
}

impl Held {
    /// Reads block `block` of all updates.
    fn read(&mut self, spool: &dyn Spool, block: usize) -> Result<(), SpoolError> {
        self.blocks.resize_with(spool.len(), Block::default);
        for (update, into) in self.blocks.iter_mut().enumerate() {
            spool.read(update, block, &mut self.bytes, into)?;
        }
        Ok(())
    }
}

/// The shards of so many blocks.
fn shards(blocks: usize) -> Vec<Range<usize>> {
    let count = SHARDS.min(blocks).max(1);
    (0..count)
        .map(|shard| blocks * shard / count..blocks * (shard + 1) / count)
        .collect()
}

/// Runs `one` on every shard, on all threads; the first error in order counts.
fn sharded<T: Send>(
    blocks: usize,
    one: impl Fn(Range<usize>) -> Result<T, SpoolError> + Sync + Send,
) -> Result<Vec<T>, SpoolError> {
    let done: Vec<Result<T, SpoolError>> = shards(blocks).into_par_iter().map(one).collect();
    done.into_iter().collect()
}

impl Statistics {
    /// For the spec's policy: see [`Statistics::measure_from`].
    pub fn measure(spool: &dyn Spool) -> Result<Self, SpoolError> {
        Self::measure_from(spool, COMMON_FROM)
    }

    /// Reads the spool once; where two updates share more than `common_from` of their support, as the policy's copy gate
    /// has it (`copy_overlap`), a second time for those.
    pub fn measure_from(spool: &dyn Spool, common_from: f64) -> Result<Self, SpoolError> {
        let n = spool.len();
        let blocks = spool.elements()?.div_ceil(BLOCK as u64) as usize;
        let mut all = Self {
            norms: vec![0.0; n],
            values: vec![0; n],
            dots: vec![0.0; n * n],
            shared: vec![0; n * n],
            common: Vec::new(),
        };
        if n == 0 {
            return Ok(all);
        }
        for sums in sharded(blocks, |range| Sums::of(spool, range))? {
            for (norm, squares) in all.norms.iter_mut().zip(&sums.squares) {
                *norm = squares.iter().fold(*norm, |sum, square| sum + square);
            }
            add(&mut all.values, &sums.values);
            add(&mut all.shared, &sums.shared);
            for (all, dot) in all.dots.iter_mut().zip(&sums.dots) {
                *all += dot;
            }
        }
        for (i, square) in all.norms.iter_mut().enumerate() {
            all.dots[i * n + i] = *square;
            all.shared[i * n + i] = all.values[i];
            *square = square.sqrt();
        }
        for (i, j) in pairs(n) {
            all.dots[j * n + i] = all.dots[i * n + j];
            all.shared[j * n + i] = all.shared[i * n + j];
        }
        all.common = all.measure_common(spool, blocks, common_from)?;
        Ok(all)
    }

    fn measure_common(
        &self,
        spool: &dyn Spool,
        blocks: usize,
        common_from: f64,
    ) -> Result<Vec<(usize, usize, f64)>, SpoolError> {
        let close: Vec<(usize, usize)> = pairs(self.len())
            .filter(|(i, j)| self.overlap(*i, *j) > common_from)
            .collect();
        if close.is_empty() {
            return Ok(Vec::new());
        }
        let mut sums = BTreeMap::new();
        let of = |range: Range<usize>| {
            let mut held = Held::default();
            let mut sums = vec![Pair::default(); close.len()];
            for block in range {
                held.read(spool, block)?;
                for ((i, j), sum) in close.iter().zip(&mut sums) {
                    sum.add(common(&held.blocks[*i], &held.blocks[*j]));
                }
            }
            Ok(sums)
        };
        for shard in sharded(blocks, of)? {
            for (pair, sum) in close.iter().zip(shard) {
                sums.entry(*pair).or_insert_with(Pair::default).add(sum);
            }
        }
        let cosine = |((i, j), sum): ((usize, usize), Pair)| (i, j, sum.cosine());
        Ok(sums.into_iter().map(cosine).collect())
    }

    /// How many updates.
    pub fn len(&self) -> usize {
        self.norms.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.norms.is_empty()
    }

    /// The norm of update `i`, decoded.
    pub fn norm(&self, i: usize) -> f64 {
        self.norms[i]
    }

    /// How many values it has.
    pub fn values(&self, i: usize) -> u64 {
        self.values[i]
    }

    /// The scalar product of two.
    pub fn dot(&self, i: usize, j: usize) -> f64 {
        self.dots[i * self.len() + j]
    }

    /// The cosine between two; 0 if one of them is nothing.
    pub fn cosine(&self, i: usize, j: usize) -> f64 {
        let norms = self.norms[i] * self.norms[j];
        if norms > 0.0 {
            self.dot(i, j) / norms
        } else {
            0.0
        }
    }

    /// How much of the smaller one's support both have: 0 to 1.
    pub fn overlap(&self, i: usize, j: usize) -> f64 {
        let smaller = self.values[i].min(self.values[j]);
        if smaller == 0 {
            0.0
        } else {
            self.shared[i * self.len() + j] as f64 / smaller as f64
        }
    }

    /// The cosine on the shared support, where it is more than was measured from.
    pub fn common_cosine(&self, i: usize, j: usize) -> Option<f64> {
        let pair = (i.min(j), i.max(j));
        let at = self
            .common
            .binary_search_by_key(&pair, |(i, j, _)| (*i, *j))
            .ok()?;
        Some(self.common[at].2)
    }
}

/// Every pair once, the lower number first.
pub(crate) fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

fn add(all: &mut [u64], some: &[u64]) {
    for (all, some) in all.iter_mut().zip(some) {
        *all += some;
    }
}

impl Sums {
    fn of(spool: &dyn Spool, range: Range<usize>) -> Result<Self, SpoolError> {
        let n = spool.len();
        let mut sums = Self {
            squares: vec![Vec::with_capacity(range.len()); n],
            values: vec![0; n],
            dots: vec![0.0; n * n],
            shared: vec![0; n * n],
        };
        let order = key_order(spool);
        let mut held = Held::default();
        let mut dense = Box::new([0.0_f32; CHUNK]);
        for block in range {
            held.read(spool, block)?;
            let elements = held.blocks[0].elements();
            for (i, block) in held.blocks.iter().enumerate() {
                sums.squares[i].push(block.square());
                sums.values[i] += block.values().len() as u64;
            }
            for chunk in 0..elements.div_ceil(CHUNK) {
                sums.chunk(&held.blocks, &order, chunk, &mut dense);
            }
        }
        Ok(sums)
    }

    /// Adds one chunk of every pair: of two the one with the lower key is laid out.
    fn chunk(&mut self, blocks: &[Block], order: &[usize], chunk: usize, dense: &mut [f32; CHUNK]) {
        let n = blocks.len();
        let parts: Vec<(&[u16], &[f32])> = blocks
            .iter()
            .map(|block| pairs::chunk(block, chunk))
            .collect();
        for (at, i) in order.iter().enumerate() {
            let (places, values) = parts[*i];
            if places.is_empty() {
                continue;
            }
            for (place, value) in places.iter().zip(values) {
                dense[usize::from(*place) % CHUNK] = *value;
            }
            for j in &order[at + 1..] {
                let (dot, shared) = pairs::against(dense, parts[*j].0, parts[*j].1);
                let pair = i.min(j) * n + i.max(j);
                self.dots[pair] += dot;
                self.shared[pair] += u64::from(shared);
            }
            for place in places {
                dense[usize::from(*place) % CHUNK] = 0.0;
            }
        }
    }
}

/// The spool's updates by the keys in their headers: sums do not depend on the order of arrival.
fn key_order(spool: &dyn Spool) -> Vec<usize> {
    let key = |i: &usize| match spool.opened(*i).header.subject.origin {
        Origin::Node { node, .. } => Some(node),
        Origin::Aggregate { .. } => None,
    };
    let mut order: Vec<usize> = (0..spool.len()).collect();
    order.sort_by_key(|i| (key(i), *i));
    order
}
