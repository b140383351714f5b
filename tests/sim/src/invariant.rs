//! What must hold when a run ends, each by its name ([`Invariant`]).

use owm_p2p::gossip::{
    limits::StateKind,
    mesh::{DIALLED_MIN, PEERS_HIGH},
};
use owm_proto::Purpose;

use crate::{
    frame::Peer,
    mesh::Standing,
    node::Node,
    scenario::{Deed, Turn},
    watch::Invariant,
    world::{Kind, World},
};

/// Provable lies after which a liar must have been cut off: the cheapest cost 5 of 100, and prices fade while
/// a slow liar takes its time.
const LIES_MAX: u64 = 40;

impl World {
    /// Looks at everything.
    pub fn check_end(&mut self) {
        for peer in self.honest() {
            if self.is_awake(peer) && self.was_connected(peer) {
                self.check_knowledge(peer);
                self.check_checkpoint(peer);
                self.check_standing(peer);
            }
        }
        self.check_liars();
        self.check_tables();
        self.check_rates();
        self.check_messages();
    }

    /// There since the last disturbance was over, and connected with an honest peer.
    fn was_connected(&self, peer: Peer) -> bool {
        let actor = self.actor(peer);
        let honest = |other: &Peer| self.is_honest(*other);
        actor.since <= self.scenario.calm && actor.linked.iter().any(honest)
    }

    fn check_knowledge(&mut self, peer: Peer) {
        let now = self.now();
        let actor = self.actor(peer);
        let Some(node) = actor.node() else { return };
        let at = actor.clock.moment(now);
        let known = node.known(at);
        let crowded = self
            .scenario
            .liars
            .iter()
            .any(|liar| liar.deed == Deed::Sybil);
        let (mut missing, mut unannounced) = (Vec::new(), Vec::new());
        for other in self.honest().filter(|other| *other != peer) {
            let there = self.is_awake(other) && self.was_connected(other);
            let heard = peer == Peer(0) || self.same_shard(peer, other);
            // Strangers share their places with Sybils: only members are sure of theirs.
            let sure = !crowded || self.is_member(other);
            if !(there && heard && sure) {
                continue;
            }
            let key = self.actor(other).identity.public;
            if !known.contains(&key) {
                missing.push(other.0);
            } else if node.lacks_capability(at, &key) {
                unannounced.push(other.0);
            }
        }
        if !unannounced.is_empty() {
            let what = format_args!("{} knows only heartbeats of {unannounced:?}", peer.0);
            self.watch
                .violated(Invariant::EverybodyIsIntroduced, now, what);
        }
        if !missing.is_empty() {
            let what = format_args!("{} does not know {missing:?}", peer.0);
            self.watch
                .violated(Invariant::EverybodyKnowsEverybody, now, what);
        }
    }

    fn same_shard(&self, a: Peer, b: Peer) -> bool {
        self.actor(a).shard == self.actor(b).shard
    }

    fn is_member(&self, peer: Peer) -> bool {
        matches!(
            self.actor(peer).kind,
            Kind::Honest {
                membership: Some(_),
                ..
            }
        )
    }

    fn check_checkpoint(&mut self, peer: Peer) {
        let (now, newest) = (self.now(), self.truth.newest_checkpoint());
        let node = self.actor(peer).node();
        let known = node.map_or(0, Node::newest_sequence);
        if known < newest {
            let what = format_args!("{} knows {known}, the newest is {newest}", peer.0);
            self.watch
                .violated(Invariant::TheNewestCheckpointIsKnown, now, what);
        }
    }

    fn check_standing(&mut self, peer: Peer) {
        let now = self.now();
        let actor = self.actor(peer);
        let Some(node) = actor.node() else { return };
        let at = actor.clock.moment(now);
        let punished: Vec<u32> = self
            .honest()
            .filter(|other| {
                let key = self.actor(*other).identity.public;
                node.standing(at, &key) < Standing::Fair || node.is_banned(at, &key)
            })
            .map(|other| other.0)
            .collect();
        if !punished.is_empty() {
            let what = format_args!("{} thinks ill of {punished:?}", peer.0);
            self.watch
                .violated(Invariant::NoHonestPeerIsPunished, now, what);
        }
    }

    fn check_liars(&mut self) {
        let now = self.now();
        let mut free = Vec::new();
        for ((peer, liar), lies) in self.watch.provable() {
            // A peer that crashed has forgotten.
            let crashed = self.scenario.turns.iter().any(|(_, who, turn)| {
                who == peer && matches!(turn, Turn::Crash { .. } | Turn::Leave)
            });
            if *lies > LIES_MAX && !crashed {
                free.push((peer.0, liar.0, *lies));
            }
        }
        if !free.is_empty() {
            let what = format_args!("(peer, liar, provable lies heard): {free:?}");
            self.watch.violated(Invariant::LiarsAreCutOff, now, what);
        }
    }

    fn check_tables(&mut self) {
        let (now, largest) = (self.now(), self.watch.largest());
        let limits = self.scenario.limits(self.lore.topics.shards);
        let members = (0..self.scenario.honest.len()).filter(|n| self.scenario.honest[*n].member);
        // Everybody has a place in its own directory.
        let members_max = limits.members_max.min(members.count() + 1);
        let within = largest.members <= members_max
            && largest.strangers <= limits.strangers_max
            && largest.bytes <= limits.capability_bytes_max
            && largest.scores <= self.scenario.peers();
        if !within {
            let what = format_args!("{largest:?}, at most {members_max} members and {limits:?}");
            self.watch.violated(Invariant::TablesAreBounded, now, what);
        }
    }

    fn check_rates(&mut self) {
        let now = self.now();
        let mut over = Vec::new();
        for ((peer, life, key, purpose), count) in self.watch.accepted() {
            let kind = if *purpose == Purpose::Heartbeat.as_str() {
                StateKind::Heartbeat
            } else {
                StateKind::Capability
            };
            // A member's allowance (`Allowances::of_key`), in numbers of its own: two heartbeats a period and
            // six at once, ten capabilities a period. A clock may run 200 ppm fast.
            let (period_secs, burst) = match kind {
                StateKind::Heartbeat => (self.scenario.heartbeat_secs, 6),
                StateKind::Capability => (self.scenario.capability_secs, 10),
            };
            let per_period = if kind == StateKind::Heartbeat { 2 } else { 10 };
            let periods = now.0 * per_period / (u64::from(period_secs) * 1_000_000);
            let allowed = burst + periods * 11 / 10 + 1;
            if *count > allowed {
                over.push((peer.0, *life, key.short(), *purpose, *count, allowed));
            }
        }
        if !over.is_empty() {
            let what = format_args!("(peer, life, key, purpose, accepted, allowed): {over:?}");
            self.watch
                .violated(Invariant::KeysAreRateLimited, now, what);
        }
    }

    fn check_messages(&mut self) {
        let now = self.now();
        let mut over = Vec::new();
        for peer in self.honest() {
            let sent = self.actor(peer).sent;
            let mesh_max = (PEERS_HIGH + DIALLED_MIN) as u64;
            let allowed = sent.flooded + sent.accepted * mesh_max + sent.wanted;
            if sent.published > allowed {
                over.push((peer.0, sent, allowed));
            }
        }
        if !over.is_empty() {
            let what = format_args!("(peer, sent, allowed): {over:?}");
            self.watch
                .violated(Invariant::MessagesAreBounded, now, what);
        }
    }
}
