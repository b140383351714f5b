//! A network in which everybody could be connected with everybody, and nobody is.

use std::collections::BTreeSet;

use owm_p2p::{News, SwarmConfig};

use crate::world::{Peer, TCP, World, heartbeat_of};

const PEERS: u8 = 24;
const WANTED: usize = 6;

/// Twice those wanted, as `service/tending.rs` says.
const PEERS_MAX: usize = 2 * WANTED;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: `make test-long` runs it; the spans it waits out take a minute and a half"]
async fn long_connections_stay_bounded_and_everybody_still_hears_everybody() {
    let world = World::new("bounded");
    let config = SwarmConfig {
        peers_wanted: WANTED,
        ..World::config(TCP)
    };
    let start = |n: u8| world.start(100 + n, config.clone(), true, None).unwrap();
    let mut peers: Vec<Peer> = (0..PEERS).map(start).collect();
    for peer in &peers[1..] {
        peer.join(&peers[0]).await;
    }
    // All the others know the first one only, so there are too many at first.
    peers[0].connected(PEERS_MAX + 1).await;
    for peer in &peers {
        let capability = world.capability(&peer.key, 1);
        peer.handle.announce(capability).await.unwrap();
    }
    for peer in &peers {
        let bounded = peer.until("all nodes over a bounded number of connections", |view| {
            view.nodes.len() == usize::from(PEERS) && view.peers.len() <= PEERS_MAX
        });
        bounded.await;
    }
    assert!(peers[0].handle.counts().let_go > 0);
    let keys: BTreeSet<_> = peers.iter().map(|peer| peer.key.public()).collect();
    for peer in &peers {
        let heartbeat = world.heartbeat(&peer.key, 1);
        peer.handle.announce(heartbeat).await.unwrap();
    }
    for peer in &mut peers {
        let mut missing = keys.clone();
        missing.remove(&peer.key.public());
        while !missing.is_empty() {
            let from = |news: &News| {
                let of = |key: &&_| heartbeat_of(**key)(news).is_some();
                missing.iter().find(of).copied()
            };
            let from = peer.news("heartbeats of all the others", from).await;
            missing.remove(&from);
        }
    }
    for peer in peers {
        peer.stop().await;
    }
}
