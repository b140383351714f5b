//! The head and its loss: scores of every token id, cross-entropy to the next token, and both
//! gradients, a few rows at a time. Called by the training pass and by the evaluation. The whole
//! table of scores is never in memory, and its gradient is written where the scores were: the
//! derivative of cross-entropy by the scores is softmax − one-hot, checked by finite differences.

use burn::tensor::{DType, Tensor, TensorData};
use rayon::{
    iter::{IndexedParallelIterator, ParallelIterator},
    slice::ParallelSliceMut,
};

use super::TrainError;
use crate::linear::linear;

/// Rows of scores in memory at a time: 256 rows of a vocabulary of 49,152 are 50 MB.
pub(crate) const HEAD_ROWS: usize = 256;

/// What the head hands back.
#[derive(Debug)]
pub(crate) struct HeadGradient {
    /// Sum of the losses of all rows, in nats.
    pub(crate) loss: f64,
    /// By the hidden states, `[rows, hidden]`.
    pub(crate) hidden: Tensor<2>,
    /// By the head's weight, `[vocabulary, hidden]`, if it is trained.
    pub(crate) weight: Option<Tensor<2>>,
}

/// Loss of `targets` given normed hidden states `[rows, hidden]` and the head's weight, and the
/// gradient of `scale` times the loss. No tensor here is tracked.
pub(crate) fn loss_and_gradient(
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    targets: &[u32],
    scale: f32,
    weight_trained: bool,
) -> Result<HeadGradient, TrainError> {
    let device = hidden.device();
    let mut loss = 0.0;
    let mut parts = Vec::new();
    let mut by_weight: Option<Tensor<2>> = None;
    for (at, targets) in targets.chunks(HEAD_ROWS).enumerate() {
        let x = hidden.clone().narrow(0, at * HEAD_ROWS, targets.len());
        let mut scores = data(linear(x.clone(), weight.clone()))?;
        loss += in_place(&mut scores, targets, Some(scale))?;
        let gradient = Tensor::<2>::from_data(scores, (&device, DType::F32));
        if weight_trained {
            let part = gradient.clone().transpose().matmul(x);
            by_weight = Some(match by_weight.take() {
                None => part,
                Some(sum) => sum + part,
            });
        }
        parts.push(gradient.matmul(weight.clone()));
    }
    Ok(HeadGradient {
        loss,
        hidden: Tensor::cat(parts, 0),
        weight: by_weight,
    })
}

/// Loss alone, in nats: the sum over all rows.
pub(crate) fn loss(
    hidden: &Tensor<2>,
    weight: &Tensor<2>,
    targets: &[u32],
) -> Result<f64, TrainError> {
    let mut loss = 0.0;
    for (at, targets) in targets.chunks(HEAD_ROWS).enumerate() {
        let x = hidden.clone().narrow(0, at * HEAD_ROWS, targets.len());
        let mut scores = data(linear(x, weight.clone()))?;
        loss += in_place(&mut scores, targets, None)?;
    }
    Ok(loss)
}

fn data(tensor: Tensor<2>) -> Result<TensorData, TrainError> {
    tensor
        .try_into_data()
        .map_err(|error| TrainError::Device(error.to_string()))
}

/// Sum of the losses; with a scale the scores become the gradient.
fn in_place(
    scores: &mut TensorData,
    targets: &[u32],
    scale: Option<f32>,
) -> Result<f64, TrainError> {
    let values = scores
        .as_mut_slice::<f32>()
        .map_err(|error| TrainError::Device(format!("{error:?}")))?;
    let width = values.len() / targets.len();
    // One loss per row, added up in the rows' order: the sum does not depend on threads.
    let losses: Vec<f64> = values
        .par_chunks_mut(width)
        .zip_eq(targets.to_vec())
        .map(|(row, target)| row_loss(row, target as usize, scale))
        .collect();
    Ok(losses.iter().sum())
}

/// −ln softmax(row)\[target\]; with a scale the row becomes scale · (softmax − one-hot).
fn row_loss(row: &mut [f32], target: usize, scale: Option<f32>) -> f64 {
    let at_target = row[target];
    let (top, sum) = exponentials(row);
    if let Some(scale) = scale {
        let factor = scale / sum;
        for value in row.iter_mut() {
            *value *= factor;
        }
        row[target] -= scale;
    }
    f64::from(sum).ln() + f64::from(top) - f64::from(at_target)
}

/// The row becomes its softmax.
pub(crate) fn softmax(row: &mut [f32]) {
    let (_, sum) = exponentials(row);
    let factor = 1.0 / sum;
    for value in row.iter_mut() {
        *value *= factor;
    }
}

/// Each value becomes e to itself less the largest; gives that and their sum.
fn exponentials(row: &mut [f32]) -> (f32, f32) {
    let top = top(row);
    for score in row.iter_mut() {
        *score = exp(*score - top);
    }
    (top, sum(row))
}

/// The largest, in sixteen lanes, so that the compiler uses vectors.
fn top(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let all = lanes.iter().chain(rest);
    all.copied().fold(f32::NEG_INFINITY, f32::max)
}

/// A sum in sixteen lanes, so that the compiler uses vectors; always in the same order.
fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [0.0_f32; 16];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// eˣ for x ≤ 0, relative error below 3e-7; a polynomial, so that the compiler uses vectors and every
/// machine gives the same bits.
pub(crate) fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// ln 2 in two parts: the first has zeros at its end, so that its product is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it rounds to a whole number, which then stands in the last bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x * LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let r = x - whole * LN2_HIGH - whole * LN2_LOW;
    // Taylor's series to r⁶: |r| ≤ ln2 / 2.
    let series = 1.0 / 720.0;
    let series = series * r + 1.0 / 120.0;
    let series = series * r + 1.0 / 24.0;
    let series = series * r + 1.0 / 6.0;
    let series = series * r + 0.5;
    let series = series * r * r + r + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    series * f32::from_bits(((exponent + 127) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_seven_digits() {
        for step in 0..87_000 {
            let x = -(step as f32) / 1000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 3e-7, "{x}: {error}");
        }
        assert_eq!(exp(0.0).to_bits(), 1.0_f32.to_bits());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn a_row_s_loss_and_gradient_are_those_worked_out_by_hand() {
        // softmax of ln 1, ln 2, ln 5 is 1/8, 2/8, 5/8.
        let mut row = [1.0_f32.ln(), 2.0_f32.ln(), 5.0_f32.ln()];
        let loss = row_loss(&mut row, 1, Some(0.5));
        assert!((loss - 4.0_f64.ln()).abs() < 1e-6);
        for (value, expected) in row.iter().zip([0.0625, -0.375, 0.3125]) {
            assert!((value - expected).abs() < 1e-6, "{row:?}");
        }
    }
}
