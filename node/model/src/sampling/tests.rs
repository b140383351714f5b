//! Choosing tokens.

use super::*;

const SCORES: [f32; 6] = [0.5, 2.0, -1.0, 2.0, f32::NEG_INFINITY, f32::NAN];

const PINNED: [u64; 4] = [
    5_876_733_520_225_071,
    6_315_957_190_297_641,
    3_092_098_744_885_774,
    6_977_857_691_960_752,
];

fn sampling(temperature: f32, top_p: f32, top_k: u32) -> Sampling {
    Sampling {
        temperature,
        top_p,
        top_k,
        seed: 1,
    }
}

#[test]
fn greedy_takes_the_lowest_of_equal_ids_and_never_a_nan() {
    assert_eq!(Sampling::GREEDY.choose(&SCORES, 0), Some(1));
    assert_eq!(Sampling::GREEDY.choose(&[f32::NAN, -3.0], 5), Some(1));
    assert_eq!(Sampling::GREEDY.choose(&[f32::NAN, f32::INFINITY], 0), None);
    assert_eq!(Sampling::GREEDY.choose(&[], 0), None);
    assert_eq!(sampling(1.0, 1.0, 1).choose(&SCORES, 9), Some(1));
}

#[test]
fn the_draws_are_pinned_because_other_nodes_must_repeat_them() {
    let bits = |seed, index| (unit_draw(seed, index) * (1u64 << 53) as f64) as u64;
    // Computed by an independent Python program from the documented rule.
    assert_eq!(bits(0, 0), PINNED[0]);
    assert_eq!(bits(0, 1), PINNED[1]);
    assert_eq!(bits(42, 0), PINNED[2]);
    assert_eq!(bits(u64::MAX, u32::MAX), PINNED[3]);
}

#[test]
fn draws_spread_evenly_and_depend_on_seed_and_index() {
    let mut buckets = [0u32; 10];
    for seed in 0..100 {
        for index in 0..100 {
            let draw = unit_draw(seed, index);
            assert!((0.0..1.0).contains(&draw));
            buckets[(draw * 10.0) as usize] += 1;
        }
    }
    // 1,000 expected in each, standard deviation 30.
    assert!(
        buckets.iter().all(|count| (850..1150).contains(count)),
        "{buckets:?}"
    );
}

#[test]
fn tokens_come_as_often_as_their_probabilities_say() {
    let scores = [1.0f32.ln(), 2.0f32.ln(), 5.0f32.ln(), 2.0f32.ln()];
    let mut counts = [0u32; 4];
    for index in 0..20_000 {
        counts[sampling(1.0, 1.0, 0).choose(&scores, index).unwrap() as usize] += 1;
    }
    for (count, expected) in counts.iter().zip([2000, 4000, 10_000, 4000u32]) {
        assert!(count.abs_diff(expected) < 300, "{counts:?}");
    }
}

#[test]
fn a_low_temperature_sharpens() {
    let scores = [1.0, 1.5];
    let cold = (0..1000)
        .filter(|i| sampling(0.05, 1.0, 0).choose(&scores, *i) == Some(1))
        .count();
    let hot = (0..1000)
        .filter(|i| sampling(50.0, 1.0, 0).choose(&scores, *i) == Some(1))
        .count();
    assert!(cold > 990 && hot < 600, "{cold} {hot}");
}

#[test]
fn top_k_and_top_p_keep_what_the_definition_keeps() {
    let mut state = 99u64;
    let mut scores: Vec<f32> = (0..200)
        .map(|_| {
            state = split_mix(state.wrapping_add(0x9E37));
            (state >> 40) as f32 / (1u64 << 22) as f32
        })
        .collect();
    scores[7] = scores[11];
    for (top_p, top_k) in [
        (0.5, 0),
        (0.9, 0),
        (0.99, 20),
        (1.0, 5),
        (0.3, 3),
        (0.001, 0),
    ] {
        let allowed = kept_by_definition(&scores, top_p, top_k as usize);
        let chosen: std::collections::BTreeSet<u32> = (0..3000)
            .map(|index| sampling(1.0, top_p, top_k).choose(&scores, index).unwrap())
            .collect();
        assert!(chosen.is_subset(&allowed), "top_p {top_p} top_k {top_k}");
        if allowed.len() < 10 {
            assert_eq!(chosen, allowed, "top_p {top_p} top_k {top_k}");
        }
    }
}

/// Sort, cut after k, normalise, add up until p is reached.
fn kept_by_definition(scores: &[f32], top_p: f32, top_k: usize) -> std::collections::BTreeSet<u32> {
    let mut sorted: Vec<(u32, f64)> = scores
        .iter()
        .enumerate()
        .map(|(id, s)| (id as u32, f64::from(*s).exp()))
        .collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    sorted.truncate(if top_k == 0 { scores.len() } else { top_k });
    let total: f64 = sorted.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    let mut kept = std::collections::BTreeSet::new();
    for (id, weight) in sorted {
        kept.insert(id);
        sum += weight / total;
        if sum >= f64::from(top_p) {
            break;
        }
    }
    kept
}
