//! Each gate on rounds in which one thing is wrong.

use owm_proto::{Sha256, UnixMillis};
use owm_update::{Header, Published, Update};

use super::{
    structure::{Given, StructureFault},
    *,
};
use crate::{
    MemorySpool,
    tests::fixture::{Steps, key, memory, owner, submissions},
};

fn gated(spool: &MemorySpool, submissions: &[Submission], reference: Option<usize>) -> Gated {
    run(&Field {
        submissions,
        statistics: &Statistics::measure(spool).unwrap(),
        policy: &Policy::default(),
        history: NormHistory::default(),
        reference,
    })
}

const ELEMENTS: usize = 40_960;

#[test]
fn honest_updates_all_count() {
    let steps = Steps::new(20, ELEMENTS);
    let gated = gated(&memory(&steps.encoded()), &submissions(20), None);
    assert_eq!(gated.rejected, vec![None; 20]);
    assert!(!gated.reduced_protection);
    let long = gated.scale.iter().filter(|scale| **scale < 1.0).count();
    assert_eq!(long, 10, "half of them are longer than the median");
}

#[test]
fn one_that_is_far_too_long_is_rejected_and_one_that_is_far_too_short_is_flagged() {
    let steps = Steps::new(8, ELEMENTS);
    let mut updates = steps.encoded();
    updates[3] = steps.encode_one(3, |value| value * 10.0);
    updates[6] = steps.encode_one(6, |value| value / 10.0);
    updates[7] = steps.encode_one(7, |_| 0.0);
    let gated = gated(&memory(&updates), &submissions(8), None);
    assert!(matches!(gated.rejected[3], Some(Reason::Norm { score }) if score > 6.0));
    assert_eq!(gated.rejected[6], None);
    assert!(matches!(gated.flags[6], Some(Flag::Short { score }) if score < -6.0));
    assert_eq!(gated.rejected[7], Some(Reason::Empty));
    assert_eq!(gated.left(), [0, 1, 2, 4, 5, 6]);
}

#[test]
fn updates_of_nearly_one_norm_are_not_held_against_each_other() {
    // Clipped at the node: the deviations are tiny, and without a floor some would be outliers.
    let norms = NormHistory::default().with(0.0, 0.0);
    assert_eq!(
        norms,
        NormHistory {
            rounds: 1,
            centre: 0.0,
            spread: 0.0
        }
    );
    let steps = Steps::new(12, ELEMENTS);
    let same = |node: usize, factor: f64| {
        let bytes = steps.encode_as(node, node);
        let norm = Update::parse(&bytes).unwrap().summary().unwrap().norm;
        steps.encode_one(node, |value| value / norm * factor)
    };
    let mut updates: Vec<Vec<u8>> = (0..12).map(|node| same(node, 1.0)).collect();
    updates[1] = same(1, 1.2);
    updates[2] = same(2, 1.25);
    let gated = gated(&memory(&updates), &submissions(12), None);
    assert_eq!(gated.left().len(), 12);
}

#[test]
fn past_rounds_count_only_from_the_sixth_on() {
    let steps = Steps::new(8, ELEMENTS);
    let spool = memory(&steps.encoded());
    let statistics = Statistics::measure(&spool).unwrap();
    let submissions = submissions(8);
    let with = |rounds| {
        let history = NormHistory {
            rounds,
            centre: -20.0,
            spread: 0.0,
        };
        run(&Field {
            submissions: &submissions,
            statistics: &statistics,
            policy: &Policy::default(),
            history,
            reference: None,
        })
    };
    assert_eq!(with(4).left().len(), 8);
    assert_eq!(
        with(5).left().len(),
        0,
        "all are far longer than ever before"
    );
    assert_eq!(with(5).history.rounds, 6);
}

#[test]
fn of_two_copies_the_later_commit_loses_and_of_equal_times_the_higher_key() {
    let steps = Steps::new(10, ELEMENTS);
    let mut updates = steps.encoded();
    updates[2] = steps.encode_as(2, 7);
    let spool = memory(&updates);
    let mut given = submissions(10);
    let copy_of = |gated: &Gated, i: usize| match &gated.rejected[i] {
        Some(Reason::CopyOf {
            node,
            overlap,
            cosine,
        }) => {
            assert!(*overlap > 0.99 && *cosine > 0.99);
            Some(*node)
        }
        _ => None,
    };
    let seven = gated(&spool, &given, None);
    assert_eq!(copy_of(&seven, 7), Some(key(2)));
    assert_eq!(seven.left().len(), 9);
    given[2].committed_at = UnixMillis(60_000);
    let two = gated(&spool, &given, None);
    assert_eq!(copy_of(&two, 2), Some(key(7)));
    given[7].committed_at = UnixMillis(60_000);
    assert_eq!(copy_of(&gated(&spool, &given, None), 7), Some(key(2)));
}

/// Eight that share little, but for 0 with 1 and 1 with 2; every common support that is measured is the same.
fn chained(shared: u64, common: &[(usize, usize)]) -> Statistics {
    let n = 8;
    let pair = |i: usize, j: usize| (i.min(j), i.max(j));
    let of = |one: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        (0..n * n).map(|at| one(at / n, at % n)).collect()
    };
    let dots = of(&|i, j| if i == j { 1.0 } else { 0.5 });
    let shares = of(&|i, j| match pair(i, j) {
        (0, 1) | (1, 2) => shared as f64,
        (i, j) if i == j => 1_000.0,
        _ => 100.0,
    });
    let shares: Vec<u64> = shares.into_iter().map(|share| share as u64).collect();
    let common: Vec<_> = common.iter().map(|(i, j)| (*i, *j, 0.99)).collect();
    let json = serde_json::json!({
        "norms": vec![1.0; n], "values": vec![1_000; n], "dots": dots, "shared": shares, "common": common,
    });
    serde_json::from_value(json).unwrap()
}

fn copies(statistics: &Statistics, policy: &Policy) -> Vec<usize> {
    let gated = run(&Field {
        submissions: &submissions(8),
        statistics,
        policy,
        history: NormHistory::default(),
        reference: None,
    });
    let is_copy = |i: &usize| matches!(gated.rejected[*i], Some(Reason::CopyOf { .. }));
    (0..8).filter(is_copy).collect()
}

#[test]
fn who_is_like_a_copy_but_not_like_its_original_is_kept() {
    let statistics = chained(900, &[(0, 1), (1, 2)]);
    assert_eq!(copies(&statistics, &Policy::default()), [1]);
}

#[test]
fn a_policy_may_look_for_copies_that_share_less() {
    let strict = Policy {
        copy_overlap: 0.2,
        ..Policy::default()
    };
    let statistics = chained(300, &[(0, 1)]);
    assert!(copies(&statistics, &Policy::default()).is_empty());
    assert_eq!(copies(&statistics, &strict), [1]);
    // And what it asks for is measured.
    let spool = memory(&Steps::new(8, ELEMENTS).encoded());
    let measured = |from| Statistics::measure_from(&spool, from).unwrap();
    assert_eq!(measured(0.99).common_cosine(0, 1), None);
    assert!(measured(0.01).common_cosine(0, 1).is_some());
}

#[test]
fn what_points_away_from_the_others_is_rejected() {
    let steps = Steps::new(10, ELEMENTS);
    let mut updates = steps.encoded();
    updates[4] = steps.encode_one(4, |value| -value);
    let gated = gated(&memory(&updates), &submissions(10), None);
    assert!(matches!(gated.rejected[4], Some(Reason::Against { cosine }) if cosine < 0.0));
    assert_eq!(gated.left().len(), 9);
}

#[test]
fn an_owner_of_most_nodes_has_one_vote() {
    let steps = Steps::new(12, ELEMENTS);
    let mut updates = steps.encoded();
    let mut given = submissions(12);
    for (i, update) in updates.iter_mut().enumerate().skip(5) {
        *update = steps.encode_one(i, |value| -value);
    }
    let spool = memory(&updates);
    let alone = gated(&spool, &given, None);
    assert!(
        (0..5).all(|i| alone.rejected[i].is_some()),
        "seven liars outvote five"
    );
    for one in &mut given[5..] {
        one.owner = owner(5);
    }
    let together = gated(&spool, &given, None);
    assert_eq!(together.left(), [0, 1, 2, 3, 4]);
}

#[test]
fn below_six_the_reference_tells_the_direction() {
    let steps = Steps::new(6, ELEMENTS);
    let mut updates = steps.encoded();
    updates[0] = steps.encode_one(0, |value| -value);
    updates[1] = steps.encode_one(1, |value| -value);
    // Two of five lie; the sixth is the reference.
    let gated = gated(&memory(&updates), &submissions(5), Some(5));
    assert!(gated.reduced_protection);
    assert_eq!(gated.left(), [2, 3, 4]);
    assert!(matches!(
        gated.rejected[0],
        Some(Reason::AgainstReference { .. })
    ));
}

#[test]
fn every_reason_is_a_sentence() {
    for reason in [
        Reason::Empty,
        Reason::Norm { score: 7.0 },
        Reason::CopyOf {
            node: key(1),
            overlap: 0.9,
            cosine: 0.99,
        },
        Reason::Against { cosine: -0.1 },
        Reason::Outlier {
            cosine: 0.1,
            least: 0.2,
        },
        Reason::AgainstReference { cosine: -0.1 },
        Reason::ThreeSigma { sigmas: 3.1 },
        Reason::NotSelected { score: 1e-3 },
    ] {
        let said = reason.to_string();
        assert!(said.len() > 40 && !said.contains("  "), "{said}");
        let json = serde_json::to_string(&reason).unwrap();
        assert_eq!(serde_json::from_str::<Reason>(&json).unwrap(), reason);
    }
}

fn published(header: &Header) -> Published {
    let subject = header.subject.clone();
    Published {
        network: subject.network,
        round: subject.round,
        sub_model: subject.sub_model,
        base: subject.base,
        layout: subject.layout,
        mode: subject.mode,
        elements: header.elements,
        codec: header.codec,
        clip: 1e9,
    }
}

#[test]
fn structure_holds_bytes_against_commit_lease_and_round() {
    let bytes = Steps::new(1, 5_000).encode_as(0, 0);
    let update = Update::parse(&bytes).unwrap();
    let good = Given {
        node: key(0),
        committed: Sha256::of(&bytes),
        steps: 30,
        samples_max: 100,
    };
    let round = published(update.header());
    let summary = structure::check(&bytes, &round, &good).unwrap();
    assert_eq!(summary, update.summary().unwrap());
    let fault = |change: fn(&mut Given, &mut Published)| {
        let (mut given, mut round) = (good, round.clone());
        change(&mut given, &mut round);
        structure::check(&bytes, &round, &given).unwrap_err()
    };
    let other = fault(|given, _| given.committed = Sha256([0; 32]));
    assert!(matches!(other, StructureFault::Uncommitted { .. }) && !other.is_provable());
    let stranger = fault(|given, _| given.node = key(3));
    assert!(matches!(stranger, StructureFault::Node { .. }) && stranger.is_provable());
    let counts = |what, got, most| StructureFault::Count { what, got, most };
    assert_eq!(fault(|given, _| given.steps = 29), counts("steps", 30, 29));
    assert_eq!(
        fault(|given, _| given.samples_max = 99),
        counts("samples", 100, 99)
    );
    let late = fault(|_, round| round.round += 1);
    assert!(late.to_string().contains("round"), "{late}");
}
