//! Connections: who is dialled in whose name, what came of it, who is cut off. Sources of addresses are outside;
//! they hand in candidates and read the outcome in the view.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify, mdns,
    multiaddr::Protocol,
    noise, ping,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::Service;
use crate::{
    assemble,
    error::{FailedLayer, Unavailable},
    peer,
    transport::is_loopback,
};

/// A connection that nothing needs stays for so long; gossip needs those of its mesh. Long, so that the
/// peers we want are not dialled again and again; who has too many trims them.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_mins(10);

/// Candidates that are remembered while they can't be reached.
const CANDIDATES_MAX: usize = 1_024;

/// Failures that a source remembers for people.
const FAILURES_MAX: usize = 8;

/// First and longest wait before a candidate is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Dials begun in one round of upkeep.
pub(super) const DIALS_PER_ROUND: usize = 8;

/// Addresses of one peer that are believed from identify.
const ADDRESSES_PER_PEER: usize = 8;

/// A connected peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) links: BTreeMap<ConnectionId, Link>,
    pub(super) since: Duration,
    pub(super) met: bool,
    pub(super) round_trip: Option<Duration>,
    pub(super) answers: u32,
    pub(super) answers_since: Duration,
    pub(super) source: Option<&'static str>,
}

/// One connection with it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: Multiaddr,
    pub(super) dialled: bool,
}

/// An address to try.
#[derive(Debug)]
struct Candidate {
    source: &'static str,
    addresses: BTreeSet<Multiaddr>,
    next: Duration,
    wait: Duration,
}

/// What a source has brought.
#[derive(Debug, Default)]
pub(super) struct Brought {
    pub(super) given: BTreeSet<Multiaddr>,
    pub(super) reached: BTreeSet<PeerId>,
    pub(super) failures: VecDeque<Unavailable>,
}

/// Ways in.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) brought: BTreeMap<&'static str, Brought>,
    candidates: BTreeMap<PeerId, Candidate>,
    dials: HashMap<ConnectionId, (&'static str, PeerId)>,
}

impl Sources {
    fn failed(&mut self, source: &'static str, failure: Unavailable) {
        let failures = &mut self.brought.entry(source).or_default().failures;
        failures.retain(|known| known.target != failure.target || known.layer != failure.layer);
        failures.push_back(failure);
        if failures.len() > FAILURES_MAX {
            failures.pop_front();
        }
    }
}

/// The peer that an address names at its end.
fn named(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

impl Service {
    pub(super) fn candidates(&mut self, source: &'static str, addresses: Vec<Multiaddr>) {
        let now = self.clock.monotonic();
        for address in addresses {
            let target = address.to_string();
            let fail = |layer, reason: &str| Unavailable {
                target: target.clone(),
                layer,
                reason: reason.to_owned(),
            };
            let Some(peer) = named(&address) else {
                let why = "the address does not end with /p2p/<peer>";
                self.sources.failed(source, fail(FailedLayer::Name, why));
                continue;
            };
            if !self.config.policy.allows(&address) {
                let why = "the network policy forbids this kind of address";
                self.sources.failed(source, fail(FailedLayer::Policy, why));
                continue;
            }
            if peer == *self.swarm.local_peer_id() {
                continue;
            }
            let sources = &mut self.sources;
            let full = sources.candidates.len() >= CANDIDATES_MAX;
            if full && !sources.candidates.contains_key(&peer) {
                continue;
            }
            let brought = sources.brought.entry(source).or_default();
            if brought.given.len() < CANDIDATES_MAX {
                brought.given.insert(address.clone());
            }
            let candidate = sources.candidates.entry(peer).or_insert_with(|| Candidate {
                source,
                addresses: BTreeSet::new(),
                next: now,
                wait: RETRY.0,
            });
            if candidate.addresses.len() < ADDRESSES_PER_PEER {
                candidate.addresses.insert(address);
            }
            candidate.next = candidate.next.min(now);
            if self.peers.contains_key(&peer) {
                self.reached(source, peer);
            }
        }
        self.dial_more();
    }

    /// Dials candidates that are due, while more peers are wanted.
    pub(super) fn dial_more(&mut self) {
        let now = self.clock.monotonic();
        let missing = self.config.peers_wanted.saturating_sub(self.peers.len());
        let peers = &self.peers;
        let due = self.sources.candidates.iter_mut();
        let due =
            due.filter(|(peer, candidate)| candidate.next <= now && !peers.contains_key(peer));
        let mut dials = Vec::new();
        for (peer, candidate) in due.take(missing.min(DIALS_PER_ROUND)) {
            candidate.next = now + candidate.wait;
            candidate.wait = (candidate.wait * 2).min(RETRY.1);
            dials.push((*peer, candidate.source, candidate.addresses.clone()));
        }
        for (peer, source, addresses) in dials {
            self.dial(source, peer, addresses.into_iter().collect());
        }
    }

    pub(super) fn dial(&mut self, source: &'static str, peer: PeerId, addresses: Vec<Multiaddr>) {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        let connection = opts.connection_id();
        self.sources.dials.insert(connection, (source, peer));
        if let Err(error) = self.swarm.dial(opts) {
            self.on_dial_failed(Some(peer), connection, &error);
        }
    }

    pub(super) fn on_connected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        self.dirty = true;
        let dialled = self.sources.dials.remove(&connection);
        if peer::public_key(&peer).is_none() {
            self.refuse_version(peer, "its identity is not an Ed25519 key".to_owned());
            return;
        }
        let entry = self.peers.entry(peer).or_default();
        if entry.links.is_empty() {
            entry.since = self.clock.monotonic();
        }
        let link = Link {
            address: endpoint.get_remote_address().clone(),
            dialled: endpoint.is_dialer(),
        };
        entry.links.insert(connection, link);
        let met = entry.met;
        if let Some((source, _)) = dialled {
            entry.source = Some(source);
            self.reached(source, peer);
        }
        if endpoint.is_dialer() && !met {
            self.ask(peer);
        }
    }

    fn reached(&mut self, source: &'static str, peer: PeerId) {
        let brought = self.sources.brought.entry(source).or_default();
        if brought.reached.len() < CANDIDATES_MAX {
            brought.reached.insert(peer);
        }
        if let Some(candidate) = self.sources.candidates.get_mut(&peer) {
            candidate.wait = RETRY.0;
        }
    }

    pub(super) fn on_disconnected(&mut self, peer: PeerId, connection: ConnectionId, left: u32) {
        self.dirty = true;
        if let Some(entry) = self.peers.get_mut(&peer) {
            entry.links.remove(&connection);
        }
        if left == 0 {
            self.peers.remove(&peer);
        }
    }

    pub(super) fn on_dial_failed(
        &mut self,
        peer: Option<PeerId>,
        connection: ConnectionId,
        error: &DialError,
    ) {
        let dialled = self.sources.dials.remove(&connection);
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        self.counts.dials_failed += 1;
        self.dirty = true;
        let Some((source, wanted)) = dialled else {
            return;
        };
        let target = peer.unwrap_or(wanted).to_string();
        self.sources.failed(
            source,
            Unavailable {
                target,
                layer: layer_of(error),
                reason: told(error),
            },
        );
    }

    /// Notes under the source that brought `peer` what was wrong with it.
    pub(super) fn note_failure(&mut self, peer: PeerId, layer: FailedLayer, reason: String) {
        let source = self.peers.get(&peer).and_then(|peer| peer.source);
        if layer == FailedLayer::Clock {
            self.warn(format!("{peer}: {reason}"));
        }
        let failure = Unavailable {
            target: peer.to_string(),
            layer,
            reason,
        };
        self.sources.failed(source.unwrap_or("inbound"), failure);
    }

    /// Closes the connection with a peer of another network.
    pub(super) fn refuse_version(&mut self, peer: PeerId, reason: String) {
        self.note_failure(peer, FailedLayer::Version, reason);
        // It has gone by itself.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    pub(super) fn block(&mut self, peer: PeerId) {
        self.sources.candidates.remove(&peer);
        self.swarm.behaviour_mut().blocked.block_peer(peer);
        self.swarm.behaviour_mut().dht.remove_peer(&peer);
    }

    pub(super) fn on_listening(&mut self, address: &Multiaddr) {
        self.dirty = true;
        // Nobody but this machine's peers is asked, so no AutoNAT is needed to know.
        if self.config.policy == crate::NetworkPolicy::LoopbackOnly && is_loopback(address) {
            self.swarm.add_external_address(address.clone());
            self.follow_reachability();
        }
    }

    pub(super) fn on_ping(&mut self, event: &ping::Event) {
        if let (Ok(round_trip), Some(peer)) = (&event.result, self.peers.get_mut(&event.peer)) {
            peer.round_trip = Some(*round_trip);
        }
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id, info, .. } = event else {
            return;
        };
        if info.protocol_version != assemble::protocol_version(&self.network) {
            let theirs: String = info.protocol_version.chars().take(100).collect();
            let reason = format!("it belongs to another network or version ({theirs:?})");
            self.refuse_version(peer_id, reason);
            return;
        }
        self.note_relay(peer_id, &info);
        let names = self.swarm.behaviour().dht.protocol_names();
        let serves_dht = info.protocols.iter().any(|name| names.contains(name));
        if !serves_dht {
            return;
        }
        let near = self.peers.get(&peer_id);
        let near =
            near.is_some_and(|peer| peer.links.values().any(|link| is_loopback(&link.address)));
        let policy = self.config.policy;
        let usable = info.listen_addrs.into_iter();
        let usable =
            usable.filter(|address| policy.allows(address) && (near || !is_loopback(address)));
        for address in usable.take(ADDRESSES_PER_PEER) {
            self.swarm
                .behaviour_mut()
                .dht
                .add_address(&peer_id, address);
        }
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        if let mdns::Event::Discovered(found) = event {
            let with_peer = |(peer, address): (PeerId, Multiaddr)| address.with_p2p(peer).ok();
            self.candidates("mdns", found.into_iter().filter_map(with_peer).collect());
        }
    }
}

/// Where a dial stopped.
fn layer_of(error: &DialError) -> FailedLayer {
    match error {
        DialError::WrongPeerId { .. } | DialError::LocalPeerId { .. } => FailedLayer::Handshake,
        DialError::Denied { .. } => FailedLayer::Policy,
        DialError::Transport(failures) => {
            let layers = failures.iter().map(|(_, error)| layer_of_source(error));
            layers.last().unwrap_or(FailedLayer::Transport)
        }
        _ => FailedLayer::Transport,
    }
}

fn layer_of_source(error: &(dyn std::error::Error + 'static)) -> FailedLayer {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<noise::Error>() {
            return FailedLayer::Handshake;
        }
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
            return FailedLayer::Timeout;
        }
        next = error.source();
    }
    FailedLayer::Transport
}

/// The innermost words of an error, bounded.
fn told(error: &DialError) -> String {
    let DialError::Transport(failures) = error else {
        return error.to_string();
    };
    let words = failures.iter().map(|(address, error)| {
        let mut innermost: &dyn std::error::Error = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        format!("{address}: {innermost}")
    });
    words.take(3).collect::<Vec<_>>().join("; ")
}
