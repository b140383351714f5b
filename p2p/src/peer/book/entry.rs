//! One remembered peer: its addresses, who told of it, what dialling it has shown.

use libp2p::{Multiaddr, PeerId};
use owm_proto::UnixMillis;
use serde::{Deserialize, Serialize};

use super::{
    ADDRESSES_PER_PEER, AGE_MAX_MS, ANNOUNCER_GROUP_MAX, ANNOUNCER_MAX, FAILURES_OF_CLAIM_MAX,
    FAILURES_OF_TRIED_MAX, SOURCE_MAX,
};
use crate::{
    NetworkPolicy,
    peer::group::{Group, may_tell},
};

/// Who told of a peer first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Origin {
    /// A way in: `static`, `dns`, `coordinator`, …
    Source(String),
    /// Another peer, by gossip, identify or the DHT.
    Peer {
        /// Which.
        peer: PeerId,
        /// Where it is itself: many identities of one network count as one announcer.
        group: Group,
    },
}

/// A share of the book: how many claims it may hold, and whose count.
type Share<'a> = (usize, Box<dyn Fn(&Origin) -> bool + 'a>);

/// What is remembered of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Where it may be.
    pub addresses: Vec<KnownAddress>,
    /// Who said so first.
    pub origin: Origin,
    /// It has answered us and belongs to our network: more than a claim.
    pub tried: bool,
    /// It can be reached from outside, as far as is known.
    pub public: bool,
    /// It carries connections for peers behind NAT.
    pub relay: bool,
    /// When it was first heard of.
    pub added_at_ms: UnixMillis,
    /// When it answered last.
    pub last_success_ms: Option<UnixMillis>,
    /// When it last did not.
    pub last_failure_ms: Option<UnixMillis>,
}

/// An address of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownAddress {
    /// Without `/p2p`.
    pub address: Multiaddr,
    /// When the peer answered there last; absent: a claim.
    pub last_success_ms: Option<UnixMillis>,
    /// Dials without success since then.
    pub failures: u32,
}

impl Origin {
    /// Of a way in.
    pub fn source(name: &str) -> Self {
        Self::Source(name.to_owned())
    }

    /// Whether it may tell of `address`: a source of ours may tell of all that the policy allows.
    pub(super) fn may_tell(&self, policy: NetworkPolicy, address: &Multiaddr) -> bool {
        match self {
            Self::Source(_) => true,
            Self::Peer { group, .. } => may_tell(policy, *group, address),
        }
    }

    /// The shares that a claim of this origin counts in.
    pub(super) fn shares(&self) -> Vec<Share<'_>> {
        match self {
            Self::Source(_) => vec![(SOURCE_MAX, Box::new(move |other| other == self))],
            Self::Peer { peer, group } => {
                let by_peer = move |o: &Self| matches!(o, Self::Peer { peer: p, .. } if p == peer);
                let by_group =
                    move |o: &Self| matches!(o, Self::Peer { group: g, .. } if g == group);
                let mut shares: Vec<Share<'_>> = vec![(ANNOUNCER_MAX, Box::new(by_peer))];
                if group.is_counted() {
                    shares.push((ANNOUNCER_GROUP_MAX, Box::new(by_group)));
                }
                shares
            }
        }
    }

    /// What is drawn from with equal chance: each source by itself, all peers' claims together.
    pub(super) fn class(&self) -> &str {
        match self {
            Self::Source(name) => name,
            Self::Peer { .. } => "",
        }
    }
}

impl Known {
    /// Somebody says it is there.
    pub(super) fn claimed(addresses: Vec<Multiaddr>, origin: Origin, now: UnixMillis) -> Self {
        let claim = |address| KnownAddress {
            address,
            last_success_ms: None,
            failures: 0,
        };
        Self {
            addresses: addresses.into_iter().map(claim).collect(),
            origin,
            tried: false,
            public: false,
            relay: false,
            added_at_ms: now,
            last_success_ms: None,
            last_failure_ms: None,
        }
    }

    /// Dials without success at its best address.
    pub fn failures(&self) -> u32 {
        let failures = self.addresses.iter().map(|a| a.failures);
        failures.min().unwrap_or(0)
    }

    pub(super) fn is_in(&self, group: Group) -> bool {
        self.addresses
            .iter()
            .any(|a| Group::of(&a.address) == group)
    }

    /// Adds a claimed address if there is room, or one that has failed and never worked.
    pub(super) fn claim(&mut self, address: Multiaddr) -> bool {
        if self.addresses.iter().any(|a| a.address == address) {
            return false;
        }
        if self.addresses.len() >= ADDRESSES_PER_PEER {
            let useless = |a: &KnownAddress| a.last_success_ms.is_none() && a.failures > 0;
            let Some(at) = self.addresses.iter().position(useless) else {
                return false;
            };
            self.addresses.remove(at);
        }
        self.addresses.push(KnownAddress {
            address,
            last_success_ms: None,
            failures: 0,
        });
        true
    }

    pub(super) fn succeeded(&mut self, address: Multiaddr, now: UnixMillis) {
        self.addresses.retain(|a| a.address != address);
        self.addresses.insert(
            0,
            KnownAddress {
                address,
                last_success_ms: Some(now),
                failures: 0,
            },
        );
        self.addresses.truncate(ADDRESSES_PER_PEER);
        self.tried = true;
        self.last_success_ms = Some(now);
    }

    /// `wrong`: somebody else answered there, so a mere claim goes at once.
    pub(super) fn failed(&mut self, address: &Multiaddr, wrong: bool, now: UnixMillis) {
        self.last_failure_ms = Some(now);
        let refuted =
            |a: &KnownAddress| wrong && a.address == *address && a.last_success_ms.is_none();
        self.addresses.retain(|a| !refuted(a));
        for known in self.addresses.iter_mut().filter(|a| a.address == *address) {
            known.failures = known.failures.saturating_add(1);
        }
    }

    pub(super) fn is_hopeless(&self, now: UnixMillis) -> bool {
        let seen = self.last_success_ms.unwrap_or(self.added_at_ms);
        let failures_max = match self.last_success_ms {
            Some(_) => FAILURES_OF_TRIED_MAX,
            None => FAILURES_OF_CLAIM_MAX,
        };
        self.addresses.is_empty()
            || self.failures() >= failures_max
            || !self.tried && now.0.saturating_sub(seen.0) > AGE_MAX_MS
    }
}
