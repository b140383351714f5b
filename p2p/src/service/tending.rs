//! Spare connections are let go, so that there are about as many as wanted and newcomers always find a place.
//! Must stay true: who was dialled by the plan, is being asked, or carries somebody's connections (or has them
//! carried by us) stays; who is in gossip's mesh is let go last, and by a coordinator never; a member is let go
//! after strangers.
//!
//! libp2p's own idle time-out can't do this: it would close those that the plan wants, which then dials again.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use libp2p::PeerId;

use super::Service;
use crate::{Rules, SwarmConfig, membership::Standing, peer};

/// Who has just come is not let go: it is still asking.
const TRIM_AFTER: Duration = Duration::from_secs(30);

/// Whom the DHT (or AutoNAT) dialled on its way is done with after so long: a query takes 10 s at most.
const PASSING: Duration = Duration::from_secs(15);

/// Connections that are too many: twice those wanted, since others want as many as we and dial half of them;
/// and well below the limit in any case, so that newcomers find a place. Who listens to all shards (a
/// coordinator) has peers in each, and is what everybody's invite names: only the limit counts there.
fn peers_max(config: &SwarmConfig) -> usize {
    let most = config.connections_max as usize * 5 / 8;
    if config.all_shards {
        return most;
    }
    (2 * config.peers_wanted).min(most)
}

impl Service {
    /// Lets go of peers that were only met in passing once there are more than wanted, and of inbound ones
    /// when there are too many: strangers first, of these who came last (so who is known for long stays).
    pub(super) fn trim(&mut self) {
        let wanted = self.config.peers_wanted;
        if self.peers.len() <= wanted {
            return;
        }
        let needed = self.needed();
        let mut going = self.spare(false, PASSING, &needed);
        going.truncate(self.peers.len() - wanted);
        let left = self.peers.len() - going.len();
        let excess = left.saturating_sub(peers_max(&self.config));
        if excess > 0 {
            let inbound = self.spare(true, TRIM_AFTER, &needed);
            going.extend(inbound.into_iter().take(excess));
        }
        for peer in going {
            self.counts.let_go += 1;
            // It has gone by itself.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Who has been here for longer than `after` and is of no use, the most useless first.
    fn spare(&self, inbound: bool, after: Duration, needed: &BTreeSet<PeerId>) -> Vec<PeerId> {
        let now = self.clock.monotonic();
        let mesh = self.swarm.behaviour().gossip.all_mesh_peers();
        let mesh: BTreeSet<&PeerId> = mesh.collect();
        let mut spare = Vec::new();
        for (peer, its) in &self.peers {
            let only_inbound = its.links.values().all(|link| !link.dialled);
            let in_mesh = mesh.contains(peer);
            let kept = needed.contains(peer)
                || self.ways.has_dialled(peer)
                // Each shard has a mesh of its own, and who listens to all needs them all.
                || in_mesh && (!inbound || self.config.all_shards);
            if only_inbound == inbound && now >= its.since + after && !kept {
                spare.push((in_mesh, self.has_seat(peer), Reverse(its.since), *peer));
            }
        }
        spare.sort_unstable();
        spare.into_iter().map(|(.., peer)| peer).collect()
    }

    fn needed(&self) -> BTreeSet<PeerId> {
        let mut needed = self.reach.needed();
        needed.extend(self.asked.values().map(|asked| asked.peer));
        needed
    }

    fn has_seat(&self, peer: &PeerId) -> bool {
        let now = self.clock.wall();
        let directory = self.rules.as_ref().map(Rules::directory);
        let standing = |key| directory.map(|d| d.standing(&key, now));
        let standing = peer::public_key(peer).and_then(standing);
        standing.is_some_and(Standing::has_seat)
    }
}
