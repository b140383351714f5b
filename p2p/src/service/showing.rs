//! The view: a snapshot for people and pages, at most four times a second and only when something changed.

use std::sync::Arc;

use libp2p::{PeerId, multiaddr::Protocol};
use owm_proto::{Sha256, gossip::Bootstrap};

use super::Service;
use crate::{
    NetworkPolicy, SwarmView, peer,
    view::{CheckpointView, NodeView, PeerView, Reachability, SourceView},
};

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

impl Service {
    pub(super) fn show(&mut self) {
        if !self.dirty {
            return;
        }
        self.dirty = false;
        let view = self.snapshot();
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
            parameters: self.known.parameters(self.clock.wall()),
            sources: self.source_views(),
            warnings: self.warnings.clone(),
        }
    }

    fn reachability(&self) -> Reachability {
        let direct = |a: &&libp2p::Multiaddr| !a.iter().any(|part| part == Protocol::P2pCircuit);
        match self.swarm.external_addresses().find(direct) {
            Some(_) => Reachability::Public,
            None if self.config.policy == NetworkPolicy::OnionOnly => Reachability::Unknown,
            None if self.swarm.external_addresses().next().is_some() => Reachability::Private,
            None => Reachability::Unknown,
        }
    }

    fn peer_views(&self) -> Vec<PeerView> {
        let gossip = &self.swarm.behaviour().gossip;
        let view = |(id, peer): (&PeerId, &super::Peer)| {
            let address = peer.links.values().next()?.clone();
            let key = peer::public_key(id)?;
            Some(PeerView {
                key,
                relayed: address.iter().any(|part| part == Protocol::P2pCircuit),
                address,
                round_trip: peer.round_trip,
                score: gossip.peer_score(id).unwrap_or_default(),
                member: false,
            })
        };
        self.peers.iter().filter_map(view).collect()
    }

    fn node_views(&self) -> Vec<NodeView> {
        let nodes = self.heard.nodes.iter();
        nodes
            .map(|(key, node)| NodeView {
                key: *key,
                tier: None,
                heard_at_ms: node.heard_at,
                running_tasks: node.running_tasks,
                holds: node
                    .body
                    .holds
                    .iter()
                    .filter_map(|hash| hash.as_slice().try_into().ok().map(Sha256))
                    .collect(),
                roles: node.body.roles.clone(),
                software_version: node.body.software_version.clone(),
                checkpoint_sequence: node.body.checkpoint_sequence,
                connected: peer::peer_id(key).is_some_and(|id| self.peers.contains_key(&id)),
            })
            .collect()
    }

    fn checkpoint_view(&self) -> Option<CheckpointView> {
        let newest = &self.known.newest()?.checkpoint;
        Some(CheckpointView {
            sequence: newest.sequence,
            version: newest.version.to_string(),
            manifest_sha256: newest.manifest_sha256,
            from: self.heard.checkpoint_from.clone(),
            learnt_at_ms: self.heard.checkpoint_at,
        })
    }

    fn source_views(&self) -> Vec<SourceView> {
        let brought = self.sources.brought.iter();
        brought
            .map(|(name, brought)| SourceView {
                name: (*name).to_owned(),
                given: brought.given.len(),
                reached: brought.reached.len(),
                failures: brought.failures.iter().cloned().collect(),
            })
            .collect()
    }
}
