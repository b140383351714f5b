//! A swarm for onion services only, over a transport that is passed in: here a stand-in for Tor that knows where
//! two services are and writes down every address that it is asked for. Peers meet and gossip through it, and
//! nothing of the clear net is dialled, listened on, told or asked for.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use libp2p::{
    core::{
        Transport,
        muxing::StreamMuxerBox,
        transport::{DialOpts, ListenerId, TransportError, TransportEvent},
        upgrade::Version,
    },
    multiaddr::Protocol,
    noise, tcp, yamux,
};
use owm_p2p::{Multiaddr, NetworkPolicy, P2pError, PeerId, Start, SwarmConfig, peer, start_over};
use owm_proto::NodeKey;

use crate::world::{Peer, TCP, World, heartbeat_of};

type Tcp = tcp::tokio::Transport;

/// What the stand-ins of all peers share.
#[derive(Debug, Default)]
struct Network {
    /// Where a service really listens.
    services: Mutex<HashMap<Multiaddr, Multiaddr>>,
    /// All that was to be dialled or listened on.
    asked: Mutex<Vec<Multiaddr>>,
}

/// One peer's.
struct StandIn {
    tcp: Tcp,
    network: Arc<Network>,
    service: Multiaddr,
}

fn bare(address: &Multiaddr) -> Multiaddr {
    peer::group::without_peer(address)
}

impl Transport for StandIn {
    type Output = <Tcp as Transport>::Output;
    type Error = <Tcp as Transport>::Error;
    type ListenerUpgrade = <Tcp as Transport>::ListenerUpgrade;
    type Dial = <Tcp as Transport>::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.network.asked.lock().unwrap().push(address.clone());
        if address != self.service {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.tcp.listen_on(id, TCP.parse().unwrap())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.tcp.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        let address = bare(&address);
        self.network.asked.lock().unwrap().push(address.clone());
        let service = self.network.services.lock().unwrap().get(&address).cloned();
        match service {
            Some(place) => self.tcp.dial(place, opts),
            None => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let Poll::Ready(event) = Pin::new(&mut self.tcp).poll(cx) else {
            return Poll::Pending;
        };
        let here = self.service.clone();
        Poll::Ready(match event {
            TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            } => {
                let mut services = self.network.services.lock().unwrap();
                services.insert(here.clone(), listen_addr);
                TransportEvent::NewAddress {
                    listener_id,
                    listen_addr: here,
                }
            }
            TransportEvent::Incoming {
                listener_id,
                upgrade,
                ..
            } => TransportEvent::Incoming {
                listener_id,
                upgrade,
                local_addr: here.clone(),
                // Nobody knows who comes through Tor.
                send_back_addr: here,
            },
            other => other,
        })
    }
}

/// The onion service of peer `n`.
fn service(n: u8) -> Multiaddr {
    Multiaddr::empty().with(Protocol::Onion3(([n; 35], 4001).into()))
}

fn start(
    world: &World,
    network: &Arc<Network>,
    n: u8,
    listen: Vec<Multiaddr>,
) -> Result<Peer, P2pError> {
    let key = NodeKey::from_seed(&[n; 32]);
    let stand_in = StandIn {
        tcp: Tcp::new(tcp::Config::default()),
        network: Arc::clone(network),
        service: service(n),
    };
    let connections = stand_in
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&peer::keypair(&key)).unwrap())
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let config = SwarmConfig {
        policy: NetworkPolicy::OnionOnly,
        listen,
        // Asked for, and of no use here.
        mdns: true,
        ..SwarmConfig::default()
    };
    let (handle, news, service) = start_over(
        Start {
            config,
            key: &key,
            network: world.network,
            documents: Some(world.documents.clone()),
            newest: None,
            clock: world.clock.clone(),
            seed: [n; 32],
        },
        owm_p2p::Transport::other(connections),
    )?;
    Ok(Peer {
        key,
        handle,
        news,
        task: tokio::spawn(service),
    })
}

fn is_onion(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Onion3(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_onion_only_swarm_gossips_over_its_transport_and_touches_nothing_else() {
    let world = World::new("onions");
    let network = Arc::new(Network::default());
    let mut alice = start(&world, &network, 11, vec![service(11)]).unwrap();
    let bob = start(&world, &network, 12, vec![service(12)]).unwrap();
    let at = alice.address().await;
    assert!(is_onion(&at), "{at}");
    // Before and after it, what nobody here may dial.
    let stranger = PeerId::random();
    let outside = [
        "/ip4/203.0.113.7/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/203.0.113.7/udp/4001/quic-v1",
        "/ip6/2001:db8::7/tcp/4001",
        "/dns4/seed.example.org/tcp/4001",
    ];
    let outside: Vec<Multiaddr> = outside
        .iter()
        .map(|address| address.parse::<Multiaddr>().unwrap())
        .map(|address| address.with(Protocol::P2p(stranger)))
        .collect();
    let given = [outside.clone(), vec![at.clone()], outside].concat();
    bob.handle.add_candidates("static", given).await.unwrap();
    for peer in [&alice, &bob] {
        peer.connected(1).await;
    }
    let heartbeat = world.heartbeat(&bob.key, 1);
    bob.handle.announce(heartbeat).await.unwrap();
    alice
        .news("bob's heartbeat", heartbeat_of(bob.key.public()))
        .await;
    // Each address of the clear net was refused before it came to a transport, and that is told.
    bob.until("the policy's refusals", |view| {
        let failures = view.sources.iter().flat_map(|source| &source.failures);
        failures
            .filter(|failure| failure.layer == owm_p2p::error::FailedLayer::Policy)
            .count()
            > 0
    })
    .await;
    for peer in [&alice, &bob] {
        let view = peer.handle.view().borrow().clone();
        let peers = view.peers.iter().map(|peer| &peer.address);
        let all = peers.chain(&view.listening).chain(&view.external);
        let outside: Vec<&Multiaddr> = all.filter(|address| !is_onion(address)).collect();
        assert!(outside.is_empty(), "{outside:?}");
    }
    let asked = network.asked.lock().unwrap().clone();
    assert!(asked.contains(&bare(&at)), "{asked:?}");
    assert!(asked.iter().all(is_onion), "{asked:?}");
    bob.stop().await;
    alice.stop().await;
}

#[tokio::test]
async fn an_onion_only_swarm_does_not_listen_on_the_clear_net() {
    let (world, network) = (World::new("onions"), Arc::new(Network::default()));
    let refused = start(&world, &network, 11, vec![TCP.parse().unwrap()]);
    let error = refused.map(|_| "it listens").unwrap_err();
    assert!(matches!(error, P2pError::Listen { .. }), "{error}");
    assert!(network.asked.lock().unwrap().is_empty());
}
