//! The kernel against plain loops in f64, and its promise that nothing but the numbers counts.

use super::*;
use crate::tiny;

/// Row lengths with and without a rest beyond whole chunks; the last two are SmolLM2-135M's.
const COLUMNS: [usize; 8] = [1, 31, 32, 33, 72, 100, 576, 1536];
const ROWS: usize = 9;

struct Case {
    columns: usize,
    weights: Vec<f16>,
    x: Vec<Vec<f32>>,
}

fn cases() -> Vec<Case> {
    let mut noise = tiny::noise(17);
    let mut case = |columns: usize| Case {
        columns,
        weights: (0..ROWS * columns)
            .map(|_| f16::from_f32(noise()))
            .collect(),
        x: (0..7)
            .map(|_| (0..columns).map(|_| noise()).collect())
            .collect(),
    };
    COLUMNS.map(&mut case).into()
}

fn rows(x: &[Vec<f32>]) -> Rows {
    let mut rows = Rows::new(x.len(), x[0].len());
    for (at, x) in x.iter().enumerate() {
        rows.row_mut(at)[..x.len()].copy_from_slice(x);
    }
    rows
}

fn computed(weights: Weights<'_>, columns: usize, x: &[Vec<f32>], width: Width) -> Vec<f32> {
    let mut out = vec![f32::NAN; ROWS * x.len()];
    let x = rows(x);
    let job = Job::Products {
        weights,
        columns,
        x: &x,
        out: &mut out,
    };
    run_with(job, width);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn products_equal_plain_loops_in_double_precision() {
    for case in cases() {
        for width in [Width::Widest, Width::Avx2, Width::Scalar] {
            let found = computed(Weights::F16(&case.weights), case.columns, &case.x, width);
            for (at, x) in case.x.iter().enumerate() {
                for (row, weights) in case.weights.chunks(case.columns).enumerate() {
                    let terms = || {
                        weights
                            .iter()
                            .zip(x)
                            .map(|(w, x)| w.to_f64() * f64::from(*x))
                    };
                    let (expected, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                    let error = (f64::from(found[at * ROWS + row]) - expected).abs();
                    // Each lane adds up columns / LANES terms, then five additions fold the lanes.
                    let additions = (case.columns / LANES + 7) as f64;
                    let bound = additions * f64::from(f32::EPSILON) * size;
                    assert!(
                        error <= bound,
                        "{} columns, {width:?}: {error}",
                        case.columns
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_of_a_batch_equals_the_row_alone_to_the_bit() {
    for case in cases() {
        for width in [Width::Widest, Width::Avx2, Width::Scalar] {
            let weights = Weights::F16(&case.weights);
            let together = computed(weights, case.columns, &case.x, width);
            for (at, x) in case.x.iter().enumerate() {
                let alone = computed(weights, case.columns, std::slice::from_ref(x), width);
                assert_eq!(bits(&together[at * ROWS..][..ROWS]), bits(&alone));
            }
        }
    }
}

#[test]
fn the_format_that_weights_are_stored_in_changes_no_bit() {
    for case in cases() {
        // Values that every format holds exactly.
        let coarse: Vec<bf16> = case
            .weights
            .iter()
            .map(|w| bf16::from_f32(w.to_f32()))
            .collect();
        let half: Vec<f16> = coarse.iter().map(|w| f16::from_f32(w.to_f32())).collect();
        let single: Vec<f32> = coarse.iter().map(|w| w.to_f32()).collect();
        for width in [Width::Widest, Width::Avx2, Width::Scalar] {
            let of = |weights| bits(&computed(weights, case.columns, &case.x, width));
            let expected = of(Weights::F32(&single));
            assert_eq!(of(Weights::F16(&half)), expected, "{width:?}");
            assert_eq!(of(Weights::Bf16(&coarse)), expected, "{width:?}");
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn narrow_and_wide_registers_give_the_same_bits() {
    if V3::try_new().is_none() {
        return; // No fused multiplication and addition: the scalar path rounds twice.
    }
    for case in cases() {
        let of = |width| computed(Weights::F16(&case.weights), case.columns, &case.x, width);
        assert_eq!(bits(&of(Width::Widest)), bits(&of(Width::Avx2)));
    }
}

#[test]
fn every_finite_half_widens_exactly() {
    let all: Vec<f16> = (0..=u16::MAX)
        .map(f16::from_bits)
        .filter(|half| half.is_finite())
        .collect();
    let expected: Vec<f32> = all.iter().map(|half| half.to_f32()).collect();
    for width in [Width::Widest, Width::Avx2, Width::Scalar] {
        let mut found = vec![f32::NAN; all.len()];
        let weights = Weights::F16(&all);
        run_with(
            Job::Widen {
                weights,
                out: &mut found,
            },
            width,
        );
        assert_eq!(bits(&found), bits(&expected), "{width:?}");
    }
}

#[test]
fn exp_is_right_to_a_few_units_in_the_last_place() {
    let steps = (-8_700..=8_800).map(|step| step as f32 / 100.0);
    for x in steps {
        let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
        let error = (found - expected).abs() / expected;
        assert!(error < 4.0 * f64::from(f32::EPSILON), "exp({x}): {error}");
    }
    assert!(exp(f32::MIN) < 1e-37, "what is masked weighs nothing");
}

#[test]
fn softmax_and_mix_equal_plain_loops() {
    let mut noise = tiny::noise(5);
    for (tokens, dim) in [(1, 8), (33, 64), (100, 24), (700, 128)] {
        let scores: Vec<f32> = (0..tokens).map(|_| noise() * 20.0).collect();
        let values: Vec<f32> = (0..tokens * dim).map(|_| noise()).collect();
        let highest = scores.iter().copied().fold(f32::MIN, f32::max);
        let shares: Vec<f64> = scores
            .iter()
            .map(|s| f64::from(s - highest).exp())
            .collect();
        let total: f64 = shares.iter().sum();
        let mut found = scores.clone();
        softmax(&mut found);
        let mut mixed = vec![f32::NAN; dim];
        mix(&found, &values, &mut mixed);
        for (at, mixed) in mixed.iter().enumerate() {
            let of_token =
                |token: usize| shares[token] / total * f64::from(values[token * dim + at]);
            let expected: f64 = (0..tokens).map(of_token).sum();
            assert!((f64::from(*mixed) - expected).abs() < 1e-5);
        }
    }
}
