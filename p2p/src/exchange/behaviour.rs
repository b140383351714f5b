//! Raw streams for bulk, over direct connections only: a relayed one carries 128 KiB and two minutes, and its relay
//! has not asked for our files. A connection through a relay is kept from libp2p's stream behaviour, so that it is
//! neither chosen for a stream of ours nor accepts one; who is reachable by a relay only is waited for until hole
//! punching has made a direct connection.

use std::{
    fmt,
    task::{Context, Poll},
    time::Duration,
};

use either::Either;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use libp2p_stream as stream;
use owm_proto::genesis::NetworkId;

/// Time to dial a peer and agree on the protocol.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// The protocol's name: another network speaks another protocol.
pub fn protocol(network: &NetworkId) -> StreamProtocol {
    StreamProtocol::try_from_owned(format!("/owm/{network}/exchange/1")).expect("it begins with /")
}

/// Streams over direct connections.
pub struct Behaviour {
    inner: stream::Behaviour,
    protocol: StreamProtocol,
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Behaviour({})", self.protocol)
    }
}

impl Behaviour {
    /// For one network.
    pub fn new(network: &NetworkId) -> Self {
        Self {
            inner: stream::Behaviour::new(),
            protocol: protocol(network),
        }
    }

    /// What opens and accepts streams.
    pub fn streams(&self) -> Streams {
        Streams {
            control: self.inner.new_control(),
            protocol: self.protocol.clone(),
        }
    }
}

/// Opens and accepts streams of the exchange. Useless once its swarm has ended.
#[derive(Clone)]
pub struct Streams {
    control: stream::Control,
    protocol: StreamProtocol,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Streams({})", self.protocol)
    }
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not reached within [`OPEN_TIMEOUT`], or only through a relay.
    #[error(
        "no direct connection within {} s; it is offline, or reachable through a relay only",
        OPEN_TIMEOUT.as_secs()
    )]
    Unreachable,
    /// It serves no files, or runs an older program.
    #[error("it serves no files")]
    Unsupported,
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[source] std::io::Error),
}

impl Streams {
    /// A new stream to `peer`, which is dialled if it has to be.
    pub(crate) async fn open(&self, peer: PeerId) -> Result<Stream, OpenError> {
        let mut control = self.control.clone();
        let opened = control.open_stream(peer, self.protocol.clone());
        match tokio::time::timeout(OPEN_TIMEOUT, opened).await {
            Err(tokio::time::error::Elapsed { .. }) => Err(OpenError::Unreachable),
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(stream::OpenStreamError::UnsupportedProtocol(_))) => Err(OpenError::Unsupported),
            Ok(Err(stream::OpenStreamError::Io(error))) => Err(OpenError::Io(error)),
            Ok(Err(other)) => Err(OpenError::Io(std::io::Error::other(other))),
        }
    }

    /// What others open; `None` if somebody accepts them already.
    pub(crate) fn accept(&self) -> Option<stream::IncomingStreams> {
        self.control.clone().accept(self.protocol.clone()).ok()
    }
}

fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Either<THandler<stream::Behaviour>, dummy::ConnectionHandler>;
    type ToSwarm = ();

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if is_relayed(local) || is_relayed(remote) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
            .map(Either::Left)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if is_relayed(address) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        self.inner
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
            .map(Either::Left)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let relayed = match &event {
            FromSwarm::ConnectionEstablished(made) => made.endpoint.is_relayed(),
            FromSwarm::ConnectionClosed(closed) => closed.endpoint.is_relayed(),
            _ => false,
        };
        if !relayed {
            self.inner.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        // Neither handler can say anything.
        event.into_inner();
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx).map(|event| event.map_in(Either::Left))
    }
}

#[cfg(test)]
mod tests {
    use owm_proto::Sha256;

    use super::*;

    #[test]
    fn no_file_goes_over_a_relayed_connection() {
        let mut behaviour = Behaviour::new(&NetworkId(Sha256::of(b"network")));
        let direct: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let relayed = direct
            .clone()
            .with_p2p(PeerId::random())
            .unwrap()
            .with(Protocol::P2pCircuit);
        let (id, peer) = (ConnectionId::new_unchecked(1), PeerId::random());
        for (address, is_direct) in [(&direct, true), (&relayed, false)] {
            let dialled = behaviour.handle_established_outbound_connection(
                id,
                peer,
                address,
                Endpoint::Dialer,
                PortUse::Reuse,
            );
            assert_eq!(dialled.unwrap().is_left(), is_direct);
            let accepted =
                behaviour.handle_established_inbound_connection(id, peer, address, &direct);
            assert_eq!(accepted.unwrap().is_left(), is_direct);
        }
    }
}
