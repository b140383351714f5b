//! What loopback can't show: peers of one local network find each other by mDNS, and one address gets only its
//! share of a peer's connections. In network namespaces ([`owm_e2e::namespaces`]).

use std::{net::Ipv4Addr, time::Duration};

use anyhow::Result;
use owm_e2e::{
    namespaces::{Internet, Namespace},
    peers::{Peer, network},
};
use owm_p2p::{Documents, SwarmConfig, SwarmView};

/// For some round trips; reached only when something is broken.
const LIMIT: Duration = Duration::from_mins(3);

async fn start(
    namespace: &Namespace,
    seed: u8,
    documents: &Documents,
    config: SwarmConfig,
) -> Result<Peer> {
    let documents = documents.clone();
    namespace
        .enter(async move { Peer::start(seed, config, documents) })
        .await?
}

fn listening(address: Ipv4Addr, port: u16) -> Result<SwarmConfig> {
    Ok(SwarmConfig {
        listen: vec![format!("/ip4/{address}/tcp/{port}").parse()?],
        ..SwarmConfig::default()
    })
}

#[tokio::test]
#[ignore = "makes network namespaces: `make test` runs it where it may"]
async fn netns_peers_of_one_local_network_find_each_other_by_mdns_if_they_want_to() {
    let documents = network("mdns").unwrap();
    let internet = Internet::new().unwrap();
    let (one, one_ip) = internet.public("one", 1).unwrap();
    let (two, two_ip) = internet.public("two", 2).unwrap();
    let (quiet, quiet_ip) = internet.public("quiet", 3).unwrap();
    let wants = |ip| {
        let config = listening(ip, 4001).unwrap();
        SwarmConfig {
            mdns: true,
            ..config
        }
    };
    // It does not want to, and is there before the others.
    let config = listening(quiet_ip, 4001).unwrap();
    let quiet = start(&quiet, 13, &documents, config).await.unwrap();
    let one = start(&one, 11, &documents, wants(one_ip)).await.unwrap();
    let two = start(&two, 12, &documents, wants(two_ip)).await.unwrap();
    for (peer, other) in [(&one, two.key), (&two, one.key)] {
        let met = |view: &SwarmView| view.peers.iter().any(|peer| peer.key == other);
        peer.sees("the neighbour", LIMIT, met).await.unwrap();
    }
    let found = |view: &SwarmView| view.sources.iter().any(|source| source.name == "mdns");
    assert!(found(&one.view()) || found(&two.view()));
    // It neither tells of itself nor listens to the others.
    assert!(quiet.view().peers.is_empty() && !found(&quiet.view()));
    assert!(one.view().peers.iter().all(|peer| peer.key != quiet.key));
}

#[tokio::test]
#[ignore = "makes network namespaces: `make test` runs it where it may"]
async fn netns_one_address_gets_its_share_of_connections_and_others_theirs() {
    const EACH: u32 = 4;
    let documents = network("share").unwrap();
    let internet = Internet::new().unwrap();
    let (machine, ip) = internet.public("alice", 1).unwrap();
    let (crowd, crowd_ip) = internet.public("crowd", 2).unwrap();
    let (other, other_ip) = internet.public("other", 3).unwrap();
    let config = SwarmConfig {
        connections_per_address: EACH,
        ..listening(ip, 4001).unwrap()
    };
    let alice = start(&machine, 11, &documents, config).await.unwrap();
    let at = alice.at(&format!("/ip4/{ip}/tcp/4001")).unwrap();
    let mut peers = Vec::new();
    for n in 0..3 * EACH {
        // Not told where: alice dials nobody back.
        let config = SwarmConfig {
            listen: Vec::new(),
            ..listening(crowd_ip, 5000).unwrap()
        };
        let seed = 20 + u8::try_from(n).unwrap();
        let peer = start(&crowd, seed, &documents, config).await.unwrap();
        let known = vec![at.clone()];
        peer.handle.add_candidates("static", known).await.unwrap();
        peers.push(peer);
    }
    let full = |view: &SwarmView| view.peers.len() == EACH as usize;
    alice.sees("as many as may", LIMIT, full).await.unwrap();
    let refused = |_: &SwarmView| alice.handle.counts().inbound_refused >= u64::from(2 * EACH);
    let turned_away = alice.sees("the others turned away", LIMIT, refused);
    turned_away.await.unwrap();
    assert!(full(&alice.view()), "{:#?}", alice.view().peers);
    let config = listening(other_ip, 4001).unwrap();
    let late = start(&other, 99, &documents, config).await.unwrap();
    late.handle
        .add_candidates("static", vec![at])
        .await
        .unwrap();
    let met = |view: &SwarmView| view.peers.iter().any(|peer| peer.key == late.key);
    alice
        .sees("who has another address", LIMIT, met)
        .await
        .unwrap();
}
