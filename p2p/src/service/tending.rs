//! How many peers there are: more are sought among the nodes that gossip tells of, spare ones are let go before
//! the limits are reached, so that newcomers always find a place. Must stay true: a member is let go after all
//! strangers, and nobody of gossip's mesh or whom we dialled ourselves.

use std::{collections::BTreeSet, time::Duration};

use libp2p::PeerId;
use owm_proto::PublicKey;
use rand::Rng as _;

use super::{Service, connecting::DIALS_PER_ROUND};
use crate::{Rules, membership::Standing, peer};

/// Who has just come is not let go: it is still asking.
const TRIM_AFTER: Duration = Duration::from_secs(30);

/// Looks for peers among the nodes heard of so often.
const SEEK_EVERY: Duration = Duration::from_secs(10);

impl Service {
    /// Dials nodes that gossip has told of, while more peers are wanted.
    pub(super) fn dial_heard(&mut self) {
        let at = self.clock.moment();
        let wanted = self.config.peers_wanted.saturating_sub(self.peers.len());
        let Some(rules) = &self.rules else { return };
        if wanted == 0 || at.monotonic < self.next_seek {
            return;
        }
        self.next_seek = at.monotonic + SEEK_EVERY;
        let nodes = rules.directory().nodes(at);
        let mut strangers: Vec<PublicKey> = nodes
            .into_iter()
            .filter(|node| node.key != self.me)
            .map(|node| node.key)
            .filter(|key| peer::peer_id(key).is_some_and(|id| !self.peers.contains_key(&id)))
            .collect();
        let mut found = Vec::new();
        for _ in 0..strangers.len().min(wanted).min(DIALS_PER_ROUND) {
            let key = strangers.swap_remove(self.rng.random_range(0..strangers.len()));
            let addresses = rules.directory().addresses(at, &key).into_iter();
            let addresses = addresses.filter(|address| self.config.policy.allows(address));
            if let Some(id) = peer::peer_id(&key) {
                found.extend(addresses.filter_map(|address| address.with_p2p(id).ok()));
            }
        }
        if !found.is_empty() {
            self.candidates("gossip", found);
        }
    }

    /// Makes room before the limit is reached: inbound peers that gossip does not need, strangers first, of
    /// these who came first (it has had its answer).
    pub(super) fn trim(&mut self) {
        let full = (self.config.connections_max as usize) * 5 / 8;
        let excess = self.peers.len().saturating_sub(full);
        if excess == 0 {
            return;
        }
        let at = self.clock.moment();
        let mesh: BTreeSet<PeerId> = self
            .swarm
            .behaviour()
            .gossip
            .all_mesh_peers()
            .copied()
            .collect();
        let directory = self.rules.as_ref().map(Rules::directory);
        let member = |peer: &PeerId| {
            let standing = |key| directory.map(|d| d.standing(&key, at.wall));
            peer::public_key(peer)
                .and_then(standing)
                .is_some_and(Standing::has_seat)
        };
        let mut spare: Vec<_> = self
            .peers
            .iter()
            .filter(|(peer, _)| !mesh.contains(peer))
            .filter(|(_, p)| p.links.values().all(|link| !link.dialled))
            .filter(|(_, p)| at.monotonic >= p.since + TRIM_AFTER)
            .map(|(peer, p)| (member(peer), p.since, *peer))
            .collect();
        spare.sort_unstable();
        for (.., peer) in spare.into_iter().take(excess) {
            // It has gone by itself.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }
}
