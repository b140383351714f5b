//! The process's metrics: one registry, names `owm_<crate>_<thing>_<unit>`, help always.
//!
//! `run` makes the [`Registry`]; each crate takes a [`Scope`] and keeps its metrics in one documented
//! struct; `health` prints them at `/metrics`. Must stay true: no name without help, no name twice, units
//! are base units and said twice (in the name and as `# UNIT`), labels are words of this program's own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

pub use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info,
};
use prometheus_client::{
    metrics::MetricType,
    registry::{Metric, Unit},
};

/// The prefix of every metric.
const PREFIX: &str = "owm";
/// Units that end a name; what ends in none of them counts things.
const UNITS: [&str; 4] = ["seconds", "bytes", "msat", "ratio"];

/// One label whose name and value are this program's own words: nothing foreign can become a series.
pub type OneLabel = [(&'static str, &'static str); 1];
/// A metric with one such label.
pub type ByWord<M> = Family<OneLabel, M>;
/// A gauge of fractions.
pub type FloatGauge = Gauge<f64, std::sync::atomic::AtomicU64>;
/// A counter of fractions.
pub type FloatCounter = Counter<f64, std::sync::atomic::AtomicU64>;

/// A registered metric, as documented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// As the format prints it, a counter's `_total` included.
    pub name: String,
    /// `counter`, `gauge`, `histogram`.
    pub kind: &'static str,
    /// `seconds`, `bytes`, …; absent: it counts things.
    pub unit: Option<&'static str>,
    /// What it means.
    pub help: String,
}

#[derive(Debug, Default)]
struct Inner {
    registry: prometheus_client::registry::Registry,
    described: BTreeMap<String, Described>,
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

    /// Everything that is registered, by name: what docs/metrics.md lists.
    pub fn described(&self) -> Vec<Described> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.described.values().cloned().collect()
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
        let help = help.trim_end_matches('.');
        let unit = UNITS.into_iter().find(|unit| {
            name.strip_suffix(unit)
                .is_some_and(|rest| rest.ends_with('_'))
        });
        let kind = kind_of(metric.metric_type());
        let total = if kind == "counter" { "_total" } else { "" };
        let described = Described {
            name: format!("{full}{total}"),
            kind,
            unit,
            help: help.to_owned(),
        };
        let mut inner = self
            .registry
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let former = inner.described.insert(full.clone(), described);
        assert!(former.is_none(), "metric `{full}` is registered twice");
        let registry = &mut inner.registry;
        match unit {
            // The format appends the unit to the name itself.
            Some(unit) => {
                let bare = full.trim_end_matches(unit).trim_end_matches('_');
                let unit = Unit::Other(unit.to_owned());
                registry.register_with_unit(bare, help, unit, metric.clone());
            }
            None => registry.register(full, help, metric.clone()),
        }
    }

    /// Registers and returns a counter for each value of `label` that comes up.
    pub fn counter_by(&self, name: &str, help: &str) -> ByWord<Counter> {
        let metric = Family::default();
        self.register(name, help, &metric);
        metric
    }

    /// Registers and returns a gauge for each value of `label` that comes up.
    pub fn gauge_by(&self, name: &str, help: &str) -> ByWord<Gauge> {
        let metric = Family::default();
        self.register(name, help, &metric);
        metric
    }

    /// Registers and returns a gauge of fractions.
    pub fn float_gauge(&self, name: &str, help: &str) -> FloatGauge {
        let metric = FloatGauge::default();
        self.register(name, help, &metric);
        metric
    }

    /// Registers and returns a counter of fractions.
    pub fn float_counter(&self, name: &str, help: &str) -> FloatCounter {
        let metric = FloatCounter::default();
        self.register(name, help, &metric);
        metric
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

/// Compares the rows of `described` with those between the lines `<!-- begin program -->` and
/// `<!-- end program -->` of the document at `path`; with `OWM_WRITE_DOCS=1` in the environment it writes
/// them instead. For the tests that keep docs/metrics.md true.
///
/// # Panics
/// When they differ, or the document has no such lines.
pub fn assert_documented(path: &std::path::Path, program: &str, described: &[Described]) {
    let text = std::fs::read_to_string(path).expect("the document is there");
    let (begin, end) = (
        format!("<!-- begin {program} -->\n"),
        format!("<!-- end {program} -->"),
    );
    let from = text.find(&begin).expect("its begin is marked") + begin.len();
    let to = text.find(&end).expect("its end is marked");
    let rows: Vec<String> = described
        .iter()
        .map(|d| {
            let unit = d.unit.unwrap_or("–");
            format!("| `{}` | {} | {unit} | {} |\n", d.name, d.kind, d.help)
        })
        .collect();
    let rows = rows.concat();
    let table = format!("| metric | type | unit | what it tells |\n|---|---|---|---|\n{rows}");
    if std::env::var_os("OWM_WRITE_DOCS").is_some() {
        let written = format!("{}{table}{}", &text[..from], &text[to..]);
        std::fs::write(path, written).expect("the document can be written");
        return;
    }
    assert!(
        text[from..to] == table,
        "{} is stale: run the test with OWM_WRITE_DOCS=1. It should say\n{table}",
        path.display()
    );
}

fn kind_of(metric: MetricType) -> &'static str {
    match metric {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Histogram => "histogram",
        MetricType::Info => "info",
        MetricType::Unknown => "unknown",
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
        assert!(
            text.contains("# UNIT owm_coordinator_lease_wait_seconds seconds\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_registered_is_described_as_it_is_printed() {
        let registry = Registry::new();
        let scope = registry.scope("node");
        scope.counter("download_bytes", "Bytes fetched").inc();
        let tasks = scope.counter_by("tasks", "Tasks by outcome.");
        tasks.get_or_create(&[("outcome", "booked")]).inc();
        scope.float_gauge("seconds", "No unit of its own").set(1.0);
        let described = registry.described();
        let shown: Vec<_> = described
            .iter()
            .map(|d| (d.name.as_str(), d.kind, d.unit, d.help.as_str()))
            .collect();
        let expected = [
            (
                "owm_node_download_bytes_total",
                "counter",
                Some("bytes"),
                "Bytes fetched",
            ),
            ("owm_node_seconds", "gauge", None, "No unit of its own"),
            ("owm_node_tasks_total", "counter", None, "Tasks by outcome"),
        ];
        assert_eq!(shown, expected);
        let text = registry.encode();
        for (name, ..) in expected {
            assert!(
                text.lines().any(|line| line.starts_with(name)),
                "{name}: {text}"
            );
        }
        assert!(
            text.contains("# TYPE owm_node_download_bytes counter"),
            "{text}"
        );
        assert!(
            text.contains("owm_node_tasks_total{outcome=\"booked\"} 1"),
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
