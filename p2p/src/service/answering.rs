//! What answers to Meet may cost us: how often who is answered, how much each is told, and how many bytes are on
//! their way at once. `meeting` asks before it answers. Must stay true: who disconnects and comes back has used
//! up what it had used up; many new keys from one address share one allowance; memory is bounded.

use std::{collections::HashMap, hash::Hash, net::IpAddr, num::NonZeroUsize, time::Duration};

use libp2p::{PeerId, request_response::InboundRequestId};
use lru::LruCache;
use owm_proto::{
    PublicKey,
    limits::{MEET_MESSAGE_BYTES_MAX, MEET_NODES_MAX},
};

use super::{Service, reaching::is_relayed};
use crate::{
    guard,
    membership::Standing,
    peer::{
        self,
        rate::{Meter, Rate},
    },
};

/// Questions of one peer that are answered in a minute.
const OF_KEY_PER_MINUTE: u32 = 12;

/// Questions of all strangers at one address: as many connections as are taken from it may ask twice.
const OF_ADDRESS_PER_MINUTE: u32 = 32;

/// Keys and addresses whose allowance is remembered, each: above the number of connections.
const REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(4_096).expect("above 0");

/// Answers under way, all together: a slow reader holds its answer in our memory for a minute.
const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;

/// Of an answer, what is left for frames and small fields.
const ANSWER_MARGIN: usize = 64 << 10;

/// Nodes that a stranger is told of: enough to find its way.
const STRANGER_NODES_MAX: usize = 64;

/// Bytes of them.
const STRANGER_NODE_BYTES_MAX: usize = 256 << 10;

/// Nodes that are told over a relay, which ends a circuit after 128 KiB.
pub(super) const FAR_NODES_MAX: usize = 32;

/// An answer over a relay; the rest is for gossip, until there is a direct connection.
const FAR_ANSWER_BYTES_MAX: usize = 96 << 10;

/// Whether a question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// Yes.
    Ask,
    /// Others have used it up: nobody is to blame.
    NotNow,
    /// The peer itself has asked too often.
    TooOften,
}

/// How much a peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) nodes: usize,
    pub(super) node_bytes: usize,
    /// All of the answer.
    pub(super) answer_bytes: usize,
}

impl Share {
    fn of(is_stranger: bool, is_far: bool) -> Self {
        let most = MEET_MESSAGE_BYTES_MAX - ANSWER_MARGIN;
        let (nodes, node_bytes) = if is_stranger {
            (STRANGER_NODES_MAX, STRANGER_NODE_BYTES_MAX)
        } else {
            (MEET_NODES_MAX, most)
        };
        let (far_nodes, answer_bytes) = if is_far {
            (FAR_NODES_MAX, FAR_ANSWER_BYTES_MAX)
        } else {
            (MEET_NODES_MAX, most)
        };
        Self {
            nodes: nodes.min(far_nodes),
            node_bytes,
            answer_bytes,
        }
    }
}

/// What has been answered of late, and what is under way.
#[derive(Debug)]
pub(super) struct Answers {
    keys: LruCache<PublicKey, Meter>,
    addresses: LruCache<IpAddr, Meter>,
    under_way: HashMap<InboundRequestId, usize>,
    bytes: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            keys: remembered(),
            addresses: remembered(),
            under_way: HashMap::new(),
            bytes: 0,
        }
    }
}

impl Answers {
    /// Takes one question off the allowance of `key`, and of the `address` of a stranger.
    fn may_ask(&mut self, key: PublicKey, address: Option<IpAddr>, now: Duration) -> May {
        if !took(&mut self.keys, key, OF_KEY_PER_MINUTE, now) {
            return May::TooOften;
        }
        match address {
            Some(ip) if !took(&mut self.addresses, ip, OF_ADDRESS_PER_MINUTE, now) => May::NotNow,
            _ => May::Ask,
        }
    }

    /// Whether an answer of so many bytes may be sent; it is under way until [`Self::gone`].
    pub(super) fn reserve(&mut self, id: InboundRequestId, bytes: usize) -> bool {
        let fits = fits(self.bytes, bytes);
        if fits {
            self.bytes += bytes;
            self.under_way.insert(id, bytes);
        }
        fits
    }

    /// Sent, or never to be.
    pub(super) fn gone(&mut self, id: InboundRequestId) {
        self.bytes -= self.under_way.remove(&id).unwrap_or(0);
    }
}

fn fits(under_way: usize, bytes: usize) -> bool {
    under_way + bytes <= IN_FLIGHT_BYTES_MAX
}

/// Room for [`REMEMBERED_MAX`] that is taken as it is needed: `LruCache::new` takes all of it at once, 280 KB here.
fn remembered<K: Hash + Eq>() -> LruCache<K, Meter> {
    let mut meters = LruCache::unbounded();
    meters.resize(REMEMBERED_MAX);
    meters
}

fn took<K: Hash + Eq>(
    meters: &mut LruCache<K, Meter>,
    of: K,
    per_minute: u32,
    now: Duration,
) -> bool {
    let rate = Rate::per(Duration::from_mins(1), per_minute);
    meters.get_or_insert_mut(of, Meter::default).take(rate, now)
}

impl Service {
    pub(super) fn may_ask(&mut self, peer: PeerId) -> May {
        let Some(key) = peer::public_key(&peer) else {
            return May::NotNow;
        };
        let links = self.peers.get(&peer).map(|entry| entry.links.values());
        let address =
            links.and_then(|mut links| links.find_map(|link| guard::counted(&link.address)));
        let address = address.filter(|_| self.is_stranger(&key));
        self.answers.may_ask(key, address, self.clock.monotonic())
    }

    /// How much `peer` is told.
    pub(super) fn share_of(&self, peer: PeerId) -> Share {
        let is_stranger = peer::public_key(&peer).is_none_or(|key| self.is_stranger(&key));
        Share::of(is_stranger, self.is_far(peer))
    }

    /// Whether all there is between us and a peer is relayed.
    pub(super) fn is_far(&self, peer: PeerId) -> bool {
        let links = self.peers.get(&peer).map(|entry| &entry.links);
        links.is_some_and(|links| {
            !links.is_empty() && links.values().all(|link| is_relayed(&link.address))
        })
    }

    fn is_stranger(&self, key: &PublicKey) -> bool {
        let now = self.clock.wall();
        let rules = self.rules.as_ref();
        rules.is_none_or(|rules| rules.directory().standing(key, now) == Standing::Stranger)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn key(n: u8) -> PublicKey {
        PublicKey([n; 32])
    }

    #[test]
    fn who_asks_too_often_is_blamed_and_is_so_after_coming_back() {
        let mut answers = Answers::default();
        let now = Duration::from_secs(100);
        for _ in 0..OF_KEY_PER_MINUTE {
            assert_eq!(answers.may_ask(key(1), None, now), May::Ask);
        }
        assert_eq!(answers.may_ask(key(1), None, now), May::TooOften);
        assert_eq!(answers.may_ask(key(2), None, now), May::Ask);
        let later = now + Duration::from_secs(5);
        assert_eq!(answers.may_ask(key(1), None, later), May::Ask);
    }

    #[test]
    fn strangers_with_ever_new_keys_share_what_their_address_gets() {
        let mut answers = Answers::default();
        let now = Duration::from_secs(100);
        let [one, other] = [1, 2].map(|n| Some(Ipv4Addr::new(203, 0, 113, n).into()));
        let asked = (0..100).map(|n| answers.may_ask(key(n), one, now));
        let heard = asked.filter(|may| *may == May::Ask).count();
        assert_eq!(heard, OF_ADDRESS_PER_MINUTE as usize);
        assert_eq!(answers.may_ask(key(200), one, now), May::NotNow);
        assert_eq!(answers.may_ask(key(201), other, now), May::Ask);
        assert_eq!(answers.may_ask(key(202), None, now), May::Ask, "a member");
    }

    #[test]
    fn slow_readers_hold_no_more_than_the_budget() {
        assert!(fits(IN_FLIGHT_BYTES_MAX - 10, 10));
        assert!(!fits(IN_FLIGHT_BYTES_MAX - 10, 11));
    }

    #[test]
    fn a_stranger_is_told_little_and_less_over_a_relay() {
        let share = Share::of(true, false);
        assert_eq!((share.nodes, share.node_bytes), (64, 256 << 10));
        assert_eq!(Share::of(false, false).nodes, MEET_NODES_MAX);
        for is_stranger in [false, true] {
            let far = Share::of(is_stranger, true);
            assert!(far.nodes <= 32 && far.answer_bytes < 128 << 10);
        }
    }
}
