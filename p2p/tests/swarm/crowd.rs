//! Eight peers, and peers that come and go.

use std::collections::BTreeSet;

use owm_p2p::{NetworkPolicy, News, SwarmConfig, view::Reachability};

use owm_proto::NodeKey;
use tokio::task::JoinSet;

use crate::world::{Peer, QUIC, TCP, World, heartbeat_of};

/// Eight peers that all know the first one only.
async fn eight(world: &World) -> Vec<Peer> {
    let listen = |n: u8| if n.is_multiple_of(2) { TCP } else { QUIC };
    let peers: Vec<Peer> = (0..8).map(|n| world.peer(20 + n, listen(n))).collect();
    for peer in &peers[1..] {
        peer.join(&peers[0]).await;
    }
    peers
}

async fn stop_all(peers: Vec<Peer>) {
    for peer in peers {
        peer.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_peers_hear_each_others_heartbeats_and_nobody_is_blamed_for_sharing_an_address() {
    let world = World::new("eight");
    let mut peers = eight(&world).await;
    for peer in &peers {
        let capability = world.capability(&peer.key, 1);
        peer.handle.announce(capability).await.unwrap();
    }
    for peer in &peers {
        peer.until("all eight nodes", |view| view.nodes.len() == 8)
            .await;
    }
    let keys: Vec<_> = peers.iter().map(|peer| peer.key.public()).collect();
    let mut beats = JoinSet::new();
    for (n, peer) in peers.iter().enumerate() {
        let key = NodeKey::from_seed(&peer.key.to_seed());
        beats.spawn(world.beat(key, peer.handle.clone(), n as u64));
    }
    for (at, peer) in peers.iter_mut().enumerate() {
        let mut missing: BTreeSet<_> = (0..8).filter(|n| *n != at).collect();
        while !missing.is_empty() {
            let heard = |news: &News| {
                let of = |n: &usize| heartbeat_of(keys[*n])(news).map(|_| *n);
                missing.iter().find_map(of)
            };
            let from = peer.news("heartbeats of the others", heard).await;
            missing.remove(&from);
        }
    }
    beats.shutdown().await;
    // Seven of them share one address with the first.
    for peer in &peers {
        let view = peer.connected(1).await;
        assert!(view.peers.iter().all(|peer| peer.score >= 0.0), "{view:#?}");
        let counts = peer.handle.counts();
        assert_eq!(
            (counts.rejected.len(), counts.cut_off),
            (0, 0),
            "{counts:?}"
        );
    }
    stop_all(peers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_reaches_all_eight_with_its_manifest() {
    let world = World::new("spread");
    let mut peers = eight(&world).await;
    for peer in &peers {
        peer.connected(1).await;
    }
    let newest = world.checkpoint(3);
    let announced = peers[7].handle.announce_checkpoint(newest.clone()).await;
    announced.unwrap();
    for peer in &mut peers[..7] {
        let learnt = peer
            .news("the checkpoint", |news| match news {
                News::Checkpoint(newest) => Some(newest.clone()),
                _ => None,
            })
            .await;
        assert_eq!(*learnt, newest);
    }
    stop_all(peers).await;
}

#[tokio::test]
async fn a_peer_that_goes_away_and_comes_back_is_met_again() {
    let world = World::new("back");
    // Nobody takes a port of this address while bob is away. Other systems have one loopback address only.
    let own = cfg!(target_os = "linux");
    let bob = world.peer(12, if own { "/ip4/127.0.0.77/tcp/0" } else { TCP });
    let address = bob.address().await;
    let alice = world.peer(11, TCP);
    alice.join(&bob).await;
    alice.connected(1).await;
    bob.stop().await;
    alice
        .until("that bob is gone", |view| view.peers.is_empty())
        .await;
    let newest = world.checkpoint(2);
    let port = address.iter().take(2).collect::<owm_p2p::Multiaddr>();
    let config = World::config(&port.to_string());
    let bob = world.start(12, config, true, Some(newest)).unwrap();
    let learnt = |view: &std::sync::Arc<owm_p2p::SwarmView>| {
        view.checkpoint.as_ref().is_some_and(|c| c.sequence == 2)
    };
    alice.until("bob's checkpoint", learnt).await;
    alice.stop().await;
    bob.stop().await;
}

#[tokio::test]
async fn a_peer_of_another_network_is_refused_naming_the_version() {
    let (ours, other) = (World::new("ours"), World::new("other"));
    let alice = ours.peer(11, TCP);
    let stranger = other.peer(12, TCP);
    stranger.join(&alice).await;
    let refused = |view: &std::sync::Arc<owm_p2p::SwarmView>| {
        let failures = view.sources.iter().flat_map(|source| &source.failures);
        failures
            .map(|f| f.layer)
            .any(|l| l == owm_p2p::error::FailedLayer::Version)
    };
    stranger.until("the version", refused).await;
    alice
        .until("that it is gone", |view| view.peers.is_empty())
        .await;
    stranger.stop().await;
    alice.stop().await;
}

#[tokio::test]
async fn a_loopback_swarm_neither_dials_nor_announces_anything_else() {
    let world = World::new("loopback");
    let config = SwarmConfig {
        external: vec!["/ip4/203.0.113.7/tcp/4001".parse().unwrap()],
        ..World::config(TCP)
    };
    let alice = world.start(11, config, true, None).unwrap();
    let outside = format!("/ip4/192.0.2.1/tcp/4001/p2p/{}", libp2p_peer(12));
    let outside = vec![outside.parse().unwrap()];
    alice
        .handle
        .add_candidates("static", outside)
        .await
        .unwrap();
    let view = alice
        .until("why not", |view| {
            view.sources.iter().any(|s| !s.failures.is_empty())
                && view.reachability == Reachability::Public
        })
        .await;
    let failure = &view.sources[0].failures[0];
    assert_eq!(failure.layer, owm_p2p::error::FailedLayer::Policy);
    assert!(
        view.external
            .iter()
            .all(|a| NetworkPolicy::LoopbackOnly.allows(a)),
        "{view:#?}"
    );
    let wide = SwarmConfig {
        policy: NetworkPolicy::LoopbackOnly,
        listen: vec!["/ip4/0.0.0.0/tcp/0".parse().unwrap()],
        ..SwarmConfig::default()
    };
    assert!(world.start(13, wide, true, None).is_err());
    alice.stop().await;
}

fn libp2p_peer(n: u8) -> owm_p2p::PeerId {
    let key = owm_proto::NodeKey::from_seed(&[n; 32]);
    owm_p2p::peer::peer_id(&key.public()).unwrap()
}

#[tokio::test]
async fn a_swarm_ends_when_all_its_handles_are_dropped_and_leaves_no_task() {
    let world = World::new("end");
    let (alice, bob) = (world.peer(11, TCP), world.peer(12, TCP));
    alice.join(&bob).await;
    bob.connected(1).await;
    let Peer { handle, task, .. } = alice;
    drop(handle);
    task.await.unwrap();
    bob.until("that alice is gone", |view| view.peers.is_empty())
        .await;
    bob.stop().await;
    // The test's own task is none that a runtime counts.
    let metrics = tokio::runtime::Handle::current().metrics();
    let patience = tokio::time::timeout(crate::world::PATIENCE, async {
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    });
    patience.await.expect("no task is left");
}
