//! Latencies and how they are shown. Every measurement is one line of a table and one line of JSON.

use serde_json::{Value, json};

/// Latencies in microseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<u64>);

impl Latencies {
    pub(crate) fn push(&mut self, micros: u64) {
        self.0.push(micros);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which `share` of all lie, in milliseconds; nearest rank.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        let value = sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0);
        value as f64 / 1_000.0
    }

    pub(crate) fn json(&self) -> Value {
        let at = |share| (self.quantile_ms(share) * 100.0).round() / 100.0;
        json!({"n": self.len(), "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": at(1.0)})
    }

    /// `p50 / p99`, for a table.
    pub(crate) fn cell(&self) -> String {
        format!(
            "{:.1} / {:.1}",
            self.quantile_ms(0.5),
            self.quantile_ms(0.99)
        )
    }
}

impl FromIterator<u64> for Latencies {
    fn from_iter<I: IntoIterator<Item = u64>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// A median and what lies around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            least: at(0),
            median: at(values.len() / 2),
            most: at(values.len().saturating_sub(1)),
        }
    }

    pub(crate) fn cell(self, digits: usize) -> String {
        let Self { least, median, most } = self;
        format!("{median:.digits$} [{least:.digits$}-{most:.digits$}]")
    }
}

/// One line of JSON, found again by its prefix.
pub(crate) fn line(value: &Value) {
    println!("JSON {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let all: Latencies = (1..=100).map(|ms| ms * 1_000).collect();
        let near = |share, ms: f64| (all.quantile_ms(share) - ms).abs() < 1e-9;
        assert!(near(0.5, 50.0) && near(0.99, 99.0) && near(1.0, 100.0));
        assert_eq!(Spread::of([5.0, 1.0, 3.0].into_iter()).cell(0), "3 [1-5]");
        assert!(Latencies::default().quantile_ms(0.99).abs() < 1e-9);
    }
}
