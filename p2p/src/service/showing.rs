//! The view: a snapshot for people and pages, at most four times a second, once while something changes
//! all the time, and only when something changed.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use libp2p::PeerId;
use owm_proto::{PublicKey, envelope::CLOCK_SKEW_MAX, gossip::Bootstrap};

use super::{Peer, Service, reaching::is_relayed};
use crate::{
    Rules, SwarmView,
    membership::Standing,
    peer,
    view::{CheckpointView, NodeView, PeerView, Reachability},
};

/// So far may views run ahead of their pace: four in a row, after a rest, come as soon as something changes.
const AHEAD_MAX: Duration = super::VIEW_EVERY_BUSY.saturating_mul(4);

/// Before anything is known.
pub(super) fn empty(me: PeerId) -> SwarmView {
    SwarmView {
        peer: me,
        listening: Vec::new(),
        external: Vec::new(),
        reachability: Reachability::Unknown,
        peers: Vec::new(),
        nodes: Vec::new(),
        checkpoint: None,
        parameters: Bootstrap::before_any(),
        sources: Vec::new(),
        warnings: Vec::new(),
    }
}

/// One for all of them: what one peer says about the time must not fill the list.
fn clock_warning(peers: &BTreeMap<PeerId, Peer>) -> Option<String> {
    let apart = peers.values().filter(|peer| peer.clock_apart).count();
    (apart > 0).then(|| {
        format!(
            "this machine's clock and those of {apart} of {} connected peers are more than {} min apart; check this machine's time service",
            peers.len(),
            CLOCK_SKEW_MAX.as_secs() / 60
        )
    })
}

impl Service {
    /// What only counts changes no view, and is told all the same.
    pub(super) fn show_counts(&mut self) {
        self.dirty |= self.counts != *self.counted.borrow();
    }

    pub(super) fn show(&mut self) {
        let now = self.clock.monotonic();
        if !self.dirty || now + AHEAD_MAX < self.show_at {
            return;
        }
        self.dirty = false;
        let view = self.snapshot();
        // A coordinator of a large network shows itself less often: a thousand nodes a quarter second.
        let thousands = u32::try_from(view.nodes.len() / 1_000).unwrap_or(u32::MAX);
        let wait = super::VIEW_EVERY.saturating_mul(thousands);
        // A few at once, on the average one for each such time; after a large one none before its time.
        self.show_at = if thousands > 0 {
            now + AHEAD_MAX + wait
        } else {
            self.show_at.max(now) + super::VIEW_EVERY_BUSY
        };
        self.counted.send_replace(self.counts.clone());
        self.view.send_replace(Arc::new(view));
    }

    fn snapshot(&self) -> SwarmView {
        SwarmView {
            peer: *self.swarm.local_peer_id(),
            listening: self.swarm.listeners().cloned().collect(),
            external: self.swarm.external_addresses().cloned().collect(),
            reachability: self.reachability(),
            peers: self.peer_views(),
            nodes: self.node_views(),
            checkpoint: self.checkpoint_view(),
            // As the rules have verified them; asking the documents checks their signature each time.
            parameters: self
                .rules
                .as_ref()
                .map_or_else(Bootstrap::before_any, |rules| rules.parameters().clone()),
            sources: self.ways.views(),
            warnings: self.all_warnings(),
        }
    }

    fn is_member(&self, key: &PublicKey) -> bool {
        let standing = |rules: &Rules| rules.directory().standing(key, self.clock.wall());
        matches!(self.rules.as_ref().map(standing), Some(Standing::Member(_)))
    }

    fn all_warnings(&self) -> Vec<String> {
        let rules = self.rules.iter().flat_map(Rules::warnings);
        let own = self.warnings.iter().cloned();
        let clock = clock_warning(&self.peers);
        own.chain(clock).chain(rules.map(str::to_owned)).collect()
    }

    fn peer_views(&self) -> Vec<PeerView> {
        let gossip = &self.swarm.behaviour().gossip;
        let view = |(id, peer): (&PeerId, &super::Peer)| {
            let direct = peer.links.values().find(|link| !is_relayed(&link.address));
            let address = direct.or(peer.links.values().next())?.address.clone();
            let key = peer::public_key(id)?;
            Some(PeerView {
                key,
                relayed: is_relayed(&address),
                address,
                round_trip: peer.round_trip,
                score: gossip.peer_score(id).unwrap_or_default(),
                member: self.is_member(&key),
            })
        };
        self.peers.iter().filter_map(view).collect()
    }

    fn node_views(&self) -> Vec<NodeView> {
        let Some(rules) = &self.rules else {
            return Vec::new();
        };
        // Not node by node: a PeerId made of a key is checked to be a point of the curve.
        let connected: HashSet<_> = self.peers.keys().filter_map(peer::public_key).collect();
        let mut nodes = rules.directory().nodes(self.clock.moment());
        for node in &mut nodes {
            node.connected = connected.contains(&node.key);
        }
        nodes
    }

    fn checkpoint_view(&self) -> Option<CheckpointView> {
        let newest = &self.known.newest()?.checkpoint;
        Some(CheckpointView {
            sequence: newest.sequence,
            version: newest.version.to_string(),
            manifest_sha256: newest.manifest_sha256,
            from: self.learnt.from.clone(),
            learnt_at_ms: self.learnt.at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wrong_clocks_make_one_warning_and_it_ends_with_them() {
        let peer = |clock_apart| Peer {
            clock_apart,
            ..Peer::default()
        };
        let peers = [true, true, false].map(|apart| (PeerId::random(), peer(apart)));
        let warning = clock_warning(&peers.into()).unwrap();
        assert!(warning.contains("2 of 3 connected peers"), "{warning}");
        assert_eq!(
            clock_warning(&[(PeerId::random(), peer(false))].into()),
            None
        );
    }
}
