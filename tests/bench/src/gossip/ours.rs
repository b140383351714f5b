//! Our peer, as the daemons start it: `owm-p2p`'s service with its envelope, rules and scoring, over the
//! counted transport.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use owm_p2p::{Handle, NetworkPolicy, News, OwnMessage, Start, SwarmConfig, Transport};
use owm_proto::{NodeKey, Purpose, UnixMillis};
use owm_service::clock::SharedClock;
use prost::Message as _;
use tokio::sync::mpsc;

use crate::gossip::{
    peer::{self, Heard, Links, ORDERS, Order, Peer},
    wire::{self, Meter},
    world::World,
};

/// The bench's clock, as the swarm asks for it.
#[derive(Debug)]
struct SwarmClock(SharedClock);

impl owm_p2p::Clock for SwarmClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.now_ms())
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

/// Starts a peer on a free loopback port.
pub(crate) async fn start(
    key: &NodeKey,
    world: &World,
    meter: &Arc<Meter>,
    heard: mpsc::Sender<Heard>,
) -> Result<Peer> {
    let connections = wire::transport(&owm_p2p::peer::identity::keypair(key), meter)?;
    let start = Start {
        config: SwarmConfig {
            policy: NetworkPolicy::LoopbackOnly,
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
            ..SwarmConfig::default()
        },
        key,
        network: world.network,
        documents: Some(world.documents.clone()),
        newest: None,
        clock: Arc::new(SwarmClock(world.clock.clone())),
        seed: key.public().0,
    };
    let (handle, news, service) = owm_p2p::start_over(start, Transport::other(connections))?;
    tokio::spawn(service);
    let mut view = handle.view();
    let seen = view.wait_for(|view| !view.listening.is_empty()).await?;
    let address = seen.listening[0].clone();
    drop(seen);
    let address = address
        .with_p2p(handle.peer())
        .ok()
        .context("an own address")?;
    let (orders, taken) = mpsc::channel(ORDERS);
    tokio::spawn(hear(news, heard));
    let signer = Signer {
        key: NodeKey::from_seed(&key.to_seed()),
        world: world.clone(),
        handle,
    };
    tokio::spawn(signer.run(taken));
    Ok(Peer { address, orders })
}

async fn hear(mut news: mpsc::Receiver<News>, heard: mpsc::Sender<Heard>) {
    while let Some(news) = news.recv().await {
        if let News::Heartbeat { body, .. } = news {
            let (message, at) = (peer::number(&body), Instant::now());
            // Full only if the bench has stopped listening; what is lost counts as undelivered.
            let _ = heard.try_send(Heard { message, at });
        }
    }
}

/// The daemon's side: it signs, the swarm publishes.
struct Signer {
    key: NodeKey,
    world: World,
    handle: Handle,
}

impl Signer {
    async fn run(self, mut orders: mpsc::Receiver<Order>) {
        while let Some(order) = orders.recv().await {
            self.obey(order).await;
        }
    }

    async fn obey(&self, order: Order) {
        match order {
            Order::Dial(addresses) => {
                // A peer that can't be reached is missed by the count of connections.
                drop(self.handle.add_candidates("static", addresses).await);
            }
            Order::Publish(body) => {
                let (network, body) = (&self.world.network, body.encode_to_vec());
                let signed = OwnMessage::sign(&self.key, Purpose::Heartbeat, network, body);
                // A message that is refused counts as undelivered.
                drop(self.handle.announce_own(signed).await);
            }
            Order::Connections(answer) => {
                let view = self.handle.view();
                let links = Links {
                    connections: view.borrow().peers.len(),
                    shunned: view.borrow().peers.iter().filter(|p| p.score < 0.0).count(),
                };
                let _ = answer.send(links);
            }
        }
    }
}
