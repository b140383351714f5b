//! Steps that nodes could have made: a heavy-tailed truth (Student's t, three degrees of freedom), and on it each node's
//! noise of twice its deviation, more or less loud. As in the simulation that the gates were found with.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore as _, SeedableRng as _},
};

/// Size of the truth's elements.
const SCALE: f64 = 0.01;

/// Deviation of a node's noise beside the truth's.
const NOISE: f64 = 2.0;

/// How much of the truth is in the other distribution's truth.
const SHARED: f64 = 0.5;

/// Chance from a seed.
#[derive(Debug)]
pub(crate) struct Chance(ChaCha8Rng);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }

    /// Standard normal, by Box and Muller.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    fn student(&mut self) -> f64 {
        let square: f64 = (0..3).map(|_| self.normal().powi(2)).sum();
        self.normal() / (square / 3.0).sqrt()
    }
}

/// Honest steps of one round.
#[derive(Debug)]
pub(crate) struct Honest {
    /// What the round is to find: the mean of what the honest are asked for.
    pub(crate) truth: Vec<f64>,
    /// One step each.
    pub(crate) steps: Vec<Vec<f64>>,
    /// A reference node's step on a public shard.
    pub(crate) reference: Vec<f64>,
}

/// `n` honest steps; if `other`, 30 % of them from data whose own truth shares half with the rest's.
pub(crate) fn honest(n: usize, elements: usize, other: bool, chance: &mut Chance) -> Honest {
    let first: Vec<f64> = (0..elements).map(|_| SCALE * chance.student()).collect();
    let rest = (1.0 - SHARED * SHARED).sqrt();
    let second: Vec<f64> = first
        .iter()
        .map(|value| SHARED * value + rest * SCALE * chance.student())
        .collect();
    let others = if other { n * 3 / 10 } else { 0 };
    let share = others as f64 / n as f64;
    let sigma = deviation(&first);
    let mut step = |truth: &[f64]| -> Vec<f64> {
        let loud = NOISE * sigma * (0.7 + 0.6 * chance.uniform());
        truth
            .iter()
            .map(|value| value + loud * chance.normal())
            .collect()
    };
    // The others stand at the end, where attackers would take their places: they are dealt out evenly instead.
    let is_other = |i: usize| (i + 1) * others / n > i * others / n;
    let steps = (0..n)
        .map(|i| step(if is_other(i) { &second } else { &first }))
        .collect();
    let reference = step(&first);
    let mix = |(a, b): (&f64, &f64)| (1.0 - share) * a + share * b;
    Honest {
        truth: first.iter().zip(&second).map(mix).collect(),
        steps,
        reference,
    }
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let square: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (square / values.len() as f64).sqrt()
}
