//! What liars hand in. They know every honest update of the round, as packed; only those of [`Attack::Copy`] need to see
//! another's bytes in time.

use owm_update::CHUNK;

use crate::synthetic::Chance;

/// One way to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Nobody does.
    None,
    /// An honest step turned round and ten times as long. (A round's published clip refuses it already; here it is let in.)
    TenTimes,
    /// An honest step turned round.
    SignFlip,
    /// The negative mean of the honest, as long as they are (Xie et al. 2019).
    InnerProduct,
    /// The same, 2.9 standard deviations above the mean norm.
    UnderThreeSigma,
    /// The mean less one standard deviation, per element (Baruch et al. 2019).
    Alie,
    /// Noise at random places, as long as the honest.
    RandomSupport,
    /// All at the places that the honest send least, against the truth.
    Unpopular,
    /// One honest update again, a hundredth changed, later.
    Copy,
}

impl Attack {
    pub(crate) const ALL: [Self; 9] = [
        Self::None,
        Self::TenTimes,
        Self::SignFlip,
        Self::InnerProduct,
        Self::UnderThreeSigma,
        Self::Alie,
        Self::RandomSupport,
        Self::Unpopular,
        Self::Copy,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::TenTimes => "×10 flip",
            Self::SignFlip => "sign flip",
            Self::InnerProduct => "inner product",
            Self::UnderThreeSigma => "under 3σ",
            Self::Alie => "ALIE",
            Self::RandomSupport => "random support",
            Self::Unpopular => "unpopular",
            Self::Copy => "copy",
        }
    }
}

/// What an attacker sees.
#[derive(Debug)]
pub(crate) struct Sight<'a> {
    /// The honest updates, decoded.
    pub(crate) packed: &'a [Vec<f32>],
    /// Their norms.
    pub(crate) norms: &'a [f64],
    /// What the round is to find.
    pub(crate) truth: &'a [f64],
}

/// A lie, and how long it must be once packed; `None`: as it comes.
pub(crate) fn lie(
    attack: Attack,
    own: &[f64],
    sight: &Sight<'_>,
    chance: &mut Chance,
) -> (Vec<f64>, Option<f64>) {
    let typical = Some(median(sight.norms));
    match attack {
        Attack::None => (own.to_vec(), None),
        Attack::TenTimes => (own.iter().map(|value| -10.0 * value).collect(), None),
        Attack::SignFlip => (own.iter().map(|value| -value).collect(), None),
        Attack::InnerProduct => (negative_mean(sight), typical),
        Attack::UnderThreeSigma => {
            let n = sight.norms.len() as f64;
            let mean = sight.norms.iter().sum::<f64>() / n;
            let square: f64 = sight.norms.iter().map(|norm| (norm - mean).powi(2)).sum();
            (negative_mean(sight), Some(mean + 2.9 * (square / n).sqrt()))
        }
        Attack::Alie => (alie(sight), None),
        Attack::RandomSupport => (random_support(own.len(), chance), typical),
        Attack::Unpopular => (unpopular(sight), typical),
        Attack::Copy => {
            let near = |value: &f32| f64::from(*value) * (1.0 + 0.01 * chance.normal());
            (sight.packed[0].iter().map(near).collect(), None)
        }
    }
}

/// How many values of a chunk a lie has: as many as are kept.
fn kept(chunk: usize) -> usize {
    owm_update::Keep::TENTH.of(chunk)
}

fn mean_at(sight: &Sight<'_>, at: usize) -> f64 {
    let sum: f64 = sight
        .packed
        .iter()
        .map(|update| f64::from(update[at]))
        .sum();
    sum / sight.packed.len() as f64
}

fn negative_mean(sight: &Sight<'_>) -> Vec<f64> {
    (0..sight.truth.len())
        .map(|at| -mean_at(sight, at))
        .collect()
}

fn alie(sight: &Sight<'_>) -> Vec<f64> {
    let n = sight.packed.len() as f64;
    let one = |at: usize| {
        let mean = mean_at(sight, at);
        let squares = sight
            .packed
            .iter()
            .map(|update| (f64::from(update[at]) - mean).powi(2));
        mean - (squares.sum::<f64>() / n).sqrt()
    };
    (0..sight.truth.len()).map(one).collect()
}

fn random_support(elements: usize, chance: &mut Chance) -> Vec<f64> {
    let mut lie = vec![0.0; elements];
    for chunk in lie.chunks_mut(CHUNK) {
        let mut left = kept(chunk.len());
        while left > 0 {
            let place = chance.below(chunk.len());
            if chunk[place] == 0.0 {
                chunk[place] = chance.normal();
                left -= 1;
            }
        }
    }
    lie
}

fn unpopular(sight: &Sight<'_>) -> Vec<f64> {
    let mut lie = vec![0.0; sight.truth.len()];
    for first in (0..lie.len()).step_by(CHUNK) {
        let end = (first + CHUNK).min(lie.len());
        let votes = |at: &usize| {
            sight
                .packed
                .iter()
                .filter(|update| update[*at] != 0.0)
                .count()
        };
        let mut places: Vec<usize> = (first..end).collect();
        places.sort_by_key(votes);
        for at in &places[..kept(end - first)] {
            lie[*at] = -sight.truth[*at].signum();
        }
    }
    lie
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[half]
    } else {
        f64::midpoint(sorted[half - 1], sorted[half])
    }
}
