//! What is counted of the swarm. Counted by `swarm::fold`, read by `tasks::figures`.

use owm_service::metrics::{ByWord, Counter, Gauge, Registry};

/// What may become of a heartbeat.
const HEARTBEATS: [&str; 4] = ["fresh", "known", "stranger", "dropped"];

/// What may become of an announcement.
const CAPABILITIES: [&str; 3] = ["kept", "ignored", "dropped"];

/// The swarm as this coordinator sees it.
#[derive(Clone, Debug)]
pub struct SwarmMetrics {
    heartbeats: ByWord<Counter>,
    capabilities: ByWord<Counter>,
    /// Gossip messages judged, by verdict.
    pub(crate) messages: ByWord<Counter>,
    /// News lost because this process was slow.
    pub(crate) news_dropped: Counter,
    pub(crate) peers: Gauge,
    pub(crate) nodes: Gauge,
    pub(crate) checkpoint: Gauge,
}

impl SwarmMetrics {
    /// Registers them.
    pub(super) fn new(registry: &Registry) -> Self {
        let scope = registry.scope("coordinator");
        let metrics = Self {
            heartbeats: scope.counter_by(
                "gossip_heartbeats",
                "Verified heartbeats heard by gossip, by outcome: fresh (written), known (they came before, \
                 by whatever way), stranger (not registered), dropped (no room while the database was away)",
            ),
            capabilities: scope.counter_by(
                "gossip_capabilities",
                "Verified announcements heard by gossip, by outcome: kept, ignored (older, or not registered), \
                 dropped (no room while the database was away)",
            ),
            messages: scope.counter_by(
                "gossip_messages",
                "Gossip messages judged, duplicates not counted, by verdict: accepted, ignored (stale, early, \
                 over an allowance), rejected (forged or malformed: held against who forwarded it)",
            ),
            news_dropped: scope.counter(
                "swarm_news_dropped",
                "Verified news of the swarm that were lost because this process was slow",
            ),
            peers: scope.gauge("swarm_peers", "Peers this coordinator is connected with"),
            nodes: scope.gauge(
                "swarm_nodes",
                "Nodes heard of by gossip lately, strangers included",
            ),
            checkpoint: scope.gauge(
                "swarm_checkpoint_sequence",
                "Sequence of the newest checkpoint that this coordinator serves to peers, 0 if there is none",
            ),
        };
        for outcome in HEARTBEATS {
            metrics.heartbeats(outcome, 0);
        }
        for outcome in CAPABILITIES {
            metrics.capabilities(outcome, 0);
        }
        metrics
    }

    /// So many heartbeats came to this.
    pub(crate) fn heartbeats(&self, outcome: &'static str, count: u64) {
        let counter = self.heartbeats.get_or_create(&[("outcome", outcome)]);
        counter.inc_by(count);
    }

    /// So many announcements came to this.
    pub(crate) fn capabilities(&self, outcome: &'static str, count: u64) {
        let counter = self.capabilities.get_or_create(&[("outcome", outcome)]);
        counter.inc_by(count);
    }

    /// How many heartbeats came to this.
    #[cfg(test)]
    pub(crate) fn heartbeats_of(&self, outcome: &'static str) -> u64 {
        self.heartbeats.get_or_create(&[("outcome", outcome)]).get()
    }
}
