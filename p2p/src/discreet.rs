//! Identify that tells each peer only those of our addresses that it may be told: on the clear net strangers get
//! global ones, peers in a private network also ours in the same network ([`may_tell`], the same rule by which we
//! believe others). One plain identify runs for each of these audiences; all that differs is which addresses
//! it knows of.
//!
//! libp2p's own has one list for everybody: it told the world the addresses of the operator's home, and who got
//! them kept them in the DHT. Must stay true: every connection belongs to one audience from its first moment to
//! its last; what is not told is still used to find out what our router calls us.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint,
        transport::{ListenerId, PortUse},
    },
    identify,
    swarm::{
        ConnectionDenied, ConnectionId, ExternalAddresses, FromSwarm, NetworkBehaviour,
        NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ExpiredListenAddr, ExternalAddrConfirmed, ExternalAddrExpired, NewListenAddr},
    },
};

use crate::{
    NetworkPolicy,
    peer::group::{Group, may_tell},
    transport::is_relayed,
};

type Event = ToSwarm<identify::Event, THandlerInEvent<identify::Behaviour>>;

/// Who is told the same: everybody in one private network, and all strangers ([`Group::Other`]).
type Audience = Group;

/// Identify, with one list of addresses for each audience.
pub(crate) struct Discreet {
    policy: NetworkPolicy,
    config: identify::Config,
    audiences: BTreeMap<Audience, identify::Behaviour>,
    connections: HashMap<ConnectionId, (PeerId, Audience)>,
    listening: HashMap<Multiaddr, ListenerId>,
    external: ExternalAddresses,
    candidates: VecDeque<Multiaddr>,
}

impl Discreet {
    /// As `config` says, but for listening addresses: those are told by audience.
    pub(crate) fn new(config: identify::Config, policy: NetworkPolicy) -> Self {
        Self {
            policy,
            // All of them are known to it, for finding out what a router calls us; those that may be told are
            // external to it.
            config: config.with_hide_listen_addrs(true),
            audiences: BTreeMap::new(),
            connections: HashMap::new(),
            listening: HashMap::new(),
            external: ExternalAddresses::default(),
            candidates: VecDeque::new(),
        }
    }

    /// To which audience whoever is at `remote` belongs. Where a relay is says nothing of who comes through it.
    fn audience(&self, remote: &Multiaddr) -> Audience {
        let group = Group::of(remote);
        let alone = |group: &Group| {
            // Nobody but strangers is in a network of which nothing private may be told.
            !is_relayed(remote) && (group.is_private() || self.policy != NetworkPolicy::Clearnet)
        };
        Some(group).filter(alone).unwrap_or(Group::Other)
    }

    /// The identify of `audience`, which knows all that it may.
    fn of(&mut self, audience: Audience) -> &mut identify::Behaviour {
        let (policy, listening, external) = (self.policy, &self.listening, &self.external);
        let config = &self.config;
        self.audiences.entry(audience).or_insert_with(|| {
            let mut identify = identify::Behaviour::new(config.clone());
            let told = |address: &&Multiaddr| may_tell(policy, audience, address);
            for addr in external.iter().chain(listening.keys()).filter(told) {
                let event = FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr });
                identify.on_swarm_event(event);
            }
            for (addr, listener_id) in listening {
                let listener_id = *listener_id;
                let event = FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr });
                identify.on_swarm_event(event);
            }
            identify
        })
    }

    fn begin(&mut self, connection: ConnectionId, peer: PeerId, remote: &Multiaddr) -> Audience {
        let audience = self.audience(remote);
        self.connections.insert(connection, (peer, audience));
        audience
    }

    fn end(&mut self, connection: ConnectionId) {
        let Some((_, audience)) = self.connections.remove(&connection) else {
            return;
        };
        if !self.connections.values().any(|(_, of)| *of == audience) {
            self.audiences.remove(&audience);
        }
    }

    /// An address came or went: those audiences hear of it that may.
    fn changed(&mut self, addr: &Multiaddr, event: &FromSwarm<'_>) {
        let told = self.listening.contains_key(addr) || self.external.iter().any(|a| a == addr);
        for (audience, identify) in &mut self.audiences {
            if may_tell(self.policy, *audience, addr) {
                identify.on_swarm_event(if told {
                    FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr })
                } else {
                    FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr })
                });
            }
            // After that, for it makes identify push the list.
            if matches!(
                event,
                FromSwarm::NewListenAddr(_) | FromSwarm::ExpiredListenAddr(_)
            ) {
                identify.on_swarm_event(*event);
            }
        }
    }

    /// Identify suggests no address to be tested that it takes for external already: here, those we listen on.
    fn suggest(&mut self, event: &identify::Event) {
        let identify::Event::Received { info, .. } = event else {
            return;
        };
        let observed = &info.observed_addr;
        if self.listening.contains_key(observed)
            && !self.external.iter().any(|addr| addr == observed)
        {
            self.candidates.push_back(observed.clone());
        }
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        if let Some(candidate) = self.candidates.pop_front() {
            return Some(ToSwarm::NewExternalAddrCandidate(candidate));
        }
        for (audience, identify) in &mut self.audiences {
            while let Poll::Ready(event) = identify.poll(cx) {
                let ToSwarm::NotifyHandler {
                    peer_id,
                    handler: NotifyHandler::Any,
                    event,
                } = event
                else {
                    return Some(event);
                };
                // Any of this audience's: another one would be told too much.
                let mut all = self.connections.iter();
                let one = all.find(|(_, of)| **of == (peer_id, *audience));
                if let Some((connection, _)) = one {
                    return Some(ToSwarm::NotifyHandler {
                        peer_id,
                        handler: NotifyHandler::One(*connection),
                        event,
                    });
                }
            }
        }
        None
    }
}

impl NetworkBehaviour for Discreet {
    type ConnectionHandler = THandler<identify::Behaviour>;
    type ToSwarm = identify::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let audience = self.begin(connection, peer, remote);
        let identify = self.of(audience);
        identify.handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let audience = self.begin(connection, peer, remote);
        let identify = self.of(audience);
        identify.handle_established_outbound_connection(connection, peer, remote, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.external.on_swarm_event(&event);
        match &event {
            FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }) => {
                self.listening.insert((*addr).clone(), *listener_id);
                self.changed(addr, &event);
            }
            FromSwarm::ExpiredListenAddr(ExpiredListenAddr { addr, .. }) => {
                self.listening.remove(*addr);
                self.changed(addr, &event);
            }
            FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr })
            | FromSwarm::ExternalAddrExpired(ExternalAddrExpired { addr }) => {
                self.changed(addr, &event);
            }
            FromSwarm::ConnectionEstablished(new) => {
                if let Some((_, audience)) = self.connections.get(&new.connection_id).copied() {
                    self.of(audience).on_swarm_event(event);
                }
            }
            FromSwarm::ConnectionClosed(old) => {
                let id = old.connection_id;
                if let Some((peer, audience)) = self.connections.get(&id).copied() {
                    let mut old = *old;
                    // Of this audience: it knows of no others.
                    let same = self
                        .connections
                        .values()
                        .filter(|of| **of == (peer, audience));
                    old.remaining_established = same.count() - 1;
                    let identify = self.of(audience);
                    identify.on_swarm_event(FromSwarm::ConnectionClosed(old));
                }
                self.end(id);
            }
            // Another behaviour may refuse what this one has begun.
            FromSwarm::ListenFailure(failure) => self.end(failure.connection_id),
            FromSwarm::DialFailure(failure) => self.end(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if let Some((_, audience)) = self.connections.get(&connection).copied() {
            let identify = self.of(audience);
            identify.on_connection_handler_event(peer, connection, event);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let next = self.next(cx);
        if let Some(ToSwarm::GenerateEvent(event)) = &next {
            self.suggest(event);
        }
        next.map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests;
