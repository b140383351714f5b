//! One block of the step: updates in the order of their keys, in f64.

use owm_update::Block;

use crate::{
    error::SpoolError,
    spool::Spool,
    strategy::{Combine, Decision},
};

/// Elements that are gathered from all updates at once, for strategies that go element by element.
const COLUMNS: usize = 256;

/// What one thread holds.
#[derive(Default)]
pub(super) struct Mixer {
    bytes: Vec<u8>,
    block: Block,
    sums: Vec<f64>,
    /// Element by element only: of each update, dense.
    dense: Vec<Vec<f32>>,
    /// Element by element only: [`COLUMNS`] elements of each update, those of one element together.
    columns: Vec<f32>,
}

impl Mixer {
    /// The step's elements in block `block`.
    pub(super) fn block(
        &mut self,
        spool: &dyn Spool,
        decision: &Decision,
        order: &[usize],
        block: usize,
    ) -> Result<&[f64], SpoolError> {
        match order.first() {
            Some(first) => {
                let elements = spool.opened(*first).header.block_len(block);
                self.sums.clear();
                self.sums.resize(elements, 0.0);
            }
            None => self.sums.clear(),
        }
        match decision.combine {
            Combine::Mean => self.add(spool, decision, order, block)?,
            Combine::Trimmed { cut } => self.sort(spool, order, block, |sorted| {
                let kept = &sorted[cut..sorted.len() - cut];
                kept.iter().map(|value| f64::from(*value)).sum::<f64>() / kept.len() as f64
            })?,
            Combine::Median => self.sort(spool, order, block, |sorted| {
                let half = sorted.len() / 2;
                if sorted.len() % 2 == 1 {
                    f64::from(sorted[half])
                } else {
                    f64::midpoint(f64::from(sorted[half - 1]), f64::from(sorted[half]))
                }
            })?,
        }
        Ok(&self.sums)
    }

    fn add(
        &mut self,
        spool: &dyn Spool,
        decision: &Decision,
        order: &[usize],
        block: usize,
    ) -> Result<(), SpoolError> {
        for update in order {
            let verdict = &decision.verdicts[*update];
            let factor = verdict.weight * verdict.scale;
            spool.read(*update, block, &mut self.bytes, &mut self.block)?;
            accumulate(&self.block, factor, &mut self.sums);
        }
        Ok(())
    }

    fn sort(
        &mut self,
        spool: &dyn Spool,
        order: &[usize],
        block: usize,
        one: impl Fn(&[f32]) -> f64,
    ) -> Result<(), SpoolError> {
        let elements = self.sums.len();
        self.dense.resize_with(order.len(), Vec::new);
        for (update, dense) in order.iter().zip(&mut self.dense) {
            dense.clear();
            dense.resize(elements, 0.0);
            spool.read(*update, block, &mut self.bytes, &mut self.block)?;
            for (place, value) in self.block.iter() {
                dense[place] = value;
            }
        }
        let n = order.len();
        for (part, sums) in self.sums.chunks_mut(COLUMNS).enumerate() {
            self.columns.clear();
            self.columns.resize(n * sums.len(), 0.0);
            for (update, dense) in self.dense[..n].iter().enumerate() {
                let dense = &dense[part * COLUMNS..][..sums.len()];
                for (column, value) in dense.iter().enumerate() {
                    self.columns[column * n + update] = *value;
                }
            }
            for (sum, column) in sums.iter_mut().zip(self.columns.chunks_mut(n)) {
                column.sort_unstable_by(f32::total_cmp);
                *sum = one(column);
            }
        }
        Ok(())
    }
}

/// Adds `factor` times each value to its element; the inner loop of every mean.
///
/// # Panics
/// If `sums` is shorter than the block.
pub fn accumulate(block: &Block, factor: f64, sums: &mut [f64]) {
    for (place, value) in block.places().iter().zip(block.values()) {
        sums[usize::from(*place)] += factor * f64::from(*value);
    }
}
