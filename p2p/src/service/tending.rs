//! Spare peers are let go before the limits are reached, so that newcomers always find a place. Must stay true: a member is let go after all
//! strangers, and nobody of gossip's mesh or whom we dialled ourselves.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use libp2p::PeerId;

use super::Service;
use crate::{Rules, membership::Standing, peer};

/// Who has just come is not let go: it is still asking.
const TRIM_AFTER: Duration = Duration::from_secs(30);

impl Service {
    /// Makes room before the limit is reached: inbound peers that gossip does not need, strangers first, of
    /// these who never met us, then the worst scored, then who came last: whoever floods us with connections
    /// displaces itself, not those who have long been here.
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
            .map(|(peer, p)| {
                let score = peer::public_key(peer).map_or(0.0, |key| self.scores.score(at, &key));
                // Whole points are enough.
                let score = score as i64;
                (member(peer), p.met, score, Reverse(p.since), *peer)
            })
            .collect();
        spare.sort_unstable();
        for (.., peer) in spare.into_iter().take(excess) {
            // It has gone by itself.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }
}
