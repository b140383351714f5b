//! Whether others can reach us, and what follows: a peer that can be reached serves the DHT and carries relayed
//! connections; one that can't asks two others to carry its own. Must stay true: an unreachable peer is a
//! client of the DHT only, so nobody waits for it there.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, autonat::v2 as autonat, core::transport::ListenerId, identify, kad,
    multiaddr::Protocol, relay,
};

use super::Service;
use crate::{NetworkPolicy, peer::group::is_global_address, view::Reachability};

/// So many failed tests without a successful one, and we are taken for unreachable. One must do: identify
/// tells one address for each transport, whoever observed it, and AutoNAT tests each only once. Who is taken
/// for unreachable by mistake only reserves places on relays.
const FAILED_TESTS: u32 = 1;

/// Whom nobody has reached so long after strangers were asked is unreachable too: a test whose packets are
/// dropped outlasts libp2p's 10 s for an answer and is repeated for ever without a verdict.
const UNREACHED_MAX: Duration = Duration::from_secs(30);

/// Relays that carry our connections.
const RELAYS_WANTED: usize = 2;

/// Relays that are remembered.
const RELAYS_MAX: usize = 64;

/// Asks for a reservation again so often while relays are missing.
const RESERVE_EVERY: Duration = Duration::from_secs(10);

/// What is known of our reachability.
#[derive(Debug, Default)]
pub(super) struct Reach {
    failed: u32,
    private: bool,
    /// Since when strangers could have reached us.
    asked_since: Option<Duration>,
    relays: BTreeMap<PeerId, Multiaddr>,
    circuits: HashMap<ListenerId, PeerId>,
    next: Duration,
    /// For whom we carry: who has a reservation stands here with itself, a circuit with both its ends.
    carried: BTreeSet<(PeerId, PeerId)>,
}

impl Reach {
    /// Peers whose connections hold somebody's way to somebody: our relays, and those for whom we are one.
    pub(super) fn needed(&self) -> BTreeSet<PeerId> {
        let carried = self.carried.iter().flat_map(|(from, to)| [*from, *to]);
        self.circuits.values().copied().chain(carried).collect()
    }
}

pub(super) use crate::transport::is_relayed;

impl Service {
    pub(super) fn reachability(&self) -> Reachability {
        // A router's private side confirms addresses that nobody outside can use.
        let public = |address: &&Multiaddr| {
            !is_relayed(address)
                && (self.config.policy != NetworkPolicy::Clearnet
                    || is_global_address(address)
                    || self.config.external.contains(address))
        };
        if self.swarm.external_addresses().any(|a| public(&a)) {
            Reachability::Public
        } else if self.reach.private || !self.reach.circuits.is_empty() {
            Reachability::Private
        } else {
            Reachability::Unknown
        }
    }

    /// AutoNAT has tested an address of ours; a good one is announced by the swarm itself.
    pub(super) fn on_tested(&mut self, event: &autonat::client::Event) {
        match &event.result {
            Ok(()) => self.reach.failed = 0,
            Err(error) => {
                tracing::debug!("not reached at {}: {error}", event.tested_addr);
                self.reach.failed = self.reach.failed.saturating_add(1);
            }
        }
        self.reach.private = self.reach.failed >= FAILED_TESTS;
        self.follow_reachability();
    }

    /// Lets the DHT and the relay follow.
    pub(super) fn follow_reachability(&mut self) {
        self.dirty = true;
        self.name_ourselves();
        let public = self.reachability() == Reachability::Public;
        let behaviour = self.swarm.behaviour_mut();
        behaviour.others.dht.set_mode(Some(if public {
            kad::Mode::Server
        } else {
            kad::Mode::Client
        }));
        let relay = behaviour
            .others
            .open
            .as_mut()
            .and_then(|o| o.relay.as_mut());
        if let Some(relay) = relay {
            relay.set_status(Some(if public {
                relay::Status::Enable
            } else {
                relay::Status::Disable
            }));
        }
        if public {
            for (listener, _) in std::mem::take(&mut self.reach.circuits) {
                self.swarm.remove_listener(listener);
            }
        }
    }

    /// Keeps who is carried.
    pub(super) fn on_relay(&mut self, event: &relay::Event) {
        self.dirty = true;
        let carried = &mut self.reach.carried;
        match *event {
            relay::Event::ReservationReqAccepted { src_peer_id, .. } => {
                carried.insert((src_peer_id, src_peer_id));
            }
            relay::Event::ReservationClosed { src_peer_id }
            | relay::Event::ReservationTimedOut { src_peer_id } => {
                carried.remove(&(src_peer_id, src_peer_id));
            }
            relay::Event::CircuitReqAccepted {
                src_peer_id,
                dst_peer_id,
            } => {
                carried.insert((src_peer_id, dst_peer_id));
            }
            relay::Event::CircuitClosed {
                src_peer_id,
                dst_peer_id,
                ..
            } => {
                carried.remove(&(src_peer_id, dst_peer_id));
            }
            _ => {}
        }
    }

    /// Who has left carries nothing; it is noted again when it comes back.
    pub(super) fn forget_relay(&mut self, peer: &PeerId) {
        self.reach.relays.remove(peer);
    }

    /// Remembers who could carry our connections.
    pub(super) fn note_relay(&mut self, peer: PeerId, info: &identify::Info) {
        if !info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.reach.relays.remove(&peer);
            return;
        }
        let links = self.peers.get(&peer).into_iter().flat_map(|p| &p.links);
        // The address at which we have reached it is proven; what it says of itself is not.
        let dialled = links
            .filter(|(_, link)| link.dialled && !is_relayed(&link.address))
            .map(|(_, link)| link.address.clone());
        let told = info
            .listen_addrs
            .iter()
            .filter(|a| !is_relayed(a) && self.may_tell(&peer, a));
        let address = dialled.chain(told.cloned()).next();
        if self.reach.relays.len() >= RELAYS_MAX && !self.reach.relays.contains_key(&peer) {
            let gone = |relay: &&PeerId| !self.peers.contains_key(relay);
            let Some(gone) = self.reach.relays.keys().find(gone).copied() else {
                return;
            };
            self.reach.relays.remove(&gone);
        }
        if let Some(address) = address {
            let direct = address.iter().filter(|p| !matches!(p, Protocol::P2p(_)));
            self.reach.relays.insert(peer, direct.collect());
        }
    }

    /// Gives up waiting for a verdict of AutoNAT.
    fn judge_silence(&mut self, now: Duration) {
        let outside = |link: &super::connecting::Link| {
            let address = &link.address;
            link.dialled && !is_relayed(address) && !crate::transport::is_loopback(address)
        };
        let asked = self.peers.values().any(|p| p.links.values().any(outside));
        if !asked || self.reachability() != Reachability::Unknown {
            self.reach.asked_since = None;
            return;
        }
        let since = *self.reach.asked_since.get_or_insert(now);
        if now.saturating_sub(since) >= UNREACHED_MAX {
            self.reach.private = true;
            self.follow_reachability();
        }
    }

    /// Asks relays to carry our connections, if nobody can reach us.
    pub(super) fn reserve(&mut self) {
        let now = self.clock.monotonic();
        self.judge_silence(now);
        let wanted = self.config.policy != NetworkPolicy::OnionOnly
            && (self.reach.private || self.config.listen.is_empty())
            && self.reachability() != Reachability::Public;
        if !wanted || now < self.reach.next || self.reach.circuits.len() >= RELAYS_WANTED {
            return;
        }
        self.reach.next = now + RESERVE_EVERY;
        let used: Vec<PeerId> = self.reach.circuits.values().copied().collect();
        let connected = |peer: &PeerId| self.peers.contains_key(peer) && !used.contains(peer);
        let free: Vec<_> = self
            .reach
            .relays
            .iter()
            .filter(|(p, _)| connected(p))
            .collect();
        if free.is_empty() {
            return;
        }
        let free: Vec<_> = free.into_iter().map(|(p, a)| (*p, a.clone())).collect();
        let (relay, address) = free[self.choose(free.len())].clone();
        let through = address
            .with(Protocol::P2p(relay))
            .with(Protocol::P2pCircuit);
        match self.swarm.listen_on(through) {
            Ok(listener) => {
                self.reach.circuits.insert(listener, relay);
            }
            Err(error) => tracing::debug!(%relay, "no reservation: {error}"),
        }
    }

    /// A reservation has ended or was refused; `false`: it was another listener.
    pub(super) fn on_circuit_closed(&mut self, listener: ListenerId) -> bool {
        self.dirty = true;
        match self.reach.circuits.remove(&listener) {
            Some(relay) => {
                // Others first; it is noted again when it identifies itself.
                self.reach.relays.remove(&relay);
                true
            }
            None => false,
        }
    }
}
