//! The process's metrics: one registry, names `owm_<crate>_<thing>_<unit>`, help always.
//!
//! `run` makes the [`Registry`]; each crate takes a [`Scope`] and keeps its metrics in one documented
//! struct; `health` prints them at `/metrics`. Must stay true: no name without help, no name twice.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

pub use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info,
};
use prometheus_client::registry::Metric;

/// The prefix of every metric.
const PREFIX: &str = "owm";

#[derive(Debug, Default)]
struct Inner {
    registry: prometheus_client::registry::Registry,
    names: HashSet<String>,
}

/// All metrics of a process. Cheap to clone; clones share the metrics.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inner: Arc<Mutex<Inner>>,
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The metrics of one crate, named `owm_<crate_name>_…`.
    pub fn scope(&self, crate_name: &'static str) -> Scope {
        assert_word("crate", crate_name);
        Scope {
            registry: self.clone(),
            crate_name,
        }
    }

    /// The text that Prometheus reads (OpenMetrics).
    pub fn encode(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &inner.registry)
            .expect("writing to a String cannot fail");
        text
    }
}

/// Registers the metrics of one crate.
#[derive(Debug, Clone)]
pub struct Scope {
    registry: Registry,
    crate_name: &'static str,
}

impl Scope {
    /// Registers `metric` as `owm_<crate>_<name>`; `name` ends in its unit (`_seconds`, `_bytes`,
    /// `_msat`, or what is counted). Counters get `_total` appended by the format.
    ///
    /// # Panics
    /// When the name is no lower-case word, is taken, or `help` is empty: programming mistakes.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: &M) {
        assert_word("metric", name);
        assert!(!help.trim().is_empty(), "metric `{name}` has no help");
        let full = format!("{PREFIX}_{}_{name}", self.crate_name);
        let mut inner = self
            .registry
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        assert!(
            inner.names.insert(full.clone()),
            "metric `{full}` is registered twice"
        );
        inner
            .registry
            .register(full, help.trim_end_matches('.'), metric.clone());
    }

    /// Registers and returns a counter.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        let metric = Counter::default();
        self.register(name, help, &metric);
        metric
    }

    /// Registers and returns a gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let metric = Gauge::default();
        self.register(name, help, &metric);
        metric
    }

    /// Registers and returns a histogram with these upper bounds, in the name's unit.
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: impl IntoIterator<Item = f64>,
    ) -> Histogram {
        let metric = Histogram::new(buckets);
        self.register(name, help, &metric);
        metric
    }
}

fn assert_word(kind: &str, word: &str) {
    let fits = word.starts_with(|c: char| c.is_ascii_lowercase())
        && word
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    assert!(
        fits,
        "{kind} name `{word}` is not of the form [a-z][a-z0-9_]*"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_printed_with_name_and_help() {
        let registry = Registry::new();
        let scope = registry.scope("coordinator");
        scope.counter("leases", "Leases handed out.").inc_by(3);
        scope.gauge("nodes", "Nodes online").set(2);
        scope
            .histogram("lease_wait_seconds", "Time to a lease", [0.1, 1.0])
            .observe(0.5);
        let text = registry.encode();
        assert!(
            text.contains("# HELP owm_coordinator_leases Leases handed out.\n"),
            "{text}"
        );
        assert!(text.contains("owm_coordinator_leases_total 3\n"), "{text}");
        assert!(text.contains("owm_coordinator_nodes 2\n"), "{text}");
        assert!(
            text.contains("owm_coordinator_lease_wait_seconds_bucket{le=\"1.0\"} 1"),
            "{text}"
        );
    }

    #[test]
    #[should_panic(expected = "`owm_node_tasks` is registered twice")]
    fn a_name_taken_twice_is_a_programming_mistake() {
        let registry = Registry::new();
        registry.scope("node").counter("tasks", "Tasks done");
        registry.scope("node").gauge("tasks", "Tasks open");
    }

    #[test]
    #[should_panic(expected = "has no help")]
    fn a_metric_without_help_is_a_programming_mistake() {
        Registry::new().scope("node").counter("tasks", " ");
    }
}
