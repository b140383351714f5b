//! Shares under caps: known cases, and what holds for any.

use owm_proto::{Permille, PublicKey, Sha256, UnixMillis};
use proptest::prelude::*;

use super::*;

fn node(key: u8, owner: u8, samples: u64, audited: bool) -> Submission {
    Submission {
        node: PublicKey([key; 32]),
        owner: Sha256([owner; 32]),
        committed_at: UnixMillis(0),
        samples,
        tier: Permille(1_000),
        stake_bonus: Permille(1_000),
        audited,
    }
}

fn weighed(nodes: &[Submission]) -> Weights {
    let nodes: Vec<&Submission> = nodes.iter().collect();
    weigh(&nodes, &Policy::default()).unwrap()
}

fn close(weights: &Weights, shares: &[f64]) {
    assert_eq!(weights.shares.len(), shares.len());
    for (got, expected) in weights.shares.iter().zip(shares) {
        assert!(
            (got - expected).abs() < 1e-9,
            "{:?}, not {shares:?}",
            weights.shares
        );
    }
}

#[test]
fn samples_tier_and_stake_multiply_and_a_node_is_capped_at_one_and_a_half_of_its_share() {
    let mut nodes: Vec<_> = (0..10).map(|i| node(i, i, 100, true)).collect();
    close(&weighed(&nodes), &[0.1; 10]);
    nodes[0].samples = 200;
    nodes[0].tier = Permille(3_000);
    // 0.15 for the first; the rest share what is left.
    let mut expected = [0.85 / 9.0; 10];
    expected[0] = 0.15;
    let weights = weighed(&nodes);
    close(&weights, &expected);
    assert_eq!(weights.relaxed, []);
    nodes[0].samples = 120;
    nodes[0].tier = Permille::ONE;
    close(&weighed(&nodes), &{
        let mut expected = [100.0 / 1_020.0; 10];
        expected[0] = 120.0 / 1_020.0;
        expected
    });
}

#[test]
fn an_owner_of_half_of_the_nodes_has_a_fifth() {
    let nodes: Vec<_> = (0..10).map(|i| node(i, i.max(4), 100, true)).collect();
    let weights = weighed(&nodes);
    // Five others at 0.16 each would be above 0.15: the owner's cap must give way, to 0.25.
    assert_eq!(weights.relaxed, [Relaxed::Owner { cap: 0.25 }]);
    let mut expected = [0.15; 10];
    expected[..5].fill(0.05);
    close(&weights, &expected);
    let nodes: Vec<_> = (0..20).map(|i| node(i, i.max(7), 100, true)).collect();
    let weights = weighed(&nodes);
    assert_eq!(weights.relaxed, []);
    let mut expected = [0.8 / 12.0; 20];
    expected[..8].fill(0.025);
    close(&weights, &expected);
}

#[test]
fn three_owners_cannot_each_have_at_most_a_fifth() {
    let weights = weighed(&[
        node(0, 0, 800, true),
        node(1, 1, 100, true),
        node(2, 2, 100, true),
    ]);
    let cap = 1.0 / 3.0;
    assert_eq!(weights.relaxed, [Relaxed::Owner { cap }]);
    close(&weights, &[cap; 3]);
}

#[test]
fn the_unaudited_have_a_third_between_them_once_anyone_is_audited() {
    let nodes = |audited: u8| -> Vec<_> { (0..10).map(|i| node(i, i, 100, i < audited)).collect() };
    let none = weighed(&nodes(0));
    assert_eq!(none.relaxed, [Relaxed::NoAudits]);
    close(&none, &[0.1; 10]);
    let five = weighed(&nodes(5));
    assert_eq!(five.relaxed, []);
    let mut expected = [1.0 / 15.0; 10];
    expected[..5].fill(2.0 / 15.0);
    close(&five, &expected);
    // Two audited at 0.15 each cannot take two thirds.
    let two = weighed(&nodes(2));
    assert!(
        matches!(two.relaxed[..], [Relaxed::Unaudited { share }] if (share - 0.7).abs() < 1e-9)
    );
    let mut expected = [0.7 / 8.0; 10];
    expected[..2].fill(0.15);
    close(&two, &expected);
    assert_eq!(weighed(&nodes(10)).relaxed, []);
}

#[test]
fn an_update_without_samples_has_no_weight_and_all_of_them_are_an_error() {
    let weights = weighed(&[node(0, 0, 0, true), node(1, 1, 5, true)]);
    assert_eq!(
        weights.relaxed,
        [Relaxed::Node { cap: 1.0 }, Relaxed::Owner { cap: 1.0 }]
    );
    close(&weights, &[0.0, 1.0]);
    let none = node(0, 0, 0, true);
    assert_eq!(
        weigh(&[&none], &Policy::default()),
        Err(DecideError::NoWeight)
    );
}

proptest! {
    #[test]
    fn shares_sum_to_one_and_every_cap_holds_or_is_named(
        nodes in proptest::collection::vec((0..12_u8, 0..1_000_u64, 1_000..8_000_u32, any::<bool>()), 1..40)
    ) {
        let nodes: Vec<Submission> = nodes.into_iter().enumerate().map(|(i, (owner, samples, tier, audited))| {
            Submission { tier: Permille(tier), ..node(i as u8, owner, samples, audited) }
        }).collect();
        prop_assume!(nodes.iter().any(|node| node.samples > 0));
        let weights = weighed(&nodes);
        let sum: f64 = weights.shares.iter().sum();
        prop_assert!((sum - 1.0).abs() < 1e-12);
        let slack = 1e-9;
        let (mut node_cap, mut owner_cap, mut unaudited) = (1.5 / nodes.len() as f64, 0.2, 1.0 / 3.0);
        for relaxed in &weights.relaxed {
            match relaxed {
                Relaxed::Node { cap } => { prop_assert!(*cap > node_cap); node_cap = *cap }
                Relaxed::Owner { cap } => { prop_assert!(*cap > owner_cap); owner_cap = *cap }
                Relaxed::NoAudits => unaudited = 1.0,
                Relaxed::Unaudited { share } => { prop_assert!(*share > unaudited); unaudited = *share }
            }
        }
        for (share, node) in weights.shares.iter().zip(&nodes) {
            prop_assert!(*share >= 0.0 && *share <= node_cap + slack);
            prop_assert!(*share == 0.0 || node.samples > 0);
        }
        for owner in 0..12 {
            let of = |(share, node): (&f64, &Submission)| if node.owner.0[0] == owner { *share } else { 0.0 };
            let sum: f64 = weights.shares.iter().zip(&nodes).map(of).sum();
            prop_assert!(sum <= owner_cap + slack, "owner {} has {}", owner, sum);
        }
        let open = |(share, node): (&f64, &Submission)| if node.audited { 0.0 } else { *share };
        let sum: f64 = weights.shares.iter().zip(&nodes).map(open).sum();
        prop_assert!(sum <= unaudited + slack, "the unaudited have {}", sum);
    }
}
