//! Whole rounds, from steps to the next checkpoint: the same bytes whoever computes, and what the definitions say.

#![expect(clippy::float_cmp, reason = "to the bit: that is what is promised")]

pub(crate) mod fixture;
mod release;
mod vectors;

use fixture::{Steps, decide, key, owner, submissions, threads};
use owm_proto::Sha256;
use owm_update::{BLOCK, Update};

use crate::{
    DecideError, FileSpool, MemorySpool, Policy, Spool as _, Statistics, StrategyName,
    gates::{Field, NormHistory},
    mean,
    tests::fixture::memory,
};

#[test]
fn statistics_are_those_of_the_dense_updates() {
    let updates = Steps::new(5, 40_960 + 77).encoded();
    let spool = memory(&updates);
    let statistics = Statistics::measure(&spool).unwrap();
    let dense: Vec<Vec<f32>> = updates.iter().map(|bytes| fixture::dense(bytes)).collect();
    let dot = |i: usize, j: usize| -> f64 {
        let products = dense[i].iter().zip(&dense[j]);
        products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    for i in 0..5 {
        let norm = Update::parse(&updates[i]).unwrap().summary().unwrap().norm;
        assert_eq!(
            statistics.norm(i).to_bits(),
            norm.to_bits(),
            "the norm of the codec, to the bit"
        );
        for j in 0..5 {
            let expected = dot(i, j);
            assert!((statistics.dot(i, j) - expected).abs() <= expected.abs() * 1e-12);
            let both = dense[i]
                .iter()
                .zip(&dense[j])
                .filter(|(a, b)| **a != 0.0 && **b != 0.0);
            let both: Vec<_> = both.collect();
            let share = both.len() as f64 / statistics.values(i).min(statistics.values(j)) as f64;
            assert_eq!(statistics.overlap(i, j), share);
            if i == j {
                continue;
            }
            let square = |one: fn(&(&f32, &f32)) -> f32| -> f64 {
                both.iter().map(|pair| f64::from(one(pair)).powi(2)).sum()
            };
            let product: f64 = both
                .iter()
                .map(|(a, b)| f64::from(**a) * f64::from(**b))
                .sum();
            let cosine = product / (square(|pair| *pair.0) * square(|pair| *pair.1)).sqrt();
            match statistics.common_cosine(i, j) {
                Some(common) => assert!((common - cosine).abs() < 1e-12),
                None => assert!(share <= 0.4),
            }
        }
    }
}

#[test]
fn the_bytes_depend_neither_on_threads_nor_on_the_order_of_arrival_nor_on_where_updates_lie() {
    let steps = Steps::new(7, 3 * BLOCK + 100);
    let mut updates = steps.encoded();
    updates[3] = steps.encode_one(3, |value| -value);
    let given = submissions(7);
    let run = |count: usize, order: &[usize]| {
        let updates: Vec<Vec<u8>> = order.iter().map(|i| updates[*i].clone()).collect();
        let given: Vec<_> = order.iter().map(|i| given[*i].clone()).collect();
        threads(count).install(|| {
            let (decision, released) = steps.aggregate(&memory(&updates), &given);
            let mut verdicts = decision.verdicts.clone();
            verdicts.sort_by_key(|verdict| verdict.node);
            (verdicts, released.delta, released.residue.sha256())
        })
    };
    let forward: Vec<usize> = (0..7).collect();
    let one = run(1, &forward);
    assert_eq!(one, run(8, &forward));
    let other = run(3, &[4, 2, 6, 0, 5, 1, 3]);
    assert_eq!(one, other, "to the bit, with every score");

    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..7)
        .map(|i| folder.path().join(format!("{i}.owmu")))
        .collect();
    for (path, bytes) in paths.iter().zip(&updates) {
        std::fs::write(path, bytes).unwrap();
    }
    let files = FileSpool::open(&paths).unwrap();
    let (_, released) = steps.aggregate(&files, &given);
    assert_eq!(released.delta, one.1);
    std::fs::write(&paths[3], &updates[3][..updates[3].len() - 1]).unwrap();
    let refused = FileSpool::open(&paths).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidData);
}

#[test]
fn the_mean_is_over_the_total_weight_and_scales_the_long() {
    let updates = Steps::new(6, 5_000).encoded();
    let spool = memory(&updates);
    let given = submissions(6);
    let statistics = Statistics::measure(&spool).unwrap();
    let decision = decide(StrategyName::OwmRobust, &statistics, &given).unwrap();
    assert_eq!(decision.accepted().len(), 6);
    assert!(decision.verdicts.iter().any(|verdict| verdict.scale < 1.0));
    let step = mean(&spool, &decision).unwrap();
    let mut expected = vec![0.0_f64; 5_000];
    for (bytes, verdict) in updates.iter().zip(&decision.verdicts) {
        for (sum, value) in expected.iter_mut().zip(fixture::dense(bytes)) {
            *sum += verdict.weight * verdict.scale * f64::from(value);
        }
    }
    assert_eq!(step, expected);
    let total: f64 = decision.verdicts.iter().map(|verdict| verdict.weight).sum();
    assert!((total - 1.0).abs() < 1e-12);
}

#[test]
fn every_strategy_decides_and_says_its_name() {
    let updates = Steps::new(10, 9_000).encoded();
    let spool = memory(&updates);
    let statistics = Statistics::measure(&spool).unwrap();
    let given = submissions(10);
    for name in StrategyName::ALL {
        let decision = decide(*name, &statistics, &given).unwrap();
        assert_eq!((decision.strategy, name.strategy().name()), (*name, *name));
        assert_eq!(name.as_str().parse(), Ok(*name));
        let accepted = match name {
            StrategyName::Krum => 1,
            StrategyName::MultiKrum => 7,
            _ => 10,
        };
        assert_eq!(decision.accepted().len(), accepted, "{name}");
        let step = mean(&spool, &decision).unwrap();
        assert!(step.iter().any(|value| *value != 0.0), "{name}");
        assert!(decision.to_json().contains(name.as_str()));
    }
    assert!("owm".parse::<StrategyName>().is_err());
}

#[test]
fn trimmed_mean_and_median_go_element_by_element() {
    let updates = Steps::new(5, 4_500).encoded();
    let spool = memory(&updates);
    let dense: Vec<Vec<f32>> = updates.iter().map(|bytes| fixture::dense(bytes)).collect();
    let statistics = Statistics::measure(&spool).unwrap();
    for (name, cut) in [(StrategyName::TrimmedMean, 1), (StrategyName::Median, 2)] {
        let decision = decide(name, &statistics, &submissions(5)).unwrap();
        for (element, value) in mean(&spool, &decision).unwrap().into_iter().enumerate() {
            let mut column: Vec<f32> = dense.iter().map(|update| update[element]).collect();
            column.sort_by(f32::total_cmp);
            let kept = &column[cut..5 - cut];
            let sum: f64 = kept.iter().map(|value| f64::from(*value)).sum();
            assert_eq!(value, sum / kept.len() as f64);
        }
    }
}

#[test]
fn too_few_updates_are_averaged_only_where_the_policy_says_so() {
    let updates = Steps::new(2, 3_000).encoded();
    let spool = memory(&updates);
    let statistics = Statistics::measure(&spool).unwrap();
    let given = submissions(2);
    let mut policy = Policy::default();
    let ask = |policy: &Policy| {
        StrategyName::OwmRobust.strategy().decide(&Field {
            submissions: &given,
            statistics: &statistics,
            policy,
            history: NormHistory::default(),
            reference: None,
        })
    };
    assert_eq!(ask(&policy), Err(DecideError::Tiny(2)));
    policy.allow_tiny = true;
    let decision = ask(&policy).unwrap();
    assert!(decision.reduced_protection);
    assert_eq!(decision.accepted().len(), 2);
    let nothing = MemorySpool::new([]).unwrap();
    let refused = Statistics::measure(&nothing).unwrap();
    assert_eq!(
        decide(StrategyName::FedAvg, &refused, &[]),
        Err(DecideError::Nothing)
    );
    assert!(matches!(
        decide(StrategyName::FedAvg, &statistics, &submissions(3)),
        Err(DecideError::Mismatch { .. })
    ));
    let four = memory(&Steps::new(4, 3_000).encoded());
    let statistics = Statistics::measure(&four).unwrap();
    let refused = decide(StrategyName::OwmRobust, &statistics, &submissions(4));
    assert_eq!(refused, Err(DecideError::NoReference(4)));
    // That a tiny round is allowed lets no larger one go without a direction.
    let refused = StrategyName::OwmRobust.strategy().decide(&Field {
        submissions: &submissions(4),
        statistics: &statistics,
        policy: &policy,
        history: NormHistory::default(),
        reference: None,
    });
    assert_eq!(refused, Err(DecideError::NoReference(4)));
}

#[test]
fn updates_of_different_sizes_are_no_round() {
    let mut updates = Steps::new(2, 3_000).encoded();
    updates.extend(Steps::new(1, 3_001).encoded());
    let refused = Statistics::measure(&memory(&updates)).unwrap_err();
    assert!(refused.to_string().contains("3001"), "{refused}");
    assert_eq!(memory(&updates).len(), 3);
}

#[test]
fn a_round_done_again_from_what_was_recorded_gives_the_same_bytes_and_decisions() {
    let steps = Steps::new(8, BLOCK + 4_000);
    let mut updates = steps.encoded();
    // One poisons, one copies.
    updates[2] = steps.encode_one(2, |value| -value);
    updates[5] = steps.encode_as(5, 4);
    let given = submissions(8);
    let (decision, released) = steps.aggregate(&memory(&updates), &given);
    let (record, stored) = (decision.to_json(), serde_json::to_string(&given).unwrap());
    let given: Vec<crate::Submission> = serde_json::from_str(&stored).unwrap();
    let (again, bytes) = threads(1).install(|| steps.aggregate(&memory(&updates), &given));
    assert_eq!(again.to_json(), record);
    assert_eq!(bytes.delta, released.delta);
    assert_eq!(bytes.residue.sha256(), released.residue.sha256());
    assert_eq!(
        crate::Decision::from_json(&record).unwrap(),
        decision,
        "to the bit"
    );
    let rejected = |i: usize| decision.verdicts[i].rejected.clone();
    assert!(
        matches!(rejected(2), Some(crate::gates::Reason::Against { .. })),
        "{:?}",
        rejected(2)
    );
    assert!(
        matches!(rejected(5), Some(crate::gates::Reason::CopyOf { node, .. }) if node == key(4))
    );
    assert_eq!(decision.accepted(), [0, 1, 3, 4, 6, 7]);
}

#[test]
fn a_known_round_has_a_known_answer() {
    // The same on every machine: if this changes, replays of old rounds break.
    let steps = Steps::new(9, 2 * BLOCK + 5);
    let mut given = submissions(9);
    for (i, one) in given.iter_mut().enumerate() {
        one.samples = 50 + 10 * i as u64;
        one.owner = owner(i / 2);
        one.audited = i % 3 == 0;
    }
    let (decision, released) = steps.aggregate(&memory(&steps.encoded()), &given);
    let record = Sha256::of(decision.to_json().as_bytes());
    let said = [record, released.sha256, released.residue.sha256()].map(|hash| hash.to_string());
    assert_eq!(said, fixture::KNOWN);
}
