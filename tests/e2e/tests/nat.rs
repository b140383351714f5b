//! Peers behind NAT, in network namespaces: AutoNAT, relays and hole punching with real packets through
//! real masquerading routers ([`owm_e2e::namespaces`]).

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libp2p::{Multiaddr, multiaddr::Protocol};
use owm_e2e::{
    namespaces::{Home, Internet, Namespace, Nat},
    peers::{Peer, network},
};
use owm_p2p::{Documents, SwarmConfig, SwarmView, view::Reachability};

/// For packets inside one machine's memory.
const PACKET_LIMIT: Duration = Duration::from_secs(2);
/// For AutoNAT's verdict, a reservation, a connection through a relay: each takes some round trips and the
/// time-outs of dials that get nowhere.
const LIMIT: Duration = Duration::from_mins(3);
/// A hole that can be punched is there long before: DCUtR tries as soon as the relayed connection stands.
const NO_HOLE_FOR: Duration = Duration::from_secs(10);

/// Sends a datagram from `from` and gives the address that it came from, as the receiver saw it; `None`:
/// it did not come.
fn seen_udp(
    from: &Namespace,
    port: u16,
    to: &Namespace,
    address: Ipv4Addr,
) -> Result<Option<SocketAddr>> {
    let receiver = to.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5000))?))?;
    receiver.set_read_timeout(Some(PACKET_LIMIT))?;
    let sender = from.run(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))?;
    sender.send_to(b"hello", (address, 5000))?;
    let mut buffer = [0; 16];
    Ok(receiver.recv_from(&mut buffer).ok().map(|(_, from)| from))
}

fn connects(from: &Namespace, address: Ipv4Addr, port: u16) -> Result<bool> {
    let to = SocketAddr::from((address, port));
    from.run(|| Ok(TcpStream::connect_timeout(&to, PACKET_LIMIT).is_ok()))
}

#[test]
#[ignore = "makes network namespaces: `make test` runs it where it may"]
fn netns_a_masquerading_router_lets_out_and_not_in() {
    let internet = Internet::new().unwrap();
    let (public, address) = internet.public("public", 1).unwrap();
    let (other, other_address) = internet.public("other", 2).unwrap();
    let home = internet.home("home", 101, Nat::Masquerade).unwrap();
    let symmetric = internet.home("symmetric", 102, Nat::Symmetric).unwrap();
    // Out, and seen under the router's address; the same port for everybody, or another for each.
    let mapped = |home: &Home| -> Result<[SocketAddr; 2]> {
        let first = seen_udp(&home.machine, 4001, &public, address)?.unwrap();
        let second = seen_udp(&home.machine, 4001, &other, other_address)?.unwrap();
        ensure!(first.ip() == home.outside && second.ip() == home.outside);
        Ok([first, second])
    };
    let [first, second] = mapped(&home).unwrap();
    assert_eq!(first, second);
    let [first, second] = mapped(&symmetric).unwrap();
    assert_ne!(first.port(), second.port());
    // Not in: neither by the private address nor by the router's.
    assert_eq!(
        seen_udp(&public, 4001, &home.machine, home.outside).unwrap(),
        None
    );
    let listen = |namespace: &Namespace| {
        namespace.run(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 6000))?))
    };
    let _inside = listen(&home.machine).unwrap();
    let _outside = listen(&public).unwrap();
    assert!(connects(&home.machine, address, 6000).unwrap());
    assert!(!connects(&public, home.outside, 6000).unwrap());
    assert!(!connects(&public, home.address, 6000).unwrap());
    // The test's own namespace has no part in it.
    let here = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = here.local_addr().unwrap().port();
    assert!(!connects(&public, Ipv4Addr::LOCALHOST, port).unwrap());
}

/// A peer in a namespace, listening on every address of it.
async fn peer(
    namespace: &Namespace,
    seed: u8,
    documents: &Documents,
    external: Option<Ipv4Addr>,
) -> Result<Peer> {
    let config = SwarmConfig {
        listen: vec![
            "/ip4/0.0.0.0/udp/4001/quic-v1".parse()?,
            "/ip4/0.0.0.0/tcp/4001".parse()?,
        ],
        external: external
            .map(|ip| format!("/ip4/{ip}/udp/4001/quic-v1").parse())
            .into_iter()
            .collect::<Result<_, _>>()?,
        ..SwarmConfig::default()
    };
    let documents = documents.clone();
    namespace
        .enter(async move { Peer::start(seed, config, documents) })
        .await?
}

fn circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Two homes and three machines that everybody can reach, one of which can't know it by itself.
struct Scene {
    near: Peer,
    far: Peer,
    relay: Peer,
    helper: Peer,
    _internet: Internet,
    _homes: [Home; 2],
    _machines: [Namespace; 3],
}

impl Scene {
    /// Peers in homes know two public ones; nobody knows anybody's home.
    async fn new(nat: Nat) -> Result<Self> {
        let documents = network("nat")?;
        let internet = Internet::new()?;
        let (relay_machine, relay_ip) = internet.public("relay", 1)?;
        let (helper_machine, helper_ip) = internet.public("helper", 2)?;
        let (third_machine, _) = internet.public("third", 3)?;
        let homes = [
            internet.home("near", 101, nat)?,
            internet.home("far", 102, nat)?,
        ];
        let relay = peer(&relay_machine, 11, &documents, Some(relay_ip)).await?;
        let helper = peer(&helper_machine, 12, &documents, Some(helper_ip)).await?;
        let third = peer(&third_machine, 13, &documents, None).await?;
        let near = peer(&homes[0].machine, 21, &documents, None).await?;
        let far = peer(&homes[1].machine, 22, &documents, None).await?;
        let known = vec![
            relay.at(&format!("/ip4/{relay_ip}/udp/4001/quic-v1"))?,
            helper.at(&format!("/ip4/{helper_ip}/udp/4001/quic-v1"))?,
        ];
        for peer in [&third, &near, &far, &helper] {
            peer.handle.add_candidates("static", known.clone()).await?;
        }
        // A machine with a public address finds out that it has one.
        let public = |view: &SwarmView| view.reachability == Reachability::Public;
        third.sees("the verdict `public`", LIMIT, public).await?;
        Ok(Self {
            near,
            far,
            relay,
            helper,
            _internet: internet,
            _homes: homes,
            _machines: [relay_machine, helper_machine, third_machine],
        })
    }

    /// Waits until both homes know that they are private and have an address on a relay; `near`'s.
    async fn private(&self) -> Result<Multiaddr> {
        let private = |view: &SwarmView| {
            view.reachability == Reachability::Private && view.external.iter().any(circuit)
        };
        self.far
            .sees("`private` and a relay", LIMIT, private)
            .await?;
        let seen = self
            .near
            .sees("`private` and a relay", LIMIT, private)
            .await?;
        ensure!(
            !seen.external.iter().any(|address| !circuit(address)),
            "a private peer announces {:?}",
            seen.external
        );
        let address = seen.external.iter().find(|address| circuit(address));
        let address = address.context("it was just there")?.clone();
        let named = address.iter().last() == Some(Protocol::P2p(self.near.id()));
        Ok(if named {
            address
        } else {
            address.with(Protocol::P2p(self.near.id()))
        })
    }

    /// `far` dials `near` by its address on the relay alone.
    async fn meet(&self) -> Result<()> {
        let address = self.private().await?;
        self.far
            .handle
            .add_candidates("test", vec![address])
            .await?;
        let key = self.near.key;
        let met = |view: &SwarmView| view.peers.iter().any(|peer| peer.key == key);
        self.far.sees("the other home", LIMIT, met).await?;
        Ok(())
    }

    /// Each hears the other's heartbeat.
    async fn gossip(&mut self) -> Result<()> {
        let (near, far) = (self.near.key, self.far.key);
        self.near.beat().await?;
        self.far.beat().await?;
        let heard = |view: &SwarmView, key| view.nodes.iter().any(|node| node.key == key);
        self.far
            .sees("a heartbeat", LIMIT, |view| heard(view, near))
            .await?;
        self.near
            .sees("a heartbeat", LIMIT, |view| heard(view, far))
            .await?;
        Ok(())
    }
}

/// Whether the connection with `peer` goes through no relay.
fn direct(view: &SwarmView, peer: &Peer) -> bool {
    view.peers
        .iter()
        .any(|seen| seen.key == peer.key && !seen.relayed)
}

#[tokio::test]
#[ignore = "makes network namespaces: `make test` runs it where it may"]
async fn netns_two_homes_meet_through_a_relay_and_punch_a_hole() {
    let mut scene = Scene::new(Nat::Masquerade).await.unwrap();
    scene.meet().await.unwrap();
    let begun = Instant::now();
    let punched = scene
        .far
        .sees("a direct connection", LIMIT, |view| {
            direct(view, &scene.near)
        })
        .await
        .unwrap();
    let address = punched.peers.iter().find(|seen| seen.key == scene.near.key);
    println!(
        "a hole was punched after {:.1} s: {}",
        begun.elapsed().as_secs_f64(),
        address.unwrap().address
    );
    scene.gossip().await.unwrap();
    // The relay and everybody else may go: the two keep talking.
    scene.relay.handle.stop();
    scene.helper.handle.stop();
    let alone = |view: &SwarmView| view.peers.len() == 1;
    scene.far.sees("nobody else", LIMIT, alone).await.unwrap();
    assert!(direct(&scene.far.view(), &scene.near));
    scene.near.beat().await.unwrap();
}

#[tokio::test]
#[ignore = "makes network namespaces: `make test` runs it where it may"]
async fn netns_homes_that_no_hole_can_be_punched_into_stay_on_the_relay() {
    let mut scene = Scene::new(Nat::Symmetric).await.unwrap();
    scene.meet().await.unwrap();
    scene.gossip().await.unwrap();
    let punched = scene.far.sees("a direct connection", NO_HOLE_FOR, |view| {
        direct(view, &scene.near)
    });
    assert!(punched.await.is_err(), "no hole can be punched here");
    // And they still talk, through the relay.
    scene.gossip().await.unwrap();
}
