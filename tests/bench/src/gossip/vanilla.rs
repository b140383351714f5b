//! The peer to beat: gossipsub as rust-libp2p ships it. Default configuration (mesh of six, flood
//! publishing, messages signed and verified by gossipsub), no other behaviour beside it.

use std::{sync::Arc, time::Duration, time::Instant};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use libp2p::{
    Swarm, gossipsub,
    swarm::{SwarmEvent, dial_opts::DialOpts},
};
use owm_proto::{NodeKey, wire::coordinator::HeartbeatBody};
use prost::Message as _;
use tokio::sync::mpsc;

use crate::gossip::{
    peer::{self, Heard, Links, ORDERS, Order, Peer},
    wire::{self, Meter},
    world::World,
};

/// Connections outside the mesh stay open, as they do in ours.
const IDLE: Duration = Duration::from_hours(1);

/// Starts a peer on a free loopback port.
pub(crate) async fn start(
    key: &NodeKey,
    world: &World,
    meter: &Arc<Meter>,
    heard: mpsc::Sender<Heard>,
) -> Result<Peer> {
    let key = owm_p2p::peer::identity::keypair(key);
    let id = key.public().to_peer_id();
    let transport = wire::transport(&key, meter)?;
    let topic = gossipsub::IdentTopic::new(world.topic());
    let signed = gossipsub::MessageAuthenticity::Signed(key);
    let config = gossipsub::Config::default();
    let mut gossip = gossipsub::Behaviour::new(signed, config).map_err(anyhow::Error::msg)?;
    gossip.subscribe(&topic)?;
    let tokio = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
    let mut swarm = Swarm::new(transport, gossip, id, tokio);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let address = loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => break address,
            SwarmEvent::ListenerClosed { reason, .. } => bail!("cannot listen: {reason:?}"),
            _ => {}
        }
    };
    let address = address.with_p2p(id).ok().context("an own address")?;
    let (orders, taken) = mpsc::channel(ORDERS);
    tokio::spawn(run(swarm, topic, taken, heard));
    Ok(Peer { address, orders })
}

async fn run(
    mut swarm: Swarm<gossipsub::Behaviour>,
    topic: gossipsub::IdentTopic,
    mut orders: mpsc::Receiver<Order>,
    heard: mpsc::Sender<Heard>,
) {
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                None => return,
                Some(order) => obey(&mut swarm, &topic, order),
            },
            event = swarm.select_next_some() => {
                if let SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) = event
                    && let Ok(body) = HeartbeatBody::decode(message.data.as_slice())
                {
                    let (message, at) = (peer::number(&body), Instant::now());
                    // Full only if the bench has stopped listening; what is lost counts as undelivered.
                    let _ = heard.try_send(Heard { message, at });
                }
            }
        }
    }
}

fn obey(swarm: &mut Swarm<gossipsub::Behaviour>, topic: &gossipsub::IdentTopic, order: Order) {
    match order {
        Order::Dial(addresses) => {
            for address in addresses {
                // A peer that can't be reached is missed by the count of connections.
                drop(swarm.dial(DialOpts::from(address)));
            }
        }
        Order::Publish(body) => {
            let published = swarm
                .behaviour_mut()
                .publish(topic.clone(), body.encode_to_vec());
            // A message that can't be published counts as undelivered.
            drop(published);
        }
        Order::Connections(answer) => {
            let links = Links {
                connections: swarm.connected_peers().count(),
                shunned: 0,
            };
            let _ = answer.send(links);
        }
    }
}
