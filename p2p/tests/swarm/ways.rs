//! Any one way in is enough; none is waited for; who was met is remembered.

use std::{future::pending, sync::Arc};

use futures::future::BoxFuture;
use owm_p2p::{
    Multiaddr, SwarmView,
    bootstrap::{
        COORDINATOR, DNS, DnsSource, INVITE, MDNS, REMEMBERED, STATIC, Source, SourceError,
        StaticSource, Ways,
    },
    error::FailedLayer,
    peer::{Book, Origin},
};
use owm_p2p::{NetworkPolicy, SwarmConfig};

use crate::{
    outside::{Names, TCP, black_hole, closed_port},
    world::{Peer, World},
};

const POLICY: NetworkPolicy = NetworkPolicy::LoopbackOnly;

/// Never answers.
#[derive(Debug)]
struct Silent;

impl Source for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }

    fn addresses(&self) -> BoxFuture<'_, Result<Vec<Multiaddr>, SourceError>> {
        Box::pin(pending())
    }
}

fn config(ways: Ways) -> SwarmConfig {
    SwarmConfig {
        ways,
        ..World::config(TCP)
    }
}

fn port_of(address: &Multiaddr) -> u16 {
    let text = address.to_string();
    text.split('/').nth(4).unwrap().parse().unwrap()
}

fn book_of(world: &World, address: &Multiaddr, peer: owm_p2p::PeerId) -> Book {
    let mut book = Book::new(POLICY);
    let source = Origin::source("static");
    book.reached(peer, address, &source, world.clock.wall());
    book
}

fn reached(view: &SwarmView, way: &str) -> usize {
    let source = view.sources.iter().find(|source| source.name == way);
    source.map_or(0, |source| source.reached)
}

/// A newcomer for whom only `way` leads to alice, and everything else to closed ports.
async fn newcomer(world: &World, alice: &Peer, way: &'static str) -> Peer {
    let (good, dead) = (alice.address().await, closed_port().await);
    let of = |name: &str| {
        if name == way {
            good.clone()
        } else {
            dead.clone()
        }
    };
    let resolver = Arc::new(Names::localhost());
    let dns = DnsSource::new(vec!["localhost".into()], POLICY, resolver.clone());
    let stranger = owm_p2p::peer::peer_id(&owm_proto::NodeKey::from_seed(&[99; 32]).public());
    let remembered = match way {
        REMEMBERED => book_of(world, &good, alice.handle.peer()),
        _ => book_of(world, &dead, stranger.unwrap()),
    };
    let ways = Ways {
        sources: vec![
            Arc::new(StaticSource::new(STATIC, vec![of(STATIC)])),
            Arc::new(StaticSource::parse(INVITE, &[of(INVITE).to_string()]).unwrap()),
            Arc::new(dns.with_port(port_of(&of(DNS)))),
        ],
        resolver,
        remembered: Some(remembered),
    };
    let newcomer = world.start(12, config(ways), false, None).unwrap();
    for name in [COORDINATOR, MDNS] {
        let candidates = vec![of(name)];
        newcomer
            .handle
            .add_candidates(name, candidates)
            .await
            .unwrap();
    }
    newcomer
}

#[tokio::test]
async fn each_way_in_is_enough_while_all_others_are_dead_and_they_say_why() {
    let world = World::new("ways");
    let alice = world.peer(11, TCP);
    for way in [STATIC, INVITE, DNS, COORDINATOR, REMEMBERED, MDNS] {
        let newcomer = newcomer(&world, &alice, way).await;
        let seen = |view: &Arc<SwarmView>| view.peers.len() == 1 && reached(view, way) == 1;
        newcomer.until(way, seen).await;
        let told = |view: &Arc<SwarmView>| {
            let dead = view
                .sources
                .iter()
                .filter(|s| s.name != way && s.name != DNS);
            dead.clone().count() == 5 - usize::from(way != DNS)
                && dead.clone().all(|source| {
                    let mut layers = source.failures.iter().map(|failure| failure.layer);
                    source.reached == 0 && layers.any(|layer| layer == FailedLayer::Transport)
                })
        };
        newcomer.until("each dead way says why", told).await;
        newcomer.stop().await;
    }
    alice.stop().await;
}

#[tokio::test]
async fn start_up_waits_for_no_way_in() {
    let world = World::new("dead");
    let (hole, _listener) = black_hole().await;
    let resolver = Arc::new(Names::silent());
    let ways = Ways {
        sources: vec![
            Arc::new(Silent),
            Arc::new(StaticSource::new(STATIC, vec![hole])),
            Arc::new(DnsSource::new(
                vec!["localhost".into()],
                POLICY,
                resolver.clone(),
            )),
        ],
        resolver,
        remembered: None,
    };
    let bob = world.start(12, config(ways), true, None).unwrap();
    // All of them are waiting for something that never comes; the peer works.
    let heartbeat = world.heartbeat(&bob.key, 1);
    bob.handle.announce(heartbeat).await.unwrap();
    let alice = world.peer(11, TCP);
    alice.join(&bob).await;
    bob.connected(1).await;
    bob.stop().await;
    alice.stop().await;
}

#[tokio::test]
async fn names_in_addresses_are_resolved_by_what_the_daemon_passes_in() {
    let world = World::new("names");
    let alice = world.peer(11, TCP);
    let port = port_of(&alice.address().await);
    let named = |name: &str| format!("/dns4/{name}/tcp/{port}").parse().unwrap();
    let ways = Ways {
        sources: vec![Arc::new(StaticSource::new(
            STATIC,
            vec![named("localhost")],
        ))],
        resolver: Arc::new(Names::localhost()),
        remembered: None,
    };
    let bob = world.start(12, config(ways), false, None).unwrap();
    bob.connected(1).await;
    // The policy of this machine alone: no other name is even asked for.
    let other = vec![named("seed.example")];
    bob.handle.add_candidates(COORDINATOR, other).await.unwrap();
    let told = |view: &Arc<SwarmView>| {
        let mut failures = view.sources.iter().flat_map(|source| &source.failures);
        failures.any(|failure| failure.layer == FailedLayer::Policy)
    };
    bob.until("the policy is named", told).await;
    bob.stop().await;
    alice.stop().await;
}

#[tokio::test]
async fn who_was_met_is_remembered_over_a_restart() {
    let world = World::new("memory");
    let alice = world.peer(11, TCP);
    let bob = world.start(12, World::config(TCP), false, None).unwrap();
    bob.join(&alice).await;
    bob.until("alice", |view| reached(view, STATIC) == 1).await;
    let bytes = bob.handle.remembered().await.unwrap();
    bob.stop().await;
    let book = Book::from_json(POLICY, &bytes, world.clock.wall()).unwrap();
    assert!(book.get(&alice.handle.peer()).unwrap().tried);
    let ways = Ways {
        remembered: Some(book),
        ..Ways::default()
    };
    let bob = world.start(12, config(ways), false, None).unwrap();
    bob.until("alice again", |view| reached(view, REMEMBERED) == 1)
        .await;
    bob.stop().await;
    alice.stop().await;
}
