//! The swarm's metrics, `owm_p2p_…`: `swarm` shows the peer's own counts here.

use std::sync::{Arc, Mutex, PoisonError};

use owm_p2p::{Counts, SwarmView};
use owm_service::metrics::{ByWord, Counter, Gauge, Registry};

/// All of them.
#[derive(Clone, Debug)]
pub struct SwarmMetrics {
    peers: Gauge,
    nodes: Gauge,
    checkpoint: Gauge,
    messages: ByWord<Counter>,
    ignored: ByWord<Counter>,
    rejected: ByWord<Counter>,
    bytes: Counter,
    published: Counter,
    meets: ByWord<Counter>,
    dials_failed: Counter,
    dial_failures: ByWord<Counter>,
    dials_held: Counter,
    cut_off: Counter,
    news: ByWord<Counter>,
    /// What was shown last: the peer's counts are totals.
    shown: Arc<Mutex<Counts>>,
}

impl SwarmMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.scope("p2p");
        let metrics = Self {
            peers: scope.gauge("peers", "Connected peers of this network"),
            nodes: scope.gauge("nodes", "Nodes heard of lately by gossip, this one included"),
            checkpoint: scope.gauge(
                "checkpoint_sequence",
                "Sequence of the newest signed checkpoint that is known, 0: none",
            ),
            messages: scope.counter_by(
                "gossip_messages",
                "Gossip messages judged, by verdict: accepted (and forwarded), ignored, rejected",
            ),
            ignored: scope.counter_by(
                "gossip_ignored",
                "Gossip messages dropped without blame, by reason",
            ),
            rejected: scope.counter_by(
                "gossip_rejected",
                "Gossip messages held against the peer that forwarded them, by reason",
            ),
            bytes: scope.counter(
                "gossip_bytes",
                "Bytes of gossip messages received, duplicates not counted",
            ),
            published: scope.counter("gossip_published", "Messages of our own published"),
            meets: scope.counter_by(
                "meets",
                "First exchanges with peers, by outcome: asked, answered, failed",
            ),
            dials_failed: scope.counter("dials_failed", "Connections to peers that failed"),
            dial_failures: scope.counter_by(
                "dial_failures",
                "Addresses of peers dialled without success, by the layer on which it failed: policy, name, tcp/quic, handshake, version, clock, documents, timeout",
            ),
            dials_held: scope.counter(
                "dials_held",
                "Dials that the DHT wanted and that were not made: the peer was dialled in vain just before",
            ),
            cut_off: scope.counter("peers_cut_off", "Peers cut off for their score"),
            news: scope.counter_by(
                "news",
                "What peers have said and was verified and new, by kind: heartbeat, capability, checkpoint, documents",
            ),
            shown: Arc::default(),
        };
        for kind in ["heartbeat", "capability", "checkpoint", "documents"] {
            drop(metrics.news(kind));
        }
        for verdict in ["accepted", "ignored", "rejected"] {
            drop(
                metrics
                    .messages
                    .get_or_create_owned(&[("verdict", verdict)]),
            );
        }
        for outcome in ["asked", "answered", "failed"] {
            drop(metrics.meets.get_or_create_owned(&[("outcome", outcome)]));
        }
        metrics
    }

    /// The counter of news of this kind.
    pub fn news(&self, kind: &'static str) -> Counter {
        self.news.get_or_create_owned(&[("kind", kind)])
    }

    /// Brings them up to what the peer has counted.
    pub fn show(&self, view: &SwarmView, counts: &Counts) {
        let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.peers.set(size(view.peers.len()));
        self.nodes.set(size(view.nodes.len()));
        let sequence = view.checkpoint.as_ref().map_or(0, |c| c.sequence);
        self.checkpoint
            .set(i64::try_from(sequence).unwrap_or(i64::MAX));
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.show_dials(counts, &shown);
        let mut total = [0; 2];
        let all = [
            (&self.ignored, &counts.ignored, &shown.ignored),
            (&self.rejected, &counts.rejected, &shown.rejected),
        ];
        for ((metric, now, before), total) in all.into_iter().zip(&mut total) {
            for (reason, n) in now {
                let more = n.saturating_sub(before.get(reason).copied().unwrap_or(0));
                *total += more;
                metric
                    .get_or_create_owned(&[("reason", *reason)])
                    .inc_by(more);
            }
        }
        let verdicts = [
            ("accepted", counts.accepted.saturating_sub(shown.accepted)),
            ("ignored", total[0]),
            ("rejected", total[1]),
        ];
        for (verdict, more) in verdicts {
            let messages = self.messages.get_or_create_owned(&[("verdict", verdict)]);
            messages.inc_by(more);
        }
        let meets = [
            ("asked", counts.meets_asked, shown.meets_asked),
            ("answered", counts.meets_answered, shown.meets_answered),
            ("failed", counts.meets_failed, shown.meets_failed),
        ];
        for (outcome, now, before) in meets {
            let metric = self.meets.get_or_create_owned(&[("outcome", outcome)]);
            metric.inc_by(now.saturating_sub(before));
        }
        let plain = [
            (&self.bytes, counts.gossip_bytes, shown.gossip_bytes),
            (&self.published, counts.published, shown.published),
            (&self.cut_off, counts.cut_off, shown.cut_off),
        ];
        for (metric, now, before) in plain {
            metric.inc_by(now.saturating_sub(before));
        }
        shown.clone_from(counts);
    }

    fn show_dials(&self, counts: &Counts, shown: &Counts) {
        for (layer, n) in &counts.dials_failed_on {
            let before = shown.dials_failed_on.get(layer).copied().unwrap_or(0);
            self.dial_failures
                .get_or_create_owned(&[("layer", *layer)])
                .inc_by(n.saturating_sub(before));
        }
        for (metric, now, before) in [
            (&self.dials_failed, counts.dials_failed, shown.dials_failed),
            (&self.dials_held, counts.dials_held, shown.dials_held),
        ] {
            metric.inc_by(now.saturating_sub(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn failed_dials_are_shown_by_layer_and_counted_once() {
        let metrics = SwarmMetrics::new(&Registry::default());
        let of = |layer: &'static str| {
            let counter = metrics
                .dial_failures
                .get_or_create_owned(&[("layer", layer)]);
            counter.get()
        };
        let counts = |transport, timeout| Counts {
            dials_failed_on: BTreeMap::from([("tcp/quic", transport), ("timeout", timeout)]),
            dials_held: 3,
            ..Counts::default()
        };
        metrics.show_dials(&counts(2, 1), &Counts::default());
        metrics.show_dials(&counts(2, 5), &counts(2, 1));
        assert_eq!((of("tcp/quic"), of("timeout")), (2, 5));
        assert_eq!(metrics.dials_held.get(), 3);
    }
}
