//! What a swarm counts: plain numbers since its start, which the daemons export as `owm_p2p_<name>_total`.

use std::collections::BTreeMap;

/// The numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Gossip messages accepted and forwarded.
    pub accepted: u64,
    /// Gossip messages dropped without blame, by reason.
    pub ignored: BTreeMap<&'static str, u64>,
    /// Gossip messages held against their forwarder, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Bytes of gossip payloads received, duplicates not counted.
    pub gossip_bytes: u64,
    /// Messages of our own published.
    pub published: u64,
    /// News dropped because the daemon was slow: heartbeats first, then capabilities.
    pub news_dropped: u64,
    /// Meets answered.
    pub meets_answered: u64,
    /// Meets asked and answered to us.
    pub meets_asked: u64,
    /// Meets refused or failed, either way.
    pub meets_failed: u64,
    /// Connections refused or failed before they were established, inbound.
    pub inbound_refused: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Addresses dialled without success, by the layer on which it failed.
    pub dials_failed_on: BTreeMap<&'static str, u64>,
    /// Dials that parts of libp2p wanted and that were not made: the peer was dialled in vain just before.
    pub dials_held: u64,
    /// Connections let go because there were more than needed.
    pub let_go: u64,
    /// Peers cut off for their score.
    pub cut_off: u64,
    /// DHT records refused.
    pub records_refused: u64,
}
