//! The daemon's metrics, `owm_node_…`. `daemon` counts, the health port shows.

use owm_service::metrics::{Counter, Gauge, Registry};

/// All of them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Results the coordinator has booked.
    pub tasks_booked: Counter,
    /// Attempts that came to nothing.
    pub tasks_lost: Counter,
    /// Tokens computed here.
    pub tokens: Counter,
    /// Tasks under way.
    pub running: Gauge,
    /// 1 while the work link stands.
    pub linked: Gauge,
    /// Work links that were lost.
    pub links_lost: Counter,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.scope("node");
        Self {
            tasks_booked: scope.counter("tasks_booked", "Results the coordinator has booked"),
            tasks_lost: scope.counter("tasks_lost", "Attempts at tasks that came to nothing"),
            tokens: scope.counter("tokens", "Tokens computed here"),
            running: scope.gauge("running_tasks", "Tasks under way"),
            linked: scope.gauge("linked", "1 while the work link stands"),
            links_lost: scope.counter("links_lost", "Work links that were lost"),
        }
    }
}
