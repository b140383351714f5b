//! The peers that are remembered: where they were, whether they answered, who told of them. The dialling plan
//! asks it whom to try next, the daemon saves it, so that a node that starts without coordinator, DNS and
//! seeds still finds its way back in.
//!
//! Must stay true: bounded; an announcer, a source or a network fills its own share only and pushes out nobody
//! else's entries; an address that has worked is never replaced by a claim; pure: time and chance come in.

mod choose;
mod disk;
mod entry;

use std::collections::BTreeMap;

pub use choose::Choice;
pub use disk::{BOOK_BYTES_MAX, BookError};
pub use entry::{Known, KnownAddress, Origin};
use libp2p::{Multiaddr, PeerId};
use owm_proto::UnixMillis;

use super::group::{Group, allowed, without_peer};
use crate::{NetworkPolicy, error::FailedLayer};

/// Peers in all: at ~300 B each the file stays below half a megabyte.
pub const PEERS_MAX: usize = 1_024;

/// Peers that have answered us and are kept as such; the rest of the room is for claims.
pub const TRIED_MAX: usize = 256;

/// Peers with an address in one /16 (IPv6: /32); loopback and onions are not counted.
pub const GROUP_MAX: usize = 32;

/// Of these, peers that have answered.
pub const GROUP_TRIED_MAX: usize = 8;

/// Unproven peers that one source (a list, DNS, the coordinator) has named: a quarter.
pub const SOURCE_MAX: usize = 256;

/// Unproven peers that one peer has named.
pub const ANNOUNCER_MAX: usize = 32;

/// Unproven peers that all peers of one network together have named.
pub const ANNOUNCER_GROUP_MAX: usize = 64;

/// Addresses of one peer: two families times two transports.
pub const ADDRESSES_PER_PEER: usize = 4;

/// A claim that failed so often without one success is no use.
const FAILURES_OF_CLAIM_MAX: u32 = 4;

/// A peer that has answered once is given up slowly.
const FAILURES_OF_TRIED_MAX: u32 = 32;

/// Nobody has been seen there for so long: addresses change hands. 30 days.
const AGE_MAX_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// Peers by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Book {
    policy: NetworkPolicy,
    peers: BTreeMap<PeerId, Known>,
    /// The wall clock can't be trusted: nothing is too old.
    ageless: bool,
}

impl Book {
    /// An empty book, for addresses that `policy` allows.
    pub fn new(policy: NetworkPolicy) -> Self {
        Self {
            policy,
            peers: BTreeMap::new(),
            ageless: false,
        }
    }

    /// From now on nothing is too old: the wall clock has jumped.
    pub fn stop_ageing(&mut self) {
        self.ageless = true;
    }

    /// Whether `peer` is known and not given up.
    pub fn is_dialable(&self, peer: &PeerId, now: UnixMillis) -> bool {
        let now = self.ageing(now);
        let known = self.peers.get(peer);
        known.is_some_and(|known| !known.is_hopeless(now))
    }

    /// The time that ages are taken by.
    fn ageing(&self, now: UnixMillis) -> UnixMillis {
        if self.ageless { UnixMillis(0) } else { now }
    }

    /// How many peers it knows.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// What is known of a peer.
    pub fn get(&self, peer: &PeerId) -> Option<&Known> {
        self.peers.get(peer)
    }

    /// All that is known.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerId, &Known)> {
        self.peers.iter()
    }

    /// Somebody says that `peer` is at `addresses`. Returns whether anything was new and there was room.
    pub fn learn(
        &mut self,
        peer: PeerId,
        addresses: &[Multiaddr],
        origin: &Origin,
        now: UnixMillis,
    ) -> bool {
        let mut claims: Vec<Multiaddr> = Vec::new();
        for address in addresses.iter().map(without_peer) {
            let fits = allowed(self.policy, &address) && origin.may_tell(self.policy, &address);
            if fits && !claims.contains(&address) && self.has_room_in(Group::of(&address), &peer) {
                claims.push(address);
            }
            if claims.len() == ADDRESSES_PER_PEER {
                break;
            }
        }
        if claims.is_empty() {
            return false;
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            let new = claims.into_iter().map(|claim| known.claim(claim));
            return new.filter(|new| *new).count() > 0;
        }
        if !self.make_room_for(origin, now) {
            return false;
        }
        self.peers
            .insert(peer, Known::claimed(claims, origin.clone(), now));
        true
    }

    /// `peer` answered at `address` when we dialled it, and belongs to our network.
    pub fn reached(&mut self, peer: PeerId, address: &Multiaddr, origin: &Origin, now: UnixMillis) {
        let address = without_peer(address);
        if !allowed(self.policy, &address) {
            return;
        }
        let fresh = || Known::claimed(Vec::new(), origin.clone(), now);
        let known = self.peers.entry(peer).or_insert_with(fresh);
        known.succeeded(address.clone(), now);
        self.thin_tried(Group::of(&address), &peer);
        while self.peers.len() > PEERS_MAX && self.drop_worst_claim(|_| true) {}
    }

    /// Dialling `peer` at `address` failed on `layer`. Where another peer or another network answered, the
    /// claim was wrong and goes at once; what merely does not answer goes slowly.
    pub fn failed(
        &mut self,
        peer: &PeerId,
        address: &Multiaddr,
        layer: FailedLayer,
        now: UnixMillis,
    ) {
        let ageing = self.ageing(now);
        let Some(known) = self.peers.get_mut(peer) else {
            return;
        };
        let wrong = match layer {
            FailedLayer::Handshake | FailedLayer::Documents => true,
            FailedLayer::Version => {
                self.peers.remove(peer);
                return;
            }
            // Our own rules, clock or name server: says nothing about the peer.
            FailedLayer::Policy | FailedLayer::Clock | FailedLayer::Name => return,
            FailedLayer::Transport | FailedLayer::Timeout => false,
        };
        known.failed(&without_peer(address), wrong, now);
        if known.is_hopeless(ageing) {
            self.peers.remove(peer);
        }
    }

    /// What a peer says of itself, or AutoNAT of it.
    pub fn describe(&mut self, peer: &PeerId, public: bool, relay: bool) {
        if let Some(known) = self.peers.get_mut(peer) {
            (known.public, known.relay) = (public, relay);
        }
    }

    /// Never again (blocked, or it is ourselves).
    pub fn forget(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// Drops claims that are too old, and what has failed too often. Who has answered once is kept, however
    /// long ago: a clock that is ahead must not cost us every way back in.
    pub fn age(&mut self, now: UnixMillis) {
        let now = self.ageing(now);
        self.peers.retain(|_, known| !known.is_hopeless(now));
    }

    fn has_room_in(&self, group: Group, peer: &PeerId) -> bool {
        let others = self.peers.iter().filter(|(id, _)| *id != peer);
        let there = others.filter(|(_, known)| known.is_in(group));
        !group.is_counted() || there.count() < GROUP_MAX
    }

    /// Whether a claim of `origin` may enter; pushes out a worse one of the same share. Who came first stays,
    /// unless it has failed: a flood displaces nothing but itself.
    fn make_room_for(&mut self, origin: &Origin, now: UnixMillis) -> bool {
        self.age(now);
        for (max, same) in origin.shares() {
            let claims = self.claims().filter(|known| same(&known.origin));
            if claims.count() >= max && !self.drop_failed_claim(&*same) {
                return false;
            }
        }
        if self.peers.len() < PEERS_MAX {
            return true;
        }
        let mut counts = BTreeMap::<Origin, usize>::new();
        for known in self.claims() {
            *counts.entry(known.origin.clone()).or_default() += 1;
        }
        let own = counts.get(origin).copied().unwrap_or(0);
        match counts.into_iter().max_by_key(|(_, count)| *count) {
            Some((largest, count)) if count > own + 1 => {
                self.drop_worst_claim(|other| *other == largest)
            }
            _ => self.drop_failed_claim(&|_| true),
        }
    }

    fn claims(&self) -> impl Iterator<Item = &Known> {
        self.peers.values().filter(|known| !known.tried)
    }

    fn drop_failed_claim(&mut self, of: &dyn Fn(&Origin) -> bool) -> bool {
        let failed = |known: &&Known| !known.tried && known.failures() > 0 && of(&known.origin);
        if !self.peers.values().any(|known| failed(&known)) {
            return false;
        }
        self.drop_worst_claim(of)
    }

    fn drop_worst_claim(&mut self, of: impl Fn(&Origin) -> bool) -> bool {
        let claims = self.peers.iter().filter(|(_, k)| !k.tried && of(&k.origin));
        let worst = claims.max_by_key(|(_, k)| (k.failures(), std::cmp::Reverse(k.added_at_ms)));
        let worst = worst.map(|(peer, _)| *peer);
        worst.is_some_and(|peer| self.peers.remove(&peer).is_some())
    }

    /// Keeps the proven peers of one network and in all within their bounds: the one not seen for longest
    /// becomes a claim again.
    fn thin_tried(&mut self, group: Group, newest: &PeerId) {
        let longest_unseen = |book: &Self, within: &dyn Fn(&Known) -> bool, max: usize| {
            let tried = || book.peers.iter().filter(|(_, k)| k.tried && within(k));
            let others = tried().filter(|(peer, _)| *peer != newest);
            let oldest = others.min_by_key(|(_, k)| k.last_success_ms)?;
            (tried().count() > max).then_some(*oldest.0)
        };
        let in_group = |known: &Known| group.is_counted() && known.is_in(group);
        let one = longest_unseen(self, &in_group, GROUP_TRIED_MAX);
        let two = longest_unseen(self, &|_| true, TRIED_MAX);
        for peer in [one, two].into_iter().flatten() {
            if let Some(known) = self.peers.get_mut(&peer) {
                known.tried = false;
            }
        }
    }
}

#[cfg(test)]
mod tests;
