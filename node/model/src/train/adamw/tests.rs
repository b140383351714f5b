//! The optimizer against numbers worked out in f64 by another program.

use super::*;

#[test]
fn three_steps_give_the_numbers_of_the_paper_s_algorithm() {
    let optimizer = AdamW {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.01,
    };
    let mut values = [1.0, -2.0, 0.5];
    let mut moments = Moments::zeros(3);
    let steps = [
        ([0.5, -1.0, 0.0], [0.899, -1.898, 0.4995]),
        ([0.25, 2.0, -3.0], [0.804_171_7, -1.932_439_4, 0.572_496_5]),
        ([-1.0, 0.1, 0.2], [0.823_709_5, -1.961_799_7, 0.625_084_2]),
    ];
    for (step, (gradient, expected)) in (1..).zip(steps) {
        let size = StepSize {
            learning_rate: 0.1,
            step,
            gradient_scale: 1.0,
            weight_decay: 0.01,
        };
        optimizer.step(&mut values, &gradient, &mut moments, size);
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 2e-6, "step {step}: {values:?}");
        }
    }
}

#[test]
fn a_gradient_that_is_scaled_is_a_smaller_gradient_and_decay_can_be_off() {
    let optimizer = AdamW::default();
    let run = |gradient: [f32; 2], gradient_scale, weight_decay| {
        let (mut values, mut moments) = ([3.0, -1.0], Moments::zeros(2));
        let size = StepSize {
            learning_rate: 0.01,
            step: 1,
            gradient_scale,
            weight_decay,
        };
        optimizer.step(&mut values, &gradient, &mut moments, size);
        (values, moments)
    };
    let (scaled, plain) = (run([4.0, -8.0], 0.25, 0.1), run([1.0, -2.0], 1.0, 0.1));
    assert_eq!(scaled.0.map(f32::to_bits), plain.0.map(f32::to_bits));
    assert_eq!(scaled.1, plain.1);
    let still = run([0.0, 0.0], 1.0, 0.0).0;
    assert_eq!(still.map(f32::to_bits), [3.0_f32, -1.0].map(f32::to_bits));
    assert!(run([0.0, 0.0], 1.0, 0.5).0[0] < 3.0);
}
