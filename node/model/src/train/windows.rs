//! Which tokens are trained on when. Called by the trainer. Pure: the order follows from the seed
//! and the number of windows, so that a run that is resumed goes on where it was.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::TrainError;

/// The text to train on, as tokens in one row, cut into windows of one length. Each window is
/// trained to foretell its tokens after the first, so neighbours share one token.
#[derive(Debug, Clone)]
pub(crate) struct Windows {
    tokens: Vec<u32>,
    sequence: usize,
    seed: u64,
    /// The order of one epoch, made when it is first asked for.
    epoch: Option<(u64, Vec<u32>)>,
}

impl Windows {
    /// For windows of `sequence` tokens, or of what there is if that is less.
    pub(crate) fn new(tokens: Vec<u32>, sequence: usize, seed: u64) -> Result<Self, TrainError> {
        if tokens.len() < 3 {
            return Err(TrainError::NoTokens {
                tokens: tokens.len(),
            });
        }
        let sequence = sequence.min(tokens.len() - 1);
        if tokens.len() / sequence > u32::MAX as usize {
            return Err(TrainError::BadPlan(
                "there are 2^32 windows or more".to_owned(),
            ));
        }
        Ok(Self {
            tokens,
            sequence,
            seed,
            epoch: None,
        })
    }

    pub(crate) fn sequence(&self) -> usize {
        self.sequence
    }

    /// Windows of one epoch.
    pub(crate) fn count(&self) -> usize {
        (self.tokens.len() - 1) / self.sequence
    }

    /// Window `index` of the run, `sequence + 1` tokens. After the last window of an epoch comes
    /// the first of the next, in another order.
    pub(crate) fn get(&mut self, index: u64) -> &[u32] {
        let count = self.count();
        let (epoch, at) = (index / count as u64, index % count as u64);
        if self.epoch.as_ref().is_none_or(|(made, _)| *made != epoch) {
            self.epoch = Some((epoch, order(self.seed, epoch, count as u32)));
        }
        let window = self
            .epoch
            .as_ref()
            .map_or(at as usize, |(_, order)| order[at as usize] as usize);
        let start = window * self.sequence;
        &self.tokens[start..=start + self.sequence]
    }
}

/// The numbers below `count` in an order that seed and epoch decide: Fisher and Yates' shuffle.
fn order(seed: u64, epoch: u64, count: u32) -> Vec<u32> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    let mut random = ChaCha20Rng::from_seed(key);
    let mut order: Vec<u32> = (0..count).collect();
    for last in (1..order.len()).rev() {
        // Scaled down from 64 bits: the bias is below 2^-32.
        let wide = u128::from(random.next_u64()) * (last as u128 + 1);
        order.swap(last, (wide >> 64) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_comes_once_an_epoch_and_the_order_changes() {
        let mut windows = Windows::new((0..101).collect(), 10, 3).unwrap();
        assert_eq!(windows.count(), 10);
        let epoch = |windows: &mut Windows, from: u64| -> Vec<Vec<u32>> {
            (from..from + 10).map(|i| windows.get(i).to_vec()).collect()
        };
        let first = epoch(&mut windows, 0);
        let second = epoch(&mut windows, 10);
        assert_ne!(first, second);
        let sorted = |mut epoch: Vec<Vec<u32>>| {
            epoch.sort();
            epoch
        };
        let expected: Vec<Vec<u32>> = (0..10).map(|w| (w * 10..=w * 10 + 10).collect()).collect();
        assert_eq!(sorted(first.clone()), expected);
        assert_eq!(sorted(second), expected);
        // The order is a function of the seed, whatever was asked before.
        let mut again = Windows::new((0..101).collect(), 10, 3).unwrap();
        assert_eq!(again.get(7), first[7]);
        let mut other = Windows::new((0..101).collect(), 10, 4).unwrap();
        assert_ne!(epoch(&mut other, 0), first);
    }

    #[test]
    fn a_short_text_makes_one_short_window_and_an_empty_one_none() {
        let mut windows = Windows::new(vec![5, 6, 7], 64, 0).unwrap();
        assert_eq!((windows.sequence(), windows.count()), (2, 1));
        assert_eq!(windows.get(9), [5, 6, 7]);
        assert!(matches!(
            Windows::new(vec![5, 6], 64, 0),
            Err(TrainError::NoTokens { tokens: 2 })
        ));
    }
}
