//! What bytes travel over. The service takes any transport that is already authenticated and multiplexed, so an
//! onion transport is passed in as the clearnet one is; `over` puts the network policy around it.
//! Must stay true: no address that the policy forbids is ever dialled or listened on, whoever asks for it.

mod ahead;
mod muxer;

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{TryFutureExt as _, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        muxing::StreamMuxerBox,
        transport::{
            Boxed, DialOpts, ListenerId, OrTransport, Transport as TransportTrait, TransportError,
            TransportEvent,
        },
        upgrade::Version,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise, quic, relay, tcp, yamux,
};
use owm_proto::NodeKey;

use self::{ahead::Ahead, muxer::Yamux};
use crate::{
    NetworkPolicy, P2pError,
    peer::{
        self,
        group::{has_one_host, is_global_address, without_peer},
    },
};

/// An onion dial builds circuits: minutes at worst (facts: 4–9 s typical).
pub const ONION_DIAL_TIMEOUT: Duration = Duration::from_mins(5);

/// Connections, made.
pub type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// A transport with the relay client that hangs in it, if it has one.
pub struct Transport {
    pub(crate) connections: Connections,
    pub(crate) relay: Option<relay::client::Behaviour>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport(relay client: {})", self.relay.is_some())
    }
}

impl Transport {
    /// QUIC, TCP with Noise and Yamux, and connections through relays.
    pub fn clearnet(key: &NodeKey) -> Result<Self, P2pError> {
        let key = peer::keypair(key);
        let (relayed, relay) = relay::client::new(key.public().to_peer_id());
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .map(|socket, _| Ahead::new(socket))
            .upgrade(Version::V1Lazy)
            .authenticate(noise_of(&key)?)
            .multiplex(Yamux)
            .boxed();
        let quic = quic::tokio::Transport::new(quic::Config::new(&key))
            .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)));
        let relayed = relayed
            .upgrade(Version::V1Lazy)
            .authenticate(noise_of(&key)?)
            .multiplex(yamux::Config::default())
            .boxed();
        let direct = OrTransport::new(quic, tcp).map(|either, _| either.into_inner());
        let connections = OrTransport::new(relayed, direct)
            .map(|either, _| either.into_inner())
            .boxed();
        Ok(Self {
            connections,
            relay: Some(relay),
        })
    }

    /// Any other: an onion transport, memory channels in a test. No relays.
    pub fn other(connections: Connections) -> Self {
        Self {
            connections,
            relay: None,
        }
    }

    /// Keeps to the policy and to a time for each dial.
    /// On the clear net what is not global is dialled only if `vouched` says so.
    pub(crate) fn under(
        self,
        policy: NetworkPolicy,
        dial_timeout: Duration,
        vouched: Vouched,
    ) -> Self {
        let guarded = Guarded {
            inner: self.connections,
            policy,
            dial_timeout,
            vouched,
        };
        Self {
            connections: guarded.boxed(),
            relay: self.relay,
        }
    }
}

fn noise_of(key: &Keypair) -> Result<noise::Config, P2pError> {
    noise::Config::new(key).map_err(|error| P2pError::Transport(error.to_string()))
}

impl NetworkPolicy {
    /// Whether `address` may be dialled, listened on or told to others.
    pub fn allows(self, address: &Multiaddr) -> bool {
        // The last host is dialled, the first one looked at.
        if !has_one_host(address) {
            return false;
        }
        match self {
            Self::Clearnet => !is_onion(address),
            Self::LoopbackOnly => is_loopback(address),
            Self::OnionOnly => is_onion(address),
        }
    }
}

/// Whether the first hop is this machine (or a channel inside this process).
pub fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        Some(Protocol::Memory(_)) => true,
        _ => false,
    }
}

fn is_onion(address: &Multiaddr) -> bool {
    matches!(
        address.iter().next(),
        Some(Protocol::Onion(..) | Protocol::Onion3(_))
    )
}

/// Addresses kept by [`Vouched`]: far above what one swarm dials within a dial's time.
const VOUCHED_MAX: usize = 1_024;

/// Addresses that are not global and may be dialled on the clear net all the same: a source of the operator's
/// named them, or a peer of the same private network. Parts of libp2p (the DHT's walks, AutoNAT, hole punching)
/// dial what strangers say, so the transport asks here. Bounded; who came first leaves first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vouched(Arc<Mutex<VecDeque<Multiaddr>>>);

impl Vouched {
    pub(crate) fn add(&self, address: &Multiaddr) {
        let address = without_peer(address);
        if is_global_address(&address) {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| *other != address);
        if known.len() >= VOUCHED_MAX {
            known.pop_front();
        }
        known.push_back(address);
    }

    fn has(&self, address: &Multiaddr) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&without_peer(address))
    }
}

/// Whether it goes through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Refuses what the policy forbids, before anything is sent.
struct Guarded {
    inner: Connections,
    policy: NetworkPolicy,
    dial_timeout: Duration,
    vouched: Vouched,
}

impl Guarded {
    fn check(&self, address: Multiaddr) -> Result<Multiaddr, TransportError<io::Error>> {
        if self.policy.allows(&address) {
            Ok(address)
        } else {
            Err(TransportError::MultiaddrNotSupported(address))
        }
    }
}

impl TransportTrait for Guarded {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<Self::Output>>;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        let address = self.check(address)?;
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let address = self.check(address)?;
        let strict = self.policy == NetworkPolicy::Clearnet && !is_relayed(&address);
        if strict && !is_global_address(&address) && !self.vouched.has(&address) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        let limit = if is_onion(&address) {
            ONION_DIAL_TIMEOUT
        } else {
            self.dial_timeout
        };
        let dial = self.inner.dial(address, opts)?;
        Ok(Box::pin(in_time(limit, dial)))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let limit = match self.policy {
            NetworkPolicy::OnionOnly => ONION_DIAL_TIMEOUT,
            _ => self.dial_timeout,
        };
        let event = Pin::new(&mut self.inner).poll(cx);
        event.map(|event| {
            event.map_upgrade(|upgrade| Box::pin(in_time(limit, upgrade)) as Self::ListenerUpgrade)
        })
    }
}

async fn in_time<T>(limit: Duration, made: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection within its time");
    tokio::time::timeout(limit, made).map_err(late).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn on_the_clear_net_only_what_was_named_is_dialled_beside_the_world() {
        let key = NodeKey::from_seed(&[1; 32]);
        let vouched = Vouched::default();
        let transport = Transport::clearnet(&key).unwrap();
        let mut transport = transport
            .under(
                NetworkPolicy::Clearnet,
                Duration::from_secs(1),
                vouched.clone(),
            )
            .connections;
        let mut is_dialled = |address: &str| {
            let opts = DialOpts {
                role: libp2p::core::Endpoint::Dialer,
                port_use: libp2p::core::transport::PortUse::New,
            };
            transport.dial(address.parse().unwrap(), opts).is_ok()
        };
        // Making the future sends nothing yet.
        assert!(is_dialled("/ip4/7.7.7.7/tcp/4001"));
        for address in [
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/169.254.169.254/tcp/80",
            "/ip4/192.168.1.1/tcp/80",
            "/ip6/::1/tcp/22",
            "/ip6/::ffff:7.7.7.7/tcp/22",
        ] {
            assert!(!is_dialled(address), "{address}");
            vouched.add(&address.parse().unwrap());
            assert!(is_dialled(address), "{address} was named");
        }
        let hidden = "/ip4/7.7.7.7/tcp/1/ip4/127.0.0.1/tcp/22";
        vouched.add(&hidden.parse().unwrap());
        assert!(!is_dialled(hidden));
    }
}
