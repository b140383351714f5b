//! The coordinator's metrics, `owm_coordinator_…`: counted where things happen; what only the database
//! knows is read by `tasks::figures`. docs/metrics.md lists them (a test compares).
//! Must stay true: no label has a foreign value; no request id, key or text can get in.

mod swarm;

use std::time::Duration;

use owm_service::metrics::{
    ByWord, Counter, Family, FloatCounter, FloatGauge, Gauge, Histogram, Registry,
};

pub use swarm::SwarmMetrics;

use crate::ask::AskError;

/// Upper bounds in seconds for waiting in the queue: 50 ms is what dispatch is measured against.
const WAIT_BUCKETS: [f64; 12] = [
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0,
];
/// Upper bounds in seconds for whole answers: a few tokens to a long text on a CPU.
const ANSWER_BUCKETS: [f64; 12] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 180.0,
];
/// Upper bounds in seconds for calls of the API.
const API_BUCKETS: [f64; 10] = [0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 20.0, 60.0];

/// Route (as written in the router) and HTTP status of a call.
pub type Call = [(&'static str, String); 2];

/// All of them. Cheap to clone; clones share.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Questions queued here.
    pub questions: Counter,
    /// Questions turned away, by why.
    pub questions_refused: ByWord<Counter>,
    /// Questions asked here that have ended, by how.
    pub questions_ended: ByWord<Counter>,
    /// From the queue to the first lease.
    pub dispatch_wait: Histogram,
    /// From question to answer.
    pub answer: Histogram,
    /// Leases sent.
    pub leases: Counter,
    /// Leases that ended, by how.
    pub leases_ended: ByWord<Counter>,
    /// Results judged, by verdict.
    pub results: ByWord<Counter>,
    /// Booked as owed.
    pub booked_msat: Counter,
    /// Calls of the API.
    pub api_requests: Family<Call, Counter>,
    /// Time to an API call's response.
    pub api_request: Histogram,
    /// The swarm.
    pub swarm: SwarmMetrics,
    pub(crate) figures: Figures,
}

/// What is read now and then.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) tasks: ByWord<Gauge>,
    pub(crate) queue_oldest: FloatGauge,
    pub(crate) nodes: ByWord<Gauge>,
    pub(crate) sessions: Gauge,
    pub(crate) slots_free: Gauge,
    pub(crate) owed_msat: Gauge,
    pub(crate) outbox: Gauge,
    pub(crate) outbox_oldest: FloatGauge,
    pub(crate) db_connections: ByWord<Gauge>,
    pub(crate) db_waiting: Gauge,
    pub(crate) db_wait: FloatCounter,
    pub(crate) db_transactions: Counter,
    pub(crate) reconciler_success: ByWord<FloatGauge>,
    pub(crate) reconciler_errors: ByWord<Counter>,
}

impl Default for Metrics {
    /// Not shown anywhere.
    fn default() -> Self {
        Self::new(&Registry::new())
    }
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.scope("coordinator");
        let api_requests = Family::default();
        scope.register(
            "api_requests",
            "Calls of the public API, by route and HTTP status",
            &api_requests,
        );
        let metrics = Self {
            questions: scope.counter("questions", "Questions queued by this process"),
            questions_refused: scope.counter_by(
                "questions_refused",
                "Questions turned away, by reason: busy, no_nodes, no_model, invalid, database",
            ),
            questions_ended: scope.counter_by(
                "questions_ended",
                "Questions of this process whose asker was told the end, by outcome: answered, timeout, \
                 attempts_exhausted, input_refused, cancelled, other",
            ),
            dispatch_wait: scope.histogram(
                "dispatch_wait_seconds",
                "Seconds a question waited in the queue until it was first leased to a node",
                WAIT_BUCKETS,
            ),
            answer: scope.histogram(
                "answer_seconds",
                "Seconds from a question's arrival to its whole answer",
                ANSWER_BUCKETS,
            ),
            leases: scope.counter("leases", "Leases sent to nodes"),
            leases_ended: scope.counter_by(
                "leases_ended",
                "Leases that ended without a result, by outcome: expired, lost, handed_back, other",
            ),
            results: scope.counter_by(
                "results",
                "Results judged, by verdict: accepted, late, duplicate, rejected",
            ),
            booked_msat: scope.counter(
                "booked_msat",
                "Millisatoshi booked as owed to nodes by this process",
            ),
            api_requests,
            api_request: scope.histogram(
                "api_request_seconds",
                "Seconds from an API call's head to its response's head",
                API_BUCKETS,
            ),
            swarm: SwarmMetrics::new(registry),
            figures: Figures::new(registry),
        };
        metrics.start_at_zero();
        metrics
    }

    /// There from the start: a series that appears with its first event has no rate for it.
    fn start_at_zero(&self) {
        let all = |family: &ByWord<Counter>, label, words: &[&'static str]| {
            for word in words {
                drop(family.get_or_create(&[(label, *word)]));
            }
        };
        all(
            &self.questions_refused,
            "reason",
            &["busy", "no_nodes", "no_model", "invalid", "database"],
        );
        all(&self.questions_ended, "outcome", &ENDINGS);
        all(
            &self.leases_ended,
            "outcome",
            &["expired", "lost", "handed_back"],
        );
        all(
            &self.results,
            "verdict",
            &["accepted", "late", "duplicate", "rejected"],
        );
    }

    /// A question was turned away.
    pub fn refused(&self, error: &AskError) {
        let reason = match error {
            AskError::Invalid { .. } => "invalid",
            AskError::NoModel => "no_model",
            AskError::Busy { .. } => "busy",
            AskError::NoNodes { .. } => "no_nodes",
            AskError::Store(_) => "database",
        };
        self.questions_refused
            .get_or_create(&[("reason", reason)])
            .inc();
    }

    /// A call of the API was answered; `route` is one of the router's words.
    pub fn called(&self, route: &'static str, status: u16, took: Duration) {
        self.api_request.observe(took.as_secs_f64());
        let call = [("route", route.to_owned()), ("status", status.to_string())];
        self.api_requests.get_or_create(&call).inc();
    }

    /// An asker was told the end, so long after asking.
    pub fn ended(&self, outcome: &str, took: Duration) {
        let known = ENDINGS.into_iter().find(|word| *word == outcome);
        let outcome = known.unwrap_or("other");
        if outcome == "answered" {
            self.answer.observe(took.as_secs_f64());
        }
        self.questions_ended
            .get_or_create(&[("outcome", outcome)])
            .inc();
    }

    /// A lease ended without a result.
    pub fn lease_ended(&self, outcome: owm_coordinator_domain::task::Outcome) {
        use owm_coordinator_domain::task::Outcome;
        let outcome = match outcome {
            Outcome::Expired => "expired",
            Outcome::Lost => "lost",
            Outcome::HandedBack => "handed_back",
            _ => "other",
        };
        self.leases_ended
            .get_or_create(&[("outcome", outcome)])
            .inc();
    }

    /// A result was judged.
    pub fn judged(&self, ack: &owm_proto::wire::coordinator::ResultAck) {
        use owm_proto::wire::coordinator::Verdict;
        let verdict = match ack.verdict() {
            Verdict::Accepted => "accepted",
            Verdict::Late => "late",
            Verdict::Duplicate => "duplicate",
            Verdict::Rejected | Verdict::Unspecified => "rejected",
        };
        self.results.get_or_create(&[("verdict", verdict)]).inc();
        self.booked_msat.inc_by(ack.reward_msat);
    }
}

/// How a question may end.
const ENDINGS: [&str; 5] = [
    "answered",
    "timeout",
    "attempts_exhausted",
    "input_refused",
    "cancelled",
];

impl Figures {
    fn new(registry: &Registry) -> Self {
        let scope = registry.scope("coordinator");
        let reconciler_success = ByWord::<FloatGauge>::default();
        scope.register(
            "reconciler_last_success_timestamp_seconds",
            "Unix time in seconds at which a reconciler last ended well, by reconciler; its age is time() minus this",
            &reconciler_success,
        );
        Self {
            tasks: scope.gauge_by("tasks", "Tasks that are not done, by state: queued, leased"),
            queue_oldest: scope.float_gauge(
                "queue_oldest_seconds",
                "Age in seconds of the question that has been in the queue longest, 0 if it is empty",
            ),
            nodes: scope.gauge_by(
                "nodes",
                "Registered nodes, by status: pending, active, degraded, suspended",
            ),
            sessions: scope.gauge("sessions", "Nodes with a session at this coordinator"),
            slots_free: scope.gauge(
                "inference_slots_free",
                "Inference slots offered to this coordinator and not leased",
            ),
            owed_msat: scope.gauge("owed_msat", "Millisatoshi owed to all nodes together"),
            outbox: scope.gauge("outbox_waiting", "Outbox items that are not done yet"),
            outbox_oldest: scope.float_gauge(
                "outbox_oldest_seconds",
                "Age in seconds of the oldest outbox item that is not done, 0 if there is none",
            ),
            db_connections: scope.gauge_by(
                "db_connections",
                "Connections to Postgres, by state: in_use, idle, max (as configured)",
            ),
            db_waiting: scope.gauge("db_waiting", "Transactions that wait for a connection now"),
            db_wait: scope.float_counter(
                "db_wait_seconds",
                "Seconds that transactions have waited for a connection, summed",
            ),
            db_transactions: scope.counter("db_transactions", "Transactions begun"),
            reconciler_success,
            reconciler_errors: scope.counter_by(
                "reconciler_errors",
                "Runs of reconcilers that failed, by reconciler",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_metrics_are_the_registered_ones() {
        let registry = Registry::new();
        let _metrics = Metrics::new(&registry);
        let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let doc = manifest.join("../../docs/metrics.md");
        owm_service::metrics::assert_documented(&doc, "owm-coordinator", &registry.described());
    }

    #[test]
    fn an_unknown_ending_is_no_new_series() {
        let registry = Registry::new();
        let metrics = Metrics::new(&registry);
        metrics.ended("something a node said", Duration::from_secs(1));
        metrics.ended("answered", Duration::from_millis(70));
        let text = registry.encode();
        assert!(!text.contains("something"), "{text}");
        assert!(
            text.contains("questions_ended_total{outcome=\"other\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("answer_seconds_bucket{le=\"0.1\"} 1"),
            "{text}"
        );
    }
}
