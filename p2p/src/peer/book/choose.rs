//! Whom to dial next: drawn so that no source, no network and no crowd of claims decides it alone.

use std::collections::{BTreeMap, BTreeSet};

use libp2p::{Multiaddr, PeerId};
use owm_proto::UnixMillis;
use rand::{Rng, seq::IteratorRandom};

use super::{Book, Known};
use crate::peer::group::{Group, allowed};

/// Peers of one network in one draw: of eight dials at most two go into the same /16.
const OF_GROUP_MAX: usize = 2;

/// A peer to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub peer: PeerId,
    /// Where, those that have worked first; without `/p2p`.
    pub addresses: Vec<Multiaddr>,
}

impl Book {
    /// Draws up to `count` peers for which `skip` is false: first whether among those that have answered or
    /// among claims, and of which source, all with equal chance; then a network; then the better of two
    /// peers in it. So a thousand claims of one origin weigh as much as one of another.
    pub fn choose(
        &self,
        count: usize,
        skip: impl Fn(&PeerId) -> bool,
        now: UnixMillis,
        rng: &mut impl Rng,
    ) -> Vec<Choice> {
        let mut left = BTreeMap::<(bool, &str), BTreeMap<Group, BTreeSet<PeerId>>>::new();
        for (peer, known) in self.peers.iter().filter(|(peer, _)| !skip(peer)) {
            let dialable = !known.is_hopeless(self.ageing(now));
            let Some(first) = known.addresses.first().filter(|_| dialable) else {
                continue;
            };
            let class = left.entry((known.tried, known.origin.class())).or_default();
            let group = class.entry(Group::of(&first.address)).or_default();
            group.insert(*peer);
        }
        let mut chosen = Vec::new();
        let mut of_group = BTreeMap::<Group, usize>::new();
        while chosen.len() < count {
            let Some(class) = left.keys().copied().choose(rng) else {
                break;
            };
            let groups = left.get_mut(&class).expect("the key is from the map");
            match self.draw(groups, &mut of_group, rng) {
                Some(choice) => chosen.push(choice),
                None => {
                    left.remove(&class);
                }
            }
        }
        chosen
    }

    fn draw(
        &self,
        groups: &mut BTreeMap<Group, BTreeSet<PeerId>>,
        of_group: &mut BTreeMap<Group, usize>,
        rng: &mut impl Rng,
    ) -> Option<Choice> {
        let spent = |g: &Group| g.is_counted() && of_group.get(g) >= Some(&OF_GROUP_MAX);
        groups.retain(|group, peers| !peers.is_empty() && !spent(group));
        let group = groups.keys().copied().choose(rng)?;
        let peers = groups.get_mut(&group)?;
        let two = peers.iter().copied().choose_multiple(rng, 2);
        let failures = |peer: &PeerId| self.peers.get(peer).map_or(0, Known::failures);
        let peer = two.into_iter().min_by_key(failures)?;
        peers.remove(&peer);
        *of_group.entry(group).or_default() += 1;
        let addresses = self.dialable(self.peers.get(&peer)?);
        Some(Choice { peer, addresses })
    }

    fn dialable(&self, known: &Known) -> Vec<Multiaddr> {
        let mut addresses: Vec<_> = known.addresses.iter().collect();
        addresses.sort_by_key(|a| (std::cmp::Reverse(a.last_success_ms), a.failures));
        let addresses = addresses.into_iter().map(|a| a.address.clone());
        addresses.filter(|a| allowed(self.policy, a)).collect()
    }
}
