//! Real connections on loopback, and addresses that are only claimed.

use std::{collections::BTreeSet, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Swarm,
    swarm::{self, SwarmEvent},
};
use owm_proto::NodeKey;

use super::*;
use crate::{Transport, peer};

/// Far above anything a test takes; reached only when something is broken.
const PATIENCE: Duration = Duration::from_mins(3);

fn swarm(n: u8, policy: NetworkPolicy) -> Swarm<Discreet> {
    let key = NodeKey::from_seed(&[n; 32]);
    let transport = Transport::clearnet(&key).unwrap().connections;
    let key = peer::keypair(&key);
    let config = identify::Config::new("/test/1".to_owned(), key.public())
        .with_cache_size(0)
        .with_push_listen_addr_updates(true);
    let settings =
        swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_mins(5));
    let me = key.public().to_peer_id();
    let mut swarm = Swarm::new(transport, Discreet::new(config, policy), me, settings);
    let here = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    swarm.listen_on(here).unwrap();
    swarm
}

async fn listening(swarm: &mut Swarm<Discreet>) -> Multiaddr {
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// What `one` is told by `other`, both of `policy`, until it is `expected`.
async fn told(policy: NetworkPolicy, expected: &[&str], shows_own: bool) {
    let (mut one, mut other) = (swarm(1, policy), swarm(2, policy));
    let (_, own) = (listening(&mut one).await, listening(&mut other).await);
    for address in ["/ip4/9.9.9.9/tcp/4001", "/ip4/192.168.1.7/tcp/4001"] {
        other.add_external_address(address.parse().unwrap());
    }
    one.dial(own.clone()).unwrap();
    let mut expected: BTreeSet<Multiaddr> = expected.iter().map(|a| a.parse().unwrap()).collect();
    if shows_own {
        expected.insert(own);
    }
    let meeting = async {
        let mut last = BTreeSet::new();
        for _ in 0..1_000 {
            tokio::select! {
                event = one.select_next_some() => {
                    if let SwarmEvent::Behaviour(identify::Event::Received { info, .. }) = event {
                        return info.listen_addrs.into_iter().collect();
                    }
                    last.clear();
                }
                _ = other.select_next_some() => {}
            }
        }
        last
    };
    let told: BTreeSet<Multiaddr> = tokio::time::timeout(PATIENCE, meeting).await.unwrap();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn strangers_are_told_global_addresses_only() {
    told(NetworkPolicy::Clearnet, &["/ip4/9.9.9.9/tcp/4001"], false).await;
}

#[tokio::test]
async fn on_a_network_of_this_machine_alone_all_is_told_that_it_allows() {
    told(NetworkPolicy::LoopbackOnly, &[], true).await;
}

#[tokio::test]
async fn a_new_address_is_pushed_to_whom_it_concerns() {
    let policy = NetworkPolicy::LoopbackOnly;
    let (mut one, mut other) = (swarm(3, policy), swarm(4, policy));
    let (_, own) = (listening(&mut one).await, listening(&mut other).await);
    one.dial(own.clone()).unwrap();
    let (mut told, mut second) = (BTreeSet::new(), false);
    let pushed = async {
        while told.len() < 2 {
            tokio::select! {
                event = one.select_next_some() => {
                    if let SwarmEvent::Behaviour(identify::Event::Received { info, .. }) = event {
                        told = info.listen_addrs.into_iter().collect();
                        if !std::mem::replace(&mut second, true) {
                            let more = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
                            other.listen_on(more).unwrap();
                        }
                    }
                }
                _ = other.select_next_some() => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, pushed).await.unwrap();
    assert!(told.contains(&own), "{told:?}");
}

#[tokio::test]
async fn neighbours_are_one_audience_and_who_comes_by_a_relay_is_a_stranger() {
    let discreet = swarm(5, NetworkPolicy::Clearnet);
    let audience = |at: &str| discreet.behaviour().audience(&at.parse().unwrap());
    let relay = PeerId::random();
    assert_eq!(audience("/ip4/192.168.1.9/tcp/1"), Group::Ip4([192, 168]));
    assert_eq!(audience("/ip4/10.7.0.1/tcp/1"), Group::Ip4([10, 7]));
    for stranger in [
        "/ip4/9.9.9.9/tcp/1".to_owned(),
        "/ip6/2620:fe::9/tcp/1".to_owned(),
        "/ip4/127.0.0.1/tcp/1".to_owned(),
        format!("/ip4/192.168.1.9/tcp/1/p2p/{relay}/p2p-circuit"),
    ] {
        assert_eq!(audience(&stranger), Group::Other, "{stranger}");
    }
}
