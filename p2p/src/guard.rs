//! Limits that libp2p's own behaviours don't have: inbound connections from one address. Must stay true:
//! loopback is exempt (all of a devnet shares it); an address behind which many live (IPv6 /64) counts as one.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

/// Inbound handshakes that one address may have under way: an eighth of all (`assemble`).
const PENDING_PER_ADDRESS: usize = 8;

/// Too many connections from one address.
#[derive(Debug, thiserror::Error)]
#[error("{limit} connections from one address are open already")]
pub(crate) struct TooManyFromAddress {
    limit: u32,
}

/// Counts inbound connections by address.
#[derive(Debug)]
pub(crate) struct Guard {
    per_address: u32,
    /// Inbound connections whose handshake is under way.
    pending: HashMap<ConnectionId, IpAddr>,
    inbound: HashMap<ConnectionId, IpAddr>,
    counts: HashMap<IpAddr, u32>,
}

impl Guard {
    /// At most so many from one address.
    pub(crate) fn new(per_address: u32) -> Self {
        Self {
            per_address,
            pending: HashMap::new(),
            inbound: HashMap::new(),
            counts: HashMap::new(),
        }
    }

    fn check(&self, remote: &Multiaddr) -> Result<Option<IpAddr>, ConnectionDenied> {
        let Some(address) = counted(remote) else {
            return Ok(None);
        };
        let open = self.counts.get(&address).copied().unwrap_or(0);
        if open >= self.per_address {
            let limit = self.per_address;
            return Err(ConnectionDenied::new(TooManyFromAddress { limit }));
        }
        Ok(Some(address))
    }

    /// All handshakes together are bounded, so one address must not hold the places of all others.
    fn begin(
        &mut self,
        connection: ConnectionId,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(address) = self.check(remote)? else {
            return Ok(());
        };
        let open = self.pending.values().filter(|of| **of == address).count();
        if open >= PENDING_PER_ADDRESS {
            let limit = PENDING_PER_ADDRESS as u32;
            return Err(ConnectionDenied::new(TooManyFromAddress { limit }));
        }
        self.pending.insert(connection, address);
        Ok(())
    }

    fn forget(&mut self, connection: ConnectionId) {
        self.pending.remove(&connection);
        let Some(address) = self.inbound.remove(&connection) else {
            return;
        };
        if let Some(count) = self.counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&address);
            }
        }
    }
}

/// The address that counts; `None`: exempt (loopback), or none at all (memory, onion, relayed).
pub(crate) fn counted(remote: &Multiaddr) -> Option<IpAddr> {
    if remote.iter().any(|part| part == Protocol::P2pCircuit) {
        return None;
    }
    let ip = match remote.iter().next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => IpAddr::V4(ip),
            None => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        },
        _ => return None,
    };
    let loopback = match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        // The /64 of ::1 holds nothing else.
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    (!loopback).then_some(ip)
}

impl NetworkBehaviour for Guard {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.begin(connection, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&connection);
        if let Some(address) = self.check(remote)? {
            self.inbound.insert(connection, address);
            *self.counts.entry(address).or_default() += 1;
        }
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(closed) => self.forget(closed.connection_id),
            // Another behaviour may refuse what this one has counted.
            FromSwarm::ListenFailure(failure) => self.forget(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock(guard: &mut Guard, id: usize, from: &str) -> bool {
        let (id, from) = (ConnectionId::new_unchecked(id), from.parse().unwrap());
        let here = "/ip4/203.0.113.1/tcp/4001".parse().unwrap();
        let pending = guard.handle_pending_inbound_connection(id, &here, &from);
        pending.is_ok()
    }

    #[test]
    fn one_address_cannot_hold_the_handshakes_of_all() {
        let mut guard = Guard::new(16);
        let (host, other) = ("/ip4/198.51.100.7/tcp/9", "/ip4/198.51.100.8/tcp/9");
        assert!((0..8).all(|id| knock(&mut guard, id, host)));
        assert!(!knock(&mut guard, 8, host));
        assert!(knock(&mut guard, 9, other));
        assert!((20..60).all(|id| knock(&mut guard, id, "/ip4/127.0.0.1/tcp/9")));
        // One has failed, one stands: both places are free again.
        guard.forget(ConnectionId::new_unchecked(0));
        let (here, from) = (other.parse().unwrap(), host.parse().unwrap());
        let id = ConnectionId::new_unchecked(1);
        let peer = PeerId::random();
        let stands = guard.handle_established_inbound_connection(id, peer, &here, &from);
        assert!(stands.is_ok());
        assert!((10..12).all(|id| knock(&mut guard, id, host)));
        assert!(!knock(&mut guard, 12, host));
        assert_eq!((guard.pending.len(), guard.inbound.len()), (9, 1));
    }
}
