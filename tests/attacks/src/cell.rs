//! One round after another: honest steps packed, lies packed, measured once, decided and averaged by every strategy.

use anyhow::Result;
use owm_aggregate::{
    MemorySpool, Policy, Statistics, StrategyName, Submission,
    gates::{Field, NormHistory},
    mean,
};
use owm_proto::{Permille, PublicKey, Sha256, UnixMillis, genesis::NetworkId};
use owm_update::{Codec, Mode, Origin, Subject, Update, encode_update};

use crate::{
    attack::{Attack, Sight, lie, median},
    synthetic::{Chance, Honest, honest},
};

/// What is varied besides attack and strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Updates of the round.
    pub(crate) n: usize,
    /// How many of them lie, where some do.
    pub(crate) attackers: usize,
    /// 30 % of the honest hold another distribution.
    pub(crate) other: bool,
    /// Of a step.
    pub(crate) elements: usize,
}

/// One strategy in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Cosine of the step to the truth.
    pub(crate) cosine: f64,
    /// Share of the honest whose updates were rejected.
    pub(crate) lost: f64,
    /// Share of the liars whose updates count.
    pub(crate) kept: f64,
}

/// One strategy under one attack in one setting, over the seeds.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) setting: Setting,
    pub(crate) attack: Attack,
    pub(crate) strategy: StrategyName,
    /// Means.
    pub(crate) mean: Outcome,
    /// The least cosine of all seeds.
    pub(crate) worst: f64,
}

/// One seed's round under every attack; strategies in the order of `StrategyName::ALL`.
pub(crate) fn one(setting: Setting, seed: u64) -> Result<Vec<(Attack, Vec<Outcome>)>> {
    let mut chance = Chance::new(seed * 1_000 + setting.n as u64);
    let honest = honest(setting.n, setting.elements, setting.other, &mut chance);
    let packed = honest.steps.iter().enumerate();
    let packed: Vec<Vec<u8>> = packed
        .map(|(i, step)| pack(i, step, 1.0))
        .collect::<Result<_>>()?;
    let reference = pack(setting.n, &honest.reference, 1.0)?;
    let attacks = Attack::ALL.into_iter();
    attacks
        .map(|attack| {
            Ok((
                attack,
                round(setting, attack, &honest, &packed, &reference, &mut chance)?,
            ))
        })
        .collect()
}

fn round(
    setting: Setting,
    attack: Attack,
    honest: &Honest,
    packed: &[Vec<u8>],
    reference: &[u8],
    chance: &mut Chance,
) -> Result<Vec<Outcome>> {
    let good = match attack {
        Attack::None => setting.n,
        _ => setting.n - setting.attackers,
    };
    let dense: Vec<Vec<f32>> = packed[..good]
        .iter()
        .map(|bytes| unpack(bytes))
        .collect::<Result<_>>()?;
    let norms: Vec<f64> = packed[..good]
        .iter()
        .map(|bytes| norm(bytes))
        .collect::<Result<_>>()?;
    let sight = Sight {
        packed: &dense,
        norms: &norms,
        truth: &honest.truth,
    };
    let mut updates = packed[..good].to_vec();
    for i in good..setting.n {
        let (step, long) = lie(attack, &honest.steps[i], &sight, chance);
        let plain = pack(i, &step, 1.0)?;
        updates.push(match long {
            Some(long) => pack(i, &step, long / norm(&plain)?)?,
            None => plain,
        });
    }
    updates.push(reference.to_vec());
    let statistics = Statistics::measure(&MemorySpool::new(updates.iter().cloned())?)?;
    let spool = MemorySpool::new(updates)?;
    let policy = Policy {
        clip: 1.5 * median(&norms),
        ..Policy::default()
    };
    let submissions: Vec<Submission> = (0..setting.n).map(submission).collect();
    let field = Field {
        submissions: &submissions,
        statistics: &statistics,
        policy: &policy,
        history: NormHistory::default(),
        reference: Some(setting.n),
    };
    let strategies = StrategyName::ALL.iter();
    strategies
        .map(|name| {
            // A round in which nothing passes is abandoned: no step, no direction.
            let Ok(decision) = name.strategy().decide(&field) else {
                return Ok(Outcome {
                    cosine: 0.0,
                    lost: 1.0,
                    kept: 0.0,
                });
            };
            let step = mean(&spool, &decision)?;
            let counts = |i: &usize| decision.verdicts[*i].rejected.is_none();
            let liars = setting.n - good;
            let kept = (good..setting.n).filter(counts).count();
            Ok(Outcome {
                cosine: cosine(&step, &honest.truth),
                lost: 1.0 - (0..good).filter(counts).count() as f64 / good as f64,
                kept: if liars == 0 {
                    0.0
                } else {
                    kept as f64 / liars as f64
                },
            })
        })
        .collect()
}

/// Keys in no order; the liars commit after the honest.
fn submission(i: usize) -> Submission {
    let key = Sha256::of(&i.to_le_bytes());
    Submission {
        node: PublicKey(key.0),
        owner: key,
        committed_at: UnixMillis(1_000 + i as u64),
        samples: 100,
        tier: Permille::ONE,
        stake_bonus: Permille::ONE,
        audited: false,
    }
}

fn pack(i: usize, step: &[f64], factor: f64) -> Result<Vec<u8>> {
    let subject = Subject {
        network: NetworkId(Sha256([1; 32])),
        round: 1,
        sub_model: "owm-code".parse()?,
        base: Sha256([2; 32]),
        layout: Sha256([3; 32]),
        mode: Mode::Full,
        origin: Origin::Node {
            node: submission(i).node,
            samples: 100,
            steps: 30,
            clip: 1e9,
        },
    };
    let step = step.iter().map(|value| (value * factor) as f32).collect();
    Ok(encode_update(subject, Codec::DEFAULT, step, None)?.bytes)
}

fn unpack(bytes: &[u8]) -> Result<Vec<f32>> {
    let update = Update::parse(bytes)?;
    let mut dense = vec![0.0; update.header().elements as usize];
    update.add_to(&mut dense)?;
    Ok(dense)
}

fn norm(bytes: &[u8]) -> Result<f64> {
    Ok(Update::parse(bytes)?.summary()?.norm)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

/// Seeds to cells.
pub(crate) fn collect(setting: Setting, seeds: &[Vec<(Attack, Vec<Outcome>)>]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (at, attack) in Attack::ALL.into_iter().enumerate() {
        for (number, strategy) in StrategyName::ALL.iter().enumerate() {
            let outcomes = || seeds.iter().map(|seed| seed[at].1[number]);
            let mean = |of: fn(&Outcome) -> f64| {
                outcomes().map(|outcome| of(&outcome)).sum::<f64>() / seeds.len() as f64
            };
            cells.push(Cell {
                setting,
                attack,
                strategy: *strategy,
                mean: Outcome {
                    cosine: mean(|outcome| outcome.cosine),
                    lost: mean(|outcome| outcome.lost),
                    kept: mean(|outcome| outcome.kept),
                },
                worst: outcomes().fold(1.0, |worst, outcome| outcome.cosine.min(worst)),
            });
        }
    }
    cells
}
