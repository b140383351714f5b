//! The daemon's metrics, `owm_node_…`. `daemon`, `activity`, `machine` and the model keeper count, the
//! health port shows. docs/metrics.md lists them (a test compares).
//! Must stay true: no label has a foreign value.

mod swarm;

use owm_service::metrics::{ByWord, Counter, FloatCounter, FloatGauge, Gauge, Registry, Scope};
pub use swarm::SwarmMetrics;

/// How an attempt may end.
const OUTCOMES: [&str; 6] = [
    "accepted",
    "late",
    "duplicate",
    "rejected",
    "handed_back",
    "cancelled",
];

/// All of them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Attempts that have ended, by how.
    pub tasks: ByWord<Counter>,
    /// Tokens computed here, by kind.
    pub tokens: ByWord<Counter>,
    /// Time for prompts.
    pub prompt_seconds: FloatCounter,
    /// Time for answers.
    pub generation_seconds: FloatCounter,
    /// Slots configured.
    pub slots: Gauge,
    /// Tasks under way.
    pub running: Gauge,
    /// Results that wait.
    pub unacknowledged: Gauge,
    /// 1 while new tasks are taken.
    pub accepting: Gauge,
    /// 1 while the work link stands.
    pub linked: Gauge,
    /// Work links that came to stand.
    pub links: Counter,
    /// Work links that were lost.
    pub links_lost: Counter,
    /// Time to an answered sign of life.
    pub ping_seconds: FloatGauge,
    /// How far this clock is off.
    pub clock_offset_seconds: FloatGauge,
    /// What is booked as owed.
    pub booked_msat: Counter,
    /// What is fetched.
    pub downloads: Downloads,
    /// What is taken of the machine.
    pub machine: MachineMetrics,
    /// The swarm.
    pub swarm: SwarmMetrics,
    /// 1 while a model is loaded.
    pub model_loaded: Gauge,
}

/// Fetching model files: the keeper counts.
#[derive(Clone, Debug)]
pub struct Downloads {
    /// Bytes fetched from the web seed.
    pub bytes: Counter,
    /// Bytes fetched from peers.
    pub peer_bytes: Counter,
    /// Downloads that failed.
    pub failures: Counter,
}

impl Downloads {
    fn new(scope: &Scope) -> Self {
        Self {
            bytes: scope.counter("download_bytes", "Bytes of model files fetched by HTTP"),
            peer_bytes: scope.counter(
                "peer_download_bytes",
                "Bytes of model files fetched from other nodes",
            ),
            failures: scope.counter(
                "download_failures",
                "Downloads of model files that failed; each is tried again",
            ),
        }
    }
}

/// Memory, CPU, disk: `machine` samples.
#[derive(Clone, Debug)]
pub struct MachineMetrics {
    /// Bytes on the shelf.
    pub shelf_bytes: Gauge,
    /// Bytes free beside it.
    pub disk_free_bytes: Gauge,
    /// Memory of this process.
    pub resident_memory_bytes: Gauge,
    /// CPU time of this process.
    pub cpu_seconds: FloatCounter,
}

impl MachineMetrics {
    fn new(scope: &Scope) -> Self {
        Self {
            shelf_bytes: scope.gauge("shelf_bytes", "Bytes of model files on the disk"),
            disk_free_bytes: scope.gauge(
                "disk_free_bytes",
                "Bytes free on the disk of the data folder",
            ),
            resident_memory_bytes: scope.gauge(
                "resident_memory_bytes",
                "Bytes of main memory this process holds, the model included",
            ),
            cpu_seconds: scope.float_counter(
                "cpu_seconds",
                "Seconds of CPU time this process has used, user and system, all threads",
            ),
        }
    }
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.scope("node");
        let metrics = Self {
            tasks: scope.counter_by(
                "tasks",
                "Attempts at tasks that have ended, by outcome: accepted, late, duplicate (booked as owed); \
                 rejected, handed_back, cancelled (nothing is owed)",
            ),
            tokens: scope.counter_by(
                "tokens",
                "Tokens computed here, by kind: prompt, output; what a predecessor delivered does not count",
            ),
            prompt_seconds: scope.float_counter(
                "prompt_seconds",
                "Seconds from a prompt's encoding to the first token of its answer, summed over tasks",
            ),
            generation_seconds: scope.float_counter(
                "generation_seconds",
                "Seconds from the first token of an answer to its last, summed over tasks",
            ),
            slots: scope.gauge("slots", "Tasks that may run at the same time, as configured"),
            running: scope.gauge("running_tasks", "Tasks under way"),
            unacknowledged: scope.gauge(
                "unacknowledged_results",
                "Finished results that the coordinator has not acknowledged yet",
            ),
            accepting: scope.gauge(
                "accepting",
                "1 while new tasks are taken: linked, a model loaded, within hours, not paused, not stopping; else 0",
            ),
            linked: scope.gauge("linked", "1 while the work link to the coordinator stands, else 0"),
            links: scope.counter("links", "Work links that came to stand: the first and every reconnect"),
            links_lost: scope.counter("links_lost", "Work links that were lost, or could not be made"),
            ping_seconds: scope.float_gauge(
                "ping_seconds",
                "Seconds between the last answered sign of life and its answer",
            ),
            clock_offset_seconds: scope.float_gauge(
                "clock_offset_seconds",
                "The coordinator's clock minus this machine's in seconds, at the last registration",
            ),
            booked_msat: scope.counter(
                "booked_msat",
                "Millisatoshi booked as owed to this node since the process started",
            ),
            downloads: Downloads::new(&scope),
            machine: MachineMetrics::new(&scope),
            swarm: SwarmMetrics::new(registry),
            model_loaded: scope.gauge("model_loaded", "1 while a model is loaded, else 0"),
        };
        // There from the start: a series that appears with its first event has no rate for it.
        for outcome in OUTCOMES {
            drop(metrics.task(outcome));
        }
        for kind in ["prompt", "output"] {
            drop(metrics.tokens_of(kind));
        }
        metrics
    }

    /// The counter of attempts with this outcome.
    pub fn task(&self, outcome: &'static str) -> Counter {
        self.tasks.get_or_create_owned(&[("outcome", outcome)])
    }

    /// The counter of tokens of this kind.
    pub fn tokens_of(&self, kind: &'static str) -> Counter {
        self.tokens.get_or_create_owned(&[("kind", kind)])
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_documented_metrics_are_the_registered_ones() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry);
        metrics.task("accepted").inc();
        let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        let described = registry.described();
        owm_service::metrics::assert_documented(&doc, "owm-node", &described);
        // Zero from the start, whatever has happened.
        for outcome in OUTCOMES {
            let series = format!("owm_node_tasks_total{{outcome=\"{outcome}\"}}");
            assert!(registry.encode().contains(&series), "{series}");
        }
    }
}
