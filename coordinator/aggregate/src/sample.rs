//! Medians and what is far from them. Used by every gate.

/// The factor that makes a MAD of normally distributed numbers their standard deviation.
pub(crate) const MAD_TO_SIGMA: f64 = 1.4826;

/// The median: of an even number the mean of the two in the middle; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The median of the distances to `centre`.
pub(crate) fn mad(values: &[f64], centre: f64) -> f64 {
    let distances: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    median(&distances)
}

/// How many population standard deviations each value is from the mean; 0 if all are equal.
pub(crate) fn sigmas(values: &[f64]) -> Vec<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
    let sigma = (square / n).sqrt();
    let score = |value: &f64| {
        if sigma > 0.0 {
            (value - mean) / sigma
        } else {
            0.0
        }
    };
    values.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "medians are values, not sums")]

    use super::*;

    #[test]
    fn a_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(mad(&[1.0, 1.0, 4.0, 9.0], 2.5), 1.5);
    }

    #[test]
    fn among_ten_none_can_be_more_than_three_sigma_away() {
        let mut values = vec![1.0; 9];
        values.push(1e9);
        assert!((sigmas(&values)[9] - 3.0).abs() < 1e-9);
        values.push(1.0);
        assert!(sigmas(&values)[9] > 3.1);
        assert_eq!(sigmas(&[2.0, 2.0]), [0.0, 0.0]);
    }
}
