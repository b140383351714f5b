//! Connections: who is dialled in whose name, what came of it, who is cut off. Sources of addresses are outside;
//! they hand in candidates and read the outcome in the view.

use std::{collections::BTreeMap, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify, mdns, ping,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
};

use owm_proto::{PublicKey, wire::gossip::CapabilityBody};

use super::Service;
use crate::{
    assemble,
    bootstrap::{MDNS, diagnose},
    error::{FailedLayer, Unavailable},
    peer,
    transport::is_loopback,
};

/// A connection on which nobody says anything stays for so long. So long that libp2p closes none that the plan
/// wants and would dial again; who has too many lets some go (`tending`).
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_hours(24);

/// With so many peers met, those that the DHT meets on its walks are not asked too: an answer has up to 4 MiB.
const MET_ENOUGH: usize = 4;

/// Addresses of one peer that are believed from identify.
const ADDRESSES_PER_PEER: usize = 8;

/// A connected peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) links: BTreeMap<ConnectionId, Link>,
    pub(super) since: Duration,
    pub(super) met: bool,
    pub(super) round_trip: Option<Duration>,
    /// It asked before we had documents, and was asked back: once a connection.
    pub(super) asked_back: bool,
    /// Its clock and ours are apart, as of the last exchange.
    pub(super) clock_apart: bool,
    /// When it was asked last by `catching`.
    pub(super) caught_up: Option<Duration>,
}

/// One connection with it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: Multiaddr,
    pub(super) dialled: bool,
}

impl Service {
    /// Begins the dials that are due.
    pub(super) fn dial(&mut self, dials: Vec<DialOpts>) {
        for opts in dials {
            let (id, peer) = (opts.connection_id(), opts.get_peer_id());
            if let Err(error) = self.swarm.dial(opts) {
                self.ways.dial_failed(id, peer, &error);
                self.on_dial_failed(&error);
            }
        }
    }

    pub(super) fn on_connected(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        self.dirty = true;
        if peer::public_key(&peer).is_none() {
            self.refuse_version(peer, "its identity is not an Ed25519 key");
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
        let to_last = self.ways.has_dialled(&peer) || self.ways.met_count() < MET_ENOUGH;
        if endpoint.is_dialer() && !met && to_last {
            self.ask(peer);
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

    pub(super) fn on_dial_failed(&mut self, error: &DialError) {
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            return;
        }
        self.counts.dials_failed += 1;
        self.dirty = true;
    }

    /// Notes under the source that brought `peer` what was wrong with it.
    pub(super) fn note_failure(&mut self, peer: PeerId, layer: FailedLayer, reason: String) {
        self.ways.note(
            &peer,
            Unavailable {
                target: peer.to_string(),
                layer,
                reason,
            },
        );
    }

    /// Closes the connection with a peer of another network.
    pub(super) fn refuse_version(&mut self, peer: PeerId, detail: &str) {
        let mut told = diagnose::other_network(peer.to_string());
        told.reason = format!("{detail}: {}", told.reason);
        self.ways.refused(peer, &told);
        // It has gone by itself.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    pub(super) fn block(&mut self, peer: PeerId) {
        self.ways.bar(peer);
        // For good, also if it is cut off for a time already.
        self.config.blocked.insert(peer);
        self.banned.remove(&peer);
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
            self.refuse_version(peer_id, &format!("it says it speaks {theirs:?}"));
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
        let usable: Vec<_> = usable.take(ADDRESSES_PER_PEER).collect();
        let at = self
            .peers
            .get(&peer_id)
            .and_then(|peer| peer.links.values().next())
            .map(|link| &link.address);
        self.ways.heard(peer_id, &usable, peer_id, at);
        for address in usable {
            self.swarm
                .behaviour_mut()
                .dht
                .add_address(&peer_id, address);
        }
    }

    /// Keeps the addresses that a node announces, as its claim.
    pub(super) fn remember(&mut self, node: &PublicKey, body: &CapabilityBody) {
        let Some(peer) = peer::peer_id(node).filter(|_| *node != self.me) else {
            return;
        };
        let addresses = body.addresses.iter().take(ADDRESSES_PER_PEER).cloned();
        let addresses = addresses.filter_map(|bytes| Multiaddr::try_from(bytes).ok());
        let addresses: Vec<_> = addresses.collect();
        self.ways.heard(peer, &addresses, peer, None);
        let public = !addresses.is_empty();
        self.ways.describe(&peer, public, body.relay);
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        if let mdns::Event::Discovered(found) = event {
            let with_peer = |(peer, address): (PeerId, Multiaddr)| address.with_p2p(peer).ok();
            let found = found.into_iter().filter_map(with_peer).collect();
            self.ways.given(MDNS, found);
        }
    }
}
