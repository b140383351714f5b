//! Joining in one shot, and what is told when it does not work: every failure here is a real one.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    request_response::{Event, Message},
    swarm::{self, Swarm, SwarmEvent},
};
use owm_p2p::{
    Clock, Join, JoinError, Multiaddr, NetworkPolicy, NewestCheckpoint, Unavailable,
    error::FailedLayer, join, meet, peer,
};
use owm_proto::{
    NodeKey, UnixMillis,
    wire::{coordinator::SignedEnvelope, gossip::MeetResponse},
};
use tokio::task::JoinHandle;

use crate::{
    outside::{Names, TCP, black_hole, closed_port, echo},
    world::{PATIENCE, World},
};

fn newcomer() -> NodeKey {
    NodeKey::from_seed(&[77; 32])
}

fn through(world: &World, peers: Vec<Multiaddr>) -> Join {
    let clock = world.clock.clone();
    let mut wanted = Join::new(world.network, peers, NetworkPolicy::LoopbackOnly, clock)
        .with_resolver(Arc::new(Names::localhost()));
    wanted.timeout = PATIENCE;
    wanted
}

/// The one failure of joining through `address` alone.
async fn failure(world: &World, address: Multiaddr) -> Unavailable {
    let mut wanted = through(world, vec![address]);
    // Long enough for a busy machine.
    wanted.dial_timeout = Duration::from_secs(20);
    match join(wanted, &newcomer()).await {
        Err(JoinError::Unreachable(failures)) => {
            assert_eq!(failures.len(), 1, "{failures:?}");
            failures.into_iter().next().unwrap()
        }
        other => panic!("{other:?}"),
    }
}

async fn check(world: &World, address: Multiaddr, layer: FailedLayer, says: &str) {
    let told = failure(world, address.clone()).await;
    assert_eq!(told.layer, layer, "{told}");
    assert!(told.to_string().contains(says), "{told}");
    assert!(
        told.reason.contains([';', '?']),
        "it says what to do: {told}"
    );
}

/// Answers Meet with whatever it is told to.
async fn liar(world: &World, key: NodeKey, answer: MeetResponse) -> (Multiaddr, JoinHandle<()>) {
    let keypair = peer::keypair(&key);
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(
            libp2p::tcp::Config::default(),
            libp2p::noise::Config::new,
            libp2p::yamux::Config::default,
        )
        .unwrap()
        .with_behaviour(|_| meet::behaviour(&world.network))
        .unwrap()
        .with_swarm_config(|config: swarm::Config| config)
        .build();
    swarm.listen_on(TCP.parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address.with_p2p(*swarm.local_peer_id()).unwrap();
        }
    };
    let task = tokio::spawn(serve(swarm, answer));
    (address, task)
}

async fn serve(mut swarm: Swarm<meet::Behaviour>, answer: MeetResponse) {
    loop {
        let event = swarm.select_next_some().await;
        if let SwarmEvent::Behaviour(Event::Message {
            message: Message::Request { channel, .. },
            ..
        }) = event
        {
            let meet = swarm.behaviour_mut();
            meet.send_response(channel, answer.clone()).unwrap();
        }
    }
}

fn answer(world: &World, newest: Option<&NewestCheckpoint>) -> MeetResponse {
    let wire = |e: &[owm_proto::Envelope]| e.iter().map(SignedEnvelope::from).collect();
    let documents = &world.documents;
    MeetResponse {
        genesis: documents.genesis.clone(),
        delegations: wire(&documents.delegations),
        checkpoint: newest.map(|n| (&n.envelope).into()),
        manifest: newest.map(|n| (&n.manifest_envelope).into()),
        now_ms: world.clock.wall().0,
        ..MeetResponse::default()
    }
}

#[tokio::test]
async fn one_honest_peer_among_dead_ones_is_enough() {
    let world = World::new("one");
    let alice = world.peer(11, TCP);
    let capability = world.capability(&alice.key, 1);
    alice.handle.announce(capability).await.unwrap();
    let newest = world.checkpoint(7);
    let announced = alice.handle.announce_checkpoint(newest.clone());
    announced.await.unwrap();
    let (hole, _listener) = black_hole().await;
    let (echo, _task) = echo().await;
    let address = alice.address().await;
    let bare = peer::group::without_peer(&address);
    for good in [address.clone(), bare] {
        let peers = vec![closed_port().await, hole.clone(), echo.clone(), good];
        let joined = join(through(&world, peers), &newcomer()).await.unwrap();
        assert_eq!(joined.documents.genesis, world.documents.genesis);
        assert_eq!(
            joined
                .documents
                .parameters(world.clock.wall())
                .heartbeat_secs,
            5
        );
        assert_eq!(joined.newest.as_ref(), Some(&newest));
        assert_eq!(joined.from, alice.handle.peer());
        assert_eq!(joined.address, address);
        assert_eq!(joined.nodes, [alice.key.public()]);
    }
    alice.stop().await;
}

#[tokio::test]
async fn every_failure_names_its_layer() {
    use FailedLayer::{Handshake, Name, Policy, Timeout, Transport, Version};
    let world = World::new("failures");
    let alice = world.peer(11, TCP);
    check(&world, closed_port().await, Transport, "refused").await;
    let (address, _task) = echo().await;
    check(&world, address, Handshake, "no libp2p handshake").await;
    let mistaken = peer::group::without_peer(&alice.address().await);
    let somebody_else = peer::peer_id(&NodeKey::from_seed(&[5; 32]).public()).unwrap();
    let mistaken = mistaken.with_p2p(somebody_else).unwrap();
    check(&world, mistaken, Handshake, "answered, not").await;
    let other = World::new("another network");
    let stranger = other.peer(13, TCP);
    check(&world, stranger.address().await, Version, "another network").await;
    let (hole, _listener) = black_hole().await;
    check(&world, hole, Timeout, "firewall").await;
    let silent = "/ip4/127.0.0.1/udp/9/quic-v1".parse().unwrap();
    check(&world, silent, Timeout, "no answer").await;
    let local = "/dns4/localhost/tcp/1".parse::<Multiaddr>().unwrap();
    let mut unknown = through(&world, vec![local]);
    unknown.resolver = Arc::new(Names::default());
    let Err(JoinError::Unreachable(told)) = join(unknown, &newcomer()).await else {
        panic!("a name that does not resolve")
    };
    assert_eq!(told[0].layer, Name, "{told:?}");
    let outside = "/ip4/203.0.113.7/tcp/4001".parse().unwrap();
    check(&world, outside, Policy, "this machine only").await;
    let twin = world.peer(77, TCP);
    let ourselves = peer::group::without_peer(&twin.address().await);
    let told = failure(&world, ourselves).await;
    assert!(told.reason.contains("itself"), "{told}");
    twin.stop().await;
    alice.stop().await;
    stranger.stop().await;
}

#[tokio::test]
async fn a_liar_is_found_out_and_the_honest_peer_is_believed() {
    let world = World::new("liar");
    let forged = world.checkpoint_by(&NodeKey::from_seed(&[66; 32]), 99);
    let mut mixed = world.checkpoint(8);
    mixed.manifest_envelope = world.checkpoint(9).manifest_envelope;
    let truncated = MeetResponse {
        genesis: b"{}".to_vec(),
        ..answer(&world, None)
    };
    let empty = MeetResponse {
        software_version: "0.1.0".to_owned(),
        ..MeetResponse::default()
    };
    let lies = [
        (answer(&world, Some(&forged)), FailedLayer::Documents),
        (answer(&world, Some(&mixed)), FailedLayer::Documents),
        (truncated, FailedLayer::Version),
        (empty, FailedLayer::Documents),
        // No bytes at all: it refuses.
        (MeetResponse::default(), FailedLayer::Handshake),
    ];
    let mut liars = Vec::new();
    for (n, (lie, layer)) in lies.into_iter().enumerate() {
        let key = NodeKey::from_seed(&[50 + n as u8; 32]);
        let (address, task) = liar(&world, key, lie).await;
        let told = failure(&world, address.clone()).await;
        assert_eq!(told.layer, layer, "{told}");
        liars.push((address, task));
    }
    let alice = world.peer(11, TCP);
    let newest = world.checkpoint(7);
    let announced = alice.handle.announce_checkpoint(newest.clone());
    announced.await.unwrap();
    let mut peers: Vec<_> = liars.iter().map(|(address, _)| address.clone()).collect();
    peers.push(alice.address().await);
    let joined = join(through(&world, peers), &newcomer()).await.unwrap();
    assert_eq!(joined.from, alice.handle.peer());
    assert_eq!(joined.newest, Some(newest));
    alice.stop().await;
    for (_, task) in liars {
        task.abort();
    }
}

/// Another clock, so far away.
#[derive(Debug)]
struct Off(Arc<dyn Clock>, Duration);

impl Clock for Off {
    fn wall(&self) -> UnixMillis {
        self.0.wall().before(self.1)
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

#[tokio::test]
async fn a_wrong_clock_is_named_and_not_the_documents() {
    let world = World::new("clock");
    let alice = world.peer(11, TCP);
    let mut wanted = through(&world, vec![alice.address().await]);
    wanted.clock = Arc::new(Off(world.clock.clone(), Duration::from_hours(48)));
    let Err(JoinError::Unreachable(told)) = join(wanted.clone(), &newcomer()).await else {
        panic!("the delegations are of the day after tomorrow")
    };
    assert_eq!(told[0].layer, FailedLayer::Clock, "{told:?}");
    assert!(told[0].reason.contains("timedatectl"), "{told:?}");
    // A minute does not matter.
    wanted.clock = Arc::new(Off(world.clock.clone(), Duration::from_mins(1)));
    assert!(join(wanted, &newcomer()).await.is_ok());
    alice.stop().await;
}

#[tokio::test]
async fn joining_ends_within_its_time_and_without_peers_at_once() {
    let world = World::new("time");
    let (hole, _listener) = black_hole().await;
    let mut wanted = through(&world, vec![hole]);
    wanted.timeout = Duration::from_millis(300);
    let Err(JoinError::Unreachable(told)) = join(wanted, &newcomer()).await else {
        panic!("nobody answers")
    };
    assert_eq!(told[0].layer, FailedLayer::Timeout, "{told:?}");
    let none = join(through(&world, Vec::new()), &newcomer()).await;
    assert!(matches!(none, Err(JoinError::NoPeers)));
}
